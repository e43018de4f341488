"""Change an index without the model: delete, compact, reindex, its default weights.

Each makes a new version beside the old one, under the writer's lock; readers keep the one that
they opened, and a failure leaves the old one as it was.

Works from the raw rows on disk; no text is embedded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from moee_index.atomic import WriterLock, now, storage_errors, write_file
from moee_index.errors import MisuseError
from moee_index.fusion import check_alpha, choose_standardize
from moee_index.index.approximate.cost import early_exit, told_exit
from moee_index.index.approximate.version import DEFAULT_RECALL, fit_coarse, with_recall
from moee_index.index.filters import Filter
from moee_index.index.filters.masks import Selector
from moee_index.index.lacking import without_postings
from moee_index.index.lexical.language import NO_LANGUAGE, check_language
from moee_index.index.lexical.segment import add_lexical, join_lexical
from moee_index.index.search.request import as_filter, lexical_weight, recall_share
from moee_index.index.segment import (
    Mask,
    Match,
    OpenSegment,
    find_live,
    open_coarse,
    open_standardizer,
)
from moee_index.index.store.approximation import Measured
from moee_index.index.store.faiss_files import (
    APPROXIMATE,
    FLAT,
    check_index_type,
    check_recall,
    segment_type,
)
from moee_index.index.store.layout import (
    deleted_name,
    index_directory,
    next_revision,
    segment_name,
    standardizer_name,
)
from moee_index.index.store.manifest import Manifest, Segment
from moee_index.index.store.revisions import given_up, program, publish, tidy
from moee_index.index.store.standardizer import write_standardizer
from moee_index.index.write.derive import Deriving, fit_standardizer
from moee_index.index.write.merge import merged, tail_to_merge
from moee_index.index.write.segment import check_notify, check_progress
from moee_index.text import check_texts
from moee_index.types import Notify, Pair, Progress, ignore

# Rows of a shard that several processes wrote, which one process does not copy into a larger one.
_LARGE = 50_000


@dataclass(frozen=True)
class ChangeReport:
    """What a change did. documents: that count now; changed: deleted, or copied; bytes: of all
    files, after and before. unchanged: there was nothing to do."""

    index: str
    documents: int
    changed: int
    bytes: int
    bytes_before: int
    segments: int
    standardize: str
    index_type: str
    unchanged: bool = False

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@contextlib.contextmanager
def changing(directory: Path) -> Iterator[tuple[Manifest, list[OpenSegment]]]:
    """The version to change and its segments, under the writer's lock; leftovers of a crash are
    removed before, and what the block wrote is removed if it fails.

    Raises NotAnIndexError, IndexDamagedError, IndexLockedError, StorageError.
    """
    Manifest.read(directory)
    with WriterLock(directory), contextlib.ExitStack() as opened:
        manifest = Manifest.read(directory)
        tidy(directory, manifest)
        segments = [
            opened.enter_context(contextlib.closing(OpenSegment(directory, manifest, entry)))
            for entry in manifest.segments
        ]
        with given_up(directory):
            yield manifest, segments


def delete_documents(
    directory: str | Path, ids: Sequence[str], *, missing_ok: bool = False
) -> ChangeReport:
    """Delete documents from an index. Their rows stay on disk until `compact_index`.

    Raises MisuseError naming an id that is not there, unless `missing_ok`; nothing is then
    deleted. Raises what `changing` raises.
    """
    directory = index_directory(directory)
    wanted = list(dict.fromkeys(check_texts(ids, "id")))
    with changing(directory) as (manifest, segments):
        matches = find_live(segments, wanted)
        missing = [identifier for identifier in wanted if identifier not in matches]
        if missing and not missing_ok:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise MisuseError(
                f"{directory} has no document {missing[0]!r}{more}; nothing was deleted "
                "(--missing-ok skips such ids)"
            )
        if not matches:
            return _report(directory, manifest, manifest, 0)
        revision = next_revision(directory, manifest.revision)
        entries = without(segments, list(matches.values()), revision)
        after = publish_segments(directory, manifest, entries, revision)
        return _report(directory, after, manifest, len(matches))


def delete_matching(directory: str | Path, filter: str | Filter) -> ChangeReport:
    """Delete the documents that match a filter, as `delete_documents` does.

    Raises FilterError and what `changing` raises.
    """
    condition = as_filter(filter)
    if condition is None:
        raise MisuseError("a filter says which documents are deleted, and none is given")
    directory = index_directory(directory)
    with changing(directory) as (manifest, segments):
        masks = [
            np.zeros(segment.entry.rows, dtype=bool) if mask is None else mask
            for segment, mask in zip(segments, Selector(segments).masks(condition), strict=True)
        ]
        counts = [
            int(mask[segment.fields.firsts].sum())
            for segment, mask in zip(segments, masks, strict=True)
        ]
        if not sum(counts):
            return _report(directory, manifest, manifest, 0)
        revision = next_revision(directory, manifest.revision)
        entries: list[Segment] = []
        for segment, mask, count in zip(segments, masks, counts, strict=True):
            entries += _reduced(segment, mask, count, revision)
        after = publish_segments(directory, manifest, entries, revision)
        return _report(directory, after, manifest, sum(counts))


def compact_index(directory: str | Path, *, progress: Progress | None = None) -> ChangeReport:
    """Write all segments as one, without what was deleted. Raises what `changing` raises."""
    directory = index_directory(directory)
    with changing(directory) as (manifest, segments):
        kind = manifest.index_type.hs
        clean = all(not entry.deleted_rows for entry in manifest.segments)
        if (
            clean
            and len(segments) <= 1
            and all(entry.index_type.hs == segment_type(kind) for entry in manifest.segments)
        ):
            return _report(directory, manifest, manifest, 0)
        revision, report = next_revision(directory, manifest.revision), check_progress(progress)
        how = deriving(directory, manifest, segment_type(kind))
        entries = _joined(directory, manifest, segments, how, revision, report)
        after = publish_segments(directory, manifest, entries, revision, report=report, anew=True)
        return _report(directory, after, manifest, after.documents)


def reindex(
    directory: str | Path,
    *,
    standardize: str | None = None,
    index_type: str | None = None,
    recall: float | None = None,
    progress: Progress | None = None,
    notify: Notify | None = None,
) -> ChangeReport:
    """Refit the standardizer on the documents that count, and rewrite the FAISS files.

    standardize: both, rw, hs, none; None chooses by the number of documents. index_type: flat,
    approx or a FAISS factory string; None keeps the index's. recall: the share of the ten best that
    a search of an approximate index is to find; None keeps the index's, 0.95 where it is new. The
    model is not needed. Raises MisuseError, and what `changing` raises.
    """
    directory = index_directory(directory)
    choose_standardize(0, standardize)
    wanted = None if recall is None else recall_share(recall)
    tell, report = check_notify(notify), check_progress(progress)
    with changing(directory) as (manifest, segments):
        dims = manifest.spec.dims
        kind, reason = manifest.index_type.hs, "the index's"
        if index_type is not None:
            kind, reason = check_index_type(index_type, dims)
        check_recall(kind, wanted)
        which, why = choose_standardize(manifest.rows, standardize)
        revision = next_revision(directory, manifest.revision)
        rows = [(segment.raw, segment.live_rows) for segment in segments]
        standardizer = fit_standardizer(rows, dims, which, report)
        why = standardizer.not_standardized(manifest.rows) or why
        tell(f"standardize {standardizer.which}: {why}")
        tell(f"index type {kind}: {reason}")
        path = directory / standardizer_name(revision)
        write_standardizer(path, standardizer, manifest.rows)
        coarse = approximation = None
        if kind == APPROXIMATE and manifest.rows:
            before = manifest.approximation
            asked = wanted or (before.wanted if before else DEFAULT_RECALL)
            coarse, approximation = fit_coarse(
                directory, rows, standardizer, dims, revision, asked, report
            )
        how = Deriving(standardizer, segment_type(kind), manifest.language, coarse, approximation)
        if len(segments) == 1 and segments[0].live is None:
            # The rows stay where they are; only what follows from them is new.
            entries = [_derived(segments[0], how, revision, report)]
        else:
            entries = _joined(directory, manifest, segments, how, revision, report)
        changed = replace(
            manifest,
            standardize=standardizer.which,
            index_type=Pair(kind, kind),
            approximation=approximation,
        )
        after = publish_segments(
            directory, changed, entries, revision, standardizer=revision, report=report,
            notify=tell, anew=True,
        )  # fmt: skip
        if (found := early_exit(after)) is not None:
            tell(f"early exit: {told_exit(found)}")
        return _report(directory, after, manifest, after.documents)


def reindex_lexical(
    directory: str | Path,
    *,
    language: str | None = None,
    progress: Progress | None = None,
    notify: Notify | None = None,
) -> ChangeReport:
    """Write the postings of an index, which a search by words needs, from its documents. Nothing
    else changes.

    language: how words are stemmed; None keeps the index's, none where it has no postings yet. The
    model is not needed. Raises MisuseError, and what `changing` raises.
    """
    directory = Path(directory)
    check_language(language or NO_LANGUAGE)
    tell, report = check_notify(notify), check_progress(progress)
    with changing(directory) as (manifest, segments):
        chosen = language or manifest.language or NO_LANGUAGE
        tell(f"language {chosen}: {'as requested' if language else 'as before'}")
        revision = next_revision(directory, manifest.revision)
        entries = [
            replace(segment.entry, lexical=add_lexical(segment, chosen, revision, report))
            for segment in segments
        ]
        changed = replace(manifest, language=chosen)
        after = publish_segments(directory, changed, entries, revision)
        return _report(directory, after, manifest, after.documents)


def publish_grown(
    directory: Path,
    manifest: Manifest,
    entries: Sequence[Segment],
    revision: int,
    report: Progress,
    notify: Notify,
) -> Manifest:
    """As `publish_segments`, of a version that has new segments at its end; where these are many
    small ones, another follows that joins them. Recall is measured in the last alone: until it is
    there the manifest promises what was measured before, and says of how many rows."""
    start = _small_tail(manifest, entries)
    after = publish_segments(
        directory, manifest, entries, revision, report=report, notify=notify,
        followed=start is not None,
    )  # fmt: skip
    return after if start is None else _tail_joined(directory, after, start, report, notify)


def _small_tail(manifest: Manifest, entries: Sequence[Segment]) -> int | None:
    """The first of the small segments at the end, where these are so many that they are to be
    joined. manifest: of their index, whichever segments it has."""
    flat = [entry.index_type == Pair(FLAT, FLAT) for entry in entries]
    # One of another type is slow to make: only `compact` and `reindex` do so.
    first = len(flat) - flat[::-1].index(False) if False in flat else 0
    if manifest.shards:
        large = [entry.live_rows >= _LARGE for entry in entries]
        first = max(first, len(large) - large[::-1].index(True) if True in large else 0)
    tail = tail_to_merge([entry.live_rows for entry in entries[first:]])
    return None if tail is None else first + tail


def _tail_joined(
    directory: Path, manifest: Manifest, start: int, progress: Progress, notify: Notify
) -> Manifest:
    """Join the segments from one on; the caller holds the lock."""
    with contextlib.ExitStack() as opened, given_up(directory):
        segments = [
            opened.enter_context(contextlib.closing(OpenSegment(directory, manifest, entry)))
            for entry in manifest.segments[start:]
        ]
        revision = next_revision(directory, manifest.revision)
        how = deriving(directory, manifest, FLAT)
        entries = _joined(directory, manifest, segments, how, revision, progress)
        kept = [*manifest.segments[:start], *entries]
        after = publish_segments(
            directory, manifest, kept, revision, report=progress, notify=notify, anew=True
        )
        notify(f"{len(segments)} small segments joined: fewer files to open and search")
        return after


def without(segments: Sequence[OpenSegment], gone: Sequence[Match], revision: int) -> list[Segment]:
    """The segments' entries without some documents.

    Writes bitmaps of deleted rows; a segment with nothing left is dropped.
    """
    entries: list[Segment] = []
    for number, segment in enumerate(segments):
        documents = [document for segment_number, document in gone if segment_number == number]
        gone_there = np.zeros(segment.entry.rows, dtype=bool)
        for document in documents:
            gone_there[document.rows.start : document.rows.stop] = True
        entries += _reduced(segment, gone_there, len(documents), revision)
    return entries


def _reduced(segment: OpenSegment, gone: Mask, documents: int, revision: int) -> list[Segment]:
    """A segment's entry without the rows of some live documents; none where nothing is left."""
    entry = segment.entry
    if not documents:
        return [entry]
    deleted = gone if segment.live is None else gone | ~segment.live
    if deleted.all():
        return []
    write_file(segment.folder / deleted_name(revision), np.packbits(deleted).tobytes())
    return [
        replace(
            entry,
            deleted=revision,
            deleted_documents=entry.deleted_documents + documents,
            deleted_rows=int(deleted.sum()),
        )
    ]


