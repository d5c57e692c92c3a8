"""Reading a mini-batch where the data lie: gathered, converted, standardized and blocked at once.

Rows of the table are samples; in the engine's input (see `nbnorm.engine.run`) samples stand side by
side.  Squares of as many samples and features as a tile has rows are therefore transposed in
registers, between the conversion to floating point and the store.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import config, types
from numba.extending import intrinsic

from nbnorm.compile import pointers
from nbnorm.compile.kernels import inner_kernel
from nbnorm.engine.microkernels import (
    PEEK_DTYPES,
    data_at,
    emit_prefetch,
    get,
    peek,
    put,
    tile,
    tile_rows,
    tile_width,
    transpose_registers,
)
from nbnorm.engine.thread_pool import share
from nbnorm.statistics import encoding
from nbnorm.statistics.encoding import ColumnEncoder, encode_value

# Places in the engine's `control` array that describe the table.
(
    ADDRESS,  # of the first element
    ROW,  # bytes between rows; of a sparse matrix the address of the rows' ends
    COLUMN,  # bytes between columns; of a sparse matrix the address of the columns' numbers
    KIND,  # index in microkernels.PEEK_DTYPES
    SQUARES,  # address of the kernel that reads contiguous rows by squares, or 0
    READS,
) = range(6)

# Features that are transposed for all samples of a block before the next ones: 16 kB of output.
_STRIP = 128

# Bytes of a batch that waits in the second-level cache, beside what a step of its network needs, until it
# is read; of a larger one only the next square is fetched ahead.
_NEAR = 1 << 18

_I64 = ir.IntType(64)

# Rows of the statistics: the mean in two parts and the reciprocal of the scale, then those of
# `nbnorm.statistics.encoding` where columns are encoded.
_MEAN, _MEAN_LOW, _INVERSE, _ENCODING = range(4)
_SOURCE, _KIND, _EDGE, _SLOPE, _FLOOR, _CEILING = (_ENCODING + row for row in range(encoding.ROWS))


class Data:
    """A table that kernels read where it lies: address, strides and element type.

    Arrays of other element types, or of foreign byte order, are converted once: to a type that holds
    their values, because rounding before the mean is subtracted would cost the digits that matter.

    With an `encoder` the network's input are the encoded columns, which are made as rows are read.
    """

    def __init__(self, x: npt.NDArray[Any], encoder: ColumnEncoder | None = None) -> None:
        if x.dtype == np.bool_:
            x = x.view(np.uint8)
        native = x.dtype.newbyteorder("=")
        if native not in PEEK_DTYPES:
            native = np.dtype(np.float32 if native == np.float16 else np.float64)
        with np.errstate(over="ignore"):  # beyond float64; as anything too large, it is found in the outputs
            x = x.astype(native, copy=False)
        self.array = x  # keeps the memory alive
        self.samples = len(x)
        self.kind = PEEK_DTYPES.index(x.dtype)
        self.address = int(x.__array_interface__["data"][0])
        self.strides = x.strides
        self.encoder = encoder
        self.kernel = gather if encoder is None else gather_encoded
        # small types are standardized in the network's precision, others in double precision
        self.double = self.kind > 1 or encoder is not None

    def rows(self, first: int, last: int) -> npt.NDArray[Any]:
        """Return the network's input of rows [first, last), not standardized."""
        rows = self.array[first:last]
        return rows if self.encoder is None else self.encoder.transform(rows)

    def squares(self, dtype: np.dtype[Any]) -> int:
        """Return the address of the kernel that reads these rows by squares, or 0."""
        if self.encoder is not None or self.kind > 2 or self.strides[1] != self.array.itemsize:
            return 0
        return _squares(str(self.array.dtype), np.dtype(dtype))


