"""Batch normalization: forward, backward and inference, and the layer `BatchNorm`.

Statistics are computed and kept in float64, whatever the dtype of the data: a mean rounded to
float32 would shift data of mean 1e7 and standard deviation 1 by half its own spread, and the square
of 1e30 does not exist in float32.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import lower_builtin, type_callable

from nbnorm import _check, _jit
from nbnorm.simd import emit_prefetch

# Rows and columns of a block.  512 rows keep the workspace below 2 % of the data; the sums of 256
# columns stay in the first-level cache.  Both are fixed: they decide the order of summation.
ROWS = 512
COLUMNS = 256

# Vectors that belong to one block of columns lie `COLUMNS` apart in one array.  LLVM vectorises a loop
# only with a few run-time checks for overlap, and a constant distance needs none.
SQUARES = COLUMNS  # in the sums: sum and sum of squares, or of dout and of dout * (x - mean)
SUMS = 2 * COLUMNS
LOW, SCALE, SHIFT, RSTD, SLOPE = (k * COLUMNS for k in range(1, 6))  # in the factors, after the mean
FACTORS = 6 * COLUMNS

# Rows after the present one that are asked for from memory: the sums keep the processor so busy that
# its own prefetching falls behind (measured on 65536 x 256 float32: 10 GB/s without, 25 with).
AHEAD = 12

# ----------------------------------------------------------------------------------------------
# Kernels
# ----------------------------------------------------------------------------------------------


def prefetch(row: Any) -> None:
    """Ask for the memory of a vector, without waiting for it; does nothing outside compiled code."""


def _prefetch_type(context: Any) -> Any:
    return lambda row: types.none if isinstance(row, types.Array) and row.ndim == 1 else None


def _emit_prefetch(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    byte, word = ir.IntType(8).as_pointer(), ir.IntType(64)
    row = context.make_array(signature.args[0])(context, builder, args[0])
    start, line = builder.bitcast(row.data, byte), ir.Constant(word, 64)
    size = builder.mul(row.nitems, row.itemsize)
    with cgutils.for_range_slice(builder, ir.Constant(word, 0), size, line, word) as (offset, _):
        emit_prefetch(builder, builder.gep(start, [offset]), 64, level=2)
    return context.get_dummy_value()


type_callable(prefetch)(_prefetch_type)
lower_builtin(prefetch, types.Array)(_emit_prefetch)


@_jit.kernel
def sums_size(n_samples: Any, n_features: Any) -> Any:
    """Return the number of float64 elements of the workspace `sums` of the kernels below."""
    return ((n_samples + ROWS - 1) // ROWS) * ((n_features + COLUMNS - 1) // COLUMNS) * SUMS


@_jit.kernel
def factors_size(n_features: Any) -> Any:
    """Return the number of elements, of the dtype of the data, of the workspace `factors`."""
    return ((n_features + COLUMNS - 1) // COLUMNS) * FACTORS


@_jit.kernel
def _block_statistics(x: Any, start: Any, stop: Any, left: Any, right: Any, sums: Any) -> None:
    """Mean and sum of squared deviations of the columns of one block.

    Deviations are taken from the block's first row, and the mean's own deviation is removed at the
    end.  As that row belongs to the data, its squared distance from the mean is at most n variances:
    the relative error is below n units in the last place of float64, n <= `ROWS`, wherever the data
    lie.
    """
    width = right - left
    n = stop - start
    for j in range(SUMS):
        sums[j] = 0.0
    shift = x[start, left:right]
    fours = start + n // 4 * 4
    for i in range(start, fours, 4):
        for k in range(i + AHEAD, min(i + AHEAD + 4, len(x))):
            prefetch(x[k, left:right])
        # Four rows at a time spare three quarters of the traffic of the sums.
        x0, x1 = x[i, left:right], x[i + 1, left:right]
        x2, x3 = x[i + 2, left:right], x[i + 3, left:right]
        for j in range(width):
            origin = np.float64(shift[j])
            a, b = np.float64(x0[j]) - origin, np.float64(x1[j]) - origin
            c, d = np.float64(x2[j]) - origin, np.float64(x3[j]) - origin
            sums[j] += (a + b) + (c + d)
            sums[j + SQUARES] += (a * a + b * b) + (c * c + d * d)
    for i in range(fours, stop):
        x0 = x[i, left:right]
        for j in range(width):
            a = np.float64(x0[j]) - np.float64(shift[j])
            sums[j] += a
            sums[j + SQUARES] += a * a
    for j in range(width):
        a = sums[j] / n
        # Rounding may leave a tiny negative number; NaN passes.
        squares = sums[j + SQUARES] - a * sums[j]
        sums[j] = np.float64(shift[j]) + a
        sums[j + SQUARES] = 0.0 if squares < 0.0 else squares


@_jit.kernel
def _merge_statistics(n_samples: Any, sums: Any) -> None:
    """Merge the statistics of a column's blocks in order (Chan, Golub and LeVeque 1979)."""
    for block in range(1, (n_samples + ROWS - 1) // ROWS):
        before = block * ROWS
        added = min(n_samples, before + ROWS) - before
        share = added / (before + added)
        at = block * SUMS
        for j in range(COLUMNS):
            delta = sums[at + j] - sums[j]
            sums[j] += delta * share
            sums[j + SQUARES] += sums[at + j + SQUARES] + delta * delta * (before * share)


@_jit.kernel
def _set_factors(mean: Any, scale: Any, shift: Any, factors: Any) -> None:
    """Store a mean in two parts, so that x - mean is right although each part is rounded."""
    for j in range(mean.size):
        factors[j] = mean[j]
        factors[j + LOW] = mean[j] - factors[j]
        factors[j + SCALE] = scale[j]
        factors[j + SHIFT] = shift[j]


@_jit.kernel
def _normalise_block(x: Any, start: Any, stop: Any, left: Any, right: Any, factors: Any, out: Any) -> None:
    for i in range(start, stop):
        if i + AHEAD < len(x):
            prefetch(x[i + AHEAD, left:right])
        x_row, out_row = x[i, left:right], out[i, left:right]
        for j in range(right - left):
            centred = (x_row[j] - factors[j]) - factors[j + LOW]
            out_row[j] = centred * factors[j + SCALE] + factors[j + SHIFT]


@_jit.parallel_kernel
def inference_kernel(x: Any, mean: Any, scale: Any, shift: Any, out: Any, factors: Any) -> None:
    """``out = (x - mean) * scale + shift``; `mean`, `scale` and `shift` are float64 vectors."""
    n, width = x.shape
    across = (width + COLUMNS - 1) // COLUMNS
    for column in range(across):
        left, right = column * COLUMNS, min(width, (column + 1) * COLUMNS)
        _set_factors(mean[left:right], scale[left:right], shift[left:right], factors[column * FACTORS :])
    for tile in numba.prange(((n + ROWS - 1) // ROWS) * across):
        start, column = tile // across * ROWS, tile % across
        left, stop = column * COLUMNS, min(n, start + ROWS)
        _normalise_block(x, start, stop, left, min(width, left + COLUMNS), factors[column * FACTORS :], out)


@_jit.parallel_kernel
def statistics_kernel(x: Any, mean: Any, var: Any, sums: Any) -> None:
    """Mean and biased variance of the columns, in float64; workspace as `sums_size` says."""
    n, width = x.shape
    across, blocks = (width + COLUMNS - 1) // COLUMNS, (n + ROWS - 1) // ROWS
    for tile in numba.prange(blocks * across):
        block, column = tile // across, tile % across
        start, left = block * ROWS, column * COLUMNS
        at = (column * blocks + block) * SUMS
        _block_statistics(
            x, start, min(n, start + ROWS), left, min(width, left + COLUMNS), sums[at : at + SUMS]
        )
    for column in range(across):
        merged = sums[column * blocks * SUMS : (column + 1) * blocks * SUMS]
        _merge_statistics(n, merged)
        left = column * COLUMNS
        for j in range(min(width, left + COLUMNS) - left):
            mean[left + j] = merged[j]
            var[left + j] = merged[j + SQUARES] / n


@_jit.parallel_kernel
def forward_kernel(
    x: Any, gamma: Any, beta: Any, eps: Any, out: Any, mean: Any, rstd: Any, sums: Any, factors: Any
) -> None:
    """Normalise a mini-batch; `mean` and `rstd` are float64, workspaces as `sums_size` says."""
    n, width = x.shape
    across, blocks = (width + COLUMNS - 1) // COLUMNS, (n + ROWS - 1) // ROWS
    for tile in numba.prange(blocks * across):
        block, column = tile // across, tile % across
        start, left = block * ROWS, column * COLUMNS
        at = (column * blocks + block) * SUMS
        _block_statistics(
            x, start, min(n, start + ROWS), left, min(width, left + COLUMNS), sums[at : at + SUMS]
        )
    for column in range(across):
        left, right = column * COLUMNS, min(width, (column + 1) * COLUMNS)
        merged = sums[column * blocks * SUMS : (column + 1) * blocks * SUMS]
        _merge_statistics(n, merged)
        for j in range(right - left):
            mean[left + j] = merged[j]
            rstd[left + j] = 1.0 / math.sqrt(merged[j + SQUARES] / n + eps)
            merged[j + SQUARES] = gamma[left + j] * rstd[left + j]
        _set_factors(mean[left:right], merged[SQUARES:], beta[left:right], factors[column * FACTORS :])
    for tile in numba.prange(blocks * across):
        start, column = tile // across * ROWS, tile % across
        left, stop = column * COLUMNS, min(n, start + ROWS)
        _normalise_block(x, start, stop, left, min(width, left + COLUMNS), factors[column * FACTORS :], out)


@_jit.kernel
def _block_gradient_sums(
    dout: Any, x: Any, start: Any, stop: Any, left: Any, right: Any, factors: Any, sums: Any
) -> None:
    """Sum dout and dout * xhat over the rows of one block."""
    width = right - left
    for j in range(SUMS):
        sums[j] = 0.0
    twos = start + (stop - start) // 2 * 2
    for i in range(start, twos, 2):
        for k in range(i + AHEAD, min(i + AHEAD + 2, len(x))):
            prefetch(x[k, left:right])
            prefetch(dout[k, left:right])
        x0, x1 = x[i, left:right], x[i + 1, left:right]
        d0, d1 = dout[i, left:right], dout[i + 1, left:right]
        for j in range(width):
            xhat0 = ((x0[j] - factors[j]) - factors[j + LOW]) * factors[j + RSTD]
            xhat1 = ((x1[j] - factors[j]) - factors[j + LOW]) * factors[j + RSTD]
            sums[j] += np.float64(d0[j]) + np.float64(d1[j])
            sums[j + SQUARES] += np.float64(d0[j] * xhat0) + np.float64(d1[j] * xhat1)
    for i in range(twos, stop):
        x0, d0 = x[i, left:right], dout[i, left:right]
        for j in range(width):
            xhat0 = ((x0[j] - factors[j]) - factors[j + LOW]) * factors[j + RSTD]
            sums[j] += np.float64(d0[j])
            sums[j + SQUARES] += np.float64(d0[j] * xhat0)


@_jit.kernel
def _gradient_block(
    dout: Any, x: Any, start: Any, stop: Any, left: Any, right: Any, factors: Any, dx: Any
) -> None:
    for i in range(start, stop):
        if i + AHEAD < len(x):
            prefetch(x[i + AHEAD, left:right])
            prefetch(dout[i + AHEAD, left:right])
        x_row, dout_row, dx_row = x[i, left:right], dout[i, left:right], dx[i, left:right]
        for j in range(right - left):
            xhat = ((x_row[j] - factors[j]) - factors[j + LOW]) * factors[j + RSTD]
            dx_row[j] = dout_row[j] * factors[j + SCALE] + (xhat * factors[j + SLOPE] + factors[j + SHIFT])


@_jit.parallel_kernel
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
    """Gradients of `forward_kernel`, or of inference (statistics held fixed) if not `training`."""
    n, width = x.shape
    across, blocks = (width + COLUMNS - 1) // COLUMNS, (n + ROWS - 1) // ROWS
    for j in range(width):
        at = j // COLUMNS * FACTORS + j % COLUMNS
        factors[at] = mean[j]
        factors[at + LOW] = mean[j] - factors[at]
        factors[at + RSTD] = rstd[j]
        factors[at + SCALE] = gamma[j] * rstd[j]
    for tile in numba.prange(blocks * across):
        block, column = tile // across, tile % across
        start, left = block * ROWS, column * COLUMNS
        at = (column * blocks + block) * SUMS
        _block_gradient_sums(
            dout,
            x,
            start,
            min(n, start + ROWS),
            left,
            min(width, left + COLUMNS),
            factors[column * FACTORS :],
            sums[at : at + SUMS],
        )
    for column in range(across):
        merged = sums[column * blocks * SUMS : (column + 1) * blocks * SUMS]
        for block in range(1, blocks):
            for j in range(SUMS):
                merged[j] += merged[block * SUMS + j]
        left = column * COLUMNS
        for j in range(min(width, left + COLUMNS) - left):
            dbeta[left + j] = merged[j]
            dgamma[left + j] = merged[j + SQUARES]
            # dx = gamma rstd (dout - mean(dout) - xhat mean(dout xhat)), means over the batch
            scale = gamma[left + j] * rstd[left + j]
            at = column * FACTORS + j
            factors[at + SLOPE] = -scale * (merged[j + SQUARES] / n) if training else 0.0
            factors[at + SHIFT] = -scale * (merged[j] / n) if training else 0.0
    for tile in numba.prange(blocks * across):
        start, column = tile // across * ROWS, tile % across
        left, stop = column * COLUMNS, min(n, start + ROWS)
        _gradient_block(
            dout, x, start, stop, left, min(width, left + COLUMNS), factors[column * FACTORS :], dx
        )


# ----------------------------------------------------------------------------------------------
# Public functions
# ----------------------------------------------------------------------------------------------


def _workspace(x: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    n, width = x.shape
    return np.empty(sums_size(n, width)), np.empty(factors_size(width), x.dtype)


def _eps(eps: Any, dtype: np.dtype[Any]) -> float:
    # 1 / sqrt(eps) has to exist in the dtype of the data, or a constant column becomes NaN.
    return _check.number("eps", eps, least=float(np.finfo(dtype).tiny))


def batch_norm_forward(
    x: npt.ArrayLike,
    gamma: npt.ArrayLike,
    beta: npt.ArrayLike,
    *,
    eps: float = 1e-5,
    out: npt.NDArray[Any] | None = None,
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """Normalise a mini-batch with its own mean and variance.

    ``out = gamma * (x - mean) * rstd + beta`` with ``rstd = 1 / sqrt(var + eps)``; mean and biased
    variance are taken over the rows [1]_.

    Parameters
    ----------
    x : array_like, shape (n_samples, n_features)
        Mini-batch; float32 stays float32, other real types become float64.
    gamma, beta : array_like, shape (n_features,)
        Scale and shift.
    eps : float, default 1e-5
        Positive number added to the variance.
    out : ndarray, optional
        C-contiguous array of the shape and dtype of the result, apart from `x`.

    Returns
    -------
    out : ndarray, shape (n_samples, n_features)
        Normalised mini-batch.
    mean, rstd : ndarray of float64, shape (n_features,)
        Statistics for `batch_norm_backward`; float64 for float32 data as well, so that the backward
        pass subtracts the same mean.

    Raises
    ------
    TypeError
        If an array does not hold real numbers or `eps` is not a number.
    ValueError
        If a shape does not fit, `x` is empty, `eps` is not positive, or `out` does not fit.

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
    """
    x = _check.floats("x", x, 2)
    width = x.shape[1]
    gamma = _check.floats("gamma", gamma, 1, dtype=x.dtype, shape=(width,))
    beta = _check.floats("beta", beta, 1, dtype=x.dtype, shape=(width,))
    eps = _eps(eps, x.dtype)
    out = _check.output("out", out, x.shape, x.dtype)
    _check.apart("out", out, x=x, gamma=gamma, beta=beta)
    mean, rstd = np.empty(width), np.empty(width)
    forward_kernel(x.size, x, gamma, beta, eps, out, mean, rstd, *_workspace(x))
    return out, mean, rstd


def batch_norm_backward(
    dout: npt.ArrayLike,
    x: npt.ArrayLike,
    gamma: npt.ArrayLike,
    mean: npt.ArrayLike,
    rstd: npt.ArrayLike,
    *,
    out: npt.NDArray[Any] | None = None,
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """Gradients of `batch_norm_forward`.

    With ``xhat = (x - mean) * rstd`` and ``g = gamma * dout``, means and sums over the rows::

        dgamma = sum(dout * xhat)
        dbeta = sum(dout)
        dx = rstd * (g - mean(g) - xhat * mean(g * xhat))

    Parameters
    ----------
    dout : array_like, shape (n_samples, n_features)
        Gradient of the loss with respect to the normalised mini-batch.
    x : array_like, shape (n_samples, n_features)
        Mini-batch given to `batch_norm_forward`; its dtype is that of the results.
    gamma : array_like, shape (n_features,)
        Scale.
    mean, rstd : array_like of float64, shape (n_features,)
        Statistics returned by `batch_norm_forward`.
    out : ndarray, optional
        C-contiguous array for dx, apart from `dout` and `x`.

    Returns
    -------
    dx : ndarray, shape (n_samples, n_features)
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
    x = _check.floats("x", x, 2)
    width = x.shape[1]
    dout = _check.floats("dout", dout, 2, dtype=x.dtype, shape=x.shape)
    gamma = _check.floats("gamma", gamma, 1, dtype=x.dtype, shape=(width,))
    mean = _check.floats("mean", mean, 1, dtype=np.dtype(np.float64), shape=(width,))
    rstd = _check.floats("rstd", rstd, 1, dtype=np.dtype(np.float64), shape=(width,))
    dx = _check.output("out", out, x.shape, x.dtype)
    _check.apart("out", dx, dout=dout, x=x, gamma=gamma)
    return _backward(dout, x, gamma, mean, rstd, True, dx)


def _backward(
    dout: npt.NDArray[Any],
    x: npt.NDArray[Any],
    gamma: npt.NDArray[Any],
    mean: npt.NDArray[Any],
    rstd: npt.NDArray[Any],
    training: bool,
    dx: npt.NDArray[Any],
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
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
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """Normalise with given statistics, as a trained network does.

    ``out = gamma * (x - running_mean) / sqrt(running_var + eps) + beta``

    Parameters
    ----------
    x : array_like, shape (n_samples, n_features)
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
    ndarray, shape (n_samples, n_features)
        Normalised data; `out` if given.

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
    x = _check.floats("x", x, 2)
    width = x.shape[1]
    double = np.dtype(np.float64)
    gamma = _check.floats("gamma", gamma, 1, dtype=double, shape=(width,))
    beta = _check.floats("beta", beta, 1, dtype=double, shape=(width,))
    mean = _check.floats("running_mean", running_mean, 1, dtype=double, shape=(width,))
    var = _check.floats("running_var", running_var, 1, dtype=double, shape=(width,))
    if (var < 0).any():
        at = int(np.argmax(var < 0))
        raise ValueError(f"running_var must not be negative, got {var[at]} at [{at}]")
    eps = _eps(eps, x.dtype)
    out = _check.output("out", out, x.shape, x.dtype)
    _check.apart("out", out, x=x)
    scale = gamma / np.sqrt(var + eps)
    inference_kernel(x.size, x, mean, scale, beta, out, _workspace(x)[1])
    return out


# ----------------------------------------------------------------------------------------------
# Layer
# ----------------------------------------------------------------------------------------------


class BatchNorm:
    """Batch normalization as a layer with moving averages.

    In training mode a mini-batch is normalised with its own statistics, which also update the
    averages, ``running <- decay * running + (1 - decay) * batch``; in evaluation mode the averages
    are used and not changed.

    Parameters
    ----------
    n_features : int
        Number of features.
    eps : float, default 1e-5
        Positive number added to the variance.
    decay : float, default 0.9
        Weight of the old average, in [0, 1).
    running : {"var", "std"}, default "var"
        Whether variances or standard deviations are averaged.
    unbiased : bool, default True
        Whether the averaged variance is the batch's times n / (n - 1).
    dtype : {float32, float64}, default float32
        Dtype of the parameters and of the computation.

    Attributes
    ----------
    gamma, beta : ndarray, shape (n_features,)
        Scale and shift, at first 1 and 0.
    dgamma, dbeta : ndarray, shape (n_features,)
        Their gradients after `backward`.
    running_mean : ndarray of float64, shape (n_features,)
        Average of the means, at first 0.
    running_var, running_std : ndarray of float64, shape (n_features,)
        Average of the variances or of the standard deviations, at first 1; only the one that
        `running` names exists.
    training : bool
        Mode, at first True.

    Raises
    ------
    TypeError
        If a parameter is of the wrong type.
    ValueError
        If a parameter is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import BatchNorm
    >>> layer = BatchNorm(2, dtype=np.float64)
    >>> x = np.array([[1.0, 10.0], [3.0, 30.0]])
    >>> layer.forward(x).round(3)
    array([[-1., -1.],
           [ 1.,  1.]])
    >>> layer.running_mean
    array([0.2, 2. ])
    >>> layer.eval().forward(x[:1]).shape
    (1, 2)
    """

    running_var: npt.NDArray[np.float64]
    running_std: npt.NDArray[np.float64]

    def __init__(
        self,
        n_features: int,
        *,
        eps: float = 1e-5,
        decay: float = 0.9,
        running: str = "var",
        unbiased: bool = True,
        dtype: npt.DTypeLike = np.float32,
    ) -> None:
        self.n_features = _check.integer("n_features", n_features, least=1)
        self.dtype = _check.float_dtype("dtype", dtype)
        self.eps = _eps(eps, self.dtype)
        self.decay = _check.number("decay", decay, least=0, below=1)
        self.running = str(_check.choice("running", running, ("var", "std")))
        self.unbiased = _check.flag("unbiased", unbiased)
        self.gamma = np.ones(self.n_features, self.dtype)
        self.beta = np.zeros(self.n_features, self.dtype)
        self.dgamma = np.zeros_like(self.gamma)
        self.dbeta = np.zeros_like(self.beta)
        self.running_mean = np.zeros(self.n_features)
        setattr(self, f"running_{self.running}", np.ones(self.n_features))
        self.training = True
        self._saved: tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], bool] | None = None

    def train(self) -> BatchNorm:
        """Switch to training mode and return the layer."""
        self.training = True
        return self

    def eval(self) -> BatchNorm:
        """Switch to evaluation mode and return the layer."""
        self.training = False
        return self

    def parameters(self) -> dict[str, npt.NDArray[Any]]:
        """Return the live arrays ``{"gamma": ..., "beta": ...}``."""
        return {"gamma": self.gamma, "beta": self.beta}

    def gradients(self) -> dict[str, npt.NDArray[Any]]:
        """Return the gradients of the last `backward` under the parameters' names."""
        return {"gamma": self.dgamma, "beta": self.dbeta}

    def buffers(self) -> dict[str, npt.NDArray[Any]]:
        """Return the live moving averages under their names."""
        second = f"running_{self.running}"
        return {"running_mean": self.running_mean, second: getattr(self, second)}

    def forward(self, x: npt.ArrayLike) -> npt.NDArray[Any]:
        """Normalise a mini-batch in the present mode.

        Parameters
        ----------
        x : array_like, shape (n_samples, n_features)
            Mini-batch.

        Returns
        -------
        ndarray, shape (n_samples, n_features)
            Normalised mini-batch, of the layer's dtype.

        Raises
        ------
        TypeError
            If `x` does not hold real numbers.
        ValueError
            If the shape does not fit, or in training mode if there is only one sample.
        """
        x = _check.floats("x", x, 2, dtype=self.dtype)
        n, width = x.shape
        if width != self.n_features:
            raise ValueError(f"x must have {self.n_features} features, got shape {x.shape}")
        if not self.training:
            second = self._running_var()
            rstd = 1 / np.sqrt(second + self.eps)
            out = batch_norm_inference(x, self.gamma, self.beta, self.running_mean, second, eps=self.eps)
            self._saved = (x, self.running_mean.copy(), rstd, False)
            return out
        if n == 1:
            raise ValueError(
                "x must have at least 2 samples in training mode, got 1, whose variance is unknown: "
                "use a larger batch or call eval() first"
            )
        out, mean, rstd = batch_norm_forward(x, self.gamma, self.beta, eps=self.eps)
        self._average(mean, np.maximum(1 / rstd**2 - self.eps, 0) * (n / (n - 1) if self.unbiased else 1))
        self._saved = (x, mean, rstd, True)
        return out

    def _running_var(self) -> npt.NDArray[np.float64]:
        return self.running_var if self.running == "var" else self.running_std**2

    def _average(self, mean: npt.NDArray[Any], var: npt.NDArray[Any]) -> None:
        self.running_mean += (1 - self.decay) * (mean - self.running_mean)
        if self.running == "var":
            self.running_var += (1 - self.decay) * (var - self.running_var)
        else:
            self.running_std += (1 - self.decay) * (np.sqrt(var) - self.running_std)

    def backward(self, dout: npt.ArrayLike) -> npt.NDArray[Any]:
        """Gradient with respect to the input of the last `forward`; sets `dgamma` and `dbeta`.

        After a forward pass in evaluation mode the statistics count as constants.

        Parameters
        ----------
        dout : array_like, shape (n_samples, n_features)
            Gradient of the loss with respect to the output.

        Returns
        -------
        ndarray, shape (n_samples, n_features)
            Gradient of the loss with respect to the input.

        Raises
        ------
        TypeError
            If `dout` does not hold real numbers.
        ValueError
            If the shape is not that of the last output.
        RuntimeError
            If `forward` has not been called.
        """
        if self._saved is None:
            raise RuntimeError("backward needs a call of forward first")
        x, mean, rstd, training = self._saved
        dout = _check.floats("dout", dout, 2, dtype=self.dtype, shape=x.shape)
        dx, dgamma, dbeta = _backward(dout, x, self.gamma, mean, rstd, training, np.empty_like(x))
        self.dgamma[...], self.dbeta[...] = dgamma, dbeta
        return dx
