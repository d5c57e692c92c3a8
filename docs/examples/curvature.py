"""Why inputs of unequal scale make training slow: the curvature of the empirical risk.

Example A has two heights in centimetres as inputs, example B a height and a number of children.
A linear neuron predicts a quantity to which both inputs contribute equally.  The script prints the
condition number of the Hessian of the risk and the steps that gradient descent takes, and draws
the contours of the risk with the paths.  The last part looks at a network with two hidden units.
"""

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nbnorm import moments, standardize

Array = npt.NDArray[np.float64]

PEOPLE = 500


def data() -> tuple[dict[str, Array], Array]:
    """Return the inputs of both examples and of B standardized, and the targets."""
    rng = np.random.default_rng(3)
    height = rng.normal(170.0, 10.0, PEOPLE)
    other = rng.normal(170.0, 10.0, PEOPLE)
    children = rng.poisson(1.9, PEOPLE).astype(float)

    def target(second: Array) -> Array:
        inputs = [(column - column.mean()) / column.std() for column in (height, second)]
        return inputs[0] + inputs[1] + rng.normal(0.0, 0.5, PEOPLE)

    first = np.column_stack([height, other])
    second = np.column_stack([height, children])
    seen = moments(second)
    scaled = standardize(second, seen.mean, seen.std())
    inputs = {"A: two heights": first, "B: height, children": second, "B standardized": scaled}
    return inputs, np.column_stack([target(other), target(children)])


def with_bias(x: Array) -> Array:
    """Return the inputs with a column of ones, whose weight is the bias."""
    return np.column_stack([x, np.ones(len(x))])


def hessian(x: Array) -> Array:
    """Return the Hessian of (1/B) sum_b (w x_b - v_b)^2 / 2, which is the same everywhere."""
    return x.T @ x / len(x)


def minimum(x: Array, v: Array) -> Array:
    """Return the two weights of least risk."""
    centred = x - x.mean(axis=0)
    return np.linalg.solve(hessian(centred), centred.T @ v / len(x))


def descend(x: Array, v: Array) -> Array:
    """Return the path of gradient descent over the two weights, with the best constant learning rate.

    The bias is at its best value throughout, which is the same as centred data.  The path ends
    where all but a millionth of the way down to the minimum is done.
    """
    h = hessian(x - x.mean(axis=0))
    best = minimum(x, v)
    curvature = np.linalg.eigvalsh(h)
    lr = 2 / (curvature[0] + curvature[-1])
    away = np.abs(best).max() * np.array([-1.15, 1.0])
    path = [best + away]
    goal = 1e-6 * (away @ h @ away)
    while away @ h @ away > goal:
        path.append(path[-1] - lr * (h @ away))
        away = path[-1] - best
    return np.array(path)


def network_risk(parameters: Array, x: Array, v: Array) -> float:
    """Risk of a network with two inputs, two tanh units and one output."""
    hidden = np.tanh(x @ parameters[:4].reshape(2, 2).T + parameters[4:6])
    return float(((hidden @ parameters[6:8] + parameters[8] - v) ** 2).mean() / 2)


def second_derivatives(parameters: Array, x: Array, v: Array, scale: Array) -> Array:
    """Return the curvature of the network's risk in the direction of each of its parameters."""
    steps = 1e-4 / scale
    here = network_risk(parameters, x, v)
    out = []
    for i, step in enumerate(steps):
        unit = np.zeros_like(parameters)
        unit[i] = step
        ahead, behind = network_risk(parameters + unit, x, v), network_risk(parameters - unit, x, v)
        out.append((ahead - 2 * here + behind) / step**2)
    return np.array(out)


def network_ratio(x: Array, v: Array, starts: int) -> float:
    """Return the median ratio of curvatures in the directions of the weights of input 1 and of input 2.

    Over random starts at which the hidden units are not saturated.
    """
    rng = np.random.default_rng(0)
    size = x.std(axis=0)
    ratios = []
    for _ in range(starts):
        weight = rng.standard_normal((2, 2)) / size
        bias = -weight @ x.mean(axis=0)
        parameters = np.concatenate([weight.ravel(), bias, rng.standard_normal(2), [v.mean()]])
        scale = np.concatenate([size, size, np.ones(5)])
        curvature = np.abs(second_derivatives(parameters, x, v, scale)[:4].reshape(2, 2)).sum(axis=0)
        ratios.append(curvature[0] / curvature[1])
    return float(np.median(ratios))


def draw(inputs: dict[str, Array], targets: Array, path: Path) -> None:
    """Draw the contours of the risk over the two weights, with the bias at its best value."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.style.use(Path(__file__).with_name("figures.mplstyle"))

    figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.7), layout="constrained")
    for axis, (name, x) in zip(axes, inputs.items(), strict=True):
        v = targets[:, int(name.startswith("B"))]
        h = hessian(x - x.mean(axis=0))
        best = minimum(x, v)
        way = descend(x, v)
        reach = 1.6 * np.abs(best).max()
        w1, w2 = (np.linspace(b - reach, b + reach, 201) for b in best)
        away = np.stack(np.meshgrid(w1 - best[0], w2 - best[1]), axis=-1)
        risk = np.einsum("...i,ij,...j->...", away, h, away) / 2
        levels = risk.max() * np.linspace(0.02, 1.0, 12) ** 2
        axis.contour(w1, w2, risk, levels=levels, colors="0.7", linewidths=0.8)
        axis.plot(*way.T, ".-", color="C0", linewidth=1.2, markersize=4)
        axis.plot(*best, "+", color="C1", markersize=11, markeredgewidth=2)
        curvature = np.linalg.eigvalsh(h)
        axis.set(
            title=f"{name}\ncondition {curvature[-1] / curvature[0]:.3g}, {len(way) - 1} steps",
            xlabel="$w_1$",
            ylabel="$w_2$",
            aspect="equal",
        )
    figure.savefig(path)
    plt.close(figure)


def main() -> None:
    """Print the table and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="fewer random starts")
    parser.add_argument("--out", type=Path, help="folder for curvature.txt and curvature.svg")
    options = parser.parse_args()

    inputs, targets = data()
    lines = [
        f"{'':22}{'condition number':>18}{'condition number':>18}{'steps':>8}{'network: curvature':>20}",
        f"{'':22}{'weights and bias':>18}{'weights alone':>18}{'':>8}{'input 1 / input 2':>20}",
    ]
    for name, x in inputs.items():
        v = targets[:, int(name.startswith("B"))]
        full = np.linalg.cond(hessian(with_bias(x)))
        weights = np.linalg.cond(hessian(x - x.mean(axis=0)))
        ratio = network_ratio(x, v, 20 if options.short else 200)
        lines.append(f"{name:22}{full:18.3g}{weights:18.3g}{len(descend(x, v)) - 1:8d}{ratio:20.3g}")
    text = "\n".join(lines)
    print(text)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "curvature.txt").write_text(text + "\n", "utf-8")
        draw(inputs, targets, options.out / "curvature.svg")


if __name__ == "__main__":
    main()
