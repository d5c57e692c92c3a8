"""What batch norm, layer norm and RMS norm have in common: formulas, columns in float64, blocks of rows.

Statistics are computed and kept in float64, whatever the dtype of the data: a mean rounded to
float32 would shift data of mean 1e7 and standard deviation 1 by half a standard deviation, and the square
of 1e30 does not exist in float32.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import config

from nbnorm import _check, simd
from nbnorm._types import Float64Array, FloatArray
from nbnorm.compile.kernels import kernel, linked_kernel

# Rows of a block, for batches up to a number of rows: enough blocks for several threads, few enough to keep
# the workspace small.  They are fixed because they decide the order of summation.
_ROWS = ((512, 64), (8192, 256))
_MOST_ROWS = 512

# ----------------------------------------------------------------------------------------------
# Formulas
# ----------------------------------------------------------------------------------------------


@simd.elementwise
def add_deviation(d: Any, total: Any, square: Any, one: Any) -> tuple[Any, Any]:
    """Add a deviation and its square to sums; for `one` see `one_for`."""
    return simd.fma(d, one, total), simd.fma(d, d, square)


@simd.elementwise
def block_moments(total: Any, square: Any, n: Any, origin: Any) -> tuple[Any, Any]:
    """Mean and sum of squared deviations from it, of sums of n deviations from `origin`."""
    a = total / n
    # rounding may leave a tiny negative number
    return origin + a, simd.max(square - a * total, 0.0)


@simd.elementwise
def merged_moments(
    mean: Any, square: Any, other_mean: Any, other_square: Any, fraction: Any, weight: Any
) -> tuple[Any, Any]:
    """Merge two means and sums of squared deviations (Chan, Golub and LeVeque 1979).

    `fraction` is m / (n + m), that of the second, and `weight` is n times as much.
    """
    delta = other_mean - mean
    return mean + delta * fraction, square + (other_square + delta * delta * weight)


@simd.elementwise
def normalized(x: Any, mean: Any, scale: Any, shift: Any) -> Any:
    """``(x - mean) * scale + shift``."""
    return simd.fma(x - mean, scale, shift)


@simd.elementwise
def input_gradient(dout: Any, x: Any, mean: Any, scale: Any, shift: Any, rstd: Any, slope: Any) -> Any:
    """``dx = scale * dout + slope * xhat + shift`` with ``xhat = (x - mean) * rstd``.

    As ``dx = gamma * rstd * (dout - mean(dout) - xhat * mean(dout * xhat))``, where mean(...) is over the
    batch, `scale` is gamma * rstd, `slope` is -scale * mean(dout * xhat), and `shift` -scale * mean(dout).
    """
    xhat = (x - mean) * rstd
    return simd.fma(dout, scale, simd.fma(xhat, slope, shift))


# ----------------------------------------------------------------------------------------------
# Columns: vectors of sums are float64, whatever the dtype of the data
# ----------------------------------------------------------------------------------------------


class Columns(NamedTuple):
    """Neighbouring columns, from column j on, of which the last `left` exist (None: all)."""

    j: Any
    lanes: int
    left: Any

    def get(self, array: Any, offset: Any = 0) -> Any:
        """Return their elements in float64, in an array whose column 0 is element `offset`."""
        lanes = simd.native_lanes(np.float64)
        if self.left is not None:
            return simd.convert(simd.load(array, offset + self.j, lanes, self.left), np.float64)
        # A register at a time: instructions that load and convert at once take no more.
        starts = range(0, self.lanes, lanes)
        parts = [simd.convert(simd.load(array, offset + self.j + k, lanes), np.float64) for k in starts]
        return simd.concatenate(*parts)

    def put(self, array: Any, offset: Any, value: Any) -> None:
        """Store their elements."""
        simd.store(array, offset + self.j, simd.convert(value, array.dtype), self.left)

    def prefetch(self, array: Any, offset: Any) -> None:
        """Prefetch their elements."""
        simd.prefetch(array, offset + self.j, self.lanes * array.dtype.itemsize, level=2)


def one_for(dtype: Any, n: Any) -> Any:
    """Return the 1 of ``fma(d, 1, total)``, which is ``total + d`` to the bit, for elements of `dtype`.

    Where elements are converted the adders have no time to spare and the multipliers have: it is made of a
    positive number `n` which only the running program knows, so that the compiler cannot make it an addition.
    """
    n = simd.convert(n, np.float64)
    return n / n if dtype == np.float32 else 1.0


def for_columns(first: Any, last: Any, vectors: int, body: Callable[[Columns], None]) -> None:
    """Go through the columns [first, last), `vectors` registers of float64 at a time, then one."""
    lanes = simd.native_lanes(np.float64)
    steps = (lanes * vectors, lanes) if vectors > 1 else (lanes,)
    simd.loop_steps(first, last, steps, lambda j, lanes: body(Columns(j, lanes, None)))
    whole = first + ((last - first) & -lanes)
    simd.loop(whole, last, lanes, lambda j: body(Columns(j, lanes, last - j)))


@simd.traced
def add_sums(first: Any, last: Any, sums: Any, added: Any) -> None:
    """Add the sums that begin at element `added` to the first ones."""

    def some(columns: Columns) -> None:
        columns.put(sums, 0, columns.get(sums) + columns.get(sums, added))

    for_columns(first, last, 1, some)


# ----------------------------------------------------------------------------------------------
# Blocks of rows, whose sums are added or merged in order
# ----------------------------------------------------------------------------------------------


@linked_kernel
def block_rows(n_samples: Any) -> Any:
    """Return the rows of a block."""
    for most, rows in _ROWS:
        if n_samples <= most:
            return rows
    return _MOST_ROWS


@linked_kernel
def block_count(n_samples: Any) -> Any:
    """Return the number of blocks."""
    rows = block_rows(n_samples)
    return (n_samples + rows - 1) // rows


@linked_kernel
def block_range(block: Any, n_samples: Any) -> Any:
    """Return the rows of a block: the first, and the one behind the last."""
    rows = block_rows(n_samples)
    return block * rows, min(n_samples, (block + 1) * rows)


@kernel
def sums_size(n_samples: Any, n_features: Any) -> Any:
    """Return the number of float64 elements of the workspace `sums` of the kernels."""
    return 2 * block_count(n_samples) * n_features


@kernel(inline="always")
def sums_of(block: Any, width: Any, sums: Any) -> Any:
    """Return the two sums of each column of one block."""
    return sums[2 * block * width : 2 * (block + 1) * width]


# ----------------------------------------------------------------------------------------------
# Checks
# ----------------------------------------------------------------------------------------------


def ignore_warnings() -> contextlib.AbstractContextManager[Any]:
    """Leave out warnings, which only interpreted kernels give."""
    if config.DISABLE_JIT:
        return np.errstate(over="ignore", invalid="ignore")
    return contextlib.nullcontext()


@functools.cache
def _least_eps(dtype: np.dtype[Any]) -> float:
    return float(np.finfo(dtype).tiny)


def check_eps(eps: Any, dtype: np.dtype[Any]) -> float:
    """Return `eps` if 1 / sqrt(eps) exists in the dtype of the data; else a constant column becomes NaN."""
    return _check.number("eps", eps, least=_least_eps(dtype))


def check_variances(x: FloatArray, rstd: Float64Array) -> None:
    """Refuse a feature of finite values whose variance float64 cannot hold."""
    if rstd[rstd.argmin()] > 0.0:  # not where one is NaN, which is the least too
        return
    for j in np.flatnonzero(~(rstd > 0.0)):
        if np.isfinite(x[:, j]).all():
            raise ValueError(
                f"x must have values whose variance is finite, but that of column {j} is not: it has values "
                f"up to {np.abs(x[:, j]).max():g}"
            )
