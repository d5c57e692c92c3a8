import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from numba import config
from test_network import state

from nbnorm import FNN, SGD, AdamW, EarlyStopping, Lion, _files
from nbnorm.model import training
from nbnorm.model.checkpoints import Checkpoint, describe, digest, plain
from nbnorm.model.schedules import Plateau

SIZES = [5, 8, 3]


@pytest.fixture(params=["one thread", "thread_pool"])
def threads(request):
    if request.param == "thread_pool":
        request.getfixturevalue("thread_pool")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.npz"


def fitted(blobs, path, net=None, *, network=None, **options):
    net = FNN(SIZES, seed=0, **(network or {})) if net is None else net
    history = net.fit(
        *blobs,
        **{
            "epochs": 6,
            "batch_size": 20,
            "optimizer": SGD(lr=0.05, momentum=0.9),
            "schedule": Plateau("val_loss", factor=0.5, patience=1),
            "validation_data": (blobs[0][:30], blobs[1][:30]),
            "metrics": ["log_loss"],
            "early_stopping": EarlyStopping("val_loss", patience=4),
            "checkpoint": path,
            **options,
        },
    )
    return net, history


def lists(history):
    return {name: value for name, value in history.to_dict().items() if name != "seconds"}


class StopError(Exception):
    """Stands for the end of the process."""


def die_at(monkeypatch, write):
    """Let the training die with its `write`-th checkpoint, which is on the disk already."""
    whole, count = Checkpoint.write, []

    def cut(self, config, arrays):
        whole(self, config, arrays)
        count.append(1)
        if len(count) == write:
            raise StopError

    monkeypatch.setattr(Checkpoint, "write", cut)


RESUMED = {
    "SGD": {},
    "AdamW": {"optimizer": AdamW(lr=0.01), "clip_norm": 0.5},
    "weights": {"sample_weight": np.arange(90) % 4, "l2": 0.01, "seed": 5, "network": {"decay": None}},
    "layer norm": {"network": {"dropout": 0.3, "norm": "layer"}, "optimizer": AdamW(lr=0.01)},
    "dropout": {"network": {"dropout": 0.3, "norm": "before"}, "optimizer": Lion(lr=0.003)},
    "no shuffle": {"shuffle": False, "schedule": "one_cycle", "metrics": [], "early_stopping": None},
}


@pytest.mark.parametrize("name", RESUMED)
@pytest.mark.parametrize("writes", [(1,), (4,), (2, 3, 1)])
def test_resume_gives_the_same_bits(blobs, path, threads, monkeypatch, writes, name):
    options = RESUMED[name]
    whole, expected = fitted(blobs, None, **options)
    for write in writes:
        with monkeypatch.context() as patch:
            die_at(patch, write)
            with pytest.raises(StopError):
                fitted(blobs, path, checkpoint_every=0.0, **options)
    net, history = fitted(blobs, path, checkpoint_every=0.0, **options)
    assert state(net) == state(whole)
    assert lists(history) == lists(expected)
    assert len(history.seconds) == history.epochs


def test_resume_with_sparse_data_and_targets_in_their_units(blobs, path, monkeypatch):
    sparse = pytest.importorskip("scipy.sparse")
    X = sparse.csr_array(np.where(np.abs(blobs[0]) > 0.5, blobs[0], 0.0))
    y = 1e5 + 1e3 * blobs[0][:, :1]
    network = {"output": "identity", "standardize_targets": True}

    def run(checkpoint):
        net = FNN([5, 8, 1], seed=0, **network)
        history = net.fit(
            X, y, epochs=4, batch_size=20, validation_data=(X, y), metrics=["r2"], checkpoint=checkpoint
        )
        return net, lists(history)

    whole, expected = run(None)
    with monkeypatch.context() as patch:
        die_at(patch, 2)
        with pytest.raises(StopError):
            run(path)
    net, history = run(path)
    assert state(net) == state(whole)
    assert history == expected
    assert net.target_standardizer.to_dict() == whole.target_standardizer.to_dict()
    with pytest.raises(ValueError, match="X was"):
        FNN([5, 8, 1], seed=0, **network).fit(X * 2, y, epochs=4, batch_size=20, checkpoint=path)


