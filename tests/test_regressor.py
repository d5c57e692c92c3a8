"""FNNRegressor: scikit-learn's own checks, and what they leave out."""

import pytest

pytest.importorskip("sklearn")

from sklearn.utils.estimator_checks import parametrize_with_checks

from nbnorm.estimators import FNNRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@parametrize_with_checks([FNNRegressor()])
def test_scikit_learn_checks(estimator, check):
    check(estimator)
