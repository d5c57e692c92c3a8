"""Checked data of a training: its samples, and the validation data."""

from __future__ import annotations

import dataclasses
from typing import TypeAlias

import numpy.typing as npt

from nbnorm._types import Array, CheckedTable, Table
from nbnorm.data.row_groups import OnDisk
from nbnorm.model import checkpoints
from nbnorm.model.metrics import Measure
from nbnorm.model.sample_weights import Weights

# Validation data as `FNN.fit` is given them: (X, y) or (X, y, weights).
ValidationTuple: TypeAlias = (
    tuple[Table | OnDisk, npt.ArrayLike] | tuple[Table | OnDisk, npt.ArrayLike, npt.ArrayLike | None]
)


class Samples:
    """Checked training data: which rows are used, in how many steps.

    The batches of an epoch are even: `steps` batches, as few as `batch_size` allows, of `least` samples or
    one more.  `batch` is the size of the largest.

    Parameters
    ----------
    x : ndarray, shape (n_samples, n_features)
    truth : ndarray
        Classes or targets in the user's units.
    weights : Weights
    batch_size : int
    names : list of str or None
        Names of the features.
    """

    def __init__(
        self, x: CheckedTable, truth: Array, weights: Weights, batch_size: int, names: list[str] | None
    ) -> None:
        self.x, self.truth, self.weights, self.names = x, truth, weights, names
        self.used = weights.used
        self.steps = -(-self.used // batch_size)
        self.least, self.batch = self.used // self.steps, -(-self.used // self.steps)

    def describe(self) -> dict[str, str]:
        """Return what a checkpoint knows the data by."""
        weights = [
            values for values in (self.weights.products, self.weights.of_standardizers) if values is not None
        ]
        return {
            "X": checkpoints.describe(self.x),
            "y": checkpoints.digest([self.truth]),
            "sample_weight or class_weight": checkpoints.digest(weights) if weights else "None",
        }


@dataclasses.dataclass
class ValidationData:
    """Validation data: table, truth in the user's units, weights, and what is measured on them."""

    x: CheckedTable
    truth: Array
    weights: Array | None
    metrics: list[Measure]

    def describe(self) -> str:
        """Return what a checkpoint knows the data by."""
        answers = [self.truth] if self.weights is None else [self.truth, self.weights]
        return f"{checkpoints.describe(self.x)} {checkpoints.digest(answers)}"
