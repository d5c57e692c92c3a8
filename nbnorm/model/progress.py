"""The progress bar of a training, and of several side by side."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, TypeVar

from nbnorm.model.history import History

_Self = TypeVar("_Self", bound="_Bar")


class _Bar:
    """A bar that is closed at the end of a block, or nothing."""

    _bar: Any

    @property
    def shown(self) -> bool:
        """Whether there is a bar."""
        return self._bar is not None

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()


class Progress(_Bar):
    """A bar on the terminal, within 80 columns, or nothing."""

    def __init__(self, wanted: bool | None, epochs: int, steps: int) -> None:
        self._steps = steps
        self._epochs = epochs
        self._rest = ""
        self._bar = _opened(wanted, f"epoch 1/{epochs}", epochs * steps)

    def show(self, epoch: int, step: int, loss: float, accuracy: float | None = None) -> None:
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


class SharedProgress(_Bar):
    """One bar for trainings side by side, which counts the epochs of all, or nothing.

    Parameters
    ----------
    wanted : bool or None
        None for a bar on a terminal only.
    epochs : sequence of int
        Epochs of each training.
    """

    def __init__(self, wanted: bool | None, epochs: Sequence[int]) -> None:
        self._epochs = list(epochs)
        self._done = [0] * len(self._epochs)
        self._ended = 0
        self._lock = threading.Lock()  # the trainings have a thread each
        self._bar = _opened(wanted, f"trained 0/{len(self._epochs)}", sum(self._epochs))

    def callbacks(self, number: int) -> list[Callable[[object, History], None]]:
        """Return what training `number` calls after each of its epochs: nothing without a bar."""

        def after_epoch(net: object, history: History) -> None:
            with self._lock:
                self._move(number, history.epochs)

        return [] if self._bar is None else [after_epoch]

    def ended(self, number: int, history: History) -> None:
        """Count a training that has ended, after however many epochs, unless it was interrupted."""
        if self._bar is None or history.stopped == "interrupted":
            return
        with self._lock:
            self._ended += 1
            self._bar.set_description_str(f"trained {self._ended}/{len(self._epochs)}", refresh=False)
            self._move(number, self._epochs[number])

    def _move(self, number: int, epochs: int) -> None:
        self._bar.update(epochs - self._done[number])
        self._done[number] = epochs


def _opened(wanted: bool | None, description: str, total: int) -> Any:
    """Return a new bar, or None where none is wanted."""
    if wanted is False or (wanted is None and not sys.stderr.isatty()):
        return None
    try:
        from tqdm import tqdm
    except ImportError:
        if wanted:
            raise ImportError('progress=True needs tqdm: pip install "nbnorm[progress]"') from None
        return None
    return tqdm(
        desc=description,
        total=total,
        bar_format="{desc} {percentage:3.0f}%|{bar}| {remaining}{postfix}",
        file=sys.stderr,
        dynamic_ncols=True,
        mininterval=0.1,
    )


def brief(value: float) -> str:
    """Return a number in at most nine characters, with four digits behind the point where they fit."""
    return f"{value:.4f}" if abs(value) < 1e4 else f"{value:.3g}"
