"""Evaluation of a few rows, for which an engine is kept: it follows everything that a user may change."""

import copy
import pickle

import numpy as np
import pytest

from nbnorm import FNN, Standardizer


@pytest.fixture
def trained(blobs):
    net = FNN([5, 7, 6, 3], seed=0)
    net.fit(*blobs, epochs=1, batch_size=30)
    return net


def afresh(net, X):
    """Logits of a network that has evaluated nothing before."""
    return pickle.loads(pickle.dumps(net)).forward(X)


def test_a_row_has_the_bits_that_it_has_among_others(trained, blobs):
    X = np.tile(blobs[0], (2, 1))
    expected = trained.forward(X)
    for rows in (slice(0, 1), slice(3, 4), slice(5, 12), slice(0, 1)):
        for given in (X[rows], X[rows].astype(np.float32), np.asfortranarray(X[rows])):
            np.testing.assert_allclose(trained.forward(given), expected[rows], rtol=0, atol=1e-5)
        np.testing.assert_array_equal(trained.forward(X[rows]), expected[rows])


@pytest.mark.parametrize("name", ["dense1.weight", "dense2.bias", "norm1.gamma", "norm2.running_var"])
def test_live_arrays_stay_live(trained, blobs, name):
    X = blobs[0][:2]
    before = trained.forward(X)
    {**trained.parameters(), **trained.buffers()}[name][...] *= 1.5
    {**trained.parameters(), **trained.buffers()}[name][...] += 0.25
    got = trained.forward(X)
    assert not np.array_equal(got, before)
    np.testing.assert_array_equal(got, afresh(trained, X))


def test_options_standardizers_and_copies_count(trained, blobs):
    X = blobs[0][:2]
    before = trained.forward(X)
    twin = copy.copy(trained)
    twin.parameters()["dense3.bias"][:] += 1
    np.testing.assert_allclose(twin.forward(X), before + 1, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(trained.forward(X), before)
    for change in (
        lambda: setattr(trained, "eps", 0.5),
        lambda: trained.standardizer.partial_fit(5 + 3 * blobs[0]),
        lambda: setattr(trained, "standardizer", Standardizer().fit(blobs[0] ** 2)),
        lambda: setattr(trained, "standardizer", None),
        lambda: trained.fit(*blobs, epochs=1, batch_size=30),
    ):
        before = trained.forward(X)
        change()
        got = trained.forward(X)
        assert not np.array_equal(got, before)
        np.testing.assert_array_equal(got, afresh(trained, X))


def test_what_is_returned_is_not_written_again(trained, blobs):
    first = trained.forward(blobs[0][:1])
    kept = first.copy()
    trained.forward(blobs[0][1:2])
    np.testing.assert_array_equal(first, kept)
