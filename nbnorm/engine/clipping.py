"""Bounded gradients: they are stored, measured, and used in phases of their own."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nbnorm.compile.kernels import inner_kernel
from nbnorm.engine.microkernels import PENALTY, tile_width, vector_update
from nbnorm.engine.thread_pool import thread_range
from nbnorm.simd import get, put


@inner_kernel
def norm_part(tid: Any, threads: Any, run: Any) -> None:
    """Square of the norm of this thread's blocks of gradients, each into its element of `norms`.

    Elements are bounded first.  The last block is that of all vectors.
    """
    net, control, norms = run.net, run.control, run.norms
    weight_gradient, vector_gradient = run.weight_gradient, run.vector_gradient
    width = tile_width(weight_gradient)
    bound = run.hyper.clip_value
    block = 0
    for l in range(1, control.layers + 2):
        blocks = 1 if l > control.layers else (net[l].features + width - 1) // width
        for o in range(blocks):
            if block % threads == tid:
                total = 0.0
                if l > control.layers:
                    for e in range(len(vector_gradient)):
                        x = max(min(np.float64(get(vector_gradient, e)), bound), -bound)
                        total += x * x
                else:
                    # padding below the last input is not a weight
                    below = net[l - 1]
                    at = net[l].weight_offset + o * below.padded * width
                    for e in range(at, at + below.features * width):
                        x = max(min(np.float64(get(weight_gradient, e)), bound), -bound)
                        total += x * x
                put(norms, block, total)
            block += 1


@inner_kernel
def apply_part(tid: Any, threads: Any, run: Any, k: Any) -> None:
    """Update this thread's weights and vectors with bounded gradients."""
    net, control, hyper, calls = run.net, run.control, run.hyper, run.calls
    numbers, norms = run.numbers, run.norms
    weight, weight_state, weight_gradient = run.weight, run.weight_state, run.weight_gradient
    vector, vector_state, vector_gradient = run.vector, run.vector_state, run.vector_gradient
    number = weight.dtype.type
    total = 0.0
    for block in range(len(norms)):
        total += norms[block]
    factor = number(1)
    if total > hyper.clip_norm * hyper.clip_norm:
        factor = number(hyper.clip_norm / math.sqrt(total))
    bound = number(hyper.clip_value)
    first, last = thread_range(len(weight_gradient), tid, threads)
    for l in range(1, control.layers + 1):
        own = k + net[l].weight_numbers
        begin = max(first, net[l].weight_offset)
        end = min(last, len(weight_gradient) if l == control.layers else net[l + 1].weight_offset)
        penalty = get(numbers, own + PENALTY)
        for e in range(begin, end):
            gradient = max(min(get(weight_gradient, e), bound), -bound) * factor
            put(weight_gradient, e, gradient + penalty * get(weight, e))
        if begin < end:
            vector_update(
                calls.clipped_update, weight, begin, weight_state, begin, weight_gradient, begin, numbers,
                own, len(weight_gradient), end - begin,
            )  # fmt: skip
    first, last = thread_range(len(vector), tid, threads)
    for e in range(first, last):
        put(vector_gradient, e, max(min(get(vector_gradient, e), bound), -bound) * factor)
    for l in range(1, control.layers + 1):
        layer = net[l]
        for at, own in (
            (layer.bias_offset, layer.bias_numbers),
            (layer.gamma_offset, layer.gamma_numbers),
            (layer.beta_offset, layer.beta_numbers),
        ):
            begin, end = max(first, at), min(last, at + layer.padded)
            if begin < end:
                vector_update(
                    calls.clipped_update, vector, begin, vector_state, begin, vector_gradient, begin, numbers,
                    k + own, len(vector), end - begin,
                )  # fmt: skip
