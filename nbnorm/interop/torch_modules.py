"""What a network has beside torch's own layers, as torch modules.  Importing this module imports torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from nbnorm.statistics.encoding import (
    CEILING,
    EDGE,
    FLOOR,
    KIND,
    LEVEL,
    MISSING,
    POSITION,
    SLOPE,
    SOURCE,
    ColumnEncoder,
)
from nbnorm.statistics.standardize import Standardizer


def _parts(values: npt.NDArray[Any], dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Return float64 numbers in a dtype, and what its rounding has left of them."""
    exact = torch.from_numpy(np.array(values, np.float64))
    high = exact.to(dtype)
    return high, (exact - high.to(torch.float64)).to(dtype)


class Standardize(torch.nn.Module):
    """(x - mean) / scale; buffers ``mean``, ``mean_low`` (what rounding has left of it) and ``scale``."""

    mean: torch.Tensor
    mean_low: torch.Tensor
    scale: torch.Tensor

    def __init__(
        self, standardizer: Standardizer, dtype: torch.dtype = torch.float32, *, each: int = 1
    ) -> None:
        super().__init__()
        mean = standardizer.mean_ if standardizer.with_mean else np.zeros(standardizer.n_features_in_)
        high, low = _parts(np.repeat(mean, each), dtype)
        self.register_buffer("mean", high)
        self.register_buffer("mean_low", low)
        self.register_buffer("scale", torch.from_numpy(np.repeat(standardizer.scale_, each)).to(dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Standardize features; they take the dtype of the buffers."""
        return ((x - self.mean) - self.mean_low).to(self.scale.dtype) / self.scale


class Unstandardize(Standardize):
    """x * scale + mean: standardized targets back in their units."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Turn standardized values back."""
        return x * self.scale + self.mean_low + self.mean


class Encode(torch.nn.Module):
    """The encoding of a `ColumnEncoder`; positions of missing numbers are NaN."""

    def __init__(self, encoder: ColumnEncoder, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.encoder = encoder
        table = encoder.table
        kinds = table[KIND]
        self.register_buffer("source", torch.from_numpy(table[SOURCE].astype(np.int64)))
        for name, row in (("slope", SLOPE), ("floor", FLOOR), ("ceiling", CEILING)):
            self.register_buffer(name, torch.from_numpy(table[row]).to(dtype))
        edge, edge_low = _parts(table[EDGE], dtype)
        self.register_buffer("edge", edge)
        self.register_buffer("edge_low", edge_low)
        for name, kind in (("position", POSITION), ("level", LEVEL), ("missing", MISSING)):
            self.register_buffer(name, torch.from_numpy(kinds == kind))

    source: torch.Tensor
    slope: torch.Tensor
    floor: torch.Tensor
    ceiling: torch.Tensor
    edge: torch.Tensor
    edge_low: torch.Tensor
    position: torch.Tensor
    level: torch.Tensor
    missing: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Encode the columns of x, shape (n_samples, n_features)."""
        source = (x if x.is_floating_point() else x.to(self.edge.dtype))[:, self.source]
        gaps = torch.isnan(source)
        columns = ((source - self.edge) - self.edge_low) * self.slope
        columns = torch.minimum(torch.maximum(columns, self.floor), self.ceiling)
        columns = torch.where(
            self.level, (source == self.edge.to(source.dtype) + self.edge_low).to(columns.dtype), columns
        )
        columns = torch.where(self.missing, gaps.to(columns.dtype), columns)
        return torch.where(gaps & self.position, torch.full_like(columns, float("nan")), columns)


class FillMissing(torch.nn.Module):
    """Replace missing numbers by the mean, which is 0 after standardization."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Replace NaN by 0."""
        return torch.nan_to_num(x, nan=0.0, posinf=float("inf"), neginf=float("-inf"))
