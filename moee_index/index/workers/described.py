"""The encoder that the driver has where others embed: what the processes say of theirs, and what
is asked of the first of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from moee_index.errors import FingerprintMismatchError, LibraryError, counted
from moee_index.index.workers.pool import Pool
from moee_index.index.workers.tasks import CountTokens, Describe, DivideTexts, Facts
from moee_index.index.write.resume import told
from moee_index.limits import memory_limit
from moee_index.token_weights import TokenCounts, TokenWeights
from moee_index.types import Chunking, EncoderSpec, Notify, Span


@dataclass(frozen=True)
class DescribedEncoder:
    """All of a `TextEncoder` but what embeds."""

    pool: Pool
    spec: EncoderSpec
    batch_tokens: int
    lexical: float
    language: str | None
    token_weights: TokenWeights | None = None

    def with_batch_tokens(self, batch_tokens: int) -> DescribedEncoder:
        return replace(self, batch_tokens=batch_tokens)

    def with_token_weights(self, weights: TokenWeights) -> DescribedEncoder:
        spec = replace(self.spec, token_weights=weights.checksum)
        return replace(self, spec=spec, token_weights=weights)

    def count_tokens(self, texts: Sequence[str], counts: TokenCounts) -> None:
        counts.merge(self.pool.ask(CountTokens(list(texts)), "counting tokens"))

    def passages(
        self, documents: Sequence[tuple[str, str]], chunking: Chunking
    ) -> list[list[Span]]:
        found: list[list[Span]] = self.pool.ask(
            DivideTexts(list(documents), chunking), "dividing texts"
        )
        return found


def describe(pool: Pool) -> tuple[DescribedEncoder, dict[str, int] | None]:
    """Have all processes load their encoders. Returns what they have in common, and the bytes of
    its weights by kind.

    Raises what loading raises; FingerprintMismatchError, LibraryError where not all have the same.
    """
    found: list[Facts] = pool.everywhere(Describe(), "loading the model")
    first = found[0]
    for other in found[1:]:
        check_same(first, other)
    _tell_memory(found, pool.notify)
    encoder = DescribedEncoder(pool, first.spec, first.batch_tokens, first.lexical, first.language)
    return encoder, first.weights


def check_same(first: Facts, other: Facts) -> None:
    if other.program != first.program:
        raise LibraryError(
            f"{first.host} has moee-index {first.program}, {other.host} has {other.program}; "
            "install the same version on all"
        )
    ours, theirs = other.spec.identity(), first.spec.identity()
    different = [(name, theirs[name], ours[name]) for name in ours if ours[name] != theirs[name]]
    if different:
        raise FingerprintMismatchError(
            f"on {other.host} the model is not the one of {first.host}: "
            f"{told(different, first.spec)}; copy the same model to all nodes"
        )


def _tell_memory(found: Sequence[Facts], notify: Notify) -> None:
    """Say what copies of the model take on this machine, where they may not fit."""
    limit = memory_limit()
    copies = [facts for facts in found if facts.host == found[0].host and facts.weights]
    if limit is None or len(copies) < 2 or not copies[0].hardware.startswith("cpu"):
        return
    each = sum((copies[0].weights or {}).values())
    if each * len(copies) > limit.value:
        notify(
            f"{counted(len(copies), 'worker')} hold {each * len(copies) / 1e9:.1f} GB of weights, "
            f"and {limit.value / 1e9:.1f} GB of memory may be used ({limit.reason}): what they do "
            "not share of a file in MOEE_INDEX_CACHE does not fit; take fewer --workers"
        )
