"""Compare the estimators with scikit-learn's networks on tabular data: cross-validated scores and times.

    python -m benchmarks.peers.estimators [--out DIRECTORY] [--sets NAME ...] [--parts scores times]
                                          [--seeds N] [--first-seed N] [--threads N] [--only-nbnorm]

writes estimators.json, estimators.md and estimators.svg.  Each data set is shuffled and cut into five folds
once for each seed, which also seeds the estimators.  The defaults of nbnorm's estimators were chosen with
seeds below 100, so the comparison begins at 100.  Times are measured on the folds of the first seed: all
contestants are fitted one after the other, beginning with another one each time, so that a drift of the
machine's speed meets all of them.  Results are added to those that the folder holds, so the comparison can
be made in parts; with --only-nbnorm the scores of the others stay, which the same seeds give again.
"""

import argparse
import json
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
import numpy as np
import sklearn
import threadpoolctl
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine, make_friedman1
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import nbnorm
from nbnorm.estimators import FNNClassifier, FNNRegressor

from . import machine
from .charts import pyplot

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
COLOURS = {"nbnorm": "#0072B2", "scikit-learn": "#E69F00", f"scikit-learn, max_iter={ENOUGH}": "#009E73"}


def contestants(name: str, seed: int) -> dict[str, Any]:
    """Return the estimators: all with default parameters, the last one with more iterations."""
    ours, peer = (FNNClassifier, MLPClassifier) if name in CLASSIFICATION else (FNNRegressor, MLPRegressor)
    names = list(COLOURS)
    return {
        names[0]: ours(hidden_layer_sizes=HIDDEN, random_state=seed),
        names[1]: make_pipeline(StandardScaler(), peer(hidden_layer_sizes=HIDDEN, random_state=seed)),
        names[2]: make_pipeline(
            StandardScaler(), peer(hidden_layer_sizes=HIDDEN, random_state=seed, max_iter=ENOUGH)
        ),
    }


