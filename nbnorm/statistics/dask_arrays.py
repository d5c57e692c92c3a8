"""Statistics and standardization of Dask arrays and dataframes, partition by partition.

Every partition is read where it is, by the same kernels; what travels is ten numbers a feature.  The
partitions' moments are joined in pairs, in order, so the result does not depend on who finished first.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nbnorm import _check
from nbnorm.statistics.moments import Moments
from nbnorm.statistics.standardize import Standardizer, result_dtype


def _dask() -> Any:
    try:
        import dask
        import dask.array
    except ImportError:
        raise ImportError('Dask collections need Dask: pip install "nbnorm[dask]"') from None
    return dask


def is_dask(x: object) -> bool:
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


def _is_array(x: Any) -> bool:
    return hasattr(x, "rechunk")


def _one_block_wide(x: Any) -> Any:
    if x.ndim != 2:
        raise ValueError(f"x must have shape (n_samples, n_features), got shape {x.shape}")
    return x.rechunk({1: -1})


def _partition(rows: Any, weights: Any, nan: str, extremes: bool) -> Moments:
    result = Moments(nan=nan, extremes=extremes)
    if len(rows):
        result.update(rows, weights=weights)
    else:  # partitions without rows have columns, of whatever type
        result.feature_names = _check.header("x", rows, None)[0]
    return result


def _joined(a: Moments, b: Moments) -> Moments:
    return a + b


def moments(x: Any, *, weights: Any = None, nan: str = "propagate", extremes: bool = True) -> Moments:
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
    dask = _dask()
    if not is_dask(x):
        raise TypeError(f"x must be a Dask array or dataframe, got {type(x).__name__}")
    if _is_array(x):
        x = _one_block_wide(x)
    elif weights is not None:
        raise ValueError("weights must be None for a Dask dataframe")
    parts = np.ravel(np.asarray(x.to_delayed(), dtype=object)).tolist()
    masses: list[Any] = [None] * len(parts)
    if weights is not None:
        if getattr(weights, "shape", None) != (x.shape[0],):
            weights = np.asarray(weights)
            if weights.shape != (x.shape[0],):
                raise ValueError(f"weights must have shape ({x.shape[0]},), got shape {weights.shape}")
        masses = dask.array.asarray(weights).rechunk((x.chunks[0],)).to_delayed().ravel().tolist()
    gather, join = dask.delayed(_partition, pure=False), dask.delayed(_joined, pure=False)
    level = [gather(part, mass, nan, extremes) for part, mass in zip(parts, masses, strict=True)]
    while len(level) > 1:
        pairs = [join(a, b) for a, b in zip(level[::2], level[1::2], strict=False)]
        level = pairs + level[2 * len(pairs) :]
    result: Moments = level[0].compute()
    if result.n_features is None:
        raise ValueError("x must not be empty, got a Dask collection without rows")
    return result


def _transformed(rows: Any, standardizer: Standardizer, inverse: bool) -> Any:
    """Standardize one partition; an empty one stays empty."""
    apply = standardizer.inverse_transform if inverse else standardizer.transform
    labels = _check.labels_of(rows)
    if len(rows):
        result = apply(rows)
    else:
        data = rows if labels is None else _check.unboxed(rows)
        dtype = np.dtype(np.float64) if data is None else result_dtype(data.dtype)
        result = np.empty((0, standardizer.n_features_in_), dtype)
    if labels is None:
        return result
    order = _check.header("x", rows, standardizer.moments_.feature_names)[1]
    labels = labels if order is None else [labels[j] for j in order]
    return type(rows)(result, index=rows.index, columns=labels)


def transform(standardizer: Standardizer, x: Any, *, inverse: bool = False) -> Any:
    """Return a Dask collection that is standardized when it is computed.

    Parameters
    ----------
    standardizer : Standardizer
        Fitted.
    x : dask.array.Array of shape (n_samples, n_features), or dask.dataframe.DataFrame
    inverse : bool, default: False
        Undo the standardization instead.

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
    >>> from nbnorm import Standardizer
    >>> x = array.from_array([[0.0], [4.0]])
    >>> transform(Standardizer().fit(x), x).compute()
    array([[-1.],
           [ 1.]])
    """
    _dask()
    if not is_dask(x):
        raise TypeError(f"x must be a Dask array or dataframe, got {type(x).__name__}")
    _check.header("x", x, standardizer.moments_.feature_names)
    standardizer.same_width("x", x.shape[1])
    if _is_array(x):
        x = _one_block_wide(x)
        dtype = result_dtype(x.dtype)
        return x.map_blocks(_transformed, standardizer, inverse, dtype=dtype, meta=np.empty((0, 0), dtype))
    return x.map_partitions(
        _transformed, standardizer, inverse, meta=_transformed(x._meta, standardizer, inverse)
    )
