"""Vector kernels of the training engine over one blocked row: one feature, all samples of a batch.

A row stands in blocks of ``width`` samples, ``stride`` elements apart (see `nbnorm.engine.run`).  The
last block may hold fewer than ``width`` samples: everything is computed for whole blocks, but sums
leave the other lanes out.  Sums are made in a fixed order: lane by lane over the blocks, then halves of
lanes onto halves.

Each kernel is a function of addresses, compiled once by itself and called by its own address; interpreted, it
works on views of the arrays.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import config, types

from nbnorm import simd
from nbnorm.compile import pointers
from nbnorm.compile.kernels import callback
from nbnorm.engine.bfloat16 import PairWriter, rows_together
from nbnorm.engine.microkernels import tile
from nbnorm.functions import activations
from nbnorm.functions.activations import IDENTITY
from nbnorm.simd._functions import Signature, caller, function_address

_FUNCTIONS = tuple(activations.FUNCTIONS.values())

# Activations whose slope is known from their value: they are computed together with batch norm.
FROM_VALUE = tuple(code for code, function in enumerate(_FUNCTIONS) if function.slope_of_y)


# ----------------------------------------------------------------------------------------------
# Walking through rows
# ----------------------------------------------------------------------------------------------


def _blocks(width: int, stride: Any, n: Any, body: Callable[[Any, Any], Any]) -> None:
    """Call ``body(i, at)`` for each block: its first sample, and where that stands in a row."""
    simd.loop(0, n, width, lambda i: body(i, (i >> (width.bit_length() - 1)) * stride))


def _sums(width: int, stride: Any, n: Any, zeros: list[Any], terms: Callable[[Any, Any], list[Any]]) -> Any:
    """Return the sums over the samples of ``terms(i, at)``, a vector of so many lanes for each of `zeros`."""

    def added(i: Any, sums: Any) -> list[tuple[Any, Any]]:
        return list(zip(sums, terms(i, (i >> (width.bit_length() - 1)) * stride), strict=True))

    def whole(i: Any, *sums: Any) -> Any:
        return tuple(total + term for total, term in added(i, sums))

    def rest(i: Any, *sums: Any) -> Any:
        present = simd.first_lanes(n - i, width)
        return tuple(total + simd.where(present, term, 0.0) for total, term in added(i, sums))

    end = n & -width
    sums = _tuple(simd.loop(0, end, width, whole, *zeros))
    return _tuple(simd.loop(end, n, width, rest, *sums))


def _tuple(values: Any) -> tuple[Any, ...]:
    return values if isinstance(values, tuple) else () if values is None else (values,)


def row_sums(
    dtype: Any, stride: Any, n: Any, count: int, terms: Callable[[int, Any, Any], list[Any]]
) -> list[Any]:
    """Sum `count` terms over the samples for each row of a panel, into vectors of one number for each row.

    ``terms(r, i, at)`` are those of row r for the block that begins with sample i.
    """
    shape = tile(dtype)
    width, size = shape.width, rows_together(dtype)
    zero = simd.zeros(dtype, width)
    sums: list[list[Any]] = [[] for _ in range(count)]
    for first in range(0, shape.rows, size):
        group = range(first, first + size)

        def each(i: Any, at: Any, group: range = group) -> list[Any]:
            return [term for r in group for term in terms(r, i, at + r * width)]

        got = _sums(width, stride, n, [zero] * (count * size), each)
        for c in range(count):
            sums[c] += got[c::count]
    return [simd.row_sums(simd.tile_of(*rows)) for rows in sums]


def derived(code: int, gradient: Any, value: Any) -> Any:
    """``gradient * f'``, with f' in terms of the value f, or of z where f does not tell it."""
    return gradient if code == IDENTITY else gradient * _FUNCTIONS[code].slope(value)


# ----------------------------------------------------------------------------------------------
# Rows
# ----------------------------------------------------------------------------------------------


def _activate(code: int) -> Callable[..., None]:
    def activate(x: Any, z: Any, stride: Any, n: Any, bias: Any) -> None:
        width = tile(x.dtype).width

        def block(i: Any, at: Any) -> None:
            value = simd.load(x, at, width) + bias
            if code not in FROM_VALUE:
                simd.store(z, at, value)
            simd.store(x, at, _FUNCTIONS[code].value(value))

        _blocks(width, stride, n, block)

    return activate


def _derive_row(code: int) -> Callable[..., Any]:
    def derive(g: Any, y: Any, stride: Any, n: Any) -> Any:
        width = tile(g.dtype).width

        def block(i: Any, at: Any) -> list[Any]:
            gradient = derived(code, simd.load(g, at, width), simd.load(y, at, width))
            simd.store(g, at, gradient)
            return [gradient]

        return simd.sum(_sums(width, stride, n, [simd.zeros(g.dtype, width)], block)[0])

    return derive


# Constants of a 32-bit mixing function whose bits are unbiased to about one part in a thousand.
_MIX = ((16, 0x21F0AAAD), (15, 0xD35A2D97))


def _drop(x: Any, y: Any, stride: Any, n: Any, first: Any, key: Any, threshold: Any, scale: Any) -> None:
    """Dropout: an element is dropped where a hash of key and sample lies below the threshold.

    The row begins with the sample number `first`.
    """
    width = tile(x.dtype).width
    key, threshold = (simd.convert(number, np.uint32) for number in (key, threshold))

    def block(i: Any, at: Any) -> None:
        bits = (simd.iota(np.uint32, width) + simd.convert(first + i, np.uint32)) * 0x9E3779B9 ^ key
        for shift, factor in _MIX:
            bits = (bits ^ (bits >> shift)) * factor
        bits = bits ^ (bits >> 15)
        simd.store(y, at, simd.where(bits < threshold, 0.0, simd.load(x, at, width) * scale))

    _blocks(width, stride, n, block)


# ----------------------------------------------------------------------------------------------
# Panels: as many features as a tile has rows, whose statistics are computed side by side
# ----------------------------------------------------------------------------------------------


def _statistics(code: int, weighted: bool) -> Callable[..., Any]:
    activate = _FUNCTIONS[code].value

    def statistics(
        y: Any, weights: Any, bias_at: Any, shift_at: Any, center_at: Any, variance_at: Any, stride: Any,
        n: Any, total: Any,
    ) -> Any:  # fmt: skip
        """Write f(y + bias) and the moments of each row; return 0 where float32 could not hold them.

        `total` is the sum of the weights; it is not used where all weights are 1.
        """
        dtype = y.dtype
        _, rows, width, _ = tile(dtype)
        bias = simd.load(bias_at, 0, rows)

        def values(i: Any, at: Any) -> None:
            for r in range(rows):
                z = simd.load(y, at + r * width, width) + simd.extract(bias, r)
                simd.store(y, at + r * width, activate(z))

        # By themselves: the sums wait for the first sample of each row, the values for nothing.
        _blocks(width, stride, n, values)
        shift = simd.gather(y, simd.iota(np.int64, rows) * width)

        def weigh(i: Any, term: Any) -> Any:
            return simd.load(weights, i, width) * term if weighted else term

        def deviation(r: int, i: Any, at: Any) -> list[Any]:
            return [weigh(i, simd.load(y, at, width) - simd.extract(shift, r))]

        (sums,) = row_sums(dtype, stride, n, 1, deviation)
        samples = simd.full_like(bias, total if weighted else n)
        center = sums / samples

        def squares(r: int, i: Any, at: Any) -> list[Any]:
            e = (simd.load(y, at, width) - simd.extract(shift, r)) - simd.extract(center, r)
            return [weigh(i, e), weigh(i, e * e)]

        rest, square = row_sums(dtype, stride, n, 2, squares)
        wide = simd.convert(samples, np.float64)
        correction = simd.convert(rest, np.float64) / wide
        simd.store(shift_at, 0, shift)
        simd.store(center_at, 0, simd.convert(simd.convert(center, np.float64) + correction, dtype))
        simd.store(variance_at, 0, simd.convert(square, np.float64) / wide - correction * correction)
        # The squares of float32 numbers leave its range beyond 1e15 and below 1e-15; a feature
        # that is the same for all samples, a dead relu for example, has none.
        inside = ((square > 1e-30) & (square < 1e30)) | ((square == 0.0) & (sums == 0.0))
        return simd.convert(simd.all(inside), dtype)

    return statistics


def _normalize(code: int, packed: bool) -> Callable[..., None]:
    def normalize(
        y: Any, out: Any, feature_pairs: Any, sample_pairs: Any, gamma: Any, beta: Any, shift: Any,
        center: Any, rstd: Any, stride: Any, n: Any,
    ) -> None:  # fmt: skip
        """Write ``f(gamma * xhat + beta)``, `packed` also as pairs of bfloat16."""
        _, rows, width, _ = tile(y.dtype)
        gamma, beta, shift, center, rstd = (simd.load(x, 0, rows) for x in (gamma, beta, shift, center, rstd))
        factor = gamma * rstd
        write_pairs = PairWriter(feature_pairs, sample_pairs, n, False)

        def one(r: int, i: Any, at: Any) -> list[Any]:
            e = (simd.load(y, at, width) - simd.extract(shift, r)) - simd.extract(center, r)
            value = simd.fma(e, simd.extract(factor, r), simd.extract(beta, r))
            value = _FUNCTIONS[code].value(value)
            simd.store(out, at, value)
            if packed:
                write_pairs(r, i, at - r * width, value)
            return []

        row_sums(y.dtype, stride, n, 0, one)

    return normalize


def _backward(code: int, before: bool, weighted: bool, packed: bool) -> Callable[..., None]:
    def backward(
        g: Any, y: Any, a: Any, feature_pairs: Any, sample_pairs: Any, weights: Any, gamma: Any, shift: Any,
        center: Any, rstd: Any, dgamma_at: Any, dbeta_at: Any, dbias_at: Any, stride: Any, n: Any, batch: Any,
        total: Any,
    ) -> None:  # fmt: skip
        """Turn the gradient g with respect to the output into that with respect to z, of each row.

        It is written over g, `packed` also as pairs of bfloat16.

        `batch` is 1 where the statistics depend on the batch, 0 where they are constants; `total` is the sum
        of the weights.
        """
        dtype = g.dtype
        _, rows, width, _ = tile(dtype)
        gamma, shift, center, rstd = (simd.load(x, 0, rows) for x in (gamma, shift, center, rstd))
        write_pairs = PairWriter(feature_pairs, sample_pairs, n, True)

        def centred(r: int, at: Any) -> Any:
            return (simd.load(y, at, width) - simd.extract(shift, r)) - simd.extract(center, r)

        def moments(r: int, i: Any, at: Any) -> list[Any]:
            gradient = simd.load(g, at, width)
            if before:
                gradient = derived(code, gradient, simd.load(a, at, width))
                simd.store(g, at, gradient)
            return [gradient, gradient * centred(r, at)]

        dbeta, moment = row_sums(dtype, stride, n, 2, moments)
        dgamma = moment * rstd
        fraction = simd.full_like(gamma, batch) / simd.full_like(gamma, total if weighted else n)
        # dy = gamma / sigma (g - m - u s), where u = (y - mu) / sigma: the 1 / sigma of u is taken into s
        factor, m, s = gamma * rstd, dbeta * fraction, (dgamma * fraction) * rstd

        def input_gradient(r: int, i: Any, at: Any) -> list[Any]:
            m_r, s_r = simd.extract(m, r), simd.extract(s, r)
            e, gradient = centred(r, at), simd.load(g, at, width)
            if weighted:  # a sample's part in the statistics is its weight
                gradient = gradient - simd.load(weights, i, width) * simd.fma(e, s_r, m_r)
            else:
                gradient = (gradient - m_r) - e * s_r
            gradient = simd.extract(factor, r) * gradient
            if not before:
                gradient = derived(code, gradient, simd.load(y, at, width))
            simd.store(g, at, gradient)
            if packed:
                write_pairs(r, i, at - r * width, gradient)
            return [gradient]

        (dbias,) = row_sums(dtype, stride, n, 1, input_gradient)
        for pointer, value in ((dgamma_at, dgamma), (dbeta_at, dbeta), (dbias_at, dbias)):
            simd.store(pointer, 0, value)

    return backward


# ----------------------------------------------------------------------------------------------
# Kernels by address
# ----------------------------------------------------------------------------------------------

_SIGNATURES = {
    "activate": Signature(2, 2, 1),
    "derive": Signature(2, 2, returns=True),
    "drop": Signature(2, 5, 1),
    "statistics": Signature(6, 2, 1, returns=True),
    "normalize": Signature(9, 2),
    "backward": Signature(13, 2, 2),
}


@functools.cache
def row_kernel(
    operation: str, dtype: Any, code: int = IDENTITY, *, weighted: bool = False, packed: bool = False
) -> int:
    """Return the address of the kernel that `operation` names, compiled now unless it is in the cache.

    ``activate``    ``row = f(row + bias)``; where f' needs z, ``row + bias`` goes to the second row
    ``derive``      ``row *= f'``, from f or z in the second row; returns the sum
    ``drop``        dropout, from the first row to the second
    ``statistics``, ``normalize``, ``backward`` (``before`` in front of the activation): panels

    `code` is the activation; the weighted kernels take the samples' weights into account; those of batch
    norm that are `packed` write what they give as pairs of bfloat16 too.
    """
    makers: dict[str, Callable[[], Callable[..., Any]]] = {
        "activate": lambda: _activate(code),
        "derive": lambda: _derive_row(code),
        "drop": lambda: _drop,
        "statistics": lambda: _statistics(code, weighted),
        "normalize": lambda: _normalize(code, packed),
        "backward": lambda: _backward(code, False, weighted, packed),
        "before": lambda: _backward(code, True, weighted, packed),
    }
    variant = f"{'weighted_' if weighted else ''}{'packed_' if packed else ''}"
    name = f"nbnorm_row_{operation}_{code}_{variant}{np.dtype(dtype)}"
    signature = _SIGNATURES["backward" if operation == "before" else operation]
    others = {5: np.float64} if operation == "statistics" else None  # the variance
    return function_address(name, makers[operation](), signature, dtype, others=others)


@functools.lru_cache(maxsize=64)
def custom_row_kernel(operation: str, dtype: np.dtype[Any], activation: activations.Activation) -> int:
    """Return the address of ``activate`` or ``derive`` for a user's own activation function."""
    number, width = numba.from_dtype(dtype), tile(dtype).width
    row, integer = types.CPointer(number), types.int64
    function, derivative = activation.function, activation.derivative

    def activate(x: Any, z: Any, stride: Any, n: Any, bias: Any) -> None:
        for b in range(n):
            at = b // width * stride + b % width
            value = x[at] + bias
            z[at] = value
            x[at] = function(value)

    def derive(g: Any, z: Any, stride: Any, n: Any) -> Any:
        total = number(0)
        for b in range(n):
            at = b // width * stride + b % width
            g[at] = number(g[at] * derivative(z[at]))
            total += g[at]
        return total

    if config.DISABLE_JIT:
        return pointers.interpreted(activate if operation == "activate" else derive)
    if operation == "activate":
        return callback(activate, types.void(row, row, integer, integer, number))
    return callback(derive, number(row, row, integer, integer))


# Each takes the address of its kernel first.
activate_row = caller(_SIGNATURES["activate"], (2,))
derive_row = caller(_SIGNATURES["derive"], (2,))
drop_row = caller(_SIGNATURES["drop"], (2,))
panel_statistics = caller(_SIGNATURES["statistics"], (2, 1, 2, 1))
panel_normalize = caller(_SIGNATURES["normalize"], (4, 2, 3))
panel_backward = caller(_SIGNATURES["backward"], (6, 1, 3, 3))
