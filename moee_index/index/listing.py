"""Documents of an index by their metadata, without a query: listed, sorted, counted by value.

Values come from the columns of fields.sqlite, those of fields without a column from the stored
metadata. Which documents match is the filters' to say.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from moee_index.errors import MisuseError
from moee_index.index.filters import Filter
from moee_index.index.filters.grammar import FieldUse, read_field
from moee_index.index.segment import OpenSegment
from moee_index.index.snapshot import Fields, Snapshot, joined_fields
from moee_index.index.store.document_reader import StoredDocument
from moee_index.index.store.field_names import dotted
from moee_index.index.store.fields import NOWHERE, value_of

if TYPE_CHECKING:
    from moee_index.index.lexical.syntax import Condition

Numbers = npt.NDArray[np.int64]
# Stands for the value of a document that lacks a field.
MISSING = object()
# The order of kinds when they are sorted; documents without the field come last.
_KINDS: tuple[tuple[type, ...], ...] = ((int, float), (str,), (bool,), (type(None),), (list, dict))


@dataclass(frozen=True)
class Facet:
    """How many documents have each value of a field, the most frequent first; an element of a
    list counts for itself, once a document. missing: documents without the field."""

    field: str
    counts: tuple[tuple[Any, int], ...]
    missing: int

    def as_json(self) -> dict[str, Any]:
        """As JSON has it."""
        values = [{"value": value, "count": count} for value, count in self.counts]
        return {"field": self.field, "values": values, "missing": self.missing}


@dataclass(frozen=True)
class Listing:
    """Some of the documents that match, and how many do."""

    documents: list[StoredDocument]
    matching: int


def list_documents(
    snapshot: Snapshot,
    *,
    filter: str | Filter | None = None,
    sort: str | None = None,
    k: int = 20,
    offset: int = 0,
) -> Listing:
    """Documents that match a filter, in the order of the index or by a field of their metadata.

    sort: a field's name as in a filter; with `-` before it the largest come first. Numbers are
    before texts, these before true and false, null, lists and objects; documents without the field
    are last; equal ones are in the order of the index.

    Raises MisuseError for k below 1, offset below 0, a field that no document has; FilterError.
    """
    if k < 1 or offset < 0:
        raise MisuseError(f"-k {k} --offset {offset}: at least 1, and 0 or more")
    matching = _matching(snapshot, filter)
    places = [
        (segment, int(number)) for segment, numbers in enumerate(matching) for number in numbers
    ]
    if sort is not None:
        places = _sorted(snapshot, matching, places, sort)
    chosen = places[offset : offset + k]
    read = [
        segment.documents.get([number for at, number in chosen if at == position])
        for position, segment in enumerate(snapshot.segments)
    ]
    return Listing([read[segment][number] for segment, number in chosen], len(places))


def count_values(
    snapshots: Snapshot | Sequence[Snapshot],
    fields: Sequence[str],
    filter: str | Filter | None = None,
    conditions: Sequence[Condition] = (),
    *,
    checked: bool = False,
) -> list[Facet]:
    """Count the documents, of one index or of several, that match a filter, and meet a query's
    conditions, by their values in some fields. checked: whether the fields were looked for in more
    than these indexes, so that what these lack is no slip.

    Raises MisuseError for a field that no document has, and for conditions in an index without
    postings; FilterError.
    """
    each = [snapshots] if isinstance(snapshots, Snapshot) else snapshots
    matching = [_matching(snapshot, filter, conditions) for snapshot in each]
    facets = []
    for field in fields:
        use = read_field(field) if checked else _field_of(each, field)
        values = map(_values, each, matching, repeat(use))
        facets.append(_facet(field, chain.from_iterable(values)))
    return facets


def count_documents(
    snapshot: Snapshot,
    filter: str | Filter | None = None,
    conditions: Sequence[Condition] = (),
) -> int:
    """How many documents match a filter and meet a query's conditions. Raises as `count_values`."""
    return sum(map(len, _matching(snapshot, filter, conditions)))


def _facet(field: str, values: Iterator[Any]) -> Facet:
    counts: Counter[str] = Counter()
    missing = 0
    for value in values:
        if value is MISSING:
            missing += 1
            continue
        elements = value if isinstance(value, list) else [value]
        # As JSON: 1 and true are different values, and a list cannot be a key.
        counts.update({json.dumps(_plain(one), sort_keys=True) for one in elements})
    return _of_counts(field, counts, missing)


