"""Classification of a table with scikit-learn's tools: cross-validation, a search, weights of the classes.

The breast cancer data have 569 samples of 30 features of very different scales; 212 of them are malignant.
A missed malignant sample is worse than a false alarm, so the second part of the table weights that class.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import confusion_matrix, roc_curve
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_predict, cross_val_score

from nbnorm.estimators import FNNClassifier

MALIGNANT = "malignant"


def missed(truth: Any, predicted: Any) -> tuple[int, int]:
    """Return the malignant samples that were missed, and the false alarms."""
    table = confusion_matrix(truth, predicted, labels=[MALIGNANT, "benign"])
    return int(table[0, 1]), int(table[1, 0])


def draw(truth: Any, probability: Any, path: Path) -> None:
    """Draw the ROC curve."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.style.use(Path(__file__).with_name("figures.mplstyle"))
    alarms, found, _ = roc_curve(truth == MALIGNANT, probability)
    figure, axes = plt.subplots(figsize=(4.6, 3.4))
    axes.plot(alarms, found)
    axes.set(xlim=(-0.005, 0.3), xlabel="false positive rate", ylabel="true positive rate")
    figure.savefig(path)
    plt.close(figure)


def main() -> None:
    """Print the table, and write it and the figure into --out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="two folds and five epochs")
    parser.add_argument("--out", type=Path, help="folder for breast_cancer.txt and breast_cancer.svg")
    options = parser.parse_args()

    data = load_breast_cancer(as_frame=True)
    x = data.data  # a pandas DataFrame: names of the features are kept
    y = data.target_names[data.target]  # labels may be words
    folds = StratifiedKFold(2 if options.short else 5, shuffle=True, random_state=0)
    model = FNNClassifier(max_iter=5 if options.short else 100, random_state=0)

    scores = cross_val_score(model, x, y, cv=folds)
    lines = [
        f"accuracy, {len(scores)} folds         {scores.mean():.3f}, "
        f"from {scores.min():.3f} to {scores.max():.3f}"
    ]

    grid = {"hidden_layer_sizes": [(100,), (50, 50)], "norm": ["after", None]}
    search = GridSearchCV(model, grid, cv=folds).fit(x, y)
    found = f"{search.best_score_:.3f} with {search.best_params_}"
    lines.append(f"best of a search          {found}")

    lines.append("\nweight of the class       malignant missed   false alarms")
    for weight in (1.0, 10.0):
        weighted = clone(model).set_params(class_weight={MALIGNANT: weight})
        counts = missed(y, cross_val_predict(weighted, x, y, cv=folds))
        lines.append(f"{weight:<25} {counts[0]:>17} {counts[1]:>14}")

    text = "\n".join(lines)
    print(text)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "breast_cancer.txt").write_text(text + "\n", "utf-8")
        at = int(np.flatnonzero(np.unique(y) == MALIGNANT)[0])
        probability = cross_val_predict(model, x, y, cv=folds, method="predict_proba")[:, at]
        draw(y, probability, options.out / "breast_cancer.svg")


if __name__ == "__main__":
    main()
