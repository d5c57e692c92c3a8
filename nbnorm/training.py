"""The loop over epochs: progress, interruption, divergence, and the history of a run."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import sys
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from numba import config

from nbnorm import _check
from nbnorm import steps as _engine
from nbnorm._jit import get_num_threads
from nbnorm._team import Team
from nbnorm.engine import Run
from nbnorm.gather import Data
from nbnorm.optimizers import SGD

if TYPE_CHECKING:
    from nbnorm.network import FNN

Array = npt.NDArray[Any]

# Floating-point operations of one step from which a team of threads is faster than one thread.
TEAM_WORK = 2e6

# Seconds of compiled work after which Python looks for an interrupt and moves the progress bar.
_CHUNK = 0.05


class DivergenceError(ArithmeticError):
    """Training met a loss or parameters that are not finite.

    The network keeps the parameters of the last epoch that ended well.

    Attributes
    ----------
    history : History
        The epochs done before.
    """

    def __init__(self, message: str, history: History) -> None:
        super().__init__(message)
        self.history = history


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
        Wall-clock time of each epoch, validation included.
    epochs, steps : int
        Epochs and updates done.
    stopped : str or None
        "interrupted" after Ctrl-C, otherwise None.

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

    def to_dict(self) -> dict[str, Any]:
        """Return the history as a dictionary that `json` can write."""
        return dataclasses.asdict(self)

    def plot(self, path: Any = None) -> Any:
        """Draw loss and accuracy over the epochs.

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


class _Progress:
    """A bar on the terminal, or nothing."""

    def __init__(self, wanted: bool | None, epochs: int, steps: int) -> None:
        self._bar: Any = None
        self._steps = steps
        self._epochs = epochs
        if wanted is False or (wanted is None and not sys.stderr.isatty()):
            return
        try:
            from tqdm import tqdm
        except ImportError:
            if wanted:
                raise ImportError('progress=True needs tqdm: pip install "nbnorm[progress]"') from None
            return
        self._bar = tqdm(
            total=epochs * steps, unit="step", file=sys.stderr, dynamic_ncols=True, mininterval=0.1
        )

    def show(self, epoch: int, step: int, loss: float, accuracy: float | None, rest: str = "") -> None:
        """Move the bar to a step of an epoch (both from 0)."""
        if self._bar is None:
            return
        text = f"loss {loss:.4f}" + (f", accuracy {accuracy:.4f}" if accuracy is not None else "")
        self._bar.set_description(f"epoch {min(epoch + 1, self._epochs)}/{self._epochs}", refresh=False)
        self._bar.set_postfix_str(text + rest, refresh=False)
        self._bar.update(epoch * self._steps + step - self._bar.n)

    def __enter__(self) -> _Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()


def learning_rates(lr: float, schedule: str | Callable[[int], float], total: int) -> Array:
    """Learning rate of each of `total` steps, float64."""
    steps = np.arange(total)
    if schedule == "constant":
        return np.full(total, lr)
    if schedule == "cosine":
        return np.asarray(0.5 * lr * (1.0 + np.cos(np.pi * steps / total)))
    if not callable(schedule):
        raise ValueError(f"schedule must be 'constant', 'cosine' or a callable of the step, got {schedule!r}")
    return np.array([_check.number("schedule(step)", schedule(int(step)), least=0.0) for step in steps])


def threads_for(sizes: Iterable[int], samples: int) -> int:
    """Return the number of threads for the training step of a batch: one where the step is small."""
    sizes = list(sizes)
    work = 6.0 * samples * sum(a * b for a, b in itertools.pairwise(sizes))
    return 1 if work < TEAM_WORK or config.DISABLE_JIT else get_num_threads()


def metrics(
    output: str, logits: Array, labels: Array | None, targets: Array | None
) -> tuple[float, float | None]:
    """Mean loss and accuracy of logits, shape (n_samples, n_out)."""
    z = logits.astype(np.float64)
    if output == "softmax":
        top = z.max(axis=1)
        picked = z[np.arange(len(z)), labels]
        loss = np.log(np.exp(z - top[:, None]).sum(axis=1)) + top - picked
        return float(loss.mean()), float((z.argmax(axis=1) == labels).mean())
    assert targets is not None
    t = targets.reshape(z.shape).astype(np.float64)
    if output == "sigmoid":
        loss = (np.maximum(z, 0.0) - z * t + np.log1p(np.exp(-np.abs(z)))).sum(axis=1)
        return float(loss.mean()), float(((z > 0.0) == (t > 0.5)).all(axis=1).mean())
    return float(0.5 * ((z - t) ** 2).sum(axis=1).mean()), None


