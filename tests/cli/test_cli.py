from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import nbnorm
from nbnorm.cli.main import main
from nbnorm.data import datasets, tables
from nbnorm.data.streams import standardize_file

QUICK = ["--hidden", "8", "--epochs", "2", "--no-plot"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(capsys):
    """Run a command line; return its exit status, standard output and standard error."""

    def call(*argv):
        try:
            status = main.main([str(word) for word in argv])
        except SystemExit as stop:
            status = stop.code
        out, err = capsys.readouterr()
        return status, out, err

    return call


@pytest.fixture
def flowers(folder):
    """A CSV file of 60 rows with two features and a kind that they tell apart."""
    random = np.random.default_rng(0)
    lines = ["length,width,kind"]
    for row in range(60):
        shift, kind = ((0.0, "setosa"), (5.0, "virginica"))[row % 2]
        length, width = random.normal(shift, 1.0, 2)
        lines.append(f"{length:.3f},{width:.3f},{kind}")
    (folder / "flowers.csv").write_text("\n".join(lines) + "\n")
    return folder / "flowers.csv"


@pytest.fixture
def line_file(folder):
    """A CSV file with a numeric target of a large unit."""
    random = np.random.default_rng(0)
    X = random.normal(size=(80, 3))
    y = 1e6 + 1e4 * (X @ [1.0, -2.0, 0.5])
    rows = [",".join(repr(float(v)) for v in (*x, t)) for x, t in zip(X, y, strict=True)]
    (folder / "line.csv").write_text("a,b,c,price\n" + "\n".join(rows) + "\n")
    return folder / "line.csv"


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
    assert f"accuracy {right / 359:.4f} ({right} of 359 right)" in out


def test_train_report(run):
    assert run("train", *QUICK, "--report", "r.json", "--no-save", "--seed", "3", "--norm", "none")[0] == 0
    with open("r.json") as file:
        got = json.load(file)
    expected = {
        "data": "digits",
        "sizes": [64, 8, 10],
        "parameters": 64 * 8 + 8 + 8 * 10 + 10,
        "epochs": 2,
        "steps": 2 * 23,
        "seed": 3,
        "norm": None,
        "model": None,
        "plot": None,
        "stopped": None,
    }
    assert {key: got[key] for key in expected} == expected
    assert got["train_seconds"] > 0
    for key in ("loss", "accuracy", "val_loss", "val_accuracy", "seconds"):
        assert len(got[key]) == 2
    assert got["val_accuracy"][-1] == pytest.approx(got["test_accuracy"])


@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("NUMBA_DISABLE_JIT") == "1", reason="full size")
def test_train_defaults(run, folder):
    pytest.importorskip("matplotlib")
    status, _, _ = run("train", "--report", "r.json")
    assert status == 0
    assert json.loads((folder / "r.json").read_text())["test_accuracy"] >= 0.97
    assert (folder / "nbnorm-digits.png").read_bytes().startswith(b"\x89PNG")


def test_train_same_seed_same_bytes(run, folder):
    for name in ("a", "b"):
        assert run("train", *QUICK, "--save", f"{name}.npz", "--quiet")[0] == 0
    assert (folder / "a.npz").read_bytes() == (folder / "b.npz").read_bytes()


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


def test_predict_finds_columns_by_name(run, flowers, folder):
    assert run("train", flowers, *QUICK)[0] == 0
    (folder / "new.csv").write_text("id,width,length\nx,0.1,0.2\ny,5.1,5.3\n")
    (folder / "same.csv").write_text("length,width,kind\n0.2,0.1,\n5.3,5.1,virginica\n")
    status, out, _ = run("predict", "nbnorm-flowers.npz", "new.csv")
    assert status == 0
    assert out.splitlines()[0] == "prediction,probability"
    status, message, _ = run("predict", "nbnorm-flowers.npz", "same.csv", "--out", "same-out.csv")
    assert (folder / "same-out.csv").read_text() == out
    assert "1 sample left out, whose target is missing or no class of the model" in message


