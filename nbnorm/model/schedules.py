"""Learning-rate schedules.

A schedule describes how the learning rate goes; `begin` gives the `Rates` of one training, which
compute the rates of one epoch at a time, in float64, and may react to what the epochs bring.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import numpy as np

from nbnorm import _check, _files
from nbnorm._types import Float64Array
from nbnorm.model.metrics import Mode, Watch, watch

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _set(schedule: Schedule, **values: object) -> None:
    """Store checked options of a frozen schedule."""
    for name, value in values.items():
        object.__setattr__(schedule, name, value)


class Rates:
    """The learning rates of one training.

    Parameters
    ----------
    function : callable
        Takes step numbers (float64 array, from 0) and returns their rates.
    """

    def __init__(self, function: Callable[[Float64Array], Float64Array]) -> None:
        self._function = function

    def fill(self, first: int, out: Float64Array) -> None:
        """Write the rates of the steps from `first` on into `out`."""
        out[:] = self._function(np.arange(first, first + len(out), dtype=np.float64))

    def after(self, epoch: int, value: float) -> None:
        """Take note of the monitored value of an epoch that has ended; a second time changes nothing."""

    def state(self) -> dict[str, Any]:
        """Return what has to be remembered, for JSON."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""


@dataclass(frozen=True)
class Schedule:
    """What all schedules have in common.

    Attributes
    ----------
    planned : bool
        Whether the rates are laid down for all epochs beforehand, so that a training which ends earlier
        misses the small ones.
    """

    planned: ClassVar[bool] = True

    def begin(self, lr: float, epochs: int, steps: int) -> Rates:
        """Begin a training of `epochs` epochs of `steps` steps.

        Parameters
        ----------
        lr : float
            The optimizer's learning rate.
        epochs, steps : int
            Epochs, and steps in each.
        """
        raise NotImplementedError

    def rates(self, lr: float, *, epochs: int, steps: int) -> Float64Array:
        """Return the rates of all steps, for a look at them.

        Parameters
        ----------
        lr : float
            The optimizer's learning rate.
        epochs, steps : int
            Epochs, and steps in each.

        Returns
        -------
        ndarray of float64, shape (epochs * steps,)
        """
        out = np.empty(epochs * steps)
        self.begin(lr, epochs, steps).fill(0, out)
        return out


@dataclass(frozen=True)
class Constant(Schedule):
    """The optimizer's learning rate at every step.

    Examples
    --------
    >>> Constant().rates(0.1, epochs=1, steps=3)
    array([0.1, 0.1, 0.1])
    """

    planned: ClassVar[bool] = False

    def begin(self, lr: float, epochs: int, steps: int) -> Rates:
        """Begin a training of `epochs` epochs of `steps` steps.

        Parameters
        ----------
        lr : float
            The optimizer's learning rate.
        epochs, steps : int
            Epochs, and steps in each.
        """
        return Rates(lambda at: np.full(len(at), lr))


