"""The forward of a layer's routed experts, in 4 bits or dense, registered with transformers.

It uses transformers' experts interface (the layout flags `has_gate`, `has_bias`, `is_transposed`,
`has_post_expert_norm` and a class's own `_apply_gate`); no architecture is named.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from moee_index.dependencies import internal
from moee_index.model.arch.grouped import grouped_forward, lies_transposed
from moee_index.model.nf4.linear import rounded_rows
from moee_index.model.nf4.stack import NF4Stack

Product = Callable[[torch.Tensor], torch.Tensor]

IMPLEMENTATION = "moee_index"

# Weights dequantised at once: 4 Mi bf16 weights (8 MB) stay near the cores' caches, one expert's
# projection of the published models is 2 to 6 Mi.
CHUNK_WEIGHTS = 4 * 2**20

# Elements of the products that are computed at once with the codes as they are: 32 MB in float32.
FUSED_ELEMENTS = 2**23

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
    up_name = "gate_up_proj" if self.has_gate else "up_proj"
    if grouped(hidden_states.device):
        return grouped_forward(self, hidden_states, top_k_index, top_k_weights, rows, up_name)
    top_k = top_k_index.shape[-1]
    expert_of, order = torch.sort(top_k_index.reshape(-1), stable=True)
    token = order // top_k
    if rows is not None:
        token = rows[token]
    share = top_k_weights.reshape(-1)[order].float()[:, None]
    # A class may route to an expert that does nothing, numbered after the last one.
    counts = torch.bincount(expert_of, minlength=self.num_experts)[: self.num_experts]
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
        weights = held.dequantize(group, dtype, experts.moee_workspaces[name]).unbind()
    else:
        weights = tuple(held[expert] for expert in group)
    if lies_transposed(experts, held):
        weights = tuple(weight.T for weight in weights)
    return [partial(_times, weight) for weight in weights]


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
