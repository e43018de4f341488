"""The scores of one candidate list, by vectors, by words or by both.

Nothing is embedded here; which lists there are is left to `lists`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moee_index.errors import MisuseError
from moee_index.fusion import (
    Method,
    Scores,
    Standardize,
    Standardizer,
    check_search,
    choose_standardize,
    known,
    score,
    top_k,
    unit_vectors,
)
from moee_index.readers.candidates import CandidateList
from moee_index.reranking.stored import WordWeights
from moee_index.types import Embeddings, Hit, Notify, WordMatch


@dataclass(frozen=True)
class ListRows:
    """A candidate list; rows: of a run, the row in the index of each candidate's passage."""

    asked: CandidateList
    rows: Sequence[int] = ()


@dataclass
class Scoring:
    """Checked options of one reranking, and whether a note on standardising was shown."""

    method: Method
    alpha: float | None
    k: int | None
    standardize: Standardize | None
    standardizer: Standardizer | None
    tell: Notify | None
    words: WordWeights | None

    @classmethod
    def of(
        cls,
        method: Method,
        alpha: float | None,
        k: int | None,
        standardize: Standardize | None,
        standardizer: Standardizer | None,
        tell: Notify | None,
        default_alpha: float,
        words: WordWeights | None,
    ) -> Scoring:
        weight = check_search(method, alpha, 1 if k is None else k, default_alpha=default_alpha)
        frozen: object = standardizer
        if frozen is not None and not isinstance(frozen, Standardizer):
            kind = type(frozen).__name__
            raise MisuseError(
                f"the standardizer is of type {kind}; give an index's, or leave it out"
            )
        if standardize is not None:
            choose_standardize(0, standardize)
            if standardizer is not None:
                raise MisuseError(
                    f"standardize is {standardize!r}, but a frozen standardizer is given; "
                    "leave one of them out"
                )
        return cls(method, weight, k, standardize, standardizer, tell, words)

    @property
    def words_alone(self) -> bool:
        """Whether no vector is looked at."""
        return self.words is not None and self.words.weight == 1

    def hits(self, each: ListRows, vectors: tuple[Embeddings, Embeddings] | None) -> list[Hit]:
        """The hits of a list that is not empty. vectors: raw, of its query and its candidates; None
        where words alone count."""
        documents = each.asked.candidates
        matches = self._matches(each)
        scores = self._scores(vectors, matches)
        order = top_k(scores.score, len(documents))
        # Of a document's passages the best one counts.
        first: dict[str, int] = {}
        for row in order:
            first.setdefault(documents[row].id, int(row))
        best = list(first.values())[: self.k]
        return [
            Hit(
                rank=rank,
                id=documents[row].id,
                score=float(scores.score[row]),
                hs=known(scores.hs[row]),
                rw=known(scores.rw[row]),
                text=documents[row].text,
                metadata=documents[row].metadata,
                **({} if matches is None else matches[row].fields()),
            )
            for rank, row in enumerate(best, 1)
        ]

    def _matches(self, each: ListRows) -> Sequence[WordMatch] | None:
        """What each candidate owes to words; None where these do not count."""
        if self.words is None:
            return None
        query = self.words.query(each.asked.query)
        if each.rows:
            return query.of_rows(each.rows)
        return query.of_texts([document.content for document in each.asked.candidates])

    def _scores(
        self,
        vectors: tuple[Embeddings, Embeddings] | None,
        matches: Sequence[WordMatch] | None,
    ) -> Scores:
        shares = np.array([match.share for match in matches or ()])
        if vectors is None:
            unknown = np.full(len(shares), math.nan, dtype=np.float32)
            return Scores(shares.astype(np.float32), unknown, unknown)
        query, rows = vectors
        frozen = self.standardizer or self._fitted(rows)
        words = None if self.words is None else (self.words.weight, shares)
        return score(
            unit_vectors(query, frozen), unit_vectors(rows, frozen), self.method, self.alpha, words
        )

    def _fitted(self, rows: Embeddings) -> Standardizer:
        which, reason = choose_standardize(len(rows), self.standardize)
        if self.tell is not None and self.standardize is None and which == "none":
            self.tell(
                f"nothing is standardised: {reason}; --standardize both standardises regardless"
            )
            self.tell = None
        fitted = Standardizer.fit(rows, which)
        if self.tell is not None and (why := fitted.not_standardized(len(rows))):
            self.tell(f"standardize {fitted.which}: {why}")
            self.tell = None
        return fitted
