import io
import json

import numpy as np
import pytest
from numba import njit

from nbnorm import FNN, Activation, Quantile, Standardizer
from nbnorm.functions.activations import CODES
from nbnorm.interop import to_onnx

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
estimators = pytest.importorskip("nbnorm.estimators")

TOLERANCE = 2e-4


def computed(model, X, **options):
    """Return what ONNX Runtime computes with a model, by name."""
    file = io.BytesIO()
    to_onnx(model, file, **options)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    assert [given.name for given in session.get_inputs()] == ["X"]
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"X": X}), strict=True))


def assert_close(got, expected):
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize("norm", ["after", "before", "layer", "rms_after", None])
@pytest.mark.parametrize("activation", CODES)
def test_to_onnx_networks(table, trained, activation, norm):
    X, _ = table
    net = trained(activation=activation, norm=norm)
    for options in ({}, {"fold": False}, {"dtype": "float64"}):
        x = X.astype(options.get("dtype", "float32"))
        got = computed(net, x, **options)
        assert_close(got["probabilities"], net.predict_proba(x))
        np.testing.assert_array_equal(got["label"], net.predict(x))
        assert_close(computed(net, x[:1], **options)["probabilities"], net.predict_proba(x[:1]))


@pytest.mark.parametrize(("running", "eps"), [("std", 1e-3), ("var", 1e-12)])
def test_to_onnx_moving_averages(table, trained, running, eps):
    # features that hardly vary: folded, the shift would cancel the digits that the answer has
    net = trained(activation="sigmoid", running=running, eps=eps)
    net.buffers()["norm1.running_mean"][:] = 0.999
    net.buffers()[f"norm1.running_{running}"][:] = 1e-7
    net.parameters()["dense1.bias"][:] = 9.0
    assert_close(computed(net, table[0])["probabilities"], net.predict_proba(table[0]))


def test_to_onnx_keeps_the_digits_of_features_far_from_zero(trained):
    rng = np.random.default_rng(1)
    X = rng.normal(size=(96, 6)) + 1e5
    net = trained(X=X, y=(X[:, 0] > 1e5).astype(int))
    x = X.astype(np.float32)
    assert_close(computed(net, x)["probabilities"], net.predict_proba(x))
    assert_close(computed(net, X, dtype=np.float64)["probabilities"], net.predict_proba(X))


@pytest.mark.parametrize("outputs", [1, 2])
def test_to_onnx_flags(table, trained, outputs):
    X, y = table
    net = trained((6, 5, outputs), y=np.stack([y == 1] * outputs, axis=1).astype(float), output="sigmoid")
    got = computed(net, X)
    assert_close(got["probabilities"], net.predict_proba(X))
    np.testing.assert_array_equal(got["label"], net.predict(X))


@pytest.mark.parametrize(
    ("options", "dtype"),
    [({}, np.float32), ({"standardize_targets": True}, np.float64), ({"loss": "poisson"}, np.float32)],
)
@pytest.mark.parametrize("outputs", [1, 2])
def test_to_onnx_values(table, trained, options, dtype, outputs):
    X, _ = table
    y = np.abs(X[:, 3 : 3 + outputs]).astype(float) + (1e6 if "standardize_targets" in options else 0.0)
    net = trained((6, 5, outputs), y=y, output="identity", **options)
    got = computed(net, X)["prediction"]
    assert got.dtype == dtype
    assert_close(got, net.predict(X))
    assert_close(got - y.reshape(got.shape), net.predict(X) - y.reshape(got.shape))


def test_to_onnx_quantiles_that_share_a_target(table, trained):
    X, _ = table
    options = {"output": "identity", "loss": Quantile((0.1, 0.9)), "standardize_targets": True}
    net = trained((6, 5, 4), y=X[:, 3:5] * [3.0, 5.0] + 7.0, **options)
    assert_close(computed(net, X)["prediction"], net.predict(X))


