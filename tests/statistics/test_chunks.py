"""Data that arrive in chunks against the same data read at once."""

import numpy as np
import pytest
import scipy.sparse

from nbnorm import Standardizer, moments
from nbnorm.statistics.chunks import chunks


def normal(shape, dtype=np.float64, seed=0, mean=0.0):
    return (np.random.default_rng(seed).standard_normal(shape) + mean).astype(dtype)


def test_iterators_of_chunks():
    x = normal((100, 3))
    got = Standardizer().fit(x[i : i + 30] for i in range(0, 100, 30))
    np.testing.assert_allclose(got.var_, x.var(axis=0), rtol=1e-13)
    out = np.concatenate(list(got.transform_chunks(iter([x[:40], x[40:]]))))
    np.testing.assert_array_equal(out, got.transform(x))


def test_arrow():
    pyarrow = pytest.importorskip("pyarrow")
    x = normal((60, 2))
    table = pyarrow.table({"a": x[:, 0], "b": x[:, 1]})
    expected = moments(x)
    for source in (table, table.to_batches()[0], iter(table.to_batches(20)), table.to_reader(20)):
        got = Standardizer().fit(source)
        np.testing.assert_allclose(got.var_, expected.var(), rtol=1e-13)
    assert Standardizer().fit(table).moments_.feature_names == ["a", "b"]
    with pytest.raises(ValueError, match="features"):
        Standardizer().fit(table).partial_fit(table.rename_columns(["a", "c"]))
    with pytest.raises(TypeError, match="column 'a' must hold real numbers, got string"):
        Standardizer().fit(pyarrow.table({"a": ["x"]}))


def test_arrow_nulls_and_types():
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({"a": [1, None, 3], "b": [True, False, True]})
    got = Standardizer(nan="omit").fit(table)
    np.testing.assert_array_equal(got.n_samples_seen_, [2, 3])
    np.testing.assert_allclose(got.mean_, [2, 2 / 3])
    single = pyarrow.table({"a": np.ones(3, np.float32)})
    assert next(chunks(single)).dtype == np.float32


def test_arrow_integers_beyond_floats_with_nulls():
    pyarrow = pytest.importorskip("pyarrow")
    values = [1700000000000000001, 1700000001000000001, 1700000003000000001]
    expected = Standardizer().fit(np.array(values).reshape(-1, 1))
    table = pyarrow.table({"t": [*values, None]})
    got = Standardizer(nan="omit").fit(table)
    np.testing.assert_array_equal(got.scale_, expected.scale_)
    column = np.array(values).reshape(-1, 1)
    np.testing.assert_allclose(got.transform(table)[:3], expected.transform(column), rtol=1e-14)
    assert np.isnan(got.transform(table)[3, 0])


def test_transform_of_a_table_is_that_of_its_chunks():
    pyarrow = pytest.importorskip("pyarrow")
    flags = pyarrow.table({"a": [True, None, False], "b": [1, 2, 4]})
    for table in (
        flags,
        flags.select(["a"]),
        flags.select(["b"]).cast(pyarrow.schema([("b", pyarrow.float16())])),
    ):
        got = Standardizer(nan="omit").fit(table)
        (chunk,) = got.transform_chunks(table)
        np.testing.assert_array_equal(chunk, got.transform(table), strict=True)


def test_columns_of_arrow_are_taken_by_name(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"a": [0.0, 4.0], "b": [1.0, 3.0]})
    turned = table.select(["b", "a"])
    parquet.write_table(turned, tmp_path / "x.parquet")
    got = Standardizer().fit(table)
    expected = [[-1, -1], [1, 1]]
    for source in (turned, turned.to_batches()[0], iter([turned]), turned.to_reader()):
        np.testing.assert_array_equal(np.concatenate(list(got.transform_chunks(source))), expected)
    with parquet.ParquetFile(tmp_path / "x.parquet") as file:
        np.testing.assert_array_equal(np.concatenate(list(got.transform_chunks(file))), expected)
        np.testing.assert_array_equal(Standardizer().fit(table).partial_fit(file).scale_, [2, 1])
    np.testing.assert_array_equal(got.transform(turned), expected)
    np.testing.assert_array_equal(Standardizer().fit(iter([table, turned])).scale_, [2, 1])
    np.testing.assert_array_equal(np.concatenate(list(chunks(iter([table, turned])))), [[0, 1], [4, 3]] * 2)
    other = table.rename_columns(["a", "c"])
    for call in (
        lambda: list(got.transform_chunks(other)),
        lambda: Standardizer().fit(iter([table, other])),
        lambda: list(chunks(iter([table, other]))),
        lambda: got.partial_fit(other.to_reader()),
    ):
        with pytest.raises(ValueError, match=r"chunk \d must have the features .* \['c'\] not known"):
            call()
    with pytest.raises(ValueError, match="chunk 0 must have distinct names of columns, got 'a' 2 times"):
        Standardizer().fit(iter([table.rename_columns(["a", "a"])]))


def test_streams_of_frames():
    polars = pytest.importorskip("polars")
    pandas = pytest.importorskip("pandas")
    first = pandas.DataFrame({"a": [0.0, 4.0], "b": [1.0, 3.0]})
    second = polars.DataFrame({"b": [1.0, 3.0], "a": [0.0, 4.0]})
    got = Standardizer().fit(iter([first, second]))
    np.testing.assert_array_equal(got.scale_, [2, 1])
    assert got.moments_.feature_names == ["a", "b"]


def test_parquet_file_object(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    x = normal((300, 2))
    parquet.write_table(
        pyarrow.table({"a": x[:, 0], "b": x[:, 1]}), tmp_path / "x.parquet", row_group_size=70
    )
    with parquet.ParquetFile(tmp_path / "x.parquet") as file:
        got = Standardizer().fit(file)
    np.testing.assert_allclose(got.mean_, x.mean(axis=0), rtol=1e-12)


@pytest.mark.parametrize("kind", ["csr_matrix", "csc_array", "coo_array"])
def test_streams_of_sparse_matrices(kind):
    x = normal((90, 6)) * (normal((90, 6), seed=1) > 0.5)
    form = getattr(scipy.sparse, kind)
    expected = Standardizer(with_mean=False).fit(x)
    got = Standardizer(with_mean=False).fit(form(part) for part in np.split(x, 3))
    np.testing.assert_allclose(got.var_, expected.var_, rtol=1e-12)
    mixed = Standardizer(with_mean=False).partial_fit(iter([x[:20], form(x[20:])]))
    np.testing.assert_allclose(mixed.scale_, expected.scale_, rtol=1e-12)
    there = list(got.transform_chunks(iter([form(x[:40]), form(x[40:])])))
    assert all(scipy.sparse.issparse(part) for part in there)
    np.testing.assert_allclose(scipy.sparse.vstack(there).toarray(), got.transform(x), rtol=1e-14)
    assert [part.shape for part in chunks(iter([form(x[:40]), x[40:]]))] == [(40, 6), (50, 6)]
    with pytest.raises(ValueError, match="fold"):
        next(Standardizer().fit(x).transform_chunks(iter([form(x)])))
    with pytest.raises(ValueError, match="chunk 1 must have 6 features"):
        Standardizer().fit(iter([form(x), form(x[:, :2])]))
