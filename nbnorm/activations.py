"""Activation functions, forward and backward.

The slope of identity, relu, sigmoid and tanh follows from their value, that of leaky relu, elu, gelu,
silu and softplus is computed from their argument z.

Numba compiles `math.exp` and `math.tanh` to scalar library calls, which keep a loop out of vector
registers.  `exp`, `sigmoid`, `gelu` and so on of this module are straight lines of arithmetic without a
branch or a call, so a compiled loop around them is vectorised: 0.3 to 0.6 ns an element in float32
with AVX-512.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import types
from numba.extending import lower_builtin, type_callable

from nbnorm import _check, _jit
from nbnorm._signatures import REAL, check

CODES = {
    "identity": 0,
    "relu": 1,
    "sigmoid": 2,
    "tanh": 3,
    "leaky_relu": 4,
    "elu": 5,
    "gelu": 6,
    "silu": 7,
    "softplus": 8,
}
IDENTITY, RELU, SIGMOID, TANH, LEAKY_RELU, ELU, GELU, SILU, SOFTPLUS = CODES.values()

# Slope of leaky relu below 0.
LEAK = 0.01

# Elements in one block of a parallel loop.
BLOCK = 16_384

Real = TypeVar("Real", float, np.float32, np.float64)
F = TypeVar("F", bound=Callable[..., Any])

# ----------------------------------------------------------------------------------------------
# Elementary functions as vectorisable arithmetic
#
# exp(x) = 2**n * exp(r), where n is the integer nearest to x / log(2) and |r| <= log(2) / 2;
# exp(r) - 1 = r + r**2 q(r) with the minimax polynomial q.  The error is at most 2 units in the last
# place where the processor has fused multiply-add, 3 where it has not.  Written in LLVM's terms,
# each function takes a scalar or a vector of either precision.
#
# log(1 + e) = 2 atanh(s) with s = e / (2 + e), which is at most 1/3 for e <= 1:
# 2 atanh(s) = 2 s + s**3 g(s**2).
#
# The tail Q(x) of the normal distribution above x >= 0 is exp(-x**2 / 2) p(u) / (x + c) with
# u = (x - c) / (x + c), which maps all x >= 0 to [-1, 1); the constant c keeps the polynomial p short.
#
# The polynomials g and p interpolate at Chebyshev nodes: their relative error is below one unit in the
# last place.
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
        logarithm: tuple[float, ...],
        tail: tuple[float, ...],
        tail_center: float,
        tail_most: float,
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
        self.logarithm = logarithm
        # The tail of the normal distribution beyond `tail_most` is 0.
        self.tail = tail
        self.tail_center = tail_center
        self.tail_most = tail_most


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
    logarithm=(0.6666663885116577, 0.40007561445236206, 0.28236618638038635, 0.2685149908065796),
    tail=(
        0.7066566348075867,
        -0.43369197845458984,
        0.131987065076828,
        0.009235507808625698,
        -0.01638709008693695,
        -0.0015996979782357812,
        0.0025268462486565113,
        0.0006840564892627299,
        -0.00031458918238058686,
        -0.00015900027938187122,
    ),
    tail_center=2.5,
    tail_most=15.0,
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
    logarithm=(
        0.6666666666666666,
        0.40000000000014585,
        0.2857142856710876,
        0.22222222717427864,
        0.18181789436132859,
        0.15385570064958623,
        0.13314144209654935,
        0.12001072809590713,
        0.08800738486144674,
        0.1616404561194353,
    ),
    tail=(
        0.729083690133373,
        -0.5093319819174893,
        0.23001771997460405,
        -0.04726302514299183,
        -0.010462867023329358,
        0.006972621241140996,
        0.0010275922595270092,
        -0.0010458286328196662,
        -0.00025657535214361596,
        0.0001543945440562321,
        7.88127267454889e-05,
        -1.324638397786238e-05,
        -2.0689492378130545e-05,
        -3.516846063057168e-06,
        3.641573091403554e-06,
        2.2553819963108475e-06,
        3.6996076824796792e-09,
        -5.926843555550403e-07,
        -2.6572568258142765e-07,
        4.3548578725785964e-08,
        8.73771685651894e-08,
        2.3414772509611075e-08,
        -8.938429443455894e-09,
        -6.32510353087555e-09,
        -1.0144100842715811e-09,
    ),
    tail_center=3.0,
    tail_most=40.0,
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
        return shifted, n, self.muladd(b.fmul(r, r), self.polynomial(c.q, r), r)

    def polynomial(self, coefficients: tuple[float, ...], x: Any) -> Any:
        """Value of a polynomial, the constant coefficient first."""
        value = self.real(coefficients[-1])
        for coefficient in reversed(coefficients[:-1]):
            value = self.muladd(value, x, self.real(coefficient))
        return value

    def exp(self, x: Any) -> Any:
        """Return ``exp(x)``."""
        return self.bounded_exp(self.most(x, self.c.most))

    def bounded_exp(self, x: Any) -> Any:
        """Return ``exp(x)`` for x that is not beyond the largest exponent."""
        b, magic = self.b, self.real(self.c.magic)
        _, n, p = self.reduced(self.least(x, self.c.least))
        # Two factors reach below the normal range and up to infinity.
        half = self.muladd(n, self.real(0.5), magic)
        rest = b.fadd(b.fsub(n, b.fsub(half, magic)), magic)
        return b.fmul(b.fmul(b.fadd(p, self.real(1.0)), self.power(half)), self.power(rest))

    def over_sum(self, above: Any, x: Any, y: float) -> Any:
        """``above / (x + y)`` with one rounding instead of two, for 0 <= x <= y."""
        return self.over(above, self.real(y), x)

    def over(self, above: Any, larger: Any, smaller: Any) -> Any:
        """``above / (larger + smaller)`` with one rounding instead of two."""
        b = self.b
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
        e = self.bounded_exp(b.fneg(self.call("fabs", x)))
        return self.over_sum(b.select(b.fcmp_ordered("<", x, self.real(0.0)), e, self.real(1.0)), e, 1.0)

    def tanh(self, x: Any) -> Any:
        """Return ``tanh(x)``."""
        b = self.b
        size = self.call("fabs", x)
        shifted, _, p = self.reduced(self.most(b.fadd(size, size), self.c.saturated))
        scale = self.power(shifted)
        # exp(2 |x|) - 1, exact to the last bits near 0 as well
        m = self.muladd(scale, p, b.fsub(scale, self.real(1.0)))
        two = self.real(2.0)
        large = b.fcmp_ordered(">", m, two)
        return self.call("copysign", self.over(m, b.select(large, m, two), b.select(large, two, m)), x)

    def relu(self, x: Any) -> Any:
        """Return x where it is positive, or NaN; 0 elsewhere."""
        # NaN is not "at most 0" and passes.
        zero = self.real(0.0)
        return self.b.select(self.b.fcmp_ordered("<=", x, zero), zero, x)

    def leaky_relu(self, z: Any) -> Any:
        """Return z where it is positive, or NaN; LEAK * z elsewhere."""
        b = self.b
        below = b.fcmp_ordered("<=", z, self.real(0.0))
        return b.select(below, b.fmul(z, self.real(LEAK)), z)

    def elu(self, z: Any) -> Any:
        """Return z where it is positive, ``exp(z) - 1`` elsewhere."""
        b = self.b
        shifted, _, p = self.reduced(self.least(self.most(z, 0.0), -self.c.saturated))
        scale = self.power(shifted)
        m = self.muladd(scale, p, b.fsub(scale, self.real(1.0)))
        return b.select(b.fcmp_ordered(">=", z, self.real(0.0)), z, m)

    def normal(self, z: Any) -> tuple[Any, Any]:
        """Distribution function of the normal distribution, and ``exp(-z**2 / 2)``."""
        b, c = self.b, self.c
        x = self.most(self.call("fabs", z), c.tail_most)
        square = b.fmul(x, x)
        # What rounding took from the square would be multiplied by the square in the exponential.
        lost = self.muladd(x, x, b.fneg(square))
        bell = self.bounded_exp(b.fmul(square, self.real(-0.5)))
        bell = self.muladd(b.fmul(bell, self.real(-0.5)), lost, bell)
        center = self.real(c.tail_center)
        inverse = b.fdiv(self.real(1.0), b.fadd(x, center))
        p = self.polynomial(c.tail, b.fmul(b.fsub(x, center), inverse))
        tail = b.fmul(b.fmul(p, inverse), bell)
        below = b.fcmp_ordered("<", z, self.real(0.0))
        return b.select(below, tail, b.fsub(self.real(1.0), tail)), bell

    def gelu(self, z: Any) -> Any:
        """Return z times the normal distribution function of z."""
        # The bound lets minus infinity times 0 be 0.
        return self.b.fmul(self.least(z, -self.c.tail_most), self.normal(z)[0])

    def logistic(self, z: Any) -> tuple[Any, Any, Any]:
        """Z within bounds beyond which nothing changes, ``sigmoid(z)`` and ``sigmoid(-|z|)``."""
        b, bound = self.b, -2.0 * self.c.least
        e = self.bounded_exp(b.fneg(self.call("fabs", z)))
        t = self.over_sum(e, e, 1.0)
        below = b.fcmp_ordered("<", z, self.real(0.0))
        return self.most(self.least(z, -bound), bound), b.select(below, t, b.fsub(self.real(1.0), t)), t

    def silu(self, z: Any) -> Any:
        """Return ``z * sigmoid(z)``."""
        return self.b.fmul(self.least(z, 2.0 * self.c.least), self.sigmoid(z))

    def softplus(self, z: Any) -> Any:
        """Return ``log(1 + exp(z))``."""
        b = self.b
        e = self.bounded_exp(b.fneg(self.call("fabs", z)))
        s = self.over_sum(e, e, 2.0)
        w = b.fmul(s, s)
        logarithm = self.muladd(b.fmul(s, w), self.polynomial(self.c.logarithm, w), b.fadd(s, s))
        return b.fadd(self.relu(z), logarithm)

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

    def no_slope(self, y: Any) -> Any:
        """Return NaN, where a slope does not follow from y."""
        return self.real(math.nan)

    def leaky_relu_slope(self, z: Any) -> Any:
        """Return the slope of leaky relu at z."""
        below = self.b.fcmp_ordered("<=", z, self.real(0.0))
        return self.b.select(below, self.real(LEAK), self.real(1.0))

    def elu_slope(self, z: Any) -> Any:
        """Return the slope of elu at z."""
        return self.bounded_exp(self.most(z, 0.0))

    def gelu_slope(self, z: Any) -> Any:
        """Return the slope of gelu at z: ``P(z) + z P'(z)``, where P is the distribution function."""
        bound = self.c.tail_most
        below, bell = self.normal(z)
        density = self.b.fmul(bell, self.real(0.3989422804014327))
        return self.muladd(self.most(self.least(z, -bound), bound), density, below)

    def silu_slope(self, z: Any) -> Any:
        """Return the slope of silu at z: ``s + z s (1 - s)``, where s is the sigmoid."""
        bounded, s, t = self.logistic(z)
        return self.muladd(self.b.fmul(bounded, t), self.b.fsub(self.real(1.0), t), s)

    def softplus_slope(self, z: Any) -> Any:
        """Return the slope of softplus at z."""
        return self.sigmoid(z)


