"""Files larger than memory, standardized chunk by chunk."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import math
import os
import shutil
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import chain, groupby
from operator import itemgetter
from types import ModuleType
from typing import IO, Any, Literal, NamedTuple, cast

import numpy as np

from nbnorm import _check, _files
from nbnorm._types import Array, ArrowColumn, ArrowField, ArrowRows, ArrowSchema
from nbnorm.data import arrow_files, csv_files, tables
from nbnorm.statistics import chunks
from nbnorm.statistics.moments import Moments
from nbnorm.statistics.standardize import Standardizer


def _arrow() -> ModuleType:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ImportError('Parquet and Arrow need pyarrow: pip install "nbnorm[arrow]"') from None
    return cast(ModuleType, pyarrow)


class _Chunk(NamedTuple):
    """Rows to standardize, and beside them the columns that are kept: lists of text, or Arrow arrays."""

    rows: Array
    kept: Sequence[list[str] | ArrowColumn]


class _Source:
    """A file that can be read more than once: names, width, number of rows if known, and chunks."""

    names: list[str] | None = None
    rows: int | None = None
    index: Collection[str] = ()  # columns that are kept without being named
    notes: Sequence[str] = ()  # what was guessed

    def __init__(self, path: _files.PathLike, options: csv_files.CsvOptions | None, gaps: bool) -> None:
        self.gaps = gaps  # whether numbers may be missing
        self.path = path
        self.name = os.fspath(path)
        self.kept: list[int] = []  # positions of the columns that are not standardized, ascending
        self.features: list[str] | None = None  # names of those that are

    def keep(self, names: Sequence[str]) -> None:
        """Leave columns out of the rows of the chunks; called once, before they are read."""
        apart, counts = {*names, *self.index}, Counter(self.names)
        for name in names:
            if self.names is None:
                raise ValueError(f"keep names the column {name!r}, and {self.name} has no column names")
            if name not in counts:
                listed = ", ".join(self.names[:12]) + (", ..." if len(self.names) > 12 else "")
                raise ValueError(f"{self.name} has no column {name!r}; it has {listed}")
            if counts[name] > 1:
                raise ValueError(f"{self.name} has several columns {name!r}: none of them can be kept")
        if self.names is None:
            return
        self.kept = [at for at, name in enumerate(self.names) if name in apart]
        self.features = [name for name in self.names if name not in apart]
        if self.kept and not self.features:
            raise ValueError(f"keep must leave a column to standardize, {self.name} has no other")

    def count(self) -> int:
        """Return the number of rows, for which a CSV file has to be read."""
        if self.rows is None:
            self.rows = sum(len(part.rows) for part in self.chunks(with_kept=False))
        return self.rows

    def chunks(self, *, with_kept: bool) -> Iterator[_Chunk]:
        """Read through the file, with or without the columns that are kept."""
        raise NotImplementedError

    def arrow_field(self, at: int) -> ArrowField:
        """Return name and type of a kept column for Arrow."""
        pa = _arrow()
        assert self.names is not None
        field: ArrowField = pa.field(self.names[at], pa.string())
        return field

    def _refuse_missing(self, rows: Array, before: int) -> None:
        good = np.isfinite(rows) if rows.dtype.kind == "f" else np.ones(1, bool)
        if self.gaps:
            good |= np.isnan(rows)
        if not good.all():
            row, column = (int(i) for i in np.argwhere(~good)[0])
            where = repr(self.features[column]) if self.features else str(column)
            raise ValueError(
                f"{self.name}: row {before + row}, column {where} must be finite, got {rows[row, column]}"
            )


class _CsvSource(_Source):
    def __init__(self, path: _files.PathLike, options: csv_files.CsvOptions | None, gaps: bool) -> None:
        super().__init__(path, options, gaps)
        self._reader = csv_files.Reader(path, options)
        self.names = self._reader.columns
        if self._reader.index is not None:
            self.index = (self.names[self._reader.index],)
        self.notes = tuple(self._reader.notes)

    def chunks(self, *, with_kept: bool) -> Iterator[_Chunk]:
        apart = set(self.kept)
        chosen = [at for at in range(len(self._reader.columns)) if at not in apart]
        for part in self._reader.rows(chosen, self.kept if with_kept else [], chunks.CHUNK, gaps=self.gaps):
            yield _Chunk(part.numbers, part.texts)


class _NpySource(_Source):
    def __init__(self, path: _files.PathLike, options: csv_files.CsvOptions | None, gaps: bool) -> None:
        super().__init__(path, options, gaps)
        with _files.reading(path, "an array file") as file:
            layout = _files.read_layout(file, "the array", os.fstat(file.fileno()).st_size)
            start = file.tell()
        _check_layout(self.name, layout)
        order: Literal["F", "C"] = "F" if layout.fortran else "C"
        self._data = np.memmap(path, layout.dtype, "r", start, layout.shape, order)
        self.rows = len(self._data)

    def chunks(self, *, with_kept: bool) -> Iterator[_Chunk]:
        step = chunks.rows_of(self._data.shape[1], self._data.itemsize)
        for start in range(0, len(self._data), step):
            rows = self._data[start : start + step]
            self._refuse_missing(rows, start)
            yield _Chunk(rows, [])


class _NpzSource(_Source):
    """The array ``X`` of an NPZ file, read through without unpacking it whole."""

    def __init__(self, path: _files.PathLike, options: csv_files.CsvOptions | None, gaps: bool) -> None:
        super().__init__(path, options, gaps)
        with _files.open_npz(path) as archive:
            members = archive.namelist()
            self.member = "X.npy" if "X.npy" in members or len(members) != 1 else members[0]
            if self.member not in members:
                raise _files.MalformedError(
                    f"it must hold an array X, and has {', '.join(members) or 'none'}"
                )
            with archive.open(self.member) as file:
                self._layout = _files.read_layout(file, "array 'X'", archive.getinfo(self.member).file_size)
        _check_layout(f"{self.name}: X", self._layout)
        self.rows = self._layout.shape[0]

    def _blocks(self) -> Iterator[Array]:
        (n, width), fortran, dtype = self._layout
        step = chunks.rows_of(width, dtype.itemsize)
        with _files.open_npz(self.path) as archive, archive.open(self.member) as file:
            _files.read_layout(file, "array 'X'", archive.getinfo(self.member).file_size)
            if fortran:  # a row is spread over the whole member, which cannot be read but from its beginning
                with tempfile.TemporaryFile() as unpacked:
                    shutil.copyfileobj(file, unpacked, chunks.CHUNK)
                    data = np.memmap(unpacked, dtype, "r", 0, (n, width), "F")
                    for start in range(0, n, step):
                        yield np.ascontiguousarray(data[start : start + step])
                return
            for start in range(0, n, step):
                count = min(step, n - start)
                yield np.frombuffer(file.read(count * width * dtype.itemsize), dtype).reshape(count, width)

    def chunks(self, *, with_kept: bool) -> Iterator[_Chunk]:
        before = 0
        for rows in self._blocks():
            self._refuse_missing(rows, before)
            before += len(rows)
            yield _Chunk(rows, [])

    def others(self) -> Iterator[tuple[str, bytes]]:
        """Yield the contents of all other members in parts."""
        with _files.open_npz(self.path) as archive:
            for member in archive.namelist():
                if member != self.member:
                    with archive.open(member) as file:
                        yield member, b""
                        while part := file.read(chunks.CHUNK):
                            yield member, part


def _check_layout(name: str, layout: _files.Layout) -> None:
    """Refuse an array that is no table of real numbers."""
    scalar = np.zeros((), layout.dtype)
    _check.rank(name, _check.numeric(name, np.broadcast_to(scalar, layout.shape)), 2)


class _ParquetSource(_Source):
    def __init__(self, path: _files.PathLike, options: csv_files.CsvOptions | None, gaps: bool) -> None:
        super().__init__(path, options, gaps)
        with _files.reading(path, "a Parquet file"), arrow_files.parquet_file(path) as file:
            self._schema: ArrowSchema = file.schema_arrow
            self.rows = file.metadata.num_rows
            self._row_bytes = _row_bytes(file.metadata)
        self.names = list(self._schema.names)
        self.index = arrow_files.index_of(self._schema)

    def _read(self, columns: list[str] | None) -> Iterator[ArrowRows]:
        step = chunks.rows_of(max(1, len(self._schema)))
        if self.kept and self._row_bytes:
            step = min(step, max(1, chunks.CHUNK // self._row_bytes))
        with _files.reading(self.path, "a Parquet file"), arrow_files.parquet_file(self.path) as file:
            yield from file.iter_batches(batch_size=step, columns=columns)

    def chunks(self, *, with_kept: bool) -> Iterator[_Chunk]:
        before = 0
        kept = {self._schema.names[at] for at in self.kept}
        for batch in self._read(None if with_kept or not kept else list(dict.fromkeys(self.features or []))):
            # By position, because two columns may have one name.
            chosen = [at for at, name in enumerate(batch.schema.names) if name not in kept]
            rows = _check.numeric(self.name, batch.select(chosen))
            if len(rows):
                self._refuse_missing(rows, before)
                before += len(rows)
                yield _Chunk(rows, [batch.column(at) for at in self.kept] if with_kept else [])

    def arrow_field(self, at: int) -> ArrowField:
        return self._schema.field(at)


class _ArrowSource(_ParquetSource):
    """A file of Arrow record batches, as Feather is."""

    def __init__(self, path: _files.PathLike, options: csv_files.CsvOptions | None, gaps: bool) -> None:
        _Source.__init__(self, path, options, gaps)
        self._file = arrow_files.ArrowFile(path)
        self._schema = self._file.schema
        self.names = list(self._schema.names)
        self.index = arrow_files.index_of(self._schema)

    def _read(self, columns: list[str] | None) -> Iterator[ArrowRows]:
        return self._file.batches(columns)


def _row_bytes(metadata: Any) -> int:
    """Return about how many bytes a row of a Parquet file takes, at least 1."""
    groups = (metadata.row_group(i) for i in range(metadata.num_row_groups))
    most = 1
    for group in groups:
        if group.num_rows:
            most = max(most, math.ceil(group.total_byte_size / group.num_rows))
    return most


_SOURCES: dict[str, Callable[[_files.PathLike, csv_files.CsvOptions | None, bool], _Source]] = {
    ".csv": _CsvSource,
    ".tsv": _CsvSource,
    ".txt": _CsvSource,
    ".npy": _NpySource,
    ".npz": _NpzSource,
    ".parquet": _ParquetSource,
    ".pq": _ParquetSource,
    ".feather": _ArrowSource,
    ".arrow": _ArrowSource,
    ".ipc": _ArrowSource,
}


def _texts(name: str, column: list[str] | ArrowColumn) -> list[str]:
    """Return a kept column as fields of a CSV file; a null becomes an empty one."""
    if isinstance(column, list):
        return column
    pa = _arrow()
    try:
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        return [csv_files.protected(text or "") for text in column.cast(pa.string()).to_pylist()]
    except pa.lib.ArrowException as error:
        raise ValueError(f"column {name!r} of {column.type} cannot be written as text: {error}") from None


def _write_csv(file: IO[str], source: _Source, parts: Iterator[_Chunk], delimiter: str = ",") -> None:
    first, parts = _peeked(parts, source)
    names = source.names or [f"x{j}" for j in range(first.shape[1])]
    file.write(csv_files.header(source.name, names, delimiter))
    for rows, kept in parts:
        texts = dict(zip(source.kept, kept, strict=True))
        numbers = iter(rows.T.tolist())
        # a line with nothing on it would be none
        gap = "" if len(names) > 1 else "NaN"
        fields = [
            (csv_files.field(text, delimiter) for text in _texts(name, texts[at]))
            if at in texts
            else (repr(value) if value == value else gap for value in next(numbers))
            for at, name in enumerate(names)
        ]
        file.write("".join(delimiter.join(row) + "\n" for row in zip(*fields, strict=True)))


def _write_rows(file: IO[bytes], parts: Iterator[_Chunk]) -> None:
    known = None
    for rows, _ in parts:
        known = known or rows.dtype
        if rows.dtype != known:
            raise ValueError(f"chunks must have one dtype, got {known} and {rows.dtype}")
        file.write(np.ascontiguousarray(rows).data)


def _header_bytes(shape: tuple[int, int], dtype: np.dtype[Any]) -> bytes:
    """Return the header of an NPY file."""
    buffer = io.BytesIO()
    description = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, description)
    return buffer.getvalue()


def _peeked(parts: Iterator[_Chunk], source: _Source) -> tuple[Array, Iterator[_Chunk]]:
    first = next(parts, None)
    if first is None:
        raise ValueError(f"{source.name} has no rows")
    return first.rows, chain([first], parts)


def _write_npy(file: IO[bytes], source: _Source, parts: Iterator[_Chunk]) -> None:
    first, parts = _peeked(parts, source)
    file.write(_header_bytes((source.count(), first.shape[1]), first.dtype))
    _write_rows(file, parts)


def _write_npz(file: IO[bytes], source: _Source, parts: Iterator[_Chunk]) -> None:
    first, parts = _peeked(parts, source)
    with zipfile.ZipFile(file, "w", allowZip64=True) as archive:
        with archive.open("X.npy", "w", force_zip64=True) as member:
            member.write(_header_bytes((source.count(), first.shape[1]), first.dtype))
            _write_rows(member, parts)
        if isinstance(source, _NpzSource):
            for name, group in groupby(source.others(), itemgetter(0)):
                with archive.open(name, "w", force_zip64=True) as member:
                    for _, content in group:
                        member.write(content)


def _arrow_texts(column: list[str] | ArrowColumn) -> ArrowColumn:
    """Return a kept column for Arrow."""
    pa = _arrow()
    return pa.array(map(str, column), pa.string()) if isinstance(column, list) else column


def _write_parquet(file: IO[bytes], source: _Source, parts: Iterator[_Chunk]) -> None:
    _write_batches(source, parts, lambda schema: _arrow().parquet.ParquetWriter(file, schema))


def _write_arrow(file: IO[bytes], source: _Source, parts: Iterator[_Chunk]) -> None:
    _write_batches(source, parts, lambda schema: _arrow().ipc.new_file(file, schema))


def _write_batches(source: _Source, parts: Iterator[_Chunk], open_writer: Callable[[Any], Any]) -> None:
    pa = _arrow()
    first, parts = _peeked(parts, source)
    names = source.names or [f"x{j}" for j in range(first.shape[1])]
    apart, dtype = set(source.kept), pa.from_numpy_dtype(first.dtype)
    fields = [source.arrow_field(at) if at in apart else pa.field(n, dtype) for at, n in enumerate(names)]
    schema = pa.schema(fields)
    with open_writer(schema) as writer:
        for rows, kept in parts:
            beside = dict(zip(source.kept, kept, strict=True))
            numbers = iter(rows.T)
            columns = [
                _arrow_texts(beside[at])
                if at in beside
                else pa.array(np.ascontiguousarray(next(numbers)), from_pandas=True)  # NaN becomes null
                for at in range(len(names))
            ]
            writer.write_batch(pa.record_batch(columns, schema=schema))


_WRITERS: dict[str, Callable[[IO[Any], _Source, Iterator[_Chunk]], None]] = {
    ".csv": _write_csv,
    ".tsv": functools.partial(_write_csv, delimiter="\t"),
    ".npy": _write_npy,
    ".npz": _write_npz,
    ".parquet": _write_parquet,
    ".pq": _write_parquet,
    ".feather": _write_arrow,
    ".arrow": _write_arrow,
    ".ipc": _write_arrow,
}


def _kind(role: str, path: _files.PathLike, known: Iterable[str]) -> str:
    suffix = csv_files.suffix(path)
    if suffix not in known or (csv_files.is_compressed(path) and suffix not in (".csv", ".tsv", ".txt")):
        raise ValueError(f"{role} must end in one of {', '.join(known)}, got {os.fspath(path)!r}")
    return suffix


def _counted(
    parts: Iterator[_Chunk], label: str, total: int | None, progress: bool | None
) -> Iterator[_Chunk]:
    """Yield the chunks and show how many rows have been."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield from parts
        return
    hidden = None if progress is None else not progress  # None: hidden unless on a terminal
    with tqdm(desc=label, total=total, unit="row", unit_scale=True, disable=hidden) as bar:
        for part in parts:
            yield part
            bar.update(len(part.rows))


