"""Operations on vectors: what compiled code contains, and beside it the same on NumPy arrays."""

from __future__ import annotations

import builtins
import functools
import operator
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from llvmlite import ir
from numba import types
from numba.np import arrayobj

from nbnorm.simd import _emitted, _numpy
from nbnorm.simd._emitted import I32, I64, Emitted, TileRows, emission, index, intrinsic, static, suffix
from nbnorm.simd._numpy import NumpyVector
from nbnorm.simd._types import Mask, Vector, llvm_type, number_type
from nbnorm.simd.target import native_lanes, target

Function = TypeVar("Function", bound=Callable[..., Any])


def traced(function: Function) -> Function:
    """Make a function of vectors, tiles and memory part of the compiled code that calls it.

    Its body runs once while the caller is compiled, and each operation in it becomes an instruction.  So it
    may use everything in `nbnorm.simd`, other traced functions, and loops over what is known then, such as
    the rows of a tile or ``range(4)``; ``if`` and ``while`` cannot depend on values of the running program,
    which is what `where` is for.  Called from Python, it works on vectors that are NumPy arrays.

    Numbers of different type meet as in NumPy, but constants written in Python take the type of what they
    meet: ``2 * x`` is float32 if x is.

    Parameters
    ----------
    function : function
        It takes and returns values, tuples of values, constants or nothing.

    Returns
    -------
    function
        To be called from ``@njit`` code, from other traced functions and from Python.

    See Also
    --------
    elementwise : for functions of values alone, which then work on NumPy's arrays as well.

    Examples
    --------
    >>> import numpy as np
    >>> from numba import njit
    >>> from nbnorm import simd
    >>> @simd.traced
    ... def dot4(x, y, i):
    ...     return simd.sum(simd.load(x, i, 4) * simd.load(y, i, 4))
    >>> @njit
    ... def dot(x, y):
    ...     total = 0.0
    ...     for i in range(0, x.size, 4):
    ...         total += dot4(x, y, i)
    ...     return total
    >>> x = np.arange(8.0)
    >>> dot(x, x)
    140.0
    >>> float(dot4(x, x, 0))
    14.0
    """
    _emitted.compiles(function, function)
    return function


def elementwise(function: Function) -> Function:
    """Make a function of numbers or vectors serve compiled code, and NumPy's arrays in Python.

    It is traced, see `traced`; given numbers it returns numbers, given vectors vectors.  Called from Python
    it takes numbers and arrays, and returns the same.

    Parameters
    ----------
    function : function
        Formula whose arguments and results are values.

    Returns
    -------
    function
        To be called from ``@njit`` code, from other such functions and from Python.

    Examples
    --------
    >>> import numpy as np
    >>> from numba import njit
    >>> from nbnorm import simd
    >>> @simd.elementwise
    ... def hinge(x):
    ...     return simd.max(1 - x, 0)
    >>> @njit
    ... def hinges(x, out):
    ...     for i in range(0, x.size, 4):
    ...         simd.store(out, i, hinge(simd.load(x, i, 4)))
    >>> x = np.array([-1.0, 0.5, 1.0, 2.0])
    >>> hinge(x)
    array([2. , 0.5, 0. , 0. ])
    >>> out = np.empty(4)
    >>> hinges(x, out)
    >>> out
    array([2. , 0.5, 0. , 0. ])
    """

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if emission() is not None or builtins.any(isinstance(x, NumpyVector) for x in args):
            return function(*args, **kwargs)
        return _plain(function(*_numpy.vectors(args), **kwargs))

    _emitted.compiles(call, function)
    return call  # type: ignore[return-value]


def _plain(result: Any) -> Any:
    """Return arrays and numbers instead of vectors."""
    if isinstance(result, NumpyVector):
        return result.values[()]
    return tuple(_plain(x) for x in result) if isinstance(result, tuple) else result


def _operation(emit: Callable[..., Any]) -> Callable[[Function], Function]:
    """Decorate the NumPy version of an operation that compiled code gets from `emit`."""

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            return (function if emission() is None else emit)(*args, **kwargs)

        _emitted.compiles(call, emit)
        return call  # type: ignore[return-value]

    return decorate


def _builder() -> Any:
    return emission()[1]


