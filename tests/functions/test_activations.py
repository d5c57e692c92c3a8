import naive
import numpy as np
import pytest
from numba import config, njit

from nbnorm import Activation, activation_backward, activation_forward, gradcheck
from nbnorm.compile.kernels import kernel
from nbnorm.functions import activations
from nbnorm.functions.activations import CODES, FROM_Z, FUNCTIONS, activate, derivative_from_output, resolve
from nbnorm.simd import exp, sigmoid, tanh

DTYPES = [np.float32, np.float64]
NAMES = sorted(CODES.keys() - set(FROM_Z))
ELEMENTARY = {"exp": exp, "sigmoid": sigmoid, "tanh": tanh}


@kernel
def _exp_all(x, out):
    for i in range(x.size):
        out[i] = exp(x[i])


@kernel
def _activate_all(x, code, out):
    for i in range(x.size):
        out[i] = activate(x[i], code)


@kernel
def _derive_all(y, code, out):
    for i in range(y.size):
        out[i] = derivative_from_output(y[i], code)


def _ulps(got, expected):
    """Return the largest error in units in the last place."""
    rounded = expected.astype(got.dtype)
    finite = np.isfinite(rounded)
    errors = np.abs(naive.exact(got[finite]) - expected[finite]).astype(float)
    return (errors / np.spacing(np.abs(rounded[finite]))).max(initial=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("high", [0.01, 1, 10, 110, 800])
@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_activation_forward_is_right_to_three_units_in_the_last_place(name, high, dtype):
    z = np.linspace(-high, high, 2001, dtype=dtype)
    got = activation_forward(z, name)
    with np.errstate(under="ignore", over="ignore"):
        ulps = _ulps(got, naive.activation(z, name))
    assert got.dtype == dtype
    assert ulps < 3


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("high", [0.01, 1, 80, 105, 745])
def test_exp_is_right_to_two_units_in_the_last_place(high, dtype):
    x = np.linspace(-high, high, 2001, dtype=dtype)
    got = np.empty_like(x)
    _exp_all(x, got)
    with np.errstate(all="ignore"):
        expected = naive.exp(x)
        rounded = expected.astype(dtype)
        ulps = _ulps(got, expected)
    np.testing.assert_array_equal(np.isinf(got), np.isinf(rounded))
    assert ulps < (3 if config.DISABLE_JIT else 2)  # NumPy's own takes 3 in float32


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("name", "expected"),
    [("sigmoid", [np.nan, 1, 0, 0.5]), ("tanh", [np.nan, 1, -1, 0]), ("relu", [np.nan, np.inf, 0, 0])],
)
def test_activation_forward_at_the_ends(name, expected, dtype):
    got = activation_forward(np.array([np.nan, np.inf, -np.inf, -0.0], dtype), name)
    np.testing.assert_array_equal(got, expected)


def test_tanh_keeps_tiny_numbers_and_the_sign_of_zero():
    x = np.array([-0.0, 1e-40, -1e-30], np.float32)
    got = activation_forward(x, "tanh")
    np.testing.assert_array_equal(got, x)
    assert np.signbit(got[0])


@pytest.mark.skipif(config.DISABLE_JIT, reason="needs compiled code")
def test_a_loop_with_exp_becomes_vector_code():
    # compiled anew: code from the cache cannot be looked at
    fresh = kernel(_exp_all.py_func, cache=False)
    fresh(np.zeros(4, np.float32), np.zeros(4, np.float32))
    got = "".join(fresh.inspect_llvm().values())
    assert "x float> @llvm.fma.v" in got or "fmul <" in got


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CODES)
def test_activate_and_its_derivative_agree_with_the_array_functions(name, dtype):
    x = np.linspace(-2, 2, 7, dtype=dtype)
    y, slope = np.empty_like(x), np.empty_like(x)
    _activate_all(x, CODES[name], y)
    _derive_all(y, CODES[name], slope)
    np.testing.assert_array_equal(y, activation_forward(x, name))
    if name in NAMES:
        np.testing.assert_array_equal(slope, activation_backward(np.ones_like(x), y, name))
    else:
        np.testing.assert_array_equal(slope, np.nan)


@pytest.mark.parametrize("name", CODES)
def test_in_place_agrees_with_apart(name):
    z, dy = np.linspace(-2, 2, 21), np.linspace(1, 2, 21)
    y = activation_forward(z, name)
    same = z.copy()
    assert activation_forward(same, name, out=same) is same
    np.testing.assert_array_equal(same, y)
    expected = activation_backward(dy, y, name, z=z)
    assert activation_backward(dy, y, name, z=z, out=dy) is dy
    np.testing.assert_array_equal(dy, expected)


