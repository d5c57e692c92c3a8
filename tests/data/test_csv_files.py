"""Rules of CSV files, through the functions that read and write them."""

from __future__ import annotations

import io
import os
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbnorm.data import tables
from nbnorm.data.streams import standardize_file


def read(path, text, **options):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return tables.read_table(path, **{"need_target": False, **options})


@pytest.fixture(params=[tables.read_table, standardize_file], ids=["table", "stream"])
def names_of(request, tmp_path):
    """Return a function that reads a file in one of the two ways and gives the names of its columns."""

    def names(text, name="x.csv"):
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        if request.param is standardize_file:
            return standardize_file(tmp_path / name, tmp_path / "y.npy", progress=False).feature_names
        return list(tables.read_table(tmp_path / name, need_target=False).features)

    return names


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ('"x\n(m)",y\n1,2\n3,4\n', "x.csv", ["x\n(m)", "y"]),
        ('"x\r\n(m)",y\r\n1,2\r\n3,4\r\n', "x.csv", ["x\r\n(m)", "y"]),
        ('"a ""b""",y\n1,2\n', "x.csv", ['a "b"', "y"]),
        ("temp, C\ty\n1\t2\n3\t4\n", "x.tsv", ["temp, C", "y"]),
        ("temp, C\n1\n3\n", "x.tsv", ["temp, C"]),
        ("temp, C\ty\n1\t2\n3\t4\n", "x.txt", ["temp, C", "y"]),
        ('"Preis, EUR";y\n1;2\n3;4\n', "x.csv", ["Preis, EUR", "y"]),
        ("Preis, EUR;y\n1;2\n3;4\n", "x.csv", ["Preis, EUR", "y"]),
        ("x,y\r1,2\r3,4\r", "x.csv", ["x", "y"]),
        ("\ufeffx,y\n1,2\n", "x.csv", ["x", "y"]),
        ('\ufeff"x",y\n1,2\n', "x.csv", ["x", "y"]),
        ("\n  \nx,y\n\n1,2\n   \n\n", "x.csv", ["x", "y"]),
        ("x , y\n 1 , 2\n", "x.csv", ["x", "y"]),
        ('" x","y "\n1,2\n', "x.csv", [" x", "y "]),
        ("x,y,\n1,2,\n3,4\n", "x.csv", ["x", "y"]),
        ('"1","2"\n3,4\n', "x.csv", ["1", "2"]),
        ("#x,y\n1,2\n", "x.csv", ["#x", "y"]),
        ('height 5" pipe,y\n1,2\n', "x.csv", ['height 5" pipe', "y"]),
        ("x,y\n1,2", "x.csv", ["x", "y"]),
        ('x,y\n"1","2"\n3,"4" \n', "x.csv", ["x", "y"]),
    ],
)
def test_headers(names_of, text, name, expected):
    assert names_of(text, name) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('x,y\n1,2\n3,"4\n5,6\n', "x.csv is not a CSV file: the quote that opens in line 3 is never closed"),
        ('x,y\n"1\n",2\n3,"4', "the quote that opens in line 4 is never closed"),
        ('"x,y\n1,2\n', "the quote that opens in line 1 is never closed"),
        ('x,y\n1,"2\n3,"4"\n', r"opens in line 2 is closed in line 3 with text behind it, '4\"'"),
        ('x,y\n1,"2"3\n', "opens in line 2 is closed in line 2 with text behind it, '3'"),
        ("x,y\n1,2\n3,4,5\n", "x.csv, line 3: got 3 fields, expected 2"),
        ("x,y,\n1,2,3\n", "x.csv, line 2: got 3 fields, expected 2"),
        ('x,y\n"1\n",2\n3\n', "x.csv, line 4: got 1 fields, expected 2"),
        ("x,y\n1,2\n3,\0\n", "line 3 has a NUL byte"),
        ('x,y\n1,2\n3,"\n\0"\n', "line 4 has a NUL byte"),
        ("x,y\n1,2\n".encode("utf-16-le"), "line 1 has a NUL byte: it may be UTF-16"),
        (b"x,y\n1,2\n" * 3000 + b"3,\xe4\n", "UTF-8 text: .* at byte 3 of line 6001; save it as UTF-8"),
        ("x,y\n" + "1,2\n" * 10 + "1,1_0\n", "line 12, column 'y': expected a number, got '1_0'"),
        ("x,y\n" + "1,2\n" * 10 + "1,١\n", "line 12, column 'y': expected a number, got '١'"),
        ("x,y\n" + "1,2\n" * 10 + "1,\N{NO-BREAK SPACE}1\n", "line 12, column 'y': expected a number"),
        ("x,y\n" + "1,2\n" * 10 + "1,0x10\n", "line 12, column 'y': expected a number, got '0x10'"),
        ("x,y\n" + "1,2\n" * 10 + "1,1 00\n", "line 12, column 'y': expected a number, got '1 00'"),
        ("x,y\n1,infinity\n", "line 2, column 'y': must be finite, got inf"),
        ("x,y\n1,1e400\n", "line 2, column 'y': must be finite, got inf"),
    ],
)
def test_bad_files_are_named(names_of, text, expected):
    with pytest.raises(ValueError, match=expected) as caught:
        names_of(text)
    assert "x.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_numbers(tmp_path):
    got = read(tmp_path / "x.csv", "a,b,c,d\n+1, 2 ,\t.5,-3.E2\n")
    np.testing.assert_array_equal(got.X, [[1, 2, 0.5, -300]])


