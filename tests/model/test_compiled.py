"""Frozen predictors: they say what the network says, from Python and from compiled code."""

import json
import pickle
import subprocess
import sys
from typing import get_args

import numpy as np
import pytest
from numba import config, njit, prange, typeof

from nbnorm import FNN, Activation, Poisson, Quantile
from nbnorm.compile import callables
from nbnorm.functions.activations import ActivationName


def network(sizes, *, epochs=0, seed=0, **options):
    """Return a network in evaluation mode whose statistics and batch norms are not the identity."""
    rng = np.random.default_rng(seed)
    net = FNN(sizes, seed=seed, **options)
    X = rng.normal(3.0, 2.0, (60, sizes[0]))
    if net.output == "softmax":
        y = rng.integers(0, sizes[-1], 60)
    elif net.output == "sigmoid":
        y = rng.integers(0, 2, (60, sizes[-1]))
    else:
        y = np.abs(rng.normal(5.0, 3.0, (60, net.loss.targets(sizes[-1]))))
    net.fit(X, y, epochs=1, batch_size=20)
    for name, values in net.parameters().items():
        if not name.endswith("weight"):
            values += 0.3 * rng.normal(size=values.shape)
    return net, X


def answers(net, X):
    return net.predict(X) if net.output == "identity" else net.predict_proba(X)


# Each kind is compiled, so all activations and placements are tried with one output and dtype only.
@pytest.mark.parametrize(
    ("output", "dtype", "kinds"),
    [
        ("softmax", np.float32, [(name, "after") for name in get_args(ActivationName)]),
        ("softmax", np.float32, [("relu", None), ("gelu", "before")]),
        ("softmax", np.float64, [("relu", "before"), ("silu", "after")]),
        ("softmax", np.float32, [("gelu", "layer"), ("relu", "rms_after")]),
        ("identity", np.float64, [("silu", "layer_after"), ("tanh", "rms")]),
        ("sigmoid", np.float64, [("tanh", "after")]),
        ("sigmoid", np.float32, [("relu", None)]),
        ("identity", np.float32, [("elu", "before")]),
        ("identity", np.float64, [("softplus", "after")]),
    ],
)
def test_says_what_the_network_says(output, dtype, kinds):
    tolerance = 2e-5 if dtype == np.float32 else 1e-11
    for activation, norm in kinds:
        net, X = network([5, 9, 4, 3], activation=activation, norm=norm, output=output, dtype=dtype)
        expected = answers(net, X)
        got = net.compiled()(X)
        assert got.dtype == expected.dtype
        scale = np.abs(expected).max()
        np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * scale, err_msg=activation)


@pytest.mark.parametrize(
    ("sizes", "options"),
    [
        ([5, 3], {}),
        ([5, 7, 1], {"output": "sigmoid"}),
        ([5, 7, 1], {"output": "identity"}),
        ([5, 7, 1], {"output": "identity", "standardize_targets": True}),
        ([5, 7, 3], {"output": "identity", "standardize_targets": True, "running": "std"}),
        ([5, 7, 6], {"output": "identity", "standardize_targets": True, "loss": Quantile((0.1, 0.5, 0.9))}),
        ([5, 7, 2], {"output": "identity", "loss": Poisson()}),
        ([5, 7, 3], {"standardize": False, "eps": 0.1}),
        ([5, 7, 3], {"encoding": "piecewise", "bins": 4}),
        ([5, 70, 33, 40], {"activation": ["tanh", "relu"]}),
    ],
)
def test_options(sizes, options):
    net, X = network(sizes, **options)
    expected, predict = answers(net, X), net.compiled()
    np.testing.assert_allclose(predict(X), expected, rtol=1e-4, atol=2e-5)
    assert predict(X).shape == expected.shape
    # rows of a tile and the others are computed alike, and a row alone
    for k in (0, 59):
        got = predict(X[k])
        assert np.shape(got) == expected.shape[1:]
        np.testing.assert_array_equal(got, predict(X)[k])
    for n in (1, 2, 5, 11):  # so many rows are beside the tiles
        np.testing.assert_array_equal(predict(X[:n]), predict(X)[:n])
    many = np.tile(X, (3, 1))[:130]
    np.testing.assert_array_equal(predict(many), np.tile(predict(X), (3,) + (1,) * (expected.ndim - 1))[:130])


def test_missing_numbers_of_an_encoded_network():
    net, X = network([3, 8, 2], encoding="piecewise", bins=3)
    X[::7, 1] = np.nan
    np.testing.assert_allclose(net.compiled()(X), net.predict_proba(X), rtol=0, atol=1e-5)


def test_a_large_mean_costs_no_digits():
    rng = np.random.default_rng(0)
    X = 1e7 + rng.normal(size=(50, 4))
    net = FNN([4, 6, 3], seed=0)
    net.fit(X, rng.integers(0, 3, 50), epochs=1, batch_size=10)
    np.testing.assert_allclose(net.compiled()(X), net.predict_proba(X), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.float16, bool, ">f8"])
def test_any_real_numbers_in_any_layout(kind):
    net, _ = network([4, 6, 3])
    X = np.random.default_rng(0).integers(0, 2, (9, 8)).astype(kind)[:, ::2]
    expected = net.predict_proba(X)
    predict = net.compiled()
    for given in (X, np.asfortranarray(X), X.tolist()):
        np.testing.assert_allclose(predict(given), expected, rtol=0, atol=1e-5)
    X.flags.writeable = False
    np.testing.assert_allclose(predict(X), expected, rtol=0, atol=1e-5)


