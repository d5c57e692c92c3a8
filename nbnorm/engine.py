"""The compiled training step: three regions a layer, no pass over memory that a product can do.

Arrangement
-----------
Everything is *blocked* (see `nbnorm.simd`): with w the tile's width,

* features of layer l: ``act[A_l + (j * pad_l + i) * w + b % w]`` is feature i of sample b = j w + b % w;
  samples stand side by side, so the thread that computes a feature owns its whole mini-batch and
  with it the exact statistics of batch normalization;
* weights: ``weight[W_l + (o // w * pad + i) * w + o % w]`` is the weight from input i to output o.

With that, none of the three products of a layer packs or transposes an operand; only the
gradient with respect to z is stored a second time, with the outputs side by side.

    forward          z[o, b] = sum_i W[o, i] a[i, b]         tile_along,  then bias, f, batch norm
    data gradient    g[i, b] = sum_o W[o, i] dz[o, b]        tile_across, then their backward
    weight gradient  dW[i, o] = sum_b a[i, b] dz[o, b]       tile_across, then the update of W

A thread owns a range of tiles (``rows`` features each), every sum runs inside one feature or one
sample, and the order of all additions is fixed, so the bits do not depend on the number of threads.

Kernels allocate nothing; `Layout` says what a network and a batch size need.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from nbnorm import activations
from nbnorm._jit import kernel
from nbnorm._team import Team, barrier, new_sync
from nbnorm.activations import sigmoid
from nbnorm.gather import ADDRESS, COLUMN, KIND, READS, ROW, Data, gather, share
from nbnorm.rows import (
    activate_row,
    derive_row,
    panel_backward,
    panel_normalize,
    panel_statistics,
    softmax_rows,
)
from nbnorm.simd import (
    empty_aligned,
    get,
    put,
    tile,
    tile_across,
    tile_along,
    tile_rows,
    tile_update,
    tile_width,
    transpose,
)

# Columns of the table `net`, which describes one layer in each row; row 0 is the input.
(
    SIZE,  # features
    PAD,  # features rounded up to whole tiles
    Y,  # offset in act: what batch norm reads (f(z) or z), or the only value without batch norm
    A,  # offset in act: what the next layer reads; for the output room of the loss
    G,  # offset in act: gradient, first with respect to A, then to z
    T,  # offset in act: gradient with respect to z with the outputs side by side
    W,  # offset in weight
    BIAS,  # offset in vector
    GAMMA,
    BETA,
    STAT,  # offset in running, saved
    ACTIVATION,
    NORM,
    COLUMNS,
) = range(14)

NORMS = {None: 0, "after": 1, "before": 2}
_NONE, _AFTER, _BEFORE = 0, 1, 2
OUTPUTS = {"softmax": 0, "sigmoid": 1, "identity": 2}
_SOFTMAX, _SIGMOID, _SQUARED = 0, 1, 2

# Places in `control` (int64), behind those that `nbnorm.gather` reads.
(
    STEP,  # next step of the epoch
    LAST,  # step before which to return
    STOP,  # set from outside: return before the next step
    HALT,  # set inside: what thread 0 made of STOP and DIVERGED, the same for all threads
    DIVERGED,  # set inside: the loss is not finite
    SAMPLES,  # rows of the data
    BATCH,  # rows of a mini-batch
    STEPS,  # steps of the epoch; the last batch may be smaller
    LAYERS,  # hidden layers and the output
    OUTPUT,
    TRAINING,  # statistics of the mini-batch, or the moving averages
    MODE,  # one of the modes below
    UNBIASED,
    SPREAD,  # moving average of the variance (0) or of the standard deviation (1)
    PADDED,  # samples of a batch rounded up to whole blocks
    CONTROLS,
) = range(READS, READS + 16)

TRAIN, GRADIENTS, FORWARD = 0, 1, 2

# Places in `hyper` (float64).
MOMENTUM, NESTEROV, WEIGHT_DECAY, DECAY, EPS, HYPERS = range(6)

# Places in `progress` (float64): sums over the steps done in this epoch.
LOSS, CORRECT, SEEN, PROGRESSES = range(4)

# Blocking of the products: the vector operand of `_DEPTH` rows stays in the first-level cache while
# the tiles of one group of features pass by; the group's weights stay in the second level.
_DEPTH = 256
_GROUP = 256


@kernel
def _wide_statistics(act: Any, y: Any, stride: Any, n: Any, saved: Any, spread: Any, at: Any) -> None:
    """Repeat the second pass of a panel in float64, for squares beyond the range of float32."""
    width, rows, length = tile_width(act), tile_rows(act), len(spread)
    for r in range(rows):
        row = y + r * width
        # The first pass cannot have left the range: its sums are those of the values themselves.
        shift = get(saved, at + r)
        center = 0.0
        for b in range(n):
            center += np.float64(get(act, row + b // width * stride + b % width) - shift)
        center = center / n
        square = 0.0
        for b in range(n):
            e = np.float64(get(act, row + b // width * stride + b % width) - shift) - center
            square += e * e
        put(saved, length + at + r, act.dtype.type(center))
        put(spread, at + r, square / n)


@kernel
def _scale(
    control: Any, hyper: Any, at: Any, last: Any, n: Any, vector: Any, running: Any, saved: Any, spread: Any
) -> None:
    """Make rstd of the variances of features [at, last) and move the averages."""
    length = len(spread)
    moving = control[MODE] != GRADIENTS
    decay, fresh = hyper[DECAY], 1.0 - hyper[DECAY]
    for f in range(at, last):
        variance = get(spread, f)
        put(saved, 2 * length + f, saved.dtype.type(1.0 / math.sqrt(variance + hyper[EPS])))
        if moving:
            if control[UNBIASED] == 1:
                variance = variance * (n / (n - 1.0))
            if control[SPREAD] == 1:
                variance = math.sqrt(variance)
            mean = np.float64(get(saved, f)) + np.float64(get(saved, length + f))
            put(running, f, decay * get(running, f) + fresh * mean)
            put(running, length + f, decay * get(running, length + f) + fresh * variance)


@kernel
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


@kernel
def _forward_features(
    net: Any,
    control: Any,
    hyper: Any,
    l: Any,
    first: Any,
    last: Any,
    n: Any,
    vector: Any,
    running: Any,
    saved: Any,
    spread: Any,
    act: Any,
) -> None:
    """Finish the panels of features [first, last) of layer l: bias, activation, batch norm.

    The batch's mean is kept as shift + center: the values are shifted by the first one, which is
    exact where a large mean would cost digits; the second pass subtracts the mean and corrects for
    its rounding.  Features that fill up the last panel have gamma = beta = 0.
    """
    width, rows = tile_width(act), tile_rows(act)
    stride = net[l, PAD] * width
    norm, code, length = net[l, NORM], net[l, ACTIVATION], len(spread)
    inner, outer = (activations.IDENTITY, code) if norm == _BEFORE else (code, activations.IDENTITY)
    for i in range(first, last, rows):
        y, a = net[l, Y] + i * width, net[l, A] + i * width
        bias, at = net[l, BIAS] + i, net[l, STAT] + i
        if norm == _NONE or control[TRAINING] == 0:
            for r in range(rows):
                activate_row(act, y + r * width, stride, n, get(vector, bias + r), inner)
            if norm == _NONE:
                continue
            _take_averages(control, hyper, at, at + rows, running, saved)
        else:
            good = panel_statistics(
                act, y, vector, bias, saved, at, length + at, spread, at, stride, n, inner
            )
            if good == 0:
                _wide_statistics(act, y, stride, n, saved, spread, at)
            _scale(control, hyper, at, at + rows, n, vector, running, saved, spread)
        panel_normalize(
            act,
            y,
            a,
            vector,
            net[l, GAMMA] + i,
            net[l, BETA] + i,
            saved,
            at,
            length + at,
            2 * length + at,
            stride,
            n,
            outer,
        )


@kernel
def _forward_layer(
    tid: Any,
    threads: Any,
    net: Any,
    control: Any,
    hyper: Any,
    l: Any,
    n: Any,
    source: Any,
    weight: Any,
    vector: Any,
    running: Any,
    saved: Any,
    spread: Any,
    act: Any,
) -> None:
    """Compute this thread's features of layer l for the whole batch."""
    width, rows = tile_width(act), tile_rows(act)
    depth = net[l - 1, SIZE]
    pad_in, pad, y = net[l - 1, PAD], net[l, PAD], net[l, Y]
    blocks = (n + width - 1) // width
    first, last = share(pad // rows, tid, threads)
    group = max(_GROUP // rows, 1)
    for begin in range(first, last, group):
        end = min(begin + group, last)
        for k in range(0, depth, _DEPTH):
            length = min(_DEPTH, depth - k)
            for j in range(blocks):
                for p in range(begin, end):
                    o = p * rows
                    tile_along(
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
        _forward_features(
            net,
            control,
            hyper,
            l,
            begin * rows,
            end * rows,
            n,
            vector,
            running,
            saved,
            spread,
            act,
        )


# ----------------------------------------------------------------------------------------------
# Loss
# ----------------------------------------------------------------------------------------------


@kernel
def _softmax_block(
    act: Any, z: Any, g: Any, room: Any, size: Any, first: Any, n: Any, valid: Any, rows: Any, labels: Any
) -> Any:
    """Loss and hits of the samples of one block; writes the gradient with respect to z."""
    kind = act.dtype.type
    width = tile_width(act)
    inverse = kind(1) / kind(n)
    softmax_rows(act, z, g, room, room + width, width, size, inverse)
    loss = 0.0
    hits = 0
    for b in range(valid):
        label = get(labels, get(rows, first + b))
        value, top = get(act, z + label * width + b), get(act, room + b)
        loss += math.log(np.float64(get(act, room + width + b))) + (np.float64(top) - np.float64(value))
        if value == top:
            # an equal value in an earlier class would have been chosen
            earlier = 0
            for o in range(label):
                earlier += 1 if get(act, z + o * width + b) == top else 0
            hits += 1 if earlier == 0 else 0
        place = g + label * width + b
        put(act, place, get(act, place) - inverse)
    return loss, hits


@kernel
def _target_block(
    act: Any, z: Any, g: Any, size: Any, first: Any, n: Any, valid: Any, rows: Any, targets: Any, output: Any
) -> Any:
    """As `_softmax_block` for outputs with a target each: logistic or squared loss."""
    kind = act.dtype.type
    width = tile_width(act)
    inverse = kind(1) / kind(n)
    zero = kind(0)
    loss = 0.0
    hits = 0
    for b in range(valid):
        row = get(rows, first + b) * size
        right = True
        for o in range(size):
            value, target = get(act, z + o * width + b), get(targets, row + o)
            if output == _SIGMOID:
                wide = np.float64(value)
                # log(1 + exp(z)) - t z
                loss += max(wide, 0.0) - wide * np.float64(target) + math.log1p(math.exp(-abs(wide)))
                slope = sigmoid(value) - target
                right = right and (value > zero) == (target > kind(0.5))
            else:
                slope = value - target
                loss += 0.5 * np.float64(slope) * np.float64(slope)
            put(act, g + o * width + b, slope * inverse)
        hits += 1 if right else 0
    return loss, hits


@kernel
def _loss(
    tid: Any,
    threads: Any,
    net: Any,
    control: Any,
    n: Any,
    rows: Any,
    labels: Any,
    targets: Any,
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
    for j in range(first, last):
        z = net[l, Y] + j * pad * width
        g = net[l, G] + j * pad * width
        valid = min(width, n - j * width)
        if control[OUTPUT] == _SOFTMAX:
            room = net[l, A] + 2 * j * width
            loss, hits = _softmax_block(act, z, g, room, size, j * width, n, valid, rows, labels)
        else:
            loss, hits = _target_block(act, z, g, size, j * width, n, valid, rows, targets, control[OUTPUT])
        put(partial, 2 * j, loss)
        put(partial, 2 * j + 1, np.float64(hits))
        for o in range(size):
            place = net[l, T] + (o // width * padded + j * width) * width + o % width
            for b in range(valid):
                put(act, place + b * width, get(act, g + o * width + b))


# ----------------------------------------------------------------------------------------------
# Backward and update
# ----------------------------------------------------------------------------------------------


@kernel(inline="always")
def _update_scalar(
    vector: Any, velocity: Any, at: Any, gradient: Any, rate: Any, momentum: Any, nesterov: Any, mode: Any
) -> None:
    """Update one bias, gamma or beta, or store its gradient in place of the velocity."""
    if mode == GRADIENTS:
        put(velocity, at, gradient)
        return
    v = momentum * get(velocity, at) + gradient
    put(velocity, at, v)
    put(vector, at, get(vector, at) - rate * (gradient + momentum * v if nesterov else v))


@kernel
def _backward_features(
    net: Any,
    control: Any,
    l: Any,
    first: Any,
    last: Any,
    n: Any,
    rate: Any,
    momentum: Any,
    nesterov: Any,
    vector: Any,
    velocity: Any,
    saved: Any,
    gradients: Any,
    act: Any,
) -> None:
    """Turn the gradient of the panels of features [first, last) to z; update bias, gamma and beta."""
    kind = act.dtype.type
    width, rows = tile_width(act), tile_rows(act)
    stride, length = net[l, PAD] * width, len(saved) // 3
    norm, code, mode = net[l, NORM], net[l, ACTIVATION], control[MODE]
    batch = kind(control[TRAINING])
    case = code + 4 if norm == _BEFORE else code
    for i in range(first, last, rows):
        y, a, g = net[l, Y] + i * width, net[l, A] + i * width, net[l, G] + i * width
        stop = min(rows, net[l, SIZE] - i)
        bias, gamma, beta, at = net[l, BIAS] + i, net[l, GAMMA] + i, net[l, BETA] + i, net[l, STAT] + i
        if norm == _NONE:
            for r in range(stop):
                here, there = g + r * width, y + r * width
                dbias = derive_row(act, here, there, stride, n, code)
                _update_scalar(vector, velocity, bias + r, dbias, rate, momentum, nesterov, mode)
            continue
        panel_backward(
            act,
            g,
            y,
            a,
            vector,
            gamma,
            saved,
            at,
            length + at,
            2 * length + at,
            gradients,
            gamma,
            beta,
            bias,
            stride,
            n,
            batch,
            case,
        )
        for r in range(stop):
            for place in (gamma + r, beta + r):
                _update_scalar(vector, velocity, place, get(gradients, place), rate, momentum, nesterov, mode)
            if norm == _AFTER:
                place = bias + r
                _update_scalar(vector, velocity, place, get(gradients, place), rate, momentum, nesterov, mode)


@kernel
def _output_bias(
    tid: Any,
    threads: Any,
    net: Any,
    control: Any,
    n: Any,
    rate: Any,
    momentum: Any,
    nesterov: Any,
    vector: Any,
    velocity: Any,
    act: Any,
) -> None:
    """Gradient and update of the output layer's bias."""
    width = tile_width(act)
    l = control[LAYERS]
    first, last = share(net[l, SIZE], tid, threads)
    for o in range(first, last):
        g = net[l, G] + o * width
        dbias = derive_row(act, g, g, net[l, PAD] * width, n, activations.IDENTITY)
        _update_scalar(vector, velocity, net[l, BIAS] + o, dbias, rate, momentum, nesterov, control[MODE])


@kernel
def _backward_layer(
    tid: Any,
    threads: Any,
    net: Any,
    control: Any,
    l: Any,
    n: Any,
    rate: Any,
    momentum: Any,
    nesterov: Any,
    weight: Any,
    vector: Any,
    velocity: Any,
    saved: Any,
    gradients: Any,
    act: Any,
) -> None:
    """Gradient with respect to z of this thread's features of layer l, from that of layer l + 1."""
    width, rows = tile_width(act), tile_rows(act)
    depth = net[l + 1, SIZE]
    pad_out, pad, g = net[l + 1, PAD], net[l, PAD], net[l, G]
    blocks = (n + width - 1) // width
    padded = control[PADDED]
    stride = pad * width
    first, last = share(pad // rows, tid, threads)
    group = max(_GROUP // rows, 1)
    for begin in range(first, last, group):
        end = min(begin + group, last)
        for k in range(0, depth, _DEPTH):
            length = min(_DEPTH, depth - k)
            for j in range(blocks):
                for p in range(begin, end):
                    i = p * rows
                    tile_across(
                        weight,
                        net[l + 1, W] + (k // width * pad + i) * width,
                        act,
                        net[l + 1, G] + (j * pad_out + k) * width,
                        act,
                        g + (j * pad + i) * width,
                        length,
                        stride,
                        1 if k > 0 else 0,
                    )
        _backward_features(
            net,
            control,
            l,
            begin * rows,
            end * rows,
            n,
            rate,
            momentum,
            nesterov,
            vector,
            velocity,
            saved,
            gradients,
            act,
        )
        for p in range(begin, end):
            # Rows beyond the last feature are zero: their weights are.
            i = p * rows
            place = net[l, T] + (i // width * padded) * width + i % width
            for j in range(blocks):
                here = g + (j * pad + i) * width
                for b in range(0, width, rows):
                    transpose(act, here + b, width, act, place + (j * width + b) * width, width)


@kernel
def _weight_layer(
    tid: Any,
    threads: Any,
    net: Any,
    control: Any,
    l: Any,
    n: Any,
    source: Any,
    rate: Any,
    momentum: Any,
    nesterov: Any,
    shrink: Any,
    weight: Any,
    velocity: Any,
    act: Any,
) -> None:
    """Gradient and update of this thread's tiles of the weights of layer l."""
    kind = act.dtype.type
    width, rows = tile_width(act), tile_rows(act)
    pad_in = net[l - 1, PAD]
    tiles = pad_in // rows
    padded = control[PADDED]
    ahead = kind(0)
    if control[MODE] == GRADIENTS:  # 0 velocity + gradient = gradient, and the weights stay
        momentum, shrink, rate = kind(0), kind(1), kind(0)
    elif nesterov:
        rate, ahead = rate * momentum, rate
    blocks = (net[l, SIZE] + width - 1) // width
    first, last = share(blocks * tiles, tid, threads)
    for t in range(first, last):
        o, i = t // tiles, t % tiles * rows
        at = net[l, W] + (o * pad_in + i) * width
        tile_update(
            act,
            source + i * width,
            act,
            net[l, T] + o * padded * width,
            weight,
            at,
            velocity,
            at,
            n,
            pad_in * width,
            momentum,
            shrink,
            rate,
            ahead,
        )


# ----------------------------------------------------------------------------------------------
# Steps
# ----------------------------------------------------------------------------------------------


@kernel
def _write_logits(tid: Any, threads: Any, net: Any, l: Any, begin: Any, n: Any, act: Any, out: Any) -> None:
    """Copy this thread's samples of the batch into rows of `out`."""
    width = tile_width(act)
    first, last = share(n, tid, threads)
    for b in range(first, last):
        z = net[l, Y] + (b // width * net[l, PAD]) * width + b % width
        for o in range(net[l, SIZE]):
            out[begin + b, o] = get(act, z + o * width)


@kernel
def run_steps(
    tid: Any,
    threads: Any,
    sync: Any,
    net: Any,
    control: Any,
    hyper: Any,
    rates: Any,
    progress: Any,
    order: Any,
    labels: Any,
    targets: Any,
    exact: Any,
    single: Any,
    weight: Any,
    weight_velocity: Any,
    vector: Any,
    vector_velocity: Any,
    running: Any,
    saved: Any,
    spread: Any,
    gradients: Any,
    act: Any,
    partial: Any,
    out: Any,
) -> None:
    """Run the steps from ``control[STEP]`` to ``control[LAST]`` of an epoch, all threads together.

    In mode FORWARD a step ends with the logits, written into `out`; in mode GRADIENTS the gradients
    take the place of the velocities.  With the moving averages (TRAINING 0) a sample's logits do not
    depend on the batch in which it stands.
    """
    kind = act.dtype.type
    width = tile_width(act)
    layers = control[LAYERS]
    batch, samples, mode = control[BATCH], control[SAMPLES], control[MODE]
    momentum, nesterov = kind(hyper[MOMENTUM]), hyper[NESTEROV] == 1.0
    step = control[STEP]
    buffer = 0
    while True:
        begin = step * batch
        n = min(batch, samples - begin)
        # The next batch is read into the other input buffer, beside the last update.
        source = net[0, A] if buffer == 0 else net[0, Y]
        buffer = 1 - buffer
        rows = order[begin : begin + max(n, 0)]
        if n > 0 and step < control[LAST]:
            gather(tid, threads, control, net[0, SIZE], net[0, PAD], rows, n, exact, single, act, source)
        if tid == 0 and (control[STOP] != 0 or control[DIVERGED] != 0):
            control[HALT] = 1
        barrier(sync, threads)
        if n <= 0 or step >= control[LAST] or control[HALT] != 0:
            break
        for l in range(1, layers + 1):
            _forward_layer(
                tid,
                threads,
                net,
                control,
                hyper,
                l,
                n,
                source if l == 1 else net[l - 1, A],
                weight,
                vector,
                running,
                saved,
                spread,
                act,
            )
            barrier(sync, threads)
        step += 1
        if mode == FORWARD:
            _write_logits(tid, threads, net, layers, begin, n, act, out)
            if tid == 0:
                control[STEP] = step
            continue
        _loss(tid, threads, net, control, n, rows, labels, targets, act, partial)
        barrier(sync, threads)
        if tid == 0:
            loss, hits = 0.0, 0.0
            for j in range((n + width - 1) // width):
                loss += partial[2 * j]
                hits += partial[2 * j + 1]
            progress[LOSS] += loss
            progress[CORRECT] += hits
            progress[SEEN] += n
            if not math.isfinite(loss):
                control[DIVERGED] = 1
            control[STEP] = step
        rate = kind(rates[step - 1])
        shrink = kind(1.0 - rates[step - 1] * hyper[WEIGHT_DECAY])
        _output_bias(tid, threads, net, control, n, rate, momentum, nesterov, vector, vector_velocity, act)
        for l in range(layers, 0, -1):
            # The data gradient reads weights that the update changes: a barrier stands between them,
            # and the update of this layer runs beside the data gradient of the one below.
            if l > 1:
                _backward_layer(
                    tid,
                    threads,
                    net,
                    control,
                    l - 1,
                    n,
                    rate,
                    momentum,
                    nesterov,
                    weight,
                    vector,
                    vector_velocity,
                    saved,
                    gradients,
                    act,
                )
                barrier(sync, threads)
            _weight_layer(
                tid,
                threads,
                net,
                control,
                l,
                n,
                source if l == 1 else net[l - 1, A],
                rate,
                momentum,
                nesterov,
                shrink,
                weight,
                weight_velocity,
                act,
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


# ----------------------------------------------------------------------------------------------
# Memory
# ----------------------------------------------------------------------------------------------


def _up(value: int, step: int) -> int:
    return -(-value // step) * step


class Layout:
    """Where everything of a network stands in the arrays of the engine, for one batch size."""

    def __init__(
        self,
        sizes: tuple[int, ...],
        activations_: tuple[str, ...],
        norm: str | None,
        batch: int,
        dtype: np.dtype[Any],
        *,
        gradients: bool,
    ) -> None:
        shape = tile(dtype)
        width = shape.width
        self.sizes, self.dtype, self.batch, self.width = sizes, dtype, batch, width
        self.padded = _up(batch, width)
        layers = len(sizes) - 1
        net = np.zeros((layers + 1, COLUMNS), np.int64)
        act = weight = vector = stat = 0

        def room(features: int) -> int:
            nonlocal act
            start = act
            act += features * self.padded
            return start

        for l, size in enumerate(sizes):
            row = net[l]
            pad = _up(size, shape.rows)
            hidden = 0 < l < layers
            row[SIZE], row[PAD] = size, pad
            row[NORM] = NORMS[norm] if hidden else _NONE
            row[ACTIVATION] = activations.CODES[activations_[l - 1]] if hidden else activations.IDENTITY
            row[Y] = room(pad)
            # The input is double-buffered; batch norm keeps what it read beside what it gave.
            separate = row[NORM] != _NONE or l == 0
            row[A] = room(pad) if separate else row[Y]
            if l == layers and gradients:  # the largest logit and the sum of exponentials
                row[A] = room(2)
            if l == 0:
                continue
            if gradients:
                row[G] = room(pad)
                row[T] = room(_up(size, width))
            row[W] = weight
            weight += _up(size, width) * int(net[l - 1, PAD])
            for column in (BIAS, GAMMA, BETA):
                row[column] = vector
                vector += pad
            row[STAT] = stat
            stat += pad if hidden else 0
        self.net = net
        self.act_size, self.weight_size, self.vector_size = act, weight, vector
        self.features = max(stat, 1)

    def blocked(self, l: int, weight: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """View of the weights of layer l in `weight`: (blocks of outputs, inputs, width)."""
        size, inputs = self.sizes[l], int(self.net[l - 1, PAD])
        blocks = _up(size, self.width) // self.width
        start = int(self.net[l, W])
        view = weight[start : start + blocks * inputs * self.width]
        return view.reshape(blocks, inputs, self.width)

    def pack(self, l: int, source: npt.NDArray[Any], weight: npt.NDArray[Any]) -> None:
        """Copy a matrix (n_out, n_in) into the blocked weights of layer l."""
        target = self.blocked(l, weight)
        n_out, n_in = source.shape
        whole = n_out // self.width
        split = source[: whole * self.width].reshape(whole, self.width, n_in)
        target[:whole, :n_in] = split.transpose(0, 2, 1)
        rest = n_out - whole * self.width
        if rest:
            target[whole, :n_in, :rest] = source[whole * self.width :].T

    def unpack(self, l: int, weight: npt.NDArray[Any], target: npt.NDArray[Any]) -> None:
        """Copy the blocked weights of layer l into a matrix (n_out, n_in)."""
        source = self.blocked(l, weight)
        n_out, n_in = target.shape
        for block in range(len(source)):
            stop = min((block + 1) * self.width, n_out)
            rows = slice(block * self.width, stop)
            target[rows] = source[block, :n_in, : stop - block * self.width].T


class Engine:
    """The arrays of one network in the engine's arrangement, and the calls that work on them.

    Parameters
    ----------
    layout : Layout
        Places of everything.
    parameters, buffers : dict of str to array
        The network's own arrays, from which `load` copies and into which `store` copies.
    """

    def __init__(
        self,
        layout: Layout,
        parameters: dict[str, npt.NDArray[Any]],
        buffers: dict[str, npt.NDArray[Any]],
        *,
        spread: str,
        unbiased: bool,
        decay: float,
        eps: float,
        output: str,
    ) -> None:
        self.layout, self.parameters, self.buffers, self._spread = layout, parameters, buffers, spread
        dtype = layout.dtype
        self.weight = empty_aligned(layout.weight_size, dtype)
        self.vector = empty_aligned(layout.vector_size, dtype)
        self.running = np.zeros(2 * layout.features)
        self.control = np.zeros(CONTROLS, np.int64)
        self.control[LAYERS] = len(layout.sizes) - 1
        self.control[OUTPUT] = OUTPUTS[output]
        self.control[UNBIASED] = int(unbiased)
        self.control[SPREAD] = int(spread == "running_std")
        self.control[PADDED] = layout.padded
        self.hyper = np.zeros(HYPERS)
        self.hyper[DECAY], self.hyper[EPS] = decay, eps
        inputs = layout.sizes[0]
        self.standardize(np.zeros(inputs), np.zeros(inputs), np.ones(inputs))
        self.load()

    def standardize(self, mean: npt.NDArray[Any], low: npt.NDArray[Any], scale: npt.NDArray[Any]) -> None:
        """Set the statistics of the input standardizer; the mean is `mean` + `low`."""
        dtype = self.layout.dtype
        self.exact = np.array([mean, low, 1.0 / np.asarray(scale)])
        high = self.exact[0].astype(dtype)
        rest = (self.exact[0] - high) + self.exact[1]
        self.single = np.array([high, rest.astype(dtype), self.exact[2].astype(dtype)])

    def _vectors(self) -> Iterator[tuple[npt.NDArray[Any], int, int]]:
        """Public vectors with the layer and the column that says where the engine keeps them."""
        for l in range(1, len(self.layout.sizes)):
            for name, column in (
                (f"dense{l}.bias", BIAS),
                (f"norm{l}.gamma", GAMMA),
                (f"norm{l}.beta", BETA),
            ):
                if name in self.parameters:
                    yield self.parameters[name], l, column

    def _statistics(self) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any], slice]]:
        for l in range(1, len(self.layout.sizes) - 1):
            if f"norm{l}.running_mean" in self.buffers:
                start = int(self.layout.net[l, STAT])
                place = slice(start, start + self.layout.sizes[l])
                half = self.running.reshape(2, -1)
                yield self.buffers[f"norm{l}.running_mean"], half[0], place
                yield self.buffers[f"norm{l}.{self._spread}"], half[1], place

    def load(self) -> None:
        """Copy the network's parameters and buffers into the engine."""
        for l in range(1, len(self.layout.sizes)):
            self.layout.pack(l, self.parameters[f"dense{l}.weight"], self.weight)
        for values, l, column in self._vectors():
            start = int(self.layout.net[l, column])
            self.vector[start : start + len(values)] = values
        for values, held, place in self._statistics():
            held[place] = values

    def store(self) -> None:
        """Copy the engine's parameters and buffers into the network."""
        self.export(self.weight, self.vector, self.parameters)
        self.store_statistics()

    def store_statistics(self) -> None:
        """Copy the engine's moving averages into the network."""
        for values, held, place in self._statistics():
            values[:] = held[place]

    def export(
        self, weight: npt.NDArray[Any], vector: npt.NDArray[Any], target: dict[str, npt.NDArray[Any]]
    ) -> None:
        """Copy arrays in the engine's arrangement into arrays named and shaped like the parameters."""
        for l in range(1, len(self.layout.sizes)):
            self.layout.unpack(l, weight, target[f"dense{l}.weight"])
        for name, column in (("dense{}.bias", BIAS), ("norm{}.gamma", GAMMA), ("norm{}.beta", BETA)):
            for l in range(1, len(self.layout.sizes)):
                values = target.get(name.format(l))
                if values is not None:
                    start = int(self.layout.net[l, column])
                    values[:] = vector[start : start + len(values)]

    def finite(self) -> bool:
        """Whether all parameters are finite."""
        return bool(np.isfinite(self.weight).all() and np.isfinite(self.vector).all())


class Run:
    """A pass of an engine over data: what `run_steps` needs beside the network.

    Parameters
    ----------
    engine : Engine
        Network in the engine's arrangement.
    data : Data
        Samples.
    batch : int
        Samples of a step.
    mode : int
        TRAIN, GRADIENTS or FORWARD.
    training : bool
        Whether batch norm uses the statistics of the batch.
    labels, targets : ndarray, optional
        Classes (int64), or the targets of all outputs in one row (in the network's dtype).
    """

    def __init__(
        self,
        engine: Engine,
        data: Data,
        batch: int,
        mode: int,
        *,
        training: bool,
        labels: npt.NDArray[Any] | None = None,
        targets: npt.NDArray[Any] | None = None,
    ) -> None:
        layout = engine.layout
        dtype = layout.dtype
        forward = mode == FORWARD
        steps = -(-data.samples // batch)
        self.engine, self.data = engine, data
        self.labels = np.zeros(1, np.int64) if labels is None else labels
        self.targets = np.zeros(1, dtype) if targets is None else targets
        self.weight_velocity = empty_aligned(1 if forward else layout.weight_size, dtype)
        self.vector_velocity = empty_aligned(1 if forward else layout.vector_size, dtype)
        self.act = empty_aligned(layout.act_size, dtype)
        self.saved = np.zeros(3 * layout.features, dtype)
        self.spread = np.zeros(layout.features)
        self.gradients = np.zeros(layout.vector_size, dtype)
        self.partial = np.zeros(2 * (layout.padded // layout.width))
        self.progress = np.zeros(PROGRESSES)
        self.order = np.arange(data.samples, dtype=np.int64)
        self.rates = np.zeros(steps)
        self.out = np.empty((data.samples, layout.sizes[-1]) if forward else (1, 1), dtype)
        self.sync = new_sync()
        self.control = engine.control.copy()
        for place, value in (
            (SAMPLES, data.samples), (BATCH, batch), (STEPS, steps), (LAST, steps), (MODE, mode),
            (TRAINING, int(training)), (ADDRESS, data.address), (KIND, data.kind), (ROW, data.strides[0]),
            (COLUMN, data.strides[1]),
        ):  # fmt: skip
            self.control[place] = value

    def begin(self, seed: int, epoch: int, shuffle: bool) -> None:
        """Start an epoch."""
        with np.errstate(over="ignore"):  # interpreted, NumPy warns that the generator's numbers wrap
            permutation(np.uint64(seed), np.uint64(epoch), shuffle, self.order)
        self.control[STEP] = 0
        self.progress[:] = 0.0

    def arguments(self) -> tuple[Any, ...]:
        """Arguments of `run_steps` behind (tid, threads)."""
        engine, layout = self.engine, self.engine.layout
        return (
            self.sync, layout.net, self.control, engine.hyper, self.rates, self.progress, self.order,
            self.labels, self.targets, engine.exact, engine.single, engine.weight, self.weight_velocity,
            engine.vector, self.vector_velocity, engine.running, self.saved, self.spread,
            self.gradients, self.act, self.partial, self.out,
        )  # fmt: skip

    def stop(self) -> None:
        """Make a running `run_steps` return before its next step."""
        self.control[STOP] = 1

    def all(self, threads: int) -> Run:
        """Run all steps from the present one; return the run itself."""
        if threads == 1:
            run_steps(0, 1, *self.arguments())
        else:
            with Team(threads) as team:
                team.run(run_steps, self.arguments(), lambda: None, self.stop)
        return self

    def optimizer_state(self) -> dict[str, npt.NDArray[Any]]:
        """Return the live arrays that the optimizer keeps from step to step."""
        return {"weight_velocity": self.weight_velocity, "vector_velocity": self.vector_velocity}

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Return the live arrays that a training needs to go on from here within its epoch."""
        engine = self.engine
        return {
            "weight": engine.weight,
            "vector": engine.vector,
            "running": engine.running,
            "progress": self.progress,
            "step": self.control[STEP : STEP + 1],
            **self.optimizer_state(),
        }

    def restore(self, state: dict[str, npt.NDArray[Any]]) -> None:
        """Go on from what `state` or `optimizer_state` gave, in this process or another."""
        held = self.state()
        for name, values in state.items():
            held[name][:] = values

    def go_on(self) -> None:
        """Take back `stop`."""
        self.control[STOP] = self.control[HALT] = 0
