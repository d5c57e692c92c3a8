r"""CSV: the one reader and the one writer, with the rules that `docs/cli.md` states.

The csv module of Python keeps to itself which fields were quoted, reads on to the end of the file where a
quote is not closed, and refuses long fields unless a limit of the whole process is changed.  So fields are
found here.  `Reader` hands out numbers in arrays and other columns as text; `line` is its counterpart.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import numpy.typing as npt

from nbnorm import _files

DELIMITERS = ",;\t"
_MISSING = frozenset(("", "na", "n/a", "nan", "null", "none", "?"))
# About how many bytes a number takes as text.
_NUMBER_BYTES = 64
# What a field may not hold bare, and what a column's name may not.
_MARKS, _NAME_MARKS = ',"\r\n', ',;\t"\r\n\ufeff'


class Quoted(str):
    """A field that stood in quotes: white space around it is part of it."""

    __slots__ = ()


# ----------------------------------------------------------------------------------------------
# Fields
# ----------------------------------------------------------------------------------------------


def plain(field: str) -> str:
    """Return a name or label without the white space around it, which counts only in quotes."""
    return str(field) if type(field) is Quoted else field.strip()


def number(text: str) -> float | None:
    """Return a field as a number, NaN when it is missing, None when it is neither.

    A number is what Python's `float` reads, in ASCII and without underscores.
    """
    if "_" in text or not text.isascii():
        return None
    if text.strip().lower() in _MISSING:
        return math.nan
    try:
        return float(text)
    except ValueError:
        return None


def numbers(fields: Sequence[str]) -> npt.NDArray[np.float64] | None:
    """Return fields as numbers, NaN when missing, None when one is neither."""
    got = array("d")
    for field in fields:
        value = number(field)
        if value is None:
            return None
        got.append(value)
    return np.frombuffer(got, np.float64) if got else np.empty(0)


def shown(text: str) -> str:
    """Return a field for a message."""
    return repr(text if len(text) <= 40 else text[:37] + "...")


def place(name: str, line: int, column: str) -> str:
    """Return where a field stands, for a message."""
    return f"{name}, line {line}, column {shown(column)}"


def _records(lines: Iterable[str], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the fields of each record and the line on which it begins; blank lines are none.

    A quote counts where a field begins.  Every line is looked at once, whatever it is part of.
    """
    source = iter(lines)
    current = 0
    for line in source:
        current += 1
        if '"' not in line:
            text = line.rstrip("\r\n")
            if text.strip(" "):
                yield current, text.split(delimiter)
            continue
        first, at = current, 0
        fields: list[str] = []
        while True:
            if line.startswith('"', at):
                began, at = current, at + 1
                parts: list[str] = []
                while True:
                    end = line.find('"', at)
                    if end >= 0 and line.startswith('"', end + 1):
                        parts.append(line[at : end + 1])
                        at = end + 2
                    elif end >= 0:
                        parts.append(line[at:end])
                        break
                    else:
                        parts.append(line[at:])
                        line, at = next(source, ""), 0
                        current += 1
                        if not line:
                            raise _files.MalformedError(
                                f"the quote that opens in line {began} is never closed"
                            )
                fields.append(Quoted("".join(parts)))
                at = end + 1
                end = line.find(delimiter, at)
                rest = line[at:] if end < 0 else line[at:end]
                if rest.strip():
                    raise _files.MalformedError(
                        f"the quote that opens in line {began} is closed in line {current} with text behind "
                        f"it, {shown(rest.strip())}; a quote inside a field is written twice"
                    )
            else:
                end = line.find(delimiter, at)
                fields.append(line[at:].rstrip("\r\n") if end < 0 else line[at:end])
            if end < 0:
                break
            at = end + 1
        yield first, fields


# ----------------------------------------------------------------------------------------------
# The reader
# ----------------------------------------------------------------------------------------------


class Rows(NamedTuple):
    """Some rows of a file."""

    numbers: npt.NDArray[np.float64]  # (n_rows, n_numeric)
    texts: list[list[str]]  # the text of each other column that is wanted
    lines: list[int]  # where each row begins


