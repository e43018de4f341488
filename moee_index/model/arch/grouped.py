"""A layer's routed experts on a card: tokens in the order of their experts, a slice of them at a
time, so that memory for products does not grow with the batch.

The processor waits for the card once a layer, for how many tokens each expert gets; all that
follows is planned from these numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import torch
from torch import nn

from moee_index.model.device import has_grouped_product, on_device
from moee_index.model.nf4.stack import NF4Stack

# Weights dequantised at once: 2 GB in bf16, a whole layer of the published models.
GROUPED_WEIGHTS = 2**30

# Elements of states or products of a slice of tokens: 1 GB in bf16.
GROUPED_ELEMENTS = 2**29

# Bytes of which rows are a multiple where a kernel for all groups takes them.
_ALIGNMENT = 16

# Public in torch's later releases.
_grouped_mm = getattr(nn.functional, "grouped_mm", None) or torch._grouped_mm


@dataclass(frozen=True)
class _Slice:
    """Some tokens' pairs with their experts, in the order of the experts.

    order: int64 [pairs], position of each pair were they ordered by token. ends: where the pairs of
    each expert end. Behind the last one are pairs with an expert that does nothing.
    """

    first: int
    order: torch.Tensor
    ends: list[int]


def grouped_forward(
    experts: Any,
    states: torch.Tensor,
    index: torch.Tensor,
    weights: torch.Tensor,
    rows: torch.Tensor | None,
    up_name: str,
) -> torch.Tensor:
    """Routed experts of one layer: states [tokens, d] -> [tokens, d].

    index, weights: experts of tokens and their shares, [n, top_k]. rows: which tokens these are,
    int64 [n]; None for all. Others come out as zeros.

    Each product has a row of its own, and a token's are weighed and summed in the order of its
    choices, in float32: without atomic additions the same batch gives the same bytes.
    """
    top_k = index.shape[-1]
    at_once = max(1, _pairs_at_once(experts, states.shape[-1], up_name) // max(1, top_k))
    parts = []
    for part in _slices(index, experts.num_experts, at_once):
        tokens = slice(part.first, part.first + len(part.order) // top_k)
        token = part.order // top_k + part.first
        source = token if rows is None else rows[token]
        products = _products(experts, up_name, states, source, part.ends)
        parts.append(_summed(products, part.order, weights[tokens].to(products.dtype)))
    if not parts:
        return torch.zeros_like(states)
    summed = parts[0] if len(parts) == 1 else torch.cat(parts)
    return summed if rows is None else torch.zeros_like(states).index_copy_(0, rows, summed)


def _pairs_at_once(experts: Any, hidden: int, up_name: str) -> int:
    width = max(hidden, _size_of(getattr(experts, up_name), experts)[0])
    return GROUPED_ELEMENTS // width


def slice_elements(experts: Any, hidden: int, pairs: int) -> int:
    """Most elements alive at once in experts whose tokens make so many pairs: those of states and
    of the wider product of a slice, and half as many for the activation."""
    up_name = "gate_up_proj" if experts.has_gate else "up_proj"
    pairs = min(pairs, _pairs_at_once(experts, hidden, up_name))
    return pairs * (hidden + _size_of(getattr(experts, up_name), experts)[0]) * 3 // 2


def _slices(index: torch.Tensor, experts: int, at_once: int) -> Iterator[_Slice]:
    """Tokens in slices of `at_once`, planned with one wait for the card."""
    count, top_k = index.shape
    if not count:
        return
    firsts = range(0, count, at_once)
    # A class may route to an expert that does nothing, numbered after the last one.
    number = index.reshape(-1).clamp(max=experts)
    if len(firsts) > 1:
        slices = torch.arange(count, device=index.device).div_(at_once, rounding_mode="floor")
        number = (slices * (experts + 1)).repeat_interleave(top_k, output_size=count * top_k)
        number = number.add_(index.reshape(-1).clamp(max=experts))
    ordered, order = torch.sort(number, stable=True)
    bounds = torch.arange(len(firsts) * (experts + 1), device=index.device)
    ends = torch.searchsorted(ordered, bounds, right=True).tolist()
    for place, first in enumerate(firsts):
        start, stop = first * top_k, min(first + at_once, count) * top_k
        own = ends[place * (experts + 1) :][:experts]
        part = order[start:stop]
        yield _Slice(first, part - start if start else part, [end - start for end in own])


def _summed(products: torch.Tensor, order: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Products [pairs, d] in the order of the experts, weighed by shares [tokens, top_k] and summed
    by token: [tokens, d]. One pass over them, with sums in float32; a share is rounded as the
    product it weighs is."""
    numbers = torch.arange(len(order), device=order.device)
    place = torch.empty_like(order).scatter_(0, order, numbers)
    return nn.functional.embedding_bag(
        place.view(share.shape), products, per_sample_weights=share, mode="sum"
    )


