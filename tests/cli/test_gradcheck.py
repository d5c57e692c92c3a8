from __future__ import annotations

import sys

import pytest


@pytest.mark.parametrize(("worst", "status"), [(1e-7, 0), (1e-5, 1), (float("nan"), 1)])
def test_gradcheck(run, monkeypatch, worst, status):
    module = sys.modules["nbnorm.functions.gradcheck"]
    monkeypatch.setattr(module, "table", lambda: [("dense", "bias", 1e-9), ("batch_norm", "", worst)])
    got, out, _ = run("gradcheck")
    assert got == status
    assert out.splitlines()[0] == "dense       bias  1.0e-09"
    assert out.splitlines()[-1].startswith(f"largest relative error {worst:.1e}, ")


def test_gradcheck_needs_networks(run, monkeypatch):
    module = sys.modules["nbnorm.functions.gradcheck"]
    for name in ("_function_rows", "_optimizer_rows", "_layer_rows"):
        monkeypatch.setattr(module, name, lambda: [module.Row("dense", "bias", 0.0)])
    monkeypatch.setitem(sys.modules, "nbnorm.model.network", None)
    status, out, err = run("gradcheck")
    assert status == 2
    assert "within" not in out
    assert "nbnorm.model.network" in err
