"""Map tensors on disk to tensors of a model from the files' headers, then read them in pieces.

Missing, unexpected and misshapen tensors are errors by name before a weight is read. Pieces come
one by one, so that no more than one slice is ever in memory. A quantised tensor is one tensor here,
however many make it on disk (`checkpoint/`), and its pieces are still quantised.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from moee_index.dependencies import internal
from moee_index.errors import ModelError, first_line, lacks_memory
from moee_index.model.arch.config import config_errors
from moee_index.model.arch.select import ModelPlan
from moee_index.model.checkpoint import bitsandbytes, fp8, mxfp4
from moee_index.model.checkpoint.find import Checkpoint
from moee_index.model.checkpoint.keys import Naming, targets_of
from moee_index.model.checkpoint.quant_config import ADVICE, BITSANDBYTES, FP8, MXFP4
from moee_index.model.checkpoint.tensors import (
    FLOATS,
    Part,
    Readers,
    Stored,
    dense,
    fold,
    plain,
    read_headers,
)
from moee_index.model.nf4.parameters import check_shape, four_bit_home, owner
from moee_index.model.nf4.quantize import BLOCK
from moee_index.text import shown

_FORMATS = {BITSANDBYTES: bitsandbytes.FORMAT, FP8: fp8.FORMAT, MXFP4: mxfp4.FORMAT}

# Names of the statistics of quantised weights, whatever the method.
_STATISTIC = re.compile(
    r"(scales?|scale_inv|_blocks|\.absmax|\.quant_map|\.SCB|\.q?zeros|\.qweight|\.g_idx"
    r"|weight_packed|weight_shape|\.codebooks?|quant_state\.\w+)$"
)


# What wrappers put into the names of a model's tensors.
_WRAPPERS = {
    "module.": "DataParallel and DistributedDataParallel",
    "_orig_mod.": "torch.compile",
    "_fsdp_wrapped_module.": "FSDP",
    "base_model.model.": "PEFT",
}


@dataclass(frozen=True)
class Source:
    """One tensor of a checkpoint and the part of its target that it fills.

    first: the full model's name of the converter's first target, under which a converter that
    makes several tensors is looked up.
    """

    stored: Stored
    pattern: str | None
    converter: Any | None
    first: str

    @property
    def key(self) -> str:
        return self.stored.key

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stored.shape

    @property
    def bytes(self) -> int:
        return self.stored.bytes


class Piece(NamedTuple):
    """Rows row… of one matrix of a target: `part` [rows, cols], or a whole plain tensor. What came
    quantised still is."""

    matrix: int
    row: int
    part: Part


def plan_sources(
    checkpoint: Checkpoint, plan: ModelPlan, shapes: dict[str, tuple[int, ...]], readers: Readers
) -> dict[str, list[Source]]:
    """Target name -> the tensors of the checkpoint that make it, from the headers alone.

    Raises ModelError naming a tensor that is unexpected, unreadable or missing.
    """
    with config_errors(checkpoint):
        rename = _renaming(plan.naming)
    tensors = _stored_tensors(checkpoint, readers)
    _check_wrapped(tensors, checkpoint)
    sources: dict[str, list[Source]] = defaultdict(list)
    unexpected: list[str] = []
    for key, stored in tensors.items():
        pattern, converter, names = rename(key)
        targets = [
            target for name in names if (target := plan.naming.in_text_model(name)) is not None
        ]
        if names[0].startswith("lm_head."):
            continue
        if any(target not in shapes for target in targets):
            unexpected.append(key)
            continue
        for target in targets:
            _check_readable(stored, plan.model, target, checkpoint)
            sources[target].append(Source(stored, pattern, converter, names[0]))
    _check_unexpected(unexpected, tensors, plan.naming, checkpoint)
    missing = sorted(set(shapes) - set(sources))
    if missing:
        raise ModelError(
            f"{checkpoint.path}: {len(missing)} tensors are missing, the first is {missing[0]!r}; "
            "the checkpoint is incomplete or config.json describes another model"
        )
    return sources


def _check_wrapped(keys: Collection[str], checkpoint: Checkpoint) -> None:
    """Raise ModelError for a model that was saved inside of a wrapper."""
    for part, title in _WRAPPERS.items():
        wrapped = [key for key in keys if _is_wrapped(key, part)]
        if 2 * len(wrapped) > len(keys):
            raise ModelError(
                f"{checkpoint.path}: its tensors are named as {title} names them "
                f"({shown(wrapped[0])!r}); save the model inside of it, or rename the tensors "
                f"without {part!r}"
            )


def _is_wrapped(key: str, part: str) -> bool:
    """Whether the whole model was wrapped or, where the part cannot be a name of anything else, a
    module in it."""
    return key.startswith(part) or (part.startswith("_") and f".{part}" in key)


def _renaming(naming: Naming) -> Callable[[str], tuple[str | None, Any | None, list[str]]]:
    """A function from a name on disk to the pattern and converter that apply to it, if any, and to
    the full model's names of what it makes."""
    WeightConverter, WeightRenaming, rename_source_key = (
        internal("transformers", "transformers.core_model_loading", name)
        for name in ("WeightConverter", "WeightRenaming", "rename_source_key")
    )
    renamings = [entry for entry in naming.conversions if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in naming.conversions if isinstance(entry, WeightConverter)]
    by_pattern = {pattern: entry for entry in converters for pattern in entry.source_patterns}
    names = dict(naming.names)

    def rename(key: str) -> tuple[str | None, Any | None, list[str]]:
        renamed, pattern = rename_source_key(key, renamings, converters, naming.prefix, names)
        if renamed not in names and key in names:  # already named as in the model
            renamed, pattern = key, None
        if pattern is None:
            return None, None, [renamed]
        return pattern, by_pattern[pattern], targets_of(by_pattern[pattern], renamed)

    return rename


