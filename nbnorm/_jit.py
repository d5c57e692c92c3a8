"""Compile options, the compile cache and the thread policy: the only place that knows them.

Every compiled function of the package is made by `kernel`, `inner_kernel` or `parallel_kernel`.
No other module imports `njit`.

Numba promises nothing about these parts of it, so `pyproject.toml` allows only releases that have been tried:

- here, ``numba.core.caching`` (`FunctionCache`, `CompileResultCacheImpl`, `_CacheLocator`) and
  ``numba.core.serialize.dumps``, for a cache whose files are bound to the whole package; a dispatcher's
  ``_cache``, ``add_overload`` and ``_compile_for_args``; ``numba.np.ufunc.parallel._is_initialized``, which
  tells whether threads have been started;
- in `_signatures`, that a dispatcher's ``compile`` is asked for every new signature, and
  ``numba.core.sigutils``;
- in `_leaves`, the code generator of ``numba.core.registry.cpu_target`` with its ``magic_tuple``, libraries
  and addresses, ``numba.core.compiler_lock``, a dispatcher's ``overloads``, and the calling convention
  ``call_conv``;
- in `_check`, the class ``numba.core.dispatcher.Dispatcher``;
- where instructions are emitted, ``numba.core.cgutils`` and in `simd` and `_microkernels`
  ``numba.np.arrayobj``, beside the documented ``numba.extending`` and llvmlite's ``ir``;
- in `simd`, ``numba.core.typing.templates`` (`AbstractTemplate`, `infer`, `infer_global`, `signature`),
  ``numba.core.registry.cpu_target`` and ``numba.np.numpy_support``.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import pickle
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba import config
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator
from numba.core.serialize import dumps

PACKAGE = Path(__file__).resolve().parent

# ----------------------------------------------------------------------------------------------
# Cache
# ----------------------------------------------------------------------------------------------


@functools.cache
def package_digest() -> str:
    """Digest of every source file of the package and of the Python and Numba versions.

    Numba's own stamp covers only the file in which a function stands, so a changed callee in
    another file would run stale machine code.  The digest names the cache folder instead.
    """
    digest = hashlib.sha256(f"{sys.version}|{numba.__version__}|{np.__version__}".encode())
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(str(path.relative_to(PACKAGE)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:20]


# Now, while the files are those that this process imports: an upgrade beside a running process must
# not let it store old code under the new version's name.  It takes 3 ms.
package_digest()


def _user_cache() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _cache_roots() -> Iterator[Path]:
    """Places for compiled code, the preferred one first."""
    if config.CACHE_DIR:
        yield Path(config.CACHE_DIR) / "nbnorm"
        return
    yield PACKAGE / "__pycache__" / "jit"
    with contextlib.suppress(RuntimeError):  # no home directory
        yield _user_cache() / "nbnorm" / "jit"


@functools.cache
def cache_folder() -> Path | None:
    """Folder of the compiled code of this very version, or None where nothing can be written."""
    for root in _cache_roots():
        folder = root / package_digest()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError:
            continue
        _drop_other_versions(root, folder)
        return folder
    return None


def _drop_other_versions(root: Path, keep: Path) -> None:
    """Remove the code of versions whose folder was last used more than 30 days before this one's."""
    with contextlib.suppress(OSError):
        os.utime(keep)
        limit = keep.stat().st_mtime - 30 * 86400
        for folder in root.iterdir():
            if folder != keep and folder.is_dir() and folder.stat().st_mtime < limit:
                for file in folder.iterdir():
                    file.unlink()
                folder.rmdir()


class _Locator(_CacheLocator):
    """Points Numba at `cache_folder`."""

    def __init__(self, py_func: Callable[..., Any], py_file: str) -> None:
        self._py_file = py_file
        self._line = py_func.__code__.co_firstlineno

    def ensure_cache_path(self) -> None:
        """Do nothing: `CodeFiles` finds out by itself whether it can write."""

    def get_cache_path(self) -> str:
        return str(cache_folder())

    def get_source_stamp(self) -> str:
        return package_digest()

    def get_disambiguator(self) -> str:
        return str(self._line)

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> _Locator:
        return cls(py_func, py_file)


