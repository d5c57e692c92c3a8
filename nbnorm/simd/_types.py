"""The Numba types of vectors, masks and register tiles, and how LLVM holds them.

A vector of one lane is a scalar for LLVM.  Values live in registers: they cannot be put into lists or
returned to Python.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import models, register_model
from numba.np.numpy_support import as_dtype, from_dtype


def number_type(dtype: Any) -> Any:
    """Return Numba's type of a number, given as a NumPy dtype or as that type itself."""
    return dtype if isinstance(dtype, types.Type) else from_dtype(np.dtype(dtype))


class Vector(types.Type):
    """Numba type of a vector: `lanes` numbers of one type.

    Parameters
    ----------
    dtype : dtype or Numba type
        float32, float64, or an integer type of 8 to 64 bits.
    lanes : int
        Number of elements, any positive number; LLVM spreads them over as many registers as they need.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import simd
    >>> simd.Vector(np.float32, 16)
    Vector(float32, 16)
    """

    def __init__(self, dtype: Any, lanes: int) -> None:
        self.dtype = number_type(dtype)
        self.lanes = int(lanes)
        if not isinstance(self.dtype, (types.Float, types.Integer)):
            raise TypeError(f"dtype must be a type of numbers, got {dtype}")
        if self.lanes < 1:
            raise ValueError(f"lanes must be positive, got {lanes}")
        super().__init__(f"Vector({self.dtype}, {self.lanes})")


class Mask(types.Type):
    """Numba type of a mask: one truth value for each lane of a vector.

    Parameters
    ----------
    lanes : int
        Number of truth values.

    Examples
    --------
    >>> from nbnorm import simd
    >>> simd.Mask(16)
    Mask(16)
    """

    dtype = types.boolean

    def __init__(self, lanes: int) -> None:
        self.lanes = int(lanes)
        super().__init__(f"Mask({self.lanes})")


class Tile(types.Type):
    """Numba type of a register tile: `rows` vectors of `lanes` numbers each.

    Parameters
    ----------
    dtype : dtype or Numba type
        Type of the numbers.
    rows, lanes : int
        Shape; rows times the registers of a row should fit into the registers of the processor.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import simd
    >>> simd.Tile(np.float32, 6, 16)
    Tile(float32, 6, 16)
    """

    def __init__(self, dtype: Any, rows: int, lanes: int) -> None:
        self.row = Vector(dtype, lanes)
        self.rows = int(rows)
        super().__init__(f"Tile({self.row.dtype}, {self.rows}, {self.row.lanes})")


class BFloat(ir.Type):
    """LLVM's type of a bfloat16, which llvmlite does not know."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BFloat)

    def __hash__(self) -> int:
        return hash(BFloat)


def llvm_type(numba_type: Any) -> Any:
    """Return LLVM's type of a vector, a mask, a number or a truth value."""
    number = number_type(numba_type.dtype) if isinstance(numba_type, (Vector, Mask)) else numba_type
    scalar: Any
    if isinstance(number, types.Float):
        scalar = ir.FloatType() if number.bitwidth == 32 else ir.DoubleType()
    else:
        scalar = ir.IntType(1 if number == types.boolean else number.bitwidth)
    lanes = getattr(numba_type, "lanes", 1)
    return scalar if lanes == 1 else ir.VectorType(scalar, lanes)


@register_model(Vector)
@register_model(Mask)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, numba_type: Any) -> None:
        super().__init__(manager, numba_type, llvm_type(numba_type))


@register_model(Tile)
class _TileModel(models.PrimitiveModel):
    def __init__(self, manager: Any, numba_type: Any) -> None:
        super().__init__(manager, numba_type, ir.ArrayType(llvm_type(numba_type.row), numba_type.rows))


def numpy_dtype(numba_type: Any) -> np.dtype[Any]:
    """Return the NumPy dtype of the elements of a type."""
    return np.dtype(as_dtype(getattr(numba_type, "dtype", numba_type)))
