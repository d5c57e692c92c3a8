from __future__ import annotations

import json

import numpy as np
import pytest

import nbnorm
from cli import QUICK, flat
from nbnorm.data import datasets


def test_adamw_with_relu_on_digits(run):
    status, out, _ = run("train", *QUICK, "--no-save", "--optimizer", "adamw")
    assert status == 0
    assert "batches of 64, adamw, lr 0.002 (cosine), weight decay 5, seed 0" in flat(out)


def write_table(path, X, y):
    names = [*(f"x{k}" for k in range(X.shape[1])), "target"]
    rows = [",".join(map(repr, [*x, t])) for x, t in zip(X.tolist(), y.tolist(), strict=True)]
    path.write_text("\n".join([",".join(names), *rows]) + "\n")


def regression_table(name):
    random = np.random.default_rng(7)
    x = random.uniform(0.0, 1.0, (200, 1))
    X = random.normal(size=(60, 5))
    return {
        "line": (x, 3.0 * x[:, 0] + 1.0 + 0.05 * random.normal(size=200)),
        "line, tiny": (x * 1e-12, 1e-12 * (3.0 * x[:, 0] + 0.1 * random.normal(size=200))),
        "line, huge": (x * 1e12 + 1e15, 1e12 * (3.0 * x[:, 0] + 0.1 * random.normal(size=200))),
        "60 rows": (X, X @ [1.0, -2.0, 0.5, 0.0, 0.0] + 0.5 * random.normal(size=60)),
        "noise": (random.normal(size=(300, 5)), random.normal(size=300)),
        "60 rows of noise": (random.normal(size=(60, 5)), random.normal(size=60)),
        "8 rows": (X[:8, :2], X[:8] @ [1.0, -2.0, 0.0, 0.0, 0.0] + 0.1 * random.normal(size=8)),
        "wide": (wide := random.normal(size=(80, 120)), wide[:, :4].sum(axis=1)),
        "parabola": (2.0 * x - 1.0, (2.0 * x[:, 0] - 1.0) ** 2 + 0.02 * random.normal(size=200)),
    }[name]


@pytest.mark.parametrize(
    "name",
    [
        "line", "line, tiny", "line, huge", "60 rows", "noise", "60 rows of noise", "8 rows", "wide",
        "parabola",
    ],
)  # fmt: skip
def test_defaults_lose_to_no_ridge(run, folder, name):
    linear_model = pytest.importorskip("sklearn.linear_model")
    X, y = regression_table(name)
    write_table(folder / "t.csv", X, y)
    assert run("train", "t.csv", "--no-plot", "--no-save", "--quiet", "--report", "r.json")[0] == 0
    report = json.loads((folder / "r.json").read_text())
    X_train, X_test, y_train, y_test = datasets.train_test_split(X, y, stratify=False)
    scaler = nbnorm.Standardizer().fit(X_train)
    ridge = linear_model.RidgeCV(np.logspace(-3, 3, 13)).fit(scaler.transform(X_train), y_train)
    expected = ridge.score(scaler.transform(X_test), y_test)
    if name == "parabola":
        assert report["test_r2"] > expected + 0.5
    else:  # the same model
        assert report["test_r2"] == pytest.approx(expected, abs=1e-3)
        assert report["l2"] == pytest.approx(ridge.alpha_ / len(X_train))
    assert report["retries"] == 0
    assert (report["sizes"][1:] == [1]) == (name != "parabola")
    assert (report["cross_validation"] or {"folds": 5})["folds"] == 5


def test_tables_train_as_the_estimators_do(run, folder):
    X, y = regression_table("parabola")
    write_table(folder / "t.csv", X, y)
    status, out, _ = run("train", "t.csv", "--no-plot", "--no-save", "--report", "r.json")
    assert status == 0
    report = json.loads((folder / "r.json").read_text())
    assert (report["sizes"], report["optimizer"], report["lr"]) == ([1, 100, 1], "adamw", 0.0075)
    assert (report["batch_size"], report["epochs"], report["steps"]) == (32, 100, 500)
    chosen = report["cross_validation"]
    assert chosen["network"] > chosen["linear"] + 0.5
    assert f"R2 {chosen['network']:.4f} of a network, {chosen['linear']:.4f} of a linear model" in flat(out)


@pytest.mark.parametrize("option", [["--hidden", "8"], ["--lr", "0.01"], ["--weight-decay", "0"]])
def test_what_is_named_is_not_chosen(run, line_file, folder, option):
    words = ["--epochs", "2", "--no-plot", "--no-save", "--report", "r.json"]
    assert run("train", line_file, *option, *words)[0] == 0
    report = json.loads((folder / "r.json").read_text())
    assert report["cross_validation"] is None
    assert len(report["sizes"]) == 3


def test_hardly_any_rows_train_a_linear_model(run, folder):
    X = np.random.default_rng(0).normal(size=(6, 2))
    np.savez(folder / "x.npz", X=X, y=X @ [2.0, -1.0] + 5.0)
    assert run("train", "x.npz", "--no-plot", "--report", "r.json")[0] == 0
    report = json.loads((folder / "r.json").read_text())
    assert (report["sizes"], report["cross_validation"]) == ([2, 1], None)
    assert report["test_rmse"] < 0.1


def test_a_network_predicts_values_within_those_of_the_training(run, folder):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3))
    np.savez(folder / "x.npz", X=X, y=X @ [3.0, -2.0, 1.0])
    np.savez(folder / "far.npz", X=20.0 * rng.normal(size=(40, 3)))
    train = ("train", "x.npz", "--hidden", "8", "--test-size", "0.1", "--no-plot", "--save", "m.npz")

    def predicted(*options):
        assert run(*train, *options)[0] == 0
        assert run("predict", "m.npz", "far.npz", "--out", "p.csv")[0] == 0
        return np.loadtxt(folder / "p.csv", skiprows=1)

    clipped = predicted()
    (least,), (most,) = nbnorm.FNN.load(folder / "m.npz").metadata["target_range"]
    assert [clipped.min(), clipped.max()] == pytest.approx([least, most])
    free = predicted("--no-clip")
    assert free.min() < least < most < free.max()
    np.testing.assert_allclose(np.clip(free, least, most), clipped, rtol=1e-6)


def test_few_rows_have_some_dropout_unless_told_otherwise(run, folder):
    rng = np.random.default_rng(0)
    for rows, options, dropout in ((60, (), 0.3), (60, ("--dropout", "0"), 0.0), (1200, (), 0.0)):
        X = rng.normal(size=(rows, 3))
        np.savez(folder / "x.npz", X=X, y=X @ [3.0, -2.0, 1.0])
        words = ["--hidden", "8", "--epochs", "1", "--no-plot", "--no-save", "--report", "r.json"]
        assert run("train", "x.npz", *words, *options)[0] == 0
        assert json.loads((folder / "r.json").read_text())["dropout"] == dropout
