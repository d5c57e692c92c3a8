from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numba import config

from nbnorm import matmul
from nbnorm.matmul import multiply
from nbnorm.simd import tile

SHAPES = [
    (1, 1, 1),
    (1, 7, 1),
    (5, 1, 3),
    (3, 2, 5),
    (7, 9, 8),
    (8, 8, 8),
    (16, 4, 17),
    (33, 5, 15),
    (2, 40, 35),
]
# those of one column or three are computed transposed, on most processors
LARGE = [
    (31, 255, 65),
    (64, 256, 33),
    (65, 257, 64),
    (129, 600, 100),
    (1, 513, 70),
    (70, 513, 1),
    (60, 1030, 100),
    (300, 300, 300),
    (200, 1100, 40),
    (100, 30, 34),
    (70, 90, 3),
]


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def dtype(request):
    return request.param


def layouts(x):
    """The same matrix with other strides."""
    spread = np.full((3 * x.shape[0], 2 * x.shape[1]), np.nan, x.dtype)
    spread[::3, ::2] = x
    wide = np.full((x.shape[0], x.shape[1] + 3), np.nan, x.dtype)
    wide[:, 2:-1] = x
    record = np.zeros(x.shape[0], [("x", x.dtype, (x.shape[1],)), ("tail", "u1")])
    record["x"] = x
    frozen = x.copy()
    frozen.flags.writeable = False
    return {
        "C": x,
        "Fortran": np.asfortranarray(x),
        "strided": spread[::3, ::2],
        "part of wider rows": wide[:, 2:-1],
        "reversed": x[::-1, ::-1].copy()[::-1, ::-1],
        "read-only": frozen,
        "field of records": record["x"],
    }


def assert_product(got, a, b):
    a, b = a.astype(np.longdouble), b.astype(np.longdouble)
    bound = (a.shape[1] + 2) * np.finfo(got.dtype).eps * (np.abs(a) @ np.abs(b))
    assert (np.abs(got - a @ b) <= bound).all()


@pytest.mark.parametrize("shape", SHAPES + ([] if config.DISABLE_JIT else LARGE), ids=str)
def test_multiply(shape, dtype):
    m, k, n = shape
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(m, k)).astype(dtype), rng.normal(size=(k, n)).astype(dtype)
    out = np.full((m, n), np.nan, dtype)
    multiply(a, b, out)
    assert_product(out, a, b)


# one operand of each large product is packed in every layout, also in Fortran order
@pytest.mark.parametrize(
    "shape", [(35, 9, 33)] + ([] if config.DISABLE_JIT else [(403, 600, 37), (37, 600, 403)]), ids=str
)
def test_multiply_any_strides(shape, dtype):
    m, k, n = shape
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(m, k)).astype(dtype), rng.normal(size=(k, n)).astype(dtype)
    expected = np.empty((len(a), b.shape[1]), dtype)
    multiply(a, b, expected)
    assert_product(expected, a, b)
    for layout in layouts(a):
        got = np.full_like(expected, np.nan)
        multiply(layouts(a)[layout], layouts(b)[layout], got)
        np.testing.assert_array_equal(got, expected, err_msg=layout)


def test_multiply_identity_transpose_and_special_values(dtype):
    x = np.random.default_rng(0).normal(size=(20, 20)).astype(dtype)
    out = np.empty_like(x)
    multiply(np.eye(20, dtype=dtype), x.T, out)
    np.testing.assert_array_equal(out, x.T)
    x[3, 5] = np.inf
    multiply(x, np.ones((20, 20), dtype), out)
    assert np.isinf(out[3]).all()
    assert np.isfinite(np.delete(out, 3, axis=0)).all()


@pytest.mark.parametrize(("m", "k", "n"), [(0, 3, 2), (2, 3, 0), (2, 0, 3)])
def test_multiply_empty(m, k, n, dtype):
    out = np.full((m, n), np.nan, dtype)
    multiply(np.ones((m, k), dtype), np.ones((k, n), dtype), out)
    np.testing.assert_array_equal(out, np.zeros((m, n)))


