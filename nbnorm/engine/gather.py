"""Reading a mini-batch where the data lie: gathered, converted, standardized and blocked at once.

Rows of the table are samples; in the engine's input (see `nbnorm.engine.run`) samples stand side by
side.  Squares of samples and features, as long as a vector, are therefore transposed in
registers, between the conversion to floating point and the store.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from nbnorm import simd
from nbnorm.compile.kernels import inner_kernel, kernel, linked_kernel
from nbnorm.engine.microkernels import number, tile, tile_tall_rows, tile_width
from nbnorm.engine.table import FORWARD
from nbnorm.engine.thread_pool import thread_range
from nbnorm.simd import get, peek, put
from nbnorm.simd._functions import Signature, caller, function_address
from nbnorm.statistics import encoding
from nbnorm.statistics.encoding import ColumnEncoder, encode_value

# Bytes of a batch that may wait in the second-level cache, beside what a step of its network needs, and lines
# of 64 bytes that are fetched beside one tile of weights: as many as the first-level cache can wait for.
_NEAR, _LINES = 1 << 18, 12

# Places in a thread's row of `upcoming`: which piece is fetched next, their number, lines of each, addresses.
NEXT, PIECES, LINES, ADDRESSES = range(4)

# Rows of the statistics: the mean in two parts and the reciprocal of the scale, then those of
# `nbnorm.statistics.encoding` where columns are encoded.
_MEAN, _MEAN_LOW, _INVERSE, _ENCODING = range(4)
_SOURCE, _KIND, _EDGE, _SLOPE, _FLOOR, _CEILING = (_ENCODING + row for row in range(encoding.ROWS))


# Element types that `peek_any` reads where they lie, by code.
PEEK_DTYPES = tuple(
    np.dtype(name)
    for name in (
        "uint8",
        "float32",
        "float64",
        "int8",
        "int16",
        "uint16",
        "int32",
        "uint32",
        "int64",
        "uint64",
    )
)


@functools.cache
def _square(dtype: Any) -> int:
    """Return the side of the squares that are transposed: as long as a vector, 8 at most."""
    shape = tile(dtype)
    return max(shape.rows, min(shape.lanes, 8))


@simd.traced
def _square_side(x: Any) -> Any:
    """Return the side of the squares of elements of the type of x."""
    return number(_square(x.dtype))


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
        self.code = PEEK_DTYPES.index(x.dtype)
        self.address = int(x.__array_interface__["data"][0])
        self.strides = x.strides
        self.encoder = encoder
        self.kernel = reading_kernel(sparse=False, encoded=encoder is not None)
        # small types are standardized in the network's precision, others in double precision
        self.double = self.code > 1 or encoder is not None

    def rows(self, first: int, last: int) -> npt.NDArray[Any]:
        """Return the network's input of rows [first, last), not standardized."""
        rows = self.array[first:last]
        return rows if self.encoder is None else self.encoder.transform(rows)

    def tiles(self, dtype: np.dtype[Any]) -> int:
        """Return the address of the kernel that reads these rows by square tiles, or 0."""
        item = self.array.itemsize
        if self.encoder is not None or self.code > 2 or self.strides[1] != item:
            return 0
        if self.address % item or self.strides[0] % item:  # vectors are loaded from aligned elements
            return 0
        return _tiles(self.array.dtype, np.dtype(dtype))


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
        self.samples, self.code = x.shape[0], 2
        self.address, *ends = (int(a.__array_interface__["data"][0]) for a in self.arrays)
        self.strides = tuple(ends)
        self.encoder, self._columns = encoder, x.shape[1]
        self.kernel = reading_kernel(sparse=True, encoded=encoder is not None)
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

    def tiles(self, dtype: np.dtype[Any]) -> int:
        """Return 0: rows are not contiguous."""
        return 0


@simd.traced
def peek_any(address: Any, offset: Any, code: Any) -> Any:
    """Return an element of type ``PEEK_DTYPES[code]`` as float64."""

    def read(dtype: np.dtype[Any]) -> Callable[[], Any]:
        return lambda: simd.convert(peek(address, offset, dtype), np.float64)

    return simd.switch(code, [read(dtype) for dtype in PEEK_DTYPES])


