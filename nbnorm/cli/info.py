"""``nbnorm info``: what a file holds: a trained network, statistics, or a checkpoint."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from nbnorm import Moments, Standardizer, _files
from nbnorm.cli import trained
from nbnorm.cli.common import BOLD, Commands, add_command, clipped, columns, padded, say, styled, whole
from nbnorm.model.checkpoints import KIND
from nbnorm.simd import target

if TYPE_CHECKING:
    from nbnorm.model.network import FNN

# Of a list so many are shown.
_MOST_LISTED = 12
# So many lines stand below a title.
_MOST_ROWS = 50
# What `train` notes about data and test; the other notes have lines of their own.
_DATA = ("data", "task", "target", "features", "classes", "test_size", "split_seed")
_TEST = ("test_accuracy", "test_r2", "test_rmse")


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    with _files.open_input(args.model) as file:
        is_json = file.read(1) == b"{"
    parts = _of_statistics(args.model) if is_json else _of_archive(args.model)
    size = os.path.getsize(args.model)
    args.result.update({"model": args.model, "bytes": size, **parts})
    say(f"{whole(args.model)}: {size:,} bytes")
    for title, part in parts.items():
        shown = dict(list(part.items())[:_MOST_ROWS])
        rows = [(_called(title, key), text) for key, value in shown.items() if (text := _text(value))]
        if rows:
            say("")
            say(styled(title.capitalize(), BOLD, sys.stdout))
            width = max(columns(key) for key, _ in rows)
            for key, text in rows:
                say(f"  {padded(key, width)}  {text}")
            if len(part) > _MOST_ROWS:
                say(f"  and {len(part) - _MOST_ROWS:,} more; --json has all")
    return 0


def _of_archive(path: str) -> dict[str, dict[str, Any]]:
    """Return what a network or a checkpoint is."""
    kind, config, arrays = _files.read_any(path, ["network", KIND])
    if kind == KIND:
        return _checkpoint(path, config, arrays)
    net, notes = trained.load(path)
    parts = {"network": _network(net), **_notes(net.metadata)}
    if described := notes.inputs.described():
        parts["data"]["columns"] = described
    return parts


def _checkpoint(path: str, config: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return how far the training of a checkpoint has come, and its settings."""
    settings = config.get("settings")
    if not isinstance(settings, dict):
        raise ValueError(f"checkpoint {path} has no settings")
    state = {key: config.get(key) for key in ("finished", "stopped", "epochs_trained", "best_epoch", "seed")}
    histories = {key.removeprefix("history/"): values for key, values in arrays.items() if "history/" in key}
    last = {
        key: float(values[-1])
        for key, values in histories.items()
        if key != "seconds" and values.ndim == 1 and values.size
    }
    shown = {
        key: str(value).strip("'") for key, value in settings.items() if value not in ("None", "{}", "[]")
    }
    return {"checkpoint": state, "last epoch": last, "settings": shown}


def _of_statistics(path: str) -> dict[str, dict[str, Any]]:
    """Return the statistics of columns, of `nbnorm standardize` or `Standardizer.to_dict`."""
    with _files.open_input(path) as file:
        try:
            data = json.loads(file.read().decode())
            if "moments" in data:
                standardizer = Standardizer.from_dict(data)
                moments = standardizer.moments_
                options = {name: getattr(standardizer, name) for name in ("with_mean", "with_std")}
            else:
                moments, options = Moments.from_dict(data), {}
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise ValueError(f"{path} holds no statistics: {error}") from None
    width = moments.n_features or 0
    names = moments.feature_names or [str(j) for j in range(width)]
    count, mean, std = (
        np.broadcast_to(part, width).tolist() for part in (moments.count, moments.mean, moments.std())
    )
    found = {
        name: {"mean": m, "std": s, "values": int(n)}
        for name, n, m, s in zip(names, count, mean, std, strict=True)
    }
    return {"statistics": {"features": width, **options}, "columns": found}


def _called(title: str, key: str) -> str:
    """Return how a line begins: a column's name is the user's, others are those of the file."""
    return clipped(key, 30) if title == "columns" else key.replace("_", " ")


def _network(net: FNN) -> dict[str, Any]:
    return {
        "sizes": list(net.sizes),
        "activation": _activations(net),
        "norm": net.norm,
        "output": net.output,
        "loss": net.loss.name,
        "dropout": list(net.dropout),
        "encoding": net.encoding,
        "standardized": net.standardizer is not None,
        "target_standardized": net.target_standardizer is not None,
        "dtype": net.dtype.name,
        "precision": net.precision,
        "native_products": target().bfloat16 if net.precision == "bfloat16" else None,
        "parameters": net.n_parameters,
        "epochs_trained": net.epochs_trained,
        "seed": net.seed,
    }


def _activations(net: FNN) -> list[str]:
    hidden = len(net.sizes) - 2
    given = net.activation if isinstance(net.activation, (list, tuple)) else [net.activation] * hidden
    return [str(getattr(one, "name", one)) for one in given]


def _notes(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the notes beside a network in groups, those that `train` does not know as well."""
    training = metadata.get("training")
    known = training if isinstance(training, dict) else {}
    groups = {
        "data": {key: metadata[key] for key in _DATA if key in metadata},
        "training": {key: value for key, value in known.items() if key not in ("sizes", "parameters")},
        "test": {key.removeprefix("test_"): metadata[key] for key in _TEST if metadata.get(key) is not None},
    }
    apart = {
        *_DATA,
        *_TEST,
        "training",
        "inputs",
        "date_formats",
        "class_counts",
        "target_mean",
        "target_range",
    }
    return {**groups, "other notes": {key: value for key, value in metadata.items() if key not in apart}}


def _text(value: object) -> str:
    """Return a value for the page, nothing for what says nothing."""
    if value is None or value == []:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        shown = ", ".join(clipped(one, 40) for one in value[:_MOST_LISTED])
        return shown + (f" and {len(value) - _MOST_LISTED:,} more" if len(value) > _MOST_LISTED else "")
    if isinstance(value, dict):
        return clipped(", ".join(f"{key} {_text(one)}" for key, one in value.items()), 200)
    if isinstance(value, float):
        return format(value, ".6g")
    return f"{value:,}" if isinstance(value, int) else clipped(value, 200)


_MORE = """\
Prints the network, the columns and classes it was trained on, the settings of the
training and the result of its test. Of the statistics of nbnorm standardize it prints
those of each column, of a checkpoint how far the training has come.

examples:
  nbnorm info nbnorm-digits.npz
  nbnorm info wine.npz --json
  nbnorm info s.json
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = add_command(commands, "info", run, "Describe a model, statistics or a checkpoint", _MORE)
    parser.add_argument("model", metavar="MODEL", help="a file that nbnorm has written")
    parser.set_defaults(threads=None)
