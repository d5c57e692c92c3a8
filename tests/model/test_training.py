import _thread
import contextlib
import copy
import functools
import json
import math
import os
import pickle
import re
import signal
import sys
import tempfile
import threading

import numpy as np
import pytest
from case_names import case_name
from numba import config
from test_network import assert_close, state

from nbnorm import FNN, SGD, AdamW, CrossEntropy, DivergenceError, EarlyStopping, History, Metric
from nbnorm.engine.run import Engine
from nbnorm.model import engines, training
from nbnorm.model.schedules import Plateau

SIZES = [5, 8, 3]


def fitted(blobs, **options):
    net = FNN(SIZES, seed=0)
    return net, net.fit(*blobs, **{"epochs": 3, "batch_size": 20, **options})


def lists(history):
    return {name: value for name, value in history.to_dict().items() if name != "seconds"}


# ----------------------------------------------------------------------------------------------
# Reproducibility
# ----------------------------------------------------------------------------------------------


def test_equal_seeds_give_equal_bits(blobs):
    (first, _), (second, _) = fitted(blobs), fitted(blobs)
    assert state(first) == state(second)


def test_the_seed_of_fit_orders_the_samples(blobs):
    nets = [fitted(blobs, seed=seed)[0] for seed in (1, 1, 2)]
    assert state(nets[0]) == state(nets[1])
    assert state(nets[0]) != state(nets[2])


def test_no_seed_differs_every_time():
    first, second = (FNN(SIZES).parameters()["dense1.weight"] for _ in range(2))
    assert (first != second).any()


def test_two_calls_continue_as_one(blobs):
    # without momentum nothing but the arrays and the count of epochs goes from call to call
    whole, _ = fitted(blobs, epochs=4, optimizer=SGD(lr=0.1))
    halves = FNN(SIZES, seed=0)
    for _ in range(2):
        halves.fit(*blobs, epochs=2, batch_size=20, optimizer=SGD(lr=0.1))
    assert state(whole) == state(halves)


def test_shuffle_off_takes_the_samples_as_they_stand(blobs):
    plain, _ = fitted(blobs, shuffle=False)
    shuffled, _ = fitted(blobs)
    assert state(plain) != state(shuffled)
    again, _ = fitted(blobs, shuffle=False, seed=99)
    assert state(plain) == state(again)


# ----------------------------------------------------------------------------------------------
# History and validation
# ----------------------------------------------------------------------------------------------


def test_history(blobs):
    net, history = fitted(blobs)
    assert isinstance(history, History)
    assert not net.training
    assert net.epochs_trained == history.epochs == 3
    assert history.steps == 15  # 90 samples in batches of 20, the last of 10
    assert [len(values) for values in (history.loss, history.accuracy, history.seconds)] == [3, 3, 3]
    assert history.loss[2] < history.loss[0]
    assert all(0 <= value <= 1 for value in history.accuracy)
    assert all(value > 0 for value in history.seconds)
    assert (history.val_loss, history.val_accuracy, history.stopped) == (None, None, None)
    assert json.loads(json.dumps(history.to_dict()))["steps"] == 15


def test_history_of_one_batch_is_the_loss_before_its_update(blobs):
    net = FNN(SIZES, seed=0, standardize=False, dtype=np.float64)
    expected, _ = net.loss_and_gradients(*blobs)
    share = (net.forward(blobs[0]).argmax(axis=1) == blobs[1]).mean()
    history = net.fit(*blobs, epochs=1, batch_size=90, shuffle=False)
    assert history.loss[0] == pytest.approx(expected, rel=1e-12)
    assert history.accuracy[0] == pytest.approx(share)


@pytest.mark.parametrize("bias", [[0, 0, 0], [1, 1, 0], [0, 1, 1], [1, 0, 1]])
@pytest.mark.parametrize(
    "options", [{}, {"loss": CrossEntropy(0.1)}, {"output": "sigmoid"}, {"dtype": np.float64}]
)
def test_the_training_accuracy_decides_ties_as_predict_does(options, bias):
    y = np.arange(99) % 3
    if "output" in options:  # all answers of three outputs
        y = np.arange(99)[:, None] >> np.arange(3) & 1
    net = FNN([2, 3], standardize=False, seed=0, **options)
    net.parameters()["dense1.weight"][:], net.parameters()["dense1.bias"][:] = 0, bias
    predicted = net.predict(np.ones((99, 2))).reshape(y.shape)
    right = (predicted == y).reshape(99, -1).all(axis=1)
    weights = np.arange(99.0)
    for given in (None, weights):
        history = net.fit(np.ones((99, 2)), y, epochs=1, sample_weight=given, optimizer=SGD(lr=1e-300))
        net.parameters()["dense1.weight"][:], net.parameters()["dense1.bias"][:] = 0, bias
        assert history.accuracy[0] == pytest.approx(np.average(right, weights=given), rel=1e-6)


def test_history_of_regression_has_no_accuracy(blobs):
    X, y = blobs
    history = FNN(SIZES, output="identity", seed=0).fit(
        X, np.eye(3)[y], epochs=2, validation_data=(X, np.eye(3)[y])
    )
    assert history.accuracy is None
    assert history.val_accuracy is None
    assert len(history.val_loss) == 2


@pytest.mark.parametrize("output", ["softmax", "sigmoid", "identity"])
def test_validation_measures_in_evaluation_mode_after_each_epoch(output, blobs):
    X, y = blobs
    y = y if output == "softmax" else np.eye(3)[y]
    net = FNN(SIZES, output=output, seed=0, dtype=np.float64)
    seen = []

    def measure(net, history):
        copy = FNN.__new__(FNN)
        copy.__dict__ = {**net.__dict__, "training": False}
        seen.append(copy.loss_and_gradients(X[:40], y[:40])[0])

    history = net.fit(X, y, epochs=3, batch_size=20, validation_data=(X[:40], y[:40]), callbacks=[measure])
    np.testing.assert_allclose(history.val_loss, seen, rtol=1e-10)
    if output != "identity":
        assert history.val_accuracy[-1] == net.score(X[:40], y[:40])


def test_validation_changes_nothing(blobs):
    with_it, _ = fitted(blobs, validation_data=blobs)
    without, _ = fitted(blobs)
    assert state(with_it) == state(without)


# ----------------------------------------------------------------------------------------------
# Schedules and callbacks
# ----------------------------------------------------------------------------------------------


def test_fit_follows_the_schedule(blobs):
    constant, _ = fitted(blobs, optimizer=SGD(lr=0.05))
    called, _ = fitted(blobs, optimizer=SGD(lr=9.0), schedule=lambda step: 0.05)
    assert state(called) == state(constant)
    steps = []
    fitted(blobs, schedule=lambda step: steps.append(step) or 0.05)
    assert steps == list(range(15))
    halves, _ = fitted(blobs, epochs=2, optimizer=SGD(lr=1.0), schedule=lambda step: 0.1 if step < 5 else 0.0)
    one, _ = fitted(blobs, epochs=1, optimizer=SGD(lr=0.1))
    assert_close(halves.parameters(), one.parameters(), 1e-7)


