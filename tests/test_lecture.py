"""The formulas of the lecture, written out literally and tested through the public functions."""

import numpy as np
import pytest

import nbnorm

OMEGA, N = 7, 4
RNG = np.random.default_rng(20)
Y = 3.0 + 2.0 * RNG.standard_normal((OMEGA, N))
GAMMA = RNG.standard_normal(N)
BETA = RNG.standard_normal(N)
UPSTREAM = RNG.standard_normal((OMEGA, N))  # gradient of each sample's own risk


def mu(y):
    return sum(y) / len(y)


def sigma(y, eps):
    return np.sqrt(sum((row - mu(y)) ** 2 for row in y) / len(y) + eps)


def u(y, eps):
    return (y - mu(y)) / sigma(y, eps)


@pytest.mark.parametrize("eps", [1e-5, 0.3])
def test_forward(eps):
    out, mean, rstd = nbnorm.batch_norm_forward(Y, GAMMA, BETA, eps=eps)
    expected = GAMMA * u(Y, eps) + BETA
    np.testing.assert_allclose(out, expected, rtol=1e-12)
    np.testing.assert_allclose(mean, mu(Y), rtol=1e-13)
    np.testing.assert_allclose(rstd, 1 / sigma(Y, eps), rtol=1e-13)


def test_epsilon_stands_inside_the_root():
    constant = np.full((OMEGA, N), 5.0)
    _, _, rstd = nbnorm.batch_norm_forward(constant, GAMMA, BETA, eps=0.25)
    np.testing.assert_allclose(rstd, 1 / np.sqrt(0.25))


def test_input_normalization():
    # x -> (x - mu_0) / sigma_0 with the statistics of the whole data set
    expected = (Y - mu(Y)) / sigma(Y, 0.0)
    got = nbnorm.Standardizer().fit(Y).transform(Y)
    np.testing.assert_allclose(got, expected, rtol=1e-12)
    np.testing.assert_allclose(nbnorm.standardize(Y, mu(Y), sigma(Y, 0.0)), expected, rtol=1e-12)


def test_gamma_and_beta_follow_sgd():
    # gamma <- gamma - eta/Omega sum_w u_w * grad_w and beta <- beta - eta/Omega sum_w grad_w
    eta, eps = 0.1, 1e-5
    expected_gamma = GAMMA - eta / OMEGA * sum(u(Y, eps) * UPSTREAM)
    expected_beta = BETA - eta / OMEGA * sum(UPSTREAM)

    gamma, beta = GAMMA.copy(), BETA.copy()
    _, mean, rstd = nbnorm.batch_norm_forward(Y, gamma, beta, eps=eps)
    _, dgamma, dbeta = nbnorm.batch_norm_backward(UPSTREAM / OMEGA, Y, gamma, mean, rstd)
    nbnorm.sgd_step(gamma, np.asarray(dgamma, gamma.dtype), np.zeros(N), lr=eta)
    nbnorm.sgd_step(beta, np.asarray(dbeta, beta.dtype), np.zeros(N), lr=eta)
    np.testing.assert_allclose(gamma, expected_gamma, rtol=1e-12)
    np.testing.assert_allclose(beta, expected_beta, rtol=1e-12)


def derivative(y, eps, off_diagonal):
    """Return the matrix of d u_w / d y_t of one feature, row t, column w, term by term."""
    mean, deviation = mu(y), sigma(y, eps)
    out = np.empty((len(y), len(y)))
    for t in range(len(y)):
        for w in range(len(y)):
            second = off_diagonal(y[t] - mean, y[w] - mean) / (len(y) * deviation**3)
            out[t, w] = (t == w) / deviation - 1 / (len(y) * deviation) - second
    return out


def correct(of_t, of_w):
    return of_t * of_w


def printed(of_t, of_w):
    return of_t * of_t


def numerical_derivative(y, eps):
    step = 1e-5
    shifts = step * np.eye(len(y))
    return np.array([(u(y + shift, eps) - u(y - shift, eps)) / (2 * step) for shift in shifts])


def backward_derivative(y, eps):
    """Return the same matrix from `batch_norm_backward`: one column for each sample's own u."""
    x, one, zero = y[:, None], np.ones(1), np.zeros(1)
    _, mean, rstd = nbnorm.batch_norm_forward(x, one, zero, eps=eps)
    columns = [nbnorm.batch_norm_backward(e[:, None], x, one, mean, rstd)[0][:, 0] for e in np.eye(len(y))]
    return np.column_stack(columns)


@pytest.mark.parametrize("eps", [1e-5, 0.3])
@pytest.mark.parametrize("feature", range(N))
def test_derivative_of_u(feature, eps):
    y = Y[:, feature]
    expected = numerical_derivative(y, eps)
    np.testing.assert_allclose(derivative(y, eps, correct), expected, atol=1e-9)
    np.testing.assert_allclose(backward_derivative(y, eps), expected, atol=1e-9)


