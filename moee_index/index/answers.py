"""Many queries answered by an opened index, or several, block by block, with the time each took."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from moee_index.index.hits import Hits
from moee_index.index.index import Index
from moee_index.index.lexical.syntax import parse_query, plain_query
from moee_index.index.search.request import SearchRequest
from moee_index.index.several import Indexes
from moee_index.types import Query, TextEncoder, blocks


@dataclass(frozen=True)
class Answer:
    """A query's hits; seconds: its share of what embedding and searching its block took; text: of
    the query, as it was searched for."""

    query: Query
    text: str
    hits: Hits
    seconds: float


def answer_queries(
    index: Index | Indexes,
    queries: Iterable[Query],
    request: SearchRequest,
    encoder: TextEncoder | None,
    *,
    block: int,
    syntax: bool = False,
) -> Iterator[Answer]:
    """Answer queries in their order; `block` of them are embedded and searched together.

    With block=1 each has its answer before the next query is read. encoder: may be None where
    words alone count. syntax: as in `Index.search`.

    Raises MisuseError for a phrase without end.
    """
    for gathered in blocks(queries, block):
        started = time.perf_counter()
        read = parse_query if syntax else plain_query
        parsed = [read(query.text) for query in gathered]
        texts = [query.text for query in parsed]
        embeddings = None if encoder is None else encoder.encode(texts, query=True)
        answers = index.answer_parsed(request, embeddings, parsed)
        seconds = (time.perf_counter() - started) / len(gathered)
        for query, text, hits in zip(gathered, texts, answers, strict=True):
            yield Answer(query, text, hits, seconds)