class SparseData:
    """A SciPy matrix in compressed rows whose mini-batches, never the whole, become dense."""

    def __init__(self, matrix: Any, encoder: ColumnEncoder | None = None) -> None:
        x = matrix.tocsr(copy=not matrix.has_canonical_format) if matrix.format == "csr" else matrix.tocsr()
        x.sum_duplicates()
        self.arrays = (
            np.ascontiguousarray(x.data, np.float64),
            np.ascontiguousarray(x.indptr, np.int64),
            np.ascontiguousarray(x.indices, np.int64),
        )
        self.samples, self.kind = x.shape[0], 2
        self.address, *ends = (int(a.__array_interface__["data"][0]) for a in self.arrays)
        self.strides = tuple(ends)
        self.encoder, self._columns = encoder, x.shape[1]
        self.kernel = gather_sparse if encoder is None else gather_encoded_sparse
        self.double = True

    def rows(self, first: int, last: int) -> npt.NDArray[Any]:
        """Return the network's input of rows [first, last), dense and not standardized."""
        values, ends, columns = self.arrays
        stored = slice(ends[first], ends[last])
        out = np.zeros((last - first, self._columns))
        out[np.repeat(np.arange(last - first), np.diff(ends[first : last + 1])), columns[stored]] = values[
            stored
        ]
        return out if self.encoder is None else self.encoder.transform(out)

    def squares(self, dtype: np.dtype[Any]) -> int:
        """Return 0: rows are not contiguous."""
        return 0


if config.DISABLE_JIT:

    def peek_any(address: int, offset: int, kind: int) -> Any:
        """Return an element of type ``PEEK_DTYPES[kind]`` as float64."""
        dtype = PEEK_DTYPES[kind]
        return np.float64(np.frombuffer(ctypes.string_at(int(address + offset), dtype.itemsize), dtype)[0])

    def _squares(source: str, dtype: np.dtype[Any]) -> int:
        return pointers.interpreted(source)

    def gather_squares(
        place: int, address: int, stride: int, rows: Any, r: int, following: int, s: Any, first: int,
        steps: int, out: Any, o: int,
    ) -> None:  # fmt: skip
        """Write `steps` squares: as many samples as a tile has rows, features from `first` on."""
        kind = PEEK_DTYPES.index(np.dtype(pointers.piece_at(place)))
        size, width, item = tile(out.dtype).rows, tile(out.dtype).width, PEEK_DTYPES[kind].itemsize
        for i in range(first, first + steps * size):
            for b in range(size):
                x = s.dtype.type(peek_any(address, int(rows[r + b]) * stride + i * item, kind))
                out[o + (i - first) * width + b] = ((x - s[0, i]) - s[1, i]) * s[2, i]

