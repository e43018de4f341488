"""Build an index: documents in, a finished directory out, whatever happens in between.

Texts go through a `TextEncoder`.

An index is built as one segment (write/segment.py), then standardizer, norms and FAISS files follow
from its rows, and the manifest comes last. A build that is killed at any moment resumes from there.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from moee_index.atomic import LOCK, WriterLock, now, storage_errors
from moee_index.encode.batches import window_of
from moee_index.errors import (
    IndexDamagedError,
    MisuseError,
    ModelError,
    NotAnIndexError,
    StorageError,
)
from moee_index.fusion import Standardize, Standardizer, choose_standardize, shown_value
from moee_index.index.approximate.cost import early_exit, scan_cost, told_cost, told_exit
from moee_index.index.approximate.version import DEFAULT_RECALL, fit_coarse, with_recall
from moee_index.index.lexical.language import NO_LANGUAGE, check_language
from moee_index.index.search.request import lexical_weight, recall_share
from moee_index.index.store.faiss_files import (
    APPROXIMATE,
    check_index_type,
    check_recall,
    segment_type,
)
from moee_index.index.store.layout import (
    MANIFEST,
    REJECTED,
    STORES,
    WORKERS,
    index_directory,
    segment_folders,
    standardizer_name,
)
from moee_index.index.store.manifest import Building, Manifest
from moee_index.index.store.revisions import given_up, program, publish, tidy
from moee_index.index.store.standardizer import write_standardizer
from moee_index.index.store.token_weights import keep_token_weights, needed_token_weights
from moee_index.index.store.workers_folder import workers_folder
from moee_index.index.workers.pool import Pool
from moee_index.index.workers.start import Workers, started
from moee_index.index.workers.tasks import LoadElsewhere
from moee_index.index.workers.writing import ShardedWriting
from moee_index.index.write.count_tokens import with_token_weights
from moee_index.index.write.derive import Deriving
from moee_index.index.write.resume import check_encoder, compare_finished, language_there
from moee_index.index.write.segment import (
    ON_BAD,
    ManyWritten,
    NewSegments,
    SegmentWriting,
    Writing,
    check_choice,
    check_notify,
    check_progress,
    check_whole,
)
from moee_index.index.write.windows import Documents, check_documents
from moee_index.types import Chunking, Notify, Pair, Progress, TextEncoder


@dataclass(frozen=True)
class BuildReport:
    """What a build did; counts are over the whole corpus.

    embedded: documents in the index. resumed: of these, embedded by an earlier run. unchanged: the
    index was finished before and nothing was done. seconds: the whole run. Rates: over the time
    that this run spent embedding. stages: seconds of work in planning, computing and writing, which
    overlap, then in deriving, which follows.
    """

    index: str
    read: int
    embedded: int
    truncated: int
    skipped: int
    rejected: int
    dims: dict[str, int]
    seconds: float
    texts_per_second: float
    tokens_per_second: float
    resumed: int = 0
    unchanged: bool = False
    stages: Mapping[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The fields of `build --json` (INTERFACE)."""
        counts = ("index", "read", "embedded", "truncated", "skipped", "rejected", "dims")
        rates = ("seconds", "texts_per_second", "tokens_per_second")
        return {name: getattr(self, name) for name in (*counts, *rates)}


