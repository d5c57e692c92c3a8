"""FNNClassifier: scikit-learn's own checks, and what they leave out."""

import ast
import functools
import inspect
import math
import pickle
import re
import warnings
from decimal import Decimal

import numpy as np
import pytest
import scipy.sparse
from case_names import case_name
from numba import config, njit

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.datasets import make_blobs, make_friedman1, make_moons
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score, fbeta_score, get_scorer, make_scorer
from sklearn.model_selection import GridSearchCV, TimeSeriesSplit, cross_val_score
from sklearn.model_selection import train_test_split as split_rows
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from nbnorm import CrossEntropy, load_digits, train_test_split
from nbnorm.estimators import FNNClassifier, FNNRegressor
from nbnorm.functions.activations import Activation
from nbnorm.model import defaults
from nbnorm.model.metrics import name_of
from nbnorm.model.schedules import Constant, OneCycle, Plateau, StepDecay
from nbnorm.model.stopping import EarlyStopping

pytestmark = pytest.mark.skipif(config.DISABLE_JIT, reason="too much arithmetic for the interpreter")


@njit
def _sine(z):
    return np.sin(z)


@njit
def _sine_slope(z):
    return np.cos(z)


SMOOTH = Activation(_sine, _sine_slope)

# One network passes the checks as well as five.
CONFIGURATIONS = [
    FNNClassifier(n_estimators=2),
    FNNClassifier(
        n_estimators=1,
        norm="before",
        solver="sgd",
        learning_rate="constant",
        learning_rate_init=0.01,
        weighted_statistics=True,
    ),
    FNNClassifier(
        (20, 10), "tanh", n_estimators=1, norm=None, standardize=False, alpha=1e-3, learning_rate="adaptive"
    ),
]


def expected_failures(estimator):
    """The checks that do not hold for an estimator, and why."""
    if estimator.norm is None or estimator.weighted_statistics:
        return {}
    reason = "the statistics of batch norm count each row once, whatever its weight"
    return {f"check_sample_weight_equivalence_on_{kind}_data": reason for kind in ("dense", "sparse")}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@parametrize_with_checks(CONFIGURATIONS, expected_failed_checks=expected_failures)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize(
    ("which", "name"),
    [(which, name) for which in (FNNClassifier, FNNRegressor) for name in which().get_params()],
)
def test_parameters_are_checked(which, name, data):
    wrong = [object(), "no such thing", float("nan"), -3.5, {"a": 1}]
    for value in wrong[2:] if name == "early_stopping" else wrong:  # any name may be that of a metric
        if name == "class_weight" and isinstance(value, dict):
            continue
        with pytest.raises((TypeError, ValueError), match="seed" if name == "random_state" else name):
            which(**{name: value}).fit(*data)


@pytest.mark.parametrize("which", [FNNClassifier, FNNRegressor])
def test_docstring_lists_the_parameters_with_their_defaults(which):
    part = re.split(r"\n\s*(?:Parameters|Attributes)\n\s*-+\n", which.__doc__)[1]
    entries = re.findall(r"^    (\S.*?) : (.*)$", part, flags=re.MULTILINE)
    got = [name for names, _ in entries for name in names.split(", ")]
    parameters = inspect.signature(which).parameters
    assert got == list(parameters)
    assert "@" not in which.__doc__
    assert "<" not in part
    for names, text in entries:
        if ", " not in names:
            assert ast.literal_eval(text.split("default ")[1]) == parameters[names].default, names


def small(**options):
    """Return an estimator that is trained at once."""
    options = {"learning_rate_init": 0.05, "n_estimators": 1, "encoding": None, **options}
    return FNNClassifier(**{"hidden_layer_sizes": (8,), "max_iter": 5, "random_state": 0, **options})


@pytest.fixture
def data():
    return make_blobs(90, n_features=4, centers=3, cluster_std=2.0, random_state=1)


def test_learns(data):
    X, y = data
    model = FNNClassifier(random_state=0).fit(X[::2], y[::2])
    assert model.score(X[1::2], y[1::2]) > 0.9


def test_attributes(data):
    model = small().fit(*data)
    assert (model.n_features_in_, model.n_layers_, model.n_outputs_) == (4, 3, 3)
    assert (model.n_iter_, model.t_, model.out_activation_) == (5, 450, "softmax")
    assert model.loss_curve_[-1] == model.loss_
    assert model.best_loss_ == min(model.loss_curve_)
    assert model.validation_scores_ is model.best_validation_score_ is None
    np.testing.assert_array_equal(model.classes_, [0, 1, 2])


@pytest.mark.parametrize("names", [["a", "b", "c"], [3.0, 0.0, 7.0], [True, False]])
def test_labels_of_any_type(names, data):
    X, y = data
    y = y % len(names)
    got = small().fit(X, np.array(names)[y]).predict(X)
    order = np.argsort(names)
    expected = np.sort(names)[small().fit(X, np.argsort(order)[y]).predict(X)]
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_data_frames(library, data):
    frames = pytest.importorskip(library)
    X, y = data
    table = frames.DataFrame({name: X[:, i] for i, name in enumerate("abcd")})
    model = small().fit(table, frames.Series(["xyz"[i] for i in y]))
    assert list(model.feature_names_in_) == list("abcd")
    expected = np.array(list("xyz"))[small().fit(X, y).predict(X)]
    np.testing.assert_array_equal(model.predict(table), expected)
    with pytest.raises(ValueError, match="feature names"):
        model.predict(table[list("abdc")])


def test_columns_of_any_numbers(data):
    pandas = pytest.importorskip("pandas")
    polars = pytest.importorskip("polars")
    X, y = np.rint(data[0]), data[1]
    expected = small().fit(X, y).predict_proba(X)
    as_integers = pandas.DataFrame(X).astype({1: "Int64"})
    as_objects = pandas.DataFrame({str(j): [Decimal(int(v)) for v in X[:, j]] for j in range(4)})
    as_decimals = polars.DataFrame(X, schema=list("abcd")).cast(
        {"a": polars.Decimal(12, 2), "b": polars.Int8}
    )
    for table in (as_integers, as_objects, as_decimals):
        np.testing.assert_array_equal(small().fit(table, y).predict_proba(table), expected)


@pytest.mark.parametrize("kind", [scipy.sparse.csr_array, scipy.sparse.csc_matrix])
def test_sparse_is_dense(kind, data):
    X, y = data
    X = X * (np.random.default_rng(0).random(X.shape) < 0.5)
    got = small().fit(kind(X), y).predict_proba(kind(X))
    np.testing.assert_allclose(got, small().fit(X, y).predict_proba(X), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("uint8", "float32"), ("float16", "float32"), ("int64", "float64"), ("float64", "float64")],
)
def test_dtype_follows_the_data(dtype, expected, data):
    X, y = data
    X = np.round(X - X.min()).astype(dtype)
    model = small().fit(X, y)
    assert model.network_.dtype == expected
    assert model.predict_proba(X).dtype == expected
    assert small(dtype="float32").fit(X, y).network_.dtype == "float32"


def test_probabilities_in_training_mode(data):
    X, y = data
    model = small().fit(X, y)
    expected = model.predict_log_proba(X), model.predict_proba(X)
    model.network_.train()
    np.testing.assert_array_equal(model.predict_log_proba(X), expected[0])
    np.testing.assert_allclose(model.predict_proba(X[:1]), expected[1][:1], rtol=1e-9)
    assert model.network_.training
    model.network_.eval()
    np.testing.assert_array_equal(model.predict_proba(X), expected[1])


