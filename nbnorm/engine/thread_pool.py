"""A thread pool that runs one compiled function together, its barrier and its work stealing.

The training loop synchronizes several times a step, too often for a parallel region each: here
every thread runs the whole compiled loop and meets the others at `barrier`, which costs a fraction
of a microsecond.  The threads are Python threads that hold no lock while compiled code runs, so a
pool needs no threading layer, may run beside other pools, and is safe after a fork: it is started
for one training and ended with it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

import numpy as np

from nbnorm import simd
from nbnorm.compile.atomics import atomic_add, atomic_load, pause, yield_core
from nbnorm.compile.kernels import kernel, linked_kernel

# Offsets in the synchronization array, a cache line (or two) apart: threads at the barrier, barriers passed;
# then for each thread how many chunks of its range have been given out, of each queue, in turns by an even
# and an odd number of barriers passed.
_ARRIVED, _TURN, _CHUNKS, _LINE = 0, 16, 32, 16
_QUEUES = 3

# A thread's range is given out in chunks of at least this part of it.
_LEAST = 16

# Spins before a waiting thread offers its core to others: about 20 us, longer than any wait of a
# balanced step and short against a time slice on a crowded machine.
_SPINS = 500


def new_sync(threads: int) -> Any:
    """Return the zeroed array through which up to so many threads meet."""
    return np.zeros(_CHUNKS + threads * _LINE, np.int64)


@linked_kernel
def barrier(sync: Any, tid: Any, threads: Any) -> None:
    """Wait until all `threads` threads have come here."""
    if threads == 1:
        return
    turn = atomic_load(sync, _TURN)
    for queue in range(_QUEUES):  # nobody looks at those of the next turn yet
        sync[_CHUNKS + tid * _LINE + 2 * queue + (turn + 1) % 2] = 0
    if atomic_add(sync, _ARRIVED, 1) == threads - 1:
        atomic_add(sync, _ARRIVED, -threads)
        atomic_add(sync, _TURN, 1)
        return
    spins = 0
    while atomic_load(sync, _TURN) == turn:
        pause()
        spins += 1
        if spins > _SPINS:
            yield_core()


@kernel(inline="always")
def thread_range(total: Any, tid: Any, threads: Any) -> Any:
    """Range of the items that are a thread's own."""
    return total * tid // threads, total * (tid + 1) // threads


@linked_kernel
def _chunk(total: Any, owner: Any, threads: Any, number: Any) -> Any:
    """Chunk `number` of a thread's range: half of what is left, down to a least size."""
    begin, last = thread_range(total, owner, threads)
    least = simd.max((last - begin) // _LEAST, 1)
    end = begin
    for _ in range(number + 1):
        begin = end
        end = simd.min(begin + simd.max((last - begin + 1) // 2, least), last)
    return begin, end


@linked_kernel
def next_chunk(sync: Any, queue: Any, tid: Any, threads: Any, total: Any) -> Any:
    """Return the next range of `total` items that a thread works on, empty if none is left.

    A thread that has begun with a queue goes on until it gets the empty range, and then leaves it alone.
    Between two barriers the items of a queue are divided evenly; a thread that has finished its own range
    steals chunks of the others', which have been disturbed or run on a slower core.
    """
    if threads == 1:
        counter = _CHUNKS + 2 * queue
        done = sync[counter]
        sync[counter] = 1 - done
        return done * total, total
    odd = atomic_load(sync, _TURN) % 2
    for k in range(threads):
        owner = (tid + k) % threads
        counter = _CHUNKS + owner * _LINE + 2 * queue + odd
        begin, end = _chunk(total, owner, threads, atomic_load(sync, counter))
        if begin < end:  # another thread may have been faster
            begin, end = _chunk(total, owner, threads, atomic_add(sync, counter, 1))
            if begin < end:
                return begin, end
    return total, total


class ThreadPool:
    """Threads that run the same function, each with its own number.

    Parameters
    ----------
    threads : int
        Number of threads, at least 2.

    Notes
    -----
    Use it in a ``with`` statement: the threads start with the first `run` and end with the block,
    so that an interrupt at any moment leaves none behind.
    """

    def __init__(self, threads: int) -> None:
        self._size = threads
        self._condition = threading.Condition()
        self._turn = 0
        self._work: tuple[Callable[..., Any], tuple[Any, ...], int] | None = None
        self._left = 0
        self._error: BaseException | None = None
        self._finished = threading.Event()
        self._threads = [
            threading.Thread(target=self._serve, args=(number,), daemon=True, name=f"nbnorm-{number}")
            for number in range(threads)
        ]

    @property
    def size(self) -> int:
        """Number of threads."""
        return self._size

    def __enter__(self) -> ThreadPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._end()
        except BaseException:  # an interrupt in between
            self._end()
            raise

    def _end(self) -> None:
        with self._condition:
            self._work = None
            self._turn += 1
            self._condition.notify_all()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _serve(self, number: int) -> None:
        turn = 0
        while True:
            with self._condition:
                self._condition.wait_for(lambda seen=turn: self._turn != seen)  # type: ignore[misc]
                turn = self._turn
                work = self._work
            if work is None:
                return
            function, args, threads = work
            try:
                if number < threads:
                    function(number, threads, *args)
            except BaseException as error:  # reported by `run` in the caller's thread
                self._error = error
            with self._condition:
                self._left -= 1
                if self._left == 0:
                    self._finished.set()

    def run(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        poll: Callable[[], None],
        stop: Callable[[], None],
        threads: int | None = None,
    ) -> None:
        """Call ``function(number, threads, *args)`` in every thread, or in so many, and wait for all.

        `poll` is called in the caller's thread about ten times a second meanwhile.  If it raises,
        or an interrupt arrives, `stop` is called, which must make the function return soon, and
        the exception goes on when all threads have come back.
        """
        turn = self._turn
        try:
            for thread in self._threads:
                if thread.ident is None:
                    thread.start()
            with self._condition:
                # The last assignment starts all threads or none, whenever an interrupt arrives.
                self._finished.clear()
                self._left = self._size
                self._work = (function, args, self._size if threads is None else threads)
                self._turn += 1
                self._condition.notify_all()
            while not self._finished.wait(0.1):
                poll()
        except BaseException:
            stop()
            if self._turn != turn:
                with self._condition:
                    self._condition.notify_all()
                self._finished.wait()
            raise
        if self._error is not None:
            error, self._error = self._error, None
            raise error
