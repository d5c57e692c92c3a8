"""Optimizers with decoupled weight decay: SGD with momentum or Nesterov momentum, and AdamW."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numba
import numpy as np
import numpy.typing as npt

from nbnorm import _check, simd
from nbnorm.compile.kernels import parallel_kernel
from nbnorm.functions import updates

# Elements in one block of the parallel loop.
BLOCK = 16_384


@simd.traced
def _sgd_rows(
    param: Any, grad: Any, velocity: Any, lr: Any, momentum: Any, nesterov: Any, shrink: Any
) -> None:
    def rows(rate: Any, ahead: Any) -> Callable[[], None]:
        def step(w: Any, g: Any, v: Any) -> Any:
            return updates.sgd(w, v, g, momentum, shrink, rate, ahead)

        return lambda: simd.map_elements(step, [param, grad, velocity], [param, velocity])

    simd.switch(nesterov, [rows(lr, None), rows(lr * momentum, lr)])


@parallel_kernel
def step_kernel(
    param: Any, grad: Any, velocity: Any, lr: Any, momentum: Any, nesterov: Any, weight_decay: Any
) -> None:
    """Update vectors in place; the numbers are rounded to the dtype of `param`."""
    number = param.dtype.type
    rate, friction, shrink = number(lr), number(momentum), number(1.0 - lr * weight_decay)
    for block in numba.prange((param.size + BLOCK - 1) // BLOCK):
        start, stop = block * BLOCK, min(param.size, (block + 1) * BLOCK)
        _sgd_rows(param[start:stop], grad[start:stop], velocity[start:stop], rate, friction, nesterov, shrink)


@simd.traced
def _adamw_rows(param: Any, grad: Any, mean: Any, square: Any, *numbers: Any) -> None:
    def step(w: Any, g: Any, v: Any, s: Any) -> Any:
        return updates.adam(w, v, s, g, *numbers)

    simd.map_elements(step, [param, grad, mean, square], [param, mean, square])


@parallel_kernel
def adamw_kernel(
    param: Any, grad: Any, mean: Any, square: Any, step: Any, lr: Any, beta1: Any, beta2: Any, eps: Any,
    weight_decay: Any,
) -> None:  # fmt: skip
    """Update vectors in place; the numbers are rounded to the dtype of `param`."""
    number = param.dtype.type
    keep1, fresh1 = number(beta1), number(1.0 - beta1)
    keep2, fresh2 = number(beta2), number(1.0 - beta2)
    # Both bias corrections become factors.
    rate, correction2 = number(lr / (1.0 - beta1**step)), number(1.0 / (1.0 - beta2**step))
    least, shrink = number(eps), number(1.0 - lr * weight_decay)
    for block in numba.prange((param.size + BLOCK - 1) // BLOCK):
        start, stop = block * BLOCK, min(param.size, (block + 1) * BLOCK)
        _adamw_rows(
            param[start:stop], grad[start:stop], mean[start:stop], square[start:stop],
            keep1, fresh1, keep2, fresh2, rate, correction2, least, shrink,
        )  # fmt: skip


def _in_place(
    name: str, x: Any, shape: tuple[int, ...] | None, dtype: np.dtype[Any] | None
) -> npt.NDArray[Any]:
    """Return an array that is changed in place, after checking that it can be."""
    if not isinstance(x, np.ndarray):
        raise TypeError(f"{name} must be a NumPy array, got {type(x).__name__}")
    if x.size == 0:
        raise ValueError(f"{name} must not be empty, got shape {x.shape}")
    if dtype is None:
        dtype = _check.float_dtype(name, x.dtype)
    return _check.output(name, x, x.shape if shape is None else shape, dtype)


def sgd_step(
    param: npt.NDArray[Any],
    grad: npt.ArrayLike,
    velocity: npt.NDArray[Any],
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
        Whether the gradient is taken ahead; needs a positive `momentum`.
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


class Optimizer:
    """What all optimizers have: the base of the classes below.

    Attributes
    ----------
    lr : float
        Learning rate.
    weight_decay : float
        Decoupled weight decay.
    name : str
        Name shown to people and written to files.
    slots : int
        Numbers that the optimizer keeps for each parameter.
    """

    lr: float
    weight_decay: float
    name: ClassVar[str]
    slots: ClassVar[int]

    def _check_decay(self) -> None:
        """Refuse to take all of a weight in one step, or more."""
        if self.lr * self.weight_decay >= 1.0:
            raise ValueError(
                "lr * weight_decay must be below 1, the share of a weight that a step takes, "
                f"got lr={self.lr:g} and weight_decay={self.weight_decay:g}"
            )


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
        Whether the gradient is taken ahead; needs a positive `momentum`.
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
    slots: ClassVar[int] = 1

    def __post_init__(self) -> None:
        for name, value in (
            ("lr", _check.number("lr", self.lr, above=0)),
            ("momentum", _check.number("momentum", self.momentum, least=0, below=1)),
            ("nesterov", _check.flag("nesterov", self.nesterov)),
            ("weight_decay", _check.number("weight_decay", self.weight_decay, least=0)),
        ):
            object.__setattr__(self, name, value)
        self._check_decay()
        if self.nesterov and self.momentum == 0:
            raise ValueError("momentum must be above 0 when nesterov is True, got 0")

    def step(self, param: npt.NDArray[Any], grad: npt.ArrayLike, velocity: npt.NDArray[Any]) -> None:
        """Update `param` and `velocity` in place with these options.

        Parameters
        ----------
        param, grad, velocity : array_like
            As for `sgd_step`.

        Raises
        ------
        TypeError
            If an array is of the wrong type.
        ValueError
            If an array does not fit; nothing is changed then.
        """
        param = _in_place("param", param, None, None)
        velocity = _in_place("velocity", velocity, param.shape, param.dtype)
        grad = _check.floats("grad", grad, max(param.ndim, 1), dtype=param.dtype, shape=param.shape)
        _check.apart("param", param, grad=grad, velocity=velocity)
        _check.apart("velocity", velocity, grad=grad)
        step_kernel(
            param.size,
            param.reshape(-1),
            grad.reshape(-1),
            velocity.reshape(-1),
            self.lr,
            self.momentum,
            self.nesterov,
            self.weight_decay,
        )


def adamw_step(
    param: npt.NDArray[Any],
    grad: npt.ArrayLike,
    mean: npt.NDArray[Any],
    square: npt.NDArray[Any],
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
    slots: ClassVar[int] = 2

    def __post_init__(self) -> None:
        for name, value in (
            ("lr", _check.number("lr", self.lr, above=0)),
            ("beta1", _check.number("beta1", self.beta1, least=0, below=1)),
            ("beta2", _check.number("beta2", self.beta2, least=0, below=1)),
            # float32 holds it with all its digits
            ("eps", _check.number("eps", self.eps, least=1e-30)),
            ("weight_decay", _check.number("weight_decay", self.weight_decay, least=0)),
        ):
            object.__setattr__(self, name, value)
        self._check_decay()

    def step(
        self,
        param: npt.NDArray[Any],
        grad: npt.ArrayLike,
        mean: npt.NDArray[Any],
        square: npt.NDArray[Any],
        step: int,
    ) -> None:
        """Update `param`, `mean` and `square` in place with these options.

        Parameters
        ----------
        param, grad, mean, square : array_like
            As for `adamw_step`.
        step : int
            Number of this step, 1 for the first.

        Raises
        ------
        TypeError
            If an argument is of the wrong type.
        ValueError
            If an array does not fit or `step` is below 1; nothing is changed then.
        """
        param = _in_place("param", param, None, None)
        mean = _in_place("mean", mean, param.shape, param.dtype)
        square = _in_place("square", square, param.shape, param.dtype)
        grad = _check.floats("grad", grad, max(param.ndim, 1), dtype=param.dtype, shape=param.shape)
        step = _check.integer("step", step, least=1)
        _check.apart("param", param, grad=grad, mean=mean, square=square)
        _check.apart("mean", mean, grad=grad, square=square)
        _check.apart("square", square, grad=grad)
        adamw_kernel(
            param.size,
            param.reshape(-1),
            grad.reshape(-1),
            mean.reshape(-1),
            square.reshape(-1),
            step,
            self.lr,
            self.beta1,
            self.beta2,
            self.eps,
            self.weight_decay,
        )
