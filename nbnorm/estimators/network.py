"""FNNClassifier and FNNRegressor: networks with scikit-learn's interface."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.metrics import d2_pinball_score
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets, type_of_target

from nbnorm import _check
from nbnorm._types import Array, CheckedTable, FloatArray, Table
from nbnorm.data.row_groups import OnDisk, RowGroups
from nbnorm.estimators.base import Network
from nbnorm.estimators.documentation import documented
from nbnorm.estimators.parameters import ActivationChoice, MetricChoice, RateName
from nbnorm.functions.loss_formulas import LossName
from nbnorm.functions.loss_options import BinaryCrossEntropy, CrossEntropy, Loss, Poisson, Quantile
from nbnorm.model import inference
from nbnorm.model.history import History
from nbnorm.model.inputs import in_units
from nbnorm.model.network import FNN
from nbnorm.model.options import Encoding, Init, Norm, Precision
from nbnorm.model.sample_weights import balancing_logits, class_weights
from nbnorm.model.schedules import Schedule
from nbnorm.model.stopping import EarlyStopping


def _of_classes(chosen: Any, classes: Array, y: Array, sample_weight: Array | None) -> Array:
    """Return the weight that the class of each sample brings, float64.

    A dict may name classes that are not there, as those of a rare class in a fold: scikit-learn takes them
    where it names all that are, and refuses them otherwise, because the one may be meant for the other.
    """
    by_number = chosen
    if not isinstance(chosen, str):
        if not isinstance(chosen, Mapping):
            raise ValueError(
                f'class_weight must be a dict or "balanced" for one class per sample, got {chosen!r}.'
            )
        for kind, weight in chosen.items():
            _check.number(f"class_weight[{kind!r}]", weight, least=0)
        by_number = {number: chosen[kind] for number, kind in enumerate(classes.tolist()) if kind in chosen}
        unnamed = [kind for kind in classes.tolist() if kind not in chosen]
        if unnamed and len(by_number) < len(chosen):
            raise ValueError(f"The classes {unnamed} are not in class_weight, which names {list(chosen)}.")
    return class_weights(by_number, np.searchsorted(classes, y), len(classes), sample_weight)


# scikit-learn's names of the losses, and those of the network.
LossChoice: TypeAlias = Literal["squared_error", "absolute_error", "huber", "poisson", "quantile"] | Loss
_LOSSES: dict[str, LossName] = {
    "squared_error": "squared",
    "absolute_error": "absolute",
    "huber": "huber",
    "poisson": "poisson",
    "quantile": "quantile",
}

# What all targets must be above, the transformation of the targets, and its inverse.
Transform: TypeAlias = Literal["log", "log1p"]
_TRANSFORMS: dict[Transform | None, tuple[float, Any, Any]] = {
    None: (-np.inf, None, None),
    "log": (0.0, np.log, np.exp),
    "log1p": (-1.0, np.log1p, np.expm1),
}


@documented(
    score="accuracy",
    metric="val_accuracy",
    batch="a fiftieth of the samples, but from 32 to 256",
)
class FNNClassifier(ClassifierMixin, Network):
    """Fully connected network with batch normalization, for classification.

    It replaces ``sklearn.neural_network.MLPClassifier`` and trains an `nbnorm.FNN`: two classes or
    several labels have sigmoid outputs, more classes softmax.

    Parameters
    ----------
    <parameters>
    loss : "log_loss" or CustomLoss, default "log_loss"
        Cross-entropy of the classes or labels, or a loss of one's own.
    label_smoothing : float, default 0.0
        Fraction of the targets that is distributed over all classes.
    class_weight : dict, list of dict, "balanced" or None, default None
        A dict has weights of the classes, which multiply those of the samples in the loss; it may name
        more classes than `y` has if it names all of these.  "balanced" makes the classes equally frequent:
        each counts as much as the others, with samples counted by their weights.  The networks learn the
        classes as they are, and the logarithms of the frequencies are taken off their logits afterwards
        (Menon et al. [1]_): that is the minimum of the weighted loss, with less overfitting of the rare
        classes.  With a loss of one's own, and for several labels, "balanced" weights the loss.  For
        several labels a list has a dict for each, and their weights are multiplied.
    <dtype>

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The classes, in order; for several labels their numbers.
    <attributes>

    See Also
    --------
    nbnorm.FNN : the network without scikit-learn's interface.

    References
    ----------
    .. [1] A. K. Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, arXiv:2007.07314.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.model_selection import cross_val_score
    >>> from nbnorm.estimators import FNNClassifier
    >>> X, y = load_wine(return_X_y=True)
    >>> bool(cross_val_score(FNNClassifier(random_state=0), X, y).mean() > 0.95)
    True
    """

    _losses = ("log_loss",)
    _score_name = "val_accuracy"
    _lasting = (*Network._lasting, "label_smoothing")

    label_smoothing: float
    class_weight: Mapping[Any, float] | Sequence[Mapping[Any, float]] | Literal["balanced"] | None
    classes_: Array

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] | Literal["auto"] = "auto",
        activation: ActivationChoice | Sequence[ActivationChoice] | Literal["auto"] = "auto",
        *,
        norm: Norm | None = "after",
        n_estimators: int = 5,
        encoding: Encoding | None = "piecewise",
        bins: int | Literal["auto"] = "auto",
        categorical_features: Literal["from_dtype"] | Sequence[str | int] | Array | None = "from_dtype",
        min_frequency: int | Literal["auto"] = "auto",
        solver: Literal["adamw", "adam", "sgd"] = "adamw",
        alpha: float = 0.0,
        weight_decay: float | Literal["auto"] = "auto",
        batch_size: int | Literal["auto"] = "auto",
        learning_rate: RateName | Schedule | Callable[[int], float] = "cosine",
        learning_rate_init: float | Literal["auto"] = "auto",
        power_t: float = 0.5,
        max_iter: int | Literal["auto"] = "auto",
        shuffle: bool = True,
        random_state: int | np.random.RandomState | None = None,
        tol: float = 1e-4,
        n_iter_no_change: float = 10,
        verbose: bool | int = False,
        progress: bool | None = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-3,
        clip_norm: float | None = None,
        early_stopping: bool | str | EarlyStopping = False,
        validation_fraction: float = 0.1,
        metrics: Sequence[MetricChoice] = (),
        callbacks: Sequence[Callable[[FNN, History], object]] = (),
        decay: float | None = 0.9,
        dropout: float | Sequence[float] | Literal["auto"] = "auto",
        init: Init = "he",
        standardize: bool = True,
        weighted_statistics: bool = False,
        precision: Precision = "float32",
        loss: Literal["log_loss"] | Loss = "log_loss",
        label_smoothing: float = 0.0,
        class_weight: Mapping[Any, float] | Sequence[Mapping[Any, float]] | Literal["balanced"] | None = None,
        dtype: npt.DTypeLike = "auto",
    ) -> None:
        self._keep(locals())

    def _check_parameters(self) -> None:
        super()._check_parameters()
        _check.number("label_smoothing", self.label_smoothing, least=0, below=1)
        if not isinstance(self.class_weight, (Mapping, list)):
            _check.choice("class_weight", self.class_weight, ("balanced", None))

    def _learn_targets(self, y: Array, classes: npt.ArrayLike | None) -> None:
        check_classification_targets(y)
        kind = type_of_target(y)
        if kind == "multiclass-multioutput":
            raise ValueError(
                "Multioutput target data is not supported: y must hold one class per sample, or zeros and "
                "ones for several labels."
            )
        self._multilabel = kind == "multilabel-indicator"
        if self._multilabel:
            self.classes_ = np.arange(y.shape[1])
        else:
            self.classes_ = np.unique(y if classes is None else np.asarray(classes))

    def _targets(self, y: Array) -> Array:
        check_classification_targets(y)
        if (y.ndim == 2) != self._multilabel or (self._multilabel and y.shape[1] != len(self.classes_)):
            raise ValueError(
                f"y must have {f'{len(self.classes_)} labels' if self._multilabel else 'one class'} per "
                f"sample as before, got shape {y.shape}."
            )
        if self._multilabel:
            return y.astype(np.uint8)
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            raise ValueError(f"`y` has classes not in `self.classes_`: {unknown}, not in {self.classes_}.")
        return np.searchsorted(self.classes_, y)

    def _output(self) -> dict[str, Any]:
        count = len(self.classes_)
        softmax = count > 2 and not self._multilabel
        loss = self.loss
        if loss == "log_loss":
            loss = (CrossEntropy if softmax else BinaryCrossEntropy)(float(self.label_smoothing))
        elif self.label_smoothing:
            raise ValueError("The 'label_smoothing' parameter needs loss='log_loss'.")
        return {
            "outputs": count if softmax or self._multilabel else 1,
            "output": "softmax" if softmax else "sigmoid",
            "out_activation": "softmax" if softmax else "logistic",
            "loss": loss,
        }

    def _names(self) -> Array | None:
        return None if self._multilabel else self.classes_

    def _class_factors(self, y: Array, sample_weight: Array | None, incremental: bool) -> Array | None:
        chosen = self.class_weight
        if chosen is None:
            return None
        if incremental and isinstance(chosen, str):
            raise ValueError(
                "class_weight 'balanced' is not supported for partial_fit: the classes of the other parts "
                "are not known. Give the weights as a dict."
            )
        if self._divides_by_frequencies():
            return None
        if not self._multilabel:
            return _of_classes(chosen, self.classes_, y, sample_weight)
        each = [
            _of_classes(one, np.unique(labels), labels, sample_weight)
            for one, labels in zip(self._of_labels(chosen), y.T, strict=True)
        ]
        return np.asarray(np.prod(each, axis=0))

    def _divides_by_frequencies(self) -> bool:
        """Return whether balanced classes are a matter of the probabilities, and not of the training."""
        return self.class_weight == "balanced" and self.loss == "log_loss" and not self._multilabel

    def _logit_shift(self, y: Array, sample_weight: Array | None) -> Array | None:
        if not self._divides_by_frequencies():
            return None
        numbers, count = np.searchsorted(self.classes_, y), max(len(self.classes_), 2)
        of_classes = balancing_logits(numbers, count, sample_weight)
        return of_classes if count > 2 else of_classes[1:] - of_classes[:1]

    def _of_labels(self, chosen: object) -> list[Any]:
        """Return the weights of the classes for each of several labels."""
        if isinstance(chosen, str):
            return [chosen] * len(self.classes_)
        if not isinstance(chosen, list) or not all(isinstance(one, Mapping) for one in chosen):
            raise ValueError(
                f'class_weight must be "balanced" or a list of a dict for each label, got {chosen!r}.'
            )
        if len(chosen) != len(self.classes_):
            raise ValueError(
                f"class_weight must hold a dict for each of the {len(self.classes_)} labels, "
                f"got {len(chosen)}."
            )
        return chosen

    def partial_fit(
        self,
        X: Table,
        y: npt.ArrayLike,
        sample_weight: npt.ArrayLike | None = None,
        classes: npt.ArrayLike | None = None,
    ) -> FNNClassifier:
        """Train for one epoch more, on these samples; the optimizer goes on where it was.

        Parameters
        ----------
        X : array-like, frame or sparse matrix of shape (n_samples, n_features)
            Training data.  Their statistics are added to those of the earlier calls.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Classes, or zeros and ones for several labels.
        sample_weight : array-like of shape (n_samples,), optional
            Weights, not negative.
        classes : array-like of shape (n_classes,), optional
            All classes of all calls, in the first one.

        Returns
        -------
        FNNClassifier
            The estimator itself.

        Raises
        ------
        TypeError, ValueError
            As `fit` does, and if `classes` are missing or others than before.
        """
        self._check_parameters()
        if hasattr(self, "network_"):
            if classes is not None and not np.array_equal(np.unique(np.asarray(classes)), self.classes_):
                raise ValueError(f"classes must be {self.classes_} as before, got {classes}.")
        elif classes is None:
            raise ValueError("classes must be passed on the first call to partial_fit.")
        self._fit(X, y, sample_weight, incremental=True, classes=classes)
        return self

    def predict(self, X: Table | OnDisk) -> Array:
        """Predict the class of each sample.

        Parameters
        ----------
        X : array-like, frame or sparse matrix of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_labels)
            Classes, or zeros and ones for several labels.
        """
        X = self._samples(X)
        if len(self.networks_) == 1:
            codes = inference.predict(self.network_, X, checked=True)
        else:
            logs = self._log_probabilities(X)
            p = np.exp(logs).mean(axis=0, dtype=logs.dtype)
            codes = (p > 0.5).astype(np.int64) if self._multilabel else p.argmax(axis=1)
        if self._multilabel:
            return codes
        if len(self.classes_) == 1:
            codes = np.zeros(len(codes), np.int64)
        return np.asarray(self.classes_[codes])

    def predict_proba(self, X: Table | OnDisk) -> FloatArray:
        """Predict the probability of each class.

        Parameters
        ----------
        X : array-like, frame or sparse matrix of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            In the order of `classes_`; each row sums to 1, but for several labels.
        """
        return np.exp(self.predict_log_proba(X))

    def predict_log_proba(self, X: Table | OnDisk) -> FloatArray:
        """Predict the logarithm of the probability of each class.

        Parameters
        ----------
        X : array-like, frame or sparse matrix of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            In the order of `classes_`; finite also where a probability is rounded to 0.
        """
        logs = self._log_probabilities(self._samples(X))
        if len(logs) == 1:
            return np.asarray(logs[0])
        return np.asarray(np.logaddexp.reduce(logs, axis=0) - np.log(logs.dtype.type(len(logs))))

    def score(self, X: Table | OnDisk, y: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None) -> float:
        """Return the fraction of the samples that are classified correctly.

        Parameters
        ----------
        X : array-like, frame or sparse matrix of shape (n_samples, n_features)
            Samples, or a table on disk as for `fit`.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Classes, or of a table on disk the name of their column.
        sample_weight : array-like of shape (n_samples,), optional
            Weights, not negative.

        Returns
        -------
        float
        """
        return float(super().score(*self._scored(X, y, sample_weight)))

    def _log_probabilities(self, X: CheckedTable | RowGroups) -> Array:
        """Return the logarithms of each network's probabilities, (n_networks, n_samples, n_classes)."""
        z = self._logits(X)
        if len(self.classes_) == 1 and not self._multilabel:
            return np.zeros((*z.shape[:2], 1), z.dtype)
        if self.out_activation_ == "softmax":
            z = z - z.max(axis=2, keepdims=True)
            return np.asarray(z - np.log(np.exp(z).sum(axis=2, keepdims=True)))
        positive = -np.logaddexp(0, -z)
        return positive if self._multilabel else np.concatenate([-np.logaddexp(0, z), positive], axis=2)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


