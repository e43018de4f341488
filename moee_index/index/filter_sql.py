"""From a filter's tree to one SQL expression over the documents table.

Knows SQLite (3.38 and later) and how metadata is stored: one JSON object, as
`json.dumps(…, ensure_ascii=False, allow_nan=False)` writes it. Refuses to know the grammar and any
connection. Everything that comes from a filter, paths included, is a parameter.

What each form costs, in units of the plain `json_extract(metadata, '$.lang') = ?` (100,000
documents, five fields): one look into the JSON 1.0; a second look at the same document 0.25,
because SQLite keeps the parsed text; `json_each` 0.7 more; a search for a part of the metadata's
text 0.4 to 0.6. Hence text, true, false and null are compared as JSON text (`->`), which is value
and type in one look; numbers are compared first and their type is asked of those that agree; and
`contains` first asks whether the words stand anywhere in the metadata.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from moee_index.index.filter_grammar import Chain, Node, Not, Test
from moee_index.index.filter_words import Value

# Fields that are columns wherever a document's metadata has no field of that name.
COLUMNS: Mapping[tuple[str, ...], str] = {("id",): "id", ("text",): "text"}

_INT64 = range(-(2**63), 2**63)
_DEEP = 8  # levels of and within or within and; up to here tests are asked in the filter's order
_LONG = 32


class _Piece(NamedTuple):
    """A part of the expression and the parameters of its question marks, in order."""

    sql: str
    parameters: tuple[Any, ...] = ()


@dataclass(frozen=True)
class _Place:
    """Where a value is: expressions for it, its type as json_type names it, its elements.

    json: the value's own JSON text; None where SQLite does not give it. within: JSON text that
    holds the value's JSON text somewhere; None where there is none.
    """

    kind: _Piece
    value: _Piece
    elements: _Piece
    json: _Piece | None = None
    within: _Piece | None = None


def to_sql(tree: Node) -> tuple[str, list[Any]]:
    """An expression that is 1 or 0, never NULL, for each row of documents; its parameters."""
    normal = _normal(tree, negated=False)
    whole = _write("({}) IS TRUE", _expression(normal, reorder=_depth(normal) > _DEEP))
    return whole.sql, list(whole.parameters)


def _normal(tree: Node, negated: bool) -> Node:
    """The same with `not` at the tests only, and no chain inside a chain of the same word.

    SQLite's parser holds 100 unfinished words (until 3.46), so each level of SQL has to be earned.
    """
    if isinstance(tree, Not):
        return _normal(tree.term, not negated)
    if isinstance(tree, Test):
        return Not(tree) if negated else tree
    word: Literal["and", "or"] = "or" if (tree.word == "and") == negated else "and"
    terms: list[Node] = []
    for term in tree.terms:
        inner = _normal(term, negated)
        terms += inner.terms if isinstance(inner, Chain) and inner.word == word else [inner]
    return Chain(word, tuple(terms))


def _depth(tree: Node) -> int:
    return 1 + max(map(_depth, tree.terms)) if isinstance(tree, Chain) else 0


def _expression(tree: Node, reorder: bool) -> _Piece:
    # NULL stands for false inside: `IS NOT TRUE` and the outermost `IS TRUE` settle it.
    if isinstance(tree, Test):
        return _test(tree)
    if isinstance(tree, Not):
        assert isinstance(tree.term, Test)
        return _write("({}) IS NOT TRUE", _test(tree.term))
    # Where there are many levels the deepest comes first: nothing then waits before a parenthesis.
    terms = sorted(tree.terms, key=_depth, reverse=True) if reorder else tree.terms
    pieces = [
        # AND binds closer than OR by itself.
        _write("({})", _expression(term, reorder))
        if isinstance(term, Chain) and term.word == "or"
        else _expression(term, reorder)
        for term in terms
    ]
    glue = f" {tree.word.upper()} "
    # A flat chain is a tree as deep as it is long, and SQLite refuses more than 1000 levels.
    while len(pieces) > _LONG:
        pieces = [
            _write("({})", _joined(glue, pieces[at : at + _LONG]))
            for at in range(0, len(pieces), _LONG)
        ]
    return _joined(glue, pieces)


def _test(test: Test) -> _Piece:
    path = test.field.path
    if all(name and '"' not in name for name in path):
        label = _Piece("?", ("$" + "".join(f".{_json(name)}" for name in path),))
        place = _Place(
            kind=_write("json_type(metadata, {})", label),
            value=_write("(metadata ->> {})", label),
            elements=_write("json_each(metadata, {})", label),
            json=_write("(metadata -> {})", label),
            within=_Piece("metadata"),
        )
        found = _holds(test, place)
    else:
        found = _holds_oddly(test)
    column = COLUMNS.get(path)
    if column is None:
        return found
    beside = _Place(_Piece("'text'"), _Piece(column), _Piece("json_each('[]')"))
    return _write(
        "CASE WHEN json_type(metadata, {}) IS NULL THEN {} ELSE {} END",
        _Piece("?", (f"$.{_json(path[0])}",)),
        _holds(test, beside),
        found,
    )


def _holds_oddly(test: Test) -> _Piece:
    """A field whose name no JSON path can hold in every version of SQLite: `"`, or nothing."""
    tables, conditions = [], []
    above = _Piece("metadata")
    for level, name in enumerate(test.field.path):
        node = f"level{level}"
        tables.append(_write(f"json_each({{}}) AS {node}", above))
        conditions.append(_Piece(f"{node}.key = ?", (name,)))
        above = _Piece(f"CASE {node}.type WHEN 'object' THEN {node}.value ELSE '{{}}' END")
    return _write(
        "EXISTS (SELECT 1 FROM {} WHERE {} AND {})",
        _joined(", ", tables),
        _joined(" AND ", conditions),
        _holds(test, _node(node)),
    )


def _node(alias: str) -> _Place:
    """The value of a row of json_each."""
    return _Place(
        _Piece(f"{alias}.type"), _Piece(f"{alias}.value"), _Piece(f"json_each({alias}.value)")
    )


def _holds(test: Test, place: _Place) -> _Piece:
    if test.operator == "exists":
        return _there(place)
    if test.operator == "=":
        return _equal(place, test.values)
    if test.operator == "contains":
        return _contains(place, test.values[0])
    if test.operator == "!=":
        if place.json is not None and all(value.kind != "number" for value in test.values):
            return _write("{} NOT IN ({})", place.json, _joined(", ", _as_json(test.values)))
        return _write("({} AND ({}) IS NOT TRUE)", _there(place), _equal(place, test.values))
    if test.operator == "not contains":
        return _write("({} AND ({}) IS NOT TRUE)", _there(place), _contains(place, test.values[0]))
    value = test.values[0]
    return _write(
        f"({{}} {test.operator} {{}} AND {{}} {_kinds_of(value)})",
        place.value,
        _literal(value),
        place.kind,
    )


def _there(place: _Place) -> _Piece:
    return _write("{} IS NOT NULL", place.kind)


def _equal(place: _Place, values: Sequence[Value]) -> _Piece:
    """The value is one of these, of the same type: 1 is neither true nor "1"."""
    numbers = [value for value in values if value.kind == "number"]
    texts = [value for value in values if value.kind == "text"]
    words = [value for value in values if value.kind in ("boolean", "null")]
    ways = []
    if place.json is not None:
        if texts or words:
            ways.append(_one_of(place.json, _as_json(texts + words)))
    else:
        if texts:
            is_text = _write("{} = 'text'", place.kind)
            among = _one_of(place.value, [_literal(value) for value in texts])
            ways.append(_write("({} AND {})", is_text, among))
        if words:
            ways.append(_one_of(place.kind, _as_json(words)))  # json_type names them as JSON does
    if numbers:
        among = _one_of(place.value, [_literal(value) for value in numbers])
        ways.append(_write(f"({{}} AND {{}} {_kinds_of(numbers[0])})", among, place.kind))
    return ways[0] if len(ways) == 1 else _write("({})", _joined(" OR ", ways))


def _contains(place: _Place, value: Value) -> _Piece:
    """A text has it as a part; a list has it as an element."""
    element = _equal(_node("element"), [value])
    among = _write("EXISTS (SELECT 1 FROM {} AS element WHERE {})", place.elements, element)
    if value.kind != "text":
        return _write("CASE {} WHEN 'array' THEN {} END", place.kind, among)
    part = _write("instr({}, {}) > 0", place.value, _literal(value))
    found = _write("CASE {} WHEN 'text' THEN {} WHEN 'array' THEN {} END", place.kind, part, among)
    if place.within is None:
        return found
    # JSON escapes one character after the other, so a part stays a part when it is written so.
    inside = _Piece("?", (_json(value.content)[1:-1],))
    return _write("(instr({}, {}) > 0 AND {})", place.within, inside, found)


def _one_of(left: _Piece, right: Sequence[_Piece]) -> _Piece:
    if len(right) == 1:
        return _write("{} = {}", left, right[0])
    return _write("{} IN ({})", left, _joined(", ", right))


def _as_json(values: Iterable[Value]) -> list[_Piece]:
    return [_Piece("?", (_json(value.content),)) for value in values]


def _kinds_of(value: Value) -> str:
    """Asked of json_type, because ->> gives 1 and 0 for booleans and text for lists."""
    return "IN ('integer', 'real')" if value.kind == "number" else "= 'text'"


def _literal(value: Value) -> _Piece:
    content = value.content
    if isinstance(content, str) or (isinstance(content, int) and content in _INT64):
        return _Piece("?", (content,))
    # SQLite's reading of decimals may be off by one in the last bit: let it read this one too.
    # A function's result has no affinity, as ->> has none, so that no text becomes a number.
    return _Piece("(? ->> '$')", (repr(content),))


def _json(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False)


def _write(template: str, *pieces: _Piece) -> _Piece:
    """The template with the pieces in its braces, their parameters in the same order."""
    return _Piece(
        template.format(*(piece.sql for piece in pieces)),
        tuple(one for piece in pieces for one in piece.parameters),
    )


def _joined(glue: str, pieces: Sequence[_Piece]) -> _Piece:
    return _write(glue.join(["{}"] * len(pieces)), *pieces)