def publish_segments(
    directory: Path,
    manifest: Manifest,
    entries: Sequence[Segment],
    revision: int,
    *,
    standardizer: int | None = None,
    report: Progress = ignore,
    notify: Notify | None = None,
    anew: bool = False,
    followed: bool = False,
) -> Manifest:
    """Publish a version with these segments; the caller holds the lock. The recall of an
    approximate index is measured where it has grown by a tenth; anew: whatever it has grown by;
    followed: not yet, for another version follows at once."""
    with storage_errors(directory):
        after = replace(
            manifest, revision=revision, changed=now(), program=program()
        ).with_segments(directory, entries, standardizer)
    if not followed:
        after = with_recall(directory, after, report, notify or ignore, anew=anew)
    publish(directory, after, [directory / entry.name for entry in entries], notify)
    return after


def deriving(directory: Path, manifest: Manifest, index_type: str) -> Deriving:
    """As an index has it, with FAISS files of a type. Raises IndexDamagedError."""
    return Deriving(
        open_standardizer(directory, manifest),
        index_type,
        manifest.language,
        open_coarse(directory, manifest),
        manifest.approximation,
    )


def _derived(segment: OpenSegment, how: Deriving, revision: int, report: Progress) -> Segment:
    """A segment with norms and FAISS files of another standardizer or index type."""
    entry = segment.entry
    derived = how.segment(segment.folder, segment.raw, entry.documents, revision, report)
    return replace(derived, lexical=entry.lexical)


