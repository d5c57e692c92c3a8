"""FNNClassifier and FNNRegressor: networks with scikit-learn's interface."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted, validate_data

from nbnorm import activations
from nbnorm.moments import is_sparse
from nbnorm.network import FNN, INITS
from nbnorm.sgd import SGD
from nbnorm.training import DivergenceError, History

Array = npt.NDArray[Any]

# scikit-learn's names beside ours.
_ACTIVATIONS = {"logistic": "sigmoid"} | {name: name for name in activations.CODES}
_OUT_ACTIVATIONS = {"softmax": "softmax", "sigmoid": "logistic", "identity": "identity"}

# Samples of a mini-batch for batch_size="auto".
_BATCH = 200


class _Stop(Exception):
    """Ends the training from a callback."""


class _Watch:
    """Called after each epoch: keeps the curves and the best parameters, and says when to stop."""

    def __init__(self, estimator: _Network, score: Callable[[], float] | None) -> None:
        self.estimator, self.score = estimator, score
        self.waited = 0
        self.best: dict[str, Array] | None = None
        self.converged = False

    def __call__(self, net: FNN, history: History) -> None:
        estimator, loss = self.estimator, history.loss[-1]
        estimator.n_iter_ = history.epochs
        estimator.loss_ = loss
        estimator.loss_curve_.append(loss)
        if estimator.verbose:
            print(f"Iteration {history.epochs}, loss = {loss:.8f}")
        if self.score is None:
            best, value = estimator.best_loss_, -loss
            better = best is None or loss < best
            enough = best is None or loss <= best - estimator.tol
            estimator.best_loss_ = loss if better else best
        else:
            value = self.score()
            if estimator.verbose:
                print(f"Validation score: {value:f}")
            best = estimator.best_validation_score_
            better = best is None or value > best
            enough = best is None or value >= best + estimator.tol
            estimator.validation_scores_.append(value)
            if better:
                estimator.best_validation_score_ = value
                self.best = {n: v.copy() for n, v in {**net.parameters(), **net.buffers()}.items()}
        self.waited = 0 if enough else self.waited + 1
        if self.waited > estimator.n_iter_no_change:
            self.converged = True
            raise _Stop


class _Network(BaseEstimator):
    """What the classifier and the regressor have in common."""

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(set(_ACTIVATIONS))],
        "norm": [StrOptions({"after", "before"}), None],
        "solver": [StrOptions({"sgd"})],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate": [StrOptions({"constant", "cosine", "invscaling"}), callable],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "power_t": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "shuffle": ["boolean"],
        "random_state": ["random_state"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
        "momentum": [Interval(Real, 0, 1, closed="left")],
        "nesterovs_momentum": ["boolean"],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), Options(Real, {np.inf})],
        "decay": [Interval(Real, 0, 1, closed="left")],
        "init": [StrOptions(set(INITS))],
        "standardize": ["boolean"],
        "dtype": [StrOptions({"auto", "float32", "float64"}), type, np.dtype],
    }

    hidden_layer_sizes: Any
    activation: Any
    norm: Any
    solver: Any
    alpha: Any
    batch_size: Any
    learning_rate: Any
    learning_rate_init: Any
    power_t: Any
    max_iter: Any
    shuffle: Any
    random_state: Any
    tol: Any
    verbose: Any
    warm_start: Any
    momentum: Any
    nesterovs_momentum: Any
    weight_decay: Any
    early_stopping: Any
    validation_fraction: Any
    n_iter_no_change: Any
    decay: Any
    init: Any
    standardize: Any
    dtype: Any

    network_: FNN
    n_features_in_: int
    n_outputs_: int
    n_iter_: int
    t_: int
    loss_: float
    loss_curve_: list[float]
    best_loss_: float | None
    validation_scores_: list[float] | None
    best_validation_score_: float | None

    def _keep(self, arguments: dict[str, Any]) -> None:
        """Store the constructor's arguments, unchecked, as scikit-learn wants it."""
        for name in self._get_param_names():
            setattr(self, name, arguments[name])

    # What the classifier and the regressor do in their own ways.

    def _targets(self, y: Array, first: bool) -> Array:
        """Check targets and turn them into those of the network."""
        raise NotImplementedError

    def _output(self) -> tuple[str, int]:
        """Kind and number of the network's outputs."""
        raise NotImplementedError

    def _score_of(self, net: FNN, X: Any, targets: Array) -> float:
        """Score that early stopping watches."""
        raise NotImplementedError

    # ------------------------------------------------------------------------------------------
    # Training
    # ------------------------------------------------------------------------------------------

    def _hidden(self) -> list[int]:
        hidden = self.hidden_layer_sizes
        sizes = [hidden] if isinstance(hidden, Integral) else list(hidden)
        if not all(isinstance(size, Integral) and size > 0 for size in sizes):
            raise ValueError(f"hidden_layer_sizes must be integers > 0, got {sizes}.")
        return [int(size) for size in sizes]

    def _dtype_for(self, X: Any) -> np.dtype[Any]:
        """Return what "auto" means: float32 where that holds every value of X exactly."""
        if isinstance(self.dtype, str) and self.dtype == "auto":
            return np.dtype(np.float32 if np.can_cast(X.dtype, np.float32) else np.float64)
        got = np.dtype(self.dtype)
        if got not in (np.float32, np.float64):
            raise ValueError(f"The 'dtype' parameter must be 'auto', float32 or float64. Got {got} instead.")
        return got

    def _new_network(self, X: Any) -> FNN:
        kind, outputs = self._output()
        return FNN(
            [X.shape[1], *self._hidden(), outputs],
            activation=_ACTIVATIONS[self.activation],
            norm=self.norm,
            output=kind,
            standardize=self.standardize,
            decay=self.decay,
            init=self.init,
            dtype=self._dtype_for(X),
            seed=int(self._random_state.randint(np.iinfo(np.int32).max)),
        )

    def _batch(self, samples: int) -> int:
        """Samples of a mini-batch, enlarged where a last batch of one, without a variance, would be left."""
        wanted = _BATCH if self.batch_size == "auto" else self.batch_size
        if wanted > samples and self.batch_size != "auto":
            warnings.warn(
                f"Got batch_size={wanted}, larger than the {samples} samples. It is going to be clipped.",
                stacklevel=4,
            )
        size = int(min(wanted, samples))
        if self.norm is not None:
            size = max(size, 2)
            while samples % size == 1:
                size += 1
        return size

    def _schedule(self, steps: int, samples: int) -> str | Callable[[int], float]:
        if self.learning_rate == "invscaling":
            rate, power = float(self.learning_rate_init), float(self.power_t)
            return lambda step: float(rate / (step // steps * samples + 1) ** power)
        chosen: str | Callable[[int], float] = self.learning_rate
        return chosen

    def _fit(self, X: Any, y: Any, *, incremental: bool) -> None:
        self._validate_params()
        hidden = self._hidden()
        if incremental and self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        first = not hasattr(self, "network_") or not (self.warm_start or incremental)
        X, y = validate_data(
            self,
            X,
            y,
            accept_sparse=("csr", "csc"),
            dtype="numeric",
            multi_output=True,
            y_numeric=not is_classifier(self),
            ensure_min_samples=1 if self.norm is None else 2,
            reset=first,
        )
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        targets = self._targets(y, first)
        if is_sparse(X):
            X = X.toarray()
        self._random_state = check_random_state(self.random_state)
        if first:
            net = self._new_network(X)
            self.n_outputs_ = net.sizes[-1]
            self.n_layers_ = len(net.sizes)
            self.out_activation_ = _OUT_ACTIVATIONS[net.output]
            self.t_ = 0
            self.loss_curve_ = []
            self.best_loss_ = self.validation_scores_ = self.best_validation_score_ = None
        else:
            net = self.network_
            if list(net.sizes[1:-1]) != hidden:
                raise ValueError(
                    f"hidden_layer_sizes must stay {list(net.sizes[1:-1])} while training goes on, got {hidden}."
                )
        self._train(net, X, targets, incremental)
        self.network_ = net

    def _train(self, net: FNN, X: Array, targets: Array, incremental: bool) -> None:
        score = None
        if self.early_stopping:
            X, X_val, targets, val = self._split(X, targets)
            self.validation_scores_ = self.validation_scores_ or []

            def score() -> float:
                return self._score_of(net, X_val, val)

        samples = len(X)
        batch = self._batch(samples)
        watch = _Watch(self, score)
        interrupted = False
        try:
            history = net.fit(
                X,
                targets,
                epochs=1 if incremental else self.max_iter,
                batch_size=batch,
                optimizer=SGD(
                    lr=float(self.learning_rate_init),
                    momentum=float(self.momentum),
                    nesterov=bool(self.nesterovs_momentum and self.momentum > 0),
                    weight_decay=float(self.weight_decay),
                ),
                schedule=self._schedule(math.ceil(samples / batch), samples),
                shuffle=self.shuffle,
                progress=False,
                callbacks=[watch],
            )
            interrupted = history.stopped is not None
        except _Stop:
            net.eval()
        except DivergenceError as error:
            raise ValueError(f"The {error}.") from error
        self.t_ += samples * self.n_iter_
        if watch.best is not None:
            for name, values in {**net.parameters(), **net.buffers()}.items():
                values[:] = watch.best[name]
        if interrupted:
            warnings.warn("Training interrupted by user.", stacklevel=4)
        elif not (watch.converged or incremental) and self.learning_rate != "cosine":
            warnings.warn(
                f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached and the "
                "optimization hasn't converged yet.",
                ConvergenceWarning,
                stacklevel=4,
            )

    def _split(self, X: Array, targets: Array) -> list[Array]:
        """Hold out some of the data, of each class alike."""
        split = train_test_split(
            np.arange(len(X)),
            random_state=self._random_state,
            test_size=self.validation_fraction,
            stratify=targets if is_classifier(self) and targets.ndim == 1 else None,
        )
        if len(split[1]) < 2 or (self.norm is not None and len(split[0]) < 2):
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
            )
        return [part[rows] for part in (X, targets) for rows in split]

    # ------------------------------------------------------------------------------------------
    # Results
    # ------------------------------------------------------------------------------------------

    def _logits(self, X: Any) -> Array:
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse=("csr", "csc"), dtype="numeric", reset=False)
        return self.network_.forward(X)

    @property
    def coefs_(self) -> list[Array]:
        """Weights of the affine layers, (n_in, n_out) each, with standardization and batch norm folded in."""
        return self._folded()[0]

    @property
    def intercepts_(self) -> list[Array]:
        """Biases of the affine layers, (n_out,) each, with standardization and batch norm folded in."""
        return self._folded()[1]

    def _folded(self) -> tuple[list[Array], list[Array]]:
        """In evaluation, standardization and batch norm are affine: they become part of their neighbours."""
        check_is_fitted(self)
        net = self.network_
        held = {name: np.asarray(v, np.float64) for name, v in {**net.parameters(), **net.buffers()}.items()}
        last = len(net.sizes) - 1
        weights, biases = [], []
        # the affine map in front of the layer
        factor, shift = np.ones(net.sizes[0]), np.zeros(net.sizes[0])
        for l in range(1, last + 1):
            weight = held[f"dense{l}.weight"]
            bias = held.get(f"dense{l}.bias", np.zeros(len(weight)))
            if l == 1 and net.standardizer is not None:
                weight, bias = net.standardizer.fold(weight, bias)
            bias = bias + weight @ shift
            weight = weight * factor
            factor, shift = np.ones(len(weight)), np.zeros(len(weight))
            if l < last and net.norm is not None:
                spread = held[f"norm{l}.running_{net.running}"]
                variance = spread**2 if net.running == "std" else spread
                factor = held[f"norm{l}.gamma"] / np.sqrt(variance + net.eps)
                shift = held[f"norm{l}.beta"] - factor * held[f"norm{l}.running_mean"]
                if net.norm == "before":
                    bias = factor * bias + shift
                    weight = factor[:, None] * weight
                    factor, shift = np.ones(len(weight)), np.zeros(len(weight))
            weights.append(weight.T)
            biases.append(bias)
        return weights, biases

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


