"""Write a segment, or resume an interrupted one. Build and add share it.

A window of documents is planned into batches from its texts alone and committed to SQLite before
any of it is embedded; a batch's rows are written and synced before it is marked done. A run that is
killed at any moment resumes from there: the corpus is read again from its beginning, every
committed document is compared with what was read, and the windows, batches and bytes are the same.

What becomes of a finished segment is left to them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, cast

from moee_index.atomic import storage_errors, sync_directory
from moee_index.errors import IndexChangedError, IndexDamagedError, MisuseError
from moee_index.fusion import Standardize, Standardizer, shown_value
from moee_index.index.lexical.segment import write_lexical
from moee_index.index.store.documents import DocumentStore, Window
from moee_index.index.store.field_names import OWN, asked_as
from moee_index.index.store.fields import write_fields
from moee_index.index.store.layout import (
    BUILDING,
    DOCUMENTS,
    REJECTED,
    next_revision,
    segment_folders,
    segment_name,
)
from moee_index.index.store.manifest import Building, FileEntry, Manifest, Segment
from moee_index.index.store.revisions import remove_segment
from moee_index.index.store.rows import RowReader, RowWriter
from moee_index.index.store.token_weights import begin_token_weights, needed_token_weights
from moee_index.index.store.workers_folder import holds_work, remove_workers
from moee_index.index.write.derive import Deriving, fit_standardizer
from moee_index.index.write.pipeline import SegmentEmbedder
from moee_index.index.write.resume import check_resumable, window_difference
from moee_index.index.write.windows import (
    Batch,
    Counts,
    Documents,
    Rejects,
    TakesOut,
    Wanted,
    nothing_to_index,
    passages_of,
    windows,
)
from moee_index.types import Notify, Progress, TextEncoder, ignore

# Passages planned together. A restarted build must keep it, so it is recorded.
WINDOW = 1024
ON_BAD = ("error", "skip")
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Written:
    """A segment whose documents and raw rows are all on disk."""

    folder: Path
    building: Building
    revision: int
    documents: int
    rows: int
    truncated: int
    # Nothing that a manifest says of several processes.
    shards: ClassVar[int] = 0
    computed_on: ClassVar[Mapping[str, int]] = {}

    @property
    def raw(self) -> list[tuple[RowReader, None]]:
        """Its rows, all of which count."""
        dims = self.building.spec.dims
        return [(RowReader(self.folder, self.building.store, self.rows, dims), None)]

    def fit(self, which: Standardize, report: Progress) -> Standardizer:
        """A standardizer of its rows."""
        return fit_standardizer([*self.raw], self.building.spec.dims, which, report)

    def derive(self, how: Deriving, report: Progress) -> NewSegments:
        """Write what follows from its rows and documents."""
        ((raw, _),) = self.raw
        segment = how.segment(self.folder, raw, self.documents, self.revision, report)
        if how.language is not None:
            lexical = write_lexical(self.folder, how.language, self.revision, report)
            segment = replace(segment, lexical=lexical)
        return NewSegments([segment])

    def keep_rejects(self, directory: Path) -> None:
        """Put the lines that the run could not use beside the index."""
        with storage_errors(directory):
            if (self.folder / REJECTED).exists():
                (self.folder / REJECTED).replace(directory / REJECTED)
            else:
                (directory / REJECTED).unlink(missing_ok=True)


@dataclass(frozen=True)
class NewSegments:
    """Segments that are to be published, and the entries of their files that are known already:
    path relative to the index directory → size and checksum."""

    segments: list[Segment]
    files: Mapping[str, FileEntry] = field(default_factory=dict)

    def folders(self, directory: Path) -> list[Path]:
        return [directory / segment.name for segment in self.segments]


class ManyWritten(Protocol):
    """What a run has written, be it one segment (`Written`) or several (`workers.writing`)."""

    @property
    def building(self) -> Building: ...

    @property
    def revision(self) -> int: ...

    @property
    def documents(self) -> int: ...

    @property
    def rows(self) -> int: ...

    @property
    def truncated(self) -> int: ...

    @property
    def shards(self) -> int: ...

    @property
    def computed_on(self) -> Mapping[str, int]: ...

    def fit(self, which: Standardize, report: Progress) -> Standardizer: ...

    @property
    def raw(self) -> Sequence[tuple[RowReader, None]]: ...

    def derive(self, how: Deriving, report: Progress) -> NewSegments: ...

    def keep_rejects(self, directory: Path) -> None: ...


@dataclass
class Writing(ABC):
    """One run that writes documents into segments: into one (`SegmentWriting`), or by several
    processes (`workers.writing`).

    wanted: the settings of the segments. changing: whether documents and options may differ from
    those of an interrupted run; what differs is then embedded again, with a note. take: which
    documents are taken; takes_out: which without text take out one that is there.
    """

    directory: Path
    documents: Documents
    encoder: TextEncoder
    wanted: Building
    skip_bad: bool
    changing: bool
    total: int | None
    progress: Progress
    notify: Notify
    take: Wanted = lambda prepared: True
    takes_out: TakesOut = lambda document: False
    counts: Counts = field(default_factory=Counts)

    @abstractmethod
    def run(self, manifest: Manifest | None) -> ManyWritten:
        """Embed everything that is not embedded yet.

        manifest: of the index that is there. rows is 0 if nothing was taken.
        """

    @abstractmethod
    def give_up(self) -> None:
        """Remove what holds nothing worth resuming."""

    def _take_over(self, building: Building) -> None:
        """Keep the settings that determine the batches of an interrupted run."""
        self.wanted = replace(
            self.wanted,
            batch_tokens=building.batch_tokens,
            window=building.window,
            characters=building.characters,
        )


@dataclass
class _Reached:
    """How far a corpus was read. The planning thread counts; it has ended when this is read."""

    documents: int = 0
    rows: int = 0
    windows: int = 0


@dataclass
class SegmentWriting(Writing):
    """One run of writing a segment."""

    worth_keeping: bool = False
    folder: Path | None = None
    _told: set[str] = field(default_factory=set)

    def run(self, manifest: Manifest | None) -> Written:
        self.folder, building = self._begin(manifest)
        rejects = Rejects(self.folder / REJECTED, self.counts)
        dims = building.spec.dims
        with (
            DocumentStore(self.folder / DOCUMENTS) as store,
            RowWriter(self.folder, building.store, dims) as rows,
        ):
            self.worth_keeping = len(store) > 0
            if self.worth_keeping:
                self.notify(f"resuming an interrupted {building.purpose}")
            documents, count = self._embed_all(store, rows, rejects, building)
            truncated = store.truncated
            rows.finish(count)
            store.finish()
        if count:
            write_fields(self.folder, self.progress)
        number = int(self.folder.name.rpartition("-")[2])
        revision = max(number, manifest.revision + 1 if manifest else 1)
        return Written(self.folder, building, revision, documents, count, truncated)

    def give_up(self) -> None:
        if not self.worth_keeping and self.folder is not None:
            remove_segment(self.folder)

    # Which segment to write

    def _begin(self, manifest: Manifest | None) -> tuple[Path, Building]:
        """The segment to write to: an interrupted run's or a new one."""
        listed = {entry.name for entry in manifest.segments} if manifest else set()
        self._drop_workers(listed)
        resumable: tuple[Path, Building] | None = None
        for folder in reversed(segment_folders(self.directory)):
            if folder.name in listed or not (folder / BUILDING).exists():
                continue
            building = self._resumable(folder) if resumable is None else None
            if building is None:
                remove_segment(folder)
            else:
                resumable = folder, building
        if resumable is not None:
            self.worth_keeping = True
            self._take_over(resumable[1])
            if resumable[1] != self.wanted:
                self.wanted.write(resumable[0])
            return resumable[0], self.wanted
        published = manifest.revision if manifest else 0
        folder = self.directory / segment_name(next_revision(self.directory, published))
        with storage_errors(folder):
            folder.mkdir()
        if (weights := needed_token_weights(self.encoder)) is not None:
            begin_token_weights(folder, weights)
        self.wanted.write(folder)
        with storage_errors(folder):
            sync_directory(self.directory)
        return folder, self.wanted

    def _drop_workers(self, listed: Collection[str]) -> None:
        """Remove what several processes have left, which one does not go on with. Raises
        IndexChangedError where that is an interrupted build that is to be gone on with."""
        if not holds_work(self.directory, listed):
            return
        if not self.changing:
            raise IndexChangedError(
                f"the interrupted build in {self.directory} was begun with --workers; give "
                "--workers to resume it, or --overwrite to start over"
            )
        self.notify("starting over: the interrupted run was begun with --workers")
        remove_workers(self.directory, listed)

    def _resumable(self, folder: Path) -> Building | None:
        """The settings of an interrupted run, if this one can resume it.

        None where it cannot and need not. Raises IndexChangedError, IndexDamagedError.
        """
        try:
            building = Building.read(folder)
            if building is None or building.purpose != self.wanted.purpose:
                return None
            check_resumable(self.directory, building, self.wanted, changing=self.changing)
            with (
                DocumentStore(folder / DOCUMENTS) as store,
                RowWriter(folder, building.store, building.spec.dims) as rows,
            ):
                if not rows.holds(store.embedded):
                    raise IndexDamagedError(
                        f"{folder} lacks vectors that were written; give --overwrite to start over"
                    )
            return building
        except (IndexChangedError, IndexDamagedError) as error:
            if not self.changing:
                raise
            self.notify(f"starting over: {error}")
            return None

    def _take_over(self, building: Building) -> None:
        if building.batch_tokens != self.encoder.batch_tokens:
            self.encoder = self.encoder.with_batch_tokens(building.batch_tokens)
            self.notify(f"batch tokens {building.batch_tokens}: the interrupted run's")
        super()._take_over(building)

    # Writing it

    def _embed_all(
        self, store: DocumentStore, rows: RowWriter, rejects: Rejects, building: Building
    ) -> tuple[int, int]:
        """Embed what is not embedded yet. Returns the numbers of documents and rows."""
        reached = _Reached()
        SegmentEmbedder(
            store, rows, self.encoder, self.counts, self.progress, self.notify, self.total
        ).run(self._windows(store, rejects, building, reached))
        left = store.window(reached.windows)
        if left is not None:
            missing = store.stored(left.first_document, 1)[0][0]
            self._changed(f"document {missing!r} is missing")
            store.drop_from(left)
        if not reached.rows:
            self.worth_keeping = False
            if self.wanted.purpose == "build":
                raise nothing_to_index(self.counts)
        return reached.documents, reached.rows

    def _windows(
        self, store: DocumentStore, rejects: Rejects, building: Building, reached: _Reached
    ) -> Iterator[tuple[int, Batch, Window | None]]:
        """(number, documents, what is committed of it) of each window of the corpus; `reached` is
        how far they were taken."""
        for batch in windows(
            self.documents,
            building.window,
            store.source_of,
            rejects,
            self.counts,
            skip_bad=self.skip_bad,
            split=passages_of(self.encoder, building.chunk),
            namesake=store.namesake if building.chunk is not None else None,
            wanted=self.take,
            takes_out=self.takes_out,
            characters=building.characters,
        ):
            self._tell_shadowed(batch)
            committed = store.window(reached.windows)
            if committed is not None:
                stored = store.stored(batch.first_document, committed.documents)
                difference = window_difference(batch.first_document, stored, batch.documents)
                if difference is not None:
                    self._changed(difference)
                    store.drop_from(committed)
                    committed = None
            self.worth_keeping = True
            yield reached.windows, batch, committed
            reached.documents = batch.first_document + len(batch.documents)
            reached.rows = batch.first_row + batch.rows
            reached.windows += 1

    def _tell_shadowed(self, batch: Batch) -> None:
        """Say once which of the metadata's fields are called as a document's own are in filters."""
        for name in OWN:
            if name not in self._told and any(
                name in prepared.document.metadata for prepared in batch.documents
            ):
                self._told.add(name)
                self.notify(
                    f"documents have a metadata field {name!r}: in a filter, {name} is the "
                    f"document's own, and {asked_as(name)} is that field"
                )

    def _changed(self, difference: str) -> None:
        if not self.changing:
            raise IndexChangedError(
                f"the corpus is not the one that the interrupted build in {self.directory} began "
                f"with: {difference}; give the same corpus to resume it, or --overwrite to start "
                "over"
            )
        self.notify(f"embedding again from the first changed document on: {difference}")


def check_choice(name: str, value: object, choices: Collection[str]) -> None:
    """Raises MisuseError for another value than these."""
    if not isinstance(value, str) or value not in choices:
        raise MisuseError(f"{name} is {shown_value(value)}; it is {' or '.join(choices)}")


def check_whole(name: str, value: object) -> None:
    """Raises MisuseError for what is no whole number of 1 or more."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise MisuseError(f"{name} is {shown_value(value)}; it must be a whole number, 1 or more")


def check_progress(progress: Progress | None) -> Progress:
    return _function("progress", progress)


def check_notify(notify: Notify | None) -> Notify:
    return _function("notify", notify)


def _function(name: str, value: F | None) -> F:
    if value is not None and not callable(value):
        raise MisuseError(f"{name} is of type {type(value).__name__}, not a function")
    return value or cast(F, ignore)
