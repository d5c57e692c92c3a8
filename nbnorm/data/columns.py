"""Columns of a table as numbers: what text, categories, dates, booleans and gaps become.

A table is a frame of pandas or polars, an Arrow table, an array, or a mapping from names to columns.
`TableColumns` learns from one what its columns hold and turns any table of the same kind into a matrix:
numbers stay, booleans are 0 and 1, dates and times of day are counted in days, categories are the numbers
of their levels.  `nbnorm.ColumnEncoder` makes indicators and positions in bins of these.
"""

from __future__ import annotations

import datetime
import decimal
import itertools
import numbers
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from nbnorm import _check
from nbnorm._types import Array
from nbnorm.statistics.encoding import ColumnEncoder

Level: TypeAlias = str | bool | int | float
Kind = Literal["number", "boolean", "date", "duration", "category", "empty"]
KINDS: tuple[Kind, ...] = get_args(Kind)

# What fits beside what: a column of the first kind in training may be one of these later.
_ACCEPTED: dict[str, tuple[str, ...]] = {
    "number": ("number", "boolean", "empty"),
    "boolean": ("number", "boolean", "empty"),
    "date": ("date", "empty"),
    "duration": ("duration", "empty"),
}
_UNITS = {
    "D": 1,
    "h": 24,
    "m": 1440,
    "s": 86_400,
    "ms": 86_400_000,
    "us": 86_400 * 10**6,
    "ns": 86_400 * 10**9,
}

# Rows that a level needs at most, and the fraction of the rows that suffices.
_MOST_FREQUENCY, _FREQUENCY_DIVISOR = 10, 100

# Different levels of a column at most.
_MOST_LEVELS = 1 << 20

# The number of a level that was not there in training; gaps are NaN.
UNSEEN = -1.0


@dataclass(frozen=True)
class Values:
    """One column as it was read.

    Attributes
    ----------
    kind : {"number", "boolean", "date", "duration", "category", "empty"}
    numbers : ndarray, shape (n,)
        Values, or numbers of levels; what is missing is NaN.
    levels : list
        Text, numbers or booleans, for categories and text.
    declared : bool
        Whether the column's type says that it is one of categories (or text).
    """

    kind: Kind
    numbers: Array
    levels: list[Level]
    declared: bool = False

    def described(self) -> str:
        """Return what the column holds, for a message."""
        if self.kind == "category" and all(isinstance(level, str) for level in self.levels):
            return "text"
        return {"category": "categories", "empty": "nothing"}.get(self.kind, f"{self.kind}s")


def _days(ticks: Array, unit: str, missing: Array) -> Array:
    """Return days, the nearest float64 whatever the unit."""
    whole, rest = np.divmod(ticks, _UNITS[unit])
    days = whole.astype(np.float64) + rest / float(_UNITS[unit])
    days[missing] = np.nan
    return days


def _number(values: Array) -> Values:
    gaps = values.dtype.kind == "f" and len(values) and np.isnan(values[0]) and np.isnan(values).all()
    kind: Kind = "empty" if gaps else "boolean" if values.dtype.kind == "b" else "number"
    return Values(kind, values, [])


def _of_levels(codes: Array, levels: Iterable[object]) -> Values:
    """Return a column of categories from numbers of levels, -1 where there is none."""
    known = list(levels)
    numbers_of = np.array([*(np.nan if level is None else k for k, level in enumerate(known)), np.nan])
    found = numbers_of[np.asarray(codes).astype(np.int64)]  # the last one is that of -1
    return Values("category", found, [_plain(level) for level in known], declared=True)


def _plain(level: object) -> Level:
    """Return a level as JSON can hold it: text, a number or a boolean; others by their text."""
    if isinstance(level, np.generic):
        level = level.item()
    return level if isinstance(level, (str, bool, int, float)) else str(level)


def _factorized(values: Sequence[object], missing: Array) -> Values:
    """Return text or numbers as categories."""
    known: dict[Any, int] = {}
    codes = np.full(len(values), -1.0)
    for i in np.flatnonzero(~missing).tolist():
        codes[i] = known.setdefault(values[i], len(known))
    return _of_levels(codes, known)


