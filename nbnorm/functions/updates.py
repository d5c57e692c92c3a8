"""The steps of the optimizers, each written once, and the table that everything else follows from.

A step serves the functions on arrays, the vectors of biases, gammas and betas, and the micro-kernels that
update a tile of weights as soon as they have its gradient.  A new optimizer is a step, the numbers that it
needs, and a line in `RULES`; the class of its options stands in `nbnorm.functions.optimizers`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from nbnorm import simd


@functools.cache
def _parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of a function's parameters."""
    return tuple(inspect.signature(function).parameters)


class Rule(NamedTuple):
    """How an optimizer moves a parameter.

    Attributes
    ----------
    step : function
        ``step(w, *state, g, *numbers)`` returns the parameter and its state after a step with the gradient g.
        Where w, state and g are 0 it must return zeros: so do what only fills up the engine's blocks.
    numbers : function
        ``numbers(lr, ..., weight_decay)`` makes the numbers of one step from the options, by their names, in
        float64.  If its first argument is ``step``, that is the number of the step, 1 for the first.
    state : tuple of str
        Names of the arrays that are kept from step to step, zeros at first.
    adaptive : bool
        Whether the length of a step does not grow with the gradient.
    """

    step: Callable[..., tuple[Any, ...]]
    numbers: Callable[..., tuple[Any, ...]]
    state: tuple[str, ...]
    adaptive: bool = False

    @property
    def counts_steps(self) -> bool:
        """Whether the numbers depend on how many steps there have been."""
        return _parameters(self.numbers)[0] == "step"

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the options, in the order in which `numbers` takes them."""
        return tuple(name for name in _parameters(self.numbers) if name != "step")

    @property
    def number_count(self) -> int:
        """How many numbers a step takes."""
        return len(_parameters(self.step)) - 2 - len(self.state)

    def all_numbers(self, step: Any, options: Iterable[Any]) -> tuple[Any, ...]:
        """Return `numbers` of a step for the options in their order."""
        return self.numbers(*((step,) if self.counts_steps else ()), *options)


@simd.elementwise
def sgd(w: Any, v: Any, g: Any, momentum: Any, shrink: Any, rate: Any, gradient_rate: Any) -> tuple[Any, Any]:
    """Return weight and velocity after a step of stochastic gradient descent.

    ``v = momentum v + g;  w = shrink w - rate v - gradient_rate g``, with the numbers of `sgd_numbers`.
    """
    v = simd.fma(momentum, v, g)
    return shrink * w - simd.fma(rate, v, gradient_rate * g), v


@simd.traced
def sgd_numbers(lr: Any, momentum: Any, nesterov: Any, weight_decay: Any) -> tuple[Any, ...]:
    """Return the numbers of `sgd`; with Nesterov's momentum the gradient has a rate of its own."""
    rate = simd.where(nesterov > 0.0, lr * momentum, lr)
    return momentum, 1.0 - lr * weight_decay, rate, simd.where(nesterov > 0.0, lr, 0.0)


@simd.elementwise
def adamw(
    w: Any, m: Any, s: Any, g: Any, beta1: Any, fresh1: Any, beta2: Any, fresh2: Any, rate: Any,
    correction2: Any, eps: Any, shrink: Any,
) -> tuple[Any, Any, Any]:  # fmt: skip
    """Return weight, mean of the gradients and mean of their squares after a step of AdamW.

    ``m = beta1 m + fresh1 g;  s = beta2 s + fresh2 g**2``, and with both biases corrected
    ``w = shrink w - rate m / (sqrt(correction2 s) + eps)``, with the numbers of `adamw_numbers`.
    """
    m = simd.fma(beta1, m, fresh1 * g)
    s = simd.fma(beta2, s, fresh2 * (g * g))
    return shrink * w - rate * m / (simd.sqrt(s * correction2) + eps), m, s


@simd.traced
def adamw_numbers(step: Any, lr: Any, beta1: Any, beta2: Any, eps: Any, weight_decay: Any) -> tuple[Any, ...]:
    """Return the numbers of `adamw`: both corrections of the biases become factors."""
    rate, correction2 = lr / (1.0 - simd.power(beta1, step)), 1.0 / (1.0 - simd.power(beta2, step))
    return beta1, 1.0 - beta1, beta2, 1.0 - beta2, rate, correction2, eps, 1.0 - lr * weight_decay


@simd.elementwise
def lion(
    w: Any, m: Any, g: Any, beta1: Any, fresh1: Any, beta2: Any, fresh2: Any, rate: Any, shrink: Any
) -> tuple[Any, Any]:
    """Return weight and mean of the gradients after a step of Lion.

    ``w = shrink w - rate sign(beta1 m + fresh1 g);  m = beta2 m + fresh2 g``, with the numbers of
    `lion_numbers`; the sign of 0 is 0 and that of NaN is NaN.
    """
    c = simd.fma(beta1, m, fresh1 * g)
    sign = simd.where(simd.abs(c) > 0.0, simd.copysign(1.0, c), c)
    return shrink * w - rate * sign, simd.fma(beta2, m, fresh2 * g)


@simd.traced
def lion_numbers(lr: Any, beta1: Any, beta2: Any, weight_decay: Any) -> tuple[Any, ...]:
    """Return the numbers of `lion`."""
    return beta1, 1.0 - beta1, beta2, 1.0 - beta2, lr, 1.0 - lr * weight_decay


RULES = {
    "sgd": Rule(sgd, sgd_numbers, ("velocity",)),
    "adamw": Rule(adamw, adamw_numbers, ("mean", "square"), adaptive=True),
    "lion": Rule(lion, lion_numbers, ("mean",), adaptive=True),
}

# Numbers by which compiled code knows them.
CODES = {name: code for code, name in enumerate(RULES)}

# Elements in one block of a parallel loop.
BLOCK = 16_384

_RULES = tuple(RULES.values())


@simd.traced
def update_block(code: Any, block: Any, param: Any, grad: Any, state: Any, step: Any, options: Any) -> None:
    """Update one block of a parameter's elements in place.

    `code`, one of `CODES`, is known when the code is compiled; `state` is a tuple of arrays and `options`
    one of numbers, in the order of the rule.  The numbers of the step are rounded to the dtype of `param`.
    """
    rule: Rule = _RULES[code]
    time, *given = (simd.convert(number, np.float64) for number in (step, *options))
    numbers = [simd.convert(number, param.dtype) for number in rule.all_numbers(time, given)]

    def update(w: Any, g: Any, *state: Any) -> tuple[Any, ...]:
        return rule.step(w, *state, g, *numbers)

    start = simd.convert(block, np.int64) * BLOCK
    stop = simd.min(simd.size(param), start + BLOCK)
    simd.map_elements(update, [param, grad, *state], [param, *state], start, stop)
