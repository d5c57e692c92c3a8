"""Vector kernels of the training engine over one blocked row: one feature, all samples of a batch.

A row stands in pieces of ``width`` samples, ``stride`` elements apart (see `nbnorm.engine`).  The
last piece may hold fewer than ``width`` samples: everything is computed for whole pieces, but sums
leave the other lanes out.

Compiled loops over the one array in which all features stand would first have to find out at run
time that their pieces do not overlap; these kernels are written in vectors from the beginning.
Sums are made in a fixed order: lane by lane over the pieces, then halves of lanes onto halves.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

from nbnorm import _leaves, activations, simd
from nbnorm._jit import callback
from nbnorm._microkernels import data_at, emit_splat, scalar_type, tile
from nbnorm.activations import IDENTITY
from nbnorm.simd._emitted import Emitted, emitting
from nbnorm.simd._types import Vector

_I64 = ir.IntType(64)
_I32 = ir.IntType(32)
_FUNCTIONS = tuple(activations.FUNCTIONS.values())

# Activations whose slope is known from their value: they are computed together with batch norm.
FROM_VALUE = tuple(code for code, function in enumerate(_FUNCTIONS) if function.slope_of_y)


class Vectors:
    """Vector instructions for one element type in one function under construction."""

    def __init__(self, builder: Any, dtype: Any) -> None:
        self.b = builder
        self.dtype, self.shape = np.dtype(dtype), tile(dtype)
        self.lanes, self.width = self.shape.lanes, self.shape.width
        self.scalar = scalar_type(dtype)
        self.kind = ir.VectorType(self.scalar, self.lanes)
        self.zero = ir.Constant(self.kind, None)
        self.one = ir.Constant(self.kind, [1.0] * self.lanes)

    def splat(self, value: Any) -> Any:
        """Vector with `value` in every lane."""
        return emit_splat(self.b, value, self.lanes)

    def place(self, pointer: Any, offset: int) -> Any:
        """Address of the vector that stands `offset` elements after `pointer`."""
        address = self.b.gep(pointer, [_I64(offset)], inbounds=True)
        return self.b.bitcast(address, self.kind.as_pointer())

    def load(self, pointer: Any, offset: int = 0) -> Any:
        """Read a vector."""
        return self.b.load(self.place(pointer, offset), align=4)

    def store(self, value: Any, pointer: Any, offset: int = 0) -> None:
        """Write a vector."""
        self.b.store(value, self.place(pointer, offset), align=4)

    def muladd(self, x: Any, y: Any, z: Any) -> Any:
        """``x * y + z``, in one rounding where the processor has the instruction."""
        if not self.shape.fma:
            return self.b.fadd(self.b.fmul(x, y), z)
        name = f"llvm.fma.v{self.lanes}{self.scalar.intrinsic_name}"
        function = cgutils.get_or_insert_function(
            self.b.module, ir.FunctionType(self.kind, [self.kind] * 3), name
        )
        return self.b.call(function, [x, y, z])

    def apply(self, function: Callable[..., Any], *vectors: Any) -> Any:
        """Emit a function of `nbnorm.simd`."""
        with emitting(None, self.b):
            given = (Emitted(Vector(str(self.dtype), vector.type.count), vector) for vector in vectors)
            return function(*given).value

    def activate(self, z: Any, code: int) -> Any:
        """Value f(z), for a vector of any length."""
        return self.apply(_FUNCTIONS[code].value, z)

    def derive(self, gradient: Any, value: Any, code: int) -> Any:
        """``gradient * f'``, with f' in terms of the value f, or of z where f does not tell it."""
        slope = _FUNCTIONS[code].slope
        return gradient if code == IDENTITY else self.apply(lambda g, f: g * slope(f), gradient, value)

    def total(self, vector: Any) -> Any:
        """Sum of the lanes, halves onto halves."""
        lanes = self.lanes
        while lanes > 1:
            lanes //= 2
            mask = ir.VectorType(_I32, lanes)
            low = self.b.shuffle_vector(vector, vector, ir.Constant(mask, list(range(lanes))))
            high = self.b.shuffle_vector(vector, vector, ir.Constant(mask, list(range(lanes, 2 * lanes))))
            vector = self.b.fadd(low, high)
        return self.b.extract_element(vector, _I32(0))


def _loop(
    v: Vectors,
    pointers: list[Any],
    counts: list[Any],
    sums: int,
    body: Callable[..., list[Any]],
    *,
    lanes_too: bool = True,
    weights: Any = None,
) -> list[Any]:
    """Emit the loop over the pieces of rows; return the sums over the samples.

    `counts` are the elements between pieces and the number of samples.

    Each sum is a scalar, or without `lanes_too` a vector whose lanes are still to be added.  The
    samples' `weights` stand in contiguous pieces; their address comes last to `body`.
    """
    stride, n = counts
    steps = [stride] * len(pointers)
    if weights is not None:
        pointers, steps = [*pointers, weights], [*steps, _I64(v.width)]
    b = v.b
    function = b.function
    pieces = range(0, v.width, v.lanes)
    width = _I64(v.width)
    whole, tail = b.sdiv(n, width), b.srem(n, width)
    before = b.block
    head, inside, rest, short, done = (
        function.append_basic_block(name) for name in ("head", "inside", "rest", "short", "done")
    )
    b.branch(head)
    b.position_at_end(head)
    turn = b.phi(_I64)
    turn.add_incoming(_I64(0), before)
    here = [b.phi(pointer.type) for pointer in pointers]
    held = [b.phi(v.kind) for _ in range(sums * len(pieces))]
    for phi, start in zip([*here, *held], [*pointers, *[v.zero] * len(held)], strict=True):
        phi.add_incoming(start, before)
    b.cbranch(b.icmp_signed("<", turn, whole), inside, rest)

    b.position_at_end(inside)
    added = []
    for number, offset in enumerate(pieces):
        terms = body(here, offset)
        added += [b.fadd(held[number * sums + s], term) for s, term in enumerate(terms)]
    turn.add_incoming(b.add(turn, _I64(1)), b.block)
    for phi, step in zip(here, steps, strict=True):
        phi.add_incoming(b.gep(phi, [step], inbounds=True), b.block)
    for phi, value in zip(held, added, strict=True):
        phi.add_incoming(value, b.block)
    b.branch(head)

    b.position_at_end(rest)
    b.cbranch(b.icmp_signed(">", tail, _I64(0)), short, done)
    b.position_at_end(short)
    last = []
    valid = v.splat(tail)
    for number, offset in enumerate(pieces):
        lanes = ir.Constant(ir.VectorType(_I64, v.lanes), [offset + lane for lane in range(v.lanes)])
        present = b.icmp_signed("<", lanes, valid)
        for s, term in enumerate(body(here, offset)):
            last.append(b.fadd(held[number * sums + s], b.select(present, term, v.zero)))
    left = b.block
    b.branch(done)
    b.position_at_end(done)
    totals = []
    for phi, value in zip(held, last, strict=True):
        total = b.phi(v.kind)
        total.add_incoming(phi, rest)
        total.add_incoming(value, left)
        totals.append(total)
    results = []
    for s in range(sums):
        vector = totals[s]
        for other in totals[s + sums :: sums]:
            vector = b.fadd(vector, other)
        results.append(v.total(vector) if lanes_too else vector)
    return results


class _Shape(NamedTuple):
    """Arguments of a row kernel: addresses, then ``stride`` and ``n``, other integers, numbers."""

    pointers: int
    integers: int = 2
    scalars: int = 0
    results: int = 0

    def signature(self, scalar: Any) -> Any:
        """Return the type of the function."""
        kinds = [scalar.as_pointer()] * self.pointers + [_I64] * self.integers + [scalar] * self.scalars
        return ir.FunctionType(scalar if self.results else ir.VoidType(), kinds)


_SHAPES = {
    "activate": _Shape(2, scalars=1),
    "derive": _Shape(2, results=1),
    "drop": _Shape(2, integers=4, scalars=1),
    "statistics": _Shape(6, scalars=1, results=1),
    "normalize": _Shape(7),
    "backward": _Shape(11, scalars=2),
    "softmax": _Shape(4, scalars=1),
}


def _write(module: Any, name: str, shape: _Shape, dtype: Any, emit: Callable[..., list[Any]]) -> Any:
    """Add the function `name` to a module; ``emit(v, pointers, integers, scalars)`` writes its body."""
    function = ir.Function(module, shape.signature(scalar_type(dtype)), name)
    function.attributes.add("nounwind")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    args = list(function.args)
    split = shape.pointers + shape.integers
    got = emit(Vectors(builder, dtype), args[: shape.pointers], args[shape.pointers : split], args[split:])
    if shape.results:
        builder.ret(got[0])
    else:
        builder.ret_void()
    return function


@functools.cache
def row_kernel(kind: str, dtype: Any, code: int = IDENTITY, *, weighted: bool = False) -> int:
    """Return the address of the kernel that `kind` names, compiled now unless it is in the cache.

    ``activate``    ``row = f(row + bias)``; where f' needs z, ``row + bias`` goes to the second row
    ``derive``      ``row *= f'``, from f or z in the second row; returns the sum
    ``drop``        dropout, from the first row to the second
    ``statistics``, ``normalize``, ``backward`` (``before`` in front of the activation): panels

    `code` is the activation; the weighted kernels take the samples' weights into account.
    """
    if config.DISABLE_JIT:
        return _leaves.interpreted((kind, code, weighted))
    emitters: dict[str, Callable[[], Callable[..., list[Any]]]] = {
        "activate": lambda: _emit_activate(code),
        "derive": lambda: _emit_derive(code),
        "drop": lambda: _emit_drop,
        "statistics": lambda: _emit_statistics(code, weighted),
        "normalize": lambda: _emit_normalize(code),
        "backward": lambda: _emit_backward(code, False, weighted),
        "before": lambda: _emit_backward(code, True, weighted),
    }
    name = f"nbnorm_row_{kind}_{code}_{'weighted_' if weighted else ''}{np.dtype(dtype)}"
    shape = _SHAPES["backward" if kind == "before" else kind]
    return _leaves.emitted(name, lambda module: _write(module, name, shape, dtype, emitters[kind]()))


@functools.lru_cache(maxsize=64)
def custom_row_kernel(kind: str, dtype: np.dtype[Any], activation: activations.Activation) -> int:
    """Return the address of ``activate`` or ``derive`` for a user's own activation function."""
    if config.DISABLE_JIT:
        return _leaves.interpreted((kind, activation, False))
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

    if kind == "activate":
        return callback(activate, types.void(row, row, integer, integer, number))
    return callback(derive, number(row, row, integer, integer))


