"""Kill ranks of a training at random moments: every job ends, and the training goes on to the same bits.

    python -m benchmarks.rank_faults [--kills 10] [--seed 0] [--epochs 40] [--launcher mpiexec]

It needs mpi4py and the `mpiexec` of an MPI.  A training on the bundled digits writes a checkpoint every
twentieth of a second.  A random one of its ranks is killed after a random time; then the training goes on
with another number of ranks.  One that has come to its end is compared with an undisturbed one on one rank,
and the next begins.
"""

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from nbnorm import FNN, AdamW, load_digits

LONGEST = 60.0  # seconds within which a job must have ended after a kill


def train(folder: Path, name: str, epochs: int) -> None:
    """Train as one rank of a job, and let rank 0 write a digest of the parameters."""
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    rank, size = comm.Get_rank(), comm.Get_size()
    (folder / f"{rank}.pid").write_text(str(os.getpid()), "utf-8")
    X, y = load_digits()
    rows = slice(rank * len(X) // size, (rank + 1) * len(X) // size)
    net = FNN([64, 32, 32, 10], dropout=0.1, seed=0)
    net.fit(
        X[rows], y[rows], comm=comm, epochs=epochs, batch_size=128, optimizer=AdamW(0.003),
        checkpoint=folder / f"{name}.npz", checkpoint_every=0.05, progress=False,
    )  # fmt: skip
    if rank == 0:
        held = b"".join(values.tobytes() for values in {**net.parameters(), **net.buffers()}.values())
        (folder / f"{name}.digest").write_text(hashlib.sha256(held).hexdigest(), "utf-8")


def start(launcher: str, ranks: int, folder: Path, name: str, epochs: int) -> subprocess.Popen[str]:
    """Start a job."""
    for path in folder.glob("*.pid"):
        path.unlink()
    command = [launcher, "-n", str(ranks), sys.executable, "-m", "benchmarks.rank_faults", "--train"]
    return subprocess.Popen(
        [*command, str(folder), name, str(epochs)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "NUMBA_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )


def running(pids: list[int]) -> list[int]:
    """Return those processes that still run."""
    found = []
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state not in "ZX":
            found.append(pid)
    return found


def disturb(job: subprocess.Popen[str], folder: Path, ranks: int, delay: float, victim: int) -> str | None:
    """Kill a rank after a time and wait for the end of the job; return None if that came first."""
    begun = time.monotonic()
    while len(list(folder.glob("*.pid"))) < ranks or time.monotonic() - begun < delay:
        if job.poll() is not None:
            return None
        time.sleep(0.01)
    pids = [int((folder / f"{rank}.pid").read_text("utf-8")) for rank in range(ranks)]
    os.kill(pids[victim], signal.SIGKILL)
    killed = time.monotonic()
    said = job.communicate(timeout=LONGEST)[0]  # a hang is an error
    seconds = time.monotonic() - killed
    if job.returncode == 0:
        return None  # it was done when the signal came
    left = running(pids)
    if left:
        raise RuntimeError(f"processes {left} outlive their job: {said}")
    line = next(
        (line.strip("= \n") for line in said.splitlines() if "TERMINATION" in line or "signal" in line), ""
    )
    return f"ended after {seconds:.1f} s, {line!r}"


def main() -> None:
    """Run jobs until so many ranks have been killed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--launcher", help="what starts the ranks (default: mpiexec)")
    parser.add_argument("--train", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train:
        train(Path(args.train[0]), args.train[1], int(args.train[2]))
        return
    beside = Path(sys.executable).with_name("mpiexec")
    launcher = args.launcher or (str(beside) if beside.exists() else shutil.which("mpiexec"))
    if launcher is None:
        raise SystemExit("mpiexec is missing: pip install mpich")
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        begun = time.monotonic()
        job = start(launcher, 1, folder, "whole", args.epochs)
        said = job.communicate()[0]
        if job.returncode:
            raise SystemExit(said)
        seconds = time.monotonic() - begun
        expected = (folder / "whole.digest").read_text("utf-8")
        kills = training = 0
        while kills < args.kills:
            ranks = rng.choice([2, 3, 4])
            job = start(launcher, ranks, folder, f"training-{training}", args.epochs)
            victim = rng.randrange(ranks)
            seen = disturb(job, folder, ranks, rng.uniform(0.0, seconds), victim)
            if seen is not None:
                kills += 1
                print(f"kill {kills}: rank {victim} of {ranks}, the job {seen}", flush=True)
                continue
            if job.wait():
                raise SystemExit(job.communicate()[0])
            same = (folder / f"training-{training}.digest").read_text("utf-8") == expected
            print(f"training {training} has ended with {ranks} ranks, same bits: {same}", flush=True)
            if not same:
                raise SystemExit(1)
            training += 1
        job = start(launcher, 2, folder, f"training-{training}", args.epochs)
        said = job.communicate()[0]
        same = job.returncode == 0 and (folder / f"training-{training}.digest").read_text("utf-8") == expected
        print(f"training {training} has ended with 2 ranks, same bits: {same}")
        if not same:
            raise SystemExit(said)


if __name__ == "__main__":
    main()
