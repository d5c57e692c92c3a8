"""Training loops of one's own: gradients with statistics, single steps, frozen parameters and own rates."""

import naive
import numpy as np
import pytest
from thread_ranks import together

from nbnorm import FNN, SGD, AdamW, DivergenceError, Lion, Standardizer, fit_many, sgd_step

SIZES = [5, 7, 6, 3]
OPTIMIZERS = {
    "sgd": SGD(lr=0.1, momentum=0.9, weight_decay=0.01),
    "nesterov": SGD(lr=0.1, momentum=0.9, nesterov=True),
    "adamw": AdamW(lr=0.01, weight_decay=0.1),
    "lion": Lion(lr=0.003, weight_decay=1.0),
}


def state(net):
    return {name: values.tobytes() for name, values in {**net.parameters(), **net.buffers()}.items()}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_steps_are_those_of_fit(blobs, optimizer):
    X, y = blobs
    nets = [FNN(SIZES, dropout=0.2, seed=0) for _ in range(2)]
    options = {"frozen": ["dense1"], "rates": {"norm2": 0.02}}
    history = nets[0].fit(X, y, epochs=4, batch_size=90, shuffle=False, optimizer=optimizer, **options)
    losses = [nets[1].step(X, y, optimizer, **options) for _ in range(4)]
    assert losses == history.loss
    assert state(nets[0]) == state(nets[1])
    assert nets[1].training  # as it was


def test_lion_trains_as_its_equations_say(blobs):
    X, y = blobs
    net, twin = (FNN(SIZES, norm="before", dtype=np.float64, seed=0) for _ in range(2))
    options = {"lr": 0.003, "beta1": 0.8, "beta2": 0.9, "weight_decay": 0.5}
    net.fit(X, y, epochs=5, batch_size=90, optimizer=Lion(**options), l2=0.01, clip_norm=0.7)
    means = {name: np.zeros_like(values) for name, values in twin.parameters().items()}
    for _ in range(5):
        gradients = twin.loss_and_gradients(X, y, update_statistics=True)[1]
        norm = np.sqrt(sum(np.sum(values**2) for values in gradients.values()))
        for name, values in twin.parameters().items():
            own = {} if name.endswith("weight") else {"weight_decay": 0.0}
            gradient = gradients[name] * min(1.0, 0.7 / norm) + (0.0 if own else 0.01) * values
            values[:], means[name] = naive.lion_step(values, gradient, means[name], **options | own)
    for name, values in twin.parameters().items():
        np.testing.assert_allclose(net.parameters()[name], values, rtol=0, atol=1e-12, err_msg=name)


def test_a_loop_of_steps_learns_as_fit_does(blobs):
    X, y = blobs
    net = FNN(SIZES, seed=0)
    net.standardizer = Standardizer().fit(X)
    for epoch in range(20):
        for rows in np.random.default_rng(epoch).permutation(90).reshape(3, 30):
            net.step(X[rows], y[rows], SGD(lr=0.1, momentum=0.9))
    assert net.score(X, y) > 0.9


def test_gradients_with_statistics_are_those_of_a_step(blobs):
    X, y = blobs
    nets = [FNN(SIZES, seed=0) for _ in range(2)]
    nets[0].step(X, y, SGD(lr=0.1))
    loss, gradients = nets[1].loss_and_gradients(X, y, update_statistics=True)
    for name, values in nets[1].parameters().items():
        sgd_step(values, gradients[name], np.zeros_like(values), lr=0.1)
    for name, expected in {**nets[0].parameters(), **nets[0].buffers()}.items():
        got = {**nets[1].parameters(), **nets[1].buffers()}[name]
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6, err_msg=name)
    assert nets[1].standardizer.mean_ == pytest.approx(X.mean(axis=0))
    # nothing changes without being told, nor do the averages in evaluation mode
    before = state(nets[1])
    assert nets[1].loss_and_gradients(X, y)[0] < loss
    nets[1].eval().loss_and_gradients(X, y, update_statistics=True)
    assert state(nets[1]) == before


