"""Data are read where they lie."""

import subprocess
import sys

import numpy as np
import pytest

from nbnorm import Standardizer


def normal(shape, dtype=np.float64, seed=0, mean=0.0):
    return (np.random.default_rng(seed).standard_normal(shape) + mean).astype(dtype)


def test_memory_map(tmp_path):
    x = normal((500, 4), np.float32)
    np.save(tmp_path / "x.npy", x)
    source = np.load(tmp_path / "x.npy", mmap_mode="r")
    got = Standardizer().fit(source)
    np.testing.assert_array_equal(got.mean_, Standardizer().fit(x).mean_)
    out = np.lib.format.open_memmap(tmp_path / "y.npy", "w+", x.dtype, x.shape)
    got.transform(source, out=out)
    np.testing.assert_array_equal(out, got.transform(x))


def test_a_memory_map_is_not_loaded(tmp_path):
    """Anonymous memory must not grow with a file of 200 MB."""
    if not sys.platform.startswith("linux"):
        pytest.skip("reads /proc")
    script = """
import sys, numpy as np
from nbnorm import Standardizer
def anonymous():
    with open("/proc/self/status") as file:
        return int(next(line for line in file if line.startswith("RssAnon")).split()[1])
x = np.lib.format.open_memmap(sys.argv[1], "w+", np.float32, (500_000, 100))
out = np.lib.format.open_memmap(sys.argv[2], "w+", np.float32, (500_000, 100))
for start in range(0, 500_000, 50_000):
    x[start:start + 50_000] = start
Standardizer().fit(x[:99]).transform(x[:99])
before = anonymous()
Standardizer().fit(x).transform(x, out=out)
print(anonymous() - before)
"""
    files = [str(tmp_path / name) for name in ("x.npy", "y.npy")]
    got = subprocess.run([sys.executable, "-c", script, *files], capture_output=True, text=True, check=True)
    assert int(got.stdout) < 40_000, got.stdout  # kB
