import math
import re
from decimal import Decimal

import numba
import numpy as np
import pytest

from nbnorm import _check


def refuses(error, pattern, function, *args, **options):
    with pytest.raises(error, match=pattern):
        function(*args, **options)


def test_readable_shares_memory_and_may_be_read_by_kernels():
    x = np.arange(6.0)
    x.flags.writeable = False
    got = _check.readable(x)
    assert got.flags.writeable
    assert np.shares_memory(got, x)
    np.testing.assert_array_equal(got, x)
    assert not x.flags.writeable
    del x  # the memory stays with the result
    np.testing.assert_array_equal(got, np.arange(6.0))


def test_readable_copies_what_kernels_cannot_read():
    unaligned = np.zeros(17, np.uint8)[1:].view(np.float64)
    foreign = np.arange(3.0).astype(">f8")
    for x in (unaligned, foreign):
        got = _check.readable(x)
        assert got.flags.aligned
        assert got.dtype.isnative
        np.testing.assert_array_equal(got, x)


def test_readable_drops_subclasses(tmp_path):
    got = _check.readable(np.memmap(tmp_path / "x", np.float32, "w+", shape=(3,)))
    assert type(got) is np.ndarray


@pytest.mark.parametrize("x", [[1, 2.5], np.float32(3), [[True]], np.ones(2, np.float16), range(3)])
def test_numeric(x):
    np.testing.assert_array_equal(_check.numeric("x", x), np.asarray(x))


@pytest.mark.parametrize("x", [["a"], [1j], [None], [{}], np.ones(2, object), np.zeros(2, "M8[s]"), b"text"])
def test_numeric_refuses(x):
    refuses(TypeError, "^x must hold real numbers, got dtype", _check.numeric, "x", x)


def test_numeric_refuses_ragged():
    refuses(ValueError, "^x must be a rectangular", _check.numeric, "x", [[1], [1, 2]])


@pytest.mark.parametrize(
    ("columns", "dtype", "expected"),
    [
        ({"a": ([1, 2], "Int32"), "b": ([3, 4], "Int8")}, np.int32, [[1, 3], [2, 4]]),
        ({"a": ([1, None], "Int64"), "b": ([3, 4], "Int64")}, np.float64, [[1, 3], [np.nan, 4]]),
        ({"a": ([1, None], "Float32"), "b": ([3, 4], "Float32")}, np.float32, [[1, 3], [np.nan, 4]]),
        ({"a": ([True, None], "boolean"), "b": ([3, 4], "float64")}, np.float64, [[1, 3], [np.nan, 4]]),
    ],
)
def test_numeric_takes_nullable_columns_of_pandas(columns, dtype, expected):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({name: pandas.array(*given) for name, given in columns.items()})
    np.testing.assert_array_equal(_check.numeric("x", frame), np.array(expected, dtype), strict=True)
    np.testing.assert_array_equal(_check.numeric("x", frame["a"]), np.array(expected)[:, 0])


def test_numeric_takes_sparse_columns_beside_nullable_ones():
    pandas = pytest.importorskip("pandas")
    columns = {"a": pandas.arrays.SparseArray([0.0, 1.5]), "b": pandas.array([3, None], dtype="Int64")}
    np.testing.assert_array_equal(_check.numeric("x", pandas.DataFrame(columns)), [[0, 3], [1.5, np.nan]])


def test_plain_leaves_what_is_no_number():
    pandas = pytest.importorskip("pandas")
    np.testing.assert_array_equal(_check.plain("y", ["a", "b"]), ["a", "b"])
    got = _check.plain("y", pandas.Series([1, 0], dtype="Int64"))
    np.testing.assert_array_equal(got, np.array([1, 0]), strict=True)


def test_numeric_refuses_what_looks_like_numbers():
    pandas = pytest.importorskip("pandas")
    for frame in (
        pandas.DataFrame({"a": ["1", "2"]}),
        pandas.DataFrame({"a": pandas.array([1, None], dtype="Int64"), "b": np.array([1, "2"], object)}),
        pandas.DataFrame({"a": pandas.to_datetime(["2020-01-01"])}),
    ):
        refuses(TypeError, "^x must hold real numbers, got dtype", _check.numeric, "x", frame)


