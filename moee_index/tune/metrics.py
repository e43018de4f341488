"""Measures of ranked lists by trec_eval (pytrec_eval): nDCG@k and MAP, as in BEIR and MTEB.

What trec_eval settles:
- documents are ordered by falling score alone; equal scores by falling document id, compared as
  bytes. The rank written in a run file is not looked at.
- a score is a 32-bit float, so scores that differ in float64 only are equal.
- nDCG: gain is the relevance itself (not 2^rel - 1; the two agree on binary judgements), the
  discount log2(rank + 1), the ideal order takes all judged documents. Relevance below 0 gains 0.
- MAP: relevant is a relevance of at least 1; it divides by all relevant documents.
- queries without any relevant document score 0 and count.
Settled here: a query counts when it has judgements and an entry in the run (an empty one gives 0).
Pass `complete=True` to count a judged query that is missing from the run as 0 too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from moee_index.errors import MisuseError

Qrels = Mapping[str, Mapping[str, int]]
Run = Mapping[str, Mapping[str, float]]

# trec_eval counts documents by relevance in an array: a larger one is slow, then wrong.
_MOST_RELEVANT = 10_000_000


def ndcg(qrels: Qrels, run: Run, k: int = 10, *, complete: bool = False) -> float:
    """Mean nDCG@k, from 0 to 1 (Järvelin & Kekäläinen 2002, in trec_eval's ndcg_cut form)."""
    return _mean(qrels, run, f"ndcg_cut.{k}", complete)


def query_ndcg(judged: Mapping[str, int], scores: Mapping[str, float], k: int = 10) -> float:
    """nDCG@k of one query, from 0 to 1: what `ndcg` takes the mean of."""
    return ndcg({"q": judged}, {"q": scores}, k)


def average_precision(
    qrels: Qrels, run: Run, k: int | None = None, *, complete: bool = False
) -> float:
    """Mean average precision (MAP), from 0 to 1; with k only the first k documents are seen."""
    return _mean(qrels, run, "map" if k is None else f"map_cut.{k}", complete)


def _mean(qrels: Qrels, run: Run, measure: str, complete: bool) -> float:
    import pytrec_eval

    queries = [query for query in qrels if complete or query in run]
    if not queries:
        raise ValueError("no query is both judged and in the run: there is nothing to measure")
    judged = {query: {d: int(gain) for d, gain in qrels[query].items()} for query in queries}
    highest = max((gain for gains in judged.values() for gain in gains.values()), default=0)
    if highest > _MOST_RELEVANT:
        raise MisuseError(f"a relevance of {highest} is above {_MOST_RELEVANT}; use smaller grades")
    # A query without judgements or answers scores 0; the library leaves out the former.
    scores = {query: {d: float(s) for d, s in run.get(query, {}).items()} for query in queries}
    results = pytrec_eval.RelevanceEvaluator(judged, {measure}).evaluate(scores)
    name = measure.replace(".", "_")
    return math.fsum(values[name] for values in results.values()) / len(queries)
