"""What a model is worth on samples whose answers are known: numbers, text, and what a picture needs.

Answers and truth are arrays, or rows on disk (`nbnorm.cli.spill`), and are looked at block by block.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nbnorm.cli.common import clipped, columns, page, plural, tabulated
from nbnorm.cli.spill import Areas, Sliced, blocks
from nbnorm.model import metrics

# Confidence is compared with accuracy in so many groups.
_BINS = 10
# So many classes get a line each, and a confusion matrix as JSON; of so many mistakes the most frequent are
# listed where the matrix does not fit the page.
_MOST_LINES, _MOST_MATRIX, _MOST_MISTAKES = 20, 100, 5


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _ratio(part: npt.NDArray[Any], whole: npt.NDArray[Any]) -> list[float | None]:
    """Return part / whole, None where nothing is counted."""
    return [float(a / b) if b > 0 else None for a, b in zip(part, whole, strict=True)]


def of_classes(
    probability: Sliced,
    decision: Sliced,
    truth: Sliced,
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
    matrix = np.zeros((n + 1, n), np.int64)
    sums, areas, loss, known = np.zeros((3, _BINS)), Areas(), 0.0, 0
    for rows in blocks(truth):
        np.add.at(matrix, (truth[rows], decision[rows]), 1)
        there = truth[rows] < n
        if not there.any():
            continue
        likely, classes_there = probability[rows][there], truth[rows][there]
        sums += _confidence(likely, classes_there)
        with np.errstate(divide="ignore"):  # a probability of 0 has a logit, the smallest
            logits = np.maximum(np.log(likely), math.log(np.finfo(np.float64).eps))
        outcome = metrics.Outcome("softmax", logits, classes_there, None)
        areas.add(outcome)
        loss += metrics.NAMED["log_loss"][0](outcome) * len(classes_there)
        known += len(classes_there)
    right, support, said = matrix.diagonal(), matrix[:n].sum(axis=1), matrix.sum(axis=0)
    recall, precision = _ratio(right, support), _ratio(right, said)
    defined = [one for one in recall if one is not None]
    most = int(np.argmax(support if counts is None else counts))
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
        "roc_auc": areas.mean(),
        "log_loss": loss / known if known else None,
        "calibration": _calibration(sums) if known else None,
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
    return scores


def _confidence(
    probability: npt.NDArray[np.float64], truth: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Return the sums of confidence and of right answers, and the samples, of groups of equal width."""
    confidence, hit = probability.max(axis=1), probability.argmax(axis=1) == truth
    group = np.minimum((confidence * _BINS).astype(np.int64), _BINS - 1)
    return np.stack([np.bincount(group, weights, _BINS) for weights in (confidence, hit, None)])


def _calibration(sums: npt.NDArray[np.float64]) -> dict[str, Any]:
    """Return how well confidence agrees with accuracy in groups (Guo et al. 2017), from their sums.

    The error is the mean of |accuracy - mean confidence| over the groups, weighted with their samples.
    """
    bins = [
        {"confidence": float(confidence / count), "accuracy": float(hits / count), "samples": int(count)}
        for confidence, hits, count in sums.T
        if count
    ]
    error = sum(one["samples"] * abs(one["accuracy"] - one["confidence"]) for one in bins) / sums[2].sum()
    return {"error": float(error), "bins": bins}


def labels_of(probability: npt.NDArray[np.float64], threshold: float | None) -> npt.NDArray[np.bool_]:
    """Return the answer to each label: yes above 1/2, or from a threshold on."""
    return np.asarray(probability > 0.5 if threshold is None else probability >= threshold)


