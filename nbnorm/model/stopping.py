"""Early stopping: which epochs count as better, and how long to wait for one."""

from __future__ import annotations

import dataclasses
import math

from nbnorm import _check
from nbnorm.model.metrics import Mode
from nbnorm.model.schedules import Schedule

# Epochs that early stopping waits where it is not told how long.
PATIENCE = 10


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
    mode: Mode = "auto"
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


def resolve(value: EarlyStopping | bool | None) -> EarlyStopping | None:
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
