"""Matrix product on the micro-kernels of `nbnorm.simd`, deterministic for any number of threads.

The sum over k runs in pieces of fixed length, in order.  Operands are read where they lie if their
elements are neighbours in the order that a kernel needs and a tile's part of them stays in the cache;
otherwise each piece of them is packed first.  Every tile of the result is computed by a kernel that
stores it, or adds it to what the pieces before have left; tiles at the edges have kernels of their own.

All of that is planned once for each combination of shapes and strides: a small product takes less time
than its plan, and even than a look-up in Python, so that its kernel finds the plan by itself.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, cast

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import config as numba_config
from numba import types
from numba.extending import intrinsic as numba_intrinsic

from nbnorm._check import readable
from nbnorm._jit import inner_kernel, kernel, parallel_kernel
from nbnorm.simd import (
    borrow,
    data_at,
    peek,
    product_kernel,
    product_rows,
    product_tile,
    put,
    tile,
    tile_rows,
    tile_width,
    transpose_from,
    transpose_registers,
)

# Without type hints of their own.
config: Any = numba_config
intrinsic: Any = numba_intrinsic

# Bytes of a block of the right operand in one piece of the sum: the first-level cache of many processors.
# The left operand's rows pass by, and shorter pieces, which leave room for them, were not faster.
_BLOCK = 32768

# Bytes of the left operand that pass by one block of the right one: half of the second-level cache.
_GROUP = 131072

# Parts into which the result is divided, along its longer side.
_PARTS = 16

# Neighbouring blocks that are packed together if that reads longer pieces of memory.
_TOGETHER = 4

# Bytes between the first and the last element of a piece of an operand that is read where it lies: it
# stays in the second-level cache, also where strides are powers of two.
_SPAN = 262144

# Rows of tiles that must read a block of the right operand to make up for packing it.
_REUSE = 16

# Multiplications of a product that is so small that its call takes a part of its time.
_SMALL = 1 << 19

# Plans of small products that are kept for each dtype: a prime number, as those of a hash table.
_PLANS = 251

# Columns of the left operand that are packed together: not fewer than the rows of a tile.
_SQUARE = 8

# Places in a plan (int64).
(
    M,
    N,
    DEPTH,
    LEFT_ROW,  # bytes between rows and columns of the left operand
    LEFT_COLUMN,
    RIGHT_ROW,
    RIGHT_COLUMN,
    DOWN,  # elements between rows and columns of the result
    ACROSS,
    LENGTH,  # of a piece of the sum
    GROUP,  # rows of tiles that share a block of the right operand before the next one is read
    ROWS,  # of a tile
    LEFT_PACKED,  # whether an operand is packed
    RIGHT_PACKED,
    INNER,  # addresses of kernels: of whole tiles, at the right, at the bottom, in the corner
    RIGHT_EDGE,
    BOTTOM,
    CORNER,
    STRIDE,  # of the left operand as kernels see it
    ROW_TILES,  # of the result
    COLUMN_BLOCKS,
    LEFT_PLACE,  # in the workspace: of the packed operands, after a tile for each part of the result
    RIGHT_PLACE,
    ROOM,  # elements of the workspace
    SWAPPED,  # whether the transposed product is computed
    KEY,  # m, k, n and the strides of both operands, in bytes
) = range(26)
PLAN = KEY + 7


def _emit_transpose_rows(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    """Emit the copy of `_SQUARE` columns of as many elements as a tile of a product has rows."""
    address, offset, stride, packed, base = args
    kind = signature.args[3].dtype
    scalar, word, rows, size = context.get_data_type(kind), ir.IntType(64), product_rows(), kind.bitwidth // 8
    vector, short = ir.VectorType(scalar, _SQUARE), ir.VectorType(scalar, rows)
    source = builder.gep(builder.inttoptr(address, ir.IntType(8).as_pointer()), [offset])
    target = data_at(context, builder, signature.args[3], packed, base)
    held = [ir.Constant(vector, ir.Undefined)] * _SQUARE
    for r in range(rows):
        here = builder.gep(source, [builder.mul(stride, word(r))])
        held[r] = builder.load(builder.bitcast(here, vector.as_pointer()), align=1)
    mask = ir.Constant(ir.VectorType(ir.IntType(32), rows), list(range(rows)))
    for k, column in enumerate(transpose_registers(builder, held)):
        there = builder.bitcast(builder.gep(target, [word(k * rows)]), short.as_pointer())
        builder.store(builder.shuffle_vector(column, column, mask), there, align=size)
    return context.get_dummy_value()


if config.DISABLE_JIT:

    def _transpose_rows(address: int, offset: int, stride: int, packed: Any, base: int) -> None:
        """Copy `_SQUARE` columns of as many elements as a tile of a product has rows."""
        rows = product_rows()
        for k in range(_SQUARE):
            for r in range(rows):
                place = offset + r * stride + k * packed.itemsize
                packed[base + k * rows + r] = peek(address, place, packed.dtype.type)

    def _copy_intrinsic(name: str, count: Callable[[Any], int]) -> Any:
        def copy(address: int, offset: int, packed: Any, base: int) -> None:
            for r in range(count(packed.dtype)):
                packed[base + r] = peek(address, offset + r * packed.itemsize, packed.dtype.type)

        copy.__name__ = copy.__qualname__ = name
        return copy

else:

    def _copy_intrinsic(name: str, count: Callable[[Any], int]) -> Any:
        def typer(typingctx: Any, address: Any, offset: Any, packed: Any, base: Any) -> Any:
            elements = count(np.dtype(packed.dtype.name))

            def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
                vector = ir.VectorType(context.get_data_type(packed.dtype), elements).as_pointer()
                source = builder.gep(builder.inttoptr(args[0], ir.IntType(8).as_pointer()), [args[1]])
                target = data_at(context, builder, sig.args[2], args[2], args[3])
                value = builder.load(builder.bitcast(source, vector), align=1)
                builder.store(value, builder.bitcast(target, vector), align=packed.dtype.bitwidth // 8)
                return context.get_dummy_value()

            return types.void(types.int64, types.int64, packed, types.int64), codegen

        typer.__name__ = typer.__qualname__ = name
        return intrinsic(typer)

    @intrinsic
    def _transpose_rows(
        typingctx: Any, address: Any, offset: Any, stride: Any, packed: Any, base: Any
    ) -> Any:
        """Copy `_SQUARE` columns of as many elements as a tile of a product has rows."""
        i8 = types.int64
        return types.void(i8, i8, i8, packed, i8), _emit_transpose_rows


# Copy as many elements as a block is wide, or as a tile of a product has rows.
_copy_width = _copy_intrinsic("_copy_width", lambda dtype: tile(dtype).width)
_copy_rows = _copy_intrinsic("_copy_rows", lambda dtype: product_rows())


@inner_kernel
def _workspace(room: Any) -> Any:
    """Return the first element of `room` that begins at a cache line: places are counted from it."""
    return -room.ctypes.data % 64 // room.itemsize


@inner_kernel
def _pack_columns(plan: Any, b: Any, start: Any, first: Any, count: Any, packed: Any) -> None:
    """Copy a piece of `count` columns of the right operand into blocks (length, width).

    The piece begins in row `start`, `first` fills whole blocks.
    """
    across, along, item = plan[RIGHT_COLUMN], plan[RIGHT_ROW], packed.itemsize
    length = min(plan[LENGTH], plan[DEPTH] - start)
    address = b + first * across + start * along
    base = _workspace(packed) + plan[RIGHT_PLACE] + first * length
    width, rows = tile_width(packed), tile_rows(packed)
    token = packed.dtype.type
    size = length * width
    done = 0
    if across == item:
        done = count // width * width
        for k in range(length):
            for r in range(0, done, width):
                _copy_width(address, k * along + r * item, packed, base + r * length + k * width)
    elif along == item:
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


@inner_kernel
def _pack_rows(plan: Any, a: Any, start: Any, first: Any, count: Any, packed: Any) -> None:
    """Copy a piece of `count` rows of the left operand into blocks (length, rows).

    The piece begins in column `start`, `first` fills whole blocks.
    """
    down, along, rows = plan[LEFT_ROW], plan[LEFT_COLUMN], plan[ROWS]
    token, item = packed.dtype.type, packed.itemsize
    length = min(plan[LENGTH], plan[DEPTH] - start)
    address = a + first * down + start * along
    base = _workspace(packed) + plan[LEFT_PLACE] + first * length
    done, whole = count // rows * rows, length // _SQUARE * _SQUARE
    if down == item:
        for k in range(length):
            for top in range(0, done, rows):
                _copy_rows(address, top * item + k * along, packed, base + top * length + k * rows)
    elif along == item:
        for top in range(0, done, rows):
            for k in range(0, whole, _SQUARE):
                _transpose_rows(address, top * down + k * item, down, packed, base + top * length + k * rows)
            for k in range(whole, length):
                for r in range(rows):
                    value = peek(address, (top + r) * down + k * item, token)
                    put(packed, base + top * length + k * rows + r, value)
    else:
        done = 0
    for r in range(done, count):
        here = base + r // rows * rows * length + r % rows
        for k in range(length):
            put(packed, here + k * rows, peek(address, r * down + k * along, token))


@inner_kernel
def _tiles(
    plan: Any, a: Any, b: Any, start: Any, place: Any, top: Any, bottom: Any, near: Any, far: Any, room: Any,
    out: Any,
) -> None:  # fmt: skip
    """Compute the tiles of rows of tiles [top, bottom) and columns of blocks [near, far).

    `a` and `b` are the addresses of the operands, `start` begins the piece of the sum that is computed or,
    if it is not the first, added.  `place` is that of a tile in the workspace, for this call alone.
    """
    width, item, free = tile_width(room), room.itemsize, _workspace(room)
    m, n, rows, down, across = plan[M], plan[N], plan[ROWS], plan[DOWN], plan[ACROSS]
    stride = plan[STRIDE]
    length, add = min(plan[LENGTH], plan[DEPTH] - start), 1 if start > 0 else 0
    target, here = out.ctypes.data, room.ctypes.data
    scratch, right = free + place, free + plan[RIGHT_PLACE]
    if plan[LEFT_PACKED] == 1:
        left, step = here + (free + plan[LEFT_PLACE]) * item, rows * length * item
    else:
        left, step = a + start * plan[LEFT_COLUMN], rows * plan[LEFT_ROW]
    right_packed, first = plan[RIGHT_PACKED] == 1, b + start * plan[RIGHT_ROW]
    for group in range(top, bottom, plan[GROUP]):
        for j in range(near, far):
            columns = min(width, n - j * width)
            narrow = columns < width
            if right_packed:
                source, apace = here + (right + j * width * length) * item, width * item
            else:
                source, apace = first + j * width * item, plan[RIGHT_ROW]
            for r in range(group, min(group + plan[GROUP], bottom)):
                short = m - r * rows < rows
                if narrow:
                    code = plan[CORNER] if short else plan[RIGHT_EDGE]
                else:
                    code = plan[BOTTOM] if short else plan[INNER]
                at = r * rows * down + j * width * across
                if across == 1:
                    product_tile(
                        code, left + r * step, source, target + at * item, length, stride, apace,
                        down * item, add,
                    )  # fmt: skip
                    continue
                product_tile(
                    code, left + r * step, source, here + scratch * item, length, stride, apace,
                    width * item, 0,
                )  # fmt: skip
                for c in range(columns):
                    for x in range(min(rows, m - r * rows)):
                        value = room[scratch + x * width + c]
                        if add != 0:
                            value += out[at + x * down + c * across]
                        out[at + x * down + c * across] = value


@parallel_kernel
def _product(plan: Any, left: Any, right: Any, room: Any, out: Any) -> None:
    """``out = left @ right`` as `plan` says.

    `left` and `right` hold the first element of each operand; `room` is a workspace.
    """
    a, b, width = left.ctypes.data, right.ctypes.data, tile_width(room)
    m, n, rows = plan[M], plan[N], plan[ROWS]
    row_tiles, column_blocks = plan[ROW_TILES], plan[COLUMN_BLOCKS]
    # every part reads the operand that is not divided: the smaller one, if the other has a block for each
    by_rows = m > n if column_blocks >= _PARTS else row_tiles >= column_blocks
    flat = out.reshape(-1)
    # what is neighboured in memory is packed together
    left_span = rows * 16
    right_span = width * (_TOGETHER if plan[RIGHT_COLUMN] == room.itemsize else 1)
    left_tasks = (m + left_span - 1) // left_span if plan[LEFT_PACKED] == 1 else 0
    right_tasks = (n + right_span - 1) // right_span if plan[RIGHT_PACKED] == 1 else 0
    for start in range(0, plan[DEPTH], plan[LENGTH]):
        for task in numba.prange(left_tasks + right_tasks):
            if task < left_tasks:
                first = task * left_span
                _pack_rows(plan, a, start, first, min(left_span, m - first), room)
            else:
                first = (task - left_tasks) * right_span
                _pack_columns(plan, b, start, first, min(right_span, n - first), room)
        for part in numba.prange(_PARTS):
            top, bottom, near, far = 0, row_tiles, 0, column_blocks
            if by_rows:
                top, bottom = row_tiles * part // _PARTS, row_tiles * (part + 1) // _PARTS
            else:
                near, far = column_blocks * part // _PARTS, column_blocks * (part + 1) // _PARTS
            _tiles(plan, a, b, start, part * rows * width, top, bottom, near, far, room, flat)


@inner_kernel
def _planned(
    plans: Any, count: Any, a: Any, b: Any, out: Any, token: Any, m: Any, depth: Any, n: Any,
    a_row: Any, a_column: Any, b_row: Any, b_column: Any,
) -> Any:  # fmt: skip
    """As `_small_product`, of what stands at addresses."""
    place = (((((m * 31 + depth) * 31 + n) * 31 + a_row) * 31 + a_column) * 31 + b_row) * 31 + b_column
    place %= count
    plan = borrow(plans + place * PLAN * 8, PLAN, np.int64)
    if (
        plan[KEY] != m or plan[KEY + 1] != depth or plan[KEY + 2] != n
        or plan[KEY + 3] != a_row or plan[KEY + 4] != a_column
        or plan[KEY + 5] != b_row or plan[KEY + 6] != b_column
    ):  # fmt: skip
        return place
    left, right = a, b
    if plan[SWAPPED] == 1:
        left, right = b, a
    flat = borrow(out, m * n, token)
    room = flat if plan[ROOM] == 0 else np.empty(plan[ROOM], token)
    nothing = np.int64(0)  # a literal would be a type of its own, and one more compiled function
    for start in range(0, plan[DEPTH], plan[LENGTH]):
        if plan[LEFT_PACKED] == 1:
            _pack_rows(plan, left, start, nothing, plan[M], room)
        if plan[RIGHT_PACKED] == 1:
            _pack_columns(plan, right, start, nothing, plan[N], room)
        _tiles(
            plan, left, right, start, nothing, nothing, plan[ROW_TILES], nothing, plan[COLUMN_BLOCKS], room,
            flat,
        )  # fmt: skip
    return -1


@kernel(nogil=False)
def _small_product(plans: Any, a: Any, b: Any, out: Any) -> Any:
    """Write the product ``a @ b`` into `out` if `plans` has a plan for it.

    It keeps the GIL for these microseconds: meanwhile no other thread changes the plans.

    Returns
    -------
    int
        -1; -2 if the shapes do not fit or `out` is not C-contiguous; or the row of `plans` where the
        missing plan belongs.
    """
    m, depth, n, item = a.shape[0], a.shape[1], b.shape[1], out.itemsize
    if b.shape[0] != depth or out.shape[0] != m or out.shape[1] != n:
        return -2
    if m * n > 0 and ((m > 1 and out.strides[0] != n * item) or (n > 1 and out.strides[1] != item)):
        return -2
    # addresses: to count the references to arrays would take longer than the smallest products
    return _planned(
        plans.ctypes.data, len(plans), a.ctypes.data, b.ctypes.data, out.ctypes.data, out.dtype.type,
        m, depth, n, a.strides[0], a.strides[1], b.strides[0], b.strides[1],
    )  # fmt: skip


@functools.cache
def _small(dtype: np.dtype[Any]) -> Any:
    """Return `_small_product` for operands of this type and any strides, and its plans."""
    if dtype not in (np.float32, np.float64):
        raise TypeError(f"out must hold float32 or float64, got {dtype}")
    plans = np.full((_PLANS, PLAN), -1, np.int64)
    if config.DISABLE_JIT:
        return _small_product, plans
    item = numba.from_dtype(dtype)
    operand = types.Array(item, 2, "A")
    signature = types.Array(types.int64, 2, "C"), operand, operand, operand
    _small_product.compile(signature)
    # called directly: Numba's choice among signatures takes as long as the rest of the call
    return _small_product.get_overload(signature), plans


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

    Raises
    ------
    TypeError
        If `out` holds neither float32 nor float64.
    ValueError
        If the shapes do not fit, or `out` is not C-contiguous or read-only.
    """
    # compiled code that is called directly takes both for granted
    if not (a.ndim == b.ndim == out.ndim == 2 and out.flags.writeable):
        raise _misfit(a, b, out)
    dtype = out.dtype
    if a.dtype is not dtype:  # of foreign byte order
        a = a.astype(dtype, copy=False)
    if b.dtype is not dtype:
        b = b.astype(dtype, copy=False)
    small, plans = _small(dtype)
    place = small(plans, a, b, out)
    if place == -1:
        return
    if place < 0:
        raise _misfit(a, b, out)
    (m, depth), n = a.shape, b.shape[1]
    if m * depth * n == 0:
        out[...] = 0
        return
    if m * depth * n <= _SMALL:
        plan = _plan(m, depth, n, a.strides, b.strides, dtype)
        row = slice(place * plan.nbytes, (place + 1) * plan.nbytes)
        held, fresh = (memoryview(cast(Any, array)).cast("B") for array in (plans, plan))
        while small(plans, a, b, out) >= 0:  # another thread may take the place for its own plan
            # NumPy's own copy may let other threads run in the middle of it
            held[row] = fresh
        return
    if not a.flags.behaved:
        a = readable(a)
    if not b.flags.behaved:
        b = readable(b)
    plan = _plan(m, depth, n, a.strides, b.strides, dtype)
    if plan[SWAPPED]:
        a, b = b.T, a.T
    # 16 multiplications take about as long as an element that `_jit` counts, 0.3 ns: threads start (with
    # OpenMP and TBB) at 2.1 million multiplications, 40 us of one thread, beside 1-2 us of a region
    work = m * n * depth // 16
    _product(work, plan, a[:1, 0], b[:1, 0], np.empty(plan[ROOM], dtype), out)


