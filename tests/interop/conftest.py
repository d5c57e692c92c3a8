import numpy as np
import pytest

from nbnorm import FNN, SGD


@pytest.fixture(scope="session")
def table():
    """Features of many sizes, and classes that depend on them."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(96, 6)) * [1, 10, 0.1, 1, 1, 1] + [0, 100, 5, 0, 0, 1e4]
    X = X.astype(np.float32)
    return X, (X[:, 0] * 2 + X[:, 3] > 0).astype(int) + (X[:, 4] > 0)


@pytest.fixture
def trained(table):
    """Return a function that trains a network a little."""

    def train(sizes=(6, 7, 5, 3), X=None, y=None, **options):
        X, y = (table[0] if X is None else X), (table[1] if y is None else y)
        net = FNN(sizes, seed=1, **options)
        net.fit(X, y, epochs=2, batch_size=32, optimizer=SGD(0.05), progress=False)
        return net

    return train


@pytest.fixture
def damaged():
    """Return a function that yields damaged versions of a file: cut, a bit turned, parts exchanged."""

    def versions(data):
        generator = np.random.default_rng(0)
        yield from (data[: generator.integers(len(data))] for _ in range(8))
        for _ in range(60):
            changed = bytearray(data)
            changed[generator.integers(len(data))] ^= 1 << generator.integers(8)
            yield bytes(changed)
        for _ in range(8):
            a, b, c = np.sort(generator.integers(len(data), size=3))
            yield data[:a] + data[b:c] + data[a:b] + data[c:]

    return versions
