"""Atomic operations and what a thread does while it waits, for compiled code.

Interpreted, there is one thread.
"""

from __future__ import annotations

import sys
from typing import Any

from llvmlite import binding, ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

from nbnorm.compile.arrays import data_of


def _address(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    return builder.gep(data_of(context, builder, array_type, array), [index], inbounds=True)


if config.DISABLE_JIT:

    def atomic_add(array: Any, index: int, value: int) -> int:
        """Add and return the value before."""
        before = int(array[index])
        array[index] += value
        return before

    def atomic_load(array: Any, index: int) -> int:
        """Return the present value."""
        return int(array[index])

    def pause() -> None:
        """Rest for some cycles."""

    def yield_core() -> None:
        """Offer the core to other threads."""

else:

    @intrinsic
    def atomic_add(typingctx: Any, array: Any, index: Any, value: Any) -> Any:
        """Add to an int64 element, return the value before; sequentially consistent."""

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            pointer = _address(context, builder, sig.args[0], args[0], args[1])
            return builder.atomic_rmw("add", pointer, args[2], "seq_cst")

        return types.int64(array, types.int64, types.int64), codegen

    @intrinsic
    def atomic_load(typingctx: Any, array: Any, index: Any) -> Any:
        """Read an int64 element that another thread may have written."""

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            pointer = _address(context, builder, sig.args[0], args[0], args[1])
            return builder.load_atomic(pointer, "seq_cst", align=8)

        return types.int64(array, types.int64), codegen

    @intrinsic
    def pause(typingctx: Any) -> Any:
        """Rest for some cycles, as a spinning thread should."""

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            machine, integer = binding.get_process_triple().split("-")[0], ir.IntType(32)
            if machine == "x86_64":
                hint, kinds, values = "llvm.x86.sse2.pause", [], []
            elif machine in ("arm64", "aarch64"):
                hint, kinds, values = "llvm.aarch64.hint", [integer], [integer(1)]
            else:
                return context.get_dummy_value()
            signature = ir.FunctionType(ir.VoidType(), kinds)
            builder.call(cgutils.get_or_insert_function(builder.module, signature, hint), values)
            return context.get_dummy_value()

        return types.void(), codegen

    @intrinsic
    def yield_core(typingctx: Any) -> Any:
        """Offer the core to other threads of the system."""

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            name = "SwitchToThread" if sys.platform == "win32" else "sched_yield"
            signature = ir.FunctionType(ir.IntType(32), [])
            builder.call(cgutils.get_or_insert_function(builder.module, signature, name), [])
            return context.get_dummy_value()

        return types.void(), codegen
