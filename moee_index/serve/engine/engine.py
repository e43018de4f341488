"""Texts in, Embeddings out, for many clients at once: tokens are counted, the queue is bounded, one
thread computes, every wait ends at the request's deadline.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import numpy as np

from moee_index.encode.batches import group_equal
from moee_index.serve.engine.admission import Admission
from moee_index.serve.engine.model_thread import ModelThread, Observe, Work
from moee_index.serve.engine.trace import Trace
from moee_index.serve.errors import NotReadyError, UnknownNameError
from moee_index.text import check_texts, shown
from moee_index.types import Embeddings

if TYPE_CHECKING:
    from moee_index.encode.encoder import Encoder
    from moee_index.encode.tokenizer import Tokenized

P = ParamSpec("P")
T = TypeVar("T")

# A query costs some work besides its text's tokens, and a search by vector has no text.
QUERY_TOKENS = 8
# Texts tokenised at a time, so that a request of many does not keep others from a thread.
_WINDOW = 256


@dataclass(frozen=True)
class Tokens:
    """Texts of one request as a model sees them."""

    encoder: Encoder
    texts: Sequence[Tokenized]

    @property
    def count(self) -> int:
        return sum(len(text.text.ids) for text in self.texts)

    def joined(self, other: Tokens) -> Tokens:
        """These texts, then those of another prompt of the same model."""
        return Tokens(self.encoder, [*self.texts, *other.texts])


class Engine:
    """The models, and all that waits for them. Its coroutines belong to one event loop.

    deadline: seconds that a request may take; loading: seconds that loading may take; threads: for
    tokenising and searching.
    """

    def __init__(
        self,
        load: Callable[[], Mapping[str, Encoder]],
        *,
        batch_tokens: int,
        queue_tokens: int,
        deadline: float,
        threads: int,
        observe: Observe,
    ) -> None:
        self.model = ModelThread(load, batch_tokens, observe)
        self.admission = Admission(queue_tokens, lambda: self.model.rate)
        self.deadline = deadline
        self._pool = ThreadPoolExecutor(threads, "worker")

    def start(self) -> None:
        self.model.start()

    def stop(self) -> None:
        self.model.stop()
        self._pool.shutdown(wait=False, cancel_futures=True)

    @asynccontextmanager
    async def in_time(self) -> AsyncIterator[None]:
        """A block that ends at the deadline. Raises NotReadyError then."""
        try:
            async with asyncio.timeout(self.deadline):
                yield
        except TimeoutError:
            raise NotReadyError(
                f"not answered within {self.deadline:g} seconds, the deadline of a request; try "
                "again, or send less at once",
                self.admission.wait(),
            ) from None

    async def in_thread(self, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """What a function returns, called by a thread of the pool, never on the event loop."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, lambda: function(*arguments, **named))

    async def encoders(self) -> Mapping[str, Encoder]:
        """The models by name, as soon as they are loaded. Raises what loading them raised."""
        if not self.model.loaded.done():
            await asyncio.shield(asyncio.wrap_future(self.model.loaded))
        if self.model.failure is not None:
            raise NotReadyError("the model thread has died, and the server ends")
        return self.model.encoders

    async def encoder(self, name: str) -> Encoder:
        """A model by its name, as soon as it is loaded. Raises UnknownNameError."""
        encoders = await self.encoders()
        if name not in encoders:
            raise UnknownNameError(
                f"model {shown(name)!r} is not served; GET /v1/models lists those that are"
            )
        return encoders[name]

    async def tokenize(
        self, encoder: Encoder, texts: Sequence[str], trace: Trace, *, query: bool
    ) -> Tokens:
        """Texts as a model sees them. Raises MisuseError for what is no text."""
        texts = check_texts(texts)
        tokenized: list[Tokenized] = []
        with trace.stage("tokenize"):
            for start in range(0, len(texts), _WINDOW):
                window = texts[start : start + _WINDOW]
                tokenized += await self.in_thread(encoder.tokenize, window, query=query)
        tokens = Tokens(encoder, tokenized)
        trace.texts += len(texts)
        trace.tokens += tokens.count
        return tokens

    def admitted(self, tokens: int) -> AbstractContextManager[None]:
        """Room in the queue while a block runs. Raises TooLargeError, OverloadedError."""
        return self.admission.admitted(tokens)

    async def embed(self, tokens: Tokens, trace: Trace) -> Embeddings:
        """Rows of texts that were let in; equal ones are computed once. If the caller is cancelled,
        what no batch has taken yet leaves the queue."""
        groups = group_equal([(text.text.ids, text.text.own) for text in tokens.texts])
        work = Work(tokens.encoder, [tokens.texts[group[0]].text for group in groups])
        if not groups:
            return work.rows
        self.model.submit(work)
        try:
            rows = await asyncio.wrap_future(work.future)
        finally:
            trace.add("queue", work.queued)
            trace.add("forward", work.forward)
        taken = np.empty(len(tokens.texts), dtype=np.int64)
        for number, group in enumerate(groups):
            taken[group] = number
        return Embeddings(rows.hs[taken], rows.rw[taken])
