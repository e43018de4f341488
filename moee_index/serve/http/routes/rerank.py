"""Texts ordered for a query, in the shapes of Cohere, of Jina and of Text Embeddings Inference."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from moee_index.errors import MisuseError
from moee_index.serve.answers.rerank import cohere_json, rerank, tei_json
from moee_index.serve.http.responses import json_response
from moee_index.serve.http.routes.common import ERRORS, ServerOf, TraceOf
from moee_index.serve.http.routes.embeddings import refuse_left
from moee_index.serve.http.schemas import RerankAnswer, RerankBody, TeiRank

router = APIRouter(responses=ERRORS)


@router.post("/rerank", response_model=RerankAnswer | list[TeiRank])
@router.post("/v1/rerank", response_model=RerankAnswer | list[TeiRank])
@router.post("/v2/rerank", response_model=RerankAnswer | list[TeiRank])
async def reranked(body: RerankBody, server: ServerOf, trace: TraceOf) -> Response:
    """`documents` are answered as Cohere and Jina do, `texts` as Text Embeddings Inference does.
    `relevance_score` is in [0, 1] by a fixed map of the method's range; `score` is the method's."""
    if (body.documents is None) == (body.texts is None):
        raise MisuseError("give documents (Cohere, Jina) or texts (Text Embeddings Inference)")
    documents = body.texts if body.documents is None else _texts(body.documents)
    assert documents is not None
    if not documents:
        raise MisuseError("there is nothing to order: documents or texts is empty")
    refuse_left(body.truncation_direction)
    ranked = await rerank(
        server, body.model, body.query, documents, trace, k=body.top_n, method=body.method,
        alpha=body.alpha, standardize=body.standardize, truncate=body.truncate is not False,
        most_tokens=body.max_tokens_per_doc,
        words=body.model_dump(include={"lexical", "k1", "b"}, exclude_none=True),
    )  # fmt: skip
    answer: Any
    if body.documents is None:
        answer = tei_json(
            ranked, documents, raw_scores=body.raw_scores, return_text=body.return_text
        )
    else:
        answer = cohere_json(ranked, documents, return_documents=body.return_documents)
    return await json_response(server, answer)


def _texts(documents: list[str | dict[str, Any]]) -> list[str]:
    """Documents are texts, or objects that hold one."""
    texts = []
    for position, document in enumerate(documents):
        text = document if isinstance(document, str) else document.get("text")
        if not isinstance(text, str):
            raise MisuseError(f"document {position} is neither a text nor an object with `text`")
        texts.append(text)
    return texts
