"""Training of several networks side by side: ensembles, cross-validation and small grids."""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import itertools
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nbnorm import _check, _files
from nbnorm._types import CheckedTable, DaskClient, Table
from nbnorm.data import datasets
from nbnorm.data.row_groups import OnDisk, is_row_groups
from nbnorm.engine.concurrency import side_by_side
from nbnorm.model import clients, inputs, plan, training
from nbnorm.model.history import DivergenceError, History
from nbnorm.model.network import FNN
from nbnorm.model.plan import FitManyOptions, FitOptions
from nbnorm.model.progress import SharedProgress
from nbnorm.statistics.reading import is_sparse

if TYPE_CHECKING:
    from typing_extensions import Unpack


@dataclasses.dataclass(frozen=True)
class CrossValidation:
    """Results of `cross_validate`.

    Attributes
    ----------
    candidates : list of dict
        Options of `FNN.fit` that the grid gave, in the order of its product; one empty dict without a grid.
    scores : ndarray of float64, shape (n_candidates, n_folds)
        Score of each candidate on each held-out fold: accuracy, or the coefficient of determination.
    histories : list of list of History
        Of each candidate and fold.
    folds : list of ndarray of int64
        Rows that each fold holds out.

    Examples
    --------
    >>> from nbnorm import FNN, cross_validate, load_digits
    >>> found = cross_validate(FNN([64, 10], seed=0), *load_digits(), folds=3, epochs=2)
    >>> found.candidates, bool(found.mean[0] > 0.8)
    ([{}], True)
    >>> CrossValidation([{"lr": 0.1}, {"lr": 0.2}], np.array([[0.5, 0.75], [0.5, 1.0]]), [], [])
    CrossValidation(folds=2, candidates=2, best={'lr': 0.2}, score=0.75 +- 0.25)
    """

    candidates: list[dict[str, Any]]
    scores: npt.NDArray[np.float64]
    histories: list[list[History]]
    folds: list[npt.NDArray[np.int64]]

    def __repr__(self) -> str:
        """Show the best candidate, and mean and standard deviation of its scores."""
        candidates, folds = self.scores.shape
        best = int(np.argmax(self.mean))
        several = f", candidates={candidates}, best={reprlib.repr(self.best)}" if candidates > 1 else ""
        score = f"{self.mean[best]:.4g} +- {self.std[best]:.2g}"
        return f"CrossValidation(folds={folds}{several}, score={score})"

    @property
    def mean(self) -> npt.NDArray[np.float64]:
        """Mean score of each candidate over the folds."""
        return np.asarray(self.scores.mean(axis=1))

    @property
    def std(self) -> npt.NDArray[np.float64]:
        """Standard deviation of each candidate's scores over the folds."""
        return np.asarray(self.scores.std(axis=1))

    @property
    def best(self) -> dict[str, Any]:
        """Candidate with the best mean score, the first of equal ones."""
        return self.candidates[int(np.argmax(self.mean))]


