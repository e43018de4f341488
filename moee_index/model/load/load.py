"""Fill an empty model by the quickest way to its 4-bit form.

A 4-bit checkpoint or a cached form is memory-mapped; a 16-bit one is streamed and quantised, into
the cache where one is kept.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from moee_index.errors import ModelError
from moee_index.model.arch.experts import Tokens
from moee_index.model.arch.four_bit import (
    assert_four_bits,
    install_four_bits,
    left_in_16_bits,
    weights_in_four_bits,
)
from moee_index.model.arch.select import Matrix, ModelPlan
from moee_index.model.checkpoint.faults import reading_weights
from moee_index.model.checkpoint.find import Checkpoint
from moee_index.model.load.cache import Cache
from moee_index.model.load.four_bit_checkpoint import (
    fill_from_four_bit,
    fill_mapped,
    tensor_specs,
)
from moee_index.model.load.memory import check_memory, on_card
from moee_index.model.load.stream import fill_from_sources
from moee_index.model.nf4.parameters import assign, dense_dtype
from moee_index.model.nf4.stack import NF4Stack, Workspace, stacks
from moee_index.model.precision import Storage
from moee_index.types import Notify, Progress, ignore

# Models with fewer 4-bit weights load fast enough without a cached form.
LARGE = 2**28

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Loaded:
    """What loading settled: the matrices of a 4-bit model that are left in 16 bits, and which
    tokens experts compute: all real ones, but in the last layer only those whose states are
    read."""

    left: list[Matrix]
    real_tokens: Tokens
    last_layer_tokens: Tokens


def load_model(
    plan: ModelPlan,
    checkpoint: Checkpoint,
    storage: Storage,
    *,
    cache: Cache | None = None,
    progress: Progress | None = None,
    tell: Notify = ignore,
) -> Loaded:
    """Fill an empty model (`build_empty`) from its checkpoint and ready it for inference.

    cache: where 4-bit forms of large models are kept and looked up. tell: called where a model is
    larger than the memory.

    Raises ModelError naming the tensor or file that is missing, unexpected, misshapen or damaged,
    or before a weight is read where the memory cannot hold them; of a card's, DeviceMemoryError.
    """
    model = plan.model
    shapes = prepare(plan, checkpoint, storage)
    large = weights_in_four_bits(model) >= LARGE
    kept = cache if large and storage.bits == 4 else None
    mapped = storage.bits == 4 and (kept is not None or checkpoint.quantization is not None)
    check_memory(model, checkpoint.name, storage, mapped=mapped, tell=tell)
    with on_card(checkpoint.name, storage):
        with reading_weights(checkpoint.weights), torch.no_grad():
            _fill(plan, checkpoint, storage, shapes, kept, progress)
        cast(model, storage)
    left = left_in_16_bits(plan) if storage.bits == 4 else []
    assert_four_bits(left)
    real, last = Tokens(), Tokens()
    workspaces: dict[str, Workspace] = defaultdict(Workspace)
    for module in plan.experts:
        module.moee_tokens = last if module in plan.skipping else real
        module.moee_workspaces = workspaces
    return Loaded(left, real, last)


def prepare(plan: ModelPlan, checkpoint: Checkpoint, storage: Storage) -> Shapes:
    """Ready an empty model for `storage`. Returns its tensors' shapes as the checkpoint has them.
    Raises ModelError if the model cannot be stored so."""
    shapes = {name: tuple(value.shape) for name, value in plan.model.state_dict().items()}
    if storage.bits == 4:
        install_four_bits(plan, checkpoint, storage.double_quant)
    return shapes


def _fill(
    plan: ModelPlan,
    checkpoint: Checkpoint,
    storage: Storage,
    shapes: Shapes,
    cache: Cache | None,
    progress: Progress | None,
) -> None:
    """Fill a model from the quickest source: a 4-bit checkpoint, the cached
    one, or the 16-bit checkpoint itself, whose 4-bit form is then kept."""
    model = plan.model
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
        fill_from_sources(plan, checkpoint, storage, shapes, progress=progress)
        return
    with draft:
        on_cpu = replace(storage, device=torch.device("cpu"))
        fill_from_sources(plan, checkpoint, on_cpu, shapes, home=draft.tensors, progress=progress)
        cache.publish(draft, checkpoint, storage)
        # As in the next start: mapped for reading, and on the device.
        fill_mapped(model, draft.file, storage)


def cast(model: Any, storage: Storage) -> None:
    """Cast everything to its compute dtype; nothing may be left on the meta device. Again, with
    another dtype, where the first one turns out too narrow."""
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if value is not None and value.is_meta:
            raise ModelError(f"{name} was not loaded: it is not in the checkpoint")
    embedding = model.get_input_embeddings()
    plain = type(embedding) is nn.Embedding  # others compute with what they looked up
    for name, module in model.named_modules():
        if isinstance(module, NF4Stack):
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
        if not hasattr(embedding, "moee_compute"):
            embedding.register_forward_hook(_cast_output)
        embedding.moee_compute = storage.compute


def _cast_output(module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
    return output.to(module.moee_compute)
