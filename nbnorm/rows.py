"""Vector kernels of the training engine over one blocked row: one feature, all samples of a batch.

A row stands in pieces of ``width`` samples, ``stride`` elements apart (see `nbnorm.engine`).  The
last piece may hold fewer than ``width`` samples: everything is computed for whole pieces, but sums
leave the other lanes out.

Compiled loops over the one array in which all features stand would first have to find out at run
time that their pieces do not overlap; these kernels are written in vectors from the beginning.
Sums are made in a fixed order: lane by lane over the pieces, then halves of lanes onto halves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

from nbnorm import activations
from nbnorm.activations import IDENTITY, RELU, SIGMOID, TANH
from nbnorm.simd import data_at, tile

_I64 = ir.IntType(64)
_I32 = ir.IntType(32)
_CODES = (IDENTITY, RELU, SIGMOID, TANH)


class Vectors:
    """Vector instructions for one element type in one function under construction."""

    def __init__(self, builder: Any, dtype: Any) -> None:
        self.b = builder
        self.shape = tile(np.float32 if dtype == types.float32 else np.float64)
        self.lanes, self.width = self.shape.lanes, self.shape.width
        self.scalar = ir.FloatType() if dtype == types.float32 else ir.DoubleType()
        self.kind = ir.VectorType(self.scalar, self.lanes)
        self.zero = ir.Constant(self.kind, None)
        self.one = ir.Constant(self.kind, [1.0] * self.lanes)

    def splat(self, value: Any) -> Any:
        """Vector with `value` in every lane."""
        kind = ir.VectorType(value.type, self.lanes)
        undefined = ir.Constant(kind, ir.Undefined)
        first = self.b.insert_element(undefined, value, _I32(0))
        return self.b.shuffle_vector(
            first, undefined, ir.Constant(ir.VectorType(_I32, self.lanes), [0] * self.lanes)
        )

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

    def activate(self, z: Any, code: int) -> Any:
        """Value f(z), for a vector of any length."""
        if code == RELU:  # the comparison lets NaN pass
            zero = ir.Constant(z.type, None)
            return self.b.select(self.b.fcmp_ordered("<", z, zero), zero, z)
        if code in (SIGMOID, TANH):
            arithmetic = activations.Arithmetic(self.b, z.type)
            return arithmetic.sigmoid(z) if code == SIGMOID else arithmetic.tanh(z)
        return z

    def derive(self, gradient: Any, value: Any, code: int) -> Any:
        """``gradient * f'``, with f' in terms of the value f."""
        if code == RELU:
            return self.b.select(self.b.fcmp_ordered(">", value, self.zero), gradient, self.zero)
        if code == SIGMOID:
            return self.b.fmul(gradient, self.b.fmul(value, self.b.fsub(self.one, value)))
        if code == TANH:
            return self.b.fmul(gradient, self.b.fsub(self.one, self.b.fmul(value, value)))
        return gradient

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
    stride: Any,
    n: Any,
    sums: int,
    body: Callable[..., list[Any]],
    *,
    lanes_too: bool = True,
) -> list[Any]:
    """Emit the loop over the pieces of rows; return the sums over the `n` samples.

    Each sum is a scalar, or without `lanes_too` a vector whose lanes are still to be added.
    """
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
    for phi in here:
        phi.add_incoming(b.gep(phi, [stride], inbounds=True), b.block)
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


def _function(
    module: Any, dtype: Any, name: str, rows: int, scalars: int, results: int, emit: Callable[..., list[Any]]
) -> Any:
    """Return the function ``name(rows..., stride, n, scalars...)``, emitted once per module.

    ``emit(v, rows, stride, n, scalars)`` writes the body and returns the scalars to be returned.
    """
    full = f"nbnorm_row_{name}_{dtype}"
    function = module.globals.get(full)
    if function is not None:
        return function
    scalar = ir.FloatType() if dtype == types.float32 else ir.DoubleType()
    result = ir.LiteralStructType([scalar] * results) if results else ir.VoidType()
    kinds = [scalar.as_pointer()] * rows + [_I64, _I64] + [scalar] * scalars
    function = ir.Function(module, ir.FunctionType(result, kinds), full)
    function.linkage = "linkonce_odr"
    function.attributes.add("noinline")
    function.attributes.add("nounwind")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    v = Vectors(builder, dtype)
    args = list(function.args)
    got = emit(v, args[:rows], args[rows], args[rows + 1], args[rows + 2 :])
    if not results:
        builder.ret_void()
        return function
    value = ir.Constant(result, ir.Undefined)
    for place, item in enumerate(got):
        value = builder.insert_value(value, item, place)
    builder.ret(value)
    return function


def _emit_activate(code: int) -> Callable[..., list[Any]]:
    def emit(v: Vectors, rows: list[Any], stride: Any, n: Any, scalars: list[Any]) -> list[Any]:
        bias = v.splat(scalars[0])

        def body(here: list[Any], offset: int) -> list[Any]:
            v.store(v.activate(v.b.fadd(v.load(here[0], offset), bias), code), here[0], offset)
            return []

        return _loop(v, rows, stride, n, 0, body)

    return emit


def _emit_derive(code: int) -> Callable[..., list[Any]]:
    def emit(v: Vectors, rows: list[Any], stride: Any, n: Any, scalars: list[Any]) -> list[Any]:
        def body(here: list[Any], offset: int) -> list[Any]:
            g = v.derive(v.load(here[0], offset), v.load(here[1], offset), code)
            v.store(g, here[0], offset)
            return [g]

        return _loop(v, rows, stride, n, 1, body)

    return emit


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
        self, pointers: list[Any], stride: Any, n: Any, count: int, body: Callable[..., list[Any]]
    ) -> list[Any]:
        """Loop over the samples; return `count` narrow vectors of sums.

        ``body(r, here, offset)`` works on one vector of row r, with `here` the addresses that belong
        to `pointers`, and returns `count` vectors to be added up.
        """
        held: list[list[Any]] = [[] for _ in range(count)]
        for group in self.groups:
            starts = [self.row(pointer, r) for r in group for pointer in pointers]

            def each(here: list[Any], offset: int, group: range = group) -> list[Any]:
                terms = []
                for k, r in enumerate(group):
                    terms += body(r, here[k * len(pointers) : (k + 1) * len(pointers)], offset)
                return terms

            got = _loop(self.v, starts, stride, n, count * len(group), each, lanes_too=False)
            for k in range(len(group)):
                for c in range(count):
                    held[c].append(got[k * count + c])
        return [self.totals(vectors) for vectors in held]


def _emit_panel_statistics(code: int) -> Callable[..., list[Any]]:
    def emit(v: Vectors, pointers: list[Any], stride: Any, n: Any, scalars: list[Any]) -> list[Any]:
        """Emit activation and moments: pointers are y, bias, shift, center, variance."""
        y, bias_at, shift_at, center_at, variance_at = pointers
        b, p = v.b, Panel(v)
        bias = p.load(bias_at, p.narrow)
        first = ir.Constant(p.narrow, ir.Undefined)
        for r in range(p.rows):
            first = b.insert_element(first, b.load(p.row(y, r)), _I32(r))
        shift = v.activate(b.fadd(first, bias), code)
        biases, shifts = ([p.splat(x, r) for r in range(p.rows)] for x in (bias, shift))

        def activate(r: int, here: list[Any], offset: int) -> list[Any]:
            value = v.activate(b.fadd(v.load(here[0], offset), biases[r]), code)
            v.store(value, here[0], offset)
            return [b.fsub(value, shifts[r])]

        (total,) = p.sums([y], stride, n, 1, activate)
        samples = p.constant(b.sitofp(n, v.scalar), p.narrow)
        center = b.fdiv(total, samples)
        centers = [p.splat(center, r) for r in range(p.rows)]

        def squares(r: int, here: list[Any], offset: int) -> list[Any]:
            e = b.fsub(b.fsub(v.load(here[0], offset), shifts[r]), centers[r])
            return [e, b.fmul(e, e)]

        rest, square = p.sums([y], stride, n, 2, squares)
        wide = p.constant(b.sitofp(n, ir.DoubleType()), p.wide)
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


def _emit_panel_normalize(code: int) -> Callable[..., list[Any]]:
    def emit(v: Vectors, pointers: list[Any], stride: Any, n: Any, scalars: list[Any]) -> list[Any]:
        """Emit normalization: pointers are y, out, gamma, beta, shift, center, rstd."""
        y, out, *numbers = pointers
        p = Panel(v)
        gamma, beta, shift, center, rstd = (p.load(pointer, p.narrow) for pointer in numbers)
        factor = v.b.fmul(gamma, rstd)
        held = [[p.splat(x, r) for x in (shift, center, factor, beta)] for r in range(p.rows)]

        def normalize(r: int, here: list[Any], offset: int) -> list[Any]:
            shifts, centers, factors, betas = held[r]
            e = v.b.fsub(v.b.fsub(v.load(here[0], offset), shifts), centers)
            v.store(v.activate(v.muladd(e, factors, betas), code), here[1], offset)
            return []

        p.sums([y, out], stride, n, 0, normalize)
        return []

    return emit


def _emit_panel_backward(code: int, before: bool) -> Callable[..., list[Any]]:
    def emit(v: Vectors, pointers: list[Any], stride: Any, n: Any, scalars: list[Any]) -> list[Any]:
        """Emit the backward pass: pointers are g, y, a, gamma, shift, center, rstd, dgamma, dbeta, dbias."""
        g, y, a, gamma_at, shift_at, center_at, rstd_at, dgamma_at, dbeta_at, dbias_at = pointers
        b, p = v.b, Panel(v)
        gamma, shift, center, rstd = (
            p.load(pointer, p.narrow) for pointer in (gamma_at, shift_at, center_at, rstd_at)
        )
        shifts, centers = ([p.splat(x, r) for r in range(p.rows)] for x in (shift, center))

        def moments(r: int, here: list[Any], offset: int) -> list[Any]:
            gradient = v.load(here[0], offset)
            if before:
                gradient = v.derive(gradient, v.load(here[2], offset), code)
                v.store(gradient, here[0], offset)
            e = b.fsub(b.fsub(v.load(here[1], offset), shifts[r]), centers[r])
            return [gradient, b.fmul(gradient, e)]

        dbeta, moment = p.sums([g, y, a] if before else [g, y], stride, n, 2, moments)
        dgamma = b.fmul(moment, rstd)
        # scalars[0] is 1 where the statistics depend on the batch, 0 where they are constants
        share = b.fdiv(p.constant(scalars[0], p.narrow), p.constant(b.sitofp(n, v.scalar), p.narrow))
        factor, mean = b.fmul(gamma, rstd), b.fmul(dbeta, share)
        slope = b.fmul(b.fmul(dgamma, share), rstd)
        held = [[p.splat(x, r) for x in (factor, mean, slope)] for r in range(p.rows)]

        def backward(r: int, here: list[Any], offset: int) -> list[Any]:
            factors, means, slopes = held[r]
            value = v.load(here[1], offset)
            e = b.fsub(b.fsub(value, shifts[r]), centers[r])
            gradient = b.fsub(b.fsub(v.load(here[0], offset), means), b.fmul(e, slopes))
            gradient = b.fmul(factors, gradient)
            if not before:
                gradient = v.derive(gradient, value, code)
            v.store(gradient, here[0], offset)
            return [gradient]

        (dbias,) = p.sums([g, y], stride, n, 1, backward)
        for value, pointer in ((dgamma, dgamma_at), (dbeta, dbeta_at), (dbias, dbias_at)):
            p.store(value, pointer)
        return []

    return emit


def _emit_softmax(v: Vectors, rows: list[Any], stride: Any, n: Any, scalars: list[Any]) -> list[Any]:
    """Rows are z, g, the largest z and the sum of exponentials; `stride` separates outputs, n counts them."""
    b = v.b
    inverse = v.splat(scalars[0])
    z, g, top_row, sum_row = rows
    arithmetic = activations.Arithmetic(b, v.kind)

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
            e = arithmetic.exp(b.fsub(v.load(here[0], offset), top))
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


def _call(name: str, emitters: Any, arrays: list[tuple[Any, int]], scalars: int, results: int) -> Any:
    """Make the intrinsic ``name(array, offsets..., ..., stride, n, scalars..., [case])``.

    `arrays` lists the types of the arrays and how many offsets follow each; ``emitters[case]`` writes
    the function for one value of the last argument, which is left out where there is only one.
    """
    value = arrays[0][0].dtype
    kinds: list[Any] = []
    for array, count in arrays:
        kinds += [array] + [types.int64] * count
    kinds += [types.int64] * 2 + [value] * scalars + [types.int64] * (len(emitters) > 1)
    signature = (value if results else types.void)(*kinds)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointers: list[Any] = []
        at = 0
        scalar = ir.FloatType() if value == types.float32 else ir.DoubleType()
        for array, count in arrays:
            for k in range(count):
                place = data_at(context, builder, array, args[at], args[at + 1 + k])
                pointers.append(builder.bitcast(place, scalar.as_pointer()))
            at += 1 + count
        after = builder.append_basic_block("done")
        blocks = [builder.append_basic_block(f"case{case}") for case in range(len(emitters))]
        switch = builder.switch(args[-1] if len(blocks) > 1 else _I64(0), blocks[0])
        outcomes = []
        for case, block in enumerate(blocks):
            if case:
                switch.add_case(_I64(case), block)
            builder.position_at_end(block)
            function = _function(
                builder.module, value, f"{name}_{case}", len(pointers), scalars, results, emitters[case]
            )
            outcomes.append(builder.call(function, [*pointers, *args[at : at + 2 + scalars]]))
            builder.branch(after)
        builder.position_at_end(after)
        if not results:
            return context.get_dummy_value()
        result = builder.phi(outcomes[0].type)
        for outcome, block in zip(outcomes, blocks, strict=True):
            result.add_incoming(outcome, block)
        return builder.extract_value(result, 0)

    return signature, codegen


if config.DISABLE_JIT:

    def _at(x: Any, i: int, stride: int, n: int) -> Any:
        """Return the indices of the samples of a row."""
        width = tile(x.dtype).width
        b = np.arange(n)
        return i + b // width * stride + b % width

    def _f(z: Any, code: int) -> Any:
        if code == RELU:
            return np.where(z < 0, 0, z)
        if code == SIGMOID:
            return 1 / (1 + np.exp(-z))
        return np.tanh(z) if code == TANH else z

    def _df(f: Any, code: int) -> Any:
        if code == RELU:
            return f > 0
        if code == SIGMOID:
            return f * (1 - f)
        return 1 - f * f if code == TANH else np.ones_like(f)

    def activate_row(x: Any, i: int, stride: int, n: int, bias: Any, code: int) -> None:
        """Replace row i by ``f(row + bias)``."""
        places = _at(x, i, stride, n)
        x[places] = _f(x[places] + bias, code)

    def derive_row(x: Any, i: int, j: int, stride: int, n: int, code: int) -> Any:
        """Multiply row i by f', in terms of f in row j; return its sum."""
        places = _at(x, i, stride, n)
        x[places] *= _df(x[_at(x, j, stride, n)], code)
        return x[places].sum()

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

    def panel_statistics(
        x: Any, y: int, vector: Any, bias: int, saved: Any, shift: int, center: int, variance: Any, v: int,
        stride: int, n: int, code: int,
    ) -> Any:  # fmt: skip
        """Write ``f(y + bias)`` to y and the moments of its rows; return 0 if float32 could not hold them."""
        rows, places = tile(x.dtype).rows, _panel(x, y, stride, n)
        values = _f(x[places] + vector[bias : bias + rows, None], code)
        x[places] = values
        shifts = values[:, 0].copy()
        d = values - shifts[:, None]
        centers = d.mean(axis=1)
        e = (d - centers[:, None]).astype(np.float64)
        saved[shift : shift + rows] = shifts
        saved[center : center + rows] = centers + e.mean(axis=1)
        variance[v : v + rows] = (e * e).mean(axis=1) - e.mean(axis=1) ** 2
        return 1.0

    def panel_normalize(
        x: Any, y: int, a: int, vector: Any, gamma: int, beta: int, saved: Any, shift: int, center: int,
        rstd: int, stride: int, n: int, code: int,
    ) -> None:  # fmt: skip
        """Write ``f(gamma * xhat + beta)`` of the rows at y to the rows at a."""
        rows = tile(x.dtype).rows
        g, b = vector[gamma : gamma + rows, None], vector[beta : beta + rows, None]
        s, c, r = (saved[k : k + rows, None] for k in (shift, center, rstd))
        x[_panel(x, a, stride, n)] = _f(((x[_panel(x, y, stride, n)] - s) - c) * (g * r) + b, code)

    def panel_backward(
        x: Any, g: int, y: int, a: int, vector: Any, gamma: int, saved: Any, shift: int, center: int,
        rstd: int, out: Any, dgamma: int, dbeta: int, dbias: int, stride: int, n: int, batch: Any, case: int,
    ) -> None:  # fmt: skip
        """Turn the gradient at g from the output to z; `batch` is 0 where the statistics are constants."""
        rows, code, before = tile(x.dtype).rows, case % len(_CODES), case >= len(_CODES)
        places, values = _panel(x, g, stride, n), x[_panel(x, y, stride, n)]
        s, c, r = (saved[k : k + rows, None] for k in (shift, center, rstd))
        gradient, xhat = x[places], ((values - s) - c) * r
        if before:
            gradient = gradient * _df(x[_panel(x, a, stride, n)], code)
        out[dbeta : dbeta + rows] = gradient.sum(axis=1)
        out[dgamma : dgamma + rows] = (gradient * xhat).sum(axis=1)
        mean, slope = (batch / n * out[k : k + rows, None] for k in (dbeta, dgamma))
        gradient = vector[gamma : gamma + rows, None] * r * (gradient - mean - xhat * slope)
        x[places] = gradient if before else gradient * _df(values, code)
        out[dbias : dbias + rows] = x[places].sum(axis=1)

