"""Optional packages, imported when a function needs them, and what several modules of this folder need."""

from __future__ import annotations

import importlib
import io
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from nbnorm import _files
from nbnorm.functions.activations import Activation, ActivationLike
from nbnorm.functions.loss_options import LossLike
from nbnorm.model.network import FNN

Array = npt.NDArray[Any]


def needed(module: str, extra: str) -> ModuleType:
    """Import a package of an extra.

    Parameters
    ----------
    module : str
        Its name.
    extra : str
        The extra that installs it.

    Returns
    -------
    module

    Raises
    ------
    ImportError
        If it is missing; the message names the extra.

    Examples
    --------
    >>> needed("a_package_that_is_missing", "onnx")
    Traceback (most recent call last):
        ...
    ImportError: this needs a_package_that_is_missing: pip install "nbnorm[onnx]"
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f'this needs {module}: pip install "nbnorm[{extra}]"') from error


def described(net: FNN) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return what `FNN.save` keeps of a network: its description, as JSON can hold it, and its arrays.

    Examples
    --------
    >>> config, arrays = described(FNN([3, 2], seed=1))
    >>> config["sizes"], list(arrays)
    ([3, 2], ['dense1.weight', 'dense1.bias'])
    """
    file = io.BytesIO()
    net.save(file)
    file.seek(0)
    return _files.read(file, "network")


class _Named(io.BytesIO):
    """Bytes that messages call by the name of the file from which they come."""

    name: str


def rebuilt(
    config: Mapping[str, Any],
    arrays: Mapping[str, Array],
    name: str,
    *,
    activation: ActivationLike | Sequence[ActivationLike] | None = None,
    loss: LossLike | None = None,
) -> FNN:
    """Return the network of which `described` returned description and arrays.

    Parameters
    ----------
    config, arrays : dict
        Checked as those of a file that anybody may have written.
    name : str
        What messages call their origin.
    activation, loss : optional
        As for `FNN.load`.

    Returns
    -------
    FNN

    Raises
    ------
    TypeError, ValueError
        If they do not describe a network.

    Examples
    --------
    >>> rebuilt(*described(FNN([3, 2], seed=1)), "a copy").sizes
    (3, 2)
    """
    file = _Named()
    file.name = name
    _files.write(file, "network", config, arrays)
    file.seek(0)
    return FNN.load(file, activation=activation, loss=loss)


def activation_names(net: FNN, what: str) -> list[str]:
    """Return the name of each hidden layer's activation.

    Parameters
    ----------
    net : FNN
    what : str
        Where they are to go, for the message.

    Returns
    -------
    list of str

    Raises
    ------
    ValueError
        If one is a function of the user's own.

    Examples
    --------
    >>> activation_names(FNN([3, 4, 5, 2], activation=["relu", "tanh"]), "ONNX")
    ['relu', 'tanh']
    """
    for l, one in enumerate(net.activations, start=1):
        if isinstance(one, Activation):
            raise ValueError(
                f"hidden layer {l} has the activation {one.name!r}, a function of your own: "
                f"{what} has no counterpart of it"
            )
    return [str(one) for one in net.activations]


def normalization(net: FNN, layer: int) -> tuple[Array, Array, Array, Array]:
    """Return gamma, beta, moving mean and moving variance of a batch norm, float64.

    Examples
    --------
    >>> normalization(FNN([3, 1, 2]), 1)
    (array([1.]), array([0.]), array([0.]), array([1.]))
    """
    parameters = net.parameters()
    gamma, beta = (parameters[f"norm{layer}.{name}"].astype(np.float64) for name in ("gamma", "beta"))
    return gamma, beta, *net.arrays.moving_statistics(layer)
