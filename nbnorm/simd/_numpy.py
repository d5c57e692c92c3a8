"""Vectors on NumPy arrays: what the same source works on where nothing is compiled."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np


class NumpyVector:
    """A vector or mask whose elements are a NumPy array, with the rules of compiled vectors.

    Numbers take the vector's type; compiled code does not warn of overflow or invalid values, nor does this.
    """

    __array_ufunc__ = None  # NumPy's numbers leave their operators to this class

    def __init__(self, values: Any) -> None:
        self.values = np.asarray(values)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the elements."""
        return self.values.dtype

    @property
    def lanes(self) -> int:
        """Number of elements."""
        return self.values.size

    @property
    def floating(self) -> bool:
        """Whether the elements are floating-point numbers."""
        return self.dtype.kind == "f"

    def __repr__(self) -> str:
        return f"NumpyVector({self.values!r})"

    def __bool__(self) -> bool:
        raise TypeError("a vector has no truth value: use simd.any, simd.all or simd.where")

    def _operation(self, function: Callable[..., Any], other: Any, swap: bool = False) -> Any:
        return apply(function, other, self) if swap else apply(function, self, other)

    def __add__(self, other: Any) -> Any:
        return self._operation(np.add, other)

    def __radd__(self, other: Any) -> Any:
        return self._operation(np.add, other, True)

    def __sub__(self, other: Any) -> Any:
        return self._operation(np.subtract, other)

    def __rsub__(self, other: Any) -> Any:
        return self._operation(np.subtract, other, True)

    def __mul__(self, other: Any) -> Any:
        return self._operation(np.multiply, other)

    def __rmul__(self, other: Any) -> Any:
        return self._operation(np.multiply, other, True)

    def __truediv__(self, other: Any) -> Any:
        return self._operation(np.divide, other)

    def __rtruediv__(self, other: Any) -> Any:
        return self._operation(np.divide, other, True)

    def __and__(self, other: Any) -> Any:
        return self._operation(np.bitwise_and, other)

    def __rand__(self, other: Any) -> Any:
        return self._operation(np.bitwise_and, other, True)

    def __or__(self, other: Any) -> Any:
        return self._operation(np.bitwise_or, other)

    def __ror__(self, other: Any) -> Any:
        return self._operation(np.bitwise_or, other, True)

    def __xor__(self, other: Any) -> Any:
        return self._operation(np.bitwise_xor, other)

    def __rxor__(self, other: Any) -> Any:
        return self._operation(np.bitwise_xor, other, True)

    def __lshift__(self, other: Any) -> Any:
        return self._operation(np.left_shift, other)

    def __rshift__(self, other: Any) -> Any:
        return self._operation(np.right_shift, other)

    def __lt__(self, other: Any) -> Any:
        return self._operation(np.less, other)

    def __le__(self, other: Any) -> Any:
        return self._operation(np.less_equal, other)

    def __gt__(self, other: Any) -> Any:
        return self._operation(np.greater, other)

    def __ge__(self, other: Any) -> Any:
        return self._operation(np.greater_equal, other)

    def __eq__(self, other: Any) -> Any:
        return self._operation(np.equal, other)

    def __ne__(self, other: Any) -> Any:
        return self._operation(np.not_equal, other)

    __hash__ = object.__hash__

    def __invert__(self) -> NumpyVector:
        return NumpyVector(~self.values)

    def __neg__(self) -> NumpyVector:
        return NumpyVector(-self.values)

    def __pos__(self) -> NumpyVector:
        return self

    def __abs__(self) -> NumpyVector:
        return NumpyVector(np.abs(self.values))


def lift(*operands: Any) -> list[Any]:
    """Return the values of vectors and numbers in the type of the vectors among them."""
    vectors = [x.values for x in operands if isinstance(x, NumpyVector)]
    if not vectors:
        dtype = np.result_type(*operands)
        return [np.asarray(x, dtype)[()] for x in operands]
    for x in vectors[1:]:
        if x.dtype != vectors[0].dtype or (x.ndim and x.shape != vectors[0].shape):
            raise TypeError(f"{vectors[0]!r} and {x!r} do not go together: convert one of them")
    dtype = vectors[0].dtype
    return [
        x.values if isinstance(x, NumpyVector) else np.asarray(x).astype(dtype, casting="unsafe")[()]
        for x in operands
    ]


def apply(function: Callable[..., Any], *operands: Any) -> Any:
    """Apply one of NumPy's functions to vectors and numbers; the result is a vector if one of them is."""
    with np.errstate(all="ignore"):
        values = function(*lift(*operands))
    return NumpyVector(values) if any(isinstance(x, NumpyVector) for x in operands) else values


def memory(address: int, shape: tuple[int, ...], dtype: Any) -> Any:
    """Return the array that stands at an address."""
    interface = {
        "shape": shape, "typestr": np.dtype(dtype).str, "data": (int(address), False), "version": 3
    }  # fmt: skip
    return np.asarray(SimpleNamespace(__array_interface__=interface))


def element(address: int, dtype: Any) -> Any:
    """Return the number that stands at an address, aligned or not."""
    return np.frombuffer(ctypes.string_at(int(address), np.dtype(dtype).itemsize), dtype)[0]


def elements(x: Any, i: int, count: int) -> Any:
    """Return a view of `count` elements from element i on of an array, however many axes it has."""
    if not (isinstance(x, np.ndarray) and x.flags.c_contiguous):
        raise TypeError(f"memory must be a C-contiguous array, got {type(x).__name__}")
    i = int(i)
    if not 0 <= i <= x.size - count:
        raise IndexError(f"elements {i} to {i + count} of an array of {x.size}")
    return x.reshape(-1)[i : i + count]


def chosen(mask: Any, lanes: int) -> list[int]:
    """Return the lanes that a mask, or a number of first lanes, chooses."""
    if isinstance(mask, NumpyVector):
        return [int(k) for k in np.flatnonzero(mask.values)]
    return list(range(min(max(int(mask), 0), lanes)))


def vectors(arguments: tuple[Any, ...]) -> list[Any]:
    """Return arrays as vectors; numbers stay what they are beside them, and become vectors where all are."""
    if any(isinstance(x, np.ndarray) for x in arguments):
        return [NumpyVector(x) if isinstance(x, np.ndarray) else x for x in arguments]
    number = (float, np.number, np.bool_)
    dtypes = [np.asarray(x).dtype for x in arguments if isinstance(x, number)]
    if not dtypes:
        return list(arguments)
    dtype = functools.reduce(np.promote_types, dtypes)
    return [NumpyVector(np.asarray(x, dtype)) if isinstance(x, number) else x for x in arguments]
