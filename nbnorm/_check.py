"""Checks of arguments: one voice for every error.

Each function returns the checked value in the form that kernels take, or raises `TypeError` or
`ValueError` with the argument's name, what was got and what is expected.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
from numba import config
from numba.core.dispatcher import Dispatcher

from nbnorm._types import Array, Float64Array, FloatArray

Chosen = TypeVar("Chosen")

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))

# Kinds of dtypes that are real numbers: floats, integers and bool.
_REAL = "fiub"


class _Memory:
    """Hands out an array's memory without its read-only flag."""

    def __init__(self, array: Array) -> None:
        pointer, _ = array.__array_interface__["data"]
        self.__array_interface__ = {**array.__array_interface__, "data": (pointer, False)}
        self.array = array


def readable(x: Array) -> Array:
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


def is_arrow(x: object) -> bool:
    """Whether `x` is one of Arrow's objects, found out without importing it."""
    return type(x).__module__.partition(".")[0] == "pyarrow"


def _is_polars(x: object) -> bool:
    return type(x).__module__.partition(".")[0] == "polars"


def _floating(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type in which values of `dtype` stand beside NaN."""
    return dtype if dtype.kind == "f" else np.dtype(np.float64)


def _arrow_numbers(column: Any) -> Array | None:
    """Return the numbers of an Arrow column, NaN where there is none; None if it holds something else.

    Integers and decimals become the nearest float64, bool becomes 0 and 1.
    """
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kinds, kind = pa.types, column.type
    if kinds.is_boolean(kind):
        column = column.cast(pa.uint8())
    elif not any(
        known(kind) for known in (kinds.is_integer, kinds.is_floating, kinds.is_decimal, kinds.is_null)
    ):
        return None
    if kinds.is_decimal(kind):
        column = column.cast(pa.string())  # a number that is read from text is rounded once
    if not kinds.is_floating(kind):
        # Unsafe only in that integers beyond 2^53 are rounded, which a null would make an error.
        column = column.cast(pa.float64(), safe=False)
    return np.asarray(column.to_numpy() if isinstance(column, pa.ChunkedArray) else column.to_numpy(False))


def _polars_columns(x: Any) -> list[Any]:
    """Return the columns of a frame or series; none of what has to be collected first."""
    if hasattr(x, "get_columns"):
        return list(x.get_columns())
    return [x] if hasattr(x, "to_numpy") else []


def _polars_numbers(column: Any) -> Array | None:
    """Do the same for a Polars series."""
    polars = sys.modules["polars"]
    kind = column.dtype
    if not (kind.is_numeric() or kind == polars.Boolean):
        return None
    if kind.is_float() or (_is_numpys(kind) and not column.null_count()):
        return np.asarray(column.to_numpy())
    return np.asarray(column.cast(polars.Float64).to_numpy())


def _is_numpys(kind: Any) -> bool:
    """Whether a type of Polars is one of NumPy's numbers: there are no integers of 128 bits."""
    return bool(kind.is_float() or (kind.is_integer() and not str(kind).endswith("128")))


def _pandas_numbers(column: Any) -> Array | None:
    """Do the same for a pandas series, by what its type says; objects are not guessed at."""
    dtype = column.dtype
    if isinstance(dtype, np.dtype):
        return np.asarray(column) if dtype.kind in _REAL else None
    if hasattr(dtype, "pyarrow_dtype"):
        import pyarrow as pa

        return _arrow_numbers(pa.array(column.array))
    if hasattr(dtype, "categories"):
        values = np.asarray(dtype.categories)
        if values.dtype.kind not in _REAL:
            return None
        codes = np.asarray(column.cat.codes)
        if (codes >= 0).all():
            return np.asarray(values[codes])
        with_nan = np.append(values.astype(_floating(values.dtype)), np.nan)  # its code is -1
        return np.asarray(with_nan[codes])
    inner = getattr(dtype, "numpy_dtype", getattr(dtype, "subtype", None))  # nullable, sparse
    if not isinstance(inner, np.dtype) or inner.kind not in _REAL:
        return None
    if inner.kind != "f":
        if not column.isna().any():
            return np.asarray(column.to_numpy(dtype=inner))
        inner = np.dtype(np.float64)
    return np.asarray(column.to_numpy(dtype=inner, na_value=np.nan))


def _boxed(x: Any) -> tuple[list[Any], Any] | None:
    """Return the columns of a frame, a table or a series, and what gives their numbers."""
    if is_arrow(x):
        if hasattr(x, "schema"):
            return (list(x.columns), _arrow_numbers) if hasattr(x, "columns") else None
        return ([x], _arrow_numbers) if hasattr(x, "to_numpy") else None
    if _is_polars(x):
        columns = _polars_columns(x)
        return (columns, _polars_numbers) if columns else None
    if hasattr(x, "iloc") and hasattr(x, "to_numpy"):
        columns = [x] if x.ndim == 1 else [x.iloc[:, j] for j in range(x.shape[1])]
        return columns, _pandas_numbers
    return None


def unboxed(x: object) -> Array | None:
    """Return the numbers of a frame, table or series whose types say that they are numbers.

    What is missing becomes NaN.  None stands for everything else: what `x` holds is then said by its own
    types, not guessed.  The result is in Fortran order, of the type that holds all columns.
    """
    boxed = _boxed(x)
    if boxed is None:
        return None
    columns, numbers = boxed
    parts = []
    for column in columns:
        part = numbers(column)
        if part is None:
            return None
        parts.append(part)
    if getattr(x, "ndim", 2) == 1 or len(columns) == 0 or columns[0] is x:
        return parts[0] if parts else None
    result = np.empty((len(parts), len(parts[0])), np.result_type(*{part.dtype for part in parts}))
    for row, part in zip(result, parts, strict=True):
        row[:] = part
    return result.T


def has_types_of_its_own(x: object) -> bool:
    """Whether the conversion to an array, left to the container, could lose what is missing."""
    if isinstance(x, np.ndarray):
        return False
    if is_arrow(x):
        return True
    if _is_polars(x):
        kinds = [column.dtype for column in _polars_columns(x)]
        return not all(map(_is_numpys, kinds))
    dtypes = [x.dtype] if hasattr(x, "dtype") else list(getattr(x, "dtypes", ()))
    return not all(isinstance(dtype, np.dtype) for dtype in dtypes)


def is_sparse_frame(x: Any) -> bool:
    """Whether all columns of a pandas frame are sparse, with zeros where nothing is stored."""
    if not hasattr(x, "sparse") or getattr(x, "ndim", 0) != 2 or x.shape[1] == 0:
        return False
    return all(dtype.fill_value == 0 for dtype in x.dtypes)


def unboxed_frame(x: Any) -> Any:
    """Return a frame or table whose columns have types of their own as one of the same kind, of floats.

    Everything else is returned as it is.
    """
    if not has_types_of_its_own(x) or len(getattr(x, "shape", ())) != 2:
        return x
    if is_sparse_frame(x):  # it is read as a sparse matrix
        return x
    numbers, labels = unboxed(x), labels_of(x)
    if numbers is None or labels is None:
        return x
    if is_arrow(x):
        import pyarrow as pa

        return pa.table([pa.array(column) for column in numbers.T], names=labels)
    return type(x)(numbers, labels) if _is_polars(x) else type(x)(numbers, x.index, labels)


def _other_column(x: object) -> str:
    """Return which column of a frame holds no numbers, as the end of a sentence."""
    boxed, labels = _boxed(x), labels_of(x)
    if boxed is None or labels is None:
        return ""
    for label, column in zip(labels, boxed[0], strict=True):
        if boxed[1](column) is None:
            kind = column.type if is_arrow(x) else column.dtype
            return f"; column {label!r} must hold real numbers, got {kind}"
    return ""


def unmasked(name: str, x: object) -> None:
    """Refuse a masked array with masked elements: as a plain array it would hold what the mask hides."""
    masked = np.asarray(x.mask).sum() if isinstance(x, np.ma.MaskedArray) else 0
    if masked:
        raise ValueError(
            f"{name} must not have masked elements, got {masked}: fill or drop them first; where NaN may "
            "stand for what is missing, by .astype(float).filled(np.nan)"
        )


def container(name: str, x: object) -> None:
    """Refuse what holds no table that can be read: a mapping, a query of Polars, masked elements."""
    unmasked(name, x)
    if isinstance(x, Mapping) and not hasattr(x, "shape"):  # as a sparse dok_array is
        raise TypeError(f"{name} must be an array, a matrix or a frame, got {type(x).__name__}")
    if _is_polars(x) and hasattr(x, "collect"):
        raise TypeError(f"{name} must be a frame in memory, got {type(x).__name__}: call its collect()")


def plain(name: str, x: object) -> Array:
    """Return `x` as an array, of numbers if the types of its columns say so; refuse masked elements."""
    container(name, x)
    numbers = unboxed(x) if has_types_of_its_own(x) else None
    if numbers is not None:
        return numbers
    try:
        got = np.asarray(x)
    except ValueError as error:
        raise ValueError(f"{name} must be a rectangular array of numbers: {error}") from None
    return got


def numeric(name: str, x: object) -> Array:
    """Return `x` as an array of real numbers; refuse objects, text, complex numbers and masked elements."""
    got = plain(name, x)
    if got.dtype.kind not in _REAL:
        raise TypeError(f"{name} must hold real numbers, got dtype {got.dtype}{_other_column(x)}")
    return got


# ----------------------------------------------------------------------------------------------
# Names of columns
# ----------------------------------------------------------------------------------------------


def labels_of(x: object) -> list[Any] | None:
    """Return the labels of the columns of a frame, an Arrow object or a Dask frame, or None without any."""
    if is_arrow(x):
        schema = getattr(x, "schema_arrow", None)
        schema = getattr(x, "schema", None) if schema is None else schema
        return None if schema is None else list(schema.names)
    if isinstance(x, np.ndarray) or not hasattr(x, "shape"):
        return None
    columns = getattr(x, "columns", None)
    return None if columns is None or callable(columns) else list(columns)


def _numbered(labels: Sequence[Any]) -> bool:
    """Whether labels only number the columns: 0, 1, 2, ... in any order."""
    if not all(isinstance(label, (int, np.integer)) and not isinstance(label, bool) for label in labels):
        return False
    return sorted(labels) == list(range(len(labels)))


def _enumerated(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:10]))
    return f"[{shown}{', ...' if len(names) > 10 else ''}]"


