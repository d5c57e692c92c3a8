import json

import numpy as np
import pytest

import nbnorm
from cli import flat
from nbnorm.cli.inputs import Inputs
from nbnorm.data import tables

WORDS = ["--hidden", "8", "--epochs", "30", "--no-plot", "--save", "m.npz"]


@pytest.fixture
def people(folder):
    """A CSV file of all kinds of columns, with an index, gaps and a kind that the city tells."""
    random = np.random.default_rng(0)
    lines = [",age,city,day,member,kind"]
    for row in range(80):
        city = ("Rome", "Oslo", "")[row % 3]
        age = "" if row % 9 == 0 else random.integers(20, 80)
        lines.append(
            f"{row},{age},{city},2024-01-{1 + row % 28:02},{row % 2 == 0},{'x' if city == 'Rome' else 'y'}"
        )
    (folder / "people.csv").write_text("\n".join(lines) + "\n")
    return folder / "people.csv"


def test_train_and_predict_with_all_kinds_of_columns(run, people, folder):
    status, out, _ = run("train", people, *WORDS, "--lr", "0.02", "--weight-decay", "0", "--epochs", "200")
    assert status == 0
    assert "The first column has no name: it is an index" in out
    assert "Columns: 1 number, 1 category (city), 1 date (day), 1 boolean (member), gaps in 2" in flat(out)
    got = json.loads(run("evaluate", "m.npz", people, "--json")[1])
    assert got["accuracy"] > 0.95
    # columns are found by name, levels that are new and gaps are taken
    (folder / "new.csv").write_text("day;member;city;age\n2024-05-01;;Paris;\n2024-05-01;true;Rome;33,5\n")
    status, out, err = run("predict", "m.npz", "new.csv", "--proba")
    assert status == 0
    assert len(out.splitlines()) == 3
    (folder / "new.csv").write_text("day,member,city,age\nsoon,true,Rome,33\n")
    status, _, err = run("predict", "m.npz", "new.csv")
    assert (status, "new.csv, line 2, column 'day': expected a date, got 'soon'" in err) == (2, True)


def test_the_same_table_in_all_files_gives_the_same_model(run, people, folder):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pandas.read_csv(people, index_col=0, parse_dates=["day"])
    frame.to_parquet("people.parquet")
    frame.to_feather("people.feather")
    frame.to_csv("people.tsv", sep="\t", index=False)
    frame.to_csv("people.csv.gz")
    frame.to_csv("people.txt", sep=";", encoding="utf-16", decimal=",")
    assert run("train", people, *WORDS)[0] == 0
    expected = nbnorm.FNN.load("m.npz").parameters()
    for name in ("people.parquet", "people.feather", "people.tsv", "people.csv.gz", "people.txt"):
        assert run("train", name, *WORDS)[0] == 0
        got = nbnorm.FNN.load("m.npz").parameters()
        for key, values in expected.items():
            np.testing.assert_array_equal(got[key], values, err_msg=f"{name} {key}")


def test_gaps_where_training_had_none_are_said(run, flowers, folder):
    assert run("train", flowers, *WORDS)[0] == 0
    (folder / "new.csv").write_text("length,width\n1,\n2,3\n")
    status, out, err = run("predict", "m.npz", "new.csv")
    assert (status, len(out.splitlines())) == (0, 3)
    assert "1 sample with gaps where training had none" in err


def test_what_was_learned_is_of_the_training_rows_alone():
    table = tables.Table(
        "t",
        {"a": np.array([1.0, 3.0, np.nan, 9.0]), "c": np.array(["x", "y", "x", "z"], object)},
        ("a", "c"),
        None,
        None,
    )
    inputs = Inputs.fit(table, np.array([0, 1, 2]))
    np.testing.assert_array_equal(
        inputs.transform(table), [[1, 0, 1, 0], [3, 0, 0, 1], [2, 1, 1, 0], [9, 0, 0, 0]]
    )
    again = Inputs.from_dict(json.loads(json.dumps(inputs.to_dict())))
    np.testing.assert_array_equal(again.transform(table), inputs.transform(table))


@pytest.mark.parametrize("change", [{"means": [1.0]}, {"encoder": 3}, {"columns": {"columns": 1}}])
def test_malformed_notes_are_refused(run, people, folder, change):
    assert run("train", people, "--hidden", "2", "--epochs", "1", "--no-plot", "--save", "m.npz")[0] == 0
    net = nbnorm.FNN.load("m.npz")
    net.metadata = {**net.metadata, "inputs": {**net.metadata["inputs"], **change}}
    net.save("m.npz")
    status, _, err = run("predict", "m.npz", people)
    assert (status, "inputs in the model's metadata is malformed" in err) == (2, True)
