"""Which modules of a model route, and how they score.

Routers are found by what transformers' classes record (`_can_record_outputs`); no architecture is
named.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from moee_index.dependencies import internal, lacking
from moee_index.errors import ModelError


@dataclass(frozen=True)
class Router:
    """A routing module: its output (or item `index` of it) is router logits [tokens, experts]."""

    name: str
    module: nn.Module
    index: int


def find_routers(model: Any) -> list[Router]:
    """The routing modules of a model in layer order, as transformers records `router_logits`.

    Those inside an attention (JetMoE's mixture of attention heads) choose heads, not experts of
    the feed-forward part, and are no RW (paper, section 3.1).
    """
    if not hasattr(model, "_can_record_outputs"):
        raise lacking("transformers", "does not say which modules route (_can_record_outputs)")
    recorded = model._can_record_outputs or {}
    attention = tuple(
        spec.target_class
        for spec in _specs(recorded.get("attentions"), 1)
        if spec.target_class is not None
    )
    found: list[Router] = []
    within: str | None = None
    for name, module in model.named_modules():
        if within is not None and name.startswith(within):
            continue
        if isinstance(module, attention):
            within = f"{name}."
            continue
        for spec in _specs(recorded.get("router_logits"), 1):
            if spec.target_class is not None and not isinstance(module, spec.target_class):
                continue
            if spec.target_class is None and not name.endswith(str(spec.class_name)):
                continue
            layer = f".{spec.layer_name.strip('.')}." if spec.layer_name else "."
            if layer in f".{name}.":
                found.append(Router(name, module, spec.index))
    return found


def _specs(recorded: Any, index: int) -> list[Any]:
    """What a class records under one name, as recorders; `index`: where a bare class records."""
    OutputRecorder = internal(
        "transformers", "transformers.utils.output_capturing", "OutputRecorder"
    )
    specs = recorded if isinstance(recorded, list) else [recorded]
    return [
        spec
        if isinstance(spec, OutputRecorder)
        else OutputRecorder(target_class=None, class_name=spec, index=index)
        if isinstance(spec, str)
        else OutputRecorder(target_class=spec, index=index)
        for spec in specs
        if spec is not None
    ]


def routing_linears(routers: list[Router]) -> set[nn.Module]:
    """The linear modules that score experts; they stay in 16 bits.

    A recorded module is the router itself, unless it holds experts too: then its gates are.
    """
    found: set[nn.Module] = set()
    for router in routers:
        holds_experts = any("experts" in name for name, _ in router.module.named_modules())
        for name, module in router.module.named_modules():
            leaf = name.rpartition(".")[2]
            if not holds_experts or leaf == "gate" or "router" in leaf:
                found.add(module)
    return found


def raw_scores(router: Router, probe: torch.Tensor) -> Router:
    """The module that gives a router's scores as they are: the router itself, or where it gives
    probabilities (Gemma 4's does) the linear in it that they are made of.

    probe: some of the router's outputs [tokens, experts]. Raises ModelError where there is none.
    """
    sums = probe.float().sum(-1)
    if bool((probe < 0).any()) or not torch.allclose(sums, torch.ones_like(sums), atol=1e-2):
        return router
    scoring = [
        (f"{router.name}.{name}", module)
        for name, module in router.module.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == probe.shape[-1]
    ]
    if len(scoring) != 1:
        raise ModelError(
            f"{router.name} gives probabilities and does not show the scores they are made of; "
            "please report it, and take another model"
        )
    return Router(*scoring[0], 0)


def scores_by_sigmoid(model: Any) -> bool:
    """Whether a model's routers turn logits into scores by a sigmoid, as their classes, or the
    methods `route…` of the modules around them, are written."""
    for router in find_routers(model):
        around = type(model.get_submodule(router.name.rpartition(".")[0]))
        written = [type(router.module)]
        written += [getattr(around, name) for name in dir(around) if name.startswith("route")]
        if any("sigmoid(" in inspect.getsource(one) for one in written):
            return True
    return False
