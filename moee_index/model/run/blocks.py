"""Norms and attention of a large batch, block by block: what lies between two products stays in the
processor's caches instead of going through memory several times.

A norm knows nothing but its row, an attention nothing but its text, so a block's result is the
whole batch's. A block of texts is cut to its own longest, which spares most of the padding. Modules
are judged by what they are; no architecture is named. For processors; a GPU wants whole batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import nn
from transformers.cache_utils import Cache

from moee_index.model.arch.experts import Tokens

# Elements of a norm's block: 1 MB in float32, a core's second cache.
NORM_ELEMENTS = 2**18

# Tokens of an attention's block: enough rows for the products' full rate.
ATTENTION_TOKENS = 2048

# Arguments of an attention that have one entry a position: in which dimensions, and of how many.
_POSITIONS = {
    "hidden_states": ((1,), 3),
    "position_embeddings": ((1,), 3),
    "position_ids": ((1,), 2),
    "attention_mask": ((2, 3), 4),
}

Forward = Callable[..., Any]


def run_in_blocks(model: nn.Module, routers: Sequence[nn.Module], tokens: Tokens) -> None:
    """Make a model's norms and attentions run block by block. tokens: of the running batch."""
    routing = set(routers)
    for module in model.modules():
        own = dict(module.named_parameters())
        if type(module).__name__.endswith("Norm") and [v.dim() for v in own.values()] == [1]:
            module.forward = _by_rows(module.forward)
        elif type(module).__name__.endswith("Attention") and not routing & set(module.modules()):
            module.forward = _by_texts(module.forward, tokens)


def _by_rows(forward: Forward) -> Forward:
    """A norm over the last dimension, some rows at a time."""

    def blocked(x: torch.Tensor, *more: Any, **named: Any) -> torch.Tensor:
        rows = max(1, NORM_ELEMENTS // x.shape[-1])
        if more or named or x.numel() <= rows * x.shape[-1]:
            return cast(torch.Tensor, forward(x, *more, **named))
        flat = x.reshape(-1, x.shape[-1])
        first = forward(flat[:rows])
        out = torch.empty(flat.shape, dtype=first.dtype, device=first.device)
        out[:rows] = first
        for start in range(rows, len(flat), rows):
            out[start : start + rows] = forward(flat[start : start + rows])
        return out.view(x.shape)

    return blocked


def _by_texts(forward: Forward, tokens: Tokens) -> Forward:
    """An attention, some texts at a time; padding beyond a block's longest text comes out as 0.

    One whose arguments are not all known, or that gives more than its states (the positions that
    a later layer shall attend to), is run whole.
    """
    gives_more = False

    def blocked(*positional: Any, **named: Any) -> Any:
        nonlocal gives_more
        given = {**dict(zip(("hidden_states",), positional, strict=False)), **named}
        hidden = given["hidden_states"]
        if gives_more or len(positional) > 1 or hidden.dim() != 3:
            return forward(*positional, **named)
        count, length = hidden.shape[:2]
        texts = max(1, ATTENTION_TOKENS // length)
        alone = count <= texts and tokens.lengths is None
        if alone or any(_grows(value) for value in given.values()):
            return forward(*positional, **named)
        if not all(_known(name, value, count, length) for name, value in given.items()):
            return forward(*positional, **named)
        out: list[Any] = []
        for start in range(0, count, texts):
            end = min(start + texts, count)
            longest = max(tokens.lengths[start:end]) if tokens.lengths else length
            own = {
                name: _cut(name, value, slice(start, end), count, length - longest)
                for name, value in given.items()
            }
            found = forward(**own)
            parts = found if isinstance(found, tuple) else (found,)
            if any(isinstance(part, torch.Tensor) and part.dim() < 4 for part in parts[1:]):
                gives_more = True
                return forward(*positional, **named)
            if not out:
                out = [_room(parts[0], count, length), *(None for _ in parts[1:])]
            for whole, part in zip(out, parts, strict=True):
                if whole is not None:
                    whole[start:end, : part.shape[1]] = part
        return tuple(out) if isinstance(found, tuple) else out[0]

    return blocked


def _grows(value: Any) -> bool:
    """Whether an argument, whatever its name, is a cache that takes in what it is shown, for then a
    block's texts would meet the others'. A `FixedBeginning` (prefix.py) does not."""
    return isinstance(value, Cache) and not hasattr(value, "tokens")


def _known(name: str, value: Any, count: int, length: int) -> bool:
    """Whether an argument can be cut into texts: it is no tensor, or shaped as one of `_POSITIONS`
    that has an entry for every text or one for all."""
    if isinstance(value, tuple | list):
        return all(_known(name, one, count, length) for one in value)
    if not isinstance(value, torch.Tensor):
        return not isinstance(value, dict)
    if name not in _POSITIONS:
        return False
    dims, total = _POSITIONS[name]
    return (
        value.dim() == total
        and value.shape[0] in (1, count)
        and value.shape[dims[0]] == length
        and value.shape[dims[-1]] >= length
    )


def _cut(name: str, value: Any, texts: slice, count: int, spared: int) -> Any:
    """The part of an argument that belongs to a block of texts, without its last positions."""
    if isinstance(value, tuple | list):
        return type(value)(_cut(name, one, texts, count, spared) for one in value)
    if not isinstance(value, torch.Tensor):
        return value
    if value.shape[0] == count:
        value = value[texts]
    for dim in _POSITIONS[name][0]:
        value = value.narrow(dim, 0, value.shape[dim] - spared)
    return value


def _room(part: torch.Tensor, count: int, length: int) -> torch.Tensor:
    """Where the states of all blocks will lie."""
    return part.new_zeros((count, length, *part.shape[2:]))