def _read_tiles(source: np.dtype[Any], middle: np.dtype[Any], dtype: np.dtype[Any]) -> Callable[..., None]:
    width, size, item = tile(dtype).width, _square(dtype), source.itemsize

    def read(
        rows: Any, high: Any, low: Any, inverse: Any, out: Any, address: Any, stride: Any, first: Any,
        steps: Any, squares: Any,
    ) -> None:  # fmt: skip
        """Standardize `steps` squares side by side, of as many rows as so many squares have.

        The features begin with `first`, the samples are ``rows[0]`` and so on.
        """
        begins = simd.stack_array(np.int64, width)

        def find(r: Any) -> None:
            simd.put(begins, r, address + simd.get(rows, r) * stride + first * item)

        def features(k: Any) -> None:
            i = k * size
            shift, rest, factor = (simd.load(s, first + i, size) for s in (high, low, inverse))

            def square(b: Any) -> None:
                values = []
                for r in range(size):
                    sample = simd.array_at(simd.get(begins, b + r), steps * size, source)
                    x = simd.convert(simd.load(sample, i, size), middle)
                    values.append(simd.convert(((x - shift) - rest) * factor, dtype))
                simd.tile_store(out, i * width + b, width, simd.transpose(simd.tile_of(*values)))

            # squares below each other: a line of the result is filled before it leaves the first-level cache
            simd.loop(0, squares * size, size, square)

        simd.loop(0, squares * size, 1, find)
        simd.loop(0, steps, 1, features)

    return read


_TILES = Signature(5, 5)


@functools.cache
def _tiles(source: np.dtype[Any], dtype: np.dtype[Any]) -> int:
    """Return the address of the kernel for one type of the table and one of the network."""
    middle = np.dtype(np.float64) if source == np.float64 else dtype
    body = _read_tiles(source, middle, dtype)
    others = {0: np.int64, 1: middle, 2: middle, 3: middle}
    return function_address(f"nbnorm_gather_{source}_{dtype}", body, _TILES, dtype, others=others)


# rows, statistics with their three rows, out; address, stride, first, steps and squares
gather_tiles = caller(_TILES, (1, 3, 1))


