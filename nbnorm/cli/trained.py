"""A trained network, what `nbnorm train` has noted beside it, and what it is worth on a table."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nbnorm.cli import answers
from nbnorm.cli.common import add_columns, given_columns, is_npz, plural, real, refuse_columns, refuse_options
from nbnorm.cli.inputs import Inputs
from nbnorm.data import datasets, tables

if TYPE_CHECKING:
    from nbnorm.model.network import FNN

TEST_SIZE, SPLIT_SEED = 0.2, 0


@dataclass(frozen=True)
class Notes:
    """What `train` noted beside a network; a network saved from Python may have none of it."""

    data: str | None
    classes: list[str | int] | None
    features: list[str] | None
    target: str | None
    test_size: float
    split_seed: int
    inputs: Inputs
    class_counts: list[int] | None = None  # of the training samples
    target_mean: list[float] | None = None  # of the training samples


def read_notes(path: str, net: FNN) -> Notes:
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

    try:
        inputs = Inputs.from_dict(got.get("inputs"))
    except ValueError as error:
        raise ValueError(f"{path}: inputs in the model's metadata is malformed: {error}") from None
    encoder = inputs.encoder
    width = n_in if encoder is None else encoder.n_features_in_
    if encoder is not None and encoder.n_features_out_ != n_in:
        raise ValueError(f"{path}: inputs in the model's metadata is malformed: it has another width")
    # Several sigmoid outputs are yes/no answers of their own, not classes.
    classifies = net.output == "softmax" or (net.output == "sigmoid" and n_out == 1)
    n_classes = max(n_out, 2)
    return Notes(
        data=entry("data", text, None),
        classes=entry("classes", listed((str, int), n_classes), list(range(n_classes)))
        if classifies
        else None,
        features=entry("features", listed((str,), width), None),
        inputs=inputs,
        target=entry("target", text, None),
        test_size=entry("test_size", lambda v: isinstance(v, float) and 0 < v < 1, TEST_SIZE),
        split_seed=entry("split_seed", lambda v: type(v) is int and v >= 0, SPLIT_SEED),
        class_counts=entry("class_counts", listed((int,), n_classes), None) if classifies else None,
        target_mean=None if classifies else entry("target_mean", listed((float, int), n_out), None),
    )


def probabilities(net: FNN, X: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the probability of each class, shape (n_samples, n_classes), also for a sigmoid output."""
    probability = np.asarray(net.predict_proba(X), np.float64)
    if probability.ndim == 1 or probability.shape[1] == 1:
        positive = probability.reshape(-1)
        probability = np.stack([1 - positive, positive], axis=1)
    return probability


def decide(
    probability: npt.NDArray[np.float64], classes: Sequence[str | int], threshold: float | None
) -> npt.NDArray[np.int64]:
    """Return the class of each sample: the likeliest, or the second of two from a probability on."""
    if threshold is None:
        return np.asarray(probability.argmax(axis=1), np.int64)
    if len(classes) != 2:
        raise ValueError(f"--threshold needs two classes, and the model has {len(classes):,}")
    decision: npt.NDArray[np.int64] = np.where(probability[:, 1] >= threshold, 1, 0)
    return decision


@dataclass(frozen=True)
class Assessment:
    """What a network is worth on a table, and the values that a picture of it needs."""

    scores: dict[str, Any]
    missing: int  # samples without a target
    points: tuple[npt.NDArray[Any], npt.NDArray[Any]] | None  # truth and prediction of regression


def assess(net: FNN, notes: Notes, samples: Samples, threshold: float | None = None) -> Assessment | None:
    """Return what a network is worth on a table, None where no sample has a target."""
    table = samples.table
    if table.values is None:
        return None
    if notes.classes is not None:
        truth, unseen = table.class_numbers(notes.classes)
        there = truth >= 0
        if not there.any():
            return None
        probability, truth = probabilities(net, samples.X[there]), truth[there]
        decision = decide(probability, notes.classes, threshold)
        scores = answers.of_classes(
            probability, decision, truth, notes.classes, counts=notes.class_counts, unseen=unseen
        )
        return Assessment(scores, int(np.count_nonzero(~there)), None)
    values = table.numbers()
    columns = values.reshape(len(values), -1)
    if net.output == "sigmoid" or columns.shape[1] != net.sizes[-1]:
        return None
    there = np.asarray(np.isfinite(columns).all(axis=1))
    if not there.any():
        return None
    got, values = net.predict(samples.X[there]), values[there]
    scores = answers.of_values(got, values, mean=notes.target_mean)
    return Assessment(scores, int(np.count_nonzero(~there)), (values, got))


def load(path: str) -> tuple[FNN, Notes]:
    """Return a network from its file, ready to predict, and the notes beside it."""
    from nbnorm.model.network import FNN

    net = FNN.load(path).eval()
    return net, read_notes(path, net)