class _Fit:
    """One call of `fit`: the run through the engine, the history and the bar."""

    def __init__(self, net: FNN, run: Run, optimizer: SGD, progress: _Progress, threads: int) -> None:
        self.net, self.run, self.progress, self.threads = net, run, progress, threads
        self.control = run.control
        self.steps = int(self.control[_engine.STEPS])
        self.history = History(accuracy=None if net.output == "identity" else [])
        self._chunk = 1

    def present(self) -> tuple[int, float, float | None]:
        """Return steps, mean loss and accuracy of the epoch so far."""
        step = int(self.control[_engine.STEP])
        total, correct, seen = (float(value) for value in self.run.progress)
        seen = max(seen, 1.0)
        return step, total / seen, None if self.history.accuracy is None else correct / seen

    def _show(self) -> None:
        self.progress.show(self.history.epochs, *self.present())

    def epoch(self, team: Team | None) -> None:
        """Run all steps of the epoch that `Run.begin` has set up."""
        control, args = self.control, self.run.arguments()
        if team is not None:
            control[_engine.LAST] = self.steps
            team.run(self.run.steps, args, self._show, self.run.stop)
            return
        while control[_engine.STEP] < self.steps and not control[_engine.DIVERGED]:
            control[_engine.LAST] = min(self.steps, int(control[_engine.STEP]) + self._chunk)
            start = time.perf_counter()
            self.run.steps(0, 1, *args)
            if time.perf_counter() - start < _CHUNK:
                self._chunk *= 2
            else:
                self._chunk = max(self._chunk // 2, 1)
            self._show()

    def end_epoch(self, epoch: int, trained: int, values: dict[str, float | None]) -> None:
        """Store the parameters and record the epoch; called again, it finishes what was cut off."""
        self.run.engine.store()
        self.net.epochs_trained = trained
        history = self.history
        for name, value in values.items():
            if value is not None:
                entries = getattr(history, name) or []
                setattr(history, name, [*entries[:epoch], value])
        history.epochs = epoch + 1
        history.steps = (epoch + 1) * self.steps


class _Validation:
    """Held-out data, measured after each epoch with the parameters that the engine then has."""

    def __init__(
        self, net: FNN, run: Run, data: Data, labels: Array | None, targets: Array | None, threads: int
    ) -> None:
        batch = min(run.engine.layout.batch, data.samples)
        self._run = Run(run.engine, data, batch, _engine.FORWARD, training=False)
        self._output, self._labels, self._targets, self._threads = net.output, labels, targets, threads

    def measure(self) -> tuple[float, float | None]:
        """Return loss and accuracy."""
        self._run.control[_engine.STEP] = 0
        return metrics(self._output, self._run.all(self._threads).out, self._labels, self._targets)


def fit(
    net: FNN,
    run: Run,
    *,
    epochs: int,
    optimizer: SGD,
    rates: Array,
    validation: tuple[Data, Array | None, Array | None] | None,
    shuffle: bool,
    seed: int,
    first_epoch: int,
    progress: bool | None,
    callbacks: Iterable[Callable[[FNN, History], Any]],
) -> History:
    """Train `net`; its arrays change only at the end of each epoch that went well."""
    control = run.control
    threads = threads_for(net.sizes, int(control[_engine.BATCH]))
    steps = int(control[_engine.STEPS])
    held_out = None if validation is None else _Validation(net, run, *validation, threads)
    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(_Progress(progress, epochs, steps))
        state = _Fit(net, run, optimizer, bar, threads)
        team = stack.enter_context(Team(threads)) if threads > 1 else None
        history = state.history
        first = net.epochs_trained
        finish: Callable[[], None] | None = None
        try:
            for epoch in range(epochs):
                start = time.perf_counter()
                run.begin(seed, first_epoch + epoch, shuffle)
                run.rates[:] = rates[epoch * steps : (epoch + 1) * steps]
                state.epoch(team)
                if control[_engine.DIVERGED] or not run.engine.finite():
                    raise DivergenceError(
                        f"training diverged in epoch {epoch + 1}, step {int(control[_engine.STEP])}: "
                        f"the loss is no longer finite; the network keeps the parameters of "
                        f"{epoch} completed epoch(s). A smaller learning rate than {optimizer.lr:g} may help",
                        history,
                    )
                _, loss, accuracy = state.present()
                values = {"loss": loss, "accuracy": accuracy}
                text = ""
                if held_out is not None:
                    held_loss, held_accuracy = held_out.measure()
                    values["val_loss"], values["val_accuracy"] = held_loss, held_accuracy
                    text = f", validation loss {held_loss:.4f}"
                    text += "" if held_accuracy is None else f", accuracy {held_accuracy:.4f}"
                values["seconds"] = time.perf_counter() - start
                finish = functools.partial(state.end_epoch, epoch, first + epoch + 1, values)
                finish()
                finish = None
                bar.show(epoch, steps, loss, accuracy, text)
                for callback in callbacks:
                    callback(net, history)
        except KeyboardInterrupt:
            if finish is not None:  # the interrupt cut the end of an epoch in two
                finish()
            history.stopped = "interrupted"
    return history
