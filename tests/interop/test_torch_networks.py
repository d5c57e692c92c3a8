import copy
import re
from pathlib import Path

import numpy as np
import pytest

from nbnorm import FNN, Activation, Quantile
from nbnorm.functions.activations import CODES
from nbnorm.interop import from_torch, to_torch

torch = pytest.importorskip("torch")
prune = pytest.importorskip("torch.nn.utils.prune")
nn, functional = torch.nn, torch.nn.functional


def given(module, X):
    """Return what a module gives, as an array."""
    with torch.no_grad():
        return module(torch.from_numpy(X)).numpy()


def assert_close(got, expected):
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("norm", ["after", "before", "layer", "rms_after", None])
@pytest.mark.parametrize("activation", CODES)
def test_to_torch_and_training_there_and_back(table, trained, activation, norm):
    X, y = table
    net = trained(activation=activation, norm=norm, decay=0.8, dropout=0.2)
    net.metadata = {"unit": "m"}
    module = to_torch(net)
    assert isinstance(module, nn.Sequential)
    assert not module.training
    assert_close(given(module, X), net.forward(X))
    module.train()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    for _ in range(2):
        optimizer.zero_grad()
        functional.cross_entropy(module(torch.from_numpy(X)), torch.from_numpy(y)).backward()
        optimizer.step()
    got = from_torch(module.eval())
    assert_close(got.forward(X), given(module, X))
    assert np.abs(got.forward(X) - net.forward(X)).max() > 1e-3
    for name in ("sizes", "activation", "norm", "output", "decay", "dropout", "dtype", "seed", "metadata"):
        assert getattr(got, name) == getattr(net, name), name
    assert got.standardizer.to_dict() == net.standardizer.to_dict()


@pytest.mark.parametrize("kind", ["LayerNorm", "RMSNorm"])
@pytest.mark.parametrize("placement", ["before", "after"])
def test_from_torch_normalization_of_samples(kind, placement):
    X = np.random.default_rng(0).normal(3.0, 2.0, (20, 4)).astype(np.float32)
    torch.manual_seed(0)
    parts = []
    for n_in, n_out in ((4, 9), (9, 5)):
        norm = getattr(nn, kind)(n_out, eps=1e-3)
        norm.weight.data = torch.rand(n_out) + 0.5
        norms = [nn.Tanh(), norm] if placement == "after" else [norm, nn.Tanh()]
        parts += [nn.Linear(n_in, n_out), *norms]
    module = nn.Sequential(*parts, nn.Linear(5, 3))
    net = from_torch(module)
    assert net.norm == ("layer" if kind == "LayerNorm" else "rms") + (
        "_after" if placement == "after" else ""
    )
    assert net.eps == 1e-3
    assert_close(net.forward(X), given(module, X))
    # a batch norm in front of it and a scale behind it become parts of their neighbours
    wide = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), getattr(nn, kind)(3), nn.ReLU(), nn.Linear(3, 2))
    wide.eval()
    assert_close(from_torch(wide).forward(X), given(wide, X))
    plain = nn.Sequential(nn.Linear(4, 3), getattr(nn, kind)(3, elementwise_affine=False), nn.Linear(3, 2))
    assert_close(from_torch(plain).forward(X), given(plain, X))


def test_cumulative_averages_there_and_back(table, trained):
    net = trained((6, 7, 3), decay=None).train()
    module = to_torch(net)
    assert module.norm1.momentum is None
    assert int(module.norm1.num_batches_tracked) == net.buffers()["norm1.n_batches"] == 6
    X = table[0]
    assert_close(module(torch.from_numpy(X)).detach().numpy(), net.forward(X))
    got = from_torch(module)
    assert got.decay is None
    for name, values in net.buffers().items():
        np.testing.assert_allclose(got.buffers()[name], values, rtol=1e-5, atol=1e-6, err_msg=name)
    assert from_torch(module, decay=0.5).decay == 0.5


@pytest.mark.parametrize("norm", ["after", "before"])
def test_to_torch_has_the_semantics_of_both_modes(table, trained, norm):
    X, _ = table
    net = trained((6, 7, 3), norm=norm, decay=0.75).train()
    module = to_torch(net)
    assert module.training
    assert_close(module(torch.from_numpy(X)).detach().numpy(), net.forward(X))
    for name in ("running_mean", "running_var"):
        got = module.state_dict()[f"norm1.{name}"].numpy()
        np.testing.assert_allclose(got, net.buffers()[f"norm1.{name}"], rtol=1e-5, atol=1e-6)


