"""Tiny random checkpoints of every Mixture-of-Experts architecture that transformers knows.

What a kind of checkpoint is made with is looked up in the installed library, sizes follow from the
rules of its config class: a new release's new architecture can be made here as it comes. Knows
transformers' classes and configs; knows nothing of the program under test.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers
from safetensors.torch import save_file
from transformers.models.auto.configuration_auto import (
    CONFIG_MAPPING,
    CONFIG_MAPPING_NAMES,
    model_type_to_module_name,
)

VOCABULARY = 128

# DeepSeekMoE v1, which transformers has no config for (see `_write_deepseek_v1`).
DEEPSEEK = "deepseek"

# Published sizes to tiny ones, by the names that configs share: the first pattern that fits.
_SIZES: tuple[tuple[str, int], ...] = (
    (r"vocab_size|vocab_size_per_layer_input", VOCABULARY),
    (r"unpadded_vocab_size", VOCABULARY - 8),
    (r"(adapter_)?(hidden|embed(ding)?|model|in|out|text_hidden|out_hidden|output)_(size|dim)", 64),
    (r"d_model|n_embd|adapter_input_size|output_proj_dims|ple_embed_dim", 64),
    (r"num_hidden_layers|num_layers|n_layers|(en|de)coder_layers", 4),
    (r"depth|patch_size|mel_vocab_size", 4),
    (r"downsample_hidden_size|output_channels", 16),
    (r"index_topk|index_kpool", 4),
    # with few heads many scores of an indexer are the same zero, and which one wins is chance
    (r"index_n_heads", 32),
    (r"position_embedding_size|num_position_embeddings|num_embeddings|image_size", 64),
    (r"\w*projector\w*_(size|dim)|\w*projection\w*_(size|dim)|conv_channels|\w*mlp\w*_size", 64),
    (r"first_k_dense_replace|num_dense_layers|moe_layer_start_index", 1),
    (r"num_(attention_)?heads|n_heads?|num_sliding_attention_heads|encoder_attention_heads", 4),
    (r"linear_num_(key_|value_)?heads|linear_num_heads|decoder_attention_heads", 4),
    (r"num_key_value_heads|swa_num_key_value_heads|kv_n_heads", 2),
    (r"(\w+_)?head_dim|kv_channels", 16),
    (r"[qo]_lora_rank|kv_lora_rank|hc_lowrank|o_groups", 32),
    (r"num_(local_|routed_)?experts|n_routed_experts|moe_num_experts|num_moe_experts", 8),
    (r".*experts_per_tok(en)?|top_k(_experts)?|moe_(top_?k|k)|num_experts_per_token", 2),
    (r"n_group|num_expert_groups?", 2),
    (r"topk_group|num_limited_groups", 1),
    (r".*(shared|moe|expert|ffn|mlp).*_(size|dim)|(en|de)coder_ffn_dim|d_ff", 64),
    (r".*intermediate_size.*", 96),
    (r"max_position_embeddings|max_seq_len", 512),
    (r"sliding_window|attention_chunk_size|sliding_window_size", 8),
    (r"mamba_n_heads|mamba_num_heads|ssm_n_heads", 8),
    (r"mamba_d_head", 16),
    (r"mamba_d_state|ssm_state_size|mamba_n_groups|n_groups|d_kv", 4),
    (r"mamba_chunk_size|chunk_size|block_size", 8),
    (r"(\w+_)?token_(id|index)", 1),
)

# Counts and numbers of layers: they shrink as the number of layers does.
_OF_LAYERS = r"\w*layer_index_(start|end)|n_layers_per_\w*block"

# What no rule can know: fields whose default is None, or that depend on one another.
_GEMMA = {
    "enable_moe_block": True,
    "num_experts": 8,
    "top_k_experts": 2,
    "moe_intermediate_size": 32,
    "global_head_dim": 16,
    "hidden_size_per_layer_input": 16,
    "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
}
_CHANGES: dict[str, dict[str, Any]] = {
    "dbrx": {
        "attn_config": {"rope_theta": 10000.0, "kv_n_heads": 2, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 8, "moe_top_k": 2},
    },
    "deepseek_ocr2_text": {"mlp_layer_types": ["dense"] + ["sparse"] * 3, "num_experts_per_tok": 2},
    "unlimited_ocr_text": {"mlp_layer_types": ["dense"] + ["sparse"] * 3, "num_experts_per_tok": 2},
    "deepseek_v2": {"num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
    "diffusion_gemma_text": _GEMMA,
    "doge": {"is_moe": True, "num_experts": 16},
    "dots1": {"n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "dots3_note_text": {
        "head_dim": 32,
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 4,
        "swa_q_lora_rank": 32,
        "swa_kv_lora_rank": 32,
        "swa_head_dim": 24,
        "swa_qk_nope_head_dim": 16,
        "swa_v_head_dim": 16,
        "sliding_window": 8,
    },
    "dots3_note_vision_encoder": {"mlp_layer_types": ["dense"] * 4, "per_layer_config": {}},
    "ernie4_5_vl_moe_text": {
        "moe_intermediate_size": [64, 32],
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [3, 3, 2],
        },
    },
    "gemma4_text": _GEMMA,
    "muse_spark_audio": {"hidden_sizes": [8, 16, 32, 64], "depths": [1, 1, 1, 1]},
    "deepseek_ocr2_sam_vision_model": {"downsample_channels": [16, 16]},
    "unlimited_ocr_sam_vision_model": {"downsample_channels": [16, 16]},
    "glm4v_moe_text": {
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.5,
            "mrope_section": [1, 1, 2],
        }
    },
    "hunyuan_v1_moe": {"num_experts": 8, "moe_topk": 2, "head_dim": 16, "num_key_value_heads": 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "longcat_flash": {"zero_expert_num": 2, "num_layers": 2, "n_routed_experts": 8},
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 8,
        "indexer_compress_ratio": 4,
    },
    # the library cannot build the speech part of its own default config
    "qwen3_omni_moe": {"enable_audio_output": False},
    "step3p5": {
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "mlp_layer_types": ["dense"] + ["sparse"] * 3,
    },
}


@dataclass(frozen=True)
class Architecture:
    """One kind of checkpoint: what `config.json` and the weights of it are made with.

    kind: the checkpoint's `model_type`. config_class and model_class: of the checkpoint.
    """

    kind: str
    config_class: type
    model_class: type

    @property
    def multi_modal(self) -> bool:
        """Whether the text model is one part of several."""
        return bool({"text_config", "thinker_config"} & self.config_class.sub_configs.keys())


# In this order, so that a checkpoint is made as the whole that it is published as.
_AUTO = (
    transformers.AutoModelForMultimodalLM,
    transformers.AutoModelForCausalLM,
    transformers.AutoModelForSeq2SeqLM,
    transformers.AutoModel,
)


def kinds(package: str) -> list[str]:
    """The kinds of checkpoints of a package of transformers.models, as its auto classes have them:
    text models before the multi-modal ones they are part of."""
    if package == DEEPSEEK:
        return [DEEPSEEK]
    registered = [
        kind for kind in CONFIG_MAPPING_NAMES if model_type_to_module_name(kind) == package
    ]
    of_package = list(dict.fromkeys(CONFIG_MAPPING[kind] for kind in registered))
    whole = [
        one for one in of_package if any(one in auto._model_mapping for auto in _AUTO[:-1])
    ] or [one for one in of_package if one in _AUTO[-1]._model_mapping]
    found = [one for config in whole if (one := architecture(config.model_type)) is not None]
    return [one.kind for one in sorted(found, key=lambda one: one.multi_modal)]


@cache
def architecture(kind: str) -> Architecture | None:
    """What checkpoints of a `model_type` are made with; None where the installed transformers has
    no such kind."""
    if kind == DEEPSEEK:
        from transformers.models.deepseek_ocr2 import modeling_deepseek_ocr2 as ocr

        text = ocr.DeepseekOcr2TextModel
        return Architecture(DEEPSEEK, text.config_class, text)
    if kind not in CONFIG_MAPPING_NAMES:
        return None
    config_class = CONFIG_MAPPING[kind]
    for auto in _AUTO:
        if config_class in auto._model_mapping:
            classes = auto._model_mapping[config_class]
            one = classes[0] if isinstance(classes, (list, tuple)) else classes
            return Architecture(kind, config_class, one)
    return None


def tiny_config(config_class: Any, **changes: Any) -> Any:
    """A config of a class with its sizes made tiny."""
    return config_class(**(_tiny_fields(config_class) | changes))


def _tiny_fields(config_class: Any) -> dict[str, Any]:
    fields = inspect.signature(config_class).parameters
    published = {
        name: field.default
        for name, field in fields.items()
        if isinstance(field.default, int) and not isinstance(field.default, bool)
    }
    given: dict[str, Any] = {}
    for name, size in published.items():
        for pattern, tiny in _SIZES:
            if re.fullmatch(pattern, name):
                given[name] = min(tiny, size)
                break
    if "kv_lora_rank" in fields:  # latent attention has a key for every head
        given["num_key_value_heads"] = given["num_attention_heads"]
    for name, size in published.items():
        if re.fullmatch(_OF_LAYERS, name):
            given[name] = max(
                1, size * given["num_hidden_layers"] // published["num_hidden_layers"]
            )
    given |= _of_the_published(config_class, given)
    for name, sub in config_class.sub_configs.items():
        if name not in fields:
            continue
        if sub.__name__ == "AutoConfig":
            held = getattr(config_class(), name, None)
            if held is None:
                continue
            sub = type(held)
        given[name] = _tiny_fields(sub)
        if sub.model_type:
            given[name]["model_type"] = sub.model_type
    return given | _CHANGES.get(config_class.model_type, {})


def _of_the_published(config_class: Any, given: dict[str, Any]) -> dict[str, Any]:
    """What a class computes of its sizes, made from what it computes of the published ones: rotary
    sections as the head shrinks, and every kind of layer though there are few."""
    try:
        whole = config_class()
    except Exception:  # a class that has no default
        return {}
    made: dict[str, Any] = {}
    rope = getattr(whole, "rope_parameters", None)
    head = "qk_rope_head_dim" if "qk_rope_head_dim" in given else "head_dim"
    if rope and "mrope_section" in rope and head in given:
        sections = [n * given[head] / getattr(whole, head) for n in rope["mrope_section"]]
        made["rope_parameters"] = {**rope, "mrope_section": _rounded(sections)}
    kinds = list(dict.fromkeys(getattr(whole, "layer_types", None) or ()))
    if len(kinds) > 1 and "layer_types" in inspect.signature(config_class).parameters:
        try:
            few = config_class(**given, **made).layer_types
        except Exception:  # it needs `_CHANGES`
            return made
        if few and set(kinds) - set(few) and len(kinds) <= len(few):
            made["layer_types"] = [kinds[i % len(kinds)] for i in range(len(few))]
    return made


def _rounded(shares: Sequence[float]) -> list[int]:
    """Whole numbers of the same sum, at least 1 each, the last ones taking what is left over."""
    whole = [max(1, int(share)) for share in shares]
    for place in range(1, round(sum(shares)) - sum(whole) + 1):
        whole[-place] += 1
    return whole


def write_checkpoint(one: Architecture, directory: Path) -> Any:
    """Save a tiny random checkpoint; returns the model that was saved, in evaluation mode."""
    torch.manual_seed(0)
    config = tiny_config(one.config_class)
    if one.kind == DEEPSEEK:
        return _write_deepseek_v1(one.model_class(config), directory)
    model = one.model_class(config)
    perturb(model)
    model.eval().save_pretrained(directory)
    return model


def perturb(model: Any) -> None:
    """Add noise to all that is learned, so that no bias is zero and no norm one."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if isinstance(value, torch.nn.Parameter) or name.endswith("bias"):
                value.add_(0.1 * torch.randn(value.shape, generator=generator))


