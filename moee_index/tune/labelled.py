"""Choose α, the weight of RW in `sum`, and the weight of words for one index by judged queries.

Works on an opened `Index` by its public methods. Choosing without labels is in `unlabelled`; the
choice is saved by `index.save_weights`.

The two together maximise nDCG@10 on one half of the queries; the other half, which had no part in
the choice, measures the gain. Without postings words cannot weigh, and α is chosen alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from moee_index.errors import CorpusError, MisuseError, counted
from moee_index.fusion import Float64Array, Method
from moee_index.index.store.approximation import Measured
from moee_index.readers.queries import read_queries
from moee_index.readers.trec import Qrels, read_qrels
from moee_index.tune.metrics import query_ndcg
from moee_index.types import Notify, Progress, Query, TextEncoder, blocks, ignore

if TYPE_CHECKING:
    from moee_index.index import Index

# The paper's authors suggest {0.1 … 1.0}. 0 is HS alone, which any gain of RW has to beat. Above 1
# RW is the stronger part, as in the paper's rows without a prompt. The steps grow there because a
# ranking depends on the angle arctan(α): none is wider than 0.15 of its 1.57, and beyond 5 there
# is little but RW left, which is reported beside.
ALPHAS = (
    *(0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
    *(1.25, 1.5, 2.0, 3.0, 5.0),
)
DEFAULT = 1.0
# Weights of words, from vectors alone to words alone. Between them each is tried with every α.
WEIGHTS = tuple(step / 10 for step in range(11))
# Values of the objective closer than this are equal: what differs is rounding.
EQUAL = 1e-12

DEPTH = 10
# Queries embedded and searched together; what is kept of them is one number a setting.
BLOCK = 256
# Fewer queries (documents, without labels) than this are told to be few.
FEW = 20
DRAWS = 10_000
_SEED = 2025
_DRAWN = 1 << 20
_IDS = 512

T = TypeVar("T")


@dataclass(frozen=True)
class Setting:
    """How to search: method, α, and the weight of words."""

    method: Method
    alpha: float | None
    lexical: float = 0.0


@dataclass(frozen=True)
class Point:
    """The objective's value at one α."""

    alpha: float
    value: float


@dataclass(frozen=True)
class WeightPoint:
    """The objective's value at a weight of words and an α. At weight 1, where no α counts, it is
    that of the program."""

    lexical: float
    alpha: float
    value: float


@dataclass(frozen=True)
class HeldOut:
    """Mean nDCG@10, 0 to 1, on the queries that nothing was chosen on.

    chosen, current: `sum` at the chosen α and weight of words, and at the index's; hs, rw: one part
    alone. gain: chosen − current, with a 95 % percentile interval low…high of a bootstrap over
    queries (paired, 10,000 resamples). dense: `sum` without words at the α that is best so,
    dense_alpha; words: words alone; these are None in an index without postings.
    """

    queries: int
    chosen: float
    current: float
    hs: float
    rw: float
    gain: float
    low: float
    high: float
    dense: float | None = None
    dense_alpha: float | None = None
    words: float | None = None


@dataclass(frozen=True)
class Tuning:
    """An α and a weight of words, and what they rest on.

    previous: the index's α. curve: the objective over α, ascending; with labels on the choosing
    half alone, at the chosen weight of words. lexical: that weight; None where only α was chosen.
    previous_lexical: the index's. lexical_curve: the objective over it, each with its best α;
    empty where only α was chosen. queries: those with a relevant judgement, both halves; 0 without
    labels. documents: of the index that were looked at: all of them with labels, else the sample.
    pairs: of the sample; 0 with labels. recall: with labels, of an approximate index, the share of
    the ten best documents that it finds for the judged queries with what was chosen.
    """

    alpha: float
    previous: float
    objective: Literal["ndcg@10", "spearman"]
    curve: tuple[Point, ...]
    held_out: HeldOut | None
    queries: int
    documents: int
    pairs: int = 0
    lexical: float | None = None
    previous_lexical: float = 0.0
    lexical_curve: tuple[WeightPoint, ...] = ()
    recall: Measured | None = None

    def as_json(self) -> dict[str, Any]:
        """The fields of `tune --json` but for `index` and `saved`; `recall` only where it was
        measured."""
        fields = asdict(self)
        del fields["pairs"]
        if self.recall is None:
            del fields["recall"]
        return fields


