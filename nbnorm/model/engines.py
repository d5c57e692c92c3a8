"""From a network to the compiled engine: its arrays in the engine's layout, and how many threads pay."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from numba import config

from nbnorm.compile.threads import get_num_threads
from nbnorm.engine.gather import Data, SparseData
from nbnorm.engine.run import Engine, Layout, Run
from nbnorm.engine.table import FORWARD, TRAIN

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


def bfloat16_layers(net: FNN) -> list[int]:
    """Return the layers whose products take bfloat16 when the network is trained.

    The output layer keeps float32, and the first one does unless its input is standardized: far from zero,
    neighbouring bfloat16 are far apart.
    """
    if net.precision == "float32":
        return []
    first = 1 if net.standardizer is not None else 2
    return list(range(first, len(net.sizes) - 1))


def engine_for(net: FNN, batch: int, *, gradients: bool, training: bool = False, first: int = 1) -> Engine:
    """Return an engine with copies of the network's arrays.

    Parameters
    ----------
    net : FNN
    batch : int
        Most samples of a step.
    gradients : bool
        Whether it computes gradients too.
    training : bool, default False
        Whether its runs in training mode take the precision of the network's products; without, and in
        evaluation mode, products are of its dtype.
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
        bfloat16_layers=bfloat16_layers(net) if training else (),
    )
    return Engine(
        layout,
        _from_layer(first, net.arrays.parameters),
        _from_layer(first, net.arrays.buffers),
        encoder=net.encoder if whole else None,
        statistics=_statistics(net) if whole else None,
        variance_name=f"running_{net.running}",
        unbiased=net.unbiased,
        decay=net.decay,
        eps=net.eps,
        loss=net.loss,
    )


def _statistics(net: FNN) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]] | None:
    """Return what an engine takes of the network's input standardizer, if it has one."""
    if net.standardizer is None:
        return None
    moments = net.standardizer.moments_
    return moments.mean, moments.mean_low, net.standardizer.scale_


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
        run.control.mode = TRAIN  # what becomes of the gradients does not depend on it
    # a forward pass is a third of a training step
    return run.all(threads_for(engine.layout.sizes, batch // 3 if mode == FORWARD else batch))


class _Evaluation:
    """An engine and a run for a few rows of one dtype, kept from one evaluation of a network to the next.

    It has copies of the network's arrays in the engine's layout.  Before each use they are compared with the
    arrays, which are live: the comparison takes a tenth of the time of a new copy.
    """

    def __init__(self, net: FNN, x: npt.NDArray[Any], batch: int) -> None:
        self._parts = _parts(net)
        self._options = _options(net)
        self._rows = np.empty(x.shape, x.dtype)
        self._engine = engine_for(net, batch, gradients=False)
        self._data = Data(self._rows, net.encoder)
        self._run = Run(self._engine, self._data, batch, FORWARD, training=False)
        self._bytes = _bytes(net)
        # to collect them takes a tenth of the time of a row
        self._arguments = self._run.arguments()

    def suits(self, net: FNN, x: npt.NDArray[Any]) -> bool:
        """Whether it can evaluate these rows, after taking what was written to the arrays since."""
        same = all(part is mine for part, mine in zip(_parts(net), self._parts, strict=True))
        rows = self._rows
        if not same or (x.shape, x.dtype) != (rows.shape, rows.dtype) or _options(net) != self._options:
            return False
        now = _bytes(net)
        if now != self._bytes:
            self._engine.load()
            self._bytes = now
        return True

    def __call__(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the logits."""
        self._rows[:] = x
        self._run.control.step = 0
        threads = threads_for(self._engine.layout.sizes, self._engine.layout.batch // 3)
        if threads == 1:
            self._run.steps(0, 1, *self._arguments)
        else:
            self._run.all(threads)
        return self._run.out.copy()


def _parts(net: FNN) -> tuple[Any, ...]:
    """Return the objects that the kept copies are of; a standardizer that is fitted again has new moments."""
    table = None if net.encoder is None else net.encoder.table
    moments = None if net.standardizer is None else net.standardizer.moments_
    return net.arrays.parameters, net.arrays.buffers, net.standardizer, moments, table


def _options(net: FNN) -> tuple[Any, ...]:
    """Return the options that evaluation depends on."""
    return net.sizes, net.activations, net.norm, net.eps, net.running, net.dtype


def _bytes(net: FNN) -> list[bytes]:
    """Return the contents of the arrays that evaluation depends on and that anybody may write to."""
    arrays = net.arrays
    return [array.tobytes() for array in itertools.chain(arrays.parameters.values(), arrays.buffers.values())]


# One for each network, which takes it with it when it goes.
_kept: weakref.WeakKeyDictionary[FNN, _Evaluation] = weakref.WeakKeyDictionary()

# Types of elements that the engine reads as they are.
_PLAIN = tuple(np.dtype(kind) for kind in (np.float32, np.float64, np.int64, np.uint8))


def evaluate(net: FNN, x: npt.NDArray[Any], batch: int) -> npt.NDArray[Any] | None:
    """Return the logits of a few checked rows with an engine that is kept, or None where that cannot be.

    At most `batch` of them are evaluated together.
    """
    if x.dtype not in _PLAIN or (net.encoding is not None and net.encoder is None):
        return None
    kept = _kept.pop(net, None)  # another thread that evaluates the network meanwhile makes its own
    if kept is None or not kept.suits(net, x):
        kept = _Evaluation(net, x, min(batch, len(x)))
    logits = kept(x)
    _kept[net] = kept
    return logits
