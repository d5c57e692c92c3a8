"""What FNNClassifier and FNNRegressor have in common."""

from __future__ import annotations

import copy
import functools
import math
import warnings
from numbers import Integral
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from sklearn.base import is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_is_fitted

from nbnorm import _files
from nbnorm._types import Array, CheckedTable, FloatArray, Table
from nbnorm.data.row_groups import OnDisk, RowGroups, is_row_groups
from nbnorm.estimators.inputs import Inputs
from nbnorm.estimators.parameters import sequence
from nbnorm.estimators.scorers import is_scorer, scored
from nbnorm.model import checkpoints, defaults, inference, inputs
from nbnorm.model import metrics as _metrics
from nbnorm.model.folding import folded
from nbnorm.model.history import DivergenceError, History
from nbnorm.model.many import fit_many, numbered
from nbnorm.model.metrics import Measure
from nbnorm.model.network import FNN
from nbnorm.model.options import Encoding, norm_kind
from nbnorm.model.sample_weights import ClassFactors, Weights, products
from nbnorm.model.samples import ValidationTuple
from nbnorm.model.stopping import EarlyStopping
from nbnorm.statistics.reading import is_sparse

_Self = TypeVar("_Self", bound="Network")

# What `FNN.fit` measures unasked.
_MEASURED = ("loss", "accuracy", "val_loss", "val_accuracy")

# The adaptive learning rate is divided by 5, and ends the training below this.
_LEAST_RATE = 1e-6

# Samples for which bins="auto" is decided by a comparison; a part of fewer says too little.
_LEAST_COMPARED, _MOST_COMPARED = 100, 20_000
# What the loss without bins must be, relative to that with them, to do without; the second after half of the
# epochs, when the two are still nearer to each other.
_CLEARLY, _CLEARLY_HALFWAY = 0.9, 0.92
# With few samples, how many are compared, on how many parts, because one says little, and what the loss
# without dropout must be, relative to that with it, to find little noise.
_LEAST_OF_FEW, _PARTS_OF_FEW, _CLEARLY_OF_FEW = 50, 2, 0.5


