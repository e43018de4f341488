"""From a config to an empty model and its plan: which class it is, where the text model is in it.

The classes are transformers'; DeepSeekMoE v1, which has none there, runs in another's. The model is
built on the meta device: no weight exists yet.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from moee_index.backends import load_transformers
from moee_index.errors import MisuseError, ModelError
from moee_index.model.arch import conventions, experts
from moee_index.model.arch.config import config_errors, config_of
from moee_index.model.arch.routing import find_routers
from moee_index.model.arch.select import ModelPlan, plan_model
from moee_index.model.checkpoint.find import Checkpoint
from moee_index.model.checkpoint.keys import naming_of

RW_KINDS = ("auto", "softmax", "sigmoid", "logits")


def build_empty(checkpoint: Checkpoint) -> ModelPlan:
    """The plan of a checkpoint's base model (no language-model head), which is on the meta device;
    of a multi-modal checkpoint only the text model is built.

    Raises ModelError if transformers does not have the architecture, if it has no routers, or if it
    is not a causal decoder.
    """
    load_transformers().logging.set_verbosity_error()
    experts.register()
    config = config_of(checkpoint)
    with config_errors(checkpoint):
        return _build(checkpoint, config)


def _build(checkpoint: Checkpoint, config: Any) -> ModelPlan:
    text = config.get_text_config(decoder=True)
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"{checkpoint.name} ({config.model_type}) is an encoder with a decoder; give --model a "
            "decoder such as OLMoE, whose last token has seen the whole text"
        )
    full_class = _full_class(config, checkpoint)
    if full_class is None:
        model = _on_meta(_base_class(text, checkpoint), text)
        naming = naming_of(model)
    else:
        full = _on_meta(full_class, config)
        inner, model = _text_part(full, text, checkpoint)
        _check_causal(full, text, checkpoint)
        naming = naming_of(full, inner)
    model.eval()
    _choose_implementations(model)
    _materialize_buffers(model, checkpoint)
    plan = plan_model(model, naming)
    if not plan.routers:
        raise ModelError(
            f"{checkpoint.name} ({checkpoint.config.get('model_type')}) is a dense model: it has "
            "no router and so no routing weights; give --model a Mixture-of-Experts model"
        )
    _check_causal(model, text, checkpoint)
    return plan


def rw_kind(requested: str, checkpoint: Checkpoint, plan: ModelPlan | None = None) -> str:
    """The kind of RW behind `auto`: softmax for DeepSeek v1, logits for all others, as in the
    paper's code (the paper itself, section 3.1, says softmax).

    Every kind is made of a router's scores for all experts, before any bias that corrects its
    choice, and before the choice. `sigmoid` is for routers that score by sigmoid. plan: of the
    checkpoint's model, if there is one already.
    """
    if requested not in RW_KINDS:
        raise MisuseError(f"--rw {requested!r} is unknown; known: {', '.join(RW_KINDS)}")
    if requested == "auto":
        return "softmax" if checkpoint.config.get("model_type") == "deepseek" else "logits"
    if requested == "sigmoid" and not has_sigmoid_scores(checkpoint, plan):
        raise MisuseError(
            f"--rw sigmoid: the router of {checkpoint.name} does not score by sigmoid; "
            "take softmax or logits"
        )
    return requested


def has_sigmoid_scores(checkpoint: Checkpoint, plan: ModelPlan | None = None) -> bool:
    """Whether a checkpoint's router scores by sigmoid: its text model's config says so or, if that
    is silent, its router's class."""
    text = config_of(checkpoint).get_text_config(decoder=True)
    for name in conventions.SCORING_FUNCTION:
        if (function := getattr(text, name, None)) is not None:
            return bool(function == "sigmoid")
    plan = plan or build_empty(checkpoint)
    return any(conventions.scores_by_sigmoid(plan.model, router.name) for router in plan.routers)


