"""A StandardScaler that replaces scikit-learn's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils import Tags, check_array
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.validation import FLOAT_DTYPES, check_is_fitted, validate_data

from nbnorm import _check
from nbnorm._types import Array, CheckedTable, CompressedMatrix, FloatArray, SparseMatrix, Table
from nbnorm.statistics.moments import Moments
from nbnorm.statistics.scaling import scale_dense
from nbnorm.statistics.sparse import scale_sparse
from nbnorm.statistics.standardize import is_constant


def numeric_dtype(X: object) -> str | Sequence[npt.DTypeLike]:
    """Return the `dtype` with which scikit-learn's checks read `X`: integers stay, objects become floats.

    Parameters
    ----------
    X : array-like, frame or sparse matrix

    Returns
    -------
    str or list of dtypes
        For ``sklearn.utils.check_array``.

    Examples
    --------
    >>> import numpy as np
    >>> numeric_dtype(np.ones((2, 2), np.uint8))
    'numeric'
    """
    dtypes = [X.dtype] if hasattr(X, "dtype") else list(getattr(X, "dtypes", [np.dtype(object)]))
    plain = not _check.has_types_of_its_own(X) and all(getattr(d, "kind", "f") in "fiub" for d in dtypes)
    return "numeric" if plain else FLOAT_DTYPES


class StandardScaler(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Standardize features, instead of ``sklearn.preprocessing.StandardScaler``.

    Parameters, attributes and behaviour are those of scikit-learn's class: NaN are left out of the
    statistics and stay NaN, sparse matrices need ``with_mean=False``, float32 stays float32, ``set_output``
    gives pandas or polars.  The statistics are `nbnorm.Moments`: in float64 throughout, one read, no copy.

    Parameters
    ----------
    copy : bool, default: True
        Whether `transform` returns a new array; with False it writes into `X` where that is a floating array.
    with_mean : bool, default: True
        Whether to subtract the mean.
    with_std : bool, default: True
        Whether to divide by the standard deviation.

    Attributes
    ----------
    mean_ : ndarray of shape (n_features,) or None
        None if neither `with_mean` nor `with_std`.
    var_, scale_ : ndarray of shape (n_features,) or None
        Variance with divisor n, and its root or 1 for constant features; None without `with_std`.
    n_samples_seen_ : int, float or ndarray of shape (n_features,)
        Samples, or their weight; an array if features miss different numbers of values.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        Names, if the data had them.
    moments_ : nbnorm.Moments
        The statistics, mergeable.

    Notes
    -----
    Two things differ, to be right where data are hard.  A feature counts as constant when its standard
    deviation is at most the rounding unit of its mean; scikit-learn, to allow for rounding, multiplies that
    bound by the number of samples.  And weights must not be negative.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm.estimators import StandardScaler
    >>> StandardScaler().fit_transform(np.array([[0.0, 1.0], [2.0, 1.0]], dtype=np.float32))
    array([[-1.,  0.],
           [ 1.,  0.]], dtype=float32)
    """

    __metadata_request__transform = {"copy": UNUSED}  # noqa: RUF012
    __metadata_request__inverse_transform = {"copy": UNUSED}  # noqa: RUF012

    def __init__(self, *, copy: bool = True, with_mean: bool = True, with_std: bool = True) -> None:
        self.copy = copy
        self.with_mean = with_mean
        self.with_std = with_std

    def fit(self, X: Table, y: object = None, sample_weight: npt.ArrayLike | None = None) -> StandardScaler:
        """Compute the statistics of `X`, forgetting earlier ones.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
        y : None
            Ignored.
        sample_weight : array-like of shape (n_samples,), optional
            Finite and not negative.

        Returns
        -------
        StandardScaler
            The object itself.

        Raises
        ------
        TypeError, ValueError
            If `X` or the weights are not what is described, or a feature has no values.

        Examples
        --------
        >>> StandardScaler().fit([[0.0], [2.0]]).mean_
        array([1.])
        """
        self._gather(X, sample_weight, True)
        return self

    def partial_fit(
        self, X: Table, y: object = None, sample_weight: npt.ArrayLike | None = None
    ) -> StandardScaler:
        """Add the statistics of `X` to those so far.

        Parameters
        ----------
        X, y, sample_weight
            As for `fit`.

        Returns
        -------
        StandardScaler
            The object itself.

        Raises
        ------
        TypeError, ValueError
            As `fit` does.

        Examples
        --------
        >>> StandardScaler().partial_fit([[0.0]]).partial_fit([[2.0]]).mean_
        array([1.])
        """
        self._gather(X, sample_weight, not hasattr(self, "moments_"))
        return self

    def _gather(self, X: Table, sample_weight: npt.ArrayLike | None, first: bool) -> None:
        for name in ("copy", "with_mean", "with_std"):
            _check.flag(name, getattr(self, name))
        _check.frame("X", X)
        # Infinity shows in the extremes: nothing is read twice.
        X = _check.unboxed_frame(X)
        X = validate_data(
            self,
            X,
            accept_sparse=("csr", "csc"),
            dtype=numeric_dtype(X),
            ensure_all_finite=False,
            reset=first,
        )
        sparse = not isinstance(X, np.ndarray)
        if sparse and self.with_mean:
            raise ValueError(
                "Cannot center sparse matrices: pass `with_mean=False` instead, or fold the mean into a "
                "first affine layer (nbnorm.Standardizer.fold)."
            )
        moments = Moments(nan="omit") if first else self.moments_.copy()
        names = getattr(self, "feature_names_in_", None)
        moments.feature_names = None if names is None else [str(name) for name in names]
        moments.add("X", X, sample_weight)
        if (np.isinf(moments.min) | np.isinf(moments.max)).any():
            raise ValueError("Input X contains infinity or a value too large for float64.")
        if first and sample_weight is not None and not np.asarray(sample_weight).any():
            raise ValueError("sample_weight must not be zero for every sample")
        var = moments.var()
        self.moments_: Moments = moments
        self.n_samples_seen_ = moments.count
        self.mean_ = moments.mean if self.with_mean or self.with_std else None
        self.var_ = var if self.with_std else None
        self.scale_: Array | None = None
        if self.with_std:
            self.scale_ = np.where(is_constant(moments.mean, var), 1.0, np.sqrt(var))

    @overload
    def transform(self, X: SparseMatrix, copy: bool | None = None) -> CompressedMatrix: ...

    @overload
    def transform(self, X: npt.ArrayLike, copy: bool | None = None) -> FloatArray: ...

    def transform(self, X: Table, copy: bool | None = None) -> CheckedTable:
        """Standardize `X`.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
        copy : bool, optional
            Instead of the parameter `copy`.

        Returns
        -------
        ndarray or sparse matrix of shape (n_samples, n_features)

        Raises
        ------
        TypeError, ValueError
            If `X` is not what is described, or sparse and to be centred.

        Examples
        --------
        >>> StandardScaler().fit([[0.0], [4.0]]).transform([[3.0]])
        array([[0.5]])
        """
        check_is_fitted(self)
        _check.frame("X", X)
        X = _check.unboxed_frame(X)
        x = validate_data(
            self,
            X,
            accept_sparse=("csr", "csc"),
            dtype=numeric_dtype(X),
            ensure_all_finite="allow-nan",
            reset=False,
        )
        return self._apply(x, False, self.copy if copy is None else copy)

    @overload
    def inverse_transform(self, X: SparseMatrix, copy: bool | None = None) -> CompressedMatrix: ...

    @overload
    def inverse_transform(self, X: npt.ArrayLike, copy: bool | None = None) -> FloatArray: ...

    def inverse_transform(self, X: Table, copy: bool | None = None) -> CheckedTable:
        """Turn standardized data back.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
        copy : bool, optional
            Instead of the parameter `copy`.

        Returns
        -------
        ndarray or sparse matrix of shape (n_samples, n_features)

        Raises
        ------
        TypeError, ValueError
            As `transform` does.

        Examples
        --------
        >>> StandardScaler().fit([[0.0], [4.0]]).inverse_transform([[0.5]])
        array([[3.]])
        """
        check_is_fitted(self)
        _check.frame("X", X)
        x = check_array(
            _check.unboxed_frame(X),
            accept_sparse=("csr", "csc"),
            dtype=FLOAT_DTYPES,
            ensure_all_finite="allow-nan",
            estimator=self,
        )
        if x.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X has {x.shape[1]} features, but StandardScaler is expecting {self.n_features_in_} "
                f"features as input."
            )
        return self._apply(x, True, self.copy if copy is None else copy)

    def _apply(self, X: CheckedTable, inverse: bool, copy: bool) -> CheckedTable:
        width = self.n_features_in_
        scale = np.ones(width) if self.scale_ is None else np.asarray(self.scale_, np.float64)
        if not isinstance(X, np.ndarray):
            if self.with_mean:
                raise ValueError(
                    "Cannot center sparse matrices: pass `with_mean=False` instead, or fold the mean into a "
                    "first affine layer (nbnorm.Standardizer.fold)."
                )
            return scale_sparse(X, scale, inverse)
        mean = np.zeros(width)
        low = np.zeros(width)
        if self.with_mean:
            mean = np.asarray(self.mean_, np.float64)
            # mean_ may have been set by hand
            low = np.where(mean == self.moments_.mean, self.moments_.mean_low, 0.0)
        in_place = not copy and X.dtype.kind == "f" and X.flags.writeable
        return scale_dense(X, np.array([mean, low, scale]), inverse, X if in_place else None)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.sparse = not self.with_mean
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
