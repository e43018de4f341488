"""What the page's requests and their answers look like, as OpenAPI describes them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from moee_index.serve.answers.browse import MOST_VALUES
from moee_index.serve.http.schemas import StrictBody


class RoutingBody(StrictBody):
    """A document, and one of `query` and `other`."""

    document: str = Field(description="An id, or the name of a passage, `ID#N`.")
    query: str | None = None
    other: str | None = Field(None, description="Another document or passage.")
    syntax: bool = Field(False, description="As in a search.")


class LayerAnswer(BaseModel):
    """One MoE layer, a number an expert: left, right: how much the query (or the other document)
    and the document use it; shared: what it adds to the similarity of RW. contribution: the sum of
    these; agreement: the cosine of both within the layer."""

    left: list[float]
    right: list[float]
    shared: list[float]
    contribution: float
    agreement: float


class RoutingAnswer(BaseModel):
    """hs, rw: as hits have them. kind: of RW; of logits `left` and `right` are the probabilities
    that a layer makes of them."""

    index: str
    revision: int
    kind: str
    document: str
    query: str | None
    other: str | None
    hs: float
    rw: float
    layers: list[LayerAnswer]


class UseAnswer(BaseModel):
    """A document that uses an expert. passage: the one that does most; amount: how much."""

    id: str
    passage: str
    title: str
    text: str
    amount: float


class ExpertAnswer(BaseModel):
    """looked_at: of how many of the index's rows, drawn by chance from `seed` where there are
    more."""

    index: str
    revision: int
    layer: int
    expert: int
    rows: int
    looked_at: int
    seed: int
    documents: list[UseAnswer]


class FacetsBody(StrictBody):
    """fields: as filters name them. values: at most so many of each field. query: whose conditions
    ("a phrase", +required, -without) the counted documents meet."""

    fields: list[str] | None = Field(None, max_length=100)
    filter: str | None = None
    values: int = Field(12, ge=1, le=MOST_VALUES)
    query: str | None = None


class FacetValue(BaseModel):
    """filter: the condition that documents with this value meet, null where none can say it."""

    value: Any
    count: int
    filter: str | None


class FieldAnswer(BaseModel):
    """distinct: how many values there are; missing: documents without the field."""

    field: str
    distinct: int
    missing: int
    values: list[FacetValue]


class FacetsAnswer(BaseModel):
    """matching: how many documents match the filter."""

    index: str
    revision: int
    matching: int
    facets: list[FieldAnswer]


class FilterBody(StrictBody):
    """A filter to be looked at."""

    filter: str


class FilterFault(BaseModel):
    """position: of the character, from 1."""

    message: str
    position: int


class FilterAnswer(BaseModel):
    """matching: how many documents match, null where the filter is wrong."""

    index: str
    revision: int
    matching: int | None
    error: FilterFault | None


class OnePassageAnswer(BaseModel):
    """number: of the passage in its document, from 1. previous, next: names of those beside it."""

    index: str
    revision: int
    id: str
    document: str
    number: int
    of: int
    previous: str | None
    next: str | None
    text: str
    metadata: dict[str, Any]
