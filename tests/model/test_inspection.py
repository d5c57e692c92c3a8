"""What `inspect` reports, against the same computed naively."""

import json
import math

import numpy as np
import pytest

import nbnorm
from nbnorm import FNN, SGD, AdamW, layer_norm_forward, rms_norm_forward
from nbnorm.estimators import FNNClassifier

RNG = np.random.default_rng(8)
X = RNG.normal(size=(3000, 3)) * [1.0, 10.0, 0.1] + [2.0, -5.0, 0.0]
Y = (X[:, 0] > 2).astype(int)


def condition(a):
    values = np.linalg.eigvalsh(a.T @ a / len(a))
    return values[-1] / values[0]


def standard(a):
    return (a - a.mean(axis=0)) / a.std(axis=0)


def trained(**options):
    net = FNN([3, 4, 2], activation="tanh", dtype=np.float64, seed=3, **options)
    net.fit(X, Y, epochs=1, batch_size=100, optimizer=SGD(lr=0.05), progress=False)
    return net


@pytest.mark.parametrize("norm", ["after", "before", "layer", "rms_after", None])
def test_features_and_conditions(norm):
    net = trained(norm=norm)
    p, b = net.parameters(), net.buffers()

    def normalize(a):
        if norm is None:
            return a
        if norm == "layer":
            return layer_norm_forward(a, p["norm1.gamma"], p["norm1.beta"])[0]
        if norm == "rms_after":
            return rms_norm_forward(a, p["norm1.gamma"])[0]
        rstd = 1 / np.sqrt(b["norm1.running_var"] + net.eps)
        return p["norm1.gamma"] * (a - b["norm1.running_mean"]) * rstd + p["norm1.beta"]

    read = (X - net.standardizer.mean_) / net.standardizer.scale_
    z = read @ p["dense1.weight"].T + p.get("dense1.bias", 0)
    y = np.tanh(normalize(z)) if norm in ("before", "layer") else np.tanh(z)
    out = normalize(y) if norm in ("after", "rms_after") else y

    source, hidden, output = nbnorm.inspect(net, X).layers
    for layer, features, given in ((source, X, read), (hidden, y, out)):
        np.testing.assert_allclose(layer.mean, features.mean(axis=0), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(layer.std, features.std(axis=0), rtol=1e-9)
        assert layer.condition == pytest.approx(condition(features), rel=1e-6)
        assert layer.condition_standardized == pytest.approx(condition(standard(features)), rel=1e-6)
        assert layer.condition_read == pytest.approx(condition(given), rel=1e-6)
        assert (layer.dead, layer.rank) == (0, features.shape[1])
    np.testing.assert_allclose(output.mean, net.forward(X).mean(axis=0), rtol=1e-9)
    assert math.isnan(output.condition)


def test_a_large_mean_loses_no_digits():
    x = RNG.normal(size=(5000, 3)) + 1e7
    source = nbnorm.inspect(FNN([3, 2], dtype=np.float64, standardize=False, seed=0), x).layers[0]
    np.testing.assert_allclose(source.std, x.std(axis=0), rtol=1e-8)
    assert source.condition_standardized == pytest.approx(condition(standard(x)), rel=1e-6)


def test_dead_units_and_rank():
    net = FNN([3, 4, 2], standardize=False, dtype=np.float64, seed=0)
    net.parameters()["dense1.weight"][:2] = 0.0
    net.parameters()["dense1.bias"][:2] = [-1.0, 2.0]  # always 0, and always 2
    hidden = nbnorm.inspect(net, X).layers[1]
    assert hidden.dead >= 2
    assert hidden.std[0] == hidden.std[1] == 0.0
    assert hidden.rank <= 3
    assert math.isfinite(hidden.condition_standardized)


def test_gradient_norms_are_those_of_mini_batches():
    net = trained()
    before = net.training
    layers = nbnorm.inspect(net, X, Y, batch_size=500, optimizer=SGD(lr=0.2, momentum=0.5)).layers
    assert net.training is before
    net.train()
    squares = []
    for k in range(6):
        _, gradients = net.loss_and_gradients(X[k::6], Y[k::6])
        squares.append(np.sum(gradients["dense2.weight"] ** 2))
    expected = np.sqrt(np.mean(squares))
    length = np.linalg.norm(net.parameters()["dense2.weight"])
    assert layers[2].gradient_norm == pytest.approx(expected, rel=1e-9)
    assert layers[2].weight_norm == pytest.approx(length)
    assert layers[2].relative_step == pytest.approx(0.4 * expected / length)


@pytest.mark.parametrize(
    ("norm", "activation", "free"),
    [("before", "tanh", True), ("after", "relu", True), ("after", "tanh", False), (None, "relu", False)],
)
def test_effective_learning_rate(norm, activation, free):
    net = FNN([3, 4, 2], norm=norm, activation=activation, seed=0)
    squares = np.sum(net.parameters()["dense1.weight"].astype(float) ** 2, axis=1)
    hidden = nbnorm.inspect(net, X, optimizer=SGD(lr=0.1)).layers[1]
    adam = nbnorm.inspect(net, X, optimizer=AdamW(lr=0.1)).layers[1]
    if free:
        assert hidden.effective_lr == pytest.approx(0.1 / squares.mean())
        assert adam.effective_lr == pytest.approx(0.1 / np.sqrt(squares.sum() / 12))
    else:
        assert math.isnan(hidden.effective_lr)
    # scaling the weights scales this rate, and nothing else that a scale-invariant network computes
    assert math.isnan(nbnorm.inspect(net, X).layers[2].effective_lr)


def test_weight_decay_balances_at_the_equilibrium():
    net = FNN([3, 8, 2], norm="before", seed=0)
    optimizer = SGD(lr=0.5, weight_decay=0.02)
    net.fit(X, Y, epochs=60, batch_size=100, optimizer=optimizer, progress=False)
    found = nbnorm.inspect(net, X, Y, batch_size=100, optimizer=optimizer)
    assert found.equilibrium_step == pytest.approx(np.sqrt(2 * 0.5 * 0.02))
    assert 0.4 < found.layers[1].relative_step / found.equilibrium_step < 2.5


@pytest.mark.parametrize("options", [{"norm": "layer"}, {"norm": None}, {"activation": "tanh"}])
def test_without_batch_norm_behind_a_scale_nothing_balances(options):
    found = nbnorm.inspect(FNN([3, 8, 2], seed=0, **options), X, optimizer=SGD(lr=0.5, weight_decay=0.02))
    assert math.isnan(found.equilibrium_step)
    assert "Weight decay" not in str(found)


def test_table_dict_and_figure(tmp_path):
    pytest.importorskip("matplotlib")
    found = nbnorm.inspect(trained(norm="before"), X, Y, optimizer=SGD(lr=0.1, weight_decay=1e-3))
    features, condition, step = str(found).split("\n\n")
    assert [line.split()[0] for line in features.splitlines()[1:]] == ["layer", "input", "layer1", "output"]
    assert [line.split()[0] for line in condition.splitlines()[1:]] == ["layer", "input", "layer1"]
    assert [line.split()[0] for line in step.splitlines()[1:]] == ["layer", "layer1", "output", "Weight"]
    assert max(map(len, str(found).splitlines())) <= 80
    assert json.loads(json.dumps(found.to_dict()))["layers"][2]["condition"] is None
    figure = found.plot(tmp_path / "layers.svg")
    assert (tmp_path / "layers.svg").stat().st_size > 1000
    assert [axes.get_ylabel() for axes in figure.axes] == ["features", "condition number", "norm"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((X[:, :2],), ValueError, "X must have 3 features"),
        ((X, Y[:5]), ValueError, "y must have the length of X, 3000, got shape"),
        ((X, Y, 0.1), TypeError, "optimizer must be SGD, AdamW or Lion, got float"),
    ],
)
def test_inspect_refuses(arguments, error, message):
    x, y, optimizer = (*arguments, None, None)[:3]
    with pytest.raises(error, match=message):
        nbnorm.inspect(FNN([3, 4, 2], seed=0), x, y, optimizer=optimizer)


def test_inspect_says_what_it_looks_into():
    estimator = FNNClassifier(max_iter=1).fit(X[:50], Y[:50])
    with pytest.raises(TypeError, match="net must be an FNN, such as an estimator's network_, got FNNC"):
        nbnorm.inspect(estimator, X)
    assert nbnorm.inspect(estimator.network_, X[:50]).layers[0].name == "input"


def test_batches_of_one_are_for_networks_without_batch_norm():
    found = nbnorm.inspect(FNN([3, 4, 2], norm="layer", seed=0), X[:5], Y[:5], batch_size=1)
    assert found.layers[1].gradient_norm > 0
    with pytest.raises(ValueError, match="at least 2 samples in a training batch, got 1: give more"):
        nbnorm.inspect(FNN([3, 4, 2], seed=0), X[:5], Y[:5], batch_size=1)
