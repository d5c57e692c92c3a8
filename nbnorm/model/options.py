"""The options of a network: their names, their types, and the checks of what a user gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from nbnorm import _check
from nbnorm.functions import activations
from nbnorm.functions import loss_options as losses
from nbnorm.functions.activations import ActivationLike
from nbnorm.functions.batch_norm_layer import Running
from nbnorm.functions.loss_options import Output

if TYPE_CHECKING:
    from nbnorm.model.arrays import Arrays
    from nbnorm.statistics.encoding import ColumnEncoder

Norm: TypeAlias = Literal["after", "before", "layer", "layer_after", "rms", "rms_after"]
NormKind: TypeAlias = Literal["batch", "layer", "rms"]
Placement: TypeAlias = Literal["after", "before"]
Init: TypeAlias = Literal["he", "glorot", "lecun", "orthogonal"]
Encoding: TypeAlias = Literal["piecewise"]
Precision: TypeAlias = Literal["float32", "bfloat16"]

# What each value of `norm` normalizes by, and where it stands relative to the activation.
_NORMS: dict[Norm | None, tuple[NormKind | None, Placement | None]] = {
    "after": ("batch", "after"),
    "before": ("batch", "before"),
    "layer": ("layer", "before"),
    "layer_after": ("layer", "after"),
    "rms": ("rms", "before"),
    "rms_after": ("rms", "after"),
    None: (None, None),
}
NORMS: tuple[Norm | None, ...] = tuple(_NORMS)
INITS: tuple[Init, ...] = ("he", "glorot", "lecun", "orthogonal")
ENCODINGS: tuple[Encoding | None, ...] = (None, "piecewise")
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")


class Options:
    """The checked options of a network, as attributes of it."""

    sizes: tuple[int, ...]
    activation: ActivationLike | tuple[ActivationLike, ...]
    activations: tuple[ActivationLike, ...]  # one for each hidden layer
    norm: Norm | None
    output: Output
    loss: losses.Loss
    dropout: tuple[float, ...]
    standardize: bool
    encoding: Encoding | None
    bins: int | None
    standardize_targets: bool
    eps: float
    decay: float | None
    running: Running
    unbiased: bool
    weighted_statistics: bool
    frozen_statistics: bool
    precision: Precision
    init: Init
    dtype: np.dtype[Any]
    seed: int
    seeded: bool  # whether the seed was given

    # What a network has beside them, from which follows how wide it is.
    encoder: ColumnEncoder | None
    arrays: Arrays

    def __repr__(self) -> str:
        weighted = ", weighted_statistics=True" if self.weighted_statistics else ""
        rounded = f", precision={self.precision!r}" if self.precision != "float32" else ""
        return (
            f"FNN({list(self.sizes)}, activation={self.activation!r}, norm={self.norm!r}, "
            f"output={self.output!r}{weighted}{rounded}, dtype={self.dtype.name}, "
            f"parameters={self.n_parameters})"
        )

    @property
    def widths(self) -> tuple[int, ...]:
        """Features of each layer: `sizes`, but for an encoded input the number of its columns."""
        return self.sizes if self.encoder is None else (self.encoder.n_features_out_, *self.sizes[1:])

    @property
    def n_parameters(self) -> int:
        """Number of trainable values."""
        return sum(values.size for values in self.arrays.parameters.values())

    @property
    def norm_kind(self) -> NormKind | None:
        """Kind of normalization: over the mini-batch, or over the features of each sample."""
        return norm_kind(self.norm)

    @property
    def norm_placement(self) -> Placement | None:
        """Placement of the normalization relative to the activation."""
        return norm_placement(self.norm)


def norm_kind(norm: Norm | None) -> NormKind | None:
    """Return the kind of normalization that an option `norm` means."""
    return _NORMS[norm][0]


def norm_placement(norm: Norm | None) -> Placement | None:
    """Return the placement of the normalization that an option `norm` means."""
    return _NORMS[norm][1]


def norm_named(kind: NormKind | None, placement: Placement | None) -> Norm | None:
    """Return the option `norm` of a kind and a placement."""
    return next(norm for norm, found in _NORMS.items() if found == (kind, placement))


def given(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a method, but for the network."""
    return {name: value for name, value in arguments.items() if name not in ("self", "__class__")}


