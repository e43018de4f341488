"""What requests may look like: the bodies, as OpenAPI describes them.

Fields that clients of other servers send and that change nothing here are passed over; a search
refuses what it does not know.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Method = Literal["sum", "concat", "hs", "rw"]
Number = Annotated[float, Field(strict=False)]


def _like(*examples: dict[str, Any]) -> ConfigDict:
    """A model's configuration with bodies as they may look."""
    return ConfigDict(json_schema_extra={"examples": list(examples)})


class Body(BaseModel):
    """A body that may hold more than is looked at."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=(), strict=True)


class StrictBody(BaseModel):
    """A body in which nothing is passed over."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), strict=True)


class EmbeddingsBody(Body):
    """OpenAI's `POST /v1/embeddings`."""

    model_config = _like({"model": "tiny", "input": ["A text", "Another"]})

    input: str | list[str] | list[int] | list[list[int]] = Field(
        description="A text, or several. Token ids are refused: they are another tokenizer's."
    )
    model: str = Field(
        description="A name that GET /v1/models lists: MODEL or MODEL#sum, MODEL#hs, MODEL#rw, "
        "MODEL#concat; INDEX#sum and so on embed queries of an index."
    )
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, description="The width of the vectors, nothing else.")
    user: str | None = None
    alpha: Number | None = Field(
        None, description="Weight of RW in `sum`: 1, or the index's, unless given."
    )
    raw: bool = Field(False, description="As the model gave them: hs, rw and concat alone.")
    unit: bool = Field(
        True, description="false: [h ; √α·r] of MODEL#sum as it is, not divided by √(1+α)."
    )


class EmbedBody(Body):
    """Text Embeddings Inference's `POST /embed`."""

    model_config = _like({"inputs": ["A text", "Another"]})

    inputs: str | list[str] | list[int] | list[list[int]]
    normalize: bool = True
    truncate: bool | None = Field(
        None, description="false: refuse a text that is longer than the model takes."
    )
    truncation_direction: Literal["right", "Right", "left", "Left"] = "right"
    prompt_name: str | None = None
    dimensions: int | None = None


class RerankBody(Body):
    """`documents` as Cohere and Jina have them, or `texts` as Text Embeddings Inference has."""

    model_config = _like(
        {"query": "a question", "documents": ["A text", "Another"], "top_n": 1},
        {"query": "a question", "texts": ["A text", "Another"], "return_text": True},
    )

    model: str | None = Field(
        None, description="A model, or an index, whose standardizer is then used."
    )
    query: str
    documents: list[str | dict[str, Any]] | None = None
    texts: list[str] | None = None
    top_n: int | None = Field(None, ge=1)
    return_documents: bool = False
    max_tokens_per_doc: int | None = None
    rank_fields: list[str] | None = None
    truncate: bool | None = None
    truncation_direction: Literal["right", "Right", "left", "Left"] = "right"
    raw_scores: bool = False
    return_text: bool = False
    method: Method = "sum"
    alpha: Number | None = None
    standardize: Literal["both", "rw", "hs", "none"] | None = None
    lexical: Number | None = Field(None, description="Weight of words, with an index.")
    k1: Number | None = None
    b: Number | None = None


class VectorBody(StrictBody):
    """A query's raw vectors: base64 of little-endian float32."""

    hs: str
    rw: str


class SearchBody(StrictBody):
    """`POST /v1/search`: one of `query`, `vector` and `like`, and the options of `moee-index
    query`."""

    model_config = _like(
        {"query": "a question", "k": 3},
        {"query": ["a question", "another"], "method": "hs", "passages": False},
    )

    index: str | None = Field(None, description="Needed where several are served.")
    query: str | list[str] | None = None
    vector: VectorBody | None = None
    like: str | None = Field(None, description="An id: documents like this one.")
    k: int = Field(10, ge=1)
    offset: int = Field(0, ge=0)
    method: Method = "sum"
    alpha: Number | None = None
    lexical: Number | None = None
    k1: Number | None = None
    b: Number | None = None
    filter: str | None = None
    min_score: Number | None = None
    passages: bool = False
    facets: list[str] = Field([], max_length=100)
    syntax: bool = Field(
        False, description='Whether "a phrase", +required and -without are conditions.'
    )
    snippets: bool = Field(True, description="false: no snippets, which take most of the time.")
    snippet_width: int = Field(200, ge=40, le=2000, description="Characters of a hit's snippet.")
    exact: bool = Field(False, description="Score every row, in an approximate index too.")
    recall: Number | None = Field(
        None, description="Of an approximate index: the share of the ten best to find, up to 1."
    )
    partial: bool = Field(
        False,
        description="Where segments are on several servers: answer without those that do not.",
    )
    revision: int | None = Field(None, description="Answer from this revision or not at all.")


