"""``nbnorm convert``: a table from one kind of file into another."""

from __future__ import annotations

import argparse

from nbnorm.cli.common import Commands, add_columns, add_command, given_columns, plural, same_file, say, whole


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from nbnorm.data.convert import convert_file

    if same_file(args.source, args.destination):
        raise ValueError(f"{args.destination} would be overwritten while it is read: choose another name")
    found = convert_file(
        args.source,
        args.destination,
        target=args.target,
        categories=args.categories,
        **given_columns(args),
    )
    for note in found["notes"]:
        say(note)
    rows, columns = plural(found["rows"], "row"), plural(len(found["columns"]), "column")
    say(f"Converted {whole(args.source)}, {rows} of {columns}: {whole(args.destination)}")
    args.result.update(found, source=args.source, destination=args.destination)
    return 0


_MORE = """\
From .csv, .tsv or .txt (also with .gz behind it), .parquet, .feather, .arrow or .npz
into .csv, .tsv (these too), .parquet, .feather, .arrow or .npz. A file of any size is
read in parts, but for .npz, which is read whole. What a CSV column holds is decided by its first 1,000
rows; columns of whole numbers become integers, gaps stay gaps.

examples:
  nbnorm convert big.csv big.parquet
  nbnorm convert houses.csv houses.npz --target price --except street
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = add_command(commands, "convert", run, "Turn a table into another kind of file", _MORE)
    parser.add_argument("source", metavar="IN", help="the data")
    parser.add_argument("destination", metavar="OUT", help="the file to write")
    parser.add_argument("--target", metavar="COLUMN", help="column that becomes the array y of an .npz file")
    add_columns(parser)
    parser.set_defaults(threads=None)
