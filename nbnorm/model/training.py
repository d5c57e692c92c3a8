"""The loop over epochs: progress, interruption, divergence, and the history of a run."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from numba import config

from nbnorm import _check
from nbnorm.compile.clock import clock
from nbnorm.compile.threads import get_num_threads
from nbnorm.engine.concurrency import turn
from nbnorm.engine.run import Run
from nbnorm.engine.steps import BATCH, DIVERGED, FORWARD, LAST, LOSS, SEEN, STEP, STEPS
from nbnorm.engine.thread_pool import Team
from nbnorm.functions.loss_options import Poisson
from nbnorm.functions.optimizers import SGD, AdamW
from nbnorm.model import checkpoints
from nbnorm.model import metrics as _metrics
from nbnorm.model.checkpoints import Checkpoint, Saved
from nbnorm.model.metrics import Measure, Outcome, Watch
from nbnorm.model.schedules import Finder, LearningRates, Plateau, Schedule

if TYPE_CHECKING:
    from nbnorm.model.network import FNN

Array = npt.NDArray[Any]

# Floating-point operations of one step from which a team of threads is faster than one thread: with two
# cores of a Zen 4 the team was slower in 13 of 14 measurements below, and faster in 7 of 8 above
# (benchmarks/switch_over.py).
TEAM_WORK = 2e7

# Seconds of compiled work after which Python looks for an interrupt and moves the progress bar.
_CHUNK = 0.05


# Epochs that early stopping waits where it is not told how long.
PATIENCE = 10


class DivergenceError(ArithmeticError):
    """Training met a loss or parameters that are not finite.

    The network keeps the parameters of the last epoch that ended well, or those of the best one where
    early stopping restores it.

    Attributes
    ----------
    history : History
        The epochs done before.
    row : int or None
        A row of the samples that the network's dtype cannot hold, where there is one: then no smaller
        learning rate helps.
    """

    def __init__(self, message: str, history: History, row: int | None = None) -> None:
        super().__init__(message)
        self.history, self.row = history, row


@dataclasses.dataclass
class History:
    """What happened in each epoch of one `FNN.fit`.

    Attributes
    ----------
    loss : list of float
        Mean training loss over the samples of the epoch, each measured before its step's update.
    accuracy : list of float or None
        Share of training samples classified correctly, likewise; None for regression.
    val_loss, val_accuracy : list of float or None
        The same for the validation data after the epoch, in evaluation mode; None without them.
    seconds : list of float
        Wall-clock time of each epoch, including the validation and the copy of the results into the
        network's arrays; the time that code takes to compile in the first run is left out.
    epochs, steps : int
        Epochs and updates done.
    stopped : str or None
        "interrupted" after Ctrl-C, "early" by early stopping, "callback" by a callback, otherwise None.
    metrics : dict of str to list of float
        Each of the metrics that `fit` was asked for, of the validation data after the epoch.
    rates : list of float
        Learning rate of the last step of each epoch.
    best_epoch : int or None
        The best epoch, counted from 1, where early stopping watches; otherwise None.

    Examples
    --------
    >>> from nbnorm import FNN, load_digits
    >>> X, y = load_digits()
    >>> history = FNN([64, 16, 10], seed=0).fit(X, y, epochs=2, batch_size=64)
    >>> history.epochs, len(history.loss)
    (2, 2)
    """

    loss: list[float] = dataclasses.field(default_factory=list)
    accuracy: list[float] | None = None
    val_loss: list[float] | None = None
    val_accuracy: list[float] | None = None
    seconds: list[float] = dataclasses.field(default_factory=list)
    epochs: int = 0
    steps: int = 0
    stopped: str | None = None
    metrics: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    rates: list[float] = dataclasses.field(default_factory=list)
    best_epoch: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the history as a dictionary that `json` can write."""
        return dataclasses.asdict(self)

    def plot(self, path: Any = None) -> Any:
        """Draw loss, accuracy and metrics over the epochs.

        Parameters
        ----------
        path : path-like, optional
            File to write, in the format of its ending.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        ImportError
            If matplotlib is missing: ``pip install "nbnorm[plot]"``.
        """
        from nbnorm import plots

        return plots.learning_curve(self.to_dict(), path)

    def _arrays(self) -> dict[str, Array]:
        lists = {name: getattr(self, name) for name in (*_CURVES, "seconds", "rates")}
        return {name: np.array(values, np.float64) for name, values in lists.items() if values is not None}

    def _restore(self, arrays: Mapping[str, Array], metrics: Mapping[str, Array], steps: int) -> None:
        for name, values in arrays.items():
            setattr(self, name, values.tolist())
        self.metrics = {name: values.tolist() for name, values in metrics.items()}
        self.epochs = len(self.loss)
        self.steps = steps * self.epochs


