"""Estimators over tables on disk."""

import numpy as np
import pandas as pd
import pytest

from nbnorm import FNN, load_digits
from nbnorm.estimators import FNNClassifier, FNNRegressor

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    X, y = load_digits()
    X, y = X[:500].astype(np.float32), y[:500]
    names = np.array([f"digit {k}" for k in range(10)])[y]
    columns = {f"x{j}": X[:, j] for j in range(64)} | {"name": names, "sum": X.sum(axis=1)}
    path = tmp_path_factory.mktemp("digits") / "d.parquet"
    pq.write_table(pa.table(columns).drop_columns(["sum"]), path, row_group_size=120)
    values = path.with_name("v.parquet")
    pq.write_table(pa.table(columns).drop_columns(["name"]), values, row_group_size=120)
    return X, names, path, values


@pytest.mark.parametrize("options", [{"class_weight": "balanced"}, {"n_estimators": 2}])
def test_a_classifier_learns_from_a_file_as_from_memory(digits, options):
    X, names, path, _ = digits
    settings = {"hidden_layer_sizes": 16, "max_iter": 3, "random_state": 0, "dtype": "float32", **options}
    expected = FNNClassifier(**settings).fit(X, names)
    got = FNNClassifier(**settings).fit(path, "name")
    assert got.loss_curve_ == expected.loss_curve_
    assert got.classes_.tolist() == expected.classes_.tolist()
    assert got.feature_names_in_.tolist() == [f"x{j}" for j in range(64)]
    np.testing.assert_array_equal(got.predict_proba(path), expected.predict_proba(X))
    np.testing.assert_array_equal(got.predict(path), expected.predict(X))


def test_early_stopping_holds_out_rows_of_the_file(digits):
    X, names, path, _ = digits
    settings = {"hidden_layer_sizes": 16, "max_iter": 3, "random_state": 0, "early_stopping": True}
    expected, got = FNNClassifier(**settings), FNNClassifier(**settings)
    expected.fit(X, names)
    got.fit(path, "name")
    assert len(got.validation_scores_) == 3
    assert abs(got.best_validation_score_ - expected.best_validation_score_) < 0.15
    whole = FNNClassifier(**settings).fit(path, "name", validation_data=(path, "name"))
    assert len(whole.validation_scores_) == 3
    with pytest.raises(TypeError, match="partial_fit needs X in memory"):
        FNNClassifier().partial_fit(path, "name", classes=np.unique(names))


def test_a_wide_file_has_no_bins(tmp_path):
    X = np.random.default_rng(0).normal(size=(40, 1030)).astype(np.float32)
    X[::7, 0] = np.nan
    path = tmp_path / "wide.parquet"
    columns = {f"x{j}": x for j, x in enumerate(X.T)} | {"y": np.arange(40) % 2}
    pq.write_table(pa.table(columns), path, row_group_size=20)
    model = FNNClassifier(hidden_layer_sizes=4, n_estimators=1, max_iter=1, random_state=0).fit(path, "y")
    assert len(model.get_feature_names_out()) == 1031  # and one for the gaps
    assert model.network_.bins is None


def test_a_regressor_learns_from_a_file(digits):
    X, _, _, values = digits
    settings = {"hidden_layer_sizes": 16, "max_iter": 3, "random_state": 0}
    expected = FNNRegressor(**settings).fit(X, X.sum(axis=1))
    got = FNNRegressor(**settings).fit(values, "sum")
    np.testing.assert_allclose(got.loss_curve_, expected.loss_curve_, rtol=1e-6)
    np.testing.assert_allclose(got.predict(values), expected.predict(X), rtol=1e-4)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A frame with text, categories, dates, booleans and gaps, and a file of it in small row groups."""
    rng, n = np.random.default_rng(0), 400
    frame = pd.DataFrame(
        {
            "size": np.where(rng.random(n) < 0.1, np.nan, rng.normal(size=n)),
            "city": rng.choice(["Rome", "Oslo", "Bern", None], n),
            "level": pd.Categorical(rng.choice(["low", "high"], n)),
            "rare": np.where(np.arange(n) == 77, "once", "often"),
            "new": rng.random(n) < 0.5,
            "day": pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 300, n), "D"),
        }
    )
    y = np.where(frame["city"] == "Rome", "a", np.where(frame["size"] > 0, "b", "c"))
    path = tmp_path_factory.mktemp("mixed") / "m.parquet"
    frame.assign(answer=y).to_parquet(path, row_group_size=90)
    return frame, y, path


@pytest.mark.parametrize(
    "options",
    [
        {"n_estimators": 2},
        {"encoding": None},
        {"early_stopping": True},
        {"categorical_features": ["city", "level", "rare", "new"], "min_frequency": 1},
    ],
)
def test_columns_of_any_kind_are_learned_from_a_file_as_from_a_frame(mixed, options):
    frame, y, path = mixed
    settings = {"hidden_layer_sizes": 8, "max_iter": 3, "bins": 4, "dropout": 0.0, "random_state": 0}
    expected = FNNClassifier(**settings, **options).fit(frame, y)
    got = FNNClassifier(**settings, **options).fit(path, "answer")
    assert got.columns_ == expected.columns_
    assert got.get_feature_names_out().tolist() == expected.get_feature_names_out().tolist()
    if "early_stopping" not in options:  # which holds out other rows
        np.testing.assert_allclose(got.loss_curve_, expected.loss_curve_, rtol=1e-5)
    np.testing.assert_array_equal(got.predict_proba(path), got.predict_proba(frame))
    assert got.score(path, "answer") == got.score(frame, y) > 0.5


def test_a_model_of_a_frame_reads_a_file_and_refuses_another_kind(mixed, tmp_path):
    frame, _, path = mixed
    settings = {"hidden_layer_sizes": 8, "n_estimators": 1, "max_iter": 2, "random_state": 0}
    model = FNNRegressor(**settings).fit(frame, frame["day"].dt.month, validation_data=None)
    np.testing.assert_array_equal(model.predict(path), model.predict(frame))
    other = frame.assign(city=1.0)
    other.to_parquet(tmp_path / "other.parquet")
    with pytest.raises(TypeError, match="column 'city' must hold text as in training, got numbers"):
        model.predict(tmp_path / "other.parquet")
    with pytest.raises(TypeError, match="categorical_features"):
        FNNClassifier(categorical_features=["city"]).fit(path, "answer")
    with pytest.raises(TypeError, match="X must hold real numbers"):
        FNN([6, 4, 3]).fit(path, "answer")
