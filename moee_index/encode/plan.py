"""The batches of one window of texts, and what the model sees of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from moee_index.encode.tokenizer import Tokenized
from moee_index.model.run.model import TokenizedText
from moee_index.types import Embeddings

if TYPE_CHECKING:
    from moee_index.encode.encoder import Encoder


@dataclass(frozen=True)
class Plan:
    """The batches of one window; see `EncodingPlan` for the contract."""

    batches: Sequence[Sequence[int]]
    tokens: int
    truncated: Sequence[bool]
    _encoder: Encoder
    _groups: Sequence[Sequence[Sequence[int]]]
    _texts: Sequence[Tokenized]

    def encode(self, batch: int) -> Embeddings:
        """Embed one batch; row i belongs to position `batches[batch][i]`. Texts with equal token
        sequences are computed once."""
        texts, rows = self.distinct(batch)
        embeddings = self._encoder.running.embed(texts)
        return Embeddings(embeddings.hs[rows], embeddings.rw[rows])

    def distinct(self, batch: int) -> tuple[list[TokenizedText], npt.NDArray[np.int64]]:
        """A batch as the model sees it: its distinct token sequences, and for each position of
        `batches[batch]` which of them it has."""
        groups = self._groups[batch]
        rows = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
        return [self._encoder.weighed(self._texts[group[0]].text) for group in groups], rows
