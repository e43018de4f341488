"""Many queries answered by an opened index, or several, block by block, with the time each took."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from moee_index.index.hits import Hits
from moee_index.index.index import Index
from moee_index.index.search.request import SearchRequest
from moee_index.index.several import Indexes
from moee_index.types import Query, TextEncoder, blocks


@dataclass(frozen=True)
class Answer:
    """A query's hits; seconds: its share of what embedding and searching its block took."""

    query: Query
    hits: Hits
    seconds: float


def answer_queries(
    index: Index | Indexes,
    queries: Iterable[Query],
    request: SearchRequest,
    encoder: TextEncoder | None,
    *,
    block: int,
) -> Iterator[Answer]:
    """Answer queries in their order; `block` of them are embedded and searched together.

    With block=1 each has its answer before the next query is read. encoder: may be None where
    words alone count.
    """
    for gathered in blocks(queries, block):
        started = time.perf_counter()
        texts = [query.text for query in gathered]
        embeddings = None if encoder is None else encoder.encode(texts, query=True)
        answers = index.answer(request, embeddings, texts)
        seconds = (time.perf_counter() - started) / len(gathered)
        for query, hits in zip(gathered, answers, strict=True):
            yield Answer(query, hits, seconds)
