"""Standardizer and standardize against their formulas."""

import json
import pickle

import numpy as np
import pytest
import scipy.sparse

import nbnorm
from nbnorm import Standardizer, moments, standardize


def normal(shape, dtype=np.float64, seed=0, mean=0.0):
    return (np.random.default_rng(seed).standard_normal(shape) + mean).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (300, 10), (37, 17), (64, 100), (9, 1100)])
def test_standardize_is_its_formula(dtype, shape):
    x = normal(shape, dtype, mean=3)
    mean, std = normal(shape[1], seed=1), np.random.default_rng(2).random(shape[1]) + 0.5
    got = standardize(x, mean, std)
    assert got.dtype == dtype
    np.testing.assert_allclose(got, (x - mean) / std, rtol=1e-6 if dtype == np.float32 else 3e-16, atol=1e-7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.uint8, np.int64, np.bool_])
def test_transform_and_back(dtype):
    x = np.random.default_rng(0).integers(0, 2 if dtype is np.bool_ else 50, (60, 4)).astype(dtype)
    standardizer = Standardizer().fit(x)
    got = standardizer.transform(x)
    assert got.dtype == (dtype if np.dtype(dtype).kind == "f" else np.float64)
    wide = x.astype(np.float64)
    tolerance = {np.float16: 2e-3, np.float32: 1e-6}.get(dtype, 1e-13)
    np.testing.assert_allclose(got, (wide - wide.mean(0)) / wide.std(0), atol=tolerance)
    np.testing.assert_allclose(standardizer.inverse_transform(got), wide, atol=50 * tolerance)


def test_attributes():
    x = normal((30, 3))
    x[:, 1] = 0.1
    got = Standardizer(ddof=1).fit(x)
    np.testing.assert_allclose(got.mean_, x.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(got.var_[[0, 2]], x.var(axis=0, ddof=1)[[0, 2]], rtol=1e-13)
    np.testing.assert_allclose(got.scale_, np.where([0, 1, 0], 1.0, np.sqrt(got.var_)), rtol=1e-15)
    np.testing.assert_array_equal(got.constant_features_, [1])
    assert (got.n_samples_seen_, got.n_features_in_) == (30, 3)
    np.testing.assert_array_equal(got.transform(x)[:, 1], 0.0)


def test_layouts_and_out():
    x = normal((50, 6), np.float32)
    standardizer = Standardizer().fit(x)
    expected = standardizer.transform(x)
    for view in (np.asfortranarray(x), np.repeat(x, 2, axis=0)[::2], x.astype(">f4")):
        np.testing.assert_array_equal(standardizer.transform(view), expected)
    for out in (np.empty_like(x), np.empty((6, 50), np.float32).T, np.empty((50, 12), np.float32)[:, ::2]):
        assert standardizer.transform(x, out=out) is out
        np.testing.assert_array_equal(out, expected)
    np.testing.assert_allclose(standardizer.transform(x, out=np.empty(x.shape)), expected, rtol=1e-6)
    assert standardizer.transform(x, out=x) is x
    np.testing.assert_array_equal(x, expected)


def test_float32_with_a_large_mean_is_centred():
    x = normal((5000, 3), np.float32, mean=1e6)
    got = Standardizer().fit(x).transform(x)
    np.testing.assert_allclose(got.mean(axis=0, dtype=np.float64), 0, atol=1e-6)
    np.testing.assert_allclose(got.std(axis=0, dtype=np.float64), 1, rtol=1e-6)


def test_float64_with_a_mean_of_1e12_is_centred():
    x = np.round(normal((2000, 1)), 1) + 1e12
    got = Standardizer().fit(x).transform(x)
    np.testing.assert_allclose([got.mean(), got.std()], [0, 1], atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_values_are_right_or_refused(dtype):
    large = dtype(3e38) if dtype is np.float32 else dtype(1e150)
    x = np.array([[large], [-large]])
    got = Standardizer().fit(x)
    np.testing.assert_allclose(got.transform(x), [[1], [-1]], rtol=1e-6)
    np.testing.assert_allclose(got.inverse_transform(got.transform(x)), x, rtol=1e-6)


def test_variances_beyond_float64_are_refused_by_name():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"x": [1e200, 3e200], "y": [2.0, 4.0]})
    got = Standardizer().fit(frame[:1])  # constant
    np.testing.assert_array_equal(got.transform(frame[:1]), [[0, 0]])
    for call in (Standardizer().fit, got.partial_fit, lambda x: Standardizer().fit(iter([x[:1], x[1:]]))):
        with pytest.raises(ValueError, match=r"variance is finite.* that of column 'x' is not"):
            call(frame)
    assert got.n_samples_seen_ == 1
    with pytest.raises(ValueError, match="variance is at least 1e-305, but that of column 'x' is not"):
        Standardizer().fit(frame / 1e300 / 1e100)


