"""Activation functions: relu, sigmoid, tanh and identity, forward and backward.

Numba compiles `math.exp` and `math.tanh` to scalar library calls, which keep a loop out of vector
registers.  `exp`, `sigmoid` and `tanh` of this module are straight lines of arithmetic without a
branch or a call, so a compiled loop around them is vectorised: 0.3 to 0.6 ns an element in float32
with AVX-512.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import types
from numba.extending import lower_builtin, type_callable

from nbnorm import _check, _jit

CODES = {"identity": 0, "relu": 1, "sigmoid": 2, "tanh": 3}
IDENTITY, RELU, SIGMOID, TANH = 0, 1, 2, 3

# Elements in one block of a parallel loop.
BLOCK = 16_384

Real = TypeVar("Real", float, np.float32, np.float64)

# ----------------------------------------------------------------------------------------------
# Elementary functions as vectorisable arithmetic
#
# exp(x) = 2**n * exp(r), where n is the integer nearest to x / log(2) and |r| <= log(2) / 2;
# exp(r) - 1 = r + r**2 q(r) with the minimax polynomial q.  The error is at most 2 units in the last
# place where the processor has fused multiply-add, 3 where it has not.  Written in LLVM's terms,
# each function takes a scalar or a vector of either precision.
# ----------------------------------------------------------------------------------------------


class _Constants:
    """Numbers that depend on the precision."""

    def __init__(
        self,
        *,
        bits: int,
        mantissa: int,
        log2_high: float,
        log2_low: float,
        least: float,
        most: float,
        saturated: float,
        q: tuple[float, ...],
    ) -> None:
        self.integer = ir.IntType(bits)
        self.mantissa = mantissa
        self.bias = (1 << (bits - mantissa - 2)) - 1
        # Adding it rounds to an integer, which then stands in the lowest bits of the sum.
        self.magic = 1.5 * 2.0**mantissa
        # The high part has so few bits that its product with n is exact.
        self.log2_high = log2_high
        self.log2_low = log2_low
        # exp is 0 below `least` and infinite above `most`; tanh(x) is 1 for 2 x above `saturated`.
        self.least = least
        self.most = most
        self.saturated = saturated
        self.q = q


_SINGLE = _Constants(
    bits=32,
    mantissa=23,
    log2_high=0.6923828125,
    log2_low=0.0007643680599453094,
    least=-104.0,
    most=89.0,
    saturated=20.0,
    q=(
        0.5000000091072477,
        0.16666520755091885,
        0.04166621413794661,
        0.0083687182374509,
        0.0013950086128498031,
    ),
)
_DOUBLE = _Constants(
    bits=64,
    mantissa=52,
    log2_high=0.6931471803691238,
    log2_low=1.9082149292705877e-10,
    least=-746.0,
    most=710.0,
    saturated=40.0,
    q=(
        0.500000000000001,
        0.16666666666666696,
        0.04166666666653389,
        0.008333333333309035,
        0.0013888888942873152,
        0.00019841269914052076,
        2.4801493721936034e-05,
        2.7557218870333875e-06,
        2.763006876809812e-07,
        2.51171447321986e-08,
    ),
)


class Arithmetic:
    """Writes arithmetic on values of one LLVM type, scalar or vector."""

    def __init__(self, builder: Any, kind: Any) -> None:
        scalar = kind.element if isinstance(kind, ir.VectorType) else kind
        self.b = builder
        self.kind = kind
        self.lanes = kind.count if isinstance(kind, ir.VectorType) else 0
        self.c = _SINGLE if isinstance(scalar, ir.FloatType) else _DOUBLE
        self.integer = ir.VectorType(self.c.integer, self.lanes) if self.lanes else self.c.integer
        self.suffix = (f"v{self.lanes}" if self.lanes else "") + f"f{self.c.integer.width}"

    def real(self, value: float) -> Any:
        """Return a constant."""
        return ir.Constant(self.kind, [value] * self.lanes if self.lanes else value)

    def whole(self, value: int) -> Any:
        """Return an integer constant of the numbers' width."""
        return ir.Constant(self.integer, [value] * self.lanes if self.lanes else value)

    def call(self, name: str, *args: Any) -> Any:
        """Call one of LLVM's own functions."""
        signature = ir.FunctionType(self.kind, [self.kind] * len(args))
        full = f"llvm.{name}.{self.suffix}"
        function = self.b.module.globals.get(full) or ir.Function(self.b.module, signature, full)
        return self.b.call(function, args)

    def muladd(self, x: Any, y: Any, z: Any) -> Any:
        """``x * y + z``, in one rounding where the processor has the instruction."""
        return self.call("fmuladd", x, y, z)

    def least(self, x: Any, bound: float) -> Any:
        """Lower bound that lets NaN pass."""
        limit = self.real(bound)
        return self.b.select(self.b.fcmp_ordered("<", x, limit), limit, x)

    def most(self, x: Any, bound: float) -> Any:
        """Upper bound that lets NaN pass."""
        limit = self.real(bound)
        return self.b.select(self.b.fcmp_ordered(">", x, limit), limit, x)

    def power(self, shifted: Any) -> Any:
        """``2**n`` from ``n + magic``: the shift leaves nothing of the sum but n."""
        bits = self.b.shl(self.b.bitcast(shifted, self.integer), self.whole(self.c.mantissa))
        return self.b.bitcast(self.b.add(bits, self.whole(self.c.bias << self.c.mantissa)), self.kind)

    def reduced(self, x: Any) -> tuple[Any, Any, Any]:
        """``n + magic``, n and ``exp(r) - 1``."""
        b, c = self.b, self.c
        shifted = self.muladd(x, self.real(1.4426950408889634), self.real(c.magic))
        n = b.fsub(shifted, self.real(c.magic))
        r = self.muladd(n, self.real(-c.log2_high), x)
        r = self.muladd(n, self.real(-c.log2_low), r)
        q = self.real(c.q[-1])
        for coefficient in reversed(c.q[:-1]):
            q = self.muladd(q, r, self.real(coefficient))
        return shifted, n, self.muladd(b.fmul(r, r), q, r)

    def exp(self, x: Any) -> Any:
        """Return ``exp(x)``."""
        b, magic = self.b, self.real(self.c.magic)
        _, n, p = self.reduced(self.most(self.least(x, self.c.least), self.c.most))
        # Two factors reach below the normal range and up to infinity.
        half = self.muladd(n, self.real(0.5), magic)
        rest = b.fadd(b.fsub(n, b.fsub(half, magic)), magic)
        return b.fmul(b.fmul(b.fadd(p, self.real(1.0)), self.power(half)), self.power(rest))

    def over_sum(self, above: Any, x: Any, y: float) -> Any:
        """``above / (x + y)`` with one rounding instead of two, for x >= 0 and y > 0."""
        b, constant = self.b, self.real(y)
        x_larger = b.fcmp_ordered(">", x, constant)
        larger, smaller = b.select(x_larger, x, constant), b.select(x_larger, constant, x)
        total = b.fadd(larger, smaller)
        lost = b.fsub(smaller, b.fsub(total, larger))
        inverse = b.fdiv(self.real(1.0), total)
        quotient = b.fmul(above, inverse)
        remainder = self.muladd(b.fneg(quotient), total, above)
        remainder = self.muladd(b.fneg(quotient), lost, remainder)
        return self.muladd(remainder, inverse, quotient)

    def sigmoid(self, x: Any) -> Any:
        """Return ``1 / (1 + exp(-x))``."""
        b = self.b
        e = self.exp(b.fneg(self.call("fabs", x)))
        return self.over_sum(b.select(b.fcmp_ordered("<", x, self.real(0.0)), e, self.real(1.0)), e, 1.0)

    def tanh(self, x: Any) -> Any:
        """Return ``tanh(x)``."""
        b = self.b
        size = self.call("fabs", x)
        shifted, _, p = self.reduced(self.most(b.fadd(size, size), self.c.saturated))
        scale = self.power(shifted)
        # exp(2 |x|) - 1, exact to the last bits near 0 as well
        m = self.muladd(scale, p, b.fsub(scale, self.real(1.0)))
        return self.call("copysign", self.over_sum(m, m, 2.0), x)

    def relu(self, x: Any) -> Any:
        """Return x where it is positive, or NaN; 0 elsewhere."""
        # NaN is not "at most 0" and passes.
        zero = self.real(0.0)
        return self.b.select(self.b.fcmp_ordered("<=", x, zero), zero, x)

    def one(self, y: Any) -> Any:
        """Return the slope of the identity."""
        return self.real(1.0)

    def relu_slope(self, y: Any) -> Any:
        """Return the slope of relu where its value is y."""
        zero = self.real(0.0)
        return self.b.select(self.b.fcmp_ordered("<=", y, zero), zero, self.real(1.0))

    def sigmoid_slope(self, y: Any) -> Any:
        """Return the slope of the sigmoid where its value is y."""
        return self.b.fmul(y, self.b.fsub(self.real(1.0), y))

    def tanh_slope(self, y: Any) -> Any:
        """Return the slope of tanh where its value is y."""
        return self.b.fsub(self.real(1.0), self.b.fmul(y, y))


