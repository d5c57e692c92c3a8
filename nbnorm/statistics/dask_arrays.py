"""Statistics and standardization of Dask arrays and dataframes, partition by partition.

Every partition is read where it is, by the same kernels; what travels is ten numbers a feature.  The
partitions' moments are joined in pairs, in order, so the result does not depend on who finished first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nbnorm import _check
from nbnorm._types import Array, DaskCollection
from nbnorm.statistics.moments import Moments, Nan
from nbnorm.statistics.reading import result_dtype

if TYPE_CHECKING:
    from typing_extensions import TypeIs


def _dask() -> Any:
    try:
        import dask
        import dask.array
    except ImportError:
        raise ImportError('Dask collections need Dask: pip install "nbnorm[dask]"') from None
    return dask


def is_dask(x: object) -> TypeIs[DaskCollection]:
    """Return whether `x` is a Dask array or dataframe, without importing Dask.

    Parameters
    ----------
    x : object

    Returns
    -------
    bool

    Examples
    --------
    >>> is_dask([[1.0]])
    False
    """
    return type(x).__module__.partition(".")[0] in ("dask", "dask_expr") and hasattr(x, "to_delayed")


def _collection(x: object) -> Any:
    """Return `x` if it is a Dask collection."""
    if not is_dask(x):
        raise TypeError(f"x must be a Dask array or dataframe, got {type(x).__name__}")
    return x


def _is_array(x: Any) -> bool:
    return hasattr(x, "rechunk")


def _one_block_wide(x: Any) -> Any:
    if x.ndim != 2:
        raise ValueError(f"x must have shape (n_samples, n_features), got shape {x.shape}")
    return x.rechunk({1: -1})


def _partition(rows: Any, weights: Any, nan: Nan, extremes: bool) -> Moments:
    result = Moments(nan=nan, extremes=extremes)
    if len(rows):
        result.update(rows, weights=weights)
    else:  # partitions without rows have columns, of whatever type
        result.feature_names = _check.header("x", rows, None)[0]
    return result


def _joined(a: Moments, b: Moments) -> Moments:
    return a + b


def moments(
    x: DaskCollection,
    *,
    weights: npt.ArrayLike | DaskCollection | None = None,
    nan: Nan = "propagate",
    extremes: bool = True,
) -> Moments:
    """Return the moments of a Dask array or dataframe.

    Parameters
    ----------
    x : dask.array.Array of shape (n_samples, n_features), or dask.dataframe.DataFrame
    weights : array_like or dask.array.Array of shape (n_samples,), optional
        Finite and not negative; only for arrays whose chunks have known sizes.
    nan, extremes
        As for `nbnorm.moments`.

    Returns
    -------
    Moments
        Computed, by the workers of the current Dask scheduler.

    Raises
    ------
    TypeError
        If `x` is not a Dask collection, or does not hold real numbers.
    ValueError
        As `nbnorm.moments` does.
    ImportError
        If Dask is missing.

    Examples
    --------
    >>> import pytest
    >>> array = pytest.importorskip("dask.array")
    >>> moments(array.ones((6, 2), chunks=(2, 1))).mean
    array([1., 1.])
    """
    dask, data = _dask(), _collection(x)
    if _is_array(data):
        data = _one_block_wide(data)
    elif weights is not None:
        raise ValueError("weights must be None for a Dask dataframe")
    parts = np.ravel(np.asarray(data.to_delayed(), dtype=object)).tolist()
    masses: list[Any] = [None] * len(parts)
    if weights is not None:
        if getattr(weights, "shape", None) != (data.shape[0],):
            weights = np.asarray(weights)
            if weights.shape != (data.shape[0],):
                raise ValueError(f"weights must have shape ({data.shape[0]},), got shape {weights.shape}")
        masses = dask.array.asarray(weights).rechunk((data.chunks[0],)).to_delayed().ravel().tolist()
    gather, join = dask.delayed(_partition, pure=False), dask.delayed(_joined, pure=False)
    level = [gather(part, mass, nan, extremes) for part, mass in zip(parts, masses, strict=True)]
    while len(level) > 1:
        pairs = [join(a, b) for a, b in zip(level[::2], level[1::2], strict=False)]
        level = pairs + level[2 * len(pairs) :]
    result: Moments = level[0].compute()
    if result.n_features is None:
        raise ValueError("x must not be empty, got a Dask collection without rows")
    return result


def _transformed(rows: Any, apply: Callable[[Any], Any], names: list[str] | None, width: int) -> Any:
    """Standardize one partition; an empty one stays empty."""
    labels = _check.labels_of(rows)
    if len(rows):
        result = apply(rows)
    else:
        data = rows if labels is None else _check.unboxed(rows)
        dtype = np.dtype(np.float64) if data is None else result_dtype(data.dtype)
        result = np.empty((0, width), dtype)
    if labels is None:
        return result
    order = _check.header("x", rows, names)[1]
    labels = labels if order is None else [labels[j] for j in order]
    return type(rows)(result, index=rows.index, columns=labels)


def transform(
    x: DaskCollection, apply: Callable[[Any], Array], names: list[str] | None, width: int
) -> DaskCollection:
    """Return a Dask collection that is standardized when it is computed.

    Parameters
    ----------
    x : dask.array.Array of shape (n_samples, n_features), or dask.dataframe.DataFrame
    apply : callable
        ``transform`` or ``inverse_transform`` of a fitted standardizer, for partitions with rows.
    names : list of str or None
        Names of the features.
    width : int
        Number of the features.

    Returns
    -------
    dask.array.Array or dask.dataframe.DataFrame
        Lazy, of the shape of `x`; the columns of a dataframe in the order in which they were fitted.

    Raises
    ------
    TypeError
        If `x` is not a Dask collection.
    ValueError
        If the number or the names of the features are not the fitted ones.
    ImportError
        If Dask is missing.

    Examples
    --------
    >>> import pytest
    >>> array = pytest.importorskip("dask.array")
    >>> transform(array.from_array([[0.0], [4.0]]), lambda rows: rows / 2.0, None, 1).compute()
    array([[0.],
           [2.]])
    """
    _dask()
    data = _collection(x)
    _check.header("x", data, names)
    if data.shape[1] != width:
        raise ValueError(f"x must have {width} features as fitted, got {data.shape[1]}")
    result: DaskCollection
    if _is_array(data):
        data = _one_block_wide(data)
        dtype = result_dtype(data.dtype)
        meta = np.empty((0, 0), dtype)
        result = data.map_blocks(_transformed, apply, names, width, dtype=dtype, meta=meta)
    else:
        meta = _transformed(data._meta, apply, names, width)
        result = data.map_partitions(_transformed, apply, names, width, meta=meta)
    return result
