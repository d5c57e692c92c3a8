"""Statistics of whole data sets, and moving averages that are replaced by them."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse

import nbnorm
from nbnorm import FNN, SGD

RNG = np.random.default_rng(5)
X = RNG.normal(size=(5000, 4)) * [1.0, 3.0, 0.5, 2.0] + [0.0, 5.0, -2.0, 1.0]
Y = (X[:, 0] + X[:, 1] > 5).astype(int)


def trained(**options):
    net = FNN([4, 6, 5, 2], seed=1, dtype=np.float64, **options)
    net.fit(X[:400], Y[:400], epochs=2, batch_size=50, optimizer=SGD(lr=0.05), progress=False)
    return net


def reference(net, x):
    """Return mean and variance of the inputs of the batch norms, each normalized exactly before the next."""
    p, found = net.parameters(), []
    f = {"relu": lambda z: np.maximum(z, 0), "tanh": np.tanh}[net.activation]
    y = (x - net.standardizer.mean_) / net.standardizer.scale_
    for l in (1, 2):
        z = y @ p[f"dense{l}.weight"].T + p.get(f"dense{l}.bias", 0)
        read = z if net.norm == "before" else f(z)
        mean, var = read.mean(axis=0), read.var(axis=0)
        found.append((mean, var))
        out = p[f"norm{l}.gamma"] * (read - mean) / np.sqrt(var + net.eps) + p[f"norm{l}.beta"]
        y = f(out) if net.norm == "before" else out
    return found


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("norm", ["after", "before"])
def test_dataset_statistics(norm, activation):
    net = trained(norm=norm, activation=activation)
    before = {name: values.copy() for name, values in net.buffers().items()}
    got = net.dataset_statistics(X)
    assert list(got) == ["norm1", "norm2"]
    for moments, (mean, var) in zip(got.values(), reference(net, X), strict=True):
        assert moments.count == len(X)
        np.testing.assert_allclose(moments.mean, mean, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(moments.var(), var, rtol=1e-10, atol=1e-12)
    for name, values in net.buffers().items():
        np.testing.assert_array_equal(values, before[name])


@pytest.mark.parametrize("running", ["var", "std"])
@pytest.mark.parametrize("norm", ["after", "before"])
def test_recalibrate(norm, running):
    net = trained(norm=norm, running=running).train()
    assert net.recalibrate(X) is net
    assert net.training
    for l, (mean, var) in enumerate(reference(net, X), 1):
        np.testing.assert_allclose(net.buffers()[f"norm{l}.running_mean"], mean, rtol=1e-10, atol=1e-12)
        expected = var if running == "var" else np.sqrt(var)
        np.testing.assert_allclose(net.buffers()[f"norm{l}.running_{running}"], expected, rtol=1e-10)
    # the whole data set as one mini-batch has the same statistics, so both modes agree
    alone = net.eval().forward(X)
    np.testing.assert_allclose(alone, net.train().forward(X), rtol=1e-8, atol=1e-8)


def test_order_does_not_matter_but_averages_of_batches_do():
    # sorted by one feature, the batches have different means, and their variances miss what lies between
    net = trained()
    ordered = X[np.argsort(X[:, 0])]
    exact = net.dataset_statistics(X)["norm1"].var()
    np.testing.assert_allclose(net.dataset_statistics(ordered)["norm1"].var(), exact, rtol=1e-10)
    parts = [net.dataset_statistics(part)["norm1"].var() for part in np.split(ordered, 50)]
    assert np.min(np.mean(parts, axis=0) / exact) < 0.8


CONTAINERS = {
    "list": lambda x: x.tolist(),
    "Fortran order": np.asfortranarray,
    "strided": lambda x: np.repeat(x, 2, axis=0)[::2],
    "frame": lambda x: pd.DataFrame(x, columns=list("abcd")),
    "sparse": scipy.sparse.csc_matrix,
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_dataset_statistics_of_containers(container):
    net, x = trained(), X[:300]
    got = net.dataset_statistics(CONTAINERS[container](x))["norm2"]
    np.testing.assert_allclose(got.mean, reference(net, x)[1][0], rtol=1e-10)


def test_frames_are_read_by_name():
    net = FNN([4, 6, 2], seed=1)
    frame = pd.DataFrame(X, columns=list("abcd"))
    net.fit(frame, Y, epochs=1, progress=False)
    expected = net.dataset_statistics(frame)["norm1"].mean
    np.testing.assert_array_equal(net.dataset_statistics(frame[list("dbca")])["norm1"].mean, expected)


def test_integers_and_memory_maps(tmp_path):
    images, labels = nbnorm.load_digits()
    net = FNN([64, 8, 10], seed=0)
    net.fit(images, labels, epochs=1, progress=False)
    np.save(tmp_path / "x.npy", images)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    expected = net.dataset_statistics(images.astype(np.float64))["norm1"]
    for same in (images, mapped):
        got = net.dataset_statistics(same)["norm1"]
        np.testing.assert_allclose(got.mean, expected.mean, rtol=1e-4, atol=1e-5)


def test_encoded_columns():
    net = FNN([4, 6, 2], encoding="piecewise", bins=4, seed=0)
    with pytest.raises(RuntimeError, match="needs a call of fit first"):
        net.dataset_statistics(X)
    missing = X.copy()
    missing[::7, 1] = np.nan
    net.fit(missing, Y, epochs=1, progress=False)
    net.recalibrate(missing)
    alone = net.eval().forward(missing)
    np.testing.assert_allclose(alone, net.train().forward(missing), atol=1e-4)


@pytest.mark.parametrize(
    ("options", "x", "message"),
    [
        ({"norm": None}, X, "must have batch normalization"),
        ({"norm": "rms"}, X, "must have batch normalization, got norm='rms'"),
        ({}, X[:, :3], r"X must have 4 features \(sizes\[0\]\), got shape \(5000, 3\)"),
        ({}, X[:0], "X must not be empty"),
        ({}, X[:1], "X must have at least 2 samples"),
        ({}, np.where(X > 9, np.inf, X), "X must be finite"),
    ],
)
def test_recalibrate_refuses_and_changes_nothing(options, x, message):
    net = FNN([4, 3, 2], seed=0, **options)
    before = {name: values.copy() for name, values in net.buffers().items()}
    with pytest.raises(ValueError, match=message):
        net.recalibrate(x)
    for name, values in net.buffers().items():
        np.testing.assert_array_equal(values, before[name])


def test_features_beyond_the_dtype_are_refused():
    net = FNN([4, 3, 3, 2], seed=0)
    net.parameters()["dense2.weight"][...] = 1e38
    with pytest.raises(ValueError, match="finite features, got others in layer 2"):
        net.recalibrate(X * 1e3)
