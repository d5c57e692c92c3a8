"""The vector micro-kernels of the matrix products, and the few machine operations beside them.

A product is computed in tiles of ``rows`` x ``width`` elements held in vector registers.  All
operands are *blocked*: an array of shape (blocks, length, width), where the last axis holds
``width`` neighbouring rows or columns of the matrix.  Two kernels cover the three products of a
layer, because they differ only in how they walk through the operand whose elements are broadcast:

"along"   the sum runs along ``length``: element (r, k) stands at ``k * width + r``;
"across"  the sum runs along the blocks and inside them: element (r, k) stands at
          ``(k // width) * stride + r * width + k % width``.

The other operand is always read as one vector row of ``width`` elements for each k.

Width and tile are chosen from the processor's features.  Each kernel is compiled once, by itself, and
called by its address: inlined, LLVM mixes its registers with the caller's and spills.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

from nbnorm import simd
from nbnorm.compile import pointers
from nbnorm.functions import updates
from nbnorm.simd._emitted import Emitted as Value
from nbnorm.simd._emitted import emitting
from nbnorm.simd._types import Vector
from nbnorm.simd.target import target as processor

# ----------------------------------------------------------------------------------------------
# The machine
# ----------------------------------------------------------------------------------------------


class Tile(NamedTuple):
    """Shape of the register tile for one element type."""

    lanes: int  # elements of one vector register
    rows: int  # broadcast operand
    width: int  # vector operand, a multiple of lanes and of rows
    fma: bool


# (lanes, rows, width) for float32; float64 has half the lanes and half the width.
_TILES = {
    # 32 registers: 16 accumulators cover the latency of two FMA units (4 cycles) twice
    "avx512": Tile(16, 8, 32, True),
    # 16 registers: 8 accumulators, 2 vectors, the broadcast element
    "avx2": Tile(8, 4, 16, True),
    "neon": Tile(4, 4, 16, True),
    "plain": Tile(4, 4, 8, False),
}


@functools.cache
def tile(dtype: Any) -> Tile:
    """Return the register tile for float32 or float64."""
    got = _TILES[processor().instruction_set]
    if np.dtype(dtype) == np.float64:
        got = Tile(got.lanes // 2, min(got.rows, got.width // 2), got.width // 2, got.fma)
    return got


def empty_aligned(size: int, dtype: Any) -> npt.NDArray[Any]:
    """Return a zeroed one-dimensional array that begins at a cache line."""
    item = np.dtype(dtype).itemsize
    raw = np.zeros(size * item + 64, np.uint8)
    skip = -raw.ctypes.data % 64
    return raw[skip : skip + size * item].view(dtype)


# ----------------------------------------------------------------------------------------------
# Emission
# ----------------------------------------------------------------------------------------------

_I64 = ir.IntType(64)


def scalar_type(dtype: Any) -> Any:
    """Return LLVM's type for float32 or float64, given as for `numpy.dtype`."""
    return ir.FloatType() if np.dtype(dtype) == np.float32 else ir.DoubleType()


def _element(dtype: Any) -> Any:
    """Return LLVM's type for one of Numba's."""
    return scalar_type(str(dtype))


class Emitted:
    """A floating-point value, scalar or vector, in code that is being emitted, with the operators of numbers.

    Steps written with operators serve the interpreter's arrays as well.
    """

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value = builder, value

    def __add__(self, other: Emitted) -> Emitted:
        return Emitted(self.builder, self.builder.fadd(self.value, other.value))

    def __sub__(self, other: Emitted) -> Emitted:
        return Emitted(self.builder, self.builder.fsub(self.value, other.value))

    def __mul__(self, other: Emitted) -> Emitted:
        return Emitted(self.builder, self.builder.fmul(self.value, other.value))

    def __truediv__(self, other: Emitted) -> Emitted:
        return Emitted(self.builder, self.builder.fdiv(self.value, other.value))

    def __lt__(self, other: Emitted) -> Any:
        return self.builder.fcmp_ordered("<", self.value, other.value)


def emit_splat(builder: Any, value: Any, lanes: int) -> Any:
    """Return the vector with a value in every lane, or the value itself for a single lane."""
    if lanes == 1:
        return value
    undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    first = builder.insert_element(undefined, value, ir.IntType(32)(0))
    return builder.shuffle_vector(
        first, undefined, ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
    )


