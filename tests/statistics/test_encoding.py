import itertools
import json

import numpy as np
import pytest
import scipy.sparse
from numpy.testing import assert_allclose, assert_array_equal

from nbnorm import FNN, AdamW, set_num_threads
from nbnorm.statistics.encoding import ColumnEncoder, quantile_edges


def table(rng, n=300):
    """Columns of a wide and a skewed distribution, of three values, and one that is constant."""
    columns = rng.normal(5, 2, n), rng.lognormal(size=n), rng.integers(0, 3, n), np.full(n, 7.0)
    return np.column_stack(columns)


def naive(x, edges):
    """Equation 1 of Gorishniy, Rubachev and Babenko, clipped at both ends, for one column."""
    columns = [x]
    for low, high in itertools.pairwise(edges):
        columns.append(np.where(x <= low, 0.0, np.where(x >= high, 1.0, (x - low) / (high - low))))
    return np.column_stack(columns)


def answers(X):
    return (np.sin(2 * X[:, 0]) + X[:, 1] > 1).astype(np.int64)


# ----------------------------------------------------------------------------------------------
# Bins
# ----------------------------------------------------------------------------------------------


def test_edges_are_quantiles_of_the_inverse_distribution_function():
    x = np.random.default_rng(0).normal(size=1001)
    expected = np.quantile(x, np.arange(9) / 8, method="inverted_cdf")
    assert_array_equal(quantile_edges(x, 8), expected)


def test_integer_weights_are_repeated_rows():
    rng = np.random.default_rng(1)
    x, weights = rng.normal(size=200).round(1), rng.integers(1, 5, 200)
    got = quantile_edges(x, 6, weights.astype(float))
    assert_array_equal(got, quantile_edges(np.repeat(x, weights), 6))


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (np.arange(8.0), []),  # as many values as bins
        (np.r_[np.zeros(990), np.arange(10.0)], []),  # quantiles that fall together
        (np.r_[np.zeros(30), np.arange(1.0, 61.0)], [0.0, 4.0, 15.0, 27.0, 38.0, 49.0, 60.0]),
        (np.r_[np.nan, np.arange(100.0)], [0.0, 12.0, 24.0, 37.0, 49.0, 62.0, 74.0, 87.0, 99.0]),
        (np.full(9, np.nan), []),
        (np.r_[np.arange(9) * 1e-320, np.ones(9)], []),  # bins whose slope is not a number
    ],
)
def test_edges_of_unusual_columns(x, expected):
    assert_allclose(quantile_edges(x, 8), expected)


# ----------------------------------------------------------------------------------------------
# ColumnEncoder
# ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
def test_transform_is_the_equation(dtype):
    X = (10 * table(np.random.default_rng(0))).astype(dtype)
    encoder = ColumnEncoder(5).fit(X)
    assert [len(edges) for edges in encoder.edges_] == [6, 6, 0, 0]
    values = X.astype(np.float64)
    expected = np.hstack([naive(values[:, j], edges) for j, edges in enumerate(encoder.edges_)])
    assert_allclose(encoder.transform(X), expected, rtol=1e-14, atol=1e-14)
    assert encoder.n_features_out_ == expected.shape[1]


def test_beyond_the_ends_a_column_is_0_or_1():
    encoder = ColumnEncoder(4).fit(np.arange(100.0)[:, None])
    got = encoder.transform([[-1e300], [1e300], [np.nan]])
    assert_array_equal(got[:2, 1:], [[0.0] * 4, [1.0] * 4])
    assert np.isnan(got[2]).all()


def test_levels_and_missing_values():
    x = np.array([[2.0, 1.0, np.nan], [5.0, np.nan, np.nan], [np.nan, 3.0, np.nan], [2.0, 4.0, np.nan]])
    encoder = ColumnEncoder(bins=None, categorical=[0]).fit(x)
    assert_array_equal(encoder.missing_, [1, 1, 2])
    assert_array_equal(encoder.edges_[0], [2.0, 5.0])
    # the levels 2 and 5, missing; the number, missing; the column without numbers
    expected = [[1, 0, 0, 1, 0, 1], [0, 1, 0, np.nan, 1, 1], [0, 0, 1, 3, 0, 1], [1, 0, 0, 4, 0, 1]]
    assert_array_equal(encoder.transform(x), expected)
    assert_array_equal(encoder.transform([[7.0, 0.0, 5.0]]), [[0, 0, 0, 0, 0, 0]])  # a level never seen
    assert repr(encoder) == "ColumnEncoder(bins=None, categorical=[0])"


