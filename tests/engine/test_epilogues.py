import numpy as np
import pytest
from numba import config

from nbnorm.compile.kernels import kernel
from nbnorm.engine import epilogues
from nbnorm.engine.microkernels import tile
from nbnorm.functions.activations import CODES, activation_backward, activation_forward


# The intrinsics exist inside compiled code only.
@kernel
def activate(address, x, i, z, stride, n, bias):
    epilogues.activate_row(address, x, i, z, stride, n, bias)


@kernel
def derive(address, x, i, j, stride, n):
    return epilogues.derive_row(address, x, i, j, stride, n)


@kernel
def drop(address, x, i, j, stride, n, first, key, threshold, scale):
    epilogues.drop_row(address, x, i, j, stride, n, first, key, threshold, scale)


@kernel
def forward(addresses, x, y, w, a, numbers, saved, variance, stride, n, total, eps):
    """Bias, gamma and beta stand in `numbers`; shift, center and rstd go to `saved`."""
    size = len(variance)
    good = epilogues.panel_statistics(
        addresses[0], x, y, w, numbers, 0, saved, 0, size, variance, 0, stride, n, total
    )
    for r in range(size):
        saved[2 * size + r] = 1 / np.sqrt(variance[r] + eps)
    epilogues.panel_normalize(
        addresses[1], x, y, a, 0, 0, numbers, size, 2 * size, saved, 0, size, 2 * size, stride, n
    )
    return good


@kernel
def backward(address, x, g, y, a, w, numbers, saved, out, stride, n, batch, total):
    """`out` takes the gradients of bias, gamma and beta."""
    size = len(saved) // 3
    epilogues.panel_backward(
        address, x, g, y, a, 0, 0, w, numbers, size, saved, 0, size, 2 * size, out, size, 2 * size, 0, stride,
        n, batch, total,
    )  # fmt: skip


