"""Make an index what its corpus is: new documents added, changed ones replaced, those that are gone
deleted, all in one version.

The corpus is read once to see what differs; it is read again, and the model is needed, only where
something is to be embedded. Embedding and publishing are add.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from moee_index.errors import MisuseError, counted
from moee_index.index.add import Adding, AddReport, Known, building_of_add
from moee_index.index.change import changing, publish_segments, without
from moee_index.index.index import Index
from moee_index.index.segment import Mask, Match, OpenSegment, find_live
from moee_index.index.store.document_reader import StoredDocument
from moee_index.index.store.documents import PreparedDocument
from moee_index.index.store.layout import index_directory, next_revision
from moee_index.index.store.manifest import Manifest
from moee_index.index.store.token_weights import with_weights_of
from moee_index.index.write.resume import check_encoder, check_spec
from moee_index.index.write.segment import (
    ON_BAD,
    SegmentWriting,
    check_choice,
    check_notify,
    check_progress,
)
from moee_index.index.write.windows import Counts, read_through
from moee_index.readers.corpus import Reject
from moee_index.readers.folder import Passed
from moee_index.types import Document, EncoderSpec, Notify, Progress, TextEncoder

# A corpus, or what reads it: `Passed` says of files which need not be read.
SyncDocuments = Sequence[Document] | Callable[[Reject, Passed], Iterable[Document]]
LoadEncoder = Callable[[EncoderSpec], TextEncoder]
# What is known of a file besides its text and title.
_OF_FILES = ("modified", "bytes")


@dataclass(frozen=True)
class SyncPlan:
    """What differs between a corpus and an index. added, updated: to be embedded; removed: gone
    from the corpus, or without text now; documents: that the index holds."""

    read: int
    added: int
    updated: int
    unchanged: int
    removed: int
    skipped: int
    rejected: int
    documents: int

    @property
    def embeds(self) -> bool:
        return bool(self.added or self.updated)


@dataclass
class _Synced(Known):
    """What the index holds of a corpus that it is to become. changed: when this version of the
    index was made."""

    changed: str = ""
    added: set[str] = field(default_factory=set)

    def take(self, prepared: PreparedDocument) -> bool:
        document = prepared.document
        if document.made_id:
            raise MisuseError(
                f"{document.source}: no id; a corpus without ids of its own cannot be synced, for "
                "names made of file and line do not say what is the same document; name the field "
                "with --id-field"
            )
        taken = super().take(prepared)
        if taken and document.id not in self.replaced:
            self.added.add(document.id)
        return taken

    def difference(self, stored: StoredDocument, prepared: PreparedDocument) -> str | None:
        """As of documents; a file with the same text is the same, whenever it was written."""
        if _same_file(stored, prepared.document):
            return None
        return super().difference(stored, prepared)

    def passes(self, identifier: str, modified: str, size: int) -> bool:
        """Whether a file is the one that is in the index, by time and size. One that was modified
        as late as the index may have been modified again within that second."""
        match = find_live(self.segments, [identifier]).get(identifier)
        if match is None or modified[:19] >= self.changed[:19]:
            return False
        facts = match[1].metadata
        if (facts.get("modified"), facts.get("bytes")) != (modified, size):
            return False
        if self._seen(match[0])[match[1].number]:
            return False  # of another folder, with the same name: it is told where it is read
        self.counts.read += 1
        self.keep(match)
        return True

    def gone(self) -> list[Match]:
        """The documents that the corpus no longer holds; none where something of it could not be
        read, for it might be one of them."""
        if self.counts.rejected:
            return []
        found: list[Match] = []
        for number, segment in enumerate(self.segments):
            seen = self.unchanged.get(number)
            left = _live(segment) if seen is None else _live(segment) & ~seen
            for match in (*self.replaced.values(), *self.removed.values()):
                if match[0] == number:
                    left[match[1].number] = False
            numbers = np.flatnonzero(left).tolist()
            found += [(number, one) for one in segment.documents.get(numbers).values()]
        return found


def _same_file(stored: StoredDocument, document: Document) -> bool:
    """Whether both are one file with the same text, whenever it was written."""
    if document.metadata.get("path") != document.id:
        return False
    if (stored.text, stored.title) != (document.text, document.title):
        return False
    facts = dict.fromkeys(_OF_FILES)
    return {**stored.metadata, **facts} == {**document.metadata, **facts}


def _live(segment: OpenSegment) -> Mask:
    if segment.live is None:
        return np.ones(segment.entry.documents, dtype=bool)
    live: Mask = segment.live[segment.fields.firsts]
    return live


def plan_sync(
    directory: str | Path, documents: SyncDocuments, *, on_bad: Literal["error", "skip"] = "error"
) -> SyncPlan:
    """What `sync_index` would do. Reads the corpus; embeds and writes nothing.

    Raises what `sync_index` raises of the corpus and of the index.
    """
    check_choice("on_bad", on_bad, ON_BAD)
    with Index.open(index_directory(directory)) as index, index.held():
        known = _synced(index.manifest, index.snapshot.segments)
        return _walked(known, index.manifest, documents, on_bad == "skip")


def _synced(manifest: Manifest, segments: Sequence[OpenSegment]) -> _Synced:
    split = manifest.chunk is not None
    return _Synced(segments, True, split, Counts(), changed=manifest.changed)


def _walked(
    known: _Synced, manifest: Manifest, documents: SyncDocuments, skip_bad: bool
) -> SyncPlan:
    """Read the corpus; `known` then says what differs."""
    counts = known.counts
    for _ in read_through(
        lambda reject: _read(known, documents, reject),
        counts,
        skip_bad=skip_bad,
        wanted=known.take,
        takes_out=known.takes_out,
    ):
        pass  # what differs is kept in `known`
    return SyncPlan(
        counts.read,
        len(known.added),
        len(known.replaced),
        counts.unchanged,
        len(known.removed) + len(known.gone()),
        counts.skipped,
        counts.rejected,
        manifest.documents,
    )


def _read(known: _Synced, documents: SyncDocuments, reject: Reject) -> Iterator[Document]:
    yield from documents(reject, known.passes) if callable(documents) else documents


def sync_index(
    directory: str | Path,
    documents: SyncDocuments,
    encoder: TextEncoder | LoadEncoder,
    *,
    shrink: bool = False,
    on_bad: Literal["error", "skip"] = "error",
    total: int | None = None,
    progress: Progress | None = None,
    notify: Notify | None = None,
) -> AddReport:
    """Make a finished index what a corpus is; resume an interrupted sync.

    documents: all of the corpus, in any order, read up to three times. encoder: the index's, or a
    function from its `EncoderSpec` to it, called only where something is to be embedded. A file
    of a folder is the same where its time and size are, else where its text is. shrink: more than
    half of the documents may go. With on_bad="skip" nothing is deleted where something could not
    be read.

    Raises MisuseError for a corpus without ids of its own and for one that lost more than half,
    unless `shrink`; what `add_documents` raises.
    """
    check_choice("on_bad", on_bad, ON_BAD)
    directory, skip_bad, tell = index_directory(directory), on_bad == "skip", check_notify(notify)
    with changing(directory) as (manifest, segments):
        known = _synced(manifest, segments)
        plan = _walked(known, manifest, documents, skip_bad)
        _check_loss(plan, shrink)
        if plan.rejected:
            tell("nothing was deleted: what could not be read may be a document of the index")
        if not plan.embeds:
            return _without_embedding(directory, manifest, known, plan)
        given = _is_encoder(encoder)
        usable = check_encoder(encoder if given else encoder(manifest.spec))  # type: ignore[operator]
        usable = with_weights_of(directory, manifest, usable, always=not given)
        check_spec(manifest.spec, usable.spec, directory)
        known = _synced(manifest, segments)
        writing = SegmentWriting(
            directory=directory,
            documents=lambda reject: _read(known, documents, reject),
            encoder=usable,
            wanted=building_of_add(manifest, usable),
            skip_bad=skip_bad,
            changing=True,
            total=total,
            progress=check_progress(progress),
            notify=tell,
            take=known.take,
            takes_out=known.takes_out,
            counts=known.counts,
        )
        gone: list[Match] = []

        def leaving() -> Sequence[Match]:
            if not gone:
                gone.extend(known.gone())
            _check_loss(replace(plan, removed=len(known.removed) + len(gone)), shrink)
            return gone

        report = Adding(manifest, known, writing, leaving).run()
        return replace(report, removed=report.removed + len(gone))


def _is_encoder(encoder: object) -> bool:
    return isinstance(getattr(encoder, "spec", None), EncoderSpec)


def _check_loss(plan: SyncPlan, shrink: bool) -> None:
    if plan.removed * 2 > plan.documents and not shrink:
        raise MisuseError(
            f"the corpus lacks {plan.removed} of the index's "
            f"{counted(plan.documents, 'document')}, more than half; give --yes if they shall go"
        )


def _without_embedding(
    directory: Path, manifest: Manifest, known: _Synced, plan: SyncPlan
) -> AddReport:
    """A version without what is gone, if anything is."""
    after = manifest
    leaving = [*known.removed.values(), *known.gone()]
    if leaving:
        revision = next_revision(directory, manifest.revision)
        after = publish_segments(
            directory, manifest, without(known.segments, leaving, revision), revision
        )
    return AddReport(
        index=str(directory),
        read=plan.read,
        added=0,
        updated=0,
        unchanged=plan.unchanged,
        truncated=0,
        skipped=plan.skipped,
        rejected=plan.rejected,
        documents=after.documents,
        seconds=0.0,
        texts_per_second=0.0,
        tokens_per_second=0.0,
        removed=plan.removed,
    )
