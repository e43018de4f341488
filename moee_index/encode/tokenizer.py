"""Text to token ids: template, truncation of the text alone, and where its own tokens are; and
the positions of a plain text's tokens, for splitting it.

Batches are planned elsewhere (`batches`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moee_index.encode.load_tokenizer import FILE, beyond_embedding, load_tokenizer
from moee_index.encode.prompts import Prompt
from moee_index.encode.special_tokens import TemplateTokens, special_tokens_in
from moee_index.errors import MisuseError, ModelError
from moee_index.model.arch.config import vocabulary_of
from moee_index.model.checkpoint.find import Checkpoint
from moee_index.model.run.model import TokenizedText
from moee_index.text import shown

# Of a long text so many characters for each token of the limit are looked at, and twice as many
# while they hold too few tokens.
_CHARACTERS = 16
# Characters around a cut whose tokens may depend on what is behind it.
_CONTEXT = 512
# Characters that are handed to the library at a time: what it says of each token, as Python
# objects, takes some hundred times the token's own size.
_AT_A_TIME = 2**20


# Before the text, the text, and what is behind it.
Piece = tuple[str, str, str]
# Token ids, the characters [start, end) of each, and 1 for each that is no part of the input.
Encoded = tuple[list[int], list[tuple[int, int]], list[int]]


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
        self._file = checkpoint.path / FILE
        self._vocabulary = vocabulary_of(checkpoint)
        self._tokenizer = load_tokenizer(checkpoint)
        # One object for each token id: a window of long texts holds millions of them.
        self._ids: dict[int, int] = {}
        self._of_templates: dict[tuple[str, str], TemplateTokens | None] = {}
        self._fallback = next(
            (
                int(token)
                for token in (
                    self._tokenizer.bos_token_id,
                    self._tokenizer.eos_token_id,
                    self._tokenizer.pad_token_id,
                )
                if token is not None and (self._vocabulary is None or token < self._vocabulary)
            ),
            0,
        )

    @property
    def vocabulary(self) -> int:
        """A number above that of every token: the rows of the model's embedding, or where its
        config does not say, the tokenizer's own tokens."""
        return len(self._tokenizer) if self._vocabulary is None else self._vocabulary

    def tokenize(self, texts: Sequence[str], prompt: Prompt) -> list[Tokenized]:
        """Tokenise texts under a template; whole inputs of more than max_tokens lose the end of
        the text, never the template's end.

        Raises MisuseError where the template alone does not fit.
        """
        tokenized: list[Tokenized] = []
        kept = self.max_tokens * _CHARACTERS
        for some in _shares(texts, kept):
            wholes = [prompt.apply(text) for text in some]
            pieces = [_without_middle(whole, kept) for whole in wholes]
            encoded = self._encode(pieces)
            tokenized += [
                self._finish(*self._enough(whole, piece, one))
                for whole, piece, one in zip(wholes, pieces, encoded, strict=True)
            ]
        return tokenized

    def _enough(self, whole: Piece, piece: Piece, encoded: Encoded) -> tuple[Piece, Encoded]:
        """A text without its middle that comes out as the whole would, with its tokens: more than
        max_tokens of them are before what was taken out, far enough from it not to depend on it."""
        kept = self.max_tokens * _CHARACTERS
        while len(piece[1]) < len(whole[1]):
            sure = len(whole[0]) + kept - _CONTEXT
            if sum(right <= sure for _, right in encoded[1]) > self.max_tokens:
                break
            kept *= 2
            piece = _without_middle(whole, kept)
            (encoded,) = self._encode([piece])
        return piece, encoded

    def offsets(self, texts: Sequence[str]) -> list[npt.NDArray[np.int64]]:
        """Characters [start, end) of each token of plain texts, int64 [t, 2] each.

        No template, no special tokens, no truncation. Byte-level tokens of one character share
        its offsets.
        """
        found: list[npt.NDArray[np.int64]] = []
        for some in _shares(texts, _AT_A_TIME):
            batch = self._tokenizer(
                some,
                add_special_tokens=False,
                return_offsets_mapping=True,
                return_attention_mask=False,
                return_token_type_ids=False,
                truncation=False,
                verbose=False,
            )
            found += [
                np.array(offsets, dtype=np.int64).reshape(-1, 2)
                for offsets in batch["offset_mapping"]
            ]
        return found

    def offsets_within(self, text: str, start: int, end: int) -> npt.NDArray[np.int64]:
        """Of `offsets` of a text, the tokens that hold a character of text[start:end], int64
        [t, 2]: what is further away than a few hundred characters is not looked at."""
        first = max(0, start - _CONTEXT)
        (offsets,) = self.offsets([text[first : end + _CONTEXT]])
        offsets += first
        return offsets[(offsets[:, 1] > start) & (offsets[:, 0] < end)]

    def template_tokens(self, prompt: Prompt) -> int:
        """Tokens that a template adds to a text: special ones and a closing full stop included."""
        word = "word"
        ((ids, _, _),) = self._encode([prompt.apply(word)])
        return len(ids) - len(self.offsets([word])[0])

    def _encode(self, pieces: Sequence[Piece]) -> list[Encoded]:
        """(ids, offsets, special tokens' mask) of inputs (before, text, after) of one template.

        Special tokens that the template holds are tokens; in a text they are plain text.
        """
        if not pieces:
            return []
        before, _, after = pieces[0]
        tokens = self._template(before, after)
        tokenizer = self._tokenizer
        if tokens is not None:
            tokenizer = tokens.tokenizer
            before, after = tokens.renamed(before), tokens.renamed(after)
        batch = tokenizer(
            [f"{before}{text}{after}" for _, text, _ in pieces],
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            truncation=False,
        )
        ids = batch["input_ids"]
        if tokens is not None:
            ids = [[tokens.numbers.get(row, row) for row in each] for each in ids]
        self._check_rows(ids)
        return list(zip(ids, batch["offset_mapping"], batch["special_tokens_mask"], strict=True))

    def _template(self, before: str, after: str) -> TemplateTokens | None:
        """What tokenises a template that holds special tokens; None for any other."""
        if (before, after) not in self._of_templates:
            held = special_tokens_in(self._tokenizer, before, after)
            tokens = TemplateTokens(self._tokenizer, held) if held else None
            self._of_templates[before, after] = tokens
        return self._of_templates[before, after]

    def _check_rows(self, ids: list[list[int]]) -> None:
        """Raise ModelError for a token that the model has no row for."""
        most = max((max(each, default=0) for each in ids), default=0)
        if self._vocabulary is not None and most >= self._vocabulary:
            token = self._tokenizer.convert_ids_to_tokens(most)
            raise beyond_embedding(self._file, str(token), most, self._vocabulary)

    def _check_spelled(self, text: str, offsets: list[tuple[int, int]], start: int) -> None:
        """Raise ModelError for a text of whose letters and digits no token holds one: all such
        texts would get the same vector. offsets: of its own tokens in the input, where it begins
        at `start`."""
        spelled = (text[max(0, left - start) : right - start] for left, right in offsets)
        if not any(map(_spells, spelled)) and _spells(text):
            raise ModelError(
                f"{self._file} gives no token for the text {shown(text)!r}: the tokenizer does not "
                "know its script, or is not the model's; take another model"
            )

    def _finish(self, piece: Piece, encoded: Encoded) -> Tokenized:
        before, text, after = piece
        ids, offsets, special = encoded
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
            ((ids, offsets, special),) = self._encode([(before, text, after)])
        first, last = _own_range(offsets, special, len(before), len(before) + len(text))
        if not ids:
            ids = [self._fallback]
        self._check_spelled(text, offsets[first:last], len(before))
        if last <= first:
            first, last = 0, len(ids)
        shared = tuple(map(self._ids.setdefault, ids, ids))
        return Tokenized(TokenizedText(shared, (first, last)), truncated)


def _shares(texts: Sequence[str], most: int) -> Iterator[list[str]]:
    """Texts in lists of some million characters, where `most` are looked at of each."""
    share: list[str] = []
    size = 0
    for text in texts:
        share.append(text)
        size += min(len(text), most)
        if size >= _AT_A_TIME:
            yield share
            share, size = [], 0
    if share:
        yield share


def _without_middle(piece: Piece, kept: int) -> Piece:
    """A templated text of which, where it is long, only so many characters at its beginning are
    left and a few at its end, where the template goes on."""
    before, text, after = piece
    if len(text) <= kept + _CONTEXT:
        return piece
    return before, text[:kept] + text[-_CONTEXT:], after


def _spells(text: str) -> bool:
    """Whether a text holds a letter or a digit, which any tokenizer is expected to have tokens
    for; of other signs (joiners, marks, private ones) some drop all."""
    return any(character.isalnum() for character in text)


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