def test_callbacks_see_each_epoch(blobs):
    seen = []

    def look(net, history):
        seen.append(
            (net.epochs_trained, history.epochs, len(history.loss), net.parameters()["dense1.bias"].copy())
        )

    net, _ = fitted(blobs, callbacks=(look,))
    assert [entry[:3] for entry in seen] == [(1, 1, 1), (2, 2, 2), (3, 3, 3)]
    assert (seen[0][3] != seen[1][3]).any()
    np.testing.assert_array_equal(seen[2][3], net.parameters()["dense1.bias"])


def test_an_error_in_a_callback_keeps_the_epochs_done(blobs):
    def fail(net, history):
        if history.epochs == 2:
            raise RuntimeError("callback")

    net = FNN(SIZES, seed=0)
    with pytest.raises(RuntimeError, match="callback"):
        net.fit(*blobs, epochs=5, batch_size=20, callbacks=[fail])
    expected, _ = fitted(blobs, epochs=2)
    assert state(net)[0] == state(expected)[0]
    assert net.epochs_trained == 2


# ----------------------------------------------------------------------------------------------
# Metrics, early stopping, what callbacks do
# ----------------------------------------------------------------------------------------------


def test_metrics_of_the_validation_data(blobs):
    X, y = blobs
    w = np.arange(40.0)
    seen = []

    def wrong(y_true, prediction, sample_weight):
        return np.average(y_true != prediction, weights=sample_weight)

    def look(net, history):
        seen.append(net.eval().score(X[:40], y[:40], w))

    net, history = fitted(
        blobs, validation_data=(X[:40], y[:40], w), metrics=["accuracy", wrong], callbacks=[look]
    )
    assert list(history.metrics) == ["accuracy", "wrong"]
    np.testing.assert_allclose(history.metrics["accuracy"], seen, rtol=1e-12)
    np.testing.assert_allclose(history.metrics["wrong"], 1 - np.array(seen), rtol=1e-12, atol=1e-15)
    assert history.val_accuracy == history.metrics["accuracy"]
    weighted = net.loss.value(net.forward(X[:40]), y[:40], w)
    assert history.val_loss[-1] == pytest.approx(weighted, rel=1e-5)


def test_history_has_the_rate_of_each_epoch(blobs):
    _, history = fitted(blobs, schedule=lambda step: 0.01 * (step + 1))
    np.testing.assert_allclose(history.rates, [0.05, 0.1, 0.15])


def flat_after(epoch):
    """Learning rates with which nothing but rounding changes after an epoch of 5 steps."""
    return lambda step: 0.05 if step < 5 * epoch else 0.0


def test_early_stopping_restores_the_best_epoch(blobs):
    X, y = blobs
    options = {"validation_data": (X[:30], (y[:30] + 1) % 3), "optimizer": SGD(lr=0.02)}
    kept = []

    def keep(net, history):
        kept.append(state(net)[0])

    # the validation labels are wrong: the first epoch is the best
    net, history = fitted(
        blobs, epochs=20, early_stopping=EarlyStopping(patience=3), callbacks=[keep], **options
    )
    assert (history.stopped, history.best_epoch, history.epochs) == ("early", 1, 4)
    assert net.epochs_trained == 4
    assert state(net)[0] == kept[0]
    last, history = fitted(blobs, epochs=2, early_stopping=EarlyStopping(restore_best=False), **options)
    assert (history.stopped, history.best_epoch) == (None, 1)
    assert state(last)[0] == kept[1]


def test_early_stopping_restores_at_the_end_and_after_an_interrupt(blobs):
    X, y = blobs
    options = {"validation_data": (X[:30], (y[:30] + 1) % 3), "optimizer": SGD(lr=0.02)}
    expected, _ = fitted(blobs, epochs=1, **options)
    ended, history = fitted(blobs, epochs=3, early_stopping=True, **options)
    assert (history.stopped, history.best_epoch, history.epochs) == (None, 1, 3)
    assert state(ended)[0] == state(expected)[0]

    def interrupt(net, history):
        if history.epochs == 3:
            raise KeyboardInterrupt

    cut, history = fitted(blobs, epochs=9, early_stopping=True, callbacks=[interrupt], **options)
    assert (history.stopped, history.best_epoch, history.epochs) == ("interrupted", 1, 3)
    assert state(cut)[0] == state(expected)[0]


@pytest.mark.parametrize("monitor", ["loss", "accuracy", "val_accuracy", "log_loss", "val_log_loss"])
def test_early_stopping_monitors(blobs, monitor):
    stop = EarlyStopping(monitor, patience=2, min_delta=1e-3)
    _, history = fitted(
        blobs,
        epochs=40,
        schedule=flat_after(2),
        validation_data=blobs,
        metrics=["log_loss"],
        early_stopping=stop,
    )
    assert history.stopped == "early"
    name = monitor.removeprefix("val_") if "log_loss" in monitor else monitor
    values = getattr(history, name, None) or history.metrics[name]
    chosen = max(values) if "accuracy" in monitor else min(values)
    assert history.best_epoch == values.index(chosen) + 1  # by however little, the first of equal ones
    assert abs(values[-3] - chosen) <= 1e-3  # the wait began there


@pytest.mark.parametrize(
    ("schedule", "ends"),
    [
        ("constant", 11),
        (Plateau(), 11),
        ("cosine", 20),
        ("one_cycle", 20),
        ("step", 20),
        (lambda step: 0.0, 20),
    ],
    ids=case_name,
)
def test_early_stopping_leaves_a_planned_schedule_its_end(blobs, schedule, ends):
    # without batch norm, a rate that is too small to change a weight leaves the first epoch the best
    options = {"optimizer": SGD(lr=1e-30), "validation_data": blobs, "schedule": schedule, "epochs": 20}
    for patience, last in ((None, ends), (3, 4)):
        stop = EarlyStopping("val_accuracy", patience=patience)
        history = FNN(SIZES, norm=None, seed=0).fit(*blobs, early_stopping=stop, **options)
        assert (history.epochs, history.best_epoch) == (last, 1)
        assert history.stopped == ("early" if last < 20 else None)


def brier(y_true, prediction):
    return float(np.mean(y_true != prediction))


@pytest.mark.parametrize("option", ["early_stopping", "schedule"])
def test_a_metric_of_your_own_needs_a_mode(blobs, option):
    kind = EarlyStopping if option == "early_stopping" else Plateau
    net = FNN(SIZES, seed=0)
    before = state(net)
    options = {"epochs": 30, "batch_size": 20, "validation_data": blobs, "metrics": [brier]}
    with pytest.raises(ValueError, match="mode must be 'min' or 'max' for 'brier'"):
        net.fit(*blobs, **options, **{option: kind("brier")})
    assert state(net) == before
    history = net.fit(*blobs, **options, **{option: kind("brier", mode="min")})
    if option == "early_stopping":
        seen = history.metrics["brier"]
        assert seen[history.best_epoch - 1] == min(seen)


