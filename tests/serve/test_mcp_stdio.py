"""The process behind the tools over stdio: what it writes, and how it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from serving import PATIENCE

INITIALIZE = {
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}

# Libraries that print when they are imported: to the file itself, as native code does, by Python,
# and by a process of their own.
NOISE = """
import os, subprocess, sys

class Noisy:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "transformers", "faiss", "tokenizers"):
            os.write(1, f"native noise of {name}\\n".encode())
            print("printed noise of", name)
            subprocess.run(["echo", "a child's noise"])
        return None

sys.meta_path.insert(0, Noisy())
"""


def start(*args: str | Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "moee_index", "mcp", *map(str, args)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        encoding="utf-8", env={**os.environ, **environment},
    )  # fmt: skip


def ask(process: subprocess.Popen[str], number: int, message: dict[str, Any]) -> Any:
    """Send a request and read lines up to its answer; each is a message of the protocol."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(json.dumps({"jsonrpc": "2.0", "id": number, **message}) + "\n")
    process.stdin.flush()
    while True:
        answer = json.loads(process.stdout.readline())
        assert answer["jsonrpc"] == "2.0"
        if answer.get("id") == number:
            return answer["result"]


def greet(process: subprocess.Popen[str]) -> Any:
    answer = ask(process, 1, INITIALIZE)
    assert process.stdin is not None
    process.stdin.write('{"jsonrpc": "2.0", "method": "notifications/initialized"}\n')
    process.stdin.flush()
    return answer


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"method": "tools/call", "params": {"name": name, "arguments": arguments}}


def all_messages(lines: Iterable[str]) -> list[Any]:
    messages = [json.loads(line) for line in lines]
    assert all(message["jsonrpc"] == "2.0" for message in messages)
    return messages


def test_stdout_holds_the_protocol_alone(news_index: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(NOISE, encoding="utf-8")
    process = start(news_index, PYTHONPATH=str(tmp_path))
    assert greet(process)["serverInfo"]["name"] == "moee-index"
    answer = ask(process, 2, call("search", query="elections"))
    assert not answer["isError"] and len(answer["structuredContent"]["results"]) == 10
    # What nobody can read as a message leaves the server as it is.
    assert process.stdin is not None
    process.stdin.write("this is not JSON\n\n[[[[\n")
    assert not ask(process, 3, call("list_indexes"))["isError"]
    out, notes = process.communicate(timeout=PATIENCE)
    all_messages(out.splitlines())
    assert process.returncode == 0
    for library in ("torch", "transformers", "faiss"):
        assert f"native noise of {library}" in notes and f"printed noise of {library}" in notes
    assert "a child's noise" in notes


def test_the_server_ends_with_its_client(news_index: Path) -> None:
    process = start(news_index)
    greet(process)
    started = time.monotonic()
    out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0 and out == ""
    assert time.monotonic() - started < 20


def test_a_client_that_reads_no_more_ends_the_server_quietly(news_index: Path) -> None:
    process = start(news_index)
    greet(process)
    assert process.stdout is not None and process.stdin is not None and process.stderr is not None
    process.stdout.close()
    process.stdin.write(json.dumps({"jsonrpc": "2.0", "id": 2, "method": "tools/list"}) + "\n")
    process.stdin.flush()
    assert process.wait(PATIENCE) == 0
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()


def test_a_model_that_cannot_be_loaded_ends_the_server(news_index: Path) -> None:
    """The client keeps stdin open: the server must not wait for it."""
    process = start(news_index, "--device", "cuda:7")
    assert process.wait(PATIENCE) == 2
    assert process.stdout is not None and process.stderr is not None
    all_messages(process.stdout.read().splitlines())
    last = process.stderr.read().splitlines()[-1]
    assert last.startswith("Error: --device cuda:7")
    process.communicate()


def refused(*args: str | Path) -> tuple[int, str]:
    """Exit status and last line of stderr of a start that is refused; nothing is on stdout."""
    process = start(*args)
    out, notes = process.communicate(timeout=PATIENCE)
    assert out == "" and "Traceback" not in notes
    return process.returncode, notes.splitlines()[-1]


def test_starts_that_are_refused(tmp_path: Path, news_index: Path) -> None:
    status, said = refused()
    assert status == 2 and "name the directory of an index" in said
    status, said = refused(tmp_path / "nothing")
    assert status == 1 and str(tmp_path / "nothing") in said
    status, said = refused(news_index, "--name", f"news={news_index}")
    assert status == 2 and "is also the name of" in said
