"""MNIST, 784-512-512-10, batches of 128: test accuracy over the seconds of training, and peak memory.

All begin with the same weights and train on the first 468 x 128 images, in a new order in each epoch.
The clock runs from the statistics of the images to the end of each epoch; it stands while the test
images are classified.  Libraries are imported, and compiled functions compiled, before: that time is
given by itself.
"""

from __future__ import annotations

import time

BORN = time.perf_counter()

import gzip  # noqa: E402
import math  # noqa: E402
import os  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402

from . import networks  # noqa: E402
from .process import Remote, peak_memory  # noqa: E402

SIZES = [784, 512, 512, 10]
BATCH = 128
STEPS = 468
LR = 0.1
# scikit-learn has no batch norm, and diverges at the others' rate.
LR_WITHOUT_NORM = 0.02
TARGET = 0.98
# Test images that are classified together.
CHUNK = 1000

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)

Array = np.ndarray
Entry = dict[str, Any]


def folder() -> Path:
    """Return the folder with the four files: NBNORM_MNIST, or the cache that `nbnorm train mnist` fills."""
    named = os.environ.get("NBNORM_MNIST")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nbnorm" / "mnist"
    return Path(named) if named else cache


def read(path: Path) -> Array:
    """Read one IDX file of bytes, compressed or not."""
    with path.open("rb") if path.exists() else gzip.open(path.with_name(path.name + ".gz")) as file:
        rank = file.read(4)[3]
        values = np.empty(np.frombuffer(file.read(4 * rank), ">i4"), np.uint8)
        if file.readinto(values.reshape(-1).data) != values.size:
            raise ValueError(f"{path} is too short")
    return values.reshape(len(values), -1)


def rates(lr: float, epochs: int) -> list[float]:
    """Return the learning rate of each epoch: half a cosine from `lr` towards 0."""
    return [0.5 * lr * (1.0 + math.cos(math.pi * epoch / epochs)) for epoch in range(epochs)]


class Mnist:
    """The course of all: an epoch after the other, with the accuracy after each."""

    def __init__(self, *, threads: int, path: str) -> None:
        self.threads, self.sizes, self.batch = threads, SIZES, BATCH
        self.norm, self.activation = "after", "relu"
        self.start = networks.initial(SIZES, "after")
        x, y, x_test, y_test = (read(Path(path) / name) for name in FILES)
        self.images, self.test = x[: STEPS * BATCH], x_test
        self.labels, self.answers = y[: STEPS * BATCH, 0].astype(np.int64), y_test[:, 0].astype(np.int64)

    def statistics(self) -> None:
        """Compute the mean and 1 / standard deviation of each pixel; 1 where it never changes."""
        total, squares = np.zeros(784), np.zeros(784)
        for first in range(0, len(self.images), CHUNK):
            total += self.images[first : first + CHUNK].sum(axis=0, dtype=np.float64)
        mean = total / len(self.images)
        for first in range(0, len(self.images), CHUNK):
            squares += np.square(self.images[first : first + CHUNK] - mean).sum(axis=0)
        scale = np.sqrt(squares / len(self.images))
        self.mean = mean.astype(np.float32)
        self.inverse = (1.0 / np.where(scale > 0.0, scale, 1.0)).astype(np.float32)

    def warm_up(self) -> None:
        """Have everything compiled."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Give the images and their statistics to the library."""
        raise NotImplementedError

    def epoch(self, order: Array, lr: float) -> None:
        """Train on the images in this order; return when all is done."""
        raise NotImplementedError

    def predict(self, images: Array) -> Array:
        """Return the classes of images, by the moving averages."""
        raise NotImplementedError

    def accuracy(self) -> float:
        parts = range(0, len(self.test), CHUNK)
        classes = [self.predict(self.test[first : first + CHUNK]) for first in parts]
        return float((np.concatenate(classes) == self.answers).mean())

    def train(self, epochs: int, lr: float) -> Entry:
        """Return seconds and accuracy after each epoch, the seconds before the first, and peak memory."""
        self.statistics()
        self.build()
        self.prepare()
        self.warm_up()
        self.build()
        startup = time.perf_counter() - BORN
        rng = np.random.default_rng(0)
        found: Entry = {"startup": startup, "seconds": [], "accuracy": []}
        clock = time.perf_counter()
        self.statistics()
        self.prepare()
        for rate in rates(lr, epochs):
            self.epoch(rng.permutation(len(self.images)), rate)
            found["seconds"].append(time.perf_counter() - clock)
            found["accuracy"].append(self.accuracy())
            clock = time.perf_counter() - found["seconds"][-1]
        found["memory"] = peak_memory()
        return found