def test_numeric_refuses_masked_elements():
    x = np.ma.array([[1.0, 2.0], [3.0, 1e9]], mask=[[0, 0], [1, 1]])
    refuses(ValueError, "^x must not have masked elements, got 2: fill or drop them", _check.numeric, "x", x)
    np.testing.assert_array_equal(_check.numeric("x", x[:1]), [[1, 2]])
    np.testing.assert_array_equal(_check.numeric("x", np.ma.array([1.0])), [1])


CONTAINERS = {
    "arrow integers": lambda pa: pa.table({"a": [2**60 + 1, None, 3]}),
    "arrow bool": lambda pa: pa.table({"a": [True, None, False]}),
    "arrow decimals": lambda pa: pa.table({"a": pa.array([Decimal("1.10"), None], pa.decimal128(9, 2))}),
    "arrow dictionary": lambda pa: pa.table({"a": pa.array([5, None, 7]).dictionary_encode()}),
    "arrow float32": lambda pa: pa.table({"a": pa.array([1.5, None], pa.float32())}),
    "arrow nothing": lambda pa: pa.table({"a": pa.nulls(2)}),
    "arrow chunks": lambda pa: pa.concat_tables([pa.table({"a": [1]}), pa.table({"a": [2]})]),
    "arrow batch": lambda pa: pa.RecordBatch.from_pydict({"a": [1, None]}),
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_numeric_takes_columns_of_arrow(kind):
    pyarrow = pytest.importorskip("pyarrow")
    table = CONTAINERS[kind](pyarrow)
    expected = [[math.nan if value is None else float(value)] for value in table.column(0).to_pylist()]
    got = _check.numeric("x", table)
    np.testing.assert_array_equal(
        got, np.array(expected, np.float32 if "float32" in kind else float), strict=True
    )
    np.testing.assert_array_equal(_check.numeric("x", table.column(0)), got[:, 0])
    pandas = pytest.importorskip("pandas")
    if "nothing" not in kind and "dictionary" not in kind:
        frame = table.to_pandas(types_mapper=pandas.ArrowDtype)
        np.testing.assert_array_equal(_check.numeric("x", frame), got)


def test_numeric_takes_columns_of_polars():
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame(
        {"a": [True, None], "b": [Decimal("1.5"), None], "c": [2**60, None], "d": [1, 2]}
    )
    expected = np.array([[1, 1.5, 2**60, 1], [np.nan, np.nan, np.nan, 2]])
    np.testing.assert_array_equal(_check.numeric("x", frame), expected, strict=True)
    np.testing.assert_array_equal(_check.numeric("x", frame["b"]), expected[:, 1])
    if hasattr(polars, "Int128"):  # NumPy has none
        wide = polars.DataFrame({"a": polars.Series([1, 2], dtype=polars.Int128)})
        np.testing.assert_array_equal(_check.numeric("x", wide), [[1.0], [2.0]])
    with pytest.raises(TypeError, match="x must be a frame in memory, got LazyFrame"):
        _check.numeric("x", frame.lazy())
    with pytest.raises(TypeError, match="column 'e' must hold real numbers, got String"):
        _check.numeric("x", polars.DataFrame({"d": [1], "e": ["1"]}))


def test_numeric_takes_categories_that_are_numbers():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": pandas.Categorical([7, None, 5]), "b": [1, 2, 3]})
    np.testing.assert_array_equal(_check.numeric("x", frame), [[7, 1], [np.nan, 2], [5, 3]])
    whole = pandas.DataFrame({"a": pandas.Categorical([7, 5])})
    np.testing.assert_array_equal(_check.numeric("x", whole), np.array([[7], [5]]), strict=True)
    with pytest.raises(TypeError, match="column 'a' must hold real numbers, got category"):
        _check.numeric("x", pandas.DataFrame({"a": pandas.Categorical(["7", "5"])}))


def test_places():
    assert _check.positions("x", ["a", "b"], ["a", "b"]) is None
    assert _check.positions("x", ["c", "a", "b"], ["a", "b", "c"]) == [1, 2, 0]
    assert _check.positions("x", ["a", "a"], ["a", "a"]) is None
    refuses(
        ValueError, r"^x must have the features .*: \['b'\] missing", _check.positions, "x", ["a"], ["a", "b"]
    )
    refuses(ValueError, r"'a' 2 times", _check.positions, "x", ["a", "b", "a"], ["b", "a"])
    many = [f"f{j}" for j in range(10_000)]
    with pytest.raises(ValueError, match="missing") as caught:
        _check.positions("x", many[1:], many)
    assert len(str(caught.value)) < 400


def test_rank():
    _check.rank("x", np.ones((2, 3)), 2)
    refuses(
        ValueError, r"^x must have shape \(n,\), got shape \(2, 3\)", _check.rank, "x", np.ones((2, 3)), 1
    )
    refuses(ValueError, "n_samples, n_features", _check.rank, "x", np.ones(3), 2)
    refuses(ValueError, r"^x must not be empty, got shape \(0, 3\)", _check.rank, "x", np.ones((0, 3)), 2)
    refuses(ValueError, r"^w must have shape \(a, b\), got", _check.rank, "w", np.ones(3), 2, "(a, b)")


def test_floats():
    got = _check.floats("x", [[1, 2]], 2)
    assert got.dtype == np.float64
    assert _check.floats("x", np.ones((1, 2), np.float32), 2).dtype == np.float32
    assert _check.floats("x", np.ones((1, 2), np.float32), 2, dtype=np.dtype(np.float64)).dtype == np.float64
    x = np.ones((3, 2))
    assert np.shares_memory(_check.floats("x", x, 2), x)
    assert _check.floats("x", x.T, 2).flags.c_contiguous
    assert _check.floats("x", x.astype(">f4"), 2).dtype.isnative
    refuses(
        ValueError, r"^x must have shape \(3, 3\), got shape \(3, 2\)", _check.floats, "x", x, 2, shape=(3, 3)
    )


@pytest.mark.parametrize("shape", [(), (3,), (2, 2, 2), (1, 2, 1, 2)])
def test_floats_compares_a_given_shape_alone(shape):
    x = np.ones(shape)
    got = _check.floats("x", x, 2, shape=shape)
    assert got.shape == shape
    pattern = rf"^x must have shape {re.escape(str(shape))}, got shape \(1, 5\)"
    refuses(ValueError, pattern, _check.floats, "x", np.ones((1, 5)), len(shape), shape=shape)


def test_weights():
    got = _check.weights("w", [1, 0, 2], 3)
    np.testing.assert_array_equal(got, np.array([1.0, 0.0, 2.0]), strict=True)
    np.testing.assert_array_equal(_check.weights("w", [0, 0], 2, some=False), [0, 0])
    refuses(TypeError, "^w must hold real numbers", _check.weights, "w", ["a"], 1)
    refuses(ValueError, r"^w must have shape \(2,\), got shape \(1, 2\)", _check.weights, "w", [[1, 2]], 2)
    refuses(
        ValueError, r"^w must be finite and not negative, got -1 at \[1\]", _check.weights, "w", [1, -1], 2
    )
    refuses(ValueError, r"^w must be finite and not negative, got nan at", _check.weights, "w", [np.nan], 1)
    refuses(ValueError, "^w must not be zero for every sample", _check.weights, "w", [0, 0], 2)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("order", ["C", "F"])
def test_finite_names_the_position(bad, order):
    x = np.ones((700, 500), order=order)  # more than one block
    _check.finite("x", x)
    x[650, 7] = bad
    refuses(ValueError, rf"^x must be finite, got {bad} at \[650, 7\]", _check.finite, "x", x)
    _check.finite("x", x[:650])
    _check.finite("x", np.ones(3, int))


def test_output():
    shape, dtype = (2, 3), np.dtype(np.float32)
    assert _check.output("out", None, shape, dtype).shape == shape
    out = np.empty(shape, dtype)
    assert _check.output("out", out, shape, dtype) is out
    frozen = np.empty(shape, dtype)
    frozen.flags.writeable = False
    refuses(TypeError, "^out must be a NumPy array, got list", _check.output, "out", [1], shape, dtype)
    masked = np.ma.empty(shape, dtype)
    refuses(
        TypeError, "^out must be a NumPy array, got MaskedArray", _check.output, "out", masked, shape, dtype
    )
    for bad in (np.empty((3, 2), dtype), np.empty(shape), np.empty((3, 2), dtype).T, frozen):
        refuses(ValueError, "^out must be", _check.output, "out", bad, shape, dtype)


def test_apart():
    x = np.ones(4)
    _check.apart("out", np.ones(4), x=x)
    refuses(ValueError, "^out must not share memory with x", _check.apart, "out", x[1:], x=x)


@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), np.int8(2)])
def test_number(value):
    got = _check.number("eps", value, above=1)
    assert type(got) is float
    assert got == 2


