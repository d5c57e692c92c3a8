"""``nbnorm predict``: what a trained network makes of new samples."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nbnorm import _files
from nbnorm.cli import answers, trained
from nbnorm.cli.common import Commands, add_command, integer, output, plural, same_file, say, whole, wrapped
from nbnorm.data import csv_files, tables


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    net, notes = trained.load(args.model)
    if notes.classes is None and not notes.labels and (args.proba or args.threshold is not None):
        raise ValueError(
            f"--{'proba' if args.proba else 'threshold'} needs classes, and {args.model} has none"
        )
    if args.out is not None:
        for option, path in (("the model", args.model), ("the data", args.file)):
            if same_file(args.out, path):
                raise ValueError(f"--out {args.out} would overwrite {option}")
        _files.check_writable(args.out)
    samples, assessor = trained.Samples(args, net, notes), trained.Assessor(net, notes, args.threshold)
    columns: dict[str, list[Any]] = {}  # of the result as JSON
    # what goes to standard output waits on disk, so that nothing is printed if a later row is wrong
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", newline="")
        if args.out is None
        else csv_files.replace(args.out) as file
    ):
        for part in samples:
            with trained.explained(net, notes, part):
                answers_of_part = trained.answer(net, notes, part.X)
            assessor.add(part.table, answers_of_part)
            predicted = _columns(args, notes, answers_of_part)
            if args.out is None and args.json:
                for name, values in predicted.items():
                    columns.setdefault(name, []).extend(values)
            else:
                first = samples.count == len(part.table)
                delimiter = "," if args.out is None else csv_files.delimiter_of(args.out)
                tables.write_csv(file, predicted, delimiter, header=first)
        found = assessor.found()
        for note in samples.notes:
            print("\n".join(wrapped(note, sys.stderr)), file=sys.stderr)
        if args.out is None and found is None and not args.json:  # nothing else to show
            file.seek(0)
            with output() as out:
                shutil.copyfileobj(file, out)
    if found is not None:
        count = plural(found.missing, "sample")
        left_out = f"; {count} without a target left out" if found.missing else ""
        say(f"Predicted {samples.what}: {answers.headline(found.scores)}{left_out}")
    if args.out is not None:
        say(f"Predictions: {whole(args.out)}")
    args.result.update(
        {
            "samples": samples.count,
            "scores": None if found is None else found.scores,
            "missing_targets": None if found is None else found.missing,
            "out": args.out,
            "predictions": columns if args.out is None else None,
        }
    )
    return 0


def _columns(
    args: argparse.Namespace, notes: trained.Notes, values: npt.NDArray[Any]
) -> dict[str, Sequence[Any]]:
    """Return the columns of the predictions by name."""
    if notes.classes is not None:
        got = trained.decide(values, notes.classes, args.threshold)
        columns: dict[str, Sequence[Any]] = {"prediction": [notes.classes[number] for number in got]}
        if args.proba:
            return columns | {
                f"probability_{label}": values[:, k].tolist() for k, label in enumerate(notes.classes)
            }
        return columns | {"probability": values[np.arange(len(got)), got].tolist()}
    if notes.labels:
        said = answers.labels_of(values, args.threshold)
        answers_of = {f"prediction{k + 1}": said[:, k].astype(int).tolist() for k in range(notes.labels)}
        chances = {f"probability{k + 1}": values[:, k].tolist() for k in range(notes.labels)}
        return answers_of | (chances if args.proba else {})
    if values.ndim == 1:
        return {"prediction": values.tolist()}
    return {f"prediction{k + 1}": values[:, k].tolist() for k in range(values.shape[1])}


_MORE = """\
Where FILE has the target, the accuracy is printed (nbnorm evaluate says more); where it
has not and no --out is given, the predictions are. The columns are found by name.

examples:
  nbnorm predict nbnorm-digits.npz digits     the held-out digits
  nbnorm predict wine.npz new-wines.csv --out predictions.csv
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = add_command(commands, "predict", run, "Predict with a trained model", _MORE)
    trained.add_samples(parser)
    parser.add_argument(
        "--out", metavar="FILE", help="write the predictions as CSV; .tsv has tabs, .gz is compressed"
    )
    parser.add_argument("--proba", action="store_true", help="add the probability of each class")
    trained.add_threshold(parser)
    parser.add_argument("--threads", metavar="N", type=integer(1), help="threads to use (default: all)")
