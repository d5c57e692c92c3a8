"""The compiled training step: three regions a layer, no pass over memory that a product can do.

Arrangement
-----------
Everything is *blocked* (see `nbnorm.engine.microkernels`): with w the tile's width,

* features of layer l: ``act[A_l + (j * pad_l + i) * w + b % w]`` is feature i of sample b = j w + b % w;
  samples stand side by side, so the thread that computes a feature owns its whole mini-batch and
  with it the exact statistics of batch normalization;
* weights: ``weight[W_l + (o // w * pad + i) * w + o % w]`` is the weight from input i to output o.

With that, none of the three products of a layer packs or transposes an operand; only the
gradient with respect to z is stored a second time, with the outputs side by side.

    forward          z[o, b] = sum_i W[o, i] a[i, b]         "packed",   then bias, f, batch norm
    data gradient    g[i, b] = sum_o W[o, i] dz[o, b]        "strided",  then their backward
    weight gradient  dW[i, o] = sum_b a[i, b] dz[o, b]       "strided",  then the update of W

Threads take ranges of tiles (``rows`` features each), every sum runs inside one feature or one
sample, and the order of all additions is fixed, so the bits do not depend on the number of threads.

Kernels allocate nothing and call each other by address (see `nbnorm.compile.pointers`), so that one that a
network does not need is not compiled.  `nbnorm.engine.run` says where everything stands.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nbnorm.compile.kernels import inner_kernel, kernel
from nbnorm.compile.pointers import caller
from nbnorm.engine.epilogues import (
    activate_row,
    derive_row,
    drop_row,
    panel_backward,
    panel_normalize,
    panel_statistics,
)
from nbnorm.engine.gather import READS
from nbnorm.engine.microkernels import (
    AHEAD,
    BETA2,
    CORRECTION2,
    FRESH,
    FRESH2,
    LEAST,
    MOMENTUM,
    NUMBERS,
    PENALTY,
    RATE,
    SHRINK,
    tile,
    tile_product,
    tile_rows,
    tile_update,
    tile_width,
    transpose,
    vector_update,
)
from nbnorm.engine.thread_pool import barrier, next_chunk, share
from nbnorm.functions import updates
from nbnorm.simd import get, put

# Columns of the table `net`, which describes one layer in each row; row 0 is the input.
(
    SIZE,  # features
    PAD,  # features rounded up to whole tiles
    Y,  # offset in act: what batch norm reads (f(z) or z), or the only value without batch norm
    Z,  # offset in act: what f' is computed from: the value of f, or its argument
    V,  # offset in act: the layer's result before dropout
    A,  # offset in act: what the next layer reads; for the output room of the loss
    G,  # offset in act: gradient, first with respect to A, then to z
    T,  # offset in act: gradient with respect to z with the outputs side by side
    W,  # offset in weight
    BIAS,  # offset in vector
    GAMMA,
    BETA,
    STAT,  # offset in running, saved
    NORM,
    FUSED,  # whether f is computed together with batch norm
    THRESHOLD,  # probability of dropout, in units of 2**-32
    ACTIVATE,  # addresses of the row kernels
    DERIVE,
    STATISTICS,
    NORMALIZE,
    BACKWARD,
    COLUMNS,
) = range(22)

NORMS = {None: 0, "after": 1, "before": 2}
NO_NORM, AFTER, BEFORE = 0, 1, 2

# Places in `control` (int64), behind those that `nbnorm.engine.gather` reads.
(
    STEP,  # next step of the epoch
    LAST,  # step before which to return
    STOP,  # set from outside: return before the next step
    HALT,  # set inside: what thread 0 made of STOP and DIVERGED, the same for all threads
    DIVERGED,  # set inside: the loss is not finite
    SAMPLES,  # samples of an epoch
    BATCH,  # samples of the largest mini-batch
    STEPS,  # steps of the epoch, in batches whose sizes differ by at most one
    LAYERS,  # hidden layers and the output
    TRAINING,  # statistics of the mini-batch, or the moving averages
    MODE,  # one of the modes below
    UPDATE,  # what becomes of a gradient: one of the updates below
    CLIPPED,  # whether gradients are bounded before an update of its own
    UNBIASED,
    SPREAD,  # moving average of the variance (0) or of the standard deviation (1)
    PADDED,  # samples of a batch rounded up to whole blocks
    ZEROS,  # offset in vector of zeros
    WEIGHTS,  # offset in act of the samples' weights
    WEIGHTED,  # whether samples have weights
    WEIGHTED_STATISTICS,  # whether these enter the statistics of batch norm
    KEY,  # of the random numbers of dropout in this epoch
    UPDATES,  # updates that the optimizer has made
    CONTROLS,
) = range(READS, READS + 23)

TRAIN, GRADIENTS, FORWARD = 0, 1, 2
STORE, SGD_UPDATE, ADAM = 0, 1, 2

# Places in `hyper` (float64); the first belong to the optimizer.
(
    FIRST,
    SECOND,
    ROOT_LEAST,
    NESTEROV,
    WEIGHT_DECAY,
    L2,
    CLIP_NORM,
    CLIP_VALUE,
    DECAY,
    EPS,
    UNIT,  # how many samples a weight of 1 stands for in the statistics
    HYPERS,
) = range(12)

# Places in `calls`: addresses of kernels.
(
    GATHER,
    LAYER,
    FEATURES,
    LOGITS,
    LOSS_BLOCK,
    LOSS_PART,
    OUTPUT_BIAS,
    BACKWARD_LAYER,
    BACKWARD_FEATURES,
    WEIGHT_LAYER,
    PACKED_PRODUCT,
    STRIDED_PRODUCT,
    TILE_UPDATE,
    HALF_UPDATE,
    VECTOR_UPDATE,
    DROP,
    DROP_PANEL,
    WIDE,
    NORM_PART,
    APPLY_PART,
    CALLS,
) = range(21)

# Places in `progress` (float64): sums over the samples of this epoch, each times its weight.
LOSS, CORRECT, SEEN, PROGRESSES = range(4)

# Blocking of the products: the vector operand of `_DEPTH` rows stays in the first-level cache while
# the tiles of one group of features pass by; the group's weights stay in the second level.  Narrow tiles
# take a smaller part of each line of weights, so that the line must stay for the next ones.
_DEPTH = 256 if tile(np.float32).width >= 32 else 192
_GROUP = 256

# Queues of work in which a thread that has finished its own helps the others.  The updates of the first
# two layers meet no barrier between them.
FEATURE_TILES, WEIGHT_TILES, FIRST_WEIGHT_TILES = range(3)

_call_epoch = caller(33)
_call_gather = caller(11)
_call_layer = caller(16)
_call_features = caller(14)
_call_logits = caller(8)
_call_loss = caller(14)
_call_block = caller(15)
_call_bias = caller(12)
_call_backward = caller(18)
_call_slopes = caller(17)
_call_weight = caller(15)
_call_wide = caller(9)
_call_drop = caller(9)
_call_norm = caller(9)
_call_apply = caller(17)

# ----------------------------------------------------------------------------------------------
# Forward
# ----------------------------------------------------------------------------------------------


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
    group = max(_GROUP // rows, 1)
    product = calls[PACKED_PRODUCT]
    for begin in range(first, last, group):
        end = min(begin + group, last)
        for k in range(0, depth, _DEPTH):
            length = min(_DEPTH, depth - k)
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


# ----------------------------------------------------------------------------------------------
# Loss
# ----------------------------------------------------------------------------------------------


@inner_kernel
def loss_part(
    tid: Any,
    threads: Any,
    net: Any,
    control: Any,
    calls: Any,
    n: Any,
    total: Any,
    rows: Any,
    labels: Any,
    targets: Any,
    weights: Any,
    options: Any,
    act: Any,
    partial: Any,
) -> None:
    """Loss of this thread's blocks of samples and its gradient with respect to the logits."""
    width = tile_width(act)
    l = control[LAYERS]
    size, pad = net[l, SIZE], net[l, PAD]
    blocks = (n + width - 1) // width
    first, last = share(blocks, tid, threads)
    padded = control[PADDED]
    inverse = act.dtype.type(1.0 / total)
    for j in range(first, last):
        z = net[l, Y] + j * pad * width
        g = net[l, G] + j * pad * width
        valid = min(width, n - j * width)
        room = net[l, A] + j * width * (3 * size)
        _call_block(
            calls[LOSS_BLOCK], act, z, g, room, size, j * width, valid, inverse, rows, labels, targets,
            weights, options, partial, 2 * j,
        )  # fmt: skip
        for o in range(size):
            place = net[l, T] + (o // width * padded + j * width) * width + o % width
            for b in range(valid):
                put(act, place + b * width, get(act, g + o * width + b))


# ----------------------------------------------------------------------------------------------
# Backward and update
# ----------------------------------------------------------------------------------------------


@inner_kernel
def _update_scalar(
    vector: Any,
    velocity: Any,
    square: Any,
    stored: Any,
    at: Any,
    gradient: Any,
    numbers: Any,
    k: Any,
    update: Any,
) -> None:
    """Update one bias, gamma or beta as `nbnorm.engine.microkernels.UPDATES` says, or store its gradient."""
    if update == STORE:
        put(stored, at, gradient)
        return
    w, v, one = get(vector, at), get(velocity, at), vector.dtype.type(1)
    if update == ADAM:
        w, v, s = updates.adam(
            w, v, get(square, at), gradient, get(numbers, k + MOMENTUM), get(numbers, k + FRESH),
            get(numbers, k + BETA2), get(numbers, k + FRESH2), get(numbers, k + RATE),
            get(numbers, k + CORRECTION2), get(numbers, k + LEAST), one,
        )  # fmt: skip
        put(square, at, s)
    else:
        w, v = updates.sgd(
            w, v, gradient, get(numbers, k + MOMENTUM), one, get(numbers, k + RATE), get(numbers, k + AHEAD)
        )
    put(velocity, at, v)
    put(vector, at, w)


@inner_kernel
def backward_features(
    net: Any,
    control: Any,
    calls: Any,
    l: Any,
    first: Any,
    last: Any,
    n: Any,
    total: Any,
    numbers: Any,
    k: Any,
    vector: Any,
    velocity: Any,
    square: Any,
    stored: Any,
    saved: Any,
    gradients: Any,
    act: Any,
) -> None:
    """Turn the gradient of the panels of features [first, last) to z; update bias, gamma and beta."""
    kind = act.dtype.type
    width, rows = tile_width(act), tile_rows(act)
    stride, length = net[l, PAD] * width, len(saved) // 3
    norm, fused, update = net[l, NORM], net[l, FUSED] == 1, control[UPDATE]
    held = stored if update == STORE else velocity
    for i in range(first, last, rows):
        y, z, v, g = (
            net[l, Y] + i * width,
            net[l, Z] + i * width,
            net[l, V] + i * width,
            net[l, G] + i * width,
        )
        stop = min(rows, net[l, SIZE] - i)
        bias, gamma, beta, at = net[l, BIAS] + i, net[l, GAMMA] + i, net[l, BETA] + i, net[l, STAT] + i
        if net[l, THRESHOLD] > 0:
            _call_drop(calls[DROP_PANEL], net, control, calls, l, i, g, g, n, act)
        if norm == BEFORE and not fused:
            for r in range(stop):
                derive_row(net[l, DERIVE], act, g + r * width, z + r * width, stride, n)
        if norm != NO_NORM:
            panel_backward(
                net[l, BACKWARD], act, g, y, v, control[WEIGHTS], vector, gamma, saved, at, length + at,
                2 * length + at, gradients, gamma, beta, bias, stride, n, kind(control[TRAINING]),
                kind(total),
            )  # fmt: skip
        if norm != BEFORE and not (norm == AFTER and fused):
            for r in range(stop):
                slope = derive_row(net[l, DERIVE], act, g + r * width, z + r * width, stride, n)
                put(gradients, bias + r, slope)
        for first_of in (bias, gamma, beta):
            if (norm == BEFORE) if first_of == bias else (norm == NO_NORM):
                continue
            if stop == rows:
                seconds = first_of if update == ADAM else 0
                vector_update(
                    calls[VECTOR_UPDATE], vector, first_of, held, first_of, square, seconds, gradients,
                    first_of, numbers, k + NUMBERS,
                )  # fmt: skip
            else:
                for e in range(first_of, first_of + stop):
                    _update_scalar(vector, velocity, square, stored, e, get(gradients, e), numbers, k, update)


@inner_kernel
def output_bias(
    net: Any,
    control: Any,
    n: Any,
    numbers: Any,
    k: Any,
    vector: Any,
    velocity: Any,
    square: Any,
    stored: Any,
    act: Any,
    first: Any,
    last: Any,
) -> None:
    """Gradient and update of outputs [first, last) of the output layer's bias."""
    width = tile_width(act)
    l = control[LAYERS]
    for o in range(first, last):
        g = net[l, G] + o * width
        slope = derive_row(net[l, DERIVE], act, g, g, net[l, PAD] * width, n)
        place = net[l, BIAS] + o
        _update_scalar(vector, velocity, square, stored, place, slope, numbers, k, control[UPDATE])


@inner_kernel
def backward_layer(
    net: Any,
    control: Any,
    calls: Any,
    l: Any,
    n: Any,
    total: Any,
    numbers: Any,
    k: Any,
    weight: Any,
    vector: Any,
    velocity: Any,
    square: Any,
    stored: Any,
    saved: Any,
    gradients: Any,
    act: Any,
    first: Any,
    last: Any,
) -> None:
    """Gradient with respect to z of panels [first, last) of layer l, from that of layer l + 1."""
    width, rows = tile_width(act), tile_rows(act)
    depth = net[l + 1, SIZE]
    pad_out, pad, g = net[l + 1, PAD], net[l, PAD], net[l, G]
    blocks = (n + width - 1) // width
    padded = control[PADDED]
    stride = pad * width
    group = max(_GROUP // rows, 1)
    product = calls[STRIDED_PRODUCT]
    for begin in range(first, last, group):
        end = min(begin + group, last)
        for d in range(0, depth, _DEPTH):
            length = min(_DEPTH, depth - d)
            for j in range(blocks):
                for p in range(begin, end):
                    i = p * rows
                    tile_product(
                        product,
                        weight,
                        net[l + 1, W] + (d // width * pad + i) * width,
                        act,
                        net[l + 1, G] + (j * pad_out + d) * width,
                        act,
                        g + (j * pad + i) * width,
                        length,
                        stride,
                        1 if d > 0 else 0,
                    )
        _call_slopes(
            calls[BACKWARD_FEATURES], net, control, calls, l, begin * rows, end * rows, n, total, numbers, k,
            vector, velocity, square, stored, saved, gradients, act,
        )  # fmt: skip
        for p in range(begin, end):
            # Rows beyond the last feature are zero: their weights are.
            i = p * rows
            place = net[l, T] + (i // width * padded) * width + i % width
            for j in range(blocks):
                here = g + (j * pad + i) * width
                for b in range(0, width, rows):
                    transpose(act, here + b, width, act, place + (j * width + b) * width, width)


@inner_kernel
def weight_layer(
    net: Any,
    control: Any,
    calls: Any,
    l: Any,
    n: Any,
    source: Any,
    numbers: Any,
    k: Any,
    weight: Any,
    velocity: Any,
    square: Any,
    stored: Any,
    act: Any,
    first: Any,
    last: Any,
) -> None:
    """Gradient and update of tiles [first, last) of the weights of layer l."""
    width, rows = tile_width(act), tile_rows(act)
    pad_in = net[l - 1, PAD]
    tiles = pad_in // rows
    padded = control[PADDED]
    held = stored if control[UPDATE] == STORE else velocity
    for t in range(first, last):
        o, i = t // tiles, t % tiles * rows
        at = net[l, W] + (o * pad_in + i) * width
        narrow = 2 * (net[l, SIZE] - o * width) <= width
        tile_update(
            calls[HALF_UPDATE] if narrow else calls[TILE_UPDATE],
            act,
            source + i * width,
            act,
            net[l, T] + o * padded * width,
            weight,
            at,
            held,
            at,
            square,
            at if control[UPDATE] == ADAM else 0,
            numbers,
            k,
            n,
            pad_in * width,
        )


# ----------------------------------------------------------------------------------------------
# Bounded gradients: they are stored, measured and used in regions of their own
# ----------------------------------------------------------------------------------------------


@inner_kernel
def norm_part(
    tid: Any,
    threads: Any,
    net: Any,
    control: Any,
    hyper: Any,
    weight_gradient: Any,
    vector_gradient: Any,
    norms: Any,
    act: Any,
) -> None:
    """Square of the norm of this thread's blocks of gradients, each into its place of `norms`.

    Elements are bounded first.  The last block is that of all vectors.
    """
    width = tile_width(act)
    bound = hyper[CLIP_VALUE]
    block = 0
    for l in range(1, control[LAYERS] + 2):
        blocks = 1 if l > control[LAYERS] else (net[l, SIZE] + width - 1) // width
        for o in range(blocks):
            if block % threads == tid:
                total = 0.0
                if l > control[LAYERS]:
                    for e in range(len(vector_gradient)):
                        x = max(min(np.float64(get(vector_gradient, e)), bound), -bound)
                        total += x * x
                else:
                    # padding below the last input is not a weight
                    at = net[l, W] + o * net[l - 1, PAD] * width
                    for e in range(at, at + net[l - 1, SIZE] * width):
                        x = max(min(np.float64(get(weight_gradient, e)), bound), -bound)
                        total += x * x
                put(norms, block, total)
            block += 1


@inner_kernel
def apply_part(
    tid: Any,
    threads: Any,
    control: Any,
    hyper: Any,
    adam: Any,
    numbers: Any,
    k: Any,
    norms: Any,
    weight: Any,
    weight_gradient: Any,
    weight_velocity: Any,
    weight_square: Any,
    vector: Any,
    vector_gradient: Any,
    vector_velocity: Any,
    vector_square: Any,
    act: Any,
) -> None:
    """Update this thread's weights and vectors with bounded gradients."""
    kind = act.dtype.type
    total = 0.0
    for block in range(len(norms)):
        total += norms[block]
    factor = kind(1)
    if total > hyper[CLIP_NORM] * hyper[CLIP_NORM]:
        factor = kind(hyper[CLIP_NORM] / math.sqrt(total))
    bound = kind(hyper[CLIP_VALUE])
    update = ADAM if adam else SGD_UPDATE
    penalty, shrink = get(numbers, k + PENALTY), get(numbers, k + SHRINK)
    first, last = share(len(weight), tid, threads)
    for e in range(first, last):
        w = get(weight, e)
        gradient = max(min(get(weight_gradient, e), bound), -bound) * factor + penalty * w
        put(weight, e, shrink * w)
        _update_scalar(
            weight, weight_velocity, weight_square, weight_gradient, e, gradient, numbers, k, update
        )
    first, last = share(len(vector), tid, threads)
    for e in range(first, last):
        gradient = max(min(get(vector_gradient, e), bound), -bound) * factor
        _update_scalar(
            vector, vector_velocity, vector_square, vector_gradient, e, gradient, numbers, k, update
        )


# ----------------------------------------------------------------------------------------------
# Steps
# ----------------------------------------------------------------------------------------------


@inner_kernel
def _step_numbers(control: Any, hyper: Any, adam: Any, rate: Any, numbers: Any, k: Any) -> None:
    """Write the numbers of `microkernels.UPDATES` for a step: those of weights, then those of vectors."""
    kind = numbers.dtype.type
    put(numbers, k + MOMENTUM, kind(hyper[FIRST]))
    put(numbers, k + SHRINK, kind(1.0 - rate * hyper[WEIGHT_DECAY]))
    put(numbers, k + PENALTY, kind(hyper[L2]))
    if adam:
        time = np.float64(control[UPDATES] + 1)
        put(numbers, k + RATE, kind(rate / (1.0 - hyper[FIRST] ** time)))
        put(numbers, k + FRESH, kind(1.0 - hyper[FIRST]))
        put(numbers, k + BETA2, kind(hyper[SECOND]))
        put(numbers, k + FRESH2, kind(1.0 - hyper[SECOND]))
        put(numbers, k + CORRECTION2, kind(1.0 / (1.0 - hyper[SECOND] ** time)))
        put(numbers, k + LEAST, kind(hyper[ROOT_LEAST]))
    else:
        nesterov = hyper[NESTEROV] == 1.0
        put(numbers, k + RATE, kind(rate * hyper[FIRST] if nesterov else rate))
        put(numbers, k + AHEAD, kind(rate if nesterov else 0.0))
    # the same for vectors, which neither decay nor are penalized
    for place in range(NUMBERS):
        put(numbers, k + NUMBERS + place, get(numbers, k + place))
    put(numbers, k + NUMBERS + SHRINK, kind(1))
    put(numbers, k + NUMBERS + PENALTY, kind(0))


@inner_kernel
def epoch_part(
    tid: Any,
    threads: Any,
    sync: Any,
    net: Any,
    control: Any,
    hyper: Any,
    calls: Any,
    rates: Any,
    progress: Any,
    order: Any,
    labels: Any,
    targets: Any,
    weights: Any,
    options: Any,
    exact: Any,
    single: Any,
    numbers: Any,
    weight: Any,
    weight_velocity: Any,
    weight_square: Any,
    weight_gradient: Any,
    vector: Any,
    vector_velocity: Any,
    vector_square: Any,
    vector_gradient: Any,
    running: Any,
    saved: Any,
    spread: Any,
    gradients: Any,
    act: Any,
    partial: Any,
    norms: Any,
    out: Any,
) -> None:
    """Run the steps from ``control[STEP]`` to ``control[LAST]`` of an epoch, all threads together.

    In mode FORWARD a step ends with the logits, written into `out`; in mode GRADIENTS with the
    gradients.  With the moving averages (TRAINING 0) a sample's logits do not depend on the batch in
    which it stands.
    """
    width, rows_of_tile = tile_width(act), tile_rows(act)
    layers = control[LAYERS]
    mode = control[MODE]
    # the first `longer` batches have one sample more than the others
    least, longer = control[SAMPLES] // control[STEPS], control[SAMPLES] % control[STEPS]
    adam = len(vector_square) == len(vector)
    step = control[STEP]
    buffer = 0
    while True:
        begin = step * least + min(step, longer)
        n = least + (1 if step < longer else 0) if step < control[STEPS] else 0
        # The next batch is read into the other input buffer, beside the last update.
        source = net[0, A] if buffer == 0 else net[0, Y]
        # A slower thread may still need the numbers of the step before.
        k = buffer * (2 * NUMBERS)
        buffer = 1 - buffer
        # those of this batch, and of the next one, which are fetched ahead
        rows = order[begin : begin + 2 * n]
        if n > 0 and step < control[LAST]:
            _call_gather(
                calls[GATHER], tid, threads, control, net[0, SIZE], net[0, PAD], rows, n, exact, single, act,
                source,
            )  # fmt: skip
            if tid == 0:
                if mode == TRAIN:
                    _step_numbers(control, hyper, adam, rates[step], numbers, k)
                if control[WEIGHTED] == 1:
                    for b in range(n):
                        put(act, control[WEIGHTS] + b, get(weights, get(rows, b)))
        if tid == 0 and (control[STOP] != 0 or control[DIVERGED] != 0):
            control[HALT] = 1
        barrier(sync, tid, threads)
        if n == 0 or step >= control[LAST] or control[HALT] != 0:
            break
        total = float(n)
        if control[WEIGHTED] == 1:
            total = 0.0
            for b in range(n):
                total += np.float64(get(act, control[WEIGHTS] + b))
        counted = total if control[WEIGHTED_STATISTICS] == 1 else float(n)
        for l in range(1, layers + 1):
            while True:
                first, last = next_chunk(sync, FEATURE_TILES, tid, threads, net[l, PAD] // rows_of_tile)
                if first == last:
                    break
                _call_layer(
                    calls[LAYER], net, control, hyper, calls, l, n, counted,
                    source if l == 1 else net[l - 1, A], weight, vector, running, saved, spread, act,
                    first, last,
                )  # fmt: skip
            barrier(sync, tid, threads)
        step += 1
        if mode == FORWARD:
            _call_logits(calls[LOGITS], tid, threads, net, layers, begin, n, act, out)
            if tid == 0:
                control[STEP] = step
            continue
        _call_loss(
            calls[LOSS_PART], tid, threads, net, control, calls, n, total, rows, labels, targets, weights,
            options, act, partial,
        )  # fmt: skip
        barrier(sync, tid, threads)
        first, last = share(net[layers, SIZE], tid, threads)
        _call_bias(
            calls[OUTPUT_BIAS], net, control, n, numbers, k, vector, vector_velocity,
            vector_square, vector_gradient, act, first, last,
        )  # fmt: skip
        for l in range(layers, 0, -1):
            # The data gradient reads weights that the update changes: a barrier stands between them,
            # and the update of this layer runs beside the data gradient of the one below.
            while l > 1:
                first, last = next_chunk(sync, FEATURE_TILES, tid, threads, net[l - 1, PAD] // rows_of_tile)
                if first == last:
                    barrier(sync, tid, threads)
                    break
                _call_backward(
                    calls[BACKWARD_LAYER], net, control, calls, l - 1, n, counted, numbers, k,
                    weight, vector, vector_velocity, vector_square, vector_gradient, saved, gradients, act,
                    first, last,
                )  # fmt: skip
            tiles = (net[l, SIZE] + width - 1) // width * (net[l - 1, PAD] // rows_of_tile)
            queue = WEIGHT_TILES if l > 1 else FIRST_WEIGHT_TILES
            while True:
                first, last = next_chunk(sync, queue, tid, threads, tiles)
                if first == last:
                    break
                _call_weight(
                    calls[WEIGHT_LAYER], net, control, calls, l, n,
                    source if l == 1 else net[l - 1, A], numbers, k, weight, weight_velocity, weight_square,
                    weight_gradient, act, first, last,
                )  # fmt: skip
        if control[CLIPPED] == 1:
            barrier(sync, tid, threads)
            _call_norm(
                calls[NORM_PART], tid, threads, net, control, hyper, weight_gradient, vector_gradient, norms,
                act,
            )  # fmt: skip
            barrier(sync, tid, threads)
            _call_apply(
                calls[APPLY_PART], tid, threads, control, hyper, adam, numbers, k, norms, weight,
                weight_gradient, weight_velocity, weight_square, vector, vector_gradient, vector_velocity,
                vector_square, act,
            )  # fmt: skip
        if tid == 0:
            loss, hits = 0.0, 0.0
            for j in range((n + width - 1) // width):
                loss += partial[2 * j]
                hits += partial[2 * j + 1]
            progress[LOSS] += loss
            progress[CORRECT] += hits
            progress[SEEN] += total
            if not math.isfinite(loss):
                control[DIVERGED] = 1
            control[UPDATES] += 1
            control[STEP] = step


@kernel
def run_steps(
    place: Any,
    tid: Any,
    threads: Any,
    sync: Any,
    net: Any,
    control: Any,
    hyper: Any,
    calls: Any,
    rates: Any,
    progress: Any,
    order: Any,
    labels: Any,
    targets: Any,
    weights: Any,
    options: Any,
    exact: Any,
    single: Any,
    numbers: Any,
    weight: Any,
    weight_velocity: Any,
    weight_square: Any,
    weight_gradient: Any,
    vector: Any,
    vector_velocity: Any,
    vector_square: Any,
    vector_gradient: Any,
    running: Any,
    saved: Any,
    spread: Any,
    gradients: Any,
    act: Any,
    partial: Any,
    norms: Any,
    out: Any,
) -> None:
    """Call `epoch_part`, whose address is `place`, with arrays whose references are not counted."""
    _call_epoch(
        place,
        tid,
        threads,
        sync,
        net,
        control,
        hyper,
        calls,
        rates,
        progress,
        order,
        labels,
        targets,
        weights,
        options,
        exact,
        single,
        numbers,
        weight,
        weight_velocity,
        weight_square,
        weight_gradient,
        vector,
        vector_velocity,
        vector_square,
        vector_gradient,
        running,
        saved,
        spread,
        gradients,
        act,
        partial,
        norms,
        out,
    )


@kernel
def permutation(seed: Any, epoch: Any, shuffle: Any, out: Any) -> None:
    """Fill `out` with a permutation that depends on (seed, epoch) alone.

    Fisher-Yates with SplitMix64 (Steele, Lea and Flood 2014) as the counter-based generator.
    """
    n = len(out)
    for i in range(n):
        out[i] = i
    if not shuffle:
        return
    state = np.uint64(seed) ^ (np.uint64(epoch) * np.uint64(0xD1342543DE82EF95))
    for i in range(n - 1, 0, -1):
        state += np.uint64(0x9E3779B97F4A7C15)
        x = state
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
        # The bias of the remainder is below n / 2**64.
        j = np.int64(x % np.uint64(i + 1))
        out[i], out[j] = out[j], out[i]
