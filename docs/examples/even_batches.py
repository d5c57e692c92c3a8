"""What a small last batch of an epoch costs, beside even batches.

Networks are trained on the bundled digits in batches of 32.  The number of samples decides what is left for a
last batch.  "rest" fills batches one by one and makes a full step with what is left, as other libraries do;
"even" is what `FNN.fit` does.  Plain SGD keeps nothing from step to step, so that two calls make one epoch.
"""

import argparse
from pathlib import Path

import numpy as np

from nbnorm import FNN, SGD, load_digits

BATCH = 32
SAMPLES = (1600, 1602, 1603, 1604, 1608, 1616)


def train(samples: int, even: bool, seed: int, epochs: int) -> tuple[float, float]:
    """Return the loss on held-out samples at the end, and the lowest accuracy after the fourth epoch."""
    x, y = load_digits()
    order = np.random.default_rng(0).permutation(len(x))
    held = order[1620:]
    rng = np.random.default_rng(seed)
    net = FNN((64, 64, 64, 10), seed=seed)
    whole = samples if even else samples // BATCH * BATCH
    losses, accuracies = [], []
    for _ in range(epochs):
        rows = rng.permutation(order[:samples])
        parts = [rows[:whole]] + ([rows[whole:]] if whole < samples else [])
        for part in parts:
            net.fit(x[part], y[part], epochs=1, batch_size=BATCH, shuffle=False, optimizer=SGD(lr=0.3))
        accuracies.append(net.score(x[held], y[held]))
        losses.append(net.loss.value(net.forward(x[held]), y[held]))
    return losses[-1], min(accuracies[4:] or accuracies)


def main() -> None:
    """Print the table and write it into --out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="one network and two epochs")
    parser.add_argument("--out", type=Path, help="folder for even_batches.txt")
    options = parser.parse_args()
    networks, epochs = (1, 2) if options.short else (12, 15)
    lines = [
        f"Means of {networks} network(s), {epochs} epochs",
        f"{'':16}{'held-out loss':>20}{'worst accuracy':>20}",
        f"{'samples':>8}{'rest':>8}" + f"{'rest':>12}{'even':>8}" * 2,
    ]
    for samples in SAMPLES:
        cells = [
            np.mean([train(samples, even, seed, epochs) for seed in range(networks)], axis=0)
            for even in (False, True)
        ]
        text = "".join(f"{rest:12.3f}{even:8.3f}" for rest, even in zip(*cells, strict=True))
        lines.append(f"{samples:>8}{samples % BATCH:>8}{text}")
    text = "\n".join(lines)
    print(text)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "even_batches.txt").write_text(text + "\n")


if __name__ == "__main__":
    main()
