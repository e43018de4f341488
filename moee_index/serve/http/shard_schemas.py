"""What a head sends to a shard, as OpenAPI describes it. What the values mean: `serve.shards.wire`.

Every body names the version that it is for; a shard that serves another one answers 409.
"""

from __future__ import annotations

from pydantic import Field

from moee_index.serve.http.schemas import Method, Number, StrictBody, VectorBody

# Of anything that is counted: what 64 bits hold, and floats tell apart.
_MOST = 1 << 53


class OfVersion(StrictBody):
    """digest: SHA-256 of the manifest; revision: its number, for messages."""

    digest: str
    revision: int


class DescriptionBody(OfVersion):
    whole: bool = Field(description="Also manifest, standardizer and token weights.")


class RequestBody(StrictBody):
    """A search, checked by the head: the filter against the documents of all shards, the weight of
    words as it is to be."""

    k: int = Field(ge=1, le=_MOST)
    method: Method
    alpha: Number | None
    filter: str | None
    min_score: Number | None
    passages: bool
    lexical: Number
    every_row: bool
    recall: Number | None
    k1: Number
    b: Number


class ConditionBody(StrictBody):
    """A sign of a query."""

    text: str
    phrase: bool
    without: bool


class CountsBody(StrictBody):
    """Of all rows that count: how many, how many words they have, how many hold each term."""

    rows: int = Field(ge=0, le=_MOST)
    words: int = Field(ge=0, le=_MOST)
    frequencies: dict[str, int]


class TermsBody(OfVersion):
    terms: list[str]


class LargestBody(OfVersion):
    texts: list[str]
    counts: CountsBody
    k1: Number
    b: Number


class ShardSearchBody(OfVersion):
    """vectors: raw, of all queries, row by row; None where words alone count. texts, counts,
    largest: where words count."""

    request: RequestBody
    vectors: VectorBody | None
    texts: list[str] | None
    conditions: list[ConditionBody]
    counts: CountsBody | None
    largest: list[Number] | None


class ShardLikeBody(OfVersion):
    """vectors: the raw rows of the document."""

    request: RequestBody
    id: str
    vectors: VectorBody


class IdsBody(OfVersion):
    ids: list[str]


class IdBody(OfVersion):
    id: str


class RowsBody(OfVersion):
    rows: list[int]


class ValuesBody(OfVersion):
    fields: list[str]
    filter: str | None
    conditions: list[ConditionBody]
