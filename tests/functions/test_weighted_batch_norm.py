"""Batch norm with weighted statistics: repeated samples, gradients and errors."""

import numpy as np
import pytest

from nbnorm import (
    batch_norm_backward,
    batch_norm_forward,
    gradcheck,
    weighted_batch_norm_backward,
    weighted_batch_norm_forward,
)

RNG = np.random.default_rng(9)
GAMMA, BETA = RNG.normal(size=(2, 3))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("mean", "std"), [(0, 1), (1e7, 1), (1e30, 1e28)])
def test_forward_is_that_of_repeated_samples(mean, std, dtype):
    x = (mean + std * RNG.normal(size=(6, 3))).astype(dtype)
    weights = np.array([1, 3, 0, 2, 1, 5])
    got, center, rstd = weighted_batch_norm_forward(x, GAMMA, BETA, weights)
    many = np.repeat(x, weights, axis=0)
    expected, wanted_center, wanted_rstd = batch_norm_forward(many, GAMMA, BETA)
    bound = 1e-6 if dtype == np.float32 else 1e-8
    np.testing.assert_allclose(np.repeat(got, weights, axis=0), expected, rtol=bound, atol=bound)
    np.testing.assert_allclose(center, wanted_center, rtol=1e-14)
    np.testing.assert_allclose(rstd, wanted_rstd, rtol=1e-8)
    assert got.dtype == dtype


@pytest.mark.parametrize("eps", [1e-5, 0.1])
@pytest.mark.parametrize(
    "weights", [[1, 3, 0, 2, 1, 5], [0.2, 1e-3, 4, 0, 0, 1.5], [True, True, False, True, 0, 0]]
)
def test_gradients(weights, eps):
    x, dout = RNG.normal(size=(2, 6, 3))
    _, mean, rstd = weighted_batch_norm_forward(x, GAMMA, BETA, weights, eps=eps)
    dx, dgamma, dbeta = weighted_batch_norm_backward(dout, x, GAMMA, mean, rstd, weights)
    for at, gradient, output in (
        (x, dx, lambda v: weighted_batch_norm_forward(v, GAMMA, BETA, weights, eps=eps)[0]),
        (GAMMA, dgamma, lambda v: weighted_batch_norm_forward(x, v, BETA, weights, eps=eps)[0]),
        (BETA, dbeta, lambda v: weighted_batch_norm_forward(x, GAMMA, v, weights, eps=eps)[0]),
    ):
        assert gradcheck(lambda v, output=output: np.vdot(dout, output(v)), at, gradient) < 1e-7


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_weights_change_nothing(dtype):
    x, dout = RNG.normal(size=(2, 40, 3)).astype(dtype)
    weights = np.full(40, 0.3)
    _, mean, rstd = batch_norm_forward(x, GAMMA, BETA)
    expected = batch_norm_backward(dout, x, GAMMA, mean, rstd)
    got = weighted_batch_norm_backward(dout, x, GAMMA, mean, rstd, weights)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1, 1], r"weights must have shape \(3,\), got shape \(2,\)"),
        ([1, -1, 1], r"weights must be finite and not negative, got -1 at \[1\]"),
        ([0, 0, 0], "weights must not be zero"),
    ],
)
def test_weights_are_checked(weights, message):
    with pytest.raises(ValueError, match=message):
        weighted_batch_norm_forward(np.eye(3), GAMMA, BETA, weights)
