"""What keeps a file of an index from being read, told apart from damage.

Only content that differs from what was written is damage. Permissions, limits, memory, a failing
disk and a library that lacks something say nothing about a file, and building it again mends none
of them: such an error names its cause and what to do about that.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

from moee_index.errors import (
    IndexDamagedError,
    IndexLockedError,
    LibraryError,
    MisuseError,
    MoeeIndexError,
    StorageError,
    first_line,
)

HINT = "restore it or build again with --overwrite"
_GONE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_MEMORY = "free memory, or raise the limits on it (ulimit -v, vm.max_map_count)"
_FILES = "close other indexes and files, or raise the limit on open files (ulimit -n)"
_ALLOWED = "let this user read it, or run as a user who may"
_ELSE = "nothing is known to be damaged: see to the disk or folder that holds it and try again"
_REMEDIES = {
    errno.EACCES: _ALLOWED,
    errno.EPERM: _ALLOWED,
    errno.EMFILE: _FILES,
    errno.ENFILE: _FILES,
    errno.ENOMEM: _MEMORY,
}
# Of SQLite's kinds of errors (the low byte of its codes) those that are the system's.
_SYSTEM = {
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_AUTH,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_NOLFS,
    sqlite3.SQLITE_PROTOCOL,
}
# SQLite has one code for an unknown table, an unknown function and a statement beyond its limits.
_LACKING = re.compile(
    "no such (function|module|collation)|unknown function|wrong number of arguments|syntax error"
)
_TOO_LONG = re.compile("too many|too large|too deep|stack overflow|too big")


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn errors while reading a file of an index into one line that says what to do.

    Raises IndexDamagedError for a file that is missing or cannot be what was written, StorageError
    for whatever keeps it from being read, IndexLockedError, LibraryError for a SQLite that lacks a
    feature, MisuseError for a database that was closed or a filter beyond SQLite's limits.
    """
    try:
        yield
    except OSError as error:
        raise unreadable(path, error) from error
    except sqlite3.Error as error:
        raise _of_sqlite(path, error) from error
    except MemoryError as error:
        raise unreadable(path, OSError(errno.ENOMEM, "not enough memory")) from error
    except (ValueError, OverflowError) as error:
        raise IndexDamagedError(f"{path} is damaged ({first_line(error)}); {HINT}") from error


def unreadable(path: Path, error: OSError) -> MoeeIndexError:
    """The error for a file that the system does not let be read."""
    why = error.strerror or first_line(error)
    if isinstance(error, _GONE):
        return IndexDamagedError(
            f"{path} cannot be read ({why}); copy the whole index again if it was copied while it "
            f"was written to, else {HINT}"
        )
    remedy = _REMEDIES.get(error.errno or 0, _ELSE)
    return StorageError(f"{path} cannot be read ({why}); {remedy}")


def known(question: Callable[[], bool]) -> bool:
    """A question about a path; False where the system does not let it be asked."""
    try:
        return question()
    except OSError:
        return False


def obstacle(path: Path, told: str = "") -> OSError | None:
    """What the system says to opening and mapping a file; None where it allows both.

    For libraries that keep it to themselves. told: what such a library said, which may name it.
    """
    try:
        # An empty file cannot be mapped, which is a matter of its content.
        with path.open("rb") as file, contextlib.suppress(ValueError):
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ).close()
    except OSError as error:
        return error
    for code in (*_REMEDIES, errno.EIO):
        if os.strerror(code) in told:
            return OSError(code, os.strerror(code))
    return None


def _of_sqlite(path: Path, error: sqlite3.Error) -> MoeeIndexError:
    why = first_line(error)
    kind = getattr(error, "sqlite_errorcode", None)
    kind = kind if kind is None else kind & 0xFF
    if isinstance(error, sqlite3.ProgrammingError):
        return MisuseError(f"{path} cannot be asked ({why}); open the index again")
    if kind in _SYSTEM:
        return unreadable(path, obstacle(path) or OSError(None, why))
    if kind == sqlite3.SQLITE_NOMEM:
        return unreadable(path, OSError(errno.ENOMEM, why))
    if kind in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return IndexLockedError(f"{path} is in use by another program; close it and start again")
    if kind in (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_TOOBIG) and _TOO_LONG.search(why):
        return MisuseError(f"the filter is too long for SQLite ({why}); ask for less at a time")
    if kind == sqlite3.SQLITE_ERROR and _LACKING.search(why):
        return LibraryError(
            f"SQLite {sqlite3.sqlite_version} lacks what is asked of {path} ({why}); use a Python "
            "with a newer SQLite"
        )
    return IndexDamagedError(f"{path} is damaged ({why}); {HINT}")


def sqlite_uri(path: Path, *options: str) -> str:
    """A database's address for sqlite3.connect(uri=True), whatever bytes are in its name."""
    return f"file:{quote(os.fsencode(path.absolute()))}?{'&'.join(('mode=ro', *options))}"
