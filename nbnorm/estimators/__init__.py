"""Estimators with scikit-learn's interface."""

try:
    from sklearn.utils.validation import validate_data as _present  # noqa: F401
except ImportError:
    raise ImportError('nbnorm.estimators needs scikit-learn 1.6: pip install "nbnorm[sklearn]"') from None

from nbnorm.estimators.network import FNNClassifier, FNNRegressor
from nbnorm.estimators.scaler import StandardScaler

__all__ = ["FNNClassifier", "FNNRegressor", "StandardScaler"]
