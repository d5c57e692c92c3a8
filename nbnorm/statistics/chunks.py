"""Data that arrive in chunks: iterators, Arrow tables and readers, Parquet files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from nbnorm import _check
from nbnorm._types import ArrowData, CheckedTable, Table
from nbnorm.statistics.moments import Moments
from nbnorm.statistics.reading import is_sparse

CHUNK = 8 << 20  # bytes of a file that are in memory at a time


def is_stream(x: object) -> bool:
    """Return whether `x` hands out its rows in chunks.

    Parameters
    ----------
    x : object

    Returns
    -------
    bool
        True for iterators and for Arrow tables, record batches, readers, Parquet files and datasets.

    Examples
    --------
    >>> is_stream(iter([])), is_stream([[1.0]])
    (True, False)
    """
    return isinstance(x, Iterator) or _check.is_arrow(x)


def _batches(source: Any) -> Any:
    """Return the record batches of an Arrow object."""
    if hasattr(source, "iter_batches"):  # a Parquet file
        return source.iter_batches(batch_size=rows_of(max(1, len(source.schema_arrow))))
    if hasattr(source, "to_batches"):  # a table, a dataset or a scanner
        return source.to_batches()
    if hasattr(source, "read_next_batch"):
        return iter(source)
    return [source]


def rows_of(features: int, itemsize: int = 8) -> int:
    """Return how many rows of a file are in memory at a time.

    Parameters
    ----------
    features : int
        Number of columns.
    itemsize : int, default: 8
        Bytes of a number.

    Returns
    -------
    int

    Examples
    --------
    >>> rows_of(1024)
    1024
    """
    return max(1, CHUNK // (features * itemsize))


def parts(source: Iterator[Table | ArrowData] | ArrowData) -> Iterator[tuple[str, Any]]:
    """Yield what a stream consists of, as it is, each part under the name that errors use.

    Parameters
    ----------
    source : iterator or Arrow object
        As for `chunks`.

    Yields
    ------
    name : str
        ``"chunk 0"`` for the first.
    part
        An array, a frame, a sparse matrix or a record batch with at least one row.

    Raises
    ------
    ValueError
        If a part is not two-dimensional.

    Examples
    --------
    >>> import numpy as np
    >>> [name for name, part in parts(iter([np.ones((3, 2)), np.ones((0, 2)), np.ones((1, 2))]))]
    ['chunk 0', 'chunk 2']
    """
    items: Iterable[Any] = source if isinstance(source, Iterator) else _batches(source)
    for number, item in enumerate(items):
        name = f"chunk {number}"
        for part in _batches(item) if _check.is_arrow(item) else [item]:
            shape = getattr(part, "shape", None)
            given = part if isinstance(shape, tuple) else np.asarray(part)
            if len(given.shape) != 2:
                raise ValueError(f"{name} must have shape (n_samples, n_features), got shape {given.shape}")
            if given.shape[0]:
                yield name, given


def chunks(source: Iterator[Table | ArrowData] | ArrowData) -> Iterator[CheckedTable]:
    """Yield the rows of `source`, a chunk at a time.

    Parameters
    ----------
    source : iterator or Arrow object
        An iterator of arrays of shape (n_rows, n_features), of frames, of Arrow tables, of record batches or
        of SciPy sparse matrices; or an Arrow table, record batch, reader, dataset or Parquet file.  A null
        becomes NaN.  Columns that have names are taken by name, in the order of the first chunk.

    Yields
    ------
    ndarray or sparse matrix of shape (n_rows, n_features)
        Chunks without rows are passed over.

    Raises
    ------
    TypeError
        If a chunk or a column does not hold real numbers.
    ValueError
        If a chunk is not two-dimensional, or differs from the first in width or in the names of its columns.

    Examples
    --------
    >>> import numpy as np
    >>> [chunk.shape for chunk in chunks(iter([np.ones((3, 2)), np.ones((1, 2))]))]
    [(3, 2), (1, 2)]
    """
    width = known = None
    for name, part in parts(source):
        rows: CheckedTable
        if is_sparse(part):
            rows, names = part.tocsr(), None
        else:
            rows, names = _check.table(name, part, known)
        if width is not None and rows.shape[1] != width:
            raise ValueError(f"{name} must have {width} features like the first, got {rows.shape[1]}")
        width, known = rows.shape[1], known or names
        yield rows


def gather_chunks(source: Iterator[Table | ArrowData] | ArrowData, moments: Moments) -> Moments:
    """Add all rows of a stream to moments.

    Parameters
    ----------
    source
        As for `chunks`.
    moments : Moments
        Changed even if a later chunk is refused.

    Returns
    -------
    Moments
        `moments`.

    Raises
    ------
    TypeError, ValueError
        As `chunks` does, and if there are no rows.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import Moments
    >>> gather_chunks(iter([np.ones((3, 2)), np.zeros((1, 2))]), Moments()).mean
    array([0.75, 0.75])
    """
    empty = True
    for name, part in parts(source):
        moments.add(name, part)
        empty = False
    if empty:
        raise ValueError("x must not be empty, got a stream without rows")
    return moments
