"""Checks of arguments: one voice for every error.

Each function returns the checked value in the form that kernels take, or raises `TypeError` or
`ValueError` with the argument's name, what was got and what is expected.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import config
from numba.core.dispatcher import Dispatcher

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))

# Kinds of dtypes that are real numbers: floats, integers and bool.
_REAL = "fiub"


class _Memory:
    """Hands out an array's memory without its read-only flag."""

    def __init__(self, array: npt.NDArray[Any]) -> None:
        pointer, _ = array.__array_interface__["data"]
        self.__array_interface__ = {**array.__array_interface__, "data": (pointer, False)}
        self.array = array


def readable(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the same memory as an array type that kernels are compiled for.

    A read-only array is a Numba type of its own and would double the compiled code.  The result
    must only be read.  Arrays that are unaligned or of foreign byte order are copied.
    """
    if not x.dtype.isnative or not x.flags.aligned:
        x = x.astype(x.dtype.newbyteorder("="), copy=True)
    x = x.view(np.ndarray)
    if not x.flags.writeable:
        x = np.asarray(_Memory(x))
    return x


def _described(x: object) -> str:
    if isinstance(x, np.ndarray):
        return f"{x.dtype} array of shape {x.shape}"
    return type(x).__name__


def _unboxed(x: Any) -> npt.NDArray[Any] | None:
    """Return the numbers of a pandas object with nullable columns, NaN where there is none.

    None stands for everything else: what `x` holds is then said by its own types, not guessed.
    """
    dtypes = [x.dtype] if hasattr(x, "dtype") else list(getattr(x, "dtypes", ()))
    if not dtypes or not all(getattr(dtype, "kind", "O") in _REAL for dtype in dtypes):
        return None
    # those of nullable and of sparse columns
    inner = [getattr(dtype, "numpy_dtype", getattr(dtype, "subtype", dtype)) for dtype in dtypes]
    if not all(isinstance(dtype, np.dtype) for dtype in inner):
        return None
    common = np.result_type(*inner)
    if common.kind != "f":
        try:
            return np.asarray(x.to_numpy(dtype=common))
        except (TypeError, ValueError):  # something is missing, and integers have no NaN
            common = np.dtype(np.float64)
    return np.asarray(x.to_numpy(dtype=common, na_value=np.nan))


def unmasked(name: str, x: object) -> None:
    """Refuse a masked array with masked elements: as a plain array it would hold what the mask hides."""
    masked = np.asarray(x.mask).sum() if isinstance(x, np.ma.MaskedArray) else 0
    if masked:
        raise ValueError(
            f"{name} must not have masked elements, got {masked}: fill or drop them first; where NaN may "
            "stand for what is missing, by .astype(float).filled(np.nan)"
        )


def plain(name: str, x: npt.ArrayLike) -> npt.NDArray[Any]:
    """Return `x` as an array, of numbers if it has nullable columns of pandas; refuse masked elements."""
    unmasked(name, x)
    try:
        got = np.asarray(x)
    except ValueError as error:
        raise ValueError(f"{name} must be a rectangular array of numbers: {error}") from None
    numbers = _unboxed(x) if got.dtype.kind == "O" else None
    return got if numbers is None else numbers


def numeric(name: str, x: npt.ArrayLike) -> npt.NDArray[Any]:
    """Return `x` as an array of real numbers; refuse objects, text, complex numbers and masked elements."""
    got = plain(name, x)
    if got.dtype.kind not in _REAL:
        raise TypeError(f"{name} must hold real numbers, got dtype {got.dtype}")
    return got


def rank(name: str, x: npt.NDArray[Any], ndim: int, expected: str | None = None) -> None:
    """Refuse an array with another number of dimensions, or without elements.

    `expected` is the shape that the error names, by default that of samples.
    """
    if x.ndim != ndim:
        if expected is None:
            expected = {1: "(n,)", 2: "(n_samples, n_features)"}[ndim]
        raise ValueError(f"{name} must have shape {expected}, got shape {x.shape}")
    if x.size == 0:
        raise ValueError(f"{name} must not be empty, got shape {x.shape}")


def floats(
    name: str,
    x: npt.ArrayLike,
    ndim: int,
    *,
    dtype: np.dtype[Any] | None = None,
    shape: tuple[int, ...] | None = None,
    expected: str | None = None,
) -> npt.NDArray[Any]:
    """Return `x` as a C-contiguous float32 or float64 array that may only be read.

    The shape has to be `shape`; where that is not given, `ndim` and `expected` are as for `rank`.
    Without `dtype`, float32 stays float32 and every other real type becomes float64.
    """
    got = numeric(name, x)
    if shape is None:
        rank(name, got, ndim, expected)
    elif got.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got shape {got.shape}")
    if dtype is None:
        dtype = got.dtype if got.dtype in FLOATS else np.dtype(np.float64)
    return readable(np.asarray(got, dtype=dtype, order="C"))


def finite(name: str, x: npt.NDArray[Any]) -> None:
    """Refuse NaN and infinity, naming the first place."""
    if x.dtype.kind != "f":
        return
    # in parts, so that a large table costs no large array of flags
    step = max((1 << 18) // max(x[0].size, 1), 1)
    for start in range(0, len(x), step):
        part = x[start : start + step]
        good = np.isfinite(part)
        if not good.all():
            at = tuple(int(i) for i in np.unravel_index(int(np.argmin(good)), part.shape))
            place = ", ".join(str(i) for i in (start + at[0], *at[1:]))
            raise ValueError(f"{name} must be finite, got {part[at]} at [{place}]")


def weights(name: str, x: npt.ArrayLike, n: int, *, some: bool = True) -> npt.NDArray[np.float64]:
    """Return n weights in float64: finite as their sum is, not negative and, if `some`, not all 0."""
    got = floats(name, x, 1, dtype=np.dtype(np.float64), shape=(n,))
    good = np.isfinite(got) & (got >= 0.0)
    if not good.all():
        at = int(np.argmin(good))
        raise ValueError(f"{name} must be finite and not negative, got {got[at]:g} at [{at}]")
    if some and not got.any():
        raise ValueError(f"{name} must not be zero for every sample")
    finite_sum(name, got)
    return got


def finite_sum(name: str, x: npt.NDArray[np.float64]) -> None:
    """Refuse weights that are too large to be averaged with."""
    with np.errstate(over="ignore"):
        total = x.sum()
    if not np.isfinite(total):
        raise ValueError(f"{name} must have a finite sum, got {x.max():g} as the largest")


def output(
    name: str, out: npt.NDArray[Any] | None, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> npt.NDArray[Any]:
    """Return `out` after checking that a kernel can fill it, or a new array."""
    if out is None:
        return np.empty(shape, dtype)
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        raise TypeError(f"{name} must be a NumPy array, got {type(out).__name__}")
    if out.shape != shape or out.dtype != dtype:
        raise ValueError(f"{name} must be a {dtype} array of shape {shape}, got a {_described(out)}")
    if not (out.flags.c_contiguous and out.flags.writeable and out.flags.aligned):
        raise ValueError(f"{name} must be C-contiguous, aligned and writeable")
    return out


def apart(name: str, out: npt.NDArray[Any], **others: npt.NDArray[Any]) -> None:
    """Refuse an `out` that overlaps an input which the kernel still reads."""
    for other, array in others.items():
        if np.may_share_memory(out, array):
            raise ValueError(f"{name} must not share memory with {other}")


def number(
    name: str,
    value: Any,
    *,
    above: float = -math.inf,
    least: float = -math.inf,
    below: float = math.inf,
    most: float = math.inf,
) -> float:
    """Return `value` as a finite float within the bounds (`above` and `below` are exclusive)."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.number)):
        raise TypeError(f"{name} must be a real number, got {type(value).__name__}")
    if isinstance(value, np.complexfloating):
        raise TypeError(f"{name} must be a real number, got {type(value).__name__}")
    try:
        got = float(value)
    except OverflowError:  # an integer beyond the floats
        got = math.inf
    if not (math.isfinite(got) and got > above and got >= least and got < below and got <= most):
        bounds = [
            f"{word} {bound:g}"
            for word, bound in (("above", above), ("at least", least), ("below", below), ("at most", most))
            if math.isfinite(bound)
        ]
        expected = "finite" + (" and " + " and ".join(bounds) if bounds else "")
        raise ValueError(f"{name} must be {expected}, got {value}")
    return got


def integer(name: str, value: Any, *, least: int | None = None, most: int | None = None) -> int:
    """Return `value` as an int within the bounds."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}")
    got = int(value)
    if (least is not None and got < least) or (most is not None and got > most):
        bounds = [f"at least {least}"] if least is not None else []
        bounds += [f"at most {most}"] if most is not None else []
        raise ValueError(f"{name} must be {' and '.join(bounds)}, got {got}")
    return got


def flag(name: str, value: Any) -> bool:
    """Return `value` as a bool."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def choice(name: str, value: Any, known: Sequence[Any]) -> Any:
    """Return `value` if it is one of `known`."""
    if not any(value is item or (type(value) is type(item) and value == item) for item in known):
        options = ", ".join(repr(item) for item in known)
        raise ValueError(f"{name} must be one of {options}, got {value!r}")
    return value


def float_dtype(name: str, dtype: Any) -> np.dtype[Any]:
    """Return `dtype` if it is float32 or float64."""
    try:
        got: np.dtype[Any] = np.dtype(dtype)
    except TypeError:
        raise TypeError(f"{name} must be float32 or float64, got {dtype!r}") from None
    if got not in FLOATS:
        raise ValueError(f"{name} must be float32 or float64, got {got}")
    return got


def same_length(**arrays: npt.NDArray[Any]) -> int:
    """Return the common first length of two arrays or more."""
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        got = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise ValueError(f"{' and '.join(lengths)} must have the same length: {got}")
    return next(iter(lengths.values()))


def compiled(name: str, function: Any, arguments: int) -> None:
    """Refuse what compiled code cannot call with that many arguments."""
    if not (isinstance(function, Dispatcher) or (config.DISABLE_JIT and callable(function))):
        raise TypeError(f"{name} must be compiled by numba.njit, got {type(function).__name__}")
    signature = inspect.signature(function)
    try:
        signature.bind(*range(arguments))
    except TypeError:
        plural = "argument" if arguments == 1 else "arguments"
        raise TypeError(f"{name} must take {arguments} {plural}, got {signature}") from None
