"""Tables on disk that are read a group of rows at a time."""

import numpy as np
import pytest

from nbnorm.data.row_groups import is_row_groups, open_groups

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
ds = pytest.importorskip("pyarrow.dataset")


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    return pa.table(
        {
            "a": rng.normal(size=50).astype(np.float32),
            "n": pa.array([None if k % 7 == 0 else k for k in range(50)], pa.int32()),
            "b": pa.array([k % 3 == 0 for k in range(50)]),
            "y": pa.array([["no", "yes"][k % 2] for k in range(50)]).dictionary_encode(),
            "w": rng.random(50),
        }
    )


def everything(groups):
    parts = [(rows.x.copy(), rows.truth, rows.weights) for rows in groups.all()]
    return [None if column[0] is None else np.concatenate(column) for column in zip(*parts, strict=True)]


def columns(table, *names):
    found = [table[name] if name == "b" else table[name].cast(pa.float64()) for name in names]
    return np.stack([np.asarray(column) for column in found], axis=1).astype(np.float64)


def test_groups_of_a_file_hold_its_rows(table, tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(table, path, row_group_size=20)
    groups = open_groups("X", path, "y", "w")
    assert groups.sizes.tolist() == [20, 20, 10]
    assert groups.features == ["a", "n", "b"]
    assert groups.dtype == np.float64
    x, truth, weights = everything(groups)
    np.testing.assert_array_equal(x, columns(table, "a", "n", "b"))
    assert truth.tolist() == table["y"].to_pylist()
    np.testing.assert_array_equal(weights, table["w"].to_numpy())


def test_a_folder_with_partitions_has_their_columns(table, tmp_path):
    parts = table.drop_columns(["b"]).append_column("part", pa.array([k // 25 for k in range(50)]))
    by = ds.partitioning(pa.schema([("part", pa.int64())]), flavor="hive")
    ds.write_dataset(parts, tmp_path / "d", format="parquet", partitioning=by)
    groups = open_groups("X", tmp_path / "d", "y", "w", features=["part", "n", "a"])
    x = everything(groups)[0]
    np.testing.assert_array_equal(x[:, 0], np.repeat([0.0, 1.0], 25))
    np.testing.assert_array_equal(x[:, 2], columns(table, "a")[:, 0])


def test_some_rows_and_other_answers(table, tmp_path):
    path = tmp_path / "t.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=8)
    groups = open_groups("X", path, "y", "w")
    rows = np.array([45, 3, 4, 20, 7])
    some = groups[rows]
    assert some.shape == (5, 3)
    x, truth, weights = everything(some)
    np.testing.assert_array_equal(x, columns(table, "a", "n", "b")[np.sort(rows)])
    np.testing.assert_array_equal(weights, table["w"].to_numpy()[np.sort(rows)])
    assert truth.tolist() == [table["y"].to_pylist()[k] for k in np.sort(rows)]
    _, truth, weights = everything(open_groups("X", some, np.arange(5)))
    assert truth.tolist() == [0, 1, 2, 3, 4]
    assert weights is None


def test_shares_are_all_rows_once(table, tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(table, path, row_group_size=9)
    groups = open_groups("X", path, "y")
    parts = [groups.part(k, 4) for k in range(4)]
    np.testing.assert_array_equal(np.concatenate([p.x for p in parts]), everything(groups)[0])
    assert sum(len(p.truth) for p in parts) == 50


def test_an_order_opens_each_file_once(table, tmp_path, monkeypatch):
    for k in range(6):
        pq.write_table(table, tmp_path / f"{k}.parquet", row_group_size=10)
    groups = open_groups("X", tmp_path, "y", "w")
    order = np.random.default_rng(0).permutation(30)
    assert groups.near(order).tolist() == order.tolist()  # all can be open
    monkeypatch.setattr("nbnorm.data.row_groups._DESCRIBED", 40)  # two files
    near = groups.near(order)
    assert sorted(near) == list(range(30))
    files = near // 5
    for first in (0, 10, 20):
        assert len(set(files[first : first + 10])) == 2
    expected = everything(groups)[0]
    out = groups.allocate(10)
    for group in near:
        np.testing.assert_array_equal(groups.read(group, out).x, expected[10 * group : 10 * group + 10])


def test_a_memory_map_is_read_in_parts():
    x = np.arange(3e6, dtype=np.float32).reshape(-1, 3)
    groups = open_groups("X", x, np.arange(len(x)))
    assert len(groups) > 1
    np.testing.assert_array_equal(everything(groups)[0], x)


def test_what_is_refused(table, tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(table, path)
    cases = [
        (ValueError, "y names no column of X: got 'z'", path, "z", None),
        (ValueError, "y must name a column of X or have a value for each of its 50 rows", path, [1, 2], None),
        (TypeError, "sample_weight must name one column", path, "y", ["w", "a"]),
        (ValueError, "X must be a whole dataset", ds.dataset(path).filter(ds.field("a") > 0), "y", None),
        (TypeError, "X must hold real numbers, got .*column 'y'", path, "w", None),
        (TypeError, "readable once for each epoch", table.to_reader(), "y", None),
    ]
    for kind, message, source, target, weight in cases:
        with pytest.raises(kind, match=message):
            open_groups("X", source, target, weight)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no PAR1")
    with pytest.raises((ValueError, OSError), match="broken"):
        open_groups("X", tmp_path / "broken.parquet", "y")
    with pytest.raises(ValueError, match="must have the features"):
        open_groups("X", path, "y", "w", features=["a", "n"])
    assert open_groups("X", path, features=["n"], others=True).width == 1
    assert not is_row_groups(table)
