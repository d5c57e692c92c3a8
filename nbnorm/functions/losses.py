"""Losses and their gradients, as functions on arrays.

Each is summed over the outputs and averaged over the samples of the mini-batch; with weights w of the
samples the average is ``sum(w L) / sum(w)``.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt

from nbnorm import _check
from nbnorm._types import Array, Float64Array, FloatArray
from nbnorm.functions.loss_formulas import (
    FORMULAS,
    KERNELS,
    partial_size,
    softmax_kernel,
    weighted_softmax_kernel,
)

PROBABILITIES = (0.0, 1.0, "between 0 and 1")
COUNTS = (0.0, math.inf, "at least 0")
SHAPES = "(n_samples,) or (n_samples, n_outputs)"


def check_targets(targets: Array, least: float, most: float, expected: str) -> None:
    """Refuse targets that are not between `least` and `most`, which is what was `expected`."""
    good = (targets >= least) & (targets <= most)
    if not good.all():
        raise ValueError(f"targets must be {expected}, got {targets[~good][0]}")


def check_smoothing(value: float) -> float:
    """Check a label smoothing."""
    return _check.number("label_smoothing", value, least=0, below=1)


def check_levels(levels: npt.ArrayLike) -> tuple[float, ...]:
    """Check the levels of quantiles: between 0 and 1, in growing order."""
    got = np.atleast_1d(_check.numeric("levels", levels))
    if got.ndim != 1 or got.size == 0:
        raise ValueError(f"levels must hold one number or more, got shape {got.shape}")
    values = tuple(
        _check.number(f"levels[{k}]", level, above=0, below=1) for k, level in enumerate(got.tolist())
    )
    if any(b <= a for a, b in itertools.pairwise(values)):
        raise ValueError(f"levels must grow, got {values}")
    return values


def check_labels(labels: npt.ArrayLike, n: int, classes: int) -> npt.NDArray[np.int64]:
    """Check the classes of n samples."""
    got = _check.numeric("labels", labels)
    if got.dtype.kind not in "iu":
        raise TypeError(f"labels must hold integers, got dtype {got.dtype}")
    if got.shape != (n,):
        raise ValueError(f"labels must have shape {(n,)}, got shape {got.shape}")
    wrong = (got < 0) | (got >= classes)
    if wrong.any():
        at = int(np.argmax(wrong))
        raise ValueError(f"labels must be between 0 and {classes - 1}, got {got[at]} at [{at}]")
    return _check.readable(np.ascontiguousarray(got, np.int64))


def _pair(
    name: str, first: npt.ArrayLike, targets: npt.ArrayLike, out: FloatArray | None
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Check predictions and targets of shape (n_samples,) or (n_samples, n_outputs)."""
    got = _check.numeric(name, first)
    x = _check.floats(name, got, 1 if got.ndim == 1 else 2, expected=SHAPES)
    y = _check.floats("targets", targets, x.ndim, dtype=x.dtype, shape=x.shape)
    gradient = _check.output("out", out, x.shape, x.dtype)
    _check.apart("out", gradient, **{name: x, "targets": y})
    return x, y, gradient


def _call(
    name: str,
    x: FloatArray,
    y: FloatArray,
    options: float | Float64Array | None,
    sample_weight: npt.ArrayLike | None,
    gradient: FloatArray,
) -> tuple[float, FloatArray]:
    """Return the loss that `FORMULAS` knows by `name`, and its gradient."""
    kernels, n = KERNELS[name], len(x)
    work, partial = FORMULAS[name].work * x.size, np.empty(partial_size(n))
    z, targets, out = (array.reshape(n, -1) for array in (x, y, gradient))
    if options is None and sample_weight is None:
        return float(kernels.plain(work, z, targets, out, partial)), gradient
    weights = np.empty(0) if sample_weight is None else _check.weights("sample_weight", sample_weight, n)
    if options is None:
        return float(kernels.weighted(work, z, targets, weights, out, partial)), gradient
    return float(kernels.with_option(work, z, targets, options, weights, out, partial)), gradient


