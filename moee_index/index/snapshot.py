"""What one version of an index holds: documents, passages and vectors by id, in order, by filter.

A snapshot joins the segments of a version; searching them and embedding queries is `Index`'s.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moee_index.errors import CorpusError, MisuseError, counted
from moee_index.fusion import Standardizer
from moee_index.index.approximate.coarse import CoarseFile
from moee_index.index.filters import Filter
from moee_index.index.filters.masks import Selector
from moee_index.index.lacking import (
    which_passage,
    without_conditions,
    without_document,
    without_postings,
)
from moee_index.index.lexical.language import NO_LANGUAGE
from moee_index.index.segment import (
    Mask,
    Match,
    OpenSegment,
    find_live,
    hold_coarse,
    open_standardizer,
)
from moee_index.index.store.document_reader import StoredDocument
from moee_index.index.store.layout import index_directory
from moee_index.index.store.manifest import Manifest
from moee_index.index.store.passage_names import named_passage
from moee_index.index.store.revisions import newest
from moee_index.text import shown
from moee_index.types import Embeddings, EncoderSpec, blocks

if TYPE_CHECKING:  # without words a search imports nothing of them
    from moee_index.index.lexical.conditions import DocumentConditions
    from moee_index.index.lexical.statistics import Statistics
    from moee_index.index.lexical.syntax import Condition
    from moee_index.index.lexical.words import Words

# Every character that Python takes for whitespace, for SQLite's GLOB.
WHITESPACE = (
    "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006"
    "\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
)
_WITH_WHITESPACE = f"*[{WHITESPACE}]*"
LIKE_PASSAGES = "*#[1-9]*"
_AT_A_TIME = 1024
# Metadata field → kinds of the values that documents have in it.
Fields = dict[str, set[str]]


@dataclass(frozen=True)
class Passage:
    """A passage of a document. id: its name, `<id>#<n>`, or the document's id where that is not
    split; row: of the index, which alone tells passages apart."""

    id: str
    text: str
    metadata: dict[str, Any]
    row: int


class Snapshot:
    """The segments of one version, opened; read from any thread, but for `close`. held: which of
    the manifest's; None is all. Rows are numbered as in the whole index, whichever are.

    Raises IndexDamagedError where a file is missing or altered, StorageError where one may not or
    cannot be read.
    """

    def __init__(self, directory: Path, manifest: Manifest, held: range | None = None) -> None:
        self.held = range(len(manifest.segments)) if held is None else held
        self.directory = directory
        # Where it is whatever becomes of the working directory.
        self.home = directory.absolute()
        self.manifest = manifest
        self._segments: list[OpenSegment] = []
        self._names_checked = False
        self.standardizer: Standardizer = open_standardizer(directory, manifest)
        self.coarse: CoarseFile | None = hold_coarse(directory, manifest)
        try:
            for number in self.held:
                self._segments.append(OpenSegment(directory, manifest, manifest.segments[number]))
        except BaseException:
            self.close()
            raise
        self._selector = Selector(self._segments)
        # The row of the index with which each segment begins, and the end of the last.
        every = np.cumsum([0, *(entry.rows for entry in manifest.segments)])
        self.begins = every[self.held.start : self.held.stop + 1]

    @classmethod
    def open(cls, directory: str | Path) -> Snapshot:
        """What an index holds, for readers that do not search it: FAISS is not loaded, and of files
        that only a search reads the size alone is checked. Raises what `Index.open` raises."""
        directory = index_directory(directory)

        def opened(manifest: Manifest) -> Snapshot:
            for name in manifest.files:
                manifest.path(directory, name)
            return cls(directory, manifest)

        return newest(directory, opened)

    def close(self) -> None:
        """Close files; nothing can be read any more."""
        if self.coarse is not None:
            self.coarse.close()
        for segment in self._segments:
            segment.close()

    @property
    def spec(self) -> EncoderSpec:
        """The encoder that the index was built with."""
        return self.manifest.spec

    def vectors(self, ids: Sequence[str]) -> Embeddings:
        """Raw embeddings of documents by id, in the order of `ids`; of documents that were split
        ask for a passage, `<id>#<n>`.

        Raises MisuseError naming an id that is not there, or that means two passages.
        """
        found = self._found(ids)
        return self.vectors_at([self._row_of(name, *found[name]) for name in ids])

    def vectors_at(self, rows: Sequence[int]) -> Embeddings:
        """Raw embeddings of rows of the index, in their order."""
        numbers = np.asarray(rows, dtype=np.int64)
        vectors = self.spec.dims.map(lambda dim: np.empty((len(numbers), dim), dtype=np.float32))
        segments = np.searchsorted(self.begins, numbers, side="right") - 1
        for segment in np.unique(segments):
            positions = np.flatnonzero(segments == segment)
            rows_there = numbers[positions] - self.begins[segment]
            for part, values in self._segments[segment].raw.take(rows_there):
                vectors[part][positions] = values
        return Embeddings(vectors.hs, vectors.rw)

    def _found(self, names: Sequence[str]) -> dict[str, tuple[Match | None, list[int]]]:
        """Name → the document of that id, and the rows that are passages of that name."""
        documents = find_live(self._segments, names)
        passages = {name: named_passage(name) for name in names if self.manifest.chunk is not None}
        wanted = [passage[0] for passage in passages.values() if passage is not None]
        owners = find_live(self._segments, wanted) if wanted else {}

        def rows(name: str) -> list[int]:
            passage = passages.get(name)
            if passage is None or passage[0] not in owners:
                return []
            segment, document = owners[passage[0]]
            if not 1 < len(document.spans) >= passage[1]:
                return []
            return [int(self.begins[segment]) + document.rows[passage[1] - 1]]

        return {name: (documents.get(name), rows(name)) for name in names}

    def _row_of(self, name: str, match: Match | None, passages: list[int]) -> int:
        """The row of a document's only passage, or of the passage that is named."""
        if match is not None and passages:
            raise MisuseError(self._coincide(name))
        if passages:
            return passages[0]
        if match is None:
            raise MisuseError(without_document(name, self.directory))
        segment, document = match
        if len(document.spans) > 1:
            first = document.name_at(document.first)
            raise MisuseError(which_passage(name, self.directory, len(document.spans), first))
        return int(self.begins[segment]) + document.first

    def _coincide(self, name: str) -> str:
        return (
            f"{self.directory}: {name!r} is both a document and a passage of another document, so "
            "passages cannot be told apart by name; build the index again, with other ids"
        )

    def check_names(self) -> None:
        """Raises MisuseError where a document has the name of another's passage, which indexes of
        earlier versions may hold."""
        if self.manifest.chunk is None or self._names_checked:
            return
        for segment in self._segments:
            like = segment.documents.ids_like(LIKE_PASSAGES)
            live = (name for name, first in like if segment.live is None or segment.live[first])
            for some in blocks(live, _AT_A_TIME):
                for name, (_, passages) in self._found(some).items():
                    if passages:
                        raise MisuseError(self._coincide(name))
        self._names_checked = True

    def documents(self, ids: Sequence[str]) -> dict[str, StoredDocument]:
        """Text and metadata of documents by id; ids that are not there are left out."""
        return {
            identifier: document
            for identifier, (_, document) in find_live(self._segments, ids).items()
        }

    def passages(self, ids: Sequence[str]) -> dict[str, list[Passage]]:
        """Id of a document → its passages, name of a passage → that one. A document is looked for
        first; ids that are not there are left out."""
        passages: dict[str, list[Passage]] = {}
        for name, (match, rows) in self._found(ids).items():
            if match is not None:
                segment, document = match
                passages[name] = self._passages(segment, document)
            elif rows:
                segment = int(np.searchsorted(self.begins, rows[0], side="right")) - 1
                row = rows[0] - int(self.begins[segment])
                document = self._segments[segment].documents.at_rows([row])[row]
                passages[name] = [
                    passage
                    for passage in self._passages(segment, document)
                    if passage.row == rows[0]
                ]
        return passages

    def _passages(self, segment: int, document: StoredDocument) -> list[Passage]:
        begin = int(self.begins[segment])
        return [
            Passage(document.name_at(row), document.passage(row), document.metadata, begin + row)
            for row in document.rows
        ]

    def check_run_ids(self, condition: str | Filter | None = None) -> None:
        """Raises CorpusError where a document that counts, and matches a filter, has an id that a
        line of a TREC run cannot hold. One look through the ids."""
        unfit: list[str] = []
        for segment, mask in zip(self._segments, self.masks(condition), strict=True):
            for name, first in segment.documents.ids_like(_WITH_WHITESPACE):
                if mask is None or mask[first]:
                    unfit.append(name)
        if unfit:
            raise CorpusError(
                f"{self.directory} holds {counted(len(unfit), 'document')} whose id has whitespace "
                f"({shown(unfit[0])!r}), which a TREC line cannot hold; use --json, or leave them "
                "out with --filter"
            )

    def ids(self) -> Iterator[str]:
        """Ids that `vectors` takes, in the order of the index: of documents, of those that were
        split their passages'. Raises MisuseError where a name means two passages."""
        self.check_names()
        return (name for name, _ in self.named_rows())

    def named_rows(self) -> Iterator[tuple[str, int]]:
        """(name, row of the index) of each passage that counts, in their order."""
        for begin, segment in zip(self.begins[:-1].tolist(), self._segments, strict=True):
            for document in segment.live_documents():
                yield from ((document.name_at(row), begin + row) for row in document.rows)

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

    def conditions(self, conditions: Sequence[Condition]) -> DocumentConditions | None:
        """Which documents a query's conditions leave; None where it has none.

        Raises MisuseError for an index without postings.
        """
        if not conditions:
            return None
        self.check_conditions()
        from moee_index.index.lexical.conditions import DocumentConditions

        return DocumentConditions(conditions, self.words, self._segments)

    def check_conditions(self) -> None:
        """Raises MisuseError for an index without postings, which no condition can be met by."""
        if self.manifest.language is None:
            raise MisuseError(without_conditions(self.directory))

    @cached_property
    def words(self) -> Words:
        """What splits texts as those of this index are, or would be if it had postings."""
        from moee_index.index.lexical.words import Words

        return Words(self.manifest.language or NO_LANGUAGE)

    def rows_with(self, terms: Collection[str]) -> dict[str, int]:
        """How many rows hold each word, those that do not count included; 0 without postings."""
        each = [segment.postings for segment in self._segments if segment.postings is not None]
        rows = dict.fromkeys(terms, 0)
        for term in rows:
            spans = (postings.find(term) for postings in each)
            rows[term] = sum(span[1] - span[0] for span in spans if span is not None)
        return rows

    @cached_property
    def statistics(self) -> Statistics:
        """Of the words of the rows that count.

        Raises MisuseError for an index without postings.
        """
        from moee_index.index.lexical.statistics import OpenWords, Statistics

        opened = [
            OpenWords(segment.postings, segment.live)
            for segment in self._segments
            if segment.postings is not None
        ]
        if self.manifest.language is None:
            raise MisuseError(without_postings(self.directory))
        return Statistics(opened, self.words)

    @property
    def segments(self) -> Sequence[OpenSegment]:
        """The opened segments, for what is written from them."""
        return self._segments


def joined_fields(every: Iterable[Fields | None]) -> Fields | None:
    """Metadata field → kinds of its values over several indexes; None where one of them has
    thousands."""
    joined: Fields = {}
    for fields in every:
        if fields is None:
            return None
        for name, kinds in fields.items():
            joined[name] = joined.get(name, set()) | kinds
    return joined
