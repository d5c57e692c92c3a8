"""Jobs on workers, of a Dask client or a backend of joblib.

Each worker gets the data once, and a job whose worker dies runs again.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from nbnorm._types import DaskClient
from nbnorm.compile.threads import get_num_threads, thread_limit

Job = TypeVar("Job")
Result = TypeVar("Result")

# How often a job is begun before its worker's death is taken for its own fault.
_ATTEMPTS = 3


class JoblibBackend:
    """The backend that ``joblib.parallel_config`` has made the active one.

    Parameters
    ----------
    threads : int or None
        Threads of a job that runs in this process.
    """

    def __init__(self, threads: int | None) -> None:
        self.threads = threads


def workers(client: DaskClient | None) -> Any:
    """Return what has workers: a client, or the backend of joblib that is active; None if there are none.

    Within a job of joblib there are none, because that one's workers are busy.

    Raises
    ------
    TypeError
        If `client` is something else.
    """
    if client is not None:
        if not all(callable(getattr(client, name, None)) for name in ("scatter", "submit")):
            raise TypeError(f"client must be a dask.distributed.Client, got {type(client).__name__}")
        return client
    joblib = sys.modules.get("joblib")
    if joblib is None:
        return None
    backend, n_jobs = joblib.parallel.get_active_backend()
    if n_jobs in (None, 1) or backend.nesting_level:
        return None
    if hasattr(backend, "client"):  # Dask's, which by itself does not get over the death of a worker
        return backend.client
    inside = getattr(backend, "uses_threads", False)
    return JoblibBackend(max(get_num_threads() // joblib.effective_n_jobs(), 1) if inside else None)


def on_workers(
    client: DaskClient | JoblibBackend,
    function: Callable[..., Result],
    jobs: Sequence[Job],
    shared: Sequence[Any],
    after: Callable[[int, Result], None],
) -> list[Result]:
    """Call ``function(job, *shared)`` for each job on some worker and return what they return, in order.

    Parameters
    ----------
    client
        As `workers` has returned it.
    function : callable
        What it returns must depend on its arguments alone: it may be called again.
    jobs : sequence
    shared : sequence
        Sent to every worker once.
    after : callable
        Called here as ``after(number, result)`` for each job that has ended, in their order.

    Returns
    -------
    list

    Raises
    ------
    Exception
        The first one that a job has raised itself, or that of Dask or joblib where workers keep dying.
    """
    of_joblib = isinstance(client, JoblibBackend)
    begin: Callable[..., list[Callable[[], Result]]] = _on_joblib if of_joblib else _on_dask
    died = _joblib_deaths if of_joblib else _dask_deaths
    results: dict[int, Result] = {}
    for attempt in range(_ATTEMPTS):
        waiting = [number for number in range(len(jobs)) if number not in results]
        outcomes = begin(client, function, [jobs[number] for number in waiting], shared)
        for number, outcome in zip(waiting, outcomes, strict=True):
            with contextlib.nullcontext() if attempt + 1 == _ATTEMPTS else contextlib.suppress(*died()):
                results[number] = outcome()
                after(number, results[number])
        if len(results) == len(jobs):
            break
    return [results[number] for number in range(len(jobs))]


def _on_dask(
    client: Any, function: Callable[..., Result], jobs: Sequence[Job], shared: Sequence[Any]
) -> list[Callable[[], Result]]:
    """Submit jobs to a client of Dask; return what waits for the result of each."""
    # anew: what has been scattered is lost with the last worker that holds it
    data = [value if value is None else client.scatter([value], broadcast=True)[0] for value in shared]
    return [client.submit(function, job, *data, pure=False).result for job in jobs]


def _dask_deaths() -> tuple[type[BaseException], ...]:
    from concurrent.futures import CancelledError

    from distributed import KilledWorker

    return CancelledError, KilledWorker


def _on_joblib(
    backend: JoblibBackend, function: Callable[..., Result], jobs: Sequence[Job], shared: Sequence[Any]
) -> list[Callable[[], Result]]:
    """Give jobs to joblib, which maps or scatters arrays once; return what waits for the result of each."""
    import joblib

    parallel = joblib.Parallel(batch_size=1, return_as="generator")
    results = parallel(joblib.delayed(_limited)(backend.threads, function, job, *shared) for job in jobs)
    return [functools.partial(next, results) for _ in jobs]


def _joblib_deaths() -> tuple[type[BaseException], ...]:
    from concurrent.futures.process import BrokenProcessPool

    return BrokenProcessPool, StopIteration  # the second one for the jobs behind the first


def _limited(threads: int | None, function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function that may use so many threads."""
    with contextlib.nullcontext() if threads is None else thread_limit(threads):
        return function(*arguments)
