"""The measures of ranked lists, as trec_eval computes them: nDCG@k, MAP, MRR.

Knows scores and judgements. Refuses to know files, models and where a run came from.

The conventions are trec_eval's (and so pytrec_eval's, BEIR's and MTEB's):
- documents are ordered by falling score alone; equal scores by falling document id, compared as
  bytes. The rank written in a run file is not looked at.
- a score is a 32-bit float, so scores that differ in float64 only are equal.
- a query counts when it has judgements and an entry in the run (an empty one gives 0). Pass
  `complete=True` to count a judged query that is missing from the run as 0 too.
- nDCG: gain is the relevance itself (not 2^rel - 1; the two agree on binary judgements), the
  discount log2(rank + 1), the ideal order takes all judged documents. Relevance below 0 gains 0.
- MAP and MRR: relevant is a relevance of at least 1; MAP divides by all relevant documents.
- queries without any relevant document score 0 and count, as in trec_eval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

Qrels = Mapping[str, Mapping[str, int]]
Run = Mapping[str, Mapping[str, float]]


def ranked(scores: Mapping[str, float]) -> list[str]:
    """Document ids in trec_eval's order: score (float32) falling, then id falling."""
    return sorted(
        scores, key=lambda document: (np.float32(scores[document]), document.encode()), reverse=True
    )


def ndcg(qrels: Qrels, run: Run, k: int = 10, *, complete: bool = False) -> float:
    """Mean nDCG@k, from 0 to 1 (Järvelin & Kekäläinen 2002, in trec_eval's ndcg_cut form)."""

    return _mean(qrels, run, lambda judged, order: _ndcg(judged, order, k), complete)


def query_ndcg(judged: Mapping[str, int], scores: Mapping[str, float], k: int = 10) -> float:
    """nDCG@k of one query, from 0 to 1: what `ndcg` takes the mean of."""
    return _ndcg(judged, ranked(scores), k)


def average_precision(
    qrels: Qrels, run: Run, k: int | None = None, *, complete: bool = False
) -> float:
    """Mean average precision (MAP), from 0 to 1; with k only the first k documents are seen."""

    def one(judged: Mapping[str, int], order: Sequence[str]) -> float:
        relevant = sum(gain > 0 for gain in judged.values())
        hits, total = 0, 0.0
        for rank, document in enumerate(order[:k], 1):
            if judged.get(document, 0) > 0:
                hits += 1
                total += hits / rank
        return total / relevant if relevant else 0.0

    return _mean(qrels, run, one, complete)


def reciprocal_rank(
    qrels: Qrels, run: Run, k: int | None = None, *, complete: bool = False
) -> float:
    """Mean of 1 / rank of the first relevant document (MRR), from 0 to 1."""

    def one(judged: Mapping[str, int], order: Sequence[str]) -> float:
        for rank, document in enumerate(order[:k], 1):
            if judged.get(document, 0) > 0:
                return 1 / rank
        return 0.0

    return _mean(qrels, run, one, complete)


def _ndcg(judged: Mapping[str, int], order: Sequence[str], k: int) -> float:
    ideal = sorted((max(gain, 0) for gain in judged.values()), reverse=True)
    best = _dcg(ideal[:k])
    return _dcg([max(judged.get(d, 0), 0) for d in order[:k]]) / best if best else 0.0


def _dcg(gains: Sequence[int]) -> float:
    return math.fsum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, 1))


def _mean(
    qrels: Qrels,
    run: Run,
    one: Callable[[Mapping[str, int], Sequence[str]], float],
    complete: bool,
) -> float:
    queries = [query for query in qrels if complete or query in run]
    if not queries:
        raise ValueError("no query is both judged and in the run: there is nothing to measure")
    return math.fsum(one(qrels[q], ranked(run.get(q, {}))) for q in queries) / len(queries)
