"""The forward of a layer's routed experts, in 4 bits or dense, registered with transformers.

It uses transformers' experts interface (the layout flags `has_gate`, `has_bias`, `is_transposed`,
`has_post_expert_norm` and a class's own `_apply_gate`); no architecture is named.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from moee_index.dependencies import internal
from moee_index.model.nf4.stack import NF4Stack, chunks, rounded_rows

Product = Callable[[torch.Tensor], torch.Tensor]

IMPLEMENTATION = "moee_index"

# Weights dequantised at once: 4 Mi bf16 weights (8 MB) stay near the cores' caches, one expert's
# projection of the published models is 2 to 6 Mi.
CHUNK_WEIGHTS = 4 * 2**20

# Elements of the products that are computed at once with the codes as they are: 32 MB in float32.
FUSED_ELEMENTS = 2**23

# Weights dequantised at once on a GPU: 2 GB in bf16, a whole layer of the published models.
GROUPED_WEIGHTS = 2**30

# Public in torch's later releases.
_grouped_mm = getattr(nn.functional, "grouped_mm", None) or torch._grouped_mm

# Rows that are weighted and summed at once; in float32 they stay in a core's second cache.
ADDED_ROWS = 128


class Tokens(threading.local):
    """Which flattened positions [batch * length] of a thread's batch a layer's experts compute.

    `rows` is int64, ascending, or None for all. Padding then never reaches an expert; in the last
    layer, neither do tokens whose state is not read. The output of skipped positions is zero.
    lengths: of the texts of a padded batch, else None. count: positions of the batch, padding
    included; experts that get another number of rows compute them all.
    """

    rows: torch.Tensor | None = None
    lengths: list[int] | None = None
    count: int = 0


@dataclass(frozen=True)
class Routed:
    """Pairs of a token and one of its experts, in the order of the experts.

    token: row of the states, int64 [pairs]. order: position of the pair if pairs were ordered by
    token, int64 [pairs]. share: routing weight, float32 [pairs, 1]. counts: pairs of each expert.
    """

    token: torch.Tensor
    order: torch.Tensor
    share: torch.Tensor
    counts: torch.Tensor
    top_k: int


def register() -> None:
    """Make `experts_forward` known to transformers as the experts implementation `moee_index`."""
    functions = internal("transformers", "transformers.integrations.moe", "ALL_EXPERTS_FUNCTIONS")
    functions.register(IMPLEMENTATION, experts_forward)


def experts_forward(
    self: Any,
    hidden_states: torch.Tensor,
    top_k_index: torch.Tensor,
    top_k_weights: torch.Tensor,
) -> torch.Tensor:
    """Routed experts of one layer: hidden_states [tokens, d] -> [tokens, d].

    Experts with few tokens are multiplied with their 4-bit codes as they are, many of them in one
    call. Of others the weights are dequantised into a reused workspace, a chunk of experts at a
    time, and multiplied with the tokens routed there. Sums run in float32 in the order of the
    experts, so a token's result does not depend on its neighbours beyond the rounding of the
    products.
    """
    tokens: Tokens | None = getattr(self, "moee_tokens", None)
    rows = tokens.rows if tokens is not None and tokens.count == len(hidden_states) else None
    if rows is not None:
        top_k_index, top_k_weights = top_k_index[rows], top_k_weights[rows]
    top_k = top_k_index.shape[-1]
    expert_of, order = torch.sort(top_k_index.reshape(-1), stable=True)
    token = order // top_k
    if rows is not None:
        token = rows[token]
    share = top_k_weights.reshape(-1)[order].float()[:, None]
    # A class may route to an expert that does nothing, numbered after the last one.
    counts = torch.bincount(expert_of, minlength=self.num_experts)[: self.num_experts]
    up_name = "gate_up_proj" if self.has_gate else "up_proj"
    if grouped(hidden_states.device):
        return _grouped_forward(
            self, hidden_states, Routed(token, order, share, counts, top_k), up_name
        )
    result = torch.zeros(hidden_states.shape, dtype=torch.float32, device=hidden_states.device)
    counted = counts.tolist()
    starts = [0, *accumulate(counted)]
    for group in _groups(self, up_name, counted, hidden_states.dtype):
        if group.fused:
            span = slice(starts[group.experts[0]], starts[group.experts[-1] + 1])
            bounds = [starts[expert] - span.start for expert in group.experts]
            bounds.append(span.stop - span.start)
            state = _fused(self, up_name, group.experts, bounds, hidden_states, token[span])
            _add(result, token[span], state, share[span])
            continue
        up = _products(self, up_name, group.experts, hidden_states.dtype)
        down = _products(self, "down_proj", group.experts, hidden_states.dtype)
        for place, expert in enumerate(group.experts):
            span = slice(starts[expert], starts[expert + 1])
            state = _gathered(self, hidden_states, _padded(token[span]))
            state = _biased(self, up_name, expert, up[place](state))
            state = _activated(self, state)
            state = _biased(self, "down_proj", expert, down[place](state))
            _add(result, token[span], _normed(self, state[: counted[expert]]), share[span])
    return result.to(hidden_states.dtype)


def _fused(
    experts: Any,
    up_name: str,
    group: Sequence[int],
    starts: Sequence[int],
    states: torch.Tensor,
    token: torch.Tensor,
) -> torch.Tensor:
    """What each expert of a group makes of its rows `token` of the states: [len(token), d]."""
    up, down = getattr(experts, up_name), experts.down_proj
    state = up.multiply(group, starts, states, token)
    state = _activated(experts, _all_biased(experts, up_name, group, starts, state))
    state = down.multiply(group, starts, state)
    return _normed(experts, _all_biased(experts, "down_proj", group, starts, state))


def _add(
    result: torch.Tensor, token: torch.Tensor, state: torch.Tensor, share: torch.Tensor
) -> None:
    """Add states [n, d], weighed by their shares [n, 1], to their tokens' rows of the result."""
    weighted = zip(
        torch.split(token, ADDED_ROWS),
        torch.split(state, ADDED_ROWS),
        torch.split(share, ADDED_ROWS),
        strict=True,
    )
    for rows, part, weight in weighted:
        result.index_add_(0, rows, part.float().mul_(weight))


