"""What a network's layers look like from inside: features, conditioning, gradients and step sizes."""

from __future__ import annotations

import dataclasses
import math
import reprlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nbnorm import _check, _files, plots
from nbnorm._types import Array, CheckedTable, Float64Array, Table
from nbnorm.functions.dense import dense_forward
from nbnorm.functions.optimizers import SGD, Optimizer, resolve
from nbnorm.model.dataset_statistics import columns, hidden_layers, inputs, moving_averages, table
from nbnorm.model.inputs import check_batch
from nbnorm.model.network import FNN

if TYPE_CHECKING:
    from matplotlib.figure import Figure


# Most features whose second moment is computed: its eigenvalues take the cube of their number.
_WIDEST = 2048

# Mini-batches over which gradients are measured at most.
_BATCHES = 32

# Activations with f(c z) = c f(z) for c > 0: in front of a batch norm they leave the weights' scale free.
_HOMOGENEOUS = ("relu", "leaky_relu", "identity")


class _LayerMoments:
    """Mean, extremes and centred second moments of features, merged chunk by chunk (Chan et al. 1979)."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, rows: Array) -> None:
        rows = np.asarray(rows, np.float64)
        n, mean = len(rows), rows.mean(axis=0)
        deviations = rows - mean
        narrow = rows.shape[1] <= _WIDEST
        products = deviations.T @ deviations if narrow else np.sum(deviations**2, axis=0)
        low, high = rows.min(axis=0), rows.max(axis=0)
        if self.count == 0:
            self.count, self.mean, self.products, self.low, self.high = n, mean, products, low, high
            return
        total = self.count + n
        delta = mean - self.mean
        shift = np.outer(delta, delta) if products.ndim == 2 else delta**2
        self.products = self.products + products + shift * (self.count * n / total)
        self.mean = self.mean + delta * (n / total)
        self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)
        self.count = total

    @property
    def constant(self) -> Array:
        return np.asarray(self.low == self.high)

    def std(self) -> Float64Array:
        squares = np.diagonal(self.products) if self.products.ndim == 2 else self.products
        return np.where(self.constant, 0.0, np.sqrt(squares / self.count))

    def second_moment(self, scale: Array | float = 1.0, mean: Array | None = None) -> Array | None:
        """Return E[a a^T] of features with deviations times `scale` and this mean; None if too many."""
        if self.products.ndim == 1:
            return None
        scale = np.broadcast_to(scale, self.mean.shape)
        mean = self.mean * scale if mean is None else mean
        return np.asarray(self.products / self.count * np.outer(scale, scale) + np.outer(mean, mean))

    def standardized(self) -> Array | None:
        """Return the second moment of the features that vary, with mean 0 and variance 1."""
        std = self.std()
        if self.products.ndim == 1 or not std.any():
            return None
        second = self.second_moment(1 / np.where(std == 0, np.inf, std), np.zeros_like(std))
        assert second is not None
        return second[np.ix_(std > 0, std > 0)]


def _condition(second: Array | None) -> tuple[float, int]:
    """Return the condition number of a second moment over its range, and the dimension of that range."""
    if second is None:
        return math.nan, 0
    values = np.linalg.eigvalsh(second)
    values = values[values > values[-1] * len(values) * np.finfo(np.float64).eps]
    return (float(values[-1] / values[0]), len(values)) if len(values) else (math.nan, 0)


@dataclasses.dataclass(frozen=True)
class LayerInspection:
    """What `inspect` found in one layer.

    Attributes
    ----------
    name : str
        ``"input"``, ``"layer1"``, ``"layer2"``, ... and ``"output"``.
    mean, std : ndarray of float64, shape (n_features,)
        Mean and standard deviation of each feature over the samples: of the columns of the input, of the
        outputs of a hidden layer's activation, or of the logits.
    dead : int
        Features that are the same for all samples: of relu those that are always 0.
    rank : int
        Dimension of the space that the features span.
    condition, condition_standardized, condition_read : float
        Condition numbers, within that space, of the second moment of the features; of the same features
        with mean 0 and variance 1; and of what the next layer really reads.  NaN for the output, and where
        there are more than 2,048 features.
    weight_norm, gradient_norm : float
        Norm of the layer's weight matrix, and root mean square over mini-batches of that of its gradient
        (NaN without targets); NaN for the input.
    relative_step : float
        Length of an SGD step beside that of the weights, ``gradient_norm / weight_norm`` times
        ``lr / (1 - momentum)``.
    effective_lr : float
        Learning rate of the weights' direction, where a batch norm behind them makes their length irrelevant:
        ``lr / (1 - momentum)`` over the mean squared norm of a unit's weights for `SGD`, over the root mean
        square of a weight for `AdamW`; elsewhere NaN.

    Examples
    --------
    >>> import nbnorm
    >>> X, y = nbnorm.load_digits()
    >>> pixels = nbnorm.inspect(nbnorm.FNN([64, 8, 10], seed=0), X).layers[0]
    >>> pixels.dead, pixels.rank  # three pixels are the same in all images
    (3, 61)
    """

    name: str
    mean: Float64Array
    std: Float64Array
    dead: int
    rank: int
    condition: float
    condition_standardized: float
    condition_read: float
    weight_norm: float
    gradient_norm: float
    relative_step: float
    effective_lr: float

    def __repr__(self) -> str:
        """Show the numbers of the whole layer, without those of each feature."""
        numbers = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        shown = (f"{name}={value:.4g}" for name, value in numbers.items() if isinstance(value, (int, float)))
        return f"LayerInspection({', '.join((repr(self.name), *shown))})"


# What the tables of an inspection say, and their columns behind the layer's name; they fit 80 characters.
_TABLES = {
    "Features, from the least to the largest; a dead one never varies": ("features", "mean", "std", "dead"),
    "Condition number of their second moment, and of what the next layer reads": (
        "rank", "condition", "standardized", "read",
    ),
    "Norms of weights and gradient, and the length of a step beside the weights": (
        "weights", "gradient", "step", "effective lr",
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Inspection:
    """Result of `inspect`: one entry for each layer; printing it shows a table.

    Attributes
    ----------
    layers : tuple of LayerInspection
        Input, hidden layers and output.
    equilibrium_step : float
        Relative step at which, with batch norm behind the weights, growth by SGD steps and weight decay
        balance: ``sqrt(2 * lr * weight_decay)`` [1]_; 0 without weight decay.  NaN where no layer has an
        effective learning rate, and for `AdamW` and `Lion`.

    References
    ----------
    .. [1] R. Wan, Z. Zhu, X. Zhang and J. Sun, "Spherical Motion Dynamics", NeurIPS 2021.

    Examples
    --------
    >>> import nbnorm
    >>> X, y = nbnorm.load_digits()
    >>> found = nbnorm.inspect(nbnorm.FNN([64, 8, 10], seed=0), X)
    >>> [layer.name for layer in found.layers]
    ['input', 'layer1', 'output']
    """

    layers: tuple[LayerInspection, ...]
    equilibrium_step: float

    def __repr__(self) -> str:
        """Show the layers' names; `print` shows their tables."""
        return f"Inspection(layers={reprlib.repr([layer.name for layer in self.layers])})"

    def __str__(self) -> str:
        cells, lines = [_row(layer) for layer in self.layers], []
        first = 0
        for title, head in _TABLES.items():
            here = slice(first, first + len(head))
            first += len(head)
            known = [
                (layer.name, *row[here])
                for layer, row in zip(self.layers, cells, strict=True)
                if any(row[here])
            ]
            lines += ["", f"{title}:", *_aligned([("layer", *head), *known])]
        if self.equilibrium_step > 0:
            lines.append(f"Weight decay holds the step at {self.equilibrium_step:.2g}.")
        return "\n".join(lines[1:])

    def to_dict(self) -> dict[str, Any]:
        """Return what `json` can write; numbers that are not known are None."""

        def plain(value: Any) -> Any:
            if isinstance(value, np.ndarray):
                return value.tolist()
            return None if isinstance(value, float) and not math.isfinite(value) else value

        layers = [
            {field.name: plain(getattr(layer, field.name)) for field in dataclasses.fields(layer)}
            for layer in self.layers
        ]
        return {"layers": layers, "equilibrium_step": plain(self.equilibrium_step)}

    def plot(self, path: _files.PathLike | None = None, *, title: str | None = None) -> Figure:
        """Draw features, condition numbers and steps, layer by layer.

        Parameters
        ----------
        path : path-like, optional
            File to write, in the format of its suffix.
        title : str, optional
            A line above the figure.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If the format is unknown.
        """
        return plots.inspection(self.to_dict()["layers"], path, title=title)


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Return the lines of a table: names to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(["", row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    ]


def _row(layer: LayerInspection) -> tuple[str, ...]:
    """Return the cells of a layer's rows in all tables."""

    def number(value: float) -> str:
        return "" if math.isnan(value) else f"{value:.2g}"

    def between(values: Array) -> str:
        return f"{values.min():.2f} .. {values.max():.2f}" if abs(values).max() < 1e4 else (
            f"{values.min():.1e} .. {values.max():.1e}"
        )  # fmt: skip

    return (
        str(layer.mean.size), between(layer.mean), between(layer.std), str(layer.dead),
        str(layer.rank) if layer.rank else "", number(layer.condition), number(layer.condition_standardized),
        number(layer.condition_read), number(layer.weight_norm), number(layer.gradient_norm),
        number(layer.relative_step), number(layer.effective_lr),
    )  # fmt: skip


def _gradient_norms(net: FNN, x: CheckedTable, y: npt.ArrayLike, batch_size: int) -> dict[str, float]:
    """Return the root mean square over mini-batches of the norm of each gradient, in training mode."""
    answers = _check.plain("y", y)
    if answers.ndim == 0 or len(answers) != x.shape[0]:
        raise ValueError(f"y must have the length of X, {x.shape[0]}, got shape {answers.shape}")
    batches = max(1, x.shape[0] // batch_size)
    check_batch(net, x.shape[0] // batches, "give more samples, or a larger batch_size")
    squares: dict[str, list[float]] = {}
    before = net.training
    try:
        net.train()
        for batch in np.unique(np.linspace(0, batches - 1, min(batches, _BATCHES)).astype(np.int64)):
            # rows at equal distances: of every class in data that lie in order
            rows = slice(int(batch), None, batches)
            part = np.ascontiguousarray(x[rows]) if isinstance(x, np.ndarray) else x[rows]
            _, gradients = net.loss_and_gradients(part, answers[rows])
            for name, gradient in gradients.items():
                squares.setdefault(name, []).append(float(np.sum(np.square(gradient, dtype=np.float64))))
    finally:
        net.training = before
    return {name: math.sqrt(sum(values) / len(values)) for name, values in squares.items()}


def _rates(net: FNN, optimizer: Optimizer) -> tuple[float, Callable[[int], float]]:
    """Return the rate that momentum makes of `lr`, and the effective one of each layer's weights."""
    parameters, last = net.parameters(), len(net.sizes) - 1
    adaptive = optimizer.rule.adaptive
    rate = optimizer.lr if adaptive else optimizer.lr / (1 - getattr(optimizer, "momentum", 0.0))

    def effective(l: int) -> float:
        activation = net.activations[l - 1] if l < last else None
        free = net.norm == "before" or (net.norm == "after" and activation in _HOMOGENEOUS)
        squares = np.square(parameters[f"dense{l}.weight"], dtype=np.float64)
        if l == last or not free or not squares.any():
            return math.nan
        return float(rate / (math.sqrt(squares.mean()) if adaptive else squares.sum(axis=1).mean()))

    return rate, effective


def inspect(
    net: FNN,
    X: Table,
    y: npt.ArrayLike | None = None,
    *,
    optimizer: Optimizer | None = None,
    batch_size: int = 128,
) -> Inspection:
    """Look into the layers of a network: features, dead units, conditioning, gradients and step sizes.

    Parameters
    ----------
    net : FNN
        Any network, trained or not, such as an estimator's `network_`; neither it nor its mode is changed.
    X : array_like, shape (n_samples, n_features)
        Samples as for `FNN.fit`, read some rows at a time; features are those of evaluation mode.
    y : array_like, optional
        Targets as for `FNN.fit`.  With them the gradients of mini-batches in training mode are measured.
    optimizer : SGD, AdamW or Lion, optional
        Whose steps are reported; by default that of `FNN.fit`.
    batch_size : int, default 128
        Samples of a mini-batch, of which up to 32 are taken evenly from `X`.

    Returns
    -------
    Inspection
        With `layers`, `plot` and `to_dict`; `print` shows a table.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind or shape, or features are not finite.
    RuntimeError
        If the network encodes columns and was not fitted.

    Notes
    -----
    Batch norm makes the loss independent of the length of the weights in front of it, where the activation
    between them, if there is one, only passes their scale on (relu, leaky_relu, identity).  A gradient step
    then turns a unit's weights w by an angle that depends on ``lr / |w|**2`` alone [1]_.  Weight decay
    shortens w, which raises this effective learning rate, until both balance.

    References
    ----------
    .. [1] T. van Laarhoven, "L2 Regularization versus Batch and Weight Normalization", 2017,
       arXiv:1706.05350.

    Examples
    --------
    >>> import nbnorm
    >>> X, y = nbnorm.load_digits()
    >>> net = nbnorm.FNN([64, 16, 10], seed=0)
    >>> history = net.fit(X, y, epochs=2)
    >>> hidden = nbnorm.inspect(net, X, y).layers[1]
    >>> hidden.mean.shape, hidden.condition_standardized < hidden.condition
    ((16,), True)
    """
    if not isinstance(net, FNN):
        raise TypeError(f"net must be an FNN, such as an estimator's network_, got {type(net).__name__}")
    batch_size = _check.integer("batch_size", batch_size, least=1)
    optimizer = SGD(lr=0.1, momentum=0.9) if optimizer is None else resolve(optimizer)
    x = table(net, X)
    last = len(net.sizes) - 1
    parameters, averages = net.parameters(), moving_averages(net)
    features_of = [_LayerMoments() for _ in range(last + 1)]
    # behind layer norm or RMS norm, which is no affine map
    normalized = [_LayerMoments() for _ in range(last)]
    for rows in columns(net, x):
        features_of[0].add(rows)
        read = inputs(net, rows)
        for l, features in enumerate(hidden_layers(net, read, averages, last - 1), 1):
            features_of[l].add(features.activated)
            if net.norm in ("layer_after", "rms_after"):
                normalized[l].add(features.out)
            read = features.out
        features_of[-1].add(
            dense_forward(read, parameters[f"dense{last}.weight"], parameters[f"dense{last}.bias"])
        )

    norms = {} if y is None else _gradient_norms(net, x, y, batch_size)
    rate, effective = _rates(net, optimizer)
    adaptive = optimizer.rule.adaptive
    layers = []
    for l, moments in enumerate(features_of):
        hidden = 0 < l < last
        condition, rank = _condition(moments.second_moment()) if l < last else (math.nan, 0)
        what_is_read = moments.second_moment()
        if l == 0 and net.standardizer is not None:
            scale = 1 / net.standardizer.scale_
            what_is_read = moments.second_moment(scale, (moments.mean - net.standardizer.mean_) * scale)
        elif hidden and net.norm == "after":
            mean, var = averages[f"norm{l}"]
            scale = parameters[f"norm{l}.gamma"] / np.sqrt(var + net.eps)
            shifted = (moments.mean - mean) * scale + parameters[f"norm{l}.beta"]
            what_is_read = moments.second_moment(scale, shifted)
        elif hidden and net.norm_placement == "after":
            what_is_read = normalized[l].second_moment()
        weight, gradient = math.nan, norms.get(f"dense{l}.weight", math.nan)
        if l > 0:
            weight = float(np.linalg.norm(parameters[f"dense{l}.weight"].astype(np.float64)))
        layers.append(
            LayerInspection(
                name="input" if l == 0 else f"layer{l}" if hidden else "output",
                mean=moments.mean,
                std=moments.std(),
                dead=int(moments.constant.sum()),
                rank=rank,
                condition=condition,
                condition_standardized=_condition(moments.standardized())[0] if l < last else math.nan,
                condition_read=_condition(what_is_read)[0] if l < last else math.nan,
                weight_norm=weight,
                gradient_norm=gradient,
                relative_step=rate * gradient / weight if weight and not adaptive else math.nan,
                effective_lr=effective(l) if l > 0 else math.nan,
            )
        )
    balanced = not adaptive and not all(math.isnan(layer.effective_lr) for layer in layers)
    balance = math.sqrt(2 * optimizer.lr * optimizer.weight_decay) if balanced else math.nan
    return Inspection(tuple(layers), balance)
