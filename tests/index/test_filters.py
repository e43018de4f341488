"""Filters against a plain Python evaluator, over a real SQLite table, and their errors."""

from __future__ import annotations

import contextlib
import json
import pickle
import re
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from paths import FAST

from moee_index.errors import MisuseError
from moee_index.index.filters import (
    MAX_CHARACTERS,
    MAX_NESTING,
    MAX_VALUES,
    FieldUse,
    Filter,
    FilterError,
    kind_of,
    values_of,
)
from moee_index.index.store.fields import FieldReader, fill
from moee_index.index.store.spelled_numbers import spelled_number, spelled_numbers

MISSING = object()


@dataclass
class Tables:
    """The same documents as documents.sqlite and fields.sqlite of a segment have them."""

    json: sqlite3.Connection
    fields: FieldReader


def table(documents: list[dict[str, Any]], *, untyped: bool = False) -> Tables:
    """Document n has the id `d<n>` and the text `text <n>`. untyped: metadata are from CSV."""
    connection = sqlite3.connect(":memory:")
    connection.execute(
        "CREATE TABLE documents (number INTEGER PRIMARY KEY, id TEXT, title TEXT, text TEXT, "
        "metadata TEXT)"
    )
    connection.executemany(
        "INSERT INTO documents VALUES (?, ?, '', ?, ?)",
        [
            (n, f"d{n}", f"text {n}", json.dumps(one, ensure_ascii=False, allow_nan=False))
            for n, one in enumerate(documents)
        ],
    )
    connection.execute("CREATE TABLE numbers (document INTEGER PRIMARY KEY, fields TEXT)")
    if untyped:
        connection.executemany(
            "INSERT INTO numbers VALUES (?, ?)",
            [(n, json.dumps(spelled_numbers(one))) for n, one in enumerate(documents)],
        )
    sql = (
        "SELECT id, 1, metadata, coalesce(fields, '') FROM documents "
        "LEFT JOIN numbers ON document = number ORDER BY number"
    )
    with tempfile.TemporaryDirectory(dir=FAST) as folder:
        path = Path(folder) / "fields.sqlite"
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as written:
            fill(written, lambda: connection.execute(sql), len(documents), lambda *_: None)
        # Both are open from here on: the names are not needed any more.
        return Tables(connection, FieldReader(path, lambda file: None, connections=2))


def found(tables: Tables, text: str) -> list[int]:
    """Numbers of the documents that pass, of which JSON and columns must agree; every other one
    must give 0, not NULL."""
    parsed = Filter.parse(text)
    chosen = found_in_json(tables.json, parsed)
    quick = parsed.over_columns(tables.fields.column)
    assert (quick is None) == any(one.own and one.path == ("text",) for one in parsed.fields)
    if quick is not None:
        assert np.flatnonzero(tables.fields.matching(*quick)).tolist() == chosen
    return chosen


def found_in_json(connection: sqlite3.Connection, parsed: Filter) -> list[int]:
    expression, parameters = parsed.over_json(numbers=True)
    rows = connection.execute(
        f"SELECT number, {expression} FROM documents ORDER BY number", parameters
    ).fetchall()
    assert {answer for _, answer in rows} <= {0, 1}
    chosen = [
        number
        for (number,) in connection.execute(
            f"SELECT number FROM documents WHERE {expression} ORDER BY number", parameters
        )
    ]
    assert chosen == [number for number, answer in rows if answer]
    return chosen


