"""Layer norm and RMS norm forward and backward."""

import numpy as np

from nbnorm import layer_norm_backward, layer_norm_forward, rms_norm_backward, rms_norm_forward

from .common import BATCHES, DTYPES, THREADS, normal, use_threads


class _SampleNorm:
    params = (BATCHES, DTYPES, THREADS)
    param_names = ("batch x features", "dtype", "threads")

    def setup(self, shape, dtype, threads):
        use_threads(threads)
        self.x = normal(shape, dtype)
        self.dout = normal(shape, dtype, seed=1)
        self.gamma = normal(shape[1:], dtype, seed=2)
        self.beta = normal(shape[1:], dtype, seed=3)
        self.out = np.empty_like(self.x)
        self.dx = np.empty_like(self.x)
        self.saved = self.time_forward(shape, dtype, threads)[1:]
        self.time_backward(shape, dtype, threads)


class LayerNorm(_SampleNorm):
    def time_forward(self, shape, dtype, threads):
        return layer_norm_forward(self.x, self.gamma, self.beta, out=self.out)

    def time_backward(self, shape, dtype, threads):
        layer_norm_backward(self.dout, self.x, self.gamma, *self.saved, out=self.dx)


class RMSNorm(_SampleNorm):
    def time_forward(self, shape, dtype, threads):
        return rms_norm_forward(self.x, self.gamma, out=self.out)

    def time_backward(self, shape, dtype, threads):
        rms_norm_backward(self.dout, self.x, self.gamma, *self.saved, out=self.dx)
