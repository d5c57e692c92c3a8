"""Values in code that is being emitted: a function of them is traced while its caller is compiled.

`compiles` lets compiled code call a Python function.  When Numba compiles the call, the function's body runs
once, on values that write an LLVM instruction for each operation.  Nothing is typed or compiled apart, and no
call is left behind.
"""

from __future__ import annotations

import functools
import inspect
import operator
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils, errors
from numba.core.registry import cpu_target
from numba.core.typing.templates import AbstractTemplate, infer, infer_global, signature
from numba.extending import lower_builtin

from nbnorm.compile.arrays import data_of
from nbnorm.simd._types import Mask, Tile, Vector, llvm_type, number_type, numpy_dtype

I32, I64 = ir.IntType(32), ir.IntType(64)

_local = threading.local()


def emission() -> Any:
    """Return the (Numba context, LLVM builder) of the code that is being emitted in this thread, or None."""
    return getattr(_local, "emission", None)


@contextmanager
def emitting(context: Any, builder: Any) -> Iterator[None]:
    """Let operations write to a builder."""
    before, _local.emission = emission(), (context, builder)
    try:
        yield
    finally:
        _local.emission = before


def intrinsic(name: str, result: Any, args: list[Any]) -> Any:
    """Call one of LLVM's own functions."""
    _, builder = emission()
    function = ir.FunctionType(result, [value.type for value in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, function, name), args)


def suffix(form: Any) -> str:
    """Return how LLVM writes a type in the names of its functions."""
    lanes = f"v{form.count}" if isinstance(form, ir.VectorType) else ""
    scalar = form.element if lanes else form
    return f"{lanes}{scalar.intrinsic_name if hasattr(scalar, 'intrinsic_name') else f'i{scalar.width}'}"


