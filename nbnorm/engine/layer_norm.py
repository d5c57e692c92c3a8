"""Layer norm and RMS norm in the engine: statistics of each sample over the features of a layer.

Samples stand side by side, so that a sum over features is a sum of vectors with one lane for each sample.  A
thread needs all features of its samples, which others have computed: a layer has a phase of its own, in which
the blocks of samples are divided among the threads.

Forward, `forward_features` adds the bias (and computes f, where it stands in front) panel by panel as the
product writes them; behind a barrier `forward_blocks` normalizes block by block.  Backward, with
xhat = (y - mean) rstd, the gradient dout of the normalized values turns into that of y by

    dgamma = sum(dout * xhat)      dbeta = sum(dout)            over the samples: `backward_features`
    g = gamma * dout
    dy = rstd * (g - mean(g) - xhat * mean(g * xhat))           over the features: `backward_blocks`

RMS norm has mean = 0 and no beta, and leaves mean(g) out.  The statistics stand in `saved` as those of batch
norm do, one for each sample instead of one for each feature.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from nbnorm import simd
from nbnorm.compile.kernels import inner_kernel, linked_kernel
from nbnorm.compile.pointers import call
from nbnorm.engine.backward import transpose_block
from nbnorm.engine.epilogues import (
    FROM_VALUE,
    activate_row,
    derive_row,
    derived,
    drop_row,
    row_sums,
)
from nbnorm.engine.forward import drop_key, drop_scale, drop_threshold
from nbnorm.engine.microkernels import tile, tile_rows, tile_width, vector_update
from nbnorm.engine.table import AFTER, BEFORE
from nbnorm.functions import activations
from nbnorm.functions.activations import IDENTITY
from nbnorm.simd import get, put
from nbnorm.simd._functions import Signature, caller, function_address

_FUNCTIONS = tuple(activations.FUNCTIONS.values())


# ----------------------------------------------------------------------------------------------
# Blocks: as many samples as a vector has lanes, all features
# ----------------------------------------------------------------------------------------------


def _feature_sums(
    dtype: Any, features: Any, count: int, terms: Callable[[Any], list[Any]]
) -> tuple[Any, ...]:
    """Return the sums over the features of `count` terms, vectors with a lane for each sample.

    ``terms(at)`` are those of the feature that stands at `at`.  Several partial sums hide the latency of the
    additions and round less.
    """
    width, parts = tile(dtype).width, 4 // count

    def several(i: Any, *sums: Any) -> Any:
        new = [term for k in range(parts) for term in terms((i + k) * width)]
        return tuple(total + term for total, term in zip(sums, new, strict=True))

    def one(i: Any, *sums: Any) -> Any:
        return tuple(total + term for total, term in zip(sums, terms(i * width), strict=True))

    whole = features & -parts
    sums = simd.loop(0, whole, parts, several, *[simd.zeros(dtype, width)] * (count * parts))
    while len(sums) > count:
        half = len(sums) // 2
        sums = tuple(a + b for a, b in zip(sums[:half], sums[half:], strict=True))
    sums = simd.loop(whole, features, 1, one, *sums)
    return sums if isinstance(sums, tuple) else (sums,)


def _layer_statistics(y: Any, shift_at: Any, center_at: Any, rstd_at: Any, features: Any, eps: Any) -> Any:
    """Write mean (shift + center) and rstd of each sample; rstd is -1, and 0 returned, beyond float32."""
    dtype, width = y.dtype, tile(y.dtype).width
    shift = simd.load(y, 0, width)
    (sums,) = _feature_sums(dtype, features, 1, lambda at: [simd.load(y, at, width) - shift])
    count = simd.full_like(shift, features)
    center = sums / count

    def squares(at: Any) -> list[Any]:
        e = (simd.load(y, at, width) - shift) - center
        return [e, e * e]

    rest, square = _feature_sums(dtype, features, 2, squares)
    wide = simd.convert(count, np.float64)
    correction = simd.convert(rest, np.float64) / wide
    simd.store(shift_at, 0, shift)
    simd.store(center_at, 0, simd.convert(simd.convert(center, np.float64) + correction, dtype))
    variance = simd.convert(square, np.float64) / wide - correction * correction
    return _store_rstd(rstd_at, variance, square, eps)


def _rms_statistics(y: Any, shift_at: Any, center_at: Any, rstd_at: Any, features: Any, eps: Any) -> Any:
    """Write the reciprocal root mean square of each sample as rstd, and 0 as its mean."""
    dtype, width = y.dtype, tile(y.dtype).width

    def squares(at: Any) -> list[Any]:
        value = simd.load(y, at, width)
        return [value * value]

    (square,) = _feature_sums(dtype, features, 1, squares)
    simd.store(shift_at, 0, simd.zeros(dtype, width))
    simd.store(center_at, 0, simd.zeros(dtype, width))
    mean = simd.convert(square, np.float64) / simd.convert(simd.full_like(square, features), np.float64)
    return _store_rstd(rstd_at, mean, square, eps)


def _store_rstd(rstd_at: Any, variance: Any, square: Any, eps: Any) -> Any:
    """Write ``1 / sqrt(variance + eps)``, or -1 where the sum of squares has left the range of float32.

    Return 1 if it has not for any sample.  A sum of 0 is one that eps outweighs.
    """
    inside = ((square > 1e-30) & (square < 1e30)) | (square == 0.0)
    rstd = simd.convert(1.0 / simd.sqrt(variance + simd.convert(eps, np.float64)), square.dtype)
    simd.store(rstd_at, 0, simd.where(inside, rstd, -1.0))
    return simd.convert(simd.all(inside), square.dtype)


def _centred(y: Any, at: Any, shift: Any, center: Any) -> Any:
    return (simd.load(y, at, shift.lanes) - shift) - center


def _normalize(code: int) -> Callable[..., None]:
    def normalize(
        y: Any, z: Any, out: Any, gamma: Any, beta: Any, shift: Any, center: Any, rstd: Any, features: Any
    ) -> None:
        """Write ``f(gamma * xhat + beta)``; where f' needs its argument, that goes to z."""
        width = tile(y.dtype).width
        shift, center, rstd = (simd.load(x, 0, width) for x in (shift, center, rstd))

        def one(i: Any) -> None:
            at = i * width
            xhat = _centred(y, at, shift, center) * rstd
            value = simd.fma(xhat, simd.get(gamma, i), simd.get(beta, i))
            if code not in FROM_VALUE:
                simd.store(z, at, value)
            simd.store(out, at, _FUNCTIONS[code].value(value))

        simd.loop(0, features, 1, one)

    return normalize


