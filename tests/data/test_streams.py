"""Files against the same data read at once."""

import csv
import json

import numpy as np
import pytest

from nbnorm import Moments
from nbnorm.data import tables
from nbnorm.data.streams import standardize_file


def normal(shape, dtype=np.float64, seed=0, mean=0.0):
    return (np.random.default_rng(seed).standard_normal(shape) + mean).astype(dtype)


def write_csv(path, x, names=None):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerow(names or [f"f{j}" for j in range(x.shape[1])])
        csv.writer(file).writerows(x.tolist())
    return path


def read_csv(path):
    return np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2)


def make(path, x):
    if path.suffix == ".csv":
        write_csv(path, x)
    elif path.suffix == ".npy":
        np.save(path, x)
    elif path.suffix == ".npz":
        np.savez_compressed(path, X=x, y=np.arange(len(x)))
    else:
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.table({f"f{j}": x[:, j] for j in range(x.shape[1])}), path)
    return path


def load(path):
    if path.suffix == ".csv":
        return read_csv(path)
    if path.suffix == ".npy":
        return np.load(path)
    if path.suffix == ".npz":
        with np.load(path) as archive:
            return archive["X"]
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    return np.column_stack([column.to_numpy() for column in table.columns])


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr("nbnorm.statistics.chunks.CHUNK", 2000)


@pytest.mark.parametrize("suffix", [".csv", ".npy", ".npz", ".parquet", ".pq"])
def test_files_there_and_back(tmp_path, suffix, small_chunks):
    x = normal((200, 3), mean=100)
    source = make(tmp_path / f"x{suffix}", x)
    there, back, stats = tmp_path / f"y{suffix}", tmp_path / f"z{suffix}", tmp_path / "stats.json"
    used = standardize_file(source, there, save_stats=stats)
    np.testing.assert_allclose(used.mean, x.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(load(there), (x - x.mean(axis=0)) / x.std(axis=0), atol=1e-12)
    assert Moments.from_dict(json.loads(stats.read_text())).to_dict() == used.to_dict()
    standardize_file(there, back, stats=stats, inverse=True)
    np.testing.assert_allclose(load(back), x, rtol=1e-13)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".parquet"])
def test_csv_becomes_another_kind(tmp_path, suffix, small_chunks):
    x = normal((150, 2))
    standardize_file(write_csv(tmp_path / "x.csv", x), tmp_path / f"y{suffix}")
    np.testing.assert_allclose(load(tmp_path / f"y{suffix}"), (x - x.mean(0)) / x.std(0), atol=1e-13)


def test_npz_in_the_order_of_columns(tmp_path, small_chunks):
    x = normal((150, 3))
    np.savez_compressed(tmp_path / "x.npz", X=np.asfortranarray(x), y=np.arange(150))
    standardize_file(tmp_path / "x.npz", tmp_path / "y.npz")
    np.testing.assert_allclose(load(tmp_path / "y.npz"), (x - x.mean(0)) / x.std(0), atol=1e-13)


def test_npz_keeps_its_other_arrays_and_dtype(tmp_path):
    source = make(tmp_path / "x.npz", normal((20, 2), np.float32))
    standardize_file(source, tmp_path / "y.npz")
    with np.load(tmp_path / "y.npz") as archive:
        np.testing.assert_array_equal(archive["y"], np.arange(20))
        assert archive["X"].dtype == np.float32


def test_statistics_of_other_features_are_refused(tmp_path):
    stats = tmp_path / "stats.json"
    source = write_csv(tmp_path / "x.csv", normal((9, 2)), ["a", "b"])
    standardize_file(source, tmp_path / "y.csv", save_stats=stats)
    before = (tmp_path / "y.csv").read_bytes()
    other = write_csv(tmp_path / "other.csv", normal((9, 2)), ["a", "c"])
    with pytest.raises(ValueError, match=r"must have the features \['a', 'b'\]"):
        standardize_file(other, tmp_path / "y.csv", stats=stats)
    np.save(tmp_path / "wide.npy", np.ones((3, 3)))
    with pytest.raises(ValueError, match="x must have 2 features as fitted, got 3"):
        standardize_file(tmp_path / "wide.npy", tmp_path / "y.csv", stats=stats)
    assert (tmp_path / "y.csv").read_bytes() == before