class Emitted:
    """A number, vector, mask, truth value, array or pointer in code that is being emitted.

    Python's numbers take the type of what they meet, a single number takes that of a vector.
    """

    __array_ufunc__ = None  # NumPy's numbers leave their operators to this class

    def __init__(self, numba_type: Any, value: Any) -> None:
        self.type, self.value = numba_type, value

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the elements."""
        return numpy_dtype(self.type)

    @property
    def lanes(self) -> int:
        """Number of elements; 1 for numbers."""
        return getattr(self.type, "lanes", 1)

    @property
    def floating(self) -> bool:
        """Whether the elements are floating-point numbers."""
        return self.dtype.kind == "f"

    def with_value(self, value: Any) -> Emitted:
        """Return another value of the same type."""
        return Emitted(self.type, value)

    def __bool__(self) -> bool:
        raise TypeError("a value that is known only when the code runs has no truth here: use simd.where")

    def _arithmetic(self, other: Any, floating: str | None, integer: str | None, swap: bool = False) -> Any:
        if not isinstance(other, (Emitted, int, float, np.number, np.bool_)):
            return NotImplemented
        a, b = lift(other, self) if swap else lift(self, other)
        name = floating if a.floating else integer
        if name is None or (a.dtype.kind == "b" and name not in ("and_", "or_", "xor")):
            raise TypeError(f"this operator is not defined for {a.type}")
        return a.with_value(getattr(emission()[1], name)(a.value, b.value))

    def __add__(self, other: Any) -> Any:
        return self._arithmetic(other, "fadd", "add")

    def __radd__(self, other: Any) -> Any:
        return self._arithmetic(other, "fadd", "add", True)

    def __sub__(self, other: Any) -> Any:
        return self._arithmetic(other, "fsub", "sub")

    def __rsub__(self, other: Any) -> Any:
        return self._arithmetic(other, "fsub", "sub", True)

    def __mul__(self, other: Any) -> Any:
        return self._arithmetic(other, "fmul", "mul")

    def __rmul__(self, other: Any) -> Any:
        return self._arithmetic(other, "fmul", "mul", True)

    def __truediv__(self, other: Any) -> Any:
        return self._arithmetic(other, "fdiv", None)

    def __rtruediv__(self, other: Any) -> Any:
        return self._arithmetic(other, "fdiv", None, True)

    def __and__(self, other: Any) -> Any:
        return self._arithmetic(other, None, "and_")

    def __rand__(self, other: Any) -> Any:
        return self._arithmetic(other, None, "and_", True)

    def __or__(self, other: Any) -> Any:
        return self._arithmetic(other, None, "or_")

    def __ror__(self, other: Any) -> Any:
        return self._arithmetic(other, None, "or_", True)

    def __xor__(self, other: Any) -> Any:
        return self._arithmetic(other, None, "xor")

    def __rxor__(self, other: Any) -> Any:
        return self._arithmetic(other, None, "xor", True)

    def __lshift__(self, other: Any) -> Any:
        return self._arithmetic(other, None, "shl")

    def __rshift__(self, other: Any) -> Any:
        return self._arithmetic(other, None, "lshr" if self.dtype.kind == "u" else "ashr")

    def __invert__(self) -> Any:
        if self.floating:
            raise TypeError(f"~ is not defined for {self.type}")
        return self.with_value(emission()[1].not_(self.value))

    def __neg__(self) -> Any:
        if self.dtype.kind == "b":
            raise TypeError(f"- is not defined for {self.type}")
        builder = emission()[1]
        return self.with_value(builder.fneg(self.value) if self.floating else builder.neg(self.value))

    def __pos__(self) -> Any:
        return self

    def _compare(self, other: Any, sign: str) -> Any:
        if not isinstance(other, (Emitted, int, float, np.number, np.bool_)):
            return NotImplemented
        (a, b), builder = lift(self, other), emission()[1]
        if a.floating:
            compare = builder.fcmp_unordered if sign == "!=" else builder.fcmp_ordered
        else:
            compare = builder.icmp_signed if a.dtype.kind == "i" else builder.icmp_unsigned
        return Emitted(truth_type(a.type), compare(sign, a.value, b.value))

    def __lt__(self, other: Any) -> Any:
        return self._compare(other, "<")

    def __le__(self, other: Any) -> Any:
        return self._compare(other, "<=")

    def __gt__(self, other: Any) -> Any:
        return self._compare(other, ">")

    def __ge__(self, other: Any) -> Any:
        return self._compare(other, ">=")

    def __eq__(self, other: Any) -> Any:
        return self._compare(other, "==")

    def __ne__(self, other: Any) -> Any:
        return self._compare(other, "!=")

    __hash__ = object.__hash__

    def __abs__(self) -> Any:
        if self.floating:
            name = f"llvm.fabs.{suffix(self.value.type)}"
            return self.with_value(intrinsic(name, self.value.type, [self.value]))
        if self.dtype.kind == "u":
            return self
        builder = emission()[1]
        negative = builder.icmp_signed("<", self.value, constant(self.type, 0).value)
        return self.with_value(builder.select(negative, builder.neg(self.value), self.value))


def truth_type(numba_type: Any) -> Any:
    """Return the type of a comparison."""
    return Mask(numba_type.lanes) if isinstance(numba_type, (Vector, Mask)) else types.boolean


def is_vector(x: Any) -> bool:
    """Tell whether x is an emitted vector or mask."""
    return isinstance(x, Emitted) and isinstance(x.type, (Vector, Mask))


def constant(numba_type: Any, number: Any) -> Emitted:
    """Return a number known now, in every lane of a vector type."""
    form = llvm_type(numba_type)
    dtype = numpy_dtype(numba_type)
    value = float(dtype.type(number)) if dtype.kind == "f" else int(number)
    if dtype.kind == "u":
        value %= 1 << (8 * dtype.itemsize)
    many = isinstance(form, ir.VectorType)
    return Emitted(numba_type, ir.Constant(form, [value] * form.count if many else value))


def splatted(value: Any, lanes: int) -> Any:
    """Return the LLVM vector with a value in every lane, or the value itself for one lane."""
    if lanes == 1:
        return value
    builder = emission()[1]
    undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    first = builder.insert_element(undefined, value, I32(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(I32, lanes), [0] * lanes))


def shuffled(a: Any, b: Any, lanes: list[int]) -> Any:
    """Return the lanes of two LLVM values of one type; a single one becomes a number."""
    builder = emission()[1]
    if not isinstance(a.type, ir.VectorType):
        pair = ir.Constant(ir.VectorType(a.type, 2), ir.Undefined)
        pair = builder.insert_element(pair, a, I32(0))
        a, b = builder.insert_element(pair, b, I32(1)), ir.Constant(pair.type, ir.Undefined)
    if len(lanes) == 1:
        source, lane = (a, lanes[0]) if lanes[0] < a.type.count else (b, lanes[0] - a.type.count)
        return builder.extract_element(source, I32(lane))
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(lanes)), lanes))


def converted(x: Emitted, dtype: Any) -> Emitted:
    """Convert the elements to another type."""
    number = number_type(dtype)
    numba_type = Vector(number, x.type.lanes) if is_vector(x) else number
    before, after, builder = x.dtype, numpy_dtype(number), emission()[1]
    if before == after:
        return x
    form = llvm_type(numba_type)
    if before.kind == "f":
        if after.kind == "f":
            change = builder.fpext if after.itemsize > before.itemsize else builder.fptrunc
        else:
            change = builder.fptoui if after.kind == "u" else builder.fptosi
    elif after.kind == "f":
        change = builder.sitofp if before.kind == "i" else builder.uitofp
    elif before.kind != "b" and after.itemsize <= before.itemsize:
        change = builder.trunc if after.itemsize < before.itemsize else builder.bitcast
    else:
        change = builder.sext if before.kind == "i" else builder.zext
    return Emitted(numba_type, change(x.value, form))


def lift(*values: Any) -> list[Any]:
    """Return values of one type: numbers take that of the vectors among them, Python's that of any."""
    emitted = [x for x in values if isinstance(x, Emitted)]
    vectors = [x for x in emitted if is_vector(x)]
    if vectors:
        numba_type = vectors[0].type
        for x in vectors[1:]:
            if x.type != numba_type:
                raise TypeError(f"{numba_type} and {x.type} do not go together: convert one of them")
    else:
        numba_type = number_type(functools.reduce(np.promote_types, [x.dtype for x in emitted]))
    return [as_type(x, numba_type) for x in values]


