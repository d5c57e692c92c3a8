import itertools
import re

import naive_network
import numpy as np
import pytest
import scipy.special
from numba import config

from nbnorm import FNN, SGD, load_mnist
from nbnorm.engine.steps import epoch_part

NORMS = ("after", "before", "layer", "layer_after", "rms", "rms_after", None)
ACTIVATIONS = ("relu", "sigmoid", "tanh", "identity")
OUTPUTS = ("softmax", "sigmoid", "identity")


def targets(output, n, n_out, seed=1):
    rng = np.random.default_rng(seed)
    if output == "softmax":
        return rng.integers(0, n_out, n)
    return rng.normal(size=(n, n_out)) if output == "identity" else rng.integers(0, 2, (n, n_out))


def network(sizes=(5, 9, 6, 3), **options):
    """A float64 network none of whose numbers is a neutral one."""
    net = FNN(sizes, **{"dtype": np.float64, "standardize": False, "seed": 3, **options})
    rng = np.random.default_rng(4)
    for name, values in net.parameters().items():
        if not name.endswith("weight"):
            values += 0.3 * rng.normal(size=values.shape)
    for values in net.buffers().values():
        values += rng.uniform(0, 0.5, values.shape)
    return net


def state(net):
    """Everything that a refused call must leave as it was."""
    arrays = {name: values.tobytes() for name, values in (net.parameters() | net.buffers()).items()}
    statistics = None if net.standardizer is None else str(net.standardizer.to_dict())
    return arrays, statistics, net.training, net.epochs_trained, dict(net.metadata)


def assert_close(got, expected, rtol):
    assert got.keys() == expected.keys()
    # gradients of a bias in front of a batch norm are zero but for rounding
    least = 1e-3 * max((np.abs(values).max() for values in expected.values()), default=0.0)
    for name in expected:
        scale = max(np.abs(expected[name]).max(), least)
        np.testing.assert_allclose(got[name], expected[name], rtol=0, atol=rtol * scale, err_msg=name)


# ----------------------------------------------------------------------------------------------
# Forward and backward
# ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("norm", NORMS)
def test_loss_and_gradients(norm, activation, output):
    X, y = np.random.default_rng(0).normal(size=(7, 5)), targets(output, 7, 3)
    for running, unbiased, mode in itertools.product(("var", "std"), (True, False), (True, False)):
        net = network(norm=norm, activation=activation, output=output, running=running, unbiased=unbiased)
        net.training = mode
        before = state(net)
        loss, gradients = net.loss_and_gradients(X, y)
        assert state(net) == before
        expected_loss, expected = naive_network.Network(net).loss_and_gradients(X, y, mode)
        assert loss == pytest.approx(expected_loss, rel=1e-12)
        assert_close(gradients, expected, 1e-11)


@pytest.mark.parametrize("norm", NORMS)
def test_loss_and_gradients_of_layers_wider_than_a_tile(norm):
    sizes, n = ((3, 35, 4), 34) if config.DISABLE_JIT else ((40, 70, 33, 12), 75)
    net = network(sizes, norm=norm)
    X, y = np.random.default_rng(0).normal(size=(n, sizes[0])), targets("softmax", n, sizes[-1])
    loss, gradients = net.loss_and_gradients(X, y)
    expected_loss, expected = naive_network.Network(net).loss_and_gradients(X, y, True)
    assert loss == pytest.approx(expected_loss, rel=1e-12)
    assert_close(gradients, expected, 1e-11)


@pytest.mark.skipif(config.DISABLE_JIT, reason="too much arithmetic for the interpreter")
@pytest.mark.parametrize("norm", NORMS)
def test_loss_and_gradients_of_layers_deeper_than_a_block_of_the_sum(norm):
    net = network((300, 520, 270, 10), norm=norm, activation="tanh")
    X, y = np.random.default_rng(0).normal(size=(40, 300)), targets("softmax", 40, 10)
    loss, gradients = net.loss_and_gradients(X, y)
    expected_loss, expected = naive_network.Network(net).loss_and_gradients(X, y, True)
    assert loss == pytest.approx(expected_loss, rel=1e-12)
    assert_close(gradients, expected, 1e-10)


@pytest.mark.parametrize("norm", NORMS)
def test_loss_and_gradients_in_float32(norm):
    X, y = np.random.default_rng(0).normal(size=(20, 5)), targets("softmax", 20, 3)
    net = network(norm=norm, activation="tanh", dtype=np.float32)
    loss, gradients = net.loss_and_gradients(X, y)
    expected_loss, expected = naive_network.Network(net).loss_and_gradients(X, y, True)
    assert all(values.dtype == np.float32 for values in gradients.values())
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert_close(gradients, expected, 2e-5)


def test_network_without_hidden_layers():
    net = network((5, 3))
    X, y = np.random.default_rng(0).normal(size=(7, 5)), targets("softmax", 7, 3)
    loss, gradients = net.loss_and_gradients(X, y)
    expected_loss, expected = naive_network.Network(net).loss_and_gradients(X, y, True)
    assert loss == pytest.approx(expected_loss, rel=1e-12)
    assert_close(gradients, expected, 1e-12)


@pytest.mark.parametrize("running", ["var", "std"])
@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("norm", ["after", "before"])
def test_forward(norm, unbiased, running):
    net = network(norm=norm, running=running, unbiased=unbiased, decay=0.7)
    reference = naive_network.Network(net)
    X = np.random.default_rng(0).normal(size=(11, 5))
    for mode in (True, True, False):  # the moving averages move twice
        net.training = mode
        expected, _ = reference.forward(X, mode, move=True)
        np.testing.assert_allclose(net.forward(X), expected, rtol=1e-11, atol=1e-12)
        assert_close(net.buffers(), reference.buffers, 1e-13)


@pytest.mark.parametrize("kind", ["uint8", "float32", "float64", "int16"])
def test_forward_in_evaluation_mode_takes_each_sample_by_itself(kind):
    n = 9 if config.DISABLE_JIT else 150
    X = np.random.default_rng(0).integers(0, 100, (n, 21)).astype(kind)
    net = network((21, 9, 3), dtype=np.float32, standardize=True)
    net.fit(X, targets("softmax", n, 3), epochs=1, batch_size=n)
    got = net.forward(X)
    np.testing.assert_array_equal(got[:1], net.forward(X[:1]))
    np.testing.assert_array_equal(got[-3:], net.forward(X[-3:]))
    np.testing.assert_array_equal(got, net.forward(np.asfortranarray(X)))


