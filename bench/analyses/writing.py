"""Sections as files: analysis.json, analysis.md, analysis.html (one file) and PNG plots.

What is said of the model and of how the report was made stands in the report's analysis.j2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moee_index.atomic import json_bytes
from moee_index.bench.analyses.section import Section
from moee_index.bench.report.markup import (
    Picture,
    Table,
    TableRow,
    compose,
    html,
    markdown,
    quoted,
    show,
    write_files,
)
from moee_index.bench.report.plots import INSTALL, available, drawn
from moee_index.types import Notify, ignore

NO_PLOTS = f"no plots: matplotlib is not installed; {INSTALL} and run again"
_SETTINGS = ("prompt", "pooling", "rw", "bits", "max_tokens")


@dataclass(frozen=True)
class Report:
    """What was written. record: analysis.json as a dict; missing: (task, why) of what could not
    be analysed."""

    directory: Path
    files: list[Path]
    record: dict[str, Any]
    missing: list[tuple[str, str]]


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


def write(
    out: Path, record: dict[str, Any], sections: Sequence[Section], tell: Notify = ignore
) -> Report:
    """Write everything, each file whole or not at all. Without matplotlib there are no plots, which
    is told and stands in the report. Raises StorageError."""
    whole = plain({**record, "analyses": {one.name: one.record for one in sections}})
    plotting = available()
    if not plotting:
        tell(NO_PLOTS)
    pictures = {one.name: _pictures(one) if plotting else [] for one in sections}
    context = {
        "record": whole,
        "no_plots": "" if plotting else NO_PLOTS[0].upper() + NO_PLOTS[1:],
        "settings": _settings(whole),
        "sections": [
            (one.title, one.notes, pictures[one.name], [_shown(table) for table in one.tables])
            for one in sections
        ],
        "versions": ", ".join(f"{name} {version}" for name, version in whole["versions"].items()),
    }
    blocks = compose("analysis.j2", context)
    contents = [(picture.name, picture.png) for several in pictures.values() for picture in several]
    contents += [
        ("analysis.json", json_bytes(whole)),
        ("analysis.md", markdown(blocks).encode()),
        ("analysis.html", html(blocks).encode()),
    ]
    files = write_files(out, contents)
    missing = [(one["task"], one["why"]) for one in whole["missing"]]
    return Report(out, files, whole, missing)


def _settings(record: dict[str, Any]) -> Table:
    model = record["model"]
    rows = [[name.replace("_", " "), f"`{quoted(model[name])}`"] for name in _SETTINGS]
    for task in record["tasks"]:
        pairs = f"{task['pairs']} pairs, " if "pairs" in task else ""
        rows.append([quoted(task["task"]), f"{pairs}{task['texts']} distinct texts"])
    return Table(["setting or task", ""], rows, labels=2)


def _shown(table: Table) -> Table:
    """Quoted, with as many labels as there are first columns of text."""
    cells = [list(row.cells if isinstance(row, TableRow) else row) for row in table.rows]
    labels = 0
    while labels < len(table.columns) and all(isinstance(row[labels], str) for row in cells):
        labels += 1
    rows = [[quoted(show(cell)) for cell in row] for row in cells]
    return Table([*map(quoted, table.columns)], rows, quoted(table.caption), max(labels, 1))


def _pictures(section: Section) -> list[Picture]:
    return [
        Picture(f"{plot.stem}.png", drawn(plot.title, plot.size, plot.draw, grid=False), plot.title)
        for plot in section.plots
    ]
