"""Compare the estimators with scikit-learn's networks on tabular data: cross-validated scores and times.

    python -m benchmarks.peers.estimators [--out DIRECTORY] [--sets NAME ...] [--seeds N] [--threads N]

writes estimators.json, estimators.md and estimators.png.  Each data set is shuffled and cut into five folds
once for each seed, which also seeds the estimators.  On every fold all contestants are fitted one after the
other, beginning with another one each time, so that a drift of the machine's speed meets all of them.
Results are added to those that the folder holds, so the comparison can be made in pieces.
"""

import argparse
import json
import platform
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import sklearn
import threadpoolctl
from sklearn.base import is_classifier
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine, make_friedman1
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import nbnorm
from nbnorm.estimators import FNNClassifier, FNNRegressor

from . import machine

HIDDEN = (100,)
FOLDS = 5
ENOUGH = 5000  # iterations of the peer that is to converge

SETS: dict[str, Callable[[], tuple[np.ndarray, np.ndarray]]] = {
    "digits": lambda: load_digits(return_X_y=True),
    "breast_cancer": lambda: load_breast_cancer(return_X_y=True),
    "wine": lambda: load_wine(return_X_y=True),
    "diabetes": lambda: load_diabetes(return_X_y=True),
    "friedman1": lambda: make_friedman1(n_samples=1000, noise=1.0, random_state=0),
}
CLASSIFICATION = ("digits", "breast_cancer", "wine")
COLOURS = {"nbnorm": "#1b6ca8", "scikit-learn": "#bbbbbb", f"scikit-learn, max_iter={ENOUGH}": "#777777"}


def contestants(name: str, seed: int) -> dict[str, Any]:
    """Return the estimators: all with default parameters, the last one with more iterations."""
    ours, peer = (FNNClassifier, MLPClassifier) if name in CLASSIFICATION else (FNNRegressor, MLPRegressor)
    names = list(COLOURS)
    return {
        names[0]: ours(HIDDEN, random_state=seed),
        names[1]: make_pipeline(StandardScaler(), peer(HIDDEN, random_state=seed)),
        names[2]: make_pipeline(StandardScaler(), peer(HIDDEN, random_state=seed, max_iter=ENOUGH)),
    }


def measure(name: str, seeds: int) -> dict[str, Any]:
    """Fit and score all contestants on all folds of all seeds."""
    x, y = SETS[name]()
    found: dict[str, dict[str, list[float]]] = {
        who: {"score": [], "fit": [], "predict": [], "iterations": [], "converged": []} for who in COLOURS
    }
    turn = 0
    for seed in range(seeds):
        folds = (StratifiedKFold if name in CLASSIFICATION else KFold)(FOLDS, shuffle=True, random_state=seed)
        for train, test in folds.split(x, y):
            models = contestants(name, seed)
            order = list(models)
            for who in order[turn % len(order) :] + order[: turn % len(order)]:
                model, entry = models[who], found[who]
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always", ConvergenceWarning)
                    start = time.perf_counter()
                    model.fit(x[train], y[train])
                    entry["fit"].append(time.perf_counter() - start)
                start = time.perf_counter()
                entry["score"].append(float(model.score(x[test], y[test])))
                entry["predict"].append(time.perf_counter() - start)
                last = model[-1] if hasattr(model, "steps") else model
                entry["iterations"].append(int(last.n_iter_))
                unfinished = any(issubclass(each.category, ConvergenceWarning) for each in caught)
                entry["converged"].append(not unfinished)
            turn += 1
    return {
        "samples": len(x),
        "features": x.shape[1],
        "score": "accuracy" if is_classifier(contestants(name, 0)["nbnorm"]) else "R2",
        "folds": FOLDS,
        "seeds": seeds,
        "contestants": found,
    }


def warm_up() -> None:
    """Compile everything before the clock runs."""
    for name in ("wine", "diabetes"):
        x, y = SETS[name]()
        contestants(name, 0)["nbnorm"].set_params(max_iter=2).fit(x, y)


