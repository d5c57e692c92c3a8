"""Batch normalization of a mini-batch in shards, of which each of several processes has some.

The statistics of a shard are small; they are merged in a fixed order, and every process normalizes its
shards with the same ones.  So do the sums of the backward pass.  All of them are float64.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from nbnorm._types import Float64Array, FloatArray
from nbnorm.compile.kernels import parallel_kernel

# Columns that a thread works on together; their sums stay in the first-level cache.
_COLUMNS = 64

# ----------------------------------------------------------------------------------------------
# Kernels
# ----------------------------------------------------------------------------------------------


@parallel_kernel
def _statistics_kernel(x: Any, weights: Any, out: Any) -> None:
    """Add up mean and squared deviations in the rows of `out`, which are 0."""
    n, width = x.shape
    for block in numba.prange((width + _COLUMNS - 1) // _COLUMNS):
        first, last = block * _COLUMNS, min((block + 1) * _COLUMNS, width)
        mean, squares = out[0, first:last], out[1, first:last]
        mass = 0.0
        for i in range(n):
            w, row = weights[i], x[i, first:last]
            mass += w
            for j in range(row.size):
                mean[j] += w * row[j]
        for j in range(mean.size):
            mean[j] /= mass
        for i in range(n):
            w, row = weights[i], x[i, first:last]
            for j in range(row.size):
                d = row[j] - mean[j]
                squares[j] += w * d * d


@parallel_kernel
def _normalize_kernel(x: Any, mean: Any, mean_low: Any, rstd: Any, out: Any) -> None:
    """Write ``((x - mean) - mean_low) rstd``."""
    n, width = x.shape
    for block in numba.prange((width + _COLUMNS - 1) // _COLUMNS):
        first, last = block * _COLUMNS, min((block + 1) * _COLUMNS, width)
        for i in range(n):
            row, result = x[i, first:last], out[i, first:last]
            for j in range(row.size):
                result[j] = ((row[j] - mean[first + j]) - mean_low[first + j]) * rstd[first + j]


@parallel_kernel
def _sums_kernel(dout: Any, u: Any, out: Any) -> None:
    """Add up dout and dout u in the rows of `out`, which are 0."""
    n, width = u.shape
    for block in numba.prange((width + _COLUMNS - 1) // _COLUMNS):
        first, last = block * _COLUMNS, min((block + 1) * _COLUMNS, width)
        total, product = out[0, first:last], out[1, first:last]
        for i in range(n):
            g, v = dout[i, first:last], u[i, first:last]
            for j in range(g.size):
                wide = np.float64(g[j])
                total[j] += wide
                product[j] += wide * v[j]


@parallel_kernel
def _gradient_kernel(dout: Any, u: Any, scale: Any, fraction: Any, sums: Any, out: Any) -> None:
    """Write ``scale (dout - fraction (sums[0] + u sums[1]))``."""
    n, width = u.shape
    for block in numba.prange((width + _COLUMNS - 1) // _COLUMNS):
        first, last = block * _COLUMNS, min((block + 1) * _COLUMNS, width)
        factor, of_dout, of_product = scale[first:last], sums[0, first:last], sums[1, first:last]
        for i in range(n):
            w, g, v, result = fraction[i], dout[i, first:last], u[i, first:last], out[i, first:last]
            for j in range(g.size):
                result[j] = factor[j] * (g[j] - w * (of_dout[j] + v[j] * of_product[j]))


# ----------------------------------------------------------------------------------------------
# Functions
# ----------------------------------------------------------------------------------------------


def shard_statistics(x: FloatArray, weights: FloatArray | None) -> Float64Array:
    """Return mean and sum of squared deviations of each feature of a shard.

    Parameters
    ----------
    x : ndarray, shape (n_samples, n_features)
        Samples of the shard; there may be none.
    weights : ndarray, shape (n_samples,), or None
        Positive weights.

    Returns
    -------
    ndarray of float64, shape (2, n_features)

    Examples
    --------
    >>> shard_statistics(np.array([[1.0], [3.0]]), None)
    array([[2.],
           [2.]])
    """
    out = np.zeros((2, x.shape[1]))
    if len(x):
        wide = np.ones(len(x)) if weights is None else weights.astype(np.float64)
        _statistics_kernel(x.size, np.ascontiguousarray(x), wide, out)
    return out


def merged_statistics(tables: Float64Array, masses: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Return mean and variance of all shards, merged in their order [1]_.

    With n = n_a + n_b and d = mean_b - mean_a,

        mean = mean_a + d n_b / n        M2 = M2_a + M2_b + d^2 n_a n_b / n

    Parameters
    ----------
    tables : ndarray of float64, shape (shards, 2, n_features)
        Means and sums of squared deviations.
    masses : ndarray of float64, shape (shards,)
        Samples of each shard, or the sum of their weights; 0 for an empty one.

    Returns
    -------
    mean, var : ndarray of float64, shape (n_features,)

    References
    ----------
    .. [1] T. F. Chan, G. H. Golub and R. J. LeVeque, "Updating formulae and a pairwise algorithm for
       computing sample variances", 1979.

    Examples
    --------
    >>> tables = np.array([[[1.0], [2.0]], [[0.0], [0.0]], [[4.0], [0.0]]])
    >>> merged_statistics(tables, np.array([2.0, 0.0, 1.0]))
    (array([2.]), array([2.66666667]))
    """
    count, mean, squares = 0.0, tables[0, 0] * 0.0, tables[0, 1] * 0.0
    for (of_shard, more), mass in zip(tables, masses, strict=True):
        if mass > 0.0:
            total = count + mass
            d = of_shard - mean
            mean = mean + d * (mass / total)
            squares = squares + more + np.square(d) * (count * mass / total)
            count = total
    return mean, squares / count


