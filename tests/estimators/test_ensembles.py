"""Estimators of several networks, and with encoded columns."""

import pickle
import warnings

import numpy as np
import pytest
import scipy.sparse
from numba import config
from numpy.testing import assert_allclose, assert_array_equal

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from nbnorm import set_num_threads
from nbnorm.estimators import FNNClassifier, FNNRegressor
from nbnorm.interop import to_onnx

pytestmark = pytest.mark.skipif(config.DISABLE_JIT, reason="too much arithmetic for the interpreter")


def data(n=200):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 4))
    return X, np.array(["low", "middle", "high"])[(X[:, 0] > -0.4).astype(int) + (np.abs(X[:, 1]) < 0.5)]


def small(kind=FNNClassifier, **options):
    options = {"n_estimators": 1, "encoding": None, **options}
    return kind(**{"hidden_layer_sizes": (8,), "max_iter": 6, "random_state": 3, **options})


def test_probabilities_are_averaged():
    X, y = data()
    model = small(n_estimators=3).fit(X, y)
    expected = np.mean([net.predict_proba(X) for net in model.networks_], axis=0)
    assert_allclose(model.predict_proba(X), expected, rtol=1e-5)
    assert_array_equal(model.predict(X), model.classes_[expected.argmax(axis=1)])
    assert_allclose(np.exp(model.predict_log_proba(X)).sum(axis=1), 1, rtol=1e-5)
    assert len({net.seed for net in model.networks_}) == 3
    assert model.network_ is model.networks_[0]


def test_bins_of_the_networks():
    X, y = data(900)
    model = small(n_estimators=3, encoding="piecewise", max_iter=1).fit(X, y)
    assert [net.bins for net in model.networks_] == [8, 3, 8]
    assert [net.widths[0] for net in model.networks_] == [36, 16, 36]
    assert len(model.get_feature_names_out()) == 36
    alike = small(n_estimators=2, encoding="piecewise", bins=4, max_iter=1).fit(X, y)
    assert [net.bins for net in alike.networks_] == [4, 4]
    values = small(FNNRegressor, n_estimators=2, encoding="piecewise", max_iter=2).fit(X, np.abs(X[:, 0]))
    assert values.networks_[0].bins == values.networks_[1].bins


def shapes(model):
    return [(net.sizes[1:-1], net.activations) for net in model.networks_]


@pytest.mark.parametrize("kind", [FNNClassifier, FNNRegressor])
def test_networks_differ_by_default(kind):
    X, y = data(60)
    y = y if kind is FNNClassifier else X[:, 0]
    options = {"n_estimators": 5, "max_iter": 1, "encoding": None, "random_state": 0}
    one, two = ((100,), ("relu",)), ((64, 64), ("silu", "relu"))
    assert shapes(kind(**options).fit(X, y)) == [one, one, two, one, two]
    assert shapes(kind(activation="relu", **options).fit(X, y))[2] == ((64, 64), ("relu", "relu"))
    for own in ({"dropout": [0.1]}, {"activation": ["relu"]}, {"hidden_layer_sizes": 100}):
        assert shapes(kind(**options, **own).fit(X, y)) == [one] * 5
    with pytest.raises(ValueError, match="hidden_layer_sizes must be one of 'auto'"):
        kind("deep", **options).fit(X, y)


@pytest.mark.parametrize("kind", [FNNClassifier, FNNRegressor])
def test_networks_that_differ_are_trained_kept_and_written_as_others(kind, tmp_path):
    X, y = data(60)
    y = y if kind is FNNClassifier else X[:, 0]
    options = {"n_estimators": 5, "max_iter": 2, "random_state": 0, "dtype": "float32"}

    def kill(net, history):
        if history.epochs == 1 and len(net.sizes) == 4:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        kind(**options, callbacks=[kill]).fit(X, y, checkpoint=tmp_path / "c.npz")
    model = kind(**options, warm_start=True).fit(X, y, checkpoint=tmp_path / "c.npz")
    whole = kind(**options).fit(X, y)
    assert_array_equal(model.predict(X), whole.predict(X))
    assert_array_equal(pickle.loads(pickle.dumps(whole)).predict(X), whole.predict(X))
    assert [net.epochs_trained for net in model.fit(X, y).networks_] == [4] * 5
    assert [net.epochs_trained for net in model.partial_fit(X, y).networks_] == [5] * 5
    with pytest.raises(ValueError, match="hidden_layer_sizes must stay 'auto'"):
        model.set_params(hidden_layer_sizes=(100,)).fit(X, y)
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    whole_file = tmp_path / "model.onnx"
    to_onnx(whole, whole_file)
    session = onnxruntime.InferenceSession(whole_file.read_bytes())
    answers = session.run(None, {"X": X.astype(np.float32)})
    expected = whole.predict_proba(X) if kind is FNNClassifier else whole.predict(X)
    assert_allclose(np.reshape(answers[-1], expected.shape), expected, rtol=1e-4, atol=1e-5)


