"""What Numba does at the first compilation of a process, and how it takes less time."""

from __future__ import annotations

from numba.np import linalg

_ready = False


def is_ready() -> bool:
    """Whether the package has compiled or loaded code in this process."""
    return _ready


def get_ready() -> None:
    """Get Numba ready for the first compilation without loading SciPy's linear algebra.

    Numba's functions of arrays ask when they are imported whether SciPy has a BLAS, which takes a tenth of a
    second.  SciPy is a dependency of this package, so it has; functions that use BLAS ask again.
    """
    global _ready
    if _ready:
        return
    _ready = True
    ensure_blas, linalg.ensure_blas = linalg.ensure_blas, lambda: None
    try:
        import numba.np.arraymath  # noqa: F401
    finally:
        linalg.ensure_blas = ensure_blas
