"""The signs of a query that somebody typed, and the documents that they leave: over random
histories against a plain reference."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from commands import one_line_error, run
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import FAST

from fakes.indexes import without_postings
from fakes.word_encoder import FakeEncoder
from moee_index.errors import MisuseError
from moee_index.index import (
    Index,
    add_documents,
    build_index,
    compact_index,
    delete_documents,
    reindex_lexical,
)
from moee_index.index.lexical.syntax import Condition, ParsedQuery, parse_query
from moee_index.index.listing import count_values
from moee_index.types import Document

# The signs


def required(text: str) -> Condition:
    return Condition(text)


def without(text: str) -> Condition:
    return Condition(text, without=True)


def phrase(text: str, *, without: bool = False) -> Condition:
    return Condition(text, phrase=True, without=without)


@pytest.mark.parametrize(
    ("text", "searched", "conditions"),
    [
        ("new +york", "new york", [required("york")]),
        ("new -york times", "new times", [without("york")]),
        ('the "new york" times', "the new york times", [phrase("new york")]),
        ('+"new york" times', "new york times", [phrase("new york")]),
        ('-"new york" times', "times", [phrase("new york", without=True)]),
        ('a -b +c -"d e" "f" +g', "a c f g", [
            without("b"), required("c"), phrase("d e", without=True), phrase("f"), required("g"),
        ]),
        ("+e-mail -C++ x", "e-mail x", [required("e-mail"), without("C++")]),
        ("+Ünal +日本 -ça", "Ünal 日本", [required("Ünal"), required("日本"), without("ça")]),
        ('(+a) ["b c"]', "(a) [b c]", [required("a)"), phrase("b c")]),
        ("+a +a", "a a", [required("a")]),
        ('"a b"c', "a bc", [phrase("a b")]),
        # text
        ("minus -5 and +1", "minus -5 and +1", []),
        ("C++ e-mail a-b 1-2 x+y", "C++ e-mail a-b 1-2 x+y", []),
        ("a - b + c -- d ++ --e +-f", "a - b + c -- d ++ --e +-f", []),
        ('a 5" pipe and a 6" one', 'a 5" pipe and a 6" one', []),
        ('don"t', 'don"t', []),
        ("“a b” −c –d", "“a b” −c –d", []),
        ('"" "!!"  two  blanks', '"" "!!"  two  blanks', []),
        ("-", "-", []),
        ("", "", []),
    ],
)  # fmt: skip
def test_signs(text: str, searched: str, conditions: list[Condition]) -> None:
    assert parse_query(text) == ParsedQuery(searched, tuple(conditions))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('the "new york', r'phrase "new york has no end; close it .* --plain'),
        ('a +"', "has no end"),
        ('"a" "b', 'phrase "b has no end'),
        ("-x", "query -x says only what documents must not hold; add .* --plain"),
        ('-x -"y z" ...', "says only what documents must not hold"),
    ],
)
def test_signs_that_are_wrong(text: str, told: str) -> None:
    with pytest.raises(MisuseError, match=told):
        parse_query(text)


@given(st.text() | st.text(alphabet='ab +-"(é'))
def test_a_query_is_parsed_or_refused(text: str) -> None:
    try:
        parsed = parse_query(text)
    except MisuseError as error:
        assert "--plain" in str(error)
        return
    if not parsed.conditions:
        assert parsed.text == text
    for condition in parsed.conditions:
        assert condition.text in text
        if not condition.without:
            assert " ".join(condition.text.split()) in parsed.text


@given(st.text(alphabet=st.characters(exclude_characters='+-"')))
def test_a_query_without_signs_is_itself(text: str) -> None:
    assert parse_query(text) == ParsedQuery(text)


# The documents, by a reference that knows words of one letter, compounds of these, and pairs

ATOMS = ["a", "b", "c", "d"]
COMPOUNDS = ["a-b", "b-c", "ab", "a-b-c"]
tokens = st.sampled_from([*ATOMS, *ATOMS, *COMPOUNDS, "日本語", "本"])
texts = st.lists(tokens, min_size=1, max_size=12).map(" ".join)
Edges = list[tuple[int, str, int]]


def edges_of(text: str) -> tuple[Edges, int]:
    """What stands from where to where in a text, and where it ends."""
    found: Edges = []
    place = 0
    for token in text.split():
        if token == "日本語":
            parts = ["日本", "本語"]
        else:
            parts = token.split("-")
            if len(parts) > 1:
                found.append((place, "".join(parts), place + len(parts)))
        for part in parts:
            found.append((place, part, place + 1))
            place += 1
    return found, place


def ways(edges: Edges, place: int, end: int) -> Iterator[tuple[str, ...]]:
    """All ways to read a phrase."""
    if place == end:
        yield ()
    for start, label, stop in edges:
        if start == place:
            yield from ((label, *rest) for rest in ways(edges, stop, end))


def holds(text: str, phrase: str) -> bool:
    found, _ = edges_of(text)

    def reads(place: int, labels: tuple[str, ...]) -> bool:
        return not labels or any(
            start == place and label == labels[0] and reads(stop, labels[1:])
            for start, label, stop in found
        )

    wanted = set(ways(*_from_start(phrase)))
    return any(reads(start, labels) for start, _, _ in found for labels in wanted)


def _from_start(phrase: str) -> tuple[Edges, int, int]:
    edges, end = edges_of(phrase)
    return edges, 0, end


def meets(document: Document, condition: Condition) -> bool:
    if not condition.phrase and "-" in condition.text:
        # A compound that is no phrase is one word.
        word = condition.text.replace("-", "")
        labels = {label for part in _parts(document) for _, label, _ in edges_of(part)[0]}
        return (word in labels) != condition.without
    return any(holds(part, condition.text) for part in _parts(document)) != condition.without


def _parts(document: Document) -> tuple[str, str]:
    return document.title, document.text


conditions = st.builds(
    Condition, tokens, st.just(False), st.booleans()
) | st.builds(
    Condition, st.lists(tokens, min_size=1, max_size=3).map(" ".join), st.just(True), st.booleans()
)  # fmt: skip


def typed(condition: Condition) -> str:
    sign = "-" if condition.without else "+"
    return sign + (f'"{condition.text}"' if condition.phrase else condition.text)


@st.composite
def documents(draw: st.DrawFn, prefix: str) -> list[Document]:
    count = draw(st.integers(1, 12))
    return [
        Document(f"{prefix}{number}", draw(texts), {"x": number % 3}, title=draw(titles))
        for number in range(count)
    ]


titles = st.sampled_from(["", "", "a b", "c a-b", "日本語"])


class History:
    """An index, and the documents that are in it, in its order."""

    def __init__(self, draw: Any, folder: Path) -> None:
        self.directory = folder / "i"
        chunk = draw(st.sampled_from([None, "8:2"]), "chunk")
        built = draw(documents("a"), "built")
        build_index(self.directory, built, FakeEncoder(), chunk=chunk)
        self.documents = {one.id: one for one in built}
        for name in draw(st.lists(st.sampled_from(["add", "delete", "compact"]), max_size=4)):
            if name == "add":
                self.add(draw(documents(draw(st.sampled_from("ab"))), "added"))
            elif name == "delete":
                gone = [one for one in self.documents if draw(st.booleans())][:-1]
                if gone:
                    delete_documents(self.directory, gone)
                    self.documents = {
                        key: one for key, one in self.documents.items() if key not in gone
                    }
            else:
                compact_index(self.directory)

    def add(self, some: Sequence[Document]) -> None:
        add_documents(self.directory, some, FakeEncoder(), update=True)
        for one in some:
            if self.documents.get(one.id) != one:
                self.documents.pop(one.id, None)
                self.documents[one.id] = one


@given(st.data())
@settings(max_examples=120, deadline=None)
def test_conditions_leave_what_a_plain_look_does(data: st.DataObject) -> None:
    """Of the hits of the same search without conditions those whose documents meet them, with the
    same scores; the facets count the documents that are left."""
    folder = Path(tempfile.mkdtemp(dir=FAST))
    try:
        history = History(data.draw, folder)
        with Index.open(history.directory, FakeEncoder()) as index:
            for _ in range(4):
                check(data, index, history)
    finally:
        shutil.rmtree(folder)


def check(data: st.DataObject, index: Index, history: History) -> None:
    some = data.draw(st.lists(conditions, min_size=1, max_size=3), "conditions")
    query = " ".join(["a d", *map(typed, some)])
    k = data.draw(st.sampled_from([1, 2, 5, 100]), "k")
    options: dict[str, Any] = {
        "lexical": data.draw(st.sampled_from([0.0, 0.4, 1.0]), "lexical"),
        "passages": data.draw(st.booleans(), "passages"),
        "filter": data.draw(st.sampled_from([None, "x < 2"]), "filter"),
    }
    left = {
        key: one
        for key, one in history.documents.items()
        if all(meets(one, condition) for condition in some)
    }
    every = index.search(parse_query(query).text, 1000, **options)
    expected = [hit for hit in every if _document(hit.id, history) in left][:k]
    found = index.search(query, k, syntax=True, **options)
    seen = [(hit.id, hit.score, hit.bm25, hit.passage) for hit in found]
    assert seen == [(hit.id, hit.score, hit.bm25, hit.passage) for hit in expected]
    assert [hit.rank for hit in found] == list(range(1, len(found) + 1))
    assert found.exact
    (facet,) = count_values(index.snapshot, ["x"], options["filter"], some)
    kept = [one.metadata["x"] for one in left.values()]
    if options["filter"]:
        kept = [x for x in kept if x < 2]
    assert dict(facet.counts) == {x: kept.count(x) for x in set(kept)}


def _document(name: str, history: History) -> str:
    return name if name in history.documents else name.rpartition("#")[0]


def test_many_queries_each_with_its_own(tmp_path: Path) -> None:
    corpus = [Document(f"d{n}", f"w{n % 2} w{n % 3} w{n % 5}") for n in range(30)]
    build_index(tmp_path / "i", corpus, FakeEncoder())
    queries = ["w1 -w0", "w1", 'w2 "w0 w1"', "w4 +w3", "w0", "w1 -w0"]
    with Index.open(tmp_path / "i", FakeEncoder()) as index:
        for lexical in (0.0, 0.5, 1.0):
            together = index.search(queries, 5, syntax=True, lexical=lexical)
            for query, hits in zip(queries, together, strict=True):
                assert hits == index.search(query, 5, syntax=True, lexical=lexical)
        # Without being asked signs are text.
        assert len(index.search("w1 -w0", 30)) == 30
        with pytest.raises(MisuseError, match="syntax is 'yes'; it is True or False"):
            index.search("w1", syntax="yes")  # type: ignore[call-overload]


def test_few_of_many_that_hold_all_words(tmp_path: Path) -> None:
    """The words of the phrase are in all documents, in its order in a few of the worst."""
    corpus = [Document(f"d{n}", "a b " * (n % 7 + 1) + "q") for n in range(300)]
    corpus += [Document(f"e{n}", "z z z b a") for n in range(3)]
    build_index(tmp_path / "i", corpus, FakeEncoder())
    with Index.open(tmp_path / "i", FakeEncoder()) as index:
        hits = index.search('q "b a"', 400, syntax=True)
        assert len(hits) == sum(n % 7 > 0 for n in range(300)) + 3
        hits = index.search('q -"a b"', 2, syntax=True)
        assert [hit.id for hit in hits] == ["e0", "e1"]
        assert index.search('q +"z a"', 2, syntax=True) == []


def test_stems(tmp_path: Path) -> None:
    """Conditions compare words as the index does: by stems where it has a language."""
    corpus = [Document("a", "He runs marathons."), Document("b", "running a marathon")]
    build_index(tmp_path / "i", corpus, FakeEncoder())

    def found(query: str) -> list[str]:
        with Index.open(tmp_path / "i", FakeEncoder()) as index:
            return sorted(hit.id for hit in index.search(query, syntax=True))

    assert found("+run x") == found('"run marathon" x') == []
    assert found("+runs x") == ["a"]
    reindex_lexical(tmp_path / "i", language="en")
    assert found("+run x") == ["a", "b"]
    assert found('"run marathon" x') == ["a"]
    assert found("-run x") == []


def test_an_index_without_postings(tmp_path: Path) -> None:
    build_index(tmp_path / "i", [Document("a", "some words")], FakeEncoder())
    without_postings(tmp_path / "i")
    with Index.open(tmp_path / "i", FakeEncoder()) as index:
        assert index.search("some +5 words", syntax=True)
        with pytest.raises(MisuseError, match=r"has no postings, by .* reindex .* --lexical"):
            index.search("some +words", syntax=True)
        with pytest.raises(MisuseError, match="has no postings"):
            count_values(index.snapshot, ["id"], None, [Condition("words")])


# The command line


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("syntax")
    lines = [
        {"id": "a", "text": "The ferry to the island was late.", "kind": "boat"},
        {"id": "b", "text": "The island has one late train.", "kind": "rail"},
        {"id": "c", "text": "A train left the city.", "kind": "rail"},
    ]
    corpus = folder / "c.jsonl"
    corpus.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    run("build", corpus, "--index", folder / "i")
    return folder / "i"


def answered(index: Path, *arguments: str, stdin: str | None = None) -> list[list[str]]:
    printed = run("query", "--index", index, "--json", *arguments, stdin=stdin).stdout
    return [sorted(hit["id"] for hit in json.loads(line)["hits"]) for line in printed.splitlines()]


def test_the_command_line(small: Path) -> None:
    every = ["a", "b", "c"]
    for more in ((), ("--lexical", "0.4")):
        assert answered(small, "travel -ferry", "travel +late", '"the city"', *more) == [
            ["b", "c"], ["a", "b"], ["c"],
        ]  # fmt: skip
        assert answered(small, "travel -ferry", "--plain", *more) == [every]
        assert answered(small, *more, stdin='travel -ferry\n"no end\n') == [every, every]
    assert answered(small, "train +island", "--lexical", "1") == [["a", "b"]]
    queries = small.parent / "queries.txt"
    queries.write_text('travel -ferry\n"no end\n', encoding="utf-8")
    assert answered(small, "--queries", str(queries)) == [every, every]
    assert answered(small, "--plain", '"no end') == [every]
    shown = run("query", "--index", small, "x -ferry", "--facet", "kind").stdout
    assert "        2  rail\n" in shown and "boat" not in shown
    (line,) = run("query", "--index", small, "travel -ferry", "--json").stdout.splitlines()
    assert json.loads(line)["query"] == "travel -ferry"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (('"no end',), 'the phrase "no end has no end; close it'),
        (("--", "-ferry"), "says only what documents must not hold"),
        (("a -b", "a -c", "--facet", "kind"), "different conditions; give one TEXT"),
        (("a", "--full", "--json"), "--full is for the table"),
        (("a", "--full", "--trec"), "--full is for the table"),
    ],
)
def test_a_wrong_command_line(small: Path, arguments: tuple[str, ...], told: str) -> None:
    assert told in one_line_error(run("query", "--index", small, *arguments, status=2))


def test_a_command_line_without_postings(small: Path, tmp_path: Path) -> None:
    shutil.copytree(small, tmp_path / "i")
    without_postings(tmp_path / "i")
    result = run("query", "--index", tmp_path / "i", "travel -ferry", status=2)
    assert "reindex" in one_line_error(result) and "--plain" in one_line_error(result)
    assert answered(tmp_path / "i", "travel -ferry", "--plain") == [["a", "b", "c"]]
