import naive
import numpy as np
import pytest
from numba import config

from nbnorm import BatchNorm, batch_norm_backward, batch_norm_forward, batch_norm_inference
from nbnorm.functions import batch_norm

DTYPES = [np.float32, np.float64]
EPS = 1e-5
# mean and standard deviation of the data
HARD = [(0, 1), (5000, 1), (1e6, 1), (1e7, 1), (-1e30, 1e30), (1e30, 1e24), (1e-20, 1e-25)]
LARGE = [(1000, 10), (513, 257), (3, 600)] if not config.DISABLE_JIT else [(514, 2), (2, 258)]
SHAPES = [(2, 1), (5, 3), *LARGE]


def _data(shape, dtype, mean=0.0, std=1.0):
    rng = np.random.default_rng(0)
    x = (mean + std * rng.normal(size=shape)).astype(dtype)
    gamma, beta = rng.normal(size=(2, shape[1])).astype(dtype)
    return x, gamma, beta, rng.normal(size=shape).astype(dtype)


def _error(got, expected):
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def _bound(dtype, mean, rstd):
    # In float64 the mean's own rounding is |mean| / std units in the last place.
    return 5e-7 if dtype == np.float32 else 2e-16 * max(100, 3 * np.abs(mean * rstd).max())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("mean", "std"), HARD)
def test_batch_norm_forward_agrees_with_numpy(mean, std, shape, dtype):
    x, gamma, beta, _ = _data(shape, dtype, mean, std)
    got = batch_norm_forward(x, gamma, beta, eps=1e-36 if std < 1 else EPS)
    expected = naive.batch_norm_forward(x, gamma, beta, 1e-36 if std < 1 else EPS)
    assert [a.dtype for a in got] == [dtype, np.float64, np.float64]
    assert _error(got[0], expected[0]) < _bound(dtype, *expected[1:])
    assert np.abs(got[1] - expected[1]).max() < 1e-14 * max(abs(mean), std)
    assert _error(got[2], expected[2]) < 1e-9


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 1), (17, 3)])
@pytest.mark.parametrize(("mean", "std"), HARD[:-1])
def test_batch_norm_backward_agrees_with_the_jacobian(mean, std, shape, dtype):
    x, gamma, beta, dout = _data(shape, dtype, mean, std)
    _, mu, rstd = batch_norm_forward(x, gamma, beta, eps=1.0)
    got = batch_norm_backward(dout, x, gamma, mu, rstd)
    expected = naive.batch_norm_backward(dout, x, gamma, 1.0)
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == dtype
        # Two samples leave a tiny gradient between large terms.
        assert np.abs(a - b).max() < 10 * _bound(dtype, mu, rstd) * max(np.abs(b).max(), rstd.max())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", LARGE)
def test_batch_norm_backward_over_several_blocks(shape, dtype):
    x, gamma, beta, dout = _data(shape, dtype, 3.0)
    _, mean, rstd = batch_norm_forward(x, gamma, beta)
    dx, dgamma, dbeta = batch_norm_backward(dout, x, gamma, mean, rstd)
    xhat, g = (x - mean) * rstd, gamma * dout.astype(float)
    expected = rstd * (g - g.mean(axis=0) - xhat * (g * xhat).mean(axis=0))
    rtol = 5e-6 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(dx, expected, rtol=rtol, atol=rtol * np.abs(expected).max())
    np.testing.assert_allclose(dgamma, (dout * xhat).sum(axis=0), rtol=rtol, atol=rtol)
    np.testing.assert_allclose(dbeta, dout.sum(axis=0, dtype=float), rtol=rtol, atol=rtol)


@pytest.mark.skipif(config.DISABLE_JIT, reason="needs compiled code")
@pytest.mark.parametrize("shape", [(3200, 1001), (1_100_001, 3)])
def test_results_written_past_the_caches(shape):
    x, gamma, beta, dout = _data(shape, np.float32, 3.0)
    assert 2 * x.nbytes > batch_norm.LARGE
    # two elements behind the beginning of a line
    out, dx = (np.full(x.size + 2, np.nan, np.float32)[2:].reshape(shape) for _ in range(2))
    _, mean, rstd = batch_norm_forward(x, gamma, beta, out=out)
    _, dgamma, dbeta = batch_norm_backward(dout, x, gamma, mean, rstd, out=dx)
    xhat, slope = (x - mean) * rstd, dout.astype(float)
    np.testing.assert_allclose(out, gamma * xhat + beta, atol=1e-5)
    np.testing.assert_allclose(dgamma, (slope * xhat).sum(axis=0), rtol=1e-6)
    np.testing.assert_allclose(dbeta, slope.sum(axis=0), rtol=1e-6)
    expected = gamma * rstd * (slope - slope.mean(axis=0) - xhat * (slope * xhat).mean(axis=0))
    np.testing.assert_allclose(dx, expected, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(70, 64), (5, 33), (3, 300)])
