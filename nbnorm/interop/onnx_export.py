"""Networks, estimators and standardizers as ONNX models."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nbnorm import _check, _files
from nbnorm.functions.activations import SELU_ALPHA, SELU_LIMIT, SELU_SCALE
from nbnorm.functions.loss_options import Poisson
from nbnorm.interop import onnx_columns
from nbnorm.interop.extras import activation_names, normalization
from nbnorm.interop.onnx_graph import LAYER_NORM_OPSET, Graph
from nbnorm.model.network import FNN
from nbnorm.model.sample_norm import scale_and_shift
from nbnorm.statistics.encoding import (
    CEILING,
    EDGE,
    FLOOR,
    KIND,
    LEVEL,
    MISSING,
    POSITION,
    SLOPE,
    SOURCE,
    ColumnEncoder,
)
from nbnorm.statistics.standardize import Standardizer

if TYPE_CHECKING:
    from nbnorm.estimators import FNNClassifier, FNNRegressor, StandardScaler

Array = npt.NDArray[Any]

# Batch norm behind an activation goes into the next layer where its shift, in standard deviations of the
# feature, is at most this: more would cancel digits that float32 needs.
_MOST_SHIFT = 64.0


# ----------------------------------------------------------------------------------------------
# Parts of a network
# ----------------------------------------------------------------------------------------------


def _expm1_below_0(graph: Graph, z: str) -> str:
    """Return exp(z) - 1 below 0, and 0 above."""
    return graph.node(
        "Sub", graph.node("Exp", graph.node("Min", z, graph.constant(0.0))), graph.constant(1.0)
    )


def _activated(graph: Graph, name: str, z: str) -> str:
    """Apply an activation.  ONNX Runtime has Elu and Softplus for float32 only."""
    node, single = graph.node, graph.dtype == np.float32
    if name == "identity":
        return z
    if name in ("relu", "sigmoid", "tanh"):
        return node(name.capitalize(), z)
    if name == "leaky_relu":
        return node("LeakyRelu", z, alpha=0.01)
    if name == "elu":
        if single:
            return node("Elu", z, alpha=1.0)
        return node("Add", node("Relu", z), _expm1_below_0(graph, z))
    if name == "selu":
        if single:
            return node("Selu", z, alpha=SELU_ALPHA, gamma=SELU_SCALE)
        above = node("Mul", node("Relu", z), graph.constant(SELU_SCALE))
        return node("Add", above, node("Mul", _expm1_below_0(graph, z), graph.constant(SELU_LIMIT)))
    if name == "silu":
        return node("Mul", z, node("Sigmoid", z))
    if name == "softplus":
        if single:
            return node("Softplus", z)
        small = node("Exp", node("Neg", node("Abs", z)))
        return node("Add", node("Relu", z), node("Log", node("Add", small, graph.constant(1.0))))
    if name == "gelu":
        scaled = node("Mul", z, graph.constant(np.sqrt(0.5)))
        erf = node("Erf", scaled) if single else graph.cast(node("Erf", graph.cast(scaled, "f4")), "f8")
        half = node("Mul", node("Add", erf, graph.constant(1.0)), graph.constant(0.5))
        return node("Mul", z, half)
    raise ValueError(f"the activation {name!r} has no counterpart in ONNX here")


def _differences(graph: Graph, x: str, subtracted: Array) -> str:
    """Subtract float64 numbers, in float32 in two parts: their rest counts where x is close to them."""
    high = subtracted.astype(graph.dtype)
    low = (subtracted - high).astype(graph.dtype)
    if subtracted.any():
        x = graph.node("Sub", x, graph.constant(high))
    return graph.node("Sub", x, graph.constant(low)) if low.any() else x


def _centre(standardizer: Standardizer) -> tuple[Array, Array]:
    """Return mean and scale as they are used, and the rest of the mean beyond float64."""
    moments = standardizer.moments_
    if not standardizer.with_mean:
        return np.zeros((2, standardizer.n_features_in_)), standardizer.scale_
    return np.array([moments.mean, moments.mean_low]), standardizer.scale_


def _standardized(graph: Graph, x: str, centre: Array, scale: Array) -> str:
    """Standardize columns: (x - mean) / scale.  A scale beyond the dtype's range is refused."""
    with np.errstate(over="ignore", under="ignore"):
        rounded = scale.astype(graph.dtype)
    if not (np.isfinite(rounded) & (rounded > 0.0)).all():
        j = int(np.argmin(np.isfinite(rounded) & (rounded > 0.0)))
        raise ValueError(
            f"feature {j} has the scale {scale[j]:g}, which {graph.dtype} cannot hold: give dtype='float64'"
        )
    x = _differences(graph, x, centre[0])
    if graph.dtype == np.float64 and centre[1].any():
        x = graph.node("Sub", x, graph.constant(centre[1]))
    return x if (scale == 1.0).all() else graph.node("Div", x, graph.constant(scale))


