"""The text that FNNClassifier and FNNRegressor have in common in their docstrings."""

from __future__ import annotations

from collections.abc import Callable

_PARAMETERS = """\
hidden_layer_sizes : int, sequence of int or "auto", default "auto"
        Units of each hidden layer.  "auto" is one layer of 100 units; of several networks every second from
        the third on has two layers of 64 instead, because different networks make different mistakes and
        their mean fewer.  All have one layer where `activation` or `dropout` has a value for each layer.
    activation : str, Activation, sequence of them or "auto", default "auto"
        Activation of the hidden layers, or one for each: "relu", "tanh", "identity", "sigmoid" (or
        "logistic"), "leaky_relu", "elu", "gelu", "silu", "softplus", "selu".  "auto" is "relu", but "silu" in
        the first of two layers that are automatic.
    norm : {"after", "before", "layer", "layer_after", "rms", "rms_after", None}, default "after"
        Batch normalization after or before the activation, or layer norm or RMS norm of each sample, see
        `FNN`.
    n_estimators : int, default 5
        Networks that are trained, from other initial weights and in other orders of the samples; their
        probabilities or values are averaged.  They are trained side by side, each on one thread.  Attributes
        that describe one network or its training describe the first.  One network takes a fifth of the time.
    encoding : {None, "piecewise"}, default "piecewise"
        "piecewise": columns of numbers are joined by their positions in quantile bins, see `FNN`.  Missing
        numbers may then be NaN: they count as the column's mean, and a column that had some in training is
        joined by one that says where.  Infinite ones count as the largest or smallest of the training.
    bins : int or "auto", default "auto"
        Bins of a column at most.  "auto" is 8, less below 200 samples (one for 25 of them, but 2) or beyond
        256 columns (2048 for all together), and none beyond 1024 columns; every second one of several
        networks of a classifier has three eighths of them, but 2.  In `fit` a regressor has none up to 20,000
        samples where that is clearly better: one network of each, trained on three quarters of the samples,
        is compared on the rest.  With less than 800 samples only every second network has bins, and the first
        has none, unless two such comparisons find a network without dropout better: then the first is of the
        better kind, with bins or without, and all are if it is clearly better.
    categorical_features : "from_dtype", None or array-like, default "from_dtype"
        Columns of categories, which become an indicator for each level: those of a frame whose type says
        so and those of text; none; or a mask, names or positions.  Levels that were not there in training
        have no indicator, missing ones their own.  Dates are days since 1970-01-01, booleans 0 and 1.
    min_frequency : int or "auto", default "auto"
        Samples that a level needs to have its own indicator; rarer ones have one together.  "auto" is 10,
        or a hundredth of the samples where that is less.
    solver : {"adamw", "adam", "sgd"}, default "adamw"
        Optimizer; "adam" is "adamw" without `weight_decay`.
    alpha : float, default 0.0
        Strength of the L2 penalty alpha / 2 ||W||^2 of the weights, divided by the samples of the batch.
    weight_decay : float or "auto", default "auto"
        Decoupled weight decay: each step subtracts this fraction, times the learning rate, of the weights;
        the product with any learning rate must be below 1.  "auto" is 5 where ``norm="after"`` follows
        "relu", "leaky_relu" or "identity" in the first network, and 0.2 elsewhere and with a constant rate,
        as in `partial_fit`; times the root of 1200 / samples beyond 1200 samples, and at most 0.025 /
        `learning_rate_init`; it is 0 for "sgd".  A `learning_rate` that is a function and rises above the
        initial one may need a number.
    batch_size : int or "auto", default "auto"
        Most samples of a mini-batch; "auto" takes @batch@.  The batches
        of an epoch are even: their sizes differ by at most one.  Batch norm needs two samples in each:
        where `batch_size` does not allow that (1, or 2 for an odd number of samples), it is made larger.
    learning_rate : str, schedule or callable, default "cosine"
        Course of the learning rate: "constant"; "invscaling", divided by samples seen to the power of
        `power_t`; "adaptive", divided by 5 whenever there is no improvement; "step", "cosine",
        "one_cycle", "plateau", the same with options (`nbnorm.Cosine` and others); or a function of the step.
    learning_rate_init : float or "auto", default "auto"
        Learning rate that the course begins with or is relative to.  "auto" is 0.0075 for "adamw" where
        ``norm="after"`` follows "relu", "leaky_relu" or "identity" (with ``max_iter="auto"`` 0.375 / epochs),
        0.02 for "sgd" and 0.03 otherwise.
    power_t : float, default 0.5
        Exponent of "invscaling".
    max_iter : int or "auto", default "auto"
        Epochs at most.  A learning rate that is planned for so many, see `n_iter_no_change`, does them all.
        "auto" is 50; for "adamw", where ``norm="after"`` follows "relu", "leaky_relu" or "identity" and the
        rate is planned, as many as make 1250 steps, but from 25 to 50.
    shuffle : bool, default True
        Whether each epoch takes the samples in a new order.
    random_state : int, RandomState or None, default None
        Determines the initial weights, the order of the samples, dropout and the validation split.
    tol : float, default 1e-4
        Change that counts as an improvement of the training loss or of what early stopping watches.
    n_iter_no_change : int or inf, default 10
        Epochs in a row without improvement after which training ends or, where it is "adaptive", the learning
        rate falls.  A learning rate planned for all epochs goes on to its end: "step", "cosine",
        "one_cycle", a function.
    verbose : bool or int, default False
        Whether to print the loss after each epoch.
    progress : bool or None, default False
        Whether to show a progress bar (needs tqdm), one for all networks; None on a terminal only.
    warm_start : bool, default False
        Whether `fit` goes on from the network of the last call.  What the network was built with stays,
        there and in `partial_fit`: `hidden_layer_sizes`, `activation`, `norm`, `n_estimators`, `decay`,
        `dropout`, `init`, `standardize`, `weighted_statistics`, `precision`, `dtype` and all about columns,
        loss and targets; bins and levels are those that the first call has found.
    momentum : float, default 0.9
        Momentum of "sgd".
    nesterovs_momentum : bool, default True
        Whether it is Nesterov's.
    beta_1, beta_2 : float, default 0.9 and 0.999
        Weights of the old averages of the gradient and of its square, in "adamw" and "adam".
    epsilon : float, default 1e-3
        Added to the root of the average square there.  It is larger than usual, so that gradients which
        are zero but for rounding, as those of a bias behind batch norm can be, make no steps of full size.
    clip_norm : float or None, default None
        Largest norm of all gradients together.
    early_stopping : bool, str or EarlyStopping, default False
        Whether to hold out a part of the data, to watch the loss there and to take the parameters of the
        epoch where it was least.  Training ends as `n_iter_no_change` says.  A name watches something else
        of these data, such as "@metric@", one of `metrics`, or a scorer of scikit-learn; only "loss" is that
        of the training data.
    validation_fraction : float, default 0.1
        Fraction of the data that is held out, unless `fit` is given validation data.
    metrics : sequence of str, callables, Metric and scorers, default ()
        What else to measure on the validation data after each epoch: what `FNN.fit` takes, where functions
        get the classes as y has them, and names of scikit-learn's scorers, such as "f1_macro" or
        "neg_median_absolute_error", or such scorers themselves.
    callbacks : sequence of callables, default ()
        Called after each epoch as ``callback(net, history)``, see `FNN.fit`; one that returns True ends the
        training.
    decay : float or None, default 0.9
        Weight of the old value in batch norm's moving averages; None for the mean of all batches.
    dropout : float, sequence of float or "auto", default "auto"
        Probability with which a training step drops a unit of a hidden layer.  "auto" is 0.3 up to 500
        samples and falls to 0 at 800, for "adamw" with a planned learning rate and batch norm behind "relu",
        "leaky_relu" or "identity"; 0 for all others, in `partial_fit`, with `weighted_statistics`, and where
        a network without it is better on two quarters of the samples, trained on the rest of each.
    init : {"he", "glorot", "lecun", "orthogonal"}, default "he"
        Distribution of the initial weights.
    standardize : bool, default True
        Whether to standardize the features inside: no `StandardScaler` is needed in front.
    weighted_statistics : bool, default False
        Whether weights of samples and classes enter the statistics of batch norm, and those of classes the
        standardization, so that an integer weight is the same as a repeated sample.  Weights that depend on
        the target then tell it to the network while it trains.
    precision : {"float32", "bfloat16"}, default "float32"
        "bfloat16" rounds the operands of the hidden layers' products while training, see `FNN`.  It is faster
        where the processor has fast ones, ``nbnorm.simd.target().bfloat16``."""

