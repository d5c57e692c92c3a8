"""`nbnorm train` over row groups, on one rank and on two."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from thread_ranks import together

from cli import QUICK, flat
from nbnorm import FNN
from nbnorm.cli import on_disk
from nbnorm.data.datasets import load_digits

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def digits(rows=300, **columns):
    X, y = (values[:rows] for values in load_digits())
    return pa.table({f"x{j}": X[:, j].astype(float) for j in range(20, 30)} | columns | {"digit": y})


@pytest.fixture
def stored(folder):
    pq.write_table(digits(), "digits.parquet", row_group_size=70)
    return "digits.parquet"


def parameters(path):
    return {**FNN.load(path).parameters()}


def test_row_groups_train_what_the_whole_table_does(run, stored, folder):
    for options in ("--row-groups", "--no-row-groups"):
        name = options.strip("-")
        out = run("train", stored, *QUICK, options, "--save", f"{name}.npz", "--report", f"{name}.json")[1]
        assert ("Read in 5 row groups of at most 70 rows" in flat(out)) == (options == "--row-groups")
        assert "240 training and 60 held-out samples, 10 features" in flat(out)
    of_groups, whole = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("row-groups", "no-row-groups")
    )
    assert of_groups["test"] == whole["test"]
    for name, values in parameters("row-groups.npz").items():
        np.testing.assert_allclose(values, parameters("no-row-groups.npz")[name], rtol=1e-6)
    status, out, _ = run("predict", "row-groups.npz", stored)
    assert (status, "Predicted 300 samples" in out) == (0, True)


def test_text_dates_and_gaps_in_row_groups_become_what_they_do_in_the_whole_table(run, folder):
    rng = np.random.default_rng(0)
    columns = {
        "city": pa.array(np.array(["Rome", "Oslo", None, "Bern"], object)[rng.integers(0, 4, 300)]),
        "day": pa.array(rng.integers(0, 400, 300), pa.int32()).cast(pa.date32()),
        "zip": pa.array(rng.integers(1, 4, 300)),
        "size": pa.array(np.where(rng.random(300) < 0.2, np.nan, rng.normal(size=300)), from_pandas=True),
        "new": pa.array(rng.random(300) < 0.5),
    }
    pq.write_table(digits(**columns), "mixed.parquet", row_group_size=70)
    for options in ("--row-groups", "--no-row-groups"):
        name = options.strip("-")
        words = ("train", "mixed.parquet", *QUICK, options, "--category", "zip", "--save", f"{name}.npz")
        status, out, _ = run(*words, "--report", f"{name}.json")
        assert status == 0
        assert "2 categories (city, zip), 1 date (day), 1 boolean (new), gaps in 2" in flat(out)
    of_groups, whole = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("row-groups", "no-row-groups")
    )
    assert of_groups["test"]["accuracy"] == whole["test"]["accuracy"]
    np.testing.assert_allclose(of_groups["loss"], whole["loss"], rtol=1e-5)
    status, out, _ = run("evaluate", "row-groups.npz", "mixed.parquet", "--json")
    assert (status, json.loads(out)["samples"]) == (0, 300)


def test_a_table_that_takes_much_memory_is_read_in_row_groups(run, stored, monkeypatch):
    size = 8 * 11 * 300
    for memory, expected in (
        (on_disk.MEMORY_DIVISOR * (size - 1), True),
        (on_disk.MEMORY_DIVISOR * size, False),
        (None, False),
    ):
        monkeypatch.setattr(on_disk, "memory", lambda memory=memory: memory)
        out = run("train", stored, *QUICK, "--no-save", "--quiet")[1]
        assert ("row groups" in out) == expected


def test_memory_is_that_of_the_machine_or_less():
    found = on_disk.memory()
    assert found is None or found > 1 << 20


def test_a_folder_is_read_in_row_groups_with_a_small_buffer(run, folder):
    (folder / "parts").mkdir()
    table = digits(kind=np.arange(300) % 7)
    for part in range(3):
        pq.write_table(table.slice(100 * part, 100), f"parts/{part}.parquet", row_group_size=50)
    options = ("--target", "kind", "--except", "x21", "--shuffle-buffer", "60", "--early-stopping", "2")
    status, out, _ = run("train", "parts", *QUICK, *options, "--report", "r.json")
    assert status == 0
    assert "216 training, 24 validation and 60 held-out samples, 10 features, 7 classes" in flat(out)
    assert "Target: kind, classification" in flat(out)
    assert json.loads((folder / "r.json").read_text())["train_samples"] == 216
    assert (folder / "nbnorm-parts.npz").exists()


def test_values_and_a_checkpoint(run, folder):
    table = digits()
    y = np.asarray(table["x21"]) - 2.0 * np.asarray(table["x22"]) + 0.5
    pq.write_table(table.append_column("price", pa.array(y)), "prices.parquet", row_group_size=100)
    words = ("train", "prices.parquet", *QUICK, "--row-groups", "--checkpoint", "c.npz", "--save", "m.npz")
    assert "Target: price, regression" in run(*words)[1]
    first = (folder / "m.npz").read_bytes()
    status, out, _ = run(*words)
    assert (status, "Going on from c.npz" in out, (folder / "m.npz").read_bytes() == first) == (0, True, True)
    status, out, _ = run("evaluate", "m.npz", "prices.parquet", "--json")
    assert json.loads(out)["samples"] == 300


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["infinite.parquet", "--row-groups"], "infinite.parquet, row 15, column 'x23': must be finite"),
        (["nested.parquet", "--row-groups"], "column 'list' must hold numbers, text, booleans or dates, got"),
        (["label.parquet", "--row-groups"], "label.parquet, target 'digit': y must not have missing values"),
        (["digits.parquet", "--row-groups", "--cv", "3"], "--cv does not apply to training over row groups"),
        (
            ["digits.parquet", "--row-groups", "--inspect", "i.png"],
            "--inspect does not apply to training over",
        ),
        (["digits.parquet", "--row-groups", "--category", "x99"], "has no feature column 'x99'"),
        (["digits.parquet", "--row-groups", "--decimal", ","], "options of CSV files do not apply"),
        (["digits.parquet", "--shuffle-buffer", "9"], "--shuffle-buffer does not apply to a table that is"),
        (["digits.parquet", "--mpi", "--shuffle-buffer", "9"], "--shuffle-buffer does not apply to --mpi"),
        (["digits.parquet", "--row-groups", "--target", "none"], "has no target column 'none'"),
        (
            ["flowers.csv", "--row-groups"],
            "needs a Parquet or Arrow file, or a folder of these, got flowers.csv",
        ),
        (["digits", "--row-groups"], "--row-groups does not apply to digits"),
        (["nothing.parquet", "--row-groups"], "nothing.parquet"),
    ],
)
def test_what_cannot_be_read_in_row_groups_is_refused(run, stored, flowers, folder, options, message):
    if options[0].startswith("nested"):
        pq.write_table(digits(list=[[1, 2]] * 300), "nested.parquet")
    elif options[0].startswith("infinite"):
        table = digits(20)
        infinite = np.asarray(table["x23"]).copy()
        infinite[15:] = np.inf
        pq.write_table(table.set_column(3, "x23", pa.array(infinite)), "infinite.parquet", row_group_size=10)
    elif options[0].startswith("label"):
        table = digits(20)
        pq.write_table(table.set_column(10, "digit", pa.array([None] * 19 + ["a"])), "label.parquet")
    status, _, err = run("train", *options, *QUICK)
    assert (status, message in flat(err)) == (2, True), err


def test_a_failure_on_one_rank_ends_all_and_is_said_once():
    def prepare(comm):
        def load():
            if comm.Get_rank():
                raise OSError("no disk here")
            return "data"

        return on_disk.together(comm, load)

    of_first, of_second = together(2, prepare)
    assert (type(of_first), of_first.code, str(of_second)) == (SystemExit, 2, "no disk here")
    assert together(2, lambda comm: on_disk.together(comm, comm.Get_rank)) == [0, 1]


def test_ranks_divide_what_each_has_whole():
    X, y = np.arange(14).reshape(7, 2), np.arange(7)
    parts = together(3, lambda comm: on_disk.own_rows(comm, X, y))
    for number, whole in enumerate((X, y)):
        np.testing.assert_array_equal(np.concatenate([part[number] for part in parts]), whole)
    assert on_disk.own_rows(None, X, y)[0] is X


@pytest.mark.parametrize(
    ("environment", "several"),
    [
        ({"PMI_SIZE": "4"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"PMI_SIZE": "1"}, False),
        ({"PMI_SIZE": ""}, False),
        ({}, False),
    ],
)
def test_whether_a_launcher_has_started_several(environment, several, monkeypatch):
    for name in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert on_disk.launched() == several


@pytest.mark.posix("mpiexec")
@pytest.mark.parametrize(
    ("data", "option", "sizes"),
    [("digits.parquet", "--row-groups", (10, 8, 10)), ("digits", "--mpi", (64, 8, 10))],
)
def test_two_ranks_train_one_network(stored, folder, data, option, sizes):
    pytest.importorskip("mpi4py")
    launcher = os.path.join(os.path.dirname(sys.executable), "mpiexec")
    if not os.path.exists(launcher):
        pytest.skip("needs mpiexec beside Python")
    command = [launcher, "-n", "2", sys.executable, "-m", "nbnorm", "train", data, option]
    options = ["--hidden", "8", "--epochs", "1", "--no-plot", "--save", "two.npz"]
    environment = {**os.environ, "NUMBA_NUM_THREADS": "1"}
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Model: two.npz") == done.stdout.count("Test: accuracy") == 1
    assert FNN.load("two.npz").sizes == sizes
