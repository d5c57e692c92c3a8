"""Function pointers: compiled functions that are called by their address.

Numba links whatever a function calls into the function's own module and optimizes it there again,
at each level of calls.  The training engine therefore consists of functions that are compiled once,
each by itself, and only when a network needs them; they call each other through a table of
addresses.  Such a function is either a kernel (`address`) or written in LLVM's terms (`emitted`).

Interpreted, an address is an index of a list.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import config, types
from numba.core.registry import cpu_target
from numba.core.typing.templates import AbstractTemplate, infer, infer_global, signature
from numba.extending import lower_builtin

from nbnorm.compile.cache import CodeFiles
from nbnorm.compile.clock import compiling

# Emitted functions, which must stay in memory: name -> (library, address).
EMITTED: dict[str, tuple[Any, int]] = {}

# Interpreted: the function of each address.
_functions: list[Any] = [None]


def emitted(name: str, write: Callable[[Any], None]) -> int:
    """Return the address of the function `name` that ``write(module)`` adds to an LLVM module."""
    if name in EMITTED:
        return EMITTED[name][1]
    with compiling():  # which lets no other thread compile
        if name in EMITTED:  # another thread was faster
            return EMITTED[name][1]
        codegen = cpu_target.target_context.codegen()
        files = CodeFiles("function", f"{codegen.magic_tuple()}|{config.OPT!s}")
        try:
            data = files.load(name)
            if data is not None:
                library = codegen.unserialize_library(data)
            else:
                library = codegen.create_library(name)
                library.enable_object_caching()
                module = library.create_ir_module(name)
                write(module)
                library.add_ir_module(module)
                library.finalize()
                files.save(name, library.serialize_using_object_code())
        finally:
            files.release()
        EMITTED[name] = library, int(library.get_pointer_to_function(name))
    return EMITTED[name][1]


def address(function: Any, *signature: Any) -> int:
    """Return the address of a kernel, compiled for exactly these types."""
    if config.DISABLE_JIT:
        return interpreted(function)
    function.compile(signature)
    result = function.overloads[signature]
    return int(result.library.get_pointer_to_function(result.fndesc.llvm_func_name))


def interpreted(function: Any) -> int:
    """Return the address of a function that the interpreter finds again with `function_at`."""
    if function not in _functions:
        _functions.append(function)
    return _functions.index(function)


def function_at(address: int) -> Any:
    """Return the function whose address `interpreted` has returned."""
    return _functions[address]


def call(address: int, *args: Any) -> None:
    """Call the kernel at an address.

    It returns nothing and takes exactly the types that it is given.
    """
    function_at(address)(*args)


@infer
class _Call(AbstractTemplate):
    key = call

    def generic(self, args: Any, kws: Any) -> Any:
        return signature(types.none, types.int64, *map(types.unliteral, args[1:]))


infer_global(call, types.Function(_Call))


@lower_builtin(call, types.VarArg(types.Any))
def _lower_call(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    kinds, convention = sig.args[1:], context.call_conv
    pointer = builder.inttoptr(args[0], convention.get_function_type(types.none, kinds).as_pointer())
    given = [_borrowed(context, builder, *pair) for pair in zip(kinds, args[1:], strict=True)]
    convention.call_function(builder, pointer, types.none, kinds, given)
    return context.get_dummy_value()


def _borrowed(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """Make an array one that has no owner.

    References to it are not counted: counting takes an atomic operation, and the threads of a pool
    would wait for each other's.  The caller keeps the array alive.
    """
    if not isinstance(kind, types.Array):
        return value
    fields = context.data_model_manager[kind]
    for name in ("meminfo", "parent"):
        place = fields.get_field_position(name)
        value = builder.insert_value(value, value.type.elements[place](None), place)
    return value
