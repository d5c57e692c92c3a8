"""What LLVM does with the code of the package: less than Numba has it do.

Numba optimizes each function by itself before it optimizes the module into which it links it.  The first
takes 6 % of the time of a compilation, and the code is as fast without it.  It also makes machine code of
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
def code_of_the_package(linked: str | None = None) -> Iterator[None]:
    """Within the block, compile with fewer passes, and a function of that name only to be linked.

    No other thread compiles meanwhile.  Blocks can be nested, as compilations are.
    """
    with global_compiler_lock:
        codegen = cpu_target.target_context.codegen()

        def create_library(name: str, **options: Any) -> JITCodeLibrary:
            return (_LinkedLibrary if name == linked else _Library)(codegen, name, **options)

        def set_env(name: str, environment: Any) -> None:
            # a function without an address has no place for what calls of Python need, either
            if codegen._engine.get_global_value_address(name):
                type(codegen).set_env(codegen, name, environment)

        before = {name: vars(codegen).get(name) for name in ("create_library", "set_env")}
        vars(codegen).update(create_library=create_library, set_env=set_env)
        try:
            yield
        finally:
            for name, method in before.items():
                if method is None:
                    del vars(codegen)[name]  # the class's own comes to light again
                else:
                    vars(codegen)[name] = method
