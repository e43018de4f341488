"""Texts as single vectors: which vectors a name means, and how they are written."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from moee_index.errors import MisuseError
from moee_index.export.single_vectors import one_vectors
from moee_index.fusion import Method, Standardizer, check_search
from moee_index.serve.engine.engine import Tokens
from moee_index.serve.engine.trace import Trace
from moee_index.serve.errors import UnknownNameError
from moee_index.serve.floats import encoded
from moee_index.serve.server import Server
from moee_index.text import shown
from moee_index.types import Embeddings, EncoderSpec, FloatArray

METHODS: tuple[Method, ...] = ("sum", "hs", "rw", "concat")
INTEGERS = (
    "the input holds token ids, and these are another tokenizer's: send texts. LangChain's "
    "OpenAIEmbeddings does with check_embedding_ctx_length=False"
)


@dataclass(frozen=True)
class Space:
    """Vectors that a name means. model: what embeds; standardizer, alpha: of an index, whose
    queries the texts then are."""

    name: str
    model: str
    method: Method
    is_index: bool = False
    standardizer: Standardizer | None = None
    alpha: float = 1.0

    def width(self, spec: EncoderSpec) -> int:
        widths = {"hs": spec.hs_dim, "rw": spec.rw_dim}
        return widths.get(self.method, spec.hs_dim + spec.rw_dim)

    def vectors(
        self, embeddings: Embeddings, alpha: float | None, raw: bool, unit: bool
    ) -> FloatArray:
        """float32 [n, width]. A model's are unit vectors, never standardized; an index's those of
        `moee-index embed --index`. See EmbeddingsBody for the options.

        Raises MisuseError for raw vectors of `sum`, and for an alpha out of range.
        """
        if raw and self.method == "sum":
            raise MisuseError("raw has no `sum`: its parts are normalised by definition")
        weight = check_search(self.method, alpha, 1, default_alpha=self.alpha)
        vectors = one_vectors(
            embeddings, self.method, raw=raw, alpha=weight, standardizer=self.standardizer
        )
        if weight is not None and unit and not self.is_index:
            vectors /= np.float32(math.sqrt(1.0 + weight))
        return vectors


def find_space(server: Server, name: str | None) -> Space:
    """The vectors that a name means; without a name those of the first model.

    Raises UnknownNameError.
    """
    if name is None:
        name = server.model_names()[0]
    base, sign, method = name.rpartition("#")
    if not sign:
        base, method = name, "sum"
    if method in METHODS:
        if base in server.indexes:
            with server.indexes.get(base).held() as version:
                index = version.index
                return Space(
                    name, server.indexes.get(base).model, method, True, index.standardizer,
                    index.alpha,
                )  # fmt: skip
        if base in server.model_names():
            return Space(name, base, method)
    raise UnknownNameError(
        f"model {shown(name)!r} is not served; GET /v1/models lists those that are"
    )


@dataclass(frozen=True)
class Embedded:
    """Vectors float32 [n, width] and the tokens they took."""

    vectors: FloatArray
    tokens: int


async def embed(
    server: Server,
    name: str | None,
    texts: Sequence[str],
    trace: Trace,
    *,
    dimensions: int | None = None,
    truncate: bool = True,
    alpha: float | None = None,
    raw: bool = False,
    unit: bool = True,
) -> Embedded:
    """One vector a text. alpha, raw, unit: see `Space.vectors`.

    Raises MisuseError for other dimensions than the vectors have, and, unless `truncate`, for a
    text that is longer than the model takes.
    """
    engine = server.engine
    trace.note(texts)
    async with engine.in_time():
        await engine.encoders()
        space = await engine.in_thread(find_space, server, name)
        encoder = await engine.encoder(space.model)
        width = space.width(encoder.spec)
        if dimensions is not None and dimensions != width:
            raise MisuseError(
                f"dimensions is {dimensions}, and vectors of {space.name} have {width}, which "
                "cannot be cut: leave it out"
            )
        trace.about["model"] = space.name
        tokens = await engine.tokenize(encoder, texts, trace, query=space.is_index)
        if not truncate:
            refuse_truncated(tokens)
        with engine.admitted(tokens.count):
            embeddings = await engine.embed(tokens, trace)
            vectors = await engine.in_thread(space.vectors, embeddings, alpha, raw, unit)
    return Embedded(vectors, tokens.count)


def refuse_truncated(tokens: Tokens) -> None:
    """Raises MisuseError for a text whose end was cut."""
    for position, text in enumerate(tokens.texts):
        if text.truncated:
            raise MisuseError(
                f"text {position} is longer than the {tokens.encoder.spec.max_tokens} tokens that "
                "the model takes, and truncate is false; cut it, or say truncate: true"
            )


def check_texts_given(value: str | Sequence[Any], field: str) -> list[str]:
    """The texts of a request. Raises MisuseError for none, and for token ids."""
    texts = [value] if isinstance(value, str) else list(value)
    if not texts:
        raise MisuseError(f"{field} is empty; give at least one text")
    if not all(isinstance(text, str) for text in texts):
        raise MisuseError(INTEGERS)
    return texts


def openai_json(embedded: Embedded, model: str, encoding: str) -> Iterator[bytes]:
    """OpenAI's answer, a piece a vector: writing all at once would keep other threads waiting."""
    yield b'{"object":"list","data":['
    for position, vector in enumerate(embedded.vectors):
        comma = "," if position else ""
        value: Any = encoded(vector) if encoding == "base64" else vector.tolist()
        item = {"object": "embedding", "index": position, "embedding": value}
        yield (comma + json.dumps(item)).encode("ascii")
    usage = {"prompt_tokens": embedded.tokens, "total_tokens": embedded.tokens}
    yield f'],"model":{json.dumps(model)},"usage":{json.dumps(usage)}}}'.encode("ascii")


def matrix_json(vectors: FloatArray) -> Iterator[bytes]:
    """Vectors as a list of lists, a piece a vector."""
    yield b"["
    for position, vector in enumerate(vectors):
        yield (("," if position else "") + json.dumps(vector.tolist())).encode("ascii")
    yield b"]"
