"""From safetensors to a running model: streamed slice by slice, quantised as it comes.

The plan is made from the files' headers alone (which tensor goes where), so that missing,
unexpected or misshapen tensors are errors by name before a weight is read. Then every slice is
read from the memory-mapped file, quantised or cast, and forgotten: no bf16 layer ever sits in
memory. Knows checkpoints and modules; knows no text.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open

from moee_index.errors import ModelError
from moee_index.model.architecture import (
    build_empty,
    conversions_of,
    expert_stacks,
    find_routers,
    quantisable_linears,
)
from moee_index.model.checkpoint import Checkpoint
from moee_index.model.experts import RealTokens
from moee_index.model.nf4 import BLOCK, NF4Linear, NF4Stack, Workspace, stacks
from moee_index.model.packed import PackedStack, cannot_pack, pack_model
from moee_index.model.placing import assign, check_shape, four_bit_home, owner

if TYPE_CHECKING:
    from moee_index.model.cache import Cache

Progress = Callable[[int, int], None]
PACKED = "packed"

# Models with fewer 4-bit weights load and multiply fast enough without cached or packed forms.
LARGE = 2**28


@dataclass(frozen=True)
class Source:
    """One tensor on disk and the part of its target that it fills."""

    file: Path
    key: str
    shape: tuple[int, ...]
    bytes: int
    pattern: str | None
    converter: Any | None


@dataclass(frozen=True)
class Storage:
    """How weights are kept and computed with."""

    bits: int
    double_quant: bool
    compute: torch.dtype
    device: torch.device

    @property
    def kept(self) -> torch.dtype:
        """dtype of everything that is not in 4 bits (norms, routers, embeddings, biases)."""
        return torch.float32 if self.bits == 32 else torch.bfloat16


@dataclass(frozen=True)
class Choice:
    """A value chosen for the user, with the reason that is told once."""

    value: Any
    reason: str


@dataclass(frozen=True)
class Loaded:
    """A model in evaluation mode, what tells it which tokens are real, and its 4-bit layout."""

    model: Any
    real_tokens: RealTokens
    layout: Choice


def load_model(
    checkpoint: Checkpoint,
    storage: Storage,
    *,
    few_texts: bool = False,
    cache: Cache | None = None,
    progress: Progress | None = None,
) -> Loaded:
    """Load a checkpoint as a base model.

    few_texts: texts will come a few at a time, see `choose_layout`. cache: where 4-bit forms of
    large models are kept and looked for.

    Raises ModelError naming the tensor or file that is missing, unexpected, misshapen or damaged.
    """
    from moee_index.model.four_bit_checkpoint import fill_from_four_bit, fill_mapped

    model = build_empty(checkpoint)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    if storage.bits == 4:
        _install_four_bit(model, checkpoint, storage.double_quant)
    layout = choose_layout(model, few_texts, storage)
    large = weights_in_four_bits(model) >= LARGE
    kept = cache if large and storage.bits == 4 else None
    packed = kept.packed(checkpoint, storage) if kept and layout.value == PACKED else None
    try:
        with torch.no_grad():
            if packed is not None:
                pack_model(model)
                fill_mapped(model, packed, storage)
            else:
                source = checkpoint
                if kept is not None and checkpoint.quantization is None:
                    source = kept.four_bit(checkpoint, storage) or checkpoint
                if source.quantization is not None:
                    fill_from_four_bit(model, source, storage, shapes)
                else:
                    _fill(model, checkpoint, storage, shapes, progress)
                    if kept is not None:
                        kept.keep_four_bit(model, checkpoint, storage)
                if layout.value == PACKED:
                    pack_model(model)
                    if kept is not None:
                        kept.keep_packed(model, checkpoint, storage)
    except SafetensorError as error:
        raise ModelError(
            f"{checkpoint.path}: a weight file is damaged ({error}); copy it again"
        ) from error
    _finish(model, storage)
    if storage.bits == 4:
        assert_four_bits(model)
    real_tokens = RealTokens()
    for module in model.modules():
        if hasattr(module, "has_gate") and hasattr(module, "num_experts"):
            module.moee_real_tokens = real_tokens
    return Loaded(model, real_tokens, layout)


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


def weights_in_four_bits(model: Any) -> int:
    """How many weights a model's 4-bit stacks hold or will hold."""
    return sum(stack.n * stack.size for _, stack in stacks(model))


