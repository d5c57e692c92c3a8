"""Figures of merit of a network's predictions, and the watch that early stopping keeps on them."""

from __future__ import annotations

import functools
import inspect
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from nbnorm import _check
from nbnorm.functions.loss_options import BinaryCrossEntropy, CrossEntropy, Loss

Array = npt.NDArray[Any]


# ----------------------------------------------------------------------------------------------
# From logits to predictions
# ----------------------------------------------------------------------------------------------


# Samples whose probabilities are computed together: few enough for the cache.
_TOGETHER = 2048


def probabilities(output: str, logits: Array, dtype: npt.DTypeLike = np.float64) -> Array:
    """Return the probabilities of softmax or sigmoid logits, computed in float64, (n_samples, n_out)."""
    p = np.empty(logits.shape, dtype)
    for start in range(0, len(logits), _TOGETHER):
        rows = slice(start, start + _TOGETHER)
        z = logits[rows].T.astype(np.float64, order="C")  # a maximum over many short rows is slow
        if output == "sigmoid":
            e = np.exp(-np.abs(z))
            p[rows] = (np.where(z < 0, e, 1.0) / (1.0 + e)).T
        else:
            e = np.exp(z - z.max(axis=0))
            p[rows] = (e / e.sum(axis=0)).T
    return p


def decide(output: str, logits: Array) -> Array:
    """Return what `FNN.predict` makes of logits: classes, zeros and ones, or the values themselves."""
    if output == "softmax":
        return np.asarray(logits.argmax(axis=1))
    z = (logits > 0).astype(np.int64) if output == "sigmoid" else logits
    return np.asarray(z[:, 0] if z.shape[1] == 1 else z)


