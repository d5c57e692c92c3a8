"""What the commands share: output, errors, exit status and the types of options."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from nbnorm import _check, _files
from nbnorm.data import csv_files

FAILED, BAD_INPUT, INTERRUPTED, TERMINATED = 1, 2, 130, 143
# Columns of a page.
WIDTH = 80
BOLD, _RED = 1, 31


class OutputError(Exception):
    """Standard output takes no more: its reader has gone, or the disk is full."""


@contextlib.contextmanager
def output() -> Iterator[Any]:
    """Write to standard output, now and not when Python ends."""
    try:
        yield sys.stdout
        sys.stdout.flush()
    except OSError as error:
        raise OutputError(error) from error


def say(text: str) -> None:
    """Print a line, as several where it is longer than the page; names of files are not divided."""
    with output() as out:
        print("\n".join(wrapped(text)), file=out)


def wrapped(text: str) -> list[str]:
    """Return text in lines that fit the page, those after the first indented two columns more."""
    indent = " " * (len(text) - len(text.lstrip(" ")) + 2)
    return textwrap.wrap(
        text,
        WIDTH,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
    ) or [""]


def styled(text: str, code: int, stream: Any) -> str:
    """Return text in a colour or style of terminals, bare where the stream is none or NO_COLOR is set."""
    if not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\33[{code}m{text}\33[0m"


def clipped(text: object, width: int) -> str:
    """Return text without control characters, shortened to a width."""
    line = "".join(character if character.isprintable() else "?" for character in str(text))
    return line if len(line) <= width else line[: width - 3] + "..."


def finite(value: Any) -> Any:
    """Return a value for JSON, which has neither NaN nor infinity: they become null."""
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def plural(count: int, thing: str) -> str:
    """Return a count with its noun."""
    return f"{count:,} {thing}" + ("" if count == 1 else "es" if thing.endswith("s") else "s")


def same_file(a: _files.PathLike, b: _files.PathLike) -> bool:
    """Whether two paths name one file."""
    if os.path.exists(a) and os.path.exists(b):
        return os.path.samefile(a, b)
    return os.path.realpath(a) == os.path.realpath(b)


def refuse_options(args: argparse.Namespace, what: str, *names: str) -> None:
    """Refuse options that have no meaning for what the command works on."""
    for name in names:
        if getattr(args, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')} does not apply to {what}")


def is_npz(path: str) -> bool:
    """Whether a path names an NPZ file."""
    return Path(path).suffix.lower() == ".npz"


def name_of(path: str) -> str:
    """Return the name of data without folder and endings, for the files that belong to it."""
    name = Path(path).name
    return Path(name[:-3] if csv_files.is_compressed(name) else name).stem


def fail(message: str, status: int) -> int:
    """Print an error in one line and return the exit status."""
    label = styled("nbnorm: error:", _RED, sys.stderr)
    print(label, " ".join(message.split()), file=sys.stderr, flush=True)
    return status


class Parser(argparse.ArgumentParser):
    """An argument parser with errors of one line."""

    def error(self, message: str) -> NoReturn:
        """Print the error and exit."""
        self.exit(fail(f"{message} (see '{self.prog} --help')", BAD_INPUT))


T = TypeVar("T", int, float)


def _checked(check: Callable[[], T]) -> T:
    try:
        return check()
    except (TypeError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def integer(least: int) -> Callable[[str], int]:
    """Return a type of option: a whole number."""

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}") from None
        return _checked(lambda: _check.integer("the value", value, least=least))

    return convert


def real(**bounds: float) -> Callable[[str], float]:
    """Return a type of option: a finite number within bounds."""

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected a number, got {text!r}") from None
        return _checked(lambda: _check.number("the value", value, **bounds))

    return convert


def add_columns(parser: argparse.ArgumentParser, *, categories: bool = True) -> None:
    """Add what says which columns of a file are read, and how a CSV file is written."""
    group = parser.add_argument_group("columns", "Options with COLUMN may be repeated.")
    for option, dest, what in (
        ("--only", "only", "of the file read this column only"),
        ("--except", "without", "of the file leave this column out"),
    ):
        group.add_argument(option, dest=dest, metavar="COLUMN", action="append", default=[], help=what)
    if categories:
        group.add_argument(
            "--category",
            dest="categories",
            metavar="COLUMN",
            action="append",
            default=[],
            help="take the numbers of this column for names, as of postal codes",
        )
    add_csv(parser)


def add_csv(parser: argparse.ArgumentParser) -> None:
    """Add what says how a CSV file is written."""
    group = parser.add_argument_group("CSV files", "What is not said is guessed, and the guess printed.")
    group.add_argument("--delimiter", metavar="C", type=_delimiter, help="between fields; tab is one")
    group.add_argument("--decimal", metavar="C", choices=(".", ","), help="decimal sign, a point or a comma")
    group.add_argument("--encoding", metavar="NAME", help="such as cp1252 (default: UTF-8)")
    group.add_argument("--comment", metavar="C", help="pass over lines that begin with it")
    header = group.add_mutually_exclusive_group()
    header.add_argument(
        "--header", action="store_true", default=None, help="the first line names the columns, by numbers too"
    )
    header.add_argument(
        "--no-header",
        dest="header",
        action="store_false",
        help="the first line holds data; columns are called x0, x1, ...",
    )


def _delimiter(text: str) -> str:
    return {"tab": "\t", "\\t": "\t", "space": " "}.get(text, text)


def csv_options(args: argparse.Namespace) -> csv_files.CsvOptions:
    """Return what the command line says of how a CSV file is written."""
    return csv_files.CsvOptions(args.delimiter, args.decimal, args.encoding, args.comment, args.header)


def given_columns(args: argparse.Namespace) -> dict[str, Any]:
    """Return what the command line says of a file's columns, as `read_table` takes it."""
    return {"only": args.only, "without": args.without, "options": csv_options(args)}


def refuse_columns(args: argparse.Namespace, what: str) -> None:
    """Refuse all options about columns and CSV files."""
    for name, option in (("only", "--only"), ("without", "--except"), ("categories", "--category")):
        if getattr(args, name, None):
            raise ValueError(f"{option} does not apply to {what}")
    refuse_options(args, what, "delimiter", "decimal", "encoding", "comment", "header")


def _filled(paragraph: str) -> str:
    """Return a paragraph in lines that fit the page; one that holds indented lines stays as it is."""
    return paragraph if "\n  " in "\n" + paragraph else textwrap.fill(paragraph, WIDTH)


def add_command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], summary: str, more: str
) -> argparse.ArgumentParser:
    """Add the parser of a command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary[0].lower() + summary[1:],
        description=summary + ".",
        epilog="\n\n".join(_filled(paragraph) for paragraph in more.strip("\n").split("\n\n")),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON, all else on stderr")
    parser.set_defaults(run=run)
    return parser
