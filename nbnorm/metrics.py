"""Figures of merit of a network's predictions, and the watch that early stopping keeps on them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from nbnorm import _check
from nbnorm.losses import BinaryCrossEntropy, CrossEntropy, Loss

Array = npt.NDArray[Any]


# ----------------------------------------------------------------------------------------------
# From logits to predictions
# ----------------------------------------------------------------------------------------------


def probabilities(output: str, logits: Array) -> Array:
    """Return the probabilities of softmax or sigmoid logits, float64, shape (n_samples, n_out)."""
    z = logits.astype(np.float64)
    if output == "sigmoid":
        e = np.exp(-np.abs(z))
        return np.asarray(np.where(z < 0, e, 1.0) / (1.0 + e))
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def decide(output: str, logits: Array) -> Array:
    """Return what `FNN.predict` makes of logits: classes, zeros and ones, or the values themselves."""
    if output == "softmax":
        return np.asarray(logits.argmax(axis=1))
    z = (logits > 0).astype(np.int64) if output == "sigmoid" else logits
    return np.asarray(z[:, 0] if z.shape[1] == 1 else z)


@dataclass
class Outcome:
    """Predictions beside the truth, all that a metric may ask for.

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

    def errors(self) -> Array:
        """Return truth minus prediction, float64, shape (n_samples, n_out)."""
        return np.asarray(self.truth.reshape(self.logits.shape).astype(np.float64) - self.logits)


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
    """Mean over the classes of the share of their samples that are right."""
    classes = outcome.truth if outcome.output == "softmax" else (outcome.truth.reshape(-1) > 0.5)
    hits = right(outcome).astype(np.float64)
    weights = np.ones(len(hits)) if outcome.weights is None else outcome.weights
    shares = [
        np.average(hits[members], weights=weights[members])
        for members in (classes == kind for kind in np.unique(classes))
        if weights[members].sum() > 0
    ]
    return float(np.mean(shares))


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
    weights = np.ones(len(outcome.logits)) if outcome.weights is None else outcome.weights
    truth = outcome.truth.reshape(outcome.logits.shape).astype(np.float64)
    mean = np.average(truth, axis=0, weights=weights)
    spread, rest = weights @ (truth - mean) ** 2, weights @ outcome.errors() ** 2
    # rounding of the mean would give a constant a spread
    counted = truth[weights > 0]
    varies = (counted != counted[0]).any(axis=0)
    share = np.divide(rest, spread, out=(rest > 0.0).astype(np.float64), where=varies)
    return float((1.0 - share).mean())


# What becomes better by becoming larger, and what by becoming smaller.
_MORE = ("accuracy", "balanced_accuracy", "r2")
_LESS = ("loss", "log_loss", "mean_squared_error", "root_mean_squared_error", "mean_absolute_error")

_CLASSES, _VALUES = ("softmax", "sigmoid"), ("identity",)
NAMED: dict[str, tuple[Callable[[Outcome], float], tuple[str, ...]]] = {
    "accuracy": (_accuracy, _CLASSES),
    "balanced_accuracy": (_balanced_accuracy, _CLASSES),
    "log_loss": (_log_loss, _CLASSES),
    "r2": (_r2, _VALUES),
    "mean_squared_error": (_mean_squared_error, _VALUES),
    "root_mean_squared_error": (_root_mean_squared_error, _VALUES),
    "mean_absolute_error": (_mean_absolute_error, _VALUES),
}


@dataclass(frozen=True)
class Metric:
    """A name and what computes it."""

    name: str
    function: Callable[[Outcome], float]

    def __call__(self, outcome: Outcome) -> float:
        """Return the metric of an outcome."""
        return float(self.function(outcome))


def _users_own(function: Callable[..., Any]) -> Metric:
    """Return the metric of a function (y_true, prediction), weighted if it takes `sample_weight`."""
    name = str(getattr(function, "__name__", type(function).__name__))
    try:
        weighted = "sample_weight" in inspect.signature(function).parameters
    except (TypeError, ValueError):  # some compiled functions have no signature
        weighted = False

    def compute(outcome: Outcome) -> float:
        prediction = decide(outcome.output, outcome.logits)
        truth = outcome.truth.reshape(prediction.shape)
        extra = {"sample_weight": outcome.weights} if weighted and outcome.weights is not None else {}
        value = function(truth, prediction, **extra)
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.number)):
            raise TypeError(f"metric {name} must return a real number, got {type(value).__name__}")
        return float(value)

    return Metric(name, compute)


def resolve(metrics: Any, output: str, outputs: int) -> list[Metric]:
    """Return the metrics that names and functions stand for.

    Parameters
    ----------
    metrics : iterable of str and callables
    output : str
        Kind of the network's output, and how many it has.
    outputs : int

    Returns
    -------
    list of Metric

    Raises
    ------
    TypeError, ValueError
        If something is neither, is unknown, or does not suit the output, or a name comes twice.
    """
    if isinstance(metrics, (str, bytes)) or not isinstance(metrics, Iterable):
        raise TypeError(f"metrics must be a sequence of names and functions, got {type(metrics).__name__}")
    found: list[Metric] = []
    for at, metric in enumerate(metrics):
        if callable(metric):
            found.append(_users_own(metric))
            continue
        suited = [name for name, (_, kinds) in NAMED.items() if output in kinds]
        if output == "sigmoid" and outputs > 1:
            suited.remove("balanced_accuracy")
        name = _check.choice(f"metrics[{at}]", metric, suited)
        found.append(Metric(name, NAMED[name][0]))
    names = [metric.name for metric in found]
    if len(set(names)) < len(names):
        raise ValueError(f"metrics must have different names, got {names}")
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


def watch(name: str, mode: str, min_delta: float) -> Watch:
    """Return the watch of a value; mode "auto" knows whether more is better of the package's names."""
    return Watch(_larger(name, mode), min_delta)


def _larger(name: str, mode: str) -> bool:
    if mode != "auto":
        return mode == "max"
    known = name.removeprefix("val_")
    if known not in (*_MORE, *_LESS):
        raise ValueError(
            f"mode must be 'min' or 'max' for {name!r}, which is no metric of the package, as in "
            f"EarlyStopping({name!r}, mode='min'): 'auto' cannot tell whether less or more is better"
        )
    return known in _MORE


def check_monitor(name: str, mode: str, known: Sequence[str]) -> None:
    """Refuse the name of a value that this training does not record, and one that needs a mode."""
    if name not in known:
        raise ValueError(
            f"monitor must be one of {', '.join(map(repr, known))} in this training, got {name!r}"
        )
    _larger(name, mode)
