"""Activation functions, forward and backward.

Each function and its slope is written once, in `nbnorm.simd`'s terms, and serves numbers, vectors and NumPy's
arrays.  A new one is such a pair and a line in `FUNCTIONS`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

import numba
import numpy as np
import numpy.typing as npt

from nbnorm import _check, simd
from nbnorm._types import FloatArray
from nbnorm.compile.kernels import kernel, linked_kernel, parallel_kernel
from nbnorm.simd import gelu, gelu_slope, sigmoid, softplus, tanh

# Slope of leaky relu below 0.
LEAK = 0.01

# Scale s and alpha a of selu, and s a, each rounded to float64: features of mean 0 and variance 1 keep them.
SELU_SCALE = 1.0507009873554805
SELU_ALPHA = 1.6732632423543772
SELU_LIMIT = 1.7580993408473769

# Elements in one block of a parallel loop.
BLOCK = 16_384

# ----------------------------------------------------------------------------------------------
# Functions and slopes
# ----------------------------------------------------------------------------------------------


@simd.elementwise
def relu(x: Any) -> Any:
    """Positive part of `x`, of its type; NaN stays NaN.

    Parameters
    ----------
    x : vector or number
        Argument, float32 or float64.

    Returns
    -------
    vector or number
        ``max(x, 0)``.

    Examples
    --------
    >>> from nbnorm.functions.activations import relu
    >>> float(relu(-1.0))
    0.0
    """
    # NaN is not "at most 0" and passes.
    return simd.where(x <= 0.0, 0.0, x)


@simd.elementwise
def leaky_relu(z: Any) -> Any:
    """Leaky relu: z where it is positive, 0.01 z elsewhere.

    Parameters
    ----------
    z : vector or number
        Argument, float32 or float64.

    Returns
    -------
    vector or number
        Value of the type of `z`.

    Examples
    --------
    >>> from nbnorm.functions.activations import leaky_relu
    >>> float(leaky_relu(-1.0))
    -0.01
    """
    return simd.where(z <= 0.0, z * LEAK, z)


@simd.elementwise
def elu(z: Any) -> Any:
    """Exponential linear unit: z where it is positive, ``exp(z) - 1`` elsewhere.

    Parameters
    ----------
    z : vector or number
        Argument, float32 or float64.

    Returns
    -------
    vector or number
        Value above -1, of the type of `z`, within 2 units in the last place.

    Examples
    --------
    >>> from nbnorm.functions.activations import elu
    >>> round(float(elu(-1.0)), 4)
    -0.6321
    """
    return simd.where(z >= 0.0, z, simd.expm1_below_0(z))


@simd.elementwise
def selu(z: Any) -> Any:
    """Scaled exponential linear unit: ``s z`` where z is positive, ``s a (exp(z) - 1)`` elsewhere.

    Parameters
    ----------
    z : vector or number
        Argument, float32 or float64.

    Returns
    -------
    vector or number
        Value above -s a = -1.7581, of the type of `z`, within 3 units in the last place.

    Examples
    --------
    >>> from nbnorm.functions.activations import selu
    >>> round(float(selu(-1.0)), 4), round(float(selu(1.0)), 4)
    (-1.1113, 1.0507)
    """
    return simd.where(z >= 0.0, z * SELU_SCALE, simd.expm1_below_0(z) * SELU_LIMIT)


@simd.elementwise
def silu(z: Any) -> Any:
    """Sigmoid linear unit: ``z / (1 + exp(-z))``.

    Parameters
    ----------
    z : vector or number
        Argument, float32 or float64.

    Returns
    -------
    vector or number
        Value of the type of `z`, within a few units in the last place.

    Examples
    --------
    >>> from nbnorm.functions.activations import silu
    >>> round(float(silu(1.0)), 4)
    0.7311
    """
    # The bound lets minus infinity times 0 be 0.
    return simd.max(z, -_FAR) * sigmoid(z)


@simd.elementwise
def leaky_relu_slope(z: Any) -> Any:
    """Slope of `leaky_relu` at z; 0.01 at 0.

    Parameters
    ----------
    z : vector or number
        Argument, float32 or float64.

    Returns
    -------
    vector or number
        Slope, of the type of `z`.

    Examples
    --------
    >>> from nbnorm.functions.activations import leaky_relu_slope
    >>> float(leaky_relu_slope(3.0))
    1.0
    """
    return simd.where(z <= 0.0, simd.full_like(z, LEAK), 1.0)


@simd.elementwise
def elu_slope(z: Any) -> Any:
    """Slope of `elu` at z.

    Parameters
    ----------
    z : vector or number
        Argument, float32 or float64.

    Returns
    -------
    vector or number
        Slope, of the type of `z`.

    Examples
    --------
    >>> from nbnorm.functions.activations import elu_slope
    >>> float(elu_slope(3.0))
    1.0
    """
    return simd.exp_below_0(simd.min(z, 0.0))


@simd.elementwise
def selu_slope(z: Any) -> Any:
    """Slope of `selu` at z; that from below at 0.

    Parameters
    ----------
    z : vector or number
        Argument, float32 or float64.

    Returns
    -------
    vector or number
        Slope, of the type of `z`.

    Examples
    --------
    >>> from nbnorm.functions.activations import selu_slope
    >>> round(float(selu_slope(3.0)), 4)
    1.0507
    """
    below = simd.exp_below_0(simd.min(z, 0.0)) * SELU_LIMIT
    return simd.where(z > 0.0, simd.full_like(z, SELU_SCALE), below)


@simd.elementwise
def silu_slope(z: Any) -> Any:
    """Slope of `silu` at z: ``s + z s (1 - s)``, where s is the sigmoid.

    Parameters
    ----------
    z : vector or number
        Argument, float32 or float64.

    Returns
    -------
    vector or number
        Slope, of the type of `z`.

    Examples
    --------
    >>> from nbnorm.functions.activations import silu_slope
    >>> float(silu_slope(0.0))
    0.5
    """
    t = sigmoid(-simd.abs(z))  # s or 1 - s, the smaller
    s = simd.where(z < 0.0, t, 1.0 - t)
    return simd.fma(simd.clamp(z, -_FAR, _FAR) * t, 1.0 - t, s)


@simd.elementwise
def softplus_slope(z: Any) -> Any:
    """Slope of `softplus` at z: the sigmoid.

    Parameters
    ----------
    z : vector or number
        Argument, float32 or float64.

    Returns
    -------
    vector or number
        Slope, of the type of `z`.

    Examples
    --------
    >>> from nbnorm.functions.activations import softplus_slope
    >>> float(softplus_slope(0.0))
    0.5
    """
    return sigmoid(z)


@simd.elementwise
def _identity(z: Any) -> Any:
    return z


@simd.elementwise
def _one(y: Any) -> Any:
    return simd.full_like(y, 1.0)


@simd.elementwise
def _relu_slope(y: Any) -> Any:
    return simd.where(y <= 0.0, simd.full_like(y, 0.0), 1.0)


@simd.elementwise
def _sigmoid_slope(y: Any) -> Any:
    return y * (1.0 - y)


@simd.elementwise
def _tanh_slope(y: Any) -> Any:
    return 1.0 - y * y


@simd.elementwise
def _unknown(y: Any) -> Any:
    return simd.full_like(y, math.nan)


# Beyond this distance from 0 sigmoids are 0 and 1 in either precision.
_FAR = 2000.0


class Function(NamedTuple):
    """An activation function f and its slope f', of y = f(z) or of z."""

    value: Callable[[Any], Any]
    slope: Callable[[Any], Any]
    slope_of_y: bool = False


