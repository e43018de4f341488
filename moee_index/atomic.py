"""Write so that a crash leaves either the old file or the new one, with one writer at a time.

All temporary names, renames and locks of the program are made here; what the files hold is left
to their writers.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from moee_index.errors import IndexDamagedError, IndexLockedError, StorageError
from moee_index.types import ignore

LOCK = "lock"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}
_LIMITS = {
    errno.EMFILE: "close other indexes and files, or raise the limit on open files (ulimit -n),",
    errno.ENFILE: "close other programs, which have the most files open that this machine allows,",
    errno.ENOMEM: "free memory, or raise the limits on it (ulimit -v),",
}
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
# A folder that may be written in and not be read, and file systems that sync no directory.
_UNSYNCED = {errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENOTSUP, errno.ENOSYS}
_SQLITE = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_READONLY: errno.EACCES,
    sqlite3.SQLITE_PERM: errno.EACCES,
    sqlite3.SQLITE_NOMEM: errno.ENOMEM,
}


@contextlib.contextmanager
def storage_errors(where: Path, message: str | None = None) -> Iterator[None]:
    """Turn errors while writing into one line that says what to do.

    message: that line, with `{path}` and `{why}`; None for files of an index.
    Raises StorageError; IndexDamagedError for a file that SQLite finds altered, IndexLockedError
    for one that it finds in use.
    """
    try:
        yield
    except OSError as error:
        text = error.strerror or str(error)
        raise StorageError(_told(error.errno, text, where, message)) from error
    except sqlite3.DatabaseError as error:
        text = str(error)
        # The low byte is the kind; texts are for people and may be put another way.
        kind = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if kind in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            again = "build the index again with --overwrite"
            raise IndexDamagedError(
                f"{where} is damaged ({text}); {again if message is None else 'remove it'}"
            ) from error
        if kind in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise IndexLockedError(
                f"{where} is in use by another program; close it and start again"
            ) from error
        code = _open_refused(where) if kind == sqlite3.SQLITE_CANTOPEN else _SQLITE.get(kind)
        raise StorageError(_told(code, text, where, message)) from error


def _open_refused(path: Path) -> int:
    """Why SQLite cannot open a file, which it does not say: the directory where the file opens."""
    try:
        os.close(os.open(path, os.O_RDWR))
    except FileNotFoundError:
        return errno.EACCES
    except OSError as error:
        return error.errno or errno.EACCES
    return errno.EACCES


def _told(code: int | None, text: str, where: Path, message: str | None = None) -> str:
    if message is not None:
        return message.format(path=where, why=text)
    if code in _FULL:
        return (
            f"the disk is full or a size limit reached while writing {where} ({text}); make room "
            "and start the same command again: what was embedded so far is kept"
        )
    if code in _LIMITS:
        return f"cannot write {where} ({text}); {_LIMITS[code]} and start the same command again"
    if code in _NO_LOCKS:
        return f"cannot lock {where} ({text}); this file system has no locks: use another --index"
    if code in _REFUSED:
        return f"cannot write {where} ({text}); choose another --index or change its permissions"
    return f"writing {where} failed ({text}); check the disk and start the same command again"


def open_for_update(path: Path) -> int:
    """A handle for `read_at` and `write_at`; the file is made where there is none."""
    # Windows has no O_CLOEXEC, Python closes there what a child is not given, and text is a mode.
    flags = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    return os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o644)


def read_at(handle: int, size: int, place: int) -> bytes:
    """Up to `size` bytes from `place` on. One thread a handle, for Windows has one position."""
    if hasattr(os, "pread"):
        return os.pread(handle, size, place)
    os.lseek(handle, place, os.SEEK_SET)
    return os.read(handle, size)


def write_at(handle: int, content: memoryview, place: int) -> None:
    """All of content at `place`. One thread a handle, as above."""
    while content:
        if hasattr(os, "pwrite"):
            written = os.pwrite(handle, content, place)
        else:
            os.lseek(handle, place, os.SEEK_SET)
            written = os.write(handle, content)
        content, place = content[written:], place + written


def sync_file(handle: int) -> None:
    """Return when a file is on disk.

    macOS' fsync leaves it in the drive's cache, which loses it in a power cut; F_FULLFSYNC does
    not. Network file systems there lack it.
    """
    if sys.platform == "darwin":
        import fcntl

        with contextlib.suppress(OSError):
            fcntl.fcntl(handle, fcntl.F_FULLFSYNC)
            return
    os.fsync(handle)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        sync_file(handle)
    finally:
        os.close(handle)


def sync_directory(directory: Path) -> None:
    """Make renames and new names in a directory survive a power cut.

    Windows opens no directory; NTFS keeps a journal of its names. Where a directory may not be
    opened, or its file system syncs none, its names are as safe as the system makes them.
    """
    if os.name != "nt":
        try:
            _sync(directory)
        except OSError as error:
            if error.errno not in _UNSYNCED:
                raise


# Windows refuses to replace a file while another process reads it: seconds to wait, times to try.
_PAUSE, _TRIES = 0.05, 40


def _replace(temporary: Path, path: Path) -> None:
    for left in reversed(range(_TRIES)):
        try:
            temporary.replace(path)
            return
        except PermissionError:
            if os.name != "nt" or not left:
                raise
            time.sleep(_PAUSE)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`: synced and renamed onto it when the block ends well.

    For files under a writer's lock: the name is `<name>.tmp`, which the next writer removes.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        yield temporary
        with storage_errors(path):
            with temporary.open("rb+") as file:
                sync_file(file.fileno())
            _replace(temporary, path)
            sync_directory(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def write_file(path: Path, content: bytes) -> None:
    """Write a whole file atomically, under a writer's lock. Raises StorageError."""
    with replacing(path) as temporary, storage_errors(path):
        temporary.write_bytes(content)


