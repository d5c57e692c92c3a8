"""One network trained by several ranks: the same bits whatever their number."""

import functools
import itertools
import os
import re
import subprocess
import sys
import threading

import numpy as np
import pandas as pd
import pytest
from thread_ranks import together

import nbnorm
from nbnorm import FNN, SGD, AdamW, CustomLoss, DataParallel, EarlyStopping, Lion, gradcheck, load_digits
from nbnorm.functions.shards import (
    input_gradient,
    merged_statistics,
    normalized,
    shard_statistics,
    shard_sums,
)
from nbnorm.model import checkpoints, plan
from nbnorm.model.ranks import Ranks, versions

X, Y = (values[:150] for values in load_digits())
WEIGHTS = np.random.default_rng(0).integers(0, 3, 150).astype(np.float64)
CUTS = {1: [0, 150], 2: [0, 40, 150], 3: [0, 60, 60, 150], 8: [0, 9, 9, 30, 70, 71, 100, 140, 150]}


def bits(net):
    return b"".join(values.tobytes() for values in {**net.parameters(), **net.buffers()}.values())


def shared(comm, *arrays):
    """Return a rank's share of arrays: unequal ones, one of three and of eight is empty."""
    first, last = CUTS[comm.Get_size()][comm.Get_rank() :][:2]
    return [values[first:last] for values in arrays]


def trained(comm, *, weighted=False, shards=8, sync=True, network=(), **options):
    x, y, weights = shared(comm, X, Y, WEIGHTS)
    net = FNN([64, 12, 8, 10], **{"seed": 0, **dict(network)})
    if weighted:
        options |= {"sample_weight": weights, "class_weight": "balanced"}
    how = DataParallel(comm, shards=shards, sync=sync)
    history = net.fit(x, y, comm=how, **{"epochs": 2, "batch_size": 40, **options})
    return net, history


def outcome(ranks, **options):
    """Return bits and losses of a training, the same on all ranks."""
    found = together(ranks, functools.partial(trained, **options))
    for one in found:
        if isinstance(one, BaseException):
            raise one
    assert len({bits(net) for net, _ in found}) == 1
    return bits(found[0][0]), found[0][1]