def cross_validate(
    network: FNN,
    X: Table,
    y: npt.ArrayLike,
    *,
    folds: int = 5,
    grid: Mapping[str, Iterable[object]] | None = None,
    seed: int = 0,
    sample_weight: npt.ArrayLike | None = None,
    client: DaskClient | None = None,
    progress: bool | None = None,
    **options: Unpack[FitOptions],
) -> CrossValidation:
    """Train copies of a network on all folds but one and score them on that one, side by side.

    The trainings of all folds and candidates run in one process, each on one thread; the scores do not
    depend on the number of threads.

    Parameters
    ----------
    network : FNN
        What is copied; it stays as it is.  Statistics that it has learned are not: each copy learns them
        from its own training rows, unless the network was trained before.
    X : array_like or SciPy sparse matrix, shape (n_samples, n_features)
        Samples; each training has a copy of its own rows.
    y : array_like
        Targets as for `FNN.fit`.
    folds : int, default 5
        Parts of the data, each held out once.  Their sizes differ by at most one; of classes each part has
        as many, but for one.
    grid : mapping of str to iterable, optional
        Options of `FNN.fit` and their values; all combinations are tried.
    seed : int, default 0
        Seed of the order in which samples are dealt to the folds.
    sample_weight : array_like, shape (n_samples,), optional
        Weights in training and in the scores.
    client : dask.distributed.Client, optional
        Workers that train; without one those of an active backend of joblib, as for `fit_many`.
    progress : bool, optional
        Whether to show one progress bar for all trainings (needs tqdm); by default on a terminal only.
    **options
        All else that `FNN.fit` takes, but for validation data and checkpoints.

    Returns
    -------
    CrossValidation

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind or out of range, or as `FNN.fit`.
    DivergenceError
        If a training diverges.

    Examples
    --------
    >>> from nbnorm import FNN, cross_validate, load_digits
    >>> X, y = load_digits()
    >>> found = cross_validate(FNN([64, 16, 10], seed=0), X, y, folds=3, grid={"epochs": [1, 4]})
    >>> found.scores.shape, found.best
    ((2, 3), {'epochs': 4})
    """
    if not isinstance(network, FNN):
        raise TypeError(f"network must be an FNN, got {type(network).__name__}")
    for name in ("validation_data", "checkpoint"):
        if name in options:
            raise TypeError(f"cross_validate does not take {name}")
    x, truth = inputs.table(network, "X", X), np.asarray(y)
    samples = x.shape[0]
    checked = inputs.truth(network, "y", truth, samples, "X")
    folds = _check.integer("folds", folds, least=2, most=samples)
    weights = None if sample_weight is None else _check.weights("sample_weight", sample_weight, samples)
    numbers = datasets.folds(
        checked, folds, seed=_check.integer("seed", seed, least=0), stratify=network.output == "softmax"
    )
    held_out = [np.flatnonzero(numbers == fold) for fold in range(folds)]
    workers = clients.workers(client)
    names = list(grid or {})
    candidates = [
        dict(zip(names, values, strict=True)) for values in itertools.product(*dict(grid or {}).values())
    ]

    jobs = [
        (network, _alone({**options, **candidate}), fold) for candidate in candidates for fold in held_out
    ]
    results: Sequence[Any]
    with _bar(progress, [chosen for _, chosen, _ in jobs]) as bar:

        def score(number: int) -> tuple[float, History]:
            net, chosen, fold = jobs[number]
            result = _score_fold((net, _followed(chosen, bar, number), fold), x, truth, weights)
            bar.ended(number, result[1])
            return result

        if workers is not None:
            results = clients.on_workers(
                workers,
                _score_fold,
                jobs,
                [x, truth, weights],
                lambda number, pair: bar.ended(number, pair[1]),
            )
        else:
            with training.compiled_ahead(network, sparse=is_sparse(X)):
                results = side_by_side([functools.partial(score, number) for number in range(len(jobs))])
    for result in results:
        if isinstance(result, BaseException):
            raise result
        if result is None or result[1].stopped == "interrupted":
            raise KeyboardInterrupt
    pairs = [result for result in results if isinstance(result, tuple)]
    scores = np.array([score for score, _ in pairs]).reshape(len(candidates), folds)
    histories = [history for _, history in pairs]
    return CrossValidation(
        candidates,
        scores,
        [histories[first : first + folds] for first in range(0, len(histories), folds)],
        held_out,
    )


def _score_fold(
    job: tuple[FNN, dict[str, Any], npt.NDArray[np.int64]],
    x: CheckedTable,
    truth: npt.NDArray[Any],
    weights: npt.NDArray[Any] | None,
) -> tuple[float, History]:
    """Train a copy of a network on all rows but those held out, and score it on these."""
    network, options, fold = job
    net = copy.deepcopy(network)
    rest = np.setdiff1d(np.arange(x.shape[0]), fold)
    training_weights = None if weights is None else weights[rest]
    history = net.fit(x[rest], truth[rest], sample_weight=training_weights, **options)
    return net.score(x[fold], truth[fold], None if weights is None else weights[fold]), history


def fit_many(
    networks: Sequence[FNN],
    X: Table | OnDisk,
    y: npt.ArrayLike,
    *,
    checkpoint: _files.PathLike | None = None,
    client: DaskClient | None = None,
    progress: bool | None = None,
    **options: Unpack[FitManyOptions],
) -> list[History]:
    """Train several networks on the same data, each on one thread, side by side on all threads.

    Each becomes what its own `FNN.fit` would make of it, to the last bit, whatever the number of threads.
    The data are read where they lie by all of them, and statistics that are the same are computed once.

    Parameters
    ----------
    networks : sequence of FNN
        Networks of any sizes and options that fit the data; usually of different seeds.
    X, y : array_like
        Training data as for `FNN.fit`.
    checkpoint : path-like, optional
        Network k keeps its checkpoint in the file of this name with ``-k`` before the ending.  Called again
        with the same networks, data and options, a training that was killed goes on to the same bits.
    client : dask.distributed.Client, optional
        Workers that train, each one network at a time on the threads that it has.  The data are sent to each
        once; a training whose worker dies begins again, or goes on from its checkpoint where that is on a
        file system that all of them see.  The bits are the same.  Without a client, ``with
        joblib.parallel_config("loky", n_jobs=4)`` makes joblib's workers train.
    progress : bool, optional
        Whether to show one progress bar for all trainings (needs tqdm); by default on a terminal only.
    **options
        All else that `FNN.fit` takes, for all networks alike.

    Returns
    -------
    list of History
        One for each network.  After Ctrl-C, which ends all trainings as it ends a single one, those of
        networks whose turn did not come have no epochs.

    Raises
    ------
    TypeError, ValueError
        If a network is not an `FNN` or given twice, or as `FNN.fit`.
    DivergenceError
        If a training diverges, after the others have ended; the message names the network.

    Examples
    --------
    >>> from nbnorm import FNN, fit_many, load_digits
    >>> X, y = load_digits()
    >>> networks = [FNN([64, 16, 10], seed=seed) for seed in range(3)]
    >>> histories = fit_many(networks, X, y, epochs=2, batch_size=64)
    >>> [history.epochs for history in histories]
    [2, 2, 2]
    """
    networks = list(networks)
    if not networks:
        raise ValueError("networks must not be empty")
    for k, net in enumerate(networks):
        if not isinstance(net, FNN):
            raise TypeError(f"networks[{k}] must be an FNN, got {type(net).__name__}")
    if len({id(net) for net in networks}) < len(networks):
        raise ValueError("networks must not hold a network twice")
    shared = _alone({**options})
    each = [
        {**shared, "checkpoint": None if checkpoint is None else numbered(checkpoint, k)}
        for k in range(len(networks))
    ]
    workers = clients.workers(client)
    with _bar(progress, each) as bar:
        if workers is not None:
            return _fit_on_workers(workers, networks, X, y, each, bar)
        return _fit_here(networks, X, y, each, bar)


