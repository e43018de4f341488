"""Which matrices of a model become 4-bit, and which stay in 16 bits by design.

In 4 bits: attention projections, dense and shared MLPs, routed experts, whatever class keeps them.
In 16 bits: embeddings, norms, routers, gates with one output, biases, convolutions and the state of
state spaces. Modules are judged by what they are, not by name.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn

from moee_index.model.arch.routing import Router, find_routers, routing_linears


class Matrix(NamedTuple):
    """A parameter of `module`. name: with its path."""

    name: str
    module: nn.Module
    attribute: str


def uses_interface(module: nn.Module) -> bool:
    """Whether a module's forward is that of transformers' experts interface, hence ours."""
    return hasattr(module, "has_gate") and hasattr(module, "num_experts")


def quantisable_linears(model: Any, routers: list[Router]) -> list[tuple[str, nn.Linear]]:
    """Attention projections, dense and shared MLPs: what multiplies with `nn.Linear`.

    Routers and gates with a single output (shared-expert gates) stay in 16 bits.
    """
    routing = routing_linears(routers)
    return [
        (name, module)
        for name, module in model.named_modules()
        if type(module) is nn.Linear and module.out_features > 1 and module not in routing
    ]


def expert_stacks(model: Any) -> list[tuple[str, nn.Module, str]]:
    """(parameter name, experts module, attribute) of each fused 3-D expert parameter of the
    experts interface."""
    return [
        (f"{name}.{attribute}", module, attribute)
        for name, module in model.named_modules()
        if uses_interface(module)
        for attribute, parameter in module.named_parameters(recurse=False)
        if parameter.dim() == 3
    ]


def own_matrices(model: Any) -> list[Matrix]:
    """Matrices that their module's own forward multiplies with: subclasses of `nn.Linear`, and
    experts, fused in three dimensions or in two, that do not use the experts interface."""
    routing = routing_linears(find_routers(model))
    found = []
    for name, module in model.named_modules():
        if module in routing or uses_interface(module) or type(module) is nn.Linear:
            continue
        linear = isinstance(module, nn.Linear)
        fused = 2 if "Expert" in type(module).__name__ else 3
        for attribute, parameter in module.named_parameters(recurse=False):
            if linear:
                fits = attribute == "weight" and parameter.shape[0] > 1
            else:
                fits = parameter.dim() >= fused and not _stays(module)
            if fits and parameter.dim() in (2, 3) and min(parameter.shape[-2:]) > 1:
                found.append(Matrix(f"{name}.{attribute}".lstrip("."), module, attribute))
    return found


def left_in_16_bits(model: Any) -> list[Matrix]:
    """Matrices of a 4-bit model that are neither in 4 bits nor among what stays by design."""
    routing = routing_linears(find_routers(model))
    found = []
    for name, module in model.named_modules():
        if module in routing or _stays(module):
            continue
        kept = list(module.named_parameters(recurse=False))
        if uses_interface(module) or "Expert" in type(module).__name__:
            kept += module.named_buffers(recurse=False)
        for attribute, value in kept:
            if not value.is_floating_point() or value.dim() < 2:
                continue
            if min(value.shape[-2:]) > 1 and not attribute.endswith("bias"):
                found.append(Matrix(f"{name}.{attribute}".lstrip("."), module, attribute))
    return found


def _stays(module: nn.Module) -> bool:
    """Whether a module's parameters stay in 16 bits: embeddings and convolutions."""
    from moee_index.model.nf4.stack import NF4Stack

    return isinstance(
        module,
        nn.Embedding | nn.Conv1d | nn.Conv2d | nn.Conv3d | NF4Stack,
    )
