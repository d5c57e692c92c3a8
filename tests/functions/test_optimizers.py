import dataclasses
import re

import naive
import numpy as np
import pytest
from numba import config

from nbnorm import SGD, AdamW, Lion, adamw_step, sgd_step
from nbnorm.functions import optimizers
from nbnorm.functions.updates import RULES

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


def test_sgd_minimizes_a_parabola():
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
        ({"lr": 1, "weight_decay": 5}, ValueError, r"lr \* weight_decay must be below 1"),
        ({"lr": 0.25, "weight_decay": 4}, ValueError, "got lr=0.25 and weight_decay=4"),
    ],
)
def test_sgd_refuses(options, error, message):
    with pytest.raises(error, match=message):
        SGD(**options)


def test_weight_decay_takes_less_than_a_weight():
    param = np.ones(3)
    with pytest.raises(ValueError, match="weight_decay"):
        sgd_step(param, np.zeros(3), np.zeros(3), lr=1.0, weight_decay=5.0)
    np.testing.assert_array_equal(param, np.ones(3))
    sgd_step(param, np.zeros(3), np.zeros(3), lr=1.0, weight_decay=0.75)
    np.testing.assert_array_equal(param, np.full(3, 0.25))


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


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(5,), (200, 100)])
@pytest.mark.parametrize(
    "options",
    [{}, {"lr": 0.1, "beta1": 0.0, "beta2": 0.5, "eps": 0.1}, {"lr": 0.5, "weight_decay": 0.2}],
)
def test_adamw_step_agrees_with_numpy(options, shape, dtype):
    rng = np.random.default_rng(0)
    param, (mean, square) = rng.normal(size=shape).astype(dtype), np.zeros((2, *shape), dtype)
    expected = param.astype(float), np.zeros(shape), np.zeros(shape)
    full = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.01} | options
    for step in (1, 2, 3):
        grad = rng.normal(size=shape).astype(dtype)
        adamw_step(param, grad, mean, square, step, **options)
        old, *averages = expected
        expected = naive.adamw_step(old, grad.astype(float), *averages, step, **full)
    rtol = 2e-5 if dtype == np.float32 else 1e-13
    for got, wanted in zip((param, mean, square), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=rtol, atol=rtol)


def test_adamw_takes_first_steps_of_the_learning_rate_and_zero_gradients_change_nothing():
    grad = np.array([1e-3, -1.0, 1e4, 0.0])
    param, mean, square = np.zeros((3, 4))
    adamw_step(param, grad, mean, square, 1, lr=0.1)
    np.testing.assert_allclose(param, -0.1 * np.sign(grad), rtol=1e-4)


