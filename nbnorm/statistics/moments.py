"""Count, mean and sum of squared deviations of every feature, in one read of the data.

How the numbers stay right
--------------------------
A block of 512 rows is read once.  The mean c of its first eight rows is the shift: with d = x - c, formed
in float64 whatever the data's type, the block's mean is c + sum(d)/n and its sum of squared deviations is
sum(d^2) - sum(d)^2/n.  The subtraction magnifies rounding by 1 + (mean - c)^2/var.  That is about 9/8 for
data in no particular order, and because c is a mean of the block's own values it is never more than
1 + n/8 = 65, however far the data lie from zero and whatever their order.  Blocks are joined by the update
of Chan, Golub and LeVeque [1]_, with every mean and every sum of squares held as an unevaluated sum of two
doubles, so that neither the number nor the grouping of joins shows in the result.

How far off they can be
-----------------------
Beside the sums stands a bound of their rounding errors, carried to first order through every join and every
part that is taken away.  With u = 2^-53, n rows and S = sum(d^2), a sum over a block's d is off by
at most U sqrt(n S), and that over d^2 by U S, where U = u (n/2 + 16): two chains of additions, and the
rounding of each term.  While data are only added, the bound stays far below the sums.  Where parts are taken
away the sums shrink and the bound grows, and what is no longer good to ten digits is refused.

How they stay fast
------------------
A few rows at a time are added into accumulators that live in the first cache, sixteen features to a
vector, while rows further on are already asked for.  Several rows of a narrow array are read as one wide
row, so that the vectors are full; the groups are joined at the end.  Panels of blocks are shared out to the
threads by position alone: the same bits for any number of threads.

References
----------
.. [1] T. F. Chan, G. H. Golub, R. J. LeVeque, "Algorithms for computing the sample variance: analysis and
   recommendations", The American Statistician 37 (1983) 242-247.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import config as numba_config
from numba import prange, types
from numba.core import cgutils as numba_cgutils
from numba.extending import intrinsic as numba_intrinsic

from nbnorm import _check
from nbnorm.compile.emission import Emitted, emit_prefetch, emit_splat, emit_sqrt
from nbnorm.compile.kernels import inner_kernel, kernel, parallel_kernel

# Rows of a state: what is known of every feature.
# COUNT_ERROR, SUM_ERROR and M2_ERROR bound the errors of the count, of count * mean and of M2.
COUNT, MEAN, MEAN_LOW, M2, M2_LOW, MIN, MAX, COUNT_ERROR, SUM_ERROR, M2_ERROR = range(10)
ROWS = 10
# Rows of the accumulators of a block.
SHIFT, SUM, SQUARES, WEIGHT = range(4)

BLOCK = 512  # rows between two joins
FEW = 8  # rows whose mean is the shift of a block
PANELS = 24  # most partial results: divided evenly by most numbers of threads, joined in no time
TILE = 1024  # columns whose accumulators fit into the first cache
WIDE = 128  # columns from which vectors are full
CHUNK = 1 << 20  # bytes that are converted at a time
SCRATCH = 6 << 20  # bytes of partial results

UNIT = 2.0**-53  # relative error of one rounding
_WHOLE = 2.0**44  # of weights below it, 512 have an exact sum if they are whole numbers
_PAIR = 2.0**-98  # relative error of a join of two states, in pairs of doubles, of what goes into it
STEPS = 16  # roundings of a term, or of the join of a block, with some to spare

Array = npt.NDArray[Any]

# Without type hints of their own.
config: Any = numba_config
cgutils: Any = numba_cgutils
intrinsic: Any = numba_intrinsic

# ----------------------------------------------------------------------------------------------
# The innermost loop
# ----------------------------------------------------------------------------------------------

_LANES = 16
# For elements of 4 and of 8 bytes: rows that are added at once, and bytes between what is read and what is
# asked for.  The processor's own prefetching does not follow several rows (measured: 7 GB/s a core without,
# 20 with).
_ROWS = {4: 4, 8: 2}
_AHEAD = {4: 32 << 10, 8: 16 << 10}


def _load(builder: Any, pointer: Any, scalar: Any, lanes: int, size: int) -> Any:
    if lanes == 1:
        return builder.load(pointer, align=size)
    kind = ir.VectorType(scalar, lanes)
    return builder.load(builder.bitcast(pointer, kind.as_pointer()), align=size)


def _store(builder: Any, value: Any, pointer: Any, lanes: int, size: int) -> None:
    if lanes > 1:
        pointer = builder.bitcast(pointer, value.type.as_pointer())
    builder.store(value, pointer, align=size)


class _Rows(NamedTuple):
    """What the innermost loop works on; every pointer is that of the first column."""

    x: Any
    sums: Any
    ends: Any
    scalar: Any  # type of an element of x
    stride: Any  # distance between two rows of x
    width: Any  # distance between two rows of sums and of ends
    span: Any  # number of columns
    one: Any  # the number 1, which the compiler must not know
    weights: Any = None  # pointer to the weights of the rows
    omit: Any = None  # whether NaN is left out


def _emit_columns(builder: Any, given: _Rows, rows: int, extremes: bool) -> None:
    """Emit the loops over columns that add `rows` rows: vectors first, then single columns."""
    word = ir.IntType(64)
    double = ir.DoubleType()
    scalar = given.scalar
    size = 4 if isinstance(scalar, ir.FloatType) else 8
    whole = builder.and_(given.span, ir.Constant(word, -_LANES))
    kept = [SUM, SQUARES] + ([WEIGHT] if given.weights is not None else [])
    for lanes, begin, end in ((_LANES, ir.Constant(word, 0), whole), (1, whole, given.span)):
        wide = double if lanes == 1 else ir.VectorType(double, lanes)
        with cgutils.for_range_slice(builder, begin, end, ir.Constant(word, lanes), word) as (column, _):

            def place(base: Any, row: int, step: Any, column: Any = column) -> Any:
                offset = builder.mul(ir.Constant(word, row), step)
                return builder.gep(base, [builder.add(offset, column)])

            shift = _load(builder, place(given.sums, SHIFT, given.width), double, lanes, 8)
            one = emit_splat(builder, given.one, lanes)
            if extremes:
                low = _load(builder, place(given.ends, 0, given.width), scalar, lanes, size)
                high = _load(builder, place(given.ends, 1, given.width), scalar, lanes, size)
            # Two chains for each sum: enough to hide the latency, few enough to stay in registers.
            chains = {
                key: [_load(builder, place(given.sums, key, given.width), double, lanes, 8)] for key in kept
            }
            for row in range(rows):
                pointer = place(given.x, row, given.stride)
                value = _load(builder, pointer, scalar, lanes, size)
                if lanes > 1:
                    emit_prefetch(builder, pointer, lanes * size, ahead=_AHEAD[size], level=2)
                valid = None
                if given.weights is not None:
                    weight = builder.load(builder.gep(given.weights, [ir.Constant(word, row)]))
                    counted = builder.fcmp_ordered(">", weight, ir.Constant(double, 0.0))
                    weight = emit_splat(builder, weight, lanes)
                    present = builder.fcmp_ordered("ord", value, value)
                    present = builder.or_(present, emit_splat(builder, builder.not_(given.omit), lanes))
                    valid = builder.and_(present, emit_splat(builder, counted, lanes))
                if extremes:
                    below = builder.fcmp_ordered("<", value, low)
                    above = builder.fcmp_ordered(">", value, high)
                    if valid is not None:
                        below, above = builder.and_(below, valid), builder.and_(above, valid)
                    low = builder.select(below, value, low)
                    high = builder.select(above, value, high)
                if size == 4:
                    value = builder.fpext(value, wide)
                # x * 1 - shift: the multipliers have time to spare, the adders have none.
                d = builder.fmul(value, one, flags=("contract",))
                d = builder.fsub(d, shift, flags=("contract",))
                terms = {SUM: d}
                scaled = d
                if valid is not None:
                    zero = ir.Constant(wide, None)
                    d = builder.select(valid, d, zero)
                    weight = builder.select(valid, weight, zero)
                    scaled = builder.fmul(d, weight)
                    terms = {SUM: scaled, WEIGHT: weight}
                terms[SQUARES] = builder.fmul(scaled, d, flags=("contract",))
                for key, term in terms.items():
                    if len(chains[key]) <= row % 2:
                        chains[key].append(term)
                    else:
                        chains[key][row % 2] = builder.fadd(chains[key][row % 2], term, flags=("contract",))
            for key in kept:
                total = chains[key][0]
                if len(chains[key]) == 2:
                    total = builder.fadd(total, chains[key][1])
                _store(builder, total, place(given.sums, key, given.width), lanes, 8)
            if extremes:
                _store(builder, low, place(given.ends, 0, given.width), lanes, size)
                _store(builder, high, place(given.ends, 1, given.width), lanes, size)


def _emit_block(context: Any, builder: Any, signature: Any, args: Any, weighted: bool) -> Any:
    """Emit the loop over the rows of a block, several at a time and then one at a time."""
    word = ir.IntType(64)
    double = ir.DoubleType()
    x_type, sums_type, ends_type = signature.args[:3]
    x = context.make_array(x_type)(context, builder, args[0])
    sums = context.make_array(sums_type)(context, builder, args[1])
    ends = context.make_array(ends_type)(context, builder, args[2])
    begin, end, first, last = args[3:7]
    stride = cgutils.unpack_tuple(builder, x.shape)[1]
    cell = cgutils.alloca_once(builder, double)
    builder.store(ir.Constant(double, 1.0), cell).volatile = True
    one = builder.load(cell)
    one.volatile = True
    flag = builder.icmp_signed("!=", args[7], ir.Constant(word, 0))
    masses = context.make_array(signature.args[8])(context, builder, args[8]).data if weighted else None
    several = _ROWS[x_type.dtype.bitwidth // 8]
    middle = builder.add(begin, builder.and_(builder.sub(end, begin), ir.Constant(word, -several)))
    for rows, start, stop in ((several, begin, middle), (1, middle, end)):
        with cgutils.for_range_slice(builder, start, stop, ir.Constant(word, rows), word) as (row, _):
            given = _Rows(
                x=builder.gep(x.data, [builder.add(builder.mul(row, stride), first)]),
                sums=builder.gep(sums.data, [first]),
                ends=builder.gep(ends.data, [first]),
                scalar=context.get_data_type(x_type.dtype),
                stride=stride,
                width=cgutils.unpack_tuple(builder, sums.shape)[1],
                span=builder.sub(last, first),
                one=one,
            )
            if weighted:
                given = given._replace(weights=builder.gep(masses, [row]), omit=flag)
                _emit_columns(builder, given, rows, True)
            else:
                with builder.if_else(flag) as (then, otherwise):
                    with then:
                        _emit_columns(builder, given, rows, True)
                    with otherwise:
                        _emit_columns(builder, given, rows, False)
    return context.get_dummy_value()


def _emit_open(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    """Emit the loops over columns that set up a block: its shift, and zeros."""
    word = ir.IntType(64)
    double = ir.DoubleType()
    x_type = signature.args[0]
    scalar = context.get_data_type(x_type.dtype)
    size = 4 if isinstance(scalar, ir.FloatType) else 8
    x = context.make_array(x_type)(context, builder, args[0])
    sums = context.make_array(signature.args[1])(context, builder, args[1])
    row, stop, first, last = args[2:]
    stride = cgutils.unpack_tuple(builder, x.shape)[1]
    width = cgutils.unpack_tuple(builder, sums.shape)[1]
    middle = builder.add(first, builder.and_(builder.sub(last, first), ir.Constant(word, -_LANES)))

    def emit_loops(rows: int) -> None:
        for lanes, begin, end in ((_LANES, first, middle), (1, middle, last)):
            wide = double if lanes == 1 else ir.VectorType(double, lanes)
            with cgutils.for_range_slice(builder, begin, end, ir.Constant(word, lanes), word) as (column, _):
                total = ir.Constant(wide, None)
                for k in range(rows):
                    offset = builder.mul(builder.add(row, ir.Constant(word, k)), stride)
                    pointer = builder.gep(x.data, [builder.add(offset, column)])
                    value = _load(builder, pointer, scalar, lanes, size)
                    value = builder.fpext(value, wide) if size == 4 else value
                    share = emit_splat(builder, ir.Constant(double, 1.0 / rows), lanes)
                    total = builder.fadd(total, builder.fmul(value, share))
                # Infinity and NaN are no shift; minus themselves they are not zero.
                finite = builder.fcmp_ordered("==", builder.fsub(total, total), ir.Constant(wide, None))
                total = builder.select(finite, total, ir.Constant(wide, None))
                for key, value in (
                    (SHIFT, total),
                    (SUM, ir.Constant(wide, None)),
                    (SQUARES, ir.Constant(wide, None)),
                ):
                    offset = builder.mul(ir.Constant(word, key), width)
                    pointer = builder.gep(sums.data, [builder.add(offset, column)])
                    _store(builder, value, pointer, lanes, 8)

    enough = builder.icmp_signed(">=", builder.sub(stop, row), ir.Constant(word, FEW))
    with builder.if_else(enough) as (then, otherwise):
        with then:
            emit_loops(FEW)
        with otherwise:
            emit_loops(1)
    return context.get_dummy_value()


class _Joint(NamedTuple):
    """What is joined: a block's accumulators, a panel's moments so far, and numbers for all columns."""

    shift: Any
    total: Any
    squares: Any
    mean: Any
    mean_low: Any
    m2: Any
    m2_low: Any
    sum_error: Any
    m2_error: Any
    rows: Any  # rows of the block
    inverse: Any  # 1 / rows of the block
    share: Any  # rows of the block / all rows
    rest: Any  # rows before / all rows
    factor: Any  # rows before * share
    unit: Any  # relative error of the block's sums
    join: Any  # relative error of a join
    two: Any
    zero: Any
    infinity: Any


def _numbers(before: Any, rows: Any, constant: Callable[[float], Any]) -> list[Any]:
    """Return the numbers of a `_Joint` that are the same for all columns."""
    total = before + rows
    share = rows / total
    unit = (rows * constant(0.5) + constant(STEPS)) * constant(UNIT)
    one, join = constant(1.0), constant(STEPS * UNIT)
    numbers = [rows, one / rows, share, before / total, before * share, unit, join]
    return [*numbers, constant(2.0), constant(0.0), constant(math.inf)]


def _closed(
    given: _Joint, where: Callable[[Any, Any, Any], Any], root: Callable[[Any], Any]
) -> tuple[Any, Any, Any, Any, Any, Any]:
    """Return mean and sum of squared deviations of a panel and a further block, as pairs, and error bounds.

    Written once, for arrays and for code that is being emitted: compiled from a plain loop it stays scalar,
    because too many rows of the accumulators might overlap, and takes a third of all the time.
    """
    zero, infinity = given.zero, given.infinity

    def two_sum(a: Any, b: Any) -> tuple[Any, Any]:
        total = a + b
        part = total - a
        return total, (a - (total - part)) + (b - part)

    def add_low(high: Any, low: Any, more: Any) -> tuple[Any, Any]:
        total, error = two_sum(high, more)
        error = error + low
        result = total + error
        rest = error - (result - total)
        # Infinite sums leave a NaN in the error terms, which is not the sum's.
        return finite(total, result, total), finite(total, rest, zero)

    def finite(value: Any, then: Any, otherwise: Any) -> Any:
        return where(value < infinity, where(zero - infinity < value, then, otherwise), otherwise)

    offset = given.total * given.inverse
    part = given.squares - given.total * offset
    part = where(part < zero, zero, part)
    high, error = two_sum(given.shift, zero - given.mean)
    delta = high + ((error - given.mean_low) + offset)
    mean, low = add_low(given.mean, given.mean_low, delta * given.share)
    # An infinite mean stays infinite; opposite infinities give NaN.
    mean, low = finite(mean, mean, given.mean + (given.shift + offset)), finite(mean, low, zero)
    m2, m2_low = add_low(given.m2, given.m2_low, part)
    between = delta * (delta * given.factor)
    m2, m2_low = add_low(m2, m2_low, between)

    def size(value: Any) -> Any:
        return where(value < zero, zero - value, value)

    lost = given.unit * root(given.rows * given.squares)  # of the sum of the block's deviations
    moved = size(delta)
    sum_error = given.sum_error + lost + given.join * (moved * given.rows)
    within = given.unit * given.squares + given.two * (size(offset) * lost)
    pull = given.two * (moved * (lost * given.rest + given.sum_error * given.share))
    m2_error = given.m2_error + within + pull + given.join * between
    return mean, low, m2, m2_low, sum_error, m2_error


_JOINED = (MEAN, MEAN_LOW, M2, M2_LOW, SUM_ERROR, M2_ERROR)  # what `_closed` takes of a state, and gives


def _emit_close(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    """Emit the loops over columns that join a block to its panel."""
    word = ir.IntType(64)
    double = ir.DoubleType()
    sums = context.make_array(signature.args[0])(context, builder, args[0])
    state = context.make_array(signature.args[1])(context, builder, args[1])
    before, count, first, last = args[2:]
    width = cgutils.unpack_tuple(builder, sums.shape)[1]

    def constant(value: float) -> Emitted:
        return Emitted(builder, ir.Constant(double, value))

    rows_before, rows_here = Emitted(builder, before), Emitted(builder, count)
    total = (rows_before + rows_here).value
    numbers = [number.value for number in _numbers(rows_before, rows_here, constant)]
    whole = builder.and_(builder.sub(last, first), ir.Constant(word, -_LANES))
    middle = builder.add(first, whole)
    for lanes, begin, end in ((_LANES, first, middle), (1, middle, last)):
        with cgutils.for_range_slice(builder, begin, end, ir.Constant(word, lanes), word) as (column, _):

            def place(array: Any, row: int, column: Any = column) -> Any:
                offset = builder.mul(ir.Constant(word, row), width)
                return builder.gep(array.data, [builder.add(offset, column)])

            def vector(value: Any) -> Emitted:
                return Emitted(builder, value)

            def where(condition: Any, then: Emitted, otherwise: Emitted) -> Emitted:
                return Emitted(builder, builder.select(condition, then.value, otherwise.value))

            def root(value: Emitted, lanes: int = lanes) -> Emitted:
                return Emitted(builder, emit_sqrt(builder, value.value, lanes))

            rows = [(sums, SHIFT), (sums, SUM), (sums, SQUARES)]
            rows += [(state, row) for row in _JOINED]
            loaded = [_load(builder, place(array, row), double, lanes, 8) for array, row in rows]
            splats = [emit_splat(builder, number, lanes) for number in numbers]
            given = _Joint._make(vector(value) for value in loaded + splats)
            results = [value.value for value in _closed(given, where, root)]
            for row, value in zip(_JOINED, results, strict=True):
                _store(builder, value, place(state, row), lanes, 8)
            _store(builder, emit_splat(builder, total, lanes), place(state, COUNT), lanes, 8)
    return context.get_dummy_value()


if config.DISABLE_JIT:

    def _add_rows(
        x: Array, sums: Array, ends: Array, begin: int, end: int, first: int, last: int, extremes: int
    ) -> None:
        """Add the rows [begin, end) of the columns [first, last) to the accumulators of a block."""
        part = x[begin:end, first:last]
        d = part.astype(np.float64) - sums[SHIFT, first:last]
        sums[SUM, first:last] += d.sum(axis=0)
        sums[SQUARES, first:last] += (d * d).sum(axis=0)
        if extremes:
            ends[0, first:last] = np.fmin(ends[0, first:last], np.fmin.reduce(part, axis=0))
            ends[1, first:last] = np.fmax(ends[1, first:last], np.fmax.reduce(part, axis=0))

    def _open_block(x: Array, sums: Array, row: int, stop: int, first: int, last: int) -> None:
        """Set the shift of the block [row, stop) to the mean of its first rows, and its sums to zero."""
        few = FEW if stop - row >= FEW else 1
        with np.errstate(invalid="ignore"):
            shift = (x[row : row + few, first:last].astype(np.float64) / few).sum(axis=0)
        sums[:3, first:last] = 0.0
        sums[SHIFT, first:last] = np.where(np.isfinite(shift), shift, 0.0)

    def _close_block(sums: Array, state: Array, before: float, count: float, first: int, last: int) -> None:
        """Join a block of `count` full rows to a panel that holds `before` rows."""
        part = slice(first, last)
        rows = [sums[row, part] for row in (SHIFT, SUM, SQUARES)]
        rows += [state[row, part] for row in _JOINED]
        given = _Joint._make([*rows, *_numbers(before, count, float)])
        with np.errstate(invalid="ignore", over="ignore"):
            for row, values in zip(_JOINED, _closed(given, np.where, np.sqrt), strict=True):
                state[row, part] = values
        state[COUNT, part] = before + count

    def _add_weighted_rows(
        x: Array,
        sums: Array,
        ends: Array,
        begin: int,
        end: int,
        first: int,
        last: int,
        omit: int,
        weights: Array,
    ) -> None:
        """Do the same with weights, leaving NaN out if `omit` is 1."""
        for row in range(begin, end):
            if weights[row] > 0.0:
                at = first + np.flatnonzero(~np.isnan(x[row, first:last]) | (omit == 0))
                d = x[row, at].astype(np.float64) - sums[SHIFT, at]
                sums[SUM, at] += weights[row] * d
                sums[SQUARES, at] += weights[row] * d * d
                sums[WEIGHT, at] += weights[row]
                ends[0, at] = np.fmin(ends[0, at], x[row, at])
                ends[1, at] = np.fmax(ends[1, at], x[row, at])

else:

    def _add_rows_typed(
        typing: Any, x: Any, sums: Any, ends: Any, begin: Any, end: Any, first: Any, last: Any, extremes: Any
    ) -> Any:
        """Add the rows [begin, end) of the columns [first, last) to the accumulators of a block."""

        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return _emit_block(context, builder, signature, args, False)

        word = types.int64
        return types.void(x, sums, ends, word, word, word, word, word), emit

    _add_rows = intrinsic(_add_rows_typed)

    def _open_block_typed(typing: Any, x: Any, sums: Any, row: Any, stop: Any, first: Any, last: Any) -> Any:
        """Set the shift of the block [row, stop) to the mean of its first rows, and its sums to zero."""
        word = types.int64
        return types.void(x, sums, word, word, word, word), _emit_open

    _open_block = intrinsic(_open_block_typed)

    def _close_block_typed(
        typing: Any, sums: Any, state: Any, before: Any, count: Any, first: Any, last: Any
    ) -> Any:
        """Join a block of `count` full rows to a panel that holds `before` rows."""
        real, word = types.float64, types.int64
        return types.void(sums, state, real, real, word, word), _emit_close

    _close_block = intrinsic(_close_block_typed)

    def _add_weighted_rows_typed(
        typing: Any,
        x: Any,
        sums: Any,
        ends: Any,
        begin: Any,
        end: Any,
        first: Any,
        last: Any,
        omit: Any,
        weights: Any,
    ) -> Any:
        """Do the same with weights, leaving NaN out if `omit` is 1."""

        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return _emit_block(context, builder, signature, args, True)

        word = types.int64
        return types.void(x, sums, ends, word, word, word, word, word, weights), emit

    _add_weighted_rows = intrinsic(_add_weighted_rows_typed)


# ----------------------------------------------------------------------------------------------
# Joining
# ----------------------------------------------------------------------------------------------


@kernel(inline="always")
def two_sum(a: float, b: float) -> tuple[float, float]:
    """Return the rounded sum of two doubles and its rounding error."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