def test_plateau_lowers_the_rate(blobs):
    _, history = fitted(
        blobs,
        epochs=6,
        schedule=Plateau("loss", factor=0.5, patience=2, min_delta=100.0),
        optimizer=SGD(lr=0.1),
    )
    np.testing.assert_allclose(history.rates, [0.1, 0.1, 0.1, 0.05, 0.05, 0.025])
    _, history = fitted(blobs, schedule="plateau", validation_data=blobs)
    assert history.rates == [0.1] * 3


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"early_stopping": True}, ValueError, "monitor must be one of 'loss', 'accuracy' in this training"),
        ({"schedule": Plateau("r2")}, ValueError, "monitor must be one of"),
        ({"early_stopping": 5}, TypeError, "early_stopping must be an EarlyStopping"),
        ({"metrics": ["accuracy"]}, ValueError, "measured on validation_data"),
        (
            {"validation_data": ([[1.0] * 5], [0], [-1.0])},
            ValueError,
            r"validation_data\[2\] must be finite and not negative",
        ),
        ({"validation_data": (1, 2, 3, 4)}, TypeError, r"tuple \(X, y\) or \(X, y, weights\)"),
        ({"schedule": "linear"}, ValueError, "schedule must be one of"),
        ({"schedule": lambda step: -1}, ValueError, r"schedule\(step\) must be finite and at least 0"),
    ],
)
def test_bad_options_change_nothing(blobs, options, kind, message):
    net = FNN(SIZES, seed=0)
    before = state(net)
    with pytest.raises(kind, match=message):
        net.fit(*blobs, epochs=2, **options)
    assert state(net) == before


@pytest.mark.parametrize(
    "wrong", [{"patience": 0}, {"min_delta": -1.0}, {"mode": "best"}, {"restore_best": 1}]
)
def test_early_stopping_refuses(wrong):
    with pytest.raises((ValueError, TypeError), match=f"{next(iter(wrong))} must be"):
        EarlyStopping(**wrong)


def test_a_callback_can_end_the_training(blobs, threads):
    called = []
    net, history = fitted(
        blobs, callbacks=[lambda net, history: history.epochs == 2, lambda *_: called.append(1) or "going on"]
    )
    assert (history.stopped, history.epochs, len(called)) == ("callback", 2, 2)
    assert state(net) == state(fitted(blobs, epochs=2)[0])


@pytest.mark.parametrize("answer", [True, np.True_, np.array(True), np.array([True])])
def test_a_true_answer_of_any_boolean_type_ends_the_training(answer, blobs):
    _, history = fitted(blobs, callbacks=[lambda net, history: answer])
    assert (history.stopped, history.epochs) == ("callback", 1)


@pytest.mark.parametrize("answer", [False, np.False_, np.array(False), None, 1, "on", [True], np.ones(2)])
def test_no_other_answer_ends_it(answer, blobs):
    _, history = fitted(blobs, epochs=2, callbacks=[lambda net, history: answer])
    assert (history.stopped, history.epochs) == (None, 2)


def test_a_partial_metric_is_watched_and_stored_by_its_name(blobs, tmp_path):
    metric = functools.partial(brier)
    options = {
        "validation_data": blobs,
        "metrics": [metric, Metric(metric, name="wrong", mode="min")],
        "early_stopping": EarlyStopping("partial", mode="min"),
        "schedule": Plateau("val_wrong"),
        "checkpoint": tmp_path / "run.npz",
    }
    _, history = fitted(blobs, **options)
    assert list(history.metrics) == ["partial", "wrong"]
    assert fitted(blobs, **options)[1].metrics == history.metrics


def test_an_interrupt_in_the_first_epoch_changes_nothing(blobs):
    def interrupt(truth, prediction):
        raise KeyboardInterrupt

    for mode in (True, False):
        net = FNN(SIZES, seed=0)
        net.training = mode
        before = state(net)
        history = net.fit(*blobs, validation_data=blobs, metrics=[interrupt])
        assert (history.stopped, history.epochs) == ("interrupted", 0)
        assert state(net) == before
        assert net.standardizer is None


def test_a_second_interrupt_leaves_nothing_half_done(blobs, monkeypatch):
    kept, copied = [], []
    whole = Engine.store_statistics

    def twice(self):
        copied.append(1)
        if len(copied) in (2, 3):  # parameters are stored, moving averages are not
            raise KeyboardInterrupt
        whole(self)

    fitted(blobs, epochs=2, callbacks=[lambda net, history: kept.append(state(net)[0])])
    monkeypatch.setattr(Engine, "store_statistics", twice)
    net, history = fitted(blobs, epochs=9)
    assert (history.stopped, history.epochs, net.epochs_trained) == ("interrupted", 2, 2)
    assert state(net)[0] == kept[1]


def read_only(net):
    """Return the network as joblib hands it on, its arrays in memory that must not be written, and copies."""
    joblib = pytest.importorskip("joblib")
    with tempfile.TemporaryDirectory() as folder:
        joblib.dump(net, f"{folder}/net")
        mapped = joblib.load(f"{folder}/net", mmap_mode="r")
    assert not any(values.flags.writeable for values in mapped.arrays.named().values())
    return [mapped, pickle.loads(pickle.dumps(mapped)), copy.deepcopy(mapped)]


@pytest.mark.parametrize("norm", ["after", "rms", None])
def test_a_network_in_read_only_memory_can_be_trained(norm, blobs, tmp_path):
    def more(net, **options):
        net.fit(*blobs, epochs=2, batch_size=20, **options)
        return state(net)

    net = FNN(SIZES, norm=norm, seed=0)
    net.fit(*blobs, epochs=1, batch_size=20)
    expected = more(copy.deepcopy(net))
    for mapped in read_only(net):
        before = mapped.predict(blobs[0])
        np.testing.assert_array_equal(before, net.predict(blobs[0]))
        assert more(mapped) == expected
    path = tmp_path / "run.npz"
    more(copy.deepcopy(net), checkpoint=path)
    assert more(read_only(net)[0], checkpoint=path) == expected  # takes what the file holds
    mapped = read_only(net)[0].train()
    np.testing.assert_array_equal(mapped.forward(blobs[0]), copy.deepcopy(net).train().forward(blobs[0]))
    mapped = read_only(net)[0]
    mapped.parameters()["dense1.weight"][:] = 0.0
    assert not mapped.parameters()["dense1.weight"].any()


def test_what_a_callback_writes_counts(blobs):
    def reset(net, history):
        if history.epochs == 1:
            start = FNN(SIZES, seed=0)
            for name, values in (net.parameters() | net.buffers()).items():
                values[:] = (start.parameters() | start.buffers())[name]

    options = {"optimizer": SGD(lr=0.1), "shuffle": False}
    net, _ = fitted(blobs, epochs=2, callbacks=[reset], **options)
    expected, _ = fitted(blobs, epochs=1, **options)
    assert state(net)[0] == state(expected)[0]


# ----------------------------------------------------------------------------------------------
# The learning-rate finder
# ----------------------------------------------------------------------------------------------


