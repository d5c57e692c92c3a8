"""What an estimator's automatic settings stand for: one function for each.

They were chosen by measurement; `benchmarks/peers/defaults.py` repeats it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from nbnorm.functions.activations import ActivationLike, ActivationName

# With these, batch normalization behind the activation takes the scale of a hidden layer's weights out again.
_HOMOGENEOUS = ("relu", "leaky_relu", "identity")

# Rows up to which weight decay is greatest.
_FEW = 1200

# The most that decay takes from a weight in a step.
_MOST_DECAY = 0.025

# Epochs of a training, and steps that are enough.
_EPOCHS, _STEPS = 50, 1250

# Rows from which the speed of float32 counts.
_MANY = 600

# Rows below which networks with bins and without are averaged: so few say too little of which are better.
_MIXED = 800

# Dropout of few rows, and the rows up to which it is that; there is none from `_MIXED` rows on.
_DROPOUT, _DROPOUT_ROWS = 0.3, 500

# Most bins of a column and of a table, and rows for each bin.
_BINS, _MOST_BINS, _ROWS_OF_A_BIN = 8, 2048, 25


def scale_free(norm: str | None, activations: Sequence[ActivationLike]) -> bool:
    """Return whether the scale of the hidden weights is without effect, so that decay cannot do harm there.

    Parameters
    ----------
    norm : str or None
        Normalization, as for `FNN`.
    activations : sequence of str or Activation
        Activation of each hidden layer.

    Returns
    -------
    bool

    Notes
    -----
    A relu of half the input is half the relu, which the normalization behind it doubles again.  Of tanh and
    other smooth functions small weights leave the straight part around 0 alone, and without normalization
    they leave too little to the output layer.  With ``norm="before"`` the hidden weights have no scale
    either, but in the measurements little decay was best all the same.

    Examples
    --------
    >>> scale_free("after", ["relu", "leaky_relu"]), scale_free("after", ["tanh"]), scale_free(None, ["relu"])
    (True, False, False)
    """
    known = [isinstance(one, str) and one in _HOMOGENEOUS for one in activations]
    return norm == "after" and bool(known) and all(known)


def learning_rate(
    solver: str, norm: str | None, activations: Sequence[ActivationLike], *, epochs: int = _EPOCHS
) -> float:
    """Return the learning rate: 0.0075 for "adamw" on a scale-free network, 0.02 for "sgd", otherwise 0.03.

    The first is greater for fewer than 50 epochs, so that the product stays the same.

    Parameters
    ----------
    solver : {"adamw", "adam", "sgd"}
        Optimizer.
    norm, activations
        As for `scale_free`.
    epochs : int, default 50
        Epochs, where `epochs` has chosen them.

    Returns
    -------
    float

    Examples
    --------
    >>> learning_rate("adamw", "after", ["relu"]), learning_rate("adamw", "after", ["tanh"])
    (0.0075, 0.03)
    """
    if solver == "sgd":
        return 0.02
    if solver == "adamw" and scale_free(norm, activations):
        return 0.0075 * _EPOCHS / epochs
    return 0.03


def weight_decay(
    solver: str,
    norm: str | None,
    activations: Sequence[ActivationLike],
    rows: int,
    rate: float,
    *,
    constant: bool = False,
) -> float:
    """Return the decoupled weight decay: 5 on a scale-free network and 0.2 elsewhere, less for many rows.

    It falls with the root of the rows from 1200 on, takes at most 2.5 % of a weight in a step and is 0 for
    "adam" and "sgd".

    Parameters
    ----------
    solver : {"adamw", "adam", "sgd"}
        Optimizer.
    norm, activations
        As for `scale_free`.
    rows : int
        Training samples.
    rate : float
        Learning rate.
    constant : bool, default False
        Whether it stays as it is.  Strong decay keeps the weights of a scale-free network moving, which needs
        a rate that falls in the end; a constant one has 0.2.

    Returns
    -------
    float

    Examples
    --------
    >>> [weight_decay("adamw", "after", ["relu"], rows, 0.005) for rows in (400, 4800)]
    [5.0, 2.5]
    >>> weight_decay("adamw", "after", ["tanh"], 4800, 0.02)
    0.1
    """
    if solver != "adamw":
        return 0.0
    most = 5.0 if scale_free(norm, activations) and not constant else 0.2
    return min(most * math.sqrt(min(1.0, _FEW / rows)), _MOST_DECAY / rate)


def batch_size(rows: int, *, values: bool = False) -> int:
    """Return the samples of a mini-batch: a fiftieth of all, but from 32 to 256.

    Parameters
    ----------
    rows : int
        Training samples.
    values : bool, default False
        Whether it is for regression, which takes a twenty-fifth, but from 64 to 256.

    Returns
    -------
    int

    Examples
    --------
    >>> batch_size(100), batch_size(5000), batch_size(60_000)
    (32, 100, 256)
    """
    return min(max(rows // 25, 64) if values else max(rows // 50, 32), 256)


def bins(rows: int, columns: int) -> int | None:
    """Return the bins of a column: 8, fewer of few rows or many columns, and none beyond 1024 columns.

    Parameters
    ----------
    rows, columns : int
        Rows of the training data and columns of the table.

    Returns
    -------
    int or None
        One for 25 rows, from 2 to 8, and no more than 2048 for all columns together; None where that leaves
        one for each.

    Examples
    --------
    >>> bins(1000, 20), bins(100, 20), bins(1000, 400), bins(60_000, 784), bins(1000, 50_000)
    (8, 4, 5, 2, None)
    """
    most = min(_BINS, max(rows // _ROWS_OF_A_BIN, 2), _MOST_BINS // columns)
    return most if most > 1 else None


def mixed(rows: int) -> bool:
    """Return whether networks without bins stand beside those with bins: below 800 rows.

    With few rows bins bend to noise, or are what finds a narrow band, and a part held out is too small to say
    which.  The mean of networks of both kinds is nearly as good as the better kind, and often better.

    Parameters
    ----------
    rows : int
        Training samples, or those of the first part.

    Returns
    -------
    bool

    Examples
    --------
    >>> mixed(300), mixed(3000)
    (True, False)
    """
    return rows < _MIXED


def dropout(solver: str, norm: str | None, activations: Sequence[Any], rows: float) -> float:
    """Return the probability of dropout: 0.3 up to 500 rows, less beyond, and none from 800 rows on.

    It is for "adamw" on a scale-free network, on which it was chosen, and 0 elsewhere.

    Parameters
    ----------
    solver : {"adamw", "adam", "sgd"}
        Optimizer.
    norm, activations
        As for `scale_free`.
    rows : float
        Training samples; infinity where they come in parts.

    Returns
    -------
    float

    Examples
    --------
    >>> [round(dropout("adamw", "after", ["relu"], rows), 2) for rows in (400, 650, 2000)]
    [0.3, 0.15, 0.0]
    """
    if solver != "adamw" or not scale_free(norm, activations):
        return 0.0
    left = (_MIXED - rows) / (_MIXED - _DROPOUT_ROWS)
    return _DROPOUT * min(max(left, 0.0), 1.0)


def epochs(
    solver: str,
    norm: str | None,
    activations: Sequence[ActivationLike],
    steps: int,
    *,
    constant: bool = False,
) -> int:
    """Return the epochs of a training: 50, for "adamw" on a scale-free network fewer of many steps.

    There they are as many as make 1250 steps, but from 25 on.

    Parameters
    ----------
    solver : {"adamw", "adam", "sgd"}
        Optimizer.
    norm, activations
        As for `scale_free`.
    steps : int
        Steps of an epoch.
    constant : bool, default False
        Whether the learning rate is not planned for the epochs: then they are 50 at most.

    Returns
    -------
    int

    Examples
    --------
    >>> [epochs("adamw", "after", ["relu"], steps) for steps in (4, 40, 400)]
    [50, 32, 25]
    >>> epochs("adamw", "after", ["tanh"], 400)
    50
    """
    if constant or solver != "adamw" or not scale_free(norm, activations):
        return _EPOCHS
    return min(max(-(-_STEPS // steps), _EPOCHS // 2), _EPOCHS)


def fewer_bins(most: int) -> int:
    """Return the bins of every second network of an ensemble: three eighths of the others', but 2.

    Many bins bend to noise where few miss a narrow band.  The mean of both kinds is better than either,
    because their mistakes differ more than those of networks that differ in their weights alone.

    Parameters
    ----------
    most : int
        Bins of the others.

    Returns
    -------
    int

    Examples
    --------
    >>> [fewer_bins(most) for most in (8, 4, 2)]
    [3, 2, 2]
    """
    return max(3 * most // 8, 2)


def hidden_layers(k: int) -> list[int]:
    """Return the units of the hidden layers of network `k` of an ensemble: one layer of 100, or two of 64.

    Every second network from the third on has two: they find what depends on several columns at once, and
    their mistakes differ from those of one layer more than the mistakes of two draws of the weights.

    Parameters
    ----------
    k : int
        Number of the network, from 0.

    Returns
    -------
    list of int

    Examples
    --------
    >>> [hidden_layers(k) for k in range(5)]
    [[100], [100], [64, 64], [100], [64, 64]]
    """
    return [64, 64] if _has_two_layers(k) else [100]


def activation(k: int) -> ActivationName | list[ActivationLike]:
    """Return the activation of network `k` of an ensemble: "relu", or silu and then relu of two layers.

    Corners suit some targets and a smooth function others.

    Parameters
    ----------
    k : int
        Number of the network, from 0.

    Returns
    -------
    str or list of str

    Examples
    --------
    >>> activation(0), activation(2)
    ('relu', ['silu', 'relu'])
    """
    return ["silu", "relu"] if _has_two_layers(k) else "relu"


def _has_two_layers(k: int) -> bool:
    return k > 1 and k % 2 == 0


def single_precision(dtype: np.dtype[Any], rows: int, *, standardize: bool) -> bool:
    """Return whether float32 is the type of the computation.

    It is where it holds all values of the data's type, and from 600 standardized rows on: the standardization
    is computed in float64 whatever comes after it, and below the time does not count.

    Parameters
    ----------
    dtype : dtype
        Type of the data.
    rows : int
        Training samples.
    standardize : bool
        Whether the data are standardized first.

    Returns
    -------
    bool

    Examples
    --------
    >>> import numpy as np
    >>> [single_precision(np.dtype(float), rows, standardize=True) for rows in (100, 1000)]
    [False, True]
    >>> single_precision(np.dtype("uint8"), 100, standardize=False)
    True
    """
    return np.can_cast(dtype, np.float32) or (standardize and rows >= _MANY)
