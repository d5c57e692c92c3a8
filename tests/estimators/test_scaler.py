"""StandardScaler: scikit-learn's own checks, and its results beside ours."""

import pickle
from decimal import Decimal

import numpy as np
import pytest
import scipy.sparse

pytest.importorskip("sklearn")

from sklearn import __version__ as release
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler as Peer
from sklearn.utils.estimator_checks import parametrize_with_checks

from nbnorm.estimators import StandardScaler


def expected_to_fail(scaler):
    """Return the checks that a release of scikit-learn runs by mistake, with the reason."""
    if release.startswith("1.6.") and scaler.with_mean:
        return {
            "check_sample_weight_equivalence_on_sparse_data": "1.6 runs it on what refuses sparse data too"
        }
    return {}


@parametrize_with_checks(
    [StandardScaler(), StandardScaler(with_mean=False), StandardScaler(with_std=False)],
    expected_failed_checks=expected_to_fail,
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def data(dtype=np.float64):
    rng = np.random.default_rng(0)
    return (rng.standard_normal((50, 4)) * [1, 10, 0, 2] + [0, 5, 3, -7]).astype(dtype)


@pytest.mark.parametrize("with_mean", [True, False])
@pytest.mark.parametrize("with_std", [True, False])
@pytest.mark.parametrize("missing", [True, False])
def test_attributes_and_results_are_the_peers(with_mean, with_std, missing):
    x = data()
    if missing:
        x[3, 1] = x[4, 1] = x[5, 3] = np.nan
    got = StandardScaler(with_mean=with_mean, with_std=with_std)
    expected = Peer(with_mean=with_mean, with_std=with_std)
    np.testing.assert_allclose(got.fit_transform(x), expected.fit_transform(x), rtol=1e-12, atol=1e-14)
    for name in ("mean_", "var_", "scale_", "n_samples_seen_"):
        a, b = getattr(got, name), getattr(expected, name)
        assert (a is None) == (b is None), name
        if a is not None:
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15, err_msg=name)
    np.testing.assert_allclose(got.inverse_transform(got.transform(x)), x, rtol=1e-12)


