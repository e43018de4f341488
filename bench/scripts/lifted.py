"""An index of larger vectors made from a finished index of the bundled model: for measuring search
where no large model can embed a million texts.

    python bench/scripts/lifted.py INDEX OUT [--dims 2048 1024] [--decay 0.8] [--noise 0.3]

Each part is whitened by its own principal components, which keeps who is near whom; more dimensions
come from random rectified features of these, so that they follow from the text as the many small
directions of a language model's states do, and by a share of noise from the text alone. Variances
fall as a power of their rank (i^-decay), as those of standardised states do, and a rotation spreads
them over all dimensions, which standardising cannot undo.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from moee_index.backends import load_faiss
from moee_index.index import Index, build_index
from moee_index.types import PARTS, Document, Embeddings, EncoderSpec, FloatArray, Pair

_FITTED = 20_000
_BLOCK = 4096
DECAY, NOISE = 0.8, 0.3


class Lift:
    """From one part's raw rows [n, d] to [n, dim]. rows: those that it is fitted on."""

    def __init__(self, rows: FloatArray, dim: int, decay: float, noise: float, seed: int) -> None:
        generator = np.random.default_rng(seed)
        self.mean = rows.mean(axis=0)
        values, vectors = np.linalg.eigh(np.cov((rows - self.mean).T))
        order = np.argsort(-values)
        values = np.maximum(values[order], values.max() * 1e-6)
        self.whiten = (vectors[:, order] / np.sqrt(values)).astype(np.float32)
        more, own = dim - rows.shape[1], rows.shape[1]
        self.mix = generator.standard_normal((own, more), dtype=np.float32) / np.sqrt(own)
        features = np.maximum((rows - self.mean) @ self.whiten @ self.mix, 0)
        self.center, self.spread = features.mean(axis=0), features.std(axis=0)
        self.noise = noise
        spectrum = np.arange(1, dim + 1, dtype=np.float64) ** -decay
        self.scale = np.sqrt(spectrum / spectrum.mean()).astype(np.float32)
        self.rotation = load_faiss().HadamardRotation(dim, seed)

    def __call__(self, rows: FloatArray, seeds: Sequence[int]) -> FloatArray:
        """seeds: of the noise, one a row."""
        whitened = (rows - self.mean) @ self.whiten
        features = (np.maximum(whitened @ self.mix, 0) - self.center) / self.spread
        noise = np.stack(
            [
                np.random.default_rng(seed).standard_normal(features.shape[1], dtype=np.float32)
                for seed in seeds
            ]
        )
        features = np.sqrt(1 - self.noise) * features + np.sqrt(self.noise) * noise
        joined = np.concatenate([whitened, features], axis=1) * self.scale
        return self.rotation.apply(np.ascontiguousarray(joined, dtype=np.float32))


class Lifting:
    """Embeds as an index's own vectors lifted: texts of the index by its raw rows, others by its
    encoder, if there is one. An encoder as `build_index` takes it."""

    batch_tokens = 1 << 20
    language = "none"

    def __init__(self, index: Index, dims: Pair[int], decay: float, noise: float) -> None:
        self._index = index
        self.spec: EncoderSpec = replace(
            index.spec, model="lifted", fingerprint="0" * 64, hs_dim=dims.hs, rw_dim=dims.rw
        )
        rows = index.vectors_at(range(min(_FITTED, len(index))))
        self._lifts = Pair(
            Lift(rows.hs, dims.hs, decay, noise, 11), Lift(rows.rw, dims.rw, decay, noise, 12)
        )
        self._rows: dict[int, int] = {}

    def with_batch_tokens(self, batch_tokens: int) -> Lifting:
        return self

    def plan(self, texts: Sequence[str], *, query: bool = False) -> Any:
        return Plan(self, list(texts))

    def encode(self, texts: Sequence[str], *, query: bool = False) -> Embeddings:
        """Of texts that the index does not hold."""
        return self.lifted(self._index.encoder().encode(texts, query=query), texts)

    def lifted(self, rows: Embeddings, texts: Sequence[str]) -> Embeddings:
        seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) for text in texts]
        made = PARTS.map(lambda part: self._lifts[part](rows[part], seeds))
        return Embeddings(made.hs, made.rw)

    def documents(self) -> Any:
        """The documents of the index; where each stands is remembered for `plan`."""
        for number, (document, _) in enumerate(self._index.in_order()):
            self._rows[hash(document.text)] = number
            yield Document(document.id, document.text, document.metadata)

    def of_index(self, texts: Sequence[str]) -> Embeddings:
        numbers = [self._rows[hash(text)] for text in texts]
        return self.lifted(self._index.vectors_at(numbers), texts)


class Plan:
    def __init__(self, encoder: Lifting, texts: list[str]) -> None:
        self.encoder, self.texts, self.tokens = encoder, texts, len(texts)
        self.truncated = [False] * len(texts)
        self.batches = [
            list(range(start, min(start + _BLOCK, len(texts))))
            for start in range(0, len(texts), _BLOCK)
        ]

    def encode(self, batch: int) -> Embeddings:
        return self.encoder.of_index([self.texts[position] for position in self.batches[batch]])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("index", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--dims", type=int, nargs=2, default=(2048, 1024))
    parser.add_argument("--decay", type=float, default=DECAY)
    parser.add_argument("--noise", type=float, default=NOISE)
    parser.add_argument("--documents", type=int)
    given = parser.parse_args()
    began = time.perf_counter()
    with Index.open(given.index) as index:
        lifting = Lifting(index, Pair(*given.dims), given.decay, given.noise)
        documents = lifting.documents()
        if given.documents is not None:
            documents = (
                document for document, _ in zip(documents, range(given.documents), strict=False)
            )
        report = build_index(given.out, documents, lifting, store="float16", window=16384)
    print(f"{report.embedded} documents in {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
