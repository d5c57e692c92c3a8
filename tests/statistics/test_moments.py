"""Moments against NumPy, exact arithmetic, and themselves."""

import itertools
import json
import math
import pathlib
import pickle
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse
import scipy.stats

import nbnorm
from nbnorm import Moments, moments

NIST = sorted((pathlib.Path(scipy.stats.__file__).parent / "tests/data/nist_anova").glob("*.dat"))


def normal(shape, dtype=np.float64, seed=0, mean=0.0):
    return (np.random.default_rng(seed).standard_normal(shape) + mean).astype(dtype)


def exact_variance(values, ddof=0):
    exact = [Fraction(float(v)) for v in values]
    mean = sum(exact) / len(exact)
    return sum((v - mean) ** 2 for v in exact) / (len(exact) - ddof)


def relative(got, expected):
    return abs(float((Fraction(float(got)) - expected) / expected))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "shape", [(1, 1), (2, 3), (7, 1), (300, 10), (5000, 3), (40, 17), (600, 100), (20, 1100)]
)
def test_moments_are_numpys(dtype, shape):
    x = normal(shape, dtype)
    got = moments(x)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(got.mean, wide.mean(axis=0), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(got.var(), wide.var(axis=0), rtol=1e-12)
    np.testing.assert_array_equal(got.min, wide.min(axis=0))
    np.testing.assert_array_equal(got.max, wide.max(axis=0))
    assert got.count == shape[0]
    assert got.n_features == shape[1]


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int16, np.int64, np.uint32, np.float16, ">f4"])
def test_other_types_are_read_without_rounding(dtype):
    x = np.random.default_rng(0).integers(0, 2 if dtype is np.bool_ else 100, (70, 5)).astype(dtype)
    got = moments(x)
    np.testing.assert_allclose(got.mean, x.astype(np.float64).mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(got.var(), x.astype(np.float64).var(axis=0), rtol=1e-13)


LAYOUTS = {
    "fortran": np.asfortranarray,
    "every second row": lambda x: np.repeat(x, 2, axis=0)[::2],
    "columns": lambda x: np.hstack([x, x])[:, : x.shape[1]],
    "backwards": lambda x: x[::-1].copy()[::-1],
    "unaligned": lambda x: np.frombuffer(b"\0" + x.tobytes(), x.dtype, offset=1).reshape(x.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_layouts_agree(layout):
    x = normal((20_000, 3))
    view = LAYOUTS[layout](x)
    view.flags.writeable = False
    np.testing.assert_array_equal(view, x)
    np.testing.assert_allclose(moments(view).var(), moments(x).var(), rtol=1e-14)
    np.testing.assert_allclose(moments(view[:50]).var(), moments(x[:50]).var(), rtol=1e-14)


def test_ddof():
    x = normal((9, 2))
    np.testing.assert_allclose(moments(x).var(ddof=1), x.var(axis=0, ddof=1), rtol=1e-13)
    np.testing.assert_allclose(moments(x).std(ddof=2.5), np.sqrt(9 * x.var(axis=0) / 6.5), rtol=1e-13)
    assert np.isnan(moments(x[:1]).var(ddof=1)).all()


# ---------------------------------------------------------------------------------------- accuracy


@pytest.mark.parametrize("path", NIST, ids=lambda path: path.stem)
def test_nist_at_once_and_merged(path):
    lines = [line.split() for line in path.read_text().splitlines()[60:] if line.strip()]
    values = np.array([[float(value)] for _, value in lines])
    groups = np.array([group for group, _ in lines])
    exact = exact_variance(values[:, 0], ddof=1)
    at_once = moments(values)
    merged = Moments()
    for group in np.unique(groups):
        merged += moments(values[groups == group])
    assert relative(at_once.var(1)[0], exact) < 1e-13
    assert relative(merged.var(1)[0], exact) < 1e-13


def test_variance_with_mean_a_million_times_the_deviation():
    x = normal((5000, 2), mean=1e6)
    for got, column in zip(moments(x).var(), x.T, strict=True):
        assert relative(got, exact_variance(column)) < 1e-12


@pytest.mark.parametrize("mean", [1e3, 1e7])
def test_float32_adds_no_error_of_its_own(mean):
    x = normal((3000, 2), np.float32, mean=mean)
    for got, column in zip(moments(x).var(), x.T, strict=True):
        assert relative(got, exact_variance(column)) < 1e-13


def test_outlier_in_front_costs_nothing():
    x = normal((4096, 1))
    x[:8] = 1e9
    assert relative(moments(x).var()[0], exact_variance(x[:, 0])) < 1e-12


@pytest.mark.parametrize(("dtype", "scale"), [(np.float32, 1e30), (np.float64, 1e150), (np.float64, 1e-150)])
def test_no_overflow(dtype, scale):
    x = normal((400, 2))
    got = moments((x * scale).astype(dtype))
    np.testing.assert_allclose(got.std() / scale, x.std(axis=0), rtol=1e-6)
    np.testing.assert_allclose(got.mean / scale, x.mean(axis=0), rtol=1e-5)


def test_constants_have_no_variance():
    got = moments(np.full((10_000, 3), 0.1)) + moments(np.full((3, 3), 0.1))
    np.testing.assert_array_equal(got.var(), 0.0)
    np.testing.assert_array_equal(got.mean, 0.1)


# ------------------------------------------------------------------------------- merge and downdate


def parts(count=6, mean=1e6):
    return [moments(normal((50 + 90 * i, 3), seed=i, mean=mean * (i % 2))) for i in range(count)]


def same(a, b, rtol):
    np.testing.assert_array_equal(a.counts, b.counts)
    np.testing.assert_allclose(a.mean, b.mean, rtol=rtol)
    np.testing.assert_allclose(a.var(), b.var(), rtol=rtol)
    np.testing.assert_array_equal(a.min, b.min)
    np.testing.assert_array_equal(a.max, b.max)


def test_merge_in_any_order_and_grouping():
    given = parts()
    expected = sum(given, Moments())
    for order in itertools.islice(itertools.permutations(given), 0, 720, 97):
        same(sum(order[1:], order[0]), expected, 1e-14)
        same((order[0] + order[1] + order[2]) + ((order[3] + order[4]) + order[5]), expected, 1e-14)


def test_merge_is_reading_at_once():
    x = normal((3000, 4), mean=100)
    got = sum((moments(x[i : i + 7]) for i in range(0, 3000, 7)), Moments())
    same(got, moments(x), 1e-14)


def test_merge_leaves_the_other_and_takes_nothing_from_empty():
    a, b = parts(2)
    before = b.to_dict()
    assert a.merge(b) is a
    assert b.to_dict() == before
    same(Moments() + b + Moments(), b, 0)


def test_downdate_undoes_merge():
    a, b = parts(2, mean=3.0)
    got = (a + b).downdate(b)
    np.testing.assert_array_equal(got.counts, a.counts)
    np.testing.assert_allclose(got.mean, a.mean, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(got.var(), a.var(), rtol=1e-10)
    assert (np.isnan(got.min) | (got.min == a.min)).all()


def test_downdate_says_when_it_cannot():
    small, large = moments(normal((100, 1), mean=0)), moments(1e9 * normal((100, 1), seed=1))
    both = small + large
    before = both.to_dict()
    with pytest.raises(ValueError, match="cannot be taken away accurately"):
        both.downdate(large)
    with pytest.raises(ValueError, match="counts 200"):
        moments(normal((100, 1))).downdate(both)
    assert both.to_dict() == before


def test_downdate_by_everything_is_empty():
    a = moments(normal((10, 2)))
    got = a - a
    assert got.count == 0
    assert np.isnan(got.mean).all()
    same(got + a, a, 0)


def exact(values, weights=None):
    """Count, mean and variance in rational arithmetic."""
    values = [Fraction(float(v)) for v in values]
    weights = [Fraction(1)] * len(values) if weights is None else [Fraction(float(w)) for w in weights]
    count = sum(weights)
    mean = sum(w * v for w, v in zip(weights, values, strict=True)) / count
    return count, mean, sum(w * (v - mean) ** 2 for w, v in zip(weights, values, strict=True)) / count


def ten_digits(got, count, mean, var):
    """Whether count, mean and variance are right to 1e-10, the mean beside the deviation."""
    assert relative(got.counts[0], count) < 1e-10
    size = max(abs(float(mean)), math.sqrt(var))
    assert abs(float(Fraction(float(got.mean[0])) - mean)) <= 1e-10 * size
    assert (got.var()[0] == 0) if var == 0 else relative(got.var()[0], var) < 1e-10


def refusal(call, *args):
    """What a call says against its arguments, or None."""
    try:
        call(*args)
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_downdate_gives_ten_digits_or_refuses(dtype, weighted):
    rng = np.random.default_rng(7)
    given = refused = 0
    for _ in range(60):
        sizes = rng.integers(1, 50, rng.integers(2, 7))
        parts = [
            (rng.standard_normal((n, 1)) * 10.0 ** rng.integers(-3, 6) + rng.choice([0, 1e3, -1e7])).astype(
                dtype
            )
            for n in sizes
        ]
        weights = [rng.random(n) + 0.01 if weighted else None for n in sizes]
        left = moments(np.vstack(parts), weights=np.concatenate(weights) if weighted else None)
        for i in range(len(parts) - 1):
            before = left.to_dict()
            message = refusal(left.downdate, moments(parts[i], weights=weights[i]))
            if message is not None:
                assert "ten digits are not sure to be right; gather the remaining data anew" in message
                assert left.to_dict() == before
                refused += 1
                break
            rest = np.concatenate(weights[i + 1 :]) if weighted else None
            ten_digits(left, *exact(np.vstack(parts[i + 1 :])[:, 0], rest))
            given += 1
    assert given > 50
    assert refused > 10


def test_downdate_counts_the_digits_that_are_lost_step_by_step():
    rng = np.random.default_rng(0)
    parts = [rng.normal(0, 10.0**s, (100, 1)) for s in (8, 7, 6, 5, 4, 3, 2)]
    left = moments(np.vstack(parts))
    messages = []
    for k in range(6):  # each takes 99 % of what is there
        messages.append(refusal(left.downdate, moments(parts[k])))
        if messages[-1] is not None:
            break
        ten_digits(left, *exact(np.vstack(parts[k + 1 :])[:, 0]))
    assert messages[0] is None
    assert "cannot be taken away accurately" in messages[-1]


@pytest.mark.parametrize(("rows", "window", "steps"), [(1, 40, 3000), (30, 8, 600)])
def test_sliding_windows(rows, window, steps):
    x = normal((rows * (window + steps), 1), mean=3.0)
    got = moments(x[: rows * window])
    for i in range(steps):
        got.update(x[rows * (window + i) : rows * (window + i + 1)])
        got.downdate(moments(x[rows * i : rows * (i + 1)]))
    ten_digits(got, *exact(x[rows * steps :, 0]))


def test_what_was_lost_is_remembered():
    rng = np.random.default_rng(0)
    large, middle, small = (rng.normal(0, scale, (100, 1)) for scale in (30.0, 1.0, 0.1))
    left = moments(np.vstack([large, middle, small])).downdate(moments(large))
    fresh = moments(np.vstack([middle, small]))
    assert fresh.copy().downdate(moments(middle)).count == 100
    empty = Moments().merge(left)
    copies = [
        left,
        left.copy(),
        empty,
        pickle.loads(pickle.dumps(left)),
        left + moments(middle) - moments(middle),
    ]
    copies += [Moments.from_dict(json.loads(json.dumps(left.to_dict())))]
    for one in copies:
        with pytest.raises(ValueError, match="cannot be taken away accurately"):
            one.downdate(moments(middle))


def test_statistics_without_bounds_are_taken_for_the_worst():
    a, b = moments(normal((300, 2), mean=4)), moments(normal((20, 2), seed=1))
    old = {name: value for name, value in (a + b).to_dict().items() if not name.endswith("_error")}
    got = Moments.from_dict(old)
    same(got, a + b, 0)
    same_but_extremes = got - b
    np.testing.assert_allclose(same_but_extremes.var(), a.var(), rtol=1e-10)
    with pytest.raises(ValueError, match="ten digits"):
        got.downdate(a)
    with pytest.raises(ValueError, match="bounds of errors that are not negative"):
        Moments.from_dict({**a.to_dict(), "m2_error": [-1.0, 0.0]})


def test_downdate_to_one_row_and_constants():
    x = np.array([[1.0, 5.0], [2.5, 5.0], [7.0, 5.0]])
    got = moments(x) - moments(x[:2])
    np.testing.assert_allclose(got.mean, [7.0, 5.0], rtol=1e-10)
    np.testing.assert_array_equal(got.var(), 0.0)
    weights = [0.5, 1.0, 0.5]
    with pytest.raises(ValueError, match="ten digits"):  # that one row remains cannot be known
        moments(x, weights=weights).downdate(moments(x[:2], weights=weights[:2]))


def test_extremes_after_a_downdate():
    x = np.array([[1.0], [2.0], [5.0]])
    got = moments(x) - moments(x[:1])
    assert math.isnan(got.min[0])
    assert got.max[0] == 5.0
    got = moments(x) - moments(x[2:])
    assert got.min[0] == 1.0
    assert math.isnan(got.max[0])
    got = moments(x) - moments(x[1:2])
    assert (got.min[0], got.max[0]) == (1.0, 5.0)
    tied = moments(np.vstack([x, x])) - moments(x)  # there is another 1, but who knows
    assert math.isnan(tied.min[0])
    assert math.isnan((tied + moments(x)).min[0])  # unknown stays unknown
    assert (moments(x) - moments(x) + moments(x)).max[0] == 5.0


@pytest.mark.parametrize("other", [[[0.5], [2.0]], [[2.0], [5.5]]])
def test_what_lies_outside_is_no_part(other):
    left = moments([[1.0], [2.0], [5.0]])
    with pytest.raises(ValueError, match=r"part must be a part of these data: it has a (min|max)imum of"):
        left.downdate(moments(other))


def test_joined_moments_keep_their_low_words():
    x = np.round(normal((60, 1)), 2) + 1e12
    got = sum((moments(row) for row in np.split(x, 60)), Moments())
    mean = exact(x[:, 0])[1]
    error = Fraction(float(got.mean[0])) + Fraction(float(got.mean_low[0])) - mean
    assert abs(float(error)) < 1e-18  # beside an ulp of 1e-4
    assert got.mean_low[0] != 0.0
    # Parts that a single double would not feel: each adds less than half an ulp of the sum of squares.
    large, small = moments([[-1e9], [1e9]]), moments([[-8.0], [8.0]])
    for _ in range(4000):
        large.merge(small)
    assert large.var()[0] * large.count - 2e18 == pytest.approx(4000 * 128, rel=1e-3)
    for _ in range(4000):
        large.downdate(small)
    assert large.var()[0] == 1e18


# ------------------------------------------------------------------------------- columns with names


def frames():
    pandas = pytest.importorskip("pandas")
    return pandas, pandas.DataFrame({"a": [0.0, 4.0, 1.0], "b": [1.0, 3.0, 8.0]})


def test_columns_are_taken_by_name():
    _, frame = frames()
    turned = frame[["b", "a"]]
    expected = moments(frame)
    assert expected.feature_names == ["a", "b"]
    same(moments(frame).update(turned), expected + expected, 1e-15)
    same(moments(frame) + moments(turned), expected + expected, 1e-15)
    got = (moments(frame) + moments(turned)).downdate(moments(turned))
    np.testing.assert_allclose(got.var(), expected.var(), rtol=1e-10)
    assert got.feature_names == ["a", "b"]
    same(
        moments(frame.to_numpy()).update(frame), expected + expected, 1e-15
    )  # by position, and named from then on


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["a", "c"],
            r"must have the features \['a', 'b'\], got \['a', 'c'\]: \['b'\] missing and \['c'\] not known",
        ),
        (["a", "b", "c"], r"\['c'\] not known"),
        (["a"], r"\['b'\] missing"),
        (["a", "a"], r"must have distinct names of columns, got 'a' 2 times"),
    ],
)
def test_other_columns_are_refused(names, message):
    pandas, frame = frames()
    other = pandas.DataFrame(np.ones((2, len(names))), columns=names)
    got = moments(frame)
    before = got.to_dict()
    with pytest.raises(ValueError, match=message):
        got.update(other)
    if len(set(names)) == len(names):
        for call in (got.merge, got.downdate):
            with pytest.raises(ValueError, match=message):
                call(moments(other))
    assert got.to_dict() == before


def test_labels_that_number_the_columns_are_places():
    pandas, frame = frames()
    numbered = pandas.DataFrame(frame.to_numpy())
    assert moments(numbered).feature_names is None
    same(moments(numbered[[1, 0]]), moments(numbered), 0)


# -------------------------------------------------------------------------------- beyond the range


@pytest.mark.parametrize(
    "call",
    [
        lambda x: moments(x),
        lambda x: moments(x, nan="omit"),
        lambda x: moments(x, weights=[1.0, 2.5]),
        lambda x: moments(np.asfortranarray(x)),
        lambda x: moments(scipy.sparse.csr_array(x)),
        lambda x: moments(scipy.sparse.csc_array(x), weights=[1, 2]),
        lambda x: moments(x[:1]) + moments(x[1:]),
        lambda x: moments(x[:1]).update(x[1:]),
    ],
)
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1e200, 3e200], "variance is finite.* but that of column 1 is not"),
        ([1.7e308, -1.7e308], "variance is finite.* but that of column 1 is not"),
        ([1e-200, 3e-200], "variance is at least 1e-305.* but that of column 1 is not"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")  # of plain Python
def test_variances_beyond_float64_are_refused(call, values, message):
    x = np.array([[1.0, values[0]], [2.0, values[1]]])
    with pytest.raises(ValueError, match=message):
        call(x)


def test_what_is_nearly_out_of_range_is_right():
    for scale in (1e150, 1e-150):
        x = normal((50, 1)) * scale
        for got, column in zip(moments(x).var(), x.T, strict=True):
            assert relative(got, exact_variance(column)) < 1e-13
    for value in (1e150, 1e-200, 0.0):
        np.testing.assert_array_equal(moments(np.full((9, 2), value)).var(), 0.0)


# ------------------------------------------------------------------------------ weights and missing


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_integer_weights_are_repeated_rows(dtype):
    x = normal((700, 20), dtype, mean=50)
    weights = np.random.default_rng(1).integers(0, 4, 700)
    same(moments(x, weights=weights), moments(np.repeat(x, weights, axis=0)), 1e-13)


def test_real_weights():
    x, weights = normal((300, 2)), np.random.default_rng(1).random(300)
    got = moments(x, weights=weights)
    mean = np.average(x, axis=0, weights=weights)
    np.testing.assert_allclose(got.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(got.var(), np.average((x - mean) ** 2, axis=0, weights=weights), rtol=1e-12)
    assert got.count == pytest.approx(weights.sum(), rel=1e-14)


def test_rows_of_weight_zero_do_not_exist():
    x = normal((20, 2))
    x[3], x[4] = np.nan, np.inf
    weights = np.ones(20)
    weights[3:5] = 0
    same(moments(x, weights=weights), moments(np.delete(x, [3, 4], axis=0)), 1e-13)


def test_omit_counts_what_is_there():
    x = normal((500, 18), np.float32, mean=9)
    x[np.random.default_rng(1).random(x.shape) < 0.2] = np.nan
    got = moments(x, nan="omit")
    wide = x.astype(np.float64)  # nanvar takes differences in the type of the data
    np.testing.assert_array_equal(got.count, (~np.isnan(x)).sum(axis=0))
    np.testing.assert_allclose(got.mean, np.nanmean(wide, axis=0), rtol=1e-13)
    np.testing.assert_allclose(got.var(), np.nanvar(wide, axis=0), rtol=1e-12)
    np.testing.assert_array_equal(got.min, np.nanmin(x, axis=0))


def test_omit_with_a_feature_that_is_missing():
    got = moments([[np.nan, 1.0], [np.nan, 3.0]], nan="omit")
    np.testing.assert_array_equal(got.count, [0, 2])
    np.testing.assert_array_equal(got.mean, [np.nan, 2.0])
    np.testing.assert_array_equal(got.max, [np.nan, 3.0])


def test_propagate_and_raise():
    x = normal((40, 3))
    x[17, 1] = np.nan
    got = moments(x)
    np.testing.assert_array_equal(np.isnan(got.mean), [False, True, False])
    np.testing.assert_array_equal(np.isnan(got.var()), [False, True, False])
    kept = Moments(nan="raise").update(x[:10])
    with pytest.raises(ValueError, match=r"x must not hold NaN .* \[7, 1\]"):
        kept.update(x[10:])
    assert kept.count == 10


@pytest.mark.filterwarnings("ignore:invalid value")  # of plain Python, without compiled code
def test_infinity_is_a_value():
    got = moments([[1.0, 2.0], [np.inf, 3.0], [5.0, 4.0]])
    np.testing.assert_array_equal(got.mean, [np.inf, 3.0])
    assert np.isnan(got.var()[0])
    assert got.max[0] == np.inf
    assert (got + got).mean[0] == np.inf
    x = np.ones((900, 1))
    x[::100] = -np.inf
    assert moments(x).mean[0] == -np.inf
    x[50] = np.inf
    assert np.isnan(moments(x).mean[0])


# ------------------------------------------------------------------------------------------- others


def test_same_bits_for_any_number_of_threads():
    x = normal((30_000, 33), np.float32)
    weights = np.random.default_rng(1).random(len(x))
    got = []
    for threads in (1, min(2, nbnorm.get_num_threads())):
        nbnorm.set_num_threads(threads)
        got.append((moments(x).to_dict(), moments(x, weights=weights).to_dict()))
    nbnorm.set_num_threads(None)
    assert got[0] == got[1]


def test_round_trips_keep_every_bit():
    a = moments(normal((30, 2), mean=1e9))
    a.feature_names = ["height", "age"]
    b = Moments.from_dict(json.loads(json.dumps(a.to_dict(), allow_nan=False)))
    assert b.to_dict() == a.to_dict() == pickle.loads(pickle.dumps(a)).to_dict()
    same(a + b, b + a, 0)


def test_extremes_can_be_left_out():
    got = moments(normal((10, 2)), extremes=False)
    assert np.isnan(got.min).all()
    assert np.isnan((got + moments(normal((10, 2)))).max).all()


def test_update_joins_chunks():
    x = normal((1000, 5), np.float32)
    got = Moments()
    for start in range(0, 1000, 130):
        assert got.update(x[start : start + 130]) is got
    same(got, moments(x), 1e-14)


BAD = [
    (lambda: moments(np.ones(3)), ValueError, r"x must have shape \(n_samples, n_features\)"),
    (lambda: moments(np.ones((0, 3))), ValueError, "x must not be empty"),
    (lambda: moments([["a"]]), TypeError, "x must hold real numbers"),
    (lambda: moments([[1j]]), TypeError, "x must hold real numbers"),
    (lambda: moments([[1.0]], weights=[-1.0]), ValueError, r"not negative, got -1 at \[0\]"),
    (lambda: moments([[1.0]], weights=[np.nan]), ValueError, "weights must be finite"),
    (lambda: moments([[1.0]], weights=[1.0, 2.0]), ValueError, r"weights must have shape \(1,\)"),
    (lambda: moments([[1.0]], nan="drop"), ValueError, "nan must be one of 'propagate'"),
    (lambda: moments([[1.0]]).var(ddof=-1), ValueError, "ddof must be"),
    (lambda: moments([[1.0]]).merge(moments([[1.0, 2.0]])), ValueError, "other must have 1 features"),
    (lambda: moments([[1.0]]).merge(3), TypeError, "other must be a Moments"),
    (lambda: Moments().mean, ValueError, "no moments yet"),
    (lambda: moments([[1.0]]).update([[1.0, 2.0]]), ValueError, "x must have 1 features"),
    (
        lambda: Moments.from_dict({**moments([[1.0]]).to_dict(), "m2": [1, 2]}),
        ValueError,
        "list of 1 numbers as 'm2'",
    ),
    (lambda: Moments.from_dict({**moments([[1.0]]).to_dict(), "m2": ["x"]}), ValueError, "numbers as 'm2'"),
    (lambda: Moments.from_dict({**moments([[1.0]]).to_dict(), "count": [-1]}), ValueError, "not negative"),
    (
        lambda: Moments.from_dict({**moments([[1.0]]).to_dict(), "m2": [10**400]}),
        ValueError,
        "numbers as 'm2'",
    ),
    # as little as a broken file says; nothing of that size may be allocated
    (
        lambda: Moments.from_dict({"format": "nbnorm moments 1", "n_features": 10**15}),
        ValueError,
        "list of 1000000000000000 numbers as 'count'",
    ),
    (
        lambda: moments(np.ma.array([[1.0, 2.0], [3.0, 1e9]], mask=[[0, 0], [0, 1]]), nan="omit"),
        ValueError,
        r"x must not have masked elements, got 1: .* by \.astype\(float\)\.filled\(np\.nan\)",
    ),
]


def test_a_masked_array_without_masked_elements_is_an_array():
    x = normal((20, 3))
    same(moments(np.ma.array(x)), moments(x), 0)


def test_what_the_error_says_about_masked_arrays():
    x = np.ma.array([[1, 2], [3, 10**9], [5, 6]], mask=[[0, 0], [0, 1], [0, 0]])
    got = moments(x.astype(float).filled(np.nan), nan="omit")
    np.testing.assert_array_equal(got.mean, [3, 4])
    np.testing.assert_array_equal(got.counts, [3, 2])


def test_nullable_columns_of_pandas():
    pandas = pytest.importorskip("pandas")
    columns = {
        "a": pandas.array([1.5, None, 3.0], dtype="Float64"),
        "b": pandas.array([1, 2, 6], dtype="Int64"),
    }
    frame = pandas.DataFrame(columns)
    np.testing.assert_array_equal(moments(frame, nan="omit").mean, [2.25, 3])
    np.testing.assert_array_equal(moments(frame, nan="omit").counts, [2, 3])
    np.testing.assert_array_equal(moments(frame).mean, [np.nan, 3])
    with pytest.raises(TypeError, match="x must hold real numbers, got dtype object"):
        moments(pandas.DataFrame({"a": ["1", "2"], "b": [1, 2]}))


@pytest.mark.parametrize(("call", "kind", "message"), BAD)
def test_bad_input(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def test_features_with_other_names_do_not_merge():
    a, b = moments([[1.0]]), moments([[2.0]])
    a.feature_names, b.feature_names = ["height"], ["age"]
    with pytest.raises(ValueError, match="height"):
        a.merge(b)
    assert a.mean[0] == 1.0


def test_little_extra_memory():
    arrays = [
        np.ones((200_000, 30)),
        np.ones((200_000, 30), np.uint8),
        np.ones((30, 200_000)).T,
        np.ones((200_000, 60))[:, ::2],
        np.ones((60, 100_000), np.float32),
    ]
    for x in arrays:
        moments(x[:64])
        tracemalloc.start()
        moments(x)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 16 << 20, (x.shape, x.dtype, peak)
    assert math.isfinite(peak)