@dataclass(frozen=True)
class StepDecay(Schedule):
    """The rate times `factor` after every so many epochs: ``lr factor**(epoch // every)``.

    Parameters
    ----------
    every : int, optional
        Epochs; by default a third of the training, rounded up.
    factor : float, default 0.1
        Above 0 and below 1.

    Raises
    ------
    TypeError, ValueError
        If an option is of the wrong kind or out of range.

    Examples
    --------
    >>> StepDecay(every=2, factor=0.5).rates(0.4, epochs=5, steps=1)
    array([0.4, 0.4, 0.2, 0.2, 0.1])
    """

    every: int | None = None
    factor: float = 0.1

    def __post_init__(self) -> None:
        every = None if self.every is None else _check.integer("every", self.every, least=1)
        _set(self, every=every, factor=_check.number("factor", self.factor, above=0.0, below=1.0))

    def begin(self, lr: float, epochs: int, steps: int) -> Rates:
        """Begin a training of `epochs` epochs of `steps` steps.

        Parameters
        ----------
        lr : float
            The optimizer's learning rate.
        epochs, steps : int
            Epochs, and steps in each.
        """
        length = steps * (-(-epochs // 3) if self.every is None else self.every)
        return Rates(lambda at: lr * self.factor ** (at // length))


def _rising(warmup: float, total: int) -> int:
    """Return how many of `total` steps come before the peak: the nearest whole number, or the even one."""
    return min(round(warmup * total), total - 1)


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from the optimizer's rate down to `final` times it, after a linear warm-up.

    With T steps of which the first w warm up, step t has the rate ``lr (t + 1) / (w + 1)`` for t < w, and
    ``lr (final + (1 - final) (1 + cos(pi (t - w) / (T - w))) / 2)`` from then on [1]_.  Here w is warmup T
    rounded to the nearest whole number, halves to the even one, and at most T - 1.

    Parameters
    ----------
    final : float, default 0.0
        From 0 to 1.
    warmup : float, default 0.0
        Fraction of the steps, from 0 to below 1.

    Raises
    ------
    TypeError, ValueError
        If an option is of the wrong kind or out of range.

    References
    ----------
    .. [1] I. Loshchilov and F. Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017.

    Examples
    --------
    >>> Cosine(warmup=0.25).rates(0.4, epochs=2, steps=2).round(3)
    array([0.2, 0.4, 0.3, 0.1])
    """

    final: float = 0.0
    warmup: float = 0.0

    def __post_init__(self) -> None:
        _set(
            self,
            final=_check.number("final", self.final, least=0.0, most=1.0),
            warmup=_check.number("warmup", self.warmup, least=0.0, below=1.0),
        )

    def begin(self, lr: float, epochs: int, steps: int) -> Rates:
        """Begin a training of `epochs` epochs of `steps` steps.

        Parameters
        ----------
        lr : float
            The optimizer's learning rate.
        epochs, steps : int
            Epochs, and steps in each.
        """
        total = epochs * steps
        rising = _rising(self.warmup, total)

        def function(at: Float64Array) -> Float64Array:
            # at least 0: the cosine of what comes before is not used
            turn = np.pi * np.maximum(at - rising, 0.0) / (total - rising)
            falling = self.final * lr + 0.5 * lr * (1.0 - self.final) * (1.0 + np.cos(turn))
            return np.where(at < rising, lr * (at + 1.0) / (rising + 1.0), falling)

        return Rates(function)


@dataclass(frozen=True)
class OneCycle(Schedule):
    """One cycle: from `start` times the optimizer's rate up to it, then down to `final` times it.

    The rate peaks after a fraction `warmup` of the steps, rounded as by `Cosine`; rise and fall are half
    cosines.  A large peak trains fast and regularizes [1]_ (there the two parts are straight lines).

    Parameters
    ----------
    start : float, default 0.04
        Fraction of the rate at the first step, above 0 and at most 1.
    warmup : float, default 0.3
        Fraction of the steps before the peak, from 0 to below 1.
    final : float, default 1e-4
        Fraction of the rate after the last step, from 0 to 1.

    Raises
    ------
    TypeError, ValueError
        If an option is of the wrong kind or out of range.

    References
    ----------
    .. [1] L. N. Smith and N. Topin, "Super-Convergence: Very Fast Training of Neural Networks Using Large
       Learning Rates", 2018.

    Examples
    --------
    >>> OneCycle(start=0.5, warmup=0.5, final=0.0).rates(0.4, epochs=2, steps=2).round(3)
    array([0.2, 0.3, 0.4, 0.2])
    """

    start: float = 0.04
    warmup: float = 0.3
    final: float = 1e-4

    def __post_init__(self) -> None:
        _set(
            self,
            start=_check.number("start", self.start, above=0.0, most=1.0),
            warmup=_check.number("warmup", self.warmup, least=0.0, below=1.0),
            final=_check.number("final", self.final, least=0.0, most=1.0),
        )

    def begin(self, lr: float, epochs: int, steps: int) -> Rates:
        """Begin a training of `epochs` epochs of `steps` steps.

        Parameters
        ----------
        lr : float
            The optimizer's learning rate.
        epochs, steps : int
            Epochs, and steps in each.
        """
        total = epochs * steps
        rising = _rising(self.warmup, total)

        def part(begin: float, end: float, done: Float64Array) -> Float64Array:
            return np.asarray(lr * (end + (begin - end) * 0.5 * (1.0 + np.cos(np.pi * done))))

        def function(at: Float64Array) -> Float64Array:
            up = part(self.start, 1.0, np.minimum(at / max(rising, 1), 1.0))
            down = part(1.0, self.final, np.maximum(at - rising, 0.0) / (total - rising))
            return np.where(at < rising, up, down)

        return Rates(function)


@dataclass(frozen=True)
class Plateau(Schedule):
    """The rate times `factor` whenever a value has not become better for `patience` epochs.

    Parameters
    ----------
    monitor : str, optional
        What to watch: an entry of the history such as "loss" or "val_accuracy", or the name of a
        metric.  By default the validation loss, or without validation data the training loss.
    factor : float, default 0.1
        Above 0 and below 1.
    patience : int, default 5
        Epochs.
    min_delta : float, default 0.0
        A change counts as better if it is larger than this.
    least : float, default 0.0
        The rate never falls below this.
    mode : {"auto", "min", "max"}, default "auto"
        Whether less or more is better; "auto" knows it of the history and of the metrics with a name,
        so that `FNN.fit` refuses it for a function of your own.

    Raises
    ------
    TypeError, ValueError
        If an option is of the wrong kind or out of range.

    Examples
    --------
    >>> Plateau(factor=0.5, patience=2)
    Plateau(monitor=None, factor=0.5, patience=2, min_delta=0.0, least=0.0, mode='auto')
    """

    planned: ClassVar[bool] = False

    monitor: str | None = None
    factor: float = 0.1
    patience: int = 5
    min_delta: float = 0.0
    least: float = 0.0
    mode: Mode = "auto"

    def __post_init__(self) -> None:
        if self.monitor is not None and not isinstance(self.monitor, str):
            raise TypeError(f"monitor must be a name, got {type(self.monitor).__name__}")
        _set(
            self,
            factor=_check.number("factor", self.factor, above=0.0, below=1.0),
            patience=_check.integer("patience", self.patience, least=1),
            min_delta=_check.number("min_delta", self.min_delta, least=0.0),
            least=_check.number("least", self.least, least=0.0),
            mode=_check.choice("mode", self.mode, ("auto", "min", "max")),
        )

    def begin(self, lr: float, epochs: int, steps: int) -> Rates:
        """Begin a training of `epochs` epochs of `steps` steps.

        Parameters
        ----------
        lr : float
            The optimizer's learning rate.
        epochs, steps : int
            Epochs, and steps in each.
        """
        return _PlateauRates(self, lr)


class _PlateauRates(Rates):
    """A rate that falls where a value stands still."""

    def __init__(self, plateau: Plateau, lr: float) -> None:
        super().__init__(lambda at: np.full(len(at), self._lr))
        self._plateau, self._lr = plateau, lr
        self._watch = watch(plateau.monitor or "loss", plateau.mode, plateau.min_delta)
        self._waited = self._epoch = 0

    def after(self, epoch: int, value: float) -> None:
        """Take note of the monitored value of an epoch that has ended."""
        if epoch == self._epoch:
            return
        self._epoch = epoch
        self._watch = self._watch.after(epoch, value)
        self._waited = self._waited + 1 if self._watch.waited else 0
        if self._waited >= self._plateau.patience:
            # not raised where the optimizer's own rate is below `least`
            self._lr = min(self._lr, max(self._lr * self._plateau.factor, self._plateau.least))
            self._waited = 0

    def state(self) -> dict[str, Any]:
        """Return what has to be remembered, for JSON."""
        return {
            "lr": self._lr,
            "waited": self._waited,
            "epoch": self._epoch,
            "watch": asdict(self._watch),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self._lr, self._waited, self._epoch = float(state["lr"]), int(state["waited"]), int(state["epoch"])
        self._watch = Watch(**state["watch"])


@dataclass(frozen=True)
class _Called(Schedule):
    """Rates that a function of the step returns."""

    function: Callable[[int], float]

    def begin(self, lr: float, epochs: int, steps: int) -> Rates:
        """Begin a training of `epochs` epochs of `steps` steps.

        Parameters
        ----------
        lr : float
            The optimizer's learning rate.
        epochs, steps : int
            Epochs, and steps in each.
        """
        return Rates(
            lambda at: np.array(
                [_check.number("schedule(step)", self.function(int(step)), least=0.0) for step in at]
            )
        )


ScheduleName: TypeAlias = Literal["constant", "step", "cosine", "one_cycle", "plateau"]

NAMED: dict[ScheduleName, type[Schedule]] = {
    "constant": Constant,
    "step": StepDecay,
    "cosine": Cosine,
    "one_cycle": OneCycle,
    "plateau": Plateau,
}


def resolve(schedule: ScheduleName | Schedule | Callable[[int], float]) -> Schedule:
    """Return the schedule that a name, an object or a function of the step stands for.

    Parameters
    ----------
    schedule : str, schedule or callable

    Returns
    -------
    Schedule

    Raises
    ------
    ValueError
        If it is none of them.

    Examples
    --------
    >>> resolve("cosine")
    Cosine(final=0.0, warmup=0.0)
    """
    if isinstance(schedule, Schedule):
        return schedule
    if isinstance(schedule, str) and schedule in NAMED:
        return NAMED[schedule]()
    if callable(schedule) and not isinstance(schedule, type):
        return _Called(schedule)
    names = ", ".join(map(repr, NAMED))
    raise ValueError(
        f"schedule must be one of {names}, a Schedule or a callable of the step, got {schedule!r}"
    )


# Standard deviation of the window that smooths the losses of a range test, as a fraction of its steps, and
# the fraction of their fall that is done at the suggested rate (docs/examples/learning_rates.py).
_WINDOW, _FALLEN = 0.08, 0.98


@dataclass(frozen=True)
class LearningRates:
    """What `FNN.find_learning_rate` has measured.

    Attributes
    ----------
    rates : ndarray of float64
        Learning rate of each step, growing by a constant factor.
    losses : ndarray of float64
        Training loss of each step's batch before its update.

    Examples
    --------
    >>> import numpy as np
    >>> rates = np.logspace(-4, 1, 6)
    >>> LearningRates(rates, np.array([2.0, 1.9, 1.0, 0.6, 0.5, 3.0])).suggestion
    0.01
    """

    rates: Float64Array
    losses: Float64Array

    def __repr__(self) -> str:
        """Show the range of the rates and the suggestion."""
        span = f"{self.rates[0]:.3g} .. {self.rates[-1]:.3g}" if len(self.rates) else "none"
        suggestion = f", suggestion={self.suggestion}" if len(self.rates) else ""
        return f"LearningRates(steps={len(self.rates)}, rates={span}{suggestion})"

    @property
    def smoothed(self) -> Float64Array:
        """Losses averaged over their neighbours on both sides, with the weights of a normal distribution."""
        at = np.arange(len(self.losses))
        window = np.exp(-0.5 * ((at[:, None] - at) / (_WINDOW * len(at))) ** 2)
        return np.asarray(window @ self.losses / window.sum(axis=1))

    @property
    def suggestion(self) -> float:
        """Last rate at which less than 98 % of the fall of the smoothed loss to its minimum are done.

        The fall begins at the median of the first fifth of the steps, so that no noise of a single batch
        decides.  Where the loss does not fall at all, it is a tenth of the rate of the least loss.
        """
        losses = self.smoothed
        lowest = int(np.argmin(losses))
        first = float(np.median(losses[: max(len(losses) // 5, 1)]))
        if first <= losses[lowest]:
            return float(f"{self.rates[lowest] / 10.0:.3g}")
        left = losses[: lowest + 1] - losses[lowest] > (1.0 - _FALLEN) * (first - losses[lowest])
        return float(f"{self.rates[np.flatnonzero(left)[-1] if left.any() else 0]:.3g}")

    def plot(self, path: _files.PathLike | None = None) -> Figure:
        """Draw the loss over the learning rate.

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

        return plots.learning_rates(self.rates, self.smoothed, self.suggestion, path)


class Finder:
    """The steps of a learning-rate range test (L. N. Smith, "Cyclical Learning Rates", WACV 2017)."""

    # Weight of what came before in a running mean of the loss, and how far it may rise above its least value.
    _MEMORY, _EXPLODED = 0.9, 4.0

    def __init__(self, least: float, most: float, steps: int) -> None:
        self.rates = np.geomspace(least, most, steps)
        self._losses: list[float] = []
        self._mean, self._lowest = 0.0, math.inf

    def add(self, loss: float) -> bool:
        """Take the loss of one more step; return whether to go on."""
        if not math.isfinite(loss):
            return False
        self._losses.append(loss)
        done = len(self._losses)
        self._mean = self._MEMORY * self._mean + (1.0 - self._MEMORY) * loss
        # without the division the first values would be pulled towards 0
        mean = self._mean / (1.0 - self._MEMORY**done)
        self._lowest = min(self._lowest, mean)
        exploded = mean > self._lowest + (self._EXPLODED - 1.0) * abs(self._lowest)
        return done < len(self.rates) and not exploded

    def result(self) -> LearningRates:
        """Return what was measured."""
        if not self._losses:
            raise ValueError("the loss of the first step is not finite: no learning rate can be found")
        return LearningRates(self.rates[: len(self._losses)].copy(), np.array(self._losses))
