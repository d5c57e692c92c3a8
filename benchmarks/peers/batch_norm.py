"""Batch norm alone, training mode, float32: nbnorm beside PyTorch, and beside what the memory allows."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from .machine import quiet_turns
from .process import Remote

SHAPES = ((256, 1024), (4096, 512), (65536, 256))
EPS = 1e-5
# Largest difference of an array of results, relative to its largest element.
TOLERANCE = 1e-4

Array = np.ndarray
Entry = dict[str, Any]


class Contestant:
    """The same numbers for all, and the clock."""

    def __init__(self, *, shape: tuple[int, int], threads: int) -> None:
        rng = np.random.default_rng(0)
        normal = rng.standard_normal
        self.x = normal(shape, dtype=np.float32)
        self.dout = normal(shape, dtype=np.float32)
        self.gamma = normal(shape[1], dtype=np.float32)
        self.beta = normal(shape[1], dtype=np.float32)
        self.threads = threads
        self.build()

    def build(self) -> None:
        raise NotImplementedError

    def forward(self) -> Any:
        """Return out, or a tuple that begins with it."""
        raise NotImplementedError

    def both(self) -> Any:
        """Return out, dx, dgamma, dbeta."""
        raise NotImplementedError

    def digest(self) -> list[list[float]]:
        """Return the results as projections on fixed vectors, which are short enough for a pipe."""
        rng = np.random.default_rng(1)
        direction = rng.standard_normal(len(self.x))
        results = [np.asarray(result, np.float64) for result in self.both()]
        return [(direction @ result if result.ndim == 2 else result).tolist() for result in results]

    def times(self, what: str, least: float) -> float:
        """Return the median time of a call, from calls of `least` seconds together."""
        call: Callable[[], Any] = getattr(self, what)
        seconds: list[float] = []
        total = 0.0
        while total < least or len(seconds) < 3:
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
            total += seconds[-1]
        return statistics.median(seconds)


class Nbnorm(Contestant):
    """`batch_norm_forward` and `batch_norm_backward` into arrays that exist."""

    def build(self) -> None:
        import nbnorm

        nbnorm.set_num_threads(self.threads)
        self.out, self.dx = np.empty_like(self.x), np.empty_like(self.x)

    def forward(self) -> Any:
        from nbnorm import batch_norm_forward

        return batch_norm_forward(self.x, self.gamma, self.beta, eps=EPS, out=self.out)

    def both(self) -> Any:
        from nbnorm import batch_norm_backward

        out, mean, rstd = self.forward()
        return out, *batch_norm_backward(self.dout, self.x, self.gamma, mean, rstd, out=self.dx)


class Torch(Contestant):
    """`torch.nn.functional.batch_norm` and its gradients; torch allocates its results."""

    def build(self) -> None:
        import torch

        torch.set_num_threads(self.threads)
        self.arrays = [torch.from_numpy(array) for array in (self.x, self.gamma, self.beta)]
        self.leaves = [array.clone().requires_grad_() for array in self.arrays]
        self.upstream = torch.from_numpy(self.dout)

    def forward(self) -> Any:
        import torch

        x, gamma, beta = self.arrays
        with torch.no_grad():
            return torch.nn.functional.batch_norm(x, None, None, gamma, beta, training=True, eps=EPS)

    def both(self) -> Any:
        import torch

        x, gamma, beta = self.leaves
        out = torch.nn.functional.batch_norm(x, None, None, gamma, beta, training=True, eps=EPS)
        return out.detach(), *torch.autograd.grad(out, self.leaves, self.upstream)


def floor(shape: tuple[int, int], limits: dict[str, float]) -> dict[str, float]:
    """Return the seconds that memory alone takes.

    Forward, x is read for its statistics, then read and out is written; backward, dout and x are read
    for the sums, then both are read and dx is written.
    """
    gigabytes = 4e-9 * shape[0] * shape[1]
    read, copy = gigabytes / limits["read"], 2 * gigabytes / limits["copy"]
    return {"forward": read + copy, "both": read + copy + 3 * read + copy}


def measure(shape: tuple[int, int], *, threads: int, rounds: int = 5, least: float = 0.3) -> Entry:
    """Compare the results and time both functions of both libraries by turns; seconds, medians."""
    with contextlib.ExitStack() as stack:
        remotes = {}
        for name, kind in (("nbnorm", "Nbnorm"), ("torch", "Torch")):
            remote = Remote("benchmarks.peers.batch_norm", kind, threads, shape=shape)
            remotes[name] = stack.enter_context(remote)
        expected, got = (remote.call("digest") for remote in remotes.values())
        worst = 0.0
        for mine, other in zip(expected, got, strict=True):
            worst = max(worst, float(np.abs(np.subtract(other, mine)).max() / np.abs(mine).max()))
        if not worst <= TOLERANCE:
            raise RuntimeError(f"torch differs from nbnorm by {worst:.2g} at {shape}")
        meter = stack.enter_context(Remote("benchmarks.peers.machine", "Meter", threads))
        calls = ("forward", "both")
        times: dict[str, dict[str, list[float]]] = {what: {name: [] for name in remotes} for what in calls}

        def play(turn: int) -> None:
            for name in list(remotes)[:: 1 if turn % 2 else -1]:
                for what, found in times.items():
                    found[name].append(remotes[name].call("times", what=what, least=least))

        quiet, limits = quiet_turns(lambda: meter.call("measure", memory=True), play, rounds)
    return {
        "shape": shape,
        "threads": threads,
        "limits": limits,
        "floor": floor(shape, limits),
        "difference": worst,
        "seconds": {
            what: {name: statistics.median(turns[turn] for turn in quiet) for name, turns in found.items()}
            for what, found in times.items()
        },
    }