def _encoded(graph: Graph, x: str, encoder: ColumnEncoder) -> tuple[str, str]:
    """Compute the encoded columns of X; return also which elements are positions of missing numbers."""
    table = encoder.table
    kinds, node = table[KIND], graph.node
    source = node("Gather", x, graph.constant(table[SOURCE], np.int64), axis=1)
    gaps = node("IsNaN", source)
    # Columns that are no positions have the slope 0 and are replaced below.
    columns = _differences(graph, source, np.where(kinds == LEVEL, 0.0, table[EDGE]))
    columns = node("Mul", columns, graph.constant(table[SLOPE]))
    columns = node("Max", columns, graph.constant(table[FLOOR]))
    columns = node("Min", columns, graph.constant(table[CEILING]))
    levels = node("Equal", source, graph.constant(table[EDGE])) if (kinds == LEVEL).any() else gaps
    for kind, found in ((LEVEL, levels), (MISSING, gaps)):
        if (kinds == kind).any():
            found = graph.cast(found, graph.dtype)
            columns = node("Where", graph.constant(kinds == kind, np.bool_), found, columns)
    return columns, node("And", gaps, graph.constant(kinds == POSITION, np.bool_))


def _check_levels(graph: Graph, encoder: ColumnEncoder) -> None:
    """Refuse levels of a category that become one in the dtype."""
    for j in encoder.categorical:
        if len(np.unique(encoder.edges_[j].astype(graph.dtype))) < len(encoder.edges_[j]):
            raise ValueError(f"column {j} has levels that are one in {graph.dtype}: give dtype='float64'")


def _inputs(graph: Graph, net: FNN) -> str:
    """Return what the first layer reads; it is the same for networks that were trained together."""
    key = (id(net.encoder), id(net.standardizer))
    if key not in graph.shared:
        x, missing = graph.table, None
        with graph.computing_in(graph.table_dtype):
            if net.encoding is not None:
                if net.encoder is None:
                    raise RuntimeError("the encoding needs a call of fit first")
                _check_levels(graph, net.encoder)
                x, missing = _encoded(graph, x, net.encoder)
            if net.standardizer is not None:
                x = _standardized(graph, x, *_centre(net.standardizer))
            if missing is not None:  # becomes the mean
                x = graph.node("Where", missing, graph.constant(0.0), x)
        if graph.table_dtype != graph.dtype:
            x = graph.cast(x, graph.dtype)
        graph.shared[key] = x
    return graph.shared[key]


