"""The forward pass of a layer: product, bias, activation, batch norm, dropout."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nbnorm import simd
from nbnorm.compile.kernels import inner_kernel, linked_kernel
from nbnorm.compile.pointers import call
from nbnorm.engine.bfloat16 import pack_panel
from nbnorm.engine.epilogues import (
    activate_row,
    drop_row,
    panel_normalize,
    panel_statistics,
)
from nbnorm.engine.microkernels import (
    tile_product,
    tile_rows,
    tile_tall_rows,
    tile_width,
)
from nbnorm.engine.table import BEFORE, DEPTH, GRADIENTS, GROUP, NO_NORM
from nbnorm.engine.thread_pool import thread_range
from nbnorm.simd import get, put


@inner_kernel
def wide_statistics(run: Any, y: Any, stride: Any, n: Any, total: Any, at: Any) -> None:
    """Repeat the second pass of a panel in float64, for squares beyond the range of float32."""
    control, act, saved, variance = run.control, run.act, run.saved, run.variance
    width, rows, length = tile_width(act), tile_rows(act), len(variance)
    weights = control.weights_offset
    for r in range(rows):
        row = y + r * width
        # The first pass cannot have left the range: its sums are those of the values themselves.
        shift = get(saved, at + r)
        center = 0.0
        for b in range(n):
            weight = np.float64(get(act, weights + b)) if control.weighted_statistics == 1 else 1.0
            center += weight * np.float64(get(act, row + b // width * stride + b % width) - shift)
        center = center / total
        square = 0.0
        for b in range(n):
            weight = np.float64(get(act, weights + b)) if control.weighted_statistics == 1 else 1.0
            e = np.float64(get(act, row + b // width * stride + b % width) - shift) - center
            square += weight * (e * e)
        put(saved, length + at + r, act.dtype.type(center))
        put(variance, at + r, square / total)


@linked_kernel
def _scale(run: Any, at: Any, last: Any, n: Any, total: Any) -> None:
    """Make rstd of the variances of features [at, last) and move the averages.

    The unbiased variance takes the number of samples: whole weights repeat them, but no weights make
    them fewer than the rows, or a total just above 1 would make the variance as large as you like.
    """
    control, hyper = run.control, run.hyper
    running, saved, variance = run.running, run.saved, run.variance
    length = len(variance)
    eps = hyper.eps
    # plain loops over few arrays: vectors of square roots and quotients
    for f in range(at, last):
        put(saved, 2 * length + f, saved.dtype.type(1.0 / math.sqrt(get(variance, f) + eps)))
    if control.mode == GRADIENTS:
        return
    decay = hyper.running_decay
    if control.cumulative == 1:  # the last element counts the batches before this one
        seen = get(running, 2 * length)
        decay = seen / (seen + 1.0)
    fresh = 1.0 - decay
    samples = simd.max(total * hyper.weight_unit, float(n))
    factor = samples / (samples - 1.0) if control.unbiased == 1 else 1.0
    for f in range(at, last):
        mean = np.float64(get(saved, f)) + np.float64(get(saved, length + f))
        put(running, f, decay * get(running, f) + fresh * mean)
    for f in range(at, last):
        second = get(variance, f) * factor
        if control.standard_deviation == 1:
            second = math.sqrt(second)
        put(running, length + f, decay * get(running, length + f) + fresh * second)


@linked_kernel
def _take_averages(run: Any, at: Any, last: Any) -> None:
    """Use the moving averages as the statistics of features [at, last)."""
    control, hyper, running, saved = run.control, run.hyper, run.running, run.saved
    number = saved.dtype.type
    length = len(running) // 2
    for f in range(at, last):
        mean, variance = get(running, f), get(running, length + f)
        shift = number(mean)
        variance = variance * variance if control.standard_deviation == 1 else variance
        put(saved, f, shift)
        put(saved, length + f, number(mean - np.float64(shift)))
        put(saved, 2 * length + f, number(1.0 / math.sqrt(variance + hyper.eps)))


@linked_kernel
def drop_threshold(layer: Any, control: Any) -> Any:
    """Probability of dropout in units of 2**-32; in evaluation mode nothing is dropped."""
    return layer.dropout_threshold if control.drops == 1 else 0


@linked_kernel
def drop_scale(act: Any, threshold: Any) -> Any:
    """Factor of the elements that are kept."""
    return act.dtype.type(1.0 / (1.0 - threshold / 4294967296.0))


@linked_kernel
def drop_key(control: Any, l: Any, feature: Any) -> Any:
    """Hash of epoch, step, layer and feature: SplitMix64's finalizer."""
    x = np.uint64(control.dropout_key) + np.uint64(control.step) * np.uint64(0x9E3779B97F4A7C15)
    x ^= np.uint64(l) * np.uint64(0xD1342543DE82EF95) + np.uint64(feature)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.int64((x ^ (x >> np.uint64(31))) & np.uint64(0xFFFFFFFF))


@inner_kernel
def drop_panel(run: Any, l: Any, i: Any, source: Any, target: Any, n: Any) -> None:
    """Drop elements of a panel of layer l, the same for the values and their gradient."""
    control, calls, act = run.control, run.calls, run.act
    width, rows = tile_width(act), tile_rows(act)
    layer = run.net[l]
    stride = layer.padded * width
    threshold = drop_threshold(layer, control)
    scale = drop_scale(act, threshold)
    for r in range(rows):
        here, there = source + r * width, target + r * width
        key = drop_key(control, l, i + r)
        drop_row(calls.drop_row, act, here, there, stride, n, 0, key, threshold, scale)


