"""The indexes that are served: the open version of each, and the newer one that takes its place.

A manifest that has changed on disk is seen by the next request, or within a second. Requests keep
the version they began with; one that cannot be opened leaves the open one in service. Where a
version comes from is left to its source.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

from moee_index.errors import FingerprintMismatchError, MisuseError, MoeeIndexError
from moee_index.serve.errors import NotReadyError, UnknownNameError
from moee_index.serve.searchable import Opened, Searchable, Source
from moee_index.text import shown

# A version that could not be opened is tried again after so many seconds, or once it changes.
_RETRY = 5.0


class Version:
    """An opened version of an index. digest, spread: see `Opened`."""

    def __init__(self, name: str, opened: Opened) -> None:
        self.name = name
        self.index: Searchable = opened.index
        self.digest = opened.digest
        self.spread = opened.spread
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

    def __init__(self, name: str, source: Source) -> None:
        self.name = name
        self.source = source
        self.model = ""
        self.fault: str | None = None
        self.reloads = 0
        self._opening = threading.Lock()
        self._swapping = threading.Lock()
        self._mark = source.mark()
        self._tried = 0.0
        self._version = Version(name, source.open())

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

    def refresh(self, *, watching: bool = False) -> None:
        """Open the version that is there if it is another one. watching: not for a request, which
        waits for no other machine."""
        if not watching and not self.source.looks():
            return
        mark = self.source.mark()
        if mark == self._mark and (self.fault is None or time.monotonic() < self._tried + _RETRY):
            return
        with self._opening:
            mark = self.source.mark()
            due = self.fault is not None and time.monotonic() >= self._tried + _RETRY
            if mark != self._mark or due:
                self._reload(mark)

    def _reload(self, mark: Hashable) -> None:
        self._mark, self._tried = mark, time.monotonic()
        try:
            opened = Version(self.name, self.source.open())
        except MoeeIndexError as error:
            self.fault = str(error)
            return
        if (opened.digest, opened.spread) == (self._version.digest, self._version.spread):
            opened.close()
            self.fault = None
            return
        if opened.index.spec.identity() != self._version.index.spec.identity():
            opened.close()
            self.fault = str(
                FingerprintMismatchError(
                    f"{self.source} was built anew with another model or other options; restart "
                    "the server to serve it"
                )
            )
            return
        with self._swapping:
            replaced, self._version = self._version, opened
        self.fault = None
        self.reloads += 1
        replaced.close()

    def close(self) -> None:
        self._version.close()


class Indexes:
    """All that are served, by name. They come from the command line alone."""

    def __init__(self, sources: Mapping[str, Source]) -> None:
        """Open them. Raises what opening one raises."""
        self._served: dict[str, ServedIndex] = {}
        try:
            for name, source in sources.items():
                self._served[name] = ServedIndex(name, source)
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
            served.refresh(watching=True)

    def faults(self) -> dict[str, str]:
        """Name → why the version on disk does not answer, of those that have such a fault."""
        return {served.name: self.without_paths(served.fault) for served in self if served.fault}

    def without_paths(self, message: str) -> str:
        """A message in which indexes are called by their names: clients learn no paths."""
        for served in self:
            message = served.source.without_paths(message, served.name)
        return message

    def close(self) -> None:
        for served in self:
            served.close()
