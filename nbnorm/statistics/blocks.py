"""The moments of an array: blocks of rows, panels of blocks, and the threads.

A block of 512 rows is read once.  The mean c of its first eight rows is the shift: with d = x - c, formed in
float64 whatever the data's type, the block's mean is c + sum(d)/n and its sum of squared deviations is
sum(d^2) - sum(d)^2/n.  The subtraction magnifies rounding by 1 + (mean - c)^2/var.  That is about 9/8 for
data in no particular order, and because c is a mean of the block's own values it is never more than 1 + n/8 =
65, however far the data lie from zero and whatever their order.

How far off the sums can be
---------------------------
With u = 2^-53, n rows and S = sum(d^2), a sum over a block's d is off by at most U sqrt(n S), and that over
d^2 by U S, where U = u (n/2 + 16): two chains of additions, and the rounding of each term.

How they stay fast
------------------
A few rows at a time are added to sums that live in the first cache, while later rows are prefetched.
Several rows of a narrow array are read as one wide row, so that the vectors are full; the groups are
joined at the end.  Panels of blocks are assigned to the threads by their number alone: the same bits for any
number of threads.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import prange

from nbnorm import _check, simd
from nbnorm.compile.kernels import inner_kernel, parallel_kernel
from nbnorm.statistics.double import add_low, two_sum
from nbnorm.statistics.reading import converted, is_ready, rows_in_one, target_dtype
from nbnorm.statistics.states import (
    COUNT,
    M2,
    M2_LOW,
    MAX,
    MEAN,
    MIN,
    ROWS,
    SUMS,
    UNIT,
    Sums,
    empty_state,
    join_panels,
    joined,
)

Array = npt.NDArray[Any]

# Rows of the sums of a block.
SHIFT, SUM, SQUARES, WEIGHT = range(4)

BLOCK = 512  # rows between two joins
FEW = 8  # rows whose mean is the shift of a block
STEPS = 16  # roundings of a term, or of the join of a block, with some to spare

PANELS = 24  # most partial results: divided evenly by most numbers of threads, joined in no time
TILE = 1024  # columns whose sums fit into the first cache
SCRATCH = 6 << 20  # bytes of partial results
PART = 1 << 17  # rows of weighted data that are read at a time

WHOLE = 2.0**44  # of weights below it, 512 have an exact sum if they are whole numbers

# Rows that are added at once, for elements of 4 and of 8 bytes.
_ROWS = {4: 4, 8: 2}

# In bytes, in the order of reading: whole rows, at least those that come next.  It is needed because the
# processor's own prefetching does not follow several rows.  From one strip of rows to 128 kB any distance
# served alike.
PREFETCH_DISTANCE = 16 << 10

# ----------------------------------------------------------------------------------------------
# Rows
# ----------------------------------------------------------------------------------------------


def _lanes() -> int:
    """Return how many columns are summed up side by side: as many as have their sums in registers."""
    return simd.native_lanes(np.float64) * (2 if simd.target().registers >= 32 else 1)


def _two_chains(start: Any, add: Callable[[Any, Any], Any], terms: list[Any]) -> Any:
    """Add terms, every second one to a chain of its own, so that additions need not wait for one another."""
    if len(terms) == 1:
        return add(start, terms[0])
    # -0 plus anything is just that: compiled, it is gone.
    return functools.reduce(add, terms[::2], start) + functools.reduce(add, terms[::-2], -0.0)


def _plus(total: Any, term: Any) -> Any:
    return total + term


def _plus_product(total: Any, pair: tuple[Any, Any]) -> Any:
    return simd.fma(pair[0], pair[1], total)


@simd.traced
def _add_rows(
    x: Any, width: Any, begin: Any, end: Any, first: Any, last: Any, distance: Any, weights: Any, omit: Any,
    extremes: Any, one: Any, sums: Any, ends: Any,
) -> None:  # fmt: skip
    """Add the rows [begin, end) of the columns [first, last) to the sums of a block.

    Without weights all are 1, and none is missing.  With them, NaN is left out if `omit`, and a row of weight
    0 does not exist.  `one` is 1, which the compiler must not know.
    """
    size = x.dtype.itemsize

    def add(several: int, i: Any, j: Any, lanes: int, with_extremes: bool) -> None:
        """Add so many rows of so many columns."""

        def get(row: int) -> Any:
            return simd.load(sums, row * width + j, lanes)

        def put(row: int, value: Any) -> None:
            simd.store(sums, row * width + j, value)

        shift = get(SHIFT)
        low, high = (simd.load(ends, row * width + j, lanes) for row in (0, 1))
        deviations, masses = [], []
        for k in range(several):
            value = simd.load(x, (i + k) * width + j, lanes)
            # x * 1 - shift: the multipliers have time to spare, the adders have none.
            d = simd.fma(simd.convert(value, np.float64), one, -shift)
            below, above = value < low, value > high
            if weights is not None:
                weight = simd.get(weights, i + k)
                valid = ((value == value) | (omit == 0)) & (weight > 0.0)
                d = simd.where(valid, d, 0.0)
                masses.append(simd.where(valid, weight, 0.0))
                below, above = below & valid, above & valid
            deviations.append(d)
            low, high = simd.where(below, value, low), simd.where(above, value, high)
        weighted = [mass * d for mass, d in zip(masses, deviations, strict=True)] if masses else deviations
        products = list(zip(weighted, deviations, strict=True))
        put(SUM, _two_chains(get(SUM), _plus, weighted))
        put(SQUARES, _two_chains(get(SQUARES), _plus_product, products))
        if masses:
            put(WEIGHT, _two_chains(get(WEIGHT), _plus, masses))
        if with_extremes:
            simd.store(ends, j, low)
            simd.store(ends, width + j, high)

    def add_all(with_extremes: bool) -> None:
        def rows(i: Any, several: int) -> None:
            def columns(j: Any, lanes: int) -> None:
                for k in range(several if lanes > 1 else 0):
                    simd.prefetch(x, (i + k) * width + j + distance, lanes * size, level=2)
                add(several, i, j, lanes, with_extremes)

            simd.loop_steps(first, last, (_lanes(), 1), columns)

        simd.loop_steps(begin, end, (_ROWS[size], 1), rows)

    if weights is not None:
        add_all(True)
    else:
        simd.switch(extremes, [lambda: add_all(False), lambda: add_all(True)])


# ----------------------------------------------------------------------------------------------
# Blocks
# ----------------------------------------------------------------------------------------------


@simd.traced
def _open_block(x: Any, width: Any, row: Any, stop: Any, first: Any, last: Any, sums: Any) -> None:
    """Set the shift of the block [row, stop) to the mean of its first rows, and its sums to zero."""

    def mean_of(rows: int) -> None:
        def columns(j: Any, lanes: int) -> None:
            mean = simd.zeros(np.float64, lanes)
            for k in range(rows):
                mean += simd.convert(simd.load(x, (row + k) * width + j, lanes), np.float64) * (1.0 / rows)
            # Infinity and NaN are no shift; minus themselves they are not zero.
            simd.store(sums, SHIFT * width + j, simd.where(mean - mean == 0.0, mean, 0.0))
            for key in (SUM, SQUARES):
                simd.store(sums, key * width + j, simd.zeros(np.float64, lanes))

        simd.loop_steps(first, last, (simd.native_lanes(np.float64), 1), columns)

    simd.switch(stop - row < FEW, [lambda: mean_of(FEW), lambda: mean_of(1)])


class _Block(NamedTuple):
    """The sums of a block of full rows."""

    shift: Any
    total: Any
    squares: Any


def _closed(block: _Block, rows: Any, panel: Sums, before: Any) -> Sums:
    """Return the sums of a panel of `before` rows and a block: `joined`, where all counts are alike."""
    count = before + rows
    unit, join = (rows * 0.5 + STEPS) * UNIT, STEPS * UNIT  # relative errors of the sums, and of a join
    fraction, rest = rows / count, before / count
    offset = block.total * (1.0 / rows)
    within = simd.max(block.squares - block.total * offset, 0.0)
    high, error = two_sum(block.shift, 0.0 - panel.mean)
    delta = high + ((error - panel.mean_low) + offset)
    mean, mean_low = add_low(panel.mean, panel.mean_low, delta * fraction)
    # An infinite mean stays infinite; opposite infinities give NaN.
    finite = simd.abs(mean) < math.inf
    mean = simd.where(finite, mean, panel.mean + (block.shift + offset))
    mean_low = simd.where(finite, mean_low, 0.0)
    between = delta * (delta * (before * fraction))
    m2, m2_low = add_low(*add_low(panel.m2, panel.m2_low, within), between)

    lost = unit * simd.sqrt(rows * block.squares)  # of the sum of the block's deviations
    moved = simd.abs(delta)
    pull = 2.0 * (moved * (lost * rest + panel.sum_error * fraction))
    return Sums(
        simd.full_like(mean, count),
        mean,
        mean_low,
        m2,
        m2_low,
        panel.count_error,
        panel.sum_error + lost + join * (moved * rows),
        panel.m2_error + (unit * block.squares + 2.0 * (simd.abs(offset) * lost)) + pull + join * between,
    )


@simd.traced
def _close_block(sums: Any, state: Any, width: Any, before: Any, rows: Any, first: Any, last: Any) -> None:
    """Join a block of full rows to a panel that holds `before` rows."""

    def columns(j: Any, lanes: int) -> None:
        block = _Block(*(simd.load(sums, row * width + j, lanes) for row in (SHIFT, SUM, SQUARES)))
        panel = Sums(*(simd.load(state, row * width + j, lanes) for row in SUMS))
        for row, value in zip(SUMS, _closed(block, rows, panel, before), strict=True):
            simd.store(state, row * width + j, value)

    simd.loop_steps(first, last, (simd.native_lanes(np.float64), 1), columns)


@inner_kernel
def _open_weighted_block(
    x: Array, weights: Array, row: int, stop: int, first: int, last: int, sums: Array
) -> None:
    """Set shifts to the means of the first values of each column, and the sums to zero."""
    for j in range(first, last):
        mean, found = 0.0, 0.0
        for i in range(row, stop):
            if weights[i] > 0.0 and math.isfinite(x[i, j]):
                # a running mean, which cannot overflow
                found += 1.0
                mean += (x[i, j] - mean) / found
                if found >= FEW:
                    break
        sums[SHIFT, j] = mean
        sums[SUM, j] = 0.0
        sums[SQUARES, j] = 0.0
        sums[WEIGHT, j] = 0.0


@simd.traced
def _close_weighted_block(
    sums: Any, state: Any, width: Any, unit: Any, count_unit: Any, first: Any, last: Any
) -> None:
    """Join a block whose columns have weights of their own; the units are relative errors of the sums."""

    def columns(j: Any, lanes: int) -> None:
        shift, total, squares, weight = (simd.load(sums, row * width + j, lanes) for row in range(4))
        offset = total / weight
        mean, mean_low = add_low(shift, 0.0, offset)
        within = simd.max(squares - total * offset, 0.0)
        lost = unit * simd.sqrt(weight) * simd.sqrt(squares)
        error = unit * squares + 2.0 * simd.abs(offset) * lost
        zero = simd.full_like(shift, 0.0)
        block = Sums(weight, mean, mean_low, within, zero, count_unit * weight, lost, error)
        panel = Sums(*(simd.load(state, row * width + j, lanes) for row in SUMS))
        for row, value in zip(SUMS, joined(panel, block), strict=True):
            simd.store(state, row * width + j, value)

    simd.loop_steps(first, last, (simd.native_lanes(np.float64), 1), columns)


@inner_kernel
def _relative_error(weights: Array, row: int, stop: int) -> float:
    """Return the relative error of the sum of a block's weights; sums of whole numbers are exact."""
    for i in range(row, stop):
        if weights[i] != math.floor(weights[i]) or weights[i] >= WHOLE:
            return UNIT * (stop - row + STEPS)
    return 0.0


