"""A report as one HTML file that needs nothing else: no script, no font, no picture from outside.

Knows blocks and HTML. Refuses to know scores. Readable on a phone (wide tables scroll within
themselves) and in dark mode (pictures keep their white ground).
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from itertools import zip_longest

from moee_index.bench.report.document import (
    Block,
    Bullets,
    Heading,
    Paragraph,
    Picture,
    Table,
    TableRow,
    spans,
)

_STYLE = """
:root { color-scheme: light dark; --line: #d0d7de; --soft: #f3f5f7; --text: #1f2328;
  --ground: #ffffff; --quiet: #57606a; --link: #0550ae; }
@media (prefers-color-scheme: dark) { :root { --line: #3d444d; --soft: #1b2129; --text: #e6edf3;
  --ground: #0d1117; --quiet: #9aa4af; --link: #79b8ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1rem; background: var(--ground);
  color: var(--text); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; }
h2 { font-size: 1.3rem; margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin-top: 2rem; }
a { color: var(--link); }
nav ul { columns: 18rem; padding-left: 1.2rem; }
p, li { max-width: 48rem; }
code { font: 0.9em ui-monospace, monospace; background: var(--soft); padding: 0 0.2em;
  border-radius: 3px; }
.scroll { overflow-x: auto; margin: 0.75rem 0 1.5rem; }
table { border-collapse: collapse; font-size: 0.875rem; font-variant-numeric: tabular-nums; }
p.caption { color: var(--quiet); font-size: 0.875rem; margin-bottom: -0.25rem; }
th, td { padding: 0.25rem 0.6rem; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; overflow-wrap: normal; }
td.long { min-width: 16rem; }
th.number, td.number { text-align: right; white-space: nowrap; }
thead th { border-bottom: 2px solid var(--line); white-space: nowrap; }
tr.strong > * { font-weight: 600; background: var(--soft); }
tbody th { font-weight: inherit; position: sticky; left: 0; background: var(--ground); }
figure { margin: 1rem 0; }
figure img { display: block; max-width: 100%; height: auto; background: #ffffff;
  border: 1px solid var(--line); border-radius: 6px; padding: 4px; }
@media print { .scroll { overflow: visible; } }
"""


def html_text(text: str) -> str:
    """Text with every special character escaped, `code` marked."""
    return "".join(
        f"<code>{escape(part)}</code>" if code else escape(part) for part, code in spans(text)
    )


def _class(name: str, applies: bool) -> str:
    return f' class="{name}"' if applies else ""


def _cell(text: str, position: int, table: Table) -> str:
    if position == 0:
        return f'<th scope="row">{html_text(text)}</th>'
    kind = _class("number", True) if position >= table.labels else _class("long", len(text) > 60)
    return f"<td{kind}>{html_text(text)}</td>"


def _row(row: TableRow, table: Table) -> str:
    filled = zip_longest(table.columns, row.cells, fillvalue="")
    cells = "".join(_cell(text, i, table) for i, (_, text) in enumerate(filled))
    return f"<tr{_class('strong', row.strong)}>{cells}</tr>"


def _table(table: Table) -> str:
    head = "".join(
        f'<th scope="col"{_class("number", i >= table.labels)}>{html_text(name)}</th>'
        for i, name in enumerate(table.columns)
    )
    body = "\n".join(_row(row, table) for row in table.rows)
    # Not a <caption>: that would scroll away with a wide table.
    caption = f'<p class="caption">{html_text(table.caption)}</p>\n' if table.caption else ""
    return (
        f'{caption}<div class="scroll" tabindex="0"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _picture(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode()
    return f'<figure><img src="data:image/png;base64,{data}" alt="{escape(picture.alt)}"></figure>'


def html(blocks: Sequence[Block]) -> str:
    """The whole file. The first heading is the title, those of level 2 make the contents."""
    titles = [block.text for block in blocks if isinstance(block, Heading)]
    sections = [block for block in blocks if isinstance(block, Heading) and block.level == 2]
    contents = "".join(
        f'<li><a href="#s{i}">{html_text(section.text)}</a></li>'
        for i, section in enumerate(sections, 1)
    )
    body: list[str] = []
    number = 0
    for block in blocks:
        if isinstance(block, Heading):
            mark = ""
            if block.level == 2:
                number += 1
                mark = f' id="s{number}"'
            body.append(f"<h{block.level}{mark}>{html_text(block.text)}</h{block.level}>")
            if block.level == 1 and contents:
                body.append(f'<nav aria-label="Contents"><ul>{contents}</ul></nav>')
        elif isinstance(block, Paragraph):
            body.append(f"<p>{html_text(block.text)}</p>")
        elif isinstance(block, Bullets):
            items = "\n".join(f"<li>{html_text(item)}</li>" for item in block.items)
            body.append(f"<ul>\n{items}\n</ul>")
        elif isinstance(block, Table):
            body.append(_table(block))
        else:
            body.append(_picture(block))
    title = escape((titles or ["Report"])[0].replace("`", ""))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )
