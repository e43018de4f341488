"""A report as blocks (headings, paragraphs, lists, tables, pictures) and its two writers.

The words of a report stand in a template of text, which `compose` fills and reads as blocks;
report.md.j2 and report.html.j2 write blocks. Scores, runs and files are the callers' matter.

One markup is understood inside text: `code` between backticks. Text from outside goes through
`quoted` before it becomes part of a block; both writers escape everything else.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import zip_longest
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined, select_autoescape

from moee_index.atomic import save_file

_UNWRITABLE = "cannot write {path} ({why}); choose another --out or make room"
NOTHING = "–"
_LONGEST = 300
Cell = str | int | float | None


@dataclass(frozen=True)
class Heading:
    """level: 1 for the report's title, 2 for sections, 3 inside them."""

    level: int
    text: str


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class Bullets:
    points: Sequence[str]


@dataclass(frozen=True)
class TableRow:
    """strong: a row of averages, set off from the rows below it."""

    cells: Sequence[Cell]
    strong: bool = False


@dataclass(frozen=True)
class Table:
    """labels: the first columns, which hold words; the others hold numbers. Floats are shown with
    two digits; None and NaN are not defined: `–`.
    """

    columns: Sequence[str]
    rows: Sequence[TableRow | Sequence[Cell]]
    caption: str = ""
    labels: int = 1

    def shown(self) -> list[TableRow]:
        """The rows in words, each with as many cells as there are columns."""
        rows = []
        for row in self.rows:
            row = row if isinstance(row, TableRow) else TableRow(row)
            cells = zip_longest(self.columns, row.cells, fillvalue="")
            rows.append(TableRow([show(cell) for _, cell in cells], row.strong))
        return rows


@dataclass(frozen=True)
class Picture:
    """A PNG file beside the report. alt: what it shows, for those who do not see it."""

    name: str
    png: bytes
    alt: str

    def base64(self) -> str:
        return base64.b64encode(self.png).decode()


Block = Heading | Paragraph | Bullets | Table | Picture


class Words(str):
    """Text that is quoted already, or our own: a template takes it as it is."""


def show(cell: Cell) -> str:
    """A cell as people read it."""
    if cell is None or (isinstance(cell, float) and not math.isfinite(cell)):
        return NOTHING
    return f"{cell:.2f}" if isinstance(cell, float) else str(cell)


def quoted(text: object) -> str:
    """Text from outside as one line without markup, cut at 300 characters."""
    line = "".join(c if c.isprintable() else " " for c in str(text))
    line = " ".join(line.replace("`", "'").split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"


def spans(text: str) -> list[tuple[str, bool]]:
    """The text in pieces, with True for those that stood between backticks.

    A backtick without a partner stays what it is.
    """
    parts = text.split("`")
    if len(parts) % 2 == 0:
        parts[-2:] = ["`".join(parts[-2:])]
    return [(part, bool(i % 2)) for i, part in enumerate(parts) if part]


# Outside words these begin emphasis, links, HTML, mathematics or a table's next cell.
_SPECIAL = re.compile(r"[\\*\[\]|~$`]|(?<!\w)_|_(?!\w)")
# At the start of a block these begin a heading, a list, a quotation or a rule.
_LEADING = re.compile(r"^(?:([#+\-=])|(\d+)(?=[.)]))")


def markdown_text(text: str) -> str:
    """One line of Markdown that shows the text and nothing else."""
    pieces = []
    for part, code in spans(text.replace("\n", " ")):
        if code:
            pieces.append("`" + part.replace("|", "\\|") + "`")
            continue
        part = _SPECIAL.sub(r"\\\g<0>", part)
        pieces.append(part.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))
    return "".join(pieces)


def _leading(text: str) -> str:
    """`markdown_text` where a block begins."""
    return _LEADING.sub(lambda m: f"\\{m[1]}" if m[1] else f"{m[2]}\\", markdown_text(text))


def _read(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8")


@cache
def _templates() -> Environment:
    environment = Environment(
        autoescape=select_autoescape(["html.j2"], default_for_string=False),
        loader=FunctionLoader(_read),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "markdown": markdown_text,
        "leading": _leading,
        "spans": spans,
        "words": Words,
    }
    environment.tests["bold"] = lambda text: bool(str(text).strip())
    environment.globals["kind"] = lambda block: type(block).__name__
    return environment


def markdown(blocks: Sequence[Block]) -> str:
    """The report as GitHub's Markdown; pictures are links to the files beside it."""
    return _templates().get_template("report.md.j2").render(blocks=blocks).rstrip("\n") + "\n"


def html(blocks: Sequence[Block]) -> str:
    """The report as one file. The first heading is the title, those of level 2 make the contents.

    It needs nothing else (no script, font or picture from outside) and is readable on a phone
    (wide tables scroll within themselves) and in dark mode (pictures keep their white ground).
    """
    headings = [block for block in blocks if isinstance(block, Heading)]
    title = headings[0].text.replace("`", "") if headings else "Report"
    sections = [heading for heading in headings if heading.level == 2]
    template = _templates().get_template("report.html.j2")
    return template.render(blocks=blocks, title=title, sections=sections) + "\n"


# Characters that `quoted` takes away: what is between them is no text.
_PUT, _TEXT = "\x00", "\x01"


def compose(template: str, context: Mapping[str, Any]) -> list[Block]:
    """The blocks of a template of text: `#` headings, `- ` lists, paragraphs, blank lines between.

    `put(...)` places tables and pictures, none or several. A value is quoted unless it is `Words`,
    and never read as the start of a heading or a list.
    """
    placed: list[Block] = []

    def put(*blocks: Block | None) -> Words:
        text = ""
        for block in blocks:
            if block is not None:
                text += f"\n\n{_PUT}{len(placed)}\n\n"
                placed.append(block)
        return Words(text)

    def finalize(value: object) -> str:
        if isinstance(value, Words):
            return value if not value or _PUT in value else _TEXT + value
        return _TEXT + quoted(value)

    text = _templates().overlay(finalize=finalize).from_string(_read(template))
    filled = text.render(put=put, **context)
    parts = re.split(r"\n\s*\n", filled)
    return [_block(part.strip("\n "), placed) for part in parts if part.strip("\n ")]


def _block(part: str, placed: Sequence[Block]) -> Block:
    def plain(text: str) -> str:
        return re.sub(r"\s*\n\s*", " ", text.replace(_TEXT, "")).strip()

    if part.startswith(_PUT):
        return placed[int(part[1:])]
    if part.startswith("- "):
        return Bullets([plain(point) for point in part[2:].split("\n- ")])
    if part.startswith("#"):
        marks, _, text = part.partition(" ")
        return Heading(len(marks), plain(text))
    return Paragraph(plain(part))


def write_files(directory: Path, contents: Iterable[tuple[str, bytes]]) -> list[Path]:
    """Each file whole or not at all. Raises StorageError."""
    return [save_file(directory / name, content, _UNWRITABLE) for name, content in contents]
