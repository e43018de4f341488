"""From a config to an empty model: which class it is, where the text model lies in it.

The classes are transformers'; DeepSeekMoE v1, which has none there, is put into another's. The
model is built on the meta device: no weight exists yet.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from moee_index.backends import load_transformers
from moee_index.dependencies import internal
from moee_index.errors import MisuseError, ModelError, first_line
from moee_index.model.arch import experts
from moee_index.model.arch.routing import find_routers, scores_by_sigmoid
from moee_index.model.checkpoint.find import Checkpoint
from moee_index.model.checkpoint.keys import keep_naming

RW_KINDS = ("auto", "softmax", "sigmoid", "logits")


def build_empty(checkpoint: Checkpoint) -> Any:
    """The base model (no language-model head) of a checkpoint, on the meta device; of a multi-modal
    one the text model alone.

    Raises ModelError where transformers knows no such architecture, where it has no routers, or
    where it is no causal decoder.
    """
    load_transformers().logging.set_verbosity_error()
    experts.register()
    config = _config_of(checkpoint)
    text = config.get_text_config(decoder=True)
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"{checkpoint.name} ({config.model_type}) is an encoder with a decoder; give --model a "
            "decoder such as OLMoE, whose last token has seen the whole text"
        )
    whole_class = _whole_class(config, checkpoint)
    if whole_class is None:
        model = _on_meta(_base_class(text, checkpoint), text)
        keep_naming(model)
    else:
        whole = _on_meta(whole_class, config)
        inner, model = _text_part(whole, text, checkpoint)
        _check_causal(whole, text, checkpoint)
        keep_naming(model, whole, inner)
    model.eval()
    _choose_implementations(model)
    _materialise_buffers(model, checkpoint)
    if not find_routers(model):
        raise ModelError(
            f"{checkpoint.name} ({checkpoint.config.get('model_type')}) is a dense model: it has "
            "no router and so no routing weights; give --model a Mixture-of-Experts model"
        )
    _check_causal(model, text, checkpoint)
    return model


def rw_kind(asked: str, checkpoint: Checkpoint) -> str:
    """The kind of RW behind `auto`: softmax for DeepSeek v1, logits for all others, as the
    paper's code has it (the paper itself, section 3.1, says softmax).

    All kinds are of a router's scores for all experts, before any bias that corrects its choice,
    and before the choice. `sigmoid` is for routers that score so.
    """
    if asked not in RW_KINDS:
        raise MisuseError(f"--rw {asked!r} is unknown; known: {', '.join(RW_KINDS)}")
    if asked == "auto":
        return "softmax" if checkpoint.config.get("model_type") == "deepseek" else "logits"
    if asked == "sigmoid" and not has_sigmoid_scores(checkpoint):
        raise MisuseError(
            f"--rw sigmoid: the router of {checkpoint.name} does not score by sigmoid; "
            "take softmax or logits"
        )
    return asked


def has_sigmoid_scores(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint's router scores by sigmoid, as its text model's config says, or where it
    does not, its router's class."""
    text = _config_of(checkpoint).get_text_config(decoder=True)
    for name in ("scoring_func", "score_function"):
        if (said := getattr(text, name, None)) is not None:
            return bool(said == "sigmoid")
    return scores_by_sigmoid(build_empty(checkpoint))


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
            f"{kind!r}: {first_line(error)}"
        ) from error
    for part in (config, config.get_text_config(decoder=True)):
        if hasattr(part, "quantization_config"):
            del part.quantization_config  # the model is built as it was before it was quantised
    return config


def _deepseek_v1_config(checkpoint: Checkpoint) -> Any:
    """DeepSeekMoE-16B's config (`model_type: deepseek`), which transformers has no class for.

    The text part of deepseek_ocr2 is the same network: multi-head attention, softmax-greedy
    routing without renormalisation, shared experts, dense first layers.
    """
    given = checkpoint.config
    config_class = internal(
        "transformers",
        "transformers.models.deepseek_ocr2.configuration_deepseek_ocr2",
        "DeepseekOcr2TextConfig",
    )
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
    return config_class(
        **{key: given[key] for key in kept if key in given},
        topk_method="greedy",
        routed_scaling_factor=given.get("routed_scaling_factor", 1.0),
        rope_parameters=rope,
        mlp_layer_types=[
            "sparse" if layer >= first and layer % every == 0 else "dense"
            for layer in range(layers)
        ],
    )


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
    """The class of a text model without head: registered, or of its config's package."""
    from transformers import AutoModel

    try:
        found = AutoModel._model_mapping[type(config)]
    except KeyError:
        found = _unregistered_class(config, checkpoint)
    return found[0] if isinstance(found, (list, tuple)) else found


