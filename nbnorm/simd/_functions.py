"""Traced functions that are compiled once, each by itself, and called by their address.

Inlined code uses the same registers as its caller, and a loop that needs all of them spills.  A function
that stands by itself has them all, and is compiled once however many callers it has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core.registry import cpu_target

from nbnorm.compile import pointers
from nbnorm.simd._emitted import I64, Emitted, address, as_type, emission, emitting, index
from nbnorm.simd._tracing import operation
from nbnorm.simd._types import llvm_type

_BYTES = ir.IntType(8).as_pointer()


class Signature(NamedTuple):
    """What a function takes, in this order, and whether it returns a number.

    Numbers have the type for which the function is compiled.
    """

    pointers: int
    integers: int
    numbers: int = 0
    returns: bool = False

    def llvm(self, number: Any) -> Any:
        """Return LLVM's type of the function."""
        scalar = llvm_type(number)
        numba_types = [_BYTES] * self.pointers + [I64] * self.integers + [scalar] * self.numbers
        return ir.FunctionType(scalar if self.returns else ir.VoidType(), numba_types)


def function_address(
    name: str,
    body: Callable[..., Any],
    signature: Signature,
    dtype: Any,
    *,
    others: Mapping[int, Any] | None = None,
) -> int:
    """Return the address of a function, which is compiled now unless it is in the cache.

    Parameters
    ----------
    name : str
        Name of the function and its types, by which the cache knows it.
    body : function
        Traced; it takes what `signature` says.
    signature : Signature
        Its arguments.
    dtype : dtype
        Type of the numbers, and of what pointers lead to.
    others : dict, optional
        Types of what the pointers with these numbers lead to instead.

    Returns
    -------
    int
        Address for a function that `caller` has made.
    """
    if config.DISABLE_JIT:
        return pointers.interpreted(body)

    def write(module: Any) -> None:
        number = numba.from_dtype(np.dtype(dtype))
        function = ir.Function(module, signature.llvm(number), name)
        function.attributes.add("nounwind")
        builder = ir.IRBuilder(function.append_basic_block("entry"))
        args = []
        for k, value in enumerate(function.args):
            if k < signature.pointers:
                numba_type = numba.from_dtype(np.dtype((others or {}).get(k, dtype)))
                pointer = builder.bitcast(value, llvm_type(numba_type).as_pointer())
                args.append(Emitted(types.CPointer(numba_type), pointer))
            else:
                whole = k < signature.pointers + signature.integers
                args.append(Emitted(types.int64 if whole else number, value))
        with emitting(cpu_target.target_context, builder):
            result = body(*args)
        if result is None:
            builder.ret_void()
        else:
            builder.ret(result.value)

    return pointers.emitted(name, write)


def caller(signature: Signature, offsets: tuple[int, ...]) -> Any:
    """Make ``call(function, array, offsets..., array, offsets..., integers..., numbers...)``.

    `offsets` says how many offsets follow each array: each is a pointer to that element.  Numbers have the
    type of the first array's elements.
    """

    def split(args: tuple[Any, ...]) -> tuple[list[tuple[Any, Any]], tuple[Any, ...]]:
        elements: list[tuple[Any, Any]] = []
        at = 0
        for count in offsets:
            elements += [(args[at], args[at + 1 + k]) for k in range(count)]
            at += 1 + count
        return elements, args[at:]

    def emit(function: Any, *args: Any) -> Any:
        elements, rest = split(args)
        builder, number = emission()[1], elements[0][0].type.dtype
        values = [builder.bitcast(address(*pair), _BYTES) for pair in elements]
        values += [index(value) for value in rest[: signature.integers]]
        values += [as_type(value, number).value for value in rest[signature.integers :]]
        pointer = builder.inttoptr(index(function), signature.llvm(number).as_pointer())
        result = builder.call(pointer, values)
        return Emitted(number, result) if signature.returns else None

    def call(function: int, *args: Any) -> Any:
        elements, rest = split(args)
        return pointers.function_at(function)(*(x.reshape(-1)[i:] for x, i in elements), *rest)

    return operation(emit)(call)