@dataclass
class Outcome:
    """Predictions beside the truth, all that a metric may need.

    Attributes
    ----------
    output : str
        Kind of the network's output.
    logits : ndarray, shape (n_samples, n_out)
        For the identity output the predictions, in the user's units.
    truth : ndarray
        Classes, shape (n_samples,), or targets, shape (n_samples, n_out).
    weights : ndarray or None
        Weight of each sample, float64.
    """

    output: str
    logits: Array
    truth: Array
    weights: Array | None

    def mean(self, values: Array) -> float:
        """Return the weighted mean over the samples."""
        return float(np.average(values, weights=self.weights))

    def total(self) -> Array:
        """Return the weights, ones where there are none."""
        return np.ones(len(self.logits)) if self.weights is None else self.weights

    def problems(self) -> list[tuple[Array, Array, Array]]:
        """Return the yes/no questions that the outputs answer: truth, decision and score of each sample.

        Two classes are one question, about class 1; more classes and sigmoid outputs one question each.
        The score of one of more classes is its probability, otherwise the logit.
        """
        z = self.logits.astype(np.float64)
        if self.output == "sigmoid":
            truth = self.truth.reshape(z.shape) > 0.5
            return [(truth[:, o], z[:, o] > 0.0, z[:, o]) for o in range(z.shape[1])]
        chosen = self.logits.argmax(axis=1)
        if z.shape[1] == 2:
            return [(self.truth == 1, chosen == 1, z[:, 1] - z[:, 0])]
        p = probabilities(self.output, self.logits)
        return [(self.truth == kind, chosen == kind, p[:, kind]) for kind in range(z.shape[1])]

    def errors(self) -> Array:
        """Return truth minus prediction, float64, shape (n_samples, n_targets).

        Where several outputs have one target, its quantiles, the middle one is the prediction.
        """
        samples = len(self.logits)
        truth = self.truth.reshape(samples, -1).astype(np.float64)
        predicted = self.logits.reshape(*truth.shape, -1)
        return np.asarray(truth - predicted[:, :, (predicted.shape[2] - 1) // 2])


def right(outcome: Outcome) -> Array:
    """Return for each sample whether all of its outputs are right."""
    if outcome.output == "softmax":
        return np.asarray(outcome.logits.argmax(axis=1) == outcome.truth)
    targets = outcome.truth.reshape(outcome.logits.shape)
    return np.asarray(((outcome.logits > 0.0) == (targets > 0.5)).all(axis=1))


# ----------------------------------------------------------------------------------------------
# The metrics with a name
# ----------------------------------------------------------------------------------------------


def _accuracy(outcome: Outcome) -> float:
    return outcome.mean(right(outcome).astype(np.float64))


def _balanced_accuracy(outcome: Outcome) -> float:
    """Mean over the classes of the fraction of their samples that is right."""
    classes = outcome.truth if outcome.output == "softmax" else (outcome.truth.reshape(-1) > 0.5)
    hits = right(outcome).astype(np.float64)
    weights = outcome.total()
    recalls = [
        np.average(hits[members], weights=weights[members])
        for members in (classes == kind for kind in np.unique(classes))
        if weights[members].sum() > 0
    ]
    return float(np.mean(recalls))


def _log_loss(outcome: Outcome) -> float:
    """Mean negative logarithm of the probability given to the truth, summed over sigmoid outputs."""
    loss: Loss = CrossEntropy() if outcome.output == "softmax" else BinaryCrossEntropy()
    return loss.value(outcome.logits, outcome.truth, outcome.weights)


def _mean_squared_error(outcome: Outcome) -> float:
    return outcome.mean((outcome.errors() ** 2).mean(axis=1))


def _root_mean_squared_error(outcome: Outcome) -> float:
    return math.sqrt(_mean_squared_error(outcome))


def _mean_absolute_error(outcome: Outcome) -> float:
    return outcome.mean(np.abs(outcome.errors()).mean(axis=1))


def _r2(outcome: Outcome) -> float:
    """1 - sum w (y - p)^2 / sum w (y - mean)^2, averaged over outputs.

    Of a constant target it is 1 where the prediction is exact, otherwise 0, as in scikit-learn: one such
    output says nothing about the others.
    """
    weights = outcome.total()
    truth = outcome.truth.reshape(len(outcome.logits), -1).astype(np.float64)
    mean = np.average(truth, axis=0, weights=weights)
    total, rest = weights @ (truth - mean) ** 2, weights @ outcome.errors() ** 2
    # rounding of the mean would give a constant a variance
    counted = truth[weights > 0]
    return float(explained(rest, total, (counted != counted[0]).any(axis=0)).mean())


def explained(rest: Array, total: Array, varies: Array) -> Array:
    """Return R2 of outputs from the sums of squared errors and deviations, and whether a target varies."""
    return 1.0 - np.divide(rest, total, out=(rest > 0.0).astype(np.float64), where=varies)


def _mean_over_problems(outcome: Outcome, value: Callable[[Array, Array, Array, Array], float]) -> float:
    """Return the mean of a value over the questions in which it is defined, nan where there is none."""
    weights = outcome.total()
    values = [value(*problem, weights) for problem in outcome.problems()]
    defined = [one for one in values if not math.isnan(one)]
    return float(np.mean(defined)) if defined else math.nan


def levels(truth: Array, score: Array, weights: Array) -> tuple[Array, Array, Array]:
    """Return each score, its sign changed, and the weight of its positive and of its negative samples."""
    value, level = np.unique(-score, return_inverse=True)
    return value, np.bincount(level, weights * truth), np.bincount(level, weights * ~truth)


def pairs_won(positive: Array, negative: Array) -> float:
    """Return the weight of the pairs whose positive sample has the higher score; ties count half."""
    return float(positive @ (negative.sum() - np.cumsum(negative) + 0.5 * negative))


def _area(truth: Array, _: Array, score: Array, weights: Array) -> float:
    """Probability that a positive sample has a higher score than a negative one; ties count half."""
    _, positive, negative = levels(truth, score, weights)
    pairs = positive.sum() * negative.sum()
    return float(pairs_won(positive, negative) / pairs) if pairs > 0.0 else math.nan


def _precision_over_recall(truth: Array, _: Array, score: Array, weights: Array) -> float:
    """Sum over the thresholds of the precision times the recall gained; equal scores are one threshold."""
    _, positive, negative = levels(truth, score, weights)
    if not positive.sum() > 0.0:
        return math.nan
    hits, chosen = np.cumsum(positive), np.cumsum(positive + negative)
    counted = positive > 0.0
    return float(positive[counted] @ (hits[counted] / chosen[counted]) / positive.sum())


def _hits(truth: Array, decision: Array, weights: Array) -> tuple[float, float, float]:
    """Return the weight of the true positives, of what is decided to be positive, and of what is."""
    both, decided, true = (float(weights[rows].sum()) for rows in (truth & decision, decision, truth))
    return both, decided, true


def _ratio(part: float, whole: float, counted: float) -> float:
    """Return part / whole: 0 where only the whole is 0, nan where nothing is counted."""
    if counted == 0.0:
        return math.nan
    return part / whole if whole > 0.0 else 0.0


def _f1_of_one(truth: Array, decision: Array, _: Array, weights: Array) -> float:
    both, decided, true = _hits(truth, decision, weights)
    return _ratio(2.0 * both, decided + true, decided + true)


def _precision_of_one(truth: Array, decision: Array, _: Array, weights: Array) -> float:
    both, decided, true = _hits(truth, decision, weights)
    return _ratio(both, decided, decided + true)


def _recall_of_one(truth: Array, decision: Array, _: Array, weights: Array) -> float:
    both, decided, true = _hits(truth, decision, weights)
    return _ratio(both, true, decided + true)


def _macro(value: Callable[[Array, Array, Array, Array], float]) -> Callable[[Outcome], float]:
    return functools.partial(_mean_over_problems, value=value)


# Each metric with a name: what computes it, the outputs that it suits, and whether more is better.
_CLASSES, _VALUES = ("softmax", "sigmoid"), ("identity",)
MetricName: TypeAlias = Literal[
    "accuracy", "balanced_accuracy", "log_loss", "roc_auc", "average_precision", "f1", "precision", "recall",
    "r2", "mean_squared_error", "root_mean_squared_error", "mean_absolute_error", "mse", "rmse", "mae",
]  # fmt: skip
NAMED: dict[MetricName, tuple[Callable[[Outcome], float], tuple[str, ...], bool]] = {
    "accuracy": (_accuracy, _CLASSES, True),
    "balanced_accuracy": (_balanced_accuracy, _CLASSES, True),
    "log_loss": (_log_loss, _CLASSES, False),
    "roc_auc": (_macro(_area), _CLASSES, True),
    "average_precision": (_macro(_precision_over_recall), _CLASSES, True),
    "f1": (_macro(_f1_of_one), _CLASSES, True),
    "precision": (_macro(_precision_of_one), _CLASSES, True),
    "recall": (_macro(_recall_of_one), _CLASSES, True),
    "r2": (_r2, _VALUES, True),
    "mean_squared_error": (_mean_squared_error, _VALUES, False),
    "root_mean_squared_error": (_root_mean_squared_error, _VALUES, False),
    "mean_absolute_error": (_mean_absolute_error, _VALUES, False),
    "mse": (_mean_squared_error, _VALUES, False),
    "rmse": (_root_mean_squared_error, _VALUES, False),
    "mae": (_mean_absolute_error, _VALUES, False),
}

# Whether less or more of a value is better; "auto" where that is known of it.
Direction: TypeAlias = Literal["min", "max"]
Mode: TypeAlias = Literal["auto", "min", "max"]

Wants: TypeAlias = Literal["predictions", "probabilities", "logits"]
_WANTS: tuple[Wants, ...] = ("predictions", "probabilities", "logits")

# What the second parameter of a metric is called where it takes no predictions.
_NAMES_OF_WANTED: dict[Wants, str] = {"probabilities": "prob|score", "logits": "logit|decision"}


@dataclass(frozen=True)
class Metric:
    """A function of one's own as a metric, with a name and what it has to know.

    Parameters
    ----------
    function : callable
        Takes (y_true, prediction) and returns a number; ``sample_weight=`` too, where there are weights
        and it has such a parameter.
    name : str, optional
        Name in the history and for `EarlyStopping` and `Plateau`; by default the function's ``__name__``,
        or the name of its type for objects and partial functions, which have none.
    wants : {"predictions", "probabilities", "logits"}, optional
        What it is given beside the truth: what `FNN.predict` returns, what `FNN.predict_proba` returns, or
        logits, for two classes those of class 1 alone, shape (n_samples,).  By default the name of its
        second parameter says it: probabilities where it has "prob" or "score" in it, as in ``y_score`` and
        ``y_proba``; logits where it has "logit" or "decision" in it; otherwise predictions.
    mode : {"min", "max"}, optional
        Whether less or more is better.  By default it is known only of the functions of
        ``sklearn.metrics`` whose names end with "_score", "_loss", "_error" or "_deviance".

    Raises
    ------
    TypeError, ValueError
        If an option is of the wrong kind.

    Examples
    --------
    >>> from nbnorm import FNN, Metric, load_digits
    >>> X, y = load_digits()
    >>> def brier(truth, p):
    ...     return ((p - truth) ** 2).mean()
    >>> metric = Metric(brier, wants="probabilities", mode="min")
    >>> metric
    Metric(brier, wants='probabilities', mode='min')
    >>> net = FNN([64, 16, 1], output="sigmoid", seed=0)
    >>> history = net.fit(X, y == 8, epochs=2, validation_data=(X, y == 8), metrics=[metric])
    >>> 0.0 < history.metrics["brier"][-1] < 0.1
    True
    """

    function: Callable[..., float]
    name: str | None = None
    wants: Wants | None = None
    mode: Direction | None = None

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(f"function must be callable, got {type(self.function).__name__}")
        if self.name is not None and (not isinstance(self.name, str) or not self.name):
            raise TypeError(f"name must be a text that is not empty, got {self.name!r}")
        _check.choice("wants", self.wants, (*_WANTS, None))
        _check.choice("mode", self.mode, ("min", "max", None))

    def __repr__(self) -> str:
        """Show the name of the function, and the options that are given."""
        options = {"name": self.name, "wants": self.wants, "mode": self.mode}
        given = [f"{option}={value!r}" for option, value in options.items() if value is not None]
        return f"Metric({', '.join([name_of(self.function), *given])})"


# A metric as `FNN.fit` is given it.
MetricLike: TypeAlias = MetricName | Metric | Callable[..., float]


@dataclass(frozen=True)
class Measure:
    """What `fit` measures: a name, what computes it, and whether more is better, where that is known."""

    name: str
    function: Callable[[Outcome], float]
    larger: bool | None = None

    def __call__(self, outcome: Outcome) -> float:
        """Return the metric of an outcome."""
        return real(self.name, self.function(outcome))


def shifted(measure: Measure, shift: Array) -> Measure:
    """Return the same measure of predictions to whose logits something is added."""

    def function(outcome: Outcome) -> float:
        return measure.function(replace(outcome, logits=outcome.logits + shift))

    return replace(measure, function=function)


def real(name: str, value: object) -> float:
    """Return what a metric gave as a float; refuse what is no real number."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, (bool, np.bool_, complex, np.complexfloating)) or not isinstance(
        value, (int, float, np.number)
    ):
        raise TypeError(f"metric {name} must return a real number, got {type(value).__name__}")
    return float(value)


def name_of(metric: str | Metric | Measure | Callable[..., float]) -> str:
    """Return the name by which a metric is known everywhere: in the history, to a monitor, in a file."""
    if isinstance(metric, str):
        return metric
    if isinstance(metric, (Metric, Measure)) and metric.name is not None:
        return metric.name
    function = metric.function if isinstance(metric, Metric) else metric
    return str(getattr(function, "__name__", type(function).__name__))


def parameters_of(function: Callable[..., object]) -> list[str]:
    """Return the names of a function's parameters; none where it does not tell, as some compiled ones."""
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return []


def _wanted(function: Callable[..., object], parameters: Sequence[str]) -> Wants:
    """Return what a function takes beside the truth, by the name of its second parameter."""
    if "log_loss" in _name_in_scikit_learn(function):  # whose parameter was y_pred before 1.9
        return "probabilities"
    second = parameters[1] if len(parameters) > 1 else ""
    for kind, names in _NAMES_OF_WANTED.items():
        if re.search(names, second, re.IGNORECASE):
            return kind
    return "predictions"


def _name_in_scikit_learn(function: Callable[..., object]) -> str:
    """Return the name of a metric of scikit-learn, also of a partial one, or an empty text."""
    inner = function.func if isinstance(function, functools.partial) else function
    ours = not str(getattr(inner, "__module__", "")).startswith("sklearn.metrics")
    return "" if ours else str(getattr(inner, "__name__", ""))


def _better(function: Callable[..., object]) -> bool | None:
    """Return whether more is better, which the names of scikit-learn's metrics tell."""
    name = _name_in_scikit_learn(function)
    if name.endswith("_score"):
        return True
    return False if name.endswith(("_loss", "_error", "_deviance")) else None


def _probabilities_or_logits(outcome: Outcome, wants: str) -> Array:
    """Return them for all classes; for two classes, or one output, those of class 1 alone."""
    z = outcome.logits
    if wants == "probabilities":
        z = probabilities(outcome.output, z)
    elif outcome.output == "softmax" and z.shape[1] == 2:
        z = z - z[:, :1]
    alone = z.shape[1] == 1 or (outcome.output == "softmax" and z.shape[1] == 2)
    return np.asarray(z[:, -1] if alone else z)


def called(classes: Array | None, codes: Array) -> Array:
    """Return the names of classes; for a single class, whatever a network with two says."""
    if classes is None:
        return codes
    return np.asarray(classes[np.minimum(codes.astype(np.int64), len(classes) - 1)])


def own(metric: Metric | Callable[..., float], output: str, classes: Array | None = None) -> Measure:
    """Return what measures a function (y_true, prediction), weighted if it takes `sample_weight`.

    Parameters
    ----------
    metric : callable or Metric
    output : str
        Kind of the network's output.
    classes : ndarray, optional
        What the classes 0, 1, ... are called in what the function is given.
    """
    options = metric if isinstance(metric, Metric) else Metric(metric)
    function, name = options.function, name_of(metric)
    parameters = parameters_of(function)
    wants = options.wants
    if output == "identity":
        if wants in ("probabilities", "logits"):
            raise ValueError(f"metric {name} wants {wants}, which the identity output has not")
        wants = "predictions"
    elif wants is None:
        wants = _wanted(function, parameters)
    weighted = "sample_weight" in parameters

    def compute(outcome: Outcome) -> float:
        decided = decide(outcome.output, outcome.logits)
        truth = called(classes, outcome.truth.reshape(decided.shape))
        given = (
            called(classes, decided) if wants == "predictions" else _probabilities_or_logits(outcome, wants)
        )
        extra = {"sample_weight": outcome.weights} if weighted and outcome.weights is not None else {}
        return real(name, function(truth, given, **extra))

    larger = _better(function) if options.mode is None else options.mode == "max"
    return Measure(name, compute, larger)


def suited(output: str, outputs: int) -> list[MetricName]:
    """Return the names of the metrics that suit an output."""
    names = [name for name, (_, kinds, _) in NAMED.items() if output in kinds]
    if output == "sigmoid" and outputs > 1:
        names.remove("balanced_accuracy")
    return names


def named(name: MetricName) -> Measure:
    """Return the metric of a known name."""
    function, _, larger = NAMED[name]
    return Measure(name, function, larger)


def resolve(metrics: Iterable[MetricLike | Measure], output: str, outputs: int) -> list[Measure]:
    """Return the metrics that names and functions stand for.

    Parameters
    ----------
    metrics : iterable of str, callables, Metric and Measure
    output : str
        Kind of the network's output, and how many it has.
    outputs : int

    Returns
    -------
    list of Measure

    Raises
    ------
    TypeError, ValueError
        If something is neither, is unknown, or does not suit the output, or a name comes twice.
    """
    if isinstance(metrics, (str, bytes)) or not isinstance(metrics, Iterable):
        raise TypeError(f"metrics must be a sequence of names and functions, got {type(metrics).__name__}")
    found: list[Measure] = []
    for at, metric in enumerate(metrics):
        if isinstance(metric, Measure):
            found.append(metric)
        elif isinstance(metric, Metric) or callable(metric):
            found.append(own(metric, output))
        else:
            found.append(named(_check.choice(f"metrics[{at}]", metric, suited(output, outputs))))
    names = [metric.name for metric in found]
    if len(set(names)) < len(names):
        raise ValueError(
            f"metrics must have different names, got {names}: "
            "Metric(function, name='...') gives a function another one"
        )
    return found


# ----------------------------------------------------------------------------------------------
# Watching one value over the epochs
# ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Watch:
    """The best of a value that is seen once an epoch, and for how long it has stood still.

    Attributes
    ----------
    larger : bool
        Whether more is better.
    min_delta : float
        The wait ends where a value is better by more than this than the one that ended the last wait.
    best : float or None
        The best value, by however little.
    best_epoch : int
        Its epoch, counted from 1; 0 before the first.
    mark : float or None
        The value that ended the last wait.
    waited : int
        Epochs since then.
    """

    larger: bool
    min_delta: float
    best: float | None = None
    best_epoch: int = 0
    mark: float | None = None
    waited: int = 0

    def after(self, epoch: int, value: float) -> Watch:
        """Return the watch that has seen the value of an epoch; nan and infinity are never better."""
        seen = replace(self, waited=self.waited + 1)
        if self._gain(value, self.best) > 0.0:
            seen = replace(seen, best=value, best_epoch=epoch)
        if self._gain(value, self.mark) > self.min_delta:
            seen = replace(seen, mark=value, waited=0)
        return seen

    def _gain(self, value: float, than: float | None) -> float:
        """Return by how much a value is better."""
        if not math.isfinite(value):
            return -math.inf
        if than is None:
            return math.inf
        return value - than if self.larger else than - value


def watch(name: str, mode: Mode, min_delta: float) -> Watch:
    """Return the watch of a value; mode "auto" knows whether more is better of the package's names."""
    return Watch(_larger(name, mode), min_delta)


# The entries of the history that may be watched.
_HISTORY = {"loss": False, "accuracy": True, "val_loss": False, "val_accuracy": True}


def _larger(name: str, mode: Mode, metrics: Iterable[Measure] = ()) -> bool:
    if mode != "auto":
        return mode == "max"
    known: dict[str, bool | None] = {str(one): larger for one, (_, _, larger) in NAMED.items()}
    known |= {metric.name: metric.larger for metric in metrics}
    larger = _HISTORY[name] if name in _HISTORY else known.get(name.removeprefix("val_"))
    if larger is None:
        raise ValueError(
            f"mode must be 'min' or 'max' for {name!r}, of which the package does not know it, as in "
            f"EarlyStopping({name!r}, mode='min') or Metric(function, mode='min'): 'auto' cannot tell "
            "whether less or more is better"
        )
    return larger


def direction(monitor: str, mode: Mode, known: Sequence[str], metrics: Iterable[Measure] = ()) -> Direction:
    """Return "min" or "max" for a monitored value.

    Refuse the name of a value that this training does not record, and one that needs a mode.
    """
    if monitor not in known:
        raise ValueError(
            f"monitor must be one of {', '.join(map(repr, known))} in this training, got {monitor!r}"
        )
    return "max" if _larger(monitor, mode, metrics) else "min"
