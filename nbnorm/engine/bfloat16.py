"""Operands of products in bfloat16: pairs of numbers that fill the 32 bits of a float32.

A product sums over pairs.  Every operand stands in the blocks of `nbnorm.engine.microkernels`, in half the
rows, and an index of pairs replaces that of single numbers:

forward          pairs of inputs: W with the outputs side by side, features with the samples side by side
data gradient    pairs of outputs: W as it stands, gradients with the samples side by side
weight gradient  pairs of samples: features as they stand, gradients with the outputs side by side

So each array is written twice: as pairs of rows, and as pairs of neighbours in a row.  Both are written where
the numbers are computed; of samples behind the last one they hold zeros.  The pairs of weights are copies:
the weights themselves stay float32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from nbnorm import simd
from nbnorm.compile.kernels import inner_kernel
from nbnorm.engine.microkernels import store_pairs, store_weights, tile, tile_rows, tile_width
from nbnorm.engine.thread_pool import thread_range
from nbnorm.simd._functions import Signature, caller, function_address


def rows_together(dtype: Any) -> int:
    """Return how many rows of a panel a loop takes together: their sums fit into the registers."""
    return 4 if tile(dtype).rows == 8 else 2


class PairWriter:
    """Writes the rows of a panel as pairs while a loop over its blocks computes them.

    Rows come in their order, `rows_together` in each turn of a loop.

    Parameters
    ----------
    pairs : pointer
        Pairs of rows; its blocks are half as far apart as those of the panel.
    other : pointer
        Pairs of samples: in rows as they stand, or `transposed`, with the rows side by side.
    n : int
        Samples.
    transposed : bool
        Whether the rows are gradients.
    """

    def __init__(self, pairs: Any, other: Any, n: Any, transposed: bool) -> None:
        self._pairs, self._other, self._n, self._transposed = pairs, other, n, transposed
        self._rows: list[Any] = []

    def __call__(self, r: int, i: Any, block: Any, value: Any) -> None:
        """Take row r of the block that begins with sample i and stands at `block` of the panel."""
        width, half = value.lanes, value.lanes // 2
        self._rows.append(simd.where(simd.first_lanes(self._n - i, width), value, 0.0))
        if r % 2:
            store_pairs(self._pairs, (block >> 1) + r // 2 * width, simd.to_bfloat16_pairs(*self._rows[-2:]))
        group = rows_together(np.float32)
        if len(self._rows) < group:
            return
        in_order = [simd.bitcast(simd.to_bfloat16(row), np.uint32) for row in self._rows]
        self._rows = []
        first = r + 1 - group
        if not self._transposed:
            for k, row in enumerate(in_order):
                store_pairs(self._other, (block >> 1) + (first + k) * half, row)
            return
        for s in range(0, half, group):
            square = simd.transpose(simd.tile_of(*(simd.part(row, s, group) for row in in_order)))
            for k in range(group):
                store_pairs(self._other, ((i >> 1) + s + k) * width + first, simd.row(square, k))


def _pack(transposed: bool) -> Callable[..., None]:
    def pack(x: Any, pairs: Any, other: Any, stride: Any, n: Any) -> None:
        """Write a panel as pairs of features and as pairs of samples."""
        _, rows, width, _ = tile(np.float32)
        write = PairWriter(pairs, other, n, transposed)

        def block(i: Any) -> None:
            at = (i >> (width.bit_length() - 1)) * stride
            for r in range(rows):
                write(r, i, at, simd.load(x, at + r * width, width))

        simd.loop(0, n, width, block)

    return pack


def _round_tile(weight: Any, input_pairs: Any, output_pairs: Any) -> None:
    """Write both arrangements of pairs of a tile of weights."""
    _, rows, width, _ = tile(np.float32)
    store_weights([simd.load(weight, r * width, width) for r in range(rows)], input_pairs, output_pairs)


_PACK, _ROUND = Signature(3, 2), Signature(3, 0)


@functools.cache
def pack_kernel(operand: str) -> int:
    """Return the address of the kernel that packs a panel of "features" or "gradients"."""
    return function_address(f"nbnorm_pack_{operand}", _pack(operand == "gradients"), _PACK, np.float32)


@functools.cache
def round_kernel() -> int:
    """Return the address of the kernel that rounds a tile of weights."""
    return function_address("nbnorm_round_tile", _round_tile, _ROUND, np.float32)


# They take an address, then the array with the offsets in it: a panel, its pairs of features, its pairs of
# samples; elements from block to block, samples
pack_panel = caller(_PACK, (3,))
# weights, their pairs of inputs, their pairs of outputs
round_tile = caller(_ROUND, (3,))


@inner_kernel
def pack_input(tid: Any, threads: Any, run: Any, n: Any, source: Any, pairs: Any, other: Any) -> None:
    """Pack the features of a mini-batch that this thread has read."""
    calls, act = run.calls, run.act
    width, rows = tile_width(act), tile_rows(act)
    layer = run.net[0]
    first, last = thread_range((layer.features + width - 1) // width, tid, threads)
    for i in range(first * width, min(last * width, layer.padded), rows):
        pack_panel(
            calls.pack_features, act, source + i * width, pairs + i // 2 * width, other + i * (width // 2),
            layer.padded * width, n,
        )  # fmt: skip


@inner_kernel
def round_weights(tid: Any, threads: Any, run: Any) -> None:
    """Write the pairs of this thread's tiles of weights."""
    net, calls, weight = run.net, run.calls, run.weight
    width, rows = tile_width(weight), tile_rows(weight)
    for l in range(1, run.control.layers + 1):
        layer, pad_in = net[l], net[l - 1].padded
        if layer.bfloat16 == 1:
            panels = pad_in // rows
            first, last = thread_range((layer.features + width - 1) // width * panels, tid, threads)
            for t in range(first, last):
                row = t // panels * pad_in + t % panels * rows
                half = row * (width // 2)
                round_tile(
                    calls.round_tile, weight, layer.weight_offset + row * width,
                    layer.input_pairs_offset + half, layer.output_pairs_offset + half,
                )  # fmt: skip
