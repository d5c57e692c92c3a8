"""Count, mean and variance of a data set: plain, weighted, with missing values, in other layouts."""

import numpy as np
import scipy.sparse

from nbnorm import Moments, moments

from .common import DTYPES, TABLES, THREADS, normal, use_threads


class Gather:
    params = (TABLES, DTYPES, THREADS)
    param_names = ("samples x features", "dtype", "threads")

    def setup(self, shape, dtype, threads):
        use_threads(threads)
        self.x = normal(shape, dtype)
        self.time_moments(shape, dtype, threads)

    def time_moments(self, shape, dtype, threads):
        moments(self.x)


class Options:
    params = (("weights", "missing", "fortran", "uint8", "sparse"),)
    param_names = ("data",)

    def setup(self, data):
        use_threads(1)
        shape = (200_000, 50)
        self.x = normal(shape, "float32")
        self.options = {}
        if data == "weights":
            self.options = {"weights": np.random.default_rng(1).random(len(self.x))}
        elif data == "missing":
            self.x[::7, ::3] = np.nan
            self.options = {"nan": "omit"}
        elif data == "fortran":
            self.x = np.asfortranarray(self.x)
        elif data == "uint8":
            self.x = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
        elif data == "sparse":
            self.x = scipy.sparse.random_array(shape, density=0.05, format="csr", rng=1)
        self.time_moments(data)

    def time_moments(self, data):
        moments(self.x, **self.options)

    def peakmem_moments(self, data):
        moments(self.x, **self.options)


class Parts:
    """Small chunks, where calls cost more than data."""

    params = ((1, 100, 10_000),)
    param_names = ("rows",)

    def setup(self, rows):
        use_threads(1)
        self.x = normal((rows, 20), "float32")
        self.gathered = moments(self.x)
        self.other = moments(self.x)
        self.time_update(rows)
        self.time_merge(rows)

    def time_update(self, rows):
        Moments().update(self.x)

    def time_merge(self, rows):
        self.gathered.merge(self.other)