def softmax_cross_entropy(
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    label_smoothing: float = 0.0,
    sample_weight: npt.ArrayLike | None = None,
    out: FloatArray | None = None,
) -> tuple[float, FloatArray]:
    """Mean cross-entropy of softmax outputs and its gradient with respect to the logits.

    ``loss = mean(log(sum(exp(z))) - z[label])`` and ``gradient = (softmax(z) - onehot(label)) / n``;
    the largest logit is subtracted first, so nothing overflows.

    Parameters
    ----------
    logits : array_like, shape (n_samples, n_classes)
        Outputs before softmax; float32 stays float32, other real types become float64.
    labels : array_like of int, shape (n_samples,)
        Classes from 0 to n_classes - 1.
    label_smoothing : float, default 0.0
        In [0, 1): the target is ``1 - label_smoothing`` for the sample's class plus
        ``label_smoothing / n_classes`` for every class.
    sample_weight : array_like, shape (n_samples,), optional
        Weights of the samples; the mean is ``sum(w L) / sum(w)``.
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
        If a shape does not fit, an array is empty, or a label, the smoothing or a weight is out of range.

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
    logits = _check.floats("logits", logits, 2, expected="(n_samples, n_classes)")
    labels = check_labels(labels, *logits.shape)
    smoothing = check_smoothing(label_smoothing)
    gradient = _check.output("out", out, logits.shape, logits.dtype)
    _check.apart("out", gradient, logits=logits)
    n, partial = len(logits), np.empty(partial_size(len(logits)))
    if smoothing == 0 and sample_weight is None:
        return float(softmax_kernel(logits.size, logits, labels, gradient, partial)), gradient
    weights = np.empty(0) if sample_weight is None else _check.weights("sample_weight", sample_weight, n)
    loss = weighted_softmax_kernel(logits.size, logits, labels, smoothing, weights, gradient, partial)
    return float(loss), gradient


def binary_cross_entropy(
    logits: npt.ArrayLike,
    targets: npt.ArrayLike,
    *,
    label_smoothing: float = 0.0,
    sample_weight: npt.ArrayLike | None = None,
    out: FloatArray | None = None,
) -> tuple[float, FloatArray]:
    """Mean cross-entropy of sigmoid outputs and its gradient with respect to the logits.

    ``loss = mean(sum(max(z, 0) - z t + log(1 + exp(-|z|))))``, summed over outputs, and
    ``gradient = (sigmoid(z) - t) / n``.

    Parameters
    ----------
    logits : array_like, shape (n_samples,) or (n_samples, n_outputs)
        Outputs before the sigmoid; float32 stays float32, other real types become float64.
    targets : array_like
        Probabilities between 0 and 1 (or labels 0 and 1), of the shape of `logits`.
    label_smoothing : float, default 0.0
        In [0, 1): a target t counts as ``t (1 - label_smoothing) + label_smoothing / 2``.
    sample_weight : array_like, shape (n_samples,), optional
        Weights of the samples; the mean is ``sum(w L) / sum(w)``.
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
        If the shapes differ, an array is empty, or a target, the smoothing or a weight is out of range.

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
    check_targets(y, *PROBABILITIES)
    smoothing = check_smoothing(label_smoothing)
    return _call("binary_cross_entropy", x, y, smoothing or None, sample_weight, gradient)


def mean_squared_error(
    pred: npt.ArrayLike,
    targets: npt.ArrayLike,
    *,
    sample_weight: npt.ArrayLike | None = None,
    out: FloatArray | None = None,
) -> tuple[float, FloatArray]:
    """Half the mean squared distance and its gradient with respect to the predictions.

    ``loss = mean(sum((pred - target)**2) / 2)``, summed over outputs, and
    ``gradient = (pred - target) / n``.

    Parameters
    ----------
    pred : array_like, shape (n_samples,) or (n_samples, n_outputs)
        Predictions; float32 stays float32, other real types become float64.
    targets : array_like
        Targets, of the shape of `pred`.
    sample_weight : array_like, shape (n_samples,), optional
        Weights of the samples; the mean is ``sum(w L) / sum(w)``.
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
        If the shapes differ, an array is empty or a weight is negative or not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import mean_squared_error
    >>> mean_squared_error(np.array([[1.0, 2.0]]), np.array([[0.0, 0.0]]))
    (2.5, array([[1., 2.]]))
    """
    x, y, gradient = _pair("pred", pred, targets, out)
    return _call("squared", x, y, None, sample_weight, gradient)


def mean_absolute_error(
    pred: npt.ArrayLike,
    targets: npt.ArrayLike,
    *,
    sample_weight: npt.ArrayLike | None = None,
    out: FloatArray | None = None,
) -> tuple[float, FloatArray]:
    """Mean absolute distance and its gradient with respect to the predictions.

    ``loss = mean(sum(|pred - target|))``, summed over outputs, and
    ``gradient = sign(pred - target) / n``, 0 where both are equal.

    Parameters
    ----------
    pred : array_like, shape (n_samples,) or (n_samples, n_outputs)
        Predictions; float32 stays float32, other real types become float64.
    targets : array_like
        Targets, of the shape of `pred`.
    sample_weight : array_like, shape (n_samples,), optional
        Weights of the samples; the mean is ``sum(w L) / sum(w)``.
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
        If the shapes differ, an array is empty or a weight is negative or not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import mean_absolute_error
    >>> mean_absolute_error(np.array([[1.0, -2.0]]), np.array([[0.0, 0.0]]))
    (3.0, array([[ 1., -1.]]))
    """
    x, y, gradient = _pair("pred", pred, targets, out)
    return _call("absolute", x, y, None, sample_weight, gradient)