def plan_sources(
    checkpoint: Checkpoint, model: Any, shapes: dict[str, tuple[int, ...]]
) -> dict[str, list[Source]]:
    """target name -> the tensors on disk that make it, from the headers alone."""
    from transformers.core_model_loading import (
        WeightConverter,
        WeightRenaming,
        rename_source_key,
    )

    conversions = conversions_of(model)
    renamings = [entry for entry in conversions if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in conversions if isinstance(entry, WeightConverter)]
    by_pattern = {pattern: entry for entry in converters for pattern in entry.source_patterns}
    meta: dict[str, Any] = dict.fromkeys(shapes, True)
    prefix = model.base_model_prefix
    ignored = [
        re.compile(pattern) for pattern in (model._keys_to_ignore_on_load_unexpected or ())
    ] + [re.compile(r"rotary_emb\.inv_freq$")]

    plan: dict[str, list[Source]] = defaultdict(list)
    unexpected: list[str] = []
    headed = False
    for file in checkpoint.weights:
        with safe_open(file, framework="pt") as reader:
            for key in reader.keys():  # noqa: SIM118 - a safetensors reader is no mapping
                headed = headed or key.startswith(f"{prefix}.")
                target, pattern = rename_source_key(key, renamings, converters, prefix, meta)
                if target not in shapes:
                    unexpected.append(key)
                    continue
                part = reader.get_slice(key)
                shape = tuple(part.get_shape())
                size = _DTYPE_BYTES.get(part.get_dtype(), 2)
                for extent in shape:
                    size *= extent
                plan[target].append(
                    Source(
                        file,
                        key,
                        shape,
                        size,
                        pattern,
                        by_pattern[pattern] if pattern is not None else None,
                    )
                )
    # In a checkpoint with a head, the base model's tensors carry its prefix; the rest is the head.
    wrong = [
        key
        for key in unexpected
        if (key.startswith(f"{prefix}.") or not headed)
        and not key.startswith("lm_head.")
        and not any(pattern.search(key) for pattern in ignored)
    ]
    if wrong:
        raise ModelError(
            f"{checkpoint.path}: {len(wrong)} unexpected tensors, the first is {wrong[0]!r}; "
            "config.json describes another model"
        )
    missing = sorted(set(shapes) - set(plan))
    if missing:
        raise ModelError(
            f"{checkpoint.path}: {len(missing)} tensors are missing, the first is {missing[0]!r}; "
            "the checkpoint is incomplete or config.json describes another model"
        )
    return plan


_DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "U8": 1}


def _fill(
    model: Any,
    checkpoint: Checkpoint,
    storage: Storage,
    shapes: dict[str, tuple[int, ...]],
    progress: Progress | None,
) -> None:
    plan = plan_sources(checkpoint, model, shapes)
    total = sum(source.bytes for sources in plan.values() for source in sources)
    done = 0
    with ExitStack() as files:
        readers = {
            file: files.enter_context(safe_open(file, framework="pt"))
            for file in checkpoint.weights
        }
        for target, sources in plan.items():
            for index, row, part in _parts(target, shapes[target], sources, readers, model):
                _check_finite(part, target, checkpoint)
                _put(model, target, shapes[target], index, row, part, storage)
                done += part.numel() * part.element_size()
                if progress is not None:
                    progress(min(done, total), total)


def _parts(
    target: str,
    shape: tuple[int, ...],
    sources: list[Source],
    readers: dict[Path, Any],
    model: Any,
) -> Iterator[tuple[int, int, torch.Tensor]]:
    """(matrix number, first row, tensor [rows, cols]) pieces that together make one target.

    Plain tensors are one piece (0, 0, tensor); stacks of experts come expert by expert, and an
    expert's gate and up projection one after the other.
    """
    converter = sources[0].converter
    if converter is None:
        (source,) = _single(target, sources)
        check_shape(target, source.key, source.shape, shape)
        if len(shape) < 3:
            yield 0, 0, readers[source.file].get_tensor(source.key)
            return
        slices = readers[source.file].get_slice(source.key)
        for index in range(shape[0]):
            yield index, 0, slices[index : index + 1][0]
        return
    names = [type(operation).__name__ for operation in converter.operations]
    dims = [operation.dim for operation in converter.operations if hasattr(operation, "dim")]
    streamable = len(converter.target_patterns) == 1 and (
        (names == ["MergeModulelist"] and dims == [0])
        or (names == ["MergeModulelist", "Concatenate"] and dims == [0, 1])
    )
    if streamable:
        yield from _expert_parts(target, shape, sources, readers, converter)
        return
    whole = _converted(target, sources, readers, converter, model)
    check_shape(target, sources[0].key, tuple(whole.shape), shape)
    if len(shape) < 3:
        yield 0, 0, whole
    else:
        for index in range(shape[0]):
            yield index, 0, whole[index]


