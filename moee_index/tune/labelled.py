"""Choose α, the weight of RW in `sum`, for one index by judged queries.

Works on an opened `Index` by its public methods. Choosing without labels is in `unlabelled`; the
choice is saved by `index.save_alpha`.

α maximises nDCG@10 on one half of the queries; the other half, which had no part in the choice,
measures the gain.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from moee_index.errors import CorpusError, MisuseError, counted
from moee_index.fusion import Float64Array, Method
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

Setting = tuple[Method, float | None]
T = TypeVar("T")


@dataclass(frozen=True)
class Point:
    """The objective's value at one α."""

    alpha: float
    value: float


@dataclass(frozen=True)
class HeldOut:
    """Mean nDCG@10, 0 to 1, on the queries that α was not chosen on.

    chosen, current: `sum` at the chosen α and at the index's; hs, rw: one part alone. gain: chosen
    − current, with a 95 % percentile interval low…high of a bootstrap over queries (paired, 10,000
    resamples).
    """

    queries: int
    chosen: float
    current: float
    hs: float
    rw: float
    gain: float
    low: float
    high: float


@dataclass(frozen=True)
class Tuning:
    """An α and what it rests on.

    previous: the index's α. curve: the objective over α, ascending; with labels on the choosing
    half alone. queries: those with a relevant judgement, both halves; 0 without labels. documents:
    of the index that were looked at: all of them with labels, else the sample. pairs: of the
    sample; 0 with labels.
    """

    alpha: float
    previous: float
    objective: Literal["ndcg@10", "spearman"]
    curve: tuple[Point, ...]
    held_out: HeldOut | None
    queries: int
    documents: int
    pairs: int = 0

    def as_json(self) -> dict[str, Any]:
        """The fields of `tune --json` but for `index` and `saved`."""
        fields = asdict(self)
        del fields["pairs"]
        return fields


def best(curve: Sequence[Point]) -> Point:
    """The highest point; among equal ones the nearest to α = 1, then the smaller α."""
    top = max(point.value for point in curve)
    equal = [point for point in curve if point.value >= top - EQUAL]
    return min(equal, key=lambda point: (abs(point.alpha - DEFAULT), point.alpha))


@dataclass(frozen=True)
class Trial:
    """Judged queries in two halves: one to choose α on, one to measure the choice."""

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
    """The α of `ALPHAS` with the highest mean nDCG@10 on one half of the queries.

    Each α is a search of its own, so every value is that of the index's own answers; a query is
    embedded once. nDCG is trec_eval's, as of the run of `query --trec -k 10 --alpha α`.

    Among equal values the α nearest to 1.0 is taken, the default of the paper's code and of this
    program: what the queries do not distinguish is no reason to leave it. (Not the one nearest to
    the index's α: then what was saved before would decide.) Of two equally near ones the smaller.

    notify: whether the gain on the other half is within noise.
    """
    meter = _Meter(index, encoder, trial, progress)
    measured = meter.measure(trial.choosing, [("sum", alpha) for alpha in ALPHAS])
    curve = tuple(Point(*pair) for pair in zip(ALPHAS, measured.mean(axis=0).tolist(), strict=True))
    chosen, previous = best(curve).alpha, index.alpha
    held_out = _check(meter, trial.held_out, chosen, previous)
    _tell_gain(held_out, chosen, previous, notify or ignore)
    queries = len(trial.choosing) + len(trial.held_out)
    return Tuning(chosen, previous, "ndcg@10", curve, held_out, queries, len(index))


def _check(meter: _Meter, queries: Sequence[Query], chosen: float, previous: float) -> HeldOut:
    """What the chosen α is worth on the held-out queries."""
    settings: list[Setting] = [("sum", chosen), ("sum", previous), ("hs", None), ("rw", None)]
    values = meter.measure(queries, settings)
    gains = values[:, 0] - values[:, 1]
    low, high = bootstrap_interval(gains)
    at_chosen, at_current, hs, rw = values.mean(axis=0).tolist()
    return HeldOut(
        queries=len(queries),
        chosen=at_chosen,
        current=at_current,
        hs=hs,
        rw=rw,
        gain=float(gains.mean()),
        low=low,
        high=high,
    )


def _tell_gain(held_out: HeldOut, chosen: float, previous: float, tell: Notify) -> None:
    if chosen == previous:
        tell(f"the index's α is {previous:g} already: there is no gain to report")
    elif held_out.high < 0:
        tell(f"warning: α {chosen:g} does worse than {previous:g} on the held-out half")
    elif held_out.low <= 0:
        tell(
            "warning: the gain is within noise: its 95 % interval on the held-out half, "
            f"{held_out.low:+.4f} to {held_out.high:+.4f}, includes 0"
        )


class _Meter:
    """Measures queries under settings (method, α), a block of queries at a time."""

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
            embeddings = self._encoder.encode([query.text for query in block], query=True)
            for column, (method, alpha) in enumerate(settings):
                answers = self._index.search_embeddings(
                    embeddings, DEPTH, method=method, alpha=alpha
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
            "choose an α"
        )


def digest(identifier: str) -> bytes:
    """Hash that orders ids without bias and identically on every machine."""
    return hashlib.sha256(identifier.encode()).digest()
