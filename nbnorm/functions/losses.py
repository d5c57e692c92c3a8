"""Losses and their gradients, as functions on arrays and as the options of a network.

Each is summed over the outputs and averaged over the samples of the mini-batch; with weights w of the
samples the average is ``sum(w L) / sum(w)``.  Losses are summed in float64 over fixed blocks of rows,
and the blocks in order.

The classes (`CrossEntropy` and so on) tell a network what to minimize.  Their `block` is the kernel
that the training engine calls for one block of samples.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numba
import numpy as np
import numpy.typing as npt

from nbnorm import _check
from nbnorm.compile.kernels import ParallelKernel, inner_kernel, kernel, parallel_kernel
from nbnorm.engine.epilogues import softmax_rows
from nbnorm.engine.microkernels import get, put, tile_width
from nbnorm.simd import exp, sigmoid

# Rows in one block of the parallel loops.
ROWS = 64

# ----------------------------------------------------------------------------------------------
# Kernels
# ----------------------------------------------------------------------------------------------


@kernel
def partial_size(n_samples: Any) -> Any:
    """Return the number of float64 elements of the workspace `partial` of the kernels below."""
    return (n_samples + ROWS - 1) // ROWS


@inner_kernel
def _in_order(partial: Any, blocks: Any) -> Any:
    """Sum of the blocks' losses, in the order of the blocks."""
    total = 0.0
    for block in range(blocks):
        total += partial[block]
    return total


@inner_kernel
def _softmax_row(logits: Any, label: Any, smoothing: Any, share: Any, gradient: Any) -> Any:
    """Loss of one sample, ``log(sum(exp(z))) - sum(t z)``, and its gradient times `share`.

    The targets t are ``(1 - smoothing) onehot + smoothing / classes``.
    """
    largest = logits[0]
    for j in range(1, logits.size):
        largest = max(largest, logits[j])
    for j in range(logits.size):
        gradient[j] = exp(logits[j] - largest)
    total = 0.0
    for j in range(logits.size):
        total += gradient[j]
    factor = logits.dtype.type(share / total)
    for j in range(logits.size):
        gradient[j] *= factor
    gradient[label] -= logits.dtype.type(share)
    loss = math.log(total) + (np.float64(largest) - np.float64(logits[label]))
    if smoothing > 0.0:
        part = smoothing / logits.size
        every = logits.dtype.type(share * part)
        for j in range(logits.size):
            gradient[j] -= every
        gradient[label] += logits.dtype.type(share * smoothing)
        apart = 0.0
        for j in range(logits.size):
            apart += np.float64(logits[label]) - np.float64(logits[j])
        loss += part * apart
    return loss


@parallel_kernel
def softmax_kernel(logits: Any, labels: Any, gradient: Any, partial: Any) -> Any:
    """Softmax cross-entropy; returns the loss."""
    n = logits.shape[0]
    blocks = partial_size(n)
    for block in numba.prange(blocks):
        total = 0.0
        for i in range(block * ROWS, min(n, (block + 1) * ROWS)):
            total += _softmax_row(logits[i], labels[i], 0.0, 1.0 / n, gradient[i])
        partial[block] = total
    return _in_order(partial, blocks) / n


@inner_kernel
def _binary_row(logits: Any, targets: Any, smoothing: Any, share: Any, gradient: Any) -> Any:
    """``max(z, 0) - z t + log(1 + exp(-|z|))`` summed over outputs, and its gradient times `share`.

    A target t counts as ``t (1 - smoothing) + smoothing / 2``.
    """
    factor = logits.dtype.type(share)
    keep, level = logits.dtype.type(1.0 - smoothing), logits.dtype.type(0.5 * smoothing)
    for j in range(logits.size):
        gradient[j] = (sigmoid(logits[j]) - (targets[j] * keep + level)) * factor
    total = 0.0
    for j in range(logits.size):
        z = np.float64(logits[j])
        t = targets[j] * (1.0 - smoothing) + 0.5 * smoothing
        total += (0.0 if z < 0.0 else z) - z * t + math.log1p(math.exp(-abs(z)))
    return total


@parallel_kernel
def binary_kernel(logits: Any, targets: Any, gradient: Any, partial: Any) -> Any:
    """Binary cross-entropy; returns the loss."""
    n = logits.shape[0]
    blocks = partial_size(n)
    for block in numba.prange(blocks):
        total = 0.0
        for i in range(block * ROWS, min(n, (block + 1) * ROWS)):
            total += _binary_row(logits[i], targets[i], 0.0, 1.0 / n, gradient[i])
        partial[block] = total
    return _in_order(partial, blocks) / n


@inner_kernel
def _squared_row(pred: Any, targets: Any, share: Any, gradient: Any) -> Any:
    """``(pred - target)**2 / 2`` summed over outputs, and its gradient times `share`."""
    factor = pred.dtype.type(share)
    for j in range(pred.size):
        gradient[j] = (pred[j] - targets[j]) * factor
    total = 0.0
    for j in range(pred.size):
        difference = np.float64(pred[j]) - np.float64(targets[j])
        total += difference * difference
    return 0.5 * total


@parallel_kernel
def squared_kernel(pred: Any, targets: Any, gradient: Any, partial: Any) -> Any:
    """Mean squared error; returns the loss."""
    n = pred.shape[0]
    blocks = partial_size(n)
    for block in numba.prange(blocks):
        total = 0.0
        for i in range(block * ROWS, min(n, (block + 1) * ROWS)):
            total += _squared_row(pred[i], targets[i], 1.0 / n, gradient[i])
        partial[block] = total
    return _in_order(partial, blocks) / n


# With weights, and with options.  `weights` is float64 (n,), or has no elements where all are 1.


@inner_kernel
def _total(weights: Any, n: Any) -> Any:
    """Sum of the weights of n samples."""
    if weights.size == 0:
        return np.float64(n)
    total = 0.0
    for i in range(n):
        total += weights[i]
    return total


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
            total += w * _softmax_row(logits[i], labels[i], smoothing, w * inverse, gradient[i])
        partial[block] = total
    return _in_order(partial, blocks) * inverse


