"""What a network computes without being trained: logits, loss and gradients, predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nbnorm import _check
from nbnorm._types import Array, CheckedTable, FloatArray, SparseMatrix, Table
from nbnorm.data.row_groups import OnDisk, RowGroups, is_row_groups, open_groups
from nbnorm.engine.gather import Data
from nbnorm.engine.run import Run
from nbnorm.engine.table import FORWARD, GRADIENTS, LOSS, SEEN
from nbnorm.functions.activations import activation_forward
from nbnorm.functions.batch_norm import batch_norm_inference
from nbnorm.model import inputs, metrics
from nbnorm.model.engines import engine_for, evaluate, run_over
from nbnorm.model.plan import training_samples
from nbnorm.model.sample_norm import normalized_samples
from nbnorm.model.sample_weights import used_weights
from nbnorm.statistics.reading import is_sparse

if TYPE_CHECKING:
    from nbnorm.model.network import FNN

# Samples that are predicted together: enough to fill the register tiles, few enough for the cache.
BATCH = 128

# Up to so many elements are copied and evaluated with an engine that is kept for the next call: to make one
# takes longer.
_FEW = 1 << 18

# Rows of a sparse matrix that are predicted together.
_SPARSE_ROWS = 4096


def forward(net: FNN, X: Table, *, training: bool, checked: bool = False) -> Array:
    """Return the logits; in training mode the moving averages move. See `FNN.forward`.

    A few rows of an array that is `checked` are not looked at again.
    """
    if checked and not training and isinstance(X, np.ndarray) and X.size <= _FEW:
        known = evaluate(net, X, BATCH)
        if known is not None:
            return known
    if is_sparse(X) and not training and net.encoding is None:
        return _sparse_logits(net, X)
    x = inputs.table(net, "X", X)
    if not training and isinstance(x, np.ndarray) and x.size <= _FEW:
        logits = evaluate(net, x, BATCH)
        if logits is not None:
            return logits
    data = inputs.reader(net, x)
    if not training:
        batch = min(BATCH, data.samples)
        return run_over(engine_for(net, batch, gradients=False), data, FORWARD, batch, training=False).out
    inputs.check_batch(net, data.samples, "give more samples, or call eval() first")
    net.arrays.writable()
    engine = engine_for(net, data.samples, gradients=False, training=True)
    frozen = net.frozen_statistics
    out = run_over(engine, data, FORWARD, data.samples, training=True, frozen=frozen).out
    engine.store_statistics()
    return out


def _sparse_logits(net: FNN, X: SparseMatrix) -> Array:
    """Logits of a SciPy sparse matrix, which stays sparse: the standardizer goes into the first layer."""
    samples = inputs.sparse_table(net, "X", X)
    weight: Array = net.arrays.parameters["dense1.weight"].astype(np.float64)
    bias: Array = net.arrays.parameters.get("dense1.bias", np.zeros(len(weight))).astype(np.float64)
    if net.standardizer is not None:
        weight, bias = net.standardizer.fold(weight, bias)
    out = np.empty((samples.shape[0], net.sizes[-1]), net.dtype)
    batch = min(BATCH, len(out))
    rest = engine_for(net, batch, gradients=False, first=2) if len(net.sizes) > 2 else None
    for start in range(0, len(out), _SPARSE_ROWS):
        z = samples[start : start + _SPARSE_ROWS] @ weight.T + bias
        if rest is not None:
            hidden = Data(_first_hidden(net, z))
            z = run_over(rest, hidden, FORWARD, min(batch, len(z)), training=False).out
        with np.errstate(over="ignore"):  # as compiled code rounds
            out[start : start + _SPARSE_ROWS] = z
    return out


def _first_hidden(net: FNN, z: Array) -> Array:
    """Return what the second layer reads, from z of the first, with the moving averages."""
    if net.norm_placement == "before":
        return activation_forward(_first_norm(net, z), net.activations[0])
    y = activation_forward(z, net.activations[0])
    return y if net.norm is None else _first_norm(net, y)


def _first_norm(net: FNN, y: Array) -> Array:
    if net.norm_kind != "batch":
        return normalized_samples(net, 1, y)
    parameters = net.arrays.parameters
    gamma, beta = (parameters[f"norm1.{name}"].astype(np.float64) for name in ("gamma", "beta"))
    mean, variance = net.arrays.moving_statistics(1)
    return batch_norm_inference(y, gamma, beta, mean, variance, eps=net.eps)


def loss_and_gradients(
    net: FNN,
    X: Table,
    y: npt.ArrayLike,
    sample_weight: npt.ArrayLike | None,
    *,
    update_statistics: bool = False,
) -> tuple[float, dict[str, Array]]:
    """Return the loss of one batch and its gradients by name. See `FNN.loss_and_gradients`."""
    update_statistics = _check.flag("update_statistics", update_statistics)
    if update_statistics:
        inputs.learn(net, training_samples(net, X, y, sample_weight, None, np.iinfo(np.int64).max))
        net.arrays.writable()
    run = gradients_run(net, X, y, sample_weight, moving_averages=update_statistics)
    if update_statistics and net.training:
        run.engine.store_statistics()
    return loss_of(run), gradients_of(net, run)


def gradients_run(
    net: FNN,
    X: Table,
    y: npt.ArrayLike,
    sample_weight: npt.ArrayLike | None,
    *,
    moving_averages: bool = False,
) -> Run:
    """Check a batch and return the finished run over it, which has its loss and gradients."""
    x = inputs.table(net, "X", X)
    samples = x.shape[0]
    labels, targets = inputs.encoded(net, "y", inputs.truth(net, "y", y, samples, "X"))
    weights = None if sample_weight is None else _check.weights("sample_weight", sample_weight, samples)
    weights, _, selected = used_weights(weights, net.dtype)
    batch = samples if selected is None else len(selected)
    if net.training:
        inputs.check_batch(net, batch, "give more samples, or call eval() first")
    engine = engine_for(net, batch, gradients=True, training=net.training)
    return run_over(
        engine, inputs.reader(net, x), GRADIENTS, batch,
        training=net.training, frozen=net.frozen_statistics, labels=labels, targets=targets, weights=weights,
        weighted_statistics=net.weighted_statistics, selected=selected, moving_averages=moving_averages,
    )  # fmt: skip


def loss_of(run: Run) -> float:
    """Return the mean loss over the samples of a finished run."""
    return float(run.progress[LOSS] / run.progress[SEEN])


def gradients_of(net: FNN, run: Run) -> dict[str, Array]:
    """Return the gradients that a run of the network has computed, by name."""
    gradients = {name: np.empty_like(values) for name, values in net.arrays.parameters.items()}
    run.engine.export(run.weight_gradient, run.vector_gradient, gradients)
    return gradients


def logits(net: FNN, X: Table | OnDisk, *, checked: bool = False) -> Array:
    """Return finite logits with the moving averages, whatever the mode of the network.

    Parameters
    ----------
    net : FNN
    X : table of numbers, or one on disk
    checked : bool, default False
        Whether an array is known to be a finite table of the right width, but for what is missing.

    Returns
    -------
    ndarray, shape (n_samples, n_out)

    Raises
    ------
    TypeError, ValueError
        As `FNN.predict`.
    """
    if is_row_groups(X):
        return np.concatenate([logits(net, rows.x) for rows in table_on_disk(net, X).all()])
    z = forward(net, X, training=False, checked=checked)
    good = np.isfinite(z)
    if not good.all():
        net.arrays.check_finite()
        row = int(np.argmin(good.all(axis=1)))
        raise ValueError(
            f"X must give finite outputs, got {z[row][~good[row]][0]} for row {row}: "
            f"its values lead beyond {net.dtype}"
        )
    return z


def loss(net: FNN, X: Table | OnDisk, y: npt.ArrayLike, sample_weight: Array | None) -> float:
    """Return the mean loss over samples, with the moving averages; data as for `FNN.fit`.

    Raises
    ------
    TypeError, ValueError
        As `logits`, and if the targets do not fit.
    """
    z = logits(net, X, checked=True)
    truth = inputs.truth(net, "y", y, len(z), "X")
    labels, targets = inputs.encoded(net, "y", truth)
    return float(net.loss.value(z, targets.reshape(truth.shape) if labels is None else labels, sample_weight))


def table_on_disk(
    net: FNN, X: OnDisk, y: npt.ArrayLike | None = None, sample_weight: npt.ArrayLike | None = None
) -> RowGroups:
    """Return the groups of a table on disk, which may have columns beside the known features."""
    return open_groups("X", X, y, sample_weight, features=inputs.feature_names(net), others=True)


def output_bias(net: FNN) -> FloatArray:
    """Return the live biases of the output layer, shape (n_out,)."""
    return net.parameters()[f"dense{len(net.sizes) - 1}.bias"]


def within(values: Array, limits: Array) -> Array:
    """Return predicted values, clipped to the least and the largest ones.

    Parameters
    ----------
    values : ndarray
    limits : ndarray, shape (2, ...)
        The rest of the shape is one that fits `values`.

    Returns
    -------
    ndarray
        Of the dtype of `values`.

    Examples
    --------
    >>> within(np.array([1.0, 5.0]), np.array([[2.0], [4.0]]))
    array([2., 4.])
    """
    with np.errstate(over="ignore"):  # what float32 does not hold bounds nothing
        least, most = limits.astype(values.dtype)
    return np.asarray(np.clip(values, least, most))


def predict(net: FNN, X: Table | OnDisk, *, checked: bool = False) -> Array:
    """Return classes or values. See `FNN.predict`, and `logits`."""
    return metrics.decide(net.output, inputs.in_units(net, logits(net, X, checked=checked)))


def predict_proba(net: FNN, X: Table | OnDisk) -> Array:
    """Return probabilities. See `FNN.predict_proba`."""
    if net.output == "identity":
        raise ValueError("predict_proba needs output='softmax' or 'sigmoid', got 'identity'")
    return metrics.probabilities(net.output, logits(net, X), net.dtype)


def score(net: FNN, X: Table | OnDisk, y: npt.ArrayLike, sample_weight: npt.ArrayLike | None) -> float:
    """Return the accuracy or the coefficient of determination. See `FNN.score`."""
    x: CheckedTable | RowGroups | SparseMatrix
    if is_row_groups(X):
        x = table_on_disk(net, X, y, sample_weight)
        answers = [x.answers(group) for group in range(len(x))]
        y = np.concatenate([part for part, _ in answers])
        if sample_weight is not None:
            sample_weight = np.concatenate([part for _, part in answers if part is not None])
    elif is_sparse(X):
        x = X
    else:
        x = inputs.table(net, "X", X, check=False)
    truth = inputs.truth(net, "y", y, x.shape[0], "X")
    weights = None
    if sample_weight is not None:
        weights = _check.weights("sample_weight", sample_weight, x.shape[0])
    inputs.encoded(net, "y", truth)  # refuses targets beyond the network's dtype
    name: metrics.MetricName = "r2" if net.output == "identity" else "accuracy"
    outcome = metrics.Outcome(net.output, inputs.in_units(net, logits(net, x)), truth, weights)
    return metrics.NAMED[name][0](outcome)
