"""``nbnorm standardize``: standardize the columns of a file of any size."""

from __future__ import annotations

import argparse
import os

from nbnorm.cli.common import Commands, add_command, add_csv, csv_options, integer, same_file, say, whole


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from nbnorm.data.streams import standardize_file

    if args.inverse and args.stats is None:
        raise ValueError("--inverse needs --stats, the statistics that the data were standardized with")
    known = args.stats is not None and os.path.exists(args.stats)
    if args.inverse and not known:
        raise ValueError(f"--stats {args.stats} does not exist, and --inverse has to read it")
    for other in (args.source, args.stats):
        if other is not None and same_file(args.destination, other):
            raise ValueError(
                f"{args.destination} would be overwritten while it is needed: choose another name"
            )
    if args.stats is not None and same_file(args.source, args.stats):
        raise ValueError(f"--stats {args.stats} is the data: choose another name for the statistics")
    moments = standardize_file(
        args.source,
        args.destination,
        stats=args.stats if known else None,
        save_stats=None if known else args.stats,
        inverse=args.inverse,
        keep=args.keep,
        only=args.only,
        missing=args.missing,
        options=csv_options(args),
        progress=False if args.quiet else None,
        report=say,
    )
    where = "its own statistics" if args.stats is None else f"the statistics in {whole(args.stats)}"
    if args.stats is not None and not known:
        where = f"its own statistics, kept in {whole(args.stats)}"
    verb = "Restored" if args.inverse else "Standardized"
    say(f"{verb} {whole(args.source)} with {where}: {whole(args.destination)}")
    args.result.update(
        {
            "source": args.source,
            "destination": args.destination,
            "stats": args.stats,
            "inverse": args.inverse,
            "statistics": moments.to_dict(),
        }
    )
    return 0


_MORE = """\
(x - mean) / standard deviation for each column. A file of any size is read in
chunks. Standardize new data with the statistics of the training data; name columns of
text and a numeric target with --except, the same ones every time:

examples:
  nbnorm standardize train.csv train-std.csv --stats s.json   writes s.json
  nbnorm standardize new.csv new-std.csv --stats s.json       reads s.json
  nbnorm standardize new-std.csv again.csv --stats s.json --inverse
  nbnorm standardize houses.csv houses-std.csv --except street --except price
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = add_command(commands, "standardize", run, "Standardize the columns of a file", _MORE)
    parser.add_argument("source", metavar="IN", help="the data")
    parser.add_argument("destination", metavar="OUT", help="the file to write")
    parser.add_argument(
        "--stats", metavar="FILE", help="statistics: read if FILE exists, otherwise fitted to IN and written"
    )
    parser.add_argument("--inverse", action="store_true", help="undo it; needs --stats")
    parser.add_argument(
        "--missing",
        choices=("keep", "refuse"),
        default="keep",
        help="keep missing values or refuse them (default: keep)",
    )
    columns = parser.add_argument_group("columns", "Options with COLUMN may be repeated.")
    for option, dest, what in (
        ("--except", "keep", "copy this column unchanged, without statistics"),
        ("--only", "only", "standardize this column and copy all others but those named in the same way"),
    ):
        columns.add_argument(option, dest=dest, metavar="COLUMN", action="append", default=[], help=what)
    add_csv(parser)
    parser.add_argument("--threads", metavar="N", type=integer(1), help="threads to use (default: all)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
