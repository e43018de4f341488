"""Pooling `idf`: the mean of the tokens' own states, each by its weight, for HS and RW alike."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import PARITY

from moee_index import Encoder
from moee_index.errors import MisuseError, ModelError
from moee_index.model.run.model import TokenizedText
from moee_index.token_weights import FILE, TokenWeights

WORDS = st.sampled_from(["river", "bank", "money", "naïve", "東京", "a,", ".", "under_score"])
TEXTS = st.lists(st.lists(WORDS, max_size=20).map(" ".join), min_size=1, max_size=6)


def table(encoder: Encoder, seed: int = 1) -> TokenWeights:
    size = encoder._tokenizer.vocabulary
    return TokenWeights(np.random.default_rng(seed).gamma(0.5, 3, size).astype(np.float32))


@pytest.fixture(scope="module", params=["olmoe", "deepseek"])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    loaded = Encoder.load(PARITY / request.param, bits=32, pooling="idf")
    return loaded.with_token_weights(table(loaded))


def test_it_is_the_weighted_mean_of_single_tokens(encoder: Encoder) -> None:
    text = "The river bank, and money: 東京!"
    (tokens,), _ = encoder.plan([text]).distinct(0)
    start, end = tokens.own
    assert end - start > 3
    # Each token's own state: a mean over it alone.
    alone = [TokenizedText(tokens.ids, (place, place + 1)) for place in range(start, end)]
    states = encoder.running.embed(alone)
    assert encoder.token_weights is not None
    weights = encoder.token_weights.values[list(tokens.ids[start:end])].astype(np.float64)
    found = encoder.encode([text])
    for part in ("hs", "rw"):
        wanted = weights @ states[part].astype(np.float64) / weights.sum()
        assert np.abs(found[part][0] - wanted).max() <= 1e-5 * np.abs(wanted).max()


@settings(max_examples=10, deadline=None)
@given(texts=TEXTS, budget=st.integers(1, 300))
def test_a_batch_equals_its_texts_alone(texts: list[str], budget: int) -> None:
    loaded = Encoder.load(PARITY / "olmoe", bits=32, pooling="idf")
    encoder = loaded.with_token_weights(table(loaded))
    together = encoder.with_batch_tokens(budget).encode(texts)
    for row, text in enumerate(texts):
        alone = encoder.encode([text])
        for found, wanted in ((together.hs[row], alone.hs[0]), (together.rw[row], alone.rw[0])):
            assert np.abs(found - wanted).max() <= 1e-5 * max(1.0, np.abs(wanted).max())


def test_equal_weights_are_the_mean() -> None:
    mean = Encoder.load(PARITY / "olmoe", bits=32, pooling="mean")
    idf = Encoder.load(PARITY / "olmoe", bits=32, pooling="idf")
    idf = idf.with_token_weights(TokenWeights(np.full(idf._tokenizer.vocabulary, 3, np.float32)))
    texts = ["one two three", "", "a river"]
    for part in ("hs", "rw"):
        assert np.allclose(idf.encode(texts)[part], mean.encode(texts)[part], atol=1e-6)


def test_it_holds_under_a_prompt_whose_beginning_is_shared() -> None:
    loaded = Encoder.load(PARITY / "olmoe", bits=32, pooling="idf", prompt="prompteol")
    encoder = loaded.with_token_weights(table(loaded))
    texts = [f"text {number} of a batch" for number in range(80)]
    shared = encoder.encode(texts)
    encoder.running.shares_beginnings = False
    alone = encoder.encode(texts)
    for part in ("hs", "rw"):
        assert np.allclose(shared[part], alone[part], atol=1e-5)


def test_a_table_beside_the_checkpoint_is_taken(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(PARITY / "olmoe", model)
    without = Encoder.load(model, bits=32, pooling="idf")
    assert without.spec.lacks_token_weights
    with pytest.raises(MisuseError, match=r"needs a table of token weights.*--index"):
        without.encode(["a text"])
    weights = table(without)
    (model / FILE).write_bytes(weights.to_bytes())
    (model / "moee_index.json").write_text(json.dumps({"pooling": "idf"}))
    encoder = Encoder.load(model, bits=32)
    assert encoder.spec.token_weights == weights.checksum
    assert encoder.spec.fingerprint == without.spec.fingerprint
    given_by_hand = without.with_token_weights(weights)
    assert encoder.encode(["a text"]).hs.tobytes() == given_by_hand.encode(["a text"]).hs.tobytes()
    # A table of another pooling is not looked at.
    (model / FILE).write_bytes(b"damaged")
    assert Encoder.load(model, bits=32, pooling="mean").spec.token_weights is None
    with pytest.raises(ModelError, match="is no table of token weights"):
        Encoder.load(model, bits=32)
    (model / FILE).write_bytes(TokenWeights(np.ones(7, np.float32)).to_bytes())
    with pytest.raises(ModelError, match="7 token weights for a vocabulary of"):
        Encoder.load(model, bits=32)


def test_other_poolings_take_no_table() -> None:
    encoder = Encoder.load(PARITY / "olmoe", bits=32, pooling="mean")
    with pytest.raises(MisuseError, match="pooling mean takes no token weights"):
        encoder.with_token_weights(table(encoder))
