"""What the columns of tables become."""

import datetime
import decimal
import json

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from nbnorm import ColumnEncoder
from nbnorm.data.columns import Column, TableColumns, encoded_names, is_frame, read_columns

nan = np.nan
DAY = datetime.datetime(1970, 1, 3, 6)

# Values of a column, and what they are read as.
COLUMNS = {
    "whole": ([1, 2, 3, 4], "number", [1, 2, 3, 4]),
    "gap": ([1.5, None, 3.0, 4.0], "number", [1.5, nan, 3, 4]),
    "few": ([1, None, 3, 4], "number", [1, nan, 3, 4]),
    "flag": ([True, False, True, True], "boolean", [1, 0, 1, 1]),
    "flag with a gap": ([True, None, False, True], "number", [1, nan, 0, 1]),
    "text": (["b", "a", None, "b"], "category", [1, 0, nan, 1]),
    "day": ([datetime.date(1970, 1, 2), None, datetime.date(1969, 12, 31)] * 2, "date", [1, nan, -1] * 2),
    "time": ([DAY, None, DAY, DAY], "date", [2.25, nan, 2.25, 2.25]),
    "span": ([datetime.timedelta(hours=36), None] * 2, "duration", [1.5, nan] * 2),
    "nothing": ([None] * 4, "empty", [nan] * 4),
}


def in_library(library, values):
    if library == "mapping":
        return {"x": values}
    frames = pytest.importorskip(library)
    if library == "pyarrow":
        return frames.table({"x": values})
    if library == "polars":
        return frames.DataFrame({"x": values})
    return frames.DataFrame({"x": values}, dtype=None)


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow", "mapping"])
@pytest.mark.parametrize("which", COLUMNS)
def test_every_library_gives_the_same(library, which):
    values, kind, expected = COLUMNS[which]
    table = in_library(library, values)
    assert is_frame(table)
    columns = TableColumns().fit(table)
    got = columns.columns_[0]
    assert got.kind == kind or (which == "flag with a gap" and got.kind == "boolean")
    assert_array_equal(columns.transform(table)[:, 0], expected)
    assert got.name == "x"


def test_categories_of_every_library():
    pd, pl, pa = (pytest.importorskip(name) for name in ("pandas", "polars", "pyarrow"))
    values = ["low", "high", None, "low"]
    tables = [
        pd.DataFrame({"x": pd.Categorical(values, ["low", "mid", "high"])}),
        pd.DataFrame({"x": pd.Series(values, dtype="string")}),
        pd.DataFrame({"x": pd.Series(values, dtype="string[pyarrow]")}),
        pd.DataFrame({"x": pd.Series(values, dtype=pd.ArrowDtype(pa.string()))}),
        pl.DataFrame({"x": values}, schema={"x": pl.Categorical}),
        pl.DataFrame({"x": values}, schema={"x": pl.Enum(["low", "mid", "high"])}),
        pa.table({"x": pa.array(values).dictionary_encode()}),
        pa.table({"x": pa.array(values, pa.large_string())}),
        np.array(values, object)[:, None],
        {"x": np.array(values, object)},
    ]
    first = TableColumns().fit(tables[0])
    for table in tables:
        assert TableColumns().fit(table).columns_[0].levels == ("high", "low")
        assert_array_equal(first.transform(table), [[1], [0], [nan], [1]])
    numbers = pd.DataFrame({"x": pd.Categorical([30, 4, None])})
    assert TableColumns().fit(numbers).columns_[0].levels == (4, 30)
    assert_array_equal(TableColumns().fit(numbers).transform({"x": [30.0, 5.0, nan]}), [[1], [-1], [nan]])
    parts = pd.DataFrame({"x": pd.cut([1.0, 5.0, 9.0], 3)})
    assert len(TableColumns().fit(parts).columns_[0].levels) == 3


