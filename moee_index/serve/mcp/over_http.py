"""The tools at /mcp of the HTTP server: every call stands alone, there are no sessions to keep."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi.responses import JSONResponse
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.routing import Route

from moee_index.serve.http.faults import error_body
from moee_index.serve.mcp.protocol import create_protocol
from moee_index.serve.server import Server

PATH = "/mcp"

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]


class OverHttp:
    """An application for `route`, which answers while `running` is entered.

    Host, Origin, keys and sizes are the guard's, who stands around all routes.
    """

    def __init__(self, server: Server) -> None:
        self._manager = StreamableHTTPSessionManager(
            create_protocol(server),
            json_response=True,
            stateless=True,
            max_request_body_size=server.settings.limits.body,
        )
        self.route = Route(PATH, endpoint=self, include_in_schema=False)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with self._manager.run():
            yield

    async def __call__(
        self,
        scope: Scope,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        scope["route"] = self.route  # what the log and the metrics call it
        if scope["method"] != "POST":
            # A GET would be a stream on which a server without sessions has nothing to say.
            body = error_body(405, "tools are called by POST")
            refused = JSONResponse(body, 405, {"allow": "POST"})
            await refused(scope, receive, send)
            return
        await self._manager.handle_request(scope, receive, send)