def _emit_activate(code: int) -> Callable[..., list[Any]]:
    def emit(v: Vectors, rows: list[Any], counts: list[Any], scalars: list[Any]) -> list[Any]:
        bias = v.splat(scalars[0])
        keep = code not in FROM_VALUE

        def body(here: list[Any], offset: int) -> list[Any]:
            z = v.b.fadd(v.load(here[0], offset), bias)
            if keep:
                v.store(z, here[1], offset)
            v.store(v.activate(z, code), here[0], offset)
            return []

        return _loop(v, rows if keep else rows[:1], counts, 0, body)

    return emit


def _emit_derive(code: int) -> Callable[..., list[Any]]:
    def emit(v: Vectors, rows: list[Any], counts: list[Any], scalars: list[Any]) -> list[Any]:
        def body(here: list[Any], offset: int) -> list[Any]:
            g = v.derive(v.load(here[0], offset), v.load(here[1], offset), code)
            v.store(g, here[0], offset)
            return [g]

        return _loop(v, rows, counts, 1, body)

    return emit


# Constants of a 32-bit mixing function whose bits are unbiased to about one part in a thousand.
_MIX = ((16, 0x21F0AAAD), (15, 0xD35A2D97))


def _emit_drop(v: Vectors, rows: list[Any], counts: list[Any], scalars: list[Any]) -> list[Any]:
    """Emit dropout: the counts are stride, n, key and threshold, the scalar is the scale.

    A sample's element is dropped where a hash of key and place lies below the threshold.
    """
    b = v.b
    stride, n, key, threshold = counts
    whole = ir.VectorType(_I32, v.lanes)
    function, before = b.function, b.block
    keys, limit, scale = v.splat(b.trunc(key, _I32)), v.splat(b.trunc(threshold, _I32)), v.splat(scalars[0])

    def constant(value: int) -> Any:
        return ir.Constant(whole, [value] * v.lanes)

    head, inside, done = (function.append_basic_block(name) for name in ("head", "inside", "done"))
    b.branch(head)
    b.position_at_end(head)
    first = b.phi(_I64)
    first.add_incoming(_I64(0), before)
    here = [b.phi(row.type) for row in rows]
    for phi, row in zip(here, rows, strict=True):
        phi.add_incoming(row, before)
    b.cbranch(b.icmp_signed("<", first, n), inside, done)
    b.position_at_end(inside)
    for offset in range(0, v.width, v.lanes):
        lanes = ir.Constant(whole, [offset + lane for lane in range(v.lanes)])
        x = b.add(v.splat(b.trunc(first, _I32)), lanes)
        x = b.xor(b.mul(x, constant(0x9E3779B9)), keys)
        for shift, factor in _MIX:
            x = b.mul(b.xor(x, b.lshr(x, constant(shift))), constant(factor))
        x = b.xor(x, b.lshr(x, constant(15)))
        kept = b.fmul(v.load(here[0], offset), scale)
        v.store(b.select(b.icmp_unsigned("<", x, limit), v.zero, kept), here[1], offset)
    first.add_incoming(b.add(first, _I64(v.width)), b.block)
    for phi in here:
        phi.add_incoming(b.gep(phi, [stride], inbounds=True), b.block)
    b.branch(head)
    b.position_at_end(done)
    return []