@inner_kernel
def forward_features(run: Any, l: Any, first: Any, last: Any, n: Any, total: Any) -> None:
    """Finish the panels of features [first, last) of layer l: bias, activation, batch norm, dropout.

    The batch's mean is kept as shift + center: the values are shifted by the first one, which is
    exact where a large mean would cost digits; the second pass subtracts the mean and corrects for
    its rounding.  Features that fill up the last panel have gamma = beta = 0.
    """
    control, calls = run.control, run.calls
    vector, saved, variance, act = run.vector, run.saved, run.variance, run.act
    number = act.dtype.type
    width, rows = tile_width(act), tile_rows(act)
    layer = run.net[l]
    stride = layer.padded * width
    norm, length = layer.norm, len(variance)
    training = norm != NO_NORM and control.training == 1
    fused = layer.fused == 1
    for i in range(first, last, rows):
        y, z = layer.norm_input_offset + i * width, layer.slope_input_offset + i * width
        v, pairs = layer.result_offset + i * width, layer.feature_pairs_offset + i // 2 * width
        sample_pairs = layer.sample_pairs_offset + i * (width // 2)
        bias, at = layer.bias_offset + i, layer.statistics_offset + i
        if norm != BEFORE and not (fused and training):
            for r in range(rows):
                here, there = y + r * width, z + r * width
                activate_row(layer.activate_kernel, act, here, there, stride, n, get(vector, bias + r))
            bias = control.zeros_offset
        if norm != NO_NORM:
            if training:
                good = panel_statistics(
                    layer.statistics_kernel, act, y, control.weights_offset, vector, bias, saved, at,
                    length + at, variance, at, stride, n, number(total),
                )  # fmt: skip
                if good == 0:
                    call(calls.wide_statistics, run, y, stride, n, total, at)
                _scale(run, at, at + rows, n, total)
            else:
                _take_averages(run, at, at + rows)
            panel_normalize(
                layer.normalize_kernel, act, y, v, pairs, sample_pairs, vector, layer.gamma_offset + i,
                layer.beta_offset + i, saved, at, length + at, 2 * length + at, stride, n,
            )  # fmt: skip
            if norm == BEFORE and not fused:
                for r in range(rows):
                    activate_row(
                        layer.activate_kernel, act, v + r * width, z + r * width, stride, n, number(0)
                    )
        a = layer.output_offset + i * width
        if layer.dropout_threshold > 0:
            call(calls.drop_panel, run, l, i, v, a, n)
        if layer.features_apart == 1 and control.bfloat16 == 1:
            pack_panel(calls.pack_features, act, a, pairs, sample_pairs, stride, n)


@inner_kernel
def forward_layer(run: Any, l: Any, n: Any, total: Any, source: Any, first: Any, last: Any) -> None:
    """Compute panels [first, last) of layer l for the whole batch; `source` may hold pairs of features."""
    control, calls, weight, act = run.control, run.calls, run.weight, run.act
    width, rows, most = tile_width(act), tile_rows(act), tile_tall_rows(act)
    layer, below = run.net[l], run.net[l - 1]
    depth = below.features
    pad_in, pad, y = below.padded, layer.padded, layer.norm_input_offset
    blocks = (n + width - 1) // width
    group = simd.max(GROUP // rows, 1)
    operand = layer.weight_offset
    short, long = calls.packed_product, calls.tall_packed_product
    if layer.bfloat16 == 1 and control.bfloat16 == 1:
        operand, depth, pad_in, most = layer.input_pairs_offset, (depth + 1) // 2, pad_in // 2, rows
        short = long = calls.packed_pairs_product
    for begin in range(first, last, group):
        end = simd.min(begin + group, last)
        for k in range(0, depth, DEPTH):
            length = simd.min(DEPTH, depth - k)
            for j in range(blocks):
                o = begin * rows
                # The features' next part is fetched meanwhile, from the core of the thread that wrote it.
                ahead = (pad_in if j + 1 < blocks else DEPTH - j * pad_in) * width
                while o < end * rows:
                    # tiles do not reach into the next block of weights
                    left = simd.min(end * rows, (o // width + 1) * width) - o
                    tall = left % most == 0
                    tile_product(
                        long if tall else short,
                        weight,
                        operand + (o // width * pad_in + k) * width + o % width,
                        act,
                        source + (j * pad_in + k) * width,
                        act,
                        y + (j * pad + o) * width,
                        length,
                        ahead,
                        1 if k > 0 else 0,
                    )
                    ahead += length * (width // 4)
                    o += most if tall else rows
        call(calls.forward_features, run, l, begin * rows, end * rows, n, total)


@inner_kernel
def write_logits(tid: Any, threads: Any, run: Any, begin: Any, n: Any) -> None:
    """Copy this thread's samples of the batch into rows of the results, from row `begin` on."""
    act, out = run.act, run.out
    width = tile_width(act)
    first, last = thread_range(n, tid, threads)
    layer = run.net[run.control.layers]
    for b in range(first, last):
        z = layer.norm_input_offset + (b // width * layer.padded) * width + b % width
        for o in range(layer.features):
            out[begin + b, o] = get(act, z + o * width)
