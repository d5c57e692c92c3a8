import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba import config

from nbnorm.compile.kernels import kernel
from nbnorm.engine import microkernels
from nbnorm.functions.updates import RULES
from nbnorm.simd import target

FLOATS = (np.float32, np.float64)


# The intrinsics exist inside compiled code only.
@kernel
def product(address, a, i, b, j, out, o, length, stride, add):
    microkernels.tile_product(address, a, i, b, j, out, o, length, stride, add)


@kernel
def update(address, a, b, weight, state, numbers, upcoming, length, stride, size, count, lines):
    microkernels.tile_update(
        address, a, 0, b, 0, weight, 0, state, 0, numbers, 0, upcoming, 0, length, stride, size, count, lines
    )  # fmt: skip


@kernel
def update_vector(address, vector, state, gradient, numbers, size, count):
    microkernels.vector_update(address, vector, 0, state, 0, gradient, 0, numbers, 0, size, count)


@kernel
def write_numbers(address, numbers, options, rates, step, updates):
    microkernels.step_numbers(address, numbers, 0, options, 0, rates, step, updates)


@kernel
def square(source, i, source_stride, target, j, target_stride):
    microkernels.transpose(source, i, source_stride, target, j, target_stride)


@kernel
def shape(array, out):
    out[0], out[1] = microkernels.tile_rows(array), microkernels.tile_width(array)


@pytest.fixture(params=FLOATS, ids=["float32", "float64"])
def dtype(request):
    return request.param


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def tolerance(dtype, length):
    return 4 * length * np.finfo(dtype).eps


def test_tile(dtype):
    got, out = microkernels.tile(dtype), np.zeros(2, np.int64)
    shape(np.empty(1, dtype), out)
    assert out.tolist() == [got.rows, got.width]
    assert got.width % got.lanes == 0
    assert got.width % got.rows == 0
    assert got.lanes * np.dtype(dtype).itemsize in (16, 32, 64)


def test_empty_aligned(dtype):
    for size in (0, 1, 7, 64):
        got = microkernels.empty_aligned(size, dtype)
        assert got.shape == (size,)
        assert got.dtype == dtype
        assert got.ctypes.data % 64 == 0 or size == 0
        assert not got.any()


def rows_of(dtype, tall):
    return microkernels.tall_rows(dtype) if tall else microkernels.tile(dtype).rows


TALL = pytest.mark.parametrize("tall", [False, True], ids=["low", "tall"])


@TALL
@pytest.mark.parametrize("add", [0, 1])
def test_packed_product(dtype, rng, add, tall):
    rows, width = rows_of(dtype, tall), microkernels.tile(dtype).width
    for length in (1, 2, 3, 4, 5, 8, 11):
        left, right = rng.normal(size=(2, length, width)).astype(dtype)
        before = rng.normal(size=(width, width)).astype(dtype)
        for r in range(0, width - rows + 1, rows):
            out = before.copy()
            product(
                microkernels.micro_kernel("packed", dtype, tall=tall),
                left.reshape(-1), r, right.reshape(-1), 0, out.reshape(-1), r * width, length, 0, add,
            )  # fmt: skip
            expected = before.copy()
            expected[r : r + rows] *= add
            expected[r : r + rows] += left[:, r : r + rows].T.astype(float) @ right
            np.testing.assert_allclose(out, expected, rtol=0, atol=tolerance(dtype, 10 + length))


