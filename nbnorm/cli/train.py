"""``nbnorm train``: train a network on a file and test it on held-out samples."""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nbnorm import __version__, _files, plots
from nbnorm._types import Communicator
from nbnorm.cli import answers, on_disk, trained
from nbnorm.cli.common import (
    FAILED,
    Commands,
    add_columns,
    add_command,
    clipped,
    fail,
    finite,
    given_columns,
    integer,
    is_npz,
    name_of,
    plural,
    real,
    refuse_columns,
    refuse_options,
    same_file,
    say,
    whole,
)
from nbnorm.cli.inputs import Inputs
from nbnorm.cli.settings import (
    DIGITS,
    LEAST_STEPS,
    LINEAR_L2,
    MNIST,
    MOMENTUM,
    RETRIES,
    Data,
    Defaults,
    balance,
    candidates,
    choose,
    fit,
    fold_scores,
    limits_of,
    network_for,
    optimizer,
    predicted,
    put_aside,
    solvable,
    solve,
    watches,
)
from nbnorm.cli.trained import SPLIT_SEED, TEST_SIZE
from nbnorm.compile.clock import clock, compile_seconds
from nbnorm.compile.threads import get_num_threads
from nbnorm.data import datasets, tables
from nbnorm.functions import activations
from nbnorm.simd import target

if TYPE_CHECKING:
    from nbnorm.data.row_groups import RowGroups
    from nbnorm.model.history import History
    from nbnorm.model.network import FNN

# Above so many epochs, not each of them gets a line.
_MOST_LINES = 60


def _load(args: argparse.Namespace) -> Data:
    """Return the data that the command line names, split into training and held-out samples."""
    if args.data == "mnist":
        refuse_options(args, "mnist", "target", "task", "test_size", "split_seed")
        refuse_columns(args, "mnist")
        (X_train, y_train), (X_test, y_test) = datasets.load_mnist(args.data_dir, progress=say)
        classes = tuple(range(10))
        metadata: dict[str, Any] = {"data": "mnist", "task": "classification", "classes": list(classes)}
        return Data("mnist", X_train, y_train, X_test, y_test, "classification", MNIST, classes, metadata)
    refuse_options(args, args.data, "data_dir")
    groups: RowGroups | None = None
    if args.data == "digits":
        refuse_options(args, "digits", "target", "task")
        refuse_columns(args, "digits")
        images, y = datasets.load_digits()
        table = tables.Table("digits", images, None, "y", y)
        target = tables.Target("classification", y, tuple(range(10)))
        metadata = {"data": "digits"}
        defaults: Defaults | None = DIGITS
        name, note = "digits", ""
    else:
        groups, table, target = _read(args)
        metadata = {
            "data": Path(args.data).name,
            "features": None if table.features is None else list(table.features),
            "target": table.target,
        }
        defaults = None
        name, note = name_of(args.data), f"Target: {clipped(table.target, 40)}, {target.task}"
        if args.target is None and table.features is not None:
            note += " (the last column; --target names another)"
    _check_classes(args, table, target)
    test_size = TEST_SIZE if args.test_size is None else args.test_size
    seed = SPLIT_SEED if args.split_seed is None else args.split_seed
    stratify = target.task == "classification"
    train, test = datasets.split_rows(target.y, test_size=test_size, seed=seed, stratify=stratify)
    X: Any
    if groups is None:
        inputs = Inputs.fit(table, train)
        X = inputs.transform(table)
    else:
        X, inputs = on_disk.with_inputs(args, groups, table, train)
    metadata.update(
        task=target.task,
        classes=None if target.classes is None else list(target.classes),
        inputs=inputs.to_dict(),
        date_formats=dict(table.date_formats) or None,
        test_size=test_size,
        split_seed=seed,
    )
    columns = inputs.described()
    return Data(
        name,
        X[train],
        target.y[train],
        X[test],
        target.y[test],
        target.task,
        defaults,
        target.classes,
        metadata,
        tuple(line for line in (*table.notes, note, columns and f"Columns: {columns}") if line),
    )


def _read(args: argparse.Namespace) -> tuple[RowGroups | None, tables.Table, tables.Target]:
    """Return a table and its target, ready for training, and the features of one that stays on disk."""
    groups = None
    if on_disk.wanted(args):
        groups, table = on_disk.read(args)
    else:
        refuse_options(args, "a table that is read whole", "shuffle_buffer")
        if is_npz(args.data):
            refuse_options(args, args.data, "target")
            refuse_columns(args, args.data)
        table = tables.read_table(
            args.data, target=args.target, categories=args.categories, **given_columns(args)
        )
    target = table.encode(args.task or "auto")
    if target.classes is None:
        y = target.y.reshape(len(target.y), -1)
        tables.refuse_range(table.path, [str(table.target)] * y.shape[1], y)
    return groups, table, target