@contextlib.contextmanager
def new_files(
    paths: Sequence[Path], message: str, check: Callable[[], object] = ignore
) -> Iterator[list[BinaryIO]]:
    """Open files that get the names `paths` together when the block ends well, and leave nothing
    behind if it fails.

    For files under no lock: the names until then hold the process's number. The last file is
    renamed first, and a first one that it belongs to goes before: files of two writes are never
    left beside each other. message: as of `storage_errors`. check: called when everything is on
    disk, just before the renaming, and may raise.

    Raises StorageError.
    """
    temporaries = [path.with_name(f".{path.name}.{os.getpid()}.partial") for path in paths]
    with storage_errors(paths[0], message), contextlib.ExitStack() as opened:
        files: list[BinaryIO] = []
        for temporary in temporaries:
            files.append(opened.enter_context(temporary.open("xb")))
            opened.callback(temporary.unlink, missing_ok=True)
        yield files
        for file in files:
            file.flush()
            sync_file(file.fileno())
        check()
        _rename_together(temporaries, paths)


def _rename_together(temporaries: Sequence[Path], paths: Sequence[Path]) -> None:
    if len(paths) > 1:
        paths[0].unlink(missing_ok=True)
    done: list[Path] = []
    try:
        for temporary, path in zip(reversed(temporaries), reversed(paths), strict=True):
            _replace(temporary, path)
            done.append(path)
    except BaseException:
        for path in done:
            path.unlink(missing_ok=True)
        raise
    sync_directory(paths[0].parent)


def save_file(path: Path, content: bytes, message: str) -> Path:
    """Write a whole file atomically, under no lock; its directory is made. Returns the path.

    message: as of `storage_errors`. Raises StorageError.
    """
    with storage_errors(path, message):
        path.parent.mkdir(parents=True, exist_ok=True)
    with new_files([path], message) as (file,):
        file.write(content)
    return path


def begin_directory(directory: Path) -> Path:
    """An empty directory beside `directory`, to be filled and then renamed."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))


def finish_directory(temporary: Path, directory: Path) -> None:
    """Rename a filled directory. Raises OSError if the name is taken."""
    temporary.chmod(0o755)
    for file in temporary.iterdir():
        file.chmod(0o644)
        with file.open("rb+") as opened:
            sync_file(opened.fileno())
    temporary.rename(directory)
    sync_directory(directory.parent)


def move_directory(source: Path, target: Path) -> None:
    """Give a directory of synced files another name, on another file system too: there it is
    copied under a temporary name, synced and renamed. What was at the new name is replaced.

    Raises StorageError; the source is then still there.
    """
    with storage_errors(target):
        if target.exists():
            shutil.rmtree(target)
        try:
            source.rename(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            _copy_directory(source, target)
            shutil.rmtree(source)
        sync_directory(target.parent)


def _copy_directory(source: Path, target: Path) -> None:
    temporary = Path(tempfile.mkdtemp(prefix=f"{target.name}.", suffix=".tmp", dir=target.parent))
    try:
        for path in source.iterdir():
            shutil.copyfile(path, temporary / path.name)
            with (temporary / path.name).open("rb+") as copy:
                sync_file(copy.fileno())
        sync_directory(temporary)
        temporary.chmod(0o755)
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def now() -> str:
    """This moment, ISO 8601 with its zone, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def json_bytes(value: Any) -> bytes:
    """JSON for people and machines: UTF-8, indented, keys in their order."""
    return (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode()


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _lock(handle: int) -> None:
    """Lock an open file until it is closed. Raises BlockingIOError where another process has."""
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        except PermissionError as error:
            raise BlockingIOError(error.errno, error.strerror) from error
        return
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


class WriterLock:
    """One writer to an index directory: an advisory lock that ends with the process that holds it.

    Raises IndexLockedError when another process writes, StorageError when the directory refuses.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / LOCK
        self._handle: int | None = None

    def __enter__(self) -> WriterLock:
        while self._handle is None:
            with storage_errors(self._path):
                handle = open_for_update(self._path)
            try:
                _lock(handle)
                # A writer that gave up may have removed the name that was locked here.
                if self._names(handle):
                    self._handle = handle
            except BlockingIOError:
                raise IndexLockedError(
                    f"another process is writing to {self._path.parent}; wait until it has ended"
                ) from None
            except OSError as error:
                raise StorageError(_told(error.errno, str(error), self._path)) from error
            finally:
                if self._handle != handle:
                    os.close(handle)
        return self

    def _names(self, handle: int) -> bool:
        try:
            named = self._path.stat()
        except FileNotFoundError:
            return False
        return os.path.samestat(named, os.fstat(handle))

    def remove(self) -> None:
        """Remove the lock file; only for a directory that is being removed."""
        with contextlib.suppress(PermissionError):  # Windows removes no open file
            self._path.unlink(missing_ok=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
