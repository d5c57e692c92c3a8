"""Networks in safetensors files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from nbnorm import _files
from nbnorm.functions.activations import ActivationLike
from nbnorm.functions.loss_options import LossLike
from nbnorm.interop.extras import described, needed, rebuilt
from nbnorm.model.network import FNN

# The entry of the file's metadata that holds the description, and its version.
_ENTRY = "nbnorm"
_VERSION = 1


def save_safetensors(net: FNN, path: _files.Target) -> None:
    """Write a network to a safetensors file, with everything that `FNN.save` keeps.

    The tensors are named as in `FNN.parameters` and `FNN.buffers`.  The metadata have one entry ``"nbnorm"``,
    a JSON object with "version", "kind" ("network") and "config": options, standardizers, encoder and the
    network's `metadata`.

    Parameters
    ----------
    net : FNN
        Of an `Activation` or a `CustomLoss` only the name is written.
    path : path-like or binary file
        File to write or replace, atomically.

    Raises
    ------
    ImportError
        If safetensors is missing: ``pip install "nbnorm[safetensors]"``.
    TypeError
        If `net` is no FNN, or its `metadata` hold something that JSON cannot.
    OSError
        If the file cannot be written.

    See Also
    --------
    load_safetensors

    Examples
    --------
    >>> import io
    >>> from nbnorm import FNN
    >>> from nbnorm.interop import load_safetensors, save_safetensors
    >>> file = io.BytesIO()
    >>> save_safetensors(FNN([3, 2], seed=1), file)
    >>> _ = file.seek(0)
    >>> load_safetensors(file).sizes
    (3, 2)
    """
    if not isinstance(net, FNN):
        raise TypeError(f"net must be an FNN, such as an estimator's network_, got {type(net).__name__}")
    safetensors = needed("safetensors.numpy", "safetensors")
    config, arrays = described(net)
    text = json.dumps({"version": _VERSION, "kind": "network", "config": config}, allow_nan=False)
    data = safetensors.save(arrays, metadata={_ENTRY: text})
    with _files.replace(path) as file:
        file.write(data)


def _no_constant(name: str) -> NoReturn:
    raise _files.MalformedError(f"its description holds {name}")


def _config(data: bytes) -> dict[str, Any]:
    """Return the description of the network in a file."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length].decode(), parse_constant=_no_constant)
    text = header.get("__metadata__", {}).get(_ENTRY)
    if text is None:
        raise _files.MalformedError(
            f"its metadata have no entry {_ENTRY!r}: save_safetensors did not write it"
        )
    known = json.loads(text, parse_constant=_no_constant)
    if (
        not isinstance(known, dict)
        or known.get("kind") != "network"
        or not isinstance(known.get("config"), dict)
    ):
        raise _files.MalformedError(f"the entry {_ENTRY!r} of its metadata describes no network")
    version = known.get("version")
    if type(version) is not int or not 1 <= version <= _VERSION:
        raise _files.MalformedError(
            f"version {version!r} is not one that this nbnorm reads (1 to {_VERSION})"
        )
    config: dict[str, Any] = known["config"]
    return config


def load_safetensors(
    path: _files.Target,
    *,
    activation: ActivationLike | Sequence[ActivationLike] | None = None,
    loss: LossLike | None = None,
) -> FNN:
    """Read a network that `save_safetensors` has written.

    Parameters
    ----------
    path : path-like or binary file
        File to read.  Nothing in it is executed; sizes are checked before memory is allocated.
    activation, loss : optional
        As for `FNN.load`: functions of your own, which are not in the file.

    Returns
    -------
    FNN

    Raises
    ------
    ImportError
        If safetensors is missing: ``pip install "nbnorm[safetensors]"``.
    OSError
        If the file cannot be read.
    ValueError
        If it is damaged, or not of `save_safetensors`.

    See Also
    --------
    save_safetensors

    Examples
    --------
    >>> import io
    >>> from nbnorm.interop import load_safetensors
    >>> load_safetensors(io.BytesIO(bytes(8)))
    Traceback (most recent call last):
        ...
    ValueError: the file object is not a safetensors file: ...
    """
    safetensors = needed("safetensors", "safetensors")
    with _files.reading(path, "a safetensors file") as file:
        data = file.read()
        try:
            tensors = safetensors.deserialize(data)
            arrays = {name: _array(name, tensor) for name, tensor in tensors}
        except safetensors.SafetensorError as error:
            raise _files.MalformedError(str(error)) from None
        config = _config(data)
    return rebuilt(config, arrays, _files.name_of(path), activation=activation, loss=loss)


def _array(name: str, tensor: dict[str, Any]) -> npt.NDArray[Any]:
    """Return the array of a tensor as the file describes it."""
    known = {"F32": "<f4", "F64": "<f8", "I64": "<i8"}
    if tensor["dtype"] not in known:
        raise _files.MalformedError(f"tensor {name!r} has dtype {tensor['dtype']}, expected F32, F64 or I64")
    flat = np.frombuffer(tensor["data"], known[tensor["dtype"]])
    return flat.astype(flat.dtype.newbyteorder("=")).reshape(tensor["shape"])
