"""A fully connected network in plain float64 NumPy: slow, obvious, samples in rows."""

import numpy as np

ACTIVATIONS = {
    "identity": (lambda z: z, lambda z: np.ones_like(z)),
    "relu": (lambda z: np.maximum(z, 0.0), lambda z: (z > 0).astype(float)),
    "sigmoid": (lambda z: 1 / (1 + np.exp(-z)), lambda z: np.exp(-z) / (1 + np.exp(-z)) ** 2),
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
}


def to_bfloat16(x):
    """The nearest bfloat16 of each number: 8 binary digits, ties to even."""
    mantissa, exponent = np.frexp(x)
    return np.ldexp(np.rint(mantissa * 256) / 256, exponent)


def batches(samples, size):
    """Rows of the even batches of an epoch without shuffling, the larger ones first."""
    return np.array_split(np.arange(samples), -(-samples // size))


def loss_and_slope(output, z, y):
    """Mean loss of logits z and its gradient."""
    n = len(z)
    if output == "softmax":
        p = np.exp(z - z.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        return -np.log(p[np.arange(n), y]).mean(), (p - np.eye(z.shape[1])[y]) / n
    y = np.asarray(y, float).reshape(z.shape)
    if output == "sigmoid":
        p = 1 / (1 + np.exp(-z))
        return -(y * np.log(p) + (1 - y) * np.log1p(-p)).sum(axis=1).mean(), (p - y) / n
    return 0.5 * ((z - y) ** 2).sum(axis=1).mean(), (z - y) / n


class Network:
    """Copy of an FNN's options and arrays, with names as the FNN's."""

    def __init__(self, net):
        self.net = net
        self.p = {name: values.astype(float) for name, values in net.parameters().items()}
        self.buffers = {name: values.copy() for name, values in net.buffers().items()}
        self.velocity = {name: np.zeros_like(values) for name, values in self.p.items()}
        self.layers = len(net.sizes) - 1
        self.bfloat16 = ()  # layers whose products take it

    def product(self, l, a, b):
        """``a @ b`` of the operands of layer l."""
        return to_bfloat16(a) @ to_bfloat16(b) if l in self.bfloat16 else a @ b

    def normalize(self, l, x, training, move):
        """Normalization; returns the result and what its backward needs."""
        if self.net.norm_kind != "batch":
            mean = x.mean(axis=1, keepdims=True) if self.net.norm_kind == "layer" else 0.0
            rstd = 1 / np.sqrt(((x - mean) ** 2).mean(axis=1, keepdims=True) + self.net.eps)
            xhat = (x - mean) * rstd
            return self.p[f"norm{l}.gamma"] * xhat + self.p.get(f"norm{l}.beta", 0.0), (xhat, rstd)
        net, mean_name, spread_name = self.net, f"norm{l}.running_mean", f"norm{l}.running_{self.net.running}"
        if training:
            mean = x.mean(axis=0)
            var = ((x - mean) ** 2).mean(axis=0)
            if move:
                averaged = var * len(x) / (len(x) - 1) if net.unbiased else var
                if net.running == "std":
                    averaged = np.sqrt(averaged)
                for name, new in ((mean_name, mean), (spread_name, averaged)):
                    self.buffers[name] = net.decay * self.buffers[name] + (1 - net.decay) * new
        else:
            mean, var = self.buffers[mean_name], self.buffers[spread_name]
            var = var**2 if net.running == "std" else var
        rstd = 1 / np.sqrt(var + net.eps)
        xhat = (x - mean) * rstd
        return self.p[f"norm{l}.gamma"] * xhat + self.p[f"norm{l}.beta"], (xhat, rstd)

    def forward(self, x, training, move=False):
        """Logits, and for each hidden layer (input, z or its norm, what the normalization kept)."""
        function = ACTIVATIONS[self.net.activation][0]
        kept = []
        for l in range(1, self.layers):
            z = self.product(l, x, self.p[f"dense{l}.weight"].T)
            if self.net.norm != "before":
                z = z + self.p[f"dense{l}.bias"]
            norm = None
            if self.net.norm_placement == "before":
                z, norm = self.normalize(l, z, training, move)
            y = function(z)
            if self.net.norm_placement == "after":
                y, norm = self.normalize(l, y, training, move)
            kept.append((x, z, norm))
            x = y
        kept.append((x, None, None))
        return x @ self.p[f"dense{self.layers}.weight"].T + self.p[f"dense{self.layers}.bias"], kept

    def normalize_backward(self, l, g, norm, training, grads):
        xhat, rstd = norm
        grads[f"norm{l}.gamma"] = (g * xhat).sum(axis=0)
        if f"norm{l}.beta" in self.p:
            grads[f"norm{l}.beta"] = g.sum(axis=0)
        g = g * self.p[f"norm{l}.gamma"]
        if self.net.norm_kind != "batch":
            mean = g.mean(axis=1, keepdims=True) if self.net.norm_kind == "layer" else 0.0
            g = g - mean - xhat * (g * xhat).mean(axis=1, keepdims=True)
        elif training:
            g = g - g.mean(axis=0) - xhat * (g * xhat).mean(axis=0)
        return g * rstd

    def loss_and_gradients(self, x, y, training, move=False):
        z, kept = self.forward(x, training, move)
        loss, g = loss_and_slope(self.net.output, z, y)
        derivative = ACTIVATIONS[self.net.activation][1]
        grads = {}
        for l in range(self.layers, 0, -1):
            x, z, norm = kept[l - 1]
            if l < self.layers:
                if self.net.norm_placement == "after":
                    g = self.normalize_backward(l, g, norm, training, grads)
                g = g * derivative(z)
                if self.net.norm_placement == "before":
                    g = self.normalize_backward(l, g, norm, training, grads)
            grads[f"dense{l}.weight"] = self.product(l, g.T, x)
            if f"dense{l}.bias" in self.p:
                grads[f"dense{l}.bias"] = g.sum(axis=0)
            g = self.product(l, g, self.p[f"dense{l}.weight"])
        return loss, grads

    def step(self, x, y, lr, momentum, nesterov, weight_decay):
        """One update on a batch, in training mode; weight decay holds for weight matrices."""
        loss, grads = self.loss_and_gradients(x, y, True, move=True)
        for name, g in grads.items():
            v = self.velocity[name] = momentum * self.velocity[name] + g
            decay = lr * weight_decay * self.p[name] if name.endswith("weight") else 0.0
            self.p[name] = self.p[name] - decay - lr * (g + momentum * v if nesterov else v)
        return loss