def best(curve: Sequence[Point]) -> Point:
    """The highest point; among equal ones the nearest to α = 1, then the smaller α."""
    top = max(point.value for point in curve)
    equal = [point for point in curve if point.value >= top - EQUAL]
    return min(equal, key=lambda point: (abs(point.alpha - DEFAULT), point.alpha))


def best_weight(points: Sequence[WeightPoint]) -> WeightPoint:
    """The highest point; among equal ones the smallest weight of words, then as `best`."""
    top = max(point.value for point in points)
    equal = [point for point in points if point.value >= top - EQUAL]
    return min(equal, key=lambda p: (p.lexical, abs(p.alpha - DEFAULT), p.alpha))


@dataclass(frozen=True)
class Trial:
    """Judged queries in two halves: one to choose on, one to measure the choice."""

    choosing: tuple[Query, ...]
    held_out: tuple[Query, ...]
    qrels: Mapping[str, Mapping[str, int]]

    @classmethod
    def read(cls, index: Index, queries: str, qrels: str, notify: Notify | None = None) -> Trial:
        """As `split`, from files; it needs no model, so what is wrong with them shows early."""
        return cls.split(index, read_queries(queries), read_qrels(qrels), notify)

    @classmethod
    def split(
        cls,
        index: Index,
        queries: Iterable[Query],
        qrels: Qrels,
        notify: Notify | None = None,
    ) -> Trial:
        """The queries that have a relevant judgement (above 0), halved.

        They are put in the order of sha256 of their ids and cut in the middle, the odd one for
        choosing: the halves depend neither on the order of a file nor on a generator of random
        numbers. notify: what is left out, and which judgements cannot be met.

        Raises MisuseError for an index of under 3 documents, CorpusError where fewer than 2
        queries can be used or no relevant document is in the index.
        """
        check_size(index)
        tell = notify or ignore
        judged = _judged(queries, qrels, tell)
        used = {query.id: qrels[query.id] for query in judged}
        _check_documents(index, used, tell)
        middle = (len(judged) + 1) // 2
        held_out = len(judged) - middle
        if held_out < FEW:
            tell(
                f"warning: a half has only {counted(held_out, 'query', 'queries')} (fewer than "
                f"{FEW}); α and its gain may be chance"
            )
        return cls(tuple(judged[:middle]), tuple(judged[middle:]), used)


def _judged(queries: Iterable[Query], qrels: Qrels, tell: Notify) -> list[Query]:
    """The queries that have a relevant judgement, in the order of their digests."""
    relevant = {query for query, judged in qrels.items() if max(judged.values(), default=0) > 0}
    if not relevant:
        raise CorpusError("the qrels judge no document as relevant (above 0); check --qrels")
    judged, read = [], 0
    for query in queries:
        read += 1
        if query.id in relevant:
            judged.append(query)
    if len(judged) < 2:
        raise CorpusError(
            f"{len(judged)} of {read} queries have a relevant judgement, but at least 2 are needed "
            "(one to choose by, one to check); do --queries and --qrels belong together?"
        )
    tell(
        f"queries: {len(judged)} have a relevant judgement, of {read} read; "
        f"{len(relevant) - len(judged)} judged ones are not among them"
    )
    return sorted(judged, key=lambda query: digest(query.id))


def _check_documents(index: Index, qrels: Mapping[str, Mapping[str, int]], tell: Notify) -> None:
    """Tell how many judged documents the index lacks; the ideal ranking counts them all the same,
    as trec_eval's does."""
    judged = {document for documents in qrels.values() for document in documents}
    relevant = {
        document
        for documents in qrels.values()
        for document, relevance in documents.items()
        if relevance > 0
    }
    there: set[str] = set()
    for block in blocks(sorted(judged), _IDS):
        there.update(index.documents(block))
    if not relevant & there:
        raise CorpusError(
            f"none of the {len(relevant)} relevant documents in the qrels is in {index.directory}; "
            "do they belong to this corpus?"
        )
    if missing := len(judged - there):
        tell(
            f"qrels: {missing} of {len(judged)} judged documents are not in the index "
            f"({len(relevant - there)} of {len(relevant)} relevant ones); they count as misses"
        )


