import io

import joblib
import numpy as np
import pytest

from nbnorm import FNN, AdamW, Cosine, EarlyStopping
from nbnorm.interop import trusted_types

estimators = pytest.importorskip("nbnorm.estimators")
skops = pytest.importorskip("skops.io")

MODELS = {
    "classifier": lambda: estimators.FNNClassifier((3,), n_estimators=2, encoding="piecewise", max_iter=1),
    "options": lambda: estimators.FNNClassifier(
        (3,), max_iter=2, learning_rate=Cosine(), early_stopping=EarlyStopping("val_loss"), norm="before"
    ),
    "huber": lambda: estimators.FNNRegressor((3,), loss="huber", max_iter=1, dtype="float64"),
    "poisson": lambda: estimators.FNNRegressor((3,), loss="poisson", max_iter=1),
    "scaler": lambda: estimators.StandardScaler(),
}


def answers(model, X):
    return model.transform(X) if hasattr(model, "transform") else model.predict(X)


@pytest.mark.parametrize("case", MODELS)
def test_skops_and_joblib_hold_estimators(tmp_path, table, case):
    X, y = table
    model = MODELS[case]().fit(X, y)
    data = skops.dumps(model)
    assert set(skops.get_untrusted_types(data=data)) <= set(trusted_types())
    got = skops.loads(data, trusted=trusted_types())
    np.testing.assert_array_equal(answers(got, X), answers(model, X))
    if case == "classifier":
        got.partial_fit(X, y)
    joblib.dump(model, tmp_path / "model.joblib")
    np.testing.assert_array_equal(answers(joblib.load(tmp_path / "model.joblib"), X), answers(model, X))


def test_trusted_types_exist():
    assert f"{AdamW.__module__}.AdamW" in trusted_types()
    for name in trusted_types():
        module, _, kind = name.rpartition(".")
        assert hasattr(__import__(module, fromlist=[kind]), kind)


@pytest.mark.parametrize("encoding", [None, "piecewise"])
def test_network_keeps_names_of_columns_and_classes(table, encoding):
    pandas = pytest.importorskip("pandas")
    X = pandas.DataFrame(table[0], columns=list("abcdef"))
    y = np.array(["low", "middle", "high"])[table[1]]
    model = estimators.FNNClassifier((3,), max_iter=1, n_estimators=1, encoding=encoding).fit(X, y)
    model.partial_fit(X, y)
    file = io.BytesIO()
    model.network_.save(file)
    file.seek(0)
    net = FNN.load(file)
    assert net.metadata == {"features": list("abcdef"), "classes": ["high", "low", "middle"]}
    got = np.array(net.metadata["classes"])[net.predict(X[list("fbacde")])]
    assert got.tolist() == model.predict(X).tolist()
    model.fit(table[0], table[1])
    assert model.network_.metadata == {"classes": [0, 1, 2]}
