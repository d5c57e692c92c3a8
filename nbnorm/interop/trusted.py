"""The types of the package that a file of skops with an estimator holds."""

from __future__ import annotations

from nbnorm.data.columns import Column, TableColumns
from nbnorm.functions.loss_options import LOSSES
from nbnorm.functions.optimizers import OPTIMIZERS
from nbnorm.model import schedules
from nbnorm.model.arrays import Arrays
from nbnorm.model.history import History
from nbnorm.model.metrics import Metric
from nbnorm.model.network import FNN
from nbnorm.model.stopping import EarlyStopping
from nbnorm.statistics.encoding import ColumnEncoder
from nbnorm.statistics.moments import Moments
from nbnorm.statistics.standardize import Standardizer

_TYPES = (
    FNN, Arrays, History, EarlyStopping, Metric, ColumnEncoder, Moments, Standardizer,
    Column, TableColumns,
    schedules.Constant, schedules.Cosine, schedules.OneCycle, schedules.Plateau, schedules.StepDecay,
    *LOSSES.values(), *OPTIMIZERS.values(),
)  # fmt: skip


def trusted_types() -> list[str]:
    """Return the types that ``skops.io.load`` has to be told to trust for an estimator of this package.

    All of them hold numbers, text and each other; none of them runs code when it is read.

    Returns
    -------
    list of str
        For ``skops.io.load(path, trusted=trusted_types())``.

    Examples
    --------
    >>> from nbnorm.interop import trusted_types
    >>> "nbnorm.estimators.network.FNNClassifier" in trusted_types()
    True
    """
    estimators = [
        "nbnorm.estimators.network.FNNClassifier",
        "nbnorm.estimators.network.FNNRegressor",
        "nbnorm.estimators.scaler.StandardScaler",
    ]
    return [*estimators, *(f"{kind.__module__}.{kind.__qualname__}" for kind in _TYPES), "numpy.dtype"]
