"""From a filter's text to a tree: words, limits, errors that name the position.

SQL is made of the tree elsewhere; which fields an index has is not asked here.

    filter    = and_chain { "or" and_chain }
    and_chain = term { "and" term }
    term      = "not" term | "(" filter ")" | "exists" "(" field ")" | field test
    test      = ( "=" | "==" | "!=" | "<>" | "<" | "<=" | ">" | ">=" ) value
              | [ "not" ] "in" "(" value { "," value } ")"
              | [ "not" ] "contains" value
              | [ "not" ] "exists"
    value     = text | number | "true" | "false" | "null"
    field     = [ "." ] name { "." name }

`id` and `text` are the document's own; with a dot in front they are the metadata's fields, as any
other field is with or without it. Keywords are case-insensitive. A number is written as in JSON. A
text is written in double or single quotes; in it the quote itself is written twice or after a
backslash, and JSON's escapes hold:
\\" \\' \\\\ \\/ \\b \\f \\n \\r \\t \\uXXXX. A name is made of letters of any script, digits, `_`
and, inside, `-`; it begins with a letter or `_`. Any other name is written in backticks, where only
the backtick itself is special: it is written twice. Names are compared by code point, with their
case.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NoReturn

from moee_index.index.filters.lexer import Token, Tokens, Value, fail
from moee_index.index.store.field_names import OWN
from moee_index.text import shown

MAX_CHARACTERS = 10_000
MAX_NESTING = 50
MAX_VALUES = 500

_TESTS = "an operator (=, !=, <, <=, >, >=, in, not in, contains, exists)"

Operator = Literal["=", "!=", "<", "<=", ">", ">=", "contains", "not contains", "exists"]


@dataclass(frozen=True)
class FieldUse:
    """One place of a filter where a field is named.

    name: as written. path: one name a level of nested objects. position: 1-based column.
    kinds: of the values it is compared with: number, text, boolean, null; `any` for exists.
    own: whether it is the document's own id or text, not a field of its metadata.
    """

    name: str
    path: tuple[str, ...]
    position: int
    kinds: frozenset[str]
    own: bool = False


@dataclass(frozen=True)
class Test:
    """A field against no value (exists), one, or several (`=` is in, `!=` is not in)."""

    field: FieldUse
    operator: Operator
    values: tuple[Value, ...]

    def of_numbers(self) -> Test | None:
        """What is asked of the number that a text spells: the comparison with the numbers among
        the values, and for `!=` its contrary. None where no number is compared with."""
        numbers = tuple(value for value in self.values if value.kind == "number")
        if not numbers or self.operator in ("contains", "not contains"):
            return None
        return Test(self.field, "=" if self.operator == "!=" else self.operator, numbers)


@dataclass(frozen=True)
class Not:
    term: Node


@dataclass(frozen=True)
class Chain:
    """word: and, or. terms: two or more, in one level however many they are."""

    word: Literal["and", "or"]
    terms: tuple[Node, ...]


Node = Test | Not | Chain


def tests_of(tree: Node) -> Iterator[Test]:
    """The tests of a tree in the order of the text."""
    if isinstance(tree, Test):
        yield tree
    elif isinstance(tree, Not):
        yield from tests_of(tree.term)
    else:
        for term in tree.terms:
            yield from tests_of(term)


def parse(text: str) -> tuple[Node, tuple[FieldUse, ...]]:
    """The tree of a filter, and every use of a field in the order of the text.

    Raises FilterError, with the position and what was expected there.
    """
    if len(text) > MAX_CHARACTERS:
        fail(text, MAX_CHARACTERS + 1, f"a filter has at most {MAX_CHARACTERS:,} characters")
    return _Parser(text).parse()


class _Parser:
    """Recursive descent; only parentheses and `not` go deeper, and these are counted."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = Tokens(text)
        self._token = self._tokens.next()
        self._fields: list[FieldUse] = []
        self._depth = 0
        self._values = 0

    def parse(self) -> tuple[Node, tuple[FieldUse, ...]]:
        if self._token.kind == "end":
            fail(self._text, 1, 'the filter is empty; expected something like lang = "en"')
        tree = self._chain("or")
        if self._token.kind != "end":
            self._expected("and, or, or the end of the filter")
        return tree, tuple(self._fields)

    def _chain(self, word: Literal["and", "or"]) -> Node:
        terms: list[Node] = []
        while True:
            terms.append(self._chain("and") if word == "or" else self._term())
            if not self._is_word(word):
                return terms[0] if len(terms) == 1 else Chain(word, tuple(terms))
            self._advance()

    def _term(self) -> Node:
        if self._is_word("not"):
            self._deeper()
            self._advance()
            inside = self._term()
            self._depth -= 1
            return Not(inside)
        if self._token.kind == "(":
            self._deeper()
            self._advance()
            inside = self._chain("or")
            self._expect(")", "and, or, or )")
            self._depth -= 1
            return inside
        if self._is_word("exists"):
            self._advance()
            self._expect("(", "( and a field after exists")
            field = self._take_name("a field name after exists (")
            self._expect(")", ") after the field of exists")
            return self._test(field, "exists", ())
        return self._comparison(self._take_name("a field name, not, exists or ("))

    def _comparison(self, field: Token) -> Node:
        token = self._token
        if token.kind == "operator":
            self._advance()
            operator = {"==": "=", "<>": "!="}.get(token.text, token.text)
            value = self._value(f"a value after {token.text}", token.text)
            if operator not in ("=", "!=") and value.kind in ("boolean", "null"):
                fail(
                    self._text,
                    value.position,
                    "true, false and null have no order: expected a number or a text, or = or !=",
                )
            return self._test(field, operator, (value,))
        negated = self._is_word("not")
        if negated:
            self._advance()
        if self._is_word("in"):
            self._advance()
            return self._test(field, "!=" if negated else "=", self._list())
        if self._is_word("contains"):
            self._advance()
            value = self._value("a value after contains", "contains")
            return self._test(field, "not contains" if negated else "contains", (value,))
        if self._is_word("exists"):
            self._advance()
            test = self._test(field, "exists", ())
            return Not(test) if negated else test
        if negated:
            self._expected("in, contains or exists after not")
        self._expected(f"{_TESTS} after the field {shown(field.text)}")

    def _list(self) -> tuple[Value, ...]:
        self._expect("(", "( and a list of values after in")
        values = [self._value("a value in the list", "in (")]
        while self._token.kind == ",":
            self._advance()
            values.append(self._value("a value after the comma", "in ("))
        self._expect(")", "a comma or ) in the list of values")
        return tuple(values)

    def _value(self, what: str, before: str) -> Value:
        token = self._token
        value = token.value
        if token.kind == "word" and token.text in ("true", "false"):
            value = Value("boolean", token.text == "true", token.position)
        elif token.kind == "word" and token.text == "null":
            value = Value("null", None, token.position)
        if value is None:
            hint = ""
            if token.kind == "name":
                hint = f'; text stands in quotes: {before} "{shown(token.text)}"'
            self._expected(what, hint)
        self._values += 1
        if self._values > MAX_VALUES:
            fail(self._text, token.position, f"a filter has at most {MAX_VALUES} values")
        self._advance()
        return value

    def _test(self, field: Token, operator: str, values: tuple[Value, ...]) -> Test:
        kinds = frozenset(value.kind for value in values) or frozenset({"any"})
        own = not field.of_metadata and len(field.path) == 1 and field.path[0] in OWN
        use = FieldUse(field.text, field.path, field.position, kinds, own)
        self._fields.append(use)
        return Test(use, operator, values)  # type: ignore[arg-type]

    def _take_name(self, what: str) -> Token:
        token = self._token
        if token.kind != "name":
            hint = ""
            if token.kind == "word":
                hint = "; a field of that name stands in backticks"
            elif token.kind == "value":
                hint = "; the field stands on the left, without quotes (backticks for odd names)"
            self._expected(what, hint)
        self._advance()
        return token

    def _is_word(self, word: str) -> bool:
        return self._token.kind == "word" and self._token.text == word

    def _advance(self) -> None:
        self._token = self._tokens.next()

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > MAX_NESTING:
            fail(
                self._text,
                self._token.position,
                f"parentheses and not go at most {MAX_NESTING} deep",
            )

    def _expect(self, kind: str, what: str) -> None:
        if self._token.kind != kind:
            self._expected(what)
        self._advance()

    def _expected(self, what: str, hint: str = "") -> NoReturn:
        token = self._token
        found = {
            "end": "the end of the filter",
            "name": f"the name {shown(token.text)}",
            "word": f"the word {token.text}",
            "value": f"the value {shown(token.text)}",
        }.get(token.kind, token.text)
        fail(self._text, token.position, f"expected {what}, found {found}{hint}")
