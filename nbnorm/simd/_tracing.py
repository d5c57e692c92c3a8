"""Functions that become part of the compiled code that calls them."""

from __future__ import annotations

import builtins
import functools
from collections.abc import Callable
from typing import Any, TypeVar

from nbnorm.simd import _emitted, _numpy
from nbnorm.simd._emitted import emission
from nbnorm.simd._numpy import NumpyVector

Function = TypeVar("Function", bound=Callable[..., Any])


def traced(function: Function) -> Function:
    """Make a function of vectors, tiles and memory part of the compiled code that calls it.

    Its body runs once while the caller is compiled, and each operation in it becomes an instruction.  So it
    may use everything in `nbnorm.simd`, other traced functions, and loops over what is known then, such as
    the rows of a tile or ``range(4)``; ``if`` and ``while`` cannot depend on values of the running program,
    which is what `where` is for.  Called from Python, it works on vectors that are NumPy arrays.

    Numbers of different type meet as in NumPy, but constants written in Python take the type of what they
    meet: ``2 * x`` is float32 if x is.

    Parameters
    ----------
    function : function
        It takes and returns values, tuples of values, constants or nothing.

    Returns
    -------
    function
        To be called from ``@njit`` code, from other traced functions and from Python.

    See Also
    --------
    elementwise : for functions of values alone, which then work on NumPy's arrays as well.

    Examples
    --------
    >>> import numpy as np
    >>> from numba import njit
    >>> from nbnorm import simd
    >>> @simd.traced
    ... def dot4(x, y, i):
    ...     return simd.sum(simd.load(x, i, 4) * simd.load(y, i, 4))
    >>> @njit
    ... def dot(x, y):
    ...     total = 0.0
    ...     for i in range(0, x.size, 4):
    ...         total += dot4(x, y, i)
    ...     return total
    >>> x = np.arange(8.0)
    >>> dot(x, x)
    140.0
    >>> float(dot4(x, x, 0))
    14.0
    """
    _emitted.compiles(function, function)
    return function


def elementwise(function: Function) -> Function:
    """Make a function of numbers or vectors serve compiled code, and NumPy's arrays in Python.

    It is traced, see `traced`; given numbers it returns numbers, given vectors vectors.  Called from Python
    it takes numbers and arrays, and returns the same.

    Parameters
    ----------
    function : function
        Formula whose arguments and results are values.

    Returns
    -------
    function
        To be called from ``@njit`` code, from other such functions and from Python.

    Examples
    --------
    >>> import numpy as np
    >>> from numba import njit
    >>> from nbnorm import simd
    >>> @simd.elementwise
    ... def hinge(x):
    ...     return simd.max(1 - x, 0)
    >>> @njit
    ... def hinges(x, out):
    ...     for i in range(0, x.size, 4):
    ...         simd.store(out, i, hinge(simd.load(x, i, 4)))
    >>> x = np.array([-1.0, 0.5, 1.0, 2.0])
    >>> hinge(x)
    array([2. , 0.5, 0. , 0. ])
    >>> out = np.empty(4)
    >>> hinges(x, out)
    >>> out
    array([2. , 0.5, 0. , 0. ])
    """

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if emission() is not None or builtins.any(isinstance(x, NumpyVector) for x in args):
            return function(*args, **kwargs)
        return _plain(function(*_numpy.vectors(args), **kwargs))

    _emitted.compiles(call, function)
    return call  # type: ignore[return-value]


def _plain(result: Any) -> Any:
    """Return arrays and numbers instead of vectors."""
    if isinstance(result, NumpyVector):
        return result.values[()]
    return tuple(_plain(x) for x in result) if isinstance(result, tuple) else result


def operation(emit: Callable[..., Any]) -> Callable[[Function], Function]:
    """Decorate the Python version of a function whose compiled version is another traced function.

    Parameters
    ----------
    emit : function
        What compiled code calls; it takes the same arguments and is traced, see `traced`.

    Returns
    -------
    function
        Decorator.

    Examples
    --------
    >>> import math
    >>> from numba import njit
    >>> from nbnorm import simd
    >>> def compiled(x):
    ...     return simd.exp(x)
    >>> @simd.operation(compiled)
    ... def exponential(x):
    ...     return math.exp(x)
    >>> @njit
    ... def compute(x):
    ...     return exponential(x)
    >>> compute(0.0), exponential(0.0)
    (1.0, 1.0)
    """

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            return (function if emission() is None else emit)(*args, **kwargs)

        _emitted.compiles(call, emit)
        return call  # type: ignore[return-value]

    return decorate