def _check_unexpected(
    unexpected: list[str], keys: Collection[str], naming: Naming, checkpoint: Checkpoint
) -> None:
    """Raise ModelError for tensors without a target, unless they belong to a head or are ignored.

    In a checkpoint with a head, the base model's tensors carry its prefix; the rest is the head.
    """
    prefix = f"{naming.prefix}."
    headed = any(key.startswith(prefix) for key in keys)
    ignored = [re.compile(pattern) for pattern in (*naming.ignored, r"rotary_emb\.inv_freq$")]
    excess = [
        key
        for key in unexpected
        if (key.startswith(prefix) or not headed)
        and not key.startswith("lm_head.")
        and not any(pattern.search(key) for pattern in ignored)
    ]
    if not excess:
        return
    statistics = [key for key in excess if _STATISTIC.search(key)]
    if statistics and checkpoint.source is None:
        raise ModelError(
            f"{checkpoint.path}: {statistics[0]!r} belongs to quantised weights, but config.json "
            f"has no 'quantization_config' that says how to read them; {ADVICE}"
        )
    raise ModelError(
        f"{checkpoint.path}: {len(excess)} unexpected tensors, the first is {excess[0]!r}; "
        "config.json describes another model"
    )


def _stored_tensors(checkpoint: Checkpoint, readers: Readers) -> dict[str, Stored]:
    """The tensors of a checkpoint under the names a model has for them."""
    headers = read_headers(readers)
    if checkpoint.source is None:
        return {key: plain(header) for key, header in headers.items()}
    return fold(headers, readers, checkpoint.source, _FORMATS[checkpoint.source.kind])


def _check_readable(stored: Stored, model: Any, target: str, checkpoint: Checkpoint) -> None:
    """Raise ModelError for weights of a type that means nothing without scales."""
    dtype = stored.members[0].dtype
    if not stored.plain or dtype in FLOATS:
        return
    if four_bit_home(model, target) is None:
        module, attribute = owner(model, target)
        if not getattr(module, attribute).is_floating_point() and not dtype.startswith("F8"):
            return  # a buffer of numbers
    raise ModelError(
        f"{checkpoint.path}: {stored.key!r} is stored as {dtype}, and nothing says how to read "
        f"that; {ADVICE}"
    )


