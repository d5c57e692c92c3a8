"""Checks and encodings of what a network reads: tables of samples, targets, their statistics."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nbnorm import _check
from nbnorm._types import Array, CheckedTable, CompressedMatrix, SparseMatrix, Table
from nbnorm.engine.gather import Data, SparseData
from nbnorm.functions.loss_options import Poisson
from nbnorm.model import arrays
from nbnorm.model.samples import Samples
from nbnorm.statistics.encoding import ColumnEncoder
from nbnorm.statistics.reading import is_sparse
from nbnorm.statistics.standardize import Standardizer, fitted

if TYPE_CHECKING:
    from nbnorm.model.network import FNN

# ----------------------------------------------------------------------------------------------
# Tables of samples
# ----------------------------------------------------------------------------------------------


def feature_names(net: FNN) -> list[str] | None:
    """Return the names of the features, where the data that the encoder or the standardizer saw had them."""
    if net.encoder is not None:
        return net.encoder.feature_names
    return None if net.standardizer is None else net.standardizer.moments_.feature_names


def table(
    net: FNN, name: str, X: Table, *, check: bool = True, names: list[str] | None = None
) -> CheckedTable:
    """Check a table of samples; it is neither copied nor converted as a whole.

    Columns that have names are put in the order of the known ones, or of `names`.  A SciPy sparse matrix is
    returned in compressed rows.
    """
    if is_sparse(X):
        return sparse_table(net, name, X, check=check)
    x = _check.table(name, X, feature_names(net) or names)[0]
    _check.rank(name, x, 2)
    if x.shape[1] != net.sizes[0]:
        raise ValueError(f"{name} must have {net.sizes[0]} features (sizes[0]), got shape {x.shape}")
    if check:
        _check.finite(name, x, missing=net.encoding is not None)
    return x


def sparse_table(net: FNN, name: str, X: SparseMatrix, *, check: bool = True) -> CompressedMatrix:
    """Check a SciPy sparse matrix; return it in compressed rows."""
    if X.ndim == 2 and 0 in X.shape:
        raise ValueError(f"{name} must not be empty, got shape {X.shape}")
    if X.ndim != 2 or X.shape[1] != net.sizes[0]:
        raise ValueError(f"{name} must have {net.sizes[0]} features (sizes[0]), got shape {X.shape}")
    x = X.tocsr()
    if x.dtype.kind not in "fiub":
        raise TypeError(f"{name} must hold real numbers, got dtype {x.dtype}")
    if check and x.nnz:
        _check.finite(f"{name}.data", x.data, missing=net.encoding is not None)
    return x


def check_encoder(net: FNN) -> None:
    """Refuse a network whose encoding has not been learned."""
    if net.encoding is not None and net.encoder is None:
        raise RuntimeError("the encoding needs a call of fit first")


def reader(net: FNN, x: CheckedTable) -> Data | SparseData:
    """Return a checked table as the engine reads it."""
    check_encoder(net)
    return SparseData(x, net.encoder) if is_sparse(x) else Data(x, net.encoder)


def check_batch(net: FNN, smallest: int, advice: str) -> None:
    """Refuse a training batch of one sample where there is batch normalization."""
    if smallest < 2 and net.norm_kind == "batch" and not net.frozen_statistics:
        raise ValueError(f"batch normalization needs at least 2 samples in a training batch, got 1: {advice}")


# ----------------------------------------------------------------------------------------------
# Targets
# ----------------------------------------------------------------------------------------------


def truth(net: FNN, name: str, y: npt.ArrayLike, samples: int, other: str) -> Array:
    """Check targets; return classes (int64) or values (n_samples, n_out), as the user has them."""
    got = _check.plain(name, y)
    n_out = net.loss.targets(net.sizes[-1])
    if got.ndim == 0 or len(got) != samples:
        length = "no length" if got.ndim == 0 else f"{len(got)}"
        raise ValueError(f"{name} must have the length of {other}, {samples}, got {length}")
    if net.output == "softmax":
        if got.ndim != 1:
            raise ValueError(f"{name} must have shape (n_samples,), got shape {got.shape}")
        if got.dtype.kind not in "iub":
            raise TypeError(f"{name} must hold integer classes 0 to {n_out - 1}, got dtype {got.dtype}")
        wrong = np.flatnonzero((got < 0) | (got >= n_out))
        if wrong.size:
            raise ValueError(
                f"{name} must hold classes 0 to {n_out - 1}, got {got[wrong[0]]} at [{wrong[0]}]"
            )
        return _check.readable(np.ascontiguousarray(got, dtype=np.int64))
    got = _check.numeric(name, got)
    shapes = [(samples, n_out)] + ([(samples,)] if n_out == 1 else [])
    if got.shape not in shapes:
        raise ValueError(f"{name} must have shape {' or '.join(map(str, shapes))}, got shape {got.shape}")
    _check.finite(name, got)
    if net.output == "sigmoid" and ((got < 0) | (got > 1)).any():
        raise ValueError(f"{name} must lie between 0 and 1 for output='sigmoid'")
    if net.output == "identity":
        net.loss.check(got)
    return got.reshape(samples, n_out)


def classes(net: FNN, truth: Array) -> Array:
    """Return the class of each sample, where the targets are classes."""
    if net.output == "softmax":
        return truth
    if net.output != "sigmoid" or net.sizes[-1] > 1:
        raise ValueError("class_weight needs classes: output='softmax', or one sigmoid output")
    if not ((truth == 0) | (truth == 1)).all():
        raise ValueError("class_weight needs targets that are 0 or 1")
    return truth.reshape(-1).astype(np.int64)


def encoded(net: FNN, name: str, truth: Array) -> tuple[Array | None, Array]:
    """Return (labels, targets) for the engine, one of which is not used."""
    if net.output == "softmax":
        return truth, np.zeros(1, net.dtype)
    if net.target_standardizer is not None:
        truth = net.target_standardizer.transform(truth.astype(np.float64))
    with np.errstate(over="ignore"):
        targets = _check.readable(np.ascontiguousarray(truth, dtype=net.dtype))
    _check.finite(f"{name} in {net.dtype}", targets)
    return None, targets.reshape(-1)


def in_units(net: FNN, logits: Array) -> Array:
    """Return logits, or for the identity output the values that they stand for.

    Those in the units of standardized targets stay float64: beside a large mean float32 has too few digits
    for what the network has learned.
    """
    if isinstance(net.loss, Poisson):
        return np.asarray(np.exp(logits))
    if net.target_standardizer is None:
        return logits
    # the outputs of one target, such as its quantiles, below each other
    together = (len(logits), net.loss.targets(net.sizes[-1]), -1)
    values: Array = logits.astype(np.float64).reshape(together).swapaxes(1, 2)
    values = net.target_standardizer.inverse_transform(values.reshape(-1, together[1])).reshape(values.shape)
    return np.ascontiguousarray(values.swapaxes(1, 2)).reshape(logits.shape)


# ----------------------------------------------------------------------------------------------
# What a training learns of its data before the first step
# ----------------------------------------------------------------------------------------------


def learn(net: FNN, samples: Samples) -> None:
    """Fit the encoder and the standardizers that are not fitted yet."""
    weights = samples.weights.of_standardizers
    if net.encoding is not None and net.encoder is None:
        encoder = ColumnEncoder(net.bins).fit(samples.x, weights=weights)
        encoder.feature_names = samples.names
        encode(net, encoder)
    if net.standardize and net.standardizer is None:
        if net.encoder is None:
            net.standardizer = fitted("X", samples.x, weights)
            net.standardizer.moments_.feature_names = samples.names
        else:
            net.standardizer = Standardizer.from_moments(net.encoder.moments(samples.x, weights=weights))
    if net.standardize_targets and net.target_standardizer is None:
        net.target_standardizer = fitted("y", samples.truth, weights)


def encode(net: FNN, encoder: ColumnEncoder) -> None:
    """Give a network an encoder; the first layer's weights, whose number it decides, are drawn anew."""
    net.encoder = encoder
    rng = np.random.default_rng(net.seed)
    net.arrays.parameters["dense1.weight"] = arrays.initial_weight(net, net.sizes[1], net.widths[0], rng)