def _joined(
    directory: Path,
    manifest: Manifest,
    segments: Sequence[OpenSegment],
    how: Deriving,
    revision: int,
    report: Progress,
) -> list[Segment]:
    """Some segments merged, without what was deleted; empty if nothing is left."""
    if not any(segment.entry.live_rows for segment in segments):
        return []
    folder = directory / segment_name(revision)
    raw, documents = merged(folder, manifest, segments, report)
    segment = how.segment(folder, raw, documents, revision, report)
    if how.language is not None:
        lexical = join_lexical(folder, segments, how.language, revision, report)
        segment = replace(segment, lexical=lexical)
    return [segment]


def _report(directory: Path, after: Manifest, before: Manifest, changed: int) -> ChangeReport:
    return ChangeReport(
        index=str(directory),
        documents=after.documents,
        changed=changed,
        bytes=after.size,
        bytes_before=before.size,
        segments=len(after.segments),
        standardize=after.standardize,
        index_type=after.index_type.hs,
        unchanged=after is before,
    )


def check_writable(directory: Path) -> None:
    """Check early whether a later `save_alpha` can write, before work that takes long.

    Raises NotAnIndexError, IndexDamagedError, IndexLockedError, StorageError.
    """
    # Read before locking, so that no lock file is left where there is no index.
    Manifest.read(directory)
    with WriterLock(directory):
        pass


