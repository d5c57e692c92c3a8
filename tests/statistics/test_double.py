"""Pairs of doubles against rational arithmetic."""

from fractions import Fraction

import numpy as np
import pytest

from nbnorm.compile.kernels import kernel
from nbnorm.statistics import double


@kernel
def compiled(a, b):
    return double.two_sum(a, b), double.two_product(a, b), double.ratio(a, b)


def exact(pair):
    return sum(Fraction(float(x)) for x in pair)


NUMBERS = [0.1, -3.0, 1e16, 1 / 3, -7e-12, 2.0**60 + 2.0**8]


@pytest.mark.parametrize("b", NUMBERS)
@pytest.mark.parametrize("a", NUMBERS)
def test_pairs_hold_twice_the_digits(a, b):
    x, y = Fraction(a), Fraction(b)
    for got in (compiled(a, b), (double.two_sum(a, b), double.two_product(a, b), double.ratio(a, b))):
        assert exact(got[0]) == x + y
        assert exact(got[1]) == x * y
        assert abs(exact(got[2]) * y / x - 1) < 2.0**-100
    product = double.times(*double.ratio(a, b), b, 0.0)
    assert abs(exact(product) / x - 1) < 2.0**-100


def test_sums_of_pairs():
    total, low = 0.0, 0.0
    for _ in range(1000):
        total, low = double.add_low(total, low, 0.1)
    assert exact((total, low)) == 1000 * Fraction(0.1)
    for more, expected in ((np.inf, np.inf), (np.nan, np.nan)):
        got, rest = double.add_low(1.0, 1e-20, more)
        np.testing.assert_equal((float(got), float(rest)), (expected, 0.0))


def test_arrays_are_their_elements():
    a, b = np.array(NUMBERS), np.array(NUMBERS[::-1])
    for function in (double.two_sum, double.two_product, double.ratio):
        got = function(a, b)
        np.testing.assert_array_equal(got, np.transpose([function(x, y) for x, y in zip(a, b, strict=True)]))
