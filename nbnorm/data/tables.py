"""Tables of samples in CSV and NPZ files, for the command line.

A CSV file has a header line with the names of its columns, and numbers in every feature column; `docs/cli.md`
states its rules.  An NPZ file has an array ``X`` of samples and, unless there is nothing to compare with, an
array ``y`` of targets.
"""

from __future__ import annotations

import math
import os
import re
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from nbnorm import _check, _files
from nbnorm.data import csv_files

# A numeric target is taken for classes when it has no more distinct values than this, all whole.
MOST_CLASSES = 20
TASKS = ("auto", "classification", "regression")
# Bytes of a CSV file that are held as text at a time.
CHUNK = 8 << 20
# Values whose squares, and sums of them, float64 holds without loss lie between this and its reciprocal.
LARGEST = 1e145
# A label that stays the same when it is made an integer.
_WHOLE = re.compile("0|-?[1-9][0-9]{0,14}")


@dataclass(frozen=True)
class Target:
    """A target in the form that a network is trained on.

    Attributes
    ----------
    task : {"classification", "regression"}
    y : ndarray
        Class numbers, int64 of shape (n_samples,), or float64 values of shape (n_samples,) or
        (n_samples, n_outputs).
    classes : tuple of str or tuple of int, or None
        The label of each class number, sorted by value if all are numbers, otherwise as text; None for
        regression.
    """

    task: str
    y: npt.NDArray[Any]
    classes: tuple[str, ...] | tuple[int, ...] | None


@dataclass(frozen=True)
class Table:
    """Samples read from a file.

    Attributes
    ----------
    path : str
    X : ndarray, shape (n_samples, n_features)
        float64 from CSV; from NPZ as stored.
    features : tuple of str or None
        Names of the columns of `X`; None from NPZ.
    target : str or None
        Name of the target column; ``"y"`` from NPZ; None when the file has none.
    values : list of str, ndarray or None
        The target as it stands in the file.
    lines : sequence of int
        Line in the file of each sample; empty from NPZ.
    """

    path: str
    X: npt.NDArray[Any]
    features: tuple[str, ...] | None
    target: str | None
    values: list[str] | npt.NDArray[Any] | None
    lines: Sequence[int] = ()

    def encode(self, task: str = "auto") -> Target:
        """Return the target ready for training.

        Parameters
        ----------
        task : {"auto", "classification", "regression"}
            With "auto", a target that holds anything but numbers is classification, and so is one of whole
            numbers with at most `MOST_CLASSES` different labels; every other target is regression.

            The labels of a CSV file are the text that stands there: ``7``, ``07``, ``7.0`` and ``7e0`` are
            four classes.  Classes that are all written as Python writes integers are given as integers.

        Returns
        -------
        Target

        Raises
        ------
        ValueError
            If a value is missing, or no number where one is needed.
        """
        _check.choice("task", task, TASKS)
        if isinstance(self.values, list):
            return self._encode_text(self.values, task)
        if self.values is None:
            raise ValueError(f"{self.path} has no target to train on")
        return self._encode_array(self.values, task)

    def _encode_text(self, values: list[str], task: str) -> Target:
        texts = [csv_files.plain(value) for value in values]
        numbers = csv_files.numbers(texts)
        if task == "regression" and numbers is None:
            row = next(i for i, text in enumerate(texts) if csv_files.number(text) is None)
            raise ValueError(f"{self._place(row)}: expected a number, got {csv_files.shown(texts[row])}")
        # A missing number is no class, while in text "none" and the like may be one.
        for row, text in enumerate(texts):
            if not text or (numbers is not None and math.isnan(numbers[row])):
                raise ValueError(f"{self._place(row)}: the target is missing")
        labels = set(texts)
        few = len(labels) <= MOST_CLASSES
        if numbers is not None and (
            task == "regression" or (task == "auto" and not (few and _are_whole(numbers)))
        ):
            if not np.isfinite(numbers).all():
                row = int(np.argmin(np.isfinite(numbers)))
                raise ValueError(f"{self._place(row)}: must be finite, got {numbers[row]}")
            return self._encode_array(numbers, "regression")
        classes = _sorted(labels)
        codes = {label: code for code, label in enumerate(classes)}
        y = np.array([codes[text] for text in texts], np.int64)
        if all(_WHOLE.fullmatch(label) for label in classes):
            return Target("classification", y, tuple(int(label) for label in classes))
        return Target("classification", y, tuple(classes))

    def _encode_array(self, values: npt.NDArray[Any], task: str) -> Target:
        if values.dtype.kind == "U":
            if task == "regression":
                raise ValueError(f"{self.path}: y must hold numbers for regression, got text")
            classes, y = np.unique(values, return_inverse=True)
            return Target("classification", y.astype(np.int64), tuple(classes.tolist()))
        _check.finite(self.target or "y", values)
        whole = values.ndim == 1 and _are_whole(values)
        if task == "classification" and not whole:
            raise ValueError(
                f"{self.path}: classes must be text or whole numbers in one column, "
                f"and {self.target!r} holds others: train with --task regression"
            )
        if whole and task != "regression":
            classes, y = np.unique(values.astype(np.int64), return_inverse=True)
            if task == "classification" or len(classes) <= MOST_CLASSES:
                return Target("classification", y.astype(np.int64), tuple(classes.tolist()))
        return Target("regression", values.astype(np.float64), None)

    def class_numbers(self, classes: Sequence[str | int]) -> tuple[npt.NDArray[np.int64], dict[str, int]]:
        """Return the class number of each target.

        Parameters
        ----------
        classes : sequence of str or of int
            The labels that a model knows.

        Returns
        -------
        numbers : ndarray of int64, shape (n_samples,)
            -1 where the target is missing, ``len(classes)`` where it is none of the classes.
        unseen : dict of str to int
            The labels that are none of the classes, and how often each occurs, the most frequent first.
        """
        known = {label: number for number, label in enumerate(classes)}
        values = [] if self.values is None else self.values
        if isinstance(values, list):
            labels: list[Any] = [csv_files.plain(value) for value in values]
        else:
            labels = values.tolist()
        of_numbers = bool(classes) and isinstance(classes[0], int)
        if isinstance(values, list) or not of_numbers:
            known = {str(label): number for label, number in known.items()}
            labels = [str(label) for label in labels]

        def is_missing(label: Any) -> bool:
            if label in known:
                return False
            if isinstance(label, str):
                number = csv_files.number(label) if of_numbers else None
                return not label or (number is not None and math.isnan(number))
            return isinstance(label, float) and math.isnan(label)

        numbers = [-1 if is_missing(label) else known.get(label, len(classes)) for label in labels]
        unseen = Counter(str(lb) for lb, at in zip(labels, numbers, strict=True) if at == len(classes))
        return np.array(numbers, dtype=np.int64), dict(unseen.most_common())

    def numbers(self) -> npt.NDArray[np.float64]:
        """Return the target as numbers, NaN where it is missing or none.

        Returns
        -------
        ndarray of float64, shape (n_samples,) or (n_samples, n_outputs)
        """
        if isinstance(self.values, np.ndarray) and self.values.dtype.kind != "U":
            return self.values.astype(np.float64)
        got = [csv_files.number(str(value)) for value in ([] if self.values is None else self.values)]
        return np.array([math.nan if value is None else value for value in got], dtype=np.float64)

    def place(self, row: int, column: int) -> str:
        """Return where an element of `X` stands in the file, for a message.

        Parameters
        ----------
        row, column : int

        Returns
        -------
        str
        """
        if self.features is None:
            return f"{self.path}: X[{row}, {column}]"
        return csv_files.place(self.path, self.lines[row], self.features[column])

    def _place(self, row: int) -> str:
        return csv_files.place(self.path, self.lines[row], str(self.target))