_CURVES = ("loss", "accuracy", "val_loss", "val_accuracy")


@dataclasses.dataclass(frozen=True)
class EarlyStopping:
    """End a training that no longer becomes better.

    Parameters
    ----------
    monitor : str, default "val_loss"
        What to watch: an entry of the history ("loss", "accuracy", "val_loss", "val_accuracy") or the
        name of one of the metrics that `FNN.fit` is given.
    patience : int, optional
        Training ends after so many epochs in a row without a better value.  By default 10 with a constant
        rate or a plateau, and never with a schedule that is planned for all epochs ("step", "cosine",
        "one_cycle" or a function of the step): the small rates at its end are what it is for.
    min_delta : float, default 0.0
        The wait ends with a value that is better by more than this.  The best epoch is that of the best
        value, by however little.
    mode : {"auto", "min", "max"}, default "auto"
        Whether less or more is better; "auto" knows it of the history and of the metrics with a name,
        so that `FNN.fit` refuses it for a function of your own.
    restore_best : bool, default True
        Whether `fit` leaves the parameters and moving averages of the best epoch, however it ends;
        with False those of the last.

    Raises
    ------
    TypeError, ValueError
        If an option is of the wrong kind or out of range.

    Examples
    --------
    >>> from nbnorm import FNN, EarlyStopping, load_digits
    >>> X, y = load_digits()
    >>> stop = EarlyStopping("val_accuracy", patience=2)
    >>> history = FNN([64, 32, 10], seed=0).fit(
    ...     X[:800], y[:800], epochs=50, validation_data=(X[800:], y[800:]), early_stopping=stop
    ... )
    >>> history.stopped, history.epochs - history.best_epoch
    ('early', 2)
    """

    monitor: str = "val_loss"
    patience: int | None = None
    min_delta: float = 0.0
    mode: str = "auto"
    restore_best: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.monitor, str):
            raise TypeError(f"monitor must be a name, got {type(self.monitor).__name__}")
        if self.patience is not None:
            object.__setattr__(self, "patience", _check.integer("patience", self.patience, least=1))
        for name, value in (
            ("min_delta", _check.number("min_delta", self.min_delta, least=0.0)),
            ("mode", _check.choice("mode", self.mode, ("auto", "min", "max"))),
            ("restore_best", _check.flag("restore_best", self.restore_best)),
        ):
            object.__setattr__(self, name, value)

    def patience_with(self, schedule: Schedule) -> float:
        """Return the epochs to wait for a better value with this schedule."""
        if self.patience is not None:
            return self.patience
        return math.inf if schedule.planned else PATIENCE


def stopping(value: Any) -> EarlyStopping | None:
    """Return the `EarlyStopping` that the argument `early_stopping` stands for, or None."""
    if value is None or value is False:
        return None
    if value is True:
        return EarlyStopping()
    if not isinstance(value, EarlyStopping):
        raise TypeError(
            f"early_stopping must be an EarlyStopping, True, False or None, got {type(value).__name__}"
        )
    return value