def _write_deepseek_v1(model: Any, directory: Path) -> Any:
    """DeepSeekMoE-16B's kind of checkpoint, which transformers cannot write: every expert on its
    own, and a config of its own."""
    perturb(model)
    tensors: dict[str, torch.Tensor] = {}
    for name, value in model.eval().state_dict().items():
        path, _, leaf = f"model.{name}".rpartition(".experts.")
        if not path:
            tensors[leaf] = value
            continue
        names = ["down_proj"] if leaf == "down_proj" else ["gate_proj", "up_proj"]
        for expert, matrix in enumerate(value):
            for part, half in zip(names, matrix.chunk(len(names)), strict=True):
                tensors[f"{path}.experts.{expert}.{part}.weight"] = half.contiguous()
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / "model.safetensors")
    said = model.config.to_dict()
    kept = ("hidden_size", "intermediate_size", "moe_intermediate_size", "num_hidden_layers")
    kept += ("num_attention_heads", "num_key_value_heads", "vocab_size", "max_position_embeddings")
    kept += ("n_routed_experts", "n_shared_experts", "num_experts_per_tok", "rms_norm_eps")
    config = {key: said[key] for key in kept}
    config |= {"model_type": DEEPSEEK, "first_k_dense_replace": 1, "hidden_act": "silu"}
    (directory / "config.json").write_text(json.dumps(config))
    return model


