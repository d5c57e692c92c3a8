"""Compiled functions for use inside your own ``@njit`` code.

The functions under their plain names run on the thread that calls them, except for `dense_forward` and
`dense_backward`, whose matrix product is SciPy's BLAS with its own threads; `parallel` holds twins that
divide their work among Numba's threads and give the same bits.  They allocate nothing: every array has
to exist, C-contiguous, and what is written to writeable.  All arrays have the dtype of the first, float32
or float64, except where the table says float64 or int64.  Other arrays and numbers of other types are
refused when the call is compiled, with a `numba.core.errors.TypingError` that names the kernel, the argument,
what was got and what is expected; called from Python, a kernel raises it as a `TypeError`.  Shapes and
values are not checked.  Output arrays come behind the inputs and must not overlap them; workspaces come
last and may hold anything.

Scalars
    ``exp(x)``, ``sigmoid(x)``, ``tanh(x)``, ``relu(x)``
        Vectorizable elementary functions.
    ``leaky_relu(z)``, ``elu(z)``, ``gelu(z)``, ``silu(z)``, ``softplus(z)``, ``selu(z)``
        Further activation functions, vectorizable as well.
    ``leaky_relu_slope(z)``, ``elu_slope(z)``, ``gelu_slope(z)``
        Derivatives of the first three,
    ``silu_slope(z)``, ``softplus_slope(z)``, ``selu_slope(z)``
        and of the others.
    ``activate(x, code)``
        The activation function that has the number `code`, one of `CODES`.
    ``derivative_from_output(y, code)``
        Derivative of identity, relu, sigmoid or tanh, codes 0 to 3, from the value y; NaN for the others.

    ``CODES.identity``, ``CODES.relu``, ``CODES.sigmoid``, ``CODES.tanh``, ...
        The numbers, in Python and in ``@njit`` code; ``CODES._asdict()`` has them by name.

Activations on vectors, chosen by a number of `CODES`
    ``activation_forward(z, code, y)``
        y = f(z).
    ``activation_backward(dy, y, code, dz)``
        dz = dy * f'(z) for codes 0 to 3, identity, relu, sigmoid and tanh.
    ``activation_backward(dy, z, code, dz)``
        The same for the codes from 4 on, whose derivative does not follow from y: the second array is z.

Batch normalization of x (n, f); `mean`, `rstd` and `var` are float64 (f,)
    ``batch_norm_forward(x, gamma, beta, eps, out, mean, rstd, sums, factors)``
        Normalize a mini-batch and return its statistics.
    ``batch_norm_backward(dout, x, gamma, mean, rstd, training, dx, dgamma, dbeta, sums, factors)``
        Gradients; with `training` False the statistics count as constants.
    ``batch_norm_inference(x, mean, scale, shift, out, factors)``
        (x - mean) * scale + shift, where `mean`, ``scale = gamma / sqrt(var + eps)`` and ``shift = beta``
        are float64 (f,).
    ``moments(x, mean, var, sums)``
        Mean and biased variance of the columns.
    ``sums_size(n_samples, n_features)``, ``factors_size(n_features)``
        Lengths of the workspaces `sums` (float64) and `factors` (dtype of x).

Affine layers, x (n, n_in), weight (n_out, n_in)
    ``dense_forward(x, weight, bias, z)``
        z = x weight^T + bias, by the product that Numba compiles `numpy.dot` to: its bits may depend on
        the number of threads of SciPy's BLAS, which ``OPENBLAS_NUM_THREADS`` or threadpoolctl set.
    ``dense_backward(dz, x, weight, dx, dweight, dbias, rows)``
        Gradients, by the same product; workspace `rows` is float64 of shape ``(rows_size(n), n_out)``.
    ``rows_size(n_samples)``
        Number of rows of that workspace.

Losses; each returns the loss as float64
    ``softmax_cross_entropy(logits, labels, gradient, partial)``
        `labels` is int64 (n,), within range.
    ``binary_cross_entropy(z, targets, gradient, partial)``
        `targets` has the shape of the logits `z`, (n, outputs).
    ``mean_squared_error(z, targets, gradient, partial)``
        `targets` has the shape of the predictions `z`, (n, outputs).
    ``weighted_softmax_cross_entropy(logits, labels, smoothing, weights, gradient, partial)``
        With smoothed labels, and with weights of the samples: `weights` is float64 (n,), or has no
        elements where all weights are 1.
    ``weighted_binary_cross_entropy(z, targets, option, weights, gradient, partial)``
        With weights, and targets smoothed by `option`.
    ``weighted_mean_squared_error(z, targets, weights, gradient, partial)``
        With weights.
    ``mean_absolute_error(z, targets, weights, gradient, partial)``
        `targets` has the shape of `z`, (n, outputs).
    ``huber_loss(z, targets, option, weights, gradient, partial)``
        `targets` has the shape of `z`, (n, outputs); `option` is delta.
    ``poisson_loss(z, targets, weights, gradient, partial)``
        `targets` has the shape of `z`, (n, outputs).
    ``quantile_loss(z, targets, option, weights, gradient, partial)``
        `targets` has shape (n, columns), `option` holds the levels, float64 (k,), and `z` has shape
        (n, columns * k).
    ``partial_size(n_samples)``
        Length of the workspace `partial` (float64).

Others
    ``standardize(x, mean, std, out)``
        (x - mean) / std, row by row; `mean` and `std` are float64 (f,).
    ``sgd_step(param, grad, velocity, lr, momentum, nesterov, weight_decay)``
        Update the vectors `param` and `velocity` in place.
    ``adamw_step(param, grad, mean, square, step, lr, beta1, beta2, eps, weight_decay)``
        Update the vectors `param`, `mean` and `square` in place; `step` is 1 at first.

In `parallel`: `activation_forward`, `activation_backward`, `batch_norm_forward`, `batch_norm_backward`,
`batch_norm_inference`, `moments`, `softmax_cross_entropy`, `binary_cross_entropy`,
`mean_squared_error`, the other losses, `sgd_step` and `adamw_step`, with the same arguments.

Examples
--------
>>> import numpy as np
>>> from numba import njit
>>> from nbnorm import kernels
>>> @njit
... def double_step(param, grad, velocity):
...     for _ in range(2):
...         kernels.sgd_step(param, grad, velocity, 0.1, 0.5, False, 0.0)
>>> param, velocity = np.zeros(2), np.zeros(2)
>>> double_step(param, np.ones(2), velocity)
>>> param
array([-0.25, -0.25])
"""