class _Impl(CompileResultCacheImpl):
    _locator_classes = [_Locator]  # noqa: RUF012  the base class's attribute

    def __init__(self, py_func: Callable[..., Any]) -> None:
        # NUMBA_CACHE_LOCATOR_CLASSES would put another locator in front of ours.
        chosen, config.CACHE_LOCATOR_CLASSES = getattr(config, "CACHE_LOCATOR_CLASSES", ""), ""
        try:
            super().__init__(py_func)
        finally:
            config.CACHE_LOCATOR_CLASSES = chosen


class CodeFiles:
    """One file for each compiled signature; no index that two processes could overwrite.

    The file's name is the digest of the whole key and the key is stored inside, so a file can
    only ever be taken for what it is.  Anything unreadable counts as absent and is replaced.
    """

    def __init__(self, base: str, options: str) -> None:
        self._base = base
        self._options = options

    def _path(self, key: object) -> Path | None:
        folder = cache_folder()
        if folder is None:
            return None
        name = hashlib.sha256(f"{self._options}|{key!s}".encode()).hexdigest()[:24]
        return folder / f"{self._base}-{name}.nbc"

    def load(self, key: object) -> Any:
        """Return what is stored under `key`; None means that the caller has to compile."""
        data = self._read(key)
        if data is None:
            _compilation.begins()
        return data

    def _read(self, key: object) -> Any:
        path = self._path(key)
        if path is None:
            return None
        try:
            blob = path.read_bytes()
            digest, body = blob[:32], blob[32:]
            if hashlib.sha256(body).digest() != digest:
                return None
            stored, data = pickle.loads(body)
        except Exception:  # missing, truncated, foreign: compile again
            return None
        return data if stored == str(key) else None

    def save(self, key: object, data: object) -> None:
        path = self._path(key)
        if path is None:
            return
        body = dumps((str(key), data))
        try:
            handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(hashlib.sha256(body).digest() + body)
                os.replace(temporary, path)
            except BaseException:
                os.unlink(temporary)
                raise
        except OSError:  # a full disk or a folder gone meanwhile: the code stays in memory
            return

    def flush(self) -> None:
        folder = cache_folder()
        if folder is not None:
            for path in folder.glob(f"{self._base}-*.nbc"):
                path.unlink(missing_ok=True)


class _Cache(FunctionCache):
    _impl_class = _Impl

    def __init__(self, py_func: Callable[..., Any], options: str) -> None:
        # `cache_folder` is asked only when something is compiled: importing must not touch disks.
        self._name = repr(py_func)
        self._py_func = py_func
        self._impl = self._impl_class(py_func)
        self._options = options
        self._cache_file = CodeFiles(self._impl.filename_base, options)
        self.enable()

    @property
    def cache_path(self) -> str:
        return str(cache_folder())


# ----------------------------------------------------------------------------------------------
# Compilation
# ----------------------------------------------------------------------------------------------


class _Compilation(threading.local):
    """What the present thread compiles, and how long it has done so."""

    begun: float | None = None  # when its outermost compilation began, if it is in one
    fresh = False  # whether that one had to compile, or has found all code in the cache
    seconds = 0.0

    def begins(self, cached: bool = True) -> None:
        """Note that code is missing; the first time in a process, say so where somebody wants to know."""
        global _announce
        self.fresh = True
        call = _announce
        if cached and call is not None:
            _announce = None
            call(cache_folder() is not None)


_compilation = _Compilation()
_announce: Callable[[bool], None] | None = None


@contextlib.contextmanager
def announced(call: Callable[[bool], None]) -> Iterator[None]:
    """Within the block, call `call` once if code has to be compiled because it is not in the cache.

    Its argument says whether the code can be kept for the next time.
    """
    global _announce
    before, _announce = _announce, call
    try:
        yield
    finally:
        _announce = before


