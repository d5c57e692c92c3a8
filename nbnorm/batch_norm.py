"""Batch normalization: forward, backward and inference, and the layer `BatchNorm`.

Statistics are computed and kept in float64, whatever the dtype of the data: a mean rounded to
float32 would shift data of mean 1e7 and standard deviation 1 by half its own spread, and the square
of 1e30 does not exist in float32.
"""

from __future__ import annotations

import itertools
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import config
from numba.core import cgutils, types
from numba.extending import intrinsic

from nbnorm import _check, _jit, _microkernels

_WORD, _DOUBLE = ir.IntType(64), ir.DoubleType()

# Rows of a block, for batches up to a number of rows: enough blocks for several threads, few enough to keep
# the workspace small.  They are fixed because they decide the order of summation.
_ROWS = ((512, 64), (8192, 256))
_MOST_ROWS = 512

# Rows that are added up before the sums go back to memory.
STRIP = 16

# Bytes between what is read and what is asked for from memory: the sums keep the processor so busy that
# its own prefetching falls behind.
AHEAD = 32 << 10

# Bytes of all arrays of a pass from which the result is written past the caches, which saves reading its
# lines first.
LARGE = 24 << 20

# Rows of the table of factors, in the dtype of the data:  out = (x - MEAN) * SCALE + SHIFT,
# dx = dout * SCALE + (x - MEAN) * RSTD * SLOPE + SHIFT.  What rounding took from the mean is in SHIFT.
MEAN, SCALE, SHIFT, RSTD, SLOPE, FACTORS = range(6)

# Bytes from which the last pass goes backwards, because what has been read last may still be in a cache.
# Below, each core has what it has read itself.
BACKWARDS = 2 << 20

# The table repeats its first columns at the end, so that vectors may run over the end of a row.
_WRAP = 16

# Bytes of a cache line.
_LINE = 64

# ----------------------------------------------------------------------------------------------
# Vector code
# ----------------------------------------------------------------------------------------------


def _for_columns(builder: Any, width: Any, shapes: Any, body: Any) -> None:
    """Emit ``body(column, lanes, vectors)`` for all columns, in groups of one shape after the other."""
    left = ir.Constant(_WORD, 0)
    for lanes, vectors in shapes:
        step = ir.Constant(_WORD, lanes * vectors)
        count = builder.udiv(builder.sub(width, left), step)
        stop = builder.add(left, builder.mul(count, step))
        with cgutils.for_range_slice(builder, left, stop, step, _WORD) as (column, _):
            body(column, lanes, vectors)
        left = stop


class _Emitter:
    """Writes the inner loops over rows and columns; `double` is the dtype of the sums.

    LLVM's own vectors are not used: it reloads sums and factors for every row, and cannot be told to write
    past the caches.
    """

    def __init__(self, context: Any, builder: Any, signature: Any, args: Any) -> None:
        self.builder, self.args = builder, args
        x = signature.args[0]
        self.scalar = context.get_data_type(x.dtype)
        self.size = 4 if isinstance(self.scalar, ir.FloatType) else 8
        self.arrays: list[Any] = [
            context.make_array(kind)(context, builder, value) if isinstance(kind, types.Array) else None
            for kind, value in zip(signature.args, args, strict=True)
        ]
        name = np.dtype(np.float32 if self.size == 4 else np.float64)
        self.lanes, self.fma = _microkernels.tile(name).lanes, _microkernels.tile(name).fma
        self.sum_lanes = _microkernels.tile(np.dtype(np.float64)).lanes
        # with 32 registers, vectors of sums of two kinds and of what is subtracted
        self.sum_vectors = 8 if self.sum_lanes == 8 else 4

    def constant(self, value: int) -> Any:
        return ir.Constant(_WORD, value)

    def vector(self, scalar: Any, lanes: int) -> Any:
        return scalar if lanes == 1 else ir.VectorType(scalar, lanes)

    def place(self, array: int, index: Any, kind: Any) -> Any:
        pointer = self.builder.gep(self.arrays[array].data, [index])
        return self.builder.bitcast(pointer, kind.as_pointer())

    def load(self, array: int, index: Any, scalar: Any, lanes: int) -> Any:
        size = 4 if isinstance(scalar, ir.FloatType) else 8
        return self.builder.load(self.place(array, index, self.vector(scalar, lanes)), align=size)

    def load_wide(self, array: int, index: Any, lanes: int) -> Any:
        """Load elements of the data as float64."""
        value = self.load(array, index, self.scalar, lanes)
        return self.builder.fpext(value, self.vector(_DOUBLE, lanes)) if self.size == 4 else value

    def muladd(self, a: Any, b: Any, c: Any) -> Any:
        if not self.fma:
            return self.builder.fadd(self.builder.fmul(a, b), c)
        kind = a.type
        element = getattr(kind, "element", kind)
        name = f"llvm.fma.{'' if kind is element else f'v{kind.count}'}{element.intrinsic_name}"
        function = ir.FunctionType(kind, [kind] * 3)
        return self.builder.call(
            cgutils.get_or_insert_function(self.builder.module, function, name), [a, b, c]
        )

    def width(self, array: int) -> Any:
        """Return the columns of a matrix."""
        return cgutils.unpack_tuple(self.builder, self.arrays[array].shape, 2)[1]

    def ask(self, array: int, index: Any, ahead: Any, size: int) -> None:
        """Ask for the memory that stands `ahead` elements further on."""
        place = self.builder.gep(self.arrays[array].data, [self.builder.add(index, ahead)])
        _microkernels.emit_prefetch(self.builder, place, size, level=2)


