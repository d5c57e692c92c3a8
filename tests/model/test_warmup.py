import pytest
from numba import config

from nbnorm.functions.activations import CODES
from nbnorm.model import warmup
from nbnorm.model.warmup import warm_up


def test_warm_up_compiles_what_it_names():
    steps = list(warm_up(["float32"], ["functions"]))
    assert [(step.name, step.number, step.total) for step in steps] == [("functions, float32", 1, 1)]
    assert 0.0 <= steps[0].compiled <= steps[0].seconds
    assert next(iter(warm_up(["float32"]))).name == "training, float32"


STATISTICS = """
import numpy as np
from nbnorm import Standardizer, moments
from nbnorm.model.warmup import warm_up
from nbnorm.compile.clock import compile_seconds
list(warm_up(["float32"], ["statistics"]))
before = compile_seconds()
x = np.ones((9, 3), np.float32)
for weights in (None, np.arange(9.0)):
    for nan in ("propagate", "omit"):
        Standardizer(nan=nan).fit(x, weights=weights)
        moments(x, weights=weights, nan=nan)
print(compile_seconds() - before)
"""


@pytest.mark.skipif(config.DISABLE_JIT, reason="tests compiled code")
def test_statistics_compile_nothing_after_warm_up(python, tmp_path):
    assert float(python(STATISTICS, NUMBA_CACHE_DIR=tmp_path)) == 0.0


def test_warm_up_knows_every_activation_and_kind_of_data(monkeypatch):
    trained = []

    class Network:
        def __init__(self, sizes, **options):
            trained.append(options)

        def fit(self, X, y, **options):
            trained[-1]["data"] = X.dtype.name

        def predict(self, X):
            pass

    monkeypatch.setattr(warmup, "FNN", Network)
    list(warm_up(["float64"], ["networks"]))
    assert {one["activation"] for one in trained if "activation" in one} == set(CODES)
    assert {one["data"] for one in trained} == {"uint8", "int64", "float32", "float64"}
    assert {one["norm"] for one in trained} == {"after", "before", "layer", "rms", None}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["float16"],), "dtypes must be float32 or float64"),
        (((), ["all"]), "groups must be one of 'networks'"),
    ],
)
def test_warm_up_refuses(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        warm_up(*arguments)
