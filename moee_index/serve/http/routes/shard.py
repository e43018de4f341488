"""What a head asks of a server that holds some segments of an index."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from moee_index.index.search.request import SearchRequest
from moee_index.serve.answers import shard
from moee_index.serve.engine.engine import QUERY_TOKENS
from moee_index.serve.engine.trace import Trace
from moee_index.serve.http.responses import json_response
from moee_index.serve.http.routes.common import ERRORS, ServerOf, TraceOf
from moee_index.serve.http.shard_schemas import (
    DescriptionBody,
    IdBody,
    IdsBody,
    LargestBody,
    OfVersion,
    RowsBody,
    ShardLikeBody,
    ShardSearchBody,
    TermsBody,
    ValuesBody,
)
from moee_index.serve.local import LocalIndex
from moee_index.serve.server import Server
from moee_index.serve.shards import wire

router = APIRouter(prefix=wire.ROOT, responses=ERRORS)


async def _told(
    server: Server,
    trace: Trace,
    body: OfVersion,
    tell: Callable[[LocalIndex], Any],
    queries: int = 1,
) -> Response:
    """What the version that is meant tells, with its exact name. Raises RevisionError."""
    engine, served = server.engine, server.indexes.get(None)

    def told() -> Any:
        with served.held() as version:
            trace.about |= {"index": served.name, "revision": version.revision}
            shard.check_version(version, body.digest, body.revision)
            return tell(shard.local(version))

    async with engine.in_time():
        with engine.admitted(QUERY_TOKENS * queries), trace.stage("scan"):
            found = await engine.in_thread(told)
    return await json_response(server, found)


@router.get("")
async def holdings(server: ServerOf) -> Response:
    """Which version of the index is served here, and which of its segments."""
    found = await server.engine.in_thread(shard.holdings, server.indexes.get(None))
    return await json_response(server, found)


@router.post("/description")
async def description(body: DescriptionBody, server: ServerOf, trace: TraceOf) -> Response:
    """The fields of the documents here; what describes the whole index."""
    return await _told(server, trace, body, lambda index: shard.description(index, body.whole))


@router.post("/words")
async def words(body: TermsBody, server: ServerOf, trace: TraceOf) -> Response:
    """Rows, their words, and how many of them hold each term."""
    return await _told(server, trace, body, lambda index: shard.words(index, body.terms))


@router.post("/largest")
async def largest(body: LargestBody, server: ServerOf, trace: TraceOf) -> Response:
    """Each query's largest BM25 here."""
    counts = wire.counts_from(body.counts.model_dump())
    bm25 = SearchRequest.checked(k1=body.k1, b=body.b).bm25
    return await _told(
        server, trace, body, lambda index: shard.largest(index, body.texts, counts, bm25),
        len(body.texts),
    )  # fmt: skip


@router.post("/search")
async def search(body: ShardSearchBody, server: ServerOf, trace: TraceOf) -> Response:
    """The best hits of each query here: {"answers": [{"exact", "hits"}]}."""
    request = wire.request_from(body.request.model_dump())
    conditions = wire.conditions_from([each.model_dump() for each in body.conditions])
    counts = None if body.counts is None else wire.counts_from(body.counts.model_dump())
    vectors = None if body.vectors is None else body.vectors.model_dump()
    trace.note(body.texts or ())

    def tell(index: LocalIndex) -> Any:
        rows = wire.vectors_from(vectors, index.spec.dims)
        return shard.answers(index, request, rows, body.texts, conditions, counts, body.largest)

    return await _told(server, trace, body, tell, len(body.texts or (1,)))


@router.post("/like")
async def like(body: ShardLikeBody, server: ServerOf, trace: TraceOf) -> Response:
    """The documents here most like one of the index: {"exact", "hits"}."""
    request, vectors = wire.request_from(body.request.model_dump()), body.vectors.model_dump()

    def tell(index: LocalIndex) -> Any:
        rows = wire.rows_from(vectors, index.spec.dims)
        return shard.like(index, request, body.id, rows)

    return await _told(server, trace, body, tell)


@router.post("/rows")
async def rows(body: IdBody, server: ServerOf, trace: TraceOf) -> Response:
    """The raw rows of a document, null where it is not here."""
    return await _told(server, trace, body, lambda index: shard.rows_of(index, body.id))


@router.post("/vectors")
async def vectors(body: RowsBody, server: ServerOf, trace: TraceOf) -> Response:
    """Raw rows by their numbers in the whole index."""
    return await _told(server, trace, body, lambda index: shard.vectors_at(index, body.rows))


@router.post("/documents")
async def documents(body: IdsBody, server: ServerOf, trace: TraceOf) -> Response:
    """Documents by id, those that are here."""
    return await _told(server, trace, body, lambda index: shard.documents(index, body.ids))


@router.post("/passages")
async def passages(body: IdsBody, server: ServerOf, trace: TraceOf) -> Response:
    """Passages by name, and all those of documents by id, those that are here."""
    return await _told(server, trace, body, lambda index: shard.passages(index, body.ids))


@router.post("/values")
async def values(body: ValuesBody, server: ServerOf, trace: TraceOf) -> Response:
    """How many documents here match a filter and conditions, and their values of some fields."""
    conditions = wire.conditions_from([each.model_dump() for each in body.conditions])
    return await _told(
        server, trace, body,
        lambda index: shard.values(index, body.fields, body.filter, conditions),
    )  # fmt: skip


@router.post("/first")
async def first(body: OfVersion, server: ServerOf, trace: TraceOf) -> Response:
    """The first document here."""
    return await _told(server, trace, body, shard.first)