else:

    @intrinsic
    def peek_any(typingctx: Any, address: Any, offset: Any, kind: Any) -> Any:
        """Return an element of type ``PEEK_DTYPES[kind]`` as float64."""

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            base = builder.inttoptr(args[0], ir.IntType(8).as_pointer())
            place = builder.gep(base, [args[1]])
            double = ir.DoubleType()
            after = builder.append_basic_block("peeked")
            blocks = [builder.append_basic_block(str(dtype)) for dtype in PEEK_DTYPES]
            switch = builder.switch(args[2], blocks[0])
            outcomes = []
            for code, (dtype, block) in enumerate(zip(PEEK_DTYPES, blocks, strict=True)):
                if code > 0:
                    switch.add_case(_I64(code), block)
                builder.position_at_end(block)
                if dtype.kind == "f":
                    value_type = ir.FloatType() if dtype.itemsize == 4 else double
                else:
                    value_type = ir.IntType(8 * dtype.itemsize)
                value = builder.load(builder.bitcast(place, value_type.as_pointer()), align=1)
                if dtype.kind == "u":
                    value = builder.uitofp(value, double)
                elif dtype.kind == "i":
                    value = builder.sitofp(value, double)
                elif dtype.itemsize == 4:
                    value = builder.fpext(value, double)
                outcomes.append((value, builder.block))
                builder.branch(after)
            builder.position_at_end(after)
            result = builder.phi(double)
            for value, block in outcomes:
                result.add_incoming(value, block)
            return result

        return types.float64(types.int64, types.int64, types.int64), codegen

    def _element(kind: Any) -> Any:
        return {"float32": ir.FloatType(), "float64": ir.DoubleType(), "uint8": ir.IntType(8)}[str(kind)]

    def _signature(middle: Any, target: Any) -> Any:
        """Type of (address, stride, rows, following, high, low, inverse, first, steps, out)."""
        statistic, result = _element(middle).as_pointer(), _element(target).as_pointer()
        byte, index = ir.IntType(8).as_pointer(), _I64.as_pointer()
        kinds = [byte, _I64, index, index, *[statistic] * 3, _I64, _I64, result]
        return ir.FunctionType(ir.VoidType(), kinds)

    def _squares(source: str, dtype: np.dtype[Any]) -> int:
        """Return the address of the kernel for one type of the table and one of the network."""
        name = f"nbnorm_gather_{source}_{dtype}"
        middle = "float64" if source == "float64" else str(dtype)
        return pointers.emitted(name, lambda module: _emit_squares(module, name, source, middle, str(dtype)))

    def _emit_squares(module: Any, name: str, source: str, middle: str, target: str) -> None:
        shape = tile(np.dtype(target))
        size = shape.rows
        kinds = [ir.VectorType(_element(kind), size) for kind in (source, middle, target)]
        function = ir.Function(module, _signature(middle, target), name)
        function.attributes.add("nounwind")
        address, stride, rows, following, high, low, inverse, first, steps, out = function.args
        item = _I64({"float32": 4, "float64": 8, "uint8": 1}[str(source)])
        b = ir.IRBuilder(function.append_basic_block("entry"))
        begin = b.mul(first, item)
        samples: list[Any] = []
        ahead: list[Any] = []
        for r in range(size):
            for indices, found in ((rows, samples), (following, ahead)):
                index = b.load(b.gep(indices, [_I64(r)], inbounds=True))
                found.append(b.gep(address, [b.add(b.mul(index, stride), begin)]))
        entry = b.block
        head, inside, done = (function.append_basic_block(name) for name in ("head", "inside", "done"))
        b.branch(head)
        b.position_at_end(head)
        turn = b.phi(_I64)
        turn.add_incoming(_I64(0), entry)
        b.cbranch(b.icmp_signed("<", turn, steps), inside, done)
        b.position_at_end(inside)
        skipped = b.mul(turn, _I64(size))
        at = b.add(first, skipped)

        def vector(pointer: Any, index: Any, kind: Any) -> Any:
            place = b.bitcast(b.gep(pointer, [index], inbounds=True), kind.as_pointer())
            return b.load(place, align=1)

        shifts, rests, factors = (vector(pointer, at, kinds[1]) for pointer in (high, low, inverse))
        # Rows stand anywhere in memory: those of the next square are on their way meanwhile.
        for sample in ahead:
            emit_prefetch(b, b.gep(sample, [b.mul(skipped, item)]), 1)
        values = []
        for sample in samples:
            x = vector(sample, b.mul(skipped, item), kinds[0])
            if str(source) == "uint8":
                x = b.uitofp(x, kinds[1])
            elif source != middle:
                x = b.fpext(x, kinds[1])
            x = b.fmul(b.fsub(b.fsub(x, shifts), rests), factors)
            values.append(x if middle == target else b.fptrunc(x, kinds[2]))
        for r, value in enumerate(transpose_registers(b, values)):
            index = b.mul(b.add(skipped, _I64(r)), _I64(shape.width))
            place = b.bitcast(b.gep(out, [index], inbounds=True), kinds[2].as_pointer())
            b.store(value, place, align=4)
        turn.add_incoming(b.add(turn, _I64(1)), b.block)
        b.branch(head)
        b.position_at_end(done)
        b.ret_void()

    @intrinsic
    def gather_squares(
        typingctx: Any, place: Any, address: Any, stride: Any, rows: Any, r: Any, following: Any, table: Any,
        first: Any, steps: Any, out: Any, o: Any,
    ) -> Any:  # fmt: skip
        """Write `steps` squares: as many samples as a tile has rows, features from `first` on.

        The samples are ``rows[r]`` and so on; those from ``rows[following]`` on are fetched ahead.
        """
        i8 = types.int64

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            base = builder.inttoptr(args[1], ir.IntType(8).as_pointer())
            indices = [data_at(context, builder, sig.args[3], args[3], args[k]) for k in (4, 5)]
            target = data_at(context, builder, sig.args[9], args[9], args[10])
            array = context.make_array(sig.args[6])(context, builder, args[6])
            width = builder.extract_value(array.shape, 1)
            statistics = [builder.gep(array.data, [builder.mul(width, _I64(k))]) for k in range(3)]
            function = builder.inttoptr(args[0], _signature(table.dtype, out.dtype).as_pointer())
            builder.call(function, [base, args[2], *indices, *statistics, args[7], args[8], target])
            return context.get_dummy_value()

        return types.void(i8, i8, i8, rows, i8, i8, table, i8, i8, out, i8), codegen


