"""The steps of the optimizers, each written once.

They serve the functions on arrays, the vectors of biases, gammas and betas, and the micro-kernels that update
a tile of weights as soon as they have its gradient.
"""

from __future__ import annotations

from typing import Any

from nbnorm import simd


@simd.elementwise
def sgd(w: Any, v: Any, g: Any, momentum: Any, shrink: Any, rate: Any, ahead: Any = None) -> tuple[Any, Any]:
    """Return weight and velocity after a step of stochastic gradient descent.

    ``v = momentum v + g;  w = shrink w - rate v - ahead g``, where shrink is 1 - lr * weight_decay.  Without
    Nesterov's momentum `rate` is the learning rate and `ahead` 0 or None; with it they are lr * momentum
    and lr.
    """
    v = simd.fma(momentum, v, g)
    step = rate * v if ahead is None else simd.fma(rate, v, ahead * g)
    return shrink * w - step, v


@simd.elementwise
def adam(
    w: Any, v: Any, s: Any, g: Any, beta1: Any, fresh1: Any, beta2: Any, fresh2: Any, rate: Any,
    correction2: Any, eps: Any, shrink: Any,
) -> tuple[Any, Any, Any]:  # fmt: skip
    """Return weight, mean of the gradients and mean of their squares after a step of AdamW.

    ``v = beta1 v + fresh1 g;  s = beta2 s + fresh2 g**2``, and with both biases corrected
    ``w = shrink w - rate v / (sqrt(correction2 s) + eps)``, where fresh is 1 - beta, correction2 is
    1 / (1 - beta2**t), rate is lr / (1 - beta1**t) and shrink is 1 - lr * weight_decay.
    """
    v = simd.fma(beta1, v, fresh1 * g)
    s = simd.fma(beta2, s, fresh2 * (g * g))
    return shrink * w - rate * v / (simd.sqrt(s * correction2) + eps), v, s
