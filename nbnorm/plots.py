"""Figures, drawn without a display and without any global state of matplotlib."""

from __future__ import annotations

import functools
import io
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
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
# So many classes have their names beside a confusion matrix.
_MOST_NAMES = 20
Panel = Callable[["Axes"], None]


def _figure_class() -> type[Figure]:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError('a plot needs matplotlib: pip install "nbnorm[plot]"') from None
    return Figure


def _new_figure(size: tuple[float, float]) -> Figure:
    """Return an empty figure of a size in inches, which notebooks display, with or without pyplot."""
    figure = _figure_class()(figsize=size, layout="constrained")
    vars(figure)["_repr_png_"] = functools.partial(_png, figure)
    return figure


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


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


def _style(axes: Axes) -> None:
    """Give axes the look of all figures."""
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


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
    _style(axes)
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
    return _picture(_curves(history), path, title)


def _curves(history: Mapping[str, Any]) -> list[Panel]:
    """Return a panel for loss, accuracy and each metric over the epochs."""
    curves = {key: history.get(key) for key in ("loss", "accuracy", "val_loss", "val_accuracy")}
    loss = curves["loss"]
    if not loss:
        raise ValueError("history must hold the loss of at least one epoch")
    for key, values in curves.items():
        if values and len(values) != len(loss):
            got = f"{len(loss)} of loss, {len(values)} of {key}"
            raise ValueError(f"history must hold one entry per epoch, got {got}")
    names = [name for name in ("loss", "accuracy") if curves[name]]
    panels = {name: (curves[name], curves[f"val_{name}"]) for name in names}
    # the accuracy of the held-out data stands beside that of the training data already
    others = {name: values for name, values in (history.get("metrics") or {}).items() if name not in panels}
    panels |= {name: (None, values) for name, values in others.items()}
    epochs, best = range(1, len(loss) + 1), history.get("best_epoch")

    def panel(name: str, training: Sequence[float] | None, held_out: Sequence[float] | None) -> Panel:
        def draw(axes: Axes) -> None:
            _draw(axes, epochs, training, held_out, best)
            axes.set_ylabel(name)

        return draw

    return [panel(name, *both) for name, both in panels.items()]


