"""An ONNX graph that is being written: its inputs, nodes, constants and outputs."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nbnorm import _files
from nbnorm.interop.extras import needed

Array = npt.NDArray[Any]

# Read by ONNX Runtime from 1.11 on; every operator used is older than that, but for LayerNormalization, with
# which a model needs the next one, and ONNX Runtime 1.12.
OPSET = 16
LAYER_NORM_OPSET = 17
_IR_VERSION = 8

# The operators for categories are a set of their own.
_CATEGORIES = "ai.onnx.ml"
_CATEGORIES_OPSET = 2

# Values that a model of a table gives, so that no column is called like one of them.
_OUTPUTS = ("label", "probabilities", "prediction", "standardized", "classes")


class Graph:
    """Nodes and constants of an ONNX graph that is being written.

    Parameters
    ----------
    dtype : dtype
        float32 or float64, in which the model computes.

    Attributes
    ----------
    table : str
        The matrix of the columns, from which the networks read.
    table_dtype : dtype
        In which columns are encoded and standardized.
    opset : int
        Version of the operators that the model needs.
    """

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.onnx = needed("onnx", "onnx")
        self.dtype = dtype
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self.shared: dict[tuple[int, ...], str] = {}
        self.opset = OPSET
        self.table = ""
        self.table_dtype = dtype
        self._names = set(_OUTPUTS)

    def _free(self, name: str, change: str = "{}_") -> str:
        """Return a name that nothing in the graph has yet, changed as often as that needs."""
        while name in self._names:
            name = change.format(name)
        self._names.add(name)
        return name

    def type_of(self, dtype: npt.DTypeLike) -> int:
        """Return ONNX's number of a dtype."""
        return int(self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def input(self, name: str, kind: int, width: int) -> str:
        """Add an input of shape (n_samples, width); return its name, which no other value has."""
        name = self._free(name)
        self.inputs.append(self.onnx.helper.make_tensor_value_info(name, kind, ["n_samples", width]))
        return name

    def matrix(self, n_in: int) -> str:
        """Make all columns one input, of the type in which the model computes."""
        self.table = self.input("X", self.type_of(self.dtype), n_in)
        return self.table

    @contextlib.contextmanager
    def computing_in(self, dtype: np.dtype[Any]) -> Iterator[None]:
        """Let constants have another type."""
        usual, self.dtype = self.dtype, dtype
        try:
            yield
        finally:
            self.dtype = usual

    def constant(self, values: npt.ArrayLike, dtype: npt.DTypeLike | None = None) -> str:
        """Add a constant, of the graph's dtype unless another is given."""
        name = self._free(f"constant{len(self.constants)}")
        with np.errstate(over="ignore"):
            array = np.asarray(values, self.dtype if dtype is None else dtype)
        self.constants.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def texts(self, name: str, values: Sequence[str]) -> str:
        """Add a constant of text."""
        encoded = [value.encode() for value in values]
        kind = self.onnx.TensorProto.STRING
        self.constants.append(self.onnx.helper.make_tensor(name, kind, [len(encoded)], encoded))
        return name

    def named(self, name: str, values: Array) -> str:
        """Add a parameter of the network under its own name."""
        name = self._free(name, "also.{}")
        with np.errstate(over="ignore"):
            array = np.array(values, self.dtype, order="C")
        self.constants.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node of one output; return the name of that."""
        name = self._free(f"{operator.lower()}{len(self.nodes)}")
        self.nodes.append(self.onnx.helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name

    def cast(self, x: str, dtype: npt.DTypeLike) -> str:
        """Change the type of a value."""
        return self.node("Cast", x, to=self.type_of(dtype))

    def sorted(self, x: str, count: int) -> str:
        """Put the `count` numbers of the last axis in growing order."""
        values, positions = (self._free(f"{part}{len(self.nodes)}") for part in ("sorted", "positions"))
        node = self.onnx.helper.make_node(
            "TopK", [x, self.constant([count], np.int64)], [values, positions], name=values, largest=0
        )
        self.nodes.append(node)
        return values

    def numbers_of(self, x: str, texts: dict[str, float], other: float) -> str:
        """Replace texts by numbers."""
        found = self.node(
            "LabelEncoder",
            x,
            domain=_CATEGORIES,
            keys_strings=list(texts),
            values_floats=list(texts.values()),
            default_float=other,
        )
        return self.cast(found, self.dtype)

    def output(self, x: str, name: str, kind: int, shape: list[Any]) -> None:
        """Make a value an output of the model."""
        self.nodes.append(self.onnx.helper.make_node("Identity", [x], [name], name=f"as {name}"))
        self.outputs.append(self.onnx.helper.make_tensor_value_info(name, kind, shape))

    def write(self, path: _files.Target, notes: dict[str, Any]) -> None:
        """Write the model to a file."""
        from nbnorm import __version__

        helper = self.onnx.helper
        graph = helper.make_graph(self.nodes, "nbnorm", self.inputs, self.outputs, self.constants)
        opsets = [helper.make_opsetid("", self.opset)]
        if any(node.domain == _CATEGORIES for node in self.nodes):
            opsets.append(helper.make_opsetid(_CATEGORIES, _CATEGORIES_OPSET))
        model = helper.make_model(
            graph,
            opset_imports=opsets,
            ir_version=_IR_VERSION,
            producer_name="nbnorm",
            producer_version=__version__,
        )
        texts = {name: json.dumps(value, allow_nan=False) for name, value in notes.items() if value}
        helper.set_model_props(model, texts)
        self.onnx.checker.check_model(model)
        with _files.replace(path) as file:
            file.write(model.SerializeToString(deterministic=True))
