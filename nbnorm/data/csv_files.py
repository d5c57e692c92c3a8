r"""CSV: the one reader and the one writer, with the rules that `docs/cli.md` states.

The csv module of Python keeps to itself which fields were quoted, reads on to the end of the file where a
quote is not closed, and refuses long fields unless a limit of the whole process is changed.  So fields are
found here.  `Reader` hands out numbers in arrays and other columns as text; `line` is its counterpart.
"""

from __future__ import annotations

import codecs
import contextlib
import functools
import gzip
import io
import math
import os
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nbnorm import _check, _files
from nbnorm.data import dates, number_formats
from nbnorm.data.number_formats import PLAIN, NumberFormat

DELIMITERS = ",;\t"
# Endings of files that are written as CSV.
WRITTEN = (".csv", ".tsv")
# Rows from which it is guessed how numbers are written.
_LOOKED_AT = 200
# What pandas calls a column without a name.
_UNNAMED = re.compile(r"Unnamed: \d+")
_MISSING = frozenset(("", "na", "n/a", "nan", "null", "none", "?"))
# About how many bytes a number takes as text.
_NUMBER_BYTES = 64
# What a field may not hold bare, and what a column's name may not.
_MARKS, _NAME_MARKS = ',"\r\n', ',;\t"\r\n\ufeff'


@dataclass(frozen=True)
class CsvOptions:
    """How a CSV file is written, where that is known; what is None is guessed.

    Parameters
    ----------
    delimiter : str, optional
        One character between fields.
    decimal : {".", ","}, optional
        The decimal sign.
    encoding : str, optional
        By default UTF-8, or UTF-16 where the file begins with its mark.
    comment : str, optional
        Lines that begin with it are passed over; by default there are none.
    header : bool, optional
        Whether the first line names the columns.
    thousands : {"", ",", ".", "'", " "}, optional
        What stands between thousands.
    date_format : str, optional
        A format of `datetime.strptime` for the dates that are not ISO 8601.

    Raises
    ------
    ValueError
        If an option is not what is described.

    Examples
    --------
    >>> CsvOptions(delimiter=";", decimal=",").delimiter
    ';'
    """

    delimiter: str | None = None
    decimal: str | None = None
    encoding: str | None = None
    comment: str | None = None
    header: bool | None = None
    thousands: str | None = None
    date_format: str | None = None

    def __post_init__(self) -> None:
        _check.choice("decimal", self.decimal, (".", ",", None))
        _check.choice("thousands", self.thousands, (None, "", *number_formats.THOUSANDS))
        if self.thousands and self.thousands == self.decimal:
            raise ValueError(f"thousands and decimal sign must differ, got {self.decimal!r} for both")
        if self.date_format is not None:
            dates.check_format(self.date_format)
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '"\r\n'):
            raise ValueError(f"delimiter must be one character and no quote, got {self.delimiter!r}")
        if self.delimiter is not None and self.delimiter == (self.decimal or "."):
            raise ValueError(f"delimiter and decimal sign must differ, got {self.delimiter!r} for both")
        if self.comment is not None and (not self.comment or '"' in self.comment):
            raise ValueError(f"comment must be text without a quote, got {self.comment!r}")
        if self.encoding is not None:
            try:
                "".encode(self.encoding)
            except LookupError:
                raise ValueError(f"encoding must be one that Python knows, got {self.encoding!r}") from None


def refuse_options(path: _files.PathLike, options: CsvOptions | None) -> None:
    """Refuse options of CSV files where the file is none.

    Parameters
    ----------
    path : str or path
        The file.
    options : CsvOptions or None
        What is known of it.

    Raises
    ------
    ValueError
        If any option is given.

    Examples
    --------
    >>> refuse_options("a.parquet", CsvOptions())
    """
    for name, value in vars(options or CsvOptions()).items():
        if value is not None:
            raise ValueError(f"{name} {value!r} is for CSV files, and {os.fspath(path)} is none")


class Quoted(str):
    """A field that stood in quotes: white space around it is part of it."""

    __slots__ = ()


# ----------------------------------------------------------------------------------------------
# Fields
# ----------------------------------------------------------------------------------------------


def plain(field: str) -> str:
    """Return a name or label without the white space around it, which counts only in quotes."""
    return str(field) if type(field) is Quoted else field.strip()


def is_missing(text: str) -> bool:
    """Return whether a field stands for a number that is not there."""
    return text.strip().lower() in _MISSING