# ----------------------------------------------------------------------------------------------
# Panels: as many features as a tile has rows, whose statistics are computed side by side
# ----------------------------------------------------------------------------------------------


class Panel:
    """Instructions for the rows of a panel; a narrow vector holds one number for each row."""

    def __init__(self, v: Vectors) -> None:
        self.v, self.b = v, v.b
        self.rows = v.shape.rows
        self.narrow = ir.VectorType(v.scalar, self.rows)
        self.wide = ir.VectorType(ir.DoubleType(), self.rows)
        # Rows whose constants and sums fit into the registers together.
        group = 4 if v.shape.rows == 8 else 2
        self.groups = [range(first, first + group) for first in range(0, self.rows, group)]

    def load(self, pointer: Any, kind: Any) -> Any:
        """Read one number for each row."""
        return self.b.load(self.b.bitcast(pointer, kind.as_pointer()), align=4)

    def store(self, value: Any, pointer: Any) -> None:
        """Write one number for each row."""
        self.b.store(value, self.b.bitcast(pointer, value.type.as_pointer()), align=4)

    def constant(self, value: Any, kind: Any) -> Any:
        """Repeat a scalar for each row."""
        result = ir.Constant(kind, ir.Undefined)
        for r in range(self.rows):
            result = self.b.insert_element(result, value, _I32(r))
        return result

    def number(self, value: float, kind: Any) -> Any:
        """Return a constant."""
        return ir.Constant(kind, [value] * self.rows)

    def splat(self, narrow: Any, r: int) -> Any:
        """Return row r's number in all lanes."""
        return self.v.splat(self.b.extract_element(narrow, _I32(r)))

    def widened(self, narrow: Any) -> Any:
        """Convert to float64."""
        return narrow if self.narrow == self.wide else self.b.fpext(narrow, self.wide)

    def rounded(self, wide: Any) -> Any:
        """Convert from float64 to the type of the network."""
        return wide if self.narrow == self.wide else self.b.fptrunc(wide, self.narrow)

    def totals(self, sums: list[Any]) -> Any:
        """Sum the lanes of one vector for each row, into a narrow vector."""
        b, rows = self.b, self.rows
        lanes = self.v.lanes
        if lanes < rows:
            result = ir.Constant(self.narrow, ir.Undefined)
            for r, vector in enumerate(sums):
                result = b.insert_element(result, self.v.total(vector), _I32(r))
            return result

        def picked(a: Any, c: Any, lanes_: list[int]) -> Any:
            return b.shuffle_vector(a, c, ir.Constant(ir.VectorType(_I32, len(lanes_)), lanes_))

        while lanes > rows:
            half = lanes // 2
            sums = [
                b.fadd(picked(x, x, list(range(half))), picked(x, x, list(range(half, lanes)))) for x in sums
            ]
            lanes = half
        step = 1
        while len(sums) > 1:  # lanes with bit `step` go on with the second vector of a pair
            pairs = zip(sums[0::2], sums[1::2], strict=True)
            keep = [k if not k & step else lanes + k for k in range(lanes)]
            other = [k + step if not k & step else lanes + k - step for k in range(lanes)]
            sums = [b.fadd(picked(x, y, keep), picked(x, y, other)) for x, y in pairs]
            step *= 2
        return sums[0]

    def row(self, pointer: Any, r: int) -> Any:
        """Address of row r of the panel that begins at `pointer`."""
        return self.b.gep(pointer, [_I64(r * self.v.width)], inbounds=True)

    def sums(
        self,
        pointers: list[Any],
        counts: list[Any],
        count: int,
        body: Callable[..., list[Any]],
        weights: Any = None,
    ) -> list[Any]:
        """Loop over the samples; return `count` narrow vectors of sums.

        ``body(r, here, offset, weight)`` works on one vector of row r, with `here` the addresses that
        belong to `pointers` and the weights of these samples, and returns `count` vectors to be added.
        """
        held: list[list[Any]] = [[] for _ in range(count)]
        for group in self.groups:
            starts = [self.row(pointer, r) for r in group for pointer in pointers]

            def each(here: list[Any], offset: int, group: range = group) -> list[Any]:
                terms = []
                weight = None if weights is None else self.v.load(here[-1], offset)
                for k, r in enumerate(group):
                    terms += body(r, here[k * len(pointers) : (k + 1) * len(pointers)], offset, weight)
                return terms

            got = _loop(self.v, starts, counts, count * len(group), each, lanes_too=False, weights=weights)
            for k in range(len(group)):
                for c in range(count):
                    held[c].append(got[k * count + c])
        return [self.totals(vectors) for vectors in held]


