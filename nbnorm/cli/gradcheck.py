"""``nbnorm gradcheck``: compare every gradient of the package with a numerical one."""

from __future__ import annotations

import argparse
import math

from nbnorm.cli.common import (
    FAILED,
    Commands,
    add_command,
    page,
    say,
)

GRADIENT_BAR = 1e-6


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from nbnorm.model.gradient_table import table

    rows = [(str(function), str(option), float(error)) for function, option, error in table()]
    functions, options = (max(len(str(row[i])) for row in rows) for i in (0, 1))
    narrow = functions + options + len("    1.0e-09") > page()
    for function, option, error in rows:
        if narrow:
            say(f"{function}, {option.replace('(', ' (')}: {error:.1e}")
        else:
            say(f"{function:{functions}}  {option:{options}}  {error:.1e}")
    # A comparison that NaN fails.
    worst = max((error for *_, error in rows), key=lambda error: math.inf if math.isnan(error) else error)
    good = worst <= GRADIENT_BAR
    say(f"largest relative error {worst:.1e}, {'within' if good else 'ABOVE'} {GRADIENT_BAR:.0e}")
    args.result.update(
        {
            "largest": worst,
            "bound": GRADIENT_BAR,
            "errors": [{"function": row[0], "option": row[1], "error": row[2]} for row in rows],
        }
    )
    return 0 if good else FAILED


_MORE = """\
Prints the largest relative error for each function and option. Exit status 1 if any is
above 1e-6.
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "gradcheck",
        run,
        "Compare every gradient of the package with a numerical one",
        _MORE,
    )
    parser.set_defaults(threads=None)
