"""The matrix product beside NumPy's, at the three products of a layer."""

import numpy as np
from threadpoolctl import threadpool_limits

from nbnorm.matmul import multiply

from .common import DTYPES, LAYERS, THREADS, normal, use_threads


class Product:
    params = (("nbnorm", "numpy"), ("forward", "data", "weight"), LAYERS, DTYPES, THREADS)
    param_names = ("library", "product", "batch x inputs x outputs", "dtype", "threads")

    def setup(self, library, product, shape, dtype, threads):
        use_threads(threads)
        batch, n_in, n_out = shape
        m, k, n = {
            "forward": (batch, n_in, n_out),
            "data": (batch, n_out, n_in),
            "weight": (n_out, batch, n_in),
        }[product]
        self.a = normal((m, k), dtype)
        self.b = normal((k, n), dtype, seed=1)
        self.out = np.empty((m, n), dtype)
        self.call = multiply if library == "nbnorm" else np.matmul
        self.limit = threadpool_limits(threads)
        self.time_product(library, product, shape, dtype, threads)

    def time_product(self, library, product, shape, dtype, threads):
        self.call(self.a, self.b, self.out)