def difference(entry: dict[str, Any], who: str) -> tuple[float, float]:
    """Mean of our score minus the peer's over the seeds, and its standard error from seed to seed.

    The folds of a seed share training data; only whole cross-validations are taken as repetitions.
    """
    both = [np.array(entry["contestants"][name]["score"]) for name in ("nbnorm", who)]
    means = (both[0] - both[1]).reshape(entry["seeds"], entry["folds"]).mean(axis=1)
    error = float(means.std(ddof=1) / np.sqrt(len(means))) if len(means) > 1 else float("nan")
    return float(means.mean()), error


def table(results: dict[str, Any]) -> str:
    """Scores, differences and times."""
    names = list(COLOURS)
    head = ["", "score", *names, *(f"difference from {name}" for name in names[1:])]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for name, entry in results.items():
        cells = [f"{name}, {entry['samples']} x {entry['features']}", entry["score"]]
        for who in names:
            got = entry["contestants"][who]
            share = float(np.mean(got["converged"]))
            note = "" if share == 1 else f", {100 * (1 - share):.0f} % not converged"
            cells.append(f"{np.mean(got['score']):.4f} ({np.mean(got['iterations']):.0f} epochs{note})")
        for who in names[1:]:
            mean, error = difference(entry, who)
            cells.append(f"{mean:+.4f} (standard error {error:.4f})")
        lines.append("| " + " | ".join(cells) + " |")
    head = ["", *(f"fit, {name}" for name in names), *(f"{name} / nbnorm" for name in names[1:])]
    lines += ["", "| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for name, entry in results.items():
        seconds = {who: float(np.mean(entry["contestants"][who]["fit"])) for who in names}
        cells = [name, *(f"{1e3 * seconds[who]:.0f} ms" for who in names)]
        cells += [f"{seconds[who] / seconds['nbnorm']:.1f}" for who in names[1:]]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def plot(results: dict[str, Any], path: Path) -> None:
    """Draw score over time of a fit, one panel for each data set."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, row = plt.subplots(1, len(results), figsize=(2.4 * len(results), 3.2), layout="constrained")
    for axes, (name, entry) in zip(np.atleast_1d(row), results.items(), strict=True):
        for who, colour in COLOURS.items():
            got = entry["contestants"][who]
            scores = np.reshape(got["score"], (entry["seeds"], entry["folds"])).mean(axis=1)
            seconds = np.reshape(got["fit"], (entry["seeds"], entry["folds"])).mean(axis=1)
            axes.plot(1e3 * seconds, scores, "o", color=colour, label=who, markersize=5)
        axes.set_xscale("log")
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("ms to fit")
        axes.tick_params(labelsize=7)
    np.atleast_1d(row)[0].set_ylabel("accuracy, or R2 of the last two")
    handles, labels = np.atleast_1d(row)[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers.estimators", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--sets", nargs="+", choices=tuple(SETS), default=tuple(SETS))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "estimators.json"
    report = json.loads(path.read_text()) if path.exists() else {"results": {}}
    nbnorm.set_num_threads(args.threads)
    report |= {
        "machine": machine.describe(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": numba.__version__,
        "scikit-learn": sklearn.__version__,
        "nbnorm": nbnorm.__version__,
        "threads": args.threads,
        "hidden_layer_sizes": list(HIDDEN),
    }
    with threadpoolctl.threadpool_limits(args.threads):
        warm_up()
        for name in args.sets:
            report["results"][name] = measure(name, args.seeds)
            report["results"] = {key: report["results"][key] for key in SETS if key in report["results"]}
            path.write_text(json.dumps(report, indent=1) + "\n")
    text = table(report["results"])
    (args.out / "estimators.md").write_text(text)
    plot(report["results"], args.out / "estimators.png")
    print(text)


if __name__ == "__main__":
    main()