class Reader:
    """A CSV file that can be read through any number of times.

    Parameters
    ----------
    path : str or path

    Attributes
    ----------
    name : str
        The file, for messages.
    columns : list of str
    places : dict of str to int
        Where each column stands.

    Raises
    ------
    ValueError
        If the file has no proper header line.
    OSError
        If it cannot be opened.
    """

    def __init__(self, path: _files.PathLike) -> None:
        self._path = path
        self.name = os.fspath(path)
        self._delimiter = self._find_delimiter()
        header = next(self._records(self._delimiter), (0, []))[1]
        # Some programs end every line with a delimiter.
        self._trailing = len(header) > 1 and _ends_empty(header)
        self.columns = [plain(field) for field in (header[:-1] if self._trailing else header)]
        if not header:
            raise ValueError(f"{self.name} has no header line with column names")
        if not any(type(field) is Quoted for field in header) and _are_numbers(self.columns):
            raise ValueError(f"{self.name} must begin with a header line of column names, got numbers")
        check_names(self.name, self.columns)
        self.places = {column: at for at, column in enumerate(self.columns)}

    def place_of(self, wanted: str, role: str) -> int:
        """Return where a column stands; `role` is what the error calls it."""
        if wanted not in self.places:
            listed = ", ".join(self.columns[:12]) + (", ..." if len(self.columns) > 12 else "")
            raise ValueError(f"{self.name} has no {role} {wanted!r}; it has {listed}")
        return self.places[wanted]

    def rows(self, numeric: Sequence[int], text: Sequence[int], size: int) -> Iterator[Rows]:
        """Yield the file in parts.

        Parameters
        ----------
        numeric, text : sequence of int
            Places of the columns that are wanted as finite numbers and as text.
        size : int
            Bytes in which a part ends.

        Yields
        ------
        Rows

        Raises
        ------
        ValueError
            If a row has too few or too many fields, or a field is missing or no finite number; the line and
            the column are named.
        """
        width = len(self.columns)
        pick = _picker(numeric)
        fields: list[str] = []
        texts: list[list[str]] = [[] for _ in text]
        lines: list[int] = []
        used = 0
        records = self._records(self._delimiter)
        next(records, None)  # the header line
        for line, record in records:
            more = self._trailing and len(record) == width + 1 and _ends_empty(record)
            if len(record) != width and not more:
                raise ValueError(f"{self.name}, line {line}: got {len(record)} fields, expected {width}")
            fields.extend(pick(record))
            lines.append(line)
            used += _NUMBER_BYTES * len(numeric)
            for column, at in zip(texts, text, strict=True):
                column.append(record[at])
                used += _NUMBER_BYTES + len(record[at])
            if used >= size:
                yield Rows(self._numbers(fields, numeric, lines), texts, lines)
                fields, texts, lines, used = [], [[] for _ in text], [], 0
        if lines:
            yield Rows(self._numbers(fields, numeric, lines), texts, lines)

    def _numbers(
        self, fields: list[str], numeric: Sequence[int], lines: list[int]
    ) -> npt.NDArray[np.float64]:
        """Return fields, row after row, as finite numbers."""
        together = "".join(fields)
        if together.isascii() and "_" not in together:
            with contextlib.suppress(ValueError):
                got = np.fromiter(map(float, fields), np.float64, len(fields))
                if np.isfinite(got).all():
                    return got.reshape(len(lines), len(numeric))
        at, value = next(
            (at, v) for at, v in enumerate(map(number, fields)) if v is None or not math.isfinite(v)
        )
        row, column = divmod(at, len(numeric))
        where = place(self.name, lines[row], self.columns[numeric[column]])
        if value is None:
            raise ValueError(f"{where}: expected a number, got {shown(fields[at])}")
        raise ValueError(
            f"{where}: " + ("missing value" if math.isnan(value) else f"must be finite, got {value}")
        )

    def _records(self, delimiter: str) -> Iterator[tuple[int, list[str]]]:
        with _files.reading(self._path, "a CSV file") as raw:
            yield from _records(_decoded(raw), delimiter)

    def _find_delimiter(self) -> str:
        """Return the first that parts the header and the row below it into equally many fields."""
        if Path(self._path).suffix.lower() == ".tsv":
            return "\t"
        splitting = []
        for delimiter in DELIMITERS:
            widths = []
            # Quotes may make sense with another delimiter, and if with none the reader says so.
            with contextlib.suppress(ValueError):
                for _, record in islice(self._records(delimiter), 2):
                    widths.append(len(record) - (len(record) > 1 and _ends_empty(record)))
            if widths and widths[0] > 1:
                if len(set(widths)) == 1:
                    return delimiter
                splitting.append(delimiter)
        return splitting[0] if splitting else ","


