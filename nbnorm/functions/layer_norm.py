"""Layer normalization and RMS normalization: statistics of each sample over its features.

Both do the same in training and evaluation, for any batch, and have no moving averages.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nbnorm import _check
from nbnorm._types import FloatArray
from nbnorm.compile.kernels import inner_kernel, kernel
from nbnorm.functions.batch_norm import _eps


@inner_kernel
def _row_moments(row: Any) -> Any:
    """Return mean and biased variance of a row, in float64, by two passes."""
    total = 0.0
    for value in row:
        total += np.float64(value) - row[0]
    mean = row[0] + total / row.size
    square = 0.0
    for value in row:
        square += (value - mean) ** 2
    return mean, square / row.size


@kernel
def layer_norm_kernel(x: Any, gamma: Any, beta: Any, eps: Any, out: Any, mean: Any, rstd: Any) -> None:
    """``out = gamma * (x - mean) * rstd + beta``, row by row."""
    for i in range(x.shape[0]):
        mean[i], var = _row_moments(x[i])
        rstd[i] = 1.0 / np.sqrt(var + eps)
        for j in range(x.shape[1]):
            out[i, j] = gamma[j] * ((x[i, j] - mean[i]) * rstd[i]) + beta[j]


@kernel
def layer_norm_backward_kernel(
    dout: Any, x: Any, gamma: Any, mean: Any, rstd: Any, dx: Any, dgamma: Any, dbeta: Any
) -> None:
    """``dx = rstd * (g - mean(g) - xhat * mean(g * xhat))`` over rows; `dgamma`, `dbeta` are float64."""
    n, width = x.shape
    dgamma[:], dbeta[:] = 0.0, 0.0
    for i in range(n):
        mean_g = mean_gx = 0.0
        for j in range(width):
            g, xhat = gamma[j] * np.float64(dout[i, j]), (x[i, j] - mean[i]) * rstd[i]
            mean_g += g / width
            mean_gx += g * xhat / width
            dgamma[j] += dout[i, j] * xhat
            dbeta[j] += dout[i, j]
        for j in range(width):
            g, xhat = gamma[j] * np.float64(dout[i, j]), (x[i, j] - mean[i]) * rstd[i]
            dx[i, j] = rstd[i] * (g - mean_g - xhat * mean_gx)


@kernel
def rms_norm_kernel(x: Any, gamma: Any, eps: Any, out: Any, rrms: Any) -> None:
    """``out = gamma * x * rrms`` with ``rrms = 1 / sqrt(mean(x**2) + eps)``, row by row."""
    for i in range(x.shape[0]):
        square = 0.0
        for value in x[i]:
            square += np.float64(value) ** 2
        rrms[i] = 1.0 / np.sqrt(square / x.shape[1] + eps)
        for j in range(x.shape[1]):
            out[i, j] = gamma[j] * (x[i, j] * rrms[i])


@kernel
def rms_norm_backward_kernel(dout: Any, x: Any, gamma: Any, rrms: Any, dx: Any, dgamma: Any) -> None:
    """``dx = rrms * (g - xhat * mean(g * xhat))`` over each row; `dgamma` is float64."""
    n, width = x.shape
    dgamma[:] = 0.0
    for i in range(n):
        mean_gx = 0.0
        for j in range(width):
            xhat = x[i, j] * rrms[i]
            mean_gx += gamma[j] * np.float64(dout[i, j]) * xhat / width
            dgamma[j] += dout[i, j] * xhat
        for j in range(width):
            dx[i, j] = rrms[i] * (gamma[j] * np.float64(dout[i, j]) - x[i, j] * rrms[i] * mean_gx)


def _samples(name: str, x: npt.ArrayLike) -> FloatArray:
    """Check samples of shape (..., n_features)."""
    got = _check.numeric(name, x)
    if got.ndim < 1 or got.size == 0:
        raise ValueError(f"{name} must have shape (..., n_features) and not be empty, got shape {got.shape}")
    return _check.floats(name, got, got.ndim, shape=got.shape)


def _rows(x: FloatArray) -> FloatArray:
    return x.reshape(-1, x.shape[-1])


def _saved(name: str, values: npt.ArrayLike, x: FloatArray) -> FloatArray:
    """Check statistics that a forward pass returned, one for each sample."""
    return _check.floats(name, values, 1, dtype=np.dtype(np.float64), shape=x.shape[:-1])


def _refuse_range(x: FloatArray, rstd: FloatArray) -> None:
    if not (rstd > 0.0).all() and np.isfinite(x).all():
        raise ValueError("x must have a variance that float64 can hold")


def layer_norm_forward(
    x: npt.ArrayLike,
    gamma: npt.ArrayLike,
    beta: npt.ArrayLike,
    *,
    eps: float = 1e-5,
    out: FloatArray | None = None,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Normalize each sample over its features [1]_.

    ``out = gamma * (x - mean) * rstd + beta`` with the mean and the biased variance of the last axis and
    ``rstd = 1 / sqrt(var + eps)``

    Parameters
    ----------
    x : array_like, shape (..., n_features)
        Samples; float32 stays float32, other real types become float64.
    gamma, beta : array_like, shape (n_features,)
        Scale and shift.
    eps : float, default 1e-5
        Positive number added to the variance.
    out : ndarray, optional
        C-contiguous array of the shape and dtype of the result, apart from the inputs.

    Returns
    -------
    out : ndarray, shape (..., n_features)
        Normalized samples; `out` if given.
    mean, rstd : ndarray of float64, shape (...)
        Statistics, which `layer_norm_backward` needs.

    Raises
    ------
    TypeError
        If an array does not hold real numbers or `eps` is not a number.
    ValueError
        If a shape does not fit, `x` is empty, `eps` is not positive, or a variance is beyond float64.

    References
    ----------
    .. [1] J. L. Ba, J. R. Kiros and G. E. Hinton, "Layer Normalization", 2016, arXiv:1607.06450.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import layer_norm_forward
    >>> out, mean, rstd = layer_norm_forward([[1.0, 3.0], [10.0, 30.0]], np.ones(2), np.zeros(2))
    >>> out.round(3), mean
    (array([[-1.,  1.],
           [-1.,  1.]]), array([ 2., 20.]))
    """
    x = _samples("x", x)
    gamma = _check.floats("gamma", gamma, 1, dtype=x.dtype, shape=x.shape[-1:])
    beta = _check.floats("beta", beta, 1, dtype=x.dtype, shape=x.shape[-1:])
    out = _check.output("out", out, x.shape, x.dtype)
    _check.apart("out", out, x=x, gamma=gamma, beta=beta)
    mean, rstd = np.empty(x.shape[:-1]), np.empty(x.shape[:-1])
    with np.errstate(over="ignore", invalid="ignore"):  # refused below; only interpreted kernels warn
        layer_norm_kernel(
            _rows(x), gamma, beta, _eps(eps, x.dtype), _rows(out), mean.reshape(-1), rstd.reshape(-1)
        )
    _refuse_range(x, rstd)
    return out, mean, rstd