def _backward_panel(code: int) -> Callable[..., None]:
    def backward(
        g: Any, y: Any, a: Any, shift: Any, center: Any, rstd: Any, gamma: Any, dgamma_at: Any, dbeta_at: Any,
        stride: Any, n: Any,
    ) -> None:  # fmt: skip
        """Turn the gradient of f(normalized) into ``gamma * dout``; write dgamma and dbeta of a panel."""
        dtype = g.dtype
        _, rows, width, _ = tile(dtype)
        gamma = simd.load(gamma, 0, rows)

        def moments(r: int, i: Any, at: Any) -> list[Any]:
            gradient = simd.load(g, at, width)
            if code != IDENTITY:
                gradient = derived(code, gradient, simd.load(a, at, width))
            e = _centred(y, at, simd.load(shift, i, width), simd.load(center, i, width))
            simd.store(g, at, simd.extract(gamma, r) * gradient)
            return [gradient, gradient * (e * simd.load(rstd, i, width))]

        dbeta, dgamma = row_sums(dtype, stride, n, 2, moments)
        simd.store(dgamma_at, 0, dgamma)
        simd.store(dbeta_at, 0, dbeta)

    return backward


def _backward_block(code: int) -> Callable[..., None]:
    def backward(
        g: Any, y: Any, a: Any, shift: Any, center: Any, rstd: Any, features: Any, centred: Any
    ) -> None:
        """Turn ``g = gamma * dout`` into the gradient of y, or of the argument of f in front of it.

        `centred` is 1 for layer norm and 0 for RMS norm.
        """
        dtype, width = g.dtype, tile(g.dtype).width
        shift, center, rstd = (simd.load(x, 0, width) for x in (shift, center, rstd))

        def moments(at: Any) -> list[Any]:
            gradient = simd.load(g, at, width)
            return [gradient, gradient * (_centred(y, at, shift, center) * rstd)]

        total, moment = _feature_sums(dtype, features, 2, moments)
        count = simd.full_like(total, features)
        m, s = total / count * centred, moment / count

        def input_gradient(i: Any) -> None:
            at = i * width
            xhat = _centred(y, at, shift, center) * rstd
            gradient = rstd * ((simd.load(g, at, width) - m) - xhat * s)
            if code != IDENTITY:
                gradient = derived(code, gradient, simd.load(a, at, width))
            simd.store(g, at, gradient)

        simd.loop(0, features, 1, input_gradient)

    return backward


