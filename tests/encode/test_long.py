"""Texts of any length: what comes out is what the whole text would give, at the price of a
beginning."""

from __future__ import annotations

import tracemalloc
from functools import cache, partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import PARITY

from moee_index.encode import chunking, tokenizer
from moee_index.encode.chunking import divide, divide_long
from moee_index.encode.prompts import parse_prompt
from moee_index.encode.tokenizer import Tokenized, Tokenizer
from moee_index.model.checkpoint.find import bundled_path, find_checkpoint
from moee_index.types import Chunking, joined

CHECKPOINTS = {"tiny": bundled_path(), **{name: PARITY / name for name in ("olmoe", "deepseek")}}
WORDS = (
    *("ships", "sail", "The", "moon.", "a", "é", "naïve", "日本語", "\n", "\n\n", "  ", "\t"),
    *("👩\u200d🚀", "x" * 150, "1234567890", "don't", "U.S.", '"', "e\u0301", "\u00a0", "_under_"),
    *("！", "</s>", "[UNK]"),
)
PROMPTS = ("prompteol", "none", "{text}", "before {text}")


@cache
def tokenizer_of(name: str, max_tokens: int) -> Tokenizer:
    return Tokenizer(find_checkpoint(CHECKPOINTS[name]), max_tokens)


def texts() -> st.SearchStrategy[str]:
    words = st.lists(st.sampled_from(WORDS), max_size=60)
    repeated = st.tuples(words, st.integers(1, 12)).map(lambda both: both[0] * both[1])
    return st.tuples(repeated, st.sampled_from([" ", ""])).map(lambda both: both[1].join(both[0]))


def whole(of: Tokenizer, text: str, prompt: str) -> Tokenized:
    """As it is without any short cut."""
    piece = parse_prompt(prompt).apply(text)
    (encoded,) = of._encode([piece])
    return of._finish(piece, encoded)


@pytest.mark.parametrize("name", CHECKPOINTS)
@given(text=texts(), prompt=st.sampled_from(PROMPTS), max_tokens=st.sampled_from([24, 48]))
@settings(max_examples=150, deadline=None)
def test_a_beginning_gives_what_the_whole_gives(
    name: str, text: str, prompt: str, max_tokens: int
) -> None:
    of = tokenizer_of(name, max_tokens)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer, "_CHARACTERS", 2)
        patch.setattr(tokenizer, "_CONTEXT", 160)
        (short,) = of.tokenize([text], parse_prompt(prompt))
    assert short == whole(of, text, prompt)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_only_a_beginning_is_looked_at(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    of = Tokenizer(find_checkpoint(CHECKPOINTS[name]), 64)
    seen: list[int] = []
    encode = of._encode

    def counting(inputs: list[tokenizer.Piece]) -> list[tokenizer.Encoded]:
        seen.extend(len("".join(piece)) for piece in inputs)
        return encode(inputs)

    monkeypatch.setattr(of, "_encode", counting)
    short, long = of.tokenize(["rain is expected " * 40, "rain is expected " * 100_000], PROMPT)
    assert short.text == long.text
    assert short.truncated and long.truncated
    assert max(seen) < 64 * 16 + 1000


PROMPT = parse_prompt("prompteol")


def test_a_text_of_few_tokens_is_looked_at_whole() -> None:
    of = tokenizer_of("tiny", 24)
    for text in ("x" * 100_000, "word" + " " * 100_000 + "end", " " * 50_000 + "ships " * 50):
        (found,) = of.tokenize([text], PROMPT)
        assert found == whole(of, text, "prompteol")


def test_many_long_texts_take_little_memory() -> None:
    of = tokenizer_of("tiny", 512)
    texts = [f"book {number} " + "of ships that sail on the sea, " * 15_000 for number in range(40)]
    of.tokenize(texts[:1], PROMPT)
    tracemalloc.start()
    try:
        found = of.tokenize(texts, PROMPT)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert all(one.truncated and len(one.text.ids) == 512 for one in found)
    assert peak < 60e6  # the texts together are 19 MB, their tokens as Python objects 500


@pytest.mark.parametrize("name", CHECKPOINTS)
@given(
    title=st.sampled_from(["", "A title", "ships " * 30]),
    text=texts(),
    size=st.sampled_from([8, 17]),
    overlap=st.sampled_from([0, 4]),
)
@settings(max_examples=150, deadline=None)
def test_passages_by_sections_are_those_of_the_whole(
    name: str, title: str, text: str, size: int, overlap: int
) -> None:
    of = tokenizer_of(name, 64)
    content = joined(title, text)
    (offsets,) = of.offsets([content])
    asked = Chunking(size, overlap)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunking, "SECTION", 700)
        patch.setattr(chunking, "_MARGIN", 160)
        found = divide_long(title, text, partial(of.offsets_within, content), asked)
    assert found == divide(title, text, offsets, asked)


@pytest.mark.parametrize("name", CHECKPOINTS)
@given(text=texts(), share=st.tuples(st.floats(0, 1), st.floats(0, 1)))
@settings(max_examples=100, deadline=None)
def test_offsets_within_a_part(name: str, text: str, share: tuple[float, float]) -> None:
    of = tokenizer_of(name, 64)
    start, end = sorted(round(one * len(text)) for one in share)
    (offsets,) = of.offsets([text])
    inside = offsets[(offsets[:, 1] > start) & (offsets[:, 0] < end)]
    # A token that is longer than what is looked at ends with that.
    found = of.offsets_within(text, start, end)
    np.testing.assert_array_equal(found.clip(start, end), inside.clip(start, end))


def test_passages_of_a_long_text_take_little_memory() -> None:
    of = tokenizer_of("tiny", 512)
    text = "The ships that sail on the sea are old. " * 200_000  # 8 MB, 2,000,000 tokens
    tracemalloc.start()
    try:
        found = divide_long("", text, partial(of.offsets_within, text), Chunking(200, 40))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found[0][0] == 0
    assert found[-1][1] == len(text) - 1
    assert all(start < end for start, end in found)
    assert peak < 60e6
