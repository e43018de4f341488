"""Add documents to a finished index: what is new is embedded into a separate segment.

Texts go through a `TextEncoder`. The index's standardizer is frozen, so what is there keeps its
vectors; a killed run resumes where it stopped, and the index answers as before until the new
version is whole.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from moee_index.errors import CorpusError, StorageError
from moee_index.index.change import changing, deriving, publish_grown, publish_segments, without
from moee_index.index.lexical.language import NO_LANGUAGE
from moee_index.index.segment import (
    Mask,
    Match,
    OpenSegment,
    find_live,
)
from moee_index.index.store.document_reader import StoredDocument
from moee_index.index.store.documents import PreparedDocument
from moee_index.index.store.faiss_files import FLAT
from moee_index.index.store.layout import index_directory
from moee_index.index.store.manifest import Building, Manifest
from moee_index.index.store.passage_names import SameName, named_passage, same_name
from moee_index.index.store.token_weights import with_weights_of
from moee_index.index.workers.pool import Pool
from moee_index.index.workers.start import Workers, started
from moee_index.index.workers.tasks import LoadElsewhere
from moee_index.index.workers.writing import ShardedWriting
from moee_index.index.write.resume import check_encoder, check_spec, document_difference
from moee_index.index.write.segment import (
    ON_BAD,
    ManyWritten,
    NewSegments,
    SegmentWriting,
    Writing,
    check_choice,
    check_notify,
    check_progress,
)
from moee_index.index.write.windows import (
    Counts,
    Documents,
    check_documents,
    duplicate,
    located,
)
from moee_index.text import shown
from moee_index.types import Document, Notify, Progress, TextEncoder

# Ids that a note names at most.
_NAMED = 5


@dataclass(frozen=True)
class AddReport:
    """What an add did. added: new documents; updated: replaced ones; unchanged: there already with
    the same content; removed: taken out, because their text is empty now. skipped: empty texts of
    which the index had none. documents: that count now. Rates: over the time spent embedding."""

    index: str
    read: int
    added: int
    updated: int
    unchanged: int
    truncated: int
    skipped: int
    rejected: int
    documents: int
    seconds: float
    texts_per_second: float
    tokens_per_second: float
    removed: int = 0

    def as_json(self) -> dict[str, Any]:
        """The fields; `removed` only where any were."""
        fields = asdict(self)
        if not self.removed:
            del fields["removed"]
        return fields


@dataclass
class Known:
    """Which documents of the corpus the index already holds."""

    segments: Sequence[OpenSegment]
    update: bool
    split: bool
    counts: Counts
    replaced: dict[str, Match] = field(default_factory=dict)
    removed: dict[str, Match] = field(default_factory=dict)
    # Segment → which of its documents the corpus holds unchanged.
    unchanged: dict[int, Mask] = field(default_factory=dict)

    def take(self, prepared: PreparedDocument) -> bool:
        """Whether a document is to be embedded. Raises CorpusError for other content under an id
        that is there, unless `update`, for an id that the corpus had before, and with `update` for
        an id that is made up."""
        identifier = prepared.document.id
        if self.update and prepared.document.made_id:
            raise CorpusError(
                f"{prepared.document.source}: no id, and --update needs one: names made of file "
                "and line do not say what is the same document; name its field with --id-field"
            )
        match = self._match(prepared.document)
        if match is None:
            self._check_name(prepared.document)
            return True
        _, stored = match
        difference = self.difference(stored, prepared)
        if difference is None:
            self.keep(match)
            return False
        if not self.update:
            raise CorpusError(
                f"{difference} in the index; give --update to replace such documents, or leave "
                "them out with --on-bad skip"
            )
        self._check_name(prepared.document)
        self.replaced[identifier] = match
        return True

    def difference(self, stored: StoredDocument, prepared: PreparedDocument) -> str | None:
        """The first difference of a document from the stored one of its id, None if there is
        none."""
        return document_difference(stored, prepared)

    def keep(self, match: Match) -> None:
        """The corpus holds this document of the index as it is."""
        segment, stored = match
        self.counts.unchanged += 1
        self._seen(segment)[stored.number] = True

    def _seen(self, segment: int) -> Mask:
        """Which documents of a segment the corpus holds unchanged, so far."""
        if segment not in self.unchanged:
            documents = self.segments[segment].entry.documents
            self.unchanged[segment] = np.zeros(documents, dtype=bool)
        return self.unchanged[segment]

    def takes_out(self, document: Document) -> bool:
        """Whether a document whose text is empty is in the index, which it then leaves. Raises
        CorpusError for it unless `update`, and for an id that the corpus had before."""
        PreparedDocument.of(document)
        if document.made_id:  # which does not say what is the same document
            return False
        match = self._match(document)
        if match is None:
            return False
        if not self.update:
            raise CorpusError(
                f"{located(document)}document {document.id!r} has no text any more, but one in the "
                "index; give --update to take such documents out, or leave them in with --on-bad "
                "skip"
            )
        if document.id in self.replaced:
            raise CorpusError(duplicate(document, ""))
        self.removed[document.id] = match
        return True

    def _match(self, document: Document) -> Match | None:
        """The document of that id in the index. Raises CorpusError where the corpus had it
        before, unchanged or empty."""
        match = find_live(self.segments, [document.id]).get(document.id)
        if match is not None:
            segment, stored = match
            if self._seen(segment)[stored.number] or document.id in self.removed:
                raise CorpusError(duplicate(document, ""))
        return match

    def _check_name(self, document: Document) -> None:
        """Raises CorpusError where a document's id and the name of a passage in the index would
        coincide."""
        if not self.split:
            return
        names = self._namesake(document.id)
        if names is not None:
            raise CorpusError(same_name(located(document), names))

    def _namesake(self, identifier: str) -> SameName | None:
        passage = named_passage(identifier)
        if passage is not None and find_live(self.segments, [passage[0]]):
            return identifier, passage[0]
        for segment in self.segments:
            for name, first in segment.documents.named_after(identifier):
                if segment.live is None or segment.live[first]:
                    return name, identifier
        return None


def add_documents(
    directory: str | Path,
    documents: Documents,
    encoder: TextEncoder | LoadElsewhere,
    *,
    update: bool = False,
    on_bad: Literal["error", "skip"] = "error",
    total: int | None = None,
    progress: Progress | None = None,
    notify: Notify | None = None,
    workers: Workers | int | None = None,
) -> AddReport:
    """Embed documents into a finished index; resume an interrupted add.

    A document whose id and content are there already is skipped; one whose id is there with other
    content replaces it with `update` and is an error without (with on_bad="skip" it is left out).
    So does one whose text is empty now: with `update` the document of that id is taken out.
    The other arguments are those of `build_index`.

    Raises NotAnIndexError, FingerprintMismatchError (another model or options than the index's),
    CorpusError, IndexLockedError, StorageError, ModelError; the same call then resumes.
    """
    check_choice("on_bad", on_bad, ON_BAD)
    check_documents(documents)
    directory, tell = index_directory(directory), check_notify(notify)
    common: dict[str, Any] = {
        "directory": directory,
        "documents": documents,
        "skip_bad": on_bad == "skip",
        "changing": True,
        "total": total,
        "progress": check_progress(progress),
        "notify": tell,
    }
    crew = Workers.of(workers)
    if crew is None:
        return _add(common, check_encoder(encoder), update)
    Manifest.read(directory)  # before a model is loaded
    with started(crew, encoder, tell) as (pool, described, _):
        return _add(common, described, update, pool)


def _add(
    common: dict[str, Any], encoder: TextEncoder, update: bool, pool: Pool | None = None
) -> AddReport:
    """common: what a `Writing` is made with, the index's version aside."""
    directory = common["directory"]
    with changing(directory) as (manifest, segments):
        encoder = with_weights_of(directory, manifest, encoder)
        check_spec(manifest.spec, encoder.spec, directory)
        known = Known(segments, update, manifest.chunk is not None, Counts())
        common = {
            **common,
            "encoder": encoder,
            "wanted": building_of_add(manifest, encoder),
            "take": known.take,
            "takes_out": known.takes_out,
            "counts": known.counts,
        }
        writing: Writing = (
            SegmentWriting(**common) if pool is None else ShardedWriting(**common, pool=pool)
        )
        return Adding(manifest, known, writing).run()


def building_of_add(manifest: Manifest, encoder: TextEncoder) -> Building:
    """The segment of an add: like the index, but flat."""
    return Building(
        spec=manifest.spec,
        standardize=manifest.standardize,
        index_type=FLAT,
        store=manifest.store,
        chunk=manifest.chunk,
        batch_tokens=encoder.batch_tokens,
        window=manifest.window,
        purpose="add",
        language=manifest.language or NO_LANGUAGE,
    )


@dataclass
class Adding:
    """One run of an add, or of the like; the caller holds the lock."""

    manifest: Manifest
    known: Known
    writing: Writing
    # Documents that leave the index besides, asked once the corpus has been read.
    leaving: Callable[[], Sequence[Match]] = tuple

    @property
    def directory(self) -> Path:
        return self.writing.directory

    def run(self) -> AddReport:
        written = self._write()
        after = self._publish(written) if written.rows else self._take_out(written)
        if self.known.removed:
            self.writing.notify(_removed(self.known.removed))
        return self._report(written, after)

    def _write(self) -> ManyWritten:
        """Embed what is new; a segment that holds nothing is removed again."""
        try:
            written = self.writing.run(self.manifest)
            if not written.rows:
                written.keep_rejects(self.directory)
            return written
        finally:
            with contextlib.suppress(StorageError, OSError):
                self.writing.give_up()

    def _publish(self, written: ManyWritten) -> Manifest:
        """A version of the index with the new segments, and without what they replace."""
        manifest, report = self.manifest, self.writing.progress
        with self.known.counts.timed("derive"):
            new = written.derive(deriving(self.directory, manifest, FLAT), report)
        written.keep_rejects(self.directory)
        replaced = [*self.known.replaced.values(), *self.known.removed.values(), *self.leaving()]
        return publish_grown(
            self.directory,
            _with(manifest, self.known.counts, written, new),
            [*without(self.known.segments, replaced, written.revision), *new.segments],
            written.revision,
            report,
            self.writing.notify,
        )

    def _take_out(self, written: ManyWritten) -> Manifest:
        """A version without the documents that leave the index, if there are any."""
        removed = [*self.known.removed.values(), *self.leaving()]
        if not removed:
            return self.manifest
        return publish_segments(
            self.directory,
            replace(self.manifest, counts=_added(self.manifest, self.known.counts, 0)),
            without(self.known.segments, removed, written.revision),
            written.revision,
            notify=self.writing.notify,
        )

    def _report(self, written: ManyWritten, after: Manifest) -> AddReport:
        counts, updated = self.known.counts, len(self.known.replaced)
        seconds = max(counts.seconds, 1e-9)
        return AddReport(
            index=str(self.directory),
            read=counts.read,
            added=written.documents - updated,
            updated=updated,
            unchanged=counts.unchanged,
            truncated=written.truncated,
            skipped=counts.skipped,
            rejected=counts.rejected,
            documents=after.documents,
            seconds=time.perf_counter() - counts.started,
            texts_per_second=counts.texts / seconds,
            tokens_per_second=counts.tokens / seconds,
            removed=len(self.known.removed),
        )


def _with(manifest: Manifest, counts: Counts, written: ManyWritten, new: NewSegments) -> Manifest:
    """The manifest with what it says of what was added, its segments aside."""
    computed_on = dict(manifest.computed_on)
    for hardware, documents in written.computed_on.items():
        computed_on[hardware] = computed_on.get(hardware, 0) + documents
    return replace(
        manifest,
        counts=_added(manifest, counts, written.truncated),
        files={**manifest.files, **new.files},
        shards=max(manifest.shards, written.shards),
        computed_on=computed_on,
    )


def _removed(ids: Collection[str]) -> str:
    """What is told of the documents that were taken out."""
    some = ", ".join(repr(shown(identifier)) for identifier in list(ids)[:_NAMED])
    more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    return f"taken out, their text is empty now: {some}{more}"


def _added(manifest: Manifest, counts: Counts, truncated: int) -> dict[str, int]:
    """What was read into the index so far."""
    more = {
        "read": counts.read,
        "truncated": truncated,
        "skipped": counts.skipped,
        "rejected": counts.rejected,
    }
    return {name: manifest.counts.get(name, 0) + count for name, count in more.items()}
