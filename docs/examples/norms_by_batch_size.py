"""Batch norm, batch renormalization, ghost batches, layer norm and RMS norm at batch sizes 2 to 256.

A network with two hidden layers of 64 relu units is written with the functions of the package, with the
normalization behind each activation, and trained for some epochs on the bundled digits.  For each method and
size the learning rate is the better of two on a validation set; the table shows the mean test accuracy
over three seeds.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import nbnorm

SIZES = (2, 4, 16, 64, 256)
RATES = (0.03, 0.2)
WIDTHS = (64, 64, 64)


class LayerNorm:
    """Layer norm with the interface of `nbnorm.BatchNorm`."""

    def __init__(self, width: int) -> None:
        self.gamma, self.beta = np.ones(width, np.float32), np.zeros(width, np.float32)

    def forward(self, x: Any) -> Any:
        """Return the normalized samples."""
        out, *saved = nbnorm.layer_norm_forward(x, self.gamma, self.beta)
        self.saved = x, self.gamma, *saved
        return out

    def backward(self, dout: Any) -> Any:
        """Return the gradient of `x`; set those of gamma and beta."""
        dx, self.dgamma, self.dbeta = nbnorm.layer_norm_backward(dout, *self.saved)
        return dx


class RMSNorm(LayerNorm):
    """RMS norm; beta stays 0."""

    def forward(self, x: Any) -> Any:
        """Return the normalized samples."""
        out, rrms = nbnorm.rms_norm_forward(x, self.gamma)
        self.saved = x, self.gamma, rrms
        return out

    def backward(self, dout: Any) -> Any:
        """Return the gradient of `x`; set those of gamma and beta."""
        dx, self.dgamma = nbnorm.rms_norm_backward(dout, *self.saved)
        self.dbeta = np.zeros_like(self.beta)
        return dx


METHODS: dict[str, Callable[[int], Any]] = {
    "batch norm": nbnorm.BatchNorm,
    "batch renormalization": lambda width: nbnorm.BatchNorm(width, decay=0.99, renorm=(3.0, 5.0)),
    "ghost batches of 16": lambda width: nbnorm.BatchNorm(width, ghost_size=16),
    "layer norm": LayerNorm,
    "RMS norm": RMSNorm,
}


def train(method: str, x: Any, y: Any, size: int, lr: float, epochs: int, seed: int) -> Callable[[Any], Any]:
    """Train by SGD and return the function that predicts classes."""
    rng = np.random.default_rng(seed)
    dense = [
        nbnorm.Dense(a, b, seed=seed + k)
        for k, (a, b) in enumerate(zip(WIDTHS, (*WIDTHS[1:], 10), strict=True))
    ]
    norms = [METHODS[method](width) for width in WIDTHS[1:]]

    def logits(x: Any) -> tuple[Any, list[Any]]:
        activated = []
        for layer, norm in zip(dense, norms, strict=False):
            activated.append(nbnorm.activation_forward(layer.forward(x), "relu"))
            x = norm.forward(activated[-1])
        return dense[-1].forward(x), activated

    for epoch in range(epochs):
        order = rng.permutation(len(x))
        for rows in np.array_split(order, -(-len(x) // size)):
            z, activated = logits(x[rows])
            _, gradient = nbnorm.softmax_cross_entropy(z, y[rows])
            gradient = dense[-1].backward(gradient)
            for layer, norm, out in zip(dense[-2::-1], norms[::-1], activated[::-1], strict=True):
                gradient = nbnorm.activation_backward(norm.backward(gradient), out, "relu")
                gradient = layer.backward(gradient)
            rate = lr * (1 - epoch / epochs)
            for layer in dense:
                for name, values in layer.parameters().items():
                    values -= rate * layer.gradients()[name]
            for norm in norms:
                norm.gamma -= rate * norm.dgamma
                norm.beta -= rate * norm.dbeta
    for norm in norms:
        if isinstance(norm, nbnorm.BatchNorm):
            norm.eval()
    return lambda x: logits(x)[0].argmax(axis=1)


def draw(table: dict[str, list[float]], sizes: tuple[int, ...], path: Path) -> None:
    """Draw the accuracy over the batch size."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.style.use(Path(__file__).with_name("figures.mplstyle"))
    figure, axis = plt.subplots(figsize=(6.4, 3.6))
    for (name, values), marker in zip(table.items(), "os^Dv", strict=False):
        axis.plot(sizes, values, marker=marker, label=name)
    axis.set(xscale="log", xlabel="batch size", ylabel="test accuracy")
    axis.set_xticks(sizes, sizes)
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
    rates = RATES[1:2] if options.short else RATES
    epochs, seeds = (1, 1) if options.short else (3, 3)
    table: dict[str, list[float]] = {}
    lines = [f"{'test accuracy at batch size':28}" + "".join(f"{size:8d}" for size in sizes)]
    for method in METHODS:
        table[method] = []
        for size in sizes:
            tried = [(train(method, x, y, size, lr, epochs, 100)(x_val) == y_val).mean() for lr in rates]
            lr = rates[int(np.argmax(tried))]
            runs = [(train(method, x, y, size, lr, epochs, k)(x_test) == y_test).mean() for k in range(seeds)]
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
