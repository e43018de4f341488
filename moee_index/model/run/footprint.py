"""How many tokens a batch on a card may have, from what is free there.

An estimate from above, for the first batch: a batch that does not fit after all is halved.
"""

from __future__ import annotations

import torch

from moee_index.model.arch.conventions import experts_a_token, writes_scores
from moee_index.model.arch.grouped import slice_elements
from moee_index.model.arch.select import ModelPlan
from moee_index.model.load.memory import workspace_bytes
from moee_index.model.nf4.linear import NF4Linear
from moee_index.model.run.blocks import WRITTEN_SCORES

# Budgets are multiples of this, so that the same card gives the same one in most starts.
STEP = 1024

# Share of what is free that is planned with: memory comes in pieces.
_USED = 0.9

# States of a token outside of experts that are alive at once: of the residual stream with its
# norms, and of a layer's widest product (query and key, turned and not; gate and up).
_STATES = 8

# Bytes of a score that attention writes out: as it is, masked, in float32, and normed.
_SCORE = 12


def fitting_tokens(plan: ModelPlan, compute: torch.dtype, free: int, most: int) -> int:
    """The most tokens of a batch that should fit `free` bytes beside the weights: a multiple of
    STEP up to `most`, at least STEP."""
    room = _USED * free - workspace_bytes(plan.model, compute)
    for tokens in range(most // STEP * STEP, STEP, -STEP):
        if batch_bytes(plan, compute, tokens) <= room:
            return tokens
    return STEP


def batch_bytes(plan: ModelPlan, compute: torch.dtype, tokens: int) -> int:
    """Most bytes that a batch's states take at once, from above."""
    hidden = int(plan.model.get_input_embeddings().weight.shape[-1])
    states = tokens * _STATES * (hidden + _widest(plan)) * compute.itemsize
    pairs = tokens * experts_a_token(plan.model.config)
    experts = max((slice_elements(one, hidden, pairs) for one in plan.experts), default=0)
    scores = _SCORE * WRITTEN_SCORES if any(map(writes_scores, plan.attentions)) else 0
    return states + experts * compute.itemsize + scores


def _widest(plan: ModelPlan) -> int:
    """Columns of the widest product outside of experts of the experts interface."""
    kinds = (torch.nn.Linear, NF4Linear)
    inside = {id(part) for experts in plan.experts for part in experts.modules()}
    return max(
        (
            module.out_features
            for module in plan.model.modules()
            if isinstance(module, kinds) and id(module) not in inside
        ),
        default=0,
    )
