"""The training of a network: epochs, batches, forward, backward, update; divergence and interruption."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nbnorm import _check
from nbnorm._types import Table
from nbnorm.compile.ahead import compile_ahead
from nbnorm.compile.clock import clock
from nbnorm.engine.concurrency import end_turn, turn
from nbnorm.engine.gather import reading_kernel
from nbnorm.engine.run import Run, kernels_ahead
from nbnorm.engine.table import FORWARD, LOSS, SEEN, TRAIN
from nbnorm.engine.thread_pool import ThreadPool
from nbnorm.functions.loss_options import Poisson
from nbnorm.functions.optimizers import Optimizer
from nbnorm.model import checkpoints, inputs, metrics, parameter_rates
from nbnorm.model import history as histories
from nbnorm.model.arrays import Arrays
from nbnorm.model.checkpoints import Checkpoint, Saved
from nbnorm.model.data_parallel import ParallelRun
from nbnorm.model.engines import engine_for, threads_for
from nbnorm.model.history import DivergenceError, History
from nbnorm.model.metrics import Outcome, Watch
from nbnorm.model.parallel_samples import SharedValidation
from nbnorm.model.plan import Plan, checked_optimizer, training_samples
from nbnorm.model.progress import Progress
from nbnorm.model.samples import Samples, ValidationData
from nbnorm.model.schedules import Plateau
from nbnorm.model.streaming import Stream, StreamedRun, StreamedValidation
from nbnorm.statistics.reading import is_sparse

if TYPE_CHECKING:
    from nbnorm.model.network import FNN

Array = npt.NDArray[Any]

# Seconds of compiled work after which Python looks for an interrupt and moves the progress bar.
_CHUNK = 0.05

# Targets of which one is larger make gradients that the usual learning rates do not suit.
_USUAL = 10.0


def fit(net: FNN, plan: Plan) -> History:
    """Train a network, or go on with the training of a checkpoint. See `FNN.fit`."""
    notes: dict[str, Any] = {"seed": net.seed, "first_epoch": plan.first_epoch}
    file = plan.file(net)
    saved = None if file is None else file.read()
    if file is not None:
        notes["start"] = checkpoints.digest(net.arrays.named().values())
    net.arrays.writable()
    before = state_of(net)
    values = {} if saved is None else {name: array.copy() for name, array in net.arrays.named().items()}
    resumed = History()
    run = None
    try:
        if file is not None and saved is not None:
            resumed = _resume(net, file, saved, plan.samples.steps)
            notes = {name: saved.config[name] for name in notes}
            if saved.config["finished"]:
                return resumed
        run = _run_of(net, plan)
        net.stepped = None
        if net.optimizer_state:
            run.carry(net.optimizer_state)
        with plan.guarded():
            history = train(net, run, plan, file, saved, notes)
        if net.optimizer_state is not None:
            net.optimizer_state = run.optimizer_state()
        return history
    except KeyboardInterrupt:
        if run is not None or not plan.alone:  # one more while the epochs done were kept, or others wait
            raise
        return _interrupted(net, saved, plan.samples.steps)
    finally:
        if resumed.epochs == 0 and net.epochs_trained == before["epochs_trained"]:
            vars(net).update(before)  # no epoch has used what was begun
            net.arrays.assign(values)
        else:
            net.eval()


def step(
    net: FNN,
    X: Table,
    y: npt.ArrayLike,
    optimizer: Optimizer | None,
    sample_weight: npt.ArrayLike | None,
    frozen: Iterable[str],
    rates: Mapping[str, float] | None,
) -> float:
    """Update a network with one mini-batch and return the loss before. See `FNN.step`."""
    optimizer = checked_optimizer(optimizer)
    factors = parameter_rates.factors(net, optimizer.lr, frozen, rates)
    samples = training_samples(net, X, y, sample_weight, None, np.iinfo(np.int64).max)
    net.arrays.writable()
    before, stepped = state_of(net), net.stepped
    try:
        run = training_run(net, samples, optimizer, factors=factors)
        if stepped is not None:
            run.carry(stepped.state)
        count = 0 if stepped is None else stepped.count
        run.begin(net.seed, count, False)
        run.rates[:] = optimizer.lr
        run.all(threads_for(net.widths, samples.batch))
        loss = float(run.progress[LOSS] / run.progress[SEEN])
        if run.control.diverged or not run.engine.finite():
            advice = _advice(net, run, optimizer, run.beyond())
            message = f"the step gives a loss or parameters that are not finite. {advice}"
            raise DivergenceError(message, History())
    except BaseException:
        vars(net).update(before)
        raise
    run.engine.store()
    net.stepped = Stepped(count + 1, run.optimizer_state())
    return loss


@dataclasses.dataclass(frozen=True)
class Stepped:
    """What `FNN.step` keeps between two calls: their number so far, and the optimizer's arrays."""

    count: int
    state: dict[str, Array]


