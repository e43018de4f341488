"""Texts to words: in every script, whatever signs are in them, and fast enough to be no matter."""

from __future__ import annotations

import itertools
import re
import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moee_index.errors import MisuseError
from moee_index.index.lexical import words as module
from moee_index.index.lexical.language import LANGUAGES
from moee_index.index.lexical.words import LONGEST, Words, chunks, pieces, surfaces


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, World!", "hello world"),
        ("", ""),
        ("--- ___ ++ 🙂 ❤️ \u00ad", ""),
        # what is written together: whole and in parts
        ("e-mail E-Mail email", "email e mail email e mail email"),
        ("snake_case SnakeCase snakeCase", "snakecase snake case " * 3),
        ("HTTPServer parseXMLFile", "httpserver http server parsexmlfile parse xml file"),
        ("HTTP/2 and/or", "http2 http 2 andor and or"),
        ("don't O'Neil’s", "dont don t oneils o neil s"),
        ("state-of-the-art", "stateoftheart state of the art"),
        ("a-b-c-d-e-f-g-h-i", "a b c d e f g h i"),
        ("U.S.A. e.g.", "usa u s a eg e g"),
        ("user@example.org", "userexampleorg user example org"),
        # signs that are part of a name
        ("C++ C# F#. C CD4+", "c++ c c# c f# f c cd4+ cd4"),
        ("1+1 C+=2 x==1", "1 1 c 2 x 1"),
        # letters and digits
        ("p53 H2O COVID-19 covid19", "p53 h2o covid19 covid 19 covid19"),
        ("DNAs PhDs X", "dnas phds ph ds x"),
        # numbers, with units
        ("5mg 3.5mm 10 km", "5mg 5 mg 3.5mm 3.5 mm 10 km"),
        ("1,000.5 1,000,000 3,14 2015-03-12", "1000.5 1000000 3,14 20150312 2015 03 12"),
        ("1,2,3 10:30 20°C 100%", "1,2,3 10 30 20 c 100"),
        ("v2.0 192.168.0.1", "v2.0 192.168.0.1"),
        # NFKC and case folding
        ("ﬁne m² ½ ℃ Ⅻ ＡＢＣ", "fine m2 1 2 c xii abc"),
        ("Straße ΣΊΣΥΦΟΣ İ naïve cafe\u0301 CAFÉ", "strasse σίσυφοσ i̇ naïve café café"),
        ("co\u00adoperate می\u200cخواهم", "cooperate میخواهم"),
        # words apart in other scripts, with their marks
        ("हिन्दी भाषा", "हिन्दी भाषा"),
        ("한국어를 배우다", "한국어를 배우다"),
        ("Привет, мир! שָׁלוֹם", "привет мир שָׁלוֹם"),
        # and together: overlapping pairs
        ("東京都に住む。", "東京 京都 都に に住 住む"),
        ("水 と", "水 と"),
        ("ｶﾞｷﾞ", "ガギ"),
        ("iPhone15を買う", "iphone15 i phone15 を買 買う"),
        ("我爱C++编程", "我爱 c 编程"),
    ],
)
def test_words_of_a_text(text: str, expected: str) -> None:
    assert Words().terms(text) == expected.split()


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("น้ำท่วม", ["น้\u0e4d", "า", "ท่", "ว", "ม"]),
        ("ພາສາລາວ", ["ພ", "າ", "ສ", "າ", "ລ", "າ", "ວ"]),
        ("ភាសាខ្មែរ", ["ភា", "សា", "ខ្", "មែ", "រ"]),
        ("မြန်မာ", ["မြ", "န်", "မာ"]),
    ],
)
def test_pairs_keep_marks_with_their_letters(text: str, letters: list[str]) -> None:
    """Thai, Lao, Khmer and Burmese; NFKC parts Thai's sara am."""
    pairs = [one + two for one, two in itertools.pairwise(letters)]
    assert Words().terms(text) == [unicodedata.normalize("NFKC", pair) for pair in pairs]


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("en", "running runners e-mails C++ p53s", "run runner email e mail c++ c p53s"),
        ("de", "Häuser Straßen", "haus strass"),
        ("fr", "continuellement l'avions", "continuel lavion l avion"),
        ("ru", "книги книгами", "книг книг"),
        ("en", "東京 running", "東京 run"),
    ],
)
def test_stemming(language: str, text: str, expected: str) -> None:
    assert Words(language).terms(text) == expected.split()


