"""ONNX models of fully connected networks as FNN.

The nodes between the input and the output are taken one after another.  An affine map by a constant matrix
begins a layer.  What acts on each element alone is, as long as its constants are numbers, a function of
one number, however many nodes it is written with: it is computed at some points and compared with the
activations of the package.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from nbnorm import _check, _files
from nbnorm._types import Array, OnnxEntry, OnnxModel, OnnxNode, OnnxTensor
from nbnorm.functions.activations import CODES, activation_forward
from nbnorm.functions.layer_norm import layer_norm_forward, rms_norm_forward
from nbnorm.functions.loss_options import LossLike, Output
from nbnorm.interop import layers
from nbnorm.interop.extras import needed
from nbnorm.interop.layers import Affine, BatchNorm, Diagonal, Layer, SampleNorm
from nbnorm.model.network import FNN
from nbnorm.model.options import NormKind

# Nodes of one input and constants that act on each element alone.
_ELEMENTWISE = {
    "Abs", "Add", "Cast", "Clip", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "Identity",
    "LeakyRelu", "Log", "Max", "Min", "Mish", "Mul", "Neg", "Pow", "Relu", "Selu", "Sigmoid", "Softplus",
    "Softsign", "Sqrt", "Sub", "Swish", "Tanh", "ThresholdedRelu",
}  # fmt: skip

# The node of scikit-learn's scalers, from another set of operators.
_SCALER = ("ai.onnx.ml", "Scaler")

# Nodes that give back what they are given, in a network of two dimensions in evaluation.
_SAME = ("Identity", "Dropout", "Flatten")

# Nodes of constants that are computed while reading; none of them makes more numbers than it is given.
_OF_CONSTANTS = ("Identity", "Cast", "Transpose", "Neg", "Unsqueeze", "Squeeze")

_REALS = ("float16", "float32", "float64")

# Where functions of one number are compared, and how much the values may differ.
_POINTS = np.concatenate([np.linspace(-9.0, 9.0, 145), [0.1, -0.1, 0.01, -0.01, 20.0, -20.0]])
_SAME_FUNCTION = 2e-5


class _Reader:
    """A graph, its constants, and the way from its input to its output."""

    def __init__(self, onnx: ModuleType, model: OnnxModel, folder: str | None) -> None:
        self.onnx, self.model, self.graph = onnx, model, model.graph
        self.folder = folder
        self.constants: dict[str, Array] = {}
        self.wide = False
        graph = self.graph
        if not graph.node:
            raise ValueError("it has no nodes")
        if graph.sparse_initializer:
            raise ValueError(f"its tensor {graph.sparse_initializer[0].values.name!r} is sparse")
        for tensor in graph.initializer:
            self.constants[tensor.name] = self.array(tensor, f"tensor {tensor.name!r}")
        inputs = [value.name for value in graph.input if value.name not in self.constants]
        if len(inputs) != 1:
            raise ValueError(f"it has {len(inputs)} inputs ({', '.join(inputs)}), expected one")
        self.input = inputs[0]

    def array(self, tensor: OnnxTensor, where: str) -> Array:
        """Return the numbers of a tensor; its size is checked before memory is allocated."""
        shape = tuple(tensor.dims)
        if any(length < 0 for length in shape):
            raise ValueError(f"{where} has shape {shape}")
        kind = self.onnx.TensorProto
        if tensor.data_type == kind.STRING:
            return np.empty(0, object)  # names of classes, which are no part of the computation
        try:
            dtype = self.onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        except KeyError:
            raise ValueError(f"{where} has the unknown type {tensor.data_type}") from None
        if dtype.name not in (*_REALS, "int64", "int32", "bool"):
            raise ValueError(f"{where} has dtype {dtype.name}")
        if tensor.data_location == kind.EXTERNAL:
            return self.external(tensor, shape, dtype, where)
        count = math.prod(shape)
        if tensor.HasField("raw_data"):
            got, expected = len(tensor.raw_data), count * dtype.itemsize
            if got != expected:
                raise ValueError(f"{where} has {got} bytes, expected {expected} for shape {shape}")
        else:
            field = self.onnx.helper.tensor_dtype_to_field(tensor.data_type)
            if len(getattr(tensor, field)) != count:
                raise ValueError(f"{where} has {len(getattr(tensor, field))} numbers, expected {count}")
        return np.asarray(self.onnx.numpy_helper.to_array(tensor))

    def external(self, tensor: OnnxTensor, shape: tuple[int, ...], dtype: np.dtype[Any], where: str) -> Array:
        """Read a tensor that stands in a file beside the model."""
        said = {entry.key: entry.value for entry in tensor.external_data}
        file = said.get("location", "")
        if (
            self.folder is None
            or not file
            or os.path.basename(file) != file
            or file in (os.curdir, os.pardir)
        ):
            raise ValueError(f"{where} is kept in another file, {file!r}, which is not beside the model")
        path = os.path.join(self.folder, file)
        if os.path.islink(path):
            raise ValueError(f"{where} is kept in {file!r}, which is a link")
        offset, expected = int(said.get("offset", 0)), math.prod(shape) * dtype.itemsize
        try:
            with _files.open_input(path) as data:
                size = _files.size_of(data)
                if offset < 0 or int(said.get("length", expected)) != expected or offset + expected > size:
                    raise ValueError(
                        f"{where} needs {expected} bytes from {offset} on in {file!r}, which has {size} bytes"
                    )
                data.seek(offset)
                array = np.frombuffer(data.read(expected), dtype.newbyteorder("<"))
        except OSError as error:  # which would be taken for one of the model's own file
            raise ValueError(f"{where} is kept in {file!r}: {error.strerror}") from None
        return array.astype(dtype).reshape(shape)

    def kind(self, node: OnnxNode, name: str, default: Any = None) -> Any:
        """Return an attribute of a node."""
        for attribute in node.attribute:
            if attribute.name == name:
                return self.onnx.helper.get_attribute_value(attribute)
        return default

    # The way through the graph.

    def way(self) -> list[OnnxNode]:
        """Return the nodes between input and output, in the order in which they compute."""
        makers: dict[str, OnnxNode] = {}
        for node in self.graph.node:
            if node.domain not in ("", "ai.onnx") and (node.domain, node.op_type) != _SCALER:
                continue  # what matters is refused below
            for output in node.output:
                makers[output] = node
        wanted, seen = [self.output()], set()
        while wanted:
            name = wanted.pop()
            maker = makers.get(name)
            if maker is None:
                if name != self.input and name not in self.constants:
                    raise ValueError(f"{name!r} is computed by nothing that can be read")
                continue
            if id(maker) not in seen:
                seen.add(id(maker))
                wanted.extend(part for part in maker.input if part)
        return [node for node in self.graph.node if id(node) in seen]

    def output(self) -> str:
        """Return the name of the output that holds numbers: scores, not labels."""
        known: list[str] = [value.name for value in self.graph.output]
        if len(known) == 1:
            return known[0]
        real: list[str] = [
            value.name
            for value in self.graph.output
            if value.type.HasField("tensor_type")
            and value.type.tensor_type.elem_type
            in (self.onnx.TensorProto.FLOAT, self.onnx.TensorProto.DOUBLE, self.onnx.TensorProto.FLOAT16)
        ]
        if len(real) != 1:
            raise ValueError(f"it has the outputs {', '.join(known)}: one of them must be of floats")
        return real[0]

    def folded(self, node: OnnxNode) -> bool:
        """Whether a node is a constant; if so, note its value."""
        inputs = [name for name in node.input if name]
        if node.op_type == "Constant":
            tensor = self.kind(node, "value")
            if tensor is None:
                number = self.kind(node, "value_float", self.kind(node, "value_int"))
                several = self.kind(node, "value_floats", self.kind(node, "value_ints"))
                if number is None and several is None:
                    raise ValueError(f"{_where(node)} is a constant of no numbers")
                values = np.asarray(several if number is None else number)
                values = values.astype(np.float32) if values.dtype.kind == "f" else values
            else:
                values = self.array(tensor, _where(node))
        elif inputs and all(name in self.constants for name in inputs):
            if node.op_type not in _OF_CONSTANTS:
                raise ValueError(f"{_where(node)} computes with constants only")
            values = self.run([node], {name: self.constants[name] for name in inputs})
        else:
            return False
        self.constants[node.output[0]] = values
        return True

    def run(self, nodes: Sequence[OnnxNode], given: dict[str, Array]) -> Array:
        """Compute a few nodes by ONNX's own reference."""
        helper = self.onnx.helper
        values = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in given.items()
        ]
        last = nodes[-1].output[0]
        result = helper.make_tensor_value_info(last, self.onnx.TensorProto.UNDEFINED, None)
        graph = helper.make_graph(nodes, "part", values, [result])
        model = helper.make_model(graph, opset_imports=self.model.opset_import)
        reference = needed("onnx.reference", "onnx")
        with np.errstate(all="ignore"):
            return np.asarray(reference.ReferenceEvaluator(model).run(None, given)[0])

    def layers(self) -> list[Layer]:
        """Return the layers of the network."""
        found: list[Layer] = []
        part: list[OnnxNode] = []  # nodes of a function that is not complete yet
        begin, live = self.input, {self.input}
        nodes = [node for node in self.way() if not self.folded(node)]
        uses: dict[str, int] = {}
        for node in nodes:
            for name in set(node.input):
                uses[name] = uses.get(name, 0) + 1
        for node in nodes:
            reads = [name for name in dict.fromkeys(node.input) if name and name not in self.constants]
            if not set(reads) <= live:
                raise ValueError(f"{_where(node)} reads what no layer in front of it gives")
            if self.is_pair(node, part, begin):
                live, part, begin = {node.output[0]}, [], node.output[0]
                continue
            if part or len(reads) > 1 or self.waits(node, uses):
                if node.op_type not in _ELEMENTWISE and not self.over_features(node):
                    raise ValueError(
                        f"{_where(node)}, {node.op_type}, is no function of one number like its neighbours"
                    )
                part.append(node)
            for name in reads:
                uses[name] -= 1
            live = {name for name in live if uses.get(name, 0) > 0} | {node.output[0]}
            if part and len(live) == 1:
                samples = any(one.op_type == "ReduceMean" for one in part)
                found += self.sample_norm(part, begin) if samples else self.function(part, begin)
                part = []
            elif not part:
                found += self.single(node, reads[0])
            if not part:
                begin = node.output[0]
        return found

    def is_pair(self, node: OnnxNode, part: Sequence[OnnxNode], p: str) -> bool:
        """Whether a last node puts 1 - p beside the probability p, as scikit-learn's classifiers do."""
        if node.op_type != "Concat" or node.output[0] != self.output() or len(part) != 1:
            return False
        (other,) = part
        one = self.constants.get(other.input[0])
        rest_of_one = (
            other.op_type == "Sub" and one is not None and one.size == 1 and bool((one == 1.0).all())
        )
        return rest_of_one and other.input[1] == p and list(node.input) == [other.output[0], p]

    def waits(self, node: OnnxNode, uses: dict[str, int]) -> bool:
        """Whether what a node reads is read again by a later one."""
        return any(uses[name] > 1 for name in node.input if name not in self.constants)

    # Single nodes.

    def single(self, node: OnnxNode, x: str) -> list[Layer]:
        """Return what a node by itself does."""
        where, kind = _where(node), node.op_type
        if kind == "Flatten" and self.kind(node, "axis", 1) not in (-1, 1):
            raise ValueError(f"{where} does not keep the samples apart")
        if kind == "Dropout" and len(node.input) > 2 and np.any(self.constants.get(node.input[2])):
            raise ValueError(f"{where} is in training mode: export the model in evaluation mode")
        if kind in _SAME or (kind == "Reshape" and self.flattens(node)):
            return []
        if kind in ("Gemm", "MatMul"):
            return [self.affine(node, x, where)]
        if kind == "BatchNormalization":
            return [self.batch_norm(node, where)]
        if kind == "LayerNormalization":
            return [self.layer_norm(node, where)]
        if kind in ("Softmax", "LogSoftmax"):
            if self.kind(node, "axis", -1) not in (-1, 1):
                raise ValueError(f"{where} is a softmax over the samples")
            return [layers.Activation(where, "softmax")]
        if (node.domain, kind) == _SCALER:
            offset, factor = (
                np.atleast_1d(np.asarray(self.kind(node, name, default), np.float64))
                for name, default in (("offset", 0.0), ("scale", 1.0))
            )
            return [Diagonal(where, offset, factor, np.zeros(1))]
        if kind == "Cast":
            return self.cast(node)
        if kind in ("Add", "Sub", "Mul", "Div") and any(name in self.constants for name in node.input):
            return [self.diagonal(node, x, where)]
        if kind in _ELEMENTWISE:
            return self.function([node], x)
        raise ValueError(f"{where} is a {kind}, which is no part of a fully connected network")

    def flattens(self, node: OnnxNode) -> bool:
        """Whether a reshape keeps the samples apart: to a table, or one value for each sample."""
        shape = self.constants.get(node.input[1])
        if shape is None or shape.ndim != 1 or shape.dtype.kind != "i":
            return False
        return shape.tolist() == [-1] or (len(shape) == 2 and int(shape[0]) in (-1, 0))

    def cast(self, node: OnnxNode) -> list[Layer]:
        """Return what a change of the dtype means."""
        dtype = self.onnx.helper.tensor_dtype_to_np_dtype(self.kind(node, "to", 0))
        if dtype.name not in _REALS:
            raise ValueError(f"{_where(node)} turns numbers into {dtype.name}")
        return [layers.Wide(_where(node))] if dtype == np.float64 else []

    def real(self, name: str, where: str) -> Array:
        """Return a constant as float64."""
        array = self.constants[name]
        if array.dtype.name not in _REALS:
            raise ValueError(f"{where} computes with {name!r} of dtype {array.dtype}")
        return array.astype(np.float64)

    def affine(self, node: OnnxNode, x: str, where: str) -> Affine:
        """Return the affine map of a matrix product with a constant."""
        if node.input[0] != x or node.input[1] not in self.constants:
            raise ValueError(f"{where} does not multiply the features by a constant matrix from the right")
        weight = self.real(node.input[1], where)
        if weight.ndim != 2:
            raise ValueError(f"{where} has a weight of shape {weight.shape}")
        gemm = node.op_type == "Gemm"
        if gemm and self.kind(node, "transA", 0):
            raise ValueError(f"{where} transposes the samples")
        if not gemm or not self.kind(node, "transB", 0):
            weight = weight.T
        bias = np.zeros(len(weight))
        if gemm:
            weight = weight * self.kind(node, "alpha", 1.0)
            if len(node.input) > 2 and node.input[2]:
                shift = self.real(node.input[2], where)
                if shift.size not in (1, len(weight)):
                    raise ValueError(f"{where} has a bias of shape {shift.shape} for {len(weight)} outputs")
                bias = bias + shift.reshape(-1) * self.kind(node, "beta", 1.0)
        return Affine(where, weight, bias)

    def batch_norm(self, node: OnnxNode, where: str) -> BatchNorm:
        if self.kind(node, "training_mode", 0):
            raise ValueError(f"{where} is in training mode: export the model in evaluation mode")
        if len(node.input) != 5 or any(name not in self.constants for name in node.input[1:]):
            raise ValueError(f"{where} does not have four constants")
        gamma, beta, mean, var = (self.real(name, where) for name in node.input[1:])
        momentum = 1.0 - float(np.float64(str(np.float32(self.kind(node, "momentum", 0.9)))))
        return BatchNorm(where, gamma, beta, mean, var, float(self.kind(node, "epsilon", 1e-5)), momentum)

    def layer_norm(self, node: OnnxNode, where: str) -> SampleNorm:
        if self.kind(node, "axis", -1) not in (-1, 1):
            raise ValueError(f"{where} normalizes over the samples")
        given = [name for name in node.input[1:] if name]
        if not given or any(name not in self.constants for name in given):
            raise ValueError(f"{where} does not have constants as scale and shift")
        gamma = self.real(given[0], where)
        beta = self.real(given[1], where) if len(given) > 1 else np.zeros_like(gamma)
        return SampleNorm(where, "layer", gamma, beta, _exact(np.float32(self.kind(node, "epsilon", 1e-5))))

    # Layer norm and RMS norm that are written with several nodes.

    def over_features(self, node: OnnxNode) -> bool:
        """Whether a node is the mean over the features of each sample."""
        if node.op_type != "ReduceMean" or not self.kind(node, "keepdims", 1):
            return False
        axes = self.kind(node, "axes")
        if axes is None and len(node.input) > 1:
            axes = self.constants.get(node.input[1], np.empty(0)).tolist()
        return axes is not None and list(axes) in ([-1], [1])

    def sample_norm(self, nodes: Sequence[OnnxNode], x: str) -> list[Layer]:
        """Return the layer norm or RMS norm, without scale and shift, that some nodes compute."""
        where = _where(nodes[-1])
        given = {
            name: self.constants[name] for node in nodes for name in node.input if name in self.constants
        }
        added = [
            given[name] for node in nodes if node.op_type == "Add" for name in node.input if name in given
        ]
        if len(added) == 1 and added[0].size == 1:
            points = np.random.default_rng(0).normal(0.5, 2.0, (7, 5)).astype(added[0].dtype)
            try:
                got = self.run(nodes, {x: points, **given})
            except (TypeError, RuntimeError, ValueError):  # constants of another number of features
                got = np.empty(0)
            eps, one = _exact(added[0].reshape(())), np.ones(5)
            functions: tuple[tuple[NormKind, Array], ...] = (
                ("layer", layer_norm_forward(points, one, 0 * one, eps=eps)[0]),
                ("rms", rms_norm_forward(points, one, eps=eps)[0]),
            )
            for kind, expected in functions:
                if got.shape == expected.shape and np.abs(got - expected).max() <= _SAME_FUNCTION:
                    return [SampleNorm(where, kind, np.ones(1), np.zeros(1), eps)]
        kinds = " ".join(node.op_type for node in nodes)
        raise ValueError(
            f"{where} ({kinds}) is neither layer norm nor RMS norm, which are written apart from scales"
        )

    def diagonal(self, node: OnnxNode, x: str, where: str) -> Diagonal:
        """Return what adding, subtracting, multiplying or dividing by constants does."""
        given = [name for name in node.input if name != x]
        if len(given) != 1 or given[0] not in self.constants:
            raise ValueError(f"{where} does not compute with one constant")
        numbers = self.real(given[0], where)
        if numbers.size != max(numbers.shape, default=1):
            raise ValueError(f"{where} computes with an array of shape {numbers.shape}")
        numbers = numbers.reshape(-1)
        one, zero = np.ones(1), np.zeros(1)
        first = node.input[0] == x
        if node.op_type == "Add":
            return Diagonal(where, zero, one, numbers)
        if node.op_type == "Sub":
            return Diagonal(where, numbers, one, zero) if first else Diagonal(where, numbers, -one, zero)
        if node.op_type == "Mul":
            return Diagonal(where, zero, numbers, zero)
        if not first:
            raise ValueError(f"{where} divides by features")
        with np.errstate(divide="ignore"):
            return Diagonal(where, zero, 1.0 / numbers, zero)

    # Functions of one number.

    def function(self, nodes: Sequence[OnnxNode], x: str) -> list[Layer]:
        """Return the activation that some nodes compute."""
        where = _where(nodes[-1])
        kinds = " ".join(node.op_type for node in nodes)
        given: dict[str, Array] = {}
        for node in nodes:
            for name in node.input:
                if name in self.constants:
                    given[name] = self.constants[name]
                    if given[name].size != 1:
                        raise ValueError(
                            f"{_where(node)} computes with {given[name].size} numbers amid {kinds}"
                        )
                    given[name] = given[name].reshape(())
        for dtype in (np.float32, np.float64):
            points = _POINTS.astype(dtype)
            same = {
                name: array.astype(dtype) if array.dtype.kind == "f" else array
                for name, array in given.items()
            }
            try:
                got = self.run(nodes, {x: points, **same})
            except (TypeError, RuntimeError):  # types that do not go together
                continue
            if got.shape != points.shape:
                break
            for name in CODES:
                expected = activation_forward(points, name)
                if np.abs(got - expected).max() <= _SAME_FUNCTION:
                    return [] if name == "identity" else [layers.Activation(where, name)]
        raise ValueError(f"{where} ({kinds}) is none of the activations {', '.join(CODES)}")