def grouped(device: torch.device) -> bool:
    """Whether a device multiplies experts all at once, not one after the other."""
    return device.type == "cuda"


def _grouped_forward(
    experts: Any, states: torch.Tensor, routed: Routed, up_name: str
) -> torch.Tensor:
    """The same on a GPU: as many experts as fit in the workspace are dequantised at once, and one
    grouped product runs over the tokens routed to them, in the order of the experts.

    Each product has a row of its own, and a token's are summed in the order of its choices: without
    atomic additions the same batch gives the same bytes.
    """
    products = torch.empty(
        (len(routed.token), states.shape[-1]), dtype=states.dtype, device=states.device
    )
    ends = routed.counts.cumsum(0)
    held = getattr(experts, up_name)
    size = held.size if isinstance(held, NF4Stack) else held[0].numel()
    start = 0
    for group in chunks(routed.counts.nonzero()[:, 0], size, GROUPED_WEIGHTS):
        end = int(ends[group[-1]])
        local_ends = (ends[group] - start).to(torch.int32)
        state = torch.index_select(states, 0, routed.token[start:end])
        state = _grouped_product(experts, up_name, group, state, local_ends)
        state = _activated(experts, state)
        state = _grouped_product(experts, "down_proj", group, state, local_ends)
        products[start:end] = _normed(experts, state)
        start = end
    if start < len(products):
        products[start:] = 0
    place = torch.empty_like(routed.order)
    place[routed.order] = torch.arange(len(place), device=place.device)
    rows = torch.empty_like(routed.order)
    rows[routed.order] = routed.token
    weighted = products[place].float() * routed.share[place]
    summed = weighted.view(-1, routed.top_k, states.shape[-1]).sum(1).to(states.dtype)
    result = torch.zeros_like(states)
    result[rows.view(-1, routed.top_k)[:, 0]] = summed
    return result


