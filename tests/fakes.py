"""A small deterministic encoder for tests of code that needs one: words hashed into vectors.

Equal texts get equal vectors, texts that share words get similar ones. Rounding depends on the
batch as little as a real encoder's in float32: not at all.
"""

from __future__ import annotations

import hashlib
import json
import re
import resource
import signal
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moee_index.corpus import Document
from moee_index.embeddings import Embeddings, EncoderSpec, FloatArray
from moee_index.errors import MisuseError
from moee_index.index import Index, build_index
from moee_index.passages import Chunking, Span, divide, joined

HS_DIM, RW_DIM = 24, 12


def fake_spec(**changes: object) -> EncoderSpec:
    spec = EncoderSpec(
        model="fake",
        path="/nowhere/fake",
        revision=None,
        fingerprint="f" * 64,
        bits=32,
        double_quant=False,
        prompt="none",
        query_prompt="none",
        rw="logits",
        pooling="last",
        max_tokens=32,
        hs_dim=HS_DIM,
        rw_dim=RW_DIM,
    )
    return replace(spec, **changes)  # type: ignore[arg-type]


def word_vector(word: str, dim: int) -> FloatArray:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
    return np.random.default_rng(seed).standard_normal(dim).astype(np.float32)


def word_offsets(text: str) -> npt.NDArray[np.int64]:
    """Characters [start, end) of each word between blanks."""
    found = [word.span() for word in re.finditer(r"\S+", text)]
    return np.array(found, dtype=np.int64).reshape(-1, 2)


@dataclass
class FakePlan:
    encoder: FakeEncoder
    texts: list[str]
    batches: list[list[int]]
    tokens: int
    truncated: list[bool]

    def encode(self, batch: int) -> Embeddings:
        time.sleep(self.encoder.seconds_per_batch)
        self.encoder.calls.append(batch)
        if self.encoder.on_batch is not None:
            self.encoder.on_batch(len(self.encoder.calls))
        return self.encoder.vectors([self.texts[i] for i in self.batches[batch]])