def as_type(x: Any, numba_type: Any) -> Emitted:
    """Return a number or vector as a value of a type; a number goes into all lanes."""
    if not isinstance(x, Emitted):
        return constant(numba_type, x)
    if is_vector(x):
        return x
    number = number_type(numba_type.dtype) if isinstance(numba_type, (Vector, Mask)) else numba_type
    return Emitted(numba_type, splatted(converted(x, number).value, getattr(numba_type, "lanes", 1)))


def index(i: Any) -> Any:
    """Return an index as an LLVM integer of 64 bits."""
    if isinstance(i, Emitted):
        if i.dtype.kind not in "iu":
            raise TypeError(f"an index must be an integer, got {i.type}")
        return converted(i, np.dtype(np.int64) if i.dtype.kind == "i" else np.dtype(np.uint64)).value
    return I64(operator.index(i))


def static(name: str, value: Any) -> int:
    """Return an integer that must be known when the code is compiled."""
    if isinstance(value, Emitted):
        raise TypeError(f"{name} must be a constant that is known when the code is compiled")
    return operator.index(value)


def first(count: Any, lanes: int) -> Any:
    """Return the mask of the first `count` lanes as LLVM has it."""
    builder, number = emission()[1], index(count)
    most = I64(lanes)
    number = builder.select(builder.icmp_signed("<", number, most), number, most)
    number = builder.trunc(number, I32)
    if lanes == 1:
        return builder.icmp_signed(">", number, I32(0))
    numbers = ir.Constant(ir.VectorType(I32, lanes), list(range(lanes)))
    return builder.icmp_signed("<", numbers, splatted(number, lanes))


def address(x: Any, i: Any) -> Any:
    """Return the LLVM address of element i of an array or behind a pointer."""
    context, builder = emission()
    if isinstance(x.type, types.CPointer):
        base = x.value
    elif isinstance(x.type, types.Array) and (x.type.layout == "C" or x.type.ndim == 0):
        base = data_of(context, builder, x.type, x.value)
    else:
        raise TypeError(f"memory must be a C-contiguous array or a pointer, got {x.type}")
    return builder.gep(base, [index(i)], inbounds=True)


# ----------------------------------------------------------------------------------------------
# Numba
# ----------------------------------------------------------------------------------------------


class TileRows:
    """The value of a register tile: its rows, one vector each."""

    def __init__(self, rows: Any) -> None:
        self.rows = list(rows)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, r: int) -> Any:
        return self.rows[r]


_VALUES = (Vector, Mask, types.Number, types.Boolean, types.Array, types.CPointer)


def _unpacked(numba_type: Any, value: Any) -> Any:
    """Return an argument of compiled code as the traced function takes it."""
    if isinstance(numba_type, (types.IntegerLiteral, types.BooleanLiteral)):
        return numba_type.literal_value
    if isinstance(numba_type, (types.NumberClass, types.DType)):
        return numpy_dtype(numba_type.dtype)
    if isinstance(numba_type, types.Omitted):
        return numba_type.value
    if isinstance(numba_type, types.NoneType):
        return None
    builder = emission()[1]
    if isinstance(numba_type, Tile):
        return TileRows(
            Emitted(numba_type.row, builder.extract_value(value, r)) for r in range(numba_type.rows)
        )
    if isinstance(numba_type, types.BaseTuple):
        return tuple(
            _unpacked(part, builder.extract_value(value, k)) for k, part in enumerate(numba_type.types)
        )
    if isinstance(numba_type, _VALUES):
        return Emitted(numba_type, value)
    raise TypeError(f"a value of type {numba_type} cannot be used in vector code")


