"""Batch norm, layer norm and RMS norm in FNN, batch renormalization and ghost batches, by batch size.

Networks with two hidden layers of 64 relu units are trained for ten epochs on the bundled digits, with SGD
and a rate that falls as half a cosine.  `FNN` has the first five methods; the last two are variants of
`BatchNorm`, the layer, in a loop of their own.  For each method and size the learning rate is the better
of two on a validation set; the table shows the mean test accuracy over three seeds.
"""

import argparse
import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import nbnorm

SIZES = (2, 4, 16, 64, 256)
RATES = (0.03, 0.1)
WIDTHS = (64, 64, 64, 10)


def by_fnn(norm: Any, x: Any, y: Any, size: int, lr: float, epochs: int, seed: int) -> Callable[[Any], Any]:
    """Train an `FNN` and return the function that predicts classes."""
    net = nbnorm.FNN(WIDTHS, norm=norm, standardize=False, seed=seed)
    net.fit(x, y, epochs=epochs, batch_size=size, optimizer=nbnorm.SGD(lr), schedule="cosine", progress=False)
    return net.predict


def by_layers(
    make: Callable[[int], nbnorm.BatchNorm], x: Any, y: Any, size: int, lr: float, epochs: int, seed: int
) -> Callable[[Any], Any]:
    """Train affine layers with batch norm behind each activation and return the function that predicts."""
    rng = np.random.default_rng(seed)
    pairs = enumerate(itertools.pairwise(WIDTHS))
    dense = [nbnorm.Dense(a, b, seed=10 * seed + k) for k, (a, b) in pairs]
    norms = [make(width) for width in WIDTHS[1:-1]]

    def logits(x: Any) -> tuple[Any, list[Any]]:
        activated = []
        for layer, norm in zip(dense, norms, strict=False):
            activated.append(nbnorm.activation_forward(layer.forward(x), "relu"))
            x = norm.forward(activated[-1])
        return dense[-1].forward(x), activated

    steps = -(-len(x) // size)
    rates = nbnorm.Cosine().rates(lr, epochs=epochs, steps=steps).reshape(epochs, steps)
    for rates_of_epoch in rates:
        batches = np.array_split(rng.permutation(len(x)), steps)
        for rows, rate in zip(batches, rates_of_epoch, strict=True):
            z, activated = logits(x[rows])
            _, gradient = nbnorm.softmax_cross_entropy(z, y[rows])
            gradient = dense[-1].backward(gradient)
            for layer, norm, out in zip(dense[-2::-1], norms[::-1], activated[::-1], strict=True):
                gradient = nbnorm.activation_backward(norm.backward(gradient), out, "relu")
                gradient = layer.backward(gradient)
            for part in (*dense, *norms):
                for name, values in part.parameters().items():
                    values -= np.float32(rate) * part.gradients()[name]
    for norm in norms:
        norm.eval()
    return lambda x: logits(x)[0].argmax(axis=1)


METHODS: dict[str, Callable[..., Callable[[Any], Any]]] = {
    "batch norm": partial(by_fnn, "after"),
    "layer norm": partial(by_fnn, "layer"),
    "layer norm after relu": partial(by_fnn, "layer_after"),
    "RMS norm": partial(by_fnn, "rms"),
    "no normalization": partial(by_fnn, None),
    "batch renormalization": partial(
        by_layers, lambda width: nbnorm.BatchNorm(width, decay=0.99, renorm=(3.0, 5.0))
    ),
    "ghost batches of 16": partial(by_layers, lambda width: nbnorm.BatchNorm(width, ghost_size=16)),
}


def draw(table: dict[str, list[float]], sizes: tuple[int, ...], path: Path) -> None:
    """Draw the error over the batch size."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.style.use(Path(__file__).with_name("figures.mplstyle"))
    figure, axis = plt.subplots(figsize=(6.4, 3.8))
    for (name, values), marker in zip(table.items(), "os^Dvx+", strict=True):
        axis.plot(sizes, 1 - np.array(values), marker=marker, label=name)
    axis.set(xscale="log", yscale="log", xlabel="batch size", ylabel="test error")
    axis.set_xticks(sizes, sizes)
    ticks = [tick for tick in (0.02, 0.03, 0.05, 0.1, 0.2, 0.5) if tick < 1.2 * axis.get_ylim()[1]]
    axis.set_yticks(ticks, ticks)
    axis.minorticks_off()
    axis.legend(fontsize=8)
    figure.savefig(path)
    plt.close(figure)


def main() -> None:
    """Train all, print the table and write it and the figure into --out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="two sizes, one epoch, one rate, one seed")
    parser.add_argument(
        "--out", type=Path, help="folder for norms_by_batch_size.txt and norms_by_batch_size.svg"
    )
    options = parser.parse_args()

    x, x_test, y, y_test = nbnorm.train_test_split(*nbnorm.load_digits(), seed=0)
    scaler = nbnorm.Standardizer().fit(x)
    x, x_test = (scaler.transform(part).astype(np.float32) for part in (x, x_test))
    x, x_val, y, y_val = nbnorm.train_test_split(x, y, seed=1)
    sizes = (64, 256) if options.short else SIZES
    rates = RATES[1:] if options.short else RATES
    epochs, seeds = (1, 1) if options.short else (10, 3)
    table: dict[str, list[float]] = {}
    lines = [f"{'test accuracy at batch size':28}" + "".join(f"{size:8d}" for size in sizes)]
    for method, train in METHODS.items():
        table[method] = []
        for size in sizes:
            tried = [(train(x, y, size, lr, epochs, 100)(x_val) == y_val).mean() for lr in rates]
            lr = rates[int(np.argmax(tried))]
            runs = [(train(x, y, size, lr, epochs, seed)(x_test) == y_test).mean() for seed in range(seeds)]
            table[method].append(float(np.mean(runs)))
        lines.append(f"{method:28}" + "".join(f"{value:8.4f}" for value in table[method]))
    text = "\n".join(lines)
    print(text)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "norms_by_batch_size.txt").write_text(text + "\n", "utf-8")
        draw(table, sizes, options.out / "norms_by_batch_size.svg")


if __name__ == "__main__":
    main()
