"""The layer `BatchNorm`: moving averages, and the variants of batch normalization."""

import naive
import numpy as np
import pytest

from nbnorm import BatchNorm, batch_norm_inference, gradcheck

RNG = np.random.default_rng(3)
X, DOUT = RNG.normal(2, 3, size=(2, 5, 3))
GAMMA = RNG.normal(size=3)


@pytest.mark.parametrize("running", ["var", "std"])
@pytest.mark.parametrize("unbiased", [True, False])
def test_moving_averages_follow_the_formulas(unbiased, running):
    rng = np.random.default_rng(0)
    layer = BatchNorm(3, decay=0.7, running=running, unbiased=unbiased, dtype=np.float64)
    mean, second = np.zeros(3), np.ones(3)
    for n in (5, 4, 2):
        x = rng.normal(2, 3, size=(n, 3))
        layer.forward(x)
        var = x.var(axis=0, ddof=int(unbiased))
        mean = 0.7 * mean + 0.3 * x.mean(axis=0)
        second = 0.7 * second + 0.3 * (var if running == "var" else np.sqrt(var))
    got = layer.buffers()
    assert list(got) == ["running_mean", f"running_{running}"]
    np.testing.assert_allclose(got["running_mean"], mean, rtol=1e-12)
    np.testing.assert_allclose(got[f"running_{running}"], second, rtol=1e-12)
    var = second if running == "var" else second**2
    np.testing.assert_allclose(
        layer.eval().forward(x), batch_norm_inference(x, layer.gamma, layer.beta, mean, var), rtol=1e-9
    )
    np.testing.assert_array_equal(layer.running_mean, got["running_mean"])


def test_layer_backward_is_batch_norm_backward():
    x, gamma, dout = X, GAMMA, DOUT
    layer = BatchNorm(3, dtype=np.float64)
    layer.gamma[...] = gamma
    layer.forward(x)
    dx = layer.backward(dout)
    expected = naive.batch_norm_backward(dout, x, gamma, 1e-5)
    for got, wanted in zip((dx, layer.dgamma, layer.dbeta), expected, strict=True):
        np.testing.assert_allclose(got, wanted.astype(float), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("training", [True, False])
def test_layer_backward_does_not_see_what_becomes_of_the_batch(training):
    x, dout = X, DOUT
    expected, got = (BatchNorm(3, dtype=np.float64) for _ in range(2))
    expected.training = got.training = training
    buffer = x.copy()
    expected.forward(x)
    got.forward(buffer)
    buffer[...] = 0  # filled anew
    np.testing.assert_array_equal(got.backward(dout), expected.backward(dout))
    np.testing.assert_array_equal(got.dgamma, expected.dgamma)


@pytest.mark.parametrize("scale", [1e-30, 1e-9, 1.0, 1e9])
@pytest.mark.parametrize("running", ["var", "std"])
def test_moving_averages_of_small_and_large_numbers(running, scale):
    x = np.random.default_rng(0).normal(size=(20, 2)) * scale
    layer = BatchNorm(2, decay=0.0, running=running, unbiased=False, dtype=np.float64)
    for _ in range(2):
        layer.forward(x)
        second = x.var(axis=0) if running == "var" else x.std(axis=0)
        np.testing.assert_allclose(layer.buffers()[f"running_{running}"], second, rtol=1e-13)
        np.testing.assert_allclose(layer.running_mean, x.mean(axis=0), rtol=1e-12)
        layer.running_mean[...] = 1e20  # nothing of it may stay


def test_parameters_are_live():
    layer = BatchNorm(2)
    layer.parameters()["beta"][...] = 5
    np.testing.assert_array_equal(layer.eval().forward(np.zeros((1, 2))), [[5, 5]])


def test_a_batch_of_one_in_training_says_what_to_do():
    layer = BatchNorm(2)
    with pytest.raises(ValueError, match="use a larger batch or call eval"):
        layer.forward(np.ones((1, 2)))
    np.testing.assert_array_equal(layer.running_mean, 0)
    assert layer.eval().forward(np.ones((1, 2))).shape == (1, 2)
    assert layer.train().training


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_features": 0}, ValueError, "n_features must be at least 1"),
        ({"decay": 1.0}, ValueError, "decay must be"),
        ({"decay": -0.1}, ValueError, "decay must be"),
        ({"running": "mean"}, ValueError, "running must be one of 'var', 'std'"),
        ({"unbiased": 1}, TypeError, "unbiased must be True or False"),
        ({"eps": -1}, ValueError, "eps must be"),
        ({"affine": None}, TypeError, "affine must be True or False"),
        ({"ghost_size": 1}, ValueError, "ghost_size must be at least 2"),
        ({"renorm": 3.0}, TypeError, "renorm must be a pair"),
        ({"renorm": (0.5, 0)}, ValueError, r"renorm\[0\] must be"),
        ({"renorm": (1, -1)}, ValueError, r"renorm\[1\] must be"),
        ({"dtype": int}, ValueError, "dtype must be float32 or float64"),
    ],
)
def test_layer_refuses(options, error, message):
    with pytest.raises(error, match=message):
        BatchNorm(**{"n_features": 3} | options)