@inner_kernel
def _gather_part(
    control: Any,
    rows: Any,
    b: Any,
    stop: Any,
    first: Any,
    last: Any,
    exact: Any,
    single: Any,
    out: Any,
    base: Any,
    pad: Any,
) -> None:
    """Read samples [b, stop) and features [first, last), element by element.

    The arithmetic is that of the squares: a sample's bits must not depend on its place in the batch
    or on the layout of the table.
    """
    width = tile_width(out)
    address, stride, column, kind = control[ADDRESS], control[ROW], control[COLUMN], control[KIND]
    for sample in range(b, stop):
        source = get(rows, sample) * stride
        target = base + sample // width * pad * width + sample % width
        for i in range(first, last):
            x = peek_any(address, source + i * column, kind)
            if kind <= 1:
                y = out.dtype.type(x)
                put(out, target + i * width, ((y - single[0, i]) - single[1, i]) * single[2, i])
            else:
                value = ((x - exact[0, i]) - exact[1, i]) * exact[2, i]
                put(out, target + i * width, out.dtype.type(value))


@inner_kernel
def _read_squares(
    squares: Any,
    control: Any,
    rows: Any,
    b: Any,
    following: Any,
    exact: Any,
    single: Any,
    begin: Any,
    end: Any,
    out: Any,
    block: Any,
) -> None:
    """Read as many samples as a tile has rows, from sample `b` on, and features [begin, end)."""
    width = tile_width(out)
    address, stride = control[ADDRESS], control[ROW]
    steps, target = (end - begin) // tile_rows(out), block + begin * width
    if control[KIND] == 2:
        gather_squares(squares, address, stride, rows, b, following, exact, begin, steps, out, target)
    else:
        gather_squares(squares, address, stride, rows, b, following, single, begin, steps, out, target)


