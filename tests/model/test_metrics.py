import functools
import math

import numpy as np
import pytest

from nbnorm.model.metrics import (
    NAMED,
    Metric,
    Outcome,
    Watch,
    decide,
    direction,
    name_of,
    probabilities,
    resolve,
    watch,
)

RNG = np.random.default_rng(0)
Z, LABELS = RNG.normal(size=(12, 3)), RNG.integers(0, 3, 12)
BITS, VALUES = RNG.integers(0, 2, (12, 3)), RNG.normal(size=(12, 3))
WEIGHTS = RNG.integers(0, 4, 12).astype(float)
TRUTH = {"softmax": LABELS, "sigmoid": BITS, "identity": VALUES}
CASES = [
    (name, output)
    for name, (_, outputs, _) in NAMED.items()
    for output in outputs
    if (name, output) != ("balanced_accuracy", "sigmoid")
]


def value(name, output, z, truth, weights=None):
    return NAMED[name][0](Outcome(output, z, truth, weights))


LONG = {"mse": "mean_squared_error", "rmse": "root_mean_squared_error", "mae": "mean_absolute_error"}


def by_scikit_learn(name, output, z, truth, weights):
    """The oracle: scikit-learn's function of a metric."""
    peers = pytest.importorskip("sklearn.metrics")
    p, name = probabilities("softmax" if output == "softmax" else "sigmoid", z), LONG.get(name, name)
    if name == "log_loss" and output == "sigmoid":
        return sum(
            peers.log_loss(truth[:, j], p[:, j], sample_weight=weights, labels=[0, 1])
            for j in range(z.shape[1])
        )
    if name == "log_loss":
        return peers.log_loss(truth, p, sample_weight=weights, labels=range(z.shape[1]))
    if name == "root_mean_squared_error":  # theirs averages the roots over the outputs
        return math.sqrt(peers.mean_squared_error(truth, z, sample_weight=weights))
    if name in ("roc_auc", "average_precision"):
        scores = p[:, 1] if output == "softmax" and z.shape[1] == 2 else p
        options = {"multi_class": "ovr"} if name == "roc_auc" else {}
        return getattr(peers, f"{name}_score")(truth, scores, sample_weight=weights, **options)
    if name in ("f1", "precision", "recall"):
        average = "binary" if z.shape[1] < 3 else "macro"
        options = {"average": average, "zero_division": 0}
        return getattr(peers, f"{name}_score")(truth, decide(output, z), sample_weight=weights, **options)
    score = f"{name}_score" if name.endswith(("accuracy", "r2")) else name
    return getattr(peers, score)(truth, decide(output, z), sample_weight=weights)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize(("name", "output"), CASES)
def test_metrics_agree_with_scikit_learn(name, output, weights):
    got = value(name, output, Z, TRUTH[output], weights)
    expected = by_scikit_learn(name, output, Z, TRUTH[output], weights)
    assert got == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
@pytest.mark.parametrize("name", [name for name, output in CASES if output == "softmax"])
def test_metrics_of_two_classes_agree_with_scikit_learn(name, output, weights):
    z, truth = Z[:, :2] if output == "softmax" else Z[:, :1], BITS[:, 0]
    got = value(name, output, z, truth, weights)
    if name == "balanced_accuracy" or output == "softmax":
        expected = by_scikit_learn(name, output, z, truth, weights)
    else:
        expected = by_scikit_learn(name, output, z, truth[:, None], weights)
    assert got == pytest.approx(expected, rel=1e-12)


def naive_roc_auc(truth, score, weights):
    """Share of the pairs that are in order, by looking at each."""
    won = total = 0.0
    for i in np.flatnonzero(truth):
        for j in np.flatnonzero(~truth):
            pair = weights[i] * weights[j]
            total += pair
            won += pair * (1.0 if score[i] > score[j] else 0.5 if score[i] == score[j] else 0.0)
    return won / total


def naive_average_precision(truth, score, weights):
    """Sum over the thresholds of precision times recall gained."""
    area = recall = 0.0
    for threshold in sorted(set(score), reverse=True):
        chosen = score >= threshold
        hit = weights[chosen & truth].sum()
        area += (hit / weights[truth].sum() - recall) * (hit / max(weights[chosen].sum(), 1e-300))
        recall = hit / weights[truth].sum()
    return area


def naive_counts(truth, decided, weights):
    return weights[truth & decided].sum(), weights[decided].sum(), weights[truth].sum()


def naive_f1(truth, decided, weights):
    both, found, true = naive_counts(truth, decided, weights)
    return 2 * both / (found + true)