def positions(name: str, got: Sequence[str], expected: Sequence[str]) -> list[int] | None:
    """Return where each of the expected columns stands among those that were got.

    This is the one rule for names, wherever data have them and statistics know them: columns are taken
    by name, in any order; one that is missing, additional or there twice is an error.

    Parameters
    ----------
    name : str
        Of the argument, for errors.
    got, expected : sequence of str
        Names of columns.

    Returns
    -------
    list of int or None
        None where the order is the same.
    """
    if list(got) == list(expected):
        return None
    at = {label: j for j, label in enumerate(got)}
    known = set(expected)
    missing = [label for label in expected if label not in at]
    extra = [label for label in got if label not in known]
    if missing or extra:
        lists = (("missing", missing), ("not known", extra))
        said = " and ".join(f"{_enumerated(some)} {word}" for word, some in lists if some)
        raise ValueError(
            f"{name} must have the features {_enumerated(expected)}, got {_enumerated(got)}: {said}"
        )
    distinct(name, got)
    distinct(name, expected)
    return [at[label] for label in expected]


def distinct(name: str, labels: Sequence[Any]) -> None:
    """Refuse names that several columns have."""
    if len(set(labels)) == len(labels):
        return
    twice = next(label for j, label in enumerate(labels) if label in labels[:j])
    raise ValueError(f"{name} must have distinct names of columns, got {twice!r} {labels.count(twice)} times")


