"""Frames with text, categories, dates and gaps in the estimators, and what their columns become."""

import datetime
import pickle
from decimal import Decimal

import numpy as np
import pytest
import scipy.sparse
from numba import config
from numpy.testing import assert_array_equal

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.model_selection import cross_val_score

from nbnorm.estimators import FNNClassifier, FNNRegressor

pytestmark = pytest.mark.skipif(config.DISABLE_JIT, reason="too much arithmetic for the interpreter")


def small(kind=FNNClassifier, **options):
    return kind(
        **{
            "hidden_layer_sizes": (8,),
            "n_estimators": 2,
            "max_iter": 8,
            "dropout": 0.0,
            "random_state": 3,
            **options,
        }
    )


def columns(n=240):
    rng = np.random.default_rng(0)
    age = rng.normal(40, 10, n).tolist()
    city = rng.choice(["Rome", "Oslo", "Bonn"], n).tolist()
    y = np.array([one == "Rome" and years > 35 for one, years in zip(city, age, strict=True)])
    age[::9], city[::11] = [None] * len(age[::9]), [None] * len(city[::11])
    day = [datetime.datetime(2020, 1, 1) + datetime.timedelta(hours=int(h)) for h in rng.integers(0, 9000, n)]
    return {"age": age, "city": city, "member": (rng.random(n) < 0.5).tolist(), "day": day}, y


def test_frames_of_all_libraries_give_the_same_bits():
    pd, pl, pa = (pytest.importorskip(name) for name in ("pandas", "polars", "pyarrow"))
    data, y = columns()
    frame = pd.DataFrame(data)
    expected = small(max_iter=30).fit(frame, y)
    assert expected.score(frame, y) > 0.9
    assert [column.kind for column in expected.columns_] == ["number", "category", "boolean", "date"]
    names = expected.get_feature_names_out()
    assert {"age", "age missing", "city=Rome", "city missing", "member"} <= set(names)
    assert expected.encode(frame).shape == (240, len(names))
    others = [
        pl.DataFrame(data),
        pa.table(data),
        frame.astype({"city": "category"}),
        frame.convert_dtypes(),
        pl.DataFrame(data).with_columns(pl.col("city").cast(pl.Categorical)),
    ]
    for other in others:
        model = small(max_iter=30).fit(other, y)
        assert_array_equal(model.predict_proba(other), expected.predict_proba(frame))
        assert_array_equal(pickle.loads(pickle.dumps(model)).predict(frame), expected.predict(frame))


def test_columns_of_rarer_types_give_the_same_bits():
    pd, pl, pa = (pytest.importorskip(name) for name in ("pandas", "polars", "pyarrow"))
    numbers = np.random.default_rng(0).integers(0, 999, 60).tolist()
    data = {
        "price": [Decimal(k) / 100 if k % 5 else None for k in numbers],
        "wait": [datetime.timedelta(minutes=k) if k % 7 else None for k in numbers],
        "day": [datetime.date(2020, 1, 1) + datetime.timedelta(k) if k % 5 else None for k in numbers],
        "time": [datetime.time(k % 24, k % 60) if k % 3 else None for k in numbers],
        "agreed": [k % 3 == 1 if k % 3 else None for k in numbers],
        "count": [k if k % 4 else None for k in numbers],
    }
    frame, table = pd.DataFrame(data), pa.table(data)
    y = np.arange(60) % 2
    expected = small(max_iter=2).fit(frame, y).predict_proba(frame)
    arrow = table.to_pandas(types_mapper=pd.ArrowDtype)
    for other in (frame.convert_dtypes(), arrow, table.to_pandas(), table, pl.DataFrame(data)):
        assert_array_equal(small(max_iter=2).fit(other, y).predict_proba(other), expected)


