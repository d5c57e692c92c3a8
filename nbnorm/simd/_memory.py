"""Vectors to and from memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from nbnorm.compile import arrays
from nbnorm.simd import _emitted, _numpy
from nbnorm.simd._emitted import I32, I64, Emitted, emission, index, intrinsic, static, suffix
from nbnorm.simd._numpy import NumpyVector
from nbnorm.simd._tracing import operation
from nbnorm.simd._types import Mask, Vector, llvm_type, number_type
from nbnorm.simd.target import native_lanes


def _typed_pointer(x: Any, i: Any, lanes: int) -> tuple[Any, Any, int]:
    """Return the type of a vector in memory, its address and the bytes of an element."""
    numba_type = Vector(x.type.dtype, lanes)
    pointer = emission()[1].bitcast(_emitted.address(x, i), llvm_type(numba_type).as_pointer())
    return numba_type, pointer, numba_type.dtype.bitwidth // 8


def _mask_of(lanes: int, mask: Any) -> Any:
    """Return a mask, or a number of first lanes, as an LLVM vector, also of one lane."""
    value = (
        mask.value
        if isinstance(mask, Emitted) and isinstance(mask.type, Mask)
        else _emitted.first(mask, lanes)
    )
    if lanes > 1:
        return value
    return emission()[1].insert_element(
        ir.Constant(ir.VectorType(ir.IntType(1), 1), ir.Undefined), value, I32(0)
    )


def _emit_load(x: Any, i: Any, lanes: Any, mask: Any = None, fill: Any = 0) -> Emitted:
    lanes = static("lanes", lanes)
    numba_type, pointer, item = _typed_pointer(x, i, lanes)
    if mask is None:
        return Emitted(numba_type, emission()[1].load(pointer, align=item))
    builder, form = emission()[1], ir.VectorType(llvm_type(numba_type.dtype), lanes)
    rest = _emitted.as_type(fill, numba_type).value
    if lanes == 1:
        rest = builder.insert_element(ir.Constant(form, ir.Undefined), rest, I32(0))
    pointer = builder.bitcast(pointer, form.as_pointer())
    name = f"llvm.masked.load.{suffix(form)}.p0"
    got = intrinsic(name, form, [pointer, I32(item), _mask_of(lanes, mask), rest])
    return Emitted(numba_type, got if lanes > 1 else builder.extract_element(got, I32(0)))


@operation(_emit_load)
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


def _registers(v: Emitted) -> Iterator[tuple[int, Any]]:
    """Yield the parts of a vector that fill one register, each with its first lane.

    LLVM would write a wide vector in an order of its own, which costs time: caches take lines in order.
    """
    lanes = native_lanes(v.dtype)
    if v.lanes <= lanes or v.lanes % lanes:
        yield 0, v.value
    else:
        for first in range(0, v.lanes, lanes):
            yield first, _emitted.shuffled(v.value, v.value, list(range(first, first + lanes)))


def _emit_store(x: Any, i: Any, v: Any, mask: Any = None) -> None:
    v = _emitted.as_type(v, number_type(x.type.dtype))
    if v.dtype != np.dtype(str(x.type.dtype)):
        raise TypeError(f"{v.type} does not go into an array of {x.type.dtype}: convert it")
    builder = emission()[1]
    numba_type, pointer, item = _typed_pointer(x, i, v.lanes)
    if mask is None:
        for first, part in _registers(v):
            pointer = builder.gep(_emitted.address(x, i), [I64(first)], inbounds=True)
            builder.store(part, builder.bitcast(pointer, part.type.as_pointer()), align=item)
        return
    value = v.value
    form = ir.VectorType(llvm_type(numba_type.dtype), v.lanes)
    if v.lanes == 1:
        value = builder.insert_element(ir.Constant(form, ir.Undefined), value, I32(0))
    pointer = builder.bitcast(pointer, form.as_pointer())
    name = f"llvm.masked.store.{suffix(form)}.p0"
    intrinsic(name, ir.VoidType(), [value, pointer, I32(item), _mask_of(v.lanes, mask)])


@operation(_emit_store)
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
    v = _emitted.as_type(v, number_type(x.type.dtype))
    builder = emission()[1]
    numba_type, _, item = _typed_pointer(x, i, v.lanes)
    lanes = native_lanes(v.dtype)
    if v.lanes % lanes or v.type != numba_type:
        raise TypeError(f"{v.type} cannot be streamed: its lanes must be a multiple of {lanes}")
    flag = builder.module.add_metadata([I32(1)])
    for first, part in _registers(v):
        pointer = builder.gep(_emitted.address(x, i), [I64(first)], inbounds=True)
        line = builder.store(part, builder.bitcast(pointer, part.type.as_pointer()), align=lanes * item)
        line.set_metadata("nontemporal", flag)


@operation(_emit_stream)
def stream(x: Any, i: Any, v: Any) -> None:
    """Store a vector to memory with a non-temporal store, which does not go through the caches.

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
    emission()[1].fence("seq_cst")


