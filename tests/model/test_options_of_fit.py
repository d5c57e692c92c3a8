"""Every option of `fit` and of the network, over ranks and over row groups: it works or is refused."""

import functools
import inspect

import numpy as np
import pytest
from thread_ranks import together

from nbnorm import (
    FNN,
    SGD,
    AdamW,
    DataParallel,
    EarlyStopping,
    Metric,
    Plateau,
    load_digits,
)

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

X, Y = (values[:150] for values in load_digits())
X = X.astype(np.float32)
WEIGHTS = np.random.default_rng(0).integers(0, 3, 150).astype(np.float64)
REGRESSION = {"output": "identity", "sizes": [64, 12, 1], "standardize_targets": True}


def stop_after_one(net, history):
    return history.epochs == 1


def share_of_threes(truth, predictions):
    return float(np.mean(predictions == 3))


# Option, and calls of `fit` that use it: its options, and those of the network.
FIT = {
    "epochs": [({"epochs": 3}, {})],
    "batch_size": [({"batch_size": 33}, {})],
    "optimizer": [
        ({"optimizer": AdamW(0.01, weight_decay=0.01)}, {}),
        ({"optimizer": SGD(0.1, momentum=0.9, nesterov=True)}, {}),
    ],
    "schedule": [
        ({"schedule": "cosine"}, {}),
        ({"epochs": 4, "schedule": Plateau(patience=1, min_delta=1.0)}, {}),
    ],
    "sample_weight": [({"sample_weight": WEIGHTS}, {})],
    "class_weight": [
        ({"class_weight": "balanced", "sample_weight": WEIGHTS}, {}),
        ({"class_weight": {3: 2.0}}, {}),
    ],
    "clip_norm": [({"clip_norm": 0.5}, {})],
    "clip_value": [({"clip_value": 0.05}, {})],
    "l2": [({"l2": 0.01}, {})],
    "frozen": [({"frozen": ["dense1", "norm1"]}, {})],
    "rates": [({"rates": {"dense1": 0.01}}, {})],
    "validation_data": [({"validation_data": (X, Y, WEIGHTS)}, {})],
    "metrics": [
        ({"validation_data": (X, Y), "metrics": ["f1", Metric(share_of_threes)]}, {})
    ],
    "early_stopping": [
        ({"epochs": 4, "early_stopping": EarlyStopping("loss", patience=1, min_delta=1.0)}, {})
    ],
    "checkpoint": [({"checkpoint": "file"}, {})],
    "checkpoint_every": [({"checkpoint": "file", "checkpoint_every": 0.0}, {})],
    "shuffle": [({"shuffle": False}, {})],
    "seed": [({"seed": 5}, {})],
    "progress": [({"progress": False}, {})],
    "callbacks": [({"callbacks": [stop_after_one]}, {})],
}  # fmt: skip
NETWORK = {
    "sizes": [{"sizes": [64, 10]}],
    "activation": [{"activation": "gelu"}, {"activation": ["silu", "tanh"], "sizes": [64, 9, 8, 10]}],
    "norm": [{"norm": "before"}, {"norm": None}, {"norm": "layer"}, {"norm": "rms_after"}],
    "output": [REGRESSION, {"output": "sigmoid", "sizes": [64, 12, 1]}],
    "loss": [REGRESSION | {"loss": "huber"}, REGRESSION | {"loss": "poisson", "standardize_targets": False}],
    "dropout": [{"dropout": 0.3}],
    "standardize": [{"standardize": False}],
    "encoding": [{"encoding": "piecewise"}],
    "bins": [{"encoding": "piecewise", "bins": 3}],
    "standardize_targets": [REGRESSION],
    "eps": [{"eps": 0.1}],
    "decay": [{"decay": 0.5}, {"decay": None}],
    "running": [{"running": "std"}],
    "unbiased": [{"unbiased": False}],
    "weighted_statistics": [{"weighted_statistics": True}],
    "frozen_statistics": [{"frozen_statistics": True}],
    "init": [{"init": "glorot"}],
    "dtype": [{"dtype": np.float64}],
    "precision": [{"precision": "bfloat16"}],
    "seed": [{"seed": 3}],
}
CASES = [(name, *case) for name, cases in FIT.items() for case in cases]
CASES += [
    (f"FNN {name}", {"sample_weight": WEIGHTS}, case) for name, cases in NETWORK.items() for case in cases
]
IDS = [f"{name}-{number}" for number, (name, *_) in enumerate(CASES)]

