"""Files of the package: atomic replacement, and arrays with a description in one NPZ without pickle.

A stored file is an uncompressed ZIP archive.  Its first member, ``nbnorm.json``, holds the format
version, the kind of object, its configuration and the names of the arrays; each array follows as
one ``.npy`` member, so that `numpy.load` opens the file too.  Equal contents give equal bytes.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
import stat
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

FORMAT = "nbnorm"
VERSION = 1
HEADER = "nbnorm.json"
PathLike = str | os.PathLike[str]

# Floats, signed and unsigned integers, booleans: everything whose bytes are numbers.
_KINDS = "fiub"
_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that ZIP can hold: the time of writing is no content


# ----------------------------------------------------------------------------------------------
# Atomic replacement
# ----------------------------------------------------------------------------------------------


def _create(folder: Path) -> tuple[int, Path]:
    """Create a new file beside the final one; rights follow the user's umask."""
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    while True:
        temporary = folder / f".nbnorm-{secrets.token_hex(8)}.tmp"
        with contextlib.suppress(FileExistsError):
            return os.open(temporary, flags, 0o666), temporary


def _sync_folder(folder: Path) -> None:
    """Make a finished rename survive a power failure, where the system offers that."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _is_device(path: Path) -> bool:
    """Whether `path` is a pipe, a terminal or the like, which cannot be replaced."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _named(error: OSError, path: PathLike) -> OSError:
    """Return the same error about `path` instead of a temporary file."""
    return type(error)(error.errno, error.strerror, os.fspath(path))


@contextlib.contextmanager
def replace(path: PathLike, mode: str = "wb", *, newline: str | None = None) -> Iterator[IO[Any]]:
    r"""Write a file so that it is either replaced whole or left as it was.

    Parameters
    ----------
    path : str or path
        The file to write.  A symbolic link stays and its target is replaced; a device or a pipe
        (``/dev/stdout``) is written directly.
    mode : {"wb", "w"}
        Binary, or text in UTF-8.
    newline : str, optional
        As in `open`, for text.

    Yields
    ------
    file object
        A temporary file in the same directory.  When the block ends it is flushed to the disk and
        takes the place of `path`; when the block raises, it is removed and `path` is untouched.

    Raises
    ------
    OSError
        If the directory is missing or cannot be written.

    Examples
    --------
    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "report.txt")
    >>> with replace(path, "w") as file:
    ...     _ = file.write("done\n")
    >>> os.listdir(os.path.dirname(path))
    ['report.txt']
    """
    if mode not in ("wb", "w"):
        raise ValueError(f"mode must be 'wb' or 'w', got {mode!r}")
    encoding = None if mode == "wb" else "utf-8"
    target = Path(os.path.realpath(path))
    if _is_device(target):
        with open(target, mode, encoding=encoding, newline=newline) as file:
            yield file
        return
    try:
        if target.is_dir():
            raise IsADirectoryError(21, "Is a directory")
        handle, temporary = _create(target.parent)
    except OSError as error:
        raise _named(error, path) from None
    try:
        with open(handle, mode, encoding=encoding, newline=newline) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(OSError):  # a new file keeps what the umask gave it
            os.chmod(temporary, stat.S_IMODE(target.stat().st_mode))
        try:
            os.replace(temporary, target)
        except OSError as error:
            raise _named(error, path) from None
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def check_writable(path: PathLike) -> None:
    """Raise `OSError` now if `replace` could not write `path` later.

    Parameters
    ----------
    path : str or path
        The file to write.

    Raises
    ------
    OSError
        If the directory is missing or cannot be written, or if `path` is a directory.

    Examples
    --------
    >>> check_writable("no/such/folder/model.npz")
    Traceback (most recent call last):
        ...
    FileNotFoundError: [Errno 2] No such file or directory: 'no/such/folder/model.npz'
    """
    target = Path(os.path.realpath(path))
    if _is_device(target):
        return
    try:
        if target.is_dir():
            raise IsADirectoryError(21, "Is a directory")
        handle, temporary = _create(target.parent)
    except OSError as error:
        raise _named(error, path) from None
    os.close(handle)
    temporary.unlink(missing_ok=True)


# ----------------------------------------------------------------------------------------------
# Arrays with a description
# ----------------------------------------------------------------------------------------------


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _DATE)
    info.external_attr = 0o644 << 16
    return info


