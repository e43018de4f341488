"""What every analysis hands back: words, tables, plots and a record, in the order of reading.

Knows no model, no file and no drawing library: a plot is a function that is handed a figure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

Cell = str | int | float | None
# Of raw and standardised vectors, where HS and RW do not need the report's colours.
COLOURS = {"raw": "#CC79A7", "standardised": "#0072B2"}


@dataclass(frozen=True)
class Table:
    """Rows under a head. Floats are shown with two digits; None and NaN are not defined: `–`."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Plot:
    """A picture: file stem, title, size in inches, and what draws it on a matplotlib figure."""

    stem: str
    title: str
    draw: Callable[[Any], None]
    size: tuple[float, float] = (7.0, 4.2)


@dataclass(frozen=True)
class Section:
    """One analysis. `record` is its part of analysis.json; NaN becomes null there."""

    name: str
    title: str
    notes: Sequence[str]
    tables: Sequence[Table]
    plots: Sequence[Plot] = ()
    record: dict[str, Any] = field(default_factory=dict)


def show(cell: Cell) -> str:
    """A cell as people read it."""
    if cell is None or (isinstance(cell, float) and not math.isfinite(cell)):
        return "–"
    return f"{cell:.2f}" if isinstance(cell, float) else str(cell)


def plain(value: Any) -> Any:
    """A record as JSON knows it: numpy numbers and arrays become Python's, NaN becomes null."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def file_name(name: str) -> str:
    """A task's name as part of a file's name."""
    return "".join(letter if letter.isalnum() else "-" for letter in name).strip("-").lower()


def below(figure: Any, *axes: Any) -> None:
    """One legend below all panels, each name once."""
    found: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    where = "outside lower center"
    columns = min(4, len(found))
    figure.legend(
        list(found.values()), list(found), loc=where, ncols=columns, frameon=False, fontsize=9
    )
