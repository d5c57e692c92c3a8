import numpy as np
import pytest
from numba import config

from nbnorm import rows
from nbnorm._jit import kernel
from nbnorm.activations import CODES
from nbnorm.simd import tile


# The intrinsics exist inside compiled code only.
@kernel
def activate(x, i, stride, n, bias, code):
    rows.activate_row(x, i, stride, n, bias, code)


@kernel
def derive(x, i, j, stride, n, code):
    return rows.derive_row(x, i, j, stride, n, code)


@kernel
def forward(x, y, a, numbers, saved, variance, stride, n, inner, outer, eps):
    """Bias, gamma and beta stand in `numbers`; shift, center and rstd go to `saved`."""
    size = len(variance)
    good = rows.panel_statistics(x, y, numbers, 0, saved, 0, size, variance, 0, stride, n, inner)
    for r in range(size):
        saved[2 * size + r] = 1 / np.sqrt(variance[r] + eps)
    rows.panel_normalize(x, y, a, numbers, size, 2 * size, saved, 0, size, 2 * size, stride, n, outer)
    return good


@kernel
def backward(x, g, y, a, numbers, saved, out, stride, n, batch, case):
    """`out` takes the gradients of bias, gamma and beta."""
    size = len(saved) // 3
    rows.panel_backward(
        x, g, y, a, numbers, size, saved, 0, size, 2 * size, out, size, 2 * size, 0, stride, n, batch, case
    )


@kernel
def softmax(x, z, g, top, total, stride, n, inverse):
    rows.softmax_rows(x, z, g, top, total, stride, n, inverse)


FUNCTIONS = {
    "identity": (lambda z: z, lambda f: np.ones_like(f)),
    "relu": (lambda z: np.maximum(z, 0), lambda f: (f > 0) * 1.0),
    "sigmoid": (lambda z: 1 / (1 + np.exp(-z)), lambda f: f * (1 - f)),
    "tanh": (np.tanh, lambda f: 1 - f * f),
}


