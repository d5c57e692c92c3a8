"""Standardization: subtract the mean and divide by the standard deviation, feature by feature."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from nbnorm import _check
from nbnorm._types import (
    Array,
    ArrowData,
    CheckedTable,
    CompressedMatrix,
    DaskCollection,
    Float64Array,
    FloatArray,
    Source,
    SparseMatrix,
    Table,
)
from nbnorm.statistics import chunks, dask_arrays
from nbnorm.statistics.moments import NANS, Moments, Nan
from nbnorm.statistics.reading import is_sparse
from nbnorm.statistics.scaling import scale_dense
from nbnorm.statistics.sparse import scale_sparse


def _vector(name: str, value: npt.ArrayLike, width: int) -> Float64Array:
    """Return `value`, one number or one for each feature, as float64 (width,)."""
    got = _check.numeric(name, value)
    if got.shape not in ((), (width,)):
        raise ValueError(f"{name} must have shape ({width},) or be a number, got shape {got.shape}")
    return np.broadcast_to(got.astype(np.float64), (width,))


@overload
def standardize(
    x: SparseMatrix, mean: npt.ArrayLike, std: npt.ArrayLike, *, out: None = None
) -> CompressedMatrix: ...


@overload
def standardize(
    x: npt.ArrayLike, mean: npt.ArrayLike, std: npt.ArrayLike, *, out: FloatArray | None = None
) -> FloatArray: ...


def standardize(
    x: Table, mean: npt.ArrayLike, std: npt.ArrayLike, *, out: FloatArray | None = None
) -> CheckedTable:
    """Return (x - mean) / std, row by row.

    Parameters
    ----------
    x : array_like of shape (n_samples, n_features), or SciPy sparse matrix
        Real numbers of any type, in any memory layout.  A sparse matrix needs a mean of 0 and stays sparse.
    mean, std : array_like of shape (n_features,), or float
        Used in float64.  `std` must not be 0.
    out : ndarray of shape (n_samples, n_features), optional
        A floating array for the result; `x` itself is allowed.

    Returns
    -------
    ndarray or sparse matrix of shape (n_samples, n_features)
        `out`, or a new array of the type of `x` if that is floating, otherwise of float64.

    Raises
    ------
    TypeError
        If an argument does not hold real numbers, or `out` is not an array.
    ValueError
        If shapes do not fit, `x` is empty, `std` has zeros, or `x` is sparse and to be centred.

    Examples
    --------
    >>> import nbnorm
    >>> nbnorm.standardize([[1.0, 2.0], [3.0, 6.0]], [2.0, 4.0], [1.0, 2.0])
    array([[-1., -1.],
           [ 1.,  1.]])
    """
    data: Any = x if is_sparse(x) else _check.table("x", x)[0]
    _check.rank("x", data, 2)
    width = data.shape[1]
    scale = _vector("std", std, width)
    if (scale == 0.0).any():
        raise ValueError(f"std must not be 0, got 0 for feature {int(np.argmax(scale == 0.0))}")
    params = np.array([_vector("mean", mean, width), np.zeros(width), scale])
    if is_sparse(x):
        return _apply_sparse(x, params, False, out, "a mean of 0")
    return scale_dense(data, params, False, out)


def _apply_sparse(
    x: SparseMatrix, params: Array, inverse: bool, out: FloatArray | None, uncentred: str
) -> CompressedMatrix:
    """Scale a sparse matrix; `uncentred` says in errors how to leave the mean out."""
    if params[0].any():
        raise ValueError(
            f"x must be dense to subtract the mean: use {uncentred}, or keep the data sparse and "
            "fold mean and scale into the first affine layer with Standardizer.fold"
        )
    if out is not None:
        raise ValueError("out must be None for a sparse matrix")
    return scale_sparse(x, params[2], inverse)


def is_constant(mean: Float64Array, var: Float64Array) -> npt.NDArray[np.bool_]:
    """Return which features do not vary by more than the rounding unit of their mean."""
    result: npt.NDArray[np.bool_] = np.sqrt(var) <= np.finfo(np.float64).eps * np.abs(mean)
    return result


def fitted(name: str, values: CheckedTable, weights: Array | None) -> Standardizer:
    """Return a standardizer of the values of an argument, whose name errors use.

    Parameters
    ----------
    name : str
        Name of the argument.
    values : ndarray of shape (n_samples, n_features), or SciPy sparse matrix
    weights : ndarray of shape (n_samples,), or None

    Returns
    -------
    Standardizer

    Raises
    ------
    ValueError
        If float64 cannot hold the variance of a feature.

    Examples
    --------
    >>> import numpy as np
    >>> fitted("X", np.array([[1.0], [3.0]]), None).mean_
    array([2.])
    """
    return Standardizer.from_moments(Moments(extremes=False).add(name, values, weights))


class Standardizer:
    """Subtracts the mean of every feature and divides by its standard deviation.

    The statistics come from data of any size that are read once, at once or in parts: arrays, memory maps,
    iterators of chunks, Arrow tables and record batches, SciPy sparse matrices.  With them,

        U(x) = (x - mean) / scale,      scale = sqrt(var), or 1 for a constant feature.

    Parameters
    ----------
    with_mean : bool, default: True
        Whether to subtract the mean.  Sparse matrices need False; see `fold`.
    with_std : bool, default: True
        Whether to divide by the standard deviation.
    ddof : float, default: 0
        What is taken off the count in the variance's divisor.
    nan : {"propagate", "omit", "raise"}, default: "propagate"
        What a NaN does to the statistics; see `Moments`.  Transformed, it stays NaN.

    Attributes
    ----------
    mean_, var_, scale_ : ndarray of shape (n_features,), float64
        `scale_` is 1 for constant features, and everywhere with ``with_std=False``.
    n_samples_seen_ : int, float or ndarray of shape (n_features,)
        Sum of the weights; one number unless values are missing in some features.
    n_features_in_ : int
        Number of features.
    constant_features_ : ndarray of int
        Features whose standard deviation is at most the rounding unit of their mean: variation that
        float64 could not hold is taken for none.
    moments_ : Moments
        The statistics themselves.

    See Also
    --------
    nbnorm.estimators.StandardScaler : the same under scikit-learn's names and rules.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import Standardizer
    >>> x = np.array([[0.0, 5.0], [2.0, 5.0]], dtype=np.float32)
    >>> standardizer = Standardizer().fit(x)
    >>> standardizer.transform(x)
    array([[-1., 0.], [ 1., 0.]], dtype=float32)
    >>> standardizer.constant_features_
    array([1])
    """

    def __init__(
        self, *, with_mean: bool = True, with_std: bool = True, ddof: float = 0, nan: Nan = "propagate"
    ) -> None:
        self.with_mean = _check.flag("with_mean", with_mean)
        self.with_std = _check.flag("with_std", with_std)
        self.ddof = _check.number("ddof", ddof, least=0.0)
        self.nan = _check.choice("nan", nan, NANS)
        self._moments: Moments | None = None
        self._params: Array | None = None
        self._constant: Array | None = None

    @classmethod
    def from_moments(
        cls, moments: Moments, *, with_mean: bool = True, with_std: bool = True, ddof: float = 0
    ) -> Standardizer:
        """Return a standardizer with statistics that were gathered elsewhere.

        Parameters
        ----------
        moments : Moments
            Copied.
        with_mean, with_std, ddof
            As for the class.

        Returns
        -------
        Standardizer

        Raises
        ------
        TypeError
            If `moments` is not a Moments.
        ValueError
            If there are no data in it, or a feature has no values.

        Examples
        --------
        >>> import nbnorm
        >>> nbnorm.Standardizer.from_moments(nbnorm.moments([[1.0], [3.0]])).mean_
        array([2.])
        """
        if not isinstance(moments, Moments):
            raise TypeError(f"moments must be a Moments, got {type(moments).__name__}")
        result = cls(with_mean=with_mean, with_std=with_std, ddof=ddof, nan=moments.nan)
        cls._complete(moments)
        result._adopt(moments.copy())
        return result

    @property
    def moments_(self) -> Moments:
        """The statistics themselves."""
        if self._moments is None:
            raise ValueError("this Standardizer is not fitted yet: call fit or partial_fit first")
        return self._moments

    @property
    def mean_(self) -> Float64Array:
        """Mean of every feature."""
        return self.moments_.mean

    @property
    def var_(self) -> Float64Array:
        """Variance of every feature."""
        return self.moments_.var(self.ddof)

    @property
    def scale_(self) -> Float64Array:
        """What every feature is divided by."""
        scale: Float64Array = self._fitted[2].copy()
        return scale

    @property
    def n_samples_seen_(self) -> int | float | Float64Array:
        """Sum of the weights of the samples."""
        return self.moments_.count

    @property
    def n_features_in_(self) -> int:
        """Number of features."""
        return int(self._fitted.shape[1])

    @property
    def constant_features_(self) -> npt.NDArray[np.bool_]:
        """Features without variation."""
        self.moments_  # noqa: B018  raises if there are none
        assert self._constant is not None
        return self._constant.copy()

    @property
    def _fitted(self) -> Float64Array:
        """Mean, what its rounding left, and scale: what `apply` takes."""
        self.moments_  # noqa: B018
        assert self._params is not None
        return self._params

    @staticmethod
    def _complete(moments: Moments) -> None:
        empty = np.flatnonzero(moments.counts <= 0.0)
        if len(empty):
            listed = ", ".join(str(j) for j in empty[:10])
            raise ValueError(f"every feature must have a value, got none in feature {listed}")

    def _adopt(self, moments: Moments) -> None:
        mean, low, var = moments.mean, moments.mean_low, moments.var(self.ddof)
        constant = is_constant(mean, var)
        scale = np.where(constant | (not self.with_std), 1.0, np.sqrt(var))
        if not self.with_mean:
            mean, low = np.zeros_like(mean), np.zeros_like(low)
        self._moments, self._params = moments, np.array([mean, low, scale])
        self._constant = np.flatnonzero(constant)

    def fit(self, x: Source, *, weights: npt.ArrayLike | None = None) -> Standardizer:
        """Gather the statistics of `x` and forget earlier ones.

        Parameters
        ----------
        x : array_like of shape (n_samples, n_features), SciPy sparse matrix, Dask collection, or stream
            Real numbers of any type, in any memory layout; read once, where they lie.  A stream is an
            iterator of such arrays, or what `nbnorm.moments` takes besides.
        weights : array_like of shape (n_samples,), optional
            Finite and not negative; only for arrays and matrices.

        Returns
        -------
        Standardizer
            The object itself.

        Raises
        ------
        TypeError
            If `x` does not hold real numbers.
        ValueError
            If `x` is empty, chunks differ in width or in the names of their columns, weights are bad, a
            feature has no values, or float64 cannot hold its variance.  Nothing is changed then.

        Examples
        --------
        >>> import numpy as np
        >>> from nbnorm import Standardizer
        >>> Standardizer().fit(iter([np.ones((2, 1)), np.full((2, 1), 3.0)])).mean_
        array([2.])
        """
        moments = self._gather(Moments(nan=self.nan, extremes=False), x, weights)
        self._complete(moments)
        self._adopt(moments)
        return self

    def partial_fit(self, x: Source, *, weights: npt.ArrayLike | None = None) -> Standardizer:
        """Add the statistics of `x` to those gathered so far.

        A feature may be missing from one part altogether, as long as another part has it.

        Parameters
        ----------
        x, weights
            As for `fit`.

        Returns
        -------
        Standardizer
            The object itself.

        Raises
        ------
        TypeError, ValueError
            As `fit` does, and if `x` has another number of features than the data before it.

        Examples
        --------
        >>> from nbnorm import Standardizer
        >>> Standardizer().partial_fit([[1.0]]).partial_fit([[3.0]]).var_
        array([1.])
        """
        before = Moments(nan=self.nan, extremes=False) if self._moments is None else self._moments.copy()
        self._adopt(self._gather(before, x, weights))
        return self

    @staticmethod
    def _gather(moments: Moments, x: Any, weights: npt.ArrayLike | None) -> Moments:
        if isinstance(x, np.ndarray) or is_sparse(x):
            return moments.update(x, weights=weights)
        if dask_arrays.is_dask(x):
            part = dask_arrays.moments(x, weights=weights, nan=moments.nan, extremes=False)
            return moments.merge(part)
        if not chunks.is_stream(x):
            return moments.update(x, weights=weights)
        if weights is not None:
            raise ValueError("weights must be None for a stream: use Moments.update with each chunk's own")
        return chunks.gather_chunks(x, moments)

    def merge(self, other: Standardizer) -> Standardizer:
        """Join the statistics of another standardizer, as if its data had been given to this one.

        Parameters
        ----------
        other : Standardizer
            Left as it is.

        Returns
        -------
        Standardizer
            The object itself.

        Raises
        ------
        TypeError
            If `other` is not a Standardizer.
        ValueError
            If the numbers or the names of features differ.

        Examples
        --------
        >>> from nbnorm import Standardizer
        >>> Standardizer().fit([[1.0]]).merge(Standardizer().fit([[3.0]])).mean_
        array([2.])
        """
        if not isinstance(other, Standardizer):
            raise TypeError(f"other must be a Standardizer, got {type(other).__name__}")
        if other._moments is not None:
            self._adopt(other._moments.copy() if self._moments is None else self._moments + other._moments)
        return self

    @overload
    def transform(self, x: SparseMatrix, *, out: None = None) -> CompressedMatrix: ...

    @overload
    def transform(self, x: npt.ArrayLike, *, out: FloatArray | None = None) -> FloatArray: ...

    @overload
    def transform(self, x: DaskCollection, *, out: None = None) -> DaskCollection: ...

    def transform(self, x: Table | DaskCollection, *, out: FloatArray | None = None) -> Any:
        """Return (x - mean) / scale.

        Parameters
        ----------
        x : array_like of shape (n_samples, n_features), SciPy sparse matrix, or Dask collection
            A sparse matrix needs ``with_mean=False`` and stays sparse; a Dask collection stays lazy.  Columns
            that have names are taken by name; the result has them in the order in which they were fitted.
        out : ndarray of shape (n_samples, n_features), optional
            A floating array for the result; `x` itself is allowed.

        Returns
        -------
        ndarray or sparse matrix of shape (n_samples, n_features)
            `out`, or a new one of the type of `x` if that is floating, otherwise of float64.

        Raises
        ------
        TypeError
            If `x` does not hold real numbers or `out` is not an array.
        ValueError
            If there are no statistics yet, shapes do not fit, or the columns' names are not those fitted.

        Examples
        --------
        >>> from nbnorm import Standardizer
        >>> Standardizer().fit([[0.0], [4.0]]).transform([[3.0]])
        array([[0.5]])
        """
        return self._apply(x, False, out)

    @overload
    def inverse_transform(self, x: SparseMatrix, *, out: None = None) -> CompressedMatrix: ...

    @overload
    def inverse_transform(self, x: npt.ArrayLike, *, out: FloatArray | None = None) -> FloatArray: ...

    @overload
    def inverse_transform(self, x: DaskCollection, *, out: None = None) -> DaskCollection: ...

    def inverse_transform(self, x: Table | DaskCollection, *, out: FloatArray | None = None) -> Any:
        """Return x * scale + mean.

        Parameters
        ----------
        x, out
            As for `transform`.

        Returns
        -------
        ndarray or sparse matrix of shape (n_samples, n_features)

        Raises
        ------
        TypeError, ValueError
            As `transform` does.

        Examples
        --------
        >>> from nbnorm import Standardizer
        >>> Standardizer().fit([[0.0], [4.0]]).inverse_transform([[0.5]])
        array([[3.]])
        """
        return self._apply(x, True, out)

    @overload
    def fit_transform(
        self, x: SparseMatrix, *, weights: npt.ArrayLike | None = None, out: None = None
    ) -> CompressedMatrix: ...

    @overload
    def fit_transform(
        self, x: npt.ArrayLike, *, weights: npt.ArrayLike | None = None, out: FloatArray | None = None
    ) -> FloatArray: ...

    @overload
    def fit_transform(
        self, x: DaskCollection, *, weights: None = None, out: None = None
    ) -> DaskCollection: ...

    def fit_transform(
        self,
        x: Table | DaskCollection,
        *,
        weights: npt.ArrayLike | None = None,
        out: FloatArray | None = None,
    ) -> Any:
        """Fit to an array and transform it.

        Parameters
        ----------
        x, weights, out
            As for `fit` and `transform`.

        Returns
        -------
        ndarray or sparse matrix of shape (n_samples, n_features)

        Examples
        --------
        >>> from nbnorm import Standardizer
        >>> Standardizer().fit_transform([[0.0], [4.0]])
        array([[-1.], [ 1.]])
        """
        self.fit(x, weights=weights)
        return self._apply(x, False, out)

    def transform_chunks(self, source: Iterator[Table | ArrowData] | ArrowData) -> Iterator[CheckedTable]:
        """Yield the standardized chunks of a stream, one in memory at a time.

        Parameters
        ----------
        source
            As for `fit`.

        Yields
        ------
        ndarray or sparse matrix of shape (n_rows, n_features)

        Examples
        --------
        >>> import numpy as np
        >>> from nbnorm import Standardizer
        >>> standardizer = Standardizer().fit([[0.0], [4.0]])
        >>> [chunk.tolist() for chunk in standardizer.transform_chunks(iter([np.ones((1, 1))]))]
        [[[-0.5]]]
        """
        for name, part in chunks.parts(source):
            yield self._apply(part, False, None, name)

    def _apply(
        self, x: Table | DaskCollection, inverse: bool, out: FloatArray | None, name: str = "x"
    ) -> Any:
        params = self._fitted
        self._complete(self.moments_)
        if dask_arrays.is_dask(x):
            if out is not None:
                raise ValueError("out must be None for Dask")
            names = self.moments_.feature_names
            apply = self.inverse_transform if inverse else self.transform
            return dask_arrays.transform(x, apply, names, self.n_features_in_)
        data: Any = x if is_sparse(x) else _check.table(name, x, self.moments_.feature_names)[0]
        _check.rank(name, data, 2)
        self.same_width(name, data.shape[1])
        if is_sparse(data):
            return _apply_sparse(data, params, inverse, out, "with_mean=False")
        return scale_dense(data, params, inverse, out)

    def same_width(self, name: str, width: int) -> None:
        """Refuse an argument of another number of features than the fitted one.

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
        >>> from nbnorm import Standardizer
        >>> Standardizer().fit([[1.0, 2.0]]).same_width("x", 2)
        """
        if width != self.n_features_in_:
            raise ValueError(f"{name} must have {self.n_features_in_} features as fitted, got {width}")

    def fold(self, weight: npt.ArrayLike, bias: npt.ArrayLike | None = None) -> tuple[FloatArray, FloatArray]:
        """Return an affine layer that standardizes its input by itself.

        A layer W U(x) + b on standardized data is the layer W' x + b' on the data as they are, with

            W' = W / scale,      b' = b - W (mean / scale),

        so that sparse data can be centred and stay sparse.

        Parameters
        ----------
        weight : array_like of shape (n_out, n_features)
            W.
        bias : array_like of shape (n_out,), optional
            b; zero if absent.

        Returns
        -------
        weight : ndarray of shape (n_out, n_features)
            W', computed in float64, of the type of `weight`.
        bias : ndarray of shape (n_out,)
            b', likewise.

        Raises
        ------
        TypeError
            If an argument does not hold real numbers.
        ValueError
            If shapes do not fit.

        Notes
        -----
        W' x and b' cancel to the size of W U(x): where ``|mean| / scale`` is large, as many digits
        are lost as it has.  Such features are better standardized themselves.

        Examples
        --------
        >>> from nbnorm import Standardizer
        >>> weight, bias = Standardizer().fit([[0.0], [4.0]]).fold([[2.0]], [1.0])
        >>> weight, bias
        (array([[1.]]), array([-1.]))
        """
        params = self._fitted
        width = self.n_features_in_
        given = _check.numeric("weight", weight)
        _check.rank("weight", given, 2, f"(n_out, {width})")
        if given.shape[1] != width:
            raise ValueError(f"weight must have shape (n_out, {width}), got shape {given.shape}")
        dtype = np.dtype(np.float32) if given.dtype == np.float32 else np.dtype(np.float64)
        shift = np.zeros(len(given)) if bias is None else _check.numeric("bias", bias).astype(np.float64)
        if shift.shape != (len(given),):
            raise ValueError(f"bias must have shape ({len(given)},), got shape {shift.shape}")
        folded = given.astype(np.float64) / params[2]
        shift = shift - folded @ params[0] - folded @ params[1]
        return folded.astype(dtype), shift.astype(dtype)

    def to_dict(self) -> dict[str, Any]:
        """Return parameters and statistics as JSON can hold them, without loss.

        Returns
        -------
        dict
            For `from_dict`.

        Examples
        --------
        >>> from nbnorm import Standardizer
        >>> Standardizer.from_dict(Standardizer().fit([[0.0], [4.0]]).to_dict()).scale_
        array([2.])
        """
        return {
            "format": "nbnorm standardizer 1",
            "with_mean": self.with_mean,
            "with_std": self.with_std,
            "ddof": self.ddof,
            "moments": self.moments_.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Standardizer:
        """Return the standardizer that `to_dict` described, to the last bit.

        Parameters
        ----------
        data : dict

        Returns
        -------
        Standardizer

        Raises
        ------
        ValueError
            If `data` are not what `to_dict` gives.

        Examples
        --------
        >>> from nbnorm import Standardizer
        >>> Standardizer.from_dict({"format": "other"})
        Traceback (most recent call last):
        ...
        ValueError: statistics must have format 'nbnorm standardizer 1', got 'other'
        """
        found = data.get("format") if isinstance(data, dict) else type(data).__name__
        if found != "nbnorm standardizer 1":
            raise ValueError(f"statistics must have format 'nbnorm standardizer 1', got {found!r}")
        return cls.from_moments(
            Moments.from_dict(data.get("moments", {})),
            with_mean=data.get("with_mean", True),
            with_std=data.get("with_std", True),
            ddof=data.get("ddof", 0.0),
        )

    def __repr__(self) -> str:
        return (
            f"Standardizer(with_mean={self.with_mean}, with_std={self.with_std}, ddof={self.ddof:g}, "
            f"nan={self.nan!r})"
        )
