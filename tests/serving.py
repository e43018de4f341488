"""Servers as users start them, in a process of their own, and requests to them.

`http.client` alone: what the clients of others send is tried with their packages.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import pytest

from moee_index import Document, Encoder, Index

ROOT = Path(__file__).parent.parent
JSON = {"Content-Type": "application/json"}
# A busy machine takes its time.
PATIENCE = 120.0


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def error(self) -> dict[str, Any]:
        found = self.json["error"]
        assert found.keys() == {"message", "type", "param", "code"}
        assert "Traceback" not in found["message"] and "\n" not in found["message"]
        return found  # type: ignore[no-any-return]


@dataclass
class Served:
    """A server's process. lines: of its stdout, as far as they are read; notes: of stderr."""

    process: subprocess.Popen[str]
    url: str = ""
    lines: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @classmethod
    def start(cls, *args: str | Path, ready: bool = True, **environment: str) -> Self:
        command = [sys.executable, "-m", "moee_index", "serve", "--port", "0", *map(str, args)]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8",
            env={**os.environ, **environment}, cwd=ROOT,
        )  # fmt: skip
        served = cls(process)
        for stream, lines in ((process.stdout, served.lines), (process.stderr, served.notes)):
            threading.Thread(target=_read, args=(stream, lines), daemon=True).start()
        wait_for(lambda: any("listening on" in note for note in served.notes), served)
        note = next(note for note in served.notes if "listening on" in note)
        served.url = note.split()[-1]
        if ready:
            wait_for(lambda: served.get("/readyz").status == 200, served)
        return served

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = PATIENCE,
    ) -> Answer:
        """One request on a connection of its own. body: bytes as they are, all else as JSON."""
        address = urlsplit(self.url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout)
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        try:
            sent = {**(JSON if body is not None else {}), **(headers or {})}
            connection.request(method, path, content, sent)
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())
        finally:
            connection.close()

    def get(self, path: str, **named: Any) -> Answer:
        return self.ask("GET", path, **named)

    def post(self, path: str, body: Any, **named: Any) -> Answer:
        return self.ask("POST", path, body, **named)

    def metric(self, name: str, **labels: str) -> float:
        """A counter's value; 0 where it is not there yet."""
        written = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
        start = f"{name}{{{written}}} " if labels else f"{name} "
        for line in self.get("/metrics").content.decode().splitlines():
            if line.startswith(start):
                return float(line.rsplit(" ", 1)[1])
        return 0.0

    def records(self) -> list[dict[str, Any]]:
        """The lines of the log."""
        return [json.loads(line) for line in list(self.lines)]

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, and wait for the process's end; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


def _read(stream: Any, lines: list[str]) -> None:
    with contextlib.suppress(ValueError):
        lines.extend(iter(lambda: stream.readline().rstrip("\n") or None, None))


def wait_for(condition: Any, served: Served | None = None, seconds: float = PATIENCE) -> None:
    """Wait until something holds; fail if the server ends meanwhile."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(ConnectionError, http.client.HTTPException):
            if condition():
                return
        if served is not None and served.process.poll() is not None:
            raise AssertionError(f"the server has ended: {served.notes}")
        time.sleep(0.02)
    raise AssertionError("waited in vain")


@contextlib.contextmanager
def serving(*args: str | Path, **named: Any) -> Iterator[Served]:
    served = Served.start(*args, **named)
    try:
        yield served
    finally:
        served.end()


@contextlib.contextmanager
def serving_all(*each: Sequence[str | Path]) -> Iterator[list[Served]]:
    """Several servers, which start at the same time. each: the arguments of one."""
    with ThreadPoolExecutor(len(each)) as pool:
        starting = [pool.submit(Served.start, *args) for args in each]
    with contextlib.ExitStack() as ending:
        for one in starting:
            if one.exception() is None:
                ending.callback(one.result().end)
        yield [one.result() for one in starting]


def news(count: int) -> list[Document]:
    """Articles with a number and a part of the day as metadata."""
    file = ROOT / "corpora" / "wikinews.jsonl"
    with file.open(encoding="utf-8") as lines:
        read = [json.loads(next(lines)) for _ in range(count)]
    return [
        Document(
            each["_id"] if "_id" in each else each["id"],
            each["text"],
            {"number": number, "part": "morning" if number % 3 else "evening"},
            title=each.get("title", ""),
        )
        for number, each in enumerate(read)
    ]


def build_news(directory: Path, count: int, encoder: Encoder, **options: Any) -> Path:
    Index.build(directory, news(count), encoder, **options).close()
    return directory


def close(found: Any, expected: Any, *, in_order: bool = False) -> None:
    """Equal but for rounding that depends on a batch. in_order: so are the orders of keys."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        assert not in_order or list(found) == list(expected)
        for key in expected:
            close(found[key], expected[key], in_order=in_order)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for pair in zip(found, expected, strict=True):
            close(*pair, in_order=in_order)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=2e-2)
    else:
        assert found == expected
