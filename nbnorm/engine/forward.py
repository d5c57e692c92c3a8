"""The forward pass of a layer: product, bias, activation, batch norm, dropout."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nbnorm.compile.kernels import inner_kernel
from nbnorm.compile.pointers import caller
from nbnorm.engine.epilogues import (
    activate_row,
    drop_row,
    panel_normalize,
    panel_statistics,
)
from nbnorm.engine.microkernels import (
    tile_product,
    tile_rows,
    tile_width,
)
from nbnorm.engine.table import (
    ACTIVATE,
    BEFORE,
    BETA,
    BIAS,
    DECAY,
    DEPTH,
    DROP,
    DROP_PANEL,
    EPS,
    FEATURES,
    FUSED,
    GAMMA,
    GRADIENTS,
    GROUP,
    KEY,
    MODE,
    NO_NORM,
    NORM,
    NORMALIZE,
    PACKED_PRODUCT,
    PAD,
    SIZE,
    SPREAD,
    STAT,
    STATISTICS,
    STEP,
    THRESHOLD,
    TRAINING,
    UNBIASED,
    UNIT,
    WEIGHTED_STATISTICS,
    WEIGHTS,
    WIDE,
    ZEROS,
    A,
    V,
    W,
    Y,
    Z,
)
from nbnorm.engine.thread_pool import (
    share,
)
from nbnorm.simd import get, put

_call_features = caller(14)
_call_wide = caller(9)
_call_drop = caller(9)


@inner_kernel
def wide_statistics(
    control: Any, act: Any, y: Any, stride: Any, n: Any, total: Any, saved: Any, spread: Any, at: Any
) -> None:
    """Repeat the second pass of a panel in float64, for squares beyond the range of float32."""
    width, rows, length = tile_width(act), tile_rows(act), len(spread)
    weights = control[WEIGHTS]
    for r in range(rows):
        row = y + r * width
        # The first pass cannot have left the range: its sums are those of the values themselves.
        shift = get(saved, at + r)
        center = 0.0
        for b in range(n):
            weight = np.float64(get(act, weights + b)) if control[WEIGHTED_STATISTICS] == 1 else 1.0
            center += weight * np.float64(get(act, row + b // width * stride + b % width) - shift)
        center = center / total
        square = 0.0
        for b in range(n):
            weight = np.float64(get(act, weights + b)) if control[WEIGHTED_STATISTICS] == 1 else 1.0
            e = np.float64(get(act, row + b // width * stride + b % width) - shift) - center
            square += weight * (e * e)
        put(saved, length + at + r, act.dtype.type(center))
        put(spread, at + r, square / total)


@inner_kernel
def _scale(
    control: Any, hyper: Any, at: Any, last: Any, n: Any, total: Any, running: Any, saved: Any, spread: Any
) -> None:
    """Make rstd of the variances of features [at, last) and move the averages.

    The unbiased variance takes the number of samples: whole weights repeat them, but no weights make
    them fewer than the rows, or a total just above 1 would make the variance as large as you like.
    """
    length = len(spread)
    eps = hyper[EPS]
    # plain loops over few arrays: vectors of square roots and quotients
    for f in range(at, last):
        put(saved, 2 * length + f, saved.dtype.type(1.0 / math.sqrt(get(spread, f) + eps)))
    if control[MODE] == GRADIENTS:
        return
    decay, fresh = hyper[DECAY], 1.0 - hyper[DECAY]
    samples = max(total * hyper[UNIT], float(n))
    factor = samples / (samples - 1.0) if control[UNBIASED] == 1 else 1.0
    for f in range(at, last):
        mean = np.float64(get(saved, f)) + np.float64(get(saved, length + f))
        put(running, f, decay * get(running, f) + fresh * mean)
    for f in range(at, last):
        second = get(spread, f) * factor
        if control[SPREAD] == 1:
            second = math.sqrt(second)
        put(running, length + f, decay * get(running, length + f) + fresh * second)


@inner_kernel
def _take_averages(control: Any, hyper: Any, at: Any, last: Any, running: Any, saved: Any) -> None:
    """Use the moving averages as the statistics of features [at, last)."""
    kind = saved.dtype.type
    length = len(running) // 2
    for f in range(at, last):
        mean, spread = get(running, f), get(running, length + f)
        shift = kind(mean)
        variance = spread * spread if control[SPREAD] == 1 else spread
        put(saved, f, shift)
        put(saved, length + f, kind(mean - np.float64(shift)))
        put(saved, 2 * length + f, kind(1.0 / math.sqrt(variance + hyper[EPS])))


@inner_kernel
def drop_panel(
    net: Any, control: Any, calls: Any, l: Any, i: Any, source: Any, target: Any, n: Any, act: Any
) -> None:
    """Drop elements of a panel of layer l, the same for the values and their gradient.

    In evaluation mode nothing is dropped.
    """
    width, rows = tile_width(act), tile_rows(act)
    stride = net[l, PAD] * width
    threshold = net[l, THRESHOLD] if control[TRAINING] == 1 else 0
    scale = act.dtype.type(1.0 / (1.0 - threshold / 4294967296.0))
    for r in range(rows):
        # SplitMix64's finalizer over epoch, step, layer and feature
        x = np.uint64(control[KEY]) + np.uint64(control[STEP]) * np.uint64(0x9E3779B97F4A7C15)
        x ^= np.uint64(l) * np.uint64(0xD1342543DE82EF95) + np.uint64(i + r)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        key: Any = np.int64((x ^ (x >> np.uint64(31))) & np.uint64(0xFFFFFFFF))
        drop_row(calls[DROP], act, source + r * width, target + r * width, stride, n, key, threshold, scale)


@inner_kernel
def forward_features(
    net: Any,
    control: Any,
    hyper: Any,
    calls: Any,
    l: Any,
    first: Any,
    last: Any,
    n: Any,
    total: Any,
    vector: Any,
    running: Any,
    saved: Any,
    spread: Any,
    act: Any,
) -> None:
    """Finish the panels of features [first, last) of layer l: bias, activation, batch norm, dropout.

    The batch's mean is kept as shift + center: the values are shifted by the first one, which is
    exact where a large mean would cost digits; the second pass subtracts the mean and corrects for
    its rounding.  Features that fill up the last panel have gamma = beta = 0.
    """
    kind = act.dtype.type
    width, rows = tile_width(act), tile_rows(act)
    stride = net[l, PAD] * width
    norm, length = net[l, NORM], len(spread)
    training = norm != NO_NORM and control[TRAINING] == 1
    fused = net[l, FUSED] == 1
    for i in range(first, last, rows):
        y, z, v = net[l, Y] + i * width, net[l, Z] + i * width, net[l, V] + i * width
        bias, at = net[l, BIAS] + i, net[l, STAT] + i
        if norm != BEFORE and not (fused and training):
            for r in range(rows):
                here, there = y + r * width, z + r * width
                activate_row(net[l, ACTIVATE], act, here, there, stride, n, get(vector, bias + r))
            bias = control[ZEROS]
        if norm != NO_NORM:
            if training:
                good = panel_statistics(
                    net[l, STATISTICS], act, y, control[WEIGHTS], vector, bias, saved, at, length + at,
                    spread, at, stride, n, kind(total),
                )  # fmt: skip
                if good == 0:
                    _call_wide(calls[WIDE], control, act, y, stride, n, total, saved, spread, at)
                _scale(control, hyper, at, at + rows, n, total, running, saved, spread)
            else:
                _take_averages(control, hyper, at, at + rows, running, saved)
            panel_normalize(
                net[l, NORMALIZE], act, y, v, vector, net[l, GAMMA] + i, net[l, BETA] + i, saved, at,
                length + at, 2 * length + at, stride, n,
            )  # fmt: skip
            if norm == BEFORE and not fused:
                for r in range(rows):
                    activate_row(net[l, ACTIVATE], act, v + r * width, z + r * width, stride, n, kind(0))
        if net[l, THRESHOLD] > 0:
            _call_drop(calls[DROP_PANEL], net, control, calls, l, i, v, net[l, A] + i * width, n, act)


@inner_kernel
def forward_layer(
    net: Any,
    control: Any,
    hyper: Any,
    calls: Any,
    l: Any,
    n: Any,
    total: Any,
    source: Any,
    weight: Any,
    vector: Any,
    running: Any,
    saved: Any,
    spread: Any,
    act: Any,
    first: Any,
    last: Any,
) -> None:
    """Compute panels [first, last) of layer l for the whole batch."""
    width, rows = tile_width(act), tile_rows(act)
    depth = net[l - 1, SIZE]
    pad_in, pad, y = net[l - 1, PAD], net[l, PAD], net[l, Y]
    blocks = (n + width - 1) // width
    group = max(GROUP // rows, 1)
    product = calls[PACKED_PRODUCT]
    for begin in range(first, last, group):
        end = min(begin + group, last)
        for k in range(0, depth, DEPTH):
            length = min(DEPTH, depth - k)
            for j in range(blocks):
                for p in range(begin, end):
                    o = p * rows
                    tile_product(
                        product,
                        weight,
                        net[l, W] + (o // width * pad_in + k) * width + o % width,
                        act,
                        source + (j * pad_in + k) * width,
                        act,
                        y + (j * pad + o) * width,
                        length,
                        0,
                        1 if k > 0 else 0,
                    )
        _call_features(
            calls[FEATURES], net, control, hyper, calls, l, begin * rows, end * rows, n, total, vector,
            running, saved, spread, act,
        )  # fmt: skip


@inner_kernel
def write_logits(tid: Any, threads: Any, net: Any, l: Any, begin: Any, n: Any, act: Any, out: Any) -> None:
    """Copy this thread's samples of the batch into rows of `out`."""
    width = tile_width(act)
    first, last = share(n, tid, threads)
    for b in range(first, last):
        z = net[l, Y] + (b // width * net[l, PAD]) * width + b % width
        for o in range(net[l, SIZE]):
            out[begin + b, o] = get(act, z + o * width)
