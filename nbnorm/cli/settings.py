"""How `nbnorm train` trains: defaults, what cross-validation chooses, the exact ridge regression."""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from nbnorm.cli.common import refuse_options, say
from nbnorm.compile.clock import clock
from nbnorm.data import datasets
from nbnorm.data.row_groups import RowGroups
from nbnorm.model import defaults, metrics
from nbnorm.model.sample_weights import balancing_logits

if TYPE_CHECKING:
    from nbnorm.functions.optimizers import SGD, AdamW
    from nbnorm.model.history import History
    from nbnorm.model.network import FNN

# How often a training that diverges begins anew, each time at a tenth of the learning rate.
RETRIES = 3


@dataclass(frozen=True)
class Defaults:
    """Settings of a training where the command line names none."""

    hidden: tuple[int, ...]
    epochs: int
    batch_size: int
    optimizer: str
    sgd: tuple[float, float]  # learning rate and weight decay


# Chosen by measurement, with a cosine schedule and SGD with momentum 0.9.  The digits then stay above an
# accuracy of 0.97 for seeds 0 to 7.  MNIST needs the weight decay: it takes back the initial weights of
# pixels that hardly ever differ from 0, which standardization makes large; without it, 0.981 instead of
# 0.983.
DIGITS = Defaults((128, 128), 40, 64, "sgd", (0.1, 0.03))
MNIST = Defaults((512, 512), 10, 128, "sgd", (0.1, 0.01))
MOMENTUM = 0.9
# Part of the training samples that early stopping watches.
_VALIDATION_SIZE = 0.1
# AdamW on them, with relu: 0.986 on the digits (mean of the seeds 0 to 7), 0.984 on MNIST.
_IMAGES_LR, _IMAGES_DECAY = 0.002, 5.0

# Few rows make few steps: epochs are added until there are so many.
LEAST_STEPS = 500


