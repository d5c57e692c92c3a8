"""The compile cache and the thread policy, with a small package around a copy of `nbnorm.compile`."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numba
import numpy as np
import pytest
from numba import config

from nbnorm.compile import folder, threads
from nbnorm.compile.clock import announced, clock, compile_seconds, compiling
from nbnorm.compile.kernels import kernel, parallel_kernel
from nbnorm.compile.threads import _launch, _workqueue_lock

compiled = pytest.mark.skipif(config.DISABLE_JIT, reason="tests compiled code")

CALLER = """
import numba
from nbnorm.compile.kernels import kernel, parallel_kernel
from nbnorm.callee import callee


@kernel
def caller(x):
    return callee(x) + 1


@parallel_kernel
def twins(x):
    for i in numba.prange(len(x)):
        x[i] = callee(x[i])
"""

CALLEE = """
from nbnorm.compile.kernels import kernel


@kernel
def callee(x):
    return x * 10
"""

RUN = """
from nbnorm.caller import caller
print(caller(2), sum(caller.stats.cache_hits.values()))
"""


@pytest.fixture
def package(package_of):
    """Root of a package nbnorm of `nbnorm.compile` and two kernels, one of which calls the other."""
    return package_of(caller=CALLER, callee=CALLEE)


# What new processes are forked from: to import Numba and compile a first function takes ten times as long as
# what is tested.  Each line of its input is a program, which it runs and says that it has ended.
FORKS = """
import json, os, sys, traceback, warnings
import numba
numba.njit(lambda x: x + 1)(1)
for line in sys.stdin:
    code, environment, folder, output = json.loads(line)
    child = os.fork()
    if child == 0:
        os.environ.clear()
        os.environ.update(environment)
        numba.core.config.reload_config()
        sys.path.insert(0, environment["PYTHONPATH"])
        sys.dont_write_bytecode = True
        os.chdir(folder)
        for number in (1, 2):
            os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        warnings.simplefilter("error")
        try:
            exec(compile(code, "program", "exec"), {"__name__": "__main__"})
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(child, 0)
    print("ended", flush=True)