# more shapes than plans are kept, so that they take each other's places
def test_multiply_many_shapes_from_threads(dtype):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(3, 400)).astype(dtype), rng.normal(size=(400, 5)).astype(dtype)

    def products(depths):
        found = []
        for k in depths:
            found.append(np.full((3, 5), np.nan, dtype))
            multiply(a[:, :k], b[:k], found[-1])
        return found

    depths = range(1, 401)
    with ThreadPoolExecutor(
        1 if config.DISABLE_JIT else 4
    ) as pool:  # interpreted kernels do not keep the GIL
        runs = list(pool.map(products, [depths, depths[::-1], depths, depths[::-1]]))
    for k, *found in zip(depths, runs[0], runs[1][::-1], runs[2], runs[3][::-1], strict=True):
        assert_product(found[0], a[:, :k], b[:k])
        for other in found[1:]:
            np.testing.assert_array_equal(other, found[0])


def test_multiply_refuses_what_does_not_fit(dtype):
    def arrays():
        return [np.ones(shape, dtype) for shape in ((3, 4), (4, 5), (3, 5))]

    for k in range(3):
        for change in (lambda x: x[None], lambda x: x[0], lambda x: x[:-1]):
            wrong = arrays()
            wrong[k] = change(wrong[k])
            with pytest.raises(ValueError, match="C-contiguous array of shape"):
                multiply(*wrong)
    a, b, out = arrays()
    room = np.full((3, 10), 7, dtype)
    frozen = out.copy()
    frozen.flags.writeable = False
    for wrong_out in (room[:, :5], room[:, ::2], np.asfortranarray(out), frozen):
        before = wrong_out.copy()
        with pytest.raises(ValueError, match="writeable C-contiguous"):
            multiply(a, b, wrong_out)
        np.testing.assert_array_equal(wrong_out, before)
    assert (room == 7).all()
    for kind in ("int64", "complex128", "float16"):
        with pytest.raises(TypeError, match="float32 or float64"):
            multiply(a, b, out.astype(kind))


def test_multiply_nothing_by_nothing(dtype):
    nothing = np.broadcast_to(dtype(1), (0, 0))  # strides of 0 as well
    multiply(nothing, nothing, np.empty((0, 0), dtype))


def test_multiply_foreign_byte_order_and_unaligned(dtype):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(19, 33)).astype(dtype), rng.normal(size=(33, 21)).astype(dtype)
    expected, got = np.empty((19, 21), dtype), np.empty((19, 21), dtype)
    multiply(a, b, expected)
    multiply(a.astype(a.dtype.newbyteorder()), b.astype(b.dtype.newbyteorder()), got)
    np.testing.assert_array_equal(got, expected)
    for order in "CF":
        moved = []
        for x in (a, b):
            raw = np.zeros(x.nbytes + 1, np.uint8)
            moved.append(raw[1:].view(dtype).reshape(x.shape, order=order))
            moved[-1][...] = x
            assert not moved[-1].flags.aligned
        multiply(*moved, got)
        np.testing.assert_array_equal(got, expected)


# shape, memory order of the operands, whether each of them is packed
PLANS = {
    "neither": ((61, 530, 61), "C", "C", (False, False)),
    "left": ((403, 530, 61), "C", "C", (True, False)),
    "right": ((61, 530, 61), "C", "F", (False, True)),
    "both": ((403, 530, 61), "F", "F", (True, True)),
    "swapped": ((2003, 530, 3), "C", "C", (False, True)),
}


@pytest.mark.skipif(config.DISABLE_JIT, reason="tests compiled code")
@pytest.mark.parametrize("name", PLANS)
def test_multiply_gives_the_same_bits_in_parallel(name, dtype, monkeypatch):
    (m, k, n), first, second, packed = PLANS[name]
    swapped = name == "swapped"
    if swapped and tile(dtype).lanes <= 4:
        pytest.skip("vectors so short that no product of three columns is swapped")
    rng = np.random.default_rng(0)
    a = rng.normal(size=(m, k)).astype(dtype, order=first)
    b = rng.normal(size=(k, n)).astype(dtype, order=second)
    twins, results = matmul._product, []
    # both twins whatever the threading layer and the processor are
    for twin in (twins.serial, twins.parallel):

        def run(work, plan, *args, twin=twin):
            assert (plan[matmul.LEFT_PACKED], plan[matmul.RIGHT_PACKED]) == packed
            assert (plan[matmul.SWAPPED] == 1) == swapped
            twin(plan, *args)

        monkeypatch.setattr(matmul, "_product", run)
        results.append(np.full((m, n), np.nan, dtype))
        multiply(a, b, results[-1])
    assert_product(results[0], a, b)
    np.testing.assert_array_equal(*results)