SIX = [
    {"lang": "en", "year": 2020, "source": "a", "tags": ["news", "sport", 7], "open": True},
    {"lang": "de", "year": 2019.5, "source": "c", "tags": [], "open": False},
    {"lang": "en", "year": "2021", "source": None, "tags": "newspaper", "open": 1},
    {"year": 1, "author": {"name": "Ann", "born": 1970}, "author.name": "Bob", "and": "x"},
    {"lang": ["en"], "year": None, "author": "Ann", "título": "sí", "full name": "A B"},
    {},
]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ('lang = "en"', [0, 2]),
        ("lang == 'en'", [0, 2]),
        ('lang != "en"', [1, 4]),
        ('lang <> "en"', [1, 4]),
        ('not lang = "en"', [1, 3, 4, 5]),
        ("year >= 2020", [0]),
        ("year > 2019.25 and year < 2020", [1]),
        ("year <= 2019.5", [1, 3]),
        ("year < 2", [3]),
        ("year = 2020.0", [0]),
        ("year = 2.02e3", [0]),
        ('year >= "2020"', [2]),
        ('year = "2021"', [2]),
        ("year != 2020", [1, 2, 3, 4]),
        ("year = null", [4]),
        ("year != null", [0, 1, 2, 3]),
        ("year exists", [0, 1, 2, 3, 4]),
        ("exists(year)", [0, 1, 2, 3, 4]),
        ("EXISTS ( year ) AND NOT year EXISTS", []),
        ("year not exists", [5]),
        ("open = true", [0]),
        ("open = 1", [2]),
        ("open != true", [1, 2]),
        ("open in (1, true)", [0, 2]),
        ("open < 5", [2]),
        ('source in ("a", "b")', [0]),
        ("source in ('a', null, 'c')", [0, 1, 2]),
        ('source not in ("a","b")', [1, 2]),
        ('not source in ("a","b")', [1, 2, 3, 4, 5]),
        ("year in (2020, '2021', 1)", [0, 2, 3]),
        ('tags contains "news"', [0, 2]),
        ('tags contains "port"', []),
        ("tags contains 7", [0]),
        ('tags contains "7"', []),
        ('tags not contains "news"', [1]),
        ('tags contains ""', [2]),
        ('tags = "news"', []),
        ('lang contains "en"', [0, 2, 4]),
        ('author.name = "Ann"', [3]),
        ('`author.name` = "Bob"', [3]),
        ("author.born < 2000", [3]),
        ("author exists", [3, 4]),
        ('author contains "Ann"', [4]),
        ("author.name.first exists", []),
        ('`and` = "x"', [3]),
        ('título = "sí"', [4]),
        ("`full name` = 'A B'", [4]),
        ('id = "d3"', [3]),
        ('id in ("d1", "d5") and not id = "d1"', [5]),
        ("id = 3", []),
        ("id != 3", [0, 1, 2, 3, 4, 5]),
        ('id >= "d4"', [4, 5]),
        ('text contains "xt 2"', [2]),
        ("text exists and id exists", [0, 1, 2, 3, 4, 5]),
        ('lang = "en" and year >= 2020 and not source in ("c","b")', [0]),
        ('lang = "de" or lang = "en" and year = 2020', [0, 1]),
        ('(lang = "de" or lang = "en") and year = 2020', [0]),
        ('not lang = "en" and year exists', [1, 3, 4]),
        ('not (lang = "en" and year exists)', [1, 3, 4, 5]),
        ('not not lang = "de"', [1]),
        ("  lang\n=\t'de'  ", [1]),
    ],
)
def test_examples(text: str, numbers: list[int]) -> None:
    assert found(table(SIX), text) == numbers


def test_id_and_text_are_the_documents_and_behind_a_dot_the_metadatas() -> None:
    tables = table([{"id": 7, "text": ["a"]}, {"id": None}, {"id": {"x": 1}}, {"id": "d1"}, {}])
    assert found(tables, "id = 7") == []
    assert found(tables, ".id = 7") == [0]
    assert found(tables, 'id = "d1"') == [1]
    assert found(tables, '.id = "d1"') == [3]
    assert found(tables, "id = null") == []
    assert found(tables, ".`id` = null") == [1]
    assert found(tables, "id.x = 1") == found(tables, ".id.x = 1") == [2]
    assert found(tables, "id exists") == [0, 1, 2, 3, 4]
    assert found(tables, "exists(.id) and not .id exists") == []
    assert found(tables, ".id not exists") == [4]
    assert found(tables, '.text contains "a"') == [0]
    assert found(tables, 'text contains "a"') == []
    assert found(tables, 'text contains "text" and `text` = "text 0"') == [0]


def test_a_dot_in_front_changes_nothing_for_other_fields() -> None:
    tables = table(SIX)
    for name in ("lang", "author.name", "`full name`", "year"):
        assert found(tables, f".{name} exists") == found(tables, f"{name} exists")


def test_numbers_that_texts_of_csv_spell() -> None:
    values = ["7", "007", "+7", "7.0", "2.5", "-3", "x", "", "1e+16", "99999999999999999999"]
    rows = [{"n": value, '"': value, "of": {"n": value}} for value in values] + [{}]
    tables, typed = table(rows, untyped=True), table(rows)
    for text, expected in [
        ("{} = 7", [0]),
        ('{} = "7"', [0]),
        ('{} = "007"', [1]),
        ("{} != 7", [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ("{} in (7, 2.5, 'x')", [0, 4, 6]),
        ("{} not in (7, 2.5, 'x')", [1, 2, 3, 5, 7, 8, 9]),
        ("{} < 3", [4, 5]),
        ("not {} < 3", [0, 1, 2, 3, 6, 7, 8, 9, 10]),
        ("{} >= 7", [0, 8, 9]),
        ("{} = 1e16", [8]),
        ("{} > 1e19", [9]),
        ("{} contains 7", []),
        ("{} contains '7'", [0, 1, 2, 3]),
        ("{} exists", [*range(10)]),
    ]:
        for field in ("n", '`"`', "of.n", ".n"):
            assert found(tables, text.format(field)) == expected, (text, field)
    assert found(typed, "n = 7") == [] and found(typed, "n != 7") == [*range(10)]
    kinds = tables.fields.known()
    assert kinds is not None and {("n", "number"), ("n", "text"), ("of.n", "number")} <= kinds
    assert ("n", "number") not in (typed.fields.known() or set())


@pytest.mark.parametrize(
    ("text", "number"),
    [("7", 7), ("0", 0), ("-12", -12), ("2.5", 2.5), ("-0.5", -0.5), ("1e-07", 1e-07)]
    + [("1e+16", 1e16), ("12345678901234567890", 12345678901234567890)]
    + [(text, None) for text in ["007", "+7", "7.0", "2.50", ".5", "5.", " 7", "7 ", "-0", "-0.0"]]
    + [
        (text, None)
        for text in ["1e400", "nan", "inf", "1_0", "٣", "0x1", "", "-", "1e5", "7" * 500]
    ],
)
def test_the_shortest_form_of_a_number(text: str, number: float | None) -> None:
    assert spelled_number(text) == number


@settings(max_examples=200)
@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False))
def test_every_number_has_one_spelling(number: float) -> None:
    whole = isinstance(number, float) and number.is_integer() and "e" not in repr(number)
    assert spelled_number(str(int(number) if whole else number)) == number