def test_several_labels():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 5))
    y = (X[:, :3] + 0.1 * rng.normal(size=(80, 3)) > 0).astype(int)
    model = small(max_iter=40).fit(X, y)
    assert model.out_activation_ == "logistic"
    assert model.score(X, y) > 0.8
    probability = model.predict_proba(X)
    assert probability.shape == (80, 3)
    np.testing.assert_array_equal(model.predict(X), probability > 0.5)
    np.testing.assert_array_equal(
        small(max_iter=40).fit(X, scipy.sparse.csr_array(y)).predict(X), model.predict(X)
    )
    with pytest.raises(ValueError, match="3 labels"):
        model.partial_fit(X, y[:, :2])


def test_one_class_is_always_predicted(data):
    X, _ = data
    model = small().fit(X, np.full(len(X), "only"))
    assert set(model.predict(X)) == {"only"}
    np.testing.assert_array_equal(model.predict_proba(X), np.ones((len(X), 1)))


@pytest.mark.parametrize("norm", ["after", "before", None])
@pytest.mark.parametrize("classes", [2, 3])
def test_coefs_are_those_of_a_plain_network(norm, classes, data):
    X, y = data
    y = y % classes
    model = small(hidden_layer_sizes=(6, 5), norm=norm).fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        plain = MLPClassifier((6, 5), max_iter=1).fit(X, y)
    plain.coefs_, plain.intercepts_ = model.coefs_, model.intercepts_
    np.testing.assert_allclose(plain.predict_proba(X), model.predict_proba(X), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("norm", ["layer", "rms_after"])
def test_normalization_of_each_sample(norm, data):
    X, y = data
    model = small(hidden_layer_sizes=(6, 5), norm=norm, batch_size=1).fit(X, y)
    assert model.history_.steps == len(model.history_.loss) * len(X)
    assert model.network_.norm == norm
    assert not hasattr(model, "coefs_")
    with pytest.raises(AttributeError, match=f"norm='{norm}' is no affine map"):
        _ = model.intercepts_
    with pytest.raises(ValueError, match="norm must be"):
        small(norm="group").fit(X, y)


def test_pickle_is_small_and_exact(data):
    X, y = data
    model = small(hidden_layer_sizes=(100,)).fit(X, y)
    text = pickle.dumps(model)
    assert len(text) < 8 * model.network_.n_parameters + 10_000
    np.testing.assert_array_equal(pickle.loads(text).predict_proba(X), model.predict_proba(X))


def test_in_a_pipeline_and_a_search(data):
    X, y = data
    search = GridSearchCV(make_pipeline(small()), {"fnnclassifier__norm": ["after", None]}, cv=2).fit(X, y)
    assert search.best_score_ > 0.5
    assert cross_val_score(small(), X, y, cv=2).shape == (2,)
    assert clone(small(class_weight={0: 2.0})).get_params() == small(class_weight={0: 2.0}).get_params()


def test_same_seed_same_bits(data):
    X, y = data
    got = small().fit(X, y).predict_proba(X)
    np.testing.assert_array_equal(got, small().fit(X, y).predict_proba(X))
    assert (got != small(random_state=1).fit(X, y).predict_proba(X)).any()


# ----------------------------------------------------------------------------------------------
# Going on
# ----------------------------------------------------------------------------------------------


def test_partial_fit_goes_on_like_fit(data):
    X, y = data
    parts = small()
    for _ in range(3):
        parts.partial_fit(X, y, classes=[0, 1, 2])
    whole = small(max_iter=3, learning_rate="constant")
    with pytest.warns(ConvergenceWarning):
        whole.fit(X, y)
    np.testing.assert_allclose(parts.loss_curve_, whole.loss_curve_, rtol=1e-9)
    np.testing.assert_allclose(parts.predict_proba(X), whole.predict_proba(X), rtol=1e-7)
    assert (parts.t_, parts.n_iter_) == (270, 1)


def test_partial_fit_needs_the_classes(data):
    X, y = data
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        small().partial_fit(X, y)
    model = small().partial_fit(X[y < 2], y[y < 2], classes=[0, 1, 2])
    np.testing.assert_array_equal(model.classes_, [0, 1, 2])
    with pytest.raises(ValueError, match="has classes not in"):
        model.partial_fit(X, y + 1)
    with pytest.raises(ValueError, match="as before"):
        model.partial_fit(X, y, classes=[0, 1])
    with pytest.raises(ValueError, match="early_stopping"):
        small(early_stopping=True).partial_fit(X, y, classes=[0, 1, 2])
    with pytest.raises(ValueError, match="balanced"):
        small(class_weight="balanced").partial_fit(X, y, classes=[0, 1, 2])


def test_partial_fit_gathers_the_statistics_of_all_parts(data):
    X, y = data
    model = small()
    for rows in (slice(0, 30), slice(30, 90)):
        model.partial_fit(X[rows], y[rows], classes=[0, 1, 2])
    np.testing.assert_allclose(model.network_.standardizer.mean_, X.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(model.network_.standardizer.scale_, X.std(axis=0), rtol=1e-12)


def test_partial_fit_goes_on_after_pickling(data):
    X, y = data
    model = small().partial_fit(X, y, classes=[0, 1, 2])
    again = pickle.loads(pickle.dumps(model)).partial_fit(X, y)
    np.testing.assert_array_equal(again.predict_proba(X), model.partial_fit(X, y).predict_proba(X))


def test_warm_start(data):
    X, y = data
    model = small(warm_start=True).fit(X, y)
    first = model.loss_
    assert model.fit(X, y).loss_ < first
    assert len(model.loss_curve_) == 10
    assert small().fit(X, y).fit(X, y).loss_ == first


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_layer_sizes": (9,)},
        {"activation": "tanh"},
        {"norm": None},
        {"decay": 0.5},
        {"dropout": 0.2},
        {"init": "glorot"},
        {"standardize": False},
        {"loss": CrossEntropy()},
        {"label_smoothing": 0.1},
        {"dtype": "float32"},
    ],
    ids=case_name,
)
def test_what_the_network_was_built_with_stays(change, data):
    X, y = data
    model = small(warm_start=True).fit(X, y).set_params(**change)
    before = model.predict_proba(X)
    for go_on in (model.fit, model.partial_fit):
        with pytest.raises(ValueError, match=f"{next(iter(change))} must stay .* where training goes on"):
            go_on(X, y)
    np.testing.assert_array_equal(model.predict_proba(X), before)
    model.set_params(warm_start=False).fit(X, y).partial_fit(X, y)


def test_the_same_in_other_words_may_go_on(data):
    X, y = data
    model = small(warm_start=True, activation="logistic", dtype="float32").fit(X, y)
    model.set_params(hidden_layer_sizes=8, activation=["sigmoid"], dtype=np.float32, max_iter=2, alpha=0.1)
    assert len(model.fit(X, y).loss_curve_) == 7


@pytest.mark.parametrize(
    ("then", "now"),
    [
        ({"dtype": "float32"}, {"dtype": "f4"}),
        ({"dtype": "d"}, {"dtype": float}),
        ({"activation": "relu"}, {"activation": ["relu", "relu"]}),
        ({"activation": ("logistic", "tanh")}, {"activation": np.array(["sigmoid", "tanh"])}),
        ({"dropout": 0.25}, {"dropout": np.array([0.25, 0.25])}),
        ({"hidden_layer_sizes": (8, 4)}, {"hidden_layer_sizes": np.array([8, 4])}),
    ],
    ids=case_name,
)
def test_equal_parameters_may_go_on(then, now, data):
    model = small(**{"hidden_layer_sizes": (8, 4), "warm_start": True, **then}).fit(*data)
    assert len(model.set_params(**now).fit(*data).loss_curve_) == 10


