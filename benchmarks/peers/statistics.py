"""Compare fitting and transforming with other libraries and with what the memory can deliver.

    python -m benchmarks.peers.statistics [--out DIRECTORY] [--rounds N] [--bytes N]

writes statistics.json, statistics.md and statistics.svg.  Bandwidth is measured between the timings of every
round, because on shared machines it drifts: a library's share of it compares timings that are neighbours.
Peers that are not installed are left out.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numba
import numpy as np

import nbnorm

from . import machine
from .charts import pyplot

FEATURES = (10, 100, 784)
DTYPES = ("float32", "float64")


class Memory:
    """Reads and copies the very arrays with plain vector code on every thread, each on its part."""

    def __init__(self, x: np.ndarray, out: np.ndarray, threads: int) -> None:
        self.threads = threads
        widths, self.functions, self.engine = machine._compiled()
        self.lanes = max(widths)
        step = 4 * self.lanes * machine.TURN
        self.share = x.nbytes // (threads * step) * step
        self.source, self.target = x, out

    def rate(self, name: str) -> float:
        """Return GB/s of one go: "read", "copy", or "stream", which copies past the caches."""
        work = [
            (
                self.source.ctypes.data + k * self.share,
                self.target.ctypes.data + k * self.share * (name != "read"),
                self.share // (4 * self.lanes),
            )
            for k in range(self.threads)
        ]
        seconds = machine._seconds(self.functions[f"{name}{self.lanes}"], work, 1)[0]
        return self.threads * self.share * (1 if name == "read" else 2) / seconds / 1e9


def median(values: Iterable[float]) -> float:
    return float(np.median(list(values)))


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def peers(x: np.ndarray) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """Return for each library how it fits and how it gives (mean, var) afterwards."""
    found: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "numpy": (lambda: (x.mean(axis=0), x.var(axis=0)), lambda: (x.mean(axis=0), x.var(axis=0)))
    }
    try:
        from sklearn.preprocessing import StandardScaler

        scaler = StandardScaler()
        found["scikit-learn"] = (lambda: scaler.fit(x), lambda: (scaler.mean_, scaler.var_))
    except ImportError:
        pass
    try:
        import torch

        tensor = torch.from_numpy(x)

        def var_mean() -> Any:
            var, mean = torch.var_mean(tensor, dim=0, correction=0)
            return mean.numpy(), var.numpy()

        found["torch"] = (var_mean, var_mean)
    except ImportError:
        pass
    try:
        import polars

        frame = polars.from_numpy(x)

        def aggregate() -> Any:
            return frame.mean().to_numpy()[0], frame.var(ddof=0).to_numpy()[0]

        found["polars"] = (aggregate, aggregate)
    except ImportError:
        pass
    try:
        import pyarrow
        import pyarrow.compute

        columns = [pyarrow.array(np.ascontiguousarray(column)) for column in x.T]

        def compute() -> Any:
            return (
                np.array([pyarrow.compute.mean(column).as_py() for column in columns]),
                np.array([pyarrow.compute.variance(column).as_py() for column in columns]),
            )

        found["pyarrow"] = (compute, compute)
    except ImportError:
        pass
    return found


def measure(features: int, dtype: str, nbytes: int, rounds: int, slow_rounds: int) -> dict[str, Any]:
    samples = nbytes // (features * np.dtype(dtype).itemsize)
    count = samples * features * np.dtype(dtype).itemsize // 4
    x, out = (machine._aligned(count).view(dtype).reshape(samples, features) for _ in range(2))
    np.random.default_rng(0).standard_normal(out=x, dtype=x.dtype.type)
    size = x.nbytes
    threads = nbnorm.get_num_threads()
    memory = Memory(x, out, threads)
    ours = nbnorm.Standardizer().fit(x)
    calls: dict[str, Callable[[], float]] = {
        "read": lambda: memory.rate("read"),
        "fit": lambda: size / seconds(lambda: ours.fit(x)) / 1e9,
        "copy": lambda: max(memory.rate("copy"), memory.rate("stream")),
        "transform": lambda: 2 * size / seconds(lambda: ours.transform(x, out=out)) / 1e9,
    }
    for call in calls.values():
        call()
    speeds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            speeds[name].append(call())
    result: dict[str, Any] = {
        "samples": samples,
        "features": features,
        "dtype": dtype,
        "threads": threads,
        "gigabytes_per_second": {name: median(values) for name, values in speeds.items()},
        "share_of_read": median(a / b for a, b in zip(speeds["fit"], speeds["read"], strict=True)),
        "share_of_copy": median(a / b for a, b in zip(speeds["transform"], speeds["copy"], strict=True)),
        "peers": {},
    }
    for name, (fit, values) in peers(x).items():
        fit()
        mean, var = values()
        np.testing.assert_allclose(mean, ours.mean_, atol=0.01, err_msg=name)
        np.testing.assert_allclose(var, ours.var_, rtol=0.05, err_msg=name)  # some are that far off
        error = float(np.max(np.abs(var / ours.var_ - 1)))
        spent = [seconds(fit) for _ in range(slow_rounds)]
        result["peers"][name] = {"gigabytes_per_second": size / median(spent) / 1e9, "var_error": error}
    return result


def table(results: list[dict[str, Any]]) -> str:
    names = sorted({name for result in results for name in result["peers"]})
    head = ["samples x features, dtype", "read", "fit", "of read", "copy", "transform", "of copy"]
    lines = [" | ".join(["", *head, *(f"{name} fit" for name in names), ""]).strip()]
    lines.append("|" + " --- |" * (len(head) + len(names)))
    for result in results:
        rate = result["gigabytes_per_second"]
        cells = [
            f"{result['samples']:,} x {result['features']}, {result['dtype']}",
            f"{rate['read']:.1f}",
            f"{rate['fit']:.1f}",
            f"{100 * result['share_of_read']:.0f} %",
            f"{rate['copy']:.1f}",
            f"{rate['transform']:.1f}",
            f"{100 * result['share_of_copy']:.0f} %",
        ]
        for name in names:
            peer = result["peers"].get(name)
            if peer is None:
                cells.append("")
                continue
            slower = rate["fit"] / peer["gigabytes_per_second"]
            cells.append(f"{peer['gigabytes_per_second']:.2f} ({slower:.0f}x, {peer['var_error']:.0e})")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def rates(result: dict[str, Any]) -> dict[str, float]:
    return {name: peer["gigabytes_per_second"] for name, peer in result["peers"].items()}


def plot(results: list[dict[str, Any]], path: Path) -> None:
    plt = pyplot()

    names = ["read", "fit", *sorted({name for result in results for name in result["peers"]})]
    figure, axes = plt.subplots(figsize=(9, 4))
    width = 0.8 / len(names)
    for k, name in enumerate(names):
        heights = [{**result["gigabytes_per_second"], **rates(result)}.get(name, 0.0) for result in results]
        label = {"read": "memory read", "fit": "nbnorm"}.get(name, name)
        axes.bar(np.arange(len(results)) + k * width, heights, width, label=label)
    axes.set_xticks(
        np.arange(len(results)) + 0.4 - width / 2,
        [f"{result['features']} features\n{result['dtype']}" for result in results],
    )
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(visible=False, axis="x")
    axes.set_ylabel("GB/s")
    figure.legend(loc="outside lower center", ncols=len(names), fontsize=8)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers.statistics", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--slow-rounds", type=int, default=2)
    parser.add_argument("--bytes", type=int, default=400_000_000)
    args = parser.parse_args()
    results = [
        measure(features, dtype, args.bytes, args.rounds, args.slow_rounds)
        for dtype in DTYPES
        for features in FEATURES
    ]
    report = {
        "machine": machine.describe(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": numba.__version__,
        "nbnorm": "0.1.0",
        "unit": "GB/s: bytes read for fit, bytes read and written for transform",
        "results": results,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "statistics.json").write_text(json.dumps(report, indent=1) + "\n")
    text = table(results)
    (args.out / "statistics.md").write_text(text)
    plot(results, args.out / "statistics.svg")
    print(text)


if __name__ == "__main__":
    main()
