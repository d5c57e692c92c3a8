"""Gradient-boosted trees of scikit-learn as an ONNX graph: what compiled trees take for a row."""

from collections.abc import Callable

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier


def compiled_trees(
    model: HistGradientBoostingClassifier, features: int
) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that predicts the probabilities of rows, float32, with ONNX Runtime on one thread."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    names = ("treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids")
    nodes: dict[str, list[float]] = {name: [] for name in (*names, "missing_value_tracks_true")}
    leaves: dict[str, list[float]] = {name: [] for name in ("treeids", "nodeids", "ids", "weights")}
    trees = ((target, tree.nodes) for group in model._predictors for target, tree in enumerate(group))
    for number, (target, tree) in enumerate(trees):
        for index, node in enumerate(tree):
            end = bool(node["is_leaf"])
            # the largest float32 below the threshold parts float32 rows as the threshold does
            threshold = np.float32(0.0 if end else node["num_threshold"])
            if not end and float(threshold) > node["num_threshold"]:
                threshold = np.nextafter(threshold, np.float32(-np.inf))
            row = (
                number, index, int(node["feature_idx"]), "LEAF" if end else "BRANCH_LEQ", float(threshold),
                int(node["left"]), int(node["right"]), int(node["missing_go_to_left"]),
            )  # fmt: skip
            for values, value in zip(nodes.values(), row, strict=True):
                values.append(value)
            if end:
                for values, value in zip(
                    leaves.values(), (number, index, target, float(node["value"])), strict=True
                ):
                    values.append(value)
    outputs = len(model._predictors[0])
    graph = helper.make_graph(
        [
            helper.make_node(
                "TreeEnsembleRegressor",
                ["x"],
                ["z"],
                domain="ai.onnx.ml",
                n_targets=outputs,
                base_values=np.ravel(model._baseline_prediction).astype(float).tolist(),
                **{f"nodes_{name}": values for name, values in nodes.items()},
                **{f"target_{name}": values for name, values in leaves.items()},
            ),
            helper.make_node("Softmax", ["z"], ["p"], axis=1),
        ],
        "trees",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, features])],
        [helper.make_tensor_value_info("p", TensorProto.FLOAT, [None, outputs])],
    )
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid("ai.onnx.ml", 1)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.checker.check_model(proto)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    return lambda x: session.run(None, {"x": x})[0]