def huber_loss(
    pred: npt.ArrayLike,
    targets: npt.ArrayLike,
    *,
    delta: float = 1.0,
    sample_weight: npt.ArrayLike | None = None,
    out: FloatArray | None = None,
) -> tuple[float, FloatArray]:
    """Huber's loss [1]_ and its gradient with respect to the predictions.

    With ``e = pred - target`` the loss of an output is ``e**2 / 2`` where ``|e| <= delta`` and
    ``delta (|e| - delta / 2)`` beyond; outputs are summed, samples averaged.  The gradient is
    ``clip(e, -delta, delta) / n``.

    Parameters
    ----------
    pred : array_like, shape (n_samples,) or (n_samples, n_outputs)
        Predictions; float32 stays float32, other real types become float64.
    targets : array_like
        Targets, of the shape of `pred`.
    delta : float, default 1.0
        Distance at which the parabola becomes a straight line, positive.
    sample_weight : array_like, shape (n_samples,), optional
        Weights of the samples; the mean is ``sum(w L) / sum(w)``.
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
        If the shapes differ, an array is empty, `delta` is not positive or a weight is negative or
        not finite.

    References
    ----------
    .. [1] Peter J. Huber, "Robust estimation of a location parameter", Annals of Mathematical
       Statistics 35 (1964).

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import huber_loss
    >>> huber_loss(np.array([[0.5, 3.0]]), np.array([[0.0, 0.0]]))
    (2.625, array([[0.5, 1. ]]))
    """
    delta = _check.number("delta", delta, above=0)
    x, y, gradient = _pair("pred", pred, targets, out)
    return _call("huber", x, y, delta, sample_weight, gradient)


def poisson_loss(
    logits: npt.ArrayLike,
    targets: npt.ArrayLike,
    *,
    sample_weight: npt.ArrayLike | None = None,
    out: FloatArray | None = None,
) -> tuple[float, FloatArray]:
    """Negative log-likelihood of Poisson counts and its gradient with respect to the logits.

    The expected count is ``exp(z)``.  ``loss = mean(sum(exp(z) - t z))``, summed over outputs and
    without the term ``log(t!)``, which does not depend on z; ``gradient = (exp(z) - t) / n``.

    Parameters
    ----------
    logits : array_like, shape (n_samples,) or (n_samples, n_outputs)
        Logarithms of the expected counts; float32 stays float32, other real types become float64.
    targets : array_like
        Counts or other numbers that are not negative, of the shape of `logits`.
    sample_weight : array_like, shape (n_samples,), optional
        Weights of the samples; the mean is ``sum(w L) / sum(w)``.
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
        If the shapes differ, an array is empty, a target is negative or a weight is negative or not
        finite.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import poisson_loss
    >>> poisson_loss(np.zeros((1, 2)), np.array([[1.0, 3.0]]))
    (2.0, array([[ 0., -2.]]))
    """
    x, y, gradient = _pair("logits", logits, targets, out)
    check_targets(y, *COUNTS)
    return _call("poisson", x, y, None, sample_weight, gradient)


def quantile_loss(
    pred: npt.ArrayLike,
    targets: npt.ArrayLike,
    levels: npt.ArrayLike,
    *,
    sample_weight: npt.ArrayLike | None = None,
    out: FloatArray | None = None,
) -> tuple[float, FloatArray]:
    """Pinball loss of predicted quantiles [1]_ and its gradient with respect to the predictions.

    With ``e = pred - target`` the loss of the quantile of level q is ``(1 - q) e`` where e is positive and
    ``-q e`` elsewhere; levels and targets are summed, samples averaged.  Its expectation is least where
    the prediction is the quantile.  The slope is 0 where prediction and target are equal.

    Parameters
    ----------
    pred : array_like, shape (n_samples, n_targets * n_levels)
        Predictions, all levels of the first target first; float32 stays float32, other real types become
        float64.  Also of shape (n_samples,) for one target and one level.
    targets : array_like, shape (n_samples,) or (n_samples, n_targets)
        Targets.
    levels : array_like, shape (n_levels,)
        Levels of the quantiles, between 0 and 1 exclusive, in growing order; or one of them.
    sample_weight : array_like, shape (n_samples,), optional
        Weights of the samples; the mean is ``sum(w L) / sum(w)``.
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
        If the shapes do not fit, an array is empty, a level is out of range or order, or a weight is negative
        or not finite.

    References
    ----------
    .. [1] Roger Koenker and Gilbert Bassett, "Regression quantiles", Econometrica 46 (1978).

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import quantile_loss
    >>> loss, gradient = quantile_loss(np.array([[1.0, 2.0, 4.0]]), [3.0], levels=(0.1, 0.5, 0.9))
    >>> round(loss, 4)
    0.8
    >>> gradient
    array([[-0.1, -0.5,  0.1]])
    """
    options = np.array(check_levels(levels))
    got = _check.numeric("pred", pred)
    x = _check.floats("pred", got, 1 if got.ndim == 1 else 2, expected=SHAPES)
    n, outputs = len(x), x.size // len(x)
    if outputs % len(options):
        raise ValueError(
            f"pred must have a column for each of {len(options)} levels of each target, got shape {x.shape}"
        )
    columns = outputs // len(options)
    y = _check.numeric("targets", targets)
    y = _check.floats(
        "targets", y.reshape(n, 1) if y.shape == (n,) and columns == 1 else y, 2, dtype=x.dtype,
        shape=(n, columns),
    )  # fmt: skip
    gradient = _check.output("out", out, x.shape, x.dtype)
    _check.apart("out", gradient, pred=x, targets=y)
    return _call("quantile", x, y, options, sample_weight, gradient)
