"""What the page looks at beside hits: routing, values of fields, filters, passages."""

from __future__ import annotations

from fastapi import APIRouter, Query
from fastapi.responses import Response

from moee_index.serve.answers.browse import (
    check_condition,
    checked_filter,
    facets,
    passage,
)
from moee_index.serve.answers.routing import Pairing, expert_documents, routing
from moee_index.serve.http.look_schemas import (
    ExpertAnswer,
    FacetsAnswer,
    FacetsBody,
    FilterAnswer,
    FilterBody,
    OnePassageAnswer,
    RoutingAnswer,
    RoutingBody,
)
from moee_index.serve.http.responses import json_response
from moee_index.serve.http.routes.common import ERRORS, ServerOf, TraceOf

router = APIRouter(responses=ERRORS)


@router.post("/v1/indexes/{name}/routing", response_model=RoutingAnswer)
async def routed(name: str, body: RoutingBody, server: ServerOf, trace: TraceOf) -> Response:
    """How a document and a query, or another document, pass the experts of each MoE layer, and what
    each expert adds to the similarity of RW."""
    pairing = Pairing(body.document, body.query, body.other, body.syntax)
    return await json_response(server, await routing(server, name, pairing, trace))


@router.get("/v1/indexes/{name}/routing/documents", response_model=ExpertAnswer)
async def used_most(
    name: str,
    server: ServerOf,
    trace: TraceOf,
    layer: int = Query(ge=0),
    expert: int = Query(ge=0),
    without: str | None = None,
) -> Response:
    """The documents that use an expert most, among at most 20,000 rows of the index."""
    found = await expert_documents(server, name, layer, expert, without, trace)
    return await json_response(server, found)


@router.post("/v1/indexes/{name}/facets", response_model=FacetsAnswer)
async def counted(name: str, body: FacetsBody, server: ServerOf) -> Response:
    """How many documents match a filter, and how many of them have each value of some fields; of no
    field in particular, those whose values repeat."""
    served = server.indexes.get(name)
    check_condition(body.filter, server.settings.limits.filter)
    async with server.engine.in_time():
        found = await server.engine.in_thread(
            facets, served, body.fields, body.filter, body.values, body.query
        )
    return await json_response(server, found)


@router.post("/v1/indexes/{name}/filter", response_model=FilterAnswer)
async def filtered(name: str, body: FilterBody, server: ServerOf) -> Response:
    """How many documents match a filter, or where it is wrong."""
    served = server.indexes.get(name)
    check_condition(body.filter, server.settings.limits.filter)
    async with server.engine.in_time():
        found = await server.engine.in_thread(checked_filter, served, body.filter)
    return await json_response(server, found)


@router.get("/v1/indexes/{name}/passages", response_model=OnePassageAnswer)
async def one_passage(name: str, id: str, server: ServerOf, trace: TraceOf) -> Response:
    """A passage by its name, or the first of a document by its id, and those beside it. No part of
    the path, which may not hold every id: browsers take `..` in it for a folder."""
    served = server.indexes.get(name)
    found = await server.engine.in_thread(passage, served, id)
    trace.about |= {"index": found["index"], "revision": found["revision"]}
    return await json_response(server, found)
