"""Filters: which documents a query may find, by their metadata.

    lang = "en" and year >= 2020 and not source in ("a", "b")

A filter becomes one parameterised SQL expression, which others run: either over a table with a
column for each field (`over_columns`) or over the table `documents(…, id, text, metadata)`, in
which `metadata` is a JSON object as text (`over_json`). How a filter is written: `grammar`.

| test | true for a document |
|---|---|
| `f = v`, `f == v` | that has f with this very value |
| `f != v`, `f <> v` | that has f with any other value, null, lists and other types included |
| `f < v`, `<=`, `>`, `>=` | whose f is of v's type and stands so to v; v a number or a text |
| `f in (v, w)` | that has f with one of these values |
| `f not in (v, w)` | that has f, and none of these values in it |
| `f contains v` | whose f is a text with v as a part of it, or a list with v as an element |
| `f not contains v` | that has f, and for which `f contains v` is false |
| `f exists`, `exists(f)` | that has f, even if it is null |
| `f not exists` | that lacks f |
| `f = null` | that has f, and it is null; `f != null`: that has f, and it is not null |

Every test is true or false, never unknown: of a field that a document lacks, all but `f not exists`
are false. So `not f = v` finds the documents without f and `f != v` does not; likewise
`not f in (…)` and `f not in (…)`. `not` binds closest, then `and`, then `or`.

Types are never mixed: 1 equals 1.0, but neither "1" nor true. A format without types is another
matter: metadata from CSV are texts, and `=`, `!=`, `in` and the order against a number read those
that are a number's shortest form (`7`, `2.5`, not `007`, `+7`, `7.0`), value by value, as that
number. They stay texts to texts: `year = "7"` finds them too. Text is compared with its case, by
code point, as stored: no locale, no Unicode normalisation. Integers of more than 64 bits are
compared as the nearest double, decimals as SQLite reads them (which is exact but for the last bit).
A list or an object equals no value; `contains` does not look into lists inside lists. A text of a
document that holds U+0000 is only compared whole with certainty: by order and by `contains` some
versions of SQLite see it up to there.

A dot goes into an object: `author.name`. A name with a dot in it, a blank, or a keyword is written
in backticks: `` `author.name` ``. `id` and `text` are the document's own; fields of its metadata
that have these names are `.id` and `.text`. Its title is in the metadata.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from moee_index.index.filters import over_columns, over_json
from moee_index.index.filters.grammar import (
    MAX_CHARACTERS,
    MAX_NESTING,
    MAX_VALUES,
    FieldUse,
    Node,
    Test,
    parse,
    tests_of,
)
from moee_index.index.filters.lexer import FilterError, fail
from moee_index.index.filters.over_columns import Column
from moee_index.index.store.field_names import OWN, asked_as, dotted
from moee_index.index.store.fields import kind_of, values_of
from moee_index.text import shown, text_fault

__all__ = [
    "MAX_CHARACTERS",
    "MAX_NESTING",
    "MAX_VALUES",
    "FieldUse",
    "Filter",
    "FilterError",
    "kind_of",
    "values_of",
]

_SUGGESTIONS = 10
_PLURALS = {
    "number": "numbers",
    "text": "text",
    "boolean": "true or false",
    "null": "null",
    "list": "lists",
    "object": "objects",
}


@dataclass(frozen=True)
class Filter:
    """A filter that was read without error. fields: every use of a field, in the text's order;
    checked: against more than one index, so that what one of them lacks is no slip."""

    text: str
    fields: tuple[FieldUse, ...] = field(compare=False)
    _tree: Node = field(repr=False, compare=False)
    checked: bool = False

    @classmethod
    def parse(cls, text: str) -> Filter:
        """Raises FilterError: one line with the position and what was expected there."""
        if not isinstance(text, str):
            raise FilterError(f'the filter {text_fault(text)}; write it as lang = "en"')
        tree, fields = parse(text)
        return cls(text, fields, tree)

    def over_json(self, *, numbers: bool = False) -> tuple[str, list[Any]]:
        """An expression for `SELECT … FROM documents WHERE <expression>`, and its parameters.

        numbers: whether there is a table `numbers(document, fields)` beside it. The expression is 1
        or 0 for every row, never NULL. Its question marks are plain, so that they can stand among
        others in a statement.
        """
        return over_json.to_sql(self._tree, numbers)

    def over_columns(self, column: Column) -> tuple[str, list[Any]] | None:
        """The same over a table of cells; None where a field has no column there.

        column: names a field's columns, NOWHERE where no document has that field.
        """
        return over_columns.to_sql(self._tree, column)

    def check(self, known: Mapping[str, Collection[str]]) -> None:
        """Refuse what can only be a slip: fields and types of values that no document has.

        known: names as `values_of` gives them → the kinds of value that documents have there.
        null may be asked of every field. Raises FilterError, naming the position.
        """
        fields = {asked_as(name): frozenset(kinds) for name, kinds in known.items()}
        fields |= dict.fromkeys(OWN, frozenset({"text"}))
        for test in tests_of(self._tree):
            self._check(test, fields)

    def _check(self, test: Test, fields: Mapping[str, frozenset[str]]) -> None:
        name = dotted(test.field.path)
        name = name if test.field.own else asked_as(name)
        here = fields.get(name)
        if here is None:
            near = nearest(name, fields)[:_SUGGESTIONS]
            more = f" and {len(fields) - len(near)} more" if len(fields) > len(near) else ""
            fail(
                self.text,
                test.field.position,
                f"no document has the field {shown(name)}; known fields, the nearest first: "
                + ", ".join(shown(one) for one in near)
                + more,
            )
        within = test.operator in ("contains", "not contains")
        held = _plurals(here)
        for value in test.values:
            if within:
                wanted = {"list", "text"} if value.kind == "text" else {"list"}
                wrong = f"and contains looks for a {value.kind} in {_plurals(wanted)}"
            else:
                wanted = set(here) if value.kind == "null" else {value.kind}
                wrong = f"not {_PLURALS[value.kind]}"
                if "list" in here:
                    wrong += "; use contains for an element of a list"
            if not here & wanted:
                fail(self.text, value.position, f"field {shown(name)} holds {held}, {wrong}")


def nearest(name: str, names: Iterable[str]) -> list[str]:
    """Names by their likeness to one that was written, the nearest first; case counts last."""

    def likeness(other: str) -> tuple[float, float, str]:
        folded = difflib.SequenceMatcher(None, other.casefold(), name.casefold()).ratio()
        exact = difflib.SequenceMatcher(None, other, name).ratio()
        return folded, exact, other

    return sorted(names, key=likeness, reverse=True)


def _plurals(kinds: Collection[str]) -> str:
    return " and ".join(plural for kind, plural in _PLURALS.items() if kind in kinds)
