"""The time that compilation takes, how it is announced, and interrupts amid it."""

from __future__ import annotations

import contextlib
import gc
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from nbnorm.compile.folder import cache_folder
from nbnorm.compile.numba_start import get_ready
from nbnorm.compile.passes import code_of_the_package


class _Compilation(threading.local):
    """What the present thread compiles, and how long it has done so."""

    begun: float | None = None  # when its outermost compilation began, if it is in one
    fresh = False  # whether that one had to compile, or has found all code in the cache
    interrupted = False  # whether a signal that ends the program waits for its end
    seconds = 0.0
    missing: Callable[[], None] | None = None  # what to do when code is missing

    def begins(self, cached: bool = True) -> None:
        """Note that code is missing; the first time in a process, say so where somebody wants to know."""
        global _announce
        self.fresh = True
        call = _announce
        if cached and call is not None:
            _announce = None
            call(cache_folder() is not None)
        missing = self.missing
        if cached and missing is not None:
            self.missing = None
            missing()


_compilation = _Compilation()
_announce: Callable[[bool], None] | None = None


@contextlib.contextmanager
def announced(call: Callable[[bool], None]) -> Iterator[None]:
    """Within the block, call `call` once if code has to be compiled because it is not in the cache.

    Its argument says whether the code can be kept for the next time.
    """
    global _announce
    before, _announce = _announce, call
    try:
        yield
    finally:
        _announce = before


@contextlib.contextmanager
def on_missing(call: Callable[[], None]) -> Iterator[None]:
    """Within the block, call `call` once if this thread needs code that is not in the cache."""
    before, _compilation.missing = _compilation.missing, call
    try:
        yield
    finally:
        _compilation.missing = before


def compile_seconds() -> float:
    """Return the seconds that this thread has compiled code for; what is in the cache takes none."""
    return _compilation.seconds


def clock() -> float:
    """Return the time in seconds, compilation by this thread left out."""
    return time.perf_counter() - _compilation.seconds


@contextlib.contextmanager
def compiling() -> Iterator[None]:
    """Take the time of a compilation, or of a look into the cache, and hold interrupts back meanwhile."""
    if _compilation.begun is not None:  # a function that the one being compiled calls
        yield
        return
    _compilation.begun, _compilation.fresh = time.perf_counter(), False
    try:
        with _held_back(), _uncollected(), code_of_the_package():
            get_ready()
            yield
    finally:
        if _compilation.fresh:
            _compilation.seconds += time.perf_counter() - _compilation.begun
        _compilation.begun = None


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Hold the garbage collector back: it takes a sixth of the time of a compilation and finds little."""
    if not gc.isenabled():  # by the user, or by another thread that compiles
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextlib.contextmanager
def _held_back() -> Iterator[None]:
    """Let the handlers of signals that end a program wait for the end of the block.

    Amid a compilation the exception that a handler raises may come up in a callback of LLVM, which can
    only drop it, or leave a function half known to Numba.  A second signal does not wait.
    """
    if threading.current_thread() is not threading.main_thread():  # handlers run in the main thread
        yield
        return
    handlers: dict[int, Callable[..., Any]] = {}
    arrived: list[int] = []

    def note(number: int, frame: Any) -> None:
        if number in arrived:
            handlers[number](number, frame)
        else:
            arrived.append(number)
            _compilation.interrupted = True

    for taken in (signal.SIGINT, signal.SIGTERM):
        handler = signal.getsignal(taken)
        if callable(handler):  # neither ignored nor left to the system
            handlers[taken] = handler
            signal.signal(taken, note)
    try:
        yield
    finally:
        _compilation.interrupted = False
        for number, handler in reversed(handlers.items()):
            signal.signal(number, handler)
        for number in arrived:
            handlers[number](number, None)
