"""The arrays of a network: parameters and moving averages by name."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nbnorm import _check

if TYPE_CHECKING:
    from nbnorm.model.network import FNN

Array = npt.NDArray[Any]


@dataclasses.dataclass
class Arrays:
    """Parameters, of the network's dtype, and moving averages, float64; both by name and live.

    Of cumulative averages the moving averages include the number of batches, int64.
    """

    parameters: dict[str, Array]
    buffers: dict[str, Array]

    def named(self) -> dict[str, Array]:
        """Return parameters and moving averages in one dictionary."""
        return {**self.parameters, **self.buffers}

    def moving_statistics(self, layer: int) -> tuple[Array, Array]:
        """Return the moving averages of mean and variance of a batch norm, whichever of the two it keeps."""
        deviation = self.buffers.get(f"norm{layer}.running_std")
        variance = self.buffers[f"norm{layer}.running_var"] if deviation is None else deviation**2
        return self.buffers[f"norm{layer}.running_mean"], variance

    def writable(self) -> Arrays:
        """Replace read-only arrays by copies: joblib maps those of a network that it hands on."""
        for arrays in (self.parameters, self.buffers):
            for name, values in arrays.items():
                if not values.flags.writeable:
                    arrays[name] = np.array(values)
        return self

    def copy(self, dtype: np.dtype[Any] | None = None) -> Arrays:
        """Return a copy, of another dtype of the parameters where one is given."""
        return Arrays(
            {name: np.array(values, dtype or values.dtype) for name, values in self.parameters.items()},
            {name: np.array(values) for name, values in self.buffers.items()},
        )

    def assign(self, values: Mapping[str, Array]) -> None:
        """Write values, of some or all arrays, into these."""
        mine = self.named()
        for name, array in values.items():
            mine[name][...] = array

    def check_finite(self) -> None:
        """Refuse parameters and moving averages that are not finite."""
        for name, values in self.named().items():
            _check.finite(f"the network's {name}", values)

    def check_like(self, others: Mapping[str, Array]) -> None:
        """Refuse arrays of other names, shapes or dtypes."""
        mine = self.named()
        if set(mine) != set(others):
            raise ValueError(f"arrays {sorted(set(mine) ^ set(others))} are missing or foreign")
        for name, values in mine.items():
            if others[name].shape != values.shape or others[name].dtype != values.dtype:
                raise ValueError(
                    f"array {name} has shape {others[name].shape} and dtype {others[name].dtype}"
                )


def initial(net: FNN) -> Arrays:
    """Return the arrays of a new network: random weights, and normalization with gamma 1 and beta 0."""
    parameters: dict[str, Array] = {}
    buffers: dict[str, Array] = {}
    rng = np.random.default_rng(net.seed)
    last = len(net.sizes) - 1
    for l in range(1, last + 1):
        n_in, n_out = net.sizes[l - 1], net.sizes[l]
        parameters[f"dense{l}.weight"] = initial_weight(net, n_out, n_in, rng)
        if l == last or net.norm != "before":
            parameters[f"dense{l}.bias"] = np.zeros(n_out, net.dtype)
        if l < last and net.norm is not None:
            parameters[f"norm{l}.gamma"] = np.ones(n_out, net.dtype)
            if net.norm_kind != "rms":
                parameters[f"norm{l}.beta"] = np.zeros(n_out, net.dtype)
        if l < last and net.norm_kind == "batch":
            buffers[f"norm{l}.running_mean"] = np.zeros(n_out)
            buffers[f"norm{l}.running_{net.running}"] = np.ones(n_out)
            if net.decay is None:
                buffers[f"norm{l}.n_batches"] = np.zeros((), np.int64)
    return Arrays(parameters, buffers)


def initial_weight(net: FNN, n_out: int, n_in: int, rng: np.random.Generator) -> Array:
    """Return a random weight matrix by `net.init`, drawn in float64."""
    if net.init == "orthogonal":
        tall = rng.standard_normal((max(n_out, n_in), min(n_out, n_in)))
        weight, r = np.linalg.qr(tall)
        weight *= np.sign(np.diag(r))
        weight = weight if n_out >= n_in else weight.T
    else:
        variance = {"he": 2.0 / n_in, "glorot": 2.0 / (n_in + n_out), "lecun": 1.0 / n_in}[net.init]
        weight = rng.standard_normal((n_out, n_in)) * math.sqrt(variance)
    return np.asarray(weight.astype(net.dtype, order="C"))
