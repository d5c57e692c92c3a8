"""Checkpoints: the whole state of a training in one file, from which it goes on to the same bits."""

from __future__ import annotations

import hashlib
import inspect
import os
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nbnorm import _check, _files
from nbnorm._types import Array, CheckedTable

Arrays = dict[str, Array]

KIND = "checkpoint"

# Bytes of an array that are read for its digest together.
_CHUNK = 1 << 20


def digest(arrays: Iterable[Array]) -> str:
    """Return a fingerprint of the shapes, dtypes and elements of arrays."""
    found = hashlib.blake2b(digest_size=16)
    for array in arrays:
        found.update(f"{array.shape}{array.dtype}".encode())
        array = np.atleast_1d(array)
        # in parts, so that a memory map or a view costs no copy of its size
        rows = max(_CHUNK * len(array) // max(array.nbytes, 1), 1)
        for start in range(0, len(array), rows):
            found.update(np.ascontiguousarray(array[start : start + rows]).view(np.uint8).data)
    return found.hexdigest()


def describe(table: CheckedTable) -> str:
    """Return shape, dtype and a digest of a dense or sparse table, which is read whole."""
    if isinstance(table, np.ndarray):
        parts = [table]
    else:
        rows = table.tocsr()
        parts = [rows.data, rows.indices, rows.indptr]
    return f"{table.dtype} {tuple(table.shape)} {digest(parts)}"


def plain(value: object) -> str:
    """Return the representation of an option, without addresses, which differ in every process."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def options_of(net: object) -> dict[str, str]:
    """Return the options of a network as text, but for its seed."""
    names = [name for name in inspect.signature(type(net)).parameters if name != "seed"]
    return {name: plain(getattr(net, name)) for name in names}


@dataclass(frozen=True)
class Saved:
    """What a checkpoint holds."""

    config: dict[str, Any]
    arrays: Arrays

    def group(self, name: str) -> Arrays:
        """Return the arrays of a group by their own names."""
        start = f"{name}/"
        return {key[len(start) :]: array for key, array in self.arrays.items() if key.startswith(start)}


def begun(path: _files.PathLike) -> tuple[int, int] | None:
    """Return the network's seed and the epochs it had when the training of a file began, if there is one."""
    if not os.path.exists(path):
        return None
    config, _ = _files.read(path, KIND)
    try:
        return (
            _check.integer("seed", config["seed"], least=0),
            _check.integer("first_epoch", config["first_epoch"], least=0),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"checkpoint {os.fspath(path)} cannot be resumed from: {error}") from None


def grouped(**groups: Mapping[str, Array]) -> Arrays:
    """Join groups of arrays into one dictionary; `Saved.group` takes them apart."""
    return {f"{group}/{name}": array for group, arrays in groups.items() for name, array in arrays.items()}


class Checkpoint:
    """A file that holds the state of one training.

    Parameters
    ----------
    path : path-like
        File to write and to resume from.
    every : float
        Seconds after which it is written again.
    settings : dict of str to str
        What makes this training the one that it is: a file with others is refused.

    Raises
    ------
    OSError
        If the file cannot be written or read.
    """

    def __init__(self, path: _files.PathLike, every: float, settings: Mapping[str, str]) -> None:
        _files.check_writable(path)
        self.path, self.every, self.settings = os.fspath(path), every, dict(settings)
        self._written = time.perf_counter()

    def read(self) -> Saved | None:
        """Return what the file holds, or None if there is none.

        Raises
        ------
        ValueError
            If it is damaged, foreign, or holds another training.
        """
        if not os.path.exists(self.path):
            return None
        config, arrays = _files.read(self.path, KIND)
        found = config.get("settings")
        if not isinstance(found, dict):
            raise self.damaged("it has no settings")
        for name in sorted({*self.settings, *found}):
            expected, got = self.settings.get(name), found.get(name)
            if expected != got:
                raise self.foreign(name, got, expected)
        return Saved(config, arrays)

    def foreign(self, name: str, got: object, expected: object) -> ValueError:
        """Return the error for a file of a training with another setting."""
        return ValueError(
            f"checkpoint {self.path} holds another training: {name} was {got}, now {expected}; "
            "remove the file or choose another name"
        )

    def damaged(self, reason: object) -> ValueError:
        """Return the error for a file that cannot be resumed from."""
        return ValueError(f"checkpoint {self.path} cannot be resumed from: {reason}")

    @property
    def due(self) -> bool:
        """Whether it is time to write."""
        return time.perf_counter() - self._written >= self.every

    def write(self, config: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
        """Replace the file by another state; a reader finds the old one or the new one, whole."""
        _files.write(self.path, KIND, {"settings": self.settings, **config}, arrays)
        self._written = time.perf_counter()
