"""Optimizers with decoupled weight decay: SGD with momentum or Nesterov momentum, and AdamW."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, cast

import numba
import numpy as np
import numpy.typing as npt

from nbnorm import _check
from nbnorm._types import FloatArray
from nbnorm.compile.kernels import ParallelKernel, parallel_kernel
from nbnorm.functions.updates import BLOCK, CODES, RULES, Rule, update_block

_SGD, _ADAMW = CODES["sgd"], CODES["adamw"]


@parallel_kernel
def sgd_kernel(
    param: Any, grad: Any, velocity: Any, lr: Any, momentum: Any, nesterov: Any, weight_decay: Any
) -> None:
    """Update vectors in place; the numbers of the step are rounded to the dtype of `param`."""
    for block in numba.prange((param.size + BLOCK - 1) // BLOCK):
        update_block(_SGD, block, param, grad, (velocity,), 1, (lr, momentum, nesterov, weight_decay))


@parallel_kernel
def adamw_kernel(
    param: Any, grad: Any, mean: Any, square: Any, step: Any, lr: Any, beta1: Any, beta2: Any, eps: Any,
    weight_decay: Any,
) -> None:  # fmt: skip
    """Update vectors in place; the numbers of the step are rounded to the dtype of `param`."""
    for block in numba.prange((param.size + BLOCK - 1) // BLOCK):
        update_block(_ADAMW, block, param, grad, (mean, square), step, (lr, beta1, beta2, eps, weight_decay))


def _kernel(code: int) -> ParallelKernel:
    """Make the kernel of a rule: `state` and `options` are tuples."""

    @parallel_kernel
    def update(param: Any, grad: Any, state: Any, step: Any, options: Any) -> None:
        for block in numba.prange((param.size + BLOCK - 1) // BLOCK):
            update_block(code, block, param, grad, state, step, options)

    return update


KERNELS = {name: _kernel(code) for name, code in CODES.items()}


def _in_place(name: str, x: object, shape: tuple[int, ...] | None, dtype: np.dtype[Any] | None) -> FloatArray:
    """Return an array that is changed in place, after checking that it can be."""
    if not isinstance(x, np.ndarray):
        raise TypeError(f"{name} must be a NumPy array, got {type(x).__name__}")
    if x.size == 0:
        raise ValueError(f"{name} must not be empty, got shape {x.shape}")
    if dtype is None:
        dtype = _check.float_dtype(name, x.dtype)
    return _check.output(name, x, x.shape if shape is None else shape, dtype)


def sgd_step(
    param: FloatArray,
    grad: npt.ArrayLike,
    velocity: FloatArray,
    *,
    lr: float,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> None:
    """Update a parameter and its velocity in place.

    ``velocity <- momentum * velocity + grad`` and
    ``param <- param - lr * weight_decay * param - lr * velocity``; with `nesterov` the last term is
    ``lr * (grad + momentum * velocity)`` with the new velocity.

    Parameters
    ----------
    param : ndarray of float32 or float64
        Parameter of any shape, C-contiguous and writeable.
    grad : array_like
        Gradient, of the shape of `param`.
    velocity : ndarray
        Velocity, of the shape and dtype of `param`; zeros before the first step.
    lr : float
        Learning rate, positive.
    momentum : float, default 0.0
        In [0, 1).
    nesterov : bool, default False
        Whether to use Nesterov's form of momentum; needs a positive `momentum`.
    weight_decay : float, default 0.0
        Decoupled weight decay, at least 0 and below ``1 / lr``.

    Raises
    ------
    TypeError
        If an argument is of the wrong type.
    ValueError
        If a number is out of range or an array does not fit; nothing is changed then.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import sgd_step
    >>> param, velocity = np.array([1.0, 2.0]), np.zeros(2)
    >>> sgd_step(param, np.array([1.0, -1.0]), velocity, lr=0.5, momentum=0.9)
    >>> param
    array([0.5, 2.5])
    >>> velocity
    array([ 1., -1.])
    """
    SGD(lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay).step(param, grad, velocity)


# What an option may be, by its name.
_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "lr": partial(_check.number, above=0),
    "momentum": partial(_check.number, least=0, below=1),
    "nesterov": _check.flag,
    "beta1": partial(_check.number, least=0, below=1),
    "beta2": partial(_check.number, least=0, below=1),
    # float32 holds it with all its digits
    "eps": partial(_check.number, least=1e-30),
    "weight_decay": partial(_check.number, least=0),
}


class Optimizer:
    """What all optimizers have: the base of the classes below, which hold options.

    A class has the name of its rule in `nbnorm.functions.updates.RULES`, and a field for each option of it.

    Attributes
    ----------
    lr : float
        Learning rate.
    weight_decay : float
        Decoupled weight decay.
    name : str
        Name shown to people and written to files.
    """

    lr: float
    weight_decay: float
    name: ClassVar[str]
    __dataclass_fields__: ClassVar[dict[str, Any]]

    def __post_init__(self) -> None:
        for option in self.rule.options:
            object.__setattr__(self, option, _CHECKS[option](option, getattr(self, option)))
        if self.lr * self.weight_decay >= 1.0:
            raise ValueError(
                "lr * weight_decay must be below 1, the fraction of a weight that a step subtracts, "
                f"got lr={self.lr:g} and weight_decay={self.weight_decay:g}"
            )

    @property
    def rule(self) -> Rule:
        """How a parameter is moved."""
        return RULES[self.name]

    @property
    def options(self) -> tuple[float, ...]:
        """Options as numbers, in the order of the rule."""
        return tuple(float(getattr(self, option)) for option in self.rule.options)

    def step(self, param: FloatArray, grad: npt.ArrayLike, *state: FloatArray | int) -> None:
        """Update `param` and the arrays of `state` in place with these options.

        Parameters
        ----------
        param : ndarray of float32 or float64
            Parameter of any shape, C-contiguous and writeable.
        grad : array_like
            Gradient, of the shape of `param`.
        *state : ndarray
            What the optimizer keeps, of the shape and dtype of `param` and zeros before the first step: the
            velocity of `SGD`, the mean and the square of `AdamW`.  Where these depend on the number of the
            step, as for `AdamW`, that follows: 1 for the first.

        Raises
        ------
        TypeError
            If an argument is of the wrong type or missing.
        ValueError
            If an array does not fit or the number of the step is below 1; nothing is changed then.
        """
        rule = self.rule
        expected = (*rule.state, "step") if rule.counts_steps else rule.state
        if len(state) != len(expected):
            names = ", ".join(("param", "grad", *expected))
            raise TypeError(f"step of {type(self).__name__} takes {names}; got {len(state) + 2} arguments")
        named = dict(zip(expected, state, strict=True))
        number = named.pop("step", 1)
        param = _in_place("param", param, None, None)
        arrays = {name: _in_place(name, x, param.shape, param.dtype) for name, x in named.items()}
        grad = _check.floats("grad", grad, max(param.ndim, 1), dtype=param.dtype, shape=param.shape)
        number = _check.integer("step", number, least=1)
        written = {"param": param, **arrays}
        while written:
            name = next(iter(written))
            _check.apart(name, written.pop(name), grad=grad, **written)
        flat = tuple(x.reshape(-1) for x in arrays.values())
        KERNELS[self.name](param.size, param.reshape(-1), grad.reshape(-1), flat, number, self.options)


@dataclass(frozen=True)
class SGD(Optimizer):
    """Options of stochastic gradient descent; see `sgd_step` for the equations.

    Parameters
    ----------
    lr : float
        Learning rate, positive.
    momentum : float, default 0.0
        In [0, 1).
    nesterov : bool, default False
        Whether to use Nesterov's form of momentum; needs a positive `momentum`.
    weight_decay : float, default 0.0
        Decoupled weight decay, at least 0 and below ``1 / lr``.

    Raises
    ------
    TypeError
        If an option is of the wrong type.
    ValueError
        If an option is out of range.

    Examples
    --------
    >>> from nbnorm import SGD
    >>> SGD(lr=0.1, momentum=0.9)
    SGD(lr=0.1, momentum=0.9, nesterov=False, weight_decay=0.0)
    """

    lr: float
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    name: ClassVar[str] = "sgd"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and self.momentum == 0:
            raise ValueError("momentum must be above 0 when nesterov is True, got 0")


def adamw_step(
    param: FloatArray,
    grad: npt.ArrayLike,
    mean: FloatArray,
    square: FloatArray,
    step: int,
    *,
    lr: float = 1e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.01,
) -> None:
    """Update a parameter and its moving averages in place, by AdamW [1]_ [2]_.

    ``mean <- beta1 * mean + (1 - beta1) * grad``,
    ``square <- beta2 * square + (1 - beta2) * grad**2`` and, with
    ``m = mean / (1 - beta1**step)`` and ``v = square / (1 - beta2**step)``,
    ``param <- param - lr * weight_decay * param - lr * m / (sqrt(v) + eps)``.

    Parameters
    ----------
    param : ndarray of float32 or float64
        Parameter of any shape, C-contiguous and writeable.
    grad : array_like
        Gradient, of the shape of `param`.
    mean, square : ndarray
        Moving averages of the gradient and of its square, of the shape and dtype of `param`; zeros
        before the first step.
    step : int
        Number of this step, 1 for the first.
    lr : float, default 1e-3
        Learning rate, positive.
    beta1, beta2 : float, default 0.9 and 0.999
        Weights of the old averages, in [0, 1).
    eps : float, default 1e-8
        Added to the root, at least 1e-30.
    weight_decay : float, default 0.01
        Decoupled weight decay, at least 0 and below ``1 / lr``.

    Raises
    ------
    TypeError
        If an argument is of the wrong type.
    ValueError
        If a number is out of range or an array does not fit; nothing is changed then.

    References
    ----------
    .. [1] Diederik P. Kingma and Jimmy Ba, "Adam: a method for stochastic optimization", ICLR 2015.
    .. [2] Ilya Loshchilov and Frank Hutter, "Decoupled weight decay regularization", ICLR 2019.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import adamw_step
    >>> param, mean, square = np.array([1.0, 2.0]), np.zeros(2), np.zeros(2)
    >>> adamw_step(param, np.array([0.5, -4.0]), mean, square, 1, lr=0.1, weight_decay=0.0)
    >>> param.round(6)
    array([0.9, 2.1])
    """
    options = AdamW(lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay)
    options.step(param, grad, mean, square, step)


@dataclass(frozen=True)
class AdamW(Optimizer):
    """Options of Adam with decoupled weight decay; see `adamw_step` for the equations.

    Parameters
    ----------
    lr : float, default 1e-3
        Learning rate, positive.
    beta1, beta2 : float, default 0.9 and 0.999
        Weights of the old averages of the gradient and of its square, in [0, 1).
    eps : float, default 1e-8
        Added to the root of the average square, at least 1e-30.
    weight_decay : float, default 0.01
        Decoupled weight decay, at least 0 and below ``1 / lr``.

    Raises
    ------
    TypeError
        If an option is of the wrong type.
    ValueError
        If an option is out of range.

    Examples
    --------
    >>> from nbnorm import AdamW
    >>> AdamW(lr=0.01)
    AdamW(lr=0.01, beta1=0.9, beta2=0.999, eps=1e-08, weight_decay=0.01)
    """

    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.01
    name: ClassVar[str] = "adamw"


@dataclass(frozen=True)
class Lion(Optimizer):
    """Options of Lion [1]_, which steps by the sign of an average of the gradients.

    ``param <- param - lr * weight_decay * param - lr * sign(beta1 * mean + (1 - beta1) * grad)`` and then
    ``mean <- beta2 * mean + (1 - beta2) * grad``.  It keeps one array where `AdamW` keeps two.  Every element
    moves by `lr`, so `lr` should be three to ten times smaller than for `AdamW`, and `weight_decay` larger by
    the same factor.

    Parameters
    ----------
    lr : float, default 1e-4
        Learning rate, positive.
    beta1, beta2 : float, default 0.9 and 0.99
        Weights of the old average, in [0, 1): in the step, and in the next average.
    weight_decay : float, default 0.0
        Decoupled weight decay, at least 0 and below ``1 / lr``.

    Raises
    ------
    TypeError
        If an option is of the wrong type.
    ValueError
        If an option is out of range.

    References
    ----------
    .. [1] Xiangning Chen et al., "Symbolic discovery of optimization algorithms", NeurIPS 2023.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import Lion
    >>> param, mean = np.zeros(3), np.zeros(3)
    >>> Lion(lr=0.1).step(param, np.array([5.0, 0.0, -0.01]), mean)
    >>> param
    array([-0.1,  0. ,  0.1])
    """

    lr: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.0
    name: ClassVar[str] = "lion"


# All of them by name.
OPTIMIZERS: dict[str, type[Any]] = {kind.name: kind for kind in Optimizer.__subclasses__()}


def resolve(optimizer: object) -> Optimizer:
    """Return an optimizer, after checking that it is one.

    Parameters
    ----------
    optimizer : object
        One of the classes above, with its options.

    Returns
    -------
    Optimizer
        The same.

    Raises
    ------
    TypeError
        If it is something else.

    Examples
    --------
    >>> from nbnorm.functions.optimizers import SGD, resolve
    >>> resolve(SGD(0.1)).name
    'sgd'
    """
    if not isinstance(optimizer, tuple(OPTIMIZERS.values())):
        *most, last = (kind.__name__ for kind in OPTIMIZERS.values())
        got = type(optimizer).__name__
        raise TypeError(f"optimizer must be {', '.join(most)} or {last}, got {got}")
    return cast(Optimizer, optimizer)
