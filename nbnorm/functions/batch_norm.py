"""Batch normalization: forward, backward and inference."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from nbnorm import _check, simd
from nbnorm._types import FloatArray
from nbnorm.compile.kernels import kernel, linked_kernel, parallel_kernel
from nbnorm.functions import channels
from nbnorm.functions.normalization import (
    Columns,
    add_deviation,
    add_sums,
    block_count,
    block_moments,
    block_range,
    check_eps,
    check_variances,
    for_columns,
    ignore_warnings,
    input_gradient,
    merged_moments,
    normalized,
    one_for,
    sums_of,
    sums_size,
)
from nbnorm.functions.scaled_columns import LINE, WRAP, write_columns

# Rows that are added up before the sums go back to memory.  Where a row is a power of two long, their lines
# share a set of the first-level cache.
STRIP = 4

# In bytes.  The sums keep the processor so busy that its own prefetching falls behind.
PREFETCH_DISTANCE = 32 << 10

# Bytes of an array from which it is prefetched: what a cache holds already needs no prefetching.
FAR = 2 << 20

# Columns of a part of the only block.  Rows as long as a page are read as fast as longer ones.
PART = 1024

# Bytes of all arrays of a pass from which the result is written with non-temporal stores, which saves reading
# its lines first.  Measured with a pass that reads the result afterwards: 12 MB lose by it, 16 MB gain.
LARGE = 16 << 20

# Rows of the table of factors, in the dtype of the data:  out = (x - MEAN) * SCALE + SHIFT,
# dx = dout * SCALE + (x - MEAN) * RSTD * SLOPE + SHIFT.  The rounding error of the mean is in SHIFT.
MEAN, SCALE, SHIFT, RSTD, SLOPE, FACTORS = range(6)

# Bytes from which the last pass goes backwards, because what has been read last may still be in a cache.
# Below, each core has what it has read itself.
BACKWARDS = 2 << 20

# ----------------------------------------------------------------------------------------------
# Passes over rows, and over the columns of their sums
# ----------------------------------------------------------------------------------------------


def _sum_vectors(arrays: tuple[Any, ...]) -> int:
    """Return how many registers of columns are summed up together, two sums and an origin for each.

    Elements that are converted need registers too: those of two arrays leave none for more than 4.
    """
    converted = len(arrays) if arrays[0].dtype == np.float32 else 0
    wide = simd.target().registers == 32 and simd.target().register_bytes == 64
    return 8 if wide and converted < 2 else 4


def _add_rows(
    arrays: tuple[Any, ...], add: Callable[..., Any], center: Callable[[Columns], Any], start: Any,
    stop: Any, distance: Any, width: Any, first: Any, last: Any, sums: Any,
) -> None:  # fmt: skip
    """Make ``add(*elements, center, *sums)`` the two sums of the columns [first, last), row by row.

    What lies `distance` elements further on is prefetched; 0: nothing is.
    """

    def add_all(far: bool) -> None:
        def rows(i: Any, several: int) -> None:
            def some(columns: Columns) -> None:
                middle, totals = center(columns), (columns.get(sums), columns.get(sums, width))
                for at in ((i + k) * width for k in range(several)):
                    totals = add(*(columns.get(x, at) for x in arrays), middle, *totals)
                    for x in arrays if far else ():
                        columns.prefetch(x, at + distance)
                columns.put(sums, 0, totals[0])
                columns.put(sums, width, totals[1])

            for_columns(first, last, _sum_vectors(arrays), some)

        simd.loop_steps(start, stop, (STRIP, 1), rows)

    simd.switch(distance > 0, [lambda: add_all(False), lambda: add_all(True)])


@simd.traced
def _add_statistics(x: Any, start: Any, *limits: Any) -> None:
    """Add the deviations of rows from the first of them, and their squares, to the sums."""
    one = one_for(x.dtype, limits[0] - start)

    def add(value: Any, origin: Any, total: Any, square: Any) -> Any:
        return add_deviation(value - origin, total, square, one)

    _add_rows((x,), add, lambda columns: columns.get(x, start * limits[2]), start, *limits)


@simd.traced
def _add_gradient_sums(dout: Any, x: Any, mean: Any, *limits: Any) -> None:
    """Add dout and dout * (x - mean) of some rows to the sums."""
    one = one_for(x.dtype, limits[1] - limits[0])

    def add(slope: Any, value: Any, center: Any, total: Any, product: Any) -> Any:
        return simd.fma(slope, one, total), simd.fma(slope, value - center, product)

    _add_rows((dout, x), add, lambda columns: columns.get(mean), *limits)


@simd.traced
def _finish_block(n: Any, x: Any, row: Any, width: Any, first: Any, last: Any, sums: Any) -> None:
    """Make mean and sum of squared deviations of the sums of deviations from a row."""

    def some(columns: Columns) -> None:
        origin = columns.get(x, row * width)
        mean, square = block_moments(columns.get(sums), columns.get(sums, width), n, origin)
        columns.put(sums, 0, mean)
        columns.put(sums, width, square)

    for_columns(first, last, 1, some)


@simd.traced
def _merge(fraction: Any, weight: Any, width: Any, first: Any, last: Any, sums: Any, added: Any) -> None:
    """Merge the statistics that begin at element `added` into the first ones."""

    def some(columns: Columns) -> None:
        here, there = ((columns.get(sums, at), columns.get(sums, at + width)) for at in (0, added))
        mean, square = merged_moments(*here, *there, fraction, weight)
        columns.put(sums, 0, mean)
        columns.put(sums, width, square)

    for_columns(first, last, 1, some)


@simd.traced
def _scale(
    n: Any, eps: Any, gamma: Any, width: Any, first: Any, last: Any, sums: Any, mean: Any, rstd: Any
) -> None:
    """Set mean and rstd, and make gamma * rstd and the variance of the merged statistics."""

    def some(columns: Columns) -> None:
        var = columns.get(sums, width) / n
        inverse = 1.0 / simd.sqrt(var + eps)
        columns.put(mean, 0, columns.get(sums))
        columns.put(rstd, 0, inverse)
        columns.put(sums, 0, columns.get(gamma) * inverse)
        columns.put(sums, width, var)

    for_columns(first, last, 1, some)


@simd.traced
def _forward_table(mean: Any, scale: Any, shift: Any, row: Any, first: Any, last: Any, factors: Any) -> None:
    """Store a mean in two parts, so that x - mean is right although each part is rounded."""

    def some(columns: Columns) -> None:
        center, factor = columns.get(mean), columns.get(scale)
        columns.put(factors, MEAN * row, center)
        lost = center - columns.get(factors, MEAN * row)
        columns.put(factors, SCALE * row, factor)
        columns.put(factors, SHIFT * row, columns.get(shift) - lost * factor)

    for_columns(first, last, 1, some)


@simd.traced
def _backward_table(
    n: Any, training: Any, gamma: Any, mean: Any, rstd: Any, sums: Any, dgamma: Any, dbeta: Any,
    width: Any, row: Any, first: Any, last: Any, factors: Any,
) -> None:  # fmt: skip
    """Set dgamma and dbeta, and what `input_gradient` needs."""

    def some(columns: Columns) -> None:
        center, inverse, total = columns.get(mean), columns.get(rstd), columns.get(sums)
        product = columns.get(sums, width) * inverse
        columns.put(dbeta, 0, total)
        columns.put(dgamma, 0, product)
        scale = columns.get(gamma) * inverse
        slope = simd.where(training, -scale * (product / n), 0.0)
        shift = simd.where(training, -scale * (total / n), 0.0)
        columns.put(factors, MEAN * row, center)
        lost = center - columns.get(factors, MEAN * row)
        columns.put(factors, SCALE * row, scale)
        columns.put(factors, RSTD * row, inverse)
        columns.put(factors, SLOPE * row, slope)
        columns.put(factors, SHIFT * row, shift - lost * inverse * slope)

    for_columns(first, last, 1, some)


# ----------------------------------------------------------------------------------------------
# The last pass: flat elements beside the table of factors of their columns
# ----------------------------------------------------------------------------------------------


@simd.traced
def _forward_span(x: Any, factors: Any, out: Any, *limits: Any) -> None:
    """Write the normalized elements of a range."""
    write_columns(normalized, (x,), factors, (MEAN, SCALE, SHIFT), out, *limits)


@simd.traced
def _backward_span(dout: Any, x: Any, factors: Any, out: Any, *limits: Any) -> None:
    """Write the gradient with respect to the elements of a range."""
    rows = (MEAN, SCALE, SHIFT, RSTD, SLOPE)
    write_columns(input_gradient, (dout, x), factors, rows, out, *limits)


# ----------------------------------------------------------------------------------------------
# Kernels
# ----------------------------------------------------------------------------------------------


@linked_kernel
def _period(n_features: Any) -> Any:
    """Return the columns of the table of factors: the features, repeated if they are few."""
    return (WRAP + n_features - 1) // n_features * n_features if n_features < WRAP else n_features


@kernel
def factors_size(n_features: Any) -> Any:
    """Return the number of elements, of the dtype of the data, of the workspace `factors`."""
    return (_period(n_features) + WRAP) * FACTORS + LINE // 4


@kernel(inline="always")
def _table(factors: Any, out: Any) -> Any:
    """Return the workspace from where it lies in a cache line as `out` does.

    The last pass writes whole lines, and its vectors of factors must not cross lines either.
    """
    return factors[(out.ctypes.data - factors.ctypes.data) % LINE // out.itemsize :]


@linked_kernel
def _prefetch_distance(x: Any) -> Any:
    """Return the prefetch distance in elements; 0, the element itself, for a small array."""
    return max(STRIP * x.shape[1], PREFETCH_DISTANCE // x.itemsize) if x.size * x.itemsize >= FAR else 0


@linked_kernel
def _parts(x: Any) -> Any:
    """Return how many parts of the columns are tasks: one, unless there is only one block."""
    return max(1, x.shape[1] // PART) if block_count(x.shape[0]) == 1 else 1


@linked_kernel
def _part_columns(part: Any, parts: Any, width: Any) -> Any:
    """Return the columns of a part: the first, and the one behind the last."""
    return part * PART, width if part == parts - 1 else (part + 1) * PART


@linked_kernel
def _task_rows(task: Any, parts: Any, n_samples: Any) -> Any:
    """Return the rows of a task of the last pass: those of a block, or a part of an only one."""
    if parts == 1:
        return block_range(task, n_samples)
    return task * n_samples // parts, (task + 1) * n_samples // parts


@linked_kernel
def _block_statistics(x: Any, block: Any, first: Any, last: Any, sums: Any) -> None:
    """Mean and sum of squared deviations of the columns [first, last) of one block.

    Deviations are taken from the block's first row, and the mean's own deviation is removed at the
    end.  As that row belongs to the data, its squared distance from the mean is at most n variances:
    the relative error is below n units in the last place of float64, n <= 512, wherever the data lie.
    """
    width, (start, stop) = x.shape[1], block_range(block, x.shape[0])
    here = sums_of(block, width, sums)
    here[first:last] = here[width + first : width + last] = 0.0
    _add_statistics(x, start, stop, _prefetch_distance(x), width, first, last, here)
    _finish_block(stop - start, x, start, width, first, last, here)


@linked_kernel
def _merge_statistics(n_samples: Any, first: Any, last: Any, width: Any, sums: Any) -> None:
    """Merge the statistics of the blocks in order (Chan, Golub and LeVeque 1979)."""
    for block in range(1, block_count(n_samples)):
        before, stop = block_range(block, n_samples)
        added = stop - before
        fraction = added / stop
        _merge(fraction, before * fraction, width, first, last, sums, block * 2 * width)


@linked_kernel
def _repeat_factors(width: Any, factors: Any) -> None:
    """Fill the rest of each row of the table."""
    length = _period(width) + WRAP
    for row in range(FACTORS):
        for j in range(width, length):
            factors[row * length + j] = factors[row * length + j - width]


@parallel_kernel
def inference_kernel(x: Any, mean: Any, scale: Any, shift: Any, out: Any, factors: Any) -> None:
    """``out = (x - mean) * scale + shift``; `mean`, `scale` and `shift` are float64 vectors."""
    n, width = x.shape
    period, table = _period(width), _table(factors, out)
    streamed = 2 * out.size * out.itemsize >= LARGE
    _forward_table(mean, scale, shift, period + WRAP, 0, width, table)
    _repeat_factors(width, table)
    parts = _parts(x)
    for task in numba.prange(block_count(n) * parts):
        start, stop = _task_rows(np.int64(task), parts, n)
        _forward_span(x, table, out, start * width, stop * width, start * width % period, period, streamed)


@parallel_kernel
def statistics_kernel(x: Any, mean: Any, var: Any, sums: Any) -> None:
    """Mean and biased variance of the columns, in float64; workspace as `sums_size` says."""
    n, width = x.shape
    for block in numba.prange(block_count(n)):
        _block_statistics(x, block, 0, width, sums)
    _merge_statistics(n, 0, width, width, sums)
    for j in range(width):
        mean[j] = sums[j]
        var[j] = sums[width + j] / n


@linked_kernel
def _finish_statistics(
    n: Any, gamma: Any, beta: Any, eps: Any, first: Any, last: Any, mean: Any, rstd: Any, sums: Any,
    table: Any,
) -> None:  # fmt: skip
    """Statistics and factors of the columns [first, last), of the sums of all blocks."""
    width = mean.size
    _merge_statistics(n, first, last, width, sums)
    _scale(n, eps, gamma, width, first, last, sums, mean, rstd)
    _forward_table(mean, sums, beta, _period(width) + WRAP, first, last, table)


@parallel_kernel
def forward_kernel(
    x: Any, gamma: Any, beta: Any, eps: Any, out: Any, mean: Any, rstd: Any, sums: Any, factors: Any
) -> None:
    """Normalize a mini-batch; `mean` and `rstd` are float64, workspaces as `sums_size` says.

    ``sums[width:2 * width]`` is left with the biased variance.
    """
    n, width = x.shape
    blocks, parts, period, table = block_count(n), _parts(x), _period(width), _table(factors, out)
    for task in numba.prange(blocks * parts):
        first, last = _part_columns(np.int64(task) % parts, parts, width)
        _block_statistics(x, np.int64(task) // parts, first, last, sums)
        if blocks == 1:
            _finish_statistics(n, gamma, beta, eps, first, last, mean, rstd, sums, table)
    if blocks > 1:
        _finish_statistics(n, gamma, beta, eps, 0, width, mean, rstd, sums, table)
    _repeat_factors(width, table)
    size = out.size * out.itemsize
    tasks = blocks * parts
    for turn in numba.prange(tasks):
        start, stop = _task_rows(np.int64(tasks - 1 - turn if size >= BACKWARDS else turn), parts, n)
        begin, streamed = start * width, 2 * size >= LARGE
        _forward_span(x, table, out, begin, stop * width, begin % period, period, streamed)


@linked_kernel
def _block_gradient_sums(dout: Any, x: Any, mean: Any, block: Any, first: Any, last: Any, sums: Any) -> None:
    """Sum dout and dout * (x - mean) over the rows of the columns [first, last) of one block."""
    width, (start, stop) = x.shape[1], block_range(block, x.shape[0])
    here = sums_of(block, width, sums)
    here[first:last] = here[width + first : width + last] = 0.0
    _add_gradient_sums(dout, x, mean, start, stop, _prefetch_distance(x), width, first, last, here)


@linked_kernel
def _finish_gradient_sums(
    n: Any, gamma: Any, mean: Any, rstd: Any, training: Any, first: Any, last: Any, dgamma: Any, dbeta: Any,
    sums: Any, table: Any,
) -> None:  # fmt: skip
    """Set dgamma, dbeta and factors of the columns [first, last), of the sums of all blocks."""
    width = mean.size
    for block in range(1, block_count(n)):
        add_sums(first, last, sums, block * 2 * width)
        add_sums(width + first, width + last, sums, block * 2 * width)
    row = _period(width) + WRAP
    _backward_table(n, training, gamma, mean, rstd, sums, dgamma, dbeta, width, row, first, last, table)


@parallel_kernel
def backward_kernel(
    dout: Any,
    x: Any,
    gamma: Any,
    mean: Any,
    rstd: Any,
    training: Any,
    dx: Any,
    dgamma: Any,
    dbeta: Any,
    sums: Any,
    factors: Any,
) -> None:
    """Gradients of `forward_kernel`, or of inference (constant statistics) if not `training`."""
    n, width = x.shape
    blocks, parts, period, table = block_count(n), _parts(x), _period(width), _table(factors, dx)
    for task in numba.prange(blocks * parts):
        first, last = _part_columns(np.int64(task) % parts, parts, width)
        _block_gradient_sums(dout, x, mean, np.int64(task) // parts, first, last, sums)
        if blocks == 1:
            _finish_gradient_sums(n, gamma, mean, rstd, training, first, last, dgamma, dbeta, sums, table)
    if blocks > 1:
        _finish_gradient_sums(n, gamma, mean, rstd, training, 0, width, dgamma, dbeta, sums, table)
    _repeat_factors(width, table)
    size = dx.size * dx.itemsize
    tasks = blocks * parts
    for turn in numba.prange(tasks):
        start, stop = _task_rows(np.int64(tasks - 1 - turn if size >= BACKWARDS else turn), parts, n)
        begin, streamed = start * width, 3 * size >= LARGE
        _backward_span(dout, x, table, dx, begin, stop * width, begin % period, period, streamed)


# ----------------------------------------------------------------------------------------------
# Public functions
# ----------------------------------------------------------------------------------------------


@functools.lru_cache
def _workspace_sizes(n: int, width: int) -> tuple[int, int]:
    return sums_size(n, width), factors_size(width)


def _workspace(x: FloatArray) -> tuple[FloatArray, FloatArray]:
    sums, factors = _workspace_sizes(*x.shape)
    return np.empty(sums), np.empty(factors, x.dtype)


def batch_norm_forward(
    x: npt.ArrayLike,
    gamma: npt.ArrayLike,
    beta: npt.ArrayLike,
    *,
    eps: float = 1e-5,
    out: FloatArray | None = None,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Normalize a mini-batch with its own mean and variance.

    ``out = gamma * (x - mean) * rstd + beta`` with ``rstd = 1 / sqrt(var + eps)``; mean and biased
    variance are taken over the samples, and of images and the like over all positions of a channel too [1]_.

    Parameters
    ----------
    x : array_like, shape (n_samples, n_features, ...)
        Mini-batch; float32 stays float32, other real types become float64.
    gamma, beta : array_like, shape (n_features,)
        Scale and shift.
    eps : float, default 1e-5
        Positive number added to the variance.
    out : ndarray, optional
        C-contiguous array of the shape and dtype of the result, apart from `x`.

    Returns
    -------
    out : ndarray, shape (n_samples, n_features, ...)
        Normalized mini-batch.
    mean, rstd : ndarray of float64, shape (n_features,)
        Statistics for `batch_norm_backward`; float64 for float32 data as well, so that the backward
        pass subtracts the same mean.

    Raises
    ------
    TypeError
        If an array does not hold real numbers or `eps` is not a number.
    ValueError
        If a shape does not fit, `x` is empty, `eps` is not positive, `out` does not fit, or values are
        finite and their variance in float64 is not.

    References
    ----------
    .. [1] S. Ioffe and C. Szegedy, "Batch Normalization: Accelerating Deep Network Training by
       Reducing Internal Covariate Shift", ICML 2015.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import batch_norm_forward
    >>> x = np.array([[1.0, 10.0], [3.0, 30.0]])
    >>> out, mean, rstd = batch_norm_forward(x, np.ones(2), np.zeros(2))
    >>> mean
    array([ 2., 20.])
    >>> out.round(3)
    array([[-1., -1.],
           [ 1.,  1.]])

    Two images of three channels:

    >>> images = np.arange(24.0).reshape(2, 3, 2, 2)
    >>> out, mean, rstd = batch_norm_forward(images, np.ones(3), np.zeros(3))
    >>> mean, out.shape
    (array([ 7.5, 11.5, 15.5]), (2, 3, 2, 2))
    """
    x = channels.batch("x", x)
    width = x.shape[1]
    gamma = _check.floats("gamma", gamma, 1, dtype=x.dtype, shape=(width,))
    beta = _check.floats("beta", beta, 1, dtype=x.dtype, shape=(width,))
    eps = check_eps(eps, x.dtype)
    out = _check.output("out", out, x.shape, x.dtype)
    _check.apart("out", out, x=x, gamma=gamma, beta=beta)
    rows, normalized = channels.table(x), channels.table_for(out)
    mean, rstd = np.empty(width), np.empty(width)
    with ignore_warnings():  # refused below
        forward_kernel(x.size, rows, gamma, beta, eps, normalized, mean, rstd, *_workspace(rows))
    check_variances(rows, rstd)
    return channels.put_back(normalized, out), mean, rstd


