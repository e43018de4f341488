"""A report as blocks (headings, paragraphs, lists, tables, pictures), and its Markdown.

Knows text, tables and how Markdown is escaped. Refuses to know scores, runs and files. One markup
is understood inside text: `code` between backticks. Text from outside goes through `quoted`
before it becomes part of a block; both writers escape everything else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

NOTHING = "–"
_LONGEST = 300


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
    items: Sequence[str]


@dataclass(frozen=True)
class TableRow:
    """strong: a row of averages, set off from the rows below it."""

    cells: Sequence[str]
    strong: bool = False


@dataclass(frozen=True)
class Table:
    """labels: the first columns, which hold words; the others hold numbers."""

    columns: Sequence[str]
    rows: Sequence[TableRow]
    caption: str = ""
    labels: int = 1


@dataclass(frozen=True)
class Picture:
    """A PNG file beside the report. alt: what it shows, for those who do not see it."""

    name: str
    png: bytes
    alt: str


Block = Heading | Paragraph | Bullets | Table | Picture


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
_LEADING = re.compile(r"^([#+\-=]|\d+(?=[.)]))")


def markdown_text(text: str) -> str:
    """One line of Markdown that shows the text and nothing else."""
    pieces = []
    for part, code in spans(text.replace("\n", " ")):
        if code:
            pieces.append("`" + part.replace("|", "\\|") + "`")
            continue
        part = _SPECIAL.sub(lambda found: "\\" + found.group(), part)
        pieces.append(part.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))
    return "".join(pieces)


def _leading(text: str) -> str:
    def escape(found: re.Match[str]) -> str:
        mark = found.group()
        return mark + "\\" if mark[0].isdigit() else "\\" + mark

    return _LEADING.sub(escape, markdown_text(text))


def _table(table: Table) -> list[str]:
    lines = []
    if table.caption:
        lines += [_leading(table.caption), ""]
    marks = ["---" if i < table.labels else "---:" for i in range(len(table.columns))]
    lines.append("| " + " | ".join(map(markdown_text, table.columns)) + " |")
    lines.append("|" + "|".join(marks) + "|")
    for row in table.rows:
        cells = [markdown_text(c) for _, c in zip_longest(table.columns, row.cells, fillvalue="")]
        if row.strong:
            cells = [f"**{cell}**" if cell.strip() else cell for cell in cells]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def markdown(blocks: Sequence[Block]) -> str:
    """The report as GitHub's Markdown; pictures are links to the files beside it."""
    out: list[str] = []
    for block in blocks:
        if isinstance(block, Heading):
            out.append("#" * block.level + " " + markdown_text(block.text))
        elif isinstance(block, Paragraph):
            out.append(_leading(block.text))
        elif isinstance(block, Bullets):
            out += [f"- {_leading(item)}" for item in block.items]
        elif isinstance(block, Table):
            out += _table(block)
        else:
            alt = markdown_text(block.alt)
            out.append(f"![{alt}]({block.name})")
        out.append("")
    return "\n".join(out).rstrip("\n") + "\n"