@kernel(inline="always")
def _two_product(a: float, b: float) -> tuple[float, float]:
    """Return the rounded product of two doubles and its rounding error, by halves of their digits."""
    part = 134217729.0 * a  # 2^27 + 1
    a_high = part - (part - a)
    a_low = a - a_high
    part = 134217729.0 * b
    b_high = part - (part - b)
    b_low = b - b_high
    result = a * b
    return result, a_low * b_low - (((result - a_high * b_high) - a_low * b_high) - a_high * b_low)


@kernel(inline="always")
def _times(a: float, a_low: float, b: float, b_low: float) -> tuple[float, float]:
    """Return the product of two pairs."""
    result, error = _two_product(a, b)
    return result, error + (a * b_low + a_low * b)


@kernel(inline="always")
def _ratio(a: float, b: float) -> tuple[float, float]:
    """Return a / b as a pair."""
    result = a / b
    product, error = _two_product(result, b)
    return result, ((a - product) - error) / b


@kernel(inline="always")
def _add_low(high: float, low: float, more: float) -> tuple[float, float]:
    """Return the pair high + low + more, normalized; an infinite result has no low part."""
    total, error = two_sum(high, more)
    error += low
    result = total + error
    rest = error - (result - total)
    # Infinite sums leave a NaN in the error terms, which is not the sum's.
    finite = abs(total) < math.inf
    return (result if finite else total), (rest if finite else 0.0)