def tune_with_labels(
    index: Index,
    encoder: TextEncoder,
    trial: Trial,
    *,
    notify: Notify | None = None,
    progress: Progress | None = None,
) -> Tuning:
    """The α of `ALPHAS` and the weight of words, of `WEIGHTS` and the index's own, that have the
    highest mean nDCG@10 together on one half of the queries; α alone in an index without postings.

    Each pair is a search of its own, so every value is that of the index's own answers (of an
    approximate index those of all rows: what it misses is no matter of weights); a query is
    embedded once. nDCG is trec_eval's, as of the run of `query --trec -k 10 --alpha α --lexical W`.

    Among equal values the smallest weight of words is taken, then the α nearest to 1.0: the
    defaults of this program, α's that of the paper's code too. What the queries do not distinguish
    is no reason to leave them. (Not what is nearest to the index's: then what was saved before
    would decide.) Of two equally near ones the smaller.

    notify: whether the gain on the other half is within noise.
    """
    tell = notify or ignore
    has_words = index.manifest.language is not None
    if not has_words:
        tell(
            f"{index.directory} has no postings, so only α is chosen; moee-index reindex "
            f"{index.directory} --lexical writes them, for a weight of words beside it"
        )
    meter = _Meter(index, encoder, trial, progress)
    grid = _measured(meter, trial.choosing, {*WEIGHTS, index.lexical} if has_words else {0.0})
    chosen = best_weight(grid)
    curve = tuple(Point(p.alpha, p.value) for p in grid if p.lexical == chosen.lexical)
    by_weight = [
        best_weight([point for point in grid if point.lexical == weight])
        for weight in dict.fromkeys(point.lexical for point in grid)
    ]
    current = Setting("sum", index.alpha, index.lexical)
    settings = Setting("sum", chosen.alpha, chosen.lexical), current
    dense_alpha = by_weight[0].alpha if has_words else None
    held_out = _check(meter, trial.held_out, *settings, dense_alpha)
    _tell_gain(held_out, *settings, tell)
    recall = None
    if index.manifest.approximation is not None:
        recall = meter.recall([*trial.choosing, *trial.held_out], settings[0])
    return Tuning(
        alpha=chosen.alpha,
        previous=index.alpha,
        objective="ndcg@10",
        curve=curve,
        held_out=held_out,
        queries=len(trial.choosing) + len(trial.held_out),
        documents=len(index),
        lexical=chosen.lexical if has_words else None,
        previous_lexical=index.lexical,
        lexical_curve=tuple(by_weight) if has_words else (),
        recall=recall,
    )


def _measured(meter: _Meter, queries: Sequence[Query], weights: set[float]) -> list[WeightPoint]:
    """The objective at every pair of weight and α, ascending."""
    pairs = [
        (weight, alpha)
        for weight in sorted(weights)
        for alpha in (ALPHAS if weight < 1 else (DEFAULT,))
    ]
    measured = meter.measure(queries, [Setting("sum", alpha, weight) for weight, alpha in pairs])
    means = measured.mean(axis=0).tolist()
    return [WeightPoint(*pair, value) for pair, value in zip(pairs, means, strict=True)]


def _check(
    meter: _Meter,
    queries: Sequence[Query],
    chosen: Setting,
    current: Setting,
    dense_alpha: float | None,
) -> HeldOut:
    """What the choice is worth on the held-out queries. dense_alpha: the best α without words; None
    where there are none."""
    settings = [chosen, current, Setting("hs", None), Setting("rw", None)]
    if dense_alpha is not None:
        settings += [Setting("sum", dense_alpha), Setting("sum", DEFAULT, 1.0)]
    values = meter.measure(queries, settings)
    gains = values[:, 0] - values[:, 1]
    low, high = bootstrap_interval(gains)
    at_chosen, at_current, hs, rw, *others = values.mean(axis=0).tolist()
    return HeldOut(
        queries=len(queries),
        chosen=at_chosen,
        current=at_current,
        hs=hs,
        rw=rw,
        gain=float(gains.mean()),
        low=low,
        high=high,
        dense=others[0] if others else None,
        dense_alpha=dense_alpha,
        words=others[1] if others else None,
    )


