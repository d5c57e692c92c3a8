"""Fewer passes of LLVM than Numba runs, over what the package compiles.

Numba optimizes each function by itself before it optimizes the module into which it links it.  The first
takes a tenth of the time of a compilation, and the code is as fast without it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from numba.core.codegen import JITCodeLibrary
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target


class _Library(JITCodeLibrary):
    def _optimize_functions(self, ll_module: Any) -> None:
        ll_module.data_layout = self._codegen._data_layout  # what is left of the base class's


@contextlib.contextmanager
def fewer_passes() -> Iterator[None]:
    """Within the block, optimize modules and not single functions; no other thread compiles meanwhile."""
    with global_compiler_lock:
        codegen = cpu_target.target_context.codegen()
        codegen._library_class = _Library
        try:
            yield
        finally:
            del codegen._library_class  # the class's own comes to light again