def layer_norm_backward(
    dout: npt.ArrayLike,
    x: npt.ArrayLike,
    gamma: npt.ArrayLike,
    mean: npt.ArrayLike,
    rstd: npt.ArrayLike,
    *,
    out: FloatArray | None = None,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Gradients of `layer_norm_forward`.

    With ``xhat = (x - mean) * rstd`` and ``g = gamma * dout``, means over the features of a sample and
    sums over the samples::

        dgamma = sum(dout * xhat)
        dbeta = sum(dout)
        dx = rstd * (g - mean(g) - xhat * mean(g * xhat))

    Parameters
    ----------
    dout : array_like, shape (..., n_features)
        Gradient of the loss with respect to the normalized samples.
    x : array_like, shape (..., n_features)
        Samples given to `layer_norm_forward`; their dtype is that of the results.
    gamma : array_like, shape (n_features,)
        Scale.
    mean, rstd : array_like of float64, shape (...)
        Statistics returned by `layer_norm_forward`.
    out : ndarray, optional
        C-contiguous array for dx, apart from `dout` and `x`.

    Returns
    -------
    dx : ndarray, shape (..., n_features)
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
    >>> from nbnorm import layer_norm_backward, layer_norm_forward
    >>> x, gamma = np.array([[1.0, 3.0, 5.0]]), np.ones(3)
    >>> _, mean, rstd = layer_norm_forward(x, gamma, np.zeros(3))
    >>> dx, dgamma, dbeta = layer_norm_backward(np.ones((1, 3)), x, gamma, mean, rstd)
    >>> bool(abs(dx).max() < 1e-15)  # a shift of all features changes nothing
    True
    """
    x = _samples("x", x)
    dout = _check.floats("dout", dout, x.ndim, dtype=x.dtype, shape=x.shape)
    gamma = _check.floats("gamma", gamma, 1, dtype=x.dtype, shape=x.shape[-1:])
    mean, rstd = _saved("mean", mean, x), _saved("rstd", rstd, x)
    dx = _check.output("out", out, x.shape, x.dtype)
    _check.apart("out", dx, dout=dout, x=x, gamma=gamma)
    dgamma, dbeta = np.empty(x.shape[-1]), np.empty(x.shape[-1])
    layer_norm_backward_kernel(
        _rows(dout), _rows(x), gamma, mean.reshape(-1), rstd.reshape(-1), _rows(dx), dgamma, dbeta
    )
    return dx, dgamma.astype(x.dtype), dbeta.astype(x.dtype)


def rms_norm_forward(
    x: npt.ArrayLike, gamma: npt.ArrayLike, *, eps: float = 1e-5, out: FloatArray | None = None
) -> tuple[FloatArray, FloatArray]:
    """Divide each sample by the root mean square of its features [1]_.

    ``out = gamma * x * rrms`` with ``rrms = 1 / sqrt(mean(x**2) + eps)`` over the last axis

    Parameters
    ----------
    x : array_like, shape (..., n_features)
        Samples; float32 stays float32, other real types become float64.
    gamma : array_like, shape (n_features,)
        Scale.
    eps : float, default 1e-5
        Positive number added to the mean square.
    out : ndarray, optional
        C-contiguous array of the shape and dtype of the result, apart from the inputs.

    Returns
    -------
    out : ndarray, shape (..., n_features)
        Normalized samples; `out` if given.
    rrms : ndarray of float64, shape (...)
        Reciprocal root mean squares, which `rms_norm_backward` needs.

    Raises
    ------
    TypeError
        If an array does not hold real numbers or `eps` is not a number.
    ValueError
        If a shape does not fit, `x` is empty, `eps` is not positive, or a mean square is beyond float64.

    References
    ----------
    .. [1] B. Zhang and R. Sennrich, "Root Mean Square Layer Normalization", NeurIPS 2019.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import rms_norm_forward
    >>> rms_norm_forward([[3.0, 4.0], [30.0, 40.0]], np.ones(2))[0].round(3)
    array([[0.849, 1.131],
           [0.849, 1.131]])
    """
    x = _samples("x", x)
    gamma = _check.floats("gamma", gamma, 1, dtype=x.dtype, shape=x.shape[-1:])
    out = _check.output("out", out, x.shape, x.dtype)
    _check.apart("out", out, x=x, gamma=gamma)
    rrms = np.empty(x.shape[:-1])
    with np.errstate(over="ignore", invalid="ignore"):
        rms_norm_kernel(_rows(x), gamma, _eps(eps, x.dtype), _rows(out), rrms.reshape(-1))
    _refuse_range(x, rrms)
    return out, rrms


def rms_norm_backward(
    dout: npt.ArrayLike,
    x: npt.ArrayLike,
    gamma: npt.ArrayLike,
    rrms: npt.ArrayLike,
    *,
    out: FloatArray | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Gradients of `rms_norm_forward`.

    With ``xhat = x * rrms`` and ``g = gamma * dout``, means over the features of a sample and sums over the
    samples::

        dgamma = sum(dout * xhat)
        dx = rrms * (g - xhat * mean(g * xhat))

    Parameters
    ----------
    dout : array_like, shape (..., n_features)
        Gradient of the loss with respect to the normalized samples.
    x : array_like, shape (..., n_features)
        Samples given to `rms_norm_forward`; their dtype is that of the results.
    gamma : array_like, shape (n_features,)
        Scale.
    rrms : array_like of float64, shape (...)
        What `rms_norm_forward` returned.
    out : ndarray, optional
        C-contiguous array for dx, apart from `dout` and `x`.

    Returns
    -------
    dx : ndarray, shape (..., n_features)
        Gradient with respect to `x`; `out` if given.
    dgamma : ndarray, shape (n_features,)
        Gradient with respect to `gamma`.

    Raises
    ------
    TypeError
        If an array does not hold real numbers.
    ValueError
        If a shape does not fit, `x` is empty, or `out` does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import rms_norm_backward, rms_norm_forward
    >>> x, gamma = np.array([[3.0, 4.0]]), np.ones(2)
    >>> _, rrms = rms_norm_forward(x, gamma)
    >>> dx, dgamma = rms_norm_backward(x, x, gamma, rrms)
    >>> bool(abs(dx).max() < 1e-5)  # a longer x changes nothing, but for eps
    True
    """
    x = _samples("x", x)
    dout = _check.floats("dout", dout, x.ndim, dtype=x.dtype, shape=x.shape)
    gamma = _check.floats("gamma", gamma, 1, dtype=x.dtype, shape=x.shape[-1:])
    rrms = _saved("rrms", rrms, x)
    dx = _check.output("out", out, x.shape, x.dtype)
    _check.apart("out", dx, dout=dout, x=x, gamma=gamma)
    dgamma = np.empty(x.shape[-1])
    rms_norm_backward_kernel(_rows(dout), _rows(x), gamma, rrms.reshape(-1), _rows(dx), dgamma)
    return dx, dgamma.astype(x.dtype)