def named(alpha: float | None, lexical: float | None) -> str:
    """For people: `α 0.5`, `α 0.5, words 0.4`."""
    words = f", words {lexical:g}" if lexical else ""
    return f"α {alpha:g}{words}"


def _tell_gain(held_out: HeldOut, chosen: Setting, current: Setting, tell: Notify) -> None:
    new, old = (named(setting.alpha, setting.lexical) for setting in (chosen, current))
    if chosen == current:
        tell(f"the index has {old} already: there is no gain to report")
    elif held_out.high < 0:
        tell(f"warning: {new} does worse than {old} on the held-out half")
    elif held_out.low <= 0:
        tell(
            "warning: the gain is within noise: its 95 % interval on the held-out half, "
            f"{held_out.low:+.4f} to {held_out.high:+.4f}, includes 0"
        )


class _Meter:
    """Measures queries under settings, a block of queries at a time."""

    def __init__(
        self, index: Index, encoder: TextEncoder, trial: Trial, progress: Progress | None
    ) -> None:
        self._index = index
        self._encoder = encoder
        self._qrels = trial.qrels
        self._total = len(trial.choosing) + len(trial.held_out)
        self._done = 0
        self._progress = progress

    def measure(self, queries: Sequence[Query], settings: Sequence[Setting]) -> Float64Array:
        """nDCG@10 of each query under each setting, float64 [queries, settings]."""
        values = np.empty((len(queries), len(settings)))
        row = 0
        for block in blocks(queries, BLOCK):
            texts = [query.text for query in block]
            embeddings = self._encoder.encode(texts, query=True)
            for column, setting in enumerate(settings):
                answers = self._index.search_embeddings(
                    embeddings, DEPTH, texts=texts, exact=True, **asdict(setting)
                )
                for offset, (query, hits) in enumerate(zip(block, answers, strict=True)):
                    scores = {hit.id: hit.score for hit in hits}
                    value = query_ndcg(self._qrels[query.id], scores, DEPTH)
                    values[row + offset, column] = value
            row += len(block)
            self._done += len(block)
            if self._progress is not None:
                self._progress("searching", self._done, self._total)
        return values

    def recall(self, queries: Sequence[Query], setting: Setting) -> Measured:
        """The share of the ten best documents that an approximate index finds."""
        shares: list[float] = []
        for block in blocks(queries, BLOCK):
            texts = [query.text for query in block]
            embeddings = self._encoder.encode(texts, query=True)
            exact, found = (
                self._index.search_embeddings(
                    embeddings, DEPTH, texts=texts, exact=every, **asdict(setting)
                )
                for every in (True, False)
            )
            for best, some in zip(exact, found, strict=True):
                there = {hit.id for hit in some}
                shares.append(sum(hit.id in there for hit in best) / max(1, len(best)))
        low, high = bootstrap_interval(np.array(shares))
        return Measured(
            f"{len(queries)} judged queries, {named(setting.alpha, setting.lexical)}",
            float(np.mean(shares)),
            (high - low) / 2,
        )


def bootstrap_interval(values: Float64Array) -> tuple[float, float]:
    """95 % percentile interval of the mean of values [n] over 10,000 resamples. Deterministic."""
    generator = np.random.default_rng(_SEED)
    count = len(values)
    means = np.empty(DRAWS)
    step = max(1, _DRAWN // count)
    for start in range(0, DRAWS, step):
        part = means[start : start + step]
        part[:] = values[generator.integers(0, count, size=(len(part), count))].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975)).tolist()
    return low, high


def check_size(index: Index) -> None:
    """Raises MisuseError for an index of under 3 documents."""
    if len(index) < 3:
        raise MisuseError(
            f"{index.directory} holds {counted(len(index), 'document')}; at least 3 are needed to "
            "choose weights"
        )


def digest(identifier: str) -> bytes:
    """Hash that orders ids without bias and identically on every machine."""
    return hashlib.sha256(identifier.encode()).digest()
