import functools

import naive
import numpy as np
import pytest
from numba import njit

from nbnorm import (
    FNN,
    AbsoluteError,
    Activation,
    BinaryCrossEntropy,
    CrossEntropy,
    CustomLoss,
    Huber,
    Poisson,
    SquaredError,
    binary_cross_entropy,
    gradcheck,
    huber_loss,
    mean_absolute_error,
    mean_squared_error,
    poisson_loss,
    softmax_cross_entropy,
)
from nbnorm.compile.kernels import kernel
from nbnorm.engine.microkernels import tile
from nbnorm.functions import losses
from nbnorm.functions.losses import resolve

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


# ----------------------------------------------------------------------------------------------
# Weights, smoothing and the further losses
# ----------------------------------------------------------------------------------------------


@njit
def _quartic(z, target, gradient):
    loss = 0.0
    for o in range(z.size):
        loss += (z[o] - target[o]) ** 4
        gradient[o] = 4 * (z[o] - target[o]) ** 3
    return loss


RNG = np.random.default_rng(5)
Z, T = RNG.normal(size=(70, 3)) * 2, RNG.uniform(size=(70, 3))
LABELS = RNG.integers(0, 3, 70)
WEIGHTS = RNG.integers(0, 4, 70)

CASES = {
    "softmax": (softmax_cross_entropy, LABELS, {}, CrossEntropy()),
    "softmax, smooth": (softmax_cross_entropy, LABELS, {"label_smoothing": 0.2}, CrossEntropy(0.2)),
    "binary": (binary_cross_entropy, T, {}, BinaryCrossEntropy()),
    "binary, smooth": (binary_cross_entropy, T, {"label_smoothing": 0.2}, BinaryCrossEntropy(0.2)),
    "squared": (mean_squared_error, T, {}, SquaredError()),
    "absolute": (mean_absolute_error, T, {}, AbsoluteError()),
    "huber": (huber_loss, T, {"delta": 0.7}, Huber(0.7)),
    "poisson": (poisson_loss, T, {}, Poisson()),
}
OUTPUT = {"softmax": "softmax", "binary": "sigmoid"}


def _output(case):
    return OUTPUT.get(case.split(",")[0], "identity")


