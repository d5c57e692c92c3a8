import io

import numpy as np
import pytest

from nbnorm import FNN
from nbnorm.functions.activations import CODES
from nbnorm.interop import from_onnx, to_onnx

onnx = pytest.importorskip("onnx")
helper, FLOAT = onnx.helper, onnx.TensorProto.FLOAT
numpy_helper = onnx.numpy_helper


def written(nodes, constants, n_in=3, outputs=("y",), change=lambda model: None):
    """Return the bytes of a model; nodes are tuples (operator, inputs, output, attributes)."""
    made = [
        helper.make_node(op, list(given), [out], **(rest[0] if rest else {}))
        for op, given, out, *rest in nodes
    ]
    graph = helper.make_graph(
        made,
        "network",
        [helper.make_tensor_value_info("X", FLOAT, ["n", n_in])],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(values), name) for name, values in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    change(model)
    return model.SerializeToString()


def read(*args, output=None, **options):
    return from_onnx(io.BytesIO(written(*args, **options)), output=output)


rng = np.random.default_rng(0)
X = rng.normal(size=(5, 3)).astype(np.float32)
W, V = rng.normal(size=(3, 4)).astype(np.float32), rng.normal(size=(4, 2)).astype(np.float32)
b, c = rng.normal(size=4).astype(np.float32), rng.normal(size=2).astype(np.float32)
NORM = {"g": b, "h": b + 1, "m": b * 2, "v": b**2 + 0.1}
LAYERS = {"W": W, "b": b, "V": V, "c": c}


def relu(x):
    return np.maximum(x, 0)


def normed(x, eps=1e-5):
    return (x - NORM["m"]) / np.sqrt(NORM["v"] + eps) * NORM["g"] + NORM["h"]


@pytest.mark.parametrize("norm", ["after", "before", "layer", "rms_after", None])
@pytest.mark.parametrize("activation", CODES)
def test_from_onnx_reads_what_to_onnx_writes(table, trained, activation, norm):
    net = trained(activation=activation, norm=norm, decay=0.75, dtype=np.float64)
    expected = net.predict_proba(table[0])
    for fold in (True, False):
        for dtype in (np.float32, np.float64):
            file = io.BytesIO()
            to_onnx(net, file, fold=fold, dtype=dtype)
            file.seek(0)
            got = from_onnx(file)
            assert np.abs(got.predict_proba(table[0]) - expected).max() < 2e-4 * expected.max()
            assert (got.output, got.dtype, got.training) == ("softmax", dtype, False)
            if norm in ("layer", "rms_after") or (not fold and norm is not None):
                assert got.norm == norm or activation == "identity"
            if norm in ("after", "before") and not fold:
                assert got.decay == 0.75


def test_from_onnx_of_scikit_learn_models():
    # what skl2onnx writes for a scaler and a classifier of two classes, labels left out
    v, d = V[:, :1], c[:1]
    nodes = [
        ("Scaler", ["X"], "s", {"domain": "ai.onnx.ml", "offset": [1.0, 2.0, 3.0], "scale": [0.5, 2.0, 1.0]}),
        ("Cast", ["s"], "x", {"to": FLOAT}),
        ("MatMul", ["x", "W"], "p"),
        ("Add", ["p", "b"], "z"),
        ("Relu", ["z"], "f"),
        ("MatMul", ["f", "v"], "q"),
        ("Add", ["q", "d"], "l"),
        ("Sigmoid", ["l"], "one"),
        ("Sub", ["unit", "one"], "zero"),
        ("Concat", ["zero", "one"], "y", {"axis": 1}),
    ]
    constants = {"W": W, "b": b, "v": v, "d": d, "unit": np.ones(1, np.float32)}
    net = read(nodes, constants)
    logit = relu((X - [1, 2, 3]) * [0.5, 2, 1] @ W + b) @ v + d
    assert net.output == "sigmoid"
    assert net.standardizer is not None
    np.testing.assert_allclose(net.predict_proba(X).reshape(-1, 1), 1 / (1 + np.exp(-logit)), atol=1e-5)
    nodes[-1] = ("Concat", ["one", "zero"], "y", {"axis": 1})
    with pytest.raises(ValueError, match="Concat, is no function of one number"):
        read(nodes, constants)


