from __future__ import annotations

import sys

import pytest

from nbnorm.model import gradient_table


@pytest.mark.parametrize(("worst", "status"), [(1e-7, 0), (1e-5, 1), (float("nan"), 1)])
def test_gradcheck(run, monkeypatch, worst, status):
    rows = [("dense", "bias", 1e-9), ("batch_norm", "", worst)]
    monkeypatch.setattr(gradient_table, "table", lambda: rows)
    got, out, _ = run("gradcheck")
    assert got == status
    assert out.splitlines()[0] == "dense       bias  1.0e-09"
    assert out.splitlines()[-1].startswith(f"largest relative error {worst:.1e}, ")


def test_gradcheck_needs_networks(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "nbnorm.model.gradient_table", None)
    status, out, err = run("gradcheck")
    assert status == 2
    assert "within" not in out
    assert "nbnorm.model.gradient_table" in err
