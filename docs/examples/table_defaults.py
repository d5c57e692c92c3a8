"""`nbnorm train FILE` with defaults, beside a ridge and a logistic regression on the same held-out rows.

Each table is trained on by the command line, for several splits; the linear models see the same training
rows, standardized, and choose their penalty by cross-validation.  R2 and accuracy are those of all held-out
rows of all splits together, because the few held-out rows of a small table say little.
"""

import argparse
import contextlib
import io
import json
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sklearn import datasets
from sklearn.linear_model import LogisticRegressionCV, RidgeCV
from sklearn.metrics import accuracy_score, r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nbnorm import FNN, cli, train_test_split

Array = Any
SCALES = (1e-12, 1e-6, 1e6, 1e12)


def linear(X: Array, rng: np.random.Generator, noise: float = 0.2) -> Array:
    """Return a linear target with noise of a part of its spread."""
    y = (X - X.mean(axis=0)) / np.maximum(X.std(axis=0), 1e-300) @ rng.normal(size=X.shape[1])
    return y + noise * y.std() * rng.normal(size=len(X))


def regressions() -> Iterator[tuple[str, Array, Array]]:
    """Yield name, samples and targets of the regression tables."""
    rng = np.random.default_rng(100)
    x = np.linspace(0.0, 10.0, 200)[:, None]
    yield "line", x, 2.0 * x[:, 0] - 3.0
    x = rng.uniform(size=(200, 1))
    yield "line with noise", x, 3.0 * x[:, 0] + 1.0 + 0.1 * rng.normal(size=200)
    yield "line from 1e6 on", x + 1e6, 5.0 * x[:, 0] + 1e6 + 0.2 * rng.normal(size=200)
    for scale in SCALES:
        X = rng.normal(size=(300, 5))
        yield f"target in units of {scale:g}", X, scale * linear(X, rng)
    X = rng.normal(size=(300, 4)) * [1e-8, 1.0, 1e4, 1e8]
    yield "features of many scales", X, linear(X, rng)
    X = rng.normal(size=(300, 3)) - 1e9
    yield "features and target at -1e9", X, 1e3 * linear(X, rng) - 1e9
    for rows in (5, 10, 30, 60):
        X = rng.normal(size=(rows, 2))
        yield f"{rows} rows", X, linear(X, rng, 0.1)
    for rows, columns in ((100, 200), (60, 50)):
        X = rng.normal(size=(rows, columns))
        yield f"{rows} rows, {columns} columns", X, X[:, :5].sum(axis=1) + 0.3 * rng.normal(size=rows)
    X = rng.normal(size=(200, 6))
    X[:, 1], X[:, 4] = 7.0, 0.0
    yield "constant columns", X, linear(X, rng)
    X = rng.normal(size=(250, 3)) @ rng.normal(size=(3, 12)) + 1e-3 * rng.normal(size=(250, 12))
    yield "collinear columns", X, X[:, :3].sum(axis=1) + 0.2 * rng.normal(size=250)
    X = rng.normal(size=(500, 4))
    yield "counts", X, rng.poisson(np.exp(2.5 + X @ [0.4, -0.3, 0.2, 0.0]))
    X = rng.normal(size=(400, 5))
    yield "heavy tails (t with 3)", X, X @ rng.normal(size=5) + rng.standard_t(3, size=400)
    X = rng.normal(size=(500, 3))
    yield "log-normal target", X, np.exp(X @ [0.7, 0.5, 0.0] + 0.2 * rng.normal(size=500))
    X = rng.normal(size=(400, 4))
    y = linear(X, rng)
    y[rng.random(400) < 0.02] *= 20.0
    yield "outliers in the target", X, y
    X = rng.lognormal(0.0, 1.5, (400, 5))
    yield "skewed features", X, np.log(X) @ rng.normal(size=5) + 0.3 * rng.normal(size=400)
    X = rng.integers(0, 2, (300, 20)).astype(float)
    yield "zeros and ones", X, linear(X, rng)
    X = (rng.random((400, 60)) < 0.03).astype(float)
    yield "mostly zeros", X, X @ rng.normal(size=60) + 0.2 * rng.normal(size=400)
    seconds = 1.6e9 + np.sort(rng.uniform(0.0, 3e7, 365))[:, None]
    yield "time stamps", seconds, (seconds[:, 0] - 1.6e9) / 1e5 + 20.0 * rng.normal(size=365)
    x = rng.uniform(-3.0, 3.0, (200, 1))
    yield "sine", x, np.sin(2.0 * x[:, 0]) + 0.1 * rng.normal(size=200)
    X = rng.normal(size=(300, 5))
    yield "nothing but noise", X, rng.normal(size=300)
    X = rng.normal(size=(200, 10))
    yield "hardly more than noise", X, 0.3 * X[:, 0] + rng.normal(size=200)
    X = rng.normal(size=(3000, 8))
    yield "3000 rows, linear", X, linear(X, rng, 0.5)
    yield "Friedman 1", *datasets.make_friedman1(1000, noise=1.0, random_state=0)
    yield "Friedman 2", *datasets.make_friedman2(500, noise=50.0, random_state=0)
    yield "make_regression", *datasets.make_regression(500, 20, noise=10.0, random_state=0)
    yield "diabetes", *datasets.load_diabetes(return_X_y=True)
    X, y = datasets.load_linnerud(return_X_y=True)
    yield "Linnerud, waist", X, y[:, 1]


