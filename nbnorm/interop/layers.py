"""Layers as other programs have them, and how a row of them becomes an FNN.

A reader of a format makes a list of these; `network` finds the FNN that computes the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from nbnorm import _check
from nbnorm.functions.loss_options import LossLike, Output
from nbnorm.interop.extras import described, rebuilt
from nbnorm.model.network import FNN
from nbnorm.model.options import NORMS, NormKind, Placement, norm_named, norm_placement
from nbnorm.statistics.encoding import ColumnEncoder
from nbnorm.statistics.moments import Moments
from nbnorm.statistics.standardize import Standardizer

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Layer:
    """Something that turns one vector of features into another; `where` is its name in messages."""

    where: str


@dataclass(frozen=True)
class Affine(Layer):
    """W x + b, with W of shape (n_out, n_in)."""

    weight: Array
    bias: Array


@dataclass(frozen=True)
class Diagonal(Layer):
    """(x - centre) * factor + shift, feature by feature; arrays of one element are for all features."""

    centre: Array
    factor: Array
    shift: Array

    def then(self, other: Diagonal) -> Diagonal:
        """Return both as one."""
        factor = self.factor * other.factor
        return Diagonal(
            self.where, self.centre, factor, (self.shift - other.centre) * other.factor + other.shift
        )


@dataclass(frozen=True)
class BatchNorm(Layer):
    """gamma (x - mean) / sqrt(var + eps) + beta.

    `momentum` is the weight of the new in the moving averages; None for means of all `batches`.
    """

    gamma: Array
    beta: Array
    mean: Array
    var: Array
    eps: float
    momentum: float | None
    batches: int = 0

    def diagonal(self) -> Diagonal:
        """Return what it does in evaluation."""
        return Diagonal(self.where, self.mean, self.gamma / np.sqrt(self.var + self.eps), self.beta)


@dataclass(frozen=True)
class SampleNorm(Layer):
    """Layer norm, or RMS norm with `kind` "rms", of each sample over its features, times gamma plus beta."""

    kind: NormKind
    gamma: Array
    beta: Array
    eps: float


@dataclass(frozen=True)
class Activation(Layer):
    """An activation function of the package, or "softmax" as the last layer."""

    name: str


@dataclass(frozen=True)
class Dropout(Layer):
    """Drop features with this probability while training."""

    probability: float


@dataclass(frozen=True)
class Encoding(Layer):
    """The encoding of columns that a `ColumnEncoder` does."""

    encoder: ColumnEncoder


@dataclass(frozen=True)
class Wide(Layer):
    """What follows is computed in float64: the answers are turned back into the units of targets."""


@dataclass
class _Hidden:
    """What stands between two affine layers."""

    before: BatchNorm | SampleNorm | None = None
    activation: str | None = None
    after: BatchNorm | SampleNorm | None = None
    dropout: float = 0.0


@dataclass
class _Plan:
    """A network on the way: the affine layers, what stands between them, and both ends."""

    affine: list[Affine] = field(default_factory=list)
    hidden: list[_Hidden] = field(default_factory=list)
    encoder: ColumnEncoder | None = None
    inputs: Diagonal | None = None
    outputs: Diagonal | None = None
    output: str | None = None
    wide: bool = False


def _spread(diagonal: Diagonal, width: int) -> Diagonal:
    """Give every feature numbers of its own."""
    for name in ("centre", "factor", "shift"):
        values = getattr(diagonal, name)
        if values.size not in (1, width):
            raise ValueError(f"{diagonal.where} has {values.size} numbers for {width} features")
    parts = [
        np.broadcast_to(values.reshape(-1), width)
        for values in (diagonal.centre, diagonal.factor, diagonal.shift)
    ]
    return Diagonal(diagonal.where, *parts)


def _behind(affine: Affine, diagonal: Diagonal) -> Affine:
    """Return the affine layer that an affine layer and a diagonal behind it are."""
    d = _spread(diagonal, len(affine.weight))
    return Affine(
        affine.where, d.factor[:, None] * affine.weight, (affine.bias - d.centre) * d.factor + d.shift
    )


def _in_front(diagonal: Diagonal, affine: Affine) -> Affine:
    """Return the affine layer that a diagonal and an affine layer behind it are."""
    d = _spread(diagonal, affine.weight.shape[1])
    bias = affine.bias + affine.weight @ (d.shift - d.centre * d.factor)
    return Affine(affine.where, affine.weight * d.factor, bias)


def _planned(layers: Sequence[Layer]) -> _Plan:
    """Sort the layers into a plan."""
    plan = _Plan()
    waiting: Diagonal | None = None  # in front of the next affine layer
    for layer in layers:
        last = plan.affine[-1] if plan.affine else None
        gap = plan.hidden[-1] if plan.hidden else None
        if plan.output is not None and not isinstance(layer, Dropout):
            raise ValueError(f"{layer.where} follows the {plan.output} of the output")
        if isinstance(layer, Encoding):
            if plan.affine or waiting is not None or plan.encoder is not None:
                raise ValueError(f"{layer.where} encodes columns, but is not the first layer")
            plan.encoder = layer.encoder
        elif isinstance(layer, Affine):
            layer = _checked(layer, last)
            if waiting is not None and not plan.affine:
                plan.inputs = _spread(waiting, layer.weight.shape[1])
            elif waiting is not None:
                layer = _in_front(waiting, layer)
            waiting = None
            plan.affine.append(layer)
            plan.hidden.append(_Hidden())
        elif isinstance(layer, (Diagonal, BatchNorm)):
            diagonal = _normal(layer).diagonal() if isinstance(layer, BatchNorm) else layer
            if last is None or gap is None:
                waiting = diagonal if waiting is None else waiting.then(diagonal)
                continue
            _spread(diagonal, len(last.weight))
            if plan.wide:
                plan.outputs = diagonal if plan.outputs is None else plan.outputs.then(diagonal)
            elif waiting is not None:
                waiting = waiting.then(diagonal)
            elif gap.activation is None and gap.before is not None:
                gap.before = _joined(gap.before, diagonal)
            elif gap.activation is None and isinstance(layer, BatchNorm):
                gap.before = layer
            elif gap.activation is None:
                plan.affine[-1] = _behind(last, diagonal)
            elif gap.after is not None:
                gap.after = _joined(gap.after, diagonal)
            elif isinstance(layer, BatchNorm):
                gap.after = layer
            else:
                waiting = diagonal
        elif isinstance(layer, SampleNorm):
            if last is None or gap is None or waiting is not None or plan.wide:
                raise ValueError(
                    f"{layer.where} normalizes samples elsewhere than behind an affine layer or an activation"
                )
            _put_sample_norm(plan, layer)
        elif isinstance(layer, Activation):
            if gap is None:
                raise ValueError(f"{layer.where} ({layer.name}) stands in front of the first affine layer")
            if layer.name == "softmax":
                plan.output = "softmax"
            elif layer.name == "identity":
                continue
            elif gap.activation is not None:
                raise ValueError(f"{layer.where} ({layer.name}) follows another activation, {gap.activation}")
            elif waiting is not None:
                raise ValueError(
                    f"{layer.where} ({layer.name}) follows more than an affine layer and batch norm"
                )
            else:
                gap.activation = layer.name
        elif isinstance(layer, Dropout):
            if gap is not None:
                gap.dropout += (1.0 - gap.dropout) * layer.probability
            elif layer.probability > 0.0:
                raise ValueError(
                    f"{layer.where} leaves out inputs: an FNN has dropout behind hidden layers only"
                )
        elif isinstance(layer, Wide):
            plan.wide = bool(plan.affine)
        else:
            raise TypeError(f"unknown layer {layer!r}")
    if not plan.affine:
        raise ValueError("it has no affine layer")
    _end(plan, waiting)
    return plan


def _put_sample_norm(plan: _Plan, layer: SampleNorm) -> None:
    """Put layer norm or RMS norm behind the last affine layer or its activation."""
    gap, width = plan.hidden[-1], len(plan.affine[-1].weight)
    if layer.gamma.size == layer.beta.size == 1:
        one = np.ones(width)
        layer = replace(layer, gamma=layer.gamma * one, beta=layer.beta * one)
    if layer.gamma.shape != (width,) or layer.beta.shape != (width,):
        raise ValueError(f"{layer.where} has a scale of shape {layer.gamma.shape} for {width} features")
    if not (np.isfinite(layer.gamma).all() and np.isfinite(layer.beta).all() and layer.eps > 0.0):
        raise ValueError(f"{layer.where} has numbers that are not finite, or no positive eps")
    placement: Placement = "before" if gap.activation is None else "after"
    there = getattr(gap, placement)
    if placement == "before" and isinstance(there, BatchNorm):
        plan.affine[-1] = _behind(plan.affine[-1], there.diagonal())
    elif there is not None:
        raise ValueError(f"{layer.where} follows another normalization, {there.where}, which no FNN has")
    setattr(gap, placement, layer)


def _end(plan: _Plan, waiting: Diagonal | None) -> None:
    """Take what follows the last affine layer as the output of the network."""
    gap, last = plan.hidden.pop(), plan.affine[-1]
    for norm in (gap.before, gap.after):
        if isinstance(norm, SampleNorm):
            raise ValueError(f"{norm.where} normalizes the outputs of a sample, which no FNN does")
    if isinstance(gap.before, BatchNorm):
        plan.affine[-1] = _behind(last, gap.before.diagonal())
    if gap.activation == "sigmoid" and plan.output is None and gap.after is None and waiting is None:
        plan.output = "sigmoid"
    elif gap.activation is not None:
        raise ValueError(
            f"{last.where} is the output layer and has the activation {gap.activation}, which no FNN has"
        )
    elif waiting is not None:
        plan.affine[-1] = _behind(plan.affine[-1], waiting)
    if gap.dropout:
        raise ValueError("its last layer is dropout of the outputs, which no FNN has")
    if plan.outputs is not None:
        plan.outputs = _spread(plan.outputs, len(last.weight))
        if plan.output is not None:
            raise ValueError(
                f"{plan.outputs.where} turns the outputs into other units in front of a {plan.output}"
            )


def _joined(norm: BatchNorm | SampleNorm, diagonal: Diagonal) -> BatchNorm | SampleNorm:
    """Return the norm that a norm and a diagonal behind it are."""
    d = _spread(diagonal, len(norm.gamma))
    return replace(norm, gamma=norm.gamma * d.factor, beta=(norm.beta - d.centre) * d.factor + d.shift)


def _normal(layer: BatchNorm) -> BatchNorm:
    """Refuse a batch norm whose numbers are none."""
    parts = (layer.gamma, layer.beta, layer.mean, layer.var)
    if len({part.shape for part in parts}) > 1 or layer.gamma.ndim != 1:
        raise ValueError(f"{layer.where} has arrays of shapes {', '.join(str(part.shape) for part in parts)}")
    if not all(np.isfinite(part).all() for part in parts) or (layer.var < 0.0).any() or not layer.eps > 0.0:
        raise ValueError(f"{layer.where} has numbers that are not finite, or no positive variance and eps")
    return layer


def _checked(layer: Affine, last: Affine | None) -> Affine:
    """Refuse an affine layer that does not fit behind the last one, or has no numbers in it."""
    if layer.weight.ndim != 2 or 0 in layer.weight.shape:
        raise ValueError(f"{layer.where} has a weight of shape {layer.weight.shape}")
    n_out, n_in = layer.weight.shape
    if layer.bias.shape != (n_out,):
        raise ValueError(f"{layer.where} has a bias of shape {layer.bias.shape} for {n_out} outputs")
    if last is not None and n_in != len(last.weight):
        raise ValueError(f"{layer.where} reads {n_in} features, but {last.where} gives {len(last.weight)}")
    return layer


# ----------------------------------------------------------------------------------------------
# Batch norm
# ----------------------------------------------------------------------------------------------


def _placement(plan: _Plan, known: Placement | None) -> Placement | None:
    """Return where all hidden layers have normalization, or None if they do not have it alike."""
    gaps = plan.hidden
    decided = [gap for gap in gaps if gap.activation is not None]
    behind = all(gap.after and not gap.before for gap in decided) and (bool(decided) or known == "after")
    for gap in gaps:  # without an activation between, behind is before
        if behind and gap.activation is None and gap.after is None:
            gap.before, gap.after = None, gap.before
    placements: tuple[tuple[Placement, Placement], ...] = (("before", "after"), ("after", "before"))
    for placement, other in placements:
        if gaps and all(getattr(gap, placement) and not getattr(gap, other) for gap in gaps):
            return placement
    return None


def _fold_norms(plan: _Plan) -> None:
    """Make every batch norm a part of the affine layer beside it."""
    for l, gap in enumerate(plan.hidden):
        if isinstance(gap.before, BatchNorm):
            plan.affine[l] = _behind(plan.affine[l], gap.before.diagonal())
            gap.before = None
        if isinstance(gap.after, BatchNorm):
            plan.affine[l + 1] = _in_front(gap.after.diagonal(), plan.affine[l + 1])
            gap.after = None


def _sample_norms(plan: _Plan, known: Placement | None) -> tuple[Placement, list[SampleNorm]] | None:
    """Return where all hidden layers have layer norm or RMS norm, and these; None if none has."""
    found = [norm for gap in plan.hidden for norm in (gap.before, gap.after) if isinstance(norm, SampleNorm)]
    if not found:
        return None
    _fold_norms(plan)
    first, placement = found[0], _placement(plan, known)
    if placement is None:
        raise ValueError(
            f"{first.where} and other hidden layers are not normalized alike, as those of an FNN are"
        )
    for norm in found:
        if (norm.kind, norm.eps) != (first.kind, first.eps):
            raise ValueError(
                f"{norm.where} and {first.where} have another kind or eps, and an FNN one for all"
            )
        if norm.kind == "rms" and norm.beta.any():
            raise ValueError(f"{norm.where} is an RMS norm with a shift behind it, which no FNN has")
    return placement, found


def _same_eps(norms: list[BatchNorm]) -> list[BatchNorm]:
    """Give all the least eps: what another has more goes into its variance, which leaves the sum as it is."""
    least = min(norm.eps for norm in norms)
    return [replace(norm, var=norm.var + (norm.eps - least), eps=least) for norm in norms]


def _decay(norms: list[BatchNorm]) -> float | None:
    """Return the weight of the old value in the moving averages, or None for means of all batches."""
    first = norms[0]
    for norm in norms:
        if norm.momentum != first.momentum:
            raise ValueError(f"{first.where} and {norm.where} have different momentum: give decay=")
    if first.momentum is not None and not 0.0 < first.momentum <= 1.0:
        raise ValueError(
            f"{first.where} has averages that move by {first.momentum:g} of the new value: give decay="
        )
    return None if first.momentum is None else 1.0 - float(first.momentum)


# ----------------------------------------------------------------------------------------------
# Standardizers
# ----------------------------------------------------------------------------------------------


def _standardizer(diagonal: Diagonal | None, inverse: bool = False) -> Standardizer | None:
    """Return the standardizer that does the same, or its inverse; None if there is none."""
    if diagonal is None:
        return None
    with np.errstate(all="ignore"):
        scale = diagonal.factor if inverse else 1.0 / diagonal.factor
        mean = (
            diagonal.shift - diagonal.centre * diagonal.factor
            if inverse
            else diagonal.centre - diagonal.shift * scale
        )
        var = scale * scale
    if not (np.isfinite(mean) & np.isfinite(var) & (var > 0.0) & (scale > 0.0)).all():
        return None
    zeros = [0.0] * len(mean)
    moments = Moments.from_dict(
        {
            "format": "nbnorm moments 1", "nan": "propagate", "extremes": False, "n_features": len(mean),
            "count": [1.0] * len(mean), "mean": mean.tolist(), "mean_low": zeros, "m2": var.tolist(),
            "m2_low": zeros, "min": mean.tolist(), "max": mean.tolist(),
            "count_error": zeros, "sum_error": zeros, "m2_error": zeros,
        }
    )  # fmt: skip
    found = Standardizer.from_moments(moments)
    same = np.allclose(found.scale_, scale, rtol=1e-12, atol=0.0)
    return found if same and np.array_equal(found.mean_, mean) else None


def _of_targets(outputs: Diagonal | None, saved: Mapping[str, Any] | None) -> Standardizer | None:
    """Return the standardizer of the targets; where the saved one has fewer, each is for several outputs."""
    if outputs is None:
        return None
    parts = outputs.centre, outputs.factor, outputs.shift
    each = 1
    if saved is not None:
        each = max(1, len(outputs.factor) // Standardizer.from_dict(saved).n_features_in_)
    if any(not np.array_equal(np.repeat(part[::each], each), part) for part in parts):
        return None
    return _standardizer(Diagonal(outputs.where, *(part[::each] for part in parts)), inverse=True)


def _taken(found: Standardizer | None, saved: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return a standardizer's description: the saved one with all statistics where it does the same."""
    if found is None:
        return None
    if saved is not None:
        exact = Standardizer.from_dict(saved)
        if exact.n_features_in_ == found.n_features_in_ and all(
            np.allclose(getattr(exact, name), getattr(found, name), rtol=1e-6, atol=0.0)
            for name in ("mean_", "scale_")
        ):
            return saved
    return found.to_dict()


