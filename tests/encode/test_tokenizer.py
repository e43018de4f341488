"""A tokenizer that is not the model's is refused; what a text spells is plain text; a template's
special tokens are tokens.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import PARITY

from moee_index.encode.encoder import Encoder
from moee_index.encode.prompts import parse_prompt
from moee_index.encode.tokenizer import Tokenizer
from moee_index.errors import ModelError
from moee_index.model.checkpoint.find import BUNDLED, find_checkpoint

SPECIAL = {"olmoe": "<eos>", "qwen2_moe": "<eos>", "deepseek": "<eos>", BUNDLED: "[UNK]"}


def tokenizer_of(model: str | Path, max_tokens: int = 512) -> Tokenizer:
    known = PARITY / str(model)
    return Tokenizer(find_checkpoint(known if known.is_dir() else model), max_tokens)


def ids_of(tokenizer: Tokenizer, template: str, *texts: str) -> list[tuple[int, ...]]:
    return [one.text.ids for one in tokenizer.tokenize(texts, parse_prompt(template))]


def change(checkpoint: Path, function: Callable[[dict[str, Any]], object]) -> None:
    file = checkpoint / "tokenizer.json"
    content = json.loads(file.read_text())
    function(content)
    file.write_text(json.dumps(content))


def added(number: int, content: str, special: bool) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": content, "special": special, **flags}


def keep_two(content: dict[str, Any]) -> None:
    content["model"]["vocab"] = {"<pad>": 0, "<eos>": 1}
    content["model"]["merges"] = []


@pytest.mark.parametrize("kept", [(), ("tokenizer_config.json",)])
@pytest.mark.parametrize("named", ["GPTNeoXTokenizer", "Qwen2Tokenizer", "LlamaTokenizerFast"])
def test_a_checkpoint_without_a_tokenizer_file_is_refused(
    checkpoint: Path, kept: tuple[str, ...], named: str
) -> None:
    config = json.loads((checkpoint / "tokenizer_config.json").read_text())
    (checkpoint / "tokenizer_config.json").write_text(
        json.dumps({**config, "tokenizer_class": named})
    )
    for name in {"tokenizer.json", "tokenizer_config.json"} - set(kept):
        (checkpoint / name).unlink()
    with pytest.raises(ModelError, match=r"olmoe has no tokenizer\.json, which is needed"):
        Encoder.load(checkpoint)


def test_a_vocabulary_that_cannot_be_the_models_is_refused(checkpoint: Path) -> None:
    change(checkpoint, keep_two)
    with pytest.raises(ModelError, match=r"tokenizer\.json has 2 tokens, but the model has 288"):
        Encoder.load(checkpoint)


@pytest.mark.parametrize("special", [True, False])
def test_a_token_beyond_the_embedding_is_refused(checkpoint: Path, special: bool) -> None:
    tokens = [added(row, f"<new{row}>", special) for row in range(280, 289)]
    change(checkpoint, lambda content: content["added_tokens"].extend(tokens[:-1]))
    Encoder.load(checkpoint)
    change(checkpoint, lambda content: content["added_tokens"].append(tokens[-1]))
    with pytest.raises(ModelError, match=r"'<new288>' has number 288, but .* only 288 rows"):
        Encoder.load(checkpoint)


def test_a_special_token_that_only_a_setting_names_is_in_no_text(checkpoint: Path) -> None:
    tokens = [added(row, f"<new{row}>", False) for row in range(280, 288)]
    change(checkpoint, lambda content: content["added_tokens"].extend(tokens))
    file = checkpoint / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "mask_token": "<mask>"}))
    encoder = Encoder.load(checkpoint)
    assert len(encoder.encode(["rain <mask>"])) == 1
    with pytest.raises(ModelError, match=r"'<mask>' has number 288"):
        Encoder.load(checkpoint, prompt="<mask> {text}").encode(["rain"])


def test_a_tokenizer_of_a_larger_model_is_refused(checkpoint: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(PARITY / "olmoe" / name, checkpoint / name)
    with pytest.raises(ModelError, match=r"has number 288, but the model's embedding has only 288"):
        Encoder.load(checkpoint)


def test_a_number_with_a_gap_before_it_is_found_in_the_text(checkpoint: Path) -> None:
    def move(content: dict[str, Any]) -> None:
        content["model"]["vocab"]["x"] = 5000

    change(checkpoint, move)
    encoder = Encoder.load(checkpoint)
    encoder.encode(["rain on the roof"])
    with pytest.raises(ModelError, match="token 'x' has number 5000"):
        encoder.encode(["taxi"])


def test_letters_without_a_token_are_refused_and_other_signs_are_not(checkpoint: Path) -> None:
    def only_ascii(content: dict[str, Any]) -> None:
        kept = [token for token in content["model"]["vocab"] if len(token) == 1 or token[0] == "<"]
        kept = [token for token in kept if ord(token[0]) < 128 or token == "Ġ"]
        content["model"] |= {"vocab": {token: row for row, token in enumerate(kept)}, "merges": []}

    change(checkpoint, only_ascii)
    tokenizer = tokenizer_of(checkpoint)
    ids_of(tokenizer, "none", "rain", "", "  ", "\U0001f327")
    with pytest.raises(ModelError, match=r"gives no token for the text 'שלום\.'"):
        ids_of(tokenizer, "none", "שלום")


@pytest.mark.parametrize("model", SPECIAL)
@pytest.mark.parametrize("template", ["none", "prompteol", "{text}"])
def test_a_text_that_spells_a_special_token_is_plain_text(model: str, template: str) -> None:
    tokenizer, special = tokenizer_of(model), SPECIAL[model]
    number = tokenizer._tokenizer.convert_tokens_to_ids(special)
    plain, spelled = ids_of(tokenizer, template, "a b", f"a {special} b")
    assert number not in spelled
    assert len(spelled) > len(plain) + 1
    (offsets,) = tokenizer.offsets([f"a {special} b"])
    assert len(offsets) > len(tokenizer.offsets(["a b"])[0]) + 1
    assert offsets[-1][1] == len(f"a {special} b")


@pytest.mark.parametrize("model", SPECIAL)
def test_a_templates_special_tokens_are_tokens_whatever_the_text_spells(model: str) -> None:
    tokenizer, special = tokenizer_of(model), SPECIAL[model]
    number = tokenizer._tokenizer.convert_tokens_to_ids(special)
    template = f"{special} say: {{text}} {special}"
    plain, spelled = ids_of(tokenizer, template, "boats", f"a {special} b")
    assert plain.count(number) == spelled.count(number) == 2
    # as the tokenizer itself has it for a text that spells nothing
    itself = tokenizer._tokenizer(template.replace("{text}", "boats"), split_special_tokens=False)[
        "input_ids"
    ]
    assert list(plain) == itself
    across = ids_of(tokenizer, f"{special[0]}{{text}}{special[-1]}", special[1:-1])[0]
    assert number not in across, "half in the template and half in the text"


def test_tokens_of_a_template_survive_a_cut_text() -> None:
    tokenizer = tokenizer_of("olmoe", 24)
    number = tokenizer._tokenizer.convert_tokens_to_ids("<eos>")
    (whole,) = tokenizer.tokenize(["<eos> boats " * 50], parse_prompt("<eos>{text}<eos>"))
    assert whole.truncated and len(whole.text.ids) <= 24
    assert (whole.text.ids[0], whole.text.ids[-1]) == (number, number)
    assert whole.text.ids.count(number) == 2


@settings(max_examples=60)
@given(
    texts=st.lists(
        st.one_of(
            st.text(max_size=40),
            st.lists(
                st.sampled_from(["<eos>", "<", "eos>", " ", "\n", "boats", "<pad>", "<eo"]),
                max_size=8,
            ).map("".join),
        ),
        max_size=4,
    ),
    template=st.sampled_from(
        ["none", "x{text}", "<eos>{text}", "{text} <eos>", "<pad>{text}<eos>"]
    ),
)
def test_no_text_brings_a_special_token(texts: list[str], template: str) -> None:
    tokenizer = TOKENIZERS.setdefault("olmoe", tokenizer_of("olmoe"))
    specials = [tokenizer._tokenizer.convert_tokens_to_ids(token) for token in ("<eos>", "<pad>")]
    (empty,) = ids_of(tokenizer, template, "")
    for ids in ids_of(tokenizer, template, *texts):
        for number in specials:
            assert ids.count(number) == empty.count(number)


TOKENIZERS: dict[str, Tokenizer] = {}


@pytest.mark.parametrize("model", [BUNDLED, PARITY / "olmoe"])
def test_vectors_of_a_spelled_token_are_those_of_plain_text(model: str | Path) -> None:
    special = "[UNK]" if model == BUNDLED else "<eos>"
    encoder = Encoder.load(model, bits=32)
    spelled, other = encoder.encode([f"boats {special}", "boats"]).hs
    assert np.isfinite(spelled).all() and not np.allclose(spelled, other)
