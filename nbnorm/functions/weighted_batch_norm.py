"""Batch normalization whose statistics are weighted means, or leave out samples by a mask."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nbnorm import _check
from nbnorm._types import Float64Array, FloatArray
from nbnorm.compile.kernels import kernel
from nbnorm.functions import channels
from nbnorm.functions.normalization import check_eps, check_variances


@kernel(allocates=True)
def weighted_statistics_kernel(x: Any, fractions: Any, mean: Any, var: Any) -> None:
    """Weighted mean and biased variance of the columns, in float64; the sum of `fractions` is 1."""
    n, width = x.shape
    first = np.argmax(fractions > 0.0)
    mean[:], var[:] = 0.0, 0.0
    for i in range(n):
        if fractions[i] > 0.0:  # what is masked may be anything, even NaN
            for j in range(width):
                mean[j] += fractions[i] * (np.float64(x[i, j]) - x[first, j])
    for j in range(width):
        mean[j] += x[first, j]
    for i in range(n):
        if fractions[i] > 0.0:
            for j in range(width):
                var[j] += fractions[i] * (x[i, j] - mean[j]) ** 2


@kernel
def weighted_forward_kernel(x: Any, gamma: Any, beta: Any, mean: Any, rstd: Any, out: Any) -> None:
    """``out = gamma * (x - mean) * rstd + beta``."""
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            out[i, j] = gamma[j] * ((x[i, j] - mean[j]) * rstd[j]) + beta[j]


@kernel
def weighted_backward_kernel(
    dout: Any, x: Any, gamma: Any, mean: Any, rstd: Any, fractions: Any, dx: Any, dgamma: Any, dbeta: Any
) -> None:
    """``dx = rstd * (g - fraction * (sum(g) + xhat * sum(g * xhat)))``; `dgamma` and `dbeta` are float64.

    Samples without a weight do not count in the statistics; a gradient of 0 leaves them out of the sums.
    """
    n, width = x.shape
    dgamma[:], dbeta[:] = 0.0, 0.0
    for i in range(n):
        for j in range(width):
            if dout[i, j] != 0.0:
                dgamma[j] += dout[i, j] * ((x[i, j] - mean[j]) * rstd[j])
                dbeta[j] += dout[i, j]
    for i in range(n):
        for j in range(width):
            slope = gamma[j] * rstd[j]
            dx[i, j] = slope * dout[i, j]
            if fractions[i] > 0.0:
                xhat = (x[i, j] - mean[j]) * rstd[j]
                dx[i, j] = slope * (dout[i, j] - fractions[i] * (dbeta[j] + xhat * dgamma[j]))


def statistics(x: FloatArray, weights: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Return weighted mean and biased variance of checked rows."""
    mean, var = np.empty(x.shape[1]), np.empty(x.shape[1])
    with np.errstate(over="ignore", invalid="ignore"):  # callers refuse it; only interpreted kernels warn
        weighted_statistics_kernel(x, weights / weights.sum(), mean, var)
    return mean, var