def test_find_learning_rate(blobs, threads):
    net = FNN(SIZES, seed=0)
    before = state(net)
    found = net.find_learning_rate(
        *blobs, batch_size=45, optimizer=SGD(lr=0.1), least=1e-4, most=1e3, steps=40
    )
    assert state(net) == before
    assert len(found.rates) == len(found.losses) <= 40
    np.testing.assert_allclose(np.diff(np.log(found.rates)), math.log(1e7) / 39)
    assert 1e-3 < found.suggestion < 10
    # a training with these rates sees the same losses
    options = {"optimizer": SGD(lr=0.1), "schedule": lambda step: float(found.rates[step])}
    _, history = fitted(blobs, epochs=1, batch_size=45, **options)
    assert np.mean(found.losses[:2]) == pytest.approx(history.loss[0], rel=1e-5)


def test_find_learning_rate_refuses(blobs):
    net = FNN(SIZES, seed=0)
    for wrong in ({"least": 0.0}, {"most": 1e-9}, {"steps": 1}, {"batch_size": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
            net.find_learning_rate(*blobs, **wrong)


# ----------------------------------------------------------------------------------------------
# Standardized targets
# ----------------------------------------------------------------------------------------------


def line(n=90, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 5))
    return X, 1e6 + 1e4 * (X @ [1.0, -2.0, 0.5, 0.0, 3.0] + 0.1 * rng.normal(size=n))


def test_standardized_targets(tmp_path):
    X, y = line()
    net = FNN([5, 16, 1], output="identity", standardize_targets=True, seed=0)
    options = {"epochs": 20, "batch_size": 30, "optimizer": SGD(lr=0.05, momentum=0.9)}
    history = net.fit(X, y, validation_data=(X, y), metrics=["r2", "mean_absolute_error"], **options)
    scaled = (y - y.mean()) / y.std()
    plain = FNN([5, 16, 1], output="identity", seed=0)
    expected = plain.fit(X, scaled, validation_data=(X, scaled), **options)
    np.testing.assert_allclose(history.loss, expected.loss, rtol=1e-4)
    np.testing.assert_allclose(history.val_loss, expected.val_loss, rtol=1e-4)
    np.testing.assert_allclose(net.predict(X), plain.predict(X) * y.std() + y.mean(), rtol=1e-5)
    assert net.score(X, y) == pytest.approx(history.metrics["r2"][-1], rel=1e-6)
    assert net.score(X, y) > 0.9
    error = np.abs(net.predict(X).astype(float) - y).mean()
    assert history.metrics["mean_absolute_error"][-1] == pytest.approx(error, rel=1e-4)
    net.save(tmp_path / "net.npz")
    np.testing.assert_array_equal(FNN.load(tmp_path / "net.npz").predict(X), net.predict(X))


@pytest.mark.parametrize("outputs", [1, 2])
def test_standardized_targets_far_from_zero(outputs):
    X, _ = line()
    y = X[:, :outputs] + 1e8
    net = FNN([5, 16, outputs], output="identity", standardize_targets=True, seed=0)
    history = net.fit(X, y, epochs=30, batch_size=30, validation_data=(X, y), metrics=["r2"])
    assert net.forward(X).dtype == np.float32
    assert net.predict(X).dtype == np.float64
    np.testing.assert_allclose(net.predict(X).reshape(y.shape) - 1e8, X[:, :outputs], atol=1.0)
    assert net.score(X, y) == history.metrics["r2"][-1] > 0.9


def test_gradients_with_standardized_targets():
    X, y = line(12)
    net = FNN(
        [5, 4, 1], output="identity", activation="tanh", standardize_targets=True, dtype=np.float64, seed=0
    )
    net.fit(X, y, epochs=1)
    loss, _ = net.eval().loss_and_gradients(X, y)
    z = net.forward(X)[:, 0]
    assert loss == pytest.approx((0.5 * (z - (y - y.mean()) / y.std()) ** 2).mean())
    assert max(net.check_gradients(X, y).values()) < 1e-6


def test_standardized_targets_need_values():
    with pytest.raises(ValueError, match="standardize_targets needs output='identity', got 'softmax'"):
        FNN(SIZES, standardize_targets=True)


# ----------------------------------------------------------------------------------------------
# The optimizer's state from call to call
# ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [SGD(lr=0.05, momentum=0.9), AdamW(lr=0.01)], ids=["SGD", "AdamW"])
def test_carried_moments_make_two_calls_one(blobs, optimizer):
    whole, _ = fitted(blobs, epochs=4, optimizer=optimizer)
    halves = FNN(SIZES, seed=0)
    halves.optimizer_state = {}
    for _ in range(2):
        halves.fit(*blobs, epochs=2, batch_size=20, optimizer=optimizer)
    assert state(halves) == state(whole)
    forgetful = FNN(SIZES, seed=0)
    for _ in range(2):
        forgetful.fit(*blobs, epochs=2, batch_size=20, optimizer=optimizer)
    assert state(forgetful)[0] != state(whole)[0]


def test_moments_of_another_optimizer_are_not_carried(blobs):
    nets = [FNN(SIZES, seed=0) for _ in range(2)]
    nets[0].optimizer_state = {}
    for optimizer in (AdamW(lr=0.01), SGD(lr=0.05, momentum=0.9)):
        for net in nets:
            net.fit(*blobs, epochs=1, batch_size=20, optimizer=optimizer)
    assert state(nets[0]) == state(nets[1])


# ----------------------------------------------------------------------------------------------
# Bounds and penalties
# ----------------------------------------------------------------------------------------------


def one_step(blobs, **options):
    """Return by how much the parameters change in one step of the whole data."""
    net = FNN(SIZES, seed=0, dtype=np.float64)
    before = {name: values.copy() for name, values in net.parameters().items()}
    net.fit(*blobs, epochs=1, batch_size=90, optimizer=SGD(lr=1.0), **options)
    return {name: values - before[name] for name, values in net.parameters().items()}, before


# of layers that fill no tile, with an activation that makes something of the zeros beside them
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("norm", ["after", "before", "layer", "rms_after", None])
@pytest.mark.parametrize("sizes", [[5, 9, 4, 3], [3, 1, 2]])
def test_clip_norm_is_that_of_the_parameters_alone(sizes, norm, dtype, blobs, threads):
    X, y = blobs[0][:20, : sizes[0]], blobs[1][:20] % sizes[-1]
    net = FNN(sizes, activation="sigmoid", norm=norm, dtype=dtype, standardize=False, seed=1)
    _, gradients = net.loss_and_gradients(X, y)
    norm_of_all = np.sqrt(sum((g.astype(float) ** 2).sum() for g in gradients.values()))
    before = {name: values.copy() for name, values in net.parameters().items()}
    options = {"epochs": 1, "batch_size": 20, "shuffle": False, "optimizer": SGD(lr=1.0)}
    net.fit(X, y, clip_norm=0.5 * norm_of_all, **options)
    expected = {name: before[name] - 0.5 * gradient for name, gradient in gradients.items()}
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    for name, values in net.parameters().items():
        np.testing.assert_allclose(values, expected[name], rtol=tolerance, atol=tolerance, err_msg=name)


def test_clip_norm_clip_value_and_l2(blobs):
    plain, before = one_step(blobs)
    norm = np.sqrt(sum((change**2).sum() for change in plain.values()))
    half, _ = one_step(blobs, clip_norm=norm / 2)
    assert_close(half, {name: change / 2 for name, change in plain.items()}, 1e-9)
    far, _ = one_step(blobs, clip_norm=2 * norm)
    assert_close(far, plain, 1e-9)
    bound = 0.3 * max(np.abs(change).max() for change in plain.values())
    cut, _ = one_step(blobs, clip_value=bound)
    assert_close(cut, {name: np.clip(change, -bound, bound) for name, change in plain.items()}, 1e-9)
    penalized, _ = one_step(blobs, l2=0.1)
    expected = {name: c - 0.1 * before[name] * name.endswith("weight") for name, c in plain.items()}
    assert_close(penalized, expected, 1e-9)


@pytest.mark.parametrize("name", ["clip_norm", "clip_value", "l2"])
def test_bounds_are_checked(blobs, name):
    for wrong in (-1.0, float("inf"), "much"):
        with pytest.raises((TypeError, ValueError), match=f"{name} must be"):
            fitted(blobs, **{name: wrong})


# ----------------------------------------------------------------------------------------------
# Weights
# ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["softmax", "sigmoid", "identity"])
@pytest.mark.parametrize("norm", ["after", "before", "layer", None])
def test_an_integer_weight_is_a_repeated_sample(norm, output, blobs):
    X, y = blobs[0][:20], blobs[1][:20]
    y = y if output == "softmax" else np.eye(3)[y]
    weights = np.random.default_rng(1).integers(0, 4, 20)
    rows = np.repeat(np.arange(20), weights)
    options = {"epochs": 3, "batch_size": 100, "optimizer": SGD(lr=0.1, momentum=0.5), "shuffle": False}
    same = {"norm": norm, "output": output, "activation": "tanh", "dtype": np.float64, "seed": 0}
    nets = [FNN(SIZES, weighted_statistics=True, **same) for _ in range(2)]
    got = nets[0].fit(X, y, sample_weight=weights, validation_data=(X, y, weights), **options)
    expected = nets[1].fit(X[rows], y[rows], validation_data=(X[rows], y[rows]), **options)
    np.testing.assert_allclose(got.loss, expected.loss, rtol=1e-9)
    np.testing.assert_allclose(got.val_loss, expected.val_loss, rtol=1e-9)
    if output != "identity":
        np.testing.assert_allclose(got.accuracy, expected.accuracy, rtol=1e-9)
    assert_close(nets[0].parameters(), nets[1].parameters(), 1e-9)
    assert_close(nets[0].buffers(), nets[1].buffers(), 1e-9)
    np.testing.assert_allclose(nets[0].standardizer.scale_, nets[1].standardizer.scale_, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("norm", "weighted"), [("after", True), ("after", False), (None, False)])
def test_a_common_factor_of_the_weights_changes_nothing(norm, weighted, dtype, blobs):
    weights = np.random.default_rng(1).uniform(0.5, 1.0, 90)
    X, y = blobs
    options = {"epochs": 2, "batch_size": 20, "optimizer": AdamW(lr=0.01), "l2": 0.1, "clip_norm": 0.5}
    found = []
    for factor in (1.0, 0.5, 2.0**-160, 2.0**-1000, 2.0**160, 2.0**1000):
        options_ = {"unbiased": not weighted, "weighted_statistics": weighted, "dtype": dtype}
        net = FNN(SIZES, norm=norm, seed=0, **options_)
        held = (X, y, factor * weights)
        history = net.fit(X, y, sample_weight=factor * weights, validation_data=held, **options)
        loss, gradients = net.loss_and_gradients(X, y, sample_weight=factor * weights)
        arrays = {name: values.tobytes() for name, values in gradients.items()}
        found.append((state(net)[0], lists(history), loss, arrays, net.score(*held)))
    assert all(one == found[0] for one in found)


@pytest.mark.parametrize("weighted_statistics", [False, True])
@pytest.mark.parametrize("weight", [0.0201, 1.0 / 50, 0.3, 1e-60])
def test_small_weights_do_not_blow_up_the_running_variance(weight, weighted_statistics, blobs):
    plain, weighted = (FNN(SIZES, weighted_statistics=weighted_statistics, seed=0) for _ in range(2))
    plain.fit(*blobs, epochs=5, batch_size=50)
    weighted.fit(*blobs, epochs=5, batch_size=50, sample_weight=np.full(90, weight))
    assert_close(weighted.buffers(), plain.buffers(), 1e-4)
    assert_close(weighted.parameters(), plain.parameters(), 1e-4)


def test_weights_that_vanish_beside_the_largest_are_left_out(blobs):
    weights = np.where(np.arange(90) % 3 > 0, 1e10, 1e-30)
    nets = [FNN(SIZES, seed=0) for _ in range(2)]
    nets[0].fit(*blobs, epochs=1, sample_weight=weights)
    nets[1].fit(*blobs, epochs=1, sample_weight=np.where(weights > 1, 1e10, 0.0))
    assert_close(nets[0].parameters(), nets[1].parameters(), 1e-6)
    assert_close(nets[0].buffers(), nets[1].buffers(), 1e-6)


@pytest.mark.parametrize("weighted_statistics", [False, True])
def test_samples_of_weight_0_are_left_out(weighted_statistics, blobs, threads):
    X, y = blobs
    weights = np.random.default_rng(1).uniform(0.5, 2, 90) * (np.arange(90) % 3 > 0)
    spoiled = np.where((weights == 0)[:, None], 1e30, X)
    options = {"epochs": 2, "batch_size": 25, "optimizer": SGD(lr=0.05)}
    same = {"standardize": False, "weighted_statistics": weighted_statistics, "seed": 0}
    nets = [FNN(SIZES, **same) for _ in range(2)]
    history = nets[0].fit(spoiled, y, sample_weight=weights, **options)
    used = weights > 0
    nets[1].fit(X[used], y[used], sample_weight=weights[used], **options)
    assert history.steps == 6  # 60 samples
    assert state(nets[0]) == state(nets[1])


# the weights of the classes are no part of the standardizer, unless the network has weighted_statistics
@pytest.mark.parametrize("same", [{"weighted_statistics": True}, {"standardize": False}])
def test_class_weight(same, blobs):
    def trained(**options):
        net = FNN(SIZES, seed=0, **same)
        net.fit(*blobs, epochs=3, batch_size=20, **options)
        return state(net)

    y = blobs[1]
    by_class, by_sample = {0: 2.0, 2: 0.5}, np.array([2.0, 1.0, 0.5])[y]
    assert trained(class_weight=by_class) == trained(sample_weight=by_sample)
    assert trained(class_weight=by_class, sample_weight=by_sample) == trained(sample_weight=by_sample**2)
    counts = np.bincount(y)
    balanced = trained(class_weight="balanced")
    assert balanced == trained(sample_weight=(90 / (3 * counts))[y])
    assert balanced != trained()


@pytest.mark.parametrize("by_class", ["balanced", {0: 3.0, 2: 0.0}])
def test_the_standardizer_takes_the_weights_of_samples_and_not_of_classes(by_class, blobs):
    X, y = blobs
    weights = np.random.default_rng(1).uniform(0.0, 2.0, 90)
    used = (y != 2) | (by_class == "balanced")
    for given, expected in ((None, used), (weights, used * weights)):
        net, _ = fitted(blobs, epochs=1, class_weight=by_class, sample_weight=given)
        mean = np.average(X, axis=0, weights=expected)
        np.testing.assert_allclose(net.standardizer.mean_, mean, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("norm", ["after", "before"])
def test_statistics_of_hidden_features_count_each_row_once(norm, blobs, threads):
    X, y = blobs
    weights = np.random.default_rng(1).choice([0.0, 0.01, 1.0, 50.0], 90)
    used = weights > 0
    nets = [FNN([5, 8, 6, 3], norm=norm, standardize=False, seed=0) for _ in range(4)]
    # the rate moves no parameter, so that every epoch sees the same features
    options = {"epochs": 2, "batch_size": 16, "shuffle": False, "optimizer": SGD(lr=1e-300)}
    nets[0].fit(X[used], y[used], **options)
    nets[1].fit(X, y, sample_weight=weights, **options)
    nets[2].fit(X, y, sample_weight=used.astype(float), class_weight={0: 30.0, 1: 0.1}, **options)
    nets[3].fit(X, y, sample_weight=used * np.linspace(1.0, 1.9, 90), **options)
    expected = {name: values.tobytes() for name, values in nets[0].buffers().items()}
    for net in nets[1:]:
        assert {name: values.tobytes() for name, values in net.buffers().items()} == expected


@pytest.mark.parametrize("norm", ["after", "before"])
@pytest.mark.parametrize("weighted_statistics", [False, True])
def test_gradients_with_weights(weighted_statistics, norm, blobs):
    X, y = blobs[0][:12], blobs[1][:12]
    weights = np.random.default_rng(1).choice([0.0, 0.3, 1.0, 20.0], 12)
    net = FNN(
        [5, 4, 3, 3], norm=norm, activation=["tanh", "gelu"], weighted_statistics=weighted_statistics, seed=0
    )
    assert max(net.check_gradients(X, y, sample_weight=weights).values()) < 1e-6
    used = weights > 0
    if not weighted_statistics:  # the weighted mean of what the batch gives without weights
        loss, _ = net.loss_and_gradients(X, y, sample_weight=weights)
        expected = net.loss.value(net.forward(X[used]), y[used], weights[used])
        assert loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("norm", ["after", "before"])
@pytest.mark.parametrize("scale", [1e20, 1e-20])
@pytest.mark.parametrize("weighted_statistics", [False, True])
def test_moving_averages_of_weighted_samples_beyond_the_squares_of_float32(
    weighted_statistics, scale, norm, blobs
):
    X, y = scale * blobs[0][:50], blobs[1][:50]
    weights = np.random.default_rng(1).uniform(0.1, 9.0, 50)
    same = {"activation": "identity", "norm": norm, "standardize": False, "eps": 1e-37, "unbiased": False}
    net = FNN(SIZES, decay=0.0, weighted_statistics=weighted_statistics, seed=0, **same)
    net.fit(X, y, epochs=1, batch_size=50, sample_weight=weights, optimizer=SGD(lr=1e-300))
    features = X @ net.parameters()["dense1.weight"].T.astype(float)
    w = weights if weighted_statistics else np.ones(50)
    mean = np.average(features, axis=0, weights=w)
    variance = np.average((features - mean) ** 2, axis=0, weights=w)
    got = net.buffers()
    np.testing.assert_allclose(got["norm1.running_mean"], mean, rtol=0, atol=1e-6 * np.sqrt(variance.max()))
    np.testing.assert_allclose(got["norm1.running_var"], variance, rtol=1e-5)


# In one epoch every sample is seen once and its loss measured before its update: on labels of chance
# nothing can be below ln 2 = 0.693, but for what the few positive samples of the epoch vary by.
@pytest.mark.parametrize("norm", ["after", "before"])
@pytest.mark.parametrize(("positive", "batch_size"), [(0.02, 32), (0.02, 64), (0.1, 128), (0.2, 512)])
def test_weights_of_classes_do_not_tell_the_labels(positive, batch_size, norm):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20_000, 5)), (rng.random(20_000) < positive).astype(int)
    options = {"epochs": 1, "batch_size": batch_size, "optimizer": SGD(lr=0.05, momentum=0.9)}
    history = FNN([5, 16, 16, 2], norm=norm, seed=0).fit(X, y, class_weight="balanced", **options)
    assert history.loss[0] > 0.68


