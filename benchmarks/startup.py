"""Import and first use in a fresh process, with an empty and with a filled cache of compiled code."""

import os
import subprocess
import sys
import tempfile

DATA = """
import numpy as np
rng = np.random.default_rng(0)
x = rng.integers(0, 17, (1437, 64), dtype=np.uint8)
y = rng.integers(0, 10, 1437)
"""

TRAIN = {
    "network": DATA
    + """
import nbnorm
nbnorm.FNN((64, 64, 10), seed=0).fit(x, y, epochs=1, batch_size=32, progress=False)
""",
    "classifier": DATA
    + """
from nbnorm.estimators import FNNClassifier
FNNClassifier(max_iter=1, random_state=0).fit(x, y)
""",
}


def run(code: str, cache: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "NUMBA_CACHE_DIR": cache})


class Import:
    """`import nbnorm` beside `import numba` alone."""

    params = ("numba", "nbnorm")
    param_names = ("module",)
    number = 1
    warmup_time = 0.0

    def time_import(self, module):
        run(f"import {module}", tempfile.gettempdir())


class FirstEpoch:
    """A process that imports nbnorm and trains one epoch on data of the size of digits."""

    params = tuple(TRAIN)
    param_names = ("model",)
    number = 1
    warmup_time = 0.0
    timeout = 600

    def setup_cache(self):
        # asv runs this once, in a folder of its own that lives as long as the benchmark.
        cache = os.path.join(os.getcwd(), "compiled")
        for code in TRAIN.values():
            run(code, cache)
        return cache

    def time_warm(self, cache, model):
        run(TRAIN[model], cache)

    def time_cold(self, cache, model):
        with tempfile.TemporaryDirectory() as empty:
            run(TRAIN[model], empty)

    time_cold.rounds = 1
    time_cold.repeat = (1, 3, 30.0)
