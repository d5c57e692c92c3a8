"""The state of a gathering: ten numbers for each feature, and how states are joined and taken apart.

Means and sums of squared deviations are pairs of doubles, so that neither the number nor the grouping of
joins shows in the result.  Beside them stand bounds of their rounding errors, to first order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nbnorm import simd
from nbnorm.compile.kernels import kernel
from nbnorm.statistics.double import add_low, ratio, times, two_sum

Array = npt.NDArray[Any]

# Rows of a state: what is known of every feature.
# COUNT_ERROR, SUM_ERROR and M2_ERROR bound the errors of the count, of count * mean and of M2.
COUNT, MEAN, MEAN_LOW, M2, M2_LOW, MIN, MAX, COUNT_ERROR, SUM_ERROR, M2_ERROR = range(10)
ROWS = 10

UNIT = 2.0**-53  # relative error of one rounding
LEAST_VARIANCE = 1e-305  # below it, squares of deviations lose digits
_PAIR = 2.0**-98  # relative error of a join of two states, in pairs of doubles, of what goes into it


def empty_state(n_features: int) -> Array:
    """Return the state of no data at all.

    Parameters
    ----------
    n_features : int

    Returns
    -------
    ndarray of shape (10, n_features), float64

    Examples
    --------
    >>> empty_state(1)[MIN]
    array([inf])
    """
    state = np.zeros((ROWS, n_features))
    state[MIN] = math.inf
    state[MAX] = -math.inf
    return state


# ----------------------------------------------------------------------------------------------
# Formulas
# ----------------------------------------------------------------------------------------------


class Sums(NamedTuple):
    """What is known of a feature besides its extremes: rows of a state, as vectors or numbers."""

    count: Any
    mean: Any
    mean_low: Any
    m2: Any
    m2_low: Any
    count_error: Any
    sum_error: Any
    m2_error: Any


SUMS = (COUNT, MEAN, MEAN_LOW, M2, M2_LOW, COUNT_ERROR, SUM_ERROR, M2_ERROR)  # their rows


def _chosen(mask: Any, a: Sums, b: Sums) -> Sums:
    """Return `a` where the mask is set, `b` elsewhere."""
    return Sums(*(simd.where(mask, x, y) for x, y in zip(a, b, strict=True)))


def joined(a: Sums, b: Sums) -> Sums:
    """Return the sums of two sets of data together (Chan, Golub and LeVeque 1979).

    With delta = mean_b - mean_a and n = n_a + n_b:  mean = mean_a + delta n_b / n,
    M2 = M2_a + M2_b + delta^2 n_a n_b / n.
    """
    count, count_lost = two_sum(a.count, b.count)
    high, error = two_sum(b.mean, -a.mean)
    delta = two_sum(high, error + (b.mean_low - a.mean_low))
    fraction = ratio(b.count, count)
    step, step_low = times(*delta, *fraction)
    mean, mean_low = add_low(a.mean, a.mean_low + step_low, step)
    # An infinite mean stays infinite; opposite infinities give NaN.
    finite = simd.abs(mean) < math.inf
    mean, mean_low = simd.where(finite, mean, a.mean + b.mean), simd.where(finite, mean_low, 0.0)
    # delta^2 n_a n_b / n, beginning with what cannot overflow before the result does
    between, between_low = times(*times(step, step_low, a.count, 0.0), *delta)
    high, low = add_low(a.m2, a.m2_low + between_low, between)
    m2, m2_low = add_low(high, low + b.m2_low, b.m2)
    # First order in the errors of both parts, and the rounding of the join itself.
    moved, size = simd.abs(delta[0]), simd.max(simd.abs(a.mean), simd.abs(b.mean))
    counts = a.count_error / a.count + b.count_error / b.count
    pull = 2.0 * moved * (b.sum_error * (a.count / count) + a.sum_error * fraction[0])
    both = Sums(
        count,
        mean,
        mean_low,
        m2,
        m2_low,
        a.count_error + (b.count_error + simd.abs(count_lost)),
        a.sum_error + (b.sum_error + moved * b.count * counts + _PAIR * count * size),
        a.m2_error + (b.m2_error + pull + 2.0 * counts * between + _PAIR * m2),
    )
    return _chosen(b.count > 0.0, _chosen(a.count == 0.0, b, both), a)


def remaining(a: Sums, b: Sums) -> Sums:
    """Return what remains of `a` without `b`, of which it was a part: `joined` solved for the first."""
    count, count_lost = two_sum(a.count, -b.count)
    high, error = two_sum(b.mean, -a.mean)
    offset = two_sum(high, error + (b.mean_low - a.mean_low))
    fraction = ratio(b.count, count)
    step, step_low = times(*offset, *fraction)
    mean, mean_low = add_low(a.mean, a.mean_low - step_low, -step)
    # The distance between the two parts' means is offset * n_a / n.
    between, between_low = times(*times(step, step_low, a.count, 0.0), *offset)
    high, low = add_low(a.m2, a.m2_low - b.m2_low, -b.m2)
    m2, m2_low = add_low(high, low - between_low, -between)
    # The errors of both add up, whatever is taken away.
    moved, size = simd.abs(offset[0]), simd.abs(b.mean) + simd.abs(mean)
    count_error = a.count_error + b.count_error + simd.abs(count_lost)
    counts = a.count_error / a.count + b.count_error / b.count + count_error / count
    pull = 2.0 * moved * (b.sum_error * (a.count / count) + a.sum_error * fraction[0])
    sum_error = a.sum_error + (b.sum_error + moved * b.count * counts + _PAIR * a.count * size)
    m2_error = a.m2_error + (b.m2_error + pull + counts * between + _PAIR * a.m2)
    # Where weights are whole numbers, one is one row, without deviation.
    several = (count != 1.0) | (count_error != 0.0)
    m2, m2_low, m2_error = (simd.where(several, x, 0.0) for x in (m2, m2_low, m2_error))
    rest = Sums(count, mean, mean_low, m2, m2_low, count_error, sum_error, m2_error)
    nothing = Sums(*(simd.full_like(count, 0.0) for _ in SUMS))
    return _chosen(b.count == 0.0, a, _chosen(count <= 0.0, nothing, rest))


# ----------------------------------------------------------------------------------------------
# Kernels
# ----------------------------------------------------------------------------------------------


@simd.traced
def _join(state: Any, features: Any, part: Any, width: Any, first: Any) -> None:
    """Join columns of another state, of `width` columns, from column `first` on."""

    def some(j: Any, lanes: int) -> None:
        def here(row: int) -> Any:
            return simd.load(state, row * features + j, lanes)

        def there(row: int) -> Any:
            return simd.load(part, row * width + first + j, lanes)

        both = joined(Sums(*map(here, SUMS)), Sums(*map(there, SUMS)))
        for row, value in zip(SUMS, both, strict=True):
            simd.store(state, row * features + j, value)
        # NaN stands for unknown and stays.
        low, high = there(MIN), there(MAX)
        simd.store(state, MIN * features + j, simd.where((low < here(MIN)) | (low != low), low, here(MIN)))
        simd.store(
            state, MAX * features + j, simd.where((high > here(MAX)) | (high != high), high, here(MAX))
        )

    simd.loop_steps(0, features, (simd.native_lanes(np.float64), 1), some)


@simd.traced
def _subtract(state: Any, features: Any, part: Any) -> None:
    def some(j: Any, lanes: int) -> None:
        def whole(row: int) -> Any:
            return simd.load(state, row * features + j, lanes)

        def taken(row: int) -> Any:
            return simd.load(part, row * features + j, lanes)

        a, b = Sums(*map(whole, SUMS)), Sums(*map(taken, SUMS))
        rest = remaining(a, b)
        none = (b.count != 0.0) & (rest.count == 0.0)
        # An extreme that is not the part's is still there; otherwise it is unknown.
        kept = b.count == 0.0
        low = simd.where((taken(MIN) > whole(MIN)) | kept, whole(MIN), math.nan)
        high = simd.where((taken(MAX) < whole(MAX)) | kept, whole(MAX), math.nan)
        simd.store(state, MIN * features + j, simd.where(none, math.inf, low))
        simd.store(state, MAX * features + j, simd.where(none, -math.inf, high))
        for row, value in zip(SUMS, rest, strict=True):
            simd.store(state, row * features + j, value)

    simd.loop_steps(0, features, (simd.native_lanes(np.float64), 1), some)


@kernel
def join_panels(states: Array, state: Array) -> None:
    """Join panels in order; a panel may hold several groups of columns for each feature."""
    features, width = state.shape[1], states.shape[2]
    for p in range(states.shape[0]):
        for first in range(0, width, features):
            _join(state, features, states[p], width, first)


@kernel
def merge_states(state: Array, other: Array) -> None:
    """Join `other` to `state`; both have shape (10, n_features)."""
    _join(state, state.shape[1], other, other.shape[1], 0)


@kernel
def subtract_states(state: Array, part: Array) -> None:
    """Take `part` away from `state`, of which it was a part: `merge_states` solved for the first."""
    _subtract(state, state.shape[1], part)


# ----------------------------------------------------------------------------------------------
# What float64 cannot hold
# ----------------------------------------------------------------------------------------------


def refuse_range(name: str, state: Array, names: list[str] | None, column: Callable[[int], Array]) -> None:
    """Refuse a feature of finite values whose sum of squared deviations float64 cannot hold.

    Parameters
    ----------
    name : str
        Of the argument, for errors.
    state : ndarray of shape (10, n_features)
        Of `name`.
    names : list of str or None
        Names of the features.
    column : callable
        Returns the values of a feature that were counted.

    Raises
    ------
    ValueError
        If there is such a feature.
    """
    m2 = state[M2]
    tiny = LEAST_VARIANCE * state[COUNT]
    good = (m2 >= tiny) & (m2 < math.inf)
    if np.count_nonzero(good) == good.size:  # takes a third of the time of all()
        return
    for j in np.flatnonzero(~np.isfinite(m2)):
        values = column(int(j))
        if np.isfinite(values).all():
            label = repr(names[j]) if names else str(j)
            raise ValueError(
                f"{name} must have values whose variance is finite, but that of column {label} is not: "
                f"it has values up to {np.abs(values).max():g}; use a larger unit"
            )
    # Beside a larger mean, different values are too far apart for that.
    for j in np.flatnonzero((m2 < tiny) & (np.abs(state[MEAN]) < 1e-130)):
        values = column(int(j))
        if state[MEAN, j] == 0.0:  # nearly always a column of zeros
            values = values[:1024]
        if (values != values[:1]).any():
            label = repr(names[j]) if names else str(j)
            raise ValueError(
                f"{name} must have values whose variance is at least {LEAST_VARIANCE:g}, but that of column "
                f"{label} is not: it has values up to {np.abs(values).max():g}; use a smaller unit"
            )


def refuse_join(name: str, state: Array, parts: tuple[Array, Array], names: list[str] | None) -> None:
    """Refuse to join parts whose own moments are numbers where those of both together are not."""
    if (state[M2] >= LEAST_VARIANCE * state[COUNT]).all() and np.isfinite(state[M2]).all():
        return
    a, b = parts
    both = (a[COUNT] > 0.0) & (b[COUNT] > 0.0)
    finite = both & np.isfinite(a[M2]) & np.isfinite(b[M2]) & np.isfinite(a[MEAN]) & np.isfinite(b[MEAN])
    apart = (a[MEAN] != b[MEAN]) & (state[M2] < LEAST_VARIANCE * state[COUNT])
    near = np.abs(state[MEAN]) < 1e-130
    for wrong, kind, unit in (
        (finite & ~np.isfinite(state[M2]), "finite", "larger"),
        (finite & apart & near, f"at least {LEAST_VARIANCE:g}", "smaller"),
    ):
        if wrong.any():
            j = int(np.argmax(wrong))
            label = repr(names[j]) if names else str(j)
            raise ValueError(
                f"{name} must have values whose variance is {kind} together with the data before it, but "
                f"that of column {label} is not: use a {unit} unit"
            )