def test_weighted_statistics_tell_the_labels():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20_000, 5)), (rng.random(20_000) < 0.02).astype(int)
    options = {"epochs": 1, "batch_size": 64, "optimizer": SGD(lr=0.05, momentum=0.9)}
    net = FNN([5, 16, 16, 2], weighted_statistics=True, seed=0)
    assert net.fit(X, y, class_weight="balanced", **options).loss[0] < 0.65


def roc_auc(y, score):
    """Share of pairs of a positive and a negative sample that are in the right order."""
    positive = np.sort(score[y == 1])
    return 1 - np.searchsorted(positive, score[y == 0]).mean() / len(positive)


@pytest.mark.parametrize("norm", ["after", "before"])
def test_balanced_classes_are_told_apart_as_well_as_without_weights(norm):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20_000, 5))
    signal = X @ np.arange(5.0) + 4 * rng.normal(size=20_000)
    y = (signal > np.quantile(signal, 0.95)).astype(int)
    scores = []
    for class_weight in (None, "balanced"):
        net = FNN([5, 16, 16, 2], norm=norm, seed=0)
        options = {"epochs": 2, "batch_size": 64, "optimizer": SGD(lr=0.05, momentum=0.9)}
        net.fit(X[:10_000], y[:10_000], class_weight=class_weight, schedule="cosine", **options)
        scores.append(roc_auc(y[10_000:], net.predict_proba(X[10_000:])[:, 1]))
    assert scores[0] > 0.8
    assert abs(scores[1] - scores[0]) < 0.01