def _decoded(raw: IO[bytes]) -> Iterator[str]:
    """Yield the lines of a file, which end with any of the three line breaks."""
    with io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as text:
        try:
            for number, line in enumerate(text, 1):
                if "\0" in line:
                    raise _files.MalformedError(
                        f"line {number} has a NUL byte: it may be UTF-16, save it as UTF-8"
                    )
                yield line
        except UnicodeDecodeError:
            # The decoder works on blocks, so only a second look tells where it is.
            raw.seek(0)
            where = next(filter(None, (_undecodable(content, at) for at, content in enumerate(raw, 1))))
            raise _files.MalformedError(f"{where}; save it as UTF-8", what="UTF-8 text") from None


def _undecodable(content: bytes, line: int) -> str | None:
    """Return what is wrong with a line that is not UTF-8."""
    try:
        content.decode()
    except UnicodeDecodeError as error:
        return f"{error.reason} at byte {error.start + 1} of line {line}"
    return None


def _ends_empty(record: list[str]) -> bool:
    return type(record[-1]) is not Quoted and not record[-1].strip()


def _picker(places: Sequence[int]) -> Callable[[list[str]], Iterable[str]]:
    """Return a function that takes the fields at some places out of a record."""
    if len(places) > 1:
        return itemgetter(*places)
    return lambda record: [record[at] for at in places]  # itemgetter of a single place gives no tuple


def _are_numbers(columns: list[str]) -> bool:
    """Whether a header line looks like a row of numbers, some of them missing."""
    got = numbers(columns)
    return got is not None and bool(np.isfinite(got).any())


def check_names(name: str, columns: Iterable[str]) -> None:
    """Refuse columns without a name, or of the same name."""
    seen = set()
    for at, column in enumerate(columns):
        if not column:
            raise ValueError(f"{name}: column {at + 1} has no name in the header line")
        if column in seen:
            raise ValueError(f"{name}: two columns are named {shown(column)}")
        seen.add(column)


# ----------------------------------------------------------------------------------------------
# The writer
# ----------------------------------------------------------------------------------------------


def protected(text: str) -> str:
    """Return text that is not from a CSV file so that white space around it survives in one."""
    return text if text == text.strip() else Quoted(text)


def field(text: str) -> str:
    """Return text as it stands in a CSV file, in quotes if it stood so or needs them."""
    if "\0" in text:
        raise ValueError(f"text with a NUL character cannot be written as CSV, got {shown(text)}")
    if type(text) is Quoted or any(mark in text for mark in _MARKS):
        return '"' + text.replace('"', '""') + '"'
    return text


def line(fields: Iterable[str]) -> str:
    """Return a row of a CSV file; `Reader` finds the same fields in it."""
    row = ",".join(map(field, fields))
    return (row or '""') + "\n"


def header(name: str, columns: Sequence[str]) -> str:
    """Return the header line of the CSV file `name`.

    Names are quoted where they would be taken for something else: for two, for less, for numbers.
    """
    check_names(name, columns)
    numeric = _are_numbers(list(columns))
    return line(
        Quoted(column)
        if numeric or column != column.strip() or any(mark in column for mark in _NAME_MARKS)
        else column
        for column in columns
    )
