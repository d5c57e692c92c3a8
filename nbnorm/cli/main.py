"""The command line: one module for each command, this one for what happens around them.

Exit status: 0 done; 1 failed (training diverged, a gradient is wrong, memory was short, nobody reads the
output any more); 2 bad input (options, or a file that cannot be read or written); 130 ended by Ctrl-C; 143
ended by SIGTERM.
"""

from __future__ import annotations

import argparse
import codecs
import contextlib
import io
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import NoReturn

from nbnorm import __version__
from nbnorm.cli import completion, convert, evaluate, gradcheck, info, predict, standardize, train, warmup
from nbnorm.cli.common import (
    BAD_INPUT,
    FAILED,
    INTERRUPTED,
    TERMINATED,
    HelpFormatter,
    OutputError,
    Parser,
    fail,
    finite,
    is_first_rank,
    output,
    say,
    wrapped,
)
from nbnorm.compile import threads
from nbnorm.compile.clock import announced


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="nbnorm",
        description="Standardize data, train batch-normalized networks, predict with them.",
        epilog="Begin with: nbnorm train",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"nbnorm {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in (train, predict, evaluate, info, standardize, convert, gradcheck, warmup, completion):
        command.add(commands)
    return parser


def _as_bytes(error: UnicodeError) -> tuple[str | bytes, int]:
    """Write what Python could not read of a file's name as it is, if that is UTF-8, otherwise escaped."""
    assert isinstance(error, UnicodeEncodeError)
    try:
        found = error.object[error.start : error.end].encode("utf-8", "surrogateescape")
        found.decode("utf-8")
    except UnicodeError:
        return codecs.backslashreplace_errors(error)
    return found, error.end


codecs.register_error("nbnorm", _as_bytes)


@contextlib.contextmanager
def _utf8() -> Iterator[None]:
    """Write UTF-8, whatever the console or the locale says."""
    before = []
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            before.append((stream, stream.encoding, stream.errors))
            stream.reconfigure(encoding="utf-8", errors="nbnorm")
    try:
        yield
    finally:
        for stream, encoding, errors in before:
            with contextlib.suppress(OSError, ValueError):  # closed meanwhile
                stream.reconfigure(encoding=encoding, errors=errors)


class _Ending:
    """Within its block SIGTERM ends a command as Ctrl-C does: files are whole, temporary ones removed.

    Attributes
    ----------
    status : int
        Exit status of a command that a signal has ended.
    """

    def __init__(self) -> None:
        self.status = INTERRUPTED
        self._takes = False

    def __enter__(self) -> None:
        # handlers belong to the main thread, and one that the caller has set is his own
        self._takes = (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        )
        if self._takes:
            signal.signal(signal.SIGTERM, self._end)

    def _end(self, number: int, frame: FrameType | None) -> NoReturn:
        self.status = TERMINATED
        raise KeyboardInterrupt

    def __exit__(self, *error: object) -> None:
        if self._takes:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _announcement(args: argparse.Namespace) -> Callable[[bool], None]:
    """Return what says that code is compiled, on the stream where a command shows its progress."""

    def announce(kept: bool) -> None:
        text = "Compiling for this processor, which takes about 10 seconds and happens once"
        if not kept:
            text = (
                "Compiling for this processor, about 10 seconds, in every run: no folder for the code can be "
                "written; set NUMBA_CACHE_DIR to one"
            )
        if args.command == "train":
            if not args.quiet:
                say(text)
        elif not getattr(args, "quiet", False):
            print("\n".join(wrapped(text, sys.stderr)), file=sys.stderr, flush=True)

    return announce


def _subject(args: argparse.Namespace) -> str:
    """Return the data that a command works on."""
    names = (getattr(args, name, None) for name in ("data", "file", "source", "model", "command"))
    return str(next(name for name in names if name is not None))


def _lost_output(error: OutputError) -> int:
    """Report that standard output takes no more; a reader that has gone wants to hear nothing."""
    with contextlib.suppress(OSError, ValueError):
        # Python would complain once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    cause = error.args[0]
    return (
        FAILED if isinstance(cause, BrokenPipeError) else fail(f"standard output: {cause.strerror}", FAILED)
    )


def _fail(args: argparse.Namespace, message: str, status: int) -> int:
    """Report an error; one that all ranks of a training meet before they talk is said by the first alone.

    Processes that work by themselves, each perhaps on another file, say their own errors.
    """
    silent = getattr(args, "mpi", None) and not args.connected and not is_first_rank()
    return status if silent else fail(message, status)


def _run(args: argparse.Namespace) -> int:
    """Run a command; with ``--json`` its result alone goes to standard output, and all else beside it."""
    args.result = {}
    if not args.json:
        return int(args.run(args))
    with contextlib.redirect_stdout(sys.stderr):
        status = int(args.run(args))
    if args.result:
        with output() as out:
            print(json.dumps(finite(args.result), allow_nan=False), file=out)
    return status


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name, by default those of the process.

    Returns
    -------
    int
        Exit status: 0 done, 1 failed, 2 bad input, 130 ended by Ctrl-C, 143 by SIGTERM.

    Raises
    ------
    SystemExit
        For ``--help``, ``--version`` and malformed arguments, as argparse does.

    Examples
    --------
    >>> main(["predict", "no-such-model.npz", "digits"])
    2
    """
    with _utf8():
        args = _parser().parse_args(argv)
        args.ending, args.connected = _Ending(), False
        try:
            with args.ending, announced(_announcement(args)):
                if args.threads is not None:
                    threads.set_num_threads(min(args.threads, threads.MOST_THREADS))
                return _run(args)
        except KeyboardInterrupt:
            return _fail(args, "interrupted", args.ending.status)
        except OutputError as error:
            return _lost_output(error)
        except MemoryError as error:
            return _fail(
                args, f"{_subject(args)}: out of memory" + (f": {error}" if str(error) else ""), FAILED
            )
        except OSError as error:
            named = error.filename is not None and error.strerror
            return _fail(args, f"{error.filename}: {error.strerror}" if named else str(error), BAD_INPUT)
        except (ValueError, TypeError, ImportError) as error:
            return _fail(args, str(error), BAD_INPUT)
        finally:
            if args.threads is not None:
                threads.set_num_threads(None)