def normalized(
    x: FloatArray,
    mean: Float64Array,
    rstd: Float64Array,
    mean_low: Float64Array | None = None,
    dtype: np.dtype[Any] | None = None,
) -> FloatArray:
    """Return u = (x - mean) rstd of a shard.

    Parameters
    ----------
    x : ndarray, shape (n_samples, n_features)
    mean, rstd : ndarray of float64, shape (n_features,)
    mean_low : ndarray of float64, shape (n_features,), optional
        What the mean is more than `mean`.
    dtype : dtype, optional
        Type of the result, by default that of `x`.

    Returns
    -------
    ndarray, shape (n_samples, n_features)

    Examples
    --------
    >>> normalized(np.array([[1.0], [3.0]]), np.array([2.0]), np.array([0.5]))
    array([[-0.5],
           [ 0.5]])
    """
    out = np.empty(x.shape, x.dtype if dtype is None else dtype)
    low = np.zeros(x.shape[1]) if mean_low is None else mean_low
    _normalize_kernel(x.size, np.ascontiguousarray(x), mean, low, rstd, out)
    return out


def shard_sums(dout: FloatArray, u: FloatArray) -> Float64Array:
    """Return the sums of dout and of dout u over a shard: its terms of dbeta and dgamma.

    Parameters
    ----------
    dout : ndarray, shape (n_samples, n_features)
        Gradient of the loss with respect to what batch norm has given.
    u : ndarray, shape (n_samples, n_features)
        What `normalized` has returned.

    Returns
    -------
    ndarray of float64, shape (2, n_features)

    Examples
    --------
    >>> shard_sums(np.array([[1.0], [3.0]]), np.array([[-0.5], [0.5]]))
    array([[4.],
           [1.]])
    """
    out = np.zeros((2, u.shape[1]))
    _sums_kernel(u.size, dout, u, out)
    return out


def input_gradient(
    dout: FloatArray, u: FloatArray, scale: FloatArray, fraction: Float64Array | float, sums: FloatArray
) -> FloatArray:
    """Return the gradient with respect to what batch norm has read, of one shard.

    ``dx_i = gamma rstd (dout_i - w_i / W (sum(dout) + u_i sum(dout u)))``, with the sums over all samples
    that were normalized together.

    Parameters
    ----------
    dout, u : ndarray, shape (n_samples, n_features)
        As for `shard_sums`.
    scale : ndarray of float64, shape (n_features,)
        gamma rstd.
    fraction : ndarray of float64, shape (n_samples,), or float
        w_i / W.
    sums : ndarray of float64, shape (2, n_features)
        Sums of dout and of dout u over all shards.

    Returns
    -------
    ndarray, shape (n_samples, n_features)
        Of the dtype of `u`.

    Examples
    --------
    >>> dout, u = np.array([[1.0], [3.0]]), np.array([[-1.0], [1.0]])
    >>> input_gradient(dout, u, np.array([2.0]), 0.5, shard_sums(dout, u))
    array([[0.],
           [0.]])
    """
    out = np.empty_like(u)
    _gradient_kernel(u.size, dout, u, scale, np.broadcast_to(fraction, len(u)).astype(np.float64), sums, out)
    return out