def test_modes():
    net = FNN([5, 4, 3], seed=0)
    assert net.training
    assert net.eval() is net
    assert not net.training
    assert net.train() is net
    assert net.training


def test_check_gradients():
    X = np.random.default_rng(0).normal(size=(6, 3))
    grid = itertools.product(("after", "before"), ("var", "std"), ("train", "eval"))
    for norm, running, mode in list(grid)[: 1 if config.DISABLE_JIT else None]:
        net = FNN([3, 4, 2], norm=norm, running=running, dtype=np.float32, seed=1)
        getattr(net, mode)()
        before = state(net)
        errors = net.check_gradients(X, [0, 1, 1, 0, 1, 0])
        assert state(net) == before
        assert errors.keys() == net.parameters().keys()
        assert max(errors.values()) <= 1e-6


# ----------------------------------------------------------------------------------------------
# Training
# ----------------------------------------------------------------------------------------------

OPTIMIZERS = {
    "momentum": dict(momentum=0.9, nesterov=False, weight_decay=0.0),
    "nesterov": dict(momentum=0.9, nesterov=True, weight_decay=0.0),
    "weight decay": dict(momentum=0.9, nesterov=False, weight_decay=0.01),
    "nesterov and weight decay": dict(momentum=0.8, nesterov=True, weight_decay=0.02),
    "plain": dict(momentum=0.0, nesterov=False, weight_decay=0.0),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("norm", NORMS)
def test_fit_fifty_steps(norm, optimizer):
    options = OPTIMIZERS[optimizer]
    net = network(norm=norm, activation="tanh", running="std" if optimizer == "plain" else "var")
    reference = naive_network.Network(net)
    X, y = np.random.default_rng(0).normal(size=(37, 5)), targets("softmax", 37, 3)
    history = net.fit(X, y, epochs=10, batch_size=8, shuffle=False, optimizer=SGD(lr=0.05, **options))
    losses = []
    for _ in range(10):
        parts = naive_network.batches(37, 8)  # 8, 8, 7, 7 and 7 samples
        losses.append([reference.step(X[s], y[s], 0.05, **options) * len(s) for s in parts])
    assert history.steps == 50
    np.testing.assert_allclose(history.loss, np.sum(losses, axis=1) / 37, rtol=1e-10)
    assert_close(net.parameters(), reference.p, 1e-10)
    assert_close(net.buffers(), reference.buffers, 1e-10)


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_fit_other_losses_and_activations(activation, output):
    net = network(activation=activation, output=output)
    reference = naive_network.Network(net)
    X, y = np.random.default_rng(0).normal(size=(20, 5)), targets(output, 20, 3)
    net.fit(X, y, epochs=5, batch_size=10, shuffle=False, optimizer=SGD(lr=0.05, momentum=0.9))
    for s in [slice(0, 10), slice(10, 20)] * 5:
        reference.step(X[s], y[s], 0.05, 0.9, False, 0.0)
    assert_close(net.parameters(), reference.p, 1e-10)


@pytest.mark.parametrize("norm", NORMS)
def test_fit_standardizes_with_the_statistics_of_the_whole_training_set(norm):
    rng = np.random.default_rng(0)
    X, y = rng.normal(50.0, [1, 10, 100, 0.1, 5], size=(37, 5)), targets("softmax", 37, 3)
    net = network(norm=norm, activation="sigmoid", standardize=True)
    reference = naive_network.Network(net)
    net.fit(X, y, epochs=2, batch_size=8, shuffle=False, optimizer=SGD(lr=0.05, momentum=0.9))
    U = (X - X.mean(axis=0)) / X.std(axis=0)
    for _ in range(2):
        for s in naive_network.batches(37, 8):
            reference.step(U[s], y[s], 0.05, 0.9, False, 0.0)
    assert_close(net.parameters(), reference.p, 1e-9)
    np.testing.assert_allclose(net.forward(X), reference.forward(U, False)[0], rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(
    ("samples", "batch_size", "steps"), [(129, 128, 2), (33, 16, 3), (7, 3, 3), (40, 8, 5), (9, 100, 1)]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_batches_are_even(samples, batch_size, steps, dtype):
    X, y = np.random.default_rng(0).normal(size=(samples, 5)), targets("softmax", samples, 3)
    net = network(activation="tanh", dtype=dtype)
    reference = naive_network.Network(net)
    sizes = [len(s) for s in naive_network.batches(samples, batch_size)]
    assert max(sizes) <= min(batch_size, min(sizes) + 1)
    assert min(sizes) >= 2
    history = net.fit(X, y, epochs=2, batch_size=batch_size, shuffle=False, optimizer=SGD(lr=0.05))
    assert history.steps == 2 * steps == 2 * len(sizes)
    for _ in range(2):
        for s in naive_network.batches(samples, batch_size):
            reference.step(X[s], y[s], 0.05, 0.0, False, 0.0)
    tolerance = 1e-4 if dtype == np.float32 else 1e-10
    assert_close(net.parameters(), reference.p, tolerance)
    assert_close(net.buffers(), reference.buffers, tolerance)


def test_fit_keeps_the_standardizer_of_the_first_call(blobs):
    X, y = blobs
    net = FNN([5, 4, 3], seed=0)
    net.fit(X, y, epochs=1, batch_size=45)
    statistics = net.standardizer.to_dict()
    net.fit(10 * X, y, epochs=1, batch_size=45)
    assert str(net.standardizer.to_dict()) == str(statistics)


def test_fit_whole_data_as_one_batch_when_batch_size_is_larger(blobs):
    X, y = blobs
    nets = [FNN([5, 4, 3], dtype=np.float64, seed=0) for _ in range(2)]
    for net, size in zip(nets, (90, 1000), strict=True):
        assert net.fit(X, y, epochs=2, batch_size=size).steps == 2
    assert state(nets[0]) == state(nets[1])


# ----------------------------------------------------------------------------------------------
# Data as it lies
# ----------------------------------------------------------------------------------------------


def trained(X, y, dtype=np.float32):
    net = FNN([np.shape(X)[1], 6, 3], dtype=dtype, seed=2)
    net.fit(X, y, epochs=2, batch_size=16)
    return {**net.parameters(), **net.buffers(), "logits": net.forward(X)}


def integers(dtype):
    top = min(np.iinfo(dtype).max, 1 << 40)
    return np.random.default_rng(0).integers(0, top, (50, 5), dtype=dtype)


@pytest.mark.parametrize("kind", ["int8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
def test_fit_integers(kind):
    X, y = integers(kind), targets("softmax", 50, 3)
    got, expected = trained(X, y), trained(X.astype(np.float64), y)
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name])


@pytest.mark.parametrize("kind", ["uint8", "bool"])
def test_fit_bytes(kind):
    X = integers("uint8") if kind == "uint8" else integers("uint8") > 120
    y = targets("softmax", 50, 3)
    got, expected = trained(X, y), trained(X.astype(np.float32), y)
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fit_floats_of_the_other_width(dtype):
    X, y = np.random.default_rng(0).normal(size=(50, 5)).astype(np.float32), targets("softmax", 50, 3)
    got, expected = trained(X.astype(np.float64), y, dtype), trained(X, y, dtype)
    assert_close(got, expected, 2e-5 if dtype == np.float32 else 1e-12)


@pytest.mark.parametrize("kind", ["float16", "longdouble", ">f4", ">f8", ">i4", "<u2"])
def test_fit_other_element_types(kind):
    X, y = np.random.default_rng(0).integers(0, 100, (50, 5)).astype(kind), targets("softmax", 50, 3)
    assert_close(trained(X, y), trained(X.astype(np.float32), y), 2e-5)


@pytest.mark.parametrize(("kind", "native"), [(">f8", "f8"), (">i8", "i8"), ("longdouble", "f8")])
def test_element_types_are_not_rounded_before_the_mean_is_subtracted(kind, native):
    X, y = (10**8 + integers("int8").astype(int)).astype(native), targets("softmax", 50, 3)
    got, expected = trained(X.astype(kind), y), trained(X, y)
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name])
    net = FNN([5, 6, 3], seed=2)
    net.fit(X, y, epochs=2)
    np.testing.assert_array_equal(net.predict_proba(X.astype(kind)), net.predict_proba(X))


@pytest.mark.parametrize("kind", ["float32", "float64", "uint8", "int32"])
def test_fit_any_memory_layout(kind, tmp_path):
    X, y = np.random.default_rng(0).integers(0, 100, (50, 5)).astype(kind), targets("softmax", 50, 3)
    expected = trained(X, y)
    frozen, spread, reverse = X.copy(), np.zeros((100, 15), kind), X[::-1, ::-1].copy()
    frozen.flags.writeable = False
    spread[::2, ::3] = X
    unaligned = np.zeros(X.nbytes + 1, np.uint8)[1:].view(kind).reshape(X.shape)
    unaligned[:] = X
    record = np.zeros(50, [("x", kind, (5,)), ("tail", "u1")])
    record["x"] = X
    np.save(tmp_path / "x.npy", X)
    layouts = {
        "read-only": frozen,
        "Fortran": np.asfortranarray(X),
        "strided": spread[::2, ::3],
        "reversed": reverse[::-1, ::-1],
        "unaligned": unaligned,
        "field of records": record["x"],
        "memory map": np.load(tmp_path / "x.npy", mmap_mode="r"),
        "list": X.tolist() if kind == "float64" else X,
    }
    for layout, table in layouts.items():
        got = trained(table, y)
        for name in expected:
            np.testing.assert_array_equal(got[name], expected[name], err_msg=f"{layout}: {name}")


@pytest.mark.skipif(config.DISABLE_JIT, reason="tests compiled code")
def test_fit_compiles_nothing_new_for_read_only_arrays(blobs):
    X, y = blobs
    FNN([5, 4, 3], seed=0).fit(X, y, epochs=1)
    before = len(epoch_part.signatures)
    assert before <= 2  # one for each float type
    for array in (X, y):
        array.flags.writeable = False
    FNN([5, 4, 3], seed=0).fit(X, y, epochs=1)
    FNN([5, 4, 3], seed=0, output="identity").fit(X, np.eye(3)[y], epochs=1)
    assert len(epoch_part.signatures) == before


@pytest.mark.parametrize("kind", ["int8", "uint8", "int32", "uint64", "bool"])
def test_fit_labels_of_any_integer_type(kind, blobs):
    X, y = blobs
    y = np.minimum(y, 1) if kind == "bool" else y
    expected, got = FNN([5, 4, 3], seed=0), FNN([5, 4, 3], seed=0)
    expected.fit(X, y, epochs=1)
    got.fit(X, y.astype(kind), epochs=1)
    assert state(got) == state(expected)


def test_fit_one_output_takes_vectors(blobs):
    X, y = blobs
    for output in ("sigmoid", "identity"):
        nets = [FNN([5, 4, 1], output=output, seed=0) for _ in range(2)]
        nets[0].fit(X, (y > 0) * 1.0, epochs=1)
        nets[1].fit(X, (y > 0)[:, None], epochs=1)
        assert state(nets[0]) == state(nets[1])
        assert nets[0].predict(X).shape == (90,)


# ----------------------------------------------------------------------------------------------
# Numerics
# ----------------------------------------------------------------------------------------------


def hostile(norm, mean, scale):
    """A float32 network whose hidden features are exact in float32, with its float64 reference."""
    rng = np.random.default_rng(0)
    X = np.ones((64, 3), np.float32)
    X[:, 1:] = rng.integers(-3, 4, (64, 2)) / 2
    net = FNN([3, 4, 2], activation="identity", norm=norm, standardize=False, decay=0.0, seed=5)
    p = net.parameters()
    p["dense1.weight"][:] = scale * np.array([[1, 2, 0], [1, 0, 2], [1, 2, 2], [-1, 2, -2]])
    p["dense1.weight"][:, 0] *= mean / scale
    net.forward(X)  # moves the averages all the way
    return net, X, targets("softmax", 64, 2)


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize(
    ("mean", "scale"), [(1e7, 1.0), (0.0, 1e30), (1e30, 1e27), (3e30, 2e30), (0.0, 1e-30)]
)
@pytest.mark.parametrize("norm", ["after", "before"])
def test_statistics_far_from_zero_and_of_any_magnitude(norm, mean, scale):
    net, X, y = hostile(norm, np.float32(mean), np.float32(scale))
    reference = naive_network.Network(net)
    for mode in (True, False):
        net.training = mode
        loss, gradients = net.loss_and_gradients(X, y)
        expected_loss, expected = reference.loss_and_gradients(X.astype(float), y, mode)
        assert loss == pytest.approx(expected_loss, rel=1e-4)
        for name in ("norm1.gamma", "norm1.beta", "dense2.weight", "dense2.bias"):
            scale_ = np.abs(expected[name]).max()
            np.testing.assert_allclose(
                gradients[name], expected[name], rtol=0, atol=1e-4 * scale_, err_msg=name
            )
        if mode:
            moments = reference.forward(X.astype(float), True)[0]
            np.testing.assert_allclose(net.forward(X), moments, rtol=0, atol=1e-4 * np.abs(moments).max())


def test_gradients_through_batch_norm_of_features_far_from_zero():
    net, X, y = hostile("before", np.float32(1e7), np.float32(1.0))
    net.train()
    _, gradients = net.loss_and_gradients(X, y)
    _, expected = naive_network.Network(net).loss_and_gradients(X.astype(float), y, True)
    got, exact = gradients["dense1.weight"], expected["dense1.weight"]
    np.testing.assert_allclose(got, exact, rtol=0, atol=1e-4 * np.abs(exact).max())


# ----------------------------------------------------------------------------------------------
# Parameters and files
# ----------------------------------------------------------------------------------------------


def test_parameters_are_live_views():
    net = network()
    X = np.random.default_rng(0).normal(size=(4, 5))
    weight = net.parameters()["dense3.weight"]
    net.parameters()["norm2.gamma"][:] = 0.0
    net.parameters()["norm2.beta"][:] = 1.0
    weight[:] = 2.0
    bias = net.parameters()["dense3.bias"]
    np.testing.assert_allclose(net.forward(X), np.broadcast_to(12.0 + bias, (4, 3)), rtol=1e-14)
    net.fit(X, [0, 1, 2, 0], epochs=1, batch_size=4)
    assert net.parameters()["dense3.weight"] is weight
    assert (weight != 2.0).any()


def test_buffers_are_live_views():
    net = network().eval()
    X = np.random.default_rng(0).normal(size=(4, 5))
    before = net.forward(X)
    net.buffers()["norm1.running_mean"][:] += 1.0
    assert (net.forward(X) != before).any()


def test_names_and_shapes():
    net = FNN([5, 4, 3], norm="before", running="std")
    shapes = {name: values.shape for name, values in net.parameters().items()}
    assert shapes == {
        "dense1.weight": (4, 5),
        "norm1.gamma": (4,),
        "norm1.beta": (4,),
        "dense2.weight": (3, 4),
        "dense2.bias": (3,),
    }
    assert list(net.buffers()) == ["norm1.running_mean", "norm1.running_std"]
    assert "weighted_statistics" not in repr(net)
    assert "weighted_statistics=True" in repr(FNN([5, 4, 3], weighted_statistics=True))
    assert net.n_parameters == sum(int(np.prod(shape)) for shape in shapes.values())
    assert FNN([5, 4, 3], norm=None).buffers() == {}


@pytest.mark.parametrize("init", ["he", "glorot", "lecun", "orthogonal"])
def test_initial_weights(init):
    weight = FNN([200, 100, 2], init=init, seed=0, dtype=np.float64).parameters()["dense1.weight"]
    if init == "orthogonal":
        np.testing.assert_allclose(weight @ weight.T, np.eye(100), atol=1e-12)
    else:
        variance = {"he": 2 / 200, "glorot": 2 / 300, "lecun": 1 / 200}[init]
        assert weight.var() == pytest.approx(variance, rel=0.05)
        assert abs(weight.mean()) < 5 * np.sqrt(variance / weight.size)


@pytest.mark.parametrize(
    "options",
    [
        {},
        dict(norm="before", running="std", dtype=np.float64),
        dict(norm=None),
        dict(weighted_statistics=True),
    ],
)
def test_save_and_load(options, tmp_path, blobs):
    X, y = blobs
    net = FNN([5, 4, 3], seed=7, decay=0.8, unbiased=False, activation="tanh", **options)
    net.metadata["classes"] = ["a", "b", "ü"]
    net.fit(X, y, epochs=1, batch_size=30)
    net.save(tmp_path / "net.npz")
    got = FNN.load(tmp_path / "net.npz")
    assert state(got) == state(net)
    for name in (
        "sizes",
        "activation",
        "norm",
        "output",
        "standardize",
        "eps",
        "decay",
        "running",
        "unbiased",
        "weighted_statistics",
        "seed",
    ):
        assert getattr(got, name) == getattr(net, name)
    np.testing.assert_array_equal(got.forward(X), net.forward(X))
    for model in (net, got):  # training goes on in the same way
        model.fit(X, y, epochs=1, batch_size=30, class_weight={0: 9.0})
    assert state(got) == state(net)


def test_save_and_load_of_an_untrained_network(tmp_path):
    net = FNN([5, 4, 3], seed=7)
    net.save(tmp_path / "net.npz")
    got = FNN.load(tmp_path / "net.npz")
    assert got.training
    assert state(got) == state(net)


def test_load_refuses_damaged_files(tmp_path):
    path = tmp_path / "net.npz"
    FNN([5, 4, 3], seed=7).save(path)
    whole = path.read_bytes()
    middle, weight = len(whole) // 2, whole.index(b"\x93NUMPY") + 130
    damaged = [
        b"",
        b"text",
        whole[:100],
        whole[:middle],
        whole[:-10],
        whole[:weight] + b"????" + whole[weight + 4 :],
    ]
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=re.escape(str(path))):
            FNN.load(path)
    np.savez(path, a=np.ones(3))
    with pytest.raises(ValueError, match=re.escape(str(path))):
        FNN.load(path)


