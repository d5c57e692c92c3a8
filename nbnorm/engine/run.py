"""The memory of the training engine: where everything of a network stands, and the runs over data.

The compiled step itself is `nbnorm.engine.steps`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from numba import config, types

from nbnorm.compile.ahead import Kernel
from nbnorm.compile.pointers import address
from nbnorm.compile.threads import MOST_THREADS
from nbnorm.compile.workspace import Workspace, WorkspaceType
from nbnorm.engine import (
    backward,
    bfloat16,
    clipping,
    epilogues,
    forward,
    gather,
    layer_norm,
    microkernels,
    table,
)
from nbnorm.engine.losses import block_kernel
from nbnorm.engine.microkernels import empty_aligned, tile
from nbnorm.engine.steps import epoch_part, permutation
from nbnorm.engine.thread_pool import ThreadPool, new_sync
from nbnorm.functions import activations
from nbnorm.functions.activations import Activation, ActivationLike
from nbnorm.functions.loss_options import Loss
from nbnorm.functions.optimizers import Optimizer
from nbnorm.statistics.encoding import ColumnEncoder

# ----------------------------------------------------------------------------------------------
# Memory
# ----------------------------------------------------------------------------------------------


def _up(value: int, step: int) -> int:
    return -(-value // step) * step


def _code(activation: ActivationLike) -> int | Activation:
    """Code of an activation that the package knows by name, or the user's own."""
    return activations.CODES[activation] if isinstance(activation, str) else activation


