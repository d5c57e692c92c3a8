"""Pairs of doubles: a number and what rounding left of it, twice the digits of a double.

The algorithms are those of Knuth and Dekker [1]_.  They are written for vectors and numbers alike, without
fused multiply-add, so that their bits do not depend on the processor.

References
----------
.. [1] T. J. Dekker, "A floating-point technique for extending the available precision", Numerische Mathematik
18
   (1971) 224-242.
"""

from __future__ import annotations

import math
from typing import Any

from nbnorm import simd

_SPLITTER = 2.0**27 + 1.0


@simd.elementwise
def two_sum(a: Any, b: Any) -> tuple[Any, Any]:
    """Return the rounded sum of two doubles and its rounding error.

    Parameters
    ----------
    a, b : vector or number
        Doubles.

    Returns
    -------
    sum, error : vector or number
        Together exactly ``a + b``.

    Examples
    --------
    >>> two_sum(1e16, 1.25)
    (np.float64(1.0000000000000002e+16), np.float64(-0.75))
    """
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _halves(a: Any) -> tuple[Any, Any]:
    """Return the leading half of the digits of a double, and the rest."""
    part = _SPLITTER * a
    high = part - (part - a)
    return high, a - high


@simd.elementwise
def two_product(a: Any, b: Any) -> tuple[Any, Any]:
    """Return the rounded product of two doubles and its rounding error.

    Parameters
    ----------
    a, b : vector or number
        Doubles below 1e300.

    Returns
    -------
    product, error : vector or number
        Together exactly ``a * b``, if that is neither too large nor too small for a double.

    Examples
    --------
    >>> product, error = two_product(0.1, 0.1)
    >>> print(product, error)
    0.010000000000000002 -8.326672684688674e-19
    """
    (a_high, a_low), (b_high, b_low) = _halves(a), _halves(b)
    result = a * b
    return result, a_low * b_low - (((result - a_high * b_high) - a_low * b_high) - a_high * b_low)


@simd.elementwise
def times(a: Any, a_low: Any, b: Any, b_low: Any) -> tuple[Any, Any]:
    """Return the product of two pairs.

    Parameters
    ----------
    a, a_low, b, b_low : vector or number
        The pairs ``a + a_low`` and ``b + b_low``.

    Returns
    -------
    product, low : vector or number
        Pair, not normalized.

    Examples
    --------
    >>> product, low = times(1.0, 2.0**-60, 3.0, 0.0)
    >>> print(product, low * 2.0**60)
    3.0 3.0
    """
    result, error = two_product(a, b)
    return result, error + (a * b_low + a_low * b)


@simd.elementwise
def ratio(a: Any, b: Any) -> tuple[Any, Any]:
    """Return the quotient of two doubles as a pair.

    Parameters
    ----------
    a, b : vector or number
        Doubles.

    Returns
    -------
    quotient, low : vector or number
        Pair.

    Examples
    --------
    >>> quotient, low = ratio(1.0, 3.0)
    >>> print(quotient, low)
    0.3333333333333333 1.850371707708594e-17
    """
    result = a / b
    product, error = two_product(result, b)
    return result, ((a - product) - error) / b


@simd.elementwise
def add_low(high: Any, low: Any, more: Any) -> tuple[Any, Any]:
    """Return the pair ``high + low + more``, normalized.

    Parameters
    ----------
    high, low, more : vector or number
        A pair and a double.

    Returns
    -------
    sum, low : vector or number
        Pair; an infinite or undefined sum has no low part.

    Examples
    --------
    >>> total, low = add_low(1.0, 0.0, 2.0**-60)
    >>> print(total, low * 2.0**60)
    1.0 1.0
    """
    total, error = two_sum(high, more)
    error = error + low
    result = total + error
    # Infinite sums leave a NaN in the error terms, which is not the sum's.
    finite = simd.abs(total) < math.inf
    return simd.where(finite, result, total), simd.where(finite, error - (result - total), 0.0)
