"""Slow, obvious NumPy references."""

import numpy as np


def activation(z, name):
    z = np.asarray(z, np.longdouble)
    return {
        "identity": lambda: z,
        "relu": lambda: np.maximum(z, 0),
        "sigmoid": lambda: np.exp(-np.logaddexp(0, -z)),
        "tanh": lambda: np.tanh(z),
        "leaky_relu": lambda: np.where(z > 0, z, z / 100),
        "elu": lambda: np.where(z > 0, z, np.expm1(np.minimum(z, 0))),
        "gelu": lambda: z * normal(z),
        "silu": lambda: z * np.exp(-np.logaddexp(0, -z)),
        "softplus": lambda: np.logaddexp(0, z),
    }[name]()


def normal(z):
    """Distribution function of the normal distribution: its series, or beyond 2 its continued fraction."""
    x = np.abs(np.asarray(z, np.longdouble))
    density = np.exp(-x * x / 2) / np.sqrt(2 * np.arctan(np.longdouble(1)) * 4)
    near = np.minimum(x, 2)
    term, series = near, near
    for k in range(1, 60):
        term = term * near**2 / (2 * k + 1)
        series = series + term
    far = np.maximum(x, 2)
    fraction = far
    for k in range(300, 0, -1):
        fraction = far + k / fraction
    tail = np.where(x < 2, 0.5 - density * series, density / fraction)
    return np.where(z < 0, tail, 1 - tail)


def slope(z, name):
    z = np.asarray(z, np.longdouble)
    s = np.exp(-np.logaddexp(0, -z))
    density = np.exp(-z * z / 2) / np.sqrt(2 * np.arctan(np.longdouble(1)) * 4)
    return {
        "leaky_relu": lambda: np.where(z > 0, 1, np.longdouble(1) / 100),
        "elu": lambda: np.exp(np.minimum(z, 0)),
        "gelu": lambda: normal(z) + z * density,
        "silu": lambda: s + z * s * np.exp(-np.logaddexp(0, z)),
        "softplus": lambda: s,
    }[name]()


def batch_norm_forward(x, gamma, beta, eps):
    x = np.asarray(x, np.longdouble)
    mean = x.mean(axis=0)
    rstd = 1 / np.sqrt(((x - mean) ** 2).mean(axis=0) + eps)
    return gamma * ((x - mean) * rstd) + beta, mean, rstd


def batch_norm_backward(dout, x, gamma, eps):
    """Gradients by the full Jacobian of every feature, entry by entry."""
    x, dout = np.asarray(x, np.longdouble), np.asarray(dout, np.longdouble)
    n = len(x)
    _, mean, rstd = batch_norm_forward(x, gamma, 0, eps)
    dx = np.zeros_like(x)
    for j in range(x.shape[1]):
        centred = x[:, j] - mean[j]
        for w in range(n):
            for t in range(n):
                du = rstd[j] * ((w == t) - 1 / np.longdouble(n)) - rstd[j] ** 3 * centred[t] * centred[w] / n
                dx[t, j] += gamma[j] * dout[w, j] * du
    return dx, (dout * (x - mean) * rstd).sum(axis=0), dout.sum(axis=0)


def softmax(logits):
    z = np.asarray(logits, np.longdouble)
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def softmax_cross_entropy(logits, labels):
    p = softmax(logits)
    onehot = np.eye(p.shape[1])[labels]
    return -np.log(p[np.arange(len(p)), labels]).mean(), (p - onehot) / len(p)


def losses(z, y, name, label_smoothing=0.0, delta=1.0):
    """Loss of every sample."""
    z = np.asarray(z, np.longdouble)
    if name == "cross_entropy":
        target = (1 - label_smoothing) * np.eye(z.shape[1])[y] + label_smoothing / z.shape[1]
        return -(target * np.log(softmax(z))).sum(axis=1)
    if name == "binary_cross_entropy":
        p, target = activation(z, "sigmoid"), y * (1 - label_smoothing) + label_smoothing / 2
        return -(target * np.log(p) + (1 - target) * np.log1p(-p)).sum(axis=1)
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


def adamw_step(param, grad, mean, square, step, lr, beta1, beta2, eps, weight_decay):
    mean = beta1 * mean + (1 - beta1) * grad
    square = beta2 * square + (1 - beta2) * grad**2
    m, v = mean / (1 - beta1**step), square / (1 - beta2**step)
    return param - lr * weight_decay * param - lr * m / (np.sqrt(v) + eps), mean, square
