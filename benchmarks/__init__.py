"""Benchmarks of nbnorm for asv; `benchmarks/peers` compares with other libraries and is run by hand."""

import os

# These two keep OpenBLAS off its fastest kernels; they must go before NumPy loads it.
for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
    os.environ.pop(name, None)
