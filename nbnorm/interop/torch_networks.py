"""Networks as torch modules and back."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from nbnorm import _check
from nbnorm._types import Array
from nbnorm.functions.loss_options import LossLike, Output
from nbnorm.interop import layers
from nbnorm.interop.extras import activation_names, described, needed, normalization
from nbnorm.interop.layers import Affine, BatchNorm, Diagonal, Layer, SampleNorm
from nbnorm.model.network import FNN
from nbnorm.model.options import NormKind
from nbnorm.model.sample_norm import scale_and_shift

if TYPE_CHECKING:
    import torch

# Under this name a module made here keeps the description of its network, for `from_torch`.
_DESCRIPTION = "nbnorm_network"
# Where what a module computes is known.
_KNOWN_CODE = ("torch.nn.", "nbnorm.interop.")
# Hooks of torch that make a weight anew before each call, from parameters that may have changed since.
_WEIGHT_HOOKS = ("torch.nn.utils.weight_norm", "torch.nn.utils.prune", "torch.nn.utils.spectral_norm")
# From here on softplus differs from the identity by less than float32 tells.
_LEAST_THRESHOLD = 20


def _activation(nn: ModuleType, name: str) -> torch.nn.Module:
    """Return torch's module of an activation."""
    made = {
        "relu": nn.ReLU,
        "sigmoid": nn.Sigmoid,
        "tanh": nn.Tanh,
        "identity": nn.Identity,
        "leaky_relu": lambda: nn.LeakyReLU(0.01),
        "elu": nn.ELU,
        "gelu": nn.GELU,
        "silu": nn.SiLU,
        "selu": nn.SELU,
        "softplus": lambda: nn.Softplus(threshold=40.0),
    }
    if name not in made:
        raise ValueError(f"the activation {name!r} has no counterpart in torch here")
    return made[name]()


def to_torch(net: FNN) -> torch.nn.Sequential:
    """Return a torch module that computes the same and can be trained on.

    Its parts are named as those of the network, so that its ``state_dict`` holds

    =========================  ======================================================================
    ``standardizer.mean``      with ``.mean_low`` and ``.scale``: buffers, which are not trained
    ``dense1.weight``          and ``dense1.bias``, as in `FNN.parameters`
    ``norm1.weight``           gamma, and ``norm1.bias`` beta, which RMS norm does not have
    ``norm1.running_mean``     and ``norm1.running_var``; for ``running="std"`` the square of the average
    ``target.mean``            with ``.mean_low`` and ``.scale``: buffers of standardized targets
    =========================  ======================================================================

    beside ``encoding``, ``activation1`` and ``dropout1``, which hold nothing that is trained.

    Parameters
    ----------
    net : FNN
        Left as it is; the module has copies.

    Returns
    -------
    torch.nn.Sequential
        Of the network's dtype and in its mode.  It gives logits, as `FNN.forward`, or for standardized
        targets values in the units of the targets; ``module[:-1]`` then gives the standardized ones.

    Raises
    ------
    ImportError
        If torch is missing: ``pip install "nbnorm[torch]"``.
    TypeError
        If `net` is no FNN.
    ValueError
        If an activation is a function of your own.

    Notes
    -----
    torch's ``momentum`` is ``1 - decay``, and None where that is.  In training torch always averages the
    variance, and the unbiased one: for ``running="std"`` or ``unbiased=False`` the moving averages go on from
    their values in its way.

    Examples
    --------
    >>> from nbnorm import FNN
    >>> from nbnorm.interop import to_torch  # doctest: +SKIP
    >>> list(to_torch(FNN([3, 4, 2])).state_dict())[:2]  # doctest: +SKIP
    ['dense1.weight', 'dense1.bias']
    """
    if not isinstance(net, FNN):
        raise TypeError(f"net must be an FNN, got {type(net).__name__}")
    torch = needed("torch", "torch")
    from nbnorm.interop import torch_modules

    nn = torch.nn
    dtype = torch.from_numpy(np.empty(0, net.dtype)).dtype
    names = activation_names(net, "torch")
    if net.encoding is not None and net.encoder is None:
        raise RuntimeError("the encoding needs a call of fit first")
    parameters = net.parameters()
    modules: OrderedDict[str, Any] = OrderedDict()
    if net.encoder is not None:
        modules["encoding"] = torch_modules.Encode(net.encoder, dtype)
    if net.standardizer is not None:
        modules["standardizer"] = torch_modules.Standardize(net.standardizer, dtype)
    if net.encoder is not None:
        modules["missing"] = torch_modules.FillMissing()
    last = len(net.sizes) - 1
    for l in range(1, last + 1):
        weight, bias = parameters[f"dense{l}.weight"], parameters.get(f"dense{l}.bias")
        dense = nn.utils.skip_init(
            nn.Linear, weight.shape[1], weight.shape[0], bias=bias is not None, dtype=dtype
        )
        _copy(torch, dense.weight, weight)
        if bias is not None:
            _copy(torch, dense.bias, bias)
        modules[f"dense{l}"] = dense
        if l == last:
            break
        activation = _activation(nn, names[l - 1])
        if net.norm_placement != "before":
            modules[f"activation{l}"] = activation
        if net.norm_kind == "batch":
            modules[f"norm{l}"] = _batch_norm(torch, net, l, dtype)
        elif net.norm_kind is not None:
            modules[f"norm{l}"] = _sample_norm(torch, net, l, dtype)
        if net.norm_placement == "before":
            modules[f"activation{l}"] = activation
        if net.dropout[l - 1] > 0.0:
            modules[f"dropout{l}"] = nn.Dropout(net.dropout[l - 1])
    if net.target_standardizer is not None:
        # outputs of one target, such as its quantiles, stand beside each other
        each = net.sizes[-1] // net.target_standardizer.n_features_in_
        modules["target"] = torch_modules.Unstandardize(net.target_standardizer, dtype, each=each)
    module = nn.Sequential(modules)
    setattr(module, _DESCRIPTION, described(net)[0])
    module.train(net.training)
    return module  # type: ignore[no-any-return, unused-ignore]


