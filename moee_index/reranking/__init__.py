"""Reranking: order given texts for a query, with or without an index, which words need.

Vectors are standardized by the frozen standardizer where there is an index, else by one fitted over
the candidates of the current query (DESIGN, maths 5). Files are read by `readers`.

Scores are those of fusion.score: float64 arithmetic, rounded once, whatever the number of
candidates; equal scores stay in candidate order. Where words alone count nothing is embedded, and
a candidate without a word of the query scores 0.
"""

from __future__ import annotations

from moee_index.reranking.lists import (
    BLOCK,
    Reranked,
    check_for_run,
    rerank,
    rerank_lists,
    rerank_run,
)
from moee_index.reranking.stored import QueryWords, StoredText, StoredTexts, WordWeights

__all__ = [
    "BLOCK",
    "QueryWords",
    "Reranked",
    "StoredText",
    "StoredTexts",
    "WordWeights",
    "check_for_run",
    "rerank",
    "rerank_lists",
    "rerank_run",
]