BAD_ROWS = [
    ("a,b\n1,2\n3\n", "line 3: got 1 fields, expected 2"),
    ("a,b\n1,2\n\n3,x\n", "line 4, column 'b': expected a number, got 'x'"),
    ("a,b\n1,\n", "column 'b' holds no value"),
    ("a,b\n1,2\n1,inf\n", "line 3, column 'b': must be finite, got inf"),
    ("a,b\n", "has no rows"),
]


@pytest.mark.parametrize(("text", "message"), BAD_ROWS)
def test_bad_rows_are_named_and_nothing_is_written(tmp_path, text, message):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        standardize_file(tmp_path / "x.csv", tmp_path / "y.csv", save_stats=tmp_path / "s.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.csv"]


MIXED = 'id,height,note,price\n007,0,"a, ""b""",100\n008,4,"two\r\nlines, or\rthree", 1e2\n009,8,,NaN\n'


def mixed_rows(path):
    with open(path, newline="") as file:
        return list(csv.reader(file))


def test_kept_columns_of_csv_stay_as_they_stand(tmp_path):
    source, there, back = (tmp_path / name for name in ("x.csv", "y.csv", "z.csv"))
    stats = tmp_path / "s.json"
    source.write_text(MIXED, newline="")
    keep = ("price", "id", "note", "id")  # in any order, named twice
    used = standardize_file(source, there, save_stats=stats, keep=keep)
    assert used.feature_names == ["height"]
    assert json.loads(stats.read_text())["feature_names"] == ["height"]
    np.testing.assert_array_equal(used.mean, [4])
    expected, got = mixed_rows(source), mixed_rows(there)
    assert got[0] == expected[0]
    for column in (0, 2, 3):
        assert [row[column] for row in got] == [row[column] for row in expected]
    np.testing.assert_allclose([float(row[1]) for row in got[1:]], [-(1.5**0.5), 0, 1.5**0.5])
    standardize_file(there, back, stats=stats, inverse=True, keep=keep)
    np.testing.assert_allclose([float(row[1]) for row in mixed_rows(back)[1:]], [0, 4, 8], atol=1e-15)
    assert [row[2] for row in mixed_rows(back)] == [row[2] for row in expected]
    with pytest.raises(ValueError, match=r"must have the features \['height'\] of the statistics"):
        standardize_file(source, there, stats=stats, keep=["id", "note"])


def test_kept_columns_across_chunks_and_delimiters(tmp_path, monkeypatch):
    monkeypatch.setattr("nbnorm.statistics.chunks.CHUNK", 1000)
    x = normal((60, 2), mean=3)
    texts = [f"{i},{'long ' * (i % 7 * 20)}" for i in range(60)]
    with open(tmp_path / "x.tsv", "w", newline="") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerows([["a", "text", "b"], *([a, text, b] for (a, b), text in zip(x, texts, strict=True))])
    standardize_file(tmp_path / "x.tsv", tmp_path / "y.csv", keep=["text"])
    rows = mixed_rows(tmp_path / "y.csv")[1:]
    assert [row[1] for row in rows] == texts
    got = [[float(row[0]), float(row[2])] for row in rows]
    np.testing.assert_allclose(got, (x - x.mean(axis=0)) / x.std(axis=0), atol=1e-13)


@pytest.mark.parametrize("name", ["y.tsv", "y.csv.gz", "y.tsv.gz"])
def test_text_with_tabs_and_compressed(tmp_path, name):
    (tmp_path / "x.csv").write_text('a,text\n0,"one\ttab"\n4,two\n')
    standardize_file(tmp_path / "x.csv", tmp_path / name, keep=["text"])
    standardize_file(tmp_path / name, tmp_path / "z.csv", keep=["text"])
    assert mixed_rows(tmp_path / "z.csv") == [["a", "text"], ["-1.0", "one\ttab"], ["1.0", "two"]]
    before = (tmp_path / name).read_bytes()
    (tmp_path / "x.csv").write_text("a,text\n0,x\ny,two\n")
    with pytest.raises(ValueError, match="expected a number"):
        standardize_file(tmp_path / "x.csv", tmp_path / name, keep=["text"])
    assert (tmp_path / name).read_bytes() == before
    with pytest.raises(ValueError, match="destination must end in one of"):
        standardize_file(tmp_path / name, tmp_path / "z.npy.gz")