def test_with_few_samples_every_second_network_has_bins():
    X, y = data(300)
    cases = ((FNNClassifier, y, [8, None, 8]), (FNNRegressor, X[:, 0], [None, 8, None]))
    for kind, targets, bins in cases:  # what is better: bins, and dropout
        model = small(kind, n_estimators=3, encoding="piecewise", max_iter=1).fit(X, targets)
        assert [net.bins for net in model.networks_] == bins
        model.fit(scipy.sparse.csr_array(X), targets)
        assert [net.bins for net in model.networks_] == bins
    in_parts = small(n_estimators=2, encoding="piecewise").partial_fit(X, y, classes=np.unique(y))
    assert [net.bins for net in in_parts.networks_] == [None, 8]


def test_few_samples_with_little_noise_keep_bins_and_have_no_dropout():
    rng = np.random.default_rng(0)
    X = rng.uniform(-3.0, 3.0, size=(200, 1))
    smooth, noise = np.sin(2.0 * X[:, 0]), rng.normal(size=200)
    model = FNNRegressor(n_estimators=2, random_state=0).fit(X, smooth + 0.1 * noise)
    assert [net.dropout for net in model.networks_] == [(0.0,)] * 2
    assert [net.bins for net in model.networks_] == [8, 8]
    noisy = FNNRegressor(n_estimators=2, random_state=0).fit(X, 0.3 * X[:, 0] + noise)
    assert [net.dropout for net in noisy.networks_] == [(0.3,)] * 2
    assert [net.bins for net in noisy.networks_] == [None, 8]
    between = FNNRegressor(n_estimators=3, random_state=0).fit(X, smooth + noise)
    assert [net.dropout for net in between.networks_] == [(0.0,), (0.0,), (0.0, 0.0)]
    assert [net.bins for net in between.networks_] == [8, None, 8]  # the better kind is that of the first
    classes = FNNClassifier(n_estimators=2, random_state=0).fit(X, smooth > 0.0)
    assert [net.bins for net in classes.networks_] == [8, 3]


def test_what_the_comparison_of_few_samples_found_holds_for_very_few_too():
    x = np.linspace(-3.0, 3.0, 80)[:, None]
    model = FNNRegressor(n_estimators=2, random_state=0).fit(x, np.sin(2.0 * x[:, 0]))
    assert [net.bins for net in model.networks_] == [3, 3]
    assert [net.dropout for net in model.networks_] == [(0.0,)] * 2