else:

    @intrinsic
    def activate_row(typingctx: Any, x: Any, i: Any, stride: Any, n: Any, bias: Any, code: Any) -> Any:
        """Replace row i by ``f(row + bias)``."""
        return _call("activate", [_emit_activate(code) for code in _CODES], [(x, 1)], 1, 0)

    @intrinsic
    def derive_row(typingctx: Any, x: Any, i: Any, j: Any, stride: Any, n: Any, code: Any) -> Any:
        """Multiply row i by f', in terms of f in row j; return its sum."""
        return _call("derive", [_emit_derive(code) for code in _CODES], [(x, 2)], 0, 1)

    @intrinsic
    def softmax_rows(
        typingctx: Any, x: Any, z: Any, g: Any, top: Any, total: Any, stride: Any, n: Any, inverse: Any
    ) -> Any:
        """Softmax of one piece of samples over `n` outputs, times `inverse`, into g."""
        return _call("softmax", [_emit_softmax], [(x, 4)], 1, 0)

    @intrinsic
    def panel_statistics(
        typingctx: Any, x: Any, y: Any, vector: Any, bias: Any, saved: Any, shift: Any, center: Any,
        variance: Any, v: Any, stride: Any, n: Any, code: Any,
    ) -> Any:  # fmt: skip
        """Write ``f(y + bias)`` to y and the moments of its rows; return 0 if float32 could not hold them."""
        emitters = [_emit_panel_statistics(code) for code in _CODES]
        arrays = [(x, 1), (vector, 1), (saved, 2), (variance, 1)]
        return _call("panel_statistics", emitters, arrays, 0, 1)

    @intrinsic
    def panel_normalize(
        typingctx: Any, x: Any, y: Any, a: Any, vector: Any, gamma: Any, beta: Any, saved: Any, shift: Any,
        center: Any, rstd: Any, stride: Any, n: Any, code: Any,
    ) -> Any:  # fmt: skip
        """Write ``f(gamma * xhat + beta)`` of the rows at y to the rows at a."""
        emitters = [_emit_panel_normalize(code) for code in _CODES]
        return _call("panel_normalize", emitters, [(x, 2), (vector, 2), (saved, 3)], 0, 0)

    @intrinsic
    def panel_backward(
        typingctx: Any, x: Any, g: Any, y: Any, a: Any, vector: Any, gamma: Any, saved: Any, shift: Any,
        center: Any, rstd: Any, out: Any, dgamma: Any, dbeta: Any, dbias: Any, stride: Any, n: Any,
        batch: Any, case: Any,
    ) -> Any:  # fmt: skip
        """Turn the gradient at g from the output to z; `batch` is 0 where the statistics are constants."""
        emitters = [_emit_panel_backward(code, before) for before in (False, True) for code in _CODES]
        arrays = [(x, 3), (vector, 1), (saved, 3), (out, 3)]
        return _call("panel_backward", emitters, arrays, 1, 0)
