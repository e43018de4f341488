"""What a search or a reranking answers with. Knows nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Hit:
    """One document of an answer.

    rank: from 1. score: fused by the method asked for. hs, rw: sim_HS and sim_RW, cosines after
    standardising, in [-1, 1]. text: the document's text, of a document that was split that of its
    best passage; its title is in metadata. passage: which one, `<id>#<n>`; None where nothing was
    split.
    """

    rank: int
    id: str
    score: float
    hs: float
    rw: float
    text: str
    metadata: dict[str, Any]
    passage: str | None = None
