"""Tables of samples in CSV and NPZ files, for the command line.

A CSV file has a header line with the names of its columns.  Fields are separated by the first of
comma, semicolon and tab that the header contains; text is UTF-8; every feature is a number.
An NPZ file has an array ``X`` of samples and, unless there is nothing to compare with, an array
``y`` of targets.
"""

from __future__ import annotations

import csv
import math
import os
import zipfile
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import IO, Any, TextIO

import numpy as np
import numpy.typing as npt

from nbnorm import _check, storage

# A numeric target is taken for classes when it has no more distinct values than this, all whole.
MOST_CLASSES = 20
TASKS = ("auto", "classification", "regression")
_MISSING = {"", "na", "n/a", "nan", "null", "none", "?"}


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
        The label of each class number, sorted; None for regression.
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
            With "auto", a target of text is classification, and so is one of at most
            `MOST_CLASSES` distinct whole numbers; every other target is regression.

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
        stripped = [value.strip() for value in values]
        numbers = _numbers(stripped)
        if task == "regression" and numbers is None:
            row = next(i for i, value in enumerate(stripped) if _number(value) is None)
            raise ValueError(f"{self._place(row)}: expected a number, got {_shown(stripped[row])}")
        # A missing number is no class, while in text "none" and the like may be one.
        for row, value in enumerate(stripped):
            if not value or (numbers is not None and math.isnan(numbers[row])):
                raise ValueError(f"{self._place(row)}: the target is missing")
        if numbers is not None:
            return self._encode_array(numbers, task)
        classes, y = np.unique(np.array(stripped), return_inverse=True)
        return Target("classification", y.astype(np.int64), tuple(classes.tolist()))

    def _encode_array(self, values: npt.NDArray[Any], task: str) -> Target:
        if values.dtype.kind == "U":
            if task == "regression":
                raise ValueError(f"{self.path}: y must hold numbers for regression, got text")
            classes, y = np.unique(values, return_inverse=True)
            return Target("classification", y.astype(np.int64), tuple(classes.tolist()))
        _check.finite(self.target or "y", values)
        # Beyond 2**53 a float is whole whatever was meant.
        whole = values.ndim == 1 and bool(np.all((values == np.floor(values)) & (np.abs(values) < 2.0**53)))
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

    def class_numbers(self, classes: Sequence[str | int]) -> npt.NDArray[np.int64]:
        """Return the class number of each target, -1 for a missing or unknown one.

        Parameters
        ----------
        classes : sequence of str or of int
            The labels that a model knows.

        Returns
        -------
        ndarray of int64, shape (n_samples,)
        """
        known = {label: number for number, label in enumerate(classes)}
        values = [] if self.values is None else self.values
        labels: list[Any] = [v.strip() for v in values] if isinstance(values, list) else values.tolist()
        if classes and isinstance(classes[0], int):
            labels = [_number(label) if isinstance(label, str) else label for label in labels]
        elif not isinstance(values, list):
            labels = [str(label) for label in labels]
        return np.array([known.get(label, -1) for label in labels], dtype=np.int64)

    def numbers(self) -> npt.NDArray[np.float64]:
        """Return the target as numbers, NaN where it is missing or none.

        Returns
        -------
        ndarray of float64, shape (n_samples,) or (n_samples, n_outputs)
        """
        if isinstance(self.values, np.ndarray) and self.values.dtype.kind != "U":
            return self.values.astype(np.float64)
        got = [_number(str(value).strip()) for value in ([] if self.values is None else self.values)]
        return np.array([math.nan if value is None else value for value in got], dtype=np.float64)

    def _place(self, row: int) -> str:
        return _place(self.path, self.lines[row], str(self.target))


def _place(name: str, line: int, column: str) -> str:
    return f"{name}, line {line}, column {column!r}"


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")


def _number(text: str) -> float | None:
    """Return a field as a number, NaN when it is missing, None when it is neither."""
    if text.lower() in _MISSING:
        return math.nan
    try:
        return float(text)
    except ValueError:
        return None


def _numbers(values: list[str]) -> npt.NDArray[np.float64] | None:
    got = array("d")
    for value in values:
        number = _number(value)
        if number is None:
            return None
        got.append(number)
    return np.frombuffer(got, np.float64)