def checked(
    sizes: Sequence[int],
    activation: ActivationLike | Sequence[ActivationLike],
    norm: Norm | None,
    output: Output,
    loss: losses.LossLike | None,
    dropout: float | Sequence[float] | npt.NDArray[np.floating[Any]],
    standardize: bool,
    encoding: Encoding | None,
    bins: int | None,
    standardize_targets: bool,
    eps: float,
    decay: float | None,
    running: Running,
    unbiased: bool,
    weighted_statistics: bool,
    frozen_statistics: bool,
    precision: Precision,
    init: Init,
    dtype: npt.DTypeLike,
    seed: int | None,
) -> dict[str, Any]:
    """Return the options of `FNN` by name, checked and of their final types.

    Beside them stand `activations`, one for each hidden layer, and `seeded`, whether there was a seed.

    Raises
    ------
    TypeError, ValueError
        If an option is of the wrong kind or outside its range.
    """
    if isinstance(sizes, (str, bytes)) or not isinstance(sizes, (Sequence, np.ndarray)):
        raise TypeError(f"sizes must be a sequence of integers, got {type(sizes).__name__}")
    if len(sizes) < 2:
        raise ValueError(f"sizes must name the input and the output at least, got {list(sizes)}")
    sizes = tuple(_check.integer(f"sizes[{i}]", size, least=1) for i, size in enumerate(sizes))
    hidden = len(sizes) - 2
    each = _activations(activation, hidden)
    shown: object = activation
    if len(set(each)) == 1:
        shown = each[0]
    elif isinstance(activation, (list, tuple)):
        shown = each
    _check.choice("norm", norm, NORMS)
    output = _check.choice("output", output, tuple(losses.OUTPUTS))
    if output == "softmax" and sizes[-1] < 2:
        raise ValueError(
            'sizes must end with 2 or more classes for output="softmax", got 1; see output="sigmoid"'
        )
    resolved = losses.resolve(loss, output)
    resolved.targets(sizes[-1])
    probabilities = _dropout(dropout, hidden)
    standardize_targets = _check.flag("standardize_targets", standardize_targets)
    if standardize_targets and output != "identity":
        raise ValueError(f"standardize_targets needs output='identity', got {output!r}")
    if standardize_targets and isinstance(resolved, losses.Poisson):
        raise ValueError("standardize_targets must be False for counts (loss='poisson')")
    dtype = _check.float_dtype("dtype", dtype)
    precision = _check.choice("precision", precision, PRECISIONS)
    if precision == "bfloat16" and dtype != np.float32:
        raise ValueError(f"precision='bfloat16' needs dtype=float32, got {dtype}")
    if precision == "bfloat16" and norm_kind(norm) not in ("batch", None):
        raise ValueError(f"precision='bfloat16' needs batch norm or none, got norm={norm!r}")
    if seed is None:
        drawn = int(np.random.SeedSequence().generate_state(1, np.uint64)[0]) >> 1
    else:
        drawn = _check.integer("seed", seed, least=0, most=2**63 - 1)
    return {
        "sizes": sizes,
        "activation": shown,
        "activations": each,
        "norm": norm,
        "output": output,
        "loss": resolved,
        "dropout": probabilities,
        "standardize": _check.flag("standardize", standardize),
        "encoding": _check.choice("encoding", encoding, ENCODINGS),
        "bins": None if bins is None else _check.integer("bins", bins, least=2),
        "standardize_targets": standardize_targets,
        # 1 / sqrt(eps) has to exist in the network's dtype, or a constant feature becomes NaN.
        "eps": _check.number("eps", eps, least=float(np.finfo(dtype).tiny)),
        "decay": None if decay is None else _check.number("decay", decay, least=0.0, below=1.0),
        "running": _check.choice("running", running, ("var", "std")),
        "unbiased": _check.flag("unbiased", unbiased),
        "weighted_statistics": _check.flag("weighted_statistics", weighted_statistics),
        "frozen_statistics": _check.flag("frozen_statistics", frozen_statistics),
        "precision": precision,
        "init": _check.choice("init", init, INITS),
        "dtype": dtype,
        "seed": drawn,
        "seeded": seed is not None,
    }


def _activations(given: ActivationLike | Sequence[ActivationLike], hidden: int) -> tuple[ActivationLike, ...]:
    """Return the activation of each hidden layer."""
    if not isinstance(given, (list, tuple)):
        return (activations.resolve(given, argument="activation"),) * hidden
    if len(given) != hidden:
        raise ValueError(
            f"activation must have one entry for each of {hidden} hidden layers, got {len(given)}"
        )
    return tuple(activations.resolve(one, argument=f"activation[{l}]") for l, one in enumerate(given))


def _dropout(
    given: float | Sequence[float] | npt.NDArray[np.floating[Any]], hidden: int
) -> tuple[float, ...]:
    """Return the probability of dropout of each hidden layer."""
    if isinstance(given, np.ndarray):
        given = given.tolist()
    probabilities = given if isinstance(given, (list, tuple)) else [given] * hidden
    if len(probabilities) != hidden:
        raise ValueError(
            f"dropout must have one value for each of {hidden} hidden layers, got {len(probabilities)}"
        )
    return tuple(_check.number(f"dropout[{l}]", p, least=0.0, below=1.0) for l, p in enumerate(probabilities))