def test_dropout_of_few_samples():
    X, y = data(300)
    assert small(max_iter=1).fit(X, y).network_.dropout == (0.3,)
    more = data(800)
    assert small(max_iter=1).fit(*more).network_.dropout == (0.0,)
    for options in (
        {"dropout": 0.0},
        {"weighted_statistics": True},
        {"learning_rate": "constant"},
        {"activation": "tanh"},
        {"solver": "sgd"},
        {"norm": None},
    ):
        model = small(max_iter=1, **options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            assert model.fit(X, y).network_.dropout == (0.0,), options
    assert small().partial_fit(X, y, classes=np.unique(y)).network_.dropout == (0.0,)


def test_the_first_network_is_that_of_a_single_one():
    X, y = data()
    several, single = small(n_estimators=3).fit(X, y), small().fit(X, y)
    assert several.loss_curve_ == single.loss_curve_
    assert_array_equal(several.network_.forward(X), single.network_.forward(X))
    assert len(single.networks_) == 1


@pytest.mark.parametrize(("count", "text"), [(2, "trained 2/2 100%"), (1, "epoch 6/6 100%")])
def test_a_progress_bar_where_it_is_asked_for(count, text, capsys):
    pytest.importorskip("tqdm")
    X, y = data()
    shown = small(n_estimators=count, progress=True).fit(X, y)
    assert text in capsys.readouterr().err
    silent = small(n_estimators=count).fit(X, y)
    assert capsys.readouterr().err == ""
    assert_array_equal(shown.predict_proba(X), silent.predict_proba(X))


@pytest.mark.parametrize("encoding", [None, "piecewise"])
@pytest.mark.parametrize("outputs", [1, 2])
def test_values_are_averaged(encoding, outputs):
    X, _ = data()
    Y = np.abs(X[:, :outputs]).squeeze()
    model = small(FNNRegressor, n_estimators=2, encoding=encoding, clip=False).fit(X, Y)
    expected = np.mean([net.predict(X) for net in model.networks_], axis=0)
    assert_allclose(model.predict(X), expected, rtol=1e-12)
    assert model.predict(X).shape == Y.shape


def test_labels_two_classes_and_one():
    X, y = data()
    several = small(n_estimators=2).fit(X, np.stack([y == "low", y == "high"], axis=1).astype(int))
    p = np.mean([net.predict_proba(X) for net in several.networks_], axis=0)
    assert_array_equal(several.predict(X), (p > 0.5).astype(int))
    two = small(n_estimators=2).fit(X, y == "low")
    assert two.predict(X).dtype == bool
    assert two.predict_proba(X).shape == (200, 2)
    assert set(small(n_estimators=2).fit(X, np.full(200, "one")).predict(X)) == {"one"}


@pytest.mark.parametrize("options", [{"early_stopping": True}, {"class_weight": "balanced"}, {"norm": None}])
def test_bits_do_not_depend_on_threads(options):
    X, y = data()
    set_num_threads(1)
    one = small(n_estimators=4, encoding="piecewise", **options).fit(X, y)
    set_num_threads(None)
    more = clone(one).fit(X, y)
    assert_array_equal(one.predict_proba(X), more.predict_proba(X))


@pytest.mark.parametrize("encoding", [None, "piecewise"])
def test_training_goes_on_with_all(encoding):
    X, y = data()
    model = small(n_estimators=2, encoding=encoding, warm_start=True).fit(X, y)
    assert [net.epochs_trained for net in model.fit(X, y).networks_] == [12, 12]
    assert (len(model.loss_curve_), model.n_iter_, model.t_) == (12, 6, 12 * 200)
    parts = small(n_estimators=2, encoding=encoding)
    for half in (slice(0, 100), slice(100, 200)):
        parts.partial_fit(X[half], y[half], classes=np.unique(y))
    assert [net.epochs_trained for net in parts.networks_] == [2, 2]
    assert parts.network_.standardizer.n_samples_seen_ == 200
    model.n_estimators = 3
    with pytest.raises(ValueError, match="n_estimators must stay 2"):
        model.fit(X, y)


def test_a_training_that_was_killed_goes_on(tmp_path):
    X, y = data()
    whole = small(n_estimators=3, encoding="piecewise").fit(X, y)

    def kill(net, history):
        if history.epochs == 3:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        small(n_estimators=3, encoding="piecewise", callbacks=[kill]).fit(X, y, checkpoint=tmp_path / "c.npz")
    resumed = small(n_estimators=3, encoding="piecewise").fit(X, y, checkpoint=tmp_path / "c.npz")
    assert_array_equal(resumed.predict_proba(X), whole.predict_proba(X))


def test_missing_numbers_and_sparse_matrices_with_an_encoding():
    X, y = data()
    X[np.random.default_rng(1).random(X.shape) < 0.2] = np.nan
    model = small(encoding="piecewise", max_iter=20).fit(X, y)
    assert model.score(X, y) > 0.6
    with pytest.raises(ValueError, match="NaN"):
        small().fit(X, y)
    zeros = np.nan_to_num(X)
    dense = small(encoding="piecewise").fit(zeros, y)
    sparse = small(encoding="piecewise").fit(scipy.sparse.csr_array(zeros), y)
    assert_allclose(sparse.predict_proba(zeros), dense.predict_proba(zeros), rtol=1e-4)


def test_an_encoding_bends_where_the_data_are():
    X = np.random.default_rng(0).uniform(-1, 1, (300, 1))
    y = np.abs(X[:, 0]) < 0.4
    options = {"hidden_layer_sizes": (), "max_iter": 60, "learning_rate_init": 0.05, "weight_decay": 0.0}
    assert small(**options).fit(X, y).score(X, y) < 0.75
    assert small(encoding="piecewise", bins=8, **options).fit(X, y).score(X, y) > 0.97


@pytest.mark.parametrize(
    ("options", "message"),
    [({"n_estimators": 0}, "n_estimators"), ({"bins": 1}, "bins"), ({"encoding": "linear"}, "encoding")],
)
def test_refusals(options, message):
    X, y = data()
    with pytest.raises(ValueError, match=message):
        small(**options).fit(X, y)
