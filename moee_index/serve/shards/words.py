"""How much words weigh over all shards: counted once a version, and kept for the last queries."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from moee_index.index.lexical.bm25 import Bm25
from moee_index.index.lexical.matches import QueryWords
from moee_index.index.lexical.scores import QueryScores
from moee_index.index.lexical.statistics import Counts, Statistics, query_terms
from moee_index.index.lexical.words import Words
from moee_index.index.store.manifest import Manifest
from moee_index.serve.shards import wire
from moee_index.serve.shards.asking import Asking

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

# Terms and queries that are kept, of some hundred bytes each.
_TERMS, _QUERIES = 8192, 2048


class Last(Generic[K, V]):
    """The values that were asked for last; used from any thread."""

    def __init__(self, most: int) -> None:
        self._values: OrderedDict[K, V] = OrderedDict()
        self._most = most
        self._lock = threading.Lock()

    def of(self, keys: Iterable[K]) -> dict[K, V]:
        """Those that are known of some keys."""
        with self._lock:
            found = {key: self._values[key] for key in keys if key in self._values}
            for key in found:
                self._values.move_to_end(key)
        return found

    def keep(self, values: Mapping[K, V]) -> None:
        with self._lock:
            self._values.update(values)
            while len(self._values) > self._most:
                self._values.popitem(last=False)


@dataclass(frozen=True)
class Term:
    """In how many rows of the index a term is: of those that count, and of all."""

    frequency: int
    holding: int


class SpreadWords:
    """The words of one version. What some shards have not told is not kept."""

    def __init__(self, words: Words) -> None:
        self.words = words
        self._totals: tuple[int, int] | None = None
        self._terms: Last[str, Term] = Last(_TERMS)
        self._largest: Last[tuple[str, Bm25], float] = Last(_QUERIES)

    def counts(self, asking: Asking, texts: Sequence[str]) -> Counts:
        """What the words of queries weigh by. Raises as `Asking.all`."""
        terms = list(
            dict.fromkeys(term for text in texts for term in query_terms(self.words, text))
        )
        known, totals = self._look_up(asking, terms)
        return Counts(*totals, {term: known[term].frequency for term in terms})

    def rows_with(self, asking: Asking, terms: Iterable[str]) -> dict[str, int]:
        """How many rows hold each term, those that do not count included."""
        known, _ = self._look_up(asking, list(terms))
        return {term: each.holding for term, each in known.items()}

    def _look_up(
        self, asking: Asking, terms: Sequence[str]
    ) -> tuple[dict[str, Term], tuple[int, int]]:
        """The terms, and how many rows and words there are."""
        known, totals = self._terms.of(terms), self._totals
        unknown = [term for term in terms if term not in known]
        if not unknown and totals is not None:
            return known, totals
        told = asking.all("/words", {"terms": unknown})
        counts = Counts.summed(map(wire.counts_from, told))
        found = {
            term: Term(counts.frequencies[term], sum(each["holding"][term] for each in told))
            for term in unknown
        }
        totals = counts.rows, counts.words
        if not asking.missing:
            self._totals = totals
            self._terms.keep(found)
        return {**known, **found}, totals

    def largest(
        self, asking: Asking, texts: Sequence[str], counts: Counts, parameters: Bm25
    ) -> list[float]:
        """Each query's largest BM25 of any row that counts. Raises as `Asking.all`."""
        known = self._largest.of((text, parameters) for text in texts)
        unknown = [text for text in dict.fromkeys(texts) if (text, parameters) not in known]
        if unknown:
            body = {"texts": unknown, "counts": wire.counts_json(counts)}
            told = asking.all("/largest", {**body, **wire.bm25_json(parameters)})
            each = zip(*(answer["largest"] for answer in told), strict=True)
            found = {
                (text, parameters): max(values) for text, values in zip(unknown, each, strict=True)
            }
            if not asking.missing:
                self._largest.keep(found)
            known |= found
        return [known[text, parameters] for text in texts]


@dataclass(frozen=True)
class SpreadTexts:
    """What snippets go by: see `snippets.HoldsTexts`."""

    manifest: Manifest
    spread: SpreadWords
    asking: Asking

    @property
    def words(self) -> Words:
        return self.spread.words

    def rows_with(self, terms: Collection[str]) -> dict[str, int]:
        return self.spread.rows_with(self.asking, terms)


@dataclass(frozen=True)
class SpreadWeights:
    """Weighs words by the statistics of all shards. weight: of words in a score, above 0."""

    weight: float
    spread: SpreadWords
    asking: Asking
    bm25: Bm25

    def query(self, text: str) -> QueryWords:
        counts = self.spread.counts(self.asking, [text])
        (largest,) = self.spread.largest(self.asking, [text], counts, self.bm25)
        statistics = Statistics([], self.spread.words, counts)
        scores = QueryScores(text, statistics, self.bm25, largest)
        return QueryWords(scores, statistics, np.zeros(0, dtype=np.int64), nullcontext)