"""


@pytest.fixture(scope="module")
def forks():
    """A process that runs programs in forks of itself, or None where a system has no forks."""
    if os.name != "posix" or config.DISABLE_JIT:
        yield None
        return
    clean = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_CACHE")}
    with subprocess.Popen(
        [sys.executable, "-c", FORKS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=clean
    ) as process:
        yield process
        process.stdin.close()


@pytest.fixture
def run(package, tmp_path, forks):
    """Run code with that package in a new process; NUMBA_CACHE_DIR is not set unless given."""

    def variables(changed):
        env = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_CACHE")}
        env.update(
            PYTHONPATH=str(package),
            HOME=str(tmp_path / "home"),
            XDG_CACHE_HOME="",
            PYTHONDONTWRITEBYTECODE="1",
        )
        return {**env, **{name: str(value) for name, value in changed.items()}}

    def call(code=RUN, **changed):
        if forks is None or "NUMBA_DISABLE_JIT" in changed:  # Numba reads that once, when it is imported
            return start(code, **changed).communicate(timeout=200)[0].split()
        output = tmp_path / "output"
        output.unlink(missing_ok=True)
        words = [textwrap.dedent(code), variables(changed), str(tmp_path), str(output)]
        forks.stdin.write(json.dumps(words) + "\n")
        forks.stdin.flush()
        assert forks.stdout.readline() == "ended\n"
        return output.read_text().split()

    def start(code=RUN, **changed):
        return subprocess.Popen(
            [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=variables(changed), cwd=tmp_path,
        )  # fmt: skip

    call.start = start
    return call


def files(folder):
    return sorted(folder.rglob("*.nbc"))


# ----------------------------------------------------------------------------------------------
# Cache
# ----------------------------------------------------------------------------------------------


@compiled
def test_cache_is_used_and_an_edited_callee_in_another_file_is_not_stale(run, package):
    assert run() == ["21", "0"]
    assert run() == ["21", "1"]
    callee = package / "nbnorm" / "callee.py"
    stamp = callee.stat()
    callee.write_text(CALLEE.replace("10", "20"))  # of the same length,
    os.utime(callee, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # and age
    assert run() == ["41", "0"]
    callee.write_text(CALLEE)
    assert run() == ["21", "1"]  # back to the first version


@compiled
def test_an_upgrade_beside_a_running_process_is_not_poisoned_by_it(run, package):
    # The old process compiles after the new files have come.
    callee = package / "nbnorm" / "callee.py"
    upgrade = f"pathlib.Path({str(callee)!r}).write_text({CALLEE.replace('10', '30')!r})"
    old = f"import pathlib\nfrom nbnorm.caller import caller\n{upgrade}\nprint(caller(2))"
    assert run(old) == ["21"]
    assert run() == ["61", "0"]


@compiled
def test_damaged_cache_files_are_compiled_again_and_replaced(run, tmp_path):
    assert run(NUMBA_CACHE_DIR=tmp_path / "cache") == ["21", "0"]
    whole = files(tmp_path / "cache")
    callee, caller = (file.read_bytes() for file in whole)
    for damaged in (caller[: len(caller) // 2], b"", bytes(len(caller)), callee):
        for file in whole:
            file.write_bytes(damaged)
        assert run(NUMBA_CACHE_DIR=tmp_path / "cache") == ["21", "0"]
        assert files(tmp_path / "cache") == whole
        assert whole[1].read_bytes() != damaged
    assert run(NUMBA_CACHE_DIR=tmp_path / "cache") == ["21", "1"]
    for file in whole:
        file.unlink()
        file.mkdir()
    assert run(NUMBA_CACHE_DIR=tmp_path / "cache") == ["21", "0"]


@compiled
def test_two_processes_on_an_empty_cache(run, tmp_path):
    racing = [run.start(NUMBA_CACHE_DIR=tmp_path / "cache") for _ in range(2)]
    assert [process.communicate(timeout=200)[0].split()[0] for process in racing] == ["21"] * 2
    assert run(NUMBA_CACHE_DIR=tmp_path / "cache") == ["21", "1"]
    assert not list((tmp_path / "cache").rglob("*.tmp"))


SHARED = """
import sys, time
from nbnorm.compile import folder
from nbnorm.compile.cache import CodeFiles
from nbnorm.caller import caller
save = CodeFiles.save
def slow(self, key, data):
    print("compiled", self._base.partition(".")[0], flush=True)
    if WAIT:
        sys.stdin.read()
    save(self, key, data)