def build_index(
    directory: str | Path,
    documents: Documents,
    encoder: TextEncoder | LoadElsewhere,
    *,
    standardize: str | None = None,
    index_type: str = "auto",
    recall: float | None = None,
    store: str = "float32",
    chunk: Chunking | str | None = None,
    language: str | None = None,
    idf: Literal["model", "corpus"] = "model",
    on_bad: Literal["error", "skip"] = "error",
    overwrite: bool = False,
    total: int | None = None,
    model_bytes: Mapping[str, int] | None = None,
    progress: Progress | None = None,
    notify: Notify | None = None,
    window: int | None = None,
    workers: Workers | int | None = None,
) -> BuildReport:
    """Embed documents and index them; resume an interrupted build; recognize a finished one.

    documents: an iterable, or a function that takes a reject callback and returns one (readers
    with on_bad="skip" call it). They are read once, in order, never held all at once.
    standardize: both, rw, hs, none; None chooses by the number of documents. index_type: auto,
    flat, approx or a FAISS factory string. recall: the share of the ten best that a search of an
    approximate index is to find, 0.95 unless given; it is measured. chunk: split long documents
    into passages ("200:40": tokens, overlap). language: stem words in this language
    (lexical/language.py has which), or `none`; None is the model's default, which is none where it
    has no other. idf: what pooling `idf` weighs tokens by: the model's table, or one counted over
    the documents, which are then read twice; a model without a table always takes the latter.
    overwrite: build anew beside a finished index and replace it when the new one is whole. total:
    number of documents, for progress. model_bytes: the model's bytes by kind, for `info`. notify:
    called with every automatic choice once, with its reason. window: passages planned together;
    None for as many short ones as fill a batch. workers: that many processes embed, each with an
    encoder of its own (`Workers` says more); documents are then in another order, each shard of
    them a segment.

    Raises CorpusError (duplicate id, nothing to index), IndexChangedError (another corpus or other
    options than the index or the interrupted build has), IndexLockedError, StorageError,
    ModelError (vectors that are not finite), MisuseError. What was embedded stays.
    """
    crew = Workers.of(workers)
    directory = index_directory(directory)
    if crew is None:
        encoder = check_encoder(encoder)
    check_documents(documents)
    choose_standardize(0, standardize)
    check_language(language or NO_LANGUAGE)
    check_choice("store", store, STORES)
    check_choice("on_bad", on_bad, ON_BAD)
    if window is not None:
        check_whole("window", window)
    check_choice("idf", idf, ("model", "corpus"))
    wanted_recall = None if recall is None else recall_share(recall)
    split = None if chunk is None else str(as_chunking(chunk))
    asked = _Asked(
        directory=directory,
        documents=documents,
        standardize=standardize,
        index_type=index_type,
        store=store,
        chunk=split,
        language=language,
        idf=idf,
        skip_bad=on_bad == "skip",
        overwrite=overwrite,
        total=total,
        model_bytes=dict(model_bytes) if model_bytes is not None else None,
        progress=check_progress(progress),
        notify=check_notify(notify),
        window=window,
        recall=wanted_recall,
    )
    if crew is None:
        return asked.build(check_encoder(encoder))
    with started(crew, encoder, asked.notify) as (pool, described, weight_bytes):
        asked = replace(asked, model_bytes=asked.model_bytes or weight_bytes)
        return asked.build(described, pool)


@dataclass(frozen=True)
class _Asked:
    """What a build was asked for, as `build_index` takes it."""

    directory: Path
    documents: Documents
    standardize: str | None
    index_type: str
    store: str
    chunk: str | None
    language: str | None
    idf: str
    skip_bad: bool
    overwrite: bool
    total: int | None
    model_bytes: dict[str, int] | None
    progress: Progress
    notify: Notify
    window: int | None
    recall: float | None

    def build(self, encoder: TextEncoder, pool: Pool | None = None) -> BuildReport:
        """pool: the processes that embed, if it is not this one."""
        kind, reason = check_index_type(self.index_type, encoder.spec.dims)
        check_recall(kind, self.recall)
        encoder = with_token_weights(
            self.directory,
            self.documents,
            encoder,
            self.chunk,
            count=self.idf == "corpus",
            anew=self.overwrite,
            skip_bad=self.skip_bad,
            progress=self.progress,
            notify=self.notify,
        )
        common: dict[str, Any] = {
            "directory": self.directory,
            "documents": self.documents,
            "encoder": encoder,
            "wanted": self._wanted(encoder, kind),
            "skip_bad": self.skip_bad,
            "changing": self.overwrite,
            "total": self.total,
            "progress": self.progress,
            "notify": self.notify,
        }
        writing: Writing = (
            SegmentWriting(**common) if pool is None else ShardedWriting(**common, pool=pool)
        )
        return _Build(writing, reason, self.model_bytes, self.recall).run()

    def _wanted(self, encoder: TextEncoder, index_type: str) -> Building:
        window = window_of(encoder.batch_tokens) if self.window is None else self.window
        return Building(
            spec=encoder.spec,
            standardize=self.standardize or "auto",
            index_type=index_type,
            store=self.store,
            chunk=self.chunk,
            batch_tokens=encoder.batch_tokens,
            window=window,
            language=_language(self.directory, self.language, encoder, self.overwrite, self.notify),
        )