# ----------------------------------------------------------------------------------------------
# Synchronized batch norm
# ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
def test_synchronized_batch_norm_is_that_of_all_samples(weighted):
    rng = np.random.default_rng(0)
    x, dout = rng.normal(1e3, 2.0, (13, 4)), rng.normal(size=(13, 4))
    weights = rng.integers(1, 4, 13).astype(np.float64) if weighted else None
    shards = [slice(0, 1), slice(1, 6), slice(6, 6), slice(6, 13)]  # unequal, one of them empty
    gamma = rng.normal(size=4)
    masses = np.array([(np.ones(13) if weights is None else weights)[rows].sum() for rows in shards])
    tables = np.stack([shard_statistics(x[r], None if weights is None else weights[r]) for r in shards])
    mean, var = merged_statistics(tables, masses)
    # PyTorch's SyncBatchNorm merges the means and variances of the ranks with their counts
    total = masses.sum()
    of_shards = tables[:, 1] / np.where(masses > 0, masses, 1)[:, None]
    expected_mean = (masses[:, None] * tables[:, 0]).sum(axis=0) / total
    expected_var = (masses[:, None] * (of_shards + (tables[:, 0] - expected_mean) ** 2)).sum(axis=0) / total
    np.testing.assert_allclose(mean, expected_mean, rtol=1e-14)
    np.testing.assert_allclose(var, expected_var, rtol=1e-9)
    rstd = 1 / np.sqrt(var + 1e-5)
    u = [normalized(x[rows], mean, rstd) for rows in shards]
    sums = np.stack([shard_sums(dout[rows], v) for rows, v in zip(shards, u, strict=True)]).sum(axis=0)
    dx = np.concatenate(
        [
            input_gradient(
                dout[rows],
                v,
                gamma * rstd,
                1 / total if weights is None else weights[rows] / total,
                sums,
            )
            for rows, v in zip(shards, u, strict=True)
        ]
    )

    def loss(values):
        w = np.ones(13) if weights is None else weights
        m = (w[:, None] * values).sum(axis=0) / w.sum()
        v = (w[:, None] * (values - m) ** 2).sum(axis=0) / w.sum()
        return float((dout * gamma * (values - m) / np.sqrt(v + 1e-5)).sum())

    assert gradcheck(loss, x, dx) < 1e-6
    if weights is None:
        out, of_all, r = nbnorm.batch_norm_forward(x, gamma, np.zeros(4))
        np.testing.assert_allclose(gamma * np.concatenate(u), out, rtol=1e-8, atol=1e-10)
        expected, dgamma, dbeta = nbnorm.batch_norm_backward(dout, x, gamma, of_all, r)
        # PyTorch: (dout - mean(dout) - u mean(dout u)) gamma rstd
        np.testing.assert_allclose(dx, expected, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(sums, [dbeta, dgamma], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("network", "weighted"),
    [
        ({"activation": "tanh"}, False),
        ({"activation": ["gelu", "elu"], "norm": "before"}, True),
        ({"activation": "silu", "norm": None}, True),
        ({"activation": "tanh", "norm": "layer"}, True),
        ({"activation": "silu", "norm": "rms_after"}, False),
        ({"activation": "sigmoid", "weighted_statistics": True}, True),
    ],
)
def test_gradients_are_those_of_one_process(network, weighted):
    # a step of SGD with learning rate 1 subtracts the gradient; that of one process is checked elsewhere
    options = {"network": {"dtype": np.float64, **network}, "weighted": weighted}
    start = FNN([64, 12, 8, 10], seed=0, **options["network"])
    bounds = {"epochs": 1, "batch_size": 150, "optimizer": SGD(1.0)}
    found = together(3, functools.partial(trained, **options, **bounds))
    net, history = found[0]
    start.standardizer = net.standardizer
    weights = None
    if weighted:
        counts = np.bincount(Y, weights=WEIGHTS)
        weights = WEIGHTS * (counts.sum() / (10 * counts))[Y]
    loss, gradients = start.loss_and_gradients(X, Y, sample_weight=weights)
    assert history.loss[0] == pytest.approx(loss, rel=1e-12)
    for name, before in start.parameters().items():
        got = before - net.parameters()[name]
        np.testing.assert_allclose(got, gradients[name], rtol=1e-7, atol=1e-11)


# ----------------------------------------------------------------------------------------------
# Bits
# ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "options",
    [
        {"early_stopping": EarlyStopping("loss"), "optimizer": Lion(0.001, weight_decay=0.1)},
        {"network": {"norm": "before", "dropout": 0.2}, "weighted": True, "optimizer": AdamW(0.01)},
        {
            "network": {"weighted_statistics": True, "running": "std", "encoding": "piecewise", "bins": 3},
            "weighted": True, "clip_norm": 0.5, "clip_value": 0.1, "l2": 0.01, "schedule": "cosine",
        },
        {"sync": False, "batch_size": 75},
        {"network": {"norm": "layer", "dropout": 0.2}, "batch_size": 15, "weighted": True},
        {"network": {"norm": "rms_after"}, "batch_size": 9, "sync": False},
    ],
)  # fmt: skip
def test_the_number_of_ranks_does_not_change_the_bits(options, dtype):
    options = {**options, "network": {**options.get("network", {}), "dtype": dtype}}
    expected, history = outcome(1, **options)
    for ranks in (2, 3, 8):
        got, of_ranks = outcome(ranks, **options)
        assert of_ranks.loss == history.loss
        assert got == expected


def test_each_rank_has_its_share_of_the_validation_data():
    def action(comm):
        x, y, weights = shared(comm, X, Y, WEIGHTS)
        net = FNN([64, 12, 10], seed=0)
        data = (x, y, weights)
        return net.fit(x, y, epochs=2, comm=comm, validation_data=data, metrics=["log_loss"])

    histories = [history for ranks in (1, 3) for history in together(ranks, action)]
    for history in histories[1:]:
        assert history.val_loss == histories[0].val_loss
        assert history.metrics == histories[0].metrics


def test_full_batches_train_as_one_process_does():
    options = {"epochs": 5, "batch_size": 150, "optimizer": SGD(0.1, momentum=0.9), "clip_norm": 1.0}
    expected = FNN([64, 12, 8, 10], seed=0, dtype=np.float64)
    history = expected.fit(X, Y, **options)
    found = together(2, functools.partial(trained, network={"dtype": np.float64}, **options))
    np.testing.assert_allclose(found[0][1].loss, history.loss, rtol=1e-10)
    np.testing.assert_allclose(found[0][0].forward(X), expected.forward(X), rtol=1e-8, atol=1e-8)


def test_targets_with_values():
    targets = np.stack([1000 + X[:, 10].astype(float), X[:, 20] - 1.0 * X[:, 30]], axis=1)

    def action(comm):
        x, y = shared(comm, X, targets)
        net = FNN([64, 12, 2], seed=0, output="identity", standardize_targets=True, loss="huber")
        history = net.fit(x, y, epochs=2, batch_size=40, comm=comm)
        return bits(net), history.loss

    assert together(1, action) == together(3, action)[:1]