from __future__ import annotations

import collections
import functools
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar, cast

import numpy as np
from numba import types

from nbnorm import simd
from nbnorm.compile.kernels import kernel
from nbnorm.compile.signatures import FLAG, INTEGER, NUMBER, REAL, Array, Scalar, accept_only, check
from nbnorm.functions import activations, batch_norm, dense, loss_formulas, optimizers
from nbnorm.functions.activations import activate, derivative_from_output
from nbnorm.functions.batch_norm import factors_size
from nbnorm.functions.loss_formulas import partial_size
from nbnorm.functions.normalization import sums_size

F = TypeVar("F", bound=Callable[..., Any])

# A named tuple, because compiled code reads constants of one, but not of a dictionary.
_Codes = collections.namedtuple("_Codes", tuple(activations.CODES))  # type: ignore[misc]
CODES = _Codes(**activations.CODES)

__all__ = [
    "CODES",
    "activate",
    "activation_backward",
    "activation_forward",
    "adamw_step",
    "batch_norm_backward",
    "batch_norm_forward",
    "batch_norm_inference",
    "binary_cross_entropy",
    "dense_backward",
    "dense_forward",
    "derivative_from_output",
    "elu",
    "elu_slope",
    "exp",
    "factors_size",
    "gelu",
    "gelu_slope",
    "huber_loss",
    "leaky_relu",
    "leaky_relu_slope",
    "mean_absolute_error",
    "mean_squared_error",
    "moments",
    "parallel",
    "partial_size",
    "poisson_loss",
    "quantile_loss",
    "relu",
    "rows_size",
    "selu",
    "selu_slope",
    "sgd_step",
    "sigmoid",
    "silu",
    "silu_slope",
    "softmax_cross_entropy",
    "softplus",
    "softplus_slope",
    "standardize",
    "sums_size",
    "tanh",
    "weighted_binary_cross_entropy",
    "weighted_mean_squared_error",
    "weighted_softmax_cross_entropy",
]


def _of_numbers(function: F) -> F:
    """Let a function of numbers, vectors and arrays take single numbers only."""
    name, argument = f"nbnorm.kernels.{function.__name__}", next(iter(inspect.signature(function).parameters))

    @functools.wraps(function)
    def checked(*args: Any, **named: Any) -> Any:
        for x in (*args, *named.values()):
            if not isinstance(x, (float, np.float32)):  # float64 is a float
                raise TypeError(f"{name}: {argument} must be {REAL.text}, got {type(x).__name__}")
        return function(*args, **named)

    def compiled(x: Any) -> Any:
        check(name, {argument: REAL}, (getattr(x, "type", types.int64),))
        return function(x)

    return cast(F, simd.operation(compiled)(checked))