@pytest.mark.parametrize("norm", ["after", "layer"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_frozen_parameters_stay_and_others_have_their_own_rates(blobs, optimizer, norm):
    X, y = blobs
    start, plain, own = (FNN(SIZES, norm=norm, dtype=np.float64, seed=0) for _ in range(3))
    options = {"epochs": 1, "batch_size": 90, "optimizer": optimizer}
    plain.fit(X, y, **options)
    lr = optimizer.lr
    rates = {"dense2": lr / 4, "dense2.bias": 3 * lr, "norm2.gamma": lr}
    own.fit(X, y, frozen=["dense1", "norm1.beta"], rates=rates, **options)
    factors = dict.fromkeys(("dense1.weight", "dense1.bias", "norm1.beta"), 0.0)
    factors |= {"dense2.weight": 0.25, "dense2.bias": 3.0}
    for name, values in own.parameters().items():
        begin = start.parameters()[name]
        moved = factors.get(name, 1.0) * (plain.parameters()[name] - begin)
        np.testing.assert_allclose(values, begin + moved, rtol=0, atol=1e-14, err_msg=name)
        assert name not in factors or factors[name] or np.array_equal(values, begin)


@pytest.mark.parametrize("bounds", [{}, {"clip_norm": 0.05}, {"clip_value": 0.01, "l2": 0.1}], ids=str)
def test_what_follows_the_optimizer_keeps_its_bits(blobs, bounds):
    X, y = blobs
    options = {"epochs": 1, "batch_size": 90, "optimizer": OPTIMIZERS["adamw"], **bounds}
    plain, same, own = (FNN(SIZES, seed=0) for _ in range(3))
    plain.fit(X, y, **options)
    same.fit(X, y, rates=dict.fromkeys(("dense1", "norm2.beta"), 0.01), **options)
    own.fit(X, y, frozen=["dense1.weight", "norm2.gamma"], rates={"dense3": 0.02}, **options)
    assert state(same) == state(plain)
    moved = {name for name, values in state(own).items() if values != state(plain)[name]}
    assert moved == {"dense1.weight", "norm2.gamma", "dense3.weight", "dense3.bias"}


def test_frozen_layers_from_disk_and_among_many(blobs):
    X, y = blobs
    options = {"epochs": 2, "batch_size": 20, "frozen": ["dense1"], "rates": {"norm2": 0.02}}
    memory, disk, many = (FNN(SIZES, seed=0) for _ in range(3))
    memory.fit(X, y, **options)
    disk.fit(X, y, shuffle_buffer=1000, **options)
    fit_many([many], X, y, **options)
    assert state(memory) == state(disk) == state(many)


def test_frozen_layers_on_ranks(blobs):
    X, y = blobs

    def trained(ranks, **options):
        def train(comm):
            net = FNN(SIZES, dtype=np.float64, seed=0)
            first, last = (90 * (comm.Get_rank() + k) // comm.Get_size() for k in (0, 1))
            net.fit(X[first:last], y[first:last], epochs=1, batch_size=90, comm=comm, **options)
            return net

        return together(ranks, train)[0]

    options = {"frozen": ["dense1", "norm1.beta"], "rates": {"dense2": 0.05}}
    start, plain, own = FNN(SIZES, dtype=np.float64, seed=0), trained(2), trained(2, **options)
    assert state(own) == state(trained(1, **options))
    for name, values in own.parameters().items():
        factor = (
            0.0 if name.startswith("dense1") or name == "norm1.beta" else 0.5 * name.startswith("dense2") or 1
        )
        begin = start.parameters()[name]
        expected = begin + factor * (plain.parameters()[name] - begin)
        np.testing.assert_allclose(values, expected, rtol=0, atol=1e-14, err_msg=name)
        assert factor or np.array_equal(values, begin)


def test_frozen_layers_with_threads_and_several_steps(blobs, thread_pool):
    X, y = blobs
    net = FNN(SIZES, seed=0)
    before = {name: values.copy() for name, values in net.parameters().items()}
    net.fit(X, y, epochs=2, batch_size=20, optimizer=AdamW(lr=0.01), frozen=["dense1", "norm1"])
    for name, values in net.parameters().items():
        assert np.array_equal(values, before[name]) == name.startswith(("dense1", "norm1")), name


def test_a_checkpoint_knows_what_is_frozen(blobs, tmp_path):
    X, y = blobs
    options = {"batch_size": 20, "checkpoint": tmp_path / "run.npz", "frozen": ["dense1"]}

    def stop(net, history):
        if history.epochs == 2:
            raise KeyboardInterrupt

    whole, resumed = FNN(SIZES, seed=0), FNN(SIZES, seed=0)
    whole.fit(X, y, epochs=4, batch_size=20, frozen=["dense1"])
    resumed.fit(X, y, epochs=4, callbacks=[stop], **options)
    with pytest.raises(ValueError, match="frozen and rates was"):
        FNN(SIZES, seed=0).fit(X, y, epochs=4, **{**options, "frozen": ["dense2"]})
    resumed.fit(X, y, epochs=4, **options)
    assert state(resumed) == state(whole)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"frozen": ["dense9"]}, ValueError, r"frozen must name layers or parameters .*dense1.*'dense9'"),
        ({"frozen": "dense1"}, TypeError, "frozen must be a sequence of names"),
        ({"rates": {"gamma": 0.1}}, ValueError, "rates must name layers or parameters"),
        ({"rates": {"dense1": -0.1}}, ValueError, r"rates\['dense1'\] must be finite and at least 0"),
        ({"rates": ["dense1"]}, TypeError, "rates must be a mapping"),
        ({"frozen": ["dense1.bias"], "rates": {"dense1": 0.1}}, ValueError, "both frozen and rates"),
    ],
)
def test_refuses(blobs, options, error, message):
    net = FNN(SIZES, seed=0)
    before = state(net)
    for call in (net.fit, net.step):
        with pytest.raises(error, match=message):
            call(*blobs, **options)
    assert state(net) == before
    assert net.standardizer is None


@pytest.mark.filterwarnings("ignore:(overflow|invalid value|divide by zero):RuntimeWarning")
def test_a_step_that_diverges_changes_nothing(blobs):
    net = FNN(SIZES, norm=None, output="identity", seed=0)
    before = state(net)
    with pytest.raises(DivergenceError, match="smaller learning rate"):
        net.step(blobs[0], np.full((90, 3), 1e30), SGD(lr=1e30))
    assert state(net) == before
    assert net.standardizer is None
