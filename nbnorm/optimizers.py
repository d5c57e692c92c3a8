"""Stochastic gradient descent with momentum, Nesterov momentum and decoupled weight decay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from nbnorm import _check, _jit

# Elements in one block of the parallel loop.
BLOCK = 16_384


@_jit.kernel
def _step_row(
    param: Any, grad: Any, velocity: Any, lr: Any, momentum: Any, nesterov: Any, shrink: Any
) -> None:
    if nesterov:
        for i in range(param.size):
            speed = momentum * velocity[i] + grad[i]
            velocity[i] = speed
            param[i] = shrink * param[i] - lr * (grad[i] + momentum * speed)
    else:
        for i in range(param.size):
            speed = momentum * velocity[i] + grad[i]
            velocity[i] = speed
            param[i] = shrink * param[i] - lr * speed


@_jit.parallel_kernel
def step_kernel(
    param: Any, grad: Any, velocity: Any, lr: Any, momentum: Any, nesterov: Any, weight_decay: Any
) -> None:
    """Update vectors in place; the numbers are rounded to the dtype of `param`."""
    number = param.dtype.type
    rate, friction, shrink = number(lr), number(momentum), number(1.0 - lr * weight_decay)
    for block in numba.prange((param.size + BLOCK - 1) // BLOCK):
        start, stop = block * BLOCK, min(param.size, (block + 1) * BLOCK)
        _step_row(param[start:stop], grad[start:stop], velocity[start:stop], rate, friction, nesterov, shrink)


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
        Decoupled weight decay, not negative.

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


@dataclass(frozen=True)
class SGD:
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
        Decoupled weight decay, not negative.

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

    def __post_init__(self) -> None:
        for name, value in (
            ("lr", _check.number("lr", self.lr, above=0)),
            ("momentum", _check.number("momentum", self.momentum, least=0, below=1)),
            ("nesterov", _check.flag("nesterov", self.nesterov)),
            ("weight_decay", _check.number("weight_decay", self.weight_decay, least=0)),
        ):
            object.__setattr__(self, name, value)
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