class Layout:
    """Where everything of a network stands in the arrays of the engine, for one batch size."""

    def __init__(
        self,
        sizes: tuple[int, ...],
        activations_: Sequence[Any],
        norm: str | None,
        batch: int,
        dtype: np.dtype[Any],
        *,
        gradients: bool,
        dropout: Sequence[float] = (),
        bfloat16_layers: Sequence[int] = (),
    ) -> None:
        shape = tile(dtype)
        width = shape.width
        self.sizes, self.dtype, self.batch, self.width = sizes, dtype, batch, width
        self.padded = _up(batch, width)
        layers = len(sizes) - 1
        self.activations = (activations.IDENTITY, *map(_code, activations_), activations.IDENTITY)
        rows = [table.blank(table.LAYER) for _ in sizes]
        act = weight = vector = stat = 0

        def reserve(features: int) -> int:
            nonlocal act
            start = act
            act += features * self.padded
            return start

        for l, size in enumerate(sizes):
            row = rows[l]
            pad = _up(size, shape.rows)
            hidden = 0 < l < layers
            drop = dropout[l - 1] if hidden and dropout else 0.0
            row.features, row.padded = size, pad
            row.norm, row.sample_norm, row.centred = table.NORMS[norm if hidden else None]
            placement = row.norm | row.sample_norm
            row.custom = isinstance(self.activations[l], activations.Activation)
            row.dropout_threshold = round(drop * 2.0**32)
            row.fused = self.activations[l] in epilogues.FROM_VALUE
            row.norm_input_offset = reserve(pad)
            # The input is double-buffered; normalization keeps what it read beside what it gave, and
            # dropout what it changed.
            row.result_offset = reserve(pad) if placement != table.NO_NORM else row.norm_input_offset
            row.output_offset = reserve(pad) if drop > 0.0 or l == 0 else row.result_offset
            row.slope_input_offset = row.result_offset if placement == table.BEFORE else row.norm_input_offset
            if not row.fused:
                row.slope_input_offset = reserve(pad)
            if l == layers and gradients:  # scratch of the loss
                row.output_offset = reserve(3 * size)
            if l == 0:
                continue
            if gradients:
                row.gradient_offset = reserve(pad)
                row.transposed_gradient_offset = reserve(_up(size, width))
            row.weight_offset = weight
            weight += _up(size, width) * rows[l - 1].padded
            row.bias_offset, row.gamma_offset, row.beta_offset = (vector + i * pad for i in range(3))
            vector += 3 * pad
            row.statistics_offset = stat
            # one for each sample, or for each feature
            stat += self.padded if row.sample_norm != table.NO_NORM else pad if hidden else 0
        self.bfloat16 = bool(bfloat16_layers)
        self.copies = 0  # elements of the weights' copies in bfloat16, which stand behind them
        for l in bfloat16_layers:
            row, below = rows[l], rows[l - 1]
            row.bfloat16 = 1
            half = _up(sizes[l], width) * below.padded // 2
            row.input_pairs_offset = weight + self.copies
            row.output_pairs_offset = row.input_pairs_offset + half
            self.copies += 2 * half
            buffers = 2 if l == 1 else 1
            below.feature_pairs_offset, below.sample_pairs_offset = (
                reserve(buffers * below.padded // 2) for _ in range(2)
            )
            row.gradient_pairs_offset = reserve(row.padded // 2)
            # what packs them otherwise is the epilogue of batch norm
            behind = below.norm == table.AFTER or (below.norm == table.BEFORE and below.fused)
            below.features_apart = not behind or below.dropout_threshold > 0
            row.gradients_apart = not (row.norm == table.BEFORE or (row.norm == table.AFTER and row.fused))
        self.net = table.filled(table.LAYER, rows)
        self.zeros = vector
        vector += shape.rows
        self.weights = reserve(1)
        self.act_size, self.weight_size, self.vector_size = act, weight, vector
        self.features = max(stat, 1)

    def companions(self, count: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return so many zeros for each weight and each element of a vector, behind each other."""
        sizes = (self.weight_size, self.vector_size) if count else (1, 1)
        weight, vector = (empty_aligned(max(count, 1) * size, self.dtype) for size in sizes)
        return weight, vector

    def group(self, factors: Mapping[str, float]) -> list[float]:
        """Tell each parameter where the numbers of its steps stand; return the factors of their groups."""
        groups = list(dict.fromkeys([1.0, *factors.values()]))
        for l in range(1, len(self.sizes)):
            for name, field, start in (
                (f"dense{l}.weight", "weight_numbers", 0),
                (f"dense{l}.bias", "bias_numbers", microkernels.NUMBERS),
                (f"norm{l}.gamma", "gamma_numbers", microkernels.NUMBERS),
                (f"norm{l}.beta", "beta_numbers", microkernels.NUMBERS),
            ):
                number = groups.index(factors.get(name, 1.0))
                self.net[l][field] = start + number * 2 * microkernels.NUMBERS
        return groups

    def blocked(self, l: int, weight: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """View of the weights of layer l in `weight`: (blocks of outputs, inputs, width)."""
        size, inputs = self.sizes[l], int(self.net[l - 1].padded)
        blocks = _up(size, self.width) // self.width
        start = int(self.net[l].weight_offset)
        view = weight[start : start + blocks * inputs * self.width]
        return view.reshape(blocks, inputs, self.width)

    def _parts(
        self, l: int, weight: npt.NDArray[Any], matrix: npt.NDArray[Any]
    ) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
        """Yield views of the same weights in the blocked arrangement and in a matrix (n_out, n_in)."""
        blocks, width, (n_out, n_in) = self.blocked(l, weight), self.width, matrix.shape
        whole, rest = divmod(n_out, width)
        yield blocks[:whole, :n_in], matrix[: n_out - rest].reshape(whole, width, n_in).transpose(0, 2, 1)
        if rest:
            yield blocks[whole, :n_in, :rest], matrix[n_out - rest :].T

    def pack(self, l: int, source: npt.NDArray[Any], weight: npt.NDArray[Any]) -> None:
        """Copy a matrix (n_out, n_in) into the blocked weights of layer l."""
        for blocked, values in self._parts(l, weight, source):
            blocked[:] = values

    def unpack(self, l: int, weight: npt.NDArray[Any], target: npt.NDArray[Any]) -> None:
        """Copy the blocked weights of layer l into a matrix (n_out, n_in)."""
        for blocked, values in self._parts(l, weight, target):
            values[:] = blocked


class Engine:
    """The arrays of one network in the engine's arrangement, and the calls that work on them.

    Parameters
    ----------
    layout : Layout
        Places of everything.
    parameters, buffers : dict of str to array
        The network's own arrays, from which `load` copies and into which `store` copies.
    encoder : ColumnEncoder, optional
        How the columns of the data become the network's input.
    statistics : tuple of arrays, optional
        Of the input standardizer: the mean in two parts, and the scale.
    """

    def __init__(
        self,
        layout: Layout,
        parameters: dict[str, npt.NDArray[Any]],
        buffers: dict[str, npt.NDArray[Any]],
        *,
        encoder: ColumnEncoder | None = None,
        statistics: tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]] | None = None,
        variance_name: str,
        unbiased: bool,
        decay: float | None,
        eps: float,
        loss: Loss,
    ) -> None:
        self.layout, self.parameters, self.buffers = layout, parameters, buffers
        self._variance_name = variance_name
        dtype = layout.dtype
        self.weights = empty_aligned(layout.weight_size + layout.copies, dtype)
        self.weight = self.weights[: layout.weight_size]
        self.vector = empty_aligned(layout.vector_size, dtype)
        self.running = np.zeros(2 * layout.features + 1)
        self.loss = loss
        self.controls = table.records(table.CONTROL)
        control = self.controls[0]
        control.layers = len(layout.sizes) - 1
        control.unbiased, control.standard_deviation = unbiased, variance_name == "running_std"
        control.padded_batch = layout.padded
        control.weight_size = layout.weight_size
        control.zeros_offset, control.weights_offset = layout.zeros, layout.weights
        self.hyper = table.records(table.HYPER)[0]
        self.hyper.running_decay, self.hyper.eps = 0.0 if decay is None else decay, eps
        control.cumulative = decay is None
        self.hyper.clip_norm = self.hyper.clip_value = np.inf
        inputs = layout.sizes[0]
        if statistics is None:
            statistics = np.zeros(inputs), np.zeros(inputs), np.ones(inputs)
        mean, low, scale = statistics
        encoding = np.empty((0, inputs)) if encoder is None else encoder.table
        self.exact = np.vstack([mean, low, 1.0 / scale, encoding])
        with np.errstate(over="ignore"):  # float64 data may lie beyond float32
            high = self.exact[0].astype(dtype)
            rest = (self.exact[0] - high) + self.exact[1]
            self.single = np.array([high, rest.astype(dtype), self.exact[2].astype(dtype)])
        self.load()

    def _vectors(self) -> Iterator[tuple[npt.NDArray[Any], int, str]]:
        """Public vectors with the layer and the field that says where the engine keeps them."""
        for l in range(1, len(self.layout.sizes)):
            for name, field in (
                (f"dense{l}.bias", "bias_offset"),
                (f"norm{l}.gamma", "gamma_offset"),
                (f"norm{l}.beta", "beta_offset"),
            ):
                if name in self.parameters:
                    yield self.parameters[name], l, field

    def _statistics(self) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any], slice]]:
        for l in range(1, len(self.layout.sizes) - 1):
            if f"norm{l}.running_mean" in self.buffers:
                start = int(self.layout.net[l].statistics_offset)
                features = slice(start, start + self.layout.sizes[l])
                half = self.running[:-1].reshape(2, -1)
                yield self.buffers[f"norm{l}.running_mean"], half[0], features
                yield self.buffers[f"norm{l}.{self._variance_name}"], half[1], features
            if f"norm{l}.n_batches" in self.buffers:
                yield self.buffers[f"norm{l}.n_batches"].reshape(1), self.running, slice(-1, None)

    def load(self) -> None:
        """Copy the network's parameters and buffers into the engine."""
        for l in range(1, len(self.layout.sizes)):
            self.layout.pack(l, self.parameters[f"dense{l}.weight"], self.weight)
        for values, l, field in self._vectors():
            start = int(self.layout.net[l][field])
            self.vector[start : start + len(values)] = values
        for values, averages, features in self._statistics():
            averages[features] = values

    def store(self) -> None:
        """Copy the engine's parameters and buffers into the network."""
        self.export(self.weight, self.vector, self.parameters)
        self.store_statistics()

    def store_statistics(self) -> None:
        """Copy the engine's moving averages into the network."""
        for values, averages, features in self._statistics():
            values[:] = averages[features]

    def export(
        self, weight: npt.NDArray[Any], vector: npt.NDArray[Any], target: dict[str, npt.NDArray[Any]]
    ) -> None:
        """Copy arrays in the engine's arrangement into arrays named and shaped like the parameters."""
        for l in range(1, len(self.layout.sizes)):
            self.layout.unpack(l, weight, target[f"dense{l}.weight"])
        for name, field in (
            ("dense{}.bias", "bias_offset"),
            ("norm{}.gamma", "gamma_offset"),
            ("norm{}.beta", "beta_offset"),
        ):
            for l in range(1, len(self.layout.sizes)):
                values = target.get(name.format(l))
                if values is not None:
                    start = int(self.layout.net[l][field])
                    values[:] = vector[start : start + len(values)]

    def finite(self) -> bool:
        """Whether all parameters are finite."""
        return bool(np.isfinite(self.weight).all() and np.isfinite(self.vector).all())


class Run:
    """A pass of an engine over data: what `epoch_part` needs beside the network.

    Parameters
    ----------
    engine : Engine
        Network in the engine's arrangement.
    data : Data or SparseData
        Samples.
    batch : int
        Most samples of a step: an epoch has as few steps as that allows, and their batches are even.
    mode : int
        TRAIN, GRADIENTS or FORWARD.
    training : bool
        Whether batch norm uses the statistics of the batch, and dropout leaves out elements.
    frozen : bool, optional
        Whether batch norm uses the moving averages even so.
    labels, targets : ndarray, optional
        Classes (int64), or the targets of all outputs in one row (in the network's dtype).
    weights : ndarray, shape (n_samples,), optional
        Positive weights of the samples, in the network's dtype; those of weight 0 are not `selected`.
    weighted_statistics : bool, optional
        Whether the weights enter the statistics of batch norm.
    unit : float, optional
        How many samples a weight of 1 then stands for there.
    selected : ndarray of int64, optional
        Rows of the data that take part; by default all.
    optimizer : Optimizer, optional
        What becomes of the gradients in mode TRAIN.
    l2, clip_norm, clip_value : float, optional
        Penalty on the weights, and bounds of the gradients.
    factors : mapping of str to float, optional
        By which factor of the learning rate parameters move that do not follow it, by name.
    """

    pooled = True  # whether a pool of threads may run the steps

    def __init__(
        self,
        engine: Engine,
        data: gather.Data | gather.SparseData,
        batch: int,
        mode: int,
        *,
        training: bool,
        frozen: bool = False,
        labels: npt.NDArray[Any] | None = None,
        targets: npt.NDArray[Any] | None = None,
        weights: npt.NDArray[Any] | None = None,
        weighted_statistics: bool = False,
        unit: float = 1.0,
        selected: npt.NDArray[np.int64] | None = None,
        optimizer: Optimizer | None = None,
        l2: float = 0.0,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        factors: Mapping[str, float] | None = None,
    ) -> None:
        layout = engine.layout
        dtype = layout.dtype
        self.engine, self.data, self.mode, self._selected = engine, data, mode, selected
        samples = data.samples if selected is None else len(selected)
        number = -(-samples // batch)
        weighed = weighted_statistics and weights is not None
        clipped = clip_norm is not None or clip_value is not None
        self.labels = np.zeros(1, np.int64) if labels is None else labels
        self.targets = np.zeros(1, dtype) if targets is None else targets
        self.weights = np.zeros(0, dtype) if weights is None else weights
        stored = mode == table.GRADIENTS or clipped
        self._state_names = optimizer.rule.state if optimizer is not None else ()
        self.weight_state, self.vector_state = layout.companions(len(self._state_names))
        self.weight_gradient, self.vector_gradient = layout.companions(stored)
        self.act = empty_aligned(layout.act_size, dtype)
        self.saved = np.zeros(3 * layout.features, dtype)
        self.variance = np.zeros(layout.features)
        self.gradients = np.zeros(layout.vector_size, dtype)
        self.partial = np.zeros(2 * (layout.padded // layout.width))
        self.norms = np.zeros(1 + sum(-(-size // layout.width) for size in layout.sizes[1:]))
        groups = [1.0] if mode == table.FORWARD else layout.group(factors or {})
        self.numbers = np.zeros(2 * len(groups) * 2 * microkernels.NUMBERS, dtype)
        self.progress = np.zeros(table.PROGRESSES)
        self.order = np.arange(samples, dtype=np.int64) if selected is None else selected.copy()
        self.rates = np.zeros(number)
        self.out = np.empty((samples, layout.sizes[-1]) if mode == table.FORWARD else (1, 1), dtype)
        self.sync = new_sync(MOST_THREADS)
        self._workspace: Workspace | None = None
        options = () if optimizer is None else optimizer.options
        self.optimizer = np.ravel([[*options, l2, factor] for factor in groups])
        self.hyper = engine.hyper.copy()
        self.hyper.weight_unit = unit if weighed else 1.0
        self.hyper.clip_norm = np.inf if clip_norm is None else clip_norm
        self.hyper.clip_value = np.inf if clip_value is None else clip_value
        control = table.blank(table.CONTROL, engine.controls[0])
        control.samples, control.batch, control.steps = samples, -(-samples // number), number
        control.last_step, control.mode, control.stored = number, mode, stored
        control.groups = len(groups)
        control.clipped, control.training = mode == table.TRAIN and clipped, training and not frozen
        control.drops = training
        control.bfloat16 = training and layout.bfloat16
        control.weighted, control.weighted_statistics = weights is not None, weighed
        control.address, control.element_code = data.address, data.code
        control.row_stride, control.column_stride = data.strides
        control.tiles_kernel = data.tiles(dtype)
        pieces = gather.most_pieces(control, layout.sizes[0])
        self.upcoming = np.zeros((MOST_THREADS, gather.ADDRESSES + pieces), np.int64)
        self._controls = table.filled(table.CONTROL, [control])
        self.control = self._controls[0]
        self.options = engine.loss.options()
        self.calls = table.records(table.CALLS)[0]
        self._compile("" if optimizer is None else optimizer.name, l2 > 0.0)

    def _compile(self, rule: str, penalized: bool) -> None:
        """Find the addresses of all kernels that this run needs."""
        engine, layout, calls = self.engine, self.engine.layout, self.calls
        net, dtype, control = layout.net, layout.dtype, self.control
        training, weighted = control.training == 1, control.weighted_statistics == 1
        backward = self.mode != table.FORWARD
        names = ["gather", "forward_layer", "forward_features"]
        if not backward:
            names.append("write_logits")
        else:
            names += ["loss_part", "loss_block", "bias_part", "weight_layer"]
            calls.sum_row = epilogues.row_kernel("derive", dtype)
            if len(layout.sizes) > 2:
                names += ["backward_layer", "backward_features"]
            if control.clipped == 1:
                names += ["norm_part", "apply_part"]
            operation = microkernels.STORE if control.stored == 1 else rule
            penalized = penalized and operation == rule
            for kind in ({}, {"tall": True}, {"tall": True, "half": True}):
                calls["_".join((*kind, "tile_update"))] = microkernels.weight_kernel(
                    operation, dtype, penalized=penalized, **kind
                )
            calls.vector_update = microkernels.vector_kernel(operation, dtype)
            if self.mode == table.TRAIN:
                calls.step_numbers = microkernels.numbers_kernel(rule, dtype)
            if control.clipped == 1:
                calls.clipped_update = microkernels.vector_kernel(rule, dtype)
        if control.bfloat16 == 1 and backward:
            calls.strided_pairs_product = microkernels.micro_kernel("strided", dtype, pairs=True)
            calls.pairs_update = microkernels.weight_kernel(operation, dtype, penalized=penalized, pairs=True)
            calls.pack_gradients = bfloat16.pack_kernel("gradients")
        if control.bfloat16 == 1:
            calls.packed_pairs_product = microkernels.micro_kernel("packed", dtype, pairs=True)
            calls.pack_features, calls.round_tile = bfloat16.pack_kernel("features"), bfloat16.round_kernel()
            names += ["pack_input", "round_weights"]
        for product in ("packed", "strided") if backward else ("packed",):
            for tall in (False, True):
                calls[f"{'tall_' * tall}{product}_product"] = microkernels.micro_kernel(
                    product, dtype, tall=tall
                )
        sample_norm = bool((net["sample_norm"] != table.NO_NORM).any())
        if sample_norm:
            names += ["forward_blocks", "backward_blocks"] if backward else ["forward_blocks"]
            calls.add_bias = epilogues.row_kernel("activate", dtype)
        for l in range(1, len(layout.sizes)):
            row, code = net[l], layout.activations[l]
            norm, fused = row.norm, row.fused == 1
            inside = code if fused else activations.IDENTITY
            if row.dropout_threshold > 0:
                calls.drop_row = epilogues.row_kernel("drop", dtype)
                names.append("drop_panel")
            if row.sample_norm != table.NO_NORM:
                self._compile_sample_norm(row, code)
                continue
            by_rows = norm == table.NO_NORM or not fused
            if by_rows or (norm == table.AFTER and not training):
                row.activate_kernel = _row(code, "activate", dtype)
            if by_rows and backward:
                row.derive_kernel = _row(code, "derive", dtype)
            if norm == table.NO_NORM:
                continue
            first, then = (activations.IDENTITY, inside) if norm == table.BEFORE else (inside, 0)
            # a run with the moving averages has the same table: its pairs are not used
            feeds = layout.net[l + 1].bfloat16 == 1 and row.features_apart == 0
            row.normalize_kernel = epilogues.row_kernel("normalize", dtype, then, packed=feeds)
            if training:
                names.append("wide_statistics")
                row.statistics_kernel = epilogues.row_kernel("statistics", dtype, first, weighted=weighted)
            if backward:
                operation = "before" if norm == table.BEFORE else "backward"
                packed = row.bfloat16 == 1 and row.gradients_apart == 0
                row.backward_kernel = epilogues.row_kernel(
                    operation, dtype, inside, weighted=weighted, packed=packed
                )
        # These last: a second process compiles some of them meanwhile, from the other end.
        self.steps: Any = _steps(dtype)
        kernels = _kernels(self.data.kernel, engine.loss, sample_norm)
        for name in reversed(kernels):
            if name in names:
                calls[name] = _address(kernels[name], name, dtype)

    def _compile_sample_norm(self, row: Any, code: Any) -> None:
        """Find the addresses of the kernels of layer norm or RMS norm and of its activation."""
        dtype, backward = self.engine.layout.dtype, self.mode != table.FORWARD
        known = activations.IDENTITY if row.custom == 1 else code
        before, behind = known, activations.IDENTITY
        if row.sample_norm == table.BEFORE:
            before, behind = behind, before
        if row.sample_norm == table.AFTER or row.custom == 1:
            row.activate_kernel = _row(code, "activate", dtype)
        row.statistics_kernel = layer_norm.block_kernel("layer" if row.centred == 1 else "rms", dtype)
        row.normalize_kernel = layer_norm.block_kernel("normalize", dtype, behind)
        if backward:
            row.backward_kernel = layer_norm.block_kernel("panel", dtype, behind)
            row.block_backward_kernel = layer_norm.block_kernel("block", dtype, before)
            if row.custom == 1:
                row.derive_kernel = _row(code, "derive", dtype)

    def beyond(self) -> int | None:
        """Return the first row used that the network's dtype does not hold once standardized, or None."""
        width, dtype = self.engine.layout.sizes[0], self.engine.layout.dtype
        used = np.full(self.data.samples, self._selected is None)
        if self._selected is not None:
            used[self._selected] = True
        several = max((1 << 18) // width, 1)
        for start in range(0, self.data.samples, several):
            x = self.data.rows(start, min(start + several, self.data.samples))
            missing = np.isnan(x) if self.data.encoder is not None else False
            s = self.engine.exact if self.data.double else self.engine.single  # as `gather` computes
            with np.errstate(over="ignore", invalid="ignore"):
                values = (((x.astype(s.dtype) - s[0]) - s[1]) * s[2]).astype(dtype)
            wrong = used[start : start + several] & ~(np.isfinite(values) | missing).all(axis=1)
            if wrong.any():
                return start + int(np.argmax(wrong))
        return None

    def begin(self, seed: int, epoch: int, shuffle: bool) -> None:
        """Start an epoch."""
        with np.errstate(over="ignore"):  # interpreted, NumPy warns that the generator's numbers wrap
            permutation(np.uint64(seed), np.uint64(epoch), shuffle, self.order)
        if self._selected is not None:
            self.order[:] = self._selected[self.order]
        key = (seed * 0x9E3779B97F4A7C15 + epoch * 0xD1342543DE82EF95) & (2**63 - 1)
        self.control.step, self.control.dropout_key = 0, key
        self.progress[:] = 0.0

    @property
    def epoch_steps(self) -> int:
        """Steps of an epoch."""
        return int(self.control.steps)

    @property
    def epoch_step(self) -> int:
        """Steps of the epoch that are done."""
        return int(self.control.step)

    def windows(self) -> Generator[None, None, None]:
        """Make the steps of an epoch ready, a part at a time: all at once where the data lie in memory."""
        yield

    def agree(self, ends: bool) -> bool:
        """Whether the training ends: where several processes train, on one of them is on all."""
        return ends

    def arguments(self) -> tuple[Any, ...]:
        """Arguments of `steps` behind (tid, threads): the workspace."""
        engine, layout = self.engine, self.engine.layout
        members = {
            "sync": self.sync,
            "net": layout.net,
            "control": self.control,
            "hyper": self.hyper,
            "calls": self.calls,
            "rates": self.rates,
            "progress": self.progress,
            "order": self.order,
            "upcoming": self.upcoming,
            "labels": self.labels,
            "targets": self.targets,
            "weights": self.weights,
            "options": self.options,
            "exact": engine.exact,
            "single": engine.single,
            "optimizer": self.optimizer,
            "numbers": self.numbers,
            "weight": engine.weights,
            "weight_state": self.weight_state,
            "weight_gradient": self.weight_gradient,
            "vector": engine.vector,
            "vector_state": self.vector_state,
            "vector_gradient": self.vector_gradient,
            "running": engine.running,
            "saved": self.saved,
            "variance": self.variance,
            "gradients": self.gradients,
            "act": self.act,
            "partial": self.partial,
            "norms": self.norms,
            "out": self.out,
        }
        if self._workspace is None or not self._workspace.holds(**members):
            self._workspace = Workspace(workspace_type(layout.dtype), **members)
        return (self._workspace,)

    def stop(self) -> None:
        """Make a running `epoch_part` return before its next step."""
        self.control.stop = 1

    def all(self, threads: int) -> Run:
        """Run all steps from the present one; return the run itself."""
        if threads == 1:
            self.steps(0, 1, *self.arguments())
        else:
            with ThreadPool(threads) as pool:
                pool.run(self.steps, self.arguments(), lambda: None, self.stop)
        return self

    def optimizer_state(self) -> dict[str, npt.NDArray[Any]]:
        """Return the live arrays that the optimizer keeps from step to step."""
        names = self._state_names
        named = {
            f"{group}_{name}": values
            for group, state in (("weight", self.weight_state), ("vector", self.vector_state))
            for name, values in zip(names, state.reshape(max(len(names), 1), -1), strict=False)
        }
        return {"updates": self._controls["updates"], **named}

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Return the live arrays that a training needs to go on from here within its epoch."""
        engine = self.engine
        return {
            "weight": engine.weight,
            "vector": engine.vector,
            "running": engine.running,
            "progress": self.progress,
            "step": self._controls["step"],
            **self.optimizer_state(),
        }

    def restore(self, state: dict[str, npt.NDArray[Any]]) -> None:
        """Go on from what `state` gave, in this process or another."""
        for name, values in self.state().items():
            if state[name].shape != values.shape:
                raise ValueError(f"{name} must have shape {values.shape}, got shape {state[name].shape}")
            values[:] = state[name]

    def carry(self, state: dict[str, npt.NDArray[Any]]) -> None:
        """Begin with the `optimizer_state` of another run; that of another kind of optimizer is left out."""
        mine = self.optimizer_state()
        if all(name in state and state[name].shape == values.shape for name, values in mine.items()):
            for name, values in mine.items():
                values[:] = state[name]

    def go_on(self) -> None:
        """Take back `stop`; the next call of `steps` may have another number of threads."""
        self.control.stop = self.control.halt = 0
        self.sync[:] = 0

    def threads(self, most: int) -> int:
        """Return how many threads the next call of `steps` has; those that are not used have other work."""
        return most


# What takes longest to compile stands first.  A second process begins there and the first one at the other
# end, so that both end at the same time.
_KERNELS = {
    function.__name__: function
    for function in (
        forward.forward_features,
        backward.backward_layer,
        backward.backward_features,
        forward.forward_layer,
        backward.weight_layer,
        backward.loss_part,
        forward.wide_statistics,
        backward.bias_part,
        forward.drop_panel,
        forward.write_logits,
        bfloat16.pack_input,
        bfloat16.round_weights,
        clipping.norm_part,
        clipping.apply_part,
    )
}

# Instead of these and beside them, where samples are normalized by themselves.
_SAMPLE_KERNELS = {
    function.__name__: function
    for function in (
        layer_norm.forward_features,
        layer_norm.forward_blocks,
        layer_norm.backward_features,
        layer_norm.backward_blocks,
    )
}


def _kernels(reading: Any, loss: Loss, sample_norm: bool) -> dict[str, Any]:
    """Return the kernels that a run may need, by name."""
    own = {"gather": reading, "loss_block": block_kernel(loss)}
    return own | _KERNELS | (_SAMPLE_KERNELS if sample_norm else {})


def kernels_ahead(
    dtype: np.dtype[Any], hidden: bool, norm: str | None, loss: Loss, reading: Any
) -> list[Kernel]:
    """Return kernels that a training compiles and their types, in the order for a second process.

    Parameters
    ----------
    dtype : dtype
        That of the network.
    hidden : bool
        Whether it has hidden layers.
    norm : str or None
        Their normalization.
    loss : Loss
        Its own.
    reading : kernel
        The one that reads a mini-batch.
    """
    batch_norm, sample_norm, _ = table.NORMS[norm if hidden else None]
    kernels, signatures = _kernels(reading, loss, sample_norm != table.NO_NORM), _signatures(dtype)
    names = ["gather", "forward_features", "forward_layer", "weight_layer", "loss_part", "bias_part"]
    if "<locals>" not in kernels["loss_block"].py_func.__qualname__:  # or another process does not find it
        names.append("loss_block")
    if hidden:
        names += ["backward_features", "backward_layer"]
    if sample_norm != table.NO_NORM:
        names += ["forward_blocks", "backward_blocks"]
    if batch_norm != table.NO_NORM:
        names.append("wide_statistics")
    names.append("write_logits")  # for whoever predicts afterwards
    found = [(kernel, signatures[name]) for name, kernel in kernels.items() if name in names]
    # the first process comes to the order of the samples when all others are there
    return [(permutation, (types.uint64, types.uint64, types.boolean, types.int64[::1])), *found]


def _row(code: Any, operation: str, dtype: np.dtype[Any]) -> int:
    """Address of the kernel that computes or derives one row."""
    if isinstance(code, activations.Activation):
        return epilogues.custom_row_kernel(operation, dtype, code)
    return epilogues.row_kernel(operation, dtype, code)


@functools.lru_cache(maxsize=256)
def _address(kernel: Any, name: str, dtype: np.dtype[Any]) -> int:
    """Address of a kernel whose types `_signatures` knows by `name`."""
    return address(kernel, *_signatures(dtype)[name])


@functools.cache
def _steps(dtype: np.dtype[Any]) -> Callable[..., None]:
    """Return `epoch_part`, compiled for networks of a dtype now and not in the first step."""
    result: Callable[..., None] = epoch_part
    if config.DISABLE_JIT:  # interpreted, NumPy warns that numbers wrap which are meant to
        return np.errstate(over="ignore")(result)
    epoch_part.compile(_signatures(dtype)["epoch"])
    return result


@functools.cache
def workspace_type(dtype: np.dtype[Any]) -> WorkspaceType:
    """Type of the workspace of networks of a dtype."""
    whole, real = np.dtype(np.int64), np.dtype(np.float64)
    return WorkspaceType(
        {
            "sync": (whole, 1),
            "net": (table.LAYER, 1),
            "control": (table.CONTROL, 0),
            "hyper": (table.HYPER, 0),
            "calls": (table.CALLS, 0),
            "rates": (real, 1),
            "progress": (real, 1),
            "order": (whole, 1),
            "upcoming": (whole, 2),
            "labels": (whole, 1),
            "targets": (dtype, 1),
            "weights": (dtype, 1),
            "options": (real, 1),
            "exact": (real, 2),
            "single": (dtype, 2),
            "optimizer": (real, 1),
            "numbers": (dtype, 1),
            "weight": (dtype, 1),
            "weight_state": (dtype, 1),
            "weight_gradient": (dtype, 1),
            "vector": (dtype, 1),
            "vector_state": (dtype, 1),
            "vector_gradient": (dtype, 1),
            "running": (real, 1),
            "saved": (dtype, 1),
            "variance": (real, 1),
            "gradients": (dtype, 1),
            "act": (dtype, 1),
            "partial": (real, 1),
            "norms": (real, 1),
            "out": (dtype, 2),
        }
    )


@functools.cache
def _signatures(dtype: np.dtype[Any]) -> dict[str, tuple[Any, ...]]:
    """Types of `epoch_part` and of the kernels that it calls by address."""
    run, whole, real = workspace_type(dtype), types.int64, types.float64
    thread = (whole, whole)
    return {
        "epoch": (*thread, run),
        "gather": (*thread, run, whole, whole, whole),
        "pack_input": (*thread, run, whole, whole, whole, whole),
        "round_weights": (*thread, run),
        "forward_layer": (run, whole, whole, real, whole, whole, whole),
        "forward_features": (run, whole, whole, whole, whole, real),
        "forward_blocks": (run, whole, whole, whole, whole),
        "wide_statistics": (run, whole, whole, whole, real, whole),
        "drop_panel": (run, whole, whole, whole, whole, whole),
        "write_logits": (*thread, run, whole, whole),
        "loss_part": (*thread, run, whole, whole, real),
        "loss_block": (run, whole, whole, whole, whole, whole, whole, numba.from_dtype(dtype), whole),
        "bias_part": (run, whole, whole, whole, whole, whole),
        "backward_layer": (run, whole, whole, real, whole, whole, whole),
        "backward_features": (run, whole, whole, whole, whole, real, whole),
        "backward_blocks": (run, whole, whole, whole, whole),
        "weight_layer": (whole, run, whole, whole, whole, whole, whole, whole),
        "norm_part": (*thread, run),
        "apply_part": (*thread, run, whole),
    }
