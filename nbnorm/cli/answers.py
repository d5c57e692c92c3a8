"""What a model is worth on samples whose answers are known: numbers, text, and what a picture needs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nbnorm.cli.common import clipped, columns, page, plural, tabulated
from nbnorm.model import metrics

# Confidence is compared with accuracy in so many groups.
_BINS = 10
# So many classes get a line each, and a confusion matrix as JSON; of so many mistakes the most frequent are
# listed where the matrix does not fit the page.
_MOST_LINES, _MOST_MATRIX, _MOST_MISTAKES = 20, 100, 5


def _score(name: metrics.MetricName, outcome: metrics.Outcome) -> float | None:
    value = metrics.NAMED[name][0](outcome)
    return value if math.isfinite(value) else None


def _ratio(part: npt.NDArray[Any], whole: npt.NDArray[Any]) -> list[float | None]:
    """Return part / whole, None where nothing is counted."""
    return [float(a / b) if b > 0 else None for a, b in zip(part, whole, strict=True)]


def of_classes(
    probability: npt.NDArray[np.float64],
    decision: npt.NDArray[np.int64],
    truth: npt.NDArray[np.int64],
    classes: Sequence[str | int],
    *,
    counts: Sequence[int] | None = None,
    unseen: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Return what predicted classes are worth.

    Parameters
    ----------
    probability : ndarray, shape (n_samples, n_classes)
    decision : ndarray of int64, shape (n_samples,)
        Number of the predicted class.
    truth : ndarray of int64, shape (n_samples,)
        Number of the true class; ``n_classes`` for one that the model has never seen, which no answer gets
        right.  Log loss, ROC AUC and calibration leave such samples out.
    classes : sequence of str or int
    counts : sequence of int, optional
        Samples of each class in training, by default those of `truth`: always saying the most frequent is the
        baseline.
    unseen : mapping of str to int, optional
        Labels that the model has never seen, and how often they occur.

    Returns
    -------
    dict
        As `nbnorm evaluate --json` prints it.
    """
    n = len(classes)
    matrix = np.bincount(truth * n + decision, minlength=(n + 1) * n).reshape(n + 1, n)
    right, support, said = matrix.diagonal(), matrix[:n].sum(axis=1), matrix.sum(axis=0)
    recall, precision = _ratio(right, support), _ratio(right, said)
    defined = [one for one in recall if one is not None]
    most = int(np.argmax(support if counts is None else counts))
    known = truth < n
    scores: dict[str, Any] = {
        "samples": len(truth),
        "right": int(right.sum()),
        "accuracy": float(right.sum() / len(truth)),
        "baseline": {
            "class": classes[most],
            "of": "these samples" if counts is None else "training",
            "accuracy": float(support[most] / len(truth)),
        },
        "balanced_accuracy": float(np.mean(defined)) if defined else None,
        "roc_auc": None,
        "log_loss": None,
        "calibration": None,
        "unseen_labels": dict(unseen or {}),
        "classes": [
            {
                "class": classes[k],
                "precision": precision[k],
                "recall": recall[k],
                "f1": float(2 * right[k] / (support[k] + said[k])) if support[k] + said[k] else None,
                "samples": int(support[k]),
            }
            for k in range(n)
        ],
        "confusion_matrix": None,
    }
    if n <= _MOST_MATRIX:
        scores["confusion_matrix"] = matrix[: n + 1 if unseen else n].tolist()
    if known.any():
        with np.errstate(divide="ignore"):  # a probability of 0 has a logit, the smallest
            logits = np.maximum(np.log(probability[known]), math.log(np.finfo(np.float64).eps))
        outcome = metrics.Outcome("softmax", logits, truth[known], None)
        scores |= {name: _score(name, outcome) for name in ("roc_auc", "log_loss")}
        scores["calibration"] = _calibration(probability[known], truth[known])
    return scores