exp = _of_numbers(simd.exp)
sigmoid = _of_numbers(simd.sigmoid)
tanh = _of_numbers(simd.tanh)
relu = _of_numbers(activations.relu)
leaky_relu, leaky_relu_slope = map(_of_numbers, (activations.leaky_relu, activations.leaky_relu_slope))
elu, elu_slope = map(_of_numbers, (activations.elu, activations.elu_slope))
gelu, gelu_slope = map(_of_numbers, (simd.gelu, simd.gelu_slope))
selu, selu_slope = map(_of_numbers, (activations.selu, activations.selu_slope))
silu, silu_slope = map(_of_numbers, (activations.silu, activations.silu_slope))
softplus, softplus_slope = map(_of_numbers, (simd.softplus, activations.softplus_slope))

_LOSSES = loss_formulas.KERNELS

_PAIRS = {
    "activation_forward": activations.forward_kernel,
    "activation_backward": activations.backward_kernel,
    "batch_norm_forward": batch_norm.forward_kernel,
    "batch_norm_backward": batch_norm.backward_kernel,
    "batch_norm_inference": batch_norm.inference_kernel,
    "moments": batch_norm.statistics_kernel,
    "softmax_cross_entropy": loss_formulas.softmax_kernel,
    "binary_cross_entropy": _LOSSES["binary_cross_entropy"].plain,
    "mean_squared_error": _LOSSES["squared"].plain,
    "mean_absolute_error": _LOSSES["absolute"].weighted,
    "huber_loss": _LOSSES["huber"].with_option,
    "poisson_loss": _LOSSES["poisson"].weighted,
    "quantile_loss": _LOSSES["quantile"].with_option,
    "weighted_softmax_cross_entropy": loss_formulas.weighted_softmax_kernel,
    "weighted_binary_cross_entropy": _LOSSES["binary_cross_entropy"].with_option,
    "weighted_mean_squared_error": _LOSSES["squared"].weighted,
    "sgd_step": optimizers.sgd_kernel,
    "adamw_step": optimizers.adamw_kernel,
}

activation_forward = activations.forward_kernel.serial
activation_backward = activations.backward_kernel.serial
batch_norm_forward = batch_norm.forward_kernel.serial
batch_norm_backward = batch_norm.backward_kernel.serial
batch_norm_inference = batch_norm.inference_kernel.serial
moments = batch_norm.statistics_kernel.serial
softmax_cross_entropy = loss_formulas.softmax_kernel.serial
binary_cross_entropy = _LOSSES["binary_cross_entropy"].plain.serial
mean_squared_error = _LOSSES["squared"].plain.serial
mean_absolute_error = _LOSSES["absolute"].weighted.serial
huber_loss = _LOSSES["huber"].with_option.serial
poisson_loss = _LOSSES["poisson"].weighted.serial
quantile_loss = _LOSSES["quantile"].with_option.serial
weighted_softmax_cross_entropy = loss_formulas.weighted_softmax_kernel.serial
weighted_binary_cross_entropy = _LOSSES["binary_cross_entropy"].with_option.serial
weighted_mean_squared_error = _LOSSES["squared"].weighted.serial
sgd_step = optimizers.sgd_kernel.serial
adamw_step = optimizers.adamw_kernel.serial
rows_size = dense.sums_rows
_add_bias = dense.add_bias_kernel.serial
_column_sums = dense.column_sums_kernel.serial

# A module, because compiled code can look into one.
parallel: Any = ModuleType("nbnorm.kernels.parallel", "Twins that divide their work among threads.")
for _name, _pair in _PAIRS.items():
    setattr(parallel, _name, _pair.parallel)


@kernel(allocates=True)
def dense_forward(x: Any, weight: Any, bias: Any, z: Any) -> None:
    """Affine map, by the matrix product that Numba compiles `numpy.dot` to."""
    np.dot(x, weight.T, z)
    _add_bias(z, bias)


@kernel(allocates=True)
def dense_backward(dz: Any, x: Any, weight: Any, dx: Any, dweight: Any, dbias: Any, rows: Any) -> None:
    """Gradients of `dense_forward`."""
    np.dot(dz, weight, dx)
    np.dot(dz.T, x, dweight)
    _column_sums(dz, dbias, rows)


@kernel
def standardize(x: Any, mean: Any, std: Any, out: Any) -> None:
    """``(x - mean) / std`` row by row, in float64."""
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            out[i, j] = (x[i, j] - mean[j]) / std[j]


# ----------------------------------------------------------------------------------------------
# What each kernel is compiled for
# ----------------------------------------------------------------------------------------------

_VECTOR, _MATRIX = Array(1), Array(2)
_DOUBLES, _DOUBLE_ROWS = Array(1, types.float64), Array(2, types.float64)
_LABELS = Array(1, types.int64)
_LOSS: dict[str, Array | Scalar] = {"gradient": _MATRIX.out, "partial": _DOUBLES.out}
_WEIGHTED_LOSS: dict[str, Array | Scalar] = {"weights": _DOUBLES, **_LOSS}

