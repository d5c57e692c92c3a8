import naive
import numpy as np
import pytest

from nbnorm import SGD, sgd_step

OPTIONS = [
    {"lr": 0.1},
    {"lr": 0.1, "momentum": 0.9},
    {"lr": 0.1, "momentum": 0.9, "nesterov": True},
    {"lr": 0.1, "momentum": 0.5, "weight_decay": 0.01},
    {"lr": 0.1, "momentum": 0.5, "nesterov": True, "weight_decay": 0.01},
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(5,), (3, 4), (200, 100)])
@pytest.mark.parametrize("options", OPTIONS)
def test_sgd_step_agrees_with_numpy(options, shape, dtype):
    rng = np.random.default_rng(0)
    param, velocity = rng.normal(size=shape).astype(dtype), np.zeros(shape, dtype)
    expected, expected_velocity = param.astype(float), np.zeros(shape)
    full = {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0} | options
    for _ in range(2):
        grad = rng.normal(size=shape).astype(dtype)
        sgd_step(param, grad, velocity, **options)
        expected, expected_velocity = naive.sgd_step(expected, grad, expected_velocity, **full)
    rtol = 1e-5 if dtype == np.float32 else 1e-13
    np.testing.assert_allclose(param, expected, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(velocity, expected_velocity, rtol=rtol, atol=rtol)


def test_sgd_minimises_a_parabola():
    param, velocity = np.array([3.0, -2.0]), np.zeros(2)
    for _ in range(200):
        sgd_step(param, 2 * param, velocity, lr=0.05, momentum=0.8)
    np.testing.assert_allclose(param, 0, atol=1e-6)


def test_step_is_sgd_step():
    a, b = np.ones(3), np.ones(3)
    SGD(lr=0.1, momentum=0.9).step(a, np.arange(3.0), va := np.ones(3))
    sgd_step(b, np.arange(3.0), vb := np.ones(3), lr=0.1, momentum=0.9)
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(va, vb)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lr": 0}, ValueError, "lr must be finite and above 0, got 0"),
        ({"lr": np.nan}, ValueError, "lr"),
        ({"lr": "fast"}, TypeError, "lr must be a real number"),
        ({"lr": 0.1, "momentum": 1}, ValueError, "momentum"),
        ({"lr": 0.1, "nesterov": True}, ValueError, "momentum must be above 0"),
        ({"lr": 0.1, "nesterov": 1}, TypeError, "nesterov"),
        ({"lr": 0.1, "weight_decay": -1}, ValueError, "weight_decay"),
    ],
)
def test_sgd_refuses(options, error, message):
    with pytest.raises(error, match=message):
        SGD(**options)


@pytest.mark.parametrize(
    ("param", "grad", "velocity", "error", "message"),
    [
        ([1.0], np.ones(1), np.ones(1), TypeError, "param must be a NumPy array"),
        (np.ones(2, int), np.ones(2), np.ones(2), ValueError, "param must be float32 or float64"),
        (np.ones(0), np.ones(0), np.ones(0), ValueError, "param must not be empty"),
        (np.ones((4, 4))[:, ::2], np.ones((4, 2)), np.ones((4, 2)), ValueError, "param must be C-contiguous"),
        (np.ones(2), np.ones(3), np.ones(2), ValueError, "grad must have shape"),
        (np.ones(2), np.ones(2), np.ones(2, np.float32), ValueError, "velocity must be"),
    ],
)
def test_sgd_step_refuses_and_changes_nothing(param, grad, velocity, error, message):
    before = np.array(param)
    with pytest.raises(error, match=message):
        sgd_step(param, grad, velocity, lr=0.1)
    np.testing.assert_array_equal(param, before)


def test_sgd_step_refuses_shared_memory():
    x = np.ones(3)
    with pytest.raises(ValueError, match="must not share memory"):
        sgd_step(x, np.ones(3), x, lr=0.1)
