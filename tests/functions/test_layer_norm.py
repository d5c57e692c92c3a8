"""Layer norm and RMS norm against NumPy, numerical gradients and identities."""

import numpy as np
import pytest

import nbnorm
from nbnorm import gradcheck, layer_norm_backward, layer_norm_forward, rms_norm_backward, rms_norm_forward

RNG = np.random.default_rng(4)
GAMMA, BETA = RNG.normal(size=(2, 5))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(5,), (7, 5), (2, 3, 5)])
@pytest.mark.parametrize(("mean", "std"), [(0, 1), (1e6, 1), (1e30, 1e28), (0, 1e-20)])
def test_forward_agrees_with_numpy(mean, std, shape, dtype):
    x = (mean + std * RNG.normal(size=shape)).astype(dtype)
    wide = x.astype(np.longdouble)
    eps = 1e-36
    gamma, beta = GAMMA.astype(dtype), BETA.astype(dtype)
    center = wide.mean(axis=-1, keepdims=True)
    xhat = (wide - center) / np.sqrt(wide.var(axis=-1, keepdims=True) + eps)
    out, got_mean, rstd = layer_norm_forward(x, gamma, beta, eps=eps)
    bound = 1e-6 if dtype == np.float32 else 1e-9
    assert (out.dtype, out.shape, rstd.shape) == (dtype, shape, shape[:-1])
    np.testing.assert_allclose(out, (gamma * xhat + beta).astype(float), rtol=bound, atol=bound)
    np.testing.assert_allclose(got_mean, center[..., 0].astype(float), rtol=1e-12, atol=1e-12 * std)

    out, rrms = rms_norm_forward(x, gamma, eps=eps)
    expected = gamma * wide / np.sqrt((wide**2).mean(axis=-1, keepdims=True) + eps)
    np.testing.assert_allclose(out, expected.astype(float), rtol=bound, atol=bound)
    assert rrms.shape == shape[:-1]


@pytest.mark.parametrize("eps", [1e-5, 0.1])
@pytest.mark.parametrize("shape", [(7, 5), (2, 3, 5)])
def test_gradients(shape, eps):
    x, dout = RNG.normal(size=(2, *shape))
    _, mean, rstd = layer_norm_forward(x, GAMMA, BETA, eps=eps)
    dx, dgamma, dbeta = layer_norm_backward(dout, x, GAMMA, mean, rstd)
    of = {
        "x": (x, dx, lambda v: layer_norm_forward(v, GAMMA, BETA, eps=eps)[0]),
        "gamma": (GAMMA, dgamma, lambda v: layer_norm_forward(x, v, BETA, eps=eps)[0]),
        "beta": (BETA, dbeta, lambda v: layer_norm_forward(x, GAMMA, v, eps=eps)[0]),
    }
    _, rrms = rms_norm_forward(x, GAMMA, eps=eps)
    dx, dgamma = rms_norm_backward(dout, x, GAMMA, rrms)
    of["rms x"] = (x, dx, lambda v: rms_norm_forward(v, GAMMA, eps=eps)[0])
    of["rms gamma"] = (GAMMA, dgamma, lambda v: rms_norm_forward(x, v, eps=eps)[0])
    for name, (at, gradient, output) in of.items():
        assert gradcheck(lambda v, output=output: np.vdot(dout, output(v)), at, gradient) < 1e-7, name


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (4, 16), (9, 37), (700, 19)])
def test_gradients_agree_with_numpy(shape, dtype):
    x, dout = (1e3 + RNG.normal(size=shape)).astype(dtype), RNG.normal(size=shape).astype(dtype)
    gamma, beta = RNG.normal(size=(2, shape[1])).astype(dtype)
    _, mean, rstd = layer_norm_forward(x, gamma, beta)
    _, rrms = rms_norm_forward(x, gamma)
    wide, upstream = x.astype(np.longdouble), dout.astype(np.longdouble)
    g = gamma * upstream

    def rows(values):
        return values.mean(axis=1, keepdims=True)

    xhat = (wide - mean[:, None]) * rstd[:, None]
    dx = rstd[:, None] * (g - rows(g) - xhat * rows(g * xhat))
    of_layer = dx, (upstream * xhat).sum(axis=0), upstream.sum(axis=0)
    xhat = wide * rrms[:, None]
    of_rms = rrms[:, None] * (g - xhat * rows(g * xhat)), (upstream * xhat).sum(axis=0)
    bound = 1e-6 if dtype == np.float32 else 1e-12
    for got, expected, factor in (
        (layer_norm_backward(dout, x, gamma, mean, rstd), of_layer, rstd),
        (rms_norm_backward(dout, x, gamma, rrms), of_rms, rrms),
    ):
        # the terms of dx, which may cancel: with one feature layer norm's are hundreds and dx is zero
        term = float(abs(factor[:, None] * g).max())
        for mine, theirs in zip(got, expected, strict=True):
            assert mine.dtype == dtype
            largest = max(1.0, term, float(abs(theirs).max()))
            np.testing.assert_allclose(mine, theirs.astype(float), rtol=bound, atol=bound * largest)


