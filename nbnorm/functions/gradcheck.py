"""Numerical gradients, against which every backward function of the package is checked."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nbnorm import _check
from nbnorm._types import Float64Array, FloatArray
from nbnorm.functions.activations import CODES, activation_backward, activation_forward
from nbnorm.functions.batch_norm import batch_norm_backward, batch_norm_forward
from nbnorm.functions.batch_norm_layer import BatchNorm
from nbnorm.functions.dense import dense_backward, dense_forward
from nbnorm.functions.layer_norm import (
    layer_norm_backward,
    layer_norm_forward,
    rms_norm_backward,
    rms_norm_forward,
)
from nbnorm.functions.losses import (
    binary_cross_entropy,
    huber_loss,
    mean_absolute_error,
    mean_squared_error,
    poisson_loss,
    quantile_loss,
    softmax_cross_entropy,
)
from nbnorm.functions.optimizers import SGD, AdamW, Optimizer
from nbnorm.functions.weighted_batch_norm import weighted_batch_norm_backward, weighted_batch_norm_forward

# The differences start with this step, in float64: small enough to stay on one side of a relu's
# corner, large enough for rounding to stay below 1e-12.
STEP = 1e-3


# What is differentiated: a function of one array, whose others are fixed.
Output = Callable[[Float64Array], FloatArray]


class Row(NamedTuple):
    """One line of `table`."""

    function: str
    option: str
    error: float


def gradcheck(
    function: Callable[[Float64Array], float],
    x: npt.ArrayLike,
    gradient: npt.ArrayLike,
    *,
    step: float = STEP,
    least: float = 0.0,
) -> float:
    """Compare a gradient with central differences of eighth order.

    Uses `scipy.differentiate.jacobian`, which halves the step until its error estimate is small.
    The function has to compute in float64: float32 has too few digits for differences.

    Parameters
    ----------
    function : callable
        Takes a float64 array of the shape of `x` and returns a number.
    x : array_like
        Point at which the derivative is taken.
    gradient : array_like
        Gradient of `function` at `x` to be judged, of the shape of `x`.
    step : float, default 1e-3
        First step of the differences.
    least : float, default 0.0
        Size below which gradients count as zero: errors are divided by it at least.

    Returns
    -------
    float
        Largest difference between both gradients, divided by the largest element of either; 0 if
        both are 0 everywhere.

    Raises
    ------
    TypeError
        If an array does not hold real numbers.
    ValueError
        If the shapes differ or an array is empty or not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import gradcheck
    >>> x = np.array([1.0, 2.0])
    >>> gradcheck(lambda x: (x**3).sum(), x, 3 * x**2) < 1e-10
    True
    >>> gradcheck(lambda x: (x**3).sum(), x, 2 * x**2) < 1e-10
    False
    """
    from scipy.differentiate import jacobian

    point = _check.numeric("x", x)
    got = _check.numeric("gradient", gradient)
    if got.shape != point.shape:
        raise ValueError(f"gradient must have shape {point.shape}, got shape {got.shape}")
    if point.size == 0:
        raise ValueError(f"x must not be empty, got shape {point.shape}")
    step = _check.number("step", step, above=0)
    point, got = point.astype(np.float64), got.astype(np.float64)
    _check.finite("x", np.atleast_1d(point))
    _check.finite("gradient", np.atleast_1d(got))

    def values_at(points: Float64Array) -> Float64Array:
        flat = points.reshape(point.size, -1)
        values = [float(function(flat[:, k].reshape(point.shape))) for k in range(flat.shape[1])]
        return np.array(values).reshape(points.shape[1:])

    expected = jacobian(values_at, point.reshape(-1), initial_step=step, order=8, maxiter=4).df.reshape(
        got.shape
    )
    largest = max(np.abs(expected).max(), np.abs(got).max(), _check.number("least", least, least=0))
    return float(np.abs(got - expected).max() / largest) if largest > 0 else 0.0


def _weighted(output: Output, weights: Float64Array) -> Callable[[Float64Array], float]:
    """Scalar function whose gradient is `weights` carried backward through `output`."""
    return lambda x: float(np.vdot(weights, output(x)))


def _function_rows() -> Iterator[Row]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(7, 5))
    # Keep corners of relu away from the differences' steps.
    x += np.sign(x) * 0.05
    weights = rng.normal(size=(7, 5))
    for activation in CODES:
        y = activation_forward(x, activation)
        yield Row(
            "activation_backward",
            activation,
            gradcheck(
                _weighted(lambda z, f=activation: activation_forward(z, f), weights),  # type: ignore[misc]
                x,
                activation_backward(weights, y, activation, z=x),
            ),
        )

    weight, bias, dz = rng.normal(size=(4, 5)), rng.normal(size=4), rng.normal(size=(7, 4))
    affine: tuple[tuple[str, Output, Float64Array], ...] = (
        ("dx", lambda v: dense_forward(v, weight, bias), x),
        ("dweight", lambda v: dense_forward(x, v, bias), weight),
        ("dbias", lambda v: dense_forward(x, weight, v), bias),
    )
    for (name, call, at), grad in zip(affine, dense_backward(dz, x, weight), strict=True):
        yield Row("dense_backward", name, gradcheck(_weighted(call, dz), at, grad))

    gamma, beta = rng.normal(size=5), rng.normal(size=5)
    for eps in (1e-5, 0.1):
        for offset in (0.0, 1e3):
            data = x + offset
            _, mean, rstd = batch_norm_forward(data, gamma, beta, eps=eps)
            grads = batch_norm_backward(weights, data, gamma, mean, rstd)
            calls: tuple[tuple[str, Output, Float64Array], ...] = (
                ("dx", lambda v, eps=eps: batch_norm_forward(v, gamma, beta, eps=eps)[0], data),  # type: ignore[misc]
                ("dgamma", lambda v, d=data, eps=eps: batch_norm_forward(d, v, beta, eps=eps)[0], gamma),  # type: ignore[misc]
                ("dbeta", lambda v, d=data, eps=eps: batch_norm_forward(d, gamma, v, eps=eps)[0], beta),  # type: ignore[misc]
            )
            for (name, call, at), grad in zip(calls, grads, strict=True):
                yield Row(
                    "batch_norm_backward",
                    f"{name}, eps={eps:g}, mean={offset:g}",
                    gradcheck(_weighted(call, weights), at, grad),
                )

    labels, targets = rng.integers(0, 5, 7), rng.uniform(size=(7, 5))
    some = rng.integers(0, 3, 7) + (np.arange(7) == 0)
    losses: tuple[tuple[Callable[..., Any], npt.NDArray[Any], dict[str, float]], ...] = (
        (softmax_cross_entropy, labels, {}),
        (softmax_cross_entropy, labels, {"label_smoothing": 0.1}),
        (binary_cross_entropy, targets, {}),
        (binary_cross_entropy, targets, {"label_smoothing": 0.1}),
        (mean_squared_error, targets, {}),
        (mean_absolute_error, targets, {}),
        (huber_loss, targets, {}),
        (huber_loss, targets, {"delta": 0.3}),
        (poisson_loss, targets, {}),
        (quantile_loss, targets, {"levels": 0.3}),
    )
    for function, y, numbers in losses:
        for sample_weight in (None, some):
            call = functools.partial(function, targets=y, sample_weight=sample_weight, **numbers)
            if function is softmax_cross_entropy:
                call = functools.partial(function, labels=y, sample_weight=sample_weight, **numbers)
            option = [f"{key}={value:g}" for key, value in numbers.items()]
            option += [] if sample_weight is None else ["sample_weight"]
            yield Row(
                function.__name__,
                ", ".join(option) or "plain",
                gradcheck(lambda v, call=call: call(v)[0], x, call(x)[1]),  # type: ignore[misc]
            )


def _optimizer_rows() -> Iterator[Row]:
    """Compare the steps of the optimizers, which have no gradient, with their equations."""
    rng = np.random.default_rng(4)
    start, grads = rng.normal(size=5), rng.normal(size=(4, 5))

    def row(function: str, options: Optimizer, got: Float64Array, expected: Float64Array) -> Row:
        values = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
        option = ", ".join(f"{key}={value:g}" for key, value in values.items())
        return Row(function, option, float(np.abs(got - expected).max() / np.abs(expected).max()))

    for sgd in (
        SGD(0.1),
        SGD(0.1, momentum=0.9),
        SGD(0.1, momentum=0.9, nesterov=True),
        SGD(0.1, momentum=0.9, weight_decay=0.02),
        SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.02),
    ):
        param, velocity = start.copy(), np.zeros(5)
        expected, speed = start, np.zeros(5)
        for grad in grads:
            sgd.step(param, grad, velocity)
            speed = sgd.momentum * speed + grad
            direction = grad + sgd.momentum * speed if sgd.nesterov else speed
            expected = expected - sgd.lr * (sgd.weight_decay * expected + direction)
        yield row("sgd_step", sgd, param, expected)

    for adamw in (AdamW(), AdamW(0.1, weight_decay=0.0), AdamW(0.1, beta1=0.5, beta2=0.8, eps=0.1)):
        param, mean, square = start.copy(), np.zeros(5), np.zeros(5)
        expected = start
        for step, grad in enumerate(grads, 1):
            adamw.step(param, grad, mean, square, step)
            # the averages with their corrections, as weighted means of all gradients so far
            age = np.arange(step)[::-1]
            first = np.average(grads[:step], axis=0, weights=adamw.beta1**age)
            second = np.average(grads[:step] ** 2, axis=0, weights=adamw.beta2**age)
            move = first / (np.sqrt(second) + adamw.eps) + adamw.weight_decay * expected
            expected = expected - adamw.lr * move
        yield row("adamw_step", adamw, param, expected)


def _layer_rows() -> Iterator[Row]:
    rng = np.random.default_rng(1)
    x, weights = rng.normal(size=(7, 5)), rng.normal(size=(7, 5))
    for running in ("var", "std"):
        for unbiased in (True, False):
            for mode in ("train", "eval"):
                layer = BatchNorm(5, running=running, unbiased=unbiased, dtype=np.float64)
                for values in layer.parameters().values():
                    values[...] = rng.normal(size=5)
                layer.forward(x)
                layer.training = mode == "train"
                layer.forward(x)
                dx = layer.backward(weights)
                yield Row(
                    "BatchNorm.backward",
                    f"{mode}, running={running}, unbiased={unbiased}",
                    gradcheck(_weighted(layer.forward, weights), x, dx),
                )
    some = rng.integers(0, 3, 7) + (np.arange(7) < 2)
    images, image_weights = rng.normal(size=(4, 5, 3)), rng.normal(size=(4, 5, 3))
    variants: tuple[tuple[str, dict[str, Any], Float64Array, Float64Array, Any], ...] = (
        ("weights", {}, x, weights, some),
        ("(n, C, d)", {}, images, image_weights, None),
        ("(n, C, d), mask of positions", {}, images, image_weights, rng.uniform(size=(4, 3)) < 0.6),
        ("affine=False", {"affine": False}, x, weights, None),
        ("ghost_size=4", {"ghost_size": 4}, x, weights, None),
        ("frozen", {"frozen": True}, x, weights, None),
    )
    for option, options, at, dout, given in variants:
        layer = BatchNorm(5, dtype=np.float64, **options)
        layer.forward(at, weights=given)
        dx = layer.backward(dout)
        call = functools.partial(layer.forward, weights=given)
        yield Row("BatchNorm.backward", option, gradcheck(_weighted(call, dout), at, dx))


def _other_rows() -> Iterator[Row]:
    """Check layer norm, RMS norm and batch norm with weights."""
    rng = np.random.default_rng(6)
    x, weights, gamma, beta = rng.normal(size=(7, 5)), rng.normal(size=(7, 5)), *rng.normal(size=(2, 5))
    some = np.array([1.0, 2.0, 0.0, 0.5, 3.0, 1.0, 0.0])
    functions: tuple[
        tuple[Callable[..., Any], Callable[..., Any], tuple[Float64Array, ...], tuple[Float64Array, ...]], ...
    ] = (
        (layer_norm_forward, layer_norm_backward, (x, gamma, beta), ()),
        (rms_norm_forward, rms_norm_backward, (x, gamma), ()),
        (weighted_batch_norm_forward, weighted_batch_norm_backward, (x, gamma, beta), (some,)),
    )
    for forward, backward, arguments, more in functions:
        for eps in (1e-5, 0.1):
            _, *statistics = forward(*arguments, *more, eps=eps)
            grads = backward(weights, x, gamma, *statistics, *more)
            for k, (name, grad) in enumerate(zip(("dx", "dgamma", "dbeta"), grads, strict=False)):

                def call(
                    v: Float64Array, k: int = k, forward: Any = forward, eps: float = eps
                ) -> Float64Array:
                    changed = [*arguments[:k], v, *arguments[k + 1 :], *more]  # noqa: B023
                    return np.asarray(forward(*changed, eps=eps)[0])

                error = gradcheck(_weighted(call, weights), arguments[k], grad)
                yield Row(backward.__name__, f"{name}, eps={eps:g}", error)


def table() -> list[Row]:
    """Check every backward function and layer, with every option that changes it, in float64.

    The steps of the optimizers stand in the table too, compared with their equations.

    Returns
    -------
    list of Row
        ``(function, option, error)``: largest relative error as `gradcheck` defines it.

    Examples
    --------
    >>> from nbnorm.functions.gradcheck import table
    >>> max(row.error for row in table()) < 1e-6  # doctest: +SKIP
    True
    """
    return [*_function_rows(), *_optimizer_rows(), *_layer_rows(), *_other_rows()]
