"""Tables from one kind of file into another, a part at a time."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterator, Sequence
from typing import IO, Any

import numpy as np

from nbnorm import _files
from nbnorm._types import ArrowColumn, ArrowRows, ArrowSchema
from nbnorm.data import arrow_files, csv_files, tables
from nbnorm.data.csv_columns import WRITTEN, csv_columns, typed
from nbnorm.data.dates import duration_text

ENDINGS = (*csv_files.WRITTEN, *arrow_files.ENDINGS, ".npz")

# Whole numbers up to this are the same as floats.
_LARGEST_WHOLE = 2.0**53


class _Batches:
    """A table that can be read through any number of times as Arrow record batches."""

    name: str
    schema: ArrowSchema
    notes: Sequence[str] = ()

    def read(self) -> Iterator[ArrowRows]:
        raise NotImplementedError


class _OfCsv(_Batches):
    """A CSV file; columns that hold whole numbers only are integers, which takes a first reading."""

    def __init__(self, reader: csv_files.Reader, columns: Sequence[str], categories: Sequence[str]) -> None:
        pa = arrow_files.pyarrow()
        self.name, self.notes = reader.name, reader.notes
        self._reader = reader
        self._columns = csv_columns(reader, columns, kinds=dict.fromkeys(categories, "category"))
        self._numeric = [name for name, column in self._columns.items() if column.kind == "number"]
        self._others = [name for name, column in self._columns.items() if column.kind != "number"]
        whole = np.ones(len(self._numeric), bool)
        for part in self._parts(with_text=False):
            values = part.numbers
            fits = (values == np.floor(values)) & (np.abs(values) < _LARGEST_WHOLE)
            whole &= (np.isnan(values) | fits).all(axis=0)
        types = {
            column: pa.int64() if one else pa.float64()
            for column, one in zip(self._numeric, whole, strict=True)
        }
        named = {"category": pa.string(), "date": pa.timestamp("us")}
        named |= {kind: pa.type_for_alias(written.arrow) for kind, written in WRITTEN.items()}
        types |= {column: named[self._columns[column].kind] for column in self._others}
        self.schema = pa.schema([pa.field(column, types[column]) for column in columns])

    def _parts(self, *, with_text: bool) -> Iterator[csv_files.Rows]:
        groups = (self._numeric, self._others if with_text else [])
        numeric, text = ([self._reader.positions[column] for column in group] for group in groups)
        yield from self._reader.rows(numeric, text, tables.CHUNK, gaps=True)

    def read(self) -> Iterator[ArrowRows]:
        pa = arrow_files.pyarrow()
        for part in self._parts(with_text=True):
            columns = dict(zip(self._numeric, part.numbers.T, strict=True))
            for column, fields in zip(self._others, part.texts, strict=True):
                columns[column] = typed(self.name, column, fields, part.lines, self._columns[column])
            arrays = [
                pa.array(columns[field.name], from_pandas=True).cast(field.type) for field in self.schema
            ]
            yield pa.record_batch(arrays, schema=self.schema)


class _OfArrow(_Batches):
    def __init__(self, file: arrow_files.ArrowFile, columns: Sequence[str]) -> None:
        self.name = file.name
        self._file, self._columns = file, columns
        pa = arrow_files.pyarrow()
        self.schema = pa.schema([file.schema.field(column) for column in columns])

    def read(self) -> Iterator[ArrowRows]:
        pa = arrow_files.pyarrow()
        for batch in self._file.batches(self._columns):
            yield pa.record_batch([batch.column(column) for column in self._columns], schema=self.schema)


class _OfNpz(_Batches):
    """The arrays X and y of an NPZ file, which is read whole."""

    def __init__(self, path: _files.PathLike) -> None:
        pa = arrow_files.pyarrow()
        table = tables.read_table(path, need_target=False)
        self.name = table.path
        columns = {f"x{j}": pa.array(np.ascontiguousarray(table.X[:, j])) for j in range(table.X.shape[1])}
        if table.values is not None:
            y = np.asarray(table.values)
            many = {f"y{j}": y[:, j] for j in range(y.shape[1])} if y.ndim == 2 else {"y": y}
            columns |= {name: pa.array(np.ascontiguousarray(values)) for name, values in many.items()}
        self._table = pa.table(columns)
        self.schema = self._table.schema

    def read(self) -> Iterator[ArrowRows]:
        yield from self._table.to_batches(max_chunksize=1 << 16)


def convert_file(
    source: _files.PathLike,
    destination: _files.PathLike,
    *,
    target: str | None = None,
    only: Sequence[str] = (),
    without: Sequence[str] = (),
    categories: Sequence[str] = (),
    options: csv_files.CsvOptions | None = None,
) -> dict[str, Any]:
    r"""Write a table as a file of another kind, in bounded memory.

    Parameters
    ----------
    source : str or path
        A file as `read_table` takes it.
    destination : str or path
        A ``.csv`` or ``.tsv`` (each also with ``.gz`` behind it), ``.parquet``, ``.feather``, ``.arrow``,
        ``.ipc`` or ``.npz`` file; replaced whole at the end or left as it was.
    target : str, optional
        For NPZ the column that becomes the array ``y``; all others have to hold numbers and become ``X``.
    only, without, categories : sequence of str
        As for `read_table`.
    options : CsvOptions, optional
        How a CSV source is written.

    Returns
    -------
    dict
        ``rows``, ``columns`` (name and type of each) and ``notes``, what was guessed.

    Raises
    ------
    ImportError
        If pyarrow is not installed.
    OSError
        If a file cannot be read or written.
    ValueError
        If the source is no such table, or the destination cannot hold it.

    Examples
    --------
    >>> import os, tempfile
    >>> folder = tempfile.mkdtemp()
    >>> source, destination = os.path.join(folder, "a.csv"), os.path.join(folder, "a.parquet")
    >>> with open(source, "w") as file:
    ...     _ = file.write("age,city\n31,Rome\n,Oslo\n")
    >>> convert_file(source, destination)["columns"]
    {'age': 'int64', 'city': 'string'}
    """
    ending, text = csv_files.suffix(destination), csv_files.suffix(destination) in csv_files.WRITTEN
    if ending not in ENDINGS or (csv_files.is_compressed(destination) and not text):
        raise ValueError(
            f"{os.fspath(destination)} must end in one of {', '.join(ENDINGS)}; .gz may stand behind "
            f"{' and '.join(csv_files.WRITTEN)}"
        )
    if target is not None and ending != ".npz":
        raise ValueError(f"target {target!r} is for a destination that ends in .npz")
    _files.check_writable(destination)
    batches = _open(source, only, without, categories, options)
    names = list(batches.schema.names)
    csv_files.check_names(batches.name, names)
    if target is not None and target not in names:
        raise ValueError(f"{batches.name} has no target column {target!r}; it has {', '.join(names[:12])}")
    with csv_files.replace(destination) if text else _files.replace(destination) as file:
        if text:
            rows = _write_csv(file, batches, csv_files.delimiter_of(destination))
        elif ending == ".npz":
            rows = _write_npz(file, batches, target)
        else:
            rows = _write_arrow(file, batches, ending)
    columns = {field.name: str(field.type) for field in batches.schema}
    return {"rows": rows, "columns": columns, "notes": list(batches.notes)}


def _open(
    source: _files.PathLike,
    only: Sequence[str],
    without: Sequence[str],
    categories: Sequence[str],
    options: csv_files.CsvOptions | None,
) -> _Batches:
    ending = csv_files.suffix(source)
    if ending not in tables.CSV_ENDINGS:
        csv_files.refuse_options(source, options)
    if ending == ".npz":
        if given := [*only, *without, *categories]:
            raise ValueError(f"{os.fspath(source)} has no column names, got {given[0]!r}")
        return _OfNpz(source)
    if ending in tables.CSV_ENDINGS:
        reader = csv_files.Reader(source, options)
        index = () if reader.index is None else (reader.columns[reader.index],)
        chosen = tables.choose_columns(
            reader.name, reader.columns, index, only=only, without=without, categories=categories
        )
        return _OfCsv(reader, chosen.features, categories)
    if ending in arrow_files.ENDINGS:
        file = arrow_files.ArrowFile(source)
        stored = arrow_files.index_of(file.schema)
        chosen = tables.choose_columns(file.name, file.schema.names, stored, only=only, without=without)
        if categories:
            raise ValueError(f"categories are for CSV files, got {categories[0]!r}")
        return _OfArrow(file, chosen.features)
    raise ValueError(f"{os.fspath(source)} must be a CSV, Parquet, Arrow or NPZ file")


def _write_arrow(file: IO[Any], batches: _Batches, ending: str) -> int:
    pa, rows = arrow_files.pyarrow(), 0
    # the index of pandas that the metadata may speak of is left out
    schema = batches.schema.remove_metadata()
    parquet = ending in arrow_files.PARQUET
    with pa.parquet.ParquetWriter(file, schema) if parquet else pa.ipc.new_file(file, schema) as writer:
        for batch in batches.read():
            writer.write_batch(batch.replace_schema_metadata())
            rows += len(batch)
    return rows


def _write_csv(file: IO[str], batches: _Batches, delimiter: str) -> int:
    pa, rows = arrow_files.pyarrow(), 0
    names = batches.schema.names
    file.write(csv_files.header(batches.name, names, delimiter))
    gap = "" if len(names) > 1 else "NaN"

    def fields(name: str, column: ArrowColumn) -> list[str]:
        if pa.types.is_integer(column.type):  # an array with gaps would be one of floats
            return [gap if value is None else str(value) for value in column.to_pylist()]
        values = arrow_files.as_array(batches.name, name, pa.chunked_array([column]))
        if values.dtype.kind == "M":
            return [gap if text == "NaT" else text for text in np.datetime_as_string(values).tolist()]
        if values.dtype.kind == "m":
            spans = values.astype("timedelta64[us]").tolist()
            return [gap if span is None else duration_text(span) for span in spans]
        return [
            gap
            if value is None or value != value
            else csv_files.field(csv_files.protected(value), delimiter)
            if isinstance(value, str)
            else repr(value)
            for value in values.tolist()
        ]

    for batch in batches.read():
        columns = [fields(name, batch.column(at)) for at, name in enumerate(names)]
        file.write("".join(delimiter.join(row) + "\n" for row in zip(*columns, strict=True)))
        rows += len(batch)
    return rows


def _write_npz(file: IO[Any], batches: _Batches, target: str | None) -> int:
    pa = arrow_files.pyarrow()
    names = [name for name in batches.schema.names if name != target]
    if not names:
        raise ValueError(f"{batches.name} needs a column beside the target {target!r}")
    rows = sum(len(batch) for batch in batches.read())
    truth = []
    with zipfile.ZipFile(file, "w", allowZip64=True) as archive:
        with archive.open("X.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(
                member, {"descr": "<f8", "fortran_order": False, "shape": (rows, len(names))}
            )
            for batch in batches.read():
                X = np.empty((len(batch), len(names)))
                for j, name in enumerate(names):
                    column = arrow_files.as_array(batches.name, name, pa.chunked_array([batch.column(name)]))
                    if column.dtype.kind not in "fiub":
                        raise ValueError(f"{batches.name}: column {name!r} holds no numbers for NPZ")
                    X[:, j] = column
                member.write(X.astype("<f8", copy=False).data)
                if target is not None:
                    column = pa.chunked_array([batch.column(target)])
                    truth.append(arrow_files.as_array(batches.name, target, column))
        if target is not None:
            y = np.concatenate(truth) if truth else np.empty(0)
            if y.dtype.kind == "O":
                if any(value is None for value in y):
                    raise ValueError(f"{batches.name}: column {target!r} has gaps, and text of NPZ has none")
                y = y.astype(str)
            buffer = io.BytesIO()
            np.save(buffer, y, allow_pickle=False)
            archive.writestr("y.npy", buffer.getvalue())
    return rows