def _add(moments: Moments, name: str, rows: Array) -> None:
    """Add rows of a file, which is named in errors."""
    try:
        moments.update(rows)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _applied(source: _Source, parts: Iterator[_Chunk], apply: Callable[[Array], Array]) -> Iterator[_Chunk]:
    """Yield the chunks with transformed rows; values that the floating type cannot hold are refused."""
    before = 0
    for rows, kept in parts:
        result = apply(rows)
        good = np.isfinite(result)
        if not good.all() and source.gaps:
            good |= np.isnan(rows)
        if not good.all():
            row, column = (int(i) for i in np.argwhere(~good)[0])
            where = repr(source.features[column]) if source.features else str(column)
            raise ValueError(
                f"{source.name}: row {before + row}, column {where} holds {rows[row, column]:g}, which "
                f"becomes {result[row, column]} in {result.dtype}: use another unit, or other statistics"
            )
        before += len(rows)
        yield _Chunk(result, kept)


def read_statistics(path: _files.PathLike) -> Moments:
    """Read the statistics that `standardize_file` saved.

    Parameters
    ----------
    path : str or path
        A JSON file.

    Returns
    -------
    Moments

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it does not hold statistics.

    Examples
    --------
    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "stats.json")
    >>> with open(path, "w") as file:
    ...     _ = file.write("[]")
    >>> read_statistics(path)
    Traceback (most recent call last):
    ...
    ValueError: ...stats.json: statistics must have format 'nbnorm moments 1', got 'list'
    """
    with _files.open_input(path) as file:
        try:
            return Moments.from_dict(json.loads(file.read().decode()))
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise ValueError(f"{os.fspath(path)}: {error}") from None


