"""`moee-index rerank`: order candidate lists for their queries."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moee_index.cli.console import Console
from moee_index.cli.options import (
    STANDARDIZE,
    TEXT,
    hit_output_options,
    load_encoder,
    load_encoder_of,
    model_options,
    search_options,
    split_model_options,
)
from moee_index.cli.output import check_formats, print_hits

if TYPE_CHECKING:
    from moee_index.encode.encoder import Encoder
    from moee_index.index import Index
    from moee_index.reranking import Reranked


@click.command("rerank")
@click.argument("query", required=False, type=TEXT)
@click.option(
    "--candidates",
    default="-",
    metavar="FILE|-",
    help='With QUERY one text a line; else JSON lines {"query", "candidates"}, or a TREC run with '
    "--queries and --index. [default: stdin]",
)
@click.option("--queries", metavar="FILE", help="Queries of a TREC run.")
@click.option(
    "--index",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Use this index's standardizer, and its documents for a TREC run.",
)
@click.option("-k", type=click.IntRange(min=1), help="Hits per query. [default: all]")
@click.option(
    "--standardize",
    type=click.Choice(STANDARDIZE),
    help="Without --index: what is standardised over a query's candidates. "
    "[default: both for 64 candidates or more]",
)
@search_options
@hit_output_options
@model_options("rerank")
@click.pass_obj
def command(
    console: Console,
    /,
    query: str | None,
    candidates: str,
    queries: str | None,
    index: Path | None,
    k: int | None,
    standardize: str | None,
    method: str,
    alpha: float | None,
    as_json: bool,
    trec: bool,
    **given: Any,
) -> None:
    """Order candidates for QUERY, or each list of a file for its own query."""
    check_formats(as_json, trec)
    if query is not None and not query.strip():
        raise click.UsageError("the query is empty")
    if query is not None and queries is not None:
        raise click.UsageError("give QUERY or --queries, not both")
    if queries is not None and index is None:
        raise click.UsageError("--queries reranks a TREC run, whose documents lie in an --index")
    if index is not None and standardize is not None:
        raise click.UsageError("--standardize contradicts --index, which has its own standardizer")

    from moee_index.errors import CorpusError
    from moee_index.fusion import check_search

    check_search(method, alpha, k or 1)
    if candidates != "-" and not Path(candidates).exists():
        raise CorpusError(f"{candidates}: no such file; --candidates takes a file, or -")
    options, _ = split_model_options(given)
    scoring: dict[str, Any] = {"method": method, "alpha": alpha, "k": k}
    with ExitStack() as stack:
        opened: Index | None = None
        if index is None:
            encoder = load_encoder(console, options)
        else:
            from moee_index.index import Index

            opened = stack.enter_context(Index.open(index))
            encoder = load_encoder_of(console, opened, options)
        if opened is not None and queries is not None:
            reranked = _run(candidates, queries, opened, encoder, scoring)
        else:
            scoring["standardize"] = standardize
            reranked = _lists(console, candidates, query, opened, encoder, scoring)
        for number, answer in enumerate(reranked, 1):
            _print(answer, number, method, as_json=as_json, trec=trec)


def _lists(
    console: Console,
    candidates: str,
    query: str | None,
    opened: Index | None,
    encoder: Encoder,
    scoring: dict[str, Any],
) -> Iterator[Reranked]:
    from moee_index.readers.candidates import read_candidates
    from moee_index.reranking import BLOCK, rerank_lists

    if opened is not None:
        scoring = {**scoring, "standardizer": opened.standardizer, "default_alpha": opened.alpha}
    return rerank_lists(
        read_candidates(candidates, query=query),
        encoder,
        tell=console.tell,
        # from stdin each list is answered as it comes
        block=1 if candidates == "-" else BLOCK,
        **scoring,
    )


def _run(
    candidates: str, queries: str, opened: Index, encoder: Encoder, scoring: dict[str, Any]
) -> Iterator[Reranked]:
    from moee_index.readers.queries import read_queries
    from moee_index.readers.trec import read_run_lists
    from moee_index.reranking import rerank_run

    texts = {query.id: query.text for query in read_queries(queries)}
    return rerank_run(read_run_lists(candidates), texts, opened, encoder, **scoring)


def _print(answer: Reranked, number: int, method: str, *, as_json: bool, trec: bool) -> None:
    """One answer, the number-th: TREC needs a query id where the list has none."""
    details = {
        "method": method,
        "alpha": answer.alpha,
        "exact": True,
        "took_ms": answer.seconds * 1000,
    }
    query_id = answer.asked.query_id
    if trec and query_id is None:
        query_id = str(number)
    print_hits(answer.asked.query, query_id, answer.hits, details, as_json=as_json, trec=trec)
    sys.stdout.flush()
