"""Relative errors of variances on hard data, against exact rational arithmetic on the stored numbers.

Libraries that are not installed are left out.
"""

import argparse
import itertools
import warnings
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.stats

import nbnorm

Array = npt.NDArray[Any]


def exact_variance(values: Array) -> Fraction:
    """Return the variance with divisor n, without any rounding."""
    exact = [Fraction(value) for value in values.astype(np.float64).tolist()]
    mean = sum(exact, Fraction(0)) / len(exact)
    return sum(((value - mean) ** 2 for value in exact), Fraction(0)) / len(exact)


def textbook(x: Array) -> float:
    """Return E[x^2] - E[x]^2, in the type of the data."""
    return float((x * x).mean() - x.mean() ** 2)


def merged(x: Array) -> float:
    """Return the variance joined from ten unequal parts."""
    cuts = [0, *sorted(set((np.arange(1, 10) ** 2 * len(x) // 100).tolist())), len(x)]
    parts = [nbnorm.moments(x[a:b, None]) for a, b in itertools.pairwise(cuts) if b > a]
    return float(sum(parts[1:], parts[0]).var()[0])


def methods() -> dict[str, Callable[[Array], float]]:
    """Return what is compared: functions from a column to its variance."""
    found: dict[str, Callable[[Array], float]] = {
        "nbnorm": lambda x: float(nbnorm.moments(x[:, None]).var()[0]),
        "merged": merged,
        "numpy": lambda x: float(x.var()),
        "naive": textbook,
    }
    try:
        from sklearn.preprocessing import StandardScaler

        found["sklearn"] = lambda x: float(StandardScaler().fit(x[:, None]).var_[0])
    except ImportError:
        pass
    try:
        import torch

        found["torch"] = lambda x: float(torch.var_mean(torch.from_numpy(x), correction=0)[0])
    except ImportError:
        pass
    try:
        import polars

        found["polars"] = lambda x: float(polars.Series(x).var(ddof=0) or 0.0)
    except ImportError:
        pass
    try:
        import pyarrow
        import pyarrow.compute

        found["pyarrow"] = lambda x: float(pyarrow.compute.variance(pyarrow.array(x)).as_py())
    except ImportError:
        pass
    return found


def nist() -> dict[str, Array]:
    """Return the data of NIST's analysis of variance files that SciPy carries for its tests."""
    folder = Path(scipy.stats.__file__).parent / "tests/data/nist_anova"
    return {
        f"NIST {path.stem}": np.array([float(line.split()[1]) for line in path.read_text().splitlines()[60:]])
        for path in sorted(folder.glob("SmLs*.dat"))
    }


def cases() -> dict[str, Array]:
    """Return columns of hard data."""
    normal = np.random.default_rng(0).standard_normal(20_000)
    outlier = normal.copy()
    outlier[0] = 1e9
    return {
        "float64 N(1e6, 1)": normal + 1e6,
        "float64 N(1e9, 1)": normal + 1e9,
        "float64 trend + noise": np.arange(20_000) * 1e4 + normal,
        "float64 outlier in front": outlier,
        "float64 N(0, 1e150)": normal * 1e150,
        "float32 N(5000, 1)": (normal + 5000).astype(np.float32),
        "float32 N(1e6, 1)": (normal + 1e6).astype(np.float32),
        "float32 N(0, 1e30)": (normal * 1e30).astype(np.float32),
        "float16 N(100, 1)": (normal + 100).astype(np.float16),
        **nist(),
    }


def shown(method: Callable[[Array], float], x: Array, exact: Fraction) -> str:
    """Return the relative error of a method as text."""
    try:
        got = method(x)
    except (TypeError, ValueError, NotImplementedError, RuntimeError):
        return "refused"
    if not np.isfinite(got):
        return str(got)
    return f"{abs(float((Fraction(got) - exact) / exact)):.0e}"


def centred() -> str:
    """Return the means that standardized float32 data keep."""
    x = (np.random.default_rng(0).standard_normal((100_000, 1)) + 1e6).astype(np.float32)
    rows = {"nbnorm": nbnorm.Standardizer().fit_transform(x)}
    try:
        from sklearn.preprocessing import StandardScaler

        rows["scikit-learn"] = StandardScaler().fit_transform(x)
    except ImportError:
        pass
    return "".join(f"{name:24}{abs(z.mean(dtype=np.float64)):.0e}\n" for name, z in rows.items())


def main() -> None:
    """Print the tables, and write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder for hard_statistics.txt")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    compared = methods()
    text = "relative error of the variance\n" + " " * 24
    text += "".join(f"{name:>8}" for name in compared) + "\n"
    for case, x in cases().items():
        exact = exact_variance(x)
        errors = [f"{shown(call, x, exact):>8}" for call in compared.values()]
        text += f"{case:24}" + "".join(errors) + "\n"
    text += "\nmean of standardized float32 data, N(1e6, 1)\n" + centred()
    print(text, end="")
    if args.out is not None:
        (args.out / "hard_statistics.txt").write_text(text, "utf-8")


if __name__ == "__main__":
    main()