def test_odd_names_and_texts() -> None:
    names = ["", '"', 'a"b', "\\", "a\\b", "a\nb", "`", "a.b", "a[0]", "$", "'; --", "\u2028", "0"]
    tables = table([{name: {name: [name, name + "!"]}} for name in names])
    for number, name in enumerate(names):
        quoted = "`" + name.replace("`", "``") + "`"
        assert found(tables, f"{quoted}.{quoted} exists") == [number]
        text = json.dumps(name)
        assert found(tables, f"{quoted}.{quoted} contains {text}") == [number]
        assert found(tables, f"{quoted}.{quoted} not contains {text}") == []
        assert found(tables, f"{quoted}.{quoted} contains 'x'") == []
    tables = table([{"t": name, '"': name} for name in names])
    for number, name in enumerate(names):
        text = json.dumps(name)
        single = "'" + name.replace("\\", "\\\\").replace("'", "''") + "'"
        double = '"' + name.replace("\\", "\\\\").replace('"', '""') + '"'
        for way in (text, single, double):
            for field in ("t", '`"`'):
                assert found(tables, f"{field} = {way}") == [number]
                assert number not in found(tables, f"{field} != {way}")
                assert number in found(tables, f"{field} contains {way}")
                assert number not in found(tables, f"{field} < {way}")


def test_a_document_may_hold_what_a_filter_cannot() -> None:
    tables = table([{"x": "a\0b", "\0": 1, "nul\0": "a"}, {"x": "a"}])
    assert found(tables, "x = 'a'") == [1]
    assert found(tables, "x != 'a'") == [0]
    assert found(tables, "nul exists") == []
    assert found(tables, "x contains 'a'") == [0, 1]
    both = table([{"x\0": "a", "x": "b", "y": {"x\0": 1}}, {"x": "a"}])
    assert found(both, "x = 'a'") == [1] and found(both, "x = 'b'") == [0]
    assert found(both, "y.x exists") == []


def test_numbers_at_the_edges() -> None:
    numbers = [2**53, 2**53 + 1, 2**63 - 1, -(2**63), 2**63, 10**30, -0.0, 0.1, 1e22, 10**400]
    numbers += [True, False, "0", "0.1"]
    tables = table([{"x": number, '"': number, "l": [number]} for number in numbers])
    for text, expected in [
        ("{} = 9007199254740993", [1]),
        ("{} = 9007199254740992.0", [0]),
        ("{} in (9223372036854775807, -9223372036854775808)", [2, 3]),
        ("{} = 9223372036854775808", [4]),
        ("{} = 1e30", [5]),
        ("{} = 0", [6]),
        ("{} = -0.0", [6]),
        ("{} = 0.1", [7]),
        ("{} = 1e-1", [7]),
        ("{} = 10000000000000000000000", [8]),
    ]:
        assert found(tables, text.format("x")) == expected
        assert found(tables, text.format('`"`')) == expected
        if " = " in text:
            assert found(tables, text.format("l").replace("=", "contains")) == expected
    assert found(tables, "x > 1e308") == [9]
    assert found(tables, "x >= 9007199254740993") == [1, 2, 4, 5, 8, 9]
    assert found(tables, "x >= 0 and x <= 1") == [6, 7]
    assert found(tables, "x > 0.1 or x < 0.1") == [0, 1, 2, 3, 4, 5, 6, 8, 9]


def test_texts_are_ordered_by_code_point() -> None:
    texts = ["", " ", "a", "a b", 'a"', "a\\", "b", "é", "😀", "\uffff", "[", "{"]
    tables = table([{"t": text} for text in texts] + [{"t": ["a"]}, {"t": {"a": 1}}, {"t": 5}])
    for text in texts:
        below = [n for n, other in enumerate(texts) if other < text]
        assert found(tables, f"t < {json.dumps(text)}") == below
        above = [n for n, other in enumerate(texts) if other >= text]
        assert found(tables, f"t >= {json.dumps(text, ensure_ascii=False)}") == above


# --- the oracle: an evaluator in plain Python over the tree that a filter's text is made from ---

Tree = tuple[Any, ...]
NAMES = ["lang", "year", "x-y", "título", "हिन्दी", "a", "id", "text", "full name", "a.b", "And"]
NAMES += ["exists", 'quo"te', "back\\slash", "line\nend", "tick`", "", "0", "-"]
CHARACTERS = "ab\"'\\/\n\t\x01 é😀%_[{,"