def _calibration(probability: npt.NDArray[np.float64], truth: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Return how well confidence agrees with accuracy, in groups of equal width (Guo et al. 2017).

    The error is the mean of |accuracy - mean confidence| over the groups, weighted with their samples.
    """
    best = probability.argmax(axis=1)
    confidence, hit = probability.max(axis=1), best == truth
    group = np.minimum((confidence * _BINS).astype(np.int64), _BINS - 1)
    bins = [
        {
            "confidence": float(confidence[members].mean()),
            "accuracy": float(hit[members].mean()),
            "samples": int(members.sum()),
        }
        for members in (group == number for number in range(_BINS))
        if members.any()
    ]
    error = sum(one["samples"] * abs(one["accuracy"] - one["confidence"]) for one in bins) / len(truth)
    return {"error": error, "bins": bins}


def labels_of(probability: npt.NDArray[np.float64], threshold: float | None) -> npt.NDArray[np.bool_]:
    """Return the answer to each label: yes above 1/2, or from a threshold on."""
    return np.asarray(probability > 0.5 if threshold is None else probability >= threshold)


def of_labels(
    probability: npt.NDArray[np.float64], truth: npt.NDArray[np.bool_], threshold: float | None
) -> dict[str, Any]:
    """Return what several answers of yes or no to each sample are worth.

    Parameters
    ----------
    probability : ndarray, shape (n_samples, n_labels)
    truth : ndarray of bool, shape (n_samples, n_labels)
    threshold : float or None
        Probability from which the answer is yes, by default above 1/2.

    Returns
    -------
    dict
        As `nbnorm evaluate --json` prints it.  Accuracy counts the samples of which all labels are right; its
        baseline is always saying the more frequent answer of each.
    """
    said = labels_of(probability, threshold)
    usual = truth.mean(axis=0) > 0.5
    right = (said == truth).all(axis=1)
    with np.errstate(divide="ignore"):
        logits = np.clip(np.log(probability) - np.log1p(-probability), -700.0, 700.0)
    outcome = metrics.Outcome("sigmoid", logits, truth.astype(np.float64), None)
    hits, positive, yes = (said & truth).sum(axis=0), truth.sum(axis=0), said.sum(axis=0)
    precision, recall, f1 = _ratio(hits, yes), _ratio(hits, positive), _ratio(2 * hits, positive + yes)
    return {
        "samples": len(truth),
        "right": int(right.sum()),
        "accuracy": float(right.mean()),
        "baseline": {"of": "these samples", "accuracy": float((usual == truth).all(axis=1).mean())},
        "accuracy_of_labels": float((said == truth).mean()),
        "roc_auc": _score("roc_auc", outcome),
        "log_loss": _score("log_loss", outcome),
        "labels": [
            {
                "label": k + 1,
                "precision": precision[k],
                "recall": recall[k],
                "f1": f1[k],
                "samples": int(positive[k]),
            }
            for k in range(truth.shape[1])
        ],
    }


def of_values(
    got: npt.NDArray[np.float64], truth: npt.NDArray[np.float64], *, mean: Sequence[float] | None = None
) -> dict[str, Any]:
    """Return what predicted values are worth.

    Parameters
    ----------
    got, truth : ndarray, shape (n_samples,) or (n_samples, n_outputs)
    mean : sequence of float, optional
        Mean of each output in training, by default that of `truth`: always saying it is the baseline.

    Returns
    -------
    dict
        As `nbnorm evaluate --json` prints it; means over the outputs.
    """
    got, truth = got.reshape(len(got), -1), truth.reshape(len(truth), -1)
    center = truth.mean(axis=0) if mean is None else np.asarray(mean, np.float64)
    always = np.broadcast_to(center, truth.shape)
    model, base = (metrics.Outcome("identity", values, truth, None) for values in (got, always))
    names: tuple[metrics.MetricName, ...] = ("r2", "mean_absolute_error", "root_mean_squared_error")
    return {
        "samples": len(truth),
        **{name: _score(name, model) for name in names},
        "baseline": {
            "mean": center.tolist(),
            "of": "these samples" if mean is None else "training",
            **{name: _score(name, base) for name in names},
        },
        "calibration": [_line(got[:, k], truth[:, k]) for k in range(truth.shape[1])],
        "outputs": [_of_output(got[:, k], truth[:, k]) for k in range(truth.shape[1])],
    }


def _of_output(got: npt.NDArray[np.float64], truth: npt.NDArray[np.float64]) -> dict[str, float | None]:
    outcome = metrics.Outcome("identity", got[:, np.newaxis], truth[:, np.newaxis], None)
    return {name: _score(name, outcome) for name in ("r2", "root_mean_squared_error")}


def _line(got: npt.NDArray[np.float64], truth: npt.NDArray[np.float64]) -> dict[str, float | None]:
    """Return the line truth = intercept + slope * prediction of least squares, and the mean error."""
    centred = got - got.mean()
    square = float(centred @ centred)
    slope = float(centred @ (truth - truth.mean())) / square if square > 0.0 else None
    intercept = None if slope is None else float(truth.mean() - slope * got.mean())
    return {"slope": slope, "intercept": intercept, "mean_error": float((got - truth).mean())}


# ----------------------------------------------------------------------------------------------
# As text
# ----------------------------------------------------------------------------------------------


def _number(value: float | None, digits: str = ".4f") -> str:
    return "-" if value is None else format(value, digits)


def headline(scores: Mapping[str, Any]) -> str:
    """Return the main score, in one line."""
    if "accuracy" in scores:
        return f"accuracy {scores['accuracy']:.4f} ({scores['right']:,} of {scores['samples']:,} right)"
    r2 = "" if scores["r2"] is None else f"R2 {scores['r2']:.4f}, "
    return f"{r2}root mean squared error {scores['root_mean_squared_error']:.6g}"


def lines(scores: Mapping[str, Any]) -> list[str]:
    """Return everything below the headline, in lines that fit the page."""
    if "labels" in scores:
        return _lines_of_labels(scores)
    return _lines_of_classes(scores) if "accuracy" in scores else _lines_of_values(scores)


def _aligned(rows: Sequence[tuple[str, str, str]]) -> list[str]:
    """Return a line for each name, number and remark; where the page is narrow, remarks stand below."""
    widths = [max(len(row[k]) for row in rows) for k in (0, 1)]
    numbers = [f"  {name:{widths[0]}}  {number:>{widths[1]}}" for name, number, _ in rows]
    remarks = [remark for *_, remark in rows]
    if (
        max(len(number) + 2 + columns(remark) for number, remark in zip(numbers, remarks, strict=True))
        <= page()
    ):
        return [f"{number}  {remark}".rstrip() for number, remark in zip(numbers, remarks, strict=True)]
    pairs = zip(numbers, (remark and f"    {remark}" for remark in remarks), strict=True)
    return [line for pair in pairs for line in pair if line]


def _lines_of_values(scores: Mapping[str, Any]) -> list[str]:
    base = scores["baseline"]
    always = "always saying the mean" + (" of these samples" if base["of"] == "these samples" else "")
    rows = [
        ("R2", _number(scores["r2"]), "1 is perfect, 0 no better than the mean"),
        ("mean absolute error", f"{scores['mean_absolute_error']:.6g}", ""),
        ("root mean squared error", f"{scores['root_mean_squared_error']:.6g}", ""),
        ("  of the baseline", f"{base['root_mean_squared_error']:.6g}", always),
    ]
    lines = scores["calibration"]
    if len(lines) == 1:
        rows.append(("mean error", f"{lines[0]['mean_error']:.6g}", "prediction minus truth"))
        slope = _number(lines[0]["slope"])
        rows.append(("calibration slope", slope, "of truth against prediction; 1 is right"))
        return _aligned(rows)
    return [*_aligned(rows), "", *_output_table(scores["outputs"], lines)]


def _output_table(
    outputs: Sequence[Mapping[str, float | None]], lines: Sequence[Mapping[str, float | None]]
) -> list[str]:
    """Return a line for each of several outputs, the worst ones where there are many."""
    shown = sorted(range(len(outputs)), key=lambda k: -math.inf if (r2 := outputs[k]["r2"]) is None else r2)
    head = ("output", "     R2", "root mean sq. error", " mean error", "calibration slope")
    cells = [
        (
            f"{k + 1:>6}",
            _number(outputs[k]["r2"]),
            f"{outputs[k]['root_mean_squared_error']:.6g}",
            f"{lines[k]['mean_error']:.4g}",
            _number(lines[k]["slope"]),
        )
        for k in sorted(shown[:_MOST_LINES])
    ]
    rows = tabulated([head, *cells])
    if len(outputs) > _MOST_LINES:
        rows.append(f"  the {_MOST_LINES} outputs of {len(outputs):,} with the lowest R2; --json has all")
    return rows


def _lines_of_classes(scores: Mapping[str, Any]) -> list[str]:
    base, calibration = scores["baseline"], scores["calibration"]
    always = f"always saying {clipped(base['class'], 17)}, the most frequent"
    rows = [
        ("baseline", _number(base["accuracy"]), always),
        ("balanced accuracy", _number(scores["balanced_accuracy"]), "mean recall of the classes"),
        ("ROC AUC", _number(scores["roc_auc"]), "0.5 is chance"),
        ("log loss", _number(scores["log_loss"]), "0 is perfect"),
    ]
    if calibration is not None:
        rows.append(("calibration error", _number(calibration["error"]), "|confidence - accuracy|, mean"))
    text = _aligned(rows)
    unseen = scores["unseen_labels"]
    if unseen:
        listed = ", ".join(f"{clipped(label, 20)} ({count:,})" for label, count in list(unseen.items())[:3])
        more = f" and {len(unseen) - 3:,} more" if len(unseen) > 3 else ""
        count = sum(unseen.values())
        text.append(
            f"  {plural(count, 'sample')} of labels that the model has never seen, counted as wrong: "
            f"{listed}{more}"
        )
    return [*text, "", *_class_table(scores["classes"]), "", *_confusions(scores)]


def _lines_of_labels(scores: Mapping[str, Any]) -> list[str]:
    rows = [
        (
            "baseline",
            _number(scores["baseline"]["accuracy"]),
            "always saying the more frequent answer of each label",
        ),
        (
            "accuracy of labels",
            _number(scores["accuracy_of_labels"]),
            "right of all answers",
        ),
        ("ROC AUC", _number(scores["roc_auc"]), "mean of the labels, 0.5 is chance"),
        ("log loss", _number(scores["log_loss"]), "sum over the labels, 0 is perfect"),
    ]
    return [*_aligned(rows), "", *_class_table(scores["labels"], "label", "labels")]


def _class_table(
    classes: Sequence[Mapping[str, Any]], what: str = "class", several: str = "classes"
) -> list[str]:
    # the classes that need attention, where there are many
    shown = sorted(classes, key=lambda one: math.inf if one["f1"] is None else one["f1"])[:_MOST_LINES]
    shown = [one for one in classes if one in shown]
    head = (what, "precision", "recall", "    F1", "samples")
    cells = [
        (
            clipped(one[what], 30),
            *(_number(one[name], ".3f") for name in ("precision", "recall", "f1")),
            f"{one['samples']:,}",
        )
        for one in shown
    ]
    rows = tabulated([head, *cells])
    if len(shown) < len(classes):
        rows.append(f"  the {len(shown)} {several} of {len(classes):,} with the lowest F1; --json has all")
    return rows


def _confusions(scores: Mapping[str, Any]) -> list[str]:
    """Return the confusion matrix where it fits the page, otherwise the most frequent mistakes."""
    matrix = scores["confusion_matrix"]
    if matrix is None:
        return []
    names = [clipped(one["class"], 12) for one in scores["classes"]]
    rows = [*names, "(unseen)"][: len(matrix)]
    head, body = ["", *names], [[name, *map(str, row)] for name, row in zip(rows, matrix, strict=True)]
    if sum(2 + max(map(columns, cells)) for cells in zip(head, *body, strict=True)) <= page():
        title = "  confusion matrix: a row for each true class, a column for each answer"
        return [title, *tabulated([head, *body])]
    mistakes = sorted(
        ((count, k, j) for k, row in enumerate(matrix) for j, count in enumerate(row) if j != k and count),
        key=lambda one: (-one[0], one[1:]),
    )
    names = [clipped(one["class"], 26) for one in scores["classes"]] + ["(unseen)"]
    listed = [f"    {names[k]} taken for {names[j]}: {count:,}" for count, k, j in mistakes[:_MOST_MISTAKES]]
    return ["  most frequent mistakes", *listed] if listed else []
