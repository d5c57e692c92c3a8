import naive
import numpy as np
import pytest

from nbnorm import binary_cross_entropy, losses, mean_squared_error, softmax_cross_entropy

DTYPES = [np.float32, np.float64]


def _close(got, expected, dtype):
    rtol = 2e-6 if dtype == np.float32 else 1e-13
    np.testing.assert_allclose(got, np.asarray(expected, float), rtol=rtol, atol=rtol / 100)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (130, 10), (5, 70)])
def test_softmax_cross_entropy_agrees_with_numpy(shape, dtype):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=shape).astype(dtype) * 3, rng.integers(0, shape[1], shape[0])
    got, gradient = softmax_cross_entropy(logits, labels)
    expected, expected_gradient = naive.softmax_cross_entropy(logits, labels)
    assert gradient.dtype == dtype
    _close(got, expected, dtype)
    np.testing.assert_allclose(
        gradient, expected_gradient.astype(float), rtol=0, atol=np.finfo(dtype).eps * 4 / shape[0]
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_cross_entropy_is_stable(dtype):
    big = dtype(1e30)
    got, gradient = softmax_cross_entropy(np.array([[big, -big], [-big, big]], dtype), [0, 0])
    assert got == pytest.approx(float(big))
    np.testing.assert_array_equal(gradient, [[0, 0], [-0.5, 0.5]])


@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_cross_entropy_does_not_see_a_shift(dtype):
    logits = np.arange(12, dtype=dtype).reshape(4, 3) / 4
    expected, expected_gradient = softmax_cross_entropy(logits, [0, 1, 2, 0])
    got, gradient = softmax_cross_entropy(logits + dtype(64), [0, 1, 2, 0])
    assert got == pytest.approx(expected, rel=1e-7)
    np.testing.assert_array_equal(gradient, expected_gradient)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(7,), (4, 3), (150, 2)])
def test_binary_cross_entropy_agrees_with_numpy(shape, dtype):
    rng = np.random.default_rng(0)
    z, t = rng.normal(size=shape).astype(dtype), rng.uniform(size=shape).astype(dtype)
    got, gradient = binary_cross_entropy(z, t)
    p = naive.activation(z, "sigmoid")
    expected = -(t * np.log(p) + (1 - t) * np.log1p(-p)).sum() / shape[0]
    _close(got, expected, dtype)
    np.testing.assert_allclose(gradient, ((p - t) / shape[0]).astype(float), rtol=0, atol=np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", DTYPES)
def test_binary_cross_entropy_is_stable(dtype):
    got, gradient = binary_cross_entropy(np.array([1e30, -1e30], dtype), [1, 1])
    assert got == pytest.approx(5e29)
    np.testing.assert_array_equal(gradient, [0, -0.5])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(7,), (4, 3), (150, 2)])
def test_mean_squared_error_agrees_with_numpy(shape, dtype):
    rng = np.random.default_rng(0)
    pred, targets = rng.normal(size=(2, *shape)).astype(dtype)
    got, gradient = mean_squared_error(pred, targets)
    difference = pred.astype(float) - targets
    _close(got, (difference**2).sum() / 2 / shape[0], dtype)
    np.testing.assert_allclose(gradient, difference / shape[0], rtol=4 * np.finfo(dtype).eps)


def test_squares_beyond_float32_are_summed():
    got, _ = mean_squared_error(np.array([1e25], np.float32), np.zeros(1))
    assert got == pytest.approx(0.5 * float(np.float32(1e25)) ** 2)


@pytest.mark.parametrize("kernel", [losses.binary_kernel, losses.squared_kernel])
def test_serial_and_parallel_twins_give_the_same_bits(kernel):
    rng = np.random.default_rng(0)
    x, y = rng.uniform(size=(2, 300, 7)).astype(np.float32)
    results = []
    for twin in (kernel.serial, kernel.parallel):
        gradient, partial = np.empty_like(x), np.empty(losses.partial_size(300))
        results.append((twin(x, y, gradient, partial), gradient.tobytes()))
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("function", "second"),
    [
        (softmax_cross_entropy, [0, 1]),
        (binary_cross_entropy, np.ones((2, 3))),
        (mean_squared_error, np.ones((2, 3))),
    ],
)
def test_out_is_filled_and_returned(function, second):
    x = np.arange(6.0).reshape(2, 3)
    out = np.empty_like(x)
    _, got = function(x, second, out=out)
    assert got is out
    np.testing.assert_array_equal(out, function(x, second)[1])
    with pytest.raises(ValueError, match="out must not share memory"):
        function(x, second, out=x)


@pytest.mark.parametrize(
    ("function", "second"),
    [
        (softmax_cross_entropy, [0, 1]),
        (binary_cross_entropy, np.ones((2, 2))),
        (mean_squared_error, np.ones((2, 2))),
    ],
)
def test_nan_reaches_the_loss(function, second):
    got, gradient = function(np.array([[np.nan, 1.0], [1.0, 2.0]]), second)
    assert np.isnan(got)
    assert np.isnan(gradient[0, 0])
    assert not np.isnan(gradient[1]).any()


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ([0, 3], ValueError, r"labels must be between 0 and 2, got 3 at \[1\]"),
        ([-1, 0], ValueError, "labels must be between"),
        ([0.0, 1.0], TypeError, "labels must hold integers"),
        ([True, False], TypeError, "labels must hold integers"),
        (["a", "b"], TypeError, "labels must hold real numbers"),
        ([0], ValueError, "labels must have shape"),
        (np.array([2**63, 0], np.uint64), ValueError, "labels must be between"),
    ],
)
def test_softmax_cross_entropy_refuses(labels, error, message):
    with pytest.raises(error, match=message):
        softmax_cross_entropy(np.zeros((2, 3)), labels)


@pytest.mark.parametrize(
    ("function", "pred", "targets", "message"),
    [
        (binary_cross_entropy, np.zeros(2), [0, 1.5], "targets must be between 0 and 1, got 1.5"),
        (binary_cross_entropy, np.zeros(2), [0, np.nan], "targets must be between 0 and 1"),
        (mean_squared_error, np.zeros((2, 1)), [0, 1], "targets must have shape"),
        (mean_squared_error, np.zeros((2, 1, 1)), [0, 1], "pred must have shape"),
        (mean_squared_error, np.zeros(0), np.zeros(0), "pred must not be empty"),
    ],
)
def test_losses_refuse(function, pred, targets, message):
    with pytest.raises(ValueError, match=message):
        function(pred, targets)