def test_from_onnx_averages_that_never_move():
    nodes = [
        ("MatMul", ["X", "W"], "p"),
        ("BatchNormalization", ["p", "g", "h", "m", "v"], "n", {"momentum": 1.0}),
        ("Relu", ["n"], "f"),
        ("MatMul", ["f", "V"], "y"),
    ]
    with pytest.raises(ValueError, match="averages that move by 0 of the new value: give decay="):
        read(nodes, LAYERS | NORM)
    net = from_onnx(io.BytesIO(written(nodes, LAYERS | NORM)), decay=0.5)
    np.testing.assert_allclose(net.forward(X), relu(normed(X @ W)) @ V, atol=1e-4)


def test_from_onnx_targets_and_metadata(table, trained):
    net = trained((6, 5, 1), y=table[0][:, 3] * 2.0 + 1e6, output="identity", standardize_targets=True)
    net.metadata = {"unit": "m"}
    file = io.BytesIO()
    to_onnx(net, file)
    file.seek(0)
    got = from_onnx(file)
    np.testing.assert_allclose(got.predict(table[0]), net.predict(table[0]), rtol=0, atol=1e-4)
    assert got.metadata == {"unit": "m"}


GEMM = ("Gemm", ("X", "W", "b"), "z")
LAST = ("Gemm", ("f", "V", "c"), "y")
BATCH_NORM = ("BatchNormalization", ("z", "g", "h", "m", "v"), "n", {"epsilon": 1e-5})
GRAPHS = {
    "matmul and add": (
        [("MatMul", ("X", "W"), "p"), ("Add", ("b", "p"), "z"), ("Relu", ("z",), "f"), LAST],
        relu(X @ W + b) @ V + c,
    ),
    "gemm with factors": (
        [("Gemm", ("X", "W", "b"), "z", {"alpha": 0.5, "beta": 2.0}), ("Relu", ("z",), "f"), LAST],
        relu(0.5 * X @ W + 2 * b) @ V + c,
    ),
    "norm before": ([GEMM, BATCH_NORM, ("Relu", ("n",), "f"), LAST], relu(normed(X @ W + b)) @ V + c),
    "norm on both sides": (
        [GEMM, BATCH_NORM, ("Relu", ("n",), "r"), ("BatchNormalization", ("r", *NORM), "f"), LAST],
        normed(relu(normed(X @ W + b))) @ V + c,
    ),
    "norm of the input and of the output": (
        [("Mul", ("X", "t"), "s"), ("Sub", ("s", "u"), "x"), ("Gemm", ("x", "W", "b"), "z"), BATCH_NORM,
         ("Identity", ("n",), "y")],
        normed((X * [2, -1, 3] - [1, 2, 3]) @ W + b),
    ),
    "standardized": (
        [("Sub", ("X", "u"), "s"), ("Div", ("s", "t2"), "x"), ("Gemm", ("x", "W", "b"), "y")],
        ((X - [1, 2, 3]) / [2, 1, 3]) @ W + b,
    ),
    "no activation": ([GEMM, ("Gemm", ("z", "V", "c"), "y")], (X @ W + b) @ V + c),
    "silu of two nodes": (
        [GEMM, ("Sigmoid", ("z",), "s"), ("Mul", ("s", "z"), "f"), LAST],
        ((X @ W + b) / (1 + np.exp(-(X @ W + b)))) @ V + c,
    ),
    "leaky relu of five nodes": (
        [GEMM, ("Max", ("z", "zero"), "p"), ("Min", ("z", "zero"), "q"), ("Mul", ("q", "cent"), "r"),
         ("Add", ("p", "r"), "f"), LAST],
        np.where(X @ W + b > 0, X @ W + b, 0.01 * (X @ W + b)) @ V + c,
    ),
    "shift and scale amid": (
        [GEMM, ("Relu", ("z",), "r"), ("Sub", ("b", "r"), "s"), ("Mul", ("s", "b"), "f"), LAST],
        ((b - relu(X @ W + b)) * b) @ V + c,
    ),
    "transposed constant": (
        [("Transpose", ("WT",), "W2"), ("MatMul", ("X", "W2"), "y")], X @ W,
    ),
    "flattened": ([("Reshape", ("X", "shape"), "x"), ("MatMul", ("x", "W"), "y")], X @ W),
}  # fmt: skip
MORE = {
    "t": np.array([2, -1, 3], np.float32), "t2": np.array([2, 1, 3], np.float32),
    "u": np.array([[1, 2, 3]], np.float32), "zero": np.float32(0), "cent": np.float32(0.01),
    "WT": W.T.copy(), "shape": np.array([0, -1]),
}  # fmt: skip