def test_categories_by_name_mask_and_position():
    pd = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.integers(0, 5, 300) * 10.0, rng.normal(size=300)])
    y = np.isin(X[:, 0], [10.0, 30.0])
    frame = pd.DataFrame(X, columns=["code", "x"])
    plain = small(max_iter=25, categorical_features=[0]).fit(X, y)
    assert plain.columns_[0].levels == (0.0, 10.0, 20.0, 30.0, 40.0)
    for table, chosen in ((frame, ["code"]), (frame, [True, False]), (X, np.array([True, False]))):
        model = small(max_iter=25, categorical_features=chosen).fit(table, y)
        assert_array_equal(model.predict_proba(table), plain.predict_proba(X))
    text = X.astype(object)
    text[:, 0] = [f"level {int(code)}" for code in X[:, 0]]
    assert small(max_iter=25, categorical_features=[0]).fit(text, y).score(text, y) > 0.95
    unseen = X.copy()
    unseen[:, 0] = 70.0
    assert np.isfinite(plain.predict_proba(unseen)).all()
    assert cross_val_score(small(categorical_features=["code"]), frame, y, cv=2).shape == (2,)
    assert small(encoding=None, categorical_features=[0]).fit(X, y).get_feature_names_out()[1] == "x0=10.0"


def test_levels_of_zero_weight_are_not_there():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"c": ["a", "b", "c"] * 40, "x": np.arange(120.0)})
    weights = (frame["c"] != "c").to_numpy(float)
    model = small().fit(frame, np.arange(120) % 2, sample_weight=weights)
    assert model.columns_[0].levels == ("a", "b")


@pytest.mark.parametrize("which", [FNNClassifier, FNNRegressor])
def test_training_goes_on_with_categories(which, tmp_path):
    pd = pytest.importorskip("pandas")
    data, y = columns()
    frame, y = pd.DataFrame(data), y.astype(int)
    halves = [(frame[:120], y[:120]), (frame[120:], y[120:])]
    model = small(which)
    for part, truth in halves:
        model.partial_fit(part, truth, **({"classes": [0, 1]} if which is FNNClassifier else {}))
    assert model.network_.standardizer.n_samples_seen_.max() == 240
    warm = small(which, warm_start=True).fit(frame, y).fit(frame, y)
    assert warm.network_.epochs_trained == 16
    early = small(which, early_stopping=True).fit(frame, y)
    assert early.history_.best_epoch is not None

    def kill(net, history):
        if history.epochs == 4:
            raise RuntimeError("killed")

    whole = small(which, n_estimators=5).fit(frame, y)
    with pytest.raises(RuntimeError, match="killed"):
        clone(whole).set_params(callbacks=[kill]).fit(frame, y, checkpoint=tmp_path / "c.npz")
    again = clone(whole).fit(frame, y, checkpoint=tmp_path / "c.npz")
    assert_array_equal(again.predict(frame), whole.predict(frame))


def test_infinite_numbers_count_as_the_largest():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 2))
    y = X[:, 0] > 0
    model = small().fit(X, y)
    far = np.array([[np.inf, 0.0], [-np.inf, np.nan]])
    held = np.array([[X[:, 0].max(), 0.0], [X[:, 0].min(), np.nan]])
    assert_array_equal(model.predict_proba(far), model.predict_proba(held))
    far[1] = 9.0 * X.max(axis=0)  # the answer to a row does not depend on other rows
    np.testing.assert_allclose(model.predict_proba(far)[1:], model.predict_proba(far[1:]), rtol=1e-6)
    X[0, 1] = -np.inf
    assert np.isfinite(small().fit(X, y).predict_proba(X)).all()
    with pytest.raises(ValueError, match="infinity"):
        small(encoding=None).fit(X, y)


def test_columns_that_say_nothing():
    pd = pytest.importorskip("pandas")
    X = pd.DataFrame({"x": np.arange(60.0), "gone": np.nan, "none": [None] * 60, "one": 1})
    model = small(bins=2).fit(X, np.arange(60) > 30)
    assert [column.kind for column in model.columns_] == ["number", "empty", "empty", "number"]
    names = model.get_feature_names_out().tolist()
    assert names == ["x", "x 0 to 29", "x 29 to 59", "gone missing", "none missing", "one"]
    few = small(bins=64).fit(np.arange(20.0)[:, None], np.arange(20) > 9)  # more bins than rows
    assert few.get_feature_names_out().tolist() == ["x0"]