def _of_a_table(rows: int) -> Defaults:
    """Return the defaults for a table of so many training samples: those of the estimators."""
    batch_size = defaults.batch_size(rows)
    epochs = max(50, -(-LEAST_STEPS // -(-rows // batch_size)))
    return Defaults((100,), epochs, batch_size, "adamw", (defaults.learning_rate("sgd", None, ()), 0.0))


# The estimators' epsilon of AdamW.
_EPSILON = 1e-3

# Without hidden layers the model is linear, and an L2 penalty on its weights is a ridge.  Classes are trained
# with one of these penalties.
_LINEAR_LR, LINEAR_L2 = 0.02, (0.001, 0.03, 0.1, 0.5, 3.0, 30.0)

# Values have an exact solution, which is cheap up to so many samples or columns.  Its penalty is the one of
# these, as ridge regression counts them, that predicts each sample best from all others.
_MOST_EQUATIONS = 1000
_RIDGE = tuple(10.0 ** (k / 2) for k in range(-6, 7))

# A network is compared with linear models up to so many training samples, by cross-validation in so many
# folds; above, it has enough to learn from.
_COMPARED, _FOLDS = 5000, 5
# Its other candidate is a network with so many times the weight decay.
_STRONGER = 4.0


# Samples in memory, or a table on disk.
Samples: TypeAlias = npt.NDArray[Any] | RowGroups


@dataclass(frozen=True)
class Data:
    """What is trained on, with a held-out part; samples are arrays, or `RowGroups` of a table on disk."""

    name: str
    X_train: Any
    y_train: npt.NDArray[Any]
    X_test: Any
    y_test: npt.NDArray[Any]
    task: str
    defaults: Defaults | None  # None for a table, where they depend on its size
    classes: tuple[Any, ...] | None
    metadata: dict[str, Any]
    notes: tuple[str, ...] = ()
    validation: tuple[Any, npt.NDArray[Any]] | None = None

    @property
    def on_disk(self) -> bool:
        """Whether the samples stay on disk."""
        return isinstance(self.X_train, RowGroups)

    @property
    def outputs(self) -> int:
        """Number of outputs of a network for the data."""
        if self.classes is not None:
            return len(self.classes)
        return 1 if self.y_train.ndim == 1 else self.y_train.shape[1]


def _complete(args: argparse.Namespace, data: Data) -> None:
    """Fill in the options whose default depends on the data or on other options."""
    rows = len(data.y_train)
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
    if args.dropout is None:
        few = data.defaults is None and args.hidden and args.schedule != "plateau"
        args.dropout = defaults.dropout(args.optimizer, norm, layers, rows) if few else 0.0
    if args.optimizer == "sgd":
        lr, weight_decay = given.sgd
        args.momentum = MOMENTUM if args.momentum is None else args.momentum
    else:
        refuse_options(args, "--optimizer adamw", "momentum")
        if not args.hidden:
            lr, weight_decay, l2 = _LINEAR_LR, 0.0, LINEAR_L2[0]
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


def candidates(args: argparse.Namespace, data: Data) -> list[argparse.Namespace]:
    """Return the settings to choose from, complete, the default first."""
    settled = any(getattr(args, name) is not None for name in _CHOSEN)
    rows = len(data.y_train)
    compared = data.defaults is None and not settled and not data.on_disk and rows <= _COMPARED

    def variant(**options: Any) -> argparse.Namespace:
        one = copy.copy(args)
        vars(one).update(options)
        _complete(one, data)
        return one

    default = variant()
    if not compared:
        return [default]
    if rows < 2 * _FOLDS:  # too few to compare anything
        return [variant(hidden=[0], penalties=_RIDGE)]
    linear = [variant(hidden=[0], penalties=_RIDGE)]
    if not solvable(linear[0], data):
        linear = [variant(hidden=[0], l2=l2) for l2 in LINEAR_L2]
    networks = [default, variant(weight_decay=_STRONGER * default.weight_decay)]
    if default.dropout:  # good for noise, and bad for targets with little of it
        without = variant(dropout=0.0)
        networks = [default, without, variant(dropout=0.0, weight_decay=_STRONGER * without.weight_decay)]
    return [*networks, *linear]


def choose(candidates: Sequence[argparse.Namespace], data: Data) -> tuple[argparse.Namespace, dict[str, Any]]:
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
    say(f"Cross-validation: {measure} {compared}: {taken}")
    outcome = {
        "folds": int(folds.max()) + 1,
        **{name: score if math.isfinite(score) else None for name, score in scores.items()},
        "seconds": clock() - start,
    }
    return candidates[network if better else linear], {"cross_validation": outcome}


def _cross_validate(
    args: argparse.Namespace, data: Data, folds: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Return the error for each sample of what is predicted when it is left out; inf if training diverges.

    Of classes it is 1 for a wrong one, of numbers the squared error as a part of the variance, so that the
    mean over the samples is 1 - accuracy or 1 - R2.
    """
    from nbnorm.model.history import DivergenceError

    try:
        got = _left_out(args, data, data.X_train, data.y_train, folds)
    except DivergenceError:
        return np.full(len(folds), np.inf)
    if data.task == "classification":
        return np.asarray(got != data.y_train, np.float64)
    std = data.y_train.std(axis=0)
    error = (got - data.y_train) / np.where(std > 0, std, 1.0)
    return np.asarray((error**2).reshape(len(error), -1).mean(axis=1))


def limits_of(args: argparse.Namespace, data: Data, y: npt.NDArray[Any]) -> list[list[float]] | None:
    """Return the least and the largest value of each target if predictions are clipped to them.

    Those of a linear model are not: beyond the training samples it goes on as a straight line.
    """
    if args.no_clip or not args.hidden or data.classes is not None:
        return None
    values = y.reshape(len(y), -1).astype(np.float64)
    return [values.min(axis=0).tolist(), values.max(axis=0).tolist()]


def predicted(net: FNN, X: Samples, limits: list[list[float]] | None) -> npt.NDArray[Any]:
    """Return what a network predicts, clipped to the limits of each target, if there are any."""
    from nbnorm.model import inference

    got = net.predict(X)
    if limits is None:
        return got
    return inference.within(got.reshape(len(got), -1), np.array(limits)).reshape(got.shape)


def _left_out(
    args: argparse.Namespace,
    data: Data,
    X: npt.NDArray[Any],
    y: npt.NDArray[Any],
    folds: npt.NDArray[np.int64],
) -> npt.NDArray[Any]:
    """Return what networks predict for each fold that were trained on all others."""
    got = np.empty(y.shape, y.dtype)
    exact = solvable(args, data)
    if exact:  # an epoch learns the statistics
        args = copy.copy(args)
        args.epochs = 1
    for fold in range(int(folds.max()) + 1):
        held_out = folds == fold
        net = network_for(args, data)
        X_train, y_train, options = X[~held_out], y[~held_out], {}
        if watches(args):
            X_train, X_val, y_train, y_val = put_aside(args, X_train, y_train, data.task)
            options = {"validation_data": (X_val, y_val)}
        if fit(args, net, X_train, y_train, progress=False, **options).stopped == "interrupted":
            raise KeyboardInterrupt
        if exact:
            solve(net, X_train, y_train, args)
        balance(args, net, y_train)
        got[held_out] = predicted(net, X[held_out], limits_of(args, data, y_train))
    return got


def fold_scores(args: argparse.Namespace, data: Data, count: int) -> list[float]:
    """Return the accuracy, or R2, on each of some parts of all samples, trained on the other parts."""
    held_out = [] if data.validation is None else [data.validation]
    held_out.append((data.X_test, data.y_test))
    X = np.concatenate([data.X_train, *(part for part, _ in held_out)])
    y = np.concatenate([data.y_train, *(part for _, part in held_out)])
    classifies = data.task == "classification"
    folds = datasets.folds(y, count, seed=args.seed, stratify=classifies)
    got = _left_out(args, data, X, y, folds)
    scores = []
    for fold in range(count):
        truth, answer = y[folds == fold], got[folds == fold]
        if classifies:
            scores.append(float(np.mean(truth == answer)))
        else:
            outcome = metrics.Outcome("identity", answer.reshape(len(truth), -1), truth, None)
            scores.append(metrics.NAMED["r2"][0](outcome))
    return scores


def watches(args: argparse.Namespace) -> bool:
    """Whether a training looks at samples that it does not learn."""
    return args.early_stopping is not None or args.schedule == "plateau"


def put_aside(
    args: argparse.Namespace, X: Samples, y: npt.NDArray[Any], task: str
) -> tuple[Samples, Samples, npt.NDArray[Any], npt.NDArray[Any]]:
    """Return training and validation samples, and training and validation targets."""
    train, held_out = datasets.split_rows(
        y, test_size=_VALIDATION_SIZE, seed=args.seed, stratify=task == "classification"
    )
    return X[train], X[held_out], y[train], y[held_out]


def network_for(args: argparse.Namespace, data: Data) -> FNN:
    """Return a new network for the data."""
    from nbnorm.functions.loss_options import CrossEntropy
    from nbnorm.model.network import FNN

    classifies = data.task == "classification"
    return FNN(
        [data.X_train.shape[1], *args.hidden, data.outputs],
        activation=args.activation,
        norm=args.norm if args.norm != "none" and args.hidden else None,
        output="softmax" if classifies else "identity",
        loss=CrossEntropy(args.label_smoothing) if classifies else args.loss,
        dropout=args.dropout,
        precision=args.precision,
        # counts stay counts
        standardize_targets=not classifies and args.loss != "poisson",
        seed=args.seed,
    )


def optimizer(args: argparse.Namespace) -> SGD | AdamW:
    """Return the optimizer of the settings."""
    from nbnorm.functions.optimizers import SGD, AdamW

    if args.optimizer == "sgd":
        return SGD(lr=args.lr, momentum=args.momentum, weight_decay=args.weight_decay)
    return AdamW(lr=args.lr, eps=args.epsilon, weight_decay=args.weight_decay)


def fit(args: argparse.Namespace, net: FNN, X: Samples, y: npt.NDArray[Any], **options: Any) -> History:
    """Train a network with the settings."""
    from nbnorm.model.stopping import EarlyStopping

    return net.fit(
        X,
        y,
        epochs=args.epochs,
        batch_size=args.batch_size,
        optimizer=optimizer(args),
        schedule=args.schedule,
        l2=args.l2,
        early_stopping=None if args.early_stopping is None else EarlyStopping(patience=args.early_stopping),
        seed=args.seed,
        **options,
    )


def balance(args: argparse.Namespace, net: FNN, y: npt.NDArray[Any]) -> None:
    """Make the classes equally frequent in the answers of a trained network, with --balanced."""
    from nbnorm.model import inference

    if args.balanced:
        bias = inference.output_bias(net)
        bias[:] = bias + balancing_logits(y, net.sizes[-1], None)


def solvable(args: argparse.Namespace, data: Data) -> bool:
    """Whether the model has an exact solution that is cheap."""
    ridge = data.task == "regression" and not args.hidden and args.loss in (None, "squared")
    alone = bool(args.l2) and not args.weight_decay and args.early_stopping is None
    small = not data.on_disk and min(data.X_train.shape) <= _MOST_EQUATIONS
    return ridge and alone and data.defaults is None and small


def solve(net: FNN, X: npt.NDArray[Any], y: npt.NDArray[Any], args: argparse.Namespace) -> float:
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