# ----------------------------------------------------------------------------------------------
# Memory
# ----------------------------------------------------------------------------------------------


def _place(x: Any, i: Any, lanes: int) -> tuple[Any, Any, int]:
    """Return the type of a vector in memory, its address and the bytes of an element."""
    kind = Vector(x.kind.dtype, lanes)
    pointer = _builder().bitcast(_emitted.address(x, i), llvm_type(kind).as_pointer())
    return kind, pointer, kind.dtype.bitwidth // 8


def _first(count: Any, lanes: int) -> Any:
    """Return the mask of the first `count` lanes as LLVM has it."""
    builder, number = _builder(), index(count)
    most = I64(lanes)
    number = builder.select(builder.icmp_signed("<", number, most), number, most)
    number = builder.trunc(number, I32)
    if lanes == 1:
        return builder.icmp_signed(">", number, I32(0))
    places = ir.Constant(ir.VectorType(I32, lanes), list(range(lanes)))
    return builder.icmp_signed("<", places, _emitted.splatted(number, lanes))


def _mask_of(lanes: int, mask: Any) -> Any:
    """Return a mask, or a number of first lanes, as the LLVM vector of a mask, one lane also being one."""
    value = mask.value if isinstance(mask, Emitted) and isinstance(mask.kind, Mask) else _first(mask, lanes)
    if lanes > 1:
        return value
    return _builder().insert_element(
        ir.Constant(ir.VectorType(ir.IntType(1), 1), ir.Undefined), value, I32(0)
    )


def _emit_load(x: Any, i: Any, lanes: Any, mask: Any = None, fill: Any = 0) -> Emitted:
    lanes = static("lanes", lanes)
    kind, pointer, item = _place(x, i, lanes)
    if mask is None:
        return Emitted(kind, _builder().load(pointer, align=item))
    builder, form = _builder(), ir.VectorType(llvm_type(kind.dtype), lanes)
    rest = _emitted.as_kind(fill, kind).value
    if lanes == 1:
        rest = builder.insert_element(ir.Constant(form, ir.Undefined), rest, I32(0))
    pointer = builder.bitcast(pointer, form.as_pointer())
    name = f"llvm.masked.load.{suffix(form)}.p0"
    got = intrinsic(name, form, [pointer, I32(item), _mask_of(lanes, mask), rest])
    return Emitted(kind, got if lanes > 1 else builder.extract_element(got, I32(0)))


@_operation(_emit_load)
def load(x: Any, i: Any, lanes: Any, mask: Any = None, fill: Any = 0) -> Any:
    """Load a vector from memory.

    Parameters
    ----------
    x : array or pointer
        C-contiguous array with any number of axes.
    i : int
        Number of the first element, all axes flattened; not negative, and not checked in compiled code.
    lanes : int
        Number of elements, known when the code is compiled.
    mask : int or mask, optional
        Elements to load: the first so many, or those where a mask is set.  Others are not read from memory.
    fill : number, default 0
        What stands in lanes that are not loaded.

    Returns
    -------
    vector
        Elements i to i + lanes.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import simd
    >>> simd.load(np.arange(5.0), 3, 4, 2)
    NumpyVector(array([3., 4., 0., 0.]))
    """
    if mask is None:
        return NumpyVector(_numpy.elements(x, i, lanes).copy())
    result = np.full(lanes, fill, x.dtype)
    chosen = _numpy.chosen(mask, lanes)
    for k in chosen:
        result[k] = _numpy.elements(x, i + k, 1)[0]
    return NumpyVector(result)


def _emit_store(x: Any, i: Any, v: Any, mask: Any = None) -> None:
    v = _emitted.as_kind(v, number_type(x.kind.dtype))
    if v.dtype != np.dtype(str(x.kind.dtype)):
        raise TypeError(f"{v.kind} does not go into an array of {x.kind.dtype}: convert it")
    builder = _builder()
    kind, pointer, item = _place(x, i, v.lanes)
    if mask is None:
        builder.store(v.value, pointer, align=item)
        return
    value = v.value
    form = ir.VectorType(llvm_type(kind.dtype), v.lanes)
    if v.lanes == 1:
        value = builder.insert_element(ir.Constant(form, ir.Undefined), value, I32(0))
    pointer = builder.bitcast(pointer, form.as_pointer())
    name = f"llvm.masked.store.{suffix(form)}.p0"
    intrinsic(name, ir.VoidType(), [value, pointer, I32(item), _mask_of(v.lanes, mask)])


