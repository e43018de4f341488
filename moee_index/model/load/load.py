"""From a checkpoint to a running model, by the quickest way there is to its 4-bit form.

A 4-bit checkpoint or a cached form is memory-mapped; a 16-bit one is streamed and quantised, into
the cache where one is kept.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from moee_index.errors import ModelError
from moee_index.model.arch.build import build_empty
from moee_index.model.arch.experts import Tokens
from moee_index.model.arch.four_bit import assert_four_bits, install_four_bits, weights_in_four_bits
from moee_index.model.arch.select import uses_interface
from moee_index.model.checkpoint.find import Checkpoint
from moee_index.model.load.cache import Cache
from moee_index.model.load.four_bit_checkpoint import (
    dense_tensors,
    fill_from_four_bit,
    fill_mapped,
    tensor_specs,
)
from moee_index.model.load.memory import check_memory
from moee_index.model.load.stream import fill_from_sources
from moee_index.model.nf4.packed import PackedStack, cannot_pack, pack_model, packed_specs
from moee_index.model.nf4.parameters import assign, dense_dtype
from moee_index.model.nf4.stack import NF4Stack, Workspace, stacks
from moee_index.model.precision import Choice, Storage
from moee_index.types import Notify, Progress, ignore

PACKED = "packed"

# Models with fewer 4-bit weights load and multiply fast enough without cached or packed forms.
LARGE = 2**28


Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Loaded:
    """A model in evaluation mode, its 4-bit layout, and what tells its experts which tokens count:
    all real ones, but in the last layer only those whose states are read."""

    model: Any
    layout: Choice
    real_tokens: Tokens
    last_layer_tokens: Tokens


def load_model(
    checkpoint: Checkpoint,
    storage: Storage,
    *,
    few_texts: bool = False,
    cache: Cache | None = None,
    progress: Progress | None = None,
    tell: Notify = ignore,
) -> Loaded:
    """Load a checkpoint as a base model.

    few_texts: texts will come a few at a time, see `choose_layout`. cache: where 4-bit forms of
    large models are kept and looked for. tell: is told where a model is larger than the memory.

    Raises ModelError naming the tensor or file that is missing, unexpected, misshapen or damaged,
    or before a weight is read where the memory cannot hold them.
    """
    model, shapes = empty_model(checkpoint, storage)
    layout = choose_layout(model, few_texts, storage)
    large = weights_in_four_bits(model) >= LARGE
    kept = cache if large and storage.bits == 4 else None
    mapped = storage.bits == 4 and (kept is not None or checkpoint.quantization is not None)
    check_memory(model, checkpoint.name, storage, mapped=mapped, tell=tell)
    packed = kept.packed(checkpoint, storage) if kept and layout.value == PACKED else None
    try:
        with torch.no_grad():
            if packed is not None:
                pack_model(model)
                fill_mapped(model, packed, storage)
            else:
                _fill_standard(model, checkpoint, storage, shapes, kept, progress)
                if layout.value == PACKED:
                    _pack(model, checkpoint, storage, kept)
    except SafetensorError as error:
        raise ModelError(
            f"{checkpoint.path}: a weight file is damaged ({error}); copy it again"
        ) from error
    _finish(model, storage)
    if storage.bits == 4:
        assert_four_bits(model)
    real, last = Tokens(), Tokens()
    last_layer = set(last_mixed_before_experts(model))
    workspaces: dict[str, Workspace] = defaultdict(Workspace)
    for module in model.modules():
        if uses_interface(module):
            module.moee_tokens = last if module in last_layer else real
            module.moee_workspaces = workspaces
    return Loaded(model, layout, real, last)


def empty_model(checkpoint: Checkpoint, storage: Storage) -> tuple[Any, Shapes]:
    """A model without weights, ready for `storage`, and its tensors' shapes as the checkpoint has
    them. Raises ModelError where the architecture cannot be had so."""
    model = build_empty(checkpoint)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    if storage.bits == 4:
        install_four_bits(model, checkpoint, storage.double_quant)
    return model, shapes


def choose_layout(model: Any, few_texts: bool, storage: Storage) -> Choice:
    """How 4-bit weights lie in memory: `packed` for a few texts at a time, else `standard`.

    Packed products round absmax to bfloat16, so small models, which gain little, stay as they are.
    """
    if storage.bits != 4:
        return Choice("dense", f"{storage.bits} bits were asked for")
    if not few_texts:
        return Choice("standard", "whole batches are dequantised once and multiplied")
    if weights_in_four_bits(model) < LARGE:
        return Choice("standard", "the model is small")
    if storage.compute != torch.bfloat16 or storage.device.type != "cpu":
        return Choice("standard", "packed products are for processors with AVX512-BF16")
    why_not = cannot_pack(model)
    if why_not is not None:
        return Choice("standard", why_not)
    return Choice(PACKED, "few tokens at a time are multiplied with 4-bit weights as they are")


def _fill_standard(
    model: Any,
    checkpoint: Checkpoint,
    storage: Storage,
    shapes: Shapes,
    cache: Cache | None,
    progress: Progress | None,
) -> None:
    """Fill a model in the standard layout from what is quickest: a 4-bit checkpoint, the cached
    one, or the 16-bit checkpoint itself, whose 4-bit form is then kept."""
    if checkpoint.quantization is not None:
        fill_from_four_bit(model, checkpoint, storage, shapes)
        return
    turned = any(stack.turned for _, stack in stacks(model))
    cached = None if cache is None else cache.four_bit(checkpoint, storage, turned=turned)
    if cached is not None:
        fill_from_four_bit(model, cached, storage, shapes, checked=True)
        return
    draft = cache.draft(checkpoint, storage, tensor_specs(model, storage.kept)) if cache else None
    if cache is None or draft is None:
        check_memory(model, checkpoint.name, storage, mapped=False)
        fill_from_sources(model, checkpoint, storage, shapes, progress=progress)
        return
    with draft:
        on_cpu = replace(storage, device=torch.device("cpu"))
        fill_from_sources(model, checkpoint, on_cpu, shapes, home=draft.tensors, progress=progress)
        cache.publish(draft, checkpoint, storage)
        # As the next start will have it: mapped for reading, and on the device.
        fill_mapped(model, draft.file, storage)


def _pack(model: Any, checkpoint: Checkpoint, storage: Storage, cache: Cache | None) -> None:
    """Pack a standard model, into the cache where one is kept."""
    dense = dense_tensors(model)
    specs = {name: (tuple(value.shape), value.dtype) for name, value in dense.items()}
    specs.update(packed_specs(model))
    draft = cache.draft(checkpoint, storage, specs, packed=True) if cache else None
    if cache is None or draft is None:
        pack_model(model)
        return
    with draft:
        for name, value in dense.items():
            draft.tensors[name].copy_(value)
        pack_model(model, draft.tensors)
        cache.publish(draft, checkpoint, storage, packed=True)
        fill_mapped(model, draft.file, storage)


def last_mixed_before_experts(model: Any) -> list[Any]:
    """The last layer's modules, where tokens meet for the last time in its one attention, before
    its experts: only then is what its experts make of a token that nobody pools of no use."""
    layers = getattr(model, "layers", None)
    if not layers:
        return []
    mixing = re.compile("Attention|MLA|Conv|Mamba|DeltaNet|Mixer|Recurrent")
    outermost: list[str] = []
    experts: list[int] = []
    order: dict[str, int] = {}
    for place, (name, module) in enumerate(layers[-1].named_modules()):
        order[name] = place
        if uses_interface(module):
            experts.append(place)
        within = any(name.startswith(f"{other}.") for other in outermost)
        if name and not within and mixing.search(type(module).__name__):
            outermost.append(name)
    if len(outermost) != 1 or not all(order[outermost[0]] < place for place in experts):
        return []
    return list(layers[-1].modules())


def _finish(model: Any, storage: Storage) -> None:
    """Give everything its compute dtype; nothing may be left on the meta device."""
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if value is not None and value.is_meta:
            raise ModelError(f"{name} was not loaded: the checkpoint lacks it")
    embedding = model.get_input_embeddings()
    plain = type(embedding) is nn.Embedding  # others go on computing with what they looked up
    for name, module in model.named_modules():
        if isinstance(module, NF4Stack | PackedStack):
            module.dtype = storage.compute
            continue
        for attribute, parameter in module.named_parameters(recurse=False):
            if plain and module is embedding:
                continue  # stays in 16 bits; what is looked up is cast below
            dtype = dense_dtype(model, f"{name}.{attribute}", parameter, storage.compute)
            if parameter.dtype != dtype:
                assign(module, attribute, parameter.data.to(dtype))
        for attribute, buffer in module.named_buffers(recurse=False):
            if buffer is None:
                continue
            dtype = buffer.dtype  # rotary frequencies and the like stay as they were computed
            if attribute not in module._non_persistent_buffers_set:
                dtype = dense_dtype(model, f"{name}.{attribute}", buffer, storage.compute)
            module._buffers[attribute] = buffer.to(storage.device, dtype)
    if embedding.weight.dtype != storage.compute:
        embedding.register_forward_hook(lambda _module, _inputs, output: output.to(storage.compute))
