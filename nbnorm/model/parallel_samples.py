"""The samples of a training over several ranks, dealt into blocks, and the validation data."""

from __future__ import annotations

import hashlib
import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nbnorm import _check
from nbnorm._types import Array, Table
from nbnorm.data.row_groups import OnDisk, is_row_groups, open_groups
from nbnorm.engine.microkernels import tile
from nbnorm.engine.run import Run
from nbnorm.engine.table import FORWARD
from nbnorm.functions.loss_options import CustomLoss
from nbnorm.model import checkpoints, inputs, sample_weights
from nbnorm.model.metrics import Measure
from nbnorm.model.ranks import DataParallel, Ranks
from nbnorm.model.sample_weights import ClassFactors, ClassWeight
from nbnorm.model.samples import ValidationTuple
from nbnorm.statistics.encoding import MOST_ROWS, ColumnEncoder
from nbnorm.statistics.moments import Moments
from nbnorm.statistics.reading import is_sparse
from nbnorm.statistics.standardize import Standardizer

if TYPE_CHECKING:
    from nbnorm.model.data_parallel import ParallelRun
    from nbnorm.model.network import FNN


def _part_of_rank(
    net: FNN,
    ranks: Ranks,
    name: str,
    X: Table | OnDisk,
    y: npt.ArrayLike,
    sample_weight: npt.ArrayLike | None,
    names: list[str] | None,
) -> tuple[Array, Array, Array | None, list[str] | None]:
    """Check this rank's part of samples, targets and weights; of a file or dataset it reads its groups.

    `name` is that of the argument which holds them, "" for those of `fit`.
    """
    of_x, of_y, of_weights = (f"{name}[{k}]" for k in range(3)) if name else ("X", "y", "sample_weight")
    if is_row_groups(X):
        groups = open_groups(of_x, X, y, sample_weight, features=names)
        names = groups.features
        X, y, sample_weight = groups.part(ranks.rank, ranks.size)
        rows = X
    else:
        if is_sparse(X):
            raise TypeError(f"{of_x} must be dense with comm, got a SciPy sparse matrix")
        rows, names = _check.table(of_x, X, names)
    if rows.ndim == 2 and rows.shape[1] == net.sizes[0] and not len(rows):
        softmax = net.output == "softmax"
        kind = np.dtype(np.int64) if softmax else _check.numeric(of_y, y).dtype
        truth = np.zeros((0,) if softmax else (0, net.loss.targets(net.sizes[-1])), kind)
        return rows, truth, None if sample_weight is None else np.zeros(0), names
    x = np.asarray(inputs.table(net, of_x, rows, names=names))
    truth = inputs.truth(net, of_y, y, len(x), of_x)
    weights = None
    if sample_weight is not None:
        weights = _check.weights(of_weights, sample_weight, len(x), some=False)
    return x, truth, weights, names


