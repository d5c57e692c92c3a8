"""What training over ranks costs: processor time of a sample with and without ``comm``, on one thread.

    python -m benchmarks.ranks

Under a launcher it prints the wall time of an epoch with this number of ranks:

    mpiexec -n 2 python -m benchmarks.ranks
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

from benchmarks.common import labels, normal
from nbnorm import FNN, SGD, DataParallel, set_num_threads

SIZES, SAMPLES, ROUNDS = (784, 512, 512, 10), 8192, 3
CASES = ((128, 2), (128, 16), (1024, 2), (1024, 16))  # batch and shards


def measure(batch: int, comm: DataParallel | None, clock: Callable[[], float]) -> float:
    """Return the least time of an epoch, after one that compiles."""
    rank, size = (0, 1) if comm is None else (comm.comm.Get_rank(), comm.comm.Get_size())
    rows = slice(rank * SAMPLES // size, (rank + 1) * SAMPLES // size)
    x, y = normal((SAMPLES, SIZES[0]), "float32")[rows], labels(SAMPLES, SIZES[-1])[rows]
    net, best = FNN(SIZES, seed=0), float("inf")
    for turn in range(ROUNDS + 1):
        start = clock()
        net.fit(
            x, y, epochs=1, batch_size=batch, optimizer=SGD(lr=0.01, momentum=0.9), progress=False, comm=comm
        )
        if turn:
            best = min(best, clock() - start)
    return best


def main() -> None:
    argparse.ArgumentParser(
        prog="python -m benchmarks.ranks", description=__doc__.splitlines()[0]
    ).parse_args()
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    alone = world.Get_size() == 1
    clock = time.process_time if alone else time.perf_counter
    if alone:
        set_num_threads(1)
        print("| batch | shards | without `comm`, us a sample | with `comm` |\n| --- | --- | --- | --- |")
    for batch, shards in CASES:
        with_comm = measure(batch, DataParallel(world, shards=shards), clock)
        if alone:
            plain = measure(batch, None, clock)
            print(
                f"| {batch} | {shards} | {1e6 * plain / SAMPLES:.0f} | {1e6 * with_comm / SAMPLES:.0f} |",
                flush=True,
            )
        elif world.Get_rank() == 0:
            print(
                f"batch {batch}, {shards} shards, {world.Get_size()} ranks: {with_comm:.3f} s an epoch",
                flush=True,
            )


if __name__ == "__main__":
    main()
