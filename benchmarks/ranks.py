"""What training over ranks costs, and a model of it.

    python -m benchmarks.ranks

prints the time of a sample in one process: without ``comm`` on one and on two threads, with ``comm`` on one.
Under a launcher it prints that of several ranks, what of it they spend in messages, and constants of MPI:

    mpiexec -n 2 python -m benchmarks.ranks

With ``--check`` both take networks and batches to which the model was not fitted.  With ``--predict`` the
first prints what the model of `step_seconds` says of clusters.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.common import labels, normal
from nbnorm import FNN, SGD, DataParallel, set_num_threads

SAMPLES, ROUNDS = 8192, 3
# Network, batch and shards, at least as many as ranks.
FITTED = [
    ((784, 512, 512, 10), batch, shards) for batch, shards in ((128, 2), (1024, 2), (1024, 16), (4096, 2))
]
OTHERS = [
    ((100, 64, 64, 10), 256, 1),
    ((100, 64, 64, 10), 4096, 1),
    ((784, 256, 256, 256, 10), 512, 1),
    ((784, 256, 256, 256, 10), 2048, 8),
    ((784, 1024, 10), 1024, 1),
]

# Of the model: seconds of a multiply-add and of an element in the passes of batch norm and the like, of a
# parameter in the sums and the update, and of the calls of a layer, for each shard and once.
MULTIPLY_ADD, ELEMENT, PARAMETER, OF_SHARD, OF_LAYER = 1 / 50e9, 20e-9, 2.8e-9, 190e-6, 460e-6
INTERCONNECTS = {"10 Gbit Ethernet": (20e-6, 1.1e9), "100 Gbit InfiniBand": (1.5e-6, 11e9)}
NETWORKS = ((100, 64, 64, 10), (784, 512, 512, 10), (784, 2048, 2048, 10))


def compute_seconds(sizes: tuple[int, ...], samples: float, shards: float) -> float:
    """Return the time of the arithmetic of a rank with so many samples of a mini-batch, in so many shards."""
    pairs = list(itertools.pairwise(sizes))
    products = 3 * sum(a * b for a, b in pairs) - sizes[0] * sizes[1]
    parameters = sum(a * b for a, b in pairs)
    of_sample = products * MULTIPLY_ADD + (sizes[0] + sum(sizes[1:-1])) * ELEMENT
    calls = len(pairs) * (shards * OF_SHARD + OF_LAYER)
    return samples * of_sample + (shards + 1) * parameters * PARAMETER + calls


def message_seconds(sizes: tuple[int, ...], ranks: int, shards: int, latency: float, bytes_: float) -> float:
    """Return the time of the messages of a step: two for each normalized layer, three more."""
    if ranks == 1:
        return 0.0
    parameters = sum(a * b for a, b in itertools.pairwise(sizes))
    hidden = sizes[1:-1]
    stages = np.ceil(np.log2(ranks))
    gathers = 2 * len(hidden) + 1
    statistics = 2 * 16 * shards * sum(hidden)
    gradients = 2 * 4 * parameters * (ranks - 1) / ranks
    return float((gathers + 2) * stages * latency + (statistics + gradients) / bytes_)


def step_seconds(sizes: tuple[int, ...], batch: float, ranks: int, latency: float, bytes_: float) -> float:
    """Return the time of a step with a shard for each rank."""
    return compute_seconds(sizes, batch / ranks, 1) + message_seconds(sizes, ranks, ranks, latency, bytes_)


def efficiency(sizes: tuple[int, ...], batch: float, ranks: int, latency: float, bytes_: float) -> float:
    """Return the speed beside that of so many ranks that only compute samples, in batches without end."""
    most = 1e9
    of_sample = compute_seconds(sizes, most, 1) / most
    return batch / ranks * of_sample / step_seconds(sizes, batch, ranks, latency, bytes_)


def predict() -> None:
    """Print the batch at which each is 80 % efficient, and the speed of that."""
    print("| network | interconnect | ranks | batch for 80 % | samples a second |")
    print("| --- | --- | --- | --- | --- |")
    for sizes in NETWORKS:
        for name, (latency, bytes_) in INTERCONNECTS.items():
            for ranks in (10, 100, 1000):
                low, high = float(ranks), 1e12
                for _ in range(100):
                    middle = (low * high) ** 0.5
                    enough = efficiency(sizes, middle, ranks, latency, bytes_) >= 0.8
                    low, high = (low, middle) if enough else (middle, high)
                rate = high / step_seconds(sizes, high, ranks, latency, bytes_)
                print(f"| {'-'.join(map(str, sizes))} | {name} | {ranks} | {high:,.0f} | {rate:,.0f} |")


class Meter:
    """Counts messages, their bytes and seconds, in the place of a communicator."""

    def __init__(self, comm: Any) -> None:
        self._comm, self.messages, self.bytes, self.seconds = comm, 0, 0, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._comm, name)

    def _timed(self, call: Callable[..., Any], sent: Any, received: Any) -> Any:
        start = time.perf_counter()
        request = call(sent, received)
        self.seconds += time.perf_counter() - start
        self.messages += 1
        self.bytes += received[0].nbytes
        return request

    def Allgatherv(self, sent: Any, received: Any) -> None:
        """Count and do it."""
        self._timed(self._comm.Allgatherv, sent, received)

    def Ialltoallv(self, sent: Any, received: Any) -> Started:
        """Count and begin it."""
        return Started(self, self._timed(self._comm.Ialltoallv, sent, received))

    def Iallgatherv(self, sent: Any, received: Any) -> Started:
        """Count and begin it."""
        return Started(self, self._timed(self._comm.Iallgatherv, sent, received))


class Started:
    """A message under way: to wait for its end counts, what is computed meanwhile does not."""

    def __init__(self, meter: Meter, request: Any) -> None:
        self._meter, self._request = meter, request

    def Wait(self) -> None:
        """Count and do it."""
        start = time.perf_counter()
        self._request.Wait()
        self._meter.seconds += time.perf_counter() - start


def measure(sizes: tuple[int, ...], batch: int, comm: DataParallel | None) -> float:
    """Return the least time of an epoch, after one that compiles."""
    rank, size = (0, 1) if comm is None else (comm.comm.Get_rank(), comm.comm.Get_size())
    rows = slice(rank * SAMPLES // size, (rank + 1) * SAMPLES // size)
    x, y = normal((SAMPLES, sizes[0]), "float32")[rows], labels(SAMPLES, sizes[-1])[rows]
    net, best = FNN(sizes, seed=0), float("inf")
    for turn in range(ROUNDS + 1):
        history = net.fit(
            x, y, epochs=1, batch_size=batch, optimizer=SGD(lr=0.01, momentum=0.9), progress=False, comm=comm
        )
        if turn:
            best = min(best, history.seconds[0])
    return best


def constants(world: Any) -> tuple[float, float]:
    """Return the seconds of a small message among all ranks, and the bytes a second of a large one."""
    found = []
    for floats in (2, 1 << 19):
        part, whole = np.zeros(floats), np.zeros(floats * world.Get_size())
        counts = [floats] * world.Get_size()
        best = float("inf")
        for _ in range(200 if floats == 2 else 10):
            world.Barrier()
            start = time.perf_counter()
            world.Allgatherv(part, [whole, counts])
            best = min(best, time.perf_counter() - start)
        found.append(best)
    return found[0], 8 * (1 << 19) * (world.Get_size() - 1) / found[1]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ranks", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="networks and batches that were not fitted")
    parser.add_argument("--predict", action="store_true", help="print what the model says of clusters")
    args = parser.parse_args()
    if args.predict:
        predict()
        return
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    size = world.Get_size()
    set_num_threads(1)
    if size == 1:
        print("| network | batch | shards | one thread | 2 threads | `comm`, one thread | model |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
    elif world.Get_rank() == 0:
        print(f"| network | batch | shards | {size} ranks | of it messages | messages of a step | model |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
    latency, bytes_ = constants(world) if size > 1 else (0.0, 1.0)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for sizes, batch, shards in OTHERS if args.check else FITTED:
        shards = max(shards, size)
        meter = Meter(world)
        steps = -(-SAMPLES // batch)
        us = 1e6 / SAMPLES
        with_comm = us * measure(sizes, batch, DataParallel(meter, shards=shards))
        # more ranks than cores take turns
        model = compute_seconds(sizes, batch / size, shards / size) * max(size / cores, 1.0)
        model += message_seconds(sizes, size, shards, latency, bytes_)
        model *= 1e6 / batch
        begin = f"| {'-'.join(map(str, sizes))} | {batch} | {shards} |"
        if size == 1:
            one = us * measure(sizes, batch, None)
            set_num_threads(2)
            two = us * measure(sizes, batch, None)
            set_num_threads(1)
            print(f"{begin} {one:.3g} | {two:.3g} | {with_comm:.3g} | {model:.3g} |", flush=True)
        elif world.Get_rank() == 0:
            each = steps * (ROUNDS + 1)
            part = us * meter.seconds / (ROUNDS + 1)
            counted = f"{meter.messages / each:.1f}, {meter.bytes / each / 1e6:.2f} MB"
            print(f"{begin} {with_comm:.3g} | {part:.1f} | {counted} | {model:.3g} |", flush=True)
    if size > 1 and world.Get_rank() == 0:
        print(f"latency {1e6 * latency:.1f} us, {bytes_ / 1e9:.1f} GB/s")


if __name__ == "__main__":
    main()
