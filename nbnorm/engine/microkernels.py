"""The micro-kernels of the matrix products.

A product is computed in register tiles of ``rows`` x ``width`` elements (MR x NR).  All operands are
*blocked*: an array of shape (blocks, length, width), where the last axis holds ``width`` neighbouring rows or
columns of the matrix.  Each step adds an outer product to the tile: a column of the first operand, whose
elements are broadcast, times a row of ``width`` elements of the second.  Two walks through the first operand
cover the three products of a layer:

"packed"   element (r, k) stands at ``k * width + r``: columns are contiguous, as in a packed panel;
"strided"  element (r, k) stands at ``(k // width) * stride + r * width + k % width``: rows are contiguous
           inside blocks.

Width and tile are chosen from the processor's features.  Where a tile has eight sums in sixteen registers, a
taller one with twelve computes most rows, because their products wait less for those before.  It changes no
bits: each element is the same sum in both.  Each kernel is compiled once, by itself, and called by its
address: inlined, LLVM mixes its registers with the caller's and spills.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nbnorm import simd
from nbnorm.functions.updates import RULES, Rule
from nbnorm.simd._functions import Signature, caller, function_address
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


@functools.cache
def tall_rows(dtype: Any) -> int:
    """Return the rows of the taller register tile, or those of `tile` where the registers are too few."""
    shape = tile(dtype)
    tall, vectors = shape.rows * 3 // 2, shape.width // shape.lanes
    # two units with a latency of four cycles are busy with eight sums, if nothing is ever late
    few = shape.rows * vectors <= 8 and 2 * tall <= shape.width
    return tall if few and tall * vectors + vectors + 1 <= processor().registers else shape.rows


def empty_aligned(size: int, dtype: Any) -> npt.NDArray[Any]:
    """Return a zeroed one-dimensional array that begins at a cache line."""
    item = np.dtype(dtype).itemsize
    raw = np.zeros(size * item + 64, np.uint8)
    skip = -raw.ctypes.data % 64
    return raw[skip : skip + size * item].view(dtype)


@simd.traced
def tile_width(x: Any) -> Any:
    """Return the width of a block of elements of the type of x."""
    return number(tile(x.dtype).width)


@simd.traced
def tile_rows(x: Any) -> Any:
    """Return the number of rows of a register tile."""
    return number(tile(x.dtype).rows)


@simd.traced
def tile_tall_rows(x: Any) -> Any:
    """Return the number of rows of the taller register tile."""
    return number(tall_rows(x.dtype))


def number(value: int) -> Any:
    """Return a number that is no constant to Numba, which compiles a function anew for each constant."""
    return simd.sum(simd.zeros(np.int64, 1) + value)


# ----------------------------------------------------------------------------------------------
# Sums of outer products
# ----------------------------------------------------------------------------------------------


def _rows(dtype: Any, tall: bool) -> int:
    return tall_rows(dtype) if tall else tile(dtype).rows


def _columns(dtype: Any, half: bool) -> int:
    width = tile(dtype).width
    return width // 2 if half else width


def _zeros(dtype: Any, tall: bool, half: bool = False) -> Any:
    return tuple(simd.tile_zeros(dtype, _rows(dtype, tall), _columns(dtype, half)))


def _rank1_of_pairs(sums: Any, a: Any, i: Any, v: Any, stride: int) -> list[Any]:
    """Add two outer products of bfloat16 to the rows of a tile: see `simd.dot_bfloat16`."""
    column = [simd.bitcast(simd.get(a, i + r * stride), np.uint32) for r in range(len(sums))]
    pairs = simd.bitcast(v, np.uint32)
    return [simd.dot_bfloat16(total, x, pairs) for total, x in zip(sums, column, strict=True)]


def _rank1(pairs: bool) -> Callable[..., Any]:
    """Return what adds an outer product of numbers, or two of `pairs`, to the rows of a tile."""
    return _rank1_of_pairs if pairs else simd.rank1


def _rank1_of_split(lanes: int) -> Callable[..., Any]:
    """Return what does the work of `_rank1_of_pairs` where `_split` has split the column into `lanes`."""

    def rank1(sums: Any, a: Any, i: Any, v: Any, stride: int) -> Any:
        even, odd = simd.split_bfloat16_pairs(simd.bitcast(v, np.uint32))
        return simd.rank1(simd.rank1(sums, a, i + lanes, odd, stride), a, i, even, stride)

    return rank1


def _has_to_split(pairs: bool) -> bool:
    """Whether operands are pairs of bfloat16 that the processor multiplies no faster than float32."""
    return pairs and not processor().bfloat16


def _split(source: Any, i: Any, stride: Any, target: Any, rows: Any, lanes: int) -> None:
    """Split rows of pairs of bfloat16 into float32: in each row the even numbers, and then the odd ones.

    The broadcast operand is split once for all lanes of a tile: what is left is mostly multiply-adds.
    """

    def split(r: Any) -> None:
        pairs = simd.bitcast(simd.load(source, i + r * stride, lanes), np.uint32)
        for k, values in enumerate(simd.split_bfloat16_pairs(pairs)):
            simd.store(target, (2 * r + k) * lanes, values)

    simd.loop(0, rows, 1, split)


def _sum(
    sums: Any, broadcast: Any, begin: Any, step: int, stride: int, vector: Any, row: Any, count: Any,
    rank1: Callable[..., Any], fetch: Callable[[Any], None] | None = None,
) -> Any:  # fmt: skip
    """Add `count` outer products to the rows of a tile, four in each turn of the loop.

    Column k of the first operand begins ``k * step`` behind `begin`, its elements stand `stride` apart; its
    row of the second operand is number ``row + k``.  `rank1` takes them as numbers or as pairs of bfloat16.
    ``fetch(k)`` prefetches a little of what is needed next in each turn: in one go, requests wait for each
    other, and the products for them.
    """
    lanes, width = sums[0].lanes, tile(vector.dtype).width

    def turn(steps: int) -> Callable[..., Any]:
        def add(first: Any, *sums: Any) -> Any:
            if fetch is not None and steps == 4:
                fetch(first)
            for k in (first + more for more in range(steps)):
                values = simd.load(vector, (row + k) * width, lanes)
                sums = tuple(rank1(sums, broadcast, begin + k * step, values, stride))
            return sums

        return add

    unrolled = count & -4
    sums = simd.loop(0, unrolled, 4, turn(4), *sums)
    return simd.loop(unrolled, count, 1, turn(1), *sums)


def _packed(broadcast: Any, vector: Any, length: Any, ahead: Any, tall: bool, pairs: bool) -> Any:
    """Sum of outer products, the first operand packed.

    Elements of `vector` from `ahead` on, a quarter as many as this sum takes, are fetched meanwhile.
    """
    zeros, width = _zeros(vector.dtype, tall), tile(vector.dtype).width

    def fetch(k: Any) -> None:
        simd.prefetch(vector, ahead + k * (width // 4), width * vector.dtype.itemsize, level=2)

    if not _has_to_split(pairs):
        return _sum(zeros, broadcast, 0, width, 1, vector, 0, length, _rank1(pairs), fetch)
    rows, columns = _rows(vector.dtype, tall), width // 2
    split = simd.stack_array(vector.dtype, rows * width)

    def block(k: Any, *sums: Any) -> Any:
        count = simd.min(length - k, columns)
        _split(broadcast, k * width, width, split, count, rows)
        rank1 = _rank1_of_split(rows)
        return _sum(sums, split, 0, 2 * rows, 1, vector, k, count, rank1, lambda i: fetch(k + i))

    return simd.loop(0, length, columns, block, *zeros)


def _strided(
    broadcast: Any, vector: Any, length: Any, stride: Any, tall: bool = False, *, half: bool = False,
    pairs: bool = False, first: Any = 0, begin: Any = 0, fetch: Callable[[Any], None] | None = None,
) -> Any:  # fmt: skip
    """Sum of outer products from number `begin` on, the first operand strided, from `first` on.

    `begin` is the first of a block; the last block may be short.  For `fetch` see `_sum`.
    """
    shape, item = tile(vector.dtype), vector.dtype.itemsize
    width = shape.width // 2 if pairs else shape.width
    rows = _rows(vector.dtype, tall)
    size, bits = rows * width, width.bit_length() - 1
    split = simd.stack_array(vector.dtype, 2 * size) if _has_to_split(pairs) else None

    def block(k: Any, *sums: Any) -> Any:
        column, count = first + (k >> bits) * stride, simd.min(length - k, width)

        def fetch_beside(i: Any) -> None:
            # the caller comes back for the rows beside these, which follow in memory
            simd.prefetch(broadcast, column + size + i * rows, 4 * rows * item)
            if fetch is not None:
                fetch(k - begin + i)

        if split is not None:
            _split(broadcast, column, width, split, rows, width)
            return _sum(sums, split, 0, 1, 2 * width, vector, k, count, _rank1_of_split(width), fetch_beside)
        return _sum(sums, broadcast, column, 1, width, vector, k, count, _rank1(pairs), fetch_beside)

    return simd.loop(begin, length, width, block, *_zeros(vector.dtype, tall, half))


def _added(out: Any, sums: Any, at: Any = 0) -> Any:
    """Return the tile plus what stands in memory."""
    width = sums[0].lanes
    return simd.tile_add(simd.tile_load(out, at, width, len(sums), width), sums)


def _store_tile(out: Any, sums: Any, accumulate: Any, at: Any = 0) -> None:
    """Write the tile, or add it to what stands there."""

    def write() -> None:
        simd.tile_store(out, at, sums[0].lanes, sums)

    def add() -> None:
        simd.tile_store(out, at, sums[0].lanes, _added(out, sums, at))

    simd.switch(accumulate, [write, add])


def _product(operation: str, tall: bool, pairs: bool) -> Callable[..., None]:
    """Make the micro-kernel that computes a tile of a product, the first operand "packed" or "strided"."""

    def product(broadcast: Any, vector: Any, out: Any, length: Any, stride: Any, accumulate: Any) -> None:
        if operation == "packed":
            sums = _packed(broadcast, vector, length, stride, tall, pairs)
        else:
            sums = _strided(broadcast, vector, length, stride, tall, pairs=pairs)
        _store_tile(out, sums, accumulate)

    return product


# ----------------------------------------------------------------------------------------------
# Updates of weights, as soon as their gradient is known
# ----------------------------------------------------------------------------------------------

# What becomes of a gradient: it is stored, or moves a parameter by one of the rules.
STORE = "store"

# Bytes of the vector operand in a part of the samples, which stays in the first-level cache while several
# tiles pass by, and of their partial sums on the stack, which with the registers spilled stay within a page.
_PART, _STACK = 16384, 3072

# The numbers of a step, in the type of the weights: PENALTY, which times the weight is added to the gradient,
# and behind it those of the rule.  NUMBERS for the weights are followed by as many for the vectors; each
# group of parameters has both.
PENALTY, FIRST, NUMBERS = 0, 1, 16


def _step_numbers(rule: Rule) -> Callable[..., None]:
    def step_numbers(numbers: Any, options: Any, rates: Any, updates: Any) -> None:
        """Write the numbers of a step: `options` are those of the rule, the penalty, a factor of the rate."""
        names = rule.options
        given = {name: simd.get(options, k) for k, name in enumerate(names)}
        given["lr"] = simd.get(rates, 0) * simd.get(options, len(names) + 1)
        # vectors neither decay nor are penalized
        for start, change in ((0, {}), (NUMBERS, {"weight_decay": 0.0})):
            options_now = tuple((given | change)[name] for name in names)
            for k, number in enumerate(rule.all_numbers(simd.convert(updates + 1, np.float64), options_now)):
                simd.put(numbers, start + FIRST + k, number)
        simd.put(numbers, PENALTY, simd.get(options, len(names)))

    return step_numbers


def _loaded(rule: Rule | None, penalized: bool, numbers: Any) -> list[Any]:
    """Return the numbers of a step: the penalty, or None, and those of the rule.

    They are read before the first weight is written: afterwards the compiler would have to read them again.
    """
    if rule is None:
        return []
    penalty = simd.get(numbers, PENALTY) if penalized else None
    return [penalty, *(simd.get(numbers, FIRST + k) for k in range(rule.number_count))]


def _update(rule: Rule | None, given: list[Any], weight: Any, state: Any, size: Any, at: Any, g: Any) -> Any:
    """Update the weights that stand at `at` with their gradient g, a vector; return them.

    The arrays of the rule stand behind each other in `state`, `size` elements apart; for `given` see
    `_loaded`.
    """
    if rule is None:
        simd.store(state, at, g)
        return None
    w = simd.load(weight, at, g.lanes)
    offsets = [at + k * size if k else at for k in range(len(rule.state))]
    penalty, *of_rule = given
    if penalty is not None:
        g = simd.fma(penalty, w, g)
    before = [simd.load(state, offset, g.lanes) for offset in offsets]
    w, *after = rule.step(w, *before, g, *of_rule)
    for offset, values in zip(offsets, after, strict=True):
        simd.store(state, offset, values)
    simd.store(weight, at, w)
    return w


def _prefetch_weights(rule: Rule | None, weight: Any, state: Any, size: Any, at: Any, count: int) -> None:
    """Let `count` weights that begin at `at` arrive while the sum is made."""
    length = count * weight.dtype.itemsize
    if rule is not None:
        simd.prefetch(weight, at, length, write=True)
    for k in range(1 if rule is None else len(rule.state)):
        simd.prefetch(state, at + k * size if k else at, length, write=True)


def _weight_update(rule: Rule | None, penalized: bool, tall: bool, half: bool) -> Callable[..., None]:
    def update(
        broadcast: Any, vector: Any, weight: Any, state: Any, numbers: Any, upcoming: Any, length: Any,
        stride: Any, size: Any, count: Any, lines: Any,
    ) -> None:  # fmt: skip
        """Update `count` tiles, one behind the other, their sums over many samples in parts.

        With each tile so many `lines` of memory are fetched, from the address in `upcoming` on.
        """
        given = _loaded(rule, penalized, numbers)
        width = tile(vector.dtype).width
        rows, columns = _rows(vector.dtype, tall), _columns(vector.dtype, half)
        step, sums_of_tile = rows * width, rows * columns
        item = vector.dtype.itemsize
        samples, together = _PART // (width * item), max(_STACK // (sums_of_tile * item), 1)
        partial = simd.stack_array(vector.dtype, together * sums_of_tile)
        rest = (length - 1) & -samples  # where the last part begins

        def some(first: Any) -> None:
            end = simd.min(first + together, count)

            def part(begin: Any) -> None:
                def add(k: Any) -> None:
                    at, stop = k * step, begin + samples
                    sums = _strided(broadcast, vector, stop, stride, tall, half=half, first=at, begin=begin)
                    _store_tile(partial, sums, simd.min(begin, 1), (k - first) * sums_of_tile)

                simd.loop(first, end, 1, add)

            def finish(k: Any) -> None:
                at = k * step

                def fetch(i: Any) -> None:
                    def line(_: Any) -> None:
                        piece = simd.array_at(simd.get(upcoming, k), 1, np.uint8)
                        simd.prefetch(piece, i * 16, level=2)

                    _prefetch_weights(rule, weight, state, size, at + i * (width // 4), columns)
                    simd.loop(0, simd.clamp(lines * 4 - i, 0, 1), 1, line)

                sums = _strided(
                    broadcast, vector, length, stride, tall, half=half, first=at, begin=rest, fetch=fetch
                )

                def add(_: Any, *sums: Any) -> Any:
                    return tuple(_added(partial, sums, (k - first) * sums_of_tile))

                for r, gradient in enumerate(simd.loop(0, simd.min(rest, 1), 1, add, *sums)):
                    _update(rule, given, weight, state, size, at + r * width, gradient)

            simd.loop(0, rest, samples, part)
            simd.loop(first, end, 1, finish)

        simd.loop(0, count, together, some)

    return update


def _pairs_update(rule: Rule | None, penalized: bool) -> Callable[..., None]:
    def update(
        broadcast: Any, vector: Any, weight: Any, state: Any, numbers: Any, input_pairs: Any,
        output_pairs: Any, length: Any, stride: Any, size: Any,
    ) -> None:  # fmt: skip
        """As above, of pairs of bfloat16; the weights' own pairs are written too."""
        shape = tile(vector.dtype)
        width = shape.width

        def fetch(i: Any) -> None:
            _prefetch_weights(rule, weight, state, size, i * (width // 4), width)
            for x in () if rule is None else (input_pairs, output_pairs):
                simd.prefetch(x, i * (width // 8), width // 2 * vector.dtype.itemsize, write=True)

        gradients = _strided(broadcast, vector, length, stride, pairs=True, fetch=fetch)
        given = _loaded(rule, penalized, numbers)
        for r in range(0, shape.rows, 2):
            rows = [_update(rule, given, weight, state, size, k * width, gradients[k]) for k in (r, r + 1)]
            if rule is not None:
                store_weights(rows, input_pairs, output_pairs, r)

    return update


def store_weights(rows: list[Any], input_pairs: Any, output_pairs: Any, first: int = 0) -> None:
    """Write rows of a tile of weights, an even number from row `first` on, in both arrangements of pairs."""
    width = rows[0].lanes
    for r in range(0, len(rows), 2):
        store_pairs(input_pairs, (first + r) // 2 * width, simd.to_bfloat16_pairs(rows[r], rows[r + 1]))
    for r, row in enumerate(rows):
        neighbours = simd.bitcast(simd.to_bfloat16(row), np.uint32)
        store_pairs(output_pairs, (first + r) * (width // 2), neighbours)


def store_pairs(x: Any, i: Any, pairs: Any) -> None:
    """Store pairs of bfloat16 in the memory of an array of float32."""
    simd.store(x, i, simd.bitcast(pairs, np.float32))


def _vector_update(rule: Rule | None) -> Callable[..., None]:
    def update(vector: Any, state: Any, gradient: Any, numbers: Any, size: Any, count: Any) -> None:
        given = _loaded(rule, False, numbers)

        def some(i: Any, lanes: int) -> None:
            _update(rule, given, vector, state, size, i, simd.load(gradient, i, lanes))

        simd.loop_steps(0, count, (tile(gradient.dtype).rows, 1), some)

    return update


# ----------------------------------------------------------------------------------------------
# Function pointers
# ----------------------------------------------------------------------------------------------

_PRODUCT, _NUMBERS = Signature(3, 3), Signature(3, 1)
_WEIGHT_UPDATE, _PAIRS_UPDATE, _VECTOR_UPDATE = Signature(6, 5), Signature(7, 3), Signature(4, 2)


@functools.cache
def micro_kernel(operation: str, dtype: Any, *, tall: bool = False, pairs: bool = False) -> int:
    """Return the address of the micro-kernel "packed" or "strided"; a `tall` one has `tall_rows`.

    One of `pairs` takes those of bfloat16.
    """
    tall = tall and tall_rows(dtype) > tile(dtype).rows
    name = f"nbnorm_tile_{operation}{'_tall' * tall}{'_pairs' * pairs}_{np.dtype(dtype)}"
    return function_address(name, _product(operation, tall, pairs), _PRODUCT, dtype)


def _rule(operation: str) -> Rule | None:
    return None if operation == STORE else RULES[operation]


@functools.cache
def weight_kernel(
    operation: str,
    dtype: Any,
    *,
    penalized: bool = False,
    tall: bool = False,
    half: bool = False,
    pairs: bool = False,
) -> int:
    """Return the address of the micro-kernel that uses a tile's gradient: STORE, or the name of a rule.

    It adds the numbers' penalty if it is `penalized`; a `tall` one has `tall_rows`, one of `half` the width
    leaves the second half of each row alone.  One of `pairs` of bfloat16 is for `pairs_update`.
    """
    tall = tall and tall_rows(dtype) > tile(dtype).rows
    options = f"{'_penalized' * penalized}{'_tall' * tall}{'_half' * half}{'_pairs' * pairs}"
    name = f"nbnorm_tile_{operation}{options}_{np.dtype(dtype)}"
    if pairs:
        return function_address(name, _pairs_update(_rule(operation), penalized), _PAIRS_UPDATE, dtype)
    body = _weight_update(_rule(operation), penalized, tall, half)
    return function_address(name, body, _WEIGHT_UPDATE, dtype, others={5: np.int64})


@functools.cache
def vector_kernel(operation: str, dtype: Any) -> int:
    """Return the address of the kernel for gradients in a row, without a penalty; `operation` as above."""
    body = _vector_update(_rule(operation))
    return function_address(f"nbnorm_vector_{operation}_{np.dtype(dtype)}", body, _VECTOR_UPDATE, dtype)


@functools.cache
def numbers_kernel(operation: str, dtype: Any) -> int:
    """Return the address of the function that writes the numbers of a step of a rule."""
    body, doubles = _step_numbers(RULES[operation]), {1: np.float64, 2: np.float64}
    name = f"nbnorm_numbers_{operation}_{np.dtype(dtype)}"
    return function_address(name, body, _NUMBERS, dtype, others=doubles)


# They take an address, then each array with the offset in it, then the integers of the signature:
# broadcast, vector and out; length, stride of a strided operand or what to fetch ahead, accumulate
tile_product = caller(_PRODUCT, (1, 1, 1))
# broadcast, vector, weight, state, numbers and upcoming; length, stride, elements of an array of the state,
# tiles, lines of each
tile_update = caller(_WEIGHT_UPDATE, (1, 1, 1, 1, 1, 1))
# broadcast and vector; weight, state, numbers; pairs of inputs and of outputs; the first three integers
pairs_update = caller(_PAIRS_UPDATE, (2, 1, 1, 1, 2))
# vector, state, gradient and numbers; elements of an array of the state, count
vector_update = caller(_VECTOR_UPDATE, (1, 1, 1, 1))
# numbers, options and rates; updates so far
step_numbers = caller(_NUMBERS, (1, 1, 1))


@simd.traced
def transpose(source: Any, i: Any, source_stride: Any, target: Any, j: Any, target_stride: Any) -> None:
    """Copy a square of as many rows as a tile has, transposed."""
    size = tile(source.dtype).rows
    square = simd.tile_load(source, i, source_stride, size, size)
    simd.tile_store(target, j, target_stride, simd.transpose(square))