def test_an_activation_of_one_layer_must_stay(data):
    model = small(hidden_layer_sizes=(8, 4), warm_start=True).fit(*data)
    with pytest.raises(ValueError, match="activation must stay 'auto'"):
        model.set_params(activation=["relu", "tanh"]).fit(*data)


def test_sequences_may_be_arrays(data):
    lists = small(hidden_layer_sizes=[8], activation=["tanh"], dropout=[0.25]).fit(*data)
    arrays = small(hidden_layer_sizes=np.array([8]), activation=np.array(["tanh"]), dropout=np.array([0.25]))
    np.testing.assert_array_equal(arrays.fit(*data).predict_proba(data[0]), lists.predict_proba(data[0]))
    for metrics in (["log_loss", "accuracy"], ("log_loss", "accuracy"), np.array(["log_loss", "accuracy"])):
        model = small(metrics=metrics).fit(*data, validation_data=data)
        assert list(model.history_.metrics) == ["log_loss", "accuracy"]


@pytest.mark.parametrize("flag", [False, True])
def test_flags_of_numpy(flag, data):
    X, y = data
    models = [small(early_stopping=kind(flag)).fit(X, y) for kind in (bool, np.bool_)]
    assert models[0].validation_scores_ == models[1].validation_scores_
    assert (models[1].validation_scores_ is None) == (not flag)
    np.testing.assert_array_equal(models[0].predict_proba(X), models[1].predict_proba(X))
    small(early_stopping=np.False_).partial_fit(X, y, classes=[0, 1, 2])


@pytest.mark.parametrize("which", [FNNClassifier, FNNRegressor])
def test_masked_elements_are_refused(which, data):
    X, y = data
    masked = {"X": np.ma.array(X), "y": np.ma.array(y), "sample_weight": np.ma.ones(len(y))}
    model = which(max_iter=1, learning_rate="cosine").fit(masked["X"], masked["y"], masked["sample_weight"])
    for name, array in masked.items():
        array[3] = np.ma.masked
        given = {"X": X, "y": y, name: array}
        with pytest.raises(ValueError, match=f"^{name} must not have masked elements"):
            model.fit(**given)
        with pytest.raises(ValueError, match=f"^{name} must not have masked elements"):
            model.partial_fit(**given)
    for place in range(3):
        held = [X, y, np.ones(len(y))]
        held[place] = list(masked.values())[place]
        with pytest.raises(ValueError, match=rf"^validation_data\[{place}\] must not have masked elements"):
            model.fit(X, y, validation_data=tuple(held))
    with pytest.raises(ValueError, match=r"^X must not have masked elements, got 4"):
        model.predict(masked["X"])


@pytest.mark.parametrize("warm_start", [False, True])
def test_what_diverges_leaves_the_model_as_it_was(warm_start, data):
    X, y = data
    model = small(norm=None, warm_start=warm_start).partial_fit(X, y, classes=[0, 1, 2]).partial_fit(X, y)
    again = pickle.loads(pickle.dumps(model))
    before = model.predict_proba(X)
    seen, mean = model.t_, model.network_.standardizer.mean_
    model.set_params(solver="sgd", learning_rate_init=1e300, weight_decay=0.0)
    with pytest.raises(ValueError, match="diverged"):
        model.partial_fit(X + 100.0, y)
    with pytest.raises(ValueError, match="diverged"):
        model.fit(X, y)
    np.testing.assert_array_equal(model.predict_proba(X), before)
    np.testing.assert_array_equal(model.network_.standardizer.mean_, mean)
    assert model.t_ == seen
    model.set_params(**again.get_params()).partial_fit(X, y)
    np.testing.assert_array_equal(model.predict_proba(X), again.partial_fit(X, y).predict_proba(X))


def learned(model):
    """Everything that an estimator has learned, as bytes."""
    return pickle.dumps({name: v for name, v in vars(model).items() if name not in model.get_params()})


def interrupts(truth, prediction):
    raise KeyboardInterrupt


def fails(net, history):
    raise RuntimeError("a callback's own error")