def frame(name: str, x: object) -> None:
    """Refuse what `container` does, and a frame without columns or with several of one name."""
    if type(x) is np.ndarray:  # to predict one row takes as long as twenty such checks
        return
    container(name, x)
    labels = labels_of(x)
    if labels is not None:
        if not labels:
            raise ValueError(f"{name} must have columns, got none")
        distinct(name, labels)


def header(name: str, x: object, expected: Sequence[str] | None) -> tuple[list[str] | None, list[int] | None]:
    """Return the names of the columns of `x` as they will stand, and their positions if they stand otherwise.

    Labels that only number the columns are no names: column 1 is the second one.

    Raises
    ------
    ValueError
        If two columns have one name, or the names are not those `expected`.
    """
    labels = labels_of(x)
    if labels is None:
        return None, None
    if _numbered(labels):
        order = np.argsort(np.array(labels, dtype=np.int64)).tolist()
        return None, None if order == list(range(len(labels))) else order
    names = [str(label) for label in labels]
    distinct(name, names)
    if expected is None:
        return names, None
    return list(expected), positions(name, names, expected)


def table(name: str, x: object, expected: Sequence[str] | None = None) -> tuple[Array, list[str] | None]:
    """Return a table of numbers and the names of its columns, in the order of the `expected` ones.

    Parameters
    ----------
    name : str
        Of the argument, for errors.
    x : array_like of shape (n_samples, n_features), frame or Arrow table
    expected : sequence of str, optional
        Names of features that are known.

    Returns
    -------
    array : ndarray
    names : list of str or None

    Raises
    ------
    TypeError
        If `x` does not hold real numbers.
    ValueError
        If elements are masked, or the names of the columns are not those expected.
    """
    if type(x) is np.ndarray and x.dtype.kind in _REAL:  # as most tables are: nothing else can be wrong
        return x, None
    names, order = header(name, x, expected)
    data = numeric(name, x)
    return (data if order is None else data[:, order]), names