def test_weights_of_zero_leave_rows_out():
    X = table(np.random.default_rng(0))
    weights = np.r_[np.zeros(100), np.ones(200)]
    for got, expected in zip(
        ColumnEncoder().fit(X, weights=weights).edges_, ColumnEncoder().fit(X[100:]).edges_, strict=True
    ):
        assert_array_equal(got, expected)


def test_sparse_matrices_are_the_dense_ones():
    X = np.where(np.random.default_rng(0).random((300, 4)) < 0.3, 0.0, table(np.random.default_rng(0)))
    dense, sparse = ColumnEncoder().fit(X), ColumnEncoder().fit(scipy.sparse.csr_matrix(X))
    assert_array_equal(sparse.table, dense.table)
    assert_array_equal(sparse.transform(scipy.sparse.csc_matrix(X)), dense.transform(X))


def test_a_long_column_is_sampled(monkeypatch):
    monkeypatch.setattr("nbnorm.statistics.encoding.MOST_ROWS", 100)
    x = np.arange(1000.0)[:, None]
    assert_allclose(ColumnEncoder(4).fit(x).edges_[0], np.arange(5) * 250, atol=11)


def test_dictionary_holds_the_encoding():
    X = table(np.random.default_rng(0))
    encoder = ColumnEncoder().fit(X)
    copy = ColumnEncoder.from_dict(json.loads(json.dumps(encoder.to_dict())))
    assert_array_equal(copy.transform(X), encoder.transform(X))


@pytest.mark.parametrize(
    "edges", [[1.0], [1.0, 1.0], [2.0, 1.0], [0.0, np.nan], [[0.0, 1.0]], list(range(10))]
)
def test_dictionaries_are_checked(edges):
    described = {"bins": 8, "categorical": [], "missing": [0], "edges": [edges], "feature_names": None}
    with pytest.raises(ValueError, match="must be 9 increasing numbers"):
        ColumnEncoder.from_dict(described)
    with pytest.raises(ValueError, match="must describe the same columns"):
        ColumnEncoder.from_dict({**described, "missing": []})


def test_refusals():
    with pytest.raises(ValueError, match="bins must be at least 2"):
        ColumnEncoder(1)
    with pytest.raises(RuntimeError, match="call of fit"):
        ColumnEncoder().transform(np.ones((2, 2)))
    with pytest.raises(ValueError, match=r"x must have 4 features, got shape \(2, 3\)"):
        ColumnEncoder().fit(table(np.random.default_rng(0))).transform(np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"categorical must hold columns below 2, got \[2\]"):
        ColumnEncoder(categorical=[2]).fit(np.ones((2, 2)))
    with pytest.raises(ValueError, match="categorical must hold different columns"):
        ColumnEncoder(categorical=[1, 1])


# ----------------------------------------------------------------------------------------------
# Networks
# ----------------------------------------------------------------------------------------------


def networks(X, dtype=np.float64, **options):
    """Network that encodes X, and one of the same weights on the encoded table."""
    net = FNN([X.shape[1], 16, 2], encoding="piecewise", dtype=dtype, seed=0, **options)
    encoder = ColumnEncoder().fit(X)
    plain = FNN([encoder.n_features_out_, 16, 2], dtype=dtype, seed=0, **options)
    for name in ("dense2.weight", "dense2.bias"):
        plain.parameters()[name][:] = net.parameters()[name]
    return net, plain, encoder


@pytest.mark.parametrize("layout", ["float64", "float32", "int32", "fortran", "strided", "sparse"])
def test_training_is_that_on_the_encoded_table(layout):
    X = table(np.random.default_rng(0))
    y = answers(X)
    if layout in ("float32", "int32"):
        X = X.astype(layout)
    given = {
        "fortran": np.asfortranarray,
        "strided": lambda X: np.repeat(X, 2, axis=0)[::2],
        "sparse": scipy.sparse.csr_array,
    }.get(layout, np.asarray)(X)
    net, plain, encoder = networks(X)
    options = {"epochs": 3, "batch_size": 64, "optimizer": AdamW(lr=0.01), "seed": 1}
    got = net.fit(given, y, validation_data=(given, y), **options)
    expected = plain.fit(encoder.transform(X), y, **options)
    assert net.widths == (encoder.n_features_out_, 16, 2)
    assert net.sizes == (4, 16, 2)
    assert_allclose(got.loss, expected.loss, rtol=1e-10)
    assert_allclose(net.forward(given), plain.forward(encoder.transform(X)), rtol=1e-8, atol=1e-8)
    assert_allclose(net.standardizer.mean_, plain.standardizer.mean_, rtol=1e-12)


