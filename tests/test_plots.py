from __future__ import annotations

import pickle
import sys

import numpy as np
import pytest

from nbnorm import plots

pytest.importorskip("matplotlib")

HISTORY = {
    "loss": [1.0, 0.5, 0.25],
    "accuracy": [0.5, 0.8, 0.9],
    "val_loss": [1.1, 0.7, 0.6],
    "val_accuracy": [0.4, 0.7, 0.8],
}


def lines(axes):
    return {line.get_label(): list(line.get_ydata()) for line in axes.get_lines()}


def test_learning_curve():
    loss, accuracy = plots.learning_curve(HISTORY).axes
    assert lines(loss) == {"training": HISTORY["loss"], "held out": HISTORY["val_loss"]}
    assert lines(accuracy) == {"training": HISTORY["accuracy"], "held out": HISTORY["val_accuracy"]}
    assert (loss.get_xlabel(), loss.get_ylabel(), accuracy.get_ylabel()) == ("epoch", "loss", "accuracy")
    np.testing.assert_array_equal(loss.get_lines()[0].get_xdata(), [1, 2, 3])


def test_learning_curve_of_a_regression():
    figure = plots.learning_curve({"loss": [1.0], "accuracy": None, "val_loss": None, "val_accuracy": None})
    (axes,) = figure.axes
    assert list(lines(axes)) == ["training"]
    assert axes.get_legend() is None


@pytest.mark.parametrize(("suffix", "magic"), [("png", b"\x89PNG"), ("PNG", b"\x89PNG"), ("pdf", b"%PDF")])
def test_learning_curve_writes(tmp_path, suffix, magic):
    plots.learning_curve(HISTORY, tmp_path / f"curve.{suffix}", title="digits")
    assert (tmp_path / f"curve.{suffix}").read_bytes().startswith(magic)
    assert len(list(tmp_path.iterdir())) == 1


def test_learning_curve_leaves_pyplot_alone():
    loaded = "matplotlib.pyplot" in sys.modules
    plots.learning_curve(HISTORY)
    assert ("matplotlib.pyplot" in sys.modules) == loaded


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        ({}, "at least one epoch"),
        ({"loss": []}, "at least one epoch"),
        ({"loss": [1.0, 2.0], "val_loss": [1.0]}, "one entry per epoch, got 2 of loss, 1 of val_loss"),
    ],
)
def test_learning_curve_bad_history(history, expected):
    with pytest.raises(ValueError, match=expected):
        plots.learning_curve(history)


def test_learning_curve_bad_path(tmp_path):
    with pytest.raises(ValueError, match=r"curve\.npz must end in one of .*\.png"):
        plots.learning_curve(HISTORY, tmp_path / "curve.npz")
    with pytest.raises(FileNotFoundError, match=r"nowhere/curve\.png"):
        plots.learning_curve(HISTORY, tmp_path / "nowhere" / "curve.png")


def test_learning_curve_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install "nbnorm\[plot\]"'):
        plots.learning_curve(HISTORY)


def test_answers():
    calibration = {"bins": [{"confidence": 0.7, "accuracy": 0.5, "samples": 2}]}
    scores = {
        "accuracy": 0.5,
        "classes": [{"class": "a$b"}, {"class": "c"}],
        "confusion_matrix": [[3, 1], [0, 2]],
        "calibration": calibration,
    }
    figure = plots.answers(scores, history={"loss": [0.9, 0.4]})
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "truth", "fraction that is right"]
    assert [text.get_text() for text in figure.axes[1].texts] == ["3", "1", "2"]
    figure.canvas.draw()
    with pytest.raises(ValueError, match="must hold a confusion matrix"):
        plots.answers({})


def test_a_notebook_displays_a_figure_without_pyplot():
    figure = pickle.loads(pickle.dumps(plots.learning_curve(HISTORY)))
    assert figure._repr_png_().startswith(b"\x89PNG")
