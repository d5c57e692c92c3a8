"""What a network can be told beyond its sizes: activations, losses, dropout, weights, optimizers."""

import naive_network
import numpy as np
import pytest
import scipy.sparse
from case_names import case_name
from numba import config, njit

from nbnorm import (
    FNN,
    SGD,
    Activation,
    AdamW,
    CrossEntropy,
    CustomLoss,
    Huber,
    get_num_threads,
    set_num_threads,
)
from nbnorm.functions.activations import CODES

NORMS = ("after", "before", "layer", "rms_after", None)


@njit
def cubic(z):
    return z * z * z / 3 + z


@njit
def cubic_slope(z):
    return z * z + 1


@njit
def quartic(z, target, gradient):
    loss = 0.0
    for o in range(z.size):
        loss += (z[o] - target[o]) ** 4
        gradient[o] = 4 * (z[o] - target[o]) ** 3
    return loss


OWN = Activation(cubic, cubic_slope)
ACTIVATIONS = [*CODES, OWN, ["relu", "gelu"]]
LOSSES = ["squared", "absolute", Huber(delta=0.4), "poisson", CustomLoss(quartic)]


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    w = rng.uniform(0.2, 3, 13)
    w[3] = 0
    return rng.normal(size=(13, 5)), rng.integers(0, 3, 13), rng.uniform(0, 2, (13, 2)), w


def largest(errors):
    return max(errors.values())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=case_name)
def test_gradients_of_activations(data, activation, norm):
    if config.DISABLE_JIT and (norm != "after" or activation not in ("relu", "gelu", OWN)):
        pytest.skip("slow interpreted")
    X, y, _, w = data
    net = FNN([5, 5, 4, 3], norm=norm, activation=activation, seed=2)  # no value lies near a corner
    assert largest(net.check_gradients(X, y, sample_weight=w)) < 1e-6
    assert largest(net.eval().check_gradients(X, y)) < 1e-6


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("loss", LOSSES, ids=case_name)
def test_gradients_of_losses(data, loss, norm):
    X, _, T, w = data
    net = FNN([5, 6, 2], norm=norm, activation="tanh", loss=loss, output="identity", seed=1)
    assert largest(net.check_gradients(X, T)) < 1e-6
    assert largest(net.check_gradients(X, T, sample_weight=w)) < 1e-6


@pytest.mark.parametrize("norm", NORMS)
def test_gradients_with_dropout_and_label_smoothing(data, norm):
    X, y, _, w = data
    options = dict(norm=norm, activation=["tanh", "gelu"], loss=CrossEntropy(label_smoothing=0.2), seed=1)
    net = FNN([5, 9, 4, 3], dropout=[0.3, 0.5], **options)
    assert largest(net.check_gradients(X, y, sample_weight=w)) < 1e-6
    # in evaluation mode nothing is left out
    plain = FNN([5, 9, 4, 3], **options)
    np.testing.assert_array_equal(net.eval().forward(X), plain.eval().forward(X))
    assert not np.allclose(net.train().forward(X), plain.train().forward(X))


def test_dropout_changes_from_step_to_step():
    X, y = np.ones((64, 4)), np.zeros((64, 1))
    nets = [FNN([4, 64, 1], output="identity", norm=None, dropout=0.5, standardize=False, seed=1)
            for _ in range(3)]  # fmt: skip
    losses = [nets[0].fit(X, y, epochs=3, batch_size=32, optimizer=SGD(lr=1e-30)).loss for _ in range(2)]
    # the weights stay the same, so only the mask can change the loss
    assert len({*losses[0], *losses[1]}) == 6
    assert nets[1].fit(X, y, epochs=3, batch_size=32, optimizer=SGD(lr=1e-30)).loss == losses[0]