@pytest.mark.parametrize("case", CASES)
def test_losses_agree_with_numpy(case):
    function, y, options, loss = CASES[case]
    expected = naive.losses(Z, y, loss.name, **options)
    _close(function(Z, y, **options)[0], expected.mean(), np.float64)
    _close(loss.value(Z, y), expected.mean(), np.float64)
    weighted = (WEIGHTS * expected).sum() / WEIGHTS.sum()
    _close(function(Z, y, sample_weight=WEIGHTS, **options)[0], weighted, np.float64)
    _close(loss.value(Z, y, WEIGHTS), weighted, np.float64)


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
        (lambda: CrossEntropy("much"), TypeError, "label_smoothing must be a real number"),
        (lambda: BinaryCrossEntropy(-0.1), ValueError, "label_smoothing must be"),
        (lambda: Huber(0), ValueError, "delta must be finite and above 0"),
        (lambda: huber_loss(Z, T, delta=-1), ValueError, "delta must be"),
        (lambda: poisson_loss([0.0], [-1]), ValueError, "targets must be at least 0, got -1"),
        (lambda: Poisson().value([0.0], [-1]), ValueError, "targets must be at least 0, got -1"),
        (lambda: SquaredError().value(Z, T[:5]), ValueError, r"targets must have shape \(70, 3\)"),
        (lambda: CrossEntropy().value(Z, LABELS + 1), ValueError, "labels must be between 0 and 2, got 3"),
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
        (
            lambda: SquaredError().value([1.0], [1.0], [0]),
            ValueError,
            "weights must not be zero for every sample",
        ),
        (lambda: resolve("hinge", "softmax"), ValueError, "loss must be one of 'cross_entropy', "),
        (
            lambda: resolve("huber", "softmax"),
            ValueError,
            "loss must be 'cross_entropy' or a CustomLoss for output='softmax', got 'huber'",
        ),
        (lambda: resolve(Huber, "identity"), TypeError, "loss must be None, .* got the class Huber"),
        (lambda: resolve(3, "identity"), TypeError, "loss must be None, .* got int"),
        (lambda: resolve(None, "linear"), ValueError, "output must be one of"),
        (lambda: CustomLoss(3), TypeError, "function must be compiled by numba.njit, got int"),
        (
            lambda: CustomLoss(njit(lambda z, t: 0.0)),
            TypeError,
            "function must take 3 arguments",
        ),
        (lambda: CustomLoss(_quartic, name=3), TypeError, "name must be a string, got int"),
    ],
)
def test_losses_of_a_network_refuse(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_resolve():
    names = {output: resolve(None, output).name for output in ("softmax", "sigmoid", "identity")}
    assert names == {"softmax": "cross_entropy", "sigmoid": "binary_cross_entropy", "identity": "squared"}
    assert resolve("absolute", "identity") == AbsoluteError()
    loss = Huber(2.0)
    assert resolve(loss, "identity") is loss
    assert resolve(CustomLoss(_quartic), "sigmoid").name == "_quartic"
    assert CustomLoss(_quartic, name="fourth power").name == "fourth power"


# ----------------------------------------------------------------------------------------------
# Kernels of the training engine
# ----------------------------------------------------------------------------------------------


@functools.cache
def _from_python(block):
    """Let Python call a kernel that only compiled code calls."""

    @kernel(cache=False)
    def call(act, z, g, room, size, first, valid, inverse, rows, labels, targets, w, options, partial, at):
        block(act, z, g, room, size, first, valid, inverse, rows, labels, targets, w, options, partial, at)

    return call


def _block(loss, z, y, weights, dtype, inverse):
    """Run `loss.block` on samples that stand in reverse order in the data."""
    valid, size = z.shape
    width = tile(np.dtype(dtype)).width
    act = np.full(5 * size * width + 7, 99, dtype)
    act[: size * width].reshape(size, width)[:, :valid] = z.T
    act[: size * width].reshape(size, width)[:, valid:] = 0
    g = size * width
    rows = np.arange(3 + valid)[::-1].copy()
    labels, targets, w = np.zeros(valid, np.int64), np.zeros(1, dtype), np.zeros(0, dtype)
    if y.ndim == 1:
        labels = y[::-1].copy()
    else:
        targets = y[::-1].astype(dtype).reshape(-1)
    if weights is not None:
        w = weights[::-1].astype(dtype)
    partial = np.full(6, 99.0)
    _from_python(loss.block)(
        act, 0, g, 2 * g, size, 3, valid, dtype(inverse), rows, labels, targets, w, loss.options(), partial, 2
    )
    assert (partial[[0, 1, 4, 5]] == 99).all()
    assert (act[5 * size * width :] == 99).all()
    return partial[2], partial[3], act[g : 2 * g].reshape(size, width)[:, :valid].T


def _hits(z, y, output):
    if output == "softmax":
        return (z.argmax(axis=1) == y).astype(float)
    return ((z > 0) == (y > 0.5)).all(axis=1) if output == "sigmoid" else np.zeros(len(z))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_block_agrees_with_the_function(case, dtype):
    function, y, options, loss = CASES[case]
    valid = tile(np.dtype(dtype)).width - 1
    z, y = Z[:valid].astype(dtype), y[:valid]
    for weights in (None, WEIGHTS[:valid]):
        w = np.ones(valid) if weights is None else weights
        got, hits, gradient = _block(loss, z, y, weights, dtype, 1 / w.sum())
        expected, expected_gradient = function(z, y, sample_weight=weights, **options)
        rtol = 1e-6 if dtype == np.float32 else 1e-13
        assert got / w.sum() == pytest.approx(expected, rel=rtol)
        assert hits == (w * _hits(z, y, _output(case))).sum()
        np.testing.assert_allclose(gradient, expected_gradient, rtol=rtol, atol=rtol / 10)


@pytest.mark.parametrize("output", ["softmax", "sigmoid", "identity"])
def test_block_of_a_custom_loss(output):
    loss = resolve(CustomLoss(_quartic), output)
    y = LABELS if output == "softmax" else T
    t = np.eye(3)[LABELS] if output == "softmax" else T
    valid = tile(np.dtype(np.float64)).width - 1
    z, y, t, w = Z[:valid], y[:valid], t[:valid], WEIGHTS[:valid]
    got, hits, gradient = _block(loss, z, y, w, np.float64, 0.5)
    assert got == pytest.approx((w[:, None] * (z - t) ** 4).sum())
    assert hits == (w * _hits(z, y, output)).sum()
    np.testing.assert_allclose(gradient, 2 * w[:, None] * (z - t) ** 3, rtol=1e-12)
    assert loss.value(z, y, w) == pytest.approx(got / w.sum())


@njit
def _softsign(z):
    return z / (1 + abs(z))


@njit
def _softsign_slope(z):
    return 1 / (1 + abs(z)) ** 2


@pytest.mark.parametrize("output", ["softmax", "identity"])
def test_a_network_with_a_loss_and_an_activation_of_ones_own(output):
    net = FNN(
        [3, 4, 3],
        activation=Activation(_softsign, _softsign_slope),
        loss=CustomLoss(_quartic),
        output=output,
        standardize=False,
        dtype=np.float64,
        seed=0,
    )
    y = LABELS if output == "softmax" else T
    got = net.check_gradients(Z[:6], y[:6], sample_weight=WEIGHTS[:6])
    assert max(got.values()) < 1e-6