def state_of(net: FNN) -> dict[str, Any]:
    """Return the attributes that `fit` sets; ``vars(net).update`` brings them back, but for the elements."""
    names = ("seed", "epochs_trained", "training", "encoder", "standardizer", "target_standardizer")
    state = {name: getattr(net, name) for name in (*names, "optimizer_state", "stepped")}
    return state | {"arrays": Arrays(dict(net.arrays.parameters), dict(net.arrays.buffers))}


def compiled_ahead(net: FNN, *, sparse: bool) -> contextlib.AbstractContextManager[None]:
    """Within the block, let a second process compile what the training of a network needs."""
    reading = reading_kernel(sparse=sparse, encoded=net.encoding is not None)
    return compile_ahead(lambda: kernels_ahead(net.dtype, len(net.widths) > 2, net.norm, net.loss, reading))


def _run_of(net: FNN, plan: Plan) -> Run | ParallelRun:
    """Return a run over the training data of a plan, after what is to be learned of them."""
    samples = plan.samples
    options: dict[str, Any] = {**plan.bounds, "factors": plan.factors}
    with compiled_ahead(net, sparse=isinstance(samples, Samples) and is_sparse(samples.x)):
        if isinstance(samples, Samples):
            return training_run(net, samples, plan.optimizer, **options)
        net.arrays.check_finite()
        samples.learn()
        if isinstance(samples, Stream):
            return StreamedRun(net, samples, plan.optimizer, **options)
        return ParallelRun(net, samples, plan.optimizer, **options)


def training_run(net: FNN, samples: Samples, optimizer: Optimizer, **options: Any) -> Run:
    """Return a run over training data, after fitting the standardizers that are not fitted yet."""
    net.arrays.check_finite()
    inputs.learn(net, samples)
    labels, targets = inputs.encoded(net, "y", samples.truth)
    return Run(
        engine_for(net, samples.batch, gradients=True, training=True),
        inputs.reader(net, samples.x),
        samples.batch,
        TRAIN,
        training=True,
        frozen=net.frozen_statistics,
        labels=labels,
        targets=targets,
        weights=samples.weights.rounded,
        weighted_statistics=net.weighted_statistics,
        unit=samples.weights.unit,
        selected=samples.weights.selected,
        optimizer=optimizer,
        **options,
    )


def train(
    net: FNN,
    run: Run | ParallelRun,
    plan: Plan,
    file: Checkpoint | None,
    saved: Saved | None,
    notes: dict[str, Any],
) -> History:
    """Run the epochs; the network's arrays change only at the end of each that went well.

    Each epoch puts the samples in a new order and cuts them into mini-batches.  For each of these the
    compiled step computes the outputs (forward), the gradients of the loss (backward) and subtracts their
    multiples from the parameters (update).

    Parameters
    ----------
    net : FNN
    run : Run
        The network's arrays in the engine's layout, and the training data.
    plan : Plan
        Options.
    file, saved : Checkpoint and Saved, or None
        The checkpoint, and what was read from it.
    notes : dict
        What a checkpoint has to hold beside the state of the training.
    """
    steps = run.epoch_steps
    threads = threads_for(net.widths, int(run.control.batch)) if run.pooled else 1
    if file is not None:
        notes = {**notes, **inputs.statistics_to_dict(net)}
    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(Progress(plan.progress, plan.epochs, steps))
        state = _Training(net, run, plan, bar, file, notes)
        if saved is not None:
            state.restore(saved)
        history = state.history
        pool = stack.enter_context(ThreadPool(threads)) if threads > 1 else None
        try:
            validation = None if plan.validation is None else _Validation(net, run, plan.validation, threads)
            for epoch in range(history.epochs, plan.epochs):
                state.begin_epoch(epoch, saved)
                saved = None
                state.run_batches(pool)  # forward, backward, update
                state.check_finite(epoch)
                values = state.means()
                measured: dict[str, float] = {}
                if validation is not None:
                    of_validation, measured = validation.measure()
                    values |= of_validation
                state.end_epoch(epoch, values, measured)
                state.call_back()
                state.save_epoch()
                if history.stopped is not None:
                    break
                state.begun = clock()  # callbacks and the checkpoint belong to no epoch
        except KeyboardInterrupt:
            if not plan.alone:
                raise
            state.interrupt()
        finally:
            _to_the_end(state.restore_best)
    return history