def _objects(values: Array) -> Values | None:
    """Return a column of Python objects if all that are there are of one kind."""
    missing = np.array([_is_missing(value) for value in values], bool)
    if missing.all():
        return Values("empty", np.full(len(values), np.nan), [])
    there = values[~missing]
    classes = set(map(type, there.tolist()))

    def all_are(*kinds: type) -> bool:
        return all(issubclass(one, kinds) for one in classes)

    if all_are(str):
        return _factorized(values.tolist(), missing)
    if all_are(bool, np.bool_) and not missing.any():
        return Values("boolean", values.astype(bool), [])
    if all_are(numbers.Real, decimal.Decimal, np.bool_):
        found = np.full(len(values), np.nan)
        found[~missing] = there.astype(np.float64)
        return Values("number", found, [])
    if all_are(datetime.date, np.datetime64):
        utc = [_utc(value) for value in there.tolist()]
        stamps = np.full(len(values), np.datetime64("NaT"), "datetime64[us]")
        stamps[~missing] = np.array(utc, "datetime64[us]")
        return _from_numpy(stamps)
    if all_are(datetime.timedelta, np.timedelta64) or all_are(datetime.time):
        spans = np.full(len(values), np.timedelta64("NaT"), "timedelta64[us]")
        spans[~missing] = np.array([_span(value) for value in there.tolist()], object).astype(spans.dtype)
        return _from_numpy(spans)
    return None


def _is_missing(value: object) -> bool:
    """Return whether an object stands for a value that is not there: None, NaN, NaT or pandas' NA."""
    if value is None:
        return True
    try:
        return bool(value != value)
    except TypeError:  # of NA nothing is true or false
        return True
    except ValueError:  # an array
        return False


def _utc(value: object) -> object:
    """Return a time that has a zone in UTC, and without it."""
    if isinstance(value, datetime.datetime) and value.tzinfo is not None:
        return value.astimezone(datetime.timezone.utc).replace(tzinfo=None)
    return value


def _span(value: object) -> object:
    """Return a time of day as a duration."""
    if isinstance(value, datetime.time):
        return datetime.datetime.combine(datetime.date.min, value) - datetime.datetime.min
    return value


def _from_numpy(values: Array) -> Values | None:
    """Return an array as a column."""
    kind = values.dtype.kind
    if kind in "fiub":
        return _number(values)
    if kind in "Mm":
        unit, step = np.datetime_data(values.dtype)
        missing = np.isnat(values)
        if unit not in _UNITS or step != 1:
            values, unit = values.astype(f"{kind}8[s]"), "s"
        ticks = np.where(missing, 0, values.astype(np.int64))
        found = "empty" if missing.all() else "date" if kind == "M" else "duration"
        return Values(found, _days(ticks, unit, missing), [])  # type: ignore[arg-type]
    if kind in "US":
        text = np.char.decode(values, "utf-8", "replace") if kind == "S" else values
        levels, codes = np.unique(text, return_inverse=True)
        return _of_levels(codes.reshape(-1), levels)
    return _objects(values) if kind == "O" else None


def _from_arrow(column: Any) -> Values | None:
    """Return a column of an Arrow table."""
    import pyarrow as pa

    kinds = pa.types
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
        if isinstance(column, pa.ChunkedArray):  # of no rows, or too long for one
            column = pa.concat_arrays(column.chunks)
    if (
        kinds.is_string(column.type)
        or kinds.is_large_string(column.type)
        or str(column.type) == "string_view"
    ):
        column = column.cast(pa.large_string()).dictionary_encode()
    kind = column.type
    if kinds.is_dictionary(kind):
        codes = column.indices.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
        return _of_levels(codes, column.dictionary.to_pylist())
    if kinds.is_date32(kind) or kinds.is_date64(kind):
        stamps = column.cast(pa.timestamp("ms")).cast(pa.int64())
        unit, found = "ms", "date"
    elif kinds.is_timestamp(kind):
        stamps, unit, found = column.cast(pa.int64()), kind.unit, "date"
    elif kinds.is_duration(kind) or kinds.is_time(kind):
        stamps = column.cast(pa.int32() if kinds.is_time32(kind) else pa.int64()).cast(pa.int64())
        unit, found = kind.unit, "duration"
    else:
        if column.null_count == 0 and kinds.is_integer(kind):
            return _number(column.to_numpy(zero_copy_only=False))
        if column.null_count == 0 and kinds.is_boolean(kind):
            return _number(column.to_numpy(zero_copy_only=False))
        values = _check.unboxed(column)
        return None if values is None else _number(values)
    missing = column.is_null().to_numpy(zero_copy_only=False)
    if missing.all():
        return Values("empty", np.full(len(missing), np.nan), [])
    ticks = stamps.fill_null(0).to_numpy(zero_copy_only=False)
    return Values(found, _days(ticks, unit, missing), [])  # type: ignore[arg-type]


