"""Fit and transform a memory-mapped file, and print the memory that this process took for itself.

    python -m benchmarks.peers.large_file [--folder DIRECTORY] [--gigabytes N]

Pages of the maps are the page cache's; what counts is anonymous memory.
"""

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from nbnorm import Standardizer

FEATURES = 100


def anonymous() -> int:
    """Return the anonymous resident memory of this process in bytes."""
    with open("/proc/self/status") as file:
        return 1024 * int(next(line for line in file if line.startswith("RssAnon")).split()[1])


class Peak(threading.Thread):
    """Watches the anonymous memory every few milliseconds."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = anonymous()
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.005):
            self.peak = max(self.peak, anonymous())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--gigabytes", type=float, default=4.0)
    args = parser.parse_args()
    rows = int(args.gigabytes * 1e9) // (4 * FEATURES)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        source, target = Path(folder) / "x.npy", Path(folder) / "y.npy"
        x = np.lib.format.open_memmap(source, "w+", np.float32, (rows, FEATURES))
        rng = np.random.default_rng(0)
        for start in range(0, rows, 100_000):
            part = x[start : start + 100_000]
            part[:] = rng.standard_normal(part.shape, np.float32) + 100
        del x, part
        x = np.load(source, mmap_mode="r")
        out = np.lib.format.open_memmap(target, "w+", np.float32, x.shape)
        before = anonymous()
        watch = Peak()
        watch.start()
        start = time.perf_counter()
        standardizer = Standardizer().fit(x)
        fitted = time.perf_counter()
        standardizer.transform(x, out=out)
        end = time.perf_counter()
        watch.done.set()
        watch.join()
        z = out[:: rows // 1000].astype(np.float64)
        report = {
            "gigabytes": x.nbytes / 1e9,
            "fit_seconds": fitted - start,
            "transform_seconds": end - fitted,
            "anonymous_megabytes_before": before / 1e6,
            "anonymous_megabytes_peak": watch.peak / 1e6,
            "mean_of_a_sample": float(np.abs(z.mean(axis=0)).max()),
            "standard_deviation_of_a_sample": [float(z.std(axis=0).min()), float(z.std(axis=0).max())],
        }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
