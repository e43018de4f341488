"""What `query` shows of its answers and in what form, whether they were found for a command line or
at the prompt.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moee_index.cli.console import Console
from moee_index.cli.options import tell_lexical
from moee_index.cli.output import SnippetsOf, print_facets, print_hits

if TYPE_CHECKING:
    from moee_index.index import Hits, Indexes
    from moee_index.index.lexical.syntax import Condition
    from moee_index.index.search.request import SearchRequest
    from moee_index.types import Hit


@dataclass(frozen=True)
class Page:
    """Which hits are shown, what is counted besides, and in what form."""

    offset: int
    facets: tuple[str, ...]
    as_json: bool
    trec: bool
    full: bool

    def count(
        self, opened: Indexes, request: SearchRequest, conditions: Sequence[Condition] = ()
    ) -> list[dict[str, Any]]:
        """The documents that filter and conditions leave, counted by the fields that are asked
        for."""
        if not self.facets:
            return []
        counts = opened.count_values(self.facets, request.filter, conditions)
        return [facet.as_json() for facet in counts]

    def fields(self, counts: list[dict[str, Any]]) -> dict[str, Any]:
        """The counts as a part of an answer in JSON, where any are asked for."""
        return {"facets": counts} if counts else {}

    def print_hits(
        self,
        query: str | None,
        query_id: str | None,
        hits: Hits,
        details: dict[str, Any],
        snippets: SnippetsOf | None,
    ) -> None:
        """An answer, shown at once."""
        print_hits(
            query, query_id, hits[self.offset :], details, as_json=self.as_json, trec=self.trec,
            snippets=snippets, full=self.full,
        )  # fmt: skip
        sys.stdout.flush()

    def print_counts(self, counts: list[dict[str, Any]]) -> None:
        """The counts for people, once behind all answers."""
        if not self.as_json:
            print_facets(counts, False)


def check_request(console: Console, opened: Indexes, request: SearchRequest) -> None:
    """Refuse what does not fit the indexes; say why hits of several are merged by rank, where
    nobody asked for it."""
    opened.check(request)
    if request.lexical is None:
        for index in opened.indexes:
            tell_lexical(console, index)
    merged_by, reason = opened.merged_by(request)
    if merged_by == "ranks" and reason:
        console.tell(f"hits are merged by rank: {reason}")


def print_like(
    opened: Indexes, request: SearchRequest, like: str, page: Page, hit: Hit | None = None
) -> Hits:
    """Documents like one of them, in the form of an answer to a query; its id is the query's. hit:
    the document as a hit, where its id alone may not tell it."""
    counts = page.count(opened, request)
    if page.trec:
        opened.check_run_ids(request)
    started = time.perf_counter()
    hits = opened.answer_like(request, hit or like)
    details = {
        **opened.details(request),
        "like": like,
        **hits.how(),
        "took_ms": (time.perf_counter() - started) * 1000,
        **page.fields(counts),
    }
    page.print_hits(None, like, hits, details, opened.snippets(""))
    page.print_counts(counts)
    return hits
