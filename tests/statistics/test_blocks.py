"""Kernels over blocks of rows: whole vectors, the columns that are left, tiles and threads."""

import numpy as np
import pytest

from nbnorm.statistics.blocks import TILE, Options, gather
from nbnorm.statistics.states import COUNT, M2, MAX, MEAN, MIN, empty_state


def gathered(x, weights, options):
    state = empty_state(x.shape[1])
    gather(x, weights, options, state)
    return state


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("weighted", "options"), [(False, Options()), (True, Options(omit=True))])
@pytest.mark.parametrize("features", [37, TILE + 23])
def test_columns_do_not_see_one_another(features, weighted, options, dtype):
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((515, features)) * 10.0 ** rng.uniform(-5, 5, features)).astype(dtype)
    weights = rng.integers(0, 3, len(x)).astype(float) if weighted else None
    if weighted:
        x[rng.random(x.shape) < 0.1] = np.nan
    together = gathered(x, weights, options)
    for j in (0, 5, 35, 36, features - 22, features - 1):
        alone = gathered(np.ascontiguousarray(x[:, j : j + 1]), weights, options)
        np.testing.assert_array_equal(together[:, j], alone[:, 0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_extremes_do_not_change_the_sums(dtype):
    x = np.random.default_rng(0).standard_normal((1100, 50)).astype(dtype)
    with_extremes, without = (gathered(x, None, Options(extremes=extremes)) for extremes in (True, False))
    sums = [0, 1, 2, 3, 4, 7, 8, 9]
    np.testing.assert_array_equal(with_extremes[sums], without[sums])


@pytest.mark.parametrize(
    ("shape", "dtype"), [((24_601, 300), np.float32), ((40, 1024), np.float32), ((40, 512), np.float64)]
)
def test_long_rows_and_rows_a_page_apart_give_the_exact_moments(shape, dtype):
    x = (1e4 + np.random.default_rng(0).standard_normal(shape)).astype(dtype)
    state = gathered(x, None, Options())
    d = x.astype(np.float64) - 1e4
    mean = d.mean(axis=0)
    np.testing.assert_array_equal(state[COUNT], len(x))
    np.testing.assert_allclose(state[MEAN] - 1e4, mean, rtol=0, atol=1e-11)
    np.testing.assert_allclose(state[M2], ((d - mean) ** 2).sum(axis=0), rtol=1e-12)
    np.testing.assert_array_equal(state[[MIN, MAX]], [x.min(axis=0), x.max(axis=0)])
