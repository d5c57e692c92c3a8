import contextlib
import io
import os
import signal
import sys
import threading

import numpy as np
import pytest
import scipy.sparse
from numpy.testing import assert_array_equal

from nbnorm import (
    FNN,
    SGD,
    AdamW,
    DivergenceError,
    EarlyStopping,
    History,
    LearningRates,
    cross_validate,
    fit_many,
    inspect,
    set_num_threads,
)
from nbnorm.data import tables
from nbnorm.model import training


def data(n=300):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 6))
    return X, (X[:, 0] * X[:, 1] > 0).astype(np.int64)


def networks(count=4, **options):
    return [FNN([6, 12 + k, 2], seed=k, **options) for k in range(count)]


def same(net, other):
    for name, values in (net.parameters() | net.buffers()).items():
        assert_array_equal(values, (other.parameters() | other.buffers())[name], err_msg=name)


@pytest.mark.parametrize("threads", [1, None])
@pytest.mark.parametrize("encoding", [None, "piecewise"])
def test_each_is_what_its_own_fit_makes_of_it(encoding, threads):
    X, y = data()
    set_num_threads(threads)
    options = {"epochs": 3, "batch_size": 32, "optimizer": AdamW(lr=0.01), "validation_data": (X, y)}
    together, alone = networks(encoding=encoding), networks(encoding=encoding)
    histories = fit_many(together, X, y, **options)
    for history, net, other in zip(histories, together, alone, strict=True):
        expected = other.fit(X, y, **options)
        same(net, other)
        assert (history.loss, history.val_loss) == (expected.loss, expected.val_loss)
        assert not net.training


def test_networks_of_other_kinds_and_trained_ones():
    X, y = data()

    def kinds():
        trained = FNN([6, 8, 2], seed=9)
        trained.fit(X[:100], y[:100], epochs=1, batch_size=50)
        return [
            FNN([6, 2], standardize=False, seed=0),
            FNN([6, 5, 2], norm="before", dtype=np.float64, seed=1),
            FNN([6, 5, 5, 2], norm=None, activation="tanh", encoding="piecewise", bins=4, seed=2),
            trained,
        ]

    together, alone = kinds(), kinds()
    fit_many(together, X, y, epochs=2, batch_size=40, class_weight="balanced")
    for net, other in zip(together, alone, strict=True):
        other.fit(X, y, epochs=2, batch_size=40, class_weight="balanced")
        same(net, other)


def test_early_stopping_and_checkpoints_are_those_of_each(tmp_path):
    X, y = data()
    options = {
        "epochs": 12,
        "batch_size": 32,
        "validation_data": (X[:50], y[:50]),
        "early_stopping": EarlyStopping(patience=3),
    }
    whole, resumed = networks(), networks()
    histories = fit_many(whole, X, y, **options)

    def kill(net, history):
        if history.epochs == 2:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        fit_many(networks(), X, y, checkpoint=tmp_path / "run.npz", callbacks=[kill], **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"run-{k}.npz" for k in range(4)]
    again = fit_many(resumed, X, y, checkpoint=tmp_path / "run.npz", **options)
    for net, other, one, two in zip(whole, resumed, histories, again, strict=True):
        same(net, other)
        assert one.loss == two.loss


def test_one_that_diverges_is_named_and_the_others_end_well():
    X, y = data()
    wild = FNN([6, 8, 2], norm=None, activation="identity", seed=0)
    wild.parameters()["dense1.weight"][:] *= 1e19
    calm = FNN([6, 8, 2], seed=1)
    with pytest.raises(DivergenceError, match="network 1: training diverged"):
        fit_many([calm, wild], X, y, epochs=2, batch_size=50, optimizer=SGD(lr=1.0))
    assert calm.epochs_trained == 2
    assert wild.epochs_trained == 0
    assert wild.standardizer is None


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs POSIX signals")
def test_ctrl_c_ends_all():
    X, y = data(5000)
    nets = networks(3)
    threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    histories = fit_many(nets, X, y, epochs=100_000, batch_size=32)
    assert [history.stopped for history in histories] == ["interrupted"] * 3
    assert all(history.epochs == net.epochs_trained for history, net in zip(histories, nets, strict=True))
    assert threading.active_count() < 10


