"""``nbnorm evaluate``: what a trained network is worth on samples whose answers are known."""

from __future__ import annotations

import argparse

from nbnorm import plots
from nbnorm.cli import answers, trained
from nbnorm.cli.common import Commands, add_command, integer, plural, same_file, say, whole


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    net, notes = trained.load(args.model)
    if notes.classes is None and not notes.labels and args.threshold is not None:
        raise ValueError(f"--threshold needs classes, and {args.model} has none")
    if notes.labels and args.plot is not None:
        raise ValueError(f"--plot draws classes or values, and {args.model} has {notes.labels} labels")
    if args.plot is not None:
        if any(same_file(args.plot, path) for path in (args.model, args.file)):
            raise ValueError(f"--plot {args.plot} would overwrite what is read")
        plots.check_format(args.plot)
    samples, assessor = trained.Samples(args, net, notes), trained.Assessor(net, notes, args.threshold)
    for part in samples:
        with trained.explained(net, notes, part):
            assessor.add(part.table, trained.answer(net, notes, part.X))
    found = assessor.found()
    if found is None:
        target = args.target or notes.target
        name = "" if target is None else f" {target!r}"
        raise ValueError(f"{args.file} has no target{name} to compare with: see nbnorm predict")
    for note in samples.notes:
        say(note)
    headline = answers.headline(found.scores)
    say(f"Evaluated {samples.what}: {headline}")
    if found.missing:
        say(f"{plural(found.missing, 'sample')} without a target left out")
    for line in answers.lines(found.scores):
        say(line)
    if args.plot is not None:
        plots.answers(found.scores, args.plot, points=found.points, title=f"{args.file}: {headline}")
        say(f"Picture: {whole(args.plot)}")
    args.result.update(found.scores, model=args.model, data=args.file, missing_targets=found.missing)
    return 0


_MORE = """\
Prints what nbnorm train prints about its held-out samples. FILE must have the target.
Labels that the model has never seen are listed and counted as wrong.

examples:
  nbnorm evaluate nbnorm-digits.npz digits     the held-out digits
  nbnorm evaluate wine.npz new-wines.csv --plot wine.png
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = add_command(commands, "evaluate", run, "Test a trained model on new data", _MORE)
    trained.add_samples(parser)
    trained.add_threshold(parser)
    parser.add_argument(
        "--plot", metavar="FILE", help="draw the confusion matrix, or predictions against truth"
    )
    parser.add_argument("--threads", metavar="N", type=integer(1), help="threads to use (default: all)")
