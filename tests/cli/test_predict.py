from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

import nbnorm
from cli import QUICK, flat
from nbnorm.data import datasets, tables


def test_train_then_predict_digits(run, folder):
    status, out, _ = run("train", *QUICK, "--report", "report.json")
    assert status == 0
    assert "Data: digits, 1,438 training and 359 held-out samples, 64 features, 10 classes" in out
    assert "epoch 2/2" in out
    assert sorted(path.name for path in folder.iterdir()) == ["nbnorm-digits.npz", "report.json"]
    report = json.loads((folder / "report.json").read_text())
    right = round(report["test_accuracy"] * 359)
    assert f"Test: accuracy {right / 359:.4f} ({right} of 359 right)" in out
    status, out, _ = run("predict", "nbnorm-digits.npz", "digits")
    assert status == 0
    assert f"accuracy {right / 359:.4f} ({right} of 359 right)" in flat(out)


def test_train_csv_then_predict(run, flowers, folder):
    status, out, _ = run("train", flowers, *QUICK, "--epochs", "10")
    assert status == 0
    assert "Target: kind, classification (the last column; --target names another)" in out
    net = nbnorm.FNN.load("nbnorm-flowers.npz")
    assert net.metadata["classes"] == ["setosa", "virginica"]
    assert net.metadata["features"] == ["length", "width"]
    status, out, _ = run("predict", "nbnorm-flowers.npz", flowers, "--out", "out.csv")
    assert status == 0
    assert "Predicted 60 samples of" in out
    lines = (folder / "out.csv").read_text().splitlines()
    assert lines[0] == "prediction,probability"
    right = sum(line.split(",")[0] == ("setosa", "virginica")[row % 2] for row, line in enumerate(lines[1:]))
    assert f"accuracy {right / 60:.4f} ({right} of 60 right)" in out
    assert run("predict", "nbnorm-flowers.npz", flowers, "--out", "out.tsv.gz")[0] == 0
    again = gzip.decompress((folder / "out.tsv.gz").read_bytes()).decode()
    assert again.replace("\t", ",").splitlines() == lines


def test_predict_finds_columns_by_name(run, flowers, folder):
    assert run("train", flowers, *QUICK)[0] == 0
    (folder / "new.csv").write_text("id,width,length\nx,0.1,0.2\ny,5.1,5.3\n")
    (folder / "same.csv").write_text("length,width,kind\n0.2,0.1,\n5.3,5.1,virginica\n")
    status, out, _ = run("predict", "nbnorm-flowers.npz", "new.csv")
    assert status == 0
    assert out.splitlines()[0] == "prediction,probability"
    status, message, _ = run("predict", "nbnorm-flowers.npz", "same.csv", "--out", "same-out.csv")
    assert (folder / "same-out.csv").read_text() == out
    assert "1 sample without a target left out" in flat(message)


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"classes": [0, 1]}, "classes in the model's metadata is malformed"),
        ({"classes": [[]] * 10}, "classes in the model's metadata is malformed"),
        ({"features": "x" * 64}, "features in the model's metadata is malformed"),
        ({"test_size": 2.0}, "test_size in the model's metadata is malformed"),
        ({"split_seed": -1}, "split_seed in the model's metadata is malformed"),
        ({"data": 3}, "data in the model's metadata is malformed"),
    ],
)
def test_predict_refuses_malformed_metadata(run, metadata, expected):
    net = nbnorm.FNN([64, 10], seed=0)
    net.metadata = metadata
    net.save("model.npz")
    status, _, err = run("predict", "model.npz", "digits")
    assert status == 2
    assert expected in err


def test_predict_with_a_network_saved_from_python(run):
    X, y = nbnorm.load_digits()
    net = nbnorm.FNN([64, 10], seed=0)
    net.save("model.npz")
    status, out, _ = run("predict", "model.npz", "digits")
    assert status == 0
    right = int((net.predict(X) == y).sum())
    assert f"Predicted all 1,797 digits: accuracy {right / 1797:.4f}" in out


@pytest.mark.parametrize(
    ("output", "n_out", "expected"),
    [("sigmoid", 1, "prediction,probability"), ("sigmoid", 3, "prediction1,prediction2,prediction3")],
)
def test_predict_sigmoid_outputs(run, folder, output, n_out, expected):
    nbnorm.FNN([2, n_out], output=output, seed=0).save("model.npz")
    np.savez(folder / "x.npz", X=np.ones((4, 2)))
    status, out, _ = run("predict", "model.npz", "x.npz")
    assert status == 0
    assert out.splitlines()[0] == expected
    assert len(out.splitlines()) == 5


def test_predict_other_width(run, flowers, folder):
    assert run("train", flowers, *QUICK)[0] == 0
    status, _, err = run("predict", "nbnorm-flowers.npz", "digits")
    assert status == 2
    assert "digits has 64 features, and nbnorm-flowers.npz was trained on 2" in err
    (folder / "short.csv").write_text("length\n1\n")
    status, _, err = run("predict", "nbnorm-flowers.npz", "short.csv")
    assert status == 2
    assert "short.csv has no feature column 'width'; it has length" in err


def test_predict_does_not_overwrite(run, flowers):
    assert run("train", flowers, *QUICK)[0] == 0
    status, _, err = run("predict", "nbnorm-flowers.npz", flowers, "--out", "nbnorm-flowers.npz")
    assert status == 2
    assert "would overwrite the model" in err


def test_labels_are_predicted_as_they_are_written(run, folder):
    labels = ["007", "01", "1", "1e0", "1_0", '"a, ""b"""', '" 1"', '"two\nlines"']
    rows = [f"{5 * number + row % 3},{label}\n" for row in range(12) for number, label in enumerate(labels)]
    (folder / "a.csv").write_text('"x;\n(m)",code\n' + "".join(rows))
    quick = ["--hidden", "16", "--epochs", "150", "--no-plot"]
    assert run("train", "a.csv", "--save", "a.npz", *quick)[0] == 0
    status, out, _ = run("predict", "a.npz", "a.csv", "--out", "out.csv")
    assert status == 0
    assert "left out" not in out
    got = tables.read_table("out.csv", target="prediction")
    expected = tables.read_table("a.csv").encode().classes
    assert set(got.encode().classes) <= set(expected)
    assert len(set(got.encode().classes) & {"007", "01", "1", "1e0", "1_0"}) > 1
    # what was predicted can be trained on
    assert run("train", "out.csv", "--target", "prediction", "--save", "b.npz", *QUICK)[0] == 0
    assert run("standardize", "out.csv", "again.csv", "--except", "prediction")[0] == 0
    assert tables.read_table("again.csv", target="prediction").encode().classes == got.encode().classes


def test_predict_finds_the_held_out_digits_again(run):
    # so few that the default of split_rows would not take the digits for classes
    assert run("train", *QUICK, "--test-size", "0.004")[0] == 0
    assert "the 7 digits held out from training" in run("predict", "nbnorm-digits.npz", "digits")[1]
    X, y = nbnorm.load_digits()
    _, test = datasets.split_rows(y, test_size=0.004, seed=0, stratify=True)
    net = nbnorm.FNN.load("nbnorm-digits.npz")
    assert net.metadata["test_accuracy"] == net.score(X[test], y[test])
