"""The best part of a text, and where words of the query are in it, whatever the text is made of."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import sys
import time
import unicodedata
from itertools import pairwise
from pathlib import Path

import pytest
from commands import run
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fakes.indexes import without_postings
from moee_index.cli.hit_lines import say_hit
from moee_index.index.lexical.places import continues, find_words
from moee_index.index.lexical.words import Words, chunks, divided, surfaces
from moee_index.index.snippets import LEAST, Snippet, Snippets
from moee_index.text import columns

WORDS = Words()


def snippets(query: str, language: str = "none") -> Snippets:
    words = Words(language)
    return Snippets(words, dict.fromkeys(words.terms(query), 1.0))


def marked(snippet: Snippet) -> list[str]:
    return [snippet.text[start:stop] for start, stop in snippet.marks]


# Where words are


@pytest.mark.parametrize(
    ("query", "text", "expected"),
    [
        ("fox", "The quick fox. Fox! (FOX) foxes", "fox Fox FOX"),
        ("mail", "by e-mail, mail or email", "mail mail"),
        ("email", "by e-mail, mail or email", "e-mail email"),
        ("c++", "C, C++ and c#", "C C++ c"),
        ("5mg mg", "5mg of 5 mg", "5mg 5 mg"),
        ("case", "CamelCase and snake_case", "Case case"),
        ("1000", "1,000 and 1000 and 10000", "1,000 1000"),
        # what NFKC and case folding make longer or shorter
        ("fine", "a ﬁne ﬁnesse", "ﬁne"),
        ("kg", "5㎏ and 7 ㎏", "㎏ ㎏"),
        ("strasse", "STRAẞE Straße", "STRAẞE Straße"),
        ("café", "cafe\u0301 CAFÉ cafe", "cafe\u0301 CAFÉ"),
        ("cooperate", "to co\u00adoperate", "co\u00adoperate"),
        ("abc", "ＡＢＣ．", "ＡＢＣ"),
        ("ガギ", "ｶﾞｷﾞです", "ｶﾞｷﾞ"),
        ("한국", "\u1112\u1161\u11ab\u1100\u116e\u11a8", "\u1112\u1161\u11ab\u1100\u116e\u11a8"),
        ("京都", "東京都に、京都", "京都 京都"),
        ("東京都", "東京都に", "東京都"),
        ("שלום", "שלום \u202eעולם\u202c", "שלום"),
        ("nothing", "to be found", ""),
    ],
)
def test_words_are_marked_where_they_were_written(query: str, text: str, expected: str) -> None:
    snippet = snippets(query).snippet(text)
    assert (snippet.text, marked(snippet)) == (text, expected.split())
    assert snippets(query).marks(text) == snippet.marks


def test_stems_are_marked() -> None:
    snippet = snippets("running", "en").snippet("He runs. RUN, runner!")
    assert marked(snippet) == ["runs", "RUN"]


hard = st.text(
    st.characters()
    | st.sampled_from("aé \u0301\u0300ﬁ㎏ẞßİ京都ｶﾞ\u00ad\u200d\u202e\x1b\n.,-+#5_ABab'’")
)


@given(hard)
@settings(max_examples=500)
@example("C++ 1,000 5mg e-mail CamelCase 東京都 co\u00adop a\u0301\u0327 ㎏ ﬁ")
def test_divided_words_are_those_of_a_search(text: str) -> None:
    for chunk in chunks(text):
        compounds = divided(chunk)
        found = [word for one in compounds for word in (*one.wholes, *one.parts)]
        assert found == surfaces(chunk)
        for one in compounds:
            assert len(one.spans) == len(one.parts)
            for start, stop in (one.span, *one.spans):
                assert one.span[0] <= start < stop <= one.span[1] <= len(chunk)


@given(hard, st.data())
@settings(max_examples=500)
def test_every_word_is_found_and_nothing_else(text: str, data: st.DataObject) -> None:
    terms = sorted(set(WORDS.terms(text)))
    wanted = set(data.draw(st.lists(st.sampled_from([*terms, "a", "nowhere"]), max_size=3)))
    places = find_words(text, WORDS, wanted)
    assert {place.term for place in places} == wanted & set(terms)
    assert [place.start for place in places] == sorted(place.start for place in places)
    for place in places:
        assert 0 <= place.start < place.stop <= len(text)
        assert not re.search(r"\s", text[place.start : place.stop])


# Which part


def test_the_part_with_the_most_and_the_rarest_words() -> None:
    words = Words()
    filler = "Nothing is said in this sentence of it. " * 20
    text = f"{filler}A blue bird sat. {filler}A red bird and a blue one sat on it. {filler}"
    best = Snippets(words, {"red": 1.0, "blue": 1.0, "bird": 1.0}).snippet(text, 80)
    assert best.text == (
        "…A red bird and a blue one sat on it. Nothing is said in this sentence of it.…"
    )
    assert marked(best) == ["red", "bird", "blue"]
    text = f"{filler}The rarest: zyx. {filler}The words of the sea. {filler}"
    rare = Snippets(words, {"zyx": 9.0, "the": 0.1, "of": 0.1}).snippet(text, 60)
    assert "zyx" in marked(rare)


def test_several_fragments_where_one_cannot_hold_the_words() -> None:
    filler = "nothing else here at all and " * 30
    snippet = snippets("first second").snippet(f"the first {filler} the second {filler}", 120)
    assert marked(snippet) == ["first", "second"]
    assert snippet.text.startswith("the first") and " … " in snippet.text
    assert len(snippet.text) <= 120


def test_a_text_without_the_words_begins_at_its_beginning() -> None:
    text = "One sentence. " + "many words " * 50
    snippet = snippets("absent").snippet(text, 60)
    assert snippet.text.startswith("One sentence. many words") and snippet.text.endswith("…")
    assert snippets("").snippet("  a \n b\t") == Snippet("a b", ())


@given(hard, hard, st.integers(0, 120), st.integers(1, 5))
@settings(max_examples=500)
@example("京" * 300 + "東京都" + "京" * 300, "東京", 50, 1)
@example("a\u0301" * 300, "a\u0301" * 300, 60, 1)
@example("x " + "a\u0301" * 300 + " x", "x", 60, 3)
def test_a_snippet_of_any_text(text: str, query: str, width: int, times: int) -> None:
    text = " ".join([text] * times) + " tail " * 10 + text
    snippet = snippets(query).snippet(text, width)
    line = " ".join(text.split())
    assert len(snippet.text) <= max(width, LEAST)
    ends = [end for mark in snippet.marks for end in mark]
    assert ends == sorted(ends) and all(start < stop for start, stop in snippet.marks)
    assert not ends or 0 <= ends[0] <= ends[-1] <= len(snippet.text)
    if len(line) <= max(width, LEAST):
        assert snippet.text == line
    elif "…" not in text:
        assert snippet.text.startswith("…") or line.startswith(snippet.text.split(" … ")[0][:-1])
        assert all(fragment in line for fragment in snippet.text.strip("…").split(" … "))
    held = set(WORDS.terms(query)) & set(WORDS.terms(text))
    assert bool(snippet.marks) == bool(held)


@pytest.mark.parametrize("letter", ["e\u0301", "ก\u0e33\u0e49", "न\u093f", "👩\u200d🚀", "👍🏽"])
def test_no_letter_is_cut(letter: str) -> None:
    """Texts without blanks are cut between letters, marks and what joins them included."""
    for before in range(40):
        text = "x" * before + letter * 200
        for query in ("", letter):
            shown = snippets(query).snippet(text, 41).text.strip("…")
            start = text.index(shown)
            end = start + len(shown)
            assert start == 0 or not continues(text, start)
            assert end == len(text) or not continues(text, end)


MEGABYTE = 1 << 20


@pytest.mark.parametrize(
    "text",
    [
        "the quick brown fox, jumps. " * (MEGABYTE // 28),
        "fox " * (MEGABYTE // 4),
        "fox" * (MEGABYTE // 3),
        "fox-" * (MEGABYTE // 4),
        "京都，東京" * (MEGABYTE // 5),
        "a" + "\u0301" * MEGABYTE,
        "+-'" * (MEGABYTE // 3),
        ". " * (MEGABYTE // 2),
        "1,2" * (MEGABYTE // 3),
        "\u1100\u1161" * (MEGABYTE // 2),
        "ﬁ" * MEGABYTE,
    ],
    ids=lambda text: ascii(text[:8]),
)
def test_a_megabyte_takes_no_long(text: str) -> None:
    """Seconds at the most on a busy machine; what is not linear would take hours."""
    started = time.process_time()
    snippet = snippets("fox 京都 fifi").snippet(text, 200)
    assert time.process_time() - started < 20
    assert len(snippet.text) <= 200


# What is shown


def lines_of(
    capsys: pytest.CaptureFixture[str], title: object, text: str, query: str = "fox", **more: bool
) -> list[str]:
    say_hit("  1  a  ", title, text, snippets(query), 60, more.get("full", False))
    return capsys.readouterr().out.splitlines()


@given(hard, hard)
def test_never_more_than_two_lines_nor_wider_than_the_terminal(title: str, text: str) -> None:
    shown: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("moee_index.cli.streams.click.echo", shown.append)
        say_hit("  1  a  ", title, text * 30, snippets("a 京都"), 60, False)
    assert 1 <= len(shown) <= 2
    for line in shown:
        assert columns(line) <= 60
        assert all(
            character in "\u00ad\u200c\u200d" or unicodedata.category(character)[0] != "C"
            or unicodedata.category(character) in ("Cn", "Co")
            for character in line
        )  # fmt: skip


def test_one_line_where_all_fits(capsys: pytest.CaptureFixture[str]) -> None:
    assert lines_of(capsys, "Title", "a fox") == ["  1  a  Title · a fox"]
    assert lines_of(capsys, "", "a\n fox") == ["  1  a  a fox"]
    assert lines_of(capsys, 7, "a fox") == ["  1  a  a fox"]
    long = "There is nothing in it. " * 9 + "Here is a fox. " + "And then nothing. " * 5
    assert lines_of(capsys, "Title", long) == [
        "  1  a  Title",
        "     …Here is a fox. And then nothing. And then nothing.…",
    ]
    assert lines_of(capsys, None, long)[0] == "  1  a"
    assert lines_of(capsys, "Title", f"{long}\n\x1b[2J fox", full=True) == [
        "  1  a  Title", f"     {long}", "     \\x1b[2J fox",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("snippets")
    text = "Nothing much. " * 30 + "A ﬁne fox ran by. " + "Nothing at all. " * 30
    corpus = folder / "c.jsonl"
    corpus.write_text(json.dumps({"id": "a", "title": "On foxes", "text": text}) + "\n")
    run("build", corpus, "--index", folder / "i")
    return folder / "i"


@pytest.mark.parametrize("lexical", ["0", "0.4", "1"])
@pytest.mark.parametrize("postings", [True, False])
def test_json(index: Path, tmp_path: Path, lexical: str, postings: bool) -> None:
    if not postings:
        if lexical != "0":
            return
        shutil.copytree(index, tmp_path / "i")
        index = tmp_path / "i"
        without_postings(index)
    result = run("query", "a fine fox", "--index", index, "--json", "--lexical", lexical)
    (hit,) = json.loads(result.stdout)["hits"]
    snippet = Snippet(hit["snippet"], tuple(map(tuple, hit["marks"])))
    assert {"ﬁne", "fox"} <= set(marked(snippet))
    assert len(hit["text"]) > 500 >= len(snippet.text)
    (hit,) = json.loads(run("query", "--like", "a", "--index", index, "--json").stdout)["hits"] or [
        {"snippet": "", "marks": []}
    ]
    assert hit["marks"] == []


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        ("xterm", "  1  a  A \x1b[1mfox\x1b[0m · the \x1b[1mFOX\x1b[0m, \\x1b[1m\r\n"),
        ("dumb", "  1  a  A fox · the FOX, \\x1b[1m\r\n"),
    ],
)
def test_words_are_bold_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, term: str, expected: str
) -> None:
    parent, child = pty.openpty()
    with os.fdopen(child, "w", encoding="utf-8") as terminal, os.fdopen(parent, "rb") as screen:
        monkeypatch.setenv("TERM", term)
        monkeypatch.setattr(sys, "stdout", terminal)
        say_hit("  1  a  ", "A fox", "the FOX, \x1b[1m", snippets("fox"), 80, False)
        terminal.flush()
        assert os.read(screen.fileno(), 4096).decode() == expected


def test_nothing_is_bold_in_a_pipe(index: Path) -> None:
    command = [sys.executable, "-m", "moee_index", "-q", "query", "--index", str(index), "fine fox"]
    piped = subprocess.run(command, capture_output=True, check=True).stdout.decode()
    assert "\x1b" not in piped and "ﬁne fox ran by" in piped


def test_fragments_are_in_order_and_apart() -> None:
    text = " ".join(f"w{number}" for number in range(3000))
    for query in ("w5 w1500 w2990", "w1 w8 w20", "w100 w140 w2999"):
        snippet = snippets(query).snippet(text, 150)
        assert marked(snippet) == query.split()
        numbers = [int(number) for number in re.findall(r"w(\d+)", snippet.text)]
        assert all(one < other for one, other in pairwise(numbers))