@pytest.mark.parametrize("case", GRAPHS)
def test_from_onnx_graphs_of_others(case):
    nodes, expected = GRAPHS[case]
    got = read(nodes, {**LAYERS, **NORM, **MORE})
    assert got.output == "identity"
    np.testing.assert_allclose(got.predict(X), expected, rtol=2e-5, atol=2e-5)


def test_from_onnx_batch_norm_stays_where_it_is():
    got = read(GRAPHS["norm before"][0], {**LAYERS, **NORM})
    assert got.norm == "before"
    np.testing.assert_allclose(got.buffers()["norm1.running_mean"], NORM["m"] - b, rtol=1e-6)
    assert read(GRAPHS["norm on both sides"][0], {**LAYERS, **NORM}).norm is None


def test_from_onnx_eps_of_each_layer():
    other = ("BatchNormalization", ("z2", "g", "h", "m", "v"), "n2", {"epsilon": 0.5})
    nodes = [GEMM, BATCH_NORM, ("Relu", ("n",), "f"), ("Gemm", ("f", "Q"), "z2"), other,
             ("Tanh", ("n2",), "f2"), ("Gemm", ("f2", "V", "c"), "y")]  # fmt: skip
    Q = rng.normal(size=(4, 4)).astype(np.float32)
    got = read(nodes, {**LAYERS, **NORM, "Q": Q})
    assert got.norm == "before"
    expected = np.tanh(normed(relu(normed(X @ W + b)) @ Q, 0.5)) @ V + c
    np.testing.assert_allclose(got.predict(X), expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("last", "kind"), [("Softmax", "softmax"), ("LogSoftmax", "softmax"), ("Sigmoid", "sigmoid")]
)
def test_from_onnx_outputs(last, kind):
    got = read([GEMM, (last, ("z",), "y")], LAYERS)
    assert got.output == kind
    logits = read([("Gemm", ("X", "W", "b"), "y")], LAYERS, output="softmax")
    np.testing.assert_allclose(got.forward(X), logits.forward(X), rtol=1e-6)
    assert logits.predict(X).tolist() == (X @ W + b).argmax(axis=1).tolist()


