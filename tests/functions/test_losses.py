import naive
import numpy as np
import pytest
from loss_cases import CASES, LABELS, WEIGHTS, T, Z

from nbnorm import (
    binary_cross_entropy,
    gradcheck,
    huber_loss,
    mean_absolute_error,
    mean_squared_error,
    poisson_loss,
    quantile_loss,
    softmax_cross_entropy,
)
from nbnorm.functions.loss_formulas import KERNELS, partial_size

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
    p = naive.activation(z, "sigmoid").astype(float)
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


@pytest.mark.parametrize("kernel", [KERNELS["binary_cross_entropy"].plain, KERNELS["squared"].plain])
def test_serial_and_parallel_twins_give_the_same_bits(kernel):
    rng = np.random.default_rng(0)
    x, y = rng.uniform(size=(2, 300, 7)).astype(np.float32)
    results = []
    for twin in (kernel.serial, kernel.parallel):
        gradient, partial = np.empty_like(x), np.empty(partial_size(300))
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


# ----------------------------------------------------------------------------------------------
# Weights, smoothing and the further losses
# ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_losses_agree_with_numpy(case):
    function, y, options, loss = CASES[case]
    expected = naive.losses(Z, y, loss.name, **options)
    _close(function(Z, y, **options)[0], expected.mean(), np.float64)
    weighted = (WEIGHTS * expected).sum() / WEIGHTS.sum()
    _close(function(Z, y, sample_weight=WEIGHTS, **options)[0], weighted, np.float64)


@pytest.mark.parametrize("case", CASES)
def test_a_weight_is_a_number_of_rows(case):
    function, y, options, _ = CASES[case]
    got, gradient = function(Z, y, sample_weight=WEIGHTS, **options)
    rows = np.repeat(np.arange(70), WEIGHTS)
    expected, repeated = function(Z[rows], y[rows], **options)
    assert got == pytest.approx(expected, rel=1e-13)
    summed = np.zeros_like(gradient)
    np.add.at(summed, rows, repeated)
    np.testing.assert_allclose(gradient, summed, rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_weights_of_one_change_nothing(case, dtype):
    function, y, options, _ = CASES[case]
    y = y if y.ndim == 1 else y.astype(dtype)
    got, gradient = function(Z.astype(dtype), y, sample_weight=np.ones(70), **options)
    expected, expected_gradient = function(Z.astype(dtype), y, **options)
    assert got == pytest.approx(expected, rel=1e-7 if dtype == np.float32 else 1e-14)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=0, atol=np.finfo(dtype).eps / 70)


@pytest.mark.parametrize("case", CASES)
def test_gradients_of_losses(case):
    function, y, options, _ = CASES[case]
    z, y, w = Z[:7], y[:7], WEIGHTS[:7]

    def value(z):
        return function(z, y, sample_weight=w, **options)[0]

    assert gradcheck(value, z, function(z, y, sample_weight=w, **options)[1]) < 1e-9


def test_absolute_error_is_flat_at_the_target_and_huber_is_squared_for_a_large_delta():
    assert mean_absolute_error([2.0, 1.0], [2.0, 3.0])[1].tolist() == [0, -0.5]
    got, expected = huber_loss(Z, T, delta=1e3), mean_squared_error(Z, T)
    assert got[0] == pytest.approx(expected[0])
    np.testing.assert_array_equal(got[1], expected[1])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: softmax_cross_entropy(Z, LABELS, label_smoothing=1), ValueError, "label_smoothing must be"),
        (lambda: huber_loss(Z, T, delta=-1), ValueError, "delta must be"),
        (lambda: poisson_loss([0.0], [-1]), ValueError, "targets must be at least 0, got -1"),
        (
            lambda: mean_squared_error(np.zeros((3, 1)), np.zeros(3)),
            ValueError,
            r"targets must have shape \(3, 1\), got shape \(3,\)",
        ),
        (
            lambda: mean_squared_error(np.zeros((3, 1, 1)), np.zeros((3, 1, 1))),
            ValueError,
            r"pred must have shape \(n_samples,\) or \(n_samples, n_outputs\), got shape \(3, 1, 1\)",
        ),
        (
            lambda: mean_squared_error(Z, T, sample_weight=T),
            ValueError,
            r"sample_weight must have shape \(70,\)",
        ),
        (
            lambda: mean_squared_error([1.0], [1.0], sample_weight=[-1]),
            ValueError,
            r"sample_weight must be finite and not negative, got -1 at \[0\]",
        ),
        (lambda: quantile_loss(Z, T, (0.2, 0.7)), ValueError, "pred must have a column for each of 2 levels"),
        (lambda: quantile_loss(Z, T, (0.2, 0.5, 0.7)), ValueError, r"targets must have shape \(70, 1\)"),
        (lambda: quantile_loss(Z, T, 1), ValueError, r"levels\[0\] must be finite and above 0 and below 1"),
        (lambda: quantile_loss(Z, T, (0.5, 0.5)), ValueError, "levels must grow"),
        (lambda: quantile_loss(Z, T, []), ValueError, "levels must hold one number or more"),
    ],
)
def test_options_of_losses_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_quantile_loss_is_least_at_the_quantile():
    y = np.sort(np.random.default_rng(0).normal(size=101))
    levels = np.array([0.1, 0.5, 0.9])
    at = y[[10, 50, 90]]  # a tenth, a half and nine tenths of the others lie below

    def loss(shift):
        return quantile_loss(np.tile(at + shift, (101, 1)), y, levels)[0]

    assert loss(0.0) < min(loss(1e-3), loss(-1e-3))
    expected = np.array([-0.1, -0.5, 0.1])
    np.testing.assert_allclose(quantile_loss([[1.0, 2.0, 4.0]], [3.0], levels)[1][0], expected, rtol=1e-15)
    assert quantile_loss([3.0], [3.0], 0.2)[1].tolist() == [0.0]