@parallel_kernel
def weighted_binary_kernel(
    logits: Any, targets: Any, smoothing: Any, weights: Any, gradient: Any, partial: Any
) -> Any:
    """Binary cross-entropy with smoothed targets and weights; returns the loss."""
    n = logits.shape[0]
    blocks = partial_size(n)
    inverse = 1.0 / _total(weights, n)
    for block in numba.prange(blocks):
        total = 0.0
        for i in range(block * ROWS, min(n, (block + 1) * ROWS)):
            w = weights[i] if weights.size > 0 else 1.0
            total += w * _binary_row(logits[i], targets[i], smoothing, w * inverse, gradient[i])
        partial[block] = total
    return _in_order(partial, blocks) * inverse


@parallel_kernel
def weighted_squared_kernel(pred: Any, targets: Any, weights: Any, gradient: Any, partial: Any) -> Any:
    """Mean squared error with weights; returns the loss."""
    n = pred.shape[0]
    blocks = partial_size(n)
    inverse = 1.0 / _total(weights, n)
    for block in numba.prange(blocks):
        total = 0.0
        for i in range(block * ROWS, min(n, (block + 1) * ROWS)):
            w = weights[i] if weights.size > 0 else 1.0
            total += w * _squared_row(pred[i], targets[i], w * inverse, gradient[i])
        partial[block] = total
    return _in_order(partial, blocks) * inverse


@inner_kernel
def _absolute_row(pred: Any, targets: Any, share: Any, gradient: Any) -> Any:
    """``|pred - target|`` summed over outputs, and its gradient times `share`."""
    factor = pred.dtype.type(share)
    zero = pred.dtype.type(0)
    for j in range(pred.size):
        # the difference itself where it is 0 or NaN
        d = pred[j] - targets[j]
        gradient[j] = factor if d > zero else -factor if d < zero else d
    total = 0.0
    for j in range(pred.size):
        total += abs(np.float64(pred[j]) - np.float64(targets[j]))
    return total


@parallel_kernel
def absolute_kernel(pred: Any, targets: Any, weights: Any, gradient: Any, partial: Any) -> Any:
    """Mean absolute error; returns the loss."""
    n = pred.shape[0]
    blocks = partial_size(n)
    inverse = 1.0 / _total(weights, n)
    for block in numba.prange(blocks):
        total = 0.0
        for i in range(block * ROWS, min(n, (block + 1) * ROWS)):
            w = weights[i] if weights.size > 0 else 1.0
            total += w * _absolute_row(pred[i], targets[i], w * inverse, gradient[i])
        partial[block] = total
    return _in_order(partial, blocks) * inverse


@inner_kernel
def _huber_row(pred: Any, targets: Any, delta: Any, share: Any, gradient: Any) -> Any:
    """Huber's loss summed over outputs, and its gradient times `share`."""
    factor = pred.dtype.type(share)
    bound = pred.dtype.type(delta)
    for j in range(pred.size):
        d = pred[j] - targets[j]
        d = bound if d > bound else d
        gradient[j] = (-bound if d < -bound else d) * factor
    total = 0.0
    for j in range(pred.size):
        size = abs(np.float64(pred[j]) - np.float64(targets[j]))
        total += delta * (size - 0.5 * delta) if size > delta else 0.5 * size * size
    return total


@parallel_kernel
def huber_kernel(pred: Any, targets: Any, delta: Any, weights: Any, gradient: Any, partial: Any) -> Any:
    """Huber loss; returns the loss."""
    n = pred.shape[0]
    blocks = partial_size(n)
    inverse = 1.0 / _total(weights, n)
    for block in numba.prange(blocks):
        total = 0.0
        for i in range(block * ROWS, min(n, (block + 1) * ROWS)):
            w = weights[i] if weights.size > 0 else 1.0
            total += w * _huber_row(pred[i], targets[i], delta, w * inverse, gradient[i])
        partial[block] = total
    return _in_order(partial, blocks) * inverse


@inner_kernel
def _poisson_row(logits: Any, targets: Any, share: Any, gradient: Any) -> Any:
    """``exp(z) - target z`` summed over outputs, and its gradient times `share`."""
    factor = logits.dtype.type(share)
    for j in range(logits.size):
        gradient[j] = (exp(logits[j]) - targets[j]) * factor
    total = 0.0
    for j in range(logits.size):
        z = np.float64(logits[j])
        total += exp(z) - z * targets[j]
    return total


@parallel_kernel
def poisson_kernel(logits: Any, targets: Any, weights: Any, gradient: Any, partial: Any) -> Any:
    """Poisson loss; returns the loss."""
    n = logits.shape[0]
    blocks = partial_size(n)
    inverse = 1.0 / _total(weights, n)
    for block in numba.prange(blocks):
        total = 0.0
        for i in range(block * ROWS, min(n, (block + 1) * ROWS)):
            w = weights[i] if weights.size > 0 else 1.0
            total += w * _poisson_row(logits[i], targets[i], w * inverse, gradient[i])
        partial[block] = total
    return _in_order(partial, blocks) * inverse


# ----------------------------------------------------------------------------------------------
# Kernels of the training engine: one block of samples, side by side
#
# The logit of output o of sample b stands at act[z + o * width + b] (see `nbnorm.engine.run`), and the
# gradient with respect to it goes to act[g + o * width + b] for the `valid` first samples.
# `inverse` is 1 / (sum of the weights of the mini-batch); act[room:room + 3 * size * width] is
# scratch; rows[first + b] is the sample's row in `labels`, `targets` and `weights`, and `weights` has
# no elements where all are 1.  partial[at] becomes the sum of weight * loss, partial[at + 1] the sum
# of the weights of those samples whose outputs are all right (0 for regression).
# ----------------------------------------------------------------------------------------------


