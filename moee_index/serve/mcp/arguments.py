"""What the tools take: flat arguments of one type each, for there are assistants that cannot fill
others in; what is not known is refused.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from moee_index.errors import MisuseError
from moee_index.serve.http.schemas import Method
from moee_index.text import shown

# Hits of one call, and characters of one part of a document.
MOST_HITS = 50
MOST_CHARS = 100_000
# Candidates of one call.
_MOST_DOCUMENTS = 1000


def _listed(value: Any) -> Any:
    """Some clients write a list as the JSON text of one."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


class Arguments(BaseModel):
    """The arguments of a tool; null is as good as left out where one may be left out."""

    model_config = ConfigDict(extra="forbid")

    @classmethod
    def schema_for_tools(cls) -> dict[str, Any]:
        """JSON Schema without unions, references and titles."""
        schema = cls.model_json_schema()
        properties: dict[str, Any] = {}
        for name, found in schema.get("properties", {}).items():
            kind, *_ = found.pop("anyOf", [{}])
            kept = {key: value for key, value in found.items() if key != "title"}
            if kept.get("default", ...) is None:
                del kept["default"]
            properties[name] = {**kind, **kept}
        required = {"required": schema["required"]} if "required" in schema else {}
        return {
            "type": "object",
            "properties": properties,
            **required,
            "additionalProperties": False,
        }


Index = Annotated[str | None, Field(description="Name of an index, as list_indexes gives it.")]
Id = Annotated[str, Field(description="A document's id, as search and similar give it.")]
Filter = Annotated[
    str | None,
    Field(
        description="Condition on metadata that documents must meet, such as "
        '\'year >= 2020 and lang in ("en", "fr")\': = != < <= > >=, in (…), contains, exists, '
        "and, or, not. list_indexes names the fields."
    ),
]
K = Annotated[int, Field(ge=1, le=MOST_HITS, description="How many hits.")]
Offset = Annotated[int, Field(ge=0, le=10_000, description="How many of the best to pass over.")]
Alpha = Annotated[
    float | None,
    Field(description="Weight of routing weights in method sum. Usually left out."),
]
How = Annotated[Method, Field(description="How documents are scored. Usually left at sum.")]


class SearchArguments(Arguments):
    query: str = Field(description="What to look for, in plain words: a question or a statement.")
    k: K = 10
    offset: Offset = 0
    index: Index = None
    filter: Filter = None
    method: How = "sum"
    alpha: Alpha = None
    lexical: float | None = Field(
        None,
        description="Weight of exact words (BM25), 0 to 1; 1 finds names and numbers literally. "
        "Usually left out.",
    )
    syntax: bool = Field(
        False,
        description='true: in the query, +word and "a phrase" must be in a text, -word must not.',
    )


class FetchArguments(Arguments):
    id: Id
    index: Index = None
    offset: int = Field(0, ge=0, description="The character to begin at; see next_offset.")
    max_chars: int = Field(20_000, ge=1, le=MOST_CHARS, description="Characters of text.")


class SimilarArguments(Arguments):
    id: Id
    k: K = 10
    offset: Offset = 0
    index: Index = None
    filter: Filter = None
    method: How = "sum"
    alpha: Alpha = None


class RerankArguments(Arguments):
    query: str = Field(description="What the texts are ordered for.")
    documents: Annotated[
        list[str],
        BeforeValidator(_listed),
        Field(min_length=1, max_length=_MOST_DOCUMENTS, description="The texts themselves."),
    ]
    top_n: int | None = Field(None, ge=1, description="How many of the best; all by default.")
    index: Index = None
    method: How = "sum"
    alpha: Alpha = None


class NoArguments(Arguments):
    pass


A = TypeVar("A", bound=Arguments)


def checked(kind: type[A], given: dict[str, Any]) -> A:
    """Arguments as declared. Raises MisuseError that names the first fault."""
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
    name = shown(".".join(str(part) for part in first["loc"]))
    if first["type"] == "extra_forbidden":
        known = ", ".join(kind.model_fields) or "none"
        raise MisuseError(f"{name!r} is not an argument of this tool; it has {known}")
    raise MisuseError(f"argument {name}: {first['msg']}")
