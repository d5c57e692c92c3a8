"""The command line: ``nbnorm train``, ``predict``, ``standardize`` and ``gradcheck``.

Exit status: 0 done; 1 failed (training diverged, a gradient is wrong, memory was short, nobody reads the
output any more); 2 bad input (options, or a file that cannot be read or written); 130 ended by Ctrl-C; 143
ended by SIGTERM.
"""

from __future__ import annotations

import argparse
import codecs
import contextlib
import copy
import importlib.util
import io
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import numpy as np
import numpy.typing as npt

from nbnorm import __version__, _check, _files, plots
from nbnorm.compile.clock import announced, clock, compile_seconds
from nbnorm.compile.threads import MOST_THREADS, get_num_threads, set_num_threads
from nbnorm.data import datasets, tables
from nbnorm.functions import activations
from nbnorm.model import defaults, metrics

if TYPE_CHECKING:
    from nbnorm.model.network import FNN
    from nbnorm.model.training import History

FAILED, BAD_INPUT, INTERRUPTED, TERMINATED = 1, 2, 130, 143
TEST_SIZE, SPLIT_SEED = 0.2, 0
VALIDATION_SIZE = 0.1
GRADIENT_BAR = 1e-6


# How often a training that diverges begins anew, each time at a tenth of the learning rate.
RETRIES = 3


@dataclass(frozen=True)
class _Defaults:
    hidden: tuple[int, ...]
    epochs: int
    batch_size: int
    optimizer: str
    sgd: tuple[float, float]  # learning rate and weight decay


# Chosen by measurement, along a cosine and for SGD with momentum 0.9.  The digits then stay above an
# accuracy of 0.97 for seeds 0 to 7.  MNIST needs the weight decay: it takes back the initial weights of
# pixels that hardly ever differ from 0, which standardization makes large; without it, 0.981 instead of
# 0.983.
_DIGITS = _Defaults((128, 128), 40, 64, "sgd", (0.1, 0.03))
_MNIST = _Defaults((512, 512), 10, 128, "sgd", (0.1, 0.01))
_MOMENTUM = 0.9
# AdamW on them, with relu: 0.986 on the digits (mean of the seeds 0 to 7), 0.984 on MNIST.
_IMAGES_LR, _IMAGES_DECAY = 0.002, 5.0

# Few rows make few steps: epochs are added until there are so many.
_LEAST_STEPS = 500