def emit_sqrt(builder: Any, value: Any, lanes: int) -> Any:
    """Return the square roots of float64 values: of a vector, or of one for a single lane."""
    name = "llvm.sqrt.f64" if lanes == 1 else f"llvm.sqrt.v{lanes}f64"
    kind = ir.FunctionType(value.type, [value.type])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [value])


def emit_prefetch(
    builder: Any, pointer: Any, size: int, *, ahead: int = 0, level: int = 1, write: bool = False
) -> None:
    """Ask for `size` bytes that begin `ahead` bytes behind `pointer`, into the cache of that level.

    It never faults, wherever the pointer leads.
    """
    byte, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag]), "llvm.prefetch.p0"
    )
    base = builder.bitcast(pointer, byte)
    for line in range(0, size, 64):
        place = builder.gep(base, [_I64(ahead + line)])
        builder.call(function, [place, flag(int(write)), flag(4 - level), flag(1)])


# What a micro-kernel may do with the gradient of a tile of weights: keep it; SGD, also with a penalty
# on the squares of the weights; AdamW.  Their numbers stand in an array of the weights' type: those of
# `nbnorm.functions.updates`, and PENALTY, which times the weight is added to the gradient.
UPDATES = ("store", "sgd", "penalized", "adam")
(MOMENTUM, SHRINK, RATE, AHEAD, PENALTY, FRESH, BETA2, FRESH2, CORRECTION2, LEAST, NUMBERS) = range(11)


def _signature(scalar: Any, kind: str) -> Any:
    """Type of a micro-kernel.

    broadcast, vector, weight, velocity, square, numbers, length, stride; or
    broadcast, vector, out, length, stride, accumulate.
    """
    pointer = scalar.as_pointer()
    kinds = [pointer] * 6 + [_I64] * 2 if kind in UPDATES else [pointer] * 3 + [_I64] * 3
    return ir.FunctionType(ir.VoidType(), kinds)


@functools.cache
def micro_kernel(kind: str, dtype: Any, *, half: bool = False) -> int:
    """Return the address of the micro-kernel "along", "across" or one of `UPDATES`.

    One of `half` the width leaves the second half of each row alone.
    """
    if config.DISABLE_JIT:
        return pointers.interpreted((kind, half))
    name = f"nbnorm_tile_{kind}_{'half_' if half else ''}{np.dtype(dtype)}"

    def write(module: Any) -> None:
        _Emitter(module, dtype, name, kind, half)

    return pointers.emitted(name, write)


def _emit_update(
    builder: Any, kind: str, vector: Any, pointers: Any, places: list[int], gradients: list[Any]
) -> None:
    """Write one of `UPDATES` for the vectors that stand `places` behind weight, velocity and square."""
    weight, velocity, square, numbers = pointers
    number_type = types.float32 if isinstance(vector.element, ir.FloatType) else types.float64

    def number(place: int) -> Value:
        pointer = builder.gep(numbers, [_I64(place)], inbounds=True)
        return Value(number_type, builder.load(pointer))

    def at(pointer: Any, place: int) -> Any:
        address = builder.gep(pointer, [_I64(place)], inbounds=True)
        return builder.bitcast(address, vector.as_pointer())

    def load(pointer: Any, place: int) -> Value:
        return Value(Vector(number_type, vector.count), builder.load(at(pointer, place), align=4))

    if kind == "store":
        for place, gradient in zip(places, gradients, strict=True):
            builder.store(gradient, at(velocity, place), align=4)
        return
    with emitting(None, builder):
        momentum, shrink, rate = (number(place) for place in (MOMENTUM, SHRINK, RATE))
        if kind == "adam":
            fresh, beta2, fresh2, correction2, least = (
                number(place) for place in (FRESH, BETA2, FRESH2, CORRECTION2, LEAST)
            )
        else:
            ahead = number(AHEAD)
        penalty = None if kind == "sgd" else number(PENALTY)
        for place, of_loss in zip(places, gradients, strict=True):
            w, v = load(weight, place), load(velocity, place)
            g = Value(w.kind, of_loss)
            g = g if penalty is None else simd.fma(penalty, w, g)
            if kind == "adam":
                s = load(square, place)
                w, v, s = updates.adam(
                    w, v, s, g, momentum, fresh, beta2, fresh2, rate, correction2, least, shrink
                )
                builder.store(s.value, at(square, place), align=4)
            else:
                w, v = updates.sgd(w, v, g, momentum, shrink, rate, ahead)
            builder.store(v.value, at(velocity, place), align=4)
            builder.store(w.value, at(weight, place), align=4)


