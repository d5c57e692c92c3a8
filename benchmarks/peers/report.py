"""Tables and plots of what has been measured."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from .charts import pyplot

# Order and colours of the contestants, everywhere.
COLOURS = {
    "nbnorm": "#0072B2",
    "torch eager": "#E69F00",
    "torch.compile": "#D55E00",
    "jax jit": "#56B4E9",
    "jax scan": "#009E73",
    "scikit-learn": "#999999",
    "nbnorm bfloat16": "#0b3c5d",
    "torch eager bfloat16": "#aa5533",
    "torch.compile bfloat16": "#771100",
    "jax scan bfloat16": "#115522",
}

# Bytes of an array from which the memory, not a cache, has to deliver it.
BEYOND_CACHES = 1 << 25

Results = dict[str, Any]


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    unit, scale = next((pair for pair in (("s", 1.0), ("ms", 1e3)) if seconds * pair[1] >= 1.0), ("us", 1e6))
    return f"{seconds * scale:.3g} {unit}"


def _ratio(other: float | None, ours: float) -> str:
    return "" if other is None else f"{other / ours:.2f}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    """Return a table of Markdown, without the columns that hold nothing."""
    filled = [name for name, *cells in zip(head, *rows, strict=True) if any(cells)]
    rows = [[cell for name, cell in zip(head, row, strict=True) if name in filled] for row in rows]
    lines = [filled, ["---"] * len(filled), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def network(entry: Results) -> str:
    """Name of a row: its layers and its batch."""
    return f"{'-'.join(map(str, entry['sizes']))}, {entry['batch']}"


def _best(seconds: dict[str, float], *names: str) -> float | None:
    return min((seconds[name] for name in names if name in seconds), default=None)


def _bfloat16_ratio(seconds: dict[str, float]) -> str:
    """Return the best time of torch in bfloat16, divided by nbnorm's, where there is one."""
    if "nbnorm bfloat16" not in seconds:
        return ""
    peers = "torch eager bfloat16", "torch.compile bfloat16"
    return _ratio(_best(seconds, *peers), seconds["nbnorm bfloat16"])


def training(entries: list[Results]) -> str:
    """Times of a step, then ratios and the share of the machine's multiply-adds."""
    times, ratios = [], []
    names = [name for name in COLOURS if any(name in entry["seconds"] for entry in entries)]
    for entry in entries:
        seconds, ours = entry["seconds"], entry["seconds"]["nbnorm"]
        begin = [network(entry), entry["norm"], str(entry["threads"])]
        times.append(begin + [_time(seconds.get(name)) for name in names])
        rate = entry["megaflops"] / 1e3 / ours
        ratios.append(
            [
                *begin,
                _ratio(_best(seconds, "jax scan"), ours),
                _ratio(_best(seconds, "jax jit"), ours),
                _ratio(_best(seconds, "torch eager", "torch.compile"), ours),
                _ratio(_best(seconds, "scikit-learn"), ours),
                _bfloat16_ratio(seconds),
                f"{rate:.0f}",
                f"{entry['limits']['gflops']:.0f}",
                f"{100 * rate / entry['limits']['gflops']:.0f} %",
            ]
        )
    head = ["layers, batch", "norm", "threads"]
    differences: dict[str, list[list[float]]] = {}
    for entry in entries:
        for kind, found in entry["differences"].items():
            alike = [pair for name, pair in found.items() if not name.endswith("bfloat16")]
            differences.setdefault(kind, []).extend(alike)
    absent = sorted({f"{name}: {why}" for entry in entries for name, why in entry["absent"].items()})
    text = "Time of a step:\n\n" + _table([*head, *names], times)
    text += "\nTimes of the peers divided by nbnorm's, and nbnorm's share of the measured multiply-adds"
    if any("nbnorm bfloat16" in entry["seconds"] for entry in entries):
        text += " (torch bfloat16: the better one, divided by nbnorm's in bfloat16)"
    text += ":\n\n"
    columns = [
        "jax scan",
        "jax jit",
        "best torch",
        "scikit-learn",
        "torch bfloat16",
        "GFLOP/s",
        "limit",
        "share",
    ]
    text += _table([*head, *columns], ratios)
    largest = "; ".join(
        f"with {kind} {max(loss for loss, _ in found):.1e} of the loss "
        f"and {max(way for _, way in found):.1e} of the way of an array"
        for kind, found in differences.items()
        if found
    )
    if largest:
        text += f"\nLargest difference from nbnorm before timing: {largest}.\n"
    return text + "".join(f"\nNot measured: {line}\n" for line in absent)


def activations(entries: list[Results]) -> str:
    """Times of nbnorm's sigmoid and tanh networks relative to relu."""
    rows = []
    for entry in entries:
        times = entry["seconds"]
        rows.append(
            [
                network(entry),
                entry["norm"],
                str(entry["threads"]),
                _time(times["relu"]),
                *(f"{times[name] / times['relu']:.2f}" for name in ("sigmoid", "tanh")),
            ]
        )
    return _table(["layers, batch", "norm", "threads", "relu", "sigmoid / relu", "tanh / relu"], rows)


