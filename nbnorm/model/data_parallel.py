"""One network trained by several processes: each has a part of the samples, all have the parameters.

The samples of all ranks are divided into as many blocks of neighbouring ones as a mini-batch has shards,
and each epoch puts those of each block in a new order.  Mini-batches deal from the blocks in turn.  A rank
computes the shards of its own blocks with the functions that the package offers; the statistics of batch
norm, its sums in the backward pass and the gradients are summed over the shards as `nbnorm.model.ranks` says.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nbnorm._types import Array, FloatArray
from nbnorm.engine.steps import permutation
from nbnorm.engine.table import CONTROL, CORRECT, LOSS, PROGRESSES, SEEN, records
from nbnorm.functions import losses
from nbnorm.functions.activations import activation_backward, activation_forward
from nbnorm.functions.dense import dense_forward, parameter_gradients
from nbnorm.functions.layer_norm import (
    layer_norm_backward,
    layer_norm_forward,
    rms_norm_backward,
    rms_norm_forward,
)
from nbnorm.functions.loss_options import (
    AbsoluteError,
    BinaryCrossEntropy,
    CrossEntropy,
    Huber,
    Loss,
    Poisson,
    Quantile,
    SquaredError,
)
from nbnorm.functions.optimizers import Optimizer
from nbnorm.functions.shards import (
    input_gradient,
    merged_statistics,
    normalized,
    shard_statistics,
    shard_sums,
)
from nbnorm.model import inputs, metrics
from nbnorm.model.engines import bfloat16_layers, engine_for
from nbnorm.model.metrics import Outcome
from nbnorm.model.parallel_samples import ParallelSamples
from nbnorm.model.ranks import Summation
from nbnorm.simd import round_to_bfloat16

if TYPE_CHECKING:
    from nbnorm.model.network import FNN


# Learning rate instead of 0, which the functions of a step refuse: it is 0 in both dtypes.
_LEAST_RATE = 5e-324

# Bytes of gradients that are worth a message of their own; layers of fewer are sent together.
_BUCKET = 1 << 20

# Types of samples that are standardized as they are; others become float64 first.
_READ = (np.uint8, np.float32, np.float64)


def _loss(loss: Loss, z: Array, answers: Array, weights: Array | None) -> tuple[float, Array]:
    """Return the mean loss of a shard and its gradient with respect to z."""
    if isinstance(loss, CrossEntropy):
        return losses.softmax_cross_entropy(
            z, answers, label_smoothing=loss.label_smoothing, sample_weight=weights
        )
    if isinstance(loss, BinaryCrossEntropy):
        return losses.binary_cross_entropy(
            z, answers, label_smoothing=loss.label_smoothing, sample_weight=weights
        )
    if isinstance(loss, Huber):
        return losses.huber_loss(z, answers, delta=loss.delta, sample_weight=weights)
    if isinstance(loss, Quantile):
        return losses.quantile_loss(z, answers, loss.levels, sample_weight=weights)
    functions = {
        SquaredError: losses.mean_squared_error,
        AbsoluteError: losses.mean_absolute_error,
        Poisson: losses.poisson_loss,
    }
    return functions[type(loss)](z, answers, sample_weight=weights)


class _Shard:
    """One shard of a mini-batch on its way through the layers; lists have an entry for each layer."""

    def __init__(self, number: int, rows: Array, weights: Array | None) -> None:
        self.number, self.rows, self.weights = number, rows, weights
        self.y: list[Array] = []  # what each layer reads
        self.z: list[Array] = []  # what its activation reads
        self.a: list[Array] = []  # what its activation gives
        self.u: list[Array] = []  # what batch norm gives before gamma and beta
        self.rstd: list[Array] = []  # 1 / sqrt(var + eps) of the statistics that it has used
        self.saved: list[tuple[FloatArray, ...]] = []  # layer or RMS norm: what it has read, statistics
        self.masks: list[Array | None] = []  # factors of dropout
        self.gradient: FloatArray = np.empty(0)


class ParallelRun:
    """The steps of a training over several ranks, instead of `Run`.

    Between two calls of `steps` the parameters stand in `engine`, which validates and stores them.

    Parameters
    ----------
    net : FNN
    samples : ParallelSamples
    optimizer : Optimizer
    l2, clip_norm, clip_value : float
        As for `FNN.fit`.
    factors : mapping of str to float, optional
        By which factor of the learning rate parameters move that do not follow it, by name.
    """

    pooled = False  # ranks are the parallelism; the functions use threads of their own

    def __init__(
        self,
        net: FNN,
        samples: ParallelSamples,
        optimizer: Optimizer,
        *,
        l2: float = 0.0,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        factors: Mapping[str, float] | None = None,
    ) -> None:
        self._factors = factors or {}
        self._net, self._samples, self._ranks, self._optimizer = net, samples, samples.ranks, optimizer
        self._sync, self._l2, self._clip_norm, self._clip_value = samples.how.sync, l2, clip_norm, clip_value
        # whether statistics are those of the mini-batch
        self._of_batches = net.norm_kind == "batch" and not net.frozen_statistics
        self.engine = engine_for(net, samples.batch, gradients=False)
        self._arrays = net.arrays.copy()
        self._rounded_layers = bfloat16_layers(net)
        parameters = self._arrays.parameters.items()
        self._state = {
            name: {of: np.zeros_like(values) for of, values in parameters} for name in optimizer.rule.state
        }
        self._updates = np.zeros(1, np.int64)
        self._controls = records(CONTROL)
        self.control = self._controls[0]
        self.control.batch, self.control.steps = samples.batch, samples.steps
        self.progress, self.rates = np.zeros(PROGRESSES), np.zeros(samples.steps)
        labels, targets = inputs.encoded(net, "y", samples.truth) if len(samples.truth) else (None, None)
        shape = samples.truth.shape
        self.targets = np.zeros(1, net.dtype) if targets is None or labels is not None else targets
        self._answers = samples.truth if labels is not None or targets is None else targets.reshape(shape)
        self._orders = [np.zeros(int(size), np.int64) for size in np.diff(samples.starts)]
        self._masses = self._counts = np.zeros((0, 0))

    @property
    def epoch_steps(self) -> int:
        """Steps of an epoch."""
        return int(self.control.steps)

    @property
    def epoch_step(self) -> int:
        """Steps of the epoch that are done."""
        return int(self.control.step)

    def windows(self) -> Generator[None, None, None]:
        """Make the steps of an epoch ready."""
        yield

    def arguments(self) -> tuple[Any, ...]:
        """Arguments of `steps` behind (tid, threads)."""
        return ()

    def begin(self, seed: int, epoch: int, shuffle: bool) -> None:
        """Start an epoch: put the samples of each block in a new order."""
        samples, ranks = self._samples, self._ranks
        with np.errstate(over="ignore"):
            for shard, order in zip(ranks.own, self._orders, strict=True):
                permutation(np.uint64(seed), np.uint64(epoch + (shard << 32)), shuffle, order)
        self._key = [seed & (2**64 - 1), epoch & (2**64 - 1)]
        self.control.step = self.control.diverged = 0
        self.progress[:] = 0.0
        self._counts = np.array(
            [[self._span(step, shard)[1] - self._span(step, shard)[0] for shard in range(ranks.shards)]
             for step in range(samples.steps)], np.float64
        )  # fmt: skip
        self._masses = self._counts
        if samples.rounded is not None:
            own = [
                [float(self._weights(step, shard).sum(dtype=np.float64)) for step in range(samples.steps)]
                for shard in ranks.own
            ]
            table = np.array(own, np.float64).reshape(len(ranks.own), samples.steps)
            self._masses = ranks.gather(table).T

    def _span(self, step: int, shard: int) -> tuple[int, int]:
        """Return which samples of its block a shard takes: the batch deals from the blocks in turn."""
        samples, shards = self._samples, self._ranks.shards
        least, longer = divmod(samples.used, samples.steps)
        first, last = (at * least + min(at, longer) for at in (step, step + 1))
        return -(-(first - shard) // shards), -(-(last - shard) // shards)

    def _rows(self, step: int, shard: int) -> Array:
        """Return the rows of a shard among this rank's samples."""
        at = shard - self._ranks.first
        first, last = self._span(step, shard)
        return np.asarray(self._samples.starts[at] + self._orders[at][first:last])

    def _weights(self, step: int, shard: int) -> Array:
        assert self._samples.rounded is not None
        return np.asarray(self._samples.rounded[self._rows(step, shard)])

    def steps(self, tid: int, threads: int) -> None:
        """Run the steps from ``control.step`` to ``control.last_step``."""
        self._exchange(self.engine.store)
        control = self.control
        with self._ranks.guarded("a training step"):
            while control.step < control.last_step and not control.diverged:
                self._step(int(control.step))
                control.step += 1
        self._exchange(self.engine.load)

    def _exchange(self, move: Any) -> None:
        """Copy the parameters from the engine into the arrays of the steps, or back."""
        engine = self.engine
        own = engine.parameters, engine.buffers
        engine.parameters, engine.buffers = self._arrays.parameters, self._arrays.buffers
        try:
            move()
        finally:
            engine.parameters, engine.buffers = own

    def _step(self, step: int) -> None:
        """Forward, backward and update with one mini-batch."""
        weighted = self._samples.rounded is not None
        shards = []
        for number in self._ranks.own:
            rows = self._rows(step, number)
            if len(rows):
                shards.append(_Shard(number, rows, self._weights(step, number) if weighted else None))
        masses, counts = self._masses[step], self._counts[step]
        counted = masses if self._net.weighted_statistics else counts
        deferred: list[Array] = []
        self._forward(step, shards, counted, deferred)
        total = float(masses.sum())
        results = np.zeros((len(self._ranks.own), 2))
        for shard in shards:
            answers = self._answers[shard.rows]
            mass = masses[shard.number]
            loss, gradient = _loss(self._net.loss, shard.z[-1], answers, shard.weights)
            shard.gradient = gradient * gradient.dtype.type(mass / total)
            results[shard.number - self._ranks.first] = loss * mass, self._hits(shard)
        gradients = self._backward(shards, counted, deferred)
        whole = self._ranks.gather(np.hstack([results, *deferred]))
        if deferred:
            self._take_deferred(whole[:, 2:], counted, step, gradients)
        self._update(gradients, float(self.rates[step]))
        loss, hits = (sum(column.tolist()) for column in whole[:, :2].T)
        for index, value in ((LOSS, loss), (CORRECT, hits), (SEEN, total)):
            self.progress[index] += value
        if not math.isfinite(loss):
            self.control.diverged = 1

    def _hits(self, shard: _Shard) -> float:
        """Return the weight of the samples that are classified correctly."""
        net = self._net
        if net.output == "identity":
            return 0.0
        outcome = Outcome(net.output, shard.z[-1], self._samples.truth[shard.rows], None)
        right = metrics.right(outcome)
        return float(right.sum() if shard.weights is None else right @ shard.weights.astype(np.float64))

    def _input(self, rows: Array) -> Array:
        """Return what the first layer reads: the samples encoded, standardized, in the network's dtype."""
        net = self._net
        x = self._samples.x[rows]
        if net.encoder is not None:
            x = net.encoder.transform(x)
        elif x.dtype not in _READ:
            x = x.astype(np.float64)
        if net.standardizer is not None:
            moments = net.standardizer.moments_
            x = normalized(x, moments.mean, 1.0 / net.standardizer.scale_, moments.mean_low, net.dtype)
        if net.encoder is not None:
            x = np.where(np.isnan(x), 0.0, x)
        with np.errstate(over="ignore"):
            return np.asarray(x.astype(net.dtype, copy=False))

    def _forward(self, step: int, shards: Sequence[_Shard], counted: Array, deferred: list[Array]) -> None:
        net, parameters = self._net, self._arrays.parameters
        layers = len(net.sizes) - 1
        for shard in shards:
            shard.y.append(self._input(shard.rows))
        for l in range(1, layers + 1):
            weight, bias = self._operand(l, parameters[f"dense{l}.weight"]), parameters.get(f"dense{l}.bias")
            for shard in shards:
                shard.y[-1] = self._operand(l, shard.y[-1])
                shard.z.append(dense_forward(shard.y[-1], weight, bias))
            if l == layers:
                return
            activation = net.activations[l - 1]
            if net.norm_placement == "before":
                values = [shard.z[-1] for shard in shards]
                for shard, z in zip(
                    shards, self._norm(l, step, shards, values, counted, deferred), strict=True
                ):
                    shard.z[-1] = z
            for shard in shards:
                shard.a.append(activation_forward(shard.z[-1], activation))
            values = [shard.a[-1] for shard in shards]
            if net.norm_placement == "after":
                values = self._norm(l, step, shards, values, counted, deferred)
            for shard, out in zip(shards, values, strict=True):
                mask = self._mask(step, l, shard.number, out.shape)
                shard.masks.append(mask)
                shard.y.append(out if mask is None else out * mask)

    def _operand(self, l: int, values: Array) -> Array:
        """Return an operand of the products of layer l, rounded where they take bfloat16."""
        return round_to_bfloat16(values) if l in self._rounded_layers else values

    def _mask(self, step: int, l: int, shard: int, shape: tuple[int, ...]) -> Array | None:
        """Return 0 for the elements that dropout leaves out and 1 / (1 - dropout) for the others."""
        threshold = round(self._net.dropout[l - 1] * 2.0**32)
        if threshold == 0:
            return None
        generator = np.random.Philox(key=self._key, counter=[0, step, l, shard])
        kept = (generator.random_raw(shape) >> 32) >= threshold
        return np.asarray(kept * self._net.dtype.type(1.0 / (1.0 - threshold / 2.0**32)))

    def _norm(
        self,
        l: int,
        step: int,
        shards: Sequence[_Shard],
        values: list[Array],
        counted: Array,
        deferred: list[Array],
    ) -> list[Array]:
        """Return what the normalization of a layer gives for each shard."""
        kind, eps, parameters = self._net.norm_kind, self._net.eps, self._arrays.parameters
        gamma, beta = parameters[f"norm{l}.gamma"], parameters.get(f"norm{l}.beta")
        if kind == "batch":
            self._normalize(l, step, shards, values, counted, deferred)
            return [gamma * shard.u[-1] + beta for shard in shards]
        outs = []
        for shard, x in zip(shards, values, strict=True):
            out, *saved = (
                layer_norm_forward(x, gamma, beta, eps=eps)
                if beta is not None
                else rms_norm_forward(x, gamma, eps=eps)
            )
            shard.saved.append((x, *saved))
            outs.append(out)
        return outs

    def _normalize(
        self,
        l: int,
        step: int,
        shards: Sequence[_Shard],
        values: list[Array],
        counted: Array,
        deferred: list[Array],
    ) -> None:
        """Append the normalized values of each shard, and take note of the statistics."""
        net, ranks = self._net, self._ranks
        if net.frozen_statistics:
            mean, variance = self._arrays.moving_statistics(l)
            rstd = 1.0 / np.sqrt(variance + net.eps)
            for shard, x in zip(shards, values, strict=True):
                shard.u.append(normalized(x, mean, rstd))
                shard.rstd.append(rstd)
            return
        own = np.zeros((len(ranks.own), 2, net.sizes[l]))
        for shard, x in zip(shards, values, strict=True):
            weights = shard.weights if net.weighted_statistics else None
            own[shard.number - ranks.first] = shard_statistics(x, weights)
        if self._sync:
            tables = ranks.gather(own)
            mean, var = merged_statistics(tables, counted)
            self._move_averages(l, mean, var, float(counted.sum()), step)
            rstd = 1.0 / np.sqrt(var + net.eps)
            for shard, x in zip(shards, values, strict=True):
                shard.u.append(normalized(x, mean, rstd))
                shard.rstd.append(rstd)
            return
        deferred.append(own.reshape(len(own), -1))
        for shard, x in zip(shards, values, strict=True):
            mean, squares = own[shard.number - ranks.first]
            rstd = 1.0 / np.sqrt(squares / counted[shard.number] + net.eps)
            shard.u.append(normalized(x, mean, rstd))
            shard.rstd.append(rstd)

    def _move_averages(self, l: int, mean: Array, var: Array, counted: float, step: int) -> None:
        """Move the moving averages towards the statistics of a mini-batch."""
        net, buffers = self._net, self._arrays.buffers
        samples, decay = float(self._counts[step].sum()), net.decay
        if decay is None:
            count = buffers[f"norm{l}.n_batches"]
            decay = float(count / (count + 1))
            count += 1
        if net.weighted_statistics and self._samples.rounded is not None:
            samples = max(counted * self._samples.unit, samples)
        averaged = var * (samples / (samples - 1.0)) if net.unbiased else var
        if net.running == "std":
            averaged = np.sqrt(averaged)
        for name, value in (("mean", mean), (net.running, averaged)):
            average = buffers[f"norm{l}.running_{name}"]
            average[:] = decay * average + (1.0 - decay) * value

    def _backward(self, shards: Sequence[_Shard], counted: Array, deferred: list[Array]) -> dict[str, Array]:
        """Return all gradients; one message for each layer's statistics, and two for a bucket of weights.

        A bucket travels while the gradients of the layers in front of it are computed.
        """
        parameters, ranks = self._arrays.parameters, self._ranks
        gradients: dict[str, Array] = {}
        sums: list[tuple[list[str], Summation]] = []
        bucket: list[list[Array]] = [[] for _ in ranks.own] or [[]]  # of each shard: those that wait
        names: list[str] = []
        for l in range(len(self._net.sizes) - 1, 0, -1):
            of_layer = [name for name in (f"dense{l}.weight", f"dense{l}.bias") if name in parameters]
            names += of_layer
            waiting = {shard.number for shard in shards}
            for number, collected in zip(ranks.own or [-1], bucket, strict=True):
                if number not in waiting:
                    collected += [
                        np.zeros(parameters[name].size, parameters[name].dtype) for name in of_layer
                    ]
            for shard in shards:
                collected = bucket[shard.number - ranks.first]
                dz = self._operand(l, shard.gradient)
                of_shard = list(parameter_gradients(dz, shard.y[l - 1]))
                if dz is not shard.gradient:  # that of the bias is no product
                    of_shard[1] = shard.gradient.sum(axis=0)
                collected += [values.reshape(-1) for values in of_shard[: len(of_layer)]]
                if l > 1:
                    weight = self._operand(l, parameters[f"dense{l}.weight"])
                    shard.gradient = np.dot(dz, weight)
            if l == 1 or sum(values.nbytes for values in bucket[0]) >= _BUCKET:
                for _, before in sums[-1:]:
                    before.proceed()
                sums.append((names, ranks.begin_sum([np.concatenate(collected) for collected in bucket])))
                bucket, names = [[] for _ in bucket], []
            if l > 1:
                self._backward_features(l - 1, shards, counted, deferred, gradients)
        for names, summation in sums:
            ends = np.cumsum([parameters[name].size for name in names])
            for name, values in zip(names, np.split(summation.result(), ends[:-1]), strict=True):
                gradients[name] = values.reshape(parameters[name].shape)
        return gradients

    def _backward_features(
        self,
        l: int,
        shards: Sequence[_Shard],
        counted: Array,
        deferred: list[Array],
        gradients: dict[str, Array],
    ) -> None:
        """Turn the gradient of what layer l gives into that of its affine map."""
        net = self._net
        for shard in shards:
            mask = shard.masks[l - 1]
            if mask is not None:
                shard.gradient = shard.gradient * mask
        if net.norm_placement == "after":
            self._backward_norm(l, shards, counted, deferred, gradients)
        for shard in shards:
            shard.gradient = activation_backward(
                shard.gradient, shard.a[l - 1], net.activations[l - 1], z=shard.z[l - 1]
            )
        if net.norm_placement == "before":
            self._backward_norm(l, shards, counted, deferred, gradients)

    def _backward_norm(
        self,
        l: int,
        shards: Sequence[_Shard],
        counted: Array,
        deferred: list[Array],
        gradients: dict[str, Array],
    ) -> None:
        net, ranks = self._net, self._ranks
        scale = self._arrays.parameters[f"norm{l}.gamma"]
        own = np.zeros((len(ranks.own), 2, len(scale)))  # gradients of beta and gamma
        if net.norm_kind != "batch":
            for shard in shards:
                x, *saved = shard.saved[l - 1]
                backward = layer_norm_backward if net.norm_kind == "layer" else rms_norm_backward
                shard.gradient, *found = backward(shard.gradient, x, scale, *saved)
                own[shard.number - ranks.first, ::-1][: len(found)] = found
            deferred.append(own.reshape(len(own), -1))
            return
        gamma = scale.astype(np.float64)
        for shard in shards:
            own[shard.number - ranks.first] = shard_sums(shard.gradient, shard.u[l - 1])
        if net.frozen_statistics:
            deferred.append(own.reshape(len(own), -1))
            for shard in shards:
                g, u = shard.gradient * gamma, shard.u[l - 1]
                shard.gradient = np.asarray((shard.rstd[l - 1] * g).astype(u.dtype))
            return
        sums = counted
        if self._sync:
            sums = ranks.gather(own).sum(axis=0)
            self._set_norm_gradients(l, sums, gradients)
        else:
            deferred.append(own.reshape(len(own), -1))
        total = float(counted.sum())
        for shard in shards:
            if not self._sync:
                sums, total = own[shard.number - ranks.first], float(counted[shard.number])
            fraction: float | Array = 1.0 / total
            if net.weighted_statistics and shard.weights is not None:
                fraction = shard.weights.astype(np.float64) / total
            shard.gradient = input_gradient(
                shard.gradient, shard.u[l - 1], gamma * shard.rstd[l - 1], fraction, sums
            )

    def _set_norm_gradients(self, l: int, sums: Array, gradients: dict[str, Array]) -> None:
        for name, values in zip(("beta", "gamma"), sums, strict=True):
            if f"norm{l}.{name}" in self._arrays.parameters:
                gradients[f"norm{l}.{name}"] = values.astype(self._net.dtype)

    def _take_deferred(self, table: Array, counted: Array, step: int, gradients: dict[str, Array]) -> None:
        """Take the statistics of shards, and their sums in the backward pass, that came in one message."""
        hidden = range(1, len(self._net.sizes) - 1)
        forward = hidden if self._of_batches else range(0)
        order = [(l, False) for l in forward] + [(l, True) for l in reversed(hidden)]
        at = 0
        for l, backward in order:
            width = self._net.sizes[l]
            part = table[:, at : at + 2 * width].reshape(len(table), 2, width)
            at += 2 * width
            if backward:
                self._set_norm_gradients(l, part.sum(axis=0), gradients)
            else:
                self._move_averages(l, *merged_statistics(part, counted), float(counted.sum()), step)

    def _update(self, gradients: dict[str, Array], rate: float) -> None:
        """Bound the gradients, add the penalty, and let the optimizer make its step."""
        optimizer, parameters = self._optimizer, self._arrays.parameters
        if self._clip_value is not None:
            for values in gradients.values():
                np.clip(values, -self._clip_value, self._clip_value, out=values)
        if self._clip_norm is not None:
            squares = sum(float(np.square(gradients[name], dtype=np.float64).sum()) for name in parameters)
            if squares > self._clip_norm**2:
                shrunk = self._clip_norm / math.sqrt(squares)
                for values in gradients.values():
                    values *= values.dtype.type(shrunk)
        self._updates += 1
        for name, param in parameters.items():
            if (factor := self._factors.get(name, 1.0)) == 0.0:
                continue
            lr = max(rate * factor, _LEAST_RATE)
            is_weight = name.endswith("weight")
            decay = optimizer.weight_decay if is_weight else 0.0
            gradient = np.ascontiguousarray(gradients[name])
            if is_weight and self._l2 > 0.0:
                gradient = gradient + param.dtype.type(self._l2) * param
            state: list[Any] = [arrays[name] for arrays in self._state.values()]
            if optimizer.rule.counts_steps:
                state.append(int(self._updates[0]))
            dataclasses.replace(optimizer, lr=lr, weight_decay=decay).step(param, gradient, *state)

    # ------------------------------------------------------------------------------------------
    # State
    # ------------------------------------------------------------------------------------------

    def optimizer_state(self) -> dict[str, Array]:
        """Return the live arrays that the optimizer keeps from step to step."""
        named = {
            f"{name} {of}": values for name, arrays in self._state.items() for of, values in arrays.items()
        }
        return {"updates": self._updates, **named}

    def state(self) -> dict[str, Array]:
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

    def restore(self, state: dict[str, Array]) -> None:
        """Go on from what `state` gave, in this process or another."""
        for name, values in self.state().items():
            if state[name].shape != values.shape:
                raise ValueError(f"{name} must have shape {values.shape}, got shape {state[name].shape}")
            values[:] = state[name]

    def carry(self, state: dict[str, Array]) -> None:
        """Begin with the `optimizer_state` of another run; that of another kind of optimizer is left out."""
        mine = self.optimizer_state()
        if all(name in state and state[name].shape == values.shape for name, values in mine.items()):
            for name, values in mine.items():
                values[:] = state[name]

    def agree(self, ends: bool) -> bool:
        """Whether the training ends on one of the ranks, so that it ends on all."""
        return any(self._ranks.comm.allgather(ends))

    def stop(self) -> None:
        """Make `steps` return before its next step."""
        self.control.last_step = self.control.step

    def go_on(self) -> None:
        """Take back `stop`: the next call of `steps` is told how far to go."""

    def threads(self, most: int) -> int:
        """Return how many threads the next call of `steps` has."""
        return most

    def beyond(self) -> int | None:
        """Return None: rows that the network's dtype cannot hold are not looked for."""
        return None
