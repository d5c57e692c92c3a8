"""Data sets to try a network on: bundled digits, MNIST, and a reproducible split."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import zlib
from collections.abc import Callable, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from nbnorm import _check, _files
from nbnorm.compile.folder import _user_cache

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Samples = TypeVar("Samples", bound=np.generic)
Targets = TypeVar("Targets", bound=np.generic)

# Public copies of the MNIST files, tried in this order.
MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
# Names the mirrors instead, separated by white space.
MIRRORS_VARIABLE = "NBNORM_MNIST_MIRRORS"


class _File(NamedTuple):
    name: str
    md5: str  # of the uncompressed file
    header: int  # bytes in front of the values
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return self.header + int(np.prod(self.shape))


_MNIST = (
    _File("train-images-idx3-ubyte", "6bbc9ace898e44ae57da46a324031adb", 16, (60_000, 784)),
    _File("train-labels-idx1-ubyte", "a25bea736e30d166cdddb491f175f624", 8, (60_000,)),
    _File("t10k-images-idx3-ubyte", "2646ac647ad5339dbf082846283269ea", 16, (10_000, 784)),
    _File("t10k-labels-idx1-ubyte", "27ae3e4e09519cfbb04c329615203637", 8, (10_000,)),
)


def load_digits() -> tuple[Images, Labels]:
    """Return the bundled images of handwritten digits.

    They are the test set of *Optical Recognition of Handwritten Digits* (E. Alpaydin and
    C. Kaynak, 1998, UCI Machine Learning Repository, doi 10.24432/C50P49, CC BY 4.0).

    Returns
    -------
    X : ndarray of uint8, shape (1797, 64)
        8 x 8 pixels from 0 to 16, row after row.
    y : ndarray of int64, shape (1797,)
        Digits from 0 to 9.

    See Also
    --------
    train_test_split

    Examples
    --------
    >>> X, y = load_digits()
    >>> X.shape, y[:5]
    ((1797, 64), array([0, 1, 2, 3, 4]))
    """
    with as_file(files("nbnorm") / "data" / "digits.npz") as path, _files.open_npz(path) as archive:
        X, y = _files.read_array(archive, "images"), _files.read_array(archive, "labels").astype(np.int64)
        if X.shape != (1797, 64) or y.shape != (1797,):
            raise _files.MalformedError(f"the digits have shapes {X.shape} and {y.shape}")
        return X, y


# ----------------------------------------------------------------------------------------------
# MNIST
# ----------------------------------------------------------------------------------------------


def _content(file: _File, where: str, stream: io.BufferedIOBase) -> Images:
    """Read a stream to its end, or just beyond the length that is right, and check the MD5 sum."""
    content = np.empty(file.size + 1, np.uint8)
    length = 0
    try:
        while length < content.size and (more := stream.readinto(content[length:].data)):
            length += more
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{where} is damaged: {error}") from None
    got = hashlib.md5(content[:length].data, usedforsecurity=False).hexdigest()
    if got != file.md5:
        raise ValueError(f"{where} is damaged or not MNIST: MD5 {got} of its content, expected {file.md5}")
    return content[file.header : length].reshape(file.shape)


def _found(folder: Path, file: _File) -> Path | None:
    """Return where the file lies, plain or compressed."""
    for path in (folder / f"{file.name}.gz", folder / file.name):
        if path.exists():
            return path
    return None


def _read(path: Path, file: _File) -> Images:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
        return _content(file, str(path), stream)


def _fetch(file: _File, mirrors: Sequence[str], folder: Path) -> Images:
    """Download one file from the first mirror that has the right content."""
    # Imported here because they take longer than the rest of the package.
    import urllib.error
    import urllib.request
    from http.client import HTTPException

    failures = []
    for mirror in mirrors:
        url = f"{mirror.rstrip('/')}/{file.name}.gz"
        try:
            with urllib.request.urlopen(url, timeout=30) as response:
                # No compressed file is much larger than its content; more is something else.
                packed = response.read(file.size + 4096)
            with gzip.open(io.BytesIO(packed)) as stream:
                content = _content(file, url, stream)
        except urllib.error.HTTPError as error:
            error.close()
            failures.append(f"{url}: {error}")
        except (OSError, HTTPException, ValueError) as error:
            reason = str(error) or type(error).__name__
            failures.append(reason if reason.startswith(url) else f"{url}: {reason}")
        else:
            folder.mkdir(parents=True, exist_ok=True)
            with _files.replace(folder / f"{file.name}.gz") as out:
                out.write(packed)
            return content
    raise ConnectionError(
        f"MNIST could not be downloaded ({'; '.join(failures)}); files that arrived are kept in {folder}: "
        "try again to fetch the others, or name a directory that holds the four IDX files"
    )


def _cache() -> Path:
    try:
        return _user_cache() / "nbnorm" / "mnist"
    except RuntimeError:  # no home directory
        raise FileNotFoundError("there is no home directory to keep MNIST in: give data_dir") from None


def _mirrors(mirrors: Sequence[str] | None) -> Sequence[str]:
    if mirrors is None:
        return os.environ.get(MIRRORS_VARIABLE, "").split() or MNIST_MIRRORS
    if isinstance(mirrors, str) or not mirrors:
        raise ValueError(f"mirrors must be a sequence of addresses, got {mirrors!r}")
    return mirrors


def load_mnist(
    data_dir: _files.PathLike | None = None,
    *,
    download: bool = True,
    mirrors: Sequence[str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> tuple[tuple[Images, Labels], tuple[Images, Labels]]:
    """Return the MNIST images of handwritten digits.

    Parameters
    ----------
    data_dir : str or path, optional
        A directory with the four IDX files under their original names, compressed by gzip
        (``.gz``) or not.  It is only read.  By default the files are kept in the user's cache
        directory and downloaded there when they are missing or damaged.
    download : bool
        Whether missing files may be downloaded, without `data_dir`.
    mirrors : sequence of str, optional
        Addresses to download from, tried in order.  By default those in the environment variable
        ``NBNORM_MNIST_MIRRORS`` (separated by white space), else `MNIST_MIRRORS`.
    progress : callable, optional
        Called with a line of text for each file to download.

    Returns
    -------
    train : tuple of ndarrays
        Images, uint8 of shape (60000, 784) with 28 x 28 pixels row after row, and labels, int64
        of shape (60000,).
    test : tuple of ndarrays
        The same for the 10,000 test images.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ConnectionError
        If no mirror delivers a file.  What arrived before is kept.
    ValueError
        If the content of a file has not the MD5 sum of the original.

    Examples
    --------
    >>> (X_train, y_train), (X_test, y_test) = load_mnist()  # doctest: +SKIP
    >>> X_train.shape, X_test.shape  # doctest: +SKIP
    ((60000, 784), (10000, 784))
    """
    _check.flag("download", download)
    addresses = _mirrors(mirrors)
    folder = _cache() if data_dir is None else Path(data_dir)
    if data_dir is not None and not folder.is_dir():
        raise FileNotFoundError(f"data_dir must be a directory, got {os.fspath(data_dir)!r}")
    arrays = []
    for file in _MNIST:
        path = _found(folder, file)
        if path is not None:
            try:
                arrays.append(_read(path, file))
                continue
            except ValueError:
                if data_dir is not None or not download:
                    raise
        elif data_dir is not None or not download:
            raise FileNotFoundError(f"{folder} must hold {file.name} or {file.name}.gz, and has neither")
        if progress is not None:
            progress(f"downloading {file.name}.gz to {folder}")
        arrays.append(_fetch(file, addresses, folder))
    X_train, y_train, X_test, y_test = arrays
    return (X_train, y_train.astype(np.int64)), (X_test, y_test.astype(np.int64))


# ----------------------------------------------------------------------------------------------
# Split
# ----------------------------------------------------------------------------------------------


def _permutation(n: int, random: np.random.PCG64) -> npt.NDArray[np.int64]:
    """Return a random order of n rows.

    NumPy promises the raw bits of a bit generator for good, but not what its shuffling makes of
    them; a model's held-out rows must be found again by later versions.
    """
    return np.argsort(random.random_raw(n), kind="stable")


def split_rows(
    y: npt.ArrayLike, *, test_size: float = 0.2, seed: int = 0, stratify: bool | None = None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the rows of a training set and of a held-out test set.

    Parameters
    ----------
    y : array_like, shape (n_samples,) or (n_samples, n_outputs)
        Targets.
    test_size : float
        Fraction of the rows to hold out, between 0 and 1; at least one row stays on either side.
    seed : int
        The same seed gives the same rows on every machine and with every version of NumPy.
    stratify : bool, optional
        Whether each class gets its part of the test set, to the nearest row.  A class with a
        single row is then never held out.  By default classes are what they look like: text and
        booleans, and integers that have no more different values than there are rows to hold out,
        unless more than half of the rows have a value of their own.

    Returns
    -------
    train, test : ndarrays of int64
        Row numbers, ascending.

    Raises
    ------
    TypeError
        If a parameter is of the wrong type.
    ValueError
        If there are fewer than two rows, `y` has masked elements, a parameter is out of range, or
        `stratify` is True although `y` has several columns or more than half of the rows have a
        value of their own.

    Examples
    --------
    >>> split_rows(["a", "b", "a", "b", "a", "b"], test_size=1 / 3)[1].size
    2
    """
    _check.unmasked("y", y)
    classes = np.asarray(y)
    if classes.dtype.kind == "O" and all(isinstance(value, str) for value in classes.flat):
        classes = classes.astype(np.str_)
    if classes.ndim == 0 or len(classes) < 2:
        raise ValueError(f"y must have at least two rows to split, got shape {classes.shape}")
    fraction = _check.number("test_size", test_size, above=0, below=1)
    random = np.random.PCG64(_check.integer("seed", seed, least=0))
    required = stratify is not None and _check.flag("stratify", stratify)
    n = len(classes)
    wanted = min(max(round(fraction * n), 1), n - 1)
    order = _permutation(n, random)
    plain = np.sort(order[wanted:]), np.sort(order[:wanted])
    if not required and (stratify is not None or classes.ndim != 1 or classes.dtype.kind not in "biuUS"):
        return plain
    if classes.ndim != 1:
        raise ValueError(f"y must have shape (n,) to be stratified, got shape {classes.shape}")
    _, codes, counts = np.unique(classes, return_inverse=True, return_counts=True)
    alone = np.count_nonzero(counts == 1)
    if not required and (2 * alone > n or (classes.dtype.kind in "iu" and len(counts) > wanted)):
        return plain
    if 2 * alone > n:
        raise ValueError(
            f"y must hold classes to be stratified, but {alone} of {n} rows have a value of their own; "
            "stratify=False holds out any rows"
        )
    # Largest remainders: each class gets its exact number rounded down, then the classes that lost most
    # by that get one row more, as long as one row of the class stays to be trained on.  Chance
    # decides between equals; the order of the classes would hold out small numbers rather than large.
    exact = counts * (wanted / n)
    taken = np.minimum(np.floor(exact).astype(np.int64), counts - 1)
    for code in np.lexsort((_permutation(len(counts), random), taken - exact)):
        if taken.sum() < wanted and taken[code] < counts[code] - 1:
            taken[code] += 1
    shuffled = order[np.argsort(codes[order], kind="stable")]  # class by class, random within
    starts = np.cumsum(counts) - counts
    within = np.arange(n) - np.repeat(starts, counts)
    chosen = within < np.repeat(taken, counts)
    return np.sort(shuffled[~chosen]), np.sort(shuffled[chosen])