@inner_kernel
def softmax_block(
    act: Any, z: Any, g: Any, room: Any, size: Any, first: Any, valid: Any, inverse: Any, rows: Any,
    labels: Any, targets: Any, weights: Any, options: Any, partial: Any, at: Any,
) -> None:  # fmt: skip
    """Cross-entropy of softmax outputs; ``options[0]`` is the label smoothing."""
    kind = act.dtype.type
    width = tile_width(act)
    smoothing = get(options, 0)
    weighted = len(weights) > 0
    softmax_rows(act, z, g, room, room + width, width, size, inverse)
    loss = 0.0
    hits = 0.0
    for b in range(valid):
        row = get(rows, first + b)
        label = get(labels, row)
        w = get(weights, row) if weighted else kind(1)
        put(act, room + 2 * width + b, w)
        value, top = get(act, z + label * width + b), get(act, room + b)
        loss += np.float64(w) * (
            math.log(np.float64(get(act, room + width + b))) + (np.float64(top) - np.float64(value))
        )
        if value == top:
            # an equal value in an earlier class would have been chosen
            earlier = 0
            for o in range(label):
                earlier += 1 if get(act, z + o * width + b) == top else 0
            hits += np.float64(w) if earlier == 0 else 0.0
        place = g + label * width + b
        put(act, place, get(act, place) - inverse)
    if smoothing > 0.0:
        part = smoothing / size
        every, back = kind(part) * inverse, kind(smoothing) * inverse
        for b in range(valid):
            row = get(rows, first + b)
            label = get(labels, row)
            value = np.float64(get(act, z + label * width + b))
            apart = 0.0
            for o in range(size):
                apart += value - np.float64(get(act, z + o * width + b))
                place = g + o * width + b
                put(act, place, get(act, place) - every)
            place = g + label * width + b
            put(act, place, get(act, place) + back)
            loss += np.float64(get(act, room + 2 * width + b)) * part * apart
    if weighted:
        for o in range(size):
            for b in range(valid):
                place = g + o * width + b
                put(act, place, get(act, place) * get(act, room + 2 * width + b))
    put(partial, at, loss)
    put(partial, at + 1, hits)


@inner_kernel
def binary_block(
    act: Any, z: Any, g: Any, room: Any, size: Any, first: Any, valid: Any, inverse: Any, rows: Any,
    labels: Any, targets: Any, weights: Any, options: Any, partial: Any, at: Any,
) -> None:  # fmt: skip
    """Cross-entropy of sigmoid outputs; ``options[0]`` is the label smoothing."""
    kind = act.dtype.type
    width = tile_width(act)
    keep, level = kind(1.0 - get(options, 0)), kind(0.5 * get(options, 0))
    weighted = len(weights) > 0
    loss = 0.0
    hits = 0.0
    for b in range(valid):
        row = get(rows, first + b)
        w = get(weights, row) if weighted else kind(1)
        right = True
        for o in range(size):
            value, target = get(act, z + o * width + b), get(targets, row * size + o)
            right = right and (value > kind(0)) == (target > kind(0.5))
            target = target * keep + level
            wide = np.float64(value)
            # log(1 + exp(z)) - t z
            term = max(wide, 0.0) - wide * np.float64(target) + math.log1p(math.exp(-abs(wide)))
            loss += np.float64(w) * term
            put(act, g + o * width + b, (sigmoid(value) - target) * (inverse * w))
        hits += np.float64(w) if right else 0.0
    put(partial, at, loss)
    put(partial, at + 1, hits)


@inner_kernel
def squared_block(
    act: Any, z: Any, g: Any, room: Any, size: Any, first: Any, valid: Any, inverse: Any, rows: Any,
    labels: Any, targets: Any, weights: Any, options: Any, partial: Any, at: Any,
) -> None:  # fmt: skip
    """Half the squared distance."""
    kind = act.dtype.type
    width = tile_width(act)
    weighted = len(weights) > 0
    loss = 0.0
    for b in range(valid):
        row = get(rows, first + b)
        w = get(weights, row) if weighted else kind(1)
        for o in range(size):
            d = get(act, z + o * width + b) - get(targets, row * size + o)
            loss += np.float64(w) * (0.5 * np.float64(d) * np.float64(d))
            put(act, g + o * width + b, d * (inverse * w))
    put(partial, at, loss)
    put(partial, at + 1, 0.0)


@inner_kernel
def absolute_block(
    act: Any, z: Any, g: Any, room: Any, size: Any, first: Any, valid: Any, inverse: Any, rows: Any,
    labels: Any, targets: Any, weights: Any, options: Any, partial: Any, at: Any,
) -> None:  # fmt: skip
    """Sum of the absolute differences."""
    kind = act.dtype.type
    width = tile_width(act)
    weighted = len(weights) > 0
    loss = 0.0
    for b in range(valid):
        row = get(rows, first + b)
        w = get(weights, row) if weighted else kind(1)
        for o in range(size):
            d = get(act, z + o * width + b) - get(targets, row * size + o)
            loss += np.float64(w) * abs(np.float64(d))
            # the difference itself where it is 0 or NaN
            slope = kind(1) if d > kind(0) else kind(-1) if d < kind(0) else d
            put(act, g + o * width + b, slope * (inverse * w))
    put(partial, at, loss)
    put(partial, at + 1, 0.0)


@inner_kernel
def huber_block(
    act: Any, z: Any, g: Any, room: Any, size: Any, first: Any, valid: Any, inverse: Any, rows: Any,
    labels: Any, targets: Any, weights: Any, options: Any, partial: Any, at: Any,
) -> None:  # fmt: skip
    """Huber's loss; ``options[0]`` is delta."""
    kind = act.dtype.type
    width = tile_width(act)
    delta = get(options, 0)
    bound = kind(delta)
    weighted = len(weights) > 0
    loss = 0.0
    for b in range(valid):
        row = get(rows, first + b)
        w = get(weights, row) if weighted else kind(1)
        for o in range(size):
            d = get(act, z + o * width + b) - get(targets, row * size + o)
            apart = abs(np.float64(d))
            term = delta * (apart - 0.5 * delta) if apart > delta else 0.5 * apart * apart
            loss += np.float64(w) * term
            slope = bound if d > bound else -bound if d < -bound else d
            put(act, g + o * width + b, slope * (inverse * w))
    put(partial, at, loss)
    put(partial, at + 1, 0.0)


@inner_kernel
def poisson_block(
    act: Any, z: Any, g: Any, room: Any, size: Any, first: Any, valid: Any, inverse: Any, rows: Any,
    labels: Any, targets: Any, weights: Any, options: Any, partial: Any, at: Any,
) -> None:  # fmt: skip
    """``exp(z) - t z``."""
    kind = act.dtype.type
    width = tile_width(act)
    weighted = len(weights) > 0
    loss = 0.0
    for b in range(valid):
        row = get(rows, first + b)
        w = get(weights, row) if weighted else kind(1)
        for o in range(size):
            value, target = get(act, z + o * width + b), get(targets, row * size + o)
            wide = np.float64(value)
            loss += np.float64(w) * (exp(wide) - wide * np.float64(target))
            put(act, g + o * width + b, (exp(value) - target) * (inverse * w))
    put(partial, at, loss)
    put(partial, at + 1, 0.0)


