import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba import config

from nbnorm.compile.kernels import kernel
from nbnorm.engine import microkernels
from nbnorm.simd import target

FLOATS = (np.float32, np.float64)


# The intrinsics exist inside compiled code only.
@kernel
def product(place, a, i, b, j, out, o, length, stride, add):
    microkernels.tile_product(place, a, i, b, j, out, o, length, stride, add)


@kernel
def update(place, a, b, weight, velocity, square, numbers, length, stride):
    microkernels.tile_update(place, a, 0, b, 0, weight, 0, velocity, 0, square, 0, numbers, 0, length, stride)


@kernel
def update_vector(place, vector, velocity, square, gradient, numbers):
    microkernels.vector_update(place, vector, 0, velocity, 0, square, 0, gradient, 0, numbers, 0)


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


@pytest.mark.parametrize("add", [0, 1])
def test_packed_product(dtype, rng, add):
    _, rows, width, _ = microkernels.tile(dtype)
    for length in (1, 2, 3, 4, 5, 8, 11):
        left, right = rng.normal(size=(2, length, width)).astype(dtype)
        before = rng.normal(size=(width, width)).astype(dtype)
        for r in range(0, width, rows):
            out = before.copy()
            product(
                microkernels.micro_kernel("packed", dtype), left.reshape(-1), r, right.reshape(-1), 0,
                out.reshape(-1), r * width, length, 0, add,
            )  # fmt: skip
            expected = before.copy()
            expected[r : r + rows] *= add
            expected[r : r + rows] += left[:, r : r + rows].T.astype(float) @ right
            np.testing.assert_allclose(out, expected, rtol=0, atol=tolerance(dtype, 10 + length))


@pytest.mark.parametrize("add", [0, 1])
def test_strided_product(dtype, rng, add):
    _, rows, width, _ = microkernels.tile(dtype)
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
                microkernels.micro_kernel("strided", dtype), flat, r * width, right.reshape(-1), 0,
                out.reshape(-1), 0, length, pad * width, add,
            )  # fmt: skip
            expected = add * before + matrix[r : r + rows].astype(float) @ right
            np.testing.assert_allclose(out, expected, rtol=0, atol=tolerance(dtype, 10 + length))


def updated(kind, c, w, v, s, gradient):
    """Weight, velocity and squares after one of the updates, by the formulas of `microkernels.UPDATES`."""
    if kind == "store":
        return w, gradient, s
    g = gradient + (0.0 if kind == "sgd" else c[microkernels.PENALTY]) * w
    if kind == "adam":
        v = c[microkernels.MOMENTUM] * v + c[microkernels.FRESH] * g
        s = c[microkernels.BETA2] * s + c[microkernels.FRESH2] * g**2
        step = c[microkernels.RATE] * v / (np.sqrt(c[microkernels.CORRECTION2] * s) + c[microkernels.LEAST])
    else:
        v = c[microkernels.MOMENTUM] * v + g
        step = c[microkernels.RATE] * v + c[microkernels.AHEAD] * g
    return c[microkernels.SHRINK] * w - step, v, s


@pytest.mark.parametrize("half", [False, True], ids=["whole", "half"])
@pytest.mark.parametrize("kind", microkernels.UPDATES)
def test_tile_update(dtype, rng, kind, half):
    _, rows, width, _ = microkernels.tile(dtype)
    length = 2 * width + 3
    left = rng.normal(size=(3, rows, width)).astype(dtype)
    right = rng.normal(size=(length, width)).astype(dtype)
    held = list(rng.normal(size=(3, rows, width)).astype(dtype))
    held[2] **= 2
    gradient = left.transpose(1, 0, 2).reshape(rows, -1)[:, :length].astype(float) @ right
    numbers = rng.uniform(0.1, 0.9, microkernels.NUMBERS).astype(dtype)
    expected = updated(kind, numbers.astype(float), *(x.astype(float) for x in held), gradient)
    if half:
        expected = [
            np.where(np.arange(width) < width // 2, new, old) for new, old in zip(expected, held, strict=True)
        ]
    flat = [x.reshape(-1) for x in held]
    update(
        microkernels.micro_kernel(kind, dtype, half=half), left.reshape(-1), right.reshape(-1), *flat,
        numbers, length, rows * width,
    )  # fmt: skip
    for got, values in zip(held, expected, strict=True):
        np.testing.assert_allclose(got, values, rtol=tolerance(dtype, length), atol=tolerance(dtype, length))


@pytest.mark.parametrize("kind", ["store", "sgd", "adam"])
def test_vector_update(dtype, rng, kind):
    rows = microkernels.tile(dtype).rows
    held, gradient = list(rng.normal(size=(3, rows)).astype(dtype)), rng.normal(size=rows).astype(dtype)
    held[2] **= 2
    numbers = rng.uniform(0.1, 0.9, microkernels.NUMBERS).astype(dtype)
    numbers[microkernels.SHRINK], numbers[microkernels.PENALTY] = 1, 0
    expected = updated(kind, numbers.astype(float), *(x.astype(float) for x in held), gradient.astype(float))
    update_vector(microkernels.vector_kernel(kind, dtype), *held, gradient, numbers)
    for got, values in zip(held, expected, strict=True):
        np.testing.assert_allclose(got, values, rtol=tolerance(dtype, 4), atol=tolerance(dtype, 4))


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


@pytest.mark.skipif(config.DISABLE_JIT, reason="tests compiled code")
@pytest.mark.skipif(config.CPU_NAME is not None, reason="runs inside such a test")
@pytest.mark.skipif(target().instruction_set not in ("avx2", "avx512"), reason="needs a processor with AVX2")
@pytest.mark.parametrize("name", ["haswell", "x86-64"])
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
