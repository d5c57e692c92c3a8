"""One step of an optimizer."""

import numpy as np

from nbnorm import adamw_step, sgd_step

from .common import COUNTS, DTYPES, THREADS, normal, use_threads


class Step:
    params = (COUNTS, DTYPES, THREADS)
    param_names = ("parameters", "dtype", "threads")

    def setup(self, count, dtype, threads):
        use_threads(threads)
        self.param = normal((count,), dtype)
        # Zero gradients and velocities: the parameters stay as they are however often it runs.
        self.grad = np.zeros(count, dtype)
        self.velocity = np.zeros(count, dtype)
        self.square = np.zeros(count, dtype)
        self.time_momentum(count, dtype, threads)
        self.time_nesterov(count, dtype, threads)
        self.time_adamw(count, dtype, threads)

    def time_momentum(self, count, dtype, threads):
        sgd_step(self.param, self.grad, self.velocity, lr=0.01, momentum=0.9)

    def time_nesterov(self, count, dtype, threads):
        sgd_step(self.param, self.grad, self.velocity, lr=0.01, momentum=0.9, nesterov=True)

    def time_adamw(self, count, dtype, threads):
        adamw_step(self.param, self.grad, self.velocity, self.square, 1, weight_decay=0.0)
