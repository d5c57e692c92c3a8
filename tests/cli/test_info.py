import json

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
