"""Time of a training step with batch norm: nbnorm beside PyTorch, JAX and scikit-learn.

Before anything is timed, all take the same steps from the same initial values, and must end with the
same values.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import tempfile
from typing import Any

import numpy as np

from . import networks
from .machine import quiet_turns
from .process import Remote

CONTESTANTS = {
    "nbnorm": "Nbnorm",
    "torch eager": "Torch",
    "torch.compile": "TorchCompile",
    "jax jit": "Jax",
    "jax scan": "JaxScan",
    "scikit-learn": "ScikitLearn",
    "nbnorm bfloat16": "NbnormBfloat16",
    "torch eager bfloat16": "TorchBfloat16",
    "torch.compile bfloat16": "TorchCompileBfloat16",
    "jax scan bfloat16": "JaxScanBfloat16",
}
# It has no batch norm, so there is nothing to compare its results with.
WITHOUT_NORM = ("scikit-learn",)

# Batches of an epoch, by their size: the slowest epoch takes about a second.
STEPS = {32: 500, 60: 200, 128: 60, 256: 20, 512: 8}

# Steps whose results are compared, and their learning rate, which is large so that the values move.
COMPARED = 5
COMPARED_LR = 0.1
# Largest difference of an array's values after these steps, in the Euclidean norm and relative to the
# length of the way they went from their initial values; of the loss, relative to it.  tanh shows roundings
# alone.  With relu, rounding puts a few of a million units on the other side of the corner, where the
# gradient jumps: one such unit in a batch is a difference of about a thousandth.
TOLERANCES = {"tanh": 1e-4, "sigmoid": 1e-4, "relu": 1e-2}
LOSS_TOLERANCE = 1e-5
# Products of bfloat16 are rounded to 8 binary digits, and each library rounds other things beside them.
BFLOAT16_TOLERANCE, BFLOAT16_LOSS_TOLERANCE = 0.3, 1e-2
# The network of torch.compile is that of torch eager, and another activation would have it compile again.
ONCE = ("torch.compile", "torch.compile bfloat16")

LR = 1e-3
WARM_UP = 0.05  # seconds

Entry = dict[str, Any]


def megaflops(sizes: tuple[int, ...], batch: int) -> float:
    """Arithmetic of a step's matrix products: the first layer needs no gradient of its input."""
    products = [a * b for a, b in itertools.pairwise(sizes)]
    return 2.0 * batch * (3 * sum(products) - products[0]) / 1e6


def difference(start: dict[str, Any], expected: dict[str, Any], got: dict[str, Any]) -> tuple[float, float]:
    """Return how far two losses, and two arrays of values at most, lie from each other."""
    if set(got) != set(expected):
        raise RuntimeError(f"values {sorted(set(got) ^ set(expected))} are missing or foreign")
    loss = abs(float(got["loss"]) / float(expected["loss"]) - 1.0)
    worst = 0.0
    for name in set(expected) - {"loss"}:
        way = np.linalg.norm(np.float64(expected[name]) - start[name])
        worst = max(worst, float(np.linalg.norm(np.float64(got[name]) - expected[name]) / way))
    return loss, worst


def compare(
    folder: str, problem: str, activation: str, remotes: dict[str, Remote]
) -> tuple[Entry, dict[str, str]]:
    """Let all take the same steps, first with tanh and then as they are timed; take out who cannot.

    Returns
    -------
    differences : dict
        For each activation and contestant, how far its loss and its values are from nbnorm's; more than the
        tolerances is an error.
    absent : dict of str to str
        Who has failed, and why.
    """
    with np.load(problem) as file:
        start = dict(file)
    differences: Entry = {}
    absent = {}
    for kind in dict.fromkeys(("tanh", activation)):
        results = {}
        for name, remote in list(remotes.items()):
            if kind != activation and name in (*ONCE, *WITHOUT_NORM):
                continue
            path = f"{folder}/{remote.name}.npz"
            try:
                remote.call("steps", count=COMPARED, lr=COMPARED_LR, activation=kind, save=path)
            except RuntimeError as error:
                if name == "nbnorm":
                    raise
                absent[name] = str(error)
                remotes.pop(name).close()
                continue
            if name not in WITHOUT_NORM:
                with np.load(path) as file:
                    results[name] = dict(file)
        expected = results.pop("nbnorm")
        differences[kind] = {name: difference(start, expected, got) for name, got in results.items()}
        for name, (loss, values) in differences[kind].items():
            most = LOSS_TOLERANCE, TOLERANCES[kind]
            if name.endswith("bfloat16"):
                most = BFLOAT16_LOSS_TOLERANCE, BFLOAT16_TOLERANCE
            if not (loss <= most[0] and values <= most[1]):
                raise RuntimeError(
                    f"after {COMPARED} steps with {kind}, {name} differs from nbnorm by {loss:.2g} in the "
                    f"loss and {values:.2g} in the values"
                )
    return differences, absent