def test_languages() -> None:
    """Each can be made; what decides the words names it."""
    for language, name in LANGUAGES.items():
        words = Words(language)
        assert words.terms("abc 12") == [words.stemmed("abc"), "12"]
        assert name in words.identity and "Snowball" in words.identity
    assert "Snowball" not in Words().identity
    for wrong in ("xx", "english", "", "EN"):
        with pytest.raises(MisuseError, match=r"language is .* none .*en,"):
            Words(wrong)


def test_marks_are_within_words() -> None:
    """What Unicode calls a mark never ends a word; a later Unicode may have more."""
    within = re.compile(module._WITHIN)
    marks = [c for c in map(chr, range(0x110000)) if unicodedata.category(c)[0] == "M"]
    assert sum(within.match(mark) is None for mark in marks) < 0.05 * len(marks)
    if unicodedata.unidata_version == "14.0.0":
        assert all(within.match(mark) for mark in marks)


@given(st.text(max_size=60))
def test_any_text(text: str) -> None:
    """Never an error; the same whatever was split before, however it is normalised; nothing that is
    too long, empty, or has a blank."""
    found = Words().terms(text)
    assert found == Words().terms(unicodedata.normalize("NFKC", text))
    words = Words()
    words.terms(text[::2])
    assert words.terms(text) == found
    for word in found:
        assert word and len(word) <= LONGEST + 2
        assert not any(character.isspace() for character in word)
        assert any(character.isalnum() for character in word)
    # Case does not matter but for where a word's parts begin.
    lower = [word for chunk in chunks(text.lower()) for word in surfaces(chunk)]
    assert lower == Words().terms(text.lower())


@given(st.lists(st.sampled_from(["ab", "Cd", "e-f", "g", "9mm", "東京"]), max_size=6))
def test_words_of_texts_joined_by_blanks(parts: list[str]) -> None:
    words = Words()
    apart = [word for part in parts for word in words.terms(part)]
    assert words.terms(" ".join(parts)) == apart


def test_long_runs() -> None:
    """No text takes long, and what is remembered stays small."""
    words = Words()
    began = time.process_time()
    for text in ("a" * 300_000, "ab-" * 100_000, "東" * 300_000, "aB" * 100_000, "1," * 100_000):
        words.terms(text)
    assert time.process_time() - began < 10
    assert sum(map(len, words._known)) < 1000
    assert Words().terms("a" * 1000) == ["a" * LONGEST]


@given(st.text(st.sampled_from("ab-.é \u0301東\n"), max_size=50), st.integers(1, 8))
def test_pieces_of_a_long_text_have_its_words(text: str, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_PIECE", size)
        apart = list(pieces(text))
    assert "".join(apart) == text
    assert [word for one in apart for word in Words().terms(one)] == Words().terms(text)


def test_speed() -> None:
    """Some megabytes a second: far below what it reaches, for machines that are slow and busy."""
    text = " ".join(f"Word{n % 997} of the e-mail, number {n}." for n in range(40_000))
    words = Words()
    words.terms(text)
    began = time.process_time()
    words.terms(text)
    assert len(text.encode()) / 1e6 / (time.process_time() - began) > 0.5


ODD = ("a", "é", "日本", "\u0301", "\u00a8", "\ufdfa", "5", ",", "-", "+", "#", "_", " ", "\u2003")


@settings(max_examples=1000)
@given(st.text() | st.lists(st.sampled_from([*ODD, "\x1c", "\u200b", "'"])).map("".join))
def test_words_do_not_reach_across_blanks(text: str) -> None:
    words = Words("en")
    apart = [term for token in text.split() for term in words.terms(token)]
    assert apart == words.terms(text)
