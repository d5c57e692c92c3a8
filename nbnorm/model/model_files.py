"""The file of a network: an NPZ archive without pickle, its options as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nbnorm import _check, _files
from nbnorm.functions import activations
from nbnorm.functions import loss_options as losses
from nbnorm.functions.activations import ActivationLike
from nbnorm.model import inputs
from nbnorm.statistics.encoding import ColumnEncoder

if TYPE_CHECKING:
    from nbnorm.model.network import FNN

_PLAIN = (
    "norm", "output", "standardize", "encoding", "bins", "standardize_targets", "eps", "decay", "running",
    "unbiased", "weighted_statistics", "frozen_statistics", "precision", "init", "seed", "training",
    "epochs_trained", "metadata",
)  # fmt: skip


def save(net: FNN, path: _files.Target) -> None:
    """Write a network to a file, atomically. See `FNN.save`."""
    config = {
        "sizes": list(net.sizes),
        "activation": [getattr(one, "name", one) for one in net.activations],
        "loss": net.loss.name,
        "loss_options": net.loss.settings(),
        "dropout": list(net.dropout),
        "dtype": net.dtype.name,
        **{name: getattr(net, name) for name in _PLAIN},
        **inputs.statistics_to_dict(net),
    }
    _files.write(path, "network", config, net.arrays.named())


def load(
    kind: type[FNN],
    path: _files.Target,
    activation: ActivationLike | Sequence[ActivationLike] | None,
    loss: losses.LossLike | None,
) -> FNN:
    """Return the network, of class `kind`, that a file holds. See `FNN.load`."""
    config, arrays = _files.read(path, "network")
    try:
        options = dict(config)
        training = _check.flag("training", options.pop("training"))
        epochs = _check.integer("epochs_trained", options.pop("epochs_trained"), least=0)
        metadata = dict(options.pop("metadata"))
        statistics = {name: options.pop(name) for name in ("encoder", "standardizer", "target_standardizer")}
        sizes, loss_options = options.pop("sizes"), options.pop("loss_options")
        options["loss"] = _known_loss(options["loss"], loss_options) if loss is None else loss
        if activation is None:
            _check_known(options["activation"])
        else:
            options["activation"] = activation
        _check_shapes(sizes, statistics["encoder"], arrays)
        net = kind(sizes, **options)
        net.training, net.epochs_trained, net.metadata = training, epochs, metadata
        inputs.take_statistics(net, statistics)
        net.arrays.check_like(arrays)
        net.arrays.assign(arrays)
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{_files.name_of(path)} does not hold a network: {error}") from None
    return net


def _known_loss(name: str, options: dict[str, Any]) -> losses.Loss:
    """Return the loss that a file names."""
    if name not in losses.LOSSES:
        raise ValueError(f"its loss {name!r} is not one of the package: give it as loss=")
    return losses.LOSSES[name](**options)


def _check_known(names: Sequence[str]) -> None:
    """Refuse activations that are not of the package."""
    for name in names:
        if name not in activations.CODES:
            raise ValueError(f"its activation {name!r} is not one of the package: give activation=")


def _check_shapes(sizes: Sequence[int], encoder: Any, arrays: Mapping[str, Any]) -> None:
    """Refuse weights of other shapes than the sizes, before memory is allocated by them."""
    inputs_ = sizes[0] if encoder is None else ColumnEncoder.from_dict(encoder).n_features_out_
    widths = [inputs_, *sizes[1:]]
    for l in range(1, len(sizes)):
        expected = widths[l], widths[l - 1]
        if arrays[f"dense{l}.weight"].shape != expected:
            raise ValueError(f"dense{l}.weight does not have shape {expected}")
