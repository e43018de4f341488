"""What is killed in `crashes`: commands over an index of hashed words, and what it must hold.

Knows the library's functions behind the commands, and an encoder that is none of a model's. Refuses
to know who starts and kills them.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moee_index.encode.chunking import divide
from moee_index.index import (
    Index,
    add_documents,
    build_index,
    compact_index,
    delete_documents,
    reindex,
)
from moee_index.types import (
    Chunking,
    Document,
    Embeddings,
    EncoderSpec,
    EncodingPlan,
    FloatArray,
    Span,
    joined,
)

_HS_DIM, _RW_DIM = 48, 24
_BATCH = 8
_WINDOW = 64
# Of the reader, which must leave some of the machine to the command.
_PAUSE = 0.005
# Of each batch, so that a command lasts long enough to be killed within.
_SECONDS = 0.002
# id, text, metadata, and raw rows of HS and RW.
Held = list[tuple[str, str, str, bytes, bytes]]


@dataclass(frozen=True)
class _Plan:
    texts: Sequence[str]
    batches: Sequence[Sequence[int]]
    tokens: int
    truncated: Sequence[bool]

    def encode(self, batch: int) -> Embeddings:
        time.sleep(_SECONDS)
        return vectors([self.texts[place] for place in self.batches[batch]])


_SPEC = EncoderSpec(
    model="words",
    path="",
    revision=None,
    fingerprint=hashlib.sha256(b"words").hexdigest(),
    bits=32,
    double_quant=False,
    prompt="none",
    query_prompt="none",
    rw="logits",
    pooling="last",
    max_tokens=512,
    hs_dim=_HS_DIM,
    rw_dim=_RW_DIM,
)


@dataclass(frozen=True)
class WordEncoder:
    """A `TextEncoder` whose vectors are sums of hashed words."""

    batch_tokens: int = _BATCH
    spec: EncoderSpec = _SPEC

    def with_batch_tokens(self, batch_tokens: int) -> WordEncoder:
        return replace(self, batch_tokens=batch_tokens)

    def plan(self, texts: Sequence[str], *, query: bool = False) -> EncodingPlan:
        order = sorted(range(len(texts)), key=lambda place: (len(texts[place]), place))
        batches = [
            order[start : start + self.batch_tokens]
            for start in range(0, len(order), self.batch_tokens)
        ]
        tokens = sum(len(text.split()) for text in texts)
        return _Plan(list(texts), batches, tokens, [False] * len(texts))

    def encode(self, texts: Sequence[str], *, query: bool = False) -> Embeddings:
        return vectors(texts)

    def passages(
        self, documents: Sequence[tuple[str, str]], chunking: Chunking
    ) -> list[list[Span]]:
        return [
            divide(title, text, word_offsets(joined(title, text)), chunking)
            for title, text in documents
        ]


def word_offsets(text: str) -> npt.NDArray[np.int64]:
    """Characters [start, end) of each word between blanks."""
    found = [word.span() for word in re.finditer(r"\S+", text)]
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def vectors(texts: Sequence[str]) -> Embeddings:
    """HS and RW of texts: sums of their words' vectors."""
    rows = np.zeros((len(texts), _HS_DIM + _RW_DIM), dtype=np.float32)
    for row, text in zip(rows, texts, strict=True):
        for word in text.split():
            row += _vector(word)
    return Embeddings(rows[:, :_HS_DIM].copy(), rows[:, _HS_DIM:].copy())


@functools.lru_cache(maxsize=100_000)
def _vector(word: str) -> FloatArray:
    seed = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
    return np.random.default_rng(seed).standard_normal(_HS_DIM + _RW_DIM, dtype=np.float32)


def sample(count: int) -> list[Document]:
    """Texts of 3 to 30 words."""
    rng = np.random.default_rng(5)
    return [
        Document(f"d{n}", " ".join(f"w{w}" for w in rng.integers(0, 500, rng.integers(3, 31))))
        for n in range(count)
    ]


def held(directory: Path) -> Held:
    """What an index holds, in its order: id, text, metadata and raw rows of each document."""
    with Index.open(directory) as index:
        return [
            (
                document.id,
                document.text,
                json.dumps(document.metadata, sort_keys=True),
                rows.hs.tobytes(),
                rows.rw.tobytes(),
            )
            for document, rows in index.in_order()
        ]


def expected(documents: Sequence[Document]) -> Held:
    """As `held`, for an index of these documents, worked out without one."""
    found: Held = []
    for document in documents:
        rows = vectors([document.content])
        metadata = json.dumps(document.metadata, sort_keys=True)
        found.append((document.id, document.text, metadata, rows.hs.tobytes(), rows.rw.tobytes()))
    return found


@dataclass(frozen=True)
class Change:
    """One command over an index. documents: what build and add are given; ids: what delete is."""

    command: str
    documents: Sequence[Document] = ()
    ids: Sequence[str] = ()
    standardize: str = "both"
    overwrite: bool = False

    def run(self, directory: Path) -> None:
        """Raises what the command raises. Started again after it ended it changes nothing."""
        if self.command == "build":
            build_index(
                directory,
                self.documents,
                WordEncoder(),
                standardize=self.standardize,
                overwrite=self.overwrite,
                window=_WINDOW,
            )
        elif self.command == "add":
            add_documents(directory, self.documents, WordEncoder(), update=True)
        elif self.command == "delete":
            delete_documents(directory, self.ids, missing_ok=True)
        elif self.command == "reindex":
            reindex(directory, standardize=self.standardize)
        else:
            compact_index(directory)


# In processes of their own, which are forked from one that has imported this module


def work(change: Change, directory: Path, pipe: Any) -> None:
    """In a process of its own: tell that it begins, do it, tell how long it took or what failed."""
    pipe.send("ready")
    began = time.perf_counter()
    try:
        change.run(directory)
        pipe.send(time.perf_counter() - began)
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")


def read_for_ever(directory: Path, stop: Any, answers: Any) -> None:
    """Open, search and look up until told to stop; tell how often, and every error."""
    queries = vectors(["w1 w2", "w3"])
    opened, errors = 0, []
    answers.put("ready")
    while not stop.is_set():
        try:
            with Index.open(directory) as index:
                found = index.search_embeddings(queries, 5)
                index.documents([*(hit.id for hit in found[0]), "nowhere"])
                index.vectors([hit.id for hit in found[0]])
            opened += 1
            time.sleep(_PAUSE)
        except Exception as error:
            errors.append(f"a reader saw {type(error).__name__}: {error}")
    answers.put((opened, errors))