def test_class_weight_of_one_sigmoid_output(blobs):
    X, y = blobs[0], (blobs[1] > 0).astype(float)
    nets = [FNN([5, 4, 1], output="sigmoid", standardize=False, seed=0) for _ in range(2)]
    nets[0].fit(X, y, class_weight={1: 3.0}, epochs=2)
    nets[1].fit(X, y, sample_weight=np.where(y == 1, 3.0, 1.0), epochs=2)
    assert state(nets[0]) == state(nets[1])
    with pytest.raises(ValueError, match="class_weight needs targets that are 0 or 1"):
        nets[0].fit(X, y / 2, class_weight={1: 3.0})


def test_weighted_targets_are_standardized_with_their_weights():
    X, y = line()
    weights = np.random.default_rng(2).integers(0, 3, 90)
    net = FNN([5, 4, 1], output="identity", standardize_targets=True, seed=0)
    net.fit(X, y, sample_weight=weights, epochs=1)
    mean = np.average(y, weights=weights)
    np.testing.assert_allclose(net.target_standardizer.mean_, [mean], rtol=1e-12)
    assert net.score(X, y, weights) == pytest.approx(
        net.score(np.repeat(X, weights, axis=0), np.repeat(y, weights)), rel=1e-9
    )


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"sample_weight": [1.0]}, ValueError, r"sample_weight must have shape \(90,\), got shape \(1,\)"),
        (
            {"sample_weight": -np.ones(90)},
            ValueError,
            "sample_weight must be finite and not negative, got -1",
        ),
        (
            {"sample_weight": np.full(90, np.nan)},
            ValueError,
            r"sample_weight must be finite and not negative, got nan at \[0\]",
        ),
        ({"sample_weight": np.zeros(90)}, ValueError, "sample_weight must not be zero for every sample"),
        ({"sample_weight": np.eye(90)[0]}, ValueError, "at least 2 samples"),
        (
            {"sample_weight": np.full(90, 1e308)},
            ValueError,
            "sample_weight must have a finite sum, got 1e.308",
        ),
        (
            {"sample_weight": np.full(90, 1e200), "class_weight": {0: 1e200}},
            ValueError,
            "sample_weight times class_weight must have a finite sum",
        ),
        (
            {"class_weight": {0: 0.0, 1: 0.0, 2: 0.0}},
            ValueError,
            "must not be zero for every sample together",
        ),
        ({"class_weight": {3: 1.0}}, ValueError, "a class in class_weight must be at least 0 and at most 2"),
        ({"class_weight": {0: -1.0}}, ValueError, r"class_weight\[0\] must be finite and at least 0"),
        ({"class_weight": "even"}, TypeError, 'class_weight must be a dict or "balanced"'),
        ({"class_weight": {"a": 1.0}}, TypeError, "a class in class_weight must be an integer"),
    ],
)
def test_bad_weights(blobs, options, kind, message):
    net = FNN(SIZES, seed=0)
    before = state(net)
    with pytest.raises(kind, match=message):
        net.fit(*blobs, **options)
    assert state(net) == before