def test_columns_are_taken_by_name():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [0.0, 4.0, 1.0], "b": [1.0, 3.0, 8.0]})
    turned = frame[["b", "a"]]
    got = Standardizer().fit(frame)
    expected = got.transform(frame.to_numpy())
    np.testing.assert_array_equal(got.transform(turned), expected)
    np.testing.assert_allclose(
        got.inverse_transform(pandas.DataFrame(expected, columns=["a", "b"])[["b", "a"]]), frame
    )
    for other in (
        Standardizer().fit(frame).partial_fit(turned),
        Standardizer().fit(frame).merge(Standardizer().fit(turned)),
        Standardizer().fit(iter([frame, turned])),
        Standardizer.from_dict(json.loads(json.dumps(got.to_dict()))),
    ):
        np.testing.assert_allclose(other.transform(turned), expected, rtol=1e-14)
    for call in (got.transform, got.inverse_transform, got.partial_fit):
        with pytest.raises(ValueError, match=r"\['a'\] missing and \['z'\] not known"):
            call(frame.rename(columns={"a": "z"}))
    np.testing.assert_array_equal(got.n_samples_seen_, 3)


def test_sparse_matrices():
    x = scipy.sparse.csr_array([[0.0, 2.0], [4.0, 0.0]])
    got = standardize(x, 0.0, [2.0, 4.0])
    assert scipy.sparse.issparse(got)
    np.testing.assert_array_equal(got.toarray(), [[0, 0.5], [2, 0]])
    with pytest.raises(
        ValueError, match=r"x must be dense to subtract the mean: use a mean of 0, or .* fold"
    ):
        standardize(x, [0.0, 1.0], 1.0)
    with pytest.raises(ValueError, match="out must be None for a sparse matrix"):
        standardize(x, 0.0, 1.0, out=np.empty((2, 2)))
    with pytest.raises(ValueError, match=r"x must have shape \(n_samples, n_features\), got shape \(2,\)"):
        standardize(scipy.sparse.coo_array([1.0, 2.0]), 0.0, 1.0)


def test_nan_and_infinity_pass_through():
    for dtype in (np.float32, np.float64):
        x = np.array([[np.nan, np.inf, -np.inf, 1.0]], dtype)
        np.testing.assert_array_equal(standardize(x, 1.0, 2.0), [[np.nan, np.inf, -np.inf, 0.0]])


def test_partial_fit_and_merge_are_fit():
    x = normal((700, 5), mean=10)
    expected = Standardizer().fit(x)
    parts = Standardizer().partial_fit(x[:100]).partial_fit(x[100:650]).partial_fit(x[650:])
    merged = Standardizer().fit(x[:300]).merge(Standardizer().fit(x[300:]))
    for got in (parts, merged, Standardizer().fit(iter([x[:9], x[9:]])), Standardizer().merge(expected)):
        np.testing.assert_allclose(got.mean_, expected.mean_, rtol=1e-14)
        np.testing.assert_allclose(got.var_, expected.var_, rtol=1e-14)
        assert got.n_samples_seen_ == 700


def test_a_feature_may_be_missing_from_a_part():
    got = Standardizer(nan="omit").partial_fit([[np.nan, 1.0]])
    with pytest.raises(ValueError, match="every feature must have a value, got none in feature 0"):
        got.transform([[1.0, 2.0]])
    got.partial_fit([[1.0, 2.0], [3.0, 3.0]])
    np.testing.assert_array_equal(got.n_samples_seen_, [2, 3])
    with pytest.raises(ValueError, match="none in feature 0"):
        Standardizer(nan="omit").fit([[np.nan, 1.0]])


def test_weights():
    x, weights = normal((50, 2)), np.arange(50) % 3
    got = Standardizer().fit(x, weights=weights)
    expected = Standardizer().fit(np.repeat(x, weights, axis=0))
    np.testing.assert_allclose(got.scale_, expected.scale_, rtol=1e-13)


def test_switches():
    x = normal((20, 2), mean=4)
    np.testing.assert_allclose(Standardizer(with_mean=False).fit_transform(x), x / x.std(axis=0), rtol=1e-13)
    np.testing.assert_allclose(Standardizer(with_std=False).fit_transform(x), x - x.mean(axis=0), atol=1e-13)


