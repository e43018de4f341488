"""Tests of a filter in SQL over the documents table, where metadata is one JSON object.

Every field can be asked for here, and what a filter costs shows it: `over_columns` is tried first.
Needs SQLite 3.38 or later, and JSON as `json.dumps(…, ensure_ascii=False, allow_nan=False)` writes
it. Paths are parameters too.

What each form costs, in units of the plain `json_extract(metadata, '$.lang') = ?` (100,000
documents, five fields): one look into the JSON 1.0; a second look at the same document 0.25,
because SQLite keeps the parsed text; `json_each` 0.7 more; a search for a part of the metadata's
text 0.4 to 0.6. Hence text, true, false and null are compared as JSON text (`->`), which is value
and type in one look; numbers are compared first and their type is asked of those that agree; and
`contains` first asks whether the words occur anywhere in the metadata.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from typing import Any

from moee_index.index.filters.grammar import Node, Test
from moee_index.index.filters.lexer import Value
from moee_index.index.filters.sql import Piece, beside, joined, one_of, whole, write
from moee_index.index.store.fields import INT64


@dataclass(frozen=True)
class _FieldSql:
    """Where a value is: expressions for it, its type as json_type names it, its elements.

    json: the value's own JSON text; None where SQLite does not give it. within: JSON text that
    contains the value's JSON text; None if there is none.
    """

    kind: Piece
    value: Piece
    elements: Piece
    json: Piece | None = None
    within: Piece | None = None


# The numbers that texts of a document's metadata spell, as JSON like that; NULL if none does.
_NUMBERS = Piece("(SELECT fields FROM numbers WHERE document = documents.number)")


def to_sql(tree: Node, numbers: bool) -> tuple[str, list[Any]]:
    """An expression that is 1 or 0, never NULL, for each row of documents; its parameters.

    numbers: whether there is a table of the numbers that texts spell.
    """
    return whole(tree, lambda test: _test(test, numbers))


def _test(test: Test, numbers: bool) -> Piece:
    if test.field.own:
        column = Piece(test.field.path[0])
        return _holds(test, _FieldSql(Piece("'text'"), column, Piece("json_each('[]')")))
    holds = _among(test, Piece("metadata"))
    spelled = test.of_numbers()
    if not numbers or spelled is None:
        return holds
    return beside(test, holds, _among(spelled, _NUMBERS))


def _among(test: Test, fields: Piece) -> Piece:
    """A test of a field of a JSON object."""
    path = test.field.path
    if all(name and '"' not in name for name in path):
        label = Piece("?", ("$" + "".join(f".{_json(name)}" for name in path),))
        field = _FieldSql(
            kind=write("json_type({}, {})", fields, label),
            value=write("({} ->> {})", fields, label),
            elements=write("json_each({}, {})", fields, label),
            json=write("({} -> {})", fields, label),
            within=fields,
        )
        holds = _holds(test, field)
        if ends_names_at_nul():
            nul = Piece("?", (r"\u0000",))
            oddly = _holds_oddly(test, fields)
            holds = write("CASE WHEN instr({}, {}) THEN {} ELSE {} END", fields, nul, oddly, holds)
    else:
        holds = _holds_oddly(test, fields)
    return holds


@cache
def ends_names_at_nul() -> bool:
    """Whether the installed SQLite takes a field `x\\0…` for `x` in a path: 3.53 does, 3.40 not.
    Documents with a NUL somewhere are then asked name by name."""
    with closing(sqlite3.connect(":memory:")) as memory:
        answer = memory.execute("SELECT json_type(?, '$.x')", (r'{"x\u0000": 1}',)).fetchone()
    return bool(answer != (None,))


def _holds_oddly(test: Test, fields: Piece) -> Piece:
    """A field whose name no JSON path can hold in every version of SQLite: `"`, or nothing."""
    tables, conditions = [], []
    above = fields
    for level, name in enumerate(test.field.path):
        node = f"level{level}"
        tables.append(write(f"json_each({{}}) AS {node}", above))
        conditions.append(Piece(f"{node}.key = ?", (name,)))
        above = Piece(f"CASE {node}.type WHEN 'object' THEN {node}.value ELSE '{{}}' END")
    return write(
        "EXISTS (SELECT 1 FROM {} WHERE {} AND {})",
        joined(", ", tables),
        joined(" AND ", conditions),
        _holds(test, _node(node)),
    )


def _node(alias: str) -> _FieldSql:
    """The value of a row of json_each."""
    return _FieldSql(
        Piece(f"{alias}.type"), Piece(f"{alias}.value"), Piece(f"json_each({alias}.value)")
    )


def _holds(test: Test, field: _FieldSql) -> Piece:
    if test.operator == "exists":
        return _there(field)
    if test.operator == "=":
        return _equal(field, test.values)
    if test.operator == "contains":
        return _contains(field, test.values[0])
    if test.operator == "!=":
        if field.json is not None and all(value.kind != "number" for value in test.values):
            return write("{} NOT IN ({})", field.json, joined(", ", _as_json(test.values)))
        return write("({} AND ({}) IS NOT TRUE)", _there(field), _equal(field, test.values))
    if test.operator == "not contains":
        return write("({} AND ({}) IS NOT TRUE)", _there(field), _contains(field, test.values[0]))
    value = test.values[0]
    return write(
        f"({{}} {test.operator} {{}} AND {{}} {_kinds_of(value)})",
        field.value,
        _literal(value),
        field.kind,
    )


def _there(field: _FieldSql) -> Piece:
    return write("{} IS NOT NULL", field.kind)


def _equal(field: _FieldSql, values: Sequence[Value]) -> Piece:
    """The value is one of these, of the same type: 1 is neither true nor "1"."""
    numbers = [value for value in values if value.kind == "number"]
    texts = [value for value in values if value.kind == "text"]
    words = [value for value in values if value.kind in ("boolean", "null")]
    ways = []
    if field.json is not None:
        if texts or words:
            ways.append(one_of(field.json, _as_json(texts + words)))
    else:
        if texts:
            is_text = write("{} = 'text'", field.kind)
            among = one_of(field.value, [_literal(value) for value in texts])
            ways.append(write("({} AND {})", is_text, among))
        if words:
            ways.append(one_of(field.kind, _as_json(words)))  # json_type names them as JSON does
    if numbers:
        among = one_of(field.value, [_literal(value) for value in numbers])
        ways.append(write(f"({{}} AND {{}} {_kinds_of(numbers[0])})", among, field.kind))
    return ways[0] if len(ways) == 1 else write("({})", joined(" OR ", ways))


def _contains(field: _FieldSql, value: Value) -> Piece:
    """A text has it as a part; a list has it as an element."""
    element = _equal(_node("element"), [value])
    among = write("EXISTS (SELECT 1 FROM {} AS element WHERE {})", field.elements, element)
    if value.kind != "text":
        return write("CASE {} WHEN 'array' THEN {} END", field.kind, among)
    part = write("instr({}, {}) > 0", field.value, _literal(value))
    contained = write(
        "CASE {} WHEN 'text' THEN {} WHEN 'array' THEN {} END", field.kind, part, among
    )
    if field.within is None:
        return contained
    # JSON escapes one character after the other, so a part stays a part when it is written so.
    inside = Piece("?", (_json(value.content)[1:-1],))
    return write("(instr({}, {}) > 0 AND {})", field.within, inside, contained)


def _as_json(values: Iterable[Value]) -> list[Piece]:
    return [Piece("?", (_json(value.content),)) for value in values]


def _kinds_of(value: Value) -> str:
    """Asked of json_type, because ->> gives 1 and 0 for booleans and text for lists."""
    return "IN ('integer', 'real')" if value.kind == "number" else "= 'text'"


def _literal(value: Value) -> Piece:
    content = value.content
    if isinstance(content, str) or (isinstance(content, int) and content in INT64):
        return Piece("?", (content,))
    # SQLite's reading of decimals may be off by one in the last bit: let it read this one too.
    # A function's result has no affinity, as ->> has none, so that no text becomes a number.
    return Piece("(? ->> '$')", (repr(content),))


def _json(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False)
