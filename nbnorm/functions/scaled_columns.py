"""Formulas for the elements of a table with parameters for each column, written in one pass.

The elements of a C-contiguous table stand one behind the other, and so do the parameters of its columns: a
vector of elements takes a vector of each parameter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nbnorm import simd

# Bytes of a cache line, which is written as a whole.
LINE = 64

# Columns that each row of parameters repeats at its end, so that vectors may run over the end of a row.
WRAP = 16

# In bytes, where results do not go through the caches.
PREFETCH_DISTANCE = 64 << 10


def write_columns(
    formula: Callable[..., Any], arrays: tuple[Any, ...], parameters: Any, rows: tuple[int, ...], out: Any,
    begin: Any, end: Any, column: Any, period: Any, streamed: Any,
) -> None:  # fmt: skip
    """Write ``formula(*elements, *parameters)`` to ``out[begin:end]``, in a traced function.

    Vectors begin at a cache line of `out`, so that they can be stored without going through the caches.

    Parameters
    ----------
    formula : function
        It takes and returns vectors of the type of `parameters`.
    arrays : tuple of arrays
        Elements, as many as in `out` and of the same type.
    parameters : array
        Rows of ``period + WRAP`` numbers.
    rows : tuple of int
        Which of them the formula takes.
    out : array
        Result.
    begin, end : int
        Range of the elements.
    column : int
        Column of the first one.
    period : int
        Columns; those of several rows of the table where it is narrower than a vector.
    streamed : bool
        Whether to use non-temporal stores.
    """
    item = out.dtype.itemsize
    line = LINE // item

    def elements(lanes: int, write: Callable[..., None]) -> Callable[[Any, Any], Any]:
        def some(i: Any, j: Any) -> Any:
            values = [simd.convert(simd.load(x, i, lanes), parameters.dtype) for x in arrays]
            values += [simd.load(parameters, row * (period + WRAP) + j, lanes) for row in rows]
            write(out, i, simd.convert(formula(*values), out.dtype))
            if write is simd.stream:
                for x in arrays:
                    simd.prefetch(x, i + PREFETCH_DISTANCE // item, LINE, level=2)
            j = j + lanes
            return simd.where(j < period, j, j - period)

        return some

    head = (-simd.address(out, begin) & (LINE - 1)) >> (item.bit_length() - 1)
    first = simd.min(begin + head, end)
    last = first + ((end - first) & -line)

    def plain(j: Any) -> Any:
        return simd.loop(first, last, line, elements(line, simd.store), j)

    def non_temporal(j: Any) -> Any:
        j = simd.loop(first, last, line, elements(line, simd.stream), j)
        simd.fence()  # they must be seen before the task ends
        return j

    column = simd.loop(begin, first, 1, elements(1, simd.store), column)
    column = simd.switch(streamed, [plain, non_temporal], column)
    simd.loop(last, end, 1, elements(1, simd.store), column)
