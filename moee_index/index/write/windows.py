"""Group a corpus into windows of indexable documents; count and record the rejected ones."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from moee_index.atomic import storage_errors
from moee_index.errors import CorpusError, MisuseError
from moee_index.index.store.documents import PreparedDocument
from moee_index.index.store.passage_names import SameName, named_passage, same_name
from moee_index.readers.corpus import Reject
from moee_index.types import WINDOW_CHARACTERS, Chunking, Document, TextEncoder

Documents = Iterable[Document] | Callable[[Reject], Iterable[Document]]
# (id, number) → where a document of that id and a lower number came from; None if there is none.
SourceOf = Callable[[str, int], str | None]
# As `SourceOf` → an id and the document that it is or would be the name of a passage of: one of
# these is the given one, the other has a lower number.
Namesake = Callable[[str, int], SameName | None]
Split = Callable[[Sequence[PreparedDocument]], Iterable[PreparedDocument]]
Wanted = Callable[[PreparedDocument], bool]
# Whether a document whose text is empty takes out one that is there.
TakesOut = Callable[[Document], bool]
_SPLIT_AT_A_TIME = 64
# Passages that are looked at together where nothing is kept.
_LOOKED_AT = 1024


def whole(documents: Sequence[PreparedDocument]) -> Iterable[PreparedDocument]:
    """One passage a document: all of its text."""
    return [prepared.split([(0, len(prepared.document.text))]) for prepared in documents]


def passages_of(encoder: TextEncoder, chunk: str | None) -> Split:
    """How documents are split: as `--chunk` says, or not at all."""
    if chunk is None:
        return whole
    chunking = Chunking.parse(chunk)

    def split(documents: Sequence[PreparedDocument]) -> Iterable[PreparedDocument]:
        texts = [(prepared.document.title, prepared.document.text) for prepared in documents]
        spans = encoder.passages(texts, chunking) if texts else []
        return [
            prepared.split(passages) for prepared, passages in zip(documents, spans, strict=True)
        ]

    return split


@dataclass
class Counts:
    """What one run read and did. seconds: of embedding, by the clock; stages: seconds of work in
    each, which overlap."""

    read: int = 0
    skipped: int = 0
    rejected: int = 0
    texts: int = 0
    tokens: float = 0.0
    resumed: int = 0
    unchanged: int = 0
    seconds: float = 0.0
    started: float = field(default_factory=time.perf_counter)
    stages: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time of a block to a stage; each stage belongs to one thread."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.stages[stage] = self.stages.get(stage, 0.0) + time.perf_counter() - began


class Rejects:
    """rejected.jsonl of one run, rewritten each time, because a corpus is read again each time.

    Called with source, line and reason of each line that cannot be used. With no path they are
    only counted.
    """

    def __init__(self, path: Path | None, counts: Counts) -> None:
        self._path = path
        self._counts = counts
        if path is not None:
            with storage_errors(path):
                path.unlink(missing_ok=True)

    def __call__(self, source: str, line: str, reason: str) -> None:
        self._counts.read += 1
        self._counts.rejected += 1
        if self._path is not None:
            # ASCII, because a line may hold what UTF-8 cannot.
            entry = json.dumps({"source": source, "reason": reason, "line": line})
            with storage_errors(self._path), self._path.open("a", encoding="utf-8") as file:
                file.write(entry + "\n")


@dataclass(frozen=True)
class Batch:
    """Documents that are planned together: a window of a segment.

    first_document, first_row: places in the segment of the first one and of its first passage.
    """

    first_document: int
    first_row: int
    documents: list[PreparedDocument]

    @property
    def rows(self) -> int:
        return sum(len(prepared.spans) for prepared in self.documents)


def windows(
    documents: Documents,
    size: int,
    source_of: SourceOf,
    rejects: Rejects,
    counts: Counts,
    *,
    skip_bad: bool,
    split: Split = whole,
    namesake: Namesake | None = None,
    wanted: Wanted = lambda prepared: True,
    takes_out: TakesOut = lambda document: False,
    characters: int | None = WINDOW_CHARACTERS,
) -> Iterator[Batch]:
    """Windows of indexable documents, each of at least `size` passages, or of `characters`
    characters (None: of any number), except the last.

    A window ends with a document, so what it holds depends on the documents alone. Empty texts are
    skipped and counted, but for those that `takes_out` says something of; `wanted` says which of
    the others are taken. Raises CorpusError for a duplicate id, naming both places, for one that is
    the name of a passage (`namesake`, where documents are split), for what cannot be stored, and
    what `wanted` raises; with `skip_bad` these go to `rejects`.
    """
    gathered = _Gathered(size, characters or sys.maxsize, split)
    for document in _each(documents(rejects) if callable(documents) else documents):
        try:
            if not document.content.strip():
                counts.skipped += not takes_out(document)
                counts.read += 1
                continue
            prepared = PreparedDocument.of(document)
            earlier = gathered.sources.get(document.id)
            if earlier is None:
                earlier = source_of(document.id, gathered.first_document)
            if earlier is not None:
                raise CorpusError(duplicate(document, earlier))
            if namesake is not None:
                names = gathered.namesake(document.id)
                names = names or namesake(document.id, gathered.first_document)
                if names is not None:
                    raise CorpusError(same_name(located(document), names))
            take = wanted(prepared)
        except CorpusError as error:
            if not skip_bad:
                raise
            rejects(document.source, _line(document), str(error))
            continue
        counts.read += 1
        if take:
            yield from gathered.add(prepared)
    yield from gathered.rest()


def read_through(
    documents: Documents,
    counts: Counts,
    *,
    skip_bad: bool,
    find_duplicates: bool = True,
    split: Split = whole,
    wanted: Wanted = lambda prepared: True,
    takes_out: TakesOut = lambda document: False,
) -> Iterator[Batch]:
    """Windows of a corpus that is looked at and not kept: as `windows`, where an id of which an
    earlier document was taken is a duplicate, unless `find_duplicates` is off."""
    seen: dict[str, str] = {}
    for batch in windows(
        documents,
        _LOOKED_AT,
        lambda identifier, before: seen.get(identifier),
        Rejects(None, counts),
        counts,
        skip_bad=skip_bad,
        split=split,
        wanted=wanted,
        takes_out=takes_out,
    ):
        yield batch
        if find_duplicates:
            for prepared in batch.documents:
                seen[prepared.document.id] = prepared.document.source


def check_documents(documents: object) -> None:
    """Raises MisuseError for what is neither a function nor several documents."""
    one = isinstance(documents, str | bytes | Mapping | Document)
    if not callable(documents) and (one or not isinstance(documents, Iterable)):
        raise MisuseError(
            f"documents are given as a list of Document, and this is of type "
            f"{type(documents).__name__}; write [Document(id, text)]"
        )


def _each(documents: Iterable[Document]) -> Iterator[Document]:
    check_documents(documents)
    for position, document in enumerate(documents):
        if not isinstance(document, Document):
            raise MisuseError(
                f"document {position} is of type {type(document).__name__}; write "
                "Document(id, text)"
            )
        yield document


class _Gathered:
    """Documents on their way into a window. sources: id → source of those not yet in a full one;
    first_document, first_row: of the window that is being filled. _named_after: id → one of those
    that is named as its passages are."""

    def __init__(self, size: int, most_characters: int, split: Split) -> None:
        self._size = size
        self._most_characters = most_characters
        self._split = split
        self._group: list[PreparedDocument] = []
        self._window: list[PreparedDocument] = []
        self._rows = 0
        self._ungrouped = self._characters = 0
        self.sources: dict[str, str] = {}
        self._named_after: dict[str, str] = {}
        self.first_document = 0
        self.first_row = 0

    def namesake(self, identifier: str) -> SameName | None:
        """As `Namesake`, among the documents that are here."""
        passage = named_passage(identifier)
        if passage is not None and passage[0] in self.sources:
            return identifier, passage[0]
        name = self._named_after.get(identifier)
        return None if name is None else (name, identifier)

    def add(self, prepared: PreparedDocument) -> Iterator[Batch]:
        """Take a document; yields the windows that are full."""
        identifier = prepared.document.id
        self.sources[identifier] = prepared.document.source
        if (passage := named_passage(identifier)) is not None:
            self._named_after[passage[0]] = identifier
        self._group.append(prepared)
        self._ungrouped += len(prepared.document.text)
        # No more than may fill the window, so that nothing is read ahead of what is committed.
        if (
            len(self._group) >= min(_SPLIT_AT_A_TIME, self._size - self._rows)
            or self._ungrouped >= self._most_characters - self._characters
        ):
            yield from self._split_group()

    def rest(self) -> Iterator[Batch]:
        """What is left at the end."""
        yield from self._split_group()
        if self._window:
            yield Batch(self.first_document, self.first_row, self._window)

    def _split_group(self) -> Iterator[Batch]:
        for prepared in self._split(self._group):
            self._window.append(prepared)
            self._rows += len(prepared.spans)
            self._characters += len(prepared.document.text)
            if self._rows >= self._size or self._characters >= self._most_characters:
                yield Batch(self.first_document, self.first_row, self._window)
                for planned in self._window:
                    del self.sources[planned.document.id]
                self._named_after = {
                    passage[0]: name
                    for name in self.sources
                    if (passage := named_passage(name)) is not None
                }
                self.first_document += len(self._window)
                self.first_row += self._rows
                self._window, self._rows, self._characters = [], 0, 0
        self._group.clear()
        self._ungrouped = 0


def nothing_to_index(counts: Counts) -> CorpusError:
    """The error for a corpus that leaves a new index empty."""
    return CorpusError(
        f"the corpus holds no document to index (read {counts.read}, empty "
        f"{counts.skipped}, rejected {counts.rejected}); give another one"
    )


def located(document: Document) -> str:
    """Where a document came from, as a message begins."""
    return f"{document.source}: " if document.source else ""


def duplicate(document: Document, earlier: str) -> str:
    """The message for a document whose id was used at `earlier`."""
    here, there = document.source or "here", earlier or "an earlier document"
    return (
        f"{here}: id {document.id!r} was already used ({there}); give each document an id of its "
        "own, or leave the later ones out with --on-bad skip"
    )


def _line(document: Document) -> str:
    fields = {**document.metadata, "id": document.id, "text": document.text}
    return json.dumps(fields, default=str)