def test_train_regression(run, line_file, folder):
    status, out, _ = run("train", line_file, *QUICK, "--epochs", "60", "--report", "r.json")
    assert status == 0
    assert "Target: price, regression" in out
    report = json.loads((folder / "r.json").read_text())
    assert report["test_accuracy"] is None
    assert report["test_r2"] > 0.8
    status, out, _ = run("predict", "nbnorm-line.npz", line_file, "--out", "out.csv")
    assert status == 0
    got = np.loadtxt("out.csv", skiprows=1)
    table = np.loadtxt(line_file, delimiter=",", skiprows=1)
    expected = table[:, 3]
    np.testing.assert_array_equal(nbnorm.FNN.load("nbnorm-line.npz").predict(table[:, :3]), got)
    rmse = np.sqrt(np.mean((got - expected) ** 2))
    assert rmse < 0.5 * expected.std()
    assert f"R2 {1 - rmse**2 / expected.var():.4f}, root mean squared error {rmse:.6g}" in out


def test_train_npz(run, folder):
    random = np.random.default_rng(0)
    X = random.normal(size=(50, 2, 2)).astype(np.float32)
    np.savez(folder / "two.npz", X=X, y=np.stack([X[:, 0, 0], X[:, 1, 1]], axis=1))
    assert run("train", "two.npz", *QUICK)[0] == 0
    status, out, _ = run("predict", "nbnorm-two.npz", "two.npz", "--out", "out.csv")
    assert status == 0
    assert "R2" in out
    assert (folder / "out.csv").read_text().splitlines()[0] == "prediction1,prediction2"


def test_train_mnist(run, folder, monkeypatch):
    random = np.random.default_rng(0)

    def load(data_dir, *, progress):
        assert data_dir == "somewhere"
        parts = [(random.integers(0, 256, (n, 784), dtype=np.uint8), np.arange(n) % 10) for n in (40, 20)]
        return tuple(parts)

    monkeypatch.setattr(datasets, "load_mnist", load)
    status, out, _ = run("train", "mnist", "--data-dir", "somewhere", *QUICK)
    assert status == 0
    assert "Data: mnist, 40 training and 20 held-out samples, 784 features, 10 classes" in out
    assert run("predict", "nbnorm-mnist.npz", "mnist", "--data-dir", "somewhere")[0] == 0


def test_no_batch_is_of_a_single_sample(run, folder):
    np.savez(folder / "data.npz", X=np.random.default_rng(0).normal(size=(82, 2)), y=np.arange(82) % 2)
    status, out, _ = run("train", "data.npz", *QUICK, "--test-size", "0.2")
    assert status == 0
    assert "66 training and 16 held-out" in out
    (folder / "data.npz").unlink()
    np.savez(folder / "data.npz", X=np.random.default_rng(0).normal(size=(81, 2)), y=np.arange(81) % 2)
    status, out, _ = run("train", "data.npz", *QUICK)
    assert status == 0
    assert "65 training and 16 held-out" in out
    for size in ("32", "64"):
        assert run("train", "data.npz", *QUICK, "--batch-size", size)[0] == 0
    status, _, err = run("train", "data.npz", *QUICK, "--batch-size", "2")
    assert status == 2
    assert "last batch of one" in err


def test_train_without_matplotlib(run, monkeypatch, folder):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    status, out, _ = run("train", "--hidden", "8", "--epochs", "1")
    assert status == 0
    assert 'No plot will be drawn: a plot needs matplotlib: pip install "nbnorm[plot]"' in out
    status, _, err = run("train", "--plot", "curve.png")
    assert status == 2
    assert "nbnorm[plot]" in err


def test_train_draws(run, folder):
    pytest.importorskip("matplotlib")
    assert run("train", "--hidden", "8", "--epochs", "1", "--no-save", "--plot", "curve.svg")[0] == 0
    assert [path.name for path in folder.iterdir()] == ["curve.svg"]


def test_train_diverges(run, folder):
    np.savez(folder / "x.npz", X=np.random.default_rng(0).normal(size=(50, 2)), y=np.arange(50.0))
    status, _, err = run("train", "x.npz", *QUICK, "--lr", "1e30", "--weight-decay", "0", "--norm", "none")
    assert status == 1
    assert err.startswith("nbnorm: error: training diverged")
    assert [path.name for path in folder.iterdir()] == ["x.npz"]


def test_threads_are_restored(run):
    before = nbnorm.get_num_threads()
    status, out, _ = run("train", *QUICK, "--threads", "1")
    assert status == 0
    assert ", 1 thread\n" in out
    assert nbnorm.get_num_threads() == before
    status, out, _ = run("train", *QUICK, "--threads", "9999")
    assert status == 0
    assert f", {before} thread" in out
    assert nbnorm.get_num_threads() == before


