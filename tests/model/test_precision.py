"""precision="bfloat16": what is rounded, what is not, and that everything beside it keeps working."""

import copy

import numpy as np
import pytest
from naive_network import Network
from numba import njit
from scipy import sparse
from thread_ranks import together

import nbnorm
from nbnorm import FNN, SGD, AdamW, Standardizer, fit_many, load_digits
from nbnorm.model.engines import bfloat16_layers
from nbnorm.simd import round_to_bfloat16

RNG = np.random.default_rng(0)
X = (RNG.normal(size=(61, 11)) * 3 + 2).astype(np.float32)
Y = RNG.integers(0, 3, 61)


def network(**options):
    return FNN([11, 13, 9, 3], **{"precision": "bfloat16", "activation": "tanh", "seed": 0, **options})


def bits(net):
    return b"".join(values.tobytes() for values in {**net.parameters(), **net.buffers()}.values())


def trained(**options):
    """A network after two epochs, the last batch of an odd number of samples."""
    fit = {name: options.pop(name) for name in tuple(options) if name in FIT}
    net = network(**options)
    net.fit(X, Y, **{"epochs": 2, "batch_size": 31, "optimizer": SGD(lr=0.05, momentum=0.9), **fit})
    return net


FIT = (
    "optimizer", "clip_norm", "clip_value", "l2", "frozen", "rates", "sample_weight", "class_weight",
    "callbacks", "validation_data", "checkpoint", "epochs", "schedule",
)  # fmt: skip


@pytest.mark.parametrize("norm", ["after", "before", None])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_gradients_are_those_of_rounded_operands(norm, activation):
    net = network(norm=norm, activation=activation)
    net.standardizer = Standardizer().fit(X)
    u = net.standardizer.transform(X.astype(np.float64))
    reference = Network(net)
    _, exact = reference.loss_and_gradients(u, Y, True)
    reference.bfloat16 = bfloat16_layers(net)
    assert reference.bfloat16 == [1, 2]  # the output layer is not
    loss, expected = reference.loss_and_gradients(u, Y, True)
    got_loss, got = net.loss_and_gradients(X, Y)
    assert got_loss == pytest.approx(loss, rel=1e-4)

    def distance(a, b):
        return np.sqrt(sum(np.square(a[name] - b[name]).sum() for name in b))

    # a sum that float32 rounds otherwise can turn over the rounding of a later operand
    assert distance(got, expected) < 0.1 * distance(exact, expected)


def test_what_is_not_standardized_is_not_rounded():
    far = X + 1000  # where neighbouring bfloat16 are 4 or 8 apart
    for options, layers in (({"standardize": False}, [2]), ({}, [1, 2])):
        net = network(**options)
        net.fit(far, Y, epochs=1)
        assert bfloat16_layers(net) == layers
    assert bfloat16_layers(FNN([11, 3], precision="bfloat16")) == []


def test_evaluation_mode_rounds_nothing():
    net = trained()
    twin = copy.copy(net)
    twin.precision = "float32"
    np.testing.assert_array_equal(net.forward(X), twin.forward(X))
    assert net.loss_and_gradients(X, Y)[0] == twin.loss_and_gradients(X, Y)[0]
    np.testing.assert_allclose(net.compiled()(X), net.predict_proba(X), atol=1e-6)
    np.testing.assert_allclose(net.forward(sparse.csr_array(X)), net.forward(X), atol=1e-5)
    # in training mode it does
    assert net.train().loss_and_gradients(X, Y)[0] != twin.train().loss_and_gradients(X, Y)[0]
    assert (net.forward(X) != twin.forward(X)).any()


OPTIONS = [
    {"optimizer": AdamW(lr=0.01, eps=1e-3)}, {"optimizer": SGD(lr=0.05, nesterov=True, momentum=0.9)},
    {"l2": 0.1},
    {"clip_norm": 0.5}, {"clip_value": 0.01}, {"dropout": 0.3}, {"norm": None}, {"activation": "gelu"},
    {"norm": "before", "activation": "silu"}, {"norm": "before", "dropout": 0.2}, {"frozen": ["dense1"]},
    {"rates": {"dense2": 0.01}}, {"sample_weight": np.linspace(0, 1, 61)}, {"encoding": "piecewise"},
    {"weighted_statistics": True, "class_weight": "balanced"}, {"schedule": "cosine"},
    {"activation": nbnorm.Activation(njit(lambda z: 2 * z), njit(lambda z: 2.0))},
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options))
def test_options_train_close_to_float32(options):
    net, exact = trained(**options), trained(**options, precision="float32")
    assert bits(net) != bits(exact)
    for name, values in exact.parameters().items():
        begun = network(**{k: v for k, v in options.items() if k == "encoding"})
        before = begun.parameters()[name] if values.shape == begun.parameters()[name].shape else 0.0
        moved = np.linalg.norm(values - before)
        assert np.linalg.norm(net.parameters()[name] - values) <= 0.1 * moved + 1e-3