class Network(Inputs):
    """What the classifier and the regressor have in common."""

    network_: FNN
    networks_: list[FNN]
    history_: History
    n_features_in_: int
    loss_curve_: list[float]
    best_loss_: float | None
    best_validation_score_: float | None
    validation_scores_: list[float] | None
    _scored_by: str
    _shift: Array | None = None  # what is added to the logits after training
    _learned_biases: list[FloatArray] | None = None  # those of the output layers without it

    def _learn_targets(self, y: Array, classes: npt.ArrayLike | None) -> None:
        """Take note of what the targets are, in the first call."""
        raise NotImplementedError

    def _targets(self, y: Array) -> Array:
        """Check targets and turn them into those of the network."""
        raise NotImplementedError

    def _learn_range(self, y: Array, used: Array | None) -> None:
        """Take note of the range of the targets, where that limits the predictions."""

    def _output(self) -> dict[str, Any]:
        """Return what the targets determine: outputs, out_activation, and options of the network."""
        raise NotImplementedError

    def _names(self) -> Array | None:
        """Return what the network's classes are called, if it has some that exclude each other."""
        return None

    def _class_factors(self, y: Array, sample_weight: Array | None, incremental: bool) -> Array | None:
        """Return what the classes of the samples bring to their weights."""
        return None

    def _logit_shift(self, y: Array, sample_weight: Array | None) -> Array | None:
        """Return what is added to the logits after training, for each output; None for nothing."""
        return None

    # ------------------------------------------------------------------------------------------
    # Training
    # ------------------------------------------------------------------------------------------

    def fit(
        self: _Self,
        X: Table | OnDisk,
        y: npt.ArrayLike,
        sample_weight: npt.ArrayLike | None = None,
        *,
        validation_data: ValidationTuple | None = None,
        checkpoint: _files.PathLike | None = None,
    ) -> _Self:
        """Train, from new initial weights unless `warm_start`.

        Parameters
        ----------
        X : array-like, frame or sparse matrix of shape (n_samples, n_features)
            Training data, of any real type; arrays are read where they lie.  Also a file, folder or dataset
            that is read in row groups, as for `FNN.fit`; targets and weights of its rows are in memory.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets; for a file or dataset the name of their column, or of several.
        sample_weight : array-like of shape (n_samples,), optional
            Weights, not negative.  They reach the loss and the standardization, and with
            `weighted_statistics` batch norm too: then an integer weight is the same as a repeated sample.
        validation_data : tuple (X, y) or (X, y, sample_weight), optional
            Measured after each epoch, and used for early stopping instead of a part of the training data.
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
        X: Table | OnDisk,
        y: npt.ArrayLike,
        sample_weight: npt.ArrayLike | None,
        *,
        incremental: bool = False,
        classes: npt.ArrayLike | None = None,
        validation_data: ValidationTuple | None = None,
        checkpoint: _files.PathLike | None = None,
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
            if sample_weight is not None:
                weights = self._sample_weight("sample_weight", sample_weight, X)
            X, y = self._data("X", X, "y", y, reset=first, weights=weights)
        if first:
            self._learn_targets(y, classes)
        targets = self._targets(y)
        validation = None if validation_data is None else self._validation(validation_data)
        class_factors, validation = self._class_weighted(y, weights, validation, incremental)
        combined = products(weights, class_factors)
        if combined is not None and not combined.any():
            raise ValueError("Sample weights must contain at least one non-zero number.")
        self._learn_range(y, combined)
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
        self._shift = None
        if first:
            self._choose(X, targets, weights, class_factors, seed, incremental=incremental)
        nets = self._networks_for(X, seed, first)
        if self._watched() is not None and validation is None:
            train, test = self._split(targets, combined, rng)
            if isinstance(X, RowGroups):  # they are read in their order
                train, test = np.sort(train), np.sort(test)
            inside = [None if weights is None else weights[rows] for rows in (train, test)]
            validation = X[test], y[test], inside[1]
            X, targets, weights = X[train], targets[train], inside[0]
            class_factors, validation = self._class_weighted(y[train], weights, validation, incremental)
            y = y[train]
        if validation is not None:
            validation = validation[0], self._targets(validation[1]), validation[2]
        done = 0 if first or begun is None else nets[0].epochs_trained - begun[1]
        self._shift = self._logit_shift(y, weights)
        warned = self._train(
            nets, X, targets, weights, class_factors, validation, first, incremental, checkpoint, done
        )
        self._learned_biases = None
        if self._shift is not None:
            biases = [inference.output_bias(net) for net in nets]
            self._learned_biases = [bias.copy() for bias in biases]
            for bias in biases:
                bias[:] = bias + self._shift
        return warned

    def _validation(self, data: tuple[Any, ...]) -> tuple[Any, ...]:
        if not isinstance(data, (tuple, list)) or len(data) not in (2, 3):
            raise ValueError("validation_data must be a tuple (X, y) or (X, y, sample_weight).")
        if is_row_groups(data[0]):
            given = data[2] if len(data) == 3 else None
            groups, y, weights = self._on_disk("validation_data[0]", data[0], data[1], given, False)
            self._targets(y)
            return groups, y, weights
        X, y = self._data("validation_data[0]", data[0], "validation_data[1]", data[1], reset=False)
        weights = None if len(data) == 2 else data[2]
        if weights is not None:
            weights = self._sample_weight("validation_data[2]", weights, X)
        self._targets(y)  # refuses what is not of the kind of the training data
        return X, y, weights

    def _class_weighted(
        self, y: Array, weights: Array | None, validation: tuple[Any, ...] | None, incremental: bool
    ) -> tuple[Array | None, tuple[Any, ...] | None]:
        """Return what the classes of the samples bring to their weights, and weigh validation data by them.

        The validation data do not determine the weights of the classes.
        """
        both, counted = y, weights
        if validation is not None:
            both = np.concatenate([y, validation[1]])
            counted = np.concatenate(
                [np.ones(len(y)) if weights is None else weights, np.zeros(len(validation[1]))]
            )
        class_factors = self._class_factors(both, counted, incremental)
        if class_factors is None:
            return None, validation
        if validation is not None:
            validation = validation[0], validation[1], products(validation[2], class_factors[len(y) :])
        return class_factors[: len(y)], validation

    def _choose(
        self,
        X: CheckedTable | RowGroups,
        targets: Array,
        weights: Array | None,
        class_factors: Array | None,
        seed: int,
        *,
        incremental: bool,
    ) -> None:
        """Set what ``bins="auto"`` and ``dropout="auto"`` stand for.

        Bins bend to what is not linear, and to noise.  With more than a few samples every second network of a
        classifier has fewer of them, and a regressor none if that is clearly better.  With few samples
        networks with bins and without are averaged: with dropout and the first without bins, unless one
        without dropout is better; then the better kind is that of the first, and of all if it is clearly
        better, because then the targets hold little noise.  What is compared are networks that are trained on
        three quarters of the samples and tested on the rest.
        """
        count, rows = self.n_estimators, X.shape[0]
        most = defaults.bins(*X.shape) if self.encoding is not None and self.bins == "auto" else None
        fewer = defaults.fewer_bins(most) if most is not None and is_classifier(self) else most
        self._chosen_bins = [fewer if k % 2 else most for k in range(count)]
        self._dropout_rows = math.inf
        combined = products(weights, class_factors)
        used = len(targets) if combined is None else np.count_nonzero(combined)
        few = defaults.mixed(rows)
        comparable = not incremental and used <= _MOST_COMPARED
        if (is_sparse(X) or isinstance(X, RowGroups)) and not few:
            comparable = False  # to read them again takes longer than to train

        @functools.cache
        def loss(bins: int | None, dropout_rows: float) -> float:
            """Return the loss on a quarter of the samples of a network that is trained on the others."""
            trial = copy.copy(self)
            trial.n_estimators, trial.early_stopping, trial.validation_fraction = 1, False, 0.25
            trial.callbacks, trial.metrics, trial.verbose, trial.progress = (), (), False, False
            trial._chosen_bins, trial._dropout_rows = [bins], dropout_rows
            if not few:
                trial._halve_epochs(3 * int(used) // 4)
            rng = np.random.RandomState(seed % 2**32)
            found = []
            for _ in range(_PARTS_OF_FEW if few else 1):
                train, test = map(np.sort, trial._split(targets, combined, rng))
                inside, own = (None if part is None else part[train] for part in (weights, class_factors))
                nets = trial._networks_for(X, seed, True)
                try:
                    trial._train(nets, X[train], targets[train], inside, own, None, True, False, None, 0)
                    held_out = None if combined is None else combined[test]
                    found.append(inference.loss(nets[0], X[test], targets[test], held_out))
                except ValueError:  # diverged
                    return math.inf
                if trial.history_.stopped == "interrupted":
                    raise KeyboardInterrupt
            return sum(found) / len(found)

        if few:
            layers = len(self._hidden())
            drops = not incremental and self._dropout(layers, rows) != self._dropout(layers)
            with_dropout = rows if drops else math.inf
            better = clearly = comparable and used >= _LEAST_OF_FEW
            if better and (most is not None or drops):
                without, noisy = min(loss(most, math.inf), loss(None, math.inf)), loss(None, with_dropout)
                better, clearly = without < noisy, without < _CLEARLY_OF_FEW * noisy
            if not clearly:
                with_bins_first = better and loss(most, math.inf) < loss(None, math.inf)
                self._chosen_bins = [most if (k % 2 == 0) == with_bins_first else None for k in range(count)]
                self._dropout_rows = math.inf if better else with_dropout
                return
        elif is_classifier(self) or not comparable:
            return
        if most is None:
            return
        limit = _CLEARLY if few else _CLEARLY_HALFWAY
        if (not few and used < _LEAST_COMPARED) or loss(None, math.inf) < limit * loss(most, math.inf):
            self._chosen_bins = [None] * count

    def _networks_for(self, X: CheckedTable | RowGroups, seed: int, first: bool) -> list[FNN]:
        """Return new networks, or copies of those that training goes on with."""
        if not first:
            for name, (then, shown) in self._built_with.items():
                if self._resolved(name) != then:
                    now = getattr(self, name)
                    raise ValueError(f"{name} must stay {shown} where training goes on, got {now!r}.")
            nets = [copy.copy(net) for net in self.networks_]
            for net, bias in zip(nets, self._learned_biases or (), strict=False):
                inference.output_bias(net)[:] = bias
            return nets
        options = self._output()
        encoding: Encoding | None = "piecewise" if self._encodes(X) else None
        self.out_activation_ = options.pop("out_activation")
        outputs = options.pop("outputs")
        more = np.random.RandomState(seed % 2**32).randint(np.iinfo(np.int32).max, size=self.n_estimators - 1)
        return [
            FNN(
                [X.shape[1], *self._hidden(k), outputs],
                activation=self._activations(k),
                norm=self.norm,
                dropout=self._dropout(len(self._hidden(k)), self._dropout_rows),
                standardize=self.standardize,
                encoding=encoding,
                bins=most,
                weighted_statistics=self.weighted_statistics,
                precision=self.precision,
                decay=self.decay,
                init=self.init,
                dtype=self._dtype_for(X),
                seed=int(own),
                **options,
            )
            for k, (own, most) in enumerate(zip((seed, *more), self._bins(), strict=True))
        ]

    def _train(
        self,
        nets: list[FNN],
        X: CheckedTable | RowGroups,
        targets: Array,
        weights: Array | None,
        class_factors: Array | None,
        validation: tuple[Any, ...] | None,
        first: bool,
        incremental: bool,
        checkpoint: _files.PathLike | None,
        done: int,
    ) -> list[tuple[str, type[Warning]]]:
        net = nets[0]
        combined = Weights(
            len(targets), weights, class_factors, net.dtype, weighted_statistics=net.weighted_statistics
        )
        samples = combined.used
        total = samples if combined.products is None else float(combined.products.sum())
        by_class: Any = None if class_factors is None else ClassFactors(class_factors)
        batch = self._batch(samples)
        steps = math.ceil(samples / batch)
        stopping = None if incremental else self._stopping()
        shown = self._shown()
        if first and self._encodes(X) and not isinstance(X, RowGroups):
            weighted = combined.of_standardizers
            encoders = {most: self._encoder_for(X, most, weighted) for most in dict.fromkeys(self._bins())}
            for one in nets:
                inputs.take_learned(one, encoders[one.bins], None, None)
        measures = [] if incremental else self._measures(net, validation, stopping)
        before, seen = net.epochs_trained, 0 if first else self.t_
        for one in nets:
            one.optimizer_state = (
                (one.optimizer_state or {}) if incremental else None
            )  # the optimizer goes on where it was
            if incremental:
                assert not isinstance(X, RowGroups)  # which partial_fit refuses
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
            "epochs": 1 if incremental else self._epochs(steps),
            "batch_size": batch,
            "optimizer": self._optimizer(samples, steps, incremental),
            "schedule": self._schedule(steps, samples, start, incremental, stopping),
            "sample_weight": weights,
            "class_weight": by_class,
            "clip_norm": self.clip_norm,
            # of the whole weight of a batch, as scikit-learn has it
            "l2": float(self.alpha) * samples / (total * (samples / steps)),
            "validation_data": validation,
            "metrics": measures,
            "early_stopping": stopping,
            "checkpoint": checkpoint,
            "shuffle": bool(self.shuffle),
            "progress": self.progress,
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
            f"Stochastic Optimizer: Maximum iterations ({options['epochs']}) reached and the "
            "optimization hasn't converged yet."
        )
        return [(text, ConvergenceWarning)]

    def _measures(
        self, net: FNN, validation: tuple[Any, ...] | None, stopping: EarlyStopping | None
    ) -> list[Measure]:
        """Return the metrics, with what is shown and what decides about the end, if not among them."""
        known = _metrics.suited(net.output, net.sizes[-1])
        names = self._names()
        samples: Any = None if validation is None else validation[0]

        def measured(metric: Any) -> Any:
            if isinstance(metric, str) and metric in known:
                return metric
            if is_scorer(metric):
                return scored(metric, samples, names)
            if callable(metric) or isinstance(metric, _metrics.Metric):
                return _metrics.own(metric, net.output, names)
            return metric  # refused below

        found = [measured(metric) for metric in sequence("metrics", self.metrics)]
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
        resolved = _metrics.resolve(found, net.output, net.sizes[-1])
        return resolved if self._shift is None else [_metrics.shifted(one, self._shift) for one in resolved]

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
            mode: _metrics.Mode = getattr(self.early_stopping, "mode", "auto")
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
        if count < 2 or len(rows) - count < (2 if norm_kind(self.norm) == "batch" else 1):
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

    def _logits(self, X: CheckedTable | RowGroups) -> Array:
        """Return what the output layer of each network gives, (n_networks, n_samples, n_out)."""
        z = np.stack([inference.logits(net, X, checked=True) for net in self.networks_])
        return z.astype(np.result_type(z.dtype, X.dtype), copy=False)

    @property
    def coefs_(self) -> list[FloatArray]:
        """Weights of the equivalent plain network, float64, (n_in, n_out) each."""
        return self._folded()[0]

    @property
    def intercepts_(self) -> list[FloatArray]:
        """Biases of the equivalent plain network, float64, (n_out,) each."""
        return self._folded()[1]

    def _folded(self) -> tuple[list[FloatArray], list[FloatArray]]:
        check_is_fitted(self)
        if self.network_.norm_kind in ("layer", "rms"):
            raise AttributeError(
                "coefs_ and intercepts_ are those of a plain network that is equivalent, and "
                f"norm={self.network_.norm!r} is no affine map: see network_.parameters()"
            )
        layers = folded(self.network_, standardizers=True)
        return [weight.T for weight, _ in layers], [bias for _, bias in layers]

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.allow_nan = self.encoding is not None
        return tags


def _curve(history: History, name: str) -> list[float]:
    """Return one of the lists of a history, or one of its metrics."""
    found = getattr(history, name, None)
    if found is None:
        found = history.metrics[name.removeprefix("val_")]
    return list(found)
