"""The second process that compiles ahead, with a small package around a copy of `nbnorm.compile`."""

import json
import os
import pickle
import subprocess
import sys

import pytest
from numba import config

from nbnorm.compile import ahead

pytestmark = pytest.mark.skipif(config.DISABLE_JIT, reason="tests compiled code")

KERNELS = """
from nbnorm.compile.kernels import kernel

@kernel
def begun(x):
    return x

@kernel
def a(x):
    return x + 1

@kernel
def b(x):
    return a(x) + 1

@kernel
def c(x):
    return x + 3

@kernel
def d(x):
    return x + 4
"""

RUN = """
import subprocess, sys, time
from numba import types
from nbnorm.compile.ahead import compile_ahead
from nbnorm.four import begun, a, b, c, d

four, whole = (d, c, b, a), (types.int64,)
if sys.argv[1] == "alone":
    subprocess.Popen = None  # calling it would be an error
with compile_ahead(lambda: [(function, whole) for function in four]):
    begun({missing})
    end = time.monotonic() + (100 if sys.argv[1] == "two" else 0)
    while time.monotonic() < end and any(function._cache.lacks(whole) for function in four):
        time.sleep(0.01)
print([function(0) for function in four], [sum(function.stats.cache_hits.values()) for function in four])
"""


@pytest.fixture
def package(package_of):
    """Root of a package nbnorm of `nbnorm.compile` and five kernels."""
    return package_of(four=KERNELS)


@pytest.fixture
def run(package, tmp_path):
    """Run the code above with that package and a cache of its own, on two threads or one."""

    def call(mode, *, missing="0", threads=2):
        environment = {
            "PYTHONPATH": package,
            "NUMBA_CACHE_DIR": tmp_path / "cache",
            "NUMBA_NUM_THREADS": threads,
        }
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", RUN.format(missing=missing), mode],
            capture_output=True, text=True, timeout=200, cwd=tmp_path,
            env={**os.environ, **{name: str(value) for name, value in environment.items()}},
        )  # fmt: skip
        assert done.stderr == ""
        return done.stdout.strip()

    return call


def test_a_second_process_compiles_what_the_first_then_finds(run):
    assert run("two") == "[4, 3, 2, 1] [1, 1, 1, 1]"
    # little is missing then
    assert run("alone", missing="0.5") == "[4, 3, 2, 1] [1, 1, 1, 1]"


def test_one_thread_compiles_alone(run):
    assert run("alone", threads=1) == "[4, 3, 2, 1] [0, 0, 0, 0]"


def test_the_second_process_ends_with_the_first(package, tmp_path):
    (package / "nbnorm" / "long.py").write_text("import time\ntime.sleep(600)\n")
    with subprocess.Popen(
        [sys.executable, "-c", ahead._START, json.dumps([str(package), *sys.path])],
        stdin=subprocess.PIPE, env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
    ) as second:  # fmt: skip
        second.stdin.write(pickle.dumps([("nbnorm.long", "function", ())]))
        second.stdin.close()
        assert second.wait(timeout=100) == 0
