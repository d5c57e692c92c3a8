"""Scaling of every feature: the kernel of standardization, for arrays of any type and layout.

The difference from the mean is formed in float64 and rounded once, to the type of the result: a mean of a
million that was rounded to float32 first could be off by 1/32.  A result too large for the caches is written
past them, which saves reading it first.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import prange

from nbnorm import _check, simd
from nbnorm._types import Array, Float64Array, FloatArray
from nbnorm.compile.kernels import parallel_kernel
from nbnorm.functions.scaled_columns import LINE, WRAP, write_columns
from nbnorm.statistics.reading import converted, is_ready, result_dtype, rows_in_one, target_dtype

# Rows of the table of parameters: the mean as a pair of doubles, the scale, and slope * x + offset.
_MEAN, _MEAN_LOW, _SCALE, _SLOPE, _OFFSET = range(5)

TASKS = 64
PERIOD = 128  # columns of a table at least: whole vectors
SMALLEST = 2.0**-960  # of the scales whose reciprocals keep all digits
LARGEST = 2.0**960  # of these, and of means whose differences cannot overflow where the result does not
_KEPT_BYTES = 4096  # of parameters whose table is kept for the next call
LARGE = 8 << 20  # bytes from which a result is written with non-temporal stores

# ----------------------------------------------------------------------------------------------
# Formulas
# ----------------------------------------------------------------------------------------------


@simd.elementwise
def standardized(x: Any, mean: Any, mean_low: Any, scale: Any, reciprocal: Any) -> Any:
    """(x - mean) / scale in float64, without a division.

    The product with the reciprocal is right to an ulp; its remainder, exact in a fused operation, mends that
    ulp.
    """
    d = (x - mean) - mean_low
    quotient = d * reciprocal
    rest = simd.fma(-quotient, scale, d)
    mended = simd.fma(rest, reciprocal, quotient)
    # An infinite quotient has a remainder that is NaN.
    return simd.where(mended == mended, mended, quotient)


@simd.elementwise
def restored(x: Any, mean: Any, mean_low: Any, scale: Any) -> Any:
    """X * scale + mean in float64."""
    return simd.fma(x, scale, mean_low) + mean


@simd.elementwise
def scaled(x: Any, slope: Any, offset: Any) -> Any:
    """X * slope + offset, ample for float32 if computed in float64."""
    return simd.fma(x, slope, offset)


# ----------------------------------------------------------------------------------------------
# Kernels
# ----------------------------------------------------------------------------------------------


@simd.traced
def _scale_range(
    x: Any, table: Any, period: Any, out: Any, begin: Any, end: Any, column: Any, inverse: Any, streamed: Any
) -> None:
    """Write the scaled elements of a range."""

    def write(formula: Any, rows: tuple[int, ...]) -> None:
        write_columns(formula, (x,), table, rows, out, begin, end, column, period, streamed)

    if out.dtype == np.float32:
        write(scaled, (_SLOPE, _OFFSET))
    else:
        rows = (_MEAN, _MEAN_LOW, _SCALE, _SLOPE)
        simd.switch(inverse, [lambda: write(standardized, rows), lambda: write(restored, rows[:3])])


@parallel_kernel
def _scale(x: Array, table: Array, inverse: bool, chunk: int, streamed: bool, out: Array) -> None:
    """Standardize the flat `x` into the flat `out`, `chunk` elements to a task.

    `table` has a row for each of the parameters, repeated as often as rows of a narrow array are taken for
    one, and its first columns again at the end, see `write_columns`.
    """
    size, period = x.shape[0], table.shape[1] - WRAP
    for task in prange((size + chunk - 1) // chunk):
        begin = np.int64(task) * chunk
        end, column = min(size, begin + chunk), begin % period
        _scale_range(x, table, period, out, begin, end, column, inverse, streamed)


# ----------------------------------------------------------------------------------------------
# Arrays
# ----------------------------------------------------------------------------------------------


def _table(params: Float64Array, inverse: bool) -> Float64Array | None:
    """Return the table that `_scale` takes, or None where the numbers are too large or small for it."""
    mean, low, scale = params
    size = np.abs(scale)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        slope, offset = (scale, mean) if inverse else (1.0 / scale, -mean / scale - low / scale)
    wide = (size < SMALLEST) | (size > LARGEST) | (np.abs(mean) > LARGEST) | np.isinf(offset)
    if not inverse and wide.any():
        return None
    table = np.vstack([params, slope, offset])
    several = max(rows_in_one(table.shape[1], PERIOD), -(-WRAP // table.shape[1]))
    table = np.tile(table, (1, several))
    return np.hstack([table, table[:, :WRAP]])


@functools.lru_cache(64)
def _kept_table(params: bytes, inverse: bool) -> Float64Array | None:
    """Return the table of few columns, which takes longer to make than a few rows to scale."""
    return _table(np.frombuffer(params).reshape(3, -1), inverse)


def _scale_array(x: Array, params: Float64Array, inverse: bool, out: Array) -> None:
    """Standardize C-contiguous `x` into C-contiguous `out` of the same type."""
    mean, low, scale = params
    few = params.nbytes <= _KEPT_BYTES
    table = _kept_table(params.tobytes(), inverse) if few else _table(params, inverse)
    if table is None:
        size = np.abs(scale)
        # A reciprocal or a difference would overflow or lose digits; halves of large numbers do not.
        half = np.where(size > 1.0, 0.5, 1.0)
        with np.errstate(over="ignore", invalid="ignore"):
            for begin, rows in converted(x, np.dtype(np.float64)):
                d = (rows * half - mean * half) - low * half
                out[begin : begin + len(rows)] = d / (scale * half)
        return
    chunk = -(-x.size // TASKS)
    chunk += -chunk % (16 * LINE)
    streamed = out.nbytes >= LARGE and not np.may_share_memory(x, out)
    _scale(x.size, x.reshape(-1), table, inverse, chunk, streamed, out.reshape(-1))


def _result(name: str, out: FloatArray | None, x: Array) -> FloatArray:
    """Return `out` after checking that the standardized `x` can be written to it, or a new array."""
    if out is None:
        return np.empty(x.shape, result_dtype(x.dtype))
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        raise TypeError(f"{name} must be a NumPy array, got {type(out).__name__}")
    if out.shape != x.shape or out.dtype.kind != "f":
        raise ValueError(
            f"{name} must be a floating array of shape {x.shape}, got {out.dtype} of shape {out.shape}"
        )
    if not out.flags.writeable:
        raise ValueError(f"{name} must be writeable")
    same = out.ctypes.data == x.ctypes.data and out.strides == x.strides and out.dtype == x.dtype
    if not same and np.may_share_memory(out, x):
        raise ValueError(f"{name} must be x itself or not share memory with it")
    return out


def scale_dense(x: Array, params: Float64Array, inverse: bool, out: FloatArray | None) -> FloatArray:
    """Standardize a checked array of any type and layout, or undo it.

    Parameters
    ----------
    x : ndarray of shape (n_samples, n_features)
        Real numbers.
    params : ndarray of shape (3, n_features), float64
        Means, what rounding left of them, and scales.
    inverse : bool
        Undo the standardization.
    out : ndarray of shape (n_samples, n_features) or None
        For the result.

    Returns
    -------
    ndarray of shape (n_samples, n_features)
        `out`, or a new array of the type `result_dtype` says.

    Raises
    ------
    TypeError, ValueError
        If the result cannot be written to `out`.

    Examples
    --------
    >>> scale_dense(np.array([[3], [5]]), np.array([[3.0], [0.0], [4.0]]), False, None)
    array([[0. ], [0.5]])
    """
    result = _result("out", out, x)
    if is_ready(x) and is_ready(result) and x.dtype == result.dtype:
        _scale_array(_check.readable(x), params, inverse, result)
        return result
    single = result.dtype != np.float64 and target_dtype(x.dtype) == np.float32
    for begin, rows in converted(x, np.dtype(np.float32 if single else np.float64)):
        _scale_array(rows, params, inverse, rows)
        result[begin : begin + len(rows)] = rows
    return result
