"""Tables of samples in CSV, Parquet, Arrow and NPZ files, for the command line.

A column holds numbers, text, booleans or dates, and gaps in them; `docs/cli.md` states the rules of CSV.  An
NPZ file has an array ``X`` of samples and, unless there is nothing to compare with, one ``y`` of targets.
"""

from __future__ import annotations

import itertools
import math
import os
import re
import reprlib
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nbnorm import _check, _files
from nbnorm._types import ArrowRows
from nbnorm.data import arrow_files, csv_files
from nbnorm.data.columns import Kind
from nbnorm.data.csv_columns import csv_columns, typed
from nbnorm.data.number_formats import PLAIN

# A numeric target is taken for classes when it has no more distinct values than this, all whole.
MOST_CLASSES = 20
TASKS = ("auto", "classification", "regression")
# Bytes of a CSV file that are kept as text at a time.
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
    data : ndarray, shape (n_samples, n_features), or dict of str to ndarray
        One array where all columns hold numbers: float64 from CSV, from NPZ as stored.  Otherwise the columns
        by name: numbers, booleans, dates as datetime64, text as objects with None for gaps.
    features : tuple of str or None
        Names of the columns of `data`; None from NPZ.
    target : str or None
        Name of the target column; ``"y"`` from NPZ; None when the file has none.
    values : list of str, ndarray or None
        The target as it stands in the file.
    lines : sequence of int
        Line in the file of each sample; empty but from CSV.
    notes : tuple of str
        What was guessed when the file was read.
    date_formats : mapping of str to str
        How the dates of columns are written, where that is not ISO 8601.
    first : int
        Number in the file of the first sample, if these are a part of it.
    """

    path: str
    data: npt.NDArray[Any] | dict[str, npt.NDArray[Any]]
    features: tuple[str, ...] | None
    target: str | None
    values: list[str] | npt.NDArray[Any] | None
    lines: Sequence[int] = ()
    notes: tuple[str, ...] = ()
    date_formats: Mapping[str, str] = field(default_factory=dict)
    first: int = 0

    def __repr__(self) -> str:
        """Show the size and the names of some columns."""
        names = reprlib.repr(self.features if self.features is None else list(self.features))
        return f"Table({self.path!r}, rows={len(self)}, features={names}, target={self.target!r})"

    @property
    def X(self) -> npt.NDArray[Any]:
        """Samples as an array of numbers; a `ValueError` names the first column of something else."""
        if not isinstance(self.data, dict):
            return self.data
        column = next(name for name, values in self.data.items() if values.dtype.kind not in "fiub")
        raise ValueError(f"{self.path}: column {csv_files.shown(column)} holds no numbers")

    def frame(self) -> Mapping[str, npt.NDArray[Any]]:
        """Return the columns by name."""
        if isinstance(self.data, dict):
            return self.data
        names = self.features or tuple(f"x{k}" for k in range(self.data.shape[1]))
        return {name: self.data[:, k] for k, name in enumerate(names)}

    def __len__(self) -> int:
        first = next(iter(self.data.values())) if isinstance(self.data, dict) else self.data
        return len(first)

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
            raise ValueError(
                f"{self._target_location(row)}: expected a number, got {csv_files.shown(texts[row])}"
            )
        # A missing number is no class, while in text "none" and the like may be one.
        for row, text in enumerate(texts):
            if not text or (numbers is not None and math.isnan(numbers[row])):
                raise ValueError(f"{self._target_location(row)}: the target is missing")
        labels = set(texts)
        few = len(labels) <= MOST_CLASSES
        if numbers is not None and (
            task == "regression" or (task == "auto" and not (few and _are_whole(numbers)))
        ):
            if not np.isfinite(numbers).all():
                row = int(np.argmin(np.isfinite(numbers)))
                raise ValueError(f"{self._target_location(row)}: must be finite, got {numbers[row]}")
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

        def is_missing(label: object) -> bool:
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

    def location(self, row: int, column: int) -> str:
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
        if not self.lines:
            return f"{self.path}, row {self.first + row}, column {csv_files.shown(self.features[column])}"
        return csv_files.location(self.path, self.lines[row], self.features[column])

    def _target_location(self, row: int) -> str:
        if not self.lines:
            return f"{self.path}, row {row}, column {csv_files.shown(str(self.target))}"
        return csv_files.location(self.path, self.lines[row], str(self.target))


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
    for column, largest in zip(columns, np.fmax.reduce(np.abs(X), axis=0).tolist(), strict=True):
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
    only: Sequence[str] = (),
    without: Sequence[str] = (),
    categories: Sequence[str] = (),
    kinds: Mapping[str, Kind] | None = None,
    date_formats: Mapping[str, str] | None = None,
    options: csv_files.CsvOptions | None = None,
) -> Table:
    r"""Read samples and their target from a CSV, Parquet, Arrow or NPZ file.

    Parameters
    ----------
    path : str or path
        A file that ends in ``.csv``, ``.tsv`` or ``.txt``, each also with ``.gz`` behind it, in ``.parquet``,
        ``.feather``, ``.arrow``, ``.ipc`` or ``.npz``.
    target : str, optional
        Name of the target column, by default the last one.
    features : sequence of str, optional
        Names of the feature columns, in the order in which they are wanted; others are not read.  By default
        all columns but the target and an index, in the file's order.
    need_target : bool
        Whether the target must be there.  Without it, and without `target`, every column is a
        feature.
    only, without : sequence of str
        Names of columns to which the file is restricted, and of some that it is taken not to have.
    categories : sequence of str
        Names of columns whose numbers are names, as postal codes are: they are read as text.
    kinds : mapping of str to str, optional
        What columns hold, where that is known: "number", "boolean", "date" or "category"; by default a CSV
        file is looked at.
    date_formats : mapping of str to str, optional
        How the dates of columns are probably written, as formats of `datetime.strptime`.
    options : CsvOptions, optional
        How a CSV file is written.

    Returns
    -------
    Table

    Raises
    ------
    ValueError
        If the file is not such a table; a value that is not of its column's kind is named by line and column,
        and so is a column with values above 1e145.
    ImportError
        If the file needs pyarrow and that is not installed.
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
    >>> read_table(path, target="width").data["kind"]
    array(['setosa', 'virginica'], dtype=object)
    """
    return open_table(
        path,
        target=target,
        features=features,
        need_target=need_target,
        only=only,
        without=without,
        categories=categories,
        kinds=kinds,
        date_formats=date_formats,
        options=options,
    ).read()


def open_table(
    path: _files.PathLike,
    *,
    kinds: Mapping[str, Kind] | None = None,
    date_formats: Mapping[str, str] | None = None,
    options: csv_files.CsvOptions | None = None,
    **wanted: Any,
) -> Parts:
    """Return a table that is read in parts; parameters and errors are those of `read_table`.

    A folder of Parquet or of Arrow files is such a table, too.  NPZ files are one part.
    """
    ending = csv_files.suffix(path)
    if ending not in CSV_ENDINGS:
        csv_files.refuse_options(path, options)
    if ending == ".npz":
        for name in ("only", "without", "categories"):
            if given := wanted.get(name):
                raise ValueError(f"{name} names {given[0]!r}, and {os.fspath(path)} has no column names")
        return _NpzParts(_read_npz(path, wanted.get("need_target", True)))
    wanted.setdefault("need_target", True)
    if ending in CSV_ENDINGS:
        reader = csv_files.Reader(path, options)
        index = () if reader.index is None else (reader.columns[reader.index],)
        chosen = choose_columns(reader.name, reader.columns, index, **wanted)
        return _CsvParts(reader, chosen, wanted.get("categories", ()), kinds or {}, date_formats or {})
    if ending in arrow_files.ENDINGS or os.path.isdir(path):
        folder = os.path.isdir(path)
        return _ArrowParts(arrow_files.ArrowFolder(path) if folder else arrow_files.ArrowFile(path), wanted)
    raise ValueError(f"{os.fspath(path)} must be a table that ends in .csv, .parquet, .feather or .npz")


CSV_ENDINGS = (".csv", ".tsv", ".txt")


class Chosen(NamedTuple):
    """Columns of a file that are wanted."""

    features: list[str]
    target: str | None


def choose_columns(
    name: str,
    columns: Sequence[str],
    index: Collection[str],
    *,
    target: str | None = None,
    features: Sequence[str] | None = None,
    need_target: bool = False,
    only: Sequence[str] = (),
    without: Sequence[str] = (),
    categories: Sequence[str] = (),
) -> Chosen:
    """Return the features and the target of a table, after checking that they are there."""

    def check(wanted: Iterable[str], role: str, among: Sequence[str]) -> None:
        known = set(among)
        for one in wanted:
            if one not in known:
                listed = ", ".join(among[:12]) + (", ..." if len(among) > 12 else "")
                raise ValueError(f"{name} has no {role} {one!r}; it has {listed}")

    check((*only, *without), "column", columns)
    there = [
        column
        for column in columns
        if (not only or column in only or column == target) and column not in without
    ]
    # an index is read where it is named
    usual = [column for column in there if column not in index or column in only]
    if target is None and need_target and usual:
        target = usual[-1]
    if target is not None and (need_target or target in there):
        check([target], "target column", there)
    else:
        target = None
    if features is None:
        features = [column for column in usual if column != target]
    chosen = list(features)
    check(chosen, "feature column", there)
    if not chosen:
        beside = "" if target is None else f" beside the target {target!r}"
        raise ValueError(f"{name} needs a feature column{beside}, and none is left")
    check(categories, "feature column", chosen)
    return Chosen(chosen, target)


class Parts:
    """A table that is read a number of rows at a time, any number of times.

    Attributes
    ----------
    name : str
        The file, for messages.
    features : tuple of str or None
    target : str or None
    notes : tuple of str
        What was guessed.
    date_formats : dict of str to str
        How the dates of columns are written, where that is not ISO 8601.
    """

    name: str
    features: tuple[str, ...] | None
    target: str | None
    notes: tuple[str, ...] = ()
    date_formats: Mapping[str, str] = {}

    def __iter__(self) -> Iterator[Table]:
        """Yield the parts, none of which is empty; a `ValueError` says that there is none."""
        raise NotImplementedError

    def read(self) -> Table:
        """Return the whole table."""
        parts = list(self)
        whole = parts[0] if len(parts) == 1 else _joined(parts)
        if not isinstance(whole.data, dict):
            refuse_range(self.name, whole.features or (), whole.data)
        else:
            for column, values in whole.data.items():
                if values.dtype.kind == "f":
                    refuse_range(self.name, [column], values[:, np.newaxis])
        return replace(whole, date_formats=dict(self.date_formats))


def _joined(parts: Sequence[Table]) -> Table:
    """Return parts of a table as one."""
    first = parts[0]
    data: Any
    if all(not isinstance(part.data, dict) for part in parts):
        data = np.concatenate([part.X for part in parts])
    else:
        frames = [part.frame() for part in parts]
        data = {name: np.concatenate([frame[name] for frame in frames]) for name in frames[0]}
    values: Any = None
    if isinstance(first.values, np.ndarray):
        values = np.concatenate([np.asarray(part.values) for part in parts])
    elif first.values is not None:
        values = [value for part in parts for value in part.values or ()]
    lines = array("q", itertools.chain.from_iterable(part.lines for part in parts))
    return replace(first, data=data, values=values, lines=lines)


class _CsvParts(Parts):
    def __init__(
        self,
        reader: csv_files.Reader,
        chosen: Chosen,
        categories: Sequence[str],
        kinds: Mapping[str, Kind],
        date_formats: Mapping[str, str],
    ) -> None:
        self._reader, self.name = reader, reader.name
        self.features, self.target = tuple(chosen.features), chosen.target
        known = {**kinds, **dict.fromkeys(categories, "category")}
        self._columns = csv_columns(reader, chosen.features, kinds=known, date_formats=date_formats)
        self.notes = tuple(reader.notes)
        self.date_formats = {
            name: column.date_format for name, column in self._columns.items() if column.date_format
        }

    def __iter__(self) -> Iterator[Table]:
        """Yield the parts, none of which is empty."""
        reader, columns = self._reader, self._columns
        numeric = [name for name, column in columns.items() if column.kind in ("number", "empty")]
        others = [name for name, column in columns.items() if column.kind not in ("number", "empty")]
        text = [*others, *([] if self.target is None else [self.target])]
        at_numbers, at_text = ([reader.positions[column] for column in group] for group in (numeric, text))
        empty = True
        for part in reader.rows(at_numbers, at_text, CHUNK, gaps=True):
            empty = False
            data: Any = part.numbers
            if others:
                read = dict(zip(numeric, data.T, strict=True))
                for name, fields in zip(others, part.texts, strict=False):
                    read[name] = typed(self.name, name, fields, part.lines, columns[name])
                data = {name: read[name] for name in columns}
            values = None if self.target is None else part.texts[-1]
            if values is not None and reader.numbers != PLAIN:  # a target of numbers
                plain = [reader.numbers.plain(value) for value in values]
                values = values if csv_files.numbers(plain) is None else plain
            yield Table(self.name, data, self.features, self.target, values, part.lines, self.notes)
        if empty:
            raise ValueError(f"{self.name} has no rows below its header line")


# ----------------------------------------------------------------------------------------------
# Parquet and Arrow
# ----------------------------------------------------------------------------------------------


class _ArrowParts(Parts):
    def __init__(
        self, file: arrow_files.ArrowFile | arrow_files.ArrowFolder, columns_wanted: Mapping[str, Any]
    ) -> None:
        self._file, self.name = file, file.name
        self._categories = columns_wanted.get("categories", ())
        stored = arrow_files.index_of(file.schema)
        csv_files.check_names(file.name, file.schema.names)
        chosen = choose_columns(file.name, file.schema.names, stored, **columns_wanted)
        self.features, self.target = tuple(chosen.features), chosen.target
        self._wanted = [*chosen.features, *([] if chosen.target is None else [chosen.target])]
        left_out = sorted(stored - set(self._wanted))
        self.notes = tuple(f"The index {one!r} of pandas is left out" for one in left_out)

    def __iter__(self) -> Iterator[Table]:
        """Yield the parts, none of which is empty."""
        first = 0
        for batch in self._file.batches(self._wanted):
            for start in range(0, len(batch), arrow_files.ROWS):
                part = batch.slice(start, arrow_files.ROWS)
                one = of_arrow(self.name, part, self.features or (), self.target, self._categories, first)
                yield replace(one, notes=self.notes)
                first += len(part)
        if not first:
            raise ValueError(f"{self.name} has no rows")


def of_arrow(
    name: str,
    rows: ArrowRows,
    features: Sequence[str],
    target: str | None = None,
    categories: Sequence[str] = (),
    first: int = 0,
) -> Table:
    """Return rows of an Arrow table or record batch.

    Parameters
    ----------
    name : str
        The file, for messages.
    rows : pyarrow.Table or pyarrow.RecordBatch
    features : sequence of str
        Names of the feature columns.
    target : str, optional
        Name of the target column.
    categories : sequence of str
        Features whose numbers are names.
    first : int
        Number in the file of the first row.

    Returns
    -------
    Table

    Raises
    ------
    ValueError
        If a column holds something else than numbers, text, booleans or dates, or an infinite number.
    """
    pa = arrow_files.pyarrow()

    def column(label: str) -> npt.NDArray[Any]:
        found = rows.column(label)
        return arrow_files.as_array(
            name, label, found if isinstance(found, pa.ChunkedArray) else pa.chunked_array([found])
        )

    columns = {label: column(label) for label in features}
    for label in categories:
        columns[label] = _as_text(columns[label])
    values: Any = None
    if target is not None:
        values = column(target)
        if values.dtype.kind == "O":
            values = ["" if value is None else csv_files.protected(str(value)) for value in values]
        elif values.dtype.kind not in "fiub":
            raise ValueError(f"{name}: the target {target!r} must hold numbers or text, got {values.dtype}")
    data: Any = columns
    if all(values_of.dtype.kind in "fiub" for values_of in columns.values()):
        data = np.stack([values_of.astype(np.float64) for values_of in columns.values()], axis=1)
        _refuse_infinite(name, features, data, first)
    return Table(name, data, tuple(features), target, values, first=first)


def _refuse_infinite(name: str, columns: Sequence[str], X: npt.NDArray[Any], first: int = 0) -> None:
    """Refuse infinite values; `first` is the number of the first row."""
    if X.dtype.kind == "f" and np.isinf(X).any():
        row, column = (int(k) for k in np.argwhere(np.isinf(X))[0])
        raise ValueError(
            f"{name}, row {first + row}, column {columns[column]!r}: must be finite, got {X[row, column]}"
        )


def _as_text(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return numbers as the names that they are, whole ones without a point."""
    if values.dtype.kind == "O":
        return values
    named = [
        None if value != value else str(int(value)) if float(value).is_integer() else repr(value)
        for value in values.tolist()
    ]
    return np.array(named, object)


