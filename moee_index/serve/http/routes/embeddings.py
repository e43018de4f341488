"""Vectors: OpenAI's /v1/embeddings, and /embed and /info of Text Embeddings Inference."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from moee_index import __version__
from moee_index.errors import MisuseError
from moee_index.serve.answers.holdings import tei_info
from moee_index.serve.answers.vectors import check_texts_given, embed, matrix_json, openai_json
from moee_index.serve.http.responses import pieces_response
from moee_index.serve.http.routes.common import ERRORS, ServerOf, TraceOf
from moee_index.serve.http.schemas import EmbedBody, EmbeddingsAnswer, EmbeddingsBody

router = APIRouter(responses=ERRORS)


@router.post("/v1/embeddings", response_model=EmbeddingsAnswer)
async def embeddings(body: EmbeddingsBody, server: ServerOf, trace: TraceOf) -> Response:
    """One vector a text; float32, as base64 where `encoding_format` says so."""
    texts = check_texts_given(body.input, "input")
    embedded = await embed(
        server, body.model, texts, trace, dimensions=body.dimensions, alpha=body.alpha,
        raw=body.raw, unit=body.unit,
    )  # fmt: skip
    pieces = openai_json(embedded, body.model, body.encoding_format)
    return await pieces_response(server, pieces)


@router.post("/embed", response_model=list[list[float]])
async def tei_embed(body: EmbedBody, server: ServerOf, trace: TraceOf) -> Response:
    """One vector a text, of the first model."""
    texts = check_texts_given(body.inputs, "inputs")
    if not body.normalize:
        raise MisuseError(
            "normalize is false, but the two parts of these vectors are unit vectors by definition"
        )
    if body.prompt_name is not None:
        raise MisuseError("prompt_name is given, but the server's --prompt holds for all texts")
    refuse_left(body.truncation_direction)
    truncate = body.truncate is not False
    embedded = await embed(
        server, None, texts, trace, dimensions=body.dimensions, truncate=truncate
    )
    return await pieces_response(server, matrix_json(embedded.vectors))


@router.get("/info")
async def info(server: ServerOf) -> dict[str, Any]:
    """The first model, as Text Embeddings Inference tells it."""
    return {**await tei_info(server), "version": __version__}


def refuse_left(direction: str) -> None:
    """Raises MisuseError where texts should lose their beginnings."""
    if direction.lower() == "left":
        raise MisuseError("truncation_direction is left, but long texts lose their ends here")