@pytest.mark.parametrize("name", ["relu", "gelu"])
def test_out_that_overlaps_is_refused(name):
    memory, other = np.linspace(-2, 2, 9), np.ones(8)
    with pytest.raises(ValueError, match=r"^out must be z itself or not share memory with it"):
        activation_forward(memory[:-1], name, out=memory[1:])
    with pytest.raises(ValueError, match=r"^out must be dy itself or not share memory with it"):
        activation_backward(memory[:-1], other, name, z=other, out=memory[1:])
    second = "y" if name == "relu" else "z"
    with pytest.raises(ValueError, match=f"^out must not share memory with {second}"):
        activation_backward(other.copy(), other, name, z=other, out=other)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_activation_backward_is_the_slope(name, dtype):
    z = np.linspace(-3, 3, 11, dtype=dtype) + dtype(0.1)
    dy = np.linspace(1, 2, 11, dtype=dtype)
    got = activation_backward(dy, activation_forward(z, name), name)
    z, h = z.astype(float), 1e-6
    expected = dy * (naive.activation(z + h, name) - naive.activation(z - h, name)).astype(float) / (2 * h)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "function", [exp, *(part for function in FUNCTIONS.values() for part in function[:2])]
)
def test_elementary_functions_work_from_python(function):
    got = function(np.float32(0.5))
    assert isinstance(got, np.float32)
    assert got == pytest.approx(float(function(0.5)), rel=1e-6)


def test_out_is_filled_and_returned():
    z = np.array([[-1.0, 2.0]])
    out = np.empty_like(z)
    assert activation_forward(z, "relu", out=out) is out
    np.testing.assert_array_equal(out, [[0, 2]])
    assert activation_backward(np.ones_like(z), out, "relu", out=z) is z
    np.testing.assert_array_equal(z, [[0, 1]])


def test_any_layout_and_shape_and_number_of_blocks():
    z = np.random.default_rng(0).normal(size=(3, 400, 40)) if not config.DISABLE_JIT else np.ones((2, 3, 4))
    expected = np.maximum(z, 0)
    np.testing.assert_array_equal(activation_forward(z, "relu"), expected)
    np.testing.assert_array_equal(
        activation_forward(z.transpose(2, 0, 1), "relu"), expected.transpose(2, 0, 1)
    )
    z.setflags(write=False)
    np.testing.assert_array_equal(activation_forward(z[:, ::2], "relu"), expected[:, ::2])


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ((np.ones(2), "swish"), ValueError, "name must be one of 'identity', .*, got 'swish'"),
        ((np.ones(2), np.tanh), TypeError, "name must be a name or an Activation, got ufunc"),
        ((np.ones(0), "relu"), ValueError, "z must not be empty"),
        ((np.ones(2, complex), "relu"), TypeError, "z must hold real numbers"),
        ((3.0, "relu"), ValueError, "z must have shape"),
    ],
)
def test_activation_forward_refuses(args, error, message):
    with pytest.raises(error, match=message):
        activation_forward(*args)


def test_activation_backward_refuses_unequal_shapes():
    with pytest.raises(ValueError, match="dy must have shape"):
        activation_backward(np.ones(2), np.ones(3), "relu")


# ----------------------------------------------------------------------------------------------
# Functions whose slope is computed from z
# ----------------------------------------------------------------------------------------------


def _points(dtype):
    least = {np.float32: -80, np.float64: -700}[dtype]  # beyond, exponentials have lost digits
    parts = [np.linspace(-h, h, 1001) for h in (1e-6, 0.01, 1, 10)] + [np.linspace(least, 1000, 1001)]
    return np.concatenate(parts).astype(dtype)