@kernel(inline="always")
def _join(
    state: Array,
    j: int,
    count: float,
    mean: float,
    mean_low: float,
    m2: float,
    m2_low: float,
    count_error: float,
    sum_error: float,
    m2_error: float,
) -> None:
    """Join the moments of a further part to feature `j` of `state`."""
    old = state[COUNT, j]
    if count > 0.0:
        if old == 0.0:
            state[COUNT, j] = count
            state[MEAN, j] = mean
            state[MEAN_LOW, j] = mean_low
            state[M2, j] = m2
            state[M2_LOW, j] = m2_low
            state[COUNT_ERROR, j] = count_error
            state[SUM_ERROR, j] = sum_error
            state[M2_ERROR, j] = m2_error
        else:
            total, lost = two_sum(old, count)
            before = state[MEAN, j]
            high, error = two_sum(mean, -before)
            delta, delta_low = two_sum(high, error + (mean_low - state[MEAN_LOW, j]))
            share, share_low = _ratio(count, total)
            step, step_low = _times(delta, delta_low, share, share_low)
            high, low = _add_low(before, state[MEAN_LOW, j] + step_low, step)
            finite = abs(high) < math.inf
            # An infinite mean stays infinite; opposite infinities give NaN.
            state[MEAN, j] = high if finite else before + mean
            state[MEAN_LOW, j] = low if finite else 0.0
            # delta^2 n_a n_b / n, beginning with what cannot overflow before the result does
            between, between_low = _times(step, step_low, old, 0.0)
            between, between_low = _times(between, between_low, delta, delta_low)
            high, low = _add_low(state[M2, j], state[M2_LOW, j] + between_low, between)
            high, low = _add_low(high, low + m2_low, m2)
            state[M2, j] = high
            state[M2_LOW, j] = low
            state[COUNT, j] = total
            # First order in the errors of both parts, and the rounding of the join itself.
            moved, size = abs(delta), max(abs(before), abs(mean))
            counts = state[COUNT_ERROR, j] / old + count_error / count
            pull = 2.0 * moved * (sum_error * (old / total) + state[SUM_ERROR, j] * share)
            state[M2_ERROR, j] += m2_error + pull + 2.0 * counts * between + _PAIR * state[M2, j]
            state[SUM_ERROR, j] += sum_error + moved * count * counts + _PAIR * total * size
            state[COUNT_ERROR, j] += count_error + abs(lost)


