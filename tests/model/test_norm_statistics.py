"""Statistics of batch norm in training: the mean of all batches, and frozen ones."""

import io

import naive_network
import numpy as np
import pytest
from thread_ranks import together

from nbnorm import FNN, SGD, AdamW, DataParallel
from nbnorm.interop import load_safetensors, save_safetensors

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(37, 5)), RNG.integers(0, 3, 37)
STILL = {"optimizer": SGD(lr=1e-30), "shuffle": False, "batch_size": 8}


def network(**options):
    return FNN([5, 9, 6, 3], activation="tanh", dtype=np.float64, standardize=False, seed=3, **options)


def arrays(net):
    return {name: values.copy() for name, values in net.arrays.named().items()}


@pytest.mark.parametrize("running", ["var", "std"])
def test_cumulative_averages_are_means_over_all_batches(running):
    net = network(decay=None, running=running)
    assert net.buffers()["norm1.n_batches"] == 0
    net.fit(X, Y, epochs=2, **STILL)
    x = X @ net.parameters()["dense1.weight"].T
    batches = [np.tanh(x[rows]) for rows in naive_network.batches(37, 8)]
    spread = [y.var(axis=0, ddof=1) if running == "var" else y.std(axis=0, ddof=1) for y in batches]
    mean = np.mean([y.mean(axis=0) for y in batches], axis=0)
    np.testing.assert_allclose(net.buffers()["norm1.running_mean"], mean, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(net.buffers()[f"norm1.running_{running}"], np.mean(spread, axis=0), rtol=1e-12)
    assert [net.buffers()[f"norm{l}.n_batches"] for l in (1, 2)] == [10, 10]


def test_cumulative_averages_go_on(tmp_path):
    whole = network(decay=None)
    whole.fit(X, Y, epochs=3, **STILL)
    parts = network(decay=None)
    parts.fit(X, Y, epochs=1, **STILL)
    parts.save(tmp_path / "net.npz")
    parts = FNN.load(tmp_path / "net.npz")
    parts.fit(X, Y, epochs=1, **STILL)
    save_safetensors(parts, file := io.BytesIO())
    file.seek(0)
    parts = load_safetensors(file)
    for rows in naive_network.batches(37, 8):
        parts.step(X[rows], Y[rows], SGD(lr=1e-30))
    before = arrays(parts)
    parts.train().loss_and_gradients(X, Y)
    for name, values in arrays(parts).items():
        assert values.tobytes() == before[name].tobytes()
        np.testing.assert_allclose(values, whole.arrays.named()[name], rtol=1e-12, atol=1e-14)
    parts.forward(X)
    assert parts.buffers()["norm2.n_batches"] == 16


def test_cumulative_averages_with_ranks():
    def action(comm):
        net = network(decay=None)
        first, last = (0, 20) if comm.Get_rank() == 0 else (20, 37)
        net.fit(X[first:last], Y[first:last], epochs=2, comm=DataParallel(comm, shards=2), **STILL)
        return net

    one, other = together(2, action)
    assert arrays(one)["norm2.running_mean"].tobytes() == arrays(other)["norm2.running_mean"].tobytes()
    assert one.buffers()["norm1.n_batches"] == 10


@pytest.mark.parametrize("running", ["var", "std"])
@pytest.mark.parametrize("norm", ["after", "before"])
def test_frozen_statistics_are_used_in_training_and_stay(norm, running):
    net = network(norm=norm, running=running)
    net.fit(X, Y, epochs=2, batch_size=8)
    net.frozen_statistics = True
    expected_loss, expected = naive_network.Network(net).loss_and_gradients(X, Y, False)
    loss, gradients = net.train().loss_and_gradients(X, Y, update_statistics=True)
    assert loss == pytest.approx(expected_loss, rel=1e-12)
    for name, values in gradients.items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-9, atol=1e-12, err_msg=name)
    assert max(net.check_gradients(X[:7], Y[:7]).values()) < 1e-6
    np.testing.assert_array_equal(net.forward(X), net.eval().forward(X))
    reference, kept = naive_network.Network(net), net.buffers()
    kept = {name: values.copy() for name, values in kept.items()}
    net.fit(X, Y, epochs=1, batch_size=10, shuffle=False, optimizer=SGD(lr=0.1))
    for rows in naive_network.batches(37, 10):
        _, slopes = reference.loss_and_gradients(X[rows], Y[rows], False)
        reference.p = {name: values - 0.1 * slopes[name] for name, values in reference.p.items()}
    net.step(X[:1], Y[:1], SGD(lr=0.1))
    _, slopes = reference.loss_and_gradients(X[:1], Y[:1], False)
    for name, values in reference.p.items():
        np.testing.assert_allclose(net.parameters()[name], values - 0.1 * slopes[name], rtol=1e-9, atol=1e-12)
    for name, values in net.buffers().items():
        assert values.tobytes() == kept[name].tobytes()


def test_frozen_statistics_of_single_samples_with_dropout_and_ranks():
    net = network(dropout=0.5)
    net.fit(X, Y, epochs=1, batch_size=8)
    net.frozen_statistics = True
    out = net.train().forward(X)
    assert not np.allclose(out, net.eval().forward(X))  # dropout is that of training
    net.fit(X, Y, epochs=1, batch_size=1, optimizer=AdamW(lr=1e-3), clip_norm=1.0)

    file = io.BytesIO()
    net.save(file)

    def action(comm, shards, sync):
        file_ = io.BytesIO(file.getvalue())
        mine = FNN.load(file_)
        mine.dropout = (0.0, 0.0)
        how = DataParallel(comm, shards=shards, sync=sync)
        mine.fit(X, Y, epochs=1, batch_size=37, optimizer=SGD(lr=0.1), comm=how)
        return mine

    alone = FNN.load(io.BytesIO(file.getvalue()))
    assert alone.frozen_statistics
    alone.dropout = (0.0, 0.0)
    alone.fit(X, Y, epochs=1, batch_size=37, optimizer=SGD(lr=0.1))
    for shards, sync in ((1, True), (4, True), (4, False)):
        (got,) = together(1, lambda comm, shards=shards, sync=sync: action(comm, shards, sync))
        for name, values in arrays(alone).items():
            np.testing.assert_allclose(got.arrays.named()[name], values, rtol=1e-9, atol=1e-12, err_msg=name)
