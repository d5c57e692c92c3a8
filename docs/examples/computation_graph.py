"""Draw the computation graph of batch normalization for one feature of a mini-batch."""

import argparse
from pathlib import Path


def draw(path: Path) -> None:
    """Write the figure to `path`."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.style.use(Path(__file__).with_name("figures.mplstyle"))

    rows = {"1": 2.0, r"\tau": 0.0, r"\Omega": -2.0}
    nodes = {r"$\mu$": (1.9, 1.0), r"$\sigma$": (3.3, -1.0), r"$\hat R$": (8.6, 0.0)}
    for name, height in rows.items():
        nodes[f"$y_{{{name}}}$"] = (0.0, height)
        nodes[f"$u_{{{name}}}$"] = (5.0, height)
        nodes[rf"$\bar y_{{{name}}}$"] = (6.8, height)
    nodes[r"$\gamma,\ \beta$"] = (6.1, 3.1)

    direct, through_mean, through_deviation, other = "0.35", "C0", "C1", "0.7"
    arrows = [(r"$\mu$", r"$\sigma$", through_mean)]
    for name in rows:
        y, u, out = f"$y_{{{name}}}$", f"$u_{{{name}}}$", rf"$\bar y_{{{name}}}$"
        arrows += [
            (y, u, direct),
            (y, r"$\mu$", through_mean),
            (r"$\mu$", u, through_mean),
            (y, r"$\sigma$", through_deviation),
            (r"$\sigma$", u, through_deviation),
            (u, out, direct),
            (out, r"$\hat R$", direct),
            (r"$\gamma,\ \beta$", out, other),
        ]

    figure, axis = plt.subplots(figsize=(7.4, 4.3), layout="constrained")
    for start, end, colour in arrows:
        axis.annotate(
            "",
            nodes[end],
            nodes[start],
            arrowprops={"arrowstyle": "-|>", "color": colour, "shrinkA": 15, "shrinkB": 15, "linewidth": 1.1},
        )
    for name, (x, height) in nodes.items():
        axis.text(
            x,
            height,
            name,
            ha="center",
            va="center",
            fontsize=13,
            bbox={"boxstyle": "circle,pad=0.32", "facecolor": "none", "edgecolor": "0.3"},
        )
    for height in (1.0, -1.0):
        axis.text(0.0, height, r"$\vdots$", ha="center", va="center", fontsize=13)
    axis.set(xlim=(-0.6, 9.2), ylim=(-2.7, 3.7))
    axis.set_axis_off()
    figure.savefig(path)
    plt.close(figure)


def main() -> None:
    """Draw the figure into the folder given by --out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="no effect: this takes a second")
    parser.add_argument("--out", type=Path, default=Path("."), help="folder for graph.svg")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    draw(options.out / "graph.svg")
    print(f"wrote {options.out / 'graph.svg'}")


if __name__ == "__main__":
    main()