def _elementary(function: F) -> F:
    """Let compiled code that calls `function` contain the instructions of `Arithmetic`'s method of its name.

    Both ways of calling it take float32 and float64 only.
    """
    name, argument = function.__name__, next(iter(inspect.signature(function).parameters))
    public, method = f"nbnorm.kernels.{name}", name.lstrip("_")

    @functools.wraps(function)
    def checked(*args: Any, **named: Any) -> Any:
        for x in (*args, *named.values()):
            if not isinstance(x, (float, np.float32)):  # float64 is a float
                raise TypeError(f"{public}: {argument} must be {REAL.text}, got {type(x).__name__}")
        return function(*args, **named)

    def typer(x: Any) -> Any:
        check(public, {argument: REAL}, (x,))
        return x

    def lowered(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return getattr(Arithmetic(builder, args[0].type), method)(args[0])

    type_callable(checked)(lambda context: typer)
    lower_builtin(checked, types.float32)(lowered)
    lower_builtin(checked, types.float64)(lowered)
    return cast(F, checked)


@_elementary
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


@_elementary
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


@_elementary
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


@_elementary
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


# Beyond this distance from 0 the tails of all functions are 0.
_FAR = 2000.0


def _normal(z: float) -> tuple[float, float]:
    """Distribution function of the normal distribution, and ``exp(-z**2 / 2)``."""
    return 0.5 * math.erfc(-z * math.sqrt(0.5)), math.exp(-0.5 * z * z)


@_elementary
def leaky_relu(z: Real) -> Real:
    """Leaky relu for compiled loops: z where it is positive, 0.01 z elsewhere.

    Parameters
    ----------
    z : float32 or float64
        Argument.

    Returns
    -------
    float32 or float64
        Value of the type of `z`.

    Examples
    --------
    >>> from nbnorm.activations import leaky_relu
    >>> leaky_relu(-1.0)
    -0.01
    """
    return type(z)(LEAK * z) if z <= 0 else z


@_elementary
def elu(z: Real) -> Real:
    """Exponential linear unit for compiled loops: z where it is positive, ``exp(z) - 1`` elsewhere.

    Parameters
    ----------
    z : float32 or float64
        Argument.

    Returns
    -------
    float32 or float64
        Value above -1, of the type of `z`, within 2 units in the last place.

    Examples
    --------
    >>> from nbnorm.activations import elu
    >>> round(float(elu(-1.0)), 4)
    -0.6321
    """
    return z if z >= 0 else type(z)(np.expm1(z))


@_elementary
def gelu(z: Real) -> Real:
    """Gaussian error linear unit for compiled loops: ``z P(z)`` with the normal distribution function P.

    Parameters
    ----------
    z : float32 or float64
        Argument.

    Returns
    -------
    float32 or float64
        Value of the type of `z`, within a few units in the last place.

    Examples
    --------
    >>> from nbnorm.activations import gelu
    >>> round(float(gelu(1.0)), 4)
    0.8413
    """
    below, _ = _normal(float(z))
    return type(z)(max(float(z), -_FAR) * below)


@_elementary
def silu(z: Real) -> Real:
    """Sigmoid linear unit for compiled loops: ``z / (1 + exp(-z))``.

    Parameters
    ----------
    z : float32 or float64
        Argument.

    Returns
    -------
    float32 or float64
        Value of the type of `z`, within a few units in the last place.

    Examples
    --------
    >>> from nbnorm.activations import silu
    >>> round(float(silu(1.0)), 4)
    0.7311
    """
    return type(z)(max(float(z), -_FAR) * sigmoid(float(z)))


@_elementary
def softplus(z: Real) -> Real:
    """Smooth relu for compiled loops: ``log(1 + exp(z))``.

    Parameters
    ----------
    z : float32 or float64
        Argument.

    Returns
    -------
    float32 or float64
        Positive value of the type of `z`, within a few units in the last place.

    Examples
    --------
    >>> from nbnorm.activations import softplus
    >>> round(float(softplus(0.0)), 4)
    0.6931
    """
    with np.errstate(under="ignore", invalid="ignore"):
        return type(z)(np.logaddexp(0.0, float(z)))


@_elementary
def leaky_relu_slope(z: Real) -> Real:
    """Slope of `leaky_relu` at z, for compiled loops; 0.01 at 0.

    Parameters
    ----------
    z : float32 or float64
        Argument.

    Returns
    -------
    float32 or float64
        Slope, of the type of `z`.

    Examples
    --------
    >>> from nbnorm.activations import leaky_relu_slope
    >>> leaky_relu_slope(3.0)
    1.0
    """
    return type(z)(LEAK) if z <= 0 else type(z)(1)


@_elementary
def elu_slope(z: Real) -> Real:
    """Slope of `elu` at z, for compiled loops.

    Parameters
    ----------
    z : float32 or float64
        Argument.

    Returns
    -------
    float32 or float64
        Slope, of the type of `z`.

    Examples
    --------
    >>> from nbnorm.activations import elu_slope
    >>> elu_slope(3.0)
    1.0
    """
    return type(z)(1) if z >= 0 else exp(z)


@_elementary
def gelu_slope(z: Real) -> Real:
    """Slope of `gelu` at z, for compiled loops.

    Parameters
    ----------
    z : float32 or float64
        Argument.

    Returns
    -------
    float32 or float64
        Slope, of the type of `z`.

    Examples
    --------
    >>> from nbnorm.activations import gelu_slope
    >>> gelu_slope(0.0)
    0.5
    """
    below, bell = _normal(float(z))
    return type(z)(below + min(max(float(z), -_FAR), _FAR) * bell * 0.3989422804014327)


@_elementary
def silu_slope(z: Real) -> Real:
    """Slope of `silu` at z, for compiled loops.

    Parameters
    ----------
    z : float32 or float64
        Argument.

    Returns
    -------
    float32 or float64
        Slope, of the type of `z`.

    Examples
    --------
    >>> from nbnorm.activations import silu_slope
    >>> silu_slope(0.0)
    0.5
    """
    s, t = sigmoid(float(z)), sigmoid(-float(z))
    return type(z)(s + min(max(float(z), -_FAR), _FAR) * s * t)


@_elementary
def softplus_slope(z: Real) -> Real:
    """Slope of `softplus` at z, for compiled loops: the sigmoid.

    Parameters
    ----------
    z : float32 or float64
        Argument.

    Returns
    -------
    float32 or float64
        Slope, of the type of `z`.

    Examples
    --------
    >>> from nbnorm.activations import softplus_slope
    >>> float(softplus_slope(0.0))
    0.5
    """
    return sigmoid(z)


@_elementary
def _one(y: Real) -> Real:
    return type(y)(1)


@_elementary
def _relu_slope(y: Real) -> Real:
    return type(y)(0) if y <= 0 else type(y)(1)


@_elementary
def _sigmoid_slope(y: Real) -> Real:
    return type(y)(y * (1 - y))


@_elementary
def _tanh_slope(y: Real) -> Real:
    return type(y)(1 - y * y)


@_elementary
def _no_slope(y: Real) -> Real:
    return type(y)(np.nan)


# Value and slope of the functions whose slope is computed from z.
FROM_Z: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "leaky_relu": (leaky_relu, leaky_relu_slope),
    "elu": (elu, elu_slope),
    "gelu": (gelu, gelu_slope),
    "silu": (silu, silu_slope),
    "softplus": (softplus, softplus_slope),
}

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
    if code == LEAKY_RELU:
        return leaky_relu(x)
    if code == ELU:
        return elu(x)
    if code == GELU:
        return gelu(x)
    if code == SILU:
        return silu(x)
    if code == SOFTPLUS:
        return softplus(x)
    return x


