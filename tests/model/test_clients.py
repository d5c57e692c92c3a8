"""Many networks on the workers of a Dask client."""

import os
import signal

import numpy as np
import pytest

from nbnorm import FNN, cross_validate, fit_many, load_digits

distributed = pytest.importorskip("distributed")


def bits(net):
    return b"".join(values.tobytes() for values in {**net.parameters(), **net.buffers()}.values())


@pytest.fixture(scope="module")
def client():
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=":0", memory_limit=0
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


class DiesOnce:
    """A callback that kills its worker, but for the second time."""

    def __init__(self, path):
        self.path = path

    def __call__(self, net, history):
        if not os.path.exists(self.path):
            open(self.path, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.posix("signals")
def test_networks_come_back_from_workers_with_the_same_bits(client, tmp_path):
    X, y = load_digits()
    X, y = X[:300], y[:300]
    options = {"epochs": 2, "batch_size": 64}
    expected, got = ([FNN([64, 8, 10], seed=k) for k in range(3)] for _ in range(2))
    histories = fit_many(expected, X, y, **options)
    callback = DiesOnce(str(tmp_path / "dead"))
    again = fit_many(got, X, y, client=client, callbacks=[callback], **options)
    assert os.path.exists(callback.path)
    assert [history.loss for history in again] == [history.loss for history in histories]
    assert [bits(net) for net in got] == [bits(net) for net in expected]


@pytest.mark.posix("signals")
@pytest.mark.parametrize("backend", ["loky", "threading", "dask"])
def test_backends_of_joblib_train_to_the_same_bits(client, backend, tmp_path):
    joblib = pytest.importorskip("joblib")
    X, y = load_digits()
    X, y = X[:300], y[:300]
    options = {"epochs": 2, "batch_size": 64}
    expected, got = ([FNN([64, 8, 10], seed=k) for k in range(3)] for _ in range(2))
    fit_many(expected, X, y, **options)
    folds = {"folds": 2, "grid": {"epochs": [1, 2]}}
    scores = cross_validate(FNN([64, 8, 10], seed=0), X, y, **folds).scores
    callback = DiesOnce(str(tmp_path / "dead"))
    callbacks = [] if backend == "threading" else [callback]  # which has no worker that could die
    with joblib.parallel_config(backend, n_jobs=2):
        fit_many(got, X, y, callbacks=callbacks, **options)
        again = cross_validate(FNN([64, 8, 10], seed=0), X, y, **folds).scores
    assert os.path.exists(callback.path) == (backend != "threading")
    assert [bits(net) for net in got] == [bits(net) for net in expected]
    np.testing.assert_array_equal(again, scores)


def test_data_go_to_each_worker_once(client):
    X, y = load_digits()
    counted = Counted(X[:300].astype(np.float32))
    networks = [FNN([64, 8, 10], seed=k) for k in range(6)]
    fit_many(networks, counted, y[:300], epochs=1, client=client)
    assert 1 <= counted.pickled <= 3  # for a token and for two workers, not for each of six trainings


class Counted:
    """An array that counts how often it is pickled."""

    def __init__(self, values):
        self.values, self.pickled = values, 0

    def __array__(self, dtype=None, copy=None):
        return self.values

    def __reduce__(self):
        self.pickled += 1
        return Counted, (self.values,)


def test_folds_are_scored_on_workers_as_here(client):
    X, y = load_digits()
    X, y = X[:300], y[:300]
    options = {"folds": 2, "grid": {"epochs": [1, 2]}, "sample_weight": np.ones(300)}
    expected = cross_validate(FNN([64, 8, 10], seed=0), X, y, **options)
    got = cross_validate(FNN([64, 8, 10], seed=0), X, y, client=client, **options)
    np.testing.assert_array_equal(got.scores, expected.scores)
    with pytest.raises(TypeError, match=r"client must be a dask\.distributed\.Client, got int"):
        fit_many([FNN([64, 8, 10])], X, y, client=3)
