"""A small deterministic encoder for tests of code that needs one: words hashed into vectors.

Equal texts get equal vectors, texts that share words get similar ones. Rounding depends on the
batch as little as a real encoder's in float32: not at all.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from moee_index.embeddings import Embeddings, EncoderSpec, FloatArray

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


def word_vector(word: str, dim: int) -> FloatArray:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
    return np.random.default_rng(seed).standard_normal(dim).astype(np.float32)


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
    batch_tokens: int = 40
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

    def vectors(self, texts: Sequence[str]) -> Embeddings:
        hs = np.zeros((len(texts), self.spec.hs_dim), dtype=np.float32)
        rw = np.zeros((len(texts), self.spec.rw_dim), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in text.split()[: self.spec.max_tokens]:
                hs[row] += word_vector(word, self.spec.hs_dim)
                rw[row] += word_vector("rw" + word, self.spec.rw_dim)
        return Embeddings(hs, rw)


class GivenEncoder(FakeEncoder):
    """Embeds the text "7" as row 7 of given embeddings, for tests that need exact vectors."""

    def __init__(self, given: Embeddings) -> None:
        spec = fake_spec(hs_dim=given.hs.shape[1], rw_dim=given.rw.shape[1])
        super().__init__(spec=spec, batch_tokens=50)
        self.given = given

    def vectors(self, texts: Sequence[str]) -> Embeddings:
        rows = [int(text) for text in texts]
        return Embeddings(self.given.hs[rows], self.given.rw[rows])
