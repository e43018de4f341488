"""Tests of a filter in SQL over a table in which every field has a column of cells (store/fields).

SQLite never finds values of different storage classes equal, and orders them: numbers, texts,
blobs. So a type needs no second look, and one scan of narrow rows answers a filter in a sixth of
the time that JSON takes. JSON escapes line ends, so that an element of a list is found with its
line ends around it by one search for bytes.

Leaves the grammar to grammar.py, the cells and the connection to store/fields.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from moee_index.index.filters.grammar import FieldUse, Node, Test, tests_of
from moee_index.index.filters.lexer import Value
from moee_index.index.filters.sql import Piece, beside, joined, one_of, whole, write
from moee_index.index.store.fields import LINE, Cells, cell, element

# A field's path, and whether it is the document's own → its cells, NOWHERE if no document has the
# field, None if it cannot be asked for.
Column = Callable[[tuple[str, ...], bool], Cells | None]
# Only lists have line ends in their cells, and every list has one.
_LEAST_TEXT, _LEAST_BLOB = Piece("''"), Piece("x''")


def to_sql(tree: Node, column: Column) -> tuple[str, list[Any]] | None:
    """An expression that is 1 or 0, never NULL, for each row; its parameters.

    None where a field cannot be asked for here.
    """
    found: dict[FieldUse, Cells] = {}
    for test in tests_of(tree):
        cells = column(test.field.path, test.field.own)
        if cells is None:
            return None
        found[test.field] = cells
    return whole(tree, lambda test: _test(test, found[test.field]))


def _test(test: Test, cells: Cells) -> Piece:
    """A test, of numbers also against those that texts spell."""
    holds = _holds(test, Piece(cells.cell))
    spelled = test.of_numbers()
    if cells.number is None or spelled is None:
        return holds
    return beside(test, holds, _holds(spelled, Piece(cells.number)))


def _holds(test: Test, cell_sql: Piece) -> Piece:
    is_there = write("{} IS NOT NULL", cell_sql)
    if test.operator == "exists":
        return is_there
    if test.operator == "=":
        return one_of(cell_sql, _cells(test.values))
    if test.operator == "!=":
        return write("{} NOT IN ({})", cell_sql, joined(", ", _cells(test.values)))
    if test.operator == "contains":
        return _contains(cell_sql, test.values[0])
    if test.operator == "not contains":
        return write("({} AND ({}) IS NOT TRUE)", is_there, _contains(cell_sql, test.values[0]))
    value = test.values[0]
    compared = write(f"{{}} {test.operator} {{}}", cell_sql, _parameter(cell(value.content)))
    rising = test.operator in (">", ">=")
    if value.kind == "number":
        # Texts and blobs sort above all numbers.
        return write("({} AND {} < {})", compared, cell_sql, _LEAST_TEXT) if rising else compared
    if rising:
        return write("({} AND {} < {})", compared, cell_sql, _LEAST_BLOB)
    return write("({} AND {} >= {})", compared, cell_sql, _LEAST_TEXT)


def _contains(cell_sql: Piece, value: Value) -> Piece:
    """A text has it as a part; a list has it as an element."""
    line = _parameter(f"{LINE}{element(value.content)}{LINE}".encode())
    among = write("instr({}, {}) > 0", cell_sql, line)
    if value.kind != "text":
        return write("CASE typeof({}) WHEN 'blob' THEN {} END", cell_sql, among)
    part = write("instr({}, {}) > 0", cell_sql, _parameter(value.content))
    return write(
        "CASE typeof({}) WHEN 'text' THEN {} WHEN 'blob' THEN {} END", cell_sql, part, among
    )


def _cells(values: Iterable[Value]) -> list[Piece]:
    return [_parameter(cell(value.content)) for value in values]


def _parameter(value: Any) -> Piece:
    return Piece("?", (value,))