# Of each operation the pointers behind each array, and what follows them.
_SIGNATURES = {
    "layer": Signature(4, 1, 1, returns=True),
    "rms": Signature(4, 1, 1, returns=True),
    "normalize": Signature(8, 1),
    "panel": Signature(9, 2),
    "block": Signature(6, 1, 1),
}

_MAKERS: dict[str, Callable[[int], Callable[..., Any]]] = {
    "layer": lambda code: _layer_statistics,
    "rms": lambda code: _rms_statistics,
    "normalize": _normalize,
    "panel": _backward_panel,
    "block": _backward_block,
}

_block_statistics = caller(_SIGNATURES["layer"], (1, 3))
_block_normalize = caller(_SIGNATURES["normalize"], (3, 2, 3))
_panel_backward = caller(_SIGNATURES["panel"], (3, 3, 1, 2))
_block_backward = caller(_SIGNATURES["block"], (3, 3))


@functools.cache
def block_kernel(operation: str, dtype: Any, code: int = IDENTITY) -> int:
    """Return the address of the kernel that `operation` names, compiled now unless it is in the cache.

    ``layer``, ``rms``   statistics of the samples of a block
    ``normalize``        normalized values, and f of them
    ``panel``            dgamma and dbeta of a panel of features
    ``block``            gradient of what was normalized
    """
    name = f"nbnorm_layer_norm_{operation}_{code}_{np.dtype(dtype)}"
    return function_address(name, _MAKERS[operation](code), _SIGNATURES[operation], dtype)


# ----------------------------------------------------------------------------------------------
# Forward
# ----------------------------------------------------------------------------------------------


@inner_kernel
def forward_features(run: Any, l: Any, first: Any, last: Any, n: Any, total: Any) -> None:
    """Add the bias to features [first, last) of layer l; compute f where it stands in front of the norm."""
    vector, act = run.vector, run.act
    width = tile_width(act)
    layer = run.net[l]
    kernel = run.calls.add_bias if layer.sample_norm == BEFORE else layer.activate_kernel
    for i in range(first, last):
        y, z = layer.norm_input_offset + i * width, layer.slope_input_offset + i * width
        activate_row(kernel, act, y, z, layer.padded * width, n, get(vector, layer.bias_offset + i))


@linked_kernel
def _wide_statistics(run: Any, layer: Any, y: Any, valid: Any, at: Any, length: Any) -> None:
    """Compute in float64 what the first pass has marked: squares beyond the range of float32."""
    act, saved, eps = run.act, run.saved, run.hyper.eps
    number, width = act.dtype.type, tile_width(act)
    for b in range(valid):
        if get(saved, 2 * length + at + b) >= number(0):
            continue
        shift, center, square = np.float64(get(saved, at + b)), 0.0, 0.0
        if layer.centred == 1:
            for i in range(layer.features):
                center += np.float64(get(act, y + i * width + b)) - shift
            center = center / layer.features
            put(saved, length + at + b, number(center))
        for i in range(layer.features):
            e = (np.float64(get(act, y + i * width + b)) - shift) - center
            square += e * e
        put(saved, 2 * length + at + b, number(1.0 / math.sqrt(square / layer.features + eps)))