@functools.cache
def vector_kernel(kind: str, dtype: Any) -> int:
    """Return the address of the kernel that updates as many elements as a tile has rows.

    `kind` is "store", "sgd" or "adam".  The numbers must have no decay and no penalty.
    """
    if config.DISABLE_JIT:
        return pointers.interpreted(kind)
    name = f"nbnorm_vector_{kind}_{np.dtype(dtype)}"

    def write(module: Any) -> None:
        shape = tile(dtype)
        scalar = scalar_type(dtype)
        function = ir.Function(module, _vector_signature(scalar), name)
        function.attributes.add("nounwind")
        builder = ir.IRBuilder(function.append_basic_block("entry"))
        vector = ir.VectorType(scalar, shape.rows)
        gradient = builder.load(builder.bitcast(function.args[3], vector.as_pointer()), align=4)
        pointers = [*function.args[:3], function.args[4]]
        _emit_update(builder, kind, vector, pointers, [0], [gradient])
        builder.ret_void()

    return pointers.emitted(name, write)


def _vector_signature(scalar: Any) -> Any:
    """Type of (vector, velocity, square, gradient, numbers)."""
    return ir.FunctionType(ir.VoidType(), [scalar.as_pointer()] * 5)


class _Emitter:
    """Writes one micro-kernel, which stores its tile or updates weights with it."""

    def __init__(self, module: Any, dtype: Any, name: str, kind: str, half: bool) -> None:
        self.kind = kind
        self.shape = tile(dtype)
        self.across = kind != "along"
        self.scalar = scalar_type(dtype)
        self.vector = ir.VectorType(self.scalar, self.shape.lanes)
        self.vectors = self.shape.width // self.shape.lanes // (2 if half else 1)
        self._item = np.dtype(dtype).itemsize
        self.module = module
        self.function = ir.Function(module, _signature(self.scalar, kind), name)
        self.function.attributes.add("nounwind")
        self._emit()

    def _vector_at(self, builder: Any, pointer: Any, offset: int) -> Any:
        address = builder.gep(pointer, [_I64(offset)], inbounds=True)
        return builder.bitcast(address, self.vector.as_pointer())

    def _load(self, builder: Any, pointer: Any, offset: int) -> Any:
        return builder.load(self._vector_at(builder, pointer, offset), align=4)

    def _multiply_add(self, builder: Any, a: Any, b: Any, c: Any) -> Any:
        if not self.shape.fma:
            return builder.fadd(builder.fmul(a, b), c)
        name = f"llvm.fma.v{self.shape.lanes}{self.scalar.intrinsic_name}"
        function = cgutils.get_or_insert_function(
            self.module, ir.FunctionType(self.vector, [self.vector] * 3), name
        )
        return builder.call(function, [a, b, c])

    def _step(self, builder: Any, broadcast: Any, vector: Any, k: int, sums: list[Any]) -> list[Any]:
        """Add the outer product of column `k` of the tile to the sums."""
        lanes, rows, width, _ = self.shape
        row = [self._load(builder, vector, k * width + v * lanes) for v in range(self.vectors)]
        result = []
        for r in range(rows):
            offset = r * width + k if self.across else k * width + r
            address = builder.gep(broadcast, [_I64(offset)], inbounds=True)
            splat = emit_splat(builder, builder.load(address), lanes)
            held = sums[r * self.vectors : (r + 1) * self.vectors]
            result += [self._multiply_add(builder, splat, x, y) for x, y in zip(row, held, strict=True)]
        return result

    def _loop(self, builder: Any, count: Any, unroll: int, state: list[Any]) -> list[Any]:
        """Emit ``count`` turns of `unroll` steps; `state` is [broadcast, vector, *sums]."""
        width = self.shape.width
        before = builder.block
        head = builder.append_basic_block("head")
        body = builder.append_basic_block("body")
        after = builder.append_basic_block("after")
        builder.branch(head)
        builder.position_at_end(head)
        turn = builder.phi(_I64)
        turn.add_incoming(_I64(0), before)
        phis = []
        for value in state:
            phi = builder.phi(value.type)
            phi.add_incoming(value, before)
            phis.append(phi)
        builder.cbranch(builder.icmp_signed("<", turn, count), body, after)
        builder.position_at_end(body)
        broadcast, vector, *sums = phis
        for k in range(unroll):
            sums = self._step(builder, broadcast, vector, k, sums)
        stride = unroll if self.across else unroll * width
        broadcast = builder.gep(broadcast, [_I64(stride)], inbounds=True)
        vector = builder.gep(vector, [_I64(unroll * width)], inbounds=True)
        for phi, value in zip(phis, [broadcast, vector, *sums], strict=True):
            phi.add_incoming(value, builder.block)
        turn.add_incoming(builder.add(turn, _I64(1)), builder.block)
        builder.branch(head)
        builder.position_at_end(after)
        return phis

    def _sum(self, builder: Any, length: Any, state: list[Any]) -> list[Any]:
        unroll = 4
        state = self._loop(builder, builder.sdiv(length, _I64(unroll)), unroll, state)
        return self._loop(builder, builder.srem(length, _I64(unroll)), 1, state)

    def _emit(self) -> None:
        rows = self.shape.rows
        builder = ir.IRBuilder(self.function.append_basic_block("entry"))
        broadcast, vector = self.function.args[:2]
        update = self.kind in UPDATES
        length, stride = self.function.args[6:8] if update else self.function.args[3:5]
        if update:  # the tile of weights arrives while the sum is made
            touched = {"store": (3,), "adam": (2, 3, 4)}.get(self.kind, (2, 3))
            for place in touched:
                pointer = self.function.args[place]
                emit_prefetch(builder, pointer, rows * self.shape.width * self._item, write=True)
        zero = ir.Constant(self.vector, None)
        state = [broadcast, vector] + [zero] * (rows * self.vectors)
        if not self.across:
            state = self._sum(builder, length, state)
        else:
            state = self._sum_across(builder, length, stride, state)
        if update:
            self._emit_update(builder, state[2:])
        else:
            self._emit_store(builder, state[2:])
        builder.ret_void()

    def _places(self) -> list[int]:
        lanes, rows, width, _ = self.shape
        return [r * width + v * lanes for r in range(rows) for v in range(self.vectors)]

    def _emit_update(self, builder: Any, sums: list[Any]) -> None:
        """Write the update of `UPDATES` that this kernel is for."""
        pointers = self.function.args[2:6]
        _emit_update(builder, self.kind, self.vector, pointers, self._places(), sums)

    def _emit_store(self, builder: Any, sums: list[Any]) -> None:
        """Write the tile, or add it to what stands there."""
        out, accumulate = self.function.args[2], self.function.args[5]
        add = builder.append_basic_block("add")
        done = builder.append_basic_block("done")
        plain = builder.block
        builder.cbranch(builder.icmp_signed("!=", accumulate, _I64(0)), add, done)
        builder.position_at_end(add)
        places = self._places()
        totals = [builder.fadd(self._load(builder, out, p), s) for p, s in zip(places, sums, strict=True)]
        builder.branch(done)
        builder.position_at_end(done)
        results = []
        for value, total in zip(sums, totals, strict=True):
            phi = builder.phi(self.vector)
            phi.add_incoming(value, plain)
            phi.add_incoming(total, add)
            results.append(phi)
        for place, phi in zip(places, results, strict=True):
            builder.store(phi, self._vector_at(builder, out, place), align=4)

    def _sum_across(self, builder: Any, length: Any, stride: Any, state: list[Any]) -> list[Any]:
        """Walk through the blocks of the broadcast operand; the last one may be short."""
        width = _I64(self.shape.width)
        before = builder.block
        head = builder.append_basic_block("block")
        body = builder.append_basic_block("inside")
        after = builder.append_basic_block("end")
        builder.branch(head)
        builder.position_at_end(head)
        left = builder.phi(_I64)
        left.add_incoming(length, before)
        phis = []
        for value in state:
            phi = builder.phi(value.type)
            phi.add_incoming(value, before)
            phis.append(phi)
        builder.cbranch(builder.icmp_signed(">", left, _I64(0)), body, after)
        builder.position_at_end(body)
        full = builder.icmp_signed(">", left, width)
        here = builder.select(full, width, left)
        start = phis[0]
        # The caller comes back for the rows beside these: they follow in memory.
        size = self.shape.rows * self.shape.width
        emit_prefetch(builder, builder.gep(start, [_I64(size)]), size * self._item)
        inner = self._sum(builder, here, list(phis))
        following = builder.gep(start, [stride], inbounds=True)
        for phi, value in zip(phis, [following, *inner[1:]], strict=True):
            phi.add_incoming(value, builder.block)
        left.add_incoming(builder.sub(left, width), builder.block)
        builder.branch(head)
        builder.position_at_end(after)
        return phis


