"""Mini-batches of images and the like, (n_samples, n_features, ...), as tables and back.

Batch norm has one mean and one variance for each channel, over samples and positions: a table with a row for
each sample and position has the channels as its columns.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from nbnorm import _check
from nbnorm._types import Float64Array, FloatArray


def batch(name: str, x: npt.ArrayLike) -> FloatArray:
    """Check a mini-batch of shape (n_samples, n_features, ...), of which float32 stays float32.

    Examples
    --------
    >>> batch("x", [[1, 2]]).dtype.name
    'float64'
    """
    got = x if type(x) is np.ndarray else _check.numeric(name, x)
    return _check.floats(name, got, max(got.ndim, 2), expected="(n_samples, n_features, ...)")


def table(x: FloatArray) -> FloatArray:
    """Return a mini-batch as a table, which is itself where it has two dimensions.

    Examples
    --------
    >>> table(np.arange(12).reshape(1, 2, 3, 2))[:2]
    array([[0, 6],
           [1, 7]])
    """
    if x.ndim == 2:
        return x
    return np.ascontiguousarray(np.moveaxis(x, 1, -1)).reshape(-1, x.shape[1])


def table_for(out: FloatArray) -> FloatArray:
    """Return a table to be computed, from which `put_back` fills `out`.

    Examples
    --------
    >>> table_for(np.empty((5, 2, 3, 2))).shape
    (30, 2)
    """
    if out.ndim == 2:
        return out
    return np.empty((out.shape[0] * math.prod(out.shape[2:]), out.shape[1]), out.dtype)


def put_back(rows: FloatArray, out: FloatArray) -> FloatArray:
    """Write a table into the mini-batch whose `table` it is, and return that.

    Examples
    --------
    >>> x = np.arange(12).reshape(1, 2, 3, 2)
    >>> bool((put_back(table(x), np.empty_like(x)) == x).all())
    True
    """
    if rows is not out:
        shape = (out.shape[0], *out.shape[2:], out.shape[1])
        np.moveaxis(out, 1, -1)[...] = rows.reshape(shape)
    return out


def weights(given: npt.ArrayLike, shape: tuple[int, ...]) -> Float64Array:
    """Return one weight for each row of the table of a mini-batch of this shape.

    They are given for each sample, or for each sample and position.

    Examples
    --------
    >>> weights([1, 2], (2, 3, 2))
    array([1., 1., 2., 2.])
    """
    got = _check.numeric("weights", given)
    positions = (shape[0], *shape[2:])
    if got.shape == shape[:1]:
        got = np.broadcast_to(got.reshape(-1, *[1] * len(shape[2:])), positions)
    if got.shape != positions:
        expected = f"{shape[:1]}" if len(shape) == 2 else f"{shape[:1]} or {positions}"
        raise ValueError(f"weights must have shape {expected}, got shape {got.shape}")
    return _check.weights("weights", got.reshape(-1), got.size)
