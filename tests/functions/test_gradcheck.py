import numpy as np
import pytest

from nbnorm import gradcheck


def test_gradcheck_measures_the_relative_error():
    x = np.array([[1.0, 2.0], [-1.0, 0.5]])
    gradient = np.cos(x)
    assert gradcheck(lambda v: np.sin(v).sum(), x, gradient) < 1e-10
    got = gradcheck(lambda v: np.sin(v).sum(), x, gradient * 1.01)
    assert got == pytest.approx(0.01 / 1.01, rel=1e-6)


def test_a_gradient_of_zeros_has_no_scale():
    assert gradcheck(lambda v: 0.0, np.ones(2), np.zeros(2)) == 0
    assert gradcheck(lambda v: 0.0, np.ones(2), np.ones(2)) == 1


def test_the_lectures_formula_of_the_derivative_is_wrong():
    # d u_w / d y_t with (y_t - mu)**2 where (y_t - mu) (y_w - mu) belongs
    y = np.array([1.0, 2.0, 4.0])
    n, mean, std = 3, y.mean(), y.std()

    def normalized(v):
        return (v[0] - v.mean()) / v.std()

    right = ((np.arange(3) == 0) - 1 / n) / std - (y - mean) * (y[0] - mean) / (n * std**3)
    slip = ((np.arange(3) == 0) - 1 / n) / std - (y - mean) ** 2 / (n * std**3)
    assert gradcheck(normalized, y, right) < 1e-9
    assert gradcheck(normalized, y, slip) > 0.1


@pytest.mark.parametrize(
    ("x", "gradient", "error", "message"),
    [
        (np.ones(2), np.ones(3), ValueError, "gradient must have shape"),
        (np.ones(0), np.ones(0), ValueError, "x must not be empty"),
        (np.array([np.nan]), np.ones(1), ValueError, "x must be finite"),
        (np.ones(1), np.array(["a"]), TypeError, "gradient must hold real numbers"),
    ],
)
def test_gradcheck_refuses(x, gradient, error, message):
    with pytest.raises(error, match=message):
        gradcheck(lambda v: v.sum(), x, gradient)
