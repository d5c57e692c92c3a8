"""The loss, the backward pass of a layer, and the update of what it has found the gradient of."""

from __future__ import annotations

from typing import Any

from nbnorm import simd
from nbnorm.compile.kernels import inner_kernel, kernel, linked_kernel
from nbnorm.compile.pointers import call
from nbnorm.engine.bfloat16 import pack_panel
from nbnorm.engine.epilogues import (
    derive_row,
    panel_backward,
)
from nbnorm.engine.gather import ADDRESSES, LINES, NEXT, PIECES
from nbnorm.engine.microkernels import (
    pairs_update,
    tile_product,
    tile_rows,
    tile_tall_rows,
    tile_update,
    tile_width,
    transpose,
    vector_update,
)
from nbnorm.engine.table import AFTER, BEFORE, DEPTH, GROUP, NO_NORM
from nbnorm.engine.thread_pool import thread_range
from nbnorm.simd import get, put


@kernel(inline="always")
def _transposed_offset(layer: Any, padded: Any, i: Any, width: Any) -> Any:
    """Offset of the gradient of feature i, which stands with the outputs side by side."""
    return layer.transposed_gradient_offset + i // width * padded * width + i % width


@inner_kernel
def loss_part(tid: Any, threads: Any, run: Any, begin: Any, n: Any, total: Any) -> None:
    """Loss of this thread's blocks of samples and its gradient with respect to the logits.

    The samples are those from `begin` on in the order of the epoch.
    """
    control, act = run.control, run.act
    width = tile_width(act)
    layer = run.net[control.layers]
    size, pad = layer.features, layer.padded
    blocks = (n + width - 1) // width
    first, last = thread_range(blocks, tid, threads)
    padded = control.padded_batch
    inverse = act.dtype.type(1.0 / total)
    for j in range(first, last):
        z = layer.norm_input_offset + j * pad * width
        g = layer.gradient_offset + j * pad * width
        valid = simd.min(width, n - j * width)
        workspace = layer.output_offset + j * width * (3 * size)
        call(run.calls.loss_block, run, z, g, workspace, size, begin + j * width, valid, inverse, 2 * j)
        for o in range(size):
            at = _transposed_offset(layer, padded, o, width) + j * width * width
            for b in range(valid):
                put(act, at + b * width, get(act, g + o * width + b))


@inner_kernel
def backward_features(run: Any, l: Any, first: Any, last: Any, n: Any, total: Any, k: Any) -> None:
    """Turn the gradient of the panels of features [first, last) to z; update bias, gamma and beta."""
    control, calls = run.control, run.calls
    vector, saved, gradients, act = run.vector, run.saved, run.gradients, run.act
    number = act.dtype.type
    width, rows = tile_width(act), tile_rows(act)
    layer = run.net[l]
    stride, length = layer.padded * width, len(saved) // 3
    norm, fused = layer.norm, layer.fused == 1
    kept = run.vector_gradient if control.stored == 1 else run.vector_state
    for i in range(first, last, rows):
        y, z = layer.norm_input_offset + i * width, layer.slope_input_offset + i * width
        v, g = layer.result_offset + i * width, layer.gradient_offset + i * width
        stop = simd.min(rows, layer.features - i)
        bias, gamma, beta = layer.bias_offset + i, layer.gamma_offset + i, layer.beta_offset + i
        at = layer.statistics_offset + i
        pairs = layer.gradient_pairs_offset + i // 2 * width
        sample_pairs = _transposed_offset(layer, control.padded_batch, i, width)
        if layer.dropout_threshold > 0:
            call(calls.drop_panel, run, l, i, g, g, n)
        if norm == BEFORE and not fused:
            for r in range(stop):
                derive_row(layer.derive_kernel, act, g + r * width, z + r * width, stride, n)
        if norm != NO_NORM:
            panel_backward(
                layer.backward_kernel, act, g, y, v, pairs, sample_pairs, control.weights_offset, vector,
                gamma, saved, at, length + at, 2 * length + at, gradients, gamma, beta, bias, stride, n,
                number(control.training), number(total),
            )  # fmt: skip
        if norm != BEFORE and not (norm == AFTER and fused):
            for r in range(stop):
                slope = derive_row(layer.derive_kernel, act, g + r * width, z + r * width, stride, n)
                put(gradients, bias + r, slope)
        if layer.gradients_apart == 1 and control.bfloat16 == 1:
            pack_panel(calls.pack_gradients, act, g, pairs, sample_pairs, stride, n)
        own = ((bias, layer.bias_numbers), (gamma, layer.gamma_numbers), (beta, layer.beta_numbers))
        for first_of, numbers_of in own:
            if (norm == BEFORE) if first_of == bias else (norm == NO_NORM):
                continue
            vector_update(
                calls.vector_update, vector, first_of, kept, first_of, gradients, first_of, run.numbers,
                k + numbers_of, len(vector), stop,
            )  # fmt: skip


@inner_kernel
def bias_part(run: Any, l: Any, n: Any, k: Any, first: Any, last: Any) -> None:
    """Gradient and update of elements [first, last) of the bias of layer l, by itself."""
    calls, vector, gradients, act = run.calls, run.vector, run.gradients, run.act
    width = tile_width(act)
    layer = run.net[l]
    for o in range(first, last):
        g = layer.gradient_offset + o * width
        slope = derive_row(calls.sum_row, act, g, g, layer.padded * width, n)
        put(gradients, layer.bias_offset + o, slope)
    at = layer.bias_offset + first
    kept = run.vector_gradient if run.control.stored == 1 else run.vector_state
    vector_update(
        calls.vector_update, vector, at, kept, at, gradients, at, run.numbers, k + layer.bias_numbers,
        len(vector), last - first,
    )  # fmt: skip


