"""The tools over stdin and stdout, for the one client that started this process."""

from __future__ import annotations

import asyncio

import anyio
from mcp.server.stdio import stdio_server

from moee_index.errors import ModelError, MoeeIndexError
from moee_index.serve.mcp.protocol import create_protocol
from moee_index.serve.mcp.wire import Wire
from moee_index.serve.server import Server
from moee_index.types import Notify


def serve(server: Server, wire: Wire, notify: Notify) -> None:
    """Serve until the client ends. Raises what made the server unable to serve."""
    reason = asyncio.run(_serve(server, wire, notify))
    failure = server.engine.model.failure
    if isinstance(failure, MoeeIndexError):
        raise failure
    if reason is not None:
        raise ModelError(f"the server had to end: {reason}")


async def _serve(server: Server, wire: Wire, notify: Notify) -> str | None:
    """As `serve`; why it can serve no more, None where the client has ended."""
    server.start()
    talking = asyncio.create_task(_talk(server, wire, notify))
    watching = asyncio.create_task(server.watch())
    try:
        await asyncio.wait({talking, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not talking.done():
            return watching.result()
        talking.result()
        return None
    finally:
        for task in (talking, watching):
            task.cancel()
        await asyncio.wait({talking, watching})
        server.stop()


async def _talk(server: Server, wire: Wire, notify: Notify) -> None:
    protocol = create_protocol(server, notify)
    try:
        async with stdio_server(
            wire.lines(),  # type: ignore[arg-type]  # it is iterated over, nothing else
            anyio.wrap_file(wire.writer()),
        ) as (reading, writing):
            await protocol.run(reading, writing, protocol.create_initialization_options())
    except* BrokenPipeError:
        pass  # the client reads no more
