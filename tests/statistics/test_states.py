"""Joining and taking apart, feature by feature."""

import numpy as np
import pytest

from nbnorm.statistics.states import merge_states, subtract_states


def states(features, seed):
    rng = np.random.default_rng(seed)
    state = rng.random((10, features)) + 0.5
    state[0] = rng.integers(0, 3, features) * 10.0
    state[:, state[0] == 0.0] = 0.0
    state[[2, 4, 7, 8, 9]] *= 1e-18
    state[5], state[6] = -state[5], state[6] + 2.0
    return state


@pytest.mark.parametrize("function", [merge_states, subtract_states])
def test_features_do_not_see_one_another(function):
    a, b = states(21, 0), states(21, 1)
    a[:, 3] = np.nan
    a[5:7, 4] = b[5:7, 4]
    together = a.copy()
    function(together, b)
    for j in range(21):
        alone = a[:, j : j + 1].copy()
        function(alone, b[:, j : j + 1].copy())
        np.testing.assert_array_equal(together[:, j], alone[:, 0])
