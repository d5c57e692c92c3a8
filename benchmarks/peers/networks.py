"""One network, trained by each library: the same layers, loss, optimizer, initial values and batches.

A contestant is made from a file with its data and initial values.  It knows:

``steps(count, lr, activation, save)``
    start from the initial values, take the first `count` batches in order, write the mean loss and
    all values;
``epochs(lr, least)``
    whole epochs until `least` seconds are over; return the seconds of each.

Every library is given the batches ready-made and in order, as views of one array; nbnorm also draws
a permutation, gathers its batches and checks its results, as `FNN.fit` always does.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

MOMENTUM = 0.9
EPS = 1e-5
DECAY = 0.9  # weight of the old moving average, nbnorm's convention

Array = np.ndarray


def initial(sizes: list[int], norm: str, seed: int = 0) -> dict[str, Array]:
    """Draw initial values, float32, under nbnorm's names."""
    rng = np.random.default_rng(seed)
    values = {}
    for k in range(1, len(sizes)):
        n_in, n_out = sizes[k - 1], sizes[k]
        values[f"dense{k}.weight"] = rng.standard_normal((n_out, n_in)) * np.sqrt(2.0 / n_in)
        if k == len(sizes) - 1 or norm == "after":
            values[f"dense{k}.bias"] = 0.1 * rng.standard_normal(n_out)
        if k < len(sizes) - 1:
            values[f"norm{k}.gamma"] = 1.0 + 0.1 * rng.standard_normal(n_out)
            values[f"norm{k}.beta"] = 0.1 * rng.standard_normal(n_out)
            values[f"norm{k}.running_mean"] = np.zeros(n_out)
            values[f"norm{k}.running_var"] = np.ones(n_out)
    return {name: value.astype(np.float32) for name, value in values.items()}


def problem(path: str, sizes: list[int], batch: int, steps: int, norm: str) -> None:
    """Write data for an epoch and the initial values."""
    rng = np.random.default_rng(1)
    samples = batch * steps
    np.savez(
        path,
        x=rng.standard_normal((samples, sizes[0]), dtype=np.float32),
        y=rng.integers(0, sizes[-1], samples),
        **initial(sizes, norm),
    )


class Contestant:
    """What all contestants share: data, initial values and the clock."""

    def __init__(
        self, *, path: str, sizes: list[int], batch: int, norm: str, activation: str, threads: int
    ) -> None:
        with np.load(path) as file:
            self.start = dict(file)
        self.x, self.y = self.start.pop("x"), self.start.pop("y")
        self.sizes, self.batch, self.threads = sizes, batch, threads
        self.norm, self.activation = norm, activation
        self.count = len(self.x) // batch

    def build(self) -> None:
        """Make the network with the initial values, and velocities of zero."""
        raise NotImplementedError

    def take(self) -> None:
        """Give the batches to the library."""

    def run(self, count: int, lr: float) -> Any:
        """Take the first `count` batches in order, and wait for the end; return the losses."""
        raise NotImplementedError

    def values(self) -> dict[str, Array]:
        """Return all values under nbnorm's names."""
        raise NotImplementedError

    def steps(self, count: int, lr: float, activation: str, save: str) -> None:
        timed, self.activation = self.activation, activation
        self.build()
        self.take()
        loss = np.mean([float(loss) for loss in self.run(count, lr)])
        self.activation = timed
        np.savez(save, loss=loss, **self.values())

    def epochs(self, lr: float, least: float) -> list[float]:
        seconds: list[float] = []
        while sum(seconds) < least:
            start = time.perf_counter()
            self.run(self.count, lr)
            seconds.append(time.perf_counter() - start)
        return seconds


class Nbnorm(Contestant):
    """nbnorm's `FNN.fit`, all of it."""

    precision = "float32"

    def build(self) -> None:
        import nbnorm

        nbnorm.set_num_threads(self.threads)
        self.net = nbnorm.FNN(
            self.sizes,
            activation=self.activation,
            norm=self.norm,
            standardize=False,
            eps=EPS,
            decay=DECAY,
            precision=self.precision,
            seed=0,
        )
        for name, values in {**self.net.parameters(), **self.net.buffers()}.items():
            values[:] = self.start[name]

    def fit(self, samples: int, lr: float, epochs: int, shuffle: bool) -> Any:
        from nbnorm import SGD

        return self.net.fit(
            self.x[:samples],
            self.y[:samples],
            epochs=epochs,
            batch_size=self.batch,
            optimizer=SGD(lr=lr, momentum=MOMENTUM),
            shuffle=shuffle,
            progress=False,
        )

    def run(self, count: int, lr: float) -> Any:
        return self.fit(count * self.batch, lr, 1, False).loss

    def values(self) -> dict[str, Array]:
        return {**self.net.parameters(), **self.net.buffers()}

    def epochs(self, lr: float, least: float) -> list[float]:
        number = 1
        while True:
            # Seconds as the history gives them: the order of samples, the steps, the check for finite
            # values and their way back into the network's arrays.
            seconds = self.fit(len(self.x), lr, number, True).seconds
            if sum(seconds) >= least:
                return seconds
            number = max(number + 1, int(1.1 * number * least / sum(seconds)) + 1)


