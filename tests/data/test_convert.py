import gzip

import numpy as np
import pytest

from nbnorm.data import csv_files
from nbnorm.data.convert import convert_file
from nbnorm.data.tables import read_table

pytest.importorskip("pyarrow")

TEXT = """age;income;city;member
31;1,5;Rome;true
;2,0;;false
22;;"a;b";true
"""


@pytest.fixture
def source(tmp_path):
    (tmp_path / "x.csv").write_text(TEXT)
    return tmp_path / "x.csv"


@pytest.mark.parametrize("ending", [".parquet", ".feather", ".arrow", ".ipc"])
def test_csv_to_arrow_and_back(source, tmp_path, ending):
    there = tmp_path / f"x{ending}"
    found = convert_file(source, there)
    assert found["columns"] == {"age": "int64", "income": "double", "city": "string", "member": "bool"}
    assert (found["rows"], len(found["notes"])) == (3, 2)
    convert_file(there, tmp_path / "y.csv")
    expected = "age,income,city,member\n31,1.5,Rome,True\n,2.0,,False\n22,,a;b,True\n"
    assert (tmp_path / "y.csv").read_text() == expected


def test_numbers_to_npz_and_back(tmp_path):
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(b"a,b,kind\n1,2.5,x\n3,,y\n"))
    convert_file(tmp_path / "x.csv.gz", tmp_path / "x.npz", target="kind")
    with np.load(tmp_path / "x.npz") as got:
        np.testing.assert_array_equal(got["X"], [[1, 2.5], [3, np.nan]])
        assert got["y"].tolist() == ["x", "y"]
    convert_file(tmp_path / "x.npz", tmp_path / "y.csv")
    assert (tmp_path / "y.csv").read_text() == "x0,x1,y\n1.0,2.5,x\n3.0,,y\n"


@pytest.mark.parametrize("ending", [".csv.gz", ".tsv", ".tsv.gz"])
def test_written_text_is_read_again(tmp_path, ending):
    expected = 'x,note\n1,"a,b"\n2,"tab\there"\n3,"line\nbreak"\n4,\n'
    (tmp_path / "x.csv").write_text(expected)
    for name in ("y", "z"):
        convert_file(tmp_path / "x.csv", tmp_path / f"{name}{ending}")
    content = (tmp_path / f"y{ending}").read_bytes()
    assert content == (tmp_path / f"z{ending}").read_bytes()
    if ending.endswith(".gz"):
        content = gzip.decompress(content)
    assert content.startswith(b"x\tnote" if ".tsv" in ending else b"x,note")
    convert_file(tmp_path / f"y{ending}", tmp_path / "x.parquet")
    convert_file(tmp_path / "x.parquet", tmp_path / "again.csv")
    again = read_table(tmp_path / "again.csv", target="x").data["note"].tolist()
    assert again == ["a,b", "tab\there", "line\nbreak", None]


@pytest.mark.parametrize(
    ("destination", "options", "expected"),
    [
        ("y.doc", {}, "y.doc must end in one of .csv, .tsv, .parquet"),
        ("y.parquet.gz", {}, "; .gz may stand behind .csv and .tsv"),
        ("y.npz", {}, "column 'city' holds no numbers for NPZ"),
        ("y.csv", {"target": "age"}, "target 'age' is for a destination that ends in .npz"),
        ("y.npz", {"target": "z"}, "has no target column 'z'; it has age"),
        ("y.csv", {"only": ["z"]}, "has no column 'z'; it has age"),
        ("y.parquet", {"options": csv_files.CsvOptions(delimiter=";", decimal=".")}, "expected a number|"),
    ],
)
def test_nothing_is_written_where_it_fails(source, tmp_path, destination, options, expected):
    if "options" in options:
        source.write_text("a;b\n" + "1;2\n" * 1000 + "1;x\n")
        expected = "line 1002, column 'b': expected a number, got 'x'"
    with pytest.raises(ValueError, match=expected.replace(".", r"\.")):
        convert_file(source, tmp_path / destination, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["x.csv"]