def _from_polars(column: Any) -> Values | None:
    """Return a series of polars."""
    polars = sys.modules["polars"]
    kind = column.dtype
    missing = np.asarray(column.is_null().to_numpy())
    if missing.all():
        return Values("empty", np.full(len(missing), np.nan), [])
    if kind in (polars.Categorical, polars.Enum, polars.String):
        text = column.cast(polars.String)
        levels = text.drop_nulls().unique().sort()
        codes = text.replace_strict(levels, list(range(len(levels))), default=-1, return_dtype=polars.Int64)
        return _of_levels(codes.fill_null(-1).to_numpy(), levels.to_list())
    if kind == polars.Date:
        return Values("date", _days(column.to_physical().fill_null(0).to_numpy(), "D", missing), [])
    if kind in (polars.Datetime, polars.Duration, polars.Time):
        ticks = column.to_physical().fill_null(0).to_numpy()
        found: Kind = "date" if kind == polars.Datetime else "duration"
        return Values(found, _days(ticks, getattr(kind, "time_unit", "ns"), missing), [])
    if kind == polars.Object:
        return _objects(np.array(column.to_list(), object))
    if kind == polars.Boolean and not missing.any():
        return Values("boolean", np.asarray(column.to_numpy()), [])
    values = _check.unboxed(column)
    return None if values is None else _number(values)


def _from_pandas(column: Any) -> Values | None:
    """Return a series of pandas."""
    dtype = column.dtype
    if isinstance(dtype, np.dtype):
        return _from_numpy(column.to_numpy())
    if hasattr(dtype, "pyarrow_dtype"):
        import pyarrow as pa

        return _from_arrow(pa.array(column.array))
    if hasattr(dtype, "categories"):
        return _of_levels(column.cat.codes.to_numpy(), dtype.categories.tolist())
    if getattr(dtype, "tz", None) is not None:
        return _from_numpy(column.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy())
    if hasattr(dtype, "freq") and hasattr(column, "dt"):  # periods, by their beginning
        return _from_numpy(column.dt.to_timestamp().to_numpy())
    if column.isna().all():
        return Values("empty", np.full(len(column), np.nan), [])
    if dtype.kind == "O" or "string" in str(dtype):
        return _objects(column.to_numpy(dtype=object, na_value=None))
    if dtype.kind == "b" and not column.isna().any():
        return Values("boolean", column.to_numpy(dtype=bool), [])
    values = _check.unboxed(column)
    return None if values is None else _number(values)


def is_frame(table: object) -> bool:
    """Return whether a table has columns with types of their own.

    Parameters
    ----------
    table : object

    Returns
    -------
    bool

    Examples
    --------
    >>> is_frame({"a": [1, 2]}), is_frame([[1, 2]])
    (True, False)
    """
    if isinstance(table, Mapping):
        return True
    if _check.is_arrow(table):
        return hasattr(table, "schema") and hasattr(table, "columns")
    if type(table).__module__.partition(".")[0] == "polars":
        return hasattr(table, "get_columns")
    return hasattr(table, "iloc") and getattr(table, "ndim", 0) == 2