def as_sqlite(number: int | float) -> int | float:
    """Integers of more than 64 bits are the nearest double."""
    if isinstance(number, int) and not -(2**63) <= number < 2**63:
        try:
            return float(number)
        except OverflowError:
            return float("inf") if number > 0 else float("-inf")
    return number


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def same(value: Any, other: Any) -> bool:
    if is_number(value) and is_number(other):
        return as_sqlite(value) == as_sqlite(other)
    return type(value) is type(other) and not isinstance(value, list | dict) and value == other


def look(number: int, metadata: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    if path in (("id",), ("text",)):
        return f"d{number}" if path == ("id",) else f"text {number}"
    value: Any = metadata
    # The oracle's path to a field of the metadata that the document's own has the name of.
    path = path[1:] if path[0] == "." else path
    for name in path:
        value = value.get(name, MISSING) if isinstance(value, dict) else MISSING
    return value


def passes(tree: Tree, number: int, metadata: Mapping[str, Any], *, untyped: bool = False) -> bool:
    word = tree[0]
    if word == "not":
        return not passes(tree[1], number, metadata, untyped=untyped)
    if word == "and":
        return all(passes(term, number, metadata, untyped=untyped) for term in tree[1])
    if word == "or":
        return any(passes(term, number, metadata, untyped=untyped) for term in tree[1])
    value = look(number, metadata, tree[1])
    if untyped and tree[1] not in (("id",), ("text",)) and isinstance(value, str):
        spelled = spelled_number(value)
        if spelled is not None and not word.endswith(("exists", "contains")):
            return meets(word, value, tree[2], spelled)
    return meets(word, value, tree[2] if len(tree) > 2 else None)


def meets(word: str, value: Any, wanted: Any, spelled: float | None = None) -> bool:
    """Whether a value passes a test; spelled: the number that it is to numbers."""
    if spelled is not None:
        if word in ("in", "not in"):
            among = any(same(spelled if is_number(one) else value, one) for one in wanted)
            return among == (word == "in")
        value = spelled if is_number(wanted) else value
    if word == "not exists":
        return value is MISSING
    if value is MISSING:
        return False
    if word == "exists":
        return True
    if word == "in":
        return any(same(value, one) for one in wanted)
    if word == "not in":
        return not any(same(value, one) for one in wanted)
    if word in ("contains", "not contains"):
        if isinstance(value, str):
            inside = isinstance(wanted, str) and wanted in value
        else:
            inside = isinstance(value, list) and any(same(one, wanted) for one in value)
        return inside == (word == "contains")
    if word in ("=", "==", "!=", "<>"):
        return same(value, wanted) == (word in ("=", "=="))
    if is_number(value) and is_number(wanted):
        value, wanted = as_sqlite(value), as_sqlite(wanted)
    elif not (isinstance(value, str) and isinstance(wanted, str)):
        return False
    return bool(
        {"<": value < wanted, "<=": value <= wanted, ">": value > wanted}.get(word, value >= wanted)
    )


NUMBERS = (
    st.integers(-3, 3)
    | st.sampled_from([0.0, 1.0, 0.5, -0.5, 2.5, 1e16, 1e22, 2020, 2020.5])
    | st.sampled_from([2**53, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 10**22, 10**25])
    | st.integers()
    | st.integers(-(10**6), 10**6).map(lambda n: n / 1000)
    | st.floats(-1e300, 1e300, allow_subnormal=False)
)
TEXTS = st.text(CHARACTERS, max_size=3) | st.sampled_from(
    ["d1", "text 0", "1", "true", "null", "2.5", "-3", "01", "2020", "1e+16", "-0.5", "1.0"]
)
SCALARS = NUMBERS | TEXTS | st.booleans() | st.none()
FIELDS = st.sampled_from(NAMES)
PATHS = (
    st.lists(FIELDS, min_size=1, max_size=1)
    | st.lists(FIELDS, min_size=2, max_size=3)
    | FIELDS.map(lambda name: [".", name])
)
METADATA = st.dictionaries(
    FIELDS,
    st.recursive(
        SCALARS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner, max_size=3),
        max_leaves=6,
    ),
    max_size=6,
)
TESTS = st.one_of(
    st.tuples(st.sampled_from(["=", "==", "!=", "<>"]), PATHS.map(tuple), SCALARS),
    st.tuples(st.sampled_from(["<", "<=", ">", ">="]), PATHS.map(tuple), NUMBERS | TEXTS),
    st.tuples(st.sampled_from(["contains", "not contains"]), PATHS.map(tuple), SCALARS),
    st.tuples(st.sampled_from(["in", "not in"]), PATHS.map(tuple), st.lists(SCALARS, min_size=1)),
    st.tuples(st.sampled_from(["exists", "not exists"]), PATHS.map(tuple)),
)
TREES = st.recursive(
    TESTS,
    lambda inner: (
        st.tuples(st.just("not"), inner)
        | st.tuples(st.sampled_from(["and", "or"]), st.lists(inner, min_size=2, max_size=4))
    ),
    max_leaves=8,
)


