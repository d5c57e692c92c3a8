"""What the machine can do at best: multiply-adds and memory traffic, measured with vector code.

``python -m benchmarks.peers.machine`` prints the limits as JSON.  Nothing of nbnorm runs here: the loops
are compiled by LLVM directly from the text below, and foreign calls leave the interpreter to the other
threads.
"""

import ctypes
import functools
import json
import os
import platform
import re
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np

# Enough independent chains of multiply-adds to hide their latency on every current CPU.
CHAINS = 12
# Vectors in one turn of the loops over memory.
TURN = 8

# Share of the best multiply-adds that an undisturbed machine reaches.
QUIET = 0.93

# Bytes that one thread reads or copies: several times its share of the last cache.
BYTES = 1 << 27

Limits = dict[str, float]


def _fma(lanes: int) -> str:
    vector = f"<{lanes} x float>"
    chains = range(CHAINS)
    phis = [f"%a{j} = phi {vector} [ %x, %entry ], [ %b{j}, %loop ]" for j in chains]
    steps = [
        f"%b{j} = call {vector} @llvm.fma.v{lanes}f32({vector} %a{j}, {vector} %x, {vector} %x)"
        for j in chains
    ]
    sums = [f"%s{j} = fadd {vector} {f'%s{j - 1}' if j else '%x'}, %b{j}" for j in chains]
    lines = "\n".join
    return f"""
declare {vector} @llvm.fma.v{lanes}f32({vector}, {vector}, {vector})
define void @fma{lanes}(ptr %p, ptr %q, i64 %n) {{
entry:
  %x = load {vector}, ptr %p, align 4
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
{lines(phis)}
{lines(steps)}
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, %n
  br i1 %more, label %loop, label %end
end:
{lines(sums)}
  store {vector} %s{CHAINS - 1}, ptr %q, align 4
  ret void
}}
"""


def _memory(name: str, lanes: int, hint: str) -> str:
    """Loop over n vectors, a multiple of TURN: read them, or copy them with or without a hint."""
    vector = f"<{lanes} x float>"
    turn = range(TURN)
    copies = name != "read"
    loads, phis, uses, sums = [], [], [], []
    for j in turn:
        loads.append(f"%i{j} = add i64 %i, {j}\n%p{j} = getelementptr {vector}, ptr %p, i64 %i{j}")
        loads.append(f"%v{j} = load {vector}, ptr %p{j}, align 64")
        if copies:
            uses.append(f"%q{j} = getelementptr {vector}, ptr %q, i64 %i{j}")
            uses.append(f"store {vector} %v{j}, ptr %q{j}, align 64{hint}")
        else:
            phis.append(f"%a{j} = phi {vector} [ zeroinitializer, %entry ], [ %b{j}, %loop ]")
            uses.append(f"%b{j} = fadd {vector} %a{j}, %v{j}")
            sums.append(f"%s{j} = fadd {vector} {f'%s{j - 1}' if j else 'zeroinitializer'}, %b{j}")
    if not copies:
        sums.append(f"store {vector} %s{TURN - 1}, ptr %q, align 4")
    lines = "\n".join
    return f"""
define void @{name}{lanes}(ptr %p, ptr %q, i64 %n) {{
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
{lines(phis)}
{lines(loads)}
{lines(uses)}
  %next = add i64 %i, {TURN}
  %more = icmp ult i64 %next, %n
  br i1 %more, label %loop, label %end
end:
{lines(sums)}
  ret void
}}
"""


