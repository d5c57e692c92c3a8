from __future__ import annotations

import gzip
import io

import numpy as np
import pytest

from nbnorm.data import csv_files, tables

TEXT = "length,width,kind\n5.1,3.5,setosa\n6.3,3.25,virginica\n4.9,-3e-2,setosa\n"


@pytest.fixture
def csv_file(tmp_path):
    def write(text, name="data.csv", encoding="utf-8"):
        path = tmp_path / name
        path.write_bytes(text.encode(encoding))
        return path

    return write


@pytest.fixture
def npz_file(tmp_path):
    def write(**arrays):
        np.savez(tmp_path / "data.npz", **arrays)
        return tmp_path / "data.npz"

    return write


def test_read_csv(csv_file):
    got = tables.read_table(csv_file(TEXT))
    np.testing.assert_array_equal(got.X, [[5.1, 3.5], [6.3, 3.25], [4.9, -0.03]])
    assert (got.features, got.target) == (("length", "width"), "kind")
    target = got.encode()
    assert (target.task, target.classes) == ("classification", ("setosa", "virginica"))
    np.testing.assert_array_equal(target.y, [0, 1, 0])


@pytest.mark.parametrize(
    "text",
    [
        TEXT.replace(",", ";"),
        TEXT.replace(",", "\t"),
        TEXT.replace("\n", "\r\n"),
        TEXT + "\n\n",
        TEXT.replace("length", "\ufefflength"),
        TEXT.replace("length", '"length"').replace("5.1", '" 5.1 "').replace("virginica", " virginica "),
    ],
)
def test_read_csv_dialects(csv_file, text):
    got, expected = tables.read_table(csv_file(text)), tables.read_table(csv_file(TEXT))
    np.testing.assert_array_equal(got.X, expected.X)
    assert got.features == expected.features
    assert got.encode().classes == expected.encode().classes


def test_read_csv_target_by_name(csv_file):
    got = tables.read_table(csv_file("a,b,c\n1,x,3\n4,y,6\n"), target="b")
    np.testing.assert_array_equal(got.X, [[1, 3], [4, 6]])
    assert (got.features, got.target, got.values) == (("a", "c"), "b", ["x", "y"])


def test_read_csv_features_by_name(csv_file):
    got = tables.read_table(csv_file(TEXT), features=["width", "length"], need_target=False)
    np.testing.assert_array_equal(got.X[0], [3.5, 5.1])
    assert got.target is None
    assert got.values is None


def test_read_csv_optional_target(csv_file):
    path = csv_file(TEXT)
    got = tables.read_table(path, features=["width"], target="kind", need_target=False)
    assert got.values == ["setosa", "virginica", "setosa"]
    assert tables.read_table(path, features=["width"], target="other", need_target=False).target is None


def test_read_csv_many_rows(csv_file):
    expected = np.random.default_rng(0).normal(size=(500, 7)) * 10.0 ** np.arange(-3, 4)
    file = io.StringIO()
    tables.write_csv(file, {f"c{i}": expected[:, i].tolist() for i in range(7)})
    got = tables.read_table(csv_file(file.getvalue()), need_target=False)
    np.testing.assert_array_equal(got.X, expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "has no header line"),
        ("a,b\n", "has no rows below its header line"),
        ("a,,c\n1,2,3\n", "column 2 has no name"),
        ("a,b,a\n1,2,3\n", "two columns are named 'a'"),
        ("a\n1\n", "needs a feature column beside the target 'a'"),
        ("a,b\n1,2\n3\n", "line 3: got 1 fields, expected 2"),
        ("a,b\n1,2\n\n3,4,5\n", "line 4: got 3 fields, expected 2"),
        ("a,b,c\n1,-inf,3\n", "line 2, column 'b': must be finite, got -inf"),
        ("a,b,c\n" + 10 * "1,2,3\n" + "1,Paris,3\n", "line 12, column 'b': expected a number, got 'Paris'"),
        ("a,b,c\n" + 10 * "1,2,3\n" + f"1,{'x' * 99},3\n", r"got 'x{37}\.\.\.'"),
        ("a,b\n" + 1000 * "true,2\n" + "maybe,2\n", "line 1002, column 'a': expected a boolean, got 'maybe'"),
        ("a,b\n" + 1000 * "1.2.2024,2\n" + "31.2.2024,2\n", "line 1002, column 'a': expected a date"),
        (f"a,b\n{'9' * 200_000},1\n", "line 2, column 'a': must be finite, got inf"),
    ],
)
def test_read_csv_bad_input(csv_file, text, expected):
    with pytest.raises(ValueError, match=expected) as caught:
        tables.read_table(csv_file(text))
    assert "data.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_read_csv_line_after_quoted_line_break(csv_file):
    with pytest.raises(ValueError, match="line 4, column 'a': must be finite"):
        tables.read_table(csv_file('a,b\n1,"two\nlines"\ninf,x\n'))