def folds(y: npt.NDArray[Any], count: int, *, seed: int = 0, stratify: bool = False) -> npt.NDArray[np.int64]:
    """Return the fold of each row for a cross-validation: folds of equal size, to one row.

    Parameters
    ----------
    y : ndarray, shape (n_samples,) or (n_samples, n_outputs)
        Targets.
    count : int
        Number of folds; no more than there are rows.
    seed : int
        The same seed gives the same folds.
    stratify : bool
        Whether each class is distributed evenly over the folds.

    Returns
    -------
    ndarray of int64, shape (n_samples,)
        Numbers from 0.

    Examples
    --------
    >>> import numpy as np
    >>> np.bincount(folds(np.arange(7), 3)).tolist()
    [3, 2, 2]
    """
    order = _permutation(len(y), np.random.PCG64(seed))
    if stratify:
        order = order[np.argsort(y[order], kind="stable")]
    numbers = np.empty(len(y), np.int64)
    numbers[order] = np.arange(len(y)) % min(count, len(y))
    return numbers


def train_test_split(
    X: npt.NDArray[Samples],
    y: npt.NDArray[Targets],
    *,
    test_size: float = 0.2,
    seed: int = 0,
    stratify: bool | None = None,
) -> tuple[npt.NDArray[Samples], npt.NDArray[Samples], npt.NDArray[Targets], npt.NDArray[Targets]]:
    """Split samples and targets into a training set and a held-out test set.

    Parameters
    ----------
    X : ndarray, shape (n_samples, ...)
        Samples.
    y : ndarray, shape (n_samples,) or (n_samples, n_outputs)
        Targets.
    test_size, seed, stratify
        As in `split_rows`.

    Returns
    -------
    X_train, X_test, y_train, y_test : ndarrays
        Copies of the rows, in their original order.

    Raises
    ------
    TypeError, ValueError
        If the lengths differ or `X` has masked elements, or as `split_rows` does.

    Examples
    --------
    >>> X, y = load_digits()
    >>> X_train, X_test, y_train, y_test = train_test_split(X, y)
    >>> len(X_train), len(X_test)
    (1438, 359)
    """
    _check.unmasked("X", X)
    _check.unmasked("y", y)
    X, y = np.asarray(X), np.asarray(y)
    _check.same_length(X=X, y=y)
    train, test = split_rows(y, test_size=test_size, seed=seed, stratify=stratify)
    return X[train], X[test], y[train], y[test]