@pytest.mark.parametrize(
    "change",
    [
        dict(sizes=[5, 4, 4]),
        dict(sizes=[10**12, 10**12]),
        dict(sizes=[]),
        dict(sizes=7),
        dict(sizes=["a", "b"]),
        dict(sizes=None),
        dict(norm="before"),
        dict(norm="sideways"),
        dict(eps=-1.0),
        dict(eps="x"),
        dict(decay=1.0),
        dict(dtype="float16"),
        dict(dtype="O"),
        dict(dtype="float64"),
        dict(seed=-1),
        dict(epochs_trained=-1),
        dict(epochs_trained=1e400),
        dict(epochs_trained=[]),
        dict(metadata=3),
        dict(standardizer=3),
        dict(standardizer=[]),
        dict(standardizer={}),
        dict(foreign=1),
        dict(running="std"),
        dict(training="yes"),
    ],
    ids=str,
)
def test_load_refuses_hostile_settings(change, tmp_path, monkeypatch):
    from nbnorm import _files

    path = tmp_path / "net.npz"
    FNN([5, 4, 3], seed=7).save(path)
    config_, arrays = _files.read(path, "network")
    monkeypatch.setattr(_files, "read", lambda *_: ({**config_, **change}, arrays))
    with pytest.raises(ValueError, match=re.escape(str(path))):
        FNN.load(path)


