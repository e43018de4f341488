"""The protocol's side: tools listed, called, and their errors told, on one line each.

The SDK's low-level server: the one above it puts words before errors, takes unknown arguments and
sets up logging for the whole process.
"""

from __future__ import annotations

import json
import secrets
from typing import Any

from mcp.server.lowlevel import Server as Protocol
from mcp_types import (
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    ToolAnnotations,
)
from mcp_types import Tool as ListedTool

from moee_index import __version__
from moee_index.errors import MisuseError, MoeeIndexError, first_line
from moee_index.serve.engine.trace import Trace
from moee_index.serve.errors import NotReadyError
from moee_index.serve.mcp.arguments import checked
from moee_index.serve.mcp.instructions import instructions
from moee_index.serve.mcp.tools import TOOLS, Tool
from moee_index.serve.server import Server
from moee_index.text import cut, one_line, shown
from moee_index.types import Notify, ignore

_MOST = 1000
_READS = ToolAnnotations(
    read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)


def create_protocol(server: Server, report: Notify = ignore) -> Protocol[dict[str, Any]]:
    """The tools of a server for any transport. report: is told of errors that nobody thought of."""
    tools = {tool.name: tool for tool in TOOLS}
    listed = [_listed(tool) for tool in TOOLS]

    async def list_tools(_: Any, __: PaginatedRequestParams | None) -> ListToolsResult:
        return ListToolsResult(tools=listed)

    async def call_tool(context: Any, params: CallToolRequestParams) -> CallToolResult:
        trace = _trace(context.request)
        try:
            if (tool := tools.get(params.name)) is None:
                raise MisuseError(f"there is no tool {shown(params.name)!r}; {', '.join(tools)}")
            trace.about["tool"] = tool.name
            arguments = checked(tool.arguments, params.arguments or {})
            return await _answered(server, tool, arguments, trace)
        except MoeeIndexError as error:
            return _failed(_told(server, error))
        except Exception as error:
            # As with HTTP: a client learns nothing of it, and the server goes on.
            trace.about["error"] = f"{type(error).__name__}: {first_line(error)}"
            report(f"{params.name}: {trace.about['error']}")
            return _failed("an unexpected error; the server's log has it")

    return Protocol(
        "moee-index",
        version=__version__,
        title="moee-index",
        instructions=instructions(server),
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


def _listed(tool: Tool[Any]) -> ListedTool:
    return ListedTool(
        name=tool.name,
        title=tool.title,
        description=tool.about,
        input_schema=tool.arguments.schema_for_tools(),
        annotations=_READS,
    )


async def _answered(
    server: Server, tool: Tool[Any], arguments: Any, trace: Trace
) -> CallToolResult:
    """A tool's result as an object, and as its JSON for clients that read text alone."""
    result = await tool.call(server, arguments, trace)
    text = json.dumps(result, ensure_ascii=False, allow_nan=False)
    return CallToolResult(content=[TextContent(text=text)], structured_content=result)


def _told(server: Server, error: MoeeIndexError) -> str:
    """An error on one line, without paths."""
    loaded = server.engine.model.loaded
    if isinstance(error, NotReadyError) and not loaded.done():
        return (
            "the model is still loading; try again in a minute (fetch, similar and list_indexes "
            "need no model)"
        )
    return cut(one_line(server.indexes.without_paths(str(error))), _MOST)


def _failed(message: str) -> CallToolResult:
    return CallToolResult(content=[TextContent(text=message)], is_error=True)


def _trace(request: Any) -> Trace:
    """That of the HTTP request, which writes it to the log; over stdio nobody does."""
    state = {} if request is None else request.scope.get("state", {})
    found = state.get("trace")
    return found if isinstance(found, Trace) else Trace(secrets.token_hex(8))
