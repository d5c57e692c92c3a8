"""Where a pool of threads becomes faster than one: the time of a step on one and on several, by turns.

nbnorm trains on one thread where a step has fewer than `nbnorm.model.engines.POOL_WORK` operations.

    python -m benchmarks.switch_over [--threads 2]
"""

from __future__ import annotations

import argparse
import statistics

from benchmarks.common import labels, normal
from nbnorm import FNN, SGD, set_num_threads
from nbnorm.model import engines

# Layer sizes and batch, from a tenth of the limit to ten times as much.
NETWORKS = (
    ((16, 32, 10), 32),
    ((64, 64, 10), 32),
    ((64, 64, 10), 64),
    ((32, 64, 64, 10), 64),
    ((64, 128, 10), 64),
    ((64, 128, 10), 128),
    ((100, 128, 128, 10), 64),
    ((100, 128, 128, 10), 128),
    ((784, 100, 10), 60),
    ((784, 100, 10), 128),
    ((784, 256, 10), 128),
)
ROUNDS = 7
SECONDS = 0.05  # of a turn


def measure(sizes: tuple[int, ...], batch: int, threads: int) -> tuple[float, float]:
    """Return the median seconds of a step on one thread and on a pool."""
    samples = batch * 100
    x, y = normal((samples, sizes[0]), "float32"), labels(samples, sizes[-1])
    net, optimizer = FNN(sizes, seed=0), SGD(lr=0.01, momentum=0.9)
    times: dict[int, list[float]] = {1: [], threads: []}
    epochs = 2
    for turn in range(ROUNDS + 1):
        for count, found in times.items():
            set_num_threads(count)
            history = net.fit(x, y, epochs=epochs, batch_size=batch, optimizer=optimizer, progress=False)
            if turn:
                found.append(statistics.median(history.seconds) / 100)
        if not turn:
            epochs = max(2, int(SECONDS / history.seconds[-1]))
    return statistics.median(times[1]), statistics.median(times[threads])


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.switch_over", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--threads", type=int, default=2)
    threads = parser.parse_args().threads
    limit, engines.POOL_WORK = engines.POOL_WORK, 0.0
    print(f"POOL_WORK is {limit:.3g}\n")
    print(f"| layers, batch | operations | 1 thread | {threads} threads | ratio |")
    print("| --- | --- | --- | --- | --- |")
    for sizes, batch in sorted(NETWORKS, key=lambda row: engines.operations(*row)):
        one, pool = measure(sizes, batch, threads)
        name = f"{'-'.join(map(str, sizes))}, {batch}"
        print(
            f"| {name} | {engines.operations(sizes, batch):.2g} | {1e6 * one:.1f} us | {1e6 * pool:.1f} us "
            f"| {one / pool:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