@documented(
    score="R^2",
    metric="r2",
    batch="a 25th of the samples, but from 64 to 256",
)
class FNNRegressor(RegressorMixin, Network):
    """Fully connected network with batch normalization, for regression.

    It replaces ``sklearn.neural_network.MLPRegressor`` and trains an `nbnorm.FNN`.

    Parameters
    ----------
    <parameters>
    loss : str or Loss, default "squared_error"
        "squared_error", "absolute_error", "huber", "poisson" (for targets not below 0; the network
        predicts their logarithm), "quantile" (the pinball loss at the level `quantile`), or a
        `nbnorm.Loss`.
    quantile : float or sequence of float, default 0.5
        Level or levels of "quantile", between 0 and 1 exclusive, in growing order.  All levels are
        predicted by the same networks, and put in order: they do not cross.
    standardize_targets : bool, default True
        Whether the network learns standardized targets; losses are then in their units.  Not with the
        Poisson loss.
    target_transform : {None, "log", "log1p"}, default None
        Whether the network learns the logarithm of the targets, which must be above 0, or of 1 + y, which
        must be above 0.  Losses and metrics are those of the logarithms; `predict` answers in the units of
        the targets, with what the loss makes of the logarithm: the squared error gives the geometric
        mean.  Not with the Poisson loss, which has a logarithm of its own.
    clip : bool, default True
        Whether predictions are clipped to the range of all targets that `fit` and `partial_fit` were given,
        each output to its own: no network can say what lies beyond.
    <dtype>

    Attributes
    ----------
    <attributes>

    See Also
    --------
    nbnorm.FNN : the network without scikit-learn's interface.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.model_selection import cross_val_score
    >>> from nbnorm.estimators import FNNRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> bool(cross_val_score(FNNRegressor(random_state=0), X, y).mean() > 0.3)
    True
    """

    _losses = tuple(_LOSSES)
    _score_name = "r2"
    _lasting = (*Network._lasting, "quantile", "standardize_targets", "target_transform")

    quantile: float | Sequence[float]
    standardize_targets: bool
    target_transform: Transform | None
    clip: bool
    _range: Array

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] | Literal["auto"] = "auto",
        activation: ActivationChoice | Sequence[ActivationChoice] | Literal["auto"] = "auto",
        *,
        norm: Norm | None = "after",
        n_estimators: int = 5,
        encoding: Encoding | None = "piecewise",
        bins: int | Literal["auto"] = "auto",
        categorical_features: Literal["from_dtype"] | Sequence[str | int] | Array | None = "from_dtype",
        min_frequency: int | Literal["auto"] = "auto",
        solver: Literal["adamw", "adam", "sgd"] = "adamw",
        alpha: float = 0.0,
        weight_decay: float | Literal["auto"] = "auto",
        batch_size: int | Literal["auto"] = "auto",
        learning_rate: RateName | Schedule | Callable[[int], float] = "cosine",
        learning_rate_init: float | Literal["auto"] = "auto",
        power_t: float = 0.5,
        max_iter: int | Literal["auto"] = "auto",
        shuffle: bool = True,
        random_state: int | np.random.RandomState | None = None,
        tol: float = 1e-4,
        n_iter_no_change: float = 10,
        verbose: bool | int = False,
        progress: bool | None = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-3,
        clip_norm: float | None = None,
        early_stopping: bool | str | EarlyStopping = False,
        validation_fraction: float = 0.1,
        metrics: Sequence[MetricChoice] = (),
        callbacks: Sequence[Callable[[FNN, History], object]] = (),
        decay: float | None = 0.9,
        dropout: float | Sequence[float] | Literal["auto"] = "auto",
        init: Init = "he",
        standardize: bool = True,
        weighted_statistics: bool = False,
        precision: Precision = "float32",
        loss: LossChoice = "squared_error",
        quantile: float | Sequence[float] = 0.5,
        standardize_targets: bool = True,
        target_transform: Transform | None = None,
        clip: bool = True,
        dtype: npt.DTypeLike = "auto",
    ) -> None:
        self._keep(locals())

    def _check_parameters(self) -> None:
        super()._check_parameters()
        _check.flag("standardize_targets", self.standardize_targets)
        _check.flag("clip", self.clip)
        self._levels()
        _check.choice("target_transform", self.target_transform, tuple(_TRANSFORMS))
        if self.target_transform is not None and self._counts():
            raise ValueError(
                "target_transform must be None with the Poisson loss, which predicts a logarithm, "
                f"got {self.target_transform!r}"
            )

    def _counts(self) -> bool:
        """Whether the network predicts the logarithm of a mean."""
        return isinstance(self.loss, Poisson) or (isinstance(self.loss, str) and self.loss == "poisson")

    def _levels(self) -> tuple[float, ...]:
        """Return the levels of the quantiles that are predicted, of other losses none."""
        if isinstance(self.loss, Quantile):
            return self.loss.levels
        if isinstance(self.quantile, (list, tuple, np.ndarray)):
            given = tuple(self.quantile)
        else:
            given = (_check.number("quantile", self.quantile),)
        try:
            levels = Quantile(given).levels
        except (TypeError, ValueError) as error:
            raise type(error)(f"quantile: {error}") from None
        return levels if isinstance(self.loss, str) and self.loss == "quantile" else ()

    def _resolved(self, name: str) -> Any:
        return self._levels() if name == "quantile" else super()._resolved(name)

    def _learn_targets(self, y: Array, classes: npt.ArrayLike | None) -> None:
        self._width = 0 if y.ndim == 1 else y.shape[1]
        self._range = np.full((2, y.shape[1]) if self._width else 2, np.nan)

    def _learn_range(self, y: Array, used: Array | None) -> None:
        values = y if used is None else y[used > 0]
        least, most = np.fmin(self._range[0], values.min(axis=0)), np.fmax(self._range[1], values.max(axis=0))
        self._range = np.stack([least, most])

    def _targets(self, y: Array) -> Array:
        width = 0 if y.ndim == 1 else y.shape[1]
        if width != self._width:
            raise ValueError(f"y must have {max(self._width, 1)} output(s) as before, got shape {y.shape}.")
        least, forwards, _ = _TRANSFORMS[self.target_transform]
        if y.min() <= least:
            raise ValueError(
                f"y must be above {least:g} for target_transform={self.target_transform!r}, got {y.min()}"
            )
        return y if forwards is None else np.asarray(forwards(y.astype(np.float64)))

    def _output(self) -> dict[str, Any]:
        loss = self.loss if isinstance(self.loss, Loss) else _LOSSES[self.loss]
        levels = self._levels()
        return {
            "outputs": max(self._width, 1) * max(len(levels), 1),
            "output": "identity",
            "out_activation": "exp" if self._counts() else "identity",
            "loss": Quantile(levels) if levels else loss,
            "standardize_targets": bool(self.standardize_targets and not self._counts()),
        }

    def partial_fit(
        self, X: Table, y: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None
    ) -> FNNRegressor:
        """Train for one epoch more, on these samples; the optimizer goes on where it was.

        Parameters
        ----------
        X : array-like, frame or sparse matrix of shape (n_samples, n_features)
            Training data.  Their statistics are added to those of the earlier calls; those of the targets
            stay as the first call has found them.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        sample_weight : array-like of shape (n_samples,), optional
            Weights, not negative.

        Returns
        -------
        FNNRegressor
            The estimator itself.

        Raises
        ------
        TypeError, ValueError
            As `fit` does.
        """
        self._fit(X, y, sample_weight, incremental=True)
        return self

    def predict(self, X: Table | OnDisk) -> Array:
        """Predict the targets.

        Parameters
        ----------
        X : array-like, frame or sparse matrix of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Values: the mean of all networks.  Several quantiles have one more axis.
        """
        values = self._values(self._samples(X)).mean(axis=0)
        levels = len(self.network_.loss.options())
        if levels > 1:
            # Where quantiles cross, putting them in order brings each nearer to the true one.
            values = np.sort(values.reshape(len(values), -1, levels), axis=2)
        if self.clip:
            limits = np.reshape(self._range, (2, -1, 1) if levels > 1 else (2, -1))
            values = inference.within(values, limits[:, 0] if values.ndim == 1 else limits)
        return np.asarray(values[:, 0] if levels > 1 and not self._width else values)

    def _values(self, X: CheckedTable | RowGroups) -> Array:
        """Return what each network predicts in the units of the targets, (n_networks, n_samples, ...)."""
        z = self._logits(X)
        # all networks have standardized the same targets
        values = in_units(self.network_, z.reshape(-1, z.shape[2])).reshape(z.shape)
        backwards = _TRANSFORMS[self.target_transform][2]
        if backwards is not None:
            with np.errstate(over="ignore"):
                values = backwards(values)
        return values[:, :, 0] if z.shape[2] == 1 else values

    def score(self, X: Table | OnDisk, y: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None) -> float:
        """Return how much of the targets the predictions explain: 1 at best.

        Parameters
        ----------
        X : array-like, frame or sparse matrix of shape (n_samples, n_features)
            Samples, or a table on disk as for `fit`.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets, or of a table on disk the names of their columns.
        sample_weight : array-like of shape (n_samples,), optional
            Weights, not negative.

        Returns
        -------
        float
            R^2, or for several quantiles the mean of their D^2, which compares the pinball loss with that of
            the best constant.
        """
        X, y, sample_weight = self._scored(X, y, sample_weight)
        levels = self._levels()
        if len(levels) < 2:
            return float(super().score(X, y, sample_weight))
        predicted = self.predict(X)
        scores = [
            d2_pinball_score(y, predicted[..., k], sample_weight=sample_weight, alpha=level)
            for k, level in enumerate(levels)
        ]
        return float(np.mean(scores))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
