"""Instructions for kernels that are still written in LLVM's terms."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils

_I64 = ir.IntType(64)


class Emitted:
    """A floating-point value, scalar or vector, in code that is being emitted, with the operators of numbers.

    Steps written with operators serve the interpreter's arrays as well.
    """

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value = builder, value

    def __add__(self, other: Emitted) -> Emitted:
        return Emitted(self.builder, self.builder.fadd(self.value, other.value))

    def __sub__(self, other: Emitted) -> Emitted:
        return Emitted(self.builder, self.builder.fsub(self.value, other.value))

    def __mul__(self, other: Emitted) -> Emitted:
        return Emitted(self.builder, self.builder.fmul(self.value, other.value))

    def __truediv__(self, other: Emitted) -> Emitted:
        return Emitted(self.builder, self.builder.fdiv(self.value, other.value))

    def __lt__(self, other: Emitted) -> Any:
        return self.builder.fcmp_ordered("<", self.value, other.value)


def emit_splat(builder: Any, value: Any, lanes: int) -> Any:
    """Return the vector with a value in every lane, or the value itself for a single lane."""
    if lanes == 1:
        return value
    undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    first = builder.insert_element(undefined, value, ir.IntType(32)(0))
    return builder.shuffle_vector(
        first, undefined, ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
    )


def emit_sqrt(builder: Any, value: Any, lanes: int) -> Any:
    """Return the square roots of float64 values: of a vector, or of one for a single lane."""
    name = "llvm.sqrt.f64" if lanes == 1 else f"llvm.sqrt.v{lanes}f64"
    kind = ir.FunctionType(value.type, [value.type])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [value])


def emit_prefetch(
    builder: Any, pointer: Any, size: int, *, ahead: int = 0, level: int = 1, write: bool = False
) -> None:
    """Ask for `size` bytes that begin `ahead` bytes behind `pointer`, into the cache of that level.

    It never faults, wherever the pointer leads.
    """
    byte, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag]), "llvm.prefetch.p0"
    )
    base = builder.bitcast(pointer, byte)
    for line in range(0, size, 64):
        place = builder.gep(base, [_I64(ahead + line)])
        builder.call(function, [place, flag(int(write)), flag(4 - level), flag(1)])