def naive_precision(truth, decided, weights):
    both, found, _ = naive_counts(truth, decided, weights)
    return both / found if found else 0.0


def naive_recall(truth, decided, weights):
    both, _, true = naive_counts(truth, decided, weights)
    return both / true if true else 0.0


NAIVE = {
    "roc_auc": naive_roc_auc,
    "average_precision": naive_average_precision,
    "f1": naive_f1,
    "precision": naive_precision,
    "recall": naive_recall,
}


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("decimals", [0, 5])  # with ties, and without
@pytest.mark.parametrize("name", NAIVE)
def test_metrics_agree_with_loops(name, decimals, weights):
    z, each = Z.round(decimals), np.ones(12) if weights is None else weights
    scores = "roc_auc", "average_precision"
    given = z[:, 0] if name in scores else z[:, 0] > 0
    expected = NAIVE[name](BITS[:, 0] > 0, given, each)
    assert value(name, "sigmoid", z[:, :1], BITS[:, :1], weights) == pytest.approx(expected, rel=1e-12)
    p = probabilities("softmax", z)
    chosen = z.argmax(axis=1)
    macro = [NAIVE[name](k == LABELS, p[:, k] if name in scores else chosen == k, each) for k in range(3)]
    assert value(name, "softmax", z, LABELS, weights) == pytest.approx(np.mean(macro), rel=1e-12)


def test_classes_that_do_not_occur_are_left_out():
    two = np.minimum(LABELS, 1)
    z = np.column_stack([Z[:, :2], np.full(12, -9.0)])  # the third class is never predicted either
    p = probabilities("softmax", z)
    for name in ("roc_auc", "average_precision"):
        expected = np.mean([NAIVE[name](two == k, p[:, k], np.ones(12)) for k in range(2)])
        assert value(name, "softmax", z, two) == pytest.approx(expected)
    expected = np.mean([naive_f1(two == k, z.argmax(axis=1) == k, np.ones(12)) for k in range(2)])
    assert value("f1", "softmax", z, two) == pytest.approx(expected)
    assert math.isnan(value("roc_auc", "sigmoid", Z[:, :1], np.ones((12, 1))))
    assert math.isnan(value("average_precision", "sigmoid", Z[:, :1], np.zeros((12, 1))))


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
    for answer, kind in (
        ("good", "str"),
        (True, "bool"),
        (1j, "complex"),
        ([1.0], "list"),
        (None, "NoneType"),
    ):
        (wrong,) = resolve([lambda y, p, answer=answer: answer], "identity", 3)
        with pytest.raises(TypeError, match=f"must return a real number, got {kind}"):
            wrong(outcome)
    for answer in (np.array(2.0), np.float32(2.0), 2):
        (right,) = resolve([lambda y, p, answer=answer: answer], "identity", 3)
        assert right(outcome) == 2.0


class Named:
    def __call__(self, y_true, y_pred):
        return 0.0


def share(y_true, y_pred, k=1):
    return k * float((y_true == y_pred).mean())


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        ("r2", "r2"),
        (share, "share"),
        (functools.partial(share, k=2), "partial"),
        (Named(), "Named"),
        (Metric(share), "share"),
        (Metric(functools.partial(share, k=2), name="twice"), "twice"),
    ],
)
def test_a_metric_has_one_name(metric, name):
    assert name_of(metric) == name
    (found,) = resolve([metric], "identity" if metric == "r2" else "softmax", 3)
    assert found.name == name


def test_equal_names_are_refused_with_a_way_out():
    both = [functools.partial(share, k=1), functools.partial(share, k=2)]
    with pytest.raises(ValueError, match=r"different names, got \['partial', 'partial'\]: Metric\(function"):
        resolve(both, "softmax", 3)
    named = resolve([Metric(one, name=f"share {k}") for k, one in enumerate(both)], "softmax", 3)
    assert [one.name for one in named] == ["share 0", "share 1"]


def kept(function, output, z, truth, **options):
    """Return what a metric is given."""
    (metric,) = resolve([Metric(function, **options)], output, z.shape[1])
    metric(Outcome(output, z, truth, None))


