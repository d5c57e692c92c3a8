import numpy as np
import pytest
from numba import config

from nbnorm.compile.kernels import kernel
from nbnorm.engine import bfloat16, microkernels
from nbnorm.simd import round_to_bfloat16, target

SINGLE = np.dtype(np.float32)


@kernel
def product(address, a, b, out, length, stride, add):
    microkernels.tile_product(address, a, 0, b, 0, out, 0, length, stride, add)


@kernel
def pack(address, x, pairs, other, stride, n):
    bfloat16.pack_panel(address, x, 0, pairs, other, stride, n)


@kernel
def round_tile(address, weight, pairs, other):
    bfloat16.round_tile(address, weight, 0, pairs, other)


def pairs(x, axis):
    """Pairs of neighbours along an axis of rounded numbers, in the memory of float32."""
    bits = round_to_bfloat16(np.ascontiguousarray(np.moveaxis(x, axis, -1))).view(np.uint32)
    both = bits[..., ::2] >> np.uint32(16) | bits[..., 1::2]
    return np.ascontiguousarray(np.moveaxis(both, -1, axis)).view(np.float32)


def naive(total, a, b):
    """``total + a.T @ b`` of rounded numbers, two in each step: products are exact, each sum is rounded."""
    a, b = round_to_bfloat16(a), round_to_bfloat16(b)
    for k in range(0, len(a), 2):
        for at in (k + 1, k):
            total = np.outer(a[at], b[at]) + total
    return total


@pytest.fixture
def tile():
    return microkernels.tile(SINGLE)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("add", [0, 1])
def test_packed_product(tile, rng, add):
    for length in (1, 3, 8, 13):
        left, right = rng.normal(size=(2, 2 * length, tile.width)).astype(SINGLE)
        before = rng.normal(size=(tile.rows, tile.width)).astype(SINGLE)
        out = before.copy()
        product(
            microkernels.micro_kernel("packed", SINGLE, pairs=True), pairs(left, 0).reshape(-1),
            pairs(right, 0).reshape(-1), out.reshape(-1), length, 0, add,
        )  # fmt: skip
        sums = naive(np.zeros_like(before), left[:, : tile.rows], right)
        np.testing.assert_array_equal(out, before + sums if add else sums)


def blocks(a, width, pad):
    """Rows (pad, n) in blocks of `width` columns, the last one filled up with NaN."""
    short = -a.shape[1] % width
    full = np.pad(a, ((0, pad - len(a)), (0, short)), constant_values=np.nan)
    return full.reshape(pad, -1, width).swapaxes(0, 1)


def test_strided_product(tile, rng):
    for n in (2, tile.width, tile.width + 6):
        a = rng.normal(size=(tile.rows, n)).astype(SINGLE)
        b = rng.normal(size=(n, tile.width)).astype(SINGLE)
        flat = pairs(blocks(a, tile.width, 3 * tile.rows), 2).reshape(-1)
        out = np.empty((tile.rows, tile.width), SINGLE)
        product(
            microkernels.micro_kernel("strided", SINGLE, pairs=True), flat, pairs(b, 0).reshape(-1),
            out.reshape(-1), n // 2, 3 * tile.rows * tile.width // 2, 0,
        )  # fmt: skip
        np.testing.assert_array_equal(out, naive(np.zeros_like(out), a.T, b))


def test_pack(tile, rng):
    n, pad = tile.width + 5, 2 * tile.rows
    x = blocks(rng.normal(size=(tile.rows, n)).astype(SINGLE), tile.width, pad)
    known = np.where(np.isnan(x), SINGLE.type(0), x)  # zeros behind the last sample
    for kind in ("features", "gradients"):
        rows = np.full((2, pad // 2, tile.width), np.nan, SINGLE)
        other = np.full((2, pad, tile.width // 2) if kind == "features" else x.shape, np.nan, SINGLE)
        address = bfloat16.pack_kernel(kind)
        memory = np.concatenate([x.reshape(-1), rows.reshape(-1), other.reshape(-1)])
        pack(address, memory, x.size, x.size + rows.size, pad * tile.width, n)
        got = memory[x.size : x.size + rows.size].reshape(rows.shape)[:, : tile.rows // 2]
        np.testing.assert_array_equal(got.view(np.uint32), pairs(known[:, : tile.rows], 1).view(np.uint32))
        got, expected = memory[x.size + rows.size :], pairs(known, 2)[:, : tile.rows]
        if kind == "features":
            got = got.reshape(other.shape)[:, : tile.rows]
        else:  # samples below each other, the rows side by side
            got = got[: tile.width * tile.width].reshape(2, -1, tile.width)[:, :, : tile.rows].swapaxes(1, 2)
        np.testing.assert_array_equal(got.view(np.uint32), expected.view(np.uint32))


def test_round_tile(tile, rng):
    weight = rng.normal(size=(tile.rows, tile.width)).astype(SINGLE)
    memory = np.concatenate([weight.reshape(-1), np.zeros(weight.size, SINGLE)])
    round_tile(bfloat16.round_kernel(), memory, weight.size, weight.size * 3 // 2)
    copies = memory[weight.size :].view(np.uint32)
    expected = [pairs(weight, axis).view(np.uint32).reshape(-1) for axis in (0, 1)]
    np.testing.assert_array_equal(copies, np.concatenate(expected))


ASSEMBLY = """
import numpy as np
from nbnorm.compile import pointers
from nbnorm.engine import microkernels
for kind in ("packed", "strided"):
    microkernels.micro_kernel(kind, np.dtype(np.float32), pairs=True)
for library, _ in pointers.EMITTED.values():
    code = library.get_asm_str()
    print(code.count("vdpbf16ps"), code.count("vfmadd"))
"""


@pytest.mark.skipif(config.DISABLE_JIT, reason="tests compiled code")
@pytest.mark.skipif(target().architecture != "x86_64", reason="needs code of x86-64")
@pytest.mark.parametrize(
    ("name", "features", "native"),
    [
        ("znver4", "", True),
        ("cooperlake", "", True),
        ("znver4", "-avx512bf16", False),
        ("emeraldrapids", "", False),  # slower than multiply-adds
        ("haswell", "", False),
    ],
)
def test_instructions(name, features, native, python, tmp_path):
    # compiled, not run: the processor at hand need not have them
    environment = {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": tmp_path}
    for line in python(ASSEMBLY, **environment).splitlines():
        dots, adds = map(int, line.split())
        assert (dots > 0, adds > 0) == (native, not native)
