"""The moments of an array: blocks of rows, panels of blocks, and the threads.

A block of 512 rows is read once.  The mean c of its first eight rows is the shift: with d = x - c, formed in
float64 whatever the data's type, the block's mean is c + sum(d)/n and its sum of squared deviations is
sum(d^2) - sum(d)^2/n.  The subtraction magnifies rounding by 1 + (mean - c)^2/var.  That is about 9/8 for
data in no particular order, and because c is a mean of the block's own values it is never more than 1 + n/8 =
65, however far the data lie from zero and whatever their order.

How far off the sums can be
---------------------------
With u = 2^-53, n rows and S = sum(d^2), a sum over a block's d is off by at most U sqrt(n S), and that over
d^2 by U S, where U = u (5n/8 + 16): two chains of additions, which are added up after eight rows, and the
rounding of each term.

How they stay fast
------------------
Eight rows at a time are added to sums that live in the nearest caches, while the next ones are prefetched.
Several rows of a narrow array are read as one wide row, so that vectors are full and rows are long; the
groups are joined at the end.  Panels of blocks are assigned to the threads by their number alone: the same
bits for any number of threads.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from numba import prange, types

from nbnorm import _check, simd
from nbnorm.compile.kernels import inner_kernel, linked_kernel, parallel_kernel
from nbnorm.compile.pointers import address, call
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
ADDITIONS = 5 / 8  # roundings of a sum, for each row: two chains, which are added up after each strip
STEPS = 16  # roundings of a term, or of the join of a block, with some to spare

PANELS = 24  # most partial results: divided evenly by most numbers of threads, joined in no time
TILE = 1024  # columns whose sums fit into the first cache
SCRATCH = 6 << 20  # bytes of partial results
PART = 1 << 17  # rows of weighted data that are read at a time

WHOLE = 2.0**44  # of weights below it, 512 have an exact sum if they are whole numbers

STRIP = 8  # rows that are added to the sums of a few columns while these stand in registers

# Columns of a row that is read at once, of data that come from memory, and of what a cache holds.
STREAM, CACHED = 240, 128

PADDING = 24  # columns behind each row of the sums, so that these do not share a set either

# ----------------------------------------------------------------------------------------------
# Rows
# ----------------------------------------------------------------------------------------------


def _lanes(dtype: Any) -> tuple[int, ...]:
    """Return how many columns are summed up side by side: those whose sums fit into registers, or fewer."""
    doubles = simd.native_lanes(np.float64)
    most = max(simd.native_lanes(dtype), doubles * (2 if simd.target().registers >= 32 else 1))
    return (most, doubles, 1) if most > doubles else (most, 1)


def _position(row: Any, j: Any, width: Any) -> Any:
    """Return where an element of a row of the sums, or of the extremes, stands."""
    return row * (width + PADDING) + j


@simd.traced
def _add_rows(
    x: Any, width: Any, begin: Any, end: Any, first: Any, last: Any, weights: Any, omit: Any, one: Any,
    sums: Any, ends: Any,
) -> None:  # fmt: skip
    """Add the rows [begin, end) of the columns [first, last) to the sums of a block.

    Without weights all are 1, and none is missing.  With them, NaN is left out if `omit`, and a row of weight
    0 does not exist.  `one` is 1, which the compiler must not know.  Rows are added in turn to two chains of
    additions, which need not wait for each other.  Extremes are looked for unless `ends` is None.

    The processor's own prefetching does not follow several rows, so the strip after the next is prefetched
    while one is read: into the second cache, because the first cannot hold so much beside the sums.
    """
    item = x.dtype.itemsize
    keys = (SUM, SQUARES) if weights is None else (SUM, SQUARES, WEIGHT)

    def add(several: int, i: Any, j: Any, lanes: int) -> None:
        """Add so many rows of so many columns."""

        def get(row: int) -> Any:
            return simd.load(sums, _position(row, j, width), lanes)

        shift = get(SHIFT)
        if ends is not None:
            low, high = (simd.load(ends, _position(row, j, width), lanes) for row in (0, 1))
        zero = simd.zeros(np.float64, lanes)
        totals = [[get(key), zero] for key in keys]
        for k in range(several):
            if several > 1 and lanes > 1:
                simd.prefetch(x, (i + k + 2 * STRIP) * width + j, lanes * item, level=2)
            value = simd.load(x, (i + k) * width + j, lanes)
            if ends is None:  # extremes take the whole vector anyway
                value = simd.in_register(value)
            d = simd.convert(value, np.float64) - shift
            terms = [(d, one), (d, d)]
            if weights is not None:
                weight = simd.get(weights, i + k)
                valid = ((value == value) | (omit == 0)) & (weight > 0.0)
                d, mass = simd.where(valid, d, 0.0), simd.where(valid, weight, 0.0)
                terms = [(mass, d), (mass * d, d), (mass, one)]
            if ends is not None:
                below, above = value < low, value > high
                if weights is not None:
                    below, above = below & valid, above & valid
                low, high = simd.where(below, value, low), simd.where(above, value, high)
            # a sum as d * 1 + sum: the multipliers have time to spare, the adders have none
            for chains, (a, b) in zip(totals, terms, strict=True):
                chains[k % 2] = simd.fma(a, b, chains[k % 2])
        for key, (total, more) in zip(keys, totals, strict=True):
            simd.store(sums, _position(key, j, width), total + more if several > 1 else total)
        if ends is not None:
            simd.store(ends, _position(0, j, width), low)
            simd.store(ends, _position(1, j, width), high)

    def rows(i: Any, several: int) -> None:
        simd.loop_steps(first, last, _lanes(x.dtype), lambda j, lanes: add(several, i, j, lanes))

    simd.loop_steps(begin, end, (STRIP, 1), rows)


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
            simd.store(sums, _position(SHIFT, j, width), simd.where(mean - mean == 0.0, mean, 0.0))
            for key in (SUM, SQUARES):
                simd.store(sums, _position(key, j, width), simd.zeros(np.float64, lanes))

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
    unit, join = (rows * ADDITIONS + STEPS) * UNIT, STEPS * UNIT  # relative errors of the sums, and of a join
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
        block = _Block(*(simd.load(sums, _position(row, j, width), lanes) for row in (SHIFT, SUM, SQUARES)))
        panel = Sums(*(simd.load(state, row * width + j, lanes) for row in SUMS))
        for row, value in zip(SUMS, _closed(block, rows, panel, before), strict=True):
            simd.store(state, row * width + j, value)

    simd.loop_steps(first, last, (simd.native_lanes(np.float64), 1), columns)


@linked_kernel
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
        positions = (_position(row, j, width) for row in range(4))
        shift, total, squares, weight = (simd.load(sums, at, lanes) for at in positions)
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


@linked_kernel
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
    x: Array, weights: Array | None, omit: bool, one: float, begin: int, end: int, first: int, last: int,
    sums: Array, ends: Array | None, state: Array,
) -> None:  # fmt: skip
    """Gather the moments of the rows [begin, end) of the columns [first, last)."""
    width = x.shape[1]
    if ends is not None:
        for j in range(first, last):
            ends[0, j] = math.inf
            ends[1, j] = -math.inf
    for row in range(begin, end, BLOCK):
        stop = simd.min(row + BLOCK, end)
        if weights is None:
            _open_block(x, width, row, stop, first, last, sums)
            if row == begin:
                for j in range(first, last):
                    state[MEAN, j] = sums[SHIFT, j]
        else:
            _open_weighted_block(x, weights, row, stop, first, last, sums)
        _add_rows(x, width, row, stop, first, last, weights, omit, one, sums, ends)
        if weights is None:
            _close_block(sums, state, width, float(row - begin), float(stop - row), first, last)
        else:
            unit, count_unit = UNIT * (stop - row + STEPS), _relative_error(weights, row, stop)
            _close_weighted_block(sums, state, width, unit, count_unit, first, last)
    if ends is not None:
        for j in range(first, last):
            state[MIN, j] = ends[0, j]
            state[MAX, j] = ends[1, j]


@functools.cache
def _panel_kernel(dtype: np.dtype[Any], weighted: bool, extremes: bool) -> int:
    """Return the address of `_panel`, which is compiled once for the serial and the parallel loop."""
    scalar, whole, table = numba.from_dtype(dtype), types.int64, types.float64[:, ::1]
    weights = types.float64[::1] if weighted else types.none
    ends = scalar[:, ::1] if extremes else types.none
    return address(
        _panel, scalar[:, ::1], weights, types.boolean, types.float64, whole, whole, whole, whole, table,
        ends, table,
    )  # fmt: skip


@parallel_kernel
def _panels(
    panel: int, x: Array, weights: Array | None, omit: bool, one: float, rows: int, tile: int, sums: Array,
    ends: Array | None, states: Array,
) -> None:  # fmt: skip
    """Gather the moments of panels of `rows` rows; states[p] belongs to panel p, `panel` is the kernel."""
    n, width = x.shape
    tiles = (width + tile - 1) // tile
    for task in prange(states.shape[0] * tiles):
        p = np.int64(task) // tiles
        first = (np.int64(task) - p * tiles) * tile
        begin, last = p * rows, simd.min(first + tile, width)
        end = simd.min(begin + rows, n)
        if ends is None:
            call(panel, x, weights, omit, one, begin, end, first, last, sums[p], None, states[p])
        else:
            call(panel, x, weights, omit, one, begin, end, first, last, sums[p], ends[p], states[p])


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
    sums = np.empty((panels, 4, width + PADDING))
    ends = np.empty((panels, 2, width + PADDING), x.dtype) if options.extremes else None
    fresh = panels == 1 and width == state.shape[1] and not np.count_nonzero(state[COUNT])
    states = state[np.newaxis] if fresh else np.empty((panels, ROWS, width))
    if not fresh:
        states[:] = empty_state(1)
    panel = _panel_kernel(x.dtype, weights is not None, options.extremes)
    _panels(x.size, panel, x, weights, options.omit, 1.0, rows, TILE, sums, ends, states)
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
    for columns, least in ((STREAM, BLOCK * PANELS // 2), (CACHED, BLOCK)):
        if x.size < columns * least:
            continue  # too few rows, however many are read as one
        several = rows_in_one(features, columns)
        whole = n - n % several
        if several > 1 and whole >= several * least:
            _gather_rows(x[:whole].reshape(whole // several, several * features), None, options, state)
            x = x[whole:]
            break
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
    unit = UNIT * (BLOCK * ADDITIONS + STEPS)
    squares = (1 + BLOCK / FEW) * (state[M2] + state[M2_LOW])  # see the module's text
    whole = state[COUNT] == np.floor(state[COUNT])
    count_error = np.where(whole, 0.0, 2.0 * unit * state[COUNT])
    return count_error, unit * np.sqrt(state[COUNT]) * np.sqrt(squares), 3.0 * unit * squares