def _grouped_product(
    experts: Any, name: str, group: torch.Tensor, states: torch.Tensor, ends: torch.Tensor
) -> torch.Tensor:
    """states [tokens, in], each times its expert's matrix: [tokens, out]."""
    held = getattr(experts, name)
    if isinstance(held, NF4Stack):
        weights = held.dequantize(group, states.dtype, experts.moee_workspaces[name])
    else:
        weights = held[group]
    if not lies_transposed(experts, held):
        weights = weights.transpose(-2, -1)
    product = _grouped_mm(states, weights, offs=ends)
    if experts.has_bias:
        lengths = torch.diff(ends, prepend=ends.new_zeros(1))
        bias = getattr(experts, f"{name}_bias")[group]
        product = product + bias.repeat_interleave(lengths, dim=0)
    return product


def _gathered(experts: Any, states: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Rows of `states`, in a reused buffer: copying them is then five times as fast as into fresh
    memory, and twenty-five times as fast as `states[tokens]`."""
    size = len(tokens) * states.shape[-1]
    buffer = experts.moee_workspaces["tokens"].take(size, states.dtype, states.device)
    return torch.index_select(states, 0, tokens, out=buffer.view(len(tokens), -1))


def _padded(tokens: torch.Tensor) -> torch.Tensor:
    """Token numbers, padded with the first one to one of a few row counts."""
    missing = rounded_rows(len(tokens)) - len(tokens)
    return torch.cat((tokens, tokens[:1].expand(missing))) if missing else tokens


class _Group(NamedTuple):
    """Experts that are computed together. fused: with their codes as they are."""

    experts: list[int]
    fused: bool


def _groups(experts: Any, name: str, counts: Sequence[int], dtype: torch.dtype) -> Iterator[_Group]:
    """Experts with tokens, in order, in groups whose products or dequantised weights share
    memory. counts: tokens of each."""
    held = [getattr(experts, name), experts.down_proj]
    stacks = [one for one in held if isinstance(one, NF4Stack)]
    fusible = len(stacks) == 2 and not any(lies_transposed(experts, one) for one in held)
    group, size = _Group([], False), 0
    for expert, count in enumerate(counts):
        if not count:
            continue
        fused = fusible and all(stack.multiplies(dtype, count) for stack in stacks)
        if fused:
            cost, most = count * stacks[0].rows, FUSED_ELEMENTS
        else:
            cost, most = (stacks[0].size if stacks else 0), CHUNK_WEIGHTS
        if group.experts and (fused != group.fused or size + cost > most):
            yield group
            group, size = _Group([], fused), 0
        group = group._replace(fused=fused)
        group.experts.append(expert)
        size += cost
    if group.experts:
        yield group


def _products(experts: Any, name: str, group: Sequence[int], dtype: torch.dtype) -> list[Product]:
    """For each expert of a chunk what multiplies rows with its weights, however these are kept.

    Valid until the same projection of another chunk is asked for.
    """
    held = getattr(experts, name)
    if isinstance(held, NF4Stack):
        index = torch.tensor(group)
        weights = held.dequantize(index, dtype, experts.moee_workspaces[name]).unbind()
    else:
        weights = tuple(held[expert] for expert in group)
    if lies_transposed(experts, held):
        weights = tuple(weight.T for weight in weights)
    return [partial(_times, weight) for weight in weights]


def lies_transposed(experts: Any, held: Any) -> bool:
    """Whether matrices are [in, out], as in some classes, and not [out, in]."""
    return bool(experts.is_transposed) and not getattr(held, "turned", False)


def _times(weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return nn.functional.linear(x, weight)


def _biased(experts: Any, name: str, expert: int, product: torch.Tensor) -> torch.Tensor:
    return product + getattr(experts, f"{name}_bias")[expert] if experts.has_bias else product


def _all_biased(
    experts: Any, name: str, group: Sequence[int], starts: Sequence[int], products: torch.Tensor
) -> torch.Tensor:
    if not experts.has_bias:
        return products
    bias: torch.Tensor = getattr(experts, f"{name}_bias")[torch.tensor(group)]
    return products + bias.repeat_interleave(torch.tensor(starts).diff(), dim=0)


def _activated(experts: Any, states: torch.Tensor) -> torch.Tensor:
    activated = experts._apply_gate(states) if experts.has_gate else experts.act_fn(states)
    return cast(torch.Tensor, activated)


def _normed(experts: Any, states: torch.Tensor) -> torch.Tensor:
    normed = experts.post_expert_norm(states) if experts.has_post_expert_norm else states
    return cast(torch.Tensor, normed)