def _check_classes(args: argparse.Namespace, table: tables.Table, target: tables.Target) -> None:
    """Refuse a target that cannot be learned, and options that are not for it."""
    if target.classes is not None:
        if len(target.classes) < 2:
            raise ValueError(f"{args.data} must have at least two classes, got only {target.classes[0]!r}")
        if 2 * np.count_nonzero(np.bincount(target.y) == 1) > len(target.y):
            raise ValueError(
                f"{args.data} must have several samples of a class: most are the only one of theirs, with "
                f"{len(target.classes):,} classes in all; is {table.target!r} the target?"
            )
        if args.loss is not None:
            raise ValueError("--loss needs a numeric target, and this one has classes: see --label-smoothing")
        if args.no_clip:
            raise ValueError("--no-clip needs a numeric target, and this one has classes")
        return
    for option, given in (("balanced", args.balanced), ("label-smoothing", args.label_smoothing)):
        if given:
            raise ValueError(f"--{option} needs classes, and this target is numeric")


def _outputs(args: argparse.Namespace, name: str) -> dict[str, str | None]:
    """Return the files to write, after checking that they can be written."""
    save = None if args.no_save else args.save or f"nbnorm-{name}.npz"
    plot = None if args.no_plot else args.plot or f"nbnorm-{name}.png"
    files = {
        "save": save,
        "plot": plot,
        "inspect": args.inspect,
        "report": args.report,
        "checkpoint": args.checkpoint,
    }
    named = [(option, path) for option, path in files.items() if path is not None]
    for at, (option, path) in enumerate(named):
        if same_file(path, args.data):
            raise ValueError(f"--{option} {path} would overwrite the data")
        for other, other_path in named[:at]:
            if same_file(path, other_path):
                raise ValueError(f"--{other} and --{option} name the same file {path}")
        if option == "inspect":
            plots.check_format(path)
        elif option != "plot":
            _files.check_writable(path)
    if plot is not None:
        try:
            plots.check_format(plot)
        except ImportError as error:
            if args.plot is not None:
                raise
            say(f"No plot will be drawn: {error}")
            files["plot"] = None
    return files


def _evaluate(
    args: argparse.Namespace, net: FNN, data: Data
) -> tuple[dict[str, Any], tuple[Any, Any] | None]:
    """Return what the network makes of the held-out samples, and the values of regression for a picture."""
    if data.classes is not None:
        probability = trained.probabilities(net, data.X_test)
        counts = np.bincount(data.y_train, minlength=len(data.classes)).tolist()
        decision = probability.argmax(axis=1)
        return answers.of_classes(probability, decision, data.y_test, data.classes, counts=counts), None
    got = predicted(net, data.X_test, limits_of(args, data, data.y_train))
    return answers.of_values(got, data.y_test, mean=_means(data)), (data.y_test, got)


def _means(data: Data) -> list[float]:
    """Return the mean of each target in training."""
    means: list[float] = np.atleast_1d(data.y_train.astype(np.float64).mean(axis=0)).tolist()
    return means


def _brief(scores: dict[str, Any]) -> dict[str, Any]:
    """Return the scores that the report and the model have under names of their own."""
    return {
        "test_accuracy": scores.get("accuracy"),
        "test_r2": scores.get("r2"),
        "test_rmse": scores.get("root_mean_squared_error"),
    }


def _describe_data(data: Data) -> None:
    aside = "" if data.validation is None else f", {len(data.validation[1]):,} validation"
    rows = f"{len(data.y_train):,} training{aside} and {len(data.y_test):,} held-out samples"
    kinds = "" if data.classes is None else f", {plural(len(data.classes), 'class')}"
    say(f"Data: {whole(data.name)}, {rows}, {plural(data.X_train.shape[1], 'feature')}{kinds}")
    for note in data.notes:
        say(note)


