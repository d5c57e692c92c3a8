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


def suffix(kind: Any) -> str:
    """Return how LLVM writes a type in the names of its functions."""
    lanes = f"v{kind.count}" if isinstance(kind, ir.VectorType) else ""
    scalar = kind.element if lanes else kind
    return f"{lanes}{scalar.intrinsic_name if hasattr(scalar, 'intrinsic_name') else f'i{scalar.width}'}"


class Emitted:
    """A number, vector, mask, truth value, array or pointer in code that is being emitted.

    Python's numbers take the type of what they meet, a single number takes that of a vector.
    """

    __array_ufunc__ = None  # NumPy's numbers leave their operators to this class

    def __init__(self, kind: Any, value: Any) -> None:
        self.kind, self.value = kind, value

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the elements."""
        return numpy_dtype(self.kind)

    @property
    def lanes(self) -> int:
        """Number of elements; 1 for numbers."""
        return getattr(self.kind, "lanes", 1)

    @property
    def floating(self) -> bool:
        """Whether the elements are floating-point numbers."""
        return self.dtype.kind == "f"

    def with_value(self, value: Any) -> Emitted:
        """Return another value of the same type."""
        return Emitted(self.kind, value)

    def __bool__(self) -> bool:
        raise TypeError("a value that is known only when the code runs has no truth here: use simd.where")

    def _arithmetic(self, other: Any, floating: str | None, integer: str | None, swap: bool = False) -> Any:
        if not isinstance(other, (Emitted, int, float, np.number, np.bool_)):
            return NotImplemented
        a, b = lift(other, self) if swap else lift(self, other)
        name = floating if a.floating else integer
        if name is None or (a.dtype.kind == "b" and name not in ("and_", "or_", "xor")):
            raise TypeError(f"this operator is not defined for {a.kind}")
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
            raise TypeError(f"~ is not defined for {self.kind}")
        return self.with_value(emission()[1].not_(self.value))

    def __neg__(self) -> Any:
        if self.dtype.kind == "b":
            raise TypeError(f"- is not defined for {self.kind}")
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
        return Emitted(truth_type(a.kind), compare(sign, a.value, b.value))

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
        negative = builder.icmp_signed("<", self.value, constant(self.kind, 0).value)
        return self.with_value(builder.select(negative, builder.neg(self.value), self.value))


def truth_type(kind: Any) -> Any:
    """Return the type of a comparison."""
    return Mask(kind.lanes) if isinstance(kind, (Vector, Mask)) else types.boolean


def is_vector(x: Any) -> bool:
    """Tell whether x is an emitted vector or mask."""
    return isinstance(x, Emitted) and isinstance(x.kind, (Vector, Mask))


def constant(kind: Any, number: Any) -> Emitted:
    """Return a number known now, in every lane of a vector type."""
    form = llvm_type(kind)
    dtype = numpy_dtype(kind)
    value = float(dtype.type(number)) if dtype.kind == "f" else int(number)
    if dtype.kind == "u":
        value %= 1 << (8 * dtype.itemsize)
    many = isinstance(form, ir.VectorType)
    return Emitted(kind, ir.Constant(form, [value] * form.count if many else value))


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
    kind = Vector(number, x.kind.lanes) if is_vector(x) else number
    before, after, builder = x.dtype, numpy_dtype(number), emission()[1]
    if before == after:
        return x
    form = llvm_type(kind)
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
    return Emitted(kind, change(x.value, form))


def lift(*values: Any) -> list[Any]:
    """Return values of one type: numbers take that of the vectors among them, Python's that of any."""
    emitted = [x for x in values if isinstance(x, Emitted)]
    vectors = [x for x in emitted if is_vector(x)]
    if vectors:
        kind = vectors[0].kind
        for x in vectors[1:]:
            if x.kind != kind:
                raise TypeError(f"{kind} and {x.kind} do not go together: convert one of them")
    else:
        kind = number_type(functools.reduce(np.promote_types, [x.dtype for x in emitted]))
    return [as_kind(x, kind) for x in values]


