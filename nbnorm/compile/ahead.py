"""A second process that compiles kernels which the present one will need.

Numba compiles one function at a time in a process.  Where the cache lacks the kernels of a training, another
Python imports the package, compiles those that this process comes to last, and leaves them in the cache,
where this process finds them.  `nbnorm.compile.locks` keeps both from compiling the same.  Without the second
process everything is compiled here: only the time changes.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

from numba import config

from nbnorm.compile.clock import on_missing
from nbnorm.compile.folder import PACKAGE, cache_folder
from nbnorm.compile.locks import locks
from nbnorm.compile.numba_start import is_ready
from nbnorm.compile.threads import get_num_threads

# A dispatcher and the types for which it will be compiled.
Kernel: TypeAlias = tuple[Any, tuple[Any, ...]]

# Fewer missing kernels are compiled before another Python has imported the package.
_FEWEST = 4

# The byte of the file of locks that whoever has a second process holds; those of files lie below.
_POSITION = 1 << 48

# The import path is that of the first process, whatever has been added to it.
_START = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from nbnorm.compile.ahead import serve
serve()
"""

_one = threading.Lock()


@contextlib.contextmanager
def compile_ahead(kernels: Callable[[], Sequence[Kernel]]) -> Iterator[None]:
    """Within the block, let a second process compile these kernels if code is missing in the cache.

    Parameters
    ----------
    kernels : function
        Returns kernels and the types of their arguments, in the order in which that process compiles them.
    """
    with contextlib.ExitStack() as stack:

        def start() -> None:
            _start(stack, kernels)

        with on_missing(start):
            if not (is_ready() or config.DISABLE_JIT):  # both processes get Numba ready at the same time
                start()
            yield


def _start(stack: contextlib.ExitStack, kernels: Callable[[], Sequence[Kernel]]) -> None:
    """Start a second process, and have it ended with the block, where that is possible and worth it."""
    folder = cache_folder()
    # a program that embeds Python may give itself as the executable
    python = os.path.basename(sys.executable or "").lower().startswith("python")
    alone = get_num_threads() == 1 or getattr(sys, "frozen", False) or not python
    # each process would measure what it has compiled
    if folder is None or alone or getattr(config, "JIT_COVERAGE", 0):
        return
    missing = [
        (function.py_func.__module__, function.py_func.__name__, types)
        for function, types in kernels()
        if function._cache.lacks(types)
    ]
    if len(missing) < _FEWEST or not _one.acquire(blocking=False):
        return
    stack.callback(_one.release)
    if not locks.take_if_free(folder, _POSITION):
        return
    stack.callback(locks.give_back, folder, _POSITION)
    paths = [str(path) for path in (PACKAGE.parent, *sys.path)]
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(config.CACHE_DIR)}
    with contextlib.suppress(OSError):
        process = subprocess.Popen(
            [sys.executable, "-c", _START, json.dumps(paths)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        stack.callback(_end, process)
        if process.stdin is not None:
            process.stdin.write(pickle.dumps(missing))
            process.stdin.flush()


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the second process, whatever it does: files of the cache are whole or absent."""
    process.kill()
    with contextlib.suppress(OSError), process:
        pass


def serve() -> None:
    """Compile what is asked for, in a process of its own, and end when the first process does."""
    tasks = pickle.load(sys.stdin.buffer)

    def watch() -> None:
        sys.stdin.buffer.read()
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
    for module, name, types in tasks:
        function = getattr(importlib.import_module(module), name)
        if function._cache.lacks(types) and not function._cache.is_compiled_elsewhere(types):
            function.compile(types)