def compile_seconds() -> float:
    """Return the seconds that this thread has compiled code for; what is in the cache takes none."""
    return _compilation.seconds


def clock() -> float:
    """Return the time in seconds, compilation by this thread left out."""
    return time.perf_counter() - _compilation.seconds


@contextlib.contextmanager
def compiling() -> Iterator[None]:
    """Take the time of a compilation, or of a look into the cache, and hold interrupts back meanwhile."""
    if _compilation.begun is not None:  # a function that the one being compiled calls
        yield
        return
    _compilation.begun, _compilation.fresh = time.perf_counter(), False
    try:
        with _held_back():
            yield
    finally:
        if _compilation.fresh:
            _compilation.seconds += time.perf_counter() - _compilation.begun
        _compilation.begun = None


@contextlib.contextmanager
def _held_back() -> Iterator[None]:
    """Let the handlers of signals that end a program wait for the end of the block.

    Amid a compilation the exception that a handler raises may come up in a callback of LLVM, which can
    only drop it, or leave a function half known to Numba.  A second signal does not wait.
    """
    if threading.current_thread() is not threading.main_thread():  # handlers run in the main thread
        yield
        return
    handlers: dict[int, Callable[..., Any]] = {}
    arrived: list[int] = []

    def note(number: int, frame: Any) -> None:
        if number in arrived:
            handlers[number](number, frame)
        else:
            arrived.append(number)

    for taken in (signal.SIGINT, signal.SIGTERM):
        handler = signal.getsignal(taken)
        if callable(handler):  # neither ignored nor left to the system
            handlers[taken] = handler
            signal.signal(taken, note)
    try:
        yield
    finally:
        for number, handler in reversed(handlers.items()):
            signal.signal(number, handler)
        for number in arrived:
            handlers[number](number, None)


def _compile(
    function: Callable[..., Any], parallel: bool, inline: str, cache: bool = True, **more: Any
) -> Any:
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
        with compiling():
            if not cache:
                _compilation.begins(cached=False)
            return compile_(signature)

    dispatcher.compile = timed
    return dispatcher


def kernel(
    function: Callable[..., Any] | None = None,
    *,
    inline: str = "never",
    cache: bool = True,
    nogil: bool = True,
) -> Any:
    """Decorate a serial compiled function: lazily compiled, cached on disk, without the GIL.

    With ``nogil=False`` it keeps the GIL, which protects what it reads from other Python threads.

    A kernel that calls a user's function is made with ``cache=False``: its code is that of this
    process alone.
    """
    if function is None:
        return functools.partial(kernel, inline=inline, cache=cache, nogil=nogil)
    return _compile(function, False, inline, cache, nogil=nogil)


def inner_kernel(function: Callable[..., Any]) -> Any:
    """Decorate a kernel that only compiled code calls, directly or by its address.

    It has no way in from Python: to unpack tens of arrays is code that takes time to compile as well.
    """
    dispatcher = _compile(function, False, "never", no_cpython_wrapper=True)
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
        self.serial = _compile(function, False, "never")
        self.parallel = _compile(function, True, "never")

    def __call__(self, work: int, *args: Any) -> Any:
        """Run on `args`; `work` is the number of array elements read or written."""
        return _launch(self, work, args)


def parallel_kernel(function: Callable[..., Any]) -> ParallelKernel:
    """Decorate a body with `prange` loops over fixed blocks; see `ParallelKernel`."""
    return ParallelKernel(function)


# ----------------------------------------------------------------------------------------------
# Threads
# ----------------------------------------------------------------------------------------------

# Elements below which a parallel region is not worth it.  A region costs 1-2 us with OpenMP and TBB
# and about 100 us with Numba's workqueue, an element about 0.3 ns; but the parallel twin also has to
# be compiled, which takes seconds, so small work is left to the serial one.
_WORK = {"omp": 131_072, "tbb": 131_072, "workqueue": 2_000_000}

_workqueue_lock = threading.Lock()
_threads: int | None = None
_forked = False


