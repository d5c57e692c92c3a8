"""How tables, targets and weights reach FNNClassifier and FNNRegressor, and what their columns become."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from sklearn.base import is_classifier
from sklearn.utils import check_array, check_X_y, column_or_1d
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from nbnorm import _check
from nbnorm._types import Array, CheckedTable, Table
from nbnorm.data.columns import Column, TableColumns, encoded_names, is_frame
from nbnorm.data.row_groups import OnDisk, RowGroups, is_row_groups, open_groups, read_as
from nbnorm.estimators.parameters import Parameters
from nbnorm.estimators.scaler import numeric_dtype
from nbnorm.model import defaults
from nbnorm.model.network import FNN
from nbnorm.model.options import norm_kind
from nbnorm.statistics.encoding import ColumnEncoder
from nbnorm.statistics.reading import is_sparse

if TYPE_CHECKING:
    from typing import TypeGuard


# Numbers that are looked at without a thought of memory or time.
_FEW = 1 << 14


class Inputs(Parameters):
    """Reads tables, targets and weights."""

    network_: FNN
    n_features_in_: int
    columns_: list[Column]
    _columns: TableColumns | None
    _limits: Array
    _chosen_bins: list[int | None]  # of each network, what bins="auto" stands for
    _dropout_rows: float  # samples for which dropout="auto" stands

    def _data(
        self,
        name: str,
        X: Table,
        target: str,
        y: npt.ArrayLike,
        *,
        reset: bool,
        weights: Array | None = None,
    ) -> tuple[CheckedTable, Array]:
        """Return checked samples as a matrix, and checked targets; `reset` learns what the columns are."""
        _check.frame(name, X)
        _check.unmasked(target, y)
        table = self._table(name, X, reset=reset, weights=weights)
        options = {
            "accept_sparse": ("csr", "csc"),
            "dtype": numeric_dtype(table),
            "multi_output": True,
            "y_numeric": not is_classifier(self),
            "ensure_min_samples": 2 if reset and norm_kind(self.norm) == "batch" else 1,
            "ensure_all_finite": self._finite(table),
        }
        if table is X:
            x, truth = validate_data(self, X, y, reset=reset, **options)
        else:
            x, truth = check_X_y(table, y, estimator=self, **options)
        if is_sparse(truth):
            truth = truth.toarray()
        if truth.ndim == 2 and truth.shape[1] == 1:
            truth = column_or_1d(truth, warn=True)
        if reset:
            self._name_columns()
        return self._bounded(x, learn=True, reset=reset), truth

    def _samples(self, X: Table | OnDisk) -> CheckedTable | RowGroups:
        """Return checked samples as a matrix."""
        if self._are_plain(X):
            return X
        check_is_fitted(self)
        if is_row_groups(X):
            mixed = self._columns is not None
            names = getattr(self, "feature_names_in_", None)
            features = None if names is None else list(names)
            groups = open_groups("X", X, features=features, others=True, mixed=mixed)
            return self._read_groups("X", groups, reset=False)
        _check.frame("X", X)
        table = self._table("X", X, reset=False)
        options = {
            "accept_sparse": ("csr", "csc"),
            "dtype": numeric_dtype(table),
            "ensure_all_finite": self._finite(table),
        }
        if table is X:
            return self._bounded(validate_data(self, X, reset=False, **options))
        return self._bounded(check_array(table, estimator=self, **options))

    def _are_plain(self, X: object) -> TypeGuard[CheckedTable]:
        """Return whether samples are a few rows in an array for which no check has anything to say.

        The checks of scikit-learn take longer than the networks for one row.
        """
        return (
            type(X) is np.ndarray
            and X.dtype in _check.FLOATS
            and X.dtype.isnative
            and X.ndim == 2
            and 0 < X.size <= _FEW
            and hasattr(self, "network_")
            and X.shape[1] == self.n_features_in_
            and self._columns is None
            and not hasattr(self, "feature_names_in_")
            and bool(np.isfinite(X).all())
        )

    def _on_disk(
        self, name: str, X: OnDisk, y: npt.ArrayLike, sample_weight: npt.ArrayLike | None, reset: bool
    ) -> tuple[RowGroups, Array, Array | None]:
        """Open a table on disk; its targets and weights are read into memory."""
        known = None if reset else getattr(self, "feature_names_in_", None)
        features = None if known is None else list(known)
        groups = open_groups(
            name, X, y, sample_weight, features=features, others=known is not None, mixed=True
        )
        groups = self._read_groups(name, groups, reset=reset)
        answers = [groups.answers(group) for group in range(len(groups))]
        truth = np.concatenate([part for part, _ in answers])
        weights = None
        if sample_weight is not None:
            of_groups = [part for _, part in answers if part is not None]
            weights = _check.weights("sample_weight", np.concatenate(of_groups), len(truth))
        if truth.dtype.kind == "O" and all(isinstance(value, str) for value in truth.flat):
            truth = truth.astype(np.str_)
        if reset:
            self.n_features_in_ = groups.width
            if groups.features is not None:
                self.feature_names_in_ = np.array(groups.features, object)
            self._columns, self._limits = groups.columns, np.full((2, groups.width), np.nan)
            self._name_columns()
        elif groups.width != self.n_features_in_:
            raise ValueError(f"{name} has {groups.width} features, expected {self.n_features_in_}")
        return groups, column_or_1d(truth) if truth.ndim == 2 and truth.shape[1] == 1 else truth, weights

    def _scored(
        self, X: Table | OnDisk, y: npt.ArrayLike, sample_weight: npt.ArrayLike | None
    ) -> tuple[Any, npt.ArrayLike, npt.ArrayLike | None]:
        """Return samples, targets and weights that are to be scored; of a table on disk they are read."""
        if not is_row_groups(X):
            return X, y, sample_weight
        check_is_fitted(self)
        return self._on_disk("X", X, y, sample_weight, False)

    def _read_groups(self, name: str, groups: RowGroups, *, reset: bool) -> RowGroups:
        """Return groups that are read as the networks need them; `reset` learns what the columns are."""
        chosen = self.categorical_features
        listed = chosen is not None and not isinstance(chosen, str)
        if groups.columns is not None or (reset and groups.numeric and not listed):
            return groups
        if reset:
            return read_as(name, groups, TableColumns(chosen, min_frequency=self.min_frequency))
        learned = self._columns
        if learned is None or (
            groups.numeric and {one.kind for one in learned.columns_} <= {"number", "boolean"}
        ):
            return groups
        return read_as(name, groups, learned)

    def _table(self, name: str, X: Table, *, reset: bool, weights: Array | None = None) -> Table:
        """Return a frame, or an array with categories, as a matrix; everything else as it is."""
        chosen = self.categorical_features
        listed = chosen is not None and not isinstance(chosen, str)
        if is_sparse(X) or _check.is_sparse_frame(X):
            if listed:
                raise TypeError(f"{name} must not be sparse where categorical_features are given")
            if reset:
                self._columns = None
            return X
        frame = is_frame(X)
        if not frame and not (listed if reset else self._columns is not None):
            if reset:
                self._columns = None
            return X
        if not frame:
            X = X if isinstance(X, np.ndarray) else np.array(X, object)
            check_array(X, dtype=None, ensure_all_finite=False, estimator=self)
        validate_data(self, X, skip_check_array=True, reset=reset)  # names, and the number of columns
        if reset:
            learned = TableColumns(chosen, min_frequency=self.min_frequency)
            self._columns = learned.fit(X, weights=weights, name=name)
        if self._columns is None:  # learned from an array
            return TableColumns(None).fit(X, name=name).transform(X, name=name)
        return self._columns.transform(X, name=name)

    def _name_columns(self) -> None:
        """Set what is known of the columns."""
        if self._columns is not None:
            self.columns_ = self._columns.columns_
        else:
            names = getattr(self, "feature_names_in_", [f"x{j}" for j in range(self.n_features_in_)])
            self.columns_ = [Column(str(name), "number") for name in names]

    def _finite(self, X: Table) -> bool | str:
        """Return which numbers scikit-learn's checks let pass.

        With an encoding those that are missing and, in a table that is not sparse, infinite ones.
        """
        if self.encoding is None:
            return True if self._columns is None or not self._columns.categorical_ else "allow-nan"
        return "allow-nan" if is_sparse(X) or _check.is_sparse_frame(X) else False

    def _bounded(self, x: CheckedTable, *, learn: bool = False, reset: bool = False) -> CheckedTable:
        """Return samples with infinite numbers replaced by the largest and smallest ones of the training."""
        if is_sparse(x):
            if reset:
                self._limits = np.full((2, x.shape[1]), np.nan)
            return x.tocsr() if learn else x
        infinite = np.isinf(x) if x.dtype.kind == "f" else np.zeros(1, bool)
        if learn:
            finite = np.where(infinite, np.nan, x) if infinite.any() else x
            limits = np.stack([np.fmin.reduce(finite, axis=0), np.fmax.reduce(finite, axis=0)])
            if not reset:
                limits = np.stack([np.fmin(limits[0], self._limits[0]), np.fmax(limits[1], self._limits[1])])
            self._limits = limits.astype(np.float64)
        if not infinite.any():
            return x
        least, most = self._limits.astype(x.dtype)
        return np.asarray(np.where(infinite, np.where(x > 0, most, least), x))

    def _sample_weight(self, name: str, weights: npt.ArrayLike, X: Table) -> Array:
        _check.unmasked(name, weights)
        return np.asarray(_check_sample_weight(weights, X, dtype=np.float64, ensure_non_negative=True))

    def _encodes(self, X: CheckedTable | RowGroups) -> bool:
        """Return whether new networks encode the columns: not sparse ones that all stay as they are."""
        if self._columns is not None and self._columns.categorical_:
            return True
        if self.encoding is None or not is_sparse(X):
            return self.encoding is not None
        return self.bins != "auto" or defaults.bins(*X.shape) is not None

    def _bins(self) -> list[int | None]:
        """Return the bins of a column at most, for each of the networks; None for none."""
        if self.encoding is None:
            return [None] * self.n_estimators
        return self._chosen_bins if self.bins == "auto" else [int(self.bins)] * self.n_estimators

    def _encoder_for(self, X: CheckedTable, bins: int | None, weights: Array | None) -> ColumnEncoder:
        """Return the encoding of the columns for new networks with so many bins."""
        categorical = [] if self._columns is None else self._columns.categorical_
        return ColumnEncoder(bins, categorical=categorical).fit(X, weights=weights)

    def encode(self, X: Table) -> Array:
        """Return samples as the networks read them, before standardization: the first of several.

        Parameters
        ----------
        X : array-like, frame or sparse matrix of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        ndarray of shape (n_samples, n_encoded)
            Its columns are named by `get_feature_names_out`; positions of missing numbers are NaN.

        Raises
        ------
        TypeError, ValueError
            If `X` is not of the kind of the training data.

        Examples
        --------
        >>> import numpy as np
        >>> from nbnorm.estimators import FNNRegressor
        >>> X = np.arange(50.0)[:, None]
        >>> model = FNNRegressor(bins=2, n_estimators=1, max_iter=1, random_state=0).fit(X, X[:, 0])
        >>> model.encode([[0.0], [12.0], [49.0]])
        array([[ 0. ,  0. ,  0. ],
               [12. ,  0.5,  0. ],
               [49. ,  1. ,  1. ]])
        """
        x = self._samples(X)
        if isinstance(x, RowGroups):
            raise TypeError("encode needs X in memory, got data on disk")
        if self.network_.encoder is None:
            return x if isinstance(x, np.ndarray) else x.toarray()
        return self.network_.encoder.transform(x)

    def get_feature_names_out(self, input_features: object = None) -> Array:
        """Return the names of the columns that the networks read.

        Parameters
        ----------
        input_features : None
            Not used.

        Returns
        -------
        ndarray of str, shape (n_encoded,)
            For a column of numbers its own name and, for its bins, such as "age 20 to 35"; for categories
            "city=Rome" for a level and "city infrequent" for the rare ones together; "age missing".

        Examples
        --------
        >>> import numpy as np
        >>> from nbnorm.estimators import FNNRegressor
        >>> X = np.arange(50.0)[:, None]
        >>> model = FNNRegressor(bins=2, n_estimators=1, max_iter=1, random_state=0).fit(X, X[:, 0])
        >>> model.get_feature_names_out().tolist()
        ['x0', 'x0 0 to 24', 'x0 24 to 49']
        """
        check_is_fitted(self)
        names = [column.name for column in self.columns_]
        if self.network_.encoder is None:
            return np.array(names, object)
        return np.array(encoded_names(names, self.network_.encoder, self.columns_), object)