ARGUMENTS: dict[str, dict[str, Array | Scalar]] = {
    "activate": {"x": REAL, "code": INTEGER},
    "derivative_from_output": {"y": REAL, "code": INTEGER},
    "activation_forward": {"z": _VECTOR, "code": INTEGER, "y": _VECTOR.out},
    "activation_backward": {"dy": _VECTOR, "y": _VECTOR, "code": INTEGER, "dz": _VECTOR.out},
    "batch_norm_forward": {
        "x": _MATRIX, "gamma": _VECTOR, "beta": _VECTOR, "eps": NUMBER, "out": _MATRIX.out,
        "mean": _DOUBLES.out, "rstd": _DOUBLES.out, "sums": _DOUBLES.out, "factors": _VECTOR.out,
    },
    "batch_norm_backward": {
        "dout": _MATRIX, "x": _MATRIX, "gamma": _VECTOR, "mean": _DOUBLES, "rstd": _DOUBLES,
        "training": FLAG, "dx": _MATRIX.out, "dgamma": _VECTOR.out, "dbeta": _VECTOR.out,
        "sums": _DOUBLES.out, "factors": _VECTOR.out,
    },
    "batch_norm_inference": {
        "x": _MATRIX, "mean": _DOUBLES, "scale": _DOUBLES, "shift": _DOUBLES, "out": _MATRIX.out,
        "factors": _VECTOR.out,
    },
    "moments": {"x": _MATRIX, "mean": _DOUBLES.out, "var": _DOUBLES.out, "sums": _DOUBLES.out},
    "sums_size": {"n_samples": INTEGER, "n_features": INTEGER},
    "factors_size": {"n_features": INTEGER},
    "dense_forward": {"x": _MATRIX, "weight": _MATRIX, "bias": _VECTOR, "z": _MATRIX.out},
    "dense_backward": {
        "dz": _MATRIX, "x": _MATRIX, "weight": _MATRIX, "dx": _MATRIX.out, "dweight": _MATRIX.out,
        "dbias": _VECTOR.out, "rows": _DOUBLE_ROWS.out,
    },
    "rows_size": {"n_samples": INTEGER},
    "softmax_cross_entropy": {"logits": _MATRIX, "labels": _LABELS, **_LOSS},
    "binary_cross_entropy": {"z": _MATRIX, "targets": _MATRIX, **_LOSS},
    "mean_squared_error": {"z": _MATRIX, "targets": _MATRIX, **_LOSS},
    "weighted_softmax_cross_entropy": {
        "logits": _MATRIX, "labels": _LABELS, "smoothing": NUMBER, **_WEIGHTED_LOSS
    },
    "weighted_binary_cross_entropy": {
        "z": _MATRIX, "targets": _MATRIX, "option": NUMBER, **_WEIGHTED_LOSS
    },
    "weighted_mean_squared_error": {"z": _MATRIX, "targets": _MATRIX, **_WEIGHTED_LOSS},
    "mean_absolute_error": {"z": _MATRIX, "targets": _MATRIX, **_WEIGHTED_LOSS},
    "huber_loss": {"z": _MATRIX, "targets": _MATRIX, "option": NUMBER, **_WEIGHTED_LOSS},
    "poisson_loss": {"z": _MATRIX, "targets": _MATRIX, **_WEIGHTED_LOSS},
    "quantile_loss": {"z": _MATRIX, "targets": _MATRIX, "option": _DOUBLES, **_WEIGHTED_LOSS},
    "partial_size": {"n_samples": INTEGER},
    "standardize": {"x": _MATRIX, "mean": _DOUBLES, "std": _DOUBLES, "out": _MATRIX.out},
    "sgd_step": {
        "param": _VECTOR.out, "grad": _VECTOR, "velocity": _VECTOR.out, "lr": NUMBER, "momentum": NUMBER,
        "nesterov": FLAG, "weight_decay": NUMBER,
    },
    "adamw_step": {
        "param": _VECTOR.out, "grad": _VECTOR, "mean": _VECTOR.out, "square": _VECTOR.out, "step": NUMBER,
        "lr": NUMBER, "beta1": NUMBER, "beta2": NUMBER, "eps": NUMBER, "weight_decay": NUMBER,
    },
}  # fmt: skip

for _name, _arguments in ARGUMENTS.items():
    accept_only(globals()[_name], f"nbnorm.kernels.{_name}", _arguments)
for _name in _PAIRS:
    accept_only(getattr(parallel, _name), f"nbnorm.kernels.parallel.{_name}", ARGUMENTS[_name])
