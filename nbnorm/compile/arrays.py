"""Arrays of Numba as LLVM's values, without the copies on the stack that Numba's own functions make."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from llvmlite import ir

_WORD = ir.IntType(64)


def data_of(context: Any, builder: Any, kind: Any, array: Any) -> Any:
    """Return the address of the first element."""
    return builder.extract_value(array, context.data_model_manager[kind].get_field_position("data"))


def array_at(context: Any, builder: Any, kind: Any, address: Any, shape: Sequence[Any]) -> Any:
    """Return the C-contiguous array of a shape that stands at an address, a number; it has no owner."""
    fields = context.data_model_manager[kind]
    item = ir.Constant(_WORD, context.get_abi_sizeof(context.get_data_type(kind.dtype)))
    strides = [item]
    for length in reversed(shape[1:]):
        strides.insert(0, builder.mul(strides[0], length))
    array = ir.Constant(context.get_value_type(kind), None)

    def put(name: str, value: Any, *axis: int) -> None:
        nonlocal array
        array = builder.insert_value(array, value, (fields.get_field_position(name), *axis))

    put("data", builder.inttoptr(address, array.type.elements[fields.get_field_position("data")]))
    put("nitems", functools.reduce(builder.mul, shape))
    put("itemsize", item)
    for axis, (length, stride) in enumerate(zip(shape, strides, strict=True)):
        put("shape", length, axis)
        put("strides", stride, axis)
    return array