@TALL
@pytest.mark.parametrize("add", [0, 1])
def test_strided_product(dtype, rng, add, tall):
    rows, width = rows_of(dtype, tall), microkernels.tile(dtype).width
    pad = 3 * rows  # rows of one block
    for length in (1, 3, 4, width - 1, width, width + 1, 2 * width + 5):
        blocks = -(-length // width)
        left = rng.normal(size=(blocks, pad, width)).astype(dtype)
        right = rng.normal(size=(length, width)).astype(dtype)
        matrix = left.transpose(1, 0, 2).reshape(pad, -1)[:, :length]
        flat = left.reshape(-1)
        short = length - (blocks - 1) * width
        left[-1, :, short:] = np.nan  # behind the end: must not be read into the sum
        for r in range(0, pad, rows):
            before = rng.normal(size=(rows, width)).astype(dtype)
            out = before.copy()
            product(
                microkernels.micro_kernel("strided", dtype, tall=tall), flat, r * width, right.reshape(-1), 0,
                out.reshape(-1), 0, length, pad * width, add,
            )  # fmt: skip
            expected = add * before + matrix[r : r + rows].astype(float) @ right
            np.testing.assert_allclose(out, expected, rtol=0, atol=tolerance(dtype, 10 + length))


KINDS = [microkernels.STORE, *RULES]


def updated(kind, numbers, penalty, w, state, g):
    """Weight and state after what `kind` does with a gradient, in float64 arrays."""
    if kind == microkernels.STORE:
        return w, [g, *state[1:]]
    rule = RULES[kind]
    w, *new = rule.step(w, *state[: len(rule.state)], g + penalty * w, *numbers[: rule.number_count])
    return w, [*new, *state[len(rule.state) :]]


def numbers_of(rng, dtype):
    """Numbers of a step, the penalty apart."""
    numbers = rng.uniform(0.1, 0.9, microkernels.NUMBERS).astype(dtype)
    return numbers, numbers[microkernels.FIRST :].astype(float), float(numbers[microkernels.PENALTY])


HALF = pytest.mark.parametrize("half", [False, True], ids=["whole", "half"])


@TALL
@HALF
@pytest.mark.parametrize("penalized", [False, True], ids=["plain", "penalized"])
@pytest.mark.parametrize("kind", KINDS)
def test_tile_update(dtype, rng, kind, penalized, half, tall):
    check_tile_update(dtype, rng, kind, penalized, half, tall, 2, 2 * microkernels.tile(dtype).width + 3)


@TALL
@HALF
@pytest.mark.parametrize("samples", [1, 512, 513, 1027])
def test_sums_over_many_samples_are_made_in_parts(dtype, rng, samples, half, tall):
    check_tile_update(dtype, rng, "sgd", False, half, tall, 11, samples)


def check_tile_update(dtype, rng, kind, penalized, half, tall, count, length):
    """Compare the update of `count` tiles with the formulas."""
    rows, width = count * rows_of(dtype, tall), microkernels.tile(dtype).width
    left = rng.normal(size=(-(-length // width), rows, width)).astype(dtype)
    right = rng.normal(size=(length, width)).astype(dtype)
    weight = rng.normal(size=(rows, width)).astype(dtype)
    state = rng.uniform(1, 2, (3, rows, width)).astype(dtype)
    gradient = left.transpose(1, 0, 2).reshape(rows, -1)[:, :length].astype(float) @ right
    numbers, of_rule, penalty = numbers_of(rng, dtype)
    before = [x.astype(float) for x in (weight, *state)]
    new = updated(kind, of_rule, penalty * penalized, before[0], before[1:], gradient)
    changed = np.arange(width) < (width // 2 if half else width)
    expected = [np.where(changed, *pair) for pair in zip((new[0], *new[1]), (weight, *state), strict=True)]
    address = microkernels.weight_kernel(kind, dtype, penalized=penalized, half=half, tall=tall)
    # what is fetched beside the sums changes nothing, even if there is nothing
    upcoming = np.linspace(0, left.ctypes.data, count).astype(np.int64)
    update(
        address, left.reshape(-1), right.reshape(-1), weight.reshape(-1), state.reshape(-1), numbers,
        upcoming, length, rows * width, weight.size, count, 3,
    )  # fmt: skip
    for got, values in zip((weight, *state), expected, strict=True):
        np.testing.assert_allclose(got, values, rtol=tolerance(dtype, length), atol=tolerance(dtype, length))


@pytest.mark.parametrize("kind", KINDS)
def test_vector_update(dtype, rng, kind):
    rows = microkernels.tile(dtype).rows
    for count in (1, rows, 2 * rows + 1):
        vector, gradient = rng.normal(size=(2, count + 1)).astype(dtype)
        state = rng.uniform(1, 2, (3, count + 1)).astype(dtype)
        numbers, of_rule, _ = numbers_of(rng, dtype)
        before = [x.astype(float) for x in (vector, *state)]
        new = updated(kind, of_rule, 0.0, before[0], before[1:], gradient.astype(float))
        address = microkernels.vector_kernel(kind, dtype)
        update_vector(address, vector, state.reshape(-1), gradient, numbers, count + 1, count)
        for got, values, old in zip((vector, *state), (new[0], *new[1]), before, strict=True):
            np.testing.assert_allclose(got[:-1], values[:-1], rtol=0, atol=tolerance(dtype, 4))
            assert got[-1] == old[-1]


@pytest.mark.parametrize("kind", RULES)
def test_step_numbers(dtype, kind):
    rule = RULES[kind]
    options = dict(zip(rule.options, np.linspace(0.1, 0.7, len(rule.options)), strict=True))
    numbers = np.zeros(2 * microkernels.NUMBERS, dtype)
    given = np.array([*options.values(), 0.25, 0.5])  # penalty, and a factor of the rate
    write_numbers(microkernels.numbers_kernel(kind, dtype), numbers, given, np.array([0.5, 0.6]), 1, 4)
    weights, vectors = numbers.reshape(2, -1)
    assert (weights[microkernels.PENALTY], vectors[microkernels.PENALTY]) == (0.25, 0)
    for got, decay in ((weights, options["weight_decay"]), (vectors, 0.0)):
        now = options | {"lr": 0.3, "weight_decay": decay}
        expected = rule.all_numbers(5.0, tuple(now.values()))
        assert len(expected) == rule.number_count < microkernels.NUMBERS
        got = got[microkernels.FIRST :][: rule.number_count]
        np.testing.assert_allclose(got, expected, rtol=4 * np.finfo(dtype).eps)


def test_transpose(dtype, rng):
    rows = microkernels.tile(dtype).rows
    source = rng.normal(size=(rows, rows + 3)).astype(dtype)
    target = np.zeros((rows, rows + 5), dtype)
    square(source.reshape(-1), 2, rows + 3, target.reshape(-1), 1, rows + 5)
    expected = np.zeros_like(target)
    expected[:, 1 : rows + 1] = source[:, 2 : rows + 2].T
    np.testing.assert_array_equal(target, expected)


# ----------------------------------------------------------------------------------------------
# Other processors
# ----------------------------------------------------------------------------------------------


# Processors of other instruction sets than this machine's own, whose kernels all tests have run.
OTHERS = {"avx512": ["haswell", "x86-64"], "avx2": ["x86-64"]}


@pytest.mark.skipif(config.DISABLE_JIT, reason="tests compiled code")
@pytest.mark.skipif(config.CPU_NAME is not None, reason="runs inside such a test")
@pytest.mark.parametrize("name", OTHERS.get(target().instruction_set, []))
def test_other_processors(name, tmp_path):
    here, root = Path(__file__).parent, Path(__file__).parents[2]
    path = os.pathsep.join([str(root), str(here.parent)])
    chosen = ["test_microkernels.py", "test_epilogues.py", "test_run.py::test_one_step_in_float32"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", root / "pyproject.toml",
         *(str(here / file) for file in chosen)],
        capture_output=True, text=True, timeout=300, cwd=tmp_path,
        env={**os.environ, "NUMBA_CPU_NAME": name, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
