"""Long texts into passages: nothing lost, nothing over the budget, cut where sentences end."""

from __future__ import annotations

import inspect
import time
import unicodedata
from functools import cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import PARITY

from fakes.word_encoder import FakeEncoder, fake_spec, word_offsets
from moee_index.encode.chunking import _inside, divide, split
from moee_index.encode.encoder import Encoder
from moee_index.encode.prompts import TEMPLATES, parse_prompt
from moee_index.encode.sentences import mark
from moee_index.errors import MisuseError
from moee_index.types import Chunking, Span, TextEncoder, joined

Offsets = npt.NDArray[np.int64]

# What --chunk says


@pytest.mark.parametrize(
    ("text", "size", "overlap"),
    [("200", 200, 0), ("200:40", 200, 40), ("8:4", 8, 4), ("9:0", 9, 0)],
)
def test_chunk_is_a_size_and_an_overlap(text: str, size: int, overlap: int) -> None:
    chunking = Chunking.parse(text)
    assert chunking == Chunking(size, overlap)
    assert Chunking.parse(str(chunking)) == chunking
    assert str(chunking) == text.removesuffix(":0")


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "7", "0", "-9", "200:", ":40", "200:101", "200:-1", "8:5", "1e3", "200:40:1"),
        *(" 200", "200\n", "200 : 40", "٢٠٠", "2_00", "9" * 5000),
    ],
)
def test_another_chunk_is_misuse(text: str) -> None:
    with pytest.raises(MisuseError, match="--chunk"):
        Chunking.parse(text)


def test_a_chunking_made_in_python_has_the_same_bounds() -> None:
    for size, overlap in ((7, 0), (8, 5), (8, -1)):
        with pytest.raises(MisuseError, match=f"--chunk {size}"):
            Chunking(size, overlap)


# Where sentences end


@pytest.mark.parametrize(
    "marked",
    [
        "One here.| Two here!|  Three here?|\tFour…| Five...| and six",
        'He said "yes."| (She did not.)| “Why?”| ‘So!’| Then «no.»| [End.]|',
        "Dr. J. R. Smith met Mrs. Low of St. Ives (Mt. Bay) in the U.S. capital.| They met.|",
        "It costs 3.14 or 1,000.50 in 2004.| See No. 5 and Fig. 3 (vol. 2).| He said no.| So.|",
        "Parts (e.g. bolts, i.e. iron) etc. are sold by A. B. Corp. there.| That was Tony's.| Yes",
        "1. First thing|\n2. Second thing|\n\n13. Third; it was 1.| Then",
        "A title|\nA text that is\nwrapped to short\r\nlines.|\nThen|\r\nOne|\n\ntwo|\u2028Three",
        "Versions 1.2.3 and v2.0 of example.com/a.html.| Done.|",
        "Really?!| Yes!!!| No...!| Well.|\u00a0So .| .| .| is .| this",
        "هل هذا سؤال؟| نعم هذا.| پہلا جملہ۔| دوسرا",
        "你好。|他说：「再见！」|为什么？|完了。| 好|\n是。。。」|没",
        "これは文です。|（終わり。）|次",
        "यह वाक्य है।| दूसरा॥|अंत",
        "",
        " ",
        ".|",
        "(",
    ],
)
def test_sentences(marked: str) -> None:
    """A bar stands at each sentence end."""
    parts = marked.split("|")
    text = "".join(parts)
    ends = np.cumsum([len(part) for part in parts])[:-1].tolist()
    marks = mark(text)
    assert [text[:end] for end in marks.sentence_ends] == [text[:end] for end in ends]
    starts = [end + len(text[end:]) - len(text[end:].lstrip()) for end in ends]
    assert marks.sentence_starts.tolist() == [start for start in starts if start < len(text)]


# Spans

PARAGRAPH = (
    "The river rose in spring. Dr. J. Smith measured it at 3.14 metres! Nobody had seen that "
    'before. "Move the animals," he said, "and do it now." So they did, '
    "working through a night that would not end while water ran over the old road and the bridge"
)


def texts_of(text: str, spans: list[Span]) -> list[str]:
    return [text[start:end] for start, end in spans]