ActivationName: TypeAlias = Literal[
    "identity", "relu", "sigmoid", "tanh", "leaky_relu", "elu", "gelu", "silu", "softplus", "selu"
]

FUNCTIONS: dict[ActivationName, Function] = {
    "identity": Function(_identity, _one, slope_of_y=True),
    "relu": Function(relu, _relu_slope, slope_of_y=True),
    "sigmoid": Function(sigmoid, _sigmoid_slope, slope_of_y=True),
    "tanh": Function(tanh, _tanh_slope, slope_of_y=True),
    "leaky_relu": Function(leaky_relu, leaky_relu_slope),
    "elu": Function(elu, elu_slope),
    "gelu": Function(gelu, gelu_slope),
    "silu": Function(silu, silu_slope),
    "softplus": Function(softplus, softplus_slope),
    "selu": Function(selu, selu_slope),
}

# Numbers by which compiled code chooses.
CODES = {name: code for code, name in enumerate(FUNCTIONS)}
IDENTITY = CODES["identity"]

# Names of the functions whose slope is computed from z.
FROM_Z = tuple(name for name, function in FUNCTIONS.items() if not function.slope_of_y)

# ----------------------------------------------------------------------------------------------
# Kernels
# ----------------------------------------------------------------------------------------------


@simd.traced
def _value(x: Any, code: Any) -> Any:
    return simd.switch(code, [function.value for function in FUNCTIONS.values()], x)


