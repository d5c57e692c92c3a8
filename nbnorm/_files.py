"""Files of the package: atomic replacement, and arrays with a description in one NPZ without pickle.

A stored file is an uncompressed ZIP archive.  Its first member, ``nbnorm.json``, holds the format
version, the kind of object, its configuration and the names of the arrays; each array follows as
one ``.npy`` member, so that `numpy.load` opens the file too.  Equal contents give equal bytes.

NPY and NPZ files of others are read here too: the sizes that they state are checked before memory is
allocated, and whatever is wrong with them is a `ValueError` with the file's name.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import math
import os
import re
import secrets
import stat
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

if sys.platform != "win32":  # where an open file can be neither removed nor renamed
    import fcntl

FORMAT = "nbnorm"
VERSION = 1
HEADER = "nbnorm.json"
PathLike = str | os.PathLike[str]
# What models are written to and read from: a path, or a binary file that is open.
Target = PathLike | IO[bytes]

# Floats, signed and unsigned integers, booleans: everything whose bytes are numbers.
_KINDS = "fiub"
_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that ZIP can hold: the time of writing is no content

# What deflate can make of a byte at the most.
_DEFLATE_LIMIT = 1032
# An archive that unpacks to more than this many bytes, and to more than this many times its size, is refused.
MOST_UNPACKED = 1 << 28
MOST_EXPANSION = 100

# Bytes of an array that are unpacked at a time.
_PART = 1 << 20
# Waits in seconds between attempts to replace a file that another process holds open, as virus scanners do on
# Windows.
_WAITS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4)
# Age in seconds of a temporary file that nobody has locked, after which its writer is taken to be gone
# although a process has its number.
_STALE = 60.0
_TEMPORARY = re.compile(r"\.nbnorm-(\d+)-[0-9a-f]{16}\.tmp")


# ----------------------------------------------------------------------------------------------
# Input
# ----------------------------------------------------------------------------------------------


class MalformedError(Exception):
    """What is wrong with the content of a file; `reading` adds the path, and what the file is not.

    Parameters
    ----------
    reason : str
    what : str, optional
        What the file is not, by default what `reading` expects.
    """

    def __init__(self, reason: str, what: str | None = None) -> None:
        super().__init__(reason)
        self.what = what


def name_of(path: Target) -> str:
    """Return what messages call a file.

    Parameters
    ----------
    path : str, path or file object

    Returns
    -------
    str
        The path, or for a file object its name if it has one.

    Examples
    --------
    >>> name_of(io.BytesIO())
    'the file object'
    """
    if isinstance(path, (str, os.PathLike)):
        return os.fspath(path)
    name = getattr(path, "name", None)
    return name if isinstance(name, str) else "the file object"


@contextlib.contextmanager
def _opened(path: Target, what: str) -> Iterator[IO[bytes]]:
    """Open a path; of a file object of the caller take what is left from where it stands."""
    if isinstance(path, (str, os.PathLike)):
        with open_input(path) as file:
            yield file
        return
    if not callable(getattr(path, "read", None)):
        raise TypeError(f"path must be a path or a binary file, got {type(path).__name__}")
    data: Any = path.read()
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(f"{name_of(path)} must be open in binary mode, got {type(data).__name__} from it")
    if not len(data):
        raise ValueError(
            f"{name_of(path)} is not {what}: nothing is left to read; after writing, call seek(0) first"
        )
    yield io.BytesIO(data)


def size_of(file: IO[bytes]) -> int:
    """Return the bytes of an open file, whose position stays.

    Parameters
    ----------
    file : file object
        Binary, with a position.

    Returns
    -------
    int

    Examples
    --------
    >>> size_of(io.BytesIO(b"abc"))
    3
    """
    position = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(position)
    return size


def _named(error: OSError, path: PathLike) -> OSError:
    """Return the same error about `path`, instead of a temporary file or of none."""
    return type(error)(error.errno, error.strerror, os.fspath(path))


def open_input(path: PathLike) -> IO[bytes]:
    """Open a file for reading.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    file object
        Binary.

    Raises
    ------
    OSError
        If the file cannot be opened.
    ValueError
        If it is a pipe or a device, which can be read only once and might never end.

    Examples
    --------
    >>> import os
    >>> open_input(os.devnull)
    Traceback (most recent call last):
        ...
    ValueError: ... must be a regular file, got a pipe or a device
    """
    # Before it is opened, because opening a pipe waits for a writer.
    if is_device(path):
        raise ValueError(f"{os.fspath(path)} must be a regular file, got a pipe or a device")
    return open(path, "rb")


@contextlib.contextmanager
def reading(path: Target, what: str) -> Iterator[IO[bytes]]:
    """Open a file, and name it in every error that its content causes.

    Parameters
    ----------
    path : str, path or file object
        A file object of the caller is read to its end, from where it stands, and stays open.
    what : str
        What the file should be, for the message.

    Yields
    ------
    file object
        Binary.

    Raises
    ------
    ValueError
        Instead of any exception that comes from damaged content.
    OSError
        If the file cannot be opened or read.
    MemoryError
        If its content is larger than the memory.

    Examples
    --------
    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "x.npz")
    >>> open(path, "wb").close()
    >>> with reading(path, "an archive") as file:
    ...     _ = zipfile.ZipFile(file)
    Traceback (most recent call last):
        ...
    ValueError: ...x.npz is not an archive: it is no NPZ archive, or it is truncated
    """
    name = name_of(path)
    with _opened(path, what) as file:
        try:
            yield file
        except MalformedError as error:
            reason, what = str(error), error.what or what
        except zipfile.BadZipFile as error:
            reason = str(error)
            if "not a zip" in reason:
                reason = "it is no NPZ archive, or it is truncated"
        except MemoryError:
            raise MemoryError(f"{name} is larger than the memory that is free") from None
        # zipfile, zlib, json, numpy and pyarrow raise nearly every kind of error on damaged input, among them
        # OSError without a number and, after a seek to nowhere, with EINVAL.
        except Exception as error:
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                raise _named(error, name) from None
            reason = f"it is damaged ({type(error).__name__}: {error})"
        else:
            return
    raise ValueError(f"{name} is not {what}: {reason}") from None


# ----------------------------------------------------------------------------------------------
# Atomic replacement
# ----------------------------------------------------------------------------------------------


def _temporary(folder: Path) -> Path:
    """Return the name of a new temporary file, from which its writer is known."""
    return folder / f".nbnorm-{os.getpid()}-{secrets.token_hex(8)}.tmp"


def _create(temporary: Path) -> int:
    """Create a new file, locked as long as it is open; rights follow the user's umask."""
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    handle = os.open(temporary, flags, 0o666)
    if sys.platform != "win32":
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return handle


