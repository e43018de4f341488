"""Which modules of a model route, and which of them give scores.

Routers are found by what transformers' classes record (`_can_record_outputs`); no architecture is
named.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from moee_index.dependencies import internal, lacking
from moee_index.errors import ModelError
from moee_index.model.arch.conventions import is_block, is_gate


@dataclass(frozen=True)
class Router:
    """A routing module: its output (or item `index` of it) is router logits [tokens, experts]."""

    name: str
    module: nn.Module
    index: int


def find_routers(model: Any) -> list[Router]:
    """The routing modules of a model in layer order, as transformers records `router_logits`.

    Those inside an attention (JetMoE's mixture of attention heads) choose heads, not experts of
    the feed-forward part, and do not count as RW (paper, section 3.1).
    """
    if not hasattr(model, "_can_record_outputs"):
        raise lacking("transformers", "does not say which modules route (_can_record_outputs)")
    recorded = model._can_record_outputs or {}
    attention = tuple(
        spec.target_class
        for spec in _specs(recorded.get("attentions"), 1)
        if spec.target_class is not None
    )
    routers: list[Router] = []
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
                routers.append(Router(name, module, spec.index))
    return routers


def _specs(recorded: Any, index: int) -> list[Any]:
    """What a class records under one name, as recorders. index: the output of a class alone."""
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


def routing_modules(routers: list[Router]) -> set[nn.Module]:
    """The modules that score experts: a recorded router with all its parts, or the gates of a
    recorded block."""
    routing: set[nn.Module] = set()
    for router in routers:
        block = is_block(router.module)
        routing.update(
            module for name, module in router.module.named_modules() if not block or is_gate(name)
        )
    return routing


def raw_scores(router: Router, probe: torch.Tensor) -> Router:
    """The module that gives a router's raw scores: the router itself or, where it gives
    probabilities (as Gemma 4's does), the linear in it that they are computed from.

    probe: some of the router's outputs [tokens, experts]. Raises ModelError if there is none.
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
            f"{router.name} gives probabilities and does not show the scores behind them; "
            "please report it, and take another model"
        )
    return Router(*scoring[0], 0)