@pytest.mark.parametrize("norm", ["after", "before"])
@pytest.mark.parametrize("optimizer", [SGD(lr=0.1, momentum=0.9), AdamW()], ids=["sgd", "adamw"])
def test_an_integer_weight_is_a_repeated_row(data, norm, optimizer):
    X, y, _, _ = data
    times = np.random.default_rng(1).integers(0, 4, len(X))
    rows = np.repeat(np.arange(len(X)), times)
    nets = [
        FNN([5, 9, 4, 3], norm=norm, dtype=np.float64, weighted_statistics=True, seed=1) for _ in range(2)
    ]
    options = dict(epochs=3, shuffle=False, optimizer=optimizer)
    histories = [
        nets[0].fit(X, y, batch_size=len(X), sample_weight=times, **options),
        nets[1].fit(X[rows], y[rows], batch_size=len(rows), **options),
    ]
    np.testing.assert_allclose(histories[0].loss, histories[1].loss, rtol=1e-12)
    np.testing.assert_allclose(histories[0].accuracy, histories[1].accuracy, rtol=1e-12)
    for name, expected in (nets[1].parameters() | nets[1].buffers()).items():
        got = (nets[0].parameters() | nets[0].buffers())[name]
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12, err_msg=name)


def test_weights_of_one_change_nothing(data):
    X, y, _, _ = data
    nets = [FNN([5, 9, 4, 3], seed=1) for _ in range(2)]
    for net, weights in zip(nets, (None, np.ones(len(X))), strict=True):
        net.fit(X, y, epochs=3, batch_size=5, sample_weight=weights)
    for name, expected in nets[0].parameters().items():
        np.testing.assert_allclose(nets[1].parameters()[name], expected, rtol=0, atol=2e-6, err_msg=name)


def steps(net, X, y, count, optimizer, **bounds):
    """Train by NumPy with the gradients that `loss_and_gradients` gives; return the parameters."""
    copy = FNN(net.sizes, dtype=np.float64, standardize=False, seed=0)
    p, v, s = copy.parameters(), {}, {}
    for name, values in net.parameters().items():
        p[name][:] = values
        v[name], s[name] = np.zeros_like(values), np.zeros_like(values)
    for t in range(1, count + 1):
        _, g = copy.loss_and_gradients(X, y)
        if "clip_value" in bounds:
            g = {name: np.clip(x, -bounds["clip_value"], bounds["clip_value"]) for name, x in g.items()}
        norm = np.sqrt(sum((x**2).sum() for x in g.values()))
        factor = min(1.0, bounds.get("clip_norm", np.inf) / norm)
        for name, w in p.items():
            matrix = name.endswith("weight")
            gradient = factor * g[name] + (bounds.get("l2", 0.0) * w if matrix else 0.0)
            shrink = optimizer.lr * optimizer.weight_decay * w if matrix else 0.0
            if isinstance(optimizer, AdamW):
                v[name] = optimizer.beta1 * v[name] + (1 - optimizer.beta1) * gradient
                s[name] = optimizer.beta2 * s[name] + (1 - optimizer.beta2) * gradient**2
                root = np.sqrt(s[name] / (1 - optimizer.beta2**t)) + optimizer.eps
                step = v[name] / (1 - optimizer.beta1**t) / root
            else:
                v[name] = optimizer.momentum * v[name] + gradient
                step = gradient + optimizer.momentum * v[name] if optimizer.nesterov else v[name]
            w -= shrink + optimizer.lr * step
    return p


@pytest.mark.parametrize(
    "bounds",
    [{}, {"l2": 0.3}, {"clip_norm": 0.2}, {"clip_value": 0.01},
     {"clip_norm": 0.1, "clip_value": 0.02, "l2": 0.1}],
    ids=["plain", "l2", "norm", "value", "all"],
)  # fmt: skip
@pytest.mark.parametrize(
    "optimizer",
    [SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1), AdamW(lr=0.01, weight_decay=0.1)],
    ids=["sgd", "adamw"],
)
def test_updates_are_those_of_numpy(data, optimizer, bounds):
    X, y, _, _ = data
    net = FNN([5, 9, 4, 3], standardize=False, dtype=np.float64, seed=1)
    expected = steps(net, X, y, 6, optimizer, **bounds)
    net.fit(X, y, epochs=6, batch_size=len(X), shuffle=False, optimizer=optimizer, **bounds)
    for name, values in net.parameters().items():
        np.testing.assert_allclose(values, expected[name], rtol=0, atol=1e-10, err_msg=name)


