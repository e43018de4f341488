"""A checkpoint's fast tokenizer, or why its files give none that fits the model.

transformers makes up an empty tokenizer where files are missing, and a text would then have no
tokens: whatever is missing, damaged or of another model is refused here, before a weight is read.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

from moee_index.errors import ModelError
from moee_index.model.arch.config import vocabulary_of
from moee_index.model.checkpoint.faults import file_error, reading
from moee_index.model.checkpoint.find import Checkpoint, read_object
from moee_index.model.checkpoint.folders import unfinished_download
from moee_index.text import shown

FILE = "tokenizer.json"
# Files beside it that change which tokens a text gets.
_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")

# A tokenizer with so small a part of the embedding's rows is not the model's: published models
# leave less than a tenth of them unused.
_LEAST_SHARE = 0.25


def load_tokenizer(checkpoint: Checkpoint) -> Any:
    """The tokenizer of a checkpoint. Raises ModelError naming the file that is missing, damaged or
    does not fit."""
    vocabulary = vocabulary_of(checkpoint)
    file = checkpoint.path / FILE
    with reading(file):
        present = file.is_file()
    if not present:
        raise ModelError(
            f"{checkpoint.path} has no {FILE}, which is needed to know which tokens are a text's "
            f"own; {unfinished_download(checkpoint.path) or _HOW}"
        )
    for name in _SETTINGS:
        with reading(checkpoint.path / name):
            present = (checkpoint.path / name).is_file()
        if present:
            read_object(checkpoint.path / name)
    tokenizer = _load(checkpoint, file)
    if not tokenizer.is_fast:
        raise ModelError(f"{file}: transformers reads it with a slow tokenizer; {_HOW}")
    tokenizer.split_special_tokens = True  # texts are data: what they spell is plain text
    tokenizer.model_max_length = sys.maxsize  # texts are cut elsewhere, to what the options say
    with reading(file, _library()):
        tokenizer(["a"], return_offsets_mapping=True, return_special_tokens_mask=True)
    if vocabulary is not None:
        _check_size(tokenizer, file, vocabulary)
    return tokenizer


_HOW = (
    "copy it from the original checkpoint, or make it there with transformers: "
    "AutoTokenizer.from_pretrained and save_pretrained"
)


def _load(checkpoint: Checkpoint, file: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        with warnings.catch_warnings():
            # Deprecated keys of a config are the checkpoint's affair, not the user's.
            warnings.simplefilter("ignore", FutureWarning)
            return AutoTokenizer.from_pretrained(
                checkpoint.path, local_files_only=True, trust_remote_code=False, use_fast=True
            )
    except Exception:  # classes that transformers lacks, of which the file alone has all
        return _from_file(file)


def _from_file(file: Path) -> Any:
    """The tokenizer of a tokenizer.json alone, whatever class its config names."""
    from transformers import PreTrainedTokenizerFast

    try:
        return PreTrainedTokenizerFast(tokenizer_file=str(file))
    except Exception as error:  # tokenizers has no error class for what it cannot read
        raise file_error(file, error, _library()) from error


def _library() -> str:
    import tokenizers

    return f"tokenizers {tokenizers.__version__}"


def _check_size(tokenizer: Any, file: Path, vocabulary: int) -> None:
    """Raise ModelError unless the tokenizer's tokens can be the rows of the model's embedding."""
    count = len(tokenizer)
    if count < _LEAST_SHARE * vocabulary:
        raise ModelError(
            f"{file} has {count} tokens, but the model has {vocabulary} (vocab_size of "
            f"config.json): it is not the model's tokenizer; {_HOW}"
        )
    added = max(tokenizer.added_tokens_decoder, default=0)
    if count <= vocabulary and added < vocabulary:
        return
    beyond = {token: row for token, row in tokenizer.get_vocab().items() if row >= vocabulary}
    named = _tokens_in_files(file)
    for token, row in sorted(beyond.items(), key=lambda item: item[1]):
        # A special token that only transformers adds stands in no text and in no template.
        if token in named or token not in tokenizer.all_special_tokens:
            raise beyond_embedding(file, token, row, vocabulary)


def _tokens_in_files(file: Path) -> set[str]:
    """The added tokens that the tokenizer's files name."""
    with reading(file):
        content = json.loads(file.read_text(encoding="utf-8"))
    said = content.get("added_tokens") if isinstance(content, dict) else None
    return {str(entry.get("content")) for entry in said or () if isinstance(entry, dict)}


def beyond_embedding(file: Path, token: str, row: int, vocabulary: int) -> ModelError:
    """The error for a token that the model has no row for."""
    return ModelError(
        f"{file}: token {shown(token)!r} has number {row}, but the model's embedding has only "
        f"{vocabulary} rows (vocab_size of config.json): the tokenizer is of another model, or "
        "tokens were added without resizing the model; take the files that belong together"
    )
