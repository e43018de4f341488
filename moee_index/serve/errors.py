"""The errors that only a server has. Their HTTP status is beside their exit status, as that of all
errors (`moee_index.errors`).
"""

from __future__ import annotations

from moee_index.errors import MisuseError, MoeeIndexError


class UnknownNameError(MisuseError):
    """A model, an index or a document that is not served."""

    http_status = 404


class KeyRefusedError(MoeeIndexError):
    """No API key, or one that is not known."""

    http_status = 401


class OriginRefusedError(MoeeIndexError):
    """A request that a page of another site makes in a browser."""

    http_status = 403


class HostRefusedError(MoeeIndexError):
    """A request for another host than this server is."""

    http_status = 421


class TooLargeError(MoeeIndexError):
    """A request that no wait would help: too many bytes or tokens."""

    http_status = 413


class HeadTooLargeError(MoeeIndexError):
    """An address and headers of more bytes than anybody needs."""

    http_status = 431


class MediaTypeError(MoeeIndexError):
    """A body of a type other than JSON."""

    http_status = 415


class SlowClientError(MoeeIndexError):
    """A client that takes too long to send its request."""

    http_status = 408


class RevisionError(MoeeIndexError):
    """An index is served in another revision than the one that was asked for."""

    http_status = 409


class ServerMismatchError(MoeeIndexError):
    """A server is not there, or does not serve what is meant."""


class ClientLeftError(MoeeIndexError):
    """Nobody waits for the answer any more."""

    http_status = 499


class BusyError(MoeeIndexError):
    """Come back later. retry_after: seconds."""

    http_status = 503

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class OverloadedError(BusyError):
    """The queue is full."""

    http_status = 429


class NotReadyError(BusyError):
    """The model is still loading, a deadline has passed, or the server is about to end."""


class ShardError(BusyError):
    """Some segments of an index are on a server that does not answer."""
