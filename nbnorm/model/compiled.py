"""Frozen networks that predict from Python and from compiled code: `FNN.compiled`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from nbnorm import _check, simd
from nbnorm.compile.callables import CallableArrays, register
from nbnorm.compile.kernels import inner_kernel, kernel, linked_kernel
from nbnorm.engine.epilogues import activate_row as call_activation
from nbnorm.engine.epilogues import custom_row_kernel
from nbnorm.engine.microkernels import empty_aligned, tile_width
from nbnorm.engine.table import AFTER, BEFORE, NO_NORM, NORMS
from nbnorm.functions.activations import CODES, Activation, ActivationLike, activate_row
from nbnorm.functions.loss_options import Poisson
from nbnorm.model.folding import folded
from nbnorm.model.sample_norm import scale_and_shift
from nbnorm.statistics.encoding import encode_value

if TYPE_CHECKING:
    from nbnorm.model.network import FNN

Array = npt.NDArray[Any]

# Outputs of a panel: the weights of so many outputs stand together, input by input.  It is the same on every
# machine, so that a predictor can be pickled on one and read on another.
LANES = 16

# Rows that pass through all layers together.
_ROWS = 64

# What a row of the table of layers holds: inputs, panels of outputs, where the weights and then the biases
# of the layer begin, code of its activation; and of layer norm and RMS norm the placement, whether a mean is
# subtracted, features, and where gamma begins, with beta and eps behind it.
_INPUTS, _PANELS, _WEIGHT, _BIAS, _CODE, _NORM, _CENTRED, _OUTPUTS, _GAMMA = range(9)

# Behind the codes of the activations come addresses: of a user's own, compiled for this process.
_LAST_CODE = max(CODES.values())

# What the row behind them holds: features of a sample, elements of the widest layer's padded row, and in the
# position of the code what becomes of the last layer's outputs.
_FEATURES, _WIDEST, _LAST = 0, 1, 4

_SOFTMAX, _SIGMOID, _VALUES, _COUNTS = range(4)
_LASTS = {"softmax": _SOFTMAX, "sigmoid": _SIGMOID, "identity": _VALUES}

# Rows of the table of inputs: the standardizer's mean in two parts and 1 / scale, then the encoder's table.
_MEAN, _MEAN_LOW, _INVERSE, _SOURCE, _KIND, _EDGE, _SLOPE, _FLOOR, _CEILING = range(9)


# ----------------------------------------------------------------------------------------------
# One layer
# ----------------------------------------------------------------------------------------------


def _vectors(dtype: Any, most: int) -> int:
    """Return for how many panels' vectors the sums fit into the registers, at most `most`.

    Twelve of sixteen registers leave four for weights and inputs.
    """
    registers = simd.target().registers * 3 // 4
    return max(1, min(most, registers * simd.native_lanes(dtype) // LANES))


def _products(
    rows: int, panels: int, weight: Any, at: Any, bias: Any, n: Any, x: Any, x_at: Any, stride: Any, out: Any,
    out_at: Any, out_stride: Any,
) -> None:  # fmt: skip
    """Compute W x + b for some panels of outputs and some rows."""

    def add(i: Any, *sums: Any) -> Any:
        values = [simd.get(x, x_at + r * stride + i) for r in range(rows)]
        vectors = [simd.load(weight, at + (p * n + i) * LANES, LANES) for p in range(panels)]
        products = ((w, value) for value in values for w in vectors)
        return tuple(simd.fma(value, w, total) for (w, value), total in zip(products, sums, strict=True))

    begin = [simd.load(weight, bias + p * LANES, LANES) for p in range(panels)]
    sums = simd.loop(0, n, 1, add, *(begin * rows))
    for k, total in enumerate(sums if rows * panels > 1 else (sums,)):
        simd.store(out, out_at + k // panels * out_stride + k % panels * LANES, total)


@simd.traced
def _rows_of_tile(x: Any) -> Any:
    """Return the number of rows of a register tile, one panel wide."""
    return simd.sum(simd.zeros(np.int64, 1) + _vectors(x.dtype, 8))


@simd.traced
def _panels_of_row(x: Any) -> Any:
    """Return the number of panels that one row takes together."""
    return simd.sum(simd.zeros(np.int64, 1) + _vectors(x.dtype, 4))


@simd.traced
def _tile(*args: Any) -> None:
    _products(_vectors(args[0].dtype, 8), 1, *args)


@simd.traced
def _panels(*args: Any) -> None:
    _products(1, _vectors(args[0].dtype, 4), *args)


@simd.traced
def _panel(*args: Any) -> None:
    _products(1, 1, *args)


def _feature_sum(z: Any, at: Any, n: Any, term: Callable[[Any], Any]) -> Any:
    """Return the sum of ``term(value)`` over n features, in float64; the row is padded to whole vectors."""

    def terms(i: Any) -> Any:
        return term(simd.convert(simd.load(z, at + i, LANES), np.float64))

    def rest(i: Any, total: Any) -> Any:
        return total + simd.where(simd.first_lanes(n - i, LANES), terms(i), 0.0)

    whole = n & -LANES
    total = simd.loop(0, whole, LANES, lambda i, total: total + terms(i), simd.zeros(np.float64, LANES))
    return simd.sum(simd.loop(whole, n, LANES, rest, total))


@simd.traced
def _deviation(z: Any, at: Any, n: Any, shift: Any) -> Any:
    return _feature_sum(z, at, n, lambda value: value - shift)


@simd.traced
def _square(z: Any, at: Any, n: Any, mean: Any) -> Any:
    return _feature_sum(z, at, n, lambda value: (value - mean) * (value - mean))


@linked_kernel
def _normalize(layer: Any, weights: Any, rows: Any, out: Any) -> None:
    """Layer norm, or RMS norm, of some rows, in place."""
    number = out.dtype.type
    width, n, gamma = layer[_PANELS] * LANES, layer[_OUTPUTS], layer[_GAMMA]
    beta, eps = gamma + width, np.float64(weights[gamma + 2 * width])
    for row in range(rows):
        at, mean = row * width, 0.0
        if layer[_CENTRED] == 1:
            shift = np.float64(out[at])
            mean = shift + _deviation(out, at, n, shift) / n
        rstd = 1.0 / math.sqrt(_square(out, at, n, mean) / n + eps)
        for i in range(n):
            xhat = (np.float64(out[at + i]) - mean) * rstd
            out[at + i] = number(xhat) * weights[gamma + i] + weights[beta + i]


@linked_kernel
def _layer(layer: Any, weights: Any, x: Any, rows: Any, stride: Any, out: Any) -> None:
    """Compute f(W x + b) for some rows, which are `stride` elements apart in `x`."""
    n, panels = layer[_INPUTS], layer[_PANELS]
    begin, bias, width = layer[_WEIGHT], layer[_BIAS], panels * LANES
    in_tiles = rows - rows % _rows_of_tile(weights)
    for panel in range(panels):
        at, b = begin + panel * n * LANES, bias + panel * LANES
        for row in range(0, in_tiles, _rows_of_tile(weights)):
            target = row * width + panel * LANES
            _tile(weights, at, b, n, x, row * stride, stride, out, target, width)
    together = panels - panels % _panels_of_row(weights)
    for row in range(in_tiles, rows):
        source, target = row * stride, row * width
        for panel in range(0, together, _panels_of_row(weights)):
            at, b = begin + panel * n * LANES, bias + panel * LANES
            _panels(weights, at, b, n, x, source, stride, out, target + panel * LANES, width)
        for panel in range(together, panels):
            at, b = begin + panel * n * LANES, bias + panel * LANES
            _panel(weights, at, b, n, x, source, stride, out, target + panel * LANES, width)
    if layer[_NORM] == BEFORE:
        _normalize(layer, weights, rows, out)
    values, code = out[: rows * width], layer[_CODE]
    if code > _LAST_CODE:
        tile = tile_width(values)
        call_activation(code, values, 0, 0, tile, rows * width, values.dtype.type(0))
    elif code >= 0:
        activate_row(values, code, values)
    if layer[_NORM] == AFTER:
        _normalize(layer, weights, rows, out)


# ----------------------------------------------------------------------------------------------
# Inputs and outputs
# ----------------------------------------------------------------------------------------------


@linked_kernel
def _read(x: Any, first: Any, rows: Any, inputs: Any, out: Any) -> None:
    """Standardize some rows of `x`."""
    number, width = out.dtype.type, inputs.shape[1]
    mean, low, inverse = inputs[_MEAN], inputs[_MEAN_LOW], inputs[_INVERSE]
    for row in range(rows):
        source, target = x[first + row], out[row * width : (row + 1) * width]
        for e in range(width):
            target[e] = number(((np.float64(source[e]) - mean[e]) - low[e]) * inverse[e])


@linked_kernel
def _read_encoded(x: Any, first: Any, rows: Any, inputs: Any, out: Any) -> None:
    """Encode some rows of `x` and standardize them; what is missing becomes the mean."""
    number, width = out.dtype.type, inputs.shape[1]
    for row in range(rows):
        for e in range(width):
            value = encode_value(
                np.float64(x[first + row, np.int64(inputs[_SOURCE, e])]), inputs[_KIND, e], inputs[_EDGE, e],
                inputs[_SLOPE, e], inputs[_FLOOR, e], inputs[_CEILING, e],
            )  # fmt: skip
            value = ((value - inputs[_MEAN, e]) - inputs[_MEAN_LOW, e]) * inputs[_INVERSE, e]
            out[row * width + e] = number(0.0 if np.isnan(value) else value)


@simd.traced
def _softmax(z: Any, at: Any, n: Any) -> None:
    """Replace n logits, padded to whole vectors with -inf, by their probabilities."""

    def larger(i: Any, most: Any) -> Any:
        return simd.max(most, simd.load(z, at + i, LANES))

    def weigh(i: Any, total: Any) -> Any:
        e = simd.exp_below_0(simd.load(z, at + i, LANES) - most)
        simd.store(z, at + i, e)
        return total + e

    def divide(i: Any) -> None:
        simd.store(z, at + i, simd.load(z, at + i, LANES) / whole)

    most = simd.largest(simd.loop(LANES, n, LANES, larger, simd.load(z, at, LANES)))
    whole = simd.sum(simd.loop(0, n, LANES, weigh, simd.zeros(z.dtype, LANES)))
    simd.loop(0, n, LANES, divide)


@linked_kernel
def _write(z: Any, rows: Any, stride: Any, last: Any, outputs: Any, first: Any, out: Any) -> None:
    """Write probabilities, or values in the units of the targets."""
    n = outputs.shape[1]
    number = out.dtype.type
    for row in range(rows):
        at = row * stride
        if last == _SOFTMAX:
            _softmax(z, at, n)
        elif last == _SIGMOID:
            values = z[at : at + n]
            activate_row(values, _LOGISTIC, values)
        for o in range(n):
            value = number(z[at + o])
            if last == _COUNTS:
                value = np.exp(value)
            elif last == _VALUES:
                value = value * outputs[0, o] + outputs[1, o]
            out[first + row, o] = value


_LOGISTIC = CODES["sigmoid"]


@inner_kernel(allocates=True)
def _predict_rows(x: Any, layers: Any, weights: Any, inputs: Any, outputs: Any, out: Any) -> None:
    """Predict for all rows of `x`, some at a time."""
    whole = layers[len(layers) - 1]
    encoded, size = inputs.shape[0] > _SOURCE, min(len(x), _ROWS) * whole[_WIDEST]
    here, there = np.empty(size, weights.dtype), np.empty(size, weights.dtype)
    for first in range(0, len(x), _ROWS):
        rows, stride = min(_ROWS, len(x) - first), inputs.shape[1]
        if encoded:
            _read_encoded(x, first, rows, inputs, here)
        else:
            _read(x, first, rows, inputs, here)
        for l in range(len(layers) - 1):
            _layer(layers[l], weights, here, rows, stride, there)
            here, there, stride = there, here, layers[l, _PANELS] * LANES
        _write(here, rows, stride, whole[_LAST], outputs, first, out)


@kernel(allocates=True)
def _predict_table(x: Any, layers: Any, weights: Any, inputs: Any, outputs: Any) -> Any:
    """Return the predictions, shape (n_samples, n_out)."""
    out = np.empty((len(x), outputs.shape[1]), outputs.dtype)
    _predict_rows(x, layers, weights, inputs, outputs, out)
    return out


@inner_kernel(allocates=True)
def _predict(net: Any, x: Any) -> Any:
    """Return the predictions for one row or many, shape (n_samples, n_out), after checking the shape."""
    if x.shape[-1] != net.layers[len(net.layers) - 1, _FEATURES]:
        raise ValueError("x must have as many features as the network")
    rows = np.expand_dims(x, 0) if x.ndim == 1 else x
    return _predict_table(rows, net.layers, net.weights, net.inputs, net.outputs)


_NAMES = ("layers", "weights", "inputs", "outputs")


@register("Predictor", _NAMES)
@inner_kernel(allocates=True)
def _predict_vectors(net: Any, x: Any) -> Any:
    """Return (n_samples, n_out) for a table, (n_out,) for a row."""
    out = _predict(net, x)
    if x.ndim == 1:
        return out[0]
    return out


@register("ScalarPredictor", ())
@inner_kernel(allocates=True)
def _predict_numbers(net: Any, x: Any) -> Any:
    """Return (n_samples,) for a table, a number for a row."""
    out = _predict(net, x)
    if x.ndim == 1:
        return out[0, 0]
    return out[:, 0]


# ----------------------------------------------------------------------------------------------
# The object
# ----------------------------------------------------------------------------------------------


class Predictor(CallableArrays):
    """A network as it was when `FNN.compiled` froze it, to be called from Python and from ``@njit`` code.

    ``predict(x)`` takes one row, shape (n_features,), or many, shape (n_samples, n_features), and returns for
    them what `FNN.predict_proba` does, or for regression `FNN.predict`.  The classes of a row have shape
    (n_out,); the value of a row, where there is a single output, is a number.

    Compiled code calls it like a function, whether it is an argument, a variable of an enclosing function or
    a global one, also within ``numba.prange``.  It is compiled once for all networks of a kind: of a dtype,
    with or without standardized targets, with one output or several of a regression.

    Notes
    -----
    Only the shape is checked: what is not finite gives predictions that are not finite.  A function with
    ``cache=True`` that is given the predictor as an argument is cached, once for all networks of a kind.  One
    that reads it as a global or as a variable of an enclosing function works, but Numba does not cache it and
    warns that it uses dynamic globals: its machine code holds addresses of this process.
    """

    layers: Array
    weights: Array
    inputs: Array
    outputs: Array

    def __init__(
        self,
        kind: Literal["Predictor", "ScalarPredictor"],
        activations: Sequence[ActivationLike] = (),
        **arrays: Array,
    ) -> None:
        super().__init__(kind, **arrays)
        self._activations = tuple(activations)
        for layer, activation in zip(self.layers, self._activations, strict=False):
            layer[_CODE] = _code(activation, self.weights.dtype)
        self._scalar = kind == "ScalarPredictor"
        self.n_features_in = int(self.layers[-1, _FEATURES])

    def __call__(self, x: npt.ArrayLike) -> Any:
        """Predict for one row or many.

        Parameters
        ----------
        x : array_like, shape (n_features,) or (n_samples, n_features)
            Real numbers.

        Returns
        -------
        ndarray or float
            As the class says.

        Raises
        ------
        TypeError
            If `x` does not hold real numbers.
        ValueError
            If it has another shape.
        """
        if type(x) is not np.ndarray or x.dtype not in _FLOATS or not x.flags.carray:
            x = _table(x)
        if x.ndim not in (1, 2) or x.shape[-1] != self.n_features_in:
            n = self.n_features_in
            raise ValueError(f"x must have shape ({n},) or (n_samples, {n}), got shape {x.shape}")
        rows = x if x.ndim == 2 else x.reshape(1, -1)
        out = _predict_table(rows, self.layers, self.weights, self.inputs, self.outputs)
        if self._scalar:
            out = out[:, 0]
        return out if x.ndim == 2 else out[0]

    def __reduce__(self) -> tuple[Any, ...]:
        arrays = {name: getattr(self, name) for name in _NAMES}
        kind = "ScalarPredictor" if self._scalar else "Predictor"
        return _restored, (kind, arrays, self._activations)

    def __repr__(self) -> str:
        sizes = [int(layer[_INPUTS]) for layer in self.layers[:-1]]
        dtype = self.weights.dtype.name
        return f"<predictor of layers {[*sizes, self.outputs.shape[1]]}, {dtype}, for one row or many>"


_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def _restored(
    kind: Literal["Predictor", "ScalarPredictor"],
    arrays: dict[str, Array],
    activations: Sequence[ActivationLike],
) -> Predictor:
    return Predictor(kind, activations, **arrays)


def _code(activation: ActivationLike, dtype: np.dtype[Any]) -> int:
    """Return the code of an activation, or the address of a user's own."""
    if isinstance(activation, Activation):
        return custom_row_kernel("activate", dtype, activation)
    return CODES[activation]


