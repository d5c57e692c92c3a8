"""The folder of compiled code, named by every source file of the package."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numba
import numpy as np
from numba import config

PACKAGE = Path(__file__).resolve().parents[1]


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


@functools.cache
def prepared_folders() -> tuple[Path, ...]:
    """Other folders with compiled code of this very version, as an image has that was built by another user.

    They are read, and need not be writable.
    """
    found = (root / package_digest() for root in _cache_roots())
    return tuple(folder for folder in found if folder != cache_folder() and folder.is_dir())


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
