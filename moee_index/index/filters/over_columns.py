"""Tests of a filter in SQL over a table in which every field has a column, and what stands there.

| value of the field | its cell |
|---|---|
| none | NULL |
| number | INTEGER or REAL; whole numbers beyond 64 bits as the nearest double |
| text | TEXT |
| null, true, false | a blob of one letter: n, t, f |
| object | the blob o |
| list | a blob of lines: each element that is no list or object, as JSON, between line ends |

SQLite never finds values of different storage classes equal, and orders them: numbers, texts,
blobs. So a type needs no second look, and one scan of narrow rows answers a filter in a sixth of
the time that JSON takes. JSON escapes line ends, so that an element of a list is found with its
line ends around it by one search for bytes.

Knows the cells and how to ask for them. Refuses to know the grammar, any connection, and which
fields are worth a column.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from moee_index.index.filters.grammar import Node, Test, tests_of
from moee_index.index.filters.lexer import Value
from moee_index.index.filters.sql import INT64, Piece, joined, one_of, whole, write

Cell = int | float | str | bytes | None
# A field's path → SQL that names its column, NOWHERE if no document has the field, None if it
# cannot be asked for.
Column = Callable[[tuple[str, ...]], str | None]
NOWHERE = "NULL"
_OBJECT = b"o"
_WORDS = {None: b"n", True: b"t", False: b"f"}
_LINE = "\n"
# No cell that is no list has a line end, and a list always has one.
_LEAST_TEXT, _LEAST_BLOB = Piece("''"), Piece("x''")


def cell(value: Any) -> Cell:
    """What stands in a field's column for a value as json.loads gives it."""
    if value is None or isinstance(value, bool):
        return _WORDS[value]
    if isinstance(value, int | float):
        return _number(value)
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return _OBJECT
    plain = (one for one in value if not isinstance(one, Mapping | list | tuple))
    return "".join([_LINE, *(_element(one) + _LINE for one in plain)]).encode()


def to_sql(tree: Node, column: Column) -> tuple[str, list[Any]] | None:
    """An expression that is 1 or 0, never NULL, for each row; its parameters.

    None where a field cannot be asked for here.
    """
    places: dict[tuple[str, ...], Piece] = {}
    for test in tests_of(tree):
        sql = column(test.field.path)
        if sql is None:
            return None
        places[test.field.path] = Piece(sql)
    return whole(tree, lambda test: _holds(test, places[test.field.path]))


def _holds(test: Test, place: Piece) -> Piece:
    there = write("{} IS NOT NULL", place)
    if test.operator == "exists":
        return there
    if test.operator == "=":
        return one_of(place, _cells(test.values))
    if test.operator == "!=":
        return write("{} NOT IN ({})", place, joined(", ", _cells(test.values)))
    if test.operator == "contains":
        return _contains(place, test.values[0])
    if test.operator == "not contains":
        return write("({} AND ({}) IS NOT TRUE)", there, _contains(place, test.values[0]))
    value = test.values[0]
    compared = write(f"{{}} {test.operator} {{}}", place, _parameter(cell(value.content)))
    rising = test.operator in (">", ">=")
    if value.kind == "number":
        # Texts and blobs stand above all numbers.
        return write("({} AND {} < {})", compared, place, _LEAST_TEXT) if rising else compared
    if rising:
        return write("({} AND {} < {})", compared, place, _LEAST_BLOB)
    return write("({} AND {} >= {})", compared, place, _LEAST_TEXT)


def _contains(place: Piece, value: Value) -> Piece:
    """A text has it as a part; a list has it as an element."""
    line = _parameter(f"{_LINE}{_element(value.content)}{_LINE}".encode())
    among = write("instr({}, {}) > 0", place, line)
    if value.kind != "text":
        return write("CASE typeof({}) WHEN 'blob' THEN {} END", place, among)
    part = write("instr({}, {}) > 0", place, _parameter(value.content))
    return write("CASE typeof({}) WHEN 'text' THEN {} WHEN 'blob' THEN {} END", place, part, among)


def _cells(values: Iterable[Value]) -> list[Piece]:
    return [_parameter(cell(value.content)) for value in values]


def _parameter(value: Any) -> Piece:
    return Piece("?", (value,))


def _element(value: Any) -> str:
    """An element of a list, the same text for the same value: 1 and 1.0 are one."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = _number(value)
        if isinstance(value, float) and value.is_integer() and int(value) in INT64:
            value = int(value)
        return repr(value)
    return json.dumps(value, ensure_ascii=False)


def _number(value: int | float) -> int | float:
    """As SQLite can hold it."""
    if isinstance(value, float) or value in INT64:
        return value
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
