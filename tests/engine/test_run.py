import naive_network
import numpy as np
import pytest
from numba import config

from nbnorm import FNN, SGD, Standardizer, get_num_threads, set_num_threads
from nbnorm.engine.gather import ADDRESSES, NEXT, PEEK_DTYPES, Data
from nbnorm.engine.microkernels import tile
from nbnorm.engine.run import Layout, permutation
from nbnorm.model.plan import training_samples
from nbnorm.model.training import training_run


@pytest.mark.parametrize("norm", ["after", "before", "layer", "rms_after", None])
def test_one_step_in_float32(norm):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(19, 5)).astype(np.float32), rng.integers(0, 3, 19)
    net = FNN([5, 37, 9, 3], norm=norm, activation="tanh", standardize=False, seed=1)
    reference = naive_network.Network(net)
    net.fit(X, y, epochs=1, batch_size=10, shuffle=False, optimizer=SGD(lr=0.1, momentum=0.9))
    for s in (slice(0, 10), slice(10, 19)):
        reference.step(X[s].astype(float), y[s], 0.1, 0.9, False, 0.0)
    for name, values in net.parameters().items():
        np.testing.assert_allclose(values, reference.p[name], rtol=0, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_layout_packs_and_unpacks_weights(dtype):
    width = tile(dtype).width
    sizes = (3, width - 1, width, 2 * width + 1, 2)
    layout = Layout(sizes, ("relu",) * 3, "after", 7, np.dtype(dtype), gradients=True)
    flat = np.zeros(layout.weight_size, dtype)
    matrices = [
        np.random.default_rng(l).normal(size=(sizes[l], sizes[l - 1])).astype(dtype) for l in range(1, 5)
    ]
    for l, matrix in enumerate(matrices, 1):
        layout.pack(l, matrix, flat)
    assert np.count_nonzero(flat) == sum(matrix.size for matrix in matrices)
    for l, matrix in enumerate(matrices, 1):
        got = np.full_like(matrix, np.nan)
        layout.unpack(l, flat, got)
        np.testing.assert_array_equal(got, matrix)


def test_data_copies_nothing_that_kernels_can_read():
    for dtype in (*PEEK_DTYPES, np.dtype(bool)):
        x = np.ones((4, 3), dtype)[::2]
        data = Data(x)
        assert np.shares_memory(data.array, x)
        assert (data.samples, data.strides) == (2, x.strides)


@pytest.mark.parametrize("kind", [">f4", ">f8", ">i2", ">u4", ">i8", "f2", ">f2", np.longdouble])
def test_data_converts_to_a_type_that_holds_the_values(kind):
    x = np.array([[1, 2], [3, 16_000]], kind)
    array = Data(x).array
    assert array.dtype in PEEK_DTYPES
    assert array.dtype.isnative
    assert array.dtype.itemsize >= min(x.dtype.itemsize, 8)
    np.testing.assert_array_equal(array, x)


def shuffled(seed, epoch, n=50, shuffle=True):
    out = np.empty(n, np.int64)
    with np.errstate(over="ignore"):
        permutation(np.uint64(seed), np.uint64(epoch), shuffle, out)
    return out


def test_permutation():
    got = shuffled(1, 2)
    np.testing.assert_array_equal(np.sort(got), np.arange(50))
    np.testing.assert_array_equal(got, shuffled(1, 2))
    assert (got != shuffled(1, 3)).any()
    assert (got != shuffled(2, 2)).any()
    np.testing.assert_array_equal(shuffled(1, 2, shuffle=False), np.arange(50))
    assert shuffled(2**63 - 1, 0, n=1).tolist() == [0]


@pytest.mark.skipif(config.DISABLE_JIT, reason="too many permutations for the interpreter")
def test_permutation_is_uniform():
    # each element comes to each position equally often
    counts = np.zeros((6, 6))
    trials = 6000
    for epoch in range(trials):
        counts[np.arange(6), shuffled(3, epoch, n=6)] += 1
    chi2 = ((counts - trials / 6) ** 2 / (trials / 6)).sum()
    assert chi2 < 60  # 25 degrees of freedom: exceeded by chance in 1 of 10,000 generators


@pytest.mark.usefixtures("thread_pool")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", ["uint8", "float32", "float64"])
def test_edges_that_fill_no_square_give_the_same_bits(kind, threads):
    # tables in Fortran order are read element by element
    rng = np.random.default_rng(0)
    width = tile(np.float32).width
    set_num_threads(min(threads, get_num_threads()))
    for features in (3, 8, width + 1, width + 13, 2 * width - 3):
        net = FNN([features, 6, 2], seed=0)
        for samples in (2, 8, 13, width + 2, width + 9, 2 * width + 11):
            X = rng.integers(0, 200, (samples, features)).astype(kind)
            net.standardizer = Standardizer().fit(X)
            for forward in (net.train().forward, net.eval().forward):
                np.testing.assert_array_equal(forward(X), forward(np.asfortranarray(X)))


@pytest.mark.usefixtures("thread_pool")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", ["uint8", "float32", "float64"])
def test_updates_fetch_the_rows_of_the_next_batch(kind, threads):
    threads = min(threads, get_num_threads())
    rng = np.random.default_rng(0)
    X, y = rng.integers(0, 200, (50, 301)).astype(kind), rng.integers(0, 3, 50)
    net = FNN([301, 80, 3], seed=0)
    run = training_run(net, training_samples(net, X, y, None, None, 10), SGD(0.1))
    run.begin(0, 0, True)
    run.control.last_step = 1
    run.all(threads)
    assert run.upcoming[:threads, NEXT].sum() > 0
    lines = set()
    for next_one, pieces, length, *addresses in run.upcoming[:threads].tolist():
        assert 0 <= next_one <= pieces <= len(addresses)
        lines |= {(address + 64 * k) // 64 for address in addresses[:pieces] for k in range(length)}
    row = X.shape[1] * X.itemsize
    for sample in run.order[10:20]:
        start = X.ctypes.data + int(sample) * row
        assert lines.issuperset(range(start // 64, (start + row - 1) // 64))


@pytest.mark.parametrize(
    "change", [np.asfortranarray, lambda X: X.astype(np.int16), lambda X: np.tile(X, 40)]
)
def test_rows_that_are_no_tiles_or_too_many_bytes_are_not_fetched(change):
    X = change(np.ones((50, 301), np.float32))
    net = FNN([X.shape[1], 9, 3], seed=0, standardize=False)
    run = training_run(net, training_samples(net, X, np.arange(50) % 3, None, None, 10), SGD(0.1))
    run.begin(0, 0, True)
    run.all(1)
    assert run.upcoming.shape[1] == ADDRESSES
    assert not run.upcoming.any()