def _products(
    experts: Any, up_name: str, states: torch.Tensor, source: torch.Tensor, ends: list[int]
) -> torch.Tensor:
    """What experts make of rows `source` of the states, which are in their order: [pairs, d]."""
    groups = list(_groups(experts, up_name, ends))
    bounds = [0, *ends]
    if len(groups) == 1 and ends[-1] == len(source):
        return _of_group(experts, up_name, groups[0], states, source, ends)
    products = states.new_empty((len(source), states.shape[-1]))
    for group in groups:
        start, stop = bounds[group[0]], ends[group[-1]]
        own = [end - start for end in ends]
        products[start:stop] = _of_group(experts, up_name, group, states, source[start:stop], own)
    products[ends[-1] :] = 0
    return products


def _of_group(
    experts: Any,
    up_name: str,
    group: Sequence[int],
    states: torch.Tensor,
    source: torch.Tensor,
    ends: Sequence[int],
) -> torch.Tensor:
    """The same for some experts, whose weights fit the memory at once. Nothing that is used up is
    kept until the end."""
    state = torch.index_select(states, 0, source)
    state = _times(experts, up_name, group, state, ends)
    state = experts._apply_gate(state) if experts.has_gate else experts.act_fn(state)
    state = _times(experts, "down_proj", group, state, ends)
    return cast(
        torch.Tensor, experts.post_expert_norm(state) if experts.has_post_expert_norm else state
    )


def _groups(experts: Any, up_name: str, ends: Sequence[int]) -> Iterator[list[int]]:
    """Experts with tokens, in groups whose dequantised weights fit the memory at once."""
    hit = [expert for expert, (start, end) in enumerate(pairwise([0, *ends])) if end > start]
    if not hit:
        return
    span = range(hit[0], hit[-1] + 1)
    if 4 * len(hit) >= 3 * len(span):  # dequantising a few in vain is less than gathering codes
        hit = list(span)
    rows, cols = _size_of(getattr(experts, up_name), experts)
    most = max(1, GROUPED_WEIGHTS // (rows * cols))
    if not isinstance(getattr(experts, up_name), NF4Stack):
        most = len(hit)  # nothing is dequantised
    for start in range(0, len(hit), most):
        yield hit[start : start + most]


def _size_of(held: Any, experts: Any) -> tuple[int, int]:
    """(out, in) of each matrix."""
    rows, cols = held.shape[-2:] if isinstance(held, torch.Tensor) else (held.rows, held.cols)
    return (int(cols), int(rows)) if lies_transposed(experts, held) else (int(rows), int(cols))


def lies_transposed(experts: Any, held: Any) -> bool:
    """Whether matrices are [in, out], as in some classes, and not [out, in]."""
    return bool(experts.is_transposed) and not getattr(held, "turned", False)


def _times(
    experts: Any, name: str, group: Sequence[int], states: torch.Tensor, ends: Sequence[int]
) -> torch.Tensor:
    """states [pairs, in], each times its expert's matrix: [pairs, out]. ends: of all experts' pairs
    among these."""
    held = getattr(experts, name)
    if isinstance(held, NF4Stack):
        weights = held.dequantize(group, states.dtype, experts.moee_workspaces[name])
    else:
        weights = held[group[0] : group[-1] + 1]
        group = range(group[0], group[-1] + 1)
    if not lies_transposed(experts, held):
        weights = weights.transpose(-2, -1)
    bounds = [ends[expert] for expert in group]
    if not experts.has_bias and _in_one_kernel(states, weights):
        offsets = on_device(bounds, torch.int32, states.device)
        return cast(torch.Tensor, _grouped_mm(states, weights, offs=offsets))
    bias = getattr(experts, f"{name}_bias") if experts.has_bias else None
    product = states.new_empty((len(states), weights.shape[-1]))
    for place, (start, end) in enumerate(pairwise([0, *bounds])):
        if start == end:
            continue
        if bias is None:
            torch.mm(states[start:end], weights[place], out=product[start:end])
        else:
            own = bias[group[place]]
            torch.addmm(own, states[start:end], weights[place], out=product[start:end])
    return product


def _in_one_kernel(states: torch.Tensor, weights: torch.Tensor) -> bool:
    """Whether a card multiplies all groups at once: it can, and rows are as it needs them."""
    sizes = (states.shape[-1], *weights.shape[-2:])
    aligned = all(size * states.itemsize % _ALIGNMENT == 0 for size in sizes)
    return aligned and has_grouped_product(states.device, states.dtype)