def test_missing_numbers_become_the_mean():
    X = table(np.random.default_rng(0))
    y = answers(X)
    X[np.random.default_rng(1).random(X.shape) < 0.2] = np.nan
    X[:, 3] = np.nan
    net, _, _ = networks(X)
    encoder = ColumnEncoder().fit(X)
    wide = encoder.transform(X)
    mean = np.nanmean(wide, axis=0)
    plain = FNN([encoder.n_features_out_, 16, 2], standardize=False, dtype=np.float64, seed=0)
    for name in ("dense2.weight", "dense2.bias"):
        plain.parameters()[name][:] = net.parameters()[name]
    scale = np.nanstd(wide, axis=0)
    filled = np.nan_to_num((wide - mean) / np.where(scale == 0, 1, scale))
    options = {"epochs": 2, "batch_size": 64, "seed": 1}
    got, expected = net.fit(X, y, **options), plain.fit(filled, y, **options)
    assert_allclose(got.loss, expected.loss, rtol=1e-10)
    assert np.isfinite(net.predict_proba(np.full((1, 4), np.nan))).all()
    X[0, 0] = np.inf
    with pytest.raises(ValueError, match=r"X must be finite, got inf at \[0, 0\]"):
        net.predict(X)


def test_encoding_finds_what_a_linear_model_cannot():
    X = np.random.default_rng(0).uniform(-1, 1, (400, 1))
    y = (np.abs(X[:, 0]) < 0.5).astype(np.int64)
    score = {}
    for encoding in (None, "piecewise"):
        net = FNN([1, 2], encoding=encoding, seed=0)
        net.fit(X, y, epochs=60, batch_size=50, optimizer=AdamW(lr=0.05), seed=0)
        score[encoding] = net.score(X, y)
    assert score[None] < 0.8
    assert score["piecewise"] > 0.97


def test_threads_do_not_change_bits(thread_pool):
    X = table(np.random.default_rng(0))
    net, again = (FNN([4, 40, 2], encoding="piecewise", seed=0) for _ in range(2))
    net.fit(X, answers(X), epochs=2, batch_size=50)
    set_num_threads(1)
    again.fit(X, answers(X), epochs=2, batch_size=50)
    for name, values in net.parameters().items():
        assert_array_equal(values, again.parameters()[name])


def test_gradients():
    X = table(np.random.default_rng(0))[:20]
    net = FNN([4, 3, 2], encoding="piecewise", activation="tanh", seed=0)
    net.fit(X, answers(X), epochs=1, batch_size=20)
    assert max(net.train().check_gradients(X, answers(X)).values()) < 1e-6


def test_file_holds_the_encoding(tmp_path):
    X = table(np.random.default_rng(0))
    net = FNN([4, 16, 2], encoding="piecewise", bins=4, seed=0)
    net.fit(X, answers(X), epochs=1, batch_size=64)
    net.save(tmp_path / "net.npz")
    copy = FNN.load(tmp_path / "net.npz")
    assert_array_equal(copy.forward(X), net.forward(X))
    assert copy.bins == 4
    fresh = FNN([4, 16, 2], encoding="piecewise", seed=0)
    fresh.save(tmp_path / "fresh.npz")
    assert FNN.load(tmp_path / "fresh.npz").encoder is None


def test_a_checkpoint_resumes_to_the_same_bits(tmp_path):
    X = table(np.random.default_rng(0))
    options = {"epochs": 4, "batch_size": 64, "optimizer": AdamW()}

    whole = FNN([4, 16, 2], encoding="piecewise", seed=0)
    whole.fit(X, answers(X), **options)
    first, second = (FNN([4, 16, 2], encoding="piecewise", seed=0) for _ in range(2))
    stopped = first.fit(X, answers(X), checkpoint=tmp_path / "c", callbacks=[_interrupt], **options)
    assert stopped.stopped == "interrupted"
    second.fit(X, answers(X), checkpoint=tmp_path / "c", **options)
    for name, values in whole.parameters().items():
        assert_array_equal(values, second.parameters()[name])


def _interrupt(net, history):
    """End the process's work behind a checkpoint, as a kill does."""
    if history.epochs == 2:
        raise KeyboardInterrupt


def test_what_fails_leaves_the_network_as_it_was():
    X = table(np.random.default_rng(0))
    net = FNN([4, 16, 2], encoding="piecewise", seed=0)
    before = net.parameters()["dense1.weight"]
    net.find_learning_rate(X, answers(X), steps=5)
    assert net.encoder is None
    assert net.parameters()["dense1.weight"] is before
    with pytest.raises(RuntimeError, match="encoding needs a call of fit"):
        net.eval().forward(X)
    with pytest.raises(ValueError, match="encoding must be one of"):
        FNN([4, 2], encoding="linear")
