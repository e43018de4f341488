"""`moee-index query`: search an index."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moee_index.cli.asked import what_is_asked
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
    recall_option,
    search_options,
    server_option,
    split_model_options,
)
from moee_index.cli.output import (
    check_formats,
)
from moee_index.cli.query_page import Page, check_request, print_like
from moee_index.cli.query_server import print_remote

if TYPE_CHECKING:
    from moee_index.fusion import Method
    from moee_index.index import Indexes
    from moee_index.index.lexical.syntax import Condition, ParsedQuery
    from moee_index.index.search.request import SearchRequest
    from moee_index.index.several import Merge
    from moee_index.serve.client import Remote


class IndexPath(click.Path):
    """A path; several in an environment variable, unless one is there that is called so."""

    def split_envvar_value(self, rv: str) -> list[str]:  # type: ignore[override,unused-ignore]
        return [rv] if Path(rv).exists() else list(super().split_envvar_value(rv))


@click.command("query")
@click.argument("text", nargs=-1, metavar="[TEXT…]", type=TEXT)
@click.option(
    "--index",
    type=IndexPath(path_type=Path),
    multiple=True,
    metavar="DIR",
    help="The index. May be given several times: indexes of one model are searched as one list. "
    "[default: the only one under indexes/, or the newest]",
)
@click.option(
    "--merge",
    type=click.Choice(["auto", "scores", "ranks"]),
    help="With several --index, merge hits by score, or by rank (reciprocal rank fusion). "
    "[default: by score where scores mean the same in all]",
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
    help="Also count the documents that --filter and conditions in TEXT leave by their values in a "
    "field. May be given several times.",
)
@click.option(
    "--plain",
    is_flag=True,
    help='Take TEXT as it is: without, "a phrase", +required and -without are conditions on '
    "documents.",
)
@click.option("--full", is_flag=True, help="Show the whole text of each hit.")
@click.option("--min-score", type=float, metavar="S", help="Leave out hits that score less.")
@click.option("--exact", is_flag=True, help="Look at every row of an approximate index too.")
@recall_option(
    "Of an approximate index, look far enough to find this share of the ten best. [default: the "
    "index's]"
)
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
    index: tuple[Path, ...],
    merge: Merge | None,
    k: int,
    queries: str | None,
    like: str | None,
    min_score: float | None,
    exact: bool,
    recall: float | None,
    condition: str | None,
    passages: bool,
    offset: int,
    facets: tuple[str, ...],
    plain: bool,
    full: bool,
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
    """Search an index for each TEXT, for the queries of a file, or for each line of stdin; in a
    terminal without any of these, at a prompt.

    The answer is the exact top k of sim_HS + α·sim_RW (or of another --method), with --filter of
    the documents that match, with --lexical of vectors and words together. A filter compares
    metadata fields by = != < <= > >=, `in (…)`, `contains "…"` and `exists`, joined by and, or, not
    and parentheses. In TEXT "a phrase" and +word leave the documents that hold them, -word and
    -"a phrase" those that do not.
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
    if full and (as_json or trec):
        raise click.UsageError("--full is for the table; --json holds each text whole")

    if merge is not None and len(index) < 2:
        raise click.UsageError("--merge says how hits of several --index become one list")
    if trec and facets:
        raise click.UsageError("a TREC run holds no counts: --facet goes with --json or the table")
    typed = text or queries is not None or like is not None
    at_prompt = not typed and not as_json and not trec and _in_terminal()
    page = Page(offset, facets, as_json, trec, full)
    options, _ = split_model_options(given)
    remote = None if at_prompt else _remote(console, server, index, options)
    if remote is not None:
        body = {
            "k": k, "offset": offset, "method": method, "alpha": alpha, "lexical": lexical,
            "k1": k1, "b": b, "filter": condition, "min_score": min_score, "passages": passages,
            "facets": facets, "syntax": not plain and bool(text), "exact": exact, "recall": recall,
        }  # fmt: skip
        asked = what_is_asked(text, queries, like, trec)
        print_remote(console, remote, asked, like, body, page)
        return

    from moee_index.index.answers import answer_queries
    from moee_index.index.lexical.syntax import parse_query
    from moee_index.index.search.request import SearchRequest

    # Anything wrong with the request is reported before anything is loaded.
    request = SearchRequest.checked(
        k + offset, method=method, alpha=alpha, filter=condition, min_score=min_score,
        passages=passages, lexical=lexical, k1=k1, b=b, exact=exact, recall=recall,
    )  # fmt: skip
    # At a prompt the weight of words can be changed.
    if like is not None or (lexical == 1 and not at_prompt):
        from moee_index.backends import embed_nothing

        embed_nothing()
    syntax = not plain and (bool(text) or at_prompt)
    parsed = [parse_query(query) for query in text] if syntax else []
    conditions = _shared(parsed) if facets else ()
    if like is not None:
        request = replace(request, lexical=0.0)
        with _opened(console, index, merge, request) as opened:
            print_like(opened, request, like, page)
        return
    if at_prompt:
        with _opened(console, index, merge, request) as opened:
            _start_prompt(console, opened, request, page, given, syntax)
        return
    asked = what_is_asked(text, queries, None, trec)
    with _opened(console, index, merge, request) as opened:
        opened.check_conditions(parsed)
        counts = page.count(opened, request, conditions)
        if trec:
            opened.check_run_ids(request)
        # By words alone no text is embedded.
        encoder = load_encoder_of(console, opened, options) if opened.embeds(request) else None
        details, more = opened.details(request), page.fields(counts)
        answers = answer_queries(
            opened, asked.queries, request, encoder, block=asked.block, syntax=syntax
        )
        for answer in answers:
            page.print_hits(
                answer.query.text,
                answer.query.id if asked.with_ids else None,
                answer.hits,
                {**details, **answer.hits.how(), "took_ms": answer.seconds * 1000, **more},
                None if trec else opened.snippets(answer.text),
            )
    page.print_counts(counts)


@contextmanager
def _opened(
    console: Console, index: tuple[Path, ...], merge: Merge | None, request: SearchRequest
) -> Iterator[Indexes]:
    """The indexes, which a request fits; how their hits are merged is told."""
    from moee_index.index import Indexes

    directories = index or (choose_index(console, None),)
    with Indexes.open(directories, merge=merge or "auto") as opened:
        check_request(console, opened, request)
        yield opened


def _remote(
    console: Console, server: str | None, index: tuple[Path, ...], options: dict[str, Any]
) -> Remote | None:
    if len(index) > 1:
        if server is not None:
            raise click.UsageError("--server searches one index; name it with one --index")
        return None
    return index_at_server(console, server, index[0] if index else None, options)


def _in_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _start_prompt(
    console: Console,
    opened: Indexes,
    request: SearchRequest,
    page: Page,
    given: dict[str, Any],
    syntax: bool,
) -> None:
    from moee_index.cli import prompt

    options, _ = split_model_options(given)
    session = prompt.Session(
        console, opened, request, page, lambda: load_encoder_of(console, opened, options), syntax
    )
    prompt.run(session, console, len(opened))


def _shared(queries: Sequence[ParsedQuery]) -> tuple[Condition, ...]:
    """The conditions of all queries, over whose documents --facet counts once."""
    each = {query.conditions for query in queries}
    if len(each) > 1:
        raise click.UsageError(
            "--facet counts the documents of one query, and these have different conditions; give "
            "one TEXT, or --plain"
        )
    return next(iter(each), ())