@dataclass
class FakeEncoder:
    """Batches hold `batch_tokens` words; `on_batch(n)` is called before the n-th is embedded."""

    spec: EncoderSpec = field(default_factory=fake_spec)
    batch_tokens: int = 20
    seconds_per_batch: float = 0.0
    on_batch: Callable[[int], None] | None = None
    calls: list[int] = field(default_factory=list)

    def with_batch_tokens(self, batch_tokens: int) -> FakeEncoder:
        return replace(self, batch_tokens=batch_tokens)

    def plan(self, texts: Sequence[str], *, query: bool = False) -> FakePlan:
        lengths = [min(len(text.split()), self.spec.max_tokens) for text in texts]
        truncated = [len(text.split()) > self.spec.max_tokens for text in texts]
        same: dict[str, list[int]] = {}
        for position, text in enumerate(texts):
            same.setdefault(text, []).append(position)
        batches: list[list[int]] = []
        filled = self.batch_tokens + 1
        for text in sorted(same, key=lambda text: (lengths[same[text][0]], same[text][0])):
            length = lengths[same[text][0]]
            if filled + length > self.batch_tokens:
                batches.append([])
                filled = 0
            batches[-1].extend(same[text])
            filled += length
        return FakePlan(self, list(texts), batches, sum(lengths), truncated)

    def encode(self, texts: Sequence[str], *, query: bool = False) -> Embeddings:
        return self.vectors(texts)

    def passages(
        self, documents: Sequence[tuple[str, str]], chunking: Chunking
    ) -> list[list[Span]]:
        """Tokens are the words between blanks, and there is no template."""
        if chunking.size > self.spec.max_tokens:
            raise MisuseError(f"--chunk {chunking} is over --max-tokens {self.spec.max_tokens}")
        return [
            divide(title, text, word_offsets(joined(title, text)), chunking)
            for title, text in documents
        ]

    def vectors(self, texts: Sequence[str]) -> Embeddings:
        hs = np.zeros((len(texts), self.spec.hs_dim), dtype=np.float32)
        rw = np.zeros((len(texts), self.spec.rw_dim), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in text.split()[: self.spec.max_tokens]:
                hs[row] += word_vector(word, self.spec.hs_dim)
                rw[row] += word_vector("rw" + word, self.spec.rw_dim)
        return Embeddings(hs, rw)


class GivenEncoder(FakeEncoder):
    """Embeds the text "7" as row 7 of given embeddings, for tests that need exact vectors."""

    def __init__(self, given: Embeddings) -> None:
        spec = fake_spec(hs_dim=given.hs.shape[1], rw_dim=given.rw.shape[1])
        super().__init__(spec=spec, batch_tokens=50)
        self.given = given

    def vectors(self, texts: Sequence[str]) -> Embeddings:
        rows = [int(text) for text in texts]
        return Embeddings(self.given.hs[rows], self.given.rw[rows])


def fake_documents(count: int) -> list[Document]:
    """Texts of 1 to 9 words, some of them equal."""
    rng = np.random.default_rng(11)
    return [
        Document(
            f"d{i}",
            " ".join(f"w{word}" for word in rng.integers(0, 40, rng.integers(1, 10))),
            {"x": 1} if i % 3 == 0 else {},
            source=f"c.jsonl:{i + 1}",
        )
        for i in range(count)
    ]


class Interrupted(BaseException):
    """As KeyboardInterrupt: no `except Exception` may swallow it."""


def interrupt_at(batch: int) -> FakeEncoder:
    """An encoder that is interrupted before its batch-th batch, counted from 1."""

    def on_batch(number: int) -> None:
        if number == batch:
            raise Interrupted

    return FakeEncoder(on_batch=on_batch)


Held = list[tuple[str, str, str, bytes, bytes]]


def held(directory: Path) -> Held:
    """What an index holds, in its order: id, text, metadata, and raw rows of every document that
    counts. It must not depend on interruptions, compacting or reindexing."""
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


def expected_of(documents: Iterable[Document], chunk: str | None = None) -> Held:
    """As `held`, of an index that holds these documents in this order."""
    encoder, found = FakeEncoder(), []
    for document in documents:
        spans = [(0, len(document.text))]
        if chunk is not None:
            spans = encoder.passages([(document.title, document.text)], Chunking.parse(chunk))[0]
        rows = encoder.vectors([document.content_of(span) for span in spans])
        metadata = json.dumps(document.metadata, sort_keys=True)
        found.append((document.id, document.text, metadata, rows.hs.tobytes(), rows.rw.tobytes()))
    return found


def build_slowly(directory: str, overwrite: bool = False) -> None:
    """A build of about a second, to be killed."""
    build_index(
        directory,
        fake_documents(200),
        FakeEncoder(seconds_per_batch=0.01),
        window=32,
        overwrite=overwrite,
    )


def index_bytes(directory: Path) -> dict[str, str]:
    """What must not depend on interruptions: checksums of vectors and FAISS files, and the rows."""
    folder = sorted(directory.glob("segment-*"))[-1]
    files = [*folder.iterdir(), *directory.glob("standardizer-*")]
    found = {
        re.sub(r"-\d+", "", path.name): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.suffix not in (".sqlite", ".json", ".sqlite-journal")
    }
    connection = sqlite3.connect(folder / "documents.sqlite")
    for table in ("documents", "passages"):
        rows = connection.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()
        found[table] = hashlib.sha256(repr(rows).encode()).hexdigest()
    connection.close()
    return found


def build_limited(directory: str, size: int, answers: Any) -> None:
    """A build whose files may not grow beyond `size` bytes; tells the error's kind and text."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    try:
        build_index(directory, fake_documents(400), FakeEncoder(), window=32)
        answers.put(("none", ""))
    except Exception as error:
        answers.put((type(error).__name__, str(error)))


def read_for_ever(directory: str, stop: Any, answers: Any) -> None:
    """Open, search and close an index until told to stop; tells how often, and every error."""
    opened, errors = 0, []
    Index.open(directory).close()
    answers.put("ready")
    while not stop.is_set():
        try:
            with Index.open(directory, FakeEncoder()) as index:
                index.search("w3 w4")
            opened += 1
        except Exception as error:
            errors.append(repr(error))
    answers.put((opened, errors))
