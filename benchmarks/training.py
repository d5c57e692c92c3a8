"""Whole training steps: 40 mini-batches of each network, from the data to updated parameters."""

import numpy as np

from nbnorm import FNN, SGD

from .common import NETWORKS, THREADS, labels, normal, use_threads

STEPS = 40


class Epoch:
    params = (tuple(NETWORKS), ("after", "before"), ("relu", "sigmoid"), THREADS)
    param_names = ("network", "norm", "activation", "threads")
    timeout = 600

    def setup(self, network, norm, activation, threads):
        use_threads(threads)
        sizes, batch = NETWORKS[network]
        samples = batch * STEPS
        rng = np.random.default_rng(0)
        self.x = rng.integers(0, 256, (samples, sizes[0]), dtype=np.uint8)
        self.y = labels(samples, sizes[-1])
        self.net = FNN(sizes, norm=norm, activation=activation, seed=0)
        self.time_epoch(network, norm, activation, threads)

    def time_epoch(self, network, norm, activation, threads):
        batch = NETWORKS[network][1]
        self.net.fit(
            self.x, self.y, epochs=1, batch_size=batch, optimizer=SGD(lr=1e-4, momentum=0.9), progress=False
        )


class Bfloat16Epoch:
    params = (tuple(NETWORKS), ("float32", "bfloat16"), THREADS)
    param_names = ("network", "precision", "threads")
    timeout = 600

    def setup(self, network, precision, threads):
        use_threads(threads)
        sizes, batch = NETWORKS[network]
        self.x = normal((batch * STEPS, sizes[0]), "float32")
        self.y = labels(batch * STEPS, sizes[-1])
        self.net = FNN(sizes, precision=precision, seed=0)
        self.time_epoch(network, precision, threads)

    def time_epoch(self, network, precision, threads):
        optimizer = SGD(lr=1e-4, momentum=0.9)
        batch = NETWORKS[network][1]
        self.net.fit(self.x, self.y, epochs=1, batch_size=batch, optimizer=optimizer, progress=False)


class Predict:
    params = (tuple(NETWORKS), THREADS)
    param_names = ("network", "threads")

    def setup(self, network, threads):
        use_threads(threads)
        sizes, _ = NETWORKS[network]
        rng = np.random.default_rng(0)
        self.x = rng.integers(0, 256, (10_000, sizes[0]), dtype=np.uint8)
        self.net = FNN(sizes, seed=0, standardize=False).eval()
        self.time_predict(network, threads)

    def time_predict(self, network, threads):
        self.net.predict(self.x)
