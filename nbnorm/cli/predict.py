"""``nbnorm predict``: what a trained network makes of new samples."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nbnorm import _files
from nbnorm.cli.common import add_command, integer, is_npz, output, plural, refuse_options, same_file, say
from nbnorm.cli.trained import Notes, measure, read_notes, summary
from nbnorm.data import datasets, tables

if TYPE_CHECKING:
    from nbnorm.model.network import FNN


def _samples(args: argparse.Namespace, model: Notes) -> tuple[tables.Table, str]:
    """Return the samples to predict and how to call them."""
    if args.file in ("digits", "mnist") or is_npz(args.file):
        refuse_options(args, args.file, "target")
    if args.file == "mnist":
        _, (X, y) = datasets.load_mnist(args.data_dir, progress=lambda line: print(line, file=sys.stderr))
        return tables.Table("mnist", X, None, "y", y), "the 10,000 test images of mnist"
    refuse_options(args, args.file, "data_dir")
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
    return table, f"{plural(len(table.X), 'sample')} of {args.file}"


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from nbnorm.model.network import FNN

    net = FNN.load(args.model)
    model = read_notes(args.model, net)
    if args.out is not None:
        for option, path in (("the model", args.model), ("the data", args.file)):
            if same_file(args.out, path):
                raise ValueError(f"--out {args.out} would overwrite {option}")
        _files.check_writable(args.out)
    table, what = _samples(args, model)
    if table.X.shape[1] != net.sizes[0]:
        width = plural(table.X.shape[1], "feature")
        raise ValueError(f"{args.file} has {width}, and {args.model} was trained on {net.sizes[0]}")
    try:
        columns, score = _classify(net, model, table) if model.classes is not None else _regress(net, table)
    except ValueError as error:
        raise ValueError(f"{error}; {_farthest(net, table)}") from None
    if args.out is not None:
        with _files.replace(args.out, "w", newline="") as file:
            tables.write_csv(file, columns)
    elif score is None:  # nothing else to show
        with output() as out:
            tables.write_csv(out, columns)
    if score is not None:
        say(f"Predicted {what}: {score}")
    if args.out is not None:
        say(f"Predictions: {args.out}")
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
    return f"; {plural(count, 'sample')} left out, whose target is {why}" if count else ""


def _classify(net: FNN, model: Notes, table: tables.Table) -> tuple[dict[str, Sequence[Any]], str | None]:
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
    scores = measure(got[known], expected[known])
    left_out = _left_out(len(known) - int(known.sum()), "missing or no number")
    return columns, summary(scores, int(known.sum())) + left_out


_MORE = """\
Where FILE has the target, the accuracy is printed; where it has not and no --out is
given, the predictions are.

examples:
  nbnorm predict nbnorm-digits.npz digits        the digits held out from training
  nbnorm predict wine.npz new-wines.csv --out predictions.csv
"""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = add_command(commands, "predict", run, "Predict with a trained model", _MORE)
    parser.add_argument("model", metavar="MODEL", help="a file that nbnorm train has saved")
    parser.add_argument("file", metavar="FILE", help="digits, mnist, or a file that ends in .csv or .npz")
    parser.add_argument("--out", metavar="FILE", help="write the predictions as CSV")
    parser.add_argument(
        "--target", metavar="COLUMN", help="target column of a CSV file (default: as in training, if any)"
    )
    parser.add_argument("--data-dir", metavar="DIR", help="where the four MNIST files lie")
    parser.add_argument("--threads", metavar="N", type=integer(1), help="at most so many (default: all)")