def test_read_csv_encoding(csv_file):
    with pytest.raises(ValueError, match=r"data\.csv is not UTF-8 text: invalid .* at byte"):
        tables.read_table(csv_file("größe,b\n1,2\n", encoding="latin-1"))


@pytest.mark.parametrize("options", [{"target": "x"}, {"features": ["width", "x"]}])
def test_read_csv_unknown_column(csv_file, options):
    with pytest.raises(ValueError, match="column 'x'; it has length, width, kind"):
        tables.read_table(csv_file(TEXT), **options)


def test_read_table_suffix(tmp_path):
    with pytest.raises(ValueError, match=r"table\.xlsx must be a table that ends in \.csv, \.parquet, "):
        tables.read_table(tmp_path / "table.xlsx")
    with pytest.raises(FileNotFoundError, match=r"table\.csv"):
        tables.read_table(tmp_path / "table.csv")


@pytest.mark.parametrize(
    ("values", "task", "expected", "classes"),
    [
        ("red red blue", "auto", "classification", ("blue", "red")),
        ("3 1 1", "auto", "classification", (1, 3)),
        ("3.0 1.0 1.0", "auto", "classification", ("1.0", "3.0")),
        ("1e300 1 1", "auto", "regression", None),
        ("0.5 1 1", "auto", "regression", None),
        ("3 1 1", "regression", "regression", None),
        ("1 2 x", "auto", "classification", ("1", "2", "x")),
        (" ".join(str(i) for i in range(20)), "auto", "classification", tuple(range(20))),
        (" ".join(str(i) for i in range(21)), "auto", "regression", None),
        (" ".join(str(i) for i in range(21)), "classification", "classification", tuple(range(21))),
        ("None other None", "auto", "classification", ("None", "other")),
    ],
)
def test_encode_task(csv_file, values, task, expected, classes):
    rows = "".join(f"{i},{value}\n" for i, value in enumerate(values.split()))
    got = tables.read_table(csv_file("a,b\n" + rows)).encode(task)
    assert (got.task, got.classes) == (expected, classes)
    if classes is None:
        np.testing.assert_array_equal(got.y, [float(value) for value in values.split()])
    else:
        assert [str(classes[i]) for i in got.y] == values.split()


@pytest.mark.parametrize(
    ("values", "task", "expected"),
    [
        (["x", ""], "auto", "line 3, column 'b': the target is missing"),
        (["1", "NA"], "auto", "line 3, column 'b': the target is missing"),
        (["1", "x"], "regression", "line 3, column 'b': expected a number, got 'x'"),
        (["1", "inf"], "regression", "line 3, column 'b': must be finite, got inf"),
        (["0", "1"], "other", "task must be one of 'auto'"),
    ],
)
def test_encode_bad_input(csv_file, values, task, expected):
    rows = "".join(f"{i},{value}\n" for i, value in enumerate(values))
    table = tables.read_table(csv_file("a,b\n" + rows))
    with pytest.raises(ValueError, match=expected):
        table.encode(task)


