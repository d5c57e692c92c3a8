"""Sums over the lanes of a vector, and moves between them."""

from __future__ import annotations

import builtins
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from nbnorm.simd import _emitted, _numpy
from nbnorm.simd._arithmetic import emit_max, emit_min
from nbnorm.simd._emitted import I32, Emitted, emission, index, intrinsic, static
from nbnorm.simd._memory import emit_get
from nbnorm.simd._numpy import NumpyVector
from nbnorm.simd._tracing import operation, traced
from nbnorm.simd._types import Mask, Vector, llvm_type

# ----------------------------------------------------------------------------------------------
# Sums and other reductions
# ----------------------------------------------------------------------------------------------


def _fold(values: Any, lanes: int, width: int, pick: Callable[..., Any], combine: Callable[..., Any]) -> Any:
    """Combine the lanes of each group of `width` neighbours, halves onto halves.

    ``pick(values, lanes)`` selects lanes.  What is more than a power of two goes first onto the beginning.
    """
    groups = range(lanes // width)
    half = 1 << (width - 1).bit_length() - 1 if width > 1 else 0
    while width > 1:
        low = pick(values, [g * width + k for g in groups for k in range(half)])
        rest = pick(values, [g * width + half + k % (width - half) for g in groups for k in range(half)])
        total = combine(low, rest)
        if width < 2 * half:  # the first lanes have got something, the others stay
            both = [g * half + k for g in groups for k in range(half)]
            total = pick(total, both, low, [k < width - half for g in groups for k in range(half)])
        values, width, half = total, half, half // 2
    return values


def _check_groups(lanes: int, groups: int) -> int:
    if groups < 1 or lanes % groups:
        raise TypeError(f"{lanes} lanes are no {groups} equal groups")
    return lanes // groups


def _emit_fold(v: Any, groups: Any, combine: Callable[[Any, Any], Any]) -> Emitted:
    count = 1 if groups is None else static("groups", groups)
    numba_type = v.type

    def pick(x: Any, lanes: list[int], other: Any = None, chosen: Any = None) -> Any:
        chosen = (
            lanes
            if chosen is None
            else [k if c else len(lanes) + k for k, c in zip(lanes, chosen, strict=True)]
        )
        value = _emitted.shuffled(x.value, x.value if other is None else other.value, chosen)
        return Emitted(Vector(numba_type.dtype, len(lanes)), value)

    got = _fold(v, v.lanes, _check_groups(v.lanes, count), pick, combine)
    return Emitted(numba_type.dtype, got.value) if groups is None else got


def _numpy_fold(v: Any, groups: Any, combine: Callable[..., Any]) -> Any:
    def pick(x: Any, lanes: list[int], other: Any = None, chosen: Any = None) -> Any:
        return x[lanes] if chosen is None else np.where(chosen, x, other)

    with np.errstate(all="ignore"):
        count = 1 if groups is None else groups
        got = _fold(v.values, v.lanes, _check_groups(v.lanes, count), pick, combine)
    return got[0] if groups is None else NumpyVector(got)


@operation(lambda v, groups=None: _emit_fold(v, groups, operator.add))
def sum(v: Any, groups: Any = None) -> Any:
    """Sum of the lanes, in an order that depends on their number alone: halves are added onto halves.

    Parameters
    ----------
    v : vector
        Values.
    groups : int, optional
        Number of groups of neighbouring lanes that are added up apart, known when the code is compiled.

    Returns
    -------
    number or vector
        The sum, or with `groups` the vector of so many sums.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import simd
    >>> v = simd.iota(np.int64, 6)
    >>> int(simd.sum(v))
    15
    >>> simd.sum(v, 2)
    NumpyVector(array([ 3, 12]))
    """
    return _numpy_fold(v, groups, np.add)


@operation(lambda v, groups=None: _emit_fold(v, groups, emit_max))
def largest(v: Any, groups: Any = None) -> Any:
    """Return the largest element, as `max` finds it of halves and halves.

    Parameters
    ----------
    v : vector
        Values.
    groups : int, optional
        Number of groups of neighbouring lanes, known when the code is compiled.

    Returns
    -------
    number or vector
        The largest, or with `groups` the vector of so many.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import simd
    >>> int(simd.largest(simd.iota(np.int64, 6)))
    5
    """
    return _numpy_fold(v, groups, lambda x, y: np.where(x < y, y, x))


@operation(lambda v, groups=None: _emit_fold(v, groups, emit_min))
def smallest(v: Any, groups: Any = None) -> Any:
    """Return the smallest element, as `min` finds it of halves and halves.

    Parameters
    ----------
    v : vector
        Values.
    groups : int, optional
        Number of groups of neighbouring lanes, known when the code is compiled.

    Returns
    -------
    number or vector
        The smallest, or with `groups` the vector of so many.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import simd
    >>> int(simd.smallest(simd.iota(np.int64, 6)))
    0
    """
    return _numpy_fold(v, groups, lambda x, y: np.where(y < x, y, x))


def _emit_truth(name: str) -> Callable[[Any], Emitted]:
    def emit(mask: Any) -> Emitted:
        form = mask.value.type
        if not isinstance(form, ir.VectorType):
            return Emitted(types.boolean, mask.value)
        whole = f"llvm.vector.reduce.{name}.v{form.count}i1"
        return Emitted(types.boolean, intrinsic(whole, ir.IntType(1), [mask.value]))

    return emit


@operation(_emit_truth("or"))
def any(mask: Any) -> Any:
    """Tell whether a mask is set in any lane.

    Parameters
    ----------
    mask : mask
        Result of a comparison.

    Returns
    -------
    bool
        True if one lane is set.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import simd
    >>> bool(simd.any(simd.iota(np.int64, 4) > 2))
    True
    """
    return bool(np.any(mask.values if isinstance(mask, NumpyVector) else mask))


@operation(_emit_truth("and"))
def all(mask: Any) -> Any:
    """Tell whether a mask is set in all lanes.

    Parameters
    ----------
    mask : mask
        Result of a comparison.

    Returns
    -------
    bool
        True if every lane is set.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import simd
    >>> bool(simd.all(simd.iota(np.int64, 4) > 2))
    False
    """
    return bool(np.all(mask.values if isinstance(mask, NumpyVector) else mask))


# ----------------------------------------------------------------------------------------------
# Moving elements
# ----------------------------------------------------------------------------------------------


def choose(a: Any, b: Any, lanes: list[int]) -> Any:
    """Return these lanes of two vectors of one type; those of the second count on."""
    if emission() is None:
        return NumpyVector(np.concatenate((a.values, b.values))[lanes])
    if a.type != b.type:
        raise TypeError(f"{a.type} and {b.type} do not go together: convert one of them")
    numba_type = Mask(len(lanes)) if isinstance(a.type, Mask) else Vector(a.type.dtype, len(lanes))
    return Emitted(numba_type, _emitted.shuffled(a.value, b.value, lanes))


@traced
def shuffle(v: Any, *lanes: Any) -> Any:
    """Return elements of a vector in another order.

    Parameters
    ----------
    v : vector or mask
        Values.
    *lanes : int
        For each lane of the result the lane that it is taken from, known when the code is compiled.

    Returns
    -------
    vector or mask
        With as many lanes as are named.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import simd
    >>> simd.shuffle(simd.iota(np.int32, 4), 3, 1, 1)
    NumpyVector(array([3, 1, 1], dtype=int32))
    """
    chosen = [static("lanes", k) for k in lanes]
    if not builtins.all(0 <= k < v.lanes for k in chosen):
        raise TypeError(f"lanes must lie in 0 to {v.lanes - 1}, got {lanes}")
    return choose(v, v, chosen)


@traced
def reverse(v: Any) -> Any:
    """Return the elements in reversed order.

    Parameters
    ----------
    v : vector or mask
        Values.

    Returns
    -------
    vector or mask
        The last element first.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import simd
    >>> simd.reverse(simd.iota(np.int32, 3))
    NumpyVector(array([2, 1, 0], dtype=int32))
    """
    return choose(v, v, list(range(v.lanes))[::-1])


@traced
def repeat(v: Any, times: Any) -> Any:
    """Repeat each element of a vector.

    Parameters
    ----------
    v : vector or mask
        Values.
    times : int
        How often each stands in the result, known when the code is compiled.

    Returns
    -------
    vector or mask
        ``numpy.repeat(v, times)``.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import simd
    >>> simd.repeat(simd.iota(np.int32, 2), 3)
    NumpyVector(array([0, 0, 0, 1, 1, 1], dtype=int32))
    """
    return choose(v, v, [k for k in range(v.lanes) for _ in range(static("times", times))])


@traced
def cycle(v: Any, times: Any) -> Any:
    """Repeat a whole vector.

    Parameters
    ----------
    v : vector or mask
        Values.
    times : int
        How often it stands in the result, known when the code is compiled.

    Returns
    -------
    vector or mask
        ``numpy.tile(v, times)``.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import simd
    >>> simd.cycle(simd.iota(np.int32, 2), 3)
    NumpyVector(array([0, 1, 0, 1, 0, 1], dtype=int32))
    """
    return choose(v, v, list(range(v.lanes)) * static("times", times))


@traced
def part(v: Any, first: Any, lanes: Any) -> Any:
    """Return neighbouring elements of a vector.

    Parameters
    ----------
    v : vector or mask
        Values.
    first, lanes : int
        The first lane and how many, known when the code is compiled.

    Returns
    -------
    vector or mask
        With so many lanes.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import simd
    >>> simd.part(simd.iota(np.int32, 8), 4, 2)
    NumpyVector(array([4, 5], dtype=int32))
    """
    first, lanes = static("first", first), static("lanes", lanes)
    if not 0 <= first < first + lanes <= v.lanes:
        raise TypeError(f"{v.lanes} lanes have no part of {lanes} from {first} on")
    return choose(v, v, list(range(first, first + lanes)))


@traced
def low_half(v: Any) -> Any:
    """Return the first half of the elements.

    Parameters
    ----------
    v : vector or mask
        An even number of values.

    Returns
    -------
    vector or mask
        Lanes from 0 on.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import simd
    >>> simd.low_half(simd.iota(np.int32, 4))
    NumpyVector(array([0, 1], dtype=int32))
    """
    return part(v, 0, v.lanes // 2)


@traced
def high_half(v: Any) -> Any:
    """Return the second half of the elements.

    Parameters
    ----------
    v : vector or mask
        An even number of values.

    Returns
    -------
    vector or mask
        The last lanes.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import simd
    >>> simd.high_half(simd.iota(np.int32, 4))
    NumpyVector(array([2, 3], dtype=int32))
    """
    return part(v, v.lanes - v.lanes // 2, v.lanes // 2)


@traced
def concatenate(*vectors: Any) -> Any:
    """Return vectors of one type as one.

    Parameters
    ----------
    *vectors : vector or mask
        1, 2, 4, 8 or another power of two of them.

    Returns
    -------
    vector or mask
        The elements of the first, then those of the others.

    Examples
    --------
    >>> from nbnorm import simd
    >>> simd.concatenate(simd.splat(1.0, 2), simd.splat(2.0, 2))
    NumpyVector(array([1., 1., 2., 2.]))
    """
    parts = list(vectors)
    if len(parts) & (len(parts) - 1):
        raise TypeError(f"the number of vectors must be a power of two, got {len(parts)}")
    while len(parts) > 1:
        pairs = zip(parts[::2], parts[1::2], strict=True)
        parts = [choose(a, b, list(range(2 * a.lanes))) for a, b in pairs]
    return parts[0]


@traced
def interleave(a: Any, b: Any) -> Any:
    """Return the elements of two vectors of one type in turns.

    Parameters
    ----------
    a, b : vector or mask
        Values.

    Returns
    -------
    vector or mask
        a[0], b[0], a[1], b[1] and so on.

    Examples
    --------
    >>> from nbnorm import simd
    >>> simd.interleave(simd.splat(1.0, 2), simd.splat(2.0, 2))
    NumpyVector(array([1., 2., 1., 2.]))
    """
    return choose(a, b, [k // 2 + k % 2 * a.lanes for k in range(2 * a.lanes)])


def _emit_extract(v: Any, k: Any) -> Emitted:
    numba_type = v.type.dtype
    if v.lanes == 1:
        return Emitted(numba_type, v.value)
    return Emitted(numba_type, emission()[1].extract_element(v.value, index(k)))


@operation(_emit_extract)
def extract(v: Any, k: Any) -> Any:
    """Return one element of a vector as a number.

    Parameters
    ----------
    v : vector or mask
        Values.
    k : int
        Lane.

    Returns
    -------
    number or bool
        The element.

    Examples
    --------
    >>> from nbnorm import simd
    >>> float(simd.extract(simd.splat(2.0, 4), 1))
    2.0
    """
    return v.values[k]


def _emit_insert(v: Any, k: Any, x: Any) -> Any:
    value = _emitted.as_type(x, v.type.dtype)
    value = _emitted.converted(value, v.type.dtype).value
    return v.with_value(value if v.lanes == 1 else emission()[1].insert_element(v.value, value, index(k)))


@operation(_emit_insert)
def insert(v: Any, k: Any, x: Any) -> Any:
    """Return a vector in which one element is replaced.

    Parameters
    ----------
    v : vector
        Values.
    k : int
        Lane.
    x : number
        New element.

    Returns
    -------
    vector
        The others are those of `v`.

    Examples
    --------
    >>> from nbnorm import simd
    >>> simd.insert(simd.splat(2.0, 3), 1, 5.0)
    NumpyVector(array([2., 5., 2.]))
    """
    values = v.values.copy()
    values[k] = x
    return NumpyVector(values)


def _emit_gather(x: Any, indices: Any) -> Emitted:
    builder, numba_type = emission()[1], Vector(x.type.dtype, indices.lanes)
    result = ir.Constant(llvm_type(numba_type), ir.Undefined)
    for k in range(indices.lanes):
        value = emit_get(x, _emit_extract(indices, k)).value
        result = builder.insert_element(result, value, I32(k)) if indices.lanes > 1 else value
    return Emitted(numba_type, result)


@operation(_emit_gather)
def gather(x: Any, indices: Any) -> Any:
    """Load elements from anywhere in an array.

    Parameters
    ----------
    x : array or pointer
        C-contiguous array with any number of axes.
    indices : vector of integers
        Number of each element, all axes flattened.

    Returns
    -------
    vector
        ``x[indices]``.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import simd
    >>> simd.gather(np.arange(9.0), 2 * simd.iota(np.int64, 4))
    NumpyVector(array([0., 2., 4., 6.]))
    """
    return NumpyVector(np.array([_numpy.elements(x, i, 1)[0] for i in indices.values], x.dtype))