def test_load_refuses_missing_settings(tmp_path, monkeypatch):
    from nbnorm import _files

    path = tmp_path / "net.npz"
    FNN([5, 4, 3], seed=7).save(path)
    config_, arrays = _files.read(path, "network")
    for name in ("sizes", "training", "standardizer", "metadata"):
        less = {key: value for key, value in config_.items() if key != name}
        monkeypatch.setattr(_files, "read", lambda *_, less=less: (less, arrays))
        with pytest.raises(ValueError, match=re.escape(str(path))):
            FNN.load(path)


def test_load_and_save_refuse_bad_paths(tmp_path):
    net = FNN([5, 4, 3], seed=7)
    with pytest.raises(OSError, match="absent"):
        FNN.load(tmp_path / "absent.npz")
    with pytest.raises(OSError, match="absent"):
        net.save(tmp_path / "absent" / "net.npz")
    with pytest.raises(OSError, match=re.escape(tmp_path.name)):
        net.save(tmp_path)
    with pytest.raises(TypeError):
        net.save(3)


def test_save_keeps_the_old_file_when_metadata_cannot_be_written(tmp_path):
    net, path = FNN([5, 4, 3], seed=7), tmp_path / "net.npz"
    net.save(path)
    before = path.read_bytes()
    net.metadata["bad"] = object()
    with pytest.raises(TypeError):
        net.save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["net.npz"]


