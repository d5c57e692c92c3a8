"""Losses with their gradients."""

from nbnorm import binary_cross_entropy, mean_squared_error, softmax_cross_entropy

from .common import DTYPES, LOGITS, THREADS, labels, normal, use_threads


class Loss:
    params = (LOGITS, DTYPES, THREADS)
    param_names = ("samples x classes", "dtype", "threads")

    def setup(self, shape, dtype, threads):
        use_threads(threads)
        self.logits = normal(shape, dtype)
        self.labels = labels(*shape)
        self.binary = (normal(shape, dtype, seed=1) > 0).astype(dtype)
        self.targets = normal(shape, dtype, seed=2)
        self.time_softmax_cross_entropy(shape, dtype, threads)
        self.time_binary_cross_entropy(shape, dtype, threads)
        self.time_mean_squared_error(shape, dtype, threads)

    def time_softmax_cross_entropy(self, shape, dtype, threads):
        softmax_cross_entropy(self.logits, self.labels)

    def time_binary_cross_entropy(self, shape, dtype, threads):
        binary_cross_entropy(self.logits, self.binary)

    def time_mean_squared_error(self, shape, dtype, threads):
        mean_squared_error(self.logits, self.targets)
