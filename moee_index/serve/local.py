"""An index in a directory of this machine, or some segments of it, as a server opens it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from moee_index.index.held import Segments
from moee_index.index.index import Index
from moee_index.index.listing import Facet, count_documents, count_values
from moee_index.index.snippets import Snippets
from moee_index.index.store.document_reader import StoredDocument
from moee_index.index.store.layout import MANIFEST
from moee_index.serve.searchable import Opened

if TYPE_CHECKING:
    from moee_index.index.filters import Filter
    from moee_index.index.lexical.syntax import Condition
    from moee_index.index.routing import ExpertUse

# Modification time in ns, inode, size of a manifest; None: there is none.
Mark = tuple[int, int, int] | None


class LocalIndex(Index):
    """An opened index, and what a server asks besides. missing: none are, for all are here;
    written: its manifest, as it is on disk."""

    missing: Sequence[int] = ()
    written = b""

    def for_request(self, *, partial: bool) -> Self:
        """The same: nothing here can fail to answer."""
        return self

    def first(self) -> StoredDocument | None:
        """The first document; None where there is none."""
        found = next(self.in_order(), None)
        return None if found is None else found[0]

    def snippets(self, query: str) -> Snippets:
        """What shows the best part of a hit's text."""
        with self.held():
            return Snippets.of(self.snapshot, query)

    def count_values(
        self,
        fields: Sequence[str],
        condition: str | Filter | None = None,
        conditions: Sequence[Condition] = (),
        *,
        checked: bool = False,
    ) -> list[Facet]:
        """As `listing.count_values`."""
        with self.held():
            return count_values(self.snapshot, fields, condition, conditions, checked=checked)

    def count_documents(
        self, condition: str | Filter | None = None, conditions: Sequence[Condition] = ()
    ) -> int:
        """As `listing.count_documents`."""
        with self.held():
            return count_documents(self.snapshot, condition, conditions)

    def expert_use(self, widths: Sequence[int], kind: str) -> ExpertUse:
        """As of `routing.ExpertUse`, which may be asked as long as this is open."""
        from moee_index.index.routing import ExpertUse

        with self.held():
            return ExpertUse(self.snapshot, widths, kind)


class Directory:
    """An index in a directory. segments: the ones that are served, None for all."""

    def __init__(self, path: Path, segments: Segments | None = None) -> None:
        self.path = path
        self._segments = segments

    def __str__(self) -> str:
        return str(self.path)

    def looks(self) -> bool:
        """Always: it takes microseconds."""
        return True

    def mark(self) -> Mark:
        """When and how its manifest was last written."""
        try:
            status = (self.path / MANIFEST).stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino, status.st_size

    def open(self) -> Opened:
        """The version on disk, with the digest of the very manifest that it was opened by. Raises
        what `Index.open` raises."""
        before = self._manifest()
        while True:
            index = LocalIndex.open(self.path, segments=self._segments)
            after = self._manifest()
            if after == before:
                index.written = after
                return Opened(index, hashlib.sha256(after).hexdigest())
            index.close()
            before = after

    def _manifest(self) -> bytes:
        """The manifest's bytes; none where it cannot be read, of which `Index.open` says why."""
        try:
            return (self.path / MANIFEST).read_bytes()
        except OSError:
            return b""

    def without_paths(self, message: str, name: str) -> str:
        """A message in which the index is called by its name."""
        for path in (self.path.absolute(), self.path):
            message = message.replace(str(path), name)
        return message
