"""Products of bfloat16: the upper half of a float32, two numbers in 32 bits.

A bfloat16 has the sign and the 8 bits of exponent of a float32, and 7 bits of its mantissa.  A *pair* is a
uint32: the even number stands in its lower half, the odd one in its upper half.

The product of two bfloat16 has 16 bits at most: it is exact in float32, and adding it rounds once, with a
fused multiply-add or without.  So the sums have the same bits on all processors, but where a product or sum
is smaller than the smallest normal float32, which the instructions flush to 0, or a product overflows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir

from nbnorm.simd._arithmetic import abs, bitcast, convert, fma, full_like, where
from nbnorm.simd._emitted import Emitted, emission, intrinsic, is_vector
from nbnorm.simd._lanes import concatenate, interleave, part
from nbnorm.simd._numpy import NumpyVector
from nbnorm.simd._tracing import elementwise, traced
from nbnorm.simd._types import BFloat, Vector, llvm_type
from nbnorm.simd.target import target

# Lanes of float32 in a register of the processors that have the instructions.
_LANES = 16


def _native(lanes: int) -> bool:
    """Whether code is emitted for whole registers of a processor that has the instructions."""
    if emission() is None or lanes % _LANES or not target().bfloat16:
        return False
    registers = lanes // _LANES
    return registers & (registers - 1) == 0


def _is_vector(x: Any) -> bool:
    return is_vector(x) or isinstance(x, NumpyVector)


def _rounded(x: Any) -> Any:
    """Return the bits of x rounded to bfloat16, in the upper halves of 32."""
    if x.dtype != np.float32:
        raise TypeError(f"bfloat16 is rounded from float32, got {x.dtype}")
    bits = bitcast(x, np.uint32)
    nearest = bits + (((bits >> 16) & 1) + 0x7FFF)
    tiny = float(np.finfo(np.float32).tiny)
    nearest = where(abs(x) < tiny, bits & 0x80000000, nearest)
    nearest = where(x != x, bits | 0x00400000, nearest)  # adding could carry a NaN into the sign
    return nearest & 0xFFFF0000


@elementwise
def round_to_bfloat16(x: Any) -> Any:
    """Round float32 to the nearest bfloat16, halves to even; the result is float32.

    NaN stays NaN, infinity infinity; what lies beyond the largest bfloat16 becomes infinity, and numbers
    smaller than the smallest normal one become zeros of their sign.

    Parameters
    ----------
    x : vector, number or array
        Values, float32.

    Returns
    -------
    vector, number or array
        Values whose last 16 bits are 0.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import simd
    >>> simd.round_to_bfloat16(np.float32([1.0, 1.01, 1e-40]))
    array([1.       , 1.0078125, 0.       ], dtype=float32)
    """
    return bitcast(_rounded(x), np.float32)


@traced
def to_bfloat16(x: Any) -> Any:
    """Round float32 to bfloat16 as `round_to_bfloat16` does, in 16 bits.

    Parameters
    ----------
    x : vector
        Values, float32.

    Returns
    -------
    vector of uint16
        The bits of each; `bitcast` to uint32 makes pairs of neighbours.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import simd
    >>> [hex(bits) for bits in simd.to_bfloat16(simd.splat(np.float32(1.01), 2)).values]
    ['0x3f81', '0x3f81']
    """
    if _native(x.lanes):
        registers = [part(x, first, _LANES) for first in range(0, x.lanes, _LANES)]
        form = ir.VectorType(BFloat(), _LANES)
        bits = [
            emission()[1].bitcast(
                intrinsic("llvm.x86.avx512bf16.cvtneps2bf16.512", form, [register.value]),
                llvm_type(Vector(np.uint16, _LANES)),
            )
            for register in registers
        ]
        return concatenate(*(Emitted(Vector(np.uint16, _LANES), value) for value in bits))
    return convert(_rounded(x) >> 16, np.uint16)


@traced
def to_bfloat16_pairs(even: Any, odd: Any) -> Any:
    """Round two vectors to bfloat16, as `round_to_bfloat16` does, and pair their elements.

    Parameters
    ----------
    even, odd : vector
        Values, float32, as many of each.

    Returns
    -------
    vector of uint32
        Pairs: the bits of `even` in the lower halves, those of `odd` in the upper ones.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import simd
    >>> one, two = (simd.splat(np.float32(x), 2) for x in (1, 2))
    >>> [hex(pair) for pair in simd.to_bfloat16_pairs(one, two).values]
    ['0x40003f80', '0x40003f80']
    """
    if _native(even.lanes):
        return bitcast(interleave(to_bfloat16(even), to_bfloat16(odd)), np.uint32)
    return (_rounded(even) >> 16) | _rounded(odd)


@traced
def split_bfloat16_pairs(pairs: Any) -> Any:
    """Return the even and the odd numbers of pairs of bfloat16, each as float32.

    Parameters
    ----------
    pairs : vector or number
        Pairs, uint32.

    Returns
    -------
    even, odd : vector or number
        Exact values, float32.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import simd
    >>> pairs = simd.to_bfloat16_pairs(*(simd.splat(np.float32(x), 2) for x in (2, 3)))
    >>> simd.split_bfloat16_pairs(pairs)
    (NumpyVector(array([2., 2.], dtype=float32)), NumpyVector(array([3., 3.], dtype=float32)))
    """
    return bitcast(pairs << 16, np.float32), bitcast(pairs & 0xFFFF0000, np.float32)


@traced
def dot_bfloat16(total: Any, x: Any, y: Any) -> Any:
    """Add the products of pairs of bfloat16 to float32: the step of a matrix product.

    Where ``target().bfloat16`` says that the processor has a fast instruction (AVX512-BF16), it is used for
    vectors of 16, 32, 64 or so many lanes; elsewhere it is two multiply-adds of float32, with the same bits
    but for sums below the smallest normal float32, which the instruction flushes to 0.

    Parameters
    ----------
    total : vector
        Sums so far, float32.
    x : vector or number
        Pairs, uint32; a number is used in every lane.
    y : vector
        Pairs, uint32.

    Returns
    -------
    vector
        ``x_even * y_even + (x_odd * y_odd + total)``, rounded after each sum.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import simd
    >>> x = simd.to_bfloat16_pairs(*(simd.splat(np.float32(x), 2) for x in (2, 3)))
    >>> simd.dot_bfloat16(simd.splat(np.float32(1.0), 2), x, x)
    NumpyVector(array([14., 14.], dtype=float32))
    """
    for name, v, dtype in (("total", total, np.float32), ("x", x, np.uint32), ("y", y, np.uint32)):
        if v.dtype != dtype:
            raise TypeError(f"{name} must be of {np.dtype(dtype)}, got {v.dtype}")
    if not _is_vector(x):
        x = full_like(y, x)
    if _native(total.lanes):
        form = ir.VectorType(BFloat(), 2 * _LANES)
        sums = []
        for first in range(0, total.lanes, _LANES):
            start, *pairs = (part(v, first, _LANES) for v in (total, x, y))
            operands = [emission()[1].bitcast(v.value, form) for v in pairs]
            name = "llvm.x86.avx512bf16.dpbf16ps.512"
            sums.append(start.with_value(intrinsic(name, start.value.type, [start.value, *operands])))
        return concatenate(*sums)
    (x_even, x_odd), (y_even, y_odd) = split_bfloat16_pairs(x), split_bfloat16_pairs(y)
    return fma(x_even, y_even, fma(x_odd, y_odd, total))
