"""Encoding of the columns of a table: piecewise linear, and indicators of categories and missing values.

Beside a column x of numbers stand its positions in the bins between its quantiles b_0 < ... < b_T [1]_:

    e_t(x) = clip((x - b_{t-1}) / (b_t - b_{t-1}), 0, 1),    t = 1, ..., T,

0 below the bin, 1 above it, linear inside.  A linear layer on x, e_1, ..., e_T is a piecewise linear
function of x with corners at the quantiles.  A column of categories becomes one indicator for each level.
Missing values (NaN) of a column that had some in training have an indicator too.

The training engine computes these columns when it gathers a batch, so the wide table never exists.

References
----------
.. [1] Y. Gorishniy, I. Rubachev, A. Babenko, "On Embeddings for Numerical Features in Tabular Deep
   Learning", NeurIPS 2022, equation 1.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from nbnorm import _check
from nbnorm._types import Array, CheckedTable, Float64Array, Table
from nbnorm.compile.kernels import kernel, parallel_kernel
from nbnorm.statistics.moments import Moments
from nbnorm.statistics.reading import is_sparse

# Rows of the table that describes the encoded columns: the column of X that each reads, what it says of
# it, and the numbers of `encode_value`.
SOURCE, KIND, EDGE, SLOPE, FLOOR, CEILING, ROWS = range(7)

# What an encoded column says: where a number lies, whether a category has this level, whether it is missing.
POSITION, LEVEL, MISSING = range(3)

# Rows from which quantiles are taken; of longer columns as many rows, evenly spaced.  By the inequality of
# Dvoretzky, Kiefer and Wolfowitz (with Massart's constant) the rank of a quantile of so many rows drawn at
# random is off by more than 0.3 % of the rows with a probability below 1e-7.
MOST_ROWS = 1 << 20

# Rows that are encoded together where a whole table is read.
_CHUNK = 2048

# ----------------------------------------------------------------------------------------------
# Kernels
# ----------------------------------------------------------------------------------------------


@kernel
def encode_value(x: Any, kind: Any, edge: Any, slope: Any, floor: Any, ceiling: Any) -> Any:
    """Encode one value; of a missing number the position is missing."""
    if kind == MISSING:
        return 1.0 if np.isnan(x) else 0.0
    if kind == LEVEL:
        return 1.0 if x == edge else 0.0
    position = (x - edge) * slope
    if position < floor:
        return floor
    if position > ceiling:
        return ceiling
    return position


@parallel_kernel
def encode_kernel(x: Any, table: Any, out: Any) -> None:
    """Fill `out` with the encoded columns of `x`, both of one row a sample."""
    for i in numba.prange(len(x)):
        for e in range(table.shape[1]):
            out[i, e] = encode_value(
                np.float64(x[i, np.int64(table[SOURCE, e])]),
                table[KIND, e],
                table[EDGE, e],
                table[SLOPE, e],
                table[FLOOR, e],
                table[CEILING, e],
            )


# ----------------------------------------------------------------------------------------------
# Bins
# ----------------------------------------------------------------------------------------------


def quantile_edges(column: Array, bins: int, weights: Array | None = None) -> Float64Array:
    """Return the edges of a column's bins, or none where the column stays as it is.

    Parameters
    ----------
    column : ndarray, shape (n,)
        Values; NaN is left out.
    bins : int
        Bins at most.
    weights : ndarray of float64, shape (n,), optional
        Positive weights: one of 2 counts as the same value twice.

    Returns
    -------
    ndarray of float64
        Increasing edges, 3 or more: values of the column at the quantiles 0, 1/bins, ..., 1 (those of the
        inverse of its distribution function, so that repeated values make no new ones).  Empty for a column
        of at most `bins` distinct values, or whose quantiles fall together.
    """
    values = np.asarray(column, np.float64)
    known = ~np.isnan(values)
    if not known.all():
        values = values[known]
        weights = None if weights is None else weights[known]
    none = np.empty(0)
    if not len(values):
        return none
    if weights is None:
        values = np.sort(values)
        ranks = np.ceil(np.arange(bins + 1) * len(values) / bins).astype(np.int64) - 1
    else:
        order = np.argsort(values, kind="stable")
        values = values[order]
        mass = np.cumsum(weights[order])
        ranks = np.searchsorted(mass, np.arange(bins + 1) / bins * mass[-1])
    if 1 + np.count_nonzero(values[1:] != values[:-1]) <= bins:
        return none
    edges = np.unique(values[np.clip(ranks, 0, len(values) - 1)])
    # a bin so narrow or so wide that its slope is not a number is joined to its neighbour
    kept = [edges[0]]
    for edge in edges[1:]:
        with np.errstate(over="ignore"):
            width = edge - kept[-1]
        if np.finfo(np.float64).tiny < width < np.inf:
            kept.append(edge)
    return np.array(kept) if len(kept) > 2 else none


class ColumnEncoder:
    """Encoding of a table's columns for a network.

    A column of numbers with more than `bins` distinct values is joined by its positions in quantile bins;
    one of categories is replaced by an indicator for each level that `fit` has seen, and one with missing
    values is joined by an indicator of these.

    Parameters
    ----------
    bins : int or None, default 8
        Bins of a column at most; None for columns of numbers that stay as they are.
    categorical : sequence of int, default ()
        Columns of categories; their values are any numbers that stand for levels.  A level that `fit` has
        not seen has no indicator: all of them are 0.

    Attributes
    ----------
    n_features_in_ : int
        Columns that `fit` has seen.
    n_features_out_ : int
        Columns after the encoding.
    edges_ : list of ndarray
        For each column the edges of its bins, for one of categories its levels; empty where the column
        stays as it is.
    feature_names : list of str or None
        Names of the columns, where a network has learned them from its data.
    missing_ : ndarray of int
        For each column 0 if `fit` has seen no missing values in it, 1 if some, 2 if nothing else: such a
        column says only whether it is missing.

    Raises
    ------
    TypeError, ValueError
        If `bins` is not an integer of at least 2, or `categorical` does not hold different integers.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import ColumnEncoder
    >>> x = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 0.0], [4.0, 1.0]])
    >>> ColumnEncoder(bins=2).fit(x).transform(x)
    array([[0.   , 0.   , 0.   , 0.   ],
           [1.   , 1.   , 0.   , 1.   ],
           [2.   , 1.   , 0.333..., 0.   ],
           [4.   , 1.   , 1.   , 1.   ]])
    >>> ColumnEncoder(bins=None, categorical=[1]).fit(x).transform(x[:2])
    array([[0., 1., 0.],
           [1., 0., 1.]])
    """

    def __init__(self, bins: int | None = 8, *, categorical: Sequence[int] = ()) -> None:
        self.bins = None if bins is None else _check.integer("bins", bins, least=2)
        self.categorical = tuple(_check.integer("categorical", j, least=0) for j in categorical)
        if len(set(self.categorical)) < len(self.categorical):
            raise ValueError(f"categorical must hold different columns, got {list(categorical)}")
        self.feature_names: list[str] | None = None
        self._edges: list[Array] = []
        self._missing = np.zeros(0, np.int64)
        self._table = np.empty((ROWS, 0))

    @property
    def edges_(self) -> list[Float64Array]:
        """Edges of each column's bins, or levels."""
        self._fitted()
        return list(self._edges)

    @property
    def missing_(self) -> npt.NDArray[np.int64]:
        """Whether each column had no, some, or only missing values."""
        self._fitted()
        return self._missing

    @property
    def n_features_in_(self) -> int:
        """Columns that `fit` has seen."""
        return len(self.edges_)

    @property
    def n_features_out_(self) -> int:
        """Columns after the encoding."""
        return int(self.table.shape[1])

    @property
    def table(self) -> Float64Array:
        """Description of the encoded columns for compiled code, shape (6, columns)."""
        self._fitted()
        return self._table

    def _fitted(self) -> None:
        if self._table.shape[1] == 0:
            raise RuntimeError("the encoding needs a call of fit first")

    def fit(self, x: Table, *, weights: npt.ArrayLike | None = None) -> ColumnEncoder:
        """Choose the bins.

        Parameters
        ----------
        x : array_like or SciPy sparse matrix, shape (n_samples, n_features)
            Numbers of any real type, missing ones NaN.  One column at a time is copied.  Quantiles are
            exact up to 2**20 rows; of more rows, 2**20 evenly spaced ones are taken, whose quantiles are
            off by less than 0.3 % of the rows unless the rows repeat themselves in step with the spacing.
        weights : array_like, shape (n_samples,), optional
            Weights, not negative; rows of weight 0 are left out, the others count by their weight.

        Returns
        -------
        ColumnEncoder
            The encoder itself.

        Raises
        ------
        TypeError, ValueError
            If `x` is not a table of real numbers, or the weights do not fit.
        """
        _check.container("x", x)
        shape = x.shape if is_sparse(x) else np.shape(x)
        if len(shape) != 2:
            raise ValueError(f"x must have shape (n_samples, n_features), got shape {shape}")
        samples, count = shape
        if self.categorical and max(self.categorical) >= count:
            raise ValueError(f"categorical must hold columns below {count}, got {list(self.categorical)}")
        used: Any = slice(None)
        mass = None
        if weights is not None:
            mass = _check.weights("weights", weights, samples)
            used = np.flatnonzero(mass)
            mass = mass[used]
            samples = len(mass)
        chosen = slice(None, None, -(-samples // MOST_ROWS))
        chosen_weights = None if mass is None else mass[chosen]
        edges, missing = [], []
        for j, whole in enumerate(_columns(x)):
            column = whole[used]
            gaps = np.isnan(column) if column.dtype.kind == "f" else np.zeros(1, bool)
            missing.append(int(gaps.any()) + int(gaps.all()))
            if j in self.categorical:
                levels = np.unique(column).astype(np.float64)
                edges.append(levels[~np.isnan(levels)])
            elif self.bins is None:
                edges.append(np.empty(0))
            else:
                edges.append(quantile_edges(column[chosen], self.bins, chosen_weights))
        self._take(edges, missing)
        return self

    def see_rest(
        self,
        some: npt.NDArray[np.bool_],
        whole: npt.NDArray[np.bool_],
        levels: Mapping[int, Float64Array] | None = None,
    ) -> None:
        """Take note of what all rows hold, where `fit` has seen only a part of them.

        Parameters
        ----------
        some, whole : ndarray of bool, shape (n_features,)
            Columns with some missing values, and with nothing else.
        levels : mapping of int to ndarray, optional
            Increasing levels of the columns of categories.
        """
        known = levels or {}
        edges = [known.get(j, bounds) for j, bounds in enumerate(self.edges_)]
        self._take(edges, (some.astype(np.int64) + whole).tolist())

    def _take(self, edges: list[Float64Array], missing: Sequence[int]) -> None:
        rows: list[tuple[float, ...]] = []
        for j, bounds in enumerate(edges):
            if j in self.categorical:
                rows += [(j, LEVEL, level, 0.0, 0.0, 0.0) for level in bounds]
            elif missing[j] < 2:
                rows.append((j, POSITION, 0.0, 1.0, -np.inf, np.inf))
                rows += [
                    (j, POSITION, low, 1.0 / (high - low), 0.0, 1.0)
                    for low, high in itertools.pairwise(bounds)
                ]
            if missing[j] > 0:
                rows.append((j, MISSING, 0.0, 0.0, 0.0, 0.0))
        self._table = np.ascontiguousarray(np.array(rows, np.float64).reshape(-1, ROWS).T)
        self._edges, self._missing = edges, np.array(missing, np.int64)

    def transform(self, x: Table) -> Float64Array:
        """Return the encoded table.

        Parameters
        ----------
        x : array_like or SciPy sparse matrix, shape (n_samples, n_features)
            Numbers of any real type.

        Returns
        -------
        ndarray of float64, shape (n_samples, n_encoded)
            For each column itself and its positions in its bins, or its levels, and whether it is missing.
            Positions of missing numbers are NaN.

        Raises
        ------
        TypeError, ValueError
            If `x` is not a table of real numbers of that width.
        """
        values = x.toarray() if is_sparse(x) else _check.numeric("x", x)
        _check.rank("x", values, 2)
        if values.shape[1] != self.n_features_in_:
            raise ValueError(f"x must have {self.n_features_in_} features, got shape {values.shape}")
        out = np.empty((len(values), self.n_features_out_))
        if values.dtype not in (np.float32, np.float64) or not values.flags.c_contiguous:
            values = np.ascontiguousarray(values, np.float64)
        encode_kernel(out.size, _check.readable(values), self.table, out)
        return out

    def chunks(self, x: CheckedTable) -> Iterator[tuple[slice, Float64Array]]:
        """Yield the rows of a long table that each part holds, and the part, encoded."""
        samples = x.shape[0]
        for start in range(0, samples, _CHUNK):
            rows = slice(start, min(start + _CHUNK, samples))
            yield rows, self.transform(x[rows])

    def moments(self, x: Table, *, weights: npt.ArrayLike | None = None) -> Moments:
        """Return the statistics of the encoded columns; what is missing does not count.

        Parameters
        ----------
        x : array_like or SciPy sparse matrix, shape (n_samples, n_features)
            Numbers of any real type, read in parts.
        weights : array_like, shape (n_samples,), optional
            Weights, not negative.

        Returns
        -------
        Moments

        Raises
        ------
        TypeError, ValueError
            As `transform`, or if the weights do not fit.
        """
        result = Moments(nan="omit", extremes=False)
        table = x.tocsr() if is_sparse(x) else _check.plain("x", x)
        mass = None if weights is None else _check.weights("weights", weights, table.shape[0])
        for rows, part in self.chunks(table):
            if mass is None:
                result.update(part)
            elif mass[rows].any():
                result.update(part, weights=mass[rows])
        return result

    def to_dict(self) -> dict[str, Any]:
        """Return the encoder as a dictionary that `json` can write."""
        return {
            "bins": self.bins,
            "categorical": list(self.categorical),
            "feature_names": self.feature_names,
            "edges": [bounds.tolist() for bounds in self.edges_],
            "missing": self._missing.tolist(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ColumnEncoder:
        """Return the encoder that `to_dict` described.

        Parameters
        ----------
        data : mapping
            With "bins", "categorical", "feature_names", "edges" and "missing".

        Returns
        -------
        ColumnEncoder

        Raises
        ------
        KeyError, TypeError, ValueError
            If it does not describe an encoder.
        """
        result = cls(data["bins"], categorical=data["categorical"])
        edges = [np.array(bounds, np.float64) for bounds in data["edges"]]
        missing = [_check.integer("missing", value, least=0, most=2) for value in data["missing"]]
        if not edges or len(missing) != len(edges) or any(j >= len(edges) for j in result.categorical):
            raise ValueError("edges, missing and categorical must describe the same columns")
        for j, bounds in enumerate(edges):
            good = bounds.ndim == 1 and np.isfinite(bounds).all() and bool((np.diff(bounds) > 0).all())
            most = 0 if result.bins is None else result.bins + 1
            if not good or (j not in result.categorical and (len(bounds) == 1 or len(bounds) > most)):
                raise ValueError(f"the edges of a column must be {most} increasing numbers at most")
        result._take(edges, missing)
        names = data["feature_names"]
        if names is not None and (len(names) != len(edges) or not all(isinstance(n, str) for n in names)):
            raise ValueError(f"feature_names must be {len(edges)} names")
        result.feature_names = names
        return result

    def __repr__(self) -> str:
        categorical = f", categorical={list(self.categorical)}" if self.categorical else ""
        return f"ColumnEncoder(bins={self.bins}{categorical})"


def _columns(x: Table) -> Iterator[Array]:
    """Yield the columns of a table as arrays."""
    if is_sparse(x):
        columns = x.tocsc()
        for j in range(columns.shape[1]):
            yield columns[:, [j]].toarray().reshape(-1)
        return
    values = _check.numeric("x", x)
    _check.rank("x", values, 2)
    for j in range(values.shape[1]):
        yield values[:, j]
