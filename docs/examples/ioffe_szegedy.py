"""The experiment of Ioffe and Szegedy (2015), section 4.1, on MNIST.

A network with three hidden layers of 100 sigmoid units is trained for 50,000 steps with batches
of 60, with batch normalization in front of each sigmoid and without.  Inputs are binary images,
weights start as small Gaussian numbers, the same ones for both networks, and the optimizer is
plain SGD.  60,000 images make 1,000 steps of 60, so a checkpoint every 1,000 steps is one after
each epoch.

The paper gives no learning rate.  The figure uses the one given by --lr; the table also lists
the accuracies at other rates.
"""

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nbnorm import FNN, SGD, History, load_digits, load_mnist, train_test_split

HIDDEN = (100, 100, 100)
BATCH = 60
PERCENTILES = (15, 50, 85)
RATES = (0.03, 0.1, 0.3, 1.0)
NAMES = {"before": "batch norm", None: "no batch norm"}

Images = npt.NDArray[np.uint8]
Data = tuple[Images, npt.NDArray[np.int64], Images, npt.NDArray[np.int64]]


def binary_mnist(folder: Path) -> Data:
    """Return training images and labels, test images and labels; pixels are 0 or 1."""
    (x, y), (x_test, y_test) = load_mnist(folder)
    return (x > 127).astype(np.uint8), y, (x_test > 127).astype(np.uint8), y_test


def binary_digits() -> Data:
    """Return the bundled digits in the same form: a stand-in for trying the script out."""
    x, y = load_digits()
    x, x_test, y, y_test = train_test_split((x > 7).astype(np.uint8), y)
    return x, y, x_test, y_test


def network(inputs: int, norm: str | None, seed: int) -> FNN:
    """Return a network whose weights depend on the seed only."""
    net = FNN((inputs, *HIDDEN, 10), activation="sigmoid", norm=norm, standardize=False, seed=seed)
    rng = np.random.default_rng(seed)
    for name, values in net.parameters().items():
        if name.endswith("weight"):
            values[...] = 0.1 * rng.standard_normal(values.shape)
        elif name.endswith("bias"):
            values[...] = 0.0
    return net


def last_inputs(net: FNN, x: Images) -> npt.NDArray[Any]:
    """Return what the sigmoids of the last hidden layer receive, (n_samples, 100), in evaluation."""
    arrays = {**net.parameters(), **net.buffers()}
    y = x.astype(np.float32)
    for layer in range(1, len(HIDDEN) + 1):
        z = y @ arrays[f"dense{layer}.weight"].T
        if f"norm{layer}.gamma" in arrays:
            scale = arrays[f"norm{layer}.gamma"] / np.sqrt(arrays[f"norm{layer}.running_var"] + 1e-5)
            z = (z - arrays[f"norm{layer}.running_mean"]) * scale + arrays[f"norm{layer}.beta"]
        else:
            z += arrays[f"dense{layer}.bias"]
        y = 1 / (1 + np.exp(-z))
    return z


def train(data: Data, norm: str | None, lr: float, checkpoints: int, seed: int = 0) -> dict[str, Any]:
    """Return the test accuracies at the checkpoints and the percentiles of all 100 units."""
    x, y, x_test, y_test = data
    net = network(x.shape[1], norm, seed)
    percentiles = []

    def record(net: FNN, history: History | None = None) -> None:
        percentiles.append(np.percentile(last_inputs(net, x_test), PERCENTILES, axis=0))

    record(net)
    history = net.fit(
        x,
        y,
        epochs=checkpoints,
        batch_size=BATCH,
        optimizer=SGD(lr=lr),
        validation_data=(x_test, y_test),
        progress=False,
        callbacks=[record],
    )
    return {"accuracy": np.array(history.val_accuracy), "percentiles": np.array(percentiles)}


def typical(percentiles: npt.NDArray[Any]) -> int:
    """Return the unit whose median travels the median distance over the run."""
    travelled = np.abs(np.diff(percentiles[:, 1], axis=0)).sum(axis=0)
    return int(np.argsort(travelled)[travelled.size // 2])


def draw(runs: dict[str | None, dict[str, Any]], steps: int, lr: float, path: Path) -> None:
    """Draw accuracies and percentiles over the steps."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.style.use(Path(__file__).with_name("figures.mplstyle"))
    figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.3))
    for (norm, run), colour in zip(runs.items(), ("C0", "C1"), strict=True):
        at = steps * np.arange(1, len(run["accuracy"]) + 1)
        axes[0].plot(at, run["accuracy"], color=colour, label=NAMES[norm])
    axes[0].set(title=f"test accuracy, learning rate {lr:g}", xlabel="step", ylim=(0.8, 1.0))
    axes[0].legend(loc="lower right")
    for axis, (norm, run), colour in zip(axes[1:], runs.items(), ("C0", "C1"), strict=True):
        unit = run["percentiles"][:, :, typical(run["percentiles"])]
        at = steps * np.arange(len(unit))
        for line, style in zip(unit.T, ("--", "-", "--"), strict=True):
            axis.plot(at, line, style, color=colour)
        axis.set(title=f"{NAMES[norm]}: input to one sigmoid", xlabel="step")
        axis.axhline(0.0, color="0.8", linewidth=0.8, zorder=0)
    figure.savefig(path)
    plt.close(figure)


def main() -> None:
    """Run the experiment, print the table and write it and the figure into --out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("NBNORM_MNIST"), help="the IDX files")
    parser.add_argument("--lr", type=float, default=0.1, choices=RATES, help="learning rate of the figure")
    parser.add_argument("--checkpoints", type=int, default=50, help="epochs; one is 1,000 steps on MNIST")
    parser.add_argument("--short", action="store_true", help="three checkpoints at one learning rate")
    parser.add_argument("--out", type=Path, help="folder for ioffe_szegedy.txt and ioffe_szegedy.svg")
    options = parser.parse_args()

    if options.data_dir is None:
        print("no --data-dir: the bundled digits stand in for MNIST")
    data = binary_mnist(options.data_dir) if options.data_dir else binary_digits()
    checkpoints = 3 if options.short else options.checkpoints
    steps = -(-len(data[0]) // BATCH)
    marks = [mark for mark in (1, 2, 5, 10, 20, checkpoints) if mark <= checkpoints]
    lines = [
        f"test accuracy after {steps:,} steps times the number in the column's head",
        f"{'learning rate':>13}  {'':14}" + "".join(f"{mark:8d}" for mark in sorted(set(marks))),
    ]
    for lr in (options.lr,) if options.short else RATES:
        runs = {norm: train(data, norm, lr, checkpoints) for norm in NAMES}
        for norm, run in runs.items():
            values = "".join(f"{run['accuracy'][mark - 1]:8.4f}" for mark in sorted(set(marks)))
            lines.append(f"{lr:13g}  {NAMES[norm]:14}{values}")
        if lr == options.lr and options.out:
            options.out.mkdir(parents=True, exist_ok=True)
            draw(runs, steps, lr, options.out / "ioffe_szegedy.svg")
    text = "\n".join(lines)
    print(text)
    if options.out:
        (options.out / "ioffe_szegedy.txt").write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
