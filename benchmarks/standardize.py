"""Fitting a Standardizer, and transforming with it."""

import numpy as np

from nbnorm import Standardizer

from .common import DTYPES, TABLES, THREADS, normal, use_threads


class Standardize:
    params = (TABLES, DTYPES, THREADS)
    param_names = ("samples x features", "dtype", "threads")

    def setup(self, shape, dtype, threads):
        use_threads(threads)
        self.x = normal(shape, dtype)
        self.out = np.zeros_like(self.x)
        self.standardizer = Standardizer()
        self.time_fit(shape, dtype, threads)
        self.time_transform(shape, dtype, threads)
        self.time_inverse_transform(shape, dtype, threads)

    def time_fit(self, shape, dtype, threads):
        self.standardizer.fit(self.x)

    def time_transform(self, shape, dtype, threads):
        self.standardizer.transform(self.x, out=self.out)

    def time_inverse_transform(self, shape, dtype, threads):
        self.standardizer.inverse_transform(self.x, out=self.out)