_DTYPE = """\
dtype : {"auto", "float32", "float64"} or dtype, default "auto"
        Type of the computation; "auto" is float32 if that holds every value of X's type exactly (float32,
        float16, integers of 16 bits), from 600 standardized samples on, and with ``precision="bfloat16"``,
        otherwise float64.  The standardization is computed in float64 either way, and answers have the type
        of X."""

_ATTRIBUTES = """\
network_ : FNN
        The network itself, or the first one; `network_.save` stores it without pickle.
    networks_ : list of FNN
        All of them.
    history_ : History
        What happened in each epoch of the last call, with all metrics.
    columns_ : list of Column
        What each column of X is: its name, its kind, and the levels of categories.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        Their names, if X had them.
    n_layers_, n_outputs_ : int
        Layers, input and output included; outputs of the network.
    out_activation_ : str
        Function that turns the network's logits into its answers.
    coefs_, intercepts_ : list of ndarray
        Weights, shape (n_in, n_out), and biases of the equivalent plain network: batch norm in evaluation
        and standardization are affine, and folded in.  Not there with layer norm or RMS norm.
    loss_, loss_curve_ : float, list of float
        Training loss of the last epoch and of all.
    best_loss_ : float or None
        Least training loss; None with early stopping.
    validation_scores_, best_validation_score_ : list of float, float, or None
        The @score@ of the validation data after each epoch, or what `early_stopping` names, and the best
        value of the last call; None without early stopping.  The epoch that was taken is
        `history_.best_epoch`.  Where training goes on, epochs that were not scored, or by another score,
        have nan.
    n_iter_, t_ : int
        Epochs of the last training, those before an interruption included from which a checkpoint went on;
        and training samples seen in all."""


def documented(**values: str) -> Callable[[type], type]:
    """Put the common text into their docstrings, with what is their own."""

    def fill(cls: type) -> type:
        text = cls.__doc__ or ""  # python -OO has none
        for name, part in (("parameters", _PARAMETERS), ("dtype", _DTYPE), ("attributes", _ATTRIBUTES)):
            text = text.replace(f"<{name}>", part)
        for name, value in values.items():
            text = text.replace(f"@{name}@", value)
        cls.__doc__ = text
        return cls

    return fill