@_operation(_emit_store)
def store(x: Any, i: Any, v: Any, mask: Any = None) -> None:
    """Store a vector to memory.

    Parameters
    ----------
    x : array or pointer
        C-contiguous array with any number of axes, of the type of the vector's elements.
    i : int
        Number of the first element, all axes flattened; not negative, and not checked in compiled code.
    v : vector or number
        What is stored.
    mask : int or mask, optional
        Elements to store: the first so many, or those where a mask is set.  Others are not touched.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import simd
    >>> x = np.arange(5.0)
    >>> simd.store(x, 1, simd.splat(9.0, 4), 2)
    >>> x
    array([0., 9., 9., 3., 4.])
    """
    values = np.atleast_1d(v.values if isinstance(v, NumpyVector) else np.asarray(v, x.dtype))
    if values.dtype != x.dtype:
        raise TypeError(f"{values.dtype} does not go into an array of {x.dtype}: convert it")
    if mask is None:
        _numpy.elements(x, i, values.size)[:] = values
    else:
        for k in _numpy.chosen(mask, values.size):
            _numpy.elements(x, i + k, 1)[0] = values[k]


def _emit_stream(x: Any, i: Any, v: Any) -> None:
    v = _emitted.as_kind(v, number_type(x.kind.dtype))
    builder = _builder()
    kind, _, item = _place(x, i, v.lanes)
    lanes = native_lanes(v.dtype)
    if v.lanes % lanes or v.kind != kind:
        raise TypeError(f"{v.kind} cannot be streamed: its lanes must be a multiple of {lanes}")
    flag = builder.module.add_metadata([I32(1)])
    for first in range(0, v.lanes, lanes):  # LLVM would take a wider store to be aligned to its whole size
        part = (
            v.value
            if v.lanes == lanes
            else _emitted.shuffled(v.value, v.value, [first + k for k in range(lanes)])
        )
        place = builder.gep(_emitted.address(x, i), [I64(first)], inbounds=True)
        line = builder.store(part, builder.bitcast(place, part.type.as_pointer()), align=lanes * item)
        line.set_metadata("nontemporal", flag)


@_operation(_emit_stream)
def stream(x: Any, i: Any, v: Any) -> None:
    """Store a vector to memory past the caches (a non-temporal store).

    It saves reading the lines that are overwritten, and pays where much more is written than the caches hold
    and whole cache lines are.  A `fence` must follow before other threads read.  Where the processor has no
    such store it is a plain one.

    Parameters
    ----------
    x : array or pointer
        C-contiguous array of the type of the vector's elements.
    i : int
        Number of the first element; its address must be a multiple of ``target().register_bytes``.
    v : vector
        What is stored; its lanes are a multiple of `native_lanes`.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import simd
    >>> x = np.zeros(16)
    >>> simd.stream(x, 0, simd.splat(1.0, 16))
    >>> float(x.sum())
    16.0
    """
    store(x, i, v)


def _emit_fence() -> None:
    _builder().fence("seq_cst")


@_operation(_emit_fence)
def fence() -> None:
    """Wait until what has been stored, with `stream` as well, is seen by all threads.

    Examples
    --------
    >>> from nbnorm import simd
    >>> simd.fence()
    """


def _emit_prefetch(x: Any, i: Any, size: Any = 1, level: Any = 1, write: Any = False) -> None:
    builder, byte = _builder(), ir.IntType(8).as_pointer()
    base = builder.bitcast(_emitted.address(x, i), byte)
    for line in range(0, static("size", size), 64):
        place = builder.gep(base, [I64(line)])
        args = [place, I32(int(write)), I32(4 - static("level", level)), I32(1)]
        intrinsic("llvm.prefetch.p0", ir.VoidType(), args)


