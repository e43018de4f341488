"""The documents of a corpus as windows of what can be indexed, and what became of the rest.

Knows ids, empty texts and rejected lines. Refuses to know vectors and files of vectors.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from moee_index.corpus import Document, Reject
from moee_index.errors import CorpusError
from moee_index.index.documents import PreparedDocument
from moee_index.index.storage import storage_errors

Documents = Iterable[Document] | Callable[[Reject], Iterable[Document]]
# (id, row) → where a document of that id and a lower row came from; None if there is none.
SourceOf = Callable[[str, int], str | None]


@dataclass
class Counts:
    """What one run read and did; seconds are those of embedding."""

    read: int = 0
    skipped: int = 0
    rejected: int = 0
    texts: int = 0
    tokens: float = 0.0
    resumed: int = 0
    seconds: float = 0.0
    started: float = field(default_factory=time.perf_counter)


class Rejects:
    """rejected.jsonl of one run, begun anew each time, because a corpus is read anew each time.

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


def windows(
    documents: Documents,
    size: int,
    source_of: SourceOf,
    rejects: Rejects,
    counts: Counts,
    *,
    skip_bad: bool,
) -> Iterator[tuple[int, list[PreparedDocument]]]:
    """(row of the first, documents) of each window of `size` documents that can be indexed.

    Empty texts are skipped and counted. Raises CorpusError for a duplicate id, naming both
    places, and for what cannot be stored; with `skip_bad` these go to `rejects`.
    """
    first = 0
    window: list[PreparedDocument] = []
    sources: dict[str, str] = {}
    for document in documents(rejects) if callable(documents) else documents:
        if not document.content.strip():
            counts.read += 1
            counts.skipped += 1
            continue
        try:
            prepared = PreparedDocument.of(document)
            earlier = sources.get(document.id)
            if earlier is None:
                earlier = source_of(document.id, first)
            if earlier is not None:
                raise CorpusError(_duplicate(document, earlier))
        except CorpusError as error:
            if not skip_bad:
                raise
            rejects(document.source, _line(document), str(error))
            continue
        counts.read += 1
        window.append(prepared)
        sources[document.id] = document.source
        if len(window) == size:
            yield first, window
            first += size
            window, sources = [], {}
    if window:
        yield first, window


def _duplicate(document: Document, earlier: str) -> str:
    here, there = document.source or "here", earlier or "an earlier document"
    return (
        f"{here}: id {document.id!r} was already used ({there}); give each document an id of its "
        "own, or leave the later ones out with --on-bad skip"
    )


def _line(document: Document) -> str:
    fields = {**document.metadata, "id": document.id, "text": document.text}
    return json.dumps(fields, default=str)
