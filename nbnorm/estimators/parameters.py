"""What the parameters of FNNClassifier and FNNRegressor mean: their checks, and what "auto" stands for."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, is_classifier

from nbnorm import _check
from nbnorm._types import Array, CheckedTable
from nbnorm.data.columns import TableColumns
from nbnorm.data.row_groups import RowGroups
from nbnorm.functions import activations
from nbnorm.functions.activations import Activation, ActivationLike, ActivationName
from nbnorm.functions.loss_options import Loss
from nbnorm.functions.optimizers import SGD, AdamW
from nbnorm.model import defaults, schedules
from nbnorm.model.metrics import Metric
from nbnorm.model.options import (
    ENCODINGS,
    INITS,
    NORMS,
    PRECISIONS,
    Encoding,
    Init,
    Norm,
    Precision,
    norm_kind,
)
from nbnorm.model.schedules import Constant, Plateau, Schedule, ScheduleName
from nbnorm.model.stopping import EarlyStopping

# scikit-learn's names and those of the network.
_ACTIVATIONS: dict[str, ActivationName] = {
    "logistic": "sigmoid",
    **{name: name for name in activations.CODES},
}

# The parameters that are plain numbers, flags or one of some names.
_NUMBERS: dict[str, dict[str, float]] = {
    "alpha": {"least": 0},
    "power_t": {"least": 0},
    "tol": {"least": 0},
    "momentum": {"least": 0, "below": 1},
    "beta_1": {"least": 0, "below": 1},
    "beta_2": {"least": 0, "below": 1},
    "epsilon": {"least": 1e-30},
    "validation_fraction": {"above": 0, "below": 1},
}
_FLAGS = ("shuffle", "warm_start", "nesterovs_momentum", "standardize", "weighted_statistics")
_CHOICES: dict[str, tuple[Any, ...]] = {
    "norm": NORMS,
    "solver": ("adamw", "adam", "sgd"),
    "init": INITS,
    "encoding": ENCODINGS,
    "precision": PRECISIONS,
}

RateName: TypeAlias = ScheduleName | Literal["invscaling", "adaptive"]
ActivationChoice: TypeAlias = ActivationLike | Literal["logistic"]
# A metric of the package or a scorer of scikit-learn, by its name or itself.
MetricChoice: TypeAlias = str | Metric | Callable[..., float]

# Epochs of patience that no training has.
NEVER = 2**62


class Parameters(BaseEstimator):
    """The parameters of both the classifier and the regressor."""

    hidden_layer_sizes: int | Sequence[int] | Literal["auto"]
    activation: ActivationChoice | Sequence[ActivationChoice] | Literal["auto"]
    norm: Norm | None
    n_estimators: int
    encoding: Encoding | None
    bins: int | Literal["auto"]
    categorical_features: Literal["from_dtype"] | Sequence[str | int] | Array | None
    min_frequency: int | Literal["auto"]
    solver: Literal["adamw", "adam", "sgd"]
    alpha: float
    weight_decay: float | Literal["auto"]
    batch_size: int | Literal["auto"]
    learning_rate: RateName | Schedule | Callable[[int], float]
    learning_rate_init: float | Literal["auto"]
    power_t: float
    max_iter: int | Literal["auto"]
    shuffle: bool
    random_state: int | np.random.RandomState | None
    tol: float
    n_iter_no_change: float
    verbose: bool | int
    progress: bool | None
    warm_start: bool
    momentum: float
    nesterovs_momentum: bool
    beta_1: float
    beta_2: float
    epsilon: float
    clip_norm: float | None
    early_stopping: bool | str | EarlyStopping
    validation_fraction: float
    metrics: Sequence[MetricChoice]
    callbacks: Sequence[Callable[..., object]]
    decay: float | None
    dropout: float | Sequence[float] | Array | Literal["auto"]
    init: Init
    standardize: bool
    weighted_statistics: bool
    precision: Precision
    loss: str | Loss
    dtype: npt.DTypeLike

    # The losses that have a name.
    _losses: ClassVar[tuple[str, ...]]

    # What `score` computes, in the terms of `History`.
    _score_name: ClassVar[str]

    # The parameters that make the network what it is, and stay where training goes on.
    _lasting: ClassVar[tuple[str, ...]] = (
        "hidden_layer_sizes",
        "activation",
        "norm",
        "n_estimators",
        "encoding",
        "bins",
        "categorical_features",
        "min_frequency",
        "decay",
        "dropout",
        "init",
        "standardize",
        "weighted_statistics",
        "precision",
        "loss",
        "dtype",
    )

    def _keep(self, arguments: dict[str, Any]) -> None:
        """Store the constructor's arguments, unchecked, as scikit-learn wants it."""
        for name, value in arguments.items():
            if name != "self":
                setattr(self, name, value)

    def _check_parameters(self) -> None:
        """Refuse parameters that are not what the docstring says, before the data are looked at."""
        for name, bounds in _NUMBERS.items():
            _check.number(name, getattr(self, name), **bounds)
        for name in _FLAGS:
            _check.flag(name, getattr(self, name))
        for name, known in _CHOICES.items():
            _check.choice(name, getattr(self, name), known)
        self._hidden()
        if isinstance(self.activation, str):
            _check.choice("activation", self.activation, ("auto", *_ACTIVATIONS))
        elif not isinstance(self.activation, Activation):
            sequence("activation", self.activation)
        if not isinstance(self.weight_decay, str) or self.weight_decay != "auto":
            _check.number("weight_decay", self.weight_decay, least=0)
        if not isinstance(self.learning_rate_init, str) or self.learning_rate_init != "auto":
            _check.number("learning_rate_init", self.learning_rate_init, above=0)
        if not isinstance(self.batch_size, str) or self.batch_size != "auto":
            _check.integer("batch_size", self.batch_size, least=1)
        if not (isinstance(self.learning_rate, Schedule) or callable(self.learning_rate)):
            names = (*schedules.NAMED, "invscaling", "adaptive")
            _check.choice("learning_rate", self.learning_rate, names)
        if not isinstance(self.max_iter, str) or self.max_iter != "auto":
            _check.integer("max_iter", self.max_iter, least=1)
        _check.integer("n_estimators", self.n_estimators, least=1)
        if not isinstance(self.bins, str) or self.bins != "auto":
            _check.integer("bins", self.bins, least=2)
        TableColumns(self.categorical_features, min_frequency=self.min_frequency)
        if not isinstance(self.n_iter_no_change, float) or self.n_iter_no_change != math.inf:
            _check.integer("n_iter_no_change", self.n_iter_no_change, least=1)
        if not isinstance(self.verbose, (bool, np.bool_)):
            _check.integer("verbose", self.verbose, least=0)
        if self.progress is not None:
            _check.flag("progress", self.progress)
        if self.decay is not None:
            _check.number("decay", self.decay, least=0, below=1)
        if self.clip_norm is not None:
            _check.number("clip_norm", self.clip_norm, above=0)
        if not isinstance(self.early_stopping, (str, EarlyStopping)):
            _check.flag("early_stopping", self.early_stopping)
        sequence("metrics", self.metrics)
        if not all(callable(callback) for callback in sequence("callbacks", self.callbacks)):
            raise TypeError("callbacks must be a sequence of functions of (net, history)")
        self._dropout(0)
        if not isinstance(self.loss, Loss):
            _check.choice("loss", self.loss, self._losses)
        if not isinstance(self.dtype, str) or self.dtype != "auto":
            _check.float_dtype("dtype", self.dtype)

    def _hidden(self, k: int = 0) -> list[int]:
        """Return the units of each hidden layer of network k."""
        given: object = self.hidden_layer_sizes
        if isinstance(given, str):
            _check.choice("hidden_layer_sizes", given, ("auto",))
            return defaults.hidden_layers(self._shape_of(k))
        given = [given] if isinstance(given, Integral) else sequence("hidden_layer_sizes", given)
        return [_check.integer("hidden_layer_sizes", size, least=1) for size in given]

    def _shape_of(self, k: int) -> int:
        """Return whose shape network k has: its own where that is free, otherwise that of the first."""
        of_layers = not all(
            isinstance(one, (str, Activation, Real)) for one in (self.activation, self.dropout)
        )
        return 0 if of_layers or not isinstance(self.hidden_layer_sizes, str) else k

    def _dropout(self, layers: int, rows: float = math.inf) -> list[float]:
        """Return the probability of dropout of each layer.

        With `weighted_statistics` an integer weight is the same as a repeated sample, but dropout draws anew
        for each: there it has to be asked for.
        """
        if isinstance(self.dropout, str) and self.dropout == "auto":
            if self.weighted_statistics or not self._planned():
                return [0.0] * layers
            return [defaults.dropout(self.solver, self.norm, self._layers(), rows)] * layers
        given = self.dropout.tolist() if isinstance(self.dropout, np.ndarray) else self.dropout
        if isinstance(given, (list, tuple)):
            return [_check.number("dropout", p, least=0, below=1) for p in given]
        return [_check.number("dropout", given, least=0, below=1)] * layers

    def _activations(self, k: int = 0) -> ActivationLike | list[ActivationLike]:
        """Return the activation of the hidden layers of network k, or one for each."""

        def ours(one: ActivationChoice) -> ActivationLike:
            return _ACTIVATIONS.get(one, cast(ActivationName, one)) if isinstance(one, str) else one

        given = self.activation
        if isinstance(given, str):
            return defaults.activation(self._shape_of(k)) if given == "auto" else ours(given)
        if isinstance(given, Activation):
            return given
        return [ours(one) for one in sequence("activation", self.activation)]

    def _layers(self, k: int = 0) -> list[ActivationLike]:
        """Return the activation of each hidden layer of network k."""
        each = self._activations(k)
        return each if isinstance(each, list) else [each] * len(self._hidden(k))

    def _resolved(self, name: str) -> Any:
        """Return a parameter in a form in which other ways to write the same are equal."""
        value = getattr(self, name)
        if name == "categorical_features":
            return TableColumns(value).categorical
        if name == "hidden_layer_sizes":
            return value if isinstance(value, str) else self._hidden()
        if name == "activation":
            return value if isinstance(value, str) and value == "auto" else self._layers()
        if name == "dropout" and not (isinstance(value, str) and value == "auto"):
            return self._dropout(len(self._hidden()))
        if name == "dtype" and not (isinstance(value, str) and value == "auto"):
            return _check.float_dtype(name, value).name
        return value

    def _dtype_for(self, X: CheckedTable | RowGroups) -> np.dtype[Any]:
        if isinstance(self.dtype, str) and self.dtype == "auto":
            single = defaults.single_precision(X.dtype, X.shape[0], standardize=self.standardize)
            single = single or self.precision == "bfloat16"
            return np.dtype(np.float32 if single else np.float64)
        return _check.float_dtype("dtype", self.dtype)

    def _batch(self, samples: int) -> int:
        if self.batch_size == "auto":
            size = defaults.batch_size(samples, values=not is_classifier(self))
        else:
            size = int(self.batch_size)
            if size > samples:
                warnings.warn(
                    f"Got batch_size={size}, larger than the {samples} samples. It is going to be clipped.",
                    stacklevel=6,
                )
        size = min(size, samples)
        if norm_kind(self.norm) == "batch":
            size = max(size, 2 + samples % 2)  # even batches of at least two
        return size

    def _epochs(self, steps: int) -> int:
        """Return the epochs of a training, each of so many steps."""
        if self.max_iter == "auto":
            layers = self._layers()
            return defaults.epochs(self.solver, self.norm, layers, steps, constant=not self._planned())
        return int(self.max_iter)

    def _halve_epochs(self, samples: int) -> None:
        """Set half of the epochs that "auto" stands for with so many samples, and the rate for them."""
        if self.max_iter != "auto" or not self._planned():
            return
        epochs = math.ceil(self._epochs(math.ceil(samples / self._batch(samples))) / 2)
        self.max_iter = epochs
        if self.learning_rate_init == "auto":
            self.learning_rate_init = defaults.learning_rate(
                self.solver, self.norm, self._layers(), epochs=epochs
            )

    def _rate(self, steps: int | None = None) -> float:
        """Return the learning rate that the course is relative to, for planned epochs of so many steps."""
        if self.learning_rate_init == "auto":
            layers = self._layers()
            if steps is None or self.max_iter != "auto":
                return defaults.learning_rate(self.solver, self.norm, layers)
            return defaults.learning_rate(self.solver, self.norm, layers, epochs=self._epochs(steps))
        return float(self.learning_rate_init)

    def _optimizer(self, samples: int, steps: int, incremental: bool) -> SGD | AdamW:
        rate, decay = self._rate(None if incremental else steps), self.weight_decay
        if decay == "auto":
            decay = defaults.weight_decay(
                self.solver,
                self.norm,
                self._layers(),
                samples,
                rate,
                constant=incremental or self.learning_rate in ("constant", Constant()),
            )
        if self.solver == "sgd":
            momentum = float(self.momentum)
            nesterov = bool(self.nesterovs_momentum and momentum > 0)
            return SGD(rate, momentum, nesterov, float(decay))
        if self.solver == "adam":
            decay = 0.0
        return AdamW(rate, float(self.beta_1), float(self.beta_2), float(self.epsilon), float(decay))

    def _stopping(self) -> EarlyStopping | None:
        """Return what decides about the end, or None if nothing does."""
        watched = self._watched()
        if isinstance(watched, EarlyStopping):
            return watched
        planned = self._planned()
        if watched is None and (planned or self.learning_rate == "adaptive"):
            return None
        monitor = "loss" if watched is None else watched
        patience = None if planned else self._patience()
        if self.learning_rate == "adaptive":  # patience lowers the rate, and a low one ends the training
            patience = NEVER
        return EarlyStopping(monitor, patience, float(self.tol), restore_best=watched is not None)

    def _watched(self) -> EarlyStopping | str | None:
        """Return what early stopping follows, or None without it."""
        watched = self.early_stopping
        if watched == "accuracy":  # as of every scorer, that of the validation data
            return "val_accuracy"
        if isinstance(watched, (str, EarlyStopping)):
            return watched
        return "val_loss" if watched else None

    def _shown(self) -> str | None:
        """Return what `validation_scores_` holds, or None without early stopping."""
        if isinstance(self.early_stopping, (bool, np.bool_)):
            return self._score_name if self.early_stopping else None
        watched = self._watched()
        return watched.monitor if isinstance(watched, EarlyStopping) else watched

    def _planned(self) -> bool:
        """Whether the learning rate is planned for all epochs."""
        chosen = self.learning_rate
        return chosen != "invscaling" and chosen != "adaptive" and schedules.resolve(chosen).planned

    def _patience(self) -> int:
        """Return `n_iter_no_change` as an integer."""
        return NEVER if self.n_iter_no_change == np.inf else int(self.n_iter_no_change)

    def _schedule(
        self, steps: int, samples: int, seen: int, incremental: bool, stopping: EarlyStopping | None
    ) -> ScheduleName | Schedule | Callable[[int], float]:
        if self.learning_rate == "invscaling":
            rate, power = self._rate(), float(self.power_t)
            return lambda step: float(rate / (seen + step // steps * samples + 1) ** power)
        if incremental:
            return "constant"
        if self.learning_rate == "adaptive":
            watched = EarlyStopping("loss", mode="min") if stopping is None else stopping
            return Plateau(
                watched.monitor,
                mode=watched.mode,
                factor=0.2,
                patience=self._patience(),
                min_delta=float(self.tol),
            )
        return self.learning_rate


def sequence(name: str, value: object) -> Sequence[Any]:
    """Return `value` if it is a sequence, and no text; arrays as lists."""
    given = value.tolist() if isinstance(value, np.ndarray) else value
    if isinstance(given, (str, bytes)) or not isinstance(given, Sequence):
        raise TypeError(f"{name} must be a sequence, got {value!r}")
    return given
