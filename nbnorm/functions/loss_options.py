"""What a network minimizes: a class for each loss, which holds its options.

A loss of `nbnorm.functions.loss_formulas.FORMULAS` without options needs no class.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, make_dataclass, replace
from typing import Any, ClassVar, Literal, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from nbnorm import _check
from nbnorm._types import Array, Float64Array
from nbnorm.compile.kernels import kernel
from nbnorm.functions.loss_formulas import FORMULAS, LossName
from nbnorm.functions.losses import (
    COUNTS,
    PROBABILITIES,
    SHAPES,
    check_labels,
    check_levels,
    check_smoothing,
    check_targets,
)

Output: TypeAlias = Literal["softmax", "sigmoid", "identity"]

# Outputs of a network, by the numbers that compiled code knows them by.
OUTPUTS: dict[Output, int] = {"softmax": 0, "sigmoid": 1, "identity": 2}


@functools.lru_cache(maxsize=64)
def _custom_rows(function: Callable[[Any, Any, Any], float]) -> Callable[..., None]:
    """Make the kernel that writes a user's loss of every sample to `losses`."""

    @kernel(cache=False)
    def custom_rows(logits: Any, targets: Any, gradient: Any, losses: Any) -> None:
        for i in range(logits.shape[0]):
            losses[i] = function(logits[i], targets[i], gradient)

    return cast(Callable[..., None], custom_rows)


class Loss:
    """What a network minimizes: the base of the classes below.

    Attributes
    ----------
    name : str
        Name under which `resolve` knows the loss.
    outputs : tuple of str
        Outputs of a network that the loss fits.
    """

    name: str
    outputs: ClassVar[tuple[Output, ...]]

    def options(self) -> Float64Array:
        """Return the numbers that the formula takes, one for each of the outputs that share a target."""
        return np.zeros(1)

    def targets(self, outputs: int) -> int:
        """Return the number of targets that a network with so many outputs fits.

        Parameters
        ----------
        outputs : int
            Number of outputs.

        Returns
        -------
        int
            Number of targets of a sample.

        Raises
        ------
        ValueError
            If there are not as many outputs for each target.
        """
        each = len(self.options())
        if outputs % each:
            raise ValueError(
                f"sizes must end with a multiple of {each} for loss={self.name!r}, got {outputs}"
            )
        return outputs // each

    def settings(self) -> dict[str, Any]:
        """Return the options as a file names them."""
        return {} if isinstance(self, CustomLoss) else dict(vars(self))

    def check(self, targets: Array) -> None:
        """Raise ValueError if a target lies outside the loss's range.

        Parameters
        ----------
        targets : ndarray
            Targets, of any shape.
        """

    def value(
        self, logits: npt.ArrayLike, targets: npt.ArrayLike, weights: npt.ArrayLike | None = None
    ) -> float:
        """Return the mean loss, computed by NumPy in float64.

        Parameters
        ----------
        logits : array_like, shape (n_samples,) or (n_samples, n_outputs)
            Outputs of a network before softmax, sigmoid or exponential function.
        targets : array_like
            Integer classes, shape (n_samples,), for softmax outputs, otherwise targets of the shape of
            `logits`.
        weights : array_like, shape (n_samples,), optional
            Weights of the samples; the mean is ``sum(w L) / sum(w)``.

        Returns
        -------
        float
            Mean over the samples; NaN and infinity pass.

        Raises
        ------
        TypeError
            If an array does not hold real numbers.
        ValueError
            If the shapes do not fit or a target or a weight is out of range.
        """
        got = _check.numeric("logits", logits)
        z = _check.floats(
            "logits", got, 1 if got.ndim == 1 else 2, dtype=np.dtype(np.float64), expected=SHAPES
        )
        z = z.reshape(len(z), -1)
        with np.errstate(all="ignore"):
            losses = self._losses(cast(Float64Array, z), targets)
            if weights is None:
                return float(losses.mean())
            w = _check.weights("weights", weights, len(z))
            # samples of weight 0 do not exist, whatever their loss
            return float((w[w > 0] * losses[w > 0]).sum() / w.sum())

    def _losses(self, z: Float64Array, targets: npt.ArrayLike) -> Float64Array:
        """Loss of every sample."""
        options, t = self.options(), self._targets(z, targets)
        z = z.reshape(*t.shape, -1)
        arrays = np.broadcast_arrays(z, t[:, :, None], options)
        return np.asarray(FORMULAS[self.name].value(*arrays).sum(axis=(1, 2)))

    def _targets(self, z: Float64Array, targets: npt.ArrayLike) -> Float64Array:
        """Check targets and give them the shape (n_samples, n_targets)."""
        t = _check.numeric("targets", targets)
        shape = (len(z), self.targets(z.shape[1]))
        if t.shape != shape and not (shape[1] == 1 and t.shape == (len(z),)):
            raise ValueError(f"targets must have shape {shape}, got shape {t.shape}")
        self.check(t)
        return t.reshape(shape).astype(np.float64)