def _emit_statistics(code: int, weighted: bool) -> Callable[..., list[Any]]:
    def emit(v: Vectors, pointers: list[Any], counts: list[Any], scalars: list[Any]) -> list[Any]:
        """Emit activation and moments: pointers are y, weights, bias, shift, center, variance.

        The scalar is the sum of the weights; it is not used where all weights are 1.
        """
        y, weights_at, bias_at, shift_at, center_at, variance_at = pointers
        b, p = v.b, Panel(v)
        weights = weights_at if weighted else None
        bias = p.load(bias_at, p.narrow)
        first = ir.Constant(p.narrow, ir.Undefined)
        for r in range(p.rows):
            first = b.insert_element(first, b.load(p.row(y, r)), _I32(r))
        shift = v.activate(b.fadd(first, bias), code)
        biases, shifts = ([p.splat(x, r) for r in range(p.rows)] for x in (bias, shift))

        def times(weight: Any, term: Any) -> Any:
            return b.fmul(weight, term) if weighted else term

        def activate(r: int, here: list[Any], offset: int, weight: Any) -> list[Any]:
            value = v.activate(b.fadd(v.load(here[0], offset), biases[r]), code)
            v.store(value, here[0], offset)
            return [times(weight, b.fsub(value, shifts[r]))]

        (total,) = p.sums([y], counts, 1, activate, weights)
        samples = p.constant(scalars[0] if weighted else b.sitofp(counts[1], v.scalar), p.narrow)
        center = b.fdiv(total, samples)
        centers = [p.splat(center, r) for r in range(p.rows)]

        def squares(r: int, here: list[Any], offset: int, weight: Any) -> list[Any]:
            e = b.fsub(b.fsub(v.load(here[0], offset), shifts[r]), centers[r])
            return [times(weight, e), times(weight, b.fmul(e, e))]

        rest, square = p.sums([y], counts, 2, squares, weights)
        wide = p.widened(samples)
        correction = b.fdiv(p.widened(rest), wide)
        variance = b.fsub(b.fdiv(p.widened(square), wide), b.fmul(correction, correction))
        p.store(shift, shift_at)
        p.store(p.rounded(b.fadd(p.widened(center), correction)), center_at)
        p.store(variance, variance_at)
        # The squares of float32 numbers leave its range beyond 1e15 and below 1e-15; a feature
        # that is the same for all samples, a dead relu for example, has none.
        zero = p.number(0.0, p.narrow)
        inside = b.or_(
            b.and_(
                b.fcmp_ordered(">", square, p.number(1e-30, p.narrow)),
                b.fcmp_ordered("<", square, p.number(1e30, p.narrow)),
            ),
            b.and_(b.fcmp_ordered("==", square, zero), b.fcmp_ordered("==", total, zero)),
        )
        good = ir.IntType(1)(1)
        for r in range(p.rows):
            good = b.and_(good, b.extract_element(inside, _I32(r)))
        return [b.uitofp(good, v.scalar)]

    return emit


