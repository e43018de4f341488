"""An index looked through without a query: values of its fields with their counts, a filter's
faults, single passages with their neighbours.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from moee_index.errors import MisuseError
from moee_index.index.filters import FilterError
from moee_index.index.lexical.syntax import parse_query
from moee_index.index.listing import Facet
from moee_index.index.snapshot import Passage
from moee_index.index.store.field_names import asked_as
from moee_index.serve.errors import UnknownNameError
from moee_index.serve.indexes import ServedIndex, Version
from moee_index.text import check_text, shown

MOST_VALUES = 100
# Larger indexes say of no field unasked what values it has: that reads all of them.
_MOST_DOCUMENTS = 50_000
# A field whose values repeat is worth counting: so many documents a value at least, or few values.
# Numbers that have many values are measured, not counted.
_A_VALUE = 4
_FEW = 12
_FEW_NUMBERS = 40
_MOST_FIELDS = 24
_FACETED = frozenset({"text", "number", "boolean", "list", "null"})

# Kept as long as the version of the index is.
_repeating: WeakKeyDictionary[Version, list[str]] = WeakKeyDictionary()
_looking = threading.Lock()


def facets(
    served: ServedIndex,
    fields: Sequence[str] | None,
    condition: str | None,
    most: int,
    query: str | None = None,
) -> dict[str, Any]:
    """How many documents match a filter, and the conditions that a query's signs say, and how many
    of them have each value of some fields: the `most` most frequent. fields: None for those whose
    values repeat.

    Raises FilterError, MisuseError for a field that no document has.
    """
    required = () if query is None else parse_query(check_text(query, "the query")).conditions
    with served.held() as version:
        index, kinds = version.index, _kinds(version)
        matching = index.count_documents(condition, required)
        chosen = _repeating_fields(version) if fields is None else list(fields)
        counted = index.count_values(chosen, condition, required)
        return {
            "index": served.name,
            "revision": version.revision,
            "matching": matching,
            "facets": [
                _facet_json(facet, kinds.get(facet.field, set()), most) for facet in counted
            ],
        }


def _kinds(version: Version) -> dict[str, set[str]]:
    """Field as filters ask for it → kinds of its values; none where there are thousands."""
    return {asked_as(name): kinds for name, kinds in (version.index.fields or {}).items()}


def _repeating_fields(version: Version) -> list[str]:
    with _looking:
        if version not in _repeating:
            _repeating[version] = _look(version)
        return _repeating[version]


def _look(version: Version) -> list[str]:
    documents = version.index.manifest.documents
    if documents > _MOST_DOCUMENTS:
        return []
    kinds = {name: each for name, each in _kinds(version).items() if each & _FACETED}
    found = []
    for name in sorted(kinds)[:_MOST_FIELDS]:
        (facet,) = version.index.count_values([name])
        values, holding = len(facet.counts), documents - facet.missing
        most = max(_FEW, holding // _A_VALUE)
        if kinds[name] == {"number"}:
            most = min(most, _FEW_NUMBERS)
        if 1 < values <= most and values < holding:
            found.append(name)
    return found


def _facet_json(facet: Facet, kinds: set[str], most: int) -> dict[str, Any]:
    """filter: the condition that a document meets which has the value."""
    return {
        "field": facet.field,
        "distinct": len(facet.counts),
        "missing": facet.missing,
        "values": [
            {"value": value, "count": count, "filter": _condition(facet.field, value, kinds)}
            for value, count in facet.counts[:most]
        ],
    }


def _condition(field: str, value: Any, kinds: set[str]) -> str | None:
    """None where no filter can ask for the value."""
    written = json.dumps(value, ensure_ascii=False)
    if isinstance(value, list | dict) or "\\u0000" in written:
        return None
    operator = "contains" if "list" in kinds and value is not None else "="
    return f"{field} {operator} {written}"


def checked_filter(served: ServedIndex, condition: str) -> dict[str, Any]:
    """How many documents match a filter; or what is wrong with it, and at which character from 1
    on."""
    check_text(condition, "the filter")
    with served.held() as version:
        answer: dict[str, Any] = {
            "index": served.name,
            "revision": version.revision,
            "matching": None,
            "error": None,
        }
        try:
            answer["matching"] = version.index.count_documents(condition)
        except FilterError as error:
            answer["error"] = {"message": str(error), "position": error.position}
        return answer


def passage(served: ServedIndex, name: str) -> dict[str, Any]:
    """A passage by its name, or the first of a document by its id, with the names of those before
    and behind it. Raises UnknownNameError."""
    check_text(name, "the id")
    with served.held() as version:
        found = version.index.passages([name]).get(name)
        if not found:
            raise UnknownNameError(f"{served.name} has no document {shown(name)!r}")
        owner = _owner(version, name, found[0])
        passages = version.index.passages([owner])[owner]
        place = next(at for at, each in enumerate(passages) if each.row == found[0].row)
        return {
            "index": served.name,
            "revision": version.revision,
            "id": found[0].id,
            "document": owner,
            "number": place + 1,
            "of": len(passages),
            "previous": passages[place - 1].id if place else None,
            "next": passages[place + 1].id if place + 1 < len(passages) else None,
            "text": found[0].text,
            "metadata": found[0].metadata,
        }


def _owner(version: Version, name: str, found: Passage) -> str:
    """The id of the document that a passage is of."""
    if version.index.documents([name]):
        return name
    owner = name.rpartition("#")[0]
    assert owner and found.id == name
    return owner


def check_condition(condition: str | None, most: int) -> None:
    """Raises MisuseError for a filter of too many bytes."""
    if condition is not None and len(condition.encode("utf-8", "replace")) > most:
        raise MisuseError(f"the filter has more than {most} bytes; take a shorter one")