_SOFTMAX, _SIGMOID, _IDENTITY = 0, 1, 2
_OUTPUTS = {"softmax": _SOFTMAX, "sigmoid": _SIGMOID, "identity": _IDENTITY}


@functools.lru_cache(maxsize=64)
def _custom_block(function: Any) -> Any:
    """Make the engine's kernel around a user's function; ``options[0]`` is the code of the output."""

    # Not cached on disk: the code of the user's function is not part of the cache's key.
    @kernel(cache=False)
    def custom_block(
        act: Any, z: Any, g: Any, room: Any, size: Any, first: Any, valid: Any, inverse: Any, rows: Any,
        labels: Any, targets: Any, weights: Any, options: Any, partial: Any, at: Any,
    ) -> None:  # fmt: skip
        kind = act.dtype.type
        width = tile_width(act)
        output = int(get(options, 0))
        weighted = len(weights) > 0
        outputs = act[room : room + size]
        wanted = act[room + size : room + 2 * size]
        slopes = act[room + 2 * size : room + 3 * size]
        loss = 0.0
        hits = 0.0
        for b in range(valid):
            row = get(rows, first + b)
            w = get(weights, row) if weighted else kind(1)
            best = 0
            right = output == _SIGMOID
            for o in range(size):
                value = get(act, z + o * width + b)
                outputs[o] = value
                slopes[o] = kind(0)
                best = o if value > outputs[best] else best
                if output == _SOFTMAX:
                    wanted[o] = kind(0)
                else:
                    wanted[o] = get(targets, row * size + o)
                    right = right and (value > kind(0)) == (wanted[o] > kind(0.5))
            if output == _SOFTMAX:
                label = get(labels, row)
                wanted[label] = kind(1)
                right = best == label
            loss += np.float64(w) * np.float64(function(outputs, wanted, slopes))
            hits += np.float64(w) if right else 0.0
            for o in range(size):
                put(act, g + o * width + b, slopes[o] * (inverse * w))
        put(partial, at, loss)
        put(partial, at + 1, hits)

    return custom_block


@functools.lru_cache(maxsize=64)
def _custom_rows(function: Any) -> Any:
    """Make the kernel that writes a user's loss of every sample to `losses`."""

    @kernel(cache=False)
    def custom_rows(logits: Any, targets: Any, gradient: Any, losses: Any) -> None:
        for i in range(logits.shape[0]):
            losses[i] = function(logits[i], targets[i], gradient)

    return custom_rows


# ----------------------------------------------------------------------------------------------
# Public functions
# ----------------------------------------------------------------------------------------------


_PROBABILITIES = (0.0, 1.0, "between 0 and 1")
_COUNTS = (0.0, math.inf, "at least 0")
_SHAPES = "(n_samples,) or (n_samples, n_outputs)"


def _check_targets(targets: npt.NDArray[Any], least: float, most: float, expected: str) -> None:
    good = (targets >= least) & (targets <= most)
    if not good.all():
        raise ValueError(f"targets must be {expected}, got {targets[~good][0]}")


def _smoothing(value: float) -> float:
    return _check.number("label_smoothing", value, least=0, below=1)


def _labels(labels: npt.ArrayLike, n: int, classes: int) -> npt.NDArray[np.int64]:
    """Check the classes of n samples."""
    got = _check.numeric("labels", labels)
    if got.dtype.kind not in "iu":
        raise TypeError(f"labels must hold integers, got dtype {got.dtype}")
    if got.shape != (n,):
        raise ValueError(f"labels must have shape {(n,)}, got shape {got.shape}")
    wrong = (got < 0) | (got >= classes)
    if wrong.any():
        at = int(np.argmax(wrong))
        raise ValueError(f"labels must be between 0 and {classes - 1}, got {got[at]} at [{at}]")
    return _check.readable(np.ascontiguousarray(got, np.int64))


