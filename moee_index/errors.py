"""One tree of errors. Every message says what, where and what to do next, in one line.

`exit_status` is the only place where an error becomes a process exit status, `http_status` beside
it the only one where it becomes an answer of the server.
"""

from __future__ import annotations


class MoeeIndexError(Exception):
    """Base of everything this package raises on purpose. Exit status 1."""

    exit_status = 1
    http_status = 500

    def __init__(self, message: str = "") -> None:
        # What a library said may be a part of it, and have several lines.
        super().__init__(" ".join(message.split()) if "\n" in message else message)


class MisuseError(MoeeIndexError):
    """The call itself is wrong: a contradiction, a value out of range. Exit status 2."""

    exit_status = 2
    http_status = 400


class CorpusError(MoeeIndexError):
    """A corpus, query or candidate file cannot be read as what it claims to be."""

    http_status = 400


class ModelError(MoeeIndexError):
    """A checkpoint cannot be found, read or run as a Mixture-of-Experts model."""


class NotAnIndexError(MoeeIndexError):
    """The directory holds no finished index."""


class IndexDamagedError(MoeeIndexError):
    """A file of an index is missing, truncated or altered."""


class FingerprintMismatchError(MoeeIndexError):
    """An index was built with another model or other options than those in use."""


class IndexChangedError(MoeeIndexError):
    """A finished or interrupted build is asked to go on with another corpus or other options."""


class IndexLockedError(MoeeIndexError):
    """Another process is writing to the same index."""

    http_status = 503


class StorageError(MoeeIndexError):
    """The disk is full or read-only, or what it holds may not or cannot be read."""

    http_status = 503


class WorkerError(MoeeIndexError):
    """A process that embeds a part of an index died again and again, or cannot be started."""


class LibraryError(MoeeIndexError):
    """An installed library is not as this program needs it: too old, or newer than is known."""


# What torch, cuBLAS, drivers and Python say where memory cannot be had.
_NO_MEMORY = ("allocate memory", "out of memory", "Cannot allocate", "ALLOC_FAILED")


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be had, the processor's or a card's."""
    said = isinstance(error, RuntimeError) and any(text in str(error) for text in _NO_MEMORY)
    return isinstance(error, MemoryError) or said


def first_line(error: BaseException) -> str:
    """What a library's error says first; its class where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """A count for people: "1 thread", "2 threads"."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"