# ----------------------------------------------------------------------------------------------
# The network
# ----------------------------------------------------------------------------------------------


def network(
    layers: Sequence[Layer],
    name: str,
    *,
    dtype: npt.DTypeLike = np.float32,
    output: Output | None = None,
    decay: float | None = None,
    loss: LossLike | None = None,
    known: Mapping[str, Any] | None = None,
) -> FNN:
    """Return the FNN that computes what a row of layers does in evaluation.

    Parameters
    ----------
    layers : sequence of Layer
        In the order in which they compute.
    name : str
        What messages call their origin.
    dtype : {float32, float64}, default float32
        Type of the network.
    output, decay, loss : optional
        Options of the network that the layers do not tell.
    known : dict, optional
        Description of the network from which the layers have come, for what they do not tell.

    Returns
    -------
    FNN
        In evaluation mode.  Batch norm stays what it is where all hidden layers have it in the same
        placement, and is folded into the affine layers otherwise.

    Raises
    ------
    ValueError
        If no FNN computes the same; the message names the layer.

    Examples
    --------
    >>> import numpy as np
    >>> affine = [Affine(f"layer {l}", np.eye(2), np.zeros(2)) for l in (1, 2)]
    >>> network([affine[0], Activation("f", "tanh"), affine[1]], "an example").activation
    'tanh'
    """
    with np.errstate(all="ignore"):  # what is not finite at the end is refused
        return _network(_planned(layers), name, np.dtype(dtype), output, decay, loss, dict(known or {}))


