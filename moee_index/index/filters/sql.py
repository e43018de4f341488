"""From a filter's tree to one SQL expression, however the single tests are written.

Handles `and`, `or`, `not` and the limits of SQLite's parser. Text from a filter never becomes part
of the SQL: it is always a parameter. Where values are stored is left to `over_columns` and
`over_json`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from moee_index.index.filters.grammar import Chain, Node, Not, Test

_DEEP = 8  # levels of and within or within and; up to here tests are asked in the filter's order
_LONG = 32


class Piece(NamedTuple):
    """A part of the expression and the parameters of its question marks, in order."""

    sql: str
    parameters: tuple[Any, ...] = ()


def write(template: str, *pieces: Piece) -> Piece:
    """The template with the pieces in its braces, their parameters in the same order."""
    return Piece(
        template.format(*(piece.sql for piece in pieces)),
        tuple(parameter for piece in pieces for parameter in piece.parameters),
    )


def joined(glue: str, pieces: Sequence[Piece]) -> Piece:
    return write(glue.join(["{}"] * len(pieces)), *pieces)


def one_of(left: Piece, right: Sequence[Piece]) -> Piece:
    if len(right) == 1:
        return write("{} = {}", left, right[0])
    return write("{} IN ({})", left, joined(", ", right))


def beside(test: Test, holds: Piece, spelled: Piece) -> Piece:
    """A test that holds, or of the numbers that texts spell `spelled` does (`Test.of_numbers`)."""
    if test.operator == "!=":
        return write("({} AND ({}) IS NOT TRUE)", holds, spelled)
    return write("({} OR {})", holds, spelled)


def whole(tree: Node, test: Callable[[Test], Piece]) -> tuple[str, list[Any]]:
    """An expression that is 1 or 0, never NULL, for each row; its parameters.

    test: writes one test, which is true where it holds and false or NULL where it does not.
    """
    normal = _normal(tree, negated=False)
    expression = write("({}) IS TRUE", _expression(normal, test, reorder=_depth(normal) > _DEEP))
    return expression.sql, list(expression.parameters)


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


def _expression(tree: Node, test: Callable[[Test], Piece], reorder: bool) -> Piece:
    # NULL means false inside: `IS NOT TRUE` and the outermost `IS TRUE` settle it.
    if isinstance(tree, Test):
        return test(tree)
    if isinstance(tree, Not):
        assert isinstance(tree.term, Test)
        return write("({}) IS NOT TRUE", test(tree.term))
    # Where there are many levels the deepest comes first: nothing then waits before a parenthesis.
    terms = sorted(tree.terms, key=_depth, reverse=True) if reorder else tree.terms
    pieces = [
        # AND binds closer than OR by itself.
        write("({})", _expression(term, test, reorder))
        if isinstance(term, Chain) and term.word == "or"
        else _expression(term, test, reorder)
        for term in terms
    ]
    glue = f" {tree.word.upper()} "
    # A flat chain is a tree as deep as it is long, and SQLite refuses more than 1000 levels.
    while len(pieces) > _LONG:
        pieces = [
            write("({})", joined(glue, pieces[at : at + _LONG]))
            for at in range(0, len(pieces), _LONG)
        ]
    return joined(glue, pieces)
