"""Which tensor on disk is which part of which tensor of a model, from the files' headers alone.

Missing, unexpected and misshapen tensors are errors by name before a weight is read; then pieces
are handed out one by one, so that no more than one slice is ever in memory. What a checkpoint has
quantised is one tensor here, whatever it is made of on disk (`checkpoint/`), and is handed out as
it was read.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from moee_index.dependencies import internal
from moee_index.errors import ModelError
from moee_index.model.checkpoint import bitsandbytes as from_bitsandbytes
from moee_index.model.checkpoint import fp8 as from_fp8
from moee_index.model.checkpoint import mxfp4 as from_mxfp4
from moee_index.model.checkpoint.find import Checkpoint
from moee_index.model.checkpoint.keys import naming_of, targets_of
from moee_index.model.checkpoint.quant_config import ADVICE, BITSANDBYTES, FP8, MXFP4, SourceFormat
from moee_index.model.checkpoint.tensors import (
    FLOATS,
    Headers,
    Part,
    Readers,
    Stored,
    dense,
    plain,
    read_headers,
)
from moee_index.model.nf4.parameters import check_shape, four_bit_home, owner
from moee_index.model.nf4.quantize import BLOCK

_FOLDS: dict[str, Callable[[Headers, Readers, SourceFormat], dict[str, Stored]]] = {
    BITSANDBYTES: from_bitsandbytes.fold,
    FP8: from_fp8.fold,
    MXFP4: from_mxfp4.fold,
}

# How statistics of quantised weights are named, by whatever method.
_STATISTIC = re.compile(
    r"(scales?|scale_inv|_blocks|\.absmax|\.quant_map|\.SCB|\.q?zeros|\.qweight|\.g_idx"
    r"|weight_packed|weight_shape|\.codebooks?|quant_state\.\w+)$"
)


@dataclass(frozen=True)
class Source:
    """One tensor of a checkpoint and the part of its target that it fills.

    first: the whole model's name of the converter's first target; converters that make several
    tensors are asked by it.
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
    """Rows row… of one matrix of a target: `part` [rows, cols], or a whole plain tensor; still
    quantised where it came so."""

    matrix: int
    row: int
    part: Part


def plan_sources(
    checkpoint: Checkpoint, model: Any, shapes: dict[str, tuple[int, ...]], readers: Readers
) -> dict[str, list[Source]]:
    """target name -> the tensors of the checkpoint that make it, from the headers alone."""
    WeightConverter, WeightRenaming, rename_source_key = (
        internal("transformers", "transformers.core_model_loading", name)
        for name in ("WeightConverter", "WeightRenaming", "rename_source_key")
    )
    naming = naming_of(model)
    renamings = [entry for entry in naming.conversions if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in naming.conversions if isinstance(entry, WeightConverter)]
    by_pattern = {pattern: entry for entry in converters for pattern in entry.source_patterns}
    prefix, names = naming.prefix, dict(naming.names)
    ignored = [re.compile(pattern) for pattern in (*naming.ignored, r"rotary_emb\.inv_freq$")]

    plan: dict[str, list[Source]] = defaultdict(list)
    unexpected: list[str] = []
    headed = False
    for key, stored in _stored_tensors(checkpoint, readers).items():
        headed = headed or key.startswith(f"{prefix}.")
        renamed, pattern = rename_source_key(key, renamings, converters, prefix, names)
        if renamed not in names and key in names:  # named as the model is already
            renamed, pattern = key, None
        converter = by_pattern[pattern] if pattern is not None else None
        made = [renamed] if converter is None else targets_of(converter, renamed)
        targets = [target for one in made if (target := naming.own(one)) is not None]
        if renamed.startswith("lm_head."):
            continue
        if any(target not in shapes for target in targets):
            unexpected.append(key)
            continue
        for target in targets:
            _check_readable(stored, model, target, checkpoint)
            plan[target].append(Source(stored, pattern, converter, made[0]))
    # In a checkpoint with a head, the base model's tensors carry its prefix; the rest is the head.
    wrong = [
        key
        for key in unexpected
        if (key.startswith(f"{prefix}.") or not headed)
        and not key.startswith("lm_head.")
        and not any(pattern.search(key) for pattern in ignored)
    ]
    if wrong and checkpoint.source is None and any(map(_STATISTIC.search, wrong)):
        first = next(key for key in wrong if _STATISTIC.search(key))
        raise ModelError(
            f"{checkpoint.path}: {first!r} belongs to quantised weights, but config.json has no "
            f"'quantization_config' that says how to read them; {ADVICE}"
        )
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