@_operation(_emit_prefetch)
def prefetch(x: Any, i: Any, size: Any = 1, level: Any = 1, write: Any = False) -> None:
    """Ask for memory that will be needed soon; it never faults, wherever it leads.

    Parameters
    ----------
    x : array or pointer
        C-contiguous array.
    i : int
        Number of the first element, inside the array or not.
    size : int, default 1
        Bytes; one request is made for each 64.
    level : int, default 1
        Cache to fetch into: 1, 2 or 3.
    write : bool, default False
        Whether it is going to be written.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import simd
    >>> simd.prefetch(np.zeros(4), 100)
    """


def _emit_get(x: Any, i: Any) -> Emitted:
    return Emitted(x.kind.dtype, _builder().load(_place(x, i, 1)[1]))


@_operation(_emit_get)
def get(x: Any, i: Any) -> Any:
    """Return one element, without Numba's treatment of negative indices.

    Parameters
    ----------
    x : array or pointer
        C-contiguous array with any number of axes.
    i : int
        Number of the element, all axes flattened.

    Returns
    -------
    number
        The element.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import simd
    >>> float(simd.get(np.arange(6.0).reshape(2, 3), 4))
    4.0
    """
    return _numpy.elements(x, i, 1)[0]


def _emit_put(x: Any, i: Any, value: Any) -> None:
    value = _emitted.as_kind(value, x.kind.dtype)
    _builder().store(_emitted.converted(value, x.kind.dtype).value, _place(x, i, 1)[1])


@_operation(_emit_put)
def put(x: Any, i: Any, value: Any) -> None:
    """Set one element, without Numba's treatment of negative indices.

    Parameters
    ----------
    x : array or pointer
        C-contiguous array with any number of axes.
    i : int
        Number of the element, all axes flattened.
    value : number
        It is converted to the type of the array.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import simd
    >>> x = np.zeros(3)
    >>> simd.put(x, 1, 5)
    >>> x
    array([0., 5., 0.])
    """
    _numpy.elements(x, i, 1)[0] = value


def _emit_peek(address: Any, offset: Any, dtype: Any) -> Emitted:
    builder, number = _builder(), number_type(dtype)
    base = builder.inttoptr(index(address), ir.IntType(8).as_pointer())
    place = builder.gep(base, [index(offset)])
    return Emitted(number, builder.load(builder.bitcast(place, llvm_type(number).as_pointer()), align=1))


@_operation(_emit_peek)
def peek(address: Any, offset: Any, dtype: Any) -> Any:
    """Return the number that stands in memory at an address, aligned or not.

    Parameters
    ----------
    address : int
        Address, such as ``x.ctypes.data``.
    offset : int
        Bytes behind the address.
    dtype : dtype
        Type of the number.

    Returns
    -------
    number
        The number.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import simd
    >>> x = np.arange(4.0)
    >>> float(simd.peek(x.ctypes.data, 16, np.float64))
    2.0
    """
    return _numpy.element(address + offset, dtype)


