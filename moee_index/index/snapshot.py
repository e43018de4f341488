"""What one version of an index holds: documents, passages and vectors by id, in order, by filter.

A snapshot joins the segments of a version; searching them and embedding queries is `Index`'s.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moee_index.errors import MisuseError
from moee_index.fusion import Standardizer
from moee_index.index.filters import Filter
from moee_index.index.segment import Mask, Match, OpenSegment, find_live, open_standardizer
from moee_index.index.store.document_reader import StoredDocument
from moee_index.index.store.manifest import Manifest
from moee_index.types import Embeddings, EncoderSpec

if TYPE_CHECKING:  # without words a search imports nothing of them
    from moee_index.index.lexical.statistics import Statistics

# Masks of the last filters are kept: a version of an index never changes, so they stay true.
_KEPT = 16


@dataclass(frozen=True)
class Passage:
    """A passage of a document: `<id>#<n>`, or the document's id where that is not split."""

    id: str
    text: str
    metadata: dict[str, Any]


def passages_of(document: StoredDocument) -> list[Passage]:
    split = len(document.spans) > 1
    return [
        Passage(
            f"{document.id}#{number}" if split else document.id,
            document.text[slice(*span)],
            document.metadata,
        )
        for number, span in enumerate(document.spans, 1)
    ]


class Snapshot:
    """The segments of one version, opened; read from any thread, but for `close`.

    Raises IndexDamagedError where a file is missing or altered, StorageError where one may not or
    cannot be read.
    """

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        self.directory = directory
        # Where it is whatever becomes of the working directory.
        self.home = directory.absolute()
        self.manifest = manifest
        self._segments: list[OpenSegment] = []
        self.standardizer: Standardizer = open_standardizer(directory, manifest)
        try:
            for entry in manifest.segments:
                self._segments.append(OpenSegment(directory, manifest, entry))
        except BaseException:
            self.close()
            raise
        self._selector = Selector(self._segments)

    def close(self) -> None:
        """Close files; nothing can be read any more."""
        for segment in self._segments:
            segment.close()

    @property
    def spec(self) -> EncoderSpec:
        """The encoder that the index was built with."""
        return self.manifest.spec

    def vectors(self, ids: Sequence[str]) -> Embeddings:
        """Raw embeddings of documents by id, in the order of `ids`; of documents that were split
        ask for a passage, `<id>#<n>`.

        Raises MisuseError naming an id that is not there.
        """
        vectors = self.spec.dims.map(lambda dim: np.empty((len(ids), dim), dtype=np.float32))
        rows = [self._row_of(identifier, match) for identifier, match in self._found(ids)]
        for segment in range(len(self._segments)):
            positions = np.array(
                [i for i, row in enumerate(rows) if row[0] == segment], dtype=np.int64
            )
            if len(positions):
                rows_there = np.array([rows[position][1] for position in positions], dtype=np.int64)
                taken = self._segments[segment].raw.take(rows_there)
                for part, values in taken:
                    vectors[part][positions] = values
        return Embeddings(vectors.hs, vectors.rw)

    def _found(self, ids: Sequence[str]) -> Iterator[tuple[str, Match | None]]:
        """Each id with its segment and document; passages' ids with those of their document."""
        known = find_live(self._segments, ids)
        unknown = [i.rpartition("#")[0] for i in ids if i not in known and "#" in i]
        whole = find_live(self._segments, unknown) if unknown else {}
        for identifier in ids:
            yield identifier, known.get(identifier) or whole.get(identifier.rpartition("#")[0])

    def _row_of(self, identifier: str, match: Match | None) -> tuple[int, int]:
        """(segment, row there) of a document's only passage, or of the passage that is named."""
        if match is None:
            raise MisuseError(f"{self.directory} has no document {identifier!r}")
        segment, document = match
        passages = [passage.id for passage in passages_of(document)]
        if identifier in passages:
            return segment, document.first + passages.index(identifier)
        if identifier == document.id:
            raise MisuseError(
                f"document {identifier!r} of {self.directory} has {len(passages)} passages; name "
                f"one, as in {passages[0]}"
            )
        raise MisuseError(f"{self.directory} has no document {identifier!r}")

    def documents(self, ids: Sequence[str]) -> dict[str, StoredDocument]:
        """Text and metadata of documents by id; ids that are not there are left out."""
        return {
            identifier: document
            for identifier, (_, document) in find_live(self._segments, ids).items()
        }

    def passages(self, ids: Sequence[str]) -> dict[str, list[Passage]]:
        """Id of a document → its passages, id of a passage → that one. Ids that are not there are
        left out."""
        passages: dict[str, list[Passage]] = {}
        for identifier, where in self._found(ids):
            matching = [] if where is None else passages_of(where[1])
            if where is not None and identifier != where[1].id:
                matching = [passage for passage in matching if passage.id == identifier]
            if matching:
                passages[identifier] = matching
        return passages

    def ids(self) -> Iterator[str]:
        """Ids that `vectors` takes, in the order of the index: of documents, of those that were
        split their passages'."""
        for segment in self._segments:
            for document in segment.live_documents():
                yield from (passage.id for passage in passages_of(document))

    def in_order(self) -> Iterator[tuple[StoredDocument, Embeddings]]:
        """All documents that count, in the order of the index, each with the raw embeddings of its
        passages (a row a passage)."""
        for segment in self._segments:
            for document in segment.live_documents():
                rows = slice(document.first, document.first + len(document.spans))
                yield document, segment.raw.take(rows)

    @property
    def fields(self) -> dict[str, set[str]] | None:
        """Metadata field → kinds of the values that documents have in it, for filters; None where
        there are thousands."""
        return self._selector.fields

    def masks(self, condition: str | Filter | None = None) -> list[Mask | None]:
        """For each of `segments` bool [rows]: the rows that count and whose documents match a
        filter; None where all do. Raises FilterError, naming the position."""
        return self._selector.masks(condition)

    @cached_property
    def statistics(self) -> Statistics:
        """Of the words of the rows that count.

        Raises MisuseError for an index without postings.
        """
        from moee_index.index.lexical.statistics import OpenWords, Statistics
        from moee_index.index.lexical.words import Words

        opened = [
            OpenWords(segment.postings, segment.live)
            for segment in self._segments
            if segment.postings is not None
        ]
        if self.manifest.language is None:
            raise MisuseError(
                f"{self.directory} has no postings, which a search by words needs; moee-index "
                f"reindex {self.directory} --lexical writes them, and changes nothing else"
            )
        return Statistics(opened, Words(self.manifest.language))

    @property
    def segments(self) -> Sequence[OpenSegment]:
        """The opened segments, for what is written from them."""
        return self._segments