def number(text: str) -> float | None:
    """Return a field as a number, NaN when it is missing, None when it is neither.

    A number is what Python's `float` reads, in ASCII and without underscores.
    """
    if "_" in text or not text.isascii():
        return None
    if is_missing(text):
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


def location(name: str, line: int, column: str) -> str:
    """Return where a field stands, for a message."""
    return f"{name}, line {line}, column {shown(column)}"


def _records(
    lines: Iterable[str], delimiter: str, comment: str | None = None
) -> Iterator[tuple[int, list[str]]]:
    """Yield the fields of each record and the line on which it begins; blank lines are none.

    A quote counts where a field begins.  Every line is looked at once, whatever it is part of.
    """
    source = iter(lines)
    current = 0
    for line in source:
        current += 1
        if comment is not None and line.startswith(comment):
            continue
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
    """A CSV file, compressed where its name ends in ``.gz``, that can be read through any number of times.

    Parameters
    ----------
    path : str or path
    options : CsvOptions, optional
        What is known of how the file is written.

    Attributes
    ----------
    name : str
        The file, for messages.
    columns : list of str
        The name of an index is empty.
    positions : dict of str to int
        Where each column stands.
    index : int or None
        Position of a first column without a name, or called ``Unnamed: 0``: the index of a frame of pandas.
    numbers : NumberFormat
        How numbers are written.
    date_format : str or None
        That of dates, where it was given.
    notes : list of str
        What was guessed, for the user, where it is not what most files have.

    Raises
    ------
    ValueError
        If the file is empty, or its columns have no proper names.
    OSError
        If it cannot be opened.
    """

    def __init__(self, path: _files.PathLike, options: CsvOptions | None = None) -> None:
        given = options or CsvOptions()
        self._path = path
        self.name = os.fspath(path)
        self.notes: list[str] = []
        self._comment = given.comment
        self._encoding = given.encoding or self._find_encoding()
        self._delimiter = given.delimiter or self._find_delimiter()
        self.date_format = given.date_format
        self.numbers = self._find_numbers(given)
        first = next(self._records(), (0, []))[1]
        if not first:
            raise ValueError(f"{self.name} has no header line with column names")
        # Some programs end every line with a delimiter.
        self._trailing = len(first) > 1 and _ends_empty(first)
        fields = first[:-1] if self._trailing else first
        self._header = self._has_header(fields) if given.header is None else given.header
        self.columns = [plain(field) for field in fields]
        if not self._header:
            self.columns = [f"x{at}" for at in range(len(fields))]
        self.index = None
        if self._header and len(fields) > 1 and (not fields[0] or _UNNAMED.fullmatch(self.columns[0])):
            self.index = 0
            self.notes.append("The first column has no name: it is an index")
        check_names(self.name, self.columns)
        self.positions = {column: at for at, column in enumerate(self.columns)}

    def _has_header(self, fields: list[str]) -> bool:
        """Return whether the first line names the columns: numbers do if they count them, from 0 on."""
        columns = [plain(field) for field in fields]
        if any(type(field) is Quoted for field in fields) or not _are_numbers(columns):
            return True
        counted = columns if columns[0] else columns[1:]
        if counted == [str(at) for at in range(len(counted))]:
            self.notes.append("The first line counts the columns: it is the header (or --no-header)")
            return True
        self.notes.append(
            f"The first line holds numbers: the columns are x0 to x{len(columns) - 1} (or --header)"
        )
        return False

    def place_of(self, wanted: str, role: str) -> int:
        """Return where a column stands; `role` is what the error calls it."""
        if wanted not in self.positions:
            listed = ", ".join(self.columns[:12]) + (", ..." if len(self.columns) > 12 else "")
            raise ValueError(f"{self.name} has no {role} {wanted!r}; it has {listed}")
        return self.positions[wanted]

    def rows(
        self, numeric: Sequence[int], text: Sequence[int], size: int, *, gaps: bool = False
    ) -> Iterator[Rows]:
        """Yield the file in parts.

        Parameters
        ----------
        numeric, text : sequence of int
            Places of the columns that are wanted as finite numbers and as text.
        size : int
            Bytes in which a part ends.
        gaps : bool
            Whether numbers may be missing, and are NaN then.

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
        pick, numbers = _picker(numeric), functools.partial(self._numbers, gaps=gaps)
        fields: list[str] = []
        texts: list[list[str]] = [[] for _ in text]
        lines: list[int] = []
        used = 0
        records = self._records()
        if self._header:
            next(records, None)
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
                yield Rows(numbers(fields, numeric, lines), texts, lines)
                fields, texts, lines, used = [], [[] for _ in text], [], 0
        if lines:
            yield Rows(numbers(fields, numeric, lines), texts, lines)

    def _numbers(
        self, fields: list[str], numeric: Sequence[int], lines: list[int], *, gaps: bool
    ) -> npt.NDArray[np.float64]:
        """Return fields, row after row, as finite numbers."""
        texts = fields
        if self.numbers != PLAIN:
            fields = [self.numbers.plain(text) for text in texts]
        together = "".join(fields)
        if together.isascii() and "_" not in together:
            with contextlib.suppress(ValueError):
                got = np.fromiter(map(float, fields), np.float64, len(fields))
                if np.isfinite(got).all():
                    return got.reshape(len(lines), len(numeric))
        found = [number(text) for text in fields]
        wrong = (
            (at, v)
            for at, v in enumerate(found)
            if v is None or not (math.isfinite(v) or (gaps and math.isnan(v)))
        )
        at, value = next(wrong, (-1, 0.0))
        if at < 0:
            return np.array(found, np.float64).reshape(len(lines), len(numeric))
        row, column = divmod(at, len(numeric))
        where = location(self.name, lines[row], self.columns[numeric[column]])
        if value is None:
            raise ValueError(f"{where}: expected a number, got {shown(texts[at])}")
        raise ValueError(
            f"{where}: " + ("missing value" if math.isnan(value) else f"must be finite, got {value}")
        )

    def records(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the line and the fields of each row below the header."""
        records = self._records()
        if self._header:
            next(records, None)
        yield from records

    def _records(self, delimiter: str | None = None) -> Iterator[tuple[int, list[str]]]:
        with _files.reading(self._path, "a CSV file") as raw:
            content = _unpacked(self._path, raw)
            yield from _records(
                _decoded(content, self._encoding), delimiter or self._delimiter, self._comment
            )

    def _find_encoding(self) -> str:
        with _files.reading(self._path, "a CSV file") as raw:
            begin = _unpacked(self._path, raw).read(2)
        if begin in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            self.notes.append("The file begins with the mark of UTF-16 (or --encoding)")
            return "utf-16"
        return "utf-8-sig"

    def _find_numbers(self, given: CsvOptions) -> NumberFormat:
        """Return how numbers are written, from the first rows."""
        formats = number_formats.candidates(self._delimiter, given.decimal, given.thousands)
        columns: list[list[str]] = []
        with contextlib.suppress(ValueError):  # the reader says what is wrong
            records = [record for _, record in islice(self._records(), 1 + _LOOKED_AT)]
            for record in records[1:] or records:  # the first one may be the header
                columns += ([] for _ in range(len(record) - len(columns)))
                for fields, text in zip(columns, record, strict=False):
                    if not is_missing(text):
                        fields.append(text)
        found, notes = number_formats.guess(columns, formats)
        self.notes += notes
        return found

    def _find_delimiter(self) -> str:
        """Return the first that parts the header and the row below it into equally many fields."""
        if suffix(self._path) == ".tsv":
            return "\t"
        delimiter = self._guess_delimiter()
        if delimiter != ",":
            name = {"\t": "Tabs", ";": "Semicolons"}[delimiter]
            self.notes.append(f"{name} stand between the fields (or --delimiter)")
        return delimiter

    def _guess_delimiter(self) -> str:
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