def test_adamw_minimizes_a_parabola():
    param, mean, square = np.array([3.0, -200.0]), np.zeros(2), np.zeros(2)
    options = AdamW(lr=1.0, weight_decay=0.0)
    for step in range(1, 1001):
        options.step(param, 2 * param, mean, square, step)
    np.testing.assert_allclose(param, 0, atol=1e-3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_lion_agrees_with_numpy(dtype):
    rng = np.random.default_rng(0)
    param, mean = rng.normal(size=(3, 7)).astype(dtype), np.zeros((3, 7), dtype)
    expected, average = param.astype(float), np.zeros((3, 7))
    for _ in range(3):
        grad = rng.normal(size=(3, 7)).astype(dtype)
        grad[0, :2] = 0.0
        Lion(0.1, 0.5, 0.8, 0.2).step(param, grad, mean)
        expected, average = naive.lion_step(expected, grad.astype(float), average, 0.1, 0.5, 0.8, 0.2)
    rtol = 2e-6 if dtype == np.float32 else 1e-14
    np.testing.assert_allclose(param, expected, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(mean, average, rtol=rtol, atol=rtol)
    Lion().step(param, np.full((3, 7), np.nan, dtype), mean)
    assert np.isnan(param).all()


@pytest.mark.parametrize("kind", optimizers.OPTIMIZERS.values(), ids=optimizers.OPTIMIZERS)
def test_every_optimizer_has_the_options_of_its_rule(kind):
    options, rule = kind(lr=0.25), RULES[kind.name]
    assert sorted(field.name for field in dataclasses.fields(kind)) == sorted(rule.options)
    assert {"lr", "weight_decay"} <= set(rule.options)
    # what only fills up the engine's blocks stays 0
    numbers = rule.all_numbers(1.0, options.options)
    assert not any(rule.step(0.0, *(0.0,) * len(rule.state), 0.0, *numbers))
    with pytest.raises(TypeError, match=f"step of {kind.__name__} takes param, grad, {rule.state[0]}"):
        options.step(np.ones(2), np.ones(2))


@pytest.mark.skipif(config.DISABLE_JIT, reason="needs compiled code")
def test_the_twins_of_adamw_give_the_same_bits():
    rng = np.random.default_rng(0)
    start = rng.uniform(size=(4, 50_000)).astype(np.float32)
    results = []
    for twin in (optimizers.adamw_kernel.serial, optimizers.adamw_kernel.parallel):
        arrays = start.copy()
        twin(*arrays, 3, 0.1, 0.9, 0.999, 1e-8, 0.01)
        results.append(arrays.tobytes())
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lr": 0}, ValueError, "lr must be finite and above 0, got 0"),
        ({"beta1": 1}, ValueError, "beta1 must be finite and at least 0 and below 1"),
        ({"beta2": -0.1}, ValueError, "beta2"),
        ({"eps": 0}, ValueError, "eps must be"),
        ({"eps": None}, TypeError, "eps must be a real number"),
        ({"weight_decay": -1}, ValueError, "weight_decay"),
        ({"lr": 0.5, "weight_decay": 5}, ValueError, r"lr \* weight_decay must be below 1"),
    ],
)
def test_adamw_refuses(options, error, message):
    with pytest.raises(error, match=message):
        AdamW(**options)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"param": [1.0, 2.0]}, TypeError, "param must be a NumPy array"),
        ({"grad": np.ones(3)}, ValueError, "grad must have shape"),
        ({"mean": np.ones(2, np.float32)}, ValueError, "mean must be"),
        ({"square": np.ones(3)}, ValueError, "square must be"),
        ({"step": 0}, ValueError, "step must be at least 1, got 0"),
        ({"step": 1.0}, TypeError, "step must be an integer"),
    ],
)
def test_adamw_step_refuses_and_changes_nothing(change, error, message):
    arrays = {name: np.ones(2) for name in ("param", "grad", "mean", "square")} | {"step": 1} | change
    with pytest.raises(error, match=message):
        adamw_step(**arrays)
    assert (np.asarray(arrays["param"])[0], arrays["mean"][0]) == (1, 1)


def test_adamw_step_refuses_shared_memory():
    x = np.ones(3)
    with pytest.raises(ValueError, match="mean must not share memory with square"):
        adamw_step(np.ones(3), np.ones(3), x, x, 1)


@pytest.mark.parametrize("shape", [(), (3,), (2, 2, 2), (1, 2, 1, 2)])
def test_parameters_of_any_shape(shape):
    param, grad, velocity = np.ones(shape), np.full(shape, 2.0), np.zeros(shape)
    sgd_step(param, grad, velocity, lr=0.1)
    np.testing.assert_allclose(param, np.full(shape, 0.8))
    for step in (sgd_step, adamw_step):
        state = [velocity] if step is sgd_step else [velocity, np.zeros(shape), 1]
        with pytest.raises(
            ValueError, match=rf"^grad must have shape {re.escape(str(shape))}, got shape \(5,\)"
        ):
            step(param, np.zeros(5), *state, lr=0.1)


def test_adamw_adds_epsilon_after_the_bias_has_been_corrected():
    param, mean, square = np.zeros((3, 1))
    adamw_step(param, np.array([1e-3]), mean, square, 1, lr=1.0, eps=1e-3, weight_decay=0.0)
    np.testing.assert_allclose(param, -0.5, rtol=1e-12)  # with epsilon beside the biased root it were -0.03
