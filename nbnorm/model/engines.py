"""From a network to the compiled engine: its arrays in the engine's layout, and how many threads pay."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from numba import config

from nbnorm.compile.threads import get_num_threads
from nbnorm.engine.gather import Data, SparseData
from nbnorm.engine.run import Engine, Layout, Run
from nbnorm.engine.table import FORWARD, MODE, TRAIN

if TYPE_CHECKING:
    from nbnorm.model.network import FNN

# Floating-point operations of one step from which a pool of threads is faster than one thread: with two
# cores of a Zen 4 the pool was slower in 13 of 14 measurements below, and faster in 7 of 8 above
# (benchmarks/switch_over.py).
POOL_WORK = 2e7


def operations(sizes: Iterable[int], samples: int) -> float:
    """Return the floating-point operations of a training step: three products for each layer."""
    return 6.0 * samples * sum(a * b for a, b in itertools.pairwise(sizes))


def threads_for(sizes: Iterable[int], samples: int) -> int:
    """Return the number of threads for the training step of a batch: one where the step is small."""
    return 1 if operations(sizes, samples) < POOL_WORK or config.DISABLE_JIT else get_num_threads()


def engine_for(net: FNN, batch: int, *, gradients: bool, first: int = 1) -> Engine:
    """Return an engine with copies of the network's arrays.

    Parameters
    ----------
    net : FNN
    batch : int
        Most samples of a step.
    gradients : bool
        Whether it computes gradients too.
    first : int, default 1
        The layer that reads the data: from the second on there is neither encoder nor standardizer.
    """
    whole = first == 1
    widths = net.widths if whole else net.sizes[first - 1 :]
    layout = Layout(
        widths,
        net.activations[first - 1 :],
        net.norm,
        batch,
        net.dtype,
        gradients=gradients,
        dropout=net.dropout[first - 1 :],
    )
    engine = Engine(
        layout,
        _from_layer(first, net.arrays.parameters),
        _from_layer(first, net.arrays.buffers),
        encoder=net.encoder if whole else None,
        spread=f"running_{net.running}",
        unbiased=net.unbiased,
        decay=net.decay,
        eps=net.eps,
        loss=net.loss,
    )
    if whole and net.standardizer is not None:
        moments = net.standardizer.moments_
        engine.standardize(moments.mean, moments.mean_low, net.standardizer.scale_)
    return engine


def _from_layer(first: int, arrays: dict[str, Any]) -> dict[str, Any]:
    """Return the arrays from one layer on under the names of a network that begins there."""
    if first == 1:
        return arrays
    found = {}
    for name, values in arrays.items():
        layer, _, value = name.partition(".")
        kind = layer.rstrip("0123456789")
        number = int(layer[len(kind) :]) - first + 1
        if number > 0:
            found[f"{kind}{number}.{value}"] = values
    return found


def run_over(
    engine: Engine,
    data: Data | SparseData,
    mode: int,
    batch: int,
    *,
    moving_averages: bool = False,
    **options: Any,
) -> Run:
    """Run an engine over data, without an update, and return the finished run.

    In the mode GRADIENTS the engine's moving averages take the batch in only with `moving_averages`.
    """
    run = Run(engine, data, batch, mode, **options)
    if moving_averages:
        run.control[MODE] = TRAIN  # what becomes of the gradients does not depend on it
    # a forward pass is a third of a training step
    return run.all(threads_for(engine.layout.sizes, batch // 3 if mode == FORWARD else batch))