@pytest.mark.parametrize(
    ("column", "classes", "numbers", "unseen"),
    [
        (["x", " y", "", "z"], ("x", "y"), [0, 1, -1, 2], {"z": 1}),
        (["7", "5.0", "", "6", "6", "NA"], (5, 7), [1, 2, -1, 2, 2, -1], {"6": 2, "5.0": 1}),
        (["7", "5.0", "", "6"], ("5.0", "7"), [1, 0, -1, 2], {"6": 1}),
        (["NA", "none", "x"], ("NA", "x"), [0, 2, 1], {"none": 1}),
    ],
)
def test_class_numbers(csv_file, column, classes, numbers, unseen):
    table = tables.read_table(csv_file("a,b\n" + "".join(f"1,{value}\n" for value in column)))
    got = table.class_numbers(classes)
    assert (got[0].tolist(), got[1]) == (numbers, unseen)


def test_numbers(csv_file, npz_file):
    table = tables.read_table(csv_file("a,b\n1,7\n2,x\n3,\n"))
    np.testing.assert_array_equal(table.numbers(), [7, np.nan, np.nan])
    table = tables.read_table(npz_file(X=np.ones((2, 1)), y=np.array([3, 4])))
    np.testing.assert_array_equal(table.numbers(), [3.0, 4.0])


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64, np.int16, bool])
def test_read_npz(npz_file, dtype):
    expected = np.arange(24).reshape(2, 3, 4).astype(dtype)
    got = tables.read_table(npz_file(X=expected, y=np.array([3, 5])))
    assert got.X.dtype == dtype
    np.testing.assert_array_equal(got.X, expected.reshape(2, 12))
    assert got.encode().classes == (3, 5)


@pytest.mark.parametrize(
    ("y", "task", "classes"),
    [
        (np.array(["b", "a"]), "classification", ("a", "b")),
        (np.array([b"b", b"a"]), "classification", ("a", "b")),
        (np.array([[1], [0]]), "classification", (0, 1)),
        (np.array([True, False]), "classification", (0, 1)),
        (np.array([1.5, 0.0]), "regression", None),
        (np.array([[1.5, 0.0], [1.0, 2.0]]), "regression", None),
    ],
)
def test_read_npz_targets(npz_file, y, task, classes):
    table = tables.read_table(npz_file(X=np.ones((2, 1)), y=y))
    got = table.encode()
    assert (got.task, got.classes) == (task, classes)
    if classes is None:
        np.testing.assert_array_equal(got.y, y)
    else:
        np.testing.assert_array_equal(table.class_numbers(classes)[0], got.y)
        assert got.y.tolist() == [1, 0]


def test_read_npz_without_target(npz_file):
    path = npz_file(X=np.ones((2, 1)))
    assert tables.read_table(path, need_target=False).values is None
    with pytest.raises(ValueError, match="must hold an array 'y'; it holds X"):
        tables.read_table(path)


X = np.ones((2, 3))


