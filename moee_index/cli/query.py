"""`moee-index query`: search an index."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moee_index.cli.console import Console
from moee_index.cli.options import (
    TEXT,
    choose_index,
    filter_option,
    hit_output_options,
    index_at_server,
    lexical_options,
    load_encoder_of,
    model_options,
    search_options,
    server_option,
    split_model_options,
    tell_lexical,
)
from moee_index.cli.output import check_formats, print_facets, print_hits

if TYPE_CHECKING:
    from moee_index.fusion import Method
    from moee_index.index import Index
    from moee_index.index.search.request import SearchRequest
    from moee_index.serve.client import Remote
    from moee_index.types import Query

# Queries of a file that are embedded and searched together.
BLOCK = 64


@click.command("query")
@click.argument("text", nargs=-1, metavar="[TEXT…]", type=TEXT)
@click.option(
    "--index",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The index. [default: the only one under indexes/, or the newest]",
)
@click.option(
    "-k",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Hits per query; all documents if it exceeds their number.",
)
@click.option(
    "--queries",
    metavar="FILE|-",
    help="Queries from a file: JSON lines (BEIR's), CSV, id<TAB>text, TREC topics, or one a line.",
)
@click.option(
    "--like",
    type=TEXT,
    metavar="ID",
    help="More like this document of the index, itself left out; no model is loaded.",
)
@filter_option("Only documents whose metadata match: 'lang = \"en\" and year >= 2020'.")
@click.option(
    "--passages", is_flag=True, help="Every passage of a split document is a hit of its own."
)
@click.option(
    "--offset",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Leave out the first N hits: the next page of an answer.",
)
@click.option(
    "--facet",
    "facets",
    type=TEXT,
    multiple=True,
    metavar="FIELD",
    help="Also count the documents that --filter leaves by their values in a field. May be given "
    "several times.",
)
@click.option("--min-score", type=float, metavar="S", help="Leave out hits that score less.")
@search_options
@lexical_options
@server_option
@hit_output_options
@model_options("query")
@click.pass_obj
def command(
    console: Console,
    /,
    text: tuple[str, ...],
    index: Path | None,
    k: int,
    queries: str | None,
    like: str | None,
    min_score: float | None,
    condition: str | None,
    passages: bool,
    offset: int,
    facets: tuple[str, ...],
    method: Method,
    alpha: float | None,
    lexical: float | None,
    k1: float,
    b: float,
    server: str | None,
    as_json: bool,
    trec: bool,
    **given: Any,
) -> None:
    """Search an index for each TEXT, for the queries of a file, or for each line of stdin.

    The answer is the exact top k of sim_HS + α·sim_RW (or of another --method), with --filter of
    the documents that match, with --lexical of vectors and words together. A filter compares
    metadata fields by = != < <= > >=, `in (…)`, `contains "…"` and `exists`, joined by and, or, not
    and parentheses.
    """
    check_formats(as_json, trec)
    if text and queries is not None:
        raise click.UsageError("give the queries as TEXT or with --queries, not both")
    if like is not None and (text or queries is not None or lexical):
        raise click.UsageError(
            "--like asks by the vectors of a document: leave out TEXT, --queries and --lexical"
        )
    if not all(query.strip() for query in text):
        raise click.UsageError("the query is empty; give a text to search for")
    if trec and facets:
        raise click.UsageError("a TREC run holds no counts: --facet goes with --json or the table")
    source = "-" if queries is None and not text and like is None else queries
    if source is not None:
        source = str(source)
        _look_at(source)
    options, _ = split_model_options(given)
    page = Page(offset, facets, as_json, trec)
    if (remote := index_at_server(console, server, index, options)) is not None:
        if trec:
            _check_ids(source)
        body = {
            "k": k, "offset": offset, "method": method, "alpha": alpha, "lexical": lexical,
            "k1": k1, "b": b, "filter": condition, "min_score": min_score, "passages": passages,
            "facets": facets,
        }  # fmt: skip
        read = _numbered(text) if source is None else _read(source)
        block = 1 if source == "-" and queries is None else BLOCK
        with_ids = queries is not None or trec
        _print_remote(console, remote, read, like, body, page, block=block, with_ids=with_ids)
        return

    from moee_index.index import Index
    from moee_index.index.answers import answer_queries
    from moee_index.index.search.request import SearchRequest

    # Anything wrong with the request is reported before anything is loaded.
    request = SearchRequest.checked(
        k + offset, method=method, alpha=alpha, filter=condition, min_score=min_score,
        passages=passages, lexical=lexical, k1=k1, b=b,
    )  # fmt: skip
    if like is not None or lexical == 1:
        from moee_index.backends import embed_nothing

        embed_nothing()
    if like is not None:
        _print_like(console, index, request, like, page)
        return
    directory = choose_index(console, index)
    with Index.open(directory) as opened:
        opened.check_filter(request.filter)
        opened.check_lexical(request.lexical)
        weight = request.words(opened.lexical)
        if lexical is None:
            tell_lexical(console, opened)
        counts = page.count(opened, request)
        if trec:
            opened.snapshot.check_run_ids(request.filter)
            _check_ids(source)
        # By words alone no text is embedded.
        encoder = load_encoder_of(console, opened, options) if weight < 1 else None
        # stdin is answered line by line as it comes, a file in blocks
        read = _numbered(text) if source is None else _read(source)
        block = 1 if source == "-" and queries is None else BLOCK
        details: dict[str, Any] = {
            "index": str(directory),
            "method": method,
            "alpha": request.weight(opened.alpha),
        }
        more = page.fields(counts)
        if weight:
            # Only where words count: scripts rely on the fields above.
            details["lexical"] = weight
        for answer in answer_queries(opened, read, request, encoder, block=block):
            print_hits(
                answer.query.text,
                answer.query.id if queries is not None or trec else None,
                answer.hits[offset:],
                {**details, "exact": answer.hits.exact, "took_ms": answer.seconds * 1000, **more},
                as_json=as_json,
                trec=trec,
            )
            sys.stdout.flush()
    page.print_counts(counts)


@dataclass(frozen=True)
class Page:
    """Which hits are shown, what is counted besides, and in what form."""

    offset: int
    facets: tuple[str, ...]
    as_json: bool
    trec: bool

    def count(self, opened: Index, request: SearchRequest) -> list[dict[str, Any]]:
        """The documents that the filter leaves, counted by the fields that are asked for."""
        if not self.facets:
            return []
        from moee_index.index.listing import count_values

        counts = count_values(opened.snapshot, self.facets, request.filter)
        return [facet.as_json() for facet in counts]

    def fields(self, counts: list[dict[str, Any]]) -> dict[str, Any]:
        """The counts as a part of an answer in JSON, where any are asked for."""
        return {"facets": counts} if counts else {}

    def print_counts(self, counts: list[dict[str, Any]]) -> None:
        """The counts for people, once behind all answers."""
        if not self.as_json:
            print_facets(counts, False)


def _print_remote(
    console: Console,
    remote: Remote,
    queries: Iterator[Query],
    like: str | None,
    body: dict[str, Any],
    page: Page,
    *,
    block: int,
    with_ids: bool,
) -> None:
    """A server's answers, in the form of those that are found here."""
    from moee_index.serve.client import search, search_like

    counts: list[dict[str, Any]] = []
    if like is not None:
        answers = iter([search_like(remote, like, body)])
    else:
        answers = search(remote, queries, body, block=block)
    for answer in answers:
        if body["lexical"] is None and "lexical" in answer.details:
            console.tell(
                f"lexical weight {answer.details['lexical']:g}, the default of index "
                f"{remote.told}; --lexical 0 for vectors alone"
            )
        print_hits(
            None if like is not None else answer.query.text,
            answer.query.id if with_ids or like is not None else None,
            answer.hits,
            answer.details,
            as_json=page.as_json,
            trec=page.trec,
        )
        counts = answer.details.get("facets", [])
        sys.stdout.flush()
    page.print_counts(counts)