def _emit_statistics(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    x, sums = 0, 5
    start, stop, first, ahead = args[1:5]
    emit = _Emitter(context, builder, signature, args)
    width = emit.width(x)

    def body(column: Any, lanes: int, vectors: int) -> None:
        offsets = [builder.add(column, emit.constant(v * lanes)) for v in range(vectors)]
        base = builder.mul(first, width)
        shifts = [emit.load_wide(x, builder.add(base, j), lanes) for j in offsets]
        places = [*offsets, *(builder.add(j, width) for j in offsets)]
        kind = emit.vector(_DOUBLE, lanes)
        held = [cgutils.alloca_once(builder, kind) for _ in places]
        for place, slot in zip(places, held, strict=True):
            builder.store(emit.load(sums, place, _DOUBLE, lanes), slot)
        with cgutils.for_range_slice(builder, start, stop, emit.constant(1), _WORD) as (row, _):
            base = builder.mul(row, width)
            for v, j in enumerate(offsets):
                value = emit.load_wide(x, builder.add(base, j), lanes)
                value = builder.fsub(value, shifts[v])
                builder.store(builder.fadd(builder.load(held[v]), value), held[v])
                square = held[vectors + v]
                builder.store(emit.muladd(value, value, builder.load(square)), square)
            emit.ask(x, builder.add(base, column), ahead, lanes * vectors * emit.size)
        for place, slot in zip(places, held, strict=True):
            builder.store(builder.load(slot), emit.place(sums, place, kind), align=8)

    shapes = ((emit.sum_lanes, emit.sum_vectors), (emit.sum_lanes, 1), (1, 1))
    _for_columns(builder, width, shapes, body)
    return context.get_dummy_value()


def _emit_gradient_sums(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    x, dout, mean, sums = 0, 1, 2, 6
    start, stop, ahead = args[3:6]
    emit = _Emitter(context, builder, signature, args)
    width = emit.width(x)

    def body(column: Any, lanes: int, vectors: int) -> None:
        offsets = [builder.add(column, emit.constant(v * lanes)) for v in range(vectors)]
        means = [emit.load(mean, j, _DOUBLE, lanes) for j in offsets]
        places = [*offsets, *(builder.add(j, width) for j in offsets)]
        kind = emit.vector(_DOUBLE, lanes)
        held = [cgutils.alloca_once(builder, kind) for _ in places]
        for place, slot in zip(places, held, strict=True):
            builder.store(emit.load(sums, place, _DOUBLE, lanes), slot)
        with cgutils.for_range_slice(builder, start, stop, emit.constant(1), _WORD) as (row, _):
            base = builder.mul(row, width)
            for v, j in enumerate(offsets):
                here = builder.add(base, j)
                slope = emit.load_wide(dout, here, lanes)
                value = builder.fsub(emit.load_wide(x, here, lanes), means[v])
                builder.store(builder.fadd(builder.load(held[v]), slope), held[v])
                product = held[vectors + v]
                builder.store(emit.muladd(slope, value, builder.load(product)), product)
            for array in (x, dout):
                emit.ask(array, builder.add(base, column), ahead, lanes * vectors * emit.size)
        for place, slot in zip(places, held, strict=True):
            builder.store(builder.load(slot), emit.place(sums, place, kind), align=8)

    shapes = ((emit.sum_lanes, emit.sum_vectors), (emit.sum_lanes, 1), (1, 1))
    _for_columns(builder, width, shapes, body)
    return context.get_dummy_value()


def _emit_map(backward: bool) -> Any:
    """Emitter of the last pass over a range of flat elements, past the caches if `streamed`."""
    rows_of_table = (MEAN, SCALE, SHIFT, *((RSTD, SLOPE) if backward else ()))
    x, dout, factors, out = 0, 1, 2, 3

    def value(emit: _Emitter, here: Any, lanes: int, factor: list[Any]) -> Any:
        builder = emit.builder
        centred = builder.fsub(emit.load(x, here, emit.scalar, lanes), factor[0])
        if not backward:
            return emit.muladd(centred, factor[1], factor[2])
        normalised = builder.fmul(centred, factor[3])
        slope = emit.load(dout, here, emit.scalar, lanes)
        return emit.muladd(slope, factor[1], emit.muladd(normalised, factor[4], factor[2]))

    def table(emit: _Emitter, length: Any, column: Any, lanes: int) -> list[Any]:
        builder = emit.builder
        places = [builder.add(builder.mul(emit.constant(row), length), column) for row in rows_of_table]
        return [emit.load(factors, place, emit.scalar, lanes) for place in places]

    def span(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        begin, end, period, streamed = args[4:]
        emit = _Emitter(context, builder, signature, args)
        length = builder.add(period, emit.constant(_WRAP))
        flag = builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)])
        column = cgutils.alloca_once(builder, _WORD)
        builder.store(builder.urem(begin, period), column)

        def loop(first: Any, last: Any, lanes: int, past: bool) -> None:
            kind = emit.vector(emit.scalar, lanes)
            with cgutils.for_range_slice(builder, first, last, emit.constant(lanes), _WORD) as (here, _):
                j = builder.load(column)
                result = value(emit, here, lanes, table(emit, length, j, lanes))
                place = emit.place(out, here, kind)
                store = builder.store(result, place, align=lanes * emit.size if past else emit.size)
                if past:
                    store.set_metadata("nontemporal", flag)
                    for array in (x, dout) if backward else (x,):
                        emit.ask(array, here, emit.constant(AHEAD // emit.size), lanes * emit.size)
                j = builder.add(j, emit.constant(lanes))
                inside = builder.icmp_signed("<", j, period)
                builder.store(builder.select(inside, j, builder.sub(j, period)), column)

        address = builder.ptrtoint(builder.gep(emit.arrays[out].data, [begin]), _WORD)
        head = builder.udiv(builder.and_(builder.neg(address), emit.constant(63)), emit.constant(emit.size))
        first = builder.add(begin, head)
        first = builder.select(builder.icmp_signed("<", first, end), first, end)
        whole = builder.and_(builder.sub(end, first), emit.constant(-emit.lanes))
        last = builder.add(first, whole)
        loop(begin, first, 1, False)
        with builder.if_else(streamed) as (then, otherwise):
            with then:
                loop(first, last, emit.lanes, True)
                builder.fence("seq_cst")  # streamed stores must be seen before the task ends
            with otherwise:
                loop(first, last, emit.lanes, False)
        loop(last, end, 1, False)
        return context.get_dummy_value()

    return span


class _Columns:
    """Some columns in float64; ``columns[place]`` reads or writes them, a place being array and offset."""

    def __init__(self, builder: Any, column: Any, lanes: int) -> None:
        self.builder, self.column, self.lanes = builder, column, lanes
        self.kind = _DOUBLE if lanes == 1 else ir.VectorType(_DOUBLE, lanes)
        self.narrow = ir.FloatType() if lanes == 1 else ir.VectorType(ir.FloatType(), lanes)

    def _pointer(self, place: Any) -> tuple[Any, bool]:
        data, narrow, offset = place
        pointer = self.builder.gep(data, [self.builder.add(offset, self.column)])
        kind = self.narrow if narrow else self.kind
        return self.builder.bitcast(pointer, kind.as_pointer()), narrow

    def __getitem__(self, place: Any) -> _microkernels.Emitted:
        pointer, narrow = self._pointer(place)
        value = self.builder.load(pointer, align=4 if narrow else 8)
        return _microkernels.Emitted(self.builder, self.builder.fpext(value, self.kind) if narrow else value)

    def __setitem__(self, place: Any, vector: _microkernels.Emitted) -> None:
        pointer, narrow = self._pointer(place)
        value = self.builder.fptrunc(vector.value, self.narrow) if narrow else vector.value
        self.builder.store(value, pointer, align=4 if narrow else 8)

    def number(self, value: Any) -> _microkernels.Emitted:
        """Return a number in all elements."""
        value = _DOUBLE(value) if isinstance(value, float) else value
        return _microkernels.Emitted(self.builder, _microkernels.emit_splat(self.builder, value, self.lanes))

    def sqrt(self, vector: _microkernels.Emitted) -> _microkernels.Emitted:
        return _microkernels.Emitted(
            self.builder, _microkernels.emit_sqrt(self.builder, vector.value, self.lanes)
        )

    def not_negative(self, vector: _microkernels.Emitted) -> _microkernels.Emitted:
        """Return 0 for negative elements; NaN passes."""
        zero = self.number(0.0)
        return _microkernels.Emitted(
            self.builder, self.builder.select(vector < zero, zero.value, vector.value)
        )

    def where(self, flag: Any, vector: _microkernels.Emitted) -> _microkernels.Emitted:
        """Return 0 where the flag is not set."""
        return _microkernels.Emitted(
            self.builder, self.builder.select(flag, vector.value, self.number(0.0).value)
        )


def _emit_step(kinds: str, body: Any) -> Any:
    """Emitter of a step over all columns; its arguments are the width and what `kinds` says."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def some(column: Any, lanes: int, vectors: int) -> None:
            columns = _Columns(builder, column, lanes)
            given: list[Any] = []
            for kind, numba_type, value in zip(kinds, signature.args[1:], args[1:], strict=True):
                if kind == "a":
                    data = context.make_array(numba_type)(context, builder, value).data
                    given.append([data, numba_type.dtype == types.float32])
                elif kind == "i":
                    given[-1].append(value)
                else:
                    given.append(columns.number(value) if kind == "f" else value)
            body(columns, *given)

        lanes = _microkernels.tile(np.dtype(np.float64)).lanes
        _for_columns(builder, args[0], ((lanes, 1), (1, 1)), some)
        return context.get_dummy_value()

    return emit


def _vector_intrinsic(name: str, arrays: tuple[str, ...], emit: Any) -> Any:
    """Intrinsic of typed arrays at the places "a" of `arrays`, integers "i", numbers "f" and flags "b"."""
    kinds = {"i": types.int64, "f": types.float64, "b": types.boolean}
    names = ", ".join(f"a{k}" for k in range(len(arrays)))

    def typed(given: Any) -> Any:
        wanted = [kinds.get(kind, value) for kind, value in zip(arrays, given, strict=True)]
        return types.void(*wanted), emit

    space: dict[str, Any] = {"typed": typed}
    exec(f"def {name}(typingctx, {names}): return typed(({names},))", space)
    return intrinsic(space[name])


# ----------------------------------------------------------------------------------------------
# Steps over all columns: between the passes every thread waits for them, so they are vector code too
# ----------------------------------------------------------------------------------------------


def _finish_block_step(columns: Any, n: Any, first: Any, sums: Any, squares: Any) -> None:
    """Make mean and sum of squared deviations of the sums of deviations from the first row."""
    total = columns[sums]
    a = total / n
    columns[sums] = columns[first] + a
    # rounding may leave a tiny negative number
    columns[squares] = columns.not_negative(columns[squares] - a * total)


def _merge_step(
    columns: Any, share: Any, weight: Any, means: Any, squares: Any, added: Any, added_squares: Any
) -> None:
    delta = columns[added] - columns[means]
    columns[means] = columns[means] + delta * share
    columns[squares] = columns[squares] + (columns[added_squares] + delta * delta * weight)


def _add_step(columns: Any, sums: Any, added: Any) -> None:
    columns[sums] = columns[sums] + columns[added]


def _scale_step(
    columns: Any, n: Any, eps: Any, gamma: Any, sums: Any, squares: Any, mean: Any, rstd: Any
) -> None:
    """Set mean and rstd, and make gamma * rstd and the variance of the merged statistics."""
    columns[mean] = columns[sums]
    columns[squares] = columns[squares] / n
    columns[rstd] = columns.number(1.0) / columns.sqrt(columns[squares] + eps)
    columns[sums] = columns[gamma] * columns[rstd]


def _forward_step(
    columns: Any, mean: Any, scale: Any, shift: Any, means: Any, scales: Any, shifts: Any
) -> None:
    """Store a mean in two parts, so that x - mean is right although each part is rounded."""
    columns[means], columns[scales] = columns[mean], columns[scale]
    columns[shifts] = columns[shift] - (columns[mean] - columns[means]) * columns[scale]


def _backward_step(
    columns: Any, n: Any, training: Any, gamma: Any, mean: Any, rstd: Any, sums: Any, products: Any,
    dgamma: Any, dbeta: Any, means: Any, scales: Any, shifts: Any, rstds: Any, slopes: Any,
) -> None:  # fmt: skip
    """Set dgamma and dbeta, and what dx is made of.

    dx = gamma rstd (dout - mean(dout) - xhat mean(dout xhat)), means over the batch
    """
    product, zero = columns[products] * columns[rstd], columns.number(0.0)
    columns[dbeta], columns[dgamma] = columns[sums], product
    scale = columns[gamma] * columns[rstd]
    slope = columns.where(training, (zero - scale) * (product / n))
    shift = columns.where(training, (zero - scale) * (columns[sums] / n))
    columns[means], columns[rstds] = columns[mean], columns[rstd]
    columns[scales], columns[slopes] = scale, slope
    columns[shifts] = shift - (columns[mean] - columns[means]) * columns[rstd] * slope


if config.DISABLE_JIT:

    class _InterpretedColumns:
        """`_Columns` of all columns at once."""

        def __init__(self, width: int) -> None:
            self.width = width

        def __getitem__(self, place: Any) -> Any:
            array, offset = place
            return array.reshape(-1)[offset : offset + self.width].astype(np.float64)

        def __setitem__(self, place: Any, values: Any) -> None:
            array, offset = place
            array.reshape(-1)[offset : offset + self.width] = values

        def number(self, value: float) -> float:
            return value

        def sqrt(self, values: Any) -> Any:
            return np.sqrt(values)

        def not_negative(self, values: Any) -> Any:
            return np.where(values < 0.0, 0.0, values)

        def where(self, flag: bool, values: Any) -> Any:
            return np.where(flag, values, 0.0)

    def _step(name: str, kinds: str, body: Any) -> Any:
        def step(width: int, *args: Any) -> None:
            places = [pair for pair in itertools.pairwise(args) if isinstance(pair[0], np.ndarray)]
            body(_InterpretedColumns(width), *args[: kinds.index("a")], *places)

        return step

    def _add_statistics(x: Any, start: int, stop: int, first: int, ahead: int, sums: Any) -> None:
        """Add the deviations of some rows from the row `first`, and their squares, to the sums."""
        d = x[start:stop].astype(np.float64) - x[first].astype(np.float64)
        sums += np.concatenate((d.sum(axis=0), (d * d).sum(axis=0)))

    def _add_gradient_sums(
        x: Any, dout: Any, mean: Any, start: int, stop: int, ahead: int, sums: Any
    ) -> None:
        """Add dout and dout * (x - mean) of some rows to the sums."""
        d = dout[start:stop].astype(np.float64)
        sums += np.concatenate((d.sum(axis=0), (d * (x[start:stop] - mean)).sum(axis=0)))

    def _last_pass(x: Any, dout: Any, factors: Any, j: Any, period: int, backward: bool) -> Any:
        table = factors[: FACTORS * (period + _WRAP)].reshape(FACTORS, -1)[:, j]
        centred = x - table[MEAN]
        if not backward:
            return centred * table[SCALE] + table[SHIFT]
        return dout * table[SCALE] + (centred * table[RSTD] * table[SLOPE] + table[SHIFT])

    def _interpreted(backward: bool) -> Any:
        def span(
            x: Any, dout: Any, factors: Any, out: Any, begin: int, end: int, period: int, streamed: bool
        ) -> None:
            part, j = slice(begin, end), np.arange(begin, end) % period
            x, dout, out = x.reshape(-1), dout.reshape(-1), out.reshape(-1)
            out[part] = _last_pass(x[part], dout[part], factors, j, period, backward)

        return span

    _forward_span, _backward_span = _interpreted(False), _interpreted(True)

else:

    def _step(name: str, kinds: str, body: Any) -> Any:
        return _vector_intrinsic(name, (*"i", *kinds), _emit_step(kinds, body))

    _add_statistics = _vector_intrinsic("add_statistics", (*"aiiiia",), _emit_statistics)
    _add_gradient_sums = _vector_intrinsic("add_gradient_sums", (*"aaaiiia",), _emit_gradient_sums)
    _forward_span = _vector_intrinsic("forward_span", (*"aaaaiiib",), _emit_map(False))
    _backward_span = _vector_intrinsic("backward_span", (*"aaaaiiib",), _emit_map(True))

# Each takes the width, numbers and flags, and places: arrays, each with an offset.
_finish_block = _step("finish_block", "f" + "ai" * 3, _finish_block_step)
_merge = _step("merge", "ff" + "ai" * 4, _merge_step)
_add = _step("add", "ai" * 2, _add_step)
_scale = _step("scale", "ff" + "ai" * 5, _scale_step)
_forward_row = _step("forward_row", "ai" * 6, _forward_step)
_backward_row = _step("backward_row", "fb" + "ai" * 12, _backward_step)


# ----------------------------------------------------------------------------------------------
# Kernels
# ----------------------------------------------------------------------------------------------


@_jit.inner_kernel
def _period(n_features: Any) -> Any:
    """Return the columns of the table of factors: the features, repeated if they are few."""
    return (_WRAP + n_features - 1) // n_features * n_features if n_features < _WRAP else n_features


@_jit.kernel
def sums_size(n_samples: Any, n_features: Any) -> Any:
    """Return the number of float64 elements of the workspace `sums` of the kernels below."""
    rows = _block_rows(n_samples)
    return ((n_samples + rows - 1) // rows) * 2 * n_features


@_jit.kernel
def factors_size(n_features: Any) -> Any:
    """Return the number of elements, of the dtype of the data, of the workspace `factors`."""
    return (_period(n_features) + _WRAP) * FACTORS + _LINE // 4


@_jit.inner_kernel
def _table(factors: Any, out: Any) -> Any:
    """Return the workspace from where it lies in a cache line as `out` does.

    The last pass writes whole lines, and its vectors of factors must not cross lines either.
    """
    return factors[(out.ctypes.data - factors.ctypes.data) % _LINE // out.itemsize :]


@_jit.inner_kernel
def _block_rows(n_samples: Any) -> Any:
    """Return the rows of a block."""
    for most, rows in _ROWS:
        if n_samples <= most:
            return rows
    return _MOST_ROWS


@_jit.inner_kernel
def _ahead(x: Any) -> Any:
    """Return the elements between what is read and what is asked for."""
    return max(STRIP * x.shape[1], AHEAD // x.itemsize)


@_jit.inner_kernel
def _sums_of(block: Any, width: Any, sums: Any) -> Any:
    """Return the two sums of each column of one block."""
    return sums[2 * block * width : 2 * (block + 1) * width]


@_jit.inner_kernel
def _block_statistics(x: Any, start: Any, stop: Any, sums: Any) -> None:
    """Mean and sum of squared deviations of the columns of one block.

    Deviations are taken from the block's first row, and the mean's own deviation is removed at the
    end.  As that row belongs to the data, its squared distance from the mean is at most n variances:
    the relative error is below n units in the last place of float64, n <= 512, wherever the data lie.
    """
    n, width = stop - start, x.shape[1]
    sums[:] = 0.0
    ahead = _ahead(x)
    for i in range(start, stop, STRIP):
        _add_statistics(x, i, min(i + STRIP, stop), start, ahead, sums)
    _finish_block(width, n, x, start * width, sums, 0, sums, width)


@_jit.inner_kernel
def _merge_statistics(n_samples: Any, rows: Any, width: Any, sums: Any) -> None:
    """Merge the statistics of the blocks in order (Chan, Golub and LeVeque 1979)."""
    for block in range(1, (n_samples + rows - 1) // rows):
        before = block * rows
        added = min(n_samples, before + rows) - before
        share = added / (before + added)
        weight = before * share
        at = block * 2 * width
        _merge(width, share, weight, sums, 0, sums, width, sums, at, sums, at + width)


@_jit.inner_kernel
def _repeat_factors(width: Any, factors: Any) -> None:
    """Fill the rest of each row of the table."""
    length = _period(width) + _WRAP
    for row in range(FACTORS):
        for j in range(width, length):
            factors[row * length + j] = factors[row * length + j - width]


@_jit.inner_kernel
def _forward_factors(mean: Any, scale: Any, shift: Any, factors: Any) -> None:
    width = mean.size
    row = _period(width) + _WRAP
    _forward_row(
        width, mean, 0, scale, 0, shift, 0, factors, MEAN * row, factors, SCALE * row, factors, SHIFT * row
    )
    _repeat_factors(width, factors)


@_jit.parallel_kernel
def inference_kernel(x: Any, mean: Any, scale: Any, shift: Any, out: Any, factors: Any) -> None:
    """``out = (x - mean) * scale + shift``; `mean`, `scale` and `shift` are float64 vectors."""
    n, width = x.shape
    rows, period, table = _block_rows(n), _period(width), _table(factors, out)
    streamed = 2 * out.size * out.itemsize >= LARGE
    _forward_factors(mean, scale, shift, table)
    for block in numba.prange((n + rows - 1) // rows):
        begin, end = block * rows * width, min(n, (block + 1) * rows) * width
        _forward_span(x, x, table, out, begin, end, period, streamed)


@_jit.parallel_kernel
def statistics_kernel(x: Any, mean: Any, var: Any, sums: Any) -> None:
    """Mean and biased variance of the columns, in float64; workspace as `sums_size` says."""
    n, width = x.shape
    rows = _block_rows(n)
    for block in numba.prange((n + rows - 1) // rows):
        start = block * rows
        _block_statistics(x, start, min(n, start + rows), _sums_of(block, width, sums))
    _merge_statistics(n, rows, width, sums)
    for j in range(width):
        mean[j] = sums[j]
        var[j] = sums[width + j] / n


@_jit.parallel_kernel
def forward_kernel(
    x: Any, gamma: Any, beta: Any, eps: Any, out: Any, mean: Any, rstd: Any, sums: Any, factors: Any
) -> None:
    """Normalise a mini-batch; `mean` and `rstd` are float64, workspaces as `sums_size` says.

    ``sums[width:2 * width]`` is left with the biased variance.
    """
    n, width = x.shape
    rows, period, table = _block_rows(n), _period(width), _table(factors, out)
    blocks, size = (n + rows - 1) // rows, out.size * out.itemsize
    for block in numba.prange(blocks):
        start = block * rows
        _block_statistics(x, start, min(n, start + rows), _sums_of(block, width, sums))
    _merge_statistics(n, rows, width, sums)
    _scale(width, n, eps, gamma, 0, sums, 0, sums, width, mean, 0, rstd, 0)
    _forward_factors(mean, sums, beta, table)
    for turn in numba.prange(blocks):
        block = blocks - 1 - turn if size >= BACKWARDS else turn
        begin, end = block * rows * width, min(n, (block + 1) * rows) * width
        _forward_span(x, x, table, out, begin, end, period, 2 * size >= LARGE)


@_jit.inner_kernel
def _block_gradient_sums(dout: Any, x: Any, mean: Any, start: Any, stop: Any, sums: Any) -> None:
    """Sum dout and dout * (x - mean) over the rows of one block."""
    sums[:] = 0.0
    ahead = _ahead(x)
    for i in range(start, stop, STRIP):
        _add_gradient_sums(x, dout, mean, i, min(i + STRIP, stop), ahead, sums)


@_jit.inner_kernel
def _backward_factors(
    n: Any, gamma: Any, mean: Any, rstd: Any, training: Any, sums: Any, dgamma: Any, dbeta: Any, factors: Any
) -> None:
    width = mean.size
    row = _period(width) + _WRAP
    _backward_row(
        width, n, training, gamma, 0, mean, 0, rstd, 0, sums, 0, sums, width, dgamma, 0, dbeta, 0,
        factors, MEAN * row, factors, SCALE * row, factors, SHIFT * row, factors, RSTD * row,
        factors, SLOPE * row,
    )  # fmt: skip
    _repeat_factors(width, factors)


@_jit.parallel_kernel
def backward_kernel(
    dout: Any,
    x: Any,
    gamma: Any,
    mean: Any,
    rstd: Any,
    training: Any,
    dx: Any,
    dgamma: Any,
    dbeta: Any,
    sums: Any,
    factors: Any,
) -> None:
    """Gradients of `forward_kernel`, or of inference (statistics held fixed) if not `training`."""
    n, width = x.shape
    rows, period, table = _block_rows(n), _period(width), _table(factors, dx)
    blocks, size = (n + rows - 1) // rows, dx.size * dx.itemsize
    for block in numba.prange(blocks):
        start = block * rows
        _block_gradient_sums(dout, x, mean, start, min(n, start + rows), _sums_of(block, width, sums))
    for block in range(1, blocks):
        _add(2 * width, sums, 0, sums, block * 2 * width)
    _backward_factors(n, gamma, mean, rstd, training, sums, dgamma, dbeta, table)
    for turn in numba.prange(blocks):
        block = blocks - 1 - turn if size >= BACKWARDS else turn
        begin, end = block * rows * width, min(n, (block + 1) * rows) * width
        _backward_span(x, dout, table, dx, begin, end, period, 3 * size >= LARGE)


# ----------------------------------------------------------------------------------------------
# Public functions
# ----------------------------------------------------------------------------------------------


def _workspace(x: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    n, width = x.shape
    return np.empty(sums_size(n, width)), np.empty(factors_size(width), x.dtype)


def _eps(eps: Any, dtype: np.dtype[Any]) -> float:
    # 1 / sqrt(eps) has to exist in the dtype of the data, or a constant column becomes NaN.
    return _check.number("eps", eps, least=float(np.finfo(dtype).tiny))


def _refuse_range(x: npt.NDArray[Any], rstd: npt.NDArray[np.float64]) -> None:
    """Refuse a feature of finite values whose variance float64 cannot hold."""
    for j in np.flatnonzero(~(rstd > 0.0)):
        if np.isfinite(x[:, j]).all():
            raise ValueError(
                f"x must have values whose variance is finite, but that of column {j} is not: it has values "
                f"up to {np.abs(x[:, j]).max():g}"
            )


def batch_norm_forward(
    x: npt.ArrayLike,
    gamma: npt.ArrayLike,
    beta: npt.ArrayLike,
    *,
    eps: float = 1e-5,
    out: npt.NDArray[Any] | None = None,
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """Normalise a mini-batch with its own mean and variance.

    ``out = gamma * (x - mean) * rstd + beta`` with ``rstd = 1 / sqrt(var + eps)``; mean and biased
    variance are taken over the rows [1]_.

    Parameters
    ----------
    x : array_like, shape (n_samples, n_features)
        Mini-batch; float32 stays float32, other real types become float64.
    gamma, beta : array_like, shape (n_features,)
        Scale and shift.
    eps : float, default 1e-5
        Positive number added to the variance.
    out : ndarray, optional
        C-contiguous array of the shape and dtype of the result, apart from `x`.

    Returns
    -------
    out : ndarray, shape (n_samples, n_features)
        Normalised mini-batch.
    mean, rstd : ndarray of float64, shape (n_features,)
        Statistics for `batch_norm_backward`; float64 for float32 data as well, so that the backward
        pass subtracts the same mean.

    Raises
    ------
    TypeError
        If an array does not hold real numbers or `eps` is not a number.
    ValueError
        If a shape does not fit, `x` is empty, `eps` is not positive, `out` does not fit, or values are
        finite and their variance in float64 is not.

    References
    ----------
    .. [1] S. Ioffe and C. Szegedy, "Batch Normalization: Accelerating Deep Network Training by
       Reducing Internal Covariate Shift", ICML 2015.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import batch_norm_forward
    >>> x = np.array([[1.0, 10.0], [3.0, 30.0]])
    >>> out, mean, rstd = batch_norm_forward(x, np.ones(2), np.zeros(2))
    >>> mean
    array([ 2., 20.])
    >>> out.round(3)
    array([[-1., -1.],
           [ 1.,  1.]])
    """
    x = _check.floats("x", x, 2)
    width = x.shape[1]
    gamma = _check.floats("gamma", gamma, 1, dtype=x.dtype, shape=(width,))
    beta = _check.floats("beta", beta, 1, dtype=x.dtype, shape=(width,))
    eps = _eps(eps, x.dtype)
    out = _check.output("out", out, x.shape, x.dtype)
    _check.apart("out", out, x=x, gamma=gamma, beta=beta)
    mean, rstd = np.empty(width), np.empty(width)
    with np.errstate(over="ignore", invalid="ignore"):  # refused below; only interpreted kernels warn
        forward_kernel(x.size, x, gamma, beta, eps, out, mean, rstd, *_workspace(x))
    _refuse_range(x, rstd)
    return out, mean, rstd


def batch_norm_backward(
    dout: npt.ArrayLike,
    x: npt.ArrayLike,
    gamma: npt.ArrayLike,
    mean: npt.ArrayLike,
    rstd: npt.ArrayLike,
    *,
    out: npt.NDArray[Any] | None = None,
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """Gradients of `batch_norm_forward`.

    With ``xhat = (x - mean) * rstd`` and ``g = gamma * dout``, means and sums over the rows::

        dgamma = sum(dout * xhat)
        dbeta = sum(dout)
        dx = rstd * (g - mean(g) - xhat * mean(g * xhat))

    Parameters
    ----------
    dout : array_like, shape (n_samples, n_features)
        Gradient of the loss with respect to the normalised mini-batch.
    x : array_like, shape (n_samples, n_features)
        Mini-batch given to `batch_norm_forward`; its dtype is that of the results.
    gamma : array_like, shape (n_features,)
        Scale.
    mean, rstd : array_like of float64, shape (n_features,)
        Statistics returned by `batch_norm_forward`.
    out : ndarray, optional
        C-contiguous array for dx, apart from `dout` and `x`.

    Returns
    -------
    dx : ndarray, shape (n_samples, n_features)
        Gradient with respect to `x`; `out` if given.
    dgamma, dbeta : ndarray, shape (n_features,)
        Gradients with respect to `gamma` and `beta`.

    Raises
    ------
    TypeError
        If an array does not hold real numbers.
    ValueError
        If a shape does not fit, `x` is empty, or `out` does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import batch_norm_backward, batch_norm_forward
    >>> x, gamma = np.array([[1.0], [3.0], [5.0]]), np.ones(1)
    >>> out, mean, rstd = batch_norm_forward(x, gamma, np.zeros(1))
    >>> dx, dgamma, dbeta = batch_norm_backward(np.ones((3, 1)), x, gamma, mean, rstd)
    >>> bool(abs(dx).max() < 1e-15)  # a shift of the whole batch changes nothing
    True
    >>> dbeta
    array([3.])
    """
    x = _check.floats("x", x, 2)
    width = x.shape[1]
    dout = _check.floats("dout", dout, 2, dtype=x.dtype, shape=x.shape)
    gamma = _check.floats("gamma", gamma, 1, dtype=x.dtype, shape=(width,))
    mean = _check.floats("mean", mean, 1, dtype=np.dtype(np.float64), shape=(width,))
    rstd = _check.floats("rstd", rstd, 1, dtype=np.dtype(np.float64), shape=(width,))
    dx = _check.output("out", out, x.shape, x.dtype)
    _check.apart("out", dx, dout=dout, x=x, gamma=gamma)
    return _backward(dout, x, gamma, mean, rstd, True, dx)


def _backward(
    dout: npt.NDArray[Any],
    x: npt.NDArray[Any],
    gamma: npt.NDArray[Any],
    mean: npt.NDArray[Any],
    rstd: npt.NDArray[Any],
    training: bool,
    dx: npt.NDArray[Any],
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    dgamma, dbeta = np.empty_like(gamma), np.empty_like(gamma)
    backward_kernel(2 * x.size, dout, x, gamma, mean, rstd, training, dx, dgamma, dbeta, *_workspace(x))
    return dx, dgamma, dbeta


def batch_norm_inference(
    x: npt.ArrayLike,
    gamma: npt.ArrayLike,
    beta: npt.ArrayLike,
    running_mean: npt.ArrayLike,
    running_var: npt.ArrayLike,
    *,
    eps: float = 1e-5,
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """Normalise with given statistics, as a trained network does.

    ``out = gamma * (x - running_mean) / sqrt(running_var + eps) + beta``

    Parameters
    ----------
    x : array_like, shape (n_samples, n_features)
        Data; float32 stays float32, other real types become float64.
    gamma, beta : array_like, shape (n_features,)
        Scale and shift.
    running_mean, running_var : array_like, shape (n_features,)
        Moving averages of mean and variance; used in float64.
    eps : float, default 1e-5
        Positive number added to the variance.
    out : ndarray, optional
        C-contiguous array of the shape and dtype of the result, apart from `x`.

    Returns
    -------
    ndarray, shape (n_samples, n_features)
        Normalised data; `out` if given.

    Raises
    ------
    TypeError
        If an array does not hold real numbers or `eps` is not a number.
    ValueError
        If a shape does not fit, `x` is empty, a variance is negative, `eps` is not positive, or
        `out` does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import batch_norm_inference
    >>> one = np.ones(1)
    >>> batch_norm_inference(np.array([[5.0]]), one, 0 * one, one, 4 * one).round(3)
    array([[2.]])
    """
    x = _check.floats("x", x, 2)
    width = x.shape[1]
    double = np.dtype(np.float64)
    gamma = _check.floats("gamma", gamma, 1, dtype=double, shape=(width,))
    beta = _check.floats("beta", beta, 1, dtype=double, shape=(width,))
    mean = _check.floats("running_mean", running_mean, 1, dtype=double, shape=(width,))
    var = _check.floats("running_var", running_var, 1, dtype=double, shape=(width,))
    if (var < 0).any():
        at = int(np.argmax(var < 0))
        raise ValueError(f"running_var must not be negative, got {var[at]} at [{at}]")
    eps = _eps(eps, x.dtype)
    out = _check.output("out", out, x.shape, x.dtype)
    _check.apart("out", out, x=x)
    scale = gamma / np.sqrt(var + eps)
    inference_kernel(x.size, x, mean, scale, beta, out, _workspace(x)[1])
    return out


# ----------------------------------------------------------------------------------------------
# Layer
# ----------------------------------------------------------------------------------------------


class BatchNorm:
    """Batch normalization as a layer with moving averages.

    In training mode a mini-batch is normalised with its own statistics, which also update the
    averages, ``running <- decay * running + (1 - decay) * batch``; in evaluation mode the averages
    are used and not changed.

    Parameters
    ----------
    n_features : int
        Number of features.
    eps : float, default 1e-5
        Positive number added to the variance.
    decay : float, default 0.9
        Weight of the old average, in [0, 1).
    running : {"var", "std"}, default "var"
        Whether variances or standard deviations are averaged.
    unbiased : bool, default True
        Whether the averaged variance is the batch's times n / (n - 1).
    dtype : {float32, float64}, default float32
        Dtype of the parameters and of the computation.

    Attributes
    ----------
    gamma, beta : ndarray, shape (n_features,)
        Scale and shift, at first 1 and 0.
    dgamma, dbeta : ndarray, shape (n_features,)
        Their gradients after `backward`.
    running_mean : ndarray of float64, shape (n_features,)
        Average of the means, at first 0.
    running_var, running_std : ndarray of float64, shape (n_features,)
        Average of the variances or of the standard deviations, at first 1; only the one that
        `running` names exists.
    training : bool
        Mode, at first True.

    Raises
    ------
    TypeError
        If a parameter is of the wrong type.
    ValueError
        If a parameter is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import BatchNorm
    >>> layer = BatchNorm(2, dtype=np.float64)
    >>> x = np.array([[1.0, 10.0], [3.0, 30.0]])
    >>> layer.forward(x).round(3)
    array([[-1., -1.],
           [ 1.,  1.]])
    >>> layer.running_mean
    array([0.2, 2. ])
    >>> layer.eval().forward(x[:1]).shape
    (1, 2)
    """

    running_var: npt.NDArray[np.float64]
    running_std: npt.NDArray[np.float64]

    def __init__(
        self,
        n_features: int,
        *,
        eps: float = 1e-5,
        decay: float = 0.9,
        running: str = "var",
        unbiased: bool = True,
        dtype: npt.DTypeLike = np.float32,
    ) -> None:
        self.n_features = _check.integer("n_features", n_features, least=1)
        self.dtype = _check.float_dtype("dtype", dtype)
        self.eps = _eps(eps, self.dtype)
        self.decay = _check.number("decay", decay, least=0, below=1)
        self.running = str(_check.choice("running", running, ("var", "std")))
        self.unbiased = _check.flag("unbiased", unbiased)
        self.gamma = np.ones(self.n_features, self.dtype)
        self.beta = np.zeros(self.n_features, self.dtype)
        self.dgamma = np.zeros_like(self.gamma)
        self.dbeta = np.zeros_like(self.beta)
        self.running_mean = np.zeros(self.n_features)
        setattr(self, f"running_{self.running}", np.ones(self.n_features))
        self.training = True
        self._saved: tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], bool] | None = None

    def train(self) -> BatchNorm:
        """Switch to training mode and return the layer."""
        self.training = True
        return self

    def eval(self) -> BatchNorm:
        """Switch to evaluation mode and return the layer."""
        self.training = False
        return self

    def parameters(self) -> dict[str, npt.NDArray[Any]]:
        """Return the live arrays ``{"gamma": ..., "beta": ...}``."""
        return {"gamma": self.gamma, "beta": self.beta}

    def gradients(self) -> dict[str, npt.NDArray[Any]]:
        """Return the gradients of the last `backward` under the parameters' names."""
        return {"gamma": self.dgamma, "beta": self.dbeta}

    def buffers(self) -> dict[str, npt.NDArray[Any]]:
        """Return the live moving averages under their names."""
        second = f"running_{self.running}"
        return {"running_mean": self.running_mean, second: getattr(self, second)}

    def forward(self, x: npt.ArrayLike) -> npt.NDArray[Any]:
        """Normalise a mini-batch in the present mode.

        Parameters
        ----------
        x : array_like, shape (n_samples, n_features)
            Mini-batch.  `backward` needs it and has a copy: the array may be filled anew in between.

        Returns
        -------
        ndarray, shape (n_samples, n_features)
            Normalised mini-batch, of the layer's dtype.

        Raises
        ------
        TypeError
            If `x` does not hold real numbers.
        ValueError
            If the shape does not fit, or in training mode if there is only one sample, or if values are
            finite and their variance in float64 is not.
        """
        x = _check.floats("x", x, 2, dtype=self.dtype)
        n, width = x.shape
        if width != self.n_features:
            raise ValueError(f"x must have {self.n_features} features, got shape {x.shape}")
        if not self.training:
            var = self._running_var()
            out = batch_norm_inference(x, self.gamma, self.beta, self.running_mean, var, eps=self.eps)
            self._saved = (x.copy(), self.running_mean.copy(), 1 / np.sqrt(var + self.eps), False)
            return out
        if n == 1:
            raise ValueError(
                "x must have at least 2 samples in training mode, got 1, whose variance is unknown: "
                "use a larger batch or call eval() first"
            )
        gamma, beta = self._checked("gamma"), self._checked("beta")
        out, mean, rstd = np.empty_like(x), np.empty(width), np.empty(width)
        sums, factors = _workspace(x)
        with np.errstate(over="ignore", invalid="ignore"):
            forward_kernel(x.size, x, gamma, beta, self.eps, out, mean, rstd, sums, factors)
        _refuse_range(x, rstd)
        self._average(mean, sums[width : 2 * width] * (n / (n - 1) if self.unbiased else 1))
        self._saved = (x.copy(), mean, rstd, True)
        return out

    def _checked(self, name: str) -> npt.NDArray[Any]:
        """Return a parameter as kernels take it: the attribute is the user's to set."""
        return _check.floats(name, getattr(self, name), 1, dtype=self.dtype, shape=(self.n_features,))

    def _running_var(self) -> npt.NDArray[np.float64]:
        return self.running_var if self.running == "var" else self.running_std**2

    def _average(self, mean: npt.NDArray[Any], var: npt.NDArray[Any]) -> None:
        second = var if self.running == "var" else np.sqrt(var)
        # Not as a step towards the new value, of which the difference from a large old one keeps no digit.
        for average, new in zip(self.buffers().values(), (mean, second), strict=True):
            average[...] = self.decay * average + (1 - self.decay) * new

    def backward(self, dout: npt.ArrayLike) -> npt.NDArray[Any]:
        """Gradient with respect to the input of the last `forward`; sets `dgamma` and `dbeta`.

        After a forward pass in evaluation mode the statistics count as constants.

        Parameters
        ----------
        dout : array_like, shape (n_samples, n_features)
            Gradient of the loss with respect to the output.

        Returns
        -------
        ndarray, shape (n_samples, n_features)
            Gradient of the loss with respect to the input.

        Raises
        ------
        TypeError
            If `dout` does not hold real numbers.
        ValueError
            If the shape is not that of the last output.
        RuntimeError
            If `forward` has not been called.
        """
        if self._saved is None:
            raise RuntimeError("backward needs a call of forward first")
        x, mean, rstd, training = self._saved
        dout = _check.floats("dout", dout, 2, dtype=self.dtype, shape=x.shape)
        dx, dgamma, dbeta = _backward(dout, x, self._checked("gamma"), mean, rstd, training, np.empty_like(x))
        self.dgamma[...], self.dbeta[...] = dgamma, dbeta
        return dx