def as_kind(x: Any, kind: Any) -> Emitted:
    """Return a number or vector as a value of a type; a number goes into all lanes."""
    if not isinstance(x, Emitted):
        return constant(kind, x)
    if is_vector(x):
        return x
    number = number_type(kind.dtype) if isinstance(kind, (Vector, Mask)) else kind
    return Emitted(kind, splatted(converted(x, number).value, getattr(kind, "lanes", 1)))


def index(i: Any) -> Any:
    """Return an index as an LLVM integer of 64 bits."""
    if isinstance(i, Emitted):
        if i.dtype.kind not in "iu":
            raise TypeError(f"an index must be an integer, got {i.kind}")
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
    if isinstance(x.kind, types.CPointer):
        base = x.value
    elif isinstance(x.kind, types.Array) and (x.kind.layout == "C" or x.kind.ndim == 0):
        base = context.make_array(x.kind)(context, builder, x.value).data
    else:
        raise TypeError(f"memory must be a C-contiguous array or a pointer, got {x.kind}")
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


def _unpacked(kind: Any, value: Any) -> Any:
    """Return an argument of compiled code as the traced function takes it."""
    if isinstance(kind, (types.IntegerLiteral, types.BooleanLiteral)):
        return kind.literal_value
    if isinstance(kind, (types.NumberClass, types.DType)):
        return numpy_dtype(kind.dtype)
    if isinstance(kind, types.Omitted):
        return kind.value
    if isinstance(kind, types.NoneType):
        return None
    builder = emission()[1]
    if isinstance(kind, Tile):
        return TileRows(Emitted(kind.row, builder.extract_value(value, r)) for r in range(kind.rows))
    if isinstance(kind, types.BaseTuple):
        return tuple(_unpacked(part, builder.extract_value(value, k)) for k, part in enumerate(kind.types))
    if isinstance(kind, _VALUES):
        return Emitted(kind, value)
    raise TypeError(f"a value of type {kind} cannot be used in vector code")


def _packed(context: Any, builder: Any, result: Any) -> tuple[Any, Any]:
    """Return type and LLVM value of what a traced function has returned."""
    if result is None:
        return types.none, context.get_dummy_value()
    if isinstance(result, Emitted):
        return result.kind, result.value
    if isinstance(result, TileRows):
        row = result[0].kind
        kind = Tile(row.dtype, len(result), row.lanes)
        value = ir.Constant(context.get_value_type(kind), ir.Undefined)
        for r, vector in enumerate(result):
            value = builder.insert_value(value, vector.value, r)
        return kind, value
    if isinstance(result, tuple):
        pairs = [_packed(context, builder, part) for part in result]
        kinds = types.Tuple([kind for kind, _ in pairs])
        return kinds, context.make_tuple(builder, kinds, [value for _, value in pairs])
    if isinstance(result, (int, float)):
        kind = types.float64 if isinstance(result, float) else types.literal(result)
        return kind, context.get_constant(types.unliteral(kind), result)
    raise TypeError(f"a traced function returned {type(result).__name__}, which compiled code cannot have")


def _trace(function: Any, context: Any, builder: Any, kinds: Any, values: Any) -> tuple[Any, Any]:
    with emitting(context, builder):
        result = function(*(_unpacked(kind, value) for kind, value in zip(kinds, values, strict=True)))
        return _packed(context, builder, result)


def _scratch_type(context: Any, kind: Any) -> Any:
    try:
        return context.get_value_type(kind)
    except NotImplementedError:  # such as float16: the function is going to refuse it
        return I32


@functools.lru_cache(maxsize=4096)
def _result_type(function: Any, kinds: tuple[Any, ...]) -> Any:
    """Return the type of a call: it is traced into a module that is thrown away."""
    context = cpu_target.target_context
    form = ir.FunctionType(ir.VoidType(), [_scratch_type(context, kind) for kind in kinds])
    scratch = ir.Function(ir.Module(), form, "scratch")
    builder = ir.IRBuilder(scratch.append_basic_block())
    return _trace(function, context, builder, kinds, scratch.args)[0]


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
            if needs_vector and not any(isinstance(kind, (Vector, Mask)) for kind in args):
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