def render(tree: Tree, draw: Any) -> str:
    """A text for the tree, in one of the many ways to write it."""

    def case(word: str) -> str:
        return draw(st.sampled_from([word, word.upper(), word.title()]))

    def blank() -> str:
        return draw(st.sampled_from(["", " ", "\n ", "\t"]))

    def field(path: tuple[str, ...]) -> str:
        names = [""] if path[0] == "." else []
        for name in path[len(names) :]:
            plain = re.fullmatch(r"[a-z]+|[a-z]-[a-z]|título|हिन्दी", name) and name != "exists"
            if plain and draw(st.booleans()):
                names.append(name)
            else:
                names.append("`" + name.replace("`", "``") + "`")
        return ".".join(names)

    def value(content: Any) -> str:
        if content is None or isinstance(content, bool):
            return case(json.dumps(content))
        if not isinstance(content, str):
            return repr(content)
        way = draw(st.sampled_from(["json", "ascii", "single", "double"]))
        if way in ("json", "ascii"):
            return json.dumps(content, ensure_ascii=way == "ascii")
        quote = "'" if way == "single" else '"'
        return quote + content.replace("\\", "\\\\").replace(quote, quote * 2) + quote

    word = tree[0]
    if word == "not":
        return f"{case(word)} {bracketed(tree[1], draw)}"
    if word in ("and", "or"):
        terms = []
        for term in tree[1]:
            # `and` binds closer than `or`, `not` closer than both.
            plain = term[0] not in ("and", "or") or (term[0] == "and" and word == "or")
            terms.append(render(term, draw) if plain else bracketed(term, draw))
        return f" {case(word)}\n".join(terms)
    name = field(tree[1])
    if word == "exists" and draw(st.booleans()):
        return f"{case(word)}{blank()}({blank()}{name}{blank()})"
    operator = " ".join(case(part) for part in word.split())
    if word.endswith("exists"):
        return f"{name} {operator}"
    if word.endswith("in"):
        values = f"{blank()},{blank()}".join(value(one) for one in tree[2])
        return f"{name} {operator}{blank()}({values})"
    if word.endswith("contains"):
        return f"{name} {operator}{blank()} {value(tree[2])}"
    return f"{name}{blank()}{operator}{blank()}{value(tree[2])}"


def bracketed(tree: Tree, draw: Any) -> str:
    plain = tree[0] not in ("and", "or") and draw(st.booleans())
    return render(tree, draw) if plain else f"( {render(tree, draw)})"


@settings(max_examples=300, deadline=None)
@given(
    documents=st.lists(METADATA, min_size=1, max_size=6),
    tree=TREES,
    data=st.data(),
    untyped=st.booleans(),
)
def test_sql_answers_as_python_does(
    documents: list[dict[str, Any]], tree: Tree, data: st.DataObject, untyped: bool
) -> None:
    text = render(tree, data.draw)
    expected = [n for n, one in enumerate(documents) if passes(tree, n, one, untyped=untyped)]
    assert found(table(documents, untyped=untyped), text) == expected


@settings(max_examples=200, deadline=None)
@given(value=SCALARS, wanted=SCALARS, word=st.sampled_from(["=", "!=", "contains", "<", ">="]))
@example(value=True, wanted=1, word="=")
@example(value=0.30000000000000004, wanted=0.30000000000000004, word=">=")
@example(value="5.5", wanted=5.5, word="=")
def test_two_values_meet_alike_everywhere(value: Any, wanted: Any, word: str) -> None:
    """A plain field, one that no JSON path names, and an element of a list agree."""
    if (
        word in "<>="
        and word not in ("=", "!=")
        and not (is_number(wanted) or isinstance(wanted, str))
    ):
        return
    metadata = {"plain": value, 'od"d': value, "list": [value]}
    tables = table([metadata])
    literal = json.dumps(wanted)
    for path in ("plain", 'od"d'):
        expected = passes((word, (path,), wanted), 0, metadata)
        assert found(tables, f"`{path}` {word} {literal}") == [0] * expected
    among = passes(("contains", ("list",), wanted), 0, metadata)
    assert found(tables, f"list contains {literal}") == [0] * among


# --- errors ---


