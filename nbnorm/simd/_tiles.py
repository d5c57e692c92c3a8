"""Register tiles: matrices of vectors."""

from __future__ import annotations

from typing import Any

from nbnorm.simd._arithmetic import fma, zeros
from nbnorm.simd._emitted import TileRows, static
from nbnorm.simd._lanes import choose, high_half, low_half
from nbnorm.simd._memory import get, load, store
from nbnorm.simd._tracing import traced


@traced
def tile_zeros(dtype: Any, rows: Any, lanes: Any) -> Any:
    """Return a register tile of zeros.

    Parameters
    ----------
    dtype : dtype
        Type of the elements.
    rows, lanes : int
        Shape, known when the code is compiled.

    Returns
    -------
    tile
        Zeros.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import simd
    >>> len(simd.tile_zeros(np.float32, 4, 16))
    4
    """
    return TileRows(zeros(dtype, lanes) for _ in range(static("rows", rows)))


@traced
def tile_load(x: Any, i: Any, stride: Any, rows: Any, lanes: Any) -> Any:
    """Load a register tile from memory.

    Parameters
    ----------
    x : array or pointer
        C-contiguous array with any number of axes.
    i : int
        Number of the first element, all axes flattened.
    stride : int
        Elements from one row to the next.
    rows, lanes : int
        Shape, known when the code is compiled.

    Returns
    -------
    tile
        Row r begins at element ``i + r * stride``.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import simd
    >>> simd.row(simd.tile_load(np.arange(12.0), 0, 4, 3, 2), 2)
    NumpyVector(array([8., 9.]))
    """
    return TileRows(load(x, i + r * stride, lanes) for r in range(static("rows", rows)))


@traced
def tile_store(x: Any, i: Any, stride: Any, tile: Any) -> None:
    """Store a register tile to memory.

    Parameters
    ----------
    x : array or pointer
        C-contiguous array of the type of the tile's elements.
    i : int
        Number of the first element, all axes flattened.
    stride : int
        Elements from one row to the next.
    tile : tile
        What is stored.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import simd
    >>> x = np.ones((2, 3))
    >>> simd.tile_store(x, 0, 3, simd.tile_zeros(np.float64, 2, 2))
    >>> x
    array([[0., 0., 1.],
           [0., 0., 1.]])
    """
    for r, vector in enumerate(tile):
        store(x, i + r * stride, vector)


@traced
def rank1(tile: Any, a: Any, i: Any, v: Any, stride: Any = 1) -> Any:
    """Add an outer product to a register tile: the step of a matrix product.

    Parameters
    ----------
    tile : tile
        Sums so far, of shape (rows, lanes).
    a : array or pointer
        C-contiguous array that holds the column.
    i : int
        Number of its first element, all axes flattened.
    v : vector
        The row, with as many lanes as the tile.
    stride : int, default 1
        Elements from one element of the column to the next.

    Returns
    -------
    tile
        Row r is ``fma(a[i + r * stride], v, tile[r])``.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import simd
    >>> tile = simd.rank1(simd.tile_zeros(np.float64, 2, 3), np.array([1.0, 5.0]), 0, simd.splat(2.0, 3))
    >>> simd.row(tile, 1)
    NumpyVector(array([10., 10., 10.]))
    """
    return TileRows(fma(get(a, i + r * stride), v, row) for r, row in enumerate(tile))


@traced
def row(tile: Any, r: Any) -> Any:
    """Return one row of a register tile.

    Parameters
    ----------
    tile : tile
        Values.
    r : int
        Row, known when the code is compiled.

    Returns
    -------
    vector
        The row.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import simd
    >>> simd.row(simd.tile_zeros(np.float64, 2, 3), 1)
    NumpyVector(array([0., 0., 0.]))
    """
    return tile[static("r", r)]


@traced
def tile_of(*rows: Any) -> Any:
    """Return the register tile with these rows.

    Parameters
    ----------
    *rows : vector
        Rows of one type.

    Returns
    -------
    tile
        The rows.

    Examples
    --------
    >>> from nbnorm import simd
    >>> len(simd.tile_of(simd.splat(1.0, 4), simd.splat(2.0, 4)))
    2
    """
    return TileRows(rows)


@traced
def tile_add(a: Any, b: Any) -> Any:
    """Add two register tiles.

    Parameters
    ----------
    a, b : tile
        Tiles of one shape.

    Returns
    -------
    tile
        ``a + b``.

    Examples
    --------
    >>> from nbnorm import simd
    >>> one = simd.tile_of(simd.splat(1.0, 2), simd.splat(2.0, 2))
    >>> simd.row(simd.tile_add(one, one), 1)
    NumpyVector(array([4., 4.]))
    """
    return TileRows(x + y for x, y in zip(a, b, strict=True))


@traced
def row_sums(tile: Any) -> Any:
    """Return the sum of each row of a register tile, as a vector of one number for each row.

    The order depends on the shape alone: halves of a row onto halves down to as many lanes as rows, then
    neighbours onto neighbours.

    Parameters
    ----------
    tile : tile
        A power of two of rows, and of lanes, at least as many as rows.

    Returns
    -------
    vector
        With as many lanes as the tile has rows.

    Examples
    --------
    >>> from nbnorm import simd
    >>> simd.row_sums(simd.tile_of(simd.splat(1.0, 4), simd.splat(2.0, 4)))
    NumpyVector(array([4., 8.]))
    """
    rows, lanes = list(tile), tile[0].lanes
    if len(rows) & (len(rows) - 1) or lanes & (lanes - 1) or lanes < len(rows):
        raise TypeError(f"a tile of {len(rows)} rows of {lanes} lanes has no sums of rows")
    while lanes > len(rows):
        rows = [low_half(x) + high_half(x) for x in rows]
        lanes //= 2
    step = 1
    while len(rows) > 1:  # lanes with bit `step` go on with the second vector of a pair
        keep = [k if not k & step else lanes + k for k in range(lanes)]
        other = [k + step if not k & step else lanes + k - step for k in range(lanes)]
        pairs = zip(rows[0::2], rows[1::2], strict=True)
        rows = [choose(x, y, keep) + choose(x, y, other) for x, y in pairs]
        step *= 2
    return rows[0]


@traced
def transpose(tile: Any) -> Any:
    """Transpose a square register tile, by shuffles of its rows.

    Parameters
    ----------
    tile : tile
        As many rows as lanes, a power of two.

    Returns
    -------
    tile
        Row r holds lane r of every row.

    Examples
    --------
    >>> from nbnorm import simd
    >>> simd.row(simd.transpose(simd.tile_of(simd.splat(1.0, 2), simd.splat(2.0, 2))), 0)
    NumpyVector(array([1., 2.]))
    """
    rows, size = list(tile), len(tile)
    if size & (size - 1) or rows[0].lanes != size:
        raise TypeError(f"a tile of {size} rows of {rows[0].lanes} lanes is no square of a power of two")
    half = 1
    while half < size:  # exchange the off-diagonal blocks, in growing size
        upper = [k if not k & half else size + k - half for k in range(size)]
        lower = [k + half if not k & half else size + k for k in range(size)]
        for i in range(size):
            if not i & half:
                a, b = rows[i], rows[i + half]
                rows[i], rows[i + half] = choose(a, b, upper), choose(a, b, lower)
        half *= 2
    return TileRows(rows)
