"""The fixed beginning of a prompt, computed once: its keys and values serve every text after it.

Exact where every layer is a full causal attention, since nothing there depends on what follows.
Other layers (sliding windows, state spaces, linear attention) carry a state that is not shared
here, so models with such layers compute every prompt in full.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from moee_index.model.arch.conventions import cache_argument


class _FixedLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values [1, heads, P, d] before those of any number of texts; it never grows."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: Any, **_named: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        count = len(key_states)
        keys = self.keys.expand(count, -1, -1, -1)
        values = self.values.expand(count, -1, -1, -1)
        return torch.cat((keys, key_states), dim=-2), torch.cat((values, value_states), dim=-2)


class FixedBeginning(Cache):  # type: ignore[misc]
    """Keys and values of a prompt's fixed beginning in all layers; any batch may follow it.

    tokens: the beginning's ids. argument: the name under which the model takes a cache.
    """

    def __init__(self, tokens: tuple[int, ...], filled: DynamicCache, argument: str) -> None:
        layers = []
        for layer in filled.layers:
            fixed = _FixedLayer()
            fixed.lazy_initialization(layer.keys, layer.values)
            fixed.keys, fixed.values = layer.keys, layer.values
            layers.append(fixed)
        super().__init__(layers=layers)
        self.tokens = tokens
        self.argument = argument


def compute(model: Any, tokens: tuple[int, ...], device: torch.device) -> FixedBeginning | None:
    """Run the beginning alone through the model; None if sharing it is not exact."""
    name = cache_argument(model)
    if name is None or getattr(model, "_is_stateful", False):
        return None
    cache = DynamicCache(config=model.config)
    if any(type(layer) is not DynamicLayer for layer in cache.layers):
        return None
    ids = torch.tensor([tokens], device=device)
    with torch.inference_mode():
        model(input_ids=ids, use_cache=True, **{name: cache})
    if len(cache.layers) != model.config.num_hidden_layers:
        return None
    if any(layer.get_seq_length() != len(tokens) for layer in cache.layers):
        return None
    return FixedBeginning(tokens, cache, name)