def _emit_array_at(address: Any, size: Any, dtype: Any) -> Emitted:
    context, builder = emission()
    kind = types.Array(number_type(dtype), 1, "C")
    array = context.make_array(kind)(context, builder)
    item = context.get_constant(types.intp, kind.dtype.bitwidth // 8)
    data = builder.inttoptr(index(address), array.data.type)
    arrayobj.populate_array(array, data, [index(size)], [item], item, None)
    return Emitted(kind, array._getvalue())


@_operation(_emit_array_at)
def array_at(address: Any, size: Any, dtype: Any) -> Any:
    """Return the array that stands in memory at an address.

    It has no owner and nothing counts references to it: the caller keeps the memory alive.

    Parameters
    ----------
    address : int
        Address of the first element.
    size : int
        Number of elements.
    dtype : dtype
        Type of the elements.

    Returns
    -------
    array, shape (size,)
        View of the memory.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import simd
    >>> x = np.arange(4.0)
    >>> simd.array_at(x.ctypes.data, 4, np.float64)[3] == 3
    np.True_
    """
    return _numpy.memory(address, (int(size),), dtype)


def _emit_gather(x: Any, indices: Any) -> Emitted:
    builder, kind = _builder(), Vector(x.kind.dtype, indices.lanes)
    result = ir.Constant(llvm_type(kind), ir.Undefined)
    for k in range(indices.lanes):
        value = _emit_get(x, _emit_extract(indices, k)).value
        result = builder.insert_element(result, value, I32(k)) if indices.lanes > 1 else value
    return Emitted(kind, result)


@_operation(_emit_gather)
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


# ----------------------------------------------------------------------------------------------
# Making vectors
# ----------------------------------------------------------------------------------------------


def _emit_splat(x: Any, lanes: Any) -> Emitted:
    x = _emitted.constant(types.float64, x) if isinstance(x, float) else x
    x = _emitted.constant(types.int64, x) if isinstance(x, int) else x
    lanes = static("lanes", lanes)
    return Emitted(Vector(x.kind, lanes), _emitted.splatted(x.value, lanes))


@_operation(_emit_splat)
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


@_operation(_emit_zeros)
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
    kind = Vector(dtype, static("lanes", lanes))
    form = llvm_type(kind)
    values = [float(k) if isinstance(kind.dtype, types.Float) else k for k in range(kind.lanes)]
    return Emitted(kind, ir.Constant(form, values if kind.lanes > 1 else values[0]))


@_operation(_emit_iota)
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
    return _emitted.as_kind(number, x.kind)


@_operation(_emit_full_like)
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
    return Emitted(Mask(lanes), _first(count, lanes))


@_operation(_emit_first_lanes)
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
        raise TypeError(f"this needs float32 or float64, got {x.kind}")
    return x


def _emit_unary(name: str) -> Callable[[Any], Any]:
    def emit(x: Any) -> Any:
        x = _floating(x)
        return x.with_value(intrinsic(f"llvm.{name}.{suffix(x.value.type)}", x.value.type, [x.value]))

    return emit


@_operation(builtins.abs)
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


@_operation(_emit_unary("sqrt"))
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


@_operation(_emit_unary("rint"))
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


@_operation(_emit_unary("floor"))
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


@_operation(_emit_unary("ceil"))
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


@_operation(_emit_fma)
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


def _emit_min(x: Any, y: Any) -> Any:
    x, y = _emitted.lift(x, y)
    return where(y < x, y, x)


@_operation(_emit_min)
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


def _emit_max(x: Any, y: Any) -> Any:
    x, y = _emitted.lift(x, y)
    return where(x < y, y, x)


@_operation(_emit_max)
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


@_operation(_emit_copysign)
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
        raise TypeError(f"where needs a mask, got {mask.kind}")
    x, y = _emitted.lift(x, y) if isinstance(x, Emitted) or isinstance(y, Emitted) else _constants(x, y)
    if isinstance(mask.kind, Mask) and not _emitted.is_vector(x):
        kind = Vector(x.kind, mask.lanes)
        x, y = _emitted.as_kind(x, kind), _emitted.as_kind(y, kind)
    if isinstance(mask.kind, Mask) and mask.lanes != x.lanes:
        raise TypeError(f"{mask.kind} does not choose between values of {x.kind}")
    return x.with_value(_builder().select(mask.value, x.value, y.value))


def _constants(x: Any, y: Any) -> tuple[Emitted, Emitted]:
    kind = types.float64 if isinstance(x, float) or isinstance(y, float) else types.int64
    return _emitted.constant(kind, x), _emitted.constant(kind, y)


@_operation(_emit_where)
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


@_operation(_emit_convert)
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
        raise TypeError(f"the bits of {x.kind} are no whole number of {number}")
    kind = Vector(number, lanes) if _emitted.is_vector(x) else number
    return Emitted(kind, _builder().bitcast(x.value, llvm_type(kind)))


@_operation(_emit_bitcast)
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
    kind = v.kind

    def pick(x: Any, lanes: list[int], other: Any = None, chosen: Any = None) -> Any:
        places = (
            lanes
            if chosen is None
            else [k if c else len(lanes) + k for k, c in zip(lanes, chosen, strict=True)]
        )
        value = _emitted.shuffled(x.value, x.value if other is None else other.value, places)
        return Emitted(Vector(kind.dtype, len(lanes)), value)

    got = _fold(v, v.lanes, _check_groups(v.lanes, count), pick, combine)
    return Emitted(kind.dtype, got.value) if groups is None else got


def _numpy_fold(v: Any, groups: Any, combine: Callable[..., Any]) -> Any:
    def pick(x: Any, lanes: list[int], other: Any = None, chosen: Any = None) -> Any:
        return x[lanes] if chosen is None else np.where(chosen, x, other)

    with np.errstate(all="ignore"):
        count = 1 if groups is None else groups
        got = _fold(v.values, v.lanes, _check_groups(v.lanes, count), pick, combine)
    return got[0] if groups is None else NumpyVector(got)


@_operation(lambda v, groups=None: _emit_fold(v, groups, operator.add))
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


@_operation(lambda v, groups=None: _emit_fold(v, groups, _emit_max))
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


@_operation(lambda v, groups=None: _emit_fold(v, groups, _emit_min))
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


@_operation(_emit_truth("or"))
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


@_operation(_emit_truth("and"))
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


def _choose(a: Any, b: Any, lanes: list[int]) -> Any:
    """Return these lanes of two vectors of one type; those of the second count on."""
    if emission() is None:
        return NumpyVector(np.concatenate((a.values, b.values))[lanes])
    if a.kind != b.kind:
        raise TypeError(f"{a.kind} and {b.kind} do not go together: convert one of them")
    kind = Mask(len(lanes)) if isinstance(a.kind, Mask) else Vector(a.kind.dtype, len(lanes))
    return Emitted(kind, _emitted.shuffled(a.value, b.value, lanes))


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
    places = [static("lanes", k) for k in lanes]
    if not builtins.all(0 <= k < v.lanes for k in places):
        raise TypeError(f"lanes must lie in 0 to {v.lanes - 1}, got {lanes}")
    return _choose(v, v, places)


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
    return _choose(v, v, list(range(v.lanes))[::-1])


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
    return _choose(v, v, [k for k in range(v.lanes) for _ in range(static("times", times))])


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
    return _choose(v, v, list(range(v.lanes)) * static("times", times))


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
    return _choose(v, v, list(range(first, first + lanes)))


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
def concatenate(a: Any, b: Any) -> Any:
    """Return two vectors of one type as one.

    Parameters
    ----------
    a, b : vector or mask
        Values.

    Returns
    -------
    vector or mask
        Those of `a`, then those of `b`.

    Examples
    --------
    >>> from nbnorm import simd
    >>> simd.concatenate(simd.splat(1.0, 2), simd.splat(2.0, 2))
    NumpyVector(array([1., 1., 2., 2.]))
    """
    return _choose(a, b, list(range(2 * a.lanes)))


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
    return _choose(a, b, [k // 2 + k % 2 * a.lanes for k in range(2 * a.lanes)])


def _emit_extract(v: Any, k: Any) -> Emitted:
    kind = v.kind.dtype
    if v.lanes == 1:
        return Emitted(kind, v.value)
    return Emitted(kind, _builder().extract_element(v.value, index(k)))


@_operation(_emit_extract)
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
    value = _emitted.as_kind(x, v.kind.dtype)
    value = _emitted.converted(value, v.kind.dtype).value
    return v.with_value(value if v.lanes == 1 else _builder().insert_element(v.value, value, index(k)))


@_operation(_emit_insert)
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


# ----------------------------------------------------------------------------------------------
# Register tiles
# ----------------------------------------------------------------------------------------------


@traced
def tile_zeros(dtype: Any, rows: Any, lanes: Any) -> Any:
    """Return a register tile of zeros.

    Parameters
    ----------
    dtype : dtype
        Type of the elements.
    rows, lanes : int
        Shape, known when the code is compiled.

    Returns
    -------
    tile
        Zeros.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import simd
    >>> len(simd.tile_zeros(np.float32, 4, 16))
    4
    """
    return TileRows(zeros(dtype, lanes) for _ in range(static("rows", rows)))


@traced
def tile_load(x: Any, i: Any, stride: Any, rows: Any, lanes: Any) -> Any:
    """Load a register tile from memory.

    Parameters
    ----------
    x : array or pointer
        C-contiguous array with any number of axes.
    i : int
        Number of the first element, all axes flattened.
    stride : int
        Elements from one row to the next.
    rows, lanes : int
        Shape, known when the code is compiled.

    Returns
    -------
    tile
        Row r begins at element ``i + r * stride``.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import simd
    >>> simd.row(simd.tile_load(np.arange(12.0), 0, 4, 3, 2), 2)
    NumpyVector(array([8., 9.]))
    """
    return TileRows(load(x, i + r * stride, lanes) for r in range(static("rows", rows)))


@traced
def tile_store(x: Any, i: Any, stride: Any, tile: Any) -> None:
    """Store a register tile to memory.

    Parameters
    ----------
    x : array or pointer
        C-contiguous array of the type of the tile's elements.
    i : int
        Number of the first element, all axes flattened.
    stride : int
        Elements from one row to the next.
    tile : tile
        What is stored.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import simd
    >>> x = np.ones((2, 3))
    >>> simd.tile_store(x, 0, 3, simd.tile_zeros(np.float64, 2, 2))
    >>> x
    array([[0., 0., 1.],
           [0., 0., 1.]])
    """
    for r, vector in enumerate(tile):
        store(x, i + r * stride, vector)


@traced
def rank1(tile: Any, a: Any, i: Any, v: Any) -> Any:
    """Add an outer product to a register tile: the step of a matrix product.

    Parameters
    ----------
    tile : tile
        Sums so far, of shape (rows, lanes).
    a : array or pointer
        C-contiguous array; elements i to i + rows are the column.
    i : int
        Number of its first element, all axes flattened.
    v : vector
        The row, with as many lanes as the tile.

    Returns
    -------
    tile
        Row r is ``fma(a[i + r], v, tile[r])``.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import simd
    >>> tile = simd.rank1(simd.tile_zeros(np.float64, 2, 3), np.array([1.0, 5.0]), 0, simd.splat(2.0, 3))
    >>> simd.row(tile, 1)
    NumpyVector(array([10., 10., 10.]))
    """
    return TileRows(fma(get(a, i + r), v, held) for r, held in enumerate(tile))


@traced
def row(tile: Any, r: Any) -> Any:
    """Return one row of a register tile.

    Parameters
    ----------
    tile : tile
        Values.
    r : int
        Row, known when the code is compiled.

    Returns
    -------
    vector
        The row.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import simd
    >>> simd.row(simd.tile_zeros(np.float64, 2, 3), 1)
    NumpyVector(array([0., 0., 0.]))
    """
    return tile[static("r", r)]


@traced
def tile_of(*rows: Any) -> Any:
    """Return the register tile with these rows.

    Parameters
    ----------
    *rows : vector
        Rows of one type.

    Returns
    -------
    tile
        The rows.

    Examples
    --------
    >>> from nbnorm import simd
    >>> len(simd.tile_of(simd.splat(1.0, 4), simd.splat(2.0, 4)))
    2
    """
    return TileRows(rows)


@traced
def tile_add(a: Any, b: Any) -> Any:
    """Add two register tiles.

    Parameters
    ----------
    a, b : tile
        Tiles of one shape.

    Returns
    -------
    tile
        ``a + b``.

    Examples
    --------
    >>> from nbnorm import simd
    >>> one = simd.tile_of(simd.splat(1.0, 2), simd.splat(2.0, 2))
    >>> simd.row(simd.tile_add(one, one), 1)
    NumpyVector(array([4., 4.]))
    """
    return TileRows(x + y for x, y in zip(a, b, strict=True))


@traced
def transpose(tile: Any) -> Any:
    """Transpose a square register tile, by shuffles of its rows.

    Parameters
    ----------
    tile : tile
        As many rows as lanes, a power of two.

    Returns
    -------
    tile
        Row r holds lane r of every row.

    Examples
    --------
    >>> from nbnorm import simd
    >>> simd.row(simd.transpose(simd.tile_of(simd.splat(1.0, 2), simd.splat(2.0, 2))), 0)
    NumpyVector(array([1., 2.]))
    """
    rows, size = list(tile), len(tile)
    if size & (size - 1) or rows[0].lanes != size:
        raise TypeError(f"a tile of {size} rows of {rows[0].lanes} lanes is no square of a power of two")
    half = 1
    while half < size:  # exchange the off-diagonal blocks, in growing size
        upper = [k if not k & half else size + k - half for k in range(size)]
        lower = [k + half if not k & half else size + k for k in range(size)]
        for i in range(size):
            if not i & half:
                a, b = rows[i], rows[i + half]
                rows[i], rows[i + half] = _choose(a, b, upper), _choose(a, b, lower)
        half *= 2
    return TileRows(rows)
