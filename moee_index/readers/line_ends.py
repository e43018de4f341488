"""Where lines end that end with a carriage return alone, as on old Macs."""

from __future__ import annotations

from typing import IO, Protocol

_CHUNK = 2**16


def only_returns(head: bytes) -> bool:
    """Whether the lines that these bytes begin end with CR alone, as on old Macs."""
    return b"\n" not in head and b"\r" in head[:-1]


class LineSource(Protocol):
    def readline(self, limit: int, /) -> bytes: ...


class Returns:
    """A stream whose readline ends behind LF, CRLF, or a CR alone."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._chunk = b""
        self._at = 0

    def readline(self, limit: int, /) -> bytes:
        parts: list[bytes] = []
        while limit > 0 and self._fill():
            end = self._chunk.find(b"\r", self._at) + 1 or len(self._chunk)
            if end == len(self._chunk) and self._chunk.endswith(b"\r"):
                self._chunk += self._stream.readline(_CHUNK)
            if self._chunk[end - 1 : end + 1] == b"\r\n":
                end += 1
            part = self._chunk[self._at : min(end, self._at + limit)]
            self._at += len(part)
            limit -= len(part)
            parts.append(part)
            if part.endswith((b"\r", b"\n")):
                break
        return b"".join(parts)

    def _fill(self) -> bool:
        """Have something that is unread, unless the stream has ended."""
        if self._at >= len(self._chunk):
            self._chunk, self._at = self._stream.readline(_CHUNK), 0
        return bool(self._chunk)