# ----------------------------------------------------------------------------------------------
# Panels
# ----------------------------------------------------------------------------------------------


@inner_kernel
def _panel(
    x: Array, weights: Array | None, omit: bool, extremes: bool, one: float, begin: int, end: int, first: int,
    last: int, sums: Array, ends: Array, state: Array,
) -> None:  # fmt: skip
    """Gather the moments of the rows [begin, end) of the columns [first, last)."""
    width = x.shape[1]
    distance = max(4, PREFETCH_DISTANCE // ((last - first) * x.itemsize)) * width
    for j in range(first, last):
        ends[0, j] = math.inf
        ends[1, j] = -math.inf
    for row in range(begin, end, BLOCK):
        stop = min(row + BLOCK, end)
        if weights is None:
            _open_block(x, width, row, stop, first, last, sums)
            if row == begin:
                for j in range(first, last):
                    state[MEAN, j] = sums[SHIFT, j]
        else:
            _open_weighted_block(x, weights, row, stop, first, last, sums)
        _add_rows(x, width, row, stop, first, last, distance, weights, omit, extremes, one, sums, ends)
        if weights is None:
            _close_block(sums, state, width, float(row - begin), float(stop - row), first, last)
        else:
            unit, count_unit = UNIT * (stop - row + STEPS), _relative_error(weights, row, stop)
            _close_weighted_block(sums, state, width, unit, count_unit, first, last)
    for j in range(first, last):
        state[MIN, j] = ends[0, j]
        state[MAX, j] = ends[1, j]


@parallel_kernel
def _panels(
    x: Array, weights: Array | None, omit: bool, extremes: bool, one: float, rows: int, tile: int, sums:
    Array, ends: Array, states: Array,
) -> None:  # fmt: skip
    """Gather the moments of every panel of `rows` rows; states[p] belongs to panel p."""
    n, width = x.shape
    tiles = (width + tile - 1) // tile
    for task in prange(states.shape[0] * tiles):
        p = task // tiles
        first = (task - p * tiles) * tile
        begin, last = p * rows, min(first + tile, width)
        end = min(begin + rows, n)
        _panel(x, weights, omit, extremes, one, begin, end, first, last, sums[p], ends[p], states[p])


# ----------------------------------------------------------------------------------------------
# From arrays to states
# ----------------------------------------------------------------------------------------------


class Options(NamedTuple):
    """How data are read."""

    omit: bool = False  # leave NaN out
    extremes: bool = True  # keep minimum and maximum


def _gather_rows(x: Array, weights: Array | None, options: Options, state: Array) -> None:
    """Join a C-contiguous array to `state`; it may hold several rows of the data in each of its own."""
    n, width = x.shape
    bound = max(1, SCRATCH // (8 * (ROWS + 6) * width))
    panels = min(PANELS, bound, -(-n // BLOCK))
    rows = -(-n // panels)
    rows += -rows % FEW
    panels = -(-n // rows)
    sums = np.empty((panels, 4, width))
    ends = np.empty((panels, 2, width), x.dtype)
    fresh = panels == 1 and width == state.shape[1] and not state[COUNT].any()
    states = state[np.newaxis] if fresh else np.empty((panels, ROWS, width))
    if not fresh:
        states[:] = empty_state(1)
    _panels(x.size, x, weights, options.omit, options.extremes, 1.0, rows, TILE, sums, ends, states)
    if not fresh:
        join_panels(states, state)
    if not options.extremes:
        state[[MIN, MAX]] = math.nan


def _gather_dense(x: Array, weights: Array | None, options: Options, state: Array) -> None:
    """Join a C-contiguous array to `state`, several rows at a time if it is narrow."""
    n, features = x.shape
    if weights is not None or options.omit:
        for start in range(0, n, PART):
            rows = x[start : start + PART]
            part = np.ones(len(rows)) if weights is None else weights[start : start + len(rows)]
            _gather_rows(rows, part, options, state)
        return
    several = rows_in_one(features)
    whole = n - n % several
    if several > 1 and whole >= several * BLOCK:
        _gather_rows(x[:whole].reshape(whole // several, several * features), None, options, state)
        x = x[whole:]
    if len(x):
        _gather_rows(x, None, options, state)


def gather(x: Array, weights: Array | None, options: Options, state: Array) -> None:
    """Join the rows of a two-dimensional array of real numbers to `state`, without copying it whole.

    Parameters
    ----------
    x : ndarray of shape (n_samples, n_features)
        Of any type and layout.
    weights : ndarray of shape (n_samples,), float64, or None
    options : Options
    state : ndarray of shape (10, n_features), float64
        Changed.

    Examples
    --------
    >>> state = empty_state(1)
    >>> gather(np.array([[1], [4]], np.uint8), None, Options(), state)
    >>> state[MEAN]
    array([2.5])
    """
    if is_ready(x):
        _gather_dense(_check.readable(x), weights, options, state)
    elif len(x) >= 1 << 14 and is_ready(x.T):
        # In Fortran order every feature is an array of one column.
        columns = _check.readable(x.T)
        for j in range(x.shape[1]):
            single = np.ascontiguousarray(state[:, j : j + 1])
            _gather_dense(columns[j].reshape(-1, 1), weights, options, single)
            state[:, j : j + 1] = single
    else:
        for begin, rows in converted(x, target_dtype(x.dtype)):
            part = None if weights is None else weights[begin : begin + len(rows)]
            _gather_dense(rows, part, options, state)


def assumed_errors(state: Array) -> tuple[Array, Array, Array]:
    """Return bounds of the errors of statistics that come without: those of the worst data, read at once.

    Parameters
    ----------
    state : ndarray of shape (10, n_features), float64

    Returns
    -------
    count_error, sum_error, m2_error : ndarray of shape (n_features,), float64

    Examples
    --------
    >>> state = empty_state(1)
    >>> state[COUNT] = 4.0
    >>> assumed_errors(state)[0]
    array([0.])
    """
    unit = UNIT * (BLOCK / 2 + STEPS)
    squares = (1 + BLOCK / FEW) * (state[M2] + state[M2_LOW])  # see the module's text
    whole = state[COUNT] == np.floor(state[COUNT])
    count_error = np.where(whole, 0.0, 2.0 * unit * state[COUNT])
    return count_error, unit * np.sqrt(state[COUNT]) * np.sqrt(squares), 3.0 * unit * squares