@_jit.kernel
def derivative_from_output(y: Any, code: Any) -> Any:
    """Return f'(x) from y = f(x); NaN for codes from 4 on, where it does not follow from y."""
    if code == RELU:
        return _relu_slope(y)
    if code == SIGMOID:
        return _sigmoid_slope(y)
    if code == TANH:
        return _tanh_slope(y)
    return _one(y) if code == IDENTITY else _no_slope(y)


@_jit.inner_kernel
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
    elif code == LEAKY_RELU:
        for i in range(y.size):
            y[i] = leaky_relu(y[i])
    elif code == ELU:
        for i in range(y.size):
            y[i] = elu(y[i])
    elif code == GELU:
        for i in range(y.size):
            y[i] = gelu(y[i])
    elif code == SILU:
        for i in range(y.size):
            y[i] = silu(y[i])
    elif code == SOFTPLUS:
        for i in range(y.size):
            y[i] = softplus(y[i])


@_jit.inner_kernel
def activate_row(z: Any, code: Any, out: Any) -> None:
    """``out[i] = f(z[i])`` for vectors, which may be one and the same."""
    if code == RELU:
        for i in range(z.size):
            out[i] = relu(z[i])
    else:
        for i in range(z.size):
            out[i] = z[i]
        activate_in_place(out, code)