def test_class_weight_needs_classes():
    X, y = line()
    with pytest.raises(ValueError, match="class_weight needs classes"):
        FNN([5, 1], output="identity").fit(X, y, class_weight="balanced")


# ----------------------------------------------------------------------------------------------
# Ctrl-C
# ----------------------------------------------------------------------------------------------


def assert_consistent(net, history, blobs, **options):
    """The network is the one that training for so many epochs gives."""
    assert history.stopped == "interrupted"
    assert net.epochs_trained == history.epochs == len(history.loss) == len(history.seconds)
    assert history.steps == 5 * history.epochs
    if not history.epochs:
        assert net.standardizer is None
        return
    expected, _ = fitted(blobs, epochs=history.epochs, **options)
    assert state(net) == state(expected)


@pytest.fixture(params=["one thread", "thread_pool"])
def threads(request, monkeypatch):
    if request.param == "thread_pool":
        if config.DISABLE_JIT:
            pytest.skip("interpreted training has one thread")
        monkeypatch.setattr(engines, "POOL_WORK", 0)


def test_interrupt_in_a_callback(blobs, threads):
    def interrupt(net, history):
        if history.epochs == 2:
            signal.raise_signal(signal.SIGINT)

    net, history = fitted(blobs, epochs=100, callbacks=[interrupt])
    assert history.epochs == 2
    assert_consistent(net, history, blobs)
    assert not net.training


def interrupt_after(seconds):
    """Return a callback after whose first call the main thread is interrupted."""

    def start(net, history):
        # not before: Python loses an interrupt that arrives in a finalizer, as compiling has many
        if history.epochs == 1:
            timer = threading.Timer(seconds, _thread.interrupt_main)
            timer.daemon = True
            timer.start()

    return start


def test_interrupt_at_any_moment(blobs, threads):
    for delay in (0.0, 0.02, 0.05, 0.11, 0.2):
        net, history = fitted(blobs, epochs=50_000, validation_data=blobs, callbacks=[interrupt_after(delay)])
        assert 1 <= history.epochs < 50_000
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("nbnorm")]
        assert len(history.val_loss) == history.epochs
        assert_consistent(net, history, blobs)


@pytest.mark.skipif(config.DISABLE_JIT, reason="tests compiled code")
def test_interrupt_within_an_epoch(threads):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(100_000, 20)).astype(np.float32), rng.integers(0, 10, 100_000)
    kept = []
    net = FNN([20, 100, 100, 10], seed=0)
    history = net.fit(
        X,
        y,
        epochs=30,
        batch_size=20,
        callbacks=[interrupt_after(0.1), lambda net, history: kept.append(state(net))],
    )
    assert history.stopped == "interrupted"
    assert history.epochs == len(kept) < 30
    assert state(net)[:2] == kept[-1][:2]


@pytest.mark.parametrize("place", ["store", "measure"])
def test_interrupt_between_epochs(place, blobs, monkeypatch):
    owner = {"store": Engine, "measure": training._Validation}[place]
    whole, calls = getattr(owner, place), []

    def cut(self):
        calls.append(1)
        if len(calls) == 2:
            if place == "store":  # half done
                self.parameters["dense1.weight"][:] = 0.0
            raise KeyboardInterrupt
        return whole(self)

    monkeypatch.setattr(owner, place, cut)
    net, history = fitted(blobs, validation_data=blobs)
    monkeypatch.undo()
    assert history.epochs == (2 if place == "store" else 1)
    assert len(history.val_loss) == history.epochs
    assert_consistent(net, history, blobs)


# ----------------------------------------------------------------------------------------------
# Divergence
# ----------------------------------------------------------------------------------------------

# Interpreted, NumPy warns of what compiled code computes silently.
diverging = pytest.mark.filterwarnings("ignore:(overflow|invalid value|divide by zero):RuntimeWarning")


@diverging
def test_divergence_keeps_the_last_good_epoch(blobs, threads):
    net = FNN(SIZES, norm=None, output="identity", seed=0)
    y = np.eye(3)[blobs[1]]
    with pytest.raises(DivergenceError, match=r"diverged in epoch 3.*learning rate") as caught:
        net.fit(blobs[0], y, epochs=9, batch_size=20, schedule=lambda step: 0.01 if step < 10 else 1e20)
    assert caught.value.history.epochs == net.epochs_trained == len(caught.value.history.loss) == 2
    expected = FNN(SIZES, norm=None, output="identity", seed=0)
    expected.fit(blobs[0], y, epochs=2, batch_size=20, schedule=lambda step: 0.01)
    assert state(net)[0] == state(expected)[0]


@diverging
def test_divergence_in_the_first_epoch_changes_nothing(blobs, threads):
    net = FNN(SIZES, norm=None, output="identity", seed=0)
    before = state(net)
    with pytest.raises(DivergenceError, match="epoch 1"):
        net.fit(blobs[0], np.eye(3)[blobs[1]], epochs=9, batch_size=20, optimizer=SGD(lr=1e30))
    assert state(net) == before


@diverging
def test_divergence_in_the_very_last_update_is_seen(blobs):
    net = FNN(SIZES, norm=None, output="identity", seed=0)
    before = state(net)
    with pytest.raises(DivergenceError):
        net.fit(blobs[0], 1e6 * np.eye(3)[blobs[1]], epochs=1, batch_size=90, optimizer=SGD(lr=1e38))
    assert state(net) == before