def _language(
    directory: Path, asked: str | None, encoder: TextEncoder, anew: bool, notify: Notify
) -> str:
    """The language whose words are stemmed: as asked, else as it is in the index or interrupted
    build that is there, else the model's default, which need not have one."""
    if asked is not None:
        return asked
    there = None if anew else language_there(directory)
    if there is not None:
        return there
    default: object = getattr(encoder, "language", None)
    if default is None:
        return NO_LANGUAGE
    try:
        check_language(default)
    except MisuseError as error:
        raise ModelError(f"{encoder.spec.path}: moee_index.json: {error}") from error
    notify(f"language {default}: the default of model {encoder.spec.model}; --language changes it")
    return str(default)


def as_chunking(chunk: Chunking | str) -> Chunking:
    """Raises MisuseError for what is no `200` or `200:40`."""
    if isinstance(chunk, Chunking):
        return chunk
    return Chunking.parse(chunk if isinstance(chunk, str) else shown_value(chunk))


@dataclass
class _Build:
    writing: Writing
    type_reason: str
    model_bytes: dict[str, int] | None
    recall: float | None

    @property
    def directory(self) -> Path:
        return self.writing.directory

    @property
    def overwrite(self) -> bool:
        return self.writing.changing

    def run(self) -> BuildReport:
        # Before the lock, because a finished index may lie in a read-only place.
        manifest = self._finished()
        if manifest is not None and not self.overwrite:
            return self._unchanged(manifest)
        made = self._make_directory()
        with WriterLock(self.directory) as lock:
            manifest = self._finished()
            if manifest is not None and not self.overwrite:
                return self._unchanged(manifest)
            try:
                # A finished index whose manifest is damaged stays until a new one is whole.
                if manifest is not None or not (self.directory / MANIFEST).exists():
                    tidy(self.directory, manifest)
                with given_up(self.directory):
                    written = self.writing.run(manifest)
                    return self._finish(written)
            except BaseException:
                with contextlib.suppress(StorageError, OSError):
                    self.writing.give_up()
                    if made and not (
                        segment_folders(self.directory) or workers_folder(self.directory).exists()
                    ):
                        lock.remove()
                        self.directory.rmdir()
                raise

    def _finished(self) -> Manifest | None:
        try:
            return Manifest.read(self.directory)
        except NotAnIndexError:
            if (self.directory / MANIFEST).exists():
                raise
            return None
        except IndexDamagedError:
            if not self.overwrite:
                raise
            return None

    def _make_directory(self) -> bool:
        """Returns whether the directory was made here."""
        with storage_errors(self.directory):
            try:
                self.directory.mkdir(parents=True)
                return True
            except FileExistsError:
                if not self.directory.is_dir():
                    raise MisuseError(
                        f"{self.directory} is a file; give --index a directory"
                    ) from None
            # Looked at once: another build may be making it at this moment.
            there = {path.name for path in self.directory.iterdir()}
            mine = there & {LOCK, MANIFEST, REJECTED, WORKERS} or segment_folders(self.directory)
            if there and not mine:
                raise MisuseError(
                    f"{self.directory} holds other files but no index; give --index a new or empty "
                    "directory"
                )
        return False

    def _finish(self, written: ManyWritten) -> BuildReport:
        """From raw rows to an index that opens."""
        building, notify = written.building, self.writing.notify
        which, reason = choose_standardize(
            written.rows, None if building.standardize == "auto" else building.standardize
        )
        with self.writing.counts.timed("derive"):
            standardizer = written.fit(which, self.writing.progress)
            why = standardizer.not_standardized(written.rows) or reason
            notify(f"standardize {standardizer.which}: {why}")
            notify(f"index type {building.index_type}: {self.type_reason}")
            manifest = self._manifest(written, standardizer.which)
            how = self._deriving(written, standardizer)
            manifest = replace(manifest, approximation=how.approximation)
            new = self._derive(written, how)
            with storage_errors(self.directory):
                manifest = replace(manifest, files=dict(new.files)).with_segments(
                    self.directory, new.segments
                )
            manifest = with_recall(
                self.directory, manifest, self.writing.progress, notify, anew=True
            )
            if (found := early_exit(manifest)) is not None:
                notify(f"early exit: {told_exit(found)}")
            if (cost := scan_cost(manifest)) is not None:
                notify(told_cost(cost, self.directory))
        written.keep_rejects(self.directory)
        publish(self.directory, manifest, new.folders(self.directory), notify)
        return self._report(written.documents, written.truncated)

    def _deriving(self, written: ManyWritten, standardizer: Standardizer) -> Deriving:
        """What the index is to be made with; fits a coarse quantizer where it has one."""
        building = written.building
        coarse = approximation = None
        if building.index_type == APPROXIMATE:
            coarse, approximation = fit_coarse(
                self.directory, written.raw, standardizer, building.spec.dims,
                written.revision, self.recall or DEFAULT_RECALL, self.writing.progress,
            )  # fmt: skip
        return Deriving(
            standardizer,
            segment_type(building.index_type),
            building.language,
            coarse,
            approximation,
        )

    def _derive(self, written: ManyWritten, how: Deriving) -> NewSegments:
        path = self.directory / standardizer_name(written.revision)
        write_standardizer(path, how.standardizer, written.rows)
        if (weights := needed_token_weights(self.writing.encoder)) is not None:
            keep_token_weights(self.directory, weights)
        return written.derive(how, self.writing.progress)

    def _manifest(self, written: ManyWritten, which: Standardize) -> Manifest:
        """The manifest of a new index, without segments yet."""
        building, counts, created = written.building, self.writing.counts, now()
        return Manifest(
            revision=written.revision,
            spec=building.spec,
            standardize=which,
            standardizer=written.revision,
            index_type=Pair(building.index_type, building.index_type),
            store=building.store,
            chunk=building.chunk,
            alpha=1.0,
            batch_tokens=building.batch_tokens,
            window=building.window,
            counts={
                "read": counts.read,
                "truncated": written.truncated,
                "skipped": counts.skipped,
                "rejected": counts.rejected,
            },
            model_bytes=self.model_bytes,
            language=building.language,
            lexical_weight=self._lexical_weight(),
            created=created,
            changed=created,
            program=program(),
            shards=written.shards,
            computed_on=dict(written.computed_on),
        )

    def _lexical_weight(self) -> float:
        """How much words weigh in searches by default: as the model has it, which need not say."""
        encoder: Any = self.writing.encoder
        weight = lexical_weight(getattr(encoder, "lexical", 0.0))
        if weight:
            self.writing.notify(
                f"lexical weight {weight:g}: the default of model {encoder.spec.model}"
            )
        return weight

    def _unchanged(self, manifest: Manifest) -> BuildReport:
        """The report that nothing changed. Raises IndexChangedError if something did."""
        writing = self.writing
        while True:
            try:
                compare_finished(
                    self.directory,
                    manifest,
                    writing.wanted,
                    writing.documents,
                    writing.counts,
                    writing.skip_bad,
                )
                break
            except IndexDamagedError:
                # Another process may have put a newer version in place while its files were
                # opened, which comes before any document is read.
                newer = Manifest.read(self.directory)
                if newer.revision == manifest.revision:
                    raise
                manifest = newer
        writing.counts.resumed = manifest.rows
        return self._report(manifest.documents, manifest.counts.get("truncated", 0), True)

    def _report(self, documents: int, truncated: int, unchanged: bool = False) -> BuildReport:
        counts = self.writing.counts
        seconds = max(counts.seconds, 1e-9)
        return BuildReport(
            index=str(self.directory),
            read=counts.read,
            embedded=documents,
            truncated=truncated,
            skipped=counts.skipped,
            rejected=counts.rejected,
            dims=dict(self.writing.encoder.spec.dims),
            seconds=time.perf_counter() - counts.started,
            texts_per_second=counts.texts / seconds,
            tokens_per_second=counts.tokens / seconds,
            resumed=counts.resumed,
            unchanged=unchanged,
            stages=counts.stages,
        )
