import numba
import numpy as np
import pytest
from numba import njit

from nbnorm import simd

SPECIAL = np.array(
    [0.0, -0.0, 1e-45, -1.1754942e-38, 1.1754944e-38, -1.2e-38, np.inf, -np.inf, np.nan, 3.3961776e38,
     -3.4e38, 1.00390625, 1.01171875, -1.00390625, 1.0039063, 65535.0], np.float32
)  # fmt: skip
# NaN of all kinds of payload: the carry of a rounding must not make a number of it
NANS = np.array([0x7F800001, 0x7F80FFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0xFF800001], np.uint32).view(np.float32)


def nearest(x):
    """The nearest bfloat16 of each number as float32: 8 binary digits, ties to even."""
    mantissa, exponent = np.frexp(np.asarray(x, np.float64))
    with np.errstate(over="ignore"):
        got = np.ldexp(np.rint(mantissa * 256) / 256, exponent).astype(np.float32)
    return np.where(abs(x) < np.finfo(np.float32).tiny, np.copysign(np.float32(0), x), got)


def pairs(even, odd):
    """The pairs of the rounded numbers."""
    halves = [nearest(x).astype(np.float32).view(np.uint32) for x in (even, odd)]
    return halves[0] >> np.uint32(16) | halves[1]


@pytest.fixture
def numbers():
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 20000, dtype=np.uint32).view(np.float32)
    ties = (rng.integers(0, 2**16, 2000, dtype=np.uint32) << 16 | 0x8000).view(np.float32)
    x = np.concatenate([SPECIAL, bits, ties, rng.normal(size=4096).astype(np.float32)])
    return x[~np.isnan(x)]


@njit
def rounded(x, out):
    for i in range(0, x.size, 16):
        simd.store(out, i, simd.round_to_bfloat16(simd.load(x, i, 16)))


@njit
def paired(x, y, neighbours, both):
    for i in range(0, x.size, 32):
        a, b = simd.load(x, i, 32), simd.load(y, i, 32)
        simd.store(neighbours, i // 2, simd.bitcast(simd.to_bfloat16(a), np.uint32))
        simd.store(both, i, simd.to_bfloat16_pairs(a, b))


@njit
def dots(total, x, y, out):
    simd.store(out, 0, simd.dot_bfloat16(simd.load(total, 0, 32), simd.load(x, 0, 32), simd.load(y, 0, 32)))
    simd.store(out, 32, simd.dot_bfloat16(simd.load(total, 32, 4), simd.get(x, 32), simd.load(y, 32, 4)))


def test_round_to_bfloat16(numbers):
    x = numbers[: numbers.size // 16 * 16]
    np.testing.assert_array_equal(simd.round_to_bfloat16(x).view(np.uint32), nearest(x).view(np.uint32))
    out = np.empty_like(x)
    rounded(x, out)
    np.testing.assert_array_equal(out.view(np.uint32), nearest(x).view(np.uint32))
    assert np.isnan(simd.round_to_bfloat16(NANS)).all()
    assert float(simd.round_to_bfloat16(np.float32(1.01))) == 1.0078125
    with pytest.raises(TypeError, match="rounded from float32, got float64"):
        simd.round_to_bfloat16(1.0)


def test_pairs(numbers):
    x = np.resize(numbers, 4096)
    y = x[::-1].copy()
    neighbours, both = np.empty(2048, np.uint32), np.empty(4096, np.uint32)
    paired(x, y, neighbours, both)
    np.testing.assert_array_equal(neighbours, pairs(x[::2], x[1::2]))
    np.testing.assert_array_equal(both, pairs(x, y))


def test_dot_bfloat16():
    rng = np.random.default_rng(1)
    total = rng.normal(size=36).astype(np.float32)
    a, b, c, d = (nearest(rng.normal(size=36).astype(np.float32) * scale) for scale in (1, 100, 1e-3, 1e20))
    x, y = pairs(a, b), pairs(c, d)
    out = np.empty(36, np.float32)
    dots(total, x, y, out)
    a[32:], b[32:] = a[32], b[32]  # a number is used in every lane
    expected = a * c + (b * d + total)  # the products are exact
    np.testing.assert_array_equal(out, expected.astype(np.float32))


def test_dot_bfloat16_refuses_other_types():
    one, pair = simd.splat(np.float32(1), 4), simd.splat(np.uint32(1), 4)
    with pytest.raises(TypeError, match="x must be of uint32, got float32"):
        simd.dot_bfloat16(one, one, pair)
    with pytest.raises(TypeError, match="total must be of float32, got uint32"):
        simd.dot_bfloat16(pair, pair, pair)


@pytest.mark.parametrize(
    ("name", "features", "expected"),
    [
        ("znver4", "", True), ("cooperlake", "", True), ("znver4", "-avx512bf16", False),
        ("skylake-avx512", "", False), ("skylake-avx512", "+avx512bf16", True), ("haswell", "", False),
        ("x86-64", "", False), ("sapphirerapids", "", False), ("emeraldrapids", "", False),
    ],
)  # fmt: skip
def test_target_of_bfloat16(name, features, expected, monkeypatch):
    from numba.core.registry import cpu_target

    told = "x86_64-unknown-linux-gnu", name, features
    codegen = cpu_target.target_context.codegen()
    monkeypatch.setattr(type(codegen), "magic_tuple", lambda self: told)
    monkeypatch.setattr(numba.config, "CPU_NAME", name)
    monkeypatch.setattr(numba.config, "CPU_FEATURES", features)
    assert simd.target().bfloat16 == expected


def test_a_name_alone_does_not_bring_the_instructions(monkeypatch):
    # Numba gives LLVM the features of the processor at hand beside the name.
    from numba.core.registry import cpu_target

    told = "x86_64-unknown-linux-gnu", "znver4", "-avx512bf16"
    codegen = cpu_target.target_context.codegen()
    monkeypatch.setattr(type(codegen), "magic_tuple", lambda self: told)
    monkeypatch.setattr(numba.config, "CPU_NAME", "znver4")
    monkeypatch.setattr(numba.config, "CPU_FEATURES", None)
    assert not simd.target().bfloat16
