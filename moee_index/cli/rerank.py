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
    lexical_options,
    load_encoder,
    load_encoder_of,
    model_options,
    search_options,
    split_model_options,
    tell_lexical,
)
from moee_index.cli.output import check_formats, print_hits

if TYPE_CHECKING:
    from moee_index.encode.encoder import Encoder
    from moee_index.index import Index
    from moee_index.readers.trec import RunIds
    from moee_index.reranking import Reranked, WordWeights


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
    "--missing-ok",
    is_flag=True,
    help="Pass over lines of a TREC run whose document is not in the index, or named before.",
)
@click.option(
    "--standardize",
    type=click.Choice(STANDARDIZE),
    help="Without --index: what is standardised over a query's candidates. "
    "[default: both for 64 candidates or more]",
)
@search_options
@lexical_options
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
    missing_ok: bool,
    standardize: str | None,
    method: str,
    alpha: float | None,
    lexical: float | None,
    k1: float,
    b: float,
    as_json: bool,
    trec: bool,
    **given: Any,
) -> None:
    """Order candidates for QUERY, or each list of a file for its own query.

    With --lexical words count as in `query`, by the statistics of the index: a document has the
    score that `query` gives it, and so has a text that is not in the index, whose words count for
    no more than those of the best document.
    """
    check_formats(as_json, trec)
    if query is not None and not query.strip():
        raise click.UsageError("the query is empty")
    if query is not None and queries is not None:
        raise click.UsageError("give QUERY or --queries, not both")
    if queries is not None and index is None:
        raise click.UsageError("--queries reranks a TREC run, whose documents lie in an --index")
    if index is not None and standardize is not None:
        raise click.UsageError("--standardize contradicts --index, which has its own standardizer")

    if index is None and lexical:
        raise click.UsageError(
            "--lexical weighs words by the statistics of an index; name it with --index"
        )
    if missing_ok and queries is None:
        raise click.UsageError("--missing-ok is for a TREC run, with --queries and --index")

    from moee_index.errors import CorpusError
    from moee_index.fusion import check_search
    from moee_index.readers.trec import PassedOver, RunIds

    check_search(method, alpha, k or 1)
    if lexical == 1:
        from moee_index.backends import embed_nothing

        embed_nothing()
    if candidates != "-" and not Path(candidates).exists():
        raise CorpusError(f"{candidates}: no such file; --candidates takes a file, or -")
    options, _ = split_model_options(given)
    scoring: dict[str, Any] = {"method": method, "alpha": alpha, "k": k}
    weight = 0.0
    passed_over = PassedOver() if missing_ok else None
    run_ids = RunIds() if trec else None
    if trec and queries is None and candidates != "-":
        _check_ids(candidates, query)
    with ExitStack() as stack:
        opened: Index | None = None
        encoder: Encoder | None = None
        words: WordWeights | None = None
        if index is None:
            encoder = load_encoder(console, options)
        else:
            from moee_index.index import Index

            opened = stack.enter_context(Index.open(index))
            words = opened.words(lexical, k1, b)
            weight = 0.0 if words is None else words.weight
            if lexical is None:
                tell_lexical(console, opened)
            # By words alone no text is embedded.
            encoder = load_encoder_of(console, opened, options) if weight < 1 else None
        if opened is not None and queries is not None:
            scoring |= {"passed_over": passed_over, "lexical": weight, "k1": k1, "b": b}
            reranked = _run(candidates, queries, opened, encoder, scoring)
        else:
            scoring |= {"standardize": standardize, "words": words}
            reranked = _lists(console, candidates, query, opened, encoder, scoring)
        for number, answer in enumerate(reranked, 1):
            _print(answer, number, method, weight, run_ids, as_json=as_json)
    if passed_over is not None and (told := passed_over.told()):
        console.tell(told)


def _check_ids(candidates: str, query: str | None) -> None:
    """Fail before a long run on what a run cannot hold."""
    from moee_index.readers.candidates import read_candidates
    from moee_index.reranking import check_for_run

    check_for_run(read_candidates(candidates, query=query))


def _lists(
    console: Console,
    candidates: str,
    query: str | None,
    opened: Index | None,
    encoder: Encoder | None,
    scoring: dict[str, Any],
) -> Iterator[Reranked]:
    from moee_index.readers.candidates import read_candidates
    from moee_index.reranking import BLOCK, rerank_lists

    if opened is not None:
        scoring = {**scoring, "standardizer": opened.standardizer, "default_alpha": opened.alpha}
    return rerank_lists(
        read_candidates(candidates, query=query, notify=console.tell),
        encoder,
        tell=console.tell,
        # from stdin each list is answered as it comes
        block=1 if candidates == "-" else BLOCK,
        **scoring,
    )


def _run(
    candidates: str,
    queries: str,
    opened: Index,
    encoder: Encoder | None,
    scoring: dict[str, Any],
) -> Iterator[Reranked]:
    from moee_index.readers.queries import read_queries
    from moee_index.readers.trec import read_run_lists
    from moee_index.reranking import rerank_run

    texts = {query.id: query.text for query in read_queries(queries)}
    lists = read_run_lists(candidates, passed_over=scoring["passed_over"])
    return rerank_run(lists, texts, opened, encoder, **scoring)


def _print(
    answer: Reranked,
    number: int,
    method: str,
    lexical: float,
    run_ids: RunIds | None,
    *,
    as_json: bool,
) -> None:
    """One answer, the number-th. run_ids: of a TREC run, which needs an id for each query."""
    details = {
        "method": method,
        "alpha": answer.alpha,
        # Only where words count: scripts rely on the other fields.
        **({"lexical": lexical} if lexical else {}),
        "exact": True,
        "took_ms": answer.seconds * 1000,
    }
    query_id, trec = answer.asked.query_id, run_ids is not None
    if run_ids is not None:
        query_id = run_ids.take(query_id, number, answer.asked.source)
    print_hits(answer.asked.query, query_id, answer.hits, details, as_json=as_json, trec=trec)
    sys.stdout.flush()