@_jit.inner_kernel
def _backward_in_place(dy: Any, z: Any, code: Any) -> None:
    """``dy[i] *= f'(z[i])`` for the functions whose slope is computed from z."""
    if code == LEAKY_RELU:
        for i in range(z.size):
            dy[i] *= leaky_relu_slope(z[i])
    elif code == ELU:
        for i in range(z.size):
            dy[i] *= elu_slope(z[i])
    elif code == GELU:
        for i in range(z.size):
            dy[i] *= gelu_slope(z[i])
    elif code == SILU:
        for i in range(z.size):
            dy[i] *= silu_slope(z[i])
    elif code == SOFTPLUS:
        for i in range(z.size):
            dy[i] *= softplus_slope(z[i])


@_jit.inner_kernel
def backward_row(dy: Any, y: Any, code: Any, dz: Any) -> None:
    """``dz[i] = dy[i] * f'`` for vectors, from y = f(z) for codes 0 to 3 and from z itself beyond.

    `dz` may be `dy`.
    """
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
        # First copied, then in place, as in `activate_row`.
        for i in range(y.size):
            dz[i] = dy[i]
        _backward_in_place(dz, y, code)


@_jit.parallel_kernel
def forward_kernel(z: Any, code: Any, y: Any) -> None:
    """`activate_row` over fixed blocks of vectors."""
    for block in numba.prange((z.size + BLOCK - 1) // BLOCK):
        start, stop = block * BLOCK, min(z.size, (block + 1) * BLOCK)
        activate_row(z[start:stop], code, y[start:stop])


@_jit.parallel_kernel
def backward_kernel(dy: Any, y: Any, code: Any, dz: Any) -> None:
    """`backward_row` over fixed blocks of vectors."""
    for block in numba.prange((y.size + BLOCK - 1) // BLOCK):
        start, stop = block * BLOCK, min(y.size, (block + 1) * BLOCK)
        backward_row(dy[start:stop], y[start:stop], code, dz[start:stop])


@functools.lru_cache(maxsize=64)
def _custom_kernels(activation: Activation) -> tuple[Any, Any]:
    """Make both kernels of a user's functions, not cached on disk: their code is no part of the key."""
    function, slope = activation.function, activation.derivative

    @_jit.kernel(cache=False)
    def values(z: Any, out: Any) -> None:
        for i in range(z.size):
            out[i] = function(z[i])

    @_jit.kernel(cache=False)
    def slopes(dy: Any, z: Any, dz: Any) -> None:
        for i in range(z.size):
            dz[i] = dy[i] * slope(z[i])

    return values, slopes


# ----------------------------------------------------------------------------------------------
# Public functions
# ----------------------------------------------------------------------------------------------


def _array(name: str, x: npt.ArrayLike, dtype: np.dtype[Any] | None = None) -> npt.NDArray[Any]:
    got = _check.numeric(name, x)
    return _check.floats(name, got, max(got.ndim, 1), dtype=dtype)


def _result(out: npt.NDArray[Any] | None, **inputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
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
    >>> activation_forward(np.array([-1.0, 3.0]), Activation(square, double))
    array([1., 9.])
    """

    function: Callable[..., Any]
    derivative: Callable[..., Any]
    name: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        _check.compiled("function", self.function, 1)
        _check.compiled("derivative", self.derivative, 1)
        if not isinstance(self.name or "", str):
            raise TypeError(f"name must be a string, got {type(self.name).__name__}")
        object.__setattr__(self, "name", self.name or self.function.__name__)


def resolve(activation: Any, *, argument: str = "activation") -> str | Activation:
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
    >>> from nbnorm.activations import resolve
    >>> resolve("gelu")
    'gelu'
    """
    if isinstance(activation, Activation):
        return activation
    if callable(activation):
        raise TypeError(f"{argument} must be a name or an Activation, got {type(activation).__name__}")
    return str(_check.choice(argument, activation, tuple(CODES)))


def activation_forward(
    z: npt.ArrayLike, name: str | Activation, *, out: npt.NDArray[Any] | None = None
) -> npt.NDArray[Any]:
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
    name: str | Activation,
    *,
    z: npt.ArrayLike | None = None,
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
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
