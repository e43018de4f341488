"""A JSON line a request, written by a thread of its own: whoever reads the log slowly keeps no
client waiting. Texts are in it only if they were asked for.
"""

from __future__ import annotations

import hashlib
import json
import queue
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from moee_index.serve.engine.trace import Trace

# Lines that wait to be written; beyond these some are lost, and counted.
_WAITING = 4096

Write = Callable[[str], None]


class RequestLog:
    """Takes records; write: takes a line, or None where nothing is logged; lost: told of a line
    that found no room."""

    def __init__(self, write: Write | None, lost: Callable[[], None]) -> None:
        self._write = write
        self._lost = lost
        self._queue: queue.Queue[dict[str, Any] | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        if write is not None:
            self._thread.start()

    def write(self, fields: dict[str, Any]) -> None:
        """Have a line written, if there is room for it."""
        if self._write is None:
            return
        try:
            self._queue.put_nowait(fields)
        except queue.Full:
            self._lost()

    def close(self, patience: float = 2.0) -> None:
        """Wait for what is still to be written, but not for ever."""
        if self._write is not None:
            try:
                self._queue.put(None, timeout=patience)
            except queue.Full:
                return
            self._thread.join(patience)

    def _run(self) -> None:
        assert self._write is not None
        while (fields := self._queue.get()) is not None:
            try:
                self._write(json.dumps(fields, ensure_ascii=False, allow_nan=False))
            except OSError:
                self._lost()


def record(
    trace: Trace,
    scope: Mapping[str, Any],
    headers: Mapping[str, str],
    *,
    route: str,
    status: int,
    seconds: float,
    sizes: tuple[int, int],
    error: str | None,
) -> dict[str, Any]:
    """A request's line. route: as declared, for an address holds ids and filters; key: the first
    digits of its SHA-256."""
    key = headers.get("authorization", "").partition(" ")[2].strip()
    client = scope.get("client")
    fields: dict[str, Any] = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "id": trace.id,
        "method": scope["method"],
        "route": route,
        "status": status,
        "ms": round(seconds * 1000, 3),
        "stages_ms": {name: round(spent * 1000, 3) for name, spent in trace.stages.items()},
        "texts": trace.texts,
        "tokens": trace.tokens,
        "bytes_in": sizes[0],
        "bytes_out": sizes[1],
        "client": client[0] if client else None,
        "key": hashlib.sha256(key.encode("utf-8")).hexdigest()[:8] if key else None,
        **trace.about,
    }
    if trace.asked is not None:
        fields["asked"] = trace.asked
    if error is not None:
        fields["error"] = error
    return fields