def _unregistered_class(config: Any, checkpoint: Checkpoint) -> Any:
    """The class for a text config that is only known as a part of another."""
    name = type(config).__module__.replace(".configuration_", ".modeling_")
    for _, found in inspect.getmembers(importlib.import_module(name), inspect.isclass):
        if (
            getattr(found, "config_class", None) is type(config)
            and found.__name__.endswith("Model")
            and not found.__name__.endswith("PreTrainedModel")
        ):
            return found
    raise ModelError(f"{checkpoint.name}: transformers has no text model for {config.model_type!r}")


def _whole_class(config: Any, checkpoint: Checkpoint) -> Any:
    """The class with head, or of several parts, that checkpoints of a config are saved from and
    named after; None where transformers has none."""
    import transformers

    said = [
        getattr(transformers, name, None) for name in checkpoint.config.get("architectures") or []
    ]
    for found in said:
        if getattr(found, "config_class", None) is type(config) and found is not None:
            return found
    for auto in (transformers.AutoModelForMultimodalLM, transformers.AutoModelForCausalLM):
        if type(config) in auto._model_mapping:
            found = auto._model_mapping[type(config)]
            return found[0] if isinstance(found, (list, tuple)) else found
    return None


def _text_part(whole: Any, text: Any, checkpoint: Checkpoint) -> tuple[str, Any]:
    """Where the text model without head lies in a whole one, and the model itself."""
    from transformers import PreTrainedModel

    found = [
        (name, module)
        for name, module in whole.named_modules()
        if isinstance(module, PreTrainedModel)
        and type(module.config) is type(text)
        and module.base_model is module
    ]
    if found:
        # Some classes with a head take themselves for their own base.
        return min(
            found, key=lambda one: (not find_routers(one[1]), "For" in type(one[1]).__name__)
        )
    raise ModelError(
        f"{checkpoint.name} ({whole.config.model_type}): no text model is found in it; give "
        "--model a text model"
    )


def _choose_implementations(model: Any) -> None:
    """Our experts, and torch's attention where a model's class knows it (it knows no sinks)."""
    attention = "sdpa" if getattr(model, "_supports_sdpa", False) else "eager"
    for module in model.modules():
        config = getattr(module, "config", None)
        if config is not None:
            config._attn_implementation = attention
            config._experts_implementation = experts.IMPLEMENTATION


def _materialise_buffers(model: Any, checkpoint: Checkpoint) -> None:
    """Compute the buffers that are not part of a checkpoint (rotary frequencies) for real."""
    for name, module in model.named_modules():
        lost = {
            key: buffer
            for key, buffer in module.named_buffers(recurse=False)
            if buffer.is_meta and key in module._non_persistent_buffers_set
        }
        for key, buffer in lost.items():
            unset = torch.nan if buffer.is_floating_point() else 0
            module._buffers[key] = torch.full(buffer.shape, unset, dtype=buffer.dtype)
        if lost:
            model._init_weights(module)
        for key in lost:
            if bool(module._buffers[key].isnan().any()):
                raise ModelError(
                    f"{checkpoint.name}: transformers does not say how {name}.{key} is computed, "
                    "so the model cannot be run; please report it"
                )


def _check_causal(model: Any, text: Any, checkpoint: Checkpoint) -> None:
    """Raise ModelError where an attention of the text model, or of another made of the same config
    (the decoder of a diffusion model), looks both ways."""
    for name, module in model.named_modules():
        if (
            type(module).__name__.endswith("Attention")
            and type(getattr(module, "config", text)) is type(text)
            and not getattr(module, "is_causal", True)
        ):
            raise ModelError(
                f"{checkpoint.name} ({model.config.model_type}) is no causal decoder: {name} looks "
                "both ways; give --model a decoder, whose last token has seen the whole text"
            )