@pytest.mark.skipif(config.DISABLE_JIT, reason="the interpreter takes NumPy's functions")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("name", "most"), [("leaky_relu", 1), ("elu", 2), ("gelu", 5), ("silu", 3), ("softplus", 3), ("selu", 3)]
)
def test_further_functions_are_right_to_a_few_units_in_the_last_place(name, most, dtype):
    z = _points(dtype)
    if name == "gelu":
        z = z[np.abs(z) < (13 if dtype == np.float32 else 37)]
    with np.errstate(under="ignore", over="ignore"):
        expected = naive.activation(z, name)
    got = activation_forward(z, name)
    assert got.dtype == dtype
    assert _ulps(got, expected) < most


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FROM_Z)
def test_slopes_of_further_functions(name, dtype):
    z = _points(dtype)
    got = activation_backward(np.ones_like(z), np.zeros_like(z), name, z=z)
    with np.errstate(under="ignore"):
        expected = naive.slope(z, name).astype(float)
    assert got.dtype == dtype
    # gelu and silu have a slope of 0 in between, where only its size beside 1 counts
    np.testing.assert_allclose(got, expected, rtol=0, atol=3 * np.finfo(dtype).eps)
    if name in ("elu", "softplus"):
        np.testing.assert_allclose(got, expected, rtol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("name", "values", "slopes"),
    [
        ("leaky_relu", [np.nan, np.inf, -np.inf, -0.0], [np.nan, 1, 0.01, 0.01]),
        ("elu", [np.nan, np.inf, -1, -0.0], [np.nan, 1, 0, 1]),
        ("gelu", [np.nan, np.inf, -0.0, -0.0], [np.nan, 1, 0, 0.5]),
        ("silu", [np.nan, np.inf, -0.0, -0.0], [np.nan, 1, 0, 0.5]),
        ("softplus", [np.nan, np.inf, 0, np.log(2)], [np.nan, 1, 0, 0.5]),
        (
            "selu",
            [np.nan, np.inf, -1.7580993408473768, -0.0],
            [np.nan, 1.0507009873554805, 0, 1.7580993408473768],
        ),
    ],
)
def test_further_functions_at_the_ends(name, values, slopes, dtype):
    z = np.array([np.nan, np.inf, -np.inf, -0.0], dtype)
    got = activation_forward(z, name)
    np.testing.assert_array_equal(got, np.array(values, dtype))
    np.testing.assert_array_equal(np.signbit(got[1:]), np.signbit(values[1:]))
    got = activation_backward(np.ones(3, dtype), got[1:], name, z=z[1:])
    np.testing.assert_array_equal(got, np.array(slopes[1:], dtype))
    got = activation_backward(np.full(1, np.nan, dtype), z[:1], name, z=z[:1])
    assert np.isnan(got[0])


@pytest.mark.parametrize("name", FROM_Z)
def test_gradients_of_further_functions(name):
    z = np.linspace(-3, 3, 9) + 0.05
    dy = np.linspace(1, 2, 9)
    got = activation_backward(dy, activation_forward(z, name), name, z=z)
    assert gradcheck(lambda z: np.vdot(dy, activation_forward(z, name)), z, got) < 1e-9


@pytest.mark.skipif(config.DISABLE_JIT, reason="needs compiled code")
@pytest.mark.parametrize("name", CODES)
def test_both_twins_of_the_kernels_agree_with_the_functions(name):
    rng = np.random.default_rng(0)
    z, dy = rng.normal(size=(2, 40_000)).astype(np.float32)
    y = activation_forward(z, name)
    source = y if name in NAMES else z
    for twin in ("serial", "parallel"):
        got, dz = np.empty_like(z), np.empty_like(z)
        getattr(activations.forward_kernel, twin)(z, CODES[name], got)
        getattr(activations.backward_kernel, twin)(dy, source, CODES[name], dz)
        np.testing.assert_array_equal(got, y)
        np.testing.assert_array_equal(dz, activation_backward(dy, y, name, z=z))


@njit
def _square(z):
    return z * z


@njit
def _double(z):
    return 2 * z


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_activation_of_ones_own(dtype):
    mine = Activation(_square, _double, name="square")
    z, dy = np.array([[-1, 3]], dtype), np.array([[1, 10]], dtype)
    y = activation_forward(z, mine)
    np.testing.assert_array_equal(y, np.array([[1, 9]], dtype), strict=True)
    got = activation_backward(dy, y, mine, z=z)
    np.testing.assert_array_equal(got, np.array([[-2, 60]], dtype), strict=True)
    assert resolve(mine) is mine
    assert Activation(_square, _double).name == "_square"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Activation(3, _double), TypeError, "function must be compiled by numba.njit, got int"),
        (lambda: Activation(_square, njit(lambda: 1)), TypeError, "derivative must take 1 argument, got"),
        (lambda: Activation(_square, _double, name=1), TypeError, "name must be a string, got int"),
        (lambda: resolve("step"), ValueError, "activation must be one of 'identity', .*, got 'step'"),
        (lambda: resolve(_square), TypeError, "activation must be a name or an Activation, got"),
        (
            lambda: activation_backward(np.ones(2), np.ones(2), "gelu"),
            ValueError,
            "z must be given for gelu, whose slope does not follow from y, got None",
        ),
        (
            lambda: activation_backward(np.ones(2), np.ones(2), "gelu", z=np.ones(3)),
            ValueError,
            "z must have shape",
        ),
    ],
)
def test_further_functions_refuse(call, error, message):
    with pytest.raises(error, match=message):
        call()
