"""Whatever the files of a checkpoint hold, it works or is refused in words that people can use.

Each file of a small checkpoint is damaged in ways that hypothesis draws (fakes/mutations.py); the
loop that looks for more than these seconds allow imports `targets` and `load`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import FAST

from fakes.mutations import damaged, mutated_file, mutated_safetensors
from fakes.small_checkpoint import write_small_checkpoint
from moee_index.encode.encoder import Encoder
from moee_index.errors import MoeeIndexError

CASES = 40

DEFAULTS = {
    **{"prompt": "{text}", "query-prompt": "q: {text}", "pooling": "mean", "rw": "logits"},
    **{"max-tokens": 40, "format": 1},
}
TOKENIZER_CONFIG = {
    **{"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "bos_token": None},
    **{"eos_token": "<eos>", "model_max_length": 256, "add_bos_token": False},
    "added_tokens_decoder": {
        "0": {
            **{"content": "<pad>", "special": True, "lstrip": False, "rstrip": False},
            **{"normalized": False, "single_word": False},
        }
    },
}
SPECIAL_TOKENS = {"eos_token": "<eos>", "pad_token": {"content": "<pad>", "lstrip": False}}


def targets(checkpoint: Path) -> dict[str, st.SearchStrategy[bytes]]:
    """For each file of a checkpoint what may stand in its place."""
    weights = (checkpoint / "model.safetensors").read_bytes()
    header = json.loads(weights[8 : 8 + int.from_bytes(weights[:8], "little")])
    index = {"weight_map": {name: "model.safetensors" for name in header if name[0] != "_"}}
    config = (checkpoint / "config.json").read_bytes()
    tokenizer = (checkpoint / "tokenizer.json").read_bytes()
    return {
        "config.json": st.one_of(*[mutated_file(json.loads(config))] * 3, damaged(config)),
        "tokenizer.json": st.one_of(mutated_file(json.loads(tokenizer)), damaged(tokenizer)),
        "tokenizer_config.json": mutated_file(TOKENIZER_CONFIG),
        "special_tokens_map.json": mutated_file(SPECIAL_TOKENS),
        "moee_index.json": mutated_file(DEFAULTS),
        "model.safetensors": st.one_of(mutated_safetensors(weights), damaged(weights)),
        "model.safetensors.index.json": mutated_file(index),
    }


def load(checkpoint: Path, directory: Path, name: str, content: bytes) -> str | None:
    """Load a copy of a checkpoint in which one file is another, and embed with it; returns what
    refuses it, None where it works."""
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(checkpoint, directory)
    (directory / name).write_bytes(content)
    try:
        embeddings = Encoder.load(directory, threads=1, device="cpu").encode(["rain <eos>", ""])
    except MoeeIndexError as error:
        return str(error)
    assert len(embeddings) == 2
    return None


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if FAST is None:
        yield tmp_path_factory.mktemp("fuzz") / "case"
        return
    parent = tmp_path_factory.mktemp("fuzz")
    fast = FAST / f"moee-index-fuzz-{parent.parent.name}-{parent.name}"
    yield fast
    shutil.rmtree(fast, ignore_errors=True)


@pytest.mark.parametrize(
    "name",
    [
        *("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
        *("moee_index.json", "model.safetensors", "model.safetensors.index.json"),
    ],
)
def test_a_damaged_file_works_or_is_refused(
    small_checkpoint: Path, directory: Path, name: str
) -> None:
    @settings(max_examples=CASES, derandomize=True, database=None)
    @given(targets(small_checkpoint)[name])
    def check(content: bytes) -> None:
        refused = load(small_checkpoint, directory, name, content)
        if refused is not None:
            assert str(directory) in refused or name in refused, "it says where"
            assert "unexpected error" not in refused
            assert len(refused) < 1000

    check()


def test_an_undamaged_checkpoint_works(tmp_path: Path) -> None:
    checkpoint = write_small_checkpoint(tmp_path / "small")
    content = (checkpoint / "config.json").read_bytes()
    assert load(checkpoint, tmp_path / "copy", "config.json", content) is None
