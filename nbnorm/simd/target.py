"""The processor that Numba compiles for: its instruction set, vector registers and fused multiply-add.

What counts is what Numba tells LLVM: the triple of the process (an x86-64 process on an Arm machine runs
x86-64 code), ``NUMBA_CPU_NAME`` and ``NUMBA_CPU_FEATURES``.  A CPU that is named has the features that LLVM
knows of it, not those of the processor at hand.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import llvmlite.binding
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import config
from numba.core.registry import cpu_target

from nbnorm.simd._types import BFloat


class Target(NamedTuple):
    """What a kernel may want to know of the processor.

    Attributes
    ----------
    architecture : str
        First part of the triple, such as ``"x86_64"``, ``"aarch64"`` or ``"arm64"``.
    instruction_set : {"avx512", "avx2", "neon", "plain"}
        The widest vector instructions; "plain" stands for SSE2 and for everything unknown.
    register_bytes : int
        Bytes of a vector register.
    registers : int
        Number of vector registers.
    fma : bool
        Whether there is a fused multiply-add.
    bfloat16 : bool
        Whether there are products of bfloat16 in float32 sums (AVX512-BF16) that are faster than those of
        float32.
    """

    architecture: str
    instruction_set: str
    register_bytes: int
    registers: int
    fma: bool
    bfloat16: bool


# The instruction takes two cycles here, as long as four multiply-adds of as many lanes: these processors
# have other units for bfloat16 (AMX).  Measured on Emerald Rapids; the others have cores of its kind.
_SLOW_BFLOAT16 = ("sapphirerapids", "emeraldrapids", "graniterapids", "graniterapids-d")

# (bytes, number) of the vector registers
_REGISTERS = {"avx512": (64, 32), "avx2": (32, 16), "neon": (16, 32), "plain": (16, 16)}


def target() -> Target:
    """Return the target that Numba compiles for.

    Returns
    -------
    Target
        Instruction set, vector registers and fused multiply-add.

    Examples
    --------
    >>> from nbnorm import simd
    >>> simd.target().register_bytes in (16, 32, 64)
    True
    """
    triple, name, told = (str(part) for part in cpu_target.target_context.codegen().magic_tuple())
    features = told
    if config.CPU_FEATURES is not None:
        features = config.CPU_FEATURES
    elif config.CPU_NAME not in (None, llvmlite.binding.get_host_cpu_name()):
        features = ""  # Numba adds those of the processor at hand
    known = _known(triple, name, features)
    # LLVM ends the process at an instruction that those rule out.
    return known._replace(bfloat16=known.bfloat16 and _known(triple, name, told).bfloat16)


def native_lanes(dtype: npt.DTypeLike) -> int:
    """Return how many elements of a type a vector register holds.

    Parameters
    ----------
    dtype : dtype
        Element type, such as ``np.float32``.

    Returns
    -------
    int
        Number of lanes.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import simd
    >>> simd.native_lanes(np.float32) == 2 * simd.native_lanes(np.float64)
    True
    """
    return int(target().register_bytes // np.dtype(dtype).itemsize)


@functools.cache
def _known(triple: str, name: str, features: str) -> Target:
    architecture = triple.split("-")[0]
    if architecture == "x86_64":
        # LLVM ends the process where a CPU that it does not know leaves 64-bit code in doubt.
        code = _assembly(triple, name, f"{features},+64bit" if features else "+64bit")
        fma = "vfmadd" in code
        instruction_set = "avx512" if "zmm" in code else "avx2" if fma and "ymm" in code else "plain"
        fma = fma and instruction_set != "plain"
        native = instruction_set == "avx512" and "vcvtneps2bf16\t%zmm" in code
        bfloat16 = native and name not in _SLOW_BFLOAT16
    else:
        fma = architecture in ("aarch64", "arm64")
        instruction_set = "neon" if fma else "plain"
        bfloat16 = False  # those of Arm round otherwise
    return Target(architecture, instruction_set, *_REGISTERS[instruction_set], fma, bfloat16)


def _assembly(triple: str, name: str, features: str) -> str:
    """Return what LLVM makes of a multiply-add of 64 bytes and of rounding to bfloat16.

    The instructions of a processor are read from it, because LLVM offers no table of them.
    """
    module = ir.Module()
    module.triple = triple
    vector, rounded = ir.VectorType(ir.FloatType(), 16), ir.VectorType(BFloat(), 16)
    numba_types = [vector.as_pointer(), vector.as_pointer(), rounded.as_pointer()]
    probe = ir.Function(module, ir.FunctionType(ir.VoidType(), numba_types), "probe")
    multiply_add = ir.Function(module, ir.FunctionType(vector, [vector] * 3), "llvm.fmuladd.v16f32")
    builder = ir.IRBuilder(probe.append_basic_block())
    x, y = (builder.load(argument, align=4) for argument in probe.args[:2])
    builder.store(builder.call(multiply_add, [x, y, y]), probe.args[0], align=4)
    builder.store(builder.fptrunc(y, rounded), probe.args[2], align=2)
    builder.ret_void()
    machine = llvmlite.binding.Target.from_triple(triple).create_target_machine(cpu=name, features=features)
    return str(machine.emit_assembly(llvmlite.binding.parse_assembly(str(module))))