def folds(name: str, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the training and test samples of a cross-validation."""
    x, y = SETS[name]()
    kind = StratifiedKFold if name in CLASSIFICATION else KFold
    yield from kind(FOLDS, shuffle=True, random_state=seed).split(x, y)


def fitted(model: Any, x: np.ndarray, y: np.ndarray) -> tuple[float, bool]:
    """Fit a model; return the seconds and whether it says that it has converged."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        start = time.perf_counter()
        model.fit(x, y)
        seconds = time.perf_counter() - start
    return seconds, not any(issubclass(each.category, ConvergenceWarning) for each in caught)


def scores(name: str, seeds: range, names: tuple[str, ...]) -> dict[str, Any]:
    """Score contestants on all folds of all seeds."""
    x, y = SETS[name]()
    found: dict[str, dict[str, list[Any]]] = {
        who: {"score": [], "iterations": [], "converged": []} for who in names
    }
    for seed in seeds:
        for train, test in folds(name, seed):
            for who, model in contestants(name, seed).items():
                if who not in names:
                    continue
                _, converged = fitted(model, x[train], y[train])
                found[who]["score"].append(float(model.score(x[test], y[test])))
                last = model[-1] if hasattr(model, "steps") else model
                found[who]["iterations"].append(int(last.n_iter_))
                found[who]["converged"].append(converged)
    return {"folds": FOLDS, "seeds": [seeds.start, seeds.stop], "contestants": found}


def times(name: str, seed: int) -> dict[str, list[float]]:
    """Return the seconds of fits on all folds of a seed."""
    x, y = SETS[name]()
    found: dict[str, list[float]] = {who: [] for who in COLOURS}
    for turn, (train, _) in enumerate(folds(name, seed)):
        models = list(contestants(name, seed).items())
        first = turn % len(models)
        for who, model in models[first:] + models[:first]:
            found[who].append(fitted(model, x[train], y[train])[0])
    return found


def warm_up() -> None:
    """Compile everything before the clock runs."""
    for name in ("wine", "breast_cancer", "diabetes"):  # an output and a loss each
        x, y = SETS[name]()
        contestants(name, 0)["nbnorm"].set_params(max_iter=2).fit(x, y)


def by_seed(entry: dict[str, Any], who: str) -> np.ndarray:
    """Return the score of each cross-validation: its folds share training data and are no repetitions."""
    return np.reshape(entry["contestants"][who]["score"], (-1, entry["folds"])).mean(axis=1)


def table(results: dict[str, Any]) -> str:
    """Scores, differences and times."""
    names = list(COLOURS)
    head = ["", "score", *names, *(f"nbnorm minus {name}" for name in names[1:])]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for name, result in results.items():
        entry = result["scores"]
        cells = [f"{name}, {result['samples']} x {result['features']}", result["score"]]
        for who in names:
            got = entry["contestants"][who]
            share = 1.0 - float(np.mean(got["converged"]))
            note = f", {100 * share:.0f} % not converged" if share else ""
            cells.append(f"{np.mean(got['score']):.4f} ({np.mean(got['iterations']):.0f} epochs{note})")
        for who in names[1:]:
            ahead = by_seed(entry, names[0]) - by_seed(entry, who)
            cells.append(f"{ahead.mean():+.4f} ± {ahead.std(ddof=1) / np.sqrt(len(ahead)):.4f}")
        lines.append("| " + " | ".join(cells) + " |")
    head = ["time of a fit", *names, *(f"{name} / nbnorm" for name in names[1:])]
    lines += ["", "| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for name, result in results.items():
        if "times" in result:
            seconds = {who: float(np.mean(result["times"][who])) for who in names}
            cells = [name, *(f"{1e3 * seconds[who]:.0f} ms" for who in names)]
            cells += [f"{seconds[who] / seconds['nbnorm']:.1f}" for who in names[1:]]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def plot(results: dict[str, Any], path: Path) -> None:
    """Draw the scores over the time of a fit, one panel for each data set that has both."""
    plt = pyplot()

    results = {name: result for name, result in results.items() if "times" in result}
    if not results:
        return
    rows = -(-len(results) // 3)
    figure, grid = plt.subplots(rows, 3, figsize=(9.0, 2.8 * rows + 0.3), squeeze=False)
    for axes in grid.flat[len(results) :]:
        axes.set_axis_off()
    for axes, (name, result) in zip(grid.flat, results.items(), strict=False):
        for who, colour in COLOURS.items():
            values = by_seed(result["scores"], who)
            milliseconds = np.full(len(values), 1e3 * np.mean(result["times"][who]))
            axes.plot(milliseconds, values, "o", color=colour, label=who, markersize=4, alpha=0.7)
        axes.set_xscale("log")
        axes.set_xlim(5.0, 2e4)  # the same for all, and wide enough for the labels
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("ms of a fit")
        axes.set_ylabel("accuracy" if name in CLASSIFICATION else "R²")
        axes.tick_params(labelsize=8)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers.estimators", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--sets", nargs="+", choices=tuple(SETS), default=tuple(SETS))
    parser.add_argument("--parts", nargs="+", choices=("scores", "times"), default=("scores", "times"))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only-nbnorm", action="store_true", help="score only nbnorm's estimators again")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "estimators.json"
    report = json.loads(path.read_text()) if path.exists() else {"results": {}}
    nbnorm.set_num_threads(args.threads)
    described = {
        "machine": machine.describe(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": numba.__version__,
        "scikit-learn": sklearn.__version__,
        "nbnorm": nbnorm.__version__,
        "threads": args.threads,
        "hidden_layer_sizes": list(HIDDEN),
    }
    if not args.only_nbnorm:  # times of another machine may stay
        report |= described
    with threadpoolctl.threadpool_limits(args.threads):
        warm_up()
        for name in args.sets:
            x, _ = SETS[name]()
            result = report["results"].setdefault(name, {"samples": len(x), "features": x.shape[1]})
            result["score"] = "accuracy" if name in CLASSIFICATION else "R²"
            if "scores" in args.parts:
                seeds = range(args.first_seed, args.first_seed + args.seeds)
                if args.only_nbnorm:
                    if result["scores"]["seeds"] != [seeds.start, seeds.stop]:
                        raise ValueError(f"{path} has the seeds {result['scores']['seeds']} of {name}")
                    result["scores"]["contestants"] |= scores(name, seeds, ("nbnorm",))["contestants"]
                else:
                    result["scores"] = scores(name, seeds, tuple(COLOURS))
            if "times" in args.parts:
                result["times"] = times(name, args.first_seed)
            report["results"] = {key: report["results"][key] for key in SETS if key in report["results"]}
            path.write_text(json.dumps(report, indent=1) + "\n")
    text = table(report["results"])
    (args.out / "estimators.md").write_text(text)
    plot(report["results"], args.out / "estimators.svg")
    print(text)


if __name__ == "__main__":
    main()
