"""The formulas of the losses, each written once, and the kernels that sum them over rows of samples.

The loss of one output and its slope are written in `nbnorm.simd`'s terms.  They serve the kernels below, the
blocks of samples in `nbnorm.engine.losses`, and NumPy's arrays in `nbnorm.functions.loss_options`.  A new
loss is such a pair and a line in `FORMULAS`: a network knows it then by its name.

Losses are summed in float64 over fixed blocks of rows, and the blocks in order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import numba
import numpy as np
from numba import types

from nbnorm import simd
from nbnorm.compile.kernels import ParallelKernel, kernel, linked_kernel, parallel_kernel
from nbnorm.simd import exp, sigmoid, softplus

# Rows in one block of the parallel loops.
ROWS = 64

# ----------------------------------------------------------------------------------------------
# Formulas: the loss of one output, and its slope with respect to that output.
#
# z is the output, t its target and a an option, such as the delta of Huber's loss; all have one type.  Where
# several outputs share a target, each has its own a.
# ----------------------------------------------------------------------------------------------


class Formula(NamedTuple):
    """A loss that is a sum over outputs.

    Attributes
    ----------
    value, slope : function
        ``value(z, t, a)`` and its derivative with respect to z.
    hit : function, optional
        ``hit(z, t)`` tells whether the output stands for the target; a sample whose outputs all do counts
        as right.  None for regression.
    work : int
        Cost of an output in terms of a plain subtraction, which decides when threads pay.
    """

    value: Callable[[Any, Any, Any], Any]
    slope: Callable[[Any, Any, Any], Any]
    hit: Callable[[Any, Any], Any] | None = None
    work: int = 1


@simd.elementwise
def _binary(z: Any, t: Any, a: Any) -> Any:
    """Cross-entropy ``log(1 + exp(z)) - t z``, the target moved towards 1/2 by the smoothing a."""
    return softplus(z) - (t * (1.0 - a) + 0.5 * a) * z


@simd.elementwise
def _binary_slope(z: Any, t: Any, a: Any) -> Any:
    return sigmoid(z) - (t * (1.0 - a) + 0.5 * a)


@simd.elementwise
def _binary_hit(z: Any, t: Any) -> Any:
    return (z > 0.0) == (t > 0.5)


@simd.elementwise
def _squared(z: Any, t: Any, a: Any) -> Any:
    return 0.5 * (z - t) * (z - t)


@simd.elementwise
def _squared_slope(z: Any, t: Any, a: Any) -> Any:
    return z - t


@simd.elementwise
def _absolute(z: Any, t: Any, a: Any) -> Any:
    return simd.abs(z - t)


@simd.elementwise
def _absolute_slope(z: Any, t: Any, a: Any) -> Any:
    e = z - t
    # the difference itself where it is 0 or NaN
    return simd.where(e > 0.0, simd.full_like(e, 1.0), simd.where(e < 0.0, simd.full_like(e, -1.0), e))


@simd.elementwise
def _huber(z: Any, t: Any, a: Any) -> Any:
    """Parabola up to the distance a, a straight line beyond."""
    e = simd.abs(z - t)
    return simd.where(e > a, a * (e - 0.5 * a), 0.5 * e * e)


@simd.elementwise
def _huber_slope(z: Any, t: Any, a: Any) -> Any:
    return simd.clamp(z - t, -a, a)


@simd.elementwise
def _poisson(z: Any, t: Any, a: Any) -> Any:
    """Negative log-likelihood of a count whose mean is exp(z), without what does not depend on z."""
    return exp(z) - t * z


@simd.elementwise
def _poisson_slope(z: Any, t: Any, a: Any) -> Any:
    return exp(z) - t


@simd.elementwise
def _quantile(z: Any, t: Any, a: Any) -> Any:
    """Pinball loss of the level a."""
    e = z - t
    return simd.where(e > 0.0, (1.0 - a) * e, -a * e)


@simd.elementwise
def _quantile_slope(z: Any, t: Any, a: Any) -> Any:
    e = z - t
    # the difference itself where it is 0 or NaN
    return simd.where(e > 0.0, 1.0 - a, simd.where(e < 0.0, -a, e))


LossName: TypeAlias = Literal[
    "cross_entropy", "binary_cross_entropy", "squared", "absolute", "huber", "poisson", "quantile"
]

# All losses but the cross-entropy of softmax, which couples the outputs of a sample.
FORMULAS: dict[str, Formula] = {
    "binary_cross_entropy": Formula(_binary, _binary_slope, _binary_hit, work=10),
    "squared": Formula(_squared, _squared_slope),
    "absolute": Formula(_absolute, _absolute_slope),
    "huber": Formula(_huber, _huber_slope),
    "poisson": Formula(_poisson, _poisson_slope, work=10),
    "quantile": Formula(_quantile, _quantile_slope),
}

# Numbers by which compiled code knows them.
CODES = {name: code for code, name in enumerate(FORMULAS)}
_FORMULAS = tuple(FORMULAS.values())


@simd.traced
def value(code: Any, z: Any, t: Any, a: Any) -> Any:
    """Return the loss of one output; `code`, one of `CODES`, is known when the code is compiled."""
    return _FORMULAS[code].value(z, t, a)


@simd.traced
def slope(code: Any, z: Any, t: Any, a: Any) -> Any:
    """Return the derivative of `value` with respect to z."""
    return _FORMULAS[code].slope(z, t, a)


@simd.traced
def hit(code: Any, z: Any, t: Any) -> Any:
    """Tell whether an output stands for its target; False for regression."""
    function = _FORMULAS[code].hit
    return False if function is None else function(z, t)


@linked_kernel
def cross_entropy(
    z: Any, at: Any, g: Any, g_at: Any, stride: Any, classes: Any, label: Any, smoothing: Any, scale: Any,
    top: Any, total: Any,
) -> Any:  # fmt: skip
    """Cross-entropy of one sample of softmax outputs, ``log(sum(exp(z))) - sum(t z)``.

    The targets t are ``(1 - smoothing) onehot + smoothing / classes``.  Output o stands `stride` elements
    behind output o - 1; `top` is the largest and `total` the sum of ``exp(z - top)``.  From the gradient,
    which holds softmax times `scale`, the targets times `scale` are subtracted.
    """
    kind = z.dtype.type
    own = np.float64(simd.get(z, at + label * stride))
    loss = math.log(total) + (np.float64(top) - own)
    label_at = g_at + label * stride
    simd.put(g, label_at, simd.get(g, label_at) - kind(scale))
    if smoothing > 0.0:
        part = smoothing / classes
        every = kind(scale * part)
        apart = 0.0
        for o in range(classes):
            apart += own - np.float64(simd.get(z, at + o * stride))
            simd.put(g, g_at + o * stride, simd.get(g, g_at + o * stride) - every)
        simd.put(g, label_at, simd.get(g, label_at) + kind(scale * smoothing))
        loss += part * apart
    return loss


# ----------------------------------------------------------------------------------------------
# Kernels: rows of samples.  `weights` is float64 (n,), or has no elements where all are 1.
# ----------------------------------------------------------------------------------------------


@kernel
def partial_size(n_samples: Any) -> Any:
    """Return the number of float64 elements of the workspace `partial` of the kernels below."""
    return (n_samples + ROWS - 1) // ROWS


@linked_kernel
def _in_order(partial: Any, blocks: Any) -> Any:
    """Sum of the blocks' losses, in the order of the blocks."""
    total = 0.0
    for block in range(blocks):
        total += partial[block]
    return total


