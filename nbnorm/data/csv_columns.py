"""What the columns of a CSV file hold: numbers, booleans, dates or text."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nbnorm.data import csv_files
from nbnorm.data.dates import formats_of, have_short_years, parse_date, parse_duration, worded
from nbnorm.data.number_formats import MOSTLY, PLAIN, NumberFormat

# Rows from which it is guessed what a column holds.
_LOOKED_AT = 1000
_BOOLEANS = {"true": True, "false": False}


class _Written(NamedTuple):
    """How a kind of column stands in a file of text."""

    parse: Callable[[str], object]  # returns the value of a field, None if it is no such one
    array: str  # type of the array of the values
    arrow: str  # type of the column in Arrow


# The kinds of columns beside numbers, dates, whose form has to be found out, and text.
WRITTEN = {
    "boolean": _Written(lambda field: _BOOLEANS.get(field.strip().lower()), "bool", "bool"),
    "duration": _Written(parse_duration, "timedelta64[us]", "duration[us]"),
}


class CsvColumn(NamedTuple):
    """What a column of a CSV file holds."""

    kind: str  # "number", "boolean", "date", "duration", "category" or "empty"
    date_format: str = ""  # of dates, as `parse_date` takes it


def kind_of(fields: Iterable[str], date_format: str | None = None, form: NumberFormat = PLAIN) -> str:
    """Return what a column of text holds: "number", "date", "category" or one of `WRITTEN`.

    Where nearly all are numbers the others are errors, which are found when the column is read.

    Parameters
    ----------
    fields : iterable of str
    date_format : str, optional
        How dates are written that are not ISO 8601.
    form : NumberFormat
        How numbers are written.

    Examples
    --------
    >>> kind_of(["1", "", "2.5"]), kind_of(["true", "False"]), kind_of(["2024-02-29"]), kind_of(["Rome"])
    ('number', 'boolean', 'date', 'category')
    """
    there = [text for text in fields if not csv_files.is_missing(text)]
    numbers = sum(csv_files.number(form.plain(text)) is not None for text in there)
    if numbers == len(there) or numbers > MOSTLY * len(there):
        return "number"
    for kind, written in WRITTEN.items():
        if all(written.parse(text) is not None for text in there):
            return kind
    dated = bool(formats_of(there)) or (date_format is not None and _are_dates(there, date_format))
    return "date" if dated else "category"


def csv_columns(
    reader: csv_files.Reader,
    columns: Sequence[str],
    *,
    kinds: Mapping[str, str] | None = None,
    date_formats: Mapping[str, str] | None = None,
) -> dict[str, CsvColumn]:
    """Return what columns hold, from the first rows of the file where it is not known.

    Parameters
    ----------
    reader : Reader
        Its notes tell what was guessed of dates.
    columns : sequence of str
    kinds, date_formats : mapping of str to str, optional
        What is known of some columns.

    Raises
    ------
    ValueError
        If it cannot be told which number of a column's dates is the day.
    """
    records = [record for _, record in itertools.islice(reader.records(), _LOOKED_AT)]
    kinds, date_formats, found = kinds or {}, date_formats or {}, {}
    for column in columns:
        at, form = reader.positions[column], ""
        fields = [record[at] for record in records if at < len(record)]
        there = [field for field in fields if not csv_files.is_missing(field)]
        kind = kinds.get(column) or kind_of(there, reader.date_format, reader.numbers)
        if kind == "date":
            form = _date_format(reader, column, there, date_formats.get(column, ""))
        elif kind == "category" and column not in kinds and have_short_years(there):
            reader.notes.append(
                f"Column {csv_files.shown(column)} is taken for text; if it holds dates, --date-format "
                "says how they are written, such as %d/%m/%y"
            )
        found[column] = CsvColumn(kind, form)
    return found


def _are_dates(fields: Iterable[str], form: str) -> bool:
    return all(parse_date(field, form) is not None for field in fields)


def _date_format(reader: csv_files.Reader, column: str, fields: list[str], known: str) -> str:
    """Return how dates are written; where the first rows leave that open, all rows are read."""
    for form in (reader.date_format, known):
        if form and _are_dates(fields, form):
            return form
    forms = formats_of(fields)
    if len(forms) > 1:
        at = reader.positions[column]
        others = (record[at] for _, record in reader.records() if at < len(record))
        there = {field.strip() for field in others if not csv_files.is_missing(field)}
        forms = [form for form in forms if _are_dates(there, form)]
        if len(forms) != 1:
            raise ValueError(
                f"{reader.name}, column {csv_files.shown(column)}: dates such as {fields[0].strip()} may "
                "begin with the day or the month: say --date-format %d/%m/%Y or %m/%d/%Y, or leave the "
                "column out with --except"
            )
    if not forms or not forms[0]:
        return ""
    other = {"%d": "%m{0}%d{0}%Y", "%m": "%d{0}%m{0}%Y"}[forms[0][:2]].format(forms[0][2])
    reader.notes.append(
        f"Dates in column {csv_files.shown(column)} are {worded(forms[0])} (or --date-format {other})"
    )
    return forms[0]


def typed(
    file: str, name: str, fields: list[str], lines: Sequence[int], column: CsvColumn
) -> npt.NDArray[Any]:
    """Return fields as values of the column's kind, or as text, with gaps."""
    if column.kind == "category":
        labels = [csv_files.plain(field) for field in fields]
        return np.array([label or None for label in labels], object)
    expected = column.kind
    if column.kind == "date":
        parse = functools.partial(parse_date, form=column.date_format)
        written = _Written(parse, "datetime64[us]", "timestamp[us]")
        expected += f" of {worded(column.date_format)}" if column.date_format else ""
    else:
        written = WRITTEN[column.kind]
    found = np.empty(len(fields), object)
    for row, field in enumerate(fields):
        found[row] = None if csv_files.is_missing(field) else written.parse(field)
        if found[row] is None and not csv_files.is_missing(field):
            where = csv_files.location(file, lines[row], name)
            raise ValueError(f"{where}: expected a {expected}, got {csv_files.shown(field)}")
    if written.array == "bool" and None in found:
        return np.array([math.nan if value is None else float(value) for value in found])
    return found.astype(written.array)