def _pair(
    name: str, first: npt.ArrayLike, targets: npt.ArrayLike, out: npt.NDArray[Any] | None
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """Check predictions and targets of shape (n_samples,) or (n_samples, n_outputs)."""
    got = _check.numeric(name, first)
    x = _check.floats(name, got, 1 if got.ndim == 1 else 2, expected=_SHAPES)
    y = _check.floats("targets", targets, x.ndim, dtype=x.dtype, shape=x.shape)
    gradient = _check.output("out", out, x.shape, x.dtype)
    _check.apart("out", gradient, **{name: x, "targets": y})
    return x, y, gradient


def _run(
    kernel: ParallelKernel,
    work: int,
    x: npt.NDArray[Any],
    y: npt.NDArray[Any],
    options: tuple[float, ...],
    sample_weight: npt.ArrayLike | None,
    gradient: npt.NDArray[Any],
) -> float:
    """Call one of the kernels that take weights."""
    n = len(x)
    weights = np.empty(0) if sample_weight is None else _check.weights("sample_weight", sample_weight, n)
    wanted = y if y.dtype == np.int64 else _rows(y)
    return float(
        kernel(work, _rows(x), wanted, *options, weights, _rows(gradient), np.empty(partial_size(n)))
    )


def _rows(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return x.reshape(len(x), -1)


def softmax_cross_entropy(
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    label_smoothing: float = 0.0,
    sample_weight: npt.ArrayLike | None = None,
    out: npt.NDArray[Any] | None = None,
) -> tuple[float, npt.NDArray[Any]]:
    """Mean cross-entropy of softmax outputs and its gradient with respect to the logits.

    ``loss = mean(log(sum(exp(z))) - z[label])`` and ``gradient = (softmax(z) - onehot(label)) / n``;
    the largest logit is subtracted first, so nothing overflows.

    Parameters
    ----------
    logits : array_like, shape (n_samples, n_classes)
        Outputs before softmax; float32 stays float32, other real types become float64.
    labels : array_like of int, shape (n_samples,)
        Classes from 0 to n_classes - 1.
    label_smoothing : float, default 0.0
        In [0, 1): the target is ``1 - label_smoothing`` for the sample's class plus
        ``label_smoothing / n_classes`` for every class.
    sample_weight : array_like, shape (n_samples,), optional
        Weights of the samples; the mean is ``sum(w L) / sum(w)``.
    out : ndarray, optional
        C-contiguous array for the gradient, apart from `logits`.

    Returns
    -------
    loss : float
        Mean over the samples.
    gradient : ndarray, shape (n_samples, n_classes)
        Gradient, of the dtype of `logits`; `out` if given.

    Raises
    ------
    TypeError
        If `logits` does not hold real numbers or `labels` does not hold integers.
    ValueError
        If a shape does not fit, an array is empty, or a label, the smoothing or a weight is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import softmax_cross_entropy
    >>> loss, gradient = softmax_cross_entropy(np.zeros((1, 2)), [0])
    >>> round(loss, 4)
    0.6931
    >>> gradient
    array([[-0.5,  0.5]])
    """
    logits = _check.floats("logits", logits, 2, expected="(n_samples, n_classes)")
    labels = _labels(labels, *logits.shape)
    smoothing = _smoothing(label_smoothing)
    gradient = _check.output("out", out, logits.shape, logits.dtype)
    _check.apart("out", gradient, logits=logits)
    if smoothing == 0 and sample_weight is None:
        loss = softmax_kernel(logits.size, logits, labels, gradient, np.empty(partial_size(len(logits))))
    else:
        loss = _run(
            weighted_softmax_kernel, logits.size, logits, labels, (smoothing,), sample_weight, gradient
        )
    return float(loss), gradient


def binary_cross_entropy(
    logits: npt.ArrayLike,
    targets: npt.ArrayLike,
    *,
    label_smoothing: float = 0.0,
    sample_weight: npt.ArrayLike | None = None,
    out: npt.NDArray[Any] | None = None,
) -> tuple[float, npt.NDArray[Any]]:
    """Mean cross-entropy of sigmoid outputs and its gradient with respect to the logits.

    ``loss = mean(sum(max(z, 0) - z t + log(1 + exp(-|z|))))``, summed over outputs, and
    ``gradient = (sigmoid(z) - t) / n``.

    Parameters
    ----------
    logits : array_like, shape (n_samples,) or (n_samples, n_outputs)
        Outputs before the sigmoid; float32 stays float32, other real types become float64.
    targets : array_like
        Probabilities between 0 and 1 (or labels 0 and 1), of the shape of `logits`.
    label_smoothing : float, default 0.0
        In [0, 1): a target t counts as ``t (1 - label_smoothing) + label_smoothing / 2``.
    sample_weight : array_like, shape (n_samples,), optional
        Weights of the samples; the mean is ``sum(w L) / sum(w)``.
    out : ndarray, optional
        C-contiguous array for the gradient, apart from `logits` and `targets`.

    Returns
    -------
    loss : float
        Mean over the samples.
    gradient : ndarray
        Gradient, of the shape and dtype of `logits`; `out` if given.

    Raises
    ------
    TypeError
        If an array does not hold real numbers.
    ValueError
        If the shapes differ, an array is empty, or a target, the smoothing or a weight is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import binary_cross_entropy
    >>> loss, gradient = binary_cross_entropy(np.zeros(2), [0, 1])
    >>> round(loss, 4)
    0.6931
    >>> gradient
    array([ 0.25, -0.25])
    """
    x, y, gradient = _pair("logits", logits, targets, out)
    _check_targets(y, *_PROBABILITIES)
    smoothing = _smoothing(label_smoothing)
    if smoothing == 0 and sample_weight is None:
        partial = np.empty(partial_size(len(x)))
        loss = binary_kernel(10 * x.size, _rows(x), _rows(y), _rows(gradient), partial)
    else:
        loss = _run(weighted_binary_kernel, 10 * x.size, x, y, (smoothing,), sample_weight, gradient)
    return float(loss), gradient


def mean_squared_error(
    pred: npt.ArrayLike,
    targets: npt.ArrayLike,
    *,
    sample_weight: npt.ArrayLike | None = None,
    out: npt.NDArray[Any] | None = None,
) -> tuple[float, npt.NDArray[Any]]:
    """Half the mean squared distance and its gradient with respect to the predictions.

    ``loss = mean(sum((pred - target)**2) / 2)``, summed over outputs, and
    ``gradient = (pred - target) / n``.

    Parameters
    ----------
    pred : array_like, shape (n_samples,) or (n_samples, n_outputs)
        Predictions; float32 stays float32, other real types become float64.
    targets : array_like
        Targets, of the shape of `pred`.
    sample_weight : array_like, shape (n_samples,), optional
        Weights of the samples; the mean is ``sum(w L) / sum(w)``.
    out : ndarray, optional
        C-contiguous array for the gradient, apart from `pred` and `targets`.

    Returns
    -------
    loss : float
        Mean over the samples.
    gradient : ndarray
        Gradient, of the shape and dtype of `pred`; `out` if given.

    Raises
    ------
    TypeError
        If an array does not hold real numbers.
    ValueError
        If the shapes differ, an array is empty or a weight is negative or not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import mean_squared_error
    >>> mean_squared_error(np.array([[1.0, 2.0]]), np.array([[0.0, 0.0]]))
    (2.5, array([[1., 2.]]))
    """
    x, y, gradient = _pair("pred", pred, targets, out)
    if sample_weight is None:
        partial = np.empty(partial_size(len(x)))
        loss = squared_kernel(x.size, _rows(x), _rows(y), _rows(gradient), partial)
    else:
        loss = _run(weighted_squared_kernel, x.size, x, y, (), sample_weight, gradient)
    return float(loss), gradient


def mean_absolute_error(
    pred: npt.ArrayLike,
    targets: npt.ArrayLike,
    *,
    sample_weight: npt.ArrayLike | None = None,
    out: npt.NDArray[Any] | None = None,
) -> tuple[float, npt.NDArray[Any]]:
    """Mean absolute distance and its gradient with respect to the predictions.

    ``loss = mean(sum(|pred - target|))``, summed over outputs, and
    ``gradient = sign(pred - target) / n``, 0 where both are equal.

    Parameters
    ----------
    pred : array_like, shape (n_samples,) or (n_samples, n_outputs)
        Predictions; float32 stays float32, other real types become float64.
    targets : array_like
        Targets, of the shape of `pred`.
    sample_weight : array_like, shape (n_samples,), optional
        Weights of the samples; the mean is ``sum(w L) / sum(w)``.
    out : ndarray, optional
        C-contiguous array for the gradient, apart from `pred` and `targets`.

    Returns
    -------
    loss : float
        Mean over the samples.
    gradient : ndarray
        Gradient, of the shape and dtype of `pred`; `out` if given.

    Raises
    ------
    TypeError
        If an array does not hold real numbers.
    ValueError
        If the shapes differ, an array is empty or a weight is negative or not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import mean_absolute_error
    >>> mean_absolute_error(np.array([[1.0, -2.0]]), np.array([[0.0, 0.0]]))
    (3.0, array([[ 1., -1.]]))
    """
    x, y, gradient = _pair("pred", pred, targets, out)
    return _run(absolute_kernel, x.size, x, y, (), sample_weight, gradient), gradient


def huber_loss(
    pred: npt.ArrayLike,
    targets: npt.ArrayLike,
    *,
    delta: float = 1.0,
    sample_weight: npt.ArrayLike | None = None,
    out: npt.NDArray[Any] | None = None,
) -> tuple[float, npt.NDArray[Any]]:
    """Huber's loss [1]_ and its gradient with respect to the predictions.

    With ``e = pred - target`` the loss of an output is ``e**2 / 2`` where ``|e| <= delta`` and
    ``delta (|e| - delta / 2)`` beyond; outputs are summed, samples averaged.  The gradient is
    ``clip(e, -delta, delta) / n``.

    Parameters
    ----------
    pred : array_like, shape (n_samples,) or (n_samples, n_outputs)
        Predictions; float32 stays float32, other real types become float64.
    targets : array_like
        Targets, of the shape of `pred`.
    delta : float, default 1.0
        Distance at which the parabola becomes a straight line, positive.
    sample_weight : array_like, shape (n_samples,), optional
        Weights of the samples; the mean is ``sum(w L) / sum(w)``.
    out : ndarray, optional
        C-contiguous array for the gradient, apart from `pred` and `targets`.

    Returns
    -------
    loss : float
        Mean over the samples.
    gradient : ndarray
        Gradient, of the shape and dtype of `pred`; `out` if given.

    Raises
    ------
    TypeError
        If an array does not hold real numbers.
    ValueError
        If the shapes differ, an array is empty, `delta` is not positive or a weight is negative or
        not finite.

    References
    ----------
    .. [1] Peter J. Huber, "Robust estimation of a location parameter", Annals of Mathematical
       Statistics 35 (1964).

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import huber_loss
    >>> huber_loss(np.array([[0.5, 3.0]]), np.array([[0.0, 0.0]]))
    (2.625, array([[0.5, 1. ]]))
    """
    delta = _check.number("delta", delta, above=0)
    x, y, gradient = _pair("pred", pred, targets, out)
    return _run(huber_kernel, x.size, x, y, (delta,), sample_weight, gradient), gradient


def poisson_loss(
    logits: npt.ArrayLike,
    targets: npt.ArrayLike,
    *,
    sample_weight: npt.ArrayLike | None = None,
    out: npt.NDArray[Any] | None = None,
) -> tuple[float, npt.NDArray[Any]]:
    """Negative log-likelihood of Poisson counts and its gradient with respect to the logits.

    The expected count is ``exp(z)``.  ``loss = mean(sum(exp(z) - t z))``, summed over outputs and
    without the term ``log(t!)``, which does not depend on z; ``gradient = (exp(z) - t) / n``.

    Parameters
    ----------
    logits : array_like, shape (n_samples,) or (n_samples, n_outputs)
        Logarithms of the expected counts; float32 stays float32, other real types become float64.
    targets : array_like
        Counts or other numbers that are not negative, of the shape of `logits`.
    sample_weight : array_like, shape (n_samples,), optional
        Weights of the samples; the mean is ``sum(w L) / sum(w)``.
    out : ndarray, optional
        C-contiguous array for the gradient, apart from `logits` and `targets`.

    Returns
    -------
    loss : float
        Mean over the samples.
    gradient : ndarray
        Gradient, of the shape and dtype of `logits`; `out` if given.

    Raises
    ------
    TypeError
        If an array does not hold real numbers.
    ValueError
        If the shapes differ, an array is empty, a target is negative or a weight is negative or not
        finite.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import poisson_loss
    >>> poisson_loss(np.zeros((1, 2)), np.array([[1.0, 3.0]]))
    (2.0, array([[ 0., -2.]]))
    """
    x, y, gradient = _pair("logits", logits, targets, out)
    _check_targets(y, *_COUNTS)
    return _run(poisson_kernel, 10 * x.size, x, y, (), sample_weight, gradient), gradient


# ----------------------------------------------------------------------------------------------
# Losses of a network
# ----------------------------------------------------------------------------------------------


class Loss:
    """What a network minimizes: the base of the classes below.

    Attributes
    ----------
    name : str
        Name under which `resolve` knows the loss.
    outputs : tuple of str
        Outputs of a network that the loss fits.
    """

    name: str
    outputs: ClassVar[tuple[str, ...]]

    @property
    def block(self) -> Any:
        """Kernel of the training engine for one block of samples."""
        raise NotImplementedError

    def options(self) -> npt.NDArray[np.float64]:
        """Return the numbers that `block` takes, float64 of shape (1,)."""
        return np.zeros(1)

    def settings(self) -> dict[str, float]:
        """Return the options as a file names them."""
        return {} if isinstance(self, CustomLoss) else dict(vars(self))

    def check(self, targets: npt.NDArray[Any]) -> None:
        """Raise ValueError if a target lies outside the loss's range.

        Parameters
        ----------
        targets : ndarray
            Targets, of any shape.
        """

    def value(
        self, logits: npt.ArrayLike, targets: npt.ArrayLike, weights: npt.ArrayLike | None = None
    ) -> float:
        """Return the mean loss, computed by NumPy in float64.

        Parameters
        ----------
        logits : array_like, shape (n_samples,) or (n_samples, n_outputs)
            Outputs of a network before softmax, sigmoid or exponential function.
        targets : array_like
            Integer classes, shape (n_samples,), for softmax outputs, otherwise targets of the shape of
            `logits`.
        weights : array_like, shape (n_samples,), optional
            Weights of the samples; the mean is ``sum(w L) / sum(w)``.

        Returns
        -------
        float
            Mean over the samples; NaN and infinity pass.

        Raises
        ------
        TypeError
            If an array does not hold real numbers.
        ValueError
            If the shapes do not fit or a target or a weight is out of range.
        """
        got = _check.numeric("logits", logits)
        z = _check.floats(
            "logits", got, 1 if got.ndim == 1 else 2, dtype=np.dtype(np.float64), expected=_SHAPES
        )
        z = z.reshape(len(z), -1)
        with np.errstate(all="ignore"):
            losses = self._losses(z, targets)
            if weights is None:
                return float(losses.mean())
            w = _check.weights("weights", weights, len(z))
            # samples of weight 0 do not exist, whatever their loss
            return float((w[w > 0] * losses[w > 0]).sum() / w.sum())

    def _losses(self, z: npt.NDArray[np.float64], targets: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Loss of every sample."""
        raise NotImplementedError

    def _targets(self, z: npt.NDArray[np.float64], targets: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Check targets and give them the shape of `z`."""
        t = _check.numeric("targets", targets)
        if t.shape != z.shape and not (z.shape[1] == 1 and t.shape == (len(z),)):
            raise ValueError(f"targets must have shape {z.shape}, got shape {t.shape}")
        self.check(t)
        return t.reshape(z.shape).astype(np.float64)


def _keep(loss: Loss, **options: float) -> None:
    """Store the checked options of a frozen dataclass."""
    for name, value in options.items():
        object.__setattr__(loss, name, value)


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """Cross-entropy of softmax outputs; see `softmax_cross_entropy` for the equations.

    Parameters
    ----------
    label_smoothing : float, default 0.0
        In [0, 1): the target is ``1 - label_smoothing`` for the sample's class plus
        ``label_smoothing / n_classes`` for every class.

    Raises
    ------
    TypeError
        If `label_smoothing` is not a number.
    ValueError
        If `label_smoothing` is out of range.

    Examples
    --------
    >>> from nbnorm import CrossEntropy
    >>> round(CrossEntropy().value([[0.0, 0.0]], [1]), 4)
    0.6931
    """

    label_smoothing: float = 0.0
    name = "cross_entropy"
    outputs: ClassVar[tuple[str, ...]] = ("softmax",)

    def __post_init__(self) -> None:
        _keep(self, label_smoothing=_smoothing(self.label_smoothing))

    @property
    def block(self) -> Any:
        """Kernel of the training engine for one block of samples."""
        return softmax_block

    def options(self) -> npt.NDArray[np.float64]:
        """Return the label smoothing."""
        return np.array([self.label_smoothing])

    def _losses(self, z: npt.NDArray[np.float64], targets: npt.ArrayLike) -> npt.NDArray[np.float64]:
        labels = _labels(targets, *z.shape)
        top = z.max(axis=1)
        own = z[np.arange(len(z)), labels]
        losses = np.log(np.exp(z - top[:, None]).sum(axis=1)) + (top - own)
        if self.label_smoothing > 0:
            losses += self.label_smoothing * (own[:, None] - z).mean(axis=1)
        return np.asarray(losses)


@dataclass(frozen=True)
class BinaryCrossEntropy(Loss):
    """Cross-entropy of sigmoid outputs; see `binary_cross_entropy` for the equations.

    Parameters
    ----------
    label_smoothing : float, default 0.0
        In [0, 1): a target t counts as ``t (1 - label_smoothing) + label_smoothing / 2``.

    Raises
    ------
    TypeError
        If `label_smoothing` is not a number.
    ValueError
        If `label_smoothing` is out of range.

    Examples
    --------
    >>> from nbnorm import BinaryCrossEntropy
    >>> round(BinaryCrossEntropy().value([0.0], [1.0]), 4)
    0.6931
    """

    label_smoothing: float = 0.0
    name = "binary_cross_entropy"
    outputs: ClassVar[tuple[str, ...]] = ("sigmoid",)

    def __post_init__(self) -> None:
        _keep(self, label_smoothing=_smoothing(self.label_smoothing))

    @property
    def block(self) -> Any:
        """Kernel of the training engine for one block of samples."""
        return binary_block

    def options(self) -> npt.NDArray[np.float64]:
        """Return the label smoothing."""
        return np.array([self.label_smoothing])

    def check(self, targets: npt.NDArray[Any]) -> None:
        """Raise ValueError if a target is not between 0 and 1.

        Parameters
        ----------
        targets : ndarray
            Targets, of any shape.
        """
        _check_targets(targets, *_PROBABILITIES)

    def _losses(self, z: npt.NDArray[np.float64], targets: npt.ArrayLike) -> npt.NDArray[np.float64]:
        t = self._targets(z, targets) * (1 - self.label_smoothing) + self.label_smoothing / 2
        return np.asarray((np.maximum(z, 0) - z * t + np.log1p(np.exp(-np.abs(z)))).sum(axis=1))


@dataclass(frozen=True)
class SquaredError(Loss):
    """Half the squared distance; see `mean_squared_error` for the equations.

    Examples
    --------
    >>> from nbnorm import SquaredError
    >>> SquaredError().value([[1.0, 2.0]], [[0.0, 0.0]])
    2.5
    """

    name = "squared"
    outputs: ClassVar[tuple[str, ...]] = ("identity",)

    @property
    def block(self) -> Any:
        """Kernel of the training engine for one block of samples."""
        return squared_block

    def _losses(self, z: npt.NDArray[np.float64], targets: npt.ArrayLike) -> npt.NDArray[np.float64]:
        return np.asarray(((z - self._targets(z, targets)) ** 2).sum(axis=1) / 2)


@dataclass(frozen=True)
class AbsoluteError(Loss):
    """Sum of the absolute differences; see `mean_absolute_error` for the equations.

    Examples
    --------
    >>> from nbnorm import AbsoluteError
    >>> AbsoluteError().value([[1.0, 2.0]], [[0.0, 0.0]])
    3.0
    """

    name = "absolute"
    outputs: ClassVar[tuple[str, ...]] = ("identity",)

    @property
    def block(self) -> Any:
        """Kernel of the training engine for one block of samples."""
        return absolute_block

    def _losses(self, z: npt.NDArray[np.float64], targets: npt.ArrayLike) -> npt.NDArray[np.float64]:
        return np.asarray(np.abs(z - self._targets(z, targets)).sum(axis=1))


@dataclass(frozen=True)
class Huber(Loss):
    """Parabola near the target, straight lines beyond; see `huber_loss` for the equations.

    Parameters
    ----------
    delta : float, default 1.0
        Distance at which the parabola becomes a straight line, positive.

    Raises
    ------
    TypeError
        If `delta` is not a number.
    ValueError
        If `delta` is not positive and finite.

    Examples
    --------
    >>> from nbnorm import Huber
    >>> Huber(delta=1.0).value([[0.5, 3.0]], [[0.0, 0.0]])
    2.625
    """

    delta: float = 1.0
    name = "huber"
    outputs: ClassVar[tuple[str, ...]] = ("identity",)

    def __post_init__(self) -> None:
        _keep(self, delta=_check.number("delta", self.delta, above=0))

    @property
    def block(self) -> Any:
        """Kernel of the training engine for one block of samples."""
        return huber_block

    def options(self) -> npt.NDArray[np.float64]:
        """Return delta."""
        return np.array([self.delta])

    def _losses(self, z: npt.NDArray[np.float64], targets: npt.ArrayLike) -> npt.NDArray[np.float64]:
        apart = np.abs(z - self._targets(z, targets))
        losses = np.where(
            apart > self.delta, self.delta * (apart - self.delta / 2), np.minimum(apart, self.delta) ** 2 / 2
        )
        return np.asarray(losses.sum(axis=1))


@dataclass(frozen=True)
class Poisson(Loss):
    """Negative log-likelihood of counts whose mean is exp(z); see `poisson_loss` for the equations.

    Examples
    --------
    >>> from nbnorm import Poisson
    >>> Poisson().value([[0.0, 0.0]], [[1.0, 3.0]])
    2.0
    """

    name = "poisson"
    outputs: ClassVar[tuple[str, ...]] = ("identity",)

    @property
    def block(self) -> Any:
        """Kernel of the training engine for one block of samples."""
        return poisson_block

    def check(self, targets: npt.NDArray[Any]) -> None:
        """Raise ValueError if a target is negative.

        Parameters
        ----------
        targets : ndarray
            Targets, of any shape.
        """
        _check_targets(targets, *_COUNTS)

    def _losses(self, z: npt.NDArray[np.float64], targets: npt.ArrayLike) -> npt.NDArray[np.float64]:
        t = self._targets(z, targets)
        return np.asarray((np.exp(z) - t * z).sum(axis=1))


@dataclass(frozen=True)
class CustomLoss(Loss):
    """A user's own loss, compiled into the training loop.

    Parameters
    ----------
    function : function compiled by `numba.njit`
        ``function(z, target, gradient)`` returns the loss of one sample and writes its gradient with
        respect to z.  All three arrays have one element for each output and the dtype of the network;
        `z` holds the outputs before softmax or sigmoid, `target` the targets, for softmax outputs 1 for
        the sample's class and 0 for the others, and `gradient` begins as zeros.  The function has to
        raise nothing, and to change nothing but `gradient`.
    name : str, optional
        Name shown to people, by default that of the function.

    Raises
    ------
    TypeError
        If `function` is not compiled, does not take three arguments, or `name` is not a string.

    Examples
    --------
    >>> from numba import njit
    >>> from nbnorm import CustomLoss
    >>> @njit
    ... def quartic(z, target, gradient):
    ...     loss = 0.0
    ...     for o in range(z.size):
    ...         loss += (z[o] - target[o]) ** 4
    ...         gradient[o] = 4 * (z[o] - target[o]) ** 3
    ...     return loss
    >>> CustomLoss(quartic).value([[2.0]], [[0.0]])
    16.0
    """

    function: Callable[..., Any]
    name: str = ""
    outputs: ClassVar[tuple[str, ...]] = ("softmax", "sigmoid", "identity")
    # Set by `resolve`: decides what counts as a hit, and that softmax has labels.
    _output: str = field(default="identity", init=False, repr=False)

    def __post_init__(self) -> None:
        _check.compiled("function", self.function, 3)
        if not isinstance(self.name or "", str):
            raise TypeError(f"name must be a string, got {type(self.name).__name__}")
        object.__setattr__(self, "name", self.name or self.function.__name__)

    @property
    def block(self) -> Any:
        """Kernel of the training engine for one block of samples."""
        return _custom_block(self.function)

    def options(self) -> npt.NDArray[np.float64]:
        """Return the code of the output that the loss is used for."""
        return np.array([float(_OUTPUTS[self._output])])

    def _losses(self, z: npt.NDArray[np.float64], targets: npt.ArrayLike) -> npt.NDArray[np.float64]:
        t = _check.numeric("targets", targets)
        if self._output == "softmax" or (t.ndim == 1 and z.shape[1] > 1):
            labels = _labels(targets, *z.shape)
            t = np.zeros(z.shape)
            t[np.arange(len(z)), labels] = 1
        else:
            t = self._targets(z, targets)
        losses = np.empty(len(z))
        gradient = np.zeros(z.shape[1])
        _custom_rows(self.function)(z, t, gradient, losses)
        return losses


_KINDS: tuple[type[Loss], ...] = (
    CrossEntropy,
    BinaryCrossEntropy,
    SquaredError,
    AbsoluteError,
    Huber,
    Poisson,
)
LOSSES: dict[str, type[Loss]] = {kind.name: kind for kind in _KINDS}


def resolve(loss: Any, output: str) -> Loss:
    """Return the loss of a network.

    Parameters
    ----------
    loss : None, str or Loss
        None stands for the loss that belongs to the output, a string for one of `LOSSES` with its
        default options.
    output : {"softmax", "sigmoid", "identity"}
        Output of the network.

    Returns
    -------
    Loss
        The loss, knowing its output.

    Raises
    ------
    TypeError
        If `loss` is something else.
    ValueError
        If the name is unknown or the loss does not fit the output.

    Examples
    --------
    >>> from nbnorm.functions.losses import resolve
    >>> resolve("huber", "identity")
    Huber(delta=1.0)
    """
    _check.choice("output", output, tuple(_OUTPUTS))
    fitting = [name for name, kind in LOSSES.items() if output in kind.outputs]
    if loss is None:
        return LOSSES[fitting[0]]()
    if isinstance(loss, str):
        loss = LOSSES[_check.choice("loss", loss, tuple(LOSSES))]()
    if not isinstance(loss, Loss):
        got = f"the class {loss.__name__}" if isinstance(loss, type) else type(loss).__name__
        raise TypeError(f"loss must be None, a string or an nbnorm.Loss, got {got}")
    if output not in loss.outputs:
        known = ", ".join(repr(name) for name in fitting)
        raise ValueError(f"loss must be {known} or a CustomLoss for output={output!r}, got {loss.name!r}")
    if not isinstance(loss, CustomLoss):
        return loss
    knowing = replace(loss)
    object.__setattr__(knowing, "_output", output)
    return knowing