FAILURES = {
    "diverges": ({"solver": "sgd", "learning_rate_init": 1e300, "weight_decay": 0.0}, ValueError),
    "is interrupted": ({"metrics": [interrupts]}, KeyboardInterrupt),
    "fails": ({"callbacks": [fails]}, RuntimeError),
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("goes_on", [False, True])
@pytest.mark.parametrize("which", [FNNClassifier, FNNRegressor])
def test_old_and_new_go_together_or_not_at_all(which, goes_on, failure, data):
    pd = pytest.importorskip("pandas")
    X, y = data
    old = pd.DataFrame(X, columns=list("abcd")), y
    new = pd.DataFrame(X[:, ::-1] * 50.0, columns=list("dcba")), 2 - y
    if not goes_on:  # other columns, other classes or outputs
        labels = np.array(["x", "y"])[y % 2] if which is FNNClassifier else np.stack([y, -y], axis=1)
        new = X[:, :3] * 50.0, labels
    model = which((8,), max_iter=3, random_state=0, norm=None, warm_start=goes_on).fit(*old)
    options, error = FAILURES[failure]
    model.set_params(**options)
    before, predicted = learned(model), model.predict(old[0])
    new = (new[0][list("abcd")], new[1]) if goes_on else new
    with pytest.raises(error):
        model.fit(*new, validation_data=new)
    assert learned(model) == before
    if failure != "is interrupted" and goes_on:
        with pytest.raises(error):
            model.partial_fit(*new)
        assert learned(model) == before
    np.testing.assert_array_equal(model.predict(old[0]), predicted)


def test_an_interrupt_leaves_the_new_with_the_new(data):
    X, y = data

    def interrupt(net, history):
        if history.epochs == 2:
            raise KeyboardInterrupt

    model = small().fit(X, y)
    names = np.array(["z", "y", "x"])
    with pytest.warns(UserWarning, match="interrupted"):
        model.set_params(callbacks=[interrupt]).fit(X[:, :3], names[y])
    assert model.classes_.tolist() == ["x", "y", "z"]
    assert (model.n_iter_, model.t_, len(model.loss_curve_), model.n_features_in_) == (2, 180, 2, 3)
    assert model.score(X[:, :3], names[y]) > 0.6


@pytest.mark.parametrize("which", [FNNClassifier, FNNRegressor])
def test_warm_start_counts_what_was_done(which, data, tmp_path):
    X, y = data
    options = {"max_iter": 3, "random_state": 0, "warm_start": True, "early_stopping": True}
    model = which((8,), learning_rate="cosine", n_iter_no_change=99, **options)
    for fits in (1, 2):
        model.fit(X, y)
        done = 3 * fits
        assert len(model.loss_curve_) == len(model.validation_scores_) == done
        assert (model.network_.epochs_trained, model.t_, model.n_iter_) == (done, 81 * done, 3)
    for _ in range(2):  # the second time it is done already
        model.fit(X, y, checkpoint=tmp_path / "third.npz")
        assert len(model.loss_curve_) == len(model.validation_scores_) == 9
        assert (model.network_.epochs_trained, model.t_, model.n_iter_) == (9, 81 * 9, 3)
    model.set_params(early_stopping=False).fit(X, y)
    assert len(model.loss_curve_) == 12
    assert model.validation_scores_ is None
    model.set_params(early_stopping="loss").fit(X, y)
    assert len(model.loss_curve_) == len(model.validation_scores_) == 15
    assert np.isnan(model.validation_scores_[:12]).all()
    assert model.best_validation_score_ == min(model.validation_scores_[12:])


def test_a_training_that_was_interrupted_counts_each_epoch_once(data, tmp_path):
    X, y = data

    def interrupt(net, history):
        if history.epochs == 2:
            raise KeyboardInterrupt

    options = {"warm_start": True, "learning_rate": "invscaling", "tol": 0.0, "n_iter_no_change": 99}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = small(**options).fit(X, y).fit(X, y)
        model = small(**options).fit(X, y)
        model.set_params(callbacks=[interrupt]).fit(X, y, checkpoint=tmp_path / "run.npz")
        assert (len(model.loss_curve_), model.t_, model.n_iter_) == (7, 630, 2)
        model.set_params(callbacks=[]).fit(X, y, checkpoint=tmp_path / "run.npz")
    assert (len(model.loss_curve_), model.t_, model.n_iter_) == (10, 900, 5)
    assert model.loss_curve_ == whole.loss_curve_
    np.testing.assert_array_equal(model.predict_proba(X), whole.predict_proba(X))


@pytest.mark.parametrize("seed", [None, "RandomState"])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_a_checkpoint_brings_the_seed(seed, early_stopping, data, tmp_path):
    X, y = data
    path = tmp_path / "run.npz"

    def killed(net, history):
        if history.epochs == 3:
            raise SystemExit

    def model(callbacks=()):
        given = np.random.RandomState() if seed else None
        return small(random_state=given, early_stopping=early_stopping, callbacks=callbacks)

    with pytest.raises(SystemExit):
        model([killed]).fit(X, y, checkpoint=path)
    first = model().fit(X, y, checkpoint=path)
    assert (first.n_iter_, first.network_.epochs_trained) == (5, 5)
    again = model().fit(X, y, checkpoint=path)
    assert again.network_.seed == first.network_.seed
    assert again.loss_curve_ == first.loss_curve_
    np.testing.assert_array_equal(again.predict_proba(X), first.predict_proba(X))
    with pytest.raises(ValueError, match="holds another training"):
        small(random_state=5).fit(X, y, checkpoint=path)


# ----------------------------------------------------------------------------------------------
# Callbacks, metrics and scorers
# ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", [FNNClassifier, FNNRegressor])
def test_callbacks(which, data):
    X, y = data
    seen = []

    def stop(net, history):
        seen.append((type(net).__name__, history.epochs))
        return np.bool_(history.epochs == 2)

    model = clone(which((8,), n_estimators=1, max_iter=9, random_state=0, callbacks=[stop]))
    model.fit(X, y)
    assert seen == [("FNN", 1), ("FNN", 2)]
    assert (model.n_iter_, model.history_.stopped) == (2, "callback")
    model.partial_fit(X, y)
    assert seen[2:] == [("FNN", 1)]


class Share:
    def __call__(self, truth, prediction):
        return accuracy_score(truth, prediction)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("metric", [Share(), functools.partial(accuracy_score), accuracy_score])
def test_a_metric_has_one_name_everywhere(metric, data):
    name = name_of(metric)
    stopping = EarlyStopping(name, mode="max", patience=20)
    model = small(metrics=[metric], early_stopping=stopping, learning_rate=Plateau(name, mode="max"))
    model.fit(*data)
    assert list(model.history_.metrics) == [name]
    assert model.best_validation_score_ == max(model.history_.metrics[name])


def test_own_metrics_see_the_classes_as_they_are_called(data):
    X, y = data
    names = np.array(["b", "a", "c"])[y]
    seen = []

    def keep(truth, prediction):
        seen.append((truth, prediction))
        return 0.0

    def keep_scores(truth, y_score):
        seen.append((truth, y_score))
        return 0.0

    model = small(max_iter=1, metrics=[keep, keep_scores]).fit(X, names, validation_data=(X, names))
    np.testing.assert_array_equal(seen[0][0], names)
    np.testing.assert_array_equal(seen[0][1], model.predict(X))
    np.testing.assert_array_equal(seen[1][0], names)
    np.testing.assert_allclose(seen[1][1], model.predict_proba(X), rtol=1e-5)


def right(estimator, X, y):
    return (estimator.predict(X) == y).mean()


@pytest.mark.parametrize(
    ("classes", "scorers"),
    [
        (2, ["roc_auc", "average_precision", "neg_log_loss", "recall_macro", "f1_macro", right]),
        (3, ["roc_auc_ovr", "roc_auc_ovr_weighted", "neg_log_loss", "precision_micro", "accuracy"]),
        ("labels", ["roc_auc", "average_precision", "f1_samples", "accuracy"]),
        ("values", ["r2", "neg_median_absolute_error", "neg_max_error", "explained_variance"]),
    ],
)
def test_scorers_of_scikit_learn(classes, scorers, data):
    X, y = data
    weights = np.arange(90) % 3 + 1.0
    if classes == 2:  # 0 and 1, as scikit-learn's scorers of one class want it
        y = y % 2
    elif classes == "labels":
        y = np.stack([y > 0, y < 2, y == 1], axis=1).astype(int)
    which = functools.partial(FNNRegressor, clip=False) if classes == "values" else FNNClassifier
    model = which((8,), n_estimators=1, max_iter=2, random_state=0, metrics=scorers)
    for given in ((X, y), (X, y, weights)):
        model.fit(X, y, validation_data=given)
        for scorer in scorers:
            name = scorer if isinstance(scorer, str) else scorer.__name__
            extra = {"sample_weight": given[2]} if len(given) == 3 else {}
            extra = {} if name in ("right", "neg_max_error") else extra
            function = get_scorer(scorer) if isinstance(scorer, str) else scorer
            assert model.history_.metrics[name][-1] == pytest.approx(function(model, X, y, **extra), rel=1e-5)


@pytest.mark.parametrize("scorer", ["roc_auc", "f1_macro", "f1_weighted", "val_roc_auc"])
def test_early_stopping_on_a_scorer(scorer, data):
    X, y = data
    model = small(early_stopping=scorer, tol=0.0).fit(X, np.array(["no", "yes"])[y % 2])
    name = scorer.removeprefix("val_")
    assert model.history_.metrics[name] == model.validation_scores_
    assert model.best_validation_score_ == max(model.validation_scores_)


def test_scorer_objects_are_known_by_their_function(data):
    scorer = make_scorer(fbeta_score, beta=2.0, average="macro")
    stopping = EarlyStopping("fbeta_score", patience=20)  # more is better of every scorer
    model = small(metrics=[scorer], early_stopping=stopping).fit(*data)
    assert model.best_validation_score_ == max(model.history_.metrics["fbeta_score"])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("class_weight", [{0: 1.0, 1: 9.0}, "balanced"])
def test_validation_rows_are_weighted_alike_however_they_come(class_weight, weighted):
    X, y = make_blobs(200, n_features=4, centers=[[0] * 4, [1] * 4], random_state=0)
    y[:60] = 0
    w = np.arange(200) % 3 + 0.5 if weighted else None
    options = {"class_weight": class_weight, "early_stopping": "val_loss", "metrics": ["accuracy"]}
    options["dropout"] = 0.0  # "auto" would see other samples
    inside = small(**options).fit(X, y, w)
    rng = np.random.RandomState(0)  # the split that fit makes
    rng.randint(np.iinfo(np.int32).max)
    train, held = split_rows(np.arange(200), random_state=rng, test_size=0.1, stratify=y)
    parts = (None, None) if w is None else (w[train], w[held])
    given = small(**options).fit(X[train], y[train], parts[0], validation_data=(X[held], y[held], parts[1]))
    assert given.loss_curve_ == inside.loss_curve_
    assert given.history_.val_loss == inside.history_.val_loss
    assert given.history_.metrics == inside.history_.metrics
    plain = small(early_stopping="val_loss", metrics=["accuracy"], dropout=0.0)
    plain.fit(X[train], y[train], parts[0], validation_data=(X[held], y[held], parts[1]))
    # balanced classes train as they are, but metrics are those of the balanced answers
    balanced = class_weight == "balanced"
    assert (plain.history_.val_loss == inside.history_.val_loss) == balanced
    assert plain.history_.metrics != inside.history_.metrics


# ----------------------------------------------------------------------------------------------
# The end of the training
# ----------------------------------------------------------------------------------------------


def test_convergence_warning(data):
    with pytest.warns(ConvergenceWarning, match=r"Maximum iterations \(5\)"):
        small(learning_rate="constant").fit(*data)
    model = small(learning_rate="constant", tol=10.0, max_iter=50, n_iter_no_change=3).fit(*data)
    assert model.n_iter_ == 4


def test_early_stopping_takes_the_best_parameters(data):
    X, y = data
    options = {"learning_rate": "constant", "max_iter": 80, "n_iter_no_change": 5, "learning_rate_init": 0.1}
    model = small(early_stopping=True, tol=0.05, **options)
    model.fit(X, y, validation_data=(X[:30], y[:30]))
    assert model.history_.stopped == "early"
    losses = model.history_.val_loss
    assert len(losses) == len(model.validation_scores_) == model.n_iter_ < 80
    best = int(np.argmin(losses))
    assert model.history_.best_epoch == best + 1 < model.n_iter_
    assert model.best_validation_score_ == max(model.validation_scores_)
    assert model.best_loss_ is None


@pytest.mark.parametrize("rate", ["cosine", "one_cycle", "step", lambda step: 0.1 / (1 + step)])
@pytest.mark.parametrize("stopping", [True, "val_accuracy", EarlyStopping()], ids=case_name)
def test_early_stopping_leaves_a_planned_rate_its_end(rate, stopping, data):
    options = {"learning_rate": rate, "max_iter": 30, "n_iter_no_change": 2, "weight_decay": 0.1}
    model = small(early_stopping=stopping, **options).fit(*data)
    assert (model.n_iter_, model.history_.stopped) == (30, None)
    history = model.history_
    best = np.argmax(history.val_accuracy) if stopping == "val_accuracy" else np.argmin(history.val_loss)
    assert history.best_epoch == best + 1


def test_patience_that_is_asked_for_ends_a_planned_rate(data):
    stopping = EarlyStopping("accuracy", patience=2)
    model = small(early_stopping=stopping, learning_rate="cosine", max_iter=100).fit(*data)
    assert model.history_.stopped == "early"


def test_early_stopping_lowers_an_adaptive_rate(data):
    options = {"learning_rate": "adaptive", "n_iter_no_change": 2, "max_iter": 500}
    rates = small(early_stopping=True, **options).fit(*data).history_.rates
    assert rates[-1] <= 1e-6 < rates[-2]
    falls = np.array(rates[1:]) / rates[:-1]
    np.testing.assert_allclose(falls[falls != 1], 0.2, rtol=1e-12)


@pytest.mark.parametrize("weights", [None, "some are zero"])
@pytest.mark.parametrize(
    "members", [[1, 40, 40], [1] * 5 + [40, 40], [3] * 30, [2] * 3 + [60]], ids=case_name
)
def test_early_stopping_with_rare_classes(members, weights):
    y = np.repeat(np.arange(len(members)), members)
    X = np.random.default_rng(0).normal(size=(len(y), 4))
    weight = None if weights is None else (np.arange(len(y)) % 7 > 0) + 0.0
    for seed in range(5):
        model = small(early_stopping=True, max_iter=2, random_state=seed).fit(X, y, sample_weight=weight)
        assert model.predict_proba(X).shape == (len(y), len(members))
        held = math.ceil(0.1 * (len(y) if weights is None else np.count_nonzero(weight)))
        used = len(y) if weights is None else np.count_nonzero(weight)
        assert model.t_ == 2 * (used - held)


def test_no_class_is_left_to_the_held_out_part_alone():
    y = np.r_[0, 0, 1, np.full(57, 2)].repeat(1)
    X = np.random.default_rng(0).normal(size=(60, 4)) + 10 * np.eye(4)[y]
    options = {"early_stopping": True, "validation_fraction": 0.5, "max_iter": 60}
    for seed in range(8):
        model = small(random_state=seed, **options).fit(X, y)
        np.testing.assert_array_equal(model.predict(X), y)


def test_early_stopping_holds_out_a_part(data):
    model = small(early_stopping=True, validation_fraction=0.3).fit(*data)
    assert model.t_ == 63 * model.n_iter_
    with pytest.raises(ValueError, match="validation_fraction"):
        small(early_stopping=True, validation_fraction=0.01).fit(data[0], np.zeros(90))


@pytest.mark.parametrize("monitor", ["val_loss", "log_loss", EarlyStopping("balanced_accuracy", patience=2)])
def test_early_stopping_on_another_metric(monitor, data):
    metrics = ["balanced_accuracy"] if isinstance(monitor, EarlyStopping) else []
    model = small(early_stopping=monitor, metrics=metrics, max_iter=20).fit(*data)
    best = max if metrics else min
    assert model.best_validation_score_ == best(model.validation_scores_)


def test_early_stopping_and_adaptive_rate_follow_an_own_metric(data):
    def wrong(truth, prediction):
        return 1 - accuracy_score(truth, prediction)

    stopping = EarlyStopping("wrong", mode="min", patience=3)
    model = small(early_stopping=stopping, metrics=[wrong], learning_rate="adaptive", max_iter=20).fit(*data)
    assert model.best_validation_score_ == min(model.validation_scores_)


def test_metrics_are_recorded(data):
    X, y = data

    def share(truth, prediction):
        return accuracy_score(truth, prediction)

    model = small(metrics=["log_loss", share]).fit(X, y, validation_data=(X, y))
    assert set(model.history_.metrics) == {"log_loss", "share"}
    assert model.history_.metrics["share"][-1] == model.score(X, y)


def test_verbose(capsys, data):
    small(verbose=True, early_stopping=True, max_iter=2).fit(*data)
    got = capsys.readouterr().out.splitlines()
    assert [line.split("=")[0].split(":")[0] for line in got] == [
        "Iteration 1, loss ",
        "Validation score",
        "Iteration 2, loss ",
        "Validation score",
    ]


def test_divergence_is_a_value_error(data):
    with pytest.raises(ValueError, match="diverged"):
        small(solver="sgd", learning_rate_init=1e30, norm=None, weight_decay=0.0).fit(*data)


def test_interrupt_keeps_the_epochs_done(data, monkeypatch):
    X, y = data
    calls = []

    def interrupted(text):
        calls.append(text)
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("builtins.print", interrupted)
    with pytest.warns(UserWarning, match="interrupted"):
        model = small(verbose=True, max_iter=50).fit(X, y)
    assert model.n_iter_ == 3


def test_checkpoint_goes_on(tmp_path, data):
    X, y = data
    expected = small().fit(X, y)
    path = tmp_path / "training"

    def killed(truth, prediction):
        if path.exists():
            raise SystemExit
        return 0.0

    with pytest.raises(SystemExit):
        small(metrics=[killed]).fit(X, y, validation_data=(X, y), checkpoint=path)
    assert path.exists()

    def killed(truth, prediction):
        return 0.0

    got = small(metrics=[killed]).fit(X, y, validation_data=(X, y), checkpoint=path)
    assert got.loss_curve_ == expected.loss_curve_
    np.testing.assert_array_equal(got.predict_proba(X), expected.predict_proba(X))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 5.0),
        ({"activation": ["leaky_relu", "identity"], "hidden_layer_sizes": (9, 8)}, 5.0),
        ({"activation": ["relu", "tanh"], "hidden_layer_sizes": (9, 8)}, 0.2),
        ({"activation": "softplus"}, 0.2),
        ({"activation": SMOOTH}, 0.2),
        ({"norm": None}, 0.2),
        ({"learning_rate": Constant()}, 0.2),
        ({"learning_rate": StepDecay()}, 5.0),
        ({"norm": "before"}, 0.2),
        ({"hidden_layer_sizes": ()}, 0.2),
        ({"learning_rate_init": 1e-4}, 5.0),
        ({"learning_rate_init": 0.5}, 0.05),
        ({"solver": "adam"}, 0.0),
        ({"solver": "sgd", "learning_rate_init": 0.1}, 0.0),
        ({"solver": "sgd", "weight_decay": 0.5, "learning_rate_init": 0.1}, 0.5),
    ],
    ids=case_name,
)
@pytest.mark.parametrize("which", [FNNClassifier, FNNRegressor])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_automatic_weight_decay(which, options, expected, data):
    X, y = data
    if expected == 5.0 and "learning_rate_init" not in options:
        expected = 0.025 / 0.0075  # the most that a step may take
    options = {"n_estimators": 1, "max_iter": 2, "random_state": 0, "batch_size": 30, **options}
    got = which(**options).fit(X, y)
    same = which(**{**options, "weight_decay": expected}).fit(X, y)
    np.testing.assert_array_equal(got.predict(X), same.predict(X))
    for ours, theirs in zip(got.coefs_, same.coefs_, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 0.0075),
        ({"activation": "tanh"}, 0.03),
        ({"norm": None}, 0.03),
        ({"norm": "before", "activation": "relu"}, 0.03),
        ({"solver": "adam"}, 0.03),
        ({"solver": "sgd"}, 0.02),
    ],
    ids=case_name,
)
@pytest.mark.parametrize("which", [FNNClassifier, FNNRegressor])
def test_automatic_learning_rate(which, options, expected, data):
    options = {"n_estimators": 1, "max_iter": 2, "random_state": 0, "learning_rate": StepDecay(9), **options}
    model = which(**options).fit(*data)
    assert model.history_.rates == [expected, expected]
    same = which(**options, learning_rate_init=expected).fit(*data)
    np.testing.assert_array_equal(model.predict(data[0]), same.predict(data[0]))


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, 42), ({"activation": "tanh"}, 50), ({"learning_rate": "constant", "n_iter_no_change": np.inf}, 50)],
    ids=case_name,
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_automatic_epochs(options, expected, data):
    settings = {"hidden_layer_sizes": 4, "n_estimators": 1, "encoding": None, "batch_size": 3, **options}
    model = FNNClassifier(random_state=0, **settings).fit(*data)  # 30 steps an epoch
    assert model.n_iter_ == expected
    rate = 0.03 if "activation" in options else 0.375 / expected
    same = FNNClassifier(random_state=0, max_iter=expected, learning_rate_init=rate, **settings).fit(*data)
    np.testing.assert_array_equal(model.predict_proba(data[0]), same.predict_proba(data[0]))


