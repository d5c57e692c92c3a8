"""Layer norm and RMS norm of a network's hidden layers, by the functions of the package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nbnorm.functions.layer_norm import layer_norm_forward, rms_norm_forward

if TYPE_CHECKING:
    from nbnorm.model.network import FNN

Array = npt.NDArray[Any]


def scale_and_shift(net: FNN, l: int) -> tuple[Array, Array]:
    """Return gamma and beta of the normalization of layer `l`; RMS norm has no beta, which is 0.

    Examples
    --------
    >>> from nbnorm import FNN
    >>> scale_and_shift(FNN([3, 2, 2], norm="rms"), 1)
    (array([1., 1.], dtype=float32), array([0., 0.], dtype=float32))
    """
    parameters = net.arrays.parameters
    gamma = parameters[f"norm{l}.gamma"]
    return gamma, parameters.get(f"norm{l}.beta", np.zeros_like(gamma))


def normalized_samples(net: FNN, l: int, y: Array) -> Array:
    """Return what the layer norm or RMS norm of layer `l` makes of `y`, of the dtype of `y`.

    Examples
    --------
    >>> from nbnorm import FNN
    >>> normalized_samples(FNN([3, 2, 2], norm="layer"), 1, np.array([[3.0, 5.0]])).round(3)
    array([[-1.,  1.]])
    """
    gamma, beta = (values.astype(y.dtype) for values in scale_and_shift(net, l))
    if net.norm_kind == "rms":
        return rms_norm_forward(y, gamma, eps=net.eps)[0]
    return layer_norm_forward(y, gamma, beta, eps=net.eps)[0]