def of_labels(probability: Sliced, truth: Sliced, threshold: float | None) -> dict[str, Any]:
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
    n, width = len(truth), truth[:1].shape[1]
    positive, yes, hits, right_of_label = np.zeros((4, width), np.int64)
    right = always = 0
    areas, loss = Areas(), 0.0
    for rows in blocks(truth):
        positive += truth[rows].sum(axis=0)
    usual = 2 * positive > n
    for rows in blocks(truth):
        true, chance = truth[rows], probability[rows]
        said = labels_of(chance, threshold)
        yes += said.sum(axis=0)
        hits += (said & true).sum(axis=0)
        right_of_label += (said == true).sum(axis=0)
        right += int((said == true).all(axis=1).sum())
        always += int((usual == true).all(axis=1).sum())
        with np.errstate(divide="ignore"):
            logits = np.clip(np.log(chance) - np.log1p(-chance), -700.0, 700.0)
        outcome = metrics.Outcome("sigmoid", logits, true.astype(np.float64), None)
        areas.add(outcome)
        loss += metrics.NAMED["log_loss"][0](outcome) * len(true)
    precision, recall, f1 = _ratio(hits, yes), _ratio(hits, positive), _ratio(2 * hits, positive + yes)
    return {
        "samples": n,
        "right": right,
        "accuracy": right / n,
        "baseline": {"of": "these samples", "accuracy": always / n},
        "accuracy_of_labels": float(right_of_label.sum() / (n * width)),
        "roc_auc": areas.mean(),
        "log_loss": loss / n,
        "labels": [
            {
                "label": k + 1,
                "precision": precision[k],
                "recall": recall[k],
                "f1": f1[k],
                "samples": int(positive[k]),
            }
            for k in range(width)
        ],
    }


def of_values(got: Sliced, truth: Sliced, *, mean: Sequence[float] | None = None) -> dict[str, Any]:
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
    n = len(truth)
    outputs = truth[:1].reshape(1, -1).shape[1]

    def parts() -> Iterator[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
        for rows in blocks(truth):
            yield got[rows].reshape(-1, outputs), truth[rows].reshape(-1, outputs)

    means = np.zeros((2, outputs))
    for pair in parts():
        means += [values.sum(axis=0) for values in pair]
    means /= n
    center = means[1] if mean is None else np.asarray(mean, np.float64)
    deviations, squares, products, bias = np.zeros((4, outputs))
    varies = False
    model, base = np.zeros((2, 2, outputs))  # sums of squared and of absolute errors
    first = truth[:1].reshape(-1)
    for predicted, true in parts():
        deviations += ((true - means[1]) ** 2).sum(axis=0)
        squares += ((predicted - means[0]) ** 2).sum(axis=0)
        products += ((predicted - means[0]) * (true - means[1])).sum(axis=0)
        bias += (predicted - true).sum(axis=0)
        varies |= (true != first).any(axis=0)
        for sums, error in ((model, true - predicted), (base, true - center)):
            sums += [(error**2).sum(axis=0), np.abs(error).sum(axis=0)]
    r2, base_r2 = (metrics.explained(sums[0], deviations, np.asarray(varies)) for sums in (model, base))
    return {
        "samples": n,
        **_means_of(r2, model / n),
        "baseline": {
            "mean": center.tolist(),
            "of": "these samples" if mean is None else "training",
            **_means_of(base_r2, base / n),
        },
        "calibration": [
            {**_line(squares[k], products[k], *means[:, k]), "mean_error": float(bias[k] / n)}
            for k in range(outputs)
        ],
        "outputs": [
            {"r2": _finite(r2[k]), "root_mean_squared_error": _finite(math.sqrt(model[0, k] / n))}
            for k in range(outputs)
        ],
    }


def _means_of(r2: npt.NDArray[np.float64], errors: npt.NDArray[np.float64]) -> dict[str, float | None]:
    """Return means over the outputs; `errors` are the mean squared and the mean absolute ones of each."""
    return {
        "r2": _finite(r2.mean()),
        "mean_absolute_error": _finite(errors[1].mean()),
        "root_mean_squared_error": _finite(math.sqrt(errors[0].mean())),
    }


def _line(square: float, product: float, predicted: float, true: float) -> dict[str, float | None]:
    """Return the line truth = intercept + slope * prediction of least squares.

    `square` is the sum of the squared deviations of the predictions, `product` that of their products with
    those of the truth; the means follow.
    """
    slope = float(product / square) if square > 0.0 else None
    intercept = None if slope is None else float(true - slope * predicted)
    return {"slope": slope, "intercept": intercept}


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
