"""config.json as a config of transformers.

How a model computes here (its attention, the form of its outputs) is ours to choose, whatever a
config says of it. Any other value that transformers cannot use is told by its key where the error
shows it.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from moee_index.dependencies import internal
from moee_index.errors import ModelError, MoeeIndexError, lacks_memory
from moee_index.model.checkpoint.faults import UnreadableError, check_weights
from moee_index.model.checkpoint.find import Checkpoint
from moee_index.model.checkpoint.text_config import is_count
from moee_index.text import shown

_OURS = frozenset(
    {
        *("attn_implementation", "_attn_implementation", "_attn_implementation_internal"),
        *("experts_implementation", "_experts_implementation", "_experts_implementation_internal"),
        *("return_dict", "use_return_dict", "torchscript", "gradient_checkpointing"),
        *("output_attentions", "output_hidden_states", "output_router_logits"),
    }
)

# The network's extents: no model has one that is larger than the number of its weights.
_EXTENT = re.compile(
    r"(?!.*(window|chunk|block|batch|cache|image|patch|tile))"
    r"(.*_)?(size|dim|rank|heads|experts|layers|groups)"
)
_POSITIVE = re.compile(
    r"vocab_size|hidden_size|num_hidden_layers|num_attention_heads|num_key_value_heads"
)
# More layers than any published model has: from here on the weights are asked.
_MANY_LAYERS = 512
_EXPERTS = re.compile(r"(num|n)_(local_|routed_)?experts|moe_num_experts|num_moe_experts")
_CHOSEN = re.compile(r".*experts_per_tok(en)?|top_k_experts|moe_top_?k")


def vocabulary_of(checkpoint: Checkpoint) -> int | None:
    """Rows of the text model's embedding; None where its config does not say. Raises ModelError as
    `config_of`."""
    with config_errors(checkpoint):
        text = config_of(checkpoint).get_text_config(decoder=True)
        vocabulary = getattr(text, "vocab_size", None)
        return vocabulary if is_count(vocabulary) else None


def config_of(checkpoint: Checkpoint) -> Any:
    """The config of a checkpoint, of transformers' class for it.

    Raises ModelError naming config.json and where it can be known the key that is at fault.
    """
    with config_errors(checkpoint):
        _check_extents(checkpoint, checkpoint.config)
        if checkpoint.config.get("model_type") == "deepseek":
            return _deepseek_v1_config(checkpoint)
        config_class = _config_class(checkpoint)
        said, _ = config_class.get_config_dict(checkpoint.path, local_files_only=True)
        config = config_class.from_dict(_without_ours(said))
        for part in (config, config.get_text_config(decoder=True)):
            if hasattr(part, "quantization_config"):
                del part.quantization_config  # the model is built as it was before
        return config


def _config_class(checkpoint: Checkpoint) -> Any:
    from transformers import CONFIG_MAPPING

    kind = checkpoint.config.get("model_type")
    file = checkpoint.path / "config.json"
    if not isinstance(kind, str) or not kind:
        raise ModelError(f"{file} has no 'model_type', so nothing says which model it is")
    if kind not in CONFIG_MAPPING:
        raise ModelError(
            f"{file}: transformers {version('transformers')} does not know models of type "
            f"{shown(kind)!r}; upgrade transformers if they are newer, or take another model"
        )
    return CONFIG_MAPPING[kind]


def _without_ours(config: dict[str, Any]) -> dict[str, Any]:
    """A copy of a config, nested ones included, without what is ours to choose."""
    return {
        key: _without_ours(value) if isinstance(value, dict) else copy.deepcopy(value)
        for key, value in config.items()
        if key not in _OURS
    }


@contextmanager
def config_errors(checkpoint: Checkpoint) -> Iterator[None]:
    """Turn what goes wrong in transformers' code for a config into one line that names config.json.

    Raises ModelError.
    """
    try:
        yield
    except MoeeIndexError:
        raise
    except Exception as error:  # what a value is used for decides what is raised
        raise _config_error(checkpoint, error) from error


def _config_error(checkpoint: Checkpoint, error: Exception) -> ModelError:
    file, kind = checkpoint.path / "config.json", checkpoint.config.get("model_type")
    if lacks_memory(error):
        return UnreadableError(f"{file}: there is not enough memory for a model of these sizes")
    why = shown(" ".join(str(error).split()) or type(error).__name__, 200)
    if isinstance(error, KeyError | AttributeError | ZeroDivisionError):
        why = f"{type(error).__name__}: {why}"
    which = (
        f"transformers {version('transformers')} cannot run a model of type {shown(str(kind))!r}"
    )
    if (fault := _at_fault(checkpoint.config, str(error))) is not None:
        key, value = fault
        told = shown(repr(value), 40)
        return ModelError(f"{file}: {which} with {key!r} {told} ({why}); correct the config")
    return ModelError(
        f"{file}: {which} with this config ({why}); compare it with that of the original model"
    )


def _members(config: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str, Any]]:
    """(key with those above it, key, value) of all of a config."""
    for key, value in config.items():
        yield f"{above}{key}", key, value
        if isinstance(value, dict):
            yield from _members(value, f"{above}{key}.")


def _at_fault(config: Mapping[str, Any], said: str) -> tuple[str, Any] | None:
    """The key that an error speaks of, or else the one whose text it quotes, and its value."""
    members = list(_members(config))
    for path, key, value in sorted(members, key=lambda member: -len(member[1])):
        if key and re.search(rf"\b{re.escape(key)}\b" if "_" in key else _quoted(key), said):
            return path, value
    for path, _, value in members:
        if isinstance(value, str) and len(value) > 1 and re.search(_quoted(value), said):
            return path, value
    return None


def _quoted(text: str) -> str:
    return rf"[\"'`]{re.escape(text)}[\"'`]"


def _check_extents(checkpoint: Checkpoint, config: Mapping[str, Any]) -> None:
    """Raise ModelError for an extent that the weights cannot have, before a model is built that
    nothing can hold; and for a router that is to choose more experts than there are."""
    file = checkpoint.path / "config.json"
    for key, value in config.items():
        if isinstance(value, dict):
            _check_extents(checkpoint, value)
        if not is_count(value) or not _EXTENT.fullmatch(key):
            continue
        if _POSITIVE.fullmatch(key) and value < 1:
            raise ModelError(f"{file}: {key!r} is {value}; it must be at least 1")
        if value > checkpoint.most_weights or (
            key.endswith("layers") and value > _MANY_LAYERS and value > checkpoint.count_tensors()
        ):
            check_weights(checkpoint.weights)
            raise ModelError(
                f"{file}: {key!r} is {value}, more than all the weights in {checkpoint.path} are; "
                "config.json is of another model, or damaged"
            )
    experts = {key: value for key, value in config.items() if _EXPERTS.fullmatch(key)}
    counts = [value for value in experts.values() if is_count(value) and value > 0]
    for key, value in config.items():
        if _CHOSEN.fullmatch(key) and is_count(value) and counts and value > max(counts):
            raise ModelError(
                f"{file}: {key!r} is {value}, but there are {max(counts)} experts; correct the "
                "config"
            )


def _deepseek_v1_config(checkpoint: Checkpoint) -> Any:
    """DeepSeekMoE-16B's config (`model_type: deepseek`), for which transformers has no class.

    The text part of deepseek_ocr2 is the same network: multi-head attention, softmax-greedy
    routing without renormalization, shared experts, dense first layers.
    """
    config = checkpoint.config
    config_class = internal(
        "transformers",
        "transformers.models.deepseek_ocr2.configuration_deepseek_ocr2",
        "DeepseekOcr2TextConfig",
    )
    for key, required in (("norm_topk_prob", False), ("scoring_func", "softmax")):
        if config.get(key, required) != required:
            raise ModelError(
                f"{checkpoint.path / 'config.json'}: {key}={config[key]!r} is not DeepSeekMoE v1"
            )
    layers = config["num_hidden_layers"]
    first, every = config.get("first_k_dense_replace", 0), config.get("moe_layer_freq", 1)
    keys = (
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
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.get("rope_theta", 10000.0)}
    if config.get("rope_scaling"):
        rope |= config["rope_scaling"]
    return config_class(
        **{key: config[key] for key in keys if key in config},
        topk_method="greedy",
        routed_scaling_factor=config.get("routed_scaling_factor", 1.0),
        rope_parameters=rope,
        mlp_layer_types=[
            "sparse" if layer >= first and layer % every == 0 else "dense"
            for layer in range(layers)
        ],
    )
