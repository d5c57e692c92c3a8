"""What happened in a training, epoch by epoch."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nbnorm.model.checkpoints import Saved

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = npt.NDArray[Any]


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
        Fraction of the training samples classified correctly, likewise; None for regression.
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
        Each of the metrics that `fit` was given, of the validation data after the epoch.
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
    >>> History(loss=[0.5, 0.25], accuracy=[0.75, 0.875], epochs=2)
    History(epochs=2, loss=0.25, accuracy=0.875)
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

    def __repr__(self) -> str:
        """Show the values of the last epoch."""
        columns = {name: getattr(self, name) for name in ("loss", "accuracy", "val_loss", "val_accuracy")}
        last = {name: f"{values[-1]:.3g}" for name, values in {**columns, **self.metrics}.items() if values}
        ends = {name: repr(value) for name in ("best_epoch", "stopped") if (value := getattr(self, name))}
        shown = ", ".join(f"{name}={value}" for name, value in {**last, **ends}.items())
        return f"History(epochs={self.epochs}{shown and ', '}{shown})"

    def to_dict(self) -> dict[str, Any]:
        """Return the history as a dictionary that `json` can write."""
        return dataclasses.asdict(self)

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
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


_LISTS = ("loss", "accuracy", "val_loss", "val_accuracy", "seconds", "rates")


def arrays(history: History) -> dict[str, Array]:
    """Return the lists of a history, but for the metrics, as arrays that a checkpoint can hold."""
    lists = {name: getattr(history, name) for name in _LISTS}
    return {name: np.array(values, np.float64) for name, values in lists.items() if values is not None}


def restored(saved: Saved, steps: int) -> History:
    """Return the history that a checkpoint holds; `steps` are those of an epoch."""
    history = History(**{name: values.tolist() for name, values in saved.group("history").items()})
    history.metrics = {name: values.tolist() for name, values in saved.group("metrics").items()}
    history.epochs = len(history.loss)
    history.steps = steps * history.epochs
    history.stopped, history.best_epoch = saved.config["stopped"], saved.config["best_epoch"]
    return history