@simd.traced
def _slope_of_y(y: Any, code: Any) -> Any:
    slopes = [function.slope if function.slope_of_y else _unknown for function in FUNCTIONS.values()]
    return simd.switch(code, slopes, y)


@simd.traced
def _forward_rows(z: Any, code: Any, out: Any) -> None:
    def row(function: Function) -> Callable[[], None]:
        return lambda: simd.map_elements(function.value, [z], [out])

    simd.switch(code, [row(function) for function in FUNCTIONS.values()])


@simd.traced
def _backward_rows(dy: Any, y: Any, code: Any, dz: Any) -> None:
    def row(function: Function) -> Callable[[], None]:
        return lambda: simd.map_elements(lambda dy, y: dy * function.slope(y), [dy, y], [dz])

    simd.switch(code, [row(function) for function in FUNCTIONS.values()])


@kernel
def activate(x: Any, code: Any) -> Any:
    """Return f(x); `code` is one of `CODES`.

    LLVM does not take the choice out of a loop around it: use `activate_row` where time counts.
    """
    return _value(x, code)


@kernel
def derivative_from_output(y: Any, code: Any) -> Any:
    """Return f'(x) from y = f(x); NaN for codes from 4 on, where it does not follow from y."""
    return _slope_of_y(y, code)


@linked_kernel
def activate_row(z: Any, code: Any, out: Any) -> None:
    """``out[i] = f(z[i])`` for vectors, which may be one and the same."""
    _forward_rows(z, code, out)


@linked_kernel
def backward_row(dy: Any, y: Any, code: Any, dz: Any) -> None:
    """``dz[i] = dy[i] * f'`` for vectors, from y = f(z) for codes 0 to 3 and from z itself beyond.

    `dz` may be `dy`.
    """
    _backward_rows(dy, y, code, dz)