def _describe(args: argparse.Namespace, net: FNN) -> None:
    layers = "no hidden layer"
    if args.hidden:
        norm = "no normalization"
        if net.norm_kind is not None:
            kind = {"batch": "batch norm", "layer": "layer norm", "rms": "RMS norm"}[net.norm_kind]
            norm = f"{kind} {net.norm_placement} the activation"
        layers = f"{args.activation}, {norm}" + (f", dropout {args.dropout:g}" if args.dropout else "")
    sizes = "-".join(str(size) for size in net.sizes)
    say(f"Network: {sizes}, {layers}, {plural(net.n_parameters, 'parameter')}")
    if net.precision == "bfloat16" and args.hidden:
        made = "" if target().bfloat16 else ", made of float32: this processor has none that are faster"
        say(f"Precision: products of bfloat16{made}")
    threads = plural(get_num_threads(), "thread")
    momentum = "" if args.momentum is None else f"momentum {args.momentum:g}, "
    penalty = f", l2 {args.l2:g}" if args.l2 else ""
    say(
        f"Training: {plural(args.epochs, 'epoch')}, batches of {args.batch_size}, "
        f"{args.optimizer}, lr {args.lr:g} ({args.schedule}), {momentum}"
        f"weight decay {args.weight_decay:g}{penalty}, seed {args.seed}, {threads}"
    )


def _with_validation(args: argparse.Namespace, data: Data) -> Data:
    """Put a part of the training samples aside where the training looks at samples that it does not learn.

    The held-out samples would be no test any more if they had a say in when to stop.
    """
    if not watches(args):
        return data
    X_train, X_val, y_train, y_val = put_aside(args, data.X_train, data.y_train, data.task)
    return replace(data, X_train=X_train, y_train=y_train, validation=(X_val, y_val))


def _print_epoch(epochs: int, held_out: str) -> Callable[[FNN, History], None]:
    """Return a callback that prints a line for each epoch, or for each second of many, instead of a bar."""
    from nbnorm.model.progress import brief

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
        say("  ".join(parts))

    return show


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    if args.mpi is None:
        args.mpi = on_disk.launched()
    if args.data in ("digits", "mnist"):
        refuse_options(args, args.data, "row_groups", "shuffle_buffer")
    if not args.mpi:
        return _train(args, None)
    refuse_options(args, "--mpi", "shuffle_buffer")
    return on_disk.over_ranks(args, _train)


def _train(args: argparse.Namespace, comm: Communicator | None) -> int:
    """Train alone, or as one of the ranks of `comm`, of which the first one tests and writes."""
    from nbnorm.model.history import DivergenceError

    compiled = compile_seconds()
    first = comm is None or comm.Get_rank() == 0

    def prepare() -> tuple[dict[str, str | None], Data, argparse.Namespace, dict[str, Any]]:
        files = _outputs(args, name_of(args.data)) if first else {}
        data = _with_validation(args, _load(args))
        _describe_data(data)
        return files, data, *choose(candidates(args, data), data)

    files, data, args, choice = on_disk.together(comm, prepare)
    bar = sys.stderr.isatty() and importlib.util.find_spec("tqdm") is not None
    lines = _print_epoch(args.epochs, "held out" if data.validation is None else "validation")
    start, retries = clock(), 0
    while True:
        net = network_for(args, data)
        net.metadata = data.metadata
        checkpoint = args.checkpoint
        if checkpoint is not None and retries:
            checkpoint += f".{retries}"  # that of the run that diverged is another training
        if retries == 0:
            _describe(args, net)
        if checkpoint is not None and os.path.exists(checkpoint):
            say(f"Going on from {whole(checkpoint)}")
        try:
            history = fit(
                args,
                net,
                *on_disk.own_rows(comm, data.X_train, data.y_train),
                validation_data=on_disk.own_rows(comm, *(data.validation or (data.X_test, data.y_test))),
                checkpoint=checkpoint,
                progress=bar and not args.quiet,
                callbacks=() if bar or args.quiet else (lines,),
                shuffle_buffer=args.shuffle_buffer,
                comm=comm,
            )
            break
        except DivergenceError as error:
            if retries == RETRIES or error.row is not None:
                return fail(str(error), FAILED) if first else FAILED
            retries += 1
            args.lr /= 10
            say(
                f"Diverged after {plural(error.history.epochs, 'epoch')}: "
                f"once more at a tenth of the learning rate, {args.lr:g}"
            )
    seconds, compiled = clock() - start, compile_seconds() - compiled
    if not first:
        return args.ending.status if history.stopped == "interrupted" else 0
    if history.epochs == 0:
        return fail("interrupted before the end of the first epoch: nothing was saved", args.ending.status)
    if history.stopped == "interrupted":
        say(f"Interrupted: the {plural(history.epochs, 'epoch')} done so far are kept")
    if solvable(args, data) and history.stopped is None:
        args.l2 = solve(net, data.X_train, data.y_train, args)
        say(f"Weights: the exact minimum of squared error and penalty {args.l2:g}, a ridge regression")
    balance(args, net, data.y_train)
    if history.best_epoch is not None:
        say(f"Best epoch: {history.best_epoch} of {history.epochs}, by the loss on samples put aside")
    scores, points = _evaluate(args, net, data)
    beside = f", and {compiled:.1f} s of compilation" if compiled else ""
    done = f"after {plural(history.epochs, 'epoch')} in {seconds:.1f} s{beside}"
    say(f"Test: {answers.headline(scores)} {done}")
    for line in answers.lines(scores):
        say(line)
    folds, ended = _folds(args, data)
    times = {"retries": retries, **choice, "cv": folds, "train_seconds": seconds, "compile_seconds": compiled}
    _write_results(args, data, net, history, times, scores, points, files)
    return args.ending.status if ended or history.stopped == "interrupted" else 0