def test_results_do_not_depend_on_where_they_are_written(shape, dtype):
    x, gamma, beta, dout = _data(shape, dtype, 3.0)
    expected, mean, rstd = batch_norm_forward(x, gamma, beta)
    dx = batch_norm_backward(dout, x, gamma, mean, rstd)[0]
    memory = np.empty(x.size + 16, dtype)
    for first in range(16):
        out = memory[first : first + x.size].reshape(shape)
        np.testing.assert_array_equal(batch_norm_forward(x, gamma, beta, out=out)[0], expected)
        np.testing.assert_array_equal(batch_norm_backward(dout, x, gamma, mean, rstd, out=out)[0], dx)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [0, 5000, 1e6, 1e7])
def test_output_has_mean_0_and_variance_1(offset, dtype):
    x, *_ = _data((400, 6), dtype, offset, 4.0)
    out, _, _ = batch_norm_forward(x, np.ones(6), np.zeros(6))
    np.testing.assert_allclose(out.mean(axis=0, dtype=float), 0, atol=1e-7)
    np.testing.assert_allclose(out.var(axis=0, dtype=float), 1, atol=1e-5)


def test_an_exact_shift_changes_nothing():
    x = np.random.default_rng(0).integers(-50, 50, (40, 5)).astype(np.float32)
    gamma, beta = np.ones(5), np.zeros(5)
    expected, _, _ = batch_norm_forward(x, gamma, beta)
    got, _, _ = batch_norm_forward(x + np.float32(2**22), gamma, beta)
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [0, 0.1, 1e30, -12345.678])
def test_a_constant_column_becomes_beta(value, dtype):
    x = np.full((700, 2), value, dtype)
    out, mean, rstd = batch_norm_forward(x, [1, 2], [3, 4], eps=1e-30)
    np.testing.assert_array_equal(out, np.broadcast_to([3, 4], x.shape))
    np.testing.assert_array_equal(mean, x[0].astype(float))
    np.testing.assert_allclose(rstd, 1e15)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_sample_becomes_beta_and_has_no_gradient(dtype):
    x = np.array([[1.0, -1e7]], dtype)
    out, mean, rstd = batch_norm_forward(x, [1, 2], [3, 4])
    np.testing.assert_array_equal(out, [[3, 4]])
    dx, dgamma, _ = batch_norm_backward([[1.0, 0.3]], x, [1, 2], mean, rstd)
    np.testing.assert_allclose(dx, 0, atol=1e-4 if dtype == np.float32 else 1e-12)
    np.testing.assert_array_equal(dgamma, [0, 0])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("row", [0, 3, 6])
def test_nan_and_infinity_spoil_their_column_only(row, bad):
    x, gamma, beta, dout = _data((7, 3), np.float32)
    x[row, 1] = bad
    with np.errstate(invalid="ignore"):  # inf - inf, without compilation
        out, mean, rstd = batch_norm_forward(x, gamma, beta)
        dx, dgamma, dbeta = batch_norm_backward(dout, x, gamma, mean, rstd)
    np.testing.assert_array_equal(np.isnan(out), np.broadcast_to([False, True, False], out.shape))
    np.testing.assert_array_equal(np.isnan(dx), np.broadcast_to([False, True, False], out.shape))
    np.testing.assert_array_equal(np.isnan(dgamma), [False, True, False])
    assert not np.isnan(dbeta).any()


@pytest.mark.skipif(config.DISABLE_JIT, reason="needs compiled code")
@pytest.mark.parametrize("dtype", DTYPES)
def test_serial_and_parallel_twins_give_the_same_bits(dtype):
    x, gamma, beta, dout = _data((1500, 300), dtype, 10.0)
    results = []
    for way in ("serial", "parallel"):
        out, dx = np.empty_like(x), np.empty_like(x)
        mean, rstd, dgamma, dbeta = np.empty(300), np.empty(300), np.empty(300, dtype), np.empty(300, dtype)
        sums, factors = (
            np.empty(batch_norm.sums_size(1500, 300)),
            np.empty(batch_norm.factors_size(300), dtype),
        )
        getattr(batch_norm.forward_kernel, way)(x, gamma, beta, EPS, out, mean, rstd, sums, factors)
        getattr(batch_norm.backward_kernel, way)(
            dout, x, gamma, mean, rstd, True, dx, dgamma, dbeta, sums, factors
        )
        results.append([a.tobytes() for a in (out, mean, rstd, dx, dgamma, dbeta)])
    assert results[0] == results[1]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_batch_norm_inference_agrees_with_numpy(shape, dtype):
    x, gamma, beta, _ = _data(shape, dtype, 1e6)
    mean, var = np.full(shape[1], 1e6 + 0.01), np.full(shape[1], 2.0)
    got = batch_norm_inference(x, gamma, beta, mean, var)
    expected = gamma * (x - mean) / np.sqrt(var + EPS) + beta
    rtol = 1e-6 if dtype == np.float32 else 1e-13
    np.testing.assert_allclose(got, expected, rtol=rtol, atol=rtol)


