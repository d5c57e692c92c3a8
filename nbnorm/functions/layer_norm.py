"""Layer normalization and RMS normalization: statistics of each sample over its features.

Both do the same in training and evaluation, for any batch, and have no moving averages.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from nbnorm import _check, simd
from nbnorm._types import FloatArray
from nbnorm.compile.kernels import parallel_kernel
from nbnorm.functions.normalization import (
    Columns,
    add_deviation,
    add_sums,
    block_count,
    block_moments,
    block_range,
    check_eps,
    ignore_warnings,
    input_gradient,
    normalized,
    one_for,
    sums_of,
    sums_size,
)

# Rows whose gradients are summed up together: gamma, dgamma and dbeta are read once for all of them.  On a
# Zen 3 one row took up to 1.5 times as long, four 1.05 to 1.2 times.
_GROUP = 2

# Registers of partial sums of a row for each of its sums, which hide the latency of the additions.  One took
# 1.2 to 1.5 times as long, two took as long.
_PARTS = 4


# ----------------------------------------------------------------------------------------------
# Rows: sums are float64, whatever the dtype of the data.  RMS norm is layer norm with mean 0 and without
# beta: `centred` is known when the code is compiled.
# ----------------------------------------------------------------------------------------------


def _sum_of_parts(sums: Any, lanes: int) -> Any:
    """Add the registers of a wide vector."""
    return functools.reduce(
        operator.add, (simd.part(sums, k, lanes) for k in range(0, _PARTS * lanes, lanes))
    )


def _row_statistics(x: Any, i: Any, width: Any, centred: bool) -> tuple[Any, Any]:
    """Return the mean of row i (0 if not `centred`) and the mean squared deviation from it.

    Deviations are taken from the first element.  Its squared distance from the mean is at most `width`
    variances: the relative error is below `width` units in the last place of float64, wherever the data lie.
    """
    lanes, at, one = simd.native_lanes(np.float64), i * width, one_for(x.dtype, width)
    origin = simd.convert(simd.get(x, at), np.float64) if centred else 0.0

    def add(columns: Columns, total: Any, square: Any) -> Any:
        d = columns.get(x, at)
        if centred:
            d = d - origin
            if columns.left is not None:
                d = simd.where(simd.first_lanes(columns.left, columns.lanes), d, 0.0)
        return add_deviation(d, total, square, one)

    wide = _PARTS * lanes
    whole = width & -wide
    zero = simd.zeros(np.float64, wide)
    sums = simd.loop(0, whole, wide, lambda j, *sums: add(Columns(j, wide, None), *sums), zero, zero)
    sums = [_sum_of_parts(part, lanes) for part in sums]
    sums = simd.loop(whole, width, lanes, lambda j, *sums: add(Columns(j, lanes, width - j), *sums), *sums)
    total, square = (simd.sum(part) for part in sums)
    n = simd.convert(width, np.float64)
    if not centred:
        return 0.0, square / n
    mean, deviations = block_moments(total, square, n, origin)
    return mean, deviations / n


def _two_parts(mean: Any, dtype: Any) -> tuple[Any, Any]:
    """Return a mean in the dtype of the data, and what rounding has taken from it."""
    center = simd.convert(mean, dtype)
    return center, mean - simd.convert(center, np.float64)


def _normalize_row(x: Any, i: Any, width: Any, mean: Any, rstd: Any, gamma: Any, beta: Any, out: Any) -> None:
    """``out = gamma * (x - mean) * rstd + beta`` for row i; without `beta` if it is None."""
    at = i * width
    center, lost = _two_parts(mean, x.dtype)
    scale, shift = (simd.convert(value, x.dtype) for value in (rstd, -lost * rstd))

    def formula(x: Any, gamma: Any, *beta: Any) -> Any:
        if beta:
            return simd.fma(gamma, normalized(x, center, scale, shift), *beta)
        return gamma * (x * scale)

    _map_row(formula, width, at, (x,), (gamma,) if beta is None else (gamma, beta), out)


def _map_row(
    formula: Callable[..., Any],
    width: Any,
    at: Any,
    arrays: tuple[Any, ...],
    vectors: tuple[Any, ...],
    out: Any,
) -> None:
    """Write ``formula(elements of arrays, elements of vectors)`` to the row of `out` that begins at `at`."""
    lanes = simd.native_lanes(out.dtype)

    def some(j: Any, lanes: int, *left: Any) -> None:
        values = [simd.load(x, at + j, lanes, *left) for x in arrays]
        values += [simd.load(vector, j, lanes, *left) for vector in vectors]
        simd.store(out, at + j, formula(*values), *left)

    whole = width & (-2 * lanes)
    simd.loop(0, whole, 2 * lanes, lambda j: some(j, 2 * lanes))
    simd.loop(whole, width, lanes, lambda j: some(j, lanes, width - j))


def _backward_rows(
    dout: Any, x: Any, gamma: Any, mean: Any, rstd: Any, i: Any, rows: int, width: Any, centred: bool,
    dx: Any, sums: Any,
) -> None:  # fmt: skip
    """Write dx of some rows from row i on, and add their part of dgamma and dbeta to `sums`."""
    lanes = simd.native_lanes(np.float64)
    inverses = [simd.get(rstd, i + r) for r in range(rows)]
    means = [simd.get(mean, i + r) if centred else 0.0 for r in range(rows)]

    def add(columns: Columns, *so_far: Any) -> Any:
        g, dgamma = columns.get(gamma), columns.get(sums)
        dbeta = columns.get(sums, width) if centred else None
        slopes, products = list(so_far[:rows]), list(so_far[rows:])
        for r in range(rows):
            slope, value = columns.get(dout, (i + r) * width), columns.get(x, (i + r) * width)
            product = slope * (value - means[r] if centred else value)
            dgamma = simd.fma(product, inverses[r], dgamma)
            products[r] = simd.fma(g, product, products[r])
            if centred:
                dbeta = dbeta + slope
                slopes[r] = simd.fma(g, slope, slopes[r])
        columns.put(sums, 0, dgamma)
        if centred:
            columns.put(sums, width, dbeta)
        return (*slopes, *products)

    whole = width & -lanes
    zeros = [simd.zeros(np.float64, lanes)] * (2 * rows)
    found = simd.loop(0, whole, lanes, lambda j, *found: add(Columns(j, lanes, None), *found), *zeros)
    found = simd.loop(
        whole, width, lanes, lambda j, *found: add(Columns(j, lanes, width - j), *found), *found
    )
    n = simd.convert(width, np.float64)
    for r in range(rows):
        slope, product = simd.sum(found[r]), simd.sum(found[rows + r])
        inverse = inverses[r]
        factor = -inverse * (product * inverse / n)
        center, lost = _two_parts(means[r], x.dtype) if centred else (0.0, 0.0)
        shift = -inverse * (slope / n) - lost * inverse * factor
        center, scale, factor, shift = (
            simd.convert(value, x.dtype) for value in (center, inverse, factor, shift)
        )

        def formula(dout: Any, x: Any, gamma: Any, numbers: Any = (center, scale, shift, factor)) -> Any:
            center, scale, shift, factor = numbers
            return input_gradient(gamma * dout, x, center, scale, shift, scale, factor)

        _map_row(formula, width, (i + r) * width, (dout, x), (gamma,), dx)


@simd.traced
def _layer_norm_row(
    x: Any, i: Any, width: Any, gamma: Any, beta: Any, eps: Any, out: Any, mean: Any, rstd: Any
) -> None:
    center, var = _row_statistics(x, i, width, True)
    inverse = 1.0 / simd.sqrt(var + eps)
    simd.put(mean, i, center)
    simd.put(rstd, i, inverse)
    _normalize_row(x, i, width, center, inverse, gamma, beta, out)


@simd.traced
def _rms_norm_row(x: Any, i: Any, width: Any, gamma: Any, eps: Any, out: Any, rrms: Any) -> None:
    inverse = 1.0 / simd.sqrt(_row_statistics(x, i, width, False)[1] + eps)
    simd.put(rrms, i, inverse)
    _normalize_row(x, i, width, 0.0, inverse, gamma, None, out)


@simd.traced
def _layer_norm_group(
    dout: Any, x: Any, gamma: Any, mean: Any, rstd: Any, start: Any, stop: Any, width: Any, dx: Any, sums: Any
) -> None:
    def some(i: Any, rows: int) -> None:
        _backward_rows(dout, x, gamma, mean, rstd, i, rows, width, True, dx, sums)

    simd.loop_steps(start, stop, (_GROUP, 1), some)


@simd.traced
def _rms_norm_group(
    dout: Any, x: Any, gamma: Any, rrms: Any, start: Any, stop: Any, width: Any, dx: Any, sums: Any
) -> None:
    def some(i: Any, rows: int) -> None:
        _backward_rows(dout, x, gamma, None, rrms, i, rows, width, False, dx, sums)

    simd.loop_steps(start, stop, (_GROUP, 1), some)


# ----------------------------------------------------------------------------------------------
# Kernels
# ----------------------------------------------------------------------------------------------


@parallel_kernel
def layer_norm_kernel(x: Any, gamma: Any, beta: Any, eps: Any, out: Any, mean: Any, rstd: Any) -> None:
    """``out = gamma * (x - mean) * rstd + beta``, row by row."""
    n, width = x.shape
    for block in numba.prange(block_count(n)):
        start, stop = block_range(np.int64(block), n)
        for i in range(start, stop):
            _layer_norm_row(x, i, width, gamma, beta, eps, out, mean, rstd)


@parallel_kernel
def rms_norm_kernel(x: Any, gamma: Any, eps: Any, out: Any, rrms: Any) -> None:
    """``out = gamma * x * rrms`` with ``rrms = 1 / sqrt(mean(x**2) + eps)``, row by row."""
    n, width = x.shape
    for block in numba.prange(block_count(n)):
        start, stop = block_range(np.int64(block), n)
        for i in range(start, stop):
            _rms_norm_row(x, i, width, gamma, eps, out, rrms)


@parallel_kernel
def layer_norm_backward_kernel(
    dout: Any, x: Any, gamma: Any, mean: Any, rstd: Any, dx: Any, dgamma: Any, dbeta: Any, sums: Any
) -> None:
    """``dx = rstd * (g - mean(g) - xhat * mean(g * xhat))`` over rows; workspace as `sums_size` says."""
    n, width = x.shape
    blocks = block_count(n)
    for block in numba.prange(blocks):
        start, stop = block_range(np.int64(block), n)
        own = sums_of(block, width, sums)
        own[:] = 0.0
        _layer_norm_group(dout, x, gamma, mean, rstd, start, stop, width, dx, own)
    for block in range(1, blocks):
        add_sums(0, 2 * width, sums, block * 2 * width)
    for j in range(width):
        dgamma[j], dbeta[j] = sums[j], sums[width + j]


@parallel_kernel
def rms_norm_backward_kernel(
    dout: Any, x: Any, gamma: Any, rrms: Any, dx: Any, dgamma: Any, sums: Any
) -> None:
    """``dx = rrms * (g - xhat * mean(g * xhat))`` over each row; workspace as `sums_size` says."""
    n, width = x.shape
    blocks = block_count(n)
    for block in numba.prange(blocks):
        start, stop = block_range(np.int64(block), n)
        own = sums_of(block, width, sums)
        own[:] = 0.0
        _rms_norm_group(dout, x, gamma, rrms, start, stop, width, dx, own)
    for block in range(1, blocks):
        add_sums(0, width, sums, block * 2 * width)
    for j in range(width):
        dgamma[j] = sums[j]


# ----------------------------------------------------------------------------------------------
# Public functions
# ----------------------------------------------------------------------------------------------


def _samples(name: str, x: npt.ArrayLike) -> FloatArray:
    """Check samples of shape (..., n_features)."""
    got = _check.numeric(name, x)
    if got.ndim < 1 or got.size == 0:
        raise ValueError(f"{name} must have shape (..., n_features) and not be empty, got shape {got.shape}")
    return _check.floats(name, got, got.ndim, shape=got.shape)


def _rows(x: FloatArray) -> FloatArray:
    return x.reshape(-1, x.shape[-1])


def _workspace(x: FloatArray) -> FloatArray:
    return np.empty(sums_size(*_rows(x).shape))


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
    with ignore_warnings():
        layer_norm_kernel(
            2 * x.size,
            _rows(x),
            gamma,
            beta,
            check_eps(eps, x.dtype),
            _rows(out),
            mean.reshape(-1),
            rstd.reshape(-1),
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
    dgamma, dbeta = np.empty_like(gamma), np.empty_like(gamma)
    sums = _workspace(x)
    layer_norm_backward_kernel(
        3 * x.size,
        _rows(dout),
        _rows(x),
        gamma,
        mean.reshape(-1),
        rstd.reshape(-1),
        _rows(dx),
        dgamma,
        dbeta,
        sums,
    )
    return dx, dgamma, dbeta


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
    with ignore_warnings():
        rms_norm_kernel(2 * x.size, _rows(x), gamma, check_eps(eps, x.dtype), _rows(out), rrms.reshape(-1))
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
    dgamma = np.empty_like(gamma)
    rms_norm_backward_kernel(
        3 * x.size, _rows(dout), _rows(x), gamma, rrms.reshape(-1), _rows(dx), dgamma, _workspace(x)
    )
    return dx, dgamma
