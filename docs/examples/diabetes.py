"""Regression on a table: how losses bear outliers, and early stopping on held-out data.

The diabetes data have 442 patients with ten features; the target is the disease's progression after a year.
Some targets of the training part are then multiplied by ten, as by a slipped decimal point.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.metrics import mean_absolute_error
from sklearn.model_selection import train_test_split

from nbnorm.estimators import FNNRegressor

LOSSES = ("squared_error", "huber", "absolute_error")
WRONG = 0.05  # share of the training targets


def spoil(y: Any, seed: int) -> Any:
    """Return targets of which some are ten times too large."""
    rows = np.random.default_rng(seed).random(len(y)) < WRONG
    return np.where(rows, 10 * y, y)


def draw(scores: list[float], path: Path) -> None:
    """Draw the validation score over the epochs."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.style.use(Path(__file__).with_name("figures.mplstyle"))
    figure, axes = plt.subplots(figsize=(4.6, 3.2))
    axes.plot(range(1, len(scores) + 1), scores, ".-")
    axes.set(xlabel="epoch", ylabel="R² of the validation set")
    figure.savefig(path)
    plt.close(figure)


def main() -> None:
    """Print the table, and write it and the figure into --out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="one split and five epochs")
    parser.add_argument("--out", type=Path, help="folder for diabetes.txt and diabetes.svg")
    options = parser.parse_args()

    x, y = load_diabetes(return_X_y=True, as_frame=True)
    seeds = range(1 if options.short else 10)
    epochs = 5 if options.short else 100
    lines = [
        f"mean absolute error on the test set, {len(seeds)} split(s)",
        f"{'loss':20} {'clean training targets':>24} {f'{100 * WRONG:.0f} % ten times too large':>26}",
    ]
    for loss in LOSSES:
        errors: list[list[float]] = [[], []]
        for seed in seeds:
            x_train, x_test, y_train, y_test = train_test_split(x, y, random_state=seed)
            for found, targets in zip(errors, (y_train, spoil(y_train, seed)), strict=True):
                model = FNNRegressor(loss=loss, max_iter=epochs, random_state=seed).fit(x_train, targets)
                found.append(float(mean_absolute_error(y_test, model.predict(x_test))))
        lines.append(f"{loss:20} {np.mean(errors[0]):24.1f} {np.mean(errors[1]):26.1f}")

    x_train, x_test, y_train, y_test = train_test_split(x, y, random_state=0)
    model = FNNRegressor(early_stopping=True, validation_fraction=0.2, max_iter=epochs, random_state=0)
    model.fit(x_train, y_train)
    lines += [
        "",
        f"early stopping: epoch {model.history_.best_epoch} of {model.n_iter_} has the least loss",
        f"R2 {model.validation_scores_[model.history_.best_epoch - 1]:.3f} on the validation set, "
        f"{model.score(x_test, y_test):.3f} on the test set",
    ]
    text = "\n".join(lines)
    print(text)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "diabetes.txt").write_text(text + "\n", "utf-8")
        draw(model.validation_scores_, options.out / "diabetes.svg")


if __name__ == "__main__":
    main()
