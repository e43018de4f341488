"""Sections as files: analysis.json, analysis.md, analysis.html (one file) and PNG plots.

Knows the report's blocks (document.py, html.py) and matplotlib where it is installed. Refuses to
know what the figures mean, but for the head: which model they are of and what they do not say.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moee_index.bench.analyses.section import Plot, Section, Table, plain, show
from moee_index.bench.report.document import (
    Block,
    Bullets,
    Heading,
    Paragraph,
    Picture,
    TableRow,
    markdown,
    quoted,
)
from moee_index.bench.report.document import Table as TableBlock
from moee_index.bench.report.html import html
from moee_index.bench.report.plots import INSTALL, available
from moee_index.errors import StorageError
from moee_index.types import Notify, ignore

NO_PLOTS = f"no plots: matplotlib is not installed; {INSTALL} and run again"
DPI = 120
SETTINGS = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    # Names of tasks are no formulas, whatever signs they hold.
    "text.parse_math": False,
}


@dataclass(frozen=True)
class Report:
    """What was written. record: analysis.json as a dict; missing: (task, why) of what could not
    be analysed."""

    directory: Path
    files: list[Path]
    record: dict[str, Any]
    missing: list[tuple[str, str]]


def write(
    out: Path, record: dict[str, Any], sections: Sequence[Section], tell: Notify = ignore
) -> Report:
    """Write everything, each file whole or not at all. Without matplotlib there are no plots, which
    is told and stands in the report. Raises StorageError."""
    whole = plain({**record, "analyses": {one.name: one.record for one in sections}})
    pictures = _pictures(sections)
    if pictures is None:
        tell(NO_PLOTS)
    blocks = [*_head(whole, pictures is None)]
    for section in sections:
        blocks += _blocks(section, (pictures or {}).get(section.name, []))
    blocks += _colophon(whole)
    contents: dict[str, bytes] = {
        picture.name: picture.png for several in (pictures or {}).values() for picture in several
    }
    contents["analysis.json"] = (
        json.dumps(whole, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    ).encode()
    contents["analysis.md"] = markdown(blocks).encode()
    contents["analysis.html"] = html(blocks).encode()
    files = [_write(out / name, content) for name, content in contents.items()]
    missing = [(one["task"], one["why"]) for one in whole["missing"]]
    return Report(out, files, whole, missing)


def _head(record: dict[str, Any], without_plots: bool) -> list[Block]:
    """What the figures are of, and what they do not say."""
    model = record["model"]
    blocks: list[Block] = [Heading(1, f"HS and RW of `{quoted(model['name'])}`")]
    if record["bundled"]:
        blocks.append(
            Paragraph(
                "The model is the bundled one, distilled from all-MiniLM-L6-v2 into OLMoE's "
                "architecture. Its figures show that the tool works; they say nothing about the "
                "paper (Li & Zhou, ICLR 2025), whose models are OLMoE-1B-7B, Qwen1.5-MoE-A2.7B "
                "and DeepSeekMoE-16B."
            )
        )
    else:
        blocks.append(
            Paragraph(
                "The analyses of the paper (Li & Zhou, ICLR 2025, section 3.2), and what it leaves "
                "out, on this model. The paper's own figures are quoted where it prints them."
            )
        )
    if record["limit"] is not None:
        blocks.append(
            Paragraph(
                f"On a sample of at most {record['limit']} pairs or texts of each task: no score "
                "of these is a task's."
            )
        )
    if record["missing"]:
        blocks.append(Paragraph("Asked for and not at hand:"))
        blocks.append(
            Bullets([f"{quoted(one['task'])}: {quoted(one['why'])}" for one in record["missing"]])
        )
    if without_plots:
        blocks.append(Paragraph(NO_PLOTS[0].upper() + NO_PLOTS[1:] + "."))
    settings = ("prompt", "pooling", "rw", "bits", "max_tokens")
    rows = [TableRow([name.replace("_", " "), f"`{quoted(model[name])}`"]) for name in settings]
    rows += [TableRow([quoted(one["task"]), _size(one)]) for one in record["tasks"]]
    blocks.append(TableBlock(["setting or task", ""], rows, labels=2))
    return blocks


def _size(task: dict[str, Any]) -> str:
    pairs = f"{task['pairs']} pairs, " if "pairs" in task else ""
    return f"{pairs}{task['texts']} distinct texts"


def _blocks(section: Section, pictures: Sequence[Picture]) -> list[Block]:
    blocks: list[Block] = [Heading(2, section.title), *map(Paragraph, section.notes)]
    if section.tables:
        first, *others = section.tables
        # The table that sums up, then what it looks like, then the details.
        blocks += [_table(first), *pictures, *map(_table, others)]
    return blocks


def _table(table: Table) -> Block:
    head = [quoted(name) for name in table.head]
    labels = 0
    while labels < len(head) and all(isinstance(row[labels], str) for row in table.rows):
        labels += 1
    rows = [TableRow([quoted(show(cell)) for cell in row]) for row in table.rows]
    return TableBlock(head, rows, caption=quoted(table.title), labels=max(labels, 1))


def _colophon(record: dict[str, Any]) -> list[Block]:
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return [
        Heading(2, "How it was made"),
        Paragraph(
            f"`moee-index bench analyze`, finished {record['finished']}, {record['seconds']:.0f} s "
            f"with the model loaded and run. Fingerprint `{record['model']['fingerprint'][:16]}`. "
            f"{quoted(versions)}. All figures at full precision: analysis.json."
        ),
    ]


def _pictures(sections: Sequence[Section]) -> dict[str, list[Picture]] | None:
    """Section → its plots drawn; None without matplotlib."""
    if not available():
        return None
    import matplotlib

    with matplotlib.rc_context():
        # A user's own settings do not go into a report.
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)
        return {one.name: [_draw(plot) for plot in one.plots] for one in sections}


def _draw(plot: Plot) -> Picture:
    from matplotlib.figure import Figure

    figure = Figure(figsize=plot.size, layout="constrained")
    plot.draw(figure)
    figure.suptitle(plot.title, fontsize=11)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return Picture(f"{plot.stem}.png", buffer.getvalue(), plot.title)


def _write(path: Path, content: bytes) -> Path:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        try:
            partial.write_bytes(content)
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StorageError(
            f"{path} cannot be written: {error.strerror or error}; free space or take another --out"
        ) from error
    return path
