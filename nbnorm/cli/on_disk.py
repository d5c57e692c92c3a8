"""What `nbnorm train` does with row groups of Parquet and Arrow files, and over ranks of MPI."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from nbnorm._types import Communicator
from nbnorm.cli.common import BAD_INPUT, csv_options, refuse_options
from nbnorm.cli.inputs import Inputs
from nbnorm.cli.settings import Samples
from nbnorm.data import arrow_files, csv_files, row_groups, tables

# A table is read in row groups if its numbers, as float64, take more than the memory over this;
# training on a table that is read whole needs about three times what its numbers take.
MEMORY_DIVISOR = 8

# What limits the memory of a container on Linux.
_LIMIT = Path("/sys/fs/cgroup/memory.max")

# Errors that the command line says in one line.
REFUSALS = (ValueError, TypeError, ImportError, OSError)

# What MPICH, Intel MPI and Open MPI tell each process that they start: how many there are.
_LAUNCHERS = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE")

Result = TypeVar("Result")


def memory() -> int | None:
    """Return the bytes of memory that this machine or container has, None where that is not known."""
    try:
        found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows, or a system without these names
        return None
    with contextlib.suppress(OSError, ValueError):  # no container, or "max"
        found = min(found, int(_LIMIT.read_text()))
    return found


def wanted(args: argparse.Namespace) -> bool:
    """Whether the data are read in row groups: a folder, a large table, or where an option says so."""
    folder = os.path.isdir(args.data)
    stored = folder or csv_files.suffix(args.data) in arrow_files.ENDINGS
    if not stored:
        if args.row_groups:
            raise ValueError(
                f"--row-groups needs a Parquet or Arrow file, or a folder of these, got {args.data}: nbnorm "
                "convert turns tables into Parquet"
            )
        return False
    if args.row_groups or folder or (args.mpi and args.row_groups is None):
        return True
    available = memory()
    if args.row_groups is False or available is None or not os.path.exists(args.data):
        return False
    table = row_groups.dataset(args.data, Path(args.data))
    size: int = 8 * len(table.schema) * table.count_rows()
    return size > available // MEMORY_DIVISOR


def read(args: argparse.Namespace) -> tuple[row_groups.RowGroups, tables.Table]:
    """Return the columns of a table on disk, and its target and names with an array of no columns."""
    refuse_options(args, "training over row groups", "cv", "inspect")
    if csv_options(args) != csv_files.CsvOptions():
        raise ValueError("options of CSV files do not apply to training over row groups")
    name = args.data
    table = row_groups.dataset(name, Path(name))
    schema = table.schema
    csv_files.check_names(name, schema.names)
    index = arrow_files.index_of(schema)
    chosen = tables.choose_columns(
        name, schema.names, index, target=args.target, need_target=True, only=args.only,
        without=args.without, categories=args.categories,
    )  # fmt: skip
    assert chosen.target is not None
    groups = row_groups.open_groups(
        name, table, chosen.target, features=chosen.features, others=True, mixed=True
    )
    try:
        values: Any = np.concatenate([groups.answers(group)[0] for group in range(len(groups))])
    except ValueError as error:
        raise ValueError(f"{name}, target {chosen.target!r}: {error}") from None
    if values.dtype.kind == "O":
        values = [csv_files.protected(str(value)) for value in values]
    elif values.dtype.kind not in "fiub":
        raise ValueError(
            f"{name}: the target {chosen.target!r} must hold numbers or text, got {values.dtype}"
        )
    count, most = len(groups), int(groups.sizes.max())
    note = f"Read in {count:,} row groups of at most {most:,} rows" if count > 1 else "Read in one row group"
    notes = [f"The index {one!r} of pandas is left out" for one in sorted(index - set(chosen.features))]
    features = tuple(chosen.features)
    none = np.empty((groups.samples, 0))
    return groups, tables.Table(name, none, features, chosen.target, values, (), (*notes, note))


def with_inputs(
    args: argparse.Namespace, groups: row_groups.RowGroups, table: tables.Table, rows: npt.NDArray[np.int64]
) -> tuple[row_groups.RowGroups, Inputs]:
    """Learn what the columns become from some rows, in a pass over the groups; return groups of that."""
    features = table.features or ()

    def part(raw: Any, first: int) -> tables.Table:
        return tables.of_arrow(table.path, raw, features, None, args.categories, first)

    def parts() -> Iterator[tables.Table]:
        first = 0
        for raw, _, _ in row_groups.prefetched(groups.raw, range(len(groups))):
            one = part(raw, first)
            first += len(one)
            if not isinstance(one.data, dict):
                tables.refuse_range(table.path, features, one.data)
            yield one

    inputs = Inputs.fit_parts(parts, rows)
    if inputs.columns is None and inputs.encoder is None:
        return groups, inputs
    names = inputs.names(features)
    assert names is not None
    read = row_groups.ReadGroups(groups, lambda raw: inputs.transform(part(raw, 0)), len(names), np.float64)
    return read, inputs


def launched() -> bool:
    """Whether `mpiexec` has started this process beside others."""
    return any(os.environ.get(name, "1").strip() not in ("", "0", "1") for name in _LAUNCHERS)


def over_ranks(
    args: argparse.Namespace, run: Callable[[argparse.Namespace, Communicator | None], int]
) -> int:
    """Run the command on every rank of an MPI program; the first one alone prints and writes."""
    try:
        from mpi4py import MPI
    except ImportError:
        raise ImportError('--mpi needs mpi4py: pip install "nbnorm[mpi]"; --no-mpi trains without') from None
    from nbnorm.model.ranks import Ranks

    comm, args.connected = MPI.COMM_WORLD, True
    args.quiet = args.quiet or comm.Get_rank() > 0
    printed: contextlib.AbstractContextManager[object] = (
        contextlib.redirect_stdout(io.StringIO()) if comm.Get_rank() else contextlib.nullcontext()
    )
    said = (*REFUSALS, MemoryError, SystemExit)  # by main, and on all ranks
    with printed, Ranks(comm, 1).guarded("the command", *said):
        return run(args, comm)


def own_rows(comm: Communicator | None, X: Samples, y: npt.NDArray[Any]) -> tuple[Samples, npt.NDArray[Any]]:
    """Return a rank's part of samples that each rank has whole; `FNN.fit` divides those on disk."""
    if comm is None or isinstance(X, row_groups.RowGroups):
        return X, y
    first, last = ((comm.Get_rank() + k) * len(y) // comm.Get_size() for k in (0, 1))
    return X[first:last], y[first:last]


def together(comm: Communicator | None, prepare: Callable[[], Result]) -> Result:
    """Return what `prepare` gives; where it fails on one rank of `comm`, the others end without a word."""
    if comm is None:
        return prepare()
    failed: Exception | None = None
    try:
        found = prepare()
    except (*REFUSALS, MemoryError) as error:
        failed = error
    first = next((rank for rank, bad in enumerate(comm.allgather(failed is not None)) if bad), None)
    if first is None:
        return found
    if failed is not None and comm.Get_rank() == first:
        raise failed
    raise SystemExit(BAD_INPUT)
