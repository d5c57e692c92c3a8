"""Affine layers: ``z = x weight^T + bias``, forward and backward, and the layer `Dense`."""

from __future__ import annotations

from typing import Any, Literal

import numba
import numpy as np
import numpy.typing as npt

from nbnorm import _check
from nbnorm._types import FloatArray
from nbnorm.compile.kernels import kernel, linked_kernel, parallel_kernel

# Rows and columns of one block of the column sums; fixed, they decide the order of summation.
ROWS = 512
COLUMNS = 256

# ----------------------------------------------------------------------------------------------
# Kernels
# ----------------------------------------------------------------------------------------------


@kernel
def sums_rows(n_samples: Any) -> Any:
    """Return the number of rows of the float64 workspace of `column_sums_kernel`."""
    return (n_samples + ROWS - 1) // ROWS


@linked_kernel
def _add(row: Any, bias: Any) -> None:
    for j in range(row.size):
        row[j] += bias[j]


@parallel_kernel
def add_bias_kernel(z: Any, bias: Any) -> None:
    """Add `bias` to every row of `z` in place."""
    n = z.shape[0]
    for block in numba.prange((n + ROWS - 1) // ROWS):
        for i in range(block * ROWS, min(n, (block + 1) * ROWS)):
            _add(z[i], bias)


@parallel_kernel
def column_sums_kernel(x: Any, out: Any, sums: Any) -> None:
    """Sum the rows of `x`; `sums` is a float64 workspace of shape ``(sums_rows(len(x)), width)``."""
    n, width = x.shape
    blocks, column_tiles = sums_rows(n), (width + COLUMNS - 1) // COLUMNS
    for tile in numba.prange(blocks * column_tiles):
        block, left = tile // column_tiles, tile % column_tiles * COLUMNS
        right = min(width, left + COLUMNS)
        total = sums[block, left:right]
        for j in range(total.size):
            total[j] = 0.0
        for i in range(block * ROWS, min(n, (block + 1) * ROWS)):
            _add(total, x[i, left:right])
    for block in range(1, blocks):
        _add(sums[0], sums[block])
    for j in range(width):
        out[j] = sums[0, j]


# ----------------------------------------------------------------------------------------------
# Public functions
# ----------------------------------------------------------------------------------------------


def dense_forward(
    x: npt.ArrayLike,
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    *,
    out: FloatArray | None = None,
) -> FloatArray:
    """Affine map of every sample.

    ``z = x @ weight.T + bias``

    The product is `numpy.dot`: NumPy's BLAS decides how many threads it uses, not `set_num_threads`, and
    the last bits may depend on that.  Networks train with products of their own, whose bits do not.

    Parameters
    ----------
    x : array_like, shape (n_samples, n_in)
        Mini-batch; float32 stays float32, other real types become float64.
    weight : array_like, shape (n_out, n_in)
        Weights.
    bias : array_like, shape (n_out,), optional
        Bias; None stands for zeros.
    out : ndarray, optional
        C-contiguous array of the shape and dtype of the result, apart from the inputs.

    Returns
    -------
    ndarray, shape (n_samples, n_out)
        z, of the dtype of `x`; `out` if given.

    Raises
    ------
    TypeError
        If an array does not hold real numbers.
    ValueError
        If a shape does not fit or an array is empty.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import dense_forward
    >>> dense_forward(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]]), np.array([0.5]))
    array([[11.5]])
    """
    x = _check.floats("x", x, 2, expected="(n_samples, n_in)")
    weight = _check.floats("weight", weight, 2, dtype=x.dtype, expected="(n_out, n_in)")
    n_out, n_in = weight.shape
    if x.shape[1] != n_in:
        raise ValueError(f"x must have {n_in} features as weight has columns, got shape {x.shape}")
    if bias is not None:
        bias = _check.floats("bias", bias, 1, dtype=x.dtype, shape=(n_out,))
    out = _check.output("out", out, (len(x), n_out), x.dtype)
    _check.apart("out", out, x=x, weight=weight)
    np.dot(x, weight.T, out=out)
    if bias is not None:
        add_bias_kernel(out.size, out, bias)
    return out


def dense_backward(
    dz: npt.ArrayLike, x: npt.ArrayLike, weight: npt.ArrayLike
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Gradients of `dense_forward`.

    ``dx = dz @ weight``, ``dweight = dz.T @ x`` and ``dbias = sum(dz)`` over the rows; the products are
    `numpy.dot`, see `dense_forward`.

    Parameters
    ----------
    dz : array_like, shape (n_samples, n_out)
        Gradient of the loss with respect to z.
    x : array_like, shape (n_samples, n_in)
        Mini-batch given to `dense_forward`; its dtype is that of the results.
    weight : array_like, shape (n_out, n_in)
        Weights.

    Returns
    -------
    dx : ndarray, shape (n_samples, n_in)
        Gradient with respect to `x`.
    dweight : ndarray, shape (n_out, n_in)
        Gradient with respect to `weight`.
    dbias : ndarray, shape (n_out,)
        Gradient with respect to the bias.

    Raises
    ------
    TypeError
        If an array does not hold real numbers.
    ValueError
        If a shape does not fit or an array is empty.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import dense_backward
    >>> dx, dweight, dbias = dense_backward([[2.0]], np.array([[1.0, 3.0]]), [[4.0, 5.0]])
    >>> dx, dweight, dbias
    (array([[ 8., 10.]]), array([[2., 6.]]), array([2.]))
    """
    x = _check.floats("x", x, 2, expected="(n_samples, n_in)")
    weight = _check.floats("weight", weight, 2, dtype=x.dtype, expected="(n_out, n_in)")
    n_out, n_in = weight.shape
    if x.shape[1] != n_in:
        raise ValueError(f"x must have {n_in} features as weight has columns, got shape {x.shape}")
    dz = _check.floats("dz", dz, 2, dtype=x.dtype, shape=(len(x), n_out))
    dx = np.empty_like(x)
    np.dot(dz, weight, out=dx)
    return dx, *parameter_gradients(dz, x)


def parameter_gradients(dz: FloatArray, x: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the gradients of weight and bias alone, of arrays that `dense_backward` would not convert."""
    dbias = np.empty(dz.shape[1], x.dtype)
    column_sums_kernel(dz.size, dz, dbias, np.empty((sums_rows(len(dz)), dz.shape[1])))
    return np.dot(dz.T, x), dbias


# ----------------------------------------------------------------------------------------------
# Layer
# ----------------------------------------------------------------------------------------------


class Dense:
    """An affine layer with its parameters.

    Parameters
    ----------
    n_in, n_out : int
        Numbers of inputs and outputs.
    bias : bool, default True
        Whether there is a bias; in front of a batch norm its beta is used instead.
    init : {"he", "glorot"}, default "he"
        Normal weights of variance ``2 / n_in``, or ``2 / (n_in + n_out)``.
    dtype : {float32, float64}, default float32
        Dtype of the parameters and of the computation.
    seed : int, optional
        Seed of the weights.

    Attributes
    ----------
    weight, dweight : ndarray, shape (n_out, n_in)
        Weights, and their gradient after `backward`.
    bias, dbias : ndarray, shape (n_out,), or None
        Bias, at first 0, and its gradient.

    Raises
    ------
    TypeError
        If a parameter is of the wrong type.
    ValueError
        If a parameter is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import Dense
    >>> layer = Dense(3, 2, seed=0)
    >>> layer
    Dense(3, 2, bias=True, dtype=float32)
    >>> layer.forward(np.ones((4, 3))).shape
    (4, 2)
    >>> layer.backward(np.ones((4, 2))).shape
    (4, 3)
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        bias: bool = True,
        init: Literal["he", "glorot"] = "he",
        dtype: npt.DTypeLike = np.float32,
        seed: int | None = None,
    ) -> None:
        n_in = _check.integer("n_in", n_in, least=1)
        n_out = _check.integer("n_out", n_out, least=1)
        self.dtype = _check.float_dtype("dtype", dtype)
        with_bias = _check.flag("bias", bias)
        fan = n_in if _check.choice("init", init, ("he", "glorot")) == "he" else n_in + n_out
        if seed is not None:
            seed = _check.integer("seed", seed, least=0)
        draws = np.random.default_rng(seed).standard_normal((n_out, n_in))
        self.weight: FloatArray = (draws * np.sqrt(2 / fan)).astype(self.dtype)
        self.dweight: FloatArray = np.zeros_like(self.weight)
        self.bias: FloatArray | None = np.zeros(n_out, self.dtype) if with_bias else None
        self.dbias: FloatArray | None = np.zeros(n_out, self.dtype) if with_bias else None
        self._x: FloatArray | None = None

    def __repr__(self) -> str:
        n_out, n_in = self.weight.shape
        return f"Dense({n_in}, {n_out}, bias={self.bias is not None}, dtype={self.dtype})"

    def parameters(self) -> dict[str, FloatArray]:
        """Return the live arrays ``{"weight": ..., "bias": ...}``; no "bias" if there is none."""
        return {"weight": self.weight} | ({} if self.bias is None else {"bias": self.bias})

    def gradients(self) -> dict[str, FloatArray]:
        """Return the gradients of the last `backward` under the parameters' names."""
        return {"weight": self.dweight} | ({} if self.dbias is None else {"bias": self.dbias})

    def forward(self, x: npt.ArrayLike) -> FloatArray:
        """Map a mini-batch.

        Parameters
        ----------
        x : array_like, shape (n_samples, n_in)
            Mini-batch.  `backward` needs it and has a copy: the array may be filled anew in between.

        Returns
        -------
        ndarray, shape (n_samples, n_out)
            ``x @ weight.T + bias``, of the layer's dtype.

        Raises
        ------
        TypeError
            If `x` does not hold real numbers.
        ValueError
            If the shape does not fit.
        """
        x = _check.floats("x", x, 2, dtype=self.dtype, expected="(n_samples, n_in)")
        z = dense_forward(x, self.weight, self.bias)
        self._x = x.copy()
        return z

    def backward(self, dz: npt.ArrayLike) -> FloatArray:
        """Gradient with respect to the input of the last `forward`; sets `dweight` and `dbias`.

        Parameters
        ----------
        dz : array_like, shape (n_samples, n_out)
            Gradient of the loss with respect to the output.

        Returns
        -------
        ndarray, shape (n_samples, n_in)
            Gradient of the loss with respect to the input.

        Raises
        ------
        TypeError
            If `dz` does not hold real numbers.
        ValueError
            If the shape is not that of the last output.
        RuntimeError
            If `forward` has not been called.
        """
        if self._x is None:
            raise RuntimeError("backward needs a call of forward first")
        dx, dweight, dbias = dense_backward(dz, self._x, self.weight)
        self.dweight[...] = dweight
        if self.dbias is not None:
            self.dbias[...] = dbias
        return dx