_BYTE = ir.IntType(8)


def data_at(context: Any, builder: Any, array_type: Any, array: Any, offset: Any) -> Any:
    """Address of the element `offset` of a one-dimensional array."""
    data = cgutils.create_struct_proxy(array_type)(context, builder, array).data
    return builder.gep(data, [offset], inbounds=True)


def _tile_intrinsic() -> Any:
    def typer(
        typingctx: Any, place: Any, broadcast: Any, b: Any, vector: Any, v: Any, out: Any, o: Any,
        length: Any, stride: Any, add: Any,
    ) -> Any:  # fmt: skip
        i8 = types.int64
        signature = types.void(i8, broadcast, i8, vector, i8, out, i8, i8, i8, i8)

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            kind = _signature(_element(out.dtype), "along").as_pointer()
            pointers = [data_at(context, builder, sig.args[i], args[i], args[i + 1]) for i in (1, 3, 5)]
            builder.call(builder.inttoptr(args[0], kind), [*pointers, *args[7:]])
            return context.get_dummy_value()

        return signature, codegen

    typer.__name__ = typer.__qualname__ = "tile_product"
    return intrinsic(typer)


def _update_intrinsic() -> Any:
    def typer(
        typingctx: Any, place: Any, broadcast: Any, b: Any, vector: Any, v: Any, weight: Any, velocity: Any,
        square: Any, w: Any, s: Any, numbers: Any, k: Any, length: Any, stride: Any,
    ) -> Any:  # fmt: skip
        i8 = types.int64
        signature = types.void(
            i8, broadcast, i8, vector, i8, weight, velocity, square, i8, i8, numbers, i8, i8, i8
        )

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            kind = _signature(_element(weight.dtype), "sgd").as_pointer()
            places = ((1, 2), (3, 4), (5, 8), (6, 8), (7, 9), (10, 11))
            pointers = [data_at(context, builder, sig.args[i], args[i], args[j]) for i, j in places]
            builder.call(builder.inttoptr(args[0], kind), [*pointers, *args[12:]])
            return context.get_dummy_value()

        return signature, codegen

    typer.__name__ = typer.__qualname__ = "tile_update"
    return intrinsic(typer)


