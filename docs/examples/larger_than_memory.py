"""Train on Parquet files that are larger than the memory that the training takes.

The script writes files of random samples whose classes a random network has chosen, trains over them in
row groups and, with ``--compare``, in memory too, each in a process of its own, and prints the accuracy on
other samples and the peak memory.  With ``--rates`` it trains over the first file alone, in row groups and
in memory in turns, and prints the samples that an epoch trains on in a second.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from nbnorm import FNN, SGD, History

FEATURES, CLASSES, GROUP, FILE = 784, 10, 8192, 20
SIZES = (FEATURES, 512, 512, CLASSES)


def samples(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return random samples and the classes that a fixed random network gives them."""
    teacher = np.random.default_rng(0)
    first, second = (teacher.normal(size=size).astype(np.float32) for size in ((FEATURES, 16), (16, CLASSES)))
    X = np.random.default_rng([1, seed]).standard_normal((rows, FEATURES), np.float32)
    return X, (np.tanh(X @ first / 28) @ second).argmax(axis=1)


def write(folder: Path, megabytes: float) -> None:
    """Write files of at most `FILE` row groups of `GROUP` rows, a row group at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    groups = max(round(megabytes * 1e6 / (4 * FEATURES * GROUP)), 1)
    schema = pa.schema([*((f"x{j}", pa.float32()) for j in range(FEATURES)), ("y", pa.int64())])
    options = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    for first in range(0, groups, FILE):
        path = folder / f"samples-{first // FILE:03d}.parquet"
        with pq.ParquetWriter(path, schema, **options) as writer:
            for group in range(first, min(first + FILE, groups)):
                X, y = samples(GROUP, group)
                writer.write_table(pa.table([*np.ascontiguousarray(X.T), y], schema=schema))


def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the samples of a file or folder in memory."""
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    return np.stack([table[f"x{j}"].to_numpy() for j in range(FEATURES)], axis=1), table["y"].to_numpy()


def fit(X: object, y: object, epochs: int) -> tuple[FNN, History]:
    """Train a new network."""
    net = FNN(SIZES, norm="before", seed=0)
    return net, net.fit(X, y, epochs=epochs, batch_size=128, optimizer=SGD(0.05, momentum=0.9))


def train(path: Path, epochs: int, *, in_memory: bool, times: bool) -> None:
    """Train and print a line or two."""
    import resource

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    fit(*samples(512, 10**6), 1)  # compiles
    before = peak()
    start = time.perf_counter()
    net, history = fit(*(read(path) if in_memory else (path, "y")), epochs)
    seconds = time.perf_counter() - start
    most = peak()
    text = (
        f"{'in memory' if in_memory else 'row groups':10s} accuracy {net.score(*samples(4096, 10**7)):.4f}, "
        f"peak memory {most:.0f} MiB, of which {before:.0f} MiB before"
    )
    if times:
        text += f",\n{'':10s} {min(history.seconds):.2f} s for the fastest epoch, {seconds:.2f} s in all"
    print(text, flush=True)


def rates(path: Path, rounds: int) -> None:
    """Print the rates of epochs over row groups and in memory, in turns."""
    X, y = read(path)
    fit(X[:512], y[:512], 1)  # compiles
    found: dict[str, list[float]] = {"row groups": [], "in memory": []}
    for _ in range(rounds):
        for name, data in (("row groups", (path, "y")), ("in memory", (X, y))):
            found[name].append(len(X) / fit(*data, 1)[1].seconds[0])
    for name, of_rounds in found.items():
        print(f"{name:10s} {', '.join(f'{rate:.0f}' for rate in of_rounds)} samples in a second")
    streamed, in_memory = (np.median(of_rounds) for of_rounds in found.values())
    print(f"{streamed / in_memory:.3f} of the rate in memory (medians)")


@contextlib.contextmanager
def folder_of(given: Path | None) -> Iterator[Path]:
    """Yield the folder of the files: one that stays, or one for the time being."""
    if given is None:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    else:
        given.mkdir(parents=True, exist_ok=True)
        yield given


def main() -> None:
    """Write the files and train in other processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=600.0, help="size of all files")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where the files stay; those that it has are used")
    parser.add_argument("--compare", action="store_true", help="train in memory too")
    parser.add_argument("--rates", type=int, metavar="ROUNDS", help="time so many epochs of each kind")
    parser.add_argument("--times", action="store_true", help="print seconds too")
    parser.add_argument("--short", action="store_true", help="26 MB and one epoch")
    parser.add_argument("--out", type=Path, help="folder of the printed lines")
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--in-memory", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train is not None:
        train(args.train, args.epochs, in_memory=args.in_memory, times=args.times)
        return
    if args.short:
        args.megabytes, args.epochs = 26.0, 1
    with folder_of(args.folder) as folder:
        if not any(folder.iterdir()):
            write(folder, args.megabytes)
        files = sorted(folder.iterdir())
        if args.rates is not None:
            rates(files[0], args.rates)
            return
        size = sum(map(os.path.getsize, files))
        lines = [f"{len(files)} files of {FEATURES} float32 features, {size / 1e9:.2f} GB\n"]
        print(lines[0], end="", flush=True)
        command = [sys.executable, __file__, "--train", str(folder), "--epochs", str(args.epochs)]
        command += ["--times"] if args.times else []
        for more in ([], ["--in-memory"])[: 2 if args.compare else 1]:
            done = subprocess.run([*command, *more], check=True, stdout=subprocess.PIPE, text=True)
            lines.append(done.stdout)
            print(done.stdout, end="", flush=True)
    if args.out is not None:
        (args.out / "larger_than_memory.txt").write_text("".join(lines), "utf-8")


if __name__ == "__main__":
    main()