@kernel(inline="always")
def _join_extremes(state: Array, j: int, low: float, high: float) -> None:
    """Join minimum and maximum; NaN stands for unknown and stays."""
    if low < state[MIN, j] or low != low:
        state[MIN, j] = low
    if high > state[MAX, j] or high != high:
        state[MAX, j] = high


@kernel(inline="always")
def _join_column(state: Array, j: int, part: Array, k: int) -> None:
    """Join column `k` of another state to feature `j` of `state`."""
    _join(
        state,
        j,
        part[COUNT, k],
        part[MEAN, k],
        part[MEAN_LOW, k],
        part[M2, k],
        part[M2_LOW, k],
        part[COUNT_ERROR, k],
        part[SUM_ERROR, k],
        part[M2_ERROR, k],
    )
    _join_extremes(state, j, part[MIN, k], part[MAX, k])


@kernel
def merge_states(state: Array, other: Array) -> None:
    """Join `other` to `state`; both have shape (10, n_features)."""
    for j in range(state.shape[1]):
        _join_column(state, j, other, j)


@kernel
def subtract_states(state: Array, part: Array) -> None:
    """Take `part` away from `state`, of which it was a part: `merge_states` solved for the first."""
    for j in range(state.shape[1]):
        total = state[COUNT, j]
        count = part[COUNT, j]
        rest, lost = two_sum(total, -count)
        if count == 0.0:
            continue
        if rest <= 0.0:
            state[:, j] = 0.0
            state[MIN, j] = math.inf
            state[MAX, j] = -math.inf
            continue
        high, error = two_sum(part[MEAN, j], -state[MEAN, j])
        offset, offset_low = two_sum(high, error + (part[MEAN_LOW, j] - state[MEAN_LOW, j]))
        share, share_low = _ratio(count, rest)
        step, step_low = _times(offset, offset_low, share, share_low)
        high, low = _add_low(state[MEAN, j], state[MEAN_LOW, j] - step_low, -step)
        state[MEAN, j] = high
        state[MEAN_LOW, j] = low
        # The distance between the two parts' means is offset * total / rest.
        between, between_low = _times(step, step_low, total, 0.0)
        between, between_low = _times(between, between_low, offset, offset_low)
        whole = state[M2, j]
        high, low = _add_low(whole, state[M2_LOW, j] - part[M2_LOW, j], -part[M2, j])
        high, low = _add_low(high, low - between_low, -between)
        state[M2, j] = high
        state[M2_LOW, j] = low
        state[COUNT, j] = rest
        # The errors of both add up, whatever is taken away.
        moved, size = abs(offset), abs(part[MEAN, j]) + abs(state[MEAN, j])
        whole_error, part_error = state[COUNT_ERROR, j], part[COUNT_ERROR, j]
        rest_error = whole_error + part_error + abs(lost)
        counts = whole_error / total + part_error / count + rest_error / rest
        pull = 2.0 * moved * (part[SUM_ERROR, j] * (total / rest) + state[SUM_ERROR, j] * share)
        state[M2_ERROR, j] += part[M2_ERROR, j] + pull + counts * between + _PAIR * whole
        state[SUM_ERROR, j] += part[SUM_ERROR, j] + moved * count * counts + _PAIR * total * size
        state[COUNT_ERROR, j] = rest_error
        if rest == 1.0 and rest_error == 0.0:  # weights are whole numbers: one row, without deviation
            state[M2, j] = 0.0
            state[M2_LOW, j] = 0.0
            state[M2_ERROR, j] = 0.0
        # An extreme that the part did not share is still there; otherwise it is unknown.
        if not part[MIN, j] > state[MIN, j]:
            state[MIN, j] = math.nan
        if not part[MAX, j] < state[MAX, j]:
            state[MAX, j] = math.nan


