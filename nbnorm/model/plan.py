"""A training as the arguments of `FNN.fit` describe it: its checked options and data."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import numpy.typing as npt

from nbnorm import _check, _files
from nbnorm._types import Communicator, Table
from nbnorm.data.row_groups import OnDisk, is_row_groups, open_groups
from nbnorm.engine.microkernels import tile
from nbnorm.functions.optimizers import SGD, Optimizer, resolve
from nbnorm.model import checkpoints, inputs, metrics, parameter_rates, sample_weights, schedules, stopping
from nbnorm.model.history import DivergenceError, History
from nbnorm.model.metrics import MetricLike
from nbnorm.model.parallel_samples import ParallelSamples, SharedValidation
from nbnorm.model.ranks import DataParallel, Ranks, SharedCheckpoint, data_parallel, versions
from nbnorm.model.sample_weights import ClassFactors, ClassWeight
from nbnorm.model.samples import Samples, ValidationData, ValidationTuple
from nbnorm.model.schedules import Plateau, Schedule, ScheduleName
from nbnorm.model.stopping import EarlyStopping
from nbnorm.model.streaming import Stream, StreamedValidation

if TYPE_CHECKING:
    from nbnorm.model.network import FNN


class FitOptions(TypedDict, total=False):
    """Options of `FNN.fit` that `cross_validate` and `fit_many` pass on."""

    epochs: int
    batch_size: int
    optimizer: Optimizer | None
    schedule: ScheduleName | Schedule | Callable[[int], float]
    class_weight: ClassWeight | None
    clip_norm: float | None
    clip_value: float | None
    l2: float
    frozen: Iterable[str]
    rates: Mapping[str, float] | None
    metrics: Iterable[MetricLike]
    early_stopping: EarlyStopping | bool | None
    checkpoint_every: float
    shuffle: bool
    callbacks: Iterable[Callable[[FNN, History], object]]
    shuffle_buffer: int | None
    comm: Communicator | DataParallel | None


class FitManyOptions(FitOptions, total=False):
    """Options of `FNN.fit` that `fit_many` passes on."""

    sample_weight: npt.ArrayLike | None
    validation_data: ValidationTuple | None
    seed: int | None


# What a checkpoint calls some options, and those that may differ where a training is resumed: the data are
# described by themselves.
_SHOWN = {"bounds": "penalty and bounds", "factors": "frozen and rates", "seed": "the seed of fit"}
_FREE = ("samples", "validation", "checkpoint", "checkpoint_every", "first_epoch", "progress", "callbacks")


@dataclasses.dataclass
class Plan:
    """Options of one training, checked and resolved; `FNN.fit` describes them.

    `seed` is None where the network's own counts; the order of the first epoch is that of `first_epoch`.
    `bounds` are the penalty on the weights and the bounds of the gradients, `factors` those of the learning
    rate by which parameters move that are frozen or have rates of their own.
    """

    samples: Samples | Stream | ParallelSamples
    validation: ValidationData | StreamedValidation | SharedValidation | None
    epochs: int
    batch_size: int
    optimizer: Optimizer
    schedule: Schedule
    bounds: dict[str, float]
    factors: dict[str, float]
    early_stopping: EarlyStopping | None
    checkpoint: _files.PathLike | None
    checkpoint_every: float
    shuffle: bool
    seed: int | None
    first_epoch: int
    progress: bool | None
    callbacks: list[Callable[[FNN, History], object]]

    def file(self, net: FNN) -> checkpoints.Checkpoint | None:
        """Return the file of the checkpoint, which knows network, options and data, or None without one."""
        if self.checkpoint is None:
            return None
        measured = [] if self.validation is None else [metric.name for metric in self.validation.metrics]
        options = {
            _SHOWN.get(field.name, field.name): getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in _FREE
        }
        settings = {
            **checkpoints.options_of(net),
            **{name: checkpoints.plain(value) for name, value in options.items()},
            "metrics": checkpoints.plain(measured),
            # arrays of the engine are stored as they lie, in tiles of the processor's width
            "the processor's tile": str(tile(net.dtype)),
            **self.samples.describe(),
            "validation_data": "None" if self.validation is None else self.validation.describe(),
        }
        if isinstance(self.samples, ParallelSamples):
            return SharedCheckpoint(self.checkpoint, self.checkpoint_every, settings, self.samples.ranks)
        return checkpoints.Checkpoint(self.checkpoint, self.checkpoint_every, settings)

    @property
    def alone(self) -> bool:
        """Whether no other rank waits for this process."""
        return not isinstance(self.samples, ParallelSamples) or self.samples.ranks.size == 1

    def guarded(self) -> contextlib.AbstractContextManager[None]:
        """Return what ends all ranks when this one fails where the others wait for it."""
        if isinstance(self.samples, ParallelSamples):
            return self.samples.ranks.guarded("the training", DivergenceError, ValueError)
        return contextlib.nullcontext()


def checked(
    net: FNN,
    X: Table | OnDisk,
    y: npt.ArrayLike,
    *,
    batch_size: int,
    sample_weight: npt.ArrayLike | None,
    class_weight: ClassWeight | ClassFactors | None,
    validation_data: ValidationTuple | None,
    metrics: Iterable[MetricLike],
    shuffle_buffer: int | None,
    comm: Communicator | DataParallel | None,
    **options: Any,
) -> Plan:
    """Check the arguments of `FNN.fit`.

    Raises
    ------
    TypeError, ValueError
        As `FNN.fit`.
    RuntimeError
        If another rank has raised one of these.
    """

    def check() -> dict[str, Any]:
        if comm is not None and shuffle_buffer is not None:
            raise ValueError(
                "shuffle_buffer must be None with comm, whose ranks hold their parts in memory, "
                f"got {shuffle_buffer}"
            )
        return _options(net, batch_size=batch_size, shuffle_buffer=shuffle_buffer, **options)

    samples: Samples | Stream | ParallelSamples
    if comm is not None:
        how = data_parallel(comm)
        ranks = Ranks(how.comm, how.shards)
        ranks.same(versions())
        fields = ranks.together(check)
        texts = {name: checkpoints.plain(value) for name, value in fields.items() if name != "callbacks"}
        texts["class_weight"] = checkpoints.plain(class_weight)
        ranks.same({**texts, "validation_data": str(type(validation_data))})
        fields["callbacks"] = [_guarded(ranks, callback) for callback in fields["callbacks"]]
        samples = ParallelSamples(net, how, ranks, X, y, sample_weight, class_weight, batch_size)
        _check_least(net, samples, batch_size)
    else:
        fields = check()
        if is_row_groups(X) or shuffle_buffer is not None:
            samples = _stream(net, X, y, sample_weight, class_weight, batch_size, shuffle_buffer)
        else:
            samples = training_samples(net, X, y, sample_weight, class_weight, batch_size)
    validation = _validation(net, validation_data, metrics, samples)
    early, schedule = _with_directions(net, validation, fields["early_stopping"], fields["schedule"])
    del fields["shuffle_buffer"]
    fields |= {"early_stopping": early, "schedule": schedule}
    return Plan(samples=samples, validation=validation, **fields)


def _options(
    net: FNN,
    *,
    epochs: int,
    batch_size: int,
    optimizer: Optimizer | None,
    schedule: ScheduleName | Schedule | Callable[[int], float],
    clip_norm: float | None,
    clip_value: float | None,
    l2: float,
    early_stopping: EarlyStopping | bool | None,
    checkpoint: _files.PathLike | None,
    checkpoint_every: float,
    shuffle: bool,
    seed: int | None,
    progress: bool | None,
    callbacks: Iterable[Callable[[FNN, History], object]],
    shuffle_buffer: int | None,
    frozen: Iterable[str],
    rates: Mapping[str, float] | None,
) -> dict[str, Any]:
    """Check the options that do not depend on the data; return them as `Plan` has them."""
    first_epoch = net.epochs_trained
    if seed is not None:
        seed, first_epoch = _check.integer("seed", seed, least=0, most=2**63 - 1), 0
    bounds = {"l2": _check.number("l2", l2, least=0.0)}
    for name, bound in (("clip_norm", clip_norm), ("clip_value", clip_value)):
        if bound is not None:
            bounds[name] = _check.number(name, bound, above=0.0)
    if shuffle_buffer is not None:
        shuffle_buffer = _check.integer("shuffle_buffer", shuffle_buffer, least=1)
    optimizer = checked_optimizer(optimizer)
    return {
        "epochs": _check.integer("epochs", epochs, least=1),
        "batch_size": _check.integer("batch_size", batch_size, least=1),
        "shuffle": _check.flag("shuffle", shuffle),
        "optimizer": optimizer,
        "schedule": schedules.resolve(schedule),
        "bounds": bounds,
        "factors": parameter_rates.factors(net, optimizer.lr, frozen, rates),
        "early_stopping": stopping.resolve(early_stopping),
        "checkpoint": checkpoint,
        "checkpoint_every": _check.number("checkpoint_every", checkpoint_every, least=0.0),
        "seed": seed,
        "first_epoch": first_epoch,
        "progress": None if progress is None else _check.flag("progress", progress),
        "callbacks": checked_callbacks(callbacks),
        "shuffle_buffer": shuffle_buffer,
    }


def checked_callbacks(
    callbacks: Iterable[Callable[[FNN, History], object]],
) -> list[Callable[[FNN, History], object]]:
    """Return callbacks as a list, each of which can be called."""
    calls = list(callbacks) if isinstance(callbacks, Iterable) else [callbacks]
    if not (isinstance(callbacks, Iterable) and all(callable(call) for call in calls)):
        raise TypeError("callbacks must be an iterable of functions of (net, history)")
    return calls


def _guarded(ranks: Ranks, callback: Callable[..., object]) -> Callable[..., object]:
    """Return a callback that ends all ranks when it fails on one of them."""

    def call(net: FNN, history: History) -> object:
        with ranks.guarded("a callback"):
            return callback(net, history)

    return call


def checked_optimizer(optimizer: Optimizer | None) -> Optimizer:
    """Return the optimizer, or the one that `FNN.fit` has by default."""
    if optimizer is None:
        return SGD(lr=0.1, momentum=0.9)
    return resolve(optimizer)


def training_samples(
    net: FNN,
    X: Table,
    y: npt.ArrayLike,
    sample_weight: npt.ArrayLike | None,
    class_weight: ClassWeight | ClassFactors | None,
    batch_size: int,
) -> Samples:
    """Check the data of a training."""
    x = inputs.table(net, "X", X)
    truth = inputs.truth(net, "y", y, x.shape[0], "X")
    weights = None
    if sample_weight is not None:
        weights = _check.weights("sample_weight", sample_weight, x.shape[0])
    class_factors = None
    if isinstance(class_weight, ClassFactors):
        class_factors = class_weight.values
    elif class_weight is not None:
        classes = inputs.classes(net, truth)
        class_factors = sample_weights.class_weights(class_weight, classes, max(net.sizes[-1], 2), weights)
    combined = sample_weights.Weights(
        len(truth), weights, class_factors, net.dtype, weighted_statistics=net.weighted_statistics
    )
    names = _check.header("X", X, inputs.feature_names(net))[0]
    samples = Samples(x, truth, combined, batch_size, names)
    _check_least(net, samples, batch_size)
    return samples


def _check_least(net: FNN, samples: Samples | Stream | ParallelSamples, batch_size: int) -> None:
    """Refuse mini-batches that are too small for batch normalization."""
    inputs.check_batch(
        net,
        samples.least,
        f"{samples.used} samples in batches of {batch_size} leave a last batch of one; "
        "choose another batch_size"
        if samples.batch > 1
        else "choose a larger batch_size, or norm='layer' or None",
    )


def _stream(
    net: FNN,
    X: Table | OnDisk,
    y: npt.ArrayLike,
    sample_weight: npt.ArrayLike | None,
    class_weight: ClassWeight | ClassFactors | None,
    batch_size: int,
    shuffle_buffer: int | None,
) -> Stream:
    """Check the data of a training that are read in groups."""
    if not (is_row_groups(X) or isinstance(X, np.ndarray)):
        raise TypeError(
            "shuffle_buffer needs X to be a path, an Arrow file or dataset, or an array, "
            f"got {type(X).__name__}"
        )
    groups = open_groups("X", X, y, sample_weight, features=inputs.feature_names(net))
    samples = Stream(net, groups, class_weight, batch_size, shuffle_buffer)
    _check_least(net, samples, batch_size)
    return samples


def _validation(
    net: FNN,
    data: ValidationTuple | None,
    measured: Iterable[MetricLike],
    samples: Samples | Stream | ParallelSamples,
) -> ValidationData | StreamedValidation | SharedValidation | None:
    """Check the validation data and metrics."""
    chosen = metrics.resolve(measured, net.output, net.sizes[-1])
    if data is None:
        if chosen:
            raise ValueError("metrics are measured on validation_data, which is None")
        return None
    if not isinstance(data, (tuple, list)) or len(data) not in (2, 3):
        raise TypeError("validation_data must be a tuple (X, y) or (X, y, weights)")
    if isinstance(samples, ParallelSamples):
        return SharedValidation.of(net, samples, data, chosen)
    names = samples.names
    if is_row_groups(data[0]):
        groups = open_groups("validation_data[0]", *data, features=names)
        return StreamedValidation(net, groups, chosen)
    x = inputs.table(net, "validation_data[0]", data[0], names=names)
    truth = inputs.truth(net, "validation_data[1]", data[1], x.shape[0], "validation_data[0]")
    weights = None
    if len(data) == 3 and data[2] is not None:
        weights = _check.weights("validation_data[2]", data[2], x.shape[0])
    return ValidationData(x, truth, weights, chosen)


def _with_directions(
    net: FNN,
    validation: ValidationData | StreamedValidation | SharedValidation | None,
    early: EarlyStopping | None,
    schedule: Schedule,
) -> tuple[EarlyStopping | None, Schedule]:
    """Settle whether more or less is better of the values that early stopping and schedule watch."""
    measured = [] if validation is None else validation.metrics
    known = ["loss"] + (["accuracy"] if net.output != "identity" else [])
    if validation is not None:
        known += [f"val_{name}" for name in known]
        known += [name for metric in measured for name in (metric.name, f"val_{metric.name}")]
    known = list(dict.fromkeys(known))
    if early is not None:
        mode = metrics.direction(early.monitor, early.mode, known, measured)
        early = dataclasses.replace(early, mode=mode)
    if isinstance(schedule, Plateau) and schedule.monitor is not None:
        mode = metrics.direction(schedule.monitor, schedule.mode, known, measured)
        schedule = dataclasses.replace(schedule, mode=mode)
    return early, schedule
