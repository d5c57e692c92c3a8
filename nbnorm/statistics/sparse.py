"""Statistics and scaling of SciPy sparse matrices, whose implied zeros count like any value."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from nbnorm import _check
from nbnorm._types import Array, CompressedMatrix, SparseMatrix
from nbnorm.compile.kernels import kernel
from nbnorm.statistics.blocks import STEPS
from nbnorm.statistics.double import two_sum
from nbnorm.statistics.reading import result_dtype
from nbnorm.statistics.states import (
    COUNT,
    COUNT_ERROR,
    M2,
    M2_ERROR,
    MAX,
    MEAN,
    MEAN_LOW,
    MIN,
    SUM_ERROR,
    UNIT,
    empty_state,
    refuse_range,
)

# Rows of the sums over stored values: how many, weight, weight of missing ones, deviations and their
# squares, both with what rounding left, extremes.  A column may have any number of values: plain sums would
# lose digits.
_STORED, _WEIGHT, _MISSING, _FIRST, _FIRST_LOW, _SECOND, _SECOND_LOW, _LOW, _HIGH = range(9)


@kernel
def _sparse_sums(
    data: Array,
    indices: Array,
    indptr: Array,
    by_row: bool,
    weighted: bool,
    weights: Array,
    omit: bool,
    shift: Array,
    sums: Array,
) -> None:
    """Sum the stored values of every column as deviations from `shift`, without the implied zeros."""
    for major in range(indptr.shape[0] - 1):
        for p in range(indptr[major], indptr[major + 1]):
            row, column = (major, indices[p]) if by_row else (indices[p], major)
            weight = weights[row] if weighted else 1.0
            value = data[p]
            if weight <= 0.0:
                continue
            sums[_STORED, column] += 1.0
            if omit and value != value:
                sums[_MISSING, column] += weight
                continue
            d = value - shift[column]
            sums[_WEIGHT, column] += weight
            sums[_FIRST, column], error = two_sum(sums[_FIRST, column], weight * d)
            sums[_FIRST_LOW, column] += error
            sums[_SECOND, column], error = two_sum(sums[_SECOND, column], weight * d * d)
            sums[_SECOND_LOW, column] += error
            if value < sums[_LOW, column]:
                sums[_LOW, column] = value
            if value > sums[_HIGH, column]:
                sums[_HIGH, column] = value


def _compressed(name: str, x: SparseMatrix) -> CompressedMatrix:
    """Return `x` in compressed rows or columns, each element stored once."""
    if x.dtype.kind not in "fiub":
        raise TypeError(f"{name} must hold real numbers, got dtype {x.dtype}")
    result = x.tocsc() if x.format == "csc" else x.tocsr()
    if not result.has_canonical_format:
        result = result.copy()
        result.sum_duplicates()
    return result


def gather_sparse(
    name: str, x: SparseMatrix, weights: npt.ArrayLike | None, nan: str, feature_names: list[str] | None
) -> Array:
    """Return the state of a SciPy sparse matrix, whose implied zeros count like any value.

    Parameters
    ----------
    name : str
        Of the argument, for errors.
    x : sparse matrix or array of shape (n_samples, n_features)
    weights : array_like of shape (n_samples,), or None
    nan : {"propagate", "omit", "raise"}
        What a NaN does.
    feature_names : list of str or None
        For errors.

    Returns
    -------
    ndarray of shape (10, n_features), float64
        As `Moments` holds it.

    Raises
    ------
    TypeError, ValueError
        As `Moments.update` does.

    Examples
    --------
    >>> import scipy.sparse
    >>> from nbnorm import moments
    >>> moments(scipy.sparse.csr_array([[0.0, 2.0], [0.0, 0.0]])).mean
    array([0., 1.])
    """
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"{name} must have shape (n_samples, n_features), not empty, got shape {x.shape}")
    n, features = x.shape
    mass = np.ones(1) if weights is None else _check.weights("weights", weights, n, some=False)
    matrix = _compressed(name, x)
    data = _check.readable(np.ascontiguousarray(matrix.data, dtype=result_dtype(matrix.dtype)))
    if data.dtype == np.float16:
        data = data.astype(np.float32)
    structure = _check.readable(matrix.indices), _check.readable(matrix.indptr)
    by_row = matrix.format == "csr"
    if nan == "raise" and np.isnan(data).any():
        raise ValueError(f"{name} must not hold NaN (nan='raise'), got one among the stored values")
    weighted = weights is not None
    rows = float(np.count_nonzero(mass) if weighted else n)
    total = float(mass.sum() if weighted else n)
    shift = np.zeros(features)
    state = empty_state(features)
    # Twice: the first mean is the shift for which the second pass loses nothing.
    for _ in range(2):
        sums = np.zeros((9, features))
        sums[_LOW], sums[_HIGH] = math.inf, -math.inf
        _sparse_sums(data, *structure, by_row, weighted, mass, nan == "omit", shift, sums)
        implied = np.where(sums[_STORED] == rows, 0.0, total - sums[_WEIGHT] - sums[_MISSING])
        count = implied + sums[_WEIGHT]
        with np.errstate(invalid="ignore", over="ignore"):
            first, second = (
                np.where(np.isfinite(sums[row]), sums[row] + sums[row + 1], sums[row])
                for row in (_FIRST, _SECOND)
            )
            deviation = first - implied * shift
        offset = np.divide(deviation, count, out=np.zeros(features), where=count > 0.0)
        start, shift = shift, np.where(np.isfinite(shift + offset), shift + offset, 0.0)
    mean = start + offset
    with np.errstate(invalid="ignore", over="ignore"):
        squares = second + implied * start**2
        state[M2] = np.maximum(squares - deviation * offset, 0.0)
        state[MEAN_LOW] = np.where(np.isfinite(mean), offset - (mean - start), 0.0)
        whole = not weighted or bool((mass == np.floor(mass)).all() and total < 2.0**53)
        state[COUNT_ERROR] = 0.0 if whole else UNIT * (n + STEPS) * total
        unit = UNIT * STEPS + (state[COUNT_ERROR] / np.maximum(count, UNIT * total) if total else 0.0)
        state[SUM_ERROR] = unit * np.sqrt(count) * np.sqrt(squares)
        state[M2_ERROR] = unit * squares + 2.0 * np.abs(offset) * state[SUM_ERROR]
    state[COUNT], state[MEAN] = count, mean
    state[MIN] = np.where(implied > 0.0, np.minimum(sums[_LOW], 0.0), sums[_LOW])
    state[MAX] = np.where(implied > 0.0, np.maximum(sums[_HIGH], 0.0), sums[_HIGH])

    def counted(j: int) -> Array:
        at = matrix.indices == j if by_row else slice(matrix.indptr[j], matrix.indptr[j + 1])
        rows = np.repeat(np.arange(n), np.diff(matrix.indptr)) if by_row else matrix.indices
        values = np.append(data[at], np.zeros(int(implied[j] > 0.0), data.dtype))
        if weighted:
            values = values[np.append(mass[rows[at]] > 0.0, np.ones(int(implied[j] > 0.0), bool))]
        return values[~np.isnan(values)] if nan == "omit" else values

    refuse_range(name, state, feature_names, counted)
    return state


def scale_sparse(x: SparseMatrix, scale: Array, inverse: bool) -> CompressedMatrix:
    """Return a sparse matrix with every column divided by its scale, or multiplied.

    Parameters
    ----------
    x : sparse matrix or array of shape (n_samples, n_features)
    scale : ndarray of shape (n_features,), float64
    inverse : bool
        Multiply.

    Returns
    -------
    sparse matrix or array of shape (n_samples, n_features)
        In compressed rows, or compressed columns if `x` is.

    Examples
    --------
    >>> import numpy as np, scipy.sparse
    >>> scale_sparse(scipy.sparse.csr_array([[0.0, 2.0]]), np.array([1.0, 4.0]), False).toarray()
    array([[0. , 0.5]])
    """
    result = _compressed("x", x)
    dtype = result_dtype(result.dtype)
    by_row = result.format == "csr"
    factors = scale[result.indices] if by_row else np.repeat(scale, np.diff(result.indptr))
    data = result.data * factors if inverse else result.data / factors
    structure = (data.astype(dtype), result.indices.copy(), result.indptr.copy())
    made: CompressedMatrix = type(result)(structure, shape=result.shape)  # type: ignore[call-arg]
    return made
