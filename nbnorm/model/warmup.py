"""Compile what networks and statistics need, so that the first use of a program does not have to."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from nbnorm import _check
from nbnorm.compile.clock import compile_seconds
from nbnorm.functions.activations import CODES, activation_backward, activation_forward
from nbnorm.functions.batch_norm import batch_norm_backward, batch_norm_forward, batch_norm_inference
from nbnorm.functions.dense import dense_backward, dense_forward
from nbnorm.functions.optimizers import OPTIMIZERS, SGD
from nbnorm.model.network import FNN
from nbnorm.statistics.moments import moments
from nbnorm.statistics.standardize import Standardizer

Group = Literal["networks", "statistics", "functions"]
GROUPS: tuple[Group, ...] = ("networks", "statistics", "functions")

# Enough elements for the parallel kind of every kernel; zeros take no time to make.
_MANY = 1 << 21


class Step(NamedTuple):
    """A part of the work that has been done.

    Attributes
    ----------
    name : str
        What has been compiled.
    number, total : int
        Which of how many parts.
    compiled : float
        Seconds of compilation; 0 where all code was in the cache.
    seconds : float
        Seconds in all.
    """

    name: str
    number: int
    total: int
    compiled: float
    seconds: float


def warm_up(
    dtypes: Sequence[npt.DTypeLike] = (np.float32, np.float64), groups: Sequence[Group] = GROUPS
) -> Iterator[Step]:
    """Compile the kernels of common networks, of statistics and of the functions into the cache.

    Parameters
    ----------
    dtypes : sequence of float32, float64, default both
        Types of the networks and arrays.
    groups : sequence of {"networks", "statistics", "functions"}, default all
        What to compile: training and prediction with every activation, both placements of batch norm, layer
        norm, RMS norm, both optimizers and all outputs, on data of bytes, integers, float32 and float64;
        `Standardizer` and `moments`; batch norm, affine layers and activations by themselves.

    Yields
    ------
    Step
        After each part, for showing the progress.

    Raises
    ------
    TypeError, ValueError
        If an argument is not what is described.

    Examples
    --------
    >>> from nbnorm.model.warmup import warm_up
    >>> [step.name for step in warm_up(["float32"], ["functions"])]
    ['functions, float32']
    """
    known = [_check.float_dtype("dtypes", dtype) for dtype in dtypes]
    for group in groups:
        _check.choice("groups", group, GROUPS)
    return _steps([part for dtype in known for group in groups for part in _PARTS[group](dtype)])


def _steps(parts: list[tuple[str, Callable[[], Any]]]) -> Iterator[Step]:
    for number, (name, work) in enumerate(parts, start=1):
        begun, compiled = time.perf_counter(), compile_seconds()
        work()
        yield Step(name, number, len(parts), compile_seconds() - compiled, time.perf_counter() - begun)


def _networks(dtype: np.dtype[Any]) -> Iterator[tuple[str, Callable[[], Any]]]:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(24, 4)), np.arange(24) % 3

    def trained(x: Any, target: Any, norm: Any = "after", n_out: int = 3, **options: Any) -> None:
        optimizer = options.pop("optimizer", SGD(lr=0.01, momentum=0.9))
        net = FNN((4, 5, 5, n_out), norm=norm, seed=0, dtype=dtype, **options)
        validation = x, target
        net.fit(
            x, target, epochs=1, batch_size=8, optimizer=optimizer, progress=False, validation_data=validation
        )
        net.predict(x)

    table, yes, values = X.astype(dtype), (y > 0).astype(dtype), X[:, 0]
    one: dict[str, Any] = {"n_out": 1}
    yield f"training, {dtype}", partial(trained, table, y)
    for kind in OPTIMIZERS.values():
        if kind is not SGD:
            yield f"{kind.__name__}, {dtype}", partial(trained, table, y, optimizer=kind(lr=0.001))
    for norm in ("before", "layer", "rms", None):
        yield f"norm={norm!r}, {dtype}", partial(trained, table, y, norm)
    yield f"output='sigmoid', {dtype}", partial(trained, table, yes, **one, output="sigmoid")
    one["output"] = "identity"
    yield f"output='identity', {dtype}", partial(trained, table, values, **one)
    yield f"standardized targets, {dtype}", partial(trained, table, values, **one, standardize_targets=True)
    yield f"encoding='piecewise', {dtype}", partial(trained, table, y, encoding="piecewise", bins=2)
    yield f"dropout, {dtype}", partial(trained, table, y, dropout=0.5)
    for other in ("uint8", "int64", "float32", "float64"):
        if other != dtype.name:
            yield f"{other} data, {dtype}", partial(trained, np.abs(8 * X).astype(other), y)
    for activation in CODES:
        yield f"{activation}, {dtype}", partial(trained, table, y, activation=activation)


def _statistics(dtype: np.dtype[Any]) -> Iterator[tuple[str, Callable[[], Any]]]:
    def standardized(rows: int) -> None:
        x = np.zeros((rows, 64), dtype)
        x[0] = 1.0
        for weights in (None, np.ones(rows)):  # a fit looks for no extremes: each has a kernel of its own
            standardizer = Standardizer().fit(x, weights=weights)
            moments(x, weights=weights)
        standardizer.inverse_transform(standardizer.transform(x))

    yield f"statistics, {dtype}", partial(standardized, 8)
    yield f"statistics on several threads, {dtype}", partial(standardized, _MANY // 64)


def _functions(dtype: np.dtype[Any]) -> Iterator[tuple[str, Callable[[], Any]]]:
    def called() -> None:
        x = np.arange(24.0).reshape(6, 4).astype(dtype)
        one, zero = np.ones(4, dtype), np.zeros(4, dtype)
        out, mean, rstd = batch_norm_forward(x, one, zero)
        batch_norm_backward(out, x, one, mean, rstd)
        batch_norm_inference(x, one, zero, zero, one)
        dense_forward(x, x[:3], zero[:3])
        dense_backward(x[:, :3], x, x[:3])
        activation_backward(x, activation_forward(x, "relu"), "relu")

    yield f"functions, {dtype}", called


_PARTS = {"networks": _networks, "statistics": _statistics, "functions": _functions}