@pytest.mark.skipif(config.DISABLE_JIT, reason="interpreted code has one thread")
@pytest.mark.parametrize("norm", NORMS)
def test_same_bits_for_any_number_of_threads(norm, monkeypatch):
    monkeypatch.setattr("nbnorm.model.engines.POOL_WORK", 0.0)
    rng = np.random.default_rng(0)
    X, y, w = rng.normal(size=(60, 20)), rng.integers(0, 3, 60), rng.uniform(0, 2, 60)
    got = []
    for threads in (1, min(2, get_num_threads())):
        set_num_threads(threads)
        try:
            net = FNN([20, 70, 40, 3], norm=norm, activation=["silu", "relu"], dropout=0.2, seed=1)
            net.fit(X, y, epochs=3, batch_size=25, sample_weight=w, optimizer=AdamW(), clip_norm=0.5)
        finally:
            set_num_threads(None)
        got.append(net.parameters())
    for name, expected in got[0].items():
        np.testing.assert_array_equal(got[1][name], expected, err_msg=name)


def test_features_of_one_network_leave_another_alone(data):
    X, y, _, w = data
    expected = FNN([5, 9, 4, 3], standardize=False, seed=1)
    reference = naive_network.Network(expected)
    net = FNN([5, 9, 4, 3], activation="gelu", dropout=0.5, seed=1)
    net.fit(X, y, epochs=2, batch_size=6, sample_weight=w, optimizer=AdamW(), clip_norm=1.0)
    expected.fit(X, y, epochs=1, batch_size=13, shuffle=False, optimizer=SGD(lr=0.1))
    reference.step(X, y, 0.1, 0.0, False, 0.0)
    for name, values in expected.parameters().items():
        np.testing.assert_allclose(values, reference.p[name], rtol=0, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sparse_training_is_dense_training(norm, dtype):
    X = scipy.sparse.random(50, 40, 0.2, random_state=0, format="csr", dtype=np.float64)
    y = np.random.default_rng(0).integers(0, 3, 50)
    nets = [FNN([40, 9, 3], norm=norm, dtype=dtype, seed=1) for _ in range(2)]
    histories = [
        net.fit(x, y, epochs=2, batch_size=20) for net, x in zip(nets, (X, X.toarray()), strict=True)
    ]
    np.testing.assert_allclose(histories[0].loss, histories[1].loss, rtol=1e-5)
    tolerance = 100 * np.finfo(dtype).eps
    for name, expected in nets[1].parameters().items():
        np.testing.assert_allclose(nets[0].parameters()[name], expected, rtol=0, atol=tolerance, err_msg=name)
    loss, _ = nets[0].train().loss_and_gradients(X.tocoo(), y)
    np.testing.assert_allclose(loss, nets[1].train().loss_and_gradients(X.toarray(), y)[0], rtol=1e-5)


def test_files_name_functions_of_ones_own(data, tmp_path):
    X = data[0]
    path = tmp_path / "net.npz"
    options = dict(output="identity", loss=CustomLoss(quartic), activation=[OWN, "gelu"], dropout=[0.1, 0.0])
    net = FNN([5, 4, 3, 2], seed=1, **options)
    net.save(path)
    with pytest.raises(ValueError, match="loss"):
        FNN.load(path)
    with pytest.raises(ValueError, match="activation"):
        FNN.load(path, loss=CustomLoss(quartic))
    got = FNN.load(path, loss=CustomLoss(quartic), activation=[OWN, "gelu"])
    np.testing.assert_array_equal(got.eval().forward(X), net.eval().forward(X))
    assert got.dropout == net.dropout
    FNN([5, 4, 2], output="identity", loss=Huber(delta=0.3), seed=1).save(path)
    assert FNN.load(path).loss == Huber(delta=0.3)


@pytest.mark.parametrize(
    ("options", "name"),
    [({"clip_norm": 0.0}, "clip_norm"), ({"clip_value": -1.0}, "clip_value"), ({"l2": -0.1}, "l2"),
     ({"optimizer": "adam"}, "optimizer")],
    ids=case_name,
)  # fmt: skip
def test_fit_refuses(data, options, name):
    X, y, _, _ = data
    with pytest.raises((TypeError, ValueError), match=name):
        FNN([5, 4, 3], seed=1).fit(X, y, **options)