def classifications() -> Iterator[tuple[str, Array, Array]]:
    """Yield name, samples and classes of the classification tables."""
    rng = np.random.default_rng(200)
    for name in ("iris", "wine", "breast_cancer", "digits"):
        yield name.replace("_", " "), *getattr(datasets, f"load_{name}")(return_X_y=True)
    for rows in (12, 40, 200):
        X = rng.normal(size=(rows, 3))
        yield f"{rows} rows, two classes", X, (X[:, 0] + 0.5 * rng.normal(size=rows) > 0).astype(int)
    X = rng.normal(size=(80, 100))
    yield "80 rows, 100 columns", X, (X[:, :5].sum(axis=1) > 0).astype(int)
    X = 1e6 + 1e-3 * rng.normal(size=(300, 4))
    yield "features at 1e6", X, (X[:, 0] - X[:, 1] > 0).astype(int)
    X = rng.normal(size=(600, 5))
    yield "5 % positives", X, (X[:, 0] + 0.5 * rng.normal(size=600) > 1.8).astype(int)
    yield "moons", *datasets.make_moons(400, noise=0.25, random_state=0)
    yield (
        "hardly more than chance",
        *datasets.make_classification(300, 20, n_informative=2, flip_y=0.6, random_state=0),
    )


def compare(folder: Path, X: Array, y: Array, splits: int, task: str) -> tuple[float, float, int, int]:
    """Return the scores of the command line and the linear model; how often it was linear, and repeated."""
    names = [f"x{k}" for k in range(X.shape[1])]
    table, model, report = (str(folder / name) for name in ("table.csv", "model.npz", "report.json"))
    # repr: every digit
    lines = [
        ",".join(repr(value) for value in [*row, target])
        for row, target in zip(X.tolist(), y.tolist(), strict=True)
    ]
    Path(table).write_text("\n".join([",".join([*names, "target"]), *lines]) + "\n")
    classifies = task == "classification"
    rival: Callable[[], Any] = (
        (
            lambda: LogisticRegressionCV(
                Cs=np.logspace(-3, 3, 7), max_iter=2000, use_legacy_attributes=False, l1_ratios=(0,)
            )
        )
        if classifies
        else (lambda: RidgeCV(np.logspace(-3, 3, 13)))
    )
    got, expected, truth = [], [], []
    linear_models = repeated = 0
    for seed in range(splits):
        words = ["--quiet", "--no-plot", "--save", model, "--report", report, "--task", task]
        status = cli.main(["train", table, *words, "--split-seed", str(seed)])
        assert status == 0
        parts = train_test_split(X, y, seed=seed, stratify=classifies)
        X_train, X_test, y_train, y_test = parts
        net = FNN.load(model)
        answers = net.predict(X_test)
        if classifies:
            answers = np.unique(y)[answers]
        got.append(answers)
        expected.append(make_pipeline(StandardScaler(), rival()).fit(X_train, y_train).predict(X_test))
        truth.append(y_test)
        told = json.loads(Path(report).read_text())
        linear_models += len(net.sizes) == 2
        repeated += told["retries"]
    score = accuracy_score if classifies else r2_score
    y_all = np.concatenate(truth)
    return (
        float(score(y_all, np.concatenate(got))),
        float(score(y_all, np.concatenate(expected))),
        linear_models,
        repeated,
    )


def main() -> None:
    """Print the tables, and write them into --out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="three tables of each kind, one split")
    parser.add_argument("--splits", type=int, default=5, help="splits of each table")
    parser.add_argument("--out", type=Path, help="folder for table_defaults.txt")
    options = parser.parse_args()

    lines = []
    for task, tables, measure, rival in (
        ("regression", regressions(), "R2", "ridge"),
        ("classification", classifications(), "accuracy", "logistic"),
    ):
        lines += [
            f"{measure:30} {'rows':>5} {'columns':>7} {'nbnorm':>8} {rival:>8} {'diff.':>7}  linear repeated"
        ]
        for number, (name, X, y) in enumerate(tables):
            if options.short and number == 3:
                break
            splits = 1 if options.short else options.splits * (4 if len(y) < 100 else 1)
            with (
                tempfile.TemporaryDirectory() as folder,
                contextlib.redirect_stdout(io.StringIO()),
                warnings.catch_warnings(),
            ):
                warnings.simplefilter("ignore")  # of the linear models
                ours, theirs, chosen, repeated = compare(Path(folder), X, y, splits, task)
            lines += [
                f"{name:30} {len(y):5} {X.shape[1]:7} {ours:8.3f} {theirs:8.3f} {ours - theirs:+7.3f}  "
                f"{chosen:3}/{splits:2} {repeated:8}"
            ]
            print(lines[-1], flush=True)
        lines += [""]
    text = "\n".join(lines[:-1])
    print(text)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "table_defaults.txt").write_text(text + "\n")


if __name__ == "__main__":
    main()