@pytest.mark.parametrize("eps", [1e-5, 0.3])
def test_printed_derivative_fails(eps):
    y = Y[:, 0]
    expected = numerical_derivative(y, eps)
    got = derivative(y, eps, printed)
    np.testing.assert_allclose(np.diag(got), np.diag(expected), atol=1e-9)  # right where t == w
    assert np.abs(got - expected).max() > 0.1 * np.abs(expected).max()


def test_derivatives_of_u_add_up_to_zero():
    # Adding one number to all samples changes no u; the printed term does not know that.
    y = Y[:, 0]
    np.testing.assert_allclose(backward_derivative(y, 1e-5).sum(axis=0), 0, atol=1e-14)
    assert np.abs(derivative(y, 1e-5, printed).sum(axis=0)).min() > 0.1


@pytest.mark.parametrize("eps", [1e-5, 0.3])
def test_gradient_is_the_sum_over_samples_with_the_upstream_gradient(eps):
    # dR/dy_t = 1/Omega sum_w (dR_w/du_w) (du_w/dy_t), feature by feature
    expected = np.empty_like(Y)
    for i in range(N):
        matrix = derivative(Y[:, i], eps, correct)
        expected[:, i] = [sum(GAMMA[i] * UPSTREAM[:, i] * row) / OMEGA for row in matrix]
    _, mean, rstd = nbnorm.batch_norm_forward(Y, GAMMA, BETA, eps=eps)
    dx, _, _ = nbnorm.batch_norm_backward(UPSTREAM / OMEGA, Y, GAMMA, mean, rstd)
    np.testing.assert_allclose(dx, expected, rtol=1e-10, atol=1e-13)


def moving_averages(batches, alpha, running, unbiased):
    """Return the averages after all batches, starting from mean 0 and spread 1."""
    mean, spread = np.zeros(N), np.ones(N)
    for y in batches:
        variance = sum((row - mu(y)) ** 2 for row in y) / (len(y) - unbiased)
        mean = alpha * mean + (1 - alpha) * mu(y)
        spread = alpha * spread + (1 - alpha) * (variance if running == "var" else np.sqrt(variance))
    return mean, spread


BATCHES = [1.0 + i + RNG.standard_normal((OMEGA, N)) * (1 + i) for i in range(5)]


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("running", ["var", "std"])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.99])
def test_moving_averages_of_a_layer(alpha, running, unbiased):
    layer = nbnorm.BatchNorm(N, decay=alpha, running=running, unbiased=unbiased, dtype=np.float64)
    for y in BATCHES:
        layer.forward(y)
    mean, spread = moving_averages(BATCHES, alpha, running, unbiased)
    np.testing.assert_allclose(layer.running_mean, mean, rtol=1e-12)
    np.testing.assert_allclose(layer.buffers()[f"running_{running}"], spread, rtol=1e-12)

    layer.eval()  # now they are only used
    variance = spread if running == "var" else spread**2
    expected = (Y - mean) / np.sqrt(variance + layer.eps)
    np.testing.assert_allclose(layer.forward(Y), expected, rtol=1e-12)
    np.testing.assert_array_equal(layer.running_mean, layer.buffers()["running_mean"])
    np.testing.assert_allclose(layer.running_mean, mean, rtol=1e-12)


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("running", ["var", "std"])
@pytest.mark.parametrize("norm", ["after", "before"])
def test_moving_averages_of_a_network(norm, running, unbiased):
    net = nbnorm.FNN(
        [N, N, 2],
        activation="identity",
        norm=norm,
        standardize=False,
        decay=0.7,
        running=running,
        unbiased=unbiased,
        dtype=np.float64,
    )
    net.parameters()["dense1.weight"][...] = np.eye(N)
    for y in BATCHES:
        net.train().forward(y)
    mean, spread = moving_averages(BATCHES, 0.7, running, unbiased)
    np.testing.assert_allclose(net.buffers()["norm1.running_mean"], mean, rtol=1e-12)
    np.testing.assert_allclose(net.buffers()[f"norm1.running_{running}"], spread, rtol=1e-12)

    p = net.parameters()
    variance = spread if running == "var" else spread**2
    features = (Y - mean) / np.sqrt(variance + net.eps)
    expected = features @ p["dense2.weight"].T + p["dense2.bias"]
    np.testing.assert_allclose(net.eval().forward(Y), expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("norm", ["after", "before"])
def test_one_step_updates_gamma_and_beta_beside_the_weights(norm):
    eta = 0.3
    net = nbnorm.FNN([N, 5, 3], norm=norm, activation="tanh", standardize=False, dtype=np.float64, seed=1)
    labels = np.arange(OMEGA) % 3
    _, gradients = net.loss_and_gradients(Y, labels)
    expected = {name: values - eta * gradients[name] for name, values in net.parameters().items()}
    net.fit(Y, labels, epochs=1, batch_size=OMEGA, optimizer=nbnorm.SGD(lr=eta), progress=False)
    for name, values in net.parameters().items():
        assert np.abs(gradients[name]).max() > 0
        np.testing.assert_allclose(values, expected[name], rtol=1e-10, atol=1e-13)