def test_fields_of_any_length(tmp_path):
    long = "a" * 140_000 + '"'
    text = f"x,kind\n1,{long}\n2,b\n".replace(long, '"' + long.replace('"', '""') + '"')
    got = read(tmp_path / "x.csv", text, target="kind")
    assert got.encode().classes == (long, "b")
    standardize_file(tmp_path / "x.csv", tmp_path / "y.csv", keep=["kind"])
    assert tables.read_table(tmp_path / "y.csv").values == [long, "b"]


@pytest.mark.parametrize("features", [None, True])
def test_time_is_linear_in_the_columns(tmp_path, features):
    """Count the lines of code that run, rather than the time that they take."""
    steps = []
    for p in (500, 1000):
        names = [f"gene_{i}" for i in range(p)]
        (tmp_path / "x.csv").write_text(",".join(names) + "\n" + ",".join(["1"] * p) + "\n")
        steps.append(0)

        def count(frame, event, argument):
            steps[-1] += 1
            return count

        before = sys.gettrace()
        sys.settrace(count)
        try:
            tables.read_table(tmp_path / "x.csv", features=features and names, need_target=False)
        finally:
            sys.settrace(before)
    assert steps[1] < 2.1 * steps[0]


def test_labels_stand_as_they_are_written(tmp_path):
    for labels in (["1_0", "1_1"], ["10", "1e1"], ["1", "01", "007"], ["1", "1.0"], ["1", "+1"], ["١", "1"]):
        rows = "".join(f"{i},{label}\n" for i, label in enumerate(labels * 2))
        target = read(tmp_path / "x.csv", "x,y\n" + rows, target="y").encode()
        assert target.task == "classification"
        assert sorted(target.classes) == sorted(labels)
        assert [target.classes[i] for i in target.y] == labels * 2


@pytest.mark.parametrize(
    ("values", "task", "expected"),
    [
        ("2 10 1", "auto", (1, 2, 10)),
        ("2 10 01", "auto", ("01", "2", "10")),
        ("b 10 2", "auto", ("10", "2", "b")),
        ("0.5 1.5 0.5", "classification", ("0.5", "1.5")),
        ("0.5 1.5 0.5", "auto", None),
        ("1 2 1", "regression", None),
        ("-1 -2 0", "auto", (-2, -1, 0)),
        ("-0 0 1", "auto", ("-0", "0", "1")),
        ("12345678901234567890 1", "classification", ("1", "12345678901234567890")),
    ],
)
def test_tasks_and_the_order_of_classes(tmp_path, values, task, expected):
    rows = "".join(f"{i},{value}\n" for i, value in enumerate(values.split()))
    assert read(tmp_path / "x.csv", "x,y\n" + rows, target="y").encode(task).classes == expected