# ----------------------------------------------------------------------------------------------
# NPZ
# ----------------------------------------------------------------------------------------------


class _NpzParts(Parts):
    """An NPZ file, which is one part."""

    def __init__(self, table: Table) -> None:
        self.name, self._table = table.path, table
        self.features, self.target = table.features, table.target

    def __iter__(self) -> Iterator[Table]:
        """Yield the parts, none of which is empty."""
        yield self._table

    def read(self) -> Table:
        """Return the whole table."""
        return self._table


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
    labels = [f"X[:, {j}]" for j in range(X.shape[1])]
    _refuse_infinite(name, labels, X)
    refuse_range(name, labels, X)
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


def write_csv(
    file: IO[str], columns: Mapping[str, Sequence[Any]], delimiter: str = ",", *, header: bool = True
) -> None:
    r"""Write named columns of equal length as CSV.

    Parameters
    ----------
    file : text file
    columns : dict of str to sequence
        Numbers are written so that they are read back exactly.
    delimiter : str, default ","
    header : bool, default True
        Whether the names are written.

    Examples
    --------
    >>> import sys
    >>> write_csv(sys.stdout, {"prediction": ["cat", "dog"], "probability": [0.5, 1.0]})
    prediction,probability
    cat,0.5
    dog,1.0
    """
    if header:
        file.write(csv_files.header("the table", list(columns), delimiter))
    for row in zip(*columns.values(), strict=True):
        fields = (csv_files.protected(v) if isinstance(v, str) else repr(v) for v in row)
        file.write(csv_files.line(fields, delimiter))