@pytest.mark.parametrize(
    ("text", "position", "words"),
    [
        ("", 1, "empty"),
        ("   ", 1, "empty"),
        ("lang", 5, "expected an operator"),
        ("lang =", 7, "expected a value after =, found the end of the filter"),
        ("lang = = 'x'", 8, "expected a value"),
        ("lang === 'x'", 8, "expected a value"),
        ("lang = en", 8, 'text stands in quotes: = "en"'),
        ("lang = 'en", 8, "not closed"),
        ('lang = "en\\"', 8, "not closed"),
        ("`lang = 'en'", 1, "not closed"),
        ("lang ~ 'en'", 6, "'~' means nothing here"),
        ("lang like 'en'", 6, "expected an operator"),
        ("lang is null", 6, "expected an operator"),
        ("lang not 'en'", 10, "expected in, contains or exists after not"),
        ("(lang = 'en'", 13, "expected and, or, or )"),
        ("lang = 'en')", 12, "expected and, or, or the end"),
        ("lang = 'en' year = 5", 13, "found the name year"),
        ("lang = 'en' and", 16, "expected a field name"),
        ("and lang = 'en'", 1, "backticks"),
        ("lang in ()", 10, "expected a value in the list"),
        ("lang in 'en'", 9, "expected ( and a list"),
        ("lang in ('en',)", 15, "expected a value after the comma"),
        ("lang in ('en' 'de')", 15, "a comma or )"),
        ("lang in ('en'", 14, "a comma or )"),
        ("exists lang", 8, "expected ("),
        ("exists(lang", 12, "expected )"),
        ("exists('lang')", 8, "expected a field name"),
        ("2020 <= year", 1, "the field stands on the left"),
        ("1 < year < 3", 1, "the field stands on the left"),
        ("year < 3 < 5", 10, "expected and, or"),
        ("year < true", 8, "no order"),
        ("year >= null", 9, "no order"),
        ("date > 2020-01-05", 8, "dates too"),
        ("zip = 01234", 7, "put text"),
        ("x = 5.", 5, "not a number"),
        ("x = .5", 5, "not a number"),
        ("x = +5", 5, "not a number"),
        ("x = -", 5, "not a number"),
        ("x = 5e", 5, "not a number"),
        ("x = 3x", 5, "not a number"),
        ("x = 1e400", 5, "too large"),
        ("x = " + "9" * 5000, 5, "too large"),
        ("x = ٣", 5, "not a number"),
        ("author. = 'x'", 8, "a name after the dot"),
        ("a.0 = 'x'", 3, "backticks"),
        ("a .b = 'x'", 3, "expected an operator"),
        (".5 = 1", 1, "not a number"),
        (". a = 1", 1, "not a number"),
        ("..a = 1", 1, "not a number"),
        ("a = .b", 5, "expected a value after ="),
        (".".join(["a"] * 51) + " = 1", 1, "at most 50 names"),
        ("a = 1 && b = 2", 7, "write and, or, not"),
        ("a = 1 || b = 2", 7, "write and, or, not"),
        ("!a = 1", 1, "write and, or, not"),
        ("a = “x”", 5, "typographic"),
        ("a = 'x\\q'", 7, "unknown escape"),
        ("a = 'x\\u12'", 7, "unknown escape"),
        ("a = '\\ud800'", 5, "surrogate"),
        ("a = '\ud800'", 5, "surrogate"),
        ("`\udcff` = 1", 1, "surrogate"),
        ("a = 'x\0'", 5, "U+0000"),
        ("a = '\\u0000'", 5, "U+0000"),
        ("`\0` = 1", 1, "U+0000"),
        ("\0 = 1", 1, "means nothing"),
        ("a = 1 -- b", 7, "not a number"),
        ("a = 1 /* b */", 7, "means nothing"),
        ("a = 1; DROP TABLE documents", 6, "means nothing"),
        ("a = ?", 5, "means nothing"),
        ("a = :x", 5, "means nothing"),
    ],
)
def test_errors_name_the_position(text: str, position: int, words: str) -> None:
    with pytest.raises(FilterError) as caught:
        Filter.parse(text)
    message = str(caught.value)
    assert caught.value.position == position
    assert message.startswith(f"filter, position {position}, near ")
    assert words in message
    assert "\n" not in message and message.isprintable()
    assert len(message) < 300


def test_an_error_is_misuse_and_travels() -> None:
    with pytest.raises(MisuseError) as caught:
        Filter.parse("a")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.position) == (str(caught.value), 2)


INJECTIONS = [
    "'; DROP TABLE documents; --",
    '"; DROP TABLE documents; --',
    "' OR 1=1 --",
    '" or "" = "',
    "') OR ('1'='1",
    '$."x") OR 1=1 --',
    "/* */",
    "?1",
    "%s{0}{}",
    "‮\u2028\x1b[31m",
    "＇ OR １＝１",
    "`) or (`",
    "\\",
]


@pytest.mark.parametrize("attempt", INJECTIONS)
def test_injections_are_values_names_or_errors(attempt: str) -> None:
    tables = table([{"a": "x"}, {"a": attempt, attempt: 1}])
    escaped = attempt.replace("\\", "\\\\")
    single, double = escaped.replace("'", "''"), escaped.replace('"', '""')
    name = attempt.replace("`", "``")
    assert found(tables, f"a = '{single}'") == [1]
    assert found(tables, f'a in ("{double}")') == [1]
    assert found(tables, f"a contains '{single}'") == [1]
    assert found(tables, f"`{name}` = 1") == [1]
    assert found(tables, f"`{name}`.`{name}` exists") == []
    for text in (attempt, f"a = '{attempt}", f"a = 'x' {attempt}", f"`{attempt} exists"):
        try:
            expression, _ = Filter.parse(text).over_json()
        except FilterError as error:
            assert str(error).isprintable()
        else:
            assert "DROP" not in expression
    assert tables.json.execute("SELECT count(*) FROM documents").fetchone() == (2,)


@settings(max_examples=300, deadline=None)
@given(
    st.text(max_size=30)
    | st.lists(
        st.sampled_from("a=<(),\"'`1-.\\\0")
        | st.sampled_from(["`b c`", "'x'", "not", "and", "or", "in", "exists", "contains", "null"]),
        max_size=14,
    ).map(" ".join)
)
def test_any_text_is_a_filter_or_an_error(text: str) -> None:
    try:
        parsed = Filter.parse(text)
    except FilterError as error:
        assert 1 <= error.position <= len(text) + 1
        assert str(error).isprintable()
    else:
        found(table(SIX), text)
        assert parsed == Filter.parse(text)


