"""Figures, drawn without a display and without any global state of matplotlib."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nbnorm import _files

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Blue and orange: told apart by colour-blind readers and in print.
_TRAINING = "#0b62a4"
_HELD_OUT = "#d95f02"


def _figure_class() -> type[Figure]:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError('a plot needs matplotlib: pip install "nbnorm[plot]"') from None
    return Figure


def check_format(path: _files.PathLike) -> None:
    """Raise an error now if `learning_curve` could not write a file of this name later.

    Parameters
    ----------
    path : str or path

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError
        If the suffix is of no format that matplotlib writes.
    OSError
        If the file cannot be written.

    Examples
    --------
    >>> check_format("curve.xyz")
    Traceback (most recent call last):
        ...
    ValueError: curve.xyz must end in one of ..., .png, ...
    """
    known = sorted(_figure_class()().canvas.get_supported_filetypes())
    if Path(path).suffix.lower().lstrip(".") not in known:
        endings = ", ".join(f".{suffix}" for suffix in known)
        raise ValueError(f"{os.fspath(path)} must end in one of {endings}")
    _files.check_writable(path)


def _draw(
    axes: Axes,
    epochs: Sequence[int],
    training: Sequence[float] | None,
    held_out: Sequence[float] | None,
    best: int | None,
) -> None:
    from matplotlib.ticker import MaxNLocator

    # A line of one point would be invisible, and markers on many points hide the line.
    marker = "o" if len(epochs) <= 30 else None
    if training:
        axes.plot(epochs, training, color=_TRAINING, marker=marker, markersize=4, label="training")
    if held_out:
        axes.plot(epochs, held_out, color=_HELD_OUT, marker=marker, markersize=4, label="held out")
    if best is not None:
        axes.axvline(best, color="0.5", linestyle="--", linewidth=1, label="best epoch")
    if held_out or best is not None:
        axes.legend(frameon=False)
    axes.set_xlabel("epoch")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.03)


def learning_curve(
    history: Mapping[str, Any], path: _files.PathLike | None = None, *, title: str | None = None
) -> Figure:
    """Draw loss, accuracy and metrics over the epochs of a training.

    Parameters
    ----------
    history : dict
        As `History.to_dict` gives it: lists `loss` and, where there are any, `accuracy`,
        `val_loss` and `val_accuracy`, one entry per epoch, lists by name in `metrics`, which are
        of the held-out data, and `best_epoch`, which is marked.
    path : str or path, optional
        File to write the figure to, in the format of its suffix.
    title : str, optional
        A line above the figure.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError
        If no epoch is there to draw, lists have different lengths, or the format is unknown.

    Examples
    --------
    >>> figure = learning_curve({"loss": [0.9, 0.4], "accuracy": [0.7, 0.9]})
    >>> [axes.get_ylabel() for axes in figure.axes]
    ['loss', 'accuracy']
    """
    figure_class = _figure_class()
    curves = {key: history.get(key) for key in ("loss", "accuracy", "val_loss", "val_accuracy")}
    loss = curves["loss"]
    if not loss:
        raise ValueError("history must hold the loss of at least one epoch")
    for key, values in curves.items():
        if values and len(values) != len(loss):
            got = f"{len(loss)} of loss, {len(values)} of {key}"
            raise ValueError(f"history must hold one entry per epoch, got {got}")
    if path is not None:
        check_format(path)
    names = [name for name in ("loss", "accuracy") if curves[name]]
    panels = {name: (curves[name], curves[f"val_{name}"]) for name in names}
    # the accuracy of the held-out data stands beside that of the training data already
    others = {name: values for name, values in (history.get("metrics") or {}).items() if name not in panels}
    panels |= {name: (None, values) for name, values in others.items()}
    figure = figure_class(figsize=(4.8 * len(panels), 3.6), layout="constrained")
    epochs = range(1, len(loss) + 1)
    best = history.get("best_epoch")
    subplots = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (name, (training, held_out)) in zip(subplots, panels.items(), strict=True):
        _draw(axes, epochs, training, held_out, best)
        axes.set_ylabel(name)
    if title is not None:
        figure.suptitle(title)
    _write(figure, path)
    return figure


def _write(figure: Figure, path: _files.PathLike | None) -> None:
    if path is not None:
        with _files.replace(path) as file:
            figure.savefig(file, format=Path(path).suffix.lower().lstrip("."), dpi=150)


def learning_rates(
    rates: npt.ArrayLike, losses: npt.ArrayLike, suggestion: float, path: _files.PathLike | None = None
) -> Figure:
    """Draw the loss over the learning rate, with the suggested rate.

    Parameters
    ----------
    rates, losses : array_like of float
        As `nbnorm.LearningRates` holds them.
    suggestion : float
        Learning rate to mark.
    path : str or path, optional
        File to write the figure to, in the format of its suffix.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError
        If the format is unknown.

    Examples
    --------
    >>> figure = learning_rates([0.01, 0.1, 1.0], [2.0, 1.0, 3.0], 0.1)
    >>> figure.axes[0].get_xscale()
    'log'
    """
    if path is not None:
        check_format(path)
    figure = _figure_class()(figsize=(4.8, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(np.asarray(rates), np.asarray(losses), color=_TRAINING, label="smoothed loss")
    axes.axvline(suggestion, color="0.5", linestyle="--", linewidth=1, label=f"suggestion {suggestion:g}")
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    _write(figure, path)
    return figure
