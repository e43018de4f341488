"""The tools at /mcp: who may call them, what the log says."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from assistants import TOOLS, Mode, found
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from serving import PATIENCE, Served, serving, wait_for

KEY = "a-key-of-enough-characters"
INSPECTOR = "https://inspector.example"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, news_index: Path) -> Iterator[Served]:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(KEY + "\n")
    with serving(
        news_index, "--api-key-file", keys, "--max-body", "20000", "--cors-origin", INSPECTOR
    ) as running:
        yield running


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_a_key_is_needed_where_there_is_one(guarded: Served, mode: Mode) -> None:
    async def listed(headers: dict[str, str]) -> list[str]:
        async with httpx2.AsyncClient(timeout=PATIENCE, headers=headers) as http:
            transport = streamable_http_client(f"{guarded.url}/mcp", http_client=http)
            async with Client(transport, mode=mode) as client:
                return [tool.name for tool in (await client.list_tools()).tools]

    assert asyncio.run(listed({"Authorization": f"Bearer {KEY}"})) == TOOLS
    for headers in ({}, {"Authorization": "Bearer another-key-of-16-characters"}):
        with pytest.RaisesGroup(MCPError, allow_unwrapped=True, flatten_subgroups=True):
            asyncio.run(listed(headers))


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": f"Bearer {KEY}", "Host": "evil.example"}, 421),
        ({"Authorization": f"Bearer {KEY}", "Origin": "https://evil.example"}, 403),
        ({"Authorization": f"Bearer {KEY}", "Content-Type": "text/plain"}, 415),
        ({"Authorization": f"Bearer {KEY}"}, 200),
    ],
)
def test_the_guard_stands_before_the_tools(
    guarded: Served, headers: dict[str, str], status: int
) -> None:
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    accept = {"Accept": "application/json, text/event-stream"}
    answer = guarded.post("/mcp", message, headers={**accept, **headers})
    assert answer.status == status
    if status == 200:
        assert [tool["name"] for tool in answer.json["result"]["tools"]] == TOOLS
    else:
        assert answer.error


def test_large_bodies_and_other_methods_are_refused(guarded: Served) -> None:
    key = {"Authorization": f"Bearer {KEY}"}
    assert guarded.post("/mcp", {"x": "x" * 30_000}, headers=key).status == 413
    for method in ("GET", "DELETE", "PUT"):
        answer = guarded.ask(method, "/mcp", headers=key)
        assert answer.status == 405 and answer.headers["allow"] == "POST"


def test_calls_are_in_the_log_without_their_texts(guarded: Served) -> None:
    async def conversation(client: Client) -> None:
        found(await client.call_tool("search", {"query": "a question nobody else asks"}))

    async def asked() -> None:
        async with httpx2.AsyncClient(
            timeout=PATIENCE, headers={"Authorization": f"Bearer {KEY}"}
        ) as http:
            transport = streamable_http_client(f"{guarded.url}/mcp", http_client=http)
            async with Client(transport) as client:
                await conversation(client)

    asyncio.run(asked())
    (line,) = [each for each in guarded.records() if each.get("tool") == "search"]
    assert line["route"] == "/mcp" and line["index"] == "news" and line["tokens"] > 0
    assert "forward" in line["stages_ms"]
    assert "nobody else" not in json.dumps(guarded.records())


def test_a_page_of_an_allowed_site_may_call_the_tools(guarded: Served) -> None:
    wanted = "authorization, content-type, mcp-method, mcp-name, mcp-protocol-version"
    asked = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": wanted,
        "Origin": INSPECTOR,
    }
    answer = guarded.ask("OPTIONS", "/mcp", headers=asked)
    allowed = answer.headers["access-control-allow-headers"].split(", ")
    assert answer.status == 204 and set(wanted.split(", ")) <= set(allowed)
    assert (
        guarded.ask("OPTIONS", "/mcp", headers={**asked, "Origin": "https://a.example"}).status
        >= 400
    )


MODERN = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
}


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_a_client_that_leaves_takes_its_work_along(served: Served, mode: Mode) -> None:
    """In both eras of the protocol: what no batch has taken is never computed."""
    texts = [f"{number} " + "word " * 400 for number in range(250)]
    params = {"name": "rerank", "arguments": {"query": "words", "documents": texts}}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    if mode == "auto":
        params["_meta"] = MODERN
        headers |= {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call"}
        headers |= {"Mcp-Name": "rerank"}
    left = served.metric("moee_clients_left_total")
    address = urlsplit(served.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port)
    connection.request("POST", "/mcp", json.dumps(message), headers)
    wait_for(lambda: served.metric("moee_queue_tokens") > 50_000, served)
    connection.close()
    wait_for(lambda: served.metric("moee_queue_tokens") == 0, served)
    assert served.metric("moee_clients_left_total") == left + 1