def _expert_parts(
    target: str,
    shape: tuple[int, ...],
    sources: list[Source],
    readers: dict[Path, Any],
    converter: Any,
) -> Iterator[tuple[int, int, torch.Tensor]]:
    count, rows, cols = shape
    patterns = converter.source_patterns
    part_rows = rows // len(patterns)
    found: dict[tuple[int, int], Source] = {}
    for source in sources:
        assert source.pattern is not None
        number = _expert_number(source.key, source.pattern)
        check_shape(target, source.key, source.shape, (part_rows, cols))
        found[number, patterns.index(source.pattern)] = source
    wanted = {(expert, part) for expert in range(count) for part in range(len(patterns))}
    if found.keys() != wanted:
        odd = sorted(found.keys() ^ wanted)[0]
        said = "is missing" if odd in wanted else "is one too many"
        raise ModelError(
            f"{target}: {patterns[odd[1]].replace('*', str(odd[0]))} {said}; "
            f"config.json speaks of {count} experts"
        )
    whole_slices = (part_rows * cols) % BLOCK != 0
    for expert in range(count):
        parts = [
            readers[source.file].get_tensor(source.key)
            for part in range(len(patterns))
            if (source := found[expert, part])
        ]
        if whole_slices:
            yield expert, 0, torch.cat(parts)
            continue
        for part, tensor in enumerate(parts):
            yield expert, part * part_rows, tensor


def _expert_number(key: str, pattern: str) -> int:
    match = re.search(re.escape(pattern).replace(r"\*", r"(\d+)"), key)
    if match is None:
        raise ModelError(f"{key}: no expert number where {pattern} has one")
    return int(match.group(1))


def _converted(
    target: str, sources: list[Source], readers: dict[Path, Any], converter: Any, model: Any
) -> torch.Tensor:
    """Any other conversion, by transformers' own operations on the whole tensor."""
    from copy import deepcopy

    own = deepcopy(converter)
    for source in sorted(sources, key=lambda one: _natural(one.key)):
        tensor = readers[source.file].get_tensor(source.key)
        own.collected_tensors[source.pattern].append(lambda tensor=tensor: tensor)
    realised = own.convert(target, model=model, config=model.config)
    value = realised[target]
    return value[0] if isinstance(value, list) else value  # type: ignore[no-any-return]


def _natural(key: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in key.split(".")]


def _put(
    model: Any,
    target: str,
    shape: tuple[int, ...],
    index: int,
    row: int,
    part: torch.Tensor,
    storage: Storage,
) -> None:
    """Lay one piece where it belongs: quantised into a 4-bit stack, or cast into a dense tensor."""
    stack = four_bit_home(model, target)
    if stack is not None:
        if not stack.holds_weights:
            stack.allocate(storage.device)
        stack.put(index, row, part.to(storage.device, torch.float32))
        return
    module, attribute = owner(model, target)
    held = getattr(module, attribute)
    dtype = storage.kept if part.is_floating_point() else part.dtype
    if len(shape) < 3:
        assign(module, attribute, part.to(storage.device, dtype, copy=True))
        return
    if held.is_meta:
        assign(module, attribute, torch.empty(shape, dtype=dtype, device=storage.device))
        held = getattr(module, attribute)
    held[index, row : row + len(part)] = part.to(storage.device, dtype)


def _single(target: str, sources: list[Source]) -> list[Source]:
    if len(sources) != 1:
        raise ModelError(f"{target} is on disk twice: as {sources[0].key} and as {sources[1].key}")
    return sources