def _lives(pid: int) -> bool:
    """Whether a process of this machine has that number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _is_orphan(path: Path, pid: int) -> bool:
    """Whether the writer of a temporary file is gone.

    Its number alone does not tell: a container or another machine with the same folder has numbers of its
    own, and a number is used again.  The lock does, but for the moment between creation and locking.
    """
    old = time.time() - path.stat().st_mtime > _STALE
    if sys.platform == "win32":
        return old
    if not old and _lives(pid):
        return False
    with open(path, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return True


def _remove_orphans(folder: Path) -> None:
    """Remove temporary files that killed processes have left."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
        for match in filter(None, map(_TEMPORARY.fullmatch, names)):
            path = folder / match[0]
            # BlockingIOError: somebody writes it; others: it is not ours to remove.
            with contextlib.suppress(OSError):
                if _is_orphan(path, int(match[1])):
                    path.unlink()


def _replace(temporary: Path, target: Path) -> None:
    """Rename a file, and try again for a moment while another process holds the target open."""
    for wait in _WAITS:
        with contextlib.suppress(PermissionError):
            os.replace(temporary, target)
            return
        time.sleep(wait)
    os.replace(temporary, target)


def _sync_folder(folder: Path) -> None:
    """Make a finished rename survive a power failure, where the system offers that."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def is_device(path: PathLike) -> bool:
    """Whether `path` is a pipe, a terminal or the like, which cannot be replaced or read twice.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    bool
        False for files, folders and what does not exist.

    Examples
    --------
    >>> import os
    >>> is_device(os.devnull), is_device(os.curdir)
    (True, False)
    """
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _open_device(path: PathLike) -> int:
    """Open a device or a pipe for writing; a pipe that nobody reads is an error, not endless waiting."""
    if sys.platform == "win32":
        return os.open(path, os.O_WRONLY | os.O_BINARY)
    handle = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    os.set_blocking(handle, True)
    return handle


@contextlib.contextmanager
def _writing(path: PathLike) -> Iterator[None]:
    """Name the file in errors of writing it, which know of no file or of a temporary one."""
    try:
        yield
    except OSError as error:
        known = error.filename is not None and not _TEMPORARY.fullmatch(os.path.basename(str(error.filename)))
        if known or error.errno is None:
            raise
        raise _named(error, path) from None
    except UnicodeEncodeError as error:
        raise ValueError(f"{os.fspath(path)}: the text cannot be written as UTF-8: {error.reason}") from None


@contextlib.contextmanager
def replace(path: Target, mode: str = "wb", *, newline: str | None = None) -> Iterator[IO[Any]]:
    r"""Write a file so that it is either replaced whole or left as it was.

    Parameters
    ----------
    path : str, path or file object
        The file to write.  A symbolic link stays and its target is replaced; a device or a pipe
        (``/dev/stdout``) is written directly.  A binary file object of the caller gets the whole content
        at once, when the block has ended without an error, and stays open.
    mode : {"wb", "w"}
        Binary, or text in UTF-8.
    newline : str, optional
        As in `open`, for text.

    Yields
    ------
    file object
        A temporary file in the same directory.  When the block ends it is flushed to the disk and
        replaces `path`; when the block raises, it is removed and `path` is untouched.
        What a killed process could not remove is removed by the next one that writes to the directory.

    Raises
    ------
    OSError
        If the directory is missing or cannot be written, the disk is full, or nobody reads the pipe.

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
    if not isinstance(path, (str, os.PathLike)):
        if not callable(getattr(path, "write", None)):
            raise TypeError(f"path must be a path or a binary file, got {type(path).__name__}")
        given: object = path
        if isinstance(given, io.TextIOBase):
            raise TypeError(f"{name_of(path)} must be open in binary mode, got {type(path).__name__}")
        whole = io.BytesIO() if mode == "wb" else io.StringIO(newline=newline)
        yield whole
        content = whole.getvalue()
        path.write(content if isinstance(content, bytes) else content.encode())
        return
    encoding = None if mode == "wb" else "utf-8"
    if is_device(path):
        with (
            _writing(path),
            open(_open_device(path), mode, encoding=encoding, newline=newline) as file,
        ):
            yield file
        return
    target = Path(os.path.realpath(path))
    with _writing(path):
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        _remove_orphans(target.parent)
        temporary = _temporary(target.parent)
        handle = -1
        try:
            handle = _create(temporary)
            # Where there are locks the file stays open, and so locked, until it has its final name.
            with open(
                handle, mode, encoding=encoding, newline=newline, closefd=sys.platform == "win32"
            ) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(OSError):  # a new file keeps what the umask gave it
                os.chmod(temporary, stat.S_IMODE(target.stat().st_mode))
            _replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        finally:
            if sys.platform != "win32" and handle >= 0:
                os.close(handle)
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
    if is_device(path):
        return
    target = Path(os.path.realpath(path))
    with _writing(path):
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        _remove_orphans(target.parent)
        temporary = _temporary(target.parent)
        try:
            os.close(_create(temporary))
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


