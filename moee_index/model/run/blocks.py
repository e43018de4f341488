"""Run norms and attention of a large batch block by block: what lies between two products stays in
the processor's caches instead of going through memory several times.

A norm depends on its row alone and an attention on its text alone, so blocks give the same result
as the whole batch. A block is cut to its longest text, which saves most of the padding. A card
wants whole batches, but for attention that writes its scores out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from transformers.cache_utils import Cache

from moee_index.model.arch.conventions import POSITION_ARGUMENTS, writes_scores
from moee_index.model.arch.experts import Tokens
from moee_index.model.arch.select import ModelPlan
from moee_index.model.run.norms import fuse_norms

# Elements of a norm's block: 1 MB in float32, a core's second cache.
NORM_ELEMENTS = 2**18

# Tokens of an attention's block: enough rows for the products' full rate.
ATTENTION_TOKENS = 2048

# Scores that an attention on a card writes out at once: 256 MB in bf16, twice that in float32.
WRITTEN_SCORES = 2**27

Forward = Callable[..., Any]


def run_in_blocks(plan: ModelPlan, tokens: Tokens) -> None:
    """Make a model's norms and attentions run block by block. tokens: of the running batch."""
    for norm in plan.norms:
        norm.forward = _by_rows(norm.forward)
    for attention in plan.attentions:
        attention.forward = _by_texts(attention.forward, tokens, _for_caches)


def ready_for_card(plan: ModelPlan, tokens: Tokens) -> None:
    """Make a model's norms run in one kernel each, and attentions without a kernel of their own
    (with sinks, say) some texts at a time: a text's scores are heads * length * length, and a
    card's batch has hundreds of texts."""
    fuse_norms(plan.norms)
    for attention in plan.attentions:
        if writes_scores(attention):
            heads = int(getattr(attention.config, "num_attention_heads", 1))
            attention.forward = _by_texts(attention.forward, tokens, partial(_for_scores, heads))


def _for_caches(length: int) -> int:
    return max(1, ATTENTION_TOKENS // length)


def _for_scores(heads: int, length: int) -> int:
    return max(1, WRITTEN_SCORES // (heads * length * length))


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


def _by_texts(forward: Forward, tokens: Tokens, at_once: Callable[[int], int]) -> Forward:
    """An attention, some texts at a time; padding beyond a block's longest text comes out as 0.
    at_once: how many texts of a length are.

    It runs on the whole batch if not all of its arguments are known, or if it returns more than its
    states (such as the positions that a later layer attends to).
    """
    gives_more = False

    def blocked(*positional: Any, **named: Any) -> Any:
        nonlocal gives_more
        arguments = {**dict(zip(("hidden_states",), positional, strict=False)), **named}
        hidden = arguments["hidden_states"]
        if gives_more or len(positional) > 1 or hidden.dim() != 3:
            return forward(*positional, **named)
        count, length = hidden.shape[:2]
        texts = at_once(length)
        alone = count <= texts and tokens.lengths is None
        if alone or any(_grows(value) for value in arguments.values()):
            return forward(*positional, **named)
        if not all(_known(name, value, count, length) for name, value in arguments.items()):
            return forward(*positional, **named)
        out: list[Any] = []
        for start in range(0, count, texts):
            end = min(start + texts, count)
            longest = max(tokens.lengths[start:end]) if tokens.lengths else length
            block = {
                name: _cut(name, value, slice(start, end), count, length - longest)
                for name, value in arguments.items()
            }
            result = forward(**block)
            parts = result if isinstance(result, tuple) else (result,)
            if any(isinstance(part, torch.Tensor) and part.dim() < 4 for part in parts[1:]):
                gives_more = True
                return forward(*positional, **named)
            if not out:
                out = [_zeros(parts[0], count, length), *(None for _ in parts[1:])]
            for whole, part in zip(out, parts, strict=True):
                if whole is not None:
                    whole[start:end, : part.shape[1]] = part
        return tuple(out) if isinstance(result, tuple) else out[0]

    return blocked


def _grows(value: Any) -> bool:
    """Whether an argument, whatever its name, is a cache that grows with each call, since a block
    would then attend to the texts of others. A `FixedBeginning` (prefix.py) does not."""
    return isinstance(value, Cache) and not hasattr(value, "tokens")


def _known(name: str, value: Any, count: int, length: int) -> bool:
    """Whether an argument can be cut into texts: it is not a tensor, or is shaped like one of
    `POSITION_ARGUMENTS` with an entry for every text or one for all."""
    if isinstance(value, tuple | list):
        return all(_known(name, item, count, length) for item in value)
    if not isinstance(value, torch.Tensor):
        return not isinstance(value, dict)
    if name not in POSITION_ARGUMENTS:
        return False
    dims, total = POSITION_ARGUMENTS[name]
    return (
        value.dim() == total
        and value.shape[0] in (1, count)
        and value.shape[dims[0]] == length
        and value.shape[dims[-1]] >= length
    )


def _cut(name: str, value: Any, texts: slice, count: int, padding: int) -> Any:
    """The part of an argument that belongs to a block of texts, without its last positions."""
    if isinstance(value, tuple | list):
        return type(value)(_cut(name, item, texts, count, padding) for item in value)
    if not isinstance(value, torch.Tensor):
        return value
    if value.shape[0] == count:
        value = value[texts]
    for dim in POSITION_ARGUMENTS[name][0]:
        value = value.narrow(dim, 0, value.shape[dim] - padding)
    return value


def _zeros(part: torch.Tensor, count: int, length: int) -> torch.Tensor:
    """Memory for the states of all blocks."""
    return part.new_zeros((count, length, *part.shape[2:]))