def _keep(loss: Loss, **options: float) -> None:
    """Store the checked options of a frozen dataclass."""
    for name, value in options.items():
        object.__setattr__(loss, name, value)


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """Cross-entropy of softmax outputs; see `softmax_cross_entropy` for the equations.

    Parameters
    ----------
    label_smoothing : float, default 0.0
        In [0, 1): the target is ``1 - label_smoothing`` for the sample's class plus
        ``label_smoothing / n_classes`` for every class.

    Raises
    ------
    TypeError
        If `label_smoothing` is not a number.
    ValueError
        If `label_smoothing` is out of range.

    Examples
    --------
    >>> from nbnorm import CrossEntropy
    >>> round(CrossEntropy().value([[0.0, 0.0]], [1]), 4)
    0.6931
    """

    label_smoothing: float = 0.0
    name = "cross_entropy"
    outputs: ClassVar[tuple[Output, ...]] = ("softmax",)

    def __post_init__(self) -> None:
        _keep(self, label_smoothing=check_smoothing(self.label_smoothing))

    def options(self) -> Float64Array:
        """Return the label smoothing."""
        return np.array([self.label_smoothing])

    def _losses(self, z: Float64Array, targets: npt.ArrayLike) -> Float64Array:
        labels = check_labels(targets, *z.shape)
        top = z.max(axis=1)
        own = z[np.arange(len(z)), labels]
        losses = np.log(np.exp(z - top[:, None]).sum(axis=1)) + (top - own)
        if self.label_smoothing > 0:
            losses += self.label_smoothing * (own[:, None] - z).mean(axis=1)
        return np.asarray(losses)


@dataclass(frozen=True)
class BinaryCrossEntropy(Loss):
    """Cross-entropy of sigmoid outputs; see `binary_cross_entropy` for the equations.

    Parameters
    ----------
    label_smoothing : float, default 0.0
        In [0, 1): a target t counts as ``t (1 - label_smoothing) + label_smoothing / 2``.

    Raises
    ------
    TypeError
        If `label_smoothing` is not a number.
    ValueError
        If `label_smoothing` is out of range.

    Examples
    --------
    >>> from nbnorm import BinaryCrossEntropy
    >>> round(BinaryCrossEntropy().value([0.0], [1.0]), 4)
    0.6931
    """

    label_smoothing: float = 0.0
    name = "binary_cross_entropy"
    outputs: ClassVar[tuple[Output, ...]] = ("sigmoid",)

    def __post_init__(self) -> None:
        _keep(self, label_smoothing=check_smoothing(self.label_smoothing))

    def options(self) -> Float64Array:
        """Return the label smoothing."""
        return np.array([self.label_smoothing])

    def check(self, targets: Array) -> None:
        """Raise ValueError if a target is not between 0 and 1.

        Parameters
        ----------
        targets : ndarray
            Targets, of any shape.
        """
        check_targets(targets, *PROBABILITIES)


@dataclass(frozen=True)
class SquaredError(Loss):
    """Half the squared distance; see `mean_squared_error` for the equations.

    Examples
    --------
    >>> from nbnorm import SquaredError
    >>> SquaredError().value([[1.0, 2.0]], [[0.0, 0.0]])
    2.5
    """

    name = "squared"
    outputs: ClassVar[tuple[Output, ...]] = ("identity",)


