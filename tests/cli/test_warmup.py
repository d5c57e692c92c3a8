import json

from nbnorm.cli import warmup
from nbnorm.compile.folder import cache_folder


def test_warmup(run):
    status, out, err = run("warmup", "--dtype", "float64", "--only", "functions")
    assert (status, err) == (0, "")
    *first, step, last = out.splitlines()  # a long name of a folder has a line of its own
    assert " ".join(first).split() == f"Compiling into {cache_folder()}".split()
    assert step.startswith("  1 of 1")
    assert step.endswith("functions, float64")
    assert " kernels, " in last
    status, out, _ = run("warmup", "--dtype", "float64", "--only", "functions", "--json")
    got = json.loads(out)
    assert got["folder"] == str(cache_folder())
    assert got["compile_seconds"] == 0.0
    assert [one["name"] for one in got["steps"]] == ["functions, float64"]


def test_warmup_without_a_folder(run, monkeypatch):
    monkeypatch.setattr(warmup, "cache_folder", lambda: None)
    status, out, err = run("warmup")
    assert (status, out) == (1, "")
    assert err.startswith("nbnorm: error: no folder for compiled code can be written")
