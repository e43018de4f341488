"""Which module of a model is what: its routers, its experts, and the matrices that become 4-bit.

In 4 bits: attention projections, dense and shared MLPs, routed experts, whatever class keeps them.
In 16 bits: embeddings, norms, routers, gates with one output, biases, convolutions and the state of
state spaces. Modules are judged by what they are; where only a name tells, `conventions` is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from moee_index.model.arch import conventions
from moee_index.model.arch.routing import Router, find_routers, routing_modules
from moee_index.model.checkpoint.keys import Naming

# Classes whose parameters stay in 16 bits.
STAYS = (nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Matrix(NamedTuple):
    """A tensor of `module`. name: with its path."""

    name: str
    module: nn.Module
    attribute: str

    @property
    def value(self) -> torch.Tensor:
        return getattr(self.module, self.attribute)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class ModelPlan:
    """What the modules of a model are, found once, before anything of it becomes 4-bit.

    routers: in layer order. routing: the modules that score experts; they stay in 16 bits. experts:
    modules of the experts interface, whose forward is ours. skipping: those among them that may
    skip tokens which are not pooled.

    expert_stacks: fused 3-D parameters of `experts`. linears: weights of `nn.Linear`. own_matrices:
    what a module's own forward multiplies with, be it a subclass of `nn.Linear` or experts, fused
    in three dimensions or in two, that do not use the experts interface.

    norms, attentions: what can run block by block.
    """

    model: Any
    naming: Naming
    routers: tuple[Router, ...]
    routing: frozenset[nn.Module]
    experts: tuple[Any, ...]
    skipping: tuple[Any, ...]
    expert_stacks: tuple[Matrix, ...]
    linears: tuple[Matrix, ...]
    own_matrices: tuple[Matrix, ...]
    norms: tuple[nn.Module, ...]
    attentions: tuple[nn.Module, ...]


def plan_model(model: Any, naming: Naming) -> ModelPlan:
    """The plan of an empty model. naming: how its checkpoint is named."""
    routers = find_routers(model)
    routing = routing_modules(routers)
    recorded = {router.module for router in routers}
    modules = list(model.named_modules())
    experts = [(name, module) for name, module in modules if conventions.uses_interface(module)]
    rest = [pair for pair in modules if pair not in experts and pair[1] not in routing]
    return ModelPlan(
        model=model,
        naming=naming,
        routers=tuple(routers),
        routing=frozenset(routing),
        experts=tuple(module for _, module in experts),
        skipping=_skipping(model),
        expert_stacks=_matrices(experts, lambda _module, _name, value: value.dim() == 3),
        linears=_matrices(rest, _is_linear_weight),
        own_matrices=_matrices(rest, _is_own_matrix),
        norms=tuple(module for _, module in modules if conventions.is_norm(module)),
        attentions=tuple(
            module
            for _, module in modules
            if conventions.is_attention(module) and recorded.isdisjoint(module.modules())
        ),
    )


def _matrices(
    modules: Iterable[tuple[str, nn.Module]],
    matches: Callable[[nn.Module, str, nn.Parameter], bool],
) -> tuple[Matrix, ...]:
    return tuple(
        Matrix(f"{name}.{attribute}".lstrip("."), module, attribute)
        for name, module in modules
        for attribute, parameter in module.named_parameters(recurse=False)
        if matches(module, attribute, parameter)
    )


def _is_linear_weight(module: nn.Module, attribute: str, parameter: nn.Parameter) -> bool:
    """Gates with a single output (shared-expert gates) stay in 16 bits."""
    return type(module) is nn.Linear and attribute == "weight" and parameter.shape[0] > 1


def _is_own_matrix(module: nn.Module, attribute: str, parameter: nn.Parameter) -> bool:
    if type(module) is nn.Linear or parameter.dim() not in (2, 3) or min(parameter.shape[-2:]) < 2:
        return False
    if isinstance(module, nn.Linear):
        return attribute == "weight"
    fused = parameter.dim() == 3 or conventions.holds_experts(module)
    return fused and not isinstance(module, STAYS)


def _skipping(model: Any) -> tuple[nn.Module, ...]:
    """Experts of the last layer, if its one attention precedes them. Only then does nobody read
    what they make of tokens that are not pooled."""
    layers = conventions.decoder_layers(model)
    mixers: list[str] = []
    experts: list[nn.Module] = []
    for name, module in layers[-1].named_modules() if layers else ():
        if conventions.uses_interface(module):
            if not mixers:
                return ()
            experts.append(module)
        inside = any(name.startswith(f"{mixer}.") for mixer in mixers)
        if name and not inside and conventions.mixes_tokens(module):
            mixers.append(name)
    return tuple(experts) if len(mixers) == 1 else ()