class _Progress:
    """A bar on the terminal, within 80 columns, or nothing."""

    _FORMAT = "{desc} {percentage:3.0f}%|{bar}| {remaining}{postfix}"

    def __init__(self, wanted: bool | None, epochs: int, steps: int) -> None:
        self._bar: Any = None
        self._steps = steps
        self._epochs = epochs
        self._rest = ""
        if wanted is False or (wanted is None and not sys.stderr.isatty()):
            return
        try:
            from tqdm import tqdm
        except ImportError:
            if wanted:
                raise ImportError('progress=True needs tqdm: pip install "nbnorm[progress]"') from None
            return
        self._bar = tqdm(
            desc=f"epoch 1/{epochs}",
            total=epochs * steps,
            bar_format=self._FORMAT,
            file=sys.stderr,
            dynamic_ncols=True,
            mininterval=0.1,
        )

    def show(self, epoch: int, step: int, loss: float, accuracy: float | None) -> None:
        """Move the bar to a step of an epoch (both from 0)."""
        if self._bar is None:
            return
        text = f"loss {brief(loss)}" + ("" if accuracy is None else f" accuracy {accuracy:.4f}")
        epoch_text = f"epoch {min(epoch + 1, self._epochs)}/{self._epochs}"
        self._bar.set_description_str(epoch_text, refresh=False)
        self._bar.set_postfix_str(text + self._rest, refresh=False)
        self._bar.update(epoch * self._steps + step - self._bar.n)

    def validated(self, loss: float, accuracy: float | None) -> None:
        """Show from now on what the validation data have given, accuracy rather than loss."""
        self._rest = f" validation {brief(loss) if accuracy is None else f'{accuracy:.4f}'}"

    def __enter__(self) -> _Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()


def brief(value: float) -> str:
    """Return a number in at most nine characters, with four digits behind the point where they fit."""
    return f"{value:.4f}" if abs(value) < 1e4 else f"{value:.3g}"


def operations(sizes: Iterable[int], samples: int) -> float:
    """Return the floating-point operations of a training step: three products for each layer."""
    return 6.0 * samples * sum(a * b for a, b in itertools.pairwise(sizes))


def threads_for(sizes: Iterable[int], samples: int) -> int:
    """Return the number of threads for the training step of a batch: one where the step is small."""
    return 1 if operations(sizes, samples) < TEAM_WORK or config.DISABLE_JIT else get_num_threads()


# ----------------------------------------------------------------------------------------------
# Weights
# ----------------------------------------------------------------------------------------------


def class_weights(class_weight: Any, truth: Array, classes: int, weights: Array | None) -> Array:
    """Return the weight that the class of each sample brings, float64.

    Parameters
    ----------
    class_weight : dict or "balanced"
        "balanced" gives every class that occurs the same total weight, and the samples 1 on average.
    truth : ndarray of int, shape (n_samples,)
        Classes, below `classes`.
    classes : int
        Number of them.
    weights : ndarray or None
        Weights of the samples, by which "balanced" counts them.
    """
    if isinstance(class_weight, str) and class_weight == "balanced":
        counts = np.bincount(truth, weights=weights)
        present = counts > 0
        each = np.zeros(len(counts))
        each[present] = counts.sum() / (np.count_nonzero(present) * counts[present])
        return np.asarray(each[truth])
    if not isinstance(class_weight, Mapping):
        raise TypeError(f'class_weight must be a dict or "balanced", got {class_weight!r}')
    result = np.ones(len(truth))
    for kind, weight in class_weight.items():
        chosen = truth == _check.integer("a class in class_weight", kind, least=0, most=classes - 1)
        result[chosen] = _check.number(f"class_weight[{kind!r}]", weight, least=0.0)
    return result


@dataclasses.dataclass(frozen=True)
class Shares:
    """A `class_weight` that says for each sample what its class brings, where a dict cannot."""

    values: Array


def used_weights(
    weights: Array | None, dtype: np.dtype[Any]
) -> tuple[Array | None, float, npt.NDArray[np.int64] | None]:
    """Return weights as the engine takes them, their unit, and the rows to use if not all are.

    The unit is the power of two that leaves the largest weight between 1 and 2: no digit changes, and
    products and sums stay within float32 whatever the weights are multiplied by.  Weights below its
    smallest normal number are 0 beside the largest.
    """
    if weights is None:
        return None, 1.0, None
    exponent = math.frexp(weights.max())[1] - 1
    rounded = np.ldexp(weights, -exponent)
    rounded = np.where(rounded < np.finfo(dtype).tiny, 0.0, rounded).astype(dtype)
    return rounded, math.ldexp(1.0, exponent), None if rounded.all() else np.flatnonzero(rounded)


def products(of_samples: Array | None, shares: Array | None) -> Array | None:
    """Return the weights of the samples times what their classes bring, or None where all are 1."""
    if of_samples is None or shares is None:
        return shares if of_samples is None else of_samples
    with np.errstate(over="ignore"):  # `Weights` refuses it
        return np.asarray(shares * of_samples)


