"""What FNNClassifier and FNNRegressor have in common."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from nbnorm import _check
from nbnorm.data.row_groups import RowGroups, is_row_groups, open_groups
from nbnorm.estimators.scaler import numeric_dtype
from nbnorm.estimators.scorers import is_scorer, scored
from nbnorm.functions import activations
from nbnorm.functions.activations import Activation
from nbnorm.functions.loss_options import Loss
from nbnorm.functions.optimizers import SGD, AdamW
from nbnorm.model import checkpoints, defaults, inference, inputs, schedules
from nbnorm.model import metrics as _metrics
from nbnorm.model.folding import folded
from nbnorm.model.history import DivergenceError, History
from nbnorm.model.many import fit_many, numbered
from nbnorm.model.metrics import Measure
from nbnorm.model.network import FNN
from nbnorm.model.options import ENCODINGS, INITS
from nbnorm.model.sample_weights import Shares, Weights, products
from nbnorm.model.schedules import Constant, Plateau, Schedule
from nbnorm.model.stopping import EarlyStopping
from nbnorm.statistics.reading import is_sparse

Array = npt.NDArray[Any]
_Self = TypeVar("_Self", bound="Network")

# scikit-learn's names beside ours.
_ACTIVATIONS = {"logistic": "sigmoid"} | {name: name for name in activations.CODES}

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
    "decay": {"least": 0, "below": 1},
}
_FLAGS = ("shuffle", "warm_start", "nesterovs_momentum", "standardize", "weighted_statistics")
_CHOICES: dict[str, tuple[Any, ...]] = {
    "norm": ("after", "before", None),
    "solver": ("adamw", "adam", "sgd"),
    "init": INITS,
    "encoding": ENCODINGS,
}

# What `FNN.fit` measures unasked.
_MEASURED = ("loss", "accuracy", "val_loss", "val_accuracy")

# Epochs of patience that no training has.
_NEVER = 2**62

# The adaptive learning rate is divided by 5, and ends the training below this.
_LEAST_RATE = 1e-6

_PARAMETERS = """\
hidden_layer_sizes : int or sequence of int, default (100,)
        Units of each hidden layer.
    activation : str, Activation or sequence of them, default "relu"
        Activation of the hidden layers, or one for each: "relu", "tanh", "identity", "sigmoid" (or
        "logistic"), "leaky_relu", "elu", "gelu", "silu", "softplus".
    norm : {"after", "before", None}, default "after"
        Place of batch normalization, relative to the activation.
    n_estimators : int, default 1
        Networks that are trained, from other initial weights and in other orders of the samples; their
        probabilities or values are averaged.  They are trained side by side, each on one thread.  Attributes
        that describe one network or its training describe the first.
    encoding : {None, "piecewise"}, default None
        "piecewise": columns of numbers are joined by their positions in quantile bins, see `FNN`; missing
        numbers may then be NaN.
    bins : int, default 8
        Bins of a column at most.
    solver : {"adamw", "adam", "sgd"}, default "@solver@"
        Optimizer; "adam" is "adamw" without `weight_decay`.
    alpha : float, default 0.0
        Strength of the L2 penalty alpha / 2 ||W||^2 of the weights, divided by the samples of the batch.
    weight_decay : float or "auto", default "auto"
        Decoupled weight decay: each step takes this share, times the learning rate, from the weights;
        the product with any learning rate must be below 1.  "auto" is 5 where ``norm="after"`` follows
        "relu", "leaky_relu" or "identity" and 0.2 elsewhere and with a constant rate, as in `partial_fit`;
        times the root of 500 / samples beyond 500 samples, and at most 0.025 / `learning_rate_init`; it is 0
        for "sgd".  A `learning_rate` that is a function and rises above the initial one may need a number.
    batch_size : int or "auto", default "auto"
        Most samples of a mini-batch; "auto" takes a fiftieth of the samples, but from 32 to 256.  The batches
        of an epoch are even: their sizes differ by at most one.  Batch norm needs two samples in each:
        where `batch_size` does not allow that (1, or 2 for an odd number of samples), it is made larger.
    learning_rate : str, schedule or callable, default "@learning_rate@"
        Course of the learning rate: "constant"; "invscaling", divided by samples seen to the power of
        `power_t`; "adaptive", divided by 5 whenever there is no improvement; "step", "cosine",
        "one_cycle", "plateau", the same with options (`nbnorm.Cosine` and others); or a function of the step.
    learning_rate_init : float or "auto", default "@learning_rate_init@"
        Learning rate that the course begins with or is relative to.  "auto" is 0.005 for "adamw" where
        ``norm="after"`` follows "relu", "leaky_relu" or "identity", 0.02 for "sgd" and 0.03 otherwise.
    power_t : float, default 0.5
        Exponent of "invscaling".
    max_iter : int, default @max_iter@
        Epochs at most.  A learning rate that is planned for so many, see `n_iter_no_change`, does them all.
    shuffle : bool, default True
        Whether each epoch takes the samples in a new order.
    random_state : int, RandomState or None, default None
        Determines the initial weights, the order of the samples, dropout and the validation split.
    tol : float, default 1e-4
        Change that counts as an improvement of the training loss or of what early stopping watches.
    n_iter_no_change : int or inf, default 10
        Epochs in a row without improvement after which training ends or, where it is "adaptive", the learning
        rate falls.  A learning rate planned for all epochs goes on to its end: "step", "cosine",
        "one_cycle", a function.
    verbose : bool or int, default False
        Whether to print the loss after each epoch.
    warm_start : bool, default False
        Whether `fit` goes on from the network of the last call.  What the network was built with stays,
        there and in `partial_fit`: `hidden_layer_sizes`, `activation`, `norm`, `decay`, `dropout`, `init`,
        `standardize`, `weighted_statistics`, `dtype` and all about loss and targets.
    momentum : float, default 0.9
        Momentum of "sgd".
    nesterovs_momentum : bool, default True
        Whether it is Nesterov's.
    beta_1, beta_2 : float, default 0.9 and 0.999
        Weights of the old averages of the gradient and of its square, in "adamw" and "adam".
    epsilon : float, default 1e-3
        Added to the root of the average square there.  It is larger than usual, so that gradients which
        are zero but for rounding, as those of a bias behind batch norm can be, make no steps of full size.
    clip_norm : float or None, default None
        Largest norm of all gradients together.
    early_stopping : bool, str or EarlyStopping, default False
        Whether to hold out a part of the data, to watch the loss there and to take the parameters of the
        epoch where it was least.  Training ends as `n_iter_no_change` says.  A name watches something else
        of these data, such as "@metric@", one of `metrics`, or a scorer of scikit-learn; only "loss" is that
        of the training data.
    validation_fraction : float, default 0.1
        Share of the data that is held out, unless `fit` is given validation data.
    metrics : sequence of str, callables, Metric and scorers, default ()
        What else to measure on the validation data after each epoch: what `FNN.fit` takes, where functions
        get the classes as y has them, and names of scikit-learn's scorers, such as "f1_macro" or
        "neg_median_absolute_error", or such scorers themselves.
    callbacks : sequence of callables, default ()
        Called after each epoch as ``callback(net, history)``, see `FNN.fit`; one that returns True ends the
        training.
    decay : float, default 0.9
        Weight of the old value in batch norm's moving averages.
    dropout : float or sequence of float, default 0.0
        Share of each hidden layer's units that a training step leaves out.
    init : {"he", "glorot", "lecun", "orthogonal"}, default "he"
        Distribution of the initial weights.
    standardize : bool, default True
        Whether to standardize the features inside: no `StandardScaler` is needed in front.
    weighted_statistics : bool, default False
        Whether weights of samples and classes enter the statistics of batch norm, and those of classes the
        standardization, so that an integer weight is the same as a repeated sample.  Weights that depend on
        the target then tell it to the network while it trains."""

_DTYPE = """\
dtype : {"auto", "float32", "float64"} or dtype, default "auto"
        Type of the computation; "auto" is float32 if that holds every value of X's type exactly (float32,
        float16, integers of 16 bits), otherwise float64."""

_ATTRIBUTES = """\
network_ : FNN
        The network itself, or the first one; `network_.save` stores it without pickle.
    networks_ : list of FNN
        All of them.
    history_ : History
        What happened in each epoch of the last call, with all metrics.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        Their names, if X had them.
    n_layers_, n_outputs_ : int
        Layers, input and output included; outputs of the network.
    out_activation_ : str
        Function that turns the network's logits into its answers.
    coefs_, intercepts_ : list of ndarray
        Weights, shape (n_in, n_out), and biases of the equivalent plain network: batch norm in evaluation
        and standardization are affine, and folded in.
    loss_, loss_curve_ : float, list of float
        Training loss of the last epoch and of all.
    best_loss_ : float or None
        Least training loss; None with early stopping.
    validation_scores_, best_validation_score_ : list of float, float, or None
        The @score@ of the validation data after each epoch, or what `early_stopping` names, and the best
        value of the last call; None without early stopping.  The epoch that was taken is
        `history_.best_epoch`.  Where training goes on, epochs that were not scored, or by another score,
        have nan.
    n_iter_, t_ : int
        Epochs of the last training, those before an interruption included from which a checkpoint went on;
        and training samples seen in all."""


def documented(**values: str) -> Callable[[type], type]:
    """Put the text that the classes share into their docstrings, with their own defaults."""

    def fill(cls: type) -> type:
        text = cls.__doc__ or ""  # python -OO has none
        for name, part in (("parameters", _PARAMETERS), ("dtype", _DTYPE), ("attributes", _ATTRIBUTES)):
            text = text.replace(f"<{name}>", part)
        for name, value in values.items():
            text = text.replace(f"@{name}@", value)
        cls.__doc__ = text
        return cls

    return fill


class Network(BaseEstimator):
    """What the classifier and the regressor have in common."""

    hidden_layer_sizes: Any
    activation: Any
    norm: Any
    n_estimators: Any
    encoding: Any
    bins: Any
    solver: Any
    alpha: Any
    weight_decay: Any
    batch_size: Any
    learning_rate: Any
    learning_rate_init: Any
    power_t: Any
    max_iter: Any
    shuffle: Any
    random_state: Any
    tol: Any
    n_iter_no_change: Any
    verbose: Any
    warm_start: Any
    momentum: Any
    nesterovs_momentum: Any
    beta_1: Any
    beta_2: Any
    epsilon: Any
    clip_norm: Any
    early_stopping: Any
    validation_fraction: Any
    metrics: Any
    callbacks: Any
    decay: Any
    dropout: Any
    init: Any
    standardize: Any
    weighted_statistics: Any
    loss: Any
    dtype: Any

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
        "decay",
        "dropout",
        "init",
        "standardize",
        "weighted_statistics",
        "loss",
        "dtype",
    )

    network_: FNN
    networks_: list[FNN]
    history_: History
    n_features_in_: int
    loss_curve_: list[float]
    best_loss_: float | None
    best_validation_score_: float | None
    validation_scores_: list[float] | None
    _scored_by: str

    def _keep(self, arguments: dict[str, Any]) -> None:
        """Store the constructor's arguments, unchecked, as scikit-learn wants it."""
        for name, value in arguments.items():
            if name != "self":
                setattr(self, name, value)

    # What the classifier and the regressor do in their own ways.

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
            _check.choice("activation", self.activation, tuple(_ACTIVATIONS))
        elif not isinstance(self.activation, Activation):
            _sequence("activation", self.activation)
        if not isinstance(self.weight_decay, str) or self.weight_decay != "auto":
            _check.number("weight_decay", self.weight_decay, least=0)
        if not isinstance(self.learning_rate_init, str) or self.learning_rate_init != "auto":
            _check.number("learning_rate_init", self.learning_rate_init, above=0)
        if not isinstance(self.batch_size, str) or self.batch_size != "auto":
            _check.integer("batch_size", self.batch_size, least=1)
        if not (isinstance(self.learning_rate, Schedule) or callable(self.learning_rate)):
            names = (*schedules.NAMED, "invscaling", "adaptive")
            _check.choice("learning_rate", self.learning_rate, names)
        _check.integer("max_iter", self.max_iter, least=1)
        _check.integer("n_estimators", self.n_estimators, least=1)
        _check.integer("bins", self.bins, least=2)
        if not isinstance(self.n_iter_no_change, float) or self.n_iter_no_change != math.inf:
            _check.integer("n_iter_no_change", self.n_iter_no_change, least=1)
        if not isinstance(self.verbose, (bool, np.bool_)):
            _check.integer("verbose", self.verbose, least=0)
        if self.clip_norm is not None:
            _check.number("clip_norm", self.clip_norm, above=0)
        if not isinstance(self.early_stopping, (str, EarlyStopping)):
            _check.flag("early_stopping", self.early_stopping)
        _sequence("metrics", self.metrics)
        if not all(callable(callback) for callback in _sequence("callbacks", self.callbacks)):
            raise TypeError("callbacks must be a sequence of functions of (net, history)")
        self._dropout(0)
        if not isinstance(self.loss, Loss):
            _check.choice("loss", self.loss, self._losses)
        if not isinstance(self.dtype, str) or self.dtype != "auto":
            _check.float_dtype("dtype", self.dtype)

    def _learn_targets(self, y: Array, classes: Any) -> None:
        """Take note of what the targets are, in the first call."""
        raise NotImplementedError

    def _targets(self, y: Array) -> Array:
        """Check targets and turn them into those of the network."""
        raise NotImplementedError

    def _output(self) -> dict[str, Any]:
        """Return what the targets determine: outputs, out_activation, and options of the network."""
        raise NotImplementedError

    def _names(self) -> Array | None:
        """Return what the network's classes are called, if it has some that exclude each other."""
        return None

    def _shares(self, y: Array, sample_weight: Array | None, incremental: bool) -> Array | None:
        """Return what the classes of the samples bring to their weights."""
        return None

    # ------------------------------------------------------------------------------------------
    # Training
    # ------------------------------------------------------------------------------------------

    def fit(
        self: _Self,
        X: Any,
        y: Any,
        sample_weight: npt.ArrayLike | None = None,
        *,
        validation_data: tuple[Any, ...] | None = None,
        checkpoint: Any = None,
    ) -> _Self:
        """Train, from new initial weights unless `warm_start`.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Training data, of any real type; arrays are read where they lie.  Also a file, folder or dataset
            that is read in row groups, as for `FNN.fit`; targets and weights of its rows are in memory.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets; for a file or dataset the name of their column, or of several.
        sample_weight : array-like of shape (n_samples,), optional
            Weights, not negative.  They reach the loss and the standardization, and with
            `weighted_statistics` batch norm too: then an integer weight is the same as a repeated sample.
        validation_data : tuple (X, y) or (X, y, sample_weight), optional
            Measured after each epoch, and used for early stopping in place of a part of the training data.
            Weights of classes count here too.
        checkpoint : path-like, optional
            File from which a training that was killed goes on, see `FNN.fit`.  Where `random_state` is no
            number, that of the file is taken.

        Returns
        -------
        object
            The estimator itself.

        Raises
        ------
        TypeError, ValueError
            If a parameter or the data are not what is described, a parameter that has to stay is another
            where training goes on, or the training diverges.

        Warns
        -----
        ConvergenceWarning
            If `max_iter` epochs were not enough; not for learning rates planned for them.

        Notes
        -----
        All attributes change together, when the training has ended.  Ctrl-C ends it with a warning and the
        epochs done.  Without a whole epoch it raises `KeyboardInterrupt`; then, and after every error, the
        estimator is what it was before.
        """
        self._fit(X, y, sample_weight, validation_data=validation_data, checkpoint=checkpoint)
        return self

    def _fit(self, *data: Any, **options: Any) -> None:
        """Train a copy and take over all that it has become, at once: or nothing, after an error."""
        trained = copy.copy(self)
        warned = trained._fit_in_place(*data, **options)
        self.__dict__ = trained.__dict__
        for message, category in warned:
            warnings.warn(message, category, stacklevel=3)

    def _fit_in_place(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        *,
        incremental: bool = False,
        classes: Any = None,
        validation_data: Any = None,
        checkpoint: Any = None,
    ) -> list[tuple[str, type[Warning]]]:
        self._check_parameters()
        if incremental and self._watched() is not None:
            raise ValueError("partial_fit does not support early_stopping")
        first = not hasattr(self, "network_") or not (self.warm_start or incremental)
        weights = None
        if is_row_groups(X):
            if incremental:
                raise TypeError("partial_fit needs X in memory, got data on disk")
            X, y, weights = self._on_disk("X", X, y, sample_weight, first)
        else:
            X, y = self._data("X", X, "y", y, reset=first)
        if sample_weight is not None and weights is None:
            weights = self._sample_weight("sample_weight", sample_weight, X)
        if first:
            self._learn_targets(y, classes)
        targets = self._targets(y)
        held = None if validation_data is None else self._held_out(validation_data)
        shares, held = self._class_weighted(y, weights, held, incremental)
        combined = products(weights, shares)
        if combined is not None and not combined.any():
            raise ValueError("Sample weights must contain at least one non-zero number.")
        rng = check_random_state(self.random_state)
        # drawn in any case, so that a split below is the same where training goes on
        drawn = int(rng.randint(np.iinfo(np.int32).max))
        seed = drawn if first else self.network_.seed
        begun = None
        if checkpoint is not None:
            begun = checkpoints.begun(checkpoint if self.n_estimators == 1 else numbered(checkpoint, 0))
        if checkpoint is not None and not isinstance(self.random_state, Integral):
            seed = seed if begun is None else begun[0]
            rng = np.random.RandomState(seed % 2**32)
        nets = self._networks_for(X, seed, first)
        if self._watched() is not None and held is None:
            train, test = self._split(targets, combined, rng)
            if isinstance(X, RowGroups):  # they are read in their order
                train, test = np.sort(train), np.sort(test)
            inside = [None if weights is None else weights[rows] for rows in (train, test)]
            held = X[test], y[test], inside[1]
            X, targets, weights = X[train], targets[train], inside[0]
            shares, held = self._class_weighted(y[train], weights, held, incremental)
        if held is not None:
            held = held[0], self._targets(held[1]), held[2]
        done = 0 if first or begun is None else nets[0].epochs_trained - begun[1]
        return self._train(nets, X, targets, weights, shares, held, first, incremental, checkpoint, done)

    def _data(self, name: str, X: Any, target: str, y: Any, *, reset: bool) -> tuple[Any, Array]:
        _check.unmasked(name, X)
        _check.unmasked(target, y)
        X = _check.unboxed_frame(X)
        X, y = validate_data(
            self,
            X,
            y,
            accept_sparse=("csr", "csc"),
            dtype=numeric_dtype(X),
            multi_output=True,
            y_numeric=not is_classifier(self),
            ensure_min_samples=2 if reset and self.norm is not None else 1,
            ensure_all_finite=self._finite(),
            reset=reset,
        )
        if is_sparse(y):
            y = y.toarray()
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        return X.tocsr() if is_sparse(X) else X, y

    def _on_disk(
        self, name: str, X: Any, y: Any, sample_weight: Any, reset: bool
    ) -> tuple[RowGroups, Array, Array | None]:
        """Open a table on disk; its targets and weights are read into memory."""
        known = None if reset else getattr(self, "feature_names_in_", None)
        groups = open_groups(name, X, y, sample_weight, features=None if known is None else list(known))
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
        elif groups.width != self.n_features_in_:
            raise ValueError(f"{name} has {groups.width} features, expected {self.n_features_in_}")
        return groups, column_or_1d(truth) if truth.ndim == 2 and truth.shape[1] == 1 else truth, weights

    def _sample_weight(self, name: str, weights: Any, X: Any) -> Array:
        _check.unmasked(name, weights)
        return np.asarray(_check_sample_weight(weights, X, dtype=np.float64, ensure_non_negative=True))

    def _held_out(self, data: Any) -> tuple[Any, ...]:
        if not isinstance(data, (tuple, list)) or len(data) not in (2, 3):
            raise ValueError("validation_data must be a tuple (X, y) or (X, y, sample_weight).")
        if is_row_groups(data[0]):
            given = data[2] if len(data) == 3 else None
            X, y, weights = self._on_disk("validation_data[0]", data[0], data[1], given, False)
            self._targets(y)
            return X, y, weights
        X, y = self._data("validation_data[0]", data[0], "validation_data[1]", data[1], reset=False)
        weights = None if len(data) == 2 else data[2]
        if weights is not None:
            weights = self._sample_weight("validation_data[2]", weights, X)
        self._targets(y)  # refuses what is not of the kind of the training data
        return X, y, weights

    def _class_weighted(
        self, y: Array, weights: Array | None, held: tuple[Any, ...] | None, incremental: bool
    ) -> tuple[Array | None, tuple[Any, ...] | None]:
        """Return what the classes of the samples bring to their weights, and weigh held-out data by them.

        The held-out data do not determine the weights of the classes.
        """
        both, counted = y, weights
        if held is not None:
            both = np.concatenate([y, held[1]])
            counted = np.concatenate(
                [np.ones(len(y)) if weights is None else weights, np.zeros(len(held[1]))]
            )
        shares = self._shares(both, counted, incremental)
        if shares is None:
            return None, held
        if held is not None:
            held = held[0], held[1], products(held[2], shares[len(y) :])
        return shares[: len(y)], held

    def _networks_for(self, X: Any, seed: int, first: bool) -> list[FNN]:
        """Return new networks, or copies of those that training goes on with."""
        hidden = self._hidden()
        if not first:
            for name, (then, shown) in self._built_with.items():
                if self._resolved(name) != then:
                    now = getattr(self, name)
                    raise ValueError(f"{name} must stay {shown} where training goes on, got {now!r}.")
            return [copy.copy(net) for net in self.networks_]
        options = self._output()
        self.out_activation_ = options.pop("out_activation")
        sizes = [X.shape[1], *hidden, options.pop("outputs")]
        more = np.random.RandomState(seed % 2**32).randint(np.iinfo(np.int32).max, size=self.n_estimators - 1)
        return [
            FNN(
                sizes,
                activation=self._activations(),
                norm=self.norm,
                dropout=self._dropout(len(hidden)),
                standardize=self.standardize,
                encoding=self.encoding,
                bins=self.bins,
                weighted_statistics=self.weighted_statistics,
                decay=self.decay,
                init=self.init,
                dtype=self._dtype_for(X),
                seed=int(own),
                **options,
            )
            for own in (seed, *more)
        ]

    def _hidden(self) -> list[int]:
        """Return the units of each hidden layer."""
        given = self.hidden_layer_sizes
        given = [given] if isinstance(given, Integral) else _sequence("hidden_layer_sizes", given)
        return [_check.integer("hidden_layer_sizes", size, least=1) for size in given]

    def _dropout(self, layers: int) -> list[float]:
        """Return the shares of dropout, where only one is given that of each layer."""
        given = self.dropout.tolist() if isinstance(self.dropout, np.ndarray) else self.dropout
        if isinstance(given, (list, tuple)):
            return [_check.number("dropout", share, least=0, below=1) for share in given]
        return [_check.number("dropout", given, least=0, below=1)] * layers

    def _activations(self) -> Any:
        def ours(one: Any) -> Any:
            return _ACTIVATIONS.get(one, one) if isinstance(one, str) else one

        if isinstance(self.activation, (str, Activation)):
            return ours(self.activation)
        return [ours(one) for one in _sequence("activation", self.activation)]

    def _resolved(self, name: str) -> Any:
        """Return a parameter in a form in which other ways to write the same are equal."""
        value = getattr(self, name)
        if name == "hidden_layer_sizes":
            return self._hidden()
        if name == "activation":
            each = self._activations()
            return each if isinstance(each, list) else [each] * len(self._hidden())
        if name == "dropout":
            return self._dropout(len(self._hidden()))
        if name == "dtype" and not (isinstance(value, str) and value == "auto"):
            return _check.float_dtype(name, value).name
        return value

    def _dtype_for(self, X: Any) -> np.dtype[Any]:
        if isinstance(self.dtype, str) and self.dtype == "auto":
            return np.dtype(np.float32 if np.can_cast(X.dtype, np.float32) else np.float64)
        return _check.float_dtype("dtype", self.dtype)

    def _batch(self, samples: int) -> int:
        if self.batch_size == "auto":
            size = defaults.batch_size(samples)
        else:
            size = int(self.batch_size)
            if size > samples:
                warnings.warn(
                    f"Got batch_size={size}, larger than the {samples} samples. It is going to be clipped.",
                    stacklevel=6,
                )
        size = min(size, samples)
        if self.norm is not None:
            size = max(size, 2 + samples % 2)  # even batches of at least two
        return size

    def _rate(self) -> float:
        """Return the learning rate that the course is relative to."""
        if self.learning_rate_init == "auto":
            return defaults.learning_rate(self.solver, self.norm, self._resolved("activation"))
        return float(self.learning_rate_init)

    def _optimizer(self, samples: int, incremental: bool) -> SGD | AdamW:
        rate, decay = self._rate(), self.weight_decay
        if decay == "auto":
            decay = defaults.weight_decay(
                self.solver,
                self.norm,
                self._resolved("activation"),
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
            patience = _NEVER
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
        return chosen not in ("invscaling", "adaptive") and schedules.resolve(chosen).planned

    def _patience(self) -> int:
        """Return `n_iter_no_change` as an integer."""
        return _NEVER if self.n_iter_no_change == np.inf else int(self.n_iter_no_change)

    def _schedule(
        self, steps: int, samples: int, seen: int, incremental: bool, stopping: EarlyStopping | None
    ) -> Any:
        if self.learning_rate == "invscaling":
            rate, power = self._rate(), float(self.power_t)
            return lambda step: float(rate / (seen + step // steps * samples + 1) ** power)
        if incremental:
            return "constant"
        if self.learning_rate == "adaptive":
            monitor, mode = ("loss", "min") if stopping is None else (stopping.monitor, stopping.mode)
            return Plateau(
                monitor, mode=mode, factor=0.2, patience=self._patience(), min_delta=float(self.tol)
            )
        return self.learning_rate

    def _train(
        self,
        nets: list[FNN],
        X: Any,
        targets: Array,
        weights: Array | None,
        shares: Array | None,
        held: tuple[Any, ...] | None,
        first: bool,
        incremental: bool,
        checkpoint: Any,
        done: int,
    ) -> list[tuple[str, type[Warning]]]:
        net = nets[0]
        combined = Weights(
            len(targets), weights, shares, net.dtype, weighted_statistics=net.weighted_statistics
        )
        samples = combined.used
        total = samples if combined.products is None else float(combined.products.sum())
        by_class: Any = None if shares is None else Shares(shares)
        batch = self._batch(samples)
        steps = math.ceil(samples / batch)
        stopping = None if incremental else self._stopping()
        shown = self._shown()
        measures = [] if incremental else self._measures(net, held, stopping)
        before, seen = net.epochs_trained, 0 if first else self.t_
        for one in nets:
            one.optimizer_state = (
                (one.optimizer_state or {}) if incremental else None
            )  # the optimizer goes on where it was
            if incremental:
                inputs.add_statistics(one, X, combined.of_standardizers)
        adaptive = self.learning_rate == "adaptive" and not incremental

        def after_epoch(trained: FNN, history: History) -> bool:
            if self.verbose and trained is net:
                print(f"Iteration {history.epochs}, loss = {history.loss[-1]:.8f}")
                if shown is not None:
                    print(f"Validation score: {_curve(history, shown)[-1]:f}")
            return adaptive and history.rates[-1] <= _LEAST_RATE

        # of this training, `done` epochs are in the network already
        start = seen - done * samples
        options: dict[str, Any] = {
            "epochs": 1 if incremental else int(self.max_iter),
            "batch_size": batch,
            "optimizer": self._optimizer(samples, incremental),
            "schedule": self._schedule(steps, samples, start, incremental, stopping),
            "sample_weight": weights,
            "class_weight": by_class,
            "clip_norm": self.clip_norm,
            # of the whole weight of a batch, as scikit-learn has it
            "l2": float(self.alpha) * samples / (total * (samples / steps)),
            "validation_data": held,
            "metrics": measures,
            "early_stopping": stopping,
            "checkpoint": checkpoint,
            "shuffle": bool(self.shuffle),
            "progress": False,
            "callbacks": [*([after_epoch] if self.verbose or adaptive else []), *self.callbacks],
        }
        try:
            if len(nets) == 1:
                histories = [net.fit(X, targets, **options)]
            else:
                histories = fit_many(nets, X, targets, **options)
        except DivergenceError as error:
            raise ValueError(f"The {error}.") from error
        if not all(history.epochs for history in histories):  # interrupted in the first one
            raise KeyboardInterrupt
        history = histories[0]
        self._record(nets, history, measures, first, seen + samples * (net.epochs_trained - before))
        if "interrupted" in [one.stopped for one in histories]:
            return [("Training interrupted by user.", UserWarning)]
        if history.stopped or incremental or self._planned():
            return []
        text = (
            f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached and the "
            "optimization hasn't converged yet."
        )
        return [(text, ConvergenceWarning)]

    def _measures(
        self, net: FNN, held: tuple[Any, ...] | None, stopping: EarlyStopping | None
    ) -> list[Measure]:
        """Return the metrics, with what is shown and what decides about the end, if not among them."""
        known = _metrics.suited(net.output, net.sizes[-1])
        names, samples = self._names(), None if held is None else held[0]

        def measured(metric: Any) -> Any:
            if isinstance(metric, str) and metric in known:
                return metric
            if is_scorer(metric):
                return scored(metric, samples, names)
            if callable(metric) or isinstance(metric, _metrics.Metric):
                return _metrics.own(metric, net.output, names)
            return metric  # refused below

        found = [measured(metric) for metric in _sequence("metrics", self.metrics)]
        for followed in (self._shown(), None if stopping is None else stopping.monitor):
            if followed is None or followed in _MEASURED:
                continue
            name = followed.removeprefix("val_")
            if name not in map(_metrics.name_of, found):
                if name not in known and not is_scorer(name):
                    ours = ", ".join(map(repr, dict.fromkeys((*_MEASURED, *known))))
                    raise ValueError(
                        f"early_stopping must watch one of {ours}, one of metrics, or a scorer of "
                        f"scikit-learn, got {followed!r}"
                    )
                found.append(measured(name))
        return _metrics.resolve(found, net.output, net.sizes[-1])

    def _record(
        self, nets: list[FNN], history: History, measures: list[Measure], first: bool, seen: int
    ) -> None:
        """Set the attributes that a training leaves."""
        net = nets[0]
        self.network_, self.networks_ = net, nets
        for one in nets:
            self._name(one)
        if first:
            self._built_with = {
                name: (self._resolved(name), repr(getattr(self, name))) for name in self._lasting
            }
            self.loss_curve_, self.validation_scores_ = [], None
        self.history_ = history
        self.n_outputs_ = net.sizes[-1]
        self.n_layers_ = len(net.sizes)
        self.n_iter_ = history.epochs
        self.t_ = seen
        self.loss_ = history.loss[-1]
        begun = net.epochs_trained - history.epochs  # epochs of the trainings before this one
        self.loss_curve_ = [*self.loss_curve_[:begun], *history.loss]
        self.best_loss_ = min(self.loss_curve_)
        scores, self.validation_scores_, self.best_validation_score_ = self.validation_scores_, None, None
        shown = self._shown()
        if shown is not None:
            self.best_loss_ = None
            if scores is None or self._scored_by != shown:
                scores = [math.nan] * begun
            now = _curve(history, shown)
            self._scored_by, self.validation_scores_ = shown, [*scores[:begun], *now]
            counted = [score for score in now if not math.isnan(score)]
            mode = getattr(self.early_stopping, "mode", "auto")
            best = max if _metrics.direction(shown, mode, [shown], measures) == "max" else min
            self.best_validation_score_ = best(counted, default=None)

    def _name(self, net: FNN) -> None:
        """Tell a network what its columns and classes are called: `FNN.save` keeps that."""
        features = getattr(self, "feature_names_in_", None)
        if features is not None and len(features) == net.sizes[0]:
            names = [str(name) for name in features]
            net.metadata["features"] = names
            if net.encoder is not None:
                net.encoder.feature_names = names
            elif net.standardizer is not None:
                net.standardizer.moments_.feature_names = names
        classes = self._names()
        if classes is not None and len(classes) == max(net.sizes[-1], 2):
            named = classes.tolist()
            plain = all(type(name) in (str, int) for name in named)
            net.metadata["classes"] = named if plain else [str(name) for name in named]

    def _split(
        self, targets: Array, combined: Array | None, rng: np.random.RandomState
    ) -> tuple[Array, Array]:
        """Return the rows to train on and those to hold out, of each class alike where that can be."""
        rows = np.arange(len(targets)) if combined is None else np.flatnonzero(combined)
        count = math.ceil(self.validation_fraction * len(rows))
        if count < 2 or len(rows) - count < (1 if self.norm is None else 2):
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
            )
        spared, labels = rows[:0], None
        if is_classifier(self) and targets.ndim == 1:
            labels = targets[rows]
            members = np.unique(labels, return_counts=True)[1]
            if members.min() < 2 or len(members) > min(count, len(rows) - count):
                # a class that training never sees would make any loss of the held-out part
                order = rng.permutation(len(rows))
                first = order[np.unique(labels[order], return_index=True)[1]]
                if len(rows) - len(first) >= count:
                    spared, rows = rows[first], np.delete(rows, first)
                labels = None
        train, test = train_test_split(rows, random_state=rng, test_size=count, stratify=labels)
        return np.concatenate([train, spared]), test

    # ------------------------------------------------------------------------------------------
    # Results
    # ------------------------------------------------------------------------------------------

    def _samples(self, X: Any) -> Any:
        check_is_fitted(self)
        if is_row_groups(X):
            return inference.table_on_disk(self.network_, X)
        _check.unmasked("X", X)
        X = _check.unboxed_frame(X)
        return validate_data(
            self,
            X,
            accept_sparse=("csr", "csc"),
            dtype=numeric_dtype(X),
            ensure_all_finite=self._finite(),
            reset=False,
        )

    def _finite(self) -> bool | str:
        """Return which numbers scikit-learn's checks let pass: an encoding takes missing ones too."""
        return True if self.encoding is None else "allow-nan"

    def _each(self, of_one: Callable[[FNN, Any], Array], X: Any) -> Array:
        """Return the mean of what each network says of samples."""
        answers = [of_one(net, X) for net in self.networks_]
        return answers[0] if len(answers) == 1 else np.mean(answers, axis=0, dtype=answers[0].dtype)

    @property
    def coefs_(self) -> list[Array]:
        """Weights of the equivalent plain network, float64, (n_in, n_out) each."""
        return self._folded()[0]

    @property
    def intercepts_(self) -> list[Array]:
        """Biases of the equivalent plain network, float64, (n_out,) each."""
        return self._folded()[1]

    def _folded(self) -> tuple[list[Array], list[Array]]:
        check_is_fitted(self)
        layers = folded(self.network_, standardizers=True)
        return [weight.T for weight, _ in layers], [bias for _, bias in layers]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.allow_nan = self.encoding is not None
        return tags


def _sequence(name: str, value: Any) -> Sequence[Any]:
    """Return `value` if it is a sequence, and no text; arrays as lists."""
    given = value.tolist() if isinstance(value, np.ndarray) else value
    if isinstance(given, (str, bytes)) or not isinstance(given, Sequence):
        raise TypeError(f"{name} must be a sequence, got {value!r}")
    return given


def _curve(history: History, name: str) -> list[float]:
    """Return one of the lists of a history, or one of its metrics."""
    found = getattr(history, name, None)
    if found is None:
        found = history.metrics[name.removeprefix("val_")]
    return list(found)
