"""Texts to vectors: batches do not matter, templates survive truncation, equal texts once."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import PARITY

from moee_index.encode.batches import group_equal, plan_batches
from moee_index.encode.encoder import Encoder
from moee_index.encode.prompts import TEMPLATES, clean, parse_prompt
from moee_index.errors import MisuseError, ModelError

WORDS = st.sampled_from(
    ["river", "bank", "money", "naïve", "東京", "rain", '"quoted"', "under_score", "a,", ".", "\n"]
)
TEXTS = st.lists(st.lists(WORDS, max_size=30).map(" ".join), min_size=1, max_size=9)


@cache
def loaded(kind: str, bits: int, pooling: str) -> Encoder:
    return Encoder.load(PARITY / kind, bits=bits, pooling=pooling)


@pytest.mark.parametrize("kind", ["olmoe", "qwen2_moe", "deepseek"])
@pytest.mark.parametrize("pooling", ["last", "mean"])
@settings(max_examples=12, deadline=None)
@given(texts=TEXTS, budget=st.integers(1, 700))
def test_a_batch_equals_its_texts_alone(
    kind: str, pooling: str, texts: list[str], budget: int
) -> None:
    encoder = loaded(kind, 32, pooling)
    together = encoder.with_batch_tokens(budget).encode(texts)
    for row, text in enumerate(texts):
        alone = encoder.encode([text])
        for found, wanted in ((together.hs[row], alone.hs[0]), (together.rw[row], alone.rw[0])):
            assert np.abs(found - wanted).max() <= 1e-5 * max(1.0, np.abs(wanted).max())


@pytest.mark.parametrize("bits", [4, 16])
# Derandomised: among eight random experts a near-tie can fall the other way by one bf16 rounding.
@settings(max_examples=25, deadline=None, derandomize=True)
@given(texts=TEXTS, budget=st.integers(1, 700))
def test_in_bf16_a_batch_moves_a_text_by_rounding_only(
    bits: int, texts: list[str], budget: int
) -> None:
    encoder = loaded("olmoe", bits, "mean")
    together = encoder.with_batch_tokens(budget).encode(texts)
    for row, text in enumerate(texts):
        alone = encoder.encode([text])
        for found, wanted in ((together.hs[row], alone.hs[0]), (together.rw[row], alone.rw[0])):
            cosine = found @ wanted / np.linalg.norm(found) / np.linalg.norm(wanted)
            assert cosine > 0.9995


def test_equal_texts_are_computed_once_and_every_row_is_kept() -> None:
    encoder = loaded("olmoe", 32, "last")
    texts = ["same", "other", "same", "same", "third one", "other"]
    plan = encoder.plan(texts)
    computed = 0
    positions: list[int] = []
    original = encoder.running.embed

    def counting(batch: object) -> object:
        nonlocal computed
        computed += len(batch)  # type: ignore[arg-type]
        return original(batch)  # type: ignore[arg-type]

    encoder.running.embed = counting  # type: ignore[method-assign,assignment]
    try:
        found = [plan.encode(number) for number in range(len(plan.batches))]
    finally:
        encoder.running.embed = original  # type: ignore[method-assign]
    for batch, rows in zip(plan.batches, found, strict=True):
        assert len(rows) == len(batch)
        positions += batch
    assert computed == 3
    assert sorted(positions) == list(range(6))
    everything = encoder.encode(texts)
    assert np.array_equal(everything.hs[0], everything.hs[2])
    assert not np.array_equal(everything.hs[0], everything.hs[1])


@given(st.lists(st.integers(1, 40), max_size=60), st.integers(1, 100))
def test_batches_hold_each_item_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = plan_batches(lengths, budget)
    assert sorted(item for batch in batches for item in batch) == list(range(len(lengths)))
    for batch in batches:
        padded = len(batch) * max(lengths[item] for item in batch)
        assert padded <= budget or len(batch) == 1
    assert batches == plan_batches(lengths, budget)


@given(st.lists(st.lists(st.integers(0, 2), max_size=2).map(tuple), max_size=20))
def test_equal_sequences_are_grouped(sequences: list[tuple[int, ...]]) -> None:
    groups = group_equal(sequences)
    assert sorted(position for group in groups for position in group) == list(range(len(sequences)))
    assert len(groups) == len(set(sequences))


def decode(encoder: Encoder, text: str) -> str:
    (one,) = encoder._tokenizer.tokenize([text], encoder._prompt)
    return str(encoder._tokenizer._tokenizer.decode(one.text.ids))


@pytest.mark.parametrize("prompt", sorted(TEMPLATES))
@settings(max_examples=8, deadline=None)
@given(length=st.integers(0, 400), limit=st.integers(64, 96))
def test_truncation_cuts_the_text_never_the_template(prompt: str, length: int, limit: int) -> None:
    base = loaded("olmoe", 32, "last")
    encoder = Encoder(base.spec, base.running, base._tokenizer, 512)
    encoder._prompt = parse_prompt(prompt)
    tokenizer = encoder._tokenizer
    before = tokenizer.max_tokens
    tokenizer.max_tokens = limit
    try:
        text = "rain " * length
        (one,) = tokenizer.tokenize([text], encoder._prompt)
        assert len(one.text.ids) <= limit
        decoded = tokenizer._tokenizer.decode(one.text.ids)
        assert decoded.startswith(TEMPLATES[prompt].partition("{text}")[0])
        assert decoded.endswith(TEMPLATES[prompt].partition("{text}")[2])
        if one.truncated:
            assert len(one.text.ids) >= limit - 2
            assert "rain" in decoded
        else:
            assert decoded.count("rain") == length
    finally:
        tokenizer.max_tokens = before


def test_a_prompt_longer_than_max_tokens_is_misuse() -> None:
    encoder = Encoder.load(PARITY / "olmoe", bits=32, prompt="sentiment", max_tokens=10)
    with pytest.raises(MisuseError, match="max-tokens"):
        encoder.encode(["a text"])


def test_mean_pools_over_the_texts_own_tokens() -> None:
    encoder = loaded("olmoe", 32, "mean")
    (one,) = encoder._tokenizer.tokenize(["rain in spring"], parse_prompt("prompteol"))
    start, end = one.text.own
    own = encoder._tokenizer._tokenizer.decode(one.text.ids[start:end])
    assert "rain in spring." in own
    assert "sentence" not in own and "means" not in own


def test_empty_texts_are_the_bare_template() -> None:
    bare = Encoder.load(PARITY / "olmoe", bits=32, prompt="prompteol")
    literal = Encoder.load(
        PARITY / "olmoe", bits=32, prompt='This sentence : "" means in one word:"{text}'
    )
    assert np.allclose(bare.encode([""]).hs, literal.encode([""]).hs, atol=1e-6)
    nothing = Encoder.load(PARITY / "olmoe", bits=32, prompt="{text}", pooling="mean")
    assert np.isfinite(nothing.encode(["", "some text"]).hs).all()


def test_no_texts_give_no_rows() -> None:
    found = loaded("olmoe", 32, "last").encode([])
    assert found.hs.shape == (0, 64)
    assert found.rw.shape == (0, 24)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("A text", "A text."),
        ("A text.", "A text."),
        ("Is it?", "Is it?"),
        ('she said "hi"', "she said 'hi'"),
        ("left_the_room", "left the room."),
        ("", ""),
        ("ends with blank ", "ends with blank ."),
    ],
)
def test_the_authors_clean_up(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned


def test_a_custom_template_gets_the_text_unchanged_once() -> None:
    prompt = parse_prompt('a {text} b {text} "c_d"')
    assert "".join(prompt.apply('x_"y" {text}')) == 'a x_"y" {text} b {text} "c_d"'
    assert "".join(parse_prompt("{text}").apply('as_it "is" ')) == 'as_it "is" '
    assert parse_prompt("language_style").name == "language-style"


def test_a_checkpoint_may_carry_its_defaults(tmp_path: Path) -> None:
    for file in (PARITY / "olmoe").iterdir():
        (tmp_path / file.name).symlink_to(file)
    said = {"prompt": "{text}", "pooling": "mean", "max-tokens": 40, "query-prompt": "q: {text}"}
    (tmp_path / "moee_index.json").write_text(json.dumps(said))
    spec = Encoder.load(tmp_path, bits=32).spec
    assert (spec.prompt, spec.query_prompt) == ("{text}", "q: {text}")
    assert (spec.pooling, spec.max_tokens) == ("mean", 40)
    # what is given explicitly wins, and a prompt for all holds for queries too
    spec = Encoder.load(tmp_path, bits=32, prompt="none", pooling="last").spec
    assert (spec.prompt, spec.query_prompt, spec.pooling) == ("none", "none", "last")
    (tmp_path / "moee_index.json").write_text('{"promt": "none"}')
    with pytest.raises(ModelError, match="promt"):
        Encoder.load(tmp_path, bits=32)


def test_queries_have_their_own_prompt() -> None:
    encoder = Encoder.load(PARITY / "olmoe", bits=32, prompt="none", query_prompt="query: {text}")
    plain = Encoder.load(PARITY / "olmoe", bits=32, prompt="query: {text}")
    assert np.allclose(encoder.encode(["rain"], query=True).hs, plain.encode(["rain"]).hs)
    assert not np.allclose(encoder.encode(["rain"]).hs, plain.encode(["rain"]).hs)


def test_choices_are_told_with_their_reason() -> None:
    told: list[str] = []
    Encoder.load(PARITY / "olmoe", bits=32, device="cpu", notify=told.append)
    assert "32 bits were requested" in told[-1]
    assert "as requested" in told[-1]