def test_wide_sparse_tables_stay_as_they_are():
    X = scipy.sparse.random_array((60, 1100), density=0.02, rng=np.random.default_rng(0), format="csr")
    model = small().fit(X, np.arange(60) % 2)
    assert model.network_.encoder is None
    assert len(model.get_feature_names_out()) == 1100


def test_refusals():
    pd = pytest.importorskip("pandas")
    data, y = columns()
    frame = pd.DataFrame(data)
    model = small().fit(frame, y)
    with pytest.raises(TypeError, match="column 'city' must hold text as in training, got numbers"):
        model.predict(frame.assign(city=1))
    with pytest.raises(TypeError, match="column 'age' must hold numbers as in training, got text"):
        model.predict(frame.assign(age="old"))
    with pytest.raises(ValueError, match="city"):
        model.predict(frame.drop(columns="city"))
    with pytest.raises(TypeError, match="column 'day' must hold dates as in training, got numbers"):
        model.predict(frame.assign(day=1.0))
    with pytest.raises(TypeError, match="column 'age' must hold numbers as in training, got dates"):
        model.partial_fit(frame.assign(age=frame["day"]), y)
    with pytest.raises(ValueError, match="town"):
        model.predict(frame.assign(town=1))
    assert np.isfinite(model.predict_proba(frame.assign(age=None, city=None, member=None, day=None))).all()
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame.rename(columns={"city": "town"}))
    with pytest.raises(TypeError, match="column 'city' holds text: it must be among categorical_features"):
        small(categorical_features=None).fit(frame, y)
    with pytest.raises(ValueError, match=r"categorical_features must be among .*, got 'town'"):
        small(categorical_features=["town"]).fit(frame, y)
    with pytest.raises(TypeError, match="sparse"):
        small(categorical_features=[0]).fit(scipy.sparse.eye_array(240, format="csr"), y)
    with pytest.raises(ValueError, match="min_frequency"):
        small(min_frequency=0).fit(frame, y)
    model.categorical_features = [0]
    with pytest.raises(ValueError, match="categorical_features must stay"):
        model.partial_fit(frame, y)


def test_tables_that_cannot_be_read():
    pd, pl = pytest.importorskip("pandas"), pytest.importorskip("polars")
    y = np.arange(60) % 2
    twice = pd.DataFrame(np.ones((60, 2)), columns=["a", "a"])
    for table, error, message in (
        ({"a": [1.0] * 60}, TypeError, "^X must be an array, a matrix or a frame, got dict"),
        (pl.DataFrame({"a": [1.0] * 60}).lazy(), TypeError, r"^X must be .* LazyFrame: call its collect\(\)"),
        (twice, ValueError, "^X must have distinct names of columns, got 'a' 2 times"),
        (pd.DataFrame(index=range(60)), ValueError, "^X must have columns, got none"),
        (pl.DataFrame(), ValueError, "^X must have columns, got none"),
        (pd.DataFrame({"a": [1, "x"] * 30}), TypeError, "column 'a' must hold numbers, .* of one kind"),
        (pl.DataFrame({"a": [[1], [2]] * 30}), TypeError, r"column 'a' must hold .* got List\(Int64\)"),
    ):
        with pytest.raises(error, match=message):
            small().fit(table, y)


def test_sparse_frames_that_are_not_of_zeros_are_dense_tables():
    pd = pytest.importorskip("pandas")
    values = np.where(np.arange(60) % 3, np.nan, np.arange(60.0))
    y = np.arange(60) % 2
    expected = small().fit(pd.DataFrame({"a": values}), y)
    frame = pd.DataFrame({"a": pd.arrays.SparseArray(values)})  # NaN where nothing is stored
    assert_array_equal(
        small().fit(frame, y).predict_proba(frame), expected.predict_proba(pd.DataFrame({"a": values}))
    )