def summed_facets(facets: Sequence[Facet]) -> Facet:
    """The counts of a field over the documents of several facets of it."""
    counts: Counter[str] = Counter()
    for facet in facets:
        for value, count in facet.counts:
            counts[json.dumps(value, sort_keys=True)] += count
    return _of_counts(facets[0].field, counts, sum(facet.missing for facet in facets))


def _of_counts(field: str, counts: Counter[str], missing: int) -> Facet:
    """counts: by a value's JSON."""
    found = [(json.loads(value), count) for value, count in counts.items()]
    found.sort(key=lambda each: (-each[1], _order(each[0])))
    return Facet(field, tuple(found), missing)


def _plain(value: Any) -> Any:
    """1.0 is 1, as in filters."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _matching(
    snapshot: Snapshot, filter: str | Filter | None, conditions: Sequence[Condition] = ()
) -> list[Numbers]:
    """For each segment the numbers of the documents that count and match."""
    masks = snapshot.masks(filter)
    checked = snapshot.conditions(conditions)
    if checked is not None:
        masks = checked.masks(masks)
    numbers: list[Numbers] = []
    for segment, mask in zip(snapshot.segments, masks, strict=True):
        documents = np.arange(segment.entry.documents, dtype=np.int64)
        numbers.append(documents if mask is None else documents[mask[segment.fields.firsts]])
    if checked is not None:
        numbers = [checked.of(segment, some) for segment, some in enumerate(numbers)]
    return numbers


def _sorted(
    snapshot: Snapshot, matching: list[Numbers], places: list[tuple[int, int]], sort: str
) -> list[tuple[int, int]]:
    field, falling = sort.removeprefix("-"), sort.startswith("-")
    values = list(_values(snapshot, matching, _field_of([snapshot], field)))
    there = [place for place, value in enumerate(values) if value is not MISSING]
    lacking = [place for place, value in enumerate(values) if value is MISSING]
    # Sorting twice reversed keeps equal ones in their order.
    there.sort(key=lambda place: _order(values[place]), reverse=falling)
    return [places[place] for place in (*there, *lacking)]


def _order(value: Any) -> tuple[int, Any]:
    kind = next(place for place, kinds in enumerate(_KINDS) if _is(value, kinds))
    return kind, json.dumps(value, sort_keys=True) if kind > 2 else value


def _is(value: Any, kinds: tuple[type, ...]) -> bool:
    return isinstance(value, kinds) and not (isinstance(value, bool) and bool not in kinds)


def _field_of(snapshots: Sequence[Snapshot], field: str) -> FieldUse:
    return known_field(joined_fields(snapshot.fields for snapshot in snapshots), field)


def known_field(known: Fields | None, field: str) -> FieldUse:
    """A field by its name. known: the fields of all documents, None where there are thousands.
    Raises MisuseError for one that no document has."""
    use = read_field(field)
    if use.own and use.path == ("text",):
        raise MisuseError("text is the document's own and no value; .text is the metadata's")
    if known is not None and not use.own and dotted(use.path) not in known:
        there = ", ".join(sorted(known)[:10]) or "none"
        raise MisuseError(f"no document has the field {field!r}; there are {there}")
    return use


def _values(snapshot: Snapshot, matching: list[Numbers], use: FieldUse) -> Iterator[Any]:
    """The value of a field in each of some documents, MISSING where one lacks it."""
    for segment, numbers in zip(snapshot.segments, matching, strict=True):
        values = _values_of(segment, use)
        yield from (values[number] for number in numbers.tolist())


def _values_of(segment: OpenSegment, use: FieldUse) -> list[Any]:
    column = segment.fields.column(use.path, use.own)
    if column == NOWHERE:
        return [MISSING] * segment.entry.documents
    if column is not None:
        cells = segment.fields.values(column)
        return [MISSING if cell is None else value_of(cell) for cell in cells]
    described = segment.documents.described()
    return [_within(json.loads(metadata), use.path) for _, _, metadata, _ in described]


def _within(value: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        if not isinstance(value, dict) or name not in value:
            return MISSING
        value = value[name]
    return value