def _emit_normalize(code: int) -> Callable[..., list[Any]]:
    def emit(v: Vectors, pointers: list[Any], counts: list[Any], scalars: list[Any]) -> list[Any]:
        """Emit normalization: pointers are y, out, gamma, beta, shift, center, rstd."""
        y, out, *numbers = pointers
        p = Panel(v)
        gamma, beta, shift, center, rstd = (p.load(pointer, p.narrow) for pointer in numbers)
        factor = v.b.fmul(gamma, rstd)
        held = [[p.splat(x, r) for x in (shift, center, factor, beta)] for r in range(p.rows)]

        def normalize(r: int, here: list[Any], offset: int, weight: Any) -> list[Any]:
            shifts, centers, factors, betas = held[r]
            e = v.b.fsub(v.b.fsub(v.load(here[0], offset), shifts), centers)
            v.store(v.activate(v.muladd(e, factors, betas), code), here[1], offset)
            return []

        p.sums([y, out], counts, 0, normalize)
        return []

    return emit


def _emit_backward(code: int, before: bool, weighted: bool) -> Callable[..., list[Any]]:
    def emit(v: Vectors, pointers: list[Any], counts: list[Any], scalars: list[Any]) -> list[Any]:
        """Emit the backward pass of a panel.

        Pointers are g, y, a, weights, gamma, shift, center, rstd, dgamma, dbeta, dbias; scalars are 1
        where the statistics depend on the batch, 0 where they are constants, and the sum of weights.
        """
        g, y, a, weights_at, gamma_at, shift_at, center_at, rstd_at, dgamma_at, dbeta_at, dbias_at = pointers
        b, p = v.b, Panel(v)
        gamma, shift, center, rstd = (
            p.load(pointer, p.narrow) for pointer in (gamma_at, shift_at, center_at, rstd_at)
        )
        shifts, centers = ([p.splat(x, r) for r in range(p.rows)] for x in (shift, center))

        def moments(r: int, here: list[Any], offset: int, weight: Any) -> list[Any]:
            gradient = v.load(here[0], offset)
            if before:
                gradient = v.derive(gradient, v.load(here[2], offset), code)
                v.store(gradient, here[0], offset)
            e = b.fsub(b.fsub(v.load(here[1], offset), shifts[r]), centers[r])
            return [gradient, b.fmul(gradient, e)]

        dbeta, moment = p.sums([g, y, a] if before else [g, y], counts, 2, moments)
        dgamma = b.fmul(moment, rstd)
        total = scalars[1] if weighted else b.sitofp(counts[1], v.scalar)
        share = b.fdiv(p.constant(scalars[0], p.narrow), p.constant(total, p.narrow))
        factor, mean = b.fmul(gamma, rstd), b.fmul(dbeta, share)
        slope = b.fmul(b.fmul(dgamma, share), rstd)
        held = [[p.splat(x, r) for x in (factor, mean, slope)] for r in range(p.rows)]

        def backward(r: int, here: list[Any], offset: int, weight: Any) -> list[Any]:
            factors, means, slopes = held[r]
            value = v.load(here[1], offset)
            e = b.fsub(b.fsub(value, shifts[r]), centers[r])
            gradient = v.load(here[0], offset)
            if weighted:  # a sample's part in the statistics is its weight
                gradient = b.fsub(gradient, b.fmul(weight, v.muladd(e, slopes, means)))
            else:
                gradient = b.fsub(b.fsub(gradient, means), b.fmul(e, slopes))
            gradient = b.fmul(factors, gradient)
            if not before:
                gradient = v.derive(gradient, value, code)
            v.store(gradient, here[0], offset)
            return [gradient]

        (dbias,) = p.sums([g, y], counts, 1, backward, weights_at if weighted else None)
        for value, pointer in ((dgamma, dgamma_at), (dbeta, dbeta_at), (dbias, dbias_at)):
            p.store(value, pointer)
        return []

    return emit