def test_threads_go_no_further_than_the_environment_allows(run, monkeypatch):
    monkeypatch.setattr("nbnorm.compile.threads.MOST_THREADS", 1)
    status, out, _ = run("train", *QUICK, "--threads", "2")
    assert status == 0
    assert ", 1 thread\n" in out


BAD = [
    ([], "required: COMMAND"),
    (["fly"], "invalid choice: 'fly'"),
    (["train", "--lr", "0"], "--lr: the value must be finite and above 0, got 0"),
    (["train", "--lr", "x"], "--lr: expected a number, got 'x'"),
    (["train", "--lr", "nan"], "--lr: the value must be finite"),
    (["train", "--momentum", "1"], "--momentum: the value must be finite and at least 0 and below 1"),
    (["train", "--epochs", "0"], "--epochs: the value must be at least 1, got 0"),
    (["train", "--epochs", "2.5"], "--epochs: expected a whole number, got '2.5'"),
    (["train", "--batch-size", "-1"], "--batch-size: the value must be at least"),
    (["train", "--hidden", "8", "0"], "--hidden must be 0 alone, for no hidden layer, or hold no 0, got 8 0"),
    (["train", "--hidden", "0", "4"], "--hidden must be 0 alone, for no hidden layer, or hold no 0, got 0 4"),
    (["train", "--hidden", "0", "--dropout", "0.5"], "--dropout needs a hidden layer"),
    (["train", "--dropout", "1"], "--dropout: the value must be finite and at least 0 and below 1"),
    (
        ["train", "--optimizer", "adamw", "--momentum", "0.5"],
        "--momentum does not apply to --optimizer adamw",
    ),
    (["train", "--lr", "1", "--weight-decay", "1"], "lr * weight_decay must be below 1"),
    (["train", "--loss", "huber"], "--loss needs a numeric target"),
    (["train", "--activation", "step"], "--activation: invalid choice: 'step'"),
    (["train", "--norm", "both"], "--norm: invalid choice: 'both'"),
    (["train", "--threads", "0"], "--threads: the value must be at least 1, got 0"),
    (["train", "--test-size", "1"], "--test-size: the value must be finite"),
    (["train", "--save", "a", "--no-save"], "not allowed with"),
    (["train", "--save", "nowhere/m.npz"], "nowhere/m.npz: No such file or directory"),
    (["train", "--report", "."], "Is a directory"),
    (["train", "--save", "a.png", "--plot", "a.png"], "--save and --plot name the same file a.png"),
    (["train", "--target", "x"], "--target does not apply to digits"),
    (["train", "--data-dir", "x"], "--data-dir does not apply to digits"),
    (["train", "mnist", "--data-dir", "nowhere"], "data_dir must be a directory, got 'nowhere'"),
    (["train", "mnist", "--test-size", "0.5"], "--test-size does not apply to mnist"),
    (["train", "nowhere.csv"], "nowhere.csv: No such file or directory"),
    (["train", "letters"], "letters must be a table that ends in .csv or .npz"),
    (["train", "gap.csv"], "gap.csv, line 3, column 'a': missing value"),
    (["train", "gap.csv", "--target", "c"], "has no target column 'c'; it has a, b"),
    (["train", "one.csv"], "must have at least two classes, got only 'x'"),
    (["train", "names.csv"], "names.csv must have several samples of a class"),
    (["train", "one.csv", "--save", "one.csv"], "--save one.csv would overwrite the data"),
    (["train", "one.csv", "--task", "regression"], "line 2, column 'b': expected a number, got 'x'"),
    (["predict", "net.npz", "digits", "--target", "x"], "--target does not apply to digits"),
    (["predict", "net.npz", "mnist", "--target", "x"], "--target does not apply to mnist"),
    (["predict", "net.npz", "net.npz", "--target", "x"], "--target does not apply to net.npz"),
    (["predict", "net.npz", "gap.csv", "--target", "c"], "gap.csv has no target column 'c'; it has a, b"),
    (["predict", "net.npz", "gap.csv", "--data-dir", "x"], "--data-dir does not apply to gap.csv"),
    (["predict", "gap.csv", "digits"], "gap.csv is not a readable nbnorm file"),
    (["predict", "nowhere.npz", "digits"], "nowhere.npz: No such file or directory"),
    (["standardize", "gap.csv", "gap.csv"], "gap.csv would be overwritten while it is needed"),
    (["standardize", "gap.csv", "out.csv", "--inverse"], "--inverse needs --stats"),
    (["standardize", "gap.csv", "out.csv", "--inverse", "--stats", "s.json"], "s.json does not exist"),
    (["standardize", "gap.csv", "out.csv", "--except", "c"], "gap.csv has no column 'c'; it has a, b"),
    (["standardize", "one.csv", "out.npy", "--except", "b"], "to keep the column 'b', got 'out.npy'"),
]