def batch_norm_backward(
    dout: npt.ArrayLike,
    x: npt.ArrayLike,
    gamma: npt.ArrayLike,
    mean: npt.ArrayLike,
    rstd: npt.ArrayLike,
    *,
    out: FloatArray | None = None,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Gradients of `batch_norm_forward`.

    With ``xhat = (x - mean) * rstd`` and ``g = gamma * dout``, means and sums over the samples, and over the
    positions of a channel::

        dgamma = sum(dout * xhat)
        dbeta = sum(dout)
        dx = rstd * (g - mean(g) - xhat * mean(g * xhat))

    Parameters
    ----------
    dout : array_like, shape (n_samples, n_features, ...)
        Gradient of the loss with respect to the normalized mini-batch.
    x : array_like, shape (n_samples, n_features, ...)
        Mini-batch given to `batch_norm_forward`; its dtype is that of the results.
    gamma : array_like, shape (n_features,)
        Scale.
    mean, rstd : array_like of float64, shape (n_features,)
        Statistics returned by `batch_norm_forward`.
    out : ndarray, optional
        C-contiguous array for dx, apart from `dout` and `x`.

    Returns
    -------
    dx : ndarray, shape (n_samples, n_features, ...)
        Gradient with respect to `x`; `out` if given.
    dgamma, dbeta : ndarray, shape (n_features,)
        Gradients with respect to `gamma` and `beta`.

    Raises
    ------
    TypeError
        If an array does not hold real numbers.
    ValueError
        If a shape does not fit, `x` is empty, or `out` does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import batch_norm_backward, batch_norm_forward
    >>> x, gamma = np.array([[1.0], [3.0], [5.0]]), np.ones(1)
    >>> out, mean, rstd = batch_norm_forward(x, gamma, np.zeros(1))
    >>> dx, dgamma, dbeta = batch_norm_backward(np.ones((3, 1)), x, gamma, mean, rstd)
    >>> bool(abs(dx).max() < 1e-15)  # a shift of the whole batch changes nothing
    True
    >>> dbeta
    array([3.])
    """
    x = channels.batch("x", x)
    width = x.shape[1]
    dout = _check.floats("dout", dout, x.ndim, dtype=x.dtype, shape=x.shape)
    gamma = _check.floats("gamma", gamma, 1, dtype=x.dtype, shape=(width,))
    mean = _check.floats("mean", mean, 1, dtype=np.dtype(np.float64), shape=(width,))
    rstd = _check.floats("rstd", rstd, 1, dtype=np.dtype(np.float64), shape=(width,))
    dx = _check.output("out", out, x.shape, x.dtype)
    _check.apart("out", dx, dout=dout, x=x, gamma=gamma)
    rows = channels.table_for(dx)
    _, dgamma, dbeta = _backward(channels.table(dout), channels.table(x), gamma, mean, rstd, True, rows)
    return channels.put_back(rows, dx), dgamma, dbeta


def _backward(
    dout: FloatArray,
    x: FloatArray,
    gamma: FloatArray,
    mean: FloatArray,
    rstd: FloatArray,
    training: bool,
    dx: FloatArray,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    dgamma, dbeta = np.empty_like(gamma), np.empty_like(gamma)
    backward_kernel(2 * x.size, dout, x, gamma, mean, rstd, training, dx, dgamma, dbeta, *_workspace(x))
    return dx, dgamma, dbeta


def batch_norm_inference(
    x: npt.ArrayLike,
    gamma: npt.ArrayLike,
    beta: npt.ArrayLike,
    running_mean: npt.ArrayLike,
    running_var: npt.ArrayLike,
    *,
    eps: float = 1e-5,
    out: FloatArray | None = None,
) -> FloatArray:
    """Normalize with given statistics, as a trained network does.

    ``out = gamma * (x - running_mean) / sqrt(running_var + eps) + beta``

    Parameters
    ----------
    x : array_like, shape (n_samples, n_features, ...)
        Data; float32 stays float32, other real types become float64.
    gamma, beta : array_like, shape (n_features,)
        Scale and shift.
    running_mean, running_var : array_like, shape (n_features,)
        Moving averages of mean and variance; used in float64.
    eps : float, default 1e-5
        Positive number added to the variance.
    out : ndarray, optional
        C-contiguous array of the shape and dtype of the result, apart from `x`.

    Returns
    -------
    ndarray, shape (n_samples, n_features, ...)
        Normalized data; `out` if given.

    Raises
    ------
    TypeError
        If an array does not hold real numbers or `eps` is not a number.
    ValueError
        If a shape does not fit, `x` is empty, a variance is negative, `eps` is not positive, or
        `out` does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import batch_norm_inference
    >>> one = np.ones(1)
    >>> batch_norm_inference(np.array([[5.0]]), one, 0 * one, one, 4 * one).round(3)
    array([[2.]])
    """
    x = channels.batch("x", x)
    width = x.shape[1]
    double = np.dtype(np.float64)
    gamma = _check.floats("gamma", gamma, 1, dtype=double, shape=(width,))
    beta = _check.floats("beta", beta, 1, dtype=double, shape=(width,))
    mean = _check.floats("running_mean", running_mean, 1, dtype=double, shape=(width,))
    var = _check.floats("running_var", running_var, 1, dtype=double, shape=(width,))
    if (var < 0).any():
        at = int(np.argmax(var < 0))
        raise ValueError(f"running_var must not be negative, got {var[at]} at [{at}]")
    eps = check_eps(eps, x.dtype)
    out = _check.output("out", out, x.shape, x.dtype)
    _check.apart("out", out, x=x)
    scale = gamma / np.sqrt(var + eps)
    rows, normalized = channels.table(x), channels.table_for(out)
    inference_kernel(x.size, rows, mean, scale, beta, normalized, _workspace(rows)[1])
    return channels.put_back(normalized, out)