def read_table(
    path: storage.PathLike,
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
        column.
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


def _header(name: str, file: TextIO) -> tuple[list[str], Iterator[list[str]], Callable[[], int]]:
    """Read the header line; return the column names, the rows below and their line counter."""
    line = file.readline()
    delimiter = next((mark for mark in ",;\t" if mark in line), ",")
    columns = [column.strip() for column in next(csv.reader([line], delimiter=delimiter), [])]
    if not columns:
        raise ValueError(f"{name} has no header line with column names")
    if all(_number(column) is not None for column in columns):
        raise ValueError(f"{name} must begin with a header line of column names, got numbers")
    for at, column in enumerate(columns):
        if not column:
            raise ValueError(f"{name}: column {at + 1} has no name in the header line")
        if column in columns[:at]:
            raise ValueError(f"{name}: two columns are named {column!r}")
    reader = csv.reader(file, delimiter=delimiter)
    return columns, reader, lambda: reader.line_num + 1


def _known(name: str, columns: list[str], wanted: str, role: str) -> int:
    if wanted not in columns:
        shown = ", ".join(columns[:12]) + (", ..." if len(columns) > 12 else "")
        raise ValueError(f"{name} has no {role} {wanted!r}; it has {shown}")
    return columns.index(wanted)


def _read_csv(
    path: storage.PathLike, target: str | None, features: Sequence[str] | None, need_target: bool
) -> Table:
    name = os.fspath(path)
    # newline="" is what the csv module asks for; a byte order mark is no part of the first name.
    with open(path, encoding="utf-8-sig", newline="") as file:
        try:
            columns, rows, line = _header(name, file)
            if target is None and need_target:
                target = columns[-1]
            at = None
            if target is not None and (need_target or target in columns):
                at = _known(name, columns, target, "target column")
            if features is None:
                chosen = [i for i in range(len(columns)) if i != at]
            else:
                chosen = [_known(name, columns, feature, "feature column") for feature in features]
            if not chosen:
                raise ValueError(f"{name} needs a feature column beside the target {target!r}")
            data, values, lines = _parse(name, columns, rows, line, chosen, at)
        except UnicodeDecodeError as error:
            raise ValueError(f"{name} is not UTF-8 text: {error.reason} at byte {error.start}") from None
        except csv.Error as error:
            raise ValueError(f"{name} is not CSV: {error}") from None
    if not lines:
        raise ValueError(f"{name} has no rows below its header line")
    X = np.frombuffer(data, np.float64).reshape(-1, len(chosen))
    if not np.isfinite(X).all():
        row, column = (int(i) for i in np.argwhere(~np.isfinite(X))[0])
        place = f"{name}, line {lines[row]}, column {columns[chosen[column]]!r}"
        got = X[row, column]
        raise ValueError(
            f"{place}: " + ("missing value" if math.isnan(got) else f"must be finite, got {got}")
        )
    names = tuple(columns[i] for i in chosen)
    return Table(name, X, names, None if at is None else target, values, lines)


def _parse(
    name: str,
    columns: list[str],
    rows: Iterator[list[str]],
    line: Callable[[], int],
    chosen: list[int],
    target: int | None,
) -> tuple[array[float], list[str] | None, array[int]]:
    """Return the features row after row, the target's text and the line of each row."""
    data, lines = array("d"), array("q")
    values: list[str] | None = None if target is None else []
    # itemgetter of a single place gives no tuple.
    pick = itemgetter(*chosen) if len(chosen) > 1 else lambda row: (row[chosen[0]],)
    for row in rows:
        if not row:  # an empty line
            continue
        if len(row) != len(columns):
            raise ValueError(f"{name}, line {line()}: got {len(row)} fields, expected {len(columns)}")
        fields = pick(row)
        try:
            data.extend(map(float, fields))
        except ValueError:
            for at, field in zip(chosen, fields, strict=True):
                number = _number(field.strip())
                if number is None or math.isnan(number):
                    place = f"{name}, line {line()}, column {columns[at]!r}"
                    what = (
                        "missing value" if number is not None else f"expected a number, got {_shown(field)}"
                    )
                    raise ValueError(f"{place}: {what}") from None
        lines.append(line())
        if values is not None and target is not None:
            values.append(row[target])
    return data, values, lines


# ----------------------------------------------------------------------------------------------
# NPZ
# ----------------------------------------------------------------------------------------------


def _load(name: str, archive: Any, key: str) -> npt.NDArray[Any]:
    try:
        got = archive[key]
    # Damaged or hostile archives bring nearly every kind of error out of zipfile and numpy.
    except Exception as error:
        raise ValueError(f"{name}: array {key!r} cannot be read: {error}") from None
    if not isinstance(got, np.ndarray):
        raise ValueError(f"{name}: {key!r} is not an array")
    return got


def _read_npz(path: storage.PathLike, need_target: bool) -> Table:
    name = os.fspath(path)
    with open(path, "rb") as file:
        try:
            archive = np.load(file, allow_pickle=False)
        except (ValueError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
            raise ValueError(f"{name} is not an NPZ file: {error}") from None
        keys = list(getattr(archive, "files", ()))
        for key in ("X", "y") if need_target else ("X",):
            if key not in keys:
                raise ValueError(f"{name} must hold an array {key!r}; it holds {', '.join(keys) or 'none'}")
        X = _load(name, archive, "X")
        y = _load(name, archive, "y") if "y" in keys else None
    X = _check.numeric(f"{name}: X", X)
    if X.ndim < 2 or X.size == 0:
        raise ValueError(f"{name}: X must have shape (n_samples, n_features), got shape {X.shape}")
    X = X.reshape(len(X), -1)
    _check.finite(f"{name}: X", X)
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
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