@pytest.mark.parametrize(
    ("arrays", "error", "expected"),
    [
        ({"x": X}, ValueError, "must hold an array 'X'; it holds x"),
        ({"X": X, "y": np.ones(3)}, ValueError, "same length: X has 2, y has 3"),
        ({"X": np.ones(2), "y": np.ones(2)}, ValueError, r"X must have shape .* got shape \(2,\)"),
        ({"X": np.ones((0, 2)), "y": np.ones(0)}, ValueError, "X must have shape"),
        (
            {"X": X * np.inf, "y": np.ones(2)},
            ValueError,
            r"row 0, column 'X\[:, 0\]': must be finite, got inf",
        ),
        ({"X": X * 1j, "y": np.ones(2)}, TypeError, "X must hold real numbers, got dtype complex128"),
        ({"X": np.array([["a"]]), "y": np.ones(1)}, TypeError, "X must hold real numbers"),
        ({"X": np.array([[{}]]), "y": np.ones(1)}, ValueError, "'X' holds Python objects"),
        ({"X": X, "y": np.array([1, {}])}, ValueError, "'y' holds Python objects"),
        ({"X": X, "y": X * 1j}, ValueError, "y must hold numbers or text"),
        ({"X": X, "y": np.ones((2, 2, 2))}, ValueError, "y must have shape"),
        ({"X": X, "y": np.array([["a", "b"]] * 2)}, ValueError, "y must have shape"),
    ],
)
def test_read_npz_bad_input(npz_file, arrays, error, expected):
    with pytest.raises(error, match=expected) as caught:
        tables.read_table(npz_file(**arrays))
    assert "data.npz" in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"text", b"PK\x03\x04", b"\x93NUMPY\x01\x00"])
def test_read_npz_foreign(tmp_path, data):
    path = tmp_path / "data.npz"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"data\.npz (is not an NPZ file|must hold)"):
        tables.read_table(path)


def test_read_npz_truncated(npz_file):
    path = npz_file(X=X, y=np.ones(2))
    data = path.read_bytes()
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"data\.npz"):
            tables.read_table(path)


def test_encode_npz_bad_input(npz_file):
    text = tables.read_table(npz_file(X=X, y=np.array(["a", "b"])))
    with pytest.raises(ValueError, match="y must hold numbers for regression, got text"):
        text.encode("regression")
    none = tables.read_table(npz_file(X=X), need_target=False)
    with pytest.raises(ValueError, match="has no target to train on"):
        none.encode()


def test_write_csv_reads_back():
    file = io.StringIO()
    tables.write_csv(file, {"a": ["x,y", 'q"'], "b": [0.1, 1e-300]})
    assert file.getvalue() == 'a,b\n"x,y",0.1\n"q""",1e-300\n'


COLUMNS = """age,city,day,member,code
31,Rome,2024-02-29,true,0012
,,,,
22,Oslo,2024-03-01T12:00:00+02:00,False,7
"""


def test_read_csv_columns_of_all_kinds(csv_file):
    got = tables.read_table(csv_file(COLUMNS), need_target=False, categories=["code"]).data
    np.testing.assert_array_equal(got["age"], [31.0, np.nan, 22.0])
    assert got["city"].tolist() == ["Rome", None, "Oslo"]
    expected = np.array(["2024-02-29", "NaT", "2024-03-01T10:00"], "datetime64[us]")
    np.testing.assert_array_equal(got["day"], expected)
    np.testing.assert_array_equal(got["member"], [1.0, np.nan, 0.0])
    assert got["code"].tolist() == ["0012", None, "7"]


@pytest.mark.parametrize(
    ("text", "options", "features", "first"),
    [
        (",a,b\n0,1,2\n1,3,4\n", {}, ("a", "b"), [1, 2]),
        ("Unnamed: 0,a,b\n0,1,2\n", {}, ("a", "b"), [1, 2]),
        ("0,1,2\n1.5,3,4\n", {}, ("0", "1", "2"), [1.5, 3, 4]),
        ("1.5,2\n3,4\n", {}, ("x0", "x1"), [1.5, 2]),
        ("0,1\n2,3\n", {"header": False}, ("x0", "x1"), [0, 1]),
        ("5,6\n2,3\n", {"header": True}, ("5", "6"), [2, 3]),
        ("a;b\n1,5;2\n", {}, ("a", "b"), [1.5, 2]),
        ("a;b\n1,5;2.5\n", {"decimal": "."}, None, "category"),
        ("a|b\n1,5|2\n", {"delimiter": "|", "decimal": ","}, ("a", "b"), [1.5, 2]),
        ("# note\na,b\n1,2\n#end\n", {"comment": "#"}, ("a", "b"), [1, 2]),
    ],
)
def test_read_csv_as_programs_write_it(csv_file, text, options, features, first):
    table = tables.read_table(
        csv_file(text), need_target=False, options=csv_files.CsvOptions(**options) if options else None
    )
    if features is None:
        assert isinstance(table.data, dict)
        return
    assert table.features == features
    np.testing.assert_array_equal(table.X[0], first)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_read_csv_encodings(csv_file, encoding):
    path = csv_file("größe,b\n1,2\n", encoding=encoding)
    options = csv_files.CsvOptions(encoding="cp1252") if encoding == "cp1252" else None
    assert tables.read_table(path, need_target=False, options=options).features == ("größe", "b")