def standardize_file(
    source: _files.PathLike,
    destination: _files.PathLike,
    *,
    stats: _files.PathLike | Moments | None = None,
    save_stats: _files.PathLike | None = None,
    inverse: bool = False,
    keep: Iterable[str] = (),
    only: Iterable[str] = (),
    missing: Literal["keep", "refuse"] = "keep",
    options: csv_files.CsvOptions | None = None,
    progress: bool | None = None,
    report: Callable[[str], None] | None = None,
) -> Moments:
    r"""Standardize a file of any length into another one, in bounded memory.

    The source is read twice, once for the statistics and once to standardize; with `stats` only once.

    Parameters
    ----------
    source : str or path
        A CSV file (``.csv``, ``.tsv``, ``.txt``, each also with ``.gz`` behind it), NPY, NPZ (its array
        ``X``; other arrays are copied), Parquet or Arrow file (``.feather``, ``.arrow``, ``.ipc``).
    destination : str or path
        A ``.csv`` or ``.tsv`` (each also with ``.gz`` behind it), ``.npy``, ``.npz``, ``.parquet``,
        ``.feather``, ``.arrow`` or ``.ipc`` file; replaced whole at the end or left as it was.
    stats : str, path or Moments, optional
        Statistics to use instead of the source's own.
    save_stats : str or path, optional
        JSON file for the statistics; it is replaced together with the destination or not at all.
    inverse : bool, default: False
        Turn standardized data back; needs `stats`.
    keep : iterable of str, default: ()
        Names of columns to copy unchanged, each in its position, and to leave out of the statistics: text, a
        target, any type of Parquet.  Source and destination must be CSV or Parquet.  The text of a CSV file
        stays as it is; from Parquet to CSV a null becomes an empty field.  The index of a frame of pandas
        is always copied.
    only : iterable of str, default: ()
        Names of the columns to standardize; all others are copied as by `keep`.
    missing : {"keep", "refuse"}, default: "keep"
        Whether a missing value stays one and has no part in the statistics, or is refused.
    options : CsvOptions, optional
        How a CSV file is written; what is not said is guessed.
    progress : bool, optional
        Show progress bars (with tqdm); by default on a terminal.
    report : function, optional
        Called with each line about what was guessed of a CSV file.

    Returns
    -------
    Moments
        The statistics used.

    Raises
    ------
    OSError
        If a file cannot be read or written.
    TypeError
        If `keep` is a string, or a column of a Parquet file that is not kept holds no real numbers.
    ValueError
        If the source has no rows, a value is missing or no number (named by line and column), the statistics
        are of other features, a file is damaged or of an unknown kind, a result is beyond its type, a
        column in `keep` does not exist or cannot be written to the destination, or no other column is left.

    Examples
    --------
    >>> import os, tempfile
    >>> folder = tempfile.mkdtemp()
    >>> source, destination = os.path.join(folder, "a.csv"), os.path.join(folder, "b.csv")
    >>> with open(source, "w") as file:
    ...     _ = file.write("height,age\n0,3\n4,5\n")
    >>> standardize_file(source, destination).mean
    array([2., 4.])
    >>> with open(destination) as file:
    ...     print(file.read())
    height,age
    -1.0,-1.0
    1.0,1.0
    <BLANKLINE>
    >>> standardize_file(source, destination, keep=["age"]).feature_names
    ['height']
    >>> with open(destination) as file:
    ...     print(file.read())
    height,age
    -1.0,3
    1.0,5
    """
    for argument, columns in (("keep", keep), ("only", only)):
        if isinstance(columns, str):
            raise TypeError(f"{argument} must be column names in a list or tuple, got {columns!r}")
    _check.choice("missing", missing, ("keep", "refuse"))
    names, chosen = list(keep), list(only)
    kind = _kind("source", source, _SOURCES)
    if _SOURCES[kind] is not _CsvSource:
        csv_files.refuse_options(source, options)
    given = _SOURCES[kind](source, options, missing == "keep")
    if report is not None:
        for note in given.notes:
            report(note)
    if chosen:
        given.keep(chosen)  # refuses columns that are not there
        names += [name for name in given.names or () if name not in chosen]
    suffix = _kind("destination", destination, _WRITERS)
    given.keep(names)
    kept = [given.names[at] for at in given.kept] if given.names else names
    if kept and suffix in (".npy", ".npz"):
        raise ValueError(
            f"destination must end in .csv, .parquet or .feather to keep the column {kept[0]!r}, "
            f"got {os.fspath(destination)!r}"
        )
    if inverse and stats is None:
        raise ValueError("stats must be given for inverse=True, got None")
    if save_stats is not None and os.path.realpath(save_stats) == os.path.realpath(destination):
        raise ValueError(f"save_stats must be another file than the destination {os.fspath(destination)!r}")
    for path in (destination, save_stats):
        if path is not None:
            _files.check_writable(path)  # before a long source is read
    if stats is None:
        moments = Moments(nan="omit" if missing == "keep" else "propagate")
        moments.feature_names = given.features
        rows = 0
        for part in _counted(given.chunks(with_kept=False), "reading", given.rows, progress):
            _add(moments, given.name, part.rows)
            rows += len(part.rows)
        if moments.n_features is None:
            raise ValueError(f"{given.name} has no rows")
        labels = given.features or [str(j) for j in range(moments.n_features)]
        empty = np.flatnonzero(np.broadcast_to(moments.count, moments.n_features) == 0)
        if len(empty):
            raise ValueError(
                f"{given.name}: column {labels[empty[0]]!r} holds no value: copy it with keep (--except)"
            )
        tables.refuse_range(given.name, labels, np.array([moments.min, moments.max]))
        given.rows = rows
    else:
        moments = stats if isinstance(stats, Moments) else read_statistics(stats)
        expected = moments.feature_names
        if expected is not None and given.features is not None and expected != given.features:
            raise ValueError(
                f"{given.name} must have the features {expected} of the statistics, got {given.features}"
            )
    standardizer = Standardizer.from_moments(moments)
    apply = standardizer.inverse_transform if inverse else standardizer.transform
    parts = _counted(given.chunks(with_kept=True), "writing", given.rows, progress)
    # Both files are complete, on temporary ones, before either replaces the old one.
    with contextlib.ExitStack() as files:
        if save_stats is not None:
            notes = files.enter_context(_files.replace(save_stats, "w"))
            json.dump(moments.to_dict(), notes, indent=1)
            notes.write("\n")
            notes.flush()
        text = suffix in csv_files.WRITTEN
        with csv_files.replace(destination) if text else _files.replace(destination) as file:
            _WRITERS[suffix](file, given, _applied(given, parts, apply))
    return moments