class Selector:
    """Turns filters into masks over the segments of one opened index."""

    def __init__(self, segments: Sequence[OpenSegment]) -> None:
        self._segments = segments
        self._known: dict[str, set[str]] | None = None
        self._looked = False
        self._masks: OrderedDict[str, list[Mask | None]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def fields(self) -> dict[str, set[str]] | None:
        """Metadata field → kinds of the values that documents have in it; None where there are too
        many to know them all."""
        if not self._looked:
            kinds: defaultdict[str, set[str]] = defaultdict(set)
            each = [segment.fields.known() for segment in self._segments]
            for name, kind in chain.from_iterable(fields or () for fields in each):
                kinds[name].add(kind)
            self._known = None if None in each else dict(kinds)
            self._looked = True
        return self._known

    def masks(self, condition: str | Filter | None) -> list[Mask | None]:
        """For each segment bool [rows]: the rows to search; None where all are.

        Raises FilterError naming the position.
        """
        if condition is None:
            return [segment.live for segment in self._segments]
        parsed = Filter.parse(condition) if isinstance(condition, str) else condition
        with self._lock:
            if parsed.text in self._masks:
                self._masks.move_to_end(parsed.text)
                return self._masks[parsed.text]
        masks = self._matching(parsed)
        with self._lock:
            self._masks[parsed.text] = masks
            if len(self._masks) > _KEPT:
                self._masks.popitem(last=False)
        return masks

    def _matching(self, parsed: Filter) -> list[Mask | None]:
        # An index that has become empty knows no fields, and every filter finds nothing.
        if self._segments and self.fields is not None:
            parsed.check(self.fields)
        masks: list[Mask | None] = []
        for segment in self._segments:
            mask = segment.matching(parsed)
            masks.append(mask if segment.live is None else mask & segment.live)
        return masks