def test_a_finished_run_returns_its_result(blobs, path, monkeypatch):
    net, expected = fitted(blobs, path)
    before = path.read_bytes()
    monkeypatch.setattr(training, "train", None)
    again, history = fitted(blobs, path)
    assert state(again) == state(net)
    assert history == expected
    assert path.read_bytes() == before
    # the same object once more, as in a notebook
    assert fitted(blobs, path, net)[1] == expected
    assert state(net) == state(again)


def test_early_stopping_and_callbacks_finish_a_run(blobs, path, tmp_path):
    flat = {"epochs": 50, "schedule": lambda step: 0.0}
    _, history = fitted(blobs, path, **flat)
    assert (history.stopped, history.best_epoch) == ("early", history.epochs - 4)
    assert lists(fitted(blobs, path, **flat)[1]) == lists(history)
    other = tmp_path / "other.npz"
    _, history = fitted(blobs, other, callbacks=[lambda net, history: history.epochs == 2])
    assert (history.stopped, history.epochs) == ("callback", 2)
    assert fitted(blobs, other)[1] == history


def test_without_a_seed_the_file_brings_it(blobs, path, monkeypatch):
    with monkeypatch.context() as patch:
        die_at(patch, 3)
        first = FNN(SIZES)
        with pytest.raises(StopError):
            fitted(blobs, path, first)
    second, _ = fitted(blobs, path, FNN(SIZES))
    assert second.seed == first.seed
    expected, _ = fitted(blobs, None, FNN(SIZES, seed=first.seed))
    assert state(second) == state(expected)


@pytest.mark.parametrize(("first", "second"), [(3, None), (None, None), (3, 3)])
def test_a_network_without_a_seed_takes_that_of_the_file(blobs, path, monkeypatch, first, second):
    with monkeypatch.context() as patch:
        die_at(patch, 3)
        with pytest.raises(StopError):
            fitted(blobs, path, FNN(SIZES, seed=first))
    seed = _files.read(path, "checkpoint")[0]["seed"]
    net, _ = fitted(blobs, path, FNN(SIZES, seed=second))
    assert net.seed == seed
    assert state(net) == state(fitted(blobs, None, FNN(SIZES, seed=seed))[0])
    assert state(fitted(blobs, path, FNN(SIZES, seed=seed))[0]) == state(net)


def test_an_interrupt_before_the_first_epoch_takes_nothing_from_the_file(blobs, path, monkeypatch):
    with monkeypatch.context() as patch:
        die_at(patch, 1)
        with pytest.raises(StopError):
            fitted(blobs, path, FNN(SIZES), checkpoint_every=0.0)
    net = FNN(SIZES)
    before, seed = state(net), net.seed

    def interrupt(self, pool):
        raise KeyboardInterrupt

    monkeypatch.setattr(training._Training, "run_batches", interrupt)
    _, history = fitted(blobs, path, net)
    assert (history.stopped, history.epochs) == ("interrupted", 0)
    assert (state(net), net.seed) == (before, seed)


def test_an_interrupted_network_goes_on(blobs, path):
    def interrupt(net, history):
        if history.epochs == 3:
            signal.raise_signal(signal.SIGINT)

    plain_options = {"early_stopping": None, "schedule": "cosine"}
    net, history = fitted(blobs, path, callbacks=[interrupt], **plain_options)
    assert (history.stopped, history.epochs) == ("interrupted", 3)
    net, history = fitted(blobs, path, net, **plain_options)
    assert (history.stopped, history.epochs, net.epochs_trained) == (None, 6, 6)
    assert state(net) == state(fitted(blobs, None, **plain_options)[0])