@inner_kernel
def _close_weighted_block(
    sums: Array, first: int, last: int, unit: float, count_unit: float, state: Array
) -> None:
    """Join a block whose columns have weights of their own; the units are relative errors of the sums."""
    for j in range(first, last):
        weight = sums[WEIGHT, j]
        if weight > 0.0:
            total = sums[SUM, j]
            squares = sums[SQUARES, j]
            offset = total / weight
            mean, low = _add_low(sums[SHIFT, j], 0.0, offset)
            m2 = squares - total * offset
            m2 = m2 if m2 > 0.0 or m2 != m2 else 0.0
            lost = unit * math.sqrt(weight) * math.sqrt(squares)
            m2_error = unit * squares + 2.0 * abs(offset) * lost
            _join(state, j, weight, mean, low, m2, 0.0, count_unit * weight, lost, m2_error)


# ----------------------------------------------------------------------------------------------
# Panels
# ----------------------------------------------------------------------------------------------


@inner_kernel
def _panel(
    x: Array,
    extremes: int,
    begin: int,
    end: int,
    first: int,
    last: int,
    sums: Array,
    ends: Array,
    state: Array,
) -> None:
    """Gather the moments of the rows [begin, end) of the columns [first, last)."""
    for j in range(first, last):
        ends[0, j] = math.inf
        ends[1, j] = -math.inf
    for row in range(begin, end, BLOCK):
        stop = min(row + BLOCK, end)
        _open_block(x, sums, row, stop, first, last)
        if row == begin:
            for j in range(first, last):
                state[MEAN, j] = sums[SHIFT, j]
        _add_rows(x, sums, ends, row, stop, first, last, extremes)
        _close_block(sums, state, float(row - begin), float(stop - row), first, last)
    for j in range(first, last):
        state[MIN, j] = ends[0, j]
        state[MAX, j] = ends[1, j]


@inner_kernel
def _weighted_panel(
    x: Array,
    weights: Array,
    omit: int,
    begin: int,
    end: int,
    first: int,
    last: int,
    sums: Array,
    ends: Array,
    state: Array,
) -> None:
    """Do the same with weights, leaving NaN out if `omit` is 1; rows of weight 0 do not exist."""
    for j in range(first, last):
        ends[0, j] = math.inf
        ends[1, j] = -math.inf
    for row in range(begin, end, BLOCK):
        stop = min(row + BLOCK, end)
        unit = UNIT * (stop - row + STEPS)
        # Sums of whole numbers are exact.
        count_unit = 0.0
        for i in range(row, stop):
            if weights[i] != math.floor(weights[i]) or weights[i] >= _WHOLE:
                count_unit = unit
        for j in range(first, last):
            sums[SHIFT, j] = 0.0
            found = 0.0
            for i in range(row, stop):
                if weights[i] > 0.0 and math.isfinite(x[i, j]):
                    # a running mean, which cannot overflow
                    found += 1.0
                    sums[SHIFT, j] += (x[i, j] - sums[SHIFT, j]) / found
                    if found >= FEW:
                        break
            sums[SUM, j] = 0.0
            sums[SQUARES, j] = 0.0
            sums[WEIGHT, j] = 0.0
        _add_weighted_rows(x, sums, ends, row, stop, first, last, omit, weights)
        _close_weighted_block(sums, first, last, unit, count_unit, state)
    for j in range(first, last):
        state[MIN, j] = ends[0, j]
        state[MAX, j] = ends[1, j]


@parallel_kernel
def _panels(x: Array, extremes: int, rows: int, tile: int, sums: Array, ends: Array, states: Array) -> None:
    """Gather the moments of every panel of `rows` rows; states[p] belongs to panel p."""
    n, width = x.shape
    tiles = (width + tile - 1) // tile
    for task in prange(states.shape[0] * tiles):
        p = task // tiles
        first = (task - p * tiles) * tile
        begin = p * rows
        _panel(
            x,
            extremes,
            begin,
            min(begin + rows, n),
            first,
            min(first + tile, width),
            sums[p],
            ends[p],
            states[p],
        )


@parallel_kernel
def _weighted_panels(
    x: Array, weights: Array, omit: int, rows: int, tile: int, sums: Array, ends: Array, states: Array
) -> None:
    """Do the same with weights, leaving NaN out if `omit` is 1."""
    n, width = x.shape
    tiles = (width + tile - 1) // tile
    for task in prange(states.shape[0] * tiles):
        p = task // tiles
        first = (task - p * tiles) * tile
        begin = p * rows
        _weighted_panel(
            x,
            weights,
            omit,
            begin,
            min(begin + rows, n),
            first,
            min(first + tile, width),
            sums[p],
            ends[p],
            states[p],
        )


@kernel
def _join_panels(states: Array, state: Array) -> None:
    """Join the panels in order; a panel may hold several groups of columns for each feature."""
    features = state.shape[1]
    for p in range(states.shape[0]):
        panel = states[p]
        for start in range(0, panel.shape[1], features):
            for j in range(features):
                _join_column(state, j, panel, start + j)


# ----------------------------------------------------------------------------------------------
# From arrays to states
# ----------------------------------------------------------------------------------------------


def empty_state(n_features: int) -> Array:
    """Return the state of no data at all."""
    state = np.zeros((ROWS, n_features))
    state[MIN] = math.inf
    state[MAX] = -math.inf
    return state


