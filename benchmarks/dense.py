"""The affine layer forward and backward."""

import numpy as np

from nbnorm import dense_backward, dense_forward

from .common import DTYPES, LAYERS, THREADS, normal, use_threads


class Dense:
    params = (LAYERS, DTYPES, THREADS)
    param_names = ("batch x inputs x outputs", "dtype", "threads")

    def setup(self, shape, dtype, threads):
        use_threads(threads)
        batch, n_in, n_out = shape
        self.x = normal((batch, n_in), dtype)
        self.weight = normal((n_out, n_in), dtype, seed=1)
        self.bias = normal((n_out,), dtype, seed=2)
        self.dz = normal((batch, n_out), dtype, seed=3)
        self.z = np.empty((batch, n_out), dtype)
        self.time_forward(shape, dtype, threads)
        self.time_backward(shape, dtype, threads)

    def time_forward(self, shape, dtype, threads):
        dense_forward(self.x, self.weight, self.bias, out=self.z)

    def time_backward(self, shape, dtype, threads):
        dense_backward(self.dz, self.x, self.weight)
