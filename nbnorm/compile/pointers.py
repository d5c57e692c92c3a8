"""Compiled pieces that are called by address.

Numba links whatever a function calls into the function's own module and optimises it there again,
at each level of calls.  The training engine is therefore cut into pieces that are compiled once,
each by itself, and only when a network needs them; they call each other through a table of
addresses.  A piece is either a kernel (`address`) or a function written in LLVM's terms (`emitted`).

Interpreted, an address is a place in a list.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import config, types
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from nbnorm.compile.cache import CodeFiles
from nbnorm.compile.clock import compiling

# What has an address must stay in memory: name -> (library, address).
_held: dict[str, tuple[Any, int]] = {}

# Interpreted: what stands at each address.
_pieces: list[Any] = [None]


def emitted(name: str, write: Callable[[Any], None]) -> int:
    """Return the address of the function `name` that ``write(module)`` adds to an LLVM module."""
    if name in _held:
        return _held[name][1]
    with compiling(), global_compiler_lock:
        if name in _held:  # another thread was faster
            return _held[name][1]
        codegen = cpu_target.target_context.codegen()
        files = CodeFiles("leaf", f"{codegen.magic_tuple()}|{config.OPT!s}")
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
        _held[name] = library, int(library.get_pointer_to_function(name))
    return _held[name][1]


def address(function: Any, *signature: Any) -> int:
    """Return the address of a kernel, compiled for exactly these types."""
    if config.DISABLE_JIT:
        return interpreted(function)
    function.compile(signature)
    result = function.overloads[signature]
    return int(result.library.get_pointer_to_function(result.fndesc.llvm_func_name))


def interpreted(piece: Any) -> int:
    """Return the address of anything that the interpreter is to find again with `piece_at`."""
    if piece not in _pieces:
        _pieces.append(piece)
    return _pieces.index(piece)


def piece_at(place: int) -> Any:
    """Return what `interpreted` has been given."""
    return _pieces[place]


def _borrowed(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """Make an array one that has no owner.

    References to it are not counted: counting takes an atomic operation, and the threads of a team
    would wait for each other's.  The caller holds the array.
    """
    if not isinstance(kind, types.Array):
        return value
    array = context.make_array(kind)(context, builder, value)
    array.meminfo = array.meminfo.type(None)
    array.parent = array.parent.type(None)
    return array._getvalue()


def _typed_call(args: tuple[Any, ...]) -> Any:
    kinds = tuple(types.unliteral(kind) for kind in args)

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        convention = context.call_conv
        function = convention.get_function_type(types.none, kinds).as_pointer()
        place = builder.inttoptr(values[0], function)
        given = [_borrowed(context, builder, *pair) for pair in zip(kinds, values[1:], strict=True)]
        convention.call_function(builder, place, types.none, kinds, given)
        return context.get_dummy_value()

    return types.void(types.int64, *kinds), codegen


def caller(count: int) -> Any:
    """Return ``call(address, ...)`` for compiled code: it calls a kernel of `count` arguments.

    The kernel returns nothing and takes exactly the types that it is given.
    """
    if config.DISABLE_JIT:
        return lambda place, *args: piece_at(place)(*args)
    # Numba would pack variable arguments into a tuple, and count references on the way.
    names = ", ".join(f"a{k}" for k in range(count))
    space: dict[str, Any] = {"typed": _typed_call}
    exec(f"def call(typingctx, place, {names}): return typed(({names},))", space)
    return intrinsic(space["call"])