def test_to_onnx_encoded_columns(table, trained):
    X = table[0].copy()
    X[::5, 1] = X[::7, 4] = np.nan
    X[:, 3] = np.round(X[:, 3])
    for standardize in (True, False):
        net = trained(X=X, encoding="piecewise", bins=4, standardize=standardize)
        assert_close(computed(net, X)["probabilities"], net.predict_proba(X))
    with pytest.raises(RuntimeError, match="call of fit first"):
        to_onnx(FNN([6, 2], encoding="piecewise"), io.BytesIO())


CLASSES = {
    "text": ["no", "rather", "yes"],
    "objects": np.array(["no", "yes"], object),
    "integers": [-5, 7],
    "booleans": [False, True],
    "numbers": [1.0, 2.0, 4.0],
    "one": ["only"],
}


@pytest.mark.parametrize("networks", [1, 2])
@pytest.mark.parametrize("classes", CLASSES)
def test_to_onnx_classifiers(table, classes, networks):
    X, _ = table
    names = np.asarray(CLASSES[classes])
    y = names[np.arange(len(X)) % len(names)]
    model = estimators.FNNClassifier((5,), n_estimators=networks, max_iter=1, random_state=0).fit(X, y)
    got = computed(model, X)
    assert_close(got["probabilities"], model.predict_proba(X))
    assert got["label"].tolist() == model.predict(X).tolist()


@pytest.mark.parametrize("networks", [1, 2])
def test_to_onnx_several_labels_and_encoding(table, networks):
    X, y = table
    labels = np.stack([y > 0, y > 1], axis=1).astype(int)
    model = estimators.FNNClassifier(
        (5,), n_estimators=networks, encoding="piecewise", max_iter=1, random_state=0
    ).fit(X, labels)
    got = computed(model, X)
    assert_close(got["probabilities"], model.predict_proba(X))
    np.testing.assert_array_equal(got["label"], model.predict(X))


@pytest.mark.parametrize("networks", [1, 3])
@pytest.mark.parametrize("outputs", [0, 2])
def test_to_onnx_regressors(table, networks, outputs):
    X, _ = table
    y = X[:, 0].astype(float) * 3 if outputs == 0 else X[:, 3 : 3 + outputs] * 3.0
    model = estimators.FNNRegressor((5,), n_estimators=networks, max_iter=1, random_state=0).fit(X, y)
    assert_close(computed(model, X)["prediction"], model.predict(X))


@pytest.mark.parametrize("options", [{"standardize_targets": False}, {}, {"clip": False}])
@pytest.mark.parametrize("columns", [0, 2])
@pytest.mark.parametrize("kind", ["log", "log1p", "quantiles"])
def test_to_onnx_what_predict_does_to_values(table, kind, columns, options):
    X, _ = table
    y = np.exp(np.sin(X[:, :columns].astype(float) if columns else X[:, 0].astype(float)))
    # The levels lie so close that the outputs of a network that has hardly learned cross.
    more = {"target_transform": kind} if kind != "quantiles" else {"loss": Quantile([0.49, 0.5, 0.51])}
    model = estimators.FNNRegressor((5,), n_estimators=2, max_iter=1, random_state=0, **more, **options)
    expected = model.fit(X, y).predict(X)
    assert_close(computed(model, X)["prediction"], expected)
    assert kind != "quantiles" or (np.diff(expected) >= 0).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_to_onnx_standardizers(table, dtype):
    X = table[0].astype(dtype)
    X[:, 3] = 4.0
    for model in (
        Standardizer().fit(X),
        Standardizer(with_mean=False).fit(X),
        estimators.StandardScaler().fit(X),
        estimators.StandardScaler(with_std=False).fit(X),
    ):
        assert_close(computed(model, X, dtype=dtype)["standardized"], np.asarray(model.transform(X)))
    scaler = estimators.StandardScaler().fit(X)
    scaler.mean_ = np.zeros(6)
    assert_close(computed(scaler, X, dtype=dtype)["standardized"], scaler.transform(X))


