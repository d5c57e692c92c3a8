"""Digits that arrive in parts: `partial_fit`, with the accuracy on digits that have not come yet.

Each part is first predicted and then learnt from, so every accuracy is one on new data.  The features are
standardized inside, with statistics that grow with the parts.  The weight decay is far smaller than the
default, with which the network would forget the first parts.
"""

import argparse
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from nbnorm.estimators import FNNClassifier

PART = 100


def main() -> None:
    """Print the table, and write it into --out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="the first five parts only")
    parser.add_argument("--out", type=Path, help="folder for digits_stream.txt")
    options = parser.parse_args()

    x, y = load_digits(return_X_y=True)
    x = x.astype(np.uint8)  # the smallest type that holds the data; nothing needs to be converted
    order = np.random.default_rng(0).permutation(len(x))
    parts = np.array_split(order, len(x) // PART)[: 5 if options.short else None]
    model = FNNClassifier(weight_decay=0.1, random_state=0)
    lines = ["part   digits seen   accuracy on the next part"]
    for number, rows in enumerate(parts):
        if number:
            share = model.score(x[rows], y[rows])
            if number in (1, 2, 4, 8, 16):
                lines.append(f"{number:4} {model.t_ // 5:13} {share:27.3f}")
        for _ in range(5):  # passes over each part
            model.partial_fit(x[rows], y[rows], classes=np.arange(10))
    text = "\n".join(lines)
    print(text)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "digits_stream.txt").write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
