"""What config.json says of the text model, read as it stands: its part of the config, and how many
tokens a text may have. Imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

_PARTS = ("thinker_config", "text_config", "llm_config", "language_config")


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The text model's part of a config: one within it, or all of it."""
    for name in _PARTS:
        part = config.get(name)
        if isinstance(part, dict) and part:
            return text_config(part)
    return config


def positions(config: Mapping[str, Any]) -> int | None:
    """The most tokens of a text by `max_position_embeddings`, and by the rotary scaling where that
    extends it; None for a model without such a limit."""
    text = text_config(config)
    most = text.get("max_position_embeddings")
    if not is_count(most) or most < 1:
        return None
    longest = most
    for rope in _ropes(text):
        factor, original = rope.get("factor"), rope.get("original_max_position_embeddings")
        if isinstance(factor, int | float) and 1 < factor < 1e6:
            longest = max(longest, int(factor * (original if is_count(original) else most)))
    return longest


def _ropes(text: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Settings of rotary embeddings, of all layers or by their kind."""
    for name in ("rope_scaling", "rope_parameters"):
        said = text.get(name)
        if isinstance(said, dict):
            yield said
            yield from (inner for inner in said.values() if isinstance(inner, dict))


def is_count(value: Any) -> TypeGuard[int]:
    """Whether a value of JSON is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)
