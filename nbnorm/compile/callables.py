"""Objects that hold arrays and can be called from Python and from compiled code.

Numba calls a value of its own type when the type has an attribute ``__call__``.  `CallableType` gives one to
objects that consist of arrays: the arrays are data, so that one compilation serves all objects of a type.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
from numba import types
from numba.core import cgutils, errors, imputils
from numba.core.typing.templates import AbstractTemplate, AttributeTemplate, infer_getattr, signature
from numba.extending import (
    NativeValue,
    lower_builtin,
    make_attribute_wrapper,
    models,
    register_model,
    typeof_impl,
    unbox,
)

from nbnorm.compile.folder import package_digest

# The compiled function (object, *arguments) that a call of an object of a kind stands for.
_functions: dict[str, Any] = {}

# Objects that are constants of compiled code, which reads their memory as long as the process lives.
_constants: list[Any] = []


class CallableType(types.Type):
    """Numba's type of a callable object: its kind and the types of its arrays by name.

    Machine code of a user's function with ``cache=True`` contains that of the package and depends on what the
    arrays hold.  The name of the type, which is in the key of that cache, is another one for each version.
    """

    def __init__(self, kind: str, members: tuple[tuple[str, Any], ...]) -> None:
        self.kind, self.members = kind, members
        arrays = ", ".join(f"{name}: {member}" for name, member in members)
        super().__init__(f"{kind}({arrays}; nbnorm {package_digest()})")


@register_model(CallableType)
class _Model(models.StructModel):
    def __init__(self, dmm: Any, fe_type: CallableType) -> None:
        super().__init__(dmm, fe_type, list(fe_type.members))


def register(kind: str, names: tuple[str, ...]) -> Callable[[Any], Any]:
    """Let objects of a kind be called: decorates the compiled function (object, *arguments).

    `names` are those of the arrays, which compiled code reads as attributes.
    """
    for name in names:
        make_attribute_wrapper(CallableType, name, name)

    def decorate(function: Any) -> Any:
        _functions[kind] = function
        return function

    return decorate


class CallableArrays:
    """Base of the objects: `kind` as registered, and arrays as attributes, which must not be replaced."""

    def __init__(self, kind: str, **arrays: Any) -> None:
        vars(self).update(arrays)
        self._names = tuple(arrays)
        members = tuple((name, numba.typeof(array)) for name, array in arrays.items())
        self._numba_type_ = CallableType(kind, members)  # where Numba looks before it calls `typeof`


@typeof_impl.register(CallableArrays)
def _typeof(value: CallableArrays, context: Any) -> CallableType:
    return value._numba_type_


@unbox(CallableType)
def _unbox(kind: CallableType, value: Any, c: Any) -> NativeValue:
    struct = cgutils.create_struct_proxy(kind)(c.context, c.builder)
    for name, member in kind.members:
        array = c.pyapi.object_getattr_string(value, name)
        setattr(struct, name, c.unbox(member, array).value)
        c.pyapi.decref(array)  # the object holds it for the time of the call
    failed = cgutils.is_not_null(c.builder, c.pyapi.err_occurred())
    return NativeValue(struct._getvalue(), is_error=failed)


@imputils.lower_constant(CallableType)
def _lower_constant(context: Any, builder: Any, kind: CallableType, value: CallableArrays) -> Any:
    """Read the arrays where they lie: machine code that holds their addresses is not cached on disk."""
    _constants.append(value)
    struct = cgutils.create_struct_proxy(kind)(context, builder)
    for name, member in kind.members:
        array = getattr(value, name)
        copy = context.make_array(member)(context, builder)
        data = context.add_dynamic_addr(builder, array.ctypes.data, info=name)
        sizes = [context.get_constant(types.intp, size) for size in array.shape]
        strides = [context.get_constant(types.intp, stride) for stride in array.strides]
        for field, field_value in (
            ("data", builder.bitcast(data, copy.data.type)),
            ("nitems", context.get_constant(types.intp, array.size)),
            ("itemsize", context.get_constant(types.intp, array.itemsize)),
            ("shape", cgutils.pack_array(builder, sizes)),
            ("strides", cgutils.pack_array(builder, strides)),
            ("meminfo", cgutils.get_null_value(copy.meminfo.type)),
            ("parent", cgutils.get_null_value(copy.parent.type)),
        ):
            setattr(copy, field, field_value)
        setattr(struct, name, copy._getvalue())
    return struct._getvalue()


def _function_type(context: Any, kind: CallableType) -> Any:
    return context.resolve_value_type(_functions[kind.kind])


@infer_getattr
class _Attributes(AttributeTemplate):
    key = CallableType

    def resolve___call__(self, kind: CallableType) -> Any:
        class Call(AbstractTemplate):
            key = f"{kind}.__call__"

            def generic(self, args: Any, kws: Any) -> Any:
                if kws:
                    raise errors.TypingError(f"{kind.kind} takes no keyword arguments")
                function = _function_type(self.context, kind)
                found = self.context.resolve_function_type(function, (kind, *args), {})
                return signature(found.return_type, *args, recvr=kind)

        return types.BoundFunction(Call, kind)


@lower_builtin(CallableType, CallableType, types.VarArg(types.Any))
def _lower_call(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    kind, *given = sig.args if sig.recvr is None else (sig.recvr, *sig.args)
    function = _function_type(context.typing_context, kind)
    full = function.get_call_type(context.typing_context, (kind, *given), {})
    call = context.get_function(function, full)
    context.add_linking_libs(getattr(call, "libs", ()))
    return call(builder, args)
