import inspect
import re
from pathlib import Path

import numpy as np
import pytest
from numba import config, njit, types
from numba.core.errors import TypingError

from nbnorm import (
    activation_backward,
    activation_forward,
    batch_norm_backward,
    batch_norm_forward,
    batch_norm_inference,
    binary_cross_entropy,
    dense_backward,
    dense_forward,
    kernels,
    mean_squared_error,
    sgd_step,
    softmax_cross_entropy,
)
from nbnorm.compile.signatures import Array, check
from nbnorm.functions.activations import CODES

PAGE = Path(__file__).parents[1] / "docs" / "embedding.md"


@pytest.fixture(scope="module")
def page():
    """Names that the code on the documentation's page defines."""
    names = {}
    exec("\n".join(re.findall(r"```\{code-cell\}\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)), names)
    return names


def _reference(x, labels, w1, b1, gamma, beta, w2, b2, steps, lr):
    """The page's loop, by the public functions."""
    params = [w1, b1, gamma, beta, w2, b2]
    velocities = [np.zeros_like(p) for p in params]
    losses = []
    for _ in range(steps):
        y = activation_forward(dense_forward(x, w1, b1), "relu")
        u, mean, rstd = batch_norm_forward(y, gamma, beta)
        loss, dlogits = softmax_cross_entropy(dense_forward(u, w2, b2), labels)
        losses.append(loss)
        du, dw2, db2 = dense_backward(dlogits, u, w2)
        dy, dgamma, dbeta = batch_norm_backward(du, y, gamma, mean, rstd)
        _, dw1, db1 = dense_backward(activation_backward(dy, y, "relu"), x, w1)
        for p, g, v in zip(params, (dw1, db1, dgamma, dbeta, dw2, db2), velocities, strict=True):
            sgd_step(p, g, v, lr=lr, momentum=0.9)
    return losses


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_pages_loop_trains_as_the_public_functions_do(page, dtype):
    rng = np.random.default_rng(1)
    x, labels = rng.normal(size=(20, 5)).astype(dtype), rng.integers(0, 3, 20)
    shapes = [(7, 5), (7,), (7,), (7,), (3, 7), (3,)]
    got = [rng.normal(size=shape).astype(dtype) for shape in shapes]
    expected = [p.copy() for p in got]
    losses = page["train"](x, labels, *got, 10, 0.05)
    reference = _reference(x, labels, *expected, 10, 0.05)
    rtol = 1e-3 if dtype == np.float32 else 1e-10
    np.testing.assert_allclose(losses, reference, rtol=rtol)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)


def test_the_pages_example_learns(page):
    assert page["losses"][-1] < 0.1 < page["losses"][0]


def test_the_pages_gate(page):
    x, y, out = np.linspace(-2, 2, 5), np.linspace(0, 1, 5), np.empty(5)
    page["gate"](x, y, out)
    np.testing.assert_allclose(out, np.tanh(y) / (1 + np.exp(-x)), rtol=1e-14)


@njit
def _statistics(x, mean, var, out):
    kernels.moments(x, mean, var, np.empty(kernels.sums_size(*x.shape)))
    kernels.standardize(x, mean, np.sqrt(var), out)


def test_moments_and_standardize():
    x = np.random.default_rng(0).normal(1e6, 1, size=(600, 3)).astype(np.float32)
    mean, var, out = np.empty(3), np.empty(3), np.empty_like(x)
    _statistics(x, mean, var, out)
    np.testing.assert_allclose(mean, x.mean(axis=0, dtype=float), rtol=1e-14)
    np.testing.assert_allclose(var, x.var(axis=0, dtype=float), rtol=1e-9)
    np.testing.assert_allclose(out, (x - mean) / np.sqrt(var), rtol=1e-6)


@njit
def _losses(x, t, gradient):
    partial = np.empty(kernels.partial_size(len(x)))
    first = kernels.binary_cross_entropy(x, t, gradient, partial)
    return first, kernels.mean_squared_error(x, t, gradient, partial)


def test_losses():
    x, t = np.random.default_rng(0).uniform(size=(2, 9, 2))
    got = _losses(x, t, np.empty_like(x))
    assert got == (binary_cross_entropy(x, t)[0], mean_squared_error(x, t)[0])


@njit
def _activations(z, dy, code, y, dz):
    kernels.activation_forward(z, code, y)
    kernels.activation_backward(dy, z, code, dz)


def test_activations_whose_slope_is_computed_from_z():
    z, dy = np.linspace(-2, 2, 9), np.linspace(1, 2, 9)
    y, dz = np.empty_like(z), np.empty_like(z)
    for name in ("leaky_relu", "elu", "gelu", "silu", "softplus"):
        _activations(z, dy, CODES[name], y, dz)
        np.testing.assert_array_equal(y, activation_forward(z, name))
        np.testing.assert_array_equal(dz, activation_backward(dy, y, name, z=z))


@njit
def _inference(x, mean, scale, shift, out):
    kernels.batch_norm_inference(
        x, mean, scale, shift, out, np.empty(kernels.factors_size(x.shape[1]), x.dtype)
    )


def test_inference():
    x = np.random.default_rng(0).normal(size=(9, 4))
    mean, var, gamma, beta = np.arange(16.0).reshape(4, 4) + 1
    out = np.empty_like(x)
    _inference(x, mean, gamma / np.sqrt(var + 1e-5), beta, out)
    np.testing.assert_array_equal(out, batch_norm_inference(x, gamma, beta, mean, var))


@njit
def _parallel_step(param, grad, velocity):
    kernels.parallel.sgd_step(param, grad, velocity, 0.1, 0.9, True, 0.01)


@pytest.mark.skipif(config.DISABLE_JIT, reason="needs compiled code")
def test_parallel_twins_can_be_called_from_compiled_code():
    param, velocity = np.ones((2, 100_000), np.float32)
    grad = np.linspace(-1, 1, 100_000, dtype=np.float32)
    expected, expected_velocity = param.copy(), velocity.copy()
    _parallel_step(param, grad, velocity)
    kernels.sgd_step(expected, grad, expected_velocity, 0.1, 0.9, True, 0.01)
    np.testing.assert_array_equal(param, expected)
    np.testing.assert_array_equal(velocity, expected_velocity)


def test_codes_of_activations_can_be_read_in_compiled_code():
    @njit
    def relu_and_tanh(x):
        return kernels.activate(x, kernels.CODES.relu), kernels.activate(x, kernels.CODES.tanh)

    assert relu_and_tanh(-1.0) == (0.0, pytest.approx(np.tanh(-1.0)))
    assert kernels.CODES._asdict() == CODES


def test_the_documentation_names_every_kernel():
    for name in kernels.__all__:
        assert f"`{name}" in kernels.__doc__
        assert hasattr(kernels, name)
    assert sorted(vars(kernels.parallel).keys() & set(kernels.__all__)) == sorted(kernels._PAIRS)


needs_compiler = pytest.mark.skipif(config.DISABLE_JIT, reason="needs compiled code")
CHOICES = {name: getattr(kernels, name) for name in kernels.ARGUMENTS}
CHOICES |= {f"parallel.{name}": getattr(kernels.parallel, name) for name in kernels._PAIRS}
ELEMENTARY = sorted(set(kernels.__all__) - set(kernels.ARGUMENTS) - {"CODES", "parallel"})


def arguments_of(name):
    return kernels.ARGUMENTS[name.removeprefix("parallel.")]


def right_type(kind, real, **changes):
    """Type of Numba that an argument may have in a call for the dtype `real`."""
    if isinstance(kind, Array):
        options = {"dtype": kind.dtype or real, "ndim": kind.ndim, "layout": "C", **changes}
        return types.Array(**options)
    return {"a bool": types.boolean, "an integer": types.int64}.get(kind.text, real)


def wrong_types(kind, dtype, first):
    """Types that an argument must not have in a call for `dtype`."""
    if not isinstance(kind, Array):
        yield from (types.complex128, types.float16, types.unicode_type, types.float64[::1])
        if kind.text in ("a bool", "an integer"):
            yield types.float64
        return
    yield right_type(kind, dtype, layout="A")
    yield right_type(kind, dtype, layout="F")
    yield right_type(kind, dtype, ndim=kind.ndim + 1)
    yield right_type(kind, dtype, ndim=kind.ndim - 1)
    yield right_type(kind, dtype, aligned=False)
    yield types.float64
    yield types.List(types.float64)
    for other in (types.float16, types.int32, types.uint8, types.complex64, types.complex128, types.boolean):
        yield right_type(kind, dtype, dtype=other)
    if not first:
        yield right_type(
            kind, dtype, dtype=types.float32 if (kind.dtype or dtype) != types.float32 else types.float64
        )
    if kind.written:
        yield right_type(kind, dtype, readonly=True)


@needs_compiler
@pytest.mark.parametrize("dtype", [types.float32, types.float64], ids=str)
@pytest.mark.parametrize("name", CHOICES)
def test_a_kernel_refuses_wrong_types_and_names_them(name, dtype):
    arguments = arguments_of(name)
    right = [right_type(kind, dtype) for kind in arguments.values()]
    check(name, arguments, tuple(right))
    compiled = set(CHOICES[name].overloads)
    for position, (argument, kind) in enumerate(arguments.items()):
        for wrong in wrong_types(kind, dtype, position == 0):
            given = (*right[:position], wrong, *right[position + 1 :])
            with pytest.raises(TypingError, match=rf"^nbnorm\.kernels\.{name}: {argument} must be .*, got "):
                CHOICES[name].compile(given)
    assert set(CHOICES[name].overloads) == compiled


@needs_compiler
@pytest.mark.parametrize("name", CHOICES)
def test_a_kernel_reads_what_is_read_only(name):
    arguments = arguments_of(name)
    given = [
        right_type(kind, types.float64, readonly=not getattr(kind, "written", True))
        for kind in arguments.values()
    ]
    check(name, arguments, tuple(given))


@needs_compiler
@pytest.mark.parametrize("name", CHOICES)
def test_a_users_compiled_code_gets_the_error(name):
    kernel, arguments = CHOICES[name], arguments_of(name)
    argument, kind = next(iter(arguments.items()))
    given = [right_type(kind, types.float64) for kind in arguments.values()]
    given[0] = right_type(kind, types.float64, layout="A") if isinstance(kind, Array) else types.complex128

    @njit
    def own(args):
        kernel(*args)

    with pytest.raises(TypingError, match=rf"nbnorm\.kernels\.{name}: {argument} must be .*, got "):
        own.compile((types.Tuple(given),))


@needs_compiler
@pytest.mark.parametrize("name", ELEMENTARY)
def test_elementary_functions_refuse_other_types(name):
    function = getattr(kernels, name)

    @njit
    def own(x):
        return function(x)

    message = rf"nbnorm\.kernels\.{name}: [xz] must be float32 or float64, got "
    for wrong in (types.int64, types.float16, types.complex128, types.boolean, types.float64[::1]):
        with pytest.raises(TypingError, match=message):
            own.compile((wrong,))
    for wrong in (1, 1j, np.float16(1), np.ones(2), True, "1", None):
        with pytest.raises(TypeError, match=message):
            function(wrong)


@needs_compiler
@pytest.mark.parametrize("change", [lambda x: x[::2], lambda x: x[:, 1:4], np.asfortranarray, np.int64])
def test_called_from_python_a_kernel_raises_a_type_error(change):
    x = change(np.arange(60.0).reshape(12, 5))
    n, width = x.shape
    mean, var, sums = np.full(width, 7.0), np.full(width, 7.0), np.empty(kernels.sums_size(n, width))
    for moments in (kernels.moments, kernels.parallel.moments):
        with pytest.raises(TypeError, match=r"moments: x must be a C-contiguous array of float32 or float64"):
            moments(x, mean, var, sums)
    assert (mean == 7).all()


@pytest.mark.parametrize("name", kernels.ARGUMENTS)
def test_the_table_of_arguments_is_that_of_the_kernels_and_of_the_documentation(name):
    kernel = getattr(kernels, name)
    names = list(kernels.ARGUMENTS[name])
    assert names == list(inspect.signature(getattr(kernel, "py_func", kernel)).parameters)
    documented = re.search(rf"``{name}\((.*?)\)``", kernels.__doc__).group(1)
    assert documented.split(", ") == names


def test_every_kernel_is_checked():
    assert set(kernels.__all__) == {*kernels.ARGUMENTS, *ELEMENTARY, "CODES", "parallel"}
    assert all(not hasattr(getattr(kernels, name), "overloads") for name in ELEMENTARY)
