"""What several commands need: output, errors, exit status and the types of options."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import math
import os
import sys
import textwrap
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO, TypeAlias, TypeVar

from nbnorm import _check, _files
from nbnorm.data import csv_files, number_formats

FAILED, BAD_INPUT, INTERRUPTED, TERMINATED = 1, 2, 130, 143
# What `add_subparsers` gives: the commands are added to it.
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
# Columns of a page, and of one on the narrowest terminal.
WIDTH, _NARROWEST = 80, 40
# Stands for a space at which no line is broken.
_SPACE = "\ue020"
# The number that MPICH and Intel MPI, Open MPI, MVAPICH, PMIx and Slurm give each process that they start.
# Those of mpiexec come first: a process that a job of Slurm has numbered may have called it.
_RANKS = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK", "PMIX_RANK", "SLURM_PROCID")
BOLD, _RED = 1, 31
# How arguments that name a file or a folder are called.
_FILES = ("DATA", "MODEL", "FILE", "IN", "OUT", "DIR")
# How alike a word and what was meant are at least: --uot stands for --out, and --out not for --dropout.
_NEAR = 0.65


class OutputError(Exception):
    """Standard output takes no more: its reader has gone, or the disk is full."""


@contextlib.contextmanager
def output() -> Iterator[TextIO]:
    """Write to standard output, now and not when Python ends."""
    try:
        yield sys.stdout
        sys.stdout.flush()
    except OSError as error:
        raise OutputError(error) from error


def page(stream: TextIO | None = None) -> int:
    """Return the columns of a page: fewer where the terminal, or the variable COLUMNS, has fewer."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns):
        return max(min(WIDTH, int(columns)), _NARROWEST)
    try:
        found = os.get_terminal_size((stream or sys.stdout).fileno()).columns
    except (AttributeError, OSError, ValueError):  # no terminal, or no file
        return WIDTH
    return max(min(WIDTH, found or WIDTH), _NARROWEST)


def say(text: str) -> None:
    """Print lines, each as several where it is longer than the page; `whole` parts are not divided."""
    with output() as out:
        for line in text.split("\n"):
            print("\n".join(wrapped(line)), file=out)


def whole(text: object) -> str:
    """Return text, most of all the name of a file, that `say` prints without a line break in it."""
    return str(text).replace(" ", _SPACE)


def wrapped(text: str, stream: TextIO | None = None) -> list[str]:
    """Return text in lines that fit the page, those after the first indented two columns more."""
    most, indent = page(stream), " " * (len(text) - len(text.lstrip(" ")) + 2)
    lines, line = [], ""
    for at, word in enumerate(text.split(" ")):
        longer = f"{line} {word}" if at else word
        if columns(longer) <= most or not line.strip():
            line = longer
        else:
            lines.append(line)
            line = indent + word
    return [one.rstrip(" ").replace(_SPACE, " ") for one in (*lines, line)]


def columns(text: str) -> int:
    """Return the columns that text takes on a terminal: two for a wide character of East Asia."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(one) else 2 if unicodedata.east_asian_width(one) in "WF" else 1
        for one in text
    )


def tabulated(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of cells in lines that fit the page: the first column to the left, the others to the right.

    Where the columns do not fit, the first has a line of its own, and as many of the others as fit one below.
    """
    widths = [max(map(columns, cells)) for cells in zip(*rows, strict=True)]
    most = page()
    folds: list[list[int]] = [[0]]
    used = 2 + widths[0]
    if used + sum(2 + width for width in widths[1:]) > most:
        used = most
    for k, width in enumerate(widths[1:], 1):
        if used + 2 + width > most:
            folds.append([])
            used = 2
        folds[-1].append(k)
        used += 2 + width
    lines = []
    for row in rows:
        cells = [padded(row[0], widths[0]) if len(folds) == 1 else row[0].strip()]
        cells += [
            " " * (width - columns(cell)) + cell for cell, width in zip(row[1:], widths[1:], strict=True)
        ]
        for at, fold in enumerate(folds):
            lines.append("  ".join(["" if not at else "  ", *(cells[k] for k in fold)]).rstrip())
    return lines


def padded(text: str, width: int) -> str:
    """Return text with spaces behind it up to a width in columns."""
    return text + " " * (width - columns(text))