@pytest.mark.parametrize(("argv", "expected"), BAD, ids=[" ".join(argv) for argv, _ in BAD])
def test_bad_input(run, folder, argv, expected):
    (folder / "gap.csv").write_text("a,b\n1,x\n,y\n")
    (folder / "one.csv").write_text("a,b\n1,x\n2,x\n")
    (folder / "names.csv").write_text("a,name\n1,Ada\n2,Grace\n3,Emmy\n")
    nbnorm.FNN([1, 2], seed=0).save("net.npz")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    no_plot = ["--no-plot"] if argv[:1] == ["train"] and "--plot" not in argv else []
    status, _, err = run(*argv, *no_plot)
    assert status == 2
    assert err.startswith("nbnorm: error: ")
    assert err.count("\n") == 1
    assert expected in err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


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


def test_train_with_early_stopping(run, folder):
    words = ["train", "--hidden", "8", "--epochs", "200", "--early-stopping", "2", "--lr", "0.3", "--no-plot"]
    status, out, _ = run(*words, "--report", "r.json", "--schedule", "plateau")
    assert status == 0
    report = json.loads((folder / "r.json").read_text())
    assert report["stopped"] == "early"
    assert report["epochs"] == report["best_epoch"] + 2
    assert f"Best epoch: {report['best_epoch']} of {report['epochs']}" in out
    assert "1,294 training, 144 validation and 359 held-out samples" in out


def test_train_goes_on_from_a_checkpoint(run, folder):
    words = ["train", *QUICK, "--checkpoint", "c.npz", "--schedule", "one_cycle"]
    assert run(*words)[0] == 0
    model = (folder / "nbnorm-digits.npz").read_bytes()
    status, out, _ = run(*words)
    assert status == 0
    assert "Going on from c.npz" in out
    assert (folder / "nbnorm-digits.npz").read_bytes() == model
    status, _, err = run(*words, "--lr", "0.2")
    assert status == 2
    assert "holds another training: optimizer was SGD(lr=0.1" in err
    assert run(*words, "--save", "c.npz")[0] == 2


def test_adamw_with_relu_on_digits(run):
    status, out, _ = run("train", *QUICK, "--no-save", "--optimizer", "adamw")
    assert status == 0
    assert "batches of 64, adamw, lr 0.002 (cosine), weight decay 5, seed 0" in out


@pytest.mark.parametrize("option", [["--balanced"], ["--label-smoothing", "0.1"]])
def test_options_of_classes(run, line_file, option):
    status, _, err = run("train", line_file, *QUICK, *option)
    assert (status, f"{option[0]} needs classes" in err) == (2, True)


def test_train_with_adamw(run, folder):
    words = ["--optimizer", "adamw", "--activation", "gelu", "--dropout", "0.25", "--label-smoothing", "0.1"]
    status, out, _ = run("train", *QUICK, *words, "--report", "r.json")
    assert status == 0
    assert "Network: 64-8-10, gelu, batch norm after the activation, dropout 0.25, 626 parameters" in out
    rate = nbnorm.model.defaults.learning_rate("adamw", "after", ["gelu"])
    decay = nbnorm.model.defaults.weight_decay("adamw", "after", ["gelu"], 1438, rate)
    assert f"batches of 64, adamw, lr {rate:g} (cosine), weight decay {decay:g}, seed 0" in out
    net = nbnorm.FNN.load("nbnorm-digits.npz")
    assert (net.activation, net.dropout, net.loss) == ("gelu", (0.25,), nbnorm.CrossEntropy(0.1))
    report = json.loads((folder / "r.json").read_text())
    expected = {"optimizer": "adamw", "lr": rate, "momentum": None, "weight_decay": decay, "dropout": 0.25}
    assert {name: report[name] for name in expected} == expected
    assert (report["loss_function"], report["label_smoothing"]) == ("cross_entropy", 0.1)