def _network(
    plan: _Plan,
    name: str,
    dtype: np.dtype[Any],
    output: Output | None,
    decay: float | None,
    loss: LossLike | None,
    config: dict[str, Any],
) -> FNN:
    """Build the network of a plan; see `network`."""
    known = norm_placement(config.get("norm") if config.get("norm") in NORMS else None)
    norms: list[BatchNorm] = []
    placement: Placement | None
    of_samples = _sample_norms(plan, known)
    if of_samples is not None:
        placement, alike = of_samples
        norm, eps = norm_named(alike[0].kind, placement), alike[0].eps
    else:
        placement = _placement(plan, known)
        if placement is None:
            _fold_norms(plan)
        else:
            norms = _same_eps([getattr(gap, placement) for gap in plan.hidden])
        norm = norm_named(None if placement is None else "batch", placement)
        eps = norms[0].eps if norms else 1e-5
    standardizer = _standardizer(plan.inputs)
    if plan.inputs is not None and standardizer is None:
        plan.affine[0] = _in_front(plan.inputs, plan.affine[0])
    target = _of_targets(plan.outputs, config.get("target_standardizer"))
    if plan.outputs is not None and target is None:
        plan.affine[-1] = _behind(plan.affine[-1], plan.outputs)
    sizes = [plan.affine[0].weight.shape[1], *(len(one.weight) for one in plan.affine)]
    columns = sizes[0]
    if plan.encoder is not None:
        if plan.encoder.n_features_out_ != columns:
            raise ValueError(
                f"{plan.affine[0].where} reads {columns} of {plan.encoder.n_features_out_} encoded columns"
            )
        sizes[0] = plan.encoder.n_features_in_
    kind = _output(plan, output, config.get("output"))
    if kind != config.get("output"):
        for option in ("loss", "loss_options"):
            config.pop(option, None)
    decay = _known_decay(norms, decay, config.get("decay"))
    told: dict[str, Any] = {
        "activation": [gap.activation or "identity" for gap in plan.hidden],
        "norm": norm,
        "output": kind,
        "dropout": [gap.dropout for gap in plan.hidden],
        "standardize_targets": target is not None,
        "eps": eps,
        "decay": decay,
        "running": config.get("running", "var"),
        "dtype": dtype,
    }
    fresh = FNN((columns, *sizes[1:]), standardize=standardizer is not None, seed=0, **told)
    options, arrays = described(fresh)
    options.update({option: value for option, value in config.items() if option not in told})
    options.update(sizes=sizes, training=False)
    options["standardize"] = bool(options["standardize"] or standardizer is not None)
    options["encoding"] = None if plan.encoder is None else "piecewise"
    options["encoder"] = None if plan.encoder is None else plan.encoder.to_dict()
    options["standardizer"] = _taken(standardizer, config.get("standardizer"))
    options["target_standardizer"] = _taken(target, config.get("target_standardizer"))
    _fill(arrays, plan, norms or (of_samples[1] if of_samples else []), placement, str(options["running"]))
    return rebuilt(options, arrays, name, loss=loss)


