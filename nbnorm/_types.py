"""Types that several folders need: arrays, and what the package uses of other libraries' objects.

None of these libraries is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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
        """Whether each element is stored once, in order."""

    def copy(self) -> CompressedMatrix:
        """Return a copy."""

    def sum_duplicates(self) -> None:
        """Store each element once, in order."""

    def __getitem__(self, key: Any) -> Any:
        """Return some rows or columns."""

    def __matmul__(self, other: Array) -> Array:
        """Return the product with a dense matrix."""


class ArrowData(Protocol):
    """An Arrow table, record batch, reader, dataset or Parquet file."""

    @property
    def schema(self) -> ArrowSchema:
        """Names and types of the columns."""


class ArrowField(Protocol):
    """Name and type of a column of Arrow."""

    @property
    def name(self) -> str:
        """Name."""

    @property
    def type(self) -> Any:
        """A ``pyarrow.DataType``, which ``pyarrow.types`` tells apart."""


class ArrowSchema(Protocol):
    """A ``pyarrow.Schema``."""

    @property
    def names(self) -> list[str]:
        """Names of the columns."""

    @property
    def pandas_metadata(self) -> Mapping[str, Any] | None:
        """What pandas has noted about its index."""

    def remove_metadata(self) -> ArrowSchema:
        """Return it without what is noted beside names and types."""

    def field(self, i: Any, /) -> ArrowField:
        """Return a column's name and type, by its number or name."""

    def __len__(self) -> int:
        """Return the number of columns."""

    def __iter__(self) -> Iterator[ArrowField]:
        """Yield name and type of each column."""


class ArrowColumn(Protocol):
    """A ``pyarrow.Array`` or ``pyarrow.ChunkedArray``."""

    @property
    def type(self) -> Any:
        """A ``pyarrow.DataType``."""

    @property
    def null_count(self) -> int:
        """Number of missing values."""

    def __len__(self) -> int:
        """Return the number of values."""

    def cast(self, target_type: Any, /) -> ArrowColumn:
        """Return it as another type."""

    def to_numpy(self, *, zero_copy_only: bool = ...) -> Array:
        """Return it as an array."""

    def to_pylist(self) -> list[Any]:
        """Return it as a list."""


class ArrowChunks(ArrowColumn, Protocol):
    """A ``pyarrow.ChunkedArray``."""

    @property
    def num_chunks(self) -> int:
        """Number of its chunks."""

    def chunk(self, i: int, /) -> Any:
        """Return one of them."""


class ArrowRows(Protocol):
    """A ``pyarrow.Table`` or ``pyarrow.RecordBatch``."""

    @property
    def schema(self) -> ArrowSchema:
        """Names and types of the columns."""

    @property
    def num_rows(self) -> int:
        """Number of rows."""

    @property
    def column_names(self) -> list[str]:
        """Names of the columns."""

    @property
    def columns(self) -> list[Any]:
        """The columns."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def column(self, i: Any, /) -> Any:
        """Return a column, by its number or name."""

    def select(self, columns: Any, /) -> ArrowRows:
        """Return some of the columns."""

    def replace_schema_metadata(self) -> ArrowRows:
        """Return it with a schema that has no metadata."""

    def slice(self, offset: int, length: int, /) -> ArrowRows:
        """Return some of the rows."""


class OnnxEntry(Protocol):
    """An ``onnx.StringStringEntryProto``."""

    key: str
    value: str


class OnnxAttribute(Protocol):
    """An ``onnx.AttributeProto``."""

    name: str


class OnnxTensor(Protocol):
    """An ``onnx.TensorProto``."""

    name: str
    data_type: int
    data_location: int
    raw_data: bytes

    @property
    def dims(self) -> Sequence[int]:
        """Shape."""

    @property
    def external_data(self) -> Sequence[OnnxEntry]:
        """Where the numbers stand, if not in the model."""

    def HasField(self, field_name: str, /) -> bool:
        """Return whether a field is set."""


class OnnxNode(Protocol):
    """An ``onnx.NodeProto``."""

    name: str
    op_type: str
    domain: str

    @property
    def input(self) -> Sequence[str]:
        """Names of what it reads."""

    @property
    def output(self) -> Sequence[str]:
        """Names of what it computes."""

    @property
    def attribute(self) -> Sequence[OnnxAttribute]:
        """Attributes."""


class OnnxValue(Protocol):
    """An ``onnx.ValueInfoProto``, or a node of a graph's ends."""

    name: str

    @property
    def type(self) -> Any:
        """An ``onnx.TypeProto``."""


class OnnxGraph(Protocol):
    """An ``onnx.GraphProto``."""

    @property
    def node(self) -> Sequence[OnnxNode]:
        """Nodes, in an order in which they can be computed."""

    @property
    def initializer(self) -> Sequence[OnnxTensor]:
        """Constants."""

    @property
    def sparse_initializer(self) -> Sequence[Any]:
        """Sparse constants."""

    @property
    def input(self) -> Sequence[OnnxValue]:
        """Inputs."""

    @property
    def output(self) -> Sequence[OnnxValue]:
        """Outputs."""


class OnnxModel(Protocol):
    """An ``onnx.ModelProto``."""

    @property
    def graph(self) -> OnnxGraph:
        """The graph."""

    @property
    def opset_import(self) -> Sequence[Any]:
        """Versions of the sets of operators."""

    @property
    def metadata_props(self) -> Sequence[OnnxEntry]:
        """Notes of whoever wrote it."""


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
    def Ialltoallv(self) -> Callable[..., Any]:
        """Start to give each rank a part of an array; ``Wait()`` of the request ends it."""

    @property
    def Iallgatherv(self) -> Callable[..., Any]:
        """Start to gather arrays of different lengths."""

    def Abort(self, errorcode: int, /) -> Any:
        """End all ranks."""


# Samples as users have them, and after the checks.
Table: TypeAlias = npt.ArrayLike | SparseMatrix
CheckedTable: TypeAlias = Array | CompressedMatrix

# What is read once, from its beginning to its end: a table, or one that arrives in chunks.
Source: TypeAlias = Table | Iterator[Table | ArrowData] | ArrowData | DaskCollection