def pieces(
    target: str,
    shape: tuple[int, ...],
    sources: list[Source],
    readers: Readers,
    plan: ModelPlan,
) -> Iterator[Piece]:
    """The pieces that together make one target.

    A plain tensor is one piece (0, 0, tensor). Stacks of experts come expert by expert, and an
    expert's gate and up projection one after the other.
    """
    converter = sources[0].converter
    if converter is None:
        (source,) = _single(target, sources)
        check_shape(target, source.key, source.shape, shape)
        if len(shape) < 3:
            yield Piece(0, 0, source.stored.whole(readers))
            return
        for index in range(shape[0]):
            yield Piece(index, 0, source.stored.read(readers, index))
        return
    names = [type(operation).__name__ for operation in converter.operations]
    dims = [operation.dim for operation in converter.operations if hasattr(operation, "dim")]
    streamable = len(converter.target_patterns) == 1 and (
        (names == ["MergeModulelist"] and dims == [0])
        or (names == ["MergeModulelist", "Concatenate"] and dims == [0, 1])
    )
    if streamable:
        stack = four_bit_home(plan.model, target)
        turned = stack is not None and stack.turned
        yield from _expert_parts(target, shape, sources, readers, converter, whole=turned)
        return
    whole = _converted(target, sources, readers, converter, plan.naming)
    check_shape(target, sources[0].key, tuple(whole.shape), shape)
    if len(shape) < 3:
        yield Piece(0, 0, whole)
    else:
        for index in range(shape[0]):
            yield Piece(index, 0, whole[index])


def _expert_parts(
    target: str,
    shape: tuple[int, ...],
    sources: list[Source],
    readers: Readers,
    converter: Any,
    *,
    whole: bool,
) -> Iterator[Piece]:
    """whole: an expert's gate and up come in one piece, not apart."""
    count, rows, cols = shape
    patterns = converter.source_patterns
    part_rows = rows // len(patterns)
    by_part: dict[tuple[int, int], Source] = {}
    for source in sources:
        assert source.pattern is not None
        number = _expert_number(source.key, source.pattern)
        check_shape(target, source.key, source.shape, (part_rows, cols))
        by_part[number, patterns.index(source.pattern)] = source
    expected = {(expert, part) for expert in range(count) for part in range(len(patterns))}
    if by_part.keys() != expected:
        expert, part = difference = sorted(by_part.keys() ^ expected)[0]
        problem = "is missing" if difference in expected else "is unexpected"
        raise ModelError(
            f"{target}: {patterns[part].replace('*', str(expert))} {problem}; "
            f"config.json has {count} experts"
        )
    whole = whole or (part_rows * cols) % BLOCK != 0
    for expert in range(count):
        parts = [
            source.stored.whole(readers)
            for part in range(len(patterns))
            if (source := by_part[expert, part])
        ]
        if whole:
            yield Piece(expert, 0, torch.cat([dense(part) for part in parts]))
            continue
        for part, tensor in enumerate(parts):
            yield Piece(expert, part * part_rows, tensor)


def _expert_number(key: str, pattern: str) -> int:
    match = re.search(pattern.replace("*.", r"(?P<number>\d+)\."), key)
    if match is None:
        raise ModelError(f"{key} has no expert number where {pattern} has one")
    return int(match.group("number"))


def _converted(
    target: str, sources: list[Source], readers: Readers, converter: Any, naming: Naming
) -> torch.Tensor:
    """Any other conversion, by transformers' own operations on the whole tensor."""
    from copy import deepcopy

    filled = deepcopy(converter)
    for source in sorted(sources, key=lambda source: _natural(source.key)):
        tensor = dense(source.stored.whole(readers))
        filled.collected_tensors[source.pattern].append(lambda tensor=tensor: tensor)
    try:
        converted = filled.convert(sources[0].first, model=naming, config=naming.config)
    except Exception as error:  # its operations check nothing themselves
        if lacks_memory(error):
            raise
        raise ModelError(
            f"{target}: transformers cannot make it of {sources[0].key} {list(sources[0].shape)} "
            f"({first_line(error)}); config.json describes another model"
        ) from error
    value = converted[naming.in_full_model(target)]
    return value[0] if isinstance(value, list) else value  # type: ignore[no-any-return]


def _natural(key: str) -> list[tuple[int, str]]:
    """A sort key that orders numbers in a name by value."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in key.split(".")]


def _single(target: str, sources: list[Source]) -> list[Source]:
    if len(sources) != 1:
        raise ModelError(f"{target} is on disk twice: as {sources[0].key} and as {sources[1].key}")
    return sources
