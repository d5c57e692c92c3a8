"""Losses with their gradients."""

from nbnorm import (
    binary_cross_entropy,
    huber_loss,
    mean_absolute_error,
    mean_squared_error,
    poisson_loss,
    softmax_cross_entropy,
)

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
        self.weights = abs(normal(shape[:1], dtype, seed=3))
        self.time_softmax_cross_entropy(shape, dtype, threads)
        self.time_binary_cross_entropy(shape, dtype, threads)
        self.time_mean_squared_error(shape, dtype, threads)
        self.time_weighted_softmax_cross_entropy(shape, dtype, threads)
        self.time_mean_absolute_error(shape, dtype, threads)
        self.time_huber_loss(shape, dtype, threads)
        self.time_poisson_loss(shape, dtype, threads)

    def time_softmax_cross_entropy(self, shape, dtype, threads):
        softmax_cross_entropy(self.logits, self.labels)

    def time_binary_cross_entropy(self, shape, dtype, threads):
        binary_cross_entropy(self.logits, self.binary)

    def time_mean_squared_error(self, shape, dtype, threads):
        mean_squared_error(self.logits, self.targets)

    def time_weighted_softmax_cross_entropy(self, shape, dtype, threads):
        softmax_cross_entropy(self.logits, self.labels, label_smoothing=0.1, sample_weight=self.weights)

    def time_mean_absolute_error(self, shape, dtype, threads):
        mean_absolute_error(self.logits, self.targets)

    def time_huber_loss(self, shape, dtype, threads):
        huber_loss(self.logits, self.targets)

    def time_poisson_loss(self, shape, dtype, threads):
        poisson_loss(self.logits, self.binary)
