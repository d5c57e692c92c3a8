"""Numbers of many samples in bounded memory: rows on disk, and areas under ROC curves by merging runs."""

from __future__ import annotations

import math
import tempfile
import weakref
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from nbnorm.model import metrics

# Rows that are looked at together; below so many bytes they stay in memory.
BLOCK, _IN_MEMORY = 1 << 16, 1 << 22
# Scores that are sorted together, of all problems; the least of one.
_SORTED, _LEAST_SORTED = 1 << 18, 1 << 10


class Sliced(Protocol):
    """Rows that are read in slices: an array, or `Rows`."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> npt.NDArray[Any]: ...


def blocks(rows: Sliced) -> Iterator[slice]:
    """Yield the slices of rows that are looked at together."""
    return (slice(first, first + BLOCK) for first in range(0, len(rows), BLOCK))


class Rows:
    """Rows of one shape and dtype on disk, in memory while they are few."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 -- ends with this object
        weakref.finalize(self, self._file.close)
        self._row = np.empty((0,))
        self._count = 0

    def append(self, rows: npt.NDArray[Any]) -> None:
        """Write rows behind those that are there."""
        if not self._count:
            self._row = rows[:0]
        self._file.seek(0, 2)
        self._file.write(np.ascontiguousarray(rows).tobytes())
        self._count += len(rows)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, rows: slice) -> npt.NDArray[Any]:
        first, last, step = rows.indices(self._count)
        if step != 1:  # block by block, as the rows between are many
            starts = range(first, last, max(BLOCK // step, 1) * step)
            parts = [self[at : min(at + starts.step, last)][::step] for at in starts]
            return np.concatenate([self._row, *parts])
        size = self._row.dtype.itemsize * math.prod(self._row.shape[1:])
        self._file.seek(first * size)
        data = self._file.read(max(last - first, 0) * size)
        return np.frombuffer(data, self._row.dtype).reshape(-1, *self._row.shape[1:])


class Areas:
    """The area under the ROC curve of each of several problems, of scores that come in parts.

    Each problem's scores are sorted in runs, which are merged at the end: the result is that of sorting all.
    """

    def __init__(self) -> None:
        self._rows = Rows()  # score with its sign changed, positive samples, negative samples
        self._runs: list[list[tuple[int, int]]] = []  # of each problem, as rows from, to
        self._waiting: list[list[tuple[npt.NDArray[Any], npt.NDArray[Any]]]] = []
        self._count = 0

    def add(self, outcome: metrics.Outcome) -> None:
        """Add the problems of some samples."""
        problems = outcome.problems()
        if not self._runs:
            self._runs, self._waiting = [[] for _ in problems], [[] for _ in problems]
        for waiting, (truth, _, score) in zip(self._waiting, problems, strict=True):
            waiting.append((truth, score))
        self._count += len(outcome.logits)
        if self._count >= max(_SORTED // len(problems), _LEAST_SORTED):
            self._sort()

    def _sort(self) -> None:
        for runs, waiting in zip(self._runs, self._waiting, strict=True):
            if waiting:
                truth, score = (np.concatenate(parts) for parts in zip(*waiting, strict=True))
                waiting.clear()
                first = len(self._rows)
                levels = metrics.levels(truth, score, np.ones(len(score)))
                self._rows.append(np.stack(levels, axis=1))
                runs.append((first, len(self._rows)))
        self._count = 0

    def mean(self) -> float | None:
        """Return the mean over the problems in which it is defined, None where there is none."""
        self._sort()
        areas = [area for runs in self._runs if not math.isnan(area := self._area(runs))]
        return float(np.mean(areas)) if areas else None

    def _area(self, runs: list[tuple[int, int]]) -> float:
        positive = negative = won = 0.0
        for _, more, fewer in self._merged(runs):
            # a positive sample has won over the negative ones with lower scores, which come later
            won += metrics.pairs_won(more, fewer) + positive * float(fewer.sum())
            positive += float(more.sum())
            negative += float(fewer.sum())
        return won / (positive * negative) if positive * negative > 0.0 else math.nan

    def _merged(self, runs: list[tuple[int, int]]) -> Iterator[tuple[npt.NDArray[Any], ...]]:
        """Yield the levels of all runs in their order, some at a time, equal ones as one."""
        step = max(_SORTED // max(len(runs), 1), _LEAST_SORTED)
        parts = [np.empty((0, 3)) for _ in runs]
        positions = [first for first, _ in runs]
        while True:
            for k, (_, last) in enumerate(runs):
                if not len(parts[k]) and positions[k] < last:
                    parts[k] = self._rows[positions[k] : min(positions[k] + step, last)]
                    positions[k] += len(parts[k])
            if not any(map(len, parts)):
                return
            # up to here nothing is still to be read
            limit = min(
                (
                    part[-1, 0]
                    for part, at, (_, last) in zip(parts, positions, runs, strict=True)
                    if at < last
                ),
                default=math.inf,
            )
            ends = [int(np.searchsorted(part[:, 0], limit, side="right")) for part in parts]
            table = np.concatenate([part[:end] for part, end in zip(parts, ends, strict=True)])
            parts = [part[end:] for part, end in zip(parts, ends, strict=True)]
            value, level = np.unique(table[:, 0], return_inverse=True)
            yield value, np.bincount(level, table[:, 1]), np.bincount(level, table[:, 2])
