"""What statistics of a rank's own share do to the result: ``DataParallel(comm, sync=False)`` on the digits.

    python -m benchmarks.ghost_batches

One process is enough, because the number of ranks does not change the bits: the shards do.
"""

import argparse

import numpy as np

from nbnorm import FNN, SGD, DataParallel, load_digits

BATCH, EPOCHS, SEEDS, SHARDS = 128, 15, 3, (4, 16, 32, 64)


def result(seed: int, shards: int, *, sync: bool) -> tuple[float, float, float]:
    """Return the loss of the last epoch in training, and error and log loss on held-out digits."""
    from mpi4py import MPI

    X, y = load_digits()
    order = np.random.default_rng(seed).permutation(len(X))
    train, test = order[:1280], order[1280:]
    net = FNN([64, 64, 64, 10], seed=seed)
    history = net.fit(
        X[train], y[train], epochs=EPOCHS, batch_size=BATCH, optimizer=SGD(0.1, momentum=0.9), progress=False,
        comm=DataParallel(MPI.COMM_SELF, shards=shards, sync=sync),
        validation_data=(X[test], y[test]),
    )  # fmt: skip
    assert history.val_loss is not None
    return history.loss[-1], 1.0 - net.score(X[test], y[test]), history.val_loss[-1]


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    print("| statistics of | training loss | held-out error | held-out log loss |")
    print("| --- | --- | --- | --- |")
    for shards, sync in ((4, True), *((shards, False) for shards in SHARDS)):
        found = np.array([result(seed, shards, sync=sync) for seed in range(SEEDS)])
        (loss, error, log_loss), spread = found.mean(axis=0), found.std(axis=0)
        samples = BATCH if sync else BATCH // shards
        print(
            f"| {samples} samples | {loss:.4f} | {100 * error:.2f} % ± {100 * spread[1]:.2f} | "
            f"{log_loss:.3f} ± {spread[2]:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
