"""What stands around all routes: who may ask, how large and how slow a request may be, the client
that leaves, the headers and the log line of every answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import time
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from fastapi.responses import JSONResponse, Response

from moee_index.errors import MoeeIndexError, first_line
from moee_index.serve.engine.trace import Trace
from moee_index.serve.errors import (
    ClientLeftError,
    HeadTooLargeError,
    MediaTypeError,
    NotReadyError,
    OverloadedError,
    SlowClientError,
    TooLargeError,
)
from moee_index.serve.http.access import PROBES, is_allowed_origin, refusal
from moee_index.serve.http.faults import answer, error_body
from moee_index.serve.http.request_log import RequestLog, record
from moee_index.serve.server import Server

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
# Bytes that are handed on at a time, each within the time for writing.
_PIECE = 64 << 10
# What pages of other sites may send: the latter ones are those of calls of tools.
_ALLOWED_HEADERS = (
    "authorization, content-type, x-request-id, mcp-protocol-version, mcp-method, mcp-name"
)
_HEADERS = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))


class Guard:
    """The application that uvicorn runs, around the one that has the routes."""

    def __init__(self, app: App, server: Server, log: RequestLog) -> None:
        self._app = app
        self._server = server
        self._log = log
        self._reading = 0  # bytes of bodies that are being read or worked on

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await _Exchange(self, scope, receive, send).run()

    @property
    def server(self) -> Server:
        return self._server

    @property
    def app(self) -> App:
        return self._app

    @property
    def log(self) -> RequestLog:
        return self._log

    @contextlib.contextmanager
    def room(self) -> Any:
        """Counts the bytes of one body, by the function that it gives."""
        limits, own = self._server.settings.limits, 0

        def count(received: int) -> None:
            nonlocal own
            if own + received > limits.body:
                raise TooLargeError(f"the body has more than {limits.body} bytes; send it in parts")
            if self._reading + received > limits.bodies:
                raise OverloadedError("too many bytes are on their way; try again in 1 second", 1)
            self._reading += received
            own += received

        try:
            yield count
        finally:
            self._reading -= own


class _Exchange:
    """One request and its answer."""

    def __init__(self, guard: Guard, scope: Scope, receive: Receive, send: Send) -> None:
        self._guard, self._scope, self._receive, self._send = guard, scope, receive, send
        self._headers = {
            name.decode("latin-1").lower(): value.decode("latin-1")
            for name, value in scope["headers"]
        }
        given = self._headers.get("x-request-id", "")
        self._trace = Trace(given if _ID.fullmatch(given) else secrets.token_hex(8))
        if guard.server.settings.log_texts:
            self._trace.asked = []
        self._status = 0
        self._bytes_in = self._bytes_out = 0
        self._error: str | None = None
        scope.setdefault("state", {})["trace"] = self._trace

    async def run(self) -> None:
        try:
            await self._answered()
        except ClientLeftError:
            self._status = 499
            self._guard.server.metrics.left()
        except TimeoutError:
            # An answer that nobody takes: uvicorn closes what ends half-way.
            self._error = "the client did not take the answer in time"
            raise
        except Exception as error:
            self._error = _told(error)
            if self._status == 0:
                message = "an unexpected error; the server's log has it"
                await self._respond(JSONResponse(error_body(500, message), 500))
        finally:
            self._finish()

    async def _answered(self) -> None:
        if (preflight := self._preflight()) is not None:
            await self._respond(preflight)
            return
        if (refused := self._refused()) is not None:
            await self._respond(answer(refused))
            return
        with self._guard.room() as count:
            try:
                with self._trace.stage("read"):
                    body = await self._body(count)
            except MoeeIndexError as error:
                if isinstance(error, ClientLeftError):
                    raise
                await self._respond(answer(error))
                return
            await self._until_left(body)

    def _refused(self) -> MoeeIndexError | None:
        """Why the request is not even read."""
        server, path = self._guard.server, self._scope["path"]
        parts = (self._scope["raw_path"], self._scope["query_string"])
        size = sum(map(len, parts)) + sum(len(n) + len(v) for n, v in self._scope["headers"])
        if size > server.settings.limits.header:
            return HeadTooLargeError(
                f"address and headers have more than {server.settings.limits.header} bytes"
            )
        if server.draining and path not in PROBES:
            return NotReadyError("the server is about to end; ask another")
        return refusal(server.settings.access, path, self._headers)

    def _preflight(self) -> Response | None:
        """The answer to a browser that asks whether a page of another site may ask."""
        asked = "access-control-request-method" in self._headers
        origin = self._headers.get("origin", "")
        if self._scope["method"] != "OPTIONS" or not asked:
            return None
        if not is_allowed_origin(self._guard.server.settings.access, origin):
            return None
        return Response(
            status_code=204,
            headers={
                "access-control-allow-methods": "GET, POST",
                "access-control-allow-headers": _ALLOWED_HEADERS,
                "access-control-max-age": "600",
            },
        )

    async def _body(self, count: Callable[[int], None]) -> bytes:
        """The whole body. Raises TooLargeError, SlowClientError, MediaTypeError."""
        declared = self._headers.get("content-length", "0")
        limits = self._guard.server.settings.limits
        if declared.isdecimal() and int(declared) > limits.body:
            count(int(declared))
        pieces: list[bytes] = []
        try:
            async with asyncio.timeout(limits.reading):
                more = True
                while more:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        raise ClientLeftError("the client left before it had asked")
                    pieces.append(message.get("body", b""))
                    count(len(pieces[-1]))
                    more = message.get("more_body", False)
        except TimeoutError:
            raise SlowClientError(
                f"the request was not there within {limits.reading:g} seconds; send it again"
            ) from None
        body = b"".join(pieces)
        self._bytes_in = len(body)
        kind = self._headers.get("content-type", "").partition(";")[0].strip().lower()
        if body and kind != "application/json" and not kind.endswith("+json"):
            raise MediaTypeError("the body must be JSON, with Content-Type: application/json")
        return body

    async def _until_left(self, body: bytes) -> None:
        """Let the routes answer, but only as long as the client waits."""
        left = asyncio.Event()
        handed = False

        async def receive() -> Message:
            nonlocal handed
            if not handed:
                handed = True
                return {"type": "http.request", "body": body, "more_body": False}
            await left.wait()
            return {"type": "http.disconnect"}

        async def watch() -> None:
            while (await self._receive())["type"] != "http.disconnect":
                pass
            left.set()

        async def work() -> None:
            await self._guard.app(self._scope, receive, self._sent)

        working, watching = asyncio.create_task(work()), asyncio.create_task(watch())
        try:
            await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                working.cancel()
                await asyncio.wait({working})
                if working.cancelled():
                    raise ClientLeftError("the client left before its answer")
            working.result()
        finally:
            for task in (working, watching):
                task.cancel()

    async def _sent(self, message: Message) -> None:
        """Hand an answer on: with the headers of all answers, in pieces, each in its time."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            message = {**message, "headers": [*message["headers"], *self._more_headers()]}
            await self._send(message)
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        writing = self._guard.server.settings.limits.writing
        started = time.perf_counter()
        for start in range(0, max(1, len(body)), _PIECE):
            piece = body[start : start + _PIECE]
            last = start + _PIECE >= len(body)
            async with asyncio.timeout(writing):
                await self._send(
                    {"type": "http.response.body", "body": piece, "more_body": more or not last}
                )
            self._bytes_out += len(piece)
        self._trace.add("write", time.perf_counter() - started)

    def _more_headers(self) -> list[tuple[bytes, bytes]]:
        headers = [*_HEADERS, (b"x-request-id", self._trace.id.encode("ascii"))]
        origin = self._headers.get("origin")
        if self._guard.server.settings.access.origins:
            headers.append((b"vary", b"Origin"))
        if origin and is_allowed_origin(self._guard.server.settings.access, origin):
            headers.append((b"access-control-allow-origin", origin.encode("latin-1")))
            headers.append((b"access-control-expose-headers", b"x-request-id, retry-after"))
        return headers

    async def _respond(self, response: Response) -> None:
        await response(self._scope, self._receive, self._sent)

    def _finish(self) -> None:
        """Count the request, and write its line."""
        seconds = time.perf_counter() - self._trace.started
        route = getattr(self._scope.get("route"), "path", None) or "other"
        self._guard.server.metrics.request(route, self._status, seconds, self._trace)
        self._guard.log.write(
            record(
                self._trace,
                self._scope,
                self._headers,
                route=route,
                status=self._status,
                seconds=seconds,
                sizes=(self._bytes_in, self._bytes_out),
                error=self._error,
            )
        )


def _told(error: Exception) -> str:
    """An error that nobody thought of, for the log: what, and where."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {first_line(error)}{where}"
