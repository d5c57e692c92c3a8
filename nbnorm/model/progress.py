"""The progress bar of a training."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any


class Progress:
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

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()


def brief(value: float) -> str:
    """Return a number in at most nine characters, with four digits behind the point where they fit."""
    return f"{value:.4f}" if abs(value) < 1e4 else f"{value:.3g}"
