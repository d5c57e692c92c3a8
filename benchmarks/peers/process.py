"""A contestant in a process of its own, told over a pipe what to do next.

All contestants of a comparison are alive at once and take turns, so that a drift of the machine's speed
meets all of them alike; only one of them works at any time.  A contestant imports its own library and
none of the others, so its peak memory is its own.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

# These two keep OpenBLAS off its fastest kernels.
HANDICAPS = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
# What the libraries read the number of threads from, besides the cores they may run on.
COUNTS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")

# Seconds after which the threads of a library that has just worked have gone to sleep.
SETTLE = 0.1


class Remote:
    """An object of class `name` of `module`, made and living in another process.

    Parameters
    ----------
    threads : int
        Cores that the process may use, and threads that its library is told to use.
    core : str, optional
        Processor whose kernels OpenBLAS is held to.
    """

    def __init__(
        self, module: str, name: str, threads: int, core: str | None = None, **arguments: Any
    ) -> None:
        environment = {key: value for key, value in os.environ.items() if key not in HANDICAPS}
        environment.update(dict.fromkeys(COUNTS, str(threads)), JAX_PLATFORMS="cpu", PYTHONWARNINGS="ignore")
        if core is not None:
            environment["OPENBLAS_CORETYPE"] = core
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.peers.process"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._send({"module": module, "name": name, "threads": threads, "arguments": arguments})
        self._made = False  # the answer comes before that to the first call: all processes start at once

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()

    def _receive(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} has died with code {self._process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{self.name}: {answer['error']}")
        return answer["result"]

    def call(self, method: str, **arguments: Any) -> Any:
        """Call a method there and return its result, which JSON can write."""
        if not self._made:
            self._receive()
            self._made = True
        self._send({"method": method, "arguments": arguments})
        result = self._receive()
        time.sleep(SETTLE)
        return result

    def close(self) -> None:
        """End the process."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def peak_memory() -> int:
    """Bytes of this process's largest resident set."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not from `getrusage`: on Linux its peak begins with that of the parent at the time of the fork.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def serve() -> None:
    """Make the object of the first message, then answer one message after the other."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not get between the answers

    thing: Any = None
    for line in sys.stdin:
        message = json.loads(line)
        try:
            if thing is None:
                threads = message["threads"]
                if hasattr(os, "sched_setaffinity"):
                    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
                kind = getattr(importlib.import_module(message["module"]), message["name"])
                thing = kind(threads=threads, **message["arguments"])
                result = None
            else:
                result = getattr(thing, message["method"])(**message["arguments"])
            answer = {"result": result}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve()
