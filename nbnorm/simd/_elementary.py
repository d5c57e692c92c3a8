"""Elementary functions as straight lines of arithmetic, without a branch or a call.

exp(x) = 2**n * exp(r), where n is the integer nearest to x / log(2) and |r| <= log(2) / 2;
exp(r) - 1 = r + r**2 q(r) with the minimax polynomial q.

log(1 + e) = 2 atanh(s) with s = e / (2 + e), which is at most 1/3 for e <= 1:
2 atanh(s) = 2 s + s**3 g(s**2).

The tail Q(x) of the normal distribution above x >= 0 is exp(-x**2 / 2) p(u) / (x + c) with
u = (x - c) / (x + c), which maps all x >= 0 to [-1, 1); the constant c keeps the polynomial p short.

The polynomials g and p interpolate at Chebyshev nodes: their relative error is below one unit in the
last place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nbnorm.simd._arithmetic import abs, bitcast, clamp, convert, copysign, fma, full_like, max, min, where
from nbnorm.simd._tracing import elementwise


@dataclass(frozen=True)
class _Constants:
    """Numbers that depend on the precision."""

    integer: type
    mantissa: int  # bits behind the point
    tiny: float  # the smallest normal number
    # The high part has so few bits that its product with an exponent is exact.
    log2_high: float
    log2_low: float
    # exp is 0 below `least` and infinite above `most`; tanh(x) is 1 for 2 x above `saturated`.
    least: float
    most: float
    saturated: float
    q: tuple[float, ...]
    logarithm: tuple[float, ...]
    # The tail of the normal distribution beyond `tail_most` is 0.
    tail: tuple[float, ...]
    tail_center: float
    tail_most: float

    @property
    def bias(self) -> int:
        """What is added to an exponent before it is stored."""
        return (1 << (8 * np.dtype(self.integer).itemsize - self.mantissa - 2)) - 1

    @property
    def magic(self) -> float:
        """Adding it rounds to an integer, which then stands in the lowest bits of the sum."""
        return 1.5 * 2.0**self.mantissa


_SINGLE = _Constants(
    integer=np.int32,
    mantissa=23,
    tiny=2.0**-126,
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
    integer=np.int64,
    mantissa=52,
    tiny=2.0**-1022,
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
_CONSTANTS = {np.dtype(np.float32): _SINGLE, np.dtype(np.float64): _DOUBLE}


def _constants(x: Any) -> _Constants:
    if x.dtype not in _CONSTANTS:
        raise TypeError(f"this needs float32 or float64, got {x.dtype}")
    return _CONSTANTS[x.dtype]


# ----------------------------------------------------------------------------------------------
# Parts
# ----------------------------------------------------------------------------------------------


def _polynomial(coefficients: tuple[float, ...], x: Any) -> Any:
    """Value of a polynomial, the constant coefficient first."""
    value: Any = coefficients[-1]
    for coefficient in reversed(coefficients[:-1]):
        value = fma(value, x, coefficient)
    return value


def _power(c: _Constants, shifted: Any, more: int = 0) -> Any:
    """``2**(n + more)`` from ``n + magic``: the shift leaves nothing of the sum but n."""
    bits = bitcast(shifted, c.integer) << c.mantissa
    return bitcast(bits + ((c.bias + more) << c.mantissa), shifted.dtype)


def _reduced(c: _Constants, x: Any) -> tuple[Any, Any, Any]:
    """``n + magic``, n and ``exp(r) - 1``."""
    shifted = fma(x, 1.4426950408889634, c.magic)
    n = shifted - c.magic
    r = fma(n, -c.log2_high, x)
    r = fma(n, -c.log2_low, r)
    return shifted, n, fma(r * r, _polynomial(c.q, r), r)


def _expm1_within(c: _Constants, x: Any) -> Any:
    """``exp(x) - 1`` for |x| up to `saturated`, right to the last bits near 0 as well."""
    shifted, _, p = _reduced(c, x)
    scale = _power(c, shifted)
    return fma(scale, p, scale - 1.0)


def _over(above: Any, larger: Any, smaller: Any) -> Any:
    """``above / (larger + smaller)`` with one rounding instead of two, for 0 <= smaller <= larger."""
    total = larger + smaller
    lost = smaller - (total - larger)
    inverse = 1.0 / total
    quotient = above * inverse
    remainder = fma(-quotient, total, above)
    remainder = fma(-quotient, lost, remainder)
    return fma(remainder, inverse, quotient)


def _two_atanh(c: _Constants, s: Any) -> Any:
    """``2 atanh(s) = log((1 + s) / (1 - s))`` for |s| up to 1/3."""
    w = s * s
    return fma(s * w, _polynomial(c.logarithm, w), s + s)


def _logarithm(c: _Constants, x: Any, lost: Any = None) -> Any:
    """``log(x + lost)``, where `lost` is below the last digit of the normal number x."""
    # x = m 2**n with m between sqrt(1/2) and sqrt(2): the root of 1/2 is what the shift rounds at
    root = {23: 0x3F3504F3, 52: 0x3FE6A09E667F3BCD}[c.mantissa]
    bits = bitcast(x, c.integer)
    n = (bits - root) >> c.mantissa
    f = bitcast(bits - (n << c.mantissa), x.dtype) - 1.0
    if lost is not None:
        f = f + lost * bitcast((c.bias - min(n, c.bias)) << c.mantissa, x.dtype)
    n = convert(n, x.dtype)
    # 2 atanh(s) = f - f s + s**3 g(s**2) with s = f / (2 + f): f has no rounding error where it counts
    s = f / (2.0 + f)
    w = s * s
    small = fma(n, c.log2_low, fma(s * w, _polynomial(c.logarithm, w), -(f * s)))
    return fma(n, c.log2_high, f + small)


# ----------------------------------------------------------------------------------------------
# Functions
# ----------------------------------------------------------------------------------------------


@elementwise
def exp(x: Any) -> Any:
    """Exponential function.

    The error is at most 2 units in the last place, 3 where the processor has no fused multiply-add.

    Parameters
    ----------
    x : vector or number
        Argument, float32 or float64.

    Returns
    -------
    vector or number
        ``exp(x)``, of the type of `x`.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import simd
    >>> float(simd.exp(0.0))
    1.0
    """
    c = _constants(x)
    _, n, p = _reduced(c, max(min(x, c.most), c.least))
    # Two factors reach below the normal range and up to infinity.
    half = fma(n, 0.5, c.magic)
    rest = (n - (half - c.magic)) + c.magic
    return ((p + 1.0) * _power(c, half)) * _power(c, rest)


@elementwise
def exp_below_0(x: Any) -> Any:
    """Exponential function of arguments that are known to be at most 0.

    It has the bits of `exp` and takes fewer instructions, for example where the largest argument has been
    subtracted.

    Parameters
    ----------
    x : vector or number
        Argument, float32 or float64.

    Returns
    -------
    vector or number
        ``exp(x)``, of the type of `x`.

    Examples
    --------
    >>> from nbnorm import simd
    >>> float(simd.exp_below_0(0.0))
    1.0
    """
    c = _constants(x)
    shifted, _, p = _reduced(c, max(x, c.least))
    # 2**n may lie below the normal range; a larger power does not, and only the last product rounds.
    more = 2 * c.mantissa
    return ((p + 1.0) * _power(c, shifted, more)) * 2.0**-more


@elementwise
def expm1_below_0(x: Any) -> Any:
    """``exp(x) - 1`` for negative x, right to the last digits near 0 as well; 0 for positive x.

    Parameters
    ----------
    x : vector or number
        Argument, float32 or float64.

    Returns
    -------
    vector or number
        Value between -1 and 0, of the type of `x`, within 2 units in the last place.

    Examples
    --------
    >>> from nbnorm import simd
    >>> float(simd.expm1_below_0(-1e-20))
    -1e-20
    """
    c = _constants(x)
    return _expm1_within(c, clamp(x, -c.saturated, 0.0))


@elementwise
def log(x: Any) -> Any:
    """Natural logarithm.

    The error is at most 2 units in the last place.

    Parameters
    ----------
    x : vector or number
        Argument, float32 or float64.

    Returns
    -------
    vector or number
        ``log(x)``; minus infinity for 0, NaN for negative numbers.

    Examples
    --------
    >>> from nbnorm import simd
    >>> float(simd.log(1.0))
    0.0
    """
    c = _constants(x)
    tiny, shift = x < c.tiny, c.mantissa + 1
    value = _logarithm(c, where(tiny, x * 2.0**shift, x))
    value = where(tiny, fma(-float(shift), c.log2_high, value) - shift * c.log2_low, value)
    value = where(x == np.inf, x, value)
    return where(x > 0.0, value, where(x == 0.0, full_like(x, -np.inf), np.nan))


@elementwise
def log1p(x: Any) -> Any:
    """Natural logarithm of ``1 + x``, right to the last digits near 0 as well.

    The error is at most 2 units in the last place.

    Parameters
    ----------
    x : vector or number
        Argument, float32 or float64.

    Returns
    -------
    vector or number
        ``log(1 + x)``; minus infinity for -1, NaN below.

    Examples
    --------
    >>> from nbnorm import simd
    >>> float(simd.log1p(1e-30))
    1e-30
    """
    c = _constants(x)
    u = 1.0 + x
    lost = where(x < 1.0, x - (u - 1.0), 1.0 - (u - x))
    value = where(x == np.inf, x, _logarithm(c, u, lost))
    # so small that 1 + x is 1, and the sign of 0
    value = where(u == 1.0, x, value)
    return where(u > 0.0, value, where(u == 0.0, full_like(x, -np.inf), np.nan))


@elementwise
def sigmoid(x: Any) -> Any:
    """Logistic function ``1 / (1 + exp(-x))``.

    The error is at most 2 units in the last place.

    Parameters
    ----------
    x : vector or number
        Argument, float32 or float64.

    Returns
    -------
    vector or number
        Value between 0 and 1, of the type of `x`.

    Examples
    --------
    >>> from nbnorm import simd
    >>> float(simd.sigmoid(0.0))
    0.5
    """
    e = exp_below_0(-abs(x))
    return _over(where(x < 0.0, e, 1.0), 1.0, e)


@elementwise
def tanh(x: Any) -> Any:
    """Hyperbolic tangent.

    The error is at most 2 units in the last place.

    Parameters
    ----------
    x : vector or number
        Argument, float32 or float64.

    Returns
    -------
    vector or number
        Value between -1 and 1, of the type of `x`.

    Examples
    --------
    >>> from nbnorm import simd
    >>> float(simd.tanh(0.0))
    0.0
    """
    c = _constants(x)
    size = abs(x)
    m = _expm1_within(c, min(size + size, c.saturated))  # exp(2 |x|) - 1
    large = m > 2.0
    return copysign(_over(m, where(large, m, 2.0), where(large, 2.0, m)), x)


@elementwise
def normal(z: Any) -> tuple[Any, Any]:
    """Return the normal distribution function ``(1 + erf(z / sqrt(2))) / 2``, and its bell.

    Parameters
    ----------
    z : vector or number
        Argument, float32 or float64.

    Returns
    -------
    below : vector or number
        Probability of a value below z, right to a few units in the last place in the tails as well.
    bell : vector or number
        ``exp(-z**2 / 2)``.

    Examples
    --------
    >>> from nbnorm import simd
    >>> float(simd.normal(0.0)[1])
    1.0
    """
    c = _constants(z)
    x = min(abs(z), c.tail_most)
    square = x * x
    # The rounding error of the square would be multiplied by the square in the exponential.
    lost = fma(x, x, -square)
    bell = exp_below_0(square * -0.5)
    bell = fma(bell * -0.5, lost, bell)
    inverse = 1.0 / (x + c.tail_center)
    tail = (_polynomial(c.tail, (x - c.tail_center) * inverse) * inverse) * bell
    return where(z < 0.0, tail, 1.0 - tail), bell


@elementwise
def gelu(z: Any) -> Any:
    """Gaussian error linear unit: z times the normal distribution function of z.

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
    >>> from nbnorm import simd
    >>> round(float(simd.gelu(1.0)), 4)
    0.8413
    """
    # The bound lets minus infinity times 0 be 0.
    return max(z, -_constants(z).tail_most) * normal(z)[0]


@elementwise
def gelu_slope(z: Any) -> Any:
    """Slope of `gelu`: ``P(z) + z P'(z)``, where P is the normal distribution function.

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
    >>> from nbnorm import simd
    >>> float(simd.gelu_slope(0.0))
    0.5
    """
    bound = _constants(z).tail_most
    below, bell = normal(z)
    return fma(clamp(z, -bound, bound), bell * 0.3989422804014327, below)


@elementwise
def softplus(z: Any) -> Any:
    """Smooth positive part: ``log(1 + exp(z))``.

    Parameters
    ----------
    z : vector or number
        Argument, float32 or float64.

    Returns
    -------
    vector or number
        Positive value of the type of `z`, within a few units in the last place.

    Examples
    --------
    >>> from nbnorm import simd
    >>> round(float(simd.softplus(0.0)), 4)
    0.6931
    """
    e = exp_below_0(-abs(z))
    return max(z, 0.0) + _two_atanh(_constants(z), _over(e, 2.0, e))