def test_bits_do_not_depend_on_threads():
    x, dout = RNG.normal(size=(2, 1100, 96)).astype(np.float32)  # several blocks, enough for two threads
    gamma, beta = RNG.normal(size=(2, 96)).astype(np.float32)
    found = []
    for threads in (1, 2):
        nbnorm.set_num_threads(threads)
        out, mean, rstd = layer_norm_forward(x, gamma, beta)
        scaled, rrms = rms_norm_forward(x, gamma)
        gradients = layer_norm_backward(dout, x, gamma, mean, rstd)
        found.append([out, scaled, *gradients, *rms_norm_backward(dout, x, gamma, rrms)])
    nbnorm.set_num_threads(None)
    for one, two in zip(*found, strict=True):
        np.testing.assert_array_equal(one, two)


def test_each_sample_is_normalized_by_itself():
    x = RNG.normal(3, 2, size=(6, 5))
    whole = layer_norm_forward(x, GAMMA, BETA)[0]
    np.testing.assert_array_equal(layer_norm_forward(x[2], GAMMA, BETA)[0], whole[2])
    np.testing.assert_allclose(layer_norm_forward(5 * x + 7, GAMMA, BETA, eps=1e-30)[0], whole, atol=1e-4)
    np.testing.assert_allclose(rms_norm_forward(5 * x, GAMMA)[0], rms_norm_forward(x, GAMMA)[0], atol=1e-4)


def test_out_and_errors():
    x, out = RNG.normal(size=(3, 5)), np.empty((3, 5))
    assert layer_norm_forward(x, GAMMA, BETA, out=out)[0] is out
    assert rms_norm_forward(x, GAMMA, out=out)[0] is out
    with pytest.raises(ValueError, match=r"gamma must have shape \(5,\), got shape \(4,\)"):
        layer_norm_forward(x, GAMMA[:4], BETA)
    with pytest.raises(ValueError, match="out must not share memory with x"):
        rms_norm_forward(x, GAMMA, out=x)
    with pytest.raises(ValueError, match=r"x must have shape \(..., n_features\) and not be empty"):
        layer_norm_forward(np.empty((0, 5)), GAMMA, BETA)
    with pytest.raises(ValueError, match=r"rstd must have shape \(3,\), got shape \(2,\)"):
        layer_norm_backward(x, x, GAMMA, np.zeros(3), np.ones(2))


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")  # of plain Python
def test_values_beyond_float64_are_refused():
    x = np.array([[1e200, -1e200, 0, 0, 0]])
    for call in (lambda: layer_norm_forward(x, GAMMA, BETA), lambda: rms_norm_forward(x, GAMMA)):
        with pytest.raises(ValueError, match="x must have a variance that float64 can hold"):
            call()
