import hashlib
import multiprocessing
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest
from numba import config

from nbnorm import FNN, batch_norm_forward, get_num_threads, set_num_threads
from nbnorm.compile import threads
from nbnorm.compile.threads import _limit

several = pytest.mark.skipif(
    config.DISABLE_JIT or config.NUMBA_NUM_THREADS < 2, reason="needs compiled code and two threads"
)


@pytest.fixture(autouse=True)
def restore():
    yield
    set_num_threads(None)


def train(seed):
    """Bits of a small network after training."""
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(200, 20)).astype(np.float32), rng.integers(0, 3, 200)
    net = FNN([20, 40, 3], seed=seed)
    net.fit(X, y, epochs=3, batch_size=50)
    return b"".join(values.tobytes() for values in (*net.parameters().values(), net.forward(X)))


def normalize(seed, shape=(3000, 50)):
    """Bits of a function that runs in a parallel region."""
    x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    out, mean, rstd = batch_norm_forward(x, np.ones(shape[1], np.float32), np.zeros(shape[1], np.float32))
    return out.tobytes() + mean.tobytes() + rstd.tobytes()


def pool_sizes():
    """Sizes of the thread pools that train while a callback looks."""
    names = [thread.name for thread in threading.enumerate()]
    return sum(name.startswith("nbnorm-") for name in names)


def team_in_fit():
    seen = []
    X, y = np.random.default_rng(0).normal(size=(20, 4)), np.arange(20) % 3
    FNN([4, 5, 3], seed=0).fit(X, y, epochs=1, callbacks=[lambda *_: seen.append(pool_sizes())])
    return seen[0]


# ----------------------------------------------------------------------------------------------
# Limits
# ----------------------------------------------------------------------------------------------


@several
def test_set_num_threads(thread_pool):
    assert team_in_fit() == get_num_threads() >= 2
    set_num_threads(1)
    assert get_num_threads() == 1
    assert team_in_fit() == 0
    set_num_threads(2)
    assert team_in_fit() == 2
    set_num_threads(None)
    assert get_num_threads() == config.NUMBA_NUM_THREADS


@several
def test_numba_set_num_threads_outside_is_respected_and_kept(thread_pool):
    before = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        assert get_num_threads() == 1
        assert team_in_fit() == 0
        normalize(0)
        assert numba.get_num_threads() == 1
        numba.set_num_threads(2)
        set_num_threads(1)
        normalize(0)
        assert numba.get_num_threads() == 2
    finally:
        numba.set_num_threads(before)


@several
def test_small_networks_train_on_one_thread():
    assert team_in_fit() == 0


@several
@pytest.mark.parametrize(
    ("value", "expected"), [("1", 1), ("1,2", 1), ("2", 2), ("64", None), ("many", None), ("", None)]
)
def test_omp_num_threads(value, expected, monkeypatch, thread_pool):
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    monkeypatch.setattr(threads, "MOST_THREADS", _limit())  # it is read when the package is imported
    expected = config.NUMBA_NUM_THREADS if expected is None else expected
    assert get_num_threads() == expected
    assert team_in_fit() == (0 if expected == 1 else expected)
    with pytest.raises(
        ValueError, match=f"^n must be between 1 and {expected}, which .*, got {expected + 1}$"
    ):
        set_num_threads(expected + 1)
    assert get_num_threads() == expected


@pytest.mark.parametrize(
    ("n", "error"),
    [
        (0, ValueError),
        (-1, ValueError),
        (10_000, ValueError),
        (1.0, TypeError),
        (True, TypeError),
        ("2", TypeError),
    ],
)
def test_set_num_threads_refuses(n, error):
    before = get_num_threads()
    with pytest.raises(error, match="n must be"):
        set_num_threads(n)
    assert get_num_threads() == before


@several
def test_numba_num_threads_of_one(python):
    code = """
import hashlib
import nbnorm
import numba
import test_threads
from nbnorm.model import engines
engines.POOL_WORK = 0
assert nbnorm.get_num_threads() == 1
assert test_threads.team_in_fit() == 0
try:
    nbnorm.set_num_threads(2)
except ValueError as error:
    assert "between 1 and 1" in str(error)
else:
    raise AssertionError
print(hashlib.sha256(test_threads.train(0) + test_threads.normalize(0)).hexdigest())
"""
    assert python(code, NUMBA_NUM_THREADS=1).strip() == hashlib.sha256(train(0) + normalize(0)).hexdigest()


