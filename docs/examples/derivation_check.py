"""The derivative of batch normalization: formulas against a numerical gradient.

Prints, for two values of epsilon, the largest error of each formula relative to the largest entry
of the numerical result.  The page "Backpropagation through batch normalization" includes the table.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

import nbnorm

Array = npt.NDArray[np.float64]


def forward(y: Array, eps: float) -> tuple[Array, Array, Array]:
    """Return u, mu and sigma of a mini-batch `y` (n_samples, n_features)."""
    mu = y.mean(axis=0)
    sigma = np.sqrt(((y - mu) ** 2).mean(axis=0) + eps)
    return (y - mu) / sigma, mu, sigma


def numerical(function: Callable[[Array], Array], y: Array) -> Array:
    """Return the derivative of `function(y)` by central differences, one row for each entry of `y`."""
    step = np.cbrt(np.finfo(float).eps)
    rows = []
    for at in np.ndindex(y.shape):
        ahead, behind = y.copy(), y.copy()
        ahead[at] += step
        behind[at] -= step
        rows.append((function(ahead) - function(behind)) / (ahead[at] - behind[at]))
    return np.array(rows)


def derived(y: Array, eps: float) -> Array:
    """Return d u_w / d y_t of one feature: row t, column w."""
    _, mu, sigma = forward(y, eps)
    d = (y - mu)[:, 0]
    omega = len(d)
    return (np.eye(omega) - 1 / omega) / sigma - np.outer(d, d) / (omega * sigma**3)


def printed(y: Array, eps: float) -> Array:
    """Return the same matrix with (y_t - mu)^2 in place of (y_t - mu) (y_w - mu)."""
    _, mu, sigma = forward(y, eps)
    d = (y - mu)[:, 0]
    omega = len(d)
    return (np.eye(omega) - 1 / omega) / sigma - (d**2)[:, None] / (omega * sigma**3)


def error(got: Array, expected: Array) -> float:
    """Return the largest difference relative to the largest expected entry."""
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def table(eps: float) -> list[tuple[str, float]]:
    """Return (what, error) for a mini-batch of 6 samples with 5 features."""
    rng = np.random.default_rng(0)
    y = 1 + 2 * rng.standard_normal((6, 5))
    gamma, beta = rng.standard_normal((2, 5))
    target = rng.standard_normal((6, 5))
    rows = []

    def loss(ybar: Array) -> float:
        return float(((ybar - target) ** 4).sum(axis=1).mean())

    # one feature: the matrix of derivatives
    column = np.ascontiguousarray(y[:, :1])
    expected = numerical(lambda y: forward(y, eps)[0][:, 0], column)
    rows.append(("matrix: derived", error(derived(column, eps), expected)))
    rows.append(("matrix: printed", error(printed(column, eps), expected)))

    # all features: the gradient of a loss
    u, _, sigma = forward(y, eps)
    dout = 4 * (gamma * u + beta - target) ** 3 / len(y)
    g = gamma * dout
    gradient = numerical(lambda y: np.array(loss(gamma * forward(y, eps)[0] + beta)), y).reshape(y.shape)

    def assembled(matrix: Callable[[Array, float], Array], g: Array) -> Array:
        return np.column_stack([matrix(y[:, [i]], eps) @ g[:, i] for i in range(y.shape[1])])

    rows.append(("gradient: derived, upstream inside the sum", error(assembled(derived, g), gradient)))
    short = (g - g.mean(axis=0) - u * (g * u).mean(axis=0)) / sigma
    rows.append(("gradient: derived, short form", error(short, gradient)))
    dx, dgamma, dbeta = nbnorm.batch_norm_backward(dout, y, gamma, y.mean(axis=0), 1 / sigma)
    rows.append(("gradient: nbnorm.batch_norm_backward", error(dx, gradient)))
    rows.append(("gradient: printed matrix, upstream inside the sum", error(assembled(printed, g), gradient)))
    outside = assembled(printed, np.full_like(g, 1 / len(y)))
    rows.append(("gradient: printed, no upstream gradient", error(outside, gradient)))
    rows.append(("gradient: mean and variance taken as constants", error(g / sigma, gradient)))

    expected = numerical(lambda gamma: np.array(loss(gamma * u + beta)), gamma)
    rows.append(("dgamma: nbnorm.batch_norm_backward", error(dgamma, expected)))
    expected = numerical(lambda beta: np.array(loss(gamma * u + beta)), beta)
    rows.append(("dbeta: nbnorm.batch_norm_backward", error(dbeta, expected)))
    return rows


def main() -> None:
    """Print the table and, with --out, write it to a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="no effect: this takes a second")
    parser.add_argument("--out", type=Path, help="folder for derivation_check.txt")
    options = parser.parse_args()

    columns = [table(eps) for eps in (1e-5, 0.5)]
    lines = [f"{'largest relative error':52}{'eps = 1e-5':>12}{'eps = 0.5':>12}"]
    for (what, first), (_, second) in zip(*columns, strict=True):
        lines.append(f"{what:52}{first:12.1e}{second:12.1e}")
    text = "\n".join(lines)
    print(text)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "derivation_check.txt").write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