# What ranks refuse, and with which words.
REFUSED_BY_RANKS = {"shuffle_buffer": ({"shuffle_buffer": 50}, {}, "shuffle_buffer")}


def network(options):
    options = {"sizes": [64, 12, 10], "seed": 0, **options}
    return FNN(options.pop("sizes"), **options)


def targets(net):
    return Y if net.output == "softmax" else (Y % 2).astype(np.float64)


def bits(net):
    return b"".join(values.tobytes() for values in {**net.parameters(), **net.buffers()}.values())


def with_file(options, path):
    """Return the options with the name of the checkpoint's file, where there is one."""
    return options | ({"checkpoint": path} if "checkpoint" in options else {})


def test_the_tables_have_every_option():
    fit = set(inspect.signature(FNN.fit).parameters) - {"self", "X", "y", "comm"}
    assert {*FIT, "shuffle_buffer"} == fit
    assert set(NETWORK) == set(inspect.signature(FNN).parameters)


def over_ranks(comm, options, chosen, path):
    rank, size = comm.Get_rank(), comm.Get_size()
    rows = slice(rank * 150 // size, (rank + 1) * 150 // size)
    net = network(chosen)
    options = with_file({"epochs": 2, "batch_size": 50, **options}, path / f"{size}.npz")
    if "sample_weight" in options:
        options["sample_weight"] = WEIGHTS[rows]
    if "validation_data" in options:
        options["validation_data"] = tuple(values[rows] for values in options["validation_data"])
    history = net.fit(X[rows], targets(net)[rows], comm=DataParallel(comm, shards=4), **options)
    return bits(net), history.loss, history.val_loss, history.metrics


@pytest.mark.parametrize(("name", "options", "chosen"), CASES, ids=IDS)
def test_over_ranks(name, options, chosen, tmp_path):
    action = functools.partial(over_ranks, options=options, chosen=chosen, path=tmp_path)
    results = [result for ranks in (1, 3) for result in together(ranks, action)]
    for result in results:
        assert isinstance(result, tuple), result
        assert result == results[0]
    plain = functools.partial(over_ranks, options={}, chosen=chosen, path=tmp_path)
    if name not in ("checkpoint", "checkpoint_every", "progress", "validation_data", "metrics", "FNN sizes"):
        assert together(1, plain)[0][0] != results[0][0]  # the option does something


@pytest.mark.parametrize("name", REFUSED_BY_RANKS)
def test_ranks_refuse_by_name(name, tmp_path):
    options, chosen, words = REFUSED_BY_RANKS[name]
    for result in together(2, functools.partial(over_ranks, options=options, chosen=chosen, path=tmp_path)):
        assert isinstance(result, (TypeError, ValueError))
        assert words in str(result)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "digits.parquet"
    pq.write_table(pa.table({f"x{j}": X[:, j] for j in range(64)}), path, row_group_size=40)
    return path


@pytest.mark.parametrize(("name", "options", "chosen"), CASES, ids=IDS)
def test_over_row_groups(name, options, chosen, tmp_path, table):
    """Where the buffer holds all rows, the bits are those of training in memory."""
    in_memory, streamed = network(chosen), network(chosen)
    options = {"epochs": 2, "batch_size": 50, **options}
    expected = in_memory.fit(X, targets(in_memory), **with_file(options, tmp_path / "memory.npz"))
    options = with_file(options, tmp_path / "streamed.npz")
    got = streamed.fit(table, targets(streamed), **options)
    if in_memory.dtype == np.float32:  # of statistics that are read group by group the last bit may differ
        assert got.loss == expected.loss
        assert bits(streamed) == bits(in_memory)
    np.testing.assert_allclose(streamed.forward(X), in_memory.forward(X), rtol=1e-9)
