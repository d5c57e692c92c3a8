"""The scripts in docs/examples run from the command line and write what they promise."""

import runpy
import sys
from pathlib import Path

import pytest
from numba import config

pytestmark = pytest.mark.skipif(config.DISABLE_JIT, reason="too much arithmetic for the interpreter")

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"
WRITES = {
    "bfloat16": ["bfloat16.txt"],
    "before_or_after": ["before_or_after.svg", "before_or_after.txt"],
    "breast_cancer": ["breast_cancer.svg", "breast_cancer.txt"],
    "computation_graph": ["graph.svg"],
    "curvature": ["curvature.svg", "curvature.txt"],
    "derivation_check": ["derivation_check.txt"],
    "diabetes": ["diabetes.svg", "diabetes.txt"],
    "digits_stream": ["digits_stream.txt"],
    "even_batches": ["even_batches.txt"],
    "feature_drift": ["feature_drift.svg", "feature_drift.txt"],
    "larger_than_memory": ["larger_than_memory.txt"],
    "learning_rates": ["learning_rates.txt"],
    "ioffe_szegedy": ["ioffe_szegedy.svg", "ioffe_szegedy.txt"],
    "norms_by_batch_size": ["norms_by_batch_size.svg", "norms_by_batch_size.txt"],
    "raw_pixels": ["raw_pixels.txt"],
    "weights": ["weights.svg", "weights.txt"],
    "table_defaults": ["table_defaults.txt"],
}


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a script with arguments in this process, whose kernels are compiled; return what it prints."""

    def call(name, *arguments):
        path = EXAMPLES / f"{name}.py"
        # Without NBNORM_MNIST the bundled digits stand in for MNIST.
        monkeypatch.delenv("NBNORM_MNIST", raising=False)
        monkeypatch.setattr(sys, "argv", [str(path), *arguments])
        monkeypatch.setenv("MPLBACKEND", "Agg")
        try:
            runpy.run_path(str(path), run_name="__main__")
        finally:
            if pyplot := sys.modules.get("matplotlib.pyplot"):
                pyplot.close("all")
                pyplot.rcdefaults()
        return capsys.readouterr().out

    return call


def test_every_example_is_listed():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*WRITES, "hard_statistics", "update_bn"}


@pytest.mark.parametrize("name", WRITES)
def test_example_runs(run, name, tmp_path):
    assert run(name, "--short", "--out", str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == WRITES[name]


def test_update_bn_is_not_the_population(run, tmp_path):
    pytest.importorskip("torch")
    rows = run("update_bn", "--short", "--out", str(tmp_path)).splitlines()
    assert (tmp_path / "update_bn.txt").read_text("utf-8").splitlines() == rows
    first = {line[:30].strip(): float(line[30:42]) for line in rows if line[:1].isalpha()}
    assert first["exact statistics"] == pytest.approx(1.0, abs=1e-3)
    assert first["update_bn, ordered by class"] < 0.7


def test_hard_statistics_runs(run, tmp_path):
    printed = run("hard_statistics", "--out", str(tmp_path))
    assert (tmp_path / "hard_statistics.txt").read_text("utf-8") == printed


def test_derivation_check_tells_right_from_wrong(run):
    rows = [line for line in run("derivation_check").splitlines() if ":" in line]
    errors = {line[:52].strip(): [float(text) for text in line[52:].split()] for line in rows}
    wrong = {what for what in errors if "printed" in what or "constants" in what}
    assert len(wrong) == 4
    assert all(error > 0.1 for what in wrong for error in errors[what])
    assert all(error < 1e-8 for what in set(errors) - wrong for error in errors[what])