def test_layer_refuses_wrong_widths_and_orders():
    layer = BatchNorm(3)
    with pytest.raises(RuntimeError, match="forward first"):
        layer.backward(np.ones((2, 3)))
    with pytest.raises(ValueError, match="x must have 3 features"):
        layer.forward(np.ones((2, 4)))


@pytest.mark.parametrize("name", ["gamma", "beta"])
def test_parameters_of_a_layer_are_checked_and_converted(name):
    x = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    layer, expected = BatchNorm(4), BatchNorm(4)
    setattr(layer, name, [1.0, 2.0, 3.0, 4.0])
    getattr(expected, name)[:] = [1.0, 2.0, 3.0, 4.0]
    np.testing.assert_array_equal(layer.forward(x), expected.forward(x))
    np.testing.assert_array_equal(layer.backward(x), expected.backward(x))
    setattr(layer, name, np.ones(1, np.float32))
    with pytest.raises(ValueError, match=rf"{name} must have shape \(4,\), got shape \(1,\)"):
        layer.forward(x)


def layer_of(**options):
    layer = BatchNorm(3, dtype=np.float64, **options)
    if layer.affine:
        layer.gamma[...], layer.beta[...] = GAMMA, [1.0, -1.0, 0.5]
    return layer


def assert_gradients(layer, x, dout, **given):
    """Compare all gradients of the layer with numerical ones, its averages restored before each pass."""
    before = {name: values.copy() for name, values in layer.buffers().items()}

    def output(x):
        for name, values in layer.buffers().items():
            values[...] = before[name]
        return layer.forward(x, **given)

    output(x)
    dx = layer.backward(dout)
    gradients = {name: values.copy() for name, values in layer.gradients().items()}
    assert gradcheck(lambda v: np.vdot(dout, output(v)), x, dx) < 1e-7
    for name, values in layer.parameters().items():

        def of_parameter(v, values=values):
            kept, values[...] = values.copy(), v
            try:
                return np.vdot(dout, output(x))
            finally:
                values[...] = kept

        assert gradcheck(of_parameter, values.copy(), gradients[name]) < 1e-7


@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5), (2, 3, 2, 2), (1, 3, 4)])
@pytest.mark.parametrize("affine", [True, False])
def test_n_dimensional_input(affine, shape):
    x, dout = RNG.normal(1, 2, size=(2, *shape))
    layer = layer_of(affine=affine)
    got = layer.forward(x)
    over = (0, *range(2, x.ndim))
    mean, var = x.mean(axis=over, keepdims=True), x.var(axis=over, keepdims=True)
    expected = (x - mean) / np.sqrt(var + 1e-5)
    if affine:
        at = (3, *[1] * (x.ndim - 2))
        expected = layer.gamma.reshape(at) * expected + layer.beta.reshape(at)
    else:
        assert layer.gamma is None
        assert layer.parameters() == layer.gradients() == {}
    np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(layer.running_mean, 0.1 * mean.ravel(), rtol=1e-12)
    assert_gradients(layer, x, dout)
    assert layer.eval().forward(x).shape == shape
    assert_gradients(layer, x, dout)


def test_weights_are_repeated_samples():
    weights = np.array([2, 0, 1, 3, 1])
    layer, repeated = layer_of(), layer_of()
    out, many = layer.forward(X, weights=weights), repeated.forward(np.repeat(X, weights, axis=0))
    np.testing.assert_allclose(np.repeat(out, weights, axis=0), many, rtol=1e-12, atol=1e-13)
    for name, values in layer.buffers().items():
        np.testing.assert_allclose(values, repeated.buffers()[name], rtol=1e-12)
    assert_gradients(layer, X, DOUT, weights=weights)


@pytest.mark.parametrize("of_places", [True, False])
def test_mask(of_places):
    x, dout = RNG.normal(size=(2, 4, 3, 5))
    mask = RNG.uniform(size=(4, 5)) < 0.6 if of_places else np.array([True, False, True, True])
    used = mask if of_places else np.repeat(mask[:, None], 5, axis=1)
    chosen = np.moveaxis(x, 1, -1)[used]
    layer, dense = layer_of(), layer_of()
    expected = dense.forward(chosen)
    hidden = np.where(used[:, None, :], x, np.nan)  # what is masked may be anything
    np.testing.assert_allclose(np.moveaxis(layer.forward(hidden, weights=mask), 1, -1)[used], expected)
    dx = layer.backward(np.where(used[:, None, :], dout, 0.0))
    np.testing.assert_allclose(
        np.moveaxis(dx, 1, -1)[used], dense.backward(np.moveaxis(dout, 1, -1)[used]), atol=1e-13
    )
    np.testing.assert_array_equal(np.moveaxis(dx, 1, -1)[~used], 0.0)
    np.testing.assert_allclose(layer.dgamma, dense.dgamma)
    assert_gradients(layer_of(), x, dout, weights=mask)


