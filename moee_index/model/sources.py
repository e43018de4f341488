"""Which tensor on disk is which part of which tensor of a model, from the files' headers alone.

Knows safetensors and transformers' tables of renamings and conversions. Missing, unexpected and
misshapen tensors are errors by name before a weight is read; then pieces are handed out one by
one, so that no more than one slice is ever in memory. Knows no quantisation.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open

from moee_index.errors import ModelError
from moee_index.model.architecture import conversions_of
from moee_index.model.checkpoint import Checkpoint
from moee_index.model.placing import check_shape
from moee_index.model.quantizer import BLOCK


@dataclass(frozen=True)
class Source:
    """One tensor on disk and the part of its target that it fills."""

    file: Path
    key: str
    shape: tuple[int, ...]
    bytes: int
    pattern: str | None
    converter: Any | None


class Piece(NamedTuple):
    """Rows row… of one matrix of a target: `part` [rows, cols], or a whole plain tensor."""

    matrix: int
    row: int
    part: torch.Tensor


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


def pieces(
    target: str,
    shape: tuple[int, ...],
    sources: list[Source],
    readers: dict[Path, Any],
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
            yield Piece(0, 0, readers[source.file].get_tensor(source.key))
            return
        slices = readers[source.file].get_slice(source.key)
        for index in range(shape[0]):
            yield Piece(index, 0, slices[index : index + 1][0])
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
        yield Piece(0, 0, whole)
    else:
        for index in range(shape[0]):
            yield Piece(index, 0, whole[index])


def _expert_parts(
    target: str,
    shape: tuple[int, ...],
    sources: list[Source],
    readers: dict[Path, Any],
    converter: Any,
) -> Iterator[Piece]:
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
            yield Piece(expert, 0, torch.cat(parts))
            continue
        for part, tensor in enumerate(parts):
            yield Piece(expert, part * part_rows, tensor)


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


def _single(target: str, sources: list[Source]) -> list[Source]:
    if len(sources) != 1:
        raise ModelError(f"{target} is on disk twice: as {sources[0].key} and as {sources[1].key}")
    return sources
