"""The cache of compiled code on disk, whose files are bound to every source file of the package."""

from __future__ import annotations

import hashlib
import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import config
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator
from numba.core.registry import cpu_target
from numba.core.serialize import dumps

from nbnorm.compile.clock import _compilation
from nbnorm.compile.folder import cache_folder, package_digest, prepared_folders
from nbnorm.compile.locks import locks


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

        self._taken: set[Path] = set()

    def _name(self, key: object) -> str:
        name = hashlib.sha256(f"{self._options}|{key!s}".encode()).hexdigest()[:24]
        return f"{self._base}-{name}.nbc"

    def _path(self, key: object) -> Path | None:
        folder = cache_folder()
        return None if folder is None else folder / self._name(key)

    def load(self, key: object) -> Any:
        """Return what is stored under `key`; None means that the caller has to compile.

        While another process compiles the same, wait for it; the caller has to call `release`, even where it
        does not come to `save`.
        """
        data = self._read(key)
        if data is not None:
            return data
        _compilation.begins()
        path = self._path(key)
        if path is None:
            return None
        self._taken.add(path)
        if locks.take(path.parent, _position(path)):
            data = self._read(key)
            if data is not None:
                self.release()
        return data

    def has(self, key: object) -> bool:
        """Whether a file for `key` exists."""
        path = self._path(key)
        return path is not None and path.exists()

    def is_compiled_elsewhere(self, key: object) -> bool:
        """Whether another process compiles what belongs to `key`."""
        path = self._path(key)
        if path is None:
            return False
        free = locks.take_if_free(path.parent, _position(path))
        if free:
            locks.give_back(path.parent, _position(path))
        return not free

    def release(self) -> None:
        """Let other processes compile what this one has not."""
        while self._taken:
            path = self._taken.pop()
            locks.give_back(path.parent, _position(path))

    def _read(self, key: object) -> Any:
        folders = (cache_folder(), *prepared_folders())
        found = (_stored(folder / self._name(key), key) for folder in folders if folder is not None)
        return next((data for data in found if data is not None), None)

    def save(self, key: object, data: object) -> None:
        """Keep `data` under `key`."""
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
        finally:
            self.release()

    def flush(self) -> None:
        """Remove the files of this function."""
        folder = cache_folder()
        if folder is not None:
            for path in folder.glob(f"{self._base}-*.nbc"):
                path.unlink(missing_ok=True)


def _stored(path: Path, key: object) -> Any:
    """Return what a file holds, or None if it is not the whole of what belongs to `key`."""
    try:
        blob = path.read_bytes()
        digest, body = blob[:32], blob[32:]
        if hashlib.sha256(body).digest() != digest:
            return None
        stored, data = pickle.loads(body)
    except Exception:  # missing, truncated, foreign: compile again
        return None
    return data if stored == str(key) else None


def _position(path: Path) -> int:
    """Return the byte whose lock belongs to a file, by the digest in its name."""
    return int(path.stem[-24:][:12], 16)


class _Cache(FunctionCache):
    _impl_class = _Impl

    def __init__(self, py_func: Callable[..., Any], options: str) -> None:
        # `cache_folder` is called only when something is compiled: importing must not touch disks.
        self._name = repr(py_func)
        self._py_func = py_func
        self._impl = self._impl_class(py_func)
        self._options = options
        self._cache_file = CodeFiles(self._impl.filename_base, options)
        self.enable()

    def release(self) -> None:
        """Let other processes compile what this one has not."""
        self._cache_file.release()

    def lacks(self, types: tuple[Any, ...]) -> bool:
        """Whether code for arguments of these types is missing."""
        return not self._cache_file.has(self._key(types))

    def is_compiled_elsewhere(self, types: tuple[Any, ...]) -> bool:
        """Whether another process compiles for arguments of these types."""
        return self._cache_file.is_compiled_elsewhere(self._key(types))

    def _key(self, types: tuple[Any, ...]) -> Any:
        return self._index_key(types, cpu_target.target_context.codegen())

    @property
    def cache_path(self) -> str:
        return str(cache_folder())
