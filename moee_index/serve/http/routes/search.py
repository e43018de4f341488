"""Searches, and what the indexes hold."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import Response

from moee_index.serve.answers.holdings import document, indexes, models
from moee_index.serve.answers.search import Search, raw_vector, search
from moee_index.serve.http.responses import json_response
from moee_index.serve.http.routes.common import ERRORS, ServerOf, TraceOf
from moee_index.serve.http.schemas import (
    DocumentAnswer,
    IndexList,
    ModelList,
    SearchAnswer,
    SearchAnswers,
    SearchBody,
)

router = APIRouter(responses=ERRORS)


@router.post("/v1/search", response_model=SearchAnswer | SearchAnswers)
async def searched(body: SearchBody, server: ServerOf, trace: TraceOf) -> Response:
    """What `moee-index query --json` prints, and the index's revision; for a list of queries
    {"answers": […]}."""
    options = body.model_dump(
        include={
            "alpha",
            "lexical",
            "k1",
            "b",
            "filter",
            "min_score",
            "passages",
            "exact",
            "recall",
        },
        exclude_none=True,
    )
    asked = Search(
        index=body.index,
        texts=[body.query] if isinstance(body.query, str) else body.query,
        vector=None if body.vector is None else raw_vector(body.vector.hs, body.vector.rw),
        like=body.like,
        k=body.k,
        offset=body.offset,
        method=body.method,
        options=options,
        facets=body.facets,
        revision=body.revision,
        syntax=body.syntax,
        snippet_width=body.snippet_width if body.snippets else None,
        partial=body.partial,
    )
    answers = await search(server, asked, trace)
    several = isinstance(body.query, list)
    return await json_response(server, {"answers": answers} if several else answers[0])


@router.get("/v1/models", response_model=ModelList)
async def listed_models(server: ServerOf) -> Response:
    """Names that embeddings can be asked for."""
    return await json_response(server, {"object": "list", "data": await models(server)})


@router.get("/v1/indexes", response_model=IndexList)
async def listed_indexes(server: ServerOf) -> Response:
    """The indexes that are served."""
    found = await server.engine.in_thread(indexes, server)
    return await json_response(server, {"object": "list", "data": found})


@router.get("/v1/indexes/{name}/documents/{id:path}", response_model=DocumentAnswer)
async def one_document(name: str, id: str, server: ServerOf, trace: TraceOf) -> Response:
    """A document with its metadata and, where it was split, its passages."""
    served = server.indexes.get(name)
    found = await server.engine.in_thread(document, served, id)
    trace.about |= {"index": found["index"], "revision": found["revision"]}
    return await json_response(server, found)
