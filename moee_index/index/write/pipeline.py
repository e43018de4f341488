"""Windows of documents to rows on disk: reading, planning, embedding and writing overlap.

    one thread    reads a window ahead, splits, tokenises, plans, commits its documents
    this thread   computes batches
    one thread    writes rows, syncs them, commits which batches are done

Computing stays where the model was loaded: an OpenMP runtime that sees a second team of threads on
the same cores lets them sleep between its many small regions, and computes half as fast.

The order makes a kill harmless: a window's documents are committed before any of its rows, a
batch's rows are synced before it is marked done. The caller decides which window comes next.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from moee_index.errors import ModelError
from moee_index.index.store.documents import DocumentStore, PreparedDocument, Window
from moee_index.index.store.rows import RowWriter
from moee_index.index.write.windows import Batch, Counts
from moee_index.types import Embeddings, EncodingPlan, Notify, Progress, TextEncoder

# A commit waits for the disk some 20 ms: batches that take less than this share one.
_COMMIT_SECONDS = 0.2
# Windows planned ahead of the one that is computed, and computed batches that wait to be written.
_AHEAD = 1
_UNWRITTEN = 4
_LOOK_AGAIN = 0.1
# Seconds that a window takes to be planned at most.
_PATIENCE = 3.0


@dataclass(frozen=True)
class _Work:
    """A planned window: which rows its plan fills, and which are copies of earlier ones."""

    window: Window
    documents: Sequence[PreparedDocument]
    new: Sequence[int]
    copies: Sequence[tuple[int, int]]
    plan: EncodingPlan
    done: frozenset[int]


@dataclass(frozen=True)
class _Computed:
    work: _Work
    batch: int
    rows: Sequence[int]
    embeddings: Embeddings


class SegmentEmbedder:
    """Embeds windows into one segment."""

    def __init__(
        self,
        store: DocumentStore,
        rows: RowWriter,
        encoder: TextEncoder,
        counts: Counts,
        progress: Progress,
        notify: Notify,
        total: int | None,
    ) -> None:
        self._store = store
        self._rows = rows
        self._encoder = encoder
        self._counts = counts
        self._progress = progress
        self._notify = notify
        self._total = total
        self._planned: queue.Queue[_Work | Batch | None] = queue.Queue(_AHEAD)
        self._computed: queue.Queue[Any] = queue.Queue(_UNWRITTEN)
        self._failure: BaseException | None = None
        # Stop planning windows; writing has failed.
        self._stop = threading.Event()
        self._broken = threading.Event()

    def run(self, windows: Iterable[tuple[int, Batch, Window | None]]) -> None:
        """Embed windows and write their rows: (number, documents, the committed window if any).

        `windows` is iterated in a separate thread. What an earlier run did is kept. Passages
        that an earlier window holds are copied from there; equal ones within a window are the
        plan's to find. Where `windows` raises, what came before is embedded first; however the
        run ends, everything that was computed is on disk.

        Raises what `windows` raises; ModelError, StorageError.
        """
        began = time.perf_counter()
        planner, writer = (
            threading.Thread(target=self._guarded, args=(body,), name=f"moee-{name}", daemon=True)
            for name, body in (("plan", lambda: self._plan_all(windows)), ("write", self._write))
        )
        planner.start()
        writer.start()
        ended = False
        try:
            self._compute()
            ended = True
        except _Stopped:
            pass
        finally:
            self._stop.set()
            with contextlib.suppress(_Stopped):
                self._put(self._computed, None, self._broken)
            # Given up, it may be waiting for input that never comes (a pipe): it is left alone.
            planner.join(None if ended else _PATIENCE)
            writer.join()
            if self._counts.texts:
                self._counts.seconds += time.perf_counter() - began
        if self._failure is not None:
            raise self._failure

    # The planning thread

    def _plan_all(self, windows: Iterable[tuple[int, Batch, Window | None]]) -> None:
        try:
            for number, batch, committed in windows:
                if committed is not None and committed.done:
                    self._put(self._planned, batch, self._stop)
                    continue
                with self._counts.timed("plan"):
                    work = self._plan(number, batch, committed)
                self._put(self._planned, work, self._stop)
        finally:
            self._put(self._planned, None, self._stop)

    def _plan(self, number: int, batch: Batch, committed: Window | None) -> _Work:
        contents = [text for prepared in batch.documents for text in prepared.contents]
        hashes = [content_hash for prepared in batch.documents for content_hash in prepared.hashes]
        known = self._store.rows_of_contents(set(hashes), batch.first_row)
        new = [position for position, content in enumerate(hashes) if content not in known]
        plan = self._encoder.plan([contents[position] for position in new])
        truncated = [known[content][1] if content in known else False for content in hashes]
        for position, cut in zip(new, plan.truncated, strict=True):
            truncated[position] = bool(cut)
        window = Window(
            number,
            batch.first_row,
            len(contents),
            batch.first_document,
            len(batch.documents),
            _digest(plan, len(new)),
            plan.tokens,
        )
        if committed is None:
            self._store.add_window(window, batch.documents, truncated)
        elif committed != window:
            self._notify(f"window {number + 1}: its batches have changed, so it is embedded again")
            self._store.replan(window)
        return _Work(
            window,
            batch.documents,
            new,
            [
                (known[content][0], batch.first_row + position)
                for position, content in enumerate(hashes)
                if content in known
            ],
            plan,
            frozenset(self._store.batches_done(number)),
        )

    # This thread

    def _compute(self) -> None:
        while (work := self._planned.get()) is not None:
            if isinstance(work, Batch):
                self._counts.resumed += work.rows
                done = work.first_document + len(work.documents)
                self._progress("embedding", done, self._total)
                continue
            for batch, positions in enumerate(work.plan.batches):
                if batch in work.done:
                    continue
                with self._counts.timed("compute"):
                    embeddings = work.plan.encode(batch)
                filled = [work.new[position] for position in positions]
                self._check(embeddings, work, filled)
                rows = [work.window.first_row + position for position in filled]
                self._put(self._computed, _Computed(work, batch, rows, embeddings), self._broken)
            self._put(self._computed, work, self._broken)

    # The threads

    def _guarded(self, body: Callable[[], None]) -> None:
        try:
            body()
        except _Stopped:
            pass
        except BaseException as error:
            self._failure = self._failure or error

    def _put(self, where: queue.Queue[Any], item: object, given_up: threading.Event) -> None:
        while True:
            if given_up.is_set():
                raise _Stopped
            with contextlib.suppress(queue.Full):
                where.put(item, timeout=_LOOK_AGAIN)
                return

    def _write(self) -> None:
        try:
            self._write_all()
        except BaseException:
            self._broken.set()
            raise

    def _write_all(self) -> None:
        written: list[int] = []
        embedded = 0
        synced = time.perf_counter()
        window: Window | None = None
        for item in iter(self._computed.get, None):
            with self._counts.timed("write"):
                if isinstance(item, _Computed):
                    window = item.work.window
                    self._rows.write(item.rows, item.embeddings)
                    written.append(item.batch)
                    embedded += len(item.rows)
                    self._moved(item.work, embedded)
                    if time.perf_counter() - synced >= _COMMIT_SECONDS:
                        self._commit(item.work.window, written)
                        synced = time.perf_counter()
                    continue
                self._finish(item, written, embedded)
                embedded = 0
        if window is not None and written:
            self._commit(window, written)

    def _commit(self, window: Window, written: list[int]) -> None:
        self._rows.sync()
        self._store.batches_are_done(window.number, written)
        written.clear()

    def _finish(self, work: _Work, written: list[int], embedded: int) -> None:
        """All batches of a window are written."""
        window = work.window
        for source, target in work.copies:
            self._rows.copy(source, target)
        self._commit(window, written)
        self._store.window_done(window.number)
        counts, own = self._counts, len(work.new)
        counts.texts += embedded + len(work.copies)
        counts.resumed += own - embedded
        counts.tokens += window.tokens * embedded / max(own, 1)
        self._progress("embedding", window.first_document + window.documents, self._total)

    def _moved(self, work: _Work, embedded: int) -> None:
        """A window of a large model takes minutes: report parts of it."""
        before = sum(len(work.plan.batches[batch]) for batch in work.done)
        share = (before + embedded) / max(len(work.new), 1)
        done = work.window.first_document + int(share * work.window.documents)
        self._progress("embedding", done, self._total)

    def _check(self, embeddings: Embeddings, work: _Work, filled: Sequence[int]) -> None:
        spec = self._encoder.spec
        for part, values, dim in (
            ("HS", embeddings.hs, spec.hs_dim),
            ("RW", embeddings.rw, spec.rw_dim),
        ):
            if values.shape != (len(filled), dim):
                raise ModelError(
                    f"the encoder gave {part} of shape {values.shape} for {len(filled)} texts "
                    f"and {dim} dimensions; this is a fault of the program"
                )
            good = np.isfinite(values).all(axis=1)
            if not good.all():
                document = _document_at(work.documents, filled[int(np.flatnonzero(~good)[0])])
                where = f" ({document.document.source})" if document.document.source else ""
                raise ModelError(
                    f"{part} of document {document.document.id!r}{where} holds values that are "
                    "not finite; try --bits 32, or take the document out"
                )


class _Stopped(Exception):
    """The other side of a queue has ended."""


def _document_at(documents: Sequence[PreparedDocument], position: int) -> PreparedDocument:
    """The document that a window's place-th passage belongs to."""
    ends = np.cumsum([len(prepared.spans) for prepared in documents])
    return documents[int(np.searchsorted(ends, position, side="right"))]


def _digest(plan: EncodingPlan, texts: int) -> str:
    batches = [[int(position) for position in batch] for batch in plan.batches]
    if sorted(position for batch in batches for position in batch) != list(range(texts)):
        raise ModelError(
            "the encoder's plan does not hold each text once; this is a fault of the program"
        )
    return hashlib.sha256(json.dumps(batches).encode()).hexdigest()
