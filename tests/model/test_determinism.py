"""Parameters after training are the same bits, whatever the number of threads."""

import hashlib
import json

import numpy as np
import pytest
from numba import config

from nbnorm import FNN, SGD

pytestmark = pytest.mark.skipif(config.DISABLE_JIT, reason="interpreted training has one thread")

CASES = [
    (dtype, norm, precision)
    for dtype, precision in (("float32", "float32"), ("float64", "float32"), ("float32", "bfloat16"))
    for norm in ("after", "before", None)
]
CASES += [("float32", "layer", "float32"), ("float64", "rms_after", "float32")]


def digest(dtype, norm, precision):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(333, 50)).astype(np.float32), rng.integers(0, 10, 333)
    net = FNN([50, 130, 70, 10], dtype=dtype, norm=norm, precision=precision, activation="tanh", seed=0)
    optimizer = SGD(lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3)
    history = net.fit(X, y, epochs=3, batch_size=100, optimizer=optimizer, validation_data=(X, y))
    got = hashlib.sha256()
    for values in (*net.parameters().values(), *net.buffers().values(), net.forward(X)):
        got.update(values.tobytes())
    return [got.hexdigest(), history.loss, history.accuracy, history.val_loss]


SCRIPT = """
import json
import threading
import nbnorm
from nbnorm.model import engines, training
from test_determinism import CASES, digest

engines.POOL_WORK = 0
sizes = set()
run = training.ThreadPool.run
training.ThreadPool.run = lambda self, *args: (sizes.add(len(self._threads)), run(self, *args))[1]
results = {}
for threads in (1, 2, 3, 4):
    nbnorm.set_num_threads(threads)
    results[threads] = [digest(*case) for case in CASES]
print(json.dumps([sorted(sizes), results]))
"""


def test_same_bits_with_1_2_3_and_4_threads(python):
    sizes, got = json.loads(python(SCRIPT, NUMBA_NUM_THREADS=4, OMP_NUM_THREADS=4))
    assert sizes == [2, 3, 4]
    for threads in ("2", "3", "4"):
        for case, result, expected in zip(CASES, got[threads], got["1"], strict=True):
            assert result == expected, (threads, case)
    assert len({result[0] for result in got["1"]}) == len(CASES)