def _emit_softmax(v: Vectors, rows: list[Any], counts: list[Any], scalars: list[Any]) -> list[Any]:
    """Rows are z, g, the largest z and the sum of exponentials; `stride` separates outputs, n counts them."""
    b = v.b
    stride, n = counts
    inverse = v.splat(scalars[0])
    z, g, top_row, sum_row = rows

    def over_outputs(pointers: list[Any], start: Any, turn_body: Callable[..., Any]) -> Any:
        function, before = b.function, b.block
        head, inside, done = (function.append_basic_block(name) for name in ("head", "inside", "done"))
        b.branch(head)
        b.position_at_end(head)
        turn, held = b.phi(_I64), b.phi(v.kind)
        here = [b.phi(pointer.type) for pointer in pointers]
        for phi, value in zip([turn, held, *here], [_I64(0), start, *pointers], strict=True):
            phi.add_incoming(value, before)
        b.cbranch(b.icmp_signed("<", turn, n), inside, done)
        b.position_at_end(inside)
        value = turn_body(here, held)
        turn.add_incoming(b.add(turn, _I64(1)), b.block)
        held.add_incoming(value, b.block)
        for phi in here:
            phi.add_incoming(b.gep(phi, [stride], inbounds=True), b.block)
        b.branch(head)
        b.position_at_end(done)
        return held

    for offset in range(0, v.width, v.lanes):

        def larger(here: list[Any], held: Any, offset: int = offset) -> Any:
            value = v.load(here[0], offset)
            return b.select(b.fcmp_ordered(">", value, held), value, held)

        top = over_outputs([z], v.load(z, offset), larger)

        def exponential(here: list[Any], held: Any, offset: int = offset, top: Any = top) -> Any:
            # `top` is the largest
            e = v.apply(simd.exp_below, b.fsub(v.load(here[0], offset), top))
            v.store(e, here[1], offset)
            return b.fadd(held, e)

        total = over_outputs([z, g], v.zero, exponential)
        factor = b.fdiv(inverse, total)

        def scaled(here: list[Any], held: Any, offset: int = offset, factor: Any = factor) -> Any:
            v.store(b.fmul(v.load(here[0], offset), factor), here[0], offset)
            return held

        over_outputs([g], v.zero, scaled)
        v.store(top, top_row, offset)
        v.store(total, sum_row, offset)
    return []


def _call(kind: str, arrays: list[tuple[Any, int]], *, inside: bool = False) -> Any:
    """Make the intrinsic ``kernel(place, array, offsets..., ..., integers..., scalars...)``.

    `arrays` lists the types of the arrays and how many offsets follow each.  `place` is the address
    of the kernel; one that stands `inside` the calling module has none.
    """
    value = arrays[0][0].dtype
    shape = _SHAPES[kind]
    kinds: list[Any] = [] if inside else [types.int64]
    for array, count in arrays:
        kinds += [array] + [types.int64] * count
    kinds += [types.int64] * shape.integers + [value] * shape.scalars
    signature = (value if shape.results else types.void)(*kinds)
    dtype = np.dtype(str(value))

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointers: list[Any] = []
        at = 0 if inside else 1
        scalar = scalar_type(dtype)
        for array, count in arrays:
            for k in range(count):
                place = data_at(context, builder, array, args[at], args[at + 1 + k])
                pointers.append(builder.bitcast(place, scalar.as_pointer()))
            at += 1 + count
        if inside:
            name = f"nbnorm_row_{kind}_{dtype}"
            function = builder.module.globals.get(name)
            if function is None:
                function = _write(builder.module, name, shape, dtype, _emit_softmax)
                function.linkage = "linkonce_odr"
                function.attributes.add("noinline")
        else:
            function = builder.inttoptr(args[0], shape.signature(scalar).as_pointer())
        result = builder.call(function, [*pointers, *args[at:]])
        return result if shape.results else context.get_dummy_value()

    return signature, codegen


