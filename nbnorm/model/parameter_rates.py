"""Parameters that are frozen or have learning rates of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from nbnorm import _check

if TYPE_CHECKING:
    from nbnorm.model.network import FNN


def factors(
    net: FNN, lr: float, frozen: Iterable[str], rates: Mapping[str, float] | None
) -> dict[str, float]:
    """Return by which factor of the learning rate `lr` the parameters move that do not follow it.

    Parameters
    ----------
    net : FNN
    lr : float
        The optimizer's.
    frozen : iterable of str
        Names of parameters, or of layers for all of theirs.
    rates : mapping of str to float, or None
        Learning rates by such names; that of a parameter comes before that of its layer.

    Raises
    ------
    TypeError, ValueError
        If a name is unknown or given in both, or a rate is not a number of at least 0.
    """
    if isinstance(frozen, (str, bytes)) or not isinstance(frozen, Iterable):
        raise TypeError(f"frozen must be a sequence of names, got {frozen!r}")
    if rates is not None and not isinstance(rates, Mapping):
        raise TypeError(f"rates must be a mapping of names to learning rates, got {type(rates).__name__}")
    still = {name for given in frozen for name in _named(net, "frozen", given)}
    found: dict[str, float] = {}
    own = {key: _check.number(f"rates[{key!r}]", rate, least=0.0) for key, rate in (rates or {}).items()}
    for given in sorted(own, key=lambda key: "." in str(key)):  # layers first
        names = _named(net, "rates", given)
        if still & set(names):
            raise ValueError(f"{given!r} must not be in both frozen and rates")
        found |= dict.fromkeys(names, own[given] / lr)
    found |= dict.fromkeys(still, 0.0)
    return {name: found[name] for name in net.arrays.parameters if found.get(name, 1.0) != 1.0}


def _named(net: FNN, argument: str, given: object) -> list[str]:
    """Return the parameters that a name stands for."""
    names = list(net.arrays.parameters)
    found = [name for name in names if given in (name, name.partition(".")[0])]
    if not found:
        layers = dict.fromkeys(name.partition(".")[0] for name in names)
        known = ", ".join([*layers, *names])
        raise ValueError(f"{argument} must name layers or parameters of the network ({known}), got {given!r}")
    return found