def test_inference_with_the_statistics_of_the_batch_is_the_forward_pass():
    x, gamma, beta, _ = _data((9, 4), np.float64)
    expected, mean, _ = batch_norm_forward(x, gamma, beta)
    got = batch_norm_inference(x, gamma, beta, mean, x.var(axis=0))
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-13)


def test_out_is_filled_and_returned():
    x, gamma, beta, dout = _data((4, 3), np.float32)
    out = np.empty_like(x)
    got, mean, rstd = batch_norm_forward(x, gamma, beta, out=out)
    assert got is out
    assert batch_norm_backward(dout, x, gamma, mean, rstd, out=out)[0] is out
    assert batch_norm_inference(x, gamma, beta, mean, mean**2, out=out) is out


@pytest.mark.parametrize(
    "layout", [np.asfortranarray, lambda x: np.repeat(x, 2, axis=1)[:, ::2], np.ndarray.tolist]
)
def test_every_layout_is_read(layout):
    x, gamma, beta, dout = _data((6, 4), np.float64)
    expected, mean, rstd = batch_norm_forward(x, gamma, beta)
    x.setflags(write=False)
    np.testing.assert_array_equal(batch_norm_forward(layout(x), gamma, beta)[0], expected)
    np.testing.assert_array_equal(
        batch_norm_backward(layout(dout), layout(x), gamma, mean, rstd)[0],
        batch_norm_backward(dout, x, gamma, mean, rstd)[0],
    )


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"x": np.ones(3)}, ValueError, "x must have shape"),
        ({"x": np.ones((0, 3))}, ValueError, "x must not be empty"),
        ({"x": np.ones((2, 3), object)}, TypeError, "x must hold real numbers"),
        ({"gamma": np.ones(2)}, ValueError, r"gamma must have shape \(3,\)"),
        ({"beta": np.ones(3, complex)}, TypeError, "beta must hold real numbers"),
        ({"eps": 0}, ValueError, "eps must be"),
        ({"eps": None}, TypeError, "eps must be a real number"),
        ({"out": np.ones((2, 3), np.float32)}, ValueError, "out must be a float64 array"),
    ],
)
def test_batch_norm_forward_refuses(changed, error, message):
    given = {"x": np.ones((2, 3)), "gamma": np.ones(3), "beta": np.ones(3)} | changed
    with pytest.raises(error, match=message):
        batch_norm_forward(**given)


def test_shared_memory_and_negative_variances_are_refused():
    x, one = np.ones((2, 3)), np.ones(3)
    with pytest.raises(ValueError, match="out must not share memory with x"):
        batch_norm_forward(x, one, one, out=x)
    with pytest.raises(ValueError, match="out must not share memory with x"):
        batch_norm_backward(x.copy(), x, one, one, one, out=x)
    with pytest.raises(ValueError, match=r"running_var must not be negative, got -1.0 at \[0\]"):
        batch_norm_inference(x, one, one, one, -one)


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")  # of plain Python
def test_variances_beyond_float64_are_refused():
    x = np.array([[2.0, 1e200], [4.0, 3e200]])
    layer = BatchNorm(2, dtype=np.float64)
    for call in (lambda: batch_norm_forward(x, np.ones(2), np.zeros(2)), lambda: layer.forward(x)):
        with pytest.raises(
            ValueError, match="x must have values whose variance is finite, but that of column 1"
        ):
            call()
    np.testing.assert_array_equal(layer.running_mean, 0.0)
    x[0, 1] = np.nan  # is what was given
    assert np.isnan(batch_norm_forward(x, np.ones(2), np.zeros(2))[0][:, 1]).all()
    largest = np.array([[3e38], [-3e38]], np.float32)
    got = batch_norm_forward(largest, np.ones(1), np.zeros(1))[0]
    np.testing.assert_allclose(got, [[1], [-1]], rtol=1e-6)


@pytest.mark.parametrize("rows", [5, 70] if not config.DISABLE_JIT else [2])
def test_columns_do_not_depend_on_their_neighbours(rows):
    """A block that is alone is divided by columns, several blocks are not; no bit may show it."""
    width = 2 * batch_norm.PART + 17
    rng = np.random.default_rng(0)
    x, dout = (rng.normal(size=(rows, width)).astype(np.float32) for _ in range(2))
    gamma, beta = (rng.normal(size=width).astype(np.float32) for _ in range(2))

    def compute(columns):
        given = np.ascontiguousarray(x[:, columns])
        out, mean, rstd = batch_norm_forward(given, gamma[columns], beta[columns])
        return out, mean, rstd, *batch_norm_backward(dout[:, columns], given, gamma[columns], mean, rstd)

    parts = zip(*(compute(slice(*ends)) for ends in ((0, 700), (700, width))), strict=True)
    for whole, some in zip(compute(slice(0, width)), parts, strict=True):
        np.testing.assert_array_equal(whole, np.concatenate(some, axis=-1))
