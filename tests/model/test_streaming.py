"""Training over tables that are read in groups of rows."""

import os

import numpy as np
import pytest

from nbnorm import FNN, SGD, AdamW, load_digits, set_num_threads
from nbnorm.model import checkpoints
from nbnorm.model.streaming import windows

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def write(path, X, group=100, **columns):
    """Write a table with features x0, x1, ... and other columns to a Parquet or an Arrow file."""
    table = pa.table({f"x{j}": X[:, j] for j in range(X.shape[1])} | columns)
    if str(path).endswith(".arrow"):
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=group)
    else:
        pq.write_table(table, path, row_group_size=group)
    return path


@pytest.fixture(scope="module")
def data():
    X, y = load_digits()
    rng = np.random.default_rng(0)
    return X[:600].astype(np.float32), y[:600], rng.integers(0, 3, 600).astype(np.float64)


def net(**options):
    return FNN([64, 16, 10], **{"seed": 0, **options})


def bits(network):
    arrays = {**network.parameters(), **network.buffers()}
    return b"".join(values.tobytes() for values in arrays.values())


OPTIONS = {"epochs": 2, "batch_size": 37}


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_a_buffer_that_holds_all_rows_gives_the_bits_of_training_in_memory(data, tmp_path, ending):
    X, y, weights = data
    path = write(tmp_path / f"d.{ending}", X, y=y, w=weights)
    options = {**OPTIONS, "class_weight": "balanced", "optimizer": AdamW(0.01)}
    for network in ({"dropout": 0.2}, {"encoding": "piecewise", "bins": 4, "weighted_statistics": True}):
        expected, got = net(**network), net(**network)
        of_memory = expected.fit(X, y, sample_weight=weights, **options)
        of_file = got.fit(path, "y", sample_weight="w", **options)
        assert of_file.loss == of_memory.loss
        assert bits(got) == bits(expected)


def test_regression_on_several_targets_from_a_folder(data, tmp_path):
    X = data[0]
    targets = np.stack([100 + X[:, 10], X[:, 20] - X[:, 30]], axis=1)
    write(tmp_path / "a.parquet", X[:350], a=targets[:350, 0], b=targets[:350, 1])
    write(tmp_path / "b.parquet", X[350:], a=targets[350:, 0], b=targets[350:, 1])
    options = {"output": "identity", "standardize_targets": True, "dtype": np.float64}
    expected, got = (FNN([64, 16, 2], seed=0, **options) for _ in range(2))
    of_memory = expected.fit(X, targets, **OPTIONS)
    of_file = got.fit(tmp_path, ["a", "b"], **OPTIONS)
    np.testing.assert_allclose(of_file.loss, of_memory.loss, rtol=1e-12)
    np.testing.assert_allclose(got.predict(X), expected.predict(X), rtol=1e-9)


def test_sources_of_all_kinds_give_the_same_bits(data, tmp_path):
    from pyarrow import dataset

    X, y, _ = data
    path = write(tmp_path / "d.parquet", X, y=y)
    np.save(tmp_path / "x.npy", X)
    results = set()
    sources = [
        (path, "y"),
        (str(path), "y"),
        (dataset.dataset(path), "y"),
        (pq.ParquetFile(path), "y"),
        (tmp_path / "x.npy", y),
        (np.load(tmp_path / "x.npy", mmap_mode="r"), y),
    ]
    for source, target in sources:
        network = net()
        network.fit(source, target, shuffle_buffer=10_000, **OPTIONS)
        results.add(bits(network))
    assert len(results) == 1


def test_threads_do_not_change_the_bits_of_a_small_buffer(data, tmp_path):
    X, y, weights = data
    path = write(tmp_path / "d.parquet", X, y=y, w=weights)
    results, losses = set(), []
    try:
        for threads in (1, 2):
            set_num_threads(threads)
            # wide enough for a pool of threads
            network = FNN([64, 512, 128, 10], seed=0, dropout=0.1)
            history = network.fit(path, "y", sample_weight="w", shuffle_buffer=250, epochs=2, batch_size=128)
            results.add(bits(network))
            losses.append(history.loss)
    finally:
        set_num_threads(2)
    assert len(results) == 1
    assert losses[0] == losses[1]


def test_a_small_buffer_learns_as_well_as_memory(data, tmp_path):
    X, y = load_digits()
    path = write(tmp_path / "d.parquet", X[:1200].astype(np.float32), y=y[:1200])
    options = {"epochs": 8, "batch_size": 32, "optimizer": SGD(0.1, momentum=0.9)}
    in_memory, streamed = net(), net()
    in_memory.fit(X[:1200], y[:1200], **options)
    history = streamed.fit(path, "y", shuffle_buffer=300, **options)
    assert history.epochs == 8
    assert history.steps == 8 * 38
    assert abs(streamed.score(X[1200:], y[1200:]) - in_memory.score(X[1200:], y[1200:])) < 0.02