def _copy(torch: ModuleType, target: torch.Tensor, values: Array) -> None:
    with torch.no_grad():
        target.copy_(torch.from_numpy(np.array(values)))


def _batch_norm(torch: ModuleType, net: FNN, l: int, dtype: torch.dtype) -> torch.nn.Module:
    gamma, beta, mean, var = normalization(net, l)
    momentum = None if net.decay is None else 1.0 - net.decay
    norm = torch.nn.BatchNorm1d(len(gamma), eps=net.eps, momentum=momentum, dtype=dtype)
    if net.decay is None:
        _copy(torch, norm.num_batches_tracked, net.buffers()[f"norm{l}.n_batches"])
    for target, values in (
        (norm.weight, gamma),
        (norm.bias, beta),
        (norm.running_mean, mean),
        (norm.running_var, var),
    ):
        _copy(torch, target, values)
    return norm


def _sample_norm(torch: ModuleType, net: FNN, l: int, dtype: torch.dtype) -> torch.nn.Module:
    """Return torch's layer norm or RMS norm."""
    name = "RMSNorm" if net.norm_kind == "rms" else "LayerNorm"
    if not hasattr(torch.nn, name):
        raise ValueError(
            f"norm={net.norm!r} needs torch.nn.{name}, which torch {torch.__version__} does not have"
        )
    norm = getattr(torch.nn, name)(net.sizes[l], eps=net.eps, dtype=dtype)
    for target, values in zip(
        (norm.weight, getattr(norm, "bias", None)), scale_and_shift(net, l), strict=True
    ):
        if target is not None:
            _copy(torch, target, values)
    return norm


# ----------------------------------------------------------------------------------------------
# Back
# ----------------------------------------------------------------------------------------------


def _flat(module: torch.nn.Module, name: str, nn: ModuleType) -> Iterator[tuple[str, torch.nn.Module]]:
    """Yield the modules of nested sequences, with their names."""
    if isinstance(module, nn.Sequential):
        _refuse_own_code(f"module {name!r}" if name else "the module", module)
        for part, child in module._modules.items():  # also one that stands there twice
            assert child is not None
            yield from _flat(child, f"{name}.{part}" if name else part, nn)
    else:
        yield name, module


