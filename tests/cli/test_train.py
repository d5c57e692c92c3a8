from __future__ import annotations

import json
import os
import re
import sys

import numpy as np
import pytest

import nbnorm
from cli import QUICK, flat
from nbnorm.data import datasets


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
    assert f"R2 {1 - rmse**2 / expected.var():.4f}, root mean squared error {rmse:.6g}" in flat(out)


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


def test_train_inspects(run, folder):
    pytest.importorskip("matplotlib")
    status, out, _ = run(
        "train", "--hidden", "8", "--epochs", "1", "--no-save", "--no-plot", "--inspect", "l.svg"
    )
    assert status == 0
    assert [path.name for path in folder.iterdir()] == ["l.svg"]
    assert "condition" in out
    assert "layer1" in out
    status, _, err = run("train", "--inspect", "layers.xyz")
    assert status == 2
    assert "layers.xyz must end in one of" in err


def test_train_diverges(run, folder):
    np.savez(folder / "x.npz", X=np.random.default_rng(0).normal(size=(50, 2)), y=np.arange(50.0))
    status, _, err = run("train", "x.npz", *QUICK, "--lr", "1e30", "--weight-decay", "0", "--norm", "none")
    assert status == 1
    assert err.startswith("nbnorm: error: training diverged")
    assert [path.name for path in folder.iterdir()] == ["x.npz"]


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


@pytest.mark.parametrize("option", [["--balanced"], ["--label-smoothing", "0.1"]])
def test_options_of_classes(run, line_file, option):
    status, _, err = run("train", line_file, *QUICK, *option)
    assert (status, f"{option[0]} needs classes" in err) == (2, True)


def test_train_with_adamw(run, folder):
    words = ["--optimizer", "adamw", "--activation", "gelu", "--dropout", "0.25", "--label-smoothing", "0.1"]
    status, out, _ = run("train", *QUICK, *words, "--report", "r.json")
    assert status == 0
    assert "Network: 64-8-10, gelu, batch norm after the activation, dropout 0.25, 626 parameters" in flat(
        out
    )
    rate = nbnorm.model.defaults.learning_rate("adamw", "after", ["gelu"])
    decay = nbnorm.model.defaults.weight_decay("adamw", "after", ["gelu"], 1438, rate)
    assert f"batches of 64, adamw, lr {rate:g} (cosine), weight decay {decay:g}, seed 0" in flat(out)
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


def test_interrupted_training_keeps_its_epochs(run, folder, monkeypatch):
    seen = []

    def show(_, history):
        seen.append(history.epochs)
        if history.epochs == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("nbnorm.cli.train._print_epoch", lambda epochs, held_out: show)
    status, out, _ = run("train", "--hidden", "8", "--epochs", "9", "--no-plot", "--report", "r.json")
    assert status == 130
    assert "Interrupted: the 2 epochs done so far are kept" in out
    assert (folder / "nbnorm-digits.npz").exists()
    report = json.loads((folder / "r.json").read_text())
    assert (report["epochs"], report["stopped"], seen) == (2, "interrupted", [1, 2])


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


def test_report_keeps_compilation_apart(run, folder, monkeypatch):
    times = iter([1.0, 8.5])
    monkeypatch.setattr("nbnorm.cli.train.compile_seconds", lambda: next(times))
    status, out, _ = run("train", *QUICK, "--no-save", "--report", "r.json")
    assert status == 0
    assert ", and 7.5 s of compilation baseline" in flat(out)
    assert json.loads((folder / "r.json").read_text())["compile_seconds"] == 7.5


@pytest.mark.parametrize("words", [[], ["--early-stopping", "1"]])
def test_cross_validation_of_the_settings(run, flowers, words):
    status, out, err = run("train", flowers, *QUICK, "--cv", "3", "--json", *words)
    assert status == 0
    got = json.loads(out)["cv"]
    assert (got["folds"], len(got["scores"])) == (3, 3)
    assert got["mean"] == pytest.approx(np.mean(got["scores"]))
    assert got["std"] == pytest.approx(np.std(got["scores"], ddof=1))
    assert f"accuracy {got['mean']:.4f} +- {got['std']:.4f}" in flat(err)


def test_cross_validation_of_a_ridge(run, line_file):
    words = ["--hidden", "0", "--l2", "0.01", "--epochs", "2", "--no-plot", "--json", "--cv", "4"]
    got = json.loads(run("train", line_file, *words)[1])["cv"]
    assert min(got["scores"]) > 0.99


def test_output_fits_the_page(run, flowers):
    status, out, _ = run(
        "train", flowers, *QUICK, "--dropout", "0.5", "--label-smoothing", "0.1", "--save", "m"
    )
    assert status == 0
    assert max(map(len, out.splitlines())) <= 80
