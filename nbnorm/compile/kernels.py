"""Decorators that make every compiled function of the package; no other module imports `njit`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numba
from numba import config

from nbnorm.compile.cache import _Cache
from nbnorm.compile.clock import _compilation, compiling
from nbnorm.compile.passes import code_of_the_package
from nbnorm.compile.threads import _launch


def _compile(
    function: Callable[..., Any],
    *,
    parallel: bool = False,
    inline: str = "never",
    cache: bool = True,
    allocates: bool = False,
    linked: bool = False,
    **more: Any,
) -> Any:
    if not (parallel or allocates):
        # References to arrays are not counted: the caller holds them, and counting is code to compile too.
        # So no array can be returned either.
        more["_nrt"] = False
    options: dict[str, Any] = {
        # Kernels hold no Python objects; other Python threads go on while they run, unless they must not.
        "nogil": True,
        "parallel": parallel,
        # No fast-math flags: each of them gives up exact order, NaN or infinity somewhere.
        "fastmath": False,
        # Division by zero gives inf or nan as in NumPy and costs no branch.
        "error_model": "numpy",
        "inline": inline,
        **more,
    }
    dispatcher = numba.njit(**options)(function)
    if config.DISABLE_JIT:
        return dispatcher
    if cache:
        # Numba's key leaves the options out, so twins of one body would share an entry.
        stamp = f"{parallel}|{inline}|{config.OPT!s}|{sorted(more.items())}"
        dispatcher._cache = _Cache(function, stamp)
    compile_ = dispatcher.compile

    def timed(signature: Any) -> Any:
        with compiling(), code_of_the_package(function.__qualname__ if linked else None):
            if not cache:
                _compilation.begins(cached=False)
                return compile_(signature)
            try:
                return compile_(signature)
            finally:
                dispatcher._cache.release()

    dispatcher.compile = timed
    return dispatcher


def kernel(
    function: Callable[..., Any] | None = None,
    *,
    inline: str = "never",
    cache: bool = True,
    nogil: bool = True,
    allocates: bool = False,
    first_class: bool = True,
) -> Any:
    """Decorate a serial compiled function: lazily compiled, cached on disk, without the GIL.

    With ``nogil=False`` it keeps the GIL, which protects what it reads from other Python threads.

    A kernel that calls a user's function is made with ``cache=False``: its code is that of this
    process alone.  One that makes arrays or returns any, itself or in a function of NumPy, says
    ``allocates=True``.  With ``first_class=False`` compiled code cannot use it as a value, and has less to
    compile.
    """
    if function is None:
        return functools.partial(
            kernel, inline=inline, cache=cache, nogil=nogil, allocates=allocates, first_class=first_class
        )
    more: dict[str, Any] = {"nogil": nogil}
    if not first_class:
        more["no_cfunc_wrapper"] = True
    # what a user's function does with arrays is not known
    return _compile(function, inline=inline, cache=cache, allocates=allocates or not cache, **more)


def inner_kernel(function: Callable[..., Any] | None = None, *, allocates: bool = False) -> Any:
    """Decorate a kernel that only compiled code calls, by its address or as part of users' functions.

    It has no way in from Python: to unpack tens of arrays is code that takes time to compile as well.  One
    that makes arrays, or returns any, says ``allocates=True``.
    """
    if function is None:
        return functools.partial(inner_kernel, allocates=allocates)
    return _without_python(function, allocates=allocates)


def linked_kernel(function: Callable[..., Any]) -> Any:
    """Decorate a function whose compiled code becomes part of the kernels that call it by its name.

    It has no machine code of its own, no address, and nothing in the cache but its callers.
    """
    return _without_python(function, cache=False, linked=True)


def _without_python(function: Callable[..., Any], **options: Any) -> Any:
    """Make a kernel that Python cannot call."""
    dispatcher = _compile(function, no_cpython_wrapper=True, no_cfunc_wrapper=True, **options)
    if not config.DISABLE_JIT:

        def add_overload(result: Any) -> None:
            # Numba's own would offer Python the missing way in, and the process would crash.
            dispatcher.overloads[tuple(result.signature.args)] = result

        def refuse(*args: Any, **kwargs: Any) -> Any:
            raise TypeError(f"{function.__name__} can only be called by compiled code")

        dispatcher.add_overload, dispatcher._compile_for_args = add_overload, refuse
    return dispatcher


def callback(function: Callable[..., Any], signature: Any) -> int:
    """Compile a function that calls a user's own and return its address; not cached on disk."""
    with compiling():
        _compilation.begins(cached=False)
        compiled = numba.cfunc(signature, error_model="numpy")(function)
    _callbacks.append(compiled)
    return int(compiled.address)


# What has an address must stay in memory.
_callbacks: list[Any] = []


class ParallelKernel:
    """A body with `numba.prange` loops, compiled serially and in parallel on first use.

    `serial` and `parallel` are the two dispatchers; calling the object itself with the amount of
    work first picks one of them.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self.serial = _compile(function)
        self.parallel = _compile(function, parallel=True)

    def __call__(self, work: int, *args: Any) -> Any:
        """Run on `args`; `work` is the number of array elements read or written."""
        return _launch(self, work, args)


def parallel_kernel(function: Callable[..., Any]) -> ParallelKernel:
    """Decorate a body with `prange` loops over fixed blocks; see `ParallelKernel`."""
    return ParallelKernel(function)