if config.DISABLE_JIT:

    def _at(x: Any, i: int, stride: int, n: int) -> Any:
        """Return the indices of the samples of a row."""
        width = tile(x.dtype).width
        b = np.arange(n)
        return i + b // width * stride + b % width

    def _f(z: Any, code: Any) -> Any:
        if isinstance(code, activations.Activation):
            return activations.activation_forward(z, code)
        return _FUNCTIONS[code].value(z)

    def _df(f: Any, code: Any) -> Any:
        if isinstance(code, activations.Activation):
            return activations.activation_backward(np.ones_like(f), f, code, z=f)
        return _FUNCTIONS[code].slope(f)

    def activate_row(place: int, x: Any, i: int, z: int, stride: int, n: int, bias: Any) -> None:
        """Replace row i by ``f(row + bias)``; row z keeps ``row + bias`` where f' needs it."""
        _, code, _ = _leaves.piece_at(place)
        places = _at(x, i, stride, n)
        values = x[places] + bias
        if code not in FROM_VALUE:
            x[_at(x, z, stride, n)] = values
        x[places] = _f(values, code)

    def derive_row(place: int, x: Any, i: int, j: int, stride: int, n: int) -> Any:
        """Multiply row i by f', in terms of f or z in row j; return its sum."""
        _, code, _ = _leaves.piece_at(place)
        places = _at(x, i, stride, n)
        x[places] *= _df(x[_at(x, j, stride, n)], code)
        return x[places].sum()

    def drop_row(
        place: int, x: Any, i: int, j: int, stride: int, n: int, key: int, threshold: int, scale: Any
    ) -> None:
        """Write row i to row j, each element dropped or scaled."""
        bits = np.arange(n, dtype=np.uint32) * np.uint32(0x9E3779B9) ^ np.uint32(key & 0xFFFFFFFF)
        for shift, factor in _MIX:
            bits = (bits ^ (bits >> np.uint32(shift))) * np.uint32(factor)
        bits ^= bits >> np.uint32(15)
        values = x[_at(x, i, stride, n)] * scale
        x[_at(x, j, stride, n)] = np.where(bits < np.uint32(threshold), 0, values)

    def softmax_rows(x: Any, z: int, g: int, top: int, total: int, stride: int, n: int, inverse: Any) -> None:
        """Softmax of one piece of samples over `n` outputs, times `inverse`, into g."""
        width = tile(x.dtype).width
        places = np.arange(n)[:, None] * stride + np.arange(width)
        logits = x[z + places]
        best = logits.max(axis=0)
        e = np.exp(logits - best)
        x[g + places] = e * (inverse / e.sum(axis=0))
        x[top : top + width], x[total : total + width] = best, e.sum(axis=0)

    def _panel(x: Any, i: int, stride: int, n: int) -> Any:
        """Return the indices of the samples of all rows of a panel."""
        return np.array([_at(x, i + r * tile(x.dtype).width, stride, n) for r in range(tile(x.dtype).rows)])

    def _weights(place: int, x: Any, weights: int, n: int) -> Any:
        """Return the weights of the samples as the kernel at `place` takes them."""
        return x[weights : weights + n] if _leaves.piece_at(place)[2] else np.ones(n, x.dtype)

    def panel_statistics(
        place: int, x: Any, y: int, weights: int, vector: Any, bias: int, saved: Any, shift: int,
        center: int, variance: Any, v: int, stride: int, n: int, total: Any,
    ) -> Any:  # fmt: skip
        """Write ``f(y + bias)`` to y and the moments of its rows; return 0 if float32 could not hold them."""
        rows, places, w = tile(x.dtype).rows, _panel(x, y, stride, n), _weights(place, x, weights, n)
        values = _f(x[places] + vector[bias : bias + rows, None], _leaves.piece_at(place)[1])
        x[places] = values
        shifts = values[:, 0].copy()
        d = values - shifts[:, None]
        centers = np.average(d, axis=1, weights=w)
        e = (d - centers[:, None]).astype(np.float64)
        rest = np.average(e, axis=1, weights=w)
        saved[shift : shift + rows] = shifts
        saved[center : center + rows] = centers + rest
        variance[v : v + rows] = np.average(e * e, axis=1, weights=w) - rest**2
        return 1.0

    def panel_normalize(
        place: int, x: Any, y: int, a: int, vector: Any, gamma: int, beta: int, saved: Any, shift: int,
        center: int, rstd: int, stride: int, n: int,
    ) -> None:  # fmt: skip
        """Write ``f(gamma * xhat + beta)`` of the rows at y to the rows at a."""
        rows = tile(x.dtype).rows
        g, b = vector[gamma : gamma + rows, None], vector[beta : beta + rows, None]
        s, c, r = (saved[k : k + rows, None] for k in (shift, center, rstd))
        values = ((x[_panel(x, y, stride, n)] - s) - c) * (g * r) + b
        x[_panel(x, a, stride, n)] = _f(values, _leaves.piece_at(place)[1])

    def panel_backward(
        place: int, x: Any, g: int, y: int, a: int, weights: int, vector: Any, gamma: int, saved: Any,
        shift: int, center: int, rstd: int, out: Any, dgamma: int, dbeta: int, dbias: int, stride: int,
        n: int, batch: Any, total: Any,
    ) -> None:  # fmt: skip
        """Turn the gradient at g from the output to z; `batch` is 0 where the statistics are constants."""
        kind, code, _ = _leaves.piece_at(place)
        rows, w = tile(x.dtype).rows, _weights(place, x, weights, n)
        places, values = _panel(x, g, stride, n), x[_panel(x, y, stride, n)]
        s, c, r = (saved[k : k + rows, None] for k in (shift, center, rstd))
        gradient, xhat = x[places], ((values - s) - c) * r
        if kind == "before":
            gradient = gradient * _df(x[_panel(x, a, stride, n)], code)
        out[dbeta : dbeta + rows] = gradient.sum(axis=1)
        out[dgamma : dgamma + rows] = (gradient * xhat).sum(axis=1)
        mean, slope = (batch / w.sum() * out[k : k + rows, None] for k in (dbeta, dgamma))
        gradient = vector[gamma : gamma + rows, None] * r * (gradient - w * (mean + xhat * slope))
        x[places] = gradient if kind == "before" else gradient * _df(values, code)
        out[dbias : dbias + rows] = x[places].sum(axis=1)

