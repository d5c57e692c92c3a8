"""Slow, obvious references.

Where a test counts units in the last place they compute with decimal numbers of 60 digits, in arrays of
objects: `numpy.longdouble` is no wider than a double on macOS and Windows.
"""

import math
from decimal import Decimal, localcontext
from functools import wraps

import numpy as np

exact = np.frompyfunc(lambda x: Decimal(float(x)), 1, 1)
ZERO, FOUR = Decimal(0), Decimal(4)
SELU_SCALE, SELU_ALPHA = Decimal("1.0507009873554804934"), Decimal("1.6732632423543772848")


def _exactly(function):
    """Give a function its arrays as decimal numbers, and 60 digits."""

    @wraps(function)
    def run(*args):
        with localcontext() as context:
            context.prec = 60
            return function(*[exact(np.asarray(a)) if not isinstance(a, str) else a for a in args])

    return run


_log1p = np.frompyfunc(lambda x: x - x * x / 2 if x < Decimal("1e-25") else (1 + x).ln(), 1, 1)


def _logistic(z):
    return 1 / (1 + np.exp(-z))


@_exactly
def exp(x):
    return np.exp(x)


@_exactly
def activation(z, name):
    return {
        "identity": lambda: z,
        "relu": lambda: np.maximum(z, ZERO),
        "sigmoid": lambda: _logistic(z),
        "tanh": lambda: 2 * _logistic(2 * z) - 1,
        "leaky_relu": lambda: np.where(z > 0, z, z / 100),
        "elu": lambda: np.where(z > 0, z, np.exp(np.minimum(z, ZERO)) - 1),
        "gelu": lambda: z * _normal(z),
        "silu": lambda: z * _logistic(z),
        "selu": lambda: SELU_SCALE * np.where(z > 0, z, SELU_ALPHA * (np.exp(np.minimum(z, ZERO)) - 1)),
        "softplus": lambda: np.maximum(z, ZERO) + _log1p(np.exp(-np.abs(z))),
    }[name]()


def _density(z):
    pi = Decimal("3.14159265358979323846264338327950288419716939937510582097494")
    return np.exp(-z * z / 2) / (2 * pi).sqrt()


def _normal(z):
    """Distribution function of the normal distribution: its series, or beyond 4 its continued fraction."""
    x = np.abs(z)
    near = np.minimum(x, FOUR)
    term, series = near, near
    for k in range(1, 100):
        term = term * near**2 / (2 * k + 1)
        series = series + term
    far = np.maximum(x, FOUR)
    fraction = far
    for k in range(100, 0, -1):
        fraction = far + k / fraction
    tail = np.where(x < FOUR, Decimal("0.5") - _density(z) * series, _density(z) / fraction)
    return np.where(z < 0, tail, 1 - tail)


@_exactly
def slope(z, name):
    s = _logistic(z)
    return {
        "leaky_relu": lambda: np.where(z > 0, 1, Decimal("0.01")),
        "elu": lambda: np.exp(np.minimum(z, ZERO)),
        "gelu": lambda: _normal(z) + z * _density(z),
        "silu": lambda: s + z * s * _logistic(-z),
        "selu": lambda: SELU_SCALE * np.where(z > 0, 1, SELU_ALPHA * np.exp(np.minimum(z, ZERO))),
        "softplus": lambda: s,
    }[name]()


@_exactly
def _statistics(x, eps):
    """Exact mean and reciprocal standard deviation of the columns, and what is left of x."""
    mean = x.sum(axis=0) / len(x)
    rstd = 1 / np.sqrt(((x - mean) ** 2).sum(axis=0) / len(x) + eps)
    return mean.astype(float), rstd.astype(float), (x - mean).astype(float)


def batch_norm_forward(x, gamma, beta, eps):
    mean, rstd, centred = _statistics(x, eps)
    return gamma * (centred * rstd) + beta, mean, rstd


def batch_norm_backward(dout, x, gamma, eps):
    """Gradients by the full Jacobian of every feature, entry by entry."""
    dout, n = np.asarray(dout, float), len(x)
    _, rstd, centred = _statistics(x, eps)
    dx = np.zeros_like(dout)
    for j in range(x.shape[1]):
        c = centred[:, j]
        for t in range(n):
            du = [rstd[j] * ((w == t) - 1 / n) - rstd[j] ** 3 * c[t] * c[w] / n for w in range(n)]
            dx[t, j] = gamma[j] * math.fsum(dout[:, j] * du)
    return dx, (dout * centred * rstd).sum(axis=0), dout.sum(axis=0)


def softmax(logits):
    z = np.asarray(logits, np.longdouble)
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def softmax_cross_entropy(logits, labels):
    p = softmax(logits)
    onehot = np.eye(p.shape[1])[labels]
    return -np.log(p[np.arange(len(p)), labels]).mean(), (p - onehot) / len(p)


def losses(z, y, name, label_smoothing=0.0, delta=1.0, levels=0.5):
    """Loss of every sample."""
    z = np.asarray(z, np.longdouble)
    if name == "cross_entropy":
        target = (1 - label_smoothing) * np.eye(z.shape[1])[y] + label_smoothing / z.shape[1]
        return -(target * np.log(softmax(z))).sum(axis=1)
    if name == "binary_cross_entropy":
        p, target = activation(z, "sigmoid").astype(float), y * (1 - label_smoothing) + label_smoothing / 2
        return -(target * np.log(p) + (1 - target) * np.log1p(-p)).sum(axis=1)
    if name == "quantile":
        levels = np.atleast_1d(levels)
        e = np.repeat(y, len(levels), axis=1) - z
        q = np.tile(levels, y.shape[1])
        return np.maximum(q * e, (q - 1) * e).sum(axis=1)
    e = np.abs(z - y)
    return {
        "squared": lambda: e**2 / 2,
        "absolute": lambda: e,
        "huber": lambda: np.where(e <= delta, e**2 / 2, delta * (e - delta / 2)),
        "poisson": lambda: np.exp(z) - y * z,
    }[name]().sum(axis=1)


def sgd_step(param, grad, velocity, lr, momentum, nesterov, weight_decay):
    velocity = momentum * velocity + grad
    step = grad + momentum * velocity if nesterov else velocity
    return param - lr * weight_decay * param - lr * step, velocity


def lion_step(param, grad, mean, lr, beta1, beta2, weight_decay):
    step = np.sign(beta1 * mean + (1 - beta1) * grad)
    return param - lr * weight_decay * param - lr * step, beta2 * mean + (1 - beta2) * grad


def adamw_step(param, grad, mean, square, step, lr, beta1, beta2, eps, weight_decay):
    mean = beta1 * mean + (1 - beta1) * grad
    square = beta2 * square + (1 - beta2) * grad**2
    m, v = mean / (1 - beta1**step), square / (1 - beta2**step)
    return param - lr * weight_decay * param - lr * m / (np.sqrt(v) + eps), mean, square
