"""What every analysis hands back: words, tables, plots and a record, in the order of reading.

A plot is a function that is handed a figure: nothing here needs a drawing library.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from moee_index.bench.report.markup import Cell, Table


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


Entries = Sequence[Mapping[str, Any]]


def value_at(entry: Mapping[str, Any], where: str) -> Any:
    """A value of a record's entry by its keys, `hs_rw.phi`; None where it is not there."""
    value: Any = entry
    for key in where.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def table(caption: str, entries: Entries, columns: Mapping[str, str]) -> Table:
    """A row for each entry; columns: heading → where its value lies (`value_at`). Shares under a
    heading in % are shown as such."""
    rows: list[list[Cell]] = []
    for entry in entries:
        cells = {heading: value_at(entry, where) for heading, where in columns.items()}
        shares = [name for name, cell in cells.items() if name[-1] == "%" and cell is not None]
        rows.append([*(cells | {name: 100 * cells[name] for name in shares}).values()])
    return Table(list(columns), rows, caption)


def panels(figure: Any, titles: Sequence[str]) -> Any:
    """Axes side by side with one scale, a title each."""
    axes = figure.subplots(1, len(titles), sharey=True, squeeze=False)[0]
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=10)
    return axes


def by_layer(axis: Any) -> None:
    """The axis of decoder layers, whole numbers."""
    axis.set_xlabel("decoder layer")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(alpha=0.3)
