"""Making vectors, arithmetic, choices and conversions."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from nbnorm.simd import _emitted, _numpy
from nbnorm.simd._emitted import Emitted, emission, intrinsic, static, suffix
from nbnorm.simd._numpy import NumpyVector
from nbnorm.simd._tracing import elementwise, operation
from nbnorm.simd._types import Mask, Vector, llvm_type, number_type
from nbnorm.simd.target import target

# ----------------------------------------------------------------------------------------------
# Making vectors
# ----------------------------------------------------------------------------------------------


def _emit_splat(x: Any, lanes: Any) -> Emitted:
    x = _emitted.constant(types.float64, x) if isinstance(x, float) else x
    x = _emitted.constant(types.int64, x) if isinstance(x, int) else x
    lanes = static("lanes", lanes)
    return Emitted(Vector(x.type, lanes), _emitted.splatted(x.value, lanes))


@operation(_emit_splat)
def splat(x: Any, lanes: Any) -> Any:
    """Return the vector with a number in every lane.

    Parameters
    ----------
    x : number
        The vector's elements are of its type.
    lanes : int
        Number of elements, known when the code is compiled.

    Returns
    -------
    vector
        The number in every lane.

    Examples
    --------
    >>> from nbnorm import simd
    >>> simd.splat(1.5, 3)
    NumpyVector(array([1.5, 1.5, 1.5]))
    """
    return NumpyVector(np.full(lanes, x))


def _emit_zeros(dtype: Any, lanes: Any) -> Emitted:
    return _emitted.constant(Vector(dtype, static("lanes", lanes)), 0)


@operation(_emit_zeros)
def zeros(dtype: Any, lanes: Any) -> Any:
    """Return a vector of zeros.

    Parameters
    ----------
    dtype : dtype
        Type of the elements, such as ``np.float32`` or ``x.dtype``.
    lanes : int
        Number of elements, known when the code is compiled.

    Returns
    -------
    vector
        Zeros.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import simd
    >>> simd.zeros(np.float32, 2)
    NumpyVector(array([0., 0.], dtype=float32))
    """
    return NumpyVector(np.zeros(lanes, dtype))


def _emit_iota(dtype: Any, lanes: Any) -> Emitted:
    numba_type = Vector(dtype, static("lanes", lanes))
    form = llvm_type(numba_type)
    values = [float(k) if isinstance(numba_type.dtype, types.Float) else k for k in range(numba_type.lanes)]
    return Emitted(numba_type, ir.Constant(form, values if numba_type.lanes > 1 else values[0]))


@operation(_emit_iota)
def iota(dtype: Any, lanes: Any) -> Any:
    """Return the vector of the numbers 0, 1, 2 and so on.

    Parameters
    ----------
    dtype : dtype
        Type of the elements.
    lanes : int
        Number of elements, known when the code is compiled.

    Returns
    -------
    vector
        The number of each lane.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import simd
    >>> simd.iota(np.int32, 4)
    NumpyVector(array([0, 1, 2, 3], dtype=int32))
    """
    return NumpyVector(np.arange(lanes, dtype=dtype))


def _emit_full_like(x: Any, number: Any) -> Emitted:
    return _emitted.as_type(number, x.type)


@operation(_emit_full_like)
def full_like(x: Any, number: Any) -> Any:
    """Return a number as a value of the type of another.

    Parameters
    ----------
    x : vector or number
        Gives type and number of lanes.
    number : number
        What stands in every lane.

    Returns
    -------
    vector or number
        Of the type of `x`.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import simd
    >>> simd.full_like(simd.zeros(np.float32, 2), 0.5)
    NumpyVector(array([0.5, 0.5], dtype=float32))
    """
    if isinstance(x, NumpyVector):
        return NumpyVector(np.full_like(x.values, number))
    return np.asarray(x).dtype.type(number)


def _emit_first_lanes(count: Any, lanes: Any) -> Emitted:
    lanes = static("lanes", lanes)
    return Emitted(Mask(lanes), _emitted.first(count, lanes))


@operation(_emit_first_lanes)
def first_lanes(count: Any, lanes: Any) -> Any:
    """Return the mask whose first lanes are set.

    Parameters
    ----------
    count : int
        How many of the first lanes are set.
    lanes : int
        Number of lanes, known when the code is compiled.

    Returns
    -------
    mask
        ``iota < count``.

    Examples
    --------
    >>> from nbnorm import simd
    >>> simd.first_lanes(2, 4)
    NumpyVector(array([ True,  True, False, False]))
    """
    return NumpyVector(np.arange(lanes) < count)


# ----------------------------------------------------------------------------------------------
# Arithmetic
# ----------------------------------------------------------------------------------------------


def _floating(x: Any) -> Any:
    if not isinstance(x, Emitted):
        return _emitted.constant(types.float64, x)
    if not x.floating:
        raise TypeError(f"this needs float32 or float64, got {x.type}")
    return x


def _emit_unary(name: str) -> Callable[[Any], Any]:
    def emit(x: Any) -> Any:
        x = _floating(x)
        return x.with_value(intrinsic(f"llvm.{name}.{suffix(x.value.type)}", x.value.type, [x.value]))

    return emit


@operation(builtins.abs)
def abs(x: Any) -> Any:
    """Absolute value.

    Parameters
    ----------
    x : vector or number
        Values.

    Returns
    -------
    vector or number
        ``|x|``.

    Examples
    --------
    >>> from nbnorm import simd
    >>> simd.abs(simd.splat(-1.0, 2))
    NumpyVector(array([1., 1.]))
    """
    return _numpy.apply(np.abs, x)


@operation(_emit_unary("sqrt"))
def sqrt(x: Any) -> Any:
    """Square root, rounded correctly.

    Parameters
    ----------
    x : vector or number
        Values, float32 or float64.

    Returns
    -------
    vector or number
        Square roots; NaN for negative numbers.

    Examples
    --------
    >>> from nbnorm import simd
    >>> simd.sqrt(simd.splat(4.0, 2))
    NumpyVector(array([2., 2.]))
    """
    return _numpy.apply(np.sqrt, x)


def _emit_power(x: Any, y: Any) -> Any:
    x, y = _emitted.lift(x, y)
    form = x.value.type
    return x.with_value(intrinsic(f"llvm.pow.{suffix(form)}", form, [x.value, y.value]))


@operation(_emit_power)
def power(x: Any, y: Any) -> Any:
    """Power of floating-point values by the C library, one lane after the other.

    It is meant for numbers that are computed once, not for inner loops.

    Parameters
    ----------
    x, y : vector or number
        Values of one type, float32 or float64.

    Returns
    -------
    vector or number
        ``x ** y``.

    Examples
    --------
    >>> from nbnorm import simd
    >>> simd.power(simd.splat(2.0, 2), 3.0)
    NumpyVector(array([8., 8.]))
    """
    return _numpy.apply(np.power, x, y)


@operation(_emit_unary("rint"))
def round(x: Any) -> Any:
    """Round to the nearest integer, halves to even; the result is floating-point.

    Parameters
    ----------
    x : vector or number
        Values, float32 or float64.

    Returns
    -------
    vector or number
        Integers as floating-point numbers.

    Examples
    --------
    >>> from nbnorm import simd
    >>> simd.round(simd.splat(2.5, 2))
    NumpyVector(array([2., 2.]))
    """
    return _numpy.apply(np.rint, x)


@operation(_emit_unary("floor"))
def floor(x: Any) -> Any:
    """Round down to an integer; the result is floating-point.

    Parameters
    ----------
    x : vector or number
        Values, float32 or float64.

    Returns
    -------
    vector or number
        Integers as floating-point numbers.

    Examples
    --------
    >>> from nbnorm import simd
    >>> simd.floor(simd.splat(-2.5, 2))
    NumpyVector(array([-3., -3.]))
    """
    return _numpy.apply(np.floor, x)


@operation(_emit_unary("ceil"))
def ceil(x: Any) -> Any:
    """Round up to an integer; the result is floating-point.

    Parameters
    ----------
    x : vector or number
        Values, float32 or float64.

    Returns
    -------
    vector or number
        Integers as floating-point numbers.

    Examples
    --------
    >>> from nbnorm import simd
    >>> simd.ceil(simd.splat(2.5, 2))
    NumpyVector(array([3., 3.]))
    """
    return _numpy.apply(np.ceil, x)


def _emit_fma(x: Any, y: Any, z: Any) -> Any:
    x, y, z = _emitted.lift(x, y, z)
    if not target().fma:
        return x * y + z
    form = _floating(x).value.type
    return x.with_value(intrinsic(f"llvm.fma.{suffix(form)}", form, [x.value, y.value, z.value]))


@operation(_emit_fma)
def fma(x: Any, y: Any, z: Any) -> Any:
    """Multiply and add: ``x * y + z``.

    It is rounded once where ``target().fma`` says that the processor has the instruction, twice elsewhere
    and in Python.

    Parameters
    ----------
    x, y, z : vector or number
        Values, float32 or float64.

    Returns
    -------
    vector or number
        ``x * y + z``.

    Examples
    --------
    >>> from nbnorm import simd
    >>> simd.fma(simd.splat(2.0, 2), 3.0, 1.0)
    NumpyVector(array([7., 7.]))
    """
    return _numpy.apply(lambda x, y, z: x * y + z, x, y, z)


def emit_min(x: Any, y: Any) -> Any:
    x, y = _emitted.lift(x, y)
    return where(y < x, y, x)


@operation(emit_min)
def min(x: Any, y: Any) -> Any:
    """Smaller of two values: y where y < x, x elsewhere.

    NaN in x passes, as it should when y is a bound; NaN in y is ignored.

    Parameters
    ----------
    x, y : vector or number
        Values of one type.

    Returns
    -------
    vector or number
        Smaller values.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import simd
    >>> simd.min(simd.load(np.array([1.0, 3.0, np.nan]), 0, 3), 2.0)
    NumpyVector(array([ 1.,  2., nan]))
    """
    return _numpy.apply(lambda x, y: np.where(y < x, y, x), x, y)


def emit_max(x: Any, y: Any) -> Any:
    x, y = _emitted.lift(x, y)
    return where(x < y, y, x)


@operation(emit_max)
def max(x: Any, y: Any) -> Any:
    """Larger of two values: y where x < y, x elsewhere.

    NaN in x passes, as it should when y is a bound; NaN in y is ignored.

    Parameters
    ----------
    x, y : vector or number
        Values of one type.

    Returns
    -------
    vector or number
        Larger values.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import simd
    >>> simd.max(simd.load(np.array([1.0, 3.0, np.nan]), 0, 3), 2.0)
    NumpyVector(array([ 2.,  3., nan]))
    """
    return _numpy.apply(lambda x, y: np.where(x < y, y, x), x, y)


@elementwise
def clamp(x: Any, low: Any, high: Any) -> Any:
    """Bound values from below and above; NaN passes.

    Parameters
    ----------
    x : vector or number
        Values.
    low, high : vector or number
        Bounds.

    Returns
    -------
    vector or number
        Values within the bounds.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import simd
    >>> simd.clamp(simd.load(np.array([1.0, 3.0, np.nan]), 0, 3), 0, 2)
    NumpyVector(array([ 1.,  2., nan]))
    """
    return min(max(x, low), high)


def _emit_copysign(x: Any, y: Any) -> Any:
    x, y = _emitted.lift(x, y)
    form = _floating(x).value.type
    return x.with_value(intrinsic(f"llvm.copysign.{suffix(form)}", form, [x.value, y.value]))


@operation(_emit_copysign)
def copysign(x: Any, y: Any) -> Any:
    """Return x with the sign of y.

    Parameters
    ----------
    x, y : vector or number
        Values, float32 or float64.

    Returns
    -------
    vector or number
        ``|x|`` with the sign of y.

    Examples
    --------
    >>> from nbnorm import simd
    >>> simd.copysign(simd.splat(2.0, 2), -0.0)
    NumpyVector(array([-2., -2.]))
    """
    return _numpy.apply(np.copysign, x, y)


def _emit_where(mask: Any, x: Any, y: Any) -> Any:
    if not isinstance(mask, Emitted):
        return _emitted.lift(x, y)[0 if mask else 1]
    if mask.dtype.kind != "b":
        raise TypeError(f"where needs a mask, got {mask.type}")
    x, y = _emitted.lift(x, y) if isinstance(x, Emitted) or isinstance(y, Emitted) else _constants(x, y)
    if isinstance(mask.type, Mask) and not _emitted.is_vector(x):
        numba_type = Vector(x.type, mask.lanes)
        x, y = _emitted.as_type(x, numba_type), _emitted.as_type(y, numba_type)
    if isinstance(mask.type, Mask) and mask.lanes != x.lanes:
        raise TypeError(f"{mask.type} does not choose between values of {x.type}")
    return x.with_value(emission()[1].select(mask.value, x.value, y.value))


def _constants(x: Any, y: Any) -> tuple[Emitted, Emitted]:
    numba_type = types.float64 if isinstance(x, float) or isinstance(y, float) else types.int64
    return _emitted.constant(numba_type, x), _emitted.constant(numba_type, y)


@operation(_emit_where)
def where(mask: Any, x: Any, y: Any) -> Any:
    """Choose between two values: x where the mask is set, y elsewhere; both are computed.

    Parameters
    ----------
    mask : mask or bool
        Result of a comparison.
    x, y : vector or number
        Values of one type.

    Returns
    -------
    vector or number
        Chosen values.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import simd
    >>> x = simd.load(np.array([-1.0, 3.0]), 0, 2)
    >>> simd.where(x < 0, 0, x)
    NumpyVector(array([0., 3.]))
    """
    chosen = mask.values if isinstance(mask, NumpyVector) else mask
    if isinstance(mask, NumpyVector) and not (isinstance(x, NumpyVector) or isinstance(y, NumpyVector)):
        return NumpyVector(np.where(chosen, *_numpy.lift(x, y)))
    return _numpy.apply(lambda x, y: np.where(chosen, x, y), x, y)


# ----------------------------------------------------------------------------------------------
# Types
# ----------------------------------------------------------------------------------------------


def _emit_convert(x: Any, dtype: Any) -> Emitted:
    if not isinstance(x, Emitted):
        return _emitted.constant(number_type(dtype), x)
    return _emitted.converted(x, dtype)


@operation(_emit_convert)
def convert(x: Any, dtype: Any) -> Any:
    """Convert to another type of numbers, wider or narrower.

    To a narrower floating-point type values are rounded, to an integer they are cut towards 0; integers that
    do not fit keep their lowest bits, floating-point numbers that fit no integer give any.  A mask becomes 0
    and 1.

    Parameters
    ----------
    x : vector, mask or number
        Values.
    dtype : dtype
        Type of the result.

    Returns
    -------
    vector or number
        With as many lanes.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import simd
    >>> simd.convert(simd.splat(-1.5, 2), np.int32)
    NumpyVector(array([-1, -1], dtype=int32))
    """
    with np.errstate(all="ignore"):
        if isinstance(x, NumpyVector):
            return NumpyVector(x.values.astype(dtype))
        return np.asarray(x).astype(dtype)[()]


def _emit_bitcast(x: Any, dtype: Any) -> Emitted:
    number, item = number_type(dtype), x.dtype.itemsize
    lanes = x.lanes * item * 8 // number.bitwidth
    if lanes * number.bitwidth != x.lanes * item * 8:
        raise TypeError(f"the bits of {x.type} are no whole number of {number}")
    numba_type = Vector(number, lanes) if _emitted.is_vector(x) else number
    return Emitted(numba_type, emission()[1].bitcast(x.value, llvm_type(numba_type)))


@operation(_emit_bitcast)
def bitcast(x: Any, dtype: Any) -> Any:
    """Take the same bits as values of another type.

    Parameters
    ----------
    x : vector or number
        Values.
    dtype : dtype
        Type of the result; the number of lanes changes with its size.

    Returns
    -------
    vector or number
        The same bits.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import simd
    >>> simd.bitcast(simd.splat(1.0, 2), np.int64) >> 52
    NumpyVector(array([1023, 1023]))
    """
    if isinstance(x, NumpyVector):
        return NumpyVector(x.values.view(dtype))
    return np.asarray(x).view(dtype)[()]
