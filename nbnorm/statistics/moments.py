"""Count, mean and sum of squared deviations of every feature, in one read of the data.

Blocks of rows are read once, with float64 differences from a shift (`nbnorm.statistics.blocks`), and joined
by the update of Chan, Golub and LeVeque [1]_, with every mean and every sum of squares kept as an unevaluated
sum of two doubles (`nbnorm.statistics.states`), so that neither the number nor the grouping of joins shows in
the result.

How far off they can be
-----------------------
Beside the sums stands a bound of their rounding errors, carried to first order through every join and every
part that is taken away.  While data are only added, the bound stays far below the sums.  Where parts are
taken away the sums shrink and the bound grows, and what is no longer good to ten digits is refused.

References
----------
.. [1] T. F. Chan, G. H. Golub, R. J. LeVeque, "Algorithms for computing the sample variance: analysis and
   recommendations", The American Statistician 37 (1983) 242-247.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from nbnorm import _check
from nbnorm._types import Array, Float64Array, Table
from nbnorm.statistics.blocks import Options, assumed_errors, gather
from nbnorm.statistics.reading import CHUNK, is_sparse
from nbnorm.statistics.sparse import gather_sparse
from nbnorm.statistics.states import (
    COUNT,
    COUNT_ERROR,
    M2,
    M2_ERROR,
    M2_LOW,
    MAX,
    MEAN,
    MEAN_LOW,
    MIN,
    ROWS,
    SUM_ERROR,
    empty_state,
    merge_states,
    refuse_join,
    refuse_range,
    subtract_states,
)

Nan: TypeAlias = Literal["propagate", "omit", "raise"]
NANS: tuple[Nan, ...] = ("propagate", "omit", "raise")

# Rows of a state.  Files of earlier versions lack the bounds of the errors.
_FIELDS = ("count", "mean", "mean_low", "m2", "m2_low", "min", "max")
_ERRORS = ("count_error", "sum_error", "m2_error")
_DIGITS = 1e-10  # relative error that a downdate may leave


def _first_missing(x: Array, weights: Array | None) -> tuple[int, int] | None:
    """Return the index of the first NaN in a row that counts."""
    if x.dtype.kind != "f":
        return None
    step = max(1, CHUNK // max(1, x.shape[1] * x.dtype.itemsize))
    for start in range(0, len(x), step):
        missing = np.isnan(x[start : start + step])
        if weights is not None:
            missing &= (weights[start : start + step] > 0.0)[:, None]
        if missing.any():
            row, column = np.unravel_index(int(np.argmax(missing)), missing.shape)
            return start + int(row), int(column)
    return None


def _listed(values: Array) -> list[float | str]:
    """Return floats as JSON has them; what JSON has no number for becomes its name."""
    return [v if math.isfinite(v) else repr(v) for v in values.tolist()]


class Moments:
    """Count, mean and sum of squared deviations of every feature, in float64.

    Data are added by `update`, in parts of any size; parts are joined by `merge` or ``+``, exactly as if
    they had been read at once, and taken away again by `downdate` or ``-``.  With d_i = x_i - mean,

        mean = sum(w_i x_i) / sum(w_i),      var(ddof) = sum(w_i d_i^2) / (sum(w_i) - ddof),

    where every weight is 1 unless given.  The sums are never formed from squares of the data
    themselves: see the module's text for how, and for the error bound.

    Parameters
    ----------
    nan : {"propagate", "omit", "raise"}, default: "propagate"
        What a NaN does: make its feature's mean and variance NaN, count as missing in its feature, or raise.
    extremes : bool, default: True
        Whether minimum and maximum are kept too.

    Attributes
    ----------
    n_features : int or None
        None before the first data.
    count : int, float or ndarray of shape (n_features,)
        Sum of the weights; one number if it is the same for every feature.
    counts : ndarray of shape (n_features,), float64
        Sum of the weights of the values that are not missing, per feature.
    mean, min, max : ndarray of shape (n_features,), float64
        NaN where there are no values.  `min` and `max` pass over NaN.  After a `downdate` by a part that held
        an extreme, that extreme is unknown, also when data are added later: NaN.
    feature_names : list of str or None
        Names that the source of the data gave.  Further data that have names are taken by name.

    See Also
    --------
    moments : the moments of one array.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import Moments
    >>> m = Moments().update(np.array([[1.0, 10.0], [3.0, 10.0]]))
    >>> m.update(np.array([[5.0, 40.0]])).mean
    array([ 3., 20.])
    >>> m.var(ddof=1)
    array([  4., 300.])
    """

    _FORMAT = "nbnorm moments 1"

    def __init__(self, *, nan: Nan = "propagate", extremes: bool = True) -> None:
        self.nan = _check.choice("nan", nan, NANS)
        self._extremes = _check.flag("extremes", extremes)
        self._state: Array | None = None
        self.feature_names: list[str] | None = None

    @property
    def _known(self) -> Float64Array:
        if self._state is None:
            raise ValueError("there are no moments yet: call update with data first")
        return self._state

    @property
    def n_features(self) -> int | None:
        """Number of features, or None before the first data."""
        return None if self._state is None else self._state.shape[1]

    @property
    def counts(self) -> Float64Array:
        """Sum of the weights of the values present, per feature."""
        counts: Float64Array = self._known[COUNT].copy()
        return counts

    @property
    def count(self) -> int | float | Float64Array:
        """Sum of the weights: one number if it is the same for every feature."""
        if self._state is None:
            return 0
        counts = self._state[COUNT]
        if (counts != counts[0]).any():
            return np.array(counts)
        return int(counts[0]) if counts[0] == np.floor(counts[0]) else float(counts[0])

    @property
    def mean(self) -> Float64Array:
        """Mean of every feature."""
        state = self._known
        return np.where(state[COUNT] > 0.0, state[MEAN] + state[MEAN_LOW], math.nan)

    @property
    def mean_low(self) -> Float64Array:
        """What `mean`, rounded to float64, lacks: mean + mean_low is good to twice the digits."""
        state = self._known
        return np.where(state[COUNT] > 0.0, state[MEAN_LOW], 0.0)

    @property
    def min(self) -> Float64Array:
        """Least value of every feature."""
        return self._extreme(MIN)

    @property
    def max(self) -> Float64Array:
        """Greatest value of every feature."""
        return self._extreme(MAX)

    def _extreme(self, row: int) -> Float64Array:
        state = self._known
        return np.where(state[MIN] > state[MAX], math.nan, state[row])  # NaN is not greater

    def var(self, ddof: float = 0) -> Float64Array:
        """Return the variance of every feature.

        Parameters
        ----------
        ddof : float, default: 0
            What is taken off the count in the divisor: 0 for the population, 1 for the unbiased estimate.

        Returns
        -------
        ndarray of shape (n_features,), float64
            NaN where the count does not exceed `ddof`.

        Examples
        --------
        >>> import nbnorm
        >>> nbnorm.moments([[1.0], [2.0], [3.0]]).var(ddof=1)
        array([1.])
        """
        state = self._known
        ddof = _check.number("ddof", ddof, least=0.0)
        divisor = state[COUNT] - ddof
        divisor[divisor <= 0.0] = math.nan
        result: Float64Array = (state[M2] + state[M2_LOW]) / divisor
        return result

    def std(self, ddof: float = 0) -> Float64Array:
        """Return the standard deviation of every feature, the root of `var`.

        Parameters
        ----------
        ddof : float, default: 0
            As for `var`.

        Returns
        -------
        ndarray of shape (n_features,), float64

        Examples
        --------
        >>> import nbnorm
        >>> nbnorm.moments([[1.0], [2.0], [3.0]]).std(ddof=1)
        array([1.])
        """
        return np.sqrt(self.var(ddof))

    def update(self, x: Table, *, weights: npt.ArrayLike | None = None) -> Moments:
        """Add rows of data.

        Parameters
        ----------
        x : array_like of shape (n_samples, n_features), or SciPy sparse matrix
            Real numbers of any type, in any memory layout; read where they lie.
        weights : array_like of shape (n_samples,), optional
            Finite and not negative.  A weight of 2 is a row given twice, a weight of 0 a row left out.

        Returns
        -------
        Moments
            The object itself.

        Raises
        ------
        TypeError
            If `x` or `weights` do not hold real numbers.
        ValueError
            If the number of features differs from earlier data, a weight is negative or not finite, `x` is
            empty or has masked elements, or NaN was found with ``nan="raise"``.  Nothing is changed then.

        Examples
        --------
        >>> import nbnorm
        >>> nbnorm.Moments().update([[1.0], [4.0]], weights=[2, 1]).mean
        array([2.])
        """
        return self.add("x", x, weights)

    def add(self, name: str, x: Table, weights: npt.ArrayLike | None = None) -> Moments:
        """Do the same for an argument of another name, which errors use.

        Parameters
        ----------
        name : str
            Name of the argument.
        x, weights
            As for `update`.

        Returns
        -------
        Moments
            The object itself.

        Raises
        ------
        TypeError, ValueError
            As `update` does.

        Examples
        --------
        >>> import nbnorm
        >>> nbnorm.Moments().add("table", [[1.0], [4.0]]).mean
        array([2.5])
        """
        if is_sparse(x):
            if x.ndim == 2:
                self.same_width(name, x.shape[1])
            self._adopt(name, gather_sparse(name, x, weights, self.nan, self.feature_names), None)
            return self
        data, names = _check.table(name, x, self.feature_names)
        _check.rank(name, data, 2)
        self.same_width(name, data.shape[1])
        mass = None if weights is None else _check.weights("weights", weights, len(data), some=False)
        state = empty_state(data.shape[1])
        gather(data, mass, Options(False, self._extremes), state)
        # Most data have no NaN, and the sums tell whether there was one; only then is it looked for.
        if self.nan == "omit" and np.isnan(state[M2]).any():
            state = empty_state(data.shape[1])
            gather(data, mass, Options(True, self._extremes), state)
        if self.nan == "raise" and np.isnan(state[M2]).any():
            index = _first_missing(data, mass)
            if index is not None:
                raise ValueError(
                    f"{name} must not hold NaN (nan='raise'), got one at [{index[0]}, {index[1]}]"
                )

        def counted(j: int) -> Array:
            values = data[:, j] if mass is None else data[mass > 0.0, j]
            return values[~np.isnan(values)] if self.nan == "omit" and values.dtype.kind == "f" else values

        refuse_range(name, state, self.feature_names or names, counted)
        self._adopt(name, state, names)
        return self

    def same_width(self, name: str, width: int) -> None:
        """Refuse an argument of another number of features than the data so far.

        Parameters
        ----------
        name : str
            Name of the argument.
        width : int
            Its number of features.

        Raises
        ------
        ValueError
            If it is another one.

        Examples
        --------
        >>> import nbnorm
        >>> nbnorm.moments([[1.0, 2.0]]).same_width("x", 2)
        """
        if self._state is not None and width != self._state.shape[1]:
            raise ValueError(
                f"{name} must have {self._state.shape[1]} features like the data before it, got {width}"
            )

    def _adopt(self, name: str, state: Array, names: list[str] | None) -> None:
        """Join a state, or leave everything as it was."""
        names = self.feature_names or names
        if self._state is not None:
            joined = self._state.copy()
            merge_states(joined, state)
            refuse_join(name, joined, (self._state, state), names)
            state = joined
        self._state, self.feature_names = state, names

    def merge(self, other: Moments) -> Moments:
        """Join the moments of other data; the result does not depend on how parts were grouped.

        Parameters
        ----------
        other : Moments
            Left as it is.  Moments without data change nothing.

        Returns
        -------
        Moments
            The object itself.

        Raises
        ------
        TypeError
            If `other` is not a Moments.
        ValueError
            If the numbers or the names of the features differ, or float64 cannot hold the sum of squared
            deviations.  The order of names may differ.  Nothing is changed then.

        Notes
        -----
        With delta = mean_b - mean_a and n = n_a + n_b, after Chan, Golub and LeVeque:
        mean = mean_a + delta n_b / n and M2 = M2_a + M2_b + delta^2 n_a n_b / n.

        Examples
        --------
        >>> import nbnorm
        >>> a, b = nbnorm.moments([[1.0], [2.0]]), nbnorm.moments([[6.0]])
        >>> a.merge(b).mean
        array([3.])
        """
        state = self._comparable("other", other)
        if state is not None:
            self._adopt("other", state, other.feature_names)
        return self

    def _comparable(self, name: str, other: Moments) -> Array | None:
        """Return the state of other moments with the features in the order of these."""
        if not isinstance(other, Moments):
            raise TypeError(f"{name} must be a Moments, got {type(other).__name__}")
        state = other._state
        if state is None:
            return None
        names, others = self.feature_names, other.feature_names
        if names is not None and others is not None:
            order = _check.positions(name, others, names)
            if order is not None:
                state = state[:, order]
        self.same_width(name, state.shape[1])
        return state.copy()

    def downdate(self, part: Moments) -> Moments:
        """Take away the moments of a part of the data: `merge` undone.

        Parameters
        ----------
        part : Moments
            Of rows that are among those gathered here.  Left as it is.

        Returns
        -------
        Moments
            The object itself.

        Raises
        ------
        TypeError
            If `part` is not a Moments.
        ValueError
            If the features differ, if `part` cannot be a part of these data, or if less than ten digits of
            what would remain were sure to be right.  Nothing is changed then.

        Notes
        -----
        A bound of the rounding errors is kept beside the sums.  What is taken away takes digits with it, but
        leaves its errors: after ``k`` updates and downdates the bound is the sum of all their errors.  It
        has to stay below 1e-10 of the sum of squared deviations, of the count, and for the mean of the
        larger one of mean and standard deviation.  Where it does not, gather the remaining data anew.

        A minimum or maximum that `part` held is unknown afterwards: NaN.

        Examples
        --------
        >>> import nbnorm
        >>> a, b = nbnorm.moments([[1.0], [2.0]]), nbnorm.moments([[6.0]])
        >>> (a + b).downdate(b).mean
        array([1.5])
        """
        taken = self._comparable("part", part)
        if taken is None:
            return self
        state = self._known.copy()
        labels = self.feature_names or part.feature_names
        self._refuse_no_part(state, taken, labels)
        subtract_states(state, taken)
        known = (state[COUNT] > 0.0) & (taken[COUNT] > 0.0) & np.isfinite(self._known[M2])
        count = np.where(known, state[COUNT], 1.0)
        deviations = state[M2] + state[M2_LOW]
        size = np.fmax(np.abs(state[MEAN]), np.sqrt(np.fmax(deviations, 0.0) / count))
        fractions = state[COUNT_ERROR] / count
        good = state[M2_ERROR] + fractions * deviations <= _DIGITS * deviations
        good &= (fractions <= _DIGITS) & (state[SUM_ERROR] / count <= _DIGITS * size)
        lost = known & ~good
        if lost.any():
            j = int(np.argmax(lost))
            label = repr(labels[j]) if labels else str(j)
            raise ValueError(
                f"part cannot be taken away accurately: of the squared deviations of feature {label}, "
                f"{deviations[j]:g} of {self._known[M2, j]:g} would remain, with an error of up to "
                f"{state[M2_ERROR, j]:.1g}, so that ten digits are not sure to be right; gather the "
                f"remaining data anew, with Moments().update"
            )
        self._state = state
        return self

    @staticmethod
    def _refuse_no_part(state: Array, part: Array, labels: list[str] | None) -> None:
        """Refuse to take away what holds more, or something else, than there is."""
        present = part[COUNT] > 0.0
        for wrong, row, what in (
            (part[COUNT] > state[COUNT], COUNT, "it counts"),
            (present & (part[MIN] < state[MIN]), MIN, "it has a minimum of"),
            (present & (part[MAX] > state[MAX]), MAX, "it has a maximum of"),
        ):
            if wrong.any():
                j = int(np.argmax(wrong))
                label = repr(labels[j]) if labels else str(j)
                raise ValueError(
                    f"part must be a part of these data: {what} {part[row, j]:g} for feature {label}, "
                    f"where these have {state[row, j]:g}"
                )

    def __add__(self, other: Moments) -> Moments:
        if not isinstance(other, Moments):
            return NotImplemented
        return self.copy().merge(other)

    def __sub__(self, part: Moments) -> Moments:
        if not isinstance(part, Moments):
            return NotImplemented
        return self.copy().downdate(part)

    def copy(self) -> Moments:
        """Return an independent copy.

        Returns
        -------
        Moments
        """
        result = Moments(nan=self.nan, extremes=self._extremes)
        result._state = None if self._state is None else self._state.copy()
        result.feature_names = None if self.feature_names is None else list(self.feature_names)
        return result

    def to_dict(self) -> dict[str, Any]:
        """Return everything as numbers, strings and lists that JSON can hold without loss.

        Returns
        -------
        dict
            For `from_dict`.

        Examples
        --------
        >>> import nbnorm
        >>> m = nbnorm.moments([[1.0], [2.0]])
        >>> nbnorm.Moments.from_dict(m.to_dict()).mean
        array([1.5])
        """
        state = self._known
        return {
            "format": self._FORMAT,
            "nan": self.nan,
            "extremes": self._extremes,
            "n_features": state.shape[1],
            "feature_names": self.feature_names,
            **{name: _listed(row) for name, row in zip(_FIELDS + _ERRORS, state, strict=True)},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Moments:
        """Return the moments that `to_dict` described, to the last bit.

        Parameters
        ----------
        data : dict

        Returns
        -------
        Moments

        Raises
        ------
        ValueError
            If `data` are not what `to_dict` gives.

        Examples
        --------
        >>> import nbnorm
        >>> nbnorm.Moments.from_dict({})
        Traceback (most recent call last):
        ...
        ValueError: statistics must have format 'nbnorm moments 1', got None
        """
        found = data.get("format") if isinstance(data, dict) else type(data).__name__
        if found != cls._FORMAT:
            raise ValueError(f"statistics must have format {cls._FORMAT!r}, got {found!r}")
        result = cls(nan=data.get("nan", "propagate"), extremes=data.get("extremes", True))
        width = _check.integer("statistics' n_features", data.get("n_features"), least=1)
        given = _FIELDS + (_ERRORS if any(name in data for name in _ERRORS) else ())
        rows = []
        for name in given:
            values = data.get(name)
            # Before anything of that size is allocated: a file may say what it likes.
            if not isinstance(values, list) or len(values) != width:
                raise ValueError(f"statistics must have a list of {width} numbers as {name!r}")
            try:
                rows.append([float(v) for v in values])
            except (TypeError, ValueError, OverflowError):
                raise ValueError(f"statistics must have numbers as {name!r}") from None
        state = np.zeros((ROWS, width))
        state[: len(rows)] = rows
        if not ((state[COUNT] >= 0.0) & np.isfinite(state[COUNT])).all() or (state[M2] < 0.0).any():
            raise ValueError("statistics must have counts and squared deviations that are not negative")
        if len(rows) < ROWS:
            state[[COUNT_ERROR, SUM_ERROR, M2_ERROR]] = assumed_errors(state)
        if (state[[COUNT_ERROR, SUM_ERROR, M2_ERROR]] < 0.0).any():
            raise ValueError("statistics must have bounds of errors that are not negative")
        names = data.get("feature_names")
        if names is not None:
            if not isinstance(names, list) or len(names) != width:
                raise ValueError(f"statistics must have {width} feature names or none")
            result.feature_names = [str(name) for name in names]
        result._state = state
        return result

    def __repr__(self) -> str:
        return f"Moments(n_features={self.n_features}, count={self.count}, nan={self.nan!r})"


def moments(
    x: Table, *, weights: npt.ArrayLike | None = None, nan: Nan = "propagate", extremes: bool = True
) -> Moments:
    """Return count, mean and variance of every column of `x`, in one read of it.

    Parameters
    ----------
    x : array_like of shape (n_samples, n_features), or SciPy sparse matrix
        Real numbers of any type, in any memory layout; read where they lie.
    weights : array_like of shape (n_samples,), optional
        Finite and not negative.  A weight of 2 is a row given twice, a weight of 0 a row left out.
    nan : {"propagate", "omit", "raise"}, default: "propagate"
        What a NaN does: make its feature's mean and variance NaN, count as missing in its feature, or raise.
    extremes : bool, default: True
        Whether minimum and maximum are found too.

    Returns
    -------
    Moments

    Raises
    ------
    TypeError
        If `x` or `weights` do not hold real numbers.
    ValueError
        If shapes do not fit, `x` is empty or has masked elements, a weight is negative or not finite, or
        NaN was found with ``nan="raise"``.

    Examples
    --------
    >>> import numpy as np
    >>> import nbnorm
    >>> m = nbnorm.moments(np.array([[1e12], [1e12 + 1], [1e12 + 2]]))
    >>> m.count, m.mean, m.var(ddof=1)
    (3, array([1.e+12]), array([1.]))
    >>> nbnorm.moments([[1.0, 5.0], [np.nan, 7.0]], nan="omit").count
    array([1., 2.])
    """
    return Moments(nan=nan, extremes=extremes).update(x, weights=weights)