# ----------------------------------------------------------------------------------------------
# Prediction
# ----------------------------------------------------------------------------------------------


def test_predict_softmax():
    net = network().eval()
    X = np.random.default_rng(0).normal(size=(30, 5))
    z = naive_network.Network(net).forward(X, False)[0]
    e = np.exp(z)
    np.testing.assert_allclose(net.predict_proba(X), e / e.sum(axis=1, keepdims=True), rtol=1e-11)
    np.testing.assert_array_equal(net.predict(X), z.argmax(axis=1))
    y = targets("softmax", 30, 3)
    assert net.score(X, y) == (z.argmax(axis=1) == y).mean()


def test_predict_sigmoid():
    net = network(output="sigmoid").eval()
    X = np.random.default_rng(0).normal(size=(30, 5))
    z = naive_network.Network(net).forward(X, False)[0]
    np.testing.assert_allclose(net.predict_proba(X), 1 / (1 + np.exp(-z)), rtol=1e-11)
    np.testing.assert_array_equal(net.predict(X), z > 0)
    y = targets("sigmoid", 30, 3)
    assert net.score(X, y) == ((z > 0) == y).all(axis=1).mean()


def test_predict_identity():
    net = network(output="identity").eval()
    X, y = np.random.default_rng(0).normal(size=(30, 5)), targets("identity", 30, 3)
    z = naive_network.Network(net).forward(X, False)[0]
    np.testing.assert_allclose(net.predict(X), z, rtol=1e-11)
    r2 = 1 - ((y - z) ** 2).sum(axis=0) / ((y - y.mean(axis=0)) ** 2).sum(axis=0)
    assert net.score(X, y) == pytest.approx(r2.mean(), rel=1e-10)
    with pytest.raises(ValueError, match="predict_proba"):
        net.predict_proba(X)


def test_predict_uses_moving_averages_in_every_mode():
    net = network()
    X = np.random.default_rng(0).normal(size=(30, 5))
    before = state(net)
    got = net.predict_proba(X)
    assert state(net) == before
    np.testing.assert_array_equal(got, net.eval().predict_proba(X))


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("sizes", [(5, 3), (5, 6, 3)])
@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_outputs_that_are_not_finite_are_refused(output, sizes, form, blobs):
    X, y = blobs[0], targets(output, 90, 3)
    net = FNN(sizes, output=output, norm=None, seed=0)
    net.fit(X, y, epochs=1)
    before = state(net)
    far = changed(X, 1.7e308)
    if form == "sparse":
        far = pytest.importorskip("scipy.sparse").csr_array(far)
    calls = [net.predict, lambda X: net.score(X, y)]
    calls += [net.predict_proba] if output != "identity" else []
    for call in calls:
        with pytest.raises(ValueError, match=r"X must give finite outputs, got .* for row 3: .* float32"):
            call(far)
        assert state(net) == before


@pytest.mark.parametrize("name", ["dense1.weight", "norm1.gamma", "norm1.running_var"])
def test_parameters_that_are_not_finite_are_named(name, blobs):
    X, y = blobs
    net = FNN([5, 4, 3], seed=0)
    values = (net.parameters() | net.buffers())[name]
    values.reshape(-1)[1] = np.nan
    for call in (net.predict, net.predict_proba, lambda X: net.score(X, y), lambda X: net.fit(X, y)):
        with pytest.raises(ValueError, match=rf"the network's {name} must be finite, got nan at \[.*1\]"):
            call(X)
    assert net.epochs_trained == 0
    assert net.standardizer is None


# ----------------------------------------------------------------------------------------------
# Refusals
# ----------------------------------------------------------------------------------------------


def changed(X, value):
    X = np.array(X)
    X[3, 2] = value
    return X


