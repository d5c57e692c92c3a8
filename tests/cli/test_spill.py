import numpy as np
import pytest

from nbnorm.cli import answers, spill
from nbnorm.cli.spill import Rows


@pytest.fixture
def small(monkeypatch):
    """Blocks, runs and memory so small that a few thousand rows fill many."""
    for name, value in (("BLOCK", 100), ("_IN_MEMORY", 1000), ("_SORTED", 300), ("_LEAST_SORTED", 7)):
        monkeypatch.setattr(spill, name, value)


def on_disk(rows):
    kept = Rows()
    for part in np.array_split(rows, 9):
        kept.append(part)
    return kept


@pytest.mark.parametrize("shape", [(2345,), (2345, 3)])
def test_rows_are_read_in_slices(small, shape):
    rows = np.random.default_rng(0).normal(size=shape)
    kept = on_disk(rows)
    assert len(kept) == 2345
    for part in (slice(0, 10), slice(2340, 9999), slice(50, 50), slice(None, None, 7), slice(3, 2000, 400)):
        np.testing.assert_array_equal(kept[part], rows[part])


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("digits", [1, 12])  # many equal scores, hardly any
def test_classes_block_by_block(small, monkeypatch, classes, digits):
    random = np.random.default_rng(classes)
    truth = random.integers(0, classes + 1, 3000)  # the last one is unseen
    logits = random.normal(size=(3000, classes)) + np.eye(classes + 1)[truth][:, :classes]
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    probability = np.round(probability, digits)
    decision = probability.argmax(axis=1)
    given = {"classes": range(classes), "unseen": {"x": 1}}
    got = answers.of_classes(on_disk(probability), on_disk(decision), on_disk(truth), **given)
    monkeypatch.undo()
    expected = answers.of_classes(probability, decision, truth, **given)
    assert got["roc_auc"] == expected["roc_auc"]
    assert got["confusion_matrix"] == expected["confusion_matrix"]
    assert got["log_loss"] == pytest.approx(expected["log_loss"], rel=1e-13)
    for one, other in zip(got["calibration"]["bins"], expected["calibration"]["bins"], strict=True):
        assert one == pytest.approx(other, rel=1e-13)


def test_labels_block_by_block(small, monkeypatch):
    random = np.random.default_rng(0)
    truth, probability = random.random((1500, 3)) < 0.3, random.random((1500, 3))
    got = answers.of_labels(on_disk(probability), on_disk(truth), None)
    monkeypatch.undo()
    expected = answers.of_labels(probability, truth, None)
    assert got.pop("log_loss") == pytest.approx(expected.pop("log_loss"), rel=1e-13)
    assert got == expected


@pytest.mark.parametrize("mean", [None, [1e6, 0.0]])
def test_values_block_by_block(small, monkeypatch, mean):
    random = np.random.default_rng(0)
    truth = random.normal([1e6, 0.0], size=(1500, 2))
    got = truth + random.normal(size=(1500, 2))
    found = answers.of_values(on_disk(got), on_disk(truth), mean=mean)
    monkeypatch.undo()
    expected = answers.of_values(got, truth, mean=mean)
    for name in ("r2", "mean_absolute_error", "root_mean_squared_error"):
        assert found[name] == pytest.approx(expected[name], rel=1e-12)
        assert found["baseline"][name] == pytest.approx(expected["baseline"][name], rel=1e-12, abs=1e-9)
    for name in ("calibration", "outputs"):
        for one, other in zip(found[name], expected[name], strict=True):
            assert one == pytest.approx(other, rel=1e-9)


def test_a_constant_target_in_many_blocks(small):
    truth = np.full(1000, 0.1)
    assert answers.of_values(truth, truth)["r2"] == 1.0
    assert answers.of_values(truth + 1e-3, truth)["r2"] == 0.0
