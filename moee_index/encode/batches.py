"""Batches of one window of texts: sorted by length, bounded by tokens, planned from the texts and
their order alone, so that the same window always gives the same batches.

Works on lengths and token sequences alone.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

# Texts of a window under the budget of a processor.
_WINDOW, _WINDOW_TOKENS = 1024, 16384


def window_of(batch_tokens: int) -> int:
    """Texts that are planned together: enough short ones to fill a batch of so many tokens."""
    return max(_WINDOW, _WINDOW * batch_tokens // _WINDOW_TOKENS)


def group_equal(sequences: Sequence[Hashable]) -> list[list[int]]:
    """Positions of equal token sequences together, in the order of their first appearance."""
    groups: dict[Hashable, list[int]] = {}
    for position, sequence in enumerate(sequences):
        groups.setdefault(sequence, []).append(position)
    return list(groups.values())


def plan_batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Split items into batches of at most `batch_tokens` tokens, padding included.

    Longest first, equal lengths in their order; an item longer than the budget is a batch of its
    own. The first batch is the most expensive one, so a lack of memory shows at once.
    """
    order = sorted(range(len(lengths)), key=lambda item: (-lengths[item], item))
    batches: list[list[int]] = []
    longest = 0
    for item in order:
        if batches and (len(batches[-1]) + 1) * longest <= batch_tokens:
            batches[-1].append(item)
        else:
            batches.append([item])
            longest = lengths[item]
    return batches