@functools.cache
def _compiled() -> tuple[list[int], dict[str, ctypes._CFuncPtr], object]:
    """Compile the loops for every vector width of this CPU."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    features = llvm.get_host_cpu_features()
    widths = [4] + [lanes for lanes, name in ((8, "fma"), (16, "avx512f")) if features.get(name)]
    target = llvm.Target.from_default_triple()
    machine = target.create_target_machine(cpu=llvm.get_host_cpu_name(), features=features.flatten(), opt=2)
    text = "".join(
        _fma(lanes)
        + _memory("read", lanes, "")
        + _memory("copy", lanes, "")
        + _memory("stream", lanes, ", !nontemporal !0")
        for lanes in widths
    )
    module = llvm.parse_assembly(text + "\n!0 = !{i32 1}\n")
    module.verify()
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    names = [f"{name}{lanes}" for lanes in widths for name in ("fma", "read", "copy", "stream")]
    return widths, {name: kind(engine.get_function_address(name)) for name in names}, engine


def _aligned(count: int) -> np.ndarray:
    """Return `count` float32 at a multiple of 64 bytes, every page of them touched."""
    raw = np.full(4 * count + 64, 0, np.uint8)
    start = -raw.ctypes.data % 64
    values = raw[start : start + 4 * count].view(np.float32)
    values[:] = 0.5
    return values


def _seconds(call, work: list[tuple[int, int, int]], repeats: int) -> list[float]:
    """Time a call that all threads make at once, each with its own arguments."""
    barrier = threading.Barrier(len(work))
    spans: list[list[tuple[float, float]]] = [[] for _ in work]

    def run(tid: int) -> None:
        for _ in range(repeats):
            barrier.wait()
            start = time.perf_counter()
            call(*work[tid])
            spans[tid].append((start, time.perf_counter()))

    threads = [threading.Thread(target=run, args=(tid,)) for tid in range(1, len(work))]
    for thread in threads:
        thread.start()
    run(0)
    for thread in threads:
        thread.join()
    return [
        max(end for _, end in turn) - min(start for start, _ in turn) for turn in zip(*spans, strict=True)
    ]


def limits(threads: int, *, memory: bool = True, repeats: int = 7) -> Limits:
    """Measure the limits of `threads` threads: medians of several tries, the best kind of code.

    Without `memory`, only the multiply-adds are measured.

    Returns
    -------
    dict
        ``gflops``: 2 x float32 multiply-adds a second / 1e9; ``read``: GB/s read from memory;
        ``copy``: GB/s read and written together.
    """
    widths, functions, _ = _compiled()
    count = BYTES // 4 if memory else max(widths)
    sources, targets = ([_aligned(count) for _ in range(threads)] for _ in range(2))
    places = [(p.ctypes.data, q.ctypes.data) for p, q in zip(sources, targets, strict=True)]
    best: Limits = {}
    turns = 2_000_000
    for lanes in widths:
        work = [(*place, turns) for place in places]
        for name, key, done in (
            ("fma", "gflops", 2.0 * CHAINS * lanes * turns),
            ("read", "read", BYTES),
            ("copy", "copy", 2 * BYTES),
            ("stream", "copy", 2 * BYTES),
        )[: None if memory else 1]:
            if name != "fma":
                work = [(*place, BYTES // (4 * lanes)) for place in places]
            seconds = statistics.median(_seconds(functions[f"{name}{lanes}"], work, repeats))
            best[key] = max(best.get(key, 0.0), threads * done / seconds / 1e9)
    return best


class Meter:
    """The limits as a contestant that takes its turn among the others."""

    def __init__(self, *, threads: int) -> None:
        self.threads = threads

    def measure(self, memory: bool) -> Limits:
        return limits(self.threads, memory=memory)


def quiet_turns(
    measure: Callable[[], Limits], play: Callable[[int], None], rounds: int
) -> tuple[list[int], Limits]:
    """Play turns until `rounds` of them were undisturbed, or twice as many are over.

    A turn is disturbed, by other programs, if the multiply-adds before or after it fall below QUIET of
    the best ones.

    Returns
    -------
    quiet : list of int
        The undisturbed turns, all if there is none.
    limits : dict
        Medians of the measurements beside them.
    """
    found = [measure()]
    quiet: list[int] = []
    for turn in range(2 * rounds):
        play(turn)
        found.append(measure())
        enough = QUIET * max(each["gflops"] for each in found)
        quiet = [k for k in range(turn + 1) if min(each["gflops"] for each in found[k : k + 2]) >= enough]
        if len(quiet) == rounds:
            break
    quiet = quiet or list(range(len(found) - 1))
    return quiet, {key: statistics.median(found[k][key] for k in quiet) for key in found[0]}


def describe() -> dict[str, str | int]:
    """Name the processor, its features that matter and its cores."""
    name = platform.processor() or platform.machine()
    path = Path("/proc/cpuinfo")
    if path.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", path.read_text(), flags=re.MULTILINE)
        name = found[1].strip() if found else name
    features = llvm.get_host_cpu_features()
    wanted = ("avx2", "fma", "avx512f", "neon")
    return {
        "processor": name,
        "microarchitecture": llvm.get_host_cpu_name(),
        "features": " ".join(feature for feature in wanted if features.get(feature)),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def main() -> None:
    """Print the machine and its limits on one core and on all."""
    about = describe()
    counts = sorted({1, int(about["cores"])})
    print(json.dumps({"machine": about, "limits": {count: limits(count) for count in counts}}, indent=2))


if __name__ == "__main__":
    main()
