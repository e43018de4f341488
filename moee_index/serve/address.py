"""The address of a server, and connections to it. What is asked there is left to others."""

from __future__ import annotations

import http.client
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from moee_index.errors import MisuseError
from moee_index.text import shown


@dataclass(frozen=True)
class Address:
    """Where a server is. url: without a slash at its end."""

    url: str
    parts: SplitResult

    @classmethod
    def parse(cls, url: str, told: str) -> Address:
        """told: what is said of a wrong one begins with it. Raises MisuseError for what is no
        address of a server."""
        try:
            parts = urlsplit(url)
            good = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1)
        except ValueError:
            good = False
        if not good or parts.path.strip("/") or parts.query:
            raise MisuseError(
                f"{told} {shown(url)!r} is no address of a server; write http://HOST:PORT"
            )
        return cls(url.rstrip("/"), parts)

    def connect(self, seconds: float) -> http.client.HTTPConnection:
        """A new connection, made within so many seconds. Raises OSError."""
        secure = self.parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(self.parts.hostname or "", self.parts.port, timeout=seconds)
        connection.connect()
        return connection


def headers_of(key: str | None, body: bytes | None) -> dict[str, str]:
    """What a request brings: its key, and the type of its body."""
    headers = {"Content-Type": "application/json"} if body is not None else {}
    return headers | ({"Authorization": f"Bearer {key}"} if key else {})


def why_unreachable(error: BaseException) -> str:
    """What is said of a connection that failed."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