@pytest.mark.parametrize(
    ("value", "bounds", "error", "pattern"),
    [
        ("1", {}, TypeError, "real number, got str"),
        (True, {}, TypeError, "real number, got bool"),
        (1j, {}, TypeError, "real number, got complex"),
        (np.complex64(1), {}, TypeError, "real number, got complex64"),
        (None, {}, TypeError, "NoneType"),
        (math.nan, {}, ValueError, "finite, got nan"),
        (math.inf, {}, ValueError, "finite, got inf"),
        (0, {"above": 0}, ValueError, "finite and above 0, got 0"),
        (-1, {"least": 0}, ValueError, "at least 0, got -1"),
        (1, {"least": 0, "below": 1}, ValueError, "at least 0 and below 1, got 1"),
        (3, {"most": 2}, ValueError, "at most 2, got 3"),
    ],
)
def test_number_refuses(value, bounds, error, pattern):
    refuses(error, f"^eps must be.*{pattern}", _check.number, "eps", value, **bounds)


@pytest.mark.parametrize("value", [10**400, -(10**400)], ids=["plus", "minus"])
def test_number_refuses_integers_beyond_floats(value):
    refuses(ValueError, "^eps must be", _check.number, "eps", value)


def test_integer():
    assert _check.integer("n", np.int16(4), least=1, most=4) == 4
    assert type(_check.integer("n", np.int16(4))) is int
    for bad in (1.0, "1", True, None, np.float64(2)):
        refuses(TypeError, "^n must be an integer, got", _check.integer, "n", bad)
    refuses(ValueError, "^n must be at least 1 and at most 4, got 5", _check.integer, "n", 5, least=1, most=4)
    refuses(ValueError, "^n must be at least 1, got 0", _check.integer, "n", 0, least=1)


