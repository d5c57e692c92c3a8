"""`BatchNorm`, the layer: batch normalization with moving averages and the variants that are in use."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from nbnorm import _check
from nbnorm._types import Array, Float64Array, FloatArray
from nbnorm.functions import channels
from nbnorm.functions.batch_norm import (
    _backward,
    _workspace,
    batch_norm_inference,
    statistics_kernel,
)
from nbnorm.functions.normalization import check_eps, check_variances
from nbnorm.functions.weighted_batch_norm import statistics, weighted_batch_norm_backward

Running: TypeAlias = Literal["var", "std"]


class _Part(NamedTuple):
    """What `backward` needs of rows that were normalized together."""

    rows: slice
    x: FloatArray
    weights: Float64Array | None
    mean: Float64Array
    rstd: Float64Array
    stretch: Float64Array | float  # r and d of batch renormalization: out = gamma * (xhat * r + d) + beta
    offset: Float64Array | float
    constant: bool  # whether the statistics do not depend on x


def _present(**arrays: FloatArray | None) -> dict[str, FloatArray]:
    """Return those of the arrays that exist, by name."""
    return {name: values for name, values in arrays.items() if values is not None}


class BatchNorm:
    """Batch normalization as a layer with moving averages.

    In training mode a mini-batch is normalized with its own statistics, which also update the averages,
    ``running <- decay * running + (1 - decay) * batch``; in evaluation mode the averages are used and not
    changed.

    Parameters
    ----------
    n_features : int
        Number of features, or of channels.
    eps : float, default 1e-5
        Positive number added to the variance.
    decay : float or None, default 0.9
        Weight of the old average, in [0, 1); None for cumulative averages, in which all batches count alike.
    running : {"var", "std"}, default "var"
        Whether variances or standard deviations are averaged.
    unbiased : bool, default True
        Whether the averaged variance is the batch's times n / (n - 1).
    affine : bool, default True
        Whether there are a scale and a shift; without, `gamma` and `beta` are None.
    ghost_size : int, optional
        Most samples that are normalized together in training mode: a larger mini-batch is divided into
        parts of even sizes, each with its own statistics, which update the averages in turn [1]_.  No part
        has a single sample: of 3 samples in parts of 2, all are taken together.
    renorm : pair of float, optional
        Batch renormalization [2]_ with the bounds ``(r_max, d_max)``: in training mode the output is
        ``gamma * (xhat * r + d) + beta``, where ``r = sigma / running_sigma`` is kept within
        ``[1 / r_max, r_max]`` and ``d = (mean - running_mean) / running_sigma`` within ``[-d_max, d_max]``;
        both count as constants in `backward`.  ``(1, 0)`` is batch normalization.  May be changed during
        training.
    frozen : bool, default False
        Whether training mode, too, uses the averages and leaves them as they are, while `gamma` and `beta`
        learn.  May be changed at any time.
    dtype : {float32, float64}, default float32
        Dtype of the parameters and of the computation.

    Attributes
    ----------
    gamma, beta : ndarray, shape (n_features,)
        Scale and shift, at first 1 and 0.
    dgamma, dbeta : ndarray, shape (n_features,)
        Their gradients after `backward`.
    running_mean : ndarray of float64, shape (n_features,)
        Average of the means, at first 0.
    running_var, running_std : ndarray of float64, shape (n_features,)
        Average of the variances or of the standard deviations, at first 1; only the one that
        `running` names exists.
    n_batches : ndarray of int64, shape ()
        Batches in the averages; with ``decay=None`` only.
    training : bool
        Mode, at first True.

    Raises
    ------
    TypeError
        If a parameter is of the wrong type.
    ValueError
        If a parameter is out of range.

    References
    ----------
    .. [1] E. Hoffer, I. Hubara and D. Soudry, "Train longer, generalize better: closing the generalization
       gap in large batch training of neural networks", NeurIPS 2017.
    .. [2] S. Ioffe, "Batch Renormalization: Towards Reducing Minibatch Dependence in Batch-Normalized
       Models", NeurIPS 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import BatchNorm
    >>> layer = BatchNorm(2, dtype=np.float64)
    >>> layer
    BatchNorm(2, dtype=float64)
    >>> x = np.array([[1.0, 10.0], [3.0, 30.0]])
    >>> layer.forward(x).round(3)
    array([[-1., -1.],
           [ 1.,  1.]])
    >>> layer.running_mean
    array([0.2, 2. ])
    >>> layer.eval().forward(x[:1]).shape
    (1, 2)
    """

    gamma: FloatArray | None
    beta: FloatArray | None
    dgamma: FloatArray | None
    dbeta: FloatArray | None
    running_mean: Float64Array
    running_var: Float64Array
    running_std: Float64Array
    n_batches: npt.NDArray[np.int64]

    def __init__(
        self,
        n_features: int,
        *,
        eps: float = 1e-5,
        decay: float | None = 0.9,
        running: Running = "var",
        unbiased: bool = True,
        affine: bool = True,
        ghost_size: int | None = None,
        renorm: Sequence[float] | None = None,
        frozen: bool = False,
        dtype: npt.DTypeLike = np.float32,
    ) -> None:
        self.n_features = _check.integer("n_features", n_features, least=1)
        self.dtype = _check.float_dtype("dtype", dtype)
        self.eps = check_eps(eps, self.dtype)
        self.decay = None if decay is None else _check.number("decay", decay, least=0, below=1)
        self.running: Running = _check.choice("running", running, ("var", "std"))
        self.unbiased = _check.flag("unbiased", unbiased)
        self.affine = _check.flag("affine", affine)
        self.ghost_size = None if ghost_size is None else _check.integer("ghost_size", ghost_size, least=2)
        self.renorm = renorm
        self._renorm_bounds()
        self.frozen = _check.flag("frozen", frozen)
        self.gamma = self.beta = self.dgamma = self.dbeta = None
        if self.affine:
            self.gamma, self.beta = (
                np.ones(self.n_features, self.dtype),
                np.zeros(self.n_features, self.dtype),
            )
            self.dgamma, self.dbeta = np.zeros_like(self.gamma), np.zeros_like(self.beta)
        self.running_mean = np.zeros(self.n_features)
        setattr(self, f"running_{self.running}", np.ones(self.n_features))
        if self.decay is None:
            self.n_batches = np.zeros((), np.int64)
        self.training = True
        self._saved: tuple[tuple[int, ...], list[_Part]] | None = None

    def __repr__(self) -> str:
        """Show the number of features, and the options that are not the defaults."""
        _, *options = inspect.signature(BatchNorm).parameters.values()
        values = {option.name: getattr(self, option.name) for option in options}
        changed = [option.name for option in options if values[option.name] != option.default]
        shown = [f"{name}={self.dtype if name == 'dtype' else repr(values[name])}" for name in changed]
        return f"BatchNorm({', '.join([str(self.n_features), *shown])})"

    def _renorm_bounds(self) -> tuple[float, float] | None:
        """Check and return the bounds of batch renormalization: the attribute is the user's to set."""
        if self.renorm is None:
            return None
        if not isinstance(self.renorm, (tuple, list)) or len(self.renorm) != 2:
            raise TypeError(f"renorm must be a pair (r_max, d_max), got {self.renorm!r}")
        r_max, d_max = self.renorm
        return _check.number("renorm[0]", r_max, least=1.0), _check.number("renorm[1]", d_max, least=0.0)

    def train(self) -> BatchNorm:
        """Switch to training mode and return the layer."""
        self.training = True
        return self

    def eval(self) -> BatchNorm:
        """Switch to evaluation mode and return the layer."""
        self.training = False
        return self

    def parameters(self) -> dict[str, FloatArray]:
        """Return the live arrays ``{"gamma": ..., "beta": ...}``, or none without `affine`."""
        return _present(gamma=self.gamma, beta=self.beta)

    def gradients(self) -> dict[str, FloatArray]:
        """Return the gradients of the last `backward` under the parameters' names."""
        return _present(gamma=self.dgamma, beta=self.dbeta)

    def buffers(self) -> dict[str, Array]:
        """Return the live moving averages, and with cumulative ones the number of batches, by name."""
        second = f"running_{self.running}"
        averages: dict[str, Array] = {"running_mean": self.running_mean, second: getattr(self, second)}
        return averages if self.decay is not None else {**averages, "n_batches": self.n_batches}

    def forward(self, x: npt.ArrayLike, *, weights: npt.ArrayLike | None = None) -> FloatArray:
        """Normalize a mini-batch in the present mode.

        Parameters
        ----------
        x : array_like, shape (n_samples, n_features, ...)
            Mini-batch; of images and the like each channel is normalized over samples and positions.
            `backward` needs it and has a copy: the array may be filled anew in between.
        weights : array_like, shape (n_samples, ...), optional
            Weights in the statistics of training mode, not negative, or a mask; one for each sample, or for
            each sample and position.  What has the weight 0 is normalized like the rest.

        Returns
        -------
        ndarray, shape (n_samples, n_features, ...)
            Normalized mini-batch, of the layer's dtype.

        Raises
        ------
        TypeError
            If `x` does not hold real numbers.
        ValueError
            If a shape does not fit, or in training mode if a variance would be that of one value, or if
            values are finite and their variance in float64 is not.
        """
        got = _check.numeric("x", x)
        if got.ndim < 2 or got.size == 0:
            expected = "shape (n_samples, n_features, ...) and not be empty"
            raise ValueError(f"x must have {expected}, got shape {got.shape}")
        if got.shape[1] != self.n_features:
            raise ValueError(f"x must have {self.n_features} features, got shape {got.shape}")
        # a copy always: `backward` reads it, and `got` may be the caller's
        moved = np.moveaxis(got, 1, -1)
        rows = np.array(moved, self.dtype, order="C").reshape(-1, self.n_features)
        used = None if weights is None else channels.weights(weights, got.shape)
        positions = rows.shape[0] // got.shape[0]
        out = np.empty_like(rows)
        saved = []
        before = {name: values.copy() for name, values in self.buffers().items()}
        try:
            for part in self._parts(got.shape[0]):
                chosen = slice(part.start * positions, part.stop * positions)
                saved.append(self._normalize(chosen, rows, used, out))
        except ValueError:
            for name, values in self.buffers().items():
                values[...] = before[name]
            raise
        self._saved = got.shape, saved
        return channels.put_back(out, out if got.ndim == 2 else np.empty(got.shape, self.dtype))

    def _parts(self, samples: int) -> list[slice]:
        """Return the samples that are normalized together, in parts of even sizes."""
        count = 1
        if self.ghost_size is not None and self.training and not self.frozen:
            count = min(-(-samples // self.ghost_size), max(1, samples // 2))
        ends = [-(-samples * k // count) for k in range(count + 1)]
        return [slice(start, stop) for start, stop in itertools.pairwise(ends)]

    def _normalize(
        self, chosen: slice, rows: FloatArray, weights: Float64Array | None, out: FloatArray
    ) -> _Part:
        """Normalize some rows together, and update the averages in training mode."""
        x, used = rows[chosen], None if weights is None else weights[chosen]
        gamma, beta = self._scale_and_shift()
        if not self.training or self.frozen:
            mean, var = self.running_mean.copy(), self._running_var()
            batch_norm_inference(x, gamma, beta, mean, var, eps=self.eps, out=out[chosen])
            return _Part(chosen, x, None, mean, 1 / np.sqrt(var + self.eps), 1.0, 0.0, True)
        counted = len(x) if used is None else int((used > 0).sum())
        if counted < 2:
            raise ValueError(
                f"x must have at least 2 samples in training mode, got {counted}, whose variance is unknown: "
                "use a larger batch or call eval() first"
            )
        count = float(counted)
        if used is None:
            mean, var = np.empty(self.n_features), np.empty(self.n_features)
            with np.errstate(over="ignore", invalid="ignore"):  # refused below; only interpreted kernels warn
                statistics_kernel(x.size, x, mean, var, _workspace(x)[0])
        else:
            count = max(count, float(used.sum()))
            mean, var = statistics(x, used)
        rstd = 1 / np.sqrt(var + self.eps)
        check_variances(x if used is None else x[used > 0], rstd)
        stretch, offset = self._renormalize(mean, rstd)
        scale, shift = gamma * stretch, beta + gamma * offset
        batch_norm_inference(x, scale, shift, mean, var, eps=self.eps, out=out[chosen])
        self._average(mean, var, count)
        return _Part(chosen, x, used, mean, rstd, stretch, offset, False)

    def _renormalize(
        self, mean: Float64Array, rstd: Float64Array
    ) -> tuple[Float64Array | float, Float64Array | float]:
        """Return r and d of batch renormalization."""
        bounds = self._renorm_bounds()
        if bounds is None:
            return 1.0, 0.0
        r_max, d_max = bounds
        running_rstd = 1 / np.sqrt(self._running_var() + self.eps)
        stretch = np.clip(running_rstd / rstd, 1 / r_max, r_max)
        return stretch, np.clip((mean - self.running_mean) * running_rstd, -d_max, d_max)

    def _scale_and_shift(self) -> tuple[FloatArray, FloatArray]:
        """Return both as kernels take them: the attributes are the user's to set."""
        if not self.affine:
            return np.ones(self.n_features, self.dtype), np.zeros(self.n_features, self.dtype)
        shape = (self.n_features,)
        return tuple(  # type: ignore[return-value]
            _check.floats(name, getattr(self, name), 1, dtype=self.dtype, shape=shape)
            for name in ("gamma", "beta")
        )

    def _running_var(self) -> Float64Array:
        return self.running_var.copy() if self.running == "var" else self.running_std**2

    def _average(self, mean: Float64Array, var: Float64Array, count: float) -> None:
        """Move the averages towards the statistics of a batch of so many samples."""
        if self.unbiased:
            var = var * (count / (count - 1))
        decay = self.decay
        if decay is None:
            self.n_batches += 1
            decay = 1 - 1 / int(self.n_batches)
        second = var if self.running == "var" else np.sqrt(var)
        # Not as a step towards the new value, of which the difference from a large old one keeps no digit.
        for average, new in zip(self.buffers().values(), (mean, second), strict=False):
            average[...] = decay * average + (1 - decay) * new

    def backward(self, dout: npt.ArrayLike) -> FloatArray:
        """Gradient with respect to the input of the last `forward`; sets `dgamma` and `dbeta`.

        After a forward pass in evaluation mode, or of a frozen layer, the statistics count as constants.

        Parameters
        ----------
        dout : array_like, shape (n_samples, n_features, ...)
            Gradient of the loss with respect to the output.

        Returns
        -------
        ndarray, shape (n_samples, n_features, ...)
            Gradient of the loss with respect to the input.

        Raises
        ------
        TypeError
            If `dout` does not hold real numbers.
        ValueError
            If the shape is not that of the last output.
        RuntimeError
            If `forward` has not been called.
        """
        if self._saved is None:
            raise RuntimeError("backward needs a call of forward first")
        shape, parts = self._saved
        given = _check.floats("dout", dout, len(shape), dtype=self.dtype, shape=shape)
        rows = channels.table(given)
        gamma, _ = self._scale_and_shift()
        dx = np.empty_like(rows)
        dgamma, dbeta = np.zeros(self.n_features), np.zeros(self.n_features)
        for part in parts:
            scale = np.asarray(gamma * part.stretch, self.dtype)
            given_rows, out = rows[part.rows], dx[part.rows]
            known = given_rows, part.x, scale, part.mean, part.rstd
            if part.weights is None:
                _, slope, total = _backward(*known, not part.constant, out)
            else:
                _, slope, total = weighted_batch_norm_backward(*known, part.weights, out=out)
            dgamma += part.stretch * slope + part.offset * total
            dbeta += total
        for name, values in self.gradients().items():
            values[...] = dgamma if name == "gamma" else dbeta
        return channels.put_back(dx, dx if len(shape) == 2 else np.empty(shape, self.dtype))
