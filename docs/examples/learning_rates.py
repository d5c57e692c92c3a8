"""How good the rates are that `find_learning_rate` suggests, beside a grid of rates.

    python docs/examples/learning_rates.py

Three data sets served to choose the rule, three others to check it.  For each of them, two optimizers and
batch norm after, before and nowhere, networks are trained for 30 epochs with a constant rate: at each rate
of the grid, and at the suggestion.  Each score is the mean over three splits and seeds, of the accuracy or
R^2 on a third of the data that was held out.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import sklearn.datasets as sets

from nbnorm import FNN, SGD, AdamW, DivergenceError, train_test_split

CHOSEN_ON = {
    "breast cancer": sets.load_breast_cancer(return_X_y=True),
    "clusters": sets.make_classification(2000, 20, n_informative=5, n_classes=3, random_state=0),
    "friedman 1": sets.make_friedman1(2000, noise=1.0, random_state=0),
}
CHECKED_ON = {
    "digits": sets.load_digits(return_X_y=True),
    "wine": sets.load_wine(return_X_y=True),
    "friedman 2": sets.make_friedman2(1000, noise=100.0, random_state=0),
}
OPTIMIZERS = {"SGD": lambda lr: SGD(lr=lr, momentum=0.9), "AdamW": lambda lr: AdamW(lr=lr)}
RATES = 10.0 ** np.arange(-4.0, 0.6, 0.5)


def network(X: Any, y: Any, norm: str | None, seed: int) -> FNN:
    """Return a network for classes, or for values."""
    if y.dtype.kind == "f":
        options = {"output": "identity", "standardize_targets": True}
        return FNN([X.shape[1], 64, 64, 1], norm=norm, seed=seed, **options)
    return FNN([X.shape[1], 64, 64, int(y.max()) + 1], norm=norm, seed=seed)


def score(net: FNN, optimizer: SGD | AdamW, parts: Any) -> float:
    """Return the score on the held-out part after a training; 0, as of guessing, if it diverges."""
    X, X_test, y, y_test = parts
    try:
        net.fit(X, y, epochs=30, batch_size=32, optimizer=optimizer, progress=False)
        return max(net.score(X_test, y_test), 0.0)
    except (DivergenceError, ValueError):
        return 0.0


def measure(X: Any, y: Any, norm: str | None, name: str, seeds: int) -> tuple[Any, Any, float]:
    """Return the scores of the grid, the suggestions and their score."""
    make = OPTIMIZERS[name]
    grid, suggestions, suggested = np.zeros(len(RATES)), [], 0.0
    for seed in range(seeds):
        parts = train_test_split(X, y, test_size=1 / 3, seed=seed)
        options = {"batch_size": 32, "optimizer": make(0.1)}
        rate = network(X, y, norm, seed).find_learning_rate(parts[0], parts[2], **options).suggestion
        suggestions.append(rate)
        suggested += score(network(X, y, norm, seed), make(rate), parts) / seeds
        grid += [score(network(X, y, norm, seed), make(lr), parts) / seeds for lr in RATES]
    return grid, suggestions, suggested


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="folder for learning_rates.txt")
    parser.add_argument("--short", action="store_true", help="a single training of each kind, for tests")
    args = parser.parse_args()
    norms: tuple[str | None, ...] = ("after",) if args.short else ("after", "before", None)
    lines = ["data           optimizer norm    best of the grid    suggestions        score   behind"]
    for title, group in (("chosen on", CHOSEN_ON), ("checked on", CHECKED_ON)):
        behind = []
        for data, (X, y) in list(group.items())[: 1 if args.short else None]:
            for name in OPTIMIZERS:
                for norm in norms:
                    grid, rates, got = measure(X, y, norm, name, 1 if args.short else 3)
                    best = int(np.argmax(grid))
                    behind.append(grid[best] - got)
                    lines.append(
                        f"{data:14} {name:9} {norm or 'none':7} {grid[best]:.3f} at {RATES[best]:<7.2g}   "
                        f"{min(rates):<7.2g} to {max(rates):<7.2g} {got:.3f}   {behind[-1]:6.3f}"
                    )
                    print(lines[-1], flush=True)
        summary = f"{title}: {np.mean(behind):.3f} behind on average, {max(behind):.3f} at most"
        lines += [summary, ""]
    text = "\n".join(lines).rstrip() + "\n"
    print(text)
    if args.out is not None:
        (args.out / "learning_rates.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