OPTIONS = {
    "sizes none": (dict(sizes=None), TypeError, "sizes"),
    "sizes text": (dict(sizes="5,3"), TypeError, "sizes"),
    "sizes short": (dict(sizes=[5]), ValueError, "sizes"),
    "sizes zero": (dict(sizes=[5, 0, 3]), ValueError, r"sizes\[1\]"),
    "sizes float": (dict(sizes=[5, 4.0, 3]), TypeError, r"sizes\[1\]"),
    "one class": (dict(sizes=[5, 4, 1]), ValueError, "sizes"),
    "activation": (dict(activation="swish"), ValueError, "activation.*relu"),
    "activation none": (dict(activation=None), ValueError, "activation"),
    "activation function": (dict(activation=np.tanh), TypeError, "activation"),
    "activations": (dict(activation=["relu", "tanh"]), ValueError, "activation.*1 hidden"),
    "activations unknown": (dict(activation=["swish"]), ValueError, r"activation\[0\]"),
    "dropout one": (dict(dropout=1.0), ValueError, r"dropout\[0\]"),
    "dropouts": (dict(dropout=[0.1, 0.2]), ValueError, "dropout.*1 hidden"),
    "loss": (dict(loss="hinge"), ValueError, "loss"),
    "loss of another output": (dict(loss="huber"), ValueError, "loss.*softmax"),
    "norm": (dict(norm="behind"), ValueError, "norm.*after"),
    "output": (dict(output="linear"), ValueError, "output.*softmax"),
    "standardize": (dict(standardize=1), TypeError, "standardize"),
    "eps zero": (dict(eps=0.0), ValueError, "eps"),
    "eps negative": (dict(eps=-1e-5), ValueError, "eps"),
    "eps nan": (dict(eps=np.nan), ValueError, "eps"),
    "eps below the dtype": (dict(eps=1e-39), ValueError, "eps must be finite and at least 1.17549e-38"),
    "eps below float64": (dict(eps=1e-309, dtype="float64"), ValueError, "eps"),
    "eps text": (dict(eps="small"), TypeError, "eps"),
    "decay one": (dict(decay=1.0), ValueError, "decay"),
    "decay negative": (dict(decay=-0.1), ValueError, "decay"),
    "running": (dict(running="mean"), ValueError, "running"),
    "unbiased": (dict(unbiased=0), TypeError, "unbiased"),
    "init": (dict(init="zeros"), ValueError, "init"),
    "dtype half": (dict(dtype=np.float16), ValueError, "dtype"),
    "dtype integer": (dict(dtype=int), ValueError, "dtype"),
    "dtype nonsense": (dict(dtype="nonsense"), TypeError, "dtype"),
    "seed float": (dict(seed=1.5), TypeError, "seed"),
    "seed negative": (dict(seed=-1), ValueError, "seed"),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_construction_refuses(case):
    options, error, pattern = OPTIONS[case]
    with pytest.raises(error, match=pattern):
        FNN(**{"sizes": [5, 4, 3], **options})


TABLES = {
    "wrong rank": (lambda X: X[0], ValueError),
    "three axes": (lambda X: X[None], ValueError),
    "wrong width": (lambda X: X[:, :4], ValueError),
    "empty": (lambda X: X[:0], ValueError),
    "nan": (lambda X: changed(X, np.nan), ValueError),
    "infinity": (lambda X: changed(X, -np.inf), ValueError),
    "objects": (lambda X: X.astype(object), TypeError),
    "complex": (lambda X: X + 0j, TypeError),
    "text": (lambda X: X.astype(str), TypeError),
    "ragged": (lambda X: [[1, 2], [3]], ValueError),
    "none": (lambda X: None, TypeError),
    "dates": (lambda X: X.astype("M8[s]"), TypeError),
}


@pytest.mark.parametrize("case", TABLES)
@pytest.mark.parametrize("trained_before", [False, True])
def test_tables_are_refused(case, trained_before, blobs):
    X, y = blobs
    change, error = TABLES[case]
    net = FNN([5, 4, 3], seed=0)
    if trained_before:
        net.fit(X, y, epochs=1, batch_size=45)
        net.train()
    before, bad = state(net), change(X)
    y = y[:1] if case == "wrong rank" else y[: len(bad)] if isinstance(bad, np.ndarray) else y
    calls = [
        lambda: net.fit(bad, y, epochs=1),
        lambda: net.forward(bad),
        lambda: net.loss_and_gradients(bad, y),
        lambda: net.predict(bad),
        lambda: net.predict_proba(bad),
        lambda: net.score(bad, y),
        lambda: net.check_gradients(bad, y),
    ]
    for call in calls:
        with pytest.raises(error, match=r"\bX\b"):
            call()
        assert state(net) == before
    with pytest.raises(error, match=r"validation_data\[0\]"):
        net.fit(*blobs, epochs=1, validation_data=(bad, y))
    assert state(net) == before


ANSWERS = {
    "softmax": {
        "too large": (lambda y: y + 1, ValueError),
        "negative": (lambda y: y - 1, ValueError),
        "float": (lambda y: y.astype(float), TypeError),
        "text": (lambda y: y.astype(str), TypeError),
        "objects": (lambda y: y.astype(object), TypeError),
        "complex": (lambda y: y + 0j, TypeError),
        "short": (lambda y: y[:-1], ValueError),
        "one-hot": (lambda y: np.eye(3, dtype=int)[y], ValueError),
        "scalar": (lambda y: 1, ValueError),
        "none": (lambda y: None, (TypeError, ValueError)),
        "ragged": (lambda y: [[1, 2], [3]] * 45, ValueError),
    },
    "sigmoid": {
        "above one": (lambda y: np.eye(3)[y] * 2, ValueError),
        "negative": (lambda y: np.eye(3)[y] - 1, ValueError),
        "nan": (lambda y: np.eye(3)[y] * np.nan, ValueError),
        "vector": (lambda y: y, ValueError),
        "narrow": (lambda y: np.eye(3)[y][:, :2], ValueError),
        "text": (lambda y: np.eye(3)[y].astype(str), TypeError),
    },
    "identity": {
        "infinity": (lambda y: np.eye(3)[y] / 0.0, ValueError),
        "complex": (lambda y: np.eye(3)[y] + 0j, TypeError),
        "objects": (lambda y: np.eye(3)[y].astype(object), TypeError),
        "short": (lambda y: np.eye(3)[y][:-1], ValueError),
    },
}


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
@pytest.mark.parametrize(
    ("output", "case"), [(output, case) for output in ANSWERS for case in ANSWERS[output]]
)
def test_answers_are_refused(output, case, blobs):
    X, y = blobs
    change, error = ANSWERS[output][case]
    net = FNN([5, 4, 3], output=output, seed=0)
    good = y if output == "softmax" else np.eye(3)[y]
    before, bad = state(net), change(y)
    for call in (net.fit, net.loss_and_gradients, net.score, net.check_gradients):
        with pytest.raises(error, match=r"\by\b"):
            call(X, bad)
        assert state(net) == before
    with pytest.raises(error, match=r"validation_data\[1\]"):
        net.fit(X, good, epochs=1, validation_data=(X, bad))
    assert state(net) == before


def test_targets_beyond_the_range_of_float32_are_refused(blobs):
    X, y = blobs
    net = FNN([5, 4, 3], output="identity", seed=0)
    before = state(net)
    for call in (net.fit, net.loss_and_gradients, net.score):
        with pytest.raises(ValueError, match=r"\by\b.*float32"):
            call(X, np.eye(3)[y] * 1e300)
        assert state(net) == before


@pytest.mark.parametrize("name", ["X", "y"])
def test_values_without_a_finite_variance_are_refused(name, blobs):
    X, y = blobs[0], np.eye(3)[blobs[1]]
    far = {"X": (changed(X, 1e300), y), "y": (X, changed(y, 1e300))}[name]
    net = FNN([5, 4, 3], output="identity", standardize_targets=True, seed=0)
    before = state(net)
    for call in (net.fit, net.find_learning_rate):
        with pytest.raises(ValueError, match=f"{name} must have values whose variance is finite.* column 2"):
            call(*far)
        assert state(net) == before


def test_columns_are_taken_by_name(blobs, tmp_path):
    pandas = pytest.importorskip("pandas")
    frame, y = pandas.DataFrame(blobs[0] * [1, 2, 3, 4, 5], columns=list("abcde")), blobs[1]
    turned = frame[list("edcba")]
    net, plain = (FNN([5, 4, 3], seed=0) for _ in range(2))
    got = net.fit(frame, y, epochs=2, batch_size=30, validation_data=(turned, y), progress=False)
    expected = plain.fit(
        frame.to_numpy(), y, epochs=2, batch_size=30, validation_data=(frame.to_numpy(), y), progress=False
    )
    assert got.val_loss == expected.val_loss
    net.save(tmp_path / "net.npz")
    for one in (net, FNN.load(tmp_path / "net.npz")):
        np.testing.assert_array_equal(one.predict_proba(turned), plain.predict_proba(frame.to_numpy()))
        assert one.score(turned, y) == plain.score(frame.to_numpy(), y)
        before = state(one)
        other = frame.rename(columns={"a": "z"})
        for call in (
            one.predict,
            lambda X, one=one: one.fit(X, y, epochs=1),
            lambda X, one=one: one.score(X, y),
        ):
            with pytest.raises(
                ValueError, match=r"X must have the features .* \['a'\] missing and \['z'\] not known"
            ):
                call(other)
        assert state(one) == before
    with pytest.raises(ValueError, match=r"validation_data\[0\] must have the features"):
        FNN([5, 4, 3], seed=0).fit(frame, y, epochs=1, validation_data=(other, y))


SETTINGS = {
    "no epochs": (dict(epochs=0), ValueError, "epochs"),
    "float epochs": (dict(epochs=2.0), TypeError, "epochs"),
    "no batch": (dict(batch_size=0), ValueError, "batch_size"),
    "negative batch": (dict(batch_size=-5), ValueError, "batch_size"),
    "float batch": (dict(batch_size=32.0), TypeError, "batch_size"),
    "batch of one": (dict(batch_size=1), ValueError, "batch_size"),
    "optimizer": (dict(optimizer=0.1), TypeError, "optimizer"),
    "schedule": (dict(schedule="linear"), ValueError, "schedule"),
    "schedule number": (dict(schedule=0.1), ValueError, "schedule"),
    "schedule negative": (dict(schedule=lambda step: -1.0), ValueError, "schedule"),
    "schedule nan": (dict(schedule=lambda step: np.nan), ValueError, "schedule"),
    "schedule text": (dict(schedule=lambda step: "a"), TypeError, "schedule"),
    "validation": (dict(validation_data=3), TypeError, "validation_data"),
    "validation of four": (dict(validation_data=(1, 2, 3, 4)), TypeError, "validation_data"),
    "shuffle": (dict(shuffle="yes"), TypeError, "shuffle"),
    "seed": (dict(seed=-1), ValueError, "seed"),
    "seed float": (dict(seed=0.5), TypeError, "seed"),
    "progress": (dict(progress="yes"), TypeError, "progress"),
    "callbacks": (dict(callbacks=3), TypeError, "callbacks"),
    "callback": (dict(callbacks=[3]), TypeError, "callbacks"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_fit_refuses(case, blobs):
    X, y = blobs
    options, error, pattern = SETTINGS[case]
    net = FNN([5, 4, 3], seed=0)
    before = state(net)
    with pytest.raises(error, match=pattern):
        net.fit(X, y, **{"epochs": 1, "batch_size": 30, **options})
    assert state(net) == before


@pytest.mark.parametrize("value", [0.0, -0.1, np.nan, np.inf])
def test_learning_rates_are_refused(value):
    with pytest.raises(ValueError, match="lr"):
        SGD(lr=value)


def test_a_single_sample_is_refused_in_training_mode_only():
    net, x = network(), np.ones((1, 5))
    for call in (
        lambda: net.forward(x),
        lambda: net.loss_and_gradients(x, [0]),
        lambda: net.fit(x, [0], epochs=1),
    ):
        with pytest.raises(ValueError, match=r"at least 2 samples.*(eval\(\)|batch_size)"):
            call()
    assert net.eval().forward(x).shape == (1, 3)
    assert network(norm=None).fit(x, [0], epochs=1).steps == 1


@pytest.mark.parametrize("samples", [5, 67])
def test_an_odd_number_of_samples_in_batches_of_two_is_refused(samples):
    X, y = np.random.default_rng(0).normal(size=(samples, 5)), targets("softmax", samples, 3)
    with pytest.raises(ValueError, match=f"{samples} samples in batches of 2 leave a last batch of one"):
        network().fit(X, y, epochs=1, batch_size=2)
    assert network(norm=None).fit(X, y, epochs=1, batch_size=2).steps == -(-samples // 2)


# ----------------------------------------------------------------------------------------------
# MNIST
# ----------------------------------------------------------------------------------------------


@pytest.mark.skipif(config.DISABLE_JIT, reason="too much arithmetic for the interpreter")
def test_fit_mnist_reads_images_where_they_lie(mnist_folder):
    (X, y), (X_test, y_test) = load_mnist(mnist_folder)
    X.flags.writeable = False
    net = FNN([784, 32, 10], seed=0)
    net.fit(X[:10_000], y[:10_000], epochs=2, batch_size=100)
    assert net.score(X_test, y_test) > 0.9


@pytest.mark.parametrize("sizes", [(6, 3), (6, 5, 3), (6, 5, 4, 3)])
@pytest.mark.parametrize(("norm", "running"), [("after", "var"), ("before", "std"), (None, "var")])
def test_sparse_matrices_are_predicted_as_dense_ones(sizes, norm, running):
    sparse = pytest.importorskip("scipy.sparse")
    rng = np.random.default_rng(0)
    X = np.where(rng.random((40, 6)) < 0.3, rng.normal(5.0, 1.0, (40, 6)), 0.0)
    y = rng.integers(0, 3, 40)
    net = FNN(sizes, norm=norm, running=running, dtype=np.float64, seed=0)
    net.fit(X, y, epochs=2, batch_size=20)
    for matrix in (sparse.csr_array(X), sparse.csc_matrix(X)):
        np.testing.assert_allclose(net.forward(matrix), net.forward(X), rtol=1e-10, atol=1e-12)
    assert net.score(sparse.csr_array(X), y) == net.score(X, y)
    with pytest.raises(ValueError, match="X must have 6 features"):
        net.predict(sparse.csr_array(X[:, :5]))
    for empty in (X[:0], sparse.csr_array(X[:0])):
        with pytest.raises(ValueError, match=r"X must not be empty, got shape \(0, 6\)"):
            net.predict(empty)


def test_nullable_targets_of_pandas():
    pandas = pytest.importorskip("pandas")
    x = np.random.default_rng(0).standard_normal((6, 3))
    labels, values = [0, 1, 0, 1, 1, 0], [1.5, 2.0, -1.0, 0.0, 3.0, 4.0]
    for options, y, kind in (
        ({"output": "softmax"}, labels, "Int64"),
        ({"output": "identity"}, values, "Float64"),
    ):
        net = FNN((3, 2 if kind == "Int64" else 1), seed=0, **options)
        column = pandas.Series(y, dtype=kind)
        assert net.score(x, column) == net.score(x, y)
        net.fit(x, column, epochs=1)
        column[2] = pandas.NA
        message = "must hold integer classes" if kind == "Int64" else r"y must be finite, got nan at \[2"
        with pytest.raises((TypeError, ValueError), match=message):
            net.score(x, column)
    table = pandas.DataFrame({"a": values, "b": labels}).astype({"b": "Int64"})
    net = FNN((3, 2), output="identity", seed=0)
    assert net.score(x, table) == net.score(x, table.to_numpy(float))


def test_dropout_may_be_an_array():
    assert FNN((3, 4, 4, 2), dropout=np.array([0.25, 0.5])).dropout == (0.25, 0.5)
    assert FNN((3, 4, 4, 2), dropout=np.array(0.25)).dropout == (0.25, 0.25)
    with pytest.raises(ValueError, match="dropout must have one value for each of 2 hidden layers, got 1"):
        FNN((3, 4, 4, 2), dropout=np.array([0.25]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("norm", ["after", None])
@pytest.mark.parametrize("share", [0.1, 0.25, 0.7])
def test_dropout_leaves_out_its_share_and_keeps_the_mean(share, norm, dtype):
    # the output copies the hidden layer, which is 1 everywhere (as beta, behind batch norm)
    net = FNN(
        [1, 64, 64], activation="identity", norm=norm, output="identity", dropout=share, dtype=dtype,
        standardize=False, seed=1,
    )  # fmt: skip
    p = net.parameters()
    p["dense1.weight"][:], p["dense1.bias"][:], p["dense2.weight"][:] = 0, 1, np.eye(64)
    if norm is not None:
        p["norm1.beta"][:] = 1
    got = net.train().forward(np.ones((3000, 1)))
    kept = got != 0
    np.testing.assert_allclose(got[kept], 1 / (1 - share), rtol=1e-6)
    assert abs(1 - kept.mean() - share) < 4 * np.sqrt(share * (1 - share) / kept.size)
    for axis in (0, 1):  # of every unit and of every sample
        most = 6 * np.sqrt(share * (1 - share) / kept.shape[axis])
        assert np.abs(1 - kept.mean(axis=axis) - share).max() < most
    net.buffers().get("norm1.running_mean", np.ones(1))[:] = 1
    np.testing.assert_allclose(net.eval().forward(np.ones((3, 1))), 1, rtol=1e-6)


def test_each_layer_has_its_own_dropout():
    net = FNN(
        [1, 64, 64, 64], activation="identity", norm=None, output="identity", dropout=[0.0, 0.5], seed=1
    )
    p = net.parameters()
    for l in (1, 2, 3):
        p[f"dense{l}.weight"][:], p[f"dense{l}.bias"][:] = (0 if l == 1 else np.eye(64)), l == 1
    assert sorted(set(net.train().forward(np.ones((500, 1))).ravel())) == [0, 2]
    again = FNN([1, 64, 64, 64], activation="identity", norm=None, output="identity", dropout=0.5, seed=1)
    for name, values in again.parameters().items():
        values[:] = p[name]
    got = again.train().forward(np.ones((2000, 1)))
    assert sorted(set(got.ravel())) == [0, 4]  # the layers leave out other elements
    assert abs((got == 4).mean() - 0.25) < 0.01


def test_masked_targets_are_refused():
    x, y = np.zeros((4, 3)), np.ma.array([0, 1, 0, 1], mask=[0, 0, 1, 0])
    net = FNN((3, 2), seed=0)
    for call in (lambda: net.fit(x, y, epochs=1), lambda: net.score(x, y)):
        with pytest.raises(ValueError, match="y must not have masked elements, got 1"):
            call()


@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
def test_probabilities_of_many_rows_are_those_of_the_formula(output):
    net = network((3, 4), output=output)
    x = 30 * np.random.default_rng(0).standard_normal((5000, 3))
    p = net.parameters()
    z = x @ p["dense1.weight"].T + p["dense1.bias"]
    expected = scipy.special.softmax(z, axis=1) if output == "softmax" else scipy.special.expit(z)
    np.testing.assert_allclose(net.predict_proba(x), expected, rtol=1e-11)