else:

    @intrinsic
    def activate_row(
        typingctx: Any, place: Any, x: Any, i: Any, z: Any, stride: Any, n: Any, bias: Any
    ) -> Any:
        """Replace row i by ``f(row + bias)``; row z keeps ``row + bias`` where f' needs it."""
        return _call("activate", [(x, 2)])

    @intrinsic
    def derive_row(typingctx: Any, place: Any, x: Any, i: Any, j: Any, stride: Any, n: Any) -> Any:
        """Multiply row i by f', in terms of f or z in row j; return its sum."""
        return _call("derive", [(x, 2)])

    @intrinsic
    def drop_row(
        typingctx: Any, place: Any, x: Any, i: Any, j: Any, stride: Any, n: Any, key: Any, threshold: Any,
        scale: Any,
    ) -> Any:  # fmt: skip
        """Write row i to row j, each element dropped or scaled."""
        return _call("drop", [(x, 2)])

    @intrinsic
    def softmax_rows(
        typingctx: Any, x: Any, z: Any, g: Any, top: Any, total: Any, stride: Any, n: Any, inverse: Any
    ) -> Any:
        """Softmax of one piece of samples over `n` outputs, times `inverse`, into g."""
        return _call("softmax", [(x, 4)], inside=True)

    @intrinsic
    def panel_statistics(
        typingctx: Any, place: Any, x: Any, y: Any, weights: Any, vector: Any, bias: Any, saved: Any,
        shift: Any, center: Any, variance: Any, v: Any, stride: Any, n: Any, total: Any,
    ) -> Any:  # fmt: skip
        """Write ``f(y + bias)`` to y and the moments of its rows; return 0 if float32 could not hold them."""
        return _call("statistics", [(x, 2), (vector, 1), (saved, 2), (variance, 1)])

    @intrinsic
    def panel_normalize(
        typingctx: Any, place: Any, x: Any, y: Any, a: Any, vector: Any, gamma: Any, beta: Any, saved: Any,
        shift: Any, center: Any, rstd: Any, stride: Any, n: Any,
    ) -> Any:  # fmt: skip
        """Write ``f(gamma * xhat + beta)`` of the rows at y to the rows at a."""
        return _call("normalize", [(x, 2), (vector, 2), (saved, 3)])

    @intrinsic
    def panel_backward(
        typingctx: Any, place: Any, x: Any, g: Any, y: Any, a: Any, weights: Any, vector: Any, gamma: Any,
        saved: Any, shift: Any, center: Any, rstd: Any, out: Any, dgamma: Any, dbeta: Any, dbias: Any,
        stride: Any, n: Any, batch: Any, total: Any,
    ) -> Any:  # fmt: skip
        """Turn the gradient at g from the output to z; `batch` is 0 where the statistics are constants."""
        return _call("backward", [(x, 4), (vector, 1), (saved, 3), (out, 3)])
