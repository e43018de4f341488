"""Servers of segments in threads of this process, which need no model, and directories that hold
some segments of an index and nothing of the others."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn

from moee_index.index.held import Segments
from moee_index.serve.http.app import create_app
from moee_index.serve.http.run import address, config_of, listen
from moee_index.serve.server import Server
from moee_index.serve.settings import Access, Limits, Settings


@dataclass
class Running:
    """A server of segments. delay: seconds that every request waits; asked: paths of requests."""

    directory: Path
    segments: str
    port: int = 0
    access: Access = field(default_factory=Access)
    delay: float = 0.0
    asked: list[str] = field(default_factory=list)
    url: str = ""
    _process: uvicorn.Server | None = None
    _thread: threading.Thread | None = None

    def start(self) -> Running:
        """Start it, at the port that it had if it was started before."""
        settings = Settings(
            {self.directory.name: self.directory}, self.access, Limits(),
            segments=Segments.parse(self.segments),
        )  # fmt: skip
        app = create_app(Server(settings, None))
        listening = listen("127.0.0.1", self.port, 30.0)
        self.url, self.port = address(listening), listening.getsockname()[1]
        config = config_of(app, settings.limits)

        async def slowed(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                self.asked.append(scope["path"])
                until = time.monotonic() + self.delay
                while self.delay and time.monotonic() < until:
                    await asyncio.sleep(0.02)
            await app(scope, receive, send)

        config.app = slowed
        self._process = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._process.run, kwargs={"sockets": [listening]}, daemon=True
        )
        self._thread.start()
        while not self._process.started:
            time.sleep(0.005)
        return self

    def end(self) -> None:
        """Tell it to end; `stop` waits until it has."""
        assert self._process is not None
        self._process.should_exit = True

    def stop(self) -> None:
        """End it, and its connections."""
        self.end()
        assert self._thread is not None
        self._thread.join(30)
        assert not self._thread.is_alive()


def part_of(index: Path, target: Path, segments: str) -> Path:
    """A copy of an index without any file of other segments; `target` may be an older one."""
    listed = json.loads((index / "manifest.json").read_text(encoding="utf-8"))["segments"]
    held = Segments.parse(segments).of(index, len(listed))
    others = {each["name"] for number, each in enumerate(listed) if number not in held}
    target.parent.mkdir(parents=True, exist_ok=True)
    manifest = ("manifest.json",)
    shutil.copytree(
        index, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*others, *manifest)
    )
    # Last, as a writer does.
    shutil.copy(index / "manifest.json", target / "manifest.new")
    (target / "manifest.new").replace(target / "manifest.json")
    assert not any((target / name).exists() for name in others)
    return target


@contextlib.contextmanager
def sharded(
    index: Path, folder: Path, ranges: Sequence[str], access: Access | None = None
) -> Iterator[list[Running]]:
    """Servers of an index, each with its segments alone."""
    running: list[Running] = []
    try:
        for number, segments in enumerate(ranges):
            target = part_of(index, folder / str(number) / index.name, segments)
            running.append(Running(target, segments, access=access or Access()).start())
        yield running
    finally:
        for each in running:
            each.end()
        for each in running:
            each.stop()