def test_sample_weight_and_partial_fit_are_the_peers():
    x = data()
    weight = np.random.default_rng(1).random(50)
    got, expected = StandardScaler(), Peer()
    for part in (slice(0, 7), slice(7, 50)):
        got.partial_fit(x[part], sample_weight=weight[part])
        expected.partial_fit(x[part], sample_weight=weight[part])
    np.testing.assert_allclose(got.var_, expected.var_, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(got.n_samples_seen_, expected.n_samples_seen_, rtol=1e-14)


@pytest.mark.parametrize("kind", [scipy.sparse.csr_matrix, scipy.sparse.csc_array])
def test_sparse_is_the_peers(kind):
    x = data() * (np.random.default_rng(2).random((50, 4)) < 0.3)
    got = StandardScaler(with_mean=False).fit_transform(kind(x))
    expected = Peer(with_mean=False).fit_transform(x)
    assert scipy.sparse.issparse(got)
    np.testing.assert_allclose(got.toarray(), expected, rtol=1e-12)
    with pytest.raises(ValueError, match="Cannot center sparse"):
        StandardScaler().fit(kind(x))


def test_pandas_in_and_out():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(data(), columns=list("abcd"))
    scaler = StandardScaler().set_output(transform="pandas").fit(frame)
    got = scaler.transform(frame)
    assert list(got.columns) == list("abcd")
    assert list(scaler.get_feature_names_out()) == list("abcd")
    np.testing.assert_allclose(got.to_numpy(), Peer().fit_transform(data()), rtol=1e-12, atol=1e-14)
    with pytest.raises(ValueError, match="feature names"):
        scaler.transform(frame[list("abdc")])


def test_polars_in_and_out():
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame(data(), schema=list("abcd"))
    got = StandardScaler().set_output(transform="polars").fit_transform(frame)
    assert isinstance(got, polars.DataFrame)
    assert got.columns == list("abcd")
    np.testing.assert_allclose(got.to_numpy(), Peer().fit_transform(data()), rtol=1e-12, atol=1e-14)


def pandas_frames(pandas):
    arrow = pytest.importorskip("pyarrow")
    dec = [Decimal("1.5"), None, Decimal("4")]
    yield pandas.DataFrame({"a": pandas.array([1, None, 3], dtype="Int64"), "b": [1, 2, 4]})
    yield pandas.DataFrame({"a": pandas.array([True, None, False], dtype="boolean")})
    yield pandas.DataFrame({"a": dec, "b": [1, 2, 4]})
    yield pandas.DataFrame({"a": pandas.Categorical([1, 2, 5]), "b": [1, 2, 4]})
    yield pandas.DataFrame({"a": pandas.array([True, None, False], dtype="bool[pyarrow]"), "b": [1, 2, 4]})
    yield pandas.DataFrame({"a": pandas.array(dec, dtype=pandas.ArrowDtype(arrow.decimal128(9, 2)))})
    yield pandas.DataFrame({"a": [True, False, True], "b": [1.5, 2, 3]})
    yield pandas.DataFrame({"a": np.array([1, None, 5], object)})
    yield arrow.table({"a": [True, None, False], "b": [1, 2, 4]})
    yield arrow.table({"a": arrow.array(dec, arrow.decimal128(9, 2))})
    yield [[Decimal("1.5")], [Decimal("4")]]
    yield [[1.0], [None], [3]]


def polars_frames(polars):
    yield polars.DataFrame({"flag": [True, None, False], "n": [1, 2, 4]})
    yield polars.DataFrame({"price": [1, 2, None]}).cast(polars.Decimal(10, 2))
    yield polars.DataFrame({"n": [1, None, 4]})
    yield polars.DataFrame({"code": ["1", "2", "4"]}).cast(polars.Categorical)


@pytest.mark.parametrize(("package", "frames"), [("pandas", pandas_frames), ("polars", polars_frames)])
def test_containers_are_taken_where_the_peer_takes_them(package, frames):
    for x in frames(pytest.importorskip(package)):
        try:
            expected = Peer().fit(x)
        except TypeError:  # pandas 2.0 gives it no numbers for Arrow's decimals
            continue
        got = StandardScaler().fit(x)
        for name in ("mean_", "var_", "n_samples_seen_"):
            np.testing.assert_allclose(
                getattr(got, name), getattr(expected, name), rtol=1e-14, err_msg=str(x)
            )
        for call in ("transform", "inverse_transform"):
            np.testing.assert_allclose(
                getattr(got, call)(x), getattr(expected, call)(x), rtol=1e-12, atol=1e-15
            )
        names = [getattr(one, "feature_names_in_", None) for one in (got, expected)]
        np.testing.assert_array_equal(*names)


def test_a_missing_category_is_missing():
    pandas = pytest.importorskip("pandas")
    got = StandardScaler().fit(pandas.DataFrame({"a": pandas.Categorical([1, 2, None]), "b": [1, 2, 4]}))
    np.testing.assert_array_equal(got.mean_, [1.5, 7 / 3])  # where the peer has -3e18


def test_a_part_without_values_may_have_weights():
    got = StandardScaler().partial_fit([[np.nan]], sample_weight=[1.0])
    np.testing.assert_array_equal(got.mean_, StandardScaler().partial_fit([[np.nan]]).mean_)
    np.testing.assert_array_equal(got.partial_fit([[3.0]], sample_weight=[2.0]).mean_, [3.0])
    with pytest.raises(ValueError, match="sample_weight must not be zero for every sample"):
        StandardScaler().partial_fit([[1.0]], sample_weight=[0.0])


def test_variances_beyond_float64_are_refused_by_name():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"x": [1e200, 3e200], "y": [2.0, 4.0]})
    with pytest.raises(
        ValueError, match=r"^X must have values whose variance is finite, but that of column 'x'"
    ):
        StandardScaler().fit(frame)
    scaler = StandardScaler().partial_fit(frame[:1])
    with pytest.raises(
        ValueError, match=r"variance is finite together with the data before it, but that of .*'x'"
    ):
        scaler.partial_fit(frame[1:])
    assert scaler.n_samples_seen_ == 1


def test_pipeline_clone_and_pickle():
    x, y = data(), np.arange(50) % 2
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(x, y)
    again = pickle.loads(pickle.dumps(model))
    assert (again.predict(x) == model.predict(x)).all()
    assert clone(StandardScaler(with_std=False)).get_params() == {
        "copy": True,
        "with_mean": True,
        "with_std": False,
    }


def test_copy_false_works_in_place():
    x = data(np.float32)
    got = StandardScaler(copy=False).fit(x).transform(x)
    assert np.shares_memory(got, x)
    np.testing.assert_allclose(got.mean(axis=0), 0, atol=1e-6)


def test_float32_with_a_large_mean_is_centred():
    x = (np.random.default_rng(3).standard_normal((1000, 2)) + 1e6).astype(np.float32)
    got = StandardScaler().fit_transform(x)
    assert np.abs(got.mean(axis=0, dtype=np.float64)).max() < 1e-6


def test_bad_input_changes_nothing():
    scaler = StandardScaler().fit(data())
    before = scaler.mean_.copy()
    bad = data()
    bad[2, 1] = np.inf
    with pytest.raises(ValueError, match="infinity"):
        scaler.partial_fit(bad)
    with pytest.raises(ValueError, match="not negative"):
        scaler.partial_fit(data(), sample_weight=np.full(50, -1.0))
    np.testing.assert_array_equal(scaler.mean_, before)


def test_masked_elements_are_refused():
    x = np.ma.array(data())
    scaler = StandardScaler().fit(x)
    x[2, 1] = np.ma.masked
    for call in (scaler.fit, scaler.partial_fit, scaler.transform, scaler.inverse_transform):
        with pytest.raises(ValueError, match=r"^X must not have masked elements, got 1"):
            call(x)
    with pytest.raises(ValueError, match="must not have masked elements, got 1"):
        scaler.fit(data(), sample_weight=np.ma.array(np.ones(50), mask=np.arange(50) == 3))
