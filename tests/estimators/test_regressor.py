"""FNNRegressor: scikit-learn's own checks, and what differs from the classifier."""

import math
import warnings

import numpy as np
import pytest
from numba import config

pytest.importorskip("sklearn")

from sklearn.datasets import make_friedman1
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning
from sklearn.neural_network import MLPRegressor
from sklearn.utils.estimator_checks import parametrize_with_checks
from test_classifier import expected_failures

from nbnorm import Huber, Quantile
from nbnorm.estimators import FNNRegressor

pytestmark = pytest.mark.skipif(config.DISABLE_JIT, reason="too much arithmetic for the interpreter")

# One network passes the checks as well as five.
CONFIGURATIONS = [
    FNNRegressor(n_estimators=2),
    FNNRegressor(
        n_estimators=1,
        norm="before",
        solver="sgd",
        learning_rate="constant",
        learning_rate_init=0.01,
        weighted_statistics=True,
    ),
    FNNRegressor((20, 10), "tanh", n_estimators=1, norm=None, standardize_targets=False, alpha=1e-3),
]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@parametrize_with_checks(CONFIGURATIONS, expected_failed_checks=expected_failures)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def small(**options):
    options = {"n_estimators": 1, "encoding": None, **options}
    return FNNRegressor(**{"hidden_layer_sizes": (8,), "max_iter": 5, "random_state": 0, **options})


@pytest.fixture
def data():
    return make_friedman1(100, n_features=6, random_state=0)


def test_learns(data):
    X, y = data
    model = FNNRegressor(max_iter=60, random_state=0).fit(X[::2], y[::2])
    assert model.score(X[1::2], y[1::2]) > 0.6
    assert (model.n_outputs_, model.out_activation_) == (1, "identity")


def test_shape_of_the_targets(data):
    X, y = data
    assert small().fit(X, y).predict(X).shape == (100,)
    with pytest.warns(DataConversionWarning, match="column-vector"):
        assert small().fit(X, y[:, None]).predict(X).shape == (100,)
    model = small().fit(X, np.stack([y, -y], axis=1))
    assert model.predict(X).shape == (100, 2)
    with pytest.raises(ValueError, match=r"2 output\(s\) as before"):
        model.partial_fit(X, y)


def test_units_of_the_targets_do_not_matter(data):
    X, y = data
    got = small().fit(X, 1e6 + 1e3 * y)
    expected = small().fit(X, y)
    np.testing.assert_allclose(got.predict(X), 1e6 + 1e3 * expected.predict(X), rtol=1e-9)
    np.testing.assert_allclose(got.loss_curve_, expected.loss_curve_, rtol=1e-6)


@pytest.mark.parametrize("norm", ["after", "before", None])
def test_coefs_are_those_of_a_plain_network(norm, data):
    X, y = data
    y = np.stack([y, y**2], axis=1)
    model = small(norm=norm, activation="tanh", clip=False).fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        plain = MLPRegressor(hidden_layer_sizes=(8,), activation="tanh", max_iter=1).fit(X, y)
    plain.coefs_, plain.intercepts_ = model.coefs_, model.intercepts_
    np.testing.assert_allclose(plain.predict(X), model.predict(X), rtol=1e-9)


def test_partial_fit_goes_on_like_fit(data):
    X, y = data
    parts = small()
    for _ in range(3):
        parts.partial_fit(X, y)
    with pytest.warns(ConvergenceWarning):
        whole = small(max_iter=3, learning_rate="constant").fit(X, y)
    np.testing.assert_allclose(parts.predict(X), whole.predict(X), rtol=1e-9)


def test_early_stopping_watches_the_loss_and_shows_r2(data):
    X, y = data
    model = small(early_stopping=True, max_iter=30).fit(X, y, validation_data=(X[:40], y[:40]))
    epoch = int(np.argmin(model.history_.val_loss))
    assert model.history_.best_epoch == epoch + 1
    np.testing.assert_allclose(model.score(X[:40], y[:40]), model.validation_scores_[epoch], rtol=1e-12)
    assert model.best_validation_score_ == max(model.validation_scores_)


def test_early_stopping_with_a_constant_output(data):
    X, y = data
    both = np.stack([y, np.full(len(y), 3.0)], axis=1)
    model = small(early_stopping=True, max_iter=30).fit(X, both)
    assert np.isfinite(model.validation_scores_).all()
    assert model.history_.best_epoch == np.argmin(model.history_.val_loss) + 1
    flat = small(early_stopping="r2", max_iter=3).fit(X, y, validation_data=(X[:9], np.ones(9)))
    assert flat.validation_scores_ == [0.0, 0.0, 0.0]
    assert flat.history_.best_epoch == 1


def test_robust_losses_bear_outliers(data):
    X, y = data
    spoilt = np.where(np.arange(100) % 10 == 0, 30 * y, y)
    errors = {}
    for loss in ("squared_error", "huber", "absolute_error"):
        model = FNNRegressor((20,), loss=loss, learning_rate_init=0.02, random_state=0).fit(X, spoilt)
        errors[loss] = np.abs(model.predict(X) - y).mean()
    assert errors["absolute_error"] < errors["huber"] < errors["squared_error"]


