from __future__ import annotations

import json
import os

import numpy as np
import pytest

from nbnorm.data.streams import standardize_file


def test_standardize_and_back(run, folder):
    (folder / "a.csv").write_text("height,age\n0,3\n4,5\n8,4\n")
    status, out, _ = run("standardize", "a.csv", "b.csv", "--stats", "s.json")
    assert status == 0
    assert "Standardized a.csv with its own statistics, kept in s.json: b.csv" in out
    x = np.array([[0.0, 3.0], [4.0, 5.0], [8.0, 4.0]])
    got = np.loadtxt("b.csv", delimiter=",", skiprows=1)
    np.testing.assert_allclose(got, (x - x.mean(axis=0)) / x.std(axis=0), rtol=1e-12, atol=1e-12)
    status, out, _ = run("standardize", "b.csv", "c.csv", "--stats", "s.json", "--inverse")
    assert status == 0
    assert "Restored b.csv with the statistics in s.json: c.csv" in out
    np.testing.assert_allclose(np.loadtxt("c.csv", delimiter=",", skiprows=1), x, rtol=1e-12, atol=1e-12)


def test_standardize_reuses_statistics(run, folder):
    (folder / "a.csv").write_text("height\n0\n4\n")
    (folder / "new.csv").write_text("height\n6\n10\n")
    assert run("standardize", "a.csv", "b.csv", "--stats", "s.json")[0] == 0
    before = (folder / "s.json").read_bytes()
    assert run("standardize", "new.csv", "d.csv", "--stats", "s.json")[0] == 0
    np.testing.assert_allclose(np.loadtxt("d.csv", skiprows=1), [2.0, 4.0])
    assert (folder / "s.json").read_bytes() == before


def test_standardize_except(run, folder):
    (folder / "a.csv").write_text('street,size,price\n"Oak, 3",0,100\nElm,4,0250\n')
    (folder / "new.csv").write_text("street,size,price\nAsh,6,?\n")
    keep = ["--except", "price", "--except", "street"]
    assert run("standardize", "a.csv", "b.csv", "--stats", "s.json", *keep)[0] == 0
    expected = 'street,size,price\n"Oak, 3",-1.0,100\nElm,1.0,0250\n'
    assert (folder / "b.csv").read_text() == expected
    assert json.loads((folder / "s.json").read_text())["feature_names"] == ["size"]
    assert run("standardize", "new.csv", "c.csv", "--stats", "s.json", *keep)[0] == 0
    assert (folder / "c.csv").read_text() == "street,size,price\nAsh,2.0,?\n"
    assert run("standardize", "c.csv", "d.csv", "--stats", "s.json", "--inverse", *keep)[0] == 0
    assert (folder / "d.csv").read_text() == "street,size,price\nAsh,6.0,?\n"
    # one run's columns are not those of the next
    status, _, err = run("standardize", "new.csv", "c.csv", "--stats", "s.json")
    assert status == 2
    assert "must have the features ['size'] of the statistics" in err


@pytest.mark.parametrize("stats", ["missing/s.json", ".", "/dev/full"])
def test_standardize_replaces_both_files_or_none(run, folder, stats):
    if stats == "/dev/full" and not os.path.exists(stats):
        pytest.skip("needs /dev/full, a full disk")
    (folder / "a.csv").write_text("height\n0\n4\n")
    (folder / "b.csv").write_text("before")
    status, _, err = run("standardize", "a.csv", "b.csv", "--stats", stats)
    assert status == 2
    assert stats in err
    assert err.count("\n") == 1
    assert (folder / "b.csv").read_text() == "before"
    assert sorted(os.listdir()) == ["a.csv", "b.csv"]
    with pytest.raises(ValueError, match="save_stats must be another file"):
        standardize_file("a.csv", "b.csv", save_stats=folder / "b.csv")


def test_standardize_refuses_values_beyond_floats(run, folder):
    (folder / "a.csv").write_text("x,y\n1e200,2\n3e200,4\n")
    status, _, err = run("standardize", "a.csv", "b.csv")
    assert status == 2
    assert all(word in err for word in ("a.csv", "column 'x'", "3e+200"))
    (folder / "a.csv").write_text("x,y\n1e-20,2\n3e-20,4\n")
    assert run("standardize", "a.csv", "b.csv", "--stats", "s.json")[0] == 0
    np.save("c.npy", np.array([[1.0, 2.0], [1e30, 3.0]], np.float32))
    (folder / "s.json").write_text(
        (folder / "s.json").read_text().replace('"x"', '"u"').replace('"y"', '"v"')
    )
    status, _, err = run("standardize", "c.npy", "d.npy", "--stats", "s.json")
    assert status == 2
    assert "c.npy: row 1, column 0 holds 1e+30, which becomes inf in float32" in err
    assert sorted(os.listdir()) == ["a.csv", "b.csv", "c.npy", "s.json"]