def read_columns(name: str, table: Any) -> tuple[list[str] | None, list[Values]]:
    """Return the names and the values of a table's columns.

    Parameters
    ----------
    name : str
        Of the argument, for errors.
    table : frame of pandas or polars, Arrow table, mapping of names to columns, or array of two dimensions

    Returns
    -------
    names : list of str or None
        None for an array.
    columns : list of Values

    Raises
    ------
    TypeError
        If a column is none of numbers, booleans, text, categories, dates or durations, or mixes them.
    ValueError
        If the columns differ in length.

    Examples
    --------
    >>> names, columns = read_columns("X", {"a": [1.5, 2.0], "b": ["x", None]})
    >>> names, [column.kind for column in columns], columns[1].levels
    (['a', 'b'], ['number', 'category'], ['x'])
    """
    labels: list[Any] | None
    read: Callable[[Any], Values | None]
    if isinstance(table, Mapping):
        labels, columns = list(table), [_as_column(column) for column in table.values()]
        read = _from_numpy
    elif _check.is_arrow(table):
        labels, columns, read = list(table.schema.names), list(table.columns), _from_arrow
    elif type(table).__module__.partition(".")[0] == "polars":
        labels, columns, read = list(table.columns), list(table.get_columns()), _from_polars
    elif hasattr(table, "iloc"):
        labels, columns = list(table.columns), [table.iloc[:, j] for j in range(table.shape[1])]
        read = _from_pandas
    else:
        values = np.asarray(table)
        _check.rank(name, values, 2)
        labels, columns, read = None, list(values.T), _from_numpy
    if len({len(column) for column in columns}) > 1:
        raise ValueError(f"{name} must have columns of one length, got {sorted({len(c) for c in columns})}")
    found = []
    for j, column in enumerate(columns):
        one = read(column)
        if one is None:
            label = j if labels is None else labels[j]
            kind = getattr(column, "type", getattr(column, "dtype", type(column).__name__))
            raise TypeError(
                f"{name}: column {label!r} must hold numbers, booleans, text, categories, dates or "
                f"durations, of one kind, got {kind}"
            )
        found.append(one)
    return None if labels is None else [str(label) for label in labels], found


def _as_column(column: Array | Iterable[Any]) -> Array:
    """Return a column of a mapping as an array; a list with gaps is one of objects."""
    if isinstance(column, np.ndarray):
        return column
    values = list(column)
    if any(value is None for value in values) or len(set(map(type, values))) > 1:
        found = np.empty(len(values), object)
        found[:] = values
        return found
    return np.asarray(values)


@dataclass(frozen=True)
class Column:
    """What a column is to a network.

    Attributes
    ----------
    name : str
    kind : {"number", "boolean", "date", "duration", "category", "empty"}
        "empty" had nothing but gaps in training: it says only whether there is one.
    levels : tuple
        Levels of a category, in the order of their numbers.
    infrequent : tuple
        Levels that are taken together, behind the others.
    """

    name: str
    kind: Kind
    levels: tuple[Level, ...] = ()
    infrequent: tuple[Level, ...] = ()

    def codes(self) -> dict[Level, float]:
        """Return the number of each level."""
        several = {level: float(len(self.levels)) for level in self.infrequent}
        return {level: float(code) for code, level in enumerate(self.levels)} | several


