"""Sparse matrices against the same data in dense arrays."""

import numpy as np
import pytest
import scipy.sparse

from nbnorm import Standardizer, moments


def normal(shape, dtype=np.float64, seed=0, mean=0.0):
    return (np.random.default_rng(seed).standard_normal(shape) + mean).astype(dtype)


def sparse_data(dtype=np.float64):
    x = normal((90, 6), dtype, mean=4)
    x[np.random.default_rng(1).random(x.shape) < 0.7] = 0
    x[:, 5] = 0
    x[:, 4] = normal(90, dtype, mean=1e6)  # no zeros at all
    return x


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["csr_matrix", "csc_array", "coo_array"])
def test_sparse_moments_are_the_dense_ones(kind, dtype):
    x = sparse_data(dtype)
    weights = np.random.default_rng(2).integers(0, 3, len(x))
    sparse = getattr(scipy.sparse, kind)(x)
    for got, expected in (
        (moments(sparse), moments(x)),
        (moments(sparse, weights=weights), moments(x, weights=weights)),
    ):
        np.testing.assert_allclose(got.mean, expected.mean, rtol=1e-13)
        np.testing.assert_allclose(got.var(), expected.var(), rtol=1e-12)
        np.testing.assert_array_equal(got.min, expected.min)
        np.testing.assert_array_equal(got.max, expected.max)
        assert got.count == expected.count


def test_sparse_missing_and_duplicates():
    x = scipy.sparse.csr_array([[np.nan, 1.0], [2.0, 0.0], [0.0, 0.0]])
    got = moments(x, nan="omit")
    np.testing.assert_array_equal(got.count, [2, 3])
    np.testing.assert_allclose(got.mean, [1, 1 / 3])
    assert np.isnan(moments(x).mean[0])
    with pytest.raises(ValueError, match="NaN"):
        moments(x, nan="raise")
    twice = scipy.sparse.csr_array(([1.0, 2.0], [0, 0], [0, 2, 2]), shape=(2, 1))
    assert moments(twice).mean[0] == 1.5
    assert twice.nnz == 2


@pytest.mark.parametrize("kind", ["csr_matrix", "csc_array"])
def test_sparse_transform(kind):
    x = sparse_data(np.float32)
    sparse = getattr(scipy.sparse, kind)(x)
    standardizer = Standardizer(with_mean=False).fit(sparse)
    got = standardizer.transform(sparse)
    assert got.format == sparse.format
    assert got.dtype == np.float32
    np.testing.assert_allclose(got.toarray(), standardizer.transform(x), rtol=1e-6)
    np.testing.assert_allclose(standardizer.inverse_transform(got).toarray(), x, rtol=1e-6)
    with pytest.raises(ValueError, match="fold"):
        Standardizer().fit(sparse).transform(sparse)


def test_downdate_of_sparse_moments():
    x = scipy.sparse.csr_array(sparse_data())
    got = (moments(x) - moments(x[:50])).var()
    np.testing.assert_allclose(got, moments(x[50:]).var(), rtol=1e-10)


def test_long_sparse_columns_lose_no_digits():
    x = np.full((300_000, 1), 0.1)
    x[::2] = 0.3
    got = moments(scipy.sparse.csr_array(x))
    assert abs(got.mean[0] - moments(x).mean[0]) < 1e-16
    assert got.var()[0] == pytest.approx(moments(x).var()[0], rel=1e-15)


def test_sparse_data_are_centred_by_folding():
    x, weight = sparse_data()[:, :4], normal((3, 4), seed=5)
    sparse = scipy.sparse.csr_array(x)
    folded, bias = Standardizer().fit(sparse).fold(weight)
    expected = (x - x.mean(axis=0)) / x.std(axis=0) @ weight.T
    np.testing.assert_allclose(sparse @ folded.T + bias, expected, rtol=1e-11, atol=1e-13)
