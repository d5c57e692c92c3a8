"""Jobs on the workers of a Dask client: each gets the data once, and a job whose worker dies runs again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from nbnorm._types import DaskClient

Job = TypeVar("Job")
Result = TypeVar("Result")

# How often a job is begun before its worker's death is taken for its own fault.
_ATTEMPTS = 3


def checked_client(client: DaskClient) -> DaskClient:
    """Return a client that can scatter data and submit jobs.

    Raises
    ------
    TypeError
        If it is something else.
    """
    if not all(callable(getattr(client, name, None)) for name in ("scatter", "submit")):
        raise TypeError(f"client must be a dask.distributed.Client, got {type(client).__name__}")
    return client


def on_workers(
    client: DaskClient,
    function: Callable[..., Result],
    jobs: Sequence[Job],
    shared: Sequence[Any],
    after: Callable[[int, Result], None],
) -> list[Result]:
    """Call ``function(job, *shared)`` for each job on some worker and return what they return, in order.

    Parameters
    ----------
    client : dask.distributed.Client
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
        The first one that a job has raised itself, or that of Dask where workers keep dying.
    """
    from concurrent.futures import CancelledError

    from distributed import KilledWorker

    died = (CancelledError, KilledWorker)
    results: dict[int, Result] = {}
    for attempt in range(_ATTEMPTS):
        # anew: what has been scattered is lost with the last worker that holds it
        data = [value if value is None else client.scatter([value], broadcast=True)[0] for value in shared]
        waiting = [number for number in range(len(jobs)) if number not in results]
        futures = [client.submit(function, jobs[number], *data, pure=False) for number in waiting]
        for number, future in zip(waiting, futures, strict=True):
            with contextlib.nullcontext() if attempt + 1 == _ATTEMPTS else contextlib.suppress(*died):
                results[number] = future.result()
                after(number, results[number])
        if len(results) == len(jobs):
            break
    return [results[number] for number in range(len(jobs))]
