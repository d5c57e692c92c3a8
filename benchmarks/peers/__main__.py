"""Measure, and write ``peers.json``, ``peers.md``, ``training.svg`` and ``mnist.svg``.

Results are added to those that the folder holds, so a long comparison can be made in parts, and a
single row again.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from benchmarks.common import NETWORKS

from . import batch_norm, machine, mnist, report, training

PARTS = tuple(report.PARTS)
LIBRARIES = ("nbnorm", "numba", "numpy", "torch", "jax", "scikit-learn")
RESULTS = Path(__file__).parent / "results"

Entry = dict[str, Any]


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _parser() -> argparse.ArgumentParser:
    cores = int(machine.describe()["cores"])
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    rows = range(1, len(NETWORKS) + 1)
    text = "networks of the training step, counted from 1: " + "; ".join(NETWORKS)
    parser.add_argument("--rows", nargs="+", type=int, choices=rows, default=rows, help=text)
    parser.add_argument("--threads", nargs="+", type=int, default=[n for n in (1, 2) if n <= cores])
    parser.add_argument("--placement", nargs="+", choices=("after", "before"), default=("after",))
    names = tuple(training.CONTESTANTS)
    parser.add_argument("--contestants", nargs="+", choices=names, default=names)
    parser.add_argument("--epochs", type=int, default=8, help="epochs of MNIST")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter turns")
    parser.add_argument("--no-plots", action="store_true", help="only the JSON and the tables")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR")
    return parser


def _sorted(results: Entry) -> Entry:
    """Order the rows as in the list of networks, whatever the order of the measurements."""
    names = list(NETWORKS)

    def place(item: tuple[str, Entry]) -> tuple[Any, ...]:
        entry = item[1]
        which = names.index(report.network(entry)) if "sizes" in entry else tuple(entry.get("shape", ()))
        return -entry["threads"], entry.get("norm", ""), which

    for part in set(PARTS) & set(results):
        results[part] = dict(sorted(results[part].items(), key=place))
    return results


def main(arguments: list[str] | None = None) -> None:
    """Run the parts that the arguments name."""
    parser = _parser()
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "peers.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    here = machine.describe()
    before, now = (which["microarchitecture"] for which in (results.get("machine", here), here))
    if before != now:
        parser.error(f"{path} holds results of {before}, this is {now}: name another folder with --out")
    results["machine"], results["versions"] = here, _versions()
    turns = {"rounds": 3, "least": 0.05} if options.quick else {"rounds": 5, "least": 0.2}
    networks = [list(NETWORKS.values())[row - 1] for row in options.rows]

    def keep(part: str, key: str, entry: Entry) -> None:
        results.setdefault(part, {})[key] = entry
        path.write_text(json.dumps(_sorted(results), indent=1) + "\n")
        print(f"{part}: {key}", json.dumps(entry.get("seconds", "")), file=sys.stderr, flush=True)

    for threads in options.threads:
        for placement in options.placement:
            for sizes, batch in networks:
                key = f"{'-'.join(map(str, sizes))}, {batch}, {placement}, {threads}"
                common = {"threads": threads, "norm": placement, **turns}
                if "training" in options.parts:
                    chosen = tuple(dict.fromkeys(("nbnorm", *options.contestants)))
                    keep("training", key, training.measure(sizes, batch, contestants=chosen, **common))
                if "activations" in options.parts:
                    keep("activations", key, training.activations(sizes, batch, **common))
        if "batch_norm" in options.parts:
            for shape in batch_norm.SHAPES:
                keep("batch_norm", f"{shape}, {threads}", batch_norm.measure(shape, threads=threads, **turns))
        if "mnist" in options.parts:
            chosen = {name: training.CONTESTANTS[name] for name in options.contestants}
            entry = mnist.measure(threads=threads, contestants=chosen, epochs=options.epochs)
            runs = results.get("mnist", {}).get(str(threads), {"runs": {}})["runs"] | entry["runs"]
            entry["runs"] = {name: runs[name] for name in training.CONTESTANTS if name in runs}
            keep("mnist", str(threads), entry)
    results["limits"] = _limits(results)
    path.write_text(json.dumps(_sorted(results), indent=1) + "\n")
    (options.out / "peers.md").write_text(report.markdown(results))
    if not options.no_plots:
        report.plots(results, options.out)


def _limits(results: Entry) -> dict[str, machine.Limits]:
    """Medians of the machine's limits over all comparisons, by threads."""
    found: dict[int, list[machine.Limits]] = {}
    for part in ("training", "batch_norm"):
        for entry in results.get(part, {}).values():
            found.setdefault(entry["threads"], []).append(entry["limits"])
    medians = {}
    for count, limits in sorted(found.items()):
        keys = dict.fromkeys(key for each in limits for key in each)
        medians[str(count)] = {
            key: statistics.median(each[key] for each in limits if key in each) for key in keys
        }
    return medians


if __name__ == "__main__":
    main()
