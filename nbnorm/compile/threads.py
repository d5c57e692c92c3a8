"""How many threads work, and whether a kernel runs in parallel."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numba
import numpy as np
from numba import config

# Elements below which a parallel region is not worth it.  A region costs 1-2 us with OpenMP and TBB
# and about 100 us with Numba's workqueue, an element about 0.3 ns; but the parallel twin also has to
# be compiled, which takes seconds, so small work is left to the serial one.
_WORK = {"omp": 131_072, "tbb": 131_072, "workqueue": 2_000_000}

_workqueue_lock = threading.Lock()
_threads: int | None = None
_forked = False


def _limit() -> int:
    """Threads that the environment allows."""
    limit = int(config.NUMBA_NUM_THREADS)
    with contextlib.suppress(ValueError):
        limit = min(limit, int(os.environ.get("OMP_NUM_THREADS", "").split(",")[0]))
    return max(limit, 1)


# Read once: Dask, for one, changes OMP_NUM_THREADS in its own process to start workers with it.
MOST_THREADS = _limit()


def get_num_threads() -> int:
    """Return the number of threads that nbnorm uses at most.

    Returns
    -------
    int
        The number given to `set_num_threads`, otherwise what ``NUMBA_NUM_THREADS``,
        ``OMP_NUM_THREADS`` and the processor allow.  A smaller ``numba.set_num_threads`` in the
        calling thread is respected.

    Examples
    --------
    >>> import nbnorm
    >>> nbnorm.get_num_threads() >= 1
    True
    """
    return min(_most(), _numba_threads()) if _launched() else _most()


def _most() -> int:
    """Threads that the environment, `set_num_threads` and `thread_limit` allow."""
    most = MOST_THREADS if _threads is None else _threads
    return most if _limited.threads is None else min(most, _limited.threads)


class _Limited(threading.local):
    threads: int | None = None


_limited = _Limited()


@contextlib.contextmanager
def thread_limit(n: int) -> Iterator[None]:
    """Let the calling Python thread use at most `n` threads."""
    before, _limited.threads = _limited.threads, n
    try:
        yield
    finally:
        _limited.threads = before


def set_num_threads(n: int | None) -> None:
    """Set the number of threads that nbnorm uses at most, in the whole process.

    Results do not depend on it, to the last bit.

    Parameters
    ----------
    n : int or None
        Between 1 and the number that ``NUMBA_NUM_THREADS``, ``OMP_NUM_THREADS`` and the processor
        allowed when the package was imported; None restores the default.

    Raises
    ------
    TypeError
        If `n` is not an integer.
    ValueError
        If `n` is out of range.

    Examples
    --------
    >>> import nbnorm
    >>> nbnorm.set_num_threads(1)
    >>> nbnorm.get_num_threads()
    1
    >>> nbnorm.set_num_threads(None)
    """
    global _threads
    if n is None:
        _threads = None
        return
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)):
        raise TypeError(f"n must be an integer or None, got {type(n).__name__}")
    if not 1 <= n <= MOST_THREADS:
        raise ValueError(
            f"n must be between 1 and {MOST_THREADS}, which the processor, NUMBA_NUM_THREADS and "
            f"OMP_NUM_THREADS allow, got {n}"
        )
    _threads = int(n)


def _launched() -> bool:
    """Whether Numba's threading layer has been started in this process."""
    parallel = sys.modules.get("numba.np.ufunc.parallel")
    return bool(getattr(parallel, "_is_initialized", False))


def _numba_threads() -> int:
    """Return Numba's number of threads; its threading layer is started the first time."""
    if _launched():  # `numba.get_num_threads` looks for that under two locks, which takes 2 us
        return int(sys.modules["numba.np.ufunc.parallel"]._get_num_threads())
    return int(numba.get_num_threads())


def _after_fork() -> None:
    # GNU OpenMP kills a forked child that enters a region; the other layers have lost their
    # workers.  Serial twins give the same bits.
    global _forked, _workqueue_lock
    _forked = _launched()
    _workqueue_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _launch(pair: Any, work: int, args: tuple[Any, ...]) -> Any:
    most = _most()
    if most == 1 or work < _WORK["omp"] or _forked:
        return pair.serial(*args)
    before = _numba_threads()
    threads = min(most, before)
    layer = numba.threading_layer()
    if threads == 1 or work < _WORK[layer]:
        return pair.serial(*args)
    # The workqueue layer aborts the process when two Python threads enter at once.
    if layer == "workqueue" and not _workqueue_lock.acquire(blocking=False):
        return pair.serial(*args)
    try:
        if threads != before:  # a microsecond each way
            numba.set_num_threads(threads)
        return pair.parallel(*args)
    finally:
        if threads != before:
            numba.set_num_threads(before)
        if layer == "workqueue":
            _workqueue_lock.release()