def _packed(context: Any, builder: Any, result: Any) -> tuple[Any, Any]:
    """Return type and LLVM value of what a traced function has returned."""
    if result is None:
        return types.none, context.get_dummy_value()
    if isinstance(result, Emitted):
        return result.type, result.value
    if isinstance(result, TileRows):
        row = result[0].type
        numba_type = Tile(row.dtype, len(result), row.lanes)
        value = ir.Constant(context.get_value_type(numba_type), ir.Undefined)
        for r, vector in enumerate(result):
            value = builder.insert_value(value, vector.value, r)
        return numba_type, value
    if isinstance(result, tuple):
        pairs = [_packed(context, builder, part) for part in result]
        numba_types = types.Tuple([numba_type for numba_type, _ in pairs])
        return numba_types, context.make_tuple(builder, numba_types, [value for _, value in pairs])
    if isinstance(result, (int, float)):
        numba_type = types.float64 if isinstance(result, float) else types.literal(result)
        return numba_type, context.get_constant(types.unliteral(numba_type), result)
    raise TypeError(f"a traced function returned {type(result).__name__}, which compiled code cannot have")


def _trace(function: Any, context: Any, builder: Any, numba_types: Any, values: Any) -> tuple[Any, Any]:
    with emitting(context, builder):
        result = function(
            *(_unpacked(numba_type, value) for numba_type, value in zip(numba_types, values, strict=True))
        )
        return _packed(context, builder, result)


def _scratch_type(context: Any, numba_type: Any) -> Any:
    try:
        return context.get_value_type(numba_type)
    except NotImplementedError:  # such as float16: the function is going to refuse it
        return I32


@functools.lru_cache(maxsize=4096)
def _result_type(function: Any, numba_types: tuple[Any, ...]) -> Any:
    """Return the type of a call: it is traced into a module that is thrown away."""
    context = cpu_target.target_context
    form = ir.FunctionType(ir.VoidType(), [_scratch_type(context, numba_type) for numba_type in numba_types])
    scratch = ir.Function(ir.Module(), form, "scratch")
    builder = ir.IRBuilder(scratch.append_basic_block())
    return _trace(function, context, builder, numba_types, scratch.args)[0]


def _kind(argument: Any) -> Any:
    """Return the type of an argument of a call: a default stands for itself."""
    if isinstance(argument, types.Type):
        return argument
    return types.none if argument is None else types.literal(argument)


def compiles(key: Any, function: Callable[..., Any], *, needs_vector: bool = False) -> None:
    """Let compiled code call `key`: the call becomes what `function` emits.

    Of Python's operators only those on vectors are meant (`needs_vector`).
    """

    class Template(AbstractTemplate):
        prefer_literal = True

        def generic(self, args: Any, kws: Any) -> Any:
            if needs_vector and not any(isinstance(numba_type, (Vector, Mask)) for numba_type in args):
                return None
            try:
                form = inspect.signature(function) if kws else None
                if form is not None:
                    bound = form.bind(*args, **kws)
                    bound.apply_defaults()
                    args = tuple(_kind(value) for value in bound.arguments.values())
                return signature(_result_type(function, args), *args).replace(pysig=form)
            except TypeError as error:
                raise errors.TypingError(str(error)) from error

        def get_impl_key(self, sig: Any) -> Any:
            return lowered

    Template.key = key
    if needs_vector:
        infer_global(key)(Template)  # one of several templates
    else:
        infer(Template)
        infer_global(key, types.Function(Template))

    def lowered(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _trace(function, context, builder, sig.args, args)[1]

    lower_builtin(lowered, types.VarArg(types.Any))(lowered)


for _operator in (
    operator.add, operator.sub, operator.mul, operator.truediv, operator.neg, operator.pos, operator.and_,
    operator.or_, operator.xor, operator.invert, operator.lshift, operator.rshift, operator.lt, operator.le,
    operator.gt, operator.ge, operator.eq, operator.ne, abs,
):  # fmt: skip
    compiles(_operator, _operator, needs_vector=True)
for _operator in (
    operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.iand, operator.ior,
    operator.ixor, operator.ilshift, operator.irshift,
):  # fmt: skip
    _name = _operator.__name__[1:]
    compiles(_operator, getattr(operator, {"and": "and_", "or": "or_"}.get(_name, _name)), needs_vector=True)