class Weights:
    """Weights of samples and classes, and which of their products a training uses where.

    The loss takes the products.  The statistics of hidden features are those of the mini-batch, and
    weights that depend on the target would tell it to the network through them: they count every row
    once.  The standardizers, whose statistics are those of all data, take the weights of the samples.
    With `weighted_statistics` all three take the products.

    Parameters
    ----------
    n : int
        Number of samples.
    of_samples, shares : ndarray of float64, shape (n,), or None
        Weights of the samples, and what their classes bring.
    dtype : dtype
        Of the network: what is 0 in it, beside the largest weight, is left out.
    weighted_statistics : bool
    """

    def __init__(
        self,
        n: int,
        of_samples: Array | None,
        shares: Array | None,
        dtype: np.dtype[Any],
        *,
        weighted_statistics: bool,
    ) -> None:
        self.products = products(of_samples, shares)
        if self.products is not None:
            if not self.products.any():
                raise ValueError("sample_weight and class_weight must not be zero for every sample together")
            _check.finite_sum("sample_weight times class_weight", self.products)
        self.rounded, self.unit, self.selected = used_weights(self.products, dtype)
        self.used = n if self.selected is None else len(self.selected)
        self.of_standardizers = self.products if weighted_statistics else of_samples
        if self.selected is not None and not weighted_statistics:
            self.of_standardizers = np.zeros(n)
            self.of_standardizers[self.selected] = 1.0 if of_samples is None else of_samples[self.selected]


# ----------------------------------------------------------------------------------------------
# The loop
# ----------------------------------------------------------------------------------------------


