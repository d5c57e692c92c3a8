"""Types that several folders need: arrays, and what the package uses of other libraries' objects.

None of these libraries is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]  # float32 or float64
Float64Array: TypeAlias = npt.NDArray[np.float64]


class SparseMatrix(Protocol):
    """A SciPy sparse matrix or array of any format."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the elements."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and columns."""

    @property
    def ndim(self) -> int:
        """Number of dimensions."""

    @property
    def format(self) -> str:
        """Such as ``"csr"``."""

    def tocsr(self) -> CompressedMatrix:
        """Return it in compressed rows."""

    def tocsc(self) -> CompressedMatrix:
        """Return it in compressed columns."""

    def toarray(self) -> Array:
        """Return it as a dense array."""


class CompressedMatrix(SparseMatrix, Protocol):
    """A SciPy sparse matrix or array in compressed rows or columns."""

    data: Array
    indices: Array
    indptr: Array

    @property
    def nnz(self) -> int:
        """Number of the stored values."""

    @property
    def has_canonical_format(self) -> bool:
        """Whether each place is stored once, in order."""

    def copy(self) -> CompressedMatrix:
        """Return a copy."""

    def sum_duplicates(self) -> None:
        """Store each place once, in order."""

    def __getitem__(self, key: Any) -> Any:
        """Return some rows or columns."""

    def __matmul__(self, other: Array) -> Array:
        """Return the product with a dense matrix."""


class ArrowData(Protocol):
    """An Arrow table, record batch, reader, dataset or Parquet file."""

    @property
    def schema(self) -> Any:
        """Names and types of the columns."""


class DaskCollection(Protocol):
    """A Dask array or dataframe; the rows of its shape may not be known."""

    @property
    def shape(self) -> tuple[Any, ...]:
        """Rows and columns."""

    def to_delayed(self) -> Any:
        """Return the partitions, not computed."""

    def compute(self) -> Any:
        """Return what it stands for."""


class DaskClient(Protocol):
    """A ``dask.distributed.Client``."""

    @property
    def scatter(self) -> Callable[..., Any]:
        """Send data to the workers."""

    @property
    def submit(self) -> Callable[..., Any]:
        """Call a function on a worker; returns a future."""


class Communicator(Protocol):
    """An ``mpi4py.MPI.Comm``: methods in capitals send arrays, the others objects."""

    def Get_rank(self) -> int:
        """Return the number of this rank."""

    def Get_size(self) -> int:
        """Return the number of ranks."""

    def allgather(self, sendobj: Any, /) -> list[Any]:
        """Return what each rank gives."""

    def bcast(self, obj: Any, root: int, /) -> Any:
        """Return what one rank gives."""

    def alltoall(self, sendobj: Sequence[Any], /) -> list[Any]:
        """Send one thing to each rank and return what each has sent here."""

    def Allgatherv(self, sendbuf: Array, recvbuf: Sequence[Any], /) -> None:
        """Gather arrays of different lengths."""

    @property
    def Alltoallv(self) -> Callable[..., None]:
        """Give each rank a part of an array."""

    def Abort(self, errorcode: int, /) -> Any:
        """End all ranks."""


# Samples as users have them, and after the checks.
Table: TypeAlias = npt.ArrayLike | SparseMatrix
CheckedTable: TypeAlias = Array | CompressedMatrix

# What is read once, from its beginning to its end: a table, or one that arrives in chunks.
Source: TypeAlias = Table | Iterator[Table | ArrowData] | ArrowData | DaskCollection
