"""The one thread that owns the models: it loads them, then embeds batch after batch.

It tells that it lives by a heartbeat; whether that is enough is for others to judge (health.py).
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from moee_index.encode.batches import plan_batches
from moee_index.serve.engine.batching import take_batch
from moee_index.serve.errors import NotReadyError
from moee_index.types import Embeddings

if TYPE_CHECKING:
    from moee_index.encode.encoder import Encoder
    from moee_index.model.run.model import TokenizedText

# Seconds between two beats of a thread that has nothing to do.
_IDLE = 1.0
# How much the newest batch counts in the measured rate.
_NEWEST = 0.2

Observe = Callable[["BatchReport"], None]


@dataclass(frozen=True)
class BatchReport:
    """A batch that was embedded. padded: tokens with padding; seconds: the forward pass alone."""

    texts: int
    tokens: int
    padded: int
    seconds: float


@dataclass(eq=False)
class Work:
    """Different texts of one request for one model, and where their rows go.

    left: positions that no batch has taken yet, longest first. seconds: of waiting, of computing.
    """

    encoder: Encoder
    texts: Sequence[TokenizedText]
    future: Future[Embeddings] = field(default_factory=Future)
    queued: float = 0.0
    forward: float = 0.0

    def __post_init__(self) -> None:
        order = sorted(range(len(self.texts)), key=lambda text: -self.length(text))
        self.left = deque(order)
        self.missing = len(order)
        spec = self.encoder.spec
        self.rows = Embeddings(
            np.empty((len(order), spec.hs_dim), dtype=np.float32),
            np.empty((len(order), spec.rw_dim), dtype=np.float32),
        )
        self._since = time.perf_counter()

    def length(self, position: int) -> int:
        return len(self.texts[position].ids)

    def begun(self) -> None:
        """Some of its texts are in a batch now."""
        if not self.queued:
            self.queued = time.perf_counter() - self._since

    def put(self, positions: Sequence[int], rows: Embeddings) -> None:
        """Rows of some texts; the last ones end the work."""
        self.rows.hs[positions], self.rows.rw[positions] = rows.hs, rows.rw
        self.missing -= len(positions)
        if not self.missing:
            _settle(self.future, self.rows)

    def fail(self, error: Exception) -> None:
        self.left.clear()
        _settle(self.future, error)


def _settle(future: Future[Embeddings], outcome: Embeddings | Exception) -> None:
    """Give a future its outcome, unless its client has left meanwhile."""
    with contextlib.suppress(InvalidStateError):
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)


class ModelThread:
    """Loads encoders by `load`, then embeds what is submitted. See the module.

    encoders: by name, once they are loaded. failure: what ended it, if anything did. beat: when it
    last gave a sign; rate: tokens a second of late, None before the first; tokens: embedded so far.
    """

    def __init__(
        self, load: Callable[[], Mapping[str, Encoder]], batch_tokens: int, observe: Observe
    ) -> None:
        self.encoders: Mapping[str, Encoder] = {}
        self.failure: BaseException | None = None
        self.loaded: Future[None] = Future()
        self.beat = time.monotonic()
        self.rate: float | None = None
        self.tokens = 0
        self._load = load
        self._batch_tokens = batch_tokens
        self._observe = observe
        self._works: list[Work] = []
        self._changed = threading.Condition()
        self._stopping = False
        # A thread that hangs in a library must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def submit(self, work: Work) -> None:
        """Put a work in the queue; its future can be cancelled at any time."""
        with self._changed:
            if self._stopping or (self.loaded.done() and not self.alive):
                work.fail(NotReadyError("the server is about to end; ask another one"))
                return
            self._works.append(work)
            self._changed.notify()

    def stop(self, patience: float = 0.0) -> None:
        """End the thread after the batch it is at; what waits fails."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join(patience)
        self._fail_all(NotReadyError("the server ends; ask another one"))

    def _run(self) -> None:
        try:
            self.encoders = self._load()
            self.loaded.set_result(None)
            while not self._stopping:
                self._turn()
        except BaseException as error:
            # Told by whoever watches the thread; nobody else can answer what waits.
            self.failure = error
            if not self.loaded.done():
                self.loaded.set_exception(error)
            self._fail_all(NotReadyError("the model thread has died, and the server ends"))

    def _turn(self) -> None:
        """One batch, or one look into an empty queue."""
        self.beat = time.monotonic()
        with self._changed:
            self._works = [work for work in self._works if work.left and not work.future.done()]
            if not self._works:
                self._changed.wait(_IDLE)
                return
            encoder = self._works[0].encoder
            works = [work for work in self._works if work.encoder is encoder]
            taken = take_batch(works, self._batch_tokens)
        self._embed(encoder, [(works[number], position) for number, position in taken])

    def _embed(self, encoder: Encoder, taken: Sequence[tuple[Work, int]]) -> None:
        """Embed texts of several works; lengths that do not fit together become several batches."""
        lengths = [work.length(position) for work, position in taken]
        for batch in plan_batches(lengths, self._batch_tokens):
            chosen = [taken[number] for number in batch]
            works = list(dict.fromkeys(work for work, _ in chosen))
            for work in works:
                work.begun()
            started = time.perf_counter()
            try:
                rows = encoder.running.embed([work.texts[position] for work, position in chosen])
            except Exception as error:
                # Theirs alone: the next batch may do.
                for work in works:
                    work.fail(error)
                continue
            self._report(batch, lengths, time.perf_counter() - started, works)
            _give(chosen, rows)
            self.beat = time.monotonic()

    def _report(
        self, batch: Sequence[int], lengths: Sequence[int], seconds: float, works: Sequence[Work]
    ) -> None:
        tokens = sum(lengths[number] for number in batch)
        padded = len(batch) * max(lengths[number] for number in batch)
        rate = tokens / max(seconds, 1e-6)
        self.tokens += tokens
        self.rate = rate if self.rate is None else self.rate + _NEWEST * (rate - self.rate)
        for work in works:
            work.forward += seconds
        self._observe(BatchReport(len(batch), tokens, padded, seconds))

    def _fail_all(self, error: Exception) -> None:
        with self._changed:
            works, self._works = self._works, []
        for work in works:
            work.fail(error)


def _give(chosen: Sequence[tuple[Work, int]], rows: Embeddings) -> None:
    """Each work its rows of a batch."""
    places: dict[Work, list[int]] = {}
    for number, (work, _) in enumerate(chosen):
        places.setdefault(work, []).append(number)
    for work, numbers in places.items():
        positions = [chosen[number][1] for number in numbers]
        work.put(positions, Embeddings(rows.hs[numbers], rows.rw[numbers]))