# ----------------------------------------------------------------------------------------------
# Shapes and kinds of arrays
# ----------------------------------------------------------------------------------------------


def rank(name: str, x: Array, ndim: int, expected: str | None = None) -> None:
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
    x: object,
    ndim: int,
    *,
    dtype: np.dtype[Any] | None = None,
    shape: tuple[int, ...] | None = None,
    expected: str | None = None,
) -> FloatArray:
    """Return `x` as a C-contiguous float32 or float64 array that may only be read.

    The shape has to be `shape`; where that is not given, `ndim` and `expected` are as for `rank`.
    Without `dtype`, float32 stays float32 and every other real type becomes float64.
    """
    # Most arrays need no conversion, whose steps would take as long as a small kernel.
    if isinstance(x, np.ndarray) and type(x) is np.ndarray and x.dtype in FLOATS and x.flags.carray:
        got, ready = x, True
    else:
        got, ready = numeric(name, x), False
    if shape is None:
        rank(name, got, ndim, expected)
    elif got.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got shape {got.shape}")
    if ready and (dtype is None or dtype == got.dtype):
        return got
    if dtype is None:
        dtype = got.dtype if got.dtype in FLOATS else np.dtype(np.float64)
    return readable(np.asarray(got, dtype=dtype, order="C"))