def _fit_here(
    networks: list[FNN],
    X: Table | OnDisk,
    y: npt.ArrayLike,
    options: list[dict[str, Any]],
    bar: SharedProgress,
) -> list[History]:
    """Train the networks side by side in this process."""

    def fit(k: int) -> History:
        history = networks[k].fit(X, y, **_followed(options[k], bar, k))
        bar.ended(k, history)
        return history

    before = [training.state_of(net) for net in networks]
    results: list[History | BaseException | None] = [None] * len(networks)
    try:
        deepest = max(networks, key=lambda net: len(net.widths))
        with training.compiled_ahead(deepest, sparse=is_sparse(X)):
            _learn_once(networks, X, y, options[0])
            results = side_by_side([functools.partial(fit, k) for k in range(len(networks))])
    except KeyboardInterrupt:
        pass  # before any of them has begun
    finally:
        for net, state in zip(networks, before, strict=True):
            if net.epochs_trained == state["epochs_trained"]:
                vars(net).update(state)
    for k, result in enumerate(results):
        if isinstance(result, DivergenceError):
            raise DivergenceError(f"network {k}: {result}", result.history) from result
        if isinstance(result, BaseException):
            raise result
    return [result if isinstance(result, History) else History(stopped="interrupted") for result in results]


def _fit_on_workers(
    client: DaskClient,
    networks: list[FNN],
    X: Table | OnDisk,
    y: npt.ArrayLike,
    options: list[dict[str, Any]],
    bar: SharedProgress,
) -> list[History]:
    """Train the networks on workers and bring back what they have become."""
    jobs = list(zip(networks, options, strict=True))
    trained = clients.on_workers(
        client, _fit_one, jobs, [X, y], lambda number, pair: bar.ended(number, pair[1])
    )
    for net, (other, _) in zip(networks, trained, strict=True):
        vars(net).update(vars(other))
    return [history for _, history in trained]


def _fit_one(job: tuple[FNN, dict[str, Any]], X: Table | OnDisk, y: npt.ArrayLike) -> tuple[FNN, History]:
    """Train a copy of one network, as it came, and return it."""
    net = copy.deepcopy(job[0])
    return net, net.fit(X, y, **job[1])


def _alone(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of one training, which shows no bar of its own; callbacks as a list."""
    return {
        **options,
        "progress": False,
        "callbacks": plan.checked_callbacks(options.get("callbacks", ())),
    }


def _followed(options: dict[str, Any], bar: SharedProgress, number: int) -> dict[str, Any]:
    """Return the options of a training that moves the bar of all."""
    return {**options, "callbacks": [*options["callbacks"], *bar.callbacks(number)]}


def _bar(progress: bool | None, trainings: Sequence[dict[str, Any]]) -> SharedProgress:
    """Return the bar of trainings with these options."""
    default = inspect.signature(FNN.fit).parameters["epochs"].default
    epochs = [_check.integer("epochs", options.get("epochs", default), least=1) for options in trainings]
    return SharedProgress(None if progress is None else _check.flag("progress", progress), epochs)


def numbered(checkpoint: _files.PathLike, k: int) -> Path:
    """Return the file in which network k keeps its checkpoint."""
    path = Path(checkpoint)
    return path.with_name(f"{path.stem}-{k}{path.suffix}")


def _learn_once(
    networks: Sequence[FNN], X: Table | OnDisk, y: npt.ArrayLike, options: dict[str, Any]
) -> None:
    """Fit encoders and standardizers of networks that have none once for all that need the same."""
    if is_row_groups(X):  # each reads them by itself
        return
    leaders: dict[tuple[Any, ...], FNN] = {}
    weights = {name: options.get(name) for name in ("sample_weight", "class_weight")}
    for net in networks:
        encoder, *standardizers = inputs.learned(net)
        if net.epochs_trained or any(standardizers):
            continue
        kind = (net.encoding, net.bins, net.standardize, net.standardize_targets, net.weighted_statistics)
        leader = leaders.setdefault((*kind, net.output, net.dtype, id(encoder)), net)
        if leader is net:
            samples = plan.training_samples(net, X, y, **weights, batch_size=options.get("batch_size", 128))
            inputs.learn(net, samples)
        else:
            inputs.take_learned(net, *copy.deepcopy(inputs.learned(leader)))
