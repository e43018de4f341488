"""Weights of tokens for the pooling `idf`: how they are counted, and how they are kept in a file.

A token weighs as Lucene weighs a word, ln(1 + (N - df + ½) / (df + ½)): N texts were counted, and
df of them hold the token. No model and no tokenizer: tokens are numbers here.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from moee_index.errors import MisuseError, ModelError, first_line
from moee_index.types import FloatArray

FILE = "idf.npy"
"""The table beside a checkpoint: float32 [tokens of the vocabulary]."""


@dataclass(frozen=True, eq=False)
class TokenWeights:
    """A weight for each token of a vocabulary, finite, 0 or more.

    values: float32 [vocabulary]. Raises MisuseError for others.
    """

    values: FloatArray = field(repr=False)

    def __post_init__(self) -> None:
        values = np.asarray(self.values)
        if values.ndim != 1 or values.dtype != np.float32 or not len(values):
            raise MisuseError(
                f"token weights are an array of {values.dtype} and shape {list(values.shape)}; "
                "one float32 number for each token is needed"
            )
        if not (np.isfinite(values).all() and (values >= 0).all()):
            raise MisuseError("token weights hold a number that is negative or not finite")
        object.__setattr__(self, "values", values)

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of the weights, by which two tables are told apart."""
        return hashlib.sha256(self.values.astype("<f4").tobytes()).hexdigest()

    def of(self, tokens: Sequence[int]) -> FloatArray:
        """The shares of a text's tokens in its mean, float32 [t], which add up to 1; all equal
        where none weighs anything.

        Raises ModelError for a token that the table does not reach.
        """
        numbers = np.asarray(tokens, dtype=np.int64)
        if len(numbers) and numbers.max() >= len(self.values):
            raise ModelError(
                f"token {numbers.max()} has no weight: the table of token weights ends at "
                f"{len(self.values) - 1}; it belongs to another model"
            )
        # In float64, so that the shares of a long text add up to 1 as those of a short one do.
        weights = self.values[numbers].astype(np.float64)
        total = weights.sum()
        shares = weights / total if total > 0 else np.full(len(numbers), 1.0 / len(numbers))
        return shares.astype(np.float32)

    def to_bytes(self) -> bytes:
        """The content of a file (NumPy's .npy), the same for the same weights."""
        stream = io.BytesIO()
        np.save(stream, self.values.astype("<f4"), allow_pickle=False)
        return stream.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> TokenWeights:
        """Raises ValueError for what is no such file, MisuseError for what are no weights."""
        try:
            values = np.load(io.BytesIO(content), allow_pickle=False)
        except (EOFError, OSError) as error:
            raise ValueError(first_line(error)) from error
        if not isinstance(values, np.ndarray):
            raise ValueError("it holds several arrays")
        return cls(values)


class TokenCounts:
    """Counts in how many texts each token is."""

    def __init__(self) -> None:
        self.texts = 0
        self._held = np.zeros(0, dtype=np.int64)

    def reach(self, vocabulary: int) -> None:
        """Make room for tokens below a number."""
        if vocabulary > len(self._held):
            self._held = np.pad(self._held, (0, vocabulary - len(self._held)))

    def add(self, tokens: Sequence[int]) -> None:
        """Count a text by its tokens, for which there is room."""
        self._held[np.unique(np.asarray(tokens, dtype=np.int64))] += 1
        self.texts += 1

    def merge(self, other: TokenCounts) -> None:
        """Count the texts that the other has counted."""
        self.reach(len(other._held))
        self._held[: len(other._held)] += other._held
        self.texts += other.texts

    def weights(self) -> TokenWeights:
        """Lucene's inverse document frequencies; a token that no text held weighs most."""
        held = self._held
        return TokenWeights(np.log1p((self.texts - held + 0.5) / (held + 0.5)).astype(np.float32))


def read_token_weights(path: Path) -> TokenWeights | None:
    """The table in a file; None where there is none. Raises ModelError for a damaged one."""
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({first_line(error)})") from error
    try:
        return TokenWeights.from_bytes(content)
    except (ValueError, MisuseError) as error:
        raise ModelError(
            f"{path} is no table of token weights ({first_line(error)}); restore it, or remove it "
            "and take --pooling mean"
        ) from error
