"""One shard: requests to it on connections that are kept, each with a deadline."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import deque
from typing import Any

from moee_index.errors import MisuseError, MoeeIndexError
from moee_index.serve.address import Address, headers_of, why_unreachable
from moee_index.serve.errors import RevisionError, ShardError
from moee_index.serve.shards.wire import ROOT
from moee_index.text import shown

# Connections that wait for the next request, and for how many seconds: servers close them later.
_KEPT = 64
_IDLE = 45.0
# Seconds to reach a shard, where it has no fewer to answer.
_CONNECT = 3.0
_PIECE = 1 << 16


class Shard:
    """A server that holds segments; used from any thread. timeout: seconds that it has for an
    answer.

    Raises MisuseError for an address that is none.
    """

    def __init__(self, url: str, key: str | None, timeout: float) -> None:
        self.address = Address.parse(url, "--shards")
        self.timeout = timeout
        self._key = key
        self._idle: deque[tuple[http.client.HTTPConnection, float]] = deque()
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return self.address.url

    def ask(self, path: str, body: bytes | None = None, timeout: float | None = None) -> Any:
        """What the shard answers, decoded. body: JSON; None asks without one. timeout: in place of
        the shard's.

        Raises ShardError where it does not answer in time or refuses, RevisionError where it serves
        another version, MisuseError for what it takes for a wrong call.
        """
        seconds = self.timeout if timeout is None else timeout
        try:
            status, content = self._asked(path, body, time.monotonic() + seconds)
        except TimeoutError as error:
            raise ShardError(
                f"{self.url} has not answered within {seconds:g} seconds; see to that server, or "
                "give it longer with --shard-timeout"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise ShardError(
                f"{self.url} cannot be asked ({why_unreachable(error)}); start that server again"
            ) from error
        try:
            answer = json.loads(content)
        except ValueError:
            answer = None
        if status == 200 and answer is not None:
            return answer
        raise _refusal(self.url, status, answer)

    def _asked(self, path: str, body: bytes | None, end: float) -> tuple[int, bytes]:
        """Status and content, on a connection that was kept; on a new one where it was kept too
        long, or there is none. Raises OSError, HTTPException."""
        kept = self._take()
        if kept is not None:
            try:
                return self._once(kept, path, body, end)
            except TimeoutError:
                raise
            except (OSError, http.client.HTTPException):
                pass  # the shard had closed it, or was started anew
        return self._once(self.address.connect(min(_CONNECT, _left(end))), path, body, end)

    def _once(
        self, connection: http.client.HTTPConnection, path: str, body: bytes | None, end: float
    ) -> tuple[int, bytes]:
        socket, pieces = connection.sock, []
        try:
            socket.settimeout(_left(end))
            method, headers = "GET" if body is None else "POST", headers_of(self._key, body)
            connection.request(method, ROOT + path, body, headers)
            response = connection.getresponse()
            while piece := response.read1(_PIECE):
                pieces.append(piece)
                socket.settimeout(_left(end))
            if response.length:
                raise http.client.IncompleteRead(b"", response.length)
            # Else it takes no further request: it is not known to have been read to its end.
            response.close()
        except BaseException:
            connection.close()
            raise
        self._keep(connection)
        return response.status, b"".join(pieces)

    def _take(self) -> http.client.HTTPConnection | None:
        """A connection that was kept; None where there is none."""
        with self._lock:
            while self._idle:
                connection, since = self._idle.pop()
                if time.monotonic() < since + _IDLE:
                    return connection
                connection.close()
        return None

    def _keep(self, connection: http.client.HTTPConnection) -> None:
        """Take a connection back whose answer was read, unless the shard has closed it."""
        if connection.sock is None:
            return
        with self._lock:
            self._idle.append((connection, time.monotonic()))
            if len(self._idle) > _KEPT:
                self._idle.popleft()[0].close()

    def close(self) -> None:
        with self._lock:
            while self._idle:
                self._idle.pop()[0].close()


def _left(end: float) -> float:
    """Seconds until a deadline. Raises TimeoutError behind it."""
    seconds = end - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds


def _refusal(url: str, status: int, answer: Any) -> MoeeIndexError:
    """What an answer other than 200 means."""
    error = answer.get("error") if isinstance(answer, dict) else None
    if not isinstance(error, dict) or status == 404:
        return ShardError(
            f"{url} is no server of segments (status {status}); start it with moee-index serve "
            "INDEX --segments"
        )
    message = shown(str(error.get("message")), 400)
    if status == 400:
        return MisuseError(message)
    if status == 409:
        return RevisionError(f"{url}: {message}; ask again once all shards have the same version")
    if status == 401:
        return ShardError(f"{url}: {message}; give the head its key with --shard-key-file")
    if status == 413:
        return ShardError(f"{url}: {message}; start that server with a larger --max-body")
    return ShardError(f"{url}: {message} (status {status}); see to that server")
