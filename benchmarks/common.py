"""Sizes, dtypes and threads of all benchmarks, and what their setups share.

A setup takes its data from here, calls the function once with the very arguments that are timed
(so that nothing is compiled while the clock runs) and then returns.
"""

import numpy as np

import nbnorm

DTYPES = ("float32", "float64")
THREADS = (1, 2)

# (batch, features) of a batch norm or an activation: a small network's layer, a wide one's, and two
# that are larger than the second and the third level of cache.
BATCHES = ((32, 64), (256, 1024), (4096, 512), (65536, 256))

# (batch, inputs, outputs) of an affine layer.
LAYERS = ((32, 64, 64), (60, 784, 100), (128, 784, 512), (256, 1024, 1024), (512, 2048, 2048))

# (samples, classes) of a loss.
LOGITS = ((32, 10), (128, 10), (4096, 1000))

# Parameters updated by one step of an optimizer.
COUNTS = (4_096, 262_144, 4_194_304)

# (samples, features) of a data set to standardize.
TABLES = ((1_000_000, 10), (1_000_000, 100), (60_000, 784))

# Layer sizes and batch size of whole networks.
NETWORKS = {
    "64-64-10, 32": ((64, 64, 10), 32),
    "784-100-100-100-10, 60": ((784, 100, 100, 100, 10), 60),
    "784-512-512-10, 128": ((784, 512, 512, 10), 128),
    "784-1024-1024-10, 256": ((784, 1024, 1024, 10), 256),
    "784-2048-2048-10, 512": ((784, 2048, 2048, 10), 512),
}


def use_threads(count: int) -> None:
    """Let nbnorm run on `count` threads; tell asv to skip where the machine has fewer."""
    try:
        nbnorm.set_num_threads(count)
    except ValueError:
        raise NotImplementedError(f"{count} threads are not available") from None


def normal(shape: tuple[int, ...], dtype: str, seed: int = 0) -> np.ndarray:
    """Return normally distributed numbers, the same ones on every run."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal(shape, dtype=np.dtype(dtype).type)


def labels(samples: int, classes: int, seed: int = 0) -> np.ndarray:
    """Return class numbers, the same ones on every run."""
    return np.random.default_rng(seed).integers(0, classes, samples)


# What CI runs once: the smallest case of each benchmark, on one thread.
QUICK = r"\(.*(\(32, |\(1000000, 10\)|4096, |64-64-10, 32).*float32.*\b1\)|64-64-10, 32.*\b1\)|startup"