def _logits(graph: Graph, net: FNN, fold: bool, rows: Callable[[Array], Array] | None = None) -> str:
    """Compute the network's logits, with the moving averages; `rows` changes those of the last layer."""
    for name, values in {**net.parameters(), **net.buffers()}.items():
        _check.finite(f"the network's {name}", values)
    names = activation_names(net, "ONNX")
    parameters = net.parameters()
    last = len(net.sizes) - 1
    x = _inputs(graph, net)
    scale, shift = np.ones(net.widths[0]), np.zeros(net.widths[0])  # of what the layer reads, not yet applied
    for l in range(1, last + 1):
        weight = parameters[f"dense{l}.weight"].astype(np.float64)
        bias = parameters.get(f"dense{l}.bias", np.zeros(len(weight))).astype(np.float64)
        weight, bias = weight * scale, bias + weight @ shift
        scale, shift = np.ones(len(weight)), np.zeros(len(weight))
        normed, of_samples = (
            l < last and net.norm_kind == "batch",
            l < last and net.norm_kind in ("layer", "rms"),
        )
        if normed:
            gamma, beta, mean, var = normalization(net, l)
            factor = gamma / np.sqrt(var + net.eps)
            if net.norm == "before" and fold:
                weight, bias = factor[:, None] * weight, factor * (bias - mean) + beta
        if l == last and rows is not None:
            weight, bias = rows(weight), rows(bias)
        x = graph.node(
            "Gemm", x, graph.named(f"dense{l}.weight", weight), graph.named(f"dense{l}.bias", bias), transB=1
        )
        if normed and not fold and net.norm == "before":
            x = _batch_norm(graph, x, net, l)
        if of_samples and net.norm_placement == "before":
            x = _sample_norm(graph, x, net, l)
        if l < last:
            x = _activated(graph, names[l - 1], x)
        if of_samples and net.norm_placement == "after":
            x = _sample_norm(graph, x, net, l)
        if normed and net.norm == "after":
            if not fold:
                x = _batch_norm(graph, x, net, l)
            elif np.abs(factor * mean).max() <= _MOST_SHIFT:
                scale, shift = factor, beta - factor * mean
            else:
                x = graph.node("Mul", _differences(graph, x, mean), graph.constant(factor))
                x = graph.node("Add", x, graph.constant(beta))
    return x


def _batch_norm(graph: Graph, x: str, net: FNN, l: int) -> str:
    gamma, beta, mean, var = normalization(net, l)
    given = {"gamma": gamma, "beta": beta, "running_mean": mean, "running_var": var}
    tensors = [graph.named(f"norm{l}.{name}", values) for name, values in given.items()]
    momentum = 0.9 if net.decay is None else net.decay  # only training would use it
    return graph.node("BatchNormalization", x, *tensors, epsilon=net.eps, momentum=momentum)


def _sample_norm(graph: Graph, x: str, net: FNN, l: int) -> str:
    gamma, beta = scale_and_shift(net, l)
    scale = graph.named(f"norm{l}.gamma", gamma)
    if net.norm_kind == "layer":
        graph.opset = LAYER_NORM_OPSET
        shift = graph.named(f"norm{l}.beta", beta)
        return graph.node("LayerNormalization", x, scale, shift, axis=-1, epsilon=net.eps)
    square = graph.node("ReduceMean", graph.node("Mul", x, x), axes=[1], keepdims=1)
    root = graph.node("Sqrt", graph.node("Add", square, graph.constant(net.eps)))
    return graph.node("Mul", graph.node("Div", x, root), scale)


# ----------------------------------------------------------------------------------------------
# Answers
# ----------------------------------------------------------------------------------------------


def _values(graph: Graph, net: FNN, fold: bool) -> str:
    """Return the values that a network of the identity output predicts, (n_samples, n_out).

    Those of standardized targets are turned back in float64, as `FNN.predict` does.
    """
    z = _logits(graph, net, fold)
    if isinstance(net.loss, Poisson):
        return graph.node("Exp", z)
    if net.target_standardizer is None:
        return z
    # outputs of one target, such as its quantiles, stand beside each other
    each = net.sizes[-1] // net.target_standardizer.n_features_in_
    centre, scale = (np.repeat(part, each, axis=-1) for part in _centre(net.target_standardizer))
    wide = z if graph.dtype == np.float64 else graph.cast(z, np.float64)
    wide = graph.node("Mul", wide, graph.constant(scale, np.float64))
    return graph.node("Add", wide, graph.constant(centre[0], np.float64))