# ----------------------------------------------------------------------------------------------
# NPY and NPZ
# ----------------------------------------------------------------------------------------------


class Layout(NamedTuple):
    """How the elements of an NPY file lie."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]


def read_layout(file: Any, name: str, size: int) -> Layout:
    """Read the header of an NPY file; the elements follow.

    Parameters
    ----------
    file : binary file
        At its beginning.
    name : str
        What messages call it.
    size : int
        Bytes of the whole file: a header that states more or fewer is refused.

    Returns
    -------
    Layout

    Raises
    ------
    MalformedError
        If it is no such header, or the elements are Python objects.
    """
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise MalformedError(f"{name} has NPY version {version}, expected (1, 0) or (2, 0)")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise MalformedError(f"{name} holds Python objects, which are never loaded")
    if any(type(length) is not int or length < 0 for length in shape):
        raise MalformedError(f"{name} has dtype {dtype}, shape {shape}, fortran_order {fortran}")
    expected, got = math.prod(shape) * dtype.itemsize, size - file.tell()
    if got != expected:
        raise MalformedError(f"{name} has {got} bytes, expected {expected}")
    return Layout(shape, fortran, dtype)


@contextlib.contextmanager
def open_npz(path: PathLike) -> Iterator[zipfile.ZipFile]:
    """Open an NPZ file that anybody may have written, after checking the sizes that it states.

    Parameters
    ----------
    path : str or path

    Yields
    ------
    ZipFile
        Its errors, and `MalformedError`, become `ValueError` with the file's name.

    Raises
    ------
    ValueError
        If the file is damaged or would unpack to far more than its size.
    OSError
        If the file cannot be opened.

    Examples
    --------
    >>> import os, tempfile, numpy as np
    >>> path = os.path.join(tempfile.mkdtemp(), "x.npz")
    >>> np.savez(path, X=np.ones((2, 3)))
    >>> with open_npz(path) as archive:
    ...     read_array(archive, "X").shape
    (2, 3)
    """
    with reading(path, "an NPZ file") as file, zipfile.ZipFile(file) as archive:
        size = size_of(file)
        members = archive.infolist()
        if len({info.filename for info in members}) != len(members):
            raise MalformedError("two of its members have the same name")
        for info in members:
            if info.flag_bits & 0x1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise MalformedError(f"{info.filename} is encrypted or not compressed as NumPy does")
            if info.compress_type == zipfile.ZIP_STORED and info.file_size != info.compress_size:
                raise MalformedError(f"{info.filename} has two sizes")
        unpacked = sum(info.file_size for info in members)
        if unpacked > max(size, min(MOST_UNPACKED, _DEFLATE_LIMIT * size), MOST_EXPANSION * size):
            raise MalformedError(
                f"it would unpack to {unpacked:,} bytes from {size:,}; where that is right, write it "
                "uncompressed, with numpy.savez"
            )
        yield archive


def read_array(archive: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
    """Return an array of an NPZ file, of numbers or text.

    Parameters
    ----------
    archive : ZipFile
        From `open_npz`.
    name : str
        Of the array, without ``.npy``.

    Returns
    -------
    ndarray
        Writeable, in native byte order.

    Raises
    ------
    MalformedError
        If its size is not what its header says, or it holds Python objects.
    """
    info = archive.getinfo(f"{name}.npy")
    with archive.open(info) as member:
        # The length is checked before memory is allocated.
        shape, fortran, dtype = read_layout(member, f"array {name!r}", info.file_size)
        data = np.empty(math.prod(shape) * dtype.itemsize, np.uint8)
        filled = 0
        while filled < data.size:  # reading to the end checks the CRC
            part = member.read(min(data.size - filled, _PART))
            if not part:
                raise MalformedError(f"array {name!r} is truncated")
            data[filled : filled + len(part)] = np.frombuffer(part, np.uint8)
            filled += len(part)
    array = data.view(dtype).reshape(shape, order="F" if fortran else "C")
    return array if dtype.isnative else array.astype(dtype.newbyteorder("="))


# ----------------------------------------------------------------------------------------------
# Arrays with a description
# ----------------------------------------------------------------------------------------------


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _DATE)
    info.external_attr = 0o644 << 16
    return info


def write(path: Target, kind: str, config: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Store a configuration and named arrays in one file, atomically.

    Parameters
    ----------
    path : str, path or file object
        The file, replaced if it exists.  No suffix is added.
    kind : str
        What is stored, such as ``"network"``; `read` expects it.
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


def _no_constant(name: str) -> NoReturn:
    raise MalformedError(f"{HEADER} holds {name}")


def _read_header(archive: zipfile.ZipFile) -> dict[str, Any]:
    header = json.loads(archive.read(HEADER).decode("utf-8"), parse_constant=_no_constant)
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise MalformedError(f"{HEADER} does not describe one")
    version = header.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise MalformedError(f"format version {version!r} is unknown")
    if version > VERSION:
        raise MalformedError(f"format version {version} is newer than {VERSION}, which this nbnorm reads")
    names = header.get("arrays")
    if (
        not isinstance(header.get("kind"), str)
        or not isinstance(header.get("config"), dict)
        or not isinstance(names, list)
        or not all(isinstance(name, str) for name in names)
    ):
        raise MalformedError(f"{HEADER} is incomplete")
    return header


def _check_members(archive: zipfile.ZipFile, size: int) -> None:
    """Refuse members whose declared sizes need not be true.

    Only uncompressed members are accepted, and together they are no larger than the file, so no
    small file can need much memory.
    """
    members = archive.infolist()
    if HEADER not in archive.namelist():
        raise MalformedError(f"it has no {HEADER}")
    if any(info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 0x1 for info in members):
        raise MalformedError("it has compressed or encrypted members")
    if sum(info.file_size for info in members) > size:
        raise MalformedError("its members are larger than the file")


def _read_array(archive: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
    array = read_array(archive, name)
    if array.dtype.kind not in _KINDS or not array.flags.c_contiguous:
        fortran = not array.flags.c_contiguous
        raise MalformedError(f"array {name!r} has dtype {array.dtype}, fortran_order {fortran}")
    return array


def _read(file: IO[bytes], kinds: Sequence[str]) -> tuple[str, dict[str, Any], dict[str, npt.NDArray[Any]]]:
    with zipfile.ZipFile(file) as archive:
        _check_members(archive, size_of(file))
        header = _read_header(archive)
        if header["kind"] not in kinds:
            expected_kinds = " or a ".join(map(repr, kinds))
            raise MalformedError(f"it holds a {header['kind']!r}, expected a {expected_kinds}")
        expected = [HEADER, *(f"{name}.npy" for name in header["arrays"])]
        if sorted(archive.namelist()) != sorted(expected):
            raise MalformedError("its members are not the arrays that it lists")
        arrays = {name: _read_array(archive, name) for name in header["arrays"]}
        return header["kind"], header["config"], arrays


def read(path: Target, kind: str) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Read a file that `write` made.  Nothing in it is executed.

    Parameters
    ----------
    path : str, path or file object
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
    _, config, arrays = read_any(path, [kind])
    return config, arrays


def read_any(path: Target, kinds: Sequence[str]) -> tuple[str, dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Read a file of one of several kinds that `write` made.  Nothing in it is executed.

    Parameters
    ----------
    path : str, path or file object
        The file.
    kinds : sequence of str
        The kinds that are expected.

    Returns
    -------
    kind : str
        The one that the file is.
    config : dict
    arrays : dict of str to ndarray
        In the order in which they were written; writeable.

    Raises
    ------
    ValueError, OSError
        As `read`.

    Examples
    --------
    >>> import io
    >>> file = io.BytesIO()
    >>> write(file, "network", {}, {})
    >>> _ = file.seek(0)
    >>> read_any(file, ["network", "checkpoint"])
    ('network', {}, {})
    """
    with reading(path, "a readable nbnorm file") as file:
        return _read(file, kinds)
