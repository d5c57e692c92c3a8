"""The plain network that evaluates as one with batch norm does: affine layers, all else inside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from nbnorm.model.network import FNN

Array = npt.NDArray[Any]


def folded(net: FNN, *, standardizers: bool) -> list[tuple[Array, Array]]:
    """Return weight (n_out, n_in) and bias of each layer, float64, with batch norm inside.

    In evaluation mode batch norm is affine, y -> factor * y + shift: behind an activation it becomes part
    of the next layer, in front of one part of the layer before.  Layer norm and RMS norm are no affine maps
    and stay beside the layers.

    Parameters
    ----------
    net : FNN
    standardizers : bool
        Whether those of the input and the targets become part of the first and the last layer.
    """
    parameters = {name: values.astype(np.float64) for name, values in net.arrays.parameters.items()}
    last = len(net.sizes) - 1
    layers = []
    factor, shift = np.ones(net.widths[0]), np.zeros(net.widths[0])  # what is applied in front of a layer
    for l in range(1, last + 1):
        weight: Array = parameters[f"dense{l}.weight"]
        bias: Array = parameters.get(f"dense{l}.bias", np.zeros(len(weight)))
        if l == 1 and standardizers and net.standardizer is not None:
            weight, bias = net.standardizer.fold(weight, bias)
        bias = bias + weight @ shift
        weight = weight * factor
        factor, shift = np.ones(len(weight)), np.zeros(len(weight))
        if l < last and net.norm_kind == "batch":
            mean, variance = net.arrays.moving_statistics(l)
            factor = parameters[f"norm{l}.gamma"] / np.sqrt(variance + net.eps)
            shift = parameters[f"norm{l}.beta"] - factor * mean
            if net.norm == "before":
                weight, bias = factor[:, None] * weight, factor * bias + shift
                factor, shift = np.ones(len(weight)), np.zeros(len(weight))
        if l == last and standardizers and net.target_standardizer is not None:
            scale = net.target_standardizer.scale_
            weight, bias = scale[:, None] * weight, scale * bias + net.target_standardizer.mean_
        layers.append((weight, bias))
    return layers
