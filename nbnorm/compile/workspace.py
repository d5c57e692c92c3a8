"""Workspaces: arrays and records that many kernels share, passed as one argument.

To take some thirty arrays apart and put them together again takes time in each call from Python, and code in
each kernel that hands them on.  A workspace is the address of a table instead, in which the addresses and
shapes of its members stand.  Compiled and interpreted, the members are its attributes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core.typing.templates import AttributeTemplate, infer_getattr
from numba.extending import NativeValue, lower_getattr_generic, models, register_model, unbox

from nbnorm.compile.arrays import array_at

_WORD = ir.IntType(64)


class WorkspaceType(types.Type):
    """Numba's type of a workspace.

    Parameters
    ----------
    members : mapping of str to (dtype, int)
        Element type and number of axes of each member, which is a C-contiguous array, or a record if it
        has none.
    """

    def __init__(self, members: Mapping[str, tuple[np.dtype[Any], int]]) -> None:
        self.members = dict(members)
        self.types: dict[str, Any] = {}
        # where a member's address stands, in front of the lengths of its axes
        self.places: dict[str, int] = {}
        place = 0
        for name, (dtype, axes) in self.members.items():
            kind = numba.from_dtype(dtype)
            self.types[name] = types.Array(kind, axes, "C") if axes else kind
            self.places[name] = place
            place += 1 + axes
        super().__init__(f"workspace({', '.join(f'{name}: {kind}' for name, kind in self.types.items())})")

    def __reduce__(self) -> Any:
        # without the classes that give records attributes, which may have no name to be found by
        plain = {
            name: (np.dtype((np.void, dtype)) if dtype.fields else dtype, axes)
            for name, (dtype, axes) in self.members.items()
        }
        return WorkspaceType, (plain,)


class Workspace:
    """Arrays and records, and the table by which compiled code finds them.

    Parameters
    ----------
    kind : WorkspaceType
        Types of the members.
    **members : ndarray or record
        They are kept alive; compiled code may write to all of them.

    Raises
    ------
    TypeError
        If the members are not those of the type.
    """

    def __init__(self, kind: WorkspaceType, **members: Any) -> None:
        if list(members) != list(kind.members):
            raise TypeError(f"members must be {[*kind.members]}, got {[*members]}")
        vars(self).update(members)
        words: list[int] = []
        for name, (dtype, axes) in kind.members.items():
            member = members[name]
            same = member.dtype is dtype or member.dtype == dtype
            if not same or member.ndim != axes or not member.flags.c_contiguous:
                raise TypeError(f"{name} must be C-contiguous with {axes} axes of {dtype}")
            words.append(_address(member))
            words += member.shape
        self._table = np.array(words, np.int64)
        self._address = self._table.ctypes.data
        self._numba_type_ = kind  # where Numba looks before it calls `typeof`

    def holds(self, **members: Any) -> bool:
        """Whether these are its members."""
        return all(getattr(self, name) is member for name, member in members.items())


def _address(member: Any) -> int:
    """Return where the elements of an array or a record stand."""
    if member.ndim == 0:
        member = np.frombuffer(member, np.uint8)
    elif member.size > 0 and member.flags.writeable and member.dtype.fields is None:
        return ctypes.addressof(ctypes.c_char.from_buffer(member))  # a third of the time of what follows
    return int(member.ctypes.data)


@register_model(WorkspaceType)
class _Model(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: WorkspaceType) -> None:
        super().__init__(dmm, fe_type, _WORD.as_pointer())


@unbox(WorkspaceType)
def _unbox(kind: WorkspaceType, value: Any, c: Any) -> NativeValue:
    number = c.pyapi.object_getattr_string(value, "_address")
    address = c.unbox(types.intp, number).value
    c.pyapi.decref(number)
    return NativeValue(c.builder.inttoptr(address, _WORD.as_pointer()))


@infer_getattr
class _Attributes(AttributeTemplate):
    key = WorkspaceType

    def generic_resolve(self, kind: WorkspaceType, name: str) -> Any:
        return kind.types.get(name)


@lower_getattr_generic(WorkspaceType)
def _member(context: Any, builder: Any, kind: WorkspaceType, value: Any, name: str) -> Any:
    """Read a record's address, or put an array together."""

    def word(number: int) -> Any:
        return builder.load(builder.gep(value, [ir.Constant(_WORD, number)], inbounds=True))

    member, at = kind.types[name], kind.places[name]
    if not isinstance(member, types.Array):
        return builder.inttoptr(word(at), context.get_value_type(member))
    shape = [word(at + 1 + axis) for axis in range(member.ndim)]
    return array_at(context, builder, member, word(at), shape)