@dataclass(frozen=True)
class Samples:
    """Samples for a network.

    Attributes
    ----------
    table : Table
        As they were read.
    X : ndarray
        As the network takes them.
    what : str
        How to call them.
    notes : tuple of str
        What was guessed, and which gaps were filled.
    """

    table: tables.Table
    X: npt.NDArray[Any]
    what: str
    notes: tuple[str, ...]


def samples(args: argparse.Namespace, net: FNN, notes: Notes) -> Samples:
    """Return the samples that the command line names."""
    table, what = _samples(args, notes)
    width = 1 if isinstance(table.data, dict) else table.data.shape[1]
    expected = net.sizes[0] if notes.inputs.encoder is None else notes.inputs.encoder.n_features_in_
    if not isinstance(table.data, dict) and width != expected:
        raise ValueError(
            f"{args.file} has {plural(width, 'feature')}, and {args.model} was trained on {expected}"
        )
    X, said = notes.inputs.transform(table), list(table.notes)
    gaps = np.isnan(X) if X.dtype.kind == "f" else np.zeros((1, 1), bool)
    if gaps.any():
        row, column = (int(k) for k in np.argwhere(gaps)[0])
        if net.standardizer is None:
            raise ValueError(f"{table.place(row, column)}: missing value, and the model knows no mean for it")
        X = np.where(gaps, net.standardizer.mean_, X)
        said.append(
            f"{plural(int(gaps.any(axis=1).sum()), 'sample')} with gaps where training had none, which are "
            f"taken as the mean; the first is {table.place(row, column)}"
        )
    return Samples(table, X, what, tuple(said))


def _samples(args: argparse.Namespace, notes: Notes) -> tuple[tables.Table, str]:
    """Return the samples that the command line names, and how to call them."""
    if args.file in ("digits", "mnist") or is_npz(args.file):
        refuse_options(args, args.file, "target")
        refuse_columns(args, args.file)
    if args.file == "mnist":
        _, (X, y) = datasets.load_mnist(args.data_dir, progress=lambda line: print(line, file=sys.stderr))
        return tables.Table("mnist", X, None, "y", y), "the 10,000 test images of mnist"
    refuse_options(args, args.file, "data_dir")
    if args.file == "digits":
        X, y = datasets.load_digits()
        if notes.data != "digits":
            return tables.Table("digits", X, None, "y", y), f"all {len(X):,} digits"
        _, test = datasets.split_rows(y, test_size=notes.test_size, seed=notes.split_seed, stratify=True)
        what = f"the {len(test):,} digits held out from training"
        return tables.Table("digits", X[test], None, "y", y[test]), what
    # A column that is asked for has to be there; the one of the training may be missing.
    named = args.target is not None
    target = args.target if named else notes.target
    kinds = notes.inputs.kinds()
    table = tables.read_table(
        args.file,
        target=target,
        features=notes.features,
        need_target=named,
        categories=[name for name, kind in kinds.items() if kind == "category"],
        kinds=kinds or (None if notes.features is None else dict.fromkeys(notes.features, "number")),
        **given_columns(args),
    )
    return table, f"{plural(len(table), 'sample')} of {args.file}"


@contextlib.contextmanager
def explained(net: FNN, notes: Notes, samples: Samples) -> Iterator[None]:
    """Say which value lies farthest from the training data where a network refuses its input."""
    try:
        yield
    except ValueError as error:
        X = samples.X.astype(np.float64)
        if net.standardizer is not None:
            X = (X - net.standardizer.mean_) / net.standardizer.scale_
        row, column = (int(i) for i in np.unravel_index(np.argmax(np.abs(X)), X.shape))
        named = replace(samples.table, features=_names(notes, samples.table))
        place = named.place(row, column)
        far = f"the value farthest from the training data is {samples.X[row, column]:g} in {place}"
        raise ValueError(f"{error}; {far}") from None


def _names(notes: Notes, table: tables.Table) -> tuple[str, ...] | None:
    names = notes.inputs.names(table.features)
    return None if names is None else tuple(names)


def add_samples(parser: argparse.ArgumentParser) -> None:
    """Add what names a model and samples for it."""
    parser.add_argument("model", metavar="MODEL", help="a file that nbnorm train has saved")
    parser.add_argument("file", metavar="FILE", help="digits, mnist, or a CSV, Parquet, Arrow or NPZ file")
    parser.add_argument(
        "--target", metavar="COLUMN", help="target column (default: as in training, if it is there)"
    )
    parser.add_argument("--data-dir", metavar="DIR", help="where the four MNIST files lie")
    add_columns(parser, categories=False)


def add_threshold(parser: argparse.ArgumentParser) -> None:
    """Add the option that moves the border between two classes."""
    parser.add_argument(
        "--threshold",
        metavar="X",
        type=real(least=0, most=1),
        help="of two classes take the second from this probability on (default: the likelier one)",
    )