def _check_finite(part: torch.Tensor, target: str, checkpoint: Checkpoint) -> None:
    # The sum of a finite tensor overflows float32 only past 1e38; one cheap pass finds NaN and inf.
    if part.is_floating_point() and not bool(torch.isfinite(part.sum(dtype=torch.float32))):
        raise ModelError(f"{checkpoint.path}: {target} holds values that are not finite")


def _install_four_bit(model: Any, checkpoint: Checkpoint, double_quant: bool) -> None:
    """Replace what is for 4 bits by empty modules; all layers share a projection's workspace."""
    workspaces: dict[str, Workspace] = defaultdict(Workspace)
    stacked = expert_stacks(model)
    for module in model.modules():
        if type(module).__name__.endswith("Experts") and not hasattr(module, "has_gate"):
            raise ModelError(
                f"{checkpoint.name}: the experts of {checkpoint.config.get('model_type')!r} do not "
                "use transformers' experts interface and cannot be had in 4 bits; take --bits 16"
            )
    for name, module, attribute in stacked:
        count, rows, cols = getattr(module, attribute).shape
        _check_blocks(name, rows, cols)
        del module._parameters[attribute]
        module.add_module(attribute, NF4Stack(count, rows, cols, double_quant=double_quant))
        module.moee_workspaces = workspaces  # type: ignore[assignment]
    for name, linear in quantisable_linears(model, find_routers(model)):
        rows, cols = linear.weight.shape
        _check_blocks(name, rows, cols)
        model.set_submodule(
            name,
            NF4Linear(
                rows,
                cols,
                bias=linear.bias is not None,
                double_quant=double_quant,
                workspace=workspaces["linear"],
            ),
        )


def _check_blocks(name: str, rows: int, cols: int) -> None:
    if rows * cols % BLOCK:
        raise ModelError(
            f"{name} is {rows} x {cols}, no multiple of {BLOCK} weights, and cannot be had in "
            "4 bits; take --bits 16"
        )


def _finish(model: Any, storage: Storage) -> None:
    """Give everything its compute dtype; nothing may be left on the meta device."""
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if value is not None and value.is_meta:
            raise ModelError(f"{name} was not loaded: the checkpoint lacks it")
    embedding = model.get_input_embeddings()
    for module in model.modules():
        if isinstance(module, NF4Stack):
            continue
        for attribute, parameter in module.named_parameters(recurse=False):
            if module is embedding:
                continue  # stays in 16 bits; what is looked up is cast below
            if parameter.is_floating_point() and parameter.dtype != storage.compute:
                assign(module, attribute, parameter.data.to(storage.compute))
        for attribute, buffer in module.named_buffers(recurse=False):
            if buffer is not None and buffer.device != storage.device:
                module._buffers[attribute] = buffer.to(storage.device)
    if embedding.weight.dtype != storage.compute:
        embedding.register_forward_hook(lambda _module, _inputs, output: output.to(storage.compute))


def assert_four_bits(model: Any) -> None:
    """Raise ModelError if any expert, dense MLP or attention matrix is left in 16 or 32 bits,
    in whatever form it is kept (parameter, buffer, fused or not)."""
    routers = find_routers(model)
    embedding = model.get_input_embeddings()
    for name, module in model.named_modules():
        if isinstance(module, NF4Stack | PackedStack) or module is embedding:
            continue
        if any(name == router.name for router in routers):
            continue
        kept = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for attribute, value in kept:
            if value is None or not value.is_floating_point() or value.dim() < 2:
                continue
            if min(value.shape[-2:]) <= 1:  # a gate with one output, a depthwise convolution
                continue
            raise ModelError(
                f"{name}.{attribute} {list(value.shape)} was left in {value.dtype}: "
                "not a 4-bit model; this is a bug, please report it, or take --bits 16"
            )


def bytes_by_kind(model: Any) -> dict[str, int]:
    """Bytes of weights by kind: `4-bit` (codes and their statistics), `16-bit`, `32-bit`."""
    counted = {"4-bit": 0, "16-bit": 0, "32-bit": 0}
    seen: set[int] = set()
    for module in model.modules():
        for value in [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
            if value is None or id(value) in seen:
                continue
            seen.add(id(value))
            size = value.numel() * value.element_size()
            if isinstance(module, NF4Stack | PackedStack):
                counted["4-bit"] += size
            elif value.element_size() <= 2:
                counted["16-bit"] += size
            else:
                counted["32-bit"] += size
    return counted
