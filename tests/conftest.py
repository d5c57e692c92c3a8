"""Fixtures that several test files share."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

import nbnorm
from nbnorm.compile import kernels
from nbnorm.compile.threads import _launched
from nbnorm.model import engines

MNIST_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def pytest_runtest_setup(item):
    """Leave out what is marked as needing POSIX where that is missing."""
    marker = item.get_closest_marker("posix")
    if marker and os.name != "posix":
        pytest.skip(f"needs POSIX: {marker.args[0]}")


@pytest.fixture(scope="session")
def mnist_folder():
    """Folder with the four IDX files: NBNORM_MNIST, or shared/data/mnist beside the checkout."""
    folder = Path(os.environ.get("NBNORM_MNIST") or Path(__file__).parents[2] / "shared" / "data" / "mnist")
    if not all((folder / name).exists() or (folder / f"{name}.gz").exists() for name in MNIST_FILES):
        pytest.skip("needs MNIST: set NBNORM_MNIST to the folder of its four files")
    return folder


@pytest.fixture(scope="session", autouse=True)
def interrupts():
    """Take interrupts, which a process started in the background by a shell ignores."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module", autouse=True)
def environment():
    """Give every file the same environment: Dask leaves OMP_NUM_THREADS=1 and more in that of its process."""
    before = dict(os.environ)
    yield
    for name in {*os.environ, *before}:
        if name.startswith("PYTEST_"):
            continue
        if name in before:
            os.environ[name] = before[name]
        else:
            del os.environ[name]


@pytest.fixture(autouse=True)
def all_threads():
    """Give every test the whole machine, whatever the one before has set."""
    yield
    nbnorm.set_num_threads(None)
    if _launched():
        numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)


@pytest.fixture(autouse=True)
def own_random_numbers(request):
    """Let a module's generator `RNG` begin each test as imported: no test depends on those before it."""
    generator = getattr(request.module, "RNG", None)
    if generator is None:
        return
    request.module.__dict__.setdefault("_imported_state", generator.bit_generator.state)
    generator.bit_generator.state = request.module._imported_state


@pytest.fixture
def python(tmp_path, request):
    """Run code in a new interpreter with changed environment variables; return what it prints."""

    def run(code, *, timeout=300, path=None, **environment):
        folders = [str(path or Path(nbnorm.__file__).parents[1]), str(request.path.parent)]
        env = {**os.environ, **{name: str(value) for name, value in environment.items()}}
        env["PYTHONPATH"] = os.pathsep.join([*folders, *filter(None, [env.get("PYTHONPATH")])])
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            capture_output=True,
            text=True,
            timeout=timeout,
            env=env,
            cwd=tmp_path,
        )
        assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return run


@pytest.fixture
def package_of(tmp_path):
    """Write a package nbnorm of `nbnorm.compile` and other modules, and return the folder it is in."""

    def write(**modules):
        folder = tmp_path / "site" / "nbnorm"
        folder.mkdir(parents=True)
        shutil.copytree(Path(kernels.__file__).parent, folder / "compile")
        (folder / "__init__.py").write_text("")
        for name, source in modules.items():
            (folder / f"{name}.py").write_text(source)
        return folder.parent

    return write


@pytest.fixture
def thread_pool(monkeypatch):
    """Let the smallest network train on a thread pool."""
    monkeypatch.setattr(engines, "POOL_WORK", 0)


@pytest.fixture
def blobs():
    """Three classes that a small network can tell apart: X of shape (90, 5), y."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 90)
    return rng.normal(size=(90, 5)) + 2.0 * np.eye(3, 5)[y], y
