"""The seam between texts and vectors: what an encoder gives and what an index takes.

Knows numpy and what a passage is, nothing else: no model, no disk, no FAISS. `Encoder`
(encoder.py) fulfils `TextEncoder`; `index/`, `reranking.py` and the tests depend on this protocol
alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from moee_index.encode.chunking import Chunking, Span

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Embeddings:
    """HS and RW of n texts, raw: neither standardised nor normalised (paper, section 3).

    hs: float32 [n, d], last layer's hidden state after the final norm.
    rw: float32 [n, layers * experts], router outputs of the MoE layers in order.
    """

    hs: FloatArray
    rw: FloatArray

    def __len__(self) -> int:
        return len(self.hs)


@dataclass(frozen=True)
class EncoderSpec:
    """Everything that decides an embedding; it is stored in an index and compared by name.

    Two specs with equal `identity()` give the same vectors up to rounding. `model` and `path`
    only say where the model was found: another path with the same fingerprint is the same model.
    """

    model: str
    path: str
    revision: str | None
    fingerprint: str
    bits: int
    double_quant: bool
    prompt: str
    query_prompt: str
    rw: str
    pooling: str
    max_tokens: int
    hs_dim: int
    rw_dim: int

    def identity(self) -> dict[str, Any]:
        """The fields that must agree between an index and the encoder that queries it."""
        fields = asdict(self)
        for where in ("model", "path", "revision"):
            del fields[where]
        return fields


class EncodingPlan(Protocol):
    """The batches of one window of texts, planned from the texts and their order alone.

    Planning twice with the same encoder options and texts gives the same batches, so an
    interrupted build that plans again embeds the very same batches to the very same bytes.
    """

    @property
    def batches(self) -> Sequence[Sequence[int]]:
        """For each batch the positions (into the planned texts) that it fills, each exactly once
        over all batches; texts with equal token sequences share a batch and are computed once."""

    @property
    def tokens(self) -> int:
        """Real tokens that will be computed (duplicates counted once, padding not)."""

    @property
    def truncated(self) -> Sequence[bool]:
        """For each planned text, whether its end was cut to fit max_tokens."""

    def encode(self, batch: int) -> Embeddings:
        """Embed one batch; row i belongs to position `batches[batch][i]`."""


class TextEncoder(Protocol):
    """What index/, rerank and the bench need of an encoder."""

    @property
    def spec(self) -> EncoderSpec: ...

    @property
    def batch_tokens(self) -> int:
        """Token budget of a batch; part of the plan, so a resumed build keeps the first one's."""

    def with_batch_tokens(self, batch_tokens: int) -> TextEncoder:
        """The same encoder, sharing its model, that plans with another token budget."""

    def plan(self, texts: Sequence[str], *, query: bool = False) -> EncodingPlan:
        """Tokenise one window of texts and plan its batches."""

    def encode(self, texts: Sequence[str], *, query: bool = False) -> Embeddings:
        """Embed texts, in their order. `query=True` uses the query prompt."""

    def passages(
        self, documents: Sequence[tuple[str, str]], chunking: Chunking
    ) -> list[list[Span]]:
        """Spans of each document's text, at least one each, from (title, text) pairs: what is
        embedded of a passage is the title and its span joined by one blank.

        Raises MisuseError where passages of that size do not fit max_tokens.
        """
