"""Where the time of a training step goes: the shares of its compiled functions, from samples of ``perf``.

The functions are compiled apart and found by their addresses, so each sample belongs to one of them; the
time that threads wait for each other is that of ``epoch_part``, which holds the barrier, and of the
system, to which a thread that has waited long offers its core.
Needs Linux and its ``perf``:  python -m benchmarks.profile [--rows 4 5] [--threads 1 2]
"""

from __future__ import annotations

import argparse
import bisect
import collections
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import NETWORKS, labels, normal
from nbnorm import FNN, SGD, set_num_threads
from nbnorm.compile import pointers
from nbnorm.engine import backward, clipping, forward, gather, layer_norm, losses, steps

# Bytes behind a function's address that still belong to it.
REACH = 60_000

GROUPS = {
    "products": ("nbnorm_tile_",),
    "batch norm and activation": (
        "nbnorm_row_",
        "nbnorm_layer_norm_",
        "forward_",
        "backward_",
        "wide_statistics",
    ),
    "reading the batch": ("nbnorm_gather_", "gather"),
    "loss": ("loss_part", "_block"),
    "biases, order of samples": ("bias_part", "permutation", "nbnorm_vector_"),
    "waiting and order of work": ("epoch_part",),
}


def addresses() -> list[tuple[int, str]]:
    """Return the address and the name of every compiled function."""
    found = [(address, name) for name, (_, address) in pointers.EMITTED.items()]
    for module in (backward, clipping, forward, gather, layer_norm, losses, steps):
        for name, function in vars(module).items():
            for result in getattr(function, "overloads", {}).values():
                place = result.library.get_pointer_to_function(result.fndesc.llvm_func_name)
                found.append((place, name))
    return sorted(found)


def group(name: str) -> str:
    for title, parts in GROUPS.items():
        if any(part in name for part in parts):
            return title
    return "rest of the step"


def profile(name: str, threads: int, seconds: float) -> dict[str, float]:
    """Train for some seconds and return the share of each group."""
    sizes, batch = NETWORKS[name]
    samples = batch * max(2, 2_000_000 // (batch * sizes[0]))
    x, y = normal((samples, sizes[0]), "float32"), labels(samples, sizes[-1])
    net, optimizer = FNN(sizes, seed=0), SGD(lr=0.01, momentum=0.9)
    set_num_threads(threads)
    history = net.fit(x, y, epochs=2, batch_size=batch, optimizer=optimizer)
    epochs = max(1, int(seconds / history.seconds[-1]))
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "perf.data"
        words = ["perf", "record", "-q", "-F", "4000", "-o", str(data), "-p", str(os.getpid())]
        with subprocess.Popen(words, stderr=subprocess.DEVNULL) as recorder:
            time.sleep(0.5)
            net.fit(x, y, epochs=epochs, batch_size=batch, optimizer=optimizer)
            recorder.send_signal(signal.SIGINT)
        words = ["perf", "script", "-i", str(data), "-F", "ip"]
        found = subprocess.run(words, capture_output=True, text=True, check=False).stdout.split()
    known = addresses()
    places = [place for place, _ in known]
    counts: collections.Counter[str] = collections.Counter()
    for word in found:
        ip = int(word, 16)
        at = bisect.bisect(places, ip) - 1
        if ip >> 47:
            counts["waiting and order of work"] += 1
        elif at >= 0 and ip - places[at] < REACH:
            counts[group(known[at][1])] += 1
        else:
            counts["Python and libraries"] += 1
    total = max(sum(counts.values()), 1)
    return {title: count / total for title, count in counts.most_common()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__.splitlines()[0])
    rows = list(NETWORKS)
    parser.add_argument("--rows", nargs="+", type=int, default=range(1, len(rows) + 1), help="; ".join(rows))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--seconds", type=float, default=4.0, help="of each training")
    args: Any = parser.parse_args()
    titles = [*GROUPS, "rest of the step", "Python and libraries"]
    print("| layers, batch | threads | " + " | ".join(titles) + " |")
    print("| --- " * (2 + len(titles)) + "|")
    for row in args.rows:
        for threads in args.threads:
            shares = profile(rows[row - 1], threads, args.seconds)
            text = " | ".join(f"{np.round(100 * shares.get(title, 0.0), 1)} %" for title in titles)
            print(f"| {rows[row - 1]} | {threads} | {text} |", flush=True)


if __name__ == "__main__":
    main()
