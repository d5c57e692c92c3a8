"""Locks between processes: of several that need the same code, one compiles it and the others wait for it.

Each code has a byte of one file in the cache folder, which need not be as long.  The operating system takes a
process's locks back when it ends, however it ends.  A callee's lock is given back before that of its caller,
and callers never wait for theirs: nobody waits in a circle.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from pathlib import Path

from nbnorm.compile.clock import _compilation

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

# Seconds between looks, growing by half each time.
_SHORTEST, _LONGEST = 0.005, 0.1

# Seconds after which the other process is taken to be stopped, and everything is compiled here.
PATIENCE = 180.0

_TAKEN = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)


class Locks:
    """The locks of this process on the bytes of one file."""

    def __init__(self) -> None:
        self._handles: dict[Path, int] = {}
        self._waits = True

    def take(self, folder: Path, position: int) -> bool:
        """Take the lock of a byte, waiting for who has it; return whether somebody had it meanwhile.

        Where files cannot be locked, nothing is taken and nobody waits.
        """
        begun, pause, waited = time.monotonic(), _SHORTEST, False
        while self._waits:
            try:
                self._lock(folder, position, True)
                return waited
            except OSError as error:
                if error.errno not in _TAKEN:
                    break
            waited = True
            # An interrupt is held back amid a compilation: then compile, and do not wait any longer.
            if time.monotonic() - begun > PATIENCE or _compilation.interrupted:
                self._waits = False
            time.sleep(pause)
            pause = min(1.5 * pause, _LONGEST)
        return waited

    def take_if_free(self, folder: Path, position: int) -> bool:
        """Take the lock of a byte unless another process has it; return whether it was taken."""
        try:
            self._lock(folder, position, True)
        except OSError:
            return False
        return True

    def give_back(self, folder: Path, position: int) -> None:
        """Let others have the lock of a byte, whether it was taken or not."""
        if folder in self._handles:
            with contextlib.suppress(OSError):
                self._lock(folder, position, False)

    def _lock(self, folder: Path, position: int, taken: bool) -> None:
        """Lock or unlock a byte at once, or raise `OSError`."""
        if folder not in self._handles:
            flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOINHERIT", 0)
            self._handles[folder] = os.open(folder / "locks", flags, 0o666)
        handle = self._handles[folder]
        if sys.platform == "win32":
            os.lseek(handle, position, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_NBLCK if taken else msvcrt.LK_UNLCK, 1)
        else:
            kind = fcntl.LOCK_EX | fcntl.LOCK_NB if taken else fcntl.LOCK_UN
            fcntl.lockf(handle, kind, 1, position, os.SEEK_SET)


locks = Locks()
