"""What `nbnorm train` notes beside a network, and what the network is worth."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from nbnorm.model import metrics

if TYPE_CHECKING:
    from nbnorm.model.network import FNN

TEST_SIZE, SPLIT_SEED = 0.2, 0


@dataclass(frozen=True)
class Notes:
    """What `train` noted beside a network; a network saved from Python may have none of it."""

    data: str | None
    classes: list[str | int] | None
    features: list[str] | None
    target: str | None
    test_size: float
    split_seed: int


def read_notes(path: str, net: FNN) -> Notes:
    """Return the checked notes of a model, which come from a file that anybody may have written."""
    got = net.metadata
    n_in, n_out = int(net.sizes[0]), int(net.sizes[-1])

    def entry(key: str, right: Callable[[Any], bool], default: Any) -> Any:
        value = got.get(key)
        if value is None:
            return default
        if not right(value):
            raise ValueError(f"{path}: {key} in the model's metadata is malformed")
        return value

    def listed(kinds: tuple[type, ...], length: int) -> Callable[[Any], bool]:
        # An exact type: True is no class number.
        return lambda value: (
            isinstance(value, list) and len(value) == length and all(type(item) in kinds for item in value)
        )

    def text(value: Any) -> bool:
        return isinstance(value, str)

    # Several sigmoid outputs are yes/no answers of their own, not classes.
    classifies = net.output == "softmax" or (net.output == "sigmoid" and n_out == 1)
    n_classes = max(n_out, 2)
    return Notes(
        data=entry("data", text, None),
        classes=entry("classes", listed((str, int), n_classes), list(range(n_classes)))
        if classifies
        else None,
        features=entry("features", listed((str,), n_in), None),
        target=entry("target", text, None),
        test_size=entry("test_size", lambda v: isinstance(v, float) and 0 < v < 1, TEST_SIZE),
        split_seed=entry("split_seed", lambda v: type(v) is int and v >= 0, SPLIT_SEED),
    )


def measure(got: npt.NDArray[Any], y: npt.NDArray[Any]) -> dict[str, float | None]:
    """Return R2, averaged over outputs, and the root of the mean squared error."""
    outcome = metrics.Outcome("identity", got.reshape(len(y), -1), y, None)
    r2, rmse = (metrics.NAMED[name][0](outcome) for name in ("r2", "root_mean_squared_error"))
    return {"test_accuracy": None, "test_r2": r2 if math.isfinite(r2) else None, "test_rmse": rmse}


def summary(scores: dict[str, Any], count: int) -> str:
    """Return scores as a line of text."""
    if scores["test_accuracy"] is not None:
        accuracy = scores["test_accuracy"]
        return f"accuracy {accuracy:.4f} ({round(accuracy * count):,} of {count:,} right)"
    r2 = "" if scores["test_r2"] is None else f"R2 {scores['test_r2']:.4f}, "
    return f"{r2}root mean squared error {scores['test_rmse']:.6g}"