class _Training:
    """The state of one training: the run through the engine, the history, the bar and the file."""

    def __init__(
        self,
        net: FNN,
        run: Run | ParallelRun,
        plan: Plan,
        bar: Progress,
        file: Checkpoint | None,
        notes: dict[str, Any],
    ) -> None:
        self.net, self.run, self.plan, self.bar, self.file, self.notes = net, run, plan, bar, file, notes
        self.control = run.control
        self.steps = run.epoch_steps
        self.history = History(accuracy=None if net.output == "identity" else [])
        self.first = net.epochs_trained
        self.watch: Watch | None = None
        early = plan.early_stopping
        self.patience = math.inf
        if early is not None:
            self.watch = metrics.watch(early.monitor, early.mode, early.min_delta)
            self.patience = early.patience_with(plan.schedule)
        self.rates = plan.schedule.begin(plan.optimizer.lr, plan.epochs, self.steps)
        self.follows = "loss" if plan.validation is None else "val_loss"
        if isinstance(plan.schedule, Plateau) and plan.schedule.monitor is not None:
            self.follows = plan.schedule.monitor
        self.best: dict[str, Array] = {}
        self.begun = clock()
        self._unsaved = False
        self._unfinished: Callable[[], None] | None = None
        self._chunk = 1

    def restore(self, saved: Saved) -> None:
        """Take up the history, the watch and the rates of a checkpoint."""
        self.history = histories.restored(saved, self.steps)
        self.first = self.net.epochs_trained - self.history.epochs
        watch = saved.config["watch"]
        self.watch = None if watch is None else Watch(**watch)
        self.best = saved.group("best")
        self.rates.restore(saved.config["schedule"])
        self.begun = clock() - float(saved.config["elapsed"])

    def begin_epoch(self, epoch: int, saved: Saved | None) -> None:
        """Put the samples in a new order and set the rates of the epoch, or go on within a saved one."""
        seed = self.notes["seed"] if self.plan.seed is None else self.plan.seed
        self.run.begin(seed, self.notes["first_epoch"] + epoch, self.plan.shuffle)
        if saved is not None:
            self.run.restore(saved.group("run"))
        self.rates.fill(epoch * self.steps, self.run.rates)
        decay = self.plan.optimizer.weight_decay
        most = self.run.rates.max() * max([1.0, *self.plan.factors.values()])
        if most * decay >= 1.0:  # a step would turn weights around
            raise ValueError(
                f"the learning rate must stay below 1 / weight_decay = {1 / decay:g}, "
                f"got {most:g} in epoch {epoch + 1}"
            )

    def run_batches(self, pool: ThreadPool | None) -> None:
        """Run the mini-batches that are left of the epoch, those of a window of the data at a time."""
        with contextlib.closing(self.run.windows()) as windows:
            for _ in windows:
                self._run_window(pool)
                if self.control.diverged:
                    break

    def _run_window(self, pool: ThreadPool | None) -> None:
        """Forward, backward and update for each mini-batch that is left of the window.

        The steps are compiled, see `nbnorm.engine.steps.epoch_part`; Python sees to interrupts, the progress
        bar and the checkpoint between them.
        """
        control, arguments = self.control, self.run.arguments()
        every = math.inf if self.file is None else self.file.every
        steps = int(control.steps)
        while control.step < steps and not control.diverged:
            if pool is not None:
                control.last_step = steps
                threads = self.run.threads(pool.size)
                pool.run(self.run.steps, arguments, self._poll, self.run.stop, threads)
                self.run.go_on()
            else:
                control.last_step = min(steps, int(control.step) + self._chunk)
                with turn():
                    start = time.perf_counter()
                    self.run.steps(0, 1, *arguments)
                    seconds = time.perf_counter() - start
                self._chunk = self._chunk * 2 if seconds < min(_CHUNK, every) else max(self._chunk // 2, 1)
                self._show()
            if self.file is not None and self.file.due and not control.diverged:
                self._save(self.file, finished=False)

    def _show(self) -> None:
        if self.bar.shown:
            self.bar.show(self.history.epochs, self.run.epoch_step, **self.means())

    def _poll(self) -> None:
        self._show()
        if self.file is not None and self.file.due:
            self.run.stop()

    def means(self) -> dict[str, float]:
        """Return mean loss and, but for regression, accuracy of the epoch so far."""
        total, correct, seen = (float(value) for value in self.run.progress)
        seen = seen if seen > 0.0 else 1.0
        loss = {"loss": total / seen}
        return loss if self.history.accuracy is None else {**loss, "accuracy": correct / seen}

    def check_finite(self, epoch: int) -> None:
        """Stop a training whose loss or parameters are no longer finite."""
        if not self.control.diverged and self.run.engine.finite():
            return
        history = self.history
        row = self.run.beyond() if history.epochs == 0 else None  # later, all rows have been read
        kept = f"{history.epochs} completed epoch(s)"
        if self.best:
            kept = f"epoch {history.best_epoch}, the best of {history.epochs}"
        raise DivergenceError(
            f"training diverged in epoch {epoch + 1}, step {self.run.epoch_step}: "
            f"the loss is no longer finite; the network keeps the parameters of "
            f"{kept}. {_advice(self.net, self.run, self.plan.optimizer, row)}",
            history,
            row,
        )

    def end_epoch(self, epoch: int, values: Mapping[str, float], measured: Mapping[str, float]) -> None:
        """Store the parameters, record what was measured, and tell early stopping and schedule of it."""
        # an entry of the history comes before a metric of the same name
        seen = {**measured, **{f"val_{name}": value for name, value in measured.items()}, **values}
        values = {**values, "rates": float(self.run.rates[-1])}
        watch, early = self.watch, self.plan.early_stopping
        if watch is not None and early is not None:
            watch = watch.after(epoch + 1, seen[early.monitor])

        def finish() -> None:
            self._record(epoch, values, measured, watch)
            self.rates.after(epoch + 1, seen[self.follows])

        self._unfinished = finish
        finish()
        self._unfinished = None
        self.begun = clock()
        if "val_loss" in values:
            self.bar.validated(values["val_loss"], values.get("val_accuracy"))
        self.bar.show(epoch, self.steps, values["loss"], values.get("accuracy"))

    def _record(
        self,
        epoch: int,
        values: Mapping[str, float],
        measured: Mapping[str, float],
        watch: Watch | None,
    ) -> None:
        """Store the parameters and record the epoch; called again, it finishes what was cut off."""
        self.run.engine.store()
        self.net.epochs_trained = self.first + epoch + 1
        history = self.history
        for name, value in {**values, "seconds": clock() - self.begun}.items():
            if getattr(history, name) is None:
                setattr(history, name, [])
            getattr(history, name)[epoch:] = [value]
        for name, number in measured.items():
            history.metrics.setdefault(name, [])[epoch:] = [number]
        history.epochs = epoch + 1
        history.steps = (epoch + 1) * self.steps
        self._unsaved = True
        self.watch = watch
        early = self.plan.early_stopping
        if watch is not None and early is not None:
            history.best_epoch = watch.best_epoch or None
            if early.restore_best and watch.best_epoch == epoch + 1:
                for name, array in self.net.arrays.named().items():
                    # memory for them is allocated once
                    np.copyto(self.best.setdefault(name, np.empty_like(array)), array)

    def call_back(self) -> None:
        """Call the callbacks and decide whether the training ends here."""
        if self.plan.callbacks:
            end_turn()
        # every callback is called, whatever the one before has said
        answers = [callback(self.net, self.history) for callback in self.plan.callbacks]
        if answers:
            self.run.engine.load()  # what they have written counts
        if self.run.agree(any(map(_ends, answers))):
            self.history.stopped = "callback"
        elif self.watch is not None and self.watch.waited >= self.patience:
            self.history.stopped = "early"

    def save_epoch(self) -> None:
        """Write the checkpoint between two epochs."""
        if self.file is not None and self._unsaved:
            self.control.step = 0
            self.run.progress[:] = 0.0
            history = self.history
            self._save(self.file, finished=history.stopped is not None or history.epochs == self.plan.epochs)
            self._unsaved = False

    def _save(self, file: Checkpoint, *, finished: bool) -> None:
        history = self.history
        config = {
            "finished": finished,
            "stopped": history.stopped,
            "best_epoch": history.best_epoch,
            "watch": None if self.watch is None else dataclasses.asdict(self.watch),
            **self.notes,
            "schedule": self.rates.state(),
            "elapsed": clock() - self.begun,
            "epochs_trained": self.net.epochs_trained,
        }
        arrays = checkpoints.grouped(
            run=self.run.state(),
            net=self.net.arrays.named(),
            best=self.best,
            history=histories.arrays(history),
            metrics={name: np.array(values, np.float64) for name, values in history.metrics.items()},
        )
        file.write(config, arrays)

    def interrupt(self) -> None:
        """End the training after the last complete epoch."""
        if self._unfinished is not None:  # the interrupt cut the end of an epoch in two
            _to_the_end(self._unfinished)
        self.save_epoch()
        self.history.stopped = "interrupted"

    def restore_best(self) -> None:
        """Leave the network with the parameters of its best epoch."""
        self.net.arrays.assign(self.best)


class _Validation:
    """Validation data, measured after each epoch with the parameters that the engine then has."""

    def __init__(
        self,
        net: FNN,
        run: Run | ParallelRun,
        data: ValidationData | StreamedValidation | SharedValidation,
        threads: int,
    ) -> None:
        self._training = run
        if isinstance(data, ValidationData):
            batch = min(run.engine.layout.batch, data.x.shape[0])
            self._run = Run(run.engine, inputs.reader(net, data.x), batch, FORWARD, training=False)
        self._net, self._data, self._threads = net, data, threads
        labels, targets = inputs.encoded(net, "validation_data[1]", data.truth)
        self._answers = targets.reshape(data.truth.shape) if labels is None else labels

    def measure(self) -> tuple[dict[str, float], dict[str, float]]:
        """Return loss and accuracy, and the metrics."""
        net, data = self._net, self._data
        if isinstance(data, ValidationData):
            self._run.control.step = 0
            z = self._run.all(self._threads).out
        else:
            z = data.logits(net, self._training, self._threads)
        values = {"val_loss": net.loss.value(z, self._answers, data.weights)}
        outcome = Outcome(net.output, inputs.in_units(net, z), data.truth, data.weights)
        if net.output != "identity":
            values["val_accuracy"] = outcome.mean(metrics.right(outcome).astype(np.float64))
        return values, {metric.name: metric(outcome) for metric in data.metrics}


def _resume(net: FNN, file: Checkpoint, saved: Saved, steps: int) -> History:
    """Take up arrays, standardizers, epochs and seed of a checkpoint; return its history.

    `steps` are those of an epoch.
    """
    config, arrays = saved.config, saved.group("net")
    best = saved.group("best") or arrays
    if net.seeded and config.get("seed") != net.seed:
        raise file.foreign("the network's seed", config.get("seed"), net.seed)
    begun = None
    if net.seeded or net.epochs_trained:  # others begin with arrays of this process alone
        begun = checkpoints.digest(net.arrays.named().values())
    try:
        history = histories.restored(saved, steps)
        inputs.take_statistics(net, config)
        net.arrays.check_like(arrays)
        net.arrays.check_like(best)
        known = [config["start"], *(checkpoints.digest(group.values()) for group in (arrays, best))]
        if begun is not None and begun not in known:
            raise ValueError(
                "this network has neither the parameters with which that training began, "
                "nor those with which it left off"
            )
        seed = _check.integer("seed", config["seed"], least=0, most=2**63 - 1)
        epochs = _check.integer("epochs_trained", config["epochs_trained"], least=0)
        _check.integer("first_epoch", config["first_epoch"], least=0)
    except (KeyError, TypeError, ValueError) as error:
        raise file.damaged(error) from None
    net.seed, net.epochs_trained = seed, epochs
    # a training that is done has left the best arrays, where there are any
    net.arrays.assign(best if config["finished"] else arrays)
    return history


def _interrupted(net: FNN, saved: Saved | None, steps: int) -> History:
    """End a training that an interrupt has met before its first step, most likely amid compilation."""
    history = History(accuracy=None if net.output == "identity" else [])
    if saved is not None:
        history = histories.restored(saved, steps)
        net.arrays.assign(saved.group("best"))
    history.stopped = "interrupted"
    return history


def _advice(net: FNN, run: Run | ParallelRun, optimizer: Optimizer, row: int | None) -> str:
    """Return what a user may do against divergence; `row` is one beyond the dtype, if there is one."""
    if row is not None:
        how = "" if net.standardizer is None else " once standardized"
        return f"Row {row} of X is beyond {net.dtype}{how}"
    advice = f"A smaller learning rate than {optimizer.lr:g} may help"
    largest = float(np.abs(run.targets).max())
    if (
        net.output == "identity"
        and net.target_standardizer is None
        and not isinstance(net.loss, Poisson)
        and largest > _USUAL
    ):
        advice += f", and so may standardize_targets=True: the targets reach {largest:g}"
    return advice


def _ends(answer: object) -> bool:
    """Whether a callback's answer ends the training: true, of Python's or any other boolean type."""
    kind = "bool" if isinstance(answer, bool) else str(getattr(answer, "dtype", ""))
    return "bool" in kind and bool(answer)


def _to_the_end(action: Callable[[], None]) -> None:
    """Do what must not be left half done, from its beginning again when an interrupt comes in between."""
    try:
        action()
    except KeyboardInterrupt:
        _to_the_end(action)
