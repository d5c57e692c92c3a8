"""What becomes of batch norm when weights that depend on the label enter its statistics.

First on labels of pure chance: in one epoch every sample is seen once, and its loss is measured before its
update, so that no honest training loss is below ln 2 = 0.693.  Then on labels that can be learned: the area
under the ROC curve of test data without weights, with balanced classes, and with these in the statistics too.
"""

import argparse
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nbnorm import FNN, SGD, load_digits

Array = npt.NDArray[Any]
NORMS = ("after", "before")
SHARES = (0.02, 0.05, 0.1, 0.2)
RULES = {"each row once": False, "weighted_statistics=True": True}


def network(x: Array, norm: str, weighted: bool, seed: int) -> FNN:
    """Return a network with two hidden layers."""
    return FNN((x.shape[1], 64, 64, 2), norm=norm, weighted_statistics=weighted, seed=seed)


def options(epochs: int, batch_size: int) -> dict[str, Any]:
    """Return how all networks here are trained."""
    common = {"optimizer": SGD(lr=0.05, momentum=0.9), "schedule": "cosine", "progress": False}
    return {"epochs": epochs, "batch_size": batch_size, **common}


def chance(samples: int, share: float, batch_size: int, norm: str, weighted: bool) -> float:
    """Return the training loss of one epoch with balanced classes, on labels of chance."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(samples, 10)), (rng.random(samples) < share).astype(int)
    history = network(x, norm, weighted, 0).fit(x, y, class_weight="balanced", **options(1, batch_size))
    return history.loss[0]


def linear(rng: np.random.Generator, samples: int) -> tuple[Array, Array]:
    """Ten features whose sum counts, and noise."""
    x = rng.normal(size=(samples, 10))
    return x, x @ np.arange(10) / 8 + 2 * rng.normal(size=samples)


def friedman(rng: np.random.Generator, samples: int) -> tuple[Array, Array]:
    """J. H. Friedman's function of five features among ten, and noise."""
    x = rng.random((samples, 10))
    signal = 10 * np.sin(np.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
    return x, signal + 5 * rng.normal(size=samples)


def ring(rng: np.random.Generator, samples: int) -> tuple[Array, Array]:
    """How near to a ring the first two features of six lie, and noise."""
    x = rng.normal(size=(samples, 6))
    return x, -np.abs(np.hypot(x[:, 0], x[:, 1]) - 1.2) + 0.3 * rng.normal(size=samples)


def generated(
    function: Callable[[np.random.Generator, int], tuple[Array, Array]], samples: int, share: float, seed: int
) -> tuple[Array, ...]:
    """Return training and test data, of which the `share` with the highest signal are positive."""
    x, signal = function(np.random.default_rng(seed), 2 * samples)
    y = (signal > np.quantile(signal, 1 - share)).astype(int)
    return x[:samples], y[:samples], x[samples:], y[samples:]


def digits(seed: int) -> tuple[Array, ...]:
    """Return training and test data: whether a digit is an 8, from twelve of its pixels."""
    x, y = load_digits()
    rng = np.random.default_rng(seed)
    order, pixels = rng.permutation(len(x)), rng.choice(np.flatnonzero(x.std(axis=0) > 3), 12, replace=False)
    x, y = x[order][:, pixels], (y[order] == 8).astype(int)
    half = len(x) // 2
    return x[:half], y[:half], x[half:], y[half:]


def area(y: Array, score: Array) -> float:
    """Return the share of pairs of a positive and a negative sample that are in the right order."""
    positive = np.sort(score[y == 1])
    return float(1 - np.searchsorted(positive, score[y == 0]).mean() / len(positive))


def areas(data: tuple[Array, ...], epochs: int, norm: str, seed: int) -> list[float]:
    """Return the areas without weights, with balanced classes, and with these in the statistics."""
    x, y, x_test, y_test = data
    found = []
    for by_class, weighted in ((None, False), ("balanced", False), ("balanced", True)):
        net = network(x, norm, weighted, seed)
        net.fit(x, y, class_weight=by_class, **options(epochs, 64))
        found.append(area(y_test, net.predict_proba(x_test)[:, 1]))
    return found


def draw(
    losses: dict[Any, float], scores: dict[str, list[float]], batches: tuple[int, ...], path: Path
) -> None:
    """Draw the losses over the share of positive samples, and the areas of all data."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.style.use(Path(__file__).with_name("figures.mplstyle"))
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2))
    shares = sorted({key[0] for key in losses})
    for rule, color in zip(RULES, ("C0", "C1"), strict=True):
        for norm, style in zip(NORMS, ("-", "--"), strict=True):
            for batch in batches:
                values = [losses[share, batch, norm, rule] for share in shares]
                label = f"{rule}, {norm}" if batch == batches[0] else None
                left.plot(shares, values, style, color=color, alpha=0.7, marker=".", label=label)
    left.axhline(math.log(2), color="black", linewidth=0.8)
    left.set(xlabel="share of positive samples", ylabel="training loss on labels of chance", xscale="log")
    left.set_xticks(shares, [f"{share:.0%}" for share in shares])
    left.minorticks_off()
    left.legend(fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1))
    labels = ("without weights", "balanced, each row once", "balanced, weighted_statistics=True")
    names = list(scores)
    kinds = zip(labels, ("black", "C0", "C1"), "|ox", strict=True)
    for column, (label, color, marker) in enumerate(kinds):
        values = [scores[name][column] for name in names]
        right.scatter(values, range(len(names)), color=color, marker=marker, label=label)
    right.set_yticks(range(len(names)), names)
    right.invert_yaxis()
    right.set(xlabel="area under the ROC curve, test data", xlim=(0.5, 1))
    right.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1))
    figure.savefig(path)
    plt.close(figure)


def main() -> None:
    """Print both tables and write them and the figure into --out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="few samples and two batch sizes")
    parser.add_argument("--out", type=Path, help="folder for weights.txt and weights.svg")
    chosen = parser.parse_args()
    samples, learned, epochs, seeds = (2_000, 1_000, 1, 1) if chosen.short else (60_000, 20_000, 10, 3)
    batches = (32, 512) if chosen.short else (32, 64, 128, 256, 512)

    losses = {
        (share, batch, norm, rule): chance(samples, share, batch, norm, weighted)
        for share in SHARES
        for batch in batches
        for norm in NORMS
        for rule, weighted in RULES.items()
    }
    lines = [f"Training loss on labels of chance, {samples} samples, one epoch, class_weight='balanced'"]
    lines.append(f"{'positive':>9}{'batch':>7}" + "".join(f"{rule:>28}" for rule in RULES))
    lines.append(
        " " * 16 + "".join(f"{norm:>{20 if norm == 'after' else 8}}" for _ in RULES for norm in NORMS)
    )
    for share in SHARES:
        for batch in batches:
            cells = [losses[share, batch, norm, rule] for rule in RULES for norm in NORMS]
            text = "".join(f"{value:>{8 if k % 2 else 20}.3f}" for k, value in enumerate(cells))
            lines.append(f"{share:>9.0%}{batch:>7}{text}")

    sources: dict[str, Callable[[int], tuple[Array, ...]]] = {
        f"{function.__name__}, {share:.0%}": functools.partial(generated, function, learned, share)
        for function in (linear, friedman, ring)
        for share in SHARES
    }
    sources["digits, 10%"] = digits
    scores = {
        name: np.mean(
            [areas(source(seed), epochs, norm, seed) for norm in NORMS for seed in range(seeds)], axis=0
        ).tolist()
        for name, source in sources.items()
    }
    lines.append("")
    lines.append(f"Area under the ROC curve, test data, mean over {seeds} seed(s) and both placements")
    lines.append(f"{'':14}{'without weights':>17}{'balanced':>12}{'balanced, weighted_statistics=True':>38}")
    for name, (plain, balanced, weighted) in scores.items():
        lines.append(f"{name:14}{plain:17.3f}{balanced:12.3f}{weighted:38.3f}")
    text = "\n".join(lines)
    print(text)
    if chosen.out:
        chosen.out.mkdir(parents=True, exist_ok=True)
        (chosen.out / "weights.txt").write_text(text + "\n")
        draw(losses, scores, batches, chosen.out / "weights.svg")


if __name__ == "__main__":
    main()
