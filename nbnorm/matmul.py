"""Matrix product on the register tiles of `nbnorm.simd`, deterministic for any number of threads.

Both operands are packed into blocks of the tile's width, then every tile of the result is computed
by `tile_along`.  The sum over k runs in fixed pieces, in order.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy.typing as npt

from nbnorm._jit import kernel, parallel_kernel
from nbnorm.simd import (
    empty_aligned,
    get,
    micro_kernel,
    peek,
    put,
    tile,
    tile_product,
    tile_rows,
    tile_width,
    transpose_from,
)

# Length of the sum that one pass of a tile covers: its operands then fit the first-level cache.
_DEPTH = 256

# Blocks of the result that one task computes: the packed right operand is read once for them all.
_TASK = 4


@kernel
def _pack(
    address: Any, across: Any, along: Any, count: Any, length: Any, item: Any, packed: Any, base: Any
) -> None:
    """Copy `count` rows of `length` elements into one block (length, width) at `base`.

    Rows stand `across` bytes apart, elements `along` bytes.  Rows that are missing become zero.
    """
    width, rows = tile_width(packed), tile_rows(packed)
    token = packed.dtype.type
    if count < width:
        for e in range(length * width):
            put(packed, base + e, token(0))
    if across == item and count == width:
        for k in range(length):
            for r in range(width):
                put(packed, base + k * width + r, peek(address, k * along + r * item, token))
        return
    # Squares are read by whole elements: rows of packed records may stand at odd bytes.
    squares = along == item and count == width and across % item == 0
    whole = length // rows * rows if squares else 0
    if whole > 0:
        _pack_squares(address, across, whole, packed, base)
    for r in range(count):
        for k in range(whole, length):
            put(packed, base + k * width + r, peek(address, r * across + k * along, token))


@kernel
def _pack_squares(address: Any, across: Any, length: Any, packed: Any, base: Any) -> None:
    """Copy rows with contiguous elements, by transposed squares."""
    width, rows = tile_width(packed), tile_rows(packed)
    for k in range(0, length, rows):
        for r in range(0, width, rows):
            transpose_from(
                address, r * across + k * packed.itemsize, across, packed, base + k * width + r, width
            )


@parallel_kernel
def _product(
    a: Any,
    a_row: Any,
    a_column: Any,
    b: Any,
    b_row: Any,
    b_column: Any,
    m: Any,
    n: Any,
    depth: Any,
    along: Any,
    left: Any,
    right: Any,
    scratch: Any,
    out: Any,
) -> None:
    """``out[m, n] = a[m, depth] @ b[depth, n]``; `left`, `right` and `scratch` are workspaces."""
    width, rows = tile_width(left), tile_rows(left)
    item = left.itemsize
    row_blocks, column_blocks = (m + width - 1) // width, (n + width - 1) // width
    for task in numba.prange(row_blocks + column_blocks):
        if task < row_blocks:
            _pack(
                a + task * width * a_row,
                a_row,
                a_column,
                min(width, m - task * width),
                depth,
                item,
                left,
                task * depth * width,
            )
        else:
            j = task - row_blocks
            _pack(
                b + j * width * b_column,
                b_column,
                b_row,
                min(width, n - j * width),
                depth,
                item,
                right,
                j * depth * width,
            )
    for i in numba.prange(row_blocks):
        room = i * width * width
        for j in range(column_blocks):
            columns = min(width, n - j * width)
            for r in range(0, min(width, m - i * width), rows):
                for k in range(0, depth, _DEPTH):
                    tile_product(
                        along,
                        left,
                        i * depth * width + k * width + r,
                        right,
                        (j * depth + k) * width,
                        scratch,
                        room,
                        min(_DEPTH, depth - k),
                        0,
                        1 if k > 0 else 0,
                    )
                for x in range(min(rows, m - i * width - r)):
                    for c in range(columns):
                        out[i * width + r + x, j * width + c] = get(scratch, room + x * width + c)


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
    width = tile(out.dtype).width
    row_blocks, column_blocks = -(-m // width), -(-n // width)
    left = empty_aligned(row_blocks * width * depth, out.dtype)
    right = empty_aligned(column_blocks * width * depth, out.dtype)
    scratch = empty_aligned(row_blocks * width * width, out.dtype)
    a_address, b_address = (int(x.__array_interface__["data"][0]) for x in (a, b))
    # a product of 50 thousand multiplications takes about as long as a parallel region of copying
    _product(
        m * n * depth // 16,
        a_address,
        *a.strides,
        b_address,
        *b.strides,
        m,
        n,
        depth,
        micro_kernel("along", out.dtype),
        left,
        right,
        scratch,
        out,
    )
