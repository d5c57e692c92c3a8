import numpy as np
import pytest

from cli import flat
from nbnorm.cli import answers
from nbnorm.cli.common import WIDTH, clipped, columns, whole, wrapped

METRICS = pytest.importorskip("sklearn.metrics")


def predictions(classes, n=200, seed=0):
    """Return probabilities, decisions and true classes that agree more often than not."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, classes, n)
    logits = random.normal(size=(n, classes)) + 1.5 * np.eye(classes)[truth]
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return probability, probability.argmax(axis=1), truth


@pytest.mark.parametrize("classes", [2, 4])
def test_scores_of_classes(classes):
    probability, decision, truth = predictions(classes)
    got = answers.of_classes(probability, decision, truth, range(classes))
    score = probability[:, 1] if classes == 2 else probability
    expected = {
        "accuracy": METRICS.accuracy_score(truth, decision),
        "balanced_accuracy": METRICS.balanced_accuracy_score(truth, decision),
        "roc_auc": METRICS.roc_auc_score(truth, score, multi_class="ovr"),
        "log_loss": METRICS.log_loss(truth, probability),
    }
    for name, value in expected.items():
        assert got[name] == pytest.approx(value, rel=1e-12), name
    assert got["confusion_matrix"] == METRICS.confusion_matrix(truth, decision).tolist()
    each = METRICS.precision_recall_fscore_support(truth, decision)
    for key, values in zip(("precision", "recall", "f1", "samples"), each, strict=True):
        np.testing.assert_allclose([one[key] for one in got["classes"]], values, rtol=1e-12)
    most = np.bincount(truth).argmax()
    assert got["baseline"] == {"class": most, "of": "these samples", "accuracy": np.mean(truth == most)}


def test_the_baseline_is_that_of_training():
    probability, decision, truth = predictions(2)
    got = answers.of_classes(probability, decision, truth, ["a", "b"], counts=[3, 9])
    assert got["baseline"] == {"class": "b", "of": "training", "accuracy": np.mean(truth == 1)}


def test_calibration():
    probability = np.array([[0.85, 0.15]] * 4 + [[0.35, 0.65]] * 2)
    truth = np.array([0, 0, 0, 1, 1, 1])
    got = answers.of_classes(probability, probability.argmax(axis=1), truth, [0, 1])["calibration"]
    assert [one["accuracy"] for one in got["bins"]] == [1.0, 0.75]
    assert got["error"] == pytest.approx((4 * 0.10 + 2 * 0.35) / 6)


def test_unseen_labels_are_wrong_answers():
    probability = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    got = answers.of_classes(
        probability, np.array([0, 1, 0]), np.array([0, 1, 2]), ["a", "b"], unseen={"bird": 1}
    )
    assert (got["accuracy"], got["samples"], got["unseen_labels"]) == (pytest.approx(2 / 3), 3, {"bird": 1})
    assert got["confusion_matrix"] == [[1, 0], [0, 1], [1, 0]]
    assert got["log_loss"] == pytest.approx(-np.log([0.9, 0.8]).mean())
    text = "\n".join(answers.lines(got))
    assert "1 sample of labels that the model has never seen, counted as wrong: bird (1)" in text


def test_one_class_alone_has_no_area():
    probability = np.array([[0.9, 0.1], [0.2, 0.8]])
    got = answers.of_classes(probability, np.array([0, 1]), np.array([0, 0]), ["a", "b"])
    assert (got["roc_auc"], got["classes"][1]["recall"]) == (None, None)
    assert got["balanced_accuracy"] == 0.5
    answers.lines(got)


@pytest.mark.parametrize("outputs", [1, 2])
def test_scores_of_values(outputs):
    random = np.random.default_rng(0)
    truth = random.normal(5.0, 2.0, (50, outputs))
    got = 0.5 * truth + random.normal(size=truth.shape)
    scores = answers.of_values(got, truth, mean=[4.0] * outputs)
    assert scores["r2"] == pytest.approx(METRICS.r2_score(truth, got))
    assert scores["mean_absolute_error"] == pytest.approx(METRICS.mean_absolute_error(truth, got))
    expected = np.sqrt(METRICS.mean_squared_error(truth, got))
    assert scores["root_mean_squared_error"] == pytest.approx(expected)
    always = np.sqrt(np.mean((truth - 4.0) ** 2))
    assert scores["baseline"]["root_mean_squared_error"] == pytest.approx(always)
    slope, intercept = np.polyfit(got[:, 0], truth[:, 0], 1)
    line = scores["calibration"][0]
    assert (line["slope"], line["intercept"]) == (pytest.approx(slope), pytest.approx(intercept))


def test_constant_predictions_have_no_slope():
    scores = answers.of_values(np.ones(3), np.array([1.0, 2.0, 3.0]))
    assert scores["calibration"][0]["slope"] is None
    answers.lines(scores)


@pytest.mark.parametrize("width", [40, 57, 80])
@pytest.mark.parametrize("classes", [2, 12, 40, 150])
def test_lines_fit_the_page(classes, width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    probability, decision, truth = predictions(classes, n=2000)
    names = [f"a rather long name of the class {number}" for number in range(classes)]
    scores = answers.of_classes(probability, decision, truth, names)
    lines = [part for line in answers.lines(scores) for part in wrapped(line)]
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    matrix = classes == 2 and width > 40
    assert ("confusion matrix" in text) == matrix
    assert ("most frequent mistakes" in text) == (not matrix and classes <= 100)
    assert ("with the lowest F1" in flat(text)) == (classes > 20)
    # numbers stand below their heads
    at = next(k for k, line in enumerate(lines) if "precision" in line)
    assert lines[at].endswith("samples")
    assert len(lines[at + 1 + lines[at].startswith("    precision")]) == len(lines[at])


def test_names_that_begin_alike_can_be_told_apart():
    names = [f"a rather long name of the class {number}" for number in range(150)]
    assert len({clipped(name, 12) for name in names}) > 140
    assert all(columns(clipped(name, width)) <= width for name in names for width in (12, 26, 30))


def test_several_outputs_on_a_narrow_page(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    truth = np.arange(12.0).reshape(4, 3) ** 2
    lines = answers.lines(answers.of_values(truth[::-1], truth))
    assert all(columns(part) <= 40 for line in lines for part in wrapped(line))
    at = lines.index("  output")
    assert lines[at + 3] == "  1"
    assert [len(line) for line in lines[at : at + 3]] == [8, *(len(line) for line in lines[at + 4 : at + 6])]


def test_each_of_several_outputs_has_its_line():
    truth = np.array([[0.0, 1.0], [1.0, 2.0], [2.0, 4.0], [3.0, 3.0]])
    got = 0.5 * truth + [1.0, 0.0]
    scores = answers.of_values(got, truth)
    for k, one in enumerate(scores["outputs"]):
        assert one["r2"] == pytest.approx(METRICS.r2_score(truth[:, k], got[:, k]))
    table = answers.lines(scores)[-3:]
    assert "calibration slope" in table[0]
    assert all(line.endswith("2.0000") for line in table[1:])
    many = answers.of_values(np.tile(got, 30), np.tile(truth, 30))
    assert "the 20 outputs of 60" in answers.lines(many)[-1]
    assert max(map(len, answers.lines(many))) <= WIDTH


def test_what_is_whole_is_not_divided():
    path = "/a folder/" + "of a long name/" * 8
    lines = wrapped(
        f"  Converted 12,345 rows of a table with many columns of a name into {whole(path)}: done"
    )
    assert path in " ".join(lines)
    assert any(path in line for line in lines)
    assert all(columns(line) <= WIDTH or path in line for line in lines)


def test_wide_characters_take_two_columns():
    assert columns("日本") == 4
    assert columns(clipped("日本語" * 9, 20)) <= 20
    assert all(columns(line) <= WIDTH for line in wrapped("日本語の文 " * 30))
    probability, decision, truth = predictions(3)
    scores = answers.of_classes(probability, decision, truth, ["日本語", "b", "クラス" * 20])
    lines = answers.lines(scores)
    assert max(map(columns, lines)) <= WIDTH
    at = next(k for k, line in enumerate(lines) if line.strip().startswith("class"))
    assert len({columns(line) for line in lines[at : at + 4]}) == 1
