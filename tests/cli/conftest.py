from __future__ import annotations

import numpy as np
import pytest

from nbnorm.cli import main


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(capsys):
    """Run a command line; return its exit status, standard output and standard error."""

    def call(*argv):
        try:
            status = main([str(word) for word in argv])
        except SystemExit as stop:
            status = stop.code
        out, err = capsys.readouterr()
        return status, out, err

    return call


@pytest.fixture
def flowers(folder):
    """A CSV file of 60 rows with two features and a kind that they tell apart."""
    random = np.random.default_rng(0)
    lines = ["length,width,kind"]
    for row in range(60):
        shift, kind = ((0.0, "setosa"), (5.0, "virginica"))[row % 2]
        length, width = random.normal(shift, 1.0, 2)
        lines.append(f"{length:.3f},{width:.3f},{kind}")
    (folder / "flowers.csv").write_text("\n".join(lines) + "\n")
    return folder / "flowers.csv"


@pytest.fixture
def line_file(folder):
    """A CSV file with a numeric target of a large unit."""
    random = np.random.default_rng(0)
    X = random.normal(size=(80, 3))
    y = 1e6 + 1e4 * (X @ [1.0, -2.0, 0.5])
    rows = [",".join(repr(float(v)) for v in (*x, t)) for x, t in zip(X, y, strict=True)]
    (folder / "line.csv").write_text("a,b,c,price\n" + "\n".join(rows) + "\n")
    return folder / "line.csv"
