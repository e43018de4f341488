"""Text to token ids: template, truncation of the text alone, and where its own tokens are; and
the positions of a plain text's tokens, for splitting it.

Batches are planned elsewhere (`batches`).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moee_index.encode.prompts import Prompt
from moee_index.errors import MisuseError, ModelError, first_line
from moee_index.model.checkpoint.find import Checkpoint
from moee_index.model.run.model import TokenizedText


@dataclass(frozen=True)
class Tokenized:
    """A tokenised text and whether its end was cut."""

    text: TokenizedText
    truncated: bool


class Tokenizer:
    """A checkpoint's fast tokenizer, applied to templated texts."""

    def __init__(self, checkpoint: Checkpoint, max_tokens: int) -> None:
        if max_tokens < 1:
            raise MisuseError(f"--max-tokens {max_tokens} must be at least 1")
        self.max_tokens = max_tokens
        self._tokenizer = _load(checkpoint)
        self._fallback = next(
            (
                int(token)
                for token in (
                    self._tokenizer.bos_token_id,
                    self._tokenizer.eos_token_id,
                    self._tokenizer.pad_token_id,
                )
                if token is not None
            ),
            0,
        )

    def tokenize(self, texts: Sequence[str], prompt: Prompt) -> list[Tokenized]:
        """Tokenise texts under a template; whole inputs of more than max_tokens lose the end of
        the text, never the template's end.

        Raises MisuseError where the template alone does not fit.
        """
        if not texts:
            return []
        pieces = [prompt.apply(text) for text in texts]
        encoded = self._encode(["".join(piece) for piece in pieces])
        return [self._finish(piece, *one) for piece, one in zip(pieces, encoded, strict=True)]

    def offsets(self, texts: Sequence[str]) -> list[npt.NDArray[np.int64]]:
        """Characters [start, end) of each token of plain texts, int64 [t, 2] each.

        No template, no special tokens, no truncation. Byte-level tokens of one character share
        its offsets.
        """
        if not texts:
            return []
        batch = self._tokenizer(
            list(texts),
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            truncation=False,
            verbose=False,
        )
        return [
            np.array(offsets, dtype=np.int64).reshape(-1, 2) for offsets in batch["offset_mapping"]
        ]

    def template_tokens(self, prompt: Prompt) -> int:
        """Tokens that a template adds to a text: special ones and a closing full stop included."""
        word = "word"
        ((ids, _, _),) = self._encode(["".join(prompt.apply(word))])
        return len(ids) - len(self.offsets([word])[0])

    def _encode(
        self, inputs: list[str]
    ) -> list[tuple[list[int], list[tuple[int, int]], list[int]]]:
        batch = self._tokenizer(
            inputs,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            truncation=False,
        )
        return list(
            zip(
                batch["input_ids"],
                batch["offset_mapping"],
                batch["special_tokens_mask"],
                strict=True,
            )
        )

    def _finish(
        self,
        piece: tuple[str, str, str],
        ids: list[int],
        offsets: list[tuple[int, int]],
        special: list[int],
    ) -> Tokenized:
        before, text, after = piece
        truncated = False
        while len(ids) > self.max_tokens:
            truncated = True
            first, last = _own_range(offsets, special, len(before), len(before) + len(text))
            excess = len(ids) - self.max_tokens
            if last - first < 1 or not text:
                raise MisuseError(
                    f"the prompt alone takes more than --max-tokens {self.max_tokens}; "
                    "raise it or take a shorter prompt"
                )
            keep = last - excess
            cut = offsets[keep - 1][1] - len(before) if keep > first else 0
            # After a cut the tokenizer may merge differently; always make progress.
            text = text[: min(cut, len(text) - 1)]
            ((ids, offsets, special),) = self._encode([before + text + after])
        first, last = _own_range(offsets, special, len(before), len(before) + len(text))
        if not ids:
            ids = [self._fallback]
        if last <= first:
            first, last = 0, len(ids)
        return Tokenized(TokenizedText(tuple(ids), (first, last)), truncated)


def _own_range(
    offsets: list[tuple[int, int]], special: list[int], start: int, end: int
) -> tuple[int, int]:
    """[first, last) of the tokens that hold a character of input[start:end]."""
    inside = [
        position
        for position, (left, right) in enumerate(offsets)
        if right > start and left < end and right > left and not special[position]
    ]
    return (inside[0], inside[-1] + 1) if inside else (0, 0)


def _load(checkpoint: Checkpoint) -> Any:
    from transformers import AutoTokenizer

    file = checkpoint.path / "tokenizer.json"
    try:
        with warnings.catch_warnings():
            # Deprecated keys of a config are the checkpoint's affair, not the user's.
            warnings.simplefilter("ignore", FutureWarning)
            tokenizer = AutoTokenizer.from_pretrained(
                checkpoint.path, local_files_only=True, trust_remote_code=False, use_fast=True
            )
    except Exception as error:  # tokenizers has no error class for what it cannot read
        if not file.is_file():
            raise ModelError(
                f"{checkpoint.path} has no tokenizer that transformers can read: "
                f"{first_line(error)}"
            ) from error
        tokenizer = _from_file(file)
    if not tokenizer.is_fast:
        raise ModelError(
            f"{checkpoint.path}: its tokenizer has no tokenizer.json, which is needed to know "
            "which tokens are the text's own; convert it with transformers first"
        )
    return tokenizer


def _from_file(file: Path) -> Any:
    """The tokenizer of a tokenizer.json alone, whatever class its config names."""
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    try:
        return PreTrainedTokenizerFast(tokenizer_file=str(file))
    except Exception as error:
        raise ModelError(
            f"{file} cannot be read by tokenizers {tokenizers.__version__} ({first_line(error)}); "
            "copy it again, or if it was made by a newer release, upgrade tokenizers"
        ) from error
