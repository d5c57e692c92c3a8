"""Columns of a table as inputs of an ONNX model: text and other categories, dates, numbers with gaps."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nbnorm.data.columns import UNSEEN, Column
from nbnorm.interop.onnx_graph import Graph

Array = npt.NDArray[Any]

# What a column of text may hold where a value is missing: the first of these that is no level of it.
_MISSING = ("", "NaN", "missing")


def is_text(column: Column) -> bool:
    """Return whether a column holds text; of a category without a level that is not known, and assumed.

    Parameters
    ----------
    column : Column

    Returns
    -------
    bool

    Raises
    ------
    ValueError
        If it holds both text and numbers, which no tensor does.

    Examples
    --------
    >>> is_text(Column("city", "category", ("Oslo", "Rome"))), is_text(Column("age", "number"))
    (True, False)
    """
    levels = column.codes()
    kinds = {isinstance(level, str) for level in levels}
    if len(kinds) == 2:
        raise ValueError(
            f"column {column.name!r} has levels of text and of numbers, as no input of ONNX can have"
        )
    return column.kind == "category" and kinds != {False}


def are_apart(columns: Sequence[Column], named: bool) -> bool:
    """Return whether each column is an input of its own: in a table with more than numbers.

    Parameters
    ----------
    columns : sequence of Column
    named : bool
        Whether they have come from a table with names, not from an array.

    Returns
    -------
    bool

    Examples
    --------
    >>> are_apart([Column("seen", "date")], named=True)
    True
    >>> are_apart([Column("x0", "category", (1, 2))], named=False)
    False
    """
    if named:
        return any(column.kind in ("category", "date", "duration") for column in columns)
    return any(is_text(column) for column in columns)


def read_apart(graph: Graph, columns: Sequence[Column]) -> list[dict[str, str]]:
    """Make each column an input of shape (n_samples, 1) and join their numbers as the graph's table.

    Parameters
    ----------
    graph : Graph
        Columns of text become inputs of strings, all others of float64, in which they are encoded too: times
        and numbers of customers need it.
    columns : sequence of Column

    Returns
    -------
    list of dict
        Of each column its name, the name of its input, its kind and, for text, what stands for a missing
        value.

    Raises
    ------
    ValueError
        If the levels of a column cannot be told apart.
    """
    graph.table_dtype = np.dtype(np.float64)
    notes: list[dict[str, str]] = []
    parts: list[str] = []
    with graph.computing_in(graph.table_dtype):
        for j, column in enumerate(columns):
            text = is_text(column)
            kind = graph.onnx.TensorProto.STRING if text else graph.type_of(graph.dtype)
            x = graph.input(column.name or f"x{j}", kind, 1)
            notes.append({"name": column.name, "input": x, "kind": column.kind})
            if text:
                levels = {str(level): code for level, code in column.codes().items()}
                missing = next(one for one in _names_of_missing() if one not in levels)
                notes[-1]["missing"] = missing
                x = graph.numbers_of(x, levels | {missing: np.nan}, UNSEEN)
            elif column.kind == "category":
                x = _numbers_of_levels(graph, x, column)
            parts.append(x)
        graph.table = graph.node("Concat", *parts, axis=1)
    return notes


def _names_of_missing() -> Iterator[str]:
    """Yield texts that may stand for what is missing, without an end."""
    yield from _MISSING
    for k in itertools.count():
        yield f"missing{k}"


def read_categories(graph: Graph, columns: Sequence[Column]) -> None:
    """Replace the levels among the numbers of the graph's table by their own numbers.

    Parameters
    ----------
    graph : Graph
        Its table is a matrix of all columns.
    columns : sequence of Column

    Raises
    ------
    ValueError
        If the levels of a column cannot be told apart in the graph's dtype.
    """
    if not any(column.kind == "category" for column in columns):
        return
    x = graph.table
    parts = []
    for category, group in itertools.groupby(range(len(columns)), lambda j: columns[j].kind == "category"):
        for part in [[j] for j in group] if category else [list(group)]:
            found = graph.node("Gather", x, graph.constant(part, np.int64), axis=1)
            parts.append(_numbers_of_levels(graph, found, columns[part[0]]) if category else found)
    graph.table = graph.node("Concat", *parts, axis=1)


def _numbers_of_levels(graph: Graph, x: str, column: Column) -> str:
    """Return the number of the level that each value of a column is; that of a missing value is missing."""
    codes = column.codes()
    with np.errstate(over="ignore"):
        levels = np.array(list(codes), np.float64).astype(graph.dtype)
    if len(np.unique(levels)) < len(levels):
        remedy = ": give dtype='float64'" if graph.dtype == np.float32 else ""
        raise ValueError(f"column {column.name!r} has levels that are one in {graph.dtype}{remedy}")
    gaps = graph.node("IsNaN", x)
    if codes:
        # at most one level is equal: the sum over all is its number, above that of none
        found = graph.cast(graph.node("Equal", x, graph.constant(levels[None])), graph.dtype)
        above = np.array(list(codes.values())) - UNSEEN
        x = graph.node("MatMul", found, graph.constant(above[:, None]))
        x = graph.node("Add", x, graph.constant(UNSEEN))
    else:
        x = graph.constant(UNSEEN)
    return graph.node("Where", gaps, graph.constant(np.nan), x)


def bounded(graph: Graph, limits: Array, encoded: Sequence[bool]) -> None:
    """Replace infinite numbers in the graph's table by the least and the largest ones of the training.

    Parameters
    ----------
    graph : Graph
    limits : ndarray, shape (2, n_columns)
        NaN where there were none.
    encoded : sequence of bool
        Whether each network encodes its columns; otherwise infinite numbers are refused by `predict`.
    """
    if not all(encoded) or np.isnan(limits).all():
        return
    x = graph.table
    with graph.computing_in(graph.table_dtype):
        for infinite, limit in zip((-np.inf, np.inf), limits, strict=True):
            there = graph.node("Equal", x, graph.constant(infinite))
            x = graph.node("Where", there, graph.constant(limit), x)
    graph.table = x
