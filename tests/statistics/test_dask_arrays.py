"""Dask collections against the same data as one array."""

import numpy as np
import pytest

from nbnorm import Standardizer, moments
from nbnorm.statistics import dask_arrays

dask = pytest.importorskip("dask")
array = pytest.importorskip("dask.array")
distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def cluster():
    """Two worker processes."""
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0", memory_limit=0
        ) as local,
        distributed.Client(local) as client,
    ):
        yield client


def data(dtype=np.float64):
    return (np.random.default_rng(0).standard_normal((5000, 6)) + 1e6).astype(dtype)


def test_array_on_a_cluster(cluster):
    x = data()
    lazy = array.from_array(x, chunks=(700, 4))
    got, expected = Standardizer().fit(lazy), Standardizer().fit(x)
    assert got.n_samples_seen_ == 5000
    np.testing.assert_allclose(got.mean_, expected.mean_, rtol=1e-15)
    np.testing.assert_allclose(got.var_, expected.var_, rtol=1e-13)
    there = got.transform(lazy)
    assert isinstance(there, array.Array)
    np.testing.assert_allclose(there.compute(), expected.transform(x), atol=1e-12)
    np.testing.assert_allclose(got.inverse_transform(there).compute(), x, rtol=1e-14)
    assert len(cluster.scheduler_info()["workers"]) == 2


def test_dataframe_on_a_cluster(cluster):
    pandas = pytest.importorskip("pandas")
    frames = pytest.importorskip("dask.dataframe")
    x = data()
    lazy = frames.from_pandas(pandas.DataFrame(x, columns=list("abcdef")), npartitions=7)
    got = Standardizer().fit(lazy)
    np.testing.assert_allclose(got.var_, moments(x).var(), rtol=1e-13)
    assert got.moments_.feature_names == list("abcdef")
    there = got.transform(lazy).compute()
    assert list(there.columns) == list("abcdef")
    np.testing.assert_allclose(there.to_numpy(), Standardizer().fit_transform(x), atol=1e-12)


def test_weights_and_missing_values():
    x = data(np.float32)
    x[::50, 1] = np.nan
    weights = np.random.default_rng(1).integers(0, 3, 5000)
    lazy = array.from_array(x, chunks=(900, -1))
    with dask.config.set(scheduler="synchronous"):
        got = dask_arrays.moments(lazy, weights=weights, nan="omit")
        again = dask_arrays.moments(lazy, weights=array.from_array(weights, chunks=33), nan="omit")
    expected = moments(x, weights=weights, nan="omit")
    np.testing.assert_array_equal(got.count, expected.count)
    np.testing.assert_allclose(got.var(), expected.var(), rtol=1e-13)
    assert again.to_dict() == got.to_dict()


def test_unknown_and_empty_chunks():
    x = data()
    lazy = array.from_array(x, chunks=(500, -1))
    with dask.config.set(scheduler="synchronous"):
        got = dask_arrays.moments(lazy[lazy[:, 0] > 1e6 + 2.5])
        with pytest.raises(ValueError, match="without rows"):
            dask_arrays.moments(lazy[lazy[:, 0] > 1e9])
    np.testing.assert_allclose(got.var(), moments(x[x[:, 0] > 1e6 + 2.5]).var(), rtol=1e-13)


def test_columns_of_dataframes_are_taken_by_name():
    pandas = pytest.importorskip("pandas")
    frames = pytest.importorskip("dask.dataframe")
    plain = pandas.DataFrame({"a": [0.0, 4.0], "b": [1.0, 3.0]})
    lazy = frames.from_pandas(plain, npartitions=2)
    with dask.config.set(scheduler="synchronous"):
        got = Standardizer().fit(lazy)
        there = got.transform(lazy[["b", "a"]]).compute()
        assert there.to_dict("list") == {"a": [-1.0, 1.0], "b": [-1.0, 1.0]}
        back = got.inverse_transform(there[["b", "a"]])
        np.testing.assert_array_equal(back, plain)
        np.testing.assert_array_equal(got.partial_fit(lazy[["b", "a"]]).scale_, [2, 1])
        np.testing.assert_array_equal(got.transform(plain[["b", "a"]]), [[-1, -1], [1, 1]])
    other = lazy.rename(columns={"a": "z"})
    with pytest.raises(
        ValueError, match=r"x must have the features .* \['a'\] missing and \['z'\] not known"
    ):
        got.transform(other)
    with pytest.raises(ValueError, match=r"\['z'\] not known"):
        got.partial_fit(other)


def test_bad_input():
    with pytest.raises(TypeError, match="x must be a Dask array"):
        dask_arrays.moments(np.ones((2, 2)))
    with pytest.raises(ValueError, match=r"weights must have shape \(4,\)"):
        dask_arrays.moments(array.ones((4, 2)), weights=[1, 2])
    with pytest.raises(ValueError, match="x must have 3 features as fitted, got 2"):
        Standardizer().fit(np.ones((2, 3))).transform(array.ones((4, 2)))
    with pytest.raises(ValueError, match="shape"):
        dask_arrays.moments(array.ones(4))