def _table(x: npt.ArrayLike) -> Array:
    """Return rows of real numbers as the kernel reads them."""
    values = _check.numeric("x", x)
    dtype = np.float32 if values.dtype in (np.float16, np.float32) else np.float64
    return np.require(values, dtype, ["C", "A", "W"])


def compiled(net: FNN) -> Predictor:
    """Freeze a network. See `FNN.compiled`."""
    if net.encoding is not None and net.encoder is None:
        raise RuntimeError("the encoding needs a call of fit first")
    widths, n_out = net.widths, net.sizes[-1]
    panels = [-(-width // LANES) for width in widths]
    widest = max(widths[0], LANES * max(panels[1:]))
    last = _COUNTS if isinstance(net.loss, Poisson) else _LASTS[net.output]
    table, packed, at = [], [], 0
    for l, (weight, bias) in enumerate(folded(net, standardizers=False), 1):
        count, n = panels[l], widths[l - 1]
        padded = np.zeros((count * LANES, n + 1))
        padded[: widths[l], :n], padded[: widths[l], n] = weight, bias
        if l == len(widths) - 1 and last == _SOFTMAX:
            padded[widths[l] :, n] = -np.inf  # classes that do not exist have probability 0
        panel = padded[:, :n].reshape(count, LANES, n).swapaxes(1, 2)
        behind = at + panel.size + count * LANES
        hidden = l < len(widths) - 1
        norm, centred = NORMS[net.norm if hidden else None][1:]
        table.append([n, count, at, at + panel.size, -1, norm, centred, widths[l], behind])
        packed += [panel.ravel(), padded[:, n]]
        if norm != NO_NORM:
            scales = np.zeros((2, count * LANES))
            scales[:, : widths[l]] = scale_and_shift(net, l)
            packed += [scales.ravel(), np.full(LANES, net.eps)]
            behind += (2 * count + 1) * LANES
        at = behind
    table.append([net.sizes[0], widest, 0, 0, last, 0, 0, 0, 0])
    mean, low, scale = np.zeros(widths[0]), np.zeros(widths[0]), np.ones(widths[0])
    if net.standardizer is not None:
        moments = net.standardizer.moments_
        mean, low, scale = moments.mean, moments.mean_low, net.standardizer.scale_
    rows = [mean, low, 1.0 / scale]
    if net.encoder is not None:
        rows += list(net.encoder.table)
    outputs = np.vstack([np.ones(n_out), np.zeros(n_out)]).astype(net.dtype)
    if net.target_standardizer is not None:
        of_target = net.target_standardizer
        outputs = np.repeat([of_target.scale_, of_target.mean_], n_out // len(of_target.mean_), axis=1)
    weights = empty_aligned(at, net.dtype)
    with np.errstate(over="ignore"):  # as it would be in the network's own arithmetic
        weights[:] = np.concatenate(packed)
    return Predictor(
        "ScalarPredictor" if net.output == "identity" and n_out == 1 else "Predictor",
        net.activations,
        layers=np.array(table, np.int64),
        weights=weights,
        inputs=np.ascontiguousarray(np.vstack(rows)),
        outputs=np.ascontiguousarray(outputs),
    )
