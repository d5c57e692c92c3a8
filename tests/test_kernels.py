import re
from pathlib import Path

import numpy as np
import pytest
from numba import config, njit

from nbnorm import (
    activation_backward,
    activation_forward,
    batch_norm_backward,
    batch_norm_forward,
    batch_norm_inference,
    binary_cross_entropy,
    dense_backward,
    dense_forward,
    kernels,
    mean_squared_error,
    sgd_step,
    softmax_cross_entropy,
)
from nbnorm.activations import CODES

PAGE = Path(__file__).parents[1] / "docs" / "embedding.md"


@pytest.fixture(scope="module")
def page():
    """Names that the code on the documentation's page defines."""
    names = {}
    exec("\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)), names)
    return names


def _reference(x, labels, w1, b1, gamma, beta, w2, b2, steps, lr):
    """The page's loop, by the public functions."""
    params = [w1, b1, gamma, beta, w2, b2]
    velocities = [np.zeros_like(p) for p in params]
    losses = []
    for _ in range(steps):
        y = activation_forward(dense_forward(x, w1, b1), "relu")
        u, mean, rstd = batch_norm_forward(y, gamma, beta)
        loss, dlogits = softmax_cross_entropy(dense_forward(u, w2, b2), labels)
        losses.append(loss)
        du, dw2, db2 = dense_backward(dlogits, u, w2)
        dy, dgamma, dbeta = batch_norm_backward(du, y, gamma, mean, rstd)
        _, dw1, db1 = dense_backward(activation_backward(dy, y, "relu"), x, w1)
        for p, g, v in zip(params, (dw1, db1, dgamma, dbeta, dw2, db2), velocities, strict=True):
            sgd_step(p, g, v, lr=lr, momentum=0.9)
    return losses


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_pages_loop_trains_as_the_public_functions_do(page, dtype):
    rng = np.random.default_rng(1)
    x, labels = rng.normal(size=(20, 5)).astype(dtype), rng.integers(0, 3, 20)
    shapes = [(7, 5), (7,), (7,), (7,), (3, 7), (3,)]
    got = [rng.normal(size=shape).astype(dtype) for shape in shapes]
    expected = [p.copy() for p in got]
    losses = page["train"](x, labels, *got, 10, 0.05)
    reference = _reference(x, labels, *expected, 10, 0.05)
    rtol = 1e-3 if dtype == np.float32 else 1e-10
    np.testing.assert_allclose(losses, reference, rtol=rtol)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)


def test_the_pages_example_learns(page):
    assert page["losses"][-1] < 0.1 < page["losses"][0]


def test_the_pages_gate(page):
    x, y, out = np.linspace(-2, 2, 5), np.linspace(0, 1, 5), np.empty(5)
    page["gate"](x, y, out)
    np.testing.assert_allclose(out, np.tanh(y) / (1 + np.exp(-x)), rtol=1e-14)


@njit
def _statistics(x, mean, var, out):
    kernels.moments(x, mean, var, np.empty(kernels.sums_size(*x.shape)))
    kernels.standardize(x, mean, np.sqrt(var), out)


def test_moments_and_standardize():
    x = np.random.default_rng(0).normal(1e6, 1, size=(600, 3)).astype(np.float32)
    mean, var, out = np.empty(3), np.empty(3), np.empty_like(x)
    _statistics(x, mean, var, out)
    np.testing.assert_allclose(mean, x.mean(axis=0, dtype=float), rtol=1e-14)
    np.testing.assert_allclose(var, x.var(axis=0, dtype=float), rtol=1e-9)
    np.testing.assert_allclose(out, (x - mean) / np.sqrt(var), rtol=1e-6)


@njit
def _losses(x, t, gradient):
    partial = np.empty(kernels.partial_size(len(x)))
    first = kernels.binary_cross_entropy(x, t, gradient, partial)
    return first, kernels.mean_squared_error(x, t, gradient, partial)


def test_losses():
    x, t = np.random.default_rng(0).uniform(size=(2, 9, 2))
    got = _losses(x, t, np.empty_like(x))
    assert got == (binary_cross_entropy(x, t)[0], mean_squared_error(x, t)[0])


@njit
def _activations(z, dy, code, y, dz):
    kernels.activation_forward(z, code, y)
    kernels.activation_backward(dy, z, code, dz)


def test_activations_whose_slope_is_computed_from_z():
    z, dy = np.linspace(-2, 2, 9), np.linspace(1, 2, 9)
    y, dz = np.empty_like(z), np.empty_like(z)
    for name in ("leaky_relu", "elu", "gelu", "silu", "softplus"):
        _activations(z, dy, CODES[name], y, dz)
        np.testing.assert_array_equal(y, activation_forward(z, name))
        np.testing.assert_array_equal(dz, activation_backward(dy, y, name, z=z))


@njit
def _inference(x, mean, scale, shift, out):
    kernels.batch_norm_inference(
        x, mean, scale, shift, out, np.empty(kernels.factors_size(x.shape[1]), x.dtype)
    )


def test_inference():
    x = np.random.default_rng(0).normal(size=(9, 4))
    mean, var, gamma, beta = np.arange(16.0).reshape(4, 4) + 1
    out = np.empty_like(x)
    _inference(x, mean, gamma / np.sqrt(var + 1e-5), beta, out)
    np.testing.assert_array_equal(out, batch_norm_inference(x, gamma, beta, mean, var))


@njit
def _parallel_step(param, grad, velocity):
    kernels.parallel.sgd_step(param, grad, velocity, 0.1, 0.9, True, 0.01)


@pytest.mark.skipif(config.DISABLE_JIT, reason="needs compiled code")
def test_parallel_twins_can_be_called_from_compiled_code():
    param, velocity = np.ones((2, 100_000), np.float32)
    grad = np.linspace(-1, 1, 100_000, dtype=np.float32)
    expected, expected_velocity = param.copy(), velocity.copy()
    _parallel_step(param, grad, velocity)
    kernels.sgd_step(expected, grad, expected_velocity, 0.1, 0.9, True, 0.01)
    np.testing.assert_array_equal(param, expected)
    np.testing.assert_array_equal(velocity, expected_velocity)


def test_the_documentation_names_every_kernel():
    for name in kernels.__all__:
        assert f"`{name}" in kernels.__doc__
        assert hasattr(kernels, name)
    assert sorted(vars(kernels.parallel).keys() & set(kernels.__all__)) == sorted(kernels._PAIRS)