def _folds(args: argparse.Namespace, data: Data) -> tuple[dict[str, Any] | None, bool]:
    """Return what cross-validation over all samples says of the settings, and whether it was interrupted."""
    if args.cv is None:
        return None, False
    try:
        scores = fold_scores(args, data, args.cv)
    except KeyboardInterrupt:
        say("Interrupted: no cross-validation")
        return None, True
    name = "accuracy" if data.task == "classification" else "R2"
    mean, std = float(np.mean(scores)), float(np.std(scores, ddof=1))
    say(
        f"Cross-validation of these settings, {args.cv} folds of all samples: {name} {mean:.4f} "
        f"+- {std:.4f} (standard deviation), from {min(scores):.4f} to {max(scores):.4f}"
    )
    return {"folds": args.cv, "scores": scores, "mean": mean, "std": std}, False


def _settings(args: argparse.Namespace, data: Data, net: FNN) -> dict[str, Any]:
    """Return how the network was trained, for the report and for `nbnorm info`."""
    return {
        "nbnorm": __version__,
        "train_samples": len(data.y_train),
        "test_samples": len(data.y_test),
        "sizes": [int(size) for size in net.sizes],
        "activation": args.activation if args.hidden else None,
        "norm": net.norm,
        "dropout": args.dropout,
        "precision": net.precision,
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
        "clip": None if data.classes is not None else bool(args.hidden) and not args.no_clip,
        "seed": args.seed,
        "parameters": int(net.n_parameters),
    }


def _write_results(
    args: argparse.Namespace,
    data: Data,
    net: FNN,
    history: History,
    times: dict[str, Any],
    scores: dict[str, Any],
    points: tuple[Any, Any] | None,
    files: dict[str, str | None],
) -> None:
    settings, brief, curves = _settings(args, data, net), _brief(scores), history.to_dict()
    if files["save"] is not None:
        if data.classes is not None:
            counts = np.bincount(data.y_train, minlength=len(data.classes)).tolist()
            worth: dict[str, Any] = {"class_counts": counts}
        else:
            worth = {"target_mean": _means(data), "target_range": limits_of(args, data, data.y_train)}
        net.metadata = {**data.metadata, **brief, **worth, "training": settings}
        net.save(files["save"])
        say(f"Model: {whole(files['save'])}")
    if files["plot"] is not None:
        title = f"{data.name}: {answers.headline(scores)}"
        plots.answers(scores, files["plot"], points=points, history=curves, title=title)
        say(f"Picture: {whole(files['plot'])}")
    if files["inspect"] is not None:
        from nbnorm.model.inspection import inspect

        batch_size = max(2, min(args.batch_size, len(data.X_train)))
        found = inspect(net, data.X_train, data.y_train, optimizer=optimizer(args), batch_size=batch_size)
        found.plot(files["inspect"], title=f"{data.name}: the layers after training")
        table = "\n".join(whole(line) for line in str(found).split("\n"))  # 80 columns wide
        say(f"\n{table}\nLayers: {whole(files['inspect'])}")
    result = finite(
        {
            "data": data.name,
            "task": data.task,
            **settings,
            "threads": get_num_threads(),
            **brief,
            **times,
            **curves,
            "test": scores,
            "model": files["save"],
            "plot": files["plot"],
        }
    )
    args.result.update(result)
    if files["report"] is not None:
        with _files.replace(files["report"], "w") as file:
            lines = (f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in result.items())
            file.write("{\n" + ",\n".join(lines) + "\n}\n")  # a line for each list
        say(f"Report: {whole(files['report'])}")


