import json

import numpy as np
import pytest

import nbnorm
from cli import QUICK, flat


def test_evaluate_repeats_the_test_of_the_training(run, folder):
    assert run("train", *QUICK, "--report", "r.json")[0] == 0
    expected = json.loads((folder / "r.json").read_text())["test"]
    status, out, _ = run("evaluate", "nbnorm-digits.npz", "digits", "--json")
    assert status == 0
    got = json.loads(out)
    assert {key: got[key] for key in expected} == expected
    assert got["data"] == "digits"


def test_evaluate_reports_labels_that_are_new(run, flowers, folder):
    assert run("train", flowers, *QUICK)[0] == 0
    (folder / "new.csv").write_text("length,width,kind\n0,0,setosa\n5,5,rose\n5,5,\n5,5,rose\n")
    status, out, _ = run("evaluate", "nbnorm-flowers.npz", "new.csv")
    assert status == 0
    assert "of 3 right)" in out
    assert "1 sample without a target left out" in out
    assert "2 samples of labels that the model has never seen, counted as wrong: rose (2)" in flat(out)


def test_evaluate_values(run, line_file, folder):
    pytest.importorskip("matplotlib")
    assert run("train", line_file, *QUICK)[0] == 0
    status, out, _ = run("evaluate", "nbnorm-line.npz", line_file, "--plot", "p.svg", "--json")
    assert status == 0
    table = np.loadtxt(line_file, delimiter=",", skiprows=1)
    error = nbnorm.FNN.load("nbnorm-line.npz").predict(table[:, :3]) - table[:, 3]
    got = json.loads(out)
    assert got["mean_absolute_error"] == pytest.approx(np.abs(error).mean())
    assert (folder / "p.svg").read_text().count("<svg") == 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["new.csv"], "new.csv has no target 'kind' to compare with"),
        (["new.csv", "--target", "kind"], "new.csv has no target column 'kind'"),
        (["flowers.csv", "--plot", "flowers.csv"], "--plot flowers.csv would overwrite what is read"),
        (["flowers.csv", "--threshold", "2"], "--threshold: the value must be finite and at least 0"),
    ],
)
def test_evaluate_refuses(run, flowers, folder, words, expected):
    net = nbnorm.FNN([2, 2], seed=0)
    net.metadata = {"features": ["length", "width"], "target": "kind", "classes": ["setosa", "virginica"]}
    net.save("m.npz")
    (folder / "new.csv").write_text("length,width\n0,0\n")
    status, out, err = run("evaluate", "m.npz", *words)
    assert (status, out) == (2, "")
    assert expected in err


@pytest.mark.parametrize(
    ("words", "expected"), [([], "b"), (["--threshold", "0.2"], "b"), (["--threshold", "0.9"], "a")]
)
def test_threshold_moves_the_border(run, folder, words, expected):
    net = nbnorm.FNN([1, 2], seed=0, standardize=False)
    net.parameters()["dense1.weight"][:] = 0.0
    net.parameters()["dense1.bias"][:] = [0.0, np.log(3.0)]  # 0.75 for b
    net.metadata = {"features": ["x"], "target": "y", "classes": ["a", "b"]}
    net.save("m.npz")
    (folder / "x.csv").write_text("x,y\n1,b\n")
    assert json.loads(run("evaluate", "m.npz", "x.csv", "--json", *words)[1])["right"] == (expected == "b")
    (folder / "x.csv").write_text("x\n1\n")
    header, row = run("predict", "m.npz", "x.csv", "--proba", *words)[1].splitlines()
    assert header == "prediction,probability_a,probability_b"
    assert row.split(",")[0] == expected
    assert [float(p) for p in row.split(",")[1:]] == pytest.approx([0.25, 0.75])


@pytest.mark.parametrize("option", [["--threshold", "0.5"], ["--proba"]])
def test_values_have_no_probabilities(run, folder, option):
    nbnorm.FNN([1, 1], output="identity", seed=0).save("m.npz")
    (folder / "x.csv").write_text("x\n1\n")
    status, _, err = run("predict", "m.npz", "x.csv", *option)
    assert (status, f"{option[0]} needs classes" in err) == (2, True)


def test_threshold_needs_two_classes(run):
    nbnorm.FNN([64, 10], seed=0).save("m.npz")
    status, _, err = run("evaluate", "m.npz", "digits", "--threshold", "0.5")
    assert (status, "--threshold needs two classes, and the model has 10" in err) == (2, True)


def test_several_labels(run, folder):
    random = np.random.default_rng(0)
    X = random.normal(size=(90, 3))
    y = (X[:, :2] + 0.3 * random.normal(size=(90, 2)) > 0).astype(int)
    net = nbnorm.FNN([3, 6, 2], output="sigmoid", seed=0)
    net.fit(X, y, epochs=5, progress=False)
    net.save("m.npz")
    np.savez("d.npz", X=X, y=y)
    status, out, _ = run("evaluate", "m.npz", "d.npz", "--json")
    assert status == 0
    got, said = json.loads(out), net.predict(X)
    assert got["accuracy"] == pytest.approx(net.score(X, y))
    assert got["accuracy_of_labels"] == pytest.approx((said == y).mean())
    assert got["baseline"]["accuracy"] == pytest.approx(((y.mean(0) > 0.5) == y).all(1).mean())
    for k, label in enumerate(got["labels"]):
        hits = (said[:, k] & y[:, k]).sum()
        assert label["precision"] == pytest.approx(hits / said[:, k].sum())
        assert label["recall"] == pytest.approx(hits / y[:, k].sum())
    assert "always saying the more frequent answer" in run("evaluate", "m.npz", "d.npz")[1]

    assert run("predict", "m.npz", "d.npz", "--proba", "--threshold", "0.9", "--out", "p.csv")[0] == 0
    table = np.genfromtxt("p.csv", delimiter=",", names=True)
    assert table.dtype.names == ("prediction1", "prediction2", "probability1", "probability2")
    chances = net.predict_proba(X)
    np.testing.assert_allclose(table["probability2"], chances[:, 1], rtol=1e-6)
    np.testing.assert_array_equal(table["prediction1"], chances[:, 0] >= 0.9)

    np.savez("d.npz", X=X, y=y * 3)
    for words, message in (
        ([], "the target 'y' must hold 0 and 1 for a model of 2 labels, got 3"),
        (["--plot", "p.svg"], "--plot draws classes or values, and m.npz has 2 labels"),
    ):
        status, _, err = run("evaluate", "m.npz", "d.npz", *words)
        assert (status, err.count("\n")) == (2, 1)
        assert message in err
