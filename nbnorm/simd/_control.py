"""Loops and choices of the running program, for traced functions."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numba import types

from nbnorm.simd import _emitted
from nbnorm.simd._emitted import I64, Emitted, emission, index, static
from nbnorm.simd._memory import load, size, store
from nbnorm.simd.target import native_lanes


def loop(start: Any, stop: Any, step: Any, body: Callable[..., Any], *carried: Any) -> Any:
    """Run the body of a loop for ``range(start, stop, step)``, in a traced function.

    Parameters
    ----------
    start, stop : int
        Range.
    step : int
        Positive step, known when the code is compiled.
    body : function
        ``body(i, *carried)`` writes to memory and returns what the next turn is given, a tuple if several
        values are carried.
    *carried : vector or number
        What the first turn is given.

    Returns
    -------
    value, tuple of values or None
        What the last turn has returned.

    Examples
    --------
    >>> import numpy as np
    >>> from numba import njit
    >>> from nbnorm import simd
    >>> @simd.traced
    ... def total(x):
    ...     def add(i, sums):
    ...         return sums + simd.load(x, i, 4)
    ...     return simd.sum(simd.loop(0, simd.size(x), 4, add, simd.zeros(x.dtype, 4)))
    >>> @njit
    ... def mean(x):
    ...     return total(x) / x.size
    >>> mean(np.arange(8.0))
    3.5
    """
    if emission() is None:
        for i in range(start, stop, step):
            carried = _tuple(body(i, *carried))
        return _plain(carried)
    builder = emission()[1]
    before = builder.block
    head, inside, after = (builder.append_basic_block(f"loop.{name}") for name in ("head", "body", "end"))
    first, last, by = index(start), index(stop), I64(static("step", step))
    builder.branch(head)
    builder.position_at_end(head)
    i = builder.phi(I64)
    i.add_incoming(first, before)
    phis = [builder.phi(value.value.type) for value in carried]
    for phi, value in zip(phis, carried, strict=True):
        phi.add_incoming(value.value, before)
    builder.cbranch(builder.icmp_signed("<", i, last), inside, after)
    builder.position_at_end(inside)
    given = [value.with_value(phi) for phi, value in zip(phis, carried, strict=True)]
    results = _tuple(body(Emitted(types.int64, i), *given))
    i.add_incoming(builder.add(i, by), builder.block)
    for phi, before_it, result in zip(phis, carried, results, strict=True):
        phi.add_incoming(_emitted.as_type(result, before_it.type).value, builder.block)
    builder.branch(head)
    builder.position_at_end(after)
    return _plain(tuple(given))


def loop_steps(start: Any, stop: Any, steps: Sequence[int], body: Callable[..., Any], *carried: Any) -> Any:
    """Go through a range in steps of several lengths, as many of each as fit, in a traced function.

    Parameters
    ----------
    start, stop : int
        Range.
    steps : sequence of int
        Powers of two, the longest first, known when the code is compiled; the range ends at the last whole
        step, so the last length is 1 where all of it is meant.
    body : function
        ``body(i, step, *carried)`` works on elements i to i + step, with vectors of so many lanes for
        example, and returns what the next turn is given.
    *carried : vector or number
        What the first turn is given.

    Returns
    -------
    value, tuple of values or None
        What the last turn has returned.

    Examples
    --------
    >>> import numpy as np
    >>> from numba import njit
    >>> from nbnorm import simd
    >>> @simd.traced
    ... def doubled(x, n):
    ...     def some(i, lanes):
    ...         simd.store(x, i, 2 * simd.load(x, i, lanes))
    ...     simd.loop_steps(0, n, (4, 1), some)
    >>> @njit
    ... def double(x):
    ...     doubled(x, x.size)
    >>> x = np.ones(6)
    >>> double(x)
    >>> x
    array([2., 2., 2., 2., 2., 2.])
    """
    for step in steps:
        end = start + ((stop - start) & -step)
        carried = _tuple(loop(start, end, step, functools.partial(_with_step, body, step), *carried))
        start = end
    return _plain(carried)


def _with_step(body: Callable[..., Any], step: int, i: Any, *carried: Any) -> Any:
    return body(i, step, *carried)


def switch(number: Any, functions: Sequence[Callable[..., Any]], *args: Any) -> Any:
    """Call one of several functions, in a traced function.

    Parameters
    ----------
    number : int or bool
        Which one; the last where there are not so many.
    functions : sequence of functions
        They take the same arguments and return values of the same type, or write to memory.
    *args
        What they are given.

    Returns
    -------
    value or None
        What the function returns.

    Examples
    --------
    >>> from numba import njit
    >>> from nbnorm import simd
    >>> @simd.traced
    ... def apply(number, x):
    ...     return simd.switch(number, [simd.exp, simd.log, simd.tanh], x)
    >>> @njit
    ... def logarithm(x):
    ...     return apply(1, x)
    >>> logarithm(1.0)
    0.0
    """
    if not isinstance(number, Emitted):
        number = int(number)  # a boolean of NumPy's is no index
        return functions[number if 0 <= number < len(functions) else -1](*args)
    builder = emission()[1]
    blocks = [builder.append_basic_block(f"switch.{k}") for k in range(len(functions))]
    after = builder.append_basic_block("switch.end")
    choice = builder.switch(index(_emitted.converted(number, np.int64)), blocks[-1])
    results = []
    for k, (block, function) in enumerate(zip(blocks, functions, strict=True)):
        choice.add_case(I64(k), block)
        builder.position_at_end(block)
        results.append((function(*args), builder.block))
        builder.branch(after)
    builder.position_at_end(after)
    if results[0][0] is None:
        return None
    phi = builder.phi(results[0][0].value.type)
    for result, block in results:
        phi.add_incoming(result.value, block)
    return results[0][0].with_value(phi)


def map_elements(
    function: Callable[..., Any],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    start: Any = 0,
    stop: Any = None,
) -> None:
    """Apply a function to the elements of arrays, in a traced function.

    Parameters
    ----------
    function : function
        It takes a vector of each of the inputs and returns one for each of the outputs.
    inputs, outputs : sequence of arrays
        Of one size and with elements of one size; an output may be one of the inputs but not overlap others.
    start, stop : int, optional
        Range of the elements, all axes flattened; by default all of them.

    Examples
    --------
    >>> import numpy as np
    >>> from numba import njit
    >>> from nbnorm import simd
    >>> @simd.traced
    ... def gelus(z, y):
    ...     simd.map_elements(simd.gelu, [z], [y])
    >>> @njit
    ... def compute(z, y):
    ...     gelus(z, y)
    >>> z, y = np.zeros(5), np.ones(5)
    >>> compute(z, y)
    >>> y
    array([0., 0., 0., 0., 0.])
    """
    lanes, n = native_lanes(outputs[0].dtype), size(outputs[0]) if stop is None else stop
    wide = 4 * lanes

    def whole(i: Any) -> None:
        results = _tuple(function(*(load(x, i, wide) for x in inputs)))
        for out, values in zip(outputs, results, strict=True):
            store(out, i, values)

    def rest(i: Any) -> None:
        left = n - i
        results = _tuple(function(*(load(x, i, lanes, left) for x in inputs)))
        for out, values in zip(outputs, results, strict=True):
            store(out, i, values, left)

    end = start + ((n - start) & -wide)
    loop(start, end, wide, whole)
    loop(end, n, lanes, rest)


def _tuple(result: Any) -> tuple[Any, ...]:
    if result is None:
        return ()
    return result if isinstance(result, tuple) else (result,)


def _plain(values: tuple[Any, ...]) -> Any:
    return values if len(values) > 1 else values[0] if values else None