_MORE = """\
A file of columns (.csv, .tsv, .txt, also with .gz behind it; .parquet, .feather,
.arrow) holds numbers, text, true and false, or dates, with or without gaps. An NPZ
file has arrays X and y. A target of text, or of whole numbers with at most 20
different labels, is classification; any other is regression; --task says which.
Labels stay as they are written: 7, 07 and 7.0 differ. A fifth of the samples is held
out, the same ones in every run, to test the network.

For a table of up to 5,000 training samples cross-validation chooses between a network
and a linear model, unless --hidden is given. A training that diverges begins again at
a tenth of the learning rate, three times at most.

A folder of Parquet or of Arrow files, and a large one, is read in row groups during
the training, in bounded memory, after one pass that learns what the columns hold.

Ctrl-C and SIGTERM end the training early and keep the epochs done so far. With
--checkpoint the same command resumes where it was stopped, even by a power cut, and
ends with the same bits.

examples:
  nbnorm train                                   the bundled digits
  nbnorm train mnist                             MNIST, downloaded once
  nbnorm train mnist --data-dir ~/mnist --hidden 512 512 --epochs 10
  nbnorm train wine.csv --target quality --save wine.npz --cv 5
  nbnorm train big.parquet --target price --row-groups
  mpiexec -n 4 nbnorm train big.parquet          one network, four processes
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    train = add_command(
        commands,
        "train",
        run,
        "Train a batch-normalized network and test it on held-out samples",
        _MORE,
    )
    train.add_argument(
        "data",
        nargs="?",
        default="digits",
        metavar="DATA",
        help="digits (bundled, the default), mnist, a CSV, Parquet, Arrow or NPZ file, or a folder of "
        "Parquet or of Arrow files",
    )
    data = train.add_argument_group("data")
    data.add_argument("--data-dir", metavar="DIR", help="where the four MNIST files lie, gzipped or not")
    data.add_argument("--target", metavar="COLUMN", help="target column (default: the last)")
    data.add_argument("--task", choices=tables.TASKS[1:], help="what the target is (default: see below)")
    data.add_argument(
        "--test-size", metavar="X", type=real(above=0, below=1), help="fraction held out (default: 0.2)"
    )
    data.add_argument(
        "--split-seed", metavar="N", type=integer(0), help="which samples are held out (default: 0)"
    )
    add_columns(train)
    stored = train.add_argument_group("tables larger than memory")
    stored.add_argument(
        "--row-groups",
        action=argparse.BooleanOptionalAction,
        help="read row groups in each epoch, not the whole table at once (default: for a folder, and for a "
        f"table whose numbers, as float64, take more than 1/{on_disk.MEMORY_DIVISOR} of the memory)",
    )
    stored.add_argument(
        "--shuffle-buffer",
        metavar="N",
        type=integer(1),
        help="rows that are kept in memory and shuffled together (default: 64 MiB of them)",
    )
    network = train.add_argument_group("network")
    network.add_argument(
        "--hidden",
        metavar="N",
        nargs="+",
        type=integer(0),
        help="features of each hidden layer, 0 for none (default: 512 512 for mnist, 128 128 for digits, "
        "for tables 100, or none where a linear model does better in cross-validation)",
    )
    network.add_argument(
        "--activation",
        choices=sorted(activations.CODES),
        metavar="NAME",
        help=f"activation of the hidden layers: {', '.join(sorted(activations.CODES))} (default: relu)",
    )
    network.add_argument(
        "--norm",
        choices=("after", "before", "layer", "layer_after", "rms", "rms_after", "none"),
        metavar="NORM",
        help="batch norm after or before the activation, layer norm or RMS norm of each sample before it "
        "(layer, rms) or after it (layer_after, rms_after), or none (default: after)",
    )
    network.add_argument(
        "--dropout",
        metavar="X",
        type=real(least=0, below=1),
        help="probability with which a step drops a unit of a hidden layer (default: 0.3 for tables of up to "
        "500 training rows with adamw, relu and norm after, less up to 800, else 0)",
    )
    network.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        default="float32",
        help="type to which the operands of the hidden layers' products are rounded (default: float32)",
    )
    training = train.add_argument_group("training")
    training.add_argument(
        "--epochs",
        metavar="N",
        type=integer(1),
        help="passes over the training samples (default: 10 for mnist, 40 for digits, for tables 50, or as "
        f"many as make {LEAST_STEPS} steps)",
    )
    training.add_argument(
        "--batch-size",
        metavar="N",
        type=integer(2),
        help="largest number of samples in a step (default: 128 for mnist, 64 for digits, for tables a "
        "fiftieth of them, from 32 to 256)",
    )
    training.add_argument(
        "--loss",
        choices=("squared", "absolute", "huber", "poisson"),
        metavar="LOSS",
        help="loss of a numeric target: squared, absolute, huber, or poisson for counts (default: squared)",
    )
    training.add_argument(
        "--label-smoothing",
        metavar="X",
        type=real(least=0, below=1),
        help="fraction of the targets that is distributed over all classes (default: 0)",
    )
    training.add_argument(
        "--optimizer",
        choices=("sgd", "adamw"),
        help="optimizer (default: adamw for tables, otherwise sgd)",
    )
    training.add_argument(
        "--lr",
        metavar="X",
        type=real(above=0),
        help="learning rate at the start (default: 0.1 for sgd, 0.002 for adamw; for tables 0.02, or 0.0075 "
        "for adamw with relu and norm after); a training that diverges begins again at a tenth",
    )
    training.add_argument(
        "--schedule",
        choices=("cosine", "constant", "step", "one_cycle", "plateau"),
        metavar="NAME",
        help="cosine: the learning rate falls to 0 as half a cosine; constant; step: it falls to a tenth "
        "after each third of the epochs; one_cycle: it rises and falls; plateau: it falls to a tenth where "
        "the loss no longer improves (default: cosine)",
    )
    training.add_argument(
        "--early-stopping",
        metavar="N",
        type=integer(1),
        help="stop after N epochs without a smaller loss on a tenth of the training samples that is set "
        "aside",
    )
    training.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="keep the state of the training in FILE, and resume from FILE if it exists",
    )
    training.add_argument(
        "--balanced", action="store_true", default=None, help="give rare classes the say of frequent ones"
    )
    training.add_argument(
        "--momentum", metavar="X", type=real(least=0, below=1), help=f"momentum of sgd (default: {MOMENTUM})"
    )
    training.add_argument(
        "--weight-decay",
        metavar="X",
        type=real(least=0),
        help="decoupled weight decay, of weights only (default: for sgd 0.03 with digits, 0.01 with mnist, 0 "
        "with tables; for adamw 5 with relu, 0.2 with others or without norm, less for many rows)",
    )
    training.add_argument(
        "--l2",
        metavar="X",
        type=real(least=0),
        help="penalty X / 2 times the sum of the squared weights (default: 0; for tables with no hidden "
        f"layer {LINEAR_L2[0]:g})",
    )
    training.add_argument(
        "--seed",
        metavar="N",
        type=integer(0),
        default=0,
        help="seed of weights and order (default: 0)",
    )
    training.add_argument(
        "--no-clip",
        action="store_true",
        help="do not clip the values that a network predicts to the range of the training targets",
    )
    training.add_argument("--threads", metavar="N", type=integer(1), help="threads to use (default: all)")
    training.add_argument(
        "--mpi",
        action=argparse.BooleanOptionalAction,
        help="train one network with all processes of an MPI program: each reads its row groups of a Parquet "
        "or Arrow file, and other data whole (default: where mpiexec has started several; srun needs --mpi)",
    )
    training.add_argument("--quiet", action="store_true", help="show no progress")
    results = train.add_argument_group("results")
    results.add_argument(
        "--cv",
        metavar="K",
        type=integer(2),
        help="cross-validate the settings as well, in K folds of all samples: mean and standard deviation of "
        "the test",
    )
    save = results.add_mutually_exclusive_group()
    save.add_argument("--save", metavar="MODEL", help="file of the model (default: nbnorm-DATA.npz)")
    save.add_argument("--no-save", action="store_true", help="save no model")
    plot = results.add_mutually_exclusive_group()
    plot.add_argument(
        "--plot", metavar="FILE", help="picture of training and test (default: nbnorm-DATA.png)"
    )
    plot.add_argument("--no-plot", action="store_true", help="draw no picture")
    results.add_argument(
        "--inspect",
        metavar="FILE",
        help="picture of the layers after training, and a table of them, 80 columns wide",
    )
    results.add_argument("--report", metavar="FILE", help="write settings and results as JSON")