@inner_kernel
def gather(
    tid: Any,
    threads: Any,
    control: Any,
    size: Any,
    pad: Any,
    rows: Any,
    n: Any,
    exact: Any,
    single: Any,
    out: Any,
    base: Any,
) -> None:
    """Read the samples `rows[:n]` into the blocked input at `base`, each thread some of the features.

    ``x`` becomes ``((x - s[0]) - s[1]) * s[2]``: for uint8 and float32 with s = `single` in the
    precision of `out`, which holds them, for other types in float64 with s = `exact`.  Contiguous rows
    of uint8, float32 and float64 are read by squares, others and what fills no square element by
    element.  Samples that stand behind the n in `rows` are those of the next batch: if these are few
    bytes, they are fetched ahead.
    """
    width, square = tile_width(out), tile_rows(out)
    first, last = share((size + width - 1) // width, tid, threads)
    first, last = first * width, min(last * width, size)
    squares, stride = control[SQUARES], control[ROW]
    # The last square overlaps the one before: what both read becomes the same bits.  It must not begin in
    # another block of samples, or be another thread's.
    samples = n // square * square if squares != 0 else 0
    if samples > 0 and n % width >= square:
        samples = n
    near = len(rows) - n if n * abs(stride) <= _NEAR else 0
    for begin in range(first, last, _STRIP):
        end = min(begin + _STRIP, last)
        whole = begin + (end - begin) // square * square
        for corner in range(0, samples, square):
            b = min(corner, samples - square)
            following = b + square if b + 2 * square <= n else b
            if b + square <= near:
                following = b + n
            block = base + b // width * pad * width + b % width
            _read_squares(squares, control, rows, b, following, exact, single, begin, whole, out, block)
            if whole < end and end - square >= first:
                _read_squares(
                    squares, control, rows, b, following, exact, single, end - square, end, out, block
                )
        if whole < end and end - square < first:
            # a literal 0 would be a type of its own, and one more compiled function
            _gather_part(control, rows, np.int64(0), samples, whole, end, exact, single, out, base, pad)
    _gather_part(control, rows, samples, n, first, last, exact, single, out, base, pad)


@inner_kernel
def gather_sparse(
    tid: Any,
    threads: Any,
    control: Any,
    size: Any,
    pad: Any,
    rows: Any,
    n: Any,
    exact: Any,
    single: Any,
    out: Any,
    base: Any,
) -> None:
    """As `gather`, from compressed rows: what is not stored is 0 before it is standardized."""
    kind = out.dtype.type
    width = tile_width(out)
    first, last = share((size + width - 1) // width, tid, threads)
    first, last = first * width, min(last * width, size)
    values, ends, columns = control[ADDRESS], control[ROW], control[COLUMN]
    for b in range(n):
        target = base + b // width * pad * width + b % width
        for i in range(first, last):
            put(out, target + i * width, kind(((0.0 - exact[0, i]) - exact[1, i]) * exact[2, i]))
        row = get(rows, b)
        for e in range(peek(ends, row * 8, np.int64), peek(ends, row * 8 + 8, np.int64)):
            i = peek(columns, e * 8, np.int64)
            if first <= i < last:
                x = peek(values, e * 8, np.float64)
                put(out, target + i * width, kind(((x - exact[0, i]) - exact[1, i]) * exact[2, i]))


@inner_kernel
def _encoded(x: Any, exact: Any, e: Any) -> Any:
    """Return encoded column `e`, standardized, where the column that it reads holds `x`.

    What is missing becomes the mean.
    """
    value = encode_value(
        x, exact[_KIND, e], exact[_EDGE, e], exact[_SLOPE, e], exact[_FLOOR, e], exact[_CEILING, e]
    )
    if np.isnan(value):
        return 0.0
    return ((value - exact[_MEAN, e]) - exact[_MEAN_LOW, e]) * exact[_INVERSE, e]


@inner_kernel
def gather_encoded(
    tid: Any,
    threads: Any,
    control: Any,
    size: Any,
    pad: Any,
    rows: Any,
    n: Any,
    exact: Any,
    single: Any,
    out: Any,
    base: Any,
) -> None:
    """As `gather`, the columns encoded: see `nbnorm.statistics.encoding`."""
    kind = out.dtype.type
    width = tile_width(out)
    first, last = share((size + width - 1) // width, tid, threads)
    first, last = first * width, min(last * width, size)
    address, stride, step, code = control[ADDRESS], control[ROW], control[COLUMN], control[KIND]
    for b in range(n):
        source = get(rows, b) * stride
        target = base + b // width * pad * width + b % width
        column, x = np.int64(-1), 0.0
        for e in range(first, last):
            i = np.int64(exact[_SOURCE, e])
            if i != column:
                column, x = i, peek_any(address, source + i * step, code)
            put(out, target + e * width, kind(_encoded(x, exact, e)))


@inner_kernel
def gather_encoded_sparse(
    tid: Any,
    threads: Any,
    control: Any,
    size: Any,
    pad: Any,
    rows: Any,
    n: Any,
    exact: Any,
    single: Any,
    out: Any,
    base: Any,
) -> None:
    """As `gather_sparse`, the columns encoded."""
    kind = out.dtype.type
    width = tile_width(out)
    first, last = share((size + width - 1) // width, tid, threads)
    first, last = first * width, min(last * width, size)
    values, ends, columns = control[ADDRESS], control[ROW], control[COLUMN]
    for b in range(n):
        target = base + b // width * pad * width + b % width
        for e in range(first, last):
            put(out, target + e * width, kind(_encoded(0.0, exact, e)))
        row = get(rows, b)
        for k in range(peek(ends, row * 8, np.int64), peek(ends, row * 8 + 8, np.int64)):
            i = peek(columns, k * 8, np.int64)
            x = peek(values, k * 8, np.float64)
            # the encoded columns of a column stand together, in the order of the columns
            low, high = first, last
            while low < high:
                middle = (low + high) // 2
                if exact[_SOURCE, middle] < i:
                    low = middle + 1
                else:
                    high = middle
            while low < last and exact[_SOURCE, low] == i:
                put(out, target + low * width, kind(_encoded(x, exact, low)))
                low += 1
