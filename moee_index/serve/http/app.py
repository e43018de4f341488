"""The ASGI application: routes, errors, and the guard around them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from moee_index import __version__
from moee_index.errors import MoeeIndexError
from moee_index.serve.http import faults
from moee_index.serve.http.guard import Guard
from moee_index.serve.http.request_log import RequestLog, Write
from moee_index.serve.http.routes import embeddings, health, look, page, rerank, search, shard
from moee_index.serve.server import Server

if TYPE_CHECKING:
    from moee_index.serve.mcp.over_http import OverHttp

_ABOUT = "Semantic search with Mixture-of-Experts language models: sim_HS + α·sim_RW."


def create_app(server: Server, write_log: Write | None = None) -> Guard:
    """The application of a server, which it starts and stops; write_log: takes a line a request."""
    log = RequestLog(write_log, server.metrics.log_line_lost)
    # A server of segments answers a head alone: by itself it would answer for a part of the index.
    of_segments = server.settings.segments is not None
    tools = None if of_segments else _tools(server)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        # What a mounted application needs to have entered is entered here: its own never runs.
        server.start()
        async with nullcontext() if tools is None else tools.running():
            yield
        server.stop()
        log.close()

    app = FastAPI(
        title="moee-index",
        version=__version__,
        description=_ABOUT,
        lifespan=lifespan,
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
    )
    app.state.server = server
    for part in (
        (shard, health) if of_segments else (search, look, embeddings, rerank, health, page)
    ):
        app.include_router(part.router)
    if tools is not None:
        app.router.routes.append(tools.route)
    app.add_exception_handler(MoeeIndexError, faults.of_tree)
    app.add_exception_handler(RequestValidationError, faults.of_validation)
    app.add_exception_handler(HTTPException, faults.of_http)
    app.add_exception_handler(Exception, faults.unexpected)
    app.openapi = _with_our_errors(app.openapi)  # type: ignore[method-assign]
    return Guard(app, server, log)


def _tools(server: Server) -> OverHttp:
    # Imported where there are some: it takes a third of a second.
    from moee_index.serve.mcp.over_http import OverHttp

    return OverHttp(server)


def _with_our_errors(openapi: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """The description without the framework's own answer to a wrong body, which here is 400."""

    def described() -> dict[str, Any]:
        described = openapi()
        for path in described["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            described["components"]["schemas"].pop(name, None)
        return described

    return described
