"""Losses with targets and options, for the tests of the functions, the classes and the engine."""

import numpy as np
from numba import njit

from nbnorm import (
    AbsoluteError,
    BinaryCrossEntropy,
    CrossEntropy,
    Huber,
    Poisson,
    Quantile,
    SquaredError,
    binary_cross_entropy,
    huber_loss,
    mean_absolute_error,
    mean_squared_error,
    poisson_loss,
    quantile_loss,
    softmax_cross_entropy,
)


@njit
def quartic(z, target, gradient):
    loss = 0.0
    for o in range(z.size):
        loss += (z[o] - target[o]) ** 4
        gradient[o] = 4 * (z[o] - target[o]) ** 3
    return loss


RNG = np.random.default_rng(5)
Z, T = RNG.normal(size=(70, 3)) * 2, RNG.uniform(size=(70, 3))
LABELS = RNG.integers(0, 3, 70)
WEIGHTS = RNG.integers(0, 4, 70)

CASES = {
    "softmax": (softmax_cross_entropy, LABELS, {}, CrossEntropy()),
    "softmax, smooth": (softmax_cross_entropy, LABELS, {"label_smoothing": 0.2}, CrossEntropy(0.2)),
    "binary": (binary_cross_entropy, T, {}, BinaryCrossEntropy()),
    "binary, smooth": (binary_cross_entropy, T, {"label_smoothing": 0.2}, BinaryCrossEntropy(0.2)),
    "squared": (mean_squared_error, T, {}, SquaredError()),
    "absolute": (mean_absolute_error, T, {}, AbsoluteError()),
    "huber": (huber_loss, T, {"delta": 0.7}, Huber(0.7)),
    "poisson": (poisson_loss, T, {}, Poisson()),
    "quantile": (quantile_loss, T[:, :1], {"levels": (0.1, 0.5, 0.8)}, Quantile((0.1, 0.5, 0.8))),
    "quantile of each": (quantile_loss, T, {"levels": 0.3}, Quantile((0.3,))),
}
OUTPUT = {"softmax": "softmax", "binary": "sigmoid"}


def output_of(case):
    return OUTPUT.get(case.split(",")[0], "identity")
