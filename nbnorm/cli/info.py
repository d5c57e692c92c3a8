"""``nbnorm info``: what the file of a trained network holds."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nbnorm.cli import trained
from nbnorm.cli.common import BOLD, Commands, add_command, clipped, say, styled, whole
from nbnorm.simd import target

if TYPE_CHECKING:
    from nbnorm.model.network import FNN

# Of a list so many are shown.
_MOST_LISTED = 12
# What `train` notes about data and test; the other notes have lines of their own.
_DATA = ("data", "task", "target", "features", "classes", "test_size", "split_seed")
_TEST = ("test_accuracy", "test_r2", "test_rmse")


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    net, notes = trained.load(args.model)
    size = os.path.getsize(args.model)
    parts = {"network": _network(net), **_notes(net.metadata)}
    if columns := notes.inputs.described():
        parts["data"]["columns"] = columns
    args.result.update({"model": args.model, "bytes": size, **parts})
    say(f"{whole(args.model)}: {size:,} bytes")
    for title, part in parts.items():
        rows = [(key.replace("_", " "), _text(value)) for key, value in part.items()]
        rows = [(key, text) for key, text in rows if text]
        if rows:
            say("")
            say(styled(title.capitalize(), BOLD, sys.stdout))
            width = max(len(key) for key, _ in rows)
            for key, text in rows:
                say(f"  {key:{width}}  {text}")
    return 0


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
    apart = {*_DATA, *_TEST, "training", "inputs", "date_formats", "class_counts", "target_mean"}
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
        return clipped(", ".join(f"{key} {one}" for key, one in value.items()), 200)
    if isinstance(value, float):
        return format(value, ".6g")
    return f"{value:,}" if isinstance(value, int) else clipped(value, 200)


_MORE = """\
Prints the network, the columns and classes it was trained on, the settings of the
training and the result of its test.

examples:
  nbnorm info nbnorm-digits.npz
  nbnorm info wine.npz --json
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = add_command(commands, "info", run, "Show what a trained model is", _MORE)
    parser.add_argument("model", metavar="MODEL", help="a file that nbnorm train has saved")
    parser.set_defaults(threads=None)