# ----------------------------------------------------------------------------------------------
# At once
# ----------------------------------------------------------------------------------------------


def test_fit_in_four_python_threads(thread_pool):
    expected = [train(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(train, [0, 1, 2, 3] * 2, timeout=300))
    assert got == expected * 2


def test_parallel_kernels_in_four_python_threads():
    expected = [normalize(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(normalize, [0, 1, 2, 3] * 3, timeout=300))
    assert got == expected * 3


def test_fit_beside_parallel_kernels(thread_pool):
    expected = train(0), normalize(0)
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(call, 0) for call in (train, normalize) * 4]
    assert [job.result(timeout=300) for job in jobs] == list(expected * 4)


WORKQUEUE = """
import hashlib
import threading
import nbnorm
import numba
import test_threads
from nbnorm.model import engines

engines.POOL_WORK = 0
shape = (50_000, 50)  # above the work from which this layer is used
nbnorm.set_num_threads(1)
expected = [test_threads.train(0), test_threads.normalize(0, shape)]
nbnorm.set_num_threads(2)
results = [[], []]

def work(mine):
    for _ in range(5):
        mine.append([test_threads.train(0), test_threads.normalize(0, shape)])

workers = [threading.Thread(target=work, args=(mine,)) for mine in results]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
assert numba.threading_layer() == "workqueue"
print(all(result == expected for mine in results for result in mine), len(results[0]), len(results[1]))
"""


@several
def test_workqueue_layer_from_two_python_threads(python):
    got = python(WORKQUEUE, NUMBA_THREADING_LAYER="workqueue", NUMBA_NUM_THREADS=2, OMP_NUM_THREADS=2)
    assert got.split() == ["True", "5", "5"]


# ----------------------------------------------------------------------------------------------
# Other processes
# ----------------------------------------------------------------------------------------------


def _answer(pipe):
    nested = multiprocessing.get_context("fork").Process(target=_send, args=(pipe,))
    _send(pipe)
    nested.start()
    nested.join(120)
    nested.kill()


def _send(pipe):
    pipe.send([train(0), train(1), normalize(0)])


@pytest.mark.posix("forks")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_fit_in_forked_children(thread_pool):
    expected = [train(0), train(1), normalize(0)]  # the parent's threads and layer have been started
    here, there = multiprocessing.get_context("fork").Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=_answer, args=(there,))
    child.start()
    try:
        for _ in range(2):  # the child, and a child of the child
            assert here.poll(120)
            assert here.recv() == expected
        child.join(120)
        assert child.exitcode == 0
    finally:
        child.kill()
    assert [train(0), train(1), normalize(0)] == expected


def fit_in_worker(X, y):
    """Train on what joblib hands over, and report how it came."""
    net = FNN([X.shape[1], 8, 3], seed=0)
    net.fit(X, y, epochs=1, batch_size=1000)
    return X.flags.writeable, net.parameters()["dense1.weight"].tobytes()


def test_fit_in_joblib_workers():
    joblib = pytest.importorskip("joblib")
    n = 4000
    X, y = np.random.default_rng(0).normal(size=(n, 5)).astype(np.float32), np.arange(n) % 3
    expected = fit_in_worker(X, y)[1]
    with joblib.Parallel(n_jobs=2, backend="loky", timeout=200, max_nbytes=1000) as pool:
        got = pool(joblib.delayed(fit_in_worker)(X, y) for _ in range(2))
    assert got == [(False, expected)] * 2  # memory maps


def test_a_network_can_be_pickled():
    net = FNN([4, 5, 3], seed=0)
    net.fit(np.random.default_rng(0).normal(size=(20, 4)), np.arange(20) % 3, epochs=1)
    got = pickle.loads(pickle.dumps(net))
    X = np.ones((2, 4))
    np.testing.assert_array_equal(got.forward(X), net.forward(X))