def suffix(path: _files.PathLike) -> str:
    """Return the ending that says what a file is, in lower case; ``.gz`` behind it does not count."""
    name = os.fspath(path).lower()
    return Path(name.removesuffix(".gz") if is_compressed(path) else name).suffix


def is_compressed(path: _files.PathLike) -> bool:
    """Return whether a file's name says that it is compressed."""
    return os.fspath(path).lower().endswith(".gz")


def _unpacked(path: _files.PathLike, raw: IO[bytes]) -> IO[bytes]:
    """Return the content of a file, unpacked where its name ends in ``.gz``."""
    if not is_compressed(path):
        return raw
    limit = max(_files.MOST_UNPACKED, _files.MOST_EXPANSION * os.fstat(raw.fileno()).st_size)
    return io.BufferedReader(_Unpacked(raw, limit))


class _Unpacked(io.RawIOBase):
    """The content of a compressed file, which ends with an error when there is far too much of it."""

    def __init__(self, raw: IO[bytes], limit: int) -> None:
        self._file = gzip.GzipFile(fileobj=raw)
        self._rest = limit

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        content = self._file.read(len(buffer))
        self._rest -= len(content)
        if self._rest < 0:
            raise _files.MalformedError(
                f"it unpacks to more than {_files.MOST_UNPACKED >> 20} MiB and "
                f"{_files.MOST_EXPANSION} times its size: unpack it first if it is right"
            )
        buffer[: len(content)] = content
        return len(content)