def test_weights_that_others_write_are_rounded_anew():
    # a step after another is the same training as one call, whoever writes the weights in between
    whole = network()
    whole.fit(X, Y, epochs=1, batch_size=61, shuffle=False, optimizer=SGD(lr=0.1))
    by_step, written = network(), network()
    for net in (by_step, written):
        net.step(X, Y, SGD(lr=0.1))
    assert bits(by_step) == bits(whole)
    for values in written.parameters().values():
        values *= 2
    twin = copy.copy(written)
    assert written.step(X, Y, SGD(lr=0.1)) == twin.train().loss_and_gradients(X, Y)[0]

    def double(net, history):
        for values in net.parameters().values():
            values *= 2

    called = network()
    called.fit(X, Y, epochs=2, batch_size=61, shuffle=False, optimizer=SGD(lr=0.1), callbacks=[double])
    by_hand = network()
    for _ in range(2):
        by_hand.step(X, Y, SGD(lr=0.1))
        double(by_hand, None)
    assert bits(called) == bits(by_hand)


@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.5}, {"optimizer": AdamW(lr=0.01), "dropout": 0.2}])
def test_a_checkpoint_goes_on_to_the_same_bits(options, tmp_path):
    def interrupt(net, history):
        if history.epochs == 1:
            raise KeyboardInterrupt

    path = tmp_path / "training.npz"
    trained(epochs=3, checkpoint=path, callbacks=[interrupt], **options)
    resumed = trained(epochs=3, checkpoint=path, callbacks=[interrupt], **options)
    assert bits(resumed) == bits(trained(epochs=3, **options))
    with pytest.raises(ValueError, match="precision was 'bfloat16', now 'float32'"):
        trained(epochs=3, checkpoint=path, precision="float32", callbacks=[interrupt], **options)


def test_files_and_copies_keep_it(tmp_path):
    net = trained()
    net.save(tmp_path / "net.npz")
    loaded = FNN.load(tmp_path / "net.npz")
    assert loaded.precision == copy.deepcopy(net).precision == "bfloat16"
    assert "precision='bfloat16'" in repr(loaded)
    assert bits(loaded) == bits(net)
    assert "precision" not in repr(network(precision="float32"))


def test_check_gradients_compares_formulas():
    assert max(network().check_gradients(X[:7], Y[:7]).values()) < 1e-6


def test_fit_many_is_fit():
    networks = [network(seed=seed) for seed in range(2)]
    fit_many(networks, X, Y, epochs=2, batch_size=31, optimizer=SGD(lr=0.05, momentum=0.9))
    for seed, net in enumerate(networks):
        assert bits(net) == bits(trained(seed=seed))


def test_ranks_round_their_operands():
    x, y = load_digits()

    def fit(comm, precision):
        half = slice(comm.Get_rank() * 60, 120 if comm.Get_size() == 1 else 60 + comm.Get_rank() * 60)
        net = FNN([64, 12, 8, 10], precision=precision, seed=0)
        net.fit(x[half], y[half], epochs=1, batch_size=120, optimizer=SGD(lr=0.1), comm=comm)
        return net

    (alone,) = together(1, lambda comm: fit(comm, "bfloat16"))
    for net in together(2, lambda comm: fit(comm, "bfloat16")):
        assert bits(net) == bits(alone)
    (exact,) = together(1, lambda comm: fit(comm, "float32"))
    here = FNN([64, 12, 8, 10], precision="bfloat16", seed=0)
    here.fit(x[:120], y[:120], epochs=1, batch_size=120, optimizer=SGD(lr=0.1))
    name = "dense2.weight"
    away = np.linalg.norm(exact.parameters()[name] - here.parameters()[name])
    assert np.linalg.norm(alone.parameters()[name] - here.parameters()[name]) < 0.1 * away


def test_special_values():
    net = network(norm=None, activation="relu", standardize=False)
    net.parameters()["dense2.weight"][0, 0] = 1e-40  # flushed to 0
    net.parameters()["dense2.weight"][1, 1] = np.finfo(np.float32).max  # beyond the largest bfloat16
    assert np.isinf(round_to_bfloat16(net.parameters()["dense2.weight"][1, 1]))
    assert not np.isfinite(net.forward(X)).all()
    with pytest.raises(nbnorm.DivergenceError):
        net.step(X, Y)


def test_errors():
    with pytest.raises(ValueError, match="precision='bfloat16' needs dtype=float32, got float64"):
        network(dtype=np.float64)
    with pytest.raises(ValueError, match="precision must be one of"):
        network(precision="float16")
