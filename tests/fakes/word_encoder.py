"""A small deterministic encoder for tests of code that needs one: words hashed into vectors.

Equal texts get equal vectors, texts that share words get similar ones. Rounding depends on the
batch as little as a real encoder's in float32: not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from moee_index.backends import embed_nothing
from moee_index.encode.chunking import divide
from moee_index.errors import MisuseError
from moee_index.index import Index
from moee_index.types import Chunking, Document, Embeddings, EncoderSpec, FloatArray, Span, joined

# id, text, metadata, and raw rows of HS and RW.
Held = list[tuple[str, str, str, bytes, bytes]]
HS_DIM, RW_DIM = 24, 12


def fake_spec(**changes: object) -> EncoderSpec:
    spec = EncoderSpec(
        model="fake",
        path="/nowhere/fake",
        revision=None,
        fingerprint="f" * 64,
        bits=32,
        double_quant=False,
        prompt="none",
        query_prompt="none",
        rw="logits",
        pooling="last",
        max_tokens=32,
        hs_dim=HS_DIM,
        rw_dim=RW_DIM,
    )
    return replace(spec, **changes)  # type: ignore[arg-type]


@cache
def word_vector(word: str, dim: int) -> FloatArray:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
    return np.random.default_rng(seed).standard_normal(dim).astype(np.float32)


def word_offsets(text: str) -> npt.NDArray[np.int64]:
    """Characters [start, end) of each word between blanks."""
    found = [word.span() for word in re.finditer(r"\S+", text)]
    return np.array(found, dtype=np.int64).reshape(-1, 2)


@dataclass
class FakePlan:
    encoder: FakeEncoder
    texts: list[str]
    batches: list[list[int]]
    tokens: int
    truncated: list[bool]

    def encode(self, batch: int) -> Embeddings:
        time.sleep(self.encoder.seconds_per_batch)
        self.encoder.calls.append(batch)
        if self.encoder.on_batch is not None:
            self.encoder.on_batch(len(self.encoder.calls))
        return self.encoder.vectors([self.texts[i] for i in self.batches[batch]])


@dataclass
class FakeEncoder:
    """Batches hold `batch_tokens` words; `on_batch(n)` is called before the n-th is embedded."""

    spec: EncoderSpec = field(default_factory=fake_spec)
    batch_tokens: int = 20
    seconds_per_batch: float = 0.0
    on_batch: Callable[[int], None] | None = None
    calls: list[int] = field(default_factory=list)

    def with_batch_tokens(self, batch_tokens: int) -> FakeEncoder:
        return replace(self, batch_tokens=batch_tokens)

    def plan(self, texts: Sequence[str], *, query: bool = False) -> FakePlan:
        lengths = [min(len(text.split()), self.spec.max_tokens) for text in texts]
        truncated = [len(text.split()) > self.spec.max_tokens for text in texts]
        same: dict[str, list[int]] = {}
        for position, text in enumerate(texts):
            same.setdefault(text, []).append(position)
        batches: list[list[int]] = []
        filled = self.batch_tokens + 1
        for text in sorted(same, key=lambda text: (lengths[same[text][0]], same[text][0])):
            length = lengths[same[text][0]]
            if filled + length > self.batch_tokens:
                batches.append([])
                filled = 0
            batches[-1].extend(same[text])
            filled += length
        return FakePlan(self, list(texts), batches, sum(lengths), truncated)

    def encode(self, texts: Sequence[str], *, query: bool = False) -> Embeddings:
        return self.vectors(texts)

    def passages(
        self, documents: Sequence[tuple[str, str]], chunking: Chunking
    ) -> list[list[Span]]:
        """Tokens are the words between blanks, and there is no template."""
        if chunking.size > self.spec.max_tokens:
            raise MisuseError(f"--chunk {chunking} is over --max-tokens {self.spec.max_tokens}")
        return [
            divide(title, text, word_offsets(joined(title, text)), chunking)
            for title, text in documents
        ]

    def vectors(self, texts: Sequence[str]) -> Embeddings:
        hs = np.zeros((len(texts), self.spec.hs_dim), dtype=np.float32)
        rw = np.zeros((len(texts), self.spec.rw_dim), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in text.split()[: self.spec.max_tokens]:
                hs[row] += word_vector(word, self.spec.hs_dim)
                rw[row] += word_vector("rw" + word, self.spec.rw_dim)
        return Embeddings(hs, rw)


@dataclass(frozen=True)
class FakeRecipe:
    """How another process loads a FakeEncoder. dies_at: the batch before which the process is gone,
    if the file `alive` is there, which is then removed."""

    batch_tokens: int = 20
    seconds_per_batch: float = 0.0
    spec_changes: tuple[tuple[str, object], ...] = ()
    dies_at: int | None = None
    alive: Path | None = None
    last_words: str = ""

    def load(
        self, *, place: int, threads: int | None, notify: Callable[[str], None]
    ) -> FakeEncoder:
        embed_nothing()
        notify(f"a fake encoder with {threads} threads")
        return FakeEncoder(
            fake_spec(**dict(self.spec_changes)),
            self.batch_tokens,
            self.seconds_per_batch,
            self._on_batch if self.dies_at is not None else None,
        )

    def _on_batch(self, number: int) -> None:
        if number == self.dies_at and (self.alive is None or self.alive.exists()):
            if self.alive is not None:
                self.alive.unlink()
            print(self.last_words, file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)


class GivenEncoder(FakeEncoder):
    """Embeds the text "7" as row 7 of given embeddings, for tests that need exact vectors."""

    def __init__(self, given: Embeddings) -> None:
        spec = fake_spec(hs_dim=given.hs.shape[1], rw_dim=given.rw.shape[1])
        super().__init__(spec=spec, batch_tokens=50)
        self.given = given

    def vectors(self, texts: Sequence[str]) -> Embeddings:
        rows = [int(text) for text in texts]
        return Embeddings(self.given.hs[rows], self.given.rw[rows])


def held(directory: Path) -> Held:
    """What an index holds, in its order: id, text, metadata and raw rows of each document."""
    with Index.open(directory) as index:
        return [
            (
                document.id,
                document.text,
                json.dumps(document.metadata, sort_keys=True),
                rows.hs.tobytes(),
                rows.rw.tobytes(),
            )
            for document, rows in index.in_order()
        ]


def expected_of(
    documents: Iterable[Document],
    chunk: str | None = None,
    encoder: FakeEncoder | None = None,
) -> Held:
    """As `held`, of an index that holds these documents in this order."""
    encoder, found = encoder or FakeEncoder(), []
    for document in documents:
        spans = [(0, len(document.text))]
        if chunk is not None:
            spans = encoder.passages([(document.title, document.text)], Chunking.parse(chunk))[0]
        rows = encoder.vectors([document.content_of(span) for span in spans])
        metadata = json.dumps(document.metadata, sort_keys=True)
        found.append((document.id, document.text, metadata, rows.hs.tobytes(), rows.rw.tobytes()))
    return found
