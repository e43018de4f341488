"""What is taken for granted about transformers' classes: their names, their attributes, and how
their sources are written.

Nothing in the library promises these, so they stand together, each with its reason. No architecture
is named; `tests/tested_architectures.py` measures every one that is installed.
"""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

# Modules in which tokens of a text meet. No class says so of itself, only its name does.
_MIXERS = re.compile("Attention|MLA|Conv|Mamba|DeltaNet|Mixer|Recurrent")

# How a modeling file shows that its models record routers, or have experts behind the experts
# interface. Sources are read because importing every model would take minutes.
_ROUTES = re.compile(rb'"router_logits":\s|def _apply_gate\b|@use_experts_implementation')

# What configs call the function that turns router logits into scores.
SCORING_FUNCTION = ("scoring_func", "score_function")

# What configs call the number of experts a token takes, and a usual one.
_EXPERTS_A_TOKEN = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_top_k")
_USUAL_EXPERTS_A_TOKEN = 8

# What a forward calls keys and values of earlier tokens: since transformers 5.24, and before.
_CACHE_ARGUMENTS = ("cache", "past_key_values")

# Arguments of an attention that have one entry a position: in which dimensions, and of how many.
# An attention with any other tensor among its arguments is not cut into texts.
POSITION_ARGUMENTS = {
    "hidden_states": ((1,), 3),
    "position_embeddings": ((1,), 3),
    "position_ids": ((1,), 2),
    "attention_mask": ((2, 3), 4),
}


def is_norm(module: nn.Module) -> bool:
    """Whether a module normalizes each row by itself. Norms have no common base class."""
    name = type(module).__name__
    return name.endswith("Norm") and [value.dim() for value in module.parameters()] == [1]


def is_attention(module: nn.Module) -> bool:
    """Whether a module is a whole attention. Attentions have no common base class."""
    return type(module).__name__.endswith("Attention")


def writes_scores(attention: nn.Module) -> bool:
    """Whether an attention writes out a score for each pair of tokens."""
    config = getattr(attention, "config", None)
    return config is not None and bool(config._attn_implementation == "eager")


def experts_a_token(config: Any) -> int:
    """How many experts a token takes, for sizes alone."""
    found = (getattr(config, name, None) for name in _EXPERTS_A_TOKEN)
    return next((value for value in found if isinstance(value, int)), _USUAL_EXPERTS_A_TOKEN)


def mixes_tokens(module: nn.Module) -> bool:
    """Whether a module's output for a token depends on other tokens."""
    return _MIXERS.search(type(module).__name__) is not None


def uses_interface(module: nn.Module) -> bool:
    """Whether a module's forward is that of transformers' experts interface, and so ours. The
    decorator that registers such a class sets these attributes and no base class."""
    return hasattr(module, "has_gate") and hasattr(module, "num_experts")


def holds_experts(module: nn.Module) -> bool:
    """Whether a module keeps fused experts; without the experts interface its name alone says so
    where they lie side by side in two dimensions."""
    return uses_interface(module) or "Expert" in type(module).__name__


def is_block(router: nn.Module) -> bool:
    """Whether a recorded router is a whole block, with its experts, and not the router alone."""
    return any("experts" in name for name, _ in router.named_modules())


def is_gate(name: str) -> bool:
    """Whether the module of a block under this name scores experts."""
    leaf = name.rpartition(".")[2]
    return leaf == "gate" or "router" in leaf


def scores_by_sigmoid(model: Any, router: str) -> bool:
    """Whether the router under this name, or a method `route…` of the block around it, is written
    with a sigmoid. Where a config does not name the scoring function, only the source does."""
    block = type(model.get_submodule(router.rpartition(".")[0]))
    methods = [getattr(block, name) for name in dir(block) if name.startswith("route")]
    code = [type(model.get_submodule(router)), *methods]
    return any("sigmoid(" in inspect.getsource(part) for part in code)


def decoder_layers(model: Any) -> Any:
    """The layers of a text model; empty where it keeps them under another name."""
    return getattr(model, "layers", None) or ()


def has_head(model: nn.Module) -> bool:
    """Whether a text model has a head. Some such classes take themselves for their own base."""
    return "For" in type(model).__name__


def is_headless_class(candidate: type, config: Any) -> bool:
    """Whether a class is the model without a head for a config, where none is registered."""
    name = candidate.__name__
    if getattr(candidate, "config_class", None) is not type(config):
        return False
    return name.endswith("Model") and not name.endswith("PreTrainedModel")


def modeling_module(config: Any) -> str:
    """The module with the classes for a config, where none is registered."""
    return type(config).__module__.replace(".configuration_", ".modeling_")


def routes_in_source(source: bytes) -> bool:
    """Whether a modeling file has models that route."""
    return _ROUTES.search(source) is not None


def cache_argument(model: Any) -> str | None:
    """The name of the argument for keys and values of earlier tokens; None if there is none."""
    taken = inspect.signature(model.forward).parameters
    return next((name for name in _CACHE_ARGUMENTS if name in taken), None)