def rows_in_one(n_features: int) -> int:
    """Return how many rows of a narrow array are read as one, so that whole vectors fill them."""
    if n_features >= 2 * WIDE:
        return 1
    step = _LANES // math.gcd(n_features, _LANES)
    return step * -(-WIDE // (step * n_features))


class Options(NamedTuple):
    """How data are read."""

    omit: bool = False  # leave NaN out
    extremes: bool = True  # keep minimum and maximum


def _gather(x: Array, weights: Array | None, options: Options, state: Array) -> None:
    """Join a C-contiguous array to `state`."""
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
    if weights is None:
        _panels(x.size, x, int(options.extremes), rows, TILE, sums, ends, states)
    else:
        _weighted_panels(x.size, x, weights, int(options.omit), rows, TILE, sums, ends, states)
    if not fresh:
        _join_panels(states, state)
    if not options.extremes:
        state[[MIN, MAX]] = math.nan


def _gather_dense(x: Array, weights: Array | None, options: Options, state: Array) -> None:
    """Join a C-contiguous array to `state`, several rows at a time if it is narrow."""
    n, features = x.shape
    if weights is not None or options.omit:
        for start in range(0, n, 1 << 17):
            rows = x[start : start + (1 << 17)]
            part = np.ones(len(rows)) if weights is None else weights[start : start + len(rows)]
            _gather(rows, part, options, state)
        return
    several = rows_in_one(features)
    whole = n - n % several
    if several > 1 and whole >= several * BLOCK:
        _gather(x[:whole].reshape(whole // several, several * features), None, options, state)
        x = x[whole:]
    if len(x):
        _gather(x, None, options, state)


def target_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type in which kernels read data of `dtype`: without loss where there is such a type."""
    exact = dtype.itemsize <= (4 if dtype.kind == "f" else 2)
    return np.dtype(np.float32) if exact else np.dtype(np.float64)


def converted(x: Array, dtype: np.dtype[Any]) -> Iterator[tuple[int, Array]]:
    """Yield (first row, C-contiguous rows of type `dtype`) of any real array, a small buffer at a time."""
    step = max(8, CHUNK // max(1, x.shape[1] * dtype.itemsize))
    buffer = np.empty((min(step, len(x)), x.shape[1]), dtype)
    for begin in range(0, len(x), step):
        rows = buffer[: min(step, len(x) - begin)]
        np.copyto(rows, x[begin : begin + step], casting="unsafe")
        yield begin, rows


def ready(x: Array) -> bool:
    """Whether kernels can read `x` where it lies."""
    return bool(x.dtype in _check.FLOATS and x.dtype.isnative and x.flags.aligned and x.flags.c_contiguous)


def gather(x: Array, weights: Array | None, options: Options, state: Array) -> None:
    """Join the rows of a two-dimensional array of real numbers to `state`, without copying it whole."""
    if ready(x):
        _gather_dense(_check.readable(x), weights, options, state)
    elif len(x) >= 1 << 14 and ready(x.T):
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


def _first_missing(x: Array, weights: Array | None) -> tuple[int, int] | None:
    """Return the place of the first NaN in a row that counts."""
    if x.dtype.kind != "f":
        return None
    step = max(1, CHUNK // max(1, x.shape[1] * x.dtype.itemsize))
    for start in range(0, len(x), step):
        missing = np.isnan(x[start : start + step])
        if weights is not None:
            missing &= (weights[start : start + step] > 0.0)[:, None]
        if missing.any():
            row, column = np.unravel_index(int(np.argmax(missing)), missing.shape)
            return start + int(row), int(column)
    return None


def _listed(values: Array) -> list[float | str]:
    """Return floats as JSON has them; what JSON has no number for becomes its name."""
    return [v if math.isfinite(v) else repr(v) for v in values.tolist()]


# Rows of a state.  Files of earlier versions lack the bounds of the errors.
_FIELDS = ("count", "mean", "mean_low", "m2", "m2_low", "min", "max")
_ERRORS = ("count_error", "sum_error", "m2_error")
_DIGITS = 1e-10  # relative error that a downdate may leave
_LEAST_VARIANCE = 1e-305  # below it, squares of deviations lose digits


def _assume_errors(state: Array) -> None:
    """Set the error bounds of statistics that come without: those of the worst data, read at once."""
    unit = UNIT * (BLOCK / 2 + STEPS)
    squares = (1 + BLOCK / FEW) * (state[M2] + state[M2_LOW])  # see the module's text
    whole = state[COUNT] == np.floor(state[COUNT])
    state[COUNT_ERROR] = np.where(whole, 0.0, 2.0 * unit * state[COUNT])
    state[SUM_ERROR] = unit * np.sqrt(state[COUNT]) * np.sqrt(squares)
    state[M2_ERROR] = 3.0 * unit * squares


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
    lost = ~np.isfinite(m2)
    for j in np.flatnonzero(lost) if lost.any() else ():
        values = column(int(j))
        if np.isfinite(values).all():
            label = repr(names[j]) if names else str(j)
            raise ValueError(
                f"{name} must have values whose variance is finite, but that of column {label} is not: "
                f"it has values up to {np.abs(values).max():g}; use a larger unit"
            )
    # Beside a larger mean, different values are too far apart for that.
    tiny = m2 < _LEAST_VARIANCE * state[COUNT]
    if not tiny.any():
        return
    for j in np.flatnonzero(tiny & (np.abs(state[MEAN]) < 1e-130)):
        values = column(int(j))
        if state[MEAN, j] == 0.0:  # nearly always a column of zeros
            values = values[:1024]
        if (values != values[:1]).any():
            label = repr(names[j]) if names else str(j)
            raise ValueError(
                f"{name} must have values whose variance is at least {_LEAST_VARIANCE:g}, but that of column "
                f"{label} is not: it has values up to {np.abs(values).max():g}; use a smaller unit"
            )


def _refuse_join(name: str, state: Array, parts: tuple[Array, Array], names: list[str] | None) -> None:
    """Refuse to join parts whose own moments are numbers where those of both together are not."""
    if (state[M2] >= _LEAST_VARIANCE * state[COUNT]).all() and np.isfinite(state[M2]).all():
        return
    a, b = parts
    both = (a[COUNT] > 0.0) & (b[COUNT] > 0.0)
    held = both & np.isfinite(a[M2]) & np.isfinite(b[M2]) & np.isfinite(a[MEAN]) & np.isfinite(b[MEAN])
    apart = (a[MEAN] != b[MEAN]) & (state[M2] < _LEAST_VARIANCE * state[COUNT])
    near = np.abs(state[MEAN]) < 1e-130
    for wrong, kind, unit in (
        (held & ~np.isfinite(state[M2]), "finite", "larger"),
        (held & apart & near, f"at least {_LEAST_VARIANCE:g}", "smaller"),
    ):
        if wrong.any():
            j = int(np.argmax(wrong))
            label = repr(names[j]) if names else str(j)
            raise ValueError(
                f"{name} must have values whose variance is {kind} together with the data before it, but "
                f"that of column {label} is not: use a {unit} unit"
            )


class Moments:
    """Count, mean and sum of squared deviations of every feature, in float64.

    Data are added by `update`, in parts of any size; parts are joined by `merge` or ``+``, exactly as if
    they had been read at once, and taken away again by `downdate` or ``-``.  With d_i = x_i - mean,

        mean = sum(w_i x_i) / sum(w_i),      var(ddof) = sum(w_i d_i^2) / (sum(w_i) - ddof),

    where every weight is 1 unless given.  The sums are never formed from squares of the data
    themselves: see the module's text for how, and for the error bound.

    Parameters
    ----------
    nan : {"propagate", "omit", "raise"}, default: "propagate"
        What a NaN does: make its feature's mean and variance NaN, count as missing in its feature, or raise.
    extremes : bool, default: True
        Whether minimum and maximum are kept too.

    Attributes
    ----------
    n_features : int or None
        None before the first data.
    count : int, float or ndarray of shape (n_features,)
        Sum of the weights; one number if it is the same for every feature.
    counts : ndarray of shape (n_features,), float64
        Sum of the weights of the values that are not missing, per feature.
    mean, min, max : ndarray of shape (n_features,), float64
        NaN where there are no values.  `min` and `max` pass over NaN.  After a `downdate` by a part that held
        an extreme, that extreme is unknown, also when data are added later: NaN.
    feature_names : list of str or None
        Names that the source of the data gave.  Further data that have names are taken by name.

    See Also
    --------
    moments : the moments of one array.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import Moments
    >>> m = Moments().update(np.array([[1.0, 10.0], [3.0, 10.0]]))
    >>> m.update(np.array([[5.0, 40.0]])).mean
    array([ 3., 20.])
    >>> m.var(ddof=1)
    array([  4., 300.])
    """

    _FORMAT = "nbnorm moments 1"

    def __init__(self, *, nan: str = "propagate", extremes: bool = True) -> None:
        self.nan: str = _check.choice("nan", nan, ("propagate", "omit", "raise"))
        self._extremes = _check.flag("extremes", extremes)
        self._state: Array | None = None
        self.feature_names: list[str] | None = None

    @property
    def _known(self) -> Array:
        if self._state is None:
            raise ValueError("there are no moments yet: call update with data first")
        return self._state

    @property
    def n_features(self) -> int | None:
        """Number of features, or None before the first data."""
        return None if self._state is None else self._state.shape[1]

    @property
    def counts(self) -> Array:
        """Sum of the weights of the values present, per feature."""
        counts: Array = self._known[COUNT].copy()
        return counts

    @property
    def count(self) -> Any:
        """Sum of the weights: one number if it is the same for every feature."""
        if self._state is None:
            return 0
        counts = self._state[COUNT]
        if (counts != counts[0]).any():
            return counts.copy()
        return int(counts[0]) if counts[0] == np.floor(counts[0]) else float(counts[0])

    @property
    def mean(self) -> Array:
        """Mean of every feature."""
        state = self._known
        return np.where(state[COUNT] > 0.0, state[MEAN] + state[MEAN_LOW], math.nan)

    @property
    def mean_low(self) -> Array:
        """What `mean`, rounded to float64, lacks: mean + mean_low is good to twice the digits."""
        state = self._known
        return np.where(state[COUNT] > 0.0, state[MEAN_LOW], 0.0)

    @property
    def min(self) -> Array:
        """Least value of every feature."""
        return self._extreme(MIN)

    @property
    def max(self) -> Array:
        """Greatest value of every feature."""
        return self._extreme(MAX)

    def _extreme(self, row: int) -> Array:
        state = self._known
        return np.where(state[MIN] > state[MAX], math.nan, state[row])  # NaN is not greater

    def var(self, ddof: float = 0) -> Array:
        """Return the variance of every feature.

        Parameters
        ----------
        ddof : float, default: 0
            What is taken off the count in the divisor: 0 for the population, 1 for the unbiased estimate.

        Returns
        -------
        ndarray of shape (n_features,), float64
            NaN where the count does not exceed `ddof`.

        Examples
        --------
        >>> import nbnorm
        >>> nbnorm.moments([[1.0], [2.0], [3.0]]).var(ddof=1)
        array([1.])
        """
        state = self._known
        ddof = _check.number("ddof", ddof, least=0.0)
        divisor = state[COUNT] - ddof
        divisor[divisor <= 0.0] = math.nan
        result: Array = (state[M2] + state[M2_LOW]) / divisor
        return result

    def std(self, ddof: float = 0) -> Array:
        """Return the standard deviation of every feature, the root of `var`.

        Parameters
        ----------
        ddof : float, default: 0
            As for `var`.

        Returns
        -------
        ndarray of shape (n_features,), float64

        Examples
        --------
        >>> import nbnorm
        >>> nbnorm.moments([[1.0], [2.0], [3.0]]).std(ddof=1)
        array([1.])
        """
        return np.sqrt(self.var(ddof))

    def update(self, x: Any, *, weights: npt.ArrayLike | None = None) -> Moments:
        """Add rows of data.

        Parameters
        ----------
        x : array_like of shape (n_samples, n_features), or SciPy sparse matrix
            Real numbers of any type, in any memory layout; read where they lie.
        weights : array_like of shape (n_samples,), optional
            Finite and not negative.  A weight of 2 is a row given twice, a weight of 0 a row left out.

        Returns
        -------
        Moments
            The object itself.

        Raises
        ------
        TypeError
            If `x` or `weights` do not hold real numbers.
        ValueError
            If the number of features differs from earlier data, a weight is negative or not finite, `x` is
            empty or has masked elements, or NaN was found with ``nan="raise"``.  Nothing is changed then.

        Examples
        --------
        >>> import nbnorm
        >>> nbnorm.Moments().update([[1.0], [4.0]], weights=[2, 1]).mean
        array([2.])
        """
        return self.add("x", x, weights)

    def add(self, name: str, x: Any, weights: npt.ArrayLike | None = None) -> Moments:
        """Do the same for an argument of another name, which errors use.

        Parameters
        ----------
        name : str
            Name of the argument.
        x, weights
            As for `update`.

        Returns
        -------
        Moments
            The object itself.

        Raises
        ------
        TypeError, ValueError
            As `update` does.

        Examples
        --------
        >>> import nbnorm
        >>> nbnorm.Moments().add("table", [[1.0], [4.0]]).mean
        array([2.5])
        """
        if is_sparse(x):
            from nbnorm.data.streams import gather_sparse

            self._adopt(name, gather_sparse(name, x, weights, self), None)
            return self
        data, names = _check.table(name, x, self.feature_names)
        _check.rank(name, data, 2)
        self.same_width(name, data.shape[1])
        mass = None if weights is None else _check.weights("weights", weights, len(data), some=False)
        state = empty_state(data.shape[1])
        gather(data, mass, Options(False, self._extremes), state)
        # Most data have no NaN, and the sums tell whether there was one; only then is it looked for.
        if self.nan == "omit" and np.isnan(state[M2]).any():
            state = empty_state(data.shape[1])
            gather(data, mass, Options(True, self._extremes), state)
        if self.nan == "raise" and np.isnan(state[M2]).any():
            place = _first_missing(data, mass)
            if place is not None:
                raise ValueError(
                    f"{name} must not hold NaN (nan='raise'), got one at [{place[0]}, {place[1]}]"
                )

        def counted(j: int) -> Array:
            values = data[:, j] if mass is None else data[mass > 0.0, j]
            return values[~np.isnan(values)] if self.nan == "omit" and values.dtype.kind == "f" else values

        refuse_range(name, state, self.feature_names or names, counted)
        self._adopt(name, state, names)
        return self

    def same_width(self, name: str, width: int) -> None:
        """Refuse an argument of another number of features than the data so far.

        Parameters
        ----------
        name : str
            Name of the argument.
        width : int
            Its number of features.

        Raises
        ------
        ValueError
            If it is another one.

        Examples
        --------
        >>> import nbnorm
        >>> nbnorm.moments([[1.0, 2.0]]).same_width("x", 2)
        """
        if self._state is not None and width != self._state.shape[1]:
            raise ValueError(
                f"{name} must have {self._state.shape[1]} features like the data before it, got {width}"
            )

    def _adopt(self, name: str, state: Array, names: list[str] | None) -> None:
        """Join a state, or leave everything as it was."""
        names = self.feature_names or names
        if self._state is not None:
            joined = self._state.copy()
            merge_states(joined, state)
            _refuse_join(name, joined, (self._state, state), names)
            state = joined
        self._state, self.feature_names = state, names

    def merge(self, other: Moments) -> Moments:
        """Join the moments of other data; the result does not depend on how parts were grouped.

        Parameters
        ----------
        other : Moments
            Left as it is.  Moments without data change nothing.

        Returns
        -------
        Moments
            The object itself.

        Raises
        ------
        TypeError
            If `other` is not a Moments.
        ValueError
            If the numbers or the names of the features differ, or float64 cannot hold the sum of squared
            deviations.  The order of names may differ.  Nothing is changed then.

        Notes
        -----
        With delta = mean_b - mean_a and n = n_a + n_b, after Chan, Golub and LeVeque:
        mean = mean_a + delta n_b / n and M2 = M2_a + M2_b + delta^2 n_a n_b / n.

        Examples
        --------
        >>> import nbnorm
        >>> a, b = nbnorm.moments([[1.0], [2.0]]), nbnorm.moments([[6.0]])
        >>> a.merge(b).mean
        array([3.])
        """
        state = self._comparable("other", other)
        if state is not None:
            self._adopt("other", state, other.feature_names)
        return self

    def _comparable(self, name: str, other: Moments) -> Array | None:
        """Return the state of other moments with the features in the order of these."""
        if not isinstance(other, Moments):
            raise TypeError(f"{name} must be a Moments, got {type(other).__name__}")
        state = other._state
        if state is None:
            return None
        names, others = self.feature_names, other.feature_names
        if names is not None and others is not None:
            order = _check.places(name, others, names)
            if order is not None:
                state = state[:, order]
        self.same_width(name, state.shape[1])
        return state.copy()

    def downdate(self, part: Moments) -> Moments:
        """Take away the moments of a part of the data: `merge` undone.

        Parameters
        ----------
        part : Moments
            Of rows that are among those gathered here.  Left as it is.

        Returns
        -------
        Moments
            The object itself.

        Raises
        ------
        TypeError
            If `part` is not a Moments.
        ValueError
            If the features differ, if `part` cannot be a part of these data, or if less than ten digits of
            what would remain were sure to be right.  Nothing is changed then.

        Notes
        -----
        A bound of the rounding errors is kept beside the sums.  What is taken away takes digits with it, but
        leaves its errors: after ``k`` updates and downdates the bound is the sum of all their errors.  It
        has to stay below 1e-10 of the sum of squared deviations, of the count, and for the mean of the
        larger one of mean and standard deviation.  Where it does not, gather the remaining data anew.

        A minimum or maximum that `part` held is unknown afterwards: NaN.

        Examples
        --------
        >>> import nbnorm
        >>> a, b = nbnorm.moments([[1.0], [2.0]]), nbnorm.moments([[6.0]])
        >>> (a + b).downdate(b).mean
        array([1.5])
        """
        taken = self._comparable("part", part)
        if taken is None:
            return self
        state = self._known.copy()
        labels = self.feature_names or part.feature_names
        self._refuse_no_part(state, taken, labels)
        subtract_states(state, taken)
        known = (state[COUNT] > 0.0) & (taken[COUNT] > 0.0) & np.isfinite(self._known[M2])
        count = np.where(known, state[COUNT], 1.0)
        deviations = state[M2] + state[M2_LOW]
        size = np.fmax(np.abs(state[MEAN]), np.sqrt(np.fmax(deviations, 0.0) / count))
        shares = state[COUNT_ERROR] / count
        good = state[M2_ERROR] + shares * deviations <= _DIGITS * deviations
        good &= (shares <= _DIGITS) & (state[SUM_ERROR] / count <= _DIGITS * size)
        lost = known & ~good
        if lost.any():
            j = int(np.argmax(lost))
            label = repr(labels[j]) if labels else str(j)
            raise ValueError(
                f"part cannot be taken away accurately: of the squared deviations of feature {label}, "
                f"{deviations[j]:g} of {self._known[M2, j]:g} would remain, with an error of up to "
                f"{state[M2_ERROR, j]:.1g}, so that ten digits are not sure to be right; gather the "
                f"remaining data anew, with Moments().update"
            )
        self._state = state
        return self

    @staticmethod
    def _refuse_no_part(state: Array, part: Array, labels: list[str] | None) -> None:
        """Refuse to take away what holds more, or something else, than there is."""
        present = part[COUNT] > 0.0
        for wrong, row, what in (
            (part[COUNT] > state[COUNT], COUNT, "it counts"),
            (present & (part[MIN] < state[MIN]), MIN, "it has a minimum of"),
            (present & (part[MAX] > state[MAX]), MAX, "it has a maximum of"),
        ):
            if wrong.any():
                j = int(np.argmax(wrong))
                label = repr(labels[j]) if labels else str(j)
                raise ValueError(
                    f"part must be a part of these data: {what} {part[row, j]:g} for feature {label}, "
                    f"where these have {state[row, j]:g}"
                )

    def __add__(self, other: Moments) -> Moments:
        if not isinstance(other, Moments):
            return NotImplemented
        return self.copy().merge(other)

    def __sub__(self, part: Moments) -> Moments:
        if not isinstance(part, Moments):
            return NotImplemented
        return self.copy().downdate(part)

    def copy(self) -> Moments:
        """Return an independent copy.

        Returns
        -------
        Moments
        """
        result = Moments(nan=self.nan, extremes=self._extremes)
        result._state = None if self._state is None else self._state.copy()
        result.feature_names = None if self.feature_names is None else list(self.feature_names)
        return result

    def to_dict(self) -> dict[str, Any]:
        """Return everything as numbers, strings and lists that JSON can hold without loss.

        Returns
        -------
        dict
            For `from_dict`.

        Examples
        --------
        >>> import nbnorm
        >>> m = nbnorm.moments([[1.0], [2.0]])
        >>> nbnorm.Moments.from_dict(m.to_dict()).mean
        array([1.5])
        """
        state = self._known
        return {
            "format": self._FORMAT,
            "nan": self.nan,
            "extremes": self._extremes,
            "n_features": state.shape[1],
            "feature_names": self.feature_names,
            **{name: _listed(row) for name, row in zip(_FIELDS + _ERRORS, state, strict=True)},
        }

    @classmethod
    def from_dict(cls, data: Any) -> Moments:
        """Return the moments that `to_dict` described, to the last bit.

        Parameters
        ----------
        data : dict

        Returns
        -------
        Moments

        Raises
        ------
        ValueError
            If `data` are not what `to_dict` gives.

        Examples
        --------
        >>> import nbnorm
        >>> nbnorm.Moments.from_dict({})
        Traceback (most recent call last):
        ...
        ValueError: statistics must have format 'nbnorm moments 1', got None
        """
        found = data.get("format") if isinstance(data, dict) else type(data).__name__
        if found != cls._FORMAT:
            raise ValueError(f"statistics must have format {cls._FORMAT!r}, got {found!r}")
        result = cls(nan=data.get("nan", "propagate"), extremes=data.get("extremes", True))
        width = _check.integer("statistics' n_features", data.get("n_features"), least=1)
        given = _FIELDS + (_ERRORS if any(name in data for name in _ERRORS) else ())
        rows = []
        for name in given:
            values = data.get(name)
            # Before anything of that size is allocated: a file may say what it likes.
            if not isinstance(values, list) or len(values) != width:
                raise ValueError(f"statistics must have a list of {width} numbers as {name!r}")
            try:
                rows.append([float(v) for v in values])
            except (TypeError, ValueError, OverflowError):
                raise ValueError(f"statistics must have numbers as {name!r}") from None
        state = np.zeros((ROWS, width))
        state[: len(rows)] = rows
        if not ((state[COUNT] >= 0.0) & np.isfinite(state[COUNT])).all() or (state[M2] < 0.0).any():
            raise ValueError("statistics must have counts and squared deviations that are not negative")
        if len(rows) < ROWS:
            _assume_errors(state)
        if (state[[COUNT_ERROR, SUM_ERROR, M2_ERROR]] < 0.0).any():
            raise ValueError("statistics must have bounds of errors that are not negative")
        names = data.get("feature_names")
        if names is not None:
            if not isinstance(names, list) or len(names) != width:
                raise ValueError(f"statistics must have {width} feature names or none")
            result.feature_names = [str(name) for name in names]
        result._state = state
        return result

    def __repr__(self) -> str:
        return f"Moments(n_features={self.n_features}, count={self.count}, nan={self.nan!r})"


def is_sparse(x: object) -> bool:
    """Whether `x` is a SciPy sparse matrix or array, found out without importing SciPy."""
    scipy_sparse = sys.modules.get("scipy.sparse")
    return scipy_sparse is not None and bool(scipy_sparse.issparse(x))


def moments(
    x: Any, *, weights: npt.ArrayLike | None = None, nan: str = "propagate", extremes: bool = True
) -> Moments:
    """Return count, mean and variance of every column of `x`, in one read of it.

    Parameters
    ----------
    x : array_like of shape (n_samples, n_features), or SciPy sparse matrix
        Real numbers of any type, in any memory layout; read where they lie.
    weights : array_like of shape (n_samples,), optional
        Finite and not negative.  A weight of 2 is a row given twice, a weight of 0 a row left out.
    nan : {"propagate", "omit", "raise"}, default: "propagate"
        What a NaN does: make its feature's mean and variance NaN, count as missing in its feature, or raise.
    extremes : bool, default: True
        Whether minimum and maximum are found too.

    Returns
    -------
    Moments

    Raises
    ------
    TypeError
        If `x` or `weights` do not hold real numbers.
    ValueError
        If shapes do not fit, `x` is empty or has masked elements, a weight is negative or not finite, or
        NaN was found with ``nan="raise"``.

    Examples
    --------
    >>> import numpy as np
    >>> import nbnorm
    >>> m = nbnorm.moments(np.array([[1e12], [1e12 + 1], [1e12 + 2]]))
    >>> m.count, m.mean, m.var(ddof=1)
    (3, array([1.e+12]), array([1.]))
    >>> nbnorm.moments([[1.0, 5.0], [np.nan, 7.0]], nan="omit").count
    array([1., 2.])
    """
    return Moments(nan=nan, extremes=extremes).update(x, weights=weights)