@pytest.mark.parametrize("loss", ["absolute", "huber", "poisson"])
def test_train_with_another_loss(run, folder, loss):
    random = np.random.default_rng(0)
    X = random.normal(size=(400, 2))
    np.savez(folder / "counts.npz", X=X, y=random.poisson(np.exp(2.0 + 0.5 * X[:, 0])))
    words = ["--task", "regression", "--loss", loss, "--hidden", "8", "--epochs", "40", "--lr", "0.02"]
    assert run("train", "counts.npz", *words, "--no-plot", "--report", "r.json")[0] == 0
    report = json.loads((folder / "r.json").read_text())
    assert report["loss_function"] == loss
    assert report["test_r2"] > 0.3
    assert nbnorm.FNN.load("nbnorm-counts.npz").standardize_targets == (loss != "poisson")


def test_train_without_hidden_layer(run, folder):
    words = ["--hidden", "0", "--epochs", "2", "--no-plot", "--report", "r.json"]
    status, out, _ = run("train", *words)
    assert status == 0
    assert "Network: 64-10, no hidden layer, 650 parameters" in out
    report = json.loads((folder / "r.json").read_text())
    assert (report["activation"], report["norm"]) == (None, None)


def test_predict_does_not_overwrite(run, flowers):
    assert run("train", flowers, *QUICK)[0] == 0
    status, _, err = run("predict", "nbnorm-flowers.npz", flowers, "--out", "nbnorm-flowers.npz")
    assert status == 2
    assert "would overwrite the model" in err


@pytest.mark.parametrize("command", [[], ["train"], ["predict"], ["standardize"], ["gradcheck"]])
def test_help(run, command):
    status, out, _ = run(*command, "--help")
    assert status == 0
    assert out.startswith(f"usage: {' '.join(['nbnorm', *command])} ")


def test_version(run):
    status, out, _ = run("--version")
    assert status == 0
    assert out.startswith("nbnorm ")


@pytest.mark.parametrize(("worst", "status"), [(1e-7, 0), (1e-5, 1), (float("nan"), 1)])
def test_gradcheck(run, monkeypatch, worst, status):
    module = sys.modules["nbnorm.gradcheck"]
    monkeypatch.setattr(module, "table", lambda: [("dense", "bias", 1e-9), ("batch_norm", "", worst)])
    got, out, _ = run("gradcheck")
    assert got == status
    assert out.splitlines()[0] == "dense       bias  1.0e-09"
    assert out.splitlines()[-1].startswith(f"largest relative error {worst:.1e}, ")


def test_interrupted_training_keeps_its_epochs(run, folder, monkeypatch):
    seen = []

    def show(_, history):
        seen.append(history.epochs)
        if history.epochs == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(main, "_print_epoch", lambda epochs, held_out: show)
    status, out, _ = run("train", "--hidden", "8", "--epochs", "9", "--no-plot", "--report", "r.json")
    assert status == 130
    assert "Interrupted: the 2 epochs done so far are kept" in out
    assert (folder / "nbnorm-digits.npz").exists()
    report = json.loads((folder / "r.json").read_text())
    assert (report["epochs"], report["stopped"], seen) == (2, "interrupted", [1, 2])


