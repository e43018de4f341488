"""From a config to an empty model: which class, which module routes, which matrix becomes 4-bit.

Knows transformers' classes and what they record (`_can_record_outputs`), not lists of names. The
model is built on the meta device: no weight exists yet. Reads no weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from moee_index.errors import MisuseError, ModelError
from moee_index.model import experts
from moee_index.model.checkpoint import Checkpoint

RW_KINDS = ("auto", "softmax", "sigmoid", "logits")


@dataclass(frozen=True)
class Router:
    """A routing module: its output (or item `index` of it) is router logits [tokens, experts]."""

    name: str
    module: nn.Module
    index: int


def build_empty(checkpoint: Checkpoint) -> Any:
    """The base model (no language-model head) of a checkpoint, on the meta device.

    Raises ModelError where transformers knows no such architecture, or where it has no routers.
    """
    from transformers import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    experts.register()
    config = _config_of(checkpoint)
    config._attn_implementation = "sdpa"
    config._experts_implementation = experts.IMPLEMENTATION
    model_class = _base_class(config, checkpoint)
    with torch.device("meta"):
        model = model_class(config)
    model.eval()
    _materialise_rotary(model)
    if not find_routers(model):
        raise ModelError(
            f"{checkpoint.name} ({checkpoint.config.get('model_type')}) is a dense model: it has "
            "no router and so no routing weights; give --model a Mixture-of-Experts model"
        )
    return model


def find_routers(model: Any) -> list[Router]:
    """The routing modules of a model in layer order, as transformers records `router_logits`."""
    from transformers.utils.output_capturing import OutputRecorder

    specs = (type(model)._can_record_outputs or {}).get("router_logits", [])
    found: list[Router] = []
    for spec in specs if isinstance(specs, list) else [specs]:
        if not isinstance(spec, OutputRecorder):
            spec = OutputRecorder(target_class=spec, index=1)
        for name, module in model.named_modules():
            if spec.target_class is not None and not isinstance(module, spec.target_class):
                continue
            if spec.target_class is None and not name.endswith(str(spec.class_name)):
                continue
            layer = f".{spec.layer_name.strip('.')}." if spec.layer_name else "."
            if layer in f".{name}.":
                found.append(Router(name, module, spec.index))
    return found


def rw_kind(asked: str, checkpoint: Checkpoint) -> str:
    """The kind of RW behind `auto`: softmax for DeepSeek v1, logits for all others, as the
    paper's code has it (the paper itself, section 3.1, says softmax)."""
    if asked not in RW_KINDS:
        raise MisuseError(f"--rw {asked!r} is unknown; known: {', '.join(RW_KINDS)}")
    config = checkpoint.config
    if asked == "auto":
        return "softmax" if config.get("model_type") == "deepseek" else "logits"
    scoring = config.get("scoring_func") or config.get("score_function")
    if asked == "sigmoid" and scoring != "sigmoid":
        raise MisuseError(
            f"--rw sigmoid: the router of {checkpoint.name} does not score by sigmoid; "
            "take softmax or logits"
        )
    return asked


def quantisable_linears(model: Any, routers: list[Router]) -> list[tuple[str, nn.Linear]]:
    """The matrices that 4 bits are for, experts aside: attention and dense or shared MLPs.

    Routers and gates with a single output (shared-expert gates) stay in 16 bits.
    """
    routing = tuple(router.name for router in routers)
    return [
        (name, module)
        for name, module in model.named_modules()
        if type(module) is nn.Linear
        and module.out_features > 1
        and not any(name == router or name.startswith(f"{router}.") for router in routing)
    ]


def expert_stacks(model: Any) -> list[tuple[str, nn.Module, str]]:
    """(parameter name, experts module, attribute) of each fused 3-D expert parameter."""
    return [
        (f"{name}.{attribute}", module, attribute)
        for name, module in model.named_modules()
        if hasattr(module, "has_gate") and hasattr(module, "num_experts")
        for attribute, parameter in module.named_parameters(recurse=False)
        if parameter.dim() == 3
    ]


