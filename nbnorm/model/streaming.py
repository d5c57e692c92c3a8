"""Training over tables larger than memory: a shuffle buffer of row groups, the next one read meanwhile.

The groups of an epoch are put in an order that the seed determines.  As many as the shuffle buffer holds
are read, with what is left of the buffer before, and their rows are put in a new order together; the
mini-batches are cut from them.  A thread fills a second buffer while the steps of the first one run.

The mini-batches of an epoch have the sizes that they have in memory.  Where the buffer holds all rows, they
are the same ones: the table is then read once, and the training is that in memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import threading
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nbnorm import _check
from nbnorm.data.row_groups import RowGroups, prefetched
from nbnorm.engine.gather import Data
from nbnorm.engine.run import Run
from nbnorm.engine.steps import permutation
from nbnorm.engine.table import FORWARD, TRAIN
from nbnorm.functions.optimizers import Optimizer
from nbnorm.model import checkpoints, inputs, sample_weights
from nbnorm.model.engines import engine_for
from nbnorm.model.metrics import Measure
from nbnorm.model.sample_weights import ClassFactors, ClassWeight
from nbnorm.statistics.encoding import MOST_ROWS, ColumnEncoder
from nbnorm.statistics.moments import Moments
from nbnorm.statistics.standardize import Standardizer

if TYPE_CHECKING:
    from nbnorm.model.data_parallel import ParallelRun
    from nbnorm.model.network import FNN

Array = npt.NDArray[Any]

# Bytes of a shuffle buffer whose size is not given.
BUFFER = 64 << 20

# Bytes of the rows from which quantiles are taken.
_SAMPLE = 128 << 20

# Threads that can work at the same time.
_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

# The key of a step's dropout is that of the epoch plus so much for each step before.
_STRIDE = 0x9E3779B97F4A7C15


class Answers(NamedTuple):
    """Targets of a group as a training uses them.

    `truth` is in the user's units; `rounded` are the weights in the loss, `of_standardizers` those in the
    statistics of the whole data; `kept` are the rows of positive weight, None if all.
    """

    truth: Array
    rounded: Array | None
    of_standardizers: Array | None
    kept: Array | None


def _check_rows(name: str, groups: RowGroups, group: int, x: Array, *, missing: bool) -> None:
    """Refuse values that are not finite; the error names row group and column."""
    try:
        _check.finite(name, x, missing=missing)
    except ValueError as error:
        bad = np.isinf(x) if missing else ~np.isfinite(x)
        column = int(np.argwhere(bad)[0, 1])
        called = "" if groups.features is None else f", column {groups.features[column]!r}"
        raise ValueError(f"{error} of row group {group}{called}") from None


class Stream:
    """Checked training data on disk: which rows are used, in how many steps; see `Samples`.

    Parameters
    ----------
    net : FNN
    groups : RowGroups
    class_weight : mapping, "balanced" or None
    batch_size : int
    buffer : int or None
        Rows of the shuffle buffer.

    Raises
    ------
    TypeError, ValueError
        As `FNN.fit`.
    """

    def __init__(
        self,
        net: FNN,
        groups: RowGroups,
        class_weight: ClassWeight | ClassFactors | None,
        batch_size: int,
        buffer: int | None,
    ) -> None:
        if groups.width != net.sizes[0]:
            raise ValueError(f"X must have {net.sizes[0]} features (sizes[0]), got {groups.width} columns")
        self._net, self._groups, self.names = net, groups, groups.features
        self._class_factors: Array | None = None  # by which each class multiplies the weights of its samples
        self._of_rows: Array | None = None  # or each row
        if isinstance(class_weight, ClassFactors):
            self._of_rows, class_weight = class_weight.values, None
        self._weighted_statistics = net.weighted_statistics
        self._unit, self.used_of = 1.0, groups.sizes
        self._read_answers(class_weight)
        self.used = int(self.used_of.sum())
        self.steps = -(-self.used // batch_size)
        self.least, self.batch = self.used // self.steps, -(-self.used // self.steps)
        # float16 and the like are read as a type that the engine reads
        self.dtype = Data(np.empty((1, groups.width), groups.dtype)).array.dtype
        if buffer is None:
            buffer = BUFFER // (groups.width * self.dtype.itemsize)
        self.buffer = max(buffer, 1)
        self._checked = np.zeros(len(groups), bool)

    @property
    def weighted(self) -> bool:
        """Whether the rows have weights in the loss."""
        return any((self._groups.weighted, self._class_factors is not None, self._of_rows is not None))

    @property
    def unit(self) -> float:
        """How much a weight of 1 in the loss stands for."""
        return self._unit

    def near(self, order: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the groups in an order that opens each file once."""
        return self._groups.near(order)

    @property
    def in_one(self) -> bool:
        """Whether the shuffle buffer holds all rows."""
        return self.used <= self.buffer

    def _read_answers(self, class_weight: ClassWeight | None) -> None:
        """Check all targets and weights, and find out which rows are used."""
        net, groups = self._net, self._groups
        classes = np.zeros(max(net.sizes[-1], 2))
        digest = hashlib.blake2b(digest_size=16)
        largest, total = 0.0, 0.0
        for group in range(len(groups)):
            truth, weights = self._answers(group)
            for values in (truth, weights):
                digest.update(b"" if values is None else checkpoints.digest([values]).encode())
            if class_weight is not None:
                of_rows = inputs.classes(net, truth)
                classes += np.bincount(of_rows, weights=weights, minlength=len(classes))
        if class_weight is not None:
            each = np.arange(len(classes))
            self._class_factors = sample_weights.class_weights(class_weight, each, len(each), classes)
        self._digest = digest.hexdigest()
        if not self.weighted:
            return
        of_groups = [self._products(group) for group in range(len(groups))] if len(groups) else []
        for products in of_groups:
            largest = max(largest, float(products.max()))
            total += float(products.sum())
        if largest == 0.0:
            raise ValueError("sample_weight and class_weight must not be zero for every sample together")
        if not math.isfinite(total):
            raise ValueError(f"sample_weight must have a finite sum, got {largest:g} as the largest")
        self._unit = math.ldexp(1.0, math.frexp(largest)[1] - 1)
        self.used_of = np.array([np.count_nonzero(self._rounded(products)) for products in of_groups])

    def _answers(self, group: int) -> tuple[Array, Array | None]:
        """Read and check targets and weights of a group."""
        return self._checked_answers(group, *self._groups.answers(group))

    def _checked_answers(self, group: int, truth: Array, weights: Array | None) -> tuple[Array, Array | None]:
        rows = int(self._groups.sizes[group])
        truth = inputs.truth(self._net, "y", truth, rows, "X")
        if weights is not None:
            weights = _check.weights("sample_weight", weights, rows, some=False)
        return truth, weights

    def _products(self, group: int) -> Array:
        products = self._weights(group, *self._answers(group))
        assert products is not None
        return products

    def _weights(self, group: int, truth: Array, weights: Array | None) -> Array | None:
        """Return the weights in the loss, not rounded."""
        class_factors = (
            None if self._class_factors is None else self._class_factors[inputs.classes(self._net, truth)]
        )
        if self._of_rows is not None:
            end = int(self._groups.sizes[: group + 1].sum())
            class_factors = self._of_rows[end - len(truth) : end]
        return sample_weights.products(weights, class_factors)

    def _rounded(self, products: Array) -> Array:
        dtype = self._net.dtype
        rounded = products / self._unit
        return np.where(rounded < np.finfo(dtype).tiny, 0.0, rounded).astype(dtype)

    def _used(self, group: int, truth: Array, weights: Array | None) -> Answers:
        truth, weights = self._checked_answers(group, truth, weights)
        products = self._weights(group, truth, weights)
        if products is None:
            return Answers(truth, None, None, None)
        rounded = self._rounded(products)
        kept = None if rounded.all() else rounded > 0
        of_standardizers = products if self._weighted_statistics else weights
        if kept is not None and not self._weighted_statistics:
            of_standardizers = kept * (1.0 if weights is None else weights)
        return Answers(truth, rounded, of_standardizers, kept)

    # ------------------------------------------------------------------------------------------
    # Reading
    # ------------------------------------------------------------------------------------------

    def load(self, group: int, out: Array) -> tuple[Array, Answers]:
        """Read a group into the first rows of `out`; return the features and what belongs to them."""
        rows = self._groups.read(group, out)
        if not self._checked[group]:
            _check_rows("X", self._groups, group, rows.x, missing=self._net.encoding is not None)
            self._checked[group] = True
        return rows.x, self._used(group, rows.truth, rows.weights)

    def load_used(self, group: int, out: Array) -> Answers:
        """Read the rows of a group that are used into the first rows of `out`, exactly as many."""
        if self.used_of[group] == self._groups.sizes[group]:
            return self.load(group, out)[1]
        x, answers = self.load(group, self.allocate(int(self._groups.sizes[group])))
        kept = answers.kept
        assert kept is not None
        out[: np.count_nonzero(kept)] = x[kept]
        rounded, of_standardizers = (
            None if values is None else values[kept] for values in (answers.rounded, answers.of_standardizers)
        )
        return Answers(answers.truth[kept], rounded, of_standardizers, None)

    def allocate(self, rows: int) -> Array:
        """Return an array for so many rows of features."""
        return np.empty((rows, self._groups.width), self.dtype)

    def _all(self) -> Iterator[tuple[Array, Answers]]:
        out = [self.allocate(int(self._groups.sizes.max())) for _ in range(2)]
        groups = np.flatnonzero(self.used_of).tolist()
        yield from prefetched(lambda number: self.load(groups[number], out[number % 2]), range(len(groups)))

    # ------------------------------------------------------------------------------------------
    # Statistics of all data
    # ------------------------------------------------------------------------------------------

    def learn(self) -> None:
        """Fit the encoder and the standardizers that the network has not yet, in one or two passes."""
        net = self._net
        if net.encoding is not None and net.encoder is None:
            inputs.encode(net, self._encoder())
        of_input = net.standardize and net.standardizer is None
        of_targets = net.standardize_targets and net.target_standardizer is None
        if not (of_input or of_targets):
            return
        x_moments = Moments(nan="propagate" if net.encoder is None else "omit", extremes=False)
        y_moments = Moments(extremes=False)
        for x, answers in self._all():
            weights = answers.of_standardizers
            if weights is not None and not weights.any():
                continue
            if of_input and net.encoder is None:
                x_moments.add("X", x, weights)
            elif of_input:
                assert net.encoder is not None
                x_moments.merge(net.encoder.moments(x, weights=weights))
            if of_targets:
                y_moments.add("y", answers.truth, weights)
        if of_input:
            net.standardizer = Standardizer.from_moments(x_moments)
            net.standardizer.moments_.feature_names = self.names if net.encoder is None else None
        if of_targets:
            net.target_standardizer = Standardizer.from_moments(y_moments)

    def _encoder(self) -> ColumnEncoder:
        """Choose the bins from rows that are evenly spaced over all groups; take levels from all rows."""
        net, width, columns = self._net, self._groups.width, self._groups.columns
        # whether each level of a column of categories is there, those taken together as one
        seen: dict[int, Array] = {}
        if columns is not None:
            seen = {j: np.zeros(len(columns.columns_[j].levels) + 1, bool) for j in columns.categorical_}
        most = min(MOST_ROWS, max(_SAMPLE // (width * self.dtype.itemsize), 1))
        step = -(-self.used // most)
        chosen = self.allocate(-(-self.used // step))
        weights = np.ones(len(chosen)) if self.weighted else None
        gaps = np.zeros(width, bool)
        whole = np.ones(width, bool)
        row = at = 0
        for x, answers in self._all():
            if answers.kept is not None:
                x = x[answers.kept]
            if x.dtype.kind == "f":
                missing = np.isnan(x)
                gaps |= missing.any(axis=0)
                whole &= missing.all(axis=0)
            else:
                whole[:] = False
            for j, levels in seen.items():
                codes = x[:, j]
                levels[codes[codes >= 0].astype(np.int64)] = True
            part = x[-row % step :: step]
            chosen[at : at + len(part)] = part
            of_rows = answers.of_standardizers
            if weights is not None and of_rows is not None:
                used = of_rows if answers.kept is None else of_rows[answers.kept]
                weights[at : at + len(part)] = used[-row % step :: step]
            row, at = row + len(x), at + len(part)
        encoder = ColumnEncoder(net.bins, categorical=list(seen)).fit(chosen, weights=weights)
        of_columns = {j: np.flatnonzero(levels).astype(np.float64) for j, levels in seen.items()}
        encoder.see_rest(gaps, whole, of_columns)
        encoder.feature_names = self.names
        return encoder

    def describe(self) -> dict[str, str]:
        """Return what a checkpoint knows the data by; all of them are read once."""
        found = hashlib.blake2b(digest_size=16)
        for rows in self._groups.all():
            found.update(checkpoints.digest([rows.x]).encode())
        shape = (self._groups.samples, self._groups.width)
        class_factors = self._class_factors if self._of_rows is None else self._of_rows
        weights = "None" if class_factors is None else checkpoints.digest([class_factors])
        return {
            "X": f"{self.dtype} {shape} in {len(self._groups)} row groups {found.hexdigest()}",
            "y": self._digest,
            "sample_weight or class_weight": f"{self._groups.weighted} {weights}",
            "shuffle_buffer": str(self.buffer),
        }


# ----------------------------------------------------------------------------------------------
# The shuffle buffer
# ----------------------------------------------------------------------------------------------


class Window(NamedTuple):
    """What the shuffle buffer holds at a time.

    `groups` are those that are read, `carried` the rows that are left of the window before, `rows` all of
    them; the steps are those of the epoch from `first` on.
    """

    groups: list[int]
    carried: int
    rows: int
    first: int
    steps: int


def windows(
    order: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64], steps: int, buffer: int
) -> list[Window]:
    """Divide an epoch into windows of as many groups as the shuffle buffer holds, one at least.

    Parameters
    ----------
    order : ndarray of int64
        Groups in the order of the epoch.
    sizes : ndarray of int64
        Rows of each group.
    steps : int
        Mini-batches of the epoch; their sizes differ by at most one, the larger ones first.
    buffer : int
        Rows of the shuffle buffer.

    Returns
    -------
    list of Window

    Examples
    --------
    >>> order, sizes = np.array([2, 0, 1]), np.array([5, 5, 5])
    >>> for window in windows(order, sizes, 4, 10):
    ...     print(window)
    Window(groups=[0, 2], carried=0, rows=10, first=0, steps=2)
    Window(groups=[1], carried=2, rows=7, first=2, steps=2)
    """
    least, longer = divmod(int(sizes.sum()), steps)
    found: list[Window] = []
    step = carried = at = 0
    while step < steps:
        groups: list[int] = []
        rows, after = carried, step
        while at < len(order) and (rows + sizes[order[at]] <= buffer or after == step):
            groups.append(int(order[at]))
            rows += int(sizes[order[at]])
            at += 1
            after = _whole(begin(step, least, longer) + rows, least, longer)
        found.append(Window(sorted(groups), carried, rows, step, after - step))
        carried = rows - (begin(after, least, longer) - begin(step, least, longer))
        step = after
    return found


def begin(step: int, least: int, longer: int) -> int:
    """Return the rows before a step where the first `longer` batches have one more than `least`."""
    return step * least + min(step, longer)


def _whole(rows: int, least: int, longer: int) -> int:
    """Return the batches that so many rows make."""
    over = rows - longer * (least + 1)
    return longer + over // least if over >= 0 else rows // (least + 1)


class StreamedRun(Run):
    """A run of the engine whose data pass through two buffers.

    Parameters
    ----------
    net : FNN
    stream : Stream
    optimizer : Optimizer
    **options
        Penalty, bounds of the gradients, factors of learning rates.
    """

    def __init__(self, net: FNN, stream: Stream, optimizer: Optimizer, **options: Any) -> None:
        self._net, self._stream = net, stream
        capacity = stream.used
        if not stream.in_one:
            capacity = max(stream.buffer, int(stream.used_of.max()) + stream.batch) + stream.batch
        self._buffers = [stream.allocate(capacity) for _ in range(1 if stream.in_one else 2)]
        shape = (capacity,) if net.output == "softmax" else (capacity, net.loss.targets(net.sizes[-1]))
        kind = np.dtype(np.int64) if net.output == "softmax" else net.dtype
        self._truths = [np.zeros(shape, kind) for _ in self._buffers]
        self._weights = [np.ones(capacity, net.dtype) if stream.weighted else None for _ in self._buffers]
        super().__init__(
            engine_for(net, stream.batch, gradients=True, training=True),
            inputs.reader(net, self._buffers[0]),
            stream.batch,
            TRAIN,
            training=True,
            frozen=net.frozen_statistics,
            weights=self._weights[0],
            weighted_statistics=net.weighted_statistics,
            unit=stream.unit,
            optimizer=optimizer,
            **options,
        )
        self._filled = False  # whether the one buffer holds all rows
        self._orders = np.zeros(capacity, np.int64)
        self._epoch_rates = self.rates = np.zeros(stream.steps)
        self._window = np.zeros(1, np.int64)
        self._carried: dict[str, Array] = self._none_carried_arrays()
        self._windows: list[Window] = []
        self._lock = threading.Lock()
        self._ready = 0  # windows of the epoch that are read
        self._spares = False  # whether a thread less than there could be trains

    @property
    def epoch_steps(self) -> int:
        """Steps of an epoch."""
        return self._stream.steps

    @property
    def epoch_step(self) -> int:
        """Steps of the epoch that are done."""
        number = int(self._window[0])
        before = self._windows[number].first if number < len(self._windows) else self.epoch_steps
        return before + int(self.control.step)

    def begin(self, seed: int, epoch: int, shuffle: bool) -> None:
        """Start an epoch: the seed determines the order of the groups and of the rows of each window."""
        self.order = self._orders[:1]
        super().begin(seed, epoch, shuffle)
        self._epoch = (seed, epoch, shuffle)
        self._key = int(self.control.dropout_key)
        stream = self._stream
        groups = np.zeros(len(stream.used_of), np.int64)
        with np.errstate(over="ignore"):
            permutation(np.uint64(seed), np.uint64(epoch | 1 << 63), shuffle, groups)
        groups = groups[stream.used_of[groups] > 0]
        if shuffle:
            groups = stream.near(groups)
        self._windows = windows(groups, stream.used_of, stream.steps, stream.buffer)
        self._start_over()

    def _start_over(self) -> None:
        self._window[0] = 0
        self._carried = self._none_carried_arrays()

    def _none_carried_arrays(self) -> dict[str, Array]:
        return {name: values[:0].copy() for name, values in self._carried_arrays(0).items()}

    def _carried_arrays(self, number: int) -> dict[str, Array]:
        """Return the arrays of one of the buffers."""
        weights = self._weights[number]
        carried = {"carried_x": self._buffers[number], "carried_truth": self._truths[number]}
        return carried if weights is None else {**carried, "carried_weights": weights}

    def windows(self) -> Generator[None, None, None]:
        """Make the steps of the epoch ready, a window at a time."""
        start = self._ready = int(self._window[0])
        numbers = range(start, len(self._windows))
        with contextlib.closing(prefetched(self._fill, numbers)) as filled:
            for number, _ in zip(numbers, filled, strict=True):
                step = int(self.control.step) if number == start else 0
                used = self._use_window(number, step)
                yield
                if int(self.control.step) < self._windows[number].steps:
                    return  # the training has diverged or is cut off
                self._keep(number, used)
        self._window[0] = len(self._windows)
        self.control.step = 0

    def threads(self, most: int) -> int:
        """Return how many threads the next call of `steps` has: one less while another thread reads.

        On a core with two threads all others would wait for these at every barrier.  When the thread
        that reads has finished, the steps are stopped, and go on with all.
        """
        with self._lock:
            reads = self._ready < min(int(self._window[0]) + 2, len(self._windows))
            self._spares = reads and most >= _CORES
        return most - self._spares

    def _fill(self, number: int) -> None:
        """Read a window; a thread does it."""
        try:
            if not self._filled:
                self._read(number)
        finally:
            with self._lock:
                self._ready = number + 1
                if self._spares:
                    self.stop()

    def _read(self, number: int) -> None:
        """Read the groups of a window behind the rows that the one before leaves."""
        window, slot = self._windows[number], number % len(self._buffers)
        at = window.carried
        for group in window.groups:
            end = at + int(self._stream.used_of[group])
            answers = self._stream.load_used(group, self._buffers[slot][at:end])
            labels, targets = inputs.encoded(self._net, "y", answers.truth)
            truth = self._truths[slot]
            truth[at:end] = targets.reshape(truth[at:end].shape) if labels is None else labels
            weights = self._weights[slot]
            if weights is not None and answers.rounded is not None:
                weights[at:end] = answers.rounded
            at = end
        self._filled = self._stream.in_one

    def _use_window(self, number: int, step: int) -> int:
        """Let the engine read a window; return how many rows its steps use."""
        window, slot = self._windows[number], number % len(self._buffers)
        carried = self._carried_arrays(slot)
        for name, values in self._carried.items():
            carried[name][: len(values)] = values
        seed, epoch, shuffle = self._epoch
        self.order = self._orders[: window.rows]
        with np.errstate(over="ignore"):
            permutation(np.uint64(seed), np.uint64(epoch + (number << 32)), shuffle, self.order)
        least, longer = divmod(self._stream.used, self._stream.steps)
        used = begin(window.first + window.steps, least, longer) - begin(window.first, least, longer)
        self.data = inputs.reader(self._net, self._buffers[slot])
        if self._net.output == "softmax":
            self.labels = self._truths[slot]
        else:
            self.targets = self._truths[slot].reshape(-1)
        weights = self._weights[slot]
        if weights is not None:
            self.weights = weights
        key = (self._key + window.first * _STRIDE) & (2**64 - 1)
        self._window[0] = number
        control = self.control
        control.step = step
        control.samples, control.batch = used, -(-used // window.steps)
        control.steps = control.last_step = window.steps
        control.address, control.dropout_key = self.data.address, key - (key >> 63 << 64)
        return used

    def _keep(self, number: int, used: int) -> None:
        """Keep the rows that the steps of a window have left over for the next one."""
        rows = self.order[used:]
        self._carried = {
            name: values[rows] for name, values in self._carried_arrays(number % len(self._buffers)).items()
        }

    def arguments(self) -> tuple[Any, ...]:
        """Arguments of `steps` behind (tid, threads)."""
        window = self._windows[int(self._window[0])]
        self.rates = self._epoch_rates[window.first :]
        try:
            return super().arguments()
        finally:
            self.rates = self._epoch_rates

    def state(self) -> dict[str, Array]:
        """Return the live arrays that a training needs to go on from here within its epoch."""
        return {**super().state(), "window": self._window, **self._carried}

    def restore(self, state: dict[str, Array]) -> None:
        """Go on from what `state` gave, in this process or another."""
        self._carried = {name: state[name].copy() for name in self._carried}
        super().restore(state)
        if int(self._window[0]) >= len(self._windows):
            self._start_over()

    def beyond(self) -> int | None:
        """Return None: rows that the network's dtype cannot hold are not looked for."""
        return None


# ----------------------------------------------------------------------------------------------
# Validation
# ----------------------------------------------------------------------------------------------


class StreamedValidation:
    """Validation data on disk; their logits and targets are kept in memory, their features are not.

    Parameters
    ----------
    net : FNN
    groups : RowGroups
    metrics : list of Measure
    """

    def __init__(self, net: FNN, groups: RowGroups, metrics: list[Measure]) -> None:
        if groups.width != net.sizes[0]:
            raise ValueError(
                f"validation_data[0] must have {net.sizes[0]} features (sizes[0]), got {groups.width} columns"
            )
        self.metrics, self._groups = metrics, groups
        truths, weights = [], []
        for group in range(len(groups)):
            rows = int(groups.sizes[group])
            truth, of_rows = groups.answers(group)
            truths.append(inputs.truth(net, "validation_data[1]", truth, rows, "validation_data[0]"))
            if of_rows is not None:
                weights.append(_check.weights("validation_data[2]", of_rows, rows, some=False))
        self.truth = np.concatenate(truths)
        self.weights = np.concatenate(weights) if weights else None
        if self.weights is not None:
            _check.weights("validation_data[2]", self.weights, len(self.weights))

    def logits(self, net: FNN, run: Run | ParallelRun, threads: int) -> Array:
        """Return the logits of all rows, with the parameters that the engine of `run` has."""
        found = []
        for group, rows in enumerate(self._groups.all()):
            missing = net.encoding is not None
            _check_rows("validation_data[0]", self._groups, group, rows.x, missing=missing)
            batch = min(run.engine.layout.batch, len(rows.x))
            part = Run(run.engine, inputs.reader(net, rows.x), batch, FORWARD, training=False)
            found.append(part.all(threads).out)
        return np.concatenate(found)

    def describe(self) -> str:
        """Return what a checkpoint knows the data by."""
        found = hashlib.blake2b(digest_size=16)
        for rows in self._groups.all():
            found.update(checkpoints.digest([rows.x]).encode())
        answers = [self.truth] if self.weights is None else [self.truth, self.weights]
        return f"{self._groups.samples} rows {found.hexdigest()} {checkpoints.digest(answers)}"