class _OnMeta(TorchFunctionMode):
    """Keeps from the meta device the arithmetic of small tensors, which imports torch's compiler
    there: ranges, and what is made of them, are on the processor for the time being; normal
    numbers, which nobody will see, are not drawn."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        named = kwargs or {}
        if function is torch.nn.init.normal_:
            return named["tensor"] if "tensor" in named else args[0]
        if function is torch.arange and named.get("device") is None:
            named = {**named, "device": "cpu"}
        return function(*args, **named)


def _on_meta(model_class: Any, config: Any) -> Any:
    try:
        with torch.device("meta"), _OnMeta():
            return _without_values(model_class(config))
    except RuntimeError:  # ranges meet tensors of the meta device
        with torch.device("meta"):
            return model_class(config)


def _without_values(model: Any) -> Any:
    """A model whose tensors are all on the meta device."""
    made: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for name, value in held.items():
                if value is None or value.is_meta:
                    continue
                empty = torch.empty(value.shape, dtype=value.dtype, device="meta")
                if held is module._parameters:
                    empty = torch.nn.Parameter(empty, requires_grad=value.requires_grad)
                held[name] = made.setdefault(id(value), empty)
    return model


def _base_class(config: Any, checkpoint: Checkpoint) -> Any:
    """The class of a text model without a head: registered, or of its config's package."""
    from transformers import AutoModel

    try:
        return _first(AutoModel._model_mapping[type(config)])
    except KeyError:
        return _unregistered_class(config, checkpoint)


def _unregistered_class(config: Any, checkpoint: Checkpoint) -> Any:
    """The class for a text config that is only registered as a part of another."""
    module = importlib.import_module(conventions.modeling_module(config))
    for _, candidate in inspect.getmembers(module, inspect.isclass):
        if conventions.is_headless_class(candidate, config):
            return candidate
    raise ModelError(f"{checkpoint.name}: transformers has no text model for {config.model_type!r}")


def _full_class(config: Any, checkpoint: Checkpoint) -> Any:
    """The class with a head, or of several components, that checkpoints of a config are saved from
    and named after; None if transformers does not have it."""
    import transformers

    for name in checkpoint.config.get("architectures") or []:
        named = getattr(transformers, name, None)
        if named is not None and getattr(named, "config_class", None) is type(config):
            return named
    for auto in (transformers.AutoModelForMultimodalLM, transformers.AutoModelForCausalLM):
        if type(config) in auto._model_mapping:
            return _first(auto._model_mapping[type(config)])
    return None


def _first(classes: Any) -> Any:
    """The main class of a mapping's entry, which may name several."""
    return classes[0] if isinstance(classes, (list, tuple)) else classes


def _text_part(full: Any, text: Any, checkpoint: Checkpoint) -> tuple[str, Any]:
    """(name, module) of the text model without a head in a full model."""
    from transformers import PreTrainedModel

    candidates = [
        (name, module)
        for name, module in full.named_modules()
        if isinstance(module, PreTrainedModel)
        and type(module.config) is type(text)
        and module.base_model is module
    ]
    if candidates:
        return min(
            candidates, key=lambda part: (not find_routers(part[1]), conventions.has_head(part[1]))
        )
    raise ModelError(
        f"{checkpoint.name} ({full.config.model_type}): it has no text model; give --model a text "
        "model"
    )


def _choose_implementations(model: Any) -> None:
    """Our experts, and torch's attention if a model's class supports it (it has no sinks)."""
    attention = "sdpa" if getattr(model, "_supports_sdpa", False) else "eager"
    for module in model.modules():
        config = getattr(module, "config", None)
        if config is not None:
            config._attn_implementation = attention
            config._experts_implementation = experts.IMPLEMENTATION


def _materialize_buffers(model: Any, checkpoint: Checkpoint) -> None:
    """Compute the buffers that are not part of a checkpoint (rotary frequencies)."""
    for name, module in model.named_modules():
        absent = {
            key: buffer
            for key, buffer in module.named_buffers(recurse=False)
            if buffer.is_meta and key in module._non_persistent_buffers_set
        }
        for key, buffer in absent.items():
            unset = torch.nan if buffer.is_floating_point() else 0
            module._buffers[key] = torch.full(buffer.shape, unset, dtype=buffer.dtype)
        if absent:
            model._init_weights(module)
        for key in absent:
            if bool(module._buffers[key].isnan().any()):
                raise ModelError(
                    f"{checkpoint.path / 'config.json'}: {name}.{key} comes out as no number: a "
                    "value that it is computed from (as rope_theta) is wrong, or transformers does "
                    "not say how it is computed; please report the latter"
                )


def _check_causal(model: Any, text: Any, checkpoint: Checkpoint) -> None:
    """Raise ModelError if an attention of the text model, or of another with the same config (the
    decoder of a diffusion model), attends in both directions."""
    for name, module in model.named_modules():
        if (
            conventions.is_attention(module)
            and type(getattr(module, "config", text)) is type(text)
            and not getattr(module, "is_causal", True)
        ):
            raise ModelError(
                f"{checkpoint.name} ({model.config.model_type}) is not a causal decoder: {name} "
                "looks both ways; give --model a decoder, whose last token has seen the whole text"
            )
