"""Building an index: documents in, a finished directory out, whatever happens in between.

Knows the order of commits. Refuses to know the model: texts go through a `TextEncoder`.

A window of documents is planned into batches from its texts alone and committed to SQLite before
any of it is embedded; a batch's rows are written and synced before it is marked done. A build that
is killed at any moment goes on from there: the corpus is read again from its beginning, every
committed document is compared with what was read, and the windows, batches and bytes are the same.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from moee_index.embeddings import TextEncoder
from moee_index.errors import (
    CorpusError,
    IndexChangedError,
    IndexDamagedError,
    MisuseError,
    NotAnIndexError,
    StorageError,
)
from moee_index.fusion import choose_standardize
from moee_index.index.compare import (
    DERIVED,
    compare_finished,
    document_difference,
    option_differences,
    told,
)
from moee_index.index.derive import Derivation, Progress, derive, describe, dims_of
from moee_index.index.documents import DocumentStore
from moee_index.index.embed import WindowEmbedder
from moee_index.index.intake import Counts, Documents, Rejects, windows
from moee_index.index.manifest import (
    BUILDING,
    DOCUMENTS,
    MANIFEST,
    REJECTED,
    STORES,
    Building,
    Manifest,
    generations,
    next_generation,
    remove_generation,
)
from moee_index.index.pair import check_index_type
from moee_index.index.storage import LOCK, WriterLock, storage_errors, sync_directory
from moee_index.index.vectors import RowWriter

# Documents planned together. A restarted build must keep it, so it is recorded.
WINDOW = 1024
Notify = Callable[[str], None]


@dataclass(frozen=True)
class BuildReport:
    """What a build did; counts are over the whole corpus.

    embedded: documents in the index. resumed: of these, embedded by an earlier run. unchanged: the
    index was finished before and nothing was done. seconds: the whole run. Rates: over the time
    that this run spent embedding.
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

    def as_json(self) -> dict[str, Any]:
        """The fields of `build --json` (INTERFACE)."""
        counts = ("index", "read", "embedded", "truncated", "skipped", "rejected", "dims")
        rates = ("seconds", "texts_per_second", "tokens_per_second")
        return {name: getattr(self, name) for name in (*counts, *rates)}


def build_index(
    directory: str | Path,
    documents: Documents,
    encoder: TextEncoder,
    *,
    standardize: str | None = None,
    index_type: str = "auto",
    store: str = "float32",
    on_bad: Literal["error", "skip"] = "error",
    overwrite: bool = False,
    total: int | None = None,
    model_bytes: Mapping[str, int] | None = None,
    progress: Progress | None = None,
    notify: Notify | None = None,
    window: int = WINDOW,
) -> BuildReport:
    """Embed documents and index them; go on with an interrupted build; recognise a finished one.

    documents: an iterable, or a function that takes a reject callback and returns one (readers
    with on_bad="skip" call it). They are read once, in order, never held all at once.
    standardize: both, rw, hs, none; None chooses by the number of documents. index_type: auto,
    flat or a FAISS factory string. overwrite: build anew beside a finished index and replace it
    when the new one is whole. total: number of documents, for progress. model_bytes: the model's
    bytes by kind, for `info`. notify: is told every automatic choice once, with its reason.

    Raises CorpusError (duplicate id, nothing to index), IndexChangedError (another corpus or other
    options than the index or the interrupted build has), IndexLockedError, StorageError,
    ModelError (vectors that are not finite), MisuseError. What was embedded stays.
    """
    choose_standardize(0, standardize)
    if store not in STORES:
        raise MisuseError(f"store is {store!r}; it is float32 or float16")
    if on_bad not in ("error", "skip"):
        raise MisuseError(f"on_bad is {on_bad!r}; it is error or skip")
    kind, reason = check_index_type(index_type, dims_of(encoder.spec))
    build = _Build(
        directory=Path(directory),
        documents=documents,
        encoder=encoder,
        wanted=Building(
            spec=encoder.spec,
            standardize=standardize or "auto",
            index_type=kind,
            store=store,
            batch_tokens=encoder.batch_tokens,
            window=window,
        ),
        type_reason=reason,
        skip_bad=on_bad == "skip",
        overwrite=overwrite,
        total=total,
        model_bytes=dict(model_bytes) if model_bytes is not None else None,
        progress=progress or (lambda stage, done, total: None),
        notify=notify or (lambda message: None),
        counts=Counts(),
    )
    return build.run()


