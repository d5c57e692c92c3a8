"""Numbers as people write them in text: decimal commas, and signs between thousands."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

# What may stand between thousands, each with the characters that are taken for it.
THOUSANDS = {",": ",", ".": ".", "'": "'\u2019", " ": " \u00a0\u2009\u202f"}
_NAMES = {",": "Commas", ".": "Points", "'": "Apostrophes", " ": "Spaces"}
# What a number consists of, however it is written.
_ANY = re.compile(r"[+-]?[\d.,'\u2019 \u00a0\u2009\u202f]*\d[\d.,]*([eE][+-]?\d+)?", re.ASCII)
_BARE = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
# Fraction of numbers in a column above which the others are taken for errors.
MOSTLY = 0.9


class NumberFormat(NamedTuple):
    """How numbers are written.

    Attributes
    ----------
    decimal : {".", ","}
        The decimal sign.
    thousands : {"", ",", ".", "'", " "}
        What stands between groups of three digits; a number without it is one, too.

    Examples
    --------
    >>> NumberFormat(",", ".").plain("1.234.567,8"), NumberFormat(".", ",").plain("1,234.5")
    ('1234567.8', '1234.5')
    """

    decimal: str = "."
    thousands: str = ""

    def plain(self, text: str) -> str:
        """Return a number as Python writes it; what is none in this format is none afterwards."""
        if self.thousands and not text.strip().isdigit():
            bare = text.strip()
            if any(sign in bare for sign in THOUSANDS[self.thousands]):
                if not _grouped(self).fullmatch(bare):
                    return "_" + text
                for sign in THOUSANDS[self.thousands]:
                    bare = bare.replace(sign, "")
                text = bare
        if self.decimal == ",":
            return "_" + text if "." in text else text.replace(",", ".")
        return text

    def matters(self, signs: Collection[str]) -> bool:
        """Return whether texts of some characters may be other numbers in this format than as usual."""
        if self.thousands:
            return any(sign in signs for sign in THOUSANDS[self.thousands])
        return self.decimal == "," and "," in signs

    def reads(self, text: str) -> bool:
        """Return whether a text is a number in this format."""
        return _BARE.fullmatch(self.plain(text).strip()) is not None


# What Python writes.
PLAIN = NumberFormat()


@functools.cache
def _grouped(form: NumberFormat) -> re.Pattern[str]:
    """Return the pattern of a number with signs between thousands; of commas India has some in between."""
    sign, decimal = f"[{re.escape(THOUSANDS[form.thousands])}]", re.escape(form.decimal)
    between = f"(?:{sign}[0-9]{{2,3}})*" if form.thousands == "," else f"(?:{sign}[0-9]{{3}})*"
    return re.compile(
        rf"[+-]?[1-9][0-9]{{0,2}}{between}{sign}[0-9]{{3}}(?:{decimal}[0-9]*)?(?:[eE][+-]?[0-9]+)?"
    )


def candidates(delimiter: str, decimal: str | None, thousands: str | None) -> list[NumberFormat]:
    """Return the formats that a file may have, the likelier first.

    Parameters
    ----------
    delimiter : str
        What stands between the fields: where that is a comma, a comma inside of one is hardly a decimal sign.
    decimal, thousands : str, optional
        What is known.
    """
    points = [NumberFormat(), NumberFormat(".", ","), NumberFormat(".", "'"), NumberFormat(".", " ")]
    commas = [NumberFormat(","), NumberFormat(",", "."), NumberFormat(",", " "), NumberFormat(",", "'")]
    # a point between thousands is a guess only where fields are divided as with decimal commas
    likely = [*points, commas[0]] if delimiter == "," else [points[0], *commas, *points[1:]]
    if decimal == "," or thousands == ".":
        likely = commas
    return [one for one in likely if decimal in (None, one.decimal) and thousands in (None, one.thousands)]


def guess(
    columns: Sequence[Sequence[str]], formats: Sequence[NumberFormat]
) -> tuple[NumberFormat, list[str]]:
    """Return the format in which most columns are numbers, and what the user should know of the choice.

    Parameters
    ----------
    columns : sequence of sequences of str
        Fields of each column, without those that are missing.
    formats : sequence of NumberFormat
        Of equally good ones the first is taken.

    Examples
    --------
    >>> guess([["1,234", "512"]], candidates(",", None, None))[0]
    NumberFormat(decimal='.', thousands=',')
    """
    signs = set("".join(text for fields in columns for text in fields))
    formats = [form for form in formats if form == formats[0] or form.matters(signs)]
    if len(formats) == 1:
        return formats[0], []
    # whole numbers without signs are the same in all formats
    written = [[text for text in fields if not text.strip().isdigit()] for fields in columns]
    written = [
        fields for fields in written if _mostly(fields, lambda text: bool(_ANY.fullmatch(text.strip())))
    ]
    readable = {
        form: {at for at, fields in enumerate(written) if _mostly(fields, form.reads)} for form in formats
    }
    best = max(formats, key=lambda form: len(readable[form]))
    notes = []
    if best.decimal == "," and any(form.decimal == "." for form in formats):
        notes.append("Numbers are written with decimal commas (or --decimal .)")
    if best.thousands and not all(form.thousands for form in formats):
        notes.append(f"{_NAMES[best.thousands]} stand between thousands (or --thousands none)")
    return best, [*notes, *_doubts(best, written, readable)]


def _mostly(fields: Sequence[str], check: Callable[[str], bool]) -> bool:
    return bool(fields) and sum(map(check, fields)) > MOSTLY * len(fields)


def _doubts(
    form: NumberFormat, written: list[list[str]], readable: Mapping[NumberFormat, set[int]]
) -> list[str]:
    """Return which numbers have another value in a format that reads as many columns, and which are text."""
    for other, columns in readable.items():
        for text in (text for at in columns & readable[form] for text in written[at]):
            if columns < readable[form] or not (form.reads(text) and other.reads(text)):
                continue
            value, another = (float(one.plain(text)) for one in (form, other))
            if value != another:
                option = f"--thousands {other.thousands}" if other.thousands else f"--decimal {other.decimal}"
                values = f"{value:.10g}, not {another:.10g}"
                return [f"Numbers such as {text.strip()} are taken for {values} (or {option})"]
    for at in sorted(set().union(*readable.values()) - readable[form]):
        text = next(text for text in written[at] if not form.reads(text))
        return [f"Numbers such as {text.strip()} are taken for text: others are written in another way"]
    return []