def test_refusals():
    X, y = data()
    net = FNN([6, 2], seed=0)
    with pytest.raises(ValueError, match="networks must not be empty"):
        fit_many([], X, y)
    with pytest.raises(TypeError, match=r"networks\[1\] must be an FNN, got str"):
        fit_many([net, "net"], X, y)
    with pytest.raises(ValueError, match="twice"):
        fit_many([net, net], X, y)
    with pytest.raises(ValueError, match="epochs must be at least 1"):
        fit_many([net], X, y, epochs=0)
    assert net.standardizer is None


def test_callbacks_that_can_be_read_once_reach_all_networks():
    X, y = data(60)
    seen = []
    nets = networks(3)
    fit_many(nets, X, y, epochs=2, callbacks=iter([lambda net, history: seen.append(net.seed)]))
    assert sorted(seen) == [0, 0, 1, 1, 2, 2]


# ----------------------------------------------------------------------------------------------
# The progress bar
# ----------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_one_bar_for_all_networks(capsys):
    pytest.importorskip("tqdm")
    X, y = data()
    shown, silent = networks(), networks()
    options = {"epochs": 40, "batch_size": 100, "validation_data": (X, y)}
    stopping = EarlyStopping(patience=1, min_delta=0.1)
    calls = []
    options["callbacks"] = [lambda net, history: calls.append(net.seed)]
    histories = fit_many(shown, X, y, progress=True, early_stopping=stopping, **options)
    bar = capsys.readouterr().err
    assert "trained 0/4   0%" in bar
    assert "trained 4/4 100%" in bar
    assert "epoch" not in bar
    assert all(history.epochs < 40 for history in histories)
    assert len(calls) == sum(history.epochs for history in histories)
    fit_many(silent, X, y, early_stopping=stopping, **options)
    assert capsys.readouterr().err == ""
    for net, other in zip(shown, silent, strict=True):
        same(net, other)


def test_one_bar_for_all_folds_and_candidates(capsys):
    pytest.importorskip("tqdm")
    X, y = data(60)
    options = {"folds": 2, "grid": {"epochs": [1, 3]}}
    found = cross_validate(FNN([6, 2], seed=0), X, y, progress=True, **options)
    assert "trained 4/4 100%" in capsys.readouterr().err
    assert_array_equal(cross_validate(FNN([6, 2], seed=0), X, y, **options).scores, found.scores)
    assert capsys.readouterr().err == ""


def test_the_bar_is_shown_on_a_terminal_and_not_full_where_training_fails(monkeypatch):
    pytest.importorskip("tqdm")
    X, y = data(60)

    def fail(net, history):
        raise RuntimeError("enough")

    for options, expected in (
        ({"progress": None}, "trained 2/2 100%"),
        ({"progress": False}, ""),
        ({"callbacks": [fail]}, "trained 0/2   0%"),
    ):
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        if "callbacks" in options:
            with pytest.raises(RuntimeError, match="enough"):
                fit_many(networks(2), X, y, epochs=2, **options)
        else:
            fit_many(networks(2), X, y, epochs=2, **options)
        last = terminal.getvalue().rstrip().split("\r")[-1]
        assert last.startswith(expected) if expected else last == ""


def test_a_bar_without_tqdm(monkeypatch):
    X, y = data(60)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    nets = networks(2)
    with pytest.raises(ImportError, match=r"nbnorm\[progress\]"):
        fit_many(nets, X, y, epochs=1, progress=True)
    assert [net.epochs_trained for net in nets] == [0, 0]
    with pytest.raises(TypeError, match="progress must be True or False"):
        cross_validate(nets[0], X, y, progress="yes")
    monkeypatch.setattr(sys, "stderr", Terminal())
    fit_many(nets, X, y, epochs=1)
    assert sys.stderr.getvalue() == ""


