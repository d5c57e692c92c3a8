"""What the columns of a table become before a network reads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nbnorm import ColumnEncoder
from nbnorm.data import tables
from nbnorm.data.columns import Kind, TableColumns, encoded_names
from nbnorm.statistics.encoding import KIND, POSITION, SOURCE

# How kinds of columns are called that have another name.
_CALLED = {"empty": "empty column"}

# Rows that are looked at together.
_BLOCK = 1 << 14


class _Seen:
    """What rows say of columns of numbers and of numbers of levels."""

    def __init__(self, width: int) -> None:
        self.some, self.whole = np.zeros(width, bool), np.ones(width, bool)  # missing values, nothing else
        self.total, self.count = np.zeros(width), np.zeros(width)  # of what is not missing
        self.levels: dict[int, set[float]] = {}

    def add(self, X: npt.NDArray[Any], chosen: npt.NDArray[np.bool_], categorical: Sequence[int]) -> None:
        """Look at the chosen rows."""
        for start in range(0, len(X), _BLOCK):
            rows = X[start : start + _BLOCK][chosen[start : start + _BLOCK]]
            missing = np.isnan(rows)
            self.some |= missing.any(axis=0)
            self.whole &= missing.all(axis=0)
            self.total += np.where(missing, 0.0, rows).sum(axis=0)
            self.count += (~missing).sum(axis=0)
            for j in categorical:
                found = np.unique(rows[:, j])
                self.levels.setdefault(j, set()).update(found[~np.isnan(found)].tolist())


class Inputs:
    """Columns of numbers, text, booleans and dates, with gaps, as numbers.

    A category becomes an indicator for each level, a column with gaps has an indicator of these, and a gap
    itself becomes the mean of the training samples.  A table of numbers without gaps stays as it is.

    Attributes
    ----------
    columns : TableColumns or None
        None where the table has no names for its columns.
    encoder : ColumnEncoder or None
        None where there is nothing to encode.
    means : ndarray
        What stands for gaps, for each encoded column.
    """

    def __init__(
        self,
        columns: TableColumns | None,
        encoder: ColumnEncoder | None,
        means: npt.NDArray[np.float64] | None,
    ) -> None:
        self.columns = columns
        self.encoder = encoder
        self.means = means

    @classmethod
    def fit(cls, table: tables.Table, rows: npt.NDArray[np.int64]) -> Inputs:
        """Learn from some rows of a table."""
        return cls.fit_parts(lambda: [table], rows)

    @classmethod
    def fit_parts(cls, parts: Callable[[], Iterable[tables.Table]], rows: npt.NDArray[np.int64]) -> Inputs:
        """Learn from some rows of a table that `parts` reads from its beginning to its end, in parts."""
        chosen = np.zeros(int(rows.max()) + 1, bool)
        chosen[rows] = True

        def used() -> Iterator[tuple[tables.Table, npt.NDArray[np.bool_]]]:
            for part in parts():
                mask = np.zeros(len(part), bool)
                known = chosen[part.first : part.first + len(part)]
                mask[: len(known)] = known
                yield part, mask

        columns = None
        first = next(iter(parts()))
        if isinstance(first.data, dict):
            frames = ((part.frame(), mask.astype(np.float64)) for part, mask in used())
            columns = TableColumns().fit_parts(frames, name=first.path)
        seen = _Seen(first.X.shape[1] if columns is None else len(columns.columns_))
        categorical = [] if columns is None else columns.categorical_
        for part, mask in used():
            X = part.X if columns is None else columns.transform(part.frame(), name=part.path)
            seen.add(X, mask, categorical)
        if not categorical and not seen.some.any():
            return cls(columns, None, None)
        encoder = ColumnEncoder(bins=None, categorical=categorical).fit(X)
        encoder.see_rest(seen.some, seen.whole, {j: np.array(sorted(seen.levels[j])) for j in categorical})
        kinds, sources = encoder.table[KIND], encoder.table[SOURCE].astype(np.int64)
        means = np.where(kinds == POSITION, (seen.total / np.maximum(seen.count, 1))[sources], 0.0)
        return cls(columns, encoder, means)

    def transform(self, table: tables.Table) -> npt.NDArray[Any]:
        """Return the samples of a table for the network; without an encoder gaps stay NaN."""
        X = table.X if self.columns is None else self.columns.transform(table.frame(), name=table.path)
        if self.encoder is None:
            return X
        encoded = self.encoder.transform(X)
        assert self.means is not None
        return np.where(np.isnan(encoded), self.means, encoded)

    def names(self, features: Sequence[str] | None) -> list[str] | None:
        """Return what the encoded columns are called."""
        if self.encoder is None or features is None:
            return None if features is None else list(features)
        return encoded_names(features, self.encoder, None if self.columns is None else self.columns.columns_)

    def kinds(self) -> dict[str, Kind]:
        """Return what each column holds."""
        return {} if self.columns is None else {one.name: one.kind for one in self.columns.columns_}

    def described(self) -> str:
        """Return what the columns hold, for the user, nothing where all are numbers."""
        if self.columns is None and self.encoder is None:
            return ""
        parts = []
        if self.columns is not None:
            found = self.columns.columns_
            counts = Counter(_CALLED.get(one.kind, one.kind) for one in found)
            for kind, count in counts.items():
                listed = [one.name for one in found if _CALLED.get(one.kind, one.kind) == kind]
                named = f" ({', '.join(listed)})" if kind != "number" and len(listed) <= 5 else ""
                plural = {"category": "categories"}.get(kind, kind + "s")
                parts.append(f"{count} {kind if count == 1 else plural}{named}")
        if self.encoder is not None and (gaps := int(np.count_nonzero(self.encoder.missing_))):
            parts.append(f"gaps in {gaps}")
        return ", ".join(parts)

    def to_dict(self) -> dict[str, Any] | None:
        """Return what was learned for a model's notes, None where there is nothing."""
        if self.columns is None and self.encoder is None:
            return None
        return {
            "columns": None if self.columns is None else self.columns.to_dict(),
            "encoder": None if self.encoder is None else self.encoder.to_dict(),
            "means": None if self.means is None else self.means.tolist(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any] | None) -> Inputs:
        """Return what `to_dict` described; a `ValueError` says that it is malformed."""
        if data is None:
            return cls(None, None, None)
        try:
            columns = data["columns"] if data["columns"] is None else TableColumns.from_dict(data["columns"])
            encoder = data["encoder"] if data["encoder"] is None else ColumnEncoder.from_dict(data["encoder"])
            means = None if data["means"] is None else np.array(data["means"], np.float64)
            if encoder is not None:
                width = len(columns.columns_) if columns is not None else encoder.n_features_in_
                if width != encoder.n_features_in_ or means is None or len(means) != encoder.n_features_out_:
                    raise ValueError("columns, encoder and means differ in width")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"its columns are malformed ({error})") from None
        return cls(columns, encoder, means)
