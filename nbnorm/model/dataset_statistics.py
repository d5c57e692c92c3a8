"""Statistics of batch norm's inputs over a whole data set, and what they replace: the moving averages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nbnorm._types import Array, CheckedTable, Table
from nbnorm.functions.activations import activation_forward
from nbnorm.functions.batch_norm import batch_norm_inference
from nbnorm.functions.dense import dense_forward
from nbnorm.model.inputs import check_encoder
from nbnorm.model.inputs import table as checked_table
from nbnorm.model.sample_norm import normalized_samples
from nbnorm.statistics.moments import Moments, moments
from nbnorm.statistics.reading import is_sparse

if TYPE_CHECKING:
    from nbnorm.model.network import FNN

# Rows that are computed together: enough for the kernels' threads, few enough to stay in a cache.
_ROWS = 2048


class Features(NamedTuple):
    """What a hidden layer computes for some samples."""

    normalized: Array  # what its normalization reads: y, or z where that stands before the activation
    activated: Array  # y, the output of the activation
    out: Array  # what the next layer reads


def table(net: FNN, X: Table) -> CheckedTable:
    """Check samples, and that the network can compute; return an array or a matrix in compressed rows."""
    x = checked_table(net, "X", X)
    check_encoder(net)
    net.arrays.check_finite()
    return x


def columns(net: FNN, x: CheckedTable) -> Iterator[Array]:
    """Yield the columns that the standardizer reads, some rows at a time; what is missing is their mean."""
    mean = 0.0 if net.standardizer is None else net.standardizer.mean_
    for start in range(0, x.shape[0], _ROWS):
        rows = x[start : start + _ROWS]
        rows = rows.toarray() if is_sparse(rows) else np.ascontiguousarray(rows)
        if net.encoder is not None:
            rows = net.encoder.transform(rows)
            rows = np.where(np.isnan(rows), mean, rows)
        yield rows


def inputs(net: FNN, rows: Array) -> Array:
    """Return what the first layer reads, of columns that `columns` yields."""
    if net.standardizer is not None:
        rows = net.standardizer.transform(rows)
    with np.errstate(over="ignore"):
        return np.asarray(rows, net.dtype)


def hidden_layers(
    net: FNN, x: Array, statistics: Mapping[str, tuple[Array, Array]], last: int
) -> Iterator[Features]:
    """Yield what the hidden layers up to the number `last` compute for what the first one reads.

    `statistics` are mean and variance for each batch norm; behind the last one that has some, `out` is what
    the batch norm reads.
    """
    parameters = net.parameters()
    for l, activation in enumerate(net.activations[:last], 1):

        def normalize(y: Array, l: int = l, name: str = f"norm{l}") -> Array:
            if net.norm_kind in ("layer", "rms"):
                return normalized_samples(net, l, y)
            if name not in statistics:
                return y
            gamma, beta = parameters[f"{name}.gamma"], parameters[f"{name}.beta"]
            return batch_norm_inference(y, gamma, beta, *statistics[name], eps=net.eps)

        with np.errstate(over="ignore", invalid="ignore"):  # refused below
            z = dense_forward(x, parameters[f"dense{l}.weight"], parameters.get(f"dense{l}.bias"))
        if not np.isfinite(z).all():
            raise ValueError(f"X must give finite features, got others in layer {l}, beyond {net.dtype}")
        if net.norm_placement == "before":
            x = activation_forward(normalize(z), activation)
            yield Features(z, x, x)
        else:
            y = activation_forward(z, activation)
            x = normalize(y)
            yield Features(y, y, x)


def moving_averages(net: FNN) -> dict[str, tuple[Array, Array]]:
    """Return the mean and the variance that each batch norm uses in evaluation mode."""
    layers = range(1, len(net.sizes) - 1) if net.norm_kind == "batch" else ()
    return {f"norm{l}": net.arrays.moving_statistics(l) for l in layers}


def dataset_statistics(net: FNN, X: Table) -> dict[str, Moments]:
    """See `FNN.dataset_statistics`."""
    if net.norm_kind != "batch":
        raise ValueError(f"the network must have batch normalization, got norm={net.norm!r}")
    x = table(net, X)
    found: dict[str, Moments] = {}
    used: dict[str, tuple[Array, Array]] = {}
    for l in range(1, len(net.sizes) - 1):
        total: Moments | None = None
        for rows in columns(net, x):
            *_, features = hidden_layers(net, inputs(net, rows), used, l)
            part = moments(features.normalized)
            total = part if total is None else total + part
        assert total is not None  # `table` refuses data without rows
        found[f"norm{l}"] = total
        used[f"norm{l}"] = total.mean, total.var()
    return found


def recalibrate(net: FNN, X: Table) -> None:
    """See `FNN.recalibrate`."""
    found = dataset_statistics(net, X)
    if any(statistics.count < 2 for statistics in found.values()):
        raise ValueError("X must have at least 2 samples, whose variance is known, got 1")
    buffers = net.buffers()
    for name, statistics in found.items():
        buffers[f"{name}.running_mean"][...] = statistics.mean
        averaged = statistics.var() if net.running == "var" else statistics.std()
        buffers[f"{name}.running_{net.running}"][...] = averaged
