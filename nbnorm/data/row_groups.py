"""Tables on disk, read a group of rows at a time: Parquet and Arrow files and datasets, memory maps."""

from __future__ import annotations

import collections
import contextlib
import functools
import os
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from nbnorm import _check, _files, simd
from nbnorm._types import Array, ArrowChunks, ArrowData, ArrowField, ArrowRows, ArrowSchema
from nbnorm.compile.kernels import kernel
from nbnorm.data.columns import TableColumns

if TYPE_CHECKING:
    from typing_extensions import TypeIs

Result = TypeVar("Result")

# Bytes of an array that make a group.
_GROUP = 4 << 20

# Rows whose pages the processor finds at once, and rows and columns that are transposed in registers.
_BLOCK, _TILE = 256, 8

# Column chunks that the footers of open Parquet files may describe, about 200 MB; beyond them files are
# closed, and opened again when their turn comes.
_DESCRIBED = 1 << 16

_FORMATS = {
    ".parquet": "parquet", ".pq": "parquet", ".arrow": "ipc", ".feather": "ipc", ".ipc": "ipc",
}  # fmt: skip


class Rows(NamedTuple):
    """What is read of a group: features, targets and weights, of which the last may be None."""

    x: Array
    truth: Array
    weights: Array | None


class RowGroups:
    """A table with targets and weights that is read a group of rows at a time.

    Attributes
    ----------
    sizes : ndarray of int64
        Rows of each group.
    features : list of str or None
        Names of the features.
    width : int
        Number of them.
    dtype : dtype
        Type in which they are read.
    weighted : bool
        Whether the rows have weights.
    files : ndarray of int64, or None
        File of each group, where there are several that are opened when they are read.
    numeric : bool
        Whether all columns that are stored hold numbers or booleans.
    columns : TableColumns or None
        What the columns are where they may be more than that; the features are read as it says.
    """

    sizes: npt.NDArray[np.int64]
    features: list[str] | None
    width: int
    dtype: np.dtype[Any]
    weighted: bool
    files: npt.NDArray[np.int64] | None = None
    numeric: bool = True
    columns: TableColumns | None = None

    def near(self, order: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the groups in an order that opens each file once, as close to another order as can be.

        As many files as can be open at a time come first, with all of their groups in the given order, then
        as many others.
        """
        if self.files is None:
            return order
        of_order = self.files[order]
        chunks = np.bincount(self.files) * (self.width + 1)
        block = np.zeros(len(chunks), np.int64)
        at = described = 0
        for file in of_order[np.sort(np.unique(of_order, return_index=True)[1])].tolist():
            if described and described + chunks[file] > _DESCRIBED:
                at, described = at + 1, 0
            block[file] = at
            described += int(chunks[file])
        return order[np.argsort(block[of_order], kind="stable")]

    def __len__(self) -> int:
        """Return the number of groups."""
        return len(self.sizes)

    @property
    def samples(self) -> int:
        """Number of rows."""
        return int(self.sizes.sum())

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and of features."""
        return self.samples, self.width

    def __getitem__(self, rows: Array) -> RowGroups:
        """Return some of the rows, given by numbers, in the order in which they stand."""
        return _SomeRows(self, np.sort(rows))

    def read(self, group: int, out: Array) -> Rows:
        """Read a group; its features fill the first rows of `out`, of which a view is returned."""
        raise NotImplementedError

    def raw(self, group: int) -> tuple[Any, Array, Array | None]:
        """Read a group; return its features as a table of any kinds of columns, targets and weights."""
        raise NotImplementedError

    def answers(self, group: int) -> tuple[Array, Array | None]:
        """Read targets and weights of a group alone."""
        raise NotImplementedError

    def allocate(self, rows: int) -> Array:
        """Return an array for so many rows of features."""
        return np.empty((rows, self.width), self.dtype)

    def part(self, number: int, parts: int) -> Rows:
        """Read the groups that are one of several parts of the table, with about as many groups each."""
        own = range(number * len(self) // parts, (number + 1) * len(self) // parts)
        x = self.allocate(int(self.sizes[own.start : own.stop].sum()))
        truths, weights, at = [self.answers(0)[0][:0]], [np.zeros(0)], 0
        for group in own:
            rows = self.read(group, x[at:])
            at += len(rows.x)
            truths.append(rows.truth)
            if rows.weights is not None:
                weights.append(rows.weights)
        return Rows(x, np.concatenate(truths), np.concatenate(weights) if self.weighted else None)

    def all(self) -> Iterator[Rows]:
        """Read all groups in order, the next one meanwhile; each is overwritten by the one after the next."""
        out = [self.allocate(int(self.sizes.max())) for _ in range(2)]
        yield from prefetched(lambda group: self.read(group, out[group % 2]), range(len(self)))


def prefetched(function: Callable[[int], Result], numbers: range) -> Generator[Result, None, None]:
    """Yield what a function returns for each number; a thread calls it for the next one meanwhile.

    Parameters
    ----------
    function : callable
    numbers : range

    Yields
    ------
    object

    Examples
    --------
    >>> list(prefetched(lambda number: number**2, range(4)))
    [0, 1, 4, 9]
    """
    with ThreadPoolExecutor(1, thread_name_prefix="nbnorm-read") as reader:
        coming = [reader.submit(function, number) for number in numbers[:1]]
        for number in numbers:
            found = coming.pop().result()
            if number != numbers[-1]:
                coming.append(reader.submit(function, number + numbers.step))
            yield found


# What stands for a table on disk: a path, a Parquet file or dataset of Arrow, or its groups.
OnDisk: TypeAlias = _files.PathLike | ArrowData | RowGroups


def is_row_groups(x: object) -> TypeIs[OnDisk]:
    """Whether `x` is a table that is read in groups: a path, or a file or dataset of Arrow.

    Parameters
    ----------
    x : object

    Returns
    -------
    bool

    Examples
    --------
    >>> is_row_groups("flights.parquet"), is_row_groups([[1.0]])
    (True, False)
    """
    if isinstance(x, (str, os.PathLike, RowGroups)):
        return True
    return _check.is_arrow(x) and any(
        hasattr(x, name) for name in ("get_fragments", "iter_batches", "read_next_batch", "scan_batches")
    )


class _Changed(RowGroups):
    """Groups of another table of which something is changed."""

    def __init__(self, groups: RowGroups) -> None:
        self._groups, self.sizes, self.features = groups, groups.sizes, groups.features
        self.width, self.dtype, self.weighted = groups.width, groups.dtype, groups.weighted
        self.files, self.numeric, self.columns = groups.files, groups.numeric, groups.columns


class _SomeRows(_Changed):
    """Some of the rows of another table."""

    def __init__(self, groups: RowGroups, rows: Array) -> None:
        super().__init__(groups)
        ends = np.cumsum(groups.sizes)
        cuts = np.searchsorted(rows, ends)
        kept = [
            (group, part - (end - size))
            for group, (part, end, size) in enumerate(
                zip(np.split(rows, cuts[:-1]), ends, groups.sizes, strict=True)
            )
        ]
        self._kept = [(group, part) for group, part in kept if len(part)]
        self.sizes = np.array([len(part) for _, part in self._kept], np.int64)
        if groups.files is not None:
            self.files = groups.files[[group for group, _ in self._kept]]

    def read(self, group: int, out: Array) -> Rows:
        """Read a group; its features fill the first rows of `out`, of which a view is returned."""
        at, kept = self._kept[group]
        whole = self._groups.read(at, self.allocate(int(self._groups.sizes[at])))
        rows = out[: len(kept)]
        rows[:] = whole.x[kept]
        return Rows(rows, whole.truth[kept], None if whole.weights is None else whole.weights[kept])

    def answers(self, group: int) -> tuple[Array, Array | None]:
        """Read targets and weights of a group alone."""
        at, kept = self._kept[group]
        truth, weights = self._groups.answers(at)
        return truth[kept], None if weights is None else weights[kept]


class ReadGroups(_Changed):
    """Another table, whose features are made of its columns.

    Parameters
    ----------
    groups : RowGroups
        Those that read the columns as they are stored.
    read : callable
        It returns the features of a table of columns, shape (n_rows, width).
    width : int
        Number of features.
    dtype : dtype
        Their type.
    columns : TableColumns, optional
        What the columns are, where the features are what it makes of them.
    """

    def __init__(
        self,
        groups: RowGroups,
        read: Callable[[Any], Array],
        width: int,
        dtype: npt.DTypeLike,
        columns: TableColumns | None = None,
    ) -> None:
        super().__init__(groups)
        self._read, self.width, self.dtype, self.columns = read, width, np.dtype(dtype), columns
        if columns is None:
            self.features = None

    def read(self, group: int, out: Array) -> Rows:
        """Read a group; its features fill the first rows of `out`, of which a view is returned."""
        table, truth, weights = self._groups.raw(group)
        rows = out[: self.sizes[group]]
        rows[:] = self._read(table)
        return Rows(rows, truth, weights)

    def answers(self, group: int) -> tuple[Array, Array | None]:
        """Read targets and weights of a group alone."""
        return self._groups.answers(group)


def read_as(name: str, groups: RowGroups, columns: TableColumns) -> RowGroups:
    """Return groups whose features are what `columns` makes of the columns that are stored.

    Parameters
    ----------
    name : str
        Of the argument, for errors.
    groups : RowGroups
    columns : TableColumns
        If it has learned nothing yet, it learns from all groups, in one pass.

    Returns
    -------
    RowGroups

    Raises
    ------
    TypeError, ValueError
        As the methods of `TableColumns`.
    """
    if not columns.columns_:
        parts = prefetched(groups.raw, range(len(groups)))
        columns.fit_parts(((table, weights) for table, _, weights in parts), name=name)
    width = len(columns.columns_)
    return ReadGroups(
        groups, lambda table: columns.transform(table, name=name), width, columns.dtype_, columns
    )


class _WithAnswers(_Changed):
    """The features of another table with targets and weights from arrays."""

    def __init__(self, groups: RowGroups, truth: Array, weights: Array | None) -> None:
        super().__init__(groups)
        _same_rows(truth, weights, groups.samples)
        self._truth, self._weights = truth, weights
        self._ends, self.weighted = np.cumsum(groups.sizes), weights is not None

    def read(self, group: int, out: Array) -> Rows:
        """Read a group; its features fill the first rows of `out`, of which a view is returned."""
        return Rows(self._groups.read(group, out).x, *self.answers(group))

    def answers(self, group: int) -> tuple[Array, Array | None]:
        """Return targets and weights of a group."""
        rows = slice(int(self._ends[group] - self.sizes[group]), int(self._ends[group]))
        return self._truth[rows], None if self._weights is None else self._weights[rows]


# ----------------------------------------------------------------------------------------------
# Arrays
# ----------------------------------------------------------------------------------------------


class ArrayGroups(RowGroups):
    """Groups of the rows of an array, most of all of a memory map.

    Parameters
    ----------
    x : ndarray, shape (n_samples, n_features)
        Real numbers.
    truth : ndarray, shape (n_samples, ...)
    weights : ndarray, shape (n_samples,), or None
    features : list of str or None
        Names of the columns.

    Examples
    --------
    >>> groups = ArrayGroups(np.ones((5, 2)), np.zeros(5), None, None)
    >>> groups.sizes, groups.read(0, groups.allocate(5)).x.shape
    (array([5]), (5, 2))
    """

    def __init__(self, x: Array, truth: Array, weights: Array | None, features: list[str] | None) -> None:
        _same_rows(truth, weights, len(x))
        self._x, self._truth, self._weights = x, truth, weights
        step = max(_GROUP // max(x[0].nbytes, 1), 1)
        self._starts = np.arange(0, len(x), step)
        self.sizes = np.diff(np.append(self._starts, len(x)))
        self.features, self.width, self.weighted = features, x.shape[1], weights is not None
        self.dtype = x.dtype.newbyteorder("=")

    def _slice(self, group: int) -> slice:
        return slice(int(self._starts[group]), int(self._starts[group] + self.sizes[group]))

    def read(self, group: int, out: Array) -> Rows:
        """Read a group; its features fill the first rows of `out`, of which a view is returned."""
        rows = out[: self.sizes[group]]
        rows[:] = self._x[self._slice(group)]
        return Rows(rows, *self.answers(group))

    def raw(self, group: int) -> tuple[Array, Array, Array | None]:
        """Read a group; return its features, targets and weights."""
        return self._x[self._slice(group)], *self.answers(group)

    def answers(self, group: int) -> tuple[Array, Array | None]:
        """Read targets and weights of a group alone."""
        rows = self._slice(group)
        return np.array(self._truth[rows]), None if self._weights is None else np.array(self._weights[rows])


def _same_rows(truth: Array, weights: Array | None, samples: int) -> None:
    """Refuse targets and weights of other lengths."""
    if truth.ndim == 0 or len(truth) != samples:
        raise ValueError(f"y must have the length of X, {samples}, got shape {truth.shape}")
    if weights is not None and weights.shape != (samples,):
        raise ValueError(f"sample_weight must have shape ({samples},), got shape {weights.shape}")


# ----------------------------------------------------------------------------------------------
# Columns
# ----------------------------------------------------------------------------------------------


@simd.traced
def _copy_tile(addresses: Any, j: Any, i: Any, dtype: Any, rows: Any, width: Any) -> None:
    """Copy `_TILE` elements from i on of as many columns from j on into the rows, transposed in registers."""
    columns = [simd.array_at(simd.get(addresses, j + k), i + _TILE, dtype) for k in range(_TILE)]
    tile = simd.tile_of(*(simd.load(column, i, _TILE) for column in columns))
    simd.tile_store(rows, i * width + j, width, simd.transpose(tile))


@kernel(allocates=True)
def _interleave(addresses: Any, rows: Any) -> None:
    """Copy the columns that stand at `addresses` into the columns of `rows`, a block at a time."""
    n, width = rows.shape
    flat = rows.reshape(n * width)
    for start in range(0, n, _BLOCK):
        whole = start + (min(start + _BLOCK, n) - start) // _TILE * _TILE
        for first in range(0, width // _TILE * _TILE, _TILE):
            for i in range(start, whole, _TILE):
                _copy_tile(addresses, first, i, rows.dtype, flat, width)
    for j in range(width):
        for i in range(0 if j >= width // _TILE * _TILE else n // _TILE * _TILE, n):
            rows[i, j] = simd.peek(addresses[j], i * rows.itemsize, rows.dtype)


def copy_columns(name: str, columns: Sequence[ArrowChunks], rows: Array) -> None:
    """Copy columns of Arrow into the columns of an array.

    Parameters
    ----------
    name : str
        Of the argument from which they come, for errors.
    columns : sequence of pyarrow.ChunkedArray
        Numbers or booleans; a missing one becomes NaN.
    rows : ndarray, shape (n_rows, n_columns)
        Floating point, in rows.

    Raises
    ------
    TypeError
        If a column holds something else.

    Examples
    --------
    >>> import pyarrow as pa
    >>> rows = np.empty((2, 2))
    >>> copy_columns("X", [pa.chunked_array([[1.5, None]]), pa.chunked_array([[3, 4]])], rows)
    >>> rows
    array([[1.5, 3. ],
           [nan, 4. ]])
    """
    import pyarrow as pa

    if rows.dtype not in _check.FLOATS:  # float16
        for j, column in enumerate(columns):
            rows[:, j] = _check.numeric(name, column)
        return
    kind, item = pa.from_numpy_dtype(rows.dtype), rows.itemsize
    kept = []  # what stands at the addresses
    addresses = np.empty(len(columns), np.int64)
    for j, column in enumerate(columns):
        chunk = column.chunk(0) if column.num_chunks == 1 else None
        if chunk is not None and chunk.type == kind and not chunk.null_count:
            addresses[j] = chunk.buffers()[1].address + chunk.offset * item
            kept.append(chunk)
        else:
            values = np.ascontiguousarray(_check.numeric(name, column), rows.dtype)
            addresses[j] = values.__array_interface__["data"][0]
            kept.append(values)
    _interleave(addresses, rows)
    del kept


# ----------------------------------------------------------------------------------------------
# Arrow
# ----------------------------------------------------------------------------------------------


class _RowGroup(NamedTuple):
    """Rows that are read together, and what reads some of their columns into an Arrow table."""

    rows: int
    read: Callable[[list[str]], Any]
    file: int = 0


class ArrowGroups(RowGroups):
    """Row groups of Parquet files and record batches of Arrow files.

    Parameters
    ----------
    name : str
        Of the argument, for errors.
    schema : pyarrow.Schema
    groups : list of row groups
    target : str, sequence of str or ndarray
        Column or columns that hold the targets, or the targets themselves.
    weight : str, ndarray or None
        Column that holds the weights, or these themselves.
    features : list of str, optional
        Columns to take in this order; by default all others.
    others : bool, default False
        Whether there may be columns beside these.
    mixed : bool, default False
        Whether columns may hold anything but numbers and booleans: then `raw` reads them.
    """

    def __init__(
        self,
        name: str,
        schema: ArrowSchema,
        groups: Sequence[_RowGroup],
        target: npt.ArrayLike | None,
        weight: npt.ArrayLike | None,
        features: Sequence[str] | None = None,
        *,
        others: bool = False,
        mixed: bool = False,
    ) -> None:
        names = list(schema.names)
        _check.distinct(name, names)
        self._name, self._groups = name, [group for group in groups if group.rows]
        if not self._groups:
            raise ValueError(f"{name} must not be empty, got no rows")
        self.sizes = np.array([group.rows for group in self._groups], np.int64)
        self._first = np.cumsum(self.sizes) - self.sizes
        self.files = np.array([group.file for group in self._groups], np.int64)
        self._single = isinstance(target, str)
        self._targets, self._truth = self._columns("y", target, names)
        self._weight, self._weights = self._columns("sample_weight", weight, names)
        if len(self._weight) > 1:
            raise TypeError(f"sample_weight must name one column, got {self._weight}")
        apart = {*self._targets, *self._weight}
        rest = [label for label in names if label not in apart]
        if features is not None:
            known = set(features)
            _check.positions(name, [label for label in rest if label in known] if others else rest, features)
        self.features = list(rest if features is None else features)
        if not self.features:
            raise ValueError(f"{name} must have a column beside those of targets and weights, got {names}")
        self.width, self.weighted = len(self.features), weight is not None
        self.numeric, self.dtype = True, np.dtype(np.float64)
        try:
            self.dtype = np.result_type(*{self._column_dtype(schema.field(label)) for label in self.features})
        except TypeError:
            self.numeric = False
            if not mixed:
                raise

    def _columns(
        self, argument: str, given: npt.ArrayLike | None, names: list[str]
    ) -> tuple[list[str], Array | None]:
        """Return the columns that an argument names, or the array that it is."""
        if given is None:
            return [], None
        labels = [given] if isinstance(given, str) else []
        if isinstance(given, (list, tuple)) and all(isinstance(label, str) for label in given):
            labels = [str(label) for label in given]
        for label in labels:
            if label not in names:
                raise ValueError(f"{argument} names no column of {self._name}: got {label!r}, it has {names}")
        if labels:
            return labels, None
        values = _check.plain(argument, given)
        if values.ndim == 0 or len(values) != self.samples:
            length = f"shape {values.shape}"
            raise ValueError(
                f"{argument} must name a column of {self._name} or have a value for each of its "
                f"{self.samples} rows, got {length}"
            )
        return [], values

    def _column_dtype(self, field: ArrowField) -> np.dtype[Any]:
        import pyarrow as pa

        empty = pa.table({field.name: pa.array([], field.type)})
        return _check.numeric(self._name, empty).dtype

    def read(self, group: int, out: Array) -> Rows:
        """Read a group; its features fill the first rows of `out`, of which a view is returned."""
        table, truth, weights = self.raw(group)
        rows = out[: self.sizes[group]]
        copy_columns(self._name, table.columns, rows)
        return Rows(rows, truth, weights)

    def raw(self, group: int) -> tuple[ArrowRows, Array, Array | None]:
        """Read a group; return its features as an Arrow table, targets and weights."""
        assert self.features is not None
        table = self._read(group, [*self.features, *self._targets, *self._weight])
        return table.select(self.features), *self._answers(group, table)

    def answers(self, group: int) -> tuple[Array, Array | None]:
        """Read targets and weights of a group alone."""
        columns = [*self._targets, *self._weight]
        return self._answers(group, self._read(group, columns) if columns else None)

    def _read(self, group: int, columns: list[str]) -> ArrowRows:
        source = self._groups[group]
        table: ArrowRows = source.read(columns)
        if table.num_rows != source.rows:
            raise ValueError(f"{self._name} has changed: group {group} had {source.rows} rows")
        return table

    def _answers(self, group: int, table: ArrowRows | None) -> tuple[Array, Array | None]:
        rows = slice(int(self._first[group]), int(self._first[group] + self.sizes[group]))
        truth = self._truth
        if truth is None and not self._targets:
            truth = _none(len(range(rows.start, rows.stop)))
        elif truth is None:
            assert table is not None
            columns = [_values(table.column(label)) for label in self._targets]
            truth = columns[0] if self._single else np.stack(columns, axis=1)
        else:
            truth = truth[rows]
        weights = self._weights
        if self._weight:
            assert table is not None
            weights = _check.numeric("sample_weight", table.column(self._weight[0]))
        elif weights is not None:
            weights = weights[rows]
        return truth, weights


def _none(rows: int) -> Array:
    """Return targets for a table that has none."""
    return np.broadcast_to(np.zeros(1), (rows,))


def _values(column: Any) -> Array:
    """Return a column of targets: integers stay integers, text becomes an array of text."""
    import pyarrow as pa

    if column.null_count:
        raise ValueError("y must not have missing values, got a null in its column")
    column = column.combine_chunks()
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = column.dictionary_encode()
    if isinstance(column, pa.DictionaryArray):  # rows of one label share an object
        labels = np.array([*column.dictionary.to_pylist(), None], object)[:-1]
        return np.asarray(labels[column.indices.to_numpy()])
    return np.asarray(column.to_numpy(zero_copy_only=False))


class _ParquetFiles:
    """Parquet files of one schema; those used last are kept open, with their footers.

    Parameters
    ----------
    schema : pyarrow.Schema
        Files with another one are not taken.
    """

    def __init__(self, schema: ArrowSchema) -> None:
        self._schema = schema
        self._lock = threading.Lock()  # Arrow does not promise that several threads can read a file
        self._sources: list[Callable[[], Any]] = []
        self._open: collections.OrderedDict[int, Any] = collections.OrderedDict()

    def groups(self, source: Callable[[], Any]) -> list[_RowGroup] | None:
        """Return the row groups of the file that `source` opens, or None if it has another schema."""
        with self._lock:
            file = len(self._sources)
            self._sources.append(source)
            opened = self._opened(file)
        if not opened.schema_arrow.equals(self._schema):
            return None
        groups = range(opened.metadata.num_row_groups)
        return [
            _RowGroup(
                opened.metadata.row_group(group).num_rows, functools.partial(self._read, file, group), file
            )
            for group in groups
        ]

    def _read(self, file: int, group: int, columns: list[str]) -> ArrowRows:
        with self._lock:
            # One thread: the others train.
            table: ArrowRows = self._opened(file).read_row_group(group, columns=columns, use_threads=False)
            return table

    def _opened(self, file: int) -> Any:
        import pyarrow.parquet

        if file not in self._open:
            self._open[file] = pyarrow.parquet.ParquetFile(self._sources[file]())
        self._open.move_to_end(file)
        described = [one.metadata.num_columns * one.metadata.num_row_groups for one in self._open.values()]
        while len(described) > 1 and sum(described) > _DESCRIBED:
            self._open.popitem(last=False)
            del described[0]
        return self._open[file]


def _of_parquet(file: Any) -> list[_RowGroup]:
    """Return the groups of an open Parquet file."""

    def read(group: int, columns: list[str]) -> ArrowRows:
        table: ArrowRows = file.read_row_group(group, columns=columns, use_threads=False)
        return table

    sizes = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
    return [_RowGroup(rows, functools.partial(read, group)) for group, rows in enumerate(sizes)]


def _of_fragments(fragments: Sequence[Any], schema: ArrowSchema) -> Iterator[_RowGroup]:
    """Yield the groups of the files of a dataset."""
    files = _ParquetFiles(schema)
    for fragment in fragments:
        groups = files.groups(fragment.open) if hasattr(fragment, "split_by_row_group") else None
        yield from _of_fragment(fragment, schema) if groups is None else groups


def _of_fragment(fragment: Any, schema: ArrowSchema) -> Iterator[_RowGroup]:
    """Yield the groups of a file of a dataset whose columns are partly those of its folder, or cast."""
    import pyarrow as pa

    def reader(part: Any) -> Callable[[list[str]], ArrowRows]:
        return lambda columns: part.to_table(schema=schema, columns=columns, use_threads=False)

    if hasattr(fragment, "split_by_row_group"):
        for part in fragment.split_by_row_group():
            yield _RowGroup(part.row_groups[0].num_rows, reader(part))
        return
    if fragment.format.default_extname not in ("arrow", "feather", "ipc"):
        raise ValueError(
            f"X must be a dataset of Parquet or Arrow files, got {fragment.format.default_extname}: "
            "convert it once"
        )
    if not fragment.partition_expression.equals(pa.dataset.scalar(True)):
        yield _RowGroup(fragment.count_rows(), reader(fragment))
        return
    file = pa.ipc.open_file(fragment.open())
    # to count the rows, one column is enough
    first = pa.ipc.open_file(fragment.open(), options=pa.ipc.IpcReadOptions(included_fields=[0]))
    for number in range(file.num_record_batches):

        def read(columns: list[str], number: int = number) -> ArrowRows:
            table: ArrowRows = pa.Table.from_batches([file.get_batch(number)])
            return table.select(columns)

        yield _RowGroup(first.get_batch(number).num_rows, read)


def open_groups(
    name: str,
    x: OnDisk | Array,
    target: npt.ArrayLike | None = None,
    weight: npt.ArrayLike | None = None,
    *,
    features: Sequence[str] | None = None,
    others: bool = False,
    mixed: bool = False,
) -> RowGroups:
    """Return the groups of a file, folder, dataset or array.

    Parameters
    ----------
    name : str
        Of the argument `x`, for errors.
    x : path, Arrow object or ndarray
        A Parquet, Arrow or NPY file, a folder of Parquet or Arrow files, a ``pyarrow.dataset.Dataset``, a
        ``pyarrow.parquet.ParquetFile``, or an array such as a memory map.
    target : str, sequence of str or array_like
        Column of `x` that holds the targets, several of them, or the targets.
    weight : str or array_like, optional
        Likewise for the weights.
    features : sequence of str, optional
        Names of the features, which are taken in this order.
    others : bool, default False
        Whether there may be columns beside these.
    mixed : bool, default False
        Whether columns may hold anything but numbers and booleans, as `read_as` reads them.

    Returns
    -------
    RowGroups

    Raises
    ------
    ImportError
        If pyarrow is missing.
    OSError
        If a file cannot be read.
    TypeError, ValueError
        If it is of another kind or damaged, has no rows, or does not have the columns.
    """
    if isinstance(x, RowGroups):
        weights = None if weight is None else np.asarray(weight)
        return x if target is None else _WithAnswers(x, np.asarray(target), weights)
    if isinstance(x, np.ndarray):
        weights = None if weight is None else _check.plain("sample_weight", weight)
        return ArrayGroups(
            _check.table(name, x)[0],
            _none(len(x)) if target is None else _check.plain("y", target),
            weights,
            None,
        )
    if isinstance(x, (str, os.PathLike)):
        path = Path(x)
        suffix = path.suffix.lower()
        if not path.exists():
            raise FileNotFoundError(f"{name} names a file or folder that does not exist: {os.fspath(path)!r}")
        if suffix == ".npy" and path.is_file():
            with _files.reading(path, "an array file"):
                rows = np.load(path, mmap_mode="r", allow_pickle=False)
            _check.rank(name, _check.numeric(name, rows), 2)
            return open_groups(name, rows, target, weight)
        x = dataset(name, path)
    source: Any = x
    groups: list[_RowGroup]
    if hasattr(source, "get_fragments"):
        try:
            fragments = list(source.get_fragments())
        except ValueError as error:
            raise ValueError(f"{name} must be a whole dataset: {error}") from None
        groups = list(_of_fragments(fragments, source.schema))
        return ArrowGroups(name, source.schema, groups, target, weight, features, others=others, mixed=mixed)
    if hasattr(source, "iter_batches"):
        groups = _of_parquet(source)
        return ArrowGroups(
            name, source.schema_arrow, groups, target, weight, features, others=others, mixed=mixed
        )
    raise TypeError(
        f"{name} must be readable once for each epoch: a path, a pyarrow dataset or a ParquetFile, "
        f"got {type(x).__name__}"
    )


def dataset(name: str, path: Path) -> Any:
    """Return the Arrow dataset in a file or a folder; `name` is that of the argument, for errors."""
    try:
        import pyarrow.dataset
    except ImportError:
        raise ImportError('Parquet and Arrow need pyarrow: pip install "nbnorm[arrow]"') from None
    found = {path.suffix.lower()}
    if path.is_dir():
        files = [file for file in path.rglob("*") if file.is_file() and file.name[0] not in "._"]
        found = {file.suffix.lower() for file in files}
    formats = {_FORMATS.get(suffix, suffix) for suffix in found}
    if len(formats) != 1 or not formats <= {"parquet", "ipc"}:
        raise ValueError(
            f"{name} must be a Parquet, Arrow or NPY file, or a folder of Parquet or of Arrow files, got "
            f"{os.fspath(path)!r}" + (f" with files {sorted(found)}" if path.is_dir() else "")
        )
    kind = formats.pop()
    with contextlib.nullcontext() if path.is_dir() else _files.reading(path, "a Parquet or Arrow file"):
        return pyarrow.dataset.dataset(path, format=kind, partitioning="hive")