def _are_whole(values: npt.NDArray[Any]) -> bool:
    # Beyond 2**53 a float is whole whatever was meant.
    return bool(np.all((values == np.floor(values)) & (np.abs(values) < 2.0**53)))


def refuse_range(name: str, columns: Sequence[str], X: npt.NDArray[Any]) -> None:
    """Refuse columns whose variance might overflow or underflow float64.

    Parameters
    ----------
    name : str
        The file.
    columns : sequence of str
    X : ndarray, shape (n, n_columns)
        Their values, or the smallest and the largest of each.

    Raises
    ------
    ValueError
        If the values of a column are too large or too small.

    Examples
    --------
    >>> refuse_range("x.csv", ["a"], np.array([[-1e200], [1.0]]))
    Traceback (most recent call last):
        ...
    ValueError: x.csv: column 'a' has values up to 1e+200, whose variance is beyond float64: use a larger unit
    """
    if X.dtype.kind != "f":
        return
    # as Python's floats, because float32 cannot be compared with what it cannot hold
    for column, largest in zip(columns, np.maximum(X.max(axis=0), -X.min(axis=0)).tolist(), strict=True):
        if largest > LARGEST or 0 < largest < 1 / LARGEST:
            unit = "larger" if largest > 1 else "smaller"
            raise ValueError(
                f"{name}: column {csv_files.shown(column)} has values up to {largest:g}, whose variance is "
                f"beyond float64: use a {unit} unit"
            )


def _sorted(labels: set[str]) -> list[str]:
    """Return labels in order: by value if all are numbers, otherwise as text."""
    values = {label: csv_files.number(label) for label in labels}
    if any(value is None for value in values.values()):
        return sorted(labels)
    return sorted(labels, key=lambda label: (values[label], label))