class FNNClassifier(ClassifierMixin, _Network):
    """Fully connected network with batch normalization for classification."""

    classes_: Array

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] = (100,),
        activation: str = "relu",
        *,
        norm: str | None = "after",
        solver: str = "sgd",
        alpha: float = 1e-4,
        batch_size: int | str = "auto",
        learning_rate: str | Callable[[int], float] = "constant",
        learning_rate_init: float = 0.01,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        weight_decay: float = 0.0,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: float = 10,
        decay: float = 0.9,
        init: str = "he",
        standardize: bool = True,
        dtype: Any = "auto",
    ) -> None:
        self._keep(locals())

    def _targets(self, y: Array, first: bool) -> Array:
        check_classification_targets(y)
        kind = type_of_target(y)
        if kind == "multiclass-multioutput":
            raise ValueError(
                "Multioutput target data is not supported: y must hold one class per sample, or zeros and "
                "ones for several labels."
            )
        if is_sparse(y):
            y = y.toarray()
        if first and not self._given_classes:
            multilabel = kind == "multilabel-indicator"
            self.classes_ = np.arange(y.shape[1]) if multilabel else np.unique(y)
            self._multilabel = multilabel
        return self._coded(y)

    def _coded(self, y: Array) -> Array:
        if (y.ndim == 2) != self._multilabel or (self._multilabel and y.shape[1] != len(self.classes_)):
            raise ValueError(f"y must have the form of the previous call, got shape {y.shape}.")
        if self._multilabel:
            return y.astype(np.uint8)
        found = np.setdiff1d(y, self.classes_)
        if len(found):
            raise ValueError(f"`y` has classes not in `self.classes_`: {found}; classes_ is {self.classes_}.")
        codes = np.searchsorted(self.classes_, y)
        return codes if len(self.classes_) > 2 else codes.astype(np.uint8)

    _given_classes = False

    def _output(self) -> tuple[str, int]:
        count = len(self.classes_)
        if self._multilabel:
            return "sigmoid", count
        return ("softmax", count) if count > 2 else ("sigmoid", 1)

    def _score_of(self, net: FNN, X: Any, targets: Array) -> float:
        return net.score(X, targets)

    def fit(self, X: Any, y: Any) -> FNNClassifier:
        """Train on `X` and `y`."""
        self._fit(X, y, incremental=False)
        return self

    def partial_fit(self, X: Any, y: Any, classes: npt.ArrayLike | None = None) -> FNNClassifier:
        """Train for one more epoch, on these samples."""
        self._fit(X, y, incremental=True)
        return self

    def predict(self, X: Any) -> Array:
        """Predict the class of each sample."""
        z = self._logits(X)
        if self._multilabel:
            return (z > 0).astype(np.int64)
        if len(self.classes_) == 1:
            return np.repeat(self.classes_, len(z))
        codes = z.argmax(axis=1) if len(self.classes_) > 2 else (z[:, 0] > 0).astype(np.int64)
        return np.asarray(self.classes_[codes])

    def predict_proba(self, X: Any) -> Array:
        """Predict the probability of each class."""
        return np.exp(self.predict_log_proba(X))

    def predict_log_proba(self, X: Any) -> Array:
        """Predict the logarithm of the probability of each class."""
        z = self._logits(X)
        if not self._multilabel and len(self.classes_) == 1:
            return np.zeros((len(z), 1), z.dtype)
        if self.out_activation_ == "softmax":
            z = z - z.max(axis=1, keepdims=True)
            return np.asarray(z - np.log(np.exp(z).sum(axis=1, keepdims=True)))
        positive = -np.logaddexp(0, -z)
        return positive if self._multilabel else np.hstack([-np.logaddexp(0, z), positive])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


