"""What a build would cost: every text is tokenized and a sample embedded. Writes nothing."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from moee_index.token_weights import TokenCounts
from moee_index.types import (
    WINDOW_CHARACTERS,
    Chunking,
    Document,
    EncodingPlan,
    TextEncoder,
    filled,
    one,
)

_WINDOW = 1024
_SAMPLED_BATCHES = 2


@dataclass(frozen=True)
class Estimate:
    """Counts are exact, seconds are measured on a sample of batches; bytes are the index's,
    documents included."""

    documents: int
    skipped: int
    truncated: int
    tokens: int
    tokens_per_second: float
    seconds: float
    bytes: int

    def as_json(self) -> dict[str, Any]:
        """The fields as they are."""
        return asdict(self)


def estimate(
    documents: Iterable[Document],
    encoder: TextEncoder,
    *,
    store: str = "float32",
    chunk: Chunking | None = None,
) -> Estimate:
    """Tokenise a corpus and embed two of its batches.

    Equal texts further apart than a window of 1024 documents are counted twice, though a build
    embeds them once.
    """
    spec = encoder.spec
    read = skipped = truncated = tokens = text_bytes = rows = 0
    rate = 0.0
    for window in filled(
        documents, (one, _WINDOW), (lambda document: len(document.text), WINDOW_CHARACTERS)
    ):
        read += len(window)
        taken = [document for document in window if document.content.strip()]
        skipped += len(window) - len(taken)
        text_bytes += sum(len(document.content.encode()) for document in taken)
        texts = _contents(taken, encoder, chunk)
        rows += len(texts)
        if not texts:
            continue
        plan = encoder.plan(texts)
        tokens += plan.tokens
        truncated += sum(plan.truncated)
        rate = rate or _measured_rate(encoder, texts, plan)
    count = read - skipped
    raw = 4 if store == "float32" else 2
    return Estimate(
        documents=count,
        skipped=skipped,
        truncated=truncated,
        tokens=tokens,
        tokens_per_second=rate,
        seconds=tokens / rate if rate else 0.0,
        # raw rows, float16 codes, norms, checksums, the text twice over for SQLite's own pages, and
        # postings, which take about as much as the text
        bytes=rows * ((spec.hs_dim + spec.rw_dim) * (raw + 2) + 16) + 3 * text_bytes,
    )


def _contents(documents: list[Document], encoder: TextEncoder, chunk: Chunking | None) -> list[str]:
    """What would be embedded: a text for each document, or for each of its passages."""
    if chunk is None or not documents:
        return [document.content for document in documents]
    spans = encoder.passages([(document.title, document.text) for document in documents], chunk)
    return [
        document.content_of(span)
        for document, passages in zip(documents, spans, strict=True)
        for span in passages
    ]


def _measured_rate(encoder: TextEncoder, texts: list[str], plan: EncodingPlan) -> float:
    if encoder.spec.lacks_token_weights:  # any will do: they change nothing of the cost
        counts = TokenCounts()
        encoder.count_tokens(texts, counts)
        encoder = encoder.with_token_weights(counts.weights())
    sample = _spread(len(plan.batches), _SAMPLED_BATCHES)
    counted = 0
    seconds = 0.0
    for number in sample:
        part = encoder.plan([texts[position] for position in plan.batches[number]])
        for batch in range(len(part.batches)):
            started = time.perf_counter()
            part.encode(batch)
            seconds += time.perf_counter() - started
        counted += part.tokens
    return counted / max(seconds, 1e-9)


def _spread(count: int, wanted: int) -> Iterator[int]:
    """Up to `wanted` numbers below `count`, evenly spread, the middle of each share."""
    shares = min(count, wanted)
    return iter(sorted({(2 * share + 1) * count // (2 * shares) for share in range(shares)}))
