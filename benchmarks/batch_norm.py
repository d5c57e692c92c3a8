"""Batch norm forward, backward and in evaluation."""

import numpy as np

from nbnorm import batch_norm_backward, batch_norm_forward, batch_norm_inference

from .common import BATCHES, DTYPES, THREADS, normal, use_threads


class BatchNorm:
    params = (BATCHES, DTYPES, THREADS)
    param_names = ("batch x features", "dtype", "threads")

    def setup(self, shape, dtype, threads):
        use_threads(threads)
        features = shape[1]
        self.x = normal(shape, dtype)
        self.dout = normal(shape, dtype, seed=1)
        self.gamma = normal((features,), dtype, seed=2)
        self.beta = normal((features,), dtype, seed=3)
        self.running_mean = np.zeros(features, dtype)
        self.running_var = np.ones(features, dtype)
        self.out = np.empty_like(self.x)
        self.dx = np.empty_like(self.x)
        _, self.mean, self.rstd = batch_norm_forward(self.x, self.gamma, self.beta, out=self.out)
        self.time_backward(shape, dtype, threads)
        self.time_inference(shape, dtype, threads)

    def time_forward(self, shape, dtype, threads):
        batch_norm_forward(self.x, self.gamma, self.beta, out=self.out)

    def time_backward(self, shape, dtype, threads):
        batch_norm_backward(self.dout, self.x, self.gamma, self.mean, self.rstd, out=self.dx)

    def time_inference(self, shape, dtype, threads):
        batch_norm_inference(self.x, self.gamma, self.beta, self.running_mean, self.running_var, out=self.out)
