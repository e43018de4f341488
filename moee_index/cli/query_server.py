"""A server's answers to `query`, in the form of those that are found here."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from moee_index.cli.asked import Asked
from moee_index.cli.console import Console
from moee_index.cli.output import print_hits, print_json, terminal_width
from moee_index.cli.query_page import Page

if TYPE_CHECKING:
    from moee_index.serve.client import Remote


def print_remote(
    console: Console,
    remote: Remote,
    asked: Asked,
    like: str | None,
    body: dict[str, Any],
    page: Page,
) -> None:
    """A server's answers, in the form of those that are found here."""
    from moee_index.serve.client import hits_of, search, search_like, snippets_of

    body["snippet_width"] = min(2000, max(40, terminal_width() - 5))
    counts: list[dict[str, Any]] = []
    if page.as_json:
        del body["snippet_width"]
    if like is not None:
        answers = iter([search_like(remote, like, body)])
    else:
        answers = search(remote, asked.queries, body, block=asked.block)
    for answer in answers:
        details, counts = answer.details, answer.details.get("facets", [])
        if body["lexical"] is None and like is None and "lexical" in details:
            console.tell(
                f"lexical weight {details['lexical']:g}, the default of index {remote.told}; "
                "--lexical 0 for vectors alone"
            )
        query = None if like is not None else answer.query.text
        name = answer.query.id if asked.with_ids and like is None else None
        if page.as_json:
            print_json({"query": query, "query_id": name, **details, "hits": answer.hits})
        else:
            print_hits(
                query, name or like, hits_of(answer), details, as_json=False, trec=page.trec,
                snippets=snippets_of(answer), full=page.full,
            )  # fmt: skip
        sys.stdout.flush()
    page.print_counts(counts)