@pytest.mark.parametrize("parameter", ["y_score", "y_proba", "probabilities", "Y_Prob", "scores"])
def test_the_second_parameter_may_ask_for_probabilities(parameter):
    seen = []
    function = eval(f"lambda y, {parameter}: seen.append({parameter}) or 0.0", {"seen": seen})
    kept(function, "softmax", Z, LABELS)
    kept(function, "softmax", Z[:, :2], BITS[:, 0])
    kept(function, "sigmoid", Z[:, :1], BITS[:, :1])
    kept(function, "sigmoid", Z, BITS)
    kept(function, "identity", Z, VALUES)  # values have no probabilities
    kept(function, "softmax", Z, LABELS, wants="predictions")
    expected = [
        probabilities("softmax", Z),
        probabilities("softmax", Z[:, :2])[:, 1],
        probabilities("sigmoid", Z[:, 0]),
        probabilities("sigmoid", Z),
        Z,
        Z.argmax(axis=1),
    ]
    for got, right in zip(seen, expected, strict=True):
        np.testing.assert_array_equal(got, right)


def test_a_metric_says_what_it_wants():
    seen = []

    def keep(y, p):
        seen.append(p)
        return 0.0

    for wants in ("predictions", "probabilities", "logits"):
        kept(keep, "softmax", Z[:, :2], BITS[:, 0], wants=wants)
    z = Z[:, 1] - Z[:, 0]
    np.testing.assert_array_equal(seen[0], (z > 0).astype(int))
    np.testing.assert_allclose(seen[1], 1 / (1 + np.exp(-z)))
    np.testing.assert_array_equal(seen[2], z)
    with pytest.raises(
        ValueError, match="metric keep wants probabilities, which the identity output has not"
    ):
        resolve([Metric(keep, wants="probabilities")], "identity", 3)


def test_metrics_of_scikit_learn_get_what_they_take():
    peers = pytest.importorskip("sklearn.metrics")
    p, truth = probabilities("sigmoid", Z[:, 0]), BITS[:, 0]
    outcome = Outcome("sigmoid", Z[:, :1], BITS[:, :1], WEIGHTS)
    for function in (peers.roc_auc_score, peers.average_precision_score, peers.log_loss):
        for metric in (function, functools.partial(function), Metric(function)):
            (got,) = resolve([metric], "sigmoid", 1)
            assert got(outcome) == pytest.approx(function(truth, p, sample_weight=WEIGHTS), rel=1e-12)
    for function in (peers.brier_score_loss, peers.hinge_loss, peers.f1_score, peers.accuracy_score):
        (got,) = resolve([function], "sigmoid", 1)
        given = {"brier_score_loss": p, "hinge_loss": Z[:, 0]}.get(function.__name__, Z[:, 0] > 0)
        assert got(outcome) == pytest.approx(function(truth, given, sample_weight=WEIGHTS), rel=1e-12)
    larger = [
        resolve([one], "sigmoid", 1)[0].larger
        for one in (peers.roc_auc_score, functools.partial(peers.log_loss), peers.mean_absolute_error, share)
    ]
    assert larger == [True, False, False, None]


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"function": "f1"}, TypeError, "function must be callable, got str"),
        ({"function": share, "name": ""}, TypeError, "name must be a text that is not empty"),
        ({"function": share, "wants": "classes"}, ValueError, "wants must be one of 'predictions'"),
        ({"function": share, "mode": "auto"}, ValueError, "mode must be one of 'min', 'max'"),
    ],
)
def test_metric_refuses(options, kind, message):
    with pytest.raises(kind, match=message):
        Metric(**options)


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
    less = ("loss", "log_loss", *LONG, *LONG.values())
    assert watch(prefix + name, "auto", 0.0).larger == (name not in less)


@pytest.mark.parametrize("name", ["RMSE", "msle", "nll", "brier", "my_loss", "val_nll", "val_val_loss"])
def test_auto_knows_no_other_name(name):
    with pytest.raises(ValueError, match=f"mode must be 'min' or 'max' for '{name}'"):
        watch(name, "auto", 0.0)
    with pytest.raises(ValueError, match=f"mode must be 'min' or 'max' for '{name}'"):
        direction(name, "auto", [name])
    assert direction(name, "max", [name]) == "max"


def test_direction():
    with pytest.raises(ValueError, match="monitor must be one of 'loss', 'r2' in this training, got 'mse'"):
        direction("mse", "auto", ["loss", "r2"])
    assert [direction(name, "auto", ["loss", "val_r2"]) for name in ("loss", "val_r2")] == ["min", "max"]
    (metric,) = resolve([Metric(share, mode="max")], "softmax", 3)
    assert direction("val_share", "auto", ["val_share"], [metric]) == "max"
    (less,) = resolve([Metric(share, name="r2", mode="min")], "softmax", 3)
    assert direction("r2", "auto", ["r2"], [less]) == "min"