CodeFiles.save = slow
print(caller(2), flush=True)
"""


@compiled
def test_processes_wait_for_what_another_compiles(run, tmp_path):
    cache = tmp_path / "cache"
    with run.start(SHARED.replace("WAIT", "True"), NUMBA_CACHE_DIR=cache) as first:
        assert first.stdout.readline() == "compiled callee\n"
        others = [run.start(SHARED.replace("WAIT", "False"), NUMBA_CACHE_DIR=cache) for _ in range(2)]
        time.sleep(0.2)
        first.stdin.close()
        lines = first.stdout.read().splitlines()
    for other in others:
        lines += other.communicate(timeout=200)[0].splitlines()
    assert sorted(lines) == ["21", "21", "21", "compiled caller"]


@compiled
def test_a_killed_process_holds_nobody_up(run, tmp_path):
    cache = tmp_path / "cache"
    with run.start(SHARED.replace("WAIT", "True"), NUMBA_CACHE_DIR=cache) as killed:
        assert killed.stdout.readline() == "compiled callee\n"
        killed.kill()
    got = run.start(SHARED.replace("WAIT", "False"), NUMBA_CACHE_DIR=cache).communicate(timeout=100)[0]
    assert got.splitlines() == ["compiled callee", "compiled caller", "21"]


@compiled
def test_a_stopped_process_is_waited_for_only_once(run, tmp_path):
    cache = tmp_path / "cache"
    with run.start(SHARED.replace("WAIT", "True"), NUMBA_CACHE_DIR=cache) as stopped:
        assert stopped.stdout.readline() == "compiled callee\n"
        code = "from nbnorm.compile import locks\nlocks.PATIENCE = 0.05\n" + SHARED.replace("WAIT", "False")
        got = run.start(code, NUMBA_CACHE_DIR=cache).communicate(timeout=100)[0]
        stopped.kill()
    assert got.splitlines() == ["compiled callee", "compiled caller", "21"]


@compiled
def test_a_filled_cache_is_read_where_it_cannot_be_written(run, package, tmp_path):
    assert run() == ["21", "0"]
    filled = package / "nbnorm" / "__pycache__" / "jit"
    # what would make the folder unwritable does not bind the superuser
    code = f"""
    import tempfile
    def refuse(dir, make=tempfile.TemporaryFile):
        if str(dir).startswith({str(filled)!r}):
            raise PermissionError(13, "read-only", str(dir))
        return make(dir=dir)
    tempfile.TemporaryFile = refuse
    {textwrap.dedent(RUN).strip().replace(chr(10), chr(10) + "    ")}
    """
    assert run(code) == ["21", "1"]
    assert not files(tmp_path / "home")


@compiled
def test_a_read_only_installation_uses_the_home(run, package, tmp_path):
    # A file where the folder should be binds the superuser too.
    (package / "nbnorm" / "__pycache__").write_text("")
    assert run() == ["21", "0"]
    assert run() == ["21", "1"]
    assert len(files(tmp_path / "home" / ".cache" / "nbnorm")) == 2


@compiled
def test_nothing_writable_compiles_in_memory(run, package, tmp_path):
    (package / "nbnorm" / "__pycache__").write_text("")
    home = tmp_path / "home"
    home.write_text("")
    assert run(HOME=home) == ["21", "0"]
    assert run(HOME=home / "nowhere") == ["21", "0"]
    assert run(NUMBA_CACHE_DIR=home / "nowhere") == ["21", "0"]
    assert not files(tmp_path)


@compiled
def test_other_cache_locators_of_the_user_do_not_disturb(run):
    assert run(NUMBA_CACHE_LOCATOR_CLASSES="UserWideCacheLocator") == ["21", "0"]
    assert run(NUMBA_CACHE_LOCATOR_CLASSES="UserWideCacheLocator") == ["21", "1"]


@compiled
def test_twins_of_one_body_do_not_share_an_entry(run):
    code = """
    import numpy as np
    from nbnorm.caller import twins
    for twin in (twins.serial, twins.parallel):
        x = np.ones(3)
        twin(x)
        print(int(x.sum()), sum(twin.stats.cache_hits.values()), twin.targetoptions["parallel"])
    """
    assert run(code) == ["30", "0", "False", "30", "0", "True"]
    assert run(code) == ["30", "1", "False", "30", "1", "True"]


@compiled
def test_an_inner_kernel_is_cached_and_has_no_way_in_from_python(run, package):
    callee = (package / "nbnorm" / "callee.py").read_text()
    callee = re.sub(r"(?<=[@ ])kernel\b", "inner_kernel", callee)
    (package / "nbnorm" / "callee.py").write_text(callee)
    code = RUN + textwrap.dedent(
        """
        from nbnorm.callee import callee
        try:
            callee(2)
        except TypeError as error:
            print(error)
        """
    )
    refusal = ["callee", "can", "only", "be", "called", "by", "compiled", "code"]
    assert run(code) == ["21", "0", *refusal]
    assert run(code) == ["21", "1", *refusal]
    assert run("from nbnorm.callee import callee\nprint(callee(2))", NUMBA_DISABLE_JIT=1) == ["20"]


def test_without_compiler(run, tmp_path):
    code = "from nbnorm.caller import caller, twins\nx = [2.0]\ntwins.parallel(x)\nprint(caller(2), x[0])"
    assert run(code, NUMBA_DISABLE_JIT=1) == ["21", "20.0"]
    assert not files(tmp_path)


@compiled
def test_old_versions_are_dropped_after_a_month(run, package, tmp_path):
    cache = tmp_path / "cache"
    run(NUMBA_CACHE_DIR=cache)
    (old,) = (cache / "nbnorm").iterdir()
    (package / "nbnorm" / "new.py").write_text("")
    run(NUMBA_CACHE_DIR=cache)
    assert len(list((cache / "nbnorm").iterdir())) == 2
    os.utime(old, (0, 0))
    (package / "nbnorm" / "newer.py").write_text("")
    run(NUMBA_CACHE_DIR=cache)
    assert old not in list((cache / "nbnorm").iterdir())


def test_importing_writes_nothing(run, package, tmp_path):
    assert run("import nbnorm.caller") == []
    assert not files(tmp_path)
    assert not (package / "nbnorm" / "__pycache__" / "jit").exists()


# ----------------------------------------------------------------------------------------------
# Launching
# ----------------------------------------------------------------------------------------------


class Pair:
    def serial(self, *args):
        return "serial"

    def parallel(self, *args):
        return "parallel"


@compiled
@pytest.mark.skipif(config.NUMBA_NUM_THREADS < 2, reason="needs two threads")
@pytest.mark.parametrize(
    ("layer", "work", "expected"),
    [
        ("omp", 100, "serial"),
        ("omp", 200_000, "parallel"),
        ("tbb", 200_000, "parallel"),
        ("workqueue", 200_000, "serial"),
        ("workqueue", 10_000_000, "parallel"),
    ],
)
def test_launch_depends_on_work_and_layer(layer, work, expected, monkeypatch):
    monkeypatch.setattr(threads.numba, "threading_layer", lambda: layer)
    assert _launch(Pair(), work, ()) == expected


@compiled
def test_launch_under_workqueue_lets_one_thread_in(monkeypatch):
    monkeypatch.setattr(threads.numba, "threading_layer", lambda: "workqueue")
    with _workqueue_lock:
        assert _launch(Pair(), 10**9, ()) == "serial"
    assert not _workqueue_lock.locked()


def test_launch_after_a_fork_is_serial(monkeypatch):
    monkeypatch.setattr(threads, "_forked", True)
    assert _launch(Pair(), 10**9, ()) == "serial"


def test_a_parallel_kernel_keeps_name_and_documentation():
    @parallel_kernel
    def body(x):
        """Fill."""

    assert body.__name__ == "body"
    assert body.__doc__ == "Fill."
    x = np.zeros(2)
    body(2, x)


def test_digest_depends_on_names_and_contents_of_all_files(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "PACKAGE", tmp_path)
    seen = set()
    for name, content in (("a.py", "1"), ("a.py", "2"), ("b.py", "2"), ("sub/c.py", "")):
        path = Path(tmp_path, name)
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
        seen.add(folder.package_digest.__wrapped__())
    assert len(seen) == 4


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize(("interrupts", "expected"), [(1, ["inner", "outer"]), (2, [])])
def test_an_interrupt_waits_for_a_compilation_and_a_second_does_not(interrupts, expected):
    done = []

    def outer():
        with compiling():
            for _ in range(interrupts):
                os.kill(os.getpid(), signal.SIGINT)
            with compiling():  # of a function that is called
                done.append("inner")
            done.append("outer")

    with pytest.raises(KeyboardInterrupt):
        outer()
    assert done == expected
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@compiled
def test_compilation_has_a_clock_of_its_own():
    said = []
    begun = time.perf_counter()
    seconds, start = compile_seconds(), clock()
    with announced(said.append):

        @kernel(cache=False)
        def twice(x):
            return 2.0 * x

        assert twice(1.5) == 3.0
    passed, spent = clock() - start, compile_seconds() - seconds
    assert spent > 0
    assert 0 <= passed <= time.perf_counter() - begun - spent + 1e-9
    assert said == []  # such code is never kept, so it would not be compiled once


@compiled
def test_missing_code_is_announced_once(tmp_path, python):
    code = """
    import numpy as np
    from nbnorm import sgd_step
    from nbnorm.compile.clock import announced, compile_seconds
    said = []
    with announced(said.append):
        for dtype in (np.float32, np.float64):
            sgd_step(*(np.ones(3, dtype) for _ in range(3)), lr=0.1)
    print(said, compile_seconds() > 0)
    """
    cache = tmp_path / "cache"
    assert python(textwrap.dedent(code), NUMBA_CACHE_DIR=cache) == "[True] True\n"
    assert python(textwrap.dedent(code), NUMBA_CACHE_DIR=cache) == "[] False\n"


@compiled
def test_first_compilation_leaves_linear_algebra_to_those_who_use_it(python):
    code = """
    import sys
    import numpy as np
    import numba
    from nbnorm import sgd_step
    sgd_step(*(np.ones(3) for _ in range(3)), lr=0.1)
    print("scipy.linalg" in sys.modules)

    @numba.njit
    def users(a):
        return np.linalg.solve(a, a @ a), np.cov(a)

    solution, covariance = users(np.eye(2) * 3)
    print(solution.tolist(), covariance.tolist(), "scipy.linalg" in sys.modules)
    """
    assert python(textwrap.dedent(code)).splitlines() == [
        "False",
        "[[3.0, 0.0], [0.0, 3.0]] [[4.5, -4.5], [-4.5, 4.5]] True",
    ]


@compiled
def test_functions_of_users_are_compiled_as_ever():
    def library_of(function):
        function.compile("int64(int64)")
        return type(next(iter(function.overloads.values())).library)

    own = library_of(numba.njit(lambda x: x + 1))
    assert library_of(kernel(lambda x: x + 1, cache=False)) is not own
    assert library_of(numba.njit(lambda x: x + 2)) is own


@compiled
def test_linked_kernels_are_part_of_their_callers_alone(tmp_path, python):
    code = """
    import os
    import numpy as np
    from numba import types
    from nbnorm.compile.kernels import inner_kernel, kernel, linked_kernel
    from nbnorm.compile.pointers import address, call

    @inner_kernel
    def addressed(x):
        x[0] += 1.0

    @linked_kernel
    def inner(x, k):
        return x[k] * 2.0

    @linked_kernel
    def outer(x, k):
        return inner(x, k) + inner(x, k + 1)

    @kernel
    def first(x):
        return outer(x, 0)

    @kernel
    def second(x, f):
        call(f, x)
        return outer(x, 1) + inner(x, 0)

    x = np.arange(3.0)
    f = address(addressed, types.float64[::1])
    print(first(x), second(x, f))
    try:
        outer(x, 0)
    except TypeError as error:
        print(error)
    folder = os.environ["NUMBA_CACHE_DIR"]
    names = {name.split("-")[0].split(".")[-1] for _, _, names in os.walk(folder) for name in names}
    print(*names & {"addressed", "inner", "outer", "first", "second"})
    """
    path = tmp_path / "linked.py"  # Numba caches functions of files only
    path.write_text(textwrap.dedent(code))
    results, refused, cached = python("import linked", NUMBA_CACHE_DIR=tmp_path / "cache").splitlines()
    assert results == "2.0 8.0"
    assert refused == "outer can only be called by compiled code"
    assert set(cached.split()) == {"addressed", "first", "second"}