def finite(name: str, x: Array, *, missing: bool = False) -> None:
    """Refuse infinity and, unless they stand for what is `missing`, NaN, naming the first position."""
    if x.dtype.kind != "f":
        return
    # in parts, so that a large table costs no large array of flags
    step = max((1 << 18) // max(x[0].size, 1), 1)
    for start in range(0, len(x), step):
        part = x[start : start + step]
        good = ~np.isinf(part) if missing else np.isfinite(part)
        if not good.all():
            at = tuple(int(i) for i in np.unravel_index(int(np.argmin(good)), part.shape))
            where = ", ".join(str(i) for i in (start + at[0], *at[1:]))
            raise ValueError(f"{name} must be finite, got {part[at]} at [{where}]")


def weights(name: str, x: object, n: int, *, some: bool = True) -> Float64Array:
    """Return n weights in float64: finite as their sum is, not negative and, if `some`, not all 0."""
    got = cast(Float64Array, floats(name, x, 1, dtype=np.dtype(np.float64), shape=(n,)))
    good = np.isfinite(got) & (got >= 0.0)
    if not good.all():
        at = int(np.argmin(good))
        raise ValueError(f"{name} must be finite and not negative, got {got[at]:g} at [{at}]")
    if some and not got.any():
        raise ValueError(f"{name} must not be zero for every sample")
    finite_sum(name, got)
    return got


def finite_sum(name: str, x: Float64Array) -> None:
    """Refuse weights that are too large to be averaged with."""
    with np.errstate(over="ignore"):
        total = x.sum()
    if not np.isfinite(total):
        raise ValueError(f"{name} must have a finite sum, got {x.max():g} as the largest")


def output(name: str, out: FloatArray | None, shape: tuple[int, ...], dtype: np.dtype[Any]) -> FloatArray:
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


def apart(name: str, out: Array, **others: Array) -> None:
    """Refuse an `out` that overlaps an input which the kernel still reads."""
    own = out.flags.owndata
    for other, array in others.items():
        # two that have memory of their own need no comparison of addresses, which takes a microsecond
        if out is array or (not (own and array.flags.owndata) and np.may_share_memory(out, array)):
            raise ValueError(f"{name} must not share memory with {other}")


def number(
    name: str,
    value: object,
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


def integer(name: str, value: object, *, least: int | None = None, most: int | None = None) -> int:
    """Return `value` as an int within the bounds."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}")
    got = int(value)
    if (least is not None and got < least) or (most is not None and got > most):
        bounds = [f"at least {least}"] if least is not None else []
        bounds += [f"at most {most}"] if most is not None else []
        raise ValueError(f"{name} must be {' and '.join(bounds)}, got {got}")
    return got


def flag(name: str, value: object) -> bool:
    """Return `value` as a bool."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def choice(name: str, value: object, known: Sequence[Chosen]) -> Chosen:
    """Return the one of `known` that `value` is."""
    for item in known:
        if value is item or (type(value) is type(item) and value == item):
            return item
    options = ", ".join(repr(item) for item in known)
    raise ValueError(f"{name} must be one of {options}, got {value!r}")


def float_dtype(name: str, dtype: npt.DTypeLike) -> np.dtype[Any]:
    """Return `dtype` if it is float32 or float64."""
    try:
        got: np.dtype[Any] = np.dtype(dtype)
    except TypeError:
        raise TypeError(f"{name} must be float32 or float64, got {dtype!r}") from None
    if got not in FLOATS:
        raise ValueError(f"{name} must be float32 or float64, got {got}")
    return got


def same_length(**arrays: Array) -> int:
    """Return the common first length of two arrays or more."""
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        got = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise ValueError(f"{' and '.join(lengths)} must have the same length: {got}")
    return next(iter(lengths.values()))


def compiled(name: str, function: object, arguments: int) -> None:
    """Refuse what compiled code cannot call with that many arguments."""
    if not (isinstance(function, Dispatcher) or (config.DISABLE_JIT and callable(function))):
        raise TypeError(f"{name} must be compiled by numba.njit, got {type(function).__name__}")
    signature = inspect.signature(function)
    try:
        signature.bind(*range(arguments))
    except TypeError:
        plural = "argument" if arguments == 1 else "arguments"
        raise TypeError(f"{name} must take {arguments} {plural}, got {signature}") from None
