"""Several trainings side by side, each on one thread.

A small network cannot use two threads, because its steps are too short to be divided; two networks can.
Each job runs in a Python thread of its own.  Their compiled steps hold no lock, and take turns where
there are more jobs than threads, so that all of them end at about the same time.  A turn lasts over
several short tasks and the Python code between them: a hand-over costs more than such a task, as
the next thread has to wake up and to wait for the interpreter.  A job begins with a turn: the Python code
that prepares the training of one would otherwise keep the interpreter from those that train already.
"""

from __future__ import annotations

import collections
import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import TypeVar

from nbnorm.compile.threads import get_num_threads, thread_limit

Result = TypeVar("Result")

# Seconds after which a turn ends.
_TURN = 0.02


class Turns:
    """A semaphore whose waiting threads enter in the order in which they have come.

    Parameters
    ----------
    count : int
        Threads that may be inside at the same time.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._lock = threading.Lock()
        self._waiting: collections.deque[threading.Lock] = collections.deque()

    def __enter__(self) -> None:
        with self._lock:
            if self._free and not self._waiting:
                self._free -= 1
                return
            mine = threading.Lock()
            mine.acquire()
            self._waiting.append(mine)
        mine.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._free += 1


class _ThreadState(threading.local):
    """What the present thread belongs to: nothing, or the jobs that run side by side."""

    turns: Turns | None = None
    stop: threading.Event | None = None
    begun: float | None = None  # when its turn began, if it has one


_state = _ThreadState()


@contextlib.contextmanager
def turn() -> Iterator[None]:
    """Run some compiled work when it is the present thread's turn.

    Raises
    ------
    KeyboardInterrupt
        If the jobs to which this thread belongs were told to stop.
    """
    if _state.turns is None or _state.stop is None:
        yield
        return
    begun = begin_turn()
    try:
        yield
    finally:
        if time.perf_counter() - begun >= _TURN:
            end_turn()
    if _state.stop.is_set():
        raise KeyboardInterrupt


def begin_turn() -> float:
    """Wait for the present thread's turn, if it has none, and return when it began."""
    assert _state.turns is not None
    if _state.begun is None:
        _state.turns.__enter__()
        _state.begun = time.perf_counter()
    return _state.begun


def end_turn() -> None:
    """End the present thread's turn, if it has one: before code that may wait for another job."""
    if _state.turns is not None and _state.begun is not None:
        _state.begun = None
        _state.turns.__exit__(None, None, None)


def side_by_side(jobs: Sequence[Callable[[], Result]]) -> list[Result | BaseException | None]:
    """Call all jobs, as many at the same time as there are threads, and wait for all.

    Parameters
    ----------
    jobs : sequence of callables
        Each trains by itself, on one thread.

    Returns
    -------
    list
        Of each job what it returned, or the exception with which it ended; None where Ctrl-C came before
        it began.  Ctrl-C reaches all jobs, as it reaches a single training.
    """
    threads = min(get_num_threads(), len(jobs))
    results: list[Result | BaseException | None] = [None] * len(jobs)
    stop = threading.Event()
    turns = Turns(threads)

    # Not `Thread.join`: an interrupt in the middle of it can leave a thread that runs marked as ended.
    ended = [threading.Event() for _ in jobs]

    def work(number: int) -> None:
        _state.turns, _state.stop = turns, stop
        try:
            begin_turn()
            with thread_limit(1):
                if not stop.is_set():
                    results[number] = jobs[number]()
        except BaseException as error:  # the caller decides
            results[number] = error
        finally:
            end_turn()
            ended[number].set()

    workers = [
        threading.Thread(target=work, args=(number,), name=f"nbnorm-job-{number}", daemon=True)
        for number in range(len(jobs))
    ]
    try:
        for worker in workers:
            worker.start()
        for event in ended:
            while not event.wait(0.1):
                pass
    except KeyboardInterrupt:
        stop.set()
        for worker, event in zip(workers, ended, strict=True):
            if worker.ident is not None:  # one that has just been started sees that it must not begin
                event.wait()
    return results