class Embedding(BaseModel):
    """A vector; as text it is base64 of little-endian float32."""

    object: str
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    """Tokens, templates included."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(BaseModel):
    """OpenAI's answer."""

    object: str
    data: list[Embedding]
    model: str
    usage: Usage


class Ranked(BaseModel):
    """One document. relevance_score: in [0, 1]; the others: as in a search."""

    index: int
    relevance_score: float
    score: float
    hs: float | None
    rw: float | None
    lexical: float | None = None
    bm25: float | None = None
    words: list[str] | None = None
    document: dict[str, str] | None = None


class RerankAnswer(BaseModel):
    """Cohere's and Jina's answer."""

    object: str
    model: str
    method: Method
    alpha: float | None
    lexical: float
    results: list[Ranked]
    usage: Usage
    meta: dict[str, Any]


class TeiRank(BaseModel):
    """One text, as Text Embeddings Inference has it."""

    index: int
    score: float
    text: str | None = None


class Open(BaseModel):
    """An object that may hold more than is told here."""

    model_config = ConfigDict(extra="allow")


class HitAnswer(Open):
    """One document. hs, rw: null where words alone count; passage: of a document that was split;
    lexical, bm25, words: where words count; snippet: the best part of the text, marks: where words
    of the query are in it."""

    rank: int
    id: str
    score: float
    hs: float | None
    rw: float | None
    text: str
    metadata: dict[str, Any]
    snippet: str | None = None
    marks: list[tuple[int, int]] | None = None


class FacetAnswer(BaseModel):
    """How many documents have each value of a field; missing: those without it."""

    field: str
    values: list[dict[str, Any]]
    missing: int


class SearchAnswer(Open):
    """What `moee-index query --json` prints, and the revision that answered. partial,
    missing_segments: where some segments gave no answer and the request can do without."""

    query: str | None
    query_id: None
    index: str
    revision: int
    method: Method
    alpha: float | None
    exact: bool
    recall: float | None = None
    took_ms: float
    hits: list[HitAnswer]
    lexical: float | None = None
    like: str | None = None
    facets: list[FacetAnswer] | None = None
    partial: bool | None = None
    missing_segments: list[int] | None = None


class SearchAnswers(BaseModel):
    """An answer a query, in their order."""

    answers: list[SearchAnswer]


class ModelEntry(Open):
    """A name that embeddings can be asked for."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(BaseModel):
    """OpenAI's list of models."""

    object: Literal["list"]
    data: list[ModelEntry]


class IndexEntry(Open):
    """An index. digest: SHA-256 of its manifest, which no other version of any index has; fields:
    metadata field → kinds of its values, null where there are thousands."""

    name: str
    revision: int
    digest: str
    documents: int
    rows: int
    model: str
    dims: dict[str, int]
    encoder: dict[str, Any]
    standardize: str
    index_type: dict[str, str]
    alpha: float
    lexical: float
    chunk: str | None
    language: str | None
    fields: dict[str, list[str]] | None
    unreadable: bool


class IndexList(BaseModel):
    """The indexes that are served."""

    object: Literal["list"]
    data: list[IndexEntry]


class PassageAnswer(BaseModel):
    """A passage of a document."""

    id: str
    text: str


class DocumentAnswer(BaseModel):
    """A document; passages: where it was split."""

    index: str
    revision: int
    id: str
    text: str
    metadata: dict[str, Any]
    passages: list[PassageAnswer] | None = None


class ReadyAnswer(BaseModel):
    """Whether requests can be answered. indexes: name → revision in service; unreadable: name →
    why the version on disk is not in service."""

    status: Literal["ready", "not ready"]
    reason: str | None
    indexes: dict[str, int]
    unreadable: dict[str, str]