def _refuse_own_code(where: str, module: torch.nn.Module) -> None:
    """Refuse a module that computes something else than its class does, or whose numbers are not there."""
    defined = next(cls for cls in type(module).__mro__ if "forward" in vars(cls))
    if "forward" in vars(module) or not defined.__module__.startswith(_KNOWN_CODE):
        raise ValueError(f"{where} has a forward of its own, which an FNN cannot have")
    for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
        if hasattr(tensor, "materialize"):
            raise ValueError(f"{where} is lazy, and its {name} has no shape yet: call the module once")
        if tensor.is_meta:
            raise ValueError(f"{where} has no numbers: its {name} is on the device 'meta'")
        if tensor.is_complex() or tensor.is_quantized:
            raise ValueError(f"{where} must hold real numbers, and its {name} is {tensor.dtype}")
    hooks = list(module._forward_pre_hooks.values())
    if module._forward_hooks or not all(type(hook).__module__ in _WEIGHT_HOOKS for hook in hooks):
        raise ValueError(f"{where} has forward hooks, which an FNN cannot have: remove them first")


def _numbers(tensor: torch.Tensor) -> Array:
    """Return the numbers of a tensor, float64."""
    return np.array(tensor.detach().cpu().double().numpy())


def _layer(name: str, module: torch.nn.Module, nn: ModuleType, modules: ModuleType) -> list[Layer]:
    """Return the layers that a module is."""
    kind = type(module).__name__
    where = f"module {name!r} ({kind})" if name else f"the module ({kind})"
    _refuse_own_code(where, module)
    for hook in module._forward_pre_hooks.values():
        if not module.training or type(hook).__module__ != _WEIGHT_HOOKS[-1]:  # which learns in training
            hook(module, ())
    if isinstance(module, nn.Linear):
        weight = _numbers(module.weight)
        return [
            Affine(where, weight, np.zeros(len(weight)) if module.bias is None else _numbers(module.bias))
        ]
    if isinstance(module, (nn.BatchNorm1d, nn.SyncBatchNorm)):
        if module.running_mean is None or module.running_var is None:
            raise ValueError(f"{where} has no moving averages (track_running_stats=False)")
        mean, var = _numbers(module.running_mean), _numbers(module.running_var)
        gamma = np.ones(len(mean)) if module.weight is None else _numbers(module.weight)
        beta = np.zeros(len(mean)) if module.bias is None else _numbers(module.bias)
        batches = int(module.num_batches_tracked)
        return [BatchNorm(where, gamma, beta, mean, var, float(module.eps), module.momentum, batches)]
    sample_norm = _sample_norm_of(where, module, nn)
    if sample_norm is not None:
        return [sample_norm]
    if isinstance(module, modules.Standardize):
        mean = _numbers(module.mean) + _numbers(module.mean_low)
        scale, none = _numbers(module.scale), np.zeros(1)
        if isinstance(module, modules.Unstandardize):
            return [layers.Wide(where), Diagonal(where, none, scale, mean)]
        return [Diagonal(where, mean, 1.0 / scale, none)]
    if isinstance(module, modules.Encode):
        return [layers.Encoding(where, module.encoder)]
    if isinstance(module, (nn.Dropout, nn.Dropout1d)):
        return [layers.Dropout(where, float(module.p))]
    if isinstance(module, nn.Flatten) and module.start_dim != 1:
        raise ValueError(f"{where} must have start_dim=1, so that samples stay apart, got {module.start_dim}")
    if isinstance(module, (nn.Identity, nn.Flatten, modules.FillMissing)):
        return []
    if isinstance(module, (nn.Softmax, nn.LogSoftmax)):
        if module.dim not in (None, 1, -1):
            raise ValueError(f"{where} is a softmax over the samples")
        return [layers.Activation(where, "softmax")]
    return [layers.Activation(where, _activation_name(where, module, nn))]


def _sample_norm_of(where: str, module: torch.nn.Module, nn: ModuleType) -> SampleNorm | None:
    """Return the layer norm or RMS norm that a module is."""
    kind: NormKind | None = None
    if isinstance(module, nn.LayerNorm):
        kind = "layer"
    elif hasattr(nn, "RMSNorm") and isinstance(module, nn.RMSNorm):
        kind = "rms"
    if kind is None:
        return None
    shape = tuple(module.normalized_shape)
    if len(shape) != 1:
        raise ValueError(f"{where} normalizes arrays of shape {shape}, and an FNN has vectors of features")
    weight, bias = module.weight, getattr(module, "bias", None)
    gamma = np.ones(shape) if weight is None else _numbers(weight)
    beta = np.zeros(shape) if bias is None else _numbers(bias)
    eps = module.eps
    if eps is None:  # torch then takes the distance of 1 from the next number
        eps = np.finfo(np.float64 if weight is not None and "64" in str(weight.dtype) else np.float32).eps
    return SampleNorm(where, kind, gamma, beta, float(eps))


