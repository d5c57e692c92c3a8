"""Features and gradients of a new network that reads pixels as they are, and standardized.

The network has no batch norm.  For each layer the table shows the largest standard deviation of a feature
over the data, and the norm of the gradient of the weights in mini-batches of 128.  Without --data-dir the
bundled digits stand in for MNIST.
"""

import argparse
import os
from pathlib import Path

from nbnorm import FNN, Standardizer, inspect, load_digits, load_mnist


def main() -> None:
    """Print the table and write it into --out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("NBNORM_MNIST"), help="the IDX files")
    parser.add_argument("--short", action="store_true", help="a thousand images")
    parser.add_argument("--out", type=Path, help="folder for raw_pixels.txt")
    options = parser.parse_args()

    x, y = load_mnist(options.data_dir)[0] if options.data_dir else load_digits()
    rows = 1000 if options.short else 10000
    x, y = x[:rows], y[:rows]
    lines = [f"{'':14}{'layer':10}{'largest mean':>14}{'largest std':>14}{'gradient':>14}"]
    for name, data in (("raw pixels", x), ("standardized", Standardizer().fit_transform(x))):
        net = FNN([x.shape[1], 128, 128, 10], norm=None, standardize=False, seed=0)
        for layer in inspect(net, data, y).layers:
            gradient = "" if layer.name == "input" else f"{layer.gradient_norm:14.2f}"
            mean, std = abs(layer.mean).max(), layer.std.max()
            lines.append(f"{name:14}{layer.name:10}{mean:14.2f}{std:14.2f}{gradient}")
            name = ""
    text = "\n".join(lines)
    print(text)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "raw_pixels.txt").write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