REFUSED = {
    "an activation of another slope": (
        [GEMM, ("LeakyRelu", ("z",), "f", {"alpha": 0.2}), LAST], r"node 'f' \(LeakyRelu\) is none of th"
    ),
    "another function": ([GEMM, ("Mul", ("z", "z"), "f"), LAST], r"node 'f' \(Mul\) is none of the"),
    "a convolution": ([("Conv", ("X", "W"), "y")], "node 'y' is a Conv"),
    "an activation of the output": ([GEMM, ("Relu", ("z",), "y")], "node 'z' is the output layer"),
    "two activations": ([GEMM, ("Relu", ("z",), "r"), ("Tanh", ("r",), "f"), LAST], r"node 'f' \(tanh\) fol"),
    "no layer": ([("Relu", ("X",), "y")], r"node 'y' \(relu\) stands in front of the first affine layer"),
    "two ways": ([GEMM, ("Gemm", ("X", "W"), "q"), ("Add", ("z", "q"), "y")], "no function of one number"),
    "widths": ([GEMM, ("Gemm", ("z", "W"), "y")], "node 'y' reads 3 features, but node 'z' gives 4"),
    "a bias of another width": ([("Gemm", ("X", "W", "c"), "y")], r"node 'y' has a bias of shape \(2,\)"),
    "a shift of another width": ([GEMM, ("Add", ("z", "c"), "y")], "node 'y' has 2 numbers for 4 features"),
    "training": ([GEMM, (*BATCH_NORM[:2], "y", {"training_mode": 1})], "training mode: export the mod"),
    "samples transposed": ([("Gemm", ("X", "W"), "y", {"transA": 1})], "node 'y' transposes the samples"),
    "samples flattened": ([("Flatten", ("X",), "f", {"axis": 0}), ("Relu", ("f",), "y")], "keep the samples"),
    "softmax over samples": ([GEMM, ("Softmax", ("z",), "y", {"axis": 0})], "softmax over the samples"),
    "no numbers": ([("Gemm", ("X", "bad"), "y")], "node 'y' has numbers in its weight that are not finite"),
    "nothing": ([("Gemm", ("none", "W"), "y")], "'none' is computed by nothing that can be read"),
    "code of others": ([("Gemm", ("X", "W"), "y", {"domain": "ai.other"})], "'y' is computed by nothing"),
    "constants made large": (
        [("Expand", ("zero", "large"), "e"), ("MatMul", ("X", "e"), "y")], "'e' computes with constants only"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_from_onnx_names_file_and_node(tmp_path, case):
    nodes, message = REFUSED[case]
    bad = {"bad": np.full((3, 2), np.nan, np.float32), "large": np.array([1 << 20, 1 << 20])}
    path = tmp_path / "net.onnx"
    path.write_bytes(written(nodes, {**LAYERS, **NORM, **MORE, **bad}))
    with pytest.raises(ValueError, match=rf"net\.onnx is not an ONNX model that an FNN can be: .*{message}"):
        from_onnx(path)


def absurd(model):
    model.graph.initializer[0].dims[:] = [1 << 40, 1 << 20]


def negative(model):
    model.graph.initializer[0].dims[:] = [-3, 4]


def elsewhere(location, offset=0):
    def change(model):
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        tensor.external_data.add(key="offset", value=str(offset))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (absurd, "tensor 'W' has 48 bytes, expected 4611686018427387904"),
        (negative, r"tensor 'W' has shape \(-3, 4\)"),
        (elsewhere("../secret"), r"'\.\./secret', which is not beside the model"),
        (elsewhere("/etc/hostname"), "'/etc/hostname', which is not beside the model"),
        (elsewhere("net.onnx", 999), "tensor 'W' needs 48 bytes from 999 on in 'net.onnx', which has"),
        (elsewhere("missing.data"), "tensor 'W' is kept in 'missing.data': No such file"),
    ],
)
def test_from_onnx_checks_sizes_and_places(tmp_path, change, message):
    path = tmp_path / "net.onnx"
    path.write_bytes(written([("Gemm", ("X", "W", "b"), "y")], {"W": W, "b": b}, change=change))
    with pytest.raises(ValueError, match=message):
        from_onnx(path)


def test_from_onnx_weights_in_a_file_beside(tmp_path):
    change = elsewhere("net.data")
    (tmp_path / "net.onnx").write_bytes(written([("MatMul", ("X", "W"), "y")], {"W": W}, change=change))
    (tmp_path / "net.data").write_bytes(W.tobytes())
    np.testing.assert_allclose(from_onnx(tmp_path / "net.onnx").predict(X), X @ W, rtol=1e-5)


def test_from_onnx_damaged_files_are_value_errors(tmp_path, damaged):
    path = tmp_path / "net.onnx"
    data = written(GRAPHS["leaky relu of five nodes"][0], {**LAYERS, **MORE})
    messages = []
    for version in damaged(data):
        path.write_bytes(version)
        try:
            assert isinstance(from_onnx(path), FNN)
        except ValueError as error:
            messages.append(str(error))
    assert len(messages) > 8
    assert all("net.onnx" in message for message in messages)