@linked_kernel
def transpose_block(run: Any, layer: Any, j: Any, first: Any, last: Any) -> None:
    """Store the gradient of features [first, last) of block j of samples with the features side by side.

    A line of the result takes the features of several panels: it is written while it is in the cache.
    Rows beyond the last feature are zero: their weights are.
    """
    act, padded = run.act, run.control.padded_batch
    width, rows = tile_width(act), tile_rows(act)
    for i in range(first, last, rows):
        here = layer.gradient_offset + (j * layer.padded + i) * width
        at = _transposed_offset(layer, padded, i, width) + j * width * width
        for b in range(0, width, rows):
            transpose(act, here + b, width, act, at + b * width, width)


@inner_kernel
def backward_layer(run: Any, l: Any, n: Any, total: Any, k: Any, first: Any, last: Any) -> None:
    """Gradient with respect to z of panels [first, last) of layer l, from that of layer l + 1."""
    control, calls, weight, act = run.control, run.calls, run.weight, run.act
    width, rows, most = tile_width(act), tile_rows(act), tile_tall_rows(act)
    layer, above = run.net[l], run.net[l + 1]
    depth = above.features
    pad_out, pad, g = above.padded, layer.padded, layer.gradient_offset
    blocks = (n + width - 1) // width
    group = simd.max(GROUP // rows, 1)
    operand, source = above.weight_offset, above.gradient_offset
    part = width  # of a row of weights in a block
    short, long = calls.strided_product, calls.tall_strided_product
    if above.bfloat16 == 1 and control.bfloat16 == 1:
        operand, source, part = above.output_pairs_offset, above.gradient_pairs_offset, width // 2
        depth, pad_out, most = (depth + 1) // 2, pad_out // 2, rows
        short = long = calls.strided_pairs_product
    for begin in range(first, last, group):
        end = simd.min(begin + group, last)
        for d in range(0, depth, DEPTH):
            length = simd.min(DEPTH, depth - d)
            for j in range(blocks):
                i = begin * rows
                while i < end * rows:
                    tall = (end * rows - i) % most == 0
                    tile_product(
                        long if tall else short,
                        weight,
                        operand + (d // part * pad + i) * part,
                        act,
                        source + (j * pad_out + d) * width,
                        act,
                        g + (j * pad + i) * width,
                        length,
                        pad * part,
                        1 if d > 0 else 0,
                    )
                    i += most if tall else rows
        call(calls.backward_features, run, l, begin * rows, end * rows, n, total, k)
        if layer.sample_norm == 0 and layer.bfloat16 * control.bfloat16 == 0:
            for j in range(blocks):
                transpose_block(run, layer, j, begin * rows, end * rows)


@inner_kernel
def weight_layer(tid: Any, run: Any, l: Any, n: Any, source: Any, k: Any, first: Any, last: Any) -> None:
    """Gradient and update of tiles [first, last) of the weights of layer l, while the next batch arrives."""
    control, calls, numbers, weight, act = run.control, run.calls, run.numbers, run.weight, run.act
    upcoming, own = run.upcoming, tid * run.upcoming.shape[1]
    width, rows, most = tile_width(act), tile_rows(act), tile_tall_rows(act)
    layer, pad_in = run.net[l], run.net[l - 1].padded
    padded = control.padded_batch
    kept = run.weight_gradient if control.stored == 1 else run.weight_state
    t, end = first * rows, last * rows
    while t < end:
        o, i = t // pad_in, t % pad_in
        at = layer.weight_offset + (o * pad_in + i) * width
        vector = layer.transposed_gradient_offset + o * padded * width
        if layer.bfloat16 == 1 and control.bfloat16 == 1:
            half = width // 2
            pairs = (o * pad_in + i) * half
            pairs_update(
                calls.pairs_update, act, source + i * half, vector, weight, at, kept, at, numbers,
                k + layer.weight_numbers, weight, layer.input_pairs_offset + pairs,
                layer.output_pairs_offset + pairs, (n + 1) // 2, pad_in * half, control.weight_size,
            )  # fmt: skip
            t += rows
            continue
        # Low tiles first, until what is left can be divided into tall ones.
        left, count, height, kernel = simd.min(end - t, pad_in - i), 1, rows, calls.tile_update
        if left % most == 0:
            narrow = 2 * (layer.features - o * width) <= width
            count, height = left // most, most
            kernel = calls.tall_half_tile_update if narrow else calls.tall_tile_update
        piece, lines = get(upcoming, own + NEXT), 0
        pieces = get(upcoming, own + PIECES) - piece
        if pieces > 0:
            count, lines = simd.min(count, pieces), get(upcoming, own + LINES)
            put(upcoming, own + NEXT, piece + count)
        tile_update(
            kernel,
            act,
            source + i * width,
            act,
            vector,
            weight,
            at,
            kept,
            at,
            numbers,
            k + layer.weight_numbers,
            upcoming,
            own + ADDRESSES + piece,
            n,
            pad_in * width,
            control.weight_size,
            count,
            lines,
        )
        t += count * height