def read_table(
    path: _files.PathLike,
    *,
    target: str | None = None,
    features: Sequence[str] | None = None,
    need_target: bool = True,
) -> Table:
    r"""Read samples and their target from a CSV or NPZ file.

    Parameters
    ----------
    path : str or path
        A file that ends in ``.csv``, ``.tsv``, ``.txt`` or ``.npz``.
    target : str, optional
        Name of the target column of a CSV file, by default the last one.
    features : sequence of str, optional
        Names of the feature columns of a CSV file, in the order in which they are wanted; others
        are not read.  By default all columns but the target, in the file's order.
    need_target : bool
        Whether the target must be there.  Without it, and without `target`, every column is a
        feature.

    Returns
    -------
    Table

    Raises
    ------
    ValueError
        If the file is not such a table; a value that is missing or no number is named by line and
        column, and so is a column with values above 1e145.
    OSError
        If the file cannot be read.

    Examples
    --------
    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "iris.csv")
    >>> with open(path, "w") as file:
    ...     _ = file.write("length,width,kind\n5.1,3.5,setosa\n6.3,3.3,virginica\n")
    >>> table = read_table(path)
    >>> table.features, table.X.shape, table.encode().classes
    (('length', 'width'), (2, 2), ('setosa', 'virginica'))
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".npz":
        return _read_npz(path, need_target)
    if suffix in (".csv", ".tsv", ".txt"):
        return _read_csv(path, target, features, need_target)
    raise ValueError(f"{os.fspath(path)} must be a table that ends in .csv or .npz")


# ----------------------------------------------------------------------------------------------
# CSV
# ----------------------------------------------------------------------------------------------


def _read_csv(
    path: _files.PathLike, target: str | None, features: Sequence[str] | None, need_target: bool
) -> Table:
    reader = csv_files.Reader(path)
    if target is None and need_target:
        target = reader.columns[-1]
    at = None
    if target is not None and (need_target or target in reader.places):
        at = reader.place_of(target, "target column")
    if features is None:
        chosen = [i for i in range(len(reader.columns)) if i != at]
    else:
        chosen = [reader.place_of(feature, "feature column") for feature in features]
    if not chosen:
        raise ValueError(f"{reader.name} needs a feature column beside the target {target!r}")
    data, lines = array("d"), array("q")
    values: list[str] | None = None if at is None else []
    for part in reader.rows(chosen, [] if at is None else [at], CHUNK):
        data.frombytes(part.numbers.tobytes())
        lines.extend(part.lines)
        if values is not None:
            values += part.texts[0]
    if not lines:
        raise ValueError(f"{reader.name} has no rows below its header line")
    X = np.frombuffer(data, np.float64).reshape(-1, len(chosen))
    names = tuple(reader.columns[i] for i in chosen)
    refuse_range(reader.name, names, X)
    return Table(reader.name, X, names, None if at is None else target, values, lines)


# ----------------------------------------------------------------------------------------------
# NPZ
# ----------------------------------------------------------------------------------------------


def _read_npz(path: _files.PathLike, need_target: bool) -> Table:
    name = os.fspath(path)
    with _files.open_npz(path) as archive:
        keys = [member.removesuffix(".npy") for member in archive.namelist()]
        missing = [key for key in (("X", "y") if need_target else ("X",)) if key not in keys]
        X = None if missing else _files.read_array(archive, "X")
        y = _files.read_array(archive, "y") if "y" in keys and not missing else None
    if X is None:
        raise ValueError(f"{name} must hold an array {missing[0]!r}; it holds {', '.join(keys) or 'none'}")
    X = _check.numeric(f"{name}: X", X)
    if X.ndim < 2 or X.size == 0:
        raise ValueError(f"{name}: X must have shape (n_samples, n_features), got shape {X.shape}")
    X = X.reshape(len(X), -1)
    _check.finite(f"{name}: X", X)
    refuse_range(name, [f"X[:, {j}]" for j in range(X.shape[1])], X)
    if y is None:
        return Table(name, X, None, None, None)
    if y.dtype.kind == "S":
        y = np.char.decode(y, "utf-8", "replace")
    if y.dtype.kind not in "fiubU":
        raise ValueError(f"{name}: y must hold numbers or text, got dtype {y.dtype}")
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim not in (1, 2) or (y.ndim == 2 and y.dtype.kind == "U") or y.size == 0:
        raise ValueError(f"{name}: y must have shape (n_samples,), got shape {y.shape}")
    if len(y) != len(X):
        raise ValueError(f"{name}: X and y must have the same length: X has {len(X)}, y has {len(y)}")
    return Table(name, X, None, "y", y)


def write_csv(file: IO[str], columns: dict[str, Sequence[Any]]) -> None:
    r"""Write named columns of equal length as CSV.

    Parameters
    ----------
    file : text file
    columns : dict of str to sequence
        Numbers are written so that they are read back exactly.

    Examples
    --------
    >>> import sys
    >>> write_csv(sys.stdout, {"prediction": ["cat", "dog"], "probability": [0.5, 1.0]})
    prediction,probability
    cat,0.5
    dog,1.0
    """
    file.write(csv_files.header("the table", list(columns)))
    for row in zip(*columns.values(), strict=True):
        file.write(csv_files.line(csv_files.protected(v) if isinstance(v, str) else repr(v) for v in row))