def weighted_batch_norm_forward(
    x: npt.ArrayLike,
    gamma: npt.ArrayLike,
    beta: npt.ArrayLike,
    weights: npt.ArrayLike,
    *,
    eps: float = 1e-5,
    out: FloatArray | None = None,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Normalize a mini-batch with weighted statistics.

    ``out = gamma * (x - mean) * rstd + beta`` with ``mean = sum(w * x) / sum(w)``,
    ``var = sum(w * (x - mean)**2) / sum(w)`` and ``rstd = 1 / sqrt(var + eps)``.  A weight of 2 is the
    same as a sample that comes twice.  Samples of weight 0 do not enter the statistics and are normalized
    like others.

    Parameters
    ----------
    x : array_like, shape (n_samples, n_features, ...)
        Mini-batch; float32 stays float32, other real types become float64.
    gamma, beta : array_like, shape (n_features,)
        Scale and shift.
    weights : array_like, shape (n_samples,) or (n_samples, ...)
        Weights, not negative, or a mask: True for samples that count.  One for each sample, or for each
        sample and position.
    eps : float, default 1e-5
        Positive number added to the variance.
    out : ndarray, optional
        C-contiguous array of the shape and dtype of the result, apart from the inputs.

    Returns
    -------
    out : ndarray, shape (n_samples, n_features, ...)
        Normalized mini-batch; `out` if given.
    mean, rstd : ndarray of float64, shape (n_features,)
        Statistics, which `weighted_batch_norm_backward` needs.

    Raises
    ------
    TypeError
        If an array does not hold real numbers or `eps` is not a number.
    ValueError
        If a shape does not fit, `x` is empty, a weight is negative or none is positive, `eps` is not
        positive, or a variance is beyond float64.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import weighted_batch_norm_forward
    >>> x, mask = np.array([[1.0], [3.0], [99.0]]), [True, True, False]
    >>> out, mean, rstd = weighted_batch_norm_forward(x, np.ones(1), np.zeros(1), mask)
    >>> mean, out[:2].round(3)
    (array([2.]), array([[-1.],
           [ 1.]]))
    """
    x = channels.batch("x", x)
    gamma = _check.floats("gamma", gamma, 1, dtype=x.dtype, shape=x.shape[1:2])
    beta = _check.floats("beta", beta, 1, dtype=x.dtype, shape=x.shape[1:2])
    used = channels.weights(weights, x.shape)
    eps = check_eps(eps, x.dtype)
    out = _check.output("out", out, x.shape, x.dtype)
    _check.apart("out", out, x=x, gamma=gamma, beta=beta)
    rows, normalized = channels.table(x), channels.table_for(out)
    mean, var = statistics(rows, used)
    rstd = 1 / np.sqrt(var + eps)
    check_variances(rows[used > 0], rstd)
    weighted_forward_kernel(rows, gamma, beta, mean, rstd, normalized)
    return channels.put_back(normalized, out), mean, rstd


def weighted_batch_norm_backward(
    dout: npt.ArrayLike,
    x: npt.ArrayLike,
    gamma: npt.ArrayLike,
    mean: npt.ArrayLike,
    rstd: npt.ArrayLike,
    weights: npt.ArrayLike,
    *,
    out: FloatArray | None = None,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Gradients of `weighted_batch_norm_forward`.

    As d mean / d x_t = w_t / W and d var / d x_t = 2 w_t (x_t - mean) / W with W the sum of the weights,
    the fractions w / W stand where 1 / n stands without weights; with ``xhat = (x - mean) * rstd`` and
    ``g = gamma * dout``::

        dgamma = sum(dout * xhat)
        dbeta = sum(dout)
        dx = rstd * (g - w / W * (sum(g) + xhat * sum(g * xhat)))

    Parameters
    ----------
    dout : array_like, shape (n_samples, n_features, ...)
        Gradient of the loss with respect to the normalized mini-batch; 0 where a sample does not matter.
    x : array_like, shape (n_samples, n_features, ...)
        Mini-batch given to `weighted_batch_norm_forward`; its dtype is that of the results.
    gamma : array_like, shape (n_features,)
        Scale.
    mean, rstd : array_like of float64, shape (n_features,)
        Statistics returned by `weighted_batch_norm_forward`.
    weights : array_like, shape (n_samples,) or (n_samples, ...)
        The same weights or mask.
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
        If a shape does not fit, `x` is empty, a weight is negative, none is positive, or `out` does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import weighted_batch_norm_backward, weighted_batch_norm_forward
    >>> x, gamma, mask = np.array([[1.0], [3.0], [99.0]]), np.ones(1), [1, 1, 0]
    >>> _, mean, rstd = weighted_batch_norm_forward(x, gamma, np.zeros(1), mask)
    >>> dout = np.array([[1.0], [2.0], [0.0]])
    >>> dx, dgamma, dbeta = weighted_batch_norm_backward(dout, x, gamma, mean, rstd, mask)
    >>> dbeta, float(dx[2, 0])
    (array([3.]), 0.0)
    """
    x = channels.batch("x", x)
    double = np.dtype(np.float64)
    dout = _check.floats("dout", dout, x.ndim, dtype=x.dtype, shape=x.shape)
    gamma = _check.floats("gamma", gamma, 1, dtype=x.dtype, shape=x.shape[1:2])
    mean = _check.floats("mean", mean, 1, dtype=double, shape=x.shape[1:2])
    rstd = _check.floats("rstd", rstd, 1, dtype=double, shape=x.shape[1:2])
    used = channels.weights(weights, x.shape)
    dx = _check.output("out", out, x.shape, x.dtype)
    _check.apart("out", dx, dout=dout, x=x, gamma=gamma)
    dgamma, dbeta, rows = np.empty(x.shape[1]), np.empty(x.shape[1]), channels.table_for(dx)
    weighted_backward_kernel(
        channels.table(dout), channels.table(x), gamma, mean, rstd, used / used.sum(), rows, dgamma, dbeta
    )
    channels.put_back(rows, dx)
    return dx, dgamma.astype(x.dtype), dbeta.astype(x.dtype)
