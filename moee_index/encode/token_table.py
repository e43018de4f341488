"""A checkpoint's own table of token weights, for the pooling `idf`."""

from __future__ import annotations

from moee_index.errors import MisuseError, ModelError
from moee_index.model.arch.config import vocabulary_of
from moee_index.model.checkpoint.find import Checkpoint
from moee_index.token_weights import FILE, TokenWeights, read_token_weights
from moee_index.types import IDF


def without_token_weights(model: str) -> MisuseError:
    """What is told where pooling `idf` has no table."""
    return MisuseError(
        f"--pooling {IDF} needs a table of token weights, and {model} has none ({FILE}): "
        "an index that is built with it counts one over its corpus, and embed and rerank take that "
        "with --index; or take --pooling mean"
    )


def token_weights_of(checkpoint: Checkpoint, pooling: str) -> TokenWeights | None:
    """A checkpoint's own table, where the pooling takes one. Raises ModelError for a damaged one,
    and for one of another vocabulary."""
    weights = read_token_weights(checkpoint.path / FILE) if pooling == IDF else None
    vocabulary = vocabulary_of(checkpoint)
    if weights is not None and vocabulary is not None and len(weights.values) != vocabulary:
        raise ModelError(
            f"{checkpoint.path / FILE} has {len(weights.values)} token weights for a "
            f"vocabulary of {vocabulary}; it belongs to another model"
        )
    return weights