def _flat(graph: Graph, x: str, n_out: int) -> tuple[str, list[Any]]:
    """Drop the second dimension of one output, as predictions do; return the shape too."""
    if n_out > 1:
        return x, ["n_samples", n_out]
    return graph.node("Reshape", x, graph.constant([-1], np.int64)), ["n_samples"]


def _mean(graph: Graph, terms: list[str], dtype: npt.DTypeLike) -> str:
    """Return the mean of what several networks say."""
    if len(terms) == 1:
        return terms[0]
    total = terms[0]
    for term in terms[1:]:
        total = graph.node("Add", total, term)
    return graph.node("Div", total, graph.constant(len(terms), dtype))


def _write_values(graph: Graph, nets: list[FNN], fold: bool, model: FNNRegressor | None = None) -> None:
    """Write the output of a network's or a regressor's values, which does to them what `predict` does."""
    wide = nets[0].target_standardizer is not None
    dtype = np.dtype(np.float64) if wide else graph.dtype
    terms, n_out = [_values(graph, net, fold) for net in nets], nets[0].sizes[-1]
    if model is not None and model.target_transform is not None:
        terms = [graph.node("Exp", term) for term in terms]
        if model.target_transform == "log1p":
            terms = [graph.node("Sub", term, graph.constant(1.0, dtype)) for term in terms]
    values, limits = _mean(graph, terms, dtype), model._range if model is not None and model.clip else None
    levels = 1 if model is None else len(nets[0].loss.options())
    if levels > 1:
        shape = ["n_samples", n_out // levels, levels]
        values = graph.node("Reshape", values, graph.constant([-1, n_out // levels, levels], np.int64))
        values = graph.sorted(values, levels)
        limits = None if limits is None else limits.reshape(2, -1, 1)
    else:
        values, shape = _flat(graph, values, n_out)
    if limits is not None:
        least, most = (graph.constant(limit, dtype) for limit in limits)
        values = graph.node("Min", graph.node("Max", values, least), most)
    if levels > 1 and model is not None and not model._width:
        shape = [shape[0], levels]
        values = graph.node("Reshape", values, graph.constant([-1, levels], np.int64))
    graph.output(values, "prediction", graph.type_of(dtype), shape)


def _with_class_0(values: Array) -> Array:
    """Put the logit 0 of class 0 in front of that of class 1: softmax then gives what the sigmoid does."""
    return np.concatenate([np.zeros_like(values), values])


def _write_classes(graph: Graph, nets: list[FNN], fold: bool, names: Array) -> None:
    """Write label and probabilities of classes that exclude each other."""
    two = nets[0].output == "sigmoid" and len(names) == 2  # of one class alone softmax gives 1
    logits = [_logits(graph, net, fold, _with_class_0 if two else None) for net in nets]
    p = _mean(graph, [graph.node("Softmax", z, axis=1) for z in logits], graph.dtype)
    chosen = graph.node("ArgMax", logits[0] if len(nets) == 1 else p, axis=1, keepdims=0)
    label, kind = _labels(graph, names)
    graph.output(graph.node("Gather", label, chosen, axis=0), "label", kind, ["n_samples"])
    graph.output(p, "probabilities", graph.type_of(graph.dtype), ["n_samples", len(names)])


def _labels(graph: Graph, names: Array) -> tuple[str, int]:
    """Return a constant of the classes' names and its type."""
    kind, tensor = names.dtype.kind, graph.onnx.TensorProto
    if kind == "O" and all(isinstance(name, str) for name in names):
        names, kind = names.astype(str), "U"
    if kind in ("U", "T"):
        return graph.texts("classes", [str(name) for name in names]), tensor.STRING
    if kind == "u" and names.max() > np.iinfo(np.int64).max:
        raise ValueError(f"classes must lie in the range of int64 for ONNX, got {names.max()}")
    for kinds, dtype in (("iu", np.int64), ("b", np.bool_), ("f", np.float64)):
        if kind in kinds:
            return graph.constant(names, dtype), graph.type_of(dtype)
    raise ValueError(f"classes must be text or numbers for ONNX, got dtype {names.dtype}")


def _write_flags(graph: Graph, nets: list[FNN], fold: bool) -> None:
    """Write labels and probabilities of sigmoid outputs, each a question of its own."""
    logits = [_logits(graph, net, fold) for net in nets]
    p = _mean(graph, [graph.node("Sigmoid", z) for z in logits], graph.dtype)
    yes = (logits[0], 0.0) if len(nets) == 1 else (p, 0.5)
    flags = graph.cast(graph.node("Greater", yes[0], graph.constant(yes[1])), np.int64)
    n_out = nets[0].sizes[-1]
    label, shape = _flat(graph, flags, n_out)
    graph.output(label, "label", graph.type_of(np.int64), shape)
    graph.output(p, "probabilities", graph.type_of(graph.dtype), ["n_samples", n_out])


# ----------------------------------------------------------------------------------------------
# Kinds of models
# ----------------------------------------------------------------------------------------------


def _network(graph: Graph, net: FNN, fold: bool) -> dict[str, Any]:
    graph.matrix(net.sizes[0])
    if net.output == "softmax":
        _write_classes(graph, [net], fold, np.arange(net.sizes[-1]))
    elif net.output == "sigmoid":
        _write_flags(graph, [net], fold)
    else:
        _write_values(graph, [net], fold)
    return {"feature_names": _feature_names(net), "metadata": net.metadata}


def _feature_names(net: FNN) -> list[str] | None:
    if net.encoder is not None:
        return net.encoder.feature_names
    return None if net.standardizer is None else net.standardizer.moments_.feature_names


def _estimator(graph: Graph, model: FNNClassifier | FNNRegressor, fold: bool) -> dict[str, Any]:
    nets: list[FNN] = model.networks_
    names = getattr(model, "classes_", None)
    notes: dict[str, Any] = {"metadata": nets[0].metadata}
    columns = model.columns_
    if onnx_columns.are_apart(columns, model._columns is not None and model._columns.named_):
        notes["columns"] = onnx_columns.read_apart(graph, columns)
    else:
        graph.matrix(len(columns))
        onnx_columns.read_categories(graph, columns)
    onnx_columns.bounded(graph, model._limits, [net.encoder is not None for net in nets])
    if names is None:
        _write_values(graph, nets, fold, model)
    elif nets[0].output == "sigmoid" and nets[0].sizes[-1] > 1:
        _write_flags(graph, nets, fold)
    else:
        _write_classes(graph, nets, fold, names)
    features = getattr(model, "feature_names_in_", None)
    if features is not None:
        notes["feature_names"] = [str(name) for name in features]
    return notes


def _write_standardized(graph: Graph, centre: Array, scale: Array) -> None:
    x = _standardized(graph, graph.matrix(len(scale)), centre, scale)
    graph.output(x, "standardized", graph.type_of(graph.dtype), ["n_samples", len(scale)])


def _scaler(graph: Graph, model: Standardizer | StandardScaler) -> dict[str, Any]:
    width = model.n_features_in_
    centre, scale = np.zeros((2, width)), np.ones(width)
    if model.with_mean:
        centre[0] = model.mean_
        centre[1] = np.where(model.mean_ == model.moments_.mean, model.moments_.mean_low, 0.0)
    if model.scale_ is not None:
        scale = np.asarray(model.scale_, np.float64)
    _write_standardized(graph, centre, scale)
    return {"feature_names": model.moments_.feature_names}


def to_onnx(
    model: FNN | FNNClassifier | FNNRegressor | Standardizer | StandardScaler,
    path: _files.Target,
    *,
    dtype: npt.DTypeLike = np.float32,
    fold: bool = True,
) -> None:
    """Write a network, an estimator or a standardizer to an ONNX model.

    The model has one input ``X``, shape (n_samples, n_features) for any number of samples, and standardizes
    and encodes its columns itself.  An estimator that was trained on a table with text, other categories,
    dates or durations has an input of shape (n_samples, 1) for each column instead, see the notes.  Outputs
    are

    ================= ====================================================================================
    ``label``         For classes: what `predict` gives; text for classes that are text.
    ``probabilities`` For classes: what `predict_proba` gives, shape (n_samples, n_classes).
    ``prediction``    For values: what `predict` gives, in the units of the targets; float64 where these are
                      standardized.
    ``standardized``  For a standardizer: what `transform` gives.
    ================= ====================================================================================

    Parameters
    ----------
    model : FNN, FNNClassifier, FNNRegressor, Standardizer or StandardScaler
        Several networks of an estimator are averaged in the model.
    path : path-like or binary file
        File to write or replace, atomically.
    dtype : {float32, float64}, default float32
        Type of the input and of the computation.  float32 is what most programs give; values that it cannot
        tell apart, such as times in seconds since 1970, need float64.
    fold : bool, default True
        Whether batch norm becomes part of the layers beside it, where that costs no digits; False writes
        BatchNormalization, which `from_onnx` reads back and which can be trained on.

    Raises
    ------
    ImportError
        If onnx is missing: ``pip install "nbnorm[onnx]"``.
    TypeError
        If the model is of another kind.
    ValueError
        If it is not fitted or not finite, or an activation is a function of your own, or a column
        has levels of both text and numbers, or some that cannot be told apart.
    OSError
        If the file cannot be written.

    Notes
    -----
    Inputs of single columns are called as these are, with an underscore behind where an output has the name.
    Text is a tensor of strings.  Everything else is float64, whatever `dtype` says: booleans 0 and 1, dates
    days since 1970-01-01 (UTC), durations days, missing values NaN.  Text that is missing is ``""``, or the
    entry "missing" of the column in the file's metadata "columns", where ``""`` is a level.  Levels that
    training has not seen are taken as `predict` takes them.  In a matrix X categories are the numbers that
    training was given.

    Examples
    --------
    >>> import io
    >>> from nbnorm import FNN
    >>> from nbnorm.interop import from_onnx, to_onnx
    >>> file = io.BytesIO()
    >>> to_onnx(FNN([3, 4, 2], seed=1), file, fold=False)
    >>> _ = file.seek(0)
    >>> from_onnx(file)
    FNN([3, 4, 2], activation='relu', norm='after', output='softmax', dtype=float32, parameters=34)
    """
    graph = Graph(_check.float_dtype("dtype", dtype))
    fold = _check.flag("fold", fold)
    if isinstance(model, FNN):
        notes = _network(graph, model, fold)
    elif isinstance(model, Standardizer):
        _write_standardized(graph, *_centre(model))
        notes = {"feature_names": model.moments_.feature_names}
    else:
        notes = _of_scikit_learn(graph, model, fold)
    graph.write(path, notes)


def _of_scikit_learn(
    graph: Graph, model: FNNClassifier | FNNRegressor | StandardScaler, fold: bool
) -> dict[str, Any]:
    """Write an estimator or a scaler; return what the file says of it."""
    if "nbnorm.estimators" in sys.modules:  # otherwise nobody can have made one
        from sklearn.utils.validation import check_is_fitted

        from nbnorm.estimators import FNNClassifier, FNNRegressor, StandardScaler

        if isinstance(model, (FNNClassifier, FNNRegressor)):
            check_is_fitted(model)
            return _estimator(graph, model, fold)
        if isinstance(model, StandardScaler):
            check_is_fitted(model)
            return _scaler(graph, model)
    raise TypeError(
        "model must be an FNN, FNNClassifier, FNNRegressor, Standardizer or StandardScaler, "
        f"got {type(model).__name__}"
    )