def text_part(model: Any) -> Any:
    """The text model without head in a model that was saved."""
    for _, part in model.named_modules():
        name = type(part).__name__
        if (
            isinstance(part, transformers.PreTrainedModel)
            and "router_logits" in (type(part)._can_record_outputs or {})
            and name.endswith("Model")
            and "Vision" not in name
            and not hasattr(part, "visual")
            and not hasattr(part, "language_model")
        ):
            return part
    raise LookupError(f"{type(model).__name__} has no text model")


def reference(
    model: Any, texts: Sequence[tuple[int, ...]]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """HS and RW of the last token by transformers' own forward, text by text, without padding:
    the last hidden state, and what transformers records of its routers."""
    text = text_part(model)
    whole = model.base_model
    if whole is model or "input_ids" not in inspect.signature(whole.forward).parameters:
        whole = text  # the whole has no forward without head
    scores: list[torch.Tensor] = []
    hooks = [
        module.register_forward_hook(partial(_keep, scores, index))
        for name, module in text.named_modules()
        for ending, index in _SCORES.get(text.config.model_type, ())
        if name.endswith(ending)
    ]
    hs, rw = [], []
    for ids in texts:
        given = {"input_ids": torch.tensor([ids]), "use_cache": False}
        scores.clear()
        with torch.no_grad():
            found = text(**given, output_router_logits=True)
            routed = list(scores) or found.router_logits
            states = found if whole is text else whole(**given)
        hs.append(states.last_hidden_state[0, -1].numpy())
        rw.append(torch.cat([one.reshape(-1, one.shape[-1])[-1].float() for one in routed]).numpy())
    for hook in hooks:
        hook.remove()
    return np.stack(hs), np.stack(rw)


# Where what transformers records is not the scores of the experts: JetMoE's attention routes too,
# Gemma 4's routers are recorded after the softmax.
_SCORES: dict[str, tuple[tuple[str, int | None], ...]] = {
    "jetmoe": (("mlp.router", 4),),
    "gemma4_text": (("router.proj", None),),
}


def _keep(
    scores: list[torch.Tensor], index: int | None, _module: Any, _inputs: Any, output: Any
) -> None:
    scores.append(output if index is None else output[index])


def round_weights(model: Any, in_four_bits: Iterable[str]) -> None:
    """Round a model's weights as a 4-bit model of ours has them, with bitsandbytes' functions: NF4
    for those named (in the text model), matrix by matrix; bfloat16 for all others."""
    from bitsandbytes import functional

    text = text_part(model)
    named = set(in_four_bits)
    strict = tuple(text._keep_in_fp32_modules_strict or ())
    for name, value in [*text.named_parameters(), *text.named_buffers()]:
        owner, _, leaf = name.rpartition(".")
        if leaf in text.get_submodule(owner)._non_persistent_buffers_set:
            continue
        if name in named:
            named.discard(name)
            # [in, out] is quantised as [out, in], whose blocks run along what is summed over
            turned = value.dim() == 3 and getattr(text.get_submodule(owner), "is_transposed", False)
            stack = value.data.transpose(1, 2) if turned else value.data
            for matrix in stack if value.dim() == 3 else [stack]:
                # 64 columns: with others bitsandbytes 0.50's own kernel is wrong
                codes, state = functional.quantize_4bit(
                    matrix.reshape(-1, 64).contiguous(), blocksize=64, quant_type="nf4"
                )
                matrix.copy_(functional.dequantize_4bit(codes, state).view(matrix.shape))
        elif value.is_floating_point() and not any(part in name for part in strict):
            value.data.copy_(value.data.bfloat16())
    assert not named, sorted(named)[0]
