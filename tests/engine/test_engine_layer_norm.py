"""Layer norm and RMS norm in the engine: statistics of single samples, whatever their size and the batch."""

import numpy as np
import pytest
from numba import njit

from nbnorm import FNN, SGD, Activation

KINDS = ("layer", "layer_after", "rms", "rms_after")

# of the first layer, whose affine map is the identity: what is normalized is the input
WIDTH = 37


def normalizing(norm, dtype, **options):
    """A network that hands on its normalized input."""
    net = FNN([WIDTH, WIDTH, WIDTH], norm=norm, activation="identity", output="identity", dtype=dtype,
              standardize=False, seed=0, **options)  # fmt: skip
    for name in ("dense1.weight", "dense2.weight"):
        net.parameters()[name][:] = np.eye(WIDTH)
    return net


def normalized(x, norm, eps):
    x = x.astype(np.longdouble)
    mean = x.mean(axis=1, keepdims=True) if norm.startswith("layer") else 0.0
    return (x - mean) / np.sqrt(((x - mean) ** 2).mean(axis=1, keepdims=True) + eps)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("norm", KINDS)
def test_samples_far_from_zero_and_of_any_magnitude(norm, dtype):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(21, WIDTH))
    x = (rows * 10.0 ** rng.integers(-29, 30, (21, 1))).astype(dtype)
    x[3] = (1e6 + rows[3]).astype(dtype)
    x[4], x[5] = 0.0, 7.0  # all features alike
    net = normalizing(norm, dtype, eps=1e-30)
    for mode in (net.train(), net.eval()):
        got = mode.forward(x)
        expected = normalized(x, norm, 1e-30)
        tolerance = 30 * np.finfo(dtype).eps
        assert np.abs(got - expected).max() <= tolerance * np.abs(expected).max()
        assert np.abs(got[5] - expected[5]).max() <= tolerance


@pytest.mark.parametrize("norm", KINDS)
def test_a_sample_does_not_depend_on_its_batch(norm):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 6)).astype(np.float32)
    X[7] *= 1e17  # its squares are computed in float64, those of its neighbours are not
    net = FNN([6, 33, 9, 3], norm=norm, seed=1, standardize=False)
    together = net.train().forward(X)
    np.testing.assert_array_equal(together, net.eval().forward(X))
    for row in (0, 7, 8, 49):
        np.testing.assert_array_equal(net.train().forward(X[row : row + 1])[0], together[row])
    assert net.buffers() == {}


@pytest.mark.parametrize("norm", KINDS)
def test_batches_of_one_sample(norm):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 4)), rng.integers(0, 2, 40)
    net = FNN([4, 16, 2], norm=norm, seed=0)
    history = net.fit(X, y, epochs=20, batch_size=1, optimizer=SGD(lr=0.05))
    assert history.loss[-1] < 0.7 * history.loss[0]


@pytest.mark.parametrize("norm", KINDS)
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_gradients_with_an_activation_of_ones_own(norm, dropout):
    @njit
    def square(z):
        return z * z + 0.5 * z

    @njit
    def slope(z):
        return 2.0 * z + 0.5

    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(19, 4)), rng.integers(0, 3, 19)
    own = Activation(square, slope, name="square")
    net = FNN([4, 5, 6, 3], norm=norm, activation=[own, "silu"], dropout=dropout, seed=1)
    assert max(net.check_gradients(X, y, sample_weight=rng.uniform(0, 2, 19)).values()) < 1e-6


@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_what_the_normalization_takes_out(norm):
    # a scale of all weights and biases changes nothing, and layer norm takes out a common shift as well
    X = np.random.default_rng(0).normal(size=(30, 5))
    net = FNN([5, 8, 3], norm=norm, dtype=np.float64, eps=1e-12, seed=0, standardize=False)
    weight, bias = (net.parameters()[f"dense1.{name}"] for name in ("weight", "bias"))
    bias += 0.1
    expected = net.forward(X)
    weight *= 7.0
    bias *= 7.0
    np.testing.assert_allclose(net.forward(X), expected, rtol=1e-9)
    bias += 3.0
    assert np.allclose(net.forward(X), expected, rtol=1e-9) == (norm == "layer")