def test_a_paragraph_without_overlap() -> None:
    # 5, 8, 5, 9 words in sentences, then 21 without an end
    found = texts_of(PARAGRAPH, split(PARAGRAPH, word_offsets(PARAGRAPH), 14, 0))
    assert found == [
        "The river rose in spring. Dr. J. Smith measured it at 3.14 metres!",
        'Nobody had seen that before. "Move the animals," he said, "and do it now."',
        "So they did, working through a night that would not end while water ran",
        "over the old road and the bridge",
    ]


def test_a_paragraph_with_overlap() -> None:
    found = texts_of(PARAGRAPH, split(PARAGRAPH, word_offsets(PARAGRAPH), 14, 6))
    assert found == [
        "The river rose in spring. Dr. J. Smith measured it at 3.14 metres!",
        # six words before the end, for the sentence is longer
        "Smith measured it at 3.14 metres! Nobody had seen that before.",
        # the sentence of five fits into the overlap
        'Nobody had seen that before. "Move the animals," he said, "and do it now."',
        'he said, "and do it now." So they did, working through a night that',
        "did, working through a night that would not end while water ran over the",
        "end while water ran over the old road and the bridge",
    ]


def test_a_text_that_fits_is_left_as_it_is() -> None:
    assert split(" a b \n", word_offsets(" a b \n"), 8, 4) == [(0, 6)]
    assert split("", word_offsets(""), 8, 4) == [(0, 0)]
    blanks = np.array([[i, i + 1] for i in range(90)])
    assert split(" \n\t" * 30, blanks, 8, 4) == [(0, 0)]
    assert split(" \n\t" * 29 + " a ", blanks, 8, 0) == [(88, 89)]


def brute_force(words: list[str], size: int, overlap: int) -> list[tuple[int, int]]:
    """The rules again, on words of one token each, looking at every place."""
    found: list[tuple[int, int]] = []
    start = fresh = 0
    while start + size < len(words):
        limit = start + size
        half = fresh + (limit - fresh + 1) // 2
        ends = [end for end in range(half, limit + 1) if words[end - 1].endswith(".")]
        end = max(ends, default=limit)
        found.append((start, end))
        earliest = max(end - overlap, start + 1)
        starts = [place for place in range(earliest, end) if words[place - 1].endswith(".")]
        start, fresh = (min(starts, default=earliest) if overlap else end), end
    return [*found, (start, len(words))]