def _exact(number: Array | np.floating[Any]) -> float:
    """Return a number of NumPy's as a float: of float32 the short decimal number that it was written for."""
    return float(str(number)) if number.dtype == np.float32 else float(number)


def _where(node: OnnxNode) -> str:
    """Return what messages call a node."""
    return f"node {node.name or node.output[0]!r}" if node.output else f"node {node.op_type}"


def _notes(properties: Iterable[OnnxEntry]) -> dict[str, Any]:
    """Return the metadata of a network that `to_onnx` has kept."""
    texts = {entry.key: entry.value for entry in properties}
    if "metadata" not in texts:
        return {}
    try:
        notes = json.loads(texts["metadata"])
    except (ValueError, RecursionError):
        return {}
    return notes if isinstance(notes, dict) else {}


def from_onnx(
    path: _files.Target,
    *,
    output: Output | None = None,
    decay: float | None = None,
    loss: LossLike | None = None,
) -> FNN:
    """Read an ONNX model of a fully connected network.

    It may consist of affine layers (Gemm, or MatMul and Add), activations of the package however they are
    written, BatchNormalization, LayerNormalization, layer norm and RMS norm written with ReduceMean,
    constants that are subtracted from the input and divide it (which become the standardizer), and a softmax
    or sigmoid at the end.  Other nodes are an error that names them.

    Parameters
    ----------
    path : path-like or binary file
        File to read.  Nothing in it is executed; sizes are checked before memory is allocated.
    output : {"softmax", "sigmoid", "identity"}, optional
        Kind of the output; by default as the model ends, with "identity" for logits.
    decay : float, optional
        Weight of the old value in the moving averages, by default as the model says.
    loss : str or Loss, optional
        What further training minimizes, by default as for a new network.

    Returns
    -------
    FNN
        In evaluation mode, float64 where the model's input is, otherwise float32.  Batch norm can be trained
        on where all hidden layers have it in the same placement; otherwise it is folded into the affine
        layers.

    Raises
    ------
    ImportError
        If onnx is missing: ``pip install "nbnorm[onnx]"``.
    OSError
        If the file cannot be read.
    ValueError
        If it is damaged, or no FNN computes the same; the message names file and node.

    See Also
    --------
    to_onnx

    Examples
    --------
    >>> import io
    >>> from nbnorm.interop import from_onnx
    >>> from_onnx(io.BytesIO(b"no model"))
    Traceback (most recent call last):
        ...
    ValueError: the file object is not an ONNX model: ...
    """
    onnx = needed("onnx", "onnx")
    name = _files.name_of(path)
    if output is not None:
        _check.choice("output", output, ("softmax", "sigmoid", "identity"))
    if decay is not None:
        decay = _check.number("decay", decay, least=0.0, below=1.0)
    folder = os.path.dirname(os.path.abspath(name)) if isinstance(path, (str, os.PathLike)) else None
    with _files.reading(path, "an ONNX model") as file:
        model = onnx.load_model_from_string(file.read())
        try:
            reader = _Reader(onnx, model, folder)
            found = reader.layers()
            dtype = np.float64 if _is_double(onnx, model, reader.input) else np.float32
            known = {"metadata": _notes(model.metadata_props)}
            return layers.network(
                found, name, dtype=dtype, output=output, decay=decay, loss=loss, known=known
            )
        except ValueError as error:
            text = str(error).removeprefix(f"{name} does not hold a network: ")
            raise _files.MalformedError(text, "an ONNX model that an FNN can be") from None


def _is_double(onnx: ModuleType, model: OnnxModel, name: str) -> bool:
    """Whether the input of a model is float64."""
    kinds = [value.type.tensor_type.elem_type for value in model.graph.input if value.name == name]
    return kinds == [onnx.TensorProto.DOUBLE]