def test_frozen_and_pickled():
    net, X = network([4, 6, 3])
    predict = net.compiled()
    expected = predict(X)
    again = pickle.loads(pickle.dumps(predict))
    for values in (*net.parameters().values(), *net.buffers().values()):
        values[:] = 1.0
    np.testing.assert_array_equal(predict(X), expected)
    np.testing.assert_array_equal(again(X), expected)
    assert repr(again) == "<predictor of layers [4, 6, 3], float32, for one row or many>"


@njit
def of_argument(predict, X):
    return predict(X)


@pytest.mark.skipif(config.DISABLE_JIT, reason="tests compiled code")
def test_compiled_code_calls_it_as_argument_closure_and_in_parallel():
    nets = [network([4, 6, 3], seed=seed)[0] for seed in range(2)]
    X = network([4, 6, 3])[1]
    predict = nets[0].compiled()

    @njit(parallel=True)
    def of_closure(X):
        out = np.empty((len(X), 3), np.float32)
        for i in prange(len(X)):
            out[i] = predict(X[i])
        return out

    np.testing.assert_array_equal(of_closure(X), predict(X))
    for net in nets:  # one compilation for both
        np.testing.assert_array_equal(of_argument(net.compiled(), X), net.compiled()(X))
    assert len(of_argument.signatures) == 1
    with pytest.raises(ValueError, match="x must have as many features as the network"):
        of_argument(predict, X[:, 1:])
    scalar, X = network([4, 6, 1], output="identity")
    assert of_argument(scalar.compiled(), X[0]) == scalar.compiled()(X)[0]


FUNCTIONS = """
import numpy as np
from numba import njit, prange

@njit(cache=True)
def of_argument(predict, X):
    return predict(X)

@njit(cache=True, parallel=True)
def in_parallel(predict, X):
    out = np.empty((len(X), 3), np.float32)
    for i in prange(len(X)):
        out[i] = predict(X[i])
    return out

@njit(cache=True)
def of_global(_, X):
    return predict(X)

@njit(cache=True)
def calls_of_global(_, X):
    return of_global(0, X)

def enclosing(predict):
    @njit(cache=True)
    def of_enclosing(_, X):
        return predict(X)
    return of_enclosing
"""

USE = """
import json, sys, warnings
import numpy as np
import functions
from nbnorm import FNN

predict = functions.predict = FNN([4, 6, 3], seed=int(sys.argv[1])).compiled()
X = np.random.default_rng(0).normal(size=(7, 4))
found = {}
for name in ("of_argument", "in_parallel", "of_global", "calls_of_global", "enclosing"):
    function = getattr(functions, name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function = function(predict) if name == "enclosing" else function
        right = np.array_equal(function(predict, X), predict(X))
    warned = any("dynamic globals" in str(warning.message) for warning in caught)
    found[name] = [right, sum(function.stats.cache_hits.values()), warned]
print(json.dumps(found))
"""


@pytest.mark.skipif(config.DISABLE_JIT, reason="tests compiled code")
def test_functions_that_a_user_caches_are_right_in_the_next_process(tmp_path):
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    (tmp_path / "use.py").write_text(USE)
    for seed in range(2):  # another network in each process
        command = [sys.executable, str(tmp_path / "use.py"), str(seed)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        for name in ("of_argument", "in_parallel"):
            assert found.pop(name) == [True, seed, False]
        for name, got in found.items():
            assert got == [True, 0, True], name


@pytest.mark.skipif(config.DISABLE_JIT, reason="tests compiled code")
def test_another_version_has_another_type(monkeypatch):
    before = typeof(FNN([4, 3], seed=0).compiled())
    assert typeof(FNN([4, 3], seed=1).compiled()) == before
    monkeypatch.setattr(callables, "package_digest", lambda: "of another version")
    assert typeof(FNN([4, 3], seed=0).compiled()) != before


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.ones(3), ValueError, r"x must have shape \(4,\) or \(n_samples, 4\), got shape \(3,\)"),
        (np.ones((2, 5)), ValueError, r"got shape \(2, 5\)"),
        (np.ones((2, 2, 4)), ValueError, r"got shape \(2, 2, 4\)"),
        (np.float64(1.0), ValueError, r"got shape \(\)"),
        (["a"] * 4, TypeError, "x must hold real numbers"),
    ],
)
def test_refuses(x, error, message):
    with pytest.raises(error, match=message):
        FNN([4, 3], seed=0).compiled()(x)


def test_networks_that_cannot_be_frozen():
    with pytest.raises(RuntimeError, match="needs a call of fit first"):
        FNN([4, 3], encoding="piecewise").compiled()


@njit
def cube(z):
    return z**3


@njit
def triple_square(z):
    return 3 * z**2


@njit
def first_of_all(predict, x):
    return predict(x)[0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_own_activations(dtype):
    own = Activation(cube, triple_square)
    net = FNN([4, 19, 3, 2], activation=[own, "tanh"], norm="before", dtype=dtype, seed=0).eval()
    X = np.random.default_rng(0).normal(size=(70, 4)).astype(dtype)
    predict, expected = net.compiled(), net.predict_proba(X)
    for got in (
        predict(X),
        pickle.loads(pickle.dumps(predict))(X),
        [first_of_all(predict, x[np.newaxis]) for x in X],
    ):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)