def _picture(panels: Sequence[Panel], path: _files.PathLike | None, title: str | None) -> Figure:
    """Draw panels in rows of two: on the width of a page the labels of more would be too small."""
    if path is not None:
        check_format(path)
    columns = min(len(panels), 2)
    rows = -(-len(panels) // columns)
    figure = _new_figure((4.8 * columns, 3.6 * rows))
    for at, draw in enumerate(panels, 1):
        draw(figure.add_subplot(rows, columns, at))
    if title is not None:
        figure.suptitle(title)
    _write(figure, path)
    return figure


def answers(
    scores: Mapping[str, Any],
    path: _files.PathLike | None = None,
    *,
    points: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    history: Mapping[str, Any] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw what a model is worth: the confusion matrix and calibration, or predictions against truth.

    Parameters
    ----------
    scores : dict
        As ``nbnorm evaluate --json`` prints it.
    path : str or path, optional
        File to write the figure to, in the format of its suffix.
    points : (truth, predictions), optional
        Values of regression, each of shape (n_samples,) or (n_samples, n_outputs).
    history : dict, optional
        The training, as for `learning_curve`, whose panels come first.
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
        If there is nothing to draw, or the format is unknown.

    Examples
    --------
    >>> figure = answers({"samples": 3}, points=([1.0, 2.0, 4.0], [1.1, 2.1, 3.7]))
    >>> [axes.get_ylabel() for axes in figure.axes]
    ['prediction']
    """
    panels = [] if history is None else _curves(history)
    if scores.get("confusion_matrix"):
        panels.append(functools.partial(_draw_confusions, scores))
    if scores.get("calibration") and "accuracy" in scores:
        panels.append(functools.partial(_draw_calibration, scores["calibration"]))
    if points is not None:
        panels.append(functools.partial(_draw_points, *points))
    if not panels:
        raise ValueError("scores must hold a confusion matrix, or points must be given")
    return _picture(panels, path, title)


def _draw_confusions(scores: Mapping[str, Any], axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    matrix = np.asarray(scores["confusion_matrix"], np.float64)
    names = [_label(one["class"]) for one in scores["classes"]]
    rows = [*names, "(unseen)"][: len(matrix)]
    fraction = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1.0)
    axes.imshow(fraction, cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
    axes.set_xlabel("prediction")
    axes.set_ylabel("truth")
    if len(rows) > _MOST_NAMES:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        return
    axes.set_xticks(range(len(names)), names, rotation=0 if max(map(len, names)) < 4 else 90)
    axes.set_yticks(range(len(rows)), rows)
    for (row, column), count in np.ndenumerate(matrix):
        if count:
            colour = "white" if fraction[row, column] > 0.5 else "black"
            axes.text(column, row, f"{count:.0f}", ha="center", va="center", color=colour, fontsize=7)


def _label(name: object) -> str:
    """Return the name of a class for an axis; a dollar would begin a formula."""
    text = str(name).replace("$", r"\$")
    return text if len(text) <= 16 else text[:13] + "..."


def _draw_calibration(calibration: Mapping[str, Any], axes: Axes) -> None:
    bins = calibration["bins"]
    axes.plot([0, 1], [0, 1], color="0.5", linestyle="--", linewidth=1)
    confidence, accuracy = ([one[key] for one in bins] for key in ("confidence", "accuracy"))
    # points at 0 and 1 stand on the frame, which would cut them
    axes.plot(confidence, accuracy, color=_HELD_OUT, marker="o", markersize=4, clip_on=False)
    axes.set_xlabel("confidence")
    axes.set_ylabel("fraction that is right")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    _style(axes)


# Of more samples the picture shows evenly chosen ones.
MOST_POINTS = 100_000


def _draw_points(truth: npt.ArrayLike, predictions: npt.ArrayLike, axes: Axes) -> None:
    x, y = np.asarray(truth, np.float64), np.asarray(predictions, np.float64)
    step = -(-len(x) // MOST_POINTS)
    x, y = x[::step], y[::step]
    ends = [min(x.min(), y.min()), max(x.max(), y.max())]
    axes.plot(ends, ends, color="0.5", linestyle="--", linewidth=1)
    for j in range(x.reshape(len(x), -1).shape[1]):
        pairs = (values.reshape(len(values), -1)[:, j] for values in (x, y))
        axes.plot(*pairs, ".", markersize=3, alpha=0.6, rasterized=len(x) > 5000)
    axes.set_xlabel("truth")
    axes.set_ylabel("prediction")
    _style(axes)


def _write(figure: Figure, path: _files.PathLike | None) -> None:
    if path is not None:
        with _files.replace(path) as file, warnings.catch_warnings():
            # names in a script that the font lacks are shown as boxes
            warnings.filterwarnings("ignore", "Glyph .* missing from")
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
    figure = _new_figure((4.8, 3.6))
    axes = figure.subplots()
    axes.plot(np.asarray(rates), np.asarray(losses), color=_TRAINING, label="smoothed loss")
    axes.axvline(suggestion, color="0.5", linestyle="--", linewidth=1, label=f"suggestion {suggestion:g}")
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss")
    _style(axes)
    axes.legend(frameon=False)
    _write(figure, path)
    return figure


def inspection(
    layers: Sequence[Mapping[str, Any]], path: _files.PathLike | None = None, *, title: str | None = None
) -> Figure:
    """Draw means and standard deviations of features, condition numbers and gradients over the layers.

    Parameters
    ----------
    layers : sequence of dict
        As `Inspection.to_dict` gives them.
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
        If the format is unknown.

    Examples
    --------
    >>> one = {"name": "input", "mean": [0.0], "std": [1.0], "condition": 4.0, "gradient_norm": None}
    >>> [axes.get_ylabel() for axes in inspection([one]).axes]
    ['features', 'condition number']
    """
    if path is not None:
        check_format(path)
    marked = [
        ("condition", "features", "o", _HELD_OUT),
        ("condition_standardized", "standardized", "s", _TRAINING),
        ("condition_read", "what is read", "x", "0.3"),
    ]
    steps = [("weight_norm", "weights", "s", _TRAINING), ("gradient_norm", "gradient", "o", _HELD_OUT)]
    panels = [("condition number", marked), ("norm", steps)]
    panels = [
        (label, curves)
        for label, curves in panels
        if any(layer.get(key) is not None for key, *_ in curves for layer in layers)
    ]
    size = (1 + len(panels)) * max(3.2, 0.6 * len(layers)), 3.6
    figure = _new_figure(size)
    subplots = figure.subplots(1, 1 + len(panels), squeeze=False)[0]
    positions = np.arange(len(layers))
    for key, shift, colour in (("mean", -0.14, _HELD_OUT), ("std", 0.14, _TRAINING)):
        for at, layer in zip(positions, layers, strict=True):
            low, middle, high = np.quantile(layer[key], [0.0, 0.5, 1.0])
            subplots[0].plot([at + shift] * 2, [low, high], color=colour, linewidth=2)
            label = key if at == 0 else None
            subplots[0].plot(at + shift, middle, "o", color=colour, markersize=5, label=label)
    subplots[0].set_yscale("symlog", linthresh=1.0)
    subplots[0].set_ylabel("features")
    for axes, (label, curves) in zip(subplots[1:], panels, strict=True):
        for key, name, marker, colour in curves:
            values = [layer.get(key) for layer in layers]
            if any(value is not None for value in values):
                heights = [np.nan if value is None else value for value in values]
                axes.plot(positions, heights, marker=marker, linestyle=":", color=colour, label=name)
        axes.set_yscale("log")
        axes.set_ylabel(label)
    for axes in subplots:
        axes.set_xticks(positions, [layer["name"] for layer in layers], rotation=30, ha="right")
        axes.set_xlim(-0.5, len(layers) - 0.5)
        _style(axes)
        axes.legend(frameon=False)
    if title is not None:
        figure.suptitle(title)
    _write(figure, path)
    return figure
