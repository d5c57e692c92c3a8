import json

import pytest

pytest.importorskip("pyarrow")


def test_convert(run, flowers, folder):
    status, out, _ = run("convert", flowers, "flowers.parquet", "--except", "width", "--json")
    assert status == 0
    assert json.loads(out)["columns"] == {"length": "double", "kind": "string"}
    status, out, _ = run("convert", "flowers.parquet", "again.csv")
    assert out == "Converted flowers.parquet, 60 rows of 2 columns: again.csv\n"
    status, _, err = run("convert", flowers, "flowers.csv")
    assert (status, "would be overwritten while it is read" in err) == (2, True)