def test_large_tables_are_computed_in_float32():
    X = np.random.default_rng(0).normal(size=(600, 3)) + 1e6
    y = (X[:, 0] > 1e6).astype(int)
    model = small(max_iter=2).fit(X, y)
    assert (model.network_.dtype, model.predict_proba(X).dtype) == ("float32", "float64")
    assert model.score(X, y) > 0.9
    for kept in (small(max_iter=2, standardize=False, norm=None), small(max_iter=1, dtype="float64")):
        assert kept.fit(X, y).network_.dtype == "float64"


def test_automatic_weight_decay_of_parts(data):
    X, y = data
    got = FNNClassifier(random_state=0).partial_fit(X, y, classes=[0, 1, 2])
    same = FNNClassifier(random_state=0, weight_decay=0.2).partial_fit(X, y, classes=[0, 1, 2])
    np.testing.assert_array_equal(got.predict_proba(X), same.predict_proba(X))


def test_weight_decay_of_many_rows():
    assert defaults.weight_decay("adamw", "after", ["relu"], 1200, 0.005) == 5.0
    assert defaults.weight_decay("adamw", "after", ["relu"], 12_000, 0.005) == pytest.approx(1.58, abs=0.01)
    assert defaults.weight_decay("adamw", "after", ["tanh"], 4800, 0.02) == 0.1
    assert defaults.weight_decay("adamw", None, ["relu"], 120_000, 0.02) == pytest.approx(0.02)