def batch_norm(entries: list[Results]) -> str:
    """Times of batch norm beside torch's and beside what memory allows."""
    rows = []
    for entry in entries:
        large = 4 * math.prod(entry["shape"]) >= BEYOND_CACHES
        for what, label in (("forward", "forward"), ("both", "forward + backward")):
            ours, other = entry["seconds"][what]["nbnorm"], entry["seconds"][what]["torch"]
            rows.append(
                [
                    " x ".join(map(str, entry["shape"])),
                    label,
                    str(entry["threads"]),
                    _time(ours),
                    _time(other),
                    f"{other / ours:.2f}",
                    f"{100 * entry['floor'][what] / ours:.0f} %" if large else "",
                ]
            )
    head = ["batch x features", "", "threads", "nbnorm", "torch", "torch / nbnorm", "memory limit / nbnorm"]
    return _table(head, rows)


def mnist(entries: list[Results]) -> str:
    """Seconds to the target, seconds of an epoch, peak memory."""
    rows = []
    for entry in entries:
        for name, run in entry["runs"].items():
            epochs = len(run["seconds"])
            rows.append(
                [
                    name,
                    str(entry["threads"]),
                    "not reached" if run["reached"] is None else _time(run["reached"]),
                    _time(run["seconds"][-1] / epochs),
                    f"{100 * run['accuracy'][-1]:.2f} %",
                    _time(run["startup"]),
                    f"{run['memory'] / 1e6:.0f} MB",
                ]
            )
    target = f"to {100 * entries[0]['target']:.0f} %" if entries else "to target"
    head = ["", "threads", target, "an epoch", "accuracy at the end", "import, read, compile", "peak memory"]
    return _table(head, rows)


def machine(results: Results) -> str:
    """One paragraph: the machine, its limits, the versions."""
    about = results["machine"]
    units = {"gflops": "GFLOP/s float32", "read": "GB/s read", "copy": "GB/s copied (read and written)"}
    limits = "; ".join(
        f"{count} thread{'s' if int(count) > 1 else ''}: "
        + ", ".join(f"{limit[key]:.0f} {unit}" for key, unit in units.items() if key in limit)
        for count, limit in results["limits"].items()
    )
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    return (
        f"Machine: {about['processor']} ({about['microarchitecture']}, {about['features']}), "
        f"{about['cores']} cores, {about['system']}.\nMeasured limits: {limits}.\n"
        f"Versions: Python {about['python']}, {versions}.\n"
    )


PARTS = {
    "training": ("Training step", training),
    "activations": ("Activations", activations),
    "batch_norm": ("Batch norm alone", batch_norm),
    "mnist": ("MNIST, 784-512-512-10, batches of 128", mnist),
}


def markdown(results: Results) -> str:
    """All tables."""
    text = machine(results)
    for part, (title, table) in PARTS.items():
        entries = list(results.get(part, {}).values())
        if entries:
            text += f"\n## {title}\n\n{table(entries)}"
    return text


def plots(results: Results, folder: Path) -> None:
    """Draw training.svg and mnist.svg from the entries with the most threads."""
    plt = pyplot()

    def most(part: str) -> list[Results]:
        entries = list(results.get(part, {}).values())
        threads = max((entry["threads"] for entry in entries), default=0)
        return [entry for entry in entries if entry["threads"] == threads]

    entries = [entry for entry in most("training") if entry["norm"] == "after"]
    if entries:
        figure, axes = plt.subplots(figsize=(9.0, 4.0))
        shown = [name for name in COLOURS if any(name in entry["seconds"] for entry in entries)]
        width = 0.8 / len(shown)
        for k, name in enumerate(shown):
            places = [i for i, entry in enumerate(entries) if name in entry["seconds"]]
            ratios = [entries[i]["seconds"][name] / entries[i]["seconds"]["nbnorm"] for i in places]
            label = name + (" (no batch norm)" if name == "scikit-learn" else "")
            at = [i + (k - (len(shown) - 1) / 2) * width for i in places]
            bars = axes.bar(at, ratios, width, color=COLOURS[name], label=label)
            axes.bar_label(bars, fmt="%.3g", fontsize=7, rotation=90, padding=3)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_xticks(range(len(entries)), [network(entry) for entry in entries], fontsize=8)
        axes.set_ylabel("time of a step / nbnorm's")
        threads = entries[0]["threads"]
        axes.set_title(f"One training step with batch norm, {threads} thread(s)", fontsize=10)
        axes.axhline(1.0, color="black", linewidth=0.8)
        axes.set_ylim(0.5, 2.0 * axes.get_ylim()[1])
        axes.grid(visible=False, axis="x")
        figure.legend(loc="outside lower center", fontsize=8, ncols=min(len(shown), 6))
        figure.savefig(folder / "training.svg")
        plt.close(figure)
    for entry in most("mnist")[:1]:
        figure, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.6), width_ratios=(2.2, 1.0))
        runs = {name: entry["runs"][name] for name in COLOURS if name in entry["runs"]}
        for name, run in runs.items():
            accuracy = [100 * value for value in run["accuracy"]]
            left.plot(run["seconds"], accuracy, ".-", color=COLOURS[name], label=name)
        left.axhline(100 * entry["target"], color="black", linewidth=0.8, linestyle=":")
        left.set_xlim(left=0.0)
        left.set_xlabel("seconds of training")
        left.set_ylabel("test accuracy in %")
        left.legend(fontsize=8)
        right.barh(
            list(runs), [run["memory"] / 1e6 for run in runs.values()], color=[COLOURS[name] for name in runs]
        )
        right.invert_yaxis()
        right.grid(visible=False, axis="y")
        right.set_xlabel("peak memory in MB")
        right.tick_params(labelsize=8)
        figure.suptitle(f"MNIST, 784-512-512-10, batches of 128, {entry['threads']} thread(s)", fontsize=10)
        figure.savefig(folder / "mnist.svg")
        plt.close(figure)