def test_kept_columns_of_parquet_have_any_type(tmp_path, small_chunks):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    x = normal((300, 2), np.float32, mean=5)
    kinds = [None if i % 5 == 0 else "setosa" if i < 150 else "virginica" for i in range(300)]
    table = pyarrow.table(
        {
            "kind": pyarrow.array(kinds).dictionary_encode(),
            "a": x[:, 0],
            "place": [{"city": "x" * (i % 9), "at": [i]} for i in range(300)],
            "b": x[:, 1],
            "price": pyarrow.array(range(300), pyarrow.int16()),
            "when": pyarrow.array(range(300), pyarrow.timestamp("ms")),
        }
    )
    parquet.write_table(table, tmp_path / "x.parquet", row_group_size=70)
    keep = ["kind", "place", "price", "when"]
    stats = tmp_path / "s.json"
    used = standardize_file(tmp_path / "x.parquet", tmp_path / "y.parquet", save_stats=stats, keep=keep)
    assert used.feature_names == ["a", "b"]
    got = parquet.read_table(tmp_path / "y.parquet")
    assert got.column_names == table.column_names
    assert got.select(keep).cast(table.select(keep).schema).equals(table.select(keep))
    assert got.schema.field("place").type == table.schema.field("place").type
    assert got.schema.field("price").type == pyarrow.int16()
    assert got.schema.field("a").type == pyarrow.float32()
    np.testing.assert_allclose(got["b"].to_numpy(), (x[:, 1] - x[:, 1].mean()) / x[:, 1].std(), atol=1e-5)
    standardize_file(
        tmp_path / "y.parquet", tmp_path / "z.parquet", stats=stats, inverse=True, keep=iter(keep)
    )
    np.testing.assert_allclose(parquet.read_table(tmp_path / "z.parquet")["a"].to_numpy(), x[:, 0], rtol=1e-5)
    with pytest.raises(TypeError, match="column 'kind' must hold real numbers"):
        standardize_file(tmp_path / "x.parquet", tmp_path / "y.parquet", keep=keep[1:])


def test_kept_columns_between_csv_and_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "x.csv").write_text(MIXED, newline="")
    keep = ["id", "note", "price"]
    standardize_file(tmp_path / "x.csv", tmp_path / "y.parquet", keep=keep)
    got = parquet.read_table(tmp_path / "y.parquet")
    expected = mixed_rows(tmp_path / "x.csv")
    assert got["id"].to_pylist() == ["007", "008", "009"]
    assert got["note"].to_pylist() == [row[2] for row in expected[1:]]
    standardize_file(tmp_path / "y.parquet", tmp_path / "z.csv", keep=keep)
    assert [row[2] for row in mixed_rows(tmp_path / "z.csv")] == [row[2] for row in expected]
    table = pyarrow.table(
        {
            "kind": pyarrow.array(["a", None, "b"]).dictionary_encode(),
            "x": [1.0, 2.0, 3.0],
            "n": [10**18, None, 3],
            "pair": [[1], [2], [3]],
        }
    )
    parquet.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"column 'pair' of list<.*> cannot be written as text"):
        standardize_file(tmp_path / "x.parquet", tmp_path / "z.csv", keep=["kind", "n", "pair"])
    parquet.write_table(table.drop_columns(["pair"]), tmp_path / "x.parquet")
    standardize_file(tmp_path / "x.parquet", tmp_path / "z.csv", keep=["kind", "n"])
    rows = mixed_rows(tmp_path / "z.csv")
    assert [[row[0], row[2]] for row in rows] == [["kind", "n"], ["a", str(10**18)], ["", ""], ["b", "3"]]


