"""A trained network, what `nbnorm train` has noted beside it, and what it is worth on a table."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nbnorm import plots
from nbnorm.cli import answers
from nbnorm.cli.common import (
    add_columns,
    given_columns,
    is_npz,
    plural,
    real,
    refuse_columns,
    refuse_options,
    whole,
)
from nbnorm.cli.inputs import Inputs
from nbnorm.cli.settings import predicted
from nbnorm.cli.spill import Rows
from nbnorm.data import datasets, dates, tables

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
    date_formats: dict[str, str]
    class_counts: list[int] | None = None  # of the training samples
    target_mean: list[float] | None = None  # of the training samples
    target_range: list[list[float]] | None = None  # least and largest ones, to which predictions are clipped
    labels: int = 0  # sigmoid outputs, if several: answers of yes or no that do not exclude each other


def read_notes(path: str, net: FNN) -> Notes:
    """Return the checked notes of a model, which come from a file that anybody may have written."""
    got = net.metadata
    n_in, n_out = int(net.sizes[0]), int(net.sizes[-1])

    def entry(key: str, right: Callable[[object], bool], default: object) -> Any:
        value = got.get(key)
        if value is None:
            return default
        if not right(value):
            raise ValueError(f"{path}: {key} in the model's metadata is malformed")
        return value

    def listed(kinds: tuple[type, ...], length: int) -> Callable[[object], bool]:
        # An exact type: True is no class number.
        return lambda value: (
            isinstance(value, list) and len(value) == length and all(type(item) in kinds for item in value)
        )

    values = listed((float, int), n_out)

    def ranged(value: object) -> bool:
        if not isinstance(value, list) or len(value) != 2 or not all(map(values, value)):
            return False
        return all(least <= most for least, most in zip(*value, strict=True))

    def text(value: object) -> bool:
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
        date_formats=entry("date_formats", _date_formats, {}),
        target=entry("target", text, None),
        test_size=entry("test_size", lambda v: isinstance(v, float) and 0 < v < 1, TEST_SIZE),
        split_seed=entry("split_seed", lambda v: type(v) is int and v >= 0, SPLIT_SEED),
        class_counts=entry("class_counts", listed((int,), n_classes), None) if classifies else None,
        labels=n_out if net.output == "sigmoid" and n_out > 1 else 0,
        target_mean=None if classifies else entry("target_mean", values, None),
        target_range=None if classifies else entry("target_range", ranged, None),
    )


def _date_formats(value: Any) -> bool:
    try:
        return isinstance(value, dict) and all(dates.check_format(form) for form in value.values())
    except (TypeError, ValueError):
        return False


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


def answer(net: FNN, notes: Notes, X: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return what a network says of samples: the probability of each class or label, or values."""
    if notes.labels:
        return np.asarray(net.predict_proba(X), np.float64)
    return probabilities(net, X) if notes.classes is not None else predicted(net, X, notes.target_range)


@dataclass(frozen=True)
class Assessment:
    """What a network is worth on a table, and the values that a picture of it needs."""

    scores: dict[str, Any]
    missing: int  # samples without a target
    points: tuple[npt.NDArray[Any], npt.NDArray[Any]] | None  # truth, prediction of values; some of many