def add_statistics(net: FNN, X: Table, weights: Array | None) -> None:
    """Add more data to the statistics of the input, in a standardizer of this network alone."""
    if net.standardizer is None:
        return
    standardizer = copy.deepcopy(net.standardizer)
    if net.encoder is None:
        net.standardizer = standardizer.partial_fit(X, weights=weights)
    else:
        more = Standardizer.from_moments(net.encoder.moments(X, weights=weights))
        net.standardizer = standardizer.merge(more)


def learned(net: FNN) -> tuple[ColumnEncoder | None, Standardizer | None, Standardizer | None]:
    """Return the encoder and the standardizers of the input and of the targets."""
    return net.encoder, net.standardizer, net.target_standardizer


def take_learned(
    net: FNN,
    encoder: ColumnEncoder | None,
    standardizer: Standardizer | None,
    target_standardizer: Standardizer | None,
) -> None:
    """Give a network the encoder and the standardizers that another one has learned."""
    if encoder is not None:
        encode(net, encoder)
    net.standardizer, net.target_standardizer = standardizer, target_standardizer


def statistics_to_dict(net: FNN) -> dict[str, Any]:
    """Return the encoder and the standardizers as JSON can hold them."""
    names = ("encoder", "standardizer", "target_standardizer")
    return {
        name: None if one is None else one.to_dict() for name, one in zip(names, learned(net), strict=True)
    }


def take_statistics(net: FNN, config: Mapping[str, Any]) -> None:
    """Set the encoder and the standardizers that `statistics_to_dict` returned."""
    encoder = None
    if config["encoder"] is not None:
        encoder = ColumnEncoder.from_dict(config["encoder"])
        if net.encoding is None or encoder.n_features_in_ != net.sizes[0]:
            raise ValueError(f"the encoder has {encoder.n_features_in_} features")
    inputs = net.sizes[0] if encoder is None else encoder.n_features_out_
    targets = net.loss.targets(net.sizes[-1])
    found: list[Standardizer | None] = []
    for name, width in (("standardizer", inputs), ("target_standardizer", targets)):
        values = config[name]
        found.append(None if values is None else Standardizer.from_dict(values))
        last = found[-1]
        if last is not None and last.n_features_in_ != width:
            raise ValueError(f"the {name} has {last.n_features_in_} features")
    if encoder is not None and net.encoder is None:
        encode(net, encoder)
    net.standardizer, net.target_standardizer = found