def test_loss_may_be_an_object(data):
    X, y = data
    got = small(loss=Huber(1.0)).fit(X, y).predict(X)
    np.testing.assert_array_equal(got, small(loss="huber").fit(X, y).predict(X))
    assert (got != small(loss=Huber(0.1)).fit(X, y).predict(X)).any()


def test_poisson(data):
    X, _ = data
    rate = np.exp(2.0 * X[:, 0])
    y = np.random.default_rng(0).poisson(rate)
    model = small(max_iter=50, loss="poisson", learning_rate_init=0.05).fit(X, y)
    got = model.predict(X)
    assert model.out_activation_ == "exp"
    assert got.min() > 0
    assert np.corrcoef(got, rate)[0, 1] > 0.8
    with pytest.raises(ValueError, match="targets"):
        model.fit(X, y - 1)


def test_weight_zero_is_a_removed_sample(data):
    X, y = data
    keep = np.arange(100) % 3 > 0
    got = small(batch_size=40).fit(X, y, sample_weight=keep.astype(float))
    expected = small(batch_size=40).fit(X[keep], y[keep])
    np.testing.assert_allclose(got.predict(X), expected.predict(X), rtol=1e-9)


def test_what_the_network_was_built_with_stays(data):
    X, y = data
    for change in ({"loss": "huber"}, {"standardize_targets": False}):
        model = small(warm_start=True).fit(X, y).set_params(**change)
        with pytest.raises(ValueError, match=f"{next(iter(change))} must stay"):
            model.fit(X, y)


def test_predictions_stay_in_the_range_of_the_targets(data):
    X, y = data
    far = X * 1e4
    Y = np.stack([y, -y], axis=1)
    for targets in (y, Y):
        got = small().fit(X, targets).predict(far)
        assert (got >= targets.min(axis=0)).all()
        assert (got <= targets.max(axis=0)).all()
    free = small(clip=False).fit(X, y).predict(far)
    assert np.abs(free).max() > 2 * np.abs(y).max()
    parts = small().partial_fit(X[:50], y[:50]).partial_fit(X[50:], y[50:] + 100.0)
    assert parts.predict(far).max() <= y[50:].max() + 100.0
    weights = np.where(y > np.median(y), 0.0, 1.0)  # what does not count does not widen the range
    assert small().fit(X, y, sample_weight=weights).predict(far).max() <= np.median(y)


@pytest.mark.parametrize(("transform", "shift"), [("log", 0.0), ("log1p", 0.9)])
def test_logarithms_of_the_targets(transform, shift, data):
    X, y = data
    y = np.exp(y / 4.0) - shift
    forwards = np.log if transform == "log" else np.log1p
    backwards = np.exp if transform == "log" else np.expm1
    plain = small().fit(X, forwards(y))
    model = small(target_transform=transform).fit(X, y)
    np.testing.assert_allclose(model.predict(X), backwards(plain.predict(X)), rtol=1e-12)
    with pytest.raises(ValueError, match=f"y must be above .* for target_transform='{transform}'"):
        small(target_transform=transform).fit(X, y - 100.0)
    with pytest.raises(ValueError, match="Poisson"):
        small(target_transform=transform, loss="poisson").fit(X, y)


def test_quantiles():
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (600, 2))
    y = 3 * X[:, 0] + (1.2 + X[:, 1]) * rng.normal(size=600)
    levels = [0.1, 0.5, 0.9]
    model = small(loss="quantile", quantile=levels, n_estimators=2, max_iter=30).fit(X, y)
    got = model.predict(X)
    assert got.shape == (600, 3)
    assert (np.diff(got, axis=1) >= 0).all()
    np.testing.assert_allclose((y[:, None] < got).mean(axis=0), levels, atol=0.06)
    assert 0.3 < model.score(X, y) < 1
    one = small(loss="quantile", quantile=0.9, max_iter=30).fit(X, y)
    assert one.predict(X).shape == (600,)
    assert abs((y < one.predict(X)).mean() - 0.9) < 0.06
    two = small(loss=Quantile((0.2, 0.8)), early_stopping=True).fit(X, np.stack([y, -y], axis=1))
    assert two.predict(X).shape == (600, 2, 2)
    assert math.isfinite(two.score(X, np.stack([y, -y], axis=1)))
    for wrong in ([], [0.5, 0.5], [0.9, 0.1], 0.0, 1.0, [0.5, 2.0]):
        with pytest.raises(ValueError, match="quantile"):
            small(loss="quantile", quantile=wrong).fit(X, y)


@pytest.mark.parametrize(("amount", "bins"), [(0.0, True), (3.0, False)])
def test_bins_are_left_out_where_there_is_only_noise_to_bend_to(amount, bins):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 5))
    y = (X[:, 0] if amount else np.sign(np.sin(4 * X[:, 0]))) + amount * rng.normal(size=400)
    model = FNNRegressor(n_estimators=1, max_iter=60, random_state=0).fit(X, y)
    assert (len(model.get_feature_names_out()) > 5) == bins


def test_targets_beyond_float32_bound_nothing():
    X = np.linspace(-1.0, 1.0, 40, dtype=np.float32)[:, np.newaxis]
    y = np.exp(20.0 + 80.0 * X[:, 0].astype(float))  # up to 3e43
    model = FNNRegressor((4,), max_iter=1, target_transform="log", standardize_targets=False, random_state=0)
    got = model.set_params(n_estimators=1, encoding=None).fit(X, y).predict(X)
    assert (got >= y.min()).all()
