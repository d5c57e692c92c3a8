from __future__ import annotations

import datetime

import numpy as np
import pytest

from nbnorm.data import csv_files, dates, tables
from nbnorm.data.columns import TableColumns
from nbnorm.data.convert import convert_file

DAY = datetime.datetime(2024, 12, 31)


@pytest.mark.parametrize(
    ("text", "form", "expected"),
    [
        ("31/12/2024", "%d/%m/%Y", DAY),
        ("12/31/2024 2:30 PM", "%m/%d/%Y", DAY.replace(hour=14, minute=30)),
        ("12-31-2024T00:00:01.5", "%m-%d-%Y", DAY.replace(second=1, microsecond=500_000)),
        ("31-DEC-24 12:00 am", "%d-%b-%y", DAY),
        ("2024/12/31", "", DAY),
        ("2024-12-31T01:00+01:00", "", DAY),
        ("31/12/2024 13:00 PM", "%d/%m/%Y", None),
        ("31/12/2024 24:00", "%d/%m/%Y", None),
        ("29/2/2023", "%d/%m/%Y", None),
        ("2024-12/31", "", None),
    ],
)
def test_parse_date(text, form, expected):
    assert dates.parse_date(text, form) == expected


@pytest.mark.parametrize("form", ["%d/%m", "%Y", "yesterday", "%q"])
def test_formats_are_checked(form):
    with pytest.raises(ValueError, match="date_format must"):
        csv_files.CsvOptions(date_format=form)


def _read(tmp_path, days, **options):
    (tmp_path / "a.csv").write_text("n,day\n" + "".join(f"1,{day}\n" for day in days))
    given = csv_files.CsvOptions(**options) if options else None
    return tables.read_table(tmp_path / "a.csv", need_target=False, options=given)


@pytest.mark.parametrize("late", [0, 1500])
def test_the_order_is_found_in_all_rows(tmp_path, late):
    table = _read(tmp_path, ["1/2/2024"] * late + ["31/1/2024", ""])
    assert table.date_formats == {"day": "%d/%m/%Y"}
    assert str(table.data["day"][late])[:10] == "2024-01-31"
    assert table.notes == ("Dates in column 'day' are day/month/year (or --date-format %m/%d/%Y)",)


def test_what_may_be_either_is_refused_unless_it_is_said(tmp_path):
    days = ["3/4/2024", "5/6/2024"]
    with pytest.raises(
        ValueError, match="column 'day': dates such as 3/4/2024 may begin with the day or the"
    ):
        _read(tmp_path, days)
    for form, expected in (("%d/%m/%Y", "2024-04-03"), ("%m/%d/%Y", "2024-03-04")):
        assert str(_read(tmp_path, days, date_format=form).data["day"][0])[:10] == expected


def test_a_later_date_in_another_order_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"line 1003, column 'day': expected a date of day/month/year, got '1/31"
    ):
        _read(tmp_path, ["31/1/2024"] * 1001 + ["1/31/2024"])


def test_short_years_are_text_until_a_format_is_given(tmp_path):
    table = _read(tmp_path, ["31/12/24", "1/1/25"])
    assert table.data["day"].tolist() == ["31/12/24", "1/1/25"]
    assert "--date-format" in table.notes[0]
    assert _read(tmp_path, ["31/12/24"], date_format="%d/%m/%y").data["day"][0].item() == DAY


def test_dotted_dates_beside_decimal_commas(tmp_path):
    (tmp_path / "a.csv").write_text("n;day\n0,5;31.12.2024\n1.234,5;1.1.2025\n")
    table = tables.read_table(tmp_path / "a.csv", need_target=False)
    assert table.data["n"].tolist() == [0.5, 1234.5]
    assert table.data["day"][0].item() == DAY


def test_durations(tmp_path):
    (tmp_path / "a.csv").write_text("from,y\n08:30,1\n,2\n-1 days +22:00:00,3\n1 day 00:00:01.5,4\n")
    table = tables.read_table(tmp_path / "a.csv")
    hours = TableColumns().fit(table.data).transform(table.data)[:, 0] * 24
    np.testing.assert_allclose(hours, [8.5, np.nan, -2, 24 + 1.5 / 3600])
    for text in ("2:1", "8:60", "08:30 Rome", "9" * 400 + " days 00:00"):
        assert dates.parse_duration(text) is None
    for span in (datetime.timedelta(hours=1), datetime.timedelta(days=-3, microseconds=7)):
        assert dates.parse_duration(dates.duration_text(span)) == span
    (tmp_path / "b.csv").write_text("from,y\n08:30,1\nlate,2\n")
    with pytest.raises(ValueError, match="line 3, column 'from': expected a duration, got 'late'"):
        tables.read_table(tmp_path / "b.csv", kinds={"from": "duration"})


def test_durations_of_parquet_are_those_of_csv(tmp_path):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    spans = pa.array([5_400_000, None, -1], pa.duration("ms"))
    parquet.write_table(pa.table({"t": spans, "y": [1, 2, 3]}), tmp_path / "a.parquet")
    for first, second in (("a.parquet", "b.csv"), ("b.csv", "c.parquet")):
        convert_file(tmp_path / first, tmp_path / second)
    for name in ("b.csv", "c.parquet"):
        got = tables.read_table(tmp_path / name).data["t"].astype("timedelta64[ms]")
        np.testing.assert_array_equal(got, np.array([5_400_000, "NaT", -1], "timedelta64[ms]"))
