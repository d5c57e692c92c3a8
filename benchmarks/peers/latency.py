"""Time prediction of one row and of many beside PyTorch, ONNX Runtime and scikit-learn, one thread each.

    python -m benchmarks.peers.latency [--out FILE] [--rows N] [--turns N] [--without NAME ...]

prints a table in Markdown, and writes it to a file.  All predict in one process and take turns in rotating
order; the times are medians over the turns.  PyTorch and ONNX Runtime have the very network of nbnorm; their
probabilities are compared with its own before the clock runs.  The estimators of scikit-learn are trained on
the same rows; their trees are measured in ONNX Runtime as well, as tree compilers would run them.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import sklearn
import threadpoolctl
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.neural_network import MLPClassifier

import nbnorm
from nbnorm import FNN, interop
from nbnorm.estimators import FNNClassifier

from . import machine
from .trees import compiled_trees

SIZES = (64, 64, 64, 10)
Predict = Callable[[np.ndarray], np.ndarray]


def contestants(x: np.ndarray, y: np.ndarray) -> dict[str, Predict]:
    """Return functions that predict probabilities of rows."""
    net = FNN(SIZES, seed=0)
    net.fit(x, y, epochs=2)
    import onnxruntime
    import torch

    module = interop.to_torch(net).eval()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        interop.to_onnx(net, path)
        session = onnxruntime.InferenceSession(path.read_bytes(), options)
    name = session.get_inputs()[0].name
    outputs = session.get_outputs()[-1].name

    def of_torch(x: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return torch.softmax(module(torch.from_numpy(x)), 1).numpy()

    found: dict[str, Predict] = {
        "nbnorm compiled()": net.compiled(),
        "nbnorm predict_proba": net.predict_proba,
        "torch eager": of_torch,
        "ONNX Runtime": lambda x: session.run([outputs], {name: x})[0],
    }
    expected = net.predict_proba(x)
    for predict in found.values():
        np.testing.assert_allclose(predict(x), expected, atol=1e-4)
    found["nbnorm forward"] = net.forward  # logits
    mlp = MLPClassifier(SIZES[1:-1], max_iter=2, early_stopping=True, random_state=0).fit(x, y)
    trees = HistGradientBoostingClassifier(random_state=0).fit(x, y)
    by_onnx = compiled_trees(trees, SIZES[0])
    np.testing.assert_allclose(by_onnx(x), trees.predict_proba(x), atol=1e-4)
    return found | {
        "nbnorm FNNClassifier, 5 networks": FNNClassifier(max_iter=2, random_state=0).fit(x, y).predict_proba,
        "scikit-learn MLPClassifier": mlp.predict_proba,
        "HistGradientBoosting": trees.predict_proba,
        "the same trees, ONNX Runtime": by_onnx,
    }


def seconds(found: dict[str, Predict], x: np.ndarray, calls: int, turns: int) -> dict[str, float]:
    """Return the median time of a call for each contestant."""
    taken: dict[str, list[float]] = {name: [] for name in found}
    names = list(found)
    for turn in range(turns + 1):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            predict = found[name]
            start = time.perf_counter()
            for _ in range(calls):
                predict(x)
            taken[name].append((time.perf_counter() - start) / calls)
    return {name: statistics.median(times[1:]) for name, times in taken.items()}


def table(one: dict[str, float], many: dict[str, float], rows: int) -> str:
    """Return the times, and those of the others divided by nbnorm's."""
    ours = "nbnorm compiled()"
    lines = [f"| | one row | / nbnorm | {rows:,} rows | / nbnorm |", "| --- | --- | --- | --- | --- |"]
    for name in one:
        cells = [f"{1e6 * one[name]:.1f} us", f"{one[name] / one[ours]:.2f}"]
        cells += [f"{1e3 * many[name]:.1f} ms", f"{many[name] / many[ours]:.2f}"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers.latency", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "latency.md")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--without", nargs="+", default=[], metavar="NAME", help="rows to leave out")
    args = parser.parse_args()
    nbnorm.set_num_threads(1)
    import onnxruntime
    import torch

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((args.rows, SIZES[0]), np.float32)
    y = np.argmax(x[:, : SIZES[-1]] + x[:, 10 : 10 + SIZES[-1]] ** 2, axis=1)
    few = min(args.rows, 3000)
    with threadpoolctl.threadpool_limits(1):
        found = contestants(x[:few], y[:few])
        found = {name: predict for name, predict in found.items() if name not in args.without}
        one = seconds(found, x[:1], 50, args.turns)
        many = seconds(found, x, 1, args.turns)
    about = machine.describe()
    text = f"Layers {'-'.join(map(str, SIZES))}, float32, one thread:\n\n" + table(one, many, args.rows)
    text += f"\nMachine: {about['processor']} ({about['microarchitecture']}), Python {about['python']}, "
    text += f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}, "
    text += f"scikit-learn {sklearn.__version__}.\n"
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