def test_columns_that_cannot_be_kept(tmp_path):
    (tmp_path / "x.csv").write_text("a,kind\n1,x\n2,y\n")
    files = tmp_path / "x.csv", tmp_path / "y.csv"
    with pytest.raises(ValueError, match=r"x\.csv has no column 'kinds'; it has a, kind"):
        standardize_file(*files, keep=["kind", "kinds"])
    with pytest.raises(ValueError, match="keep must leave a column to standardize"):
        standardize_file(*files, keep=["kind", "a"])
    with pytest.raises(TypeError, match="keep must be column names in a list or tuple, got 'kind'"):
        standardize_file(*files, keep="kind")
    with pytest.raises(ValueError, match=r"line 2, column 'kind': expected a number, got 'x'"):
        standardize_file(*files, keep=["a"])
    for suffix in (".npy", ".npz"):
        with pytest.raises(ValueError, match=r"destination must end in \.csv, .* to keep .*'kind'"):
            standardize_file(files[0], tmp_path / f"y{suffix}", keep=["kind"])
        source = make(tmp_path / f"x{suffix}", np.ones((3, 2)))
        with pytest.raises(ValueError, match=rf"column 'y', and .*x\{suffix} has no column names"):
            standardize_file(source, files[1], keep=["y"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.csv", "x.npy", "x.npz"]


def test_of_two_columns_of_one_name_none_is_kept(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = [pyarrow.array(values) for values in ([1.0, 3.0], ["x", "y"], [2.0, 6.0])]
    parquet.write_table(pyarrow.table(columns, names=["a", "kind", "a"]), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="has several columns 'a'"):
        standardize_file(tmp_path / "x.parquet", tmp_path / "y.parquet", keep=["a"])
    used = standardize_file(tmp_path / "x.parquet", tmp_path / "y.parquet", keep=["kind"])
    np.testing.assert_array_equal(used.mean, [2, 4])
    with parquet.ParquetFile(tmp_path / "y.parquet") as file:
        assert [column.to_pylist() for column in file.read().columns] == [[-1, 1], ["x", "y"], [-1, 1]]


def test_bad_files(tmp_path):
    bad = tmp_path / "x.npy"
    bad.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"x\.npy is not an array file"):
        standardize_file(bad, tmp_path / "y.npy")
    (tmp_path / "x.npz").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"x\.npz is not an NPZ file"):
        standardize_file(tmp_path / "x.npz", tmp_path / "y.npy")
    np.save(bad, np.array([[1.0, np.nan]]))
    with pytest.raises(ValueError, match="row 0, column 1 must be finite, got nan"):
        standardize_file(bad, tmp_path / "y.npy", missing="refuse")
    with pytest.raises(ValueError, match="column '1' holds no value"):
        standardize_file(bad, tmp_path / "y.npy")
    with pytest.raises(ValueError, match="destination must end in one of"):
        standardize_file(bad, tmp_path / "y.doc")
    (tmp_path / "s.json").write_text("{")
    with pytest.raises(ValueError, match=r"s\.json: "):
        standardize_file(bad, tmp_path / "y.npy", stats=tmp_path / "s.json")
    with pytest.raises(ValueError, match="stats must be given"):
        standardize_file(bad, tmp_path / "y.npy", inverse=True)


def test_progress_bars(tmp_path, capsys):
    pytest.importorskip("tqdm")
    source = write_csv(tmp_path / "x.csv", normal((9, 2)))
    standardize_file(source, tmp_path / "y.csv", progress=True)
    assert "writing: 100%" in capsys.readouterr().err
    standardize_file(source, tmp_path / "y.csv", progress=False)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".feather", ".npy"])
def test_gaps_stay_gaps(tmp_path, ending):
    pytest.importorskip("pyarrow")
    (tmp_path / "x.csv").write_text("a,b\n1,2\n,4\n3,NA\n")
    destination = tmp_path / f"y{ending}"
    used = standardize_file(tmp_path / "x.csv", destination, save_stats=tmp_path / "s.json")
    np.testing.assert_array_equal(used.mean, [2, 3])
    expected = [[-1, -1], [np.nan, 1], [1, np.nan]]
    in_npy = ending == ".npy"
    got = np.load(destination) if in_npy else tables.read_table(destination, need_target=False).X
    np.testing.assert_array_equal(got, expected)
    # and back, with statistics that were kept
    standardize_file(destination, tmp_path / "z.npy", stats=tmp_path / "s.json", inverse=True)
    np.testing.assert_array_equal(np.load(tmp_path / "z.npy"), [[1, 2], [np.nan, 4], [3, np.nan]])
    with pytest.raises(ValueError, match="line 3, column 'a': missing value"):
        standardize_file(tmp_path / "x.csv", destination, missing="refuse")


def test_only_some_columns(tmp_path):
    (tmp_path / "x.csv").write_text(",a,b,c\n0,1,2,x\n1,3,4,y\n")
    assert standardize_file(tmp_path / "x.csv", tmp_path / "y.csv", only=["b"]).feature_names == ["b"]
    assert (tmp_path / "y.csv").read_text() == ",a,b,c\n0,1,-1.0,x\n1,3,1.0,y\n"
