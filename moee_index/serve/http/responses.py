"""Answers as bytes, made by a thread of the pool: a large one keeps no other client waiting."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from itertools import islice
from typing import Any

from fastapi.responses import Response, StreamingResponse

from moee_index.serve.server import Server

_JSON = "application/json"
# Pieces that are joined before they are sent.
_TOGETHER = 64


async def json_response(server: Server, value: Any) -> Response:
    """An object as JSON; NaN is a bug, not an answer."""

    def dumped() -> bytes:
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8")

    return Response(await server.engine.in_thread(dumped), media_type=_JSON)


async def pieces_response(server: Server, pieces: Iterator[bytes]) -> Response:
    """JSON in pieces: sent whole if there are few, else as they are made."""

    def some() -> bytes:
        return b"".join(islice(pieces, _TOGETHER))

    def one_more() -> bytes:
        return next(pieces, b"")

    first, next_one = await server.engine.in_thread(lambda: (some(), one_more()))
    if not next_one:
        return Response(first, media_type=_JSON)

    async def stream() -> AsyncIterator[bytes]:
        yield first + next_one
        while block := await server.engine.in_thread(some):
            yield block

    return StreamingResponse(stream(), media_type=_JSON)
