"""What ranks of MPI say to each other while they train one network: few messages, sums in a fixed order.

A mini-batch consists of a fixed number of *shards*; each rank has some neighbouring ones.  Everything that is
summed over a mini-batch is summed over each shard first, and then over the shards in an order that does not
depend on who has them: so neither do the bits of a result depend on the number of ranks.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numba
import numpy as np
import numpy.typing as npt

from nbnorm import _check, _files
from nbnorm._types import Array, Communicator
from nbnorm.compile.folder import package_digest
from nbnorm.model.checkpoints import Checkpoint, Saved

Result = TypeVar("Result")

# Methods of a communicator that are called.
_METHODS = (
    "Get_rank",
    "Get_size",
    "allgather",
    "bcast",
    "alltoall",
    "Allgatherv",
    "Ialltoallv",
    "Iallgatherv",
    "Abort",
)


@dataclasses.dataclass(frozen=True)
class DataParallel:
    """How the ranks of a communicator train one network together, for ``FNN.fit(..., comm=)``.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
        Communicator; each of its ranks calls `fit` with its part of the data.
    shards : int, default 16
        Parts of a mini-batch over which sums are taken in a fixed order.  More ranks than shards are of no
        use.  Another number is another order of the samples and other rounding.
    sync : bool, default True
        Whether batch norm takes the statistics of the whole mini-batch.  With False each shard has its own,
        as in ghost batch normalization [1]_: no message for each layer, more noise, and at least two samples
        of each mini-batch for each shard.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind or out of range.

    References
    ----------
    .. [1] E. Hoffer, I. Hubara and D. Soudry, "Train longer, generalize better: closing the generalization
       gap in large batch training of neural networks", NeurIPS 2017.

    Examples
    --------
    >>> from nbnorm import DataParallel
    >>> from mpi4py import MPI  # doctest: +SKIP
    >>> net.fit(X, y, comm=DataParallel(MPI.COMM_WORLD, shards=64))  # doctest: +SKIP
    """

    comm: Communicator
    shards: int = 16
    sync: bool = True

    def __post_init__(self) -> None:
        if not all(callable(getattr(self.comm, name, None)) for name in _METHODS):
            raise TypeError(f"comm must be a communicator of mpi4py, got {type(self.comm).__name__}")
        object.__setattr__(self, "shards", _check.integer("shards", self.shards, least=1))
        object.__setattr__(self, "sync", _check.flag("sync", self.sync))


def versions() -> dict[str, str]:
    """Return what computes, which has to be the same on all ranks before they say anything else."""
    from nbnorm import __version__

    return {
        "version of nbnorm": __version__,
        "version of Python": sys.version,
        "version of NumPy": np.__version__,
        "version of Numba": numba.__version__,
        "source files of nbnorm, by their digest": package_digest(),
    }


def data_parallel(comm: Communicator | DataParallel) -> DataParallel:
    """Return what the argument `comm` of `FNN.fit` stands for."""
    return comm if isinstance(comm, DataParallel) else DataParallel(comm)


class Ranks:
    """The ranks of a communicator and the shards that each of them has.

    Parameters
    ----------
    comm : communicator
    shards : int
        Number of shards; rank r of R has those from ``r * shards // R`` on.

    Attributes
    ----------
    rank, size : int
    shards : int
    first, last : int
        Shards [first, last) are this rank's.
    nodes : list of list of (int, int)
        For each rank: the nodes of the tree of sums that its shards make, as shards [first, last).
    """

    def __init__(self, comm: Communicator, shards: int) -> None:
        self.comm, self.shards = comm, shards
        self.rank, self.size = int(comm.Get_rank()), int(comm.Get_size())
        self.first, self.last = self.span(self.rank)
        self.nodes = [_aligned(*self.span(rank), _up(shards)) for rank in range(self.size)]

    def span(self, rank: int) -> tuple[int, int]:
        """Return the first shard of a rank, and the first of the next."""
        return rank * self.shards // self.size, (rank + 1) * self.shards // self.size

    @property
    def own(self) -> range:
        """Numbers of this rank's shards."""
        return range(self.first, self.last)

    def gather(self, table: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the rows of all shards where each rank has those of its own, in one message.

        Parameters
        ----------
        table : ndarray of float64, shape (last - first, ...)

        Returns
        -------
        ndarray of float64, shape (shards, ...)
        """
        if self.size == 1:
            return table
        sent = np.ascontiguousarray(table)
        whole = np.empty((self.shards, *table.shape[1:]))
        width = int(np.prod(table.shape[1:], dtype=np.int64))
        spans = [self.span(rank) for rank in range(self.size)]
        self.comm.Allgatherv(sent, [whole, [(last - first) * width for first, last in spans]])
        return whole

    def begin_sum(self, parts: Sequence[Array]) -> Summation:
        """Start to add up all shards, of which each rank gives those of its own.

        Parameters
        ----------
        parts : sequence of ndarray of one shape (n,)
            One for each of this rank's shards; where a rank has none, its one element gives the shape.
        """
        return Summation(self, parts)

    def concatenate(self, rows: Array) -> Array:
        """Return the rows of all ranks, in their order."""
        return np.concatenate(self.comm.allgather(rows))

    def together(self, action: Callable[[], Result]) -> Result:
        """Do what each rank does by itself; where it fails on one of them, it fails on all.

        Raises
        ------
        RuntimeError
            On the ranks that have not failed themselves; the message names the first that has.
        """
        result, error = None, None
        try:
            result = action()
        except Exception as found:
            error = found
        said = self.comm.allgather(None if error is None else f"{type(error).__name__}: {error}")
        if error is not None:
            raise error
        for rank, message in enumerate(said):
            if message is not None:
                raise RuntimeError(f"rank {rank} has refused its arguments: {message}")
        return result  # type: ignore[return-value]

    def same(self, settings: Mapping[str, str]) -> None:
        """Refuse ranks with different settings.

        Raises
        ------
        ValueError
            On all ranks; the message names the first setting that differs, and where.
        """
        everywhere = self.comm.allgather(dict(settings))
        expected = everywhere[0]
        for rank, got in enumerate(everywhere):
            for name in dict.fromkeys([*expected, *got]):
                if got.get(name) != expected.get(name):
                    raise ValueError(
                        f"all ranks must have the same {name}: rank 0 has {expected.get(name)}, "
                        f"rank {rank} has {got.get(name)}"
                    )

    @contextlib.contextmanager
    def guarded(self, what: str, *harmless: type[BaseException]) -> Iterator[None]:
        """End all ranks, with a message, when this one fails where the others would wait for it.

        Parameters
        ----------
        what : str
            For the message.
        *harmless : exception types
            Those that all ranks raise at the same point.
        """
        try:
            yield
        except harmless:
            raise
        except BaseException as error:
            if self.size == 1:
                raise
            traceback.print_exc()
            print(
                f"nbnorm: rank {self.rank} of {self.size} has failed in {what} "
                f"({type(error).__name__}: {error}); all ranks end",
                file=sys.stderr,
                flush=True,
            )
            self.comm.Abort(1)
            raise


class Summation:
    """A sum over all shards, whose messages travel while the ranks compute on.

    Neighbouring shards are added in pairs, their sums in pairs, and so on: a binary tree whose shape
    depends on the number of shards alone.  Each rank adds a part of the elements and gives it to the
    others: two messages, of as many bytes as the sum has (Rabenseifner [1]_).  All ranks begin, proceed
    and end in the same order.

    Parameters
    ----------
    ranks : Ranks
    parts : sequence of ndarray
        As for `Ranks.begin_sum`.

    References
    ----------
    .. [1] R. Thakur, R. Rabenseifner and W. Gropp, "Optimization of collective communication operations
       in MPICH", 2005.
    """

    def __init__(self, ranks: Ranks, parts: Sequence[Array]) -> None:
        self._ranks, self._request = ranks, None
        own = {(shard, shard + 1): part for shard, part in zip(ranks.own, parts, strict=False)}
        if ranks.size == 1:
            self._whole = _some(_tree(own, 0, _up(ranks.shards)))
            return
        sums = [_some(_tree(own, *node)) for node in ranks.nodes[ranks.rank]]
        n, dtype = len(parts[0]), parts[0].dtype
        starts = [rank * n // ranks.size for rank in range(ranks.size + 1)]
        self._widths = np.diff(starts)
        # what is sent and received has to live until the messages have arrived
        self._sent = np.concatenate(
            [values[first:last] for first, last in itertools.pairwise(starts) for values in sums]
            or [np.empty(0, dtype)]
        )
        counts = np.array([len(nodes) for nodes in ranks.nodes])
        mine = int(self._widths[ranks.rank])
        self._received = np.empty((int(counts.sum()), mine), dtype)
        self._whole = np.empty(n, dtype)
        self._request = ranks.comm.Ialltoallv(
            [self._sent, (len(sums) * self._widths).tolist()], [self._received, (counts * mine).tolist()]
        )
        self._complete = False

    def proceed(self) -> None:
        """Add this rank's part of the elements, and start to send it to the others."""
        if self._request is None or self._complete:
            return
        self._request.Wait()
        ranks = self._ranks
        order = [node for of_rank in ranks.nodes for node in of_rank]
        nodes = dict(zip(order, self._received, strict=True))
        self._sent = np.ascontiguousarray(_some(_tree(nodes, 0, _up(ranks.shards))))
        self._request = ranks.comm.Iallgatherv(self._sent, [self._whole, self._widths.tolist()])
        self._complete = True

    def result(self) -> Array:
        """Return the sum, shape (n,)."""
        self.proceed()
        if self._request is not None:
            self._request.Wait()
            self._request = None
        return self._whole


class SharedCheckpoint(Checkpoint):
    """A checkpoint that rank 0 writes, and reads for all.

    Parameters
    ----------
    path, every, settings
        As for `Checkpoint`.
    ranks : Ranks
    """

    def __init__(
        self, path: _files.PathLike, every: float, settings: Mapping[str, str], ranks: Ranks
    ) -> None:
        self._ranks = ranks
        if ranks.rank == 0:
            super().__init__(path, every, settings)
        else:
            self.path, self.every, self.settings = str(path), float("inf"), dict(settings)

    def read(self) -> Saved | None:
        """Return what the file holds, or None if there is none."""
        found = self._ranks.together(super().read if self._ranks.rank == 0 else lambda: None)
        return self._ranks.comm.bcast(found, 0)  # type: ignore[no-any-return]

    @property
    def due(self) -> bool:
        """Whether it is time to write."""
        return self._ranks.rank == 0 and super().due

    def write(self, config: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
        """Replace the file by another state."""
        if self._ranks.rank == 0:
            super().write(config, arrays)


def _up(shards: int) -> int:
    """Return the leaves of the tree: the least power of two that is no less."""
    return 1 << (shards - 1).bit_length()


def _aligned(first: int, last: int, size: int) -> list[tuple[int, int]]:
    """Return the fewest nodes of the tree of `size` leaves that make the leaves [first, last)."""
    found = []
    while first < last:
        step = first & -first or size
        while first + step > last:
            step //= 2
        found.append((first, first + step))
        first += step
    return found


def _tree(sums: Mapping[tuple[int, int], Array], first: int, last: int) -> Array | None:
    """Return the sum of the leaves [first, last) from sums of some nodes; None where there are none."""
    if (first, last) in sums:
        return sums[first, last]
    if last - first == 1:
        return None
    middle = (first + last) // 2
    left, right = _tree(sums, first, middle), _tree(sums, middle, last)
    if left is None or right is None:
        return right if left is None else left
    return left + right


def _some(total: Array | None) -> Array:
    """Return a sum that is there, because at least one of its leaves is."""
    assert total is not None
    return total