@pytest.mark.parametrize(
    ("options", "setting"),
    [
        ({"epochs": 7}, "epochs was 6, now 7"),
        ({"optimizer": SGD(lr=0.1)}, "optimizer was SGD"),
        ({"schedule": "cosine"}, "schedule was Plateau"),
        ({"seed": 5}, "the seed of fit was None, now 5"),
        ({"metrics": []}, "metrics was"),
        ({"validation_data": None, "schedule": "cosine"}, "early_stopping|validation_data|metrics|schedule"),
        ({"sample_weight": np.arange(90)}, "weight was None"),
        ({"network": {"weighted_statistics": True}}, "weighted_statistics was False, now True"),
    ],
)
def test_another_training_is_refused(blobs, path, options, setting):
    fitted(blobs, path, epochs=6)
    before, options = path.read_bytes(), dict(options)
    net = FNN(SIZES, seed=0, **options.pop("network", {}))
    kept = state(net)
    if options.get("validation_data", 0) is None:
        options |= {"metrics": [], "early_stopping": None}
    with pytest.raises(ValueError, match=f"run.npz holds another training: .*({setting})"):
        fitted(blobs, path, net, **options)
    assert state(net) == kept
    assert path.read_bytes() == before


def test_one_changed_value_is_other_data(tmp_path):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(400, 5)), rng.integers(0, 3, 400)
    other = X.copy()
    other[211, 3] += 1e-12
    sparse = pytest.importorskip("scipy.sparse").csr_array
    for kind, form in enumerate((np.asarray, np.asfortranarray, sparse)):
        options = {"epochs": 1, "checkpoint": tmp_path / f"{kind}.npz"}
        FNN(SIZES, seed=0).fit(form(X), y, validation_data=(form(X), y), **options)
        for first, second, word in ((other, X, "X"), (X, other, "validation_data")):
            with pytest.raises(ValueError, match=f"holds another training: {word} was"):
                FNN(SIZES, seed=0).fit(form(first), y, validation_data=(form(second), y), **options)


def test_other_data_or_another_network_is_refused(blobs, path):
    fitted(blobs, path)
    X, y = blobs
    changed = y.copy()
    changed[7] = (y[7] + 1) % 3
    for data, word in (((X, changed), "y was"), ((X.astype(np.float32), y), "X was"), ((X + 1, y), "X was")):
        with pytest.raises(ValueError, match=word):
            fitted(data, path, validation_data=(X[:30], y[:30]))
    for net, word in (
        (FNN([5, 9, 3], seed=0), r"sizes was \(5, 8, 3\), now \(5, 9, 3\)"),
        (FNN(SIZES, norm=None, seed=0), "norm was 'after', now None"),
        (FNN(SIZES, seed=1), "the network's seed was 0, now 1"),
    ):
        with pytest.raises(ValueError, match=word):
            fitted(blobs, path, net)
    other = FNN(SIZES, seed=0)
    other.parameters()["dense1.bias"][0] = 1.0
    with pytest.raises(ValueError, match="neither the parameters with which that training began"):
        fitted(blobs, path, other)


