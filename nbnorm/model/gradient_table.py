"""The table of gradient errors: every backward function of the package, and whole networks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from nbnorm.functions import gradcheck
from nbnorm.functions.activations import ActivationName
from nbnorm.functions.gradcheck import Row
from nbnorm.functions.loss_options import (
    AbsoluteError,
    BinaryCrossEntropy,
    CrossEntropy,
    Huber,
    Output,
    Poisson,
    Quantile,
)
from nbnorm.model.network import FNN
from nbnorm.model.options import NORMS, Norm

# Small, because each parameter takes some dozens of evaluations; no size is a multiple of a register tile.
_SIZES = (3, 4, 3, 3)


def table() -> list[Row]:
    """Check every backward function and whole networks, with every option that changes it, in float64.

    The steps of the optimizers stand in the table too, compared with their equations.

    Returns
    -------
    list of Row
        ``(function, option, error)``: largest relative error as `gradcheck` defines it.

    Examples
    --------
    >>> from nbnorm.model.gradient_table import table
    >>> max(row.error for row in table()) < 1e-6  # doctest: +SKIP
    True
    """
    return [*gradcheck.table(), *_network_rows()]


def _network_rows() -> Iterator[Row]:
    rng = np.random.default_rng(2)
    X = rng.normal(size=(9, 3))
    targets: dict[Output, npt.NDArray[Any]] = {
        "softmax": rng.integers(0, 3, 9),
        "sigmoid": rng.integers(0, 2, (9, 3)),
        "identity": rng.normal(size=(9, 3)),
    }
    same: dict[str, Any] = {"dtype": np.float64, "standardize": False}
    for output, y in targets.items():
        # Every activation with one output; one of each kind with the others.
        names: tuple[ActivationName, ...] = (
            get_args(ActivationName) if output == "softmax" else ("tanh", "gelu")
        )
        for activation in names:
            # Layer norm and RMS norm in all placements with one activation of each kind.
            for norm in NORMS if activation in ("tanh", "gelu") else ("after", "before", "layer", None):
                for mode in ("train", "eval"):
                    # with this seed no sample lies on the corner of a relu
                    net = FNN(_SIZES, activation=activation, norm=norm, output=output, seed=4, **same)
                    net.train() if mode == "train" else net.eval()
                    yield Row(
                        "FNN.loss_and_gradients",
                        f"{output}, norm={norm}, {activation}, {mode}",
                        max(net.check_gradients(X, y).values()),
                    )

    weights = np.array([2.0, 1.0, 0.0, 3.0, 1.0, 0.5, 1.0, 1.0, 2.0])
    mixed: tuple[tuple[Output, Any, Norm | None], ...] = (
        *((output, None, norm) for output in targets for norm in NORMS),
        ("softmax", CrossEntropy(label_smoothing=0.1), "after"),
        ("sigmoid", BinaryCrossEntropy(label_smoothing=0.1), "after"),
        ("identity", AbsoluteError(), "after"),
        ("identity", Huber(delta=0.3), "after"),
        ("identity", Poisson(), "after"),
        ("identity", Quantile(levels=(0.2, 0.5, 0.7)), "after"),
    )
    for weighted in (False, True):
        ending = "sample_weight, weighted_statistics" if weighted else "sample_weight"
        same["weighted_statistics"] = weighted
        for output, loss, norm in mixed:
            net = FNN(
                _SIZES, activation=["tanh", "silu"], norm=norm, output=output, loss=loss, seed=4, **same
            )
            net.train()
            y = np.abs(targets[output]) if isinstance(loss, Poisson) else targets[output]
            y = y[:, :1] if isinstance(loss, Quantile) else y
            errors = net.check_gradients(X, y, sample_weight=weights)
            label = f"{output}, norm={norm}, {loss or 'default loss'}, {ending}"
            yield Row("FNN.loss_and_gradients", label, max(errors.values()))
        net = FNN(_SIZES, activation="tanh", dropout=0.3, seed=4, **same)
        net.train()
        errors = net.check_gradients(X, targets["softmax"], sample_weight=weights)
        yield Row("FNN.loss_and_gradients", f"softmax, dropout=0.3, {ending}", max(errors.values()))