def test_nothing_of_a_filter_stands_in_the_sql() -> None:
    text = (
        "zebra = 'zulu' and `ze bra`.zoo contains 'zig' or zap in (987654, 98.7654) and zero > 987"
    )
    expression, parameters = Filter.parse(text).over_json()
    assert not re.search(r"z[a-z]+|987", expression.replace("zip", ""))
    assert expression.count("?") == len(parameters)


# --- limits ---


@pytest.mark.parametrize(
    ("before", "after"), [("(", ")"), ("not ", ""), ("not (", ")"), ("(a = 1 or ", ")")]
)
def test_nesting_has_a_limit(before: str, after: str) -> None:
    each = before.count("not") + before.count("(")
    fits = MAX_NESTING // each
    good = before * fits + "lang = 'en'" + after * fits
    assert found(table(SIX), good) in ([0, 2], [1, 3, 4, 5])
    for times in (fits + 1, 900):
        with pytest.raises(FilterError, match=f"at most {MAX_NESTING} deep"):
            Filter.parse(before * times + "lang = 'en'" + after * times)


def test_length_has_a_limit() -> None:
    Filter.parse("a = 1".ljust(MAX_CHARACTERS))
    with pytest.raises(FilterError, match="at most 10,000 characters"):
        Filter.parse("a = 1".ljust(MAX_CHARACTERS + 1))
    with pytest.raises(FilterError, match="deep"):
        Filter.parse("(" * MAX_CHARACTERS)


@pytest.mark.parametrize(
    "term",
    [
        "x = {}",
        "x!={}",
        "x<{}",
        "x contains {}",
        "x contains '{}'",
        "`\"` contains '{}'",
        "id = '{}'",
        "text contains '{}'",
        "not text contains '{}'",
        '`a`.`b"`.c > {}',
    ],
)
def test_the_most_values_in_one_chain(term: str) -> None:
    chain = "or".join(f" {term.format(n)} " for n in range(MAX_VALUES))[:MAX_CHARACTERS]
    chain = chain[: chain.rfind("or")] if len(chain) == MAX_CHARACTERS else chain
    tables = table([{"x": 499}, {"x": "4"}, {}])
    assert isinstance(found(tables, chain), list)
    assert isinstance(found(tables, f"not ({chain[:9000].rsplit('or', 1)[0]})"), list)
    expression, _ = Filter.parse(chain).over_json()
    depth = deepest = 0
    for character in expression:
        depth += {"(": 1, ")": -1}.get(character, 0)
        deepest = max(deepest, depth)
    assert deepest < 30


def test_values_have_a_limit() -> None:
    values = ",".join(str(n) for n in range(MAX_VALUES))
    assert found(table([{"x": 499}, {"x": 500}]), f"x in ({values})") == [0]
    with pytest.raises(FilterError, match=f"at most {MAX_VALUES} values"):
        Filter.parse(f"x in ({values}, 500)")
    with pytest.raises(FilterError, match=f"at most {MAX_VALUES} values"):
        Filter.parse(f"x in ({values}) or y = 1")