@pytest.mark.parametrize("shards", [1, 3, 5, 8])
def test_sums_over_shards_do_not_depend_on_who_has_them(shards):
    parts = np.random.default_rng(0).normal(size=(2, shards, 7)).astype(np.float32)

    def action(comm):
        ranks = Ranks(comm, shards)
        first, second = (
            ranks.begin_sum([of_sum[k] for k in ranks.own] or [np.zeros(7, np.float32)]) for of_sum in parts
        )
        first.proceed()  # the second is under way
        return np.stack([second.result(), first.result()])

    sums = [totals.tobytes() for count in (1, 2, 3, 4, 8) for totals in together(count, action)]
    assert len(set(sums)) == 1
    expected = parts.sum(axis=1)[::-1]
    np.testing.assert_allclose(np.frombuffer(sums[0], np.float32).reshape(2, 7), expected, rtol=1e-5)


def test_gradients_of_a_wide_network_travel_in_several_messages():
    sent = []

    def action(comm):
        x, y = shared(comm, X, Y)
        net = FNN([64, 520, 520, 10], seed=0)
        begin = comm.Ialltoallv
        comm.Ialltoallv = lambda sent_here, received: (
            sent.append(len(sent_here[0])) or begin(sent_here, received)
        )
        history = net.fit(x, y, epochs=1, batch_size=60, comm=DataParallel(comm, shards=4))
        return bits(net), history.loss

    assert len({parameters for ranks in (1, 2, 3) for parameters, _ in together(ranks, action)}) == 1
    assert {size > 520 * 520 for size in sent} == {True, False}


# ----------------------------------------------------------------------------------------------
# Refusals
# ----------------------------------------------------------------------------------------------


def refused(action, ranks=2):
    return [f"{type(error).__name__}: {error}" for error in together(ranks, action)]


