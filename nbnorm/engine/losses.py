"""Losses of the training engine: one block of samples, side by side, in the engine's layout.

The logit of output o of sample b stands at act[z + o * width + b] (see `nbnorm.engine.run`), and the
gradient with respect to it goes to act[g + o * width + b] for the `valid` first samples.
`inverse` is 1 / (sum of the weights of the mini-batch); act[workspace:workspace + 3 * size * width] is
scratch; rows[first + b] is the sample's row in `labels`, `targets` and `weights`, and `weights` has
no elements where all are 1.  partial[at] becomes the sum of weight * loss, partial[at + 1] the sum
of the weights of those samples whose outputs are all right (0 for regression).

The formulas are those of `nbnorm.functions.loss_formulas`.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from nbnorm import simd
from nbnorm.compile.kernels import inner_kernel, kernel
from nbnorm.engine.microkernels import tile, tile_width
from nbnorm.functions import loss_formulas
from nbnorm.functions.loss_formulas import CODES, cross_entropy
from nbnorm.functions.loss_options import OUTPUTS, CrossEntropy, CustomLoss, Loss
from nbnorm.simd import get, put

_SOFTMAX, _SIGMOID = OUTPUTS["softmax"], OUTPUTS["sigmoid"]


def block_kernel(loss: Loss) -> Any:
    """Return the kernel of a loss for one block of samples."""
    if isinstance(loss, CustomLoss):
        return _custom_block(loss.function)
    return softmax_block if isinstance(loss, CrossEntropy) else _formula_block(CODES[loss.name])


@functools.cache
def _formula_block(code: int) -> Any:
    """Make the kernel of a formula; `options` has a number for each of the outputs that share a target."""

    @inner_kernel
    def formula_block(
        run: Any, z: Any, g: Any, workspace: Any, size: Any, first: Any, valid: Any, inverse: Any, at: Any
    ) -> None:
        act, rows, targets, weights = run.act, run.order, run.targets, run.weights
        options, partial = run.options, run.partial
        number = act.dtype.type
        width = tile_width(act)
        levels = len(options)
        columns = size // levels
        loss = 0.0
        hits = 0.0
        for b in range(valid):
            row = get(rows, first + b)
            w = get(weights, row) if len(weights) > 0 else number(1)
            right = True
            for c in range(columns):
                t = get(targets, row * columns + c)
                for k in range(levels):
                    offset, a = (c * levels + k) * width + b, get(options, k)
                    y = get(act, z + offset)
                    right = right and loss_formulas.hit(code, y, t)
                    loss += np.float64(w) * loss_formulas.value(code, np.float64(y), np.float64(t), a)
                    put(act, g + offset, loss_formulas.slope(code, y, t, number(a)) * (inverse * w))
            hits += np.float64(w) if right else 0.0
        put(partial, at, loss)
        put(partial, at + 1, hits)

    return formula_block


@simd.traced
def softmax_rows(
    x: Any, z: Any, g: Any, top_at: Any, total_at: Any, factor_at: Any, stride: Any, n: Any
) -> None:
    """Write the softmax of a block of samples over `n` outputs, times the samples' factors, to g.

    The largest z and the sum of the exponentials go to `top_at` and `total_at`.
    """
    width = tile(x.dtype).width

    def larger(k: Any, top: Any) -> Any:
        value = simd.load(x, z + k * stride, width)
        return simd.where(value > top, value, top)

    top = simd.loop(0, n, 1, larger, simd.load(x, z, width))

    def exponential(k: Any, total: Any) -> Any:
        e = simd.exp_below_0(simd.load(x, z + k * stride, width) - top)
        simd.store(x, g + k * stride, e)
        return total + e

    total = simd.loop(0, n, 1, exponential, simd.zeros(x.dtype, width))
    factor = simd.load(x, factor_at, width) / total

    def scale(k: Any) -> None:
        simd.store(x, g + k * stride, simd.load(x, g + k * stride, width) * factor)

    simd.loop(0, n, 1, scale)
    simd.store(x, top_at, top)
    simd.store(x, total_at, total)


@inner_kernel
def softmax_block(
    run: Any, z: Any, g: Any, workspace: Any, size: Any, first: Any, valid: Any, inverse: Any, at: Any
) -> None:
    """Cross-entropy of softmax outputs; ``options[0]`` is the label smoothing."""
    act, rows, labels, weights = run.act, run.order, run.labels, run.weights
    options, partial = run.options, run.partial
    number = act.dtype.type
    width = tile_width(act)
    tops, totals, factors = workspace, workspace + width, workspace + 2 * width
    for b in range(width):
        w = get(weights, get(rows, first + b)) if len(weights) > 0 and b < valid else number(1)
        put(act, factors + b, inverse * w)
    softmax_rows(act, z, g, tops, totals, factors, width, size)
    loss = 0.0
    hits = 0.0
    for b in range(valid):
        row = get(rows, first + b)
        label = get(labels, row)
        w = np.float64(get(weights, row)) if len(weights) > 0 else 1.0
        top = get(act, tops + b)
        loss += w * cross_entropy(
            act, z + b, act, g + b, width, size, label, get(options, 0), get(act, factors + b), top,
            np.float64(get(act, totals + b)),
        )  # fmt: skip
        if get(act, z + label * width + b) == top:
            # an equal value in an earlier class would have been chosen
            earlier = 0
            for o in range(label):
                earlier += 1 if get(act, z + o * width + b) == top else 0
            hits += w if earlier == 0 else 0.0
    put(partial, at, loss)
    put(partial, at + 1, hits)


@functools.lru_cache(maxsize=64)
def _custom_block(function: Any) -> Any:
    """Make the engine's kernel around a user's function; ``options[0]`` is the code of the output."""

    # Not cached on disk: the code of the user's function is not part of the cache's key.
    @kernel(cache=False)
    def custom_block(
        run: Any, z: Any, g: Any, workspace: Any, size: Any, first: Any, valid: Any, inverse: Any, at: Any
    ) -> None:
        act, rows, labels, targets = run.act, run.order, run.labels, run.targets
        weights, options, partial = run.weights, run.options, run.partial
        number = act.dtype.type
        width = tile_width(act)
        output = int(get(options, 0))
        weighted = len(weights) > 0
        outputs = act[workspace : workspace + size]
        wanted = act[workspace + size : workspace + 2 * size]
        slopes = act[workspace + 2 * size : workspace + 3 * size]
        loss = 0.0
        hits = 0.0
        for b in range(valid):
            row = get(rows, first + b)
            w = get(weights, row) if weighted else number(1)
            best = 0
            right = output == _SIGMOID
            for o in range(size):
                value = get(act, z + o * width + b)
                outputs[o] = value
                slopes[o] = number(0)
                best = o if value > outputs[best] else best
                if output == _SOFTMAX:
                    wanted[o] = number(0)
                else:
                    wanted[o] = get(targets, row * size + o)
                    right = right and (value > number(0)) == (wanted[o] > number(0.5))
            if output == _SOFTMAX:
                label = get(labels, row)
                wanted[label] = number(1)
                right = best == label
            loss += np.float64(w) * np.float64(function(outputs, wanted, slopes))
            hits += np.float64(w) if right else 0.0
            for o in range(size):
                put(act, g + o * width + b, slopes[o] * (inverse * w))
        put(partial, at, loss)
        put(partial, at + 1, hits)

    return custom_block
