"""One window of documents: planned, committed, embedded batch by batch.

Knows the order that makes a kill harmless. Refuses to know which window comes next.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence

import numpy as np

from moee_index.embeddings import Embeddings, EncodingPlan, TextEncoder
from moee_index.errors import ModelError
from moee_index.index.derive import Progress
from moee_index.index.documents import DocumentStore, PreparedDocument, Window
from moee_index.index.intake import Counts
from moee_index.index.vectors import RowWriter

# A commit waits for the disk some 20 ms: batches that take less than this share one.
_COMMIT_SECONDS = 0.2


class WindowEmbedder:
    """Embeds windows into one generation. Raises ModelError, StorageError."""

    def __init__(
        self,
        store: DocumentStore,
        rows: RowWriter,
        encoder: TextEncoder,
        counts: Counts,
        progress: Progress,
        notify: Callable[[str], None],
        total: int | None,
    ) -> None:
        self._store = store
        self._rows = rows
        self._encoder = encoder
        self._counts = counts
        self._progress = progress
        self._notify = notify
        self._total = total

    def embed(
        self,
        number: int,
        first: int,
        documents: Sequence[PreparedDocument],
        committed: Window | None,
    ) -> None:
        """Bring a window's vectors to disk; what an earlier run did is kept.

        Texts that an earlier window holds are copied from there; equal texts within the window
        are the plan's to find.
        """
        count = len(documents)
        if committed is not None and committed.done:
            self._counts.resumed += count
            self._progress("embedding", first + count, self._total)
            return
        began = time.perf_counter()
        known = self._store.rows_of_contents({d.content_hash for d in documents}, first)
        copies = [known.get(prepared.content_hash) for prepared in documents]
        own = [position for position, copy in enumerate(copies) if copy is None]
        plan = self._encoder.plan([documents[position].document.content for position in own])
        truncated = [copy is not None and copy[1] for copy in copies]
        for position, cut in zip(own, plan.truncated, strict=True):
            truncated[position] = bool(cut)
        window = Window(number, first, count, _digest(plan, len(own)), plan.tokens, False)
        if committed is None:
            rows = [None if copy is None else copy[0] for copy in copies]
            self._store.add_window(window, documents, rows, truncated)
        elif committed.plan != window.plan:
            self._notify(f"window {number + 1}: batches are planned anew, so it is embedded again")
            self._store.replan(window)
        embedded = self._embed_batches(window, documents, own, plan)
        for position, copy in enumerate(copies):
            if copy is not None:
                self._rows.copy(copy[0], first + position)
        self._rows.sync()
        self._store.window_done(number)
        self._counts.texts += embedded + count - len(own)
        self._counts.resumed += len(own) - embedded
        self._counts.tokens += plan.tokens * embedded / max(len(own), 1)
        self._counts.seconds += time.perf_counter() - began
        self._progress("embedding", first + count, self._total)

    def _embed_batches(
        self,
        window: Window,
        documents: Sequence[PreparedDocument],
        own: Sequence[int],
        plan: EncodingPlan,
    ) -> int:
        """Embed the batches that are not done. Returns the number of texts in them."""
        done = self._store.batches_done(window.number)
        finished = window.first + sum(len(plan.batches[batch]) for batch in done)
        embedded = 0
        written: list[int] = []
        synced = time.perf_counter()
        for batch, positions in enumerate(plan.batches):
            if batch in done:
                continue
            embeddings = plan.encode(batch)
            filled = [own[position] for position in positions]
            self._check(embeddings, [documents[position] for position in filled])
            self._rows.write([window.first + position for position in filled], embeddings)
            written.append(batch)
            embedded += len(filled)
            if time.perf_counter() - synced >= _COMMIT_SECONDS:
                self._commit(window, written)
                synced = time.perf_counter()
            self._progress("embedding", finished + embedded, self._total)
        self._commit(window, written)
        return embedded

    def _commit(self, window: Window, written: list[int]) -> None:
        self._rows.sync()
        self._store.batches_are_done(window.number, written)
        written.clear()

    def _check(self, embeddings: Embeddings, documents: Sequence[PreparedDocument]) -> None:
        spec = self._encoder.spec
        for part, values, dim in (
            ("HS", embeddings.hs, spec.hs_dim),
            ("RW", embeddings.rw, spec.rw_dim),
        ):
            if values.shape != (len(documents), dim):
                raise ModelError(
                    f"the encoder gave {part} of shape {values.shape} for {len(documents)} texts "
                    f"and {dim} dimensions; this is a fault of the program"
                )
            good = np.isfinite(values).all(axis=1)
            if not good.all():
                document = documents[int(np.flatnonzero(~good)[0])].document
                where = f" ({document.source})" if document.source else ""
                raise ModelError(
                    f"{part} of document {document.id!r}{where} holds values that are not finite; "
                    "try --bits 32, or take the document out"
                )


def _digest(plan: EncodingPlan, texts: int) -> str:
    batches = [[int(position) for position in batch] for batch in plan.batches]
    if sorted(position for batch in batches for position in batch) != list(range(texts)):
        raise ModelError(
            "the encoder's plan does not hold each text once; this is a fault of the program"
        )
    return hashlib.sha256(json.dumps(batches).encode()).hexdigest()
