"""Compare `nbnorm.matmul.multiply` with NumPy's product and with the machine's multiply-adds.

    python -m benchmarks.peers.products [--out DIRECTORY] [--threads 1 2] [--dtypes float32] [--quick]

writes products.json and products.md, adding to what the folder holds.  NUMBA_CPU_NAME and
NUMBA_CPU_FEATURES hold nbnorm to another processor's instructions; ``--openblas Haswell`` holds OpenBLAS to
the kernels of that processor.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from . import machine
from .process import Remote

# m, k, n: cubes, then products of layers.
SHAPES = (
    *((size, size, size) for size in (64, 128, 256, 512, 1024, 2048)),
    (128, 784, 512),
    (256, 1024, 1024),
    (60, 784, 100),
    (32, 64, 64),
)
DTYPES = ("float32", "float64")
# Which operands are transposed: none, the right one, the left one.
LAYOUTS = ("nn", "nt", "tn")

Entry = dict[str, Any]


class Product:
    """One library; both get the same numbers."""

    def __init__(self, *, threads: int, library: str) -> None:
        if library == "nbnorm":
            import nbnorm
            from nbnorm.matmul import multiply

            nbnorm.set_num_threads(threads)
            self.call = multiply
        else:
            self.call = np.dot

    def prepare(self, shape: tuple[int, int, int], dtype: str, layout: str) -> list[float]:
        """Make the operands, multiply once, and return the result's projection."""
        m, k, n = shape
        rng = np.random.default_rng(0)
        a, b = (rng.standard_normal(s, dtype=np.dtype(dtype).type) for s in ((m, k), (k, n)))
        self.a = np.ascontiguousarray(a.T).T if layout[0] == "t" else a
        self.b = np.ascontiguousarray(b.T).T if layout[1] == "t" else b
        self.out = np.empty((m, n), dtype)
        self.call(self.a, self.b, self.out)
        return (rng.standard_normal(m) @ self.out).tolist()

    def seconds(self, least: float) -> float:
        """Return the median time of a call, from calls of `least` seconds together."""
        found: list[float] = []
        while sum(found) < least or len(found) < 3:
            start = time.perf_counter()
            self.call(self.a, self.b, self.out)
            found.append(time.perf_counter() - start)
        return statistics.median(found)


def measure(
    threads: int, dtypes: list[str], rounds: int, least: float, core: str | None = None
) -> list[Entry]:
    """Compare the results, then time both libraries by turns, the multiply-adds between them."""
    entries = []
    with contextlib.ExitStack() as stack:
        remotes = {
            name: stack.enter_context(
                Remote("benchmarks.peers.products", "Product", threads, core=core, library=name)
            )
            for name in ("nbnorm", "numpy")
        }
        meter = stack.enter_context(Remote("benchmarks.peers.machine", "Meter", threads))
        for dtype in dtypes:
            for shape in SHAPES:
                limit = meter.call("measure", memory=False)["gflops"]
                for layout in LAYOUTS:
                    given = {"shape": shape, "dtype": dtype, "layout": layout}
                    got, expected = (np.array(each.call("prepare", **given)) for each in remotes.values())
                    error = float(np.abs(got - expected).max() / np.abs(expected).max())
                    if not error <= 1e-4:
                        raise RuntimeError(f"nbnorm differs from NumPy by {error:.2g} at {given}")
                    turns: dict[str, list[float]] = {name: [] for name in remotes}
                    for turn in range(rounds):
                        for name in list(remotes)[:: 1 if turn % 2 else -1]:
                            turns[name].append(remotes[name].call("seconds", least=least))
                    ratios = [b / a for a, b in zip(turns["nbnorm"], turns["numpy"], strict=True)]
                    rate = 2e-9 * float(np.prod(shape))
                    seconds = {name: statistics.median(values) for name, values in turns.items()}
                    entries.append(
                        {
                            **given,
                            "threads": threads,
                            "seconds": seconds,
                            "numpy_over_nbnorm": statistics.median(ratios),
                            "gflops": rate / seconds["nbnorm"],
                            "limit": limit if dtype == "float32" else limit / 2,
                        }
                    )
    return entries


def table(entries: list[Entry]) -> str:
    """Return a row for each shape: time, share of the multiply-adds, NumPy's time divided by nbnorm's."""
    names = {"nn": "A B", "nt": "A B^T", "tn": "A^T B"}
    lines = [
        "| m x k x n | dtype | threads | nbnorm, A B | of the multiply-adds | "
        + " | ".join(f"NumPy / nbnorm, {name}" for name in names.values())
        + " |",
        "|" + " --- |" * 8,
    ]
    groups: dict[Any, dict[str, Entry]] = {}
    limits: dict[Any, list[float]] = {}  # a single one is disturbed too often
    for entry in entries:
        key = entry["threads"], entry["dtype"], tuple(entry["shape"])
        groups.setdefault(key, {})[entry["layout"]] = entry
        limits.setdefault(key[:2], []).append(entry["limit"])
    for (threads, dtype, shape), group in groups.items():
        plain = group["nn"]
        ratios = " | ".join(f"{group[layout]['numpy_over_nbnorm']:.2f}" for layout in names)
        size, spent = " x ".join(map(str, shape)), 1e6 * plain["seconds"]["nbnorm"]
        share = 100 * plain["gflops"] / statistics.median(limits[threads, dtype])
        lines.append(f"| {size} | {dtype} | {threads} | {spent:.1f} us | {share:.0f} % | {ratios} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers.products", description=__doc__.splitlines()[0]
    )
    cores = int(machine.describe()["cores"])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--threads", nargs="+", type=int, default=[n for n in (1, 2) if n <= cores])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--openblas", metavar="CORE", help="OpenBLAS's own name of a processor")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter turns")
    options = parser.parse_args()
    rounds, least = (2, 0.02) if options.quick else (5, 0.1)
    suffix = f"-{options.openblas.lower()}" if options.openblas else ""
    path = options.out / f"products{suffix}.json"
    found = json.loads(path.read_text())["results"] if path.exists() else []
    for threads in options.threads:
        found = [e for e in found if e["threads"] != threads or e["dtype"] not in options.dtypes]
        found += measure(threads, options.dtypes, rounds, least, options.openblas)
    entries = sorted(found, key=lambda e: (e["threads"], e["dtype"], SHAPES.index(tuple(e["shape"]))))
    report = {
        "machine": machine.describe(),
        "numpy": np.__version__,
        "numba_cpu": os.environ.get("NUMBA_CPU_NAME", ""),
        "openblas_core": options.openblas or "",
        "results": entries,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
    text = table(entries)
    (options.out / f"products{suffix}.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