def styled(text: str, code: int, stream: TextIO) -> str:
    """Return text in a colour or style of terminals, bare where the stream is none or NO_COLOR is set."""
    if not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\33[{code}m{text}\33[0m"


def clipped(text: object, width: int) -> str:
    """Return text without control characters, its middle left out where it is wider than `width`."""
    line = "".join(character if character.isprintable() else "?" for character in str(text))
    if columns(line) <= width:
        return line
    head, tail = "", ""
    for character in line:
        if columns(head + character) > (width - 3) - (width - 3) // 3:
            break
        head += character
    for character in reversed(line):
        if columns(character + tail) > (width - 3) // 3:
            break
        tail = character + tail
    return f"{head}...{tail}"


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


def is_first_rank() -> bool:
    """Whether this process is the first, or the only one, of a parallel program, as its launcher says."""
    number = next((os.environ[name] for name in _RANKS if os.environ.get(name)), "0")
    return number.strip() == "0"


def fail(message: str, status: int) -> int:
    """Print an error in one line and return the exit status."""
    label = styled("nbnorm: error:", _RED, sys.stderr)
    print(label, " ".join(message.split()), file=sys.stderr, flush=True)
    return status


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """A help text of at most one page's width, whatever the terminal's; lines of examples stay lines."""

    def __init__(self, prog: str, **options: Any) -> None:
        super().__init__(prog, **{"width": page() - 2, **options})

    def add_usage(self, usage: Any, actions: Any, groups: Any, prefix: str | None = None) -> None:
        """Add the usage; on a narrow page the options stand below it alone."""
        if page() < WIDTH and any(one.option_strings for one in actions):
            options = argparse.Action(["options"], "options", nargs=0)
            actions, groups = [options, *(one for one in actions if not one.option_strings)], []
        super().add_usage(usage, actions, groups, prefix)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.strip("\n").split("\n\n")
        return "\n\n".join("\n".join(_filled(paragraph, indent)) for paragraph in paragraphs)


def _filled(paragraph: str, indent: str) -> list[str]:
    """Return a paragraph in lines that fit the page; one that holds indented lines keeps its lines."""
    if "\n  " in "\n" + paragraph:
        return [part for line in paragraph.split("\n") for part in wrapped(line)]
    return textwrap.wrap(paragraph, page(), initial_indent=indent, subsequent_indent=indent)


class Parser(argparse.ArgumentParser):
    """An argument parser with errors of one line, which name the help of the command at hand."""

    _words: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse arguments; what is not known is an error of this command, not of the whole program."""
        self._words = sys.argv[1:] if args is None else list(args)
        namespace, others = super().parse_known_args(args, namespace)
        if others:
            self.error(f"unrecognized arguments: {' '.join(others)}")
        for action in self._actions:
            if action.metavar in _FILES and getattr(namespace, action.dest, None) == "":
                self.error(
                    f"argument {'/'.join(action.option_strings) or action.metavar}: expected a name, got ''"
                )
        return namespace, others

    def error(self, message: str) -> NoReturn:
        """Print the error, in a program of several processes by the first one alone, and exit."""
        if not is_first_rank():
            self.exit(BAD_INPUT)
        near = ", ".join(self._meant())
        hint = f"; did you mean {near}?" if near else ""
        self.exit(fail(f"{message}{hint} (see '{self.prog} --help')", BAD_INPUT))

    def _meant(self) -> Iterator[str]:
        """Yield what is nearest to each word that is no option, or no command, of this parser."""
        options = [one for one in self._option_string_actions if one.startswith("--")]
        commands = [
            name for one in self._actions if one.nargs == argparse.PARSER for name in one.choices or ()
        ]
        for word in self._words:
            if word == "--" or (commands and not word.startswith("-")):
                yield from _nearest(word, commands)
                return  # what follows belongs to the command, or is no option
            option = word.partition("=")[0]
            if option.startswith("--") and not any(one.startswith(option) for one in options):
                yield from _nearest(option, options)


def _nearest(word: str, known: Sequence[str]) -> Iterator[str]:
    """Yield the nearest of the known words, if the word is none of them and one is near."""
    if word not in known:
        bare = {one.lstrip("-"): one for one in known}
        for found in difflib.get_close_matches(word.lstrip("-"), bare, n=1, cutoff=_NEAR):
            yield bare[found]


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
        ("--only", "only", "read only this column of the file"),
        ("--except", "without", "leave this column of the file out"),
    ):
        group.add_argument(option, dest=dest, metavar="COLUMN", action="append", default=[], help=what)
    if categories:
        group.add_argument(
            "--category",
            dest="categories",
            metavar="COLUMN",
            action="append",
            default=[],
            help="treat the numbers of this column as names, such as postal codes",
        )
    add_csv(parser)


def add_csv(parser: argparse.ArgumentParser) -> None:
    """Add what says how a CSV file is written."""
    group = parser.add_argument_group("CSV files", "What is not given is guessed, and the guess is printed.")
    group.add_argument("--delimiter", metavar="C", type=_delimiter, help="field separator, such as ; or tab")
    group.add_argument("--decimal", metavar="C", choices=(".", ","), help="decimal sign: a point or a comma")
    group.add_argument(
        "--thousands",
        metavar="C",
        choices=(*number_formats.THOUSANDS, "space", "none"),
        help="separator of thousands: a comma, a point, an apostrophe, space or none",
    )
    group.add_argument(
        "--date-format",
        metavar="FORMAT",
        help="format of dates other than 2024-12-31 and 31.12.2024, such as %%d/%%m/%%Y or %%m/%%d/%%y",
    )
    group.add_argument("--encoding", metavar="NAME", help="text encoding, such as cp1252 (default: UTF-8)")
    group.add_argument("--comment", metavar="C", help="skip lines that begin with this character")
    header = group.add_mutually_exclusive_group()
    header.add_argument(
        "--header",
        action="store_true",
        default=None,
        help="the first line names the columns, as numbers too",
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
    thousands = {"space": " ", "none": ""}.get(args.thousands, args.thousands)
    return csv_files.CsvOptions(
        args.delimiter, args.decimal, args.encoding, args.comment, args.header, thousands, args.date_format
    )


def given_columns(args: argparse.Namespace) -> dict[str, Any]:
    """Return what the command line says of a file's columns, as `read_table` takes it."""
    return {"only": args.only, "without": args.without, "options": csv_options(args)}


def refuse_columns(args: argparse.Namespace, what: str) -> None:
    """Refuse all options about columns and CSV files."""
    for name, option in (("only", "--only"), ("without", "--except"), ("categories", "--category")):
        if getattr(args, name, None):
            raise ValueError(f"{option} does not apply to {what}")
    refuse_options(
        args, what, "delimiter", "decimal", "thousands", "date_format", "encoding", "comment", "header"
    )


def add_command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], int], summary: str, more: str
) -> argparse.ArgumentParser:
    """Add the parser of a command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary[0].lower() + summary[1:],
        description=summary + ".",
        epilog=more,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON, all else on stderr")
    parser.set_defaults(run=run)
    return parser