def measure(
    sizes: tuple[int, ...],
    batch: int,
    *,
    threads: int,
    norm: str = "after",
    activation: str = "relu",
    contestants: tuple[str, ...] = tuple(CONTESTANTS),
    rounds: int = 5,
    least: float = 0.3,
) -> Entry:
    """Compare the contestants' results and time their steps.

    Parameters
    ----------
    rounds : int
        Turns that each contestant has; its time is the median over them.
    least : float
        Seconds of a turn, at least; it always consists of whole epochs.

    Returns
    -------
    dict
        For each contestant ``seconds`` of a step and ``turns``, those of each turn, of which the ``quiet``
        ones count, ``differences`` and
        ``absent`` (with the reason); ``limits`` of the machine.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        path = f"{folder}/problem.npz"
        networks.problem(path, list(sizes), batch, STEPS[batch], norm)
        given = {"path": path, "sizes": sizes, "batch": batch, "norm": norm, "activation": activation}
        remotes = {name: stack.enter_context(_contestant(name, threads, given)) for name in contestants}
        differences, absent = compare(folder, path, activation, remotes)
        timed = take_turns(remotes, batch, threads, rounds, least)
    return {
        "sizes": sizes,
        "batch": batch,
        "threads": threads,
        "norm": norm,
        "activation": activation,
        "megaflops": megaflops(sizes, batch),
        **timed,
        "differences": differences,
        "absent": absent,
    }


def activations(
    sizes: tuple[int, ...], batch: int, *, threads: int, norm: str, rounds: int, least: float
) -> Entry:
    """Time the steps of nbnorm with each of three activations, by turns; the result is as from `measure`."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        path = f"{folder}/problem.npz"
        networks.problem(path, list(sizes), batch, STEPS[batch], norm)
        remotes = {}
        for name in ("relu", "sigmoid", "tanh"):
            given = {"path": path, "sizes": sizes, "batch": batch, "norm": norm, "activation": name}
            remotes[name] = stack.enter_context(_contestant("nbnorm", threads, given))
            remotes[name].call("steps", count=1, lr=LR, activation=name, save=f"{folder}/values.npz")
        timed = take_turns(remotes, batch, threads, rounds, least)
    return {
        "sizes": sizes,
        "batch": batch,
        "threads": threads,
        "norm": norm,
        "megaflops": megaflops(sizes, batch),
        **timed,
    }


def _contestant(name: str, threads: int, given: Entry) -> Remote:
    """Start the process of a contestant."""
    return Remote("benchmarks.peers.networks", CONTESTANTS[name], threads, **given)


def take_turns(remotes: dict[str, Remote], batch: int, threads: int, rounds: int, least: float) -> Entry:
    """Time the steps of several networks by turns, in rotating order.

    Returns
    -------
    dict
        ``seconds`` of a step, the medians over the ``quiet`` of the ``turns``; ``limits`` of the machine.
    """
    for remote in remotes.values():
        remote.call("epochs", lr=LR, least=WARM_UP)
    turns: dict[str, list[float]] = {name: [] for name in remotes}

    def play(turn: int) -> None:
        order = list(remotes)
        order = order[turn % len(order) :] + order[: turn % len(order)]
        for name in order:
            seconds = remotes[name].call("epochs", lr=LR, least=least)
            turns[name].append(statistics.fmean(seconds) / STEPS[batch])

    with Remote("benchmarks.peers.machine", "Meter", threads) as meter:
        quiet, limits = quiet_turns(lambda: meter.call("measure", memory=False), play, rounds)
    return {
        "limits": limits,
        "quiet": quiet,
        "seconds": {name: statistics.median(times[turn] for turn in quiet) for name, times in turns.items()},
        "turns": turns,
    }