def test_damaged_and_foreign_files_are_refused(blobs, path):
    fitted(blobs, path)
    whole = path.read_bytes()
    net = FNN(SIZES, seed=0)
    kept = state(net)
    for part in (b"", whole[: len(whole) // 2], whole[:-30], b"text" * 100):
        path.write_bytes(part)
        with pytest.raises(ValueError, match=r"run\.npz is not a readable nbnorm file"):
            fitted(blobs, path, net)
    net.save(path)
    with pytest.raises(ValueError, match="it holds a 'network', expected a 'checkpoint'"):
        fitted(blobs, path, net)
    path.write_bytes(whole)
    config, arrays = _files.read(path, "checkpoint")
    bias = arrays.pop("net/dense1.bias")
    _files.write(path, "checkpoint", config, arrays)
    with pytest.raises(ValueError, match=r"cannot be resumed from: .*dense1\.bias"):
        fitted(blobs, path, net)
    del config["first_epoch"]
    _files.write(path, "checkpoint", config, {**arrays, "net/dense1.bias": bias})
    with pytest.raises(ValueError, match="cannot be resumed from: 'first_epoch'"):
        fitted(blobs, path, net)
    assert state(net) == kept


def test_an_unwritable_path_is_found_before_training(blobs, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "train", None)
    with pytest.raises(FileNotFoundError):
        fitted(blobs, tmp_path / "nowhere" / "run.npz")
    with pytest.raises(IsADirectoryError):
        fitted(blobs, tmp_path)


def test_no_file_is_left_beside_the_checkpoint(blobs, path):
    fitted(blobs, path, checkpoint_every=0.0)
    assert list(path.parent.iterdir()) == [path]


def test_bad_interval(blobs, path):
    with pytest.raises(ValueError, match="checkpoint_every must be finite and at least 0"):
        fitted(blobs, path, checkpoint_every=-1.0)


def test_fingerprints():
    x = np.arange(12.0).reshape(4, 3)
    assert describe(x) == describe(np.asfortranarray(x))
    assert describe(x) != describe(x.astype(np.float32))
    assert describe(x) != describe(x[::-1])
    assert digest([x]) != digest([x.ravel()])
    large = np.random.default_rng(0).normal(size=(3, 200_000))  # rows of more than a part
    assert describe(large) == describe(np.asfortranarray(large)) == describe(large[:, ::-1][:, ::-1])
    assert digest([np.zeros((0, 3)), x, np.ones(5, bool)]) == digest([np.zeros((0, 3)), x, np.ones(5, bool)])
    assert plain(test_fingerprints) == "<function test_fingerprints>"


KILLED = """
import sys
import numpy as np
from nbnorm import FNN, SGD, EarlyStopping
from nbnorm.model import engines
engines.POOL_WORK = {work}
rng = np.random.default_rng(0)
X = rng.normal(size=(50_000, 20)).astype(np.float32)
y = (X[:, :4] + rng.normal(size=(50_000, 4))).argmax(axis=1)
options = dict(
    batch_size=16, optimizer=SGD(lr=0.05, momentum=0.9), schedule="cosine",
    validation_data=(X[:1000], y[:1000]), early_stopping=EarlyStopping(patience=16), checkpoint_every=0.01,
)
# everything is compiled and loaded before the clock starts, the parallel statistics too
FNN([20, 96, 96, 4], seed=1).fit(X, y, epochs=1, checkpoint=None, **{{**options, "batch_size": 4000}})
net = FNN([20, 96, 96, 4], seed=0)
print("ready", flush=True)
net.fit(X, y, epochs=16, checkpoint=sys.argv[1] or None, **options)
net.save(sys.argv[2])
"""


@pytest.mark.slow
@pytest.mark.skipif(config.DISABLE_JIT, reason="interpreted training takes too long")
@pytest.mark.posix("sends SIGKILL")
def test_kill_at_random_moments(tmp_path):
    path, rng = tmp_path / "run.npz", np.random.default_rng(0)

    def written():
        return path.stat().st_mtime_ns if path.exists() else None

    def train(checkpoint, result, work, seconds=None):
        """Return the exit status of a training; it is killed so many seconds after its first checkpoint."""
        words = [sys.executable, "-c", KILLED.format(work=work), checkpoint, tmp_path / result]
        before = written()
        with subprocess.Popen([str(word) for word in words], stdout=subprocess.PIPE, text=True) as process:
            process.stdout.readline()
            if seconds is not None:
                while written() == before and process.poll() is None:
                    time.sleep(0.001)
                time.sleep(seconds)
                process.kill()
            return process.wait(timeout=600)

    kills = inside = 0
    # the number of threads does not matter either: a pool and one thread take turns
    while kills < 4 and train(path, "resumed.npz", (0, 1e18)[kills % 2], rng.uniform(0.0, 0.1)) != 0:
        kills += 1
        _, arrays = _files.read(path, "checkpoint")  # always whole
        inside += bool(arrays["run/step"][0])
    assert kills >= 2  # a fast machine may come to the end before the fourth
    assert inside >= 1  # stopped within an epoch
    assert train(path, "resumed.npz", 0) == train("", "whole.npz", 1e18) == 0
    assert (tmp_path / "resumed.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