def _constant_intrinsic(name: str, field: str) -> Any:
    def typer(typingctx: Any, array: Any) -> Any:
        value = int(getattr(tile(np.float32 if array.dtype == types.float32 else np.float64), field))

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return context.get_constant(types.int64, value)

        return types.int64(array), codegen

    typer.__name__ = typer.__qualname__ = name
    return intrinsic(typer)


def transpose_registers(builder: Any, rows: list[Any]) -> list[Any]:
    """Transpose a square held in as many vectors as each has lanes."""
    size = len(rows)
    rows = list(rows)
    mask = ir.VectorType(ir.IntType(32), size)
    half = 1
    while half < size:  # exchange the off-diagonal blocks, in growing size
        upper = ir.Constant(mask, [k if not k & half else size + k - half for k in range(size)])
        lower = ir.Constant(mask, [k + half if not k & half else size + k for k in range(size)])
        for i in range(size):
            if not i & half:
                a, b = rows[i], rows[i + half]
                rows[i] = builder.shuffle_vector(a, b, upper)
                rows[i + half] = builder.shuffle_vector(a, b, lower)
        half *= 2
    return rows


class _Transpose:
    """Emits the transposition of a square of ``rows`` x ``rows`` elements in registers.

    Source and its stride may be any number of bytes, the target's stride is elements.
    """

    def __init__(self, module: Any, dtype: Any) -> None:
        self.size = tile(np.float32 if dtype == types.float32 else np.float64).rows
        self.scalar = _element(dtype)
        self.vector = ir.VectorType(self.scalar, self.size)
        pointer = self.scalar.as_pointer()
        name = f"nbnorm_transpose_{dtype}"
        self.function = module.globals.get(name)
        if self.function is None:
            signature = ir.FunctionType(ir.VoidType(), [_BYTE.as_pointer(), _I64, pointer, _I64])
            self.function = ir.Function(module, signature, name)
            self.function.linkage = "linkonce_odr"
            self.function.attributes.add("alwaysinline")
            self.function.attributes.add("nounwind")
            self._emit()

    def _emit(self) -> None:
        source, source_stride, target, target_stride = self.function.args
        builder = ir.IRBuilder(self.function.append_basic_block("entry"))
        lanes = range(self.size)

        def place(base: Any, stride: Any, i: int) -> Any:
            address = builder.gep(base, [builder.mul(stride, _I64(i))], inbounds=True)
            return builder.bitcast(address, self.vector.as_pointer())

        rows = [builder.load(place(source, source_stride, i), align=1) for i in lanes]
        rows = transpose_registers(builder, rows)
        for i in lanes:
            builder.store(rows[i], place(target, target_stride, i), align=4)
        builder.ret_void()