# ----------------------------------------------------------------------------------------------
# cross_validate
# ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sparse", [False, True])
def test_cross_validation_is_a_loop_over_folds(sparse):
    X, y = data(120)
    given = scipy.sparse.csr_array(X) if sparse else X
    weights = np.random.default_rng(0).integers(1, 4, 120).astype(float)
    net = FNN([6, 8, 2], seed=3)
    options = {"epochs": 3, "batch_size": 20, "sample_weight": weights}
    found = cross_validate(net, given, y, folds=4, grid={"l2": [0.0, 0.1], "epochs": [2, 3]}, **options)
    assert found.candidates[1] == {"l2": 0.0, "epochs": 3}
    assert_array_equal(np.sort(np.concatenate(found.folds)), np.arange(120))
    for fold, held in enumerate(found.folds):
        assert abs(np.sum(y[held]) - y.sum() / 4) < 1
        other = FNN([6, 8, 2], seed=3)
        rest = np.setdiff1d(np.arange(120), held)
        history = other.fit(X[rest], y[rest], epochs=3, batch_size=20, sample_weight=weights[rest])
        assert found.scores[1, fold] == other.score(X[held], y[held], weights[held])
        assert found.histories[1][fold].loss == pytest.approx(history.loss, rel=1e-5 if sparse else 0)
    assert found.best == found.candidates[int(np.argmax(found.scores.mean(axis=1)))]
    assert_array_equal(found.std, found.scores.std(axis=1))
    assert net.epochs_trained == 0
    assert net.standardizer is None


def test_cross_validation_of_values():
    X, _ = data(90)
    found = cross_validate(FNN([6, 1], output="identity", seed=0), X, X[:, :1] * 3, folds=3, epochs=20)
    assert found.candidates == [{}]
    assert [len(held) for held in found.folds] == [30, 30, 30]
    assert found.mean[0] > 0.9


def test_cross_validation_refusals():
    X, y = data(20)
    net = FNN([6, 2], seed=0)
    with pytest.raises(ValueError, match="folds must be"):
        cross_validate(net, X, y, folds=21)
    with pytest.raises(TypeError, match="does not take checkpoint"):
        cross_validate(net, X, y, checkpoint="file")
    with pytest.raises(TypeError, match="network must be an FNN"):
        cross_validate("net", X, y)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        cross_validate(net, X, y, grid={"batch_size": [10, 0]})


def test_results_are_shown_in_a_line():
    X = np.random.default_rng(0).normal(size=(90, 40))
    y = (X[:, 0] > 0).astype(np.int64)
    net = FNN([40, 4, 2], seed=0)
    found = cross_validate(net, X, y, folds=3, epochs=12, grid={"batch_size": [30, 60]})
    history = net.fit(X, y, epochs=30, validation_data=(X, y), metrics=["f1"])
    rates = LearningRates(np.logspace(-4, 1, 600), np.linspace(2.0, 1.0, 600))
    table = tables.Table("a.csv", X, tuple(f"column {k}" for k in range(40)), "y", y)
    for result in (found, history, rates, table, inspect(net, X, y), inspect(net, X, y).layers[0]):
        text = repr(result)
        assert text.startswith(f"{type(result).__name__}(")
        assert "\n" not in text
        assert len(text) < 200
    assert repr(history) == (
        f"History(epochs=30, loss={history.loss[-1]:.3g}, accuracy={history.accuracy[-1]:.3g}, "
        f"val_loss={history.val_loss[-1]:.3g}, val_accuracy={history.val_accuracy[-1]:.3g}, "
        f"f1={history.metrics['f1'][-1]:.3g})"
    )
    assert repr(History()) == "History(epochs=0)"
    assert "candidates=2, best={'batch_size': " in repr(found)


@pytest.mark.parametrize(("norm", "sparse"), [("after", False), ("after", True), ("layer", False)])
@pytest.mark.parametrize("train", ["fit_many", "cross_validate"])
def test_a_second_process_compiles_for_trainings_side_by_side(train, norm, sparse, monkeypatch):
    asked = []

    @contextlib.contextmanager
    def compile_ahead(kernels):
        asked.append((threading.current_thread(), kernels()))
        yield

    monkeypatch.setattr(training, "compile_ahead", compile_ahead)
    X, y = data(60)
    X = scipy.sparse.csr_matrix(X) if sparse else X
    if train == "fit_many":
        fit_many(networks(2, norm=norm), X, y, epochs=1, batch_size=30)
    else:
        cross_validate(networks(1, norm=norm)[0], X, y, folds=2, epochs=1, batch_size=30)
    (thread, kernels), *others = asked
    assert thread is threading.main_thread()
    assert threading.main_thread() not in [thread for thread, _ in others]
    assert all(kernels == mine for _, mine in others)
    names = [kernel.__name__ for kernel, _ in kernels]
    assert names[1] == ("gather_sparse" if sparse else "gather")
    assert {"permutation", "softmax_block", "backward_layer", "write_logits"} < set(names)
    assert ("wide_statistics" in names, "backward_blocks" in names) == (norm == "after", norm == "layer")
