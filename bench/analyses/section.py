"""What every analysis hands back: words, tables, plots and a record, in the order of reading.

A plot is a function that is handed a figure: nothing here needs a drawing library.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from moee_index.bench.report.markup import Table


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


def file_name(name: str) -> str:
    """A task's name as part of a file's name."""
    return "".join(letter if letter.isalnum() else "-" for letter in name).strip("-").lower()
