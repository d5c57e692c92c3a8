"""``nbnorm warmup``: compile ahead of the first use."""

from __future__ import annotations

import argparse
from typing import Any

from nbnorm.cli.common import FAILED, Commands, add_command, fail, say, whole
from nbnorm.compile.clock import announced
from nbnorm.compile.folder import cache_folder


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from nbnorm.model.warmup import warm_up

    folder = cache_folder()
    if folder is None:
        return fail("no folder for compiled code can be written: set NUMBA_CACHE_DIR to one", FAILED)
    say(f"Compiling into {whole(folder)}")
    steps: list[dict[str, Any]] = []
    with announced(lambda kept: None):  # each line below says how long that was
        for step in warm_up(args.dtype, args.only):
            seconds = f"{step.compiled:6.1f} s" if step.compiled else "  cached"
            say(f"{step.number:3} of {step.total}  {seconds}  {step.name}")
            steps.append({"name": step.name, "compile_seconds": step.compiled, "seconds": step.seconds})
    files = sorted(folder.glob("*.nbc"))
    size = sum(file.stat().st_size for file in files)
    compiled = sum(one["compile_seconds"] for one in steps)
    say(f"{len(files):,} kernels, {size / 1e6:.1f} MB, {compiled:.0f} s of compilation")
    args.result.update(
        {
            "folder": str(folder),
            "kernels": len(files),
            "bytes": size,
            "compile_seconds": compiled,
            "steps": steps,
        }
    )
    return 0


_MORE = """\
Fills the cache of compiled code, so that the first training does not wait for
it: when an image of a container is built, or before many processes start. The
code is for the processor on which it is compiled; NUMBA_CPU_NAME names another
one. NUMBA_CACHE_DIR names the folder; a program that may only read it uses it
too. What is in the cache already takes no time.

examples:
  nbnorm warmup
  nbnorm warmup --dtype float32 --only networks
  NUMBA_CACHE_DIR=kernels nbnorm warmup
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = add_command(commands, "warmup", run, "Compile ahead of the first use", _MORE)
    parser.add_argument(
        "--dtype",
        nargs="+",
        metavar="DTYPE",
        choices=("float32", "float64"),
        default=["float32", "float64"],
        help="types of networks and data: float32, float64 (default: both)",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="WHAT",
        choices=("networks", "statistics", "functions"),
        default=["networks", "statistics", "functions"],
        help="what to compile: networks, statistics, functions (default: all)",
    )
    parser.set_defaults(threads=None)