def test_flag():
    assert _check.flag("shuffle", np.True_) is True
    for bad in (1, "yes", None):
        refuses(TypeError, "^shuffle must be True or False", _check.flag, "shuffle", bad)


def test_choice():
    assert _check.choice("norm", None, ("after", None)) is None
    assert _check.choice("norm", "after", ("after", None)) == "after"
    for bad in ("After", 0, False, ["after"], np.ones(2)):
        refuses(ValueError, "^norm must be one of 'after', None", _check.choice, "norm", bad, ("after", None))


def test_float_dtype():
    for name in ("float32", np.float64, "d", float):
        assert _check.float_dtype("dtype", name) in _check.FLOATS
    for bad in (int, "float16", complex, object):
        refuses(ValueError, "^dtype must be float32 or float64", _check.float_dtype, "dtype", bad)
    refuses(TypeError, "^dtype must be float32 or float64", _check.float_dtype, "dtype", "nonsense")


def test_same_length():
    assert _check.same_length(x=np.ones(3), y=np.ones((3, 2))) == 3
    refuses(
        ValueError,
        "^x and y must have the same length: x has 3, y has 2",
        _check.same_length,
        x=np.ones(3),
        y=np.ones(2),
    )


def test_compiled():
    one = numba.njit(lambda x: x)
    _check.compiled("f", one, 1)
    _check.compiled("f", numba.njit(lambda x, y, z=1: x), 2)
    refuses(TypeError, "f must be compiled by numba.njit, got int", _check.compiled, "f", 1, 1)
    refuses(
        TypeError, r"f must take 2 arguments, got \(x\)", _check.compiled, "f", numba.njit(lambda x: x), 2
    )
    refuses(TypeError, "f must take 1 argument, got", _check.compiled, "f", numba.njit(lambda: 1), 1)