def test_quoted_white_space_makes_another_label(tmp_path):
    got = read(tmp_path / "x.csv", 'x,y\n1, a \n2," a "\n3,"a"\n', target="y").encode()
    assert got.classes == (" a ", "a")
    assert got.y.tolist() == [1, 0, 1]


# Any text but NUL and halves of surrogate pairs, which no UTF-8 file has.
TEXTS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0")
    | st.sampled_from(list(',;\t"\r\n \ufeff#1._')),
    min_size=1,
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(names=st.lists(TEXTS, min_size=1, max_size=4, unique=True))
def test_any_column_names_are_read_again(tmp_path_factory, names):
    path = tmp_path_factory.mktemp("names") / "x.csv"
    file = io.StringIO(newline="")
    tables.write_csv(file, {name: [float(i), 2.0] for i, name in enumerate(names)})
    path.write_text(file.getvalue(), encoding="utf-8", newline="")
    assert list(tables.read_table(path, need_target=False).features) == names
    # standardized, and standardized again from what that wrote
    there, back = path.with_name("y.csv"), path.with_name("z.csv")
    assert standardize_file(path, there, progress=False).feature_names == names
    assert standardize_file(there, back, progress=False).feature_names == names


@settings(max_examples=60, deadline=None)
@given(labels=st.lists(TEXTS, min_size=1, max_size=5, unique=True))
def test_any_labels_are_read_again(tmp_path_factory, labels):
    labels = [*labels, "text"]  # with a label that is no number, all labels are text
    path = tmp_path_factory.mktemp("labels") / "x.csv"
    file = io.StringIO(newline="")
    tables.write_csv(file, {"x": [float(i) for i in range(len(labels))], "prediction": labels})
    path.write_text(file.getvalue(), encoding="utf-8", newline="")
    table = tables.read_table(path)
    target = table.encode()
    assert [target.classes[i] for i in target.y] == labels
    np.testing.assert_array_equal(table.class_numbers(target.classes)[0], target.y)
    standardize_file(path, path.with_name("y.csv"), keep=["prediction"], progress=False)
    assert tables.read_table(path.with_name("y.csv")).encode().classes == target.classes


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"": [1.0]}, "column 1 has no name"),
        ({"a": ["x\0"]}, "NUL character"),
    ],
)
def test_what_could_not_be_read_is_not_written(columns, expected):
    with pytest.raises(ValueError, match=expected):
        tables.write_csv(io.StringIO(), columns)


def test_column_names_of_parquet_that_csv_cannot_hold(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    for names, expected in ((["a", ""], "column 2 has no name"), (["a", "a"], "two columns are named 'a'")):
        parquet.write_table(pyarrow.table([[1.0, 2.0], [3.0, 5.0]], names=names), tmp_path / "x.parquet")
        with pytest.raises(ValueError, match=expected):
            standardize_file(tmp_path / "x.parquet", tmp_path / "y.csv")
    assert os.listdir(tmp_path) == ["x.parquet"]


@pytest.mark.parametrize("text", ["x,y\n1,2\n3e200,4\n", "x,y\n1e-200,2\n3e-200,4\n"])
def test_values_beyond_float64_are_refused(tmp_path, text):
    with pytest.raises(ValueError, match=r"x\.csv: column 'x' has values up to 3e[+-]200"):
        read(tmp_path / "x.csv", text)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble, np.int64])
def test_floats_of_every_width_have_a_range(tmp_path, dtype):
    x = np.array([[1, 2], [3, 4]], dtype)
    np.savez(tmp_path / "x.npz", X=x)
    assert tables.read_table(tmp_path / "x.npz", need_target=False).X.dtype == dtype
    if np.dtype(dtype).itemsize >= 8 and x.dtype.kind == "f":
        np.savez(tmp_path / "x.npz", X=x * dtype(1e200))
        with pytest.raises(ValueError, match=r"x\.npz: column 'X\[:, 0\]' has values up to 3e\+200"):
            tables.read_table(tmp_path / "x.npz", need_target=False)
