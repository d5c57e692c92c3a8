"""Comparison with other libraries: ``python -m benchmarks.peers --help``.

The peers are needed only here: ``pip install "nbnorm[peers]"``.
"""
