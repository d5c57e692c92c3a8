"""Fully connected networks with input standardization and batch normalization."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nbnorm import _check, _files
from nbnorm.engine.gather import Data, SparseData
from nbnorm.engine.microkernels import tile
from nbnorm.engine.run import Engine, Layout, Run
from nbnorm.engine.steps import FORWARD, GRADIENTS, LOSS, SEEN, TRAIN
from nbnorm.functions import activations
from nbnorm.functions import loss_options as losses
from nbnorm.functions.activations import Activation, activation_forward
from nbnorm.functions.batch_norm import batch_norm_inference
from nbnorm.functions.gradcheck import STEP, gradcheck
from nbnorm.functions.optimizers import SGD, AdamW
from nbnorm.model import checkpoints, schedules, training
from nbnorm.model import metrics as _metrics
from nbnorm.model.dataset_statistics import dataset_statistics, recalibrate
from nbnorm.model.schedules import LearningRates, Schedule
from nbnorm.model.training import EarlyStopping, History, threads_for
from nbnorm.statistics.encoding import ColumnEncoder
from nbnorm.statistics.moments import Moments, is_sparse
from nbnorm.statistics.standardize import Standardizer, fitted

Array = npt.NDArray[Any]

OUTPUTS = ("softmax", "sigmoid", "identity")
INITS = ("he", "glorot", "lecun", "orthogonal")
ENCODINGS = (None, "piecewise")

# Rows of a sparse matrix that are predicted together.
_ROWS = 4096

# Samples that are predicted together: enough to fill the register tiles, few enough for the cache.
_BATCH = 128


def _initial(init: str, n_out: int, n_in: int, rng: np.random.Generator) -> Array:
    """Draw a weight matrix in float64."""
    if init == "orthogonal":
        tall = rng.standard_normal((max(n_out, n_in), min(n_out, n_in)))
        q, r = np.linalg.qr(tall)
        q *= np.sign(np.diag(r))
        return q if n_out >= n_in else q.T
    variance = {"he": 2.0 / n_in, "glorot": 2.0 / (n_in + n_out), "lecun": 1.0 / n_in}[init]
    return rng.standard_normal((n_out, n_in)) * math.sqrt(variance)


def _known_loss(name: str, options: dict[str, Any]) -> losses.Loss:
    """Return the loss that a file names."""
    if name not in losses.LOSSES:
        raise ValueError(f"its loss {name!r} is not one of the package: give it as loss=")
    return losses.LOSSES[name](**options)


class FNN:
    """Fully connected network, trained by mini-batch SGD.

    The input is standardized, y_0 = U(x).  Each hidden layer computes z = W y + b and then

    * ``norm="after"``: y = f(z), out = BN(y);
    * ``norm="before"``: out = f(BN(z)), without a bias, whose place beta takes [1]_;
    * ``norm=None``: out = f(z).

    The output layer computes logits z = W y + b.

    Parameters
    ----------
    sizes : sequence of int
        Features of the input, of each hidden layer, and outputs.
    activation : str, Activation or sequence of them, default "relu"
        Activation f of the hidden layers, one for all or one for each: "relu", "sigmoid", "tanh",
        "identity", "leaky_relu", "elu", "gelu", "silu", "softplus" or an `Activation` of your own.
    norm : {"after", "before", None}, default "after"
        Place of batch normalization, relative to the activation.
    output : {"softmax", "sigmoid", "identity"}, default "softmax"
        Softmax with cross-entropy for classes 0, 1, ...; sigmoid with binary cross-entropy for one
        or more yes/no targets; identity with half the mean squared error for regression.
    loss : str or `Loss`, optional
        What training minimizes, if not the loss named above: "absolute", "huber", "poisson" or "quantile"
        for the identity output, the same with options (label smoothing, for one), or a `CustomLoss`.  With
        `Quantile` each target has an output for each level, and `score` measures the middle one.
    dropout : float or sequence of float, default 0.0
        Probability with which `fit` leaves out what a hidden layer gives to the next, one for all
        layers or one for each [2]_.
    standardize : bool, default True
        Whether the first `fit` also fits a `Standardizer` to the training data.
    encoding : {None, "piecewise"}, default None
        "piecewise": each column of numbers with more than `bins` distinct values is joined by its positions
        in the bins between its quantiles [3]_, which the first `fit` chooses; see
        `ColumnEncoder`.  Until then the network cannot be used, and `fit` draws
        ``dense1.weight`` anew, because only then is its width known.  The columns are computed when a batch
        is read, and standardized like others: `standardizer` then has the statistics of the encoded columns.
        Missing numbers may be NaN: they become the column's mean, and a column that has some in training
        is joined by an indicator of them.
    bins : int, default 8
        Bins of a column at most.
    standardize_targets : bool, default False
        Whether it also fits one to the targets, for the identity output: the network then learns
        standardized targets, and `predict` turns its answers back, in float64.  Losses are in
        standardized units.
    eps : float, default 1e-5
        Added to the variance inside the square root; at least the smallest normal number of `dtype`.
    decay : float, default 0.9
        Weight of the old value in the moving averages, 0 <= decay < 1.
    running : {"var", "std"}, default "var"
        Whether the variance or the standard deviation is averaged.
    unbiased : bool, default True
        Whether the averaged variance is the unbiased one.
    weighted_statistics : bool, default False
        Whether weights of samples and classes enter the statistics of batch norm, and those of classes
        the standardizer, so that an integer weight is the same as a repeated sample.  Weights that
        depend on the target then tell it to the network while it trains: see the page on weights.
    init : {"he", "glorot", "lecun", "orthogonal"}, default "he"
        Distribution of the initial weights; biases and beta begin at 0, gamma at 1.
    dtype : {float32, float64}, default float32
        Type of the parameters and of the computation.  Moving averages are float64.
    seed : int, optional
        Seed of the initial weights and of the order of samples.

    Attributes
    ----------
    training : bool
        Mode, set by `train` and `eval`; a new network is in training mode.
    standardizer, target_standardizer : Standardizer or None
        Statistics of the training data and of the targets, after the first `fit`.
    encoder : ColumnEncoder or None
        The encoding of the columns, after the first `fit`.
    epochs_trained : int
        Epochs done so far.
    metadata : dict
        Anything that `json` can write; saved with the network.

    Raises
    ------
    TypeError, ValueError
        If a parameter is of the wrong kind or outside its range.

    References
    ----------
    .. [1] S. Ioffe and C. Szegedy, "Batch Normalization: Accelerating Deep Network Training by
       Reducing Internal Covariate Shift", ICML 2015.
    .. [2] N. Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting",
       Journal of Machine Learning Research 15, 2014.
    .. [3] Y. Gorishniy, I. Rubachev and A. Babenko, "On Embeddings for Numerical Features in Tabular Deep
       Learning", NeurIPS 2022.

    Examples
    --------
    >>> from nbnorm import FNN, SGD, load_digits, train_test_split
    >>> X, X_test, y, y_test = train_test_split(*load_digits())
    >>> net = FNN([64, 32, 10], seed=0)
    >>> history = net.fit(X, y, epochs=10, batch_size=64, optimizer=SGD(lr=0.1))
    >>> net.score(X_test, y_test) > 0.9
    True
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        activation: str | Activation | Sequence[str | Activation] = "relu",
        norm: str | None = "after",
        output: str = "softmax",
        loss: str | losses.Loss | None = None,
        dropout: float | Sequence[float] | Array = 0.0,
        standardize: bool = True,
        encoding: str | None = None,
        bins: int = 8,
        standardize_targets: bool = False,
        eps: float = 1e-5,
        decay: float = 0.9,
        running: str = "var",
        unbiased: bool = True,
        weighted_statistics: bool = False,
        init: str = "he",
        dtype: Any = np.float32,
        seed: int | None = None,
    ) -> None:
        if isinstance(sizes, (str, bytes)) or not isinstance(sizes, (Sequence, np.ndarray)):
            raise TypeError(f"sizes must be a sequence of integers, got {type(sizes).__name__}")
        if len(sizes) < 2:
            raise ValueError(f"sizes must name the input and the output at least, got {list(sizes)}")
        self.sizes = tuple(_check.integer(f"sizes[{i}]", size, least=1) for i, size in enumerate(sizes))
        hidden = len(self.sizes) - 2
        self._activations = self._per_layer("activation", activation, hidden)
        self.activation: Any = self._activations
        if len(set(self._activations)) == 1:
            self.activation = self._activations[0]
        elif not isinstance(activation, (list, tuple)):
            self.activation = activation
        self.norm = _check.choice("norm", norm, ("after", "before", None))
        self.output = str(_check.choice("output", output, OUTPUTS))
        if self.output == "softmax" and self.sizes[-1] < 2:
            raise ValueError(
                'sizes must end with 2 or more classes for output="softmax", got 1; see output="sigmoid"'
            )
        self.loss = losses.resolve(loss, self.output)
        self.loss.targets(self.sizes[-1])
        if isinstance(dropout, np.ndarray):
            dropout = dropout.tolist()
        shares = dropout if isinstance(dropout, (list, tuple)) else [dropout] * hidden
        if len(shares) != hidden:
            raise ValueError(
                f"dropout must have one value for each of {hidden} hidden layers, got {len(shares)}"
            )
        self.dropout = tuple(
            _check.number(f"dropout[{l}]", share, least=0.0, below=1.0) for l, share in enumerate(shares)
        )
        self.standardize = _check.flag("standardize", standardize)
        self.encoding = _check.choice("encoding", encoding, ENCODINGS)
        self.bins = _check.integer("bins", bins, least=2)
        self.standardize_targets = _check.flag("standardize_targets", standardize_targets)
        if self.standardize_targets and self.output != "identity":
            raise ValueError(f"standardize_targets needs output='identity', got {self.output!r}")
        if self.standardize_targets and isinstance(self.loss, losses.Poisson):
            raise ValueError("standardize_targets must be False for counts (loss='poisson')")
        self.decay = _check.number("decay", decay, least=0.0, below=1.0)
        self.running = str(_check.choice("running", running, ("var", "std")))
        self.unbiased = _check.flag("unbiased", unbiased)
        self.weighted_statistics = _check.flag("weighted_statistics", weighted_statistics)
        self.init = str(_check.choice("init", init, INITS))
        self.dtype = _check.float_dtype("dtype", dtype)
        # 1 / sqrt(eps) has to exist in the network's dtype, or a constant feature becomes NaN.
        self.eps = _check.number("eps", eps, least=float(np.finfo(self.dtype).tiny))
        self._seeded = seed is not None
        if seed is None:
            self.seed = int(np.random.SeedSequence().generate_state(1, np.uint64)[0]) >> 1
        else:
            self.seed = _check.integer("seed", seed, least=0, most=2**63 - 1)
        self.training = True
        self.encoder: ColumnEncoder | None = None
        self.standardizer: Standardizer | None = None
        self.target_standardizer: Standardizer | None = None
        self.epochs_trained = 0
        # A dictionary here carries the optimizer's arrays from each `fit` to the next.
        self._carried: dict[str, Array] | None = None
        self.metadata: dict[str, Any] = {}
        self._parameters: dict[str, Array] = {}
        self._buffers: dict[str, Array] = {}
        rng = np.random.default_rng(self.seed)
        last = len(self.sizes) - 1
        for l in range(1, last + 1):
            n_in, n_out = self.sizes[l - 1], self.sizes[l]
            self._parameters[f"dense{l}.weight"] = _initial(self.init, n_out, n_in, rng).astype(
                self.dtype, order="C"
            )
            if l == last or self.norm != "before":
                self._parameters[f"dense{l}.bias"] = np.zeros(n_out, self.dtype)
            if l < last and self.norm is not None:
                self._parameters[f"norm{l}.gamma"] = np.ones(n_out, self.dtype)
                self._parameters[f"norm{l}.beta"] = np.zeros(n_out, self.dtype)
                self._buffers[f"norm{l}.running_mean"] = np.zeros(n_out)
                self._buffers[f"norm{l}.running_{self.running}"] = np.ones(n_out)

    @staticmethod
    def _per_layer(name: str, given: Any, hidden: int) -> tuple[str | Activation, ...]:
        """Return the activation of each hidden layer."""
        if not isinstance(given, (list, tuple)):
            return (activations.resolve(given, argument=name),) * hidden
        if len(given) != hidden:
            raise ValueError(
                f"{name} must have one entry for each of {hidden} hidden layers, got {len(given)}"
            )
        return tuple(activations.resolve(one, argument=f"{name}[{l}]") for l, one in enumerate(given))

    def __repr__(self) -> str:
        weighted = ", weighted_statistics=True" if self.weighted_statistics else ""
        return (
            f"FNN({list(self.sizes)}, activation={self.activation!r}, norm={self.norm!r}, "
            f"output={self.output!r}{weighted}, dtype={self.dtype.name}, parameters={self.n_parameters})"
        )

    @property
    def widths(self) -> tuple[int, ...]:
        """Features of each layer: `sizes`, but for an encoded input the number of its columns."""
        if self.encoder is None:
            return self.sizes
        return (self.encoder.n_features_out_, *self.sizes[1:])

    @property
    def n_parameters(self) -> int:
        """Number of trainable values."""
        return sum(values.size for values in self._parameters.values())

    def train(self) -> FNN:
        """Set training mode: batch statistics, which also move the moving averages.

        Returns
        -------
        FNN
            The network itself.
        """
        self.training = True
        return self

    def eval(self) -> FNN:
        """Set evaluation mode: the moving averages are used and stay as they are.

        Returns
        -------
        FNN
            The network itself.
        """
        self.training = False
        return self

    def parameters(self) -> dict[str, Array]:
        """Return the trainable arrays by name; writing to them changes the network.

        Returns
        -------
        dict of str to ndarray
            ``"dense1.weight"`` (n_out, n_in), ``"dense1.bias"`` (n_out,), ``"norm1.gamma"``,
            ``"norm1.beta"``, ``"dense2.weight"``, ...; with ``norm="before"`` only the output
            layer has a bias.

        Examples
        --------
        >>> from nbnorm import FNN
        >>> list(FNN([4, 3, 2]).parameters())
        ['dense1.weight', 'dense1.bias', 'norm1.gamma', 'norm1.beta', 'dense2.weight', 'dense2.bias']
        """
        return dict(self._writable(self._parameters))

    def buffers(self) -> dict[str, Array]:
        """Return the moving averages by name, float64; writing to them changes the network.

        Returns
        -------
        dict of str to ndarray
            ``"norm1.running_mean"`` and ``"norm1.running_var"`` (or ``"norm1.running_std"``), ...
        """
        return dict(self._writable(self._buffers))

    @staticmethod
    def _writable(arrays: dict[str, Array]) -> dict[str, Array]:
        """Replace read-only arrays by copies: joblib maps those of a network that it hands on."""
        for name, values in arrays.items():
            if not values.flags.writeable:
                arrays[name] = np.array(values)
        return arrays

    def _twin(self) -> FNN:
        """Return a network of the same state: what is done to it does nothing to this one."""
        twin = copy.copy(self)
        for name in ("_parameters", "_buffers"):
            setattr(twin, name, {key: np.array(values) for key, values in getattr(self, name).items()})
        twin.metadata = dict(self.metadata)
        return twin

    # ------------------------------------------------------------------------------------------
    # Input
    # ------------------------------------------------------------------------------------------

    @property
    def _names(self) -> list[str] | None:
        """Names of the features, where the data that the encoder or the standardizer saw had them."""
        if self.encoder is not None:
            return self.encoder.feature_names
        return None if self.standardizer is None else self.standardizer.moments_.feature_names

    def _table(self, name: str, X: Any, *, check: bool = True, names: list[str] | None = None) -> Any:
        """Check a table of samples; it is neither copied nor converted as a whole.

        Columns that have names are put in the order of the known ones, or of `names`.
        """
        if is_sparse(X):
            return self._sparse_table(name, X, check=check)
        x = _check.table(name, X, self._names or names)[0]
        _check.rank(name, x, 2)
        if x.shape[1] != self.sizes[0]:
            raise ValueError(f"{name} must have {self.sizes[0]} features (sizes[0]), got shape {x.shape}")
        if check:
            _check.finite(name, x, missing=self.encoding is not None)
        return x

    def _sparse_table(self, name: str, X: Any, *, check: bool) -> Any:
        """Check a SciPy sparse matrix; return it in compressed rows."""
        if X.ndim == 2 and 0 in X.shape:
            raise ValueError(f"{name} must not be empty, got shape {X.shape}")
        if X.ndim != 2 or X.shape[1] != self.sizes[0]:
            raise ValueError(f"{name} must have {self.sizes[0]} features (sizes[0]), got shape {X.shape}")
        x = X.tocsr()
        if x.dtype.kind not in "fiub":
            raise TypeError(f"{name} must hold real numbers, got dtype {x.dtype}")
        if check and x.nnz:
            _check.finite(f"{name}.data", x.data, missing=self.encoding is not None)
        return x

    def _data(self, x: Any) -> Data | SparseData:
        """Return a checked table as the engine reads it."""
        if self.encoding is not None and self.encoder is None:
            raise RuntimeError("the encoding needs a call of fit first")
        return SparseData(x, self.encoder) if is_sparse(x) else Data(x, self.encoder)

    def _encode(self, encoder: ColumnEncoder) -> None:
        """Take an encoder; the first layer's weights, whose number it decides, are drawn anew."""
        self.encoder = encoder
        weight = _initial(self.init, self.sizes[1], self.widths[0], np.random.default_rng(self.seed))
        self._parameters["dense1.weight"] = weight.astype(self.dtype, order="C")

    def _truth(self, name: str, y: Any, samples: int, other: str) -> Array:
        """Check targets; return classes (int64) or values (n_samples, n_out), as the user has them."""
        got = _check.plain(name, y)
        n_out = self.loss.targets(self.sizes[-1])
        if got.ndim == 0 or len(got) != samples:
            length = "no length" if got.ndim == 0 else f"{len(got)}"
            raise ValueError(f"{name} must have the length of {other}, {samples}, got {length}")
        if self.output == "softmax":
            if got.ndim != 1:
                raise ValueError(f"{name} must have shape (n_samples,), got shape {got.shape}")
            if got.dtype.kind not in "iub":
                raise TypeError(f"{name} must hold integer classes 0 to {n_out - 1}, got dtype {got.dtype}")
            wrong = np.flatnonzero((got < 0) | (got >= n_out))
            if wrong.size:
                raise ValueError(
                    f"{name} must hold classes 0 to {n_out - 1}, got {got[wrong[0]]} at [{wrong[0]}]"
                )
            return _check.readable(np.ascontiguousarray(got, dtype=np.int64))
        got = _check.numeric(name, got)
        shapes = [(samples, n_out)] + ([(samples,)] if n_out == 1 else [])
        if got.shape not in shapes:
            raise ValueError(f"{name} must have shape {' or '.join(map(str, shapes))}, got shape {got.shape}")
        _check.finite(name, got)
        if self.output == "sigmoid" and ((got < 0) | (got > 1)).any():
            raise ValueError(f"{name} must lie between 0 and 1 for output='sigmoid'")
        if self.output == "identity":
            self.loss.check(got)
        return got.reshape(samples, n_out)

    def _encoded(self, name: str, truth: Array) -> tuple[Array | None, Array]:
        """Return (labels, targets) for the engine, one of which is not used."""
        if self.output == "softmax":
            return truth, np.zeros(1, self.dtype)
        if self.target_standardizer is not None:
            truth = self.target_standardizer.transform(truth.astype(np.float64))
        with np.errstate(over="ignore"):
            targets = _check.readable(np.ascontiguousarray(truth, dtype=self.dtype))
        _check.finite(f"{name} in {self.dtype}", targets)
        return None, targets.reshape(-1)

    def _answers(self, name: str, y: Any, samples: int, other: str) -> tuple[Array | None, Array]:
        """Check targets; return (labels, targets) for the engine."""
        return self._encoded(name, self._truth(name, y, samples, other))

    def _in_units(self, logits: Array) -> Array:
        """Return logits, or for the identity output the values that they stand for.

        Those in the units of standardized targets stay float64: beside a large mean float32 has no room
        for what the network has learned.
        """
        if isinstance(self.loss, losses.Poisson):
            return np.asarray(np.exp(logits))
        if self.target_standardizer is None:
            return logits
        # the outputs that share a target, such as its quantiles, below each other
        together = (len(logits), self.loss.targets(self.sizes[-1]), -1)
        values = logits.astype(np.float64).reshape(together).swapaxes(1, 2)
        values = self.target_standardizer.inverse_transform(values.reshape(-1, together[1])).reshape(
            values.shape
        )
        return np.ascontiguousarray(values.swapaxes(1, 2)).reshape(logits.shape)

    def _arrays(self) -> dict[str, Array]:
        """Return parameters and moving averages, live, by name."""
        return {**self._parameters, **self._buffers}

    def _check_batch(self, smallest: int, advice: str) -> None:
        if smallest < 2 and self.norm is not None:
            raise ValueError(
                f"batch normalization needs at least 2 samples in a training batch, got 1: {advice}"
            )

    def _engine(self, batch: int, *, gradients: bool) -> Engine:
        layout = Layout(
            self.widths,
            self._activations,
            self.norm,
            batch,
            self.dtype,
            gradients=gradients,
            dropout=self.dropout,
        )
        engine = Engine(
            layout,
            self._parameters,
            self._buffers,
            encoder=self.encoder,
            spread=f"running_{self.running}",
            unbiased=self.unbiased,
            decay=self.decay,
            eps=self.eps,
            loss=self.loss,
        )
        if self.standardizer is not None:
            moments = self.standardizer.moments_
            engine.standardize(moments.mean, moments.mean_low, self.standardizer.scale_)
        return engine

    # ------------------------------------------------------------------------------------------
    # Forward, gradients, training
    # ------------------------------------------------------------------------------------------

    def forward(self, X: npt.ArrayLike) -> Array:
        """Return the logits in the current mode.

        In training mode `X` is one mini-batch: its own statistics are used, and they move the
        moving averages.  In evaluation mode each sample is computed by itself.

        Parameters
        ----------
        X : array_like, shape (n_samples, n_features)
            Samples, of any real type; read where they lie.  Also a SciPy sparse matrix; in evaluation
            mode it is not made dense: the standardizer is folded into the first layer.

        Returns
        -------
        ndarray, shape (n_samples, n_out)
            Logits, of the network's dtype.

        Raises
        ------
        ValueError
            If `X` has another width or is not finite, or is a single sample in training mode.

        Examples
        --------
        >>> import numpy as np
        >>> from nbnorm import FNN
        >>> FNN([3, 4, 2], seed=1).eval().forward(np.ones((5, 3))).shape
        (5, 2)
        """
        if is_sparse(X) and not self.training and self.encoding is None:
            return self._sparse_logits(X)
        data = self._data(self._table("X", X))
        if not self.training:
            return self._run(data, FORWARD, min(_BATCH, data.samples)).out
        self._check_batch(data.samples, "give more samples, or call eval() first")
        self._writable(self._buffers)
        run = self._run(data, FORWARD, data.samples)
        run.engine.store_statistics()
        return run.out

    def _sparse_logits(self, X: Any) -> Array:
        """Logits of a SciPy sparse matrix, which stays sparse: the standardizer goes into the first layer."""
        samples = self._sparse_table("X", X, check=True)
        weight = self._parameters["dense1.weight"].astype(np.float64)
        bias = self._parameters.get("dense1.bias", np.zeros(len(weight))).astype(np.float64)
        if self.standardizer is not None:
            weight, bias = self.standardizer.fold(weight, bias)
        rest = self._without_first_layer()
        out = np.empty((samples.shape[0], self.sizes[-1]), self.dtype)
        for start in range(0, len(out), _ROWS):
            z = samples[start : start + _ROWS] @ weight.T + bias
            if rest is not None:
                hidden = rest._data(self._first_hidden(z))
                z = rest._run(hidden, FORWARD, min(_BATCH, hidden.samples)).out
            with np.errstate(over="ignore"):  # as compiled code rounds
                out[start : start + _ROWS] = z
        return out

    def _first_hidden(self, z: Array) -> Array:
        """Return what the second layer reads, from z of the first, with the moving averages."""
        if self.norm == "before":
            return activation_forward(self._first_norm(z), self._activations[0])
        y = activation_forward(z, self._activations[0])
        return y if self.norm is None else self._first_norm(y)

    def _first_norm(self, y: Array) -> Array:
        held = self._parameters, self._buffers
        gamma, beta = (held[0][f"norm1.{name}"].astype(np.float64) for name in ("gamma", "beta"))
        mean, spread = (held[1][f"norm1.running_{name}"] for name in ("mean", self.running))
        variance = spread**2 if self.running == "std" else spread
        return batch_norm_inference(y, gamma, beta, mean, variance, eps=self.eps)

    def _without_first_layer(self) -> FNN | None:
        """Network of the layers behind the first, on the same arrays; None if there are none."""
        if len(self.sizes) == 2:
            return None
        rest = FNN(
            self.sizes[1:],
            activation=self._activations[1:],
            norm=self.norm,
            output=self.output,
            standardize=False,
            eps=self.eps,
            running=self.running,
            dtype=self.dtype,
            seed=0,
        )
        for held, source in ((rest._parameters, self._parameters), (rest._buffers, self._buffers)):
            for name in held:
                kind, number, value = re.fullmatch(r"([a-z]+)(\d+)\.(\w+)", name).groups()  # type: ignore[union-attr]
                held[name] = source[f"{kind}{int(number) + 1}.{value}"]
        return rest.eval()

    def _run(self, data: Data | SparseData, mode: int, batch: int, **answers: Any) -> Run:
        """Run the network over `data` in the current mode, without an update."""
        engine = self._engine(batch, gradients=mode != FORWARD)
        run = Run(engine, data, batch, mode, training=self.training, **answers)
        # a forward pass is a third of a training step
        return run.all(threads_for(self.widths, batch // 3 if mode == FORWARD else batch))

    def loss_and_gradients(
        self, X: npt.ArrayLike, y: npt.ArrayLike, *, sample_weight: npt.ArrayLike | None = None
    ) -> tuple[float, dict[str, Array]]:
        """Return the loss of one batch and its gradient, in the current mode.

        Nothing is changed: neither the parameters nor, in training mode, the moving averages.  Dropout
        leaves out the same elements at each call in training mode.

        Parameters
        ----------
        X : array_like, shape (n_samples, n_features)
            Samples.
        y : array_like
            Targets as for `fit`.
        sample_weight : array_like, shape (n_samples,), optional
            Weights as for `fit`.

        Returns
        -------
        loss : float
            Mean over the samples.
        gradients : dict of str to ndarray
            Named and shaped like `parameters`.

        Raises
        ------
        TypeError, ValueError
            As `fit`.

        Examples
        --------
        >>> import numpy as np
        >>> from nbnorm import FNN
        >>> net = FNN([3, 4, 2], seed=1)
        >>> loss, gradients = net.loss_and_gradients(np.eye(3), [0, 1, 1])
        >>> gradients["dense1.weight"].shape
        (4, 3)
        """
        x = self._table("X", X)
        labels, targets = self._answers("y", y, x.shape[0], "X")
        weights = None
        if sample_weight is not None:
            weights = _check.weights("sample_weight", sample_weight, x.shape[0])
        weights, _, selected = training.used_weights(weights, self.dtype)
        used = x.shape[0] if selected is None else len(selected)
        if self.training:
            self._check_batch(used, "give more samples, or call eval() first")
        run = self._run(
            self._data(x), GRADIENTS, used, labels=labels, targets=targets, weights=weights,
            weighted_statistics=self.weighted_statistics, selected=selected,
        )  # fmt: skip
        gradients = {name: np.empty_like(values) for name, values in self._parameters.items()}
        run.engine.export(run.weight_gradient, run.vector_gradient, gradients)
        return float(run.progress[LOSS] / run.progress[SEEN]), gradients

    def check_gradients(
        self,
        X: npt.ArrayLike,
        y: npt.ArrayLike,
        *,
        sample_weight: npt.ArrayLike | None = None,
        step: float = STEP,
    ) -> dict[str, float]:
        """Compare the gradient of every parameter with numerical differences, in the current mode.

        The comparison is made on a float64 copy; the network stays as it is.  In the copy, biases
        and beta that are 0, as in a new network, become small random numbers: with relu, a sample
        whose inputs are all cut off would otherwise sit on the corner, where there is no derivative.
        It takes some dozens of forward passes for each single parameter, so small networks and
        batches are advisable.

        Parameters
        ----------
        X : array_like, shape (n_samples, n_features)
            Samples.
        y : array_like
            Targets as for `fit`.
        sample_weight : array_like, shape (n_samples,), optional
            Weights as for `fit`.
        step : float, default 1e-3
            First step of the differences; see `nbnorm.gradcheck`.

        Returns
        -------
        dict of str to float
            For each parameter the largest error of its gradient, relative to its largest element,
            or to a thousandth of the largest element of all where that is more: the gradient of a
            bias in front of a batch norm, for example, is zero but for rounding.

        Raises
        ------
        TypeError, ValueError
            As `fit`.

        Examples
        --------
        >>> import numpy as np
        >>> from nbnorm import FNN
        >>> net = FNN([3, 4, 2], activation="tanh", seed=1)
        >>> X = np.random.default_rng(0).normal(size=(5, 3))
        >>> max(net.check_gradients(X, [0, 1, 1, 0, 1]).values()) < 1e-6
        True
        """
        twin = self._as_float64()
        rng = np.random.default_rng(0)
        for name, values in twin._parameters.items():
            if name.endswith(("bias", "beta")):
                values += np.where(values == 0.0, 0.1 * rng.standard_normal(values.shape), 0.0)
        _, gradients = twin.loss_and_gradients(X, y, sample_weight=sample_weight)
        largest = max(float(np.abs(gradient).max()) for gradient in gradients.values())

        def loss_of(name: str) -> Callable[[Array], float]:
            def loss(values: Array) -> float:
                kept = twin._parameters[name].copy()
                twin._parameters[name][:] = values
                try:
                    return twin.loss_and_gradients(X, y, sample_weight=sample_weight)[0]
                finally:
                    twin._parameters[name][:] = kept

            return loss

        return {
            name: gradcheck(loss_of(name), values, gradients[name], step=step, least=1e-3 * largest)
            for name, values in twin._parameters.items()
        }

    def _as_float64(self) -> FNN:
        """Copy whose parameters and computation are float64."""
        twin = FNN(
            self.sizes,
            activation=self.activation,
            norm=self.norm,
            output=self.output,
            loss=self.loss,
            dropout=self.dropout,
            encoding=self.encoding,
            bins=self.bins,
            eps=self.eps,
            decay=self.decay,
            running=self.running,
            unbiased=self.unbiased,
            weighted_statistics=self.weighted_statistics,
            dtype=np.float64,
            seed=self.seed,
        )
        for held, source in ((twin._parameters, self._parameters), (twin._buffers, self._buffers)):
            for name, values in source.items():
                held[name] = values.astype(np.float64)
        twin.training, twin.encoder = self.training, self.encoder
        twin.standardizer, twin.target_standardizer = self.standardizer, self.target_standardizer
        return twin

    def fit(
        self,
        X: npt.ArrayLike,
        y: npt.ArrayLike,
        *,
        epochs: int = 10,
        batch_size: int = 128,
        optimizer: SGD | AdamW | None = None,
        schedule: str | Schedule | Callable[[int], float] = "constant",
        sample_weight: npt.ArrayLike | None = None,
        class_weight: Mapping[int, float] | str | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        l2: float = 0.0,
        validation_data: tuple[npt.ArrayLike, ...] | None = None,
        metrics: Iterable[str | Callable[..., float]] = (),
        early_stopping: EarlyStopping | bool | None = None,
        checkpoint: _files.PathLike | None = None,
        checkpoint_every: float = 30.0,
        shuffle: bool = True,
        seed: int | None = None,
        progress: bool | None = None,
        callbacks: Iterable[Callable[[FNN, History], Any]] = (),
    ) -> History:
        """Train by mini-batch SGD and leave the network in evaluation mode.

        An error or an interrupt before the end of the first epoch leaves the network as it was, its mode
        too.

        Parameters
        ----------
        X : array_like, shape (n_samples, n_features)
            Training samples.  Arrays of integers, float32 and float64, memory maps and read-only
            arrays are read where they lie, batch by batch; a SciPy sparse matrix becomes dense so.
        y : array_like
            For softmax integer classes, shape (n_samples,); for sigmoid targets between 0 and 1,
            for identity real targets, shape (n_samples, n_out), or (n_samples,) for one output.
        epochs : int, default 10
            Passes over the data.
        batch_size : int, default 128
            Most samples of a mini-batch.  The batches of an epoch are even: their sizes differ by at most
            one, the larger ones first, in as few steps as `batch_size` allows.
        optimizer : SGD or AdamW, optional
            By default ``SGD(lr=0.1, momentum=0.9)``.  Each call begins anew: the momentum and the averages
            of Adam are those of this call.
        schedule : str, `Schedule` or callable, default "constant"
            Learning rate over the steps of this call: "constant", "step", "cosine", "one_cycle",
            "plateau", the same with options, or ``schedule(step)``, with steps counted from 0.
        sample_weight : array_like, shape (n_samples,), optional
            Weights, not negative: a weight of 2 counts as the same sample twice in the loss and in the
            statistics of the standardizers, but once in those of batch norm, unless the network has
            `weighted_statistics`.  Samples of weight 0 are left out, and so are those whose weight the
            network's dtype cannot tell from 0 beside the largest.  A common factor matters only to the
            unbiased variance with `weighted_statistics`, where the samples of a batch count as many as
            their weights add up to, but never fewer than there are.
        class_weight : dict or "balanced", optional
            Weights of the classes by number (1 for those not named), which multiply those of the samples
            in the loss; "balanced" gives all classes the same total weight.
        clip_norm : float, optional
            Greatest norm of the gradients of all parameters together; longer ones are scaled down.
        clip_value : float, optional
            Greatest absolute value of an element of a gradient.
        l2 : float, default 0.0
            Penalty ``l2 / 2 * sum(W**2)`` on the weights, which enters their gradients but neither the
            recorded losses nor the bounds above.
        validation_data : tuple (X, y) or (X, y, weights), optional
            Measured after each epoch.
        metrics : iterable of str, callables and Metric, default ()
            What else to measure on the validation data: "accuracy", "balanced_accuracy", "log_loss",
            "roc_auc", "average_precision", "f1", "precision" and "recall" for classes; "r2",
            "mean_squared_error" ("mse"), "root_mean_squared_error" ("rmse") and "mean_absolute_error"
            ("mae") for values; or functions (y_true, prediction), called with ``sample_weight=`` too where
            there are weights and they take them.  A function whose second parameter has "prob" or "score"
            in its name, such as ``y_score``, gets probabilities; `nbnorm.Metric` says it of any function.
        early_stopping : EarlyStopping or bool, optional
            When to end before the last epoch; True for ``EarlyStopping()``.
        checkpoint : path-like, optional
            File that holds the whole state of the training.  Where it exists, the training goes on from
            it, to the same bits as if it had never been stopped; one that is done returns at once.  Where
            neither the network nor this call has a seed, that of the file is taken.  A file
            of other data or options is refused; for that all data are read once more.
        checkpoint_every : float, default 30.0
            Seconds after which the file is written within an epoch; it is after each epoch too.
        shuffle : bool, default True
            Whether each epoch takes the samples in a new order.
        seed : int, optional
            Seed of these orders.  By default the network's own, going on where the last `fit` ended.
        progress : bool, optional
            Whether to show a progress bar (needs tqdm); by default on a terminal only.
        callbacks : iterable of callables
            Called after each epoch as ``callback(net, history)``.  What they write into the network
            counts; if one returns True, of Python's or NumPy's boolean type, the training ends.

        Returns
        -------
        History
            Ctrl-C ends the training early, with ``history.stopped == "interrupted"`` and the
            parameters of the last complete epoch, or the best one where early stopping restores it; without
            a complete epoch nothing is changed.

        Raises
        ------
        TypeError, ValueError
            If an argument is of the wrong kind, shape or range, a parameter of the network is not finite, or
            the checkpoint is of another training; nothing is changed.  Also if a schedule gives a rate that
            is negative, not finite, or ``1 / weight_decay`` and more: complete epochs before it count.
        OSError
            If the checkpoint cannot be written.
        DivergenceError
            If the loss is no longer finite; the parameters are those of the last good epoch, or of the best
            one where early stopping restores it.

        Examples
        --------
        >>> from nbnorm import FNN, load_digits
        >>> X, y = load_digits()
        >>> net = FNN([64, 16, 10], seed=0)
        >>> history = net.fit(X, y, epochs=2, batch_size=64)
        >>> net.training
        False
        """
        epochs = _check.integer("epochs", epochs, least=1)
        batch_size = _check.integer("batch_size", batch_size, least=1)
        shuffle = _check.flag("shuffle", shuffle)
        optimizer = self._optimizer(optimizer)
        rates = schedules.resolve(schedule)
        early = training.stopping(early_stopping)
        first_epoch = self.epochs_trained
        if seed is not None:
            seed, first_epoch = _check.integer("seed", seed, least=0, most=2**63 - 1), 0
        if progress is not None:
            progress = _check.flag("progress", progress)
        checkpoint_every = _check.number("checkpoint_every", checkpoint_every, least=0.0)
        bounds = {"l2": _check.number("l2", l2, least=0.0)}
        for name, bound in (("clip_norm", clip_norm), ("clip_value", clip_value)):
            if bound is not None:
                bounds[name] = _check.number(name, bound, above=0.0)
        calls = list(callbacks) if isinstance(callbacks, Iterable) else [callbacks]
        if not (isinstance(callbacks, Iterable) and all(callable(call) for call in calls)):
            raise TypeError("callbacks must be an iterable of functions of (net, history)")
        samples = self._samples(X, y, sample_weight, class_weight, batch_size)
        held = self._held_out(validation_data, metrics, samples.names)
        known = training.monitored(self, held)
        measures = [] if held is None else held.metrics
        if early is not None:
            mode = _metrics.direction(early.monitor, early.mode, known, measures)
            early = dataclasses.replace(early, mode=mode)
        if isinstance(rates, schedules.Plateau) and rates.monitor is not None:
            mode = _metrics.direction(rates.monitor, rates.mode, known, measures)
            rates = dataclasses.replace(rates, mode=mode)
        notes: dict[str, Any] = {"seed": self.seed, "first_epoch": first_epoch}
        file = saved = None
        if checkpoint is not None:
            notes["start"] = checkpoints.digest(self._arrays().values())
            options = {
                "epochs": epochs,
                "batch_size": batch_size,
                "optimizer": optimizer,
                "schedule": rates,
                "penalty and bounds": bounds,
                "metrics": [] if held is None else [metric.name for metric in held.metrics],
                "early_stopping": early,
                "shuffle": shuffle,
                "the seed of fit": seed,
            }
            known_by = self._settings(options, samples, held)
            file = checkpoints.Checkpoint(checkpoint, checkpoint_every, known_by)
            saved = file.read()
        self._writable(self._parameters), self._writable(self._buffers)
        before, arrays = self._state(), {}
        if saved is not None:
            arrays = {name: values.copy() for name, values in self._arrays().items()}
        done = History()
        run = None
        try:
            if file is not None and saved is not None:
                done = self._resume(file, saved, samples.steps)
                notes = {name: saved.config[name] for name in notes}
                if saved.config["finished"]:
                    return done
            run = self._training_run(samples, optimizer, **bounds)
            if self._carried:
                run.carry(self._carried)
            if held is not None:
                held.labels, held.targets = self._encoded("validation_data[1]", held.truth)
            history = training.fit(
                self,
                run,
                epochs=epochs,
                optimizer=optimizer,
                schedule=rates,
                held=held,
                shuffle=shuffle,
                seed=notes["seed"] if seed is None else seed,
                first_epoch=notes["first_epoch"],
                early_stopping=early,
                checkpoint=file,
                saved=saved,
                notes=notes if file is None else {**notes, **self._statistics()},
                progress=progress,
                callbacks=calls,
            )
            if self._carried is not None:
                self._carried = run.optimizer_state()
            return history
        except KeyboardInterrupt:
            if run is not None:  # one more while the epochs done were kept
                raise
            return training.interrupted(self, saved, samples.steps)
        finally:
            if done.epochs == 0 and self.epochs_trained == before["epochs_trained"]:
                vars(self).update(before)  # no epoch has used what was begun
                for name, values in arrays.items():
                    self._arrays()[name][:] = values
            else:
                self.eval()

    def _state(self) -> dict[str, Any]:
        """Return what `fit` changes beside the arrays."""
        names = (
            "seed", "epochs_trained", "training", "encoder", "standardizer", "target_standardizer", "_carried"
        )  # fmt: skip
        return {name: getattr(self, name) for name in names} | {"_parameters": dict(self._parameters)}

    def find_learning_rate(
        self,
        X: npt.ArrayLike,
        y: npt.ArrayLike,
        *,
        batch_size: int = 128,
        optimizer: SGD | AdamW | None = None,
        sample_weight: npt.ArrayLike | None = None,
        class_weight: Mapping[int, float] | str | None = None,
        least: float = 1e-6,
        most: float = 10.0,
        steps: int = 100,
        shuffle: bool = True,
        seed: int | None = None,
    ) -> LearningRates:
        """Train for some steps with a growing learning rate and see at which the loss has fallen.

        The network itself is not changed.  The rate grows by a constant factor from step to step; the
        test ends when a running mean of the loss is four times its least value [1]_.  Suggested is the rate
        at which 98 % of the fall of the loss are done, smoothed over the neighbouring steps.

        Parameters
        ----------
        X, y, batch_size, optimizer, sample_weight, class_weight
            As for `fit`; the optimizer's own learning rate is not used.
        least, most : float
            First and last learning rate, by default 1e-6 and 10; not beyond ``1 / weight_decay``.
        steps : int, default 100
            Steps, at least 2.
        shuffle : bool, default True
            Whether each epoch takes the samples in a new order.
        seed : int, optional
            Seed of the order of samples, by default the network's.

        Returns
        -------
        LearningRates
            With `rates`, `losses`, `suggestion` and `plot`.

        Raises
        ------
        TypeError, ValueError
            As `fit`.

        References
        ----------
        .. [1] L. N. Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017.

        Examples
        --------
        >>> from nbnorm import FNN, load_digits
        >>> X, y = load_digits()
        >>> found = FNN([64, 32, 10], seed=0).find_learning_rate(X, y)
        >>> 1e-3 < found.suggestion < 10.0
        True
        """
        batch_size = _check.integer("batch_size", batch_size, least=1)
        shuffle = _check.flag("shuffle", shuffle)
        least = _check.number("least", least, above=0.0)
        most = _check.number("most", most, above=least)
        steps = _check.integer("steps", steps, least=2)
        seed = self.seed if seed is None else _check.integer("seed", seed, least=0, most=2**63 - 1)
        optimizer = self._optimizer(optimizer)
        if optimizer.weight_decay > 0.0:  # beyond, a step would turn weights around
            most = min(most, 1.0 / optimizer.weight_decay)
            least = min(least, 0.5 * most)
        samples = self._samples(X, y, sample_weight, class_weight, batch_size)
        before = self._state()
        try:
            run = self._training_run(samples, optimizer)
            return training.find_learning_rate(self, run, optimizer, least, most, steps, shuffle, seed)
        finally:
            vars(self).update(before)

    def _learn_inputs(self, samples: training.Samples) -> None:
        """Fit the encoder and the standardizers that are not fitted yet."""
        weights = samples.weights.of_standardizers
        if self.encoding is not None and self.encoder is None:
            encoder = ColumnEncoder(self.bins).fit(samples.x, weights=weights)
            encoder.feature_names = samples.names
            self._encode(encoder)
        if self.standardize and self.standardizer is None:
            if self.encoder is None:
                self.standardizer = fitted("X", samples.x, weights)
                self.standardizer.moments_.feature_names = samples.names
            else:
                self.standardizer = Standardizer.from_moments(
                    self.encoder.moments(samples.x, weights=weights)
                )
        if self.standardize_targets and self.target_standardizer is None:
            self.target_standardizer = fitted("y", samples.truth, weights)

    def _add_statistics(self, X: Any, weights: Array | None) -> None:
        """Add more data to the statistics of the input, in a standardizer of this network alone."""
        if self.standardizer is None:
            return
        standardizer = copy.deepcopy(self.standardizer)
        if self.encoder is None:
            self.standardizer = standardizer.partial_fit(X, weights=weights)
        else:
            more = Standardizer.from_moments(self.encoder.moments(X, weights=weights))
            self.standardizer = standardizer.merge(more)

    def _learned(self) -> tuple[ColumnEncoder | None, Standardizer | None, Standardizer | None]:
        """Return the encoder and the standardizers."""
        return self.encoder, self.standardizer, self.target_standardizer

    def _take_learned(
        self,
        encoder: ColumnEncoder | None,
        standardizer: Standardizer | None,
        target_standardizer: Standardizer | None,
    ) -> None:
        """Take an encoder and standardizers that another network has learned."""
        if encoder is not None:
            self._encode(encoder)
        self.standardizer, self.target_standardizer = standardizer, target_standardizer

    @staticmethod
    def _optimizer(optimizer: Any) -> SGD | AdamW:
        if optimizer is None:
            return SGD(lr=0.1, momentum=0.9)
        if not isinstance(optimizer, (SGD, AdamW)):
            raise TypeError(f"optimizer must be an SGD or AdamW, got {type(optimizer).__name__}")
        return optimizer

    def _samples(
        self, X: Any, y: Any, sample_weight: Any, class_weight: Any, batch_size: int
    ) -> training.Samples:
        """Check the data of a training."""
        x = self._table("X", X)
        truth = self._truth("y", y, x.shape[0], "X")
        weights = None
        if sample_weight is not None:
            weights = _check.weights("sample_weight", sample_weight, x.shape[0])
        shares = None
        if isinstance(class_weight, training.Shares):
            shares = class_weight.values
        elif class_weight is not None:
            shares = training.class_weights(
                class_weight, self._classes(truth), max(self.sizes[-1], 2), weights
            )
        combined = training.Weights(
            len(truth), weights, shares, self.dtype, weighted_statistics=self.weighted_statistics
        )
        names = _check.header("X", X, self._names)[0]
        samples = training.Samples(x, truth, combined, batch_size, names)
        self._check_batch(
            samples.least,
            f"{samples.used} samples in batches of {batch_size} leave a last batch of one; "
            "choose another batch_size"
            if samples.batch > 1
            else "choose a larger batch_size, or norm=None",
        )
        return samples

    def _classes(self, truth: Array) -> Array:
        """Return the class of each sample, where the targets are classes."""
        if self.output == "softmax":
            return truth
        if self.output != "sigmoid" or self.sizes[-1] > 1:
            raise ValueError("class_weight needs classes: output='softmax', or one sigmoid output")
        if not ((truth == 0) | (truth == 1)).all():
            raise ValueError("class_weight needs targets that are 0 or 1")
        return truth.reshape(-1).astype(np.int64)

    def _held_out(self, data: Any, metrics: Any, names: list[str] | None) -> training.Held | None:
        """Check the validation data and metrics."""
        chosen = _metrics.resolve(metrics, self.output, self.sizes[-1])
        if data is None:
            if chosen:
                raise ValueError("metrics are measured on validation_data, which is None")
            return None
        if not isinstance(data, (tuple, list)) or len(data) not in (2, 3):
            raise TypeError("validation_data must be a tuple (X, y) or (X, y, weights)")
        x = self._table("validation_data[0]", data[0], names=names)
        truth = self._truth("validation_data[1]", data[1], x.shape[0], "validation_data[0]")
        weights = None
        if len(data) == 3 and data[2] is not None:
            weights = _check.weights("validation_data[2]", data[2], x.shape[0])
        return training.Held(x, truth, None, None, weights, chosen)

    def _training_run(self, samples: training.Samples, optimizer: SGD | AdamW, **bounds: float) -> Run:
        """Return a run over training data, after fitting the standardizers that are not fitted yet."""
        self._check_finite()
        self._learn_inputs(samples)
        labels, targets = self._encoded("y", samples.truth)
        return Run(
            self._engine(samples.batch, gradients=True),
            self._data(samples.x),
            samples.batch,
            TRAIN,
            training=True,
            labels=labels,
            targets=targets,
            weights=samples.weights.rounded,
            weighted_statistics=self.weighted_statistics,
            unit=samples.weights.unit,
            selected=samples.weights.selected,
            optimizer=optimizer,
            **bounds,
        )

    def _settings(
        self, options: Mapping[str, Any], samples: training.Samples, held: training.Held | None
    ) -> dict[str, str]:
        """Return what a checkpoint knows a training by: options of the network and of `fit`, and the data."""
        names = [name for name in inspect.signature(FNN).parameters if name != "seed"]
        # arrays of the engine are stored as they lie, in tiles of the processor's width
        return {
            **{name: checkpoints.plain(getattr(self, name)) for name in names},
            "the processor's tile": str(tile(self.dtype)),
            **{name: checkpoints.plain(value) for name, value in options.items()},
            **samples.describe(),
            "validation_data": "None" if held is None else held.describe(),
        }

    def _resume(self, file: checkpoints.Checkpoint, saved: checkpoints.Saved, steps: int) -> History:
        """Take up arrays, standardizers, epochs and seed of a checkpoint; return its history.

        `steps` are those of an epoch.
        """
        config, arrays = saved.config, saved.group("net")
        best = saved.group("best") or arrays
        if self._seeded and config.get("seed") != self.seed:
            raise file.foreign("the network's seed", config.get("seed"), self.seed)
        begun = None
        if self._seeded or self.epochs_trained:  # others begin with arrays of this run alone
            begun = checkpoints.digest(self._arrays().values())
        try:
            done = training.saved_history(saved, steps)
            self._take_statistics(config)
            self._check_arrays(arrays)
            self._check_arrays(best)
            known = [config["start"], *(checkpoints.digest(held.values()) for held in (arrays, best))]
            if begun is not None and begun not in known:
                raise ValueError(
                    "this network has neither the parameters with which that training began, "
                    "nor those with which it left off"
                )
            seed = _check.integer("seed", config["seed"], least=0, most=2**63 - 1)
            epochs = _check.integer("epochs_trained", config["epochs_trained"], least=0)
            _check.integer("first_epoch", config["first_epoch"], least=0)
        except (KeyError, TypeError, ValueError) as error:
            raise file.damaged(error) from None
        self.seed, self.epochs_trained = seed, epochs
        # a training that is done has left the best arrays, where there are any
        for name, values in self._arrays().items():
            values[:] = best[name] if config["finished"] else arrays[name]
        return done

    # ------------------------------------------------------------------------------------------
    # Prediction
    # ------------------------------------------------------------------------------------------

    def _logits(self, X: Any) -> Array:
        """Finite logits in evaluation mode, whatever the mode of the network."""
        before = self.training
        try:
            z = self.eval().forward(X)
        finally:
            self.training = before
        good = np.isfinite(z)
        if not good.all():
            self._check_finite()
            row = int(np.argmin(good.all(axis=1)))
            raise ValueError(
                f"X must give finite outputs, got {z[row][~good[row]][0]} for row {row}: "
                f"its values lead beyond {self.dtype}"
            )
        return z

    def _check_finite(self) -> None:
        """Refuse parameters and moving averages that are not finite."""
        for name, values in self._arrays().items():
            _check.finite(f"the network's {name}", values)

    def predict(self, X: npt.ArrayLike) -> Array:
        """Predict classes or values, with the moving averages whatever the mode.

        Parameters
        ----------
        X : array_like, shape (n_samples, n_features)
            Samples.

        Returns
        -------
        ndarray
            Softmax: int64 classes, shape (n_samples,).  Sigmoid: int64 zeros and ones; identity:
            values, of the network's dtype, or float64 where targets are standardized; both of shape
            (n_samples, n_out), or (n_samples,) for one output.

        Raises
        ------
        TypeError, ValueError
            If `X` is not a finite real table of the network's width, or an output is not finite: because
            the parameters are not, or because a value of `X` leads beyond the range of the dtype.

        Examples
        --------
        >>> import numpy as np
        >>> from nbnorm import FNN
        >>> FNN([3, 4, 2], seed=1).predict(np.ones((5, 3))).shape
        (5,)
        """
        return _metrics.decide(self.output, self._in_units(self._logits(X)))

    def predict_proba(self, X: npt.ArrayLike) -> Array:
        """Predict probabilities, with the moving averages whatever the mode.

        Parameters
        ----------
        X : array_like, shape (n_samples, n_features)
            Samples.

        Returns
        -------
        ndarray, shape (n_samples, n_out)
            Softmax: probabilities of the classes, each row sums to 1.  Sigmoid: probability of 1
            for each output.

        Raises
        ------
        ValueError
            If the output is the identity, or as `predict`.

        Examples
        --------
        >>> import numpy as np
        >>> from nbnorm import FNN
        >>> p = FNN([3, 4, 2], seed=1).predict_proba(np.ones((5, 3)))
        >>> bool(np.allclose(p.sum(axis=1), 1))
        True
        """
        if self.output == "identity":
            raise ValueError("predict_proba needs output='softmax' or 'sigmoid', got 'identity'")
        return _metrics.probabilities(self.output, self._logits(X)).astype(self.dtype)

    def score(self, X: npt.ArrayLike, y: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None) -> float:
        """Return the accuracy, or for the identity output the coefficient of determination.

        Parameters
        ----------
        X : array_like, shape (n_samples, n_features)
            Samples.
        y : array_like
            Targets as for `fit`.
        sample_weight : array_like, shape (n_samples,), optional
            Weights, not negative.

        Returns
        -------
        float
            Share of samples with all outputs right; or R^2 = 1 - sum (y - p)^2 / sum (y - mean)^2,
            averaged over the outputs; of a constant target 1 where the prediction is exact, otherwise 0.

        Raises
        ------
        TypeError, ValueError
            As `fit` and `predict`.
        """
        x: Any = X if is_sparse(X) else self._table("X", X, check=False)
        truth = self._truth("y", y, x.shape[0], "X")
        weights = None
        if sample_weight is not None:
            weights = _check.weights("sample_weight", sample_weight, x.shape[0])
        self._encoded("y", truth)  # refuses targets beyond the network's dtype
        name = "r2" if self.output == "identity" else "accuracy"
        outcome = _metrics.Outcome(self.output, self._in_units(self._logits(x)), truth, weights)
        return _metrics.NAMED[name][0](outcome)

    # ------------------------------------------------------------------------------------------
    # Statistics of a whole data set
    # ------------------------------------------------------------------------------------------

    def dataset_statistics(self, X: npt.ArrayLike) -> dict[str, Moments]:
        """Mean and variance of each batch norm's input over all samples of `X`, exactly.

        The layers are taken in order: the first batch norm's input is measured over the whole data set, then
        it normalizes with what was found while the second's is measured, and so on.  So these are the
        statistics of the network that would use them in evaluation mode; see `recalibrate`.  Neither the
        network nor its mode is changed.

        Parameters
        ----------
        X : array_like, shape (n_samples, n_features)
            Samples as for `fit`: arrays of any real type, memory maps, frames and SciPy sparse matrices,
            read where they lie, some rows at a time, once for each batch norm.

        Returns
        -------
        dict of str to Moments
            ``"norm1"``, ``"norm2"``, ...: with `mean`, `var` and `count`.

        Raises
        ------
        TypeError
            If `X` does not hold real numbers.
        ValueError
            If the network has no batch norm, `X` has another width or is not finite, or features are not.
        RuntimeError
            If the network encodes columns and was not fitted.

        Notes
        -----
        A network of L hidden layers computes L (L + 1) / 2 of them for each sample and keeps no features.

        Examples
        --------
        >>> import numpy as np
        >>> from nbnorm import FNN
        >>> net = FNN([2, 3, 2], activation="identity", standardize=False, seed=0)
        >>> net.parameters()["dense1.weight"][...] = [[1, 0], [0, 1], [1, 1]]
        >>> found = net.dataset_statistics([[1.0, 0.0], [3.0, 4.0]])
        >>> found["norm1"].mean, found["norm1"].var()
        (array([2., 2., 4.]), array([1., 4., 9.]))
        """
        return dataset_statistics(self, X)

    def recalibrate(self, X: npt.ArrayLike) -> FNN:
        """Replace the moving averages by the statistics of a whole data set.

        Means and biased variances are those of `dataset_statistics`, so that in evaluation mode each batch
        norm's output has exactly the mean beta and the variance gamma**2 var / (var + eps) over `X`.

        Parameters
        ----------
        X : array_like, shape (n_samples, n_features)
            At least 2 samples, as for `dataset_statistics`.

        Returns
        -------
        FNN
            The network itself, in the mode that it was in.

        Raises
        ------
        TypeError, ValueError, RuntimeError
            As `dataset_statistics`, or if there is only one sample; the network stays as it was.

        Examples
        --------
        >>> from nbnorm import FNN, load_digits
        >>> X, y = load_digits()
        >>> net = FNN([64, 16, 10], seed=0)
        >>> history = net.fit(X, y, epochs=2)
        >>> net = net.recalibrate(X)
        >>> found = net.dataset_statistics(X)["norm1"]
        >>> bool((net.buffers()["norm1.running_mean"] == found.mean).all())
        True
        """
        recalibrate(self, X)
        return self

    # ------------------------------------------------------------------------------------------
    # Files
    # ------------------------------------------------------------------------------------------

    def save(self, path: _files.Target) -> None:
        """Write the network to an NPZ file, atomically and without pickle.

        Parameters
        ----------
        path : path-like or binary file
            File to write or replace; an open one gets the whole network at once.

        Raises
        ------
        OSError
            If the file cannot be written; an older file stays as it was.
        TypeError
            If `metadata` holds something that JSON cannot.

        Notes
        -----
        Of an `Activation` or a `CustomLoss` only the name is written: files hold no code.

        Examples
        --------
        >>> import os, tempfile
        >>> from nbnorm import FNN
        >>> net = FNN([3, 4, 2], seed=1)
        >>> path = os.path.join(tempfile.mkdtemp(), "net.npz")
        >>> net.save(path)
        >>> FNN.load(path)
        FNN([3, 4, 2], activation='relu', norm='after', output='softmax', dtype=float32, parameters=34)
        """
        config = {
            "sizes": list(self.sizes),
            "activation": [getattr(one, "name", one) for one in self._activations],
            "norm": self.norm,
            "output": self.output,
            "loss": self.loss.name,
            "loss_options": self.loss.settings(),
            "dropout": list(self.dropout),
            "standardize": self.standardize,
            "encoding": self.encoding,
            "bins": self.bins,
            "standardize_targets": self.standardize_targets,
            "eps": self.eps,
            "decay": self.decay,
            "running": self.running,
            "unbiased": self.unbiased,
            "weighted_statistics": self.weighted_statistics,
            "init": self.init,
            "dtype": self.dtype.name,
            "seed": self.seed,
            "training": self.training,
            "epochs_trained": self.epochs_trained,
            "metadata": self.metadata,
            **self._statistics(),
        }
        _files.write(path, "network", config, self._arrays())

    def _statistics(self) -> dict[str, Any]:
        """Return the standardizers as JSON can hold them."""
        return {
            name: None if fitted is None else fitted.to_dict()
            for name, fitted in (
                ("encoder", self.encoder),
                ("standardizer", self.standardizer),
                ("target_standardizer", self.target_standardizer),
            )
        }

    def _take_statistics(self, config: Mapping[str, Any]) -> None:
        """Set the standardizers that `_statistics` returned."""
        encoder = None
        if config["encoder"] is not None:
            encoder = ColumnEncoder.from_dict(config["encoder"])
            if self.encoding is None or encoder.n_features_in_ != self.sizes[0]:
                raise ValueError(f"the encoder has {encoder.n_features_in_} features")
        inputs = self.sizes[0] if encoder is None else encoder.n_features_out_
        fitted: list[Standardizer | None] = []
        targets = self.loss.targets(self.sizes[-1])
        for name, width in (("standardizer", inputs), ("target_standardizer", targets)):
            values = config[name]
            fitted.append(None if values is None else Standardizer.from_dict(values))
            last = fitted[-1]
            if last is not None and last.n_features_in_ != width:
                raise ValueError(f"the {name} has {last.n_features_in_} features")
        if encoder is not None and self.encoder is None:
            self._encode(encoder)
        self.standardizer, self.target_standardizer = fitted

    def _check_arrays(self, arrays: Mapping[str, Array]) -> None:
        """Refuse arrays that are not parameters and moving averages of this network."""
        held = self._arrays()
        if set(held) != set(arrays):
            raise ValueError(f"arrays {sorted(set(held) ^ set(arrays))} are missing or foreign")
        for name, values in held.items():
            if arrays[name].shape != values.shape or arrays[name].dtype != values.dtype:
                raise ValueError(
                    f"array {name} has shape {arrays[name].shape} and dtype {arrays[name].dtype}"
                )

    @classmethod
    def load(
        cls,
        path: _files.Target,
        *,
        activation: str | Activation | Sequence[str | Activation] | None = None,
        loss: str | losses.Loss | None = None,
    ) -> FNN:
        """Read a network written by `save`.

        Parameters
        ----------
        path : path-like or binary file
            File to read; an open one from where it stands to its end.  Nothing in it is executed.
        activation, loss : optional
            As for `FNN`, in the place of what the file names: functions of your own are not in it.

        Returns
        -------
        FNN

        Raises
        ------
        OSError
            If the file cannot be read.
        ValueError
            If it is not a whole file of this format.
        """
        config, arrays = _files.read(path, "network")
        try:
            options = dict(config)
            training_ = _check.flag("training", options.pop("training"))
            epochs = _check.integer("epochs_trained", options.pop("epochs_trained"), least=0)
            metadata = options.pop("metadata")
            statistics = {
                name: options.pop(name) for name in ("encoder", "standardizer", "target_standardizer")
            }
            sizes = options.pop("sizes")
            if activation is not None:
                options["activation"] = activation
            of_loss = options.pop("loss_options")
            options["loss"] = _known_loss(options["loss"], of_loss) if loss is None else loss
            encoder = statistics["encoder"]
            inputs = sizes[0] if encoder is None else ColumnEncoder.from_dict(encoder).n_features_out_
            widths = [inputs, *sizes[1:]]
            for l in range(1, len(sizes)):  # before anything of a claimed size is allocated
                if arrays[f"dense{l}.weight"].shape != (widths[l], widths[l - 1]):
                    raise ValueError(f"dense{l}.weight does not have shape {(widths[l], widths[l - 1])}")
            for name in options["activation"] if activation is None else ():
                if name not in activations.CODES:
                    raise ValueError(f"its activation {name!r} is not one of the package: give activation=")
            net = cls(sizes, **options)
            net.training, net.epochs_trained, net.metadata = training_, epochs, dict(metadata)
            net._take_statistics(statistics)
            net._check_arrays(arrays)
            for name, values in net._arrays().items():
                values[:] = arrays[name]
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{_files.name_of(path)} does not hold a network: {error}") from None
        return net
