"""Texts ordered for a query, with scores from 0 to 1 that mean the same in every answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moee_index.errors import MisuseError
from moee_index.fusion import Method, Standardize, Standardizer, check_search
from moee_index.readers.candidates import CandidateList
from moee_index.reranking import rerank_lists
from moee_index.reranking.stored import WordWeights
from moee_index.serve.answers.vectors import refuse_truncated
from moee_index.serve.engine.engine import QUERY_TOKENS
from moee_index.serve.engine.trace import Trace
from moee_index.serve.server import Server
from moee_index.text import check_text, check_texts
from moee_index.types import Document, Embeddings, EncoderSpec, Hit

if TYPE_CHECKING:
    from moee_index.encode.encoder import Encoder

# Of a hit, beside its place and relevance.
_PARTS = ("score", "hs", "rw", "lexical", "bm25", "words")


@dataclass(frozen=True)
class Ranked:
    """Hits, whose ids are positions, best first; the model's name; tokens; alpha: the weight of RW
    in `sum`, None for other methods; lexical: that of words."""

    hits: list[Hit]
    model: str
    tokens: int
    method: Method
    alpha: float | None
    lexical: float

    def relevance(self, hit: Hit) -> float:
        """A hit's score from 0 to 1 by a fixed map of its method's range: (s+1+α)/(2(1+α)) for
        `sum`, (s+1)/2 for the others; (s+1-w)/(2-w) where words weigh w."""
        if self.lexical:
            least, most = self.lexical - 1.0, 1.0
        else:
            most = 1.0 + self.alpha if self.alpha is not None else 1.0
            least = -most
        return min(1.0, max(0.0, (hit.score - least) / (most - least)))


@dataclass(frozen=True)
class Embedded:
    """An encoder of texts whose rows are there already."""

    spec: EncoderSpec
    documents: Sequence[str]
    rows: Embeddings

    def encode(self, texts: Sequence[str], *, query: bool = False) -> Embeddings:
        """The first row is the query's, the others are the documents'."""
        if query:
            return Embeddings(self.rows.hs[:1], self.rows.rw[:1])
        places = {text: place for place, text in enumerate(self.documents, 1)}
        taken = [places[text] for text in texts]
        return Embeddings(self.rows.hs[taken], self.rows.rw[taken])


async def rerank(
    server: Server,
    model: str | None,
    query: str,
    documents: Sequence[str],
    trace: Trace,
    *,
    k: int | None = None,
    method: Method = "sum",
    alpha: float | None = None,
    standardize: Standardize | None = None,
    truncate: bool = True,
    most_tokens: int | None = None,
    words: Mapping[str, float] | None = None,
) -> Ranked:
    """The k best of some texts (all without k). model: a model, or an index, whose standardizer, α
    and weight of words then hold. most_tokens: that the client wants texts to be cut at. words:
    lexical, k1 and b, as far as they are given.

    Raises MisuseError for an empty query, options out of range, and UnknownNameError.
    """
    engine = server.engine
    check_texts([query, *documents])
    if not check_text(query, "the query").strip():
        raise MisuseError("the query is empty; give some text")
    trace.note([query, *documents])
    with ExitStack() as stack:
        async with engine.in_time():
            await engine.encoders()
            frozen = await _frozen(server, model, words or {}, stack)
            weight = check_search(method, alpha, k or 1, default_alpha=frozen.alpha)
            encoder = await engine.encoder(frozen.model)
            _check_length(encoder, most_tokens)
            trace.about["model"] = name = model or frozen.model
            asked = await engine.tokenize(encoder, [query], trace, query=True)
            tokens = await engine.tokenize(encoder, documents, trace, query=False)
            if not truncate:
                refuse_truncated(tokens)
            with engine.admitted(QUERY_TOKENS + asked.count + tokens.count):
                rows = await engine.embed(asked.joined(tokens), trace)
                with trace.stage("scan"):
                    hits = await engine.in_thread(
                        _hits, encoder, query, documents, rows, k=k, method=method, alpha=weight,
                        standardize=standardize, standardizer=frozen.standardizer,
                        words=frozen.words,
                    )  # fmt: skip
    lexical = 0.0 if frozen.words is None else frozen.words.weight
    return Ranked(hits, name, asked.count + tokens.count, method, weight, lexical)


@dataclass(frozen=True)
class _Frozen:
    """What an index gives to a reranking; a model by itself gives nothing of it."""

    model: str
    standardizer: Standardizer | None = None
    alpha: float = 1.0
    words: WordWeights | None = None


async def _frozen(
    server: Server, model: str | None, words: Mapping[str, float], stack: ExitStack
) -> _Frozen:
    """stack: holds the index while it is needed."""
    if model is None or model not in server.indexes:
        if words.get("lexical"):
            raise MisuseError(
                "lexical weighs words by the statistics of an index; name one as the model"
            )
        return _Frozen(server.model_names()[0] if model is None else model)
    served = server.indexes.get(model)
    await server.engine.in_thread(served.refresh)
    index = stack.enter_context(served.holding()).index
    weights = await server.engine.in_thread(index.words, **words)
    return _Frozen(served.model, index.standardizer, index.alpha, weights)


def _check_length(encoder: Encoder, most_tokens: int | None) -> None:
    """Raises MisuseError for a client that wants texts to be cut where they are not."""
    if most_tokens is not None and most_tokens < encoder.spec.max_tokens:
        raise MisuseError(
            f"max_tokens_per_doc is {most_tokens}, but texts are cut at "
            f"{encoder.spec.max_tokens} tokens here: leave it out, or cut them before"
        )


def _hits(
    encoder: Encoder, query: str, documents: Sequence[str], rows: Embeddings, **options: Any
) -> list[Hit]:
    candidates = [Document(str(place), text) for place, text in enumerate(documents)]
    (ranked,) = rerank_lists(
        [CandidateList(query, candidates)],
        Embedded(encoder.spec, documents, rows),  # type: ignore[arg-type]
        **options,
    )
    return ranked.hits


def cohere_json(ranked: Ranked, documents: Sequence[str], *, return_documents: bool) -> Any:
    """The answer that clients of Cohere and of Jina read."""
    results = []
    for hit in ranked.hits:
        parts = {name: value for name, value in hit.as_json().items() if name in _PARTS}
        result = {"index": int(hit.id), "relevance_score": ranked.relevance(hit), **parts}
        if return_documents:
            result["document"] = {"text": documents[int(hit.id)]}
        results.append(result)
    return {
        "object": "rerank",
        "model": ranked.model,
        "method": ranked.method,
        "alpha": ranked.alpha,
        "lexical": ranked.lexical,
        "results": results,
        "usage": {"prompt_tokens": ranked.tokens, "total_tokens": ranked.tokens},
        "meta": {"api_version": {"version": "2"}},
    }


def tei_json(ranked: Ranked, texts: Sequence[str], *, raw_scores: bool, return_text: bool) -> Any:
    """The answer that clients of Text Embeddings Inference read."""
    return [
        {
            "index": int(hit.id),
            "score": hit.score if raw_scores else ranked.relevance(hit),
            **({"text": texts[int(hit.id)]} if return_text else {}),
        }
        for hit in ranked.hits
    ]