def save_alpha(directory: str | Path, alpha: float) -> None:
    """As `save_weights`, of RW alone."""
    save_weights(directory, alpha)


def save_weights(
    directory: str | Path,
    alpha: float,
    lexical: float | None = None,
    judged: Measured | None = None,
) -> None:
    """Make alpha the index's default weight of RW, and lexical that of words; None leaves it as it
    is. judged: of an approximate index, its recall over judged queries, which is kept with it.
    Atomic: a reader sees the old ones or the new.

    Readers that are open keep the values that they opened with.

    Raises MisuseError for a weight out of range, or of words in an index without postings;
    NotAnIndexError, IndexDamagedError, IndexLockedError when another process writes to the index,
    StorageError.
    """
    weight, directory = check_alpha(alpha), index_directory(directory)
    words = None if lexical is None else lexical_weight(lexical)
    Manifest.read(directory)
    with WriterLock(directory):
        # Read again: a writer may have put a newer version in place before the lock was taken.
        manifest = Manifest.read(directory)
        if words and manifest.language is None:
            raise MisuseError(without_postings(directory))
        approximation = manifest.approximation
        if approximation is not None and judged is not None:
            approximation = replace(approximation, judged=judged)
        replace(
            manifest,
            alpha=weight,
            approximation=approximation,
            lexical_weight=manifest.lexical_weight if words is None else words,
            tuned=manifest.tuned or words is not None,
            revision=manifest.revision + 1,
            changed=now(),
            program=program(),
        ).write(directory)
