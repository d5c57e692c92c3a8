"""Dates and times of day as files write them: ISO 8601, 31.12.2024, and in other orders by a format."""

from __future__ import annotations

import contextlib
import datetime
import functools
import re
from collections.abc import Iterable

_ISO = re.compile(
    r"(\d{4})([-/])(\d{2})\2(\d{2})([T ]\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?(Z|[+-]\d{2}:?\d{2})?)?"
)
_DOTTED = re.compile(r"(\d{1,2})\.(\d{1,2})\.(\d{4})")
# Day and month in the one order or the other.
_EITHER = re.compile(r"\d{1,2}([-/])\d{1,2}\1\d{4}(?:[T ].*)?", re.ASCII)
_SHORT = re.compile(r"\d{1,2}([-/.])\d{1,2}\1\d{2}(?:[T ].*)?", re.ASCII)
_TIME = re.compile(
    r"(\d{1,2}):(\d{2})(?::(\d{2})(?:\.(\d{1,6}))?)?(?: ?([AP])\.?M\.?)?", re.ASCII | re.IGNORECASE
)
_DURATION = re.compile(r"(?:(-?\d+) days? \+?)?(\d{1,6}):([0-5]\d)(?::([0-5]\d(?:\.\d{1,9})?))?", re.ASCII)
_CODES_OF_TIMES = re.compile("%[HIMSfpXcz]")


def parse_date(text: str, form: str = "") -> datetime.datetime | None:
    """Return a date, with its time of day where it has one, None where the text is none.

    Parameters
    ----------
    text : str
    form : str, default ""
        A format of `datetime.strptime`; where it has no time, one may follow.  Without it the text is a date
        of ISO 8601, with slashes too, or one such as 31.12.2024.

    Returns
    -------
    datetime or None
        Times with a zone are given in UTC.

    Examples
    --------
    >>> parse_date("2024-02-29"), parse_date("29.2.2023")
    (datetime.datetime(2024, 2, 29, 0, 0), None)
    >>> parse_date("2/29/2024 3:30 PM", "%m/%d/%Y")
    datetime.datetime(2024, 2, 29, 15, 30)
    """
    if form:
        return _formatted(text.strip(), form)
    text = text.strip()
    with contextlib.suppress(ValueError, OverflowError):
        if dotted := _DOTTED.fullmatch(text):
            day, month, year = map(int, dotted.groups())
            return datetime.datetime(year, month, day)
        if iso := _ISO.fullmatch(text):
            zone = iso[8] or ""
            body = text[: len(text) - len(zone)].replace(" ", "T").replace("/", "-")
            if fraction := iso[7]:
                body = body.replace(fraction, fraction.ljust(7, "0"))
            moment = datetime.datetime.fromisoformat(body)
            if zone and zone != "Z":
                hours, minutes = int(zone[1:3]), int(zone[-2:])
                offset = datetime.timedelta(hours=hours, minutes=minutes)
                moment = moment - offset if zone[0] == "+" else moment + offset
            return moment
    return None


@functools.lru_cache(1 << 16)  # the dates of a table are often the same
def _formatted(text: str, form: str) -> datetime.datetime | None:
    with contextlib.suppress(ValueError, OverflowError):
        moment = datetime.datetime.strptime(text, form)
        if moment.tzinfo is not None:
            moment = moment.astimezone(datetime.timezone.utc).replace(tzinfo=None)
        return moment
    if _CODES_OF_TIMES.search(form):
        return None
    words = re.split(r" |T(?=\d)", text, maxsplit=form.count(" ") + 1)
    time = _time(words[-1]) if len(words) == form.count(" ") + 2 else None
    with contextlib.suppress(ValueError):
        return None if time is None else datetime.datetime.strptime(" ".join(words[:-1]), form) + time
    return None


def _time(text: str) -> datetime.timedelta | None:
    """Return a time of day."""
    if not (found := _TIME.fullmatch(text)):
        return None
    hour, minute, second = (int(one or 0) for one in found.groups()[:3])
    if found[5] and not 1 <= hour <= 12:
        return None
    hour = hour % 12 + 12 * (found[5].upper() == "P") if found[5] else hour
    if hour > 23 or minute > 59 or second > 59:
        return None
    fraction = int((found[4] or "0").ljust(6, "0"))
    return datetime.timedelta(hours=hour, minutes=minute, seconds=second, microseconds=fraction)


def formats_of(fields: Iterable[str]) -> list[str]:
    """Return the formats in which all fields are dates; two where days and months cannot be told apart.

    Examples
    --------
    >>> formats_of(["31/12/2024", "1/2/2025"]), formats_of(["2024-12-31"]), formats_of(["1/2/2025"])
    (['%d/%m/%Y'], [''], ['%d/%m/%Y', '%m/%d/%Y'])
    """
    texts = list(fields)
    found = None if not texts else _EITHER.fullmatch(texts[0].strip())
    if not found:
        return [""] if texts and all(parse_date(text) is not None for text in texts) else []
    forms = [found[1].join((*order, "%Y")) for order in (("%d", "%m"), ("%m", "%d"))]
    return [form for form in forms if all(parse_date(text, form) is not None for text in texts)]


def parse_duration(text: str) -> datetime.timedelta | None:
    """Return a duration or a time of day, None where the text is neither.

    Parameters
    ----------
    text : str
        Hours and minutes, with seconds and days where there are some, as pandas writes them too.

    Returns
    -------
    timedelta or None

    Examples
    --------
    >>> parse_duration("08:30"), parse_duration("2 days 00:00:01.5"), parse_duration("2:1")
    (datetime.timedelta(seconds=30600), datetime.timedelta(days=2, seconds=1, microseconds=500000), None)
    """
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        return None
    days, hours, minutes, seconds = (0.0 if part is None else float(part) for part in found.groups())
    with contextlib.suppress(OverflowError):
        return datetime.timedelta(days, seconds, 0, 0, minutes, hours)
    return None


def duration_text(value: datetime.timedelta) -> str:
    """Return a duration as `parse_duration` reads it.

    Examples
    --------
    >>> duration_text(datetime.timedelta(days=-1, hours=22, microseconds=5))
    '-1 days 22:00:00.000005'
    """
    clock = datetime.timedelta(seconds=value.seconds, microseconds=value.microseconds)
    return f"{value.days} days {str(clock).rjust(8 if not value.microseconds else 15, '0')}"


def have_short_years(fields: Iterable[str]) -> bool:
    """Return whether all fields look like dates whose year has two digits, in whatever order."""
    matches = [_SHORT.fullmatch(text.strip()) for text in fields]
    return bool(matches) and None not in matches


def check_format(form: str) -> str:
    """Return a format for dates after checking that it names year, month and day."""
    known = ("%Y", "%y", "%G", "%c", "%x")
    try:
        there = any(code in form for code in known)
        again = datetime.datetime.strptime(datetime.datetime(2023, 11, 25).strftime(form), form)
    except (ValueError, re.error) as error:
        raise ValueError(f"date_format must be one of strptime, got {form!r} ({error})") from None
    if not there or again.date() != datetime.date(2023, 11, 25):
        raise ValueError(f"date_format must have year, month and day, such as %d/%m/%Y, got {form!r}")
    return form


def worded(form: str) -> str:
    """Return a format in words.

    Examples
    --------
    >>> worded("%d/%m/%Y")
    'day/month/year'
    """
    for code, word in (("%d", "day"), ("%m", "month"), ("%Y", "year"), ("%y", "year")):
        form = form.replace(code, word)
    return form