def _output(plan: _Plan, given: str | None, known: str | None) -> str:
    """Return the kind of output."""
    if given is not None:
        _check.choice("output", given, ("softmax", "sigmoid", "identity"))
        if plan.output is not None and given != plan.output:
            raise ValueError(f"output must be {plan.output!r}, with which its layers end, got {given!r}")
        return given
    return plan.output or known or "identity"


def _known_decay(norms: list[BatchNorm], given: float | None, known: float | None) -> float | None:
    """Return the decay of the moving averages."""
    if given is not None:
        return given
    if not norms:
        return 0.9 if known is None else known
    found = _decay(norms)
    if known is None or found is None:
        return found
    return known if math.isclose(known, found, rel_tol=1e-9) else found


def _fill(
    arrays: dict[str, Array],
    plan: _Plan,
    norms: Sequence[BatchNorm | SampleNorm],
    placement: Placement | None,
    running: str,
) -> None:
    """Put the numbers of the layers into the arrays of the network."""
    last = len(plan.affine)
    for l, affine in enumerate(plan.affine, start=1):
        given = {f"dense{l}.weight": affine.weight}
        if l < last and placement is not None:
            norm = norms[l - 1]
            given |= {f"norm{l}.gamma": norm.gamma, f"norm{l}.beta": norm.beta}
            if isinstance(norm, BatchNorm):
                mean = norm.mean
                if placement == "before":  # where a bias moves only the mean
                    mean = mean - affine.bias
                averaged = np.sqrt(norm.var) if running == "std" else norm.var
                given |= {f"norm{l}.running_mean": mean, f"norm{l}.running_{running}": averaged}
                given[f"norm{l}.n_batches"] = np.array(norm.batches)
        given = {key: values for key, values in given.items() if key in arrays}  # RMS norm has no beta
        if f"dense{l}.bias" in arrays:
            given[f"dense{l}.bias"] = affine.bias
        for key, values in given.items():
            if not np.isfinite(values).all() or (key.endswith(("_var", "_std")) and (values < 0).any()):
                raise ValueError(
                    f"{affine.where} has numbers in its {key.partition('.')[2]} that are not finite"
                )
            with np.errstate(over="ignore"):
                arrays[key] = np.array(values, arrays[key].dtype, order="C")
            _check.finite(f"{affine.where}: {key} in {arrays[key].dtype}", arrays[key])