class NbnormBfloat16(Nbnorm):
    """nbnorm with products of bfloat16, also of the first layer: its input counts as standardized."""

    precision = "bfloat16"

    def build(self) -> None:
        from nbnorm import Standardizer

        super().build()
        # mean 0 and scale 1
        self.net.standardizer = Standardizer().fit(np.outer([-1.0, 1.0], np.ones(self.sizes[0])))


class Torch(Contestant):
    """PyTorch, eager; its fused optimizer, which is the fastest it has for this."""

    def build(self) -> None:
        import torch

        torch.set_num_threads(self.threads)
        nn = torch.nn
        activation = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}[self.activation]
        modules: list[Any] = []
        for k in range(1, len(self.sizes)):
            last = k == len(self.sizes) - 1
            dense = nn.Linear(self.sizes[k - 1], self.sizes[k], bias=last or self.norm == "after")
            self._set(dense, {"weight": f"dense{k}.weight", "bias": f"dense{k}.bias"})
            modules.append(dense)
            if last:
                break
            norm = nn.BatchNorm1d(self.sizes[k], eps=EPS, momentum=1.0 - DECAY)
            names = {"weight": "gamma", "bias": "beta"} | {n: n for n in ("running_mean", "running_var")}
            self._set(norm, {mine: f"norm{k}.{name}" for mine, name in names.items()})
            modules += [activation(), norm] if self.norm == "after" else [norm, activation()]
        self.net = nn.Sequential(*modules).train()
        self.named = {
            name: getattr(module, mine)
            for module in self.net
            for mine, name in getattr(module, "nbnorm_names", {}).items()
            if getattr(module, mine) is not None
        }
        self.loss = self.compile(lambda x, y: nn.functional.cross_entropy(self.net(x), y))
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.0, momentum=MOMENTUM, fused=True)

    def _set(self, module: Any, names: dict[str, str]) -> None:
        import torch

        module.nbnorm_names = names
        with torch.no_grad():
            for mine, name in names.items():
                if getattr(module, mine) is not None:
                    getattr(module, mine).copy_(torch.from_numpy(self.start[name]))

    def take(self) -> None:
        import torch

        x, y = torch.from_numpy(self.x), torch.from_numpy(self.y)
        self.batches = list(zip(x.split(self.batch), y.split(self.batch), strict=True))

    def compile(self, loss: Callable[..., Any]) -> Callable[..., Any]:
        """Return what computes the loss: here the plain function."""
        return loss

    def step(self, x: Any, y: Any) -> Any:
        """Update everything by one batch; return its loss."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(x, y)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def rate(self, lr: float) -> None:
        """Set the learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def run(self, count: int, lr: float) -> Any:
        self.rate(lr)
        return [self.step(x, y) for x, y in self.batches[:count]]

    def values(self) -> dict[str, Array]:
        return {name: value.detach().numpy() for name, value in self.named.items()}


class TorchCompile(Torch):
    """PyTorch with the network and the loss, forward and backward, through `torch.compile`."""

    def compile(self, loss: Callable[..., Any]) -> Callable[..., Any]:
        import torch

        return torch.compile(loss)


def _autocast(loss: Callable[..., Any]) -> Callable[..., Any]:
    """Return a loss whose products take bfloat16."""
    import torch

    def compute(x: Any, y: Any) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return loss(x, y)

    return compute


class TorchBfloat16(Torch):
    """PyTorch, eager, with bfloat16 autocast."""

    def compile(self, loss: Callable[..., Any]) -> Callable[..., Any]:
        return _autocast(super().compile(loss))


class TorchCompileBfloat16(TorchCompile):
    """PyTorch through `torch.compile`, with bfloat16 autocast."""

    def compile(self, loss: Callable[..., Any]) -> Callable[..., Any]:
        return super().compile(_autocast(loss))


