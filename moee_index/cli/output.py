"""Hits on stdout: a table for people, JSON lines or a TREC run for machines."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from moee_index.cli.hit_lines import say_hit
from moee_index.cli.streams import print_json_line, print_line, say
from moee_index.errors import counted
from moee_index.text import cut, escaped, one_line

if TYPE_CHECKING:
    from moee_index.index import ChangeReport
    from moee_index.index.listing import Facet
    from moee_index.index.several import SnippetsOf
    from moee_index.types import Hit

# Characters of a text that are looked at for each one that is shown: blanks are squeezed.
_LOOKED_AT = 8
# Values of a field that are shown to people.
_VALUES = 40


def print_json(value: dict[str, Any]) -> None:
    """Print a JSON object as one line, at full precision, flushed."""
    print_json_line(json.dumps(value, ensure_ascii=False, allow_nan=False))


def check_formats(as_json: bool, trec: bool) -> None:
    """Refuse two output formats at once."""
    if as_json and trec:
        raise click.UsageError("--json and --trec are two formats; give one")


def print_hits(
    query: str | None,
    query_id: str | None,
    hits: Sequence[Hit],
    details: dict[str, Any],
    *,
    as_json: bool,
    trec: bool,
    snippets: SnippetsOf | None = None,
    full: bool = False,
) -> None:
    """The answer to one query in the format that was asked for; a query without text is that of
    the document query_id, which a run names alone.

    details: what stands between query and hits in JSON (index, method, alpha, exact, took_ms).
    snippets: what shows the best part of a hit's text, else its beginning is shown; full: people
    see the whole text.
    """
    if as_json:
        print_json(
            {
                "query": query,
                "query_id": query_id if query is not None else None,
                **details,
                "hits": [_fields(hit, snippets) for hit in hits],
            }
        )
    elif trec:
        from moee_index.index.several import run_score
        from moee_index.readers.trec import run_line

        for hit in hits:
            print_line(run_line(query_id or "1", hit.id, hit.rank, run_score(hit)))
    else:
        title = f"like {query_id}" if query is None else query
        _print_table(title, hits, details, snippets, full)


def _fields(hit: Hit, snippets: SnippetsOf | None) -> dict[str, Any]:
    """A hit as JSON has it."""
    fields: dict[str, Any] = {
        "rank": hit.rank,
        "id": hit.id,
        "score": hit.score,
        "hs": hit.hs,
        "rw": hit.rw,
        "text": hit.text,
        "metadata": hit.metadata,
    }
    # Only where documents were split or words count: scripts rely on the fields above.
    if hit.passage is not None:
        fields["passage"] = hit.passage
    if hit.lexical is not None:
        fields |= {"lexical": hit.lexical, "bm25": hit.bm25, "words": hit.words}
        if math.isnan(hit.hs):
            fields |= {"hs": None, "rw": None}
    # Only where several indexes were searched.
    fields |= {"index": hit.index} if hit.index is not None else {}
    fields |= {"rrf": hit.rrf} if hit.rrf is not None else {}
    if snippets is not None:
        snippet = snippets(hit).snippet(hit.text)
        fields |= {"snippet": snippet.text, "marks": snippet.marks}
    return fields


def print_change(report: ChangeReport, what: str, as_json: bool) -> None:
    """What a change of an index did; `what` names it for people, as "12 deleted"."""
    if as_json:
        print_json(report.as_json())
        return
    if report.unchanged:
        say(f"{report.index}: nothing to do, {counted(report.documents, 'document')}")
        return
    say(
        f"{report.index}: {what}, {counted(report.documents, 'document')} in "
        f"{counted(report.segments, 'segment')}, "
        f"{report.bytes_before / 1e6:.1f} MB before, {report.bytes / 1e6:.1f} MB now"
    )


def _print_table(
    query: str,
    hits: Sequence[Hit],
    details: dict[str, Any],
    snippets: SnippetsOf | None,
    full: bool,
) -> None:
    width = terminal_width()
    say(f"{cut(one_line(query), width)}   ({details['took_ms']:.0f} ms)")
    if not hits:
        say("  no hits")
    for hit in hits:
        where = "" if hit.index is None else f"{escaped(hit.index)}  "
        start = f"{hit.rank:>3}  {hit.score:7.4f}  {_parts(hit)}{where}{escaped(hit.id)}  "
        title = hit.metadata.get("title")
        if snippets is None:
            say_document(start, title, hit.text, width)
        else:
            say_hit(start, title, hit.text, snippets(hit), width, full)
    say()


def terminal_width() -> int:
    return max(60, shutil.get_terminal_size((100, 20)).columns)


def say_document(start: str, title: object, text: str, width: int) -> None:
    """A line for people: what stands before it, then the beginning of title and text."""
    shown = f"{title} · {text}" if isinstance(title, str) and title else text
    room = max(20, width - len(start))
    say(start + cut(one_line(shown[: _LOOKED_AT * room]), room))


def _parts(hit: Hit) -> str:
    """What a score is made of: similarities, and words where they count."""
    parts = "" if math.isnan(hit.hs) else f"hs {hit.hs:+.3f}  rw {hit.rw:+.3f}  "
    return parts if hit.lexical is None else f"{parts}words {hit.lexical:.3f}  "


def print_facets(facets: list[Facet], as_json: bool) -> None:
    """The counts of some fields: a JSON line a field, or a column for people."""
    for facet in facets:
        if as_json:
            print_json(facet_fields(facet))
            continue
        say(facet.field)
        for value, count in facet.counts[:_VALUES]:
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            say(f"{count:>9}  {cut(one_line(shown), 80)}")
        if len(facet.counts) > _VALUES:
            say(f"{'':>9}  and {counted(len(facet.counts) - _VALUES, 'value')} more")
        if facet.missing:
            say(f"{facet.missing:>9}  without the field")


def facet_fields(facet: Facet) -> dict[str, Any]:
    """A facet as JSON has it."""
    values = [{"value": value, "count": count} for value, count in facet.counts]
    return {"field": facet.field, "values": values, "missing": facet.missing}