def test_times_of_any_unit_and_zone():
    pd, pl = pytest.importorskip("pandas"), pytest.importorskip("polars")
    stamps = np.array(["2024-02-29T23:59:59.123456", "NaT", "1931-05-17T01:02:03.000001"], "datetime64[us]")
    first = stamps[0].item().replace(tzinfo=datetime.timezone.utc)
    zone = datetime.timezone(datetime.timedelta(hours=2))
    expected = TableColumns().fit({"x": stamps}).transform({"x": stamps})
    for table in (
        pd.DataFrame({"x": stamps.astype("datetime64[ns]")}),
        pd.DataFrame({"x": pd.Series(stamps).dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo")}),
        pl.DataFrame({"x": stamps}).with_columns(pl.col("x").cast(pl.Datetime("ns"))),
        {"x": [first.astimezone(zone), None, stamps[2].item()]},
    ):
        assert_array_equal(TableColumns().fit(table).transform(table), expected)
    assert expected[0, 0] == 19782 + (86399 + 0.123456) / 86400
    assert_array_equal(read_columns("X", {"x": stamps.astype("datetime64[M]")})[1][0].numbers[[0]], 19754)


def test_rare_and_new_levels():
    values = np.repeat(["a", "b", "c", "d"], [30, 12, 9, 1])
    columns = TableColumns(min_frequency=10).fit({"x": values})
    assert columns.columns_ == [Column("x", "category", ("a", "b"), ("c", "d"))]
    assert_array_equal(columns.transform({"x": ["b", "d", "c", "e", None]})[:, 0], [1, 2, 2, -1, nan])
    assert TableColumns().fit({"x": values}).columns_[0].infrequent == ()  # one of 52 rows is enough
    weighted = TableColumns(min_frequency=10).fit({"x": values}, weights=np.where(values == "c", 2.0, 1.0))
    assert weighted.columns_[0].levels == ("a", "b", "c")
    without = TableColumns().fit({"x": values}, weights=(values != "d").astype(float))
    assert without.columns_[0].levels == ("a", "b", "c")


@pytest.mark.parametrize("chosen", [[True, False], [0], ["x"], np.array([True, False])])
def test_named_and_masked_categories(chosen):
    table = {"x": [7, 5, 7], "y": [1.0, 2.0, 3.0]}
    columns = TableColumns(chosen).fit(table)
    assert columns.categorical_ == [0]
    assert columns.columns_[0].levels == (5, 7)
    assert_array_equal(columns.transform({"y": [1.0], "x": [7]}), [[1, 1]])  # by name, in any order


def test_float32_where_that_is_exact():
    small = {"x": np.ones(2, np.float32), "y": ["a", "b"], "z": np.array([1, 2], np.int16)}
    assert TableColumns().fit(small).dtype_ == np.float32
    assert TableColumns().fit(small | {"t": np.array([1, 2])}).dtype_ == np.float64


def test_later_tables_hold_the_same():
    table = {"n": [1, 2], "c": ["a", "b"], "d": [DAY, DAY], "e": [None, None], "k": [True, False]}
    columns = TableColumns().fit(table)
    for name, values in [
        ("n", ["a", "b"]),
        ("c", [1, 2]),
        ("d", [1, 2]),
        ("k", ["a", None]),
        ("d", ["x", "y"]),
    ]:
        with pytest.raises(TypeError, match=f"column '{name}' must hold"):
            columns.transform(table | {name: values})
    later = columns.transform(
        {"n": [True, False], "c": [None] * 2, "d": [None] * 2, "e": ["x", None], "k": [1, 0]}
    )
    assert_array_equal(later, [[1, nan, nan, 0, 1], [0, nan, nan, nan, 0]])
    with pytest.raises(ValueError, match=r"\['c'\] missing"):
        columns.transform({name: values for name, values in table.items() if name != "c"})
    with pytest.raises(ValueError, match="must have 5 columns, got 2"):
        columns.transform(np.ones((3, 2)))


def test_what_is_learned_can_be_stored():
    table = {"n": [1, 2.5], "c": ["a", "b"], "k": [True, False]}
    columns = TableColumns([1, 2]).fit(table)
    again = TableColumns.from_dict(json.loads(json.dumps(columns.to_dict())))
    assert again.columns_ == columns.columns_
    assert_array_equal(again.transform(table), columns.transform(table))
    for part in ({"kind": "other"}, {"levels": [None]}, {"name": 3}):
        data = columns.to_dict()
        data["columns"][0] |= part
        with pytest.raises((TypeError, ValueError)):
            TableColumns.from_dict(data)


def test_names_of_encoded_columns():
    table = {"n": [1.0, 2.0, 4.0, None], "c": ["a", "b", "b", "b"], "e": [None] * 4}
    columns = TableColumns(min_frequency=2).fit(table)
    encoder = ColumnEncoder(bins=2, categorical=columns.categorical_).fit(columns.transform(table))
    got = encoded_names(["n", "c", "e"], encoder, columns.columns_)
    assert got == ["n", "n 1 to 2", "n 2 to 4", "n missing", "c=b", "c infrequent", "e missing"]
    assert len(got) == encoder.n_features_out_


@pytest.mark.parametrize(
    ("chosen", "table", "message"),
    [
        ("from_dtype", {"x": ["a", 1]}, "'x' must hold numbers, booleans, text"),
        ("from_dtype", {"x": [1 + 2j]}, "'x' must hold numbers, booleans, text"),
        ("from_dtype", {"x": [1, 2], "y": [1]}, "one length"),
        (None, {"x": ["a", "b"]}, "holds text: it must be among categorical_features"),
        (["z"], {"x": [1]}, r"must be among the columns \['x'\], got 'z'"),
        ([True, False], {"x": [1]}, "mask of 1 columns, got 2"),
        ([3], {"x": [1]}, "categorical_features"),
        (["x"], np.ones((2, 1)), "no names"),
        ("all", {"x": [1]}, "categorical_features"),
        ([1.5], {"x": [1]}, "categorical_features"),
    ],
)
def test_refusals(chosen, table, message):
    with pytest.raises((TypeError, ValueError), match=message):
        TableColumns(chosen).fit(table)


def test_numbers_of_python():
    values = [decimal.Decimal("1.5"), np.float32(2), 3, None]
    assert_array_equal(read_columns("X", {"x": values})[1][0].numbers, [1.5, 2, 3, nan])
