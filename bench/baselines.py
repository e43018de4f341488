"""Two word-counting baselines beside which every figure of a model stands: BM25 and TF-IDF.

Knows texts and words. Refuses to know files, models and measures. Fitting makes an inverted list
for every word (documents, weights); a query adds up the lists of its words.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Baseline = Literal["bm25", "tfidf"]
BASELINES: tuple[Baseline, ...] = ("bm25", "tfidf")

# Lucene's English stop words.
_WORD = re.compile(r"[^\W_]+")
STOP_WORDS = frozenset(
    _WORD.findall(
        "a an and are as at be but by for if in into is it no not of on or such that the their "
        "then there these they this to was will with"
    )
)


def words(text: str) -> list[str]:
    """Lower-case words without stop words, plural endings removed (Harman's S stemmer, 1991)."""
    return [_singular(word) for word in _WORD.findall(text.lower()) if word not in STOP_WORDS]


def _singular(word: str) -> str:
    if len(word) < 4 or not word.endswith("s"):
        return word
    if word.endswith("ies") and not word.endswith(("eies", "aies")):
        return word[:-3] + "y"
    if word.endswith("es") and not word.endswith(("aes", "ees", "oes")):
        return word[:-1]
    return word if word.endswith(("us", "ss")) else word[:-1]


@dataclass(frozen=True)
class Lexical:
    """A fitted baseline over n documents.

    idf: float64 [words]. The documents that hold word w, and w's weight in each, are
    `documents[start[w]:start[w + 1]]` and `weights[...]`.
    """

    kind: Baseline
    n: int
    vocabulary: dict[str, int]
    idf: npt.NDArray[np.float64]
    start: npt.NDArray[np.int64]
    documents: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float64]

    def scores(self, query: str) -> npt.NDArray[np.float64]:
        """float64 [n]; 0 where no word is shared."""
        scores = np.zeros(self.n)
        counts = Counter(w for w in words(query) if w in self.vocabulary)
        ids = [self.vocabulary[word] for word in counts]
        factors = np.array(list(counts.values()), dtype=np.float64)
        if self.kind == "tfidf" and ids:
            factors = (1 + np.log(factors)) * self.idf[ids]
            factors /= np.linalg.norm(factors)
        for word, factor in zip(ids, factors, strict=True):
            span = slice(self.start[word], self.start[word + 1])
            scores[self.documents[span]] += factor * self.weights[span]
        return scores

    def top(self, query: str, k: int) -> list[tuple[int, float]]:
        """(document position, score) of at most k documents that share a word, best first.

        Equal scores stand in document order.
        """
        scores = self.scores(query)
        order = np.argsort(-scores, kind="stable")[:k]
        return [(int(i), float(scores[i])) for i in order if scores[i] > 0]


def fit(kind: Baseline, texts: Sequence[str], *, k1: float = 1.2, b: float = 0.75) -> Lexical:
    """Fit a baseline on the texts that will be ranked.

    bm25: Robertson & Zaragoza 2009 with Lucene's idf, ln(1 + (N - df + 0.5) / (df + 0.5)), and
    its usual k1 and b. tfidf: cosine of (1 + ln tf) · (ln((1 + N) / (1 + df)) + 1), scikit-learn's
    TfidfVectorizer(sublinear_tf=True); a query's words that no document holds are left out.
    """
    if kind not in BASELINES:
        raise ValueError(f"{kind!r} is no baseline; there are {', '.join(BASELINES)}")
    n = len(texts)
    vocabulary, word, document, tf = _postings(texts)
    df = np.bincount(word, minlength=len(vocabulary))
    if kind == "tfidf":
        idf = np.log((1 + n) / (1 + df)) + 1
        weights = (1 + np.log(tf)) * idf[word]
        weights /= np.sqrt(np.bincount(document, weights=weights**2, minlength=n))[document]
    else:
        idf = np.log1p((n - df + 0.5) / (df + 0.5))
        lengths = np.bincount(document, weights=tf, minlength=n)
        norm = k1 * (1 - b + b * lengths / max(lengths.sum() / max(n, 1), 1e-9))
        weights = idf[word] * tf * (k1 + 1) / (tf + norm[document])
    start = np.concatenate([[0], np.cumsum(df)]).astype(np.int64)
    return Lexical(kind, n, vocabulary, idf, start, document, weights)


def _postings(
    texts: Sequence[str],
) -> tuple[dict[str, int], npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The vocabulary, and for each pair that occurs: word, document, count; sorted by word."""
    vocabulary: dict[str, int] = {}
    tokens: list[int] = []
    lengths: list[int] = []
    for text in texts:
        found = [vocabulary.setdefault(word, len(vocabulary)) for word in words(text)]
        tokens += found
        lengths.append(len(found))
    n = max(len(texts), 1)
    owner = np.repeat(np.arange(len(texts)), lengths)
    pairs, counts = np.unique(np.array(tokens, dtype=np.int64) * n + owner, return_counts=True)
    return vocabulary, pairs // n, pairs % n, counts.astype(np.float64)
