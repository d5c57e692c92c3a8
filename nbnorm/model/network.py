"""Fully connected networks with input standardization and batch normalization."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nbnorm import _files
from nbnorm._types import Array, Communicator, FloatArray, Table
from nbnorm.data.row_groups import OnDisk
from nbnorm.functions.activations import ActivationLike
from nbnorm.functions.batch_norm_layer import Running
from nbnorm.functions.gradcheck import STEP
from nbnorm.functions.loss_options import LossLike, Output
from nbnorm.functions.optimizers import Optimizer
from nbnorm.model import (
    arrays,
    compiled,
    dataset_statistics,
    diagnostics,
    inference,
    model_files,
    options,
    plan,
    training,
)
from nbnorm.model.compiled import Predictor
from nbnorm.model.history import History
from nbnorm.model.metrics import MetricLike
from nbnorm.model.options import Encoding, Init, Norm, Options, Precision
from nbnorm.model.ranks import DataParallel
from nbnorm.model.sample_weights import ClassWeight
from nbnorm.model.samples import ValidationTuple
from nbnorm.model.schedules import LearningRates, Schedule, ScheduleName
from nbnorm.model.stopping import EarlyStopping
from nbnorm.statistics.moments import Moments
from nbnorm.statistics.standardize import Standardizer


class FNN(Options):
    """Fully connected network, trained by mini-batch SGD.

    The input is standardized, y_0 = U(x).  Each hidden layer computes z = W y + b and then

    * ``norm="after"``: y = f(z), out = BN(y);
    * ``norm="before"``: out = f(BN(z)), without a bias, which beta replaces [1]_;
    * ``norm="layer"`` or ``"rms"``: out = f(LN(z)) with `layer_norm_forward` or `rms_norm_forward` of each
      sample, the same in both modes; ``"layer_after"`` or ``"rms_after"``: out = LN(f(z));
    * ``norm=None``: out = f(z).

    The output layer computes logits z = W y + b.

    Parameters
    ----------
    sizes : sequence of int
        Features of the input, of each hidden layer, and outputs.
    activation : str, Activation or sequence of them, default "relu"
        Activation f of the hidden layers, one for all or one for each: "relu", "sigmoid", "tanh",
        "identity", "leaky_relu", "elu", "gelu", "silu", "softplus", "selu" or an `Activation` of your own.
    norm : {"after", "before", "layer", "layer_after", "rms", "rms_after", None}, default "after"
        Batch normalization after or before the activation, or normalization of each sample over its features.
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
    bins : int or None, default 8
        Bins of a column at most; None for none, so that the encoding sees to missing numbers alone.
    standardize_targets : bool, default False
        Whether it also fits one to the targets, for the identity output: the network then learns
        standardized targets, and `predict` turns its answers back, in float64.  Losses are in
        standardized units.
    eps : float, default 1e-5
        Added to the variance inside the square root; at least the smallest normal number of `dtype`.
    decay : float or None, default 0.9
        Weight of the old value in the moving averages, 0 <= decay < 1; None for the mean of all batches.
    running : {"var", "std"}, default "var"
        Whether the variance or the standard deviation is averaged.
    unbiased : bool, default True
        Whether the averaged variance is the unbiased one.
    weighted_statistics : bool, default False
        Whether weights of samples and classes enter the statistics of batch norm, and those of classes
        the standardizer, so that an integer weight is the same as a repeated sample.  Weights that
        depend on the target then tell it to the network while it trains: see the page on weights.
    frozen_statistics : bool, default False
        Whether batch norm in training, too, uses the moving averages as they are; may be set at any time.
    precision : {"float32", "bfloat16"}, default "float32"
        "bfloat16": operands of the hidden layers' products (inputs of the first one only where they are
        standardized) are rounded to bfloat16 in training mode, and summed in float32; all else is of
        `dtype`, which must be float32.  It pays where ``nbnorm.simd.target().bfloat16``; elsewhere the bits
        are the same, not faster than float32.  In evaluation mode nothing is rounded.
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
        activation: ActivationLike | Sequence[ActivationLike] = "relu",
        norm: Norm | None = "after",
        output: Output = "softmax",
        loss: LossLike | None = None,
        dropout: float | Sequence[float] | npt.NDArray[np.floating[Any]] = 0.0,
        standardize: bool = True,
        encoding: Encoding | None = None,
        bins: int | None = 8,
        standardize_targets: bool = False,
        eps: float = 1e-5,
        decay: float | None = 0.9,
        running: Running = "var",
        unbiased: bool = True,
        weighted_statistics: bool = False,
        frozen_statistics: bool = False,
        precision: Precision = "float32",
        init: Init = "he",
        dtype: npt.DTypeLike = np.float32,
        seed: int | None = None,
    ) -> None:
        arguments = options.given(locals())
        vars(self).update(options.checked(**arguments))
        self.training = True
        self.encoder = None
        self.standardizer: Standardizer | None = None
        self.target_standardizer: Standardizer | None = None
        self.epochs_trained = 0
        self.metadata: dict[str, Any] = {}
        self.arrays = arrays.initial(self)
        # A dictionary here carries the optimizer's arrays from each `fit` to the next.
        self.optimizer_state: dict[str, Array] | None = None
        self.stepped: training.Stepped | None = None

    def __copy__(self) -> FNN:
        twin = type(self).__new__(type(self))
        vars(twin).update(vars(self), arrays=self.arrays.copy(), metadata=dict(self.metadata))
        return twin

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

    def parameters(self) -> dict[str, FloatArray]:
        """Return the trainable arrays by name; writing to them changes the network.

        Returns
        -------
        dict of str to ndarray
            ``"dense1.weight"`` (n_out, n_in), ``"dense1.bias"`` (n_out,), ``"norm1.gamma"``,
            ``"norm1.beta"`` (not of RMS norm), ``"dense2.weight"``, ...; with ``norm="before"`` hidden layers
            have no bias.

        Examples
        --------
        >>> from nbnorm import FNN
        >>> list(FNN([4, 3, 2]).parameters())
        ['dense1.weight', 'dense1.bias', 'norm1.gamma', 'norm1.beta', 'dense2.weight', 'dense2.bias']
        """
        return dict(self.arrays.writable().parameters)

    def buffers(self) -> dict[str, Array]:
        """Return the moving averages by name, float64; writing to them changes the network.

        Returns
        -------
        dict of str to ndarray
            ``"norm1.running_mean"``, ``"norm1.running_var"`` (or ``..._std``), ... of batch norms, and with
            ``decay=None`` their numbers of batches, ``"norm1.n_batches"``, int64.
        """
        return dict(self.arrays.writable().buffers)

    def forward(self, X: Table) -> FloatArray:
        """Return the logits in the current mode.

        In training mode `X` is one mini-batch: its own statistics are used, and they move the
        moving averages.  In evaluation mode each sample is computed by itself.  What evaluates up to
        128 samples is kept for the next call, as a copy of the arrays that follows what is written to them.

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
        return inference.forward(self, X, training=self.training)

    def loss_and_gradients(
        self,
        X: Table,
        y: npt.ArrayLike,
        *,
        sample_weight: npt.ArrayLike | None = None,
        update_statistics: bool = False,
    ) -> tuple[float, dict[str, FloatArray]]:
        """Return the loss of one batch and its gradient, in the current mode.

        By default nothing is changed, not even in training mode the moving averages, without whose update a
        network trained with these gradients is wrong in evaluation mode: in a training loop of your own pass
        ``update_statistics=True``, or use `step`.  Dropout leaves out the same elements at each call.

        Parameters
        ----------
        X : array_like, shape (n_samples, n_features)
            Samples.
        y : array_like
            Targets as for `fit`.
        sample_weight : array_like, shape (n_samples,), optional
            Weights as for `fit`.
        update_statistics : bool, default False
            Whether this batch also does to the statistics what one of `fit` does: in training mode the moving
            averages take it in, and where the input standardizer (and the encoder, and the standardizer of
            the targets) is wanted but not there yet, it is fitted to this batch.  Assign one that is fitted
            to all training data before.

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
        return inference.loss_and_gradients(self, X, y, sample_weight, update_statistics=update_statistics)

    def step(
        self,
        X: Table,
        y: npt.ArrayLike,
        optimizer: Optimizer | None = None,
        *,
        sample_weight: npt.ArrayLike | None = None,
        frozen: Iterable[str] = (),
        rates: Mapping[str, float] | None = None,
    ) -> float:
        """Update the parameters and the moving averages with one mini-batch, as a step of `fit` does.

        Momentum and Adam's averages go on from call to call, until `fit` is called or the kind of optimizer
        changes.  It is a batch of training, whatever the mode, which stays as it is.

        Parameters
        ----------
        X : array_like, shape (n_samples, n_features)
            The mini-batch.  Standardizers (and the encoder) of the network that are not fitted yet are fitted
            to it: assign ones that are fitted to all training data before.
        y : array_like
            Targets as for `fit`.
        optimizer : SGD, AdamW or Lion, optional
            By default that of `fit`.
        sample_weight : array_like, shape (n_samples,), optional
            Weights as for `fit`.
        frozen, rates : optional
            Parameters that stay, and learning rates of single ones, as for `fit`.

        Returns
        -------
        float
            Mean loss over the mini-batch, before the update.

        Raises
        ------
        TypeError, ValueError
            As `fit`; nothing is changed.
        DivergenceError
            If the loss or a parameter is no longer finite; nothing is changed.

        Examples
        --------
        >>> from nbnorm import FNN, SGD, load_digits
        >>> X, y = load_digits()
        >>> net = FNN([64, 16, 10], seed=0)
        >>> net.step(X, y, SGD(lr=0.1)) > net.step(X, y, SGD(lr=0.1))
        True
        """
        return training.step(self, X, y, optimizer, sample_weight, frozen, rates)

    def fit(
        self,
        X: Table | OnDisk,
        y: npt.ArrayLike,
        *,
        epochs: int = 10,
        batch_size: int = 128,
        optimizer: Optimizer | None = None,
        schedule: ScheduleName | Schedule | Callable[[int], float] = "constant",
        sample_weight: npt.ArrayLike | None = None,
        class_weight: ClassWeight | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        l2: float = 0.0,
        frozen: Iterable[str] = (),
        rates: Mapping[str, float] | None = None,
        validation_data: ValidationTuple | None = None,
        metrics: Iterable[MetricLike] = (),
        early_stopping: EarlyStopping | bool | None = None,
        checkpoint: _files.PathLike | None = None,
        checkpoint_every: float = 30.0,
        shuffle: bool = True,
        seed: int | None = None,
        progress: bool | None = None,
        callbacks: Iterable[Callable[[FNN, History], object]] = (),
        shuffle_buffer: int | None = None,
        comm: Communicator | DataParallel | None = None,
    ) -> History:
        """Train by mini-batch SGD and leave the network in evaluation mode.

        An error or an interrupt before the end of the first epoch leaves the network as it was, its mode
        too.

        Parameters
        ----------
        X : array_like, shape (n_samples, n_features)
            Training samples.  Arrays of integers, float32 and float64, memory maps and read-only
            arrays are read where they lie, batch by batch; a SciPy sparse matrix becomes dense so.  Also a
            Parquet, Arrow or NPY file, a folder of Parquet or Arrow files (as paths), or a dataset or Parquet
            file of pyarrow: they are read in row groups, see `shuffle_buffer`.  All columns that `y` and
            `sample_weight` do not name are features.
        y : array_like
            For softmax integer classes, shape (n_samples,); for sigmoid targets between 0 and 1,
            for identity real targets, shape (n_samples, n_out), or (n_samples,) for one output.  Where `X`
            is a file or dataset, the name of a column or of several.
        epochs : int, default 10
            Passes over the data.
        batch_size : int, default 128
            Most samples of a mini-batch.  The batches of an epoch are even: their sizes differ by at most
            one, the larger ones first, in as few steps as `batch_size` allows.
        optimizer : SGD, AdamW or Lion, optional
            By default ``SGD(lr=0.1, momentum=0.9)``.  Each call begins anew: the momentum and the averages
            of Adam are those of this call.
        schedule : str, `Schedule` or callable, default "constant"
            Learning rate over the steps of this call: "constant", "step", "cosine", "one_cycle",
            "plateau", the same with options, or ``schedule(step)``, with steps counted from 0.
        sample_weight : array_like, shape (n_samples,), optional
            Weights, not negative: a weight of 2 counts as the same sample twice in the loss and in the
            statistics of the standardizers, but once in those of batch norm, unless the network has
            `weighted_statistics`.  The name of a column where `X` is a file or dataset.  Samples of weight
            0 are left out, and so are those whose weight the network's dtype cannot tell from 0 beside the
            largest.  A common factor matters only to the
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
        frozen : iterable of str, default ()
            Parameters that stay as they are, by name ("dense1.weight") or by layer ("dense1", "norm1").  The
            moving averages of frozen layers still move.
        rates : mapping of str to float, optional
            Learning rates of single parameters or layers, by such names, instead of the optimizer's; the
            schedule applies to them alike.  With these or frozen ones each step takes some microseconds more.
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
        shuffle_buffer : int, optional
            Rows that are kept in memory and shuffled together where `X` is read from disk; at least a row
            group, by default as many as 64 MiB hold.  A buffer of the next rows is filled meanwhile.
        comm : mpi4py.MPI.Comm or DataParallel, optional
            Communicator whose ranks train this network together, each with a part of the samples and of
            the validation data; see `DataParallel`.  The bits of the result do not depend on the number of
            ranks.  They are not those of a training without `comm`.

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
        arguments = options.given(locals())
        return training.fit(self, plan.checked(self, **arguments))

    def find_learning_rate(
        self,
        X: Table,
        y: npt.ArrayLike,
        *,
        batch_size: int = 128,
        optimizer: Optimizer | None = None,
        sample_weight: npt.ArrayLike | None = None,
        class_weight: ClassWeight | None = None,
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
        arguments = options.given(locals())
        return diagnostics.find_learning_rate(self, **arguments)

    def check_gradients(
        self,
        X: Table,
        y: npt.ArrayLike,
        *,
        sample_weight: npt.ArrayLike | None = None,
        step: float = STEP,
    ) -> dict[str, float]:
        """Compare the gradient of every parameter with numerical differences, in the current mode.

        The comparison is made on a float64 copy, whatever the `precision`; the network stays as it is.
        In the copy, biases and beta that are 0, as in a new network, become small random numbers: with
        relu, a sample whose inputs are all cut off would otherwise sit on the corner, which has no slope.
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
        return diagnostics.check_gradients(self, X, y, sample_weight, step)

    def predict(self, X: Table | OnDisk) -> Array:
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
        return inference.predict(self, X)

    def predict_proba(self, X: Table | OnDisk) -> FloatArray:
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
        return inference.predict_proba(self, X)

    def compiled(self) -> Predictor:
        """Return a frozen predictor that can be called from Python and from compiled code.

        Batch norm is folded into the affine layers; only the shape of the input is checked.  What is done
        to the network afterwards does nothing to the predictor.

        Returns
        -------
        Predictor
            ``predict(x)`` returns for one row, shape (n_features,), or many, shape (n_samples, n_features),
            what `predict_proba` does, or for the identity output `predict`, within rounding.

        Raises
        ------
        RuntimeError
            If the network encodes columns and was not fitted.

        Examples
        --------
        >>> import numpy as np
        >>> from numba import njit, prange
        >>> from nbnorm import FNN
        >>> net, X = FNN([3, 4, 2], seed=1), np.eye(3)
        >>> predict = net.compiled()
        >>> bool(np.allclose(predict(X), net.predict_proba(X)))
        True
        >>> @njit(parallel=True)
        ... def surest(predict, X, best):
        ...     for i in prange(len(X)):
        ...         best[i] = predict(X[i]).max()
        >>> surest(predict, X, best := np.empty(3))
        >>> bool(np.allclose(best, net.predict_proba(X).max(axis=1)))
        True
        """
        return compiled.compiled(self)

    def score(self, X: Table | OnDisk, y: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None) -> float:
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
            Fraction of samples with all outputs right; or R^2 = 1 - sum (y - p)^2 / sum (y - mean)^2,
            averaged over the outputs; of a constant target 1 where the prediction is exact, otherwise 0.

        Raises
        ------
        TypeError, ValueError
            As `fit` and `predict`.
        """
        return inference.score(self, X, y, sample_weight)

    def dataset_statistics(self, X: Table) -> dict[str, Moments]:
        """Mean and variance of each batch norm's input over all samples of `X`, exactly.

        The layers are taken in order: the first batch norm's input is measured over the whole data set, then
        it normalizes with what was found while the second's is measured, and so on.  So these are the
        statistics of the network that would use them in evaluation mode; see `recalibrate`.  Neither the
        network nor its mode is changed.

        Parameters
        ----------
        X : array_like, shape (n_samples, n_features)
            Samples as for `fit`: arrays of any real type, memory maps, frames and SciPy sparse matrices,
            read where they lie, some rows at a time, once for each batch norm; no features are kept.

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
        return dataset_statistics.dataset_statistics(self, X)

    def recalibrate(self, X: Table) -> FNN:
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
        dataset_statistics.recalibrate(self, X)
        return self

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
        model_files.save(self, path)

    @classmethod
    def load(
        cls,
        path: _files.Target,
        *,
        activation: ActivationLike | Sequence[ActivationLike] | None = None,
        loss: LossLike | None = None,
    ) -> FNN:
        """Read a network written by `save`.

        Parameters
        ----------
        path : path-like or binary file
            File to read; an open one from where it stands to its end.  Nothing in it is executed.
        activation, loss : optional
            As for `FNN`, instead of what the file names: functions of your own are not in it.

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
        return model_files.load(cls, path, activation, loss)