@pytest.mark.parametrize(
    "option",
    [{"delimiter": ",,"}, {"decimal": "x"}, {"encoding": "hex"}, {"comment": '"'}, {"delimiter": "."}],
)
def test_options_are_checked(option):
    with pytest.raises(ValueError, match=f"{next(iter(option))} "):
        csv_files.CsvOptions(**option)


def test_read_csv_compressed(tmp_path, monkeypatch):
    path = tmp_path / "x.csv.gz"
    path.write_bytes(gzip.compress(b"a,b\n1,2\n"))
    np.testing.assert_array_equal(tables.read_table(path, need_target=False).X, [[1, 2]])
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"x\.csv\.gz is not a CSV file: it is damaged"):
        tables.read_table(path)
    monkeypatch.setattr("nbnorm._files.MOST_UNPACKED", 1 << 20)
    path.write_bytes(gzip.compress(b"a,b\n" + b"1" * 9_000_000))
    with pytest.raises(ValueError, match="unpacks to more than 1 MiB and 100 times its size"):
        tables.read_table(path)


@pytest.mark.parametrize("ending", [".parquet", ".feather"])
def test_read_arrow(tmp_path, ending):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pandas.read_csv(io.StringIO(COLUMNS), parse_dates=False)
    frame["city"] = frame["city"].astype("category")
    path = tmp_path / f"x{ending}"
    getattr(frame, f"to_{ending[1:]}")(path)
    got = tables.read_table(path, target="city", categories=["code"])
    np.testing.assert_array_equal(got.data["age"], [31.0, np.nan, 22.0])
    assert got.data["code"].tolist() == ["12", None, "7"]
    assert got.values == ["Rome", "", "Oslo"]
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"is not an? (Parquet|Arrow) file: it is damaged"):
        tables.read_table(path)


def test_the_index_of_a_frame_is_left_out(tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    path = tmp_path / "x.parquet"
    pandas.DataFrame({"id": [5, 9, 6], "a": [1, 2, 3], "b": [3, 4, 5]}).set_index("id").to_parquet(path)
    table = tables.read_table(path)
    assert (table.features, table.target) == (("a",), "b")
    assert tables.read_table(path, features=["id"], need_target=False).X.tolist() == [[5], [9], [6]]


@pytest.mark.parametrize(
    ("options", "features", "target"),
    [
        ({"only": ["a"], "target": "c"}, ("a",), "c"),
        ({"without": ["a"]}, ("b",), "c"),
        ({"without": ["c"]}, ("a",), "b"),
    ],
)
def test_only_and_without(csv_file, options, features, target):
    table = tables.read_table(csv_file("a,b,c\n1,2,3\n"), **options)
    assert (table.features, table.target) == (features, target)
    with pytest.raises(ValueError, match="has no column 'z'; it has a, b, c"):
        tables.read_table(csv_file("a,b,c\n1,2,3\n"), only=["z"])


def test_columns_are_looked_up_and_not_searched(tmp_path):
    class Counted(str):
        compared = 0

        def __eq__(self, other):
            Counted.compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    names = [Counted(f"gene {k}") for k in range(2000)]
    chosen = tables.choose_columns("a.csv", names, ())
    assert chosen.features == names
    assert Counted.compared < 20 * len(names)
