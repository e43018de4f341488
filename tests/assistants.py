"""The SDK's own client, unchanged, in a conversation with the tools of assistants."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal

from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp_types import CallToolResult
from serving import PATIENCE

TOOLS = ["search", "fetch", "similar", "rerank", "list_indexes"]
Talk = Callable[[Client], Awaitable[None]]
Mode = Literal["auto", "legacy"]


def command(*args: str | Path) -> StdioServerParameters:
    arguments = ["-m", "moee_index", "mcp", *map(str, args)]
    return StdioServerParameters(command=sys.executable, args=arguments, env=dict(os.environ))


def talk(target: Any, conversation: Talk, mode: Mode = "auto") -> None:
    """Hold a conversation with a server: a URL, a command, or one in this process."""

    async def held() -> None:
        stdio = isinstance(target, StdioServerParameters)
        transport = stdio_client(target) if stdio else target
        async with Client(transport, mode=mode, read_timeout_seconds=PATIENCE) as client:
            await conversation(client)

    asyncio.run(held())


def found(result: CallToolResult) -> Any:
    """What a tool gave: as an object, and the same as text."""
    assert not result.is_error, result.content
    (block,) = result.content
    assert json.loads(block.text) == result.structured_content  # type: ignore[union-attr]
    return result.structured_content


def failed(result: CallToolResult) -> str:
    """What a tool said of an error: one line, nothing of the inside."""
    assert result.is_error
    (block,) = result.content
    text = block.text  # type: ignore[union-attr]
    assert "\n" not in text and "Traceback" not in text and len(text) <= 1000
    return text