def _activation_name(where: str, module: torch.nn.Module, nn: ModuleType) -> str:
    """Return the package's name of an activation module."""
    plain = {nn.ReLU: "relu", nn.Sigmoid: "sigmoid", nn.Tanh: "tanh", nn.SiLU: "silu", nn.SELU: "selu"}
    if type(module) in plain:
        return plain[type(module)]
    same = {
        nn.LeakyReLU: ("leaky_relu", "negative_slope", 0.01),
        nn.ELU: ("elu", "alpha", 1.0),
        nn.GELU: ("gelu", "approximate", "none"),
        nn.Softplus: ("softplus", "beta", 1.0),
    }
    if type(module) not in same:
        raise ValueError(f"{where} is no part of a fully connected network that an FNN can be")
    if isinstance(module, nn.Softplus) and module.threshold < _LEAST_THRESHOLD:
        raise ValueError(
            f"{where} must have a threshold of at least {_LEAST_THRESHOLD}, which is softplus here, got "
            f"{module.threshold!r}"
        )
    name, option, value = same[type(module)]
    got = getattr(module, option)
    if got != value:
        raise ValueError(f"{where} must have {option}={value!r}, which is {name} here, got {got!r}")
    return name


def from_torch(
    module: torch.nn.Module,
    *,
    output: Output | None = None,
    decay: float | None = None,
    loss: LossLike | None = None,
) -> FNN:
    """Return an FNN that computes what a torch module does.

    Parameters
    ----------
    module : torch.nn.Sequential
        Of Linear, BatchNorm1d, LayerNorm, RMSNorm, activations, Dropout, Flatten, Identity, sequences of
        these, and what `to_torch` makes; at the end maybe Softmax, LogSoftmax or Sigmoid.
    output : {"softmax", "sigmoid", "identity"}, optional
        What the outputs are: "softmax" for logits of classes.  By default as the module ends, or as in the
        network from which `to_torch` has made it, otherwise "identity".
    decay : float, optional
        Weight of the old value in the moving averages, by default ``1 - momentum``.
    loss : str or Loss, optional
        What further training minimizes; by default that of the network from which `to_torch` has made the
        module, otherwise as for a new network.

    Returns
    -------
    FNN
        In evaluation mode, float64 if the module is, otherwise float32; it has copies.  Batch norm can be
        trained on where all hidden layers have it in the same placement, otherwise it is folded into the
        affine layers.  Layer norm or RMS norm has to be alike in all hidden layers.

    Raises
    ------
    ImportError
        If torch is missing: ``pip install "nbnorm[torch]"``.
    TypeError
        If `module` is no torch module.
    ValueError
        If no FNN computes the same; the message names the part: also one with a forward method or hooks of
        its own (weight norm, spectral norm and pruning of torch are read), a lazy one, one without numbers.

    Notes
    -----
    An FNN has one `eps`: where those of batch norms differ it is the least, and the rest goes into the moving
    variances, which changes no answer.

    See Also
    --------
    to_torch

    Examples
    --------
    >>> import torch  # doctest: +SKIP
    >>> from nbnorm.interop import from_torch  # doctest: +SKIP
    >>> from_torch(torch.nn.Linear(3, 2)).sizes  # doctest: +SKIP
    (3, 2)
    """
    torch = needed("torch", "torch")
    from nbnorm.interop import torch_modules

    nn = torch.nn
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, got {type(module).__name__}")
    if decay is not None:
        decay = _check.number("decay", decay, least=0.0, below=1.0)
    double = any(tensor.dtype == torch.float64 for tensor in module.parameters())
    found = [layer for part in _flat(module, "", nn) for layer in _layer(*part, nn, torch_modules)]
    known = getattr(module, _DESCRIPTION, None)
    return layers.network(
        found,
        "the module",
        dtype=np.float64 if double else np.float32,
        output=output,
        decay=decay,
        loss=loss,
        known=known if isinstance(known, dict) else None,
    )