class _Seen:
    """What the rows of a table so far say of one column."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.kind: Kind = "empty"
        self.dtype = np.dtype(np.float32)
        self.counts: dict[Level, float] = {}
        self.total = 0.0

    def add(self, name: str, column: Values, weights: Array | None, *, is_category: bool) -> None:
        """Take note of more rows, of which categories count by their weights."""
        if is_category:
            column = _categories(column)
        kinds = {self.kind, column.kind} - {"empty"}
        if kinds == {"number", "boolean"}:
            kinds = {"number"}
        if len(kinds) > 1:
            raise TypeError(
                f"{name}: column {self.label!r} must hold values of one kind, got {self.kind}s and "
                f"{column.described()}"
            )
        self.kind = kinds.pop() if kinds else "empty"
        if is_category:
            self._count(name, column, weights)
        elif column.kind != "empty":
            fits = column.kind == "boolean" or (
                column.kind == "number" and np.can_cast(column.numbers.dtype, np.float32)
            )
            self.dtype = np.result_type(self.dtype, np.float32 if fits else np.float64)

    def _count(self, name: str, column: Values, weights: Array | None) -> None:
        self.kind = "category"
        known = ~np.isnan(column.numbers)
        codes = column.numbers[known].astype(np.int64)
        of_levels = None if weights is None else weights[known]
        counts = np.bincount(codes, of_levels, minlength=len(column.levels))
        self.total += float(len(known) if weights is None else weights.sum())
        for level, count in zip(column.levels, counts.tolist(), strict=True):
            if count > 0:
                self.counts[level] = self.counts.get(level, 0.0) + count
        if len(self.counts) > _MOST_LEVELS:
            raise ValueError(
                f"{name}: column {self.label!r} must have at most {_MOST_LEVELS:,} different levels: leave "
                "it out, or make fewer of them"
            )

    def column(self, min_frequency: int | Literal["auto"]) -> Column:
        """Return what the column is."""
        if self.kind != "category":
            return Column(self.label, self.kind)
        least: float = min(_MOST_FREQUENCY, self.total / _FREQUENCY_DIVISOR)
        if not isinstance(min_frequency, str):
            least = min_frequency
        order = sorted(self.counts, key=_sort_key)
        return Column(
            self.label,
            "category",
            tuple(level for level in order if self.counts[level] >= least),
            tuple(level for level in order if self.counts[level] < least),
        )


class TableColumns:
    """How the columns of tables become numbers, as learned from one of them.

    Parameters
    ----------
    categorical : "from_dtype", None or sequence, default "from_dtype"
        Which columns hold categories: those whose type says so and those of text; none; or a mask, names
        or positions of columns.
    min_frequency : int or "auto", default "auto"
        Rows that a level of a category needs to stand by itself; the others are taken together.  "auto" is
        10, or a hundredth of the rows where that is less.

    Attributes
    ----------
    columns_ : list of Column
        What each column is.
    named_ : bool
        Whether the table had names for its columns.
    categorical_ : list of int
        Positions of the columns of categories.
    dtype_ : dtype
        float32 where that holds every column exactly, otherwise float64.

    Raises
    ------
    TypeError, ValueError
        If a parameter is not what is described.

    Notes
    -----
    Dates are days since 1970-01-01 (of UTC, where they have a zone), durations and times of day days; the
    time of day is the fraction.  Levels are compared by value, whatever their container.  In later tables a
    level that was not there is -1, and what is missing is NaN.

    Examples
    --------
    >>> table = {"age": [31, 54, 22], "city": ["Rome", "Oslo", "Rome"], "seen": [True, False, True]}
    >>> columns = TableColumns().fit(table)
    >>> columns.transform(table)
    array([[31.,  1.,  1.],
           [54.,  0.,  0.],
           [22.,  1.,  1.]])
    >>> columns.columns_[1]
    Column(name='city', kind='category', levels=('Oslo', 'Rome'), infrequent=())
    >>> columns.transform({"age": [40], "city": ["Paris"], "seen": [False]})
    array([[40., -1.,  0.]])
    """

    def __init__(
        self,
        categorical: Literal["from_dtype"] | Sequence[Any] | npt.NDArray[Any] | None = "from_dtype",
        *,
        min_frequency: int | Literal["auto"] = "auto",
    ) -> None:
        if isinstance(categorical, str):
            _check.choice("categorical_features", categorical, ("from_dtype",))
        elif categorical is not None:
            given = categorical.tolist() if isinstance(categorical, np.ndarray) else categorical
            known = (str, bool, np.bool_, int, np.integer)
            if not isinstance(given, Sequence) or not all(isinstance(one, known) for one in given):
                raise TypeError(
                    'categorical_features must be "from_dtype", None, a mask, names or positions of '
                    f"columns, got {categorical!r}"
                )
            categorical = list(given)
        if not isinstance(min_frequency, str) or min_frequency != "auto":
            min_frequency = _check.integer("min_frequency", min_frequency, least=1)
        self.categorical = categorical
        self.min_frequency = min_frequency
        self.columns_: list[Column] = []
        self.named_ = False
        self.dtype_ = np.dtype(np.float64)

    @property
    def categorical_(self) -> list[int]:
        """Positions of the columns of categories."""
        return [j for j, column in enumerate(self.columns_) if column.kind == "category"]

    def fit(self, table: Any, *, weights: npt.ArrayLike | None = None, name: str = "X") -> TableColumns:
        """Learn what the columns hold.

        Parameters
        ----------
        table : frame of pandas or polars, Arrow table, mapping of names to columns, or array
        weights : array_like, shape (n_samples,), optional
            Weights, not negative: levels count by them, and those of weight 0 alone are not there.
        name : str
            Of the argument, for errors.

        Returns
        -------
        TableColumns
            The same object.

        Raises
        ------
        TypeError, ValueError
            If a column holds nothing that can be a number, text is not among the categories, or
            `categorical` does not fit the columns.
        """
        return self.fit_parts([(table, weights)], name=name)

    def fit_parts(
        self, parts: Iterable[tuple[Any, npt.ArrayLike | None]], *, name: str = "X"
    ) -> TableColumns:
        """Learn what the columns of a table hold that comes a number of rows at a time.

        Parameters
        ----------
        parts : iterable of (table, weights)
            Tables with the same columns, and the weights of their rows or None; what is learned is what `fit`
            learns from all rows together.
        name : str
            Of the argument, for errors.

        Returns
        -------
        TableColumns
            The same object.

        Raises
        ------
        TypeError, ValueError
            As for `fit`; also if a column has more than 2**20 different levels.

        Examples
        --------
        >>> parts = [({"city": ["Rome", "Oslo"]}, None), ({"city": ["Rome", None]}, None)]
        >>> TableColumns(min_frequency=2).fit_parts(parts).columns_
        [Column(name='city', kind='category', levels=('Rome',), infrequent=('Oslo',))]
        """
        named = False
        chosen: set[int] | None = None
        seen: list[_Seen] = []
        for table, weights in parts:
            names, columns = read_columns(name, table)
            if not seen:
                if not columns:
                    raise ValueError(f"{name} must have columns, got none")
                if names is not None:
                    _check.distinct(name, names)
                named, chosen = names is not None, self._listed(names, len(columns))
                seen = [_Seen(label) for label in names or [f"x{j}" for j in range(len(columns))]]
            rows = len(columns[0].numbers)
            counted = None if weights is None else _check.weights("weights", weights, rows)
            for j, (one, column) in enumerate(zip(seen, columns, strict=True)):
                is_category = column.declared if chosen is None else j in chosen
                if column.kind == "category" and not is_category:
                    raise TypeError(
                        f"{name}: column {one.label!r} holds {column.described()}: it must be among "
                        f"categorical_features, got {self.categorical!r}"
                    )
                one.add(name, column, counted, is_category=is_category)
        if not seen:
            raise ValueError(f"{name} must have rows, got none")
        self.columns_, self.named_ = [one.column(self.min_frequency) for one in seen], named
        self.dtype_ = np.result_type(np.float32, *(one.dtype for one in seen))
        return self

    def _listed(self, names: list[str] | None, count: int) -> set[int] | None:
        """Return the positions of the columns that are to hold categories; None if their types say so."""
        wanted = self.categorical
        if wanted is None:
            return set()
        if isinstance(wanted, str):
            return None
        argument = "categorical_features"
        if wanted and all(isinstance(one, (bool, np.bool_)) for one in wanted):
            if len(wanted) != count:
                raise ValueError(f"{argument} must be a mask of {count} columns, got {len(wanted)}")
            return {j for j, one in enumerate(wanted) if one}
        found = set()
        for one in wanted:
            if isinstance(one, str):
                if names is None:
                    raise ValueError(f"{argument} must be positions where columns have no names, got {one!r}")
                if one not in names:
                    raise ValueError(f"{argument} must be among the columns {names}, got {one!r}")
                found.add(names.index(one))
            else:
                found.add(_check.integer(argument, one, least=0, most=count - 1))
        return found

    def transform(self, table: Any, *, name: str = "X") -> Array:
        """Return the columns as a matrix.

        Parameters
        ----------
        table : frame of pandas or polars, Arrow table, mapping of names to columns, or array
            With the columns that `fit` has seen; where they have names in any order.
        name : str
            Of the argument, for errors.

        Returns
        -------
        ndarray of `dtype_`, shape (n_samples, n_columns)

        Raises
        ------
        TypeError
            If a column holds something else than in training.
        ValueError
            If the columns are others.
        """
        if not self.columns_:
            raise RuntimeError("the columns need a call of fit first")
        names, columns = read_columns(name, table)
        if names is not None and self.named_:
            positions = _check.positions(name, names, [column.name for column in self.columns_])
            columns = columns if positions is None else [columns[at] for at in positions]
        if len(columns) != len(self.columns_):
            raise ValueError(f"{name} must have {len(self.columns_)} columns, got {len(columns)}")
        out = np.empty((len(columns[0].numbers), len(columns)), self.dtype_)
        for j, (learned, column) in enumerate(zip(self.columns_, columns, strict=True)):
            out[:, j] = _converted(name, learned, column)
        return out

    def to_dict(self) -> dict[str, Any]:
        """Return what was learned as a dictionary that `json` can write."""
        return {
            "named": self.named_,
            "dtype": self.dtype_.name,
            "columns": [
                {
                    "name": one.name,
                    "kind": one.kind,
                    "levels": list(one.levels),
                    "infrequent": list(one.infrequent),
                }
                for one in self.columns_
            ],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TableColumns:
        """Return what `to_dict` described.

        Parameters
        ----------
        data : mapping
            With "named", "dtype" and "columns".

        Returns
        -------
        TableColumns

        Raises
        ------
        KeyError, TypeError, ValueError
            If it does not describe columns.
        """
        result = cls()
        result.named_ = _check.flag("named", data["named"])
        result.dtype_ = _check.float_dtype("dtype", data["dtype"])
        for one in data["columns"]:
            levels, infrequent = tuple(one["levels"]), tuple(one["infrequent"])
            if not all(isinstance(level, (str, bool, int, float)) for level in levels + infrequent):
                raise TypeError("levels must be text, numbers or booleans")
            if not isinstance(one["name"], str):
                raise TypeError("names of columns must be text")
            kind = _check.choice("kind", one["kind"], KINDS)
            result.columns_.append(Column(one["name"], kind, levels, infrequent))
        return result

    def __repr__(self) -> str:
        kinds = [column.kind for column in self.columns_]
        counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in KINDS if kind in kinds)
        return f"TableColumns({counts})"


def _sort_key(level: Level) -> tuple[bool, Level]:
    return isinstance(level, str), level


def _categories(column: Values) -> Values:
    """Return a column of numbers as one of categories."""
    if column.kind in ("category", "empty"):
        return column
    levels, codes = np.unique(column.numbers, return_inverse=True)
    codes = codes.reshape(-1).astype(np.float64)
    known = ~np.isnan(levels) if levels.dtype.kind == "f" else np.ones(len(levels), bool)
    codes[codes >= known.sum()] = np.nan  # NaN stands behind all others
    return Values("category", codes, [_plain(level) for level in levels[known]])


def _converted(name: str, learned: Column, column: Values) -> Array:
    """Return the numbers of a column, or refuse what was of another kind in training."""
    if learned.kind == "empty":
        missing = np.isnan(column.numbers) if column.numbers.dtype.kind == "f" else False
        return np.where(missing, np.nan, np.zeros(len(column.numbers)))
    if learned.kind != "category":
        if column.kind not in _ACCEPTED[learned.kind]:
            raise TypeError(
                f"{name}: column {learned.name!r} must hold {learned.kind}s as in training, got "
                f"{column.described()}"
            )
        return column.numbers
    codes = learned.codes()
    given = _categories(column)
    known = ~np.isnan(given.numbers)
    there = {given.levels[k] for k in np.unique(given.numbers[known]).astype(np.int64).tolist()}
    text = {isinstance(level, str) for level in codes}
    if there and codes and not (text & {isinstance(level, str) for level in there}):
        kinds = ("numbers or booleans", "text")
        raise TypeError(
            f"{name}: column {learned.name!r} must hold {kinds[True in text]} as in training, got "
            f"{kinds[True not in text]}"
        )
    numbers_of = np.array([*(codes.get(level, UNSEEN) for level in given.levels), np.nan])
    return numbers_of[np.where(known, given.numbers, len(given.levels)).astype(np.int64)]


def encoded_names(
    names: Sequence[str], encoder: ColumnEncoder, columns: Sequence[Column] | None = None
) -> list[str]:
    """Return what the columns that a `ColumnEncoder` makes are called.

    Parameters
    ----------
    names : sequence of str
        Names of the columns.
    encoder : ColumnEncoder
        A fitted one.
    columns : sequence of Column, optional
        What the columns are, for the names of levels.

    Returns
    -------
    list of str
        A column itself, ``"age 20 to 35"`` for the position in a bin, ``"city=Rome"`` for a level,
        ``"city infrequent"`` for those taken together, ``"age missing"``.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import ColumnEncoder
    >>> encoder = ColumnEncoder(bins=2).fit(np.array([[1.0], [2.0], [4.0], [np.nan]]))
    >>> encoded_names(["age"], encoder)
    ['age', 'age 1 to 2', 'age 2 to 4', 'age missing']
    """
    found = []
    for j, (label, edges) in enumerate(zip(names, encoder.edges_, strict=True)):
        if j in encoder.categorical:
            known = () if columns is None else columns[j].levels
            for code in edges.tolist():
                if columns is None:
                    found.append(f"{label}={code:g}")
                elif 0 <= code < len(known):
                    found.append(f"{label}={known[int(code)]}")
                else:
                    found.append(f"{label} infrequent")
        elif encoder.missing_[j] < 2:
            found.append(label)
            found += [f"{label} {low:g} to {high:g}" for low, high in itertools.pairwise(edges.tolist())]
        if encoder.missing_[j] > 0:
            found.append(f"{label} missing")
    return found