class FNNRegressor(RegressorMixin, _Network):
    """Fully connected network with batch normalization for regression."""

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] = (100,),
        activation: str = "relu",
        *,
        norm: str | None = "after",
        solver: str = "sgd",
        alpha: float = 1e-4,
        batch_size: int | str = "auto",
        learning_rate: str | Callable[[int], float] = "constant",
        learning_rate_init: float = 0.01,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        weight_decay: float = 0.0,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: float = 10,
        decay: float = 0.9,
        init: str = "he",
        standardize: bool = True,
        dtype: Any = "auto",
    ) -> None:
        self._keep(locals())

    def _targets(self, y: Array, first: bool) -> Array:
        y = y.astype(np.float64)
        if first:
            self._one_dimensional = y.ndim == 1
            self._center = y.mean(axis=0)
            spread = y.std(axis=0)
            self._spread = np.where(spread > 0, spread, 1.0)
            self._width = 1 if y.ndim == 1 else y.shape[1]
        elif self._width != (1 if y.ndim == 1 else y.shape[1]):
            raise ValueError(f"y must have {self._width} output(s) as before, got shape {y.shape}.")
        return np.asarray((y - self._center) / self._spread)

    def _output(self) -> tuple[str, int]:
        return "identity", self._width

    def _score_of(self, net: FNN, X: Any, targets: Array) -> float:
        return net.score(X, targets)

    def fit(self, X: Any, y: Any) -> FNNRegressor:
        """Train on `X` and `y`."""
        self._fit(X, y, incremental=False)
        return self

    def partial_fit(self, X: Any, y: Any) -> FNNRegressor:
        """Train for one more epoch, on these samples."""
        self._fit(X, y, incremental=True)
        return self

    def predict(self, X: Any) -> Array:
        """Predict the targets."""
        z = self._logits(X)
        z = z[:, 0] if self._one_dimensional else z
        return z * self._spread + self._center

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