# Element types that `peek` reads where they lie, by code.
PEEK_DTYPES = tuple(
    np.dtype(name)
    for name in (
        "uint8",
        "float32",
        "float64",
        "int8",
        "int16",
        "uint16",
        "int32",
        "uint32",
        "int64",
        "uint64",
    )
)

if config.DISABLE_JIT:

    def tile_product(
        place: int, broadcast: Any, b: int, vector: Any, v: int, out: Any, o: int, length: int, stride: int,
        add: int,
    ) -> None:  # fmt: skip
        """Compute one tile with the micro-kernel at `place`, "along" or "across"."""
        _, rows, width, _ = tile(out.dtype)
        k = np.arange(length)[:, None]
        if pointers.piece_at(place)[0] == "along":
            left = broadcast[b + k * width + np.arange(rows)]
        else:
            left = broadcast[b + k // width * stride + np.arange(rows) * width + k % width]
        with np.errstate(all="ignore"):  # compiled code does not warn
            product = left.T @ vector[v : v + length * width].reshape(length, width)
        target = out[o : o + rows * width].reshape(rows, width)
        target[:] = target + product if add else product

    def tile_update(
        place: int, broadcast: Any, b: int, vector: Any, v: int, weight: Any, velocity: Any, square: Any,
        w: int, s: int, numbers: Any, k: int, length: int, stride: int,
    ) -> None:  # fmt: skip
        """Compute one tile of a gradient and update the weights with the micro-kernel at `place`."""
        _, rows, width, _ = tile(weight.dtype)
        g = np.empty(rows * width, weight.dtype)
        tile_product(micro_kernel("across", weight.dtype), broadcast, b, vector, v, g, 0, length, stride, 0)
        kind, half = pointers.piece_at(place)
        for r in range(0, rows * width, width):
            size = width // 2 if half else width
            _update(kind, weight, velocity, square, w + r, s + r, size, g[r : r + size], numbers, k)

    def _update(
        kind: str, weight: Any, velocity: Any, square: Any, w: int, s: int, size: int, g: Any, numbers: Any,
        k: int,
    ) -> None:  # fmt: skip
        here, there = weight[w : w + size], velocity[w : w + size]
        if kind == "store":
            there[:] = g
            return
        c = numbers[k : k + NUMBERS]
        if kind != "sgd":
            g = g + c[PENALTY] * here
        if kind == "adam":
            seconds = square[s : s + size]
            constants = (c[n] for n in (MOMENTUM, FRESH, BETA2, FRESH2, RATE, CORRECTION2, LEAST, SHRINK))
            here[:], there[:], seconds[:] = updates.adam(here, there, seconds, g, *constants)
        else:
            here[:], there[:] = updates.sgd(here, there, g, *(c[n] for n in (MOMENTUM, SHRINK, RATE, AHEAD)))

    def vector_update(
        place: int, vector: Any, velocity: Any, square: Any, at: int, s: int, gradient: Any, g: int,
        numbers: Any, k: int,
    ) -> None:  # fmt: skip
        """Update as many elements as a tile has rows with the kernel at `place`."""
        size, slopes = tile(vector.dtype).rows, gradient[g : g + tile(vector.dtype).rows]
        _update(pointers.piece_at(place), vector, velocity, square, at, s, size, slopes, numbers, k)

    def tile_width(array: Any) -> int:
        """Return the width of a block."""
        return tile(array.dtype).width

    def tile_rows(array: Any) -> int:
        """Return the number of rows of a tile."""
        return tile(array.dtype).rows

    def transpose(source: Any, i: int, source_stride: int, target: Any, j: int, target_stride: int) -> None:
        """Copy a square of as many rows as a tile has, transposed."""
        for r in range(tile(source.dtype).rows):
            for c in range(tile(source.dtype).rows):
                target[j + c * target_stride + r] = source[i + r * source_stride + c]

    def get(array: Any, i: int) -> Any:
        """Return ``array[i]``."""
        return array[i]

    def put(array: Any, i: int, value: Any) -> None:
        """Store ``array[i] = value``."""
        array[i] = value

    def peek(address: int, offset: int, token: Any) -> Any:
        """Return the element of type `token` that stands `offset` bytes after `address`."""
        size = np.dtype(token).itemsize
        return np.frombuffer(ctypes.string_at(int(address + offset), size), token)[0]

else:
    tile_product = _tile_intrinsic()
    tile_update = _update_intrinsic()

    @intrinsic
    def vector_update(
        typingctx: Any, place: Any, vector: Any, velocity: Any, square: Any, at: Any, s: Any, gradient: Any,
        g: Any, numbers: Any, k: Any,
    ) -> Any:  # fmt: skip
        """Update as many elements as a tile has rows with the kernel at `place`."""
        i8 = types.int64

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            kind = _vector_signature(_element(vector.dtype)).as_pointer()
            places = ((1, 4), (2, 4), (3, 5), (6, 7), (8, 9))
            pointers = [data_at(context, builder, sig.args[i], args[i], args[j]) for i, j in places]
            builder.call(builder.inttoptr(args[0], kind), pointers)
            return context.get_dummy_value()

        return types.void(i8, vector, velocity, square, i8, i8, gradient, i8, numbers, i8), codegen

    tile_width = _constant_intrinsic("tile_width", "width")
    tile_rows = _constant_intrinsic("tile_rows", "rows")

    @intrinsic
    def transpose(typingctx: Any, source: Any, i: Any, si: Any, target: Any, j: Any, sj: Any) -> Any:
        """Copy a square of as many rows as a tile has, transposed."""
        i8 = types.int64

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            emitted = _Transpose(builder.module, sig.args[0].dtype)
            here = data_at(context, builder, sig.args[0], args[0], args[1])
            there = data_at(context, builder, sig.args[3], args[3], args[4])
            stride = builder.mul(args[2], _I64(sig.args[0].dtype.bitwidth // 8))
            builder.call(
                emitted.function, [builder.bitcast(here, _BYTE.as_pointer()), stride, there, args[5]]
            )
            return context.get_dummy_value()

        return types.void(source, i8, i8, target, i8, i8), codegen

    @intrinsic
    def get(typingctx: Any, array: Any, i: Any) -> Any:
        """Return ``array[i]`` without Numba's handling of negative indices, which hinders vectors."""

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return builder.load(data_at(context, builder, sig.args[0], args[0], args[1]))

        return array.dtype(array, types.int64), codegen

    @intrinsic
    def put(typingctx: Any, array: Any, i: Any, value: Any) -> Any:
        """Store ``array[i] = value``, the counterpart of `get`."""

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            builder.store(args[2], data_at(context, builder, sig.args[0], args[0], args[1]))
            return context.get_dummy_value()

        return types.void(array, types.int64, array.dtype), codegen

    @intrinsic
    def peek(typingctx: Any, address: Any, offset: Any, token: Any) -> Any:
        """Return the element of type `token` that stands `offset` bytes after `address`."""
        dtype = token.dtype

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            base = builder.inttoptr(args[0], ir.IntType(8).as_pointer())
            place = builder.gep(base, [args[1]])
            pointer = builder.bitcast(place, context.get_data_type(dtype).as_pointer())
            return builder.load(pointer, align=1)

        return dtype(types.int64, types.int64, token), codegen