def _misfit(a: npt.NDArray[Any], b: npt.NDArray[Any], out: npt.NDArray[Any]) -> ValueError:
    """Return the error that says what does not fit."""
    return ValueError(
        "out must be a writeable C-contiguous array of shape (m, n) for operands of shapes (m, k) and "
        f"(k, n), got shapes {a.shape}, {b.shape} and {out.shape}"
    )


@functools.lru_cache(maxsize=1024)
def _plan(
    m: int, depth: int, n: int, a: tuple[int, int], b: tuple[int, int], dtype: np.dtype[Any]
) -> npt.NDArray[np.int64]:
    """Return the plan of a product of operands of these strides."""
    lanes, _, width, _ = tile(dtype)
    rows, item = product_rows(), dtype.itemsize
    swapped = 2 * n * _up(m, lanes) < m * _up(n, lanes)
    plan = np.zeros(PLAN, np.int64)
    plan[KEY:] = m, depth, n, *a, *b
    plan[SWAPPED] = swapped
    plan[DOWN], plan[ACROSS] = n, 1
    if swapped:
        a, b, m, n = b[::-1], a[::-1], n, m
        plan[DOWN], plan[ACROSS] = 1, m
    # what is one row or one column may have any stride
    a_row, a_column = (a[0] if m > 1 else item), (a[1] if depth > 1 else item)
    b_row, b_column = b[0], (b[1] if n > 1 else item)
    longest = _BLOCK // (width * item)
    length = _up(-(-depth // -(-depth // longest)), 4)
    kind = "rows" if a_column == item else "columns"
    span = m * abs(a_row) if kind == "rows" else length * abs(a_column)
    left_packed = (kind == "columns" and a_row != item) or span > _SPAN
    if left_packed:
        kind = "columns"
    last, columns = m % rows, n % width
    # Bytes of the first-level cache that a piece of the operands takes: for each k a line, or all lines that
    # its stride leaves out of a page.  Where they are too many, kernels of 32-byte vectors wait for them.
    strides = (b_row, a_column) if kind == "columns" and not left_packed else (b_row,)
    taken = length * sum(max(math.gcd(stride, 4096), 64) for stride in strides)
    crowded = taken > _BLOCK and lanes * item == 32 and m > _REUSE * rows
    right_packed = b_column != item or length * abs(b_row) > _SPAN or crowded
    plan[M], plan[N], plan[DEPTH] = m, n, depth
    plan[LEFT_ROW], plan[LEFT_COLUMN], plan[RIGHT_ROW], plan[RIGHT_COLUMN] = a_row, a_column, b_row, b_column
    plan[LENGTH], plan[ROWS] = length, rows
    plan[GROUP] = max(_GROUP // (rows * length * item), 1)
    plan[LEFT_PACKED], plan[RIGHT_PACKED] = left_packed, right_packed
    if kind == "rows":
        plan[STRIDE] = a_row
    else:
        plan[STRIDE] = rows * item if left_packed else a_column
    for place, high, wide in (
        (INNER, rows, width), (RIGHT_EDGE, rows, columns), (BOTTOM, last, width), (CORNER, last, columns),
    ):  # fmt: skip
        if 0 < high <= m and 0 < wide <= n:
            plan[place] = product_kernel(kind, dtype, high, wide)
    plan[ROW_TILES], plan[COLUMN_BLOCKS] = -(-m // rows), -(-n // width)
    plan[LEFT_PLACE] = _PARTS * rows * width
    plan[RIGHT_PLACE] = plan[LEFT_PLACE] + (_up(m, rows) * length if left_packed else 0)
    if left_packed or right_packed or swapped:
        plan[ROOM] = plan[RIGHT_PLACE] + (_up(n, width) * length if right_packed else 0) + 64 // item
    return plan


def _up(value: int, step: int) -> int:
    return -(-value // step) * step
