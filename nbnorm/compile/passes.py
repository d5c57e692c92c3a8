"""What LLVM does with the code of the package: less than Numba has it do.

Numba optimizes each function by itself before it optimizes the module into which it links it.  The first
takes a tenth of the time of a compilation, and the code is as fast without it.  It also makes machine code of
functions that it then links into those that call them.
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


class _LinkedLibrary(_Library):
    """Code that becomes part of its callers' and is optimized there; it has no address."""

    def finalize(self) -> None:
        self._raise_if_finalized()
        for library in dict.fromkeys(self._linking_libraries):
            self._reload_init.update(library._reload_init)
            self._final_module.link_in(library._get_module_for_linking(), preserve=True)
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        self._ensure_finalized()
        return 0  # which says that there is none


@contextlib.contextmanager
def code_of_the_package(linked: bool = False) -> Iterator[None]:
    """Within the block, compile with fewer passes, or only to be linked; no other thread compiles meanwhile.

    Blocks can be nested, as compilations are.
    """
    with global_compiler_lock:
        codegen = cpu_target.target_context.codegen()
        before = dict(vars(codegen))
        vars(codegen).pop("set_env", None)
        codegen._library_class = _LinkedLibrary if linked else _Library
        if linked:  # a function without an address has no place for what calls of Python need, either
            codegen.set_env = lambda name, env: None
        try:
            yield
        finally:
            for name in ("_library_class", "set_env"):
                vars(codegen).pop(name, None)
                if name in before:
                    setattr(codegen, name, before[name])