# What a linear model reaches is .87 and R2 .73.
@pytest.mark.parametrize("activation", ["relu", "tanh", "elu", "gelu", "silu", "softplus", "sigmoid"])
def test_every_activation_bends(activation):
    X, y = make_moons(2000, noise=0.2, random_state=0)
    options = {"activation": activation, "random_state": 0, "dtype": "float32"}
    model = FNNClassifier(**options).fit(X[:1600], y[:1600])
    assert model.score(X[1600:], y[1600:]) > 0.96
    X, y = make_friedman1(2000, noise=1.0, random_state=0)
    model = FNNRegressor(**options).fit(X[:1600], y[:1600])
    assert model.score(X[1600:], y[1600:]) > 0.925


@pytest.mark.parametrize(
    "options",
    [{"learning_rate_init": 0.5}, {"solver": "sgd", "learning_rate": "constant", "learning_rate_init": 0.1}],
    ids=case_name,
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_learns_at_a_large_rate(options):
    X, X_test, y, y_test = train_test_split(*load_digits())
    assert FNNClassifier(random_state=0, **options).fit(X, y).score(X_test, y_test) > 0.95


def test_weight_decay_takes_less_than_a_weight(data):
    with pytest.raises(ValueError, match="weight_decay must be below 1"):
        small(learning_rate_init=0.5, weight_decay=5.0).fit(*data)


# ----------------------------------------------------------------------------------------------
# Options and weights
# ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"activation": "gelu"},
        {"activation": ["tanh"]},
        {"norm": "before"},
        {"norm": None},
        {"solver": "adam"},
        {"beta_1": 0.5},
        {"beta_2": 0.9},
        {"epsilon": 1.0},
        {"solver": "sgd"},
        {"solver": "sgd", "momentum": 0.5},
        {"solver": "sgd", "nesterovs_momentum": False},
        {"alpha": 1.0},
        {"weight_decay": 3.0},
        {"batch_size": 16},
        {"learning_rate": StepDecay(every=2)},
        {"learning_rate": OneCycle()},
        {"learning_rate": Plateau("loss", patience=1, min_delta=10.0)},
        {"learning_rate": "invscaling"},
        {"learning_rate": "invscaling", "power_t": 0.1},
        {"learning_rate": lambda step: 0.01 / (step + 1)},
        {"learning_rate_init": 0.02},
        {"shuffle": False},
        {"clip_norm": 1e-3},
        {"decay": 0.5},
        {"dropout": 0.5},
        {"init": "glorot"},
        {"standardize": False},
        {"loss": CrossEntropy(0.2)},
        {"label_smoothing": 0.1},
        {"class_weight": {0: 5.0}},
        {"class_weight": "balanced"},
    ],
    ids=case_name,
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_every_option_makes_a_difference(options, data):
    X, y = data[0][5:], data[1][5:]
    base = {name: options[name] for name in list(options)[:-1]}  # the last one makes the difference
    got = small(**{**base, **options}).fit(X, y).predict_proba(X)
    assert np.isfinite(got).all()
    assert (got != small(**base).fit(X, y).predict_proba(X)).any()


