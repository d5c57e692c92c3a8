"""Matrix product on the register tiles of `nbnorm.simd`, deterministic for any number of threads.

The sum over k runs in pieces of fixed length, in order.  Of each piece both operands are packed into
blocks of the tile's width; then every tile of the result is computed by the micro-kernel "along" and
stored, or added to what the pieces before have left.
"""

from __future__ import annotations

import functools
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import config as numba_config
from numba import types
from numba.extending import intrinsic as numba_intrinsic

from nbnorm._jit import kernel, parallel_kernel
from nbnorm.simd import (
    data_at,
    emit_prefetch,
    micro_kernel,
    peek,
    put,
    tile,
    tile_product,
    tile_rows,
    tile_width,
    transpose_from,
)

# Without type hints of their own.
config: Any = numba_config
intrinsic: Any = numba_intrinsic

# Length of a piece of the sum.  A piece of a packed block is 64 KB, so that the blocks of `_GROUP` tiles
# and the block that they are multiplied by stay in the second-level cache.
_DEPTH = 512

# Tiles below each other that share a block of the right operand before the next one is read.
_GROUP = 16

# Parts into which the result is divided, along its longer side.
_PARTS = 16

# Neighbouring blocks that are packed together if that reads longer pieces of memory.
_TOGETHER = 4