def test_windows_cut_even_batches_and_lose_no_row():
    rng = np.random.default_rng(0)
    for _ in range(200):
        sizes = rng.integers(1, 60, rng.integers(1, 12))
        total, batch = int(sizes.sum()), int(rng.integers(1, 50))
        steps = -(-total // batch)
        order = rng.permutation(len(sizes))
        buffer = int(rng.integers(1, 120))
        found = windows(order, sizes, steps, buffer)
        assert sorted(group for window in found for group in window.groups) == list(range(len(sizes)))
        assert [window.first for window in found] == list(np.cumsum([0] + [w.steps for w in found])[:-1])
        assert sum(window.steps for window in found) == steps
        assert all(window.steps > 0 and window.carried < batch for window in found)
        assert max(window.rows for window in found) <= max(buffer, sizes.max() + batch)


def test_shuffle_false_takes_the_rows_as_they_stand(data, tmp_path):
    X, y, _ = data
    path = write(tmp_path / "d.parquet", X, y=y)
    expected, got = net(), net()
    expected.fit(X, y, shuffle=False, **OPTIONS)
    got.fit(path, "y", shuffle=False, shuffle_buffer=150, **OPTIONS)
    assert bits(got) == bits(expected)


def test_a_training_goes_on_from_the_middle_of_an_epoch(data, tmp_path, monkeypatch):
    X, y, weights = data
    path = write(tmp_path / "d.parquet", X, y=y, w=weights)
    held = write(tmp_path / "v.parquet", X[:100], y=y[:100])
    options = {
        "sample_weight": "w", "shuffle_buffer": 210, "epochs": 3, "batch_size": 37,
        "validation_data": (held, "y"), "metrics": ["f1"], "checkpoint_every": 0.0,
    }  # fmt: skip
    expected = net(dropout=0.1)
    history = expected.fit(path, "y", checkpoint=tmp_path / "whole.npz", **options)
    plain = checkpoints.Checkpoint.write

    for last in (1, 5, 9):
        written = []

        def write_some(self, *arguments, last=last, written=written):
            if len(written) == last:
                raise OSError("the disk is full")
            written.append(None)
            plain(self, *arguments)

        file = tmp_path / f"{last}.npz"
        monkeypatch.setattr(checkpoints.Checkpoint, "write", write_some)
        with pytest.raises(OSError, match="disk is full"):
            net(dropout=0.1).fit(path, "y", checkpoint=file, **options)
        monkeypatch.undo()
        resumed = net(dropout=0.1)
        again = resumed.fit(path, "y", checkpoint=file, **options)
        assert again.loss == history.loss
        assert again.metrics == history.metrics
        assert bits(resumed) == bits(expected)
    write(path, X[::-1], y=y, w=weights)
    with pytest.raises(ValueError, match="another training: X was"):
        net(dropout=0.1).fit(path, "y", checkpoint=tmp_path / "whole.npz", **options)


def test_validation_data_on_disk_are_measured_as_those_in_memory(data, tmp_path):
    X, y, weights = data
    path = write(tmp_path / "d.parquet", X, y=y)
    held = write(tmp_path / "v.parquet", X[:150], group=40, y=y[:150], w=weights[:150])
    in_memory, on_disk = net(), net()
    options = {**OPTIONS, "metrics": ["log_loss"], "early_stopping": True}
    expected = in_memory.fit(path, "y", validation_data=(X[:150], y[:150], weights[:150]), **options)
    got = on_disk.fit(path, "y", validation_data=(held, "y", "w"), **options)
    assert got.val_loss == expected.val_loss
    assert got.metrics == expected.metrics


def test_missing_numbers_of_an_encoded_column_are_found_in_all_rows(data, tmp_path):
    X, y, _ = data
    X = X.copy()
    X[597, 20] = np.nan
    path = write(tmp_path / "d.parquet", X, y=y)
    network = net(encoding="piecewise", bins=4)
    network.fit(path, "y", **OPTIONS)
    assert network.encoder.missing_[20] == 1
    with pytest.raises(ValueError, match=r"X must be finite, got nan at \[97, 20\] of row group 5"):
        net().fit(path, "y", **OPTIONS)


def test_what_fit_refuses(data, tmp_path):
    X, y, weights = data
    path = write(tmp_path / "d.parquet", X, y=y, w=weights)
    plain = tmp_path / "d.csv"
    plain.write_text("a,b\n1,2\n")
    cases = [
        (ValueError, "y names no column of X: got 'z'", path, "z", {}),
        (ValueError, "X must have 64 features", path, "y", {}),
        (ValueError, "Parquet, Arrow or NPY file", plain, "b", {}),
        (FileNotFoundError, "does not exist", tmp_path / "none.parquet", "y", {}),
        (TypeError, "y must hold integer classes 0 to 9", path, "w", {"sample_weight": "y"}),
        (ValueError, "shuffle_buffer must be at least 1", path, "y", {"shuffle_buffer": 0}),
        (TypeError, "shuffle_buffer needs X to be a path", X.tolist(), y, {"shuffle_buffer": 9}),
        (TypeError, "readable once for each epoch", iter_reader(X, y), "y", {}),
    ]
    write(path, X, y=y, w=weights + 9)
    for kind, message, source, target, options in cases:
        before = net()
        state = bits(before)
        with pytest.raises(kind, match=message):
            before.fit(source, target, epochs=1, **options)
        assert bits(before) == state
        assert before.training
    assert os.path.exists(path)


def iter_reader(X, y):
    table = pa.table({f"x{j}": X[:, j] for j in range(64)} | {"y": y})
    return table.to_reader()