def _decoded(raw: IO[bytes], encoding: str) -> Iterator[str]:
    """Yield the lines of a file, which end with any of the three line breaks."""
    with io.TextIOWrapper(raw, encoding=encoding, newline="") as text:
        try:
            for number, line in enumerate(text, 1):
                if "\0" in line:
                    raise _files.MalformedError(
                        f"line {number} has a NUL byte: it may be UTF-16 (--encoding utf-16)"
                    )
                yield line
        except UnicodeDecodeError as error:
            if encoding != "utf-8-sig":
                raise _files.MalformedError(f"{error.reason}", what=f"{encoding} text") from None
            # The decoder works on blocks, so only a second look tells where it is.
            raw.seek(0)
            where = next(filter(None, (_undecodable(content, at) for at, content in enumerate(raw, 1))))
            advice = "save it as UTF-8, or name its encoding, as --encoding cp1252"
            raise _files.MalformedError(f"{where}; {advice}", what="UTF-8 text") from None


def _undecodable(content: bytes, line: int) -> str | None:
    """Return what is wrong with a line that is not UTF-8."""
    try:
        content.decode()
    except UnicodeDecodeError as error:
        return f"{error.reason} at byte {error.start + 1} of line {line}"
    return None


def _ends_empty(record: list[str]) -> bool:
    return type(record[-1]) is not Quoted and not record[-1].strip()


def _picker(positions: Sequence[int]) -> Callable[[list[str]], Iterable[str]]:
    """Return a function that takes the fields at some positions out of a record."""
    if len(positions) > 1:
        return itemgetter(*positions)
    return lambda record: [record[at] for at in positions]  # itemgetter of a single position gives no tuple


def _are_numbers(columns: list[str]) -> bool:
    """Whether a header line looks like a row of numbers, some of them missing."""
    got = numbers(columns)
    return got is not None and bool(np.isfinite(got).any())


def check_names(name: str, columns: Sequence[str]) -> None:
    """Refuse columns without a name, but for a first one before others, or of the same name."""
    seen = set()
    for at, column in enumerate(columns):
        if not column and (at > 0 or len(columns) == 1):
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


def delimiter_of(path: _files.PathLike) -> str:
    """Return what stands between the fields of a file to write: a tab where its name ends in ``.tsv``."""
    return "\t" if suffix(path) == ".tsv" else ","


@contextlib.contextmanager
def replace(path: _files.PathLike) -> Iterator[IO[str]]:
    """Write a CSV file as `_files.replace` does, compressed where its name ends in ``.gz``.

    Equal contents give equal bytes, compressed ones too: neither name nor time stands in them.
    """
    if not is_compressed(path):
        with _files.replace(path, "w", newline="") as file:
            yield file
        return
    with (
        _files.replace(path) as raw,
        gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed,
        io.TextIOWrapper(packed, "utf-8", newline="") as file,
    ):
        yield file


def field(text: str, delimiter: str = ",") -> str:
    """Return text as it stands in a CSV file, in quotes if it stood so or needs them."""
    if "\0" in text:
        raise ValueError(f"text with a NUL character cannot be written as CSV, got {shown(text)}")
    if type(text) is Quoted or delimiter in text or any(mark in text for mark in _MARKS):
        return '"' + text.replace('"', '""') + '"'
    return text


def line(fields: Iterable[str], delimiter: str = ",") -> str:
    """Return a row of a CSV file; `Reader` finds the same fields in it."""
    row = delimiter.join(field(one, delimiter) for one in fields)
    return (row or '""') + "\n"


def header(name: str, columns: Sequence[str], delimiter: str = ",") -> str:
    """Return the header line of the CSV file `name`.

    Names are quoted where they would be taken for something else: for two, for less, for numbers.
    """
    check_names(name, columns)
    numeric = _are_numbers(list(columns))
    named = (
        Quoted(column)
        if (numeric and column) or column != column.strip() or any(mark in column for mark in _NAME_MARKS)
        else column
        for column in columns
    )
    return line(named, delimiter)