@diverging
def test_divergence_and_errors_restore_the_best_epoch(blobs):
    X, y = blobs
    # the validation labels are wrong: the first epoch is the best
    options = {"validation_data": (X[:30], (y[:30] + 1) % 3), "batch_size": 20, "optimizer": SGD(lr=0.02)}
    expected, _ = fitted(blobs, epochs=1, **options)

    def spoil(net, history):
        if history.epochs == 3:
            net.parameters()["dense2.weight"][:] = 1e30

    def fail(net, history):
        if history.epochs == 3:
            raise RuntimeError("callback")

    for callback, error, message in (
        (spoil, DivergenceError, "epoch 4.*keeps the parameters of epoch 1, the best of 3"),
        (fail, RuntimeError, "callback"),
    ):
        net = FNN(SIZES, seed=0)
        with pytest.raises(error, match=message):
            net.fit(X, y, epochs=9, early_stopping=True, callbacks=[callback], **options)
        assert state(net)[0] == state(expected)[0]
        assert net.epochs_trained == 3
        assert not net.training


@diverging
@pytest.mark.parametrize(
    ("form", "standardize"),
    [("float64", False), ("float64", True), ("float32", True), ("sparse", False), ("sparse", True)],
)
def test_divergence_names_the_row_that_is_too_large(form, standardize, blobs):
    X, y = blobs
    net = FNN(SIZES, standardize=standardize, seed=0)
    if standardize:
        net.fit(X, y, epochs=1, batch_size=20)
        net.standardizer = type(net.standardizer)().fit(1e-10 * X)
    far = X.copy()
    far[[4, 37], 1] = 3e38 if form == "float32" else 1e300
    far = far.astype(np.float32) if form == "float32" else far
    if form == "sparse":
        far = pytest.importorskip("scipy.sparse").csr_array(far)
    weights = np.where(np.arange(90) == 4, 0.0, 1.0)
    with pytest.raises(DivergenceError) as caught:
        net.fit(far, y, epochs=1, batch_size=20, sample_weight=weights)
    assert "Row 37 of X is beyond float32" in str(caught.value)
    assert caught.value.row == 37
    assert ("once standardized" in str(caught.value)) == standardize


@diverging
def test_divergence_names_targets_of_another_scale(blobs):
    X, y = blobs[0], np.eye(3)[blobs[1]]
    for factor, options in ((1e4, {}), (1.0, {}), (1e4, {"standardize_targets": True})):
        net = FNN(SIZES, norm=None, output="identity", seed=0, **options)
        with pytest.raises(DivergenceError) as caught:
            net.fit(X, factor * y, epochs=9, batch_size=20, optimizer=SGD(lr=1e4))
        named = "standardize_targets=True: the targets reach 10000" in str(caught.value)
        assert named == (factor > 1 and not options)


@pytest.mark.parametrize("epochs", [0, 2])
@diverging
def test_the_mode_after_divergence(epochs, blobs):
    net = FNN(SIZES, norm=None, output="identity", seed=0)
    with pytest.raises(DivergenceError):
        net.fit(
            blobs[0],
            np.eye(3)[blobs[1]],
            epochs=9,
            batch_size=20,
            schedule=lambda step: 0.01 if step < 5 * epochs else 1e20,
        )
    assert net.epochs_trained == epochs
    assert net.training == (epochs == 0)  # without an epoch nothing is changed


# ----------------------------------------------------------------------------------------------
# Progress
# ----------------------------------------------------------------------------------------------


def test_progress_bar(blobs, capsys):
    pytest.importorskip("tqdm")
    for options in ({}, {"validation_data": blobs}):
        fitted(blobs, progress=True, **options)
        shown = capsys.readouterr().err
        assert "epoch 3/3" in shown
        assert "100%" in shown
        assert "loss" in shown
        assert "accuracy" in shown
        assert ("validation" in shown) == bool(options)


def test_no_progress_bar_where_nobody_watches(blobs, capsys):
    for progress in (None, False):
        fitted(blobs, progress=progress)
        assert capsys.readouterr().err == ""


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal")
def test_progress_bar_on_a_terminal(blobs, monkeypatch):
    import fcntl
    import struct
    import termios

    pytest.importorskip("tqdm")
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with os.fdopen(slave, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        fitted(blobs, epochs=1000, validation_data=blobs)
        monkeypatch.undo()
    shown = ""
    with contextlib.suppress(OSError):  # the end of what a closed terminal has shown
        while part := os.read(master, 100_000):
            shown += part.decode()
    os.close(master)
    frames = shown.split("\r")
    assert max(map(len, map(str.rstrip, frames))) <= 80
    assert re.search(
        r"epoch 1000/1000 100%\|.+\| 00:00, loss \d\.\d{4} accuracy \d\.\d{4} validation \d\.\d{4}", shown
    )


def test_progress_bar_without_tqdm(blobs, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    net = FNN(SIZES, seed=0)
    before = state(net)
    with pytest.raises(ImportError, match=r"nbnorm\[progress\]"):
        net.fit(*blobs, epochs=1, progress=True)
    assert state(net) == before


def test_a_rate_that_turns_weights_around_is_refused(blobs):
    with pytest.raises(ValueError, match=r"below 1 / weight_decay = 0\.5, got 0\.6 in epoch 2"):
        fitted(blobs, optimizer=SGD(lr=0.1, weight_decay=2.0), schedule=lambda step: 0.1 if step < 5 else 0.6)


def test_find_learning_rate_stays_below_the_decay_of_all_weights(blobs):
    found = FNN(SIZES, seed=0).find_learning_rate(*blobs, optimizer=AdamW(weight_decay=5.0))
    assert max(found.rates) <= 0.2


def test_interrupt_before_the_first_step(blobs, monkeypatch):
    net = FNN(SIZES, seed=0)
    before = state(net)

    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "training_run", interrupt)
    history = net.fit(*blobs, epochs=2)
    monkeypatch.undo()
    assert (history.stopped, history.epochs, history.loss, history.accuracy) == ("interrupted", 0, [], [])
    assert state(net) == before
    assert (net.standardizer, net.epochs_trained) == (None, 0)
    # amid the compilation of what validation needs
    monkeypatch.setattr(training, "_Validation", interrupt)
    history = net.fit(*blobs, epochs=2, validation_data=blobs)
    monkeypatch.undo()
    assert (history.stopped, history.epochs) == ("interrupted", 0)
    assert state(net) == before


def test_interrupt_before_a_resumed_step_keeps_the_best_epoch(blobs, tmp_path, monkeypatch):
    options = {
        "checkpoint": tmp_path / "c.npz",
        "validation_data": blobs,
        "early_stopping": EarlyStopping("val_loss", patience=9),
        "optimizer": SGD(lr=0.5, momentum=0.9),
        "epochs": 9,
    }

    def stop(_, history):
        if history.epochs == 6:
            raise KeyboardInterrupt

    net, history = fitted(blobs, **options, callbacks=[stop])
    assert history.epochs == 6

    def interrupt(*args, **given):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "training_run", interrupt)
    again, resumed = fitted(blobs, **options)
    assert (resumed.stopped, resumed.epochs, resumed.best_epoch) == ("interrupted", 6, history.best_epoch)
    assert state(again) == state(net)