def _of_a_table(rows: int) -> _Defaults:
    """Return the defaults for a table of so many training samples: those of the estimators."""
    batch_size = defaults.batch_size(rows)
    epochs = max(50, -(-_LEAST_STEPS // -(-rows // batch_size)))
    return _Defaults((100,), epochs, batch_size, "adamw", (defaults.learning_rate("sgd", None, ()), 0.0))


# The estimators' epsilon of AdamW.
_EPSILON = 1e-3

# Without hidden layers the model is linear, and an L2 penalty on its weights is a ridge.  Classes are trained
# with one of these penalties.
_LINEAR_LR, _LINEAR_L2 = 0.02, (0.001, 0.03, 0.1, 0.5, 3.0, 30.0)
# Values have an exact solution, which is cheap up to so many samples or columns.  Its penalty is the one of
# these, as ridge regression counts them, that predicts each sample best from all others.
_MOST_EQUATIONS = 1000
_RIDGE = tuple(10.0 ** (k / 2) for k in range(-6, 7))

# A network is compared with linear models up to so many training samples, by cross-validation in so many
# folds; above, it has enough to learn from.
_COMPARED, _FOLDS = 5000, 5
# Its other candidate is a network with so many times the weight decay.
_STRONGER = 4.0

# Above so many epochs, not each of them gets a line.
_MOST_LINES = 60


@dataclass(frozen=True)
class _Data:
    """What is trained on, with a held-out part."""

    name: str
    X_train: npt.NDArray[Any]
    y_train: npt.NDArray[Any]
    X_test: npt.NDArray[Any]
    y_test: npt.NDArray[Any]
    task: str
    defaults: _Defaults | None  # None for a table, where they depend on its size
    classes: tuple[Any, ...] | None
    metadata: dict[str, Any]
    note: str = ""
    validation: tuple[npt.NDArray[Any], npt.NDArray[Any]] | None = None

    @property
    def outputs(self) -> int:
        if self.classes is not None:
            return len(self.classes)
        return 1 if self.y_train.ndim == 1 else self.y_train.shape[1]


class _OutputError(Exception):
    """Standard output takes no more: its reader has gone, or the disk is full."""


@contextlib.contextmanager
def _output() -> Iterator[Any]:
    """Write to standard output, now and not when Python ends."""
    try:
        yield sys.stdout
        sys.stdout.flush()
    except OSError as error:
        raise _OutputError(error) from error


def _say(line: str) -> None:
    with _output() as out:
        print(line, file=out)


def _plural(count: int, thing: str) -> str:
    return f"{count:,} {thing}" + ("" if count == 1 else "es" if thing.endswith("s") else "s")


def _same_file(a: _files.PathLike, b: _files.PathLike) -> bool:
    if os.path.exists(a) and os.path.exists(b):
        return os.path.samefile(a, b)
    return os.path.realpath(a) == os.path.realpath(b)


# ----------------------------------------------------------------------------------------------
# train
# ----------------------------------------------------------------------------------------------


def _split(X: npt.NDArray[Any], target: tables.Target, args: argparse.Namespace) -> tuple[Any, ...]:
    test_size = TEST_SIZE if args.test_size is None else args.test_size
    seed = SPLIT_SEED if args.split_seed is None else args.split_seed
    parts = datasets.train_test_split(
        X, target.y, test_size=test_size, seed=seed, stratify=target.task == "classification"
    )
    return parts, {"test_size": test_size, "split_seed": seed}


def _refuse_options(args: argparse.Namespace, what: str, *names: str) -> None:
    for name in names:
        if getattr(args, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')} does not apply to {what}")


def _is_npz(path: str) -> bool:
    return Path(path).suffix.lower() == ".npz"


def _load(args: argparse.Namespace) -> _Data:
    """Return the data that the command line names, split into training and held-out samples."""
    if args.data == "mnist":
        _refuse_options(args, "mnist", "target", "task", "test_size", "split_seed")
        (X_train, y_train), (X_test, y_test) = datasets.load_mnist(args.data_dir, progress=_say)
        classes = tuple(range(10))
        metadata: dict[str, Any] = {"data": "mnist", "task": "classification", "classes": list(classes)}
        return _Data("mnist", X_train, y_train, X_test, y_test, "classification", _MNIST, classes, metadata)
    _refuse_options(args, args.data, "data_dir")
    if args.data == "digits":
        _refuse_options(args, "digits", "target", "task")
        X, y = datasets.load_digits()
        target = tables.Target("classification", y, tuple(range(10)))
        metadata = {"data": "digits"}
        defaults: _Defaults | None = _DIGITS
        note = ""
    else:
        if _is_npz(args.data):
            _refuse_options(args, args.data, "target")
        table = tables.read_table(args.data, target=args.target)
        target = table.encode(args.task or "auto")
        if target.classes is None:
            y = target.y.reshape(len(target.y), -1)
            tables.refuse_range(table.path, [str(table.target)] * y.shape[1], y)
        X = table.X
        metadata = {
            "data": Path(args.data).name,
            "features": None if table.features is None else list(table.features),
            "target": table.target,
        }
        defaults = None
        note = f"Target: {table.target}, {target.task}"
        if args.target is None and table.features is not None:
            note += " (the last column; --target names another)"
    if target.classes is not None and len(target.classes) < 2:
        raise ValueError(f"{args.data} must have at least two classes, got only {target.classes[0]!r}")
    if target.classes is not None and 2 * np.count_nonzero(np.bincount(target.y) == 1) > len(target.y):
        raise ValueError(
            f"{args.data} must have several samples of a class: most are the only one of theirs, with "
            f"{len(target.classes):,} classes in all; is {metadata.get('target')!r} the target?"
        )
    (X_train, X_test, y_train, y_test), split = _split(X, target, args)
    metadata.update(
        task=target.task, classes=None if target.classes is None else list(target.classes), **split
    )
    if target.task == "regression":
        for option, given in (("balanced", args.balanced), ("label-smoothing", args.label_smoothing)):
            if given:
                raise ValueError(f"--{option} needs classes, and this target is numeric")
    elif args.loss is not None:
        raise ValueError("--loss needs a numeric target, and this one has classes: see --label-smoothing")
    name = args.data if args.data == "digits" else Path(args.data).stem
    return _Data(
        name, X_train, y_train, X_test, y_test, target.task, defaults, target.classes, metadata, note
    )


def _outputs(args: argparse.Namespace, name: str) -> dict[str, str | None]:
    """Return the files to write, after checking that they can be written."""
    save = None if args.no_save else args.save or f"nbnorm-{name}.npz"
    plot = None if args.no_plot else args.plot or f"nbnorm-{name}.png"
    files = {"save": save, "plot": plot, "report": args.report, "checkpoint": args.checkpoint}
    named = [(option, path) for option, path in files.items() if path is not None]
    for at, (option, path) in enumerate(named):
        if _same_file(path, args.data):
            raise ValueError(f"--{option} {path} would overwrite the data")
        for other, other_path in named[:at]:
            if _same_file(path, other_path):
                raise ValueError(f"--{other} and --{option} name the same file {path}")
        if option != "plot":
            _files.check_writable(path)
    if plot is not None:
        try:
            plots.check_format(plot)
        except ImportError as error:
            if args.plot is not None:
                raise
            _say(f"No plot will be drawn: {error}")
            files["plot"] = None
    return files


def _evaluate(net: FNN, data: _Data) -> dict[str, Any]:
    """Return what the network makes of the held-out samples."""
    if data.task == "classification":
        right = int(np.count_nonzero(net.predict(data.X_test) == data.y_test))
        return {"test_accuracy": right / len(data.y_test), "test_r2": None, "test_rmse": None}
    return _measure(net.predict(data.X_test), data.y_test)


def _measure(got: npt.NDArray[Any], y: npt.NDArray[Any]) -> dict[str, float | None]:
    """Return R2, averaged over outputs, and the root of the mean squared error."""
    outcome = metrics.Outcome("identity", got.reshape(len(y), -1), y, None)
    r2, rmse = (metrics.NAMED[name][0](outcome) for name in ("r2", "root_mean_squared_error"))
    return {"test_accuracy": None, "test_r2": r2 if math.isfinite(r2) else None, "test_rmse": rmse}


def _result(scores: dict[str, Any], count: int) -> str:
    if scores["test_accuracy"] is not None:
        accuracy = scores["test_accuracy"]
        return f"accuracy {accuracy:.4f} ({round(accuracy * count):,} of {count:,} right)"
    r2 = "" if scores["test_r2"] is None else f"R2 {scores['test_r2']:.4f}, "
    return f"{r2}root mean squared error {scores['test_rmse']:.6g}"


def _describe_data(data: _Data) -> None:
    aside = "" if data.validation is None else f", {len(data.validation[1]):,} validation"
    rows = f"{len(data.X_train):,} training{aside} and {len(data.X_test):,} held-out samples"
    kinds = "" if data.classes is None else f", {_plural(len(data.classes), 'class')}"
    _say(f"Data: {data.name}, {rows}, {_plural(data.X_train.shape[1], 'feature')}{kinds}")
    if data.note:
        _say(data.note)


def _describe(args: argparse.Namespace, net: FNN) -> None:
    layers = "no hidden layer"
    if args.hidden:
        norm = "no batch norm" if args.norm == "none" else f"batch norm {args.norm} the activation"
        layers = f"{args.activation}, {norm}" + (f", dropout {args.dropout:g}" if args.dropout else "")
    sizes = "-".join(str(size) for size in net.sizes)
    _say(f"Network: {sizes}, {layers}, {_plural(net.n_parameters, 'parameter')}")
    threads = _plural(get_num_threads(), "thread")
    momentum = "" if args.momentum is None else f"momentum {args.momentum:g}, "
    penalty = f", l2 {args.l2:g}" if args.l2 else ""
    _say(
        f"Training: {_plural(args.epochs, 'epoch')}, batches of {args.batch_size}, "
        f"{args.optimizer}, lr {args.lr:g} ({args.schedule}), {momentum}"
        f"weight decay {args.weight_decay:g}{penalty}, seed {args.seed}, {threads}"
    )


def _with_validation(args: argparse.Namespace, data: _Data) -> _Data:
    """Put a part of the training samples aside where the training looks at samples that it does not learn.

    The held-out samples would be no test any more if they had a say in when to stop.
    """
    if args.early_stopping is None and args.schedule != "plateau":
        return data
    X_train, X_val, y_train, y_val = datasets.train_test_split(
        data.X_train,
        data.y_train,
        test_size=VALIDATION_SIZE,
        seed=args.seed,
        stratify=data.task == "classification",
    )
    return replace(data, X_train=X_train, y_train=y_train, validation=(X_val, y_val))


def _complete(args: argparse.Namespace, data: _Data) -> None:
    """Fill in the options whose default depends on the data or on other options."""
    rows = len(data.X_train)
    given = data.defaults or _of_a_table(rows)
    if args.hidden is None:
        args.hidden = given.hidden
    elif args.hidden == [0]:
        args.hidden = []
    elif 0 in args.hidden:
        words = " ".join(str(size) for size in args.hidden)
        raise ValueError(f"--hidden must be 0 alone, for no hidden layer, or hold no 0, got {words}")
    if args.dropout and not args.hidden:
        raise ValueError("--dropout needs a hidden layer, and --hidden 0 leaves none")
    for name, value in (
        ("optimizer", given.optimizer),
        ("activation", "relu"),
        ("norm", "after"),
        ("dropout", 0.0),
        ("schedule", "cosine"),
        ("label_smoothing", 0.0),
        ("epochs", given.epochs),
        ("batch_size", given.batch_size),
    ):
        if getattr(args, name) is None:
            setattr(args, name, value)
    l2, args.epsilon = 0.0, _EPSILON
    args.penalties = getattr(args, "penalties", None)
    norm, layers = None if args.norm == "none" else args.norm, [args.activation] * len(args.hidden)
    if args.optimizer == "sgd":
        lr, weight_decay = given.sgd
        args.momentum = _MOMENTUM if args.momentum is None else args.momentum
    else:
        _refuse_options(args, "--optimizer adamw", "momentum")
        if not args.hidden:
            lr, weight_decay, l2 = _LINEAR_LR, 0.0, _LINEAR_L2[0]
        elif data.defaults is not None and defaults.scale_free("after", layers):
            lr, weight_decay, args.epsilon = _IMAGES_LR, _IMAGES_DECAY, 1e-8
        else:
            lr = defaults.learning_rate("adamw", norm, layers)
            rate = lr if args.lr is None else args.lr
            constant = args.schedule == "constant"
            weight_decay = defaults.weight_decay("adamw", norm, layers, rows, rate, constant=constant)
    for name, number in (("lr", lr), ("weight_decay", weight_decay), ("l2", l2)):
        if getattr(args, name) is None:
            setattr(args, name, number)


# Who names one of these wants it as it is: what is left open is not chosen by cross-validation then.
_CHOSEN = (
    "hidden", "activation", "norm", "dropout", "optimizer", "lr", "momentum", "weight_decay", "l2",
    "schedule", "early_stopping", "loss", "label_smoothing", "balanced",
)  # fmt: skip


def _candidates(args: argparse.Namespace, data: _Data) -> list[argparse.Namespace]:
    """Return the settings to choose from, complete, the default first."""
    settled = any(getattr(args, name) is not None for name in _CHOSEN)
    compared = data.defaults is None and not settled and len(data.X_train) <= _COMPARED

    def variant(**options: Any) -> argparse.Namespace:
        one = copy.copy(args)
        vars(one).update(options)
        _complete(one, data)
        return one

    default = variant()
    if not compared:
        return [default]
    if len(data.X_train) < 2 * _FOLDS:  # too few to compare anything
        return [variant(hidden=[0], penalties=_RIDGE)]
    linear = [variant(hidden=[0], penalties=_RIDGE)]
    if not _solvable(linear[0], data):
        linear = [variant(hidden=[0], l2=l2) for l2 in _LINEAR_L2]
    return [default, variant(weight_decay=_STRONGER * default.weight_decay), *linear]


def _choose(
    candidates: Sequence[argparse.Namespace], data: _Data
) -> tuple[argparse.Namespace, dict[str, Any]]:
    """Return the settings that do best in cross-validation, and what the report says of it."""
    if len(candidates) == 1:
        return candidates[0], {"cross_validation": None}
    start = clock()
    classifies = data.task == "classification"
    folds = datasets.folds(data.y_train, _FOLDS, seed=candidates[0].seed, stratify=classifies)
    errors = [_cross_validate(one, data, folds) for one in candidates]
    network, linear = (
        min(
            (number for number, one in enumerate(candidates) if bool(one.hidden) == hidden),
            key=lambda number: errors[number].mean(),
        )
        for hidden in (True, False)
    )
    # Two standard errors: the simpler model where chance may have made the difference.
    with np.errstate(invalid="ignore"):  # where training diverges
        gain = errors[linear] - errors[network]
        error = gain.std() / math.sqrt(len(gain))
        better = gain.mean() > 2.0 * error or not np.isfinite(errors[linear]).all()
    measure = "accuracy" if classifies else "R2"
    scores = {
        name: float(1.0 - errors[number].mean())
        for name, number in (("network", network), ("linear", linear))
    }
    compared = f"{scores['network']:.4f} of a network, {scores['linear']:.4f} of a linear model"
    taken = "the network is taken" if better else "no hidden layer"
    _say(f"Cross-validation: {measure} {compared}: {taken}")
    outcome = {
        "folds": int(folds.max()) + 1,
        **{name: score if math.isfinite(score) else None for name, score in scores.items()},
        "seconds": clock() - start,
    }
    return candidates[network if better else linear], {"cross_validation": outcome}


def _cross_validate(
    args: argparse.Namespace, data: _Data, folds: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Return the error for each sample of what is predicted when it is left out; inf if training diverges.

    Of classes it is 1 for a wrong one, of numbers the squared error as a part of the variance, so that the
    mean over the samples is 1 - accuracy or 1 - R2.
    """
    from nbnorm.model.training import DivergenceError

    got = np.empty(data.y_train.shape, data.y_train.dtype)
    if _solvable(args, data):  # an epoch learns the statistics
        args = copy.copy(args)
        args.epochs = 1
    for fold in range(int(folds.max()) + 1):
        held = folds == fold
        net = _network(args, data)
        try:
            history = _fit(args, net, data.X_train[~held], data.y_train[~held], progress=False)
        except DivergenceError:
            return np.full(len(got), np.inf)
        if history.stopped == "interrupted":
            raise KeyboardInterrupt
        if _solvable(args, data):
            _solve(net, data.X_train[~held], data.y_train[~held], args)
        got[held] = net.predict(data.X_train[held])
    if data.task == "classification":
        return np.asarray(got != data.y_train, np.float64)
    spread = data.y_train.std(axis=0)
    error = (got - data.y_train) / np.where(spread > 0, spread, 1.0)
    return np.asarray((error**2).reshape(len(error), -1).mean(axis=1))


def _network(args: argparse.Namespace, data: _Data) -> FNN:
    """Return a new network for the data."""
    from nbnorm.functions.losses import CrossEntropy
    from nbnorm.model.network import FNN

    classifies = data.task == "classification"
    return FNN(
        [data.X_train.shape[1], *args.hidden, data.outputs],
        activation=args.activation,
        norm=args.norm if args.norm != "none" and args.hidden else None,
        output="softmax" if classifies else "identity",
        loss=CrossEntropy(args.label_smoothing) if classifies else args.loss,
        dropout=args.dropout,
        # counts stay counts
        standardize_targets=not classifies and args.loss != "poisson",
        seed=args.seed,
    )


def _fit(
    args: argparse.Namespace, net: FNN, X: npt.NDArray[Any], y: npt.NDArray[Any], **options: Any
) -> History:
    from nbnorm.functions.optimizers import SGD, AdamW

    optimizer: SGD | AdamW
    if args.optimizer == "sgd":
        optimizer = SGD(lr=args.lr, momentum=args.momentum, weight_decay=args.weight_decay)
    else:
        optimizer = AdamW(lr=args.lr, eps=args.epsilon, weight_decay=args.weight_decay)
    return net.fit(
        X,
        y,
        epochs=args.epochs,
        batch_size=args.batch_size,
        optimizer=optimizer,
        schedule=args.schedule,
        class_weight="balanced" if args.balanced else None,
        l2=args.l2,
        seed=args.seed,
        **options,
    )


def _solvable(args: argparse.Namespace, data: _Data) -> bool:
    """Whether the model has an exact solution that is cheap."""
    ridge = data.task == "regression" and not args.hidden and args.loss in (None, "squared")
    alone = bool(args.l2) and not args.weight_decay and args.early_stopping is None
    return ridge and alone and data.defaults is None and min(data.X_train.shape) <= _MOST_EQUATIONS


def _solve(net: FNN, X: npt.NDArray[Any], y: npt.NDArray[Any], args: argparse.Namespace) -> float:
    """Replace the weights of a linear network by those that minimize squared error and penalty exactly.

    Of several penalties the one is taken whose squared errors are least when each sample is predicted from
    all others.  With standardized inputs X = U S V^T and targets Y, the weights are V D U^T Y with
    D = S / (S^2 + penalty), and the error of a sample that is left out is its residual divided by 1 - h,
    where h is its element on the diagonal of 1/n + U S D U^T (Golub, Heath and Wahba 1979).  Returns the
    penalty for each sample, as `FNN.fit` counts it.
    """
    assert net.standardizer is not None
    assert net.target_standardizer is not None
    inputs = net.standardizer.transform(X.astype(np.float64))
    targets = net.target_standardizer.transform(y.reshape(len(y), -1).astype(np.float64))
    u, s, vt = np.linalg.svd(inputs, full_matrices=False)
    projected = u.T @ targets
    best, least = None, math.inf
    for penalty in args.penalties or (args.l2 * len(X),):
        weight = s / (s * s + penalty)
        rest = 1.0 - 1.0 / len(X) - (u * u) @ (s * weight)
        residuals = targets - u @ ((s * weight)[:, None] * projected)
        left_out = float(np.sum((residuals / np.maximum(rest, 1e-10)[:, None]) ** 2))
        if best is None or left_out < least:
            best, least = (penalty, weight), left_out
    assert best is not None
    penalty, weight = best
    net.parameters()["dense1.weight"][:] = (vt.T @ (weight[:, None] * projected)).T
    net.parameters()["dense1.bias"][:] = 0.0
    return float(penalty / len(X))


def _print_epoch(epochs: int, held_out: str) -> Callable[[FNN, History], None]:
    """Return a callback that prints a line for each epoch, or for each second of many, in place of a bar."""
    from nbnorm.model.training import brief

    last = -math.inf

    def show(_: FNN, history: History) -> None:
        nonlocal last
        many = epochs > _MOST_LINES and 1 < history.epochs < epochs
        if many and time.perf_counter() - last < 1.0:
            return
        last = time.perf_counter()
        parts = [f"epoch {history.epochs:{len(str(epochs))}}/{epochs}", f"loss {brief(history.loss[-1])}"]
        if history.accuracy:
            parts.append(f"accuracy {history.accuracy[-1]:.4f}")
        if history.val_accuracy:
            parts.append(f"{held_out} {history.val_accuracy[-1]:.4f}")
        elif history.val_loss:
            parts.append(f"{held_out} {brief(history.val_loss[-1])}")
        _say("  ".join(parts))

    return show


def _train(args: argparse.Namespace) -> int:
    from nbnorm.model.training import DivergenceError, EarlyStopping

    compiled = compile_seconds()
    name = args.data if args.data in ("digits", "mnist") else Path(args.data).stem
    files = _outputs(args, name)
    data = _with_validation(args, _load(args))
    _describe_data(data)
    args, choice = _choose(_candidates(args, data), data)
    bar = sys.stderr.isatty() and importlib.util.find_spec("tqdm") is not None
    lines = _print_epoch(args.epochs, "held out" if data.validation is None else "validation")
    start, retries = clock(), 0
    while True:
        net = _network(args, data)
        net.metadata = data.metadata
        checkpoint = args.checkpoint
        if checkpoint is not None and retries:
            checkpoint += f".{retries}"  # that of the run that diverged is another training
        if retries == 0:
            _describe(args, net)
        if checkpoint is not None and os.path.exists(checkpoint):
            _say(f"Going on from {checkpoint}")
        try:
            history = _fit(
                args,
                net,
                data.X_train,
                data.y_train,
                validation_data=data.validation or (data.X_test, data.y_test),
                early_stopping=None
                if args.early_stopping is None
                else EarlyStopping(patience=args.early_stopping),
                checkpoint=checkpoint,
                progress=bar and not args.quiet,
                callbacks=() if bar or args.quiet else (lines,),
            )
            break
        except DivergenceError as error:
            if retries == RETRIES or error.row is not None:
                return _error(str(error), FAILED)
            retries += 1
            args.lr /= 10
            _say(
                f"Diverged after {_plural(error.history.epochs, 'epoch')}: "
                f"once more at a tenth of the learning rate, {args.lr:g}"
            )
    seconds, compiled = clock() - start, compile_seconds() - compiled
    if history.epochs == 0:
        return _error("interrupted before the end of the first epoch: nothing was saved", args.ending.status)
    if history.stopped == "interrupted":
        _say(f"Interrupted: the {_plural(history.epochs, 'epoch')} done so far are kept")
    if _solvable(args, data) and history.stopped is None:
        args.l2 = _solve(net, data.X_train, data.y_train, args)
        _say(f"Weights: the exact minimum of squared error and penalty {args.l2:g}, a ridge regression")
    if history.best_epoch is not None:
        _say(f"Best epoch: {history.best_epoch} of {history.epochs}, by the loss on samples put aside")
    scores = _evaluate(net, data)
    beside = f", and {compiled:.1f} s of compilation" if compiled else ""
    done = f"after {_plural(history.epochs, 'epoch')} in {seconds:.1f} s{beside}"
    _say(f"Test: {_result(scores, len(data.X_test))} {done}")
    times = {"retries": retries, **choice, "train_seconds": seconds, "compile_seconds": compiled}
    _write_results(args, data, net, history, times, scores, files)
    return args.ending.status if history.stopped == "interrupted" else 0


def _write_results(
    args: argparse.Namespace,
    data: _Data,
    net: FNN,
    history: History,
    times: dict[str, Any],
    scores: dict[str, Any],
    files: dict[str, str | None],
) -> None:
    if files["save"] is not None:
        net.metadata = {**data.metadata, **scores}
        net.save(files["save"])
        _say(f"Model: {files['save']}")
    curves = history.to_dict()
    if files["plot"] is not None:
        plots.learning_curve(curves, files["plot"], title=f"{data.name}: {_result(scores, len(data.X_test))}")
        _say(f"Learning curve: {files['plot']}")
    if files["report"] is not None:
        report = {
            "nbnorm": __version__,
            "data": data.name,
            "task": data.task,
            "train_samples": len(data.X_train),
            "test_samples": len(data.X_test),
            "sizes": [int(size) for size in net.sizes],
            "activation": args.activation if args.hidden else None,
            "norm": net.norm,
            "dropout": args.dropout,
            "loss_function": net.loss.name,
            "label_smoothing": args.label_smoothing,
            "batch_size": args.batch_size,
            "optimizer": args.optimizer,
            "lr": args.lr,
            "schedule": args.schedule,
            "momentum": args.momentum,
            "weight_decay": args.weight_decay,
            "l2": args.l2,
            "early_stopping": args.early_stopping,
            "balanced": bool(args.balanced),
            "seed": args.seed,
            "threads": get_num_threads(),
            "parameters": int(net.n_parameters),
            **scores,
            **times,
            **curves,
            "model": files["save"],
            "plot": files["plot"],
        }
        with _files.replace(files["report"], "w") as file:
            lines = (f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in report.items())
            file.write("{\n" + ",\n".join(lines) + "\n}\n")  # a line for each list
        _say(f"Report: {files['report']}")


# ----------------------------------------------------------------------------------------------
# predict
# ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Model:
    """What `train` noted beside a network; a network saved from Python may have none of it."""

    data: str | None
    classes: list[str | int] | None
    features: list[str] | None
    target: str | None
    test_size: float
    split_seed: int


def _model(path: str, net: FNN) -> _Model:
    """Return the checked notes of a model, which come from a file that anybody may have written."""
    got = net.metadata
    n_in, n_out = int(net.sizes[0]), int(net.sizes[-1])

    def entry(key: str, right: Callable[[Any], bool], default: Any) -> Any:
        value = got.get(key)
        if value is None:
            return default
        if not right(value):
            raise ValueError(f"{path}: {key} in the model's metadata is malformed")
        return value

    def listed(kinds: tuple[type, ...], length: int) -> Callable[[Any], bool]:
        # An exact type: True is no class number.
        return lambda value: (
            isinstance(value, list) and len(value) == length and all(type(item) in kinds for item in value)
        )

    def text(value: Any) -> bool:
        return isinstance(value, str)

    # Several sigmoid outputs are yes/no answers of their own, not classes.
    classifies = net.output == "softmax" or (net.output == "sigmoid" and n_out == 1)
    n_classes = max(n_out, 2)
    return _Model(
        data=entry("data", text, None),
        classes=entry("classes", listed((str, int), n_classes), list(range(n_classes)))
        if classifies
        else None,
        features=entry("features", listed((str,), n_in), None),
        target=entry("target", text, None),
        test_size=entry("test_size", lambda v: isinstance(v, float) and 0 < v < 1, TEST_SIZE),
        split_seed=entry("split_seed", lambda v: type(v) is int and v >= 0, SPLIT_SEED),
    )


def _samples(args: argparse.Namespace, model: _Model) -> tuple[tables.Table, str]:
    """Return the samples to predict and how to call them."""
    if args.file in ("digits", "mnist") or _is_npz(args.file):
        _refuse_options(args, args.file, "target")
    if args.file == "mnist":
        _, (X, y) = datasets.load_mnist(args.data_dir, progress=lambda line: print(line, file=sys.stderr))
        return tables.Table("mnist", X, None, "y", y), "the 10,000 test images of mnist"
    _refuse_options(args, args.file, "data_dir")
    if args.file == "digits":
        X, y = datasets.load_digits()
        if model.data != "digits":
            return tables.Table("digits", X, None, "y", y), f"all {len(X):,} digits"
        _, test = datasets.split_rows(y, test_size=model.test_size, seed=model.split_seed, stratify=True)
        what = f"the {len(test):,} digits held out from training"
        return tables.Table("digits", X[test], None, "y", y[test]), what
    # A column that is asked for has to be there; the one of the training may be missing.
    named = args.target is not None
    target = args.target if named else model.target
    table = tables.read_table(args.file, target=target, features=model.features, need_target=named)
    return table, f"{_plural(len(table.X), 'sample')} of {args.file}"


def _predict(args: argparse.Namespace) -> int:
    from nbnorm.model.network import FNN

    net = FNN.load(args.model)
    model = _model(args.model, net)
    if args.out is not None:
        for option, path in (("the model", args.model), ("the data", args.file)):
            if _same_file(args.out, path):
                raise ValueError(f"--out {args.out} would overwrite {option}")
        _files.check_writable(args.out)
    table, what = _samples(args, model)
    if table.X.shape[1] != net.sizes[0]:
        width = _plural(table.X.shape[1], "feature")
        raise ValueError(f"{args.file} has {width}, and {args.model} was trained on {net.sizes[0]}")
    try:
        columns, score = _classify(net, model, table) if model.classes is not None else _regress(net, table)
    except ValueError as error:
        raise ValueError(f"{error}; {_farthest(net, table)}") from None
    if args.out is not None:
        with _files.replace(args.out, "w", newline="") as file:
            tables.write_csv(file, columns)
    elif score is None:  # nothing else to show
        with _output() as out:
            tables.write_csv(out, columns)
    if score is not None:
        _say(f"Predicted {what}: {score}")
    if args.out is not None:
        _say(f"Predictions: {args.out}")
    return 0


def _farthest(net: FNN, table: tables.Table) -> str:
    """Return which value lies farthest from the training data."""
    X = table.X.astype(np.float64)
    if net.standardizer is not None:
        X = (X - net.standardizer.mean_) / net.standardizer.scale_
    row, column = (int(i) for i in np.unravel_index(np.argmax(np.abs(X)), X.shape))
    return (
        f"the value farthest from the training data is {table.X[row, column]:g} in {table.place(row, column)}"
    )


def _left_out(count: int, why: str) -> str:
    return f"; {_plural(count, 'sample')} left out, whose target is {why}" if count else ""


def _classify(net: FNN, model: _Model, table: tables.Table) -> tuple[dict[str, Sequence[Any]], str | None]:
    classes = model.classes or []
    probability = np.asarray(net.predict_proba(table.X))
    if probability.ndim == 1 or probability.shape[1] == 1:
        positive = probability.reshape(-1)
        probability = np.stack([1 - positive, positive], axis=1)
    got = probability.argmax(axis=1)
    columns = {
        "prediction": [classes[number] for number in got],
        "probability": probability[np.arange(len(got)), got].tolist(),
    }
    if table.values is None:
        return columns, None
    expected = table.class_numbers(classes)
    known = expected >= 0
    if not known.any():
        return columns, None
    count, right = int(known.sum()), int(np.count_nonzero(got[known] == expected[known]))
    left_out = _left_out(len(known) - count, "missing or no class of the model")
    return columns, f"accuracy {right / count:.4f} ({right:,} of {count:,} right{left_out})"


def _regress(net: FNN, table: tables.Table) -> tuple[dict[str, Sequence[Any]], str | None]:
    if net.output == "sigmoid":
        answers = net.predict(table.X)
        return {f"prediction{i + 1}": answers[:, i].tolist() for i in range(answers.shape[1])}, None
    got = net.predict(table.X)
    if got.ndim == 1:
        columns: dict[str, Sequence[Any]] = {"prediction": got.tolist()}
    else:
        columns = {f"prediction{i + 1}": got[:, i].tolist() for i in range(got.shape[1])}
    expected = table.numbers()
    if table.values is None or expected.shape != got.shape:
        return columns, None
    known = np.asarray(np.isfinite(expected.reshape(len(expected), -1)).all(axis=1))
    if not known.any():
        return columns, None
    scores = _measure(got[known], expected[known])
    left_out = _left_out(len(known) - int(known.sum()), "missing or no number")
    return columns, _result(scores, int(known.sum())) + left_out


# ----------------------------------------------------------------------------------------------
# standardize, gradcheck
# ----------------------------------------------------------------------------------------------


def _standardize(args: argparse.Namespace) -> int:
    from nbnorm.data.streams import standardize_file

    if args.inverse and args.stats is None:
        raise ValueError("--inverse needs --stats, the statistics that the data were standardized with")
    known = args.stats is not None and os.path.exists(args.stats)
    if args.inverse and not known:
        raise ValueError(f"--stats {args.stats} does not exist, and --inverse has to read it")
    for other in (args.source, args.stats):
        if other is not None and _same_file(args.destination, other):
            raise ValueError(
                f"{args.destination} would be overwritten while it is needed: choose another name"
            )
    if args.stats is not None and _same_file(args.source, args.stats):
        raise ValueError(f"--stats {args.stats} is the data: choose another name for the statistics")
    standardize_file(
        args.source,
        args.destination,
        stats=args.stats if known else None,
        save_stats=None if known else args.stats,
        inverse=args.inverse,
        keep=args.keep,
        progress=False if args.quiet else None,
    )
    where = "its own statistics" if args.stats is None else f"the statistics in {args.stats}"
    if args.stats is not None and not known:
        where = f"its own statistics, kept in {args.stats}"
    verb = "Restored" if args.inverse else "Standardized"
    _say(f"{verb} {args.source} with {where}: {args.destination}")
    return 0


def _gradcheck(args: argparse.Namespace) -> int:
    from nbnorm.functions.gradcheck import table

    rows = [(str(function), str(option), float(error)) for function, option, error in table()]
    functions, options = (max(len(str(row[i])) for row in rows) for i in (0, 1))
    for function, option, error in rows:
        _say(f"{function:{functions}}  {option:{options}}  {error:.1e}")
    # A comparison that NaN fails.
    worst = max((error for *_, error in rows), key=lambda error: math.inf if math.isnan(error) else error)
    good = worst <= GRADIENT_BAR
    _say(f"largest relative error {worst:.1e}, {'within' if good else 'ABOVE'} {GRADIENT_BAR:.0e}")
    return 0 if good else FAILED


# ----------------------------------------------------------------------------------------------
# The parser
# ----------------------------------------------------------------------------------------------


def _error(message: str, status: int) -> int:
    print("nbnorm: error: " + " ".join(message.split()), file=sys.stderr, flush=True)
    return status


class _Parser(argparse.ArgumentParser):
    """An argument parser with errors of one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(_error(f"{message} (see '{self.prog} --help')", BAD_INPUT))


T = TypeVar("T", int, float)


def _checked(check: Callable[[], T]) -> T:
    try:
        return check()
    except (TypeError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _integer(least: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}") from None
        return _checked(lambda: _check.integer("the value", value, least=least))

    return convert


def _real(**bounds: float) -> Callable[[str], float]:
    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected a number, got {text!r}") from None
        return _checked(lambda: _check.number("the value", value, **bounds))

    return convert


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], summary: str, more: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary[0].lower() + summary[1:],
        description=summary + ".",
        epilog=more,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


_TRAIN_MORE = """\
A CSV file has a header line with column names, numbers in every feature column, and
text or numbers in the target column. An NPZ file has arrays X and y. A target of text,
or of whole numbers with at most 20 different labels, is classification; any other is
regression; --task says which. Labels stay as they are written: 7, 07 and 7.0 differ.
A fifth of the samples is held out, the same ones in every run, to test the network.

A table of up to 5,000 training samples trains a network or a linear model, whichever
cross-validation favours; name --hidden to have it your way. A training that diverges
begins again at a tenth of the learning rate, three times at most.

Ctrl-C and SIGTERM end the training early and keep the epochs done so far. With
--checkpoint the same command goes on where it was stopped, even by a power cut, to the
same bits.

examples:
  nbnorm train                                   the bundled digits
  nbnorm train mnist                             MNIST, downloaded once
  nbnorm train mnist --data-dir ~/mnist --hidden 512 512 --epochs 10 --batch-size 128
  nbnorm train wine.csv --target quality --save wine.npz --report wine.json
"""

_PREDICT_MORE = """\
Where FILE has the target, the accuracy is printed; where it has not and no --out is
given, the predictions are.

examples:
  nbnorm predict nbnorm-digits.npz digits        the digits held out from training
  nbnorm predict wine.npz new-wines.csv --out predictions.csv
"""

_STANDARDIZE_MORE = """\
(x - mean) / standard deviation for each column. A file of any size is read piece by
piece. Standardize new data with the statistics of the training data; name columns of
text and a numeric target with --except, the same ones every time:

examples:
  nbnorm standardize train.csv train-std.csv --stats stats.json     writes stats.json
  nbnorm standardize new.csv new-std.csv --stats stats.json         reads stats.json
  nbnorm standardize new-std.csv again.csv --stats stats.json --inverse
  nbnorm standardize houses.csv houses-std.csv --except street --except price
"""

_GRADCHECK_MORE = """\
Prints the largest relative error for each function and option. Exit status 1 if any is
above 1e-6.
"""


def _add_train(commands: Any) -> None:
    train = _command(
        commands,
        "train",
        _train,
        "Train a batch-normalised network and test it on held-out samples",
        _TRAIN_MORE,
    )
    train.add_argument(
        "data",
        nargs="?",
        default="digits",
        metavar="DATA",
        help="digits (bundled, the default), mnist, or a file that ends in .csv or .npz",
    )
    data = train.add_argument_group("data")
    data.add_argument("--data-dir", metavar="DIR", help="where the four MNIST files lie, gzipped or not")
    data.add_argument("--target", metavar="COLUMN", help="target column of a CSV file (default: the last)")
    data.add_argument("--task", choices=tables.TASKS[1:], help="what the target is (default: see below)")
    data.add_argument(
        "--test-size", metavar="X", type=_real(above=0, below=1), help="share held out (default: 0.2)"
    )
    data.add_argument(
        "--split-seed", metavar="N", type=_integer(0), help="which samples are held out (default: 0)"
    )
    network = train.add_argument_group("network")
    network.add_argument(
        "--hidden",
        metavar="N",
        nargs="+",
        type=_integer(0),
        help="features of each hidden layer, 0 for none (default: 512 512 for mnist, 128 128 for digits, "
        "for tables 100, or none where a linear model does better in cross-validation)",
    )
    network.add_argument(
        "--activation",
        choices=sorted(activations.CODES),
        help="of the hidden layers (default: relu)",
    )
    network.add_argument(
        "--norm",
        choices=("after", "before", "none"),
        help="batch norm after the activation, before it, or none (default: after)",
    )
    network.add_argument(
        "--dropout",
        metavar="X",
        type=_real(least=0, below=1),
        help="share of each hidden layer's units that a step leaves out (default: 0)",
    )
    training = train.add_argument_group("training")
    training.add_argument(
        "--epochs",
        metavar="N",
        type=_integer(1),
        help="passes over the training samples (default: 10 for mnist, 40 for digits, for tables 50, or as "
        f"many as make {_LEAST_STEPS} steps)",
    )
    training.add_argument(
        "--batch-size",
        metavar="N",
        type=_integer(2),
        help="most samples in a step (default: 128 for mnist, 64 for digits, for tables a fiftieth of them, "
        "from 32 to 256)",
    )
    training.add_argument(
        "--loss",
        choices=("squared", "absolute", "huber", "poisson"),
        help="for a numeric target; poisson is for counts (default: squared)",
    )
    training.add_argument(
        "--label-smoothing",
        metavar="X",
        type=_real(least=0, below=1),
        help="share of the targets that is spread over all classes (default: 0)",
    )
    training.add_argument(
        "--optimizer", choices=("sgd", "adamw"), help="(default: adamw for tables, otherwise sgd)"
    )
    training.add_argument(
        "--lr",
        metavar="X",
        type=_real(above=0),
        help="learning rate at the start (default: 0.1 for sgd, 0.002 for adamw; for tables 0.02, or 0.005 "
        "for adamw with relu and norm after); a training that diverges begins again at a tenth",
    )
    training.add_argument(
        "--schedule",
        choices=("cosine", "constant", "step", "one_cycle", "plateau"),
        help="of the learning rate: falling to 0 along half a cosine, constant, a tenth after each third of "
        "the epochs, up and down, or a tenth where it helps no more (default: cosine)",
    )
    training.add_argument(
        "--early-stopping",
        metavar="N",
        type=_integer(1),
        help="stop after N epochs without a smaller loss on a tenth of the training samples, put aside",
    )
    training.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="keep the state of the training in FILE, and go on from it if it exists",
    )
    training.add_argument(
        "--balanced", action="store_true", default=None, help="give every class the same total weight"
    )
    training.add_argument(
        "--momentum", metavar="X", type=_real(least=0, below=1), help=f"of sgd (default: {_MOMENTUM})"
    )
    training.add_argument(
        "--weight-decay",
        metavar="X",
        type=_real(least=0),
        help="decoupled, on weights only (default: for sgd 0.03 with digits, 0.01 with mnist, 0 with tables; "
        "for adamw 5 with relu, 0.2 with others or without norm, less for many rows)",
    )
    training.add_argument(
        "--l2",
        metavar="X",
        type=_real(least=0),
        help="penalty X / 2 times the sum of the squared weights (default: 0; for tables with no hidden "
        f"layer {_LINEAR_L2[0]:g})",
    )
    training.add_argument(
        "--seed", metavar="N", type=_integer(0), default=0, help="of weights and order (default: 0)"
    )
    training.add_argument("--threads", metavar="N", type=_integer(1), help="at most so many (default: all)")
    training.add_argument("--quiet", action="store_true", help="no progress")
    results = train.add_argument_group("results")
    save = results.add_mutually_exclusive_group()
    save.add_argument("--save", metavar="MODEL", help="the model (default: nbnorm-DATA.npz)")
    save.add_argument("--no-save", action="store_true", help="save no model")
    plot = results.add_mutually_exclusive_group()
    plot.add_argument("--plot", metavar="FILE", help="the learning curve (default: nbnorm-DATA.png)")
    plot.add_argument("--no-plot", action="store_true", help="draw no learning curve")
    results.add_argument("--report", metavar="FILE", help="write settings and results as JSON")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="nbnorm",
        description="Standardize data, train batch-normalised networks, predict with them.",
        epilog="Begin with: nbnorm train",
    )
    parser.add_argument("--version", action="version", version=f"nbnorm {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_train(commands)

    predict = _command(commands, "predict", _predict, "Predict with a trained model", _PREDICT_MORE)
    predict.add_argument("model", metavar="MODEL", help="a file that nbnorm train has saved")
    predict.add_argument("file", metavar="FILE", help="digits, mnist, or a file that ends in .csv or .npz")
    predict.add_argument("--out", metavar="FILE", help="write the predictions as CSV")
    predict.add_argument(
        "--target", metavar="COLUMN", help="target column of a CSV file (default: as in training, if any)"
    )
    predict.add_argument("--data-dir", metavar="DIR", help="where the four MNIST files lie")
    predict.add_argument("--threads", metavar="N", type=_integer(1), help="at most so many (default: all)")

    standardize = _command(
        commands, "standardize", _standardize, "Standardize the columns of a file", _STANDARDIZE_MORE
    )
    standardize.add_argument("source", metavar="IN", help="the data")
    standardize.add_argument("destination", metavar="OUT", help="the file to write")
    standardize.add_argument(
        "--stats", metavar="FILE", help="statistics: read if FILE exists, otherwise fitted to IN and written"
    )
    standardize.add_argument("--inverse", action="store_true", help="undo it; needs --stats")
    standardize.add_argument(
        "--except",
        dest="keep",
        metavar="COLUMN",
        action="append",
        default=[],
        help="copy this column of a CSV or Parquet file unchanged, without statistics; may be repeated",
    )
    standardize.add_argument(
        "--threads", metavar="N", type=_integer(1), help="at most so many (default: all)"
    )
    standardize.add_argument("--quiet", action="store_true", help="no progress bar")

    gradcheck = _command(
        commands,
        "gradcheck",
        _gradcheck,
        "Compare every gradient of the package with a numerical one",
        _GRADCHECK_MORE,
    )
    gradcheck.set_defaults(threads=None)
    return parser


def _as_bytes(error: UnicodeError) -> tuple[str | bytes, int]:
    """Write what Python could not read of a file's name as it is, if that is UTF-8, otherwise escaped."""
    assert isinstance(error, UnicodeEncodeError)
    try:
        found = error.object[error.start : error.end].encode("utf-8", "surrogateescape")
        found.decode("utf-8")
    except UnicodeError:
        return codecs.backslashreplace_errors(error)
    return found, error.end


codecs.register_error("nbnorm", _as_bytes)


@contextlib.contextmanager
def _utf8() -> Iterator[None]:
    """Write UTF-8, whatever the console or the locale says."""
    before = []
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            before.append((stream, stream.encoding, stream.errors))
            stream.reconfigure(encoding="utf-8", errors="nbnorm")
    try:
        yield
    finally:
        for stream, encoding, errors in before:
            with contextlib.suppress(OSError, ValueError):  # closed meanwhile
                stream.reconfigure(encoding=encoding, errors=errors)


class _Ending:
    """Within its block SIGTERM ends a command as Ctrl-C does: files are whole, temporary ones removed.

    Attributes
    ----------
    status : int
        Exit status of a command that a signal has ended.
    """

    def __init__(self) -> None:
        self.status = INTERRUPTED
        self._takes = False

    def __enter__(self) -> None:
        # handlers belong to the main thread, and one that the caller has set is his own
        self._takes = (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        )
        if self._takes:
            signal.signal(signal.SIGTERM, self._end)

    def _end(self, number: int, frame: Any) -> NoReturn:
        self.status = TERMINATED
        raise KeyboardInterrupt

    def __exit__(self, *error: object) -> None:
        if self._takes:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _announcement(args: argparse.Namespace) -> Callable[[bool], None]:
    """Return what says that code is compiled, on the stream where a command shows its progress."""

    def say(kept: bool) -> None:
        text = "Compiling for this processor, which takes about 10 seconds and happens once"
        if not kept:
            text = (
                "Compiling for this processor, about 10 seconds, in every run: no folder for the code can be "
                "written; set NUMBA_CACHE_DIR to one"
            )
        if args.command == "train":
            if not args.quiet:
                _say(text)
        elif not getattr(args, "quiet", False):
            print(text, file=sys.stderr, flush=True)

    return say


def _subject(args: argparse.Namespace) -> str:
    """Return the data that a command works on."""
    names = (getattr(args, name, None) for name in ("data", "file", "source", "command"))
    return str(next(name for name in names if name is not None))


def _lost_output(error: _OutputError) -> int:
    """Report that standard output takes no more; a reader that has gone wants to hear nothing."""
    with contextlib.suppress(OSError, ValueError):
        # Python would complain once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    cause = error.args[0]
    return (
        FAILED if isinstance(cause, BrokenPipeError) else _error(f"standard output: {cause.strerror}", FAILED)
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name, by default those of the process.

    Returns
    -------
    int
        Exit status: 0 done, 1 failed, 2 bad input, 130 ended by Ctrl-C, 143 by SIGTERM.

    Raises
    ------
    SystemExit
        For ``--help``, ``--version`` and malformed arguments, as argparse does.

    Examples
    --------
    >>> main(["predict", "no-such-model.npz", "digits"])
    2
    """
    with _utf8():
        args = _parser().parse_args(argv)
        args.ending = _Ending()
        try:
            with args.ending, announced(_announcement(args)):
                if args.threads is not None:
                    set_num_threads(min(args.threads, MOST_THREADS))
                return int(args.run(args))
        except KeyboardInterrupt:
            return _error("interrupted", args.ending.status)
        except _OutputError as error:
            return _lost_output(error)
        except MemoryError as error:
            return _error(f"{_subject(args)}: out of memory" + (f": {error}" if str(error) else ""), FAILED)
        except OSError as error:
            named = error.filename is not None and error.strerror
            return _error(f"{error.filename}: {error.strerror}" if named else str(error), BAD_INPUT)
        except (ValueError, TypeError, ImportError) as error:
            return _error(str(error), BAD_INPUT)
        finally:
            if args.threads is not None:
                set_num_threads(None)
