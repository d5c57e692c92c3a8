"""The look of the charts: that of the figures of the documentation."""

from pathlib import Path
from types import ModuleType

STYLE = Path(__file__).parents[2] / "docs" / "examples" / "figures.mplstyle"


def pyplot() -> ModuleType:
    """Return matplotlib.pyplot, which draws into files with the style of the documentation's figures."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.style.use(STYLE)
    return pyplot
