import json

import numpy as np
import pytest

import nbnorm
from cli import QUICK


def test_info_of_a_training(run, flowers):
    assert run("train", flowers, *QUICK, "--lr", "0.03")[0] == 0
    status, out, _ = run("info", "nbnorm-flowers.npz")
    assert status == 0
    lines = [" ".join(line.split()) for line in out.splitlines()]
    expected = ["sizes 2, 8, 2", "features length, width", "classes setosa, virginica", "lr 0.03", "seed 0"]
    assert set(expected) <= set(lines)
    got = json.loads(run("info", "nbnorm-flowers.npz", "--json")[1])
    assert (got["training"]["optimizer"], got["data"]["target"]) == ("adamw", "kind")


def test_info_of_a_network_from_python(run):
    net = nbnorm.FNN([2, 3, 4, 1], activation=["tanh", "relu"], output="identity", seed=0)
    net.metadata = {"author": "Ada\nLovelace", "deep": {"er": [1]}}
    net.save("m.npz")
    status, out, _ = run("info", "m.npz")
    assert status == 0
    assert "activation           tanh, relu" in out
    assert "author  Ada?Lovelace" in out


def test_layer_norm(run, flowers):
    status, out, _ = run("train", flowers, *QUICK, "--norm", "layer")
    assert status == 0
    assert "relu, layer norm before the activation" in out
    assert nbnorm.FNN.load("nbnorm-flowers.npz").norm == "layer"
    lines = [" ".join(line.split()) for line in run("info", "nbnorm-flowers.npz")[1].splitlines()]
    assert "norm layer" in lines


def test_info_refuses_other_files(run, flowers):
    status, _, err = run("info", flowers)
    assert (status, err.count("\n")) == (2, 1)
    assert "flowers.csv is not a readable nbnorm file" in err


def test_info_of_statistics(run, flowers, folder):
    assert run("standardize", flowers, "o.csv", "--except", "kind", "--stats", "s.json")[0] == 0
    status, out, _ = run("info", "s.json")
    assert status == 0
    column = json.loads(run("info", "s.json", "--json")[1])["columns"]["length"]
    length = np.loadtxt(flowers, delimiter=",", skiprows=1, usecols=0)
    assert (column["mean"], column["std"]) == (pytest.approx(length.mean()), pytest.approx(length.std()))
    assert f"length  mean {length.mean():.6g}, std {length.std():.6g}, values 60" in out
    standardizer = nbnorm.Standardizer(with_std=False).fit(np.arange(1200.0).reshape(2, 600))
    (folder / "s.json").write_text(json.dumps(standardizer.to_dict()))
    out = run("info", "s.json")[1]
    assert "with std   no" in out
    assert "and 550 more; --json has all" in out
    (folder / "s.json").write_text('{"moments": 1}')
    status, _, err = run("info", "s.json")
    assert (status, err.count("\n")) == (2, 1)
    assert "s.json holds no statistics: " in err


def test_info_of_a_checkpoint(run):
    X = np.random.default_rng(0).normal(size=(40, 2))
    net = nbnorm.FNN([2, 3, 2], seed=4)
    history = net.fit(X, (X[:, 0] > 0).astype(int), epochs=2, checkpoint="c.npz", progress=False)
    lines = [" ".join(line.split()) for line in run("info", "c.npz")[1].splitlines()]
    expected = [
        "finished yes",
        "epochs trained 2",
        "seed 4",
        f"loss {history.loss[-1]:.6g}",
        "sizes (2, 3, 2)",
    ]
    assert set(expected) <= set(lines)