class ParallelSamples:
    """Checked training data of all ranks, of which this one has its blocks; see `Samples`.

    Parameters
    ----------
    net : FNN
    how : DataParallel
    ranks : Ranks
    X, y, sample_weight, class_weight, batch_size
        As for `FNN.fit`: this rank's part, which may be empty.

    Raises
    ------
    TypeError, ValueError
        As `FNN.fit`.
    RuntimeError
        If another rank has raised one of these.
    """

    def __init__(
        self,
        net: FNN,
        how: DataParallel,
        ranks: Ranks,
        X: Table | OnDisk,
        y: npt.ArrayLike,
        sample_weight: npt.ArrayLike | None,
        class_weight: ClassWeight | ClassFactors | None,
        batch_size: int,
    ) -> None:
        self._net, self.how, self.ranks = net, how, ranks
        if isinstance(net.loss, CustomLoss):
            raise TypeError("loss must be one of the package with comm, got a CustomLoss")
        x, truth, weights, self.names = ranks.together(
            lambda: _part_of_rank(net, ranks, "", X, y, sample_weight, inputs.feature_names(net))
        )
        ranks.same(self._kinds(x, truth, weights))
        self._begin_alike()
        class_factors = None
        if class_weight is not None:
            class_factors = self._class_weights(class_weight, truth, weights)
        products = sample_weights.products(weights, class_factors)
        of_standardizers = products if net.weighted_statistics else weights
        rounded = None
        self.unit = 1.0
        if products is not None:
            rounded, self.unit = self._rounded(products)
            kept = np.flatnonzero(rounded)
            if of_standardizers is not None:
                of_standardizers = of_standardizers[kept]
            x, truth, rounded = x[kept], truth[kept], rounded[kept]
        self.x, self.truth, self.rounded, self.of_standardizers = self._dealt(
            [x, truth, rounded, of_standardizers]
        )
        self.steps = -(-self.used // batch_size)
        self.least, self.batch = self.used // self.steps, -(-self.used // self.steps)
        batches = net.norm_kind == "batch" and not net.frozen_statistics
        if not how.sync and batches and self.least < 2 * how.shards:
            raise ValueError(
                f"sync=False needs 2 samples for each of {how.shards} shards, "
                f"got mini-batches of {self.least}"
            )

    def _kinds(self, x: Array, truth: Array, weights: Array | None) -> dict[str, str]:
        """Return what has to be the same on all ranks."""
        return {
            "dtype of X": str(x.dtype),
            "dtype of y": str(truth.dtype),
            "names of the features": str(self.names),
            "kind of sample_weight": str(weights is not None),
            "shards": str(self.how.shards),
            "sync": str(self.how.sync),
            **checkpoints.options_of(self._net),
            "processor's tile": str(tile(self._net.dtype)),
        }

    def _begin_alike(self) -> None:
        """Give networks without a seed the arrays of rank 0; refuse others that differ."""
        net, ranks = self._net, self.ranks
        if not (net.seeded or net.epochs_trained):
            net.seed, arrays = ranks.comm.bcast((net.seed, net.arrays.named()), 0)
            net.arrays.assign(arrays)
        digest = checkpoints.digest(net.arrays.named().values())
        learned = str([None if one is None else one.to_dict() for one in inputs.learned(net)])
        ranks.same({"seed": str(net.seed), "parameters": digest, "statistics of the inputs": learned})

    def _class_weights(
        self, class_weight: ClassWeight | ClassFactors, truth: Array, weights: Array | None
    ) -> Array:
        if isinstance(class_weight, ClassFactors):
            return class_weight.values
        of_rows = inputs.classes(self._net, truth)
        count = max(self._net.sizes[-1], 2)
        everywhere = self.ranks.comm.allgather(np.bincount(of_rows, weights=weights, minlength=count))
        counts = np.array([math.fsum(column) for column in np.transpose(everywhere)])
        each = sample_weights.class_weights(class_weight, np.arange(count), count, counts)
        return np.asarray(each[of_rows])

    def _rounded(self, products: Array) -> tuple[Array, float]:
        """Return the weights as the loss takes them, and what a weight of 1 then stands for."""
        found = self.ranks.comm.allgather((float(products.max(initial=0.0)), float(products.sum())))
        largest, total = max(most for most, _ in found), sum(total for _, total in found)
        if largest == 0.0:
            raise ValueError("sample_weight and class_weight must not be zero for every sample together")
        if not math.isfinite(total):
            raise ValueError(f"sample_weight must have a finite sum, got {largest:g} as the largest")
        unit = math.ldexp(1.0, math.frexp(largest)[1] - 1)
        dtype = self._net.dtype
        rounded = products / unit
        return np.where(rounded < np.finfo(dtype).tiny, 0.0, rounded).astype(dtype), unit

    def _dealt(self, arrays: list[Any]) -> list[Any]:
        """Give every rank the rows of its blocks; rows that are there already do not move."""
        ranks, comm = self.ranks, self.ranks.comm
        counts = comm.allgather(len(arrays[0]))
        self.used = sum(counts)
        if not self.used:
            raise ValueError("X must not be empty on all ranks, got no rows")
        offset = sum(counts[: ranks.rank])
        each, longer = divmod(self.used, ranks.shards)
        self.sizes = np.array([each + (shard < longer) for shard in range(ranks.shards)], np.int64)
        starts = np.append(0, np.cumsum(self.sizes))
        sent = []
        for rank in range(ranks.size):
            first, last = (int(starts[shard]) - offset for shard in ranks.span(rank))
            rows = slice(max(first, 0), max(min(last, counts[ranks.rank]), max(first, 0)))
            sent.append([None if values is None else values[rows] for values in arrays])
        sent_to_self, sent[ranks.rank] = sent[ranks.rank], [None] * len(arrays)
        received = comm.alltoall(sent)
        received[ranks.rank] = sent_to_self
        self.starts = (starts[ranks.first : ranks.last + 1] - starts[ranks.first]).astype(np.int64)
        dealt: list[Any] = []
        for column in zip(*received, strict=True):
            some = [values for values in column if values is not None and len(values)]
            if len(some) < 2:
                dealt.append(some[0] if some else sent_to_self[len(dealt)])
            else:
                dealt.append(np.concatenate(some))
        return dealt

    def blocks(self, values: Array | None) -> list[Array | None]:
        """Return the rows of each of this rank's blocks."""
        if values is None:
            return [None] * len(self.ranks.own)
        return [values[first:last] for first, last in itertools.pairwise(self.starts)]

    def learn(self) -> None:
        """Fit what the network has not learned yet from the samples of all ranks."""
        net = self._net
        if net.encoding is not None and net.encoder is None:
            inputs.encode(net, self._encoder())
        if net.standardize and net.standardizer is None:
            moments = self._moments("X", self.x, net.encoder)
            net.standardizer = Standardizer.from_moments(moments)
            net.standardizer.moments_.feature_names = self.names if net.encoder is None else None
        if net.standardize_targets and net.target_standardizer is None:
            net.target_standardizer = Standardizer.from_moments(self._moments("y", self.truth, None))

    def _moments(self, name: str, values: Array, encoder: ColumnEncoder | None) -> Moments:
        """Merge the statistics of all blocks in their order."""

        def of_blocks() -> list[Moments]:
            own = []
            for rows, weights in zip(self.blocks(values), self.blocks(self.of_standardizers), strict=True):
                if rows is None or not len(rows) or (weights is not None and not weights.any()):
                    continue
                if encoder is None:
                    own.append(Moments(extremes=False).add(name, rows, weights))
                else:
                    own.append(encoder.moments(rows, weights=weights))
            return own

        own = self.ranks.together(of_blocks)
        everywhere = [part for parts in self.ranks.comm.allgather(own) for part in parts]
        total: Moments = everywhere[0].copy()
        for part in everywhere[1:]:
            total.merge(part)
        return total

    def _encoder(self) -> ColumnEncoder:
        """Choose the bins from rows that are evenly spaced over all samples."""
        ranks, weights = self.ranks, self.of_standardizers
        before = int(self.sizes[: ranks.first].sum())
        step = -(-self.used // MOST_ROWS)
        chosen = slice(-before % step, None, step)
        sample = ranks.concatenate(self.x[chosen])
        chosen_weights = None
        if any(ranks.comm.allgather(weights is not None)):
            chosen_weights = ranks.concatenate(np.zeros(0) if weights is None else weights[chosen])
        encoder = ColumnEncoder(self._net.bins).fit(sample, weights=chosen_weights)
        missing = np.isnan(self.x) if self.x.dtype.kind == "f" else np.zeros(self.x.shape, bool)
        found = ranks.comm.allgather((missing.any(axis=0), missing.all(axis=0)))
        encoder.see_rest(
            np.any([some for some, _ in found], axis=0), np.all([whole for _, whole in found], axis=0)
        )
        encoder.feature_names = self.names
        return encoder

    def describe(self) -> dict[str, str]:
        """Return what a checkpoint knows the data by, whatever the number of ranks."""
        found = []
        for values in (self.x, self.truth, self.rounded, self.of_standardizers):
            parts = self.ranks.comm.allgather(
                [None if part is None else checkpoints.digest([part]) for part in self.blocks(values)]
            )
            flat = [str(part) for of_rank in parts for part in of_rank]
            found.append(hashlib.blake2b(" ".join(flat).encode(), digest_size=16).hexdigest())
        return {
            "X": f"{self.x.dtype} {(self.used, self.x.shape[1])} {found[0]}",
            "y": found[1],
            "sample_weight or class_weight": " ".join(found[2:]),
            "shards": f"{self.how.shards} {self.how.sync}",
        }


class SharedValidation:
    """Validation data of which each rank has a part; logits and targets of all are on each.

    Parameters
    ----------
    net : FNN
    ranks : Ranks
    x, truth, weights
        This rank's part, checked; it may be empty.
    metrics : list of Measure
    """

    @classmethod
    def of(
        cls, net: FNN, samples: ParallelSamples, data: ValidationTuple, metrics: list[Measure]
    ) -> SharedValidation:
        """Check this rank's part of the validation data."""
        weights = data[2] if len(data) == 3 else None
        x, truth, weights, _ = samples.ranks.together(
            lambda: _part_of_rank(
                net, samples.ranks, "validation_data", data[0], data[1], weights, samples.names
            )
        )
        samples.ranks.same(
            {
                "dtype of validation_data": str(x.dtype),
                "kind of the weights of validation_data": str(weights is not None),
            }
        )
        return cls(net, samples.ranks, x, truth, weights, metrics)

    def __init__(
        self, net: FNN, ranks: Ranks, x: Array, truth: Array, weights: Array | None, metrics: list[Measure]
    ) -> None:
        self.metrics, self._ranks, self._x, self._net = metrics, ranks, x, net
        self.truth = ranks.concatenate(truth)
        self.weights = None if weights is None else ranks.concatenate(weights)
        if not len(self.truth):
            raise ValueError("validation_data must not be empty on all ranks, got no rows")
        if self.weights is not None:
            _check.weights("validation_data[2]", self.weights, len(self.weights))

    def logits(self, net: FNN, run: Run | ParallelRun, threads: int) -> Array:
        """Return the logits of the rows of all ranks, with the parameters that the engine of `run` has."""
        out = np.empty((0, net.sizes[-1]), net.dtype)
        if len(self._x):
            batch = min(run.engine.layout.batch, len(self._x))
            part = Run(run.engine, inputs.reader(net, self._x), batch, FORWARD, training=False)
            out = part.all(threads).out
        return self._ranks.concatenate(out)

    def describe(self) -> str:
        """Return what a checkpoint knows the data by, whatever the number of ranks."""
        rows = self._ranks.concatenate(self._x)
        answers = [self.truth] if self.weights is None else [self.truth, self.weights]
        return f"{checkpoints.digest([rows])} {checkpoints.digest(answers)}"