@operation(_emit_fence)
def fence() -> None:
    """Wait until what has been stored, with `stream` as well, is seen by all threads.

    Examples
    --------
    >>> from nbnorm import simd
    >>> simd.fence()
    """


def _emit_prefetch(x: Any, i: Any, size: Any = 1, level: Any = 1, write: Any = False) -> None:
    builder, byte = emission()[1], ir.IntType(8).as_pointer()
    base = builder.bitcast(_emitted.address(x, i), byte)
    for line in range(0, static("size", size), 64):
        pointer = builder.gep(base, [I64(line)])
        args = [pointer, I32(int(write)), I32(4 - static("level", level)), I32(1)]
        intrinsic("llvm.prefetch.p0", ir.VoidType(), args)


@operation(_emit_prefetch)
def prefetch(x: Any, i: Any, size: Any = 1, level: Any = 1, write: Any = False) -> None:
    """Prefetch memory that will be needed soon; it never faults, whatever the address.

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


def _emit_in_register(v: Any) -> Emitted:
    form = llvm_type(v.type)
    return Emitted(v.type, intrinsic(f"llvm.arithmetic.fence.{suffix(form)}", form, [v.value]))


@operation(_emit_in_register)
def in_register(v: Any) -> Any:
    """Return a vector of floats as it is, loaded as a whole before parts of it are used.

    Without it the compiler may load the halves of a vector each by itself, such as those that `convert`
    widens: twice as many loads, which are what a loop over data from memory waits for.

    Parameters
    ----------
    v : vector or number
        Floating, from `load`.

    Returns
    -------
    vector or number
        `v`.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import simd
    >>> simd.convert(simd.in_register(simd.load(np.ones(2, np.float32), 0, 2)), np.float64)
    NumpyVector(array([1., 1.]))
    """
    return v


def _emit_stack_array(dtype: Any, size: Any) -> Emitted:
    numba_type = number_type(dtype)
    pointer = cgutils.alloca_once(emission()[1], llvm_type(numba_type), static("size", size))
    pointer.align = 64
    return Emitted(types.CPointer(numba_type), pointer)


@operation(_emit_stack_array)
def stack_array(dtype: Any, size: Any) -> Any:
    """Return memory on the stack of the function that is compiled, with any content.

    Parameters
    ----------
    dtype : dtype
        Type of the elements.
    size : int
        Number of elements, known when the code is compiled.  All arrays of a function together should stay
        below 4 KB, a page, which the stack of every platform has left.

    Returns
    -------
    pointer
        It begins at a cache line and ends with the function.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import simd
    >>> x = simd.stack_array(np.float32, 4)
    >>> simd.put(x, 3, 1.5)
    >>> simd.get(x, 3)
    np.float32(1.5)
    """
    return np.zeros(size, dtype)


def _emit_size(x: Any) -> Emitted:
    context, builder = emission()
    return Emitted(types.int64, context.make_array(x.type)(context, builder, x.value).nitems)


@operation(_emit_size)
def size(x: Any) -> Any:
    """Return the number of elements of an array, in a traced function.

    Parameters
    ----------
    x : array
        With any number of axes.

    Returns
    -------
    int
        ``x.size``.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import simd
    >>> simd.size(np.zeros((2, 3)))
    6
    """
    return x.size


def emit_get(x: Any, i: Any) -> Emitted:
    return Emitted(x.type.dtype, emission()[1].load(_typed_pointer(x, i, 1)[1]))


@operation(emit_get)
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
    value = _emitted.as_type(value, x.type.dtype)
    emission()[1].store(_emitted.converted(value, x.type.dtype).value, _typed_pointer(x, i, 1)[1])


@operation(_emit_put)
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


def _emit_address(x: Any, i: Any) -> Emitted:
    return Emitted(types.int64, emission()[1].ptrtoint(_emitted.address(x, i), I64))


@operation(_emit_address)
def address(x: Any, i: Any) -> Any:
    """Return where an element stands in memory.

    Parameters
    ----------
    x : array or pointer
        C-contiguous array with any number of axes.
    i : int
        Number of the element, all axes flattened.

    Returns
    -------
    int
        Its address.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import simd
    >>> x = np.zeros(4)
    >>> simd.address(x, 2) - x.ctypes.data
    16
    """
    return x.ctypes.data + int(i) * x.itemsize


def _emit_peek(address: Any, offset: Any, dtype: Any) -> Emitted:
    builder, number = emission()[1], number_type(dtype)
    base = builder.inttoptr(index(address), ir.IntType(8).as_pointer())
    pointer = builder.gep(base, [index(offset)])
    return Emitted(number, builder.load(builder.bitcast(pointer, llvm_type(number).as_pointer()), align=1))


@operation(_emit_peek)
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
    numba_type = types.Array(number_type(dtype), 1, "C")
    return Emitted(numba_type, arrays.array_at(context, builder, numba_type, index(address), [index(size)]))


@operation(_emit_array_at)
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
