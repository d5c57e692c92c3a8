"""What tells whether a network is right and how to train it: gradient checks and the learning-rate finder."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nbnorm import _check
from nbnorm._types import Table
from nbnorm.engine.run import Run
from nbnorm.engine.table import LOSS, SEEN
from nbnorm.engine.thread_pool import ThreadPool
from nbnorm.functions.gradcheck import gradcheck
from nbnorm.functions.optimizers import Optimizer
from nbnorm.model import inference, plan, training
from nbnorm.model.engines import threads_for
from nbnorm.model.sample_weights import ClassWeight
from nbnorm.model.schedules import Finder, LearningRates

if TYPE_CHECKING:
    from nbnorm.model.network import FNN

Array = npt.NDArray[Any]


def check_gradients(
    net: FNN, X: Table, y: npt.ArrayLike, sample_weight: npt.ArrayLike | None, step: float
) -> dict[str, float]:
    """Compare gradients with numerical differences. See `FNN.check_gradients`."""
    twin = copy.copy(net)
    twin.dtype, twin.precision = np.dtype(np.float64), "float32"  # nothing is rounded in between
    twin.arrays = net.arrays.copy(twin.dtype)
    parameters = twin.arrays.parameters
    rng = np.random.default_rng(0)
    for name, values in parameters.items():
        if name.endswith(("bias", "beta")):
            values += np.where(values == 0.0, 0.1 * rng.standard_normal(values.shape), 0.0)
    run = inference.gradients_run(twin, X, y, sample_weight)
    threads = threads_for(twin.widths, int(run.control.batch))
    gradients = inference.gradients_of(twin, run)
    largest = max(float(np.abs(gradient).max()) for gradient in gradients.values())

    def loss_of(name: str) -> Callable[[Array], float]:
        def loss(values: Array) -> float:
            kept = parameters[name].copy()
            parameters[name][:] = values
            run.engine.load()
            parameters[name][:] = kept
            run.control.step, run.progress[:] = 0, 0.0
            return inference.loss_of(run.all(threads))

        return loss

    return {
        name: gradcheck(loss_of(name), values, gradients[name], step=step, least=1e-3 * largest)
        for name, values in parameters.items()
    }


def find_learning_rate(
    net: FNN,
    X: Table,
    y: npt.ArrayLike,
    *,
    batch_size: int,
    optimizer: Optimizer | None,
    sample_weight: npt.ArrayLike | None,
    class_weight: ClassWeight | None,
    least: float,
    most: float,
    steps: int,
    shuffle: bool,
    seed: int | None,
) -> LearningRates:
    """Train for some steps with a growing learning rate. See `FNN.find_learning_rate`."""
    batch_size = _check.integer("batch_size", batch_size, least=1)
    shuffle = _check.flag("shuffle", shuffle)
    least = _check.number("least", least, above=0.0)
    most = _check.number("most", most, above=least)
    steps = _check.integer("steps", steps, least=2)
    seed = net.seed if seed is None else _check.integer("seed", seed, least=0, most=2**63 - 1)
    optimizer = plan.checked_optimizer(optimizer)
    if optimizer.weight_decay > 0.0:  # beyond, a step would turn weights around
        most = min(most, 1.0 / optimizer.weight_decay)
        least = min(least, 0.5 * most)
    samples = plan.training_samples(net, X, y, sample_weight, class_weight, batch_size)
    finder = Finder(least, most, steps)
    before = training.state_of(net)
    try:
        run = training.training_run(net, samples, optimizer)
        for loss in _losses(net, run, finder, shuffle, seed):
            if not finder.add(loss):
                break
    finally:
        vars(net).update(before)
    return finder.result()


def _losses(net: FNN, run: Run, finder: Finder, shuffle: bool, seed: int) -> Iterator[float]:
    """Yield the loss of each step with the rates of a finder; only the arrays of `run` change."""
    control, arguments = run.control, run.arguments()
    threads = threads_for(net.widths, int(control.batch))
    total = int(control.steps)
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(ThreadPool(threads)) if threads > 1 else None
        for done, rate in enumerate(finder.rates):
            epoch, step = divmod(done, total)
            if step == 0:
                run.begin(seed, epoch, shuffle)
            run.rates[step] = rate
            control.last_step = step + 1
            run.progress[:] = 0.0
            if pool is None:
                run.steps(0, 1, *arguments)
            else:
                pool.run(run.steps, arguments, lambda: None, run.stop)
            yield float(run.progress[LOSS] / run.progress[SEEN])
