"""FNNClassifier and FNNRegressor on tables of common sizes: a whole fit, one partial_fit, prediction."""

import numpy as np

from .common import DTYPES, THREADS, labels, normal, use_threads

# Samples and features of a table.
SIZES = ((150, 10), (1_500, 64), (20_000, 100))


class Estimator:
    params = (("FNNClassifier", "FNNRegressor"), SIZES, DTYPES, THREADS)
    param_names = ("estimator", "table", "dtype", "threads")
    timeout = 600

    def setup(self, name, table, dtype, threads):
        use_threads(threads)
        try:
            from nbnorm import estimators
        except ImportError:
            raise NotImplementedError("scikit-learn is not installed") from None

        self.x = normal(table, dtype)
        self.y = labels(table[0], 5) if name == "FNNClassifier" else self.x[:, 0].astype(np.float64)
        self.model = getattr(estimators, name)(max_iter=10, random_state=0)
        self.going_on = getattr(estimators, name)(random_state=0)
        self.classes = {"classes": np.arange(5)} if name == "FNNClassifier" else {}
        self.time_fit(name, table, dtype, threads)
        self.time_partial_fit(name, table, dtype, threads)
        self.time_predict(name, table, dtype, threads)

    def time_fit(self, name, table, dtype, threads):
        self.model.fit(self.x, self.y)

    def time_partial_fit(self, name, table, dtype, threads):
        self.going_on.partial_fit(self.x, self.y, **self.classes)

    def time_predict(self, name, table, dtype, threads):
        self.model.predict(self.x)