def _emit_unload(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    """Emit the way of a tile from `scratch` to `out`, whose rows are `stride` elements apart."""
    scratch, s, out, o, stride, add = args
    kind = signature.args[0].dtype
    lanes, rows, width, _ = tile(np.dtype(kind.name))
    vector, word = ir.VectorType(context.get_data_type(kind), lanes), ir.IntType(64)
    source = data_at(context, builder, signature.args[0], scratch, s)
    target = data_at(context, builder, signature.args[2], out, o)
    size = kind.bitwidth // 8

    def emit(add: bool) -> None:
        row = target
        for r in range(rows):
            for v in range(0, width, lanes):
                here = builder.bitcast(builder.gep(source, [word(r * width + v)]), vector.as_pointer())
                there = builder.bitcast(builder.gep(row, [word(v)]), vector.as_pointer())
                value = builder.load(here, align=size)
                if add:
                    value = builder.fadd(builder.load(there, align=size), value)
                builder.store(value, there, align=size)
            row = builder.gep(row, [stride])

    with builder.if_else(builder.icmp_signed("!=", add, word(0))) as (then, otherwise):
        with then:
            emit(True)
        with otherwise:
            emit(False)
    return context.get_dummy_value()


def _emit_await(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    """Emit the request for a tile of `out`, which arrives while the tile is computed."""
    out, o, stride = args
    kind = signature.args[0].dtype
    _, rows, width, _ = tile(np.dtype(kind.name))
    row = data_at(context, builder, signature.args[0], out, o)
    for _ in range(rows):
        emit_prefetch(builder, row, width * kind.bitwidth // 8, write=True)
        row = builder.gep(row, [stride])
    return context.get_dummy_value()


def _emit_copy(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    """Emit the copy of one vector row of a block."""
    address, offset, packed, base = args
    kind = signature.args[2].dtype
    lanes, _, width, _ = tile(np.dtype(kind.name))
    vector, word = ir.VectorType(context.get_data_type(kind), lanes), ir.IntType(64)
    size = kind.bitwidth // 8
    source = builder.gep(builder.inttoptr(address, ir.IntType(8).as_pointer()), [offset])
    target = data_at(context, builder, signature.args[2], packed, base)
    for v in range(0, width, lanes):
        here = builder.bitcast(builder.gep(source, [word(v * size)]), vector.as_pointer())
        there = builder.bitcast(builder.gep(target, [word(v)]), vector.as_pointer())
        builder.store(builder.load(here, align=1), there, align=size)
    return context.get_dummy_value()


if config.DISABLE_JIT:

    def _unload(scratch: Any, s: int, out: Any, o: int, stride: int, add: int) -> None:
        """Store a tile in the flat `out`, or add it."""
        _, rows, width, _ = tile(scratch.dtype)
        for r in range(rows):
            target = out[o + r * stride : o + r * stride + width]
            row = scratch[s + r * width : s + (r + 1) * width]
            target[:] = target + row if add else row

    def _await(out: Any, o: int, stride: int) -> None:
        """Ask for a tile of the flat `out`."""

    def _copy(address: int, offset: int, packed: Any, base: int) -> None:
        """Copy as many elements as a block is wide."""
        for r in range(tile_width(packed)):
            packed[base + r] = peek(address, offset + r * packed.itemsize, packed.dtype.type)

else:

    @intrinsic
    def _unload(typingctx: Any, scratch: Any, s: Any, out: Any, o: Any, stride: Any, add: Any) -> Any:
        """Store a tile in the flat `out`, or add it."""
        i8 = types.int64
        return types.void(scratch, i8, out, i8, i8, i8), _emit_unload

    @intrinsic
    def _await(typingctx: Any, out: Any, o: Any, stride: Any) -> Any:
        """Ask for a tile of the flat `out`."""
        return types.void(out, types.int64, types.int64), _emit_await

    @intrinsic
    def _copy(typingctx: Any, address: Any, offset: Any, packed: Any, base: Any) -> Any:
        """Copy as many elements as a block is wide."""
        return types.void(types.int64, types.int64, packed, types.int64), _emit_copy


@kernel
def _pack(
    address: Any, across: Any, along: Any, count: Any, length: Any, item: Any, packed: Any, base: Any
) -> None:
    """Copy `count` rows of `length` elements into blocks (length, width) at `base`.

    Rows stand `across` bytes apart, elements `along` bytes.  Rows that are missing become zero.
    """
    width, rows = tile_width(packed), tile_rows(packed)
    token = packed.dtype.type
    size = length * width
    done = 0
    if across == item:
        done = count // width * width
        for k in range(length):
            for r in range(0, done, width):
                _copy(address, k * along + r * item, packed, base + r * length + k * width)
    # Squares are read by whole elements: rows of packed records may stand at odd bytes.
    elif along == item and across % item == 0:
        done = count // rows * rows
        whole = length // rows * rows
        for r in range(0, done, rows):
            here = base + r // width * size + r % width
            for k in range(0, whole, rows):
                transpose_from(address, r * across + k * item, across, packed, here + k * width, width)
            for k in range(whole, length):
                for x in range(rows):
                    put(packed, here + k * width + x, peek(address, (r + x) * across + k * item, token))
    for r in range(done, count):
        here = base + r // width * size + r % width
        for k in range(length):
            put(packed, here + k * width, peek(address, r * across + k * along, token))
    for r in range(count, (count + width - 1) // width * width):
        here = base + r // width * size + r % width
        for k in range(length):
            put(packed, here + k * width, token(0))


@kernel
def _tiles(
    row: Any, last_row: Any, column: Any, last_column: Any, start: Any, depth: Any, along: Any, room: Any,
    left: Any, right: Any, scratch: Any, m: Any, n: Any, out: Any, down: Any, across: Any,
) -> None:  # fmt: skip
    """Compute the tiles of some rows of tiles and some columns of blocks from the packed operands.

    In `out`, rows stand `down` elements apart and columns `across`.
    """
    width, rows = tile_width(room), tile_rows(room)
    add = 1 if start > 0 else 0
    for group in range(row, last_row, _GROUP):
        for j in range(column, last_column):
            columns = min(width, n - j * width)
            for r in range(group, min(group + _GROUP, last_row)):
                top = r * rows
                whole = across == 1 and columns == width and top + rows <= m
                place = top * down + j * width * across
                if whole:
                    _await(out, place, down)
                here = left + top // width * width * depth + top % width
                there = right + j * width * depth
                tile_product(along, room, here, room, there, room, scratch, depth, 0, 0)
                if whole:
                    _unload(room, scratch, out, place, down, add)
                    continue
                for c in range(columns):
                    for x in range(min(rows, m - top)):
                        value = room[scratch + x * width + c]
                        if add:
                            value += out[place + x * down + c * across]
                        out[place + x * down + c * across] = value


@parallel_kernel
def _product(
    a: Any, a_row: Any, a_column: Any, b: Any, b_row: Any, b_column: Any, m: Any, n: Any, depth: Any,
    along: Any, room: Any, out: Any, down: Any, across: Any,
) -> None:  # fmt: skip
    """``out[m, n] = a[m, depth] @ b[depth, n]``; `room` is a workspace.

    `out` is flat, with rows `down` elements apart and columns `across`.
    """
    width, rows = tile_width(room), tile_rows(room)
    item = room.itemsize
    row_tiles, column_blocks = (m + rows - 1) // rows, (n + width - 1) // width
    longest = min(depth, _DEPTH)
    scratch = -room.ctypes.data % 64 // item  # begins at a cache line
    left = scratch + _PARTS * rows * width
    right = left + (m + width - 1) // width * width * longest
    high = row_tiles >= column_blocks
    # blocks of the right operand beside each other in memory are packed together
    left_span = width * (_TOGETHER if a_row == item else 1)
    right_span = width * (_TOGETHER if b_column == item else 1)
    left_tasks, right_tasks = (m + left_span - 1) // left_span, (n + right_span - 1) // right_span
    for start in range(0, depth, _DEPTH):
        length = min(_DEPTH, depth - start)
        for task in numba.prange(left_tasks + right_tasks):
            if task < left_tasks:
                first = task * left_span
                address = a + first * a_row + start * a_column
                count, base = min(left_span, m - first), left + first * length
                _pack(address, a_row, a_column, count, length, item, room, base)
            else:
                first = (task - left_tasks) * right_span
                address = b + first * b_column + start * b_row
                count, base = min(right_span, n - first), right + first * length
                _pack(address, b_column, b_row, count, length, item, room, base)
        for part in numba.prange(_PARTS):
            top, bottom, near, far = 0, row_tiles, 0, column_blocks
            if high:
                top, bottom = row_tiles * part // _PARTS, row_tiles * (part + 1) // _PARTS
            else:
                near, far = column_blocks * part // _PARTS, column_blocks * (part + 1) // _PARTS
            place = scratch + part * rows * width
            _tiles(
                top,
                bottom,
                near,
                far,
                start,
                length,
                along,
                room,
                left,
                right,
                place,
                m,
                n,
                out,
                down,
                across,
            )


def multiply(a: npt.NDArray[Any], b: npt.NDArray[Any], out: npt.NDArray[Any]) -> None:
    """Write the matrix product ``a @ b`` into `out`.

    Parameters
    ----------
    a : ndarray, shape (m, k)
        Left operand, float32 or float64, of any strides.
    b : ndarray, shape (k, n)
        Right operand, of the same dtype and any strides.
    out : ndarray, shape (m, n)
        Result, C-contiguous, of the same dtype; must not overlap the operands.
    """
    m, depth = a.shape
    n = b.shape[1]
    dtype = out.dtype
    if depth == 0:
        out[...] = 0
        return
    _, rows, width, _ = tile(dtype)
    down, across = n, 1
    if _padded(n, m, rows, width) < 0.9 * _padded(m, n, rows, width):
        # The transposed product wastes fewer elements of the tiles at the edges.
        a, b, m, n, down, across = b.T, a.T, n, m, 1, n
    blocks = -(-m // width) - (-n // width)
    line = 64 // dtype.itemsize
    size = blocks * width * min(depth, _DEPTH) + _PARTS * rows * width + line
    _product(
        # a product of 50 thousand multiplications takes about as long as a parallel region of copying
        m * n * depth // 16,
        _address(a),
        *a.strides,
        _address(b),
        *b.strides,
        m,
        n,
        depth,
        _along(dtype),
        np.empty(size, dtype),
        out.reshape(-1),
        down,
        across,
    )


def _padded(m: int, n: int, rows: int, width: int) -> int:
    """Return the elements of all tiles of a result."""
    return -(-m // rows) * rows * -(-n // width) * width


@functools.cache
def _along(dtype: np.dtype[Any]) -> int:
    """Return the address of the micro-kernel; it costs more than a small product to ask for it."""
    return micro_kernel("along", dtype)


@kernel
def _place(x: Any) -> Any:
    """Return the address of an array."""
    return x.ctypes.data


def _address(x: npt.NDArray[Any]) -> int:
    """Return the address of a matrix, by the shortest way there is."""
    if x.flags.behaved and x.size > 0:
        return int(_place(x[:1, 0]))
    return int(x.__array_interface__["data"][0])
