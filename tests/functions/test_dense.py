import numpy as np
import pytest
from numba import config

from nbnorm import Dense, dense_backward, dense_forward

DTYPES = [np.float32, np.float64]
SHAPES = (
    [(1, 1, 1), (5, 3, 4)] if config.DISABLE_JIT else [(1, 1, 1), (5, 3, 4), (1100, 20, 300), (33, 130, 65)]
)


def _data(shape, dtype):
    n, n_in, n_out = shape
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(n, n_in)), rng.normal(size=(n_out, n_in))
    return [a.astype(dtype) for a in (x, weight, rng.normal(size=n_out), rng.normal(size=(n, n_out)))]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_dense_agrees_with_numpy(shape, dtype):
    x, weight, bias, dz = _data(shape, dtype)
    got = dense_forward(x, weight, bias), dense_forward(x, weight), *dense_backward(dz, x, weight)
    wide, w, d = x.astype(float), weight.astype(float), dz.astype(float)
    expected = wide @ w.T + bias, wide @ w.T, d @ w, d.T @ wide, d.sum(axis=0)
    rtol = 1e-5 if dtype == np.float32 else 1e-12
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max())


def test_backward_is_the_adjoint_of_forward():
    x, weight, _, dz = _data((5, 3, 4), np.float64)
    dx, dweight, _ = dense_backward(dz, x, weight)
    expected = np.vdot(dense_forward(x, weight), dz)
    assert np.vdot(x, dx) == pytest.approx(expected, rel=1e-12)
    assert np.vdot(weight, dweight) == pytest.approx(expected, rel=1e-12)


def test_out_is_filled_and_returned():
    x, weight, bias, _ = _data((5, 3, 4), np.float32)
    out = np.empty((5, 4), np.float32)
    assert dense_forward(x, weight, bias, out=out) is out
    np.testing.assert_array_equal(out, dense_forward(x, weight, bias))


def test_layer_is_the_functions():
    x, _, _, dz = _data((5, 3, 4), np.float64)
    layer = Dense(3, 4, dtype=np.float64, seed=1)
    layer.bias[...] = 2
    np.testing.assert_array_equal(layer.forward(x), dense_forward(x, layer.weight, layer.bias))
    dx = layer.backward(dz)
    for got, expected in zip(
        (dx, layer.dweight, layer.dbias), dense_backward(dz, x, layer.weight), strict=True
    ):
        np.testing.assert_array_equal(got, expected)
    assert list(layer.parameters()) == list(layer.gradients()) == ["weight", "bias"]
    assert layer.parameters()["weight"] is layer.weight


def test_layer_backward_does_not_see_what_becomes_of_the_batch():
    x, _, _, dz = _data((5, 3, 4), np.float64)
    layer, buffer = Dense(3, 4, dtype=np.float64, seed=1), x.copy()
    layer.forward(buffer)
    buffer[...] = 0  # filled anew
    layer.backward(dz)
    np.testing.assert_array_equal(layer.dweight, dense_backward(dz, x, layer.weight)[1])


def test_layer_without_bias():
    layer = Dense(3, 4, bias=False)
    layer.backward(np.ones_like(layer.forward(np.ones((2, 3)))))
    assert layer.bias is layer.dbias is None
    assert list(layer.parameters()) == ["weight"]


@pytest.mark.parametrize(("init", "variance"), [("he", 2 / 400), ("glorot", 2 / 900)])
def test_initial_weights(init, variance):
    layer = Dense(400, 500, init=init, seed=3)
    assert layer.weight.var() == pytest.approx(variance, rel=0.02)
    np.testing.assert_array_equal(layer.weight, Dense(400, 500, init=init, seed=3).weight)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((np.ones((2, 3)), np.ones((4, 2))), "x must have 2 features"),
        ((np.ones(3), np.ones((4, 3))), r"x must have shape \(n_samples, n_in\), got shape \(3,\)"),
        ((np.ones((2, 3)), np.ones(3)), r"weight must have shape \(n_out, n_in\), got shape \(3,\)"),
        ((np.ones((2, 3)), np.ones((4, 3)), np.ones(3)), r"bias must have shape \(4,\)"),
    ],
)
def test_dense_forward_refuses(args, message):
    with pytest.raises(ValueError, match=message):
        dense_forward(*args)


def test_dense_backward_and_layer_refuse():
    with pytest.raises(ValueError, match="dz must have shape"):
        dense_backward(np.ones((2, 2)), np.ones((2, 3)), np.ones((4, 3)))
    with pytest.raises(ValueError, match="x must have 3 features"):
        dense_backward(np.ones((2, 4)), np.ones((2, 4)), np.ones((4, 3)))
    with pytest.raises(RuntimeError, match="forward first"):
        Dense(2, 2).backward(np.ones((1, 2)))
    with pytest.raises(ValueError, match="init must be one of"):
        Dense(2, 2, init="zeros")
    with pytest.raises(TypeError, match="seed must be an integer"):
        Dense(2, 2, seed=1.5)