def test_adaptive_rate_ends_the_training(data):
    model = small(
        learning_rate="adaptive", learning_rate_init=1e-4, tol=10.0, n_iter_no_change=1, max_iter=50
    ).fit(*data)
    assert model.n_iter_ < 50
    assert model.history_.rates[-1] <= 1e-6


@pytest.mark.parametrize("batch_size", [1, 2, 30, 32, "auto"])
@pytest.mark.parametrize("samples", [33, 61, 65])
def test_no_batch_of_one_sample(batch_size, samples, data):
    X, y = data
    assert small(batch_size=batch_size, max_iter=1).fit(X[:samples], y[:samples]).n_iter_ == 1


def test_a_single_sample_cannot_be_trained_on(data):
    X, y = data
    model = small().fit(X, y)
    with pytest.raises(ValueError, match="at least 2 samples"):
        model.partial_fit(X[:1], y[:1])
    with pytest.raises(ValueError, match="at least 2 samples"):
        model.fit(X, y, sample_weight=np.eye(90)[0])
    assert small(norm=None).fit(X, y).partial_fit(X[:1], y[:1]).n_iter_ == 1


def test_too_large_a_batch_is_clipped(data):
    with pytest.warns(UserWarning, match="clipped"):
        small(batch_size=1000).fit(*data)


def test_integer_weight_is_a_repeated_sample(data):
    X, y = data
    X, y = X[:20], y[:20]
    weight = np.arange(20) % 3
    weighted = {"weighted_statistics": True, "alpha": 0.1}
    got = small(batch_size=13, **weighted).fit(X, y, sample_weight=weight)
    expected = small(batch_size=19, **weighted).fit(np.repeat(X, weight, axis=0), np.repeat(y, weight))
    np.testing.assert_allclose(got.predict_proba(X), expected.predict_proba(X), rtol=1e-9)


# the weights of the classes are no part of the standardization, unless weighted_statistics is set
@pytest.mark.parametrize("same", [{"weighted_statistics": True}, {"standardize": False}])
def test_class_weight_multiplies_sample_weight(same, data):
    X, y = data
    weight = np.random.default_rng(0).random(90)
    got = small(class_weight={0: 2.0, 2: 0.5}, **same).fit(X, y, sample_weight=weight)
    expected = small(**same).fit(X, y, sample_weight=weight * np.array([2.0, 1.0, 0.5])[y])
    np.testing.assert_array_equal(got.predict_proba(X), expected.predict_proba(X))


def test_standardization_takes_the_weights_of_samples_and_not_of_classes(data):
    X, y = data
    weight = np.random.default_rng(0).random(90)
    for sample_weight in (None, weight):
        model = small(class_weight={0: 20.0, 2: 0.0}).fit(X, y, sample_weight=sample_weight)
        used = (y != 2) * (1.0 if sample_weight is None else sample_weight)
        np.testing.assert_allclose(model.network_.standardizer.mean_, np.average(X, axis=0, weights=used))
        model.partial_fit(X + 1, y, sample_weight)
        mean = np.average(X, axis=0, weights=used) + 0.5
        np.testing.assert_allclose(model.network_.standardizer.mean_, mean)


def test_weights_of_several_labels(data):
    X, y = data
    Y = np.stack([y == 0, y > 0], axis=1).astype(int)
    by_label = [{0: 1.0, 1: 5.0}, {0: 2.0, 1: 1.0}]
    got = small(class_weight=by_label, standardize=False).fit(X, Y)
    weight = np.where(y == 0, 5.0, 1.0) * np.where(y > 0, 1.0, 2.0)
    expected = small(standardize=False).fit(X, Y, sample_weight=weight)
    np.testing.assert_array_equal(got.predict_proba(X), expected.predict_proba(X))


@pytest.mark.parametrize("norm", ["after", "before"])
def test_weights_of_classes_do_not_leak_labels_of_chance(norm):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(10_000, 5)), (rng.random(10_000) < 0.05).astype(int)
    even = {0: 1 / 1.9, 1: 10.0}
    options = {"norm": norm, "class_weight": even, "solver": "sgd", "max_iter": 1, "batch_size": 64}
    assert small(hidden_layer_sizes=(32, 32), **options).fit(X, y).loss_ > 0.68
    leaky = small(hidden_layer_sizes=(32, 32), weighted_statistics=True, **options).fit(X, y)
    assert leaky.loss_ < 0.67


@pytest.mark.parametrize("tiny", [1e-30, np.exp(-100.0), 0.0])
def test_a_tiny_weight_leaves_no_batch_of_one(tiny, data):
    X, y = data
    weight = np.where(np.arange(66) == 5, tiny, 1.0)
    model = small(dtype="float32", max_iter=2).fit(X[:66], y[:66], sample_weight=weight)
    assert (model.n_iter_, model.t_) == (2, 2 * (66 if tiny == 1e-30 else 65))


def test_accuracy_by_name_is_that_of_the_validation_data(data):
    X, y = data
    named, entry = (small(early_stopping=name).fit(X, y) for name in ("accuracy", "val_accuracy"))
    assert named.validation_scores_ == entry.validation_scores_ == named.history_.val_accuracy
    assert named.history_.best_epoch == entry.history_.best_epoch


def by_weight(labels, weight):
    """Return what gives each class that has a weight the same total, float64."""
    total = np.bincount(labels, weights=weight)
    present = total > 0
    return weight * (total.sum() / np.where(present, present.sum() * total, np.inf))[labels]


@pytest.mark.parametrize("options", [{}, {"norm": None}], ids=case_name)
@pytest.mark.parametrize("case", ["uneven", "some are zero", "a class is zero", "all alike"])
def test_balanced_counts_weights(case, options, data):
    X, y = data
    y = np.minimum(y, np.arange(90) % 5)  # uneven
    weight = {
        "uneven": 1.0 + 5.0 * (y == 1) + np.arange(90) / 90,
        "some are zero": (np.arange(90) % 3) * (1.0 + y),
        "a class is zero": np.where(y == 2, 0.0, 1.0 + y),
        "all alike": np.full(90, 3.0),
    }[case]
    got = small(class_weight="balanced", **options).fit(X, y, sample_weight=weight)
    plain = small(**options).fit(X, y, sample_weight=weight)
    assert got.loss_curve_ == plain.loss_curve_
    total = np.bincount(y, weight)
    expected = plain.predict_proba(X) / np.where(total > 0, total, total[total > 0].mean())
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(got.predict_proba(X), expected, rtol=1e-9)
    # the network has it too
    np.testing.assert_allclose(got.network_.predict_proba(X), expected, rtol=1e-9)


def test_balanced_answers_are_those_that_equal_classes_would_have():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(3000, 2))
    y = (rng.random(3000) < 1 / (1 + np.exp(3 - X[:, 0]))).astype(int)
    model = small(class_weight="balanced", hidden_layer_sizes=(), max_iter=50, learning_rate_init=0.01)
    got = model.fit(X, y).predict_proba(X)[:, 1]
    expected = 1 / (1 + np.exp(3 - X[:, 0]) * y.mean() / (1 - y.mean()))
    assert abs(got - expected).mean() < 0.03


