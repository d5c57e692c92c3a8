"""Batch norm before or after the activation: activations, seeds and two data sets.

Networks of three hidden layers are trained with each activation and each place of batch norm.  For each
combination the learning rate is the one with the best accuracy on a validation set, with a seed of its own;
the table shows the test accuracy over other seeds, with the standard deviation.  Without --data-dir only the
digits are used.
"""

import argparse
import contextlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from nbnorm import FNN, SGD, DivergenceError, load_digits, load_mnist, train_test_split

ACTIVATIONS = ("relu", "tanh", "sigmoid", "gelu")
NORMS = ("after", "before", None)
RATES = (0.03, 0.1, 0.3, 1.0)
LABELS = {"after": "after the activation", "before": "before the activation", None: "no batch norm"}
COLOURS = {"after": "C0", "before": "C1", None: "C2"}


def data_sets(folder: Path | None) -> dict[str, tuple[Any, ...]]:
    """Return (x, y, x_validation, y_validation, x_test, y_test, hidden, epochs) of each data set."""
    x, x_test, y, y_test = train_test_split(*load_digits(), seed=0)
    x, x_val, y, y_val = train_test_split(x, y, seed=1)
    sets: dict[str, tuple[Any, ...]] = {"digits": (x, y, x_val, y_val, x_test, y_test, 64, 15)}
    if folder is not None:
        (x, y), (x_test, y_test) = load_mnist(folder)
        mnist = x[:6000], y[:6000], x[-4000:], y[-4000:], x_test, y_test, 64, 6
        sets["MNIST, 6,000 images"] = mnist
    return sets


def accuracy(
    given: tuple[Any, ...], activation: str, norm: str | None, lr: float, seed: int, at: int
) -> float:
    """Train and return the accuracy on the validation set (at=2) or the test set (at=4)."""
    x, y, *_, hidden, epochs = given
    net = FNN([x.shape[1], hidden, hidden, hidden, 10], activation=activation, norm=norm, seed=seed)
    with contextlib.suppress(DivergenceError):  # the parameters of the last good epoch count
        net.fit(x, y, epochs=epochs, batch_size=64, optimizer=SGD(lr=lr), progress=False)
    return net.score(given[at], given[at + 1])


def draw(results: dict[str, dict[tuple[str, str | None], np.ndarray]], path: Path) -> None:
    """Draw one point for each seed, and the median; an arrow stands for a seed far below the others."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.style.use(Path(__file__).with_name("figures.mplstyle"))
    figure, axes = plt.subplots(1, len(results), figsize=(4.6 * len(results), 3.4), squeeze=False)
    for axis, (name, cells) in zip(axes[0], results.items(), strict=True):
        least = min(float(np.median(values)) for values in cells.values()) - 0.05
        shown = np.concatenate([values[values > least] for values in cells.values()])
        bottom = shown.min() - 0.12 * np.ptp(shown)
        for k, norm in enumerate(NORMS):
            for place, activation in enumerate(ACTIVATIONS):
                at, values = place + 0.24 * (k - 1), cells[activation, norm]
                label = LABELS[norm] if place == 0 else None
                axis.plot([at] * len(values), values, ".", color=COLOURS[norm], alpha=0.5)
                marker = ("o", "s", "^")[k]
                axis.plot(at, np.median(values), marker, color=COLOURS[norm], markersize=7, label=label)
                for value in values[values <= least]:
                    arrow = {"arrowstyle": "->", "color": COLOURS[norm]}
                    end = (at, bottom + 0.12 * np.ptp(shown))
                    axis.annotate(
                        f"{value:.2f}", (at, bottom), end, arrowprops=arrow, ha="center", fontsize=8
                    )
        axis.set_xticks(range(len(ACTIVATIONS)), ACTIVATIONS)
        axis.set(title=name, ylabel="test accuracy", ylim=(bottom, shown.max() + 0.05 * np.ptp(shown)))
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
    figure.savefig(path)
    plt.close(figure)


def main() -> None:
    """Run all trainings, print the table and write it and the figure into --out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("NBNORM_MNIST"), help="the IDX files")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--short", action="store_true", help="two seeds, one learning rate")
    parser.add_argument("--out", type=Path, help="folder for before_or_after.txt and before_or_after.svg")
    options = parser.parse_args()

    seeds = 2 if options.short else options.seeds
    rates = RATES[1:2] if options.short else RATES
    results: dict[str, dict[tuple[str, str | None], np.ndarray]] = {}
    lines = [f"{'':12}" + "".join(f"{LABELS[norm]:>25}" for norm in NORMS)]
    for name, given in data_sets(options.data_dir).items():
        lines.append(f"{name}: accuracy on the test set, {seeds} seeds (learning rate)")
        results[name] = {}
        for activation in ACTIVATIONS:
            row = f"  {activation:10}"
            for norm in NORMS:
                found = [accuracy(given, activation, norm, lr, 100, 2) for lr in rates]
                lr = rates[int(np.argmax(found))]
                values = np.array([accuracy(given, activation, norm, lr, k, 4) for k in range(seeds)])
                results[name][activation, norm] = values
                cell = f"{values.mean():.4f} +- {values.std(ddof=1):.4f} ({lr:g})"
                row += f"{cell:>25}"
            lines.append(row)
    text = "\n".join(lines)
    print(text)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "before_or_after.txt").write_text(text + "\n", "utf-8")
        draw(results, options.out / "before_or_after.svg")


if __name__ == "__main__":
    main()