@inner_kernel
def forward_blocks(run: Any, l: Any, n: Any, first: Any, last: Any) -> None:
    """Normalize blocks [first, last) of samples of layer l; activation and dropout behind it."""
    control, calls, vector, saved, act = run.control, run.calls, run.vector, run.saved, run.act
    number, width = act.dtype.type, tile_width(act)
    layer, length = run.net[l], len(run.variance)
    stride, features = layer.padded * width, layer.features
    for j in range(first, last):
        block, at, valid = j * stride, layer.statistics_offset + j * width, min(width, n - j * width)
        y, z = layer.norm_input_offset + block, layer.slope_input_offset + block
        v, a = layer.result_offset + block, layer.output_offset + block
        good = _block_statistics(
            layer.statistics_kernel, act, y, saved, at, length + at, 2 * length + at, features,
            number(run.hyper.eps),
        )  # fmt: skip
        if good == 0:
            _wide_statistics(run, layer, y, valid, at, length)
        _block_normalize(
            layer.normalize_kernel, act, y, z, v, vector, layer.gamma_offset, layer.beta_offset, saved, at,
            length + at, 2 * length + at, features,
        )  # fmt: skip
        if layer.custom == 1 and layer.sample_norm == BEFORE:
            for i in range(features):
                here, there = v + i * width, z + i * width
                activate_row(layer.activate_kernel, act, here, there, stride, valid, number(0))
        if layer.dropout_threshold > 0:
            threshold = drop_threshold(layer, control)
            scale = drop_scale(act, threshold)
            for i in range(features):
                key = drop_key(control, l, i)
                here, there = v + i * width, a + i * width
                drop_row(calls.drop_row, act, here, there, stride, valid, j * width, key, threshold, scale)


# ----------------------------------------------------------------------------------------------
# Backward
# ----------------------------------------------------------------------------------------------


@inner_kernel
def backward_features(run: Any, l: Any, first: Any, last: Any, n: Any, total: Any, k: Any) -> None:
    """Gradients of gamma and beta of features [first, last) and their update; dropout and f behind the norm.

    What is left for `backward_blocks` is ``gamma * dout``, so that gamma may change before.
    """
    calls, vector, saved, gradients, act = run.calls, run.vector, run.saved, run.gradients, run.act
    width, rows = tile_width(act), tile_rows(act)
    layer, length = run.net[l], len(saved) // 3
    stride, at = layer.padded * width, layer.statistics_offset
    kept = run.vector_gradient if run.control.stored == 1 else run.vector_state
    for i in range(first, last, rows):
        y, z = layer.norm_input_offset + i * width, layer.slope_input_offset + i * width
        g, stop = layer.gradient_offset + i * width, min(rows, layer.features - i)
        gamma, beta = layer.gamma_offset + i, layer.beta_offset + i
        if layer.dropout_threshold > 0:
            call(calls.drop_panel, run, l, i, g, g, n)
        if layer.custom == 1 and layer.sample_norm == BEFORE:
            for r in range(stop):
                derive_row(layer.derive_kernel, act, g + r * width, z + r * width, stride, n)
        _panel_backward(
            layer.backward_kernel, act, g, y, z, saved, at, length + at, 2 * length + at, vector, gamma,
            gradients, gamma, beta, stride, n,
        )  # fmt: skip
        for first_of, numbers_of in ((gamma, layer.gamma_numbers), (beta, layer.beta_numbers)):
            if first_of == gamma or layer.centred == 1:
                vector_update(
                    calls.vector_update, vector, first_of, kept, first_of, gradients, first_of, run.numbers,
                    k + numbers_of, len(vector), stop,
                )  # fmt: skip


@inner_kernel
def backward_blocks(run: Any, l: Any, n: Any, first: Any, last: Any) -> None:
    """Turn ``gamma * dout`` of blocks [first, last) of samples into the gradient of z, stored twice."""
    saved, act = run.saved, run.act
    number, width = act.dtype.type, tile_width(act)
    layer, length = run.net[l], len(saved) // 3
    stride = layer.padded * width
    for j in range(first, last):
        block, at, valid = j * stride, layer.statistics_offset + j * width, min(width, n - j * width)
        y, z = layer.norm_input_offset + block, layer.slope_input_offset + block
        g = layer.gradient_offset + block
        _block_backward(
            layer.block_backward_kernel, act, g, y, z, saved, at, length + at, 2 * length + at,
            layer.features, number(layer.centred),
        )  # fmt: skip
        if layer.custom == 1 and layer.sample_norm == AFTER:
            for i in range(layer.features):
                derive_row(layer.derive_kernel, act, g + i * width, z + i * width, stride, valid)
        transpose_block(run, layer, j, 0, layer.padded)
