from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

import nbnorm
from cli import QUICK, flat
from nbnorm.data import arrow_files, datasets, tables


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


@pytest.fixture
def in_small_parts(monkeypatch):
    """Read tables a few rows at a time."""
    monkeypatch.setattr(tables, "CHUNK", 700)
    monkeypatch.setattr(arrow_files, "ROWS", 7)


def test_a_table_in_parts_gives_the_same_answers(run, flowers, folder, request):
    run("train", flowers, "--epochs", 3, "--hidden", 4, "--no-plot", "--quiet", "--save", "m.npz")
    run("convert", flowers, "f.parquet")
    run("convert", flowers, "f.arrow")
    lines = flowers.read_text().splitlines()
    for part, rows in enumerate((lines[1:20], lines[20:])):
        (folder / f"part{part}.csv").write_text("\n".join([lines[0], *rows]) + "\n")
        (folder / "parts").mkdir(exist_ok=True)
        run("convert", f"part{part}.csv", f"parts/{part}.parquet")
    expected = [
        run("predict", "m.npz", flowers, "--out", "whole.csv"),
        run("evaluate", "m.npz", flowers, "--json"),
    ]
    request.getfixturevalue("in_small_parts")
    assert len(list(tables.open_table("f.parquet"))) == 9
    assert len(list(tables.open_table(flowers))) > 5
    for file in (flowers, "f.parquet", "f.arrow", "parts"):
        status, out, err = run("predict", "m.npz", file, "--out", "out.csv")
        assert status == 0, err
        assert out.split(":")[1].split() == expected[0][1].split(":")[1].split()
        assert (folder / "out.csv").read_text() == (folder / "whole.csv").read_text()
        got = json.loads(run("evaluate", "m.npz", file, "--json")[1])
        known = json.loads(expected[1][1])
        assert got | {"data": ""} == known | {"data": ""}


@pytest.mark.usefixtures("in_small_parts")
def test_a_late_error_leaves_nothing_behind(run, flowers, folder):
    run("train", flowers, "--epochs", 1, "--hidden", 4, "--no-plot", "--quiet", "--save", "m.npz")
    lines = [line.rpartition(",")[0] for line in flowers.read_text().splitlines()]
    (folder / "new.csv").write_text("\n".join([*lines, "1,x"]) + "\n")
    (folder / "out.csv").write_text("before")
    for out in ([], ["--out", "out.csv"]):
        status, printed, err = run("predict", "m.npz", "new.csv", *out)
        assert (status, printed) == (2, "")
        assert "line 62, column 'width': expected a number, got 'x'" in err
    assert (folder / "out.csv").read_text() == "before"
    assert not list(folder.glob(".nbnorm*"))


def test_dates_are_read_as_in_training(run, folder):
    rows = [f"{k % 5},{k % 12 + 1}/{k % 28 + 1}/2024,{'ab'[k % 2]}" for k in range(40)]
    (folder / "days.csv").write_text("x,day,kind\n" + "\n".join(rows) + "\n")
    run("train", "days.csv", "--epochs", 1, "--hidden", 4, "--no-plot", "--quiet", "--save", "m.npz")
    for name, day in (("us", "3/4/2024"), ("iso", "2024-03-04"), ("eu", "4/3/2024")):
        (folder / f"{name}.csv").write_text(f"x,day\n1,{day}\n")
    us, iso = (run("predict", "m.npz", f"{name}.csv")[1] for name in ("us", "iso"))
    assert us == iso == run("predict", "m.npz", "eu.csv", "--date-format", "%d/%m/%Y")[1]
    assert us != run("predict", "m.npz", "eu.csv")[1]