class Nbnorm(Mnist, networks.Nbnorm):
    """nbnorm's `fit` on the bytes, with the accuracy in a callback."""

    def build(self) -> None:
        networks.Nbnorm.build(self)
        self.net.standardize = True

    def train(self, epochs: int, lr: float) -> Entry:
        from nbnorm import SGD

        optimizer = SGD(lr=lr, momentum=networks.MOMENTUM)
        self.build()
        self.net.fit(self.images, self.labels, epochs=1, batch_size=BATCH, optimizer=optimizer)
        self.net.score(self.test, self.answers)
        self.build()
        found: Entry = {"startup": time.perf_counter() - BORN, "seconds": [], "accuracy": []}
        clock = time.perf_counter()

        def record(net: Any, history: Any) -> None:
            nonlocal clock
            found["seconds"].append(time.perf_counter() - clock)
            found["accuracy"].append(net.score(self.test, self.answers))
            clock = time.perf_counter() - found["seconds"][-1]

        rate = rates(lr, epochs)
        self.net.fit(
            self.images,
            self.labels,
            epochs=epochs,
            batch_size=BATCH,
            optimizer=optimizer,
            schedule=lambda step: rate[step // STEPS],
            callbacks=(record,),
        )
        found["memory"] = peak_memory()
        return found


class NbnormBfloat16(Nbnorm, networks.NbnormBfloat16):
    """nbnorm's `fit` with products of bfloat16."""

    def build(self) -> None:
        Nbnorm.build(self)  # it standardizes by itself


class Torch(Mnist, networks.Torch):
    """PyTorch, eager; the bytes become standardized numbers batch by batch."""

    def prepare(self) -> None:
        import torch

        self.data = torch.from_numpy(self.images), torch.from_numpy(self.labels)
        self.shift, self.factor = torch.from_numpy(self.mean), torch.from_numpy(self.inverse)

    def _standardized(self, images: Any) -> Any:
        return images.float().sub_(self.shift).mul_(self.factor)

    def warm_up(self) -> None:
        self.epoch(np.arange(3 * BATCH), LR)
        self.accuracy()

    def epoch(self, order: Array, lr: float) -> None:
        import torch

        x, y = self.data
        self.net.train()
        self.rate(lr)
        for rows in torch.from_numpy(order).split(BATCH):
            self.step(self._standardized(x[rows]), y[rows])

    def predict(self, images: Array) -> Array:
        import torch

        self.net.eval()
        with torch.no_grad():
            return self.net(self._standardized(torch.from_numpy(images))).argmax(dim=1).numpy()


class TorchCompile(Torch, networks.TorchCompile):
    """PyTorch with `torch.compile`."""

    def build(self) -> None:
        if hasattr(self, "net"):  # keep what has been compiled
            self._refill()
        else:
            networks.TorchCompile.build(self)

    def _refill(self) -> None:
        import torch

        with torch.no_grad():
            for name, value in self.named.items():
                value.copy_(torch.from_numpy(self.start[name]))
        self.optimizer.state.clear()


class TorchBfloat16(Torch, networks.TorchBfloat16):
    """PyTorch with bfloat16 autocast."""


class TorchCompileBfloat16(TorchCompile, networks.TorchCompileBfloat16):
    """PyTorch with `torch.compile` and bfloat16 autocast."""


class Jax(Mnist, networks.Jax):
    """JAX, one compiled function a step, which also gathers and standardizes."""

    def build(self) -> None:
        import jax

        networks.Jax.build(self)
        if hasattr(self, "update"):  # keep what has been compiled
            return
        self.update = jax.jit(self._update, donate_argnums=0)
        self.classify = jax.jit(self._classify)

    def prepare(self) -> None:
        import jax.numpy as jnp

        labels = self.labels.astype(np.int32)
        self.data = tuple(map(jnp.array, (self.images, labels, self.mean, self.inverse)))

    def _update(self, state: Any, rows: Any, data: Any, lr: float) -> Any:
        import jax.numpy as jnp

        images, labels, mean, inverse = data
        x = (jnp.take(images, rows, axis=0).astype(jnp.float32) - mean) * inverse
        return self._step(state, x, jnp.take(labels, rows), lr)

    def _classify(self, state: Any, images: Any, mean: Any, inverse: Any) -> Any:
        values, _, running = state
        x = (images.astype(np.float32) - mean) * inverse
        return self._logits(values, running, x, False)[0].argmax(axis=1)

    def warm_up(self) -> None:
        self.epoch(np.arange(len(self.images)), LR)
        self.accuracy()

    def epoch(self, order: Array, lr: float) -> None:
        for rows in order.astype(np.int32).reshape(STEPS, BATCH):
            self.state, loss = self.update(self.state, rows, self.data, lr)
        loss.block_until_ready()

    def predict(self, images: Array) -> Array:
        return np.asarray(self.classify(self.state, images, *self.data[2:]))


class JaxScan(Jax):
    """JAX with `lax.scan` over the batches of an epoch."""

    def build(self) -> None:
        import jax

        fresh = not hasattr(self, "update")
        super().build()
        if fresh:

            def run(state: Any, order: Any, data: Any, lr: float) -> Any:
                return jax.lax.scan(lambda state, rows: self._update(state, rows, data, lr), state, order)

            self.scan = jax.jit(run, donate_argnums=0)

    def epoch(self, order: Array, lr: float) -> None:
        rows = order.astype(np.int32).reshape(STEPS, BATCH)
        self.state, losses = self.scan(self.state, rows, self.data, lr)
        losses.block_until_ready()


class JaxScanBfloat16(JaxScan, networks.JaxScanBfloat16):
    """JAX with `lax.scan` and products of bfloat16."""


class ScikitLearn(Mnist, networks.ScikitLearn):
    """scikit-learn's MLPClassifier without batch norm; it wants floats, so all bytes are converted first."""

    def prepare(self) -> None:
        self.x = self.images.astype(np.float32)
        self.x -= self.mean
        self.x *= self.inverse

    def warm_up(self) -> None:
        self.net.partial_fit(self.x[:BATCH], self.labels[:BATCH], classes=self.classes)

    def build(self) -> None:
        networks.ScikitLearn.build(self)
        self.net.set_params(shuffle=True, learning_rate_init=LR_WITHOUT_NORM)

    def epoch(self, order: Array, lr: float) -> None:
        self.net.partial_fit(self.x, self.labels, classes=self.classes)

    def predict(self, images: Array) -> Array:
        return self.net.predict((images - self.mean) * self.inverse)


def measure(*, threads: int, contestants: dict[str, str], epochs: int = 8) -> Entry:
    """Train one contestant after the other, each in a new process."""
    found: dict[str, Entry] = {}
    absent = {}
    for name, kind in contestants.items():
        try:
            with Remote("benchmarks.peers.mnist", kind, threads, path=str(folder().resolve())) as remote:
                found[name] = remote.call("train", epochs=epochs, lr=LR)
        except RuntimeError as error:
            if name == "nbnorm":
                raise
            absent[name] = str(error)
            continue
        course = zip(found[name]["seconds"], found[name]["accuracy"], strict=True)
        found[name]["reached"] = next((seconds for seconds, share in course if share >= TARGET), None)
    return {"threads": threads, "target": TARGET, "runs": found, "absent": absent}