@dataclass
class _Build:
    directory: Path
    documents: Documents
    encoder: TextEncoder
    wanted: Building
    type_reason: str
    skip_bad: bool
    overwrite: bool
    total: int | None
    model_bytes: dict[str, int] | None
    progress: Progress
    notify: Notify
    counts: Counts
    worth_keeping: bool = False

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
            generation: Path | None = None
            try:
                generation, building = self._generation(manifest)
                return self._build(generation, building)
            except BaseException:
                if not self.worth_keeping:
                    with contextlib.suppress(StorageError, OSError):
                        if generation is not None:
                            remove_generation(generation)
                        if made and not generations(self.directory):
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
            mine = any((self.directory / name).exists() for name in (LOCK, MANIFEST, REJECTED))
            if not mine and not generations(self.directory) and any(self.directory.iterdir()):
                raise MisuseError(
                    f"{self.directory} holds other files and no index; give --index a new or empty "
                    "directory"
                )
        return False

    # Which generation to write

    def _generation(self, manifest: Manifest | None) -> tuple[Path, Building]:
        """The generation to write to: an interrupted build's or a new one. Leftovers go."""
        found: tuple[Path, Building] | None = None
        for generation in reversed(generations(self.directory)):
            if manifest is not None and generation.name == manifest.generation:
                continue
            if not (generation / BUILDING).exists():
                # A finished one whose manifest is damaged stays until a new index is whole.
                if manifest is not None or not (self.directory / MANIFEST).exists():
                    remove_generation(generation)
                continue
            building = self._resumable(generation) if found is None else None
            if building is None:
                remove_generation(generation)
            else:
                found = generation, building
        if found is not None:
            self.worth_keeping = True
            self._take_over(found[1])
            if found[1] != self.wanted:
                self.wanted.write(found[0])
            return found[0], self.wanted
        generation = next_generation(self.directory)
        with storage_errors(generation):
            generation.mkdir()
        self.wanted.write(generation)
        with storage_errors(generation):
            sync_directory(self.directory)
        return generation, self.wanted

    def _resumable(self, generation: Path) -> Building | None:
        """What an interrupted build was begun with, if this one can go on with it.

        Under `overwrite` None where it cannot. Raises IndexChangedError, IndexDamagedError.
        """
        try:
            building = Building.read(generation)
            if building is None:
                return None
            different = option_differences(building, self.wanted)
            if self.overwrite:
                different = [found for found in different if found[0] not in DERIVED]
            if different:
                raise IndexChangedError(
                    f"the interrupted build in {self.directory} was begun with "
                    f"{told(different, building.spec)}; give the first options again to go on, or "
                    "--overwrite to begin anew"
                )
            with (
                DocumentStore(generation / DOCUMENTS) as store,
                RowWriter(generation, building.store, dims_of(building.spec)) as rows,
            ):
                if not rows.holds(store.embedded):
                    raise IndexDamagedError(
                        f"{generation} lacks vectors that were written; give --overwrite to begin "
                        "anew"
                    )
            return building
        except (IndexChangedError, IndexDamagedError) as error:
            if not self.overwrite:
                raise
            self.notify(f"beginning anew under --overwrite: {error}")
            return None

    def _take_over(self, building: Building) -> None:
        """Keep what decides the batches of an interrupted build."""
        if building.batch_tokens != self.encoder.batch_tokens:
            self.encoder = self.encoder.with_batch_tokens(building.batch_tokens)
            self.notify(f"batch tokens {building.batch_tokens}: the interrupted build's")
        self.wanted = replace(
            self.wanted, batch_tokens=building.batch_tokens, window=building.window
        )

    # The build itself

    def _build(self, generation: Path, building: Building) -> BuildReport:
        rejects = Rejects(generation / REJECTED, self.counts)
        dims = dims_of(building.spec)
        with (
            DocumentStore(generation / DOCUMENTS) as store,
            RowWriter(generation, building.store, dims) as rows,
        ):
            self.worth_keeping = len(store) > 0
            if self.worth_keeping:
                self.notify("going on with an interrupted build")
            count = self._embed_all(store, rows, rejects, building)
            truncated = store.truncated
            rows.finish(count)
            store.finish()
        which, reason = choose_standardize(
            count, None if building.standardize == "auto" else building.standardize
        )
        self.notify(f"standardize {which}: {reason}")
        self.notify(f"index type {building.index_type}: {self.type_reason}")
        derivation = Derivation(which, building.index_type, building.store)
        errors = derive(generation, building.spec, count, derivation, self.progress)
        with storage_errors(generation):
            sync_directory(generation)
            manifest = describe(
                generation,
                building,
                count,
                derivation,
                errors,
                counts={
                    "read": self.counts.read,
                    "truncated": truncated,
                    "skipped": self.counts.skipped,
                    "rejected": self.counts.rejected,
                },
                model_bytes=self.model_bytes,
            )
        with storage_errors(self.directory):
            if (generation / REJECTED).exists():
                (generation / REJECTED).replace(self.directory / REJECTED)
            else:
                (self.directory / REJECTED).unlink(missing_ok=True)
        manifest.write(self.directory)
        self._tidy(generation)
        return self._report(count, truncated)

    def _embed_all(
        self, store: DocumentStore, rows: RowWriter, rejects: Rejects, building: Building
    ) -> int:
        """Embed what is not embedded yet. Returns the number of documents."""
        embedder = WindowEmbedder(
            store, rows, self.encoder, self.counts, self.progress, self.notify, self.total
        )
        count = number = 0
        for first, documents in windows(
            self.documents,
            building.window,
            store.source_of,
            rejects,
            self.counts,
            skip_bad=self.skip_bad,
        ):
            committed = store.window(number)
            if committed is not None:
                stored = store.stored(first, committed.count)
                difference = document_difference(first, stored, documents)
                if difference is not None:
                    self._changed(difference)
                    store.drop_from(committed)
                    committed = None
            self.worth_keeping = True
            embedder.embed(number, first, documents, committed)
            count, number = first + len(documents), number + 1
        left = store.window(number)
        if left is not None:
            self._changed(f"document {store.stored(left.first, 1)[0][0]!r} is missing")
            store.drop_from(left)
        if not count:
            self.worth_keeping = False
            raise CorpusError(
                f"the corpus holds no document to index (read {self.counts.read}, empty "
                f"{self.counts.skipped}, rejected {self.counts.rejected}); give another one"
            )
        return count

    def _changed(self, difference: str) -> None:
        if not self.overwrite:
            raise IndexChangedError(
                f"the corpus is not the one that the interrupted build in {self.directory} began "
                f"with: {difference}; give the same corpus to go on, or --overwrite to build anew"
            )
        self.notify(f"embedding again from a changed document on: {difference}")

    def _tidy(self, generation: Path) -> None:
        """The new index is whole: drop what is left of building it and of older ones."""
        try:
            with storage_errors(self.directory):
                (generation / BUILDING).unlink(missing_ok=True)
            for other in generations(self.directory):
                if other != generation:
                    remove_generation(other)
        except StorageError as error:
            self.notify(f"the index is whole, but an older one could not be removed: {error}")

    def _unchanged(self, manifest: Manifest) -> BuildReport:
        """The report that nothing changed. Raises IndexChangedError if something did."""
        compare_finished(
            self.directory, manifest, self.wanted, self.documents, self.counts, self.skip_bad
        )
        self.counts.resumed = manifest.documents
        return self._report(manifest.documents, manifest.counts.get("truncated", 0), True)

    def _report(self, count: int, truncated: int, unchanged: bool = False) -> BuildReport:
        seconds = max(self.counts.seconds, 1e-9)
        return BuildReport(
            index=str(self.directory),
            read=self.counts.read,
            embedded=count,
            truncated=truncated,
            skipped=self.counts.skipped,
            rejected=self.counts.rejected,
            dims=dims_of(self.encoder.spec),
            seconds=time.perf_counter() - self.counts.started,
            texts_per_second=self.counts.texts / seconds,
            tokens_per_second=self.counts.tokens / seconds,
            resumed=self.counts.resumed,
            unchanged=unchanged,
        )
