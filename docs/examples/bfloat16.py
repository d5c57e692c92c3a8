"""Accuracy of networks trained with products of bfloat16, beside float32.

Test accuracy on MNIST over five seeds, R2 on the held-out fifth of four tables over three seeds; then the
same tables with 100 added to the inputs, with and without standardization.  Without --data-dir the bundled
digits stand in for MNIST.
"""

import argparse
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sklearn import datasets

import nbnorm
from nbnorm import FNN, SGD, AdamW, load_digits, load_mnist, train_test_split

PRECISIONS = ("float32", "bfloat16")


def tables() -> Iterator[tuple[str, Any, Any]]:
    """Yield name, samples and targets."""
    yield ("diabetes", *datasets.load_diabetes(return_X_y=True))
    yield ("Friedman 1", *datasets.make_friedman1(1500, noise=1.0, random_state=0))
    yield ("Friedman 2", *datasets.make_friedman2(1500, noise=100.0, random_state=0))
    yield ("Friedman 3", *datasets.make_friedman3(1500, noise=0.1, random_state=0))


def r2(X: Any, y: Any, precision: Any, seed: int, epochs: int, standardize: bool = True) -> float:
    """Return R2 of held-out rows after a training."""
    X, X_test, y, y_test = train_test_split(X, y, seed=seed)
    net = FNN(
        [X.shape[1], 64, 64, 1], output="identity", standardize=standardize, standardize_targets=True,
        precision=precision, seed=seed,
    )  # fmt: skip
    net.fit(X, y, epochs=epochs, batch_size=64, optimizer=AdamW(lr=3e-3), schedule="cosine")
    return net.score(X_test, y_test)


def main() -> None:
    """Print the tables and write them into --out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("NBNORM_MNIST"), help="the IDX files")
    parser.add_argument("--short", action="store_true", help="few seeds and epochs")
    parser.add_argument("--out", type=Path, help="folder for bfloat16.txt")
    options = parser.parse_args()

    native = "native" if nbnorm.simd.target().bfloat16 else "made of float32"
    lines = [f"products of bfloat16 are {native} on this processor", ""]
    if options.data_dir:
        (x, y), (x_test, y_test) = load_mnist(options.data_dir)
    else:
        x, x_test, y, y_test = train_test_split(*load_digits())
    epochs, seeds = (1, 1) if options.short else (5, 5)
    lines.append(f"test accuracy in %, {epochs} epochs" + "".join(f"{f'seed {s}':>9}" for s in range(seeds)))
    for precision in PRECISIONS:
        scores, start = [], time.perf_counter()
        for seed in range(seeds):
            net = FNN([x.shape[1], 512, 512, 10], precision=precision, seed=seed)
            net.fit(x, y, epochs=epochs, optimizer=SGD(lr=0.1, momentum=0.9), schedule="cosine")
            scores.append(100 * net.score(x_test, y_test))
        print(precision, f"{time.perf_counter() - start:.1f} s", flush=True)
        cells = "".join(f"{score:9.2f}" for score in scores)
        lines.append(f"{precision:28}{cells}   mean {np.mean(scores):.3f}")
    epochs, seeds = (2, 1) if options.short else (60, 3)
    head = "".join(f"{precision:>12}" for precision in PRECISIONS)
    for title, shift, standardize in (
        ("R2", 0.0, True),
        ("R2, inputs + 100", 100.0, True),
        ("R2, inputs + 100, standardize=False", 100.0, False),
    ):
        lines += ["", f"{title:36}{head}"]
        for name, X, y_table in tables():
            means = [
                np.mean([r2(X + shift, y_table, p, seed, epochs, standardize) for seed in range(seeds)])
                for p in PRECISIONS
            ]
            lines.append(f"{name:36}" + "".join(f"{mean:12.4f}" for mean in means))
    text = "\n".join(lines)
    print(text)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "bfloat16.txt").write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