# What one of two ranks has otherwise: arguments of `fit`, of the network and of `DataParallel`.
DIFFERENT = {
    "dtype of X": {"X": X[40:].astype(np.float32)},
    "names of the features": {"X": pd.DataFrame(X[40:], columns=[f"x{j}" for j in range(64)])},
    "kind of sample_weight": {"sample_weight": np.ones(110)},
    "kind of the weights of validation_data": {"validation_data": (X, Y, WEIGHTS)},
    "validation_data": {"validation_data": None},
    "dtype of validation_data": {"validation_data": (X.astype(np.float32), Y)},
    "epochs": {"epochs": 3},
    "batch_size": {"batch_size": 7},
    "optimizer": {"optimizer": AdamW(0.1)},
    "class_weight": {"class_weight": "balanced"},
    "norm": {"network": {"norm": "before"}},
    "dtype": {"network": {"dtype": np.float64}},
    "seed": {"network": {"seed": 1}},
    "parameters": {"changed": True},
    "shards": {"how": {"shards": 4}},
    "sync": {"how": {"sync": False}},
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_ranks_that_differ_are_refused(name):
    def action(comm):
        x, y = shared(comm, X, Y)
        options = {"X": x, "y": y, "epochs": 2, "batch_size": 60, "validation_data": (X, Y)}
        other = dict(DIFFERENT[name]) if comm.Get_rank() else {}
        net = FNN([64, 12, 10], **{"seed": 0, **other.pop("network", {})})
        if other.pop("changed", False):
            net.parameters()["dense2.bias"][3] = 1e-3
        how = DataParallel(comm, **{"shards": 8, **other.pop("how", {})})
        return net.fit(comm=how, **{**options, **other})

    errors = refused(action)
    assert len(set(errors)) == 1
    assert errors[0].startswith(f"ValueError: all ranks must have the same {name}: rank 0 has ")


@pytest.mark.parametrize("name", ["version of nbnorm", "version of NumPy", "source files of nbnorm"])
def test_ranks_of_different_versions_are_refused(name, monkeypatch):
    def action(comm):
        # an option that only one version has must not be what is said
        return FNN([64, 12, 10]).fit(*shared(comm, X, Y), comm=comm, epochs=1 + comm.Get_rank())

    numbers, found = itertools.count(), versions()
    (field,) = (one for one in found if one.startswith(name))
    monkeypatch.setattr(plan, "versions", lambda: {**found, field: f"1.{next(numbers)}"})
    errors = refused(action)
    assert len(set(errors)) == 1
    words = rf"ValueError: all ranks must have the same {field}: rank 0 has 1.\d, rank 1 has 1.\d"
    assert re.fullmatch(words, errors[0])


def test_an_error_on_one_rank_is_one_on_all():
    def action(comm):
        x, y = shared(comm, X, Y)
        if comm.Get_rank() == 1:
            y = y + 5
        return FNN([64, 12, 10], seed=0).fit(x, y, comm=comm)

    first, second = refused(action)
    assert second.startswith("ValueError: y must hold classes 0 to 9")
    assert first.startswith("RuntimeError: rank 1 has refused its arguments: ValueError: y must hold")


def test_what_comm_refuses():
    def loss(z, target, gradient):
        return 0.0

    with pytest.raises(TypeError, match=r"comm must be a communicator of mpi4py, got int"):
        FNN([64, 10]).fit(X, Y, comm=3)
    assert "shards must be at least 1, got 0" in refused(lambda comm: DataParallel(comm, shards=0), 1)[0]
    custom = CustomLoss(__import__("numba").njit(loss))
    assert "CustomLoss" in refused(lambda comm: FNN([64, 10], loss=custom).fit(X, Y, comm=comm), 1)[0]
    sparse = pytest.importorskip("scipy.sparse").csr_array(X)
    assert "must be dense" in refused(lambda comm: FNN([64, 10]).fit(sparse, Y, comm=comm), 1)[0]
    assert (
        "2 samples for each of 16 shards"
        in refused(
            lambda comm: FNN([64, 9, 10]).fit(X, Y, batch_size=20, comm=DataParallel(comm, sync=False)), 1
        )[0]
    )


def test_networks_without_a_seed_begin_alike():
    def action(comm):
        x, y = shared(comm, X, Y)
        net = FNN([64, 12, 10])
        net.fit(x, y, epochs=1, comm=comm)
        return bits(net)

    assert len(set(together(2, action))) == 1


# ----------------------------------------------------------------------------------------------
# Checkpoints and faults
# ----------------------------------------------------------------------------------------------


def test_a_training_goes_on_with_another_number_of_ranks(tmp_path, monkeypatch):
    options = {"epochs": 3, "checkpoint_every": 0.0, "network": {"dropout": 0.1}}
    expected, history = outcome(1, checkpoint=tmp_path / "whole.npz", **options)
    plain, written = checkpoints.Checkpoint.write, itertools.count()

    def write_some(self, *arguments):
        if next(written) == 6:
            raise OSError("the disk is full")
        plain(self, *arguments)

    monkeypatch.setattr(checkpoints.Checkpoint, "write", write_some)
    results = together(2, functools.partial(trained, checkpoint=tmp_path / "cut.npz", **options))
    assert isinstance(results[0], OSError)
    monkeypatch.undo()
    got, again = outcome(3, checkpoint=tmp_path / "cut.npz", **options)
    assert again.loss == history.loss
    assert got == expected


def test_an_interrupt_of_one_rank_ends_all():
    def trained(comm):
        def metric(truth, prediction):  # between two steps
            if comm.Get_rank() == 1:
                raise KeyboardInterrupt
            return 0.0

        data = shared(comm, X, Y)
        return FNN([64, 10], seed=0).fit(*data, epochs=2, comm=comm, validation_data=data, metrics=[metric])

    of_first, of_second = together(2, trained)
    assert isinstance(of_second, KeyboardInterrupt)
    assert isinstance(of_first, threading.BrokenBarrierError)


KILLED = """
import os, signal, sys
from mpi4py import MPI
from nbnorm import FNN, load_digits
comm, (X, y) = MPI.COMM_WORLD, load_digits()
rank, size = comm.Get_rank(), comm.Get_size()
rows = slice(rank * 300 // size, (rank + 1) * 300 // size)
def callback(net, history):
    if history.epochs == 2 and rank == 1 and sys.argv[2] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if history.epochs == 2 and rank == 1 and sys.argv[2] == "raise":
        raise RuntimeError("no more")
net = FNN([64, 8, 10], seed=0)
history = net.fit(X[rows], y[rows], epochs=4, comm=comm, checkpoint=sys.argv[1], callbacks=[callback])
if rank == 0:
    print(history.epochs, sum(map(float, net.parameters()["dense1.weight"].ravel())))
"""


def launched(ranks, *arguments):
    """Run the program above on so many ranks."""
    mpi = pytest.importorskip("mpi4py")
    launcher = os.path.join(os.path.dirname(sys.executable), "mpiexec")
    if not os.path.exists(launcher):
        pytest.skip(f"needs mpiexec beside Python for mpi4py {mpi.__version__}")
    command = [launcher, "-n", str(ranks), sys.executable, "-c", KILLED, *map(str, arguments)]
    # a hang would be an error here
    environment = {**os.environ, "NUMBA_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


@pytest.mark.posix("signals")
def test_a_rank_that_ends_ends_all_and_the_training_goes_on(tmp_path):
    whole = launched(1, tmp_path / "whole.npz", "")
    assert whole.returncode == 0, whole.stderr
    for how, said in (("kill", "BAD TERMINATION"), ("raise", "rank 1 of 2 has failed in a callback")):
        cut = launched(2, tmp_path / f"{how}.npz", how)
        assert cut.returncode != 0
        assert said in cut.stdout + cut.stderr
        again = launched(1, tmp_path / f"{how}.npz", "")
        assert again.returncode == 0, again.stderr
        assert again.stdout == whole.stdout