class Assessor:
    """Collects the answers of a network to samples whose truth is known.

    Probabilities of classes or values, and the truth, are all that is kept of a table that is read in parts,
    on disk where they are many.
    """

    def __init__(self, net: FNN, notes: Notes, threshold: float | None) -> None:
        self._notes, self._threshold = notes, threshold
        self._outputs = int(net.sizes[-1])
        self._truth, self._answers, self._decisions = Rows(), Rows(), Rows()
        self._unseen: Counter[str] = Counter()
        self._missing = 0

    def add(self, table: tables.Table, answers: npt.NDArray[Any]) -> None:
        """Keep the answers to the samples of a table whose target is there."""
        if table.values is None:
            return
        if self._notes.classes is not None:
            truth: npt.NDArray[Any]
            truth, unseen = table.class_numbers(self._notes.classes)
            self._unseen.update(unseen)
            there = truth >= 0
        else:
            truth = table.numbers()
            columns = truth.reshape(len(truth), -1)
            if columns.shape[1] != self._outputs:
                return
            there = np.asarray(np.isfinite(columns).all(axis=1))
            if self._notes.labels and (wrong := ~np.isin(columns[there], (0.0, 1.0))).any():
                raise ValueError(
                    f"{table.path}: the target {table.target!r} must hold 0 and 1 for a model of "
                    f"{self._outputs} labels, got {columns[there][wrong][0]:g}"
                )
        self._missing += int(np.count_nonzero(~there))
        if there.any():
            truth, answers = truth[there], answers[there]
            self._truth.append(truth > 0.5 if self._notes.labels else truth)
            self._answers.append(answers)
            if self._notes.classes is not None:
                self._decisions.append(decide(answers, self._notes.classes, self._threshold))

    def found(self) -> Assessment | None:
        """Return what the network is worth, None where no sample had a target."""
        if not len(self._truth):
            return None
        truth, got, notes = self._truth, self._answers, self._notes
        if notes.labels:
            return Assessment(answers.of_labels(got, truth, self._threshold), self._missing, None)
        if notes.classes is None:
            scores = answers.of_values(got, truth, mean=notes.target_mean)
            step = -(-len(truth) // plots.MOST_POINTS)
            return Assessment(scores, self._missing, (truth[::step], got[::step]))
        unseen = dict(self._unseen.most_common())
        scores = answers.of_classes(
            got, self._decisions, truth, notes.classes, counts=notes.class_counts, unseen=unseen
        )
        return Assessment(scores, self._missing, None)


def load(path: str) -> tuple[FNN, Notes]:
    """Return a network from its file, ready to predict, and the notes beside it."""
    from nbnorm.model.network import FNN

    net = FNN.load(path).eval()
    return net, read_notes(path, net)


class Part(NamedTuple):
    """Some samples of a table, as they were read and as the network takes them."""

    table: tables.Table
    X: npt.NDArray[Any]


class Samples:
    """The samples that the command line names, for a network, read in parts.

    Attributes
    ----------
    count : int
        Samples read so far.
    """

    def __init__(self, args: argparse.Namespace, net: FNN, notes: Notes) -> None:
        self._net, self._notes = net, notes
        self._file, self._model = args.file, args.model
        self._parts, self._what = _parts(args, notes)
        self.count = self._gaps = 0
        self._first_gap = ""

    def __iter__(self) -> Iterator[Part]:
        """Yield the parts."""
        for table in self._parts:
            part = Part(table, self._filled(table))
            self.count += len(table)
            yield part

    @property
    def what(self) -> str:
        """How to call the samples."""
        return self._what or f"{plural(self.count, 'sample')} of {whole(self._file)}"

    @property
    def notes(self) -> list[str]:
        """What was guessed, and which gaps were filled."""
        said = list(self._parts.notes) if isinstance(self._parts, tables.Parts) else []
        if self._gaps:
            said.append(
                f"{plural(self._gaps, 'sample')} with gaps where training had none, which are "
                f"taken as the mean; the first is {whole(self._first_gap)}"
            )
        return said

    def _filled(self, table: tables.Table) -> npt.NDArray[Any]:
        """Return the samples of a table for the network, without gaps."""
        encoder, standardizer = self._notes.inputs.encoder, self._net.standardizer
        expected = self._net.sizes[0] if encoder is None else encoder.n_features_in_
        if not isinstance(table.data, dict) and table.data.shape[1] != expected:
            width = plural(table.data.shape[1], "feature")
            raise ValueError(f"{self._file} has {width}, and {self._model} was trained on {expected}")
        X = self._notes.inputs.transform(table)
        if X.dtype.kind != "f" or not (gaps := np.isnan(X)).any():
            return X
        row, column = (int(k) for k in np.argwhere(gaps)[0])
        if standardizer is None:
            raise ValueError(
                f"{table.location(row, column)}: missing value, and the model knows no mean for it"
            )
        self._first_gap = self._first_gap or table.location(row, column)
        self._gaps += int(gaps.any(axis=1).sum())
        return np.where(gaps, standardizer.mean_, X)


def _parts(args: argparse.Namespace, notes: Notes) -> tuple[Iterable[tables.Table], str]:
    """Return the samples that the command line names, and how to call them if not by their number."""
    if args.file in ("digits", "mnist") or is_npz(args.file):
        refuse_options(args, args.file, "target")
        refuse_columns(args, args.file)
    if args.file == "mnist":
        _, (X, y) = datasets.load_mnist(args.data_dir, progress=lambda line: print(line, file=sys.stderr))
        return [tables.Table("mnist", X, None, "y", y)], "the 10,000 test images of mnist"
    refuse_options(args, args.file, "data_dir")
    if args.file == "digits":
        X, y = datasets.load_digits()
        if notes.data != "digits":
            return [tables.Table("digits", X, None, "y", y)], f"all {len(X):,} digits"
        _, test = datasets.split_rows(y, test_size=notes.test_size, seed=notes.split_seed, stratify=True)
        what = f"the {len(test):,} digits held out from training"
        return [tables.Table("digits", X[test], None, "y", y[test])], what
    # A target that the command line names has to be there; that of the training may be missing.
    named = args.target is not None
    kinds = notes.inputs.kinds()
    return tables.open_table(
        args.file,
        target=args.target if named else notes.target,
        features=notes.features,
        need_target=named,
        categories=[name for name, kind in kinds.items() if kind == "category"],
        kinds=kinds or (None if notes.features is None else dict.fromkeys(notes.features, "number")),
        date_formats=notes.date_formats,
        **given_columns(args),
    ), ""


@contextlib.contextmanager
def explained(net: FNN, notes: Notes, part: Part) -> Iterator[None]:
    """Say which value lies farthest from the training data where a network refuses its input."""
    try:
        yield
    except ValueError as error:
        X = part.X.astype(np.float64)
        if net.standardizer is not None:
            X = (X - net.standardizer.mean_) / net.standardizer.scale_
        row, column = (int(i) for i in np.unravel_index(np.argmax(np.abs(X)), X.shape))
        named = replace(part.table, features=_names(notes, part.table))
        location = named.location(row, column)
        far = f"the value farthest from the training data is {part.X[row, column]:g} in {location}"
        raise ValueError(f"{error}; {far}") from None


def _names(notes: Notes, table: tables.Table) -> tuple[str, ...] | None:
    names = notes.inputs.names(table.features)
    return None if names is None else tuple(names)


def add_samples(parser: argparse.ArgumentParser) -> None:
    """Add what names a model and samples for it."""
    parser.add_argument("model", metavar="MODEL", help="a file that nbnorm train has saved")
    parser.add_argument(
        "file",
        metavar="FILE",
        help="digits, mnist, a CSV, Parquet, Arrow or NPZ file, or a folder of Parquet or of Arrow files",
    )
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
        help="probability from which the second of two classes is predicted (default: the likelier class)",
    )
