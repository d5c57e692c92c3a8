"""Layer norm and RMS norm alone, float32: nbnorm beside PyTorch, by turns.

python -m benchmarks.peers.sample_norms [--turns 5]
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import nbnorm

SHAPES = ((256, 1024), (4096, 512))
KINDS = ("layer norm", "RMS norm")
SECONDS = 0.1
# Largest difference of an array of results, relative to its largest element.
TOLERANCE = 1e-4

Call = Callable[[], Any]


def calls_of_nbnorm(kind: str, x: Any, dout: Any, gamma: Any, beta: Any) -> tuple[Call, Call]:
    """Return the forward pass, and both passes, into arrays that exist."""
    out, dx = np.empty_like(x), np.empty_like(x)

    def forward() -> Any:
        if kind == "RMS norm":
            return nbnorm.rms_norm_forward(x, gamma, out=out)
        return nbnorm.layer_norm_forward(x, gamma, beta, out=out)

    def both() -> Any:
        backward = nbnorm.rms_norm_backward if kind == "RMS norm" else nbnorm.layer_norm_backward
        result, *saved = forward()
        return result, *backward(dout, x, gamma, *saved, out=dx)

    return forward, both


def calls_of_torch(kind: str, *arrays: Any) -> tuple[Call, Call]:
    """Return the same with PyTorch, which allocates its results."""
    import torch

    x, dout, gamma, beta = map(torch.from_numpy, arrays)
    leaves = [array.clone().requires_grad_() for array in (x, gamma, beta)]
    if kind == "RMS norm":
        leaves.pop()

    def compute(x: Any, gamma: Any, *beta: Any) -> Any:
        if beta:
            return torch.nn.functional.layer_norm(x, x.shape[1:], gamma, *beta, 1e-5)
        return torch.nn.functional.rms_norm(x, x.shape[1:], gamma, 1e-5)

    def forward() -> Any:
        with torch.no_grad():
            return compute(*(leaf.detach() for leaf in leaves))

    def both() -> Any:
        out = compute(*leaves)
        return out.detach(), *torch.autograd.grad(out, leaves, dout)

    return forward, both


def seconds(call: Call) -> float:
    """Return the median time of a call."""
    times: list[float] = []
    while sum(times) < SECONDS or len(times) < 3:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=5)
    turns = parser.parse_args().turns
    print("| batch x features | | | threads | nbnorm | torch | torch / nbnorm |\n" + "| --- " * 7 + "|")
    for threads, shape, kind in itertools.product((2, 1), SHAPES, KINDS):
        nbnorm.set_num_threads(threads)
        torch.set_num_threads(threads)
        rng = np.random.default_rng(0)
        arrays = [rng.standard_normal(s, dtype=np.float32) for s in (shape, shape, shape[1:], shape[1:])]
        ours, theirs = calls_of_nbnorm(kind, *arrays), calls_of_torch(kind, *arrays)
        for got, expected in zip(ours[1](), theirs[1](), strict=True):
            expected = expected.numpy()
            assert abs(got - expected).max() <= TOLERANCE * abs(expected).max()
        for what, *calls in zip(("forward", "forward + backward"), ours, theirs, strict=True):
            times = [[seconds(call) for call in calls] for _ in range(turns)]
            own, other = (1e6 * statistics.median(column) for column in zip(*times, strict=True))
            head = f"{shape[0]} x {shape[1]} | {kind} | {what} | {threads}"
            print(f"| {head} | {own:.0f} us | {other:.0f} us | {other / own:.2f} |", flush=True)


if __name__ == "__main__":
    main()