@linked_kernel
def _total(weights: Any, n: Any) -> Any:
    """Sum of the weights of n samples."""
    if weights.size == 0:
        return np.float64(n)
    total = 0.0
    for i in range(n):
        total += weights[i]
    return total


@linked_kernel
def _softmax_row(z: Any, i: Any, label: Any, smoothing: Any, scale: Any, gradient: Any) -> Any:
    """Loss of sample i of softmax outputs, and its gradient times `scale`."""
    row, out, classes = z[i], gradient[i], z.shape[1]
    top = row[0]
    for o in range(1, classes):
        top = max(top, row[o])
    for o in range(classes):
        out[o] = exp(row[o] - top)
    total = 0.0
    for o in range(classes):
        total += out[o]
    factor = z.dtype.type(scale / total)
    for o in range(classes):
        out[o] *= factor
    return cross_entropy(row, 0, out, 0, 1, classes, label, smoothing, scale, top, total)


@parallel_kernel
def softmax_kernel(logits: Any, labels: Any, gradient: Any, partial: Any) -> Any:
    """Softmax cross-entropy; returns the loss."""
    n = logits.shape[0]
    blocks = partial_size(n)
    for block in numba.prange(blocks):
        total = 0.0
        for i in range(block * ROWS, min(n, (block + 1) * ROWS)):
            total += _softmax_row(logits, i, labels[i], 0.0, 1.0 / n, gradient)
        partial[block] = total
    return _in_order(partial, blocks) / n