def _compiled_as(function: Any, method: str) -> None:
    """Make compiled code that calls `function` contain the instructions of `Arithmetic.method`."""

    def typer(x: Any) -> Any:
        return x if isinstance(x, types.Float) else None

    def typed(context: Any) -> Any:
        return typer

    def lowered(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return getattr(Arithmetic(builder, args[0].type), method)(args[0])

    type_callable(function)(typed)
    lower_builtin(function, types.float32)(lowered)
    lower_builtin(function, types.float64)(lowered)


def exp(x: Real) -> Real:
    """Exponential function for compiled loops.

    In compiled code it becomes arithmetic that vectorises, with an error of at most 2 units in the
    last place; called from Python it is `numpy.exp`.

    Parameters
    ----------
    x : float32 or float64
        Argument.

    Returns
    -------
    float32 or float64
        ``exp(x)``, of the type of `x`.

    Examples
    --------
    >>> from nbnorm.activations import exp
    >>> float(exp(0.0))
    1.0
    """
    with np.errstate(over="ignore", under="ignore"):
        return type(x)(np.exp(x))


def sigmoid(x: Real) -> Real:
    """Logistic function ``1 / (1 + exp(-x))`` for compiled loops.

    Parameters
    ----------
    x : float32 or float64
        Argument.

    Returns
    -------
    float32 or float64
        Value between 0 and 1, of the type of `x`, within 2 units in the last place.

    Examples
    --------
    >>> from nbnorm.activations import sigmoid
    >>> float(sigmoid(0.0))
    0.5
    """
    with np.errstate(under="ignore"):
        e = np.exp(-np.abs(x))
        return type(x)((e if x < 0 else 1) / (1 + e))


def tanh(x: Real) -> Real:
    """Hyperbolic tangent for compiled loops.

    Parameters
    ----------
    x : float32 or float64
        Argument.

    Returns
    -------
    float32 or float64
        Value between -1 and 1, of the type of `x`, within 2 units in the last place.

    Examples
    --------
    >>> from nbnorm.activations import tanh
    >>> float(tanh(0.0))
    0.0
    """
    return type(x)(np.tanh(x))


def relu(x: Real) -> Real:
    """Positive part of `x`, of its type, for compiled loops; NaN stays NaN.

    Parameters
    ----------
    x : float32 or float64
        Argument.

    Returns
    -------
    float32 or float64
        ``max(x, 0)``.

    Examples
    --------
    >>> from nbnorm.activations import relu
    >>> relu(-1.0)
    0.0
    """
    return type(x)(0) if x <= 0 else x


def _one(y: Real) -> Real:
    return type(y)(1)


def _relu_slope(y: Real) -> Real:
    return type(y)(0) if y <= 0 else type(y)(1)


def _sigmoid_slope(y: Real) -> Real:
    return type(y)(y * (1 - y))


def _tanh_slope(y: Real) -> Real:
    return type(y)(1 - y * y)


_compiled_as(exp, "exp")
_compiled_as(sigmoid, "sigmoid")
_compiled_as(tanh, "tanh")
_compiled_as(relu, "relu")
_compiled_as(_one, "one")
_compiled_as(_relu_slope, "relu_slope")
_compiled_as(_sigmoid_slope, "sigmoid_slope")
_compiled_as(_tanh_slope, "tanh_slope")

# ----------------------------------------------------------------------------------------------
# Kernels
# ----------------------------------------------------------------------------------------------


@_jit.kernel
def activate(x: Any, code: Any) -> Any:
    """Return f(x); `code` is one of `CODES`.

    LLVM does not take the choice out of a loop around it: use `activate_row` where time counts.
    """
    if code == RELU:
        return relu(x)
    if code == SIGMOID:
        return sigmoid(x)
    if code == TANH:
        return tanh(x)
    return x


@_jit.kernel
def derivative_from_output(y: Any, code: Any) -> Any:
    """Return f'(x) from y = f(x); `code` is one of `CODES`."""
    if code == RELU:
        return _relu_slope(y)
    if code == SIGMOID:
        return _sigmoid_slope(y)
    if code == TANH:
        return _tanh_slope(y)
    return _one(y)


@_jit.kernel
def activate_row(z: Any, code: Any, out: Any) -> None:
    """``out[i] = f(z[i])`` for vectors."""
    if code == RELU:
        for i in range(z.size):
            out[i] = relu(z[i])
    elif code == SIGMOID:
        for i in range(z.size):
            out[i] = sigmoid(z[i])
    elif code == TANH:
        for i in range(z.size):
            out[i] = tanh(z[i])
    else:
        for i in range(z.size):
            out[i] = z[i]


@_jit.kernel
def activate_in_place(y: Any, code: Any) -> None:
    """``y[i] = f(y[i])``: with one array LLVM has no overlap to fear and always uses vectors."""
    if code == RELU:
        for i in range(y.size):
            y[i] = relu(y[i])
    elif code == SIGMOID:
        for i in range(y.size):
            y[i] = sigmoid(y[i])
    elif code == TANH:
        for i in range(y.size):
            y[i] = tanh(y[i])


@_jit.kernel
def backward_row(dy: Any, y: Any, code: Any, dz: Any) -> None:
    """``dz[i] = dy[i] * f'`` from y = f(z) for vectors."""
    if code == RELU:
        for i in range(y.size):
            dz[i] = dy[i] * _relu_slope(y[i])
    elif code == SIGMOID:
        for i in range(y.size):
            dz[i] = dy[i] * _sigmoid_slope(y[i])
    elif code == TANH:
        for i in range(y.size):
            dz[i] = dy[i] * _tanh_slope(y[i])
    else:
        for i in range(y.size):
            dz[i] = dy[i]


@_jit.kernel
def backward_in_place(dy: Any, y: Any, code: Any) -> None:
    """``dy[i] *= f'`` from y = f(z) for vectors."""
    if code == RELU:
        for i in range(y.size):
            dy[i] *= _relu_slope(y[i])
    elif code == SIGMOID:
        for i in range(y.size):
            dy[i] *= _sigmoid_slope(y[i])
    elif code == TANH:
        for i in range(y.size):
            dy[i] *= _tanh_slope(y[i])


@_jit.parallel_kernel
def forward_kernel(z: Any, code: Any, out: Any) -> None:
    """`activate_row` over fixed blocks of vectors."""
    for block in numba.prange((z.size + BLOCK - 1) // BLOCK):
        start, stop = block * BLOCK, min(z.size, (block + 1) * BLOCK)
        activate_row(z[start:stop], code, out[start:stop])


@_jit.parallel_kernel
def backward_kernel(dy: Any, y: Any, code: Any, dz: Any) -> None:
    """`backward_row` over fixed blocks of vectors."""
    for block in numba.prange((y.size + BLOCK - 1) // BLOCK):
        start, stop = block * BLOCK, min(y.size, (block + 1) * BLOCK)
        backward_row(dy[start:stop], y[start:stop], code, dz[start:stop])


# ----------------------------------------------------------------------------------------------
# Public functions
# ----------------------------------------------------------------------------------------------


def _array(name: str, x: npt.ArrayLike, dtype: np.dtype[Any] | None = None) -> npt.NDArray[Any]:
    got = _check.numeric(name, x)
    return _check.floats(name, got, max(got.ndim, 1), dtype=dtype)


def activation_forward(
    z: npt.ArrayLike, name: str, *, out: npt.NDArray[Any] | None = None
) -> npt.NDArray[Any]:
    """Apply an activation function to every element.

    ``y = f(z)`` with f one of ``max(z, 0)``, ``1 / (1 + exp(-z))``, ``tanh(z)`` and ``z``.

    Parameters
    ----------
    z : array_like
        Any shape; float32 stays float32, other real types become float64.
    name : {"relu", "sigmoid", "tanh", "identity"}
        Activation function.
    out : ndarray, optional
        C-contiguous array of the shape and dtype of the result; it may be `z` itself.

    Returns
    -------
    ndarray
        y, of the shape of `z`; `out` if given.

    Raises
    ------
    TypeError
        If `z` does not hold real numbers.
    ValueError
        If `name` is unknown, `z` is empty or `out` does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import activation_forward
    >>> activation_forward(np.array([-1.0, 0.0, 2.0]), "relu")
    array([0., 0., 2.])
    """
    code = CODES[_check.choice("name", name, tuple(CODES))]
    z = _array("z", z)
    out = _check.output("out", out, z.shape, z.dtype)
    forward_kernel(z.size, z.reshape(-1), code, out.reshape(-1))
    return out


def activation_backward(
    dy: npt.ArrayLike, y: npt.ArrayLike, name: str, *, out: npt.NDArray[Any] | None = None
) -> npt.NDArray[Any]:
    """Gradient with respect to the argument of an activation function.

    ``dz = dy * f'(z)``, where f'(z) is found from the output: y > 0 for relu, ``y (1 - y)`` for
    sigmoid, ``1 - y**2`` for tanh and 1 for identity.

    Parameters
    ----------
    dy : array_like
        Gradient of the loss with respect to y, of the shape of `y`.
    y : array_like
        Output of `activation_forward`, float32 or float64; its dtype is that of the result.
    name : {"relu", "sigmoid", "tanh", "identity"}
        Activation function.
    out : ndarray, optional
        C-contiguous array of the shape and dtype of the result; it may be `dy` itself.

    Returns
    -------
    ndarray
        dz, of the shape of `y`; `out` if given.

    Raises
    ------
    TypeError
        If an array does not hold real numbers.
    ValueError
        If `name` is unknown, an array is empty or the shapes differ.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import activation_backward
    >>> activation_backward(np.array([1.0, 1.0]), np.array([0.5, 0.0]), "tanh")
    array([0.75, 1.  ])
    """
    code = CODES[_check.choice("name", name, tuple(CODES))]
    y = _array("y", y)
    dy = _check.floats("dy", dy, y.ndim, dtype=y.dtype, shape=y.shape)
    out = _check.output("out", out, y.shape, y.dtype)
    backward_kernel(y.size, dy.reshape(-1), y.reshape(-1), code, out.reshape(-1))
    return out
