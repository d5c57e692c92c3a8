"""How kernels read data of any type and layout: where they lie, or through a small buffer."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nbnorm import _check
from nbnorm._types import SparseMatrix

if TYPE_CHECKING:
    from typing_extensions import TypeIs

Array = npt.NDArray[Any]

CHUNK = 1 << 20  # bytes that are converted at a time
# Columns of several rows that are read as one are a multiple of it: whole vectors of any processor.
GROUP = 16


def is_sparse(x: object) -> TypeIs[SparseMatrix]:
    """Return whether `x` is a SciPy sparse matrix or array, found out without importing SciPy.

    Parameters
    ----------
    x : object

    Returns
    -------
    bool

    Examples
    --------
    >>> is_sparse([[1.0]])
    False
    """
    scipy_sparse = sys.modules.get("scipy.sparse")
    return scipy_sparse is not None and bool(scipy_sparse.issparse(x))


def target_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type in which kernels read data: without loss where there is such a type.

    Parameters
    ----------
    dtype : dtype
        Of the data.

    Returns
    -------
    dtype
        float32 or float64.

    Examples
    --------
    >>> target_dtype(np.dtype(np.uint8))
    dtype('float32')
    """
    exact = dtype.itemsize <= (4 if dtype.kind == "f" else 2)
    return np.dtype(np.float32) if exact else np.dtype(np.float64)


def result_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type of standardized data: their own if it is floating, otherwise float64.

    Parameters
    ----------
    dtype : dtype
        Of the data.

    Returns
    -------
    dtype
        float16, float32 or float64, in the processor's own order of bytes.

    Examples
    --------
    >>> result_dtype(np.dtype(np.uint8))
    dtype('float64')
    """
    native = dtype.newbyteorder("=")
    return native if native in (np.float16, np.float32) else np.dtype(np.float64)


def is_ready(x: Array) -> bool:
    """Return whether kernels can read `x` where it lies.

    Parameters
    ----------
    x : ndarray

    Returns
    -------
    bool

    Examples
    --------
    >>> is_ready(np.ones((2, 2))), is_ready(np.ones((2, 2), np.uint8))
    (True, False)
    """
    return bool(x.dtype in _check.FLOATS and x.dtype.isnative and x.flags.aligned and x.flags.c_contiguous)


def converted(x: Array, dtype: np.dtype[Any]) -> Iterator[tuple[int, Array]]:
    """Yield the rows of any real array in another type, a small buffer at a time.

    Parameters
    ----------
    x : ndarray of shape (n_samples, n_features)
    dtype : dtype

    Yields
    ------
    first : int
        Number of the first row.
    rows : ndarray of shape (n_rows, n_features)
        C-contiguous and writeable; the next rows overwrite it.

    Examples
    --------
    >>> [(first, rows.tolist()) for first, rows in converted(np.array([[1], [2]]), np.dtype(float))]
    [(0, [[1.0], [2.0]])]
    """
    step = max(8, CHUNK // max(1, x.shape[1] * dtype.itemsize))
    buffer = np.empty((min(step, len(x)), x.shape[1]), dtype)
    for begin in range(0, len(x), step):
        rows = buffer[: min(step, len(x) - begin)]
        np.copyto(rows, x[begin : begin + step], casting="unsafe")
        yield begin, rows


def rows_in_one(n_features: int, columns: int) -> int:
    """Return how many rows of a narrow array are read as one of at least so many columns, in whole vectors.

    Parameters
    ----------
    n_features : int
    columns : int

    Returns
    -------
    int

    Examples
    --------
    >>> rows_in_one(10, 128), rows_in_one(10, 768), rows_in_one(1000, 768)
    (16, 80, 1)
    """
    if n_features >= max(256, 2 * columns // 3):
        return 1
    step = GROUP // math.gcd(n_features, GROUP)
    return step * -(-columns // (step * n_features))
