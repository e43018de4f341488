"""Whether a server can answer: loaded, the model thread alive and not hung, not about to end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moee_index.serve.server import Server


def why_not_ready(server: Server) -> str | None:
    """What keeps requests from being answered; None where nothing does."""
    model = server.engine.model
    if server.draining:
        return "the server is about to end"
    if model.failure is not None:
        return "the model thread has died"
    if not model.loaded.done():
        return "the model is loading"
    if (silent := time.monotonic() - model.beat) > server.settings.limits.stall:
        return f"the model thread has given no sign for {silent:.0f} seconds"
    return None


def status(server: Server) -> dict[str, Any]:
    """The body of /readyz. indexes: name → revision in service; unreadable: name → why the version
    on disk is not in service."""
    reason = why_not_ready(server)
    return {
        "status": "ready" if reason is None else "not ready",
        "reason": reason,
        "indexes": {served.name: served.version.revision for served in server.indexes},
        "unreadable": server.indexes.faults(),
    }