class Table:
    """Three panels of features of n samples, as the engine keeps them; behind the samples is NaN."""

    def __init__(self, dtype, n):
        shape = tile(dtype)
        self.dtype, self.n, self.width, self.rows = dtype, n, shape.width, shape.rows
        self.pieces, self.features = -(-n // self.width), 3 * shape.rows
        rng = np.random.default_rng(n)
        self.values = rng.uniform(-2, 2, (self.features, n)).astype(dtype)
        self.numbers = rng.uniform(0.5, 1.5, 3 * self.rows).astype(dtype)
        padded = np.full((self.features, self.pieces * self.width), np.nan, dtype)
        padded[:, :n] = self.values
        self.flat = (
            padded.reshape(self.features, self.pieces, self.width).transpose(1, 0, 2).reshape(-1).copy()
        )
        self.stride = self.features * self.width

    def row(self, i):
        pieces = self.flat.reshape(self.pieces, self.features, self.width)[:, i]
        return pieces.reshape(-1)[: self.n].astype(float)

    def panel(self, k):
        return np.array([self.row(k * self.rows + r) for r in range(self.rows)])

    def number(self, k):
        return self.numbers[k * self.rows : (k + 1) * self.rows, None].astype(float)

    def at(self, i):
        return i * self.width

    def place(self, k):
        return k * self.rows * self.width

    def close(self, got, expected):
        np.testing.assert_allclose(got, expected, rtol=0, atol=(60 + 16 * self.n) * np.finfo(self.dtype).eps)


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def dtype(request):
    return request.param


@pytest.fixture(params=["one", "less", "whole", "more", "many"])
def table(request, dtype):
    width = tile(dtype).width
    return Table(
        dtype,
        {"one": 1, "less": width - 1, "whole": width, "more": width + 1, "many": 3 * width - 2}[
            request.param
        ],
    )


@pytest.mark.parametrize("name", CODES)
def test_activate_row(table, name):
    expected = FUNCTIONS[name][0](table.row(1) + 0.5)
    activate(table.flat, table.at(1), table.stride, table.n, table.dtype(0.5), CODES[name])
    table.close(table.row(1), expected)
    np.testing.assert_array_equal(table.row(0), table.values[0])
    np.testing.assert_array_equal(table.row(2), table.values[2])


@pytest.mark.parametrize("name", CODES)
def test_derive_row(table, name):
    expected = table.row(0) * FUNCTIONS[name][1](table.row(1))
    got = derive(table.flat, table.at(0), table.at(1), table.stride, table.n, CODES[name])
    table.close(table.row(0), expected)
    table.close(got, expected.sum())


def normalized(table, y, eps):
    mean, variance = y.mean(axis=1, keepdims=True), y.var(axis=1, keepdims=True)
    return (y - mean) / np.sqrt(variance + eps), mean, variance


@pytest.mark.parametrize("before", [False, True], ids=["after", "before"])
@pytest.mark.parametrize("name", CODES)
def test_panels(table, name, before):
    size, eps = table.rows, 0.5
    slope = FUNCTIONS[name][1]
    inner, outer = ("identity", name) if before else (name, "identity")
    saved, variance = np.zeros(3 * size, table.dtype), np.zeros(size)
    y = FUNCTIONS[inner][0](table.panel(0) + table.number(0))
    xhat, mean, spread = normalized(table, y, eps)
    out = FUNCTIONS[outer][0](table.number(1) * xhat + table.number(2))
    good = forward(
        table.flat, table.place(0), table.place(1), table.numbers, saved, variance, table.stride, table.n,
        CODES[inner], CODES[outer], eps,
    )  # fmt: skip
    assert good == 1
    table.close(table.panel(0), y)
    table.close(saved[:size] + saved[size : 2 * size].astype(float), mean[:, 0])
    table.close(variance, spread[:, 0])
    table.close(table.panel(1), out)

    gradients = np.zeros(3 * size, table.dtype)
    g = table.panel(2) * (slope(out) if before else 1.0)
    dbeta, dgamma = g.sum(axis=1), (g * xhat).sum(axis=1)
    rest = g - (dbeta[:, None] + xhat * dgamma[:, None]) / table.n
    dz = table.number(1) / np.sqrt(spread + eps) * rest * (1.0 if before else slope(y))
    backward(
        table.flat, table.place(2), table.place(0), table.place(1), table.numbers, saved, gradients,
        table.stride, table.n, table.dtype(1), CODES[name] + (len(CODES) if before else 0),
    )  # fmt: skip
    table.close(table.panel(2), dz)
    table.close(gradients, np.concatenate([dz.sum(axis=1), dgamma, dbeta]))


def test_panel_backward_with_constant_statistics(table):
    size = table.rows
    saved = np.concatenate([np.zeros(2 * size), np.full(size, 2.0)]).astype(table.dtype)
    expected = table.panel(2) * table.number(1) * 2.0
    backward(
        table.flat, table.place(2), table.place(0), table.place(1), table.numbers, saved,
        np.zeros_like(saved), table.stride, table.n, table.dtype(0), CODES["identity"],
    )  # fmt: skip
    table.close(table.panel(2), expected)


@pytest.mark.skipif(config.DISABLE_JIT, reason="NumPy computes the squares in float64")
def test_panel_statistics_say_when_float32_cannot_hold_the_squares(dtype):
    width, size = tile(dtype).width, tile(dtype).rows
    numbers = np.zeros(3 * size, dtype)
    got = []
    for magnitude in (1.0, 0.0, 1e25, 1e-25):
        x = np.zeros(2 * size * width, dtype)
        x[:width] = magnitude * np.arange(width)
        saved, variance = np.zeros(3 * size, dtype), np.zeros(size)
        got.append(forward(x, 0, size * width, numbers, saved, variance, 2 * size * width, width, 0, 0, 1.0))
    assert got == [1, 1, 0, 0]


@pytest.mark.parametrize("outputs", [1, 2, 5])
def test_softmax_rows(dtype, outputs):
    width = tile(dtype).width
    z = np.random.default_rng(0).normal(0, 3, (outputs, width)).astype(dtype)
    flat = np.concatenate([z, np.zeros((outputs + 2, width), dtype)]).reshape(-1)
    g, top, total = (k * width for k in (outputs, 2 * outputs, 2 * outputs + 1))
    softmax(flat, 0, g, top, total, width, outputs, dtype(0.25))
    got = flat.reshape(-1, width)
    e = np.exp(z.astype(float) - z.max(axis=0))
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(got[outputs : 2 * outputs], 0.25 * e / e.sum(axis=0), rtol=20 * eps, atol=eps)
    np.testing.assert_array_equal(got[2 * outputs], z.max(axis=0))
    np.testing.assert_allclose(got[2 * outputs + 1], e.sum(axis=0), rtol=20 * eps)


@pytest.mark.parametrize("name", CODES)
def test_activate_row_lets_nan_pass(dtype, name):
    x = np.zeros(tile(dtype).width, dtype)
    x[1] = np.nan
    activate(x, 0, len(x), len(x), dtype(0), CODES[name])
    assert np.isnan(x).sum() == 1