@pytest.mark.parametrize("bias", [None, [1.0, -2.0, 0.5]])
def test_fold_is_standardizing_first(bias):
    x, weight = normal((30, 4), mean=7), normal((3, 4), seed=1)
    standardizer = Standardizer().fit(x)
    folded, shift = standardizer.fold(weight, bias)
    expected = standardizer.transform(x) @ weight.T + (0 if bias is None else np.array(bias))
    np.testing.assert_allclose(x @ folded.T + shift, expected, rtol=1e-11, atol=1e-12)
    single, _ = standardizer.fold(weight.astype(np.float32), bias)
    assert single.dtype == np.float32


def test_round_trips():
    x = normal((20, 2), mean=1e12)
    expected = Standardizer(ddof=1).fit(x)
    for got in (
        Standardizer.from_dict(json.loads(json.dumps(expected.to_dict()))),
        pickle.loads(pickle.dumps(expected)),
        Standardizer.from_moments(moments(x), ddof=1),
    ):
        np.testing.assert_array_equal(got.transform(x), expected.transform(x))


def test_same_bits_for_any_number_of_threads():
    x = normal((20_000, 7), np.float32)
    got = []
    for threads in (1, min(2, nbnorm.get_num_threads())):
        nbnorm.set_num_threads(threads)
        got.append(Standardizer().fit(x).transform(x))
    nbnorm.set_num_threads(None)
    np.testing.assert_array_equal(*got)


def fitted():
    return Standardizer().fit([[0.0, 1.0], [2.0, 3.0]])


BAD = [
    (lambda: standardize([[1.0]], 0.0, 0.0), ValueError, "std must not be 0, got 0 for feature 0"),
    (lambda: standardize([[1.0]], [0.0, 1.0], 1.0), ValueError, r"mean must have shape \(1,\)"),
    (lambda: standardize([["a"]], 0.0, 1.0), TypeError, "x must hold real numbers"),
    (lambda: Standardizer().transform([[1.0]]), ValueError, "not fitted"),
    (lambda: fitted().transform([[1.0]]), ValueError, "x must have 2 features as fitted, got 1"),
    (lambda: fitted().partial_fit([[1.0]]), ValueError, "x must have 2 features"),
    (lambda: fitted().merge(moments([[1.0]])), TypeError, "other must be a Standardizer"),
    (lambda: fitted().fold([[1.0]]), ValueError, r"weight must have shape \(n_out, 2\)"),
    (lambda: fitted().fold([1.0, 2.0]), ValueError, r"weight must have shape \(n_out, 2\), got shape \(2,\)"),
    (lambda: fitted().fold([[1.0, 2.0]], [1.0, 2.0]), ValueError, r"bias must have shape \(1,\)"),
    (lambda: fitted().fit(iter([])), ValueError, "stream without rows"),
    (
        lambda: fitted().fit(iter([np.ones((2, 2)), np.ones((2, 3))])),
        ValueError,
        "chunk 1 must have 2 features",
    ),
    (lambda: fitted().fit(iter([np.ones((2, 2))]), weights=[1, 1]), ValueError, "weights must be None"),
    (lambda: Standardizer(with_mean=1), TypeError, "with_mean must be True or False"),
    (lambda: Standardizer.from_moments(3), TypeError, "moments must be a Moments"),
]


@pytest.mark.parametrize(("call", "kind", "message"), BAD)
def test_bad_input(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def test_bad_out():
    x = np.ones((4, 2))
    got = fitted()
    with pytest.raises(ValueError, match=r"out must be a floating array of shape \(4, 2\)"):
        got.transform(x, out=np.empty((4, 3)))
    with pytest.raises(TypeError, match="out must be a NumPy array"):
        got.transform(x, out=[])
    memory = np.ones(10)
    with pytest.raises(ValueError, match="not share memory"):
        got.transform(memory[:8].reshape(4, 2), out=memory[2:].reshape(4, 2))


def test_failed_fits_change_nothing():
    got = fitted()
    for bad in ([[1.0]], [[np.nan, "a"]], iter([np.ones((1, 2)), np.ones((1, 3))])):
        with pytest.raises((ValueError, TypeError)):
            got.partial_fit(bad)
    np.testing.assert_array_equal(got.mean_, [1.0, 2.0])
    assert got.n_samples_seen_ == 2
