"""Where the seconds of a first training go that compiles everything: by module and by function.

It trains one epoch on the digits with an empty cache:  python -m benchmarks.compilation [--functions 12]
"""

from __future__ import annotations

import argparse
import collections
import os
import tempfile
import time
from collections.abc import Callable
from typing import Any

from numba.core import event


class Compilations(event.Listener):
    """Seconds of each compiled function, those of the functions that it calls apart."""

    def __init__(self) -> None:
        self.seconds: collections.Counter[tuple[str, str]] = collections.Counter()
        self._running: list[list[float]] = []

    def on_start(self, event: Any) -> None:
        self._running.append([time.perf_counter(), 0.0])

    def on_end(self, event: Any) -> None:
        begun, inner = self._running.pop()
        seconds = time.perf_counter() - begun
        function = event.data["dispatcher"].py_func
        self.seconds[function.__module__, function.__qualname__] += seconds - inner
        if self._running:
            self._running[-1][1] += seconds


def measure() -> tuple[float, Compilations]:
    """Return the seconds of the first epoch, and those of what it has compiled."""
    import nbnorm
    from nbnorm.compile import pointers

    found = Compilations()
    event.register("numba:compile", found)
    emitted = pointers.emitted

    def timed(name: str, write: Callable[[Any], None]) -> int:
        begun = time.perf_counter()
        address = emitted(name, write)
        found.seconds["functions of vectors", name] += time.perf_counter() - begun
        return address

    pointers.emitted = timed
    nbnorm.set_num_threads(1)  # or a second process compiles a part
    X, y = nbnorm.load_digits()
    begun = time.perf_counter()
    nbnorm.FNN((64, 64, 10), seed=0).fit(X, y, epochs=1, progress=False)
    return time.perf_counter() - begun, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--functions", type=int, default=12, help="how many functions are shown")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NUMBA_CACHE_DIR"] = folder
        from numba import config

        config.CACHE_DIR = folder
        seconds, found = measure()
    print(f"first epoch {seconds:.1f} s, of which compilation {sum(found.seconds.values()):.1f} s")
    modules: collections.Counter[str] = collections.Counter()
    for (module, _), spent in found.seconds.items():
        modules[module] += spent
    for module, spent in modules.most_common():
        print(f"{spent:6.2f}  {module}")
    for (module, name), spent in found.seconds.most_common(options.functions):
        print(f"{spent:6.2f}  {module}.{name}")


if __name__ == "__main__":
    main()
