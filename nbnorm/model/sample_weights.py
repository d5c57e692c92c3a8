"""Weights of samples and classes, and what a training uses them for."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from nbnorm import _check
from nbnorm._types import Array

ClassWeight: TypeAlias = Mapping[int, float] | Literal["balanced"]


def class_weights(class_weight: ClassWeight, truth: Array, classes: int, weights: Array | None) -> Array:
    """Return the weight that the class of each sample brings, float64.

    Parameters
    ----------
    class_weight : dict or "balanced"
        "balanced" gives every class that occurs the same total weight, and the samples 1 on average.
    truth : ndarray of int, shape (n_samples,)
        Classes, below `classes`.
    classes : int
        Number of them.
    weights : ndarray or None
        Weights of the samples, by which "balanced" counts them.
    """
    if isinstance(class_weight, str) and class_weight == "balanced":
        counts = np.bincount(truth, weights=weights)
        present = counts > 0
        each = np.zeros(len(counts))
        each[present] = counts.sum() / (np.count_nonzero(present) * counts[present])
        return np.asarray(each[truth])
    if not isinstance(class_weight, Mapping):
        raise TypeError(f'class_weight must be a dict or "balanced", got {class_weight!r}')
    result = np.ones(len(truth))
    for kind, weight in class_weight.items():
        chosen = truth == _check.integer("a class in class_weight", kind, least=0, most=classes - 1)
        result[chosen] = _check.number(f"class_weight[{kind!r}]", weight, least=0.0)
    return result


def balancing_logits(truth: Array, classes: int, weights: Array | None) -> Array:
    """Return what makes classes equally frequent for a network that has learned them as they are.

    A network with probabilities p has, for classes of frequencies q, the logits of p / q if log(q) is taken
    off its own [1]_.  That is what the loss is least for where each class has the same total weight.

    Parameters
    ----------
    truth : ndarray of int, shape (n_samples,)
        Classes, below `classes`.
    classes : int
        Number of them.
    weights : ndarray or None
        Weights of the samples, by which they count.

    Returns
    -------
    ndarray of float64, shape (classes,)
        What is added to the logit of each class: 0 for one that does not occur.

    References
    ----------
    .. [1] A. K. Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, arXiv:2007.07314.

    Examples
    --------
    >>> balancing_logits(np.array([0, 0, 0, 1]), 2, None).round(3)  # log(2 / 3), log(2)
    array([-0.405,  0.693])
    """
    counts = np.bincount(truth, weights, minlength=classes)
    there = counts > 0
    found = np.zeros(classes)
    found[there] = np.log(counts[there].mean()) - np.log(counts[there])
    return found


@dataclasses.dataclass(frozen=True)
class ClassFactors:
    """A `class_weight` that gives the factor of each sample's class, where a dict cannot."""

    values: Array


def used_weights(
    weights: Array | None, dtype: np.dtype[Any]
) -> tuple[Array | None, float, npt.NDArray[np.int64] | None]:
    """Return weights as the engine takes them, their unit, and the rows to use if not all are.

    The unit is the power of two that leaves the largest weight between 1 and 2: no digit changes, and
    products and sums stay within float32 whatever the weights are multiplied by.  Weights below its
    smallest normal number are 0 beside the largest.
    """
    if weights is None:
        return None, 1.0, None
    exponent = math.frexp(weights.max())[1] - 1
    rounded = np.ldexp(weights, -exponent)
    rounded = np.where(rounded < np.finfo(dtype).tiny, 0.0, rounded).astype(dtype)
    return rounded, math.ldexp(1.0, exponent), None if rounded.all() else np.flatnonzero(rounded)


def products(of_samples: Array | None, factors: Array | None) -> Array | None:
    """Return the weights of the samples times the factors of their classes, or None where all are 1."""
    if of_samples is None or factors is None:
        return factors if of_samples is None else of_samples
    with np.errstate(over="ignore"):  # `Weights` refuses it
        return np.asarray(factors * of_samples)


class Weights:
    """Weights of samples and classes, and which of their products a training uses where.

    The loss takes the products.  The statistics of hidden features are those of the mini-batch, and
    weights that depend on the target would tell it to the network through them: they count every row
    once.  The standardizers, whose statistics are those of all data, take the weights of the samples.
    With `weighted_statistics` all three take the products.

    Parameters
    ----------
    n : int
        Number of samples.
    of_samples, factors : ndarray of float64, shape (n,), or None
        Weights of the samples, and the factors of their classes.
    dtype : dtype
        Of the network: what is 0 in it, beside the largest weight, is left out.
    weighted_statistics : bool
    """

    def __init__(
        self,
        n: int,
        of_samples: Array | None,
        factors: Array | None,
        dtype: np.dtype[Any],
        *,
        weighted_statistics: bool,
    ) -> None:
        self.products = products(of_samples, factors)
        if self.products is not None:
            if not self.products.any():
                raise ValueError("sample_weight and class_weight must not be zero for every sample together")
            _check.finite_sum("sample_weight times class_weight", self.products)
        self.rounded, self.unit, self.selected = used_weights(self.products, dtype)
        self.used = n if self.selected is None else len(self.selected)
        self.of_standardizers = self.products if weighted_statistics else of_samples
        if self.selected is not None and not weighted_statistics:
            self.of_standardizers = np.zeros(n)
            self.of_standardizers[self.selected] = 1.0 if of_samples is None else of_samples[self.selected]