@kernel(inline="always")
def _own_features(size: Any, width: Any, tid: Any, threads: Any) -> Any:
    """Range of the features that a thread reads: whole panels."""
    first, last = thread_range((size + width - 1) // width, tid, threads)
    return first * width, simd.min(last * width, size)


@linked_kernel
def _gather_part(run: Any, begin: Any, b: Any, stop: Any, first: Any, last: Any, base: Any) -> None:
    """Read samples [b, stop) and features [first, last), element by element.

    The arithmetic is that of the tiles: a sample's bits must not depend on its position in the batch
    or on the layout of the table.
    """
    control, rows, exact, single, out = run.control, run.order, run.exact, run.single, run.act
    width, pad = tile_width(out), run.net[0].padded
    address, stride = control.address, control.row_stride
    column, code = control.column_stride, control.element_code
    for sample in range(b, stop):
        source = get(rows, begin + sample) * stride
        target = base + sample // width * pad * width + sample % width
        for i in range(first, last):
            x = peek_any(address, source + i * column, code)
            if code <= 1:
                y = out.dtype.type(x)
                put(out, target + i * width, ((y - single[0, i]) - single[1, i]) * single[2, i])
            else:
                value = ((x - exact[0, i]) - exact[1, i]) * exact[2, i]
                put(out, target + i * width, out.dtype.type(value))


@linked_kernel
def _gather_tiles(run: Any, b: Any, squares: Any, first: Any, last: Any, block: Any) -> None:
    """Read the samples of so many squares, from place `b` of the order on, and features [first, last)."""
    control, rows, exact, single, out = run.control, run.order, run.exact, run.single, run.act
    width, tiles = tile_width(out), control.tiles_kernel
    address, stride = control.address, control.row_stride
    steps, target, size = (last - first) // _square_side(out), block + first * width, exact.shape[1]
    if control.element_code == 2:
        gather_tiles(
            tiles, rows, b, exact, 0, size, 2 * size, out, target, address, stride, first, steps, squares
        )
    else:
        gather_tiles(
            tiles, rows, b, single, 0, size, 2 * size, out, target, address, stride, first, steps, squares
        )


def most_pieces(control: Any, features: int) -> int:
    """Return in how many pieces at most the rows of a batch are fetched before they are read, or 0."""
    updates = control.mode != FORWARD and control.steps > 1
    if not updates or control.tiles_kernel == 0 or control.batch * abs(control.row_stride) > _NEAR:
        return 0
    return int(control.batch * max(features * control.column_stride // 64, 1))


@simd.traced
def _list_upcoming(
    rows: Any, begin: Any, n: Any, address: Any, stride: Any, count: Any, size: Any, upcoming: Any, at: Any
) -> None:
    """List where the n rows from `begin` on stand, each in `count` pieces of `size` bytes."""

    def row(b: Any) -> None:
        first, place = address + simd.get(rows, begin + b) * stride, at + ADDRESSES + b * count
        simd.loop(0, count, 1, lambda k: simd.put(upcoming, place + k, first + k * size))

    simd.loop(0, n, 1, row)
    for place, value in ((NEXT, 0), (PIECES, n * count), (LINES, simd.min((size >> 6) + 1, _LINES))):
        simd.put(upcoming, at + place, value)


@inner_kernel
def gather(tid: Any, threads: Any, run: Any, begin: Any, n: Any, base: Any) -> None:
    """Read n samples into the blocked input at `base`, each thread some of the features.

    They are those from `begin` on in the order of the epoch.  ``x`` becomes ``((x - s[0]) - s[1]) * s[2]``:
    for uint8 and float32 with s = `single` in the network's precision, which holds them, for other types in
    float64 with s = `exact`.  Contiguous rows of uint8, float32 and float64 are read by square tiles, others
    and what fills no tile element by element.
    """
    control, out = run.control, run.act
    width, side, pad = tile_width(out), _square_side(out), run.net[0].padded
    first, last = _own_features(run.net[0].features, width, tid, threads)
    # The last tile overlaps the one before: what both read becomes the same bits.  It must not begin in
    # another block of samples, or be another thread's.
    samples = n // side * side if control.tiles_kernel != 0 else 0
    if samples > 0 and n % width >= side:
        samples = n
    whole = first + (last - first) // side * side
    b = 0
    while b < samples:
        squares = simd.min(width - b % width, samples - b) // side
        if squares == 0:
            b, squares = samples - side, squares + 1
        block = base + b // width * pad * width + b % width
        _gather_tiles(run, begin + b, squares, first, whole, block)
        if whole < last and last - side >= first:
            _gather_tiles(run, begin + b, squares, last - side, last, block)
        b += squares * side
    if whole < last and last - side < first:
        # a literal 0 would be a type of its own, and one more compiled function
        _gather_part(run, begin, np.int64(0), samples, whole, last, base)
    _gather_part(run, begin, samples, n, first, last, base)
    upcoming, item = run.upcoming, control.column_stride
    if upcoming.shape[1] > ADDRESSES:
        # what this thread reads next is fetched while it updates weights, a piece with each tile
        ahead, size = simd.min(len(run.order) - begin - n, n), (last - first) * item
        tiles = control.weight_size // (width * tile_tall_rows(out) * threads)
        count = simd.max(simd.min(tiles // simd.max(ahead, 1), size // 64), 1)
        _list_upcoming(
            run.order, begin + n, ahead, control.address + first * item, control.row_stride, count,
            (size + count - 1) // count, upcoming, tid * upcoming.shape[1],
        )  # fmt: skip


@inner_kernel
def gather_sparse(tid: Any, threads: Any, run: Any, begin: Any, n: Any, base: Any) -> None:
    """As `gather`, from compressed rows: what is not stored is 0 before it is standardized."""
    control, rows, exact, out = run.control, run.order, run.exact, run.act
    number = out.dtype.type
    width, pad = tile_width(out), run.net[0].padded
    first, last = _own_features(run.net[0].features, width, tid, threads)
    values, ends, columns = control.address, control.row_stride, control.column_stride
    for b in range(n):
        target = base + b // width * pad * width + b % width
        for i in range(first, last):
            put(out, target + i * width, number(((0.0 - exact[0, i]) - exact[1, i]) * exact[2, i]))
        row = get(rows, begin + b)
        for e in range(peek(ends, row * 8, np.int64), peek(ends, row * 8 + 8, np.int64)):
            i = peek(columns, e * 8, np.int64)
            if first <= i < last:
                x = peek(values, e * 8, np.float64)
                put(out, target + i * width, number(((x - exact[0, i]) - exact[1, i]) * exact[2, i]))


@linked_kernel
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


@simd.traced
def _column_of_block(
    address: Any, rows: Any, b: Any, count: Any, stride: Any, offset: Any, code: Any, out: Any
) -> Any:
    """Return a column of the samples `rows[b]` and so on, float64; of those beyond `count` the last one's."""
    width = tile(out.dtype).width

    def read(dtype: np.dtype[Any]) -> Callable[[], Any]:
        def values() -> Any:
            x = simd.zeros(np.float64, width)
            for r in range(width):
                row = get(rows, b + simd.min(count - 1, r))
                x = simd.insert(x, r, simd.convert(peek(address, row * stride + offset, dtype), np.float64))
            return x

        return values

    return simd.switch(code, [read(dtype) for dtype in PEEK_DTYPES])


@simd.traced
def _encode_block(
    x: Any, exact: Any, columns: Any, e: Any, code: Any, out: Any, at: Any, whole: Any, count: Any
) -> None:
    """Store encoded column `e`, standardized, of samples whose column holds `x`: as `_encoded`."""

    def number(row: int) -> Any:
        return get(exact, row * columns + e)

    def position() -> Any:
        return simd.clamp((x - number(_EDGE)) * number(_SLOPE), number(_FLOOR), number(_CEILING))

    def level() -> Any:
        return simd.where(x == number(_EDGE), 1.0, 0.0)

    def missing() -> Any:
        return simd.where(x == x, 0.0, 1.0)

    def part() -> None:
        simd.store(out, at, result, count)

    def all_of_it() -> None:
        simd.store(out, at, result)

    value = simd.switch(code, [position, level, missing])  # in the order of their codes
    standardized = ((value - number(_MEAN)) - number(_MEAN_LOW)) * number(_INVERSE)
    result = simd.convert(simd.where(value == value, standardized, 0.0), out.dtype)
    simd.switch(whole, [part, all_of_it])


@inner_kernel
def gather_encoded(tid: Any, threads: Any, run: Any, begin: Any, n: Any, base: Any) -> None:
    """As `gather`, the columns encoded: see `nbnorm.statistics.encoding`.

    The samples of a block are read together, one column at a time, and encoded side by side.
    """
    control, rows, exact, out = run.control, run.order, run.exact, run.act
    width, pad = tile_width(out), run.net[0].padded
    first, last = _own_features(run.net[0].features, width, tid, threads)
    address, stride = control.address, control.row_stride
    step, element = control.column_stride, control.element_code
    for b in range(0, n, width):
        target, count = base + b // width * pad * width, simd.min(n - b, width)
        e = first
        while e < last:
            i = exact[_SOURCE, e]
            x = _column_of_block(address, rows, begin + b, count, stride, np.int64(i) * step, element, out)
            while e < last and exact[_SOURCE, e] == i:
                code = np.int64(exact[_KIND, e])
                _encode_block(
                    x, exact, exact.shape[1], e, code, out, target + e * width, count == width, count
                )
                e += 1


@inner_kernel
def gather_encoded_sparse(tid: Any, threads: Any, run: Any, begin: Any, n: Any, base: Any) -> None:
    """As `gather_sparse`, the columns encoded."""
    control, rows, exact, out = run.control, run.order, run.exact, run.act
    number = out.dtype.type
    width, pad = tile_width(out), run.net[0].padded
    first, last = _own_features(run.net[0].features, width, tid, threads)
    values, ends, columns = control.address, control.row_stride, control.column_stride
    for b in range(n):
        target = base + b // width * pad * width + b % width
        for e in range(first, last):
            put(out, target + e * width, number(_encoded(0.0, exact, e)))
        row = get(rows, begin + b)
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
                put(out, target + low * width, number(_encoded(x, exact, low)))
                low += 1


def reading_kernel(*, sparse: bool, encoded: bool) -> Any:
    """Return the kernel that reads mini-batches of a table."""
    if sparse:
        return gather_encoded_sparse if encoded else gather_sparse
    return gather_encoded if encoded else gather
