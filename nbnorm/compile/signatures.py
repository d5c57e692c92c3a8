"""What a compiled function takes, checked when it is compiled.

A kernel trusts its caller: of a strided array, or of one of another dtype, it would read and write the
wrong elements.  Types and layouts are known when Numba compiles, so `accept_only` has them checked
then, and a call costs nothing more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from numba import config, types
from numba.core import sigutils
from numba.core.errors import TypingError

REALS = (types.float32, types.float64)
LAYOUTS = {"C": "C-contiguous", "F": "Fortran-ordered", "A": "strided"}


class ArgumentTypeError(TypingError, TypeError):
    """An argument of a type for which a function is not compiled: an error of Numba's and of Python's."""


@dataclass(frozen=True)
class Scalar:
    """A number whose type is one of `kinds`, types of Numba or classes of them."""

    text: str
    kinds: tuple[Any, ...]

    def accepts(self, given: Any) -> bool:
        """Whether a value of the type `given` is one of these numbers."""
        given = types.unliteral(given)
        return any(
            isinstance(given, kind) if isinstance(kind, type) else given == kind for kind in self.kinds
        )


@dataclass(frozen=True)
class Array:
    """A C-contiguous array of `ndim` dimensions, of `dtype` or, if that is None, of the call's dtype.

    The call's dtype is that of its first array, float32 or float64.
    """

    ndim: int
    dtype: Any = None
    written: bool = False

    @property
    def out(self) -> Array:
        """The same array, into which the kernel writes."""
        return replace(self, written=True)

    def accepts(self, given: Any, dtype: Any) -> bool:
        """Whether the type `given` is that of such an array; `dtype` is the call's, if it is known."""
        dtypes = (self.dtype or dtype,) if self.dtype or dtype else REALS
        return (
            isinstance(given, types.Array)
            and given.ndim == self.ndim
            and given.dtype in dtypes
            and given.layout == "C"
            and given.aligned
            and (given.mutable or not self.written)
        )

    def expected(self, dtype: Any, first: str) -> str:
        """Describe such an array, if `dtype` is that of the argument `first`."""
        kind = self.dtype or (f"{dtype} (the dtype of {first})" if dtype else "float32 or float64")
        writeable = "writeable " if self.written else ""
        return f"a {writeable}C-contiguous array of {kind} with {_dimensions(self.ndim)}"


REAL = Scalar("float32 or float64", REALS)
NUMBER = Scalar("an integer, float32 or float64", (types.Integer, *REALS))
INTEGER = Scalar("an integer", (types.Integer,))
FLAG = Scalar("a bool", (types.Boolean, types.Integer))


def _dimensions(ndim: int) -> str:
    return f"{ndim} dimension{'s' * (ndim != 1)}"


def _got(given: Any) -> str:
    """Describe a type."""
    if not isinstance(given, types.Array):
        return str(types.unliteral(given))
    flaws = "read-only " * (not given.mutable) + "unaligned " * (not given.aligned)
    return f"a {flaws}{LAYOUTS[given.layout]} array of {given.dtype} with {_dimensions(given.ndim)}"


def wrong(function: str, name: str, expected: str, got: str) -> ArgumentTypeError:
    """Return the error that names function, argument, what is expected and what was got."""
    return ArgumentTypeError(f"{function}: {name} must be {expected}, got {got}")


def check(function: str, arguments: Mapping[str, Scalar | Array], given: tuple[Any, ...]) -> None:
    """Raise `ArgumentTypeError` for the first of the types `given` that is not what `arguments` says."""
    dtype, first = None, ""
    for (name, kind), type_ in zip(arguments.items(), given, strict=False):  # Numba counts them
        if isinstance(kind, Scalar):
            if not kind.accepts(type_):
                raise wrong(function, name, kind.text, _got(type_))
            continue
        if not kind.accepts(type_, dtype):
            raise wrong(function, name, kind.expected(dtype, first), _got(type_))
        if dtype is None and kind.dtype is None:
            dtype, first = type_.dtype, name


def accept_only(dispatcher: Any, function: str, arguments: Mapping[str, Scalar | Array]) -> None:
    """Compile `dispatcher`, known to users as `function`, for these arguments only.

    Python and compiled code both call `compile` for types that have no code yet, before they do anything
    else.
    """
    if config.DISABLE_JIT:
        return
    compile_for = dispatcher.compile

    def compile_checked(signature: Any) -> Any:
        check(function, arguments, sigutils.normalize_signature(signature)[0])
        return compile_for(signature)

    dispatcher.compile = compile_checked