@pytest.mark.parametrize("running", ["var", "std"])
def test_cumulative_averages_are_means_of_all_batches(running):
    layer = layer_of(decay=None, running=running)
    batches = RNG.normal(5, 2, size=(7, 4, 3))
    for x in batches:
        layer.forward(x)
    spread = batches.var(axis=1, ddof=1) if running == "var" else batches.std(axis=1, ddof=1)
    np.testing.assert_allclose(layer.running_mean, batches.mean(axis=(0, 1)), rtol=1e-12)
    np.testing.assert_allclose(layer.buffers()[f"running_{running}"], spread.mean(axis=0), rtol=1e-12)
    assert layer.buffers()["n_batches"] == 7


def test_ghost_batches():
    x, dout = RNG.normal(size=(2, 10, 3))
    ghost, plain = layer_of(ghost_size=4), layer_of()
    parts = [slice(0, 4), slice(4, 7), slice(7, 10)]
    expected = np.concatenate([plain.forward(x[part]) for part in parts])
    np.testing.assert_allclose(ghost.forward(x), expected, rtol=1e-12, atol=1e-13)
    for name, values in ghost.buffers().items():
        np.testing.assert_allclose(values, plain.buffers()[name], rtol=1e-12)
    assert_gradients(ghost, x, dout)
    np.testing.assert_array_equal(ghost.eval().forward(x[:3]), ghost.forward(x)[:3])


def test_renormalization_with_wide_bounds_uses_the_averages():
    layer = layer_of(renorm=(1e6, 1e6))
    layer.running_mean[...], layer.running_var[...] = [1.0, 2.0, 3.0], [4.0, 1.0, 9.0]
    expected = batch_norm_inference(X, layer.gamma, layer.beta, layer.running_mean, layer.running_var)
    np.testing.assert_allclose(layer.forward(X), expected, rtol=1e-12, atol=1e-13)


def test_renormalization_within_bounds():
    layer = layer_of(renorm=(1.5, 0.3))
    layer.running_mean[...], layer.running_var[...] = [1.0, 2.0, 30.0], [4.0, 1.0, 900.0]
    mean, sigma, old = X.mean(axis=0), np.sqrt(X.var(axis=0) + 1e-5), np.sqrt(layer.running_var + 1e-5)
    r = np.clip(sigma / old, 1 / 1.5, 1.5)
    d = np.clip((mean - layer.running_mean) / old, -0.3, 0.3)
    expected = layer.gamma * ((X - mean) / sigma * r + d) + layer.beta
    np.testing.assert_allclose(layer.forward(X), expected, rtol=1e-12, atol=1e-13)
    # r and d are constants: the gradient is that of plain batch norm with the scale gamma * r
    dx = layer.backward(DOUT)
    wanted = naive.batch_norm_backward(DOUT, X, layer.gamma * r, 1e-5)[0]
    np.testing.assert_allclose(dx, wanted.astype(float), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(layer.dgamma, np.sum(DOUT * ((X - mean) / sigma * r + d), axis=0), rtol=1e-12)


def test_renormalization_without_room_is_batch_normalization():
    plain, bound = layer_of(), layer_of(renorm=(1, 0))
    for layer in (plain, bound):
        layer.running_var[...] = 50.0
    np.testing.assert_array_equal(bound.forward(X), plain.forward(X))
    np.testing.assert_array_equal(bound.backward(DOUT), plain.backward(DOUT))


def test_frozen_statistics():
    layer = layer_of(frozen=True, ghost_size=2)
    layer.running_mean[...], layer.running_var[...] = 1.0, 4.0
    got = layer.forward(X)
    np.testing.assert_array_equal(layer.running_mean, 1.0)
    np.testing.assert_array_equal(got, layer.eval().forward(X))
    assert_gradients(layer.train(), X, DOUT)
    assert layer.forward(X[:1]).shape == (1, 3)  # needs no variance
    layer.frozen = False
    layer.forward(X)
    assert (layer.running_mean != 1.0).all()


def test_what_is_refused_changes_nothing():
    layer = layer_of(ghost_size=2)
    x = X[:4].copy()
    x[3] = 1e200  # in the second part
    with pytest.raises(ValueError, match="whose variance is finite"):
        layer.forward(x)
    np.testing.assert_array_equal(layer.running_mean, 0.0)
    with pytest.raises(ValueError, match=r"weights must have shape \(5,\), got shape \(3,\)"):
        layer.forward(X, weights=np.ones(3))
    with pytest.raises(ValueError, match="at least 2 samples in training mode, got 1"):
        layer_of().forward(X, weights=[0, 0, 1, 0, 0])
    with pytest.raises(ValueError, match="and not be empty, got shape"):
        layer.forward(np.ones(3))