@parallel_kernel
def forward_kernel(z: Any, code: Any, y: Any) -> None:
    """`activate_row` over fixed blocks of vectors."""
    for block in numba.prange((z.size + BLOCK - 1) // BLOCK):
        start, stop = block * BLOCK, min(z.size, (block + 1) * BLOCK)
        activate_row(z[start:stop], code, y[start:stop])


@parallel_kernel
def backward_kernel(dy: Any, y: Any, code: Any, dz: Any) -> None:
    """`backward_row` over fixed blocks of vectors."""
    for block in numba.prange((y.size + BLOCK - 1) // BLOCK):
        start, stop = block * BLOCK, min(y.size, (block + 1) * BLOCK)
        backward_row(dy[start:stop], y[start:stop], code, dz[start:stop])


@functools.lru_cache(maxsize=64)
def _custom_kernels(activation: Activation) -> tuple[Any, Any]:
    """Make both kernels of a user's functions, not cached on disk: their code is no part of the key."""
    function, slope = activation.function, activation.derivative

    @kernel(cache=False)
    def values(z: Any, out: Any) -> None:
        for i in range(z.size):
            out[i] = function(z[i])

    @kernel(cache=False)
    def slopes(dy: Any, z: Any, dz: Any) -> None:
        for i in range(z.size):
            dz[i] = dy[i] * slope(z[i])

    return values, slopes


# ----------------------------------------------------------------------------------------------
# Public functions
# ----------------------------------------------------------------------------------------------


def _array(name: str, x: npt.ArrayLike, dtype: np.dtype[Any] | None = None) -> FloatArray:
    got = _check.numeric(name, x)
    return _check.floats(name, got, max(got.ndim, 1), dtype=dtype)


def _result(out: FloatArray | None, **inputs: FloatArray) -> FloatArray:
    """Return `out`, which may be the first of the inputs itself but not overlap any, or a new array."""
    (name, first), *rest = inputs.items()
    result = _check.output("out", out, first.shape, first.dtype)
    if np.may_share_memory(result, first) and result.ctypes.data != first.ctypes.data:
        raise ValueError(f"out must be {name} itself or not share memory with it")
    _check.apart("out", result, **dict(rest))
    return result


@dataclass(frozen=True)
class Activation:
    """A user's own activation function, compiled into the training loop.

    Parameters
    ----------
    function : function compiled by `numba.njit`
        ``function(z)`` takes one number, float32 or float64, and returns f(z).
    derivative : function compiled by `numba.njit`
        ``derivative(z)`` returns f'(z).
    name : str, optional
        Name shown to people, by default that of `function`.

    Raises
    ------
    TypeError
        If a function is not compiled or does not take one argument, or `name` is not a string.

    Examples
    --------
    >>> import numpy as np
    >>> from numba import njit
    >>> from nbnorm import Activation, activation_forward
    >>> @njit
    ... def square(z):
    ...     return z * z
    >>> @njit
    ... def double(z):
    ...     return 2 * z
    >>> Activation(square, double)
    Activation(square, double)
    >>> activation_forward(np.array([-1.0, 3.0]), Activation(square, double))
    array([1., 9.])
    """

    function: Callable[[float], float]
    derivative: Callable[[float], float]
    name: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        _check.compiled("function", self.function, 1)
        _check.compiled("derivative", self.derivative, 1)
        if not isinstance(self.name or "", str):
            raise TypeError(f"name must be a string, got {type(self.name).__name__}")
        object.__setattr__(self, "name", self.name or self.function.__name__)

    def __repr__(self) -> str:
        """Show the names of the functions, and another name if there is one."""
        function, derivative = self.function.__name__, self.derivative.__name__
        name = f", name={self.name!r}" if self.name != function else ""
        return f"Activation({function}, {derivative}{name})"


# An activation as the package's own functions and networks are given it.
ActivationLike: TypeAlias = ActivationName | Activation


def resolve(activation: object, *, argument: str = "activation") -> ActivationName | Activation:
    """Return an activation function given by its name or as an `Activation`.

    Parameters
    ----------
    activation : str or Activation
        One of `CODES`, or a user's own.
    argument : str, default "activation"
        Name of the argument in errors.

    Returns
    -------
    str or Activation
        The same.

    Raises
    ------
    TypeError
        If it is a function or a class.
    ValueError
        If the name is unknown.

    Examples
    --------
    >>> from nbnorm.functions.activations import resolve
    >>> resolve("gelu")
    'gelu'
    """
    if isinstance(activation, Activation):
        return activation
    if callable(activation):
        raise TypeError(f"{argument} must be a name or an Activation, got {type(activation).__name__}")
    return _check.choice(argument, activation, tuple(CODES))


def activation_forward(
    z: npt.ArrayLike, name: ActivationName | Activation, *, out: FloatArray | None = None
) -> FloatArray:
    """Apply an activation function to every element.

    ``y = f(z)`` with f one of

    =========== ===========================================================
    identity    ``z``
    relu        ``max(z, 0)``
    sigmoid     ``1 / (1 + exp(-z))``
    tanh        ``tanh(z)``
    leaky_relu  ``z`` where z > 0, ``0.01 z`` elsewhere
    elu         ``z`` where z > 0, ``exp(z) - 1`` elsewhere [1]_
    gelu        ``z P(z)``, P the normal distribution function [2]_
    silu        ``z / (1 + exp(-z))``
    softplus    ``log(1 + exp(z))``
    selu        ``1.0507 z`` where z > 0, ``1.7581 (exp(z) - 1)`` elsewhere [3]_
    =========== ===========================================================

    Parameters
    ----------
    z : array_like
        Any shape of one dimension or more; float32 stays float32, other real types become float64.
    name : str or Activation
        Activation function, one of the table or a user's own.
    out : ndarray, optional
        C-contiguous array of the shape and dtype of the result: `z` itself, or apart from it.

    Returns
    -------
    ndarray
        y, of the shape of `z`; `out` if given.

    Raises
    ------
    TypeError
        If `z` does not hold real numbers.
    ValueError
        If `name` is unknown, `z` is empty or a scalar, or `out` does not fit.

    References
    ----------
    .. [1] Djork-Arné Clevert, Thomas Unterthiner and Sepp Hochreiter, "Fast and accurate deep network
       learning by exponential linear units (ELUs)", ICLR 2016.
    .. [2] Dan Hendrycks and Kevin Gimpel, "Gaussian error linear units (GELUs)", arXiv:1606.08415.
    .. [3] Günter Klambauer, Thomas Unterthiner, Andreas Mayr and Sepp Hochreiter, "Self-normalizing neural
       networks", NeurIPS 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import activation_forward
    >>> activation_forward(np.array([-1.0, 0.0, 2.0]), "relu")
    array([0., 0., 2.])
    """
    known = resolve(name, argument="name")
    z = _array("z", z)
    out = _result(out, z=z)
    if isinstance(known, Activation):
        _custom_kernels(known)[0](z.reshape(-1), out.reshape(-1))
    else:
        work = z.size * (10 if known in FROM_Z else 1)
        forward_kernel(work, z.reshape(-1), CODES[known], out.reshape(-1))
    return out


def activation_backward(
    dy: npt.ArrayLike,
    y: npt.ArrayLike,
    name: ActivationName | Activation,
    *,
    z: npt.ArrayLike | None = None,
    out: FloatArray | None = None,
) -> FloatArray:
    """Gradient with respect to the argument of an activation function.

    ``dz = dy * f'(z)``, where f'(z) is found from the output for four functions: y > 0 for relu,
    ``y (1 - y)`` for sigmoid, ``1 - y**2`` for tanh and 1 for identity.  The others need `z`.

    Parameters
    ----------
    dy : array_like
        Gradient of the loss with respect to y, of the shape of `y`.
    y : array_like
        Output of `activation_forward`, float32 or float64; its dtype is that of the result.
    name : str or Activation
        Activation function, as for `activation_forward`.
    z : array_like, optional
        Argument of `activation_forward`, of the shape of `y`.  Identity, relu, sigmoid and tanh do
        without it, all others need it.
    out : ndarray, optional
        C-contiguous array of the shape and dtype of the result: `dy` itself, or apart from all inputs.

    Returns
    -------
    ndarray
        dz, of the shape of `y`; `out` if given.

    Raises
    ------
    TypeError
        If an array does not hold real numbers.
    ValueError
        If `name` is unknown, an array is empty, the shapes differ, `z` is needed or `out` does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import activation_backward
    >>> activation_backward(np.array([1.0, 1.0]), np.array([0.5, 0.0]), "tanh")
    array([0.75, 1.  ])
    """
    known = resolve(name, argument="name")
    y = _array("y", y)
    dy = _check.floats("dy", dy, y.ndim, dtype=y.dtype, shape=y.shape)
    if isinstance(known, str) and known not in FROM_Z:
        out = _result(out, dy=dy, y=y)
        backward_kernel(y.size, dy.reshape(-1), y.reshape(-1), CODES[known], out.reshape(-1))
        return out
    if z is None:
        label = known if isinstance(known, str) else known.name
        raise ValueError(f"z must be given for {label}, whose slope does not follow from y, got None")
    z = _check.floats("z", z, y.ndim, dtype=y.dtype, shape=y.shape)
    out = _result(out, dy=dy, z=z)
    arrays = dy.reshape(-1), z.reshape(-1)
    if isinstance(known, Activation):
        _custom_kernels(known)[1](*arrays, out.reshape(-1))
    else:
        backward_kernel(10 * y.size, *arrays, CODES[known], out.reshape(-1))
    return out