@given(
    words=st.lists(st.sampled_from(["rain", "rain", "river", "bank."]), min_size=1, max_size=120),
    size=st.integers(4, 40),
    overlap=st.integers(0, 20),
)
def test_words_of_one_token_against_brute_force(words: list[str], size: int, overlap: int) -> None:
    overlap = min(overlap, size // 2)
    text = " ".join(words)
    offsets = word_offsets(text)
    expected = [
        (int(offsets[first, 0]), int(offsets[last - 1, 1]))
        for first, last in brute_force(words, size, overlap)
    ]
    assert split(text, offsets, size, overlap) == expected


# Hostile texts, and tokens of all kinds


def character_offsets(text: str) -> Offsets:
    places = np.arange(len(text))
    return np.stack([places, places + 1], axis=1)


def byte_offsets(text: str) -> Offsets:
    """Each byte is a token; the bytes of a character share its place."""
    return np.repeat(character_offsets(text), [len(c.encode()) for c in text], axis=0)


def merged_offsets(text: str, pattern: tuple[int, ...] = (3, 1, 4, 2, 7)) -> Offsets:
    """Tokens of several characters, blanks and sentence ends within them."""
    steps = np.cumsum(np.resize(np.array(pattern), len(text)))
    edges = [0, *steps[steps < len(text)].tolist(), len(text)]
    return np.array([*pairwise(edges)]).reshape(-1, 2)


def gappy_offsets(text: str) -> Offsets:
    """A tokeniser that drops every other character, and gives tokens of no character."""
    places = np.arange(0, len(text), 2)
    return np.stack([places, places + (places % 3 > 0)], axis=1)


TOKENISERS = (word_offsets, character_offsets, byte_offsets, merged_offsets, gappy_offsets)
HOSTILE = [
    *" \t\n\r\u2028\u3000\x85\x00",
    *".!?…。！？؟।,",
    *"\"')]}”」(“「",
    *"aZé1中文бश",
    *"\u0301\u200d\ufe0f\U0001f469\U0001f3fd",
    "\U0001f1e9\U0001f1ea",
    "👩‍👩‍👧‍👦",
    "word",
    "Mr.",
    "J. ",
    "3.14",
    "\n\n",
    "end. ",
]
TEXTS = st.lists(
    st.tuples(st.sampled_from(HOSTILE), st.sampled_from([1, 1, 1, 2, 30])), max_size=40
).map(lambda parts: "".join(part * times for part, times in parts))


def touched(offsets: Offsets, start: int, end: int) -> int:
    """Tokens that a span holds a part of."""
    inside = (offsets[:, 0] < end) & (offsets[:, 1] > start) & (offsets[:, 1] > offsets[:, 0])
    return int(np.count_nonzero(inside))


@settings(max_examples=400, deadline=None)
@given(
    text=TEXTS | st.text(max_size=80),
    size=st.integers(4, 30),
    overlap=st.integers(0, 15),
    tokeniser=st.sampled_from(TOKENISERS),
)
def test_nothing_is_lost_and_the_budget_holds(
    text: str, size: int, overlap: int, tokeniser: object
) -> None:
    overlap = min(overlap, size // 2)
    offsets: Offsets = tokeniser(text)  # type: ignore[operator]
    spans = split(text, offsets, size, overlap)
    assert spans == split(text, offsets, size, overlap)
    if len(offsets) <= size:
        assert spans == [(0, len(text))]
        return
    if not text.strip():
        assert spans == [(0, 0)]
        return
    assert text[: spans[0][0]].strip() == "" and text[spans[-1][1] :].strip() == ""
    for start, end in spans:
        assert 0 <= start < end <= len(text)
        assert text[start:end] == text[start:end].strip()
        assert touched(offsets, start, end) <= size
    for (start, end), (after, further) in pairwise(spans):
        assert start < after and end < further
        assert text[end:after].strip() == ""
        if after < end:
            assert touched(offsets, after, end) <= overlap
        if not overlap:
            assert after >= end


@settings(max_examples=200, deadline=None)
@given(text=TEXTS, size=st.integers(4, 30), tokeniser=st.sampled_from(TOKENISERS[:3]))
def test_a_cut_is_at_the_best_place_of_the_budget(text: str, size: int, tokeniser: object) -> None:
    offsets: Offsets = tokeniser(text)  # type: ignore[operator]
    sentence_ends = mark(text).sentence_ends.tolist()
    for start, end in split(text, offsets, size, 0)[:-1]:
        fitting = [
            place
            for place in range(start + 1, len(text))
            if not text[place - 1].isspace() and touched(offsets, start, place) <= size
        ]
        half = [place for place in fitting if 2 * touched(offsets, start, place) >= size]
        sentences = [place for place in half if place in sentence_ends]
        words = [place for place in fitting if text[place].isspace()]
        if sentences or words:
            assert end == max(sentences or words)
        else:
            # nothing but marks and joiners, if anything, may stand between the cut and the budget
            assert all(_inside(text, place) for place in fitting if place > end)


def test_characters_of_several_tokens_are_not_cut() -> None:
    text = "東京の雨は" * 30 + "😀" * 30
    offsets = byte_offsets(text)
    spans = split(text, offsets, 10, 0)
    assert "".join(texts_of(text, spans)) == text
    # three bytes a character: nine fit; four bytes an emoji: eight do
    assert {end - start for start, end in spans[:40]} == {3}
    assert {end - start for start, end in spans[-10:]} == {2}


def test_a_character_over_the_budget_stands_alone() -> None:
    text = "abcdef\ufdfaghijkl"
    offsets = np.concatenate(
        [character_offsets(text)[:6], np.repeat([[6, 7]], 18, axis=0), character_offsets(text)[7:]]
    )
    for overlap in (0, 3):
        spans = split(text, offsets, 6, overlap)
        assert (6, 7) in spans
        assert "".join(dict.fromkeys("".join(texts_of(text, spans)))) == text


def test_marks_and_joined_emoji_stay_with_their_character() -> None:
    family = "👩‍👩‍👧‍👦"
    for unit in (family, "e\u0301", "👍\U0001f3fd", "❤\ufe0f"):
        text = unit * 50
        for overlap in (0, 8):
            for start, end in split(text, character_offsets(text), 20, overlap):
                assert start % len(unit) == 0 and end % len(unit) == 0


@pytest.mark.parametrize(
    "text",
    [
        *(
            "a",
            "\n",
            ". ",
            ".",
            "Mr. ",
            "J. ",
            "e\u0301",
            "\u0301",
            "\u200d",
            "你好。",
            "a\n",
            "w ",
        ),
        *('."', "word here. ", "🇩🇪", "1. x\n"),
    ],
)
@pytest.mark.parametrize(("size", "overlap"), [(200, 40), (200, 100), (200, 0)])
def test_a_million_characters_take_linear_time(text: str, size: int, overlap: int) -> None:
    text = (text * 1_000_000)[:1_000_000]
    offsets = character_offsets(text)
    begun = time.process_time()
    spans = split(text, offsets, size, overlap)
    # about 0.1 seconds, 1 at most (half a million possible abbreviations); quadratic is hours
    assert time.process_time() - begun < 10
    assert spans[-1][1] == len(text.rstrip())
    assert len(spans) <= 4 * len(text) // size


# Titles


def of(title: str, text: str, chunk: str) -> list[str]:
    spans = divide(title, text, word_offsets(joined(title, text)), Chunking.parse(chunk))
    return texts_of(text, spans)


def test_the_title_is_counted_with_each_passage() -> None:
    text = "one two three. four five six. seven eight nine. ten"
    assert of("", text, "10") == [text]
    assert of("", text, "9") == ["one two three. four five six. seven eight nine.", "ten"]
    assert of("a title", text, "12") == [text]
    assert of("a title", text, "9") == [
        "one two three. four five six.",
        "seven eight nine. ten",
    ]


def test_half_of_the_size_is_kept_from_a_long_title() -> None:
    title = "a title of very many words that never seems to end"
    text = "one two three. four five six. seven eight nine. ten"
    assert of(title, text, "8") == ["one two three.", "four five six.", "seven eight nine. ten"]
    # overlap is at most half of what is left
    assert of(title, "aa bb cc dd ee ff", "8:4") == ["aa bb cc dd", "cc dd ee ff"]


def test_a_document_has_at_least_one_passage() -> None:
    assert divide("a title", "", word_offsets("a title"), Chunking(8)) == [(0, 0)]
    assert divide("", "", word_offsets(""), Chunking(8)) == [(0, 0)]
    long = " ".join(["word"] * 20)
    assert divide(long, "", word_offsets(long), Chunking(8)) == [(0, 0)]
    assert divide(long, "text", word_offsets(f"{long} text"), Chunking(8)) == [(0, 4)]
    assert divide("t", " ", word_offsets("t  "), Chunking(8)) == [(0, 1)]


@given(title=st.text(" ab", max_size=20), text=TEXTS, size=st.integers(8, 30), half=st.booleans())
def test_title_and_span_together_keep_the_size(
    title: str, text: str, size: int, half: bool
) -> None:
    chunking = Chunking(size, size // 2 if half else 3)
    offsets = byte_offsets(joined(title, text))
    excess = max(0, len(title) - size // 2)
    for start, end in divide(title, text, offsets, chunking):
        assert len(title.encode()) + len(text[start:end].encode()) <= size + excess


# Real tokenizers

MIXED = (
    "The café on 5th St. opened in 1998 — nobody knew why 🙂. "
    "東京では雨が降っていた。彼は「行こう！」と言った。 "
    "👩‍👩‍👧‍👦 families came; naïve façades, e\u0301tudes and 3.14 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 signs… "
    "هل هذا سؤال؟ Да, конечно. यह एक वाक्य है। 🇩🇪🇫🇷 "
    'snake_case_names and "quotes" stay.\n\nA new paragraph begins here, without much to say. '
) * 12


@cache
def loaded(model: str | None, prompt: str | None = None) -> Encoder:
    return Encoder.load(PARITY / model if model else None, prompt=prompt)


ENCODERS = [
    (None, None),
    (None, "prompteol"),
    ("olmoe", "prompteol"),
    ("olmoe", "none"),
    ("qwen2_moe", "{text}"),
    ("deepseek", "sentiment"),
]


@pytest.mark.parametrize(("model", "prompt"), ENCODERS)
@pytest.mark.parametrize("chunk", ["200:40", "40:20", "16"])
def test_real_tokens_of_mixed_scripts(model: str | None, prompt: str | None, chunk: str) -> None:
    encoder, chunking = loaded(model, prompt), Chunking.parse(chunk)
    title = "A title 題"
    (spans, short, empty) = encoder.passages([(title, MIXED), ("", "short"), ("t", "")], chunking)
    assert short == [(0, 5)]
    assert empty == [(0, 0)]
    covered = np.zeros(len(MIXED), dtype=bool)
    for start, end in spans:
        assert MIXED[start:end].strip() == MIXED[start:end] != ""
        covered[start:end] = True
    assert "".join(c for c, held in zip(MIXED, covered, strict=True) if not held).strip() == ""
    tokenizer, used = encoder._tokenizer, encoder._prompt
    most = chunking.size + tokenizer.template_tokens(used)
    inputs = [joined(title, MIXED[start:end]) for start, end in spans]
    lengths = [len(one.text.ids) for one in tokenizer.tokenize(inputs, used)]
    assert max(lengths) <= most + 3
    assert np.mean(lengths) >= 0.5 * most
    assert not any(encoder.plan(inputs).truncated)


@pytest.mark.parametrize("model", [None, "olmoe"])
def test_offsets_are_characters_of_the_text(model: str | None) -> None:
    tokenizer = loaded(model)._tokenizer
    texts = [MIXED, "", "a", " ", "😀"]
    for text, offsets in zip(texts, tokenizer.offsets(texts), strict=True):
        assert offsets.shape == (len(offsets), 2) and offsets.dtype == np.int64
        assert (offsets >= 0).all() and (offsets <= len(text)).all()
        assert (np.diff(offsets, axis=0) >= 0).all()
        held = np.zeros(len(text), dtype=bool)
        for start, end in offsets:
            held[start:end] = True
        # What no token holds: blanks, and the joiners and marks that the bundled tokenizer drops.
        rest = {c for c, is_held in zip(text, held, strict=True) if not is_held}
        assert {unicodedata.category(c) for c in rest} <= {"Zs", "Cc", "Cf", "Mn", "Mc"}
    assert tokenizer.offsets([]) == []


def test_a_long_text_is_no_reason_for_a_warning(capfd: pytest.CaptureFixture[str]) -> None:
    loaded(None)._tokenizer.offsets(["rain " * 2000])
    assert capfd.readouterr() == ("", "")


def test_a_size_that_does_not_fit_max_tokens_is_misuse() -> None:
    encoder = Encoder.load(PARITY / "olmoe", prompt="prompteol", max_tokens=60)
    own = encoder._tokenizer.template_tokens(parse_prompt("prompteol"))
    assert len(encoder.passages([("", "rain")], Chunking(60 - own))) == 1
    with pytest.raises(MisuseError) as raised:
        encoder.passages([("", "rain")], Chunking(60 - own + 1))
    message = str(raised.value)
    assert f"--chunk of at most {60 - own}" in message and "--max-tokens of at least 61" in message
    tight = Encoder.load(PARITY / "olmoe", prompt="prompteol", max_tokens=own + 7)
    with pytest.raises(MisuseError, match=f"take a --max-tokens of at least {own + 8}$"):
        tight.passages([], Chunking(8))
    with pytest.raises(MisuseError, match="--chunk 33"):
        FakeEncoder().passages([("", "rain")], Chunking(33))


@pytest.mark.parametrize("prompt", sorted(TEMPLATES))
def test_the_clean_up_keeps_places(prompt: str) -> None:
    # Encoder.passages takes the tokens of the cleaned text for those of the text.
    for text in ('he said "a_b"', "end", "end.", " _", "x"):
        _, cleaned, _ = parse_prompt(prompt).apply(text)
        assert len(cleaned) - len(text) in (0, 1)
        for mine, theirs in zip(cleaned, text, strict=False):
            assert mine == theirs or (theirs, mine) in (('"', "'"), ("_", " "))


# The seam


def test_fake_and_real_encoder_keep_the_protocol() -> None:
    wanted = inspect.signature(TextEncoder.passages)
    assert inspect.signature(Encoder.passages) == wanted
    assert inspect.signature(FakeEncoder.passages) == wanted
    real: TextEncoder = loaded(None)
    fake: TextEncoder = FakeEncoder(spec=fake_spec(max_tokens=512))
    # Words that are one token each: the two must agree.
    text = " ".join(["rain came over the river bank and then we saw it all"] * 9)
    documents = [("a title", text), ("", text), ("rain", "short text"), ("", "")]
    for chunk in ("40:10", "16", "9:4"):
        chunking = Chunking.parse(chunk)
        assert real.passages(documents, chunking) == fake.passages(documents, chunking)
