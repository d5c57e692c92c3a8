"""The kernel of standardization: its rounding, extreme parameters, and every way to write."""

import numpy as np
import pytest

from nbnorm import standardize
from nbnorm.statistics import scaling


def normal(shape, dtype=np.float64, seed=0, mean=0.0):
    return (np.random.default_rng(seed).standard_normal(shape) + mean).astype(dtype)


def test_float64_results_are_the_division_to_an_ulp():
    x, std = normal((400, 7), mean=1e3), np.random.default_rng(2).random(7) + 0.5
    np.testing.assert_array_max_ulp(standardize(x, 0.1, std), (x - 0.1) / std, maxulp=1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("start", range(0, 18, 5))
def test_large_results_are_written_past_the_caches_alike(dtype, start, monkeypatch):
    x = normal(30_000 + 18, dtype, mean=5)[start : start + 30_000].reshape(-1, 10)
    out = np.zeros(30_018, dtype)[start : start + 30_000].reshape(-1, 10)
    expected = standardize(x, 5.0, 2.0)
    monkeypatch.setattr(scaling, "LARGE", 0)
    np.testing.assert_array_equal(standardize(x, 5.0, 2.0, out=out), expected)


@pytest.mark.parametrize("scale", [1e-308, 1e300])
def test_extreme_scales(scale):
    x = normal((40, 2)) * scale
    got = standardize(x, 0.0, scale)
    np.testing.assert_allclose(got, x / scale, rtol=1e-15)


def test_differences_beyond_float64_whose_quotients_are_not():
    np.testing.assert_array_equal(standardize([[1.7e308]], -1.7e308, 1e308), [[3.4]])
    single = np.array([[1e38]], np.float32)
    np.testing.assert_array_equal(standardize(single, float(single[0, 0]), 1e-280), [[0.0]])


def test_formulas_serve_arrays():
    x, mean, scale = normal(50, mean=7), 7.1, 1.3
    got = scaling.standardized(x, mean, 0.0, scale, 1.0 / scale)
    np.testing.assert_allclose(got, standardize(x[:, np.newaxis], mean, scale)[:, 0], rtol=1e-15)
    np.testing.assert_allclose(scaling.restored(got, mean, 0.0, scale), x, rtol=1e-15)
    np.testing.assert_allclose(scaling.scaled(x, 1.0 / scale, -mean / scale), got, rtol=1e-12, atol=1e-15)
