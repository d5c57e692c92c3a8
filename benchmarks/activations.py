"""Activations forward and backward."""

import numpy as np

from nbnorm import activation_backward, activation_forward

from .common import BATCHES, DTYPES, THREADS, normal, use_threads


class Activation:
    params = (
        ("relu", "sigmoid", "tanh", "leaky_relu", "elu", "gelu", "silu", "softplus"),
        BATCHES[:3],
        DTYPES,
        THREADS,
    )
    param_names = ("name", "batch x features", "dtype", "threads")

    def setup(self, name, shape, dtype, threads):
        use_threads(threads)
        self.z = normal(shape, dtype)
        self.dy = normal(shape, dtype, seed=1)
        self.y = np.empty_like(self.z)
        self.dz = np.empty_like(self.z)
        self.time_forward(name, shape, dtype, threads)
        self.time_backward(name, shape, dtype, threads)

    def time_forward(self, name, shape, dtype, threads):
        activation_forward(self.z, name, out=self.y)

    def time_backward(self, name, shape, dtype, threads):
        activation_backward(self.dy, self.y, name, z=self.z, out=self.dz)
