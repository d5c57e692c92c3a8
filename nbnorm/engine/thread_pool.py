"""A team of threads that runs one compiled function together.

The training loop synchronises several times a step, too often for a parallel region each: here
every thread runs the whole compiled loop and meets the others at `barrier`, which costs a fraction
of a microsecond.  The threads are Python threads that hold no lock while compiled code runs, so a
team needs no threading layer, may run beside other teams, and is safe after a fork: it is started
for one piece of work and ended with it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

from nbnorm.compile.kernels import inner_kernel, kernel
from nbnorm.simd.target import target

# Places in the synchronisation array, a cache line (or two) apart: threads at the barrier, barriers passed;
# then for each thread how many portions of its work have been taken, of each queue, in turns by an even and
# an odd number of barriers passed.
_ARRIVED, _TURN, _TAKEN, _LINE = 0, 16, 32, 16
_QUEUES = 3

# A thread's work is taken in portions of at least this part of it.
_LEAST = 16

# Spins before a waiting thread offers its core to others: about 20 us, longer than any wait of a
# balanced team and short against a time slice on a crowded machine.
_SPINS = 500


def new_sync(threads: int) -> Any:
    """Return the zeroed array through which a team of up to so many threads meets."""
    return np.zeros(_TAKEN + threads * _LINE, np.int64)


def _address(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    data = cgutils.create_struct_proxy(array_type)(context, builder, array).data
    return builder.gep(data, [index], inbounds=True)


if config.DISABLE_JIT:  # interpreted teams have one thread

    def atomic_add(array: Any, index: int, value: int) -> int:
        """Add and return the value before."""
        before = int(array[index])
        array[index] += value
        return before

    def atomic_load(array: Any, index: int) -> int:
        """Return the present value."""
        return int(array[index])

    def pause() -> None:
        """Rest for some cycles."""

    def give_way() -> None:
        """Offer the core to other threads."""

else:

    @intrinsic
    def atomic_add(typingctx: Any, array: Any, index: Any, value: Any) -> Any:
        """Add to an int64 element, return the value before; sequentially consistent."""

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            place = _address(context, builder, sig.args[0], args[0], args[1])
            return builder.atomic_rmw("add", place, args[2], "seq_cst")

        return types.int64(array, types.int64, types.int64), codegen

    @intrinsic
    def atomic_load(typingctx: Any, array: Any, index: Any) -> Any:
        """Read an int64 element that another thread may have written."""

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            place = _address(context, builder, sig.args[0], args[0], args[1])
            return builder.load_atomic(place, "seq_cst", align=8)

        return types.int64(array, types.int64), codegen

    @intrinsic
    def pause(typingctx: Any) -> Any:
        """Rest for some cycles, as a spinning thread should."""

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            machine, integer = target().architecture, ir.IntType(32)
            if machine == "x86_64":
                hint, kinds, values = "llvm.x86.sse2.pause", [], []
            elif machine in ("arm64", "aarch64"):
                hint, kinds, values = "llvm.aarch64.hint", [integer], [integer(1)]
            else:
                return context.get_dummy_value()
            signature = ir.FunctionType(ir.VoidType(), kinds)
            builder.call(cgutils.get_or_insert_function(builder.module, signature, hint), values)
            return context.get_dummy_value()

        return types.void(), codegen

    @intrinsic
    def give_way(typingctx: Any) -> Any:
        """Offer the core to other threads of the system."""

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            name = "SwitchToThread" if sys.platform == "win32" else "sched_yield"
            signature = ir.FunctionType(ir.IntType(32), [])
            builder.call(cgutils.get_or_insert_function(builder.module, signature, name), [])
            return context.get_dummy_value()

        return types.void(), codegen


@inner_kernel
def barrier(sync: Any, tid: Any, threads: Any) -> None:
    """Wait until all `threads` threads of the team have come here."""
    if threads == 1:
        return
    turn = atomic_load(sync, _TURN)
    for queue in range(_QUEUES):  # nobody looks at those of the next turn yet
        sync[_TAKEN + tid * _LINE + 2 * queue + (turn + 1) % 2] = 0
    if atomic_add(sync, _ARRIVED, 1) == threads - 1:
        atomic_add(sync, _ARRIVED, -threads)
        atomic_add(sync, _TURN, 1)
        return
    spins = 0
    while atomic_load(sync, _TURN) == turn:
        pause()
        spins += 1
        if spins > _SPINS:
            give_way()


@kernel(inline="always")
def share(total: Any, tid: Any, threads: Any) -> Any:
    """Range of the items that a thread owns."""
    return total * tid // threads, total * (tid + 1) // threads


@inner_kernel
def _portion(total: Any, owner: Any, threads: Any, number: Any) -> Any:
    """Portion `number` of a thread's items: half of those that are left, down to a least size."""
    begin, last = share(total, owner, threads)
    least = max((last - begin) // _LEAST, 1)
    end = begin
    for _ in range(number + 1):
        begin = end
        end = min(begin + max((last - begin + 1) // 2, least), last)
    return begin, end


@inner_kernel
def claim(sync: Any, queue: Any, tid: Any, threads: Any, total: Any) -> Any:
    """Return the next range of `total` items, at least one, that a thread works on, empty if all are taken.

    A thread that has begun with a queue goes on until it gets the empty range, and then leaves it alone.
    Between two barriers the items of a queue are divided evenly; a thread that has finished its own goes on
    with those of others, which have been disturbed or run on a slower core.
    """
    if threads == 1:
        place = _TAKEN + 2 * queue
        taken = sync[place]
        sync[place] = 1 - taken
        return taken * total, total
    odd = atomic_load(sync, _TURN) % 2
    for k in range(threads):
        owner = (tid + k) % threads
        place = _TAKEN + owner * _LINE + 2 * queue + odd
        begin, end = _portion(total, owner, threads, atomic_load(sync, place))
        if begin < end:  # another thread may have been faster
            begin, end = _portion(total, owner, threads, atomic_add(sync, place, 1))
            if begin < end:
                return begin, end
    return total, total


class Team:
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
        self._work: tuple[Callable[..., Any], tuple[Any, ...]] | None = None
        self._left = 0
        self._error: BaseException | None = None
        self._finished = threading.Event()
        self._threads = [
            threading.Thread(target=self._serve, args=(number,), daemon=True, name=f"nbnorm-{number}")
            for number in range(threads)
        ]

    def __enter__(self) -> Team:
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
            function, args = work
            try:
                function(number, self._size, *args)
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
    ) -> None:
        """Call ``function(number, threads, *args)`` in every thread and wait for all.

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
                self._work = (function, args)
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
