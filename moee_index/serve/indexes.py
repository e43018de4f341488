"""The indexes that are served: the open version of each, and the newer one that takes its place.

A manifest that has changed on disk is seen by the next request, or within a second. Requests keep
the version they began with; one that cannot be opened leaves the open one in service.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from moee_index.errors import FingerprintMismatchError, MisuseError, MoeeIndexError
from moee_index.index.index import Index
from moee_index.index.store.layout import MANIFEST
from moee_index.serve.errors import NotReadyError, UnknownNameError
from moee_index.text import shown

# A version that could not be opened is tried again after so many seconds, or once it changes.
_RETRY = 5.0

# Modification time in ns, inode, size of a manifest; None: there is none.
Mark = tuple[int, int, int] | None


class Version:
    """An opened version of an index. digest: SHA-256 of its manifest, which no other version of
    any index has."""

    def __init__(self, name: str, index: Index, digest: str) -> None:
        self.name = name
        self.index = index
        self.digest = digest
        self._lock = threading.Lock()
        self._holders = 0
        self._closing = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keeps it open until a block ends, whoever closes it meanwhile: an index that is closed
        takes no more calls, and a request makes several, in several threads. Raises NotReadyError
        where it is closed and nobody else holds it."""
        with self._lock:
            if self._closing and not self._holders:
                raise NotReadyError(f"this version of {self.name} is no longer open; ask again")
            self._holders += 1
        try:
            yield
        finally:
            with self._lock:
                self._holders -= 1
                last = self._closing and not self._holders
            if last:
                self.index.close()

    def close(self) -> None:
        """Close it once nobody holds it."""
        with self._lock:
            now = not self._closing and not self._holders
            self._closing = True
        if now:
            self.index.close()

    @property
    def revision(self) -> int:
        return self.index.manifest.revision


class ServedIndex:
    """One index under its name; used from any thread. model: the name of the model that embeds its
    queries; fault: why the version on disk is not the one that answers, None where it is."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.directory = directory
        self.model = ""
        self.fault: str | None = None
        self.reloads = 0
        self._opening = threading.Lock()
        self._swapping = threading.Lock()
        self._mark = _mark(directory)
        self._tried = 0.0
        self._version = self._opened()

    @property
    def version(self) -> Version:
        """The version that answers now."""
        return self._version

    @contextmanager
    def held(self) -> Iterator[Version]:
        """The newest version, kept open until the block ends."""
        self.refresh()
        with self.holding() as version:
            yield version

    @contextmanager
    def holding(self) -> Iterator[Version]:
        """The version that answers now, kept open until the block ends."""
        # Between taking a version and holding it, it may be replaced and closed.
        with self._swapping:
            version = self._version
            holding = ExitStack()
            holding.enter_context(version.held())
        with holding:
            yield version

    def refresh(self) -> None:
        """Open the version on disk if it is another one."""
        mark = _mark(self.directory)
        if mark == self._mark and (self.fault is None or time.monotonic() < self._tried + _RETRY):
            return
        with self._opening:
            mark = _mark(self.directory)
            due = self.fault is not None and time.monotonic() >= self._tried + _RETRY
            if mark != self._mark or due:
                self._reload(mark)

    def _reload(self, mark: Mark) -> None:
        self._mark, self._tried = mark, time.monotonic()
        try:
            opened = self._opened()
        except MoeeIndexError as error:
            self.fault = str(error)
            return
        if opened.digest == self._version.digest:
            opened.close()
            self.fault = None
            return
        if opened.index.spec.identity() != self._version.index.spec.identity():
            opened.close()
            self.fault = str(
                FingerprintMismatchError(
                    f"{self.directory} was built anew with another model or other options; restart "
                    "the server to serve it"
                )
            )
            return
        with self._swapping:
            replaced, self._version = self._version, opened
        self.fault = None
        self.reloads += 1
        replaced.close()

    def _opened(self) -> Version:
        """The version on disk, with the digest of the very manifest that it was opened by."""
        before = _manifest(self.directory)
        while True:
            index = Index.open(self.directory)
            after = _manifest(self.directory)
            if after == before:
                return Version(self.name, index, hashlib.sha256(after).hexdigest())
            index.close()
            before = after

    def close(self) -> None:
        self._version.close()


def _mark(directory: Path) -> Mark:
    try:
        status = (directory / MANIFEST).stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


def _manifest(directory: Path) -> bytes:
    """A manifest's bytes; none where it cannot be read, of which `Index.open` says why."""
    try:
        return (directory / MANIFEST).read_bytes()
    except OSError:
        return b""


class Indexes:
    """All that are served, by name. They come from the command line alone."""

    def __init__(self, directories: Mapping[str, Path]) -> None:
        """Open them. Raises what `Index.open` raises."""
        self._served: dict[str, ServedIndex] = {}
        try:
            for name, directory in directories.items():
                self._served[name] = ServedIndex(name, directory)
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[ServedIndex]:
        return iter(self._served.values())

    def __len__(self) -> int:
        return len(self._served)

    def __contains__(self, name: str) -> bool:
        return name in self._served

    def get(self, name: str | None) -> ServedIndex:
        """An index by its name; without a name the only one.

        Raises UnknownNameError, MisuseError where there are several to choose from.
        """
        if name is None:
            if len(self._served) == 1:
                return next(iter(self._served.values()))
            known = ", ".join(self._served) or "none"
            raise MisuseError(f"name the index to search: this server has {known}")
        if name not in self._served:
            raise UnknownNameError(
                f"index {shown(name)!r} is not served; GET /v1/indexes lists those"
            )
        return self._served[name]

    def refresh(self) -> None:
        """Look for newer versions of all."""
        for served in self:
            served.refresh()

    def faults(self) -> dict[str, str]:
        """Name → why the version on disk does not answer, of those that have such a fault."""
        return {served.name: self.without_paths(served.fault) for served in self if served.fault}

    def without_paths(self, message: str) -> str:
        """A message in which indexes are called by their names: clients learn no paths."""
        for served in self:
            for path in (served.directory.absolute(), served.directory):
                message = message.replace(str(path), served.name)
        return message

    def close(self) -> None:
        for served in self:
            served.close()