def test_a_chain_of_tests_without_values_may_fill_the_filter() -> None:
    chain = " or ".join(["a exists"] * (MAX_CHARACTERS // 12))
    assert found(table([{"a": 1}, {"b": 1}]), chain) == [0]


@pytest.mark.parametrize("leaf", ["a=1", "id contains '1'", '`"`.`"` not contains 1'])
@pytest.mark.parametrize(
    "level",
    [
        "({leaf} or {leaf} and ",
        "({leaf} and {leaf} or ",
        "not ({leaf} or ",
        "(" + "{leaf} or " * 8,
        "({leaf} and ({leaf} or {leaf} and {leaf}) or ",
    ],
)
def test_the_deepest_filter_is_one_that_sqlite_reads(level: str, leaf: str) -> None:
    """SQLite before 3.46 gives up at 100 unfinished words, and always at 1000 levels."""
    level = level.format(leaf=leaf)
    depth = min(MAX_NESTING // (2 if "not" in level[:4] else 1), MAX_CHARACTERS // (len(level) + 2))
    if level.count("(") > 1:
        depth -= 1
    text = level * depth + leaf + ")" * depth
    for untyped in (False, True):
        tables = table([{"a": "1" if untyped else 1}, {"b": 1}], untyped=untyped)
        assert found(tables, text) is not None


@pytest.mark.parametrize("value", [None, 3, 2.5, b"a = 1", ["a = 1"], {"a": 1}, np.float32(1)])
def test_what_is_no_filter(value: Any) -> None:
    with pytest.raises(FilterError, match="the filter is "):
        Filter.parse(value)
    assert Filter.parse(np.str_("a = 1")) == Filter.parse("a = 1")


# --- fields and kinds ---


def test_fields_are_told() -> None:
    parsed = Filter.parse("lang = 'en' and (`a b`.c in (1, 'x', null) or not exists(Year))")
    assert parsed.fields == (
        FieldUse("lang", ("lang",), 1, frozenset({"text"})),
        FieldUse("`a b`.c", ("a b", "c"), 18, frozenset({"number", "text", "null"})),
        FieldUse("Year", ("Year",), 58, frozenset({"any"})),
    )
    assert parsed.text.index("Year") + 1 == parsed.fields[2].position


def kinds_of(metadata: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Every field of one document and the kind of its value."""
    return ((name, kind_of(value)) for name, value in values_of(metadata))


def test_kinds_of_names_fields_as_filters_do() -> None:
    metadata = {
        "lang": "en",
        "year": 2020,
        "score": 0.5,
        "open": False,
        "none": None,
        "tags": [{"x": 1}],
        "author": {"full name": "Ann", "a.b": {"in": 1}},
        "tick`": 1,
        "": 1,
        "x-y": 1,
        "x-": 1,
        "हिन्दी": 1,
    }
    found_kinds = dict(kinds_of(metadata))
    assert found_kinds == {
        "lang": "text",
        "year": "number",
        "score": "number",
        "open": "boolean",
        "none": "null",
        "tags": "list",
        "author": "object",
        "author.`full name`": "text",
        "author.`a.b`": "object",
        "author.`a.b`.`in`": "number",
        "`tick```": "number",
        "``": "number",
        "x-y": "number",
        "`x-`": "number",
        "हिन्दी": "number",
    }
    known = {name: {kind} for name, kind in found_kinds.items()}
    for name in known:
        Filter.parse(f"{name} exists and exists({name})").check(known)
    with pytest.raises(TypeError, match="set"):
        dict(kinds_of({"x": {1}}))


def test_kinds_of_deep_metadata() -> None:
    deep: dict[str, Any] = {}
    for _ in range(3000):
        deep = {"a": deep}
    assert sum(1 for _ in kinds_of(deep)) == 3000


@settings(max_examples=200, deadline=None)
@given(METADATA)
def test_every_known_field_can_be_asked_for(metadata: dict[str, Any]) -> None:
    known: dict[str, set[str]] = {}
    for name, kind in kinds_of(metadata):
        known.setdefault(name, set()).add(kind)
    tables = table([metadata])
    for name in known:
        parsed = Filter.parse(f"{name} exists")
        parsed.check(known)
        assert found(tables, parsed.text) == [0]


KNOWN = {
    "lang": {"text"},
    "year": {"number", "null"},
    "open": {"boolean"},
    "tags": {"list"},
    "mixed": {"text", "list"},
    "author": {"object"},
    "author.name": {"text"},
    "`full name`": {"text"},
}


@pytest.mark.parametrize(
    "text",
    [
        "lang = 'en' and year >= 2020 and open = true",
        "year = null or lang != null",
        "tags contains 'x' and tags contains 5 and mixed contains 'x' and lang contains 'e'",
        "`lang` = 'x' and `author`.`name` = 'x' and `full name` exists",
        "author exists and id = 'x' and text contains 'y'",
        "mixed contains 5",
    ],
)
def test_check_lets_pass(text: str) -> None:
    Filter.parse(text).check(KNOWN)


@pytest.mark.parametrize(
    ("text", "position", "words"),
    [
        (
            "lagn = 'en'",
            1,
            "no document has the field lagn; known fields, the nearest first: lang,",
        ),
        ("year = 1 and `author.name` = 'x'", 14, "the field `author.name`"),
        ("fullname exists", 1, "`full name`, "),
        ("Lang = 'en'", 1, ": lang, "),
        ("year > '2020'", 8, "field year holds numbers and null, not text"),
        ("lang in ('en', 5)", 16, "field lang holds text, not numbers"),
        ("open = 1", 8, "field open holds true or false, not numbers"),
        ("tags = 'x'", 8, "holds lists, not text; use contains"),
        ("author = 'x'", 10, "holds objects, not text"),
        ("lang contains 5", 15, "looks for a number in lists"),
        ("year contains '5'", 15, "looks for a text in text and lists"),
        ("id = 5", 6, "field id holds text, not numbers"),
        ("exists(id.x)", 8, "field .id.x"),
        (".id = 'm1'", 1, "no document has the field .id;"),
        ("LANG = 'en'", 1, "the nearest first: lang, "),
    ],
)
def test_check_names_the_position(text: str, position: int, words: str) -> None:
    with pytest.raises(FilterError) as caught:
        Filter.parse(text).check(KNOWN)
    assert caught.value.position == position
    assert words in str(caught.value)
    assert f"position {position}," in str(caught.value)


def test_check_suggests_ten_fields_in_one_line() -> None:
    known = {f"field_{n}": {"text"} for n in range(40)} | {"`a\nb`": {"text"}}
    with pytest.raises(FilterError, match="and 33 more") as caught:
        Filter.parse("field_7x = 'a'").check(known)
    message = str(caught.value)
    assert "first: field_7, " in message
    assert message.count("field_") == 12
    with pytest.raises(FilterError, match=r"`a\\nb`") as caught:
        Filter.parse("ab = 1").check({"`a\nb`": {"text"}})
    assert "\n" not in str(caught.value)
    with pytest.raises(FilterError, match="no document has the field ab; known fields"):
        Filter.parse("ab = 1").check({})
