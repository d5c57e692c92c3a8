"""scikit-learn's scorers as metrics of a training."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.metrics import get_scorer, get_scorer_names

from nbnorm._types import Array, CheckedTable
from nbnorm.model import metrics
from nbnorm.model.metrics import Measure, Outcome


def is_scorer(metric: object) -> bool:
    """Whether something is the name of a scorer, or a scorer: a function of (estimator, X, y)."""
    if isinstance(metric, str):
        return metric in get_scorer_names()
    return callable(metric) and metrics.parameters_of(metric)[:2] == ["estimator", "X"]


def scored(scorer: str | Callable[..., float], X: CheckedTable, classes: Array | None) -> Measure:
    """Return a scorer as a metric, of which more is better.

    Parameters
    ----------
    scorer : str or callable
    X : array or sparse matrix
        The samples on which it is measured.
    classes : ndarray or None
        What the classes 0, 1, ... are called; None for several labels and for values.
    """
    if scorer == "neg_log_loss":  # scikit-learn's refuses data that lack a class
        loss = metrics.NAMED["log_loss"][0]
        return Measure(scorer, lambda outcome: -loss(outcome), True)
    function = get_scorer(scorer) if isinstance(scorer, str) else scorer
    # made of a function, it has the name of that, and takes weights where that does
    inner = getattr(function, "_score_func", function)
    name = scorer if isinstance(scorer, str) else metrics.name_of(inner)
    weighted = "sample_weight" in metrics.parameters_of(inner)

    def compute(outcome: Outcome) -> float:
        predicted = (_Values if outcome.output == "identity" else _Classes)(outcome, X, classes)
        extra = {"sample_weight": outcome.weights} if weighted and outcome.weights is not None else {}
        return metrics.real(name, function(predicted, X, predicted.truth, **extra))

    return Measure(name, compute, True)


class _Predicted(BaseEstimator):
    """Predictions that are there already, as an estimator that gives them."""

    def __init__(self, outcome: Outcome, X: CheckedTable, classes: Array | None) -> None:
        self.outcome, self.X, self.classes = outcome, X, classes
        decided = metrics.decide(outcome.output, outcome.logits)
        self.truth = metrics.called(classes, outcome.truth.reshape(decided.shape))
        self.decided = metrics.called(classes, decided)

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def _same(self, X: CheckedTable, given: Array) -> Array:
        """Refuse other samples than those that were predicted."""
        if X is not self.X and X.shape != self.X.shape:
            raise ValueError(
                f"a scorer must predict the validation data, of shape {self.X.shape}, got shape {X.shape}"
            )
        return given

    def predict(self, X: CheckedTable) -> Array:
        """Return the classes or values."""
        return self._same(X, self.decided)


class _Classes(ClassifierMixin, _Predicted):
    """Predicted classes or labels."""

    @property
    def classes_(self) -> Array:
        return np.arange(self.truth.shape[1]) if self.classes is None else self.classes

    def predict_proba(self, X: CheckedTable) -> Array:
        """Return the probabilities of all classes, or of all labels."""
        p = metrics.probabilities(self.outcome.output, self.outcome.logits)
        return self._same(X, np.hstack([1.0 - p, p]) if p.shape[1] == 1 and self.classes is not None else p)

    def decision_function(self, X: CheckedTable) -> Array:
        """Return the logits; for two classes those of the second."""
        z = self.outcome.logits
        return self._same(X, z[:, 0] if z.shape[1] == 1 and self.classes is not None else z)


class _Values(RegressorMixin, _Predicted):
    """Predicted values."""
