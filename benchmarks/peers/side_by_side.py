"""Time several networks side by side, and cross-validation in one process beside joblib's processes.

    python -m benchmarks.peers.side_by_side [--turns N] [--out FILE]

prints two tables in Markdown.  The first trains the same networks with `fit_many` on one thread and on two,
and one after the other by `FNN.fit` on two threads.  The second tries the same four settings in five folds
of the bundled digits with `nbnorm.cross_validate` and with scikit-learn's GridSearchCV(n_jobs=2): the first
call, in which its processes start and import, and later ones.  Everything has been compiled and is in the
cache.  Wall-clock seconds, medians over turns.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sklearn.model_selection import GridSearchCV

import nbnorm
from nbnorm import FNN, AdamW, cross_validate, fit_many, load_digits
from nbnorm.estimators import FNNClassifier

GRID = {"weight_decay": [0.0, 1.0], "batch_size": [32, 64]}
EPOCHS = 20


def seconds(actions: dict[str, Callable[[], object]], turns: int) -> dict[str, tuple[float, float]]:
    """Return the time of the first call of each action, and the median of the next ones, which take turns."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(turns + 1):
        for name, action in actions.items():
            start = time.perf_counter()
            action()
            times[name].append(time.perf_counter() - start)
    return {name: (values[0], statistics.median(values[1:])) for name, values in times.items()}


def throughput(
    rows: int, features: int, hidden: int, count: int, turns: int
) -> dict[str, tuple[float, float]]:
    """Return the times of training `count` networks with an encoding."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(rows, features)).astype(np.float32)
    y = (X[:, 0] * X[:, 1] > 0).astype(np.int64)
    options = {"epochs": 30, "batch_size": 64, "optimizer": AdamW(lr=0.0075)}

    def networks() -> list[FNN]:
        return [FNN([features, hidden, 2], encoding="piecewise", seed=seed) for seed in range(count)]

    def many(threads: int) -> Callable[[], object]:
        def action() -> None:
            nbnorm.set_num_threads(threads)
            fit_many(networks(), X, y, **options)

        return action

    def after_each_other() -> None:
        nbnorm.set_num_threads(2)
        for net in networks():
            net.fit(X, y, **options)

    return seconds({"one": many(1), "two": many(2), "fit": after_each_other}, turns)


def searches(turns: int) -> dict[str, tuple[float, float]]:
    """Return the times of the same search in one process and in two."""
    X, y = load_digits()
    X = X.astype(np.float32)
    net = FNN([64, 32, 10], seed=0)
    decays, sizes = GRID["weight_decay"], GRID["batch_size"]
    optimizers = [AdamW(lr=0.0075, weight_decay=decay) for decay in decays]
    settings = {"n_estimators": 1, "encoding": None, "max_iter": EPOCHS, "random_state": 0}
    model = FNNClassifier((32,), **settings)

    def ours() -> None:
        nbnorm.set_num_threads(2)
        grid = {"optimizer": optimizers, "batch_size": sizes}
        cross_validate(copy.deepcopy(net), X, y, epochs=EPOCHS, schedule="cosine", grid=grid)

    def theirs() -> None:
        GridSearchCV(model, GRID, n_jobs=2, refit=False, cv=5).fit(X, y)

    return seconds({"cross_validate": ours, "GridSearchCV": theirs}, turns)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers.side_by_side", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--turns", type=int, default=3, metavar="N")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the tables, in Markdown")
    args = parser.parse_args()
    text = "| networks, 30 epochs | one thread | two threads | ratio | one by one, two threads |\n"
    text += "| --- | --- | --- | --- | --- |\n"
    for rows, features, hidden, count in ((2000, 20, 100, 4), (2000, 20, 32, 8), (10_000, 20, 100, 4)):
        found = throughput(rows, features, hidden, count, args.turns)
        one, two, by_itself = (found[name][1] for name in ("one", "two", "fit"))
        text += f"| {count} of {features}-{hidden}-2, {rows} rows | {one:.2f} s | {two:.2f} s "
        text += f"| {one / two:.2f} | {by_itself:.2f} s |\n"
    found = searches(args.turns)
    count = int(np.prod([len(values) for values in GRID.values()]))
    text += f"\n| {count} settings in 5 folds of the digits, {EPOCHS} epochs | first call | later |\n"
    text += "| --- | --- | --- |\n"
    for name, title in (
        ("cross_validate", "`nbnorm.cross_validate`, two threads"),
        ("GridSearchCV", "`GridSearchCV(n_jobs=2)` with `FNNClassifier`"),
    ):
        text += "| {} | {:.2f} s | {:.2f} s |\n".format(title, *found[name])
    print(text)
    if args.out is not None:
        args.out.write_text(text)


if __name__ == "__main__":
    main()