def _limit() -> int:
    """Threads that the environment allows."""
    limit = int(config.NUMBA_NUM_THREADS)
    with contextlib.suppress(ValueError):
        limit = min(limit, int(os.environ.get("OMP_NUM_THREADS", "").split(",")[0]))
    return max(limit, 1)


# Read once: Dask, for one, changes OMP_NUM_THREADS in its own process to start workers with it.
MOST_THREADS = _limit()


def get_num_threads() -> int:
    """Return the number of threads that nbnorm uses at most.

    Returns
    -------
    int
        The number given to `set_num_threads`, otherwise what ``NUMBA_NUM_THREADS``,
        ``OMP_NUM_THREADS`` and the processor allow.  A smaller ``numba.set_num_threads`` in the
        calling thread is respected.

    Examples
    --------
    >>> import nbnorm
    >>> nbnorm.get_num_threads() >= 1
    True
    """
    return min(_most(), int(numba.get_num_threads())) if _launched() else _most()


def _most() -> int:
    """Threads that the environment, `set_num_threads` and `thread_limit` allow."""
    most = MOST_THREADS if _threads is None else _threads
    return most if _limited.threads is None else min(most, _limited.threads)


class _Limited(threading.local):
    threads: int | None = None


_limited = _Limited()


@contextlib.contextmanager
def thread_limit(n: int) -> Iterator[None]:
    """Let the calling Python thread use at most `n` threads."""
    before, _limited.threads = _limited.threads, n
    try:
        yield
    finally:
        _limited.threads = before


def set_num_threads(n: int | None) -> None:
    """Set the number of threads that nbnorm uses at most, in the whole process.

    Results do not depend on it, to the last bit.

    Parameters
    ----------
    n : int or None
        Between 1 and the number that ``NUMBA_NUM_THREADS``, ``OMP_NUM_THREADS`` and the processor
        allowed when the package was imported; None restores the default.

    Raises
    ------
    TypeError
        If `n` is not an integer.
    ValueError
        If `n` is out of range.

    Examples
    --------
    >>> import nbnorm
    >>> nbnorm.set_num_threads(1)
    >>> nbnorm.get_num_threads()
    1
    >>> nbnorm.set_num_threads(None)
    """
    global _threads
    if n is None:
        _threads = None
        return
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)):
        raise TypeError(f"n must be an integer or None, got {type(n).__name__}")
    if not 1 <= n <= MOST_THREADS:
        raise ValueError(
            f"n must be between 1 and {MOST_THREADS}, which the processor, NUMBA_NUM_THREADS and "
            f"OMP_NUM_THREADS allow, got {n}"
        )
    _threads = int(n)


def _launched() -> bool:
    """Whether Numba's threading layer has been started in this process."""
    parallel = sys.modules.get("numba.np.ufunc.parallel")
    return bool(getattr(parallel, "_is_initialized", False))


def _after_fork() -> None:
    # GNU OpenMP kills a forked child that enters a region; the other layers have lost their
    # workers.  Serial twins give the same bits.
    global _forked, _workqueue_lock
    _forked = _launched()
    _workqueue_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _launch(pair: ParallelKernel, work: int, args: tuple[Any, ...]) -> Any:
    most = _most()
    if most == 1 or work < _WORK["omp"] or _forked:
        return pair.serial(*args)
    before = int(numba.get_num_threads())  # starts the threading layer
    threads = min(most, before)
    layer = numba.threading_layer()
    if threads == 1 or work < _WORK[layer]:
        return pair.serial(*args)
    # The workqueue layer aborts the process when two Python threads enter at once.
    if layer == "workqueue" and not _workqueue_lock.acquire(blocking=False):
        return pair.serial(*args)
    try:
        if threads != before:  # a microsecond each way
            numba.set_num_threads(threads)
        return pair.parallel(*args)
    finally:
        if threads != before:
            numba.set_num_threads(before)
        if layer == "workqueue":
            _workqueue_lock.release()
