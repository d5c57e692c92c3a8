"""The compiled training step: three phases a layer, no pass over memory that a product can do.

Arrangement
-----------
Everything is *blocked* (see `nbnorm.engine.microkernels`): with w the tile's width,

* features of a layer: ``act[output_offset + (j * padded + i) * w + b % w]`` is feature i of sample
  b = j w + b % w; samples stand side by side, so the thread that computes a feature owns its whole
  mini-batch and with it the exact statistics of batch normalization;
* weights: ``weight[weight_offset + (o // w * padded + i) * w + o % w]`` is the weight from input i
  to output o.

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

from nbnorm import simd
from nbnorm.compile.kernels import kernel
from nbnorm.compile.pointers import call
from nbnorm.engine.microkernels import NUMBERS, step_numbers, tile_rows, tile_width
from nbnorm.engine.table import CORRECT, FORWARD, GRADIENTS, LOSS, SEEN
from nbnorm.engine.thread_pool import (
    barrier,
    next_chunk,
    thread_range,
)
from nbnorm.simd import get, put

# Queues of work in which a thread that has finished its own helps the others.  The updates of the first
# two layers meet no barrier between them.
FEATURE_TILES, WEIGHT_TILES, FIRST_WEIGHT_TILES = range(3)


@kernel(first_class=False)
def epoch_part(tid: Any, threads: Any, run: Any) -> None:
    """Run the steps from ``control.step`` to ``control.last_step`` of an epoch, all threads together.

    `run` is the workspace of `nbnorm.engine.run.Run`.

    In mode FORWARD a step ends with the logits, written into `out`; in mode GRADIENTS with the
    gradients.  With the moving averages (``control.training == 0``) a sample's logits do not depend on the
    batch in which it stands.
    """
    sync, net, control, calls, act = run.sync, run.net, run.control, run.calls, run.act
    width, rows_of_tile = tile_width(act), tile_rows(act)
    layers, mode = control.layers, control.mode
    inputs = net[0]
    # the first `longer` batches have one sample more than the others
    least, longer = control.samples // control.steps, control.samples % control.steps
    # the second of two buffers for the input's pairs begins behind the first
    rounded, pairs_size = control.bfloat16 == 1, inputs.padded // 2 * control.padded_batch
    if rounded:  # whatever has been written to the weights
        call(calls.round_weights, tid, threads, run)
    step = control.step
    buffer = 0
    while True:
        begin = step * least + simd.min(step, longer)
        n = least + (1 if step < longer else 0) if step < control.steps else 0
        # The next batch is read into the other input buffer, beside the last update.
        source = inputs.output_offset if buffer == 0 else inputs.norm_input_offset
        feature_pairs = inputs.feature_pairs_offset + buffer * pairs_size
        sample_pairs = inputs.sample_pairs_offset + buffer * pairs_size
        # A slower thread may still need the numbers of the step before.
        k = buffer * control.groups * (2 * NUMBERS)
        buffer = 1 - buffer
        if n > 0 and step < control.last_step:
            call(calls.gather, tid, threads, run, begin, n, source)
            if rounded and net[1].bfloat16 == 1:
                call(calls.pack_input, tid, threads, run, n, source, feature_pairs, sample_pairs)
            if tid == 0:
                if calls.step_numbers != 0:
                    for group in range(control.groups):
                        step_numbers(
                            calls.step_numbers, run.numbers, k + group * (2 * NUMBERS), run.optimizer,
                            group * (len(run.optimizer) // control.groups), run.rates, step, control.updates,
                        )  # fmt: skip
                if control.weighted == 1:
                    for b in range(n):
                        put(act, control.weights_offset + b, get(run.weights, get(run.order, begin + b)))
        if tid == 0 and (control.stop != 0 or control.diverged != 0):
            control.halt = 1
        barrier(sync, tid, threads)
        if n == 0 or step >= control.last_step or control.halt != 0:
            break
        total = float(n)
        if control.weighted == 1:
            total = 0.0
            for b in range(n):
                total += np.float64(get(act, control.weights_offset + b))
        counted = total if control.weighted_statistics == 1 else float(n)
        blocks = (n + width - 1) // width
        for l in range(1, layers + 1):
            operand = source if l == 1 else net[l - 1].output_offset
            if rounded and net[l].bfloat16 == 1:
                operand = feature_pairs if l == 1 else net[l - 1].feature_pairs_offset
            while True:
                first, last = next_chunk(sync, FEATURE_TILES, tid, threads, net[l].padded // rows_of_tile)
                if first == last:
                    break
                call(calls.forward_layer, run, l, n, counted, operand, first, last)
            barrier(sync, tid, threads)
            if net[l].sample_norm != 0:
                first, last = thread_range(blocks, tid, threads)
                call(calls.forward_blocks, run, l, n, first, last)
                barrier(sync, tid, threads)
        step += 1
        if tid == 0 and control.training == 1 and mode != GRADIENTS:
            batches = len(run.running) - 1
            put(run.running, batches, get(run.running, batches) + 1.0)
        if mode == FORWARD:
            call(calls.write_logits, tid, threads, run, begin, n)
            if tid == 0:
                control.step = step
            continue
        call(calls.loss_part, tid, threads, run, begin, n, total)
        barrier(sync, tid, threads)
        for l in range(layers, 0, -1):
            below = net[l - 1]
            if l == layers or net[l].sample_norm != 0:
                first, last = thread_range(net[l].features, tid, threads)
                call(calls.bias_part, run, l, n, k, first, last)
            # The data gradient reads weights that the update changes: a barrier stands between them,
            # and the update of this layer runs beside the data gradient of the one below.
            while l > 1:
                first, last = next_chunk(sync, FEATURE_TILES, tid, threads, below.padded // rows_of_tile)
                if first == last:
                    barrier(sync, tid, threads)
                    break
                call(calls.backward_layer, run, l - 1, n, counted, k, first, last)
            if below.sample_norm != 0:  # beside the update of this layer
                first, last = thread_range(blocks, tid, threads)
                call(calls.backward_blocks, run, l - 1, n, first, last)
            tiles = (net[l].features + width - 1) // width * (below.padded // rows_of_tile)
            queue = WEIGHT_TILES if l > 1 else FIRST_WEIGHT_TILES
            operand = source if l == 1 else below.output_offset
            if rounded and net[l].bfloat16 == 1:
                operand = sample_pairs if l == 1 else below.sample_pairs_offset
            while True:
                first, last = next_chunk(sync, queue, tid, threads, tiles)
                if first == last:
                    break
                call(calls.weight_layer, tid, run, l, n, operand, k, first, last)
            if below.sample_norm != 0:
                barrier(sync, tid, threads)
        if control.clipped == 1:
            barrier(sync, tid, threads)
            call(calls.norm_part, tid, threads, run)
            barrier(sync, tid, threads)
            call(calls.apply_part, tid, threads, run, k)
            if rounded:
                barrier(sync, tid, threads)
                call(calls.round_weights, tid, threads, run)
        if tid == 0:
            loss, hits = 0.0, 0.0
            for j in range(blocks):
                loss += run.partial[2 * j]
                hits += run.partial[2 * j + 1]
            progress = run.progress
            progress[LOSS] += loss
            progress[CORRECT] += hits
            progress[SEEN] += total
            if not math.isfinite(loss):
                control.diverged = 1
            control.updates += 1
            control.step = step


@kernel(first_class=False)
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
