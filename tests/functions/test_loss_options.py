import naive
import numpy as np
import pytest
from loss_cases import CASES, LABELS, WEIGHTS, T, Z, quartic
from numba import njit

from nbnorm import (
    FNN,
    AbsoluteError,
    Activation,
    AdamW,
    BinaryCrossEntropy,
    CrossEntropy,
    CustomLoss,
    Huber,
    Poisson,
    Quantile,
    SquaredError,
)
from nbnorm.functions.loss_options import resolve


@pytest.mark.parametrize("case", CASES)
def test_values_agree_with_numpy(case):
    _, y, options, loss = CASES[case]
    expected = naive.losses(Z, y, loss.name, **options)
    assert loss.value(Z, y) == pytest.approx(expected.mean(), rel=1e-13)
    weighted = (WEIGHTS * expected).sum() / WEIGHTS.sum()
    assert loss.value(Z, y, WEIGHTS) == pytest.approx(weighted, rel=1e-13)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: CrossEntropy("much"), TypeError, "label_smoothing must be a real number"),
        (lambda: BinaryCrossEntropy(-0.1), ValueError, "label_smoothing must be"),
        (lambda: Huber(0), ValueError, "delta must be finite and above 0"),
        (lambda: Poisson().value([0.0], [-1]), ValueError, "targets must be at least 0, got -1"),
        (lambda: SquaredError().value(Z, T[:5]), ValueError, r"targets must have shape \(70, 3\)"),
        (lambda: CrossEntropy().value(Z, LABELS + 1), ValueError, "labels must be between 0 and 2, got 3"),
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
        (lambda: CustomLoss(quartic, name=3), TypeError, "name must be a string, got int"),
        (lambda: Quantile(levels="median"), TypeError, "levels must hold real numbers"),
        (lambda: Quantile((0.9, 0.1)), ValueError, "levels must grow"),
        (
            lambda: FNN([2, 2], output="identity", loss=Quantile()),
            ValueError,
            "sizes must end with a multiple",
        ),
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
    assert resolve(CustomLoss(quartic), "sigmoid").name == "quartic"
    assert CustomLoss(quartic, name="fourth power").name == "fourth power"


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
        loss=CustomLoss(quartic),
        output=output,
        standardize=False,
        dtype=np.float64,
        seed=0,
    )
    y = LABELS if output == "softmax" else T
    got = net.check_gradients(Z[:6], y[:6], sample_weight=WEIGHTS[:6])
    assert max(got.values()) < 1e-6


def test_a_network_of_quantiles(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (1500, 1))
    y = 100 + 10 * x[:, 0] + rng.normal(size=1500)
    net = FNN(
        [1, 8, 2], norm=None, output="identity", loss=Quantile((0.1, 0.8)), standardize_targets=True, seed=0
    )
    net.fit(x, y, epochs=12, batch_size=64, optimizer=AdamW(0.01), validation_data=(x[:50], y[:50]), seed=1)
    got = net.predict(x)
    np.testing.assert_allclose((y[:, None] < got).mean(axis=0), [0.1, 0.8], atol=0.06)
    assert net.score(x, y) > 0.9
    net.save(tmp_path / "net.npz")
    loaded = FNN.load(tmp_path / "net.npz")
    assert loaded.loss == net.loss
    np.testing.assert_array_equal(loaded.predict(x), got)