class Jax(Contestant):
    """JAX: the whole step, with its update in place, is one compiled function, called from Python."""

    def build(self) -> None:
        import jax
        import jax.numpy as jnp

        trained = {name: jnp.array(value) for name, value in self.start.items() if "running" not in name}
        running = {name: jnp.array(value) for name, value in self.start.items() if "running" in name}
        velocity = {name: jnp.zeros_like(value) for name, value in trained.items()}
        self.state = (trained, velocity, running)
        self.step = jax.jit(self._step, donate_argnums=0)

    def take(self) -> None:
        import jax.numpy as jnp

        shape = (self.count, self.batch)
        self.data = (jnp.array(self.x.reshape(*shape, -1)), jnp.array(self.y.reshape(shape).astype(np.int32)))
        self.batches = list(zip(*self.data, strict=True))

    def product(self, x: Any, weight: Any) -> Any:
        """Return the product of features and weights."""
        return x @ weight

    def _logits(self, values: Any, running: Any, x: Any, training: bool) -> Any:
        """Return the logits and the moving averages, moved in training."""
        import jax
        import jax.numpy as jnp

        activate = {"relu": jax.nn.relu, "sigmoid": jax.nn.sigmoid, "tanh": jnp.tanh}[self.activation]
        running = dict(running)

        def normalize(y: Any, k: int) -> Any:
            mean, var = running[f"norm{k}.running_mean"], running[f"norm{k}.running_var"]
            if training:
                mean, var = jnp.mean(y, axis=0), jnp.var(y, axis=0)
                unbiased = var * (len(y) / (len(y) - 1))
                for name, value in ((f"norm{k}.running_mean", mean), (f"norm{k}.running_var", unbiased)):
                    running[name] = DECAY * running[name] + (1.0 - DECAY) * jax.lax.stop_gradient(value)
            y = (y - mean) * jax.lax.rsqrt(var + EPS)
            return values[f"norm{k}.gamma"] * y + values[f"norm{k}.beta"]

        for k in range(1, len(self.sizes)):
            x = self.product(x, values[f"dense{k}.weight"].T)
            if f"dense{k}.bias" in values:
                x = x + values[f"dense{k}.bias"]
            if k < len(self.sizes) - 1:
                x = normalize(activate(x), k) if self.norm == "after" else activate(normalize(x, k))
        return x, running

    def _loss(self, values: Any, running: Any, x: Any, y: Any) -> Any:
        import jax
        import jax.numpy as jnp

        logits, running = self._logits(values, running, x, True)
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=1).mean(), running

    def _step(self, state: Any, x: Any, y: Any, lr: float) -> Any:
        import jax

        values, velocity, running = state
        (loss, running), gradient = jax.value_and_grad(self._loss, has_aux=True)(values, running, x, y)
        velocity = jax.tree.map(lambda v, g: MOMENTUM * v + g, velocity, gradient)
        values = jax.tree.map(lambda p, v: p - lr * v, values, velocity)
        return (values, velocity, running), loss

    def run(self, count: int, lr: float) -> Any:
        losses = []
        for x, y in self.batches[:count]:
            self.state, loss = self.step(self.state, x, y, lr)
            losses.append(loss)
        losses[-1].block_until_ready()
        return losses

    def values(self) -> dict[str, Array]:
        trained, _, running = self.state
        return {name: np.asarray(value) for name, value in {**trained, **running}.items()}


class JaxScan(Jax):
    """JAX with `lax.scan` over all batches: one compiled function for the epoch."""

    def build(self) -> None:
        import jax

        super().build()

        def epoch(state: Any, xs: Any, ys: Any, lr: float) -> Any:
            state, losses = jax.lax.scan(lambda state, batch: self._step(state, *batch, lr), state, (xs, ys))
            return state, losses

        self.epoch = jax.jit(epoch, donate_argnums=0)

    def run(self, count: int, lr: float) -> Any:
        xs, ys = self.data if count == self.count else (part[:count] for part in self.data)
        self.state, losses = self.epoch(self.state, xs, ys, lr)
        return losses.block_until_ready()


class JaxScanBfloat16(JaxScan):
    """JAX with `lax.scan`, the operands of products in bfloat16, their sums in float32."""

    def product(self, x: Any, weight: Any) -> Any:
        import jax.numpy as jnp

        operands = (values.astype(jnp.bfloat16) for values in (x, weight))
        return jnp.matmul(*operands, preferred_element_type=jnp.float32)


class ScikitLearn(Contestant):
    """scikit-learn's MLPClassifier, which has no batch norm: fewer things to do in a step."""

    def build(self) -> None:
        from sklearn.neural_network import MLPClassifier

        self.net = MLPClassifier(
            self.sizes[1:-1],
            activation={"relu": "relu", "sigmoid": "logistic", "tanh": "tanh"}[self.activation],
            solver="sgd",
            alpha=0.0,
            batch_size=self.batch,
            momentum=MOMENTUM,
            nesterovs_momentum=False,
            shuffle=False,
            random_state=0,
        )
        self.classes = np.arange(self.sizes[-1])

    def run(self, count: int, lr: float) -> Any:
        self.net.learning_rate_init = lr
        samples = count * self.batch
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.net.partial_fit(self.x[:samples], self.y[:samples], classes=self.classes)
        return [self.net.loss_]

    def values(self) -> dict[str, Array]:
        return {}