def test_to_torch_names(trained):
    net = trained((6, 5, 1), y=np.arange(96.0), output="identity", standardize_targets=True)
    names = list(to_torch(net).state_dict())
    assert names == [
        "standardizer.mean", "standardizer.mean_low", "standardizer.scale", "dense1.weight", "dense1.bias",
        "norm1.weight", "norm1.bias", "norm1.running_mean", "norm1.running_var", "norm1.num_batches_tracked",
        "dense2.weight", "dense2.bias", "target.mean", "target.mean_low", "target.scale",
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("running", ["var", "std"])
def test_to_torch_values_and_encoded_columns(table, trained, dtype, running):
    X = table[0].astype(dtype)
    X[::5, 1] = np.nan
    net = trained(
        (6, 5, 1), X=X, y=table[0][:, 3] * 3.0 + 7.0, dtype=dtype, output="identity", encoding="piecewise",
        bins=4, standardize_targets=True, running=running, unbiased=False,
    )  # fmt: skip
    module = to_torch(net)
    assert_close(given(module, X)[:, 0], net.predict(X).astype(dtype))
    assert_close(given(module[:-1], X), net.forward(X))
    got = from_torch(copy.deepcopy(module))
    assert_close(got.predict(X), net.predict(X))
    assert (got.running, got.unbiased, got.dtype) == (running, False, dtype)


def test_to_torch_quantiles_that_share_a_target(table, trained):
    X, _ = table
    options = {"output": "identity", "loss": Quantile((0.1, 0.9)), "standardize_targets": True}
    net = trained((6, 5, 4), y=X[:, 3:5] * [3.0, 5.0] + 7.0, **options)
    got = from_torch(to_torch(net))
    assert_close(given(to_torch(net), X), net.predict(X).astype(np.float32))
    assert_close(got.predict(X), net.predict(X))
    assert got.loss == net.loss
    assert got.target_standardizer.n_features_in_ == 2


def test_from_torch_modules_of_others(table):
    X, _ = table
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Flatten(),
        nn.BatchNorm1d(6),
        nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5, eps=1e-3, momentum=0.25, affine=False), nn.SiLU()),
        nn.Dropout(0.5),
        nn.Sequential(nn.Linear(5, 4, bias=False), nn.BatchNorm1d(4, momentum=0.25), nn.Identity()),
        nn.Linear(4, 2),
    )
    module(torch.from_numpy(X))
    module.eval()
    got = from_torch(module, output="softmax")
    assert (got.norm, got.output, got.dropout) == ("before", "softmax", (0.5, 0.0))
    assert got.decay == 0.75
    assert_close(got.forward(X), given(module, X))
    assert from_torch(module).output == "identity"
    assert from_torch(nn.Sequential(module, nn.Softmax(dim=1))).output == "softmax"
    got.fit(X, (X[:, 0] > 0).astype(int), epochs=1)


def test_from_torch_takes_what_has_been_changed(table, trained):
    X, _ = table
    module = to_torch(trained())
    module.dense3 = nn.Linear(5, 4)
    module.activation1 = nn.Tanh()
    module.standardizer.mean += 1.0
    got = from_torch(module)
    assert got.activation == ("tanh", "relu")
    assert_close(got.forward(X), given(module, X))


