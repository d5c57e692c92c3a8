import math

import numpy as np
import pytest

from nbnorm.metrics import NAMED, Outcome, Watch, check_monitor, decide, probabilities, resolve, watch

RNG = np.random.default_rng(0)
Z, LABELS = RNG.normal(size=(12, 3)), RNG.integers(0, 3, 12)
BITS, VALUES = RNG.integers(0, 2, (12, 3)), RNG.normal(size=(12, 3))
WEIGHTS = RNG.integers(0, 4, 12).astype(float)
TRUTH = {"softmax": LABELS, "sigmoid": BITS, "identity": VALUES}
CASES = [
    (name, output)
    for name, (_, outputs) in NAMED.items()
    for output in outputs
    if (name, output) != ("balanced_accuracy", "sigmoid")
]


def value(name, output, z, truth, weights=None):
    return NAMED[name][0](Outcome(output, z, truth, weights))


@pytest.mark.parametrize(("name", "output"), CASES)
def test_metrics_agree_with_scikit_learn(name, output):
    peers = pytest.importorskip("sklearn.metrics")
    got = value(name, output, Z, TRUTH[output], WEIGHTS)
    p, truth = probabilities("softmax" if output == "softmax" else "sigmoid", Z), TRUTH[output]
    if name == "log_loss" and output == "sigmoid":
        each = [peers.log_loss(truth[:, j], p[:, j], sample_weight=WEIGHTS, labels=[0, 1]) for j in range(3)]
        expected = sum(each)
    elif name == "log_loss":
        expected = peers.log_loss(truth, p, sample_weight=WEIGHTS)
    else:
        score = f"{name}_score" if name.endswith(("accuracy", "r2")) else name
        expected = getattr(peers, score)(truth, decide(output, Z), sample_weight=WEIGHTS)
        if name == "root_mean_squared_error":  # theirs averages the roots over the outputs
            expected = math.sqrt(peers.mean_squared_error(truth, Z, sample_weight=WEIGHTS))
    assert got == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("name", "output"), CASES)
def test_an_integer_weight_is_a_repeated_sample(name, output):
    rows = np.repeat(np.arange(12), WEIGHTS.astype(int))
    got = value(name, output, Z, TRUTH[output], WEIGHTS)
    assert got == pytest.approx(value(name, output, Z[rows], TRUTH[output][rows]), rel=1e-12)


@pytest.mark.parametrize("constant", [1.0, 0.1, 1e7 / 3])
def test_r2_of_a_constant_target_is_one_or_zero(constant):
    truth = np.full((12, 3), constant)
    exact = truth.copy()
    assert value("r2", "identity", Z, truth) == 0.0
    assert value("r2", "identity", exact, truth) == 1.0
    truth[5] += 1.0
    assert value("r2", "identity", Z, truth, np.arange(12) != 5) == 0.0


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["alike", "weighted"])
def test_r2_of_one_constant_output_among_others(weights):
    truth = TRUTH["identity"].copy()
    truth[:, 1] = 7.0
    got = value("r2", "identity", Z, truth, weights)
    others = [value("r2", "identity", Z[:, [at]], truth[:, [at]], weights) for at in (0, 2)]
    assert got == pytest.approx((others[0] + 0.0 + others[1]) / 3, rel=1e-12)


def test_log_loss_of_extreme_logits_is_finite():
    assert value("log_loss", "softmax", np.array([[1000.0, -1000.0]]), np.array([1])) == 2000.0
    assert value("log_loss", "sigmoid", np.array([[-1000.0]]), np.array([[1]])) == 1000.0


def test_decide():
    z = np.array([[-1.0], [2.0]])
    assert decide("sigmoid", z).tolist() == [0, 1]
    assert decide("identity", z).tolist() == [-1.0, 2.0]
    assert decide("softmax", np.array([[1.0, 3.0], [2.0, 2.0]])).tolist() == [1, 0]


def test_users_own():
    def bias(y_true, prediction):
        return (prediction - y_true).mean()

    def total(y_true, prediction, sample_weight=None):
        return 1.0 if sample_weight is None else sample_weight.sum()

    first, second = resolve([bias, total], "identity", 3)
    assert (first.name, second.name) == ("bias", "total")
    outcome = Outcome("identity", Z, VALUES, WEIGHTS)
    assert first(outcome) == pytest.approx((Z - VALUES).mean())
    assert second(outcome) == WEIGHTS.sum()
    assert second(Outcome("identity", Z, VALUES, None)) == 1.0
    (wrong,) = resolve([lambda y, p: "good"], "identity", 3)
    with pytest.raises(TypeError, match="must return a real number, got str"):
        wrong(outcome)


def test_resolve_refuses():
    with pytest.raises(ValueError, match=r"metrics\[1\] must be one of 'r2', .*, got 'accuracy'"):
        resolve(["r2", "accuracy"], "identity", 1)
    with pytest.raises(ValueError, match="different names"):
        resolve(["r2", "r2"], "identity", 1)
    with pytest.raises(ValueError, match="balanced_accuracy"):
        resolve(["balanced_accuracy"], "sigmoid", 2)
    for wrong in ("r2", 3):
        with pytest.raises(TypeError, match="metrics must be a sequence"):
            resolve(wrong, "identity", 1)


def test_watch():
    seen = watch("val_loss", "auto", 0.5)
    path = []
    for epoch, number in enumerate([3.0, 2.8, 2.0, math.nan, math.inf, 1.6], 1):
        seen = seen.after(epoch, number)
        path.append((seen.best, seen.best_epoch, seen.waited))
    assert path == [(3.0, 1, 0), (2.8, 2, 1), (2.0, 3, 0), (2.0, 3, 1), (2.0, 3, 2), (1.6, 6, 3)]


def test_watch_waits_for_a_slow_improvement():
    seen = watch("r2", "auto", 0.5)
    for epoch, number in enumerate([0.0, 0.4, 0.3, 0.6], 1):
        seen = seen.after(epoch, number)
    assert (seen.best, seen.best_epoch, seen.waited) == (0.6, 4, 0)


def test_the_first_of_equal_values_is_the_best():
    seen = watch("val_accuracy", "auto", 0.0)
    for epoch, number in enumerate([0.5, 0.9, 0.9], 1):
        seen = seen.after(epoch, number)
    assert (seen.best_epoch, seen.waited) == (2, 1)
    assert watch("r2", "min", 0.0).larger is False
    assert watch("rmse", "min", 0.0).larger is False
    assert watch("hits", "max", 0.0).larger is True
    assert Watch(True, 0.0).after(1, math.nan).best is None


@pytest.mark.parametrize("prefix", ["", "val_"])
@pytest.mark.parametrize("name", ["loss", *NAMED])
def test_auto_knows_the_names_of_the_package(prefix, name):
    assert watch(prefix + name, "auto", 0.0).larger == (name.endswith("accuracy") or name == "r2")


@pytest.mark.parametrize(
    "name", ["rmse", "mse", "mae", "nll", "brier", "my_loss", "val_rmse", "val_val_loss"]
)
def test_auto_knows_no_other_name(name):
    with pytest.raises(ValueError, match=f"mode must be 'min' or 'max' for '{name}'"):
        watch(name, "auto", 0.0)
    with pytest.raises(ValueError, match=f"mode must be 'min' or 'max' for '{name}'"):
        check_monitor(name, "auto", [name])
    check_monitor(name, "max", [name])


def test_check_monitor():
    with pytest.raises(ValueError, match="monitor must be one of 'loss', 'r2' in this training, got 'mse'"):
        check_monitor("mse", "auto", ["loss", "r2"])