def _config_of(checkpoint: Checkpoint) -> Any:
    from transformers import AutoConfig

    if checkpoint.config.get("model_type") == "deepseek":
        return _deepseek_v1_config(checkpoint)
    try:
        config = AutoConfig.from_pretrained(
            checkpoint.path, local_files_only=True, trust_remote_code=False
        )
    except (ValueError, KeyError, OSError, TypeError) as error:
        kind = checkpoint.config.get("model_type")
        raise ModelError(
            f"{checkpoint.path / 'config.json'}: transformers cannot read a model of type "
            f"{kind!r}: {str(error).strip().splitlines()[0]}"
        ) from error
    return config.get_text_config(decoder=True)


def _deepseek_v1_config(checkpoint: Checkpoint) -> Any:
    """DeepSeekMoE-16B's config (`model_type: deepseek`), which transformers has no class for.

    The text part of deepseek_ocr2 is the same network: multi-head attention, softmax-greedy
    routing without renormalisation, shared experts, dense first layers.
    """
    from transformers.models.deepseek_ocr2.configuration_deepseek_ocr2 import DeepseekOcr2TextConfig

    given = checkpoint.config
    for key, must in (("norm_topk_prob", False), ("scoring_func", "softmax")):
        if given.get(key, must) != must:
            raise ModelError(
                f"{checkpoint.path / 'config.json'}: {key}={given[key]!r} is not DeepSeekMoE v1"
            )
    layers = given["num_hidden_layers"]
    first, every = given.get("first_k_dense_replace", 0), given.get("moe_layer_freq", 1)
    kept = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "moe_intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "hidden_act",
        "max_position_embeddings",
        "rms_norm_eps",
        "n_routed_experts",
        "n_shared_experts",
        "num_experts_per_tok",
        "attention_bias",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
    )
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": given.get("rope_theta", 10000.0)}
    if given.get("rope_scaling"):
        rope |= given["rope_scaling"]
    return DeepseekOcr2TextConfig(
        **{key: given[key] for key in kept if key in given},
        topk_method="greedy",
        routed_scaling_factor=given.get("routed_scaling_factor", 1.0),
        rope_parameters=rope,
        mlp_layer_types=[
            "sparse" if layer >= first and layer % every == 0 else "dense"
            for layer in range(layers)
        ],
    )


def conversions_of(model: Any) -> list[Any]:
    """transformers' renamings and converters from checkpoint names to this model's names."""
    from transformers.conversion_mapping import (
        get_checkpoint_conversion_mapping,
        get_model_conversion_mapping,
    )

    found = get_model_conversion_mapping(model)
    if type(model).__name__ == "DeepseekOcr2TextModel":
        # As a vision model's inner class it has no mapping of its own: without this one it would
        # load with random experts.
        found = [*get_checkpoint_conversion_mapping("qwen2_moe"), *found]
    return list(found)


def _base_class(config: Any, checkpoint: Checkpoint) -> Any:
    from transformers import AutoModel

    if config.model_type == "deepseek_ocr2_text":
        from transformers.models.deepseek_ocr2 import modeling_deepseek_ocr2

        return modeling_deepseek_ocr2.DeepseekOcr2TextModel
    try:
        found = AutoModel._model_mapping[type(config)]
    except KeyError:
        raise ModelError(
            f"{checkpoint.name}: transformers has no text model for {config.model_type!r}"
        ) from None
    return found[0] if isinstance(found, (list, tuple)) else found


def _materialise_rotary(model: Any) -> None:
    """Compute the buffers that are not part of a checkpoint (rotary frequencies) for real."""
    for module in model.modules():
        lost = [name for name, buffer in module.named_buffers(recurse=False) if buffer.is_meta]
        if not lost:
            continue
        for name in lost:
            buffer = getattr(module, name)
            setattr(module, name, torch.empty_like(buffer, device="cpu"))
        model._init_weights(module)
