"""Losses and their gradients: softmax and binary cross-entropy, mean squared error.

Each is a mean over the samples of the mini-batch.  Losses are summed in float64 over fixed blocks of
rows, and the blocks in order.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from nbnorm import _check, _jit
from nbnorm.activations import exp, sigmoid

# Rows in one block of the parallel loops.
ROWS = 64

# ----------------------------------------------------------------------------------------------
# Kernels
# ----------------------------------------------------------------------------------------------


@_jit.kernel
def partial_size(n_samples: Any) -> Any:
    """Return the number of float64 elements of the workspace `partial` of the kernels below."""
    return (n_samples + ROWS - 1) // ROWS


@_jit.kernel
def _softmax_row(logits: Any, label: Any, share: Any, gradient: Any) -> Any:
    """Loss of one sample, ``log(sum(exp(z))) - z[label]``, and its gradient times `share`."""
    largest = logits[0]
    for j in range(1, logits.size):
        largest = max(largest, logits[j])
    for j in range(logits.size):
        gradient[j] = exp(logits[j] - largest)
    total = 0.0
    for j in range(logits.size):
        total += gradient[j]
    factor = logits.dtype.type(share / total)
    for j in range(logits.size):
        gradient[j] *= factor
    gradient[label] -= logits.dtype.type(share)
    return math.log(total) + (np.float64(largest) - np.float64(logits[label]))


@_jit.parallel_kernel
def softmax_kernel(logits: Any, labels: Any, gradient: Any, partial: Any) -> Any:
    """Softmax cross-entropy; returns the loss."""
    n = logits.shape[0]
    blocks = partial_size(n)
    for block in numba.prange(blocks):
        total = 0.0
        for i in range(block * ROWS, min(n, (block + 1) * ROWS)):
            total += _softmax_row(logits[i], labels[i], 1.0 / n, gradient[i])
        partial[block] = total
    loss = 0.0
    for block in range(blocks):
        loss += partial[block]
    return loss / n


@_jit.kernel
def _binary_row(logits: Any, targets: Any, share: Any, gradient: Any) -> Any:
    """``max(z, 0) - z t + log(1 + exp(-|z|))`` summed over outputs, and its gradient times `share`."""
    factor = logits.dtype.type(share)
    for j in range(logits.size):
        gradient[j] = (sigmoid(logits[j]) - targets[j]) * factor
    total = 0.0
    for j in range(logits.size):
        z = np.float64(logits[j])
        total += (0.0 if z < 0.0 else z) - z * targets[j] + math.log1p(math.exp(-abs(z)))
    return total


@_jit.parallel_kernel
def binary_kernel(logits: Any, targets: Any, gradient: Any, partial: Any) -> Any:
    """Binary cross-entropy; returns the loss."""
    n = logits.shape[0]
    blocks = partial_size(n)
    for block in numba.prange(blocks):
        total = 0.0
        for i in range(block * ROWS, min(n, (block + 1) * ROWS)):
            total += _binary_row(logits[i], targets[i], 1.0 / n, gradient[i])
        partial[block] = total
    loss = 0.0
    for block in range(blocks):
        loss += partial[block]
    return loss / n


@_jit.kernel
def _squared_row(pred: Any, targets: Any, share: Any, gradient: Any) -> Any:
    """``(pred - target)**2 / 2`` summed over outputs, and its gradient times `share`."""
    factor = pred.dtype.type(share)
    for j in range(pred.size):
        gradient[j] = (pred[j] - targets[j]) * factor
    total = 0.0
    for j in range(pred.size):
        difference = np.float64(pred[j]) - np.float64(targets[j])
        total += difference * difference
    return 0.5 * total


@_jit.parallel_kernel
def squared_kernel(pred: Any, targets: Any, gradient: Any, partial: Any) -> Any:
    """Mean squared error; returns the loss."""
    n = pred.shape[0]
    blocks = partial_size(n)
    for block in numba.prange(blocks):
        total = 0.0
        for i in range(block * ROWS, min(n, (block + 1) * ROWS)):
            total += _squared_row(pred[i], targets[i], 1.0 / n, gradient[i])
        partial[block] = total
    loss = 0.0
    for block in range(blocks):
        loss += partial[block]
    return loss / n


# ----------------------------------------------------------------------------------------------
# Public functions
# ----------------------------------------------------------------------------------------------


def softmax_cross_entropy(
    logits: npt.ArrayLike, labels: npt.ArrayLike, *, out: npt.NDArray[Any] | None = None
) -> tuple[float, npt.NDArray[Any]]:
    """Mean cross-entropy of softmax outputs and its gradient with respect to the logits.

    ``loss = mean(log(sum(exp(z))) - z[label])`` and ``gradient = (softmax(z) - onehot(label)) / n``;
    the largest logit is subtracted first, so nothing overflows.

    Parameters
    ----------
    logits : array_like, shape (n_samples, n_classes)
        Outputs before softmax; float32 stays float32, other real types become float64.
    labels : array_like of int, shape (n_samples,)
        Classes from 0 to n_classes - 1.
    out : ndarray, optional
        C-contiguous array for the gradient, apart from `logits`.

    Returns
    -------
    loss : float
        Mean over the samples.
    gradient : ndarray, shape (n_samples, n_classes)
        Gradient, of the dtype of `logits`; `out` if given.

    Raises
    ------
    TypeError
        If `logits` does not hold real numbers or `labels` does not hold integers.
    ValueError
        If a shape does not fit, an array is empty or a label is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import softmax_cross_entropy
    >>> loss, gradient = softmax_cross_entropy(np.zeros((1, 2)), [0])
    >>> round(loss, 4)
    0.6931
    >>> gradient
    array([[-0.5,  0.5]])
    """
    logits = _check.floats("logits", logits, 2)
    n, classes = logits.shape
    labels = _check.numeric("labels", labels)
    if labels.dtype.kind not in "iu":
        raise TypeError(f"labels must hold integers, got dtype {labels.dtype}")
    if labels.shape != (n,):
        raise ValueError(f"labels must have shape {(n,)}, got shape {labels.shape}")
    wrong = (labels < 0) | (labels >= classes)
    if wrong.any():
        at = int(np.argmax(wrong))
        raise ValueError(f"labels must be between 0 and {classes - 1}, got {labels[at]} at [{at}]")
    labels = _check.readable(np.ascontiguousarray(labels, np.int64))
    gradient = _check.output("out", out, logits.shape, logits.dtype)
    _check.apart("out", gradient, logits=logits)
    loss = softmax_kernel(logits.size, logits, labels, gradient, np.empty(partial_size(n)))
    return float(loss), gradient


def _pair(
    name: str, first: npt.ArrayLike, targets: npt.ArrayLike, out: npt.NDArray[Any] | None
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """Check predictions and targets of shape (n_samples,) or (n_samples, n_outputs)."""
    got = _check.numeric(name, first)
    x = _check.floats(name, got, 1 if got.ndim == 1 else 2)
    y = _check.floats("targets", targets, x.ndim, dtype=x.dtype, shape=x.shape)
    gradient = _check.output("out", out, x.shape, x.dtype)
    _check.apart("out", gradient, **{name: x, "targets": y})
    return x, y, gradient


def _rows(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return x.reshape(len(x), -1)


def binary_cross_entropy(
    logits: npt.ArrayLike, targets: npt.ArrayLike, *, out: npt.NDArray[Any] | None = None
) -> tuple[float, npt.NDArray[Any]]:
    """Mean cross-entropy of sigmoid outputs and its gradient with respect to the logits.

    ``loss = mean(sum(max(z, 0) - z t + log(1 + exp(-|z|))))``, summed over outputs, and
    ``gradient = (sigmoid(z) - t) / n``.

    Parameters
    ----------
    logits : array_like, shape (n_samples,) or (n_samples, n_outputs)
        Outputs before the sigmoid; float32 stays float32, other real types become float64.
    targets : array_like
        Probabilities between 0 and 1 (or labels 0 and 1), of the shape of `logits`.
    out : ndarray, optional
        C-contiguous array for the gradient, apart from `logits` and `targets`.

    Returns
    -------
    loss : float
        Mean over the samples.
    gradient : ndarray
        Gradient, of the shape and dtype of `logits`; `out` if given.

    Raises
    ------
    TypeError
        If an array does not hold real numbers.
    ValueError
        If the shapes differ, an array is empty or a target is not between 0 and 1.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import binary_cross_entropy
    >>> loss, gradient = binary_cross_entropy(np.zeros(2), [0, 1])
    >>> round(loss, 4)
    0.6931
    >>> gradient
    array([ 0.25, -0.25])
    """
    x, y, gradient = _pair("logits", logits, targets, out)
    good = (y >= 0) & (y <= 1)
    if not good.all():
        raise ValueError(f"targets must be between 0 and 1, got {y[~good][0]}")
    partial = np.empty(partial_size(len(x)))
    loss = binary_kernel(10 * x.size, _rows(x), _rows(y), _rows(gradient), partial)
    return float(loss), gradient


def mean_squared_error(
    pred: npt.ArrayLike, targets: npt.ArrayLike, *, out: npt.NDArray[Any] | None = None
) -> tuple[float, npt.NDArray[Any]]:
    """Half the mean squared distance and its gradient with respect to the predictions.

    ``loss = mean(sum((pred - target)**2) / 2)``, summed over outputs, and
    ``gradient = (pred - target) / n``.

    Parameters
    ----------
    pred : array_like, shape (n_samples,) or (n_samples, n_outputs)
        Predictions; float32 stays float32, other real types become float64.
    targets : array_like
        Targets, of the shape of `pred`.
    out : ndarray, optional
        C-contiguous array for the gradient, apart from `pred` and `targets`.

    Returns
    -------
    loss : float
        Mean over the samples.
    gradient : ndarray
        Gradient, of the shape and dtype of `pred`; `out` if given.

    Raises
    ------
    TypeError
        If an array does not hold real numbers.
    ValueError
        If the shapes differ or an array is empty.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import mean_squared_error
    >>> mean_squared_error(np.array([[1.0, 2.0]]), np.array([[0.0, 0.0]]))
    (2.5, array([[1., 2.]]))
    """
    x, y, gradient = _pair("pred", pred, targets, out)
    partial = np.empty(partial_size(len(x)))
    loss = squared_kernel(x.size, _rows(x), _rows(y), _rows(gradient), partial)
    return float(loss), gradient
