"""Train on a Parquet file that is larger than the memory that the training takes.

The script writes a file of random samples whose classes a random network has chosen, trains over it in row
groups and, with ``--compare``, in memory too, each in a process of its own, and prints the accuracy on
other samples and the peak memory.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from nbnorm import FNN, SGD, History

FEATURES, CLASSES, GROUP = 784, 10, 4096
SIZES = (FEATURES, 512, 512, CLASSES)


def samples(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return random samples and the classes that a fixed random network gives them."""
    teacher = np.random.default_rng(0)
    first, second = teacher.normal(size=(FEATURES, 16)), teacher.normal(size=(16, CLASSES))
    X = np.random.default_rng([1, seed]).normal(size=(rows, FEATURES)).astype(np.float32)
    return X, (np.tanh(X @ first / 28) @ second).argmax(axis=1)


def write(path: Path, megabytes: float) -> int:
    """Write the file, a row group at a time; return the number of rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    groups = max(round(megabytes * 1e6 / (4 * FEATURES * GROUP)), 1)
    names = [f"x{j}" for j in range(FEATURES)]
    fields = [*((name, pa.float32()) for name in names), ("y", pa.int64())]
    with pq.ParquetWriter(path, pa.schema(fields), compression="none", use_dictionary=False) as writer:
        for group in range(groups):
            X, y = samples(GROUP, group)
            writer.write_table(pa.table([*X.T, y], schema=pa.schema(fields)))
    return groups * GROUP


def train(path: Path, epochs: int, *, in_memory: bool, times: bool) -> None:
    """Train and print a line."""
    import resource

    net = FNN(SIZES, norm="before", seed=0)
    net.fit(*samples(512, 10**6), epochs=1)  # compiles
    net = FNN(SIZES, norm="before", seed=0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start = time.perf_counter()
    options = {"epochs": epochs, "batch_size": 128, "optimizer": SGD(0.05, momentum=0.9)}
    history: History
    if in_memory:
        import pyarrow.parquet as pq

        table = pq.read_table(path)
        X = np.stack([table[f"x{j}"].to_numpy() for j in range(FEATURES)], axis=1)
        y = table["y"].to_numpy()
        del table
        start = time.perf_counter()
        history = net.fit(X, y, **options)
    else:
        history = net.fit(path, "y", **options)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    text = (
        f"{'in memory' if in_memory else 'row groups':10s} accuracy {net.score(*samples(4096, 10**7)):.4f}, "
    )
    text += f"peak memory {peak:.0f} MiB, of which {before:.0f} MiB before"
    if times:
        text += f", {min(history.seconds):.2f} s for the fastest epoch, {seconds:.2f} s in all"
    print(text, flush=True)


def main() -> None:
    """Write the file and train in other processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=600.0, help="size of the file")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--compare", action="store_true", help="train in memory too")
    parser.add_argument("--times", action="store_true", help="print seconds too")
    parser.add_argument("--short", action="store_true", help="13 MB and one epoch")
    parser.add_argument("--out", type=Path, help="folder of the printed lines")
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--in-memory", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train is not None:
        train(args.train, args.epochs, in_memory=args.in_memory, times=args.times)
        return
    if args.short:
        args.megabytes, args.epochs = 13.0, 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "samples.parquet"
        rows = write(path, args.megabytes)
        lines = [f"{rows} rows of {FEATURES} float32 features, {os.path.getsize(path) / 2**20:.0f} MiB\n"]
        print(lines[0], end="")
        command = [sys.executable, __file__, "--train", str(path), "--epochs", str(args.epochs)]
        command += ["--times"] if args.times else []
        for more in ([], ["--in-memory"])[: 2 if args.compare else 1]:
            done = subprocess.run([*command, *more], check=True, stdout=subprocess.PIPE, text=True)
            lines.append(done.stdout)
            print(done.stdout, end="", flush=True)
    if args.out is not None:
        (args.out / "larger_than_memory.txt").write_text("".join(lines), "utf-8")


if __name__ == "__main__":
    main()