def _stored_tensors(checkpoint: Checkpoint, readers: Readers) -> dict[str, Stored]:
    """The tensors of a checkpoint by the names a model knows them by."""
    headers = read_headers(readers)
    if checkpoint.source is None:
        return {key: plain(header) for key, header in headers.items()}
    return _FOLDS[checkpoint.source.kind](headers, readers, checkpoint.source)


def _check_readable(stored: Stored, model: Any, target: str, checkpoint: Checkpoint) -> None:
    """Raise ModelError for weights that are numbers no weight is, read without their scales."""
    dtype = stored.members[0].dtype
    if not stored.plain or dtype in FLOATS:
        return
    if four_bit_home(model, target) is None:
        module, attribute = owner(model, target)
        if not getattr(module, attribute).is_floating_point() and not dtype.startswith("F8"):
            return  # a buffer of numbers
    raise ModelError(
        f"{checkpoint.path}: {stored.key!r} is stored as {dtype}, and nothing says how that is to "
        f"be read; {ADVICE}"
    )


def pieces(
    target: str,
    shape: tuple[int, ...],
    sources: list[Source],
    readers: Readers,
    model: Any,
) -> Iterator[Piece]:
    """The pieces that together make one target.

    Plain tensors are one piece (0, 0, tensor); stacks of experts come expert by expert, and an
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
        stack = four_bit_home(model, target)
        turned = stack is not None and stack.turned
        yield from _expert_parts(target, shape, sources, readers, converter, whole=turned)
        return
    whole = _converted(target, sources, readers, converter, model)
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
    """whole: an expert's matrix comes in one piece, not gate and up apart."""
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
    whole = whole or (part_rows * cols) % BLOCK != 0
    for expert in range(count):
        parts = [
            source.stored.whole(readers)
            for part in range(len(patterns))
            if (source := found[expert, part])
        ]
        if whole:
            yield Piece(expert, 0, torch.cat([dense(part) for part in parts]))
            continue
        for part, tensor in enumerate(parts):
            yield Piece(expert, part * part_rows, tensor)


def _expert_number(key: str, pattern: str) -> int:
    match = re.search(pattern.replace("*.", r"(?P<number>\d+)\."), key)
    if match is None:
        raise ModelError(f"{key}: no expert number where {pattern} has one")
    return int(match.group("number"))


def _converted(
    target: str, sources: list[Source], readers: Readers, converter: Any, model: Any
) -> torch.Tensor:
    """Any other conversion, by transformers' own operations on the whole tensor."""
    from copy import deepcopy

    own = deepcopy(converter)
    for source in sorted(sources, key=lambda one: _natural(one.key)):
        tensor = dense(source.stored.whole(readers))
        own.collected_tensors[source.pattern].append(lambda tensor=tensor: tensor)
    naming = naming_of(model)
    made = own.convert(sources[0].first, model=naming, config=naming.config)
    value = made[naming.whole(target)]
    return value[0] if isinstance(value, list) else value  # type: ignore[no-any-return]


def _natural(key: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in key.split(".")]


def _single(target: str, sources: list[Source]) -> list[Source]:
    if len(sources) != 1:
        raise ModelError(f"{target} is on disk twice: as {sources[0].key} and as {sources[1].key}")
    return sources