def _print_like(
    console: Console, index: Path | None, request: SearchRequest, like: str, page: Page
) -> None:
    """Documents like one of them, in the form of an answer to a query; its id is the query's."""
    from moee_index.index import Index

    directory = choose_index(console, index)
    with Index.open(directory) as opened:
        counts = page.count(opened, request)
        if page.trec:
            opened.snapshot.check_run_ids(request.filter)
        started = time.perf_counter()
        hits = opened.answer_like(request, like)
        details = {
            "index": str(directory),
            "method": request.method,
            "alpha": request.weight(opened.alpha),
            "like": like,
            "exact": hits.exact,
            "took_ms": (time.perf_counter() - started) * 1000,
            **page.fields(counts),
        }
    hits_shown = hits[page.offset :]
    print_hits(None, like, hits_shown, details, as_json=page.as_json, trec=page.trec)
    page.print_counts(counts)


def _numbered(texts: tuple[str, ...]) -> Iterator[Query]:
    from moee_index.types import Query

    return (Query(str(number), text) for number, text in enumerate(texts, 1))


def _look_at(source: str) -> None:
    """Fail on a missing file before the model is loaded."""
    from moee_index.errors import CorpusError

    if source != "-" and not Path(source).exists():
        raise CorpusError(f"{source}: no such file; --queries takes a file of queries, or -")


def _check_ids(source: str | None) -> None:
    """Fail before a long run on what a run cannot hold; stdin can be read only once."""
    from moee_index.readers.trec import RunIds

    if source is not None and source != "-":
        ids = RunIds()
        for number, query in enumerate(_read(source), 1):
            ids.take(query.id, number, query.source)


def _read(source: str) -> Iterator[Query]:
    from moee_index.readers.queries import read_queries

    return read_queries(source)