@dataclass(frozen=True)
class AbsoluteError(Loss):
    """Sum of the absolute differences; see `mean_absolute_error` for the equations.

    Examples
    --------
    >>> from nbnorm import AbsoluteError
    >>> AbsoluteError().value([[1.0, 2.0]], [[0.0, 0.0]])
    3.0
    """

    name = "absolute"
    outputs: ClassVar[tuple[Output, ...]] = ("identity",)


@dataclass(frozen=True)
class Huber(Loss):
    """Parabola near the target, straight lines beyond; see `huber_loss` for the equations.

    Parameters
    ----------
    delta : float, default 1.0
        Distance at which the parabola becomes a straight line, positive.

    Raises
    ------
    TypeError
        If `delta` is not a number.
    ValueError
        If `delta` is not positive and finite.

    Examples
    --------
    >>> from nbnorm import Huber
    >>> Huber(delta=1.0).value([[0.5, 3.0]], [[0.0, 0.0]])
    2.625
    """

    delta: float = 1.0
    name = "huber"
    outputs: ClassVar[tuple[Output, ...]] = ("identity",)

    def __post_init__(self) -> None:
        _keep(self, delta=_check.number("delta", self.delta, above=0))

    def options(self) -> Float64Array:
        """Return delta."""
        return np.array([self.delta])


@dataclass(frozen=True)
class Poisson(Loss):
    """Negative log-likelihood of counts whose mean is exp(z); see `poisson_loss` for the equations.

    Examples
    --------
    >>> from nbnorm import Poisson
    >>> Poisson().value([[0.0, 0.0]], [[1.0, 3.0]])
    2.0
    """

    name = "poisson"
    outputs: ClassVar[tuple[Output, ...]] = ("identity",)

    def check(self, targets: Array) -> None:
        """Raise ValueError if a target is negative.

        Parameters
        ----------
        targets : ndarray
            Targets, of any shape.
        """
        check_targets(targets, *COUNTS)


