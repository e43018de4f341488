"""How many weights a checkpoint has and how many a token meets; counted, not looked up.

Empty models on the meta device tell; no weight is read.
"""

from __future__ import annotations

from typing import Any

from moee_index.model.checkpoint.find import Checkpoint

# What configs call the number of experts that a token is given to.
_CHOSEN = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_top_k", "top_k_experts")


def count_parameters(checkpoint: Checkpoint) -> dict[str, Any]:
    """Weights of the base model, the language-model head aside, which is never read.

    parameters: all of them. embedding_parameters: the token embeddings. active_parameters: what one
    token meets, embeddings aside, with the experts that its router chooses; None where the
    architecture does not tell how many these are.

    Raises ModelError where transformers knows no such architecture.
    """
    from moee_index.model.arch.build import build_empty

    plan = build_empty(checkpoint)
    model = plan.model
    total = sum(parameter.numel() for parameter in model.parameters())
    embedding = model.get_input_embeddings().weight.numel()
    chosen = _chosen(model, plan.routers)
    active: int | None = None
    if chosen is not None and plan.expert_stacks:
        idle = 0
        for stack in plan.expert_stacks:
            experts = stack.value.shape[0]
            idle += stack.value.numel() // experts * max(experts - chosen, 0)
        active = total - embedding - idle
    return {
        "parameters": total,
        "embedding_parameters": embedding,
        "active_parameters": active,
    }


def _chosen(model: Any, routers: Any) -> int | None:
    for name in _CHOSEN:
        found = getattr(model.config, name, None)
        if isinstance(found, int) and found > 0:
            return found
    for router in routers:
        found = getattr(router.module, "top_k", None)
        if isinstance(found, int) and found > 0:
            return found
    return None