def test_to_onnx_notes(trained, tmp_path):
    net = trained()
    net.metadata["unit"] = "m²"
    to_onnx(net, tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert model.producer_name == "nbnorm"
    assert {p.key: json.loads(p.value) for p in model.metadata_props} == {"metadata": {"unit": "m²"}}
    first = (tmp_path / "net.onnx").read_bytes()
    to_onnx(net, tmp_path / "net.onnx")
    assert (tmp_path / "net.onnx").read_bytes() == first


@njit
def square(z):
    return z * z


@njit
def double(z):
    return 2 * z


def test_to_onnx_refuses(tmp_path):
    path = tmp_path / "net.onnx"
    path.write_text("before")
    own = FNN([3, 4, 5, 2], activation=["relu", Activation(square, double)])
    broken = FNN([3, 2])
    broken.parameters()["dense1.bias"][0] = np.nan
    for model, error, message in (
        (own, ValueError, "hidden layer 2 has the activation 'square', a function of your own"),
        (broken, ValueError, r"dense1\.bias must"),
        (
            Standardizer().fit([[0.0], [1e100]]),
            ValueError,
            r"feature 0 has the scale 5e\+99, which float32 ca",
        ),
        (estimators.FNNClassifier((2,), max_iter=1), ValueError, "not fitted"),
        (Standardizer(), ValueError, "not fitted"),
        ("net", TypeError, "model must be an FNN, .* got str"),
    ):
        with pytest.raises(error, match=message):
            to_onnx(model, path)
    with pytest.raises((TypeError, ValueError), match="dtype must be float32 or float64"):
        to_onnx(FNN([3, 2]), path, dtype="float16")
    assert path.read_text() == "before"


def a_table(rows):
    """Return a frame with a column of each kind, of which some lack values."""
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    frame = pandas.DataFrame(
        {
            "age": rng.normal(40.0, 12.0, rows),
            "city of birth": rng.choice(["Rome", "Oslo", "København"], rows),
            "label": rng.choice(["a", ""], rows),  # called like an output; empty text is a level
            "seen": pandas.to_datetime("2026-01-01") + pandas.to_timedelta(rng.integers(0, 1e9, rows), "ms"),
            "took": pandas.to_timedelta(rng.integers(0, 1e6, rows), "s"),
            "flag": rng.random(rows) < 0.5,
            "number": rng.integers(0, 9, rows) + 2**40,
            "code": pandas.Categorical(rng.choice([3, 5, 2**40, 2**40 + 1], rows)),
            "nothing": np.full(rows, np.nan),
            "rare": np.where(np.arange(rows) % 40 == 7, "seldom", "often"),
            "gemm0": rng.choice(["x", "y", "z"], rows),
        }
    )
    for name in ("age", "city of birth", "label", "seen", "took", "gemm0"):
        frame.loc[rng.random(rows) < 0.1, name] = None
    return frame


def as_inputs(session, notes, frame):
    """Return the columns of a frame as the inputs of a model, by what its notes say of them."""
    pandas = pytest.importorskip("pandas")
    found = {}
    for note in notes:
        column = frame[note["name"]]
        if "missing" in note:
            found[note["input"]] = column.astype(object).fillna(note["missing"]).to_numpy()[:, None]
            continue
        day = pandas.Timedelta(days=1)
        if note["kind"] == "date":
            column = (column - pandas.Timestamp(0)) / day
        elif note["kind"] == "duration":
            column = column / day
        found[note["input"]] = column.to_numpy(float)[:, None]
    kinds = {given.name: given.type for given in session.get_inputs()}
    assert {
        name: "tensor(string)" if x.dtype == object else "tensor(double)" for name, x in found.items()
    } == kinds
    return found


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("classes", {}),
        ("classes", {"encoding": None, "n_estimators": 2, "class_weight": "balanced"}),
        ("flags", {"dtype": "float64"}),
        ("values", {"target_transform": "log", "min_frequency": 30}),
        ("values", {"loss": Quantile([0.2, 0.7]), "bins": 3}),
    ],
)
def test_to_onnx_tables(kind, options):
    frame = a_table(300)
    if options.get("encoding", "") is None:
        frame[["age", "number", "nothing"]] = frame[["age", "number", "nothing"]].fillna(0.0)
        frame = frame.dropna(subset=["seen", "took"])
    target = np.exp(np.nan_to_num(frame["age"].to_numpy(float)) / 40 + (frame["city of birth"] == "Oslo"))
    is_regressor = kind == "values"
    y = {"classes": np.where(target > 3, "old", "young"), "values": target}.get(kind)
    y = np.stack([target > 2, target > 3], axis=1).astype(int) if y is None else y
    estimator = estimators.FNNRegressor if is_regressor else estimators.FNNClassifier
    model = estimator((6,), max_iter=2, random_state=0, **{"n_estimators": 2, **options}).fit(frame, y)
    file = io.BytesIO()
    to_onnx(model, file, dtype=options.get("dtype", "float32"))
    notes = json.loads(
        {p.key: p.value for p in onnx.load_from_string(file.getvalue()).metadata_props}["columns"]
    )
    assert [note["name"] for note in notes] == list(frame)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    other = frame.copy()
    other.loc[other.index[::3], "city of birth"] = "Utopia"
    other["code"] = np.where(np.arange(len(other)) % 4 == 0, 77, other["code"].astype(int))
    if model.encoding is not None:
        other.loc[other.index[::7], "age"] = np.inf
        other.loc[other.index[1::7], "age"] = -np.inf
        other.loc[other.index[2::7], "number"] = np.nan
    for given in (frame, other, other[:1], other[:0]):
        got = dict(
            zip(
                [output.name for output in session.get_outputs()],
                session.run(None, as_inputs(session, notes, given)),
                strict=True,
            )
        )
        if len(given) == 0:
            assert all(len(answer) == 0 for answer in got.values())
        elif is_regressor:
            assert_close(got["prediction"], model.predict(given))
        else:
            assert_close(got["probabilities"], model.predict_proba(given))
            assert got["label"].tolist() == model.predict(given).tolist()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_to_onnx_categories_among_numbers(table, dtype):
    X, y = table
    X = X.astype(dtype)
    X[:, 1], X[:, 4] = np.arange(len(X)) % 5 - 2.5, np.arange(len(X)) % 3
    X[::9, 4] = X[::11, 0] = np.nan
    model = estimators.FNNClassifier(
        (5,), max_iter=1, categorical_features=[1, 4], random_state=0, n_estimators=2
    ).fit(X, y)
    X[::5, 1], X[3, 0], X[4, 0] = 99.0, np.inf, -np.inf
    for x in (X, X[:1]):
        assert_close(computed(model, x, dtype=dtype)["probabilities"], model.predict_proba(x))
    X = np.array([["a", 1.0], ["b", 2.0], [None, 3.0]] * 9, object)
    model.set_params(categorical_features=[0]).fit(X, np.arange(27) % 3)
    file = io.BytesIO()
    to_onnx(model, file)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    text = np.where(X[:, :1] == None, "", X[:, :1])  # noqa: E711
    got = session.run(["probabilities"], {"x0": text, "x1": X[:, 1:].astype(float)})[0]
    assert_close(got, model.predict_proba(X))


def test_to_onnx_refuses_levels_that_no_input_has():
    pandas = pytest.importorskip("pandas")
    y = np.arange(40) % 2
    mixed = pandas.DataFrame({"a": pandas.Categorical(["x", 1] * 20), "b": y * 1.0})
    model = estimators.FNNClassifier((2,), max_iter=1, n_estimators=1)
    with pytest.raises(ValueError, match="column 'a' has levels of text and of numbers"):
        to_onnx(model.fit(mixed, y), io.BytesIO())
    close = np.column_stack([1.0 + y * 1e-12, y])
    model.set_params(categorical_features=[0]).fit(close, y)
    with pytest.raises(ValueError, match="column 'x0' has levels that are one in float32: give"):
        to_onnx(model, io.BytesIO())
    assert_close(computed(model, close, dtype="float64")["probabilities"], model.predict_proba(close))