@dataclass(frozen=True)
class Quantile(Loss):
    """Pinball loss of quantiles; see `quantile_loss` for the equations.

    A network has an output for each level of each target, all levels of the first target first; it may
    predict a lower quantile above a higher one where it knows little.

    Parameters
    ----------
    levels : sequence of float, default (0.1, 0.5, 0.9)
        Levels of the quantiles, between 0 and 1 exclusive, in growing order.

    Raises
    ------
    TypeError
        If `levels` does not hold numbers.
    ValueError
        If a level is out of range or order.

    Examples
    --------
    >>> from nbnorm import Quantile
    >>> round(Quantile(levels=(0.1, 0.5, 0.9)).value([[1.0, 2.0, 4.0]], [3.0]), 4)
    0.8
    """

    levels: tuple[float, ...] = (0.1, 0.5, 0.9)
    name = "quantile"
    outputs: ClassVar[tuple[Output, ...]] = ("identity",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", check_levels(self.levels))

    def options(self) -> Float64Array:
        """Return the levels."""
        return np.array(self.levels)


@dataclass(frozen=True)
class CustomLoss(Loss):
    """A user's own loss, compiled into the training loop.

    Parameters
    ----------
    function : function compiled by `numba.njit`
        ``function(z, target, gradient)`` returns the loss of one sample and writes its gradient with
        respect to z.  All three arrays have one element for each output and the dtype of the network;
        `z` holds the outputs before softmax or sigmoid, `target` the targets, for softmax outputs 1 for
        the sample's class and 0 for the others, and `gradient` begins as zeros.  The function has to
        raise nothing, and to change nothing but `gradient`.
    name : str, optional
        Name shown to people, by default that of the function.

    Raises
    ------
    TypeError
        If `function` is not compiled, does not take three arguments, or `name` is not a string.

    Examples
    --------
    >>> from numba import njit
    >>> from nbnorm import CustomLoss
    >>> @njit
    ... def quartic(z, target, gradient):
    ...     loss = 0.0
    ...     for o in range(z.size):
    ...         loss += (z[o] - target[o]) ** 4
    ...         gradient[o] = 4 * (z[o] - target[o]) ** 3
    ...     return loss
    >>> CustomLoss(quartic)
    CustomLoss(quartic)
    >>> CustomLoss(quartic).value([[2.0]], [[0.0]])
    16.0
    """

    function: Callable[[Any, Any, Any], float]
    name: str = ""
    outputs: ClassVar[tuple[Output, ...]] = ("softmax", "sigmoid", "identity")
    # Set by `resolve`: decides what counts as a hit, and that softmax has labels.
    _output: Output = field(default="identity", init=False, repr=False)

    def __post_init__(self) -> None:
        _check.compiled("function", self.function, 3)
        if not isinstance(self.name or "", str):
            raise TypeError(f"name must be a string, got {type(self.name).__name__}")
        object.__setattr__(self, "name", self.name or self.function.__name__)

    def __repr__(self) -> str:
        """Show the name of the function, and another name if there is one."""
        function = self.function.__name__
        name = f", name={self.name!r}" if self.name != function else ""
        return f"CustomLoss({function}{name})"

    def options(self) -> Float64Array:
        """Return the code of the output that the loss is used for."""
        return np.array([float(OUTPUTS[self._output])])

    def _losses(self, z: Float64Array, targets: npt.ArrayLike) -> Float64Array:
        t = _check.numeric("targets", targets)
        if self._output == "softmax" or (t.ndim == 1 and z.shape[1] > 1):
            labels = check_labels(targets, *z.shape)
            t = np.zeros(z.shape)
            t[np.arange(len(z)), labels] = 1
        else:
            t = self._targets(z, targets)
        losses = np.empty(len(z))
        gradient = np.zeros(z.shape[1])
        _custom_rows(self.function)(z, t, gradient, losses)
        return losses


# A loss as a network is given it.
LossLike: TypeAlias = LossName | Loss


_KINDS: tuple[type[Loss], ...] = (
    CrossEntropy,
    BinaryCrossEntropy,
    SquaredError,
    AbsoluteError,
    Huber,
    Poisson,
    Quantile,
)
LOSSES: dict[str, type[Loss]] = {kind.name: kind for kind in _KINDS}


def _of_formula(name: str) -> type[Loss]:
    """Make the class of a loss without options that has none of its own."""
    outputs = ("identity",) if FORMULAS[name].hit is None else ("sigmoid",)
    namespace = {"name": name, "outputs": outputs}
    made = make_dataclass(name, [], bases=(Loss,), namespace=namespace, frozen=True)
    return cast(type[Loss], made)


LOSSES |= {name: _of_formula(name) for name in FORMULAS if name not in LOSSES}


def resolve(loss: LossLike | None, output: Output) -> Loss:
    """Return the loss of a network.

    Parameters
    ----------
    loss : None, str or Loss
        None stands for the loss that belongs to the output, a string for one of `LOSSES` with its
        default options.
    output : {"softmax", "sigmoid", "identity"}
        Output of the network.

    Returns
    -------
    Loss
        The loss, knowing its output.

    Raises
    ------
    TypeError
        If `loss` is something else.
    ValueError
        If the name is unknown or the loss does not fit the output.

    Examples
    --------
    >>> from nbnorm.functions.loss_options import resolve
    >>> resolve("huber", "identity")
    Huber(delta=1.0)
    """
    _check.choice("output", output, tuple(OUTPUTS))
    fitting = [name for name, kind in LOSSES.items() if output in kind.outputs]
    if loss is None:
        return LOSSES[fitting[0]]()
    if isinstance(loss, str):
        loss = LOSSES[_check.choice("loss", loss, tuple(LOSSES))]()
    found: object = loss
    if not isinstance(found, Loss):
        got = f"the class {found.__name__}" if isinstance(found, type) else type(found).__name__
        raise TypeError(f"loss must be None, a string or an nbnorm.Loss, got {got}")
    if output not in loss.outputs:
        known = ", ".join(repr(name) for name in fitting)
        raise ValueError(f"loss must be {known} or a CustomLoss for output={output!r}, got {loss.name!r}")
    if not isinstance(loss, CustomLoss):
        return loss
    knowing = replace(loss)
    object.__setattr__(knowing, "_output", output)
    return knowing