def write(
    path: PathLike, kind: str, config: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]
) -> None:
    """Store a configuration and named arrays in one file, atomically.

    Parameters
    ----------
    path : str or path
        The file, replaced if it exists.  No suffix is added.
    kind : str
        What is stored, such as ``"network"``; `read` asks for it.
    config : dict
        Anything that JSON can hold; no NaN and no infinity.
    arrays : dict of str to ndarray
        Real numbers of any shape.  Dtype and shape are kept.

    Raises
    ------
    TypeError
        If `config` holds something that JSON cannot, or an array holds no real numbers.
    ValueError
        If `config` holds NaN or infinity.
    OSError
        If the file cannot be written.

    See Also
    --------
    read

    Examples
    --------
    >>> import os, tempfile, numpy as np
    >>> path = os.path.join(tempfile.mkdtemp(), "scale.npz")
    >>> write(path, "scale", {"unit": "m"}, {"values": np.array([1.0, 2.0])})
    >>> read(path, "scale")
    ({'unit': 'm'}, {'values': array([1., 2.])})
    """
    contents = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    for name, array in contents.items():
        if array.dtype.kind not in _KINDS:
            raise TypeError(f"array {name!r} must hold real numbers, got dtype {array.dtype}")
    header = {"format": FORMAT, "version": VERSION, "kind": kind, "config": config, "arrays": list(contents)}
    text = json.dumps(header, indent=1, allow_nan=False, ensure_ascii=False)
    with replace(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(_member(HEADER), text.encode("utf-8", "surrogatepass"))
        for name, array in contents.items():
            with archive.open(_member(f"{name}.npy"), "w", force_zip64=array.nbytes >= 1 << 30) as member:
                npy.write_array(member, array, version=(1, 0), allow_pickle=False)


class _MalformedError(Exception):
    """What is wrong with a file; `read` adds the path."""


def _no_constant(name: str) -> NoReturn:
    raise _MalformedError(f"{HEADER} holds {name}")


def _read_header(archive: zipfile.ZipFile) -> dict[str, Any]:
    header = json.loads(archive.read(HEADER).decode("utf-8"), parse_constant=_no_constant)
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise _MalformedError(f"{HEADER} does not describe one")
    version = header.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise _MalformedError(f"format version {version!r} is unknown")
    if version > VERSION:
        raise _MalformedError(f"format version {version} is newer than {VERSION}, which this nbnorm reads")
    names = header.get("arrays")
    if (
        not isinstance(header.get("kind"), str)
        or not isinstance(header.get("config"), dict)
        or not isinstance(names, list)
        or not all(isinstance(name, str) for name in names)
    ):
        raise _MalformedError(f"{HEADER} is incomplete")
    return header


def _check_members(archive: zipfile.ZipFile, size: int) -> None:
    """Refuse members whose declared sizes need not be true.

    Only uncompressed members are accepted, and together they are no larger than the file, so no
    small file can ask for much memory.
    """
    members = archive.infolist()
    if HEADER not in archive.namelist():
        raise _MalformedError(f"it has no {HEADER}")
    if any(info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 0x1 for info in members):
        raise _MalformedError("it has compressed or encrypted members")
    if sum(info.file_size for info in members) > size:
        raise _MalformedError("its members are larger than the file")


def _read_array(archive: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
    info = archive.getinfo(f"{name}.npy")
    with archive.open(info) as member:
        version = npy.read_magic(member)
        if version != (1, 0):
            raise _MalformedError(f"array {name!r} has NPY version {version}, expected (1, 0)")
        shape, fortran, dtype = npy.read_array_header_1_0(member)
        if dtype.hasobject:
            raise _MalformedError(f"array {name!r} holds Python objects, which are never loaded")
        if dtype.kind not in _KINDS or fortran or any(length < 0 for length in shape):
            raise _MalformedError(f"array {name!r} has dtype {dtype}, shape {shape}, fortran_order {fortran}")
        # The length is checked before memory is asked for.
        expected = math.prod(shape) * dtype.itemsize
        got = info.file_size - member.tell()
        if got != expected:
            raise _MalformedError(f"array {name!r} has {got} bytes, expected {expected}")
        data = bytearray(member.read())  # reading to the end checks the CRC
    array = np.frombuffer(data, dtype).reshape(shape)
    return array if dtype.isnative else array.astype(dtype.newbyteorder("="))


def _read(file: IO[bytes], kind: str) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    with zipfile.ZipFile(file) as archive:
        _check_members(archive, os.fstat(file.fileno()).st_size)
        header = _read_header(archive)
        if header["kind"] != kind:
            raise _MalformedError(f"it holds a {header['kind']!r}, expected a {kind!r}")
        expected = [HEADER, *(f"{name}.npy" for name in header["arrays"])]
        if sorted(archive.namelist()) != sorted(expected):
            raise _MalformedError("its members are not the arrays that it lists")
        return header["config"], {name: _read_array(archive, name) for name in header["arrays"]}


def read(path: PathLike, kind: str) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Read a file that `write` made.  Nothing in it is executed.

    Parameters
    ----------
    path : str or path
        The file.
    kind : str
        The kind that is expected.

    Returns
    -------
    config : dict
    arrays : dict of str to ndarray
        In the order in which they were written; writeable.

    Raises
    ------
    ValueError
        If the file is truncated, damaged, foreign, of another kind, of a newer format version,
        or holds anything but real numbers.
    OSError
        If the file cannot be opened.

    Examples
    --------
    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "empty.npz")
    >>> open(path, "wb").close()
    >>> read(path, "network")
    Traceback (most recent call last):
        ...
    ValueError: ...empty.npz is not a readable nbnorm file: it is no NPZ archive, or it is truncated
    """
    with open(path, "rb") as file:
        try:
            return _read(file, kind)
        except _MalformedError as error:
            reason = str(error)
        except zipfile.BadZipFile as error:
            reason = str(error)
            if "not a zip" in reason:
                reason = "it is no NPZ archive, or it is truncated"
        # zipfile, json and numpy raise nearly every kind of error on damaged input.
        except Exception as error:
            reason = f"it is damaged ({type(error).__name__}: {error})"
    raise ValueError(f"{os.fspath(path)} is not a readable nbnorm file: {reason}")