def test_interrupted_before_training(run, folder, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(datasets, "load_digits", interrupt)
    status, _, err = run("train", *QUICK)
    assert (status, err) == (130, "nbnorm: error: interrupted\n")
    assert list(folder.iterdir()) == []


@pytest.mark.slow
@pytest.mark.posix("sends signals to another process")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_a_training(folder, number, status):
    words = [sys.executable, "-m", "nbnorm", "train", "--hidden", "8", "--epochs", "1000000", "--no-plot"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("epoch"):
            break
    time.sleep(0.1)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == status
    assert "Interrupted: the " in out
    assert err == ""
    assert [path.name for path in folder.iterdir()] == ["nbnorm-digits.npz"]
    assert nbnorm.FNN.load("nbnorm-digits.npz").epochs_trained >= 1


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_amid_compilation(folder, number, status):
    env = {**os.environ, "NUMBA_CACHE_DIR": str(folder / "cache")}
    words = [sys.executable, "-m", "nbnorm", "train", "--hidden", "8", "--epochs", "1000000", "--no-plot"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    for line in process.stdout:
        if line.startswith("Compiling"):
            break
    process.send_signal(number)
    out, err = process.communicate(timeout=300)
    assert process.returncode == status
    assert "epoch" not in out
    assert err == "nbnorm: error: interrupted before the end of the first epoch: nothing was saved\n"
    assert [path.name for path in folder.iterdir()] == ["cache"]


def test_closed_output():
    process = subprocess.Popen(
        [sys.executable, "-m", "nbnorm", "train", "--hidden", "8", "--epochs", "2", "--no-plot", "--no-save"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=600) == 1
    assert err == ""


def test_standardize_and_back(run, folder):
    (folder / "a.csv").write_text("height,age\n0,3\n4,5\n8,4\n")
    status, out, _ = run("standardize", "a.csv", "b.csv", "--stats", "s.json")
    assert status == 0
    assert "Standardized a.csv with its own statistics, kept in s.json: b.csv" in out
    x = np.array([[0.0, 3.0], [4.0, 5.0], [8.0, 4.0]])
    got = np.loadtxt("b.csv", delimiter=",", skiprows=1)
    np.testing.assert_allclose(got, (x - x.mean(axis=0)) / x.std(axis=0), rtol=1e-12, atol=1e-12)
    status, out, _ = run("standardize", "b.csv", "c.csv", "--stats", "s.json", "--inverse")
    assert status == 0
    assert "Restored b.csv with the statistics in s.json: c.csv" in out
    np.testing.assert_allclose(np.loadtxt("c.csv", delimiter=",", skiprows=1), x, rtol=1e-12, atol=1e-12)


def test_standardize_reuses_statistics(run, folder):
    (folder / "a.csv").write_text("height\n0\n4\n")
    (folder / "new.csv").write_text("height\n6\n10\n")
    assert run("standardize", "a.csv", "b.csv", "--stats", "s.json")[0] == 0
    before = (folder / "s.json").read_bytes()
    assert run("standardize", "new.csv", "d.csv", "--stats", "s.json")[0] == 0
    np.testing.assert_allclose(np.loadtxt("d.csv", skiprows=1), [2.0, 4.0])
    assert (folder / "s.json").read_bytes() == before


def test_standardize_except(run, folder):
    (folder / "a.csv").write_text('street,size,price\n"Oak, 3",0,100\nElm,4,0250\n')
    (folder / "new.csv").write_text("street,size,price\nAsh,6,?\n")
    keep = ["--except", "price", "--except", "street"]
    assert run("standardize", "a.csv", "b.csv", "--stats", "s.json", *keep)[0] == 0
    expected = 'street,size,price\n"Oak, 3",-1.0,100\nElm,1.0,0250\n'
    assert (folder / "b.csv").read_text() == expected
    assert json.loads((folder / "s.json").read_text())["feature_names"] == ["size"]
    assert run("standardize", "new.csv", "c.csv", "--stats", "s.json", *keep)[0] == 0
    assert (folder / "c.csv").read_text() == "street,size,price\nAsh,2.0,?\n"
    assert run("standardize", "c.csv", "d.csv", "--stats", "s.json", "--inverse", *keep)[0] == 0
    assert (folder / "d.csv").read_text() == "street,size,price\nAsh,6.0,?\n"
    # one run's columns are not those of the next
    status, _, err = run("standardize", "new.csv", "c.csv", "--stats", "s.json")
    assert status == 2
    assert "must have the features ['size'] of the statistics" in err


@pytest.mark.parametrize("stats", ["missing/s.json", ".", "/dev/full"])
def test_standardize_replaces_both_files_or_none(run, folder, stats):
    if stats == "/dev/full" and not os.path.exists(stats):
        pytest.skip("needs /dev/full, a disk without room")
    (folder / "a.csv").write_text("height\n0\n4\n")
    (folder / "b.csv").write_text("before")
    status, _, err = run("standardize", "a.csv", "b.csv", "--stats", stats)
    assert status == 2
    assert stats in err
    assert err.count("\n") == 1
    assert (folder / "b.csv").read_text() == "before"
    assert sorted(os.listdir()) == ["a.csv", "b.csv"]
    with pytest.raises(ValueError, match="save_stats must be another file"):
        standardize_file("a.csv", "b.csv", save_stats=folder / "b.csv")


def test_standardize_refuses_values_beyond_floats(run, folder):
    (folder / "a.csv").write_text("x,y\n1e200,2\n3e200,4\n")
    status, _, err = run("standardize", "a.csv", "b.csv")
    assert status == 2
    assert all(word in err for word in ("a.csv", "column 'x'", "3e+200"))
    (folder / "a.csv").write_text("x,y\n1e-20,2\n3e-20,4\n")
    assert run("standardize", "a.csv", "b.csv", "--stats", "s.json")[0] == 0
    np.save("c.npy", np.array([[1.0, 2.0], [1e30, 3.0]], np.float32))
    (folder / "s.json").write_text(
        (folder / "s.json").read_text().replace('"x"', '"u"').replace('"y"', '"v"')
    )
    status, _, err = run("standardize", "c.npy", "d.npy", "--stats", "s.json")
    assert status == 2
    assert "c.npy: row 1, column 0 holds 1e+30, which becomes inf in float32" in err
    assert sorted(os.listdir()) == ["a.csv", "b.csv", "c.npy", "s.json"]


def test_train_and_predict_refuse_values_beyond_floats(run, flowers, folder):
    text = flowers.read_text()
    (folder / "large.csv").write_text(text.replace("setosa", "1").replace("virginica", "2") + "1,1e200,1\n")
    for command in (["train", "large.csv", *QUICK], ["train", "large.csv", "--target", "width", *QUICK]):
        status, _, err = run(*command)
        assert status == 2
        assert "column 'width'" in err
    assert run("train", flowers, *QUICK)[0] == 0
    (folder / "far.csv").write_text("length,width\n1,2\n1,1e100\n")
    status, _, err = run("predict", "nbnorm-flowers.npz", "far.csv", "--out", "out.csv")
    assert status == 2
    assert "the value farthest from the training data is 1e+100 in far.csv, line 3, column 'width'" in err
    assert not (folder / "out.csv").exists()


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
    assert (report["sizes"], report["optimizer"], report["lr"]) == ([1, 100, 1], "adamw", 0.005)
    assert (report["batch_size"], report["epochs"], report["steps"]) == (32, 100, 500)
    chosen = report["cross_validation"]
    assert chosen["network"] > chosen["linear"] + 0.5
    assert f"R2 {chosen['network']:.4f} of a network, {chosen['linear']:.4f} of a linear model" in out


@pytest.mark.parametrize("option", [["--hidden", "8"], ["--lr", "0.01"], ["--weight-decay", "0"]])
def test_what_is_named_is_not_chosen(run, line_file, folder, option):
    words = ["--epochs", "2", "--no-plot", "--no-save", "--report", "r.json"]
    assert run("train", line_file, *option, *words)[0] == 0
    report = json.loads((folder / "r.json").read_text())
    assert report["cross_validation"] is None
    assert len(report["sizes"]) == 3


def test_diverged_training_begins_again(run, folder):
    X = np.random.default_rng(0).normal(size=(50, 2))
    np.savez(folder / "x.npz", X=X, y=X[:, 0])
    words = ["--hidden", "8", "--norm", "none", "--optimizer", "sgd", "--lr", "30", "--epochs", "20"]
    words += ["--checkpoint", "c.npz", "--no-plot"]
    status, out, _ = run("train", "x.npz", *words, "--report", "r.json")
    assert status == 0
    report = json.loads((folder / "r.json").read_text())
    assert report["retries"] >= 1
    assert report["lr"] == pytest.approx(30 * 0.1 ** report["retries"])
    assert re.search(r"Diverged after \d+ epochs?: once more at a tenth of the learning rate, 3\n", out)
    assert len(report["loss"]) == report["epochs"] == 20
    model = (folder / "nbnorm-x.npz").read_bytes()
    status, out, _ = run("train", "x.npz", *words)
    assert status == 0
    assert f"Going on from c.npz.{report['retries']}" in out
    assert (folder / "nbnorm-x.npz").read_bytes() == model


def test_many_epochs_get_few_lines(run):
    status, out, _ = run("train", "--hidden", "2", "--epochs", "70", "--no-plot", "--no-save")
    assert status == 0
    lines = [line for line in out.splitlines() if line.startswith("epoch")]
    assert (lines[0].split()[1], lines[-1].split()[1]) == ("1/70", "70/70")
    assert len(lines) < 70


def test_labels_are_predicted_as_utf8(run, folder, python):
    rows = [f"{k % 2 + 0.01 * k},{('größe', '漢字')[k % 2]}" for k in range(40)]
    (folder / "länge.csv").write_text("\n".join(["x,art", *rows]) + "\n", encoding="utf-8")
    assert run("train", "länge.csv", *QUICK, "--save", "m.npz")[0] == 0
    (folder / "x.csv").write_text("x\n0\n1\n")
    words = [sys.executable, "-m", "nbnorm", "predict", "m.npz"]
    strict = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for encoding in ("ascii", "cp1252"):
        env = {**strict, "PYTHONIOENCODING": encoding}
        done = subprocess.run([*words, "x.csv"], capture_output=True, env=env)
        assert done.returncode == 0
        labels = [line.split(",")[0] for line in done.stdout.decode("utf-8").splitlines()]
        assert labels[0] == "prediction"
        assert set(labels[1:]) <= {"größe", "漢字"}
        done = subprocess.run([*words, "länge.csv"], capture_output=True, env=env)
        assert "Predicted 40 samples of länge.csv" in done.stdout.decode("utf-8")
        done = subprocess.run([*words, "größe.csv"], capture_output=True, env=env)
        assert done.stderr.decode("utf-8") == "nbnorm: error: größe.csv: No such file or directory\n"


def test_output_keeps_its_encoding(run, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="latin-1", errors="replace")
    monkeypatch.setattr(sys, "stdout", stream)
    assert main.main(["predict", "no-such-model.npz", "digits"]) == 2
    assert (stream.encoding, stream.errors) == ("latin-1", "replace")


@pytest.mark.parametrize("command", ["train", "predict"])
def test_out_of_memory_names_the_file(run, flowers, monkeypatch, command):
    def read(*args, **options):
        raise MemoryError("Unable to allocate 9 TiB")

    nbnorm.FNN([2, 2], seed=0).save("m.npz")
    monkeypatch.setattr(main.tables, "read_table", read)
    status, _, err = run(command, *(["m.npz"] if command == "predict" else ["--no-plot"]), flowers)
    assert (status, err) == (1, f"nbnorm: error: {flowers}: out of memory: Unable to allocate 9 TiB\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_output(folder):
    nbnorm.FNN([2, 2], seed=0).save("m.npz")
    (folder / "x.csv").write_text("a,b\n1,2\n")
    with open("/dev/full", "w") as full:
        words = [sys.executable, "-m", "nbnorm", "predict", "m.npz", "x.csv"]
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        1,
        "nbnorm: error: standard output: No space left on device",
    )


def test_gradcheck_needs_networks(run, monkeypatch):
    module = sys.modules["nbnorm.gradcheck"]
    for name in ("_function_rows", "_optimizer_rows", "_layer_rows"):
        monkeypatch.setattr(module, name, lambda: [module.Row("dense", "bias", 0.0)])
    monkeypatch.setitem(sys.modules, "nbnorm.model.network", None)
    status, out, err = run("gradcheck")
    assert status == 2
    assert "within" not in out
    assert "nbnorm.model.network" in err


def test_compilation_is_said_once(folder):
    (folder / "a.csv").write_text("height\n0\n4\n")
    env = {**os.environ, "NUMBA_CACHE_DIR": str(folder / "cache")}
    words = [sys.executable, "-m", "nbnorm", "standardize", "a.csv", "b.csv"]
    said = [subprocess.run(words, capture_output=True, text=True, env=env).stderr for _ in range(2)]
    assert said[0] == "Compiling for this processor, which takes about 10 seconds and happens once\n"
    assert said[1] == ""
    env["NUMBA_CACHE_DIR"] = str(folder / "a.csv")  # no folder can be made there
    err = subprocess.run(words, capture_output=True, text=True, env=env).stderr
    assert "in every run: no folder for the code can be written; set NUMBA_CACHE_DIR" in err
    assert err.count("\n") == 1


def test_report_keeps_compilation_apart(run, folder, monkeypatch):
    times = iter([1.0, 8.5])
    monkeypatch.setattr(main, "compile_seconds", lambda: next(times))
    status, out, _ = run("train", *QUICK, "--no-save", "--report", "r.json")
    assert status == 0
    assert ", and 7.5 s of compilation\n" in out
    assert json.loads((folder / "r.json").read_text())["compile_seconds"] == 7.5


def test_hardly_any_rows_train_a_linear_model(run, folder):
    X = np.random.default_rng(0).normal(size=(6, 2))
    np.savez(folder / "x.npz", X=X, y=X @ [2.0, -1.0] + 5.0)
    assert run("train", "x.npz", "--no-plot", "--report", "r.json")[0] == 0
    report = json.loads((folder / "r.json").read_text())
    assert (report["sizes"], report["cross_validation"]) == ([2, 1], None)
    assert report["test_rmse"] < 0.1