def test_balanced_training_goes_on_from_what_was_learned(data):
    X, y = data
    y = np.minimum(y, np.arange(90) % 5)
    balanced, plain = (small(class_weight=one, warm_start=True) for one in ("balanced", None))
    for _ in range(2):
        balanced.fit(X, y)
        plain.fit(X, y)
    assert balanced.loss_curve_ == plain.loss_curve_
    assert (balanced.predict_proba(X) != plain.predict_proba(X)).any()
    balanced.set_params(class_weight=None).fit(X, y)
    np.testing.assert_array_equal(balanced.predict_proba(X), plain.fit(X, y).predict_proba(X))


def test_early_stopping_watches_the_balanced_answers(data):
    X, y = data
    y = np.minimum(y, np.arange(90) % 5)
    model = small(class_weight="balanced", early_stopping="balanced_accuracy", max_iter=20)
    model.fit(X, y, validation_data=(X, y))
    got = balanced_accuracy_score(y, model.predict(X))
    np.testing.assert_allclose(model.best_validation_score_, got, rtol=1e-12)


def test_balanced_is_the_same_for_repeated_samples(data):
    X, y = data
    weight = np.where(y == 1, 3, 1)
    options = {"class_weight": "balanced", "norm": None, "shuffle": False, "batch_size": 90}
    got = small(**options).fit(X, y, sample_weight=weight)
    rows = np.repeat(np.arange(90), weight)
    options["batch_size"] = len(rows)
    expected = small(**options).fit(X[rows], y[rows])
    np.testing.assert_allclose(got.predict_proba(X), expected.predict_proba(X), rtol=1e-9)


def test_balanced_counts_weights_of_each_label(data):
    X, y = data
    Y = np.stack([y == 0, y < 2], axis=1).astype(int)
    weight = 1.0 + y
    got = small(class_weight="balanced", standardize=False).fit(X, Y, sample_weight=weight)
    product = weight * np.prod([by_weight(labels, weight) / weight for labels in Y.T], axis=0)
    expected = small(standardize=False).fit(X, Y, sample_weight=product)
    np.testing.assert_allclose(got.predict_proba(X), expected.predict_proba(X), rtol=1e-9)
    listed = [{0: 2.0, 1: 3.0}, {0: 0.5, 1: 1.0, 2: 9.0}]
    got = small(class_weight=listed, standardize=False).fit(X, Y, sample_weight=weight)
    product = weight * np.where(Y[:, 0], 3.0, 2.0) * np.where(Y[:, 1], 1.0, 0.5)
    expected = small(standardize=False).fit(X, Y, sample_weight=product)
    np.testing.assert_array_equal(got.predict_proba(X), expected.predict_proba(X))


# What scikit-learn's classifiers take and refuse for classes 0 and 1.
TAKEN = [
    {0: 1, 1: 2, 2: 10},
    {0: 1, 1: 2, "rare": 10},
    {1: 2},
    {},
    {True: 2, False: 1},
    {0.0: 1, 1.0: 2, -1: 0},
]
REFUSED = [{2: 10}, {0: 1, 2: 10}, {"0": 1, "1": 2}]


@pytest.mark.parametrize("peer", [LogisticRegression, RandomForestClassifier, None], ids=case_name)
@pytest.mark.parametrize("chosen", [*TAKEN, *REFUSED], ids=case_name)
def test_class_weight_of_absent_classes(chosen, peer, data):
    X, y = data[0], data[1] % 2
    own = small(class_weight=chosen, standardize=False)
    model = own if peer is None else peer(class_weight=chosen)
    if chosen in REFUSED:
        with pytest.raises(ValueError, match="not in class_weight"):
            model.fit(X, y)
        return
    model.fit(X, y)
    if peer is None:
        weight = np.array([chosen.get(0, 1.0), chosen.get(1, 1.0)])[y]
        expected = small(standardize=False).fit(X, y, sample_weight=weight)
        np.testing.assert_array_equal(model.predict_proba(X), expected.predict_proba(X))


def test_class_weight_of_words_and_of_parts(data):
    X, y = data
    words = np.array(["1", "b", "c"])[y]
    chosen = {"1": 2.0, "b": 1.0, "c": 0.5, "d": 7.0}
    got = small(class_weight=chosen).fit(X, words)
    expected = small(class_weight={0: 2.0, 2: 0.5}).fit(X, y)
    np.testing.assert_array_equal(got.predict_proba(X), expected.predict_proba(X))
    got.partial_fit(X, words)
    part = small(class_weight=chosen).partial_fit(X[y < 2], words[y < 2], classes=["1", "b", "c"])
    assert list(part.classes_) == ["1", "b", "c"]
    with pytest.raises(ValueError, match="not in class_weight"):
        small(class_weight={"1": 2.0, "d": 1.0}).partial_fit(X, words, classes=["1", "b", "c"])


def test_class_weight_in_folds_without_a_rare_class(data):
    X, y = data[0], np.minimum(data[1], 1)
    y[[75, 80]] = 2
    model = small(class_weight={0: 1, 1: 1, 2: 10})
    assert np.isfinite(cross_val_score(model, X, y, cv=TimeSeriesSplit(3))).all()


def test_score_is_weighted(data):
    X, y = data
    model = small().fit(X, y)
    weight = np.arange(90.0)
    assert model.score(X, y, weight) == accuracy_score(y, model.predict(X), sample_weight=weight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "lbfgs"}, "solver must be one of 'adamw', 'adam', 'sgd', got 'lbfgs'"),
        ({"hidden_layer_sizes": (8, 0)}, "hidden_layer_sizes must be at least 1, got 0"),
        ({"hidden_layer_sizes": -1}, "hidden_layer_sizes must be at least 1, got -1"),
        ({"activation": "relu6"}, "activation must be one of 'auto', 'logistic'"),
        ({"activation": ["relu", "tanh"]}, "activation"),
        ({"early_stopping": "f3"}, "early_stopping must watch one of 'loss', .*, got 'f3'"),
        ({"metrics": ["f3"], "early_stopping": True}, r"metrics\[0\] must be one of 'accuracy', .* got 'f3'"),
        ({"callbacks": ["stop"]}, "callbacks must be a sequence of functions"),
        ({"class_weight": {7: 1.0}}, "class_weight"),
        ({"class_weight": {0: -1.0}}, "class_weight"),
        ({"dtype": np.int64}, "dtype"),
        ({"loss": CrossEntropy(), "label_smoothing": 0.1}, "label_smoothing"),
    ],
)
def test_wrong_parameters_are_named(options, message, data):
    with pytest.raises((TypeError, ValueError), match=message):
        small(**options).fit(*data)


def test_wrong_data(data):
    X, y = data
    model = small()
    for method in (model.predict, model.predict_proba, model.predict_log_proba):
        with pytest.raises(NotFittedError):
            method(X)
    assert not hasattr(model, "coefs_")
    with pytest.raises(ValueError, match=r"1 sample"):
        model.fit(X[:1], y[:1])
    with pytest.raises(ValueError, match="Multioutput"):
        model.fit(X, np.stack([y, y], axis=1))
    with pytest.raises(ValueError, match="validation_data"):
        model.fit(X, y, validation_data=X)
    with pytest.raises(ValueError, match="zero"):
        model.fit(X, y, sample_weight=np.zeros(90))
    with pytest.raises(ValueError, match=r"[Nn]egative"):
        model.fit(X, y, sample_weight=-np.ones(90))
    with pytest.raises(ValueError, match="max_iter must be at least 1, got 0"):
        small(max_iter=0).fit(X, y)