@parallel_kernel
def weighted_softmax_kernel(
    logits: Any, labels: Any, smoothing: Any, weights: Any, gradient: Any, partial: Any
) -> Any:
    """Softmax cross-entropy with smoothed labels and weights; returns the loss."""
    n = logits.shape[0]
    blocks = partial_size(n)
    inverse = 1.0 / _total(weights, n)
    for block in numba.prange(blocks):
        total = 0.0
        for i in range(block * ROWS, min(n, (block + 1) * ROWS)):
            w = weights[i] if weights.size > 0 else 1.0
            total += w * _softmax_row(logits, i, labels[i], smoothing, w * inverse, gradient)
        partial[block] = total
    return _in_order(partial, blocks) * inverse


@simd.traced
def _row(
    code: Any, z: Any, targets: Any, options: Any, scale: Any, gradient: Any, i: Any, outputs: Any,
    columns: Any,
) -> Any:  # fmt: skip
    """Loss of sample i, summed over its outputs, and its gradient times `scale`.

    `options` is one number, or an array with one for each of the outputs that share a target.
    """
    dtype, wide = z.dtype, np.float64
    first, first_target = i * outputs, i * columns

    def walk(body: Callable[..., Any], *sums: Any) -> Any:
        """Call ``body(output, target, option, *sums)`` for each output, where the arrays have them."""
        if not isinstance(getattr(options, "type", options), (types.Array, np.ndarray)):

            def single(c: Any, *sums: Any) -> Any:
                return body(first + c, first_target + c, options, *sums)

            return simd.loop(0, columns, 1, single, *sums)
        levels = simd.size(options)

        def column(c: Any, *sums: Any) -> Any:
            def level(k: Any, *sums: Any) -> Any:
                return body(first + c * levels + k, first_target + c, simd.get(options, k), *sums)

            return simd.loop(0, levels, 1, level, *sums)

        return simd.loop(0, columns, 1, column, *sums)

    def derive(o: Any, c: Any, a: Any) -> None:
        got = slope(code, simd.get(z, o), simd.get(targets, c), simd.convert(a, dtype))
        simd.put(gradient, o, got * simd.convert(scale, dtype))

    def add(o: Any, c: Any, a: Any, total: Any) -> Any:
        y, t = simd.convert(simd.get(z, o), wide), simd.convert(simd.get(targets, c), wide)
        return total + value(code, y, t, a)

    walk(derive)
    return simd.sum(walk(add, simd.zeros(wide, 1)))


class Kernels(NamedTuple):
    """The kernels of a formula, which return the mean loss."""

    plain: ParallelKernel  # (z, targets, gradient, partial)
    weighted: ParallelKernel  # (z, targets, weights, gradient, partial)
    with_option: ParallelKernel  # (z, targets, option, weights, gradient, partial)


def _kernels(code: int) -> Kernels:
    """Make the kernels of a formula."""

    @linked_kernel
    def block_sum(
        block: Any, z: Any, targets: Any, option: Any, inverse: Any, weights: Any, gradient: Any
    ) -> Any:
        """Weighted loss of a block of samples, and its gradient over the total weight."""
        (n, outputs), columns, total = z.shape, targets.shape[1], 0.0
        for i in range(block * ROWS, min(n, (block + 1) * ROWS)):
            w = weights[i] if weights.size > 0 else 1.0
            total += w * _row(code, z, targets, option, w * inverse, gradient, i, outputs, columns)
        return total

    @parallel_kernel
    def plain(z: Any, targets: Any, gradient: Any, partial: Any) -> Any:
        n = z.shape[0]
        blocks = partial_size(n)
        for block in numba.prange(blocks):
            partial[block] = block_sum(block, z, targets, 0.0, 1.0 / n, partial[:0], gradient)
        return _in_order(partial, blocks) / n

    @parallel_kernel
    def weighted(z: Any, targets: Any, weights: Any, gradient: Any, partial: Any) -> Any:
        n = z.shape[0]
        blocks, inverse = partial_size(n), 1.0 / _total(weights, n)
        for block in numba.prange(blocks):
            partial[block] = block_sum(block, z, targets, 0.0, inverse, weights, gradient)
        return _in_order(partial, blocks) * inverse

    @parallel_kernel
    def with_option(z: Any, targets: Any, option: Any, weights: Any, gradient: Any, partial: Any) -> Any:
        n = z.shape[0]
        blocks, inverse = partial_size(n), 1.0 / _total(weights, n)
        for block in numba.prange(blocks):
            partial[block] = block_sum(block, z, targets, option, inverse, weights, gradient)
        return _in_order(partial, blocks) * inverse

    return Kernels(plain, weighted, with_option)


KERNELS = {name: _kernels(code) for name, code in CODES.items()}
