"""Batch norm of images and the like: one mean and one variance for each channel, over samples and places."""

import numpy as np
import pytest

from nbnorm import (
    batch_norm_backward,
    batch_norm_forward,
    batch_norm_inference,
    gradcheck,
    weighted_batch_norm_backward,
    weighted_batch_norm_forward,
)

SHAPES = [(4, 3, 5), (2, 3, 4, 5), (3, 2, 2, 1, 3), (1, 3, 7), (2, 3, 65, 33)]
DTYPES = [np.float32, np.float64]


def data(shape, dtype=np.float64, mean=0.0):
    rng = np.random.default_rng(0)
    x, dout = (mean + rng.normal(size=shape)).astype(dtype), rng.normal(size=shape).astype(dtype)
    gamma, beta = rng.normal(size=(2, shape[1])).astype(dtype)
    weights = rng.uniform(0, 2, (shape[0], *shape[2:]))
    weights[rng.uniform(size=weights.shape) < 0.3] = 0.0
    return x, dout, gamma, beta, weights


def spread(values, x):
    return values.reshape(-1, *[1] * (x.ndim - 2))


def naive(x, gamma, beta, weights, eps=1e-5):
    """Return output, mean and rstd in extended precision."""
    axes = (0, *range(2, x.ndim))
    x = x.astype(np.longdouble)
    w = np.expand_dims(weights, 1) * np.ones_like(x)
    mean = (w * x).sum(axis=axes) / w.sum(axis=axes)
    var = (w * (x - spread(mean, x)) ** 2).sum(axis=axes) / w.sum(axis=axes)
    rstd = 1 / np.sqrt(var + eps)
    return spread(gamma, x) * (x - spread(mean, x)) * spread(rstd, x) + spread(beta, x), mean, rstd


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mean", [0.0, 1e5])
def test_forward_and_inference(shape, dtype, mean):
    x, _, gamma, beta, weights = data(shape, dtype, mean)
    ones = np.ones_like(weights)
    for got, w in (
        (batch_norm_forward(x, gamma, beta), ones),
        (weighted_batch_norm_forward(x, gamma, beta, weights), weights),
    ):
        expected = naive(x, gamma, beta, w)
        assert (got[0].shape, got[0].dtype, got[1].shape) == (shape, dtype, shape[1:2])
        tolerance = 3e-6 if dtype == np.float32 else 1e-9
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(a, b.astype(float), rtol=tolerance, atol=tolerance)
    out, center, rstd = batch_norm_forward(x, gamma, beta)
    again = batch_norm_inference(x, gamma, beta, center, 1 / rstd**2 - 1e-5)
    np.testing.assert_allclose(again, out, rtol=0, atol=3e-6 if dtype == np.float32 else 1e-8)


@pytest.mark.parametrize("shape", SHAPES[:4])
@pytest.mark.parametrize("weighted", [False, True])
def test_gradients(shape, weighted):
    x, dout, gamma, beta, weights = data(shape)
    forward, backward, more = batch_norm_forward, batch_norm_backward, ()
    if weighted:
        forward, backward, more = weighted_batch_norm_forward, weighted_batch_norm_backward, (weights,)
    _, mean, rstd = forward(x, gamma, beta, *more)
    dx, dgamma, dbeta = backward(dout, x, gamma, mean, rstd, *more)
    for at, gradient, output in (
        (x, dx, lambda v: forward(v, gamma, beta, *more)[0]),
        (gamma, dgamma, lambda v: forward(x, v, beta, *more)[0]),
        (beta, dbeta, lambda v: forward(x, gamma, v, *more)[0]),
    ):
        assert gradient.shape == at.shape
        assert gradcheck(lambda v, output=output: np.vdot(dout, output(v)), at, gradient) < 1e-7


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_layout_and_an_output_of_ones_own(dtype):
    x, dout, gamma, beta, _ = data((2, 3, 4, 5), dtype)
    expected, mean, rstd = batch_norm_forward(x, gamma, beta)
    channels_last = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    channels_last.flags.writeable = False
    for given in (np.moveaxis(channels_last, -1, 1), np.asfortranarray(x), x.tolist()):
        given = given if dtype == np.float64 else np.asarray(given, dtype)
        np.testing.assert_array_equal(batch_norm_forward(given, gamma, beta)[0], expected)
    out = np.empty_like(x)
    assert batch_norm_forward(x, gamma, beta, out=out)[0] is out
    np.testing.assert_array_equal(out, expected)
    dx = batch_norm_backward(dout, x, gamma, mean, rstd)[0]
    assert batch_norm_backward(dout, x, gamma, mean, rstd, out=out)[0] is out
    np.testing.assert_array_equal(out, dx)
    assert batch_norm_inference(x, gamma, beta, mean, mean**2, out=out) is out
    of_samples = weighted_batch_norm_forward(x, gamma, beta, [1, 2], out=out)
    assert of_samples[0] is out
    each = np.broadcast_to(np.reshape([1, 2], (2, 1, 1)), (2, 4, 5))
    np.testing.assert_array_equal(weighted_batch_norm_forward(x, gamma, beta, each)[0], out)


def test_shapes_that_do_not_fit_are_refused():
    x, dout, gamma, beta, _ = data((2, 3, 4, 5))
    _, mean, rstd = batch_norm_forward(x, gamma, beta)
    with pytest.raises(ValueError, match=r"gamma must have shape \(3,\), got shape \(5,\)"):
        batch_norm_forward(x, np.ones(5), beta)
    with pytest.raises(
        ValueError, match=r"x must have shape \(n_samples, n_features, ...\), got shape \(3,\)"
    ):
        batch_norm_forward(x[0, :, 0, 0], gamma, beta)
    with pytest.raises(ValueError, match="x must not be empty"):
        batch_norm_inference(x[:, :, :0], gamma, beta, mean, mean**2)
    with pytest.raises(ValueError, match=r"dout must have shape \(2, 3, 4, 5\)"):
        batch_norm_backward(dout[0], x, gamma, mean, rstd)
    with pytest.raises(
        ValueError, match=r"weights must have shape \(2,\) or \(2, 4, 5\), got shape \(2, 3\)"
    ):
        weighted_batch_norm_forward(x, gamma, beta, np.ones((2, 3)))
    with pytest.raises(ValueError, match="out must be a float64 array of shape"):
        batch_norm_forward(x, gamma, beta, out=np.empty((2, 3)))
    with pytest.raises(ValueError, match="share memory"):
        batch_norm_forward(x, gamma, beta, out=x)