REFUSED = {
    "convolution": (nn.Conv1d(1, 1, 1), r"the module \(Conv1d\) is no part of a fully connected network"),
    "slope": (
        nn.Sequential(nn.Linear(2, 2), nn.LeakyReLU(0.2), nn.Linear(2, 2)),
        r"module '1' \(LeakyReLU\) must have negative_slope=0.01, which is leaky_relu here, got 0.2",
    ),
    "averages": (
        nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False), nn.Linear(2, 2)),
        r"module '1' \(BatchNorm1d\) has no moving averages",
    ),
    "not all layers": (
        nn.Sequential(
            nn.Linear(2, 2), nn.LayerNorm(2), nn.Tanh(), nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2)
        ),
        r"module '1' \(LayerNorm\) and other hidden layers are not normalized alike",
    ),
    "other eps": (
        nn.Sequential(
            nn.Linear(2, 2), nn.LayerNorm(2), nn.Linear(2, 2), nn.LayerNorm(2, eps=0.1), nn.Linear(2, 2)
        ),
        r"module '3' \(LayerNorm\) and module '1' \(LayerNorm\) have another kind or eps",
    ),
    "normalized outputs": (
        nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.LayerNorm(2)),
        r"module '3' \(LayerNorm\) normalizes the outputs",
    ),
    "normalized inputs": (
        nn.Sequential(nn.LayerNorm(2), nn.Linear(2, 2)),
        r"module '0' \(LayerNorm\) normalizes samples elsewhere",
    ),
    "images": (
        nn.Sequential(nn.Linear(2, 2), nn.LayerNorm((2, 2)), nn.Linear(2, 2)),
        r"module '1' \(LayerNorm\) normalizes arrays of shape \(2, 2\)",
    ),
    "widths": (
        nn.Sequential(nn.Linear(2, 3), nn.Linear(2, 2)),
        r"module '1' \(Linear\) reads 2 features, but",
    ),
    "output": (
        nn.Sequential(nn.Linear(2, 3), nn.ReLU()),
        r"module '0' \(Linear\) is the output layer and has",
    ),
    "inputs": (nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 3)), "leaves out inputs"),
    "empty": (nn.Sequential(), "it has no affine layer"),
    "softplus": (
        nn.Sequential(nn.Linear(2, 2), nn.Softplus(threshold=1.0), nn.Linear(2, 2)),
        r"module '1' \(Softplus\) must have a threshold of at least 20",
    ),
    "flattened samples": (
        nn.Sequential(nn.Flatten(0), nn.Linear(2, 2)),
        r"module '0' \(Flatten\) must have start_dim=1",
    ),
    "lazy": (
        nn.Sequential(nn.LazyLinear(2), nn.Linear(2, 2)),
        r"module '0' \(LazyLinear\) is lazy, and its weight has no shape yet",
    ),
    "meta": (
        nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="meta")),
        r"module '1' \(Linear\) has no numbers: its weight is on the device 'meta'",
    ),
    "complex": (nn.Linear(2, 2, dtype=torch.complex64), "must hold real numbers, and its weight is"),
}


class _Doubled(nn.Linear):
    def forward(self, x):
        return 2.0 * super().forward(x)


class _Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


def test_from_torch_refuses_code_of_others():
    for module in (nn.Sequential(nn.Linear(2, 2), _Doubled(2, 2)), _Residual(nn.Linear(2, 2))):
        with pytest.raises(ValueError, match="has a forward of its own"):
            from_torch(module)
    for register in ("register_forward_hook", "register_forward_pre_hook"):
        module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        handle = getattr(module[1], register)(lambda *values: None)
        with pytest.raises(ValueError, match=r"module '1' \(Linear\) has forward hooks"):
            from_torch(module)
        handle.remove()
        from_torch(module)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize(
    "change",
    [
        nn.utils.weight_norm,
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
        lambda layer: prune.l1_unstructured(layer, "weight", amount=0.5),
    ],
)
def test_weights_that_torch_makes_anew_are_read_as_they_are_now(change):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)).eval()
    change(module[0])
    x = torch.randn(9, 4)
    with torch.no_grad():
        for values in module.parameters():
            values.mul_(1.5)  # as a step does: the weight of a hook is an old one until the next call
        got = from_torch(module).forward(x.numpy())
        np.testing.assert_allclose(got, module(x).numpy(), rtol=1e-5, atol=1e-6)


def test_a_layer_that_stands_twice_is_read_twice():
    torch.manual_seed(0)
    layer = nn.Linear(3, 3)
    module = nn.Sequential(layer, nn.Tanh(), layer)
    x = torch.randn(9, 3)
    with torch.no_grad():
        np.testing.assert_allclose(from_torch(module).forward(x.numpy()), module(x).numpy(), rtol=1e-5)


@pytest.mark.parametrize("case", REFUSED)
def test_from_torch_refuses(case):
    module, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        from_torch(module)


def test_both_refuse_other_things():
    with pytest.raises(TypeError, match="net must be an FNN, got int"):
        to_torch(1)
    with pytest.raises(TypeError, match=r"module must be a torch\.nn\.Module, got FNN"):
        from_torch(FNN([2, 2]))
    with pytest.raises(RuntimeError, match="call of fit first"):
        to_torch(FNN([2, 2], encoding="piecewise"))
    from numba import njit

    own = Activation(njit(lambda z: z), njit(lambda z: 1.0), name="mine")
    with pytest.raises(ValueError, match="hidden layer 1 has the activation 'mine'"):
        to_torch(FNN([2, 2, 2], activation=own))


def test_the_example_of_the_documentation():
    text = (Path(__file__).parents[2] / "docs" / "interop.md").read_text("utf-8")
    found = re.findall(r"^```py\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    assert found
    for block in found:
        exec(block, {})
