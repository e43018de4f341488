"""What all routes have: the server and the trace of a request, the errors as OpenAPI lists them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Request
from pydantic import BaseModel

from moee_index.serve.engine.trace import Trace
from moee_index.serve.http.faults import STATUSES
from moee_index.serve.server import Server


class ErrorDetail(BaseModel):
    """What went wrong, for people (message) and for programs (type, code)."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """OpenAI's body of an error."""

    error: ErrorDetail


ERRORS: dict[int | str, dict[str, Any]] = {status: {"model": ErrorAnswer} for status in STATUSES}


async def _server(request: Request) -> Server:
    server = request.app.state.server
    assert isinstance(server, Server)
    return server


async def _trace(request: Request) -> Trace:
    trace = request.state.trace
    assert isinstance(trace, Trace)
    return trace


ServerOf = Annotated[Server, Depends(_server)]
TraceOf = Annotated[Trace, Depends(_trace)]
