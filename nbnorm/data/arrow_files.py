"""Parquet and Arrow files: their columns as arrays."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt

from nbnorm import _files
from nbnorm._types import ArrowColumn, ArrowRows, ArrowSchema
from nbnorm.data import csv_files, row_groups

# Rows of a record batch, as Parquet files are read.
ROWS = 1 << 16
# Bytes of each column of a Parquet file that are read at a time.
_BUFFER = 1 << 16
PARQUET = (".parquet", ".pq")
ENDINGS = (*PARQUET, ".feather", ".arrow", ".ipc")


def pyarrow() -> ModuleType:
    """Return pyarrow, or raise an `ImportError` that names the extra."""
    try:
        import pyarrow
        import pyarrow.feather
        import pyarrow.parquet
    except ImportError:
        raise ImportError('Parquet and Arrow need pyarrow: pip install "nbnorm[arrow]"') from None
    return cast(ModuleType, pyarrow)


def parquet_file(source: IO[bytes] | _files.PathLike) -> Any:
    """Open a Parquet file that is read from its beginning to its end in bounded memory.

    By itself pyarrow fetches the pages of all row groups in advance, which amounts to the whole file.
    """
    return pyarrow().parquet.ParquetFile(source, pre_buffer=False, buffer_size=_BUFFER)


def index_of(schema: ArrowSchema) -> set[str]:
    """Return the columns of an Arrow schema in which pandas has stored the index of a frame."""
    try:
        listed = (schema.pandas_metadata or {}).get("index_columns", [])
    except ValueError:  # no JSON
        return set()
    return {name for name in listed if isinstance(name, str)}


class ArrowFile:
    """A Parquet or Arrow (Feather 2) file that can be read through any number of times.

    Parameters
    ----------
    path : str or path

    Attributes
    ----------
    name : str
        The file, for messages.
    schema : pyarrow.Schema

    Raises
    ------
    ImportError
        If pyarrow is not installed.
    OSError
        If the file cannot be read.
    ValueError
        If it is damaged.
    """

    def __init__(self, path: _files.PathLike) -> None:
        self._pa = pyarrow()
        self._path = path
        self.name = os.fspath(path)
        self._parquet = csv_files.suffix(path) in PARQUET
        self._what = "a Parquet file" if self._parquet else "an Arrow file"
        with _files.reading(path, self._what) as raw, self._open(raw) as file:
            self.schema: ArrowSchema = file.schema_arrow if self._parquet else file.schema

    def _open(self, raw: IO[bytes]) -> Any:
        return parquet_file(raw) if self._parquet else self._pa.ipc.open_file(raw)

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[ArrowRows]:
        """Yield the rows as record batches, with some columns or all."""
        with _files.reading(self._path, self._what) as raw, self._open(raw) as file:
            if self._parquet:
                yield from file.iter_batches(ROWS, columns=None if columns is None else list(columns))
                return
            for number in range(file.num_record_batches):
                batch = file.get_batch(number)
                yield batch if columns is None else batch.select(columns)


class ArrowFolder:
    """A folder of Parquet or of Arrow files, in the order of their names, read like one file.

    Parameters
    ----------
    path : str or path

    Attributes
    ----------
    name : str
        The folder, for messages.
    schema : pyarrow.Schema
        That of the first file, and the columns that stand in the names of folders.

    Raises
    ------
    ImportError
        If pyarrow is not installed.
    ValueError
        If the folder holds no such files, or others, or a damaged one.
    """

    def __init__(self, path: _files.PathLike) -> None:
        self._pa = pyarrow()
        self.name = os.fspath(path)
        self._dataset = row_groups.dataset(self.name, Path(path))
        self.schema: ArrowSchema = self._dataset.schema

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[ArrowRows]:
        """Yield the rows as record batches, with some columns or all."""
        wanted = None if columns is None else list(columns)
        for fragment in self._dataset.get_fragments():
            with _named(fragment.path):
                yield from fragment.to_batches(
                    schema=self.schema, columns=wanted, batch_size=ROWS, batch_readahead=1
                )


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Name the file where Arrow says what is wrong."""
    try:
        yield
    except pyarrow().lib.ArrowException as error:
        raise ValueError(f"{name}: {error}") from None


def as_array(name: str, label: str, column: ArrowColumn) -> npt.NDArray[Any]:
    """Return a column of Arrow as an array: text as objects, whole numbers with gaps as floats."""
    pa = pyarrow()
    kind, kinds = column.type, pa.types
    try:
        if kinds.is_dictionary(kind):
            column = column.cast(kind.value_type)
            kind = column.type
            if not (kinds.is_string(kind) or kinds.is_large_string(kind)):
                column = column.cast(pa.string())
                kind = column.type
        if kinds.is_decimal(kind):
            column = column.cast(pa.float64())
        elif kinds.is_null(kind):
            return np.full(len(column), math.nan)
        elif kinds.is_nested(kind) or kinds.is_binary(kind) or kinds.is_large_binary(kind):
            raise ValueError(
                f"{name}: column {label!r} must hold numbers, text, booleans or dates, got {kind}"
            )
    except pa.lib.ArrowException as error:
        raise ValueError(f"{name}: column {label!r} of {kind}: {error}") from None
    if kinds.is_boolean(kind) and column.null_count:
        column = column.cast(pa.int8())
    if kinds.is_date32(kind) or kinds.is_date64(kind):
        column = column.cast(pa.timestamp("ms"))
    if kinds.is_timestamp(kind) and kind.tz is not None:
        column = column.cast(pa.timestamp(kind.unit))  # UTC is what is stored
    return np.asarray(column.to_numpy())