class Samples:
    """Checked training data: which rows are used, in how many steps.

    The batches of an epoch are even: `steps` batches, as few as `batch_size` allows, of `least` samples or
    one more.  `batch` is the size of the largest.

    Parameters
    ----------
    x : ndarray, shape (n_samples, n_features)
    truth : ndarray
        Classes or targets in the user's units.
    weights : Weights
    batch_size : int
    names : list of str or None
        Names of the features.
    """

    def __init__(
        self, x: Any, truth: Array, weights: Weights, batch_size: int, names: list[str] | None
    ) -> None:
        self.x, self.truth, self.weights, self.names = x, truth, weights, names
        self.used = weights.used
        self.steps = -(-self.used // batch_size)
        self.least, self.batch = self.used // self.steps, -(-self.used // self.steps)

    def describe(self) -> dict[str, str]:
        """Return what a checkpoint knows the data by."""
        held = [
            values for values in (self.weights.products, self.weights.of_standardizers) if values is not None
        ]
        weights = checkpoints.digest(held) if held else "None"
        return {
            "X": checkpoints.describe(self.x),
            "y": checkpoints.digest([self.truth]),
            "sample_weight or class_weight": weights,
        }


@dataclasses.dataclass
class Held:
    """Validation data: table, truth in the user's units, and what the loss reads."""

    x: Any
    truth: Array
    labels: Array | None
    targets: Array | None
    weights: Array | None
    metrics: list[Measure]

    def describe(self) -> str:
        """Return what a checkpoint knows the data by."""
        answers = [self.truth] if self.weights is None else [self.truth, self.weights]
        return f"{checkpoints.describe(self.x)} {checkpoints.digest(answers)}"


class _Validation:
    """Held-out data, measured after each epoch with the parameters that the engine then has."""

    def __init__(self, net: FNN, run: Run, held: Held, threads: int) -> None:
        batch = min(run.engine.layout.batch, held.x.shape[0])
        self._run = Run(run.engine, net._data(held.x), batch, FORWARD, training=False)
        self._net, self._held, self._threads = net, held, threads

    def measure(self) -> tuple[dict[str, float], dict[str, float]]:
        """Return loss and accuracy, and the metrics."""
        net, held = self._net, self._held
        self._run.control[STEP] = 0
        z = self._run.all(self._threads).out
        answers = held.labels if net.output == "softmax" else held.targets
        assert answers is not None
        if answers.ndim == 1 and net.output != "softmax":
            answers = answers.reshape(len(z), -1)
        values = {"val_loss": net.loss.value(z, answers, held.weights)}
        outcome = Outcome(net.output, net._in_units(z), held.truth, held.weights)
        if net.output != "identity":
            values["val_accuracy"] = outcome.mean(_metrics.right(outcome).astype(np.float64))
        return values, {metric.name: metric(outcome) for metric in held.metrics}


def saved_history(saved: Saved, steps: int) -> History:
    """Return the history that a checkpoint holds."""
    history = History()
    history._restore(saved.group("history"), saved.group("metrics"), steps)
    history.stopped, history.best_epoch = saved.config["stopped"], saved.config["best_epoch"]
    return history


def interrupted(net: FNN, saved: Saved | None, steps: int) -> History:
    """End a training that an interrupt has met before its first step, most likely amid compilation."""
    history = History(accuracy=None if net.output == "identity" else [])
    if saved is not None:
        history = saved_history(saved, steps)
        _put(saved.group("best"), net)
    history.stopped = "interrupted"
    return history


def _put(arrays: Mapping[str, Array], net: FNN) -> None:
    """Copy arrays, if there are any, into those of the network."""
    held = net._arrays()
    for name, values in arrays.items():
        held[name][:] = values


class _Fit:
    """One call of `fit`: the run through the engine, the history, the bar and the file."""

    def __init__(
        self,
        net: FNN,
        run: Run,
        progress: _Progress,
        early: EarlyStopping | None,
        checkpoint: Checkpoint | None,
    ) -> None:
        self.net, self.run, self.progress, self.checkpoint = net, run, progress, checkpoint
        self.control = run.control
        self.steps = int(self.control[STEPS])
        self.history = History(accuracy=None if net.output == "identity" else [])
        self.first = net.epochs_trained
        self.early = early
        self.watch: Watch | None = None
        self.best: dict[str, Array] = {}
        self.unsaved = False
        self.config: Callable[[], dict[str, Any]] = dict
        if early is not None:
            self.watch = _metrics.watch(early.monitor, early.mode, early.min_delta)
        self._every = math.inf if checkpoint is None else checkpoint.every
        self._chunk = 1

    def present(self) -> tuple[int, float, float | None]:
        """Return steps, mean loss and accuracy of the epoch so far."""
        step = int(self.control[STEP])
        total, correct, seen = (float(value) for value in self.run.progress)
        seen = seen if seen > 0.0 else 1.0
        return step, total / seen, None if self.history.accuracy is None else correct / seen

    def _show(self) -> None:
        self.progress.show(self.history.epochs, *self.present())

    def _poll(self) -> None:
        self._show()
        if self.checkpoint is not None and self.checkpoint.due:
            self.run.stop()

    def epoch(self, team: Team | None) -> None:
        """Run the steps that are left of the epoch."""
        control, args = self.control, self.run.arguments()
        while control[STEP] < self.steps and not control[DIVERGED]:
            if team is not None:
                control[LAST] = self.steps
                team.run(self.run.steps, args, self._poll, self.run.stop)
                self.run.go_on()
            else:
                control[LAST] = min(self.steps, int(control[STEP]) + self._chunk)
                with turn():
                    start = time.perf_counter()
                    self.run.steps(0, 1, *args)
                    seconds = time.perf_counter() - start
                if seconds < min(_CHUNK, self._every):
                    self._chunk *= 2
                else:
                    self._chunk = max(self._chunk // 2, 1)
                self._show()
            if self.checkpoint is not None and self.checkpoint.due and not control[DIVERGED]:
                self.save()

    def end_epoch(
        self,
        epoch: int,
        values: Mapping[str, float | None],
        measured: Mapping[str, float],
        watch: Watch | None,
        begun: float,
    ) -> None:
        """Store the parameters and record the epoch; called again, it finishes what was cut off."""
        self.run.engine.store()
        self.net.epochs_trained = self.first + epoch + 1
        history = self.history
        for name, value in {**values, "seconds": clock() - begun}.items():
            if value is not None:
                if getattr(history, name) is None:
                    setattr(history, name, [])
                getattr(history, name)[epoch:] = [value]
        for name, value in measured.items():
            history.metrics.setdefault(name, [])[epoch:] = [value]
        history.epochs = epoch + 1
        history.steps = (epoch + 1) * self.steps
        self.unsaved = True
        self.watch = watch
        if watch is not None and self.early is not None:
            history.best_epoch = watch.best_epoch or None
            if self.early.restore_best and watch.best_epoch == epoch + 1:
                for name, array in self.net._arrays().items():
                    # room for them is taken once
                    np.copyto(self.best.setdefault(name, np.empty_like(array)), array)

    def save_epoch(self, epochs: int) -> None:
        """Write the checkpoint between two of `epochs` epochs."""
        if self.checkpoint is not None and self.unsaved:
            self.control[STEP] = 0
            self.run.progress[:] = 0.0
            self.save(finished=self.history.stopped is not None or self.history.epochs == epochs)
            self.unsaved = False

    def save(self, *, finished: bool = False) -> None:
        """Write the checkpoint."""
        assert self.checkpoint is not None
        history = self.history
        config = {
            "finished": finished,
            "stopped": history.stopped,
            "best_epoch": history.best_epoch,
            "watch": None if self.watch is None else dataclasses.asdict(self.watch),
            **self.config(),
        }
        arrays = checkpoints.grouped(
            run=self.run.state(),
            net=self.net._arrays(),
            best=self.best,
            history=history._arrays(),
            metrics={name: np.array(values, np.float64) for name, values in history.metrics.items()},
        )
        self.checkpoint.write(config, arrays)

    def restore(self, saved: Saved) -> None:
        """Take up the history and the watch of a checkpoint."""
        self.history = saved_history(saved, self.steps)
        self.first = self.net.epochs_trained - self.history.epochs
        watch = saved.config["watch"]
        self.watch = None if watch is None else Watch(**watch)
        self.best = saved.group("best")

    def kept(self) -> str:
        """Return which epochs a training that ends now leaves in the network."""
        if self.best:
            return f"epoch {self.history.best_epoch}, the best of {self.history.epochs}"
        return f"{self.history.epochs} completed epoch(s)"

    def restore_best(self) -> None:
        """Leave the network with the parameters of its best epoch."""
        _put(self.best, self.net)


# Targets of which one is larger make gradients that the usual learning rates do not suit.
_USUAL = 10.0


def _advice(net: FNN, run: Run, optimizer: SGD | AdamW, row: int | None) -> str:
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


def _ends(answer: Any) -> bool:
    """Whether a callback's answer ends the training: true, of Python's or any other boolean type."""
    kind = "bool" if isinstance(answer, bool) else str(getattr(answer, "dtype", ""))
    return "bool" in kind and bool(answer)


def monitored(net: FNN, held: Held | None) -> list[str]:
    """Return the names of the values that a training records in each epoch."""
    names = ["loss"] + (["accuracy"] if net.output != "identity" else [])
    if held is not None:
        names += [f"val_{name}" for name in names]
        names += [name for metric in held.metrics for name in (metric.name, f"val_{metric.name}")]
    return list(dict.fromkeys(names))


def fit(
    net: FNN,
    run: Run,
    *,
    epochs: int,
    optimizer: SGD | AdamW,
    schedule: Schedule,
    held: Held | None,
    shuffle: bool,
    seed: int,
    first_epoch: int,
    early_stopping: EarlyStopping | None,
    checkpoint: Checkpoint | None,
    saved: Saved | None,
    notes: dict[str, Any],
    progress: bool | None,
    callbacks: Iterable[Callable[[FNN, History], Any]],
) -> History:
    """Train `net`; its arrays change only at the end of each epoch that went well."""
    control = run.control
    threads = threads_for(net.widths, int(control[BATCH]))
    steps = int(control[STEPS])
    patience = math.inf if early_stopping is None else early_stopping.patience_with(schedule)
    rates = schedule.begin(optimizer.lr, epochs, steps)
    follows = "val_loss" if held is not None else "loss"
    if isinstance(schedule, Plateau) and schedule.monitor is not None:
        follows = schedule.monitor
    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(_Progress(progress, epochs, steps))
        state = _Fit(net, run, bar, early_stopping, checkpoint)
        elapsed = 0.0
        if saved is not None:
            state.restore(saved)
            rates.restore(saved.config["schedule"])
            elapsed = float(saved.config["elapsed"])
        history = state.history
        begun = clock() - elapsed
        state.config = lambda: {
            **notes,
            "schedule": rates.state(),
            "elapsed": clock() - begun,
            "epochs_trained": net.epochs_trained,
        }
        team = stack.enter_context(Team(threads)) if threads > 1 else None
        finish: Callable[[], None] | None = None
        try:
            validation = None if held is None else _Validation(net, run, held, threads)
            for epoch in range(history.epochs, epochs):
                run.begin(seed, first_epoch + epoch, shuffle)
                if saved is not None:
                    run.restore(saved.group("run"))
                    saved = None
                rates.fill(epoch * steps, run.rates)
                most = run.rates.max()
                if most * optimizer.weight_decay >= 1.0:  # a step would turn weights around
                    raise ValueError(
                        "the learning rate must stay below 1 / weight_decay = "
                        f"{1 / optimizer.weight_decay:g}, got {most:g} in epoch {epoch + 1}"
                    )
                state.epoch(team)
                if control[DIVERGED] or not run.engine.finite():
                    row = run.beyond() if history.epochs == 0 else None  # later, all rows have been read
                    raise DivergenceError(
                        f"training diverged in epoch {epoch + 1}, step {int(control[STEP])}: "
                        f"the loss is no longer finite; the network keeps the parameters of "
                        f"{state.kept()}. {_advice(net, run, optimizer, row)}",
                        history,
                        row,
                    )
                _, loss, accuracy = state.present()
                values: dict[str, float | None] = {"loss": loss, "accuracy": accuracy}
                measured: dict[str, float] = {}
                if validation is not None:
                    held_values, measured = validation.measure()
                    values.update(held_values)
                    bar.validated(held_values["val_loss"], held_values.get("val_accuracy"))
                # an entry of the history comes before a metric of the same name
                seen = measured | {f"val_{name}": value for name, value in measured.items()}
                seen |= {name: value for name, value in values.items() if value is not None}
                values["rates"] = float(run.rates[-1])
                watch = state.watch
                if watch is not None and early_stopping is not None:
                    watch = watch.after(epoch + 1, seen[early_stopping.monitor])
                finish = functools.partial(state.end_epoch, epoch, values, measured, watch, begun)
                finish()
                rates.after(epoch + 1, seen[follows])
                finish = None
                begun = clock()
                bar.show(epoch, steps, loss, accuracy)
                # every callback is called, whatever the one before has said
                answers = [callback(net, history) for callback in callbacks]
                if answers:
                    run.engine.load()  # what they have written counts
                if any(map(_ends, answers)):
                    history.stopped = "callback"
                elif watch is not None and watch.waited >= patience:
                    history.stopped = "early"
                state.save_epoch(epochs)
                if history.stopped is not None:
                    break
                begun = clock()  # callbacks and the checkpoint belong to no epoch
        except KeyboardInterrupt:
            if finish is not None:  # the interrupt cut the end of an epoch in two
                _to_the_end(finish)
                rates.after(history.epochs, seen[follows])
            state.save_epoch(epochs)
            history.stopped = "interrupted"
        finally:
            _to_the_end(state.restore_best)
    return history


def _to_the_end(action: Callable[[], None]) -> None:
    """Do what must not be left half done, from its beginning again when an interrupt comes in between."""
    try:
        action()
    except KeyboardInterrupt:
        _to_the_end(action)


def find_learning_rate(
    net: FNN,
    run: Run,
    optimizer: SGD | AdamW,
    least: float,
    most: float,
    steps: int,
    shuffle: bool,
    seed: int,
) -> LearningRates:
    """Train for up to `steps` steps with a growing rate; only the arrays of `run` change."""
    finder = Finder(least, most, steps)
    control, args = run.control, run.arguments()
    threads = threads_for(net.widths, int(control[BATCH]))
    total = int(control[STEPS])
    with contextlib.ExitStack() as stack:
        team = stack.enter_context(Team(threads)) if threads > 1 else None
        for done, rate in enumerate(finder.rates):
            epoch, step = divmod(done, total)
            if step == 0:
                run.begin(seed, epoch, shuffle)
            run.rates[step] = rate
            control[LAST] = step + 1
            run.progress[:] = 0.0
            if team is None:
                run.steps(0, 1, *args)
            else:
                team.run(run.steps, args, lambda: None, run.stop)
            loss = float(run.progress[LOSS] / run.progress[SEEN])
            if not finder.add(loss):
                break
    return finder.result()
