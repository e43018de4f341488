"""Batches: real tokens in texts of an exact number of tokens, and random ones of any shape."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

from moee_index.encode.prompts import Prompt, parse_prompt
from moee_index.encode.tokenizer import Tokenizer
from moee_index.model.checkpoint.find import Checkpoint
from moee_index.model.run.model import TokenizedText

_WHOLE = 2**30
_BLOCK = 64


def bare(ids: tuple[int, ...]) -> TokenizedText:
    """A text all of whose tokens are its own."""
    return TokenizedText(ids, (0, len(ids)))


def pieces_of_corpus(
    checkpoint: Checkpoint, corpus: Path, count: int, length: int
) -> list[TokenizedText]:
    """`count` texts of exactly `length` real tokens: the documents of a JSON Lines file in their
    order, tokenised without a prompt, one after the other, and cut.

    Stops the script where the corpus is too small.
    """
    tokenizer = Tokenizer(checkpoint, _WHOLE)
    prompt = parse_prompt("{text}")
    ids: list[int] = []
    for texts in _blocks(corpus):
        for one in tokenizer.tokenize(texts, prompt):
            ids += one.text.ids
        if len(ids) >= count * length:
            return [
                bare(tuple(ids[start : start + length]))
                for start in range(0, count * length, length)
            ]
    raise SystemExit(
        f"{corpus} holds only {len(ids)} tokens, {count * length} are needed; give a larger "
        "corpus, or ask for fewer tokens"
    )


def random_batch(
    numbers: random.Random, tokens: int, longest: int, vocabulary: int
) -> list[TokenizedText]:
    """About `tokens` random tokens in texts of 1 to `longest`, all of other lengths each time."""
    lengths: list[int] = []
    limit = numbers.randint(2, longest)
    while (remaining := tokens - sum(lengths)) > 0:
        lengths.append(min(numbers.randint(1, limit), remaining))
    return [bare(tuple(numbers.randrange(vocabulary) for _ in range(length))) for length in lengths]


def tokenize(checkpoint: Checkpoint, texts: list[str], prompt: Prompt) -> list[TokenizedText]:
    """Whole texts under a prompt, as the encoder tokenises them (at most 512 tokens)."""
    return [one.text for one in Tokenizer(checkpoint, 512).tokenize(texts, prompt)]


def _blocks(corpus: Path) -> Iterator[list[str]]:
    block: list[str] = []
    with corpus.open(encoding="utf-8") as lines:
        for line in lines:
            block.append(str(json.loads(line)["text"]))
            if len(block) == _BLOCK:
                yield block
                block = []
    if block:
        yield block
