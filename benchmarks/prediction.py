"""Frozen predictors: one row, and many."""

from nbnorm import FNN

from .common import DTYPES, NETWORKS, normal


class Prediction:
    params = (tuple(NETWORKS)[:3], DTYPES)
    param_names = ("layers, batch", "dtype")

    def setup(self, name, dtype):
        sizes, _ = NETWORKS[name]
        self.predict = FNN(sizes, seed=0, dtype=dtype).compiled()
        self.x = normal((10_000, sizes[0]), dtype)
        self.row = self.x[0]
        self.time_row(name, dtype)
        self.time_rows(name, dtype)

    def time_row(self, name, dtype):
        self.predict(self.row)

    def time_rows(self, name, dtype):
        self.predict(self.x)
