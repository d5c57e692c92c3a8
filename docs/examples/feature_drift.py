"""How the features of a network drift while it trains, with and without batch normalization.

Two networks with the same first weights are trained on the bundled digits.  After each epoch the
script computes, for the fixed test images, the mean and the standard deviation of every feature
that the output layer reads.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nbnorm import FNN, SGD, History, Standardizer, load_digits, train_test_split

SIZES = (64, 64, 64, 64, 10)
NAMES = {None: "no batch norm", "after": "batch norm"}


def features(net: FNN, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return what the output layer reads, in evaluation."""
    arrays = {**net.parameters(), **net.buffers()}
    y = x
    for layer in range(1, len(SIZES) - 1):
        y = np.maximum(y @ arrays[f"dense{layer}.weight"].T + arrays[f"dense{layer}.bias"], 0)
        if f"norm{layer}.gamma" in arrays:
            scale = arrays[f"norm{layer}.gamma"] / np.sqrt(arrays[f"norm{layer}.running_var"] + 1e-5)
            y = (y - arrays[f"norm{layer}.running_mean"]) * scale + arrays[f"norm{layer}.beta"]
    return y


def train(norm: str | None, epochs: int) -> dict[str, npt.NDArray[Any]]:
    """Return means and standard deviations (epochs, features), and accuracies."""
    x, y = load_digits()
    x_train, x_test, y_train, y_test = train_test_split(x, y)
    scaler = Standardizer().fit(x_train)
    x_train, x_test = (scaler.transform(part.astype(np.float32)) for part in (x_train, x_test))
    net = FNN(SIZES, norm=norm, standardize=False, seed=0)
    means, deviations = [], []

    def record(net: FNN, history: History) -> None:
        seen = features(net, x_test)
        means.append(seen.mean(axis=0))
        deviations.append(seen.std(axis=0))

    history = net.fit(
        x_train,
        y_train,
        epochs=epochs,
        batch_size=32,
        optimizer=SGD(lr=0.1),
        validation_data=(x_test, y_test),
        progress=False,
        callbacks=[record],
    )
    return {"mean": np.array(means), "std": np.array(deviations), "accuracy": np.array(history.val_accuracy)}


def draw(runs: dict[str | None, dict[str, npt.NDArray[Any]]], path: Path) -> None:
    """Draw one line for each feature: the mean above, the standard deviation below."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.style.use(Path(__file__).with_name("figures.mplstyle"))

    figure, axes = plt.subplots(2, 2, figsize=(9, 5.2), sharex=True, sharey="row")
    for column, (norm, run) in zip(axes.T, runs.items(), strict=True):
        epochs = np.arange(1, len(run["mean"]) + 1)
        for axis, what, label in zip(column, ("mean", "std"), ("mean", "standard deviation"), strict=True):
            axis.plot(epochs, run[what], color="C0", alpha=0.35, linewidth=0.8)
            axis.set_ylabel(label)
        column[0].set_title(NAMES[norm])
        column[1].set_xlabel("epoch")
    figure.savefig(path)
    plt.close(figure)


def main() -> None:
    """Train both networks, print the table and write it and the figure into --out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="three epochs instead of thirty")
    parser.add_argument("--out", type=Path, help="folder for feature_drift.txt and feature_drift.svg")
    options = parser.parse_args()

    epochs = 3 if options.short else 30
    runs = {norm: train(norm, epochs) for norm in NAMES}
    lines = [
        f"{'':14}{'largest mean':>22}{'range of the stds':>28}{'test accuracy':>22}",
        f"{'after epoch':14}" + f"{1:>12}{epochs:>10}" + f"{1:>16}{epochs:>12}" + f"{1:>12}{epochs:>10}",
    ]
    for norm, run in runs.items():
        largest = np.abs(run["mean"]).max(axis=1)
        ranges = [f"{row.min():.2f}-{row.max():.2f}" for row in run["std"]]
        lines.append(
            f"{NAMES[norm]:14}{largest[0]:12.2f}{largest[-1]:10.2f}{ranges[0]:>16}{ranges[-1]:>12}"
            f"{run['accuracy'][0]:12.3f}{run['accuracy'][-1]:10.3f}"
        )
    text = "\n".join(lines)
    print(text)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "feature_drift.txt").write_text(text + "\n", "utf-8")
        draw(runs, options.out / "feature_drift.svg")


if __name__ == "__main__":
    main()