def forward_addresses(dtype, inner, outer, weighted=False):
    statistics = epilogues.row_kernel("statistics", dtype, CODES[inner], weighted=weighted)
    return np.array([statistics, epilogues.row_kernel("normalize", dtype, CODES[outer])])


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
        self.blocks, self.features = -(-n // self.width), 3 * shape.rows
        rng = np.random.default_rng(n)
        self.values = rng.uniform(-2, 2, (self.features, n)).astype(dtype)
        self.numbers = rng.uniform(0.5, 1.5, 3 * self.rows).astype(dtype)
        padded = np.full((self.features, self.blocks * self.width), np.nan, dtype)
        padded[:, :n] = self.values
        self.flat = (
            padded.reshape(self.features, self.blocks, self.width).transpose(1, 0, 2).reshape(-1).copy()
        )
        self.stride = self.features * self.width

    def row(self, i):
        blocks = self.flat.reshape(self.blocks, self.features, self.width)[:, i]
        return blocks.reshape(-1)[: self.n].astype(float)

    def panel(self, k):
        return np.array([self.row(k * self.rows + r) for r in range(self.rows)])

    def number(self, k):
        return self.numbers[k * self.rows : (k + 1) * self.rows, None].astype(float)

    def at(self, i):
        return i * self.width

    def offset(self, k):
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
    z = table.row(1) + 0.5
    address = epilogues.row_kernel("activate", table.dtype, CODES[name])
    activate(address, table.flat, table.at(1), table.at(2), table.stride, table.n, table.dtype(0.5))
    table.close(table.row(1), activation_forward(z, name))
    np.testing.assert_array_equal(table.row(0), table.values[0])
    kept = table.values[2] if name in FUNCTIONS else z
    table.close(table.row(2), kept)


@pytest.mark.parametrize("name", CODES)
def test_derive_row(table, name):
    g, z = table.row(0), table.row(1)  # row 1 stands for f(z) where f tells its slope
    slope = FUNCTIONS[name][1](z) if name in FUNCTIONS else activation_backward(np.ones_like(z), z, name, z=z)
    address = epilogues.row_kernel("derive", table.dtype, CODES[name])
    got = derive(address, table.flat, table.at(0), table.at(1), table.stride, table.n)
    table.close(table.row(0), g * slope)
    table.close(got, (g * slope).sum())


def test_drop_row(dtype):
    table = Table(dtype, 4 * tile(dtype).width + 3)
    address, before, kept = epilogues.row_kernel("drop", dtype), table.row(0), []
    for key in range(64):
        drop(address, table.flat, table.at(0), table.at(1), table.stride, table.n, 0, key, 2**30, dtype(2))
        got = table.row(1)
        assert (got == np.where(got == 0, 0, 2 * before)).all()
        kept.append(got != 0)
    kept = np.array(kept)
    # a quarter is dropped: five standard deviations of a binomial distribution, samples and keys alike
    assert abs(kept.mean() - 0.75) < 5 * np.sqrt(0.25 * 0.75 / kept.size)
    for part in (kept.mean(axis=0), kept.mean(axis=1)):
        assert (abs(part - 0.75) < 6 * np.sqrt(0.25 * 0.75 * part.size / kept.size)).all()
    # a row that begins with a later sample is the end of the whole row
    width, block = tile(dtype).width, table.stride
    second = (table.at(0) + block, table.at(1) + block, table.stride, table.n - width, width)
    drop(address, table.flat, *second, 63, 2**30, dtype(2))
    np.testing.assert_array_equal(table.row(1) != 0, kept[-1])
    drop(address, table.flat, table.at(0), table.at(1), table.stride, table.n, 0, 1, 0, dtype(1))
    np.testing.assert_array_equal(table.row(1), before)


def normalized(table, y, w, eps):
    mean = np.average(y, axis=1, weights=w)[:, None]
    variance = np.average((y - mean) ** 2, axis=1, weights=w)[:, None]
    return (y - mean) / np.sqrt(variance + eps), mean, variance


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("before", [False, True], ids=["after", "before"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_panels(table, name, before, weighted):
    size, eps, n = table.rows, 0.5, table.n
    weights = np.random.default_rng(1).uniform(0.5, 2, n).astype(table.dtype) if weighted else np.ones(n)
    start = len(table.flat)
    padded = np.zeros(table.blocks * table.width, table.dtype)
    padded[:n] = weights
    flat = np.concatenate([table.flat, padded])
    table.flat = flat[:start]
    w, total = weights.astype(float), table.dtype(weights.sum())
    slope = FUNCTIONS[name][1]
    inner, outer = ("identity", name) if before else (name, "identity")
    saved, variance = np.zeros(3 * size, table.dtype), np.zeros(size)
    y = FUNCTIONS[inner][0](table.panel(0) + table.number(0))
    xhat, mean, spread = normalized(table, y, w, eps)
    out = FUNCTIONS[outer][0](table.number(1) * xhat + table.number(2))
    good = forward(
        forward_addresses(table.dtype, inner, outer, weighted), flat, table.offset(0), start, table.offset(1),
        table.numbers, saved, variance, table.stride, n, total, eps,
    )  # fmt: skip
    assert good == 1
    table.close(table.panel(0), y)
    table.close(saved[:size] + saved[size : 2 * size].astype(float), mean[:, 0])
    table.close(variance, spread[:, 0])
    table.close(table.panel(1), out)

    gradients = np.zeros(3 * size, table.dtype)
    g = table.panel(2) * (slope(out) if before else 1.0)
    dbeta, dgamma = g.sum(axis=1), (g * xhat).sum(axis=1)
    rest = g - w / w.sum() * (dbeta[:, None] + xhat * dgamma[:, None])
    dz = table.number(1) / np.sqrt(spread + eps) * rest * (1.0 if before else slope(y))
    kind = "before" if before else "backward"
    backward(
        epilogues.row_kernel(kind, table.dtype, CODES[name], weighted=weighted), flat, table.offset(2),
        table.offset(0), table.offset(1), start, table.numbers, saved, gradients, table.stride, n,
        table.dtype(1), total,
    )  # fmt: skip
    table.close(table.panel(2), dz)
    table.close(gradients, np.concatenate([dz.sum(axis=1), dgamma, dbeta]))


def test_panel_backward_with_constant_statistics(table):
    size = table.rows
    saved = np.concatenate([np.zeros(2 * size), np.full(size, 2.0)]).astype(table.dtype)
    expected = table.panel(2) * table.number(1) * 2.0
    backward(
        epilogues.row_kernel("backward", table.dtype), table.flat, table.offset(2), table.offset(0),
        table.offset(1), 0, table.numbers, saved, np.zeros_like(saved), table.stride, table.n,
        table.dtype(0), table.dtype(table.n),
    )  # fmt: skip
    table.close(table.panel(2), expected)


@pytest.mark.skipif(config.DISABLE_JIT, reason="NumPy computes the squares in float64")
def test_panel_statistics_say_when_float32_cannot_hold_the_squares(dtype):
    width, size = tile(dtype).width, tile(dtype).rows
    numbers = np.zeros(3 * size, dtype)
    addresses = forward_addresses(dtype, "identity", "identity")
    got = []
    for magnitude in (1.0, 0.0, 1e25, 1e-25):
        x = np.zeros(2 * size * width, dtype)
        x[:width] = magnitude * np.arange(width)
        saved, variance = np.zeros(3 * size, dtype), np.zeros(size)
        stride = 2 * size * width
        got.append(
            forward(
                addresses, x, 0, 0, size * width, numbers, saved, variance, stride, width, dtype(width), 1.0
            )
        )
    assert got == [1, 1, 0, 0]


@pytest.mark.parametrize("name", CODES)
def test_activate_row_lets_nan_pass(dtype, name):
    width = tile(dtype).width
    x = np.zeros(2 * width, dtype)
    x[1] = np.nan
    address = epilogues.row_kernel("activate", dtype, CODES[name])
    activate(address, x, 0, width, 2 * width, width, dtype(0))
    assert np.isnan(x[:width]).sum() == 1
